//! Prints figures: `bench log` (the default) durable appends, for commits of several sizes; `bench commands` durable
//! enqueue-deliver-complete cycles; `bench queues` memory, disk and restart of commands that wait; `bench identities` bulk
//! creation, lookups, memory and restart of a registry; `bench ceilings` what the machine gives, as TOML; `bench count` instructions per event of the hot paths, compared with
//! those that are kept.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use bench::ceilings::handshakes::{self, Kind};
use bench::ceilings::{round_trips, writes};
use bench::hot_path::HOT_PATHS;
use bench::instruction_count::{Counts, Kept, Verdict, key};
use bench::{command_cycle, command_queues, identities, instruction_count, log_ingest};
use engine::request::Ack;

const PAYLOAD_BYTES: usize = 256;
/// Records per commit, and how many in all.
const LOG_ROWS: [(u64, u64); 4] = [(1, 20_000), (64, 1_000_000), (1024, 8_000_000), (4096, 16_000_000)];
/// Devices with one command each on its way, commands in all, and what is told.
const COMMAND_ROWS: [(u32, u64, Ack); 4] = [
    (1, 5_000, Ack::None),
    (100, 200_000, Ack::None),
    (1000, 2_000_000, Ack::None),
    (1000, 2_000_000, Ack::Full),
];
/// Connections whose both ends fit into a process's 20 000 descriptors; requests and answers as AMQP's with TLS.
const ROUND_TRIPS: round_trips::Size = round_trips::Size {
    connection_count: 9_000,
    request_bytes: 330,
    answer_bytes: 60,
    trips: None,
    time: Duration::ZERO,
    cpus: Some((0, 1)),
};
/// As a reconnect with a TLS 1.2 ticket: two round trips and the end by MQTT, seven by AMQP.
const MQTT_CONNECTIONS: round_trips::Size = round_trips::Size {
    connection_count: 100,
    request_bytes: 320,
    answer_bytes: 180,
    trips: Some(2),
    ..ROUND_TRIPS
};
const AMQP_CONNECTIONS: round_trips::Size = round_trips::Size { trips: Some(7), ..MQTT_CONNECTIONS };
/// Half of the ingest bar's events, 355 B of the log for 256 B of body.
const WRITES: writes::Size =
    writes::Size { records_per_s: 500_000, record_bytes: 355, file_bytes: 1 << 30, time: Duration::ZERO };
const FULL_FILE_BYTES: usize = 256 << 20;
const QUEUES: command_queues::Size =
    command_queues::Size { device_count: 100_000, commands_per_device: 10, message_bytes: PAYLOAD_BYTES };

/// Identities of each row.
const IDENTITY_ROWS: [u32; 3] = [1_000, 100_000, 1_000_000];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        [] | ["log"] => log(),
        ["commands"] => commands(),
        ["queues"] => queues(),
        // The second half of `queues`, in a process of its own.
        ["reopen", directory] => reopen(Path::new(directory)),
        ["identities"] => all_identities(),
        // The second half of `identities`, likewise.
        ["reopen-identities", directory, count] => reopen_identities(Path::new(directory), count),
        ["ceilings"] => all_ceilings(5.0),
        ["ceilings", seconds] => {
            seconds.parse().map_err(|_| format!("{seconds:?} is no number of seconds")).and_then(all_ceilings)
        }
        ["count"] => count(false),
        ["count", "--accept"] => count(true),
        // What runs under the counter.
        ["count", "run", name] => run_hot_path(name),
        _ => {
            Err("say log, commands, queues, identities, ceilings [SECONDS], count or count --accept"
                .to_owned())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn log() -> Result<(), String> {
    println!(
        "{PAYLOAD_BYTES} B records; records per commit, durable records/s, CPU ns/record, commit us p50, p99"
    );
    for (commit_record_count, record_count) in LOG_ROWS {
        let size = log_ingest::Size { record_count, commit_record_count, payload_bytes: PAYLOAD_BYTES };
        let figures = log_ingest::run(directory()?.path(), size)?;
        println!(
            "{commit_record_count:>6} {:>12.0} {:>8.0} {:>8} {:>8}",
            figures.records_per_s, figures.cpu_ns_per_record, figures.commit_us_p50, figures.commit_us_p99
        );
    }
    Ok(())
}

fn commands() -> Result<(), String> {
    println!(
        "{PAYLOAD_BYTES} B commands; devices, receipts, durable cycles/s, CPU ns/cycle, cycle us p50, p99"
    );
    for (device_count, command_count, ack) in COMMAND_ROWS {
        let size = command_cycle::Size { command_count, device_count, message_bytes: PAYLOAD_BYTES, ack };
        let figures = command_cycle::run(directory()?.path(), size)?;
        println!(
            "{device_count:>6} {ack:<5?} {:>12.0} {:>8.0} {:>8} {:>8}",
            figures.cycles_per_s, figures.cpu_ns_per_cycle, figures.cycle_us_p50, figures.cycle_us_p99
        );
    }
    Ok(())
}

fn queues() -> Result<(), String> {
    let directory = directory()?;
    println!(
        "{} devices with {} commands of {PAYLOAD_BYTES} B each; ms, memory MiB, journal and snapshot MiB",
        QUEUES.device_count, QUEUES.commands_per_device
    );
    print("fill", command_queues::fill(directory.path(), QUEUES)?);
    in_own_process(&["reopen".as_ref(), directory.path().as_os_str()])
}

/// Run this program again: what memory it takes is then not what an earlier part left.
fn in_own_process(arguments: &[&OsStr]) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let status = Command::new(program).args(arguments).status();
    match status.map_err(|error| error.to_string())?.success() {
        true => Ok(()),
        false => Err("it does not open again".to_owned()),
    }
}

