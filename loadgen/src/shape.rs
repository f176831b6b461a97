//! The numbers of a load, and which options have a meaning for it.

use crate::arguments::{Arguments, Profile};
use crate::job::{Protocol, TlsVersion};
use crate::ledger::MARK_BYTES;

/// Commands of one back end that are not known to be enqueued, at most.
pub const COMMANDS_IN_FLIGHT_MAX: u32 = 4096;
/// Messages of a connection over MQTT that are not acknowledged, at most: each has a packet identifier.
const MQTT_IN_FLIGHT_MAX: u32 = u16::MAX as u32;
/// Far above what a process can send; what was due and not sent is counted one by one.
const RATE_MAX: f64 = 10_000_000.0;
const DEVICE_COUNT_MAX: u32 = 10_000_000;
const READER_COUNT_MAX: u32 = 1000;
const SECONDS_MAX: f64 = 86_400.0;

/// The numbers of a load: the user's, and where there are none the defaults, some of them the profile's.
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
    /// Of bodies and phases.
    pub seed: u64,
}

impl Shape {
    /// The numbers that the arguments ask for.
    ///
    /// # Errors
    ///
    /// A number that makes no load, or an option that would do nothing: nobody is to believe that something was measured
    /// which was not.
    pub fn new(arguments: &Arguments, protocol: Protocol) -> Result<Self, String> {
        let profile = arguments.profile;
        let (connections, devices, rate) = match profile {
            Profile::Gateway => (4, 250, Some(50_000.0)),
            Profile::Telemetry => (1000, 1, Some(5_000.0)),
            Profile::Connect => (100, 1, Some(200.0)),
            Profile::Commands => (4, 250, Some(2_000.0)),
            Profile::Mixed => (4, 250, Some(10_000.0)),
            // Filling a hub and holding connections have no schedule.
            Profile::Idle => (1000, 1, None),
            Profile::Replay => (4, 250, None),
        };
        let rate = rate.filter(|_| !arguments.closed && !arguments.storm);
        let rate = rate.map(|default| arguments.rate.unwrap_or(default));
        check_use(arguments, rate, protocol)?;
        let shape = Self {
            connections: arguments.connections.unwrap_or(connections),
            devices: arguments.devices.unwrap_or(devices),
            // An open loop sends by its schedule; its bound is only there so that a stall does not fill the memory.
            in_flight: arguments.in_flight.unwrap_or(match (profile, rate) {
                (Profile::Telemetry, None) => 1,
                (Profile::Commands, _) => COMMANDS_IN_FLIGHT_MAX,
                (_, None) => 2048,
                (_, Some(_)) => 32_768,
            }),
            rate,
            burst: arguments.burst.unwrap_or(1),
            body_bytes: arguments.body_bytes.unwrap_or(256),
            batch: arguments.batch.unwrap_or(1),
            depth: arguments.depth.unwrap_or(10),
            command_rate: arguments.command_rate.unwrap_or(200.0),
            readers: arguments.readers.unwrap_or(1),
            passes: arguments.passes.unwrap_or(2),
            seed: arguments.seed.unwrap_or(1),
        };
        shape.check(arguments)?;
        shape.check_protocol(arguments, protocol)?;
        let is_gateway = matches!(profile, Profile::Gateway | Profile::Mixed);
        Ok(match (rate, arguments.burst) {
            (Some(rate), None) if is_gateway => {
                let per_s = rate / f64::from(shape.connections) / f64::from(shape.batch);
                Self { burst: ((per_s / 1000.0).round() as u32).max(1), ..shape }
            }
            _ => shape,
        })
    }

