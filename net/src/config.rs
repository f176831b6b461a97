//! What `serve` is told: flags, a TOML file with the same keys, and defaults. Flags win over the file.
//!
//! ```toml
//! # corehub serve --config /etc/corehub.toml
//! data = "/var/lib/corehub"
//! host = ["plant.example", "10.0.0.5"]
//! bind = ["0.0.0.0"]
//! retention-days = 3
//! retention-bytes = "40GiB"
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};

use clap::Args;
use engine::shard::CommandRules;
use serde::Deserialize;

use self::values::{bind, check_name, further, hosts, parse_pin, port, within};
use crate::certificate::Name;
use crate::data_dir::DataKeySource;
use crate::further::Further;

mod values;

/// Most partitions a hub can have.
pub const PARTITIONS_MAX: u16 = 32;

/// Fewest partitions a hub gets by default: consumers scale by partition, and the number is fixed for ever.
const PARTITIONS_DEFAULT_MIN: u16 = 4;

/// What is wrong with the configuration; one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// What the parser said, in one line.
        reason: String,
    },
    /// A value that cannot be.
    #[error("{key}: {reason}")]
    Value {
        /// The key, as in the file; the flag has two dashes in front.
        key: &'static str,
        /// Why not.
        reason: String,
    },
}

fn value(key: &'static str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, reason: reason.into() }
}

