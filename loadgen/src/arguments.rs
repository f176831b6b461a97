//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::job::{Protocol, TlsVersion};
use crate::ledger::MARK_BYTES;

/// Commands of one back end that are not known to be enqueued, at most.
pub const COMMANDS_IN_FLIGHT_MAX: u32 = 4096;

/// Drives a hub that it starts, or any AMQP 1.0 or MQTT 3.1.1 broker, and checks what was acknowledged.
///
/// Without arguments: the gateway profile against the corehub beside this program. By default the load is an open loop: each
/// event has its time by a schedule that no stall of the server delays, and latency counts from that time.
#[derive(Clone, Debug, Parser)]
#[command(name = "loadgen", version)]
pub struct Arguments {
    /// What the load is.
    #[arg(value_enum, default_value_t = Profile::Gateway)]
    pub profile: Profile,

    /// A broker in place of a hub, such as amqp://user:password@host:5672/queue; amqp, amqps, mqtt or mqtts, user and
    /// port may be left out, {device} in the path stands for the device's id. The environment variable LOADGEN_TARGET
    /// serves, too.
    #[arg(long, value_name = "URL", env = "LOADGEN_TARGET", hide_env = true, help_heading = "Target")]
    pub target: Option<String>,
    /// The queue, address or topic to send to, as it stands, in place of the one in the URL.
    #[arg(long, requires = "target", help_heading = "Target")]
    pub address: Option<String>,
    /// The queue or topic filter to read back from, where that is another one.
    #[arg(long, requires = "target", help_heading = "Target")]
    pub read_address: Option<String>,
    /// The CA of the broker's certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "target", help_heading = "Target")]
    pub ca: Option<PathBuf>,
    /// The broker's process, whose CPU time and memory are measured.
    #[arg(long, value_name = "PID", requires = "target", help_heading = "Target")]
    pub server_pid: Option<u32>,
    /// The hub's program; default: corehub beside this one.
    #[arg(long, value_name = "FILE", conflicts_with = "target", help_heading = "Target")]
    pub hub_binary: Option<PathBuf>,
    /// Cores of the hub.
    #[arg(long, default_value_t = 1, conflicts_with = "target", help_heading = "Target")]
    pub hub_cores: u16,
    /// CPUs of the hub's cores, as corehub serve --pin takes them.
    #[arg(long, conflicts_with = "target", help_heading = "Target")]
    pub hub_pin: Option<String>,
    /// Where the hub listens.
    #[arg(long, default_value = "127.0.0.9", conflicts_with = "target", help_heading = "Target")]
    pub hub_bind: String,
    /// One more argument of corehub serve; may be repeated.
    #[arg(long, allow_hyphen_values = true, conflicts_with = "target", help_heading = "Target")]
    pub hub_arg: Vec<String>,
    /// The hub's retention, MiB of all partitions together. The oldest events may be gone when they are read back, but no
    /// more of them than it may take; the report says how many.
    #[arg(long, value_name = "MIB", conflicts_with_all = ["target", "unverified"], help_heading = "Target")]
    pub retention_mib: Option<u64>,
    /// Partitions of the hub; default as corehub serve has it.
    #[arg(long, conflicts_with = "target", help_heading = "Target")]
    pub partitions: Option<u16>,
    /// Where the hub's data goes while it runs (a real disk).
    #[arg(long, default_value = ".", conflicts_with = "target", help_heading = "Target")]
    pub data_parent: PathBuf,
    /// Leave the hub's directory, corehub-load-*, when the run is over.
    #[arg(long, conflicts_with = "target", help_heading = "Target")]
    pub keep_data: bool,

