//! The records of a session whose handshake is over [RFC 8446 5, RFC 5246 6.2], opened and sealed in place.
//!
//! Between two turns a connection keeps two keys of at most 32 bytes and what the next ones are derived from. The ciphers are
//! made from them for a turn, a sixth of a microsecond each: kept, they would be 1.2 KiB that every turn of every connection
//! fetches from memory anew. See `docs/decisions/0016`.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, PeerMisbehaved,
    SupportedCipherSuite,
};

use super::TlsError;

/// Plaintext that fits into one record [RFC 8446 5.1].
const PLAINTEXT_BYTES_MAX: usize = 16 * 1024;

/// Content type, version, length.
const HEADER_BYTES: usize = 5;

/// What TLS 1.2 may add to a plaintext [RFC 5246 6.2.3]; TLS 1.3 adds less.
const RECORD_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX + 2048;

/// The part of the nonce that AES-GCM in TLS 1.2 sends along [RFC 5288 3].
const EXPLICIT_NONCE_BYTES: usize = 8;

/// So many records before a suite's limit a session asks to be ended: enough to say goodbye on every link.
pub(super) const RECORDS_RESERVE: u64 = 1 << 16;

/// So many renewals of keys without data between them are borne, as rustls does.
const KEY_UPDATES_MAX: u8 = 32;

/// So many records with nothing in them are borne, one after the other.
const EMPTY_RECORDS_MAX: u8 = 32;

/// So many warnings are borne, as rustls does.
const WARNINGS_MAX: u8 = 4;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const WARNING: u8 = 1;
const FATAL: u8 = 2;

const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE: u8 = 24;

/// Both directions of an open session.
pub(super) struct Records {
    suite: SupportedCipherSuite,
    receiving: Keys,
    sending: Keys,
    /// What the next keys are derived from. TLS 1.2 has no next ones.
    renewal: Option<Box<KernelConnection<ServerConnectionData>>>,
    /// Records that may be sent with one key.
    sent_max: u64,
    owes_key_update: bool,
    is_peer_closed: bool,
    key_updates: u8,
    empty_records: u8,
    warnings: u8,
    has_refused_renegotiation: bool,
}

impl Records {
    /// Go on where rustls has ended the handshake, with nothing left to send.
    ///
    /// # Errors
    ///
    /// [`Error`] when it has not ended.
    pub(super) fn new(connection: UnbufferedServerConnection) -> Result<Self, Error> {
        let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
        let suite = kernel.negotiated_cipher_suite();
        let (renewal, sent_max) = match suite {
            SupportedCipherSuite::Tls12(suite) => (None, suite.common.confidentiality_limit),
            SupportedCipherSuite::Tls13(suite) => {
                (Some(Box::new(kernel)), suite.common.confidentiality_limit)
            }
        };
        Ok(Self {
            suite,
            receiving: Keys::new(secrets.rx)?,
            sending: Keys::new(secrets.tx)?,
            renewal,
            sent_max,
            owes_key_update: false,
            is_peer_closed: false,
            key_updates: 0,
            empty_records: 0,
            warnings: 0,
            has_refused_renegotiation: false,
        })
    }

    /// What was negotiated.
    pub(super) fn suite(&self) -> SupportedCipherSuite {
        self.suite
    }

    /// Whether the peer has said that it sends nothing more.
    pub(super) fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    /// Whether the key, which cannot be renewed, has few records left.
    pub(super) fn is_nearly_exhausted(&self) -> bool {
        self.renewal.is_none() && self.sending.sequence >= self.sent_max.saturating_sub(RECORDS_RESERVE)
    }

    /// Decrypt the whole records at the front of `bytes` and hand the plaintext of each to `receive`. Returns the bytes taken:
    /// what is behind them is an incomplete record.
    ///
    /// # Errors
    ///
    /// The session is over; `wire` holds the alert that says so.
    pub(super) fn open(
        &mut self,
        bytes: &mut [u8],
        wire: &mut Vec<u8>,
        mut receive: impl FnMut(&[u8]),
    ) -> Result<usize, Error> {
        self.open_all(bytes, wire, &mut receive).inspect_err(|error| {
            if let Some(description) = alert_for(error) {
                // The error is what is told; that the peer hears of it is a courtesy.
                let _ = self.seal_alert(FATAL, description, wire);
            }
        })
    }

