//! The server's side of TLS handshakes alone: client and server in one thread, with memory in place of a network.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

const NAME: &str = "localhost";

/// Which handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TLS 1.3 with an ECDSA P-256 certificate.
    Full13,
    /// TLS 1.2 with a ticket.
    Ticket12,
}

/// Handshakes per second of one core that does nothing else, the client's work not counted, measured for `time`.
///
/// # Errors
///
/// What rustls says, or that a handshake was of another kind.
pub fn run(kind: Kind, time: Duration) -> Result<f64, String> {
    let (server_config, client_config) = configs(kind).map_err(|error| error.to_string())?;
    // The first brings the ticket.
    handshake(&server_config, &client_config)?;
    let (mut count, mut busy, began) = (0_u32, Duration::ZERO, Instant::now());
    while began.elapsed() < time {
        let (found, took) = handshake(&server_config, &client_config)?;
        let is_meant = match kind {
            Kind::Full13 => found == HandshakeKind::Full,
            Kind::Ticket12 => found == HandshakeKind::Resumed,
        };
        if !is_meant {
            return Err(format!("a handshake was {found:?}"));
        }
        count += 1;
        busy += took;
    }
    Ok(f64::from(count) / busy.as_secs_f64())
}

fn configs(
    kind: Kind,
) -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), Box<dyn std::error::Error + Send + Sync>> {
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    server.ticketer = aws_lc_rs::Ticketer::new()?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 1;
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone())?;
    let version: &[&SupportedProtocolVersion] = match kind {
        Kind::Full13 => &[&rustls::version::TLS13],
        Kind::Ticket12 => &[&rustls::version::TLS12],
    };
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(version)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = match kind {
        Kind::Full13 => Resumption::disabled(),
        Kind::Ticket12 => Resumption::in_memory_sessions(1),
    };
    Ok((Arc::new(server), Arc::new(client)))
}

/// One handshake: what it was, and the server's time.
fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<(HandshakeKind, Duration), String> {
    let failed = |error: rustls::Error| error.to_string();
    let name = ServerName::try_from(NAME).map_err(|error| error.to_string())?;
    let mut client = ClientConnection::new(client.clone(), name).map_err(failed)?;
    let begin = Instant::now();
    let mut server = ServerConnection::new(server.clone()).map_err(failed)?;
    let mut busy = begin.elapsed();
    let (mut there, mut back) = (Vec::new(), Vec::new());
    while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
        there.clear();
        while client.wants_write() {
            client.write_tls(&mut there).map_err(|error| error.to_string())?;
        }
        let begin = Instant::now();
        let mut input = &there[..];
        while !input.is_empty() {
            server.read_tls(&mut input).map_err(|error| error.to_string())?;
            server.process_new_packets().map_err(failed)?;
        }
        back.clear();
        while server.wants_write() {
            server.write_tls(&mut back).map_err(|error| error.to_string())?;
        }
        busy += begin.elapsed();
        let mut input = &back[..];
        while !input.is_empty() {
            client.read_tls(&mut input).map_err(|error| error.to_string())?;
            client.process_new_packets().map_err(failed)?;
        }
    }
    let kind = server.handshake_kind().ok_or("a handshake of no kind")?;
    Ok((kind, busy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_what_they_say() {
        for kind in [Kind::Full13, Kind::Ticket12] {
            assert!(run(kind, Duration::from_millis(50)).unwrap() > 0.0, "{kind:?}");
        }
    }
}