    /// The numbers are such that there is something to do, and an end to it.
    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        let counts = [
            ("--connections", self.connections),
            ("--devices", self.devices),
            ("--in-flight", self.in_flight),
            ("--burst", self.burst),
            ("--batch", self.batch),
            ("--depth", self.depth),
            ("--readers", self.readers),
            ("--passes", self.passes),
            ("--processes", arguments.processes.unwrap_or(1)),
        ];
        if let Some((option, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("{option} must be above 0"));
        }
        let is_rate = |rate: f64| rate > 0.0 && rate <= RATE_MAX;
        for (option, rate) in [("--rate", self.rate), ("--command-rate", Some(self.command_rate))] {
            if !rate.is_none_or(is_rate) {
                return Err(format!("{option} must be above 0, and {RATE_MAX} at most"));
            }
        }
        if self.body_bytes < MARK_BYTES {
            return Err(format!("--body-bytes must be at least {MARK_BYTES}"));
        }
        if self.connections.checked_mul(self.devices).is_none_or(|count| count > DEVICE_COUNT_MAX) {
            return Err(format!("a load has at most {DEVICE_COUNT_MAX} devices"));
        }
        if self.readers > READER_COUNT_MAX {
            return Err(format!("--readers must be {READER_COUNT_MAX} at most"));
        }
        if arguments.processes.is_some_and(|count| count > self.connections) {
            return Err("each of --processes needs a connection".to_owned());
        }
        let is_time = |seconds: f64| seconds > 0.0 && seconds <= SECONDS_MAX;
        let Arguments { seconds, warm_up, fill, .. } = *arguments;
        if !is_time(seconds) || !(warm_up == 0.0 || is_time(warm_up)) || !fill.is_none_or(is_time) {
            return Err(
                "--seconds, --fill and --warm-up must be a day at most, and above 0 but for the last"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// The protocol can carry the load.
    fn check_protocol(&self, arguments: &Arguments, protocol: Protocol) -> Result<(), String> {
        let (profile, is_hub) = (arguments.profile, arguments.target.is_none());
        if profile.is_for_hubs() && !is_hub {
            return Err(format!("the profile {} is for a hub", profile.name()));
        }
        if arguments.plain && protocol != Protocol::Amqp {
            return Err("a hub speaks nothing but AMQP without TLS".to_owned());
        }
        if profile == Profile::Commands && protocol != Protocol::Amqp {
            return Err("commands go over AMQP".to_owned());
        }
        if matches!(profile, Profile::Connect | Profile::Idle) && protocol == Protocol::Https {
            return Err(format!("the profile {} is for AMQP and MQTT", profile.name()));
        }
        let is_one_each = matches!(profile, Profile::Telemetry | Profile::Connect | Profile::Idle)
            || arguments.device_tokens
            || (is_hub && protocol != Protocol::Amqp);
        if is_one_each && self.devices != 1 {
            return Err("here each device has a connection of its own: --devices 1".to_owned());
        }
        if self.batch > 1 && (!is_hub || protocol == Protocol::Mqtt) {
            return Err("--batch is for a hub, over AMQP and HTTPS".to_owned());
        }
        let in_flight_max = match (profile, protocol) {
            (Profile::Commands, _) => COMMANDS_IN_FLIGHT_MAX,
            (_, Protocol::Mqtt) => MQTT_IN_FLIGHT_MAX,
            _ => u32::MAX,
        };
        match self.in_flight > in_flight_max {
            true => Err(format!("--in-flight is {in_flight_max} here at most")),
            false => Ok(()),
        }
    }
}

fn check_use(arguments: &Arguments, rate: Option<f64>, protocol: Protocol) -> Result<(), String> {
    let profile = arguments.profile;
    let is_connect = profile == Profile::Connect;
    let is_read_back = profile.sends() && profile != Profile::Replay;
    let (has_bodies, has_commands) = (profile.has_bodies(), profile.has_commands());
    let has_burst = rate.is_some() && is_read_back;
    // Elsewhere devices with a connection of their own have them anyhow.
    let may_have_device_tokens =
        profile.sends() && profile != Profile::Telemetry && protocol == Protocol::Amqp;
    let of_no_use = [
        ("--storm", arguments.storm && !is_connect),
        ("--resume", arguments.resume && !is_connect),
        (
            "--closed",
            arguments.closed && (arguments.storm || matches!(profile, Profile::Replay | Profile::Idle)),
        ),
        ("--rate", arguments.rate.is_some() && rate.is_none()),
        ("--burst", arguments.burst.is_some() && !has_burst),
        ("--body-bytes", arguments.body_bytes.is_some() && !has_bodies),
        ("--batch", arguments.batch.is_some() && !profile.sends()),
        ("--in-flight", arguments.in_flight.is_some() && !profile.sends() && profile != Profile::Commands),
        ("--device-tokens", arguments.device_tokens && !may_have_device_tokens),
        ("--depth", arguments.depth.is_some() && !has_commands),
        ("--no-receipts", arguments.no_receipts && !has_commands),
        ("--command-rate", arguments.command_rate.is_some() && profile != Profile::Mixed),
        ("--fill", arguments.fill.is_some() && profile != Profile::Mixed),
        ("--readers", arguments.readers.is_some() && !profile.has_readers()),
        ("--passes", arguments.passes.is_some() && profile != Profile::Replay),
        ("--seed", arguments.seed.is_some() && !has_bodies && rate.is_none()),
        ("--processes", arguments.processes.is_some() && profile == Profile::Commands),
        ("--unverified", arguments.unverified && !is_read_back),
        ("--address", arguments.address.is_some() && is_connect && protocol == Protocol::Mqtt),
        ("--read-address", arguments.read_address.is_some() && (arguments.unverified || !is_read_back)),
        ("--retention-mib", arguments.retention_mib.is_some() && !is_read_back),
        ("--plot", arguments.plot.is_some() && profile == Profile::Idle),
        ("--tls", arguments.plain && arguments.tls != TlsVersion::Any),
    ];
    match of_no_use.iter().find(|(_, is_of_no_use)| *is_of_no_use) {
        Some((option, _)) => Err(format!("{option} has no meaning for this load: {}", profile.name())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn shape(line: &str) -> Result<Shape, String> {
        let words = ["loadgen"].into_iter().chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let protocol = crate::target::protocol_of(&arguments)?;
        Shape::new(&arguments, protocol)
    }

    #[track_caller]
    fn is_refused(line: &str, reason: &str) {
        let error = shape(line).expect_err(line);
        assert!(error.contains(reason), "{line}: {error}");
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
            ("commands --processes 2", "--processes"),
            ("connect --body-bytes 300", "--body-bytes"),
            ("connect --storm --closed", "--closed"),
            ("connect --closed --seed 2", "--seed"),
            ("connect --target mqtt://host --address a", "--address"),
            ("gateway --depth 2", "--depth"),
            ("gateway --passes 3", "--passes"),
            ("replay --fill 3", "--fill"),
            ("gateway --devices 1 --device-tokens --protocol mqtt", "--device-tokens"),
            ("replay --command-rate 7", "--command-rate"),
            ("telemetry --device-tokens", "--device-tokens"),
            ("telemetry --readers 2", "--readers"),
        ] {
            is_refused(line, &format!("{option} has no meaning"));
        }
        shape("connect --storm --resume").unwrap();
        shape("connect --seed 2").unwrap();
        shape("gateway --devices 1 --device-tokens").unwrap();
    }

    #[test]
    fn a_broker_takes_no_options_of_a_hub() {
        let target = "--target amqp://host/queue";
        for option in [
            "--hub-pin 0",
            "--retention-mib 5",
            "--plain",
            "--data-parent /tmp",
            "--partitions 2",
            "--device-tokens",
        ] {
            is_refused(&format!("gateway {target} {option}"), "cannot be used with");
        }
        shape(&format!("gateway {target} --address /queues/a --server-pid 5")).unwrap();
        is_refused("gateway --server-pid 5", "required");
        is_refused(&format!("mixed {target}"), "is for a hub");
        is_refused(&format!("gateway {target} --batch 2"), "--batch is for a hub");
        is_refused(&format!("gateway {target} --protocol mqtt"), "contradicts");
    }

    #[test]
    fn numbers_that_make_no_load_are_refused() {
        for line in [
            "gateway --in-flight 0",
            "commands --depth 0",
            "gateway --processes 0",
            "gateway --rate 0",
            "gateway --rate nan",
            "commands --rate 3e9",
            "mixed --command-rate inf",
        ] {
            let option = line.split_whitespace().nth(1).unwrap();
            is_refused(line, &format!("{option} must be above 0"));
        }
        is_refused("gateway --processes 5", "each of --processes");
        is_refused("mixed --readers 4294967290", "--readers must be");
        is_refused("commands --in-flight 5000", "--in-flight is 4096");
        is_refused("telemetry --protocol mqtt --in-flight 65536", "--in-flight is 65535");
        is_refused("gateway --connections 65536 --devices 65536", "devices");
        is_refused("gateway --body-bytes 1", "--body-bytes");
        is_refused("gateway --seconds 0", "--seconds");
        is_refused("gateway --warm-up nan", "--warm-up");
        is_refused("mixed --fill 0", "--fill");
    }

    #[test]
    fn protocols_carry_what_they_can() {
        for line in [
            "gateway --protocol mqtt",
            "mixed --protocol mqtt",
            "gateway --device-tokens",
            "idle --devices 2",
            "telemetry --devices 5",
        ] {
            is_refused(line, "--devices 1");
        }
        is_refused("connect --protocol https", "AMQP and MQTT");
        is_refused("commands --protocol mqtt", "commands go over AMQP");
        is_refused("telemetry --protocol mqtt --plain", "without TLS");
        is_refused("telemetry --protocol mqtt --batch 2", "--batch");
        shape("gateway --protocol mqtt --devices 1").unwrap();
        shape("telemetry --target mqtt://host/load/{device}").unwrap();
    }

    #[test]
    fn gateways_pass_on_what_has_gathered() {
        assert_eq!(shape("gateway --rate 8000").unwrap().burst, 2);
        assert_eq!(shape("gateway --rate 8000 --burst 7").unwrap().burst, 7);
        assert_eq!(shape("telemetry --rate 80000").unwrap().burst, 1);
    }
}
