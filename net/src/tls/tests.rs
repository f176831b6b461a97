use std::io::{Read, Write};

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::certificate::{Certificates, Name};

/// A hub's certificate in a directory of its own.
pub(super) struct Hub {
    _directory: tempfile::TempDir,
    certificates: Certificates,
    acceptor: Acceptor,
}

impl Hub {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let certificates = Certificates::new(directory.path());
        certificates.prepare(&[Name::parse("localhost").unwrap()], now_s()).unwrap();
        let (chain, key) = certificates.load().unwrap();
        let acceptor = Acceptor::new(&chain, &key).unwrap();
        Self { _directory: directory, certificates, acceptor }
    }

    pub(super) fn client_config(
        &self,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        self.client_config_with([version], &aws_lc_rs::default_provider().cipher_suites)
    }

    /// A client of these versions and suites alone.
    pub(super) fn client_config_with<const N: usize>(
        &self,
        versions: [&'static rustls::SupportedProtocolVersion; N],
        suites: &[SupportedCipherSuite],
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&std::fs::read(self.certificates.ca_path()).unwrap()).unwrap() {
            roots.add(certificate).unwrap();
        }
        let is_served = |version: &&'static rustls::SupportedProtocolVersion| {
            suites.iter().any(|suite| suite.version() == *version)
        };
        let versions: Vec<_> = versions.into_iter().filter(is_served).collect();
        let provider = CryptoProvider { cipher_suites: suites.to_vec(), ..aws_lc_rs::default_provider() };
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    /// A client and a session behind their handshake.
    pub(super) fn open_with(&self, config: &Arc<ClientConfig>) -> (ClientConnection, Session) {
        let pair = Pair::opened(self, config, usize::MAX);
        (pair.client, pair.session)
    }
}

impl Session {
    pub(super) fn into_records(self) -> Records {
        match self.phase {
            Phase::Open(records) => records,
            Phase::Handshake(_) | Phase::Failed => panic!("not open"),
        }
    }
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

pub(super) const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

/// A client and a session face to face, with bytes crossing `chunk` at a time.
struct Pair {
    client: ClientConnection,
    session: Session,
    chunk: usize,
    /// What the server understood.
    received: Vec<u8>,
    /// What the client understood.
    client_received: Vec<u8>,
}

impl Pair {
    fn new(hub: &Hub, config: &Arc<ClientConfig>, chunk: usize) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(config.clone(), name).unwrap();
        let session = hub.acceptor.open().unwrap();
        Self { client, session, chunk, received: Vec::new(), client_received: Vec::new() }
    }

    fn opened(hub: &Hub, config: &Arc<ClientConfig>, chunk: usize) -> Self {
        let mut pair = Self::new(hub, config, chunk);
        pair.exchange().unwrap();
        assert!(!pair.client.is_handshaking() && pair.session.is_open());
        pair
    }

    /// Carry bytes both ways until neither side has any.
    fn exchange(&mut self) -> Result<(), TlsError> {
        loop {
            let mut to_server = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut to_server).unwrap();
            }
            if to_server.is_empty() {
                return Ok(());
            }
            for chunk in to_server.chunks(self.chunk) {
                let mut wire = Vec::new();
                let result = give(&mut self.session, chunk, &mut wire, &mut self.received);
                self.deliver(&wire);
                result?;
            }
        }
    }

    fn deliver(&mut self, wire: &[u8]) {
        for chunk in wire.chunks(self.chunk) {
            let mut rest = chunk;
            while !rest.is_empty() {
                self.client.read_tls(&mut rest).unwrap();
                self.client.process_new_packets().unwrap();
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = self.client.reader().read(&mut bytes) {
                    self.client_received.extend_from_slice(&bytes[..count]);
                }
            }
        }
    }

    fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        self.session.seal(plaintext, &mut wire).unwrap();
        self.deliver(&wire);
        wire
    }

    fn client_read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.client_received)
    }
}

