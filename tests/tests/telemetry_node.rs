//! The client packages for Node, unchanged: azure-iothub makes the device, azure-iot-device-amqp sends,
//! @azure/event-hubs reads.
#![forbid(unsafe_code)]

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::clients::Script;
use tests::hub::{Hub, NAME, PARTITION_COUNT, PLAIN_AMQP, PLAIN_AMQP_PORT};
use tests::namespace::{Needs, run};
use tests::walk;

/// Milliseconds that an answer may take on a machine that builds at the same time.
const PATIENCE_MS: u64 = 20_000;

fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_millis() as u64
}

/// A script that opens a device of the hub over AMQP.
fn device(hub: &Hub, id: &str) -> Option<Script> {
    let mut script = Script::start("device.js", hub)?;
    open_device(&mut script, hub, id).expect("the device may connect");
    Some(script)
}

fn open_device(script: &mut Script, hub: &Hub, id: &str) -> Result<Value, Value> {
    let connection_string = hub.command_output(&["connection-string", "--device", id]);
    let ca = std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA");
    script.try_ask("open", json!({ "device": id, "connectionString": connection_string, "ca": ca }))
}

/// A script that reads events of the hub for a consumer group.
fn reader(hub: &Hub, group: &str) -> Option<Script> {
    let mut script = Script::start("events.js", hub)?;
    script.ask("open", json!({ "connectionString": hub.event_hub_connection_string(), "group": group }));
    Some(script)
}

/// Read `count` events of a partition from a start position.
fn read(script: &mut Script, partition: &str, from: &Value, count: usize) -> Vec<Value> {
    script.ask("subscribe", json!({ "reader": "r", "partition": partition, "from": from }));
    let events = script.take_events("r", count);
    script.ask("unsubscribe", json!({ "reader": "r" }));
    events
}

/// The partition that holds something, where only one device sent.
fn used_partition(script: &mut Script) -> String {
    let partitions = (0..PARTITION_COUNT).map(|partition| partition.to_string());
    let mut used = partitions
        .filter(|partition| script.ask("partition", json!({ "partition": partition }))["empty"] == false);
    let found = used.next().expect("something was sent");
    assert_eq!(used.next(), None, "one device's events are in one partition");
    found
}

fn sequences(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["sequence"].as_u64().expect("a number")).collect()
}

#[test]
fn the_registry_makes_changes_and_deletes_devices() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let Some(mut registry) = Script::start("registry.js", &hub) else { return };
        registry.ask("open", json!({ "connectionString": hub.policy_connection_string("iothubowner") }));
        let created =
            registry.ask("create", json!({ "device": { "deviceId": "made by node" .replace(' ', "-") } }));
        assert_eq!(created["deviceId"], "made-by-node");
        assert_eq!(created["status"], "enabled");
        let key =
            created["authentication"]["symmetricKey"]["primaryKey"].as_str().expect("the hub makes keys");
        assert_eq!(BASE64.decode(key).expect("base64").len(), 32);

        let error = registry
            .try_ask("create", json!({ "device": { "deviceId": "made-by-node" } }))
            .expect_err("it exists");
        assert_eq!(error["name"], "DeviceAlreadyExistsError", "{error}");

        let changed = json!({ "device": { "deviceId": "made-by-node", "status": "disabled", "statusReason": "a test" } });
        let updated = registry.ask("update", changed);
        assert_eq!((&updated["status"], &updated["statusReason"]), (&json!("disabled"), &json!("a test")));
        assert_ne!(updated["etag"], created["etag"]);
        assert_eq!(updated["generationId"], created["generationId"]);
        let read = registry.ask("read", json!({ "deviceId": "made-by-node" }));
        assert_eq!(read["status"], "disabled");

        registry.ask("create", json!({ "device": { "deviceId": "second" } }));
        let listed = registry.ask("list", json!({}));
        let ids: Vec<_> =
            listed.as_array().expect("a list").iter().map(|device| device["deviceId"].clone()).collect();
        assert_eq!(ids, ["made-by-node", "second"]);

        registry.ask("remove", json!({ "deviceId": "made-by-node" }));
        let error = registry.try_ask("read", json!({ "deviceId": "made-by-node" })).expect_err("it is gone");
        assert_eq!(error["name"], "DeviceNotFoundError", "{error}");
        let again = registry.ask("create", json!({ "device": { "deviceId": "made-by-node" } }));
        assert_ne!(again["generationId"], created["generationId"]);
    });
}

