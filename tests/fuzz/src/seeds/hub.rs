//! Conversations with the whole hub, by clients that it knows, and single things to ask of it.

use net::binding::stomp::frame::Frame;
use net_mqtt::Connect;
use serde_json::json;

use super::*;
use crate::client::{ADMINISTRATOR, amqp_units, request};

const SENDER: LinkRole = LinkRole::Sender;
const RECEIVER: LinkRole = LinkRole::Receiver;

fn command() -> Vec<u8> {
    MessageBuilder::default()
        .properties(Properties {
            message_id: Some(Value::String("c1")),
            to: Some("/devices/d/messages/devicebound"),
            absolute_expiry_time_ms: Some(1_795_000_600_000),
            ..Properties::default()
        })
        .application_property("iothub-ack", Value::String("full"))
        .data(b"go")
        .encode()
}

fn read_hub() -> Vec<u8> {
    MessageBuilder::default()
        .properties(Properties {
            message_id: Some(Value::String("q")),
            reply_to: Some("$management"),
            ..Properties::default()
        })
        .application_property("operation", Value::String("READ"))
        .application_property("name", Value::String("plant7"))
        .application_property("type", Value::String("com.microsoft:eventhub"))
        .application_property("security_token", Value::String(&owner()))
        .value(Value::Null)
        .encode()
}

fn twin_request() -> Vec<u8> {
    MessageBuilder::default()
        .message_annotation("operation", Value::String("GET"))
        .properties(Properties { correlation_id: Some(Value::String("7")), ..Properties::default() })
        .data(b" ")
        .encode()
}

/// A batch of two events.
fn batch() -> Vec<u8> {
    let one = MessageBuilder::default().data(b"one").encode();
    MessageBuilder::default().data(&one).data(&one).encode()
}

pub fn amqp() -> Vec<Vec<u8>> {
    let conversation = |token: &str, links: &[(LinkRole, &str)], messages: &[&[u8]]| {
        amqp_units(token, links, 0, messages).concat()
    };
    let all = messages();
    let telemetry = (SENDER, "/devices/d/messages/events");
    vec![
        conversation(
            &token("d"),
            &[telemetry, (RECEIVER, "/devices/d/messages/devicebound")],
            &[&all[0], &all[1]],
        ),
        conversation(
            &owner(),
            &[(SENDER, "/messages/devicebound"), (RECEIVER, "/messages/serviceBound/feedback")],
            &[&command()],
        ),
        conversation(&owner(), &[(RECEIVER, "plant7/ConsumerGroups/$Default/Partitions/0")], &[]),
        conversation(&owner(), &[(RECEIVER, "$management"), (SENDER, "$management")], &[&read_hub()]),
        [
            amqp_opening("PLAIN", &plain_response("owner@sas.root.plant7", &owner())),
            vec![attach(0, "m", 0, RECEIVER, "messages/events"), flow(0, Some(0), Some(10), true)],
        ]
        .concat()
        .concat(),
    ]
}

/// For each kind of node that `one::message` knows, in its order.
pub fn messages_to_nodes() -> Vec<Vec<u8>> {
    let all = messages();
    let of = |kind: u8, messages: Vec<Vec<u8>>| {
        messages.into_iter().map(move |message| [&[kind][..], &message].concat())
    };
    of(
        0,
        vec![put_token(&token("d")), put_token(&owner()), put_token("SharedAccessSignature sr=x&sig=y&se=1")],
    )
    .chain(of(1, vec![read_hub()]))
    .chain(of(2, all.clone()))
    .chain(of(3, vec![batch()]))
    .chain(of(4, vec![command(), all[1].clone()]))
    .chain(of(5, vec![twin_request()]))
    .collect()
}

