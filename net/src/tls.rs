//! TLS, driven by hand: with its `client` and `records`, the only place that names rustls.
//!
//! [`Session`] is one server-side connection without a socket. rustls shakes hands; what follows is opened and sealed by
//! `records`. Records are decrypted in place, in the buffer that they were read into; what is not a whole record yet is carried
//! by the session ([`CARRY_BYTES_MAX`]) and goes in front of the next input. Nothing else of a connection's bytes is kept,
//! which is what an idle connection's few kilobytes rest on.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError};
use rustls::{CipherSuite, HandshakeKind, ServerConfig, SupportedCipherSuite};

use self::records::Records;

mod client;
mod records;

#[cfg(test)]
pub(crate) use client::client_config;
pub use client::{ClientStream, Trust};

/// Most bytes of an incomplete record that a session carries from one input to the next: a record of 16 KiB with all
/// that TLS 1.2 may add to it [RFC 5246 6.2.3]. A handshake message that does not fit is refused.
pub const CARRY_BYTES_MAX: usize = 18 * 1024;

/// What went wrong with TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer's records make no sense, or it refused ours.
    #[error("TLS: {0}")]
    Peer(#[source] rustls::Error),
    /// The peer sent a record or handshake message beyond [`CARRY_BYTES_MAX`].
    #[error("TLS: a handshake message of more than {CARRY_BYTES_MAX} bytes")]
    MessageTooLarge,
    /// The session's keys have been used as often as its cipher suite allows.
    #[error("TLS: the keys of this connection are used up")]
    KeysExhausted,
    /// Something was to be sent before the handshake had ended, or after the session had.
    #[error("TLS: the session cannot send now")]
    NotOpen,
    /// A certificate or key that cannot be used.
    #[error("{0}")]
    Certificate(String),
}

/// Opens [`Session`]s with the current certificate. Clones share it, on all cores.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    certificate: Arc<CurrentCertificate>,
}

