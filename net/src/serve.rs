//! `corehub serve`: the hub's start, its life and its end.
//!
//! The order of the start is such that nothing is changed before it is known that the hub can run: settings, io_uring, lock,
//! addresses, then what the first start makes, then the logs, then `run/hub.json`, then the listeners.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::request::SecretText;
use engine::shard::ShardConfig;
use engine_runtime::probe::{ProbeError, check_io_uring};
use engine_runtime::{RuntimeConfig, keep_freed_memory, outside_door};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{error, info, warn};

use crate::binding::HubInfo;
use crate::certificate::{Certificates, Name, Prepared};
use crate::config::{Config, Machine, Pin, Settings};
use crate::data_dir::{DataDir, DataKeySource, Manifest, RunInfo};
use crate::io::{Endpoint, Front, ReserveError, reserve, serve_core};
use crate::jobs::{JobsConfig, JobsThread};
use crate::stack::Port;
use crate::tls::Acceptor;

/// The port of HTTPS, and where it goes when that may not be bound and nobody asked for it.
const HTTPS_PORTS: (u16, u16) = (443, 8443);

/// Descriptors left for logs, rings and listeners when the number of connections follows from the limit of open files.
const DESCRIPTORS_RESERVED: u64 = 1024;

/// Most connections by default, where the limit of open files would allow more.
const CONNECTIONS_MAX_DEFAULT: u64 = 4_000_000;

/// How often the certificate's age is looked at while the hub runs.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(12 * 60 * 60);

/// How long the cores may take to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(15);

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Why the hub does not run; one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServeError(String);

macro_rules! from_errors {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for ServeError {
            fn from(error: $error) -> Self {
                Self(error.to_string())
            }
        })+
    };
}

from_errors!(
    crate::config::ConfigError,
    crate::data_dir::DataDirError,
    crate::certificate::CertificateError,
    crate::tls::TlsError,
    ReserveError,
    ProbeError,
    engine_runtime::StartError,
);

/// What wakes the thread that watches over the hub.
enum Watch {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// Run the hub until somebody stops it.
///
/// # Errors
///
/// [`ServeError`] when it cannot start, or did not end in good order.
pub fn run(settings: Settings) -> Result<(), ServeError> {
    let config = settings.resolve(&Machine::here())?;
    start_logging(&config.log)?;
    check_io_uring()?;
    keep_freed_memory();
    let data_dir = DataDir::open(&config.data)?;
    let manifest = data_dir.manifest()?;
    if let Some(manifest) = &manifest {
        check_fixed(&config, manifest)?;
    }
    let listen = reserve_all(&config)?;
    let is_first_start = manifest.is_none();
    let data_key = data_dir.data_key(&config.data_key, is_first_start)?;
    if config.data_key == DataKeySource::Beside {
        warn!(
            "the key that encrypts device keys lies beside the data, in {}: whoever copies the directory has both; \
             --data-key-file or --data-key-fd keeps them apart",
            data_dir.data_key_path().display()
        );
    }
    let certificates = Certificates::new(data_dir.tls());
    let names = config.certificate_names();
    say_prepared(&certificates.prepare(&names, now_ms() / 1000)?);
    let (chain, key) = certificates.load()?;
    let acceptor = Acceptor::new(&chain, &key)?;
    let manifest = match manifest {
        Some(manifest) => manifest,
        None => {
            let new = Manifest::new(config.name_of_new_hub(), config.partitions_of_new_hub(), now_ms());
            data_dir.create_manifest(&new)?;
            new
        }
    };
    let info = run_info(&config, &manifest, &listen, &certificates)?;
    let (outside, desk) = outside_door();
    let (jobs, jobs_thread) = JobsThread::start(jobs_config(&config, &manifest, &data_dir), outside)
        .map_err(|error| ServeError(format!("jobs: {error}")))?;
    let hub = Arc::new(HubInfo {
        name: manifest.name.clone(),
        host_names: info.hosts.clone(),
        partition_count: manifest.partitions,
        created_ms: manifest.created,
        token_skew_s: config.token_skew_s,
        administration_token: SecretText::new(info.administration_token.clone()),
        jobs,
    });

    let id_scope = hub.id_scope();

    // Before the first listener opens, so that nobody finds a hub that cannot be administered.
    data_dir.write_run_info(&info)?;
    let watch = watch_signals()?;
    let (listening, listened) = channel();
    let desk = Arc::new(Mutex::new(Some(desk)));
    let front = Front {
        endpoints: listen.endpoints.clone(),
        acceptor: acceptor.clone(),
        hub,
        listening,
        failed_login_delay_ms_max: 1000 * config.failed_login_delay_max_s,
        desk,
    };
    let runtime = runtime_config(&config, &manifest, &data_dir, data_key)?;
    let core_count = runtime.core_count;
    let running = engine_runtime::start(runtime, move |context| serve_core(context, front.clone()))?;
    if let Err(text) = wait_for_listeners(&listened, core_count) {
        running.stop();
        data_dir.remove_run_info()?;
        return Err(ServeError(text));
    }
    announce(&config, &info, &listen, &certificates, &id_scope);

    let keeper = Keeper { certificates, names, acceptor };
    keeper.watch(&watch);
    let report = running.stop();
    jobs_thread.stop();
    data_dir.remove_run_info()?;
    if report.clean {
        info!("stopped");
        Ok(())
    } else {
        Err(ServeError(
            "the hub did not stop in good order within its time; what was acknowledged is safe and the next start \
             recovers the rest"
                .into(),
        ))
    }
}

fn start_logging(filter: &str) -> Result<(), ServeError> {
    // rustls warns about what peers send, which is theirs to fix and would fill the log; our own lines say why a connection
    // ended.
    let filter =
        if filter.contains("rustls") { filter.to_string() } else { format!("{filter},rustls=error") };
    let filter = tracing_subscriber::EnvFilter::try_new(&filter)
        .map_err(|error| ServeError(format!("log: {filter:?} is not a log filter: {error}")))?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal);
    // A second hub in one process, a test's, logs to the first one's subscriber.
    let _ = subscriber.try_init();
    Ok(())
}