    /// How the load speaks to a hub; default AMQP.
    #[arg(long, value_enum, help_heading = "Load")]
    pub protocol: Option<Protocol>,
    /// Without TLS: AMQP over the hub's plain port. The scheme of --target says it of a broker.
    #[arg(long, conflicts_with_all = ["target", "resume"], help_heading = "Load")]
    pub plain: bool,
    /// The version of TLS.
    #[arg(long, value_enum, default_value_t = TlsVersion::Any, help_heading = "Load")]
    pub tls: TlsVersion,
    /// Connections; the default is the profile's.
    #[arg(long, help_heading = "Load")]
    pub connections: Option<u32>,
    /// Devices on each connection; the default is the profile's.
    #[arg(long, help_heading = "Load")]
    pub devices: Option<u32>,
    /// Bytes of each body; default 256.
    #[arg(long, help_heading = "Load")]
    pub body_bytes: Option<usize>,
    /// Events of a message; default 1.
    #[arg(long, help_heading = "Load")]
    pub batch: Option<u32>,
    /// Closed loop: the next one goes as soon as there is room, at whatever rate comes of it.
    #[arg(long, conflicts_with = "rate", help_heading = "Load")]
    pub closed: bool,
    /// Open loop: so many a second over all connections; the default is the profile's.
    #[arg(long, help_heading = "Load")]
    pub rate: Option<f64>,
    /// Open loop: so many are due at once on a connection; a gateway's default is a millisecond's worth, a device's 1.
    #[arg(long, help_heading = "Load")]
    pub burst: Option<u32>,
    /// Messages without acknowledgement at most, per connection; the default is the profile's.
    #[arg(long, help_heading = "Load")]
    pub in_flight: Option<u32>,
    /// gateway, mixed, replay with --devices 1: a token for each connection's device alone, so that the hub may move the
    /// connection to that device's core.
    #[arg(long, conflicts_with = "target", help_heading = "Load")]
    pub device_tokens: bool,
    /// connect: each device's TLS handshake builds on its last one: tickets.
    #[arg(long, help_heading = "Load")]
    pub resume: bool,
    /// connect: all connections are lost at once, again and again, each time when the last one stands.
    #[arg(long, conflicts_with = "rate", help_heading = "Load")]
    pub storm: bool,
    /// commands, mixed: commands of a device on their way at most; default 10.
    #[arg(long, help_heading = "Load")]
    pub depth: Option<u32>,
    /// commands, mixed: ask for no receipts.
    #[arg(long, help_heading = "Load")]
    pub no_receipts: bool,
    /// mixed: commands a second; default 200.
    #[arg(long, help_heading = "Load")]
    pub command_rate: Option<f64>,
    /// replay, mixed: readers, each of all partitions; default 1.
    #[arg(long, help_heading = "Load")]
    pub readers: Option<u32>,
    /// replay: how often everything is read; default 2.
    #[arg(long, help_heading = "Load")]
    pub passes: Option<u32>,
    /// What bodies and phases of the schedules come from.
    #[arg(long, default_value_t = 1, help_heading = "Load")]
    pub seed: u64,

    /// Seconds before the measured window.
    #[arg(long, default_value_t = 2.0, help_heading = "Course")]
    pub warm_up: f64,
    /// Seconds of the measured window.
    #[arg(long, default_value_t = 10.0, help_heading = "Course")]
    pub seconds: f64,
    /// Processes that make the load, each with some of the connections; default as many as the descriptors ask for.
    #[arg(long, help_heading = "Course")]
    pub processes: Option<u32>,
    /// The load's CPUs: one, or one for each process in turn.
    #[arg(long, value_delimiter = ',', help_heading = "Course")]
    pub cpu: Vec<usize>,
    /// Do not read back what was acknowledged. The report says so: such a run shows nothing of durability.
    #[arg(long, help_heading = "Course")]
    pub unverified: bool,

    /// Draw throughput and latency percentiles by time.
    #[arg(long, value_name = "FILE.svg", help_heading = "Output")]
    pub plot: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// What the load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Few connections with many devices each.
    Gateway,
    /// Many devices, each with a connection of its own.
    Telemetry,
    /// Devices that connect, are let in, attach, and go again.
    Connect,
    /// Devices that hold their connections: what they cost in memory.
    Idle,
    /// Commands: enqueued, delivered, completed, told of by receipts.
    Commands,
    /// Readers from the oldest event; fills the hub for --seconds first.
    Replay,
    /// Telemetry of gateways, commands and readers from the oldest event at once.
    Mixed,
}

impl Profile {
    /// Whether it sends events, which are read back.
    pub fn sends(self) -> bool {
        matches!(self, Self::Gateway | Self::Telemetry | Self::Replay | Self::Mixed)
    }

    /// Whether nothing but a hub can be its target.
    pub fn is_for_hubs(self) -> bool {
        matches!(self, Self::Commands | Self::Replay | Self::Mixed)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Telemetry => "telemetry",
            Self::Connect => "connect",
            Self::Idle => "idle",
            Self::Commands => "commands",
            Self::Replay => "replay",
            Self::Mixed => "mixed",
        }
    }
}