/// Every property that the package knows; each comes out as it went in, with the hub's stamps.
#[test]
fn properties_of_every_kind_come_through() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let created = hub.service().create_device("Dev#1%");
        let Some(mut device) = device(&hub, "Dev#1%") else { return };
        let before = now_ms();
        let body: Vec<u8> = (0..=255).collect();
        let full = json!({
            "body": base64(&body),
            "messageId": "0b1f2a3c-4d5e-4f60-8a7b-9c0d1e2f3a4b",
            "correlationId": "not a uuid",
            "to": "/devices/Dev#1%/messages/events",
            "contentType": "application/json",
            "contentEncoding": "utf-8",
            "ack": "full",
            "interfaceId": "urn:example:interface:1",
            "expiryMs": 4_000_000_000_000_u64,
            "properties": { "plain": "value", "ünicode": "ä€😀", "empty": "", "iothub-connection-device-id": "forged" },
        });
        let bare = json!({ "body": base64(b"{\"json\": true}") });
        let sent = device.ask("send", json!({ "device": "Dev#1%", "messages": [full, bare] }));
        assert_eq!(sent, json!(["MessageEnqueued", "MessageEnqueued"]));
        let batch: Vec<_> = (0..20_u8)
            .map(|number| json!({ "body": base64(&[number]), "properties": { "n": number.to_string() } }))
            .collect();
        // The package sends batches over HTTPS alone; what a batch becomes, the tests with fe2o3-amqp show.
        let sent = device.ask("send", json!({ "device": "Dev#1%", "messages": batch }));
        assert_eq!(sent, json!(vec!["MessageEnqueued"; 20]));
        device.ask("close", json!({ "device": "Dev#1%" }));
        let after = now_ms();

        let Some(mut script) = reader(&hub, "$Default") else { return };
        let partition = used_partition(&mut script);
        let events = read(&mut script, &partition, &json!({ "offset": "-1" }), 22);
        assert_eq!(sequences(&events), (0..22).collect::<Vec<_>>());
        for event in &events {
            let system = &event["system"];
            assert_eq!(system["iothub-connection-device-id"], "Dev#1%");
            assert_eq!(system["iothub-connection-auth-generation-id"], created.generation.as_str());
            assert_eq!(system["iothub-message-source"], "Telemetry");
            let method: Value =
                serde_json::from_str(system["iothub-connection-auth-method"].as_str().expect("a text"))
                    .expect("JSON");
            assert_eq!((&method["scope"], &method["issuer"]), (&json!("device"), &json!("iothub")));
            assert_eq!(event["offset"], event["sequence"].to_string());
            let enqueued_ms = event["enqueuedMs"].as_u64().expect("a number");
            assert!((before - 1000..=after + 1000).contains(&enqueued_ms), "{enqueued_ms}");
        }
        assert_eq!(events[0]["body"], base64(&body));
        assert_eq!(events[0]["messageId"], "0b1f2a3c-4d5e-4f60-8a7b-9c0d1e2f3a4b");
        assert_eq!(events[0]["correlationId"], "not a uuid");
        assert_eq!(events[0]["contentType"], "application/json");
        assert_eq!(events[0]["system"]["iothub-interface-id"], "urn:example:interface:1");
        let properties = json!({ "plain": "value", "ünicode": "ä€😀", "empty": "", "iothub-ack": "full" });
        assert_eq!(events[0]["properties"], properties);
        assert_eq!(events[0]["raw"]["to"], "/devices/Dev#1%/messages/events");
        assert_eq!(events[0]["raw"]["contentEncoding"], "utf-8");
        assert_eq!(events[0]["raw"]["absoluteExpiryTime"], 4_000_000_000_000_u64);
        assert_eq!(
            (&events[1]["body"], &events[1]["properties"]),
            (&json!(base64(b"{\"json\": true}")), &json!({}))
        );
        for (number, event) in events[2..].iter().enumerate() {
            assert_eq!(
                (&event["body"], &event["properties"]["n"]),
                (&json!(base64(&[number as u8])), &json!(number.to_string()))
            );
        }
    });
}

