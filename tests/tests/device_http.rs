//! Devices over HTTPS: azure-iot-device-http unchanged, and requests by hand.
#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::clients::Script;
use tests::https::{self, Response};
use tests::hub::{Hub, PARTITION_COUNT};
use tests::namespace::{Needs, run};
use tests::sas;
use tests::service::Device;

fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

fn open_device(hub: &Hub, id: &str, transport: &str) -> Option<Script> {
    let mut script = Script::start("device.js", hub)?;
    let connection_string = hub.command_output(&["connection-string", "--device", id]);
    let ca = std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA");
    let options =
        json!({ "device": id, "connectionString": connection_string, "ca": ca, "transport": transport });
    script.ask("open", options);
    Some(script)
}

/// All events of the hub, which only one device sent to.
fn read_all(hub: &Hub, count: usize) -> Option<Vec<Value>> {
    let mut script = Script::start("events.js", hub)?;
    script.ask("open", json!({ "connectionString": hub.event_hub_connection_string(), "group": "$Default" }));
    let partitions = (0..PARTITION_COUNT).map(|partition| partition.to_string());
    let mut used = partitions
        .filter(|partition| script.ask("partition", json!({ "partition": partition }))["empty"] == false);
    let partition = used.next().expect("something was sent");
    script.ask("subscribe", json!({ "reader": "r", "partition": partition, "from": { "offset": "-1" } }));
    Some(script.take_events("r", count))
}

/// The same message over AMQP and over HTTPS: readers cannot tell which is which.
#[test]
fn node_sends_over_https_what_it_sends_over_amqp() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        hub.service().create_device("Dev#1%");
        let Some(mut amqp) = open_device(&hub, "Dev#1%", "Amqp") else { return };
        let Some(mut http) = open_device(&hub, "Dev#1%", "Http") else { return };
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
            "properties": { "plain": "value", "Latin": "ä", "empty": "", "iothub-connection-device-id": "forged" },
        });
        let sent = json!({ "device": "Dev#1%", "messages": [full] });
        assert_eq!(amqp.ask("send", sent.clone()), json!(["MessageEnqueued"]));
        assert_eq!(http.ask("send", sent.clone()), json!(["MessageEnqueued"]));
        // The connected client is not disturbed by its twin without a connection.
        assert_eq!(amqp.ask("send", sent), json!(["MessageEnqueued"]));
        let batch: Vec<Value> = (0..20_u8)
            .map(
                |number| json!({ "body": base64(&[number, 200]), "properties": { "n": number.to_string() } }),
            )
            .collect();
        let batch = json!({ "device": "Dev#1%", "messages": batch });
        assert_eq!(http.ask("sendBatch", batch), json!("MessageEnqueued"));
        http.ask("close", json!({ "device": "Dev#1%" }));

        let Some(mut events) = read_all(&hub, 23) else { return };
        for event in &mut events {
            for name in ["offset", "sequence", "enqueuedMs"] {
                event.as_object_mut().expect("an object").remove(name);
            }
            let system = event["system"].as_object_mut().expect("an object");
            for name in
                ["iothub-enqueuedtime", "x-opt-offset", "x-opt-sequence-number", "x-opt-enqueued-time"]
            {
                system.remove(name);
            }
        }
        assert_eq!(events[0]["properties"]["Latin"], "ä");
        assert_eq!(events[1], events[0], "over HTTPS");
        assert_eq!(events[2], events[0]);
        for (number, event) in (0_u8..).zip(&events[3..]) {
            assert_eq!(event["body"], base64(&[number, 200]));
            assert_eq!(event["properties"], json!({ "n": number.to_string() }));
            assert_eq!(event["system"]["iothub-connection-device-id"], "Dev#1%");
        }
    });
}

#[test]
fn node_is_told_what_it_may_not() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        service.create_device("d");
        let Some(mut device) = open_device(&hub, "d", "Http") else { return };
        let message = json!({ "device": "d", "messages": [{ "body": "" }] });
        assert_eq!(device.ask("send", message.clone()), json!(["MessageEnqueued"]));
        let large = json!({ "device": "d", "messages": [{ "body": base64(&vec![0; 256 * 1024 + 1]) }] });
        let error = device.try_ask("send", large).expect_err("too large");
        assert_eq!(error["name"], "MessageTooLargeError", "{error}");
        service.set_status("d", "disabled");
        let error = device.try_ask("send", message.clone()).expect_err("disabled");
        assert_eq!(error["name"], "UnauthorizedError", "{error}");
        service.set_status("d", "enabled");
        assert_eq!(device.ask("send", message.clone()), json!(["MessageEnqueued"]));
        service.delete_device("d");
        let error = device.try_ask("send", message).expect_err("deleted");
        assert_eq!(error["name"], "UnauthorizedError", "{error}");
    });
}

fn post(hub: &Hub, device: &Device, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    let resource = format!("{}/devices/{}", hub.host(), sas::escape(&device.id));
    let token = sas::token(&resource, &device.key, sas::now_s() + 60, None);
    let mut all = vec![("Authorization", token.as_str())];
    all.extend_from_slice(headers);
    https::request((&hub.host(), 443), hub.tls(), ("POST", path), &all, body).expect("an answer")
}

