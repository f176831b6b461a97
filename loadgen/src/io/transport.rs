//! Bytes of a socket to plaintext and back: rustls, or nothing.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, SupportedProtocolVersion};

use crate::io::known::KnownServer;
use crate::job::{Resume, TlsVersion};

/// TLS to one server: how, and the name that its certificate must have.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// Trust the CAs of a PEM file alone.
    ///
    /// # Errors
    ///
    /// The file holds no usable certificate, or the name is none.
    pub fn new(ca_pem: &[u8], name: &str, version: TlsVersion) -> Result<Self, String> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.map_err(|error| format!("the CA file cannot be read: {error}"))?;
            roots.add(certificate).map_err(|error| format!("the CA file cannot be used: {error}"))?;
        }
        if roots.is_empty() {
            return Err("the CA file holds no certificate".to_owned());
        }
        let versions: &[&SupportedProtocolVersion] = match version {
            TlsVersion::Any => rustls::ALL_VERSIONS,
            TlsVersion::V12 => &[&rustls::version::TLS12],
            TlsVersion::V13 => &[&rustls::version::TLS13],
        };
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots))
            .build()
            .map_err(|error| format!("the CA file cannot be used: {error}"))?;
        let mut config = ClientConfig::builder_with_protocol_versions(versions)
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(KnownServer::new(verifier)))
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("{name} is no name that a certificate can have"))?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// The same with a memory of its own for what resumes the next handshake: one device's.
    pub fn remembering(&self, resume: Resume) -> Self {
        if resume == Resume::Never {
            return self.clone();
        }
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::in_memory_sessions(1);
        Self { config: Arc::new(config), name: self.name.clone() }
    }
}

/// One connection's TLS.
#[derive(Debug)]
pub struct Transport {
    tls: Option<Box<ClientConnection>>,
}

impl Transport {
    /// TLS, or none.
    pub fn new(tls: Option<&Tls>) -> Result<Self, String> {
        let Some(Tls { config, name }) = tls else { return Ok(Self { tls: None }) };
        let mut connection =
            ClientConnection::new(config.clone(), name.clone()).map_err(|error| format!("TLS: {error}"))?;
        connection.set_buffer_limit(None);
        Ok(Self { tls: Some(Box::new(connection)) })
    }

    /// Whether the handshake resumed an earlier one, once that is known; false without TLS.
    pub fn is_resumed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// Turn plaintext, which is taken, into bytes for the socket.
    pub fn seal(&mut self, plaintext: &mut Vec<u8>, wire: &mut Vec<u8>) -> Result<(), String> {
        let Some(tls) = &mut self.tls else {
            match wire.is_empty() {
                true => std::mem::swap(wire, plaintext),
                false => wire.append(plaintext),
            }
            return Ok(());
        };
        tls.writer().write_all(plaintext).map_err(|error| error.to_string())?;
        plaintext.clear();
        while tls.wants_write() {
            tls.write_tls(wire).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Turn bytes of the socket into plaintext for `handle`; `opened` is room to do it in.
    pub fn open(
        &mut self,
        mut bytes: &[u8],
        opened: &mut Vec<u8>,
        handle: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(tls) = &mut self.tls else { return handle(bytes) };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).map_err(|error| error.to_string())?;
            let state = tls.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
            let count = state.plaintext_bytes_to_read();
            if count > 0 {
                if opened.len() < count {
                    opened.resize(count, 0);
                }
                tls.reader().read_exact(&mut opened[..count]).map_err(|error| error.to_string())?;
                handle(&opened[..count])?;
            }
        }
        Ok(())
    }
}
