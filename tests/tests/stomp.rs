//! The example of a further protocol, at the real program: stomp.py unchanged, and frames by hand.
#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::clients::Script;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::service::Device;
use tests::telemetry::stored_now;
use tests::{https, sas};

const PORT: u16 = 61614;
const STOMP: [&str; 4] = ["--cores", "2", "--also", "stomps=61614"];

fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// stomp.py, connected as the device `d`. None: there is no Python.
fn open(hub: &Hub, more: &Value) -> Option<Script> {
    let mut script = Script::start("stomp_device.py", hub)?;
    let mut request = more.clone();
    request["device"] = json!("d");
    request["connectionString"] = json!(hub.command_output(&["connection-string", "--device", "d"]));
    request["caFile"] = json!(hub.ca_file());
    script.ask("open", request);
    Some(script)
}

#[test]
fn telemetry_and_commands_with_stomp_py() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&STOMP);
        hub.service().create_device("d");
        let Some(mut device) = open(&hub, &json!({ "heartbeats": [5000, 5000] })) else { return };
        let ask = |device: &mut Script, action: &str, mut more: Value| {
            more["device"] = json!("d");
            device.ask(action, more)
        };
        let messages: Vec<Value> =
            (0..50_u8).map(|number| json!({ "body": base64(&[number, 0, 255]) })).collect();
        ask(&mut device, "send", json!({ "messages": messages }));
        assert_eq!(stored_now(&hub).len(), 50, "durable before its receipt");

        ask(&mut device, "listen", json!({ "ack": "client-individual" }));
        hub.command_output(&["send", "d", "first", "--property", "place=here: & there"]);
        let commands = ask(&mut device, "commands", json!({ "count": 1, "settle": "nack" }));
        assert_eq!(commands[0]["body"], base64(b"first"));
        assert_eq!(commands[0]["headers"]["iothub-app-place"], "here: & there", "{commands}");
        assert_eq!(commands[0]["headers"]["iothub-deliverycount"], "0", "{commands}");
        let commands = ask(&mut device, "commands", json!({ "count": 1, "settle": "ack" }));
        assert_eq!(commands[0]["body"], base64(b"first"), "what was given back comes again");
        assert_eq!(commands[0]["headers"]["iothub-deliverycount"], "1", "{commands}");

        // What was sent and not settled waits for the next connection; what was settled does not.
        hub.command_output(&["send", "d", "second"]);
        ask(&mut device, "commands", json!({ "count": 1 }));
        ask(&mut device, "close", json!({}));
        let Some(mut device) = open(&hub, &json!({ "heartbeats": [5000, 5000] })) else { return };
        ask(&mut device, "listen", json!({ "ack": "auto" }));
        let commands = ask(&mut device, "commands", json!({ "count": 1 }));
        assert_eq!(commands[0]["body"], base64(b"second"));

        // Half as long again as the device promised to be heard, and longer than stomp.py waits for the hub's beat.
        assert_eq!(ask(&mut device, "alive", json!({ "seconds": 9 })), true);
        // A newer connection of the device takes its place.
        let Some(mut newer) = open(&hub, &json!({})) else { return };
        let error = ask(&mut device, "failed", json!({}));
        assert_eq!(error["headers"]["code"], "409002", "{error}");
        ask(&mut newer, "close", json!({}));
    });
}

/// Say something over TLS and hang up on no account: the hub's words until it ends the connection.
fn converse_raw(hub: &Hub, what: &str, said: &[u8]) -> String {
    let mut stream = https::connect(&hub.host(), PORT, hub.tls()).expect("the hub takes connections");
    // It may end the connection before everything is said.
    let _ = stream.write_all(said).and_then(|()| stream.flush());
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("{what}: the connection does not end, after {:?}", String::from_utf8_lossy(&answer))
        }
        // How the TLS below ends is not what is tested here.
        _ => String::from_utf8(answer).expect("frames of text"),
    }
}

fn connect_frame(hub: &Hub, device: &Device, key: &str) -> String {
    let resource = format!("{}/devices/{}", hub.host(), device.id);
    let token = sas::token(&resource, key, sas::now_s() + 3600, None);
    format!("CONNECT\naccept-version:1.1,1.2\nhost:h\nlogin:{}\npasscode:{token}\n\n\0\n", device.id)
}

