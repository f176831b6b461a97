//! The client package for Python, unchanged: azure-eventhub reads what devices sent.
#![forbid(unsafe_code)]

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use fe2o3_amqp::types::messaging::{ApplicationProperties, Message, MessageId, Properties};
use fe2o3_amqp::types::primitives::{Binary, Symbol};
use serde_json::{Value, json};
use tests::amqp::{Peer, converse, send};
use tests::clients::Script;
use tests::hub::{Hub, NAME, PARTITION_COUNT, PLAIN_AMQP, PLAIN_AMQP_PORT};
use tests::namespace::{Needs, run};
use tests::service::Device;

const PATIENCE_MS: u64 = 20_000;

/// Events with a number as body and property.
fn send_numbers(hub: &Hub, device: &Device, numbers: Range<u8>) {
    converse(async {
        let mut peer = Peer::device(hub, device).await;
        let mut link = peer.telemetry(&device.id).await.expect("the device may send");
        for number in numbers {
            let sent = Message::builder()
                .properties(
                    Properties::builder()
                        .message_id(MessageId::String(format!("m{number}")))
                        .correlation_id(MessageId::String("c".to_owned()))
                        .content_type(Symbol::from("text/plain"))
                        .build(),
                )
                .application_properties(
                    ApplicationProperties::builder().insert("n", number.to_string()).build(),
                )
                .data(Binary::from(vec![number, 0, 255]))
                .build();
            send(&mut link, sent).await.expect("the device may send");
        }
        peer.close().await;
    });
}

/// What every request to the script says.
fn common(hub: &Hub, group: &str) -> Value {
    json!({ "connectionString": hub.event_hub_connection_string(), "group": group, "caFile": hub.ca_file() })
}

fn with(common: &Value, more: Value) -> Value {
    let mut request = common.clone();
    for (name, value) in more.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}

fn read(script: &mut Script, common: &Value, start: Value, count: usize) -> Vec<Value> {
    script.ask("subscribe", with(&with(common, json!({ "reader": "r" })), start));
    let events = script.take_events("r", count);
    script.ask("unsubscribe", json!({ "reader": "r" }));
    events
}

fn used_partition(script: &mut Script, common: &Value) -> String {
    let mut partitions = (0..PARTITION_COUNT).map(|partition| partition.to_string());
    let used = |partition: &String| {
        script.ask("partition", with(common, json!({ "partition": partition })))["empty"] == false
    };
    partitions.find(used).expect("something was sent")
}

fn sequences(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["sequence"].as_u64().expect("a number")).collect()
}

#[test]
fn events_and_properties_are_read() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let device = hub.service().create_device("py:1");
        send_numbers(&hub, &device, 0..10);
        let Some(mut script) = Script::start("events.py", &hub) else { return };
        let common = common(&hub, "$Default");
        let found = script.ask("hub", common.clone());
        let ids: Vec<String> = (0..PARTITION_COUNT).map(|partition| partition.to_string()).collect();
        assert_eq!((&found["name"], &found["partitions"]), (&json!(NAME), &json!(ids)));
        let partition = used_partition(&mut script, &common);
        let status = script.ask("partition", with(&common, json!({ "partition": partition })));
        assert_eq!(
            (&status["first"], &status["last"], &status["offset"]),
            (&json!(0), &json!(9), &json!("9"))
        );

        let all = read(&mut script, &common, json!({ "partition": partition, "from": "-1" }), 10);
        assert_eq!(sequences(&all), (0..10).collect::<Vec<_>>());
        for (number, event) in (0_u8..).zip(&all) {
            assert_eq!(event["body"], BASE64.encode([number, 0, 255]));
            assert_eq!(event["properties"]["n"], number.to_string());
            assert_eq!(event["messageId"], format!("m{number}"));
            assert_eq!((&event["correlationId"], &event["contentType"]), (&json!("c"), &json!("text/plain")));
            assert_eq!(event["offset"], number.to_string());
            assert_eq!(event["system"]["iothub-connection-device-id"], "py:1");
            assert_eq!(event["system"]["iothub-connection-auth-generation-id"], device.generation.as_str());
        }
        // Several events may share a millisecond: an inclusive time begins at the first of them.
        let fifth = &all[4]["enqueuedMs"];
        let first_of_its_time =
            all.iter().position(|event| event["enqueuedMs"] == *fifth).expect("the fifth has it");
        let starts = [
            (json!({ "from": "3" }), 4),
            (json!({ "from": "3", "inclusive": true }), 3),
            (json!({ "from": 6 }), 7),
            (json!({ "from": 6, "inclusive": true }), 6),
            (json!({ "from": { "enqueuedOn": 0 } }), 0),
            (json!({ "from": { "enqueuedOn": fifth }, "inclusive": true }), first_of_its_time),
        ];
        for (start, first) in starts {
            let events =
                read(&mut script, &common, with(&start, json!({ "partition": partition })), 10 - first);
            let numbers = sequences(&events);
            assert_eq!(numbers, (first as u64..10).collect::<Vec<_>>(), "{start}");
        }
        // Only what is new, with what the client learns about the end of the partition.
        let latest = json!({ "reader": "new", "partition": partition, "from": "@latest" });
        script.ask("subscribe", with(&common, latest));
        std::thread::sleep(std::time::Duration::from_millis(1500));
        send_numbers(&hub, &device, 10..12);
        let taken = script.ask("take", json!({ "reader": "new", "count": 2, "waitMs": PATIENCE_MS }));
        assert_eq!(sequences(taken["events"].as_array().expect("a list")), [10, 11]);
        assert_eq!(taken["last"]["sequence_number"], 11, "{}", taken["last"]);
    });
}