/// One read of a socket: what was carried, then what is new, in one buffer.
fn give(
    session: &mut Session,
    new: &[u8],
    wire: &mut Vec<u8>,
    received: &mut Vec<u8>,
) -> Result<(), TlsError> {
    let mut scratch = session.carried().to_vec();
    scratch.extend_from_slice(new);
    session.handle_input(&mut scratch, wire, |plaintext| received.extend_from_slice(plaintext))
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index * 7 + index / 251) as u8).collect()
}

/// The content types and lengths of the records in `wire`.
pub(super) fn records(mut wire: &[u8]) -> Vec<(u8, usize)> {
    let mut records = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = wire {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        records.push((*kind, length));
        wire = &rest[length..];
    }
    assert!(wire.is_empty());
    records
}

#[test]
fn both_versions_carry_bytes_however_they_are_cut() {
    let hub = Hub::new();
    for version in VERSIONS {
        let config = hub.client_config(version);
        for chunk in [1, 7, 1000, usize::MAX] {
            let mut pair = Pair::opened(&hub, &config, chunk);
            let up = pattern(40_000);
            pair.client.writer().write_all(&up[..33]).unwrap();
            pair.exchange().unwrap();
            pair.client.writer().write_all(&up[33..]).unwrap();
            pair.exchange().unwrap();
            assert_eq!(pair.received, up, "{version:?} in chunks of {chunk}");
            let down = pattern(50_000);
            pair.seal(&down);
            assert_eq!(pair.client_read(), down, "{version:?} in chunks of {chunk}");
            assert_eq!(pair.session.carry.capacity(), 0, "an idle session keeps no buffer");
        }
    }
}

/// Data and a new key right behind the client's last word, in the same packet.
#[test]
fn what_comes_with_the_end_of_the_handshake_is_for_the_open_session() {
    let hub = Hub::new();
    for chunk in [1, 50, usize::MAX] {
        let mut pair = Pair::new(&hub, &hub.client_config(&rustls::version::TLS13), chunk);
        let (mut hello, mut wire) = (Vec::new(), Vec::new());
        pair.client.write_tls(&mut hello).unwrap();
        give(&mut pair.session, &hello, &mut wire, &mut pair.received).unwrap();
        assert!(!pair.session.is_open());
        pair.deliver(&wire);
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(b"under the second key").unwrap();
        pair.exchange().unwrap();
        assert_eq!(pair.received, b"under the second key");
        pair.seal(b"so am I");
        assert_eq!(pair.client_read(), b"so am I");
    }
}

#[test]
fn a_turn_is_one_record_where_it_fits() {
    let hub = Hub::new();
    for version in VERSIONS {
        let mut pair = Pair::opened(&hub, &hub.client_config(version), usize::MAX);
        assert_eq!(records(&pair.seal(&pattern(16 * 1024))).len(), 1);
        assert_eq!(records(&pair.seal(&pattern(16 * 1024 + 1))).len(), 2);
        assert!(pair.seal(&[]).is_empty());
    }
}

#[test]
fn reconnects_are_resumed_by_ticket() {
    let hub = Hub::new();
    for version in VERSIONS {
        let config = hub.client_config(version);
        let first = Pair::opened(&hub, &config, usize::MAX);
        assert!(!first.session.is_resumed());
        assert!(first.session.describe().ends_with("full"), "{}", first.session.describe());
        let second = Pair::opened(&hub, &config, 3);
        assert!(second.session.is_resumed(), "{version:?}");
        // Another run has other ticket keys.
        let other = Acceptor::new(&hub.certificates.load().unwrap().0, &hub.certificates.load().unwrap().1);
        let other = Hub { acceptor: other.unwrap(), ..Hub::new() };
        assert!(!Pair::opened(&other, &config, usize::MAX).session.is_resumed());
    }
}

