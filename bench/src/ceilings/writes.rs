//! Durable writes: one after the other, each with what has come meanwhile at a steady pace; and as much as the disk takes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::fs::OFlags;
use segment_log::LogConfig;
use segment_log::storage::Buffer;
use segment_log::storage::disk::AlignedBuffer;

const BLOCK_BYTES: usize = 4096;
/// Files that are written at once, as the logs of the default partitions.
const FILE_COUNT: usize = 4;
/// Bytes of each write when there is always more.
const FULL_WRITE_BYTES: usize = 1 << 20;

/// What comes, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Records per second.
    pub records_per_s: u64,
    /// Bytes of each in the file.
    pub record_bytes: usize,
    /// Bytes of the file, which is written from front to end again and again: whole blocks, a commit of the
    /// log at least.
    pub file_bytes: usize,
    /// How long.
    pub time: Duration,
}

/// What was found, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Writes in all.
    pub write_count: u64,
    /// Of a write, from its start to its durability: median and slowest hundredth.
    pub write_us: (u64, u64),
    /// Of a record, from when it was due by the pace to its durability, likewise. A write that stands still delays all that
    /// come meanwhile, which the slowest hundredth of writes hides.
    pub record_us: (u64, u64),
}

/// Write in `directory`, past the page cache (O_DIRECT, O_DSYNC) into a file of zeros that are on the disk before.
///
/// # Errors
///
/// What the disk says; a file system without O_DIRECT is none of those that are measured.
pub fn run(directory: &Path, size: Size) -> Result<Figures, String> {
    let file =
        zeros(&directory.join("writes"), size.file_bytes).map_err(|error| format!("zeros: {error}"))?;
    // A write takes no more than a commit of the log.
    let write_bytes_max = LogConfig::default().commit_bytes_max;
    let buffer = AlignedBuffer::allocate(write_bytes_max);
    let mut offset = 0;
    let (mut writes, mut records) = (histogram()?, histogram()?);
    let ns_each = 1_000_000_000 / size.records_per_s.max(1);
    let began = Instant::now();
    let mut done = 0;
    loop {
        let before = began.elapsed();
        if before >= size.time {
            break;
        }
        let due = (before.as_nanos() as u64 / ns_each + 1).saturating_sub(done);
        let count = due.min((write_bytes_max / size.record_bytes) as u64);
        if count == 0 {
            std::thread::sleep(Duration::from_nanos(done * ns_each).saturating_sub(before));
            continue;
        }
        let bytes = (count as usize * size.record_bytes).next_multiple_of(BLOCK_BYTES);
        if offset + bytes > size.file_bytes {
            offset = 0;
        }
        file.write_all_at(&buffer.bytes()[..bytes], offset as u64)
            .map_err(|error| format!("write: {error}"))?;
        offset += bytes;
        let after = began.elapsed();
        writes.saturating_record((after - before).as_micros() as u64);
        for record in done..done + count {
            let due_us = record * ns_each / 1000;
            records.saturating_record((after.as_micros() as u64).saturating_sub(due_us));
        }
        done += count;
    }
    let of =
        |histogram: &Histogram<u64>| (histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99));
    Ok(Figures { write_count: writes.len(), write_us: of(&writes), record_us: of(&records) })
}

/// Bytes per second that become durable when four files are written at once and there is always more: 1 MiB a write, past the
/// page cache, `file_bytes` of zeros in each file (whole MiB, 1 at least), over and over.
///
/// # Errors
///
/// As of [`run`].
pub fn flat_out(directory: &Path, file_bytes: usize, time: Duration) -> Result<f64, String> {
    let files: Result<Vec<File>, _> =
        (0..FILE_COUNT).map(|number| zeros(&directory.join(format!("full-{number}")), file_bytes)).collect();
    let files = files.map_err(|error| format!("zeros: {error}"))?;
    let began = Instant::now();
    let write = |file: &File| -> std::io::Result<u64> {
        let buffer = AlignedBuffer::allocate(FULL_WRITE_BYTES);
        let mut written = 0;
        while began.elapsed() < time {
            file.write_all_at(buffer.bytes(), written % file_bytes as u64)?;
            written += FULL_WRITE_BYTES as u64;
        }
        Ok(written)
    };
    let written: std::io::Result<u64> = std::thread::scope(|scope| {
        let writers: Vec<_> = files.iter().map(|file| scope.spawn(|| write(file))).collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer returns its errors")).sum()
    });
    Ok(written.map_err(|error| format!("write: {error}"))? as f64 / began.elapsed().as_secs_f64())
}

fn zeros(path: &Path, bytes: usize) -> std::io::Result<File> {
    let mut plain = File::create(path)?;
    let chunk = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let count = left.min(chunk.len());
        plain.write_all(&chunk[..count])?;
        left -= count;
    }
    plain.sync_all()?;
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
    OpenOptions::new().write(true).custom_flags(flags as i32).open(path)
}

fn histogram() -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_pace_is_kept() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let time = Duration::from_millis(200);
        let size = Size { records_per_s: 10_000, record_bytes: 355, file_bytes: 8 << 20, time };
        let found = run(directory.path(), size).unwrap();
        assert!(found.write_count > 0 && found.write_us.0 > 0, "{found:?}");
        assert!(found.record_us.1 >= found.record_us.0 && found.write_us.1 >= found.write_us.0, "{found:?}");
    }
    #[test]
    fn as_much_as_the_disk_takes_is_more_than_nothing() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let bytes_per_s = flat_out(directory.path(), 1 << 20, Duration::from_millis(50)).unwrap();
        // Of four files there is one write each at least.
        assert!(bytes_per_s > 0.0, "{bytes_per_s}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), FILE_COUNT);
    }
}
