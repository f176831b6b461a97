//! Commands to devices that wait for them: enqueued, delivered and completed, each step durable, on one shard of one core over
//! real files, without a network.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use engine::Now;
use engine::monitor::Protocol;
use engine::request::{
    Ack, Caller, CommandDraft, ConnectionId, CoreId, DeviceDraft, Grant, Holder, LockToken, PartitionId,
    Principal, ReceiverId, Reply, Request, Settlement,
};
use engine::shard::{PartitionStorage, Shard, ShardConfig};
use registry::{DataKey, DeviceId, PolicyName, Rights};
use segment_log::storage::disk::{DiskConfig, DiskStorage};

use crate::cpu_ns;

/// How much to send.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Commands in all.
    pub command_count: u64,
    /// Devices that are attached, each with one command on its way at a time.
    pub device_count: u32,
    /// Bytes of each command's message.
    pub message_bytes: usize,
    /// Which outcomes are told; the receipts are taken as they come.
    pub ack: Ack,
}

/// What one run found.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Commands enqueued, delivered and completed per second.
    pub cycles_per_s: f64,
    /// CPU time of the thread for each, nanoseconds.
    pub cpu_ns_per_cycle: f64,
    /// From the enqueue to the answer to the completion, microseconds, the median.
    pub cycle_us_p50: u64,
    /// The same, of the slowest hundredth.
    pub cycle_us_p99: u64,
}

/// The back end's connection; that of a device has the slot of its number.
const BACK_END: u32 = u32::MAX;

struct Run {
    shard: Shard<DiskStorage>,
    began: Instant,
    devices: Vec<Device>,
}

struct Device {
    id: DeviceId,
    receiver: Option<ReceiverId>,
    enqueued: Instant,
}

/// Run in `directory`, which must be empty and is left with the logs in it.
///
/// # Errors
///
/// What the disk says, and an answer that should not have come.
pub fn run(directory: &Path, size: Size) -> Result<Figures, String> {
    let mut run = Run::open(directory, size.device_count)?;
    let receipts = run.attach()?;
    let mut cycles_us = Vec::new();
    let (cpu_before, wall_before) = (cpu_ns(), Instant::now());
    let mut idle: VecDeque<u32> = (0..size.device_count).collect();
    let (mut sent, mut done) = (0, 0);
    while done < size.command_count {
        while sent < size.command_count
            && let Some(number) = idle.pop_front()
        {
            let device = &mut run.devices[number as usize];
            device.enqueued = Instant::now();
            let draft = CommandDraft {
                device: device.id.clone(),
                message: vec![0x5a; size.message_bytes],
                message_id: format!("{sent:036}"),
                ack: size.ack,
                expires_ms: None,
            };
            run.send(BACK_END, Request::EnqueueCommand(draft));
            sent += 1;
        }
        run.shard.poll(run.now());
        run.work();
        while let Some((caller, reply)) = run.shard.poll_reply() {
            let number = caller.connection.slot;
            match reply {
                Reply::Done if number != BACK_END => {
                    let device = &run.devices[number as usize];
                    cycles_us.push(device.enqueued.elapsed().as_micros() as u64);
                    idle.push_back(number);
                    done += 1;
                }
                Reply::Done => {}
                Reply::Commands(commands) => {
                    let receiver = run.devices[number as usize].receiver.ok_or("no receiver")?;
                    for command in commands {
                        run.settle(number, receiver, command.token);
                    }
                    run.send(number, Request::Receive { receiver, count_max: 10 });
                }
                Reply::Receipts(batches) => {
                    for batch in batches {
                        run.settle(BACK_END, receipts, batch.token);
                    }
                    run.send(BACK_END, Request::Receive { receiver: receipts, count_max: 10 });
                }
                reply => return Err(format!("{reply:?}")),
            }
        }
    }
    let (cpu, wall) = (cpu_ns() - cpu_before, wall_before.elapsed().as_secs_f64());
    cycles_us.sort_unstable();
    let quantile = |hundredths: usize| cycles_us[(cycles_us.len() - 1) * hundredths / 100];
    Ok(Figures {
        cycles_per_s: size.command_count as f64 / wall,
        cpu_ns_per_cycle: cpu as f64 / size.command_count as f64,
        cycle_us_p50: quantile(50),
        cycle_us_p99: quantile(99),
    })
}

