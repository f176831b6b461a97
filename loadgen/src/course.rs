//! The course of a run: prepare the server, let the processes work, read everything back, report.

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Resource, getrlimit};

use crate::arguments::{Arguments, Profile};
use crate::crew::Crew;
use crate::hub::NAME;
use crate::job::{Job, Protocol, Resume, Until};
use crate::ledger::{Ledger, device_id, mix};
use crate::profile::commands::CommandsPart;
use crate::profile::presence::{Habit, PresencePart};
use crate::profile::read::{AmqpPart, MqttPart, MqttStep};
use crate::profile::send::SendPart;
use crate::profile::{DEVICE, Part};
use crate::record::{KINDS, Recorder};
use crate::report::{Found, ReadBack, Report, ServerUse};
use crate::shape::{COMMANDS_IN_FLIGHT_MAX, Shape};
use crate::target::{Target, protocol_of};
use crate::worker::Outcome;

/// The largest segment of a partition's log, MiB: retention takes whole ones.
const SEGMENT_MIB: u64 = 256;
/// What the log adds to a body at most, bytes: properties, names, times and the frame around them.
const RECORD_BYTES_ASIDE: u64 = 256;
/// Messages that wait on a connection while the hub is filled.
const FILL_IN_FLIGHT: u32 = 2048;
/// Descriptors of a process that are for other things than connections.
const DESCRIPTORS_ASIDE: u64 = 64;

/// Everything that a run's steps need.
#[derive(Debug)]
pub struct Course<'a> {
    arguments: &'a Arguments,
    shape: Shape,
    process_count: u32,
    target: Target,
    run: u32,
    found: Found,
}

impl<'a> Course<'a> {
    /// Start or find the server and make it ready.
    pub fn prepare(arguments: &'a Arguments) -> Result<Self, String> {
        let shape = Shape::new(arguments, protocol_of(arguments)?)?;
        let process_count = process_count(arguments, &shape, connections_each())?;
        let target = Target::prepare(arguments)?;
        // In a mixed load devices that send and devices that get commands are others: one connection has a device.
        let sides = if arguments.profile == Profile::Mixed { 2 } else { 1 };
        let device_count = shape.connections * shape.devices * sides;
        if let Some(hub) = &target.hub {
            hub.create_devices(&(0..device_count).map(device_id).collect::<Vec<_>>())?;
        }
        // Runs of the same seed at other times must be told apart as well.
        let now = SystemTime::UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?;
        let run = mix(now.as_nanos() as u64 ^ u64::from(std::process::id())) as u32;
        let mut ledger = Ledger::new(run, device_count);
        ledger.may_expire = arguments.retention_mib.is_some();
        let found = Found { ledger, ..Found::default() };
        Ok(Self { arguments, shape, process_count, target, run, found })
    }

    /// Do what the profile asks for.
    pub fn run(mut self) -> Result<Report, String> {
        let mut window = self.window();
        match self.arguments.profile {
            Profile::Gateway | Profile::Telemetry => {
                self.mqtt_step(MqttStep::Subscribe)?;
                self.work(self.senders()?)?;
            }
            Profile::Connect | Profile::Idle => self.work(self.presences()?)?,
            Profile::Commands => {
                self.work(vec![vec![self.commands(self.shape.rate, 0)?]])?;
            }
            Profile::Mixed => {
                let filled_count = self.arguments.fill.map(|seconds| self.fill(seconds)).transpose()?;
                self.found.filled_count = filled_count.unwrap_or_default();
                let mut parts = self.senders()?;
                let first_device = self.shape.connections * self.shape.devices;
                parts[0].push(self.commands(Some(self.shape.command_rate), first_device)?);
                // In a process of their own: what they read does not hold up what is to be sent.
                let readers = (0..self.shape.readers).map(|_| Ok(Part::ReadAmqp(self.readers(false)?)));
                parts.push(readers.collect::<Result<_, String>>()?);
                self.work(parts)?;
            }
            Profile::Replay => window = self.replay()?,
        }
        let are_due = match self.arguments.profile {
            Profile::Commands => true,
            Profile::Mixed => self.shape.command_rate * self.arguments.seconds >= 1.0,
            _ => false,
        };
        if are_due && self.found.command_count == 0 {
            return Err("no command was completed".to_owned());
        }
        if self.arguments.profile.sends() && self.arguments.profile != Profile::Replay {
            self.found.read_back = self.read_back()?;
            self.check_filled()?;
        }
        Ok(Report {
            arguments: self.arguments.clone(),
            shape: self.shape,
            target: self.target.describe(),
            protocol: self.target.protocol,
            has_tls: self.target.has_tls(),
            window,
            figures: KINDS.map(|kind| (kind, self.found.recorder.figures(kind, window))).into(),
            found: self.found,
        })
    }

