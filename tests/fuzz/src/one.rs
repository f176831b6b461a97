//! One thing behind a good beginning: a message to one of AMQP's nodes, a text in one place of MQTT, the body of one request of the
//! REST API, one query. The first byte says which; what is asked may be anything.

use std::collections::BTreeSet;

use net_amqp::LinkRole::{Receiver, Sender};
use net_mqtt::packet::{encode_subscribe, encode_unsubscribe};
use net_mqtt::{Connect, Packet, Qos, Will};
use serde_json::json;

use crate::client::{ADMINISTRATOR, amqp_units, id, owner, packet, publish, request, token};
use crate::hub::{AMQP, HTTP, MQTT, answers};
use crate::wire::{Answer, check_amqp, check_mqtt, read_responses};

/// The message format of a batch of events [Azure: AMQP batching].
const BATCH: u32 = 0x8001_3700;

/// A message to `$cbs`, `$management`, as telemetry, as a batch of it, as a command, and to the twin.
pub fn message(input: &[u8]) {
    let Some((kind, message)) = input.split_first() else { return };
    let (device, owner) = (token("d"), owner());
    let both = |address| [(Receiver, address), (Sender, address)];
    let telemetry = [(Sender, "/devices/d/messages/events")];
    let command = [(Receiver, "/messages/serviceBound/feedback"), (Sender, "/messages/devicebound")];
    let units = match kind % 6 {
        0 => amqp_units(&device, &both("$cbs"), 0, &[message]),
        1 => amqp_units(&owner, &both("$management"), 0, &[message]),
        2 => amqp_units(&device, &telemetry, 0, &[message, message]),
        3 => amqp_units(&device, &telemetry, BATCH, &[message]),
        4 => amqp_units(&owner, &command, 0, &[message]),
        _ => amqp_units(&device, &both("/devices/d/twin"), 0, &[message]),
    };
    check_amqp(&answers(units.iter().map(Vec::as_slice), false, AMQP));
}

/// A user name, client id, topic of an event or of a will, filter to subscribe or to unsubscribe.
pub fn text(input: &[u8]) {
    let Some((kind, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    if text.len() > usize::from(u16::MAX) {
        return;
    }
    let token = token("d");
    let good = Connect {
        user_name: Some("plant7.example/d/?api-version=2021-04-12"),
        password: Some(token.as_bytes()),
        keep_alive_s: 60,
        clean_session: false,
        ..Connect::new("d")
    };
    let will = Will { topic: text, payload: b"gone", qos: Qos::AtLeastOnce, retain: false };
    let connect = match kind % 6 {
        0 => Connect { user_name: Some(text), ..good },
        1 => Connect { client_id: text, ..good },
        2 => Connect { will: Some(will), ..good },
        _ => good,
    };
    let mut rest = Vec::new();
    match kind % 6 {
        3 => rest = publish(text, b"body", 2),
        4 => encode_subscribe(id(1), &[(text, Qos::AtLeastOnce)], &mut rest),
        5 => encode_unsubscribe(id(1), &[text], &mut rest),
        _ => {}
    }
    let units =
        [packet(&Packet::Connect(connect)), rest, publish("devices/d/messages/events/a=b", b"next", 3)];
    check_mqtt(&answers(units.iter().map(Vec::as_slice), false, MQTT));
}

/// Requests with bodies, and what comes behind each.
const REQUESTS: [(&str, &str, &str); 14] = [
    ("PUT /devices/f", "", "GET /devices/f"),
    ("PUT /devices/d", "If-Match: *\r\n", "GET /devices/d"),
    ("POST /devices", "", "GET /devices"),
    ("POST /devices/query", "x-ms-max-item-count: 2\r\n", "GET /devices?top=2"),
    ("POST /devices/keys/regenerate", "", "GET /devices/d"),
    ("POST /jobs/create", "", "GET /jobs"),
    ("PUT /enrollments/r", "", "GET /enrollments/r"),
    ("PUT /enrollmentGroups/g", "", "POST /enrollmentGroups/g/attestationMechanism"),
    ("POST /enrollments", "", "GET /enrollments/r"),
    ("POST /enrollments/query", "", "GET /provisioning"),
    ("PUT /consumerGroups/readers/checkpoints/0", "", "GET /consumerGroups/readers/checkpoints"),
    (
        "POST /devices/d/messages/events",
        "Content-Type: application/vnd.microsoft.iothub.json\r\n",
        "GET /devices/d",
    ),
    ("PUT /policies/p", "", "GET /policies/p"),
    ("POST /policies/reader/keys/regenerate", "", "GET /policies"),
];

/// A body: what the hub takes, it can tell.
pub fn body(input: &[u8]) {
    let Some((kind, body)) = input.split_first() else { return };
    let (line, headers, next) = REQUESTS[usize::from(*kind) % REQUESTS.len()];
    let (device, service) = (token("d"), owner());
    let (who, reader) = match line {
        line if line.contains("/policies") => (ADMINISTRATOR, ADMINISTRATOR),
        line if line.ends_with("events") => (&device[..], &service[..]),
        _ => (&service[..], &service[..]),
    };
    let asked = [request(who, line, headers, body), request(reader, next, "", b"")];
    let told = ask(&asked);
    let [first, second] = &told[..] else { panic!("two requests have {} answers", told.len()) };
    assert_ne!(first.status, 500, "{line}: {}", first.body);
    assert_ne!(second.status, 500, "{next}: {}", second.body);
    if first.status < 300 && line.starts_with("PUT") {
        assert_eq!(second.status, 200, "{line} was done, {next} is refused: {}", second.body);
    }
}

/// A condition: every device fulfils it or its opposite, and none both.
pub fn query(input: &[u8]) {
    let Ok(condition) = std::str::from_utf8(input) else { return };
    let ask_for = |text: String| {
        request(&owner(), "POST /devices/query", "", json!({ "query": text }).to_string().as_bytes())
    };
    let select = "SELECT * FROM devices WHERE";
    let told = ask(&[
        ask_for(format!("{select} {condition}")),
        ask_for(format!("{select} NOT ({condition})")),
        ask_for("SELECT * FROM devices".to_owned()),
    ]);
    let [yes, no, all] = &told[..] else { panic!("three queries have {} answers", told.len()) };
    assert!([200, 400].contains(&yes.status), "{condition:?}: {} {}", yes.status, yes.body);
    // A semicolon ends a query but no condition; and one level more may be one too many.
    if (yes.status, no.status) == (200, 200) {
        let (yes, no) = (ids(yes), ids(no));
        assert!(yes.is_disjoint(&no), "{condition:?} is true and false: {yes:?} {no:?}");
        assert_eq!(&yes | &no, ids(all), "{condition:?} is neither true nor false");
    }
}

fn ids(answer: &Answer) -> BTreeSet<String> {
    let items = answer.body.as_array().expect("a list");
    items.iter().map(|item| item["deviceId"].as_str().expect("an id").to_owned()).collect()
}

/// Requests one by one on a connection, and their answers.
fn ask(requests: &[Vec<u8>]) -> Vec<Answer> {
    let said = answers(requests.iter().map(Vec::as_slice), false, HTTP);
    let mut told = read_responses(&said);
    // A connection that nothing more is said on may be told so.
    told.truncate(requests.len());
    told
}
