//! The words of clients, of which conversations are put together: for targets that ask one thing behind a good beginning, and for
//! seeds.

use net_amqp::performative::{Begin, Close, Detach, Disposition, End, Flow, Open, Transfer};
use net_amqp::sasl::SaslFrame;
use net_amqp::{
    Attach, DeliveryState, LinkRole, MessageBuilder, Properties, ReceiverSettleMode, SenderSettleMode,
    Source, Symbols, Target, Value,
};
use net_mqtt::packet::{encode_subscribe, encode_unsubscribe};
use net_mqtt::{Connect, Packet, PacketId, Publish, Qos, Will};
use registry::{KeyForm, sas};

use crate::sas::{START_S, key};

pub fn token(id: &str) -> String {
    sas::sign(&format!("plant7.example/devices/{id}"), &key(1), KeyForm::Decoded, START_S + 3600, None)
}

pub fn owner() -> String {
    sas::sign("plant7.example", &key(1), KeyForm::Decoded, START_S + 3600, Some("owner"))
}

/// What the holder of the administrator's token authorizes itself with over HTTPS.
pub const ADMINISTRATOR: &str = "Bearer administrator";

pub fn frame(frame_type: u8, channel: u16, encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, 2, frame_type];
    bytes.extend_from_slice(&channel.to_be_bytes());
    encode(&mut bytes);
    let size = (bytes.len() as u32).to_be_bytes();
    bytes[..4].copy_from_slice(&size);
    bytes
}

pub fn amqp_opening(mechanism: &str, response: &[u8]) -> Vec<Vec<u8>> {
    let init =
        SaslFrame::Init { mechanism, initial_response: Some(response), hostname: Some("plant7.example") };
    vec![
        b"AMQP\x03\x01\x00\x00".to_vec(),
        frame(1, 0, |out| init.encode(out)),
        b"AMQP\x00\x01\x00\x00".to_vec(),
        open(),
        begin(0, None),
    ]
}

pub fn open() -> Vec<u8> {
    let open = Open {
        container_id: "client",
        hostname: Some("plant7.example"),
        max_frame_bytes: 65536,
        channel_max: 100,
        idle_timeout_ms: Some(60_000),
        offered_capabilities: Symbols::Absent,
        desired_capabilities: Symbols::Absent,
        properties: None,
    };
    frame(0, 0, |out| open.encode(out))
}

pub fn begin(channel: u16, remote_channel: Option<u16>) -> Vec<u8> {
    let begin = Begin {
        remote_channel,
        next_outgoing_id: 0,
        incoming_window: 100,
        outgoing_window: 100,
        handle_max: 1000,
        offered_capabilities: Symbols::Absent,
        desired_capabilities: Symbols::Absent,
        properties: None,
    };
    frame(0, channel, |out| begin.encode(out))
}

pub fn attach(channel: u16, name: &str, handle: u32, role: LinkRole, address: &str) -> Vec<u8> {
    let attach = Attach {
        name,
        handle,
        role,
        sender_settle_mode: SenderSettleMode::Mixed,
        receiver_settle_mode: ReceiverSettleMode::First,
        source: Some(Source::at(address)),
        target: Some(Target::at(address)),
        unsettled: None,
        incomplete_unsettled: false,
        initial_delivery_count: (role == LinkRole::Sender).then_some(0),
        max_message_bytes: None,
        offered_capabilities: Symbols::Absent,
        desired_capabilities: Symbols::Absent,
        properties: None,
    };
    frame(0, channel, |out| attach.encode(out))
}

pub fn flow(channel: u16, handle: Option<u32>, link_credit: Option<u32>, drain: bool) -> Vec<u8> {
    let flow = Flow {
        next_incoming_id: Some(1),
        incoming_window: 100,
        next_outgoing_id: 0,
        outgoing_window: 100,
        handle,
        link_credit,
        delivery_count: link_credit.map(|_| 0),
        drain,
        ..Flow::default()
    };
    frame(0, channel, |out| flow.encode(out))
}

pub fn transfer(channel: u16, transfer: &Transfer<'_>, payload: &[u8]) -> Vec<u8> {
    frame(0, channel, |out| {
        transfer.encode(out);
        out.extend_from_slice(payload);
    })
}

pub fn delivery(handle: u32, id: u32) -> Transfer<'static> {
    Transfer { handle, delivery_id: Some(id), delivery_tag: Some(b"t"), ..Transfer::default() }
}