    /// Send in a closed loop under the name of another run, whose events are only counted when they are read. How many.
    fn fill(&self, seconds: f64) -> Result<u64, String> {
        let (run, device_count) = (!self.run, self.found.ledger.device_count());
        let until = Until::Time { warm_up_s: 0.0, window_s: seconds };
        let closed = |part| match part {
            Part::Send(send) => Part::Send(SendPart { rate: None, in_flight_max: FILL_IN_FLIGHT, ..send }),
            part => part,
        };
        let job = |(index, parts): (usize, Vec<Part>)| {
            let parts = parts.into_iter().map(closed).collect();
            Job { run, ..self.job(index, parts, Ledger::new(run, device_count), until) }
        };
        let jobs: Vec<_> = self.senders()?.into_iter().enumerate().map(job).collect();
        let mut crew = Crew::start(&jobs, "filling")?;
        crew.go()?;
        Ok(crew.finish()?.iter().map(|outcome| outcome.ledger.acknowledged_count()).sum())
    }

    /// Fill the hub, then read everything as often as asked for. The window is that of the last pass.
    fn replay(&mut self) -> Result<Duration, String> {
        self.work(self.senders()?)?;
        let process = self.target.process;
        let mut seconds = 0.0;
        for _ in 0..self.shape.passes {
            let before_s = process.map(|process| process.cpu_s()).transpose()?.unwrap_or_default();
            let mut parts = vec![Part::ReadAmqp(self.readers(true)?)];
            for _ in 1..self.shape.readers {
                parts.push(Part::ReadAmqp(self.readers(false)?));
            }
            let outcome = self.single(parts, Until::AllRead, "replaying")?;
            let cpu_s = process.map(|process| process.cpu_s()).transpose()?.unwrap_or_default() - before_s;
            let read_back = self.checked(&outcome)?;
            seconds = outcome.elapsed_s;
            self.found.passes.push(read_back);
            self.found.recorder = Recorder::default();
            self.found.recorder.merge(&outcome.records);
            let resident_bytes =
                process.map(|process| process.resident_bytes()).transpose()?.unwrap_or_default();
            self.found.server = self.found.server.map(|server| ServerUse { cpu_s, resident_bytes, ..server });
            self.found.read_back = Some(read_back);
        }
        Ok(Duration::from_secs_f64(seconds))
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.arguments.seconds)
    }

    /// For each process the connections that send.
    fn senders(&self) -> Result<Vec<Vec<Part>>, String> {
        let Shape { connections, devices, in_flight, rate, burst, .. } = self.shape;
        let messages = f64::from(connections) * f64::from(self.shape.batch);
        // Over other protocols, and in the profile that is named for it, a connection is a device's own.
        let is_devices_own =
            self.target.protocol != Protocol::Amqp || self.arguments.profile == Profile::Telemetry;
        let server = self.target.server(self.target.protocol)?;
        let part = |connections| SendPart {
            server: server.clone(),
            access: self.target.access.clone(),
            protocol: self.target.protocol,
            address: self.target.address.clone(),
            connections,
            device_count: devices,
            body_bytes: self.shape.body_bytes,
            batch: self.shape.batch,
            in_flight_max: in_flight,
            rate: rate.map(|rate| (rate / messages, burst)),
            seed: self.shape.seed,
            device_tokens: self.arguments.device_tokens || is_devices_own,
            run: self.run,
        };
        Ok(self.split().into_iter().map(|range| vec![Part::Send(part(range))]).collect())
    }

    /// For each process the devices that idle, or come and go.
    fn presences(&self) -> Result<Vec<Vec<Part>>, String> {
        let Shape { connections, rate, .. } = self.shape;
        let is_idle = self.arguments.profile == Profile::Idle;
        let habit = match rate {
            _ if is_idle => Habit::Stay,
            _ if self.arguments.storm => Habit::Storm,
            None => Habit::ReturnAtOnce,
            Some(rate) => Habit::Return(rate / f64::from(connections)),
        };
        let (is_hub, is_amqp) = (self.target.hub.is_some(), self.target.protocol == Protocol::Amqp);
        let source = match (is_hub, is_amqp) {
            (true, true) => format!("/devices/{DEVICE}/messages/devicebound"),
            (true, false) => format!("devices/{DEVICE}/messages/devicebound/#"),
            (false, _) => self.target.address.clone(),
        };
        let server = self.target.server(self.target.protocol)?;
        let part = |connections| PresencePart {
            server: server.clone(),
            access: self.target.access.clone(),
            protocol: self.target.protocol,
            targets: vec![self.target.address.clone()],
            // Whoever only connects receives nothing.
            sources: if is_idle { vec![source.clone()] } else { Vec::new() },
            connections,
            habit,
            resume: if self.arguments.resume { Resume::Ticket } else { Resume::Never },
            seed: self.shape.seed,
            run: self.run,
        };
        Ok(self.split().into_iter().map(|range| vec![Part::Presence(part(range))]).collect())
    }

    fn commands(&self, rate: Option<f64>, first_device: u32) -> Result<Part, String> {
        Ok(Part::Commands(CommandsPart {
            server: self.target.server(Protocol::Amqp)?,
            access: self.target.access.clone(),
            first_device,
            connection_count: self.shape.connections,
            device_count: self.shape.devices,
            body_bytes: self.shape.body_bytes,
            // Beside telemetry the number is the gateways'.
            in_flight_max: match self.arguments.profile {
                Profile::Commands => self.shape.in_flight,
                _ => COMMANDS_IN_FLIGHT_MAX,
            },
            depth_max: self.shape.depth as usize,
            rate,
            wants_receipts: !self.arguments.no_receipts,
            seed: self.shape.seed,
        }))
    }

    /// Which connections each process has.
    fn split(&self) -> Vec<Range<u32>> {
        let (connections, count) = (u64::from(self.shape.connections), u64::from(self.process_count));
        let first = |index: u64| (connections * index / count) as u32;
        (0..count).map(|index| first(index)..first(index + 1)).collect()
    }

    fn job(&self, index: usize, parts: Vec<Part>, ledger: Ledger, until: Until) -> Job {
        let cpus = &self.arguments.cpu;
        let cpu = (!cpus.is_empty()).then(|| cpus[index % cpus.len()]);
        Job { run: self.run, cpu, ledger, parts, until }
    }

    /// Let a process do each of `parts` for the window, and take what they found.
    fn work(&mut self, parts: Vec<Vec<Part>>) -> Result<(), String> {
        let Arguments { warm_up, seconds, profile, .. } = *self.arguments;
        let until = Until::Time { warm_up_s: warm_up, window_s: seconds };
        let device_count = self.found.ledger.device_count();
        let jobs: Vec<_> = parts
            .into_iter()
            .enumerate()
            .map(|(index, parts)| self.job(index, parts, Ledger::new(self.run, device_count), until))
            .collect();
        let process = self.target.process;
        let resident_before_bytes = process.map(|process| process.resident_bytes()).transpose()?;
        let mut crew = Crew::start(&jobs, profile.name())?;
        crew.go()?;
        let from = Instant::now() + Duration::from_secs_f64(warm_up);
        crew.pause(from)?;
        let before_s = process.map(|process| process.cpu_s()).transpose()?;
        crew.pause(from + self.window())?;
        if let (Some(process), Some(before_s)) = (process, before_s) {
            self.found.server = Some(ServerUse {
                cpu_s: process.cpu_s()? - before_s,
                resident_bytes: process.resident_bytes()?,
                resident_before_bytes: resident_before_bytes.unwrap_or_default(),
            });
        }
        for outcome in crew.finish()? {
            self.found.ledger.merge(&outcome.ledger);
            self.found.recorder.merge(&outcome.records);
            self.found.command_count += outcome.command_count;
            self.found.storms_s.extend(outcome.storms_s);
        }
        Ok(())
    }

    /// Read back what was acknowledged.
    ///
    /// # Errors
    ///
    /// Something of it is lost, doubled, moved or invented.
    fn read_back(&mut self) -> Result<Option<ReadBack>, String> {
        if self.arguments.unverified {
            return Ok(None);
        }
        let outcome = match self.target.protocol {
            Protocol::Mqtt if self.target.hub.is_none() => {
                let outcome = self.mqtt_step(MqttStep::Collect)?;
                self.mqtt_step(MqttStep::Forget)?;
                outcome
            }
            _ => Some(self.single(
                vec![Part::ReadAmqp(self.readers(true)?)],
                Until::AllRead,
                "reading back",
            )?),
        };
        self.checked(&outcome.ok_or("nothing was read back")?).map(Some)
    }

    /// What the hub was filled with is there, too, unless retention may have taken it.
    fn check_filled(&self) -> Result<(), String> {
        let (Some(read), None) = (self.found.read_back, self.arguments.retention_mib) else { return Ok(()) };
        match self.found.filled_count {
            0 => Ok(()),
            count if count == read.foreign_count => Ok(()),
            count => {
                Err(format!("{} of {count} events were read of those before the load", read.foreign_count))
            }
        }
    }

    /// What a reader has got is what was acknowledged.
    fn checked(&self, outcome: &Outcome) -> Result<ReadBack, String> {
        let Outcome { ledger, elapsed_s, received_bytes, unchecked_count, .. } = outcome;
        ledger.verify()?;
        if let (Some(mib), Some(hub)) = (self.arguments.retention_mib, &self.target.hub) {
            ledger.verify_left(left_count_min(mib, hub.partition_count, self.shape.body_bytes))?;
        }
        if ledger.acknowledged_count() == 0 {
            return Err("nothing was acknowledged".to_owned());
        }
        let bytes = (ledger.read_count() + unchecked_count) * self.shape.body_bytes as u64;
        Ok(ReadBack {
            count: ledger.read_count(),
            seconds: *elapsed_s,
            bytes_per_s: bytes as f64 / elapsed_s,
            wire_bytes_per_s: *received_bytes as f64 / elapsed_s,
            foreign_count: ledger.foreign_count,
            expired_count: ledger.expired_count,
        })
    }

    /// A connection for each partition of a hub, or one for all of them where the profile is about readers; one for all
    /// queues of a broker.
    fn readers(&self, is_checked: bool) -> Result<AmqpPart, String> {
        let connections = match &self.target.hub {
            Some(hub) => {
                let partitions = (0..hub.partition_count)
                    .map(|partition| format!("{NAME}/ConsumerGroups/$Default/Partitions/{partition}"));
                match self.arguments.profile {
                    Profile::Replay | Profile::Mixed => vec![partitions.collect()],
                    _ => partitions.map(|address| vec![address]).collect(),
                }
            }
            None => {
                let address = self.arguments.read_address.as_ref().unwrap_or(&self.target.address);
                let device_count = self.found.ledger.device_count();
                vec![match address.contains(DEVICE) {
                    true => {
                        (0..device_count).map(|index| address.replace(DEVICE, &device_id(index))).collect()
                    }
                    false => vec![address.clone()],
                }]
            }
        };
        let (server, access) = (self.target.server(Protocol::Amqp)?, self.target.access.clone());
        Ok(AmqpPart { server, access, connections, is_checked })
    }

    /// One step of a reader that an MQTT broker remembers; nothing where that is not how it is read back.
    fn mqtt_step(&self, reading: MqttStep) -> Result<Option<Outcome>, String> {
        let is_read_so = self.target.hub.is_none() && self.target.protocol == Protocol::Mqtt;
        if !is_read_so || self.arguments.unverified {
            return Ok(None);
        }
        // A whole level becomes a wildcard; within a level there is none.
        let filter = match &self.arguments.read_address {
            Some(filter) => filter.clone(),
            None => self.target.address.replace(DEVICE, "+"),
        };
        if filter.split('/').any(|level| level.contains('+') && level != "+") {
            return Err(
                "{device} is no whole level of the topic: --read-address says what to subscribe".to_owned()
            );
        }
        let part = MqttPart {
            server: self.target.server(Protocol::Mqtt)?,
            access: self.target.access.clone(),
            client_id: format!("loadgen-reader-{}", self.run),
            filters: vec![filter],
            reading,
        };
        let (until, what) = match reading {
            MqttStep::Collect => (Until::AllRead, "reading back"),
            MqttStep::Subscribe | MqttStep::Forget => (Until::Ready, "subscribing"),
        };
        self.single(vec![Part::ReadMqtt(part)], until, what).map(Some)
    }

    /// One process's work, with what was acknowledged so far.
    fn single(&self, parts: Vec<Part>, until: Until, what: &'static str) -> Result<Outcome, String> {
        let mut crew = Crew::start(&[self.job(0, parts, self.found.ledger.clone(), until)], what)?;
        crew.go()?;
        crew.finish()?.pop().ok_or_else(|| "a process has found nothing".to_owned())
    }
}

