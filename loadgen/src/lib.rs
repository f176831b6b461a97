//! A load generator that drives the hub over AMQP and checks what it acknowledged.
//!
//! It knows the protocol crates alone: what it measures is what any client of the hub would see. A run starts the hub in a
//! fresh directory, creates devices, sends through gateway connections for a while, then reads everything back with
//! Event Hubs receivers and fails unless each acknowledged event is there once and in order of its device.
#![forbid(unsafe_code)]

pub mod device;
pub mod hub;
pub mod io;
pub mod report;
mod run;
pub mod token;
pub mod workload;

pub use run::main;
