//! Bytes of a socket to plaintext and back: rustls, or nothing.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

/// One connection's TLS.
#[derive(Debug)]
pub struct Transport {
    tls: Option<Box<rustls::ClientConnection>>,
    opened: Vec<u8>,
}

/// Trust the hub's CA alone.
pub fn client_config(ca_pem: &[u8]) -> Result<Arc<rustls::ClientConfig>, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        let certificate = certificate.map_err(|error| format!("the CA file cannot be read: {error}"))?;
        roots.add(certificate).map_err(|error| format!("the CA file cannot be used: {error}"))?;
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(Arc::new(config))
}

impl Transport {
    /// TLS to a host of that name, or none.
    pub fn new(tls: Option<(Arc<rustls::ClientConfig>, String)>) -> Result<Self, String> {
        let tls = match tls {
            None => None,
            Some((config, host)) => {
                let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
                let mut connection =
                    rustls::ClientConnection::new(config, name).map_err(|error| error.to_string())?;
                connection.set_buffer_limit(None);
                Some(Box::new(connection))
            }
        };
        Ok(Self { tls, opened: Vec::new() })
    }

    /// Turn plaintext, which is taken, into bytes for the socket.
    pub fn seal(&mut self, plaintext: &mut Vec<u8>, ciphertext: &mut Vec<u8>) -> Result<(), String> {
        let Some(tls) = &mut self.tls else {
            ciphertext.append(plaintext);
            return Ok(());
        };
        tls.writer().write_all(plaintext).map_err(|error| error.to_string())?;
        plaintext.clear();
        while tls.wants_write() {
            tls.write_tls(ciphertext).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Turn bytes of the socket into plaintext for `handle`.
    pub fn open(
        &mut self,
        mut bytes: &[u8],
        handle: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(tls) = &mut self.tls else { return handle(bytes) };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).map_err(|error| error.to_string())?;
            let state = tls.process_new_packets().map_err(|error| format!("TLS: {error}"))?;
            let count = state.plaintext_bytes_to_read();
            if count > 0 {
                self.opened.resize(count, 0);
                tls.reader().read_exact(&mut self.opened).map_err(|error| error.to_string())?;
                handle(&self.opened)?;
            }
        }
        Ok(())
    }
}
