//! What one process of a run is to do, as it is told by the process that the user has started.

use std::net::SocketAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::profile::Part;
use crate::token::Credential;

/// Work for one process. It holds secrets, and travels by a pipe alone.
#[derive(Serialize, Deserialize)]
pub struct Job {
    /// What tells this run's events from those of others.
    pub run: u32,
    /// The process's CPU.
    pub cpu: Option<usize>,
    /// What was acknowledged so far, or nothing yet for each device.
    pub ledger: Ledger,
    /// What it does at once.
    pub parts: Vec<Part>,
    /// When it ends.
    pub until: Until,
}

/// When a job ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Until {
    /// After a time.
    Time {
        /// Before anything counts, seconds.
        warm_up_s: f64,
        /// While it counts, seconds.
        window_s: f64,
    },
    /// As soon as everything acknowledged was read back.
    AllRead,
    /// As soon as all connections are ready.
    Ready,
}

/// A server as clients reach it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Server {
    /// Address and port.
    pub address: SocketAddr,
    /// TLS, or none.
    pub tls: Option<ServerTls>,
}

/// How a server proves who it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerTls {
    /// The CAs to trust.
    pub ca_pem: String,
    /// The name in the certificate.
    pub name: String,
    /// Versions spoken.
    pub version: TlsVersion,
}

/// Versions of TLS that clients speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum TlsVersion {
    /// 1.3 where the server has it, otherwise 1.2.
    #[default]
    Any,
    /// 1.2 alone.
    #[value(name = "1.2")]
    V12,
    /// 1.3 alone.
    #[value(name = "1.3")]
    V13,
}

/// Whether a device's TLS handshake builds on its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resume {
    /// Every handshake is a full one.
    Never,
    /// With the ticket of the connection before.
    Ticket,
}

/// Protocols that clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Protocol {
    /// AMQP 1.0.
    Amqp,
    /// MQTT 3.1.1.
    Mqtt,
    /// HTTPS as devices of IoT Hub speak it.
    Https,
}

/// How one connection says who it is.
#[derive(Clone, Serialize, Deserialize)]
pub enum Login {
    /// Not at all.
    Nothing,
    /// SASL ANONYMOUS over AMQP; MQTT has nothing to say.
    Anonymous,
    /// SASL PLAIN, or user name and password.
    Password {
        /// User.
        user: String,
        /// Password.
        password: String,
    },
    /// A SAS token, put to `$cbs` over AMQP, a password over MQTT.
    Token {
        /// The hub's name, which the token is for.
        host: String,
        /// The token.
        token: String,
    },
}

impl Login {
    /// The host that the client means, where that is told.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Token { host, .. } => Some(host),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Nothing => "Nothing",
            Self::Anonymous => "Anonymous",
            Self::Password { .. } => "Password",
            Self::Token { .. } => "Token",
        })
    }
}

/// What the server is, and how it knows its clients.
#[derive(Clone, Serialize, Deserialize)]
pub enum Access {
    /// A hub, by a policy that may do everything.
    Hub {
        /// Of that policy.
        connection_string: String,
        /// When tokens end, seconds since 1970.
        expires_s: u64,
    },
    /// A broker: all clients are the same to it.
    Broker(Login),
}

impl Access {
    /// How a device's connection says who it is.
    pub fn device(&self, device: &str) -> Result<Login, String> {
        self.sign(Some(device))
    }

    /// How a gateway or a back end does.
    pub fn service(&self) -> Result<Login, String> {
        self.sign(None)
    }

    fn sign(&self, device: Option<&str>) -> Result<Login, String> {
        match self {
            Self::Broker(login) => Ok(login.clone()),
            Self::Hub { connection_string, expires_s } => {
                let credential = Credential::parse(connection_string)?;
                let token = credential.sign(device, *expires_s);
                Ok(Login::Token { host: credential.host, token })
            }
        }
    }

    /// A hub's name in tokens and certificates.
    pub fn host(&self) -> Result<String, String> {
        match self {
            Self::Hub { connection_string, .. } => Ok(Credential::parse(connection_string)?.host),
            Self::Broker(_) => Err("a broker has no name".to_owned()),
        }
    }

    /// Whether it is a hub.
    pub fn is_hub(&self) -> bool {
        matches!(self, Self::Hub { .. })
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.is_hub() { "Hub" } else { "Broker" })
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Job").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}