/// What the first start fixed may be repeated, but not changed.
fn check_fixed(config: &Config, manifest: &Manifest) -> Result<(), ServeError> {
    if let Some(name) = &config.name
        && *name != manifest.name
    {
        return Err(ServeError(format!(
            "name: this data directory's hub is called {:?} since its first start; leave --name out or start {name:?} on a \
             directory of its own",
            manifest.name
        )));
    }
    match config.partitions {
        Some(partitions) if partitions != manifest.partitions => Err(ServeError(format!(
            "partitions: this data directory's hub has {} since its first start, and devices stay in their partition for \
             ever; leave --partitions out",
            manifest.partitions
        ))),
        _ => Ok(()),
    }
}

/// Where the hub will listen.
#[derive(Debug)]
struct Listen {
    endpoints: Vec<Endpoint>,
    /// HTTPS is not where clients look for it.
    https_moved: Option<ReserveError>,
}

fn reserve_all(config: &Config) -> Result<Listen, ServeError> {
    let mut endpoints = Vec::new();
    let mut take = |port: Port, addresses: &[SocketAddr]| {
        endpoints.extend(addresses.iter().map(|address| Endpoint { port, address: *address }));
    };
    let on =
        |port: u16| -> Vec<SocketAddr> { config.bind.iter().map(|ip| SocketAddr::new(*ip, port)).collect() };
    let free = |addresses: &[SocketAddr]| addresses.iter().try_for_each(|address| reserve(*address));

    let amqps = on(config.amqps_port);
    free(&amqps)?;
    take(Port::Amqps, &amqps);

    let mut https_moved = None;
    let https = on(config.https_port.unwrap_or(HTTPS_PORTS.0));
    let https = match (free(&https), config.https_port) {
        (Ok(()), _) => https,
        (Err(error), Some(_)) => return Err(error.into()),
        (Err(error), None) => {
            https_moved = Some(error);
            let moved = on(HTTPS_PORTS.1);
            free(&moved)?;
            moved
        }
    };
    take(Port::Https, &https);

    let mqtts = on(config.mqtts_port);
    free(&mqtts)?;
    take(Port::Mqtts, &mqtts);

    for (protocol, port) in &config.also {
        let further = on(*port);
        free(&further)?;
        take(Port::Further(protocol), &further);
    }

    if let Some(port) = config.plain_amqp_port {
        // In the clear, so never beyond this machine, whatever the hub is bound to.
        let loopback: Vec<SocketAddr> =
            on(port).into_iter().filter(|address| address.ip().is_loopback()).collect();
        let loopback = match loopback.is_empty() {
            true => vec![SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), port)],
            false => loopback,
        };
        free(&loopback)?;
        take(Port::PlainAmqp, &loopback);
    }
    Ok(Listen { endpoints, https_moved })
}