/// More messages on one connection than any session window holds.
#[test]
fn three_thousand_messages_on_one_connection() {
    run(Needs::LowPorts, || {
        const COUNT: usize = 3000;
        let hub = Hub::start(&["--cores", "2"]);
        hub.service().create_device("many");
        let Some(mut device) = device(&hub, "many") else { return };
        assert_eq!(device.ask("sendMany", json!({ "device": "many", "count": COUNT, "window": 100 })), COUNT);
        let Some(mut script) = reader(&hub, "$Default") else { return };
        let partition = used_partition(&mut script);
        let events = read(&mut script, &partition, &json!({ "offset": "-1" }), COUNT);
        assert_eq!(sequences(&events), (0..COUNT as u64).collect::<Vec<_>>());
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["properties"]["number"], number.to_string());
            assert_eq!(event["body"], base64(format!("event {number}").as_bytes()));
        }
    });
}

#[test]
fn every_start_position_reads_from_its_place() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        hub.service().create_device("d");
        let Some(mut device) = device(&hub, "d") else { return };
        let mut send = |numbers: std::ops::Range<u8>| {
            let messages: Vec<_> = numbers.map(|number| json!({ "body": base64(&[number]) })).collect();
            device.ask("send", json!({ "device": "d", "messages": messages }));
        };
        send(0..5);
        std::thread::sleep(std::time::Duration::from_millis(50));
        send(5..10);
        let Some(mut script) = reader(&hub, "$Default") else { return };
        let partition = used_partition(&mut script);
        let all = read(&mut script, &partition, &json!({ "offset": "-1" }), 10);
        let fifth = &all[4]["enqueuedMs"];
        let positions = [
            (json!({ "offset": "-1" }), 0),
            (json!({ "offset": "3" }), 4),
            (json!({ "offset": "3", "isInclusive": true }), 3),
            (json!({ "sequenceNumber": 6 }), 7),
            (json!({ "sequenceNumber": 6, "isInclusive": true }), 6),
            (json!({ "sequenceNumber": -1 }), 0),
            (json!({ "enqueuedOn": 0 }), 0),
            (json!({ "enqueuedOn": fifth }), 5),
            (json!({ "offset": "@checkpoint" }), 0),
        ];
        for (position, first) in positions {
            let events = read(&mut script, &partition, &position, 10 - first);
            assert_eq!(sequences(&events), (first as u64..10).collect::<Vec<_>>(), "{position}");
        }
        // Only what comes from now on.
        let latest = json!({ "reader": "new", "partition": partition, "from": { "offset": "@latest" } });
        script.ask("subscribe", latest);
        std::thread::sleep(std::time::Duration::from_millis(1500));
        send(10..12);
        let taken = script.ask("take", json!({ "reader": "new", "count": 2, "waitMs": PATIENCE_MS }));
        assert_eq!(sequences(taken["events"].as_array().expect("a list")), [10, 11]);
        // What the client knows about the end of the partition came with the events.
        assert_eq!(taken["last"]["sequenceNumber"], 11);
        assert_eq!(taken["last"]["offset"], "11");
        assert!(
            taken["last"]["enqueuedOn"]["date"].as_u64().is_some()
                && taken["last"]["retrievedOn"]["date"].as_u64().is_some()
        );
    });
}