#[test]
fn both_sides_say_goodbye() {
    let hub = Hub::new();
    for version in VERSIONS {
        let mut pair = Pair::opened(&hub, &hub.client_config(version), usize::MAX);
        pair.client.writer().write_all(b"last").unwrap();
        pair.client.send_close_notify();
        pair.exchange().unwrap();
        assert!(pair.session.is_peer_closed());
        assert_eq!(pair.received, b"last");
        let mut wire = Vec::new();
        pair.session.seal(b"bye", &mut wire).unwrap();
        pair.session.close(&mut wire);
        pair.deliver(&wire);
        assert_eq!(pair.client_read(), b"bye");
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
        assert!(matches!(pair.session.seal(b"more", &mut wire), Err(TlsError::NotOpen)));
    }
}

#[test]
fn what_is_not_tls_is_refused_with_an_alert() {
    let hub = Hub::new();
    for input in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"AMQP\x00\x01\x00\x00", &[0x16, 3, 1, 0xff, 0xff, 1]] {
        let mut session = hub.acceptor.open().unwrap();
        let (mut wire, mut received) = (Vec::new(), Vec::new());
        assert!(matches!(give(&mut session, input, &mut wire, &mut received), Err(TlsError::Peer(_))));
        assert_eq!(records(&wire), [(21, 2)]);
        assert!(received.is_empty() && !session.is_open());
        assert!(matches!(session.seal(b"x", &mut wire), Err(TlsError::NotOpen)));
    }
}

#[test]
fn a_broken_record_ends_the_session() {
    let hub = Hub::new();
    for version in VERSIONS {
        let mut pair = Pair::opened(&hub, &hub.client_config(version), usize::MAX);
        pair.client.writer().write_all(&pattern(100)).unwrap();
        let mut to_server = Vec::new();
        pair.client.write_tls(&mut to_server).unwrap();
        *to_server.last_mut().unwrap() ^= 1;
        let mut wire = Vec::new();
        let result = give(&mut pair.session, &to_server, &mut wire, &mut pair.received);
        assert!(matches!(result, Err(TlsError::Peer(_))));
        assert!(pair.received.is_empty());
        assert_eq!(records(&wire).len(), 1, "the alert");
    }
}

#[test]
fn a_client_hello_without_end_is_refused() {
    let hub = Hub::new();
    let mut session = hub.acceptor.open().unwrap();
    // A ClientHello of 60 000 bytes in records of 4096.
    let mut hello = vec![1, 0, 0xea, 0x60];
    hello.extend(pattern(60_000));
    let (mut wire, mut received, mut given) = (Vec::new(), Vec::new(), 0);
    let result = hello.chunks(4096).try_for_each(|chunk| {
        let mut record = vec![0x16, 3, 1, (chunk.len() >> 8) as u8, chunk.len() as u8];
        record.extend_from_slice(chunk);
        given += record.len();
        let result = give(&mut session, &record, &mut wire, &mut received);
        assert!(session.carried().len() <= CARRY_BYTES_MAX);
        result
    });
    assert!(matches!(result, Err(TlsError::MessageTooLarge)), "{result:?}");
    assert!(given < CARRY_BYTES_MAX + 8192);
}

#[test]
fn keys_that_cannot_be_renewed_are_not_used_up() {
    let hub = Hub::new();
    let mut pair = Pair::opened(&hub, &hub.client_config(&rustls::version::TLS12), usize::MAX);
    let Phase::Open(records) = &mut pair.session.phase else { panic!("not open") };
    records.limit_to(records::RECORDS_RESERVE + 2);
    pair.seal(b"one");
    assert!(!pair.session.is_nearly_exhausted());
    pair.seal(b"two");
    assert!(pair.session.is_nearly_exhausted());
    pair.seal(b"there is still room to say goodbye");
    let Phase::Open(records) = &mut pair.session.phase else { panic!("not open") };
    records.limit_to(1);
    let result = pair.session.seal(b"too late", &mut Vec::new());
    assert!(matches!(result, Err(TlsError::KeysExhausted)) && !pair.session.is_open());
}

