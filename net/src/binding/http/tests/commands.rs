//! Commands over a real shard: received under a lock, settled, counted, purged.

use net_amqp::{MessageBuilder, Properties};
use segment_log::storage::sim::SimDisk;
use serde_json::{Value, json};

use super::hub::*;

const PATH: &str = "/devices/d/messages/devicebound";

/// A hub with one device, and that device's token.
fn hub() -> (Hub, String) {
    let mut hub = Hub::open(SimDisk::new(21));
    let (_, made) = hub.request("PUT /devices/d", "", json!({}));
    let key = device_key(made["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap());
    (hub, sign("hub.test/devices/d", &key, NOW_S + 60, None))
}

fn message(body: &str) -> Vec<u8> {
    let properties = Properties { content_type: Some("application/json"), ..Properties::default() };
    let own = net_amqp::Value::String("1");
    MessageBuilder::default()
        .properties(properties)
        .application_property("n", own)
        .data(body.as_bytes())
        .encode()
}

/// Receive a command: its body and its lock.
fn receive(hub: &mut Hub, token: &str) -> Option<(Value, String)> {
    hub.receive(token, PATH).map(|(_, body, lock)| (body, lock))
}

fn depth(hub: &mut Hub) -> Value {
    hub.get("/devices/d").1["cloudToDeviceMessageCount"].clone()
}

#[test]
fn a_command_is_locked_and_settled() {
    let (mut hub, token) = hub();
    assert_eq!(receive(&mut hub, &token), None);
    for number in 1..=3 {
        hub.enqueue("d", message(&number.to_string()));
    }
    assert_eq!(depth(&mut hub), json!(3));
    let settle = |hub: &mut Hub, line: &str| {
        let (status, body) = hub.request_as(&token, line, "If-Match: x\r\n", &Value::Null);
        let code = body["Message"].as_str().and_then(|text| text.split([':', ';']).nth(1));
        (status, code.unwrap_or_default().to_owned())
    };
    let done = (204, String::new());
    let lost = (412, "DeviceMessageLockLost".to_owned());

    let (body, first) = receive(&mut hub, &token).unwrap();
    assert_eq!(body, json!(1));
    let (body, second) = receive(&mut hub, &token).unwrap();
    assert_eq!(body, json!(2));
    assert_eq!(depth(&mut hub), json!(3), "what is locked is in the queue");
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{first}?api-version=2021-04-12")), done);
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{first}?api-version=2021-04-12")), lost);
    assert_eq!(settle(&mut hub, &format!("POST {PATH}/{second}/abandon")), done);
    assert_eq!(settle(&mut hub, &format!("POST {PATH}/{second}/abandon")), lost);
    let (body, again) = receive(&mut hub, &token).unwrap();
    assert_eq!(body, json!(2), "an abandoned command comes back first");
    assert_ne!(again, second);
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{second}")), lost, "the older lock");
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{again}?reject&api-version=2021-04-12")), done);
    assert_eq!(depth(&mut hub), json!(1));

    // A settlement is durable, a lock is not.
    let (body, third) = receive(&mut hub, &token).unwrap();
    assert_eq!(body, json!(3));
    let mut hub = hub.cut_power();
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{third}")), lost);
    assert_eq!(receive(&mut hub, &token).unwrap().0, json!(3));
    assert_eq!(receive(&mut hub, &token), None);
}

#[test]
fn headers_go_both_ways() {
    let (mut hub, token) = hub();
    hub.enqueue("d", message("1"));
    for timeout in ["x", "0", "-1", "1.5"] {
        let headers = format!("iothub-messagelocktimeout: {timeout}\r\n");
        assert_eq!(
            hub.request_as(&token, &format!("GET {PATH}"), &headers, &Value::Null).0,
            400,
            "{timeout}"
        );
    }
    let (head, _) =
        hub.exchange(&token, &format!("GET {PATH}"), "IoTHub-MessageLockTimeout: 5\r\n", &Value::Null);
    for (name, value) in
        [("iothub-app-n", "1"), ("iothub-deliverycount", "0"), ("Content-Type", "application/json")]
    {
        assert_eq!(header(&head, name), Some(value), "{head}");
    }
    assert_eq!(receive(&mut hub, &token), None);
    hub.pass(4_999);
    assert_eq!(receive(&mut hub, &token), None);
    hub.pass(2);
    assert!(receive(&mut hub, &token).is_some(), "the lock lasts as long as was asked for");
    hub.pass(5_001);
    assert_eq!(receive(&mut hub, &token), None, "and else a minute");
}

#[test]
fn a_purge_empties_the_queue() {
    let (mut hub, token) = hub();
    for number in 1..=3 {
        hub.enqueue("d", message(&number.to_string()));
    }
    let (_, lock) = receive(&mut hub, &token).unwrap();
    let purged = json!({"deviceId": "d", "moduleId": null, "totalMessagesPurged": 3});
    assert_eq!(hub.request("DELETE /devices/d/commands", "", Value::Null), (200, purged));
    assert_eq!(depth(&mut hub), json!(0));
    assert_eq!(hub.request_as(&token, &format!("DELETE {PATH}/{lock}"), "", &Value::Null).0, 412);
    let mut hub = hub.cut_power();
    assert_eq!(receive(&mut hub, &token), None);
    assert_eq!(hub.request("DELETE /devices/nobody/commands", "", Value::Null).0, 404);
}