#[test]
fn hub_and_partition_properties() {
    run(Needs::LowPorts, || {
        let start = now_ms();
        let hub = Hub::start(&["--cores", "2"]);
        hub.service().create_device("d");
        let Some(mut script) = reader(&hub, "$Default") else { return };
        let found = script.ask("hub", json!({}));
        let ids: Vec<String> = (0..PARTITION_COUNT).map(|partition| partition.to_string()).collect();
        assert_eq!((&found["name"], &found["partitions"]), (&json!(NAME), &json!(ids)));
        let created_ms = found["createdMs"].as_u64().expect("a number");
        assert!((start - 1000..=now_ms()).contains(&created_ms), "{created_ms}");
        for id in &ids {
            let empty = script.ask("partition", json!({ "partition": id }));
            assert_eq!((&empty["empty"], &empty["last"]), (&json!(true), &json!(-1)));
        }
        let Some(mut device) = device(&hub, "d") else { return };
        let messages: Vec<_> = (0..7_u8).map(|number| json!({ "body": base64(&[number]) })).collect();
        device.ask("send", json!({ "device": "d", "messages": messages }));
        let partition = used_partition(&mut script);
        let status = script.ask("partition", json!({ "partition": partition }));
        assert_eq!(
            (&status["first"], &status["last"], &status["offset"]),
            (&json!(0), &json!(6), &json!("6"))
        );
        assert!(status["lastMs"].as_u64().expect("a number") >= start - 1000);
        let error = script
            .try_ask("partition", json!({ "partition": "77" }))
            .expect_err("there is no such partition");
        assert!(error["message"].as_str().expect("a text").contains("could not be found"), "{error}");
    });
}

/// Owner levels: a higher one takes over, so does the same; a lower one is refused.
#[test]
fn owner_levels_steal() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let mut scripts = Vec::new();
        for _ in 0..4 {
            let Some(script) = reader(&hub, "$Default") else { return };
            scripts.push(script);
        }
        let start = |script: &mut Script, level: u64| {
            let from = json!({ "offset": "-1" });
            script.ask(
                "subscribe",
                json!({ "reader": "r", "partition": "0", "from": from, "ownerLevel": level }),
            );
        };
        let failure = |script: &mut Script| {
            let errors = script.ask("failed", json!({ "reader": "r", "waitMs": PATIENCE_MS }));
            errors[0]["code"].clone()
        };
        let quiet = |script: &mut Script| {
            assert_eq!(script.ask("failed", json!({ "reader": "r", "waitMs": 1500 })), json!([]));
        };
        start(&mut scripts[0], 1);
        quiet(&mut scripts[0]);
        start(&mut scripts[1], 2);
        assert_eq!(failure(&mut scripts[0]), "ReceiverDisconnectedError");
        start(&mut scripts[2], 2);
        assert_eq!(failure(&mut scripts[1]), "ReceiverDisconnectedError");
        quiet(&mut scripts[2]);
        start(&mut scripts[3], 1);
        assert_eq!(failure(&mut scripts[3]), "ReceiverDisconnectedError");
        quiet(&mut scripts[2]);
    });
}

/// The emulator mode: TCP without TLS on the plain listener.
#[test]
fn the_emulator_mode_reads_without_tls() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&[&["--cores", "1"], PLAIN_AMQP.as_slice()].concat());
        hub.service().create_device("d");
        let Some(mut device) = device(&hub, "d") else { return };
        device.ask("send", json!({ "device": "d", "messages": [{ "body": base64(b"plain") }] }));
        let Some(mut script) = Script::start("events.js", &hub) else { return };
        let text = hub.event_hub_connection_string();
        let host = hub.host();
        let plain = text.replace(&format!("sb://{host}"), &format!("sb://{host}:{PLAIN_AMQP_PORT}"));
        assert_ne!(plain, text);
        let plain = format!("{};UseDevelopmentEmulator=true", plain.trim_end_matches(';'));
        script.ask("open", json!({ "connectionString": plain, "group": "$Default" }));
        let partition = used_partition(&mut script);
        let events = read(&mut script, &partition, &json!({ "offset": "-1" }), 1);
        assert_eq!(events[0]["body"], base64(b"plain"));
    });
}

