//! The real program, run in a directory and on a loopback address of its own.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::process::{Printed, signal, wait_for_exit, wait_until};
use crate::sas::ConnectionString;
use crate::service::Service;
use crate::{fresh_directory, https};

/// The name that every hub of the tests gets, which is the name of its event hub too.
pub const NAME: &str = "hub";
/// Partitions of every hub of the tests that does not say otherwise.
pub const PARTITION_COUNT: u16 = 4;
/// The plain AMQP port of hubs that are given [`PLAIN_AMQP`].
pub const PLAIN_AMQP_PORT: u16 = 5672;
/// Arguments that open the plain listener.
pub const PLAIN_AMQP: [&str; 2] = ["--plain-amqp-port", "5672"];

/// Runs every hub of the tests on so many cores, whatever the test asks for: the suites hold for any number.
const CORES: &str = "COREHUB_TEST_CORES";

/// How long a start may take on a machine that builds at the same time.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// What the product promises for a clean stop, and a little for the machine.
const STOP_PATIENCE: Duration = Duration::from_secs(12);

/// A hub that runs, or ran: it can be killed and started again. What it printed is shown when its test fails.
#[derive(Debug)]
pub struct Hub {
    address: Ipv4Addr,
    data: PathBuf,
    arguments: Vec<String>,
    descriptors_max: Option<u32>,
    running: Option<Running>,
    /// Output of earlier runs.
    past: Vec<Printed>,
    _owned: Option<TempDir>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    printed: Printed,
}

impl Hub {
    /// Start on a fresh directory, with arguments for `serve` beyond name, address and data.
    pub fn start(arguments: &[&str]) -> Self {
        let directory = fresh_directory("hub");
        let mut hub = Self::prepare(directory.path(), arguments);
        hub._owned = Some(directory);
        hub.run();
        hub
    }

    /// Start on a directory that the test keeps.
    pub fn start_in(data: &Path, arguments: &[&str]) -> Self {
        let mut hub = Self::prepare(data, arguments);
        hub.run();
        hub
    }

    /// A hub that does not run yet.
    pub fn prepare(data: &Path, arguments: &[&str]) -> Self {
        Self {
            address: own_address(),
            data: data.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            descriptors_max: None,
            running: None,
            past: Vec::new(),
            _owned: None,
        }
    }

    /// Give it only so many file descriptors from the next start on.
    pub fn limit_descriptors(&mut self, descriptors_max: u32) {
        self.descriptors_max = Some(descriptors_max);
    }

    /// Start it and wait until it is ready.
    pub fn run(&mut self) {
        if let Err((status, printed)) = self.try_run() {
            panic!("the hub did not start ({status:?}); it printed:\n{printed}");
        }
    }

    /// As [`Hub::run`]; where the start fails, its status and all that it printed.
    pub fn try_run(&mut self) -> Result<(), (Option<ExitStatus>, String)> {
        assert!(self.running.is_none(), "the hub runs already");
        let mut child = self
            .serve()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program under test can be run");
        let printed = Printed::default();
        printed.collect(child.stdout.take().expect("piped"));
        printed.collect(child.stderr.take().expect("piped"));
        let deadline = Instant::now() + START_PATIENCE;
        while printed.wait_for(says_ready, Duration::from_millis(20)).is_none() {
            let status = child.try_wait().expect("a child can be waited for");
            if status.is_some() || Instant::now() > deadline {
                // A child that hangs must not outlive its test; one that has ended cannot be killed.
                let _ = child.kill();
                let _ = child.wait();
                std::thread::sleep(Duration::from_millis(50));
                return Err((status, printed.text()));
            }
        }
        self.running = Some(Running { child, printed });
        Ok(())
    }

