//! What the hub does not have, twins and methods, asked for by the real clients: whoever asks is told soon, and the device's telemetry
//! goes on.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::clients::Script;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::process::wait_until;
use tests::telemetry::stored;

/// Clients wait for 30 s and more before they give up by themselves.
const SOON: Duration = Duration::from_secs(10);

/// A device of a script, and what it is asked.
struct Device {
    script: Script,
    id: String,
}

impl Device {
    fn open(hub: &Hub, script: &str, transport: &str) -> Option<Self> {
        let id = format!("{}-{transport}", script.replace('.', "-"));
        hub.service().create_device(&id);
        let mut script = Script::start(script, hub)?;
        script.ask(
            "open",
            json!({
                "device": id,
                "connectionString": hub.command_output(&["connection-string", "--device", &id]),
                "ca": std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA"),
                "caFile": hub.ca_file(),
                "transport": transport,
                "webSockets": transport.ends_with("Ws"),
            }),
        );
        Some(Self { script, id })
    }

    fn try_ask(&mut self, action: &str) -> Result<Value, Value> {
        self.script.try_ask(action, json!({ "device": self.id, "waitMs": 300 }))
    }

    /// The error of what cannot be done.
    fn refused(&mut self, action: &str) -> Value {
        let asked = Instant::now();
        let error = self.try_ask(action).expect_err("the hub does not have it");
        assert!(asked.elapsed() < SOON, "{}, {action}: {:?}, {error}", self.id, asked.elapsed());
        error
    }

    /// An event of the same client, while other requests of it may have failed.
    fn send(&mut self, body: &str) {
        let asked = Instant::now();
        let messages = json!([{ "body": BASE64.encode(body) }]);
        self.script.ask("send", json!({ "device": self.id, "messages": messages }));
        assert!(asked.elapsed() < SOON, "{}: {:?}", self.id, asked.elapsed());
    }
}

#[test]
fn a_twin_is_an_error_for_node_and_telemetry_goes_on() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let mut count = 0;
        for transport in ["Mqtt", "MqttWs", "Amqp", "AmqpWs"] {
            let Some(mut device) = Device::open(&hub, "device.js", transport) else { return };
            device.send("before");
            let error = device.refused("twin");
            if transport.starts_with("Amqp") {
                let text = error["message"].as_str().unwrap_or_default();
                assert!(text.contains("there are no device twins here"), "{transport}: {error}");
            }
            device.send("behind");
            count += 2;
            assert_eq!(device.try_ask("ended"), Ok(Value::Null), "{transport}: the connection is the same");
        }
        assert_eq!(stored(&hub, count).len(), count);
    });
}

#[test]
fn a_twin_is_an_error_for_python_and_telemetry_goes_on() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let mut count = 0;
        for transport in ["Mqtt", "MqttWs"] {
            let Some(mut device) = Device::open(&hub, "device.py", transport) else { return };
            for action in ["twin", "report"] {
                let error = device.refused(action);
                assert_eq!(error["name"], "ClientError", "{transport}, {action}: {error}");
                device.send("behind");
                count += 1;
            }
            assert_eq!(device.try_ask("connected"), Ok(json!(true)));
        }
        assert_eq!(stored(&hub, count).len(), count);
    });
}

/// Over MQTT both packages take any SUBACK for success: calls never come, and everything else goes on.
#[test]
fn methods_over_mqtt_leave_telemetry_alone() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let mut count = 0;
        for (script, transport) in
            [("device.js", "Mqtt"), ("device.js", "MqttWs"), ("device.py", "Mqtt"), ("device.py", "MqttWs")]
        {
            let Some(mut device) = Device::open(&hub, script, transport) else { continue };
            assert_eq!(device.try_ask("methods"), Ok(Value::Null));
            if script == "device.py" {
                assert_eq!(device.try_ask("watchTwin"), Ok(Value::Null));
            }
            device.send("behind");
            count += 1;
        }
        assert_eq!(stored(&hub, count).len(), count);
    });
}

/// Over AMQP the Node package ends its connection over a link that is refused, says so, and comes back with the next event.
#[test]
fn methods_over_amqp_end_the_connection_at_once() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let mut count = 0;
        for transport in ["Amqp", "AmqpWs"] {
            let Some(mut device) = Device::open(&hub, "device.js", transport) else { return };
            device.send("before");
            assert_eq!(device.try_ask("methods"), Ok(Value::Null));
            let is_told = || device.try_ask("ended").is_ok_and(|ended| ended != Value::Null).then_some(());
            wait_until(SOON, is_told).expect("the application is told");
            device.send("behind");
            count += 2;
        }
        assert_eq!(stored(&hub, count).len(), count);
    });
}
