//! MQTT clients, unchanged: Azure's packages for Python and Node over MQTT and over MQTT in WebSockets, paho-mqtt, and the
//! command line of Mosquitto.
#![forbid(unsafe_code)]

use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::clients::Script;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::process::wait_until;
use tests::sas;
use tests::service::Device;
use tests::skip;
use tests::telemetry::{stored, stored_now};

const PATIENCE_MS: u64 = 20_000;

fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// The client package opens the device `d`, sends, receives commands, and goes and comes back.
fn try_device(hub: &Hub, script: &mut Script, open: Value) {
    hub.service().create_device("d");
    let connection_string = hub.command_output(&["connection-string", "--device", "d"]);
    let with = |more: Value| {
        let mut request = more;
        request["device"] = json!("d");
        request
    };
    let mut request = with(open);
    request["connectionString"] = json!(connection_string);
    script.ask("open", request.clone());

    let messages: Vec<Value> = (0..20)
        .map(|number| {
            json!({
                "body": base64(format!("event {number:02}").as_bytes()),
                "messageId": format!("m{number}"),
                "contentType": "application/json",
                "properties": { "n": number.to_string() },
            })
        })
        .collect();
    script.ask("send", with(json!({ "messages": messages })));
    let expected: Vec<String> = (0..20).map(|number| format!("event {number:02}")).collect();
    assert_eq!(stored(hub, 20), expected);

    script.ask("listen", with(json!({ "completes": true })));
    let sent_ms = sas::now_s() * 1000;
    for number in 0..3 {
        let body = format!("command {number}");
        let rich = ["--ack", "full", "--ttl", "1h", "--message-id", "m", "--correlation-id", "c"];
        hub.command_output(
            &[&["send", "d", &body, "--property", "place=here & there", "--property", "empty="], &rich[..]]
                .concat(),
        );
    }
    let commands = script.ask("commands", with(json!({ "count": 3, "waitMs": PATIENCE_MS })));
    let commands = commands.as_array().expect("a list");
    let bodies: Vec<String> = (0..3).map(|number| base64(format!("command {number}").as_bytes())).collect();
    assert_eq!(commands.iter().map(|command| command["body"].as_str().unwrap()).collect::<Vec<_>>(), bodies);
    // What else a back end says of a command is where the package has a place for it: Node's has none for the receipts that are
    // wanted, and takes them for a property.
    let has_ack = !commands[0]["ack"].is_null();
    let properties = match has_ack {
        true => json!({ "place": "here & there", "empty": "" }),
        false => json!({ "place": "here & there", "empty": "", "iothub-ack": "full" }),
    };
    for command in commands {
        assert_eq!(command["properties"], properties, "{command}");
        assert!(!has_ack || command["ack"] == "full", "{command}");
        assert_eq!(
            (&command["messageId"], &command["correlationId"]),
            (&json!("m"), &json!("c")),
            "{command}"
        );
        let left_ms = command["expiryMs"].as_u64().expect("a time") - sent_ms;
        assert!((3_600_000..3_700_000).contains(&left_ms), "an hour: {command}");
    }

    script.ask("close", with(json!({})));
    script.ask("open", request);
    script.ask("listen", with(json!({ "completes": true })));
    // Its subscription was kept: a command that waits is delivered with the connection, before this script listens.
    hub.command_output(&["send", "d", "when it is back"]);
    let commands = script.ask("commands", with(json!({ "count": 1, "waitMs": PATIENCE_MS })));
    assert_eq!(commands[0]["body"], base64(b"when it is back"), "what was acknowledged does not come again");
    script.ask("close", with(json!({})));
}

fn python(hub: &Hub, web_sockets: bool) {
    let Some(mut script) = Script::start("device.py", hub) else { return };
    try_device(hub, &mut script, json!({ "caFile": hub.ca_file(), "webSockets": web_sockets }));
}

fn node(hub: &Hub, transport: &str) {
    let Some(mut script) = Script::start("device.js", hub) else { return };
    let ca = std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA");
    try_device(hub, &mut script, json!({ "ca": ca, "transport": transport }));
}

#[test]
fn python_over_mqtt() {
    run(Needs::LowPorts, || python(&Hub::start(&["--cores", "2"]), false));
}

