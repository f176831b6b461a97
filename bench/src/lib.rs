//! Benchmarks of the log, the engine, the registry and the protocol machines.
//!
//! What takes a disk is a function here, with a small size that runs in tests and a real size that `cargo run --release -p
//! bench` prints; what takes only a processor is a criterion bench in `benches/`, and
//! what must not grow is counted in instructions.
#![forbid(unsafe_code)]

pub mod ceilings;
pub mod command_cycle;
pub mod command_queues;
pub mod hot_path;
pub mod identities;
pub mod instruction_count;
pub mod log_ingest;

use rustix::time::{ClockId, clock_gettime};

/// Memory of this process, bytes (VmRSS).
fn rss_bytes() -> Result<u64, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().map_err(|_| "VmRSS is no number")?;
    Ok(kib * 1024)
}

/// CPU time of this thread, nanoseconds.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
