//! The command line of the load generator, and the course of a run.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;

use crate::device::gateway::{Gateway, GatewayConfig};
use crate::device::reader::Reader;
use crate::hub::Hub;
use crate::io::{Connections, client_config, run, sleep};
use crate::report::Report;
use crate::token::Credential;
use crate::workload::{Ledger, MARK_BYTES, SharedLedger, device_id};

/// The hub's default number of partitions on up to four cores.
const PARTITION_COUNT: u16 = 4;

/// Sends telemetry through gateway connections to a hub that it starts, and reads everything back.
#[derive(Clone, Debug, Parser)]
#[command(name = "loadgen", version)]
struct Arguments {
    /// The hub's program; default: `corehub` beside this one.
    #[arg(long)]
    hub_binary: Option<PathBuf>,
    /// Cores of the hub.
    #[arg(long, default_value_t = 1)]
    hub_cores: u16,
    /// CPUs of the hub's cores, as `corehub serve --pin` takes them.
    #[arg(long)]
    hub_pin: Option<String>,
    /// CPU of the load generator.
    #[arg(long)]
    cpu: Option<usize>,
    /// Where the hub's data goes while it runs (a real disk).
    #[arg(long, default_value = ".")]
    data_parent: PathBuf,
    /// Gateway connections.
    #[arg(long, default_value_t = 4)]
    connections: u32,
    /// Devices on each connection.
    #[arg(long, default_value_t = 250)]
    devices: u32,
    /// Bytes of each body.
    #[arg(long, default_value_t = 256)]
    body_bytes: usize,
    /// Events without acknowledgement at most, per connection.
    #[arg(long, default_value_t = 8192)]
    in_flight: u32,
    /// Seconds before the measured window.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Seconds of the measured window.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// A token for each connection's device alone, where each connection has one: then the hub may move it to that device's
    /// core.
    #[arg(long)]
    device_tokens: bool,
    /// Without TLS, over the hub's plain port.
    #[arg(long)]
    plain: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Run the load generator with the arguments of the process.
pub fn main() -> ExitCode {
    match execute(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &Arguments) -> Result<(), String> {
    if arguments.body_bytes < MARK_BYTES {
        return Err(format!("--body-bytes must be at least {MARK_BYTES}"));
    }
    let binary = hub_binary(arguments)?;
    let hub = Hub::start(&binary, &arguments.data_parent, arguments.hub_cores, arguments.hub_pin.as_deref())?;
    let device_count = arguments.connections * arguments.devices;
    hub.create_devices(&(0..device_count).map(device_id).collect::<Vec<_>>())?;
    let credential = hub.credential()?;
    let report = run(arguments.cpu, measure(arguments, &hub, &credential))??;
    match arguments.json {
        true => println!("{:#}", report.to_json()),
        false => print!("{report}"),
    }
    Ok(())
}

fn hub_binary(arguments: &Arguments) -> Result<PathBuf, String> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("corehub"));
    let path = arguments.hub_binary.clone().or_else(beside).unwrap_or_default();
    match path.is_file() {
        true => Ok(path),
        false => {
            Err(format!("there is no hub at {}; build it with: cargo build --release -p net", path.display()))
        }
    }
}

async fn measure(arguments: &Arguments, hub: &Hub, credential: &Credential) -> Result<Report, String> {
    let device_count = arguments.connections * arguments.devices;
    let ledger: SharedLedger = Rc::new(RefCell::new(Ledger::new(device_count)));
    let now_s = SystemTime::UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?.as_secs();
    let expires_s = now_s + 86_400;
    let token = credential.sign(None, expires_s);
    let tls = match arguments.plain {
        true => None,
        false => {
            let ca = std::fs::read(hub.ca_path()).map_err(|error| format!("the CA file: {error}"))?;
            Some((client_config(&ca)?, credential.host.clone()))
        }
    };
    let address = hub.address(!arguments.plain);

    let senders = Connections::default();
    for index in 0..arguments.connections {
        let config = GatewayConfig {
            host: credential.host.clone(),
            token: match arguments.device_tokens && arguments.devices == 1 {
                true => credential.sign(Some(&device_id(index)), expires_s),
                false => token.clone(),
            },
            first_device: index * arguments.devices,
            device_count: arguments.devices,
            body_bytes: arguments.body_bytes,
            in_flight_max: arguments.in_flight,
        };
        let ledger = ledger.clone();
        senders.start(address, tls.clone(), move |output| Gateway::new(config, ledger, output));
    }
    pause(&senders, arguments.warm_up).await?;
    let (began, cpu_before) = (Instant::now(), hub.cpu_s()?);
    ledger.borrow_mut().window_is_open = true;
    pause(&senders, arguments.seconds).await?;
    ledger.borrow_mut().window_is_open = false;
    let (window_s, hub_cpu_s) = (began.elapsed().as_secs_f64(), hub.cpu_s()? - cpu_before);
    ledger.borrow_mut().is_stopping = true;
    until(&senders, "the last acknowledgements", || senders.open_count() == 0, || 0).await?;

    ledger.borrow_mut().is_stopping = false;
    let began = Instant::now();
    let readers = Connections::default();
    for partition in 0..PARTITION_COUNT {
        let (host, token, ledger) = (credential.host.clone(), token.clone(), ledger.clone());
        readers.start(address, tls.clone(), move |output| {
            Reader::new(&host, &token, "load", partition, ledger, output)
        });
    }
    let expected = ledger.borrow().acknowledged_count();
    let progress = || ledger.borrow().read_count();
    until(&readers, "events to be read back", || progress() >= expected, progress).await?;
    let read_s = began.elapsed().as_secs_f64();
    // Whatever was stored beyond what was acknowledged would come now.
    pause(&readers, 0.2).await?;
    ledger.borrow().verify()?;
    if ledger.borrow().window_count == 0 {
        return Err("nothing was acknowledged in the window".to_owned());
    }

    let ledger = ledger.borrow();
    Ok(Report {
        connection_count: arguments.connections,
        device_count,
        body_bytes: arguments.body_bytes,
        tls: !arguments.plain,
        in_flight_max: arguments.in_flight,
        window_s,
        event_count: ledger.window_count,
        hub_cpu_s,
        latency_us: ledger.latency_us.clone(),
        verified_count: ledger.read_count(),
        read_s,
    })
}

/// Wait, but no longer than until the first error.
async fn pause(connections: &Connections, seconds: f64) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        if let Some(error) = connections.take_error() {
            return Err(error);
        }
        sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now()))).await;
    }
    Ok(())
}

/// Wait until `is_done`; an error of a connection, or ten seconds without progress, ends the run.
async fn until(
    connections: &Connections,
    what: &str,
    is_done: impl Fn() -> bool,
    progress: impl Fn() -> u64,
) -> Result<(), String> {
    let (mut last, mut since) = (progress(), Instant::now());
    while !is_done() {
        if let Some(error) = connections.take_error() {
            return Err(error);
        }
        if progress() != last {
            (last, since) = (progress(), Instant::now());
        }
        if since.elapsed() > Duration::from_secs(10) {
            return Err(format!("waited 10 s for {what}, in vain"));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
