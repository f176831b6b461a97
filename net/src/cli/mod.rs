//! The command line: what is said to `corehub`, and the commands that talk to a running hub.

mod connection_string;
mod consumer_group;
mod device;
mod enrolment;
mod https;
mod job;
mod log;
mod monitor;
mod policy;
mod reader;
mod send;
mod sender;
mod talk;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Settings;
use crate::serve;

/// Azure IoT Hub as one program on your own Linux host.
#[derive(Parser, Debug)]
#[command(name = "corehub", version, about, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the hub; the first start makes everything that is missing
    Serve(Box<Settings>),
    /// Print one connection string
    ConnectionString(connection_string::Arguments),
    /// Create, show, list, enable, disable and delete devices
    Device(device::Arguments),
    /// Let devices get their identities by themselves
    Enrolment(enrolment::Arguments),
    /// Import and export all devices as jobs of the hub
    Job(job::Arguments),
    /// Create, list and delete consumer groups
    ConsumerGroup(consumer_group::Arguments),
    /// List, create, renew and delete shared access policies
    Policy(policy::Arguments),
    /// Send a command to a device
    Send(send::Arguments),
    /// Print events as they arrive
    Monitor(monitor::Arguments),
    /// Look into logs without changing them
    Log(log::Arguments),
}

/// Which hub a command means.
#[derive(Args, Clone, Debug)]
struct HubArguments {
    /// Data directory of the running hub
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// One thing of a hub that goes by its name.
#[derive(Args, Debug)]
struct Named {
    /// Its name
    name: String,
    #[command(flatten)]
    hub: HubArguments,
}

impl Named {
    /// Ask the hub about it: what `rest` adds to its path in a collection.
    fn ask(
        &self,
        method: &str,
        collection: &str,
        rest: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<(), CommandError> {
        let path = format!("/{collection}/{}{rest}", https::segment(&self.name));
        https::Hub::find(&self.hub.data)?.ask(method, &path, &[], body)?;
        Ok(())
    }
}

/// Why a command failed: one line for whoever gave it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct CommandError(String);

impl CommandError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A command's way to [`CommandError`] from whatever went wrong.
trait OrFail<T> {
    /// With the error's own words.
    fn or_fail(self) -> Result<T, CommandError>;
}

impl<T, E: std::fmt::Display> OrFail<T> for Result<T, E> {
    fn or_fail(self) -> Result<T, CommandError> {
        self.map_err(|error| CommandError::new(error.to_string()))
    }
}

/// Run what the command line says.
pub fn run() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Serve(settings) => serve::run(*settings).or_fail(),
        Command::ConnectionString(arguments) => connection_string::run(&arguments),
        Command::Device(arguments) => device::run(&arguments),
        Command::Enrolment(arguments) => enrolment::run(&arguments),
        Command::Job(arguments) => job::run(&arguments),
        Command::ConsumerGroup(arguments) => consumer_group::run(&arguments),
        Command::Policy(arguments) => policy::run(&arguments),
        Command::Send(arguments) => send::run(&arguments),
        Command::Monitor(arguments) => monitor::run(&arguments),
        Command::Log(arguments) => log::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corehub: {}", error.0.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

/// Print a line on stdout. A reader that has gone (`corehub monitor | head -1`) ends the program without a word.
fn print_line(line: impl std::fmt::Display) {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    if writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_err() {
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn commands_of_the_product_parse() {
        for line in [
            "serve --data d",
            "serve --data d --name plant --host plant.example --host 10.0.0.5 --bind 0.0.0.0 --amqps-port 5671 \
             --https-port 443 --mqtts-port 8883 --plain-amqp-port 5672 --cores 2 --pin none --partitions 8 --retention-days 3 \
             --retention-bytes 40GiB --config hub.toml",
            "connection-string --data d",
            "connection-string --data d --policy service",
            "connection-string --data d --device pump7",
            "connection-string --data d --event-hub",
            "device create a b c --data d",
            "device create --file many.csv --data d",
            "device list --json --data d",
            "device export all.jsonl --exclude-keys --data d",
            "device import - --data d",
            "device show a --data d",
            "job import plant/today --wait --data d",
            "job export plant/today --exclude-keys --data d",
            "job list --json --data d",
            "job show 1-2 --data d",
            "job cancel 1-2 --data d",
            "device list --data d",
            "device enable a --data d",
            "device disable a --reason broken --data d",
            "device delete a b --data d",
            "enrolment create line-1 --group --data d",
            "enrolment create pump-7 --device p7 --primary-key k --secondary-key k --data d",
            "enrolment show line-1 --group --data d",
            "enrolment list --data d",
            "enrolment enable pump-7 --data d",
            "enrolment disable pump-7 --data d",
            "enrolment delete line-1 --group --data d",
            "enrolment key line-1 pump-7 --secondary --data d",
            "enrolment scope --data d",
            "policy list --data d",
            "policy create reader --rights RegistryRead,ServiceConnect --data d",
            "policy renew service --key secondary --data d",
            "policy delete reader --data d",
            "send dev-1 open --data d",
            "send dev-1 open --data d --ack Negative --ttl 90s --property a=b --property c= --message-id m \
             --correlation-id c --wait",
            "monitor --data d --device a --partition 3 --from latest --consumer-group g",
            "monitor --data d --from 2026-01-02T03:04:05Z",
            "consumer-group create g --data d",
            "consumer-group list --data d",
            "consumer-group delete g --data d",
            "log inspect d/partitions/0000/events",
        ] {
            let words = ["corehub"].into_iter().chain(line.split_whitespace());
            CommandLine::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "",
            "serve --data d --cores many",
            "serve --data d --data-key-file k --data-key-fd 3",
            "connection-string --data d --policy p --device x",
            "connection-string --data d --device x --event-hub",
            "device create --data d",
            "device create a --file f --data d",
            "device list",
            "monitor --data d --from yesterday",
            "monitor --data d --partition -1",
            "enrolment create g --group --device d --data d",
            "policy create reader --data d",
            "policy renew service --key both --data d",
            "send",
            "send dev-1 --data d",
            "send dev-1 open --data d --ack maybe",
            "send dev-1 open --data d --ttl soon",
            "send dev-1 open --data d --property =b",
        ] {
            let words = ["corehub"].into_iter().chain(line.split_whitespace());
            assert!(CommandLine::try_parse_from(words).is_err(), "{line}");
        }
    }
}
