//! What a process's connections do: each profile is made of one or more of these parts.

pub mod commands;
pub mod presence;
pub mod read;
pub mod send;

use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::io::{Endpoint, Reactor, Tls};
use crate::job::Server;
use crate::ledger::mix;

/// One kind of connections and what they do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Part {
    /// Devices and gateways that send events.
    Send(send::SendPart),
    /// Devices that are there, or come and go.
    Presence(presence::PresencePart),
    /// Commands from end to end.
    Commands(commands::CommandsPart),
    /// Readers over AMQP.
    ReadAmqp(read::AmqpPart),
    /// A reader over MQTT.
    ReadMqtt(read::MqttPart),
}

impl Part {
    /// Whether it reads what others check.
    pub fn is_unchecked_reader(&self) -> bool {
        matches!(self, Self::ReadAmqp(part) if !part.is_checked)
    }

    /// Add the part's connections.
    pub fn start(&self, reactor: &mut Reactor) -> Result<(), String> {
        match self {
            Self::Send(part) => part.start(reactor),
            Self::Presence(part) => part.start(reactor),
            Self::Commands(part) => part.start(reactor),
            Self::ReadAmqp(part) => part.start(reactor),
            Self::ReadMqtt(part) => part.start(reactor),
        }
    }
}

/// Where connections to a server go.
fn endpoint(server: &Server) -> Result<Endpoint, String> {
    let tls = server.tls.as_ref().map(|tls| Tls::new(tls.ca_pem.as_bytes(), &tls.name, tls.version));
    Ok(Endpoint { address: server.address, tls: tls.transpose()? })
}

/// Where in its first interval a connection begins, from the seed.
fn phase(seed: u64, connection: u32) -> f64 {
    (mix(seed ^ mix(u64::from(connection))) >> 11) as f64 / (1u64 << 53) as f64
}

fn add(reactor: &mut Reactor, endpoint: &Endpoint, client: impl Client + 'static) {
    reactor.add(endpoint.clone(), Box::new(client));
}

/// The place of a device's id in an address.
pub const DEVICE: &str = "{device}";
