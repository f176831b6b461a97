//! What is driven: a hub that is started for the run, or any broker.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::SystemTime;

use percent_encoding::percent_decode_str;

use crate::arguments::{Arguments, Profile};
use crate::hub::{Hub, Port};
use crate::job::{Access, Login, Protocol, Server, ServerTls, TlsVersion};
use crate::profile::DEVICE;
use crate::server::ServerProcess;

/// How long tokens of a run are good beyond its windows, seconds: connecting and reading back take as long as they take.
const TOKEN_LIFETIME_S: u64 = 86_400;

/// What is driven.
#[derive(Debug)]
pub struct Target {
    /// Present when this run has started it.
    pub hub: Option<Hub>,
    /// How clients say who they are.
    pub access: Access,
    /// How the load speaks.
    pub protocol: Protocol,
    /// Where events go: links' target or topic, with `{device}` for the device's id.
    pub address: String,
    /// The process whose time and memory are measured.
    pub process: Option<ServerProcess>,
    server: Option<Server>,
    tls_version: TlsVersion,
    is_plain: bool,
}

/// A broker's URL, taken apart.
#[derive(Clone, PartialEq, Eq)]
struct Url {
    protocol: Protocol,
    has_tls: bool,
    user: Option<(String, String)>,
    host: String,
    port: u16,
    path: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
        let bad =
            |what: &str| format!("--target has {what}; it looks like amqp://user:password@host:5672/queue");
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("no scheme"))?;
        let (protocol, has_tls, port) = match scheme {
            "amqp" => (Protocol::Amqp, false, 5672),
            "amqps" => (Protocol::Amqp, true, 5671),
            "mqtt" => (Protocol::Mqtt, false, 1883),
            "mqtts" => (Protocol::Mqtt, true, 8883),
            _ => return Err(bad("a scheme other than amqp, amqps, mqtt, mqtts")),
        };
        let decode = |text: &str| {
            let text =
                percent_decode_str(text).decode_utf8().map_err(|_| bad("an escape that is no text"))?;
            Ok::<_, String>(text.into_owned())
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, place) = match authority.rsplit_once('@') {
            None => (None, authority),
            Some((user, place)) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                (Some((decode(user)?, decode(password)?)), place)
            }
        };
        let (host, port) = match place.rsplit_once(':').filter(|(host, _)| !host.ends_with(':')) {
            Some((host, port)) if !place.ends_with(']') => {
                (host, port.parse().map_err(|_| bad("a port that is none"))?)
            }
            _ => (place, port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        match host.is_empty() {
            true => Err(bad("no host")),
            false => Ok(Self { protocol, has_tls, user, host, port, path: decode(path)? }),
        }
    }

    fn address(&self) -> Result<SocketAddr, String> {
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let found = found.map_err(|error| format!("{} is not found: {error}", self.host))?.next();
        found.ok_or_else(|| format!("{} has no address", self.host))
    }
}

/// How the load is to speak.
///
/// # Errors
///
/// The target's URL is none, or says something else than `--protocol`.
pub fn protocol_of(arguments: &Arguments) -> Result<Protocol, String> {
    let Some(url) = &arguments.target else { return Ok(arguments.protocol.unwrap_or(Protocol::Amqp)) };
    let url = Url::parse(url)?;
    match arguments.protocol.is_some_and(|protocol| protocol != url.protocol) {
        true => Err("--protocol contradicts the scheme of --target".to_owned()),
        false => Ok(url.protocol),
    }
}

impl Target {
    /// Start or find what the arguments name.
    ///
    /// # Errors
    ///
    /// It cannot be started, or the arguments contradict each other.
    pub fn prepare(arguments: &Arguments) -> Result<Self, String> {
        match &arguments.target {
            Some(url) => Self::broker(arguments, &Url::parse(url)?),
            None => Self::hub(arguments),
        }
    }

    fn hub(arguments: &Arguments) -> Result<Self, String> {
        let hub = Hub::start(&hub_binary(arguments)?, arguments)?;
        let now_s = SystemTime::UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?.as_secs();
        let expires_s = now_s + TOKEN_LIFETIME_S + (arguments.warm_up + arguments.seconds) as u64;
        let access = Access::Hub { connection_string: hub.connection_string()?, expires_s };
        let protocol = protocol_of(arguments)?;
        let address = match protocol {
            Protocol::Amqp => format!("/devices/{DEVICE}/messages/events"),
            // The properties that events over the other protocols have, too.
            _ => format!("devices/{DEVICE}/messages/events/a=1&b=22&c=333"),
        };
        let process = Some(ServerProcess::new(hub.process_id()));
        Ok(Self {
            hub: Some(hub),
            access,
            protocol,
            address,
            process,
            server: None,
            tls_version: arguments.tls,
            is_plain: arguments.plain,
        })
    }