fn all_ceilings(seconds: f64) -> Result<(), String> {
    let time = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    let trips = round_trips::run(round_trips::Size { time, ..ROUND_TRIPS })?;
    println!("round_trips_per_s = {:.0}", trips.trips_per_s);
    for (name, size) in [("mqtt", MQTT_CONNECTIONS), ("amqp", AMQP_CONNECTIONS)] {
        let found = round_trips::run(round_trips::Size { time, ..size })?;
        println!("{name}_connections_per_s = {:.0}", found.connections_per_s);
    }
    println!("full_handshakes_per_s = {:.0}", handshakes::run(Kind::Full13, time)?);
    println!("ticket_handshakes_per_s = {:.0}", handshakes::run(Kind::Ticket12, time)?);
    let found = writes::run(directory()?.path(), writes::Size { time, ..WRITES })?;
    println!("writes_per_s = {:.0}", found.write_count as f64 / seconds);
    println!("write_us_p50 = {}\nwrite_us_p99 = {}", found.write_us.0, found.write_us.1);
    println!("durable_us_p50 = {}\ndurable_us_p99 = {}", found.record_us.0, found.record_us.1);
    let bytes_per_s = writes::flat_out(directory()?.path(), FULL_FILE_BYTES, time)?;
    println!("durable_bytes_per_s = {bytes_per_s:.0}");
    Ok(())
}

fn all_identities() -> Result<(), String> {
    println!("one partition; identities, durable creates/s, CPU ns/create, lookup CPU ns, memory B each");
    println!("behind \"open\": ms, lookup CPU ns, memory B each");
    for count in IDENTITY_ROWS {
        let directory = directory()?;
        let found = identities::create(directory.path(), count)?;
        println!(
            "{count:>8} {:>10.0} {:>8.0} {:>8.0} {:>8.0}",
            found.per_s, found.cpu_ns, found.lookup_ns, found.rss_bytes
        );
        let count = count.to_string();
        in_own_process(&["reopen-identities".as_ref(), directory.path().as_os_str(), count.as_ref()])?;
    }
    Ok(())
}

fn reopen_identities(directory: &Path, count: &str) -> Result<(), String> {
    let count = count.parse().map_err(|_| format!("{count:?} is no number"))?;
    let found = identities::reopen(directory, count)?;
    println!("    open {:>10.1} {:>8.0} {:>8.0}", found.open_ms, found.lookup_ns, found.rss_bytes);
    Ok(())
}

fn reopen(directory: &Path) -> Result<(), String> {
    print("reopen", command_queues::reopen(directory, QUEUES)?);
    Ok(())
}

fn count(is_accepted: bool) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let (path, key) = (Kept::path(), key()?);
    let mut kept = Kept::load(&path)?;
    println!("instructions per event, {key}");
    let (mut counts, mut worse) = (Counts::new(), Vec::new());
    for hot_path in &HOT_PATHS {
        let count = instruction_count::count(&program, hot_path)?;
        let verdict = match kept.judge(&key, hot_path.name, count) {
            Verdict::New => "nothing to compare with".to_owned(),
            Verdict::Kept(percent) => format!("{percent:+.1} %"),
            Verdict::Worse(percent) => {
                worse.push(hot_path.name);
                format!("{percent:+.1} %, worse")
            }
        };
        println!("{:<18} {count:>8}  {verdict}", hot_path.name);
        counts.insert(hot_path.name.to_owned(), count);
    }
    if is_accepted {
        kept.accept(&key, counts);
        return kept.save(&path);
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} costs more than {} % above what is kept; where that is meant, run `cargo run --release -p bench -- count \
         --accept` and commit bench/instruction-counts.toml with the reason",
        worse.join(", "),
        instruction_count::TOLERANCE_PERCENT
    ))
}

fn run_hot_path(name: &str) -> Result<(), String> {
    let path = HOT_PATHS.iter().find(|path| path.name == name).ok_or("there is no such path")?;
    path.run(directory()?.path(), path.repetitions)
}

fn print(name: &str, figures: command_queues::Figures) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "{name:<7} {:>8} {:>8.0} {:>8.0}",
        figures.ms,
        mib(figures.rss_bytes),
        mib(figures.journal_bytes)
    );
}

fn directory() -> Result<tempfile::TempDir, String> {
    tempfile::tempdir_in(".").map_err(|error| error.to_string())
}