impl Acceptor {
    /// Serve with this certificate chain and its key, both PEM.
    ///
    /// TLS 1.2 and 1.3; tickets whose keys live in memory only and change every six hours; no client certificates. A
    /// resumed session carries no identity: rights are checked anew on every connection.
    ///
    /// # Errors
    ///
    /// [`TlsError::Certificate`] when they cannot be read or do not belong together.
    pub fn new(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        let provider = Arc::new(preferred_provider());
        let certificate =
            Arc::new(CurrentCertificate(RwLock::new(certified_key(chain_pem, key_pem, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Certificate(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(certificate.clone());
        config.ticketer =
            aws_lc_rs::Ticketer::new().map_err(|error| TlsError::Certificate(error.to_string()))?;
        // Tickets carry all that a resumption needs; a cache of sessions would be one lock for all cores.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        // Many clients name AES-256 with SHA-384 first; the hub prefers the shorter key, ten rounds in place of fourteen,
        // which nobody breaks either.
        config.ignore_client_order = true;
        // For `records`.
        config.enable_secret_extraction = true;
        Ok(Self { config: Arc::new(config), certificate })
    }

    /// Serve new connections with this certificate from now on; open ones keep theirs.
    ///
    /// # Errors
    ///
    /// As for [`Acceptor::new`]; the certificate of before stays.
    pub fn replace_certificate(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<(), TlsError> {
        let new = certified_key(chain_pem, key_pem, self.config.crypto_provider())?;
        *self.certificate.0.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// The server's side of a new connection.
    ///
    /// # Errors
    ///
    /// [`TlsError::Peer`] should rustls refuse its own configuration; not seen in practice.
    pub fn open(&self) -> Result<Session, TlsError> {
        let connection = UnbufferedServerConnection::new(self.config.clone()).map_err(TlsError::Peer)?;
        Ok(Session {
            phase: Phase::Handshake(Box::new(connection)),
            unseen_bytes: 0,
            carry: Vec::new(),
            is_resumed: false,
            is_closed: false,
        })
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Acceptor")
    }
}

/// The certificate that new handshakes get. The lock is taken once per full handshake and written on a reload.
#[derive(Debug)]
struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The usual suites with those of AES-128 first.
fn preferred_provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_preferred = |suite: &SupportedCipherSuite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    // Stable: otherwise their order stays.
    provider.cipher_suites.sort_by_key(|suite| !is_preferred(suite));
    provider
}

fn certified_key(
    chain_pem: &[u8],
    key_pem: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(chain_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| TlsError::Certificate(format!("the private key cannot be read: {error}")))?;
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
        .map_err(|error| TlsError::Certificate(format!("certificate and key cannot be used: {error}")))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Certificate(format!("the certificate cannot be read: {error}")))?;
    if chain.is_empty() {
        return Err(TlsError::Certificate("the file holds no certificate".into()));
    }
    Ok(chain)
}

/// The server's side of one TLS connection.
///
/// Order of calls: put [`carried`](Session::carried) in front of what was read and give both to
/// [`handle_input`](Session::handle_input); once [`is_open`](Session::is_open), [`seal`](Session::seal) what is to be sent;
/// [`close`](Session::close) last. All of them append to `wire` what must reach the peer, in that order.
pub struct Session {
    phase: Phase,
    carry: Vec<u8>,
    /// How much at the end of `carry` rustls has not been shown yet: an incomplete record of the handshake.
    unseen_bytes: usize,
    is_resumed: bool,
    is_closed: bool,
}

/// How far a session has come.
enum Phase {
    /// In a box, because it is larger than all that an open session keeps.
    Handshake(Box<UnbufferedServerConnection>),
    Open(Records),
    /// rustls ended the handshake and would not hand over.
    Failed,
}

impl Session {
    /// The incomplete record of earlier inputs: it must be in front of the next one.
    pub fn carried(&self) -> &[u8] {
        &self.carry
    }

    /// Whether the handshake is done and data can be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_)) && !self.is_closed
    }

    /// Whether the peer has said that it sends nothing more.
    pub fn is_peer_closed(&self) -> bool {
        matches!(&self.phase, Phase::Open(records) if records.is_peer_closed())
    }

    /// Whether so many records were sent under keys that cannot be renewed (TLS 1.2 with AES-GCM: 2^24) that the connection
    /// should end now, in good order.
    pub fn is_nearly_exhausted(&self) -> bool {
        matches!(&self.phase, Phase::Open(records) if records.is_nearly_exhausted())
    }

    /// Take what was read, [`carried`](Session::carried) bytes first. Whole records are decrypted in place and their
    /// plaintext is handed to `receive`, record by record; what is left over is carried.
    ///
    /// # Errors
    ///
    /// The session is over; `wire` holds the alert that says so.
    pub fn handle_input(
        &mut self,
        bytes: &mut [u8],
        wire: &mut Vec<u8>,
        mut receive: impl FnMut(&[u8]),
    ) -> Result<(), TlsError> {
        let rest = self.take(bytes, wire, &mut receive).map_err(|error| {
            self.is_closed = true;
            TlsError::Peer(error)
        })?;
        if rest.len() > CARRY_BYTES_MAX {
            self.is_closed = true;
            return Err(TlsError::MessageTooLarge);
        }
        if rest.is_empty() {
            // An idle connection keeps no buffer.
            self.carry = Vec::new();
        } else {
            self.carry.clear();
            self.carry.extend_from_slice(rest);
        }
        Ok(())
    }

    /// All whole records. Returns what is left over.
    fn take<'a>(
        &mut self,
        bytes: &'a mut [u8],
        wire: &mut Vec<u8>,
        receive: &mut impl FnMut(&[u8]),
    ) -> Result<&'a [u8], rustls::Error> {
        let mut start = 0;
        if let Phase::Handshake(_) = self.phase {
            start = self.shake_hands(bytes, wire)?;
        }
        if let Phase::Open(records) = &mut self.phase {
            start += records.open(&mut bytes[start..], wire, receive)?;
        }
        Ok(&bytes[start..])
    }

    /// Show rustls one record after the other until the handshake is over: what the client sends right behind its last word
    /// is for [`Records`]. Returns how many bytes are done with.
    fn shake_hands(&mut self, bytes: &mut [u8], wire: &mut Vec<u8>) -> Result<usize, rustls::Error> {
        let Phase::Handshake(connection) = &mut self.phase else { return Ok(0) };
        let mut start = 0;
        // What it has seen must be shown again: its place in an incomplete message is counted from there.
        let mut shown = self.carry.len() - self.unseen_bytes;
        loop {
            let status = connection.process_tls_records(&mut bytes[start..shown]);
            start += status.discard;
            let waits = match status.state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(wire, |room| data.encode(room));
                    Ok(false)
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(false)
                }
                // Early data is never offered, so it is never seen.
                Ok(_) => Ok(true),
                Err(error) => Err(error),
            };
            let waits = waits.inspect_err(|_| encode_alert(connection, &mut bytes[start..shown], wire))?;
            if !waits {
                continue;
            }
            if !connection.is_handshaking() {
                break;
            }
            match records::whole_record(&bytes[shown..]) {
                Ok(Some(record_bytes)) => shown += record_bytes,
                Ok(None) => {
                    self.unseen_bytes = bytes.len() - shown;
                    return Ok(start);
                }
                // It shall say itself what is wrong with that, and to the peer.
                Err(_) if shown < bytes.len() => shown = bytes.len(),
                Err(error) => return Err(error),
            }
        }
        self.is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        if let Phase::Handshake(connection) = std::mem::replace(&mut self.phase, Phase::Failed) {
            self.phase = Phase::Open(Records::new(*connection)?);
        }
        Ok(start)
    }

