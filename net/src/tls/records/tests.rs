use std::io::{Read, Write};
use std::sync::Arc;

use proptest::prelude::*;
use rustls::{ClientConfig, ClientConnection};

use super::*;
use crate::tls::tests::{Hub, VERSIONS, records, shared_hub};

/// A rustls client behind its handshake, and the records that talk to it.
struct Pair {
    client: ClientConnection,
    records: Records,
}

impl Records {
    /// As if so many more records could be sent with the key.
    pub(in crate::tls) fn limit_to(&mut self, count: u64) {
        self.sent_max = self.sending.sequence + count;
    }
}

impl Pair {
    fn new(config: &Arc<ClientConfig>, hub: &Hub) -> Self {
        let (client, session) = hub.open_with(config);
        Self { client, records: session.into_records() }
    }

    /// What the client has to send, opened.
    fn up(&mut self) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        let (mut received, mut wire) = (Vec::new(), Vec::new());
        let taken =
            self.records.open(&mut bytes, &mut wire, |plaintext| received.extend_from_slice(plaintext))?;
        assert_eq!(taken, bytes.len());
        Ok((received, wire))
    }

    /// What the client makes of `wire`.
    fn down(&mut self, mut wire: &[u8]) -> Result<Vec<u8>, Error> {
        let mut understood = Vec::new();
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).unwrap();
            self.client.process_new_packets()?;
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = self.client.reader().read(&mut bytes) {
                understood.extend_from_slice(&bytes[..count]);
            }
        }
        Ok(understood)
    }

    fn say(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        self.records.seal(plaintext, &mut wire).unwrap();
        wire
    }

    /// A record as the peer would send it, with any content.
    fn forge(&mut self, kind: u8, plaintext: &[u8]) -> Vec<u8> {
        let keys = &mut self.records.receiving;
        let (sequence, is_tls13) = (keys.sequence, self.records.renewal.is_some());
        let mut record = Vec::new();
        keys.protect(&keys.cipher(), kind, plaintext, is_tls13, &mut record).unwrap();
        keys.sequence = sequence;
        record
    }

    /// The outcome of a record that the peer might send, and what it is told.
    fn open(&mut self, record: &[u8]) -> (Result<usize, Error>, Vec<u8>) {
        let mut wire = Vec::new();
        let result = self.records.open(&mut record.to_vec(), &mut wire, |_| {});
        (result, wire)
    }
}

/// Every suite that the hub takes, by a client that knows no other.
fn each_suite(mut run: impl FnMut(&mut Pair, SupportedCipherSuite)) {
    let hub = shared_hub();
    let suites = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    let usable = suites.iter().filter(|suite| {
        // The hub's key is an ECDSA key.
        !format!("{:?}", suite.suite()).contains("RSA")
    });
    let mut count = 0;
    for suite in usable {
        let mut pair = Pair::new(&hub.client_config_with(VERSIONS, &[*suite]), hub);
        assert_eq!(pair.records.suite().suite(), suite.suite());
        run(&mut pair, *suite);
        count += 1;
    }
    assert_eq!(count, 6, "three for each version");
}

#[test]
fn every_suite_carries_bytes_both_ways() {
    each_suite(|pair, suite| {
        for length in [1usize, 255, 16 * 1024, 16 * 1024 + 1, 50_000] {
            let text: Vec<u8> = (0..length).map(|index| (index * 7 + index / 251) as u8).collect();
            pair.client.writer().write_all(&text).unwrap();
            let (received, wire) = pair.up().unwrap();
            assert!(received == text && wire.is_empty(), "{suite:?} {length}");
            let wire = pair.say(&text);
            assert_eq!(records(&wire).len(), length.div_ceil(16 * 1024));
            assert!(pair.down(&wire).unwrap() == text, "{suite:?} {length}");
        }
    });
}

#[test]
fn a_broken_bit_anywhere_is_found() {
    each_suite(|pair, suite| {
        pair.client.writer().write_all(b"a message").unwrap();
        let mut record = Vec::new();
        pair.client.write_tls(&mut record).unwrap();
        for at in HEADER_BYTES..record.len() {
            let mut broken = record.clone();
            broken[at] ^= 4;
            let (result, _) = pair.open(&broken);
            assert_eq!(result, Err(Error::DecryptError), "{suite:?} at {at}");
        }
        // Its number is part of what is vouched for.
        pair.records.receiving.sequence += 1;
        assert_eq!(pair.open(&record).0, Err(Error::DecryptError), "{suite:?}");
        pair.records.receiving.sequence -= 1;
        assert_eq!(pair.open(&record).0, Ok(record.len()), "{suite:?}");
        assert_eq!(pair.open(&record).0, Err(Error::DecryptError), "{suite:?} twice");
    });
}

