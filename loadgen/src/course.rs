//! The course of a run: prepare the server, let the processes work, read everything back, report.

use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use crate::arguments::{Arguments, Shape};
use crate::crew::Crew;
use crate::hub::NAME;
use crate::job::{Job, Protocol, Until};
use crate::ledger::{Ledger, device_id, mix};
use crate::profile::read::{AmqpPart, MqttPart, MqttStep};
use crate::profile::send::SendPart;
use crate::profile::{DEVICE, Part};
use crate::record::{KINDS, Recorder};
use crate::report::{ReadBack, Report, ServerUse};
use crate::target::Target;
use crate::worker::Outcome;

/// Descriptors of a process that are for other things than connections.
const DESCRIPTORS_ASIDE: u64 = 64;

/// Everything that a run's steps need.
#[derive(Debug)]
pub struct Course<'a> {
    arguments: &'a Arguments,
    shape: Shape,
    target: Target,
    run: u32,
    ledger: Ledger,
    recorder: Recorder,
}

impl<'a> Course<'a> {
    /// Start or find the server and make it ready.
    pub fn prepare(arguments: &'a Arguments) -> Result<Self, String> {
        let shape = arguments.shape()?;
        let target = Target::prepare(arguments)?;
        let device_count = shape.connections * shape.devices;
        if let Some(hub) = &target.hub {
            let is_shared = shape.devices > 1 && target.protocol != Protocol::Amqp;
            if is_shared {
                return Err("a hub's connection carries many devices over AMQP alone: --devices 1".to_owned());
            }
            hub.create_devices(&(0..device_count).map(device_id).collect::<Vec<_>>())?;
        }
        if arguments.batch > 1 && (target.hub.is_none() || target.protocol == Protocol::Mqtt) {
            return Err("--batch is for a hub, over AMQP and HTTPS".to_owned());
        }
        // Runs of the same seed at other times must be told apart as well.
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?;
        let run = mix(now.as_nanos() as u64 ^ u64::from(std::process::id())) as u32;
        let ledger = Ledger::new(run, device_count);
        Ok(Self { arguments, shape, target, run, ledger, recorder: Recorder::default() })
    }

    /// Send by the schedule and read everything back.
    pub fn send(&mut self) -> Result<Report, String> {
        self.mqtt_step(MqttStep::Subscribe)?;
        let jobs =
            self.split(self.shape.connections)?.into_iter().map(|connections| self.send_part(connections));
        let jobs: Vec<_> = jobs.map(|part| Ok(vec![Part::Send(part?)])).collect::<Result<_, String>>()?;
        let server_use = self.work(jobs, self.arguments.profile.name())?;
        let read_back = self.read_back()?;
        Ok(Report {
            arguments: self.arguments.clone(),
            shape: self.shape,
            target: self.target.describe(),
            protocol: self.target.protocol,
            has_tls: self.target.has_tls(),
            figures: KINDS.map(|kind| (kind, self.recorder.figures(kind, self.window()))).into(),
            server_use,
            read_back,
        })
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.arguments.seconds)
    }

    fn send_part(&self, connections: Range<u32>) -> Result<SendPart, String> {
        let Shape { devices, in_flight, rate, burst, .. } = self.shape;
        let messages = f64::from(self.shape.connections) * f64::from(self.arguments.batch);
        Ok(SendPart {
            server: self.target.server(self.target.protocol)?,
            access: self.target.access.clone(),
            protocol: self.target.protocol,
            address: self.target.address.clone(),
            connections,
            device_count: devices,
            body_bytes: self.arguments.body_bytes,
            batch: self.arguments.batch,
            in_flight_max: in_flight,
            rate: rate.map(|rate| (rate / messages, burst)),
            seed: self.arguments.seed,
            device_tokens: self.arguments.device_tokens || self.is_devices_own(),
            run: self.run,
        })
    }

    /// Whether each connection is a device's own, and so are its credentials.
    fn is_devices_own(&self) -> bool {
        self.target.protocol != Protocol::Amqp
            || self.arguments.profile == crate::arguments::Profile::Telemetry
    }

    /// Which connections each process has.
    fn split(&self, connections: u32) -> Result<Vec<Range<u32>>, String> {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let each = descriptors.saturating_sub(DESCRIPTORS_ASIDE).max(1);
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
    fn work(&mut self, parts: Vec<Vec<Part>>, what: &'static str) -> Result<Option<ServerUse>, String> {
        let Arguments { warm_up, seconds, .. } = *self.arguments;
        let until = Until::Time { warm_up_s: warm_up, window_s: seconds };
        let device_count = self.shape.connections * self.shape.devices;
        let jobs: Vec<_> = parts
            .into_iter()
            .enumerate()
            .map(|(index, parts)| self.job(index, parts, Ledger::new(self.run, device_count), until))
            .collect();
        let mut crew = Crew::start(&jobs, what)?;
        crew.go()?;
        let from = Instant::now() + Duration::from_secs_f64(warm_up);
        crew.pause(from)?;
        let process = self.target.process;
        let before_s = process.map(|process| process.cpu_s()).transpose()?;
        crew.pause(from + self.window())?;
        let server_use = match (process, before_s) {
            (Some(process), Some(before_s)) => Some(ServerUse {
                cpu_s: process.cpu_s()? - before_s,
                resident_bytes: process.resident_bytes()?,
            }),
            _ => None,
        };
        for Outcome { ledger, records, .. } in crew.finish()? {
            self.ledger.merge(&ledger);
            self.recorder.merge(&records);
        }
        Ok(server_use)
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
            _ => Some(self.single(Part::ReadAmqp(self.amqp_readers()?), Until::AllRead, "reading back")?),
        };
        let Outcome { ledger, elapsed_s, .. } = outcome.ok_or("nothing was read back")?;
        ledger.verify()?;
        if ledger.acknowledged_count() == 0 {
            return Err("nothing was acknowledged".to_owned());
        }
        let bytes = ledger.read_count() * self.arguments.body_bytes as u64;
        Ok(Some(ReadBack {
            count: ledger.read_count(),
            seconds: elapsed_s,
            bytes_per_s: bytes as f64 / elapsed_s,
            foreign_count: ledger.foreign_count,
        }))
    }

    /// A reader for each partition of a hub; one for all queues of a broker.
    fn amqp_readers(&self) -> Result<AmqpPart, String> {
        let connections = match &self.target.hub {
            Some(hub) => (0..hub.partition_count)
                .map(|partition| vec![format!("{NAME}/ConsumerGroups/$Default/Partitions/{partition}")])
                .collect(),
            None => {
                let address = self.arguments.read_address.as_ref().unwrap_or(&self.target.address);
                let device_count = self.shape.connections * self.shape.devices;
                vec![match address.contains(DEVICE) {
                    true => {
                        (0..device_count).map(|index| address.replace(DEVICE, &device_id(index))).collect()
                    }
                    false => vec![address.clone()],
                }]
            }
        };
        let (server, access) = (self.target.server(Protocol::Amqp)?, self.target.access.clone());
        Ok(AmqpPart { server, access, connections, is_checked: true })
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
        self.single(Part::ReadMqtt(part), until, what).map(Some)
    }

    fn single(&self, part: Part, until: Until, what: &'static str) -> Result<Outcome, String> {
        let mut crew = Crew::start(&[self.job(0, vec![part], self.ledger.clone(), until)], what)?;
        crew.go()?;
        crew.finish()?.pop().ok_or_else(|| "a process has found nothing".to_owned())
    }
}