fn say_prepared(prepared: &Prepared) {
    match prepared {
        Prepared::Unchanged => {}
        Prepared::First => info!("made a CA and a server certificate"),
        Prepared::NamesChanged => info!("issued the server certificate again: the hub's names have changed"),
        Prepared::Renewed => info!("issued the server certificate again: its end was near or it did not fit"),
        Prepared::Foreign { missing } if missing.is_empty() => {
            info!("serving the certificate in tls/server.pem, which this hub did not issue");
        }
        Prepared::Foreign { missing } => {
            let missing: Vec<String> = missing.iter().map(Name::to_string).collect();
            warn!(
                "tls/server.pem, which this hub did not issue, does not cover {}: clients will refuse these names",
                missing.join(", ")
            );
        }
    }
}

fn run_info(
    config: &Config,
    manifest: &Manifest,
    listen: &Listen,
    certificates: &Certificates,
) -> Result<RunInfo, ServeError> {
    use base64::Engine;
    let mut token = [0; 32];
    getrandom::fill(&mut token).map_err(|error| ServeError(format!("no randomness: {error}")))?;
    let addresses = |port: Port| {
        listen
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.port == port)
            .map(|endpoint| endpoint.address)
            .collect()
    };
    Ok(RunInfo {
        pid: std::process::id(),
        name: manifest.name.clone(),
        partitions: manifest.partitions,
        hosts: config.hosts.iter().map(Name::to_string).collect(),
        amqps: addresses(Port::Amqps),
        https: addresses(Port::Https),
        mqtts: addresses(Port::Mqtts),
        plain_amqp: addresses(Port::PlainAmqp),
        also: config
            .also
            .iter()
            .map(|(protocol, _)| (protocol.scheme.to_owned(), addresses(Port::Further(protocol))))
            .collect(),
        ca: certificates.ca_path(),
        administration_token: base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token),
    })
}

fn runtime_config(
    config: &Config,
    manifest: &Manifest,
    data_dir: &DataDir,
    data_key: registry::DataKey,
) -> Result<RuntimeConfig, ServeError> {
    let mut shard = ShardConfig::new(manifest.partitions, data_key);
    shard.access.token_skew_s = config.token_skew_s;
    shard.commands = config.commands.clone();
    shard.events.retention.age_ms = Some(u64::from(config.retention_days) * DAY_MS);
    shard.events.retention.bytes = config.retention_bytes.map(|bytes| bytes / u64::from(manifest.partitions));
    let mut runtime = RuntimeConfig::new(data_dir.root(), shard);
    runtime.core_count = config.core_count;
    runtime.pin = match &config.pin {
        Pin::None => None,
        Pin::Cpus(cpus) => Some(cpus.clone()),
    };
    runtime.connection_count_max = connections_per_core(config);
    runtime.sync_delay_ms = config.sync_delay_ms;
    Ok(runtime)
}

fn jobs_config(config: &Config, manifest: &Manifest, data_dir: &DataDir) -> JobsConfig {
    let files = config.jobs_directory.clone().unwrap_or_else(|| data_dir.jobs().join("files"));
    JobsConfig { records: data_dir.jobs().join("records"), files, partition_count: manifest.partitions }
}

fn connections_per_core(config: &Config) -> u32 {
    let open_files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let allowed = open_files.map_or(CONNECTIONS_MAX_DEFAULT, |files| {
        files.saturating_sub(DESCRIPTORS_RESERVED.min(files / 2)).min(CONNECTIONS_MAX_DEFAULT)
    });
    let wanted = config.connections_max.map_or(allowed, u64::from);
    if wanted > allowed {
        warn!(
            "connections-max is {wanted}, but the limit of open files allows {allowed} (ulimit -n, or LimitNOFILE= in the \
             service's unit)"
        );
    }
    let per_core = wanted.min(allowed).div_ceil(u64::from(config.core_count)).max(1);
    u32::try_from(per_core).unwrap_or(u32::MAX)
}

