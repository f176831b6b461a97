//! The binding face to face with a client machine, over a real shard on a simulated disk.

mod commands;
mod hub;
mod refusals;
mod telemetry;