/// How many processes make the load, where each has descriptors for `each` connections.
///
/// # Errors
///
/// They have too few descriptors, or are fewer than the CPUs that they are to run on.
fn process_count(arguments: &Arguments, shape: &Shape, each: u64) -> Result<u32, String> {
    let connections = u64::from(shape.connections);
    let count = match arguments.profile {
        // Back end, devices and the reader of receipts know of each other.
        Profile::Commands => 1,
        _ => arguments.processes.map_or(connections.div_ceil(each), u64::from),
    };
    // In the first process there are the commands' connections as well; readers have one, or their time, of their own.
    let readers = u64::from(shape.readers);
    let needed = match arguments.profile {
        Profile::Commands => connections + 2,
        Profile::Mixed => (connections.div_ceil(count) + connections + 2).max(readers),
        Profile::Replay => connections.div_ceil(count).max(readers),
        _ => connections.div_ceil(count),
    };
    if needed > each {
        let or = if arguments.processes.is_some() { ", or use more --processes" } else { "" };
        return Err(format!(
            "a process has descriptors for {each} connections and would hold {needed}: raise ulimit -n{or}"
        ));
    }
    if arguments.cpu.len() as u64 > count {
        return Err(format!("--cpu names more CPUs than there are processes, {count}"));
    }
    u32::try_from(count).map_err(|error| error.to_string())
}