/// What was acknowledged with 204 is there after the process was killed at once.
#[test]
fn a_204_means_durable() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "1"]);
        let device = hub.service().create_device("d");
        for number in 0..5_u8 {
            let response = post(&hub, &device, "/devices/d/messages/events", &[], &[number]);
            assert_eq!(response.status, 204, "{}", response.text());
        }
        hub.kill();
        hub.run();
        let Some(events) = read_all(&hub, 5) else { return };
        let bodies: Vec<&Value> = events.iter().map(|event| &event["body"]).collect();
        let expected: Vec<Value> = (0..5_u8).map(|number| json!(base64(&[number]))).collect();
        assert_eq!(bodies, expected.iter().collect::<Vec<_>>());
    });
}

/// Several requests in one record, in chunks, and one that asks before it sends: one connection takes them all.
#[test]
fn requests_on_one_connection() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let device = hub.service().create_device("d");
        let resource = format!("{}/devices/d", hub.host());
        let token = sas::token(&resource, &device.key, sas::now_s() + 60, None);
        let head = |more: &str| {
            format!(
                "POST /devices/d/messages/events?api-version=2021-04-12 HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\n{more}\r\n",
                hub.host()
            )
        };
        let mut stream = https::connect(&hub.host(), 443, hub.tls()).expect("the hub listens");
        let pipelined = [
            head("Content-Length: 3\r\n") + "one",
            head("Transfer-Encoding: chunked\r\n") + "2\r\ntw\r\n1;x=y\r\no\r\n0\r\n\r\n",
            head("Content-Length: 5\r\n") + "three",
        ];
        stream.write_all(pipelined.concat().as_bytes()).expect("a connection");
        let mut answers = String::new();
        let mut until =
            |stream: &mut rustls::StreamOwned<_, std::net::TcpStream>, end: &str, count: usize| {
                let mut bytes = [0; 4096];
                while answers.matches(end).count() < count {
                    let read = stream.read(&mut bytes).expect("an answer");
                    assert!(read > 0, "hung up after {answers:?}");
                    answers.push_str(std::str::from_utf8(&bytes[..read]).expect("text"));
                }
            };
        until(&mut stream, "204 No Content\r\n", 3);
        stream
            .write_all(head("Content-Length: 4\r\nExpect: 100-continue\r\n").as_bytes())
            .expect("a connection");
        until(&mut stream, "100 Continue\r\n\r\n", 1);
        stream.write_all(b"four").expect("a connection");
        until(&mut stream, "204 No Content\r\n", 4);
        let Some(events) = read_all(&hub, 4) else { return };
        let bodies: Vec<&str> = events.iter().filter_map(|event| event["body"].as_str()).collect();
        assert_eq!(bodies, ["one", "two", "three", "four"].map(|text| base64(text.as_bytes())));
    });
}

/// Commands that wait for a device without a connection: polled for, abandoned, rejected, completed.
#[test]
fn node_receives_commands_over_https() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        hub.service().create_device("Dev#1%");
        let send = |number: &str| {
            let property = format!("n={number}");
            let id = format!("m{number}");
            let options = ["--property", &property, "--message-id", &id, "--correlation-id", "c"];
            hub.command_output(&[&["send", "Dev#1%", number], &options[..]].concat());
        };
        let depth = || hub.service().device("Dev#1%").json()["cloudToDeviceMessageCount"].clone();
        send("1");
        assert_eq!(depth(), 1);
        let Some(mut device) = open_device(&hub, "Dev#1%", "Http") else { return };
        let mut next = |settle: &str| {
            device.ask("command", json!({ "device": "Dev#1%", "settle": settle, "waitMs": 20_000 }))
        };
        let first = next("abandon");
        let expected = json!({
            "body": "1", "messageId": "m1", "correlationId": "c", "to": "/devices/Dev#1%/messages/devicebound",
            "properties": { "iothub-app-n": "1" }, "result": "MessageAbandoned",
        });
        assert_eq!(first, expected);
        let again = next("complete");
        assert_eq!((&again["messageId"], &again["result"]), (&json!("m1"), &json!("MessageCompleted")));
        assert_eq!(depth(), 0);
        send("2");
        let second = next("reject");
        assert_eq!((&second["messageId"], &second["result"]), (&json!("m2"), &json!("MessageRejected")));
        assert_eq!(depth(), 0);
    });
}

/// The walk in the documentation, word for word but for the hub that it is walked on.
#[test]
fn the_walk_with_curl_works_as_documented() {
    run(Needs::LowPorts, || {
        if ["curl", "openssl"].iter().any(|program| Command::new(program).arg("version").output().is_err()) {
            return tests::skip("curl or openssl is missing");
        }
        let hub = Hub::start(&["--cores", "1"]);
        let (said, directory) = tests::walk::run(&hub, include_str!("../../docs/devices-over-https.md"));
        assert_eq!(said.lines().filter(|line| *line == "204").count(), 2, "{said}");
        let answer = std::fs::read_to_string(directory.path().join("answer.txt")).expect("written by curl");
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        let Some(events) = read_all(&hub, 3) else { return };
        let bodies: Vec<&str> = events.iter().filter_map(|event| event["body"].as_str()).collect();
        assert_eq!(bodies, [7, 8, 9].map(|number| base64(format!("{{\"kWh\": {number}}}").as_bytes())));
        assert_eq!(events[0]["properties"], json!({ "meter": "main" }));
        assert_eq!(events[1]["properties"], json!({ "meter": "main" }));
        assert_eq!(events[0]["contentType"], "application/json");
    });
}
