//! Benchmarks of the log, the engine, the registry and the protocol machines.
//!
//! What takes a disk is a function here, with a small size that runs in tests and a real size that `cargo run --release -p
//! bench` prints; what takes only a processor is a criterion bench in `benches/`, and
//! what must not grow is counted in instructions.
#![forbid(unsafe_code)]

pub mod command_cycle;
pub mod command_queues;
pub mod hot_path;
pub mod instruction_count;
pub mod log_ingest;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread, nanoseconds.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
