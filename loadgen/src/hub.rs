//! The hub under load: started in a fresh directory, prepared through its own command line, stopped at the end.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::arguments::Arguments;

/// What a hub of a run listens for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// AMQP in TLS.
    Amqps,
    /// HTTPS.
    Https,
    /// MQTT in TLS.
    Mqtts,
    /// AMQP in the clear.
    PlainAmqp,
}

/// Apart from a hub that may run with the default ports.
const PORTS: [(Port, &str, u16); 4] = [
    (Port::Amqps, "--amqps-port", 25671),
    (Port::Https, "--https-port", 25443),
    (Port::Mqtts, "--mqtts-port", 28883),
    (Port::PlainAmqp, "--plain-amqp-port", 25672),
];

/// How long a hub may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// The hub's name, and its event hub's.
pub const NAME: &str = "load";

/// A hub that runs for this load alone; dropped, it is stopped, and its directory removed unless it is to be kept.
#[derive(Debug)]
pub struct Hub {
    child: Child,
    binary: PathBuf,
    bind: String,
    directory: tempfile::TempDir,
    /// How many partitions it has.
    pub partition_count: u16,
}

impl Hub {
    /// Start `binary` in a fresh directory as the arguments say, and wait until it is ready.
    pub fn start(binary: &Path, arguments: &Arguments) -> Result<Self, String> {
        let directory = tempfile::Builder::new()
            .prefix("corehub-load-")
            .disable_cleanup(arguments.keep_data)
            .tempdir_in(&arguments.data_parent)
            .map_err(|error| format!("no directory for the hub's data: {error}"))?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--data").arg(directory.path());
        command.args(["--bind", &arguments.hub_bind, "--name", NAME]);
        command.args(["--cores", &arguments.hub_cores.to_string()]);
        for (_, flag, port) in &PORTS {
            command.args([flag, port.to_string().as_str()]);
        }
        if let Some(pin) = &arguments.hub_pin {
            command.args(["--pin", pin]);
        }
        // The hub's default: four, or one for each core where there are more.
        let partition_count = arguments.partitions.unwrap_or(arguments.hub_cores.clamp(4, 32));
        command.args(["--partitions", &partition_count.to_string()]);
        if let Some(mib) = arguments.retention_mib {
            command.arg(format!("--retention-bytes={mib}MiB"));
        }
        command.args(&arguments.hub_arg);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines();
        if !lines.by_ref().map_while(Result::ok).any(|line| line.starts_with("ready")) {
            let status = child.wait().map_err(|error| error.to_string())?;
            return Err(format!("the hub did not start: {status}"));
        }
        // The pipe must stay open and drained for as long as the hub may print.
        std::thread::spawn(move || lines.for_each(drop));
        let bind = arguments.hub_bind.clone();
        Ok(Self { child, binary: binary.to_owned(), bind, directory, partition_count })
    }

    /// The id of its process.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn address(&self, port: Port) -> Result<SocketAddr, String> {
        let number = PORTS.iter().find(|(known, ..)| *known == port).map_or(0, |(.., number)| *number);
        let ip = self.bind.parse().map_err(|_| "--hub-bind must be an address".to_owned())?;
        Ok(SocketAddr::new(ip, number))
    }

    /// Its CA certificate.
    pub fn ca_pem(&self) -> Result<String, String> {
        let path = self.directory.path().join("tls/ca.pem");
        std::fs::read_to_string(path).map_err(|error| format!("the hub's CA file: {error}"))
    }

    /// Create the devices of a run.
    pub fn create_devices(&self, ids: &[String]) -> Result<(), String> {
        for chunk in ids.chunks(500) {
            let mut arguments = vec!["device", "create"];
            arguments.extend(chunk.iter().map(String::as_str));
            self.run(&arguments)?;
        }
        Ok(())
    }

    /// The owner's policy. Secret.
    pub fn connection_string(&self) -> Result<String, String> {
        self.run(&["connection-string", "--policy", "iothubowner"])
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(&self.binary)
            .args(arguments)
            .arg("--data")
            .arg(self.directory.path())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| format!("cannot run {}: {error}", self.binary.display()))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!("corehub {} failed: {}", arguments[..2].join(" "), output.status)),
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // The run is over or failed. A hub that stops by itself says in its log what its commits took; one that does not is
        // of no use to anyone.
        // Its number may be another's once it has ended and been waited for.
        let runs = matches!(self.child.try_wait(), Ok(None));
        if let Some(process) = Pid::from_raw(self.child.id().cast_signed()).filter(|_| runs) {
            let _ = kill_process(process, Signal::TERM);
        }
        let asked = Instant::now();
        while asked.elapsed() < STOP_PATIENCE && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