/// The settings of `serve`, as flags and as keys of the file. None: the default.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Directory of the hub's data; made at the first start
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// TOML file with any of these settings, named as the flags; flags win over it
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// The hub's name, fixed at the first start [default: the first label of the first host, `hub` for an address]
    #[arg(long)]
    pub name: Option<String>,
    /// Name or address by which clients reach the hub; repeatable, the first goes into connection strings
    /// [default: localhost, this machine's name, hub.localhost]
    #[arg(long, value_name = "NAME|IP")]
    #[serde(deserialize_with = "one_or_many")]
    pub host: Vec<String>,
    /// Address to listen on; repeatable [default: 127.0.0.1, and ::1 where IPv6 is on]
    #[arg(long, value_name = "IP")]
    #[serde(deserialize_with = "one_or_many")]
    pub bind: Vec<String>,
    /// Port for AMQP over TLS [default: 5671]
    #[arg(long, value_name = "PORT")]
    pub amqps_port: Option<u16>,
    /// Port for HTTPS [default: 443, or 8443 where 443 may not be bound]
    #[arg(long, value_name = "PORT")]
    pub https_port: Option<u16>,
    /// Port for MQTT over TLS [default: 8883]
    #[arg(long, value_name = "PORT")]
    pub mqtts_port: Option<u16>,
    /// Port for AMQP in the clear, on loopback alone: for Event Hubs clients with UseDevelopmentEmulator=true [default: off]
    #[arg(long, value_name = "PORT")]
    pub plain_amqp_port: Option<u16>,
    /// Further protocol to speak and its port, as stomps=61614; repeatable. One that this program was built with [default: none]
    #[arg(long, value_name = "SCHEME=PORT")]
    #[serde(deserialize_with = "one_or_many")]
    pub also: Vec<String>,
    /// Cores to run on; may change at any start [default: all]
    #[arg(long, value_name = "N")]
    pub cores: Option<u16>,
    /// CPUs to pin the cores to, as 0,2,4-7, or `none` [default: none]
    #[arg(long, value_name = "LIST|none")]
    pub pin: Option<String>,
    /// Partitions, 1 to 32, fixed at the first start [default: the larger of 4 and the cores, at most 32]
    #[arg(long, value_name = "N")]
    pub partitions: Option<u16>,
    /// Days that events are kept, 1 to 7 [default: 7]
    #[arg(long, value_name = "D")]
    pub retention_days: Option<u32>,
    /// Bytes of events that are kept, all partitions together, as 500MB or 40GiB
    /// [default: no limit; a full disk refuses telemetry and never deletes early]
    #[arg(long, value_name = "B")]
    pub retention_bytes: Option<Bytes>,
    /// Commands in one device's queue at most, 1 to 1000 [default: 50]
    #[arg(long, value_name = "N")]
    pub command_queue_depth: Option<u32>,
    /// Seconds that a command waits for its device where its sender does not say, 60 to 172800 [default: 3600]
    #[arg(long, value_name = "S")]
    pub command_ttl_s: Option<u64>,
    /// Seconds that a command stays locked for the device that received it, 5 to 300 [default: 60]
    #[arg(long, value_name = "S")]
    pub command_lock_s: Option<u64>,
    /// Deliveries after which a command that is given back is given up, 1 to 100 [default: 10]
    #[arg(long, value_name = "N")]
    pub command_deliveries_max: Option<u8>,
    /// Count every lock that ends without settlement as a delivery, as in 2015, and not abandoned ones alone [default: false]
    #[arg(long, value_name = "true|false")]
    pub command_count_every_lock: Option<bool>,
    /// Seconds that a token still counts after its expiry, 0 to 300 [default: 0]
    #[arg(long, value_name = "S")]
    pub token_skew_s: Option<u64>,
    /// Seconds that the answer to a failed login waits at most, 0 to 30: it waits the longer, the more logins of an address or
    /// a device have failed; good ones never wait [default: 5]
    #[arg(long, value_name = "S")]
    pub failed_login_delay_max_s: Option<u64>,
    /// Milliseconds that each sync of a log is made to take longer, 0 to 1000, to measure what a slower disk does [default: 0]
    #[arg(long, value_name = "MS", hide = true)]
    pub sync_delay_ms: Option<u64>,
    /// Most connections at a time, all cores together [default: what the limit of open files allows]
    #[arg(long, value_name = "N")]
    pub connections_max: Option<u32>,
    /// File that holds the key for keys at rest: 32 bytes or their base64 text [default: keys/data.key in the data directory]
    #[arg(long, value_name = "FILE", conflicts_with = "data_key_fd")]
    pub data_key_file: Option<PathBuf>,
    /// Open file descriptor to read that key from
    #[arg(long, value_name = "FD")]
    pub data_key_fd: Option<u32>,
    /// Directory that import and export jobs read and write below [default: jobs/files in the data directory]
    #[arg(long, value_name = "DIR")]
    pub jobs_directory: Option<PathBuf>,
    /// What is logged on stderr: error, warn, info, debug, trace, or filters by module [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// A number of bytes with an optional unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "kib" => 1 << 10,
            "mb" => 1_000_000,
            "mib" => 1 << 20,
            "gb" => 1_000_000_000,
            "gib" => 1 << 30,
            "tb" => 1_000_000_000_000,
            "tib" => 1 << 40,
            _ => return Err(format!("{text:?} is not a number of bytes such as 500MB or 40GiB")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{text:?} does not begin with a number"))?;
        number.checked_mul(unit).map(Bytes).ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Bytes(number)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Form::deserialize(deserializer)? {
        Form::One(one) => vec![one],
        Form::Many(many) => many,
    })
}

/// Which CPUs the cores are pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// The scheduler decides.
    None,
    /// One CPU per core.
    Cpus(Vec<usize>),
}

/// What `serve` runs with: checked, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of the hub's data.
    pub data: PathBuf,
    /// What the hub is to be called, where that was said.
    pub name: Option<String>,
    /// By which names and addresses clients reach the hub: the one for connection strings first.
    pub hosts: Vec<Name>,
    /// Addresses to listen on.
    pub bind: Vec<IpAddr>,
    /// Port for AMQP over TLS.
    pub amqps_port: u16,
    /// Port for HTTPS; none: the default, 443 or else 8443.
    pub https_port: Option<u16>,
    /// Port for MQTT over TLS.
    pub mqtts_port: u16,
    /// Port for AMQP in the clear, where it is on.
    pub plain_amqp_port: Option<u16>,
    /// Further protocols, and their ports.
    pub also: Vec<(&'static Further, u16)>,
    /// Cores to run on.
    pub core_count: u16,
    /// Where they run.
    pub pin: Pin,
    /// How many partitions the hub is to have, where that was said.
    pub partitions: Option<u16>,
    /// Days that events are kept.
    pub retention_days: u32,
    /// Bytes of events that are kept, all partitions together.
    pub retention_bytes: Option<u64>,
    /// How commands are kept, locked and counted.
    pub commands: CommandRules,
    /// Seconds that a token still counts after its expiry.
    pub token_skew_s: u64,
    /// Seconds that the answer to a failed login waits at most.
    pub failed_login_delay_max_s: u64,
    /// Milliseconds that each sync of a log is made to take longer.
    pub sync_delay_ms: u64,
    /// Most connections at a time.
    pub connections_max: Option<u32>,
    /// Where the key for keys at rest comes from.
    pub data_key: DataKeySource,
    /// Where jobs have their files, where that was said.
    pub jobs_directory: Option<PathBuf>,
    /// What is logged.
    pub log: String,
}

