//! Connections that are cut and a hub that is killed, under the MQTT clients of Azure: they come back by themselves, nothing that was
//! acknowledged is lost, and commands that were sent meanwhile arrive.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::clients::Script;
use tests::fresh_directory;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::process::wait_until;
use tests::relay::Relay;
use tests::telemetry::stored_now;

/// Acknowledged events between two disturbances.
const STRIDE: u64 = 10;

/// How long a client may need to come back: its own back-off, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

struct Device {
    script: Script,
}

impl Device {
    fn acknowledged(&mut self) -> u64 {
        self.script.ask("acknowledged", json!({ "device": "d" })).as_u64().expect("a count")
    }

    /// Until some more events are acknowledged than now.
    fn go_on(&mut self, what: &str) {
        let wanted = self.acknowledged() + STRIDE;
        let reached = wait_until(PATIENCE, || (self.acknowledged() >= wanted).then_some(()));
        reached.unwrap_or_else(|| panic!("{what}: no more events are acknowledged"));
    }

    /// The bodies of commands, until this one has come.
    fn commands_until(&mut self, last: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        while bodies.last().is_none_or(|body| body != last) {
            let wait_ms = PATIENCE.as_millis() as u64;
            let commands =
                self.script.ask("commands", json!({ "device": "d", "count": 1, "waitMs": wait_ms }));
            let commands = commands.as_array().expect("a list").clone();
            assert!(!commands.is_empty(), "{last} does not come, only {bodies:?}");
            let decode = |command: &Value| {
                let bytes = BASE64.decode(command["body"].as_str().expect("a body")).expect("base64");
                String::from_utf8(bytes).expect("commands of tests are text")
            };
            bodies.extend(commands.iter().map(decode));
        }
        bodies
    }
}

fn check(script: &str, transport: &str) {
    let directory = fresh_directory("reconnect");
    let mut hub = Hub::prepare(directory.path(), &[]);
    let relay = Relay::start(&hub.host());
    hub.set_arguments(&["--cores", "2", "--host", &relay.host()]);
    hub.run();
    hub.service().create_device("d");
    let Some(script) = Script::start(script, &hub) else { return };
    let mut device = Device { script };
    let connection_string = hub.command_output(&["connection-string", "--device", "d"]);
    device.script.ask(
        "open",
        json!({
            "device": "d",
            "connectionString": connection_string.replace(&hub.host(), &relay.host()),
            "ca": std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA"),
            "caFile": hub.ca_file(),
            "transport": transport,
            "webSockets": transport.ends_with("Ws"),
        }),
    );
    device.script.ask("listen", json!({ "device": "d", "completes": true }));
    device.script.ask("sendOn", json!({ "device": "d", "pauseMs": 5 }));
    device.go_on("undisturbed");
    let mut commands = Vec::new();
    for round in 0..2 {
        assert!(relay.cut() > 0, "the device is connected through the relay");
        let command = format!("behind cut {round}");
        hub.command_output(&["send", "d", &command]);
        device.go_on(&command);
        commands.extend(device.commands_until(&command));
    }
    hub.kill();
    relay.cut();
    hub.run();
    hub.command_output(&["send", "d", "behind the kill"]);
    device.go_on("behind the kill");
    commands.extend(device.commands_until("behind the kill"));

    let acknowledged = device.script.ask("stopSending", json!({ "device": "d" })).as_u64().expect("a count");
    device.script.ask("close", json!({ "device": "d" }));
    let body = |number: u64| format!("event {number}");
    let stored: BTreeSet<String> = stored_now(&hub).into_iter().collect();
    let lost: Vec<String> = (0..acknowledged).map(body).filter(|body| !stored.contains(body)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(stored.len() as u64 <= acknowledged + 1, "something is invented: {stored:?}");
    let came: BTreeSet<&str> = commands.iter().map(String::as_str).collect();
    assert_eq!(came, BTreeSet::from(["behind cut 0", "behind cut 1", "behind the kill"]));
    let left = || {
        let device: Value = serde_json::from_str(&hub.service().device("d").text()).expect("an identity");
        (device["cloudToDeviceMessageCount"] == 0).then_some(())
    };
    wait_until(Duration::from_secs(10), left).expect("what was completed is gone from the queue");
}

#[test]
fn python_over_mqtt() {
    run(Needs::LowPorts, || check("device.py", "Mqtt"));
}

#[test]
fn python_over_mqtt_in_websockets() {
    run(Needs::LowPorts, || check("device.py", "MqttWs"));
}

#[test]
fn node_over_mqtt() {
    run(Needs::LowPorts, || check("device.js", "Mqtt"));
}

#[test]
fn node_over_mqtt_in_websockets() {
    run(Needs::LowPorts, || check("device.js", "MqttWs"));
}