/// The numbers of a load: the user's, and where there are none the profile's.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Connections.
    pub connections: u32,
    /// Devices on each.
    pub devices: u32,
    /// Messages without acknowledgement at most, per connection.
    pub in_flight: u32,
    /// Events a second over all connections; none: a closed loop.
    pub rate: Option<f64>,
    /// Messages that are due at once on a connection.
    pub burst: u32,
    /// Bytes of each body.
    pub body_bytes: usize,
    /// Events of a message.
    pub batch: u32,
    /// Commands of a device on their way at most.
    pub depth: u32,
    /// Commands a second beside telemetry.
    pub command_rate: f64,
    /// Readers, each of all partitions.
    pub readers: u32,
    /// How often everything is read.
    pub passes: u32,
}

impl Arguments {
    /// The numbers of the load.
    ///
    /// # Errors
    ///
    /// A number that makes no load, or an option that would do nothing.
    pub fn shape(&self) -> Result<Shape, String> {
        let (connections, devices, rate) = match self.profile {
            Profile::Gateway => (4, 250, 50_000.0),
            Profile::Telemetry => (1000, 1, 5_000.0),
            Profile::Connect => (100, 1, 200.0),
            Profile::Idle => (1000, 1, 1.0),
            Profile::Commands => (4, 250, 2_000.0),
            Profile::Replay => (4, 250, 1.0),
            Profile::Mixed => (4, 250, 10_000.0),
        };
        // Filling a hub, a storm and holding connections have no schedule.
        let is_closed = self.closed || self.storm || matches!(self.profile, Profile::Replay | Profile::Idle);
        let rate = (!is_closed).then_some(self.rate.unwrap_or(rate));
        self.check_use(rate)?;
        let shape = Shape {
            connections: self.connections.unwrap_or(connections),
            devices: self.devices.unwrap_or(devices),
            // An open loop sends by its schedule; its bound is only there so that a stall does not fill the memory.
            in_flight: self.in_flight.unwrap_or(match (self.profile, rate) {
                (Profile::Telemetry, None) => 1,
                (Profile::Commands, _) => COMMANDS_IN_FLIGHT_MAX,
                (_, None) => 2048,
                (_, Some(_)) => 32_768,
            }),
            rate,
            burst: self.burst.unwrap_or(1),
            body_bytes: self.body_bytes.unwrap_or(256),
            batch: self.batch.unwrap_or(1),
            depth: self.depth.unwrap_or(10),
            command_rate: self.command_rate.unwrap_or(200.0),
            readers: self.readers.unwrap_or(1),
            passes: self.passes.unwrap_or(2),
        };
        self.check(&shape)?;
        let is_gateway = matches!(self.profile, Profile::Gateway | Profile::Mixed);
        Ok(match (rate, self.burst) {
            (Some(rate), None) if is_gateway => {
                let per_s = rate / f64::from(shape.connections) / f64::from(shape.batch);
                Shape { burst: ((per_s / 1000.0).round() as u32).max(1), ..shape }
            }
            _ => shape,
        })
    }

    /// The numbers make a load.
    fn check(&self, shape: &Shape) -> Result<(), String> {
        let is_rate = |rate: f64| rate.is_finite() && rate > 0.0;
        let &Shape { connections, devices, .. } = shape;
        let of_own = matches!(self.profile, Profile::Connect | Profile::Idle) || self.device_tokens;
        if of_own && devices != 1 {
            return Err("here a device has a connection of its own: --devices 1".to_owned());
        }
        let counts =
            [connections, devices, shape.in_flight, shape.burst, shape.batch, shape.depth, shape.readers];
        if counts.contains(&0) || shape.passes == 0 || self.processes == Some(0) {
            return Err("a load needs at least 1 of everything that is counted".to_owned());
        }
        if self.processes.is_some_and(|count| count > connections) {
            return Err("each of --processes needs a connection".to_owned());
        }
        if !shape.rate.is_none_or(is_rate) || !is_rate(shape.command_rate) {
            return Err("--rate and --command-rate must be numbers above 0".to_owned());
        }
        if shape.body_bytes < MARK_BYTES {
            return Err(format!("--body-bytes must be at least {MARK_BYTES}"));
        }
        if connections.checked_mul(devices).is_none_or(|count| count > 10_000_000) {
            return Err("a load has at most ten million devices".to_owned());
        }
        if !(self.seconds > 0.0 && self.seconds <= 86_400.0 && (0.0..=86_400.0).contains(&self.warm_up)) {
            return Err("--seconds and --warm-up must be at most a day, and --seconds above 0".to_owned());
        }
        if self.profile == Profile::Commands && shape.in_flight > COMMANDS_IN_FLIGHT_MAX {
            return Err(format!("--in-flight of commands is {COMMANDS_IN_FLIGHT_MAX} at most"));
        }
        Ok(())
    }

