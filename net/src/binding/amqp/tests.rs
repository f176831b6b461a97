//! The binding face to face with a client machine: over a scripted engine, and over a real shard on a simulated disk.

mod command_power_cut;
mod command_round_trip;
mod commands;
mod credentials;
mod deliveries;
mod hostile;
mod hub;
mod outlets;
mod power_cut;
mod readers;
mod receivers;
mod refusals;
mod round_trip;
mod script;
mod tokens;
mod twins;
pub mod wire;
