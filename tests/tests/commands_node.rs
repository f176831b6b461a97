//! The client packages for Node, unchanged: azure-iothub sends commands and reads receipts, azure-iot-device-amqp
//! completes, rejects and abandons.
#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tests::clients::Script;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::sas::now_s;

/// Milliseconds that an answer may take on a machine that builds at the same time.
const PATIENCE_MS: u64 = 20_000;

/// Milliseconds within which receipts come: they wait 15 s for others to share a batch with.
const RECEIPT_PATIENCE_MS: u64 = 40_000;

fn base64(text: &str) -> String {
    BASE64.encode(text)
}

/// A command with its id as body.
fn command(id: &str, ack: &str) -> Value {
    json!({ "messageId": id, "body": base64(id), "ack": ack })
}

fn back_end(hub: &Hub) -> Option<Script> {
    let mut script = Script::start("service.js", hub)?;
    script.ask("open", json!({ "connectionString": hub.policy_connection_string("service") }));
    Some(script)
}

/// A device that receives commands.
fn device(hub: &Hub, id: &str) -> Option<Script> {
    let mut script = Script::start("device.js", hub)?;
    let connection_string = hub.command_output(&["connection-string", "--device", id]);
    let ca = std::fs::read_to_string(hub.ca_file()).expect("the hub wrote its CA");
    script.ask("open", json!({ "device": id, "connectionString": connection_string, "ca": ca }));
    script.ask("listen", json!({ "device": id }));
    Some(script)
}

/// Take `count` commands of a device.
fn take(script: &mut Script, device: &str, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    while all.len() < count {
        let request = json!({ "device": device, "count": 1, "waitMs": PATIENCE_MS });
        let taken = script.ask("commands", request);
        let taken = taken.as_array().expect("a list").clone();
        assert!(!taken.is_empty(), "{} of {count} commands, then none", all.len());
        all.extend(taken);
    }
    all
}

fn nothing_comes(script: &mut Script, device: &str) {
    let taken = script.ask("commands", json!({ "device": device, "count": 1, "waitMs": 500 }));
    assert_eq!(taken, json!([]));
}

fn settle(script: &mut Script, device: &str, command: &Value, how: &str) {
    script.ask("settle", json!({ "device": device, "place": command["place"], "how": how }));
}

fn ids(commands: &[Value]) -> Vec<&str> {
    commands.iter().map(|command| command["messageId"].as_str().expect("a text")).collect()
}

/// Every outcome, and its receipt with the words that readers know.
#[test]
fn every_outcome_has_its_receipt() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let created = service.create_device("Dev#1%");
        service.create_device("away");
        service.create_device("emptied");
        let Some(mut back_end) = back_end(&hub) else { return };
        let Some(mut device) = device(&hub, "Dev#1%") else { return };
        back_end.ask("listen", json!({}));

        let expiry_ms = now_s() * 1000 + 3_600_000;
        let full = json!({
            "messageId": "5f1c0c3e-0f4f-4c55-8a77-3a7c6c2f9f10",
            "correlationId": "c-1",
            "userId": "operator",
            "contentType": "application/json",
            "contentEncoding": "utf-8",
            "ack": "Full",
            "expiryMs": expiry_ms,
            "properties": { "unit": "ä€", "empty": "" },
            "body": base64("{\"open\":1}"),
        });
        let sent = json!({ "device": "Dev#1%", "messages": [full, command("reject", "full"), command("abandon", "full")] });
        assert_eq!(
            back_end.ask("send", sent),
            json!(["MessageEnqueued", "MessageEnqueued", "MessageEnqueued"])
        );
        let expiring = json!({ "messageId": "expire", "ack": "negative", "body": "", "expiryMs": now_s() * 1000 + 2000 });
        back_end
            .ask("send", json!({ "device": "away", "messages": [expiring, command("quiet", "positive")] }));

        // The package for Node knows no purge: the request is made as its documentation says.
        let purged = json!({ "device": "emptied", "messages": [command("purge", "negative"), command("silent", "none")] });
        back_end.ask("send", purged);
        let answer = service.request("DELETE", "/devices/emptied/commands", &[], None);
        assert_eq!((answer.status, &answer.json()["totalMessagesPurged"]), (200, &json!(2)));

        let commands = take(&mut device, "Dev#1%", 3);
        assert_eq!(ids(&commands), ["5f1c0c3e-0f4f-4c55-8a77-3a7c6c2f9f10", "reject", "abandon"]);
        let first = &commands[0];
        assert_eq!(first["body"], base64("{\"open\":1}"));
        assert_eq!(first["correlationId"], "c-1");
        assert_eq!(first["to"], "/devices/Dev#1%/messages/devicebound");
        assert_eq!(first["ack"], "full");
        assert_eq!(first["expiryMs"], expiry_ms);
        assert_eq!(first["properties"], json!({ "unit": "ä€", "empty": "" }));
        let annotations = &first["annotations"];
        assert_eq!(annotations["iothub-deliverycount"], 0);
        assert!(annotations["x-opt-sequence-number"].is_number(), "{annotations}");
        assert!(
            annotations["x-opt-lock-token"].as_str().is_some_and(|token| token.len() == 36),
            "{annotations}"
        );
        settle(&mut device, "Dev#1%", &commands[0], "complete");
        settle(&mut device, "Dev#1%", &commands[1], "reject");
        settle(&mut device, "Dev#1%", &commands[2], "abandon");
        for count in 1..10 {
            let again = take(&mut device, "Dev#1%", 1);
            assert_eq!(
                (ids(&again), &again[0]["annotations"]["iothub-deliverycount"]),
                (vec!["abandon"], &json!(count))
            );
            settle(&mut device, "Dev#1%", &again[0], "abandon");
        }
        nothing_comes(&mut device, "Dev#1%");

        let mut receipts = Vec::new();
        while receipts.len() < 5 {
            let taken = back_end.ask("receipts", json!({ "count": 1, "waitMs": RECEIPT_PATIENCE_MS }));
            let taken = taken.as_array().expect("a list").clone();
            assert!(!taken.is_empty(), "only {receipts:?}");
            receipts.extend(taken);
        }
        let mut told: Vec<_> = receipts
            .iter()
            .map(|receipt| {
                assert_eq!(receipt["description"], receipt["statusCode"]);
                assert!(
                    receipt["enqueuedTimeUtc"].as_str().is_some_and(|time| time.ends_with('Z')),
                    "{receipt}"
                );
                (
                    receipt["originalMessageId"].as_str().expect("a text"),
                    receipt["statusCode"].as_str().expect("a text"),
                )
            })
            .collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [
                ("5f1c0c3e-0f4f-4c55-8a77-3a7c6c2f9f10", "Success"),
                ("abandon", "DeliveryCountExceeded"),
                ("expire", "Expired"),
                ("purge", "Purged"),
                ("reject", "Rejected"),
            ]
        );
        let of_device =
            receipts.iter().find(|receipt| receipt["statusCode"] == "Success").expect("seen above");
        assert_eq!(of_device["deviceId"], "Dev#1%");
        assert_eq!(of_device["deviceGenerationId"], json!(created.generation));
    });
}