pub fn disposition(role: LinkRole, last: u32) -> Vec<u8> {
    let state = Some(DeliveryState::Accepted);
    let disposition =
        Disposition { role, first: 0, last: Some(last), settled: true, state, batchable: false };
    frame(0, 0, |out| disposition.encode(out))
}

pub fn endings(channel: u16) -> Vec<Vec<u8>> {
    vec![
        frame(0, channel, |out| Detach { handle: 1, closed: true, error: None }.encode(out)),
        frame(0, channel, |out| End { error: None }.encode(out)),
        frame(0, 0, |out| Close { error: None }.encode(out)),
    ]
}

pub fn put_token(token: &str) -> Vec<u8> {
    MessageBuilder::default()
        .properties(Properties { message_id: Some(Value::String("m")), ..Properties::default() })
        .application_property("operation", Value::String("put-token"))
        .application_property("type", Value::String("servicebus.windows.net:sastoken"))
        .application_property("name", Value::String("plant7.example/devices/d"))
        .value(Value::String(token))
        .encode()
}

/// An AMQP client that puts a token, attaches these links, and sends these messages on each that it sends by: unit by unit, so
/// that each may wait for its answer.
pub fn amqp_units(
    token: &str,
    links: &[(LinkRole, &str)],
    message_format: u32,
    messages: &[&[u8]],
) -> Vec<Vec<u8>> {
    let mut units = amqp_opening("ANONYMOUS", b"");
    units.push(attach(0, "cbs-in", 0, LinkRole::Receiver, "$cbs"));
    units.push(attach(0, "cbs-out", 1, LinkRole::Sender, "$cbs"));
    units.push(flow(0, Some(0), Some(10), false));
    units.push(transfer(0, &delivery(1, 0), &put_token(token)));
    units.push(begin(1, None));
    for (handle, (role, address)) in links.iter().enumerate() {
        let handle = handle as u32;
        units.push(attach(1, address, handle, *role, address));
        match role {
            LinkRole::Receiver => units.push(flow(1, Some(handle), Some(10), false)),
            LinkRole::Sender => units.extend(messages.iter().enumerate().map(|(id, message)| {
                let delivery =
                    Transfer { message_format: Some(message_format), ..delivery(handle, id as u32) };
                transfer(1, &delivery, message)
            })),
        }
    }
    units.push(disposition(LinkRole::Receiver, 5));
    units.extend(endings(1));
    units
}

/// A request of HTTP/1.1.
pub fn request(authorization: &str, line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: plant7.example\r\nAuthorization: {authorization}\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A client's frame.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

pub fn packet(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(&mut bytes);
    bytes
}

pub fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("not zero")
}

pub fn publish(topic: &str, payload: &[u8], number: u16) -> Vec<u8> {
    let (qos, id) = match number {
        0 => (Qos::AtMostOnce, None),
        number => (Qos::AtLeastOnce, Some(id(number))),
    };
    packet(&Packet::Publish(Publish { topic, payload, qos, id, duplicate: false, retain: number == 3 }))
}

pub fn mqtt_conversation(password: &str, with_will: bool) -> Vec<u8> {
    let will = Will {
        topic: "devices/d/messages/events/w=1",
        payload: b"gone",
        qos: Qos::AtLeastOnce,
        retain: true,
    };
    let connect = Connect {
        will: with_will.then_some(will),
        user_name: Some("plant7.example/d/?api-version=2021-04-12&DeviceClientType=x%2F1"),
        password: Some(password.as_bytes()),
        keep_alive_s: 60,
        clean_session: with_will,
        ..Connect::new("d")
    };
    let mut units = packet(&Packet::Connect(connect));
    encode_subscribe(
        id(1),
        &[("devices/d/messages/devicebound/#", Qos::AtLeastOnce), ("x/+", Qos::AtMostOnce)],
        &mut units,
    );
    units.extend(publish("devices/d/messages/events/", b"one", 0));
    units.extend(publish("devices/d/messages/events/a=b&%24.mid=1&%24.ct=text%2Fplain&c%20d=", b"two", 2));
    units.extend(publish(
        "devices/d/messages/events/$.cid=9&$.exp=2030-01-01T00:00:00Z&$.on=x/",
        b"three",
        3,
    ));
    units.extend(packet(&Packet::PubAck(id(1))));
    units.extend(packet(&Packet::PingReq));
    encode_unsubscribe(id(30), &["devices/d/messages/devicebound/#"], &mut units);
    units.extend(packet(&Packet::Disconnect));
    units
}
