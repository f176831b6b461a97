//! Durable appends to a log of its own, without a hub around it: the ceiling of ingest on this disk.

use std::path::Path;
use std::time::Instant;

use segment_log::storage::disk::{DiskConfig, DiskStorage};
use segment_log::{AppendError, Log, LogConfig, Now, RetentionConfig, drive};

use crate::cpu_ns;

/// How much to append.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Records in all.
    pub record_count: u64,
    /// Records per commit: what gathers while the one before is written.
    pub commit_record_count: u64,
    /// Bytes of each record's payload.
    pub payload_bytes: usize,
}

/// What one run found.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Durable records per second.
    pub records_per_s: f64,
    /// CPU time of the thread per record, nanoseconds.
    pub cpu_ns_per_record: f64,
    /// Time from the first append of a commit to its durability, microseconds, the median.
    pub commit_us_p50: u64,
    /// The same, of the slowest hundredth.
    pub commit_us_p99: u64,
}

/// Append in `directory`, which must be empty and is left with the log in it. Commits run one after the other; the log keeps
/// at most 2 GiB, so that segments roll and are recycled as in service.
///
/// # Errors
///
/// What the disk says.
pub fn run(directory: &Path, size: Size) -> Result<Figures, String> {
    let mut storage =
        DiskStorage::open(directory, DiskConfig::default()).map_err(|error| format!("open: {error}"))?;
    let config = LogConfig {
        retention: RetentionConfig { bytes: Some(2 << 30), ..RetentionConfig::default() },
        ..LogConfig::default()
    };
    let began = Instant::now();
    let now = |began: Instant| {
        let mono_ms = began.elapsed().as_millis() as u64;
        Now { wall_ms: 1_700_000_000_000 + mono_ms, mono_ms }
    };
    let (mut log, _) =
        Log::open(&mut storage, config, now(began), 7).map_err(|error| format!("open: {error}"))?;
    let payload = vec![0x5a; size.payload_bytes];
    let mut commits_us = Vec::new();
    let (cpu_before, wall_before) = (cpu_ns(), Instant::now());
    let mut left = size.record_count;
    while left > 0 {
        let commit_began = Instant::now();
        let time_ms = now(began).wall_ms;
        for _ in 0..size.commit_record_count.min(left) {
            loop {
                match log.append(&[&[&payload]], time_ms) {
                    Ok(_) => break,
                    Err(AppendError::Busy) => drive(&mut log, &mut storage),
                    Err(error) => return Err(format!("append: {error}")),
                }
            }
            left -= 1;
        }
        drive(&mut log, &mut storage);
        while log.poll_event().is_some() {}
        log.tick(now(began));
        commits_us.push(commit_began.elapsed().as_micros() as u64);
    }
    let (cpu, wall) = (cpu_ns() - cpu_before, wall_before.elapsed().as_secs_f64());
    if log.committed() != log.next() {
        return Err(format!("{} records appended, {} durable", log.next(), log.committed()));
    }
    commits_us.sort_unstable();
    let quantile = |hundredths: usize| commits_us[(commits_us.len() - 1) * hundredths / 100];
    Ok(Figures {
        records_per_s: size.record_count as f64 / wall,
        cpu_ns_per_record: cpu as f64 / size.record_count as f64,
        commit_us_p50: quantile(50),
        commit_us_p99: quantile(99),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_run_is_durable_to_its_last_record() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let size = Size { record_count: 3000, commit_record_count: 64, payload_bytes: 256 };
        let figures = run(directory.path(), size).unwrap();
        assert!(figures.records_per_s > 0.0 && figures.commit_us_p50 <= figures.commit_us_p99);
    }
}