    /// The command line of `serve` with all its arguments.
    fn serve(&self) -> Command {
        let address = self.address.to_string();
        let mut command = match self.descriptors_max {
            None => Command::new(program()),
            Some(descriptors_max) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", &format!("ulimit -n {descriptors_max} && exec \"$0\" \"$@\"")])
                    .arg(program());
                shell
            }
        };
        command.arg("serve").arg("--data").arg(&self.data);
        command.args(["--name", NAME, "--host", &address, "--bind", &address, "--pin", "none"]);
        if !self.arguments.iter().any(|argument| argument == "--partitions") {
            command.args(["--partitions", &PARTITION_COUNT.to_string()]);
        }
        let mut arguments = self.arguments.clone();
        if let Ok(cores) = std::env::var(CORES)
            && let Some(index) = arguments.iter().position(|argument| argument == "--cores")
        {
            arguments[index + 1] = cores;
        }
        command.args(arguments);
        command
    }

    /// Cut it off with SIGKILL.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("the hub runs");
        running.child.kill().expect("the hub can be killed");
        running.child.wait().expect("the hub has ended");
        self.past.push(running.printed);
        // The kernel takes a killed process's rings down, and the listeners in them, a moment after the process.
        let gone = || TcpStream::connect((self.address, 5671)).is_err().then_some(());
        wait_until(Duration::from_secs(5), gone).expect("a dead hub does not listen");
    }

    /// Send SIGKILL and leave the rest to [`Hub::kill`]; for a caller that shares the hub.
    pub fn kill_process(&self) {
        signal(&self.running.as_ref().expect("the hub runs").child, Signal::KILL);
    }

    /// Ask it to stop with SIGTERM; how it ended and how long that took.
    pub fn stop(&mut self) -> (ExitStatus, Duration) {
        let mut running = self.running.take().expect("the hub runs");
        let start = Instant::now();
        signal(&running.child, Signal::TERM);
        let status = wait_for_exit(&mut running.child, STOP_PATIENCE);
        if status.is_none() {
            running.child.kill().expect("the hub can be killed");
            running.child.wait().expect("the hub has ended");
        }
        self.past.push(running.printed);
        (status.expect("the hub stops within its time"), start.elapsed())
    }

    /// Use other arguments from the next start on.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// Whether it lives.
    pub fn is_running(&mut self) -> bool {
        self.running
            .as_mut()
            .is_some_and(|running| running.child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// The id of its process.
    pub fn process_id(&self) -> u32 {
        self.running.as_ref().expect("the hub runs").child.id()
    }

    /// What this run printed.
    pub fn printed(&self) -> String {
        self.running.as_ref().map_or_else(String::new, |running| running.printed.text())
    }

    /// What all runs printed.
    pub fn printed_ever(&self) -> String {
        let past = self.past.iter().map(Printed::text);
        past.chain([self.printed()]).collect::<Vec<_>>().join("--- next run\n")
    }

    /// Its address as clients write it.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The CA that clients trust.
    pub fn ca_file(&self) -> PathBuf {
        self.data.join("tls/ca.pem")
    }

    /// TLS that trusts this hub.
    pub fn tls(&self) -> Arc<ClientConfig> {
        https::trusting(&self.ca_file())
    }

    /// Run another command of the program on this hub's data directory.
    pub fn command(&self, arguments: &[&str]) -> Output {
        Command::new(program())
            .args(arguments)
            .arg("--data")
            .arg(&self.data)
            .output()
            .expect("the program under test can be run")
    }

    /// Standard output of a command that must succeed.
    pub fn command_output(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "corehub {arguments:?} failed: {complaint}");
        String::from_utf8(output.stdout).expect("the program prints text").trim().to_owned()
    }

    /// The connection string of a policy, from the command line.
    pub fn policy_connection_string(&self, policy: &str) -> String {
        self.command_output(&["connection-string", "--policy", policy])
    }

    /// The Event Hubs connection string, from the command line.
    pub fn event_hub_connection_string(&self) -> String {
        self.command_output(&["connection-string", "--event-hub"])
    }

    /// The service API with the owner's rights.
    pub fn service(&self) -> Service {
        let text = self.policy_connection_string("iothubowner");
        Service::new(self.host(), self.tls(), &ConnectionString::parse(&text))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            // It may have ended by itself; what matters is that it does not outlive its test.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        if std::thread::panicking() {
            std::thread::sleep(Duration::from_millis(50));
            eprintln!("the hub at {} printed:\n{}", self.address, self.printed_ever());
        }
    }
}

fn says_ready(line: &str) -> bool {
    line.starts_with("ready")
}

/// Where the program under test lies: beside the directory of the tests.
pub fn program() -> PathBuf {
    let executable = std::env::current_exe().expect("a test knows its own path");
    let profile = executable.ancestors().nth(2).expect("a test lies two levels below its profile");
    profile.join("corehub-under-test")
}

/// A loopback address that no other hub on this machine has: told by the process and a count within it.
pub fn own_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let count = COUNT.fetch_add(1, Ordering::Relaxed) % 250 + 1;
    let [_, _, high, low] = process.to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 250, low, u8::try_from(count).expect("at most 250"))
}