#[test]
fn events_are_read_over_websockets() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let device = hub.service().create_device("d");
        send_numbers(&hub, &device, 0..100);
        let Some(mut script) = Script::start("events.py", &hub) else { return };
        let common = with(&common(&hub, "$Default"), json!({ "webSockets": true }));
        assert_eq!(script.ask("hub", common.clone())["name"], NAME);
        let partition = used_partition(&mut script, &common);
        let events = read(&mut script, &common, json!({ "partition": partition, "from": "-1" }), 100);
        assert_eq!(sequences(&events), (0..100).collect::<Vec<_>>());
        assert_eq!(events[99]["body"], BASE64.encode([99, 0, 255]));
    });
}

#[test]
fn owner_levels_steal() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let Some(mut script) = Script::start("events.py", &hub) else { return };
        let common = common(&hub, "$Default");
        let start = json!({ "partition": "0", "from": "-1", "ownerLevel": 3 });
        script.ask("subscribe", with(&with(&common, json!({ "reader": "first" })), start.clone()));
        std::thread::sleep(std::time::Duration::from_millis(1500));
        script.ask("subscribe", with(&with(&common, json!({ "reader": "second" })), start));
        let taken = script.ask("take", json!({ "reader": "first", "count": 1, "waitMs": PATIENCE_MS }));
        let error = taken["errors"][0].to_string();
        assert!(
            error.contains("stolen") || error.contains("ConnectionLost") || error.contains("New receiver"),
            "{taken}"
        );
        let quiet = script.ask("take", json!({ "reader": "second", "count": 1, "waitMs": 1000 }));
        assert_eq!(quiet["errors"], json!([]));
    });
}

#[test]
fn reading_resumes_from_a_checkpoint_across_sigkill() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "1"]);
        let service = hub.service();
        let device = service.create_device("d");
        service.create_consumer_group("py");
        send_numbers(&hub, &device, 0..10);
        let Some(mut script) = Script::start("events.py", &hub) else { return };
        let common = common(&hub, "py");
        let partition = used_partition(&mut script, &common);
        let start = json!({ "partition": partition, "from": "@checkpoint" });
        assert_eq!(sequences(&read(&mut script, &common, start.clone(), 10))[0], 0);
        let number = partition.parse().expect("a partition is a number");
        assert!((200..300).contains(&service.put_checkpoint("py", number, 5).status));
        hub.kill();
        hub.set_arguments(&["--cores", "2"]);
        hub.run();
        assert_eq!(sequences(&read(&mut script, &common, start, 4)), [6, 7, 8, 9]);
    });
}

#[test]
fn the_emulator_mode_reads_without_tls() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&[&["--cores", "1"], PLAIN_AMQP.as_slice()].concat());
        let device = hub.service().create_device("d");
        send_numbers(&hub, &device, 0..1);
        let Some(mut script) = Script::start("events.py", &hub) else { return };
        let text = hub.event_hub_connection_string();
        let host = hub.host();
        let plain = text.replace(&format!("sb://{host}"), &format!("sb://{host}:{PLAIN_AMQP_PORT}"));
        let plain = format!("{};UseDevelopmentEmulator=true", plain.trim_end_matches(';'));
        let common = json!({ "connectionString": plain, "group": "$Default" });
        let partition = used_partition(&mut script, &common);
        let events = read(&mut script, &common, json!({ "partition": partition, "from": "-1" }), 1);
        assert_eq!(events[0]["body"], BASE64.encode([0, 0, 255]));
    });
}