#[test]
fn a_client_may_renew_its_keys_and_ask_for_ours() {
    let hub = shared_hub();
    let mut pair = Pair::new(&hub.client_config(&rustls::version::TLS13), hub);
    for round in 0..3 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(b"under the next key").unwrap();
        let (received, wire) = pair.up().unwrap();
        assert_eq!(received, b"under the next key", "round {round}");
        assert_eq!(records(&wire).len(), 1, "the answer announces ours");
        assert_eq!(pair.records.sending.sequence, 0);
        let more = pair.say(b"and back");
        assert_eq!(pair.down(&[wire, more].concat()).unwrap(), b"and back", "round {round}");
    }
}

#[test]
fn keys_are_renewed_before_they_are_used_up() {
    let hub = shared_hub();
    let mut pair = Pair::new(&hub.client_config(&rustls::version::TLS13), hub);
    assert_eq!(pair.records.sent_max, 1 << 24);
    let text = vec![7; 4 * 16 * 1024];
    // Two under the first key and its last word; two under the second.
    pair.records.limit_to(3);
    let wire = pair.say(&text);
    assert_eq!(records(&wire).len(), 5);
    assert_eq!(pair.records.sending.sequence, 2);
    assert!(!pair.records.is_nearly_exhausted(), "never, with keys that can be renewed");
    assert!(pair.down(&wire).unwrap() == text);
}

#[test]
fn too_many_renewals_without_data_are_refused() {
    let hub = shared_hub();
    let mut pair = Pair::new(&hub.client_config(&rustls::version::TLS13), hub);
    for _ in 0..KEY_UPDATES_MAX {
        let record = pair.forge(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0]);
        pair.open(&record).0.unwrap();
    }
    let record = pair.forge(APPLICATION_DATA, b"data");
    pair.open(&record).0.unwrap();
    for _ in 0..KEY_UPDATES_MAX {
        let record = pair.forge(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1]);
        let (result, wire) = pair.open(&record);
        result.unwrap();
        assert_eq!(records(&wire).len(), 1);
    }
    let record = pair.forge(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1]);
    assert_eq!(pair.open(&record).0, Err(PeerMisbehaved::TooManyKeyUpdateRequests.into()));
}

#[test]
fn too_many_records_with_nothing_in_them_are_refused() {
    each_suite(|pair, suite| {
        let empty = |pair: &mut Pair| {
            let record = pair.forge(APPLICATION_DATA, b"");
            pair.open(&record).0
        };
        (0..EMPTY_RECORDS_MAX).for_each(|_| assert!(empty(pair).is_ok()));
        let record = pair.forge(APPLICATION_DATA, b"data");
        pair.open(&record).0.unwrap();
        (0..EMPTY_RECORDS_MAX).for_each(|_| assert!(empty(pair).is_ok()));
        assert_eq!(empty(pair), Err(PeerMisbehaved::TooManyEmptyFragments.into()), "{suite:?}");
    });
}

#[test]
fn another_handshake_is_refused() {
    let hub = shared_hub();
    let mut pair = Pair::new(&hub.client_config(&rustls::version::TLS12), hub);
    let hello = pair.forge(HANDSHAKE, &[CLIENT_HELLO, 0, 0, 2, 3, 3]);
    let (result, wire) = pair.open(&hello);
    result.unwrap();
    assert_eq!(records(&wire), [(ALERT, EXPLICIT_NONCE_BYTES + 2 + 16)], "a warning");
    let hello = pair.forge(HANDSHAKE, &[CLIENT_HELLO, 0, 0, 2, 3, 3]);
    assert_eq!(pair.open(&hello).0, Err(PeerMisbehaved::TooManyRenegotiationRequests.into()));
    for version in VERSIONS {
        let mut pair = Pair::new(&hub.client_config(version), hub);
        // A certificate request, a KeyUpdate with something behind it, one that is cut.
        for message in [&[13, 0, 0, 0][..], &[KEY_UPDATE, 0, 0, 1, 0, 0], &[KEY_UPDATE, 0, 0], &[]] {
            let record = pair.forge(HANDSHAKE, message);
            let (result, wire) = pair.open(&record);
            assert_eq!(result, Err(unexpected(HANDSHAKE)), "{version:?} {message:?}");
            assert!(pair.down(&wire).is_err(), "the alert is understood");
            pair = Pair::new(&hub.client_config(version), hub);
        }
    }
}

