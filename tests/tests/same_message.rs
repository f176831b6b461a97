//! One message by every protocol, read by one Event Hubs client: every property is in the same place.
#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::clients::Script;
use tests::hub::{Hub, PARTITION_COUNT};
use tests::namespace::{Needs, run};
use tests::service::Device;
use tests::{https, sas};

const PATIENCE_MS: u64 = 20_000;

const USER_ID: &str = "üser-1";
/// 2030-01-01 and 123 ms, which each way writes in its own form.
const EXPIRY_MS: u64 = 1_893_456_000_123;
const EXPIRY: &str = "2030-01-01T00:00:00.123Z";

/// What each device sends, in the words of the scripts.
fn message() -> Value {
    json!({
        "body": BASE64.encode([0, 159, 146, 150, 255]),
        "messageId": "m-1",
        "correlationId": "c-1",
        "contentType": "application/json",
        "contentEncoding": "utf-8",
        "userId": USER_ID,
        "expiryMs": EXPIRY_MS,
        "properties": { "plain": "value", "with space & more": "a=b+c/d%20", "unicode ä": "€", "empty": "" },
    })
}

/// How a device comes: the script, the device's id, and what the script needs to open it besides.
const WAYS: [(&str, &str, &str); 7] = [
    ("device.js", "node-amqp", "Amqp"),
    ("device.js", "node-amqp-ws", "AmqpWs"),
    ("device.js", "node-mqtt", "Mqtt"),
    ("device.js", "node-mqtt-ws", "MqttWs"),
    ("device.py", "python-mqtt", "Mqtt"),
    ("device.py", "python-mqtt-ws", "MqttWs"),
    ("stomp_device.py", "python-stomp", "Stomp"),
];

/// HTTPS, whose clients have no names for some of this: a batch of one, as it is documented.
fn send_by_https(hub: &Hub, device: &Device) {
    let message = message();
    let text = |name: &str| message[name].as_str().expect("text");
    let mut properties = json!({
        "iothub-messageid": text("messageId"),
        "iothub-correlationid": text("correlationId"),
        "iothub-contenttype": text("contentType"),
        "iothub-contentencoding": text("contentEncoding"),
        "iothub-userid": text("userId"),
        "iothub-expiry": EXPIRY,
    });
    for (name, value) in message["properties"].as_object().expect("an object") {
        properties[format!("iothub-app-{name}")] = value.clone();
    }
    let batch =
        json!([{ "body": text("body"), "base64Encoded": true, "properties": properties }]).to_string();
    let host = hub.host();
    let resource = format!("{host}/devices/{}", device.id);
    let token = sas::token(&resource, &device.key, sas::now_s() + 3600, None);
    let target = format!("/devices/{}/messages/events?api-version=2020-03-13", device.id);
    let headers = [("Authorization", &*token), ("Content-Type", "application/vnd.microsoft.iothub.json")];
    let response = https::request((&host, 443), hub.tls(), ("POST", &target), &headers, batch.as_bytes());
    let response = response.expect("the hub answers");
    assert_eq!(response.status, 204, "{}", response.text());
}

/// The AMQP package for Node knows no user ids: what it sends has none, and gets here the one that the others have.
fn add_user_id(event: &mut Value, first: &Value) {
    assert_eq!(event["system"]["userId"], Value::Null, "the package has learnt it: {event}");
    event["system"]["userId"] = first["system"]["userId"].clone();
}

/// What a reader sees of an event but for what differs between any two: its place, its time and its device, which the AMQP
/// package also writes into `to`.
fn comparable(mut event: Value) -> Value {
    for name in ["sequence", "offset", "enqueuedMs"] {
        event.as_object_mut().expect("an object").remove(name);
    }
    for name in [
        "iothub-connection-device-id",
        "iothub-connection-auth-generation-id",
        "iothub-enqueuedtime",
        "x-opt-sequence-number",
        "x-opt-offset",
        "x-opt-enqueued-time",
    ] {
        if let Some(system) = event["system"].as_object_mut() {
            system.remove(name);
        }
    }
    for part in ["system", "raw"] {
        if let Some(part) = event[part].as_object_mut() {
            part.remove("to");
        }
    }
    event
}

#[test]
fn every_protocol_puts_every_property_in_the_same_place() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2", "--also", "stomps=61614"]);
        let ca = std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA");
        send_by_https(&hub, &hub.service().create_device("https"));
        let mut expected_count = 1;
        for (script, device, transport) in WAYS {
            hub.service().create_device(device);
            let Some(mut client) = Script::start(script, &hub) else { continue };
            client.ask(
                "open",
                json!({
                    "device": device,
                    "connectionString": hub.command_output(&["connection-string", "--device", device]),
                    "ca": ca,
                    "caFile": hub.ca_file(),
                    "transport": transport,
                    "webSockets": transport.ends_with("Ws"),
                }),
            );
            client.ask("send", json!({ "device": device, "messages": [message()] }));
            client.ask("close", json!({ "device": device }));
            expected_count += 1;
        }
        let Some(mut reader) = Script::start("events.js", &hub) else { return };
        reader.ask(
            "open",
            json!({ "connectionString": hub.event_hub_connection_string(), "group": "$Default" }),
        );
        let mut events = Vec::new();
        for partition in 0..PARTITION_COUNT {
            let partition = partition.to_string();
            let status = reader.ask("partition", json!({ "partition": partition }));
            if status["empty"] == true {
                continue;
            }
            let count = status["last"].as_u64().expect("a number") + 1;
            reader.ask(
                "subscribe",
                json!({ "reader": partition, "partition": partition, "from": { "offset": "-1" } }),
            );
            let taken =
                reader.ask("take", json!({ "reader": partition, "count": count, "waitMs": PATIENCE_MS }));
            events.extend(taken["events"].as_array().expect("a list").clone());
        }
        assert_eq!(events.len(), expected_count);
        let device = |event: &Value| event["system"]["iothub-connection-device-id"].to_string();
        events.sort_by_key(device);
        let first = comparable(events[0].clone());
        let wanted = message();
        for name in ["body", "messageId", "correlationId", "contentType", "properties"] {
            assert_eq!(first[name], wanted[name], "{name} of {first}");
        }
        assert_eq!(first["raw"]["contentEncoding"], "utf-8", "{first}");
        assert_eq!(first["raw"]["absoluteExpiryTime"], EXPIRY_MS, "{first}");
        // The reader's package makes an object of its bytes.
        let bytes =
            (0..).zip(USER_ID.bytes()).map(|(place, byte): (u32, u8)| (place.to_string(), json!(byte)));
        assert_eq!(first["system"]["userId"], Value::Object(bytes.collect()), "{first}");
        for event in events {
            let name = device(&event);
            let mut event = comparable(event);
            if name.contains("node-amqp") {
                add_user_id(&mut event, &first);
            }
            assert_eq!(event, first, "{name} on the left");
        }
    });
}
