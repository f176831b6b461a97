//! A load generator that drives a hub, or any AMQP 1.0 or MQTT 3.1.1 broker, and checks what it acknowledged.
//!
//! It knows the protocol crates alone: what it measures is what any client would see. A run starts the hub in a fresh
//! directory or finds a broker, sends by a schedule for a while, then reads everything back and fails unless each
//! acknowledged event is there once and in order of its device.
//!
//! The process that the user starts makes no load itself: it starts others, one for as many connections as there are
//! descriptors, gives each a [`job::Job`], and puts together what they found. In each of those one thread turns an
//! [`io::Reactor`] whose connections are [`client::Client`]s: machines without I/O, as the protocol crates are.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod client;
pub mod course;
pub mod crew;
pub mod hub;
pub mod io;
pub mod job;
pub mod ledger;
pub mod plot;
pub mod profile;
pub mod record;
pub mod report;
pub mod schedule;
pub mod server;
pub mod shape;
pub mod target;
pub mod token;
pub mod worker;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use course::Course;

/// Run the load generator with the arguments of the process.
pub fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some(crew::WORKER) => worker::main(),
        _ => execute(&Arguments::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &Arguments) -> Result<(), String> {
    let report = Course::prepare(arguments)?.run()?;
    match arguments.json {
        true => println!("{:#}", report.to_json()),
        false => println!("{}", report.to_table()),
    }
    // Behind the figures: a picture that cannot be drawn does not cost them.
    arguments.plot.as_ref().map_or(Ok(()), |path| {
        std::fs::write(path, report.to_svg()?)
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    })
}
