//! The hub spoken over the wire, and the program that runs it.
//!
//! [`main`] is the program `corehub`. From the outside in: `io` owns sockets, [`stack`] is one connection as a machine (TLS,
//! protocol), [`binding`] turns protocol events into requests to the engine.
#![deny(unsafe_code)]

pub mod binding;
pub mod certificate;
pub mod config;
pub mod data_dir;
mod files;
pub mod stack;
pub mod tls;

/// The program: reads the command line, runs one command and returns its exit status.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