    fn open_all(
        &mut self,
        bytes: &mut [u8],
        wire: &mut Vec<u8>,
        receive: &mut impl FnMut(&[u8]),
    ) -> Result<usize, Error> {
        let mut cipher = None;
        let mut start = 0;
        while !self.is_peer_closed
            && let Some(record_bytes) = whole_record(&bytes[start..])?
        {
            let record = &mut bytes[start..start + record_bytes];
            start += record_bytes;
            let cipher_now = cipher.get_or_insert_with(|| self.receiving.cipher());
            let (kind, plaintext) = self.receiving.unprotect(cipher_now, record, self.renewal.is_some())?;
            match kind {
                APPLICATION_DATA if plaintext.is_empty() => {
                    self.empty_records += 1;
                    if self.empty_records > EMPTY_RECORDS_MAX {
                        return Err(PeerMisbehaved::TooManyEmptyFragments.into());
                    }
                }
                APPLICATION_DATA => {
                    (self.key_updates, self.empty_records) = (0, 0);
                    receive(plaintext);
                }
                ALERT => self.handle_alert(plaintext)?,
                HANDSHAKE => {
                    self.handle_handshake(plaintext, wire)?;
                    // Perhaps under another key from here on.
                    cipher = None;
                }
                _ => return Err(unexpected(kind)),
            }
        }
        if self.is_peer_closed {
            // Nothing behind a close is looked at [RFC 8446 6.1].
            return Ok(bytes.len());
        }
        if std::mem::take(&mut self.owes_key_update) {
            self.renew_sending(wire)?;
        }
        Ok(start)
    }

    /// Encrypt `plaintext` into as few records as it needs.
    ///
    /// # Errors
    ///
    /// [`TlsError::KeysExhausted`] when [`is_nearly_exhausted`](Records::is_nearly_exhausted) was not heeded.
    pub(super) fn seal(&mut self, plaintext: &[u8], wire: &mut Vec<u8>) -> Result<(), TlsError> {
        let mut cipher = self.sending.cipher();
        for fragment in plaintext.chunks(PLAINTEXT_BYTES_MAX) {
            // The message that announces the new key takes the last place of the old one.
            if self.sending.sequence >= self.sent_max - 1 {
                if self.renewal.is_none() {
                    return Err(TlsError::KeysExhausted);
                }
                self.renew_sending(wire).map_err(TlsError::Peer)?;
                cipher = self.sending.cipher();
            }
            self.seal_record(&cipher, APPLICATION_DATA, fragment, wire).map_err(TlsError::Peer)?;
        }
        Ok(())
    }

    /// Say that nothing more is sent.
    pub(super) fn close(&mut self, wire: &mut Vec<u8>) {
        // Failing to say goodbye changes nothing: the socket closes next.
        let _ = self.seal_alert(WARNING, AlertDescription::CloseNotify, wire);
    }

    fn seal_alert(
        &mut self,
        level: u8,
        description: AlertDescription,
        wire: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.seal_record(&self.sending.cipher(), ALERT, &[level, description.into()], wire)
    }

    fn seal_record(
        &mut self,
        cipher: &LessSafeKey,
        kind: u8,
        plaintext: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.sending.protect(cipher, kind, plaintext, self.renewal.is_some(), wire)
    }