/// How many events retention leaves at least: it takes whole segments.
fn left_count_min(mib: u64, partition_count: u16, body_bytes: usize) -> u64 {
    let partitions = u64::from(partition_count).max(1);
    let left_mib = (mib / partitions).saturating_sub(SEGMENT_MIB) * partitions;
    (left_mib << 20) / (body_bytes as u64 + RECORD_BYTES_ASIDE)
}

/// Connections that a process has descriptors for.
fn connections_each() -> u64 {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    descriptors.saturating_sub(DESCRIPTORS_ASIDE).max(1)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn processes_have_descriptors_for_what_they_hold() {
        let count = |line: &str| {
            let words = ["loadgen"].into_iter().chain(line.split_whitespace());
            let arguments = Arguments::try_parse_from(words).unwrap();
            let shape = Shape::new(&arguments, Protocol::Amqp).unwrap();
            process_count(&arguments, &shape, 100)
        };
        assert_eq!(count("telemetry --connections 250"), Ok(3));
        assert_eq!(count("telemetry --connections 250 --processes 5"), Ok(5));
        assert_eq!(count("gateway --connections 2 --processes 2 --cpu 0,1"), Ok(2));
        assert_eq!(count("commands --connections 98"), Ok(1));
        assert!(count("telemetry --connections 250 --processes 2").unwrap_err().contains("--processes"));
        assert!(count("commands --connections 99").unwrap_err().contains("would hold 101"));
        assert!(count("mixed --connections 50").unwrap_err().contains("would hold 102"));
        assert!(count("replay --readers 101").unwrap_err().contains("ulimit"));
        assert!(count("gateway --cpu 0,1").unwrap_err().contains("--cpu"));
    }

    #[test]
    fn retention_leaves_all_but_a_segment_of_each_partition() {
        assert_eq!(left_count_min(4096, 4, 256), (3072 << 20) / 512);
        assert_eq!(left_count_min(1024, 4, 256), 0);
        assert_eq!(left_count_min(8, 1, 256), 0);
    }
}