#[test]
fn refusals_say_why_and_end_the_connection() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&STOMP);
        let device = hub.service().create_device("d");
        hub.service().create_device("other");
        let healthy = hub.service().create_device("healthy");
        let good = connect_frame(&hub, &device, &device.key);
        let after = |frames: &str| format!("{good}{frames}");
        let mut bystander = https::connect(&hub.host(), PORT, hub.tls()).expect("the hub takes connections");
        bystander
            .write_all(connect_frame(&hub, &healthy, &healthy.key).as_bytes())
            .expect("the hub takes it");
        let mut connected = [0; 9];
        bystander.read_exact(&mut connected).expect("an answer");
        assert_eq!(&connected, b"CONNECTED");

        let send = "SEND\ndestination:/devices/d/messages/events\n";
        let long = "x".repeat(70_000);
        let refused: Vec<(&str, String, &str)> = vec![
            ("another's key", connect_frame(&hub, &device, &sas::foreign_key()), "401003"),
            ("no token", "CONNECT\naccept-version:1.2\nlogin:d\n\n\0".to_owned(), "401003"),
            (
                "no device",
                connect_frame(&hub, &Device { id: "ghost".into(), ..device.clone() }, &device.key),
                "401003",
            ),
            (
                "another version",
                "CONNECT\naccept-version:1.0\nlogin:d\npasscode:x\n\n\0".to_owned(),
                "400004",
            ),
            ("no CONNECT", format!("{send}\nx\0"), "400004"),
            ("a long stranger", format!("CONNECT\na:{long}"), "400004"),
            ("noise", after("\u{1}\u{2}\n\n\0"), "400004"),
            ("a header without a colon", after("SEND\nabc\n\n\0"), "400004"),
            ("an undefined escape", after("SEND\na:\\t\n\n\0"), "400004"),
            ("a long head", after(&format!("SEND\na:{long}")), "400004"),
            ("an endless body", after(&format!("{send}content-length:4000000000\n\nx")), "400004"),
            ("a wrong length", after(&format!("{send}content-length:1\n\nabc\0")), "400004"),
            ("an event too large", after(&format!("{send}\n{}\0", "y".repeat(262_140))), "413001"),
            ("a body that does not end", after(&format!("{send}\n{}", "y".repeat(263_000))), "400004"),
            ("a transaction", after("BEGIN\ntransaction:t\n\n\0"), "400004"),
            ("another's events", after("SEND\ndestination:/devices/other/messages/events\n\nx\0"), "401002"),
            (
                "a wildcard",
                after("SUBSCRIBE\nid:1\ndestination:/devices/*/messages/devicebound\n\n\0"),
                "401002",
            ),
            ("the hub's events", after("SUBSCRIBE\nid:1\ndestination:/messages/events\n\n\0"), "401002"),
            (
                "a second subscription",
                after(&"SUBSCRIBE\nid:1\ndestination:/devices/d/messages/devicebound\n\n\0".repeat(2)),
                "400004",
            ),
            ("what was never sent", after("ACK\nid:1\n\n\0"), "400004"),
            (
                "an expiry that is no time",
                after(&format!("{send}iothub-expiry:soon\nreceipt:r\n\nx\0")),
                "400004",
            ),
        ];
        for (what, said, code) in &refused {
            let answer = converse_raw(&hub, what, said.as_bytes());
            let (_, error) = answer.split_once("ERROR\n").unwrap_or_else(|| panic!("{what}: {answer:?}"));
            assert!(error.contains(&format!("\ncode:{code}\n")), "{what}: {answer:?}");
            assert!(error.contains("receipt-id:r\n") == said.contains("receipt:r"), "{what}: {answer:?}");
            assert!(!answer.contains("SharedAccessSignature"), "{what}: {answer:?}");
        }
        // Nobody else was affected, and nothing of it was stored.
        let event = "SEND\ndestination:/devices/healthy/messages/events\nreceipt:r\n\nx\0";
        bystander.sock.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        bystander.write_all(event.as_bytes()).expect("the hub takes it");
        let mut answer = String::new();
        while !answer.contains("RECEIPT\nreceipt-id:r\n") {
            let mut buffer = [0; 1000];
            let count = bystander.read(&mut buffer).expect("an answer");
            assert!(count > 0, "{answer}");
            answer.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        assert_eq!(stored_now(&hub).len(), 1);
        assert!(hub.is_running() && !hub.printed().contains("panicked"));
        assert!(!hub.printed().contains("sig="), "a token is in the log");
    });
}