    /// Announce a new key and send with it from here on [RFC 8446 4.6.3].
    fn renew_sending(&mut self, wire: &mut Vec<u8>) -> Result<(), Error> {
        self.seal_record(&self.sending.cipher(), HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], wire)?;
        if let Some(renewal) = &mut self.renewal {
            self.sending = Keys::new(renewal.update_tx_secret()?)?;
        }
        Ok(())
    }

    /// After the handshake a client may renew its key, or ask for another handshake in TLS 1.2, which is refused.
    fn handle_handshake(&mut self, message: &[u8], wire: &mut Vec<u8>) -> Result<(), Error> {
        match (&mut self.renewal, message) {
            // Nothing may stand behind it under the old key [RFC 8446 5.1], and no other message may stand in front of it.
            (Some(renewal), &[KEY_UPDATE, 0, 0, 1, asks_for_ours @ (0 | 1)]) => {
                self.key_updates += 1;
                if self.key_updates > KEY_UPDATES_MAX {
                    return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
                }
                self.receiving = Keys::new(renewal.update_rx_secret()?)?;
                self.owes_key_update |= asks_for_ours == 1;
                Ok(())
            }
            (None, &[CLIENT_HELLO, ..]) if !self.has_refused_renegotiation => {
                self.has_refused_renegotiation = true;
                self.seal_alert(WARNING, AlertDescription::NoRenegotiation, wire)
            }
            (None, &[CLIENT_HELLO, ..]) => Err(PeerMisbehaved::TooManyRenegotiationRequests.into()),
            _ => Err(unexpected(HANDSHAKE)),
        }
    }

    fn handle_alert(&mut self, alert: &[u8]) -> Result<(), Error> {
        let &[level, description] = alert else {
            return Err(InvalidMessage::TrailingData("Alert").into());
        };
        let description = AlertDescription::from(description);
        match level {
            WARNING | FATAL if description == AlertDescription::CloseNotify => {
                self.is_peer_closed = true;
                Ok(())
            }
            // TLS 1.3 knows no warnings but this one [RFC 8446 6.1].
            WARNING if self.renewal.is_none() || description == AlertDescription::UserCanceled => {
                self.warnings += 1;
                match self.warnings {
                    0..=WARNINGS_MAX => Ok(()),
                    _ => Err(PeerMisbehaved::TooManyWarningAlertsReceived.into()),
                }
            }
            _ => Err(Error::AlertReceived(description)),
        }
    }
}

/// One direction's key, and how many records went under it.
struct Keys {
    algorithm: &'static aead::Algorithm,
    key: AeadKey,
    iv: Iv,
    sequence: u64,
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher suite that this program does not know".into())),
        };
        // Asked once, so that making the cipher later cannot fail.
        match key.as_ref().len() == algorithm.key_len() {
            true => Ok(Self { algorithm, key, iv, sequence }),
            false => Err(Error::General("a key of another length than its cipher's".into())),
        }
    }

    /// The cipher, its key expanded.
    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(
            UnboundKey::new(self.algorithm, self.key.as_ref()).expect("the key has its cipher's length"),
        )
    }

    /// The initialization vector with the number of the record mixed in [RFC 8446 5.3].
    fn nonce(&self) -> [u8; aead::NONCE_LEN] {
        rustls::crypto::cipher::Nonce::new(&self.iv, self.sequence).0
    }

    /// Bytes of the nonce that travel in the record.
    fn explicit_nonce_bytes(&self, is_tls13: bool) -> usize {
        match is_tls13 || self.algorithm == &aead::CHACHA20_POLY1305 {
            true => 0,
            false => EXPLICIT_NONCE_BYTES,
        }
    }

    /// Decrypt a whole record in place: its content type and plaintext.
    fn unprotect<'a>(
        &mut self,
        cipher: &LessSafeKey,
        record: &'a mut [u8],
        is_tls13: bool,
    ) -> Result<(u8, &'a [u8]), Error> {
        let (header, body) = record.split_at_mut(HEADER_BYTES);
        let outer_kind = header[0];
        if is_tls13 && outer_kind != APPLICATION_DATA {
            return Err(unexpected(outer_kind));
        }
        let mut nonce = self.nonce();
        let explicit_bytes = self.explicit_nonce_bytes(is_tls13);
        if body.len() < explicit_bytes + self.algorithm.tag_len() {
            return Err(Error::DecryptError);
        }
        let (explicit, sealed) = body.split_at_mut(explicit_bytes);
        nonce[aead::NONCE_LEN - explicit_bytes..].copy_from_slice(explicit);
        let plaintext_bytes = sealed.len() - self.algorithm.tag_len();
        let associated = Associated::new(header, self.sequence, plaintext_bytes, is_tls13);
        let opened = cipher
            .open_in_place(Nonce::assume_unique_for_key(nonce), associated.aad(), sealed)
            .map_err(|_| Error::DecryptError)?;
        self.sequence += 1;
        let (kind, plaintext) = match is_tls13 {
            false => (outer_kind, &*opened),
            true => inner_plaintext(opened)?,
        };
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(Error::PeerSentOversizedRecord);
        }
        Ok((kind, plaintext))
    }

    /// Append one record with at most [`PLAINTEXT_BYTES_MAX`].
    fn protect(
        &mut self,
        cipher: &LessSafeKey,
        kind: u8,
        plaintext: &[u8],
        is_tls13: bool,
        wire: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let nonce = self.nonce();
        let explicit_bytes = self.explicit_nonce_bytes(is_tls13);
        let inner_bytes = plaintext.len() + usize::from(is_tls13);
        let body_bytes = explicit_bytes + inner_bytes + self.algorithm.tag_len();
        let outer_kind = if is_tls13 { APPLICATION_DATA } else { kind };
        let [.., high, low] = body_bytes.to_be_bytes();
        let header = [outer_kind, 3, 3, high, low];
        let record = wire.len();
        wire.reserve(HEADER_BYTES + body_bytes);
        wire.extend_from_slice(&header);
        wire.extend_from_slice(&nonce[aead::NONCE_LEN - explicit_bytes..]);
        let start = wire.len();
        wire.extend_from_slice(plaintext);
        if is_tls13 {
            wire.push(kind);
        }
        let associated = Associated::new(&header, self.sequence, plaintext.len(), is_tls13);
        let tag = cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                associated.aad(),
                &mut wire[start..],
            )
            .map_err(|_| {
                // What is not sealed must not leave.
                wire.truncate(record);
                Error::EncryptError
            })?;
        wire.extend_from_slice(tag.as_ref());
        self.sequence += 1;
        Ok(())
    }
}

