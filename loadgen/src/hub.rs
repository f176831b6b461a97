//! The hub under load: started in a fresh directory, prepared through its own command line, stopped at the end.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::token::Credential;

/// Where a run's hub listens: loopback, apart from a hub that may run on 127.0.0.1.
const BIND: &str = "127.0.0.9";
const PORTS: [(&str, u16); 4] =
    [("--amqps-port", 25671), ("--https-port", 25443), ("--mqtts-port", 28883), ("--plain-amqp-port", 25672)];

/// A hub that runs for this load alone; dropped, it is killed and its directory removed.
#[derive(Debug)]
pub struct Hub {
    child: Child,
    binary: PathBuf,
    directory: tempfile::TempDir,
}

impl Hub {
    /// Start `binary` in a fresh directory below `parent`, on so many cores, pinned to `pin` when given, and wait until it
    /// is ready.
    pub fn start(binary: &Path, parent: &Path, core_count: u16, pin: Option<&str>) -> Result<Self, String> {
        let directory = tempfile::Builder::new()
            .prefix("corehub-load-")
            .tempdir_in(parent)
            .map_err(|error| format!("no directory for the hub's data: {error}"))?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--data").arg(directory.path());
        command.args(["--bind", BIND, "--name", "load", "--cores", &core_count.to_string()]);
        for (flag, port) in &PORTS {
            command.args([flag, &port.to_string().as_str()]);
        }
        if let Some(pin) = pin {
            command.args(["--pin", pin]);
        }
        let mut child = command
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
        Ok(Self { child, binary: binary.to_owned(), directory })
    }

    /// Where it takes AMQP.
    pub fn address(&self, tls: bool) -> SocketAddr {
        let (_, port) = PORTS[if tls { 0 } else { 3 }];
        format!("{BIND}:{port}").parse().expect("it is an address")
    }

    /// Its CA certificate, PEM.
    pub fn ca_path(&self) -> PathBuf {
        self.directory.path().join("tls/ca.pem")
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

    /// The owner's policy.
    pub fn credential(&self) -> Result<Credential, String> {
        Credential::parse(&self.run(&["connection-string", "--policy", "iothubowner"])?)
    }

    /// User and system time that the hub's process has used, seconds.
    pub fn cpu_s(&self) -> Result<f64, String> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .map_err(|error| format!("the hub's CPU time cannot be read: {error}"))?;
        let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every Linux that the hub runs on.
        Ok(ticks as f64 / 100.0)
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
        // The run is over or failed; what the hub still holds is of no use to anyone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