fn wait_for_listeners(listened: &Receiver<Result<(), String>>, core_count: u16) -> Result<(), String> {
    for _ in 0..core_count {
        match listened.recv_timeout(LISTEN_TIMEOUT) {
            Ok(result) => result?,
            Err(_) => return Err("the cores did not begin to listen in time".into()),
        }
    }
    Ok(())
}

/// Turns signals into [`Watch`].
fn watch_signals() -> Result<Receiver<Watch>, ServeError> {
    let failed = |error: std::io::Error| ServeError(format!("signals: {error}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    let (sender, receiver): (Sender<Watch>, _) = channel();
    let forward = move || {
        for signal in signals.forever() {
            let watch = if signal == SIGHUP { Watch::Reload } else { Watch::Stop };
            if sender.send(watch).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(forward).map_err(failed)?;
    Ok(receiver)
}

/// Looks after the certificate while the hub runs.
struct Keeper {
    certificates: Certificates,
    names: Vec<Name>,
    acceptor: Acceptor,
}

impl Keeper {
    /// Until the hub is to stop.
    fn watch(&self, watch: &Receiver<Watch>) {
        loop {
            match watch.recv_timeout(CERTIFICATE_CHECK) {
                Ok(Watch::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    info!("stopping");
                    return;
                }
                Ok(Watch::Reload) => self.reload(true),
                Err(RecvTimeoutError::Timeout) => self.reload(false),
            }
        }
    }

    /// Issue the certificate again where that is due, and serve what lies there. A failure leaves the one that is served.
    fn reload(&self, is_asked: bool) {
        let result =
            self.certificates.prepare(&self.names, now_ms() / 1000).map_err(ServeError::from).and_then(
                |prepared| {
                    if is_asked || prepared == Prepared::Renewed {
                        let (chain, key) = self.certificates.load()?;
                        self.acceptor.replace_certificate(&chain, &key)?;
                        say_prepared(&prepared);
                        info!(
                            "new connections get the certificate in {}",
                            self.certificates.server_path().display()
                        );
                    }
                    Ok(())
                },
            );
        if let Err(text) = result {
            error!("the certificate stays as it is: {text}");
        }
    }
}

/// What a person needs to go on, on stdout; the first line is for scripts.
fn announce(config: &Config, info: &RunInfo, listen: &Listen, certificates: &Certificates, id_scope: &str) {
    let data = config.data.display();
    let host = &info.hosts[0];
    let list = |addresses: &[SocketAddr]| {
        let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        texts.join(", ")
    };
    let mut text = format!(
        "ready: hub {} with {} partitions on {} cores\n\n  AMQP over TLS  {}\n  HTTPS          {}\n  MQTT over TLS  {}\n",
        info.name,
        info.partitions,
        config.core_count,
        list(&info.amqps),
        list(&info.https),
        list(&info.mqtts)
    );
    if !info.plain_amqp.is_empty() {
        text += &format!(
            "  AMQP in clear  {} (UseDevelopmentEmulator=true; this machine only)\n",
            list(&info.plain_amqp)
        );
    }
    for (protocol, _) in &config.also {
        text += &format!("  {:<13}  {}\n", protocol.title, list(&info.also[protocol.scheme]));
    }
    if let Some(error) = &listen.https_moved {
        text += &format!(
            "\n  HTTPS is on port {} because {error}.\n  Azure's REST clients accept port 443 only; the others work.\n",
            HTTPS_PORTS.1
        );
    }
    text += &format!(
        "\nClients trust the CA in {ca}\nand reach the hub as {host}. Connection strings:\n\n  \
         corehub connection-string --data {data}\n  \
         corehub connection-string --data {data} --device ID\n  \
         corehub connection-string --data {data} --event-hub\n\n\
         Devices that register by themselves know it by the id scope {scope}.\n\n\
         Try next: make a device, watch what it sends:\n\n  \
         corehub device create my-device --data {data}\n  \
         corehub monitor --data {data}\n",
        ca = certificates.ca_path().display(),
        scope = id_scope,
    );
    // The hub serves whether or not somebody reads this.
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