pub fn http() -> Vec<Vec<u8>> {
    let (owner, device) = (owner(), token("d"));
    let text = |authorization: &str, line: &str, headers: &str, body: &str| {
        request(authorization, line, headers, body.as_bytes())
    };
    let service = |line: &str, headers: &str, body: &str| text(&owner, line, headers, body);
    let administrator = |line: &str, headers: &str, body: &str| text(ADMINISTRATOR, line, headers, body);
    let put = identity().to_string();
    let query = |text: &str| {
        let body = json!({ "query": format!("SELECT * FROM devices WHERE {text}") }).to_string();
        service("POST /devices/query", "x-ms-max-item-count: 2\r\n", &body)
    };
    let lock = "00000000-0000-0000-0000-000000000001";
    let mut conversations = vec![
        [
            service("PUT /devices/a%23b%3F%25?api-version=2021-04-12", "If-Match: *\r\n", &put),
            service("PUT /devices/a%23b%3F%25?api-version=2021-04-12", "", &put),
            service("DELETE /devices/a%23b%3F%25", "If-Match: \"*\"\r\n", ""),
        ]
        .concat(),
        [service("POST /devices", "", &changes().to_string()), service("GET /devices?top=2", "", "")].concat(),
        CONDITIONS.iter().flat_map(|condition| query(condition)).collect(),
        service("GET /statistics/devices", "", ""),
        [
            administrator("PUT /policies/p", "", r#"{"rights":"RegistryRead, DeviceConnect"}"#),
            administrator("POST /policies/p/keys/regenerate", "", r#"{"policyKey":"secondaryKey"}"#),
            administrator("GET /policies/p", "", ""),
            administrator("GET /policies", "", ""),
            administrator("DELETE /policies/p", "", ""),
            service("GET /policies/owner", "", ""),
        ]
        .concat(),
        [
            service("GET /messages/serviceBound/feedback", "", ""),
            service(&format!("POST /messages/serviceBound/feedback/{lock}/abandon"), "", ""),
            service(&format!("DELETE /messages/serviceBound/feedback/{lock}"), "", ""),
        ]
        .concat(),
        [
            service("PUT /consumerGroups/g", "", ""),
            service("GET /consumerGroups", "", ""),
            service("DELETE /consumerGroups/g", "", ""),
        ]
        .concat(),
        [
            text(
                &device,
                "POST /devices/d/messages/events?api-version=2020-03-13",
                "iothub-messageid: 1\r\niothub-app-a: b\r\niothub-expiry: 2030-01-01T00:00:00Z\r\nContent-Type: application/json\r\n",
                "{}",
            ),
            text(
                &device,
                "POST /devices/d/messages/events",
                "Content-Type: application/vnd.microsoft.iothub.json\r\n",
                &events().to_string(),
            ),
        ]
        .concat(),
        [
            text(&device, "GET /devices/d/messages/devicebound", "IotHub-MessageLockTimeout: 30\r\n", ""),
            text(&device, &format!("DELETE /devices/d/messages/devicebound/{lock}?reject"), "", ""),
            text(&device, &format!("POST /devices/d/messages/devicebound/{lock}/abandon"), "", ""),
        ]
        .concat(),
        service("DELETE /devices/d/commands", "", ""),
        [
            service("PUT /enrollments/r", "", &enrolment("r").to_string()),
            service("GET /provisioning", "", ""),
            service("DELETE /enrollments/r", "", ""),
        ]
        .concat(),
    ];
    let upgrade = "GET /$iothub/websocket HTTP/1.1\r\nHost: plant7.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: ";
    for (protocol, inside) in
        [("mqtt", mqtt_conversation(&token("d"), true)), ("AMQPWSB10", amqp().remove(0))]
    {
        let mut bytes = format!("{upgrade}{protocol}\r\n\r\n").into_bytes();
        inside.chunks(200).for_each(|chunk| bytes.extend(masked(0x82, chunk)));
        conversations.push(bytes);
    }
    conversations
}

const KEYS: [&str; 2] =
    ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];

fn keys() -> serde_json::Value {
    json!({ "type": "sas", "symmetricKey": { "primaryKey": KEYS[0], "secondaryKey": KEYS[1] } })
}

fn identity() -> serde_json::Value {
    json!({ "deviceId": "a#b?%", "status": "disabled", "statusReason": "leaks", "authentication": keys() })
}

fn changes() -> serde_json::Value {
    json!([
        { "id": "b1", "importMode": "createOrUpdate", "status": "enabled", "authentication": keys() },
        { "id": "d", "importMode": "updateIfMatchETag", "eTag": "AAA=" },
        { "id": "e", "importMode": "delete" },
    ])
}

fn events() -> serde_json::Value {
    json!([
        { "body": "aGVsbG8=", "properties": { "iothub-app-a": "b", "iothub-messageid": "7" } },
        { "body": "x", "base64Encoded": false },
    ])
}

fn enrolment(id: &str) -> serde_json::Value {
    json!({
        "registrationId": id,
        "attestation": {
            "type": "symmetricKey",
            "symmetricKey": { "primaryKey": KEYS[0], "secondaryKey": KEYS[1] },
        },
        "provisioningStatus": "enabled",
        "allocationPolicy": "static",
        "reprovisionPolicy": { "updateHubAssignment": true, "migrateDeviceData": false },
    })
}

const CONDITIONS: [&str; 4] = [
    "deviceId IN ['d','e'] AND NOT (status = 'enabled')",
    "status != 'disabled' OR connectionState = 'Connected'",
    "devices.deviceId = 'dev-1'",
    "NOT deviceId IN ['dev-a'] AND (status = 'Enabled' OR deviceId != 'e')",
];

pub fn queries() -> Vec<Vec<u8>> {
    CONDITIONS.iter().map(|condition| condition.as_bytes().to_vec()).collect()
}

/// For each request that `one::body` knows, in its order.
pub fn bodies() -> Vec<Vec<u8>> {
    let mut existing = identity();
    existing["deviceId"] = json!("d");
    let mut new = identity();
    new["deviceId"] = json!("f");
    let group =
        json!({ "enrollmentGroupId": "g", "attestation": { "type": "symmetricKey", "symmetricKey": {} } });
    let of_all = [
        new,
        existing,
        changes(),
        json!({ "query": "SELECT * FROM devices WHERE status = 'enabled'" }),
        json!({ "policyKey": "primaryKey", "devices": [{ "id": "d" }, { "id": "x", "moduleId": "m" }] }),
        json!({
            "type": "export", "outputBlobContainerUri": "https://plant7.example/jobs/out",
            "excludeKeysInExport": true,
        }),
        enrolment("r"),
        group,
        json!({ "mode": "create", "enrollments": [enrolment("r"), enrolment("s")] }),
        json!({ "query": "SELECT * FROM enrollments" }),
        json!({ "sequenceNumber": 0 }),
        events(),
        json!({ "rights": "RegistryRead, ServiceConnect", "primaryKey": KEYS[0] }),
        json!({ "policyKey": "primaryKey" }),
    ];
    let numbered = (0..).zip(of_all);
    numbered.map(|(kind, body)| [&[kind][..], body.to_string().as_bytes()].concat()).collect()
}

pub fn mqtt() -> Vec<Vec<u8>> {
    let policy = Connect {
        user_name: Some("plant7.example/d/?api-version=2018-06-30"),
        password: Some(b"SharedAccessSignature sr=hub&sig=x&se=1"),
        ..Connect::new("d")
    };
    vec![
        mqtt_conversation(&token("d"), true),
        mqtt_conversation(&token("d"), false),
        packet(&Packet::Connect(policy)),
    ]
}

pub fn stomp() -> Vec<Vec<u8>> {
    let connect = |token: &str, beats: &str| {
        Frame::new("CONNECT")
            .with("accept-version", "1.1,1.2")
            .with("login", "d")
            .with("passcode", token)
            .with("heart-beat", beats)
    };
    let send = |receipt: &str| {
        Frame::new("SEND").with("destination", "/devices/d/messages/events").with("receipt", receipt)
    };
    let subscribe = |mode: &str| {
        Frame::new("SUBSCRIBE")
            .with("destination", "/devices/d/messages/devicebound")
            .with("id", "s")
            .with("ack", mode)
            .with("receipt", "r-s")
    };
    let of_id = |command: &str, id: &str| Frame::new(command).with("id", id).with("receipt", id);
    let rich = send("r:1\n")
        .with("iothub-messageid", "m")
        .with("iothub-expiry", "2030-01-01T00:00:00Z")
        .with("iothub-app-a:b", "c\\d")
        .with("content-type", "text/plain")
        .with("own", "€");
    let commands = |mode: &str| {
        let settled = [of_id("ACK", "2"), of_id("NACK", "3"), of_id("UNSUBSCRIBE", "s")];
        [&[connect(&token("d"), "6000,5000"), subscribe(mode)][..], &settled].concat()
    };
    let bye = Frame::new("DISCONNECT").with("receipt", "bye");
    let conversations = [
        vec![connect(&token("d"), "0,0"), send("r"), rich.with_body(*b"a\0b"), bye.clone()],
        vec![connect(&token("d"), "0,0"), subscribe("auto"), send("r"), bye],
        commands("client"),
        commands("client-individual"),
        vec![connect("SharedAccessSignature sr=x&sig=y&se=1", "0,0"), send("r")],
        vec![connect(&token("d"), "5000,0"), Frame::new("BEGIN").with("transaction", "t")],
    ];
    let said = |frames: &Vec<Frame>| {
        let mut bytes = Vec::new();
        for frame in frames {
            frame.encode(&mut bytes);
            bytes.push(b'\n');
        }
        bytes
    };
    conversations.iter().map(said).collect()
}

/// For each place that `one::text` knows, in its order.
pub fn mqtt_texts() -> Vec<Vec<u8>> {
    let bag =
        "devices/d/messages/events/a=b&%24.mid=1&$.cid=2&$.ct=text%2Fplain&$.exp=2030-01-01T00:00:00Z&c%20d=";
    [
        (0, "plant7.example/d/?api-version=2021-04-12&DeviceClientType=x%2F1&model-id=dtmi:a;1"),
        (1, "d"),
        (1, "d/m"),
        (2, bag),
        (3, bag),
        (3, "$iothub/twin/GET/?$rid=7"),
        (3, "$iothub/twin/PATCH/properties/reported/?$rid=a"),
        (4, "devices/d/messages/devicebound/#"),
        (4, "$iothub/methods/POST/#"),
        (4, "devices/+/messages/devicebound/#"),
        (5, "devices/d/messages/devicebound/#"),
    ]
    .map(|(kind, text)| [&[kind][..], text.as_bytes()].concat())
    .to_vec()
}