    /// What was asked for has a meaning for the profile: nobody is to believe that something was measured which was not.
    fn check_use(&self, rate: Option<f64>) -> Result<(), String> {
        let Self { profile, .. } = *self;
        let is_connect = profile == Profile::Connect;
        let is_read_back = profile.sends() && profile != Profile::Replay;
        let has_commands = matches!(profile, Profile::Commands | Profile::Mixed);
        let has_readers = matches!(profile, Profile::Replay | Profile::Mixed);
        let has_burst = rate.is_some() && is_read_back;
        // Those of telemetry have them anyhow.
        let may_have_device_tokens = profile.sends() && profile != Profile::Telemetry;
        let of_no_use = [
            ("--storm", self.storm && !is_connect),
            ("--resume", self.resume && !is_connect),
            ("--closed", self.closed && (self.storm || matches!(profile, Profile::Replay | Profile::Idle))),
            ("--rate", self.rate.is_some() && rate.is_none()),
            ("--burst", self.burst.is_some() && !has_burst),
            ("--body-bytes", self.body_bytes.is_some() && !profile.sends() && !has_commands),
            ("--batch", self.batch.is_some() && !profile.sends()),
            ("--in-flight", self.in_flight.is_some() && !profile.sends() && profile != Profile::Commands),
            ("--device-tokens", self.device_tokens && !may_have_device_tokens),
            ("--depth", self.depth.is_some() && !has_commands),
            ("--no-receipts", self.no_receipts && !has_commands),
            ("--command-rate", self.command_rate.is_some() && profile != Profile::Mixed),
            ("--readers", self.readers.is_some() && !has_readers),
            ("--passes", self.passes.is_some() && profile != Profile::Replay),
            ("--processes", self.processes.is_some() && profile == Profile::Commands),
            ("--unverified", self.unverified && !is_read_back),
            ("--read-address", self.read_address.is_some() && (self.unverified || !is_read_back)),
            ("--retention-mib", self.retention_mib.is_some() && !is_read_back),
            ("--plot", self.plot.is_some() && profile == Profile::Idle),
            ("--tls", self.plain && self.tls != TlsVersion::Any),
        ];
        match of_no_use.iter().find(|(_, is_of_no_use)| *is_of_no_use) {
            Some((option, _)) => Err(format!("{option} has no meaning for this load: {}", profile.name())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        let words = std::iter::once("loadgen").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn what_would_do_nothing_is_refused() {
        for (line, option) in [
            ("gateway --storm", "--storm"),
            ("telemetry --resume", "--resume"),
            ("replay --rate 5", "--rate"),
            ("idle --plot a.svg", "--plot"),
            ("gateway --closed --burst 2", "--burst"),
            ("connect --in-flight 2", "--in-flight"),
            ("replay --unverified", "--unverified"),
            ("gateway --plain --tls 1.3", "--tls"),
            ("commands --in-flight 5000", "--in-flight"),
            ("commands --processes 2", "--processes"),
            ("connect --body-bytes 300", "--body-bytes"),
            ("connect --storm --closed", "--closed"),
            ("gateway --depth 2", "--depth"),
            ("gateway --device-tokens", "--devices 1"),
            ("gateway --passes 3", "--passes"),
            ("gateway --processes 5", "--processes"),
            ("replay --command-rate 7", "--command-rate"),
            ("telemetry --device-tokens", "--device-tokens"),
            ("telemetry --readers 2", "--readers"),
        ] {
            let error = parse(line).unwrap().shape().unwrap_err();
            assert!(error.contains(option), "{line}: {error}");
        }
        parse("connect --storm --resume").unwrap().shape().unwrap();
    }

    #[test]
    fn a_broker_takes_no_options_of_a_hub() {
        let target = "--target amqp://host/queue";
        for option in ["--hub-pin 0", "--retention-mib 5", "--plain", "--data-parent /tmp", "--partitions 2"]
        {
            assert!(parse(&format!("gateway {target} {option}")).is_err(), "{option}");
        }
        parse(&format!("gateway {target} --address /queues/a --server-pid 5")).unwrap();
        assert!(parse("gateway --server-pid 5").is_err());
    }
}