    /// Encrypt `plaintext` into as few records as it needs: all replies of a turn in one, where they fit.
    ///
    /// # Errors
    ///
    /// [`TlsError::NotOpen`] before the handshake is done and after [`close`](Session::close);
    /// [`TlsError::KeysExhausted`] when [`is_nearly_exhausted`](Session::is_nearly_exhausted) was not heeded.
    pub fn seal(&mut self, plaintext: &[u8], wire: &mut Vec<u8>) -> Result<(), TlsError> {
        if plaintext.is_empty() {
            return Ok(());
        }
        match &mut self.phase {
            Phase::Open(records) if !self.is_closed => {
                records.seal(plaintext, wire).inspect_err(|_| self.is_closed = true)
            }
            _ => Err(TlsError::NotOpen),
        }
    }

    /// Say that nothing more is sent.
    pub fn close(&mut self, wire: &mut Vec<u8>) {
        if let Phase::Open(records) = &mut self.phase
            && !self.is_closed
        {
            records.close(wire);
            self.is_closed = true;
        }
    }

    /// What was negotiated, for a log line: version, cipher suite, full or resumed.
    pub fn describe(&self) -> String {
        let kind = if self.is_resumed { "resumed" } else { "full" };
        let (version, suite) = match &self.phase {
            Phase::Open(records) => match records.suite() {
                SupportedCipherSuite::Tls12(suite) => ("TLS 1.2", suite.common.suite),
                SupportedCipherSuite::Tls13(suite) => ("TLS 1.3", suite.common.suite),
            },
            Phase::Handshake(_) | Phase::Failed => return "TLS".to_string(),
        };
        format!("{version} {suite:?} {kind}")
    }

    /// Whether the session was resumed by a ticket; false before the handshake is done.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Session({})", self.describe())
    }
}

/// After an error: the alert that tells the peer, where rustls has one. It is asked once and no more: with nothing left
/// to send it would look at `rest` again, fail again, and assert that it had not failed before.
fn encode_alert(connection: &mut UnbufferedServerConnection, rest: &mut [u8], wire: &mut Vec<u8>) {
    if let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process_tls_records(rest).state {
        encode(wire, |room| data.encode(room));
    }
}

/// Append one handshake record; what it needs is learnt by trying.
fn encode(wire: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = wire.len();
    let written = match encode(&mut []) {
        Err(EncodeError::InsufficientSize(size)) => {
            wire.resize(start + size.required_size, 0);
            encode(&mut wire[start..]).unwrap_or(0)
        }
        Ok(written) => written,
        Err(EncodeError::AlreadyEncoded) => 0,
    };
    wire.truncate(start + written);
}

#[cfg(test)]
mod tests;