#[test]
fn a_reloaded_certificate_serves_the_next_connection() {
    let hub = Hub::new();
    let config = hub.client_config(&rustls::version::TLS13);
    let mut before = Pair::opened(&hub, &config, usize::MAX);
    let old = before.client.peer_certificates().unwrap()[0].clone();
    hub.certificates
        .prepare(&["localhost", "more.example"].map(|name| Name::parse(name).unwrap()), now_s())
        .unwrap();
    let (chain, key) = hub.certificates.load().unwrap();
    let foreign_key = Hub::new().certificates.load().unwrap().1;
    assert!(hub.acceptor.replace_certificate(&chain, &foreign_key).is_err());
    assert!(hub.acceptor.replace_certificate(b"nothing", &key).is_err());
    hub.acceptor.replace_certificate(&chain, &key).unwrap();
    before.seal(b"still here");
    assert_eq!(before.client_read(), b"still here");
    let after = Pair::opened(&hub, &hub.client_config(&rustls::version::TLS13), usize::MAX);
    assert_ne!(after.client.peer_certificates().unwrap()[0], old);
}

/// One damage to a stream of bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip { at: usize, bit: u8 },
    Cut { at: usize },
    Insert { at: usize, bytes: Vec<u8> },
    Repeat { at: usize, length: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Damage::Flip { at, bit }),
        any::<usize>().prop_map(|at| Damage::Cut { at }),
        (any::<usize>(), proptest::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
        (any::<usize>(), 1..300usize).prop_map(|(at, length)| Damage::Repeat { at, length }),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let place = |at: usize| at % bytes.len();
    match damage {
        Damage::Flip { at, bit } => {
            let at = place(*at);
            bytes[at] ^= 1 << bit;
        }
        Damage::Cut { at } => bytes.truncate(place(*at)),
        Damage::Insert { at, bytes: new } => {
            let at = place(*at);
            bytes.splice(at..at, new.iter().copied());
        }
        Damage::Repeat { at, length } => {
            let at = place(*at);
            let again = bytes[at..(at + length).min(bytes.len())].to_vec();
            bytes.splice(at..at, again);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a peer sends and however it is cut: an error and a closed session at worst, never a panic, never more than
    /// was sent, and nothing kept beyond the bound.
    #[test]
    fn a_broken_peer_costs_itself_alone(
        version in 0..2usize,
        before_handshake in any::<bool>(),
        damages in proptest::collection::vec(damage(), 1..4),
        chunk in 1..2000usize,
    ) {
        let hub = shared_hub();
        let config = hub.client_config(VERSIONS[version]);
        let mut pair = if before_handshake {
            Pair::new(hub, &config, usize::MAX)
        } else {
            Pair::opened(hub, &config, usize::MAX)
        };
        pair.client.writer().write_all(&pattern(3000)).unwrap();
        let mut bytes = Vec::new();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut bytes).unwrap();
        }
        damages.iter().for_each(|damage| apply(&mut bytes, damage));
        let (mut wire, mut received) = (Vec::new(), Vec::new());
        for chunk in bytes.chunks(chunk) {
            if give(&mut pair.session, chunk, &mut wire, &mut received).is_err() {
                prop_assert!(!pair.session.is_open());
                break;
            }
            prop_assert!(pair.session.carried().len() <= CARRY_BYTES_MAX);
        }
        prop_assert!(received.len() <= 3000);
        prop_assert_eq!(&received[..], &pattern(3000)[..received.len()]);
        let _ = pair.session.seal(b"still here", &mut wire);
        pair.session.close(&mut wire);
    }
}

/// Making certificates takes longer than the cases do.
pub(super) fn shared_hub() -> &'static Hub {
    static HUB: std::sync::OnceLock<Hub> = std::sync::OnceLock::new();
    HUB.get_or_init(Hub::new)
}
