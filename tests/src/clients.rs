//! The client packages of Azure, unchanged, driven by scripts that speak JSON lines.
//!
//! The packages are installed once into the target directory, in the versions that `clients/package-lock.json` and
//! `clients/requirements.txt` name. A test process that comes while another installs waits for it.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::hub::Hub;
use crate::process::Printed;
use crate::{skip, target_directory};

/// How long a reader is waited for, milliseconds.
const EVENT_PATIENCE_MS: u64 = 20_000;

/// A script that waits for requests.
#[derive(Debug)]
pub struct Script {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    complaints: Printed,
    count: u64,
}

impl Script {
    /// Run a script of `clients/` by its name, trusting the hub's CA. None, with a line that says so, where what it needs
    /// is not on this machine.
    pub fn start(name: &str, hub: &Hub) -> Option<Self> {
        let mut command = match Path::new(name).extension().and_then(|extension| extension.to_str()) {
            Some("js") => node(hub)?,
            Some("py") => {
                let mut command = Command::new(python_environment()?.join("bin/python"));
                // The scripts lie among the sources.
                command.env("PYTHONDONTWRITEBYTECODE", "1");
                command
            }
            _ => panic!("{name} is neither a .js nor a .py script"),
        };
        let mut child = command
            .arg(clients_directory().join(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("what has just been installed can be run");
        let complaints = Printed::default();
        complaints.collect(child.stderr.take().expect("piped"));
        let requests = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Some(Self { child, requests, answers, complaints, count: 0 })
    }

    /// Ask and wait for success.
    pub fn ask(&mut self, action: &str, arguments: Value) -> Value {
        self.try_ask(action, arguments).unwrap_or_else(|error| panic!("{action} failed: {error}"))
    }

    /// Ask and wait; the error is what the script says about what its package threw.
    pub fn try_ask(&mut self, action: &str, arguments: Value) -> Result<Value, Value> {
        self.count += 1;
        let mut request = arguments;
        request["id"] = json!(self.count);
        request["do"] = json!(action);
        writeln!(self.requests, "{request}").expect("the script listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the script's output can be read");
        let answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("{action}: not an answer: {line:?}\n{}", self.complaints.text()));
        assert_eq!(answer["id"], json!(self.count), "{line}");
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["ok"].clone()),
        }
    }

    /// The next `count` events, or some more, of a reader that was subscribed in `events.js` or `events.py`.
    pub fn take_events(&mut self, reader: &str, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            let taken =
                self.ask("take", json!({ "reader": reader, "count": 1, "waitMs": EVENT_PATIENCE_MS }));
            let new = taken["events"].as_array().expect("a list").clone();
            assert!(!new.is_empty(), "{} of {count} events, then none: {taken}", events.len());
            events.extend(new);
        }
        events
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the script printed:\n{}", self.complaints.text());
        }
    }
}

/// Node with the client packages, trusting the hub's CA. None, with a line that says so, where it is not on this machine.
pub fn node(hub: &Hub) -> Option<Command> {
    let mut command = Command::new("node");
    command.env("NODE_PATH", node_modules()?);
    command.env("NODE_EXTRA_CA_CERTS", hub.ca_file());
    Some(command)
}

/// Where the packages for Node are. None, with a line that says so, where they cannot be.
pub fn node_modules() -> Option<PathBuf> {
    Some(node_packages()?.join("node_modules"))
}

/// Install the client packages of each language that there is here, where that has not been done.
pub fn install() {
    node_packages();
    python_environment();
}

fn clients_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

fn node_packages() -> Option<PathBuf> {
    if !answers("node") || !answers("npm") {
        skip("node or npm is missing");
        return None;
    }
    Some(installed("node", &["package.json", "package-lock.json"], |directory| {
        run(Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(directory));
    }))
}

fn python_environment() -> Option<PathBuf> {
    if !answers("python3") {
        skip("python3 is missing");
        return None;
    }
    Some(installed("python", &["requirements.txt"], |directory| {
        run(Command::new("python3").args(["-m", "venv", "."]).current_dir(directory));
        run(Command::new("bin/python")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--requirement", "requirements.txt"])
            .current_dir(directory));
    }))
}

fn answers(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The directory where `install` has put what `inputs` name: once per state of those files, whoever comes first.
fn installed(kind: &str, inputs: &[&str], install: impl FnOnce(&Path)) -> PathBuf {
    let parent = target_directory().join("clients");
    std::fs::create_dir_all(&parent).expect("the target directory can be written");
    let mut hasher = DefaultHasher::new();
    for input in inputs {
        std::fs::read(clients_directory().join(input)).expect("a committed file").hash(&mut hasher);
    }
    let directory = parent.join(format!("{kind}-{:016x}", hasher.finish()));
    let lock =
        File::create(parent.join(format!("{kind}.lock"))).expect("the target directory can be written");
    lock.lock().expect("a file of our own can be locked");
    let done = directory.join("installed");
    if !done.exists() {
        // What an interrupted installation left may be anything.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).expect("the target directory can be written");
        for input in inputs {
            std::fs::copy(clients_directory().join(input), directory.join(input)).expect("a committed file");
        }
        install(&directory);
        File::create(done).expect("the target directory can be written");
    }
    directory
}

fn run(command: &mut Command) {
    let output = command.output().expect("it answered a moment ago");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the client packages cannot be installed: {command:?}\n{complaint}");
}
