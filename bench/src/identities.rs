//! A registry of many identities: created durably in bulk, found, opened again, and what they cost in memory.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use engine::request::{
    Caller, ConnectionId, CoreId, DeviceChange, DeviceDraft, EngineError, PartitionId, Reply, Request,
};
use engine::shard::{JobDone, Shard};
use registry::DeviceId;
use segment_log::storage::disk::DiskStorage;

use crate::command_cycle::{now, open_shard};
use crate::{cpu_ns, rss_bytes};

/// Identities in one request, as in a request of the administrator or of an import.
const BATCH_COUNT: u32 = 1000;

/// Requests on their way at a time: what one gathers while the disk has another.
const BATCHES_IN_FLIGHT: usize = 4;

/// Lookups that are timed.
const LOOKUP_COUNT: u32 = 100_000;

/// What creating them found.
#[derive(Clone, Copy, Debug)]
pub struct Created {
    /// Identities created durably per second.
    pub per_s: f64,
    /// CPU time of the thread for each, nanoseconds.
    pub cpu_ns: f64,
    /// CPU time of one lookup by id, nanoseconds, keys opened.
    pub lookup_ns: f64,
    /// Memory that the process grew by, bytes for each (VmRSS): before any snapshot, or with one under way, the dearest moment.
    pub rss_bytes: f64,
}

/// What opening them found.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// How long opening took, milliseconds.
    pub open_ms: f64,
    /// Memory that the process grew by, bytes for each (VmRSS), after all lookups.
    pub rss_bytes: f64,
    /// CPU time of one lookup by id, nanoseconds, keys opened.
    pub lookup_ns: f64,
}

struct Run {
    shard: Shard<DiskStorage>,
    began: Instant,
    jobs: (Sender<JobDone>, Receiver<JobDone>),
}