impl Config {
    /// The name that a new hub gets: what was said, or the first label of its first host.
    pub fn name_of_new_hub(&self) -> String {
        match (&self.name, &self.hosts[0]) {
            (Some(name), _) => name.clone(),
            (None, Name::Host(host)) => host.split('.').next().unwrap_or("hub").to_string(),
            (None, Name::Address(_)) => "hub".to_string(),
        }
    }

    /// The partitions that a new hub gets: what was said, or the larger of 4 and the cores, at most 32.
    pub fn partitions_of_new_hub(&self) -> u16 {
        self.partitions.unwrap_or_else(|| self.core_count.clamp(PARTITIONS_DEFAULT_MIN, PARTITIONS_MAX))
    }

    /// All names that the certificate covers: the hosts and the bound addresses.
    pub fn certificate_names(&self) -> Vec<Name> {
        let mut names = self.hosts.clone();
        for address in &self.bind {
            let covered: &[IpAddr] = match address {
                // All addresses have no list; those that others use are named with --host.
                IpAddr::V4(all) if all.is_unspecified() => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
                IpAddr::V6(all) if all.is_unspecified() => {
                    &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]
                }
                one => std::slice::from_ref(one),
            };
            names.extend(covered.iter().copied().map(Name::Address));
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

/// What this machine suggests where nothing was said.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name, as far as it has one.
    pub host_name: Option<String>,
    /// How many cores this process may use.
    pub core_count: u16,
    /// Whether IPv6 is on.
    pub has_ipv6: bool,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            host_name: Some(name).filter(|name| !name.is_empty()),
            core_count: u16::try_from(cores).unwrap_or(u16::MAX),
            has_ipv6: TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok(),
        }
    }
}