/// What a record's tag vouches for besides its content.
struct Associated {
    bytes: [u8; 13],
    length: usize,
}

impl Associated {
    /// TLS 1.3: the header [RFC 8446 5.2]. TLS 1.2: number, type, version and the plaintext's length [RFC 5246 6.2.3.3].
    fn new(header: &[u8], sequence: u64, plaintext_bytes: usize, is_tls13: bool) -> Self {
        let mut bytes = [0; 13];
        if is_tls13 {
            bytes[..HEADER_BYTES].copy_from_slice(header);
            return Self { bytes, length: HEADER_BYTES };
        }
        let [.., high, low] = plaintext_bytes.to_be_bytes();
        bytes[..8].copy_from_slice(&sequence.to_be_bytes());
        bytes[8..11].copy_from_slice(&header[..3]);
        bytes[11..].copy_from_slice(&[high, low]);
        Self { bytes, length: 13 }
    }

    fn aad(&self) -> Aad<&[u8]> {
        Aad::from(&self.bytes[..self.length])
    }
}

/// How long the record at the front is, header included; none when it is not whole yet.
pub(super) fn whole_record(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let [kind, major, _, high, low, rest @ ..] = bytes else { return Ok(None) };
    if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(kind) {
        return Err(InvalidMessage::InvalidContentType.into());
    }
    if *major != 3 {
        return Err(InvalidMessage::UnknownProtocolVersion.into());
    }
    let body_bytes = usize::from(u16::from_be_bytes([*high, *low]));
    if body_bytes > RECORD_BYTES_MAX {
        return Err(Error::PeerSentOversizedRecord);
    }
    Ok((rest.len() >= body_bytes).then_some(HEADER_BYTES + body_bytes))
}

/// TLS 1.3 puts the content type behind the plaintext, and zeros behind that [RFC 8446 5.4].
fn inner_plaintext(opened: &[u8]) -> Result<(u8, &[u8]), Error> {
    match opened.iter().rposition(|byte| *byte != 0) {
        Some(end) if opened.len() <= PLAINTEXT_BYTES_MAX + 1 => Ok((opened[end], &opened[..end])),
        Some(_) => Err(Error::PeerSentOversizedRecord),
        None => Err(PeerMisbehaved::IllegalTlsInnerPlaintext.into()),
    }
}

fn unexpected(kind: u8) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type: ContentType::from(kind),
    }
}

/// What the peer is told of an error [RFC 8446 6.2]. A peer that has ended the session itself is told nothing.
fn alert_for(error: &Error) -> Option<AlertDescription> {
    match error {
        Error::AlertReceived(_) => None,
        Error::DecryptError => Some(AlertDescription::BadRecordMac),
        Error::PeerSentOversizedRecord => Some(AlertDescription::RecordOverflow),
        Error::InvalidMessage(_) => Some(AlertDescription::DecodeError),
        Error::InappropriateMessage { .. } | Error::PeerMisbehaved(_) => {
            Some(AlertDescription::UnexpectedMessage)
        }
        _ => Some(AlertDescription::InternalError),
    }
}

#[cfg(test)]
mod tests;
