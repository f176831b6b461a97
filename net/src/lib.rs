//! The hub spoken over the wire, and the program that runs it.
//!
//! [`main`] is the program `corehub`. From the outside in: [`io`] owns sockets, [`stack`] is one connection as a machine (TLS,
//! protocol), [`binding`] turns protocol events into requests to the engine. [`serve`] puts them together with the data
//! directory, the certificates and the cores; the other commands talk to a hub that runs.
#![deny(unsafe_code)]

pub mod binding;
pub mod certificate;
mod cli;
pub mod config;
pub mod data_dir;
mod files;
pub mod further;
pub mod io;
pub mod jobs;
pub mod serve;
pub mod stack;
pub mod strangers;
pub mod tls;

/// The program: reads the command line, runs one command and returns its exit status.
pub fn main() -> std::process::ExitCode {
    cli::run()
}
