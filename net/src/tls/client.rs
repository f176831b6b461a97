//! The command line's side of TLS: a blocking stream to a hub on this machine.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error};
use rustls::{RootCertStore, SignatureScheme, StreamOwned};

use super::{TlsError, certificates};

/// Whom a command believes to be the hub: whoever holds the key of a certificate that lies in the hub's data directory, or
/// of one that the hub's own CA issued for the name. The first is what lets commands talk to a hub whose certificate
/// came from elsewhere, the second to one whose certificate was replaced a moment ago.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// The CA, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// The server's certificate, PEM.
    pub server_pem: Option<Vec<u8>>,
}

/// A client's connection over a blocking socket.
#[derive(Debug)]
pub struct ClientStream(StreamOwned<ClientConnection, TcpStream>);

impl ClientStream {
    /// Speak TLS over `socket` to the server called `name`.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when `name` or a certificate cannot be used. The handshake itself happens with the first read or write.
    pub fn new(socket: TcpStream, name: &str, trust: &Trust) -> io::Result<Self> {
        let config = client_config(trust).map_err(io::Error::other)?;
        let name = ServerName::try_from(name.to_string()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        Ok(Self(StreamOwned::new(connection, socket)))
    }

    /// The socket below, to set its timeouts.
    pub fn socket(&self) -> &TcpStream {
        &self.0.sock
    }
}

impl Read for ClientStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for ClientStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

pub(crate) fn client_config(trust: &Trust) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let unusable = |error: &dyn std::fmt::Display| TlsError::Certificate(error.to_string());
    let by_ca = match &trust.ca_pem {
        None => None,
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Some(builder.build().map_err(|error| unusable(&error))?)
        }
    };
    let pinned = match &trust.server_pem {
        None => None,
        Some(pem) => certificates(pem)?.into_iter().next(),
    };
    let verifier = HubVerifier { pinned, by_ca, provider: provider.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Carries [`Trust`] out.
#[derive(Debug)]
struct HubVerifier {
    pinned: Option<CertificateDer<'static>>,
    by_ca: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for HubVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.as_ref() == Some(certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.by_ca {
            Some(verifier) => {
                verifier.verify_server_cert(certificate, intermediates, name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::{Certificates, Name};

    /// The certificate of a hub called `localhost`, as the peer shows it, and its files.
    fn hub() -> (tempfile::TempDir, Certificates, CertificateDer<'static>) {
        let directory = tempfile::tempdir().unwrap();
        let files = Certificates::new(directory.path());
        let now_s = UnixTime::now().as_secs();
        files.prepare(&[Name::parse("localhost").unwrap()], now_s).unwrap();
        let shown = certificates(&files.load().unwrap().0).unwrap().remove(0);
        (directory, files, shown)
    }

    fn believes(
        pinned: Option<&Certificates>,
        ca: Option<&Certificates>,
        shown: &CertificateDer<'_>,
        name: &str,
    ) -> bool {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let by_ca = ca.map(|files| {
            let mut roots = RootCertStore::empty();
            let pem = std::fs::read(files.ca_path()).unwrap();
            roots.add(certificates(&pem).unwrap().remove(0)).unwrap();
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap()
        });
        let pinned = pinned.map(|files| certificates(&files.load().unwrap().0).unwrap().remove(0));
        let verifier = HubVerifier { pinned, by_ca, provider };
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(shown, &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn the_hub_is_known_by_its_certificate_or_by_its_ca_and_name() {
        let (_one, ours, shown) = hub();
        let (_two, other, _) = hub();
        assert!(
            believes(Some(&ours), None, &shown, "127.0.0.1"),
            "the very certificate, whatever it is called"
        );
        assert!(believes(Some(&other), Some(&ours), &shown, "localhost"), "replaced a moment ago");
        assert!(!believes(Some(&other), Some(&ours), &shown, "127.0.0.1"), "not its name");
        assert!(!believes(Some(&other), Some(&other), &shown, "localhost"), "another hub");
        assert!(!believes(None, None, &shown, "localhost"));
    }
}