impl Run {
    fn open(directory: &Path, device_count: u32) -> Result<Self, String> {
        let shard = open_shard(directory)?;
        let mut run = Self { shard, began: Instant::now(), devices: Vec::new() };
        for number in 0..device_count {
            let id = DeviceId::parse(&format!("device-{number}")).map_err(|error| error.to_string())?;
            run.devices.push(Device { id: id.clone(), receiver: None, enqueued: run.began });
            run.send(number, Request::CreateDevice(DeviceDraft::new(id)));
        }
        run.answers(device_count)?;
        Ok(run)
    }

    /// Attach every device and let it wait for commands, and a receiver for receipts.
    fn attach(&mut self) -> Result<ReceiverId, String> {
        let count = self.devices.len() as u32;
        for number in 0..count {
            let device = self.devices[number as usize].id.clone();
            let open = Request::OpenSession { device, grant: grant(), protocol: Protocol::Embedded };
            self.send(number, open);
        }
        for (number, reply) in self.answers(count)? {
            let Reply::SessionOpened(session) = reply else { return Err(format!("{reply:?}")) };
            self.send(number, Request::OpenCommandReceiver { session });
        }
        self.send(BACK_END, Request::OpenReceiptReceiver { partition: PartitionId(0) });
        let mut receipts = None;
        for (number, reply) in self.answers(count + 1)? {
            let Reply::ReceiverOpened(receiver) = reply else { return Err(format!("{reply:?}")) };
            match number {
                BACK_END => receipts = Some(receiver),
                number => self.devices[number as usize].receiver = Some(receiver),
            }
            self.send(number, Request::Receive { receiver, count_max: 10 });
        }
        receipts.ok_or_else(|| "no receiver of receipts".to_owned())
    }

    fn send(&mut self, slot: u32, request: Request) {
        let connection = ConnectionId { core: CoreId(0), slot, generation: 0 };
        let now = self.now();
        self.shard.handle_request(Caller { connection, token: 0 }, request, now);
    }

    fn settle(&mut self, slot: u32, receiver: ReceiverId, token: LockToken) {
        let (holder, settlement) = (Holder::Receiver(receiver), Settlement::Complete);
        self.send(slot, Request::Settle { holder, token, settlement });
    }

    /// Turns until so many answers have come.
    fn answers(&mut self, count: u32) -> Result<Vec<(u32, Reply)>, String> {
        let mut answers = Vec::new();
        while answers.len() < count as usize {
            self.shard.poll(self.now());
            self.work();
            while let Some((caller, reply)) = self.shard.poll_reply() {
                if let Reply::Failed(error) = reply {
                    return Err(error.to_string());
                }
                answers.push((caller.connection.slot, reply));
            }
        }
        Ok(answers)
    }

    fn work(&mut self) {
        while self.shard.poll_monitor().is_some() {}
        while let Some(job) = self.shard.poll_job() {
            let done = job.run();
            self.shard.handle_job_done(done, self.now());
        }
    }

    fn now(&self) -> Now {
        now(self.began)
    }
}

/// One partition in a directory, set up as a hub sets it up.
pub(crate) fn open_shard(directory: &Path) -> Result<Shard<DiskStorage>, String> {
    let open = |name: &str| {
        DiskStorage::open(&directory.join(name), DiskConfig::default()).map_err(|error| error.to_string())
    };
    for name in ["events", "journal"] {
        std::fs::create_dir_all(directory.join(name)).map_err(|error| error.to_string())?;
    }
    let storage = PartitionStorage { id: PartitionId(0), events: open("events")?, journal: open("journal")? };
    let config = ShardConfig::new(1, DataKey::from_bytes([7; 32]));
    let (shard, reports) = Shard::open(config, vec![storage], now(Instant::now()), [7; 32])
        .map_err(|error| error.to_string())?;
    match reports.into_iter().find_map(|report| report.fault) {
        Some(fault) => Err(fault.to_string()),
        None => Ok(shard),
    }
}

pub(crate) fn now(began: Instant) -> Now {
    let mono_ms = began.elapsed().as_millis() as u64;
    Now { wall_ms: 1_700_000_000_000 + mono_ms, mono_ms }
}

fn grant() -> Grant {
    let name = PolicyName::parse("bench").expect("a name by the rules");
    let principal = Principal::Policy { name, rights: Rights::DEVICE_CONNECT };
    Grant { principal, resource: Vec::new(), expires_s: u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_completes_every_command() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let size = Size { command_count: 2000, device_count: 100, message_bytes: 256, ack: Ack::Full };
        let figures = run(directory.path(), size).unwrap();
        assert!(figures.cycles_per_s > 0.0 && figures.cycle_us_p50 <= figures.cycle_us_p99);
    }
}
