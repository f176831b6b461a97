//! A server's certificate, verified once: a load makes thousands of connections to the same server.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

/// Verifies chains as rustls does, but the same chain for the same name once only. Who holds the certificate's key
/// shows it anew in every handshake.
#[derive(Debug)]
pub struct KnownServer {
    verifier: Arc<WebPkiServerVerifier>,
    /// The chain that was good last, with the name that it was good for.
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    name: ServerName<'static>,
    chain: Vec<CertificateDer<'static>>,
}

impl KnownServer {
    /// Knows nobody yet.
    pub fn new(verifier: Arc<WebPkiServerVerifier>) -> Self {
        Self { verifier, known: Mutex::default() }
    }
}

impl ServerCertVerifier for KnownServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = || [end_entity].into_iter().chain(intermediates);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|known| known.name == *server_name && chain().eq(&known.chain)) {
            return Ok(ServerCertVerified::assertion());
        }
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        let chain = chain().map(|certificate| certificate.clone().into_owned()).collect();
        *known = Some(Known { name: server_name.to_owned(), chain });
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::RootCertStore;

    use super::*;

    fn issuer() -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        (certificate.der().clone(), Issuer::new(params, key))
    }

    fn server(issuer: &Issuer<'static, KeyPair>) -> CertificateDer<'static> {
        let params = CertificateParams::new(["hub".to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        params.signed_by(&key, issuer).expect("a certificate").der().clone()
    }

    #[test]
    fn only_the_same_chain_for_the_same_name_is_known() {
        let (root, trusted) = issuer();
        let (_, stranger) = issuer();
        let mut roots = RootCertStore::empty();
        roots.add(root).expect("a root");
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots)).build().expect("a verifier");
        let known = KnownServer::new(verifier);
        let verify = |certificate: &CertificateDer<'_>, name: &'static str| {
            let name = ServerName::try_from(name).expect("a name");
            known.verify_server_cert(certificate, &[], &name, &[], UnixTime::now()).is_ok()
        };
        let (good, other, bad) = (server(&trusted), server(&trusted), server(&stranger));
        assert!(!verify(&bad, "hub"));
        for _ in 0..2 {
            assert!(verify(&good, "hub"));
            assert!(!verify(&good, "another"));
            assert!(!verify(&bad, "hub"));
            assert!(verify(&other, "hub"));
        }
    }
}