/// The device was away, the hub is killed twice: everything that was accepted comes once, in order, and what was completed
/// stays away.
#[test]
fn a_device_that_was_away_gets_its_commands_in_order_across_sigkill() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "1"]);
        hub.service().create_device("pump-7");
        let Some(mut sender) = back_end(&hub) else { return };
        let messages: Vec<Value> = (0..10).map(|number| command(&format!("c{number}"), "none")).collect();
        sender.ask("send", json!({ "device": "pump-7", "messages": messages }));
        hub.kill();
        drop(sender);
        hub.set_arguments(&["--cores", "2"]);
        hub.run();
        let Some(mut script) = device(&hub, "pump-7") else { return };
        let commands = take(&mut script, "pump-7", 10);
        let expected: Vec<String> = (0..10).map(|number| format!("c{number}")).collect();
        assert_eq!(ids(&commands), expected);
        for command in &commands[..4] {
            settle(&mut script, "pump-7", command, "complete");
        }
        // The package does not wait for the hub's word: a close does.
        script.ask("close", json!({ "device": "pump-7" }));
        hub.kill();
        hub.run();
        let Some(mut script) = device(&hub, "pump-7") else { return };
        let commands = take(&mut script, "pump-7", 6);
        assert_eq!(ids(&commands), expected[4..]);
        assert!(commands.iter().all(|command| command["annotations"]["iothub-deliverycount"] == 0));
        nothing_comes(&mut script, "pump-7");
    });
}

/// What the service client makes of the hub's refusals.
#[test]
fn refusals_have_the_names_of_the_package() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        service.create_device("full");
        service.create_device("off");
        service.set_status("off", "disabled");
        let Some(mut back_end) = back_end(&hub) else { return };
        let mut refused = |device: &str, message: Value| {
            let sent = json!({ "device": device, "messages": [message] });
            back_end.try_ask("send", sent).unwrap_or_else(|error| error["name"].clone())
        };
        assert_eq!(refused("nobody", command("x", "none")), "DeviceNotFoundError");
        assert_eq!(refused("off", command("x", "none")), "DeviceNotFoundError");
        for number in 0..50 {
            assert_eq!(refused("full", command(&number.to_string(), "none")), json!(["MessageEnqueued"]));
        }
        assert_eq!(refused("full", command("x", "none")), "DeviceMaximumQueueDepthExceededError");
        let large = json!({ "body": BASE64.encode(vec![7; 64 * 1024]) });
        assert_eq!(refused("full", large), "MessageTooLargeError");
        let expired = json!({ "body": "", "expiryMs": now_s() * 1000 - 1 });
        assert_eq!(refused("full", expired), "ArgumentOutOfRangeError");
        assert_eq!(refused("full", json!({ "body": "", "ack": "maybe" })), "ArgumentError");
    });
}
