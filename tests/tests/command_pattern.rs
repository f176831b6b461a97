//! The example of the whole command pattern, as the documentation gives it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::clients::node;
use tests::fresh_directory;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::process::{Printed, wait_for_exit};

/// Three attempts, each with its receipt after 15 s, on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(120);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/command-pattern").join(name)
}

/// A script that runs until it is dropped.
struct Running {
    child: Child,
    printed: Printed,
}

impl Running {
    fn start(mut command: Command, name: &str, arguments: &[&str]) -> Self {
        let mut child = command
            .arg(script(name))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("node can be run");
        let printed = Printed::default();
        printed.collect(child.stdout.take().expect("piped"));
        printed.collect(child.stderr.take().expect("piped"));
        Self { child, printed }
    }

    fn wait_for(&self, what: &str) {
        let is_it = |line: &str| line.starts_with(what);
        let found = self.printed.wait_for(is_it, PATIENCE);
        assert!(found.is_some(), "{what:?} is not among:\n{}", self.printed.text());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The pump is away at first: the command expires, its receipt makes the back end try again, the back end crashes and goes
/// on, and in the end the pump obeys and answers. A command that makes no sense is rejected and not tried again.
#[test]
fn a_command_is_carried_out_in_the_end() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        hub.service().create_device("pump7");
        let directory = fresh_directory("pattern");
        let state = directory.path().join("state.json");
        let state = state.to_str().expect("a path of text");
        let (service, events) = (hub.policy_connection_string("service"), hub.event_hub_connection_string());
        let back_end = |ttl_ms: &str, wanted: &[&str]| {
            let mut command = node(&hub)?;
            command.env("TTL_MS", ttl_ms);
            let arguments = [&[state, &service, &events], wanted].concat();
            Some(Running::start(command, "back-end.js", &arguments))
        };
        let Some(first) = back_end("2000", &["pump7", "open"]) else { return };
        first.wait_for("sent pump7 open (attempt 1");
        first.wait_for("sending pump7 open (attempt 2");
        drop(first);
        let Some(mut second) = back_end("60000", &["pump7", "dance"]) else { return };
        second.wait_for("sent pump7 dance");
        let Some(command) = node(&hub) else { return };
        let device = Running::start(
            command,
            "device.js",
            &[&hub.command_output(&["connection-string", "--device", "pump7"])],
        );
        device.wait_for("open");
        second.wait_for("done pump7 open");
        let status = wait_for_exit(&mut second.child, PATIENCE).expect("both commands are over");
        assert_eq!(status.code(), Some(2), "one was rejected:\n{}", second.printed.text());
        let kept: Value = serde_json::from_slice(&std::fs::read(state).expect("the state")).expect("JSON");
        let commands: Vec<&Value> = kept["commands"].as_object().expect("commands").values().collect();
        let of =
            |body: &str| *commands.iter().find(|command| command["body"] == body).expect("both are kept");
        assert_eq!(
            (&of("open")["step"], &of("open")["answer"]["valve"]),
            (&Value::from("done"), &Value::from("open"))
        );
        assert_eq!(
            (&of("dance")["step"], &of("dance")["why"]),
            (&Value::from("failed"), &Value::from("Rejected"))
        );
    });
}