    fn broker(arguments: &Arguments, url: &Url) -> Result<Self, String> {
        let login = match (&url.user, url.protocol) {
            (Some((user, password)), _) => Login::Password { user: user.clone(), password: password.clone() },
            (None, Protocol::Amqp) => Login::Anonymous,
            (None, _) => Login::Nothing,
        };
        let address = arguments.address.clone().unwrap_or_else(|| url.path.clone());
        // Over MQTT a connection is there without a topic.
        let needs_none = arguments.profile == Profile::Connect && url.protocol == Protocol::Mqtt;
        if address.is_empty() && !needs_none {
            return Err("--target names no queue or topic: amqp://host/queue, or --address".to_owned());
        }
        let tls = match url.has_tls {
            false if arguments.ca.is_some() || arguments.tls != TlsVersion::Any || arguments.resume => {
                return Err("--ca, --tls and --resume have no meaning without TLS: amqps or mqtts".to_owned());
            }
            false => None,
            true => {
                let path = arguments
                    .ca
                    .as_ref()
                    .ok_or("--ca FILE says which CA the broker's certificate is from")?;
                let ca_pem = std::fs::read_to_string(path)
                    .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
                Some(ServerTls { ca_pem, name: url.host.clone(), version: arguments.tls })
            }
        };
        Ok(Self {
            hub: None,
            access: Access::Broker(login),
            protocol: url.protocol,
            address,
            process: arguments.server_pid.map(ServerProcess::new),
            server: Some(Server { address: url.address()?, tls }),
            tls_version: arguments.tls,
            is_plain: !url.has_tls,
        })
    }

    /// Where clients of a protocol connect.
    pub fn server(&self, protocol: Protocol) -> Result<Server, String> {
        let Some(hub) = &self.hub else {
            return self.server.clone().ok_or_else(|| "there is no server".to_owned());
        };
        let port = match (protocol, self.is_plain) {
            (Protocol::Amqp, true) => Port::PlainAmqp,
            (Protocol::Amqp, false) => Port::Amqps,
            (Protocol::Mqtt, _) => Port::Mqtts,
            (Protocol::Https, _) => Port::Https,
        };
        let tls = match port {
            Port::PlainAmqp => None,
            _ => Some(ServerTls {
                ca_pem: hub.ca_pem()?,
                name: self.access.host()?,
                version: self.tls_version,
            }),
        };
        Ok(Server { address: hub.address(port)?, tls })
    }

    /// Whether clients use TLS.
    pub fn has_tls(&self) -> bool {
        !self.is_plain
    }

    /// What it is, for the report.
    pub fn describe(&self) -> String {
        match (&self.hub, &self.server) {
            (Some(_), _) | (None, None) => "hub".to_owned(),
            (None, Some(server)) => {
                format!("{:?} broker at {}", self.protocol, server.address).to_lowercase()
            }
        }
    }
}

fn hub_binary(arguments: &Arguments) -> Result<PathBuf, String> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("corehub"));
    let path = arguments.hub_binary.clone().or_else(beside).unwrap_or_default();
    match path.is_file() {
        true => Ok(path),
        false => {
            Err(format!("there is no hub at {}; build it with: cargo build --release -p net", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn what_is_for_tls_needs_tls() {
        for options in ["--ca ca.pem", "--tls 1.3", "--resume"] {
            let line = format!("loadgen connect --target amqp://127.0.0.1/load {options}");
            let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
            assert!(Target::prepare(&arguments).unwrap_err().contains("without TLS"), "{options}");
        }
    }

    #[test]
    fn urls_of_brokers() {
        let url = Url::parse("amqp://guest:p%40ss@10.0.0.1:5673/load").unwrap();
        assert_eq!((url.protocol, url.has_tls, url.port), (Protocol::Amqp, false, 5673));
        assert_eq!(url.user, Some(("guest".to_owned(), "p@ss".to_owned())));
        assert_eq!((url.host.as_str(), url.path.as_str()), ("10.0.0.1", "load"));
        let url = Url::parse("mqtts://[::1]/a/{device}/b").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("::1", 8883, "a/{device}/b"));
        assert_eq!(Url::parse("mqtt://[::1]:99").unwrap().port, 99);
        for bad in ["localhost", "http://localhost", "amqp://", "amqp://host:port/", "amqp://%ff:a@host"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }
}