#[test]
fn python_over_mqtt_in_websockets() {
    run(Needs::LowPorts, || python(&Hub::start(&["--cores", "2"]), true));
}

#[test]
fn node_over_mqtt() {
    run(Needs::LowPorts, || node(&Hub::start(&["--cores", "2"]), "Mqtt"));
}

#[test]
fn node_over_mqtt_in_websockets() {
    run(Needs::LowPorts, || node(&Hub::start(&["--cores", "2"]), "MqttWs"));
}

#[test]
fn node_over_amqp_in_websockets() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        hub.service().create_device("d");
        let Some(mut script) = Script::start("device.js", &hub) else { return };
        let ca = std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA");
        let connection_string = hub.command_output(&["connection-string", "--device", "d"]);
        script.ask(
            "open",
            json!({ "device": "d", "connectionString": connection_string, "ca": ca, "transport": "AmqpWs" }),
        );
        script.ask("send", json!({ "device": "d", "messages": [{ "body": base64(b"framed") }] }));
        assert_eq!(stored(&hub, 1), ["framed"]);
        script.ask("listen", json!({ "device": "d", "completes": true }));
        let Some(mut service) = Script::start("service.js", &hub) else { return };
        service.ask(
            "open",
            json!({ "connectionString": hub.policy_connection_string("service"), "webSockets": true }),
        );
        let sent = service.ask("send", json!({ "device": "d", "messages": [{ "body": base64(b"back") }] }));
        assert_eq!(sent, json!(["MessageEnqueued"]));
        let commands = script.ask("commands", json!({ "device": "d", "count": 1, "waitMs": PATIENCE_MS }));
        assert_eq!(commands[0]["body"], base64(b"back"));
        service.ask("close", json!({}));
        script.ask("close", json!({ "device": "d" }));
    });
}

#[test]
fn event_hubs_over_websockets() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        hub.service().create_device("d");
        let (Some(mut device), Some(mut reader)) =
            (Script::start("device.js", &hub), Script::start("events.js", &hub))
        else {
            return;
        };
        let ca = std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA");
        let connection_string = hub.command_output(&["connection-string", "--device", "d"]);
        device.ask(
            "open",
            json!({ "device": "d", "connectionString": connection_string, "ca": ca, "transport": "Mqtt" }),
        );
        let messages: Vec<Value> = (0..300).map(|_| json!({ "body": base64(&[7; 1000]) })).collect();
        device.ask("send", json!({ "device": "d", "messages": messages }));
        reader.ask(
            "open",
            json!({
                "connectionString": hub.event_hub_connection_string(), "group": "$Default", "webSockets": true,
            }),
        );
        let partitions = reader.ask("hub", json!({}))["partitions"].as_array().expect("a list").clone();
        let is_used =
            |partition: &&Value| reader.ask("partition", json!({ "partition": partition }))["empty"] == false;
        let partition = partitions.iter().find(is_used).expect("something was sent").clone();
        reader.ask("subscribe", json!({ "reader": "r", "partition": partition, "from": { "offset": "-1" } }));
        let taken = reader.ask("take", json!({ "reader": "r", "count": 300, "waitMs": PATIENCE_MS }));
        assert_eq!(taken["events"].as_array().expect("a list").len(), 300);
        reader.ask("close", json!({}));
    });
}

/// What paho needs to open a device.
fn paho_open(hub: &Hub, device: &Device) -> Value {
    let host = hub.host();
    let token = sas::token(&format!("{host}/devices/{}", device.id), &device.key, sas::now_s() + 3600, None);
    json!({
        "clientId": device.id,
        "host": host,
        "caFile": hub.ca_file(),
        "userName": format!("{host}/{}/?api-version=2021-04-12", device.id),
        "password": token,
    })
}

