//! Benchmarks of the log, the engine and the protocol machines.
#![forbid(unsafe_code)]