/// A checkpoint written over HTTPS is where the client goes on, also when the hub was killed in between.
#[test]
fn reading_resumes_from_a_checkpoint_across_sigkill() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        service.create_device("d");
        service.create_consumer_group("workers");
        let Some(mut device) = device(&hub, "d") else { return };
        let messages: Vec<_> = (0..10_u8).map(|number| json!({ "body": base64(&[number]) })).collect();
        device.ask("send", json!({ "device": "d", "messages": messages }));
        let Some(mut script) = reader(&hub, "workers") else { return };
        let partition = used_partition(&mut script);
        let number: u16 = partition.parse().expect("a partition is a number");
        assert_eq!(service.checkpoint("workers", number), None);
        let first = read(&mut script, &partition, &json!({ "offset": "@checkpoint" }), 10);
        assert_eq!(sequences(&first)[..4], [0, 1, 2, 3]);
        let written = service.put_checkpoint("workers", number, 3);
        assert!((200..300).contains(&written.status), "{}", written.text());
        hub.kill();
        hub.set_arguments(&["--cores", "1"]);
        hub.run();
        assert_eq!(service.checkpoint("workers", number), Some(3));
        let Some(mut script) = reader(&hub, "workers") else { return };
        let rest = read(&mut script, &partition, &json!({ "offset": "@checkpoint" }), 6);
        assert_eq!(sequences(&rest), [4, 5, 6, 7, 8, 9]);
    });
}

/// What Node's device client makes of the hub's refusals.
#[test]
fn refusals_are_understood() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let service = hub.service();
        for id in ["disabled", "deleted", "good"] {
            service.create_device(id);
        }
        let Some(mut script) = Script::start("device.js", &hub) else { return };
        let ca = std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA");
        let deleted = hub.command_output(&["connection-string", "--device", "deleted"]);
        let foreign =
            format!("HostName={};DeviceId=good;SharedAccessKey={}", hub.host(), tests::sas::foreign_key());
        let disabled = hub.command_output(&["connection-string", "--device", "disabled"]);
        service.set_status("disabled", "disabled");
        service.delete_device("deleted");
        let cases = [
            ("good", &foreign, ["UnauthorizedError"].as_slice()),
            ("disabled", &disabled, ["UnauthorizedError"].as_slice()),
            ("deleted", &deleted, ["UnauthorizedError", "DeviceNotFoundError"].as_slice()),
        ];
        for (id, connection_string, names) in cases {
            let opened = script
                .try_ask("open", json!({ "device": id, "connectionString": connection_string, "ca": ca }));
            let failed = opened.and_then(|_| {
                script.try_ask("send", json!({ "device": id, "messages": [{ "body": base64(b"x") }] }))
            });
            let error = failed.expect_err("it must not get in");
            assert!(names.iter().any(|name| error["name"] == *name), "{id}: {error}");
        }
    });
}

/// The README's walk, word for word, but for the hub, the packages, which are installed already, and who kills the hub.
#[test]
fn the_readme_works_as_written() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&[]);
        let Some(packages) = tests::clients::node_modules() else { return };
        let directory = walk::fresh_directory();
        std::os::unix::fs::symlink(hub.data(), directory.path().join("hub-data")).expect("a link");
        let environment = [("NODE_PATH", packages.into_os_string())];
        let shell = |script: &str| walk::shell(directory.path(), script, &environment);

        let scripts = walk::scripts(include_str!("../../README.md"));
        let [_, _, device, send, read, again] = scripts[..] else { panic!("the README has other scripts") };
        let is_done_here =
            |line: &&str| ["npm install", "kill", "(cd"].iter().any(|done| line.starts_with(done));
        let without = |script: &str| -> String {
            script.lines().filter(|line| !is_done_here(line)).flat_map(|line| [line, "\n"]).collect()
        };
        let said = shell(&[&without(device), send, read].concat());
        let events = "dev1 0 { n: 0 } { colour: 'green' }\ndev1 1 { n: 1 } { colour: 'green' }\ndev1 2 { n: 2 } { colour: 'green' }\n";
        assert!(
            said.ends_with(&format!("acknowledged 0\nacknowledged 1\nacknowledged 2\n{events}")),
            "{said}"
        );

        hub.kill();
        hub.run();
        let ca = "cd walk\nexport NODE_EXTRA_CA_CERTS=$PWD/../hub-data/tls/ca.pem\n";
        assert_eq!(shell(&format!("{ca}{}", without(again))), events);
    });
}
