//! Commands that wait for devices that are away: what they cost in memory and on the disk, and how long a restart takes.

use std::path::Path;
use std::time::Instant;

use engine::request::{
    Ack, Caller, CommandDraft, ConnectionId, CoreId, DeviceDraft, PartitionId, Reply, Request,
};
use engine::shard::Shard;
use registry::DeviceId;
use segment_log::storage::disk::DiskStorage;

use crate::command_cycle::{now, open_shard};
use crate::rss_bytes;

/// How much is to wait.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Devices, all in one partition.
    pub device_count: u32,
    /// Commands for each.
    pub commands_per_device: u32,
    /// Bytes of each command's message; its id has 36 bytes more.
    pub message_bytes: usize,
}

/// What is found after each half.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// How long it took, milliseconds.
    pub ms: u64,
    /// Memory of the process, bytes (VmRSS).
    pub rss_bytes: u64,
    /// Bytes of all files beside the journal: its segments and the snapshot.
    pub journal_bytes: u64,
}

const CALLER: Caller =
    Caller { connection: ConnectionId { core: CoreId(0), slot: 0, generation: 0 }, token: 0 };

/// Create the devices and enqueue the commands in `directory`, which must be empty, and stop cleanly.
///
/// # Errors
///
/// What the disk says, and an answer that should not have come.
pub fn fill(directory: &Path, size: Size) -> Result<Figures, String> {
    let began = Instant::now();
    let mut shard = open_shard(directory)?;
    let device = |number| DeviceId::parse(&format!("device-{number:06}")).map_err(|error| error.to_string());
    for number in 0..size.device_count {
        let create = Request::CreateDevice(DeviceDraft::new(device(number)?));
        shard.handle_request(CALLER, create, now(began));
        if number % 500 == 0 {
            turn(&mut shard, began)?;
        }
    }
    for round in 0..size.commands_per_device {
        for number in 0..size.device_count {
            let draft = CommandDraft {
                device: device(number)?,
                message: vec![0x5a; size.message_bytes],
                message_id: format!("{round:018}{number:018}"),
                ack: Ack::Full,
                expires_ms: None,
            };
            shard.handle_request(CALLER, Request::EnqueueCommand(draft), now(began));
            if number % 500 == 0 {
                turn(&mut shard, began)?;
            }
        }
    }
    shard.handle_request(CALLER, Request::Flush { partition: PartitionId(0) }, now(began));
    turn(&mut shard, began)?;
    let enqueued = shard.counters().commands_enqueued;
    let expected = u64::from(size.device_count) * u64::from(size.commands_per_device);
    if enqueued != expected {
        return Err(format!("{enqueued} of {expected} commands are enqueued"));
    }
    let figures = figures(directory, began)?;
    shard.close(now(began));
    turn(&mut shard, began)?;
    Ok(figures)
}

/// Open what [`fill`] left, best in a process of its own.
///
/// # Errors
///
/// What the disk says, or that commands are missing.
pub fn reopen(directory: &Path, size: Size) -> Result<Figures, String> {
    let began = Instant::now();
    let mut shard = open_shard(directory)?;
    let figures = figures(directory, began)?;
    for number in [0, size.device_count / 2, size.device_count - 1] {
        let device = DeviceId::parse(&format!("device-{number:06}")).map_err(|error| error.to_string())?;
        shard.handle_request(CALLER, Request::DescribeCommandQueue { device }, now(began));
        shard.poll(now(began));
        match shard.poll_reply() {
            Some((_, Reply::CommandQueue(status))) if status.enqueued == size.commands_per_device => {}
            other => return Err(format!("device {number}: {other:?}")),
        }
    }
    Ok(figures)
}

fn turn(shard: &mut Shard<DiskStorage>, began: Instant) -> Result<(), String> {
    loop {
        shard.poll(now(began));
        while shard.poll_monitor().is_some() {}
        while let Some((_, reply)) = shard.poll_reply() {
            if let Reply::Failed(error) = reply {
                return Err(error.to_string());
            }
        }
        let Some(job) = shard.poll_job() else { return Ok(()) };
        shard.handle_job_done(job.run(), now(began));
    }
}

fn figures(directory: &Path, began: Instant) -> Result<Figures, String> {
    let ms = began.elapsed().as_millis() as u64;
    let mut journal_bytes = 0;
    for entry in std::fs::read_dir(directory.join("journal")).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        journal_bytes += entry.metadata().map_err(|error| error.to_string())?.len();
    }
    Ok(Figures { ms, rss_bytes: rss_bytes()?, journal_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_finds_every_command_again() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let size = Size { device_count: 300, commands_per_device: 10, message_bytes: 256 };
        let filled = fill(directory.path(), size).unwrap();
        assert!(filled.rss_bytes > 0 && filled.journal_bytes > 300 * 10 * 256);
        reopen(directory.path(), size).unwrap();
    }
}