#[test]
fn alerts_end_a_session_or_are_borne() {
    let hub = shared_hub();
    for version in VERSIONS {
        let config = hub.client_config(version);
        let mut pair = Pair::new(&config, hub);
        for _ in 0..WARNINGS_MAX {
            let record = pair.forge(ALERT, &[WARNING, 90]);
            pair.open(&record).0.unwrap();
        }
        let record = pair.forge(ALERT, &[WARNING, 90]);
        assert_eq!(pair.open(&record).0, Err(PeerMisbehaved::TooManyWarningAlertsReceived.into()));

        let mut pair = Pair::new(&config, hub);
        let record = pair.forge(ALERT, &[FATAL, 80]);
        let (result, wire) = pair.open(&record);
        assert_eq!(result, Err(Error::AlertReceived(AlertDescription::InternalError)));
        assert!(wire.is_empty(), "it has ended the session itself");

        let mut pair = Pair::new(&config, hub);
        let mut bytes = pair.forge(ALERT, &[WARNING, 0]);
        bytes.extend_from_slice(b"what is behind a close is not looked at");
        assert_eq!(pair.open(&bytes).0, Ok(bytes.len()));
        assert!(pair.records.is_peer_closed());
        assert_eq!(pair.open(b"nor is what comes later").0, Ok(23));
    }
}

#[test]
fn records_that_nobody_may_send_are_refused() {
    let hub = shared_hub();
    for version in VERSIONS {
        let config = hub.client_config(version);
        let cases: [(&[u8], Error); 4] = [
            (&[24, 3, 3, 0, 1, 0], InvalidMessage::InvalidContentType.into()),
            (b"GET / HTTP/1.1\r\n", InvalidMessage::InvalidContentType.into()),
            (&[23, 2, 0, 0, 1, 0], InvalidMessage::UnknownProtocolVersion.into()),
            (&[23, 3, 3, 0x48, 1], Error::PeerSentOversizedRecord),
        ];
        for (bytes, error) in cases {
            let mut pair = Pair::new(&config, hub);
            let (result, wire) = pair.open(bytes);
            assert_eq!(result, Err(error));
            assert!(pair.down(&wire).is_err(), "the alert is understood");
        }
        let mut pair = Pair::new(&config, hub);
        let record = pair.forge(APPLICATION_DATA, &vec![1; PLAINTEXT_BYTES_MAX + 1]);
        assert_eq!(pair.open(&record).0, Err(Error::PeerSentOversizedRecord));
        let mut pair = Pair::new(&config, hub);
        let record = pair.forge(CHANGE_CIPHER_SPEC, &[1]);
        assert_eq!(pair.open(&record).0, Err(unexpected(CHANGE_CIPHER_SPEC)));
    }
    let mut pair = Pair::new(&hub.client_config(&rustls::version::TLS13), hub);
    assert_eq!(pair.open(&[20, 3, 3, 0, 1, 1]).0, Err(unexpected(CHANGE_CIPHER_SPEC)), "in the clear");
    let record = pair.forge(0, &[]);
    assert_eq!(pair.open(&record).0, Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into()));
    let mut pair = Pair::new(&hub.client_config(&rustls::version::TLS13), hub);
    // Padding is taken off.
    let record = pair.forge(0, b"text\x17\0\0\0");
    let mut received = Vec::new();
    let mut bytes = record.clone();
    pair.records
        .open(&mut bytes, &mut Vec::new(), |plaintext| received.extend_from_slice(plaintext))
        .unwrap();
    assert_eq!(received, b"text");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes come: never a panic, never plaintext, never more taken than there is.
    #[test]
    fn noise_is_refused_or_waited_for(version in 0..2usize, noise in proptest::collection::vec(any::<u8>(), 0..200), is_record in any::<bool>()) {
        let hub = shared_hub();
        let mut pair = Pair::new(&hub.client_config(VERSIONS[version]), hub);
        let mut bytes = noise;
        if is_record && bytes.len() >= HEADER_BYTES {
            let length = (bytes.len() - HEADER_BYTES) as u16;
            bytes[0] = 20 + bytes[0] % 4;
            bytes[1] = 3;
            bytes[3..5].copy_from_slice(&length.to_be_bytes());
        }
        let mut wire = Vec::new();
        let result = pair.records.open(&mut bytes, &mut wire, |plaintext| panic!("{plaintext:?}"));
        if let Ok(taken) = result {
            prop_assert_eq!(taken, 0);
        }
    }
}