#[test]
fn paho_sends_receives_and_is_refused() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let device = hub.service().create_device("plain");
        for web_sockets in [false, true] {
            let Some(mut paho) = Script::start("plain_mqtt.py", &hub) else { return };
            let mut open = paho_open(&hub, &device);
            open["webSockets"] = json!(web_sockets);
            open["will"] = json!({ "topic": "devices/plain/messages/events/", "payload": "the will" });
            assert_eq!(paho.ask("open", open.clone()), json!(["connect", 0, false]));
            let send = |topic: &str, qos: u8| json!({ "clientId": "plain", "topic": topic, "qos": qos, "body": base64(b"telemetry") });
            let before = stored_now(&hub).len();
            paho.ask("publish", send("devices/plain/messages/events/", 1));
            assert_eq!(stored_now(&hub).len(), before + 1, "durable before its acknowledgement");
            paho.ask("publish", send("devices/plain/messages/events/a=b", 0));
            stored(&hub, before + 2);
            let subscribe = |filter: &str| json!({ "clientId": "plain", "filter": filter, "qos": 2 });
            let refused = paho.ask("subscribe", subscribe("devices/+/messages/devicebound/#"));
            assert_eq!(refused, json!(["subscribe", [128]]));
            let granted = paho.ask("subscribe", subscribe("devices/plain/messages/devicebound/#"));
            assert_eq!(granted, json!(["subscribe", [1]]));
            hub.command_output(&["send", "plain", "go"]);
            let message = paho.ask("message", json!({ "clientId": "plain" }));
            assert_eq!((&message["body"], &message["qos"]), (&json!(base64(b"go")), &json!(1)));
            let topic = message["topic"].as_str().expect("a topic");
            assert!(
                topic.starts_with("devices/plain/messages/devicebound/%24."),
                "system keys stay encoded: {topic}"
            );
            // A second connection takes over, a foreign topic ends it, and its will is stored.
            let Some(mut other) = Script::start("plain_mqtt.py", &hub) else { return };
            assert_eq!(other.ask("open", open.clone())[1], 0);
            assert_eq!(paho.ask("ended", json!({ "clientId": "plain" }))[0], "disconnect");
            let wills = stored_now(&hub).iter().filter(|body| *body == "the will").count();
            let foreign = other.ask("publish", send("devices/another/messages/events/", 1));
            assert_eq!(foreign[0], "disconnect");
            wait_until(Duration::from_secs(10), || {
                let count = stored_now(&hub).iter().filter(|body| *body == "the will").count();
                (count == wills + 1).then_some(())
            })
            .expect("the will is stored");
            open["password"] = json!("SharedAccessSignature sr=x&sig=x&se=1");
            let Some(mut stranger) = Script::start("plain_mqtt.py", &hub) else { return };
            assert_ne!(stranger.ask("open", open)[1], 0);
        }
    });
}

#[test]
fn mosquitto_sends_and_receives() {
    run(Needs::LowPorts, || {
        if Command::new("mosquitto_pub").arg("--help").stdout(Stdio::null()).status().is_err() {
            return skip("mosquitto_pub is missing (Debian: mosquitto-clients)");
        }
        let hub = Hub::start(&["--cores", "2"]);
        let device = hub.service().create_device("small");
        let open = paho_open(&hub, &device);
        let text = |name: &str| open[name].as_str().expect("a text").to_owned();
        let command = |program: &str, more: &[&str]| {
            let mut command = Command::new(program);
            command.args(["-h", &hub.host(), "-p", "8883", "-V", "mqttv311", "-i", "small"]);
            command.args(["-u", &text("userName"), "-P", &text("password")]);
            command.arg("--cafile").arg(hub.ca_file()).args(more);
            command.output().expect("it was there a moment ago")
        };
        let topic = "devices/small/messages/events/$.ct=text%2Fplain&a=b";
        let sent = command("mosquitto_pub", &["-q", "1", "-t", topic, "-m", "by hand"]);
        assert!(sent.status.success(), "{sent:?}");
        assert_eq!(stored(&hub, 1), ["by hand"]);
        hub.command_output(&["send", "small", "look"]);
        let filter = "devices/small/messages/devicebound/#";
        let received = command("mosquitto_sub", &["-q", "1", "-t", filter, "-C", "1", "-W", "20"]);
        assert_eq!(String::from_utf8_lossy(&received.stdout).trim(), "look", "{received:?}");
        let refused = command("mosquitto_pub", &["-q", "2", "-t", topic, "-m", "no"]);
        assert!(!refused.status.success(), "quality of service 2 is refused");
        assert_eq!(stored_now(&hub), ["by hand"]);
    });
}
