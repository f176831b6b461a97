//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::job::{Protocol, TlsVersion};

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
    /// The hub's retention, MiB of all partitions together. The oldest events may be gone when they are read back, the report
    /// says how many; all of it but a segment of each partition, 256 MiB, must be there.
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
    /// gateway, telemetry, mixed, open loop: so many are due at once on a connection; a gateway's default is a
    /// millisecond's worth, a device's 1.
    #[arg(long, help_heading = "Load")]
    pub burst: Option<u32>,
    /// Messages without acknowledgement at most, per connection (commands: of the back end); the default is the profile's.
    #[arg(long, help_heading = "Load")]
    pub in_flight: Option<u32>,
    /// gateway, mixed, replay over AMQP with --devices 1: a token for each connection's device alone, so that the hub may
    /// move the connection to that device's core.
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
    /// mixed: fill the hub in a closed loop for so many seconds first: readers then begin with events that have left memory.
    #[arg(long, value_name = "SECONDS", help_heading = "Load")]
    pub fill: Option<f64>,
    /// replay, mixed: readers, each of all partitions; default 1.
    #[arg(long, help_heading = "Load")]
    pub readers: Option<u32>,
    /// replay: how often everything is read; default 2.
    #[arg(long, help_heading = "Load")]
    pub passes: Option<u32>,
    /// What bodies and phases of the schedules come from; default 1.
    #[arg(long, help_heading = "Load")]
    pub seed: Option<u64>,

    /// Seconds before the measured window.
    #[arg(long, default_value_t = 2.0, help_heading = "Course")]
    pub warm_up: f64,
    /// Seconds of the measured window.
    #[arg(long, default_value_t = 10.0, help_heading = "Course")]
    pub seconds: f64,
    /// Processes that make the load, each with some of the connections; default as many as the descriptors ask for.
    #[arg(long, help_heading = "Course")]
    pub processes: Option<u32>,
    /// The load's CPUs: one, or one for each process in turn; no more than there are processes.
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
    /// Readers from the oldest event; fills the hub for --warm-up and --seconds first.
    Replay,
    /// Telemetry of gateways, commands and readers from the oldest event at once.
    Mixed,
}

impl Profile {
    /// Whether it sends events, which are read back.
    pub fn sends(self) -> bool {
        matches!(self, Self::Gateway | Self::Telemetry | Self::Replay | Self::Mixed)
    }

    /// Whether it sends commands.
    pub fn has_commands(self) -> bool {
        matches!(self, Self::Commands | Self::Mixed)
    }

    /// Whether it sends anything at all.
    pub fn has_bodies(self) -> bool {
        self.sends() || self.has_commands()
    }

    /// Whether readers are part of the load.
    pub fn has_readers(self) -> bool {
        matches!(self, Self::Replay | Self::Mixed)
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