impl Settings {
    /// Put the file of `--config` under the flags and fill in what neither says.
    ///
    /// # Errors
    ///
    /// [`ConfigError`]: one sentence.
    pub fn resolve(self, machine: &Machine) -> Result<Config, ConfigError> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => Self::default(),
        };
        self.over(file).check(machine)
    }

    fn over(self, file: Self) -> Self {
        let or = |flags: Vec<String>, file| if flags.is_empty() { file } else { flags };
        // The two places of the data key are one setting: a flag for either replaces both.
        let key = if self.data_key_file.is_some() || self.data_key_fd.is_some() {
            (self.data_key_file, self.data_key_fd)
        } else {
            (file.data_key_file, file.data_key_fd)
        };
        Self {
            data: self.data.or(file.data),
            config: self.config,
            name: self.name.or(file.name),
            host: or(self.host, file.host),
            bind: or(self.bind, file.bind),
            amqps_port: self.amqps_port.or(file.amqps_port),
            https_port: self.https_port.or(file.https_port),
            mqtts_port: self.mqtts_port.or(file.mqtts_port),
            plain_amqp_port: self.plain_amqp_port.or(file.plain_amqp_port),
            also: or(self.also, file.also),
            cores: self.cores.or(file.cores),
            pin: self.pin.or(file.pin),
            partitions: self.partitions.or(file.partitions),
            retention_days: self.retention_days.or(file.retention_days),
            retention_bytes: self.retention_bytes.or(file.retention_bytes),
            command_queue_depth: self.command_queue_depth.or(file.command_queue_depth),
            command_ttl_s: self.command_ttl_s.or(file.command_ttl_s),
            command_lock_s: self.command_lock_s.or(file.command_lock_s),
            command_deliveries_max: self.command_deliveries_max.or(file.command_deliveries_max),
            command_count_every_lock: self.command_count_every_lock.or(file.command_count_every_lock),
            token_skew_s: self.token_skew_s.or(file.token_skew_s),
            failed_login_delay_max_s: self.failed_login_delay_max_s.or(file.failed_login_delay_max_s),
            sync_delay_ms: self.sync_delay_ms.or(file.sync_delay_ms),
            connections_max: self.connections_max.or(file.connections_max),
            data_key_file: key.0,
            data_key_fd: key.1,
            jobs_directory: self.jobs_directory.or(file.jobs_directory),
            log: self.log.or(file.log),
        }
    }

    fn command_rules(&self) -> Result<CommandRules, ConfigError> {
        let mut rules = CommandRules::default();
        if let Some(depth) = self.command_queue_depth {
            rules.queue_depth_max = within("command-queue-depth", depth, 1, 1000)?;
        }
        if let Some(seconds) = self.command_ttl_s {
            rules.ttl_ms_default = 1000 * within("command-ttl-s", seconds, 60, 2 * 86_400)?;
        }
        if let Some(seconds) = self.command_lock_s {
            rules.lock_timeout_ms = 1000 * within("command-lock-s", seconds, 5, 300)?;
        }
        if let Some(count) = self.command_deliveries_max {
            rules.delivery_count_max = within("command-deliveries-max", count, 1, 100)?;
        }
        rules.counts_every_lock = self.command_count_every_lock.unwrap_or(rules.counts_every_lock);
        Ok(rules)
    }

    fn check(self, machine: &Machine) -> Result<Config, ConfigError> {
        let commands = self.command_rules()?;
        let data = self.data.ok_or_else(|| value("data", "say where the hub's data is: --data DIR"))?;
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        let core_count = within("cores", self.cores.unwrap_or(machine.core_count), 1, 256)?;
        if let Some(partitions) = self.partitions {
            within("partitions", partitions, 1, PARTITIONS_MAX)?;
        }
        let pin = parse_pin(self.pin.as_deref().unwrap_or("none"), core_count)?;
        let data_key = match (self.data_key_file, self.data_key_fd) {
            (Some(_), Some(_)) => return Err(value("data-key-file", "and data-key-fd exclude each other")),
            (Some(path), None) => DataKeySource::File(path),
            (None, Some(number)) => DataKeySource::Descriptor(number),
            (None, None) => DataKeySource::Beside,
        };
        let config = Config {
            data,
            name: self.name,
            hosts: hosts(&self.host, machine)?,
            bind: bind(&self.bind, machine)?,
            amqps_port: port("amqps-port", self.amqps_port.unwrap_or(5671))?,
            https_port: self.https_port.map(|number| port("https-port", number)).transpose()?,
            mqtts_port: port("mqtts-port", self.mqtts_port.unwrap_or(8883))?,
            plain_amqp_port: self
                .plain_amqp_port
                .map(|number| port("plain-amqp-port", number))
                .transpose()?,
            also: further(&self.also)?,
            core_count,
            pin,
            partitions: self.partitions,
            retention_days: within("retention-days", self.retention_days.unwrap_or(7), 1, 7)?,
            retention_bytes: self.retention_bytes.map(|bytes| bytes.0),
            commands,
            token_skew_s: within("token-skew-s", self.token_skew_s.unwrap_or(0), 0, 300)?,
            failed_login_delay_max_s: within(
                "failed-login-delay-max-s",
                self.failed_login_delay_max_s.unwrap_or(5),
                0,
                30,
            )?,
            sync_delay_ms: within("sync-delay-ms", self.sync_delay_ms.unwrap_or(0), 0, 1000)?,
            connections_max: self
                .connections_max
                .map(|most| within("connections-max", most, 1, u32::MAX))
                .transpose()?,
            data_key,
            jobs_directory: self.jobs_directory,
            log: self.log.unwrap_or_else(|| "info".into()),
        };
        check_name(&config.name_of_new_hub())?;
        Ok(config)
    }
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::File { path: path.to_path_buf(), source })?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        let reason = format!("{place}{}", error.message().replace('\n', " "));
        ConfigError::Syntax { path: path.to_path_buf(), reason }
    })
}

#[cfg(test)]
mod tests;