/// Create `device_count` identities in one partition in `directory`, which must be empty, and stop cleanly.
///
/// # Errors
///
/// What the disk says, and an answer that should not have come.
pub fn create(directory: &Path, device_count: u32) -> Result<Created, String> {
    let mut run = Run::open(directory)?;
    let rss_before = rss_bytes()?;
    let (cpu_before, wall_before) = (cpu_ns(), Instant::now());
    // What is still to be asked for, and what was, by the mark of its request.
    let mut numbers = 0..device_count;
    let mut again: Vec<u32> = Vec::new();
    let mut asked: HashMap<u64, Vec<u32>> = HashMap::new();
    let (mut token, mut done) = (0, 0);
    while done < device_count {
        while asked.len() < BATCHES_IN_FLIGHT && (!again.is_empty() || !numbers.is_empty()) {
            let mut batch = std::mem::take(&mut again);
            batch.extend(numbers.by_ref().take((BATCH_COUNT as usize).saturating_sub(batch.len())));
            let changes =
                batch.iter().map(|&number| Ok(DeviceChange::Create(DeviceDraft::new(device(number)?))));
            let changes: Result<Vec<DeviceChange>, String> = changes.collect();
            token += 1;
            run.ask_as(token, Request::ChangeDevices { partition: PartitionId(0), changes: changes? });
            asked.insert(token, batch);
        }
        for (token, reply) in run.answered_turn() {
            let batch = asked.remove(&token).ok_or("an answer to nothing")?;
            let Reply::DevicesChanged(results) = reply else { return Err(format!("{reply:?}")) };
            for (number, result) in batch.into_iter().zip(results) {
                match result {
                    Ok(()) => done += 1,
                    // The journal's next segment is being made.
                    Err(EngineError::Busy) => again.push(number),
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
    }
    let (cpu, wall) = (cpu_ns() - cpu_before, wall_before.elapsed().as_secs_f64());
    let grown = rss_bytes()?.saturating_sub(rss_before);
    let lookup_ns = run.look_up(device_count)?;
    let partition = PartitionId(0);
    run.ask(Request::Flush { partition });
    while run.turn().is_empty() {}
    run.shard.close(now(run.began));
    run.turn();
    let count = f64::from(device_count);
    Ok(Created {
        per_s: count / wall,
        cpu_ns: cpu as f64 / count,
        lookup_ns,
        rss_bytes: grown as f64 / count,
    })
}

/// Open what [`create`] left, best in a process of its own.
///
/// # Errors
///
/// What the disk says, or that identities are missing.
pub fn reopen(directory: &Path, device_count: u32) -> Result<Opened, String> {
    let rss_before = rss_bytes()?;
    let began = Instant::now();
    let mut run = Run::open(directory)?;
    let open_ms = began.elapsed().as_secs_f64() * 1000.0;
    run.ask(Request::CountDevices { partition: PartitionId(0) });
    match run.turn().pop() {
        Some(Reply::DeviceCounts(counts)) if counts.enabled == u64::from(device_count) => {}
        other => return Err(format!("{device_count} identities were created, found {other:?}")),
    }
    let lookup_ns = run.look_up(device_count)?;
    let grown = rss_bytes()?.saturating_sub(rss_before);
    Ok(Opened { open_ms, rss_bytes: grown as f64 / f64::from(device_count), lookup_ns })
}

impl Run {
    fn open(directory: &Path) -> Result<Self, String> {
        Ok(Self { shard: open_shard(directory)?, began: Instant::now(), jobs: channel() })
    }

    fn ask(&mut self, request: Request) {
        self.ask_as(0, request);
    }

    fn ask_as(&mut self, token: u64, request: Request) {
        let connection = ConnectionId { core: CoreId(0), slot: 0, generation: 0 };
        self.shard.handle_request(Caller { connection, token }, request, now(self.began));
    }

    fn turn(&mut self) -> Vec<Reply> {
        self.answered_turn().into_iter().map(|(_, reply)| reply).collect()
    }

    /// One turn, with the disk's work in it; the answers with the marks of their requests.
    fn answered_turn(&mut self) -> Vec<(u64, Reply)> {
        self.shard.poll(now(self.began));
        while let Some(job) = self.shard.poll_job() {
            // As in a hub: a snapshot is written beside the core's work.
            let done = self.jobs.0.clone();
            std::thread::spawn(move || drop(done.send(job.run())));
        }
        while let Ok(done) = self.jobs.1.try_recv() {
            self.shard.handle_job_done(done, now(self.began));
        }
        self.shard.poll(now(self.began));
        while self.shard.poll_monitor().is_some() {}
        std::iter::from_fn(|| self.shard.poll_reply()).map(|(caller, reply)| (caller.token, reply)).collect()
    }

    /// Nanoseconds of CPU for one lookup, of ids all over.
    fn look_up(&mut self, device_count: u32) -> Result<f64, String> {
        let mut at: u32 = 0;
        let cpu_before = cpu_ns();
        for _ in 0..LOOKUP_COUNT {
            // A stride without a common factor with any round number.
            at = (at + 618_033_989 % device_count) % device_count;
            let id = device(at)?;
            self.ask(Request::FindDevice { device: id.clone() });
            self.shard.poll(now(self.began));
            match self.shard.poll_reply() {
                Some((_, Reply::Device(view))) if view.device == id => {}
                other => return Err(format!("{id:?}: {other:?}")),
            }
        }
        Ok((cpu_ns() - cpu_before) as f64 / f64::from(LOOKUP_COUNT))
    }
}

fn device(number: u32) -> Result<DeviceId, String> {
    DeviceId::parse(&format!("device-{number:08}")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_finds_every_identity_again() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let created = create(directory.path(), 2500).unwrap();
        assert!(created.per_s > 0.0 && created.lookup_ns > 0.0);
        assert!(reopen(directory.path(), 2500).unwrap().open_ms > 0.0);
        assert!(reopen(directory.path(), 2501).is_err(), "a count that is wrong is seen");
    }
}
