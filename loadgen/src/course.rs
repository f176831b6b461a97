//! The course of a run: prepare the server, let the processes work, read everything back, report.

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Resource, getrlimit};

use crate::arguments::{Arguments, COMMANDS_IN_FLIGHT_MAX, Profile, Shape};
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
use crate::target::Target;
use crate::worker::Outcome;

/// The largest segment of a partition's log, MiB: retention takes whole ones.
const SEGMENT_MIB: u64 = 256;
/// What the log adds to a body at most, bytes: properties, names, times and the frame around them.
const RECORD_BYTES_ASIDE: u64 = 256;
/// Descriptors of a process that are for other things than connections.
const DESCRIPTORS_ASIDE: u64 = 64;

/// Everything that a run's steps need.
#[derive(Debug)]
pub struct Course<'a> {
    arguments: &'a Arguments,
    shape: Shape,
    target: Target,
    run: u32,
    found: Found,
}

impl<'a> Course<'a> {
    /// Start or find the server and make it ready.
    pub fn prepare(arguments: &'a Arguments) -> Result<Self, String> {
        let (shape, profile) = (arguments.shape()?, arguments.profile);
        let target = Target::prepare(arguments)?;
        let is_hub = target.hub.is_some();
        if profile.is_for_hubs() && !is_hub {
            return Err(format!("the profile {} is for a hub", profile.name()));
        }
        if is_hub && shape.devices > 1 && target.protocol != Protocol::Amqp && profile.sends() {
            return Err("a hub's connection carries many devices over AMQP alone: --devices 1".to_owned());
        }
        if profile == Profile::Commands && target.protocol != Protocol::Amqp {
            return Err("commands go over AMQP".to_owned());
        }
        if shape.batch > 1 && (!is_hub || target.protocol == Protocol::Mqtt) {
            return Err("--batch is for a hub, over AMQP and HTTPS".to_owned());
        }
        // In a mixed load devices that send and devices that get commands are others: one connection has a device.
        let sides = if profile == Profile::Mixed { 2 } else { 1 };
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
        Ok(Self { arguments, shape, target, run, found })
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
                self.check_descriptors(self.shape.connections + 2)?;
                self.work(vec![vec![self.commands(self.shape.rate, 0)?]])?;
            }
            Profile::Mixed => {
                let mut parts = self.senders()?;
                let senders = self.split(self.shape.connections)?[0].len() as u32;
                self.check_descriptors(self.shape.connections + 2 + self.shape.readers + senders)?;
                let first_device = self.shape.connections * self.shape.devices;
                parts[0].push(self.commands(Some(self.shape.command_rate), first_device)?);
                for _ in 0..self.shape.readers {
                    parts[0].push(Part::ReadAmqp(self.readers(false)?));
                }
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
        // Over any other protocol, and by that profile, a connection is a device's own.
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
            seed: self.arguments.seed,
            device_tokens: self.arguments.device_tokens || is_devices_own,
            run: self.run,
        };
        Ok(self.split(connections)?.into_iter().map(|range| vec![Part::Send(part(range))]).collect())
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
            seed: self.arguments.seed,
            run: self.run,
        };
        Ok(self.split(connections)?.into_iter().map(|range| vec![Part::Presence(part(range))]).collect())
    }

    fn commands(&self, rate: Option<f64>, first_device: u32) -> Result<Part, String> {
        Ok(Part::Commands(CommandsPart {
            server: self.target.server(Protocol::Amqp)?,
            access: self.target.access.clone(),
            first_device,
            connection_count: self.shape.connections,
            device_count: self.shape.devices,
            body_bytes: self.shape.body_bytes,
            in_flight_max: self.shape.in_flight.min(COMMANDS_IN_FLIGHT_MAX),
            depth_max: self.shape.depth as usize,
            rate,
            wants_receipts: !self.arguments.no_receipts,
            seed: self.arguments.seed,
        }))
    }

    /// Where there are commands, one process holds so many connections.
    fn check_descriptors(&self, connections: u32) -> Result<(), String> {
        match u64::from(connections) <= connections_each() {
            true => Ok(()),
            false => Err(format!("one process holds {connections} connections here: raise ulimit -n")),
        }
    }

    /// Which connections each process has.
    fn split(&self, connections: u32) -> Result<Vec<Range<u32>>, String> {
        let each = connections_each();
        let needed =
            u32::try_from(u64::from(connections).div_ceil(each)).map_err(|error| error.to_string())?;
        let count = self.arguments.processes.unwrap_or(1).max(needed).clamp(1, connections.max(1));
        let first = |index: u32| (u64::from(connections) * u64::from(index) / u64::from(count)) as u32;
        Ok((0..count).map(|index| first(index)..first(index + 1)).collect())
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

    /// What a reader has got is what was acknowledged.
    fn checked(&self, outcome: &Outcome) -> Result<ReadBack, String> {
        let Outcome { ledger, elapsed_s, received_bytes, unchecked_count, .. } = outcome;
        ledger.verify()?;
        ledger.verify_left(self.left_count_min())?;
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

    /// How many events the hub's retention leaves at least.
    fn left_count_min(&self) -> u64 {
        let (Some(mib), Some(hub)) = (self.arguments.retention_mib, &self.target.hub) else { return 0 };
        let partitions = u64::from(hub.partition_count).max(1);
        let left_mib = (mib / partitions).saturating_sub(SEGMENT_MIB) * partitions;
        (left_mib << 20) / (self.shape.body_bytes as u64 + RECORD_BYTES_ASIDE)
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

/// Connections that a process has descriptors for.
fn connections_each() -> u64 {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    descriptors.saturating_sub(DESCRIPTORS_ASIDE).max(1)
}
