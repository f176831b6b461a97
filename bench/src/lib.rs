//! Benchmarks of the log, the registry and the protocol machines.
//!
//! What takes a disk is a function here, with a small size that runs in tests and a real size that `cargo run --release -p
//! bench` prints; what takes only a processor is a criterion bench in `benches/`.
#![forbid(unsafe_code)]

pub mod log_ingest;
