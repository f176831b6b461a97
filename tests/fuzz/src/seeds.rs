//! What the corpora begin with: conversations as clients hold them, and the same in pieces.

use net_amqp::performative::Transfer;
use net_amqp::sasl::{SaslFrame, plain_response};
use net_amqp::value::Descriptor;
use net_amqp::{LinkRole, MessageBuilder, Properties, Symbols, Value};
use net_mqtt::{ConnAck, ConnectCode, Packet, SubAck};

use crate::client::{
    amqp_opening, attach, begin, delivery, disposition, endings, flow, frame, id, masked, mqtt_conversation,
    open, owner, packet, publish, put_token, token, transfer,
};
use crate::shard::World;

mod hub;

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "amqp_server" => streams(&[amqp_conversation()]),
        "amqp_client" => streams(&[amqp_answers()]),
        "amqp_value" => amqp_values(),
        "amqp_message" => messages(),
        "http" => streams(&http_requests()),
        "websocket" => streams(&[frames()]),
        "mqtt" => streams(&[mqtt_conversation(&token("d"), true), mqtt_answers()]),
        "mqtt_packet" => mqtt_packets(),
        "sas" => tokens(),
        "hub_amqp" => streams(&hub::amqp()),
        "hub_http" => streams(&hub::http()),
        "hub_mqtt" => streams(&hub::mqtt()),
        "hub_stomp" => streams(&hub::stomp()),
        "node" => hub::messages_to_nodes(),
        "mqtt_text" => hub::mqtt_texts(),
        "rest" => hub::bodies(),
        "query" => hub::queries(),
        "log" => damages(),
        "journal" => crate::journal::seeds(&World::furnished()),
        "snapshot" => vec![crate::journal::snapshot_seed()],
        _ => Vec::new(),
    }
}

/// Each stream in two cuts, with two moods of the caller.
fn streams(streams: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let heads = [[3, 0], [2, 5]];
    streams.iter().flat_map(|stream| heads.map(|head| [&head[..], stream].concat())).collect()
}

fn amqp_conversation() -> Vec<u8> {
    let mut units = amqp_opening("PLAIN", &plain_response("user", "password"));
    units.extend([
        begin(1, None),
        attach(0, "events", 0, LinkRole::Sender, "events"),
        attach(0, "reader", 1, LinkRole::Receiver, "events"),
        attach(1, "events", 0, LinkRole::Receiver, "events"),
        flow(0, Some(1), Some(20), false),
        flow(1, Some(0), Some(5), true),
    ]);
    for message in messages().into_iter().take(2) {
        units.push(transfer(0, &delivery(0, 0), &message));
        units.push(transfer(0, &delivery(0, 1), &message));
    }
    units.push(transfer(0, &Transfer { more: true, ..delivery(0, 4) }, &[0; 50]));
    units.push(transfer(0, &Transfer { aborted: true, ..delivery(0, 4) }, &[]));
    units.extend([disposition(LinkRole::Receiver, 5), flow(0, None, None, false), frame(0, 0, |_| ())]);
    units.extend(endings(0));
    units.concat()
}

/// What a server says to a client that does what the target `amqp_client` does.
fn amqp_answers() -> Vec<u8> {
    let mechanisms = frame(1, 0, |out| SaslFrame::Mechanisms(Symbols::Listed(&["ANONYMOUS"])).encode(out));
    let outcome = [0, 0, 0, 16, 2, 1, 0, 0, 0, 0x53, 0x44, 0xc0, 3, 1, 0x50, 0];
    let mut units = vec![b"AMQP\x03\x01\x00\x00".to_vec(), mechanisms, outcome.to_vec()];
    units.extend([b"AMQP\x00\x01\x00\x00".to_vec(), open(), begin(0, Some(0)), begin(1, Some(1))]);
    for channel in [0, 1] {
        units.push(attach(channel, "out", 0, LinkRole::Receiver, "events"));
        units.push(attach(channel, "in", 1, LinkRole::Sender, "hub/0"));
        units.push(flow(channel, Some(0), Some(3), channel == 1));
        units.push(transfer(channel, &delivery(1, 0), b"\x00\x53\x75\xa0\x01x"));
    }
    units.push(disposition(LinkRole::Receiver, 2));
    units.extend(endings(0));
    units.concat()
}

fn amqp_values() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = [
        Value::Null,
        Value::Bool(true),
        Value::Ubyte(7),
        Value::Uint(0),
        Value::Ulong(1 << 40),
        Value::Int(-1),
        Value::Long(i64::MIN),
        Value::Double(21.5),
        Value::Char('é'),
        Value::Timestamp(1_795_000_000_000),
        Value::Uuid([3; 16]),
        Value::Binary(b"bytes"),
        Value::String("text"),
        Value::Symbol("amqp:accepted:list"),
    ]
    .iter()
    .map(|value| {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        bytes
    })
    .collect();
    let mut described = vec![0];
    net_amqp::value::encode::descriptor(
        &mut described,
        Descriptor::Symbol("apache.org:selector-filter:string"),
    );
    described.extend_from_slice(&values[12]);
    values.push(described);
    values.push(b"\xc1\x0b\x04\xa3\x01a\x54\x05\xa3\x01b\x43".to_vec());
    values.push(b"\xe0\x07\x03\xa3\x01a\x01b\x01c".to_vec());
    values.push(b"\xf0\0\0\0\x0d\0\0\0\x02\x00\x53\x24\x71\0\0\0\x01\0\0\0\x02".to_vec());
    values.push(b"\xc0\x0a\x03\x45\xc0\x05\x02\x41\x52\x09\x40".to_vec());
    let units = [
        open(),
        begin(0, Some(1)),
        attach(0, "n", 0, LinkRole::Sender, "a"),
        flow(0, Some(1), Some(2), true),
    ];
    values.extend(units.iter().map(|unit| unit[8..].to_vec()));
    values.push(disposition(LinkRole::Receiver, 5)[8..].to_vec());
    values
}

fn messages() -> Vec<Vec<u8>> {
    let properties = Properties {
        message_id: Some(Value::Uuid([3; 16])),
        user_id: Some(b"user"),
        to: Some("/devices/d/messages/events"),
        correlation_id: Some(Value::String("c")),
        content_type: Some("application/json"),
        absolute_expiry_time_ms: Some(1_795_000_000_000),
        ..Properties::default()
    };
    let rich = MessageBuilder::default()
        .header(Default::default())
        .message_annotation("x-opt-partition-key", Value::String("key"))
        .properties(properties)
        .application_property("temperature", Value::Double(21.5))
        .data(b"body")
        .encode();
    let two = [&rich[..], b"\x00\x53\x75\xa0\x02xy", b"\x00\x53\x78\xc1\x01\x00"].concat();
    vec![
        MessageBuilder::default().data(b"body").encode(),
        rich,
        two,
        put_token(&token("d")),
        b"\x00\x53\x76\xc0\x03\x01\x54\x05\x00\x53\x76\x45".to_vec(),
        Vec::new(),
    ]
}

fn http_requests() -> Vec<Vec<u8>> {
    [
        "GET /devices/a%23b?api-version=2021-04-12 HTTP/1.1\r\nHost: hub\r\nAccept: a, b\r\n\r\n\
         PUT /devices/d HTTP/1.1\r\nHost: hub\r\nContent-Length: 5\r\n\r\nhello",
        "POST /x HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nT: r\r\n\r\n\
         HEAD / HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: hub\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc\
         GET https://hub/devices/%2e%2e/x?top=5&reject HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /$iothub/websocket HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn frames() -> Vec<u8> {
    [
        masked(0x82, b"hello"),
        masked(0x02, b"in "),
        masked(0x89, b"ping"),
        masked(0x80, b"parts"),
        masked(0x82, &[7; 200]),
        masked(0x8a, b""),
        masked(0x88, b"\x03\xe8bye"),
    ]
    .concat()
}

fn mqtt_answers() -> Vec<u8> {
    [
        packet(&Packet::ConnAck(ConnAck { session_present: true, code: ConnectCode::Accepted })),
        packet(&Packet::SubAck(SubAck { id: id(1), codes: &[0, 1, SubAck::REFUSED] })),
        publish("devices/d/messages/devicebound/%24.mid=m", b"go", 2),
        packet(&Packet::PingResp),
        packet(&Packet::UnsubAck(id(7))),
    ]
    .concat()
}

fn mqtt_packets() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for conversation in [mqtt_conversation("password", true), mqtt_answers()] {
        let mut rest = &conversation[..];
        while let Ok(Some(header)) = net_mqtt::packet::Header::decode(rest) {
            let (packet, tail) = rest.split_at(header.packet_bytes());
            packets.push(packet.to_vec());
            rest = tail;
        }
    }
    packets
}

fn tokens() -> Vec<Vec<u8>> {
    let of_clients = [
        (
            "127.0.0.5%2Fdevices%2FDev%201",
            1_795_294_683_u64,
            "CwULrIyiCXxs6ntAnvyx2smrVwMKwRJE9+acdc1t5g8=",
            "",
        ),
        ("localhost", 1_795_294_458, "aM5/y8KfulpsIqBh2bVfwesMsfbHra0We6q8f9+cT90=", "&skn=iothubowner"),
        (
            "sb%3A%2F%2Flocalhost%3A15672%2Fmyeh",
            1_795_294_206,
            "ilvnNJ8fTuWqYFyO6+Vrj5q/4U0w9O0ZtMf7xcDcDH4=",
            "&skn=service",
        ),
    ];
    let mut tokens = vec![token("d"), owner()];
    for (resource, expiry, signature, policy) in of_clients {
        let escaped = signature.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D");
        tokens.push(format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry}{policy}"));
        tokens.push(format!("SharedAccessSignature SE={expiry}{policy}&Sig={escaped}&x=y&sR={resource}"));
    }
    tokens.into_iter().map(String::into_bytes).collect()
}

fn damages() -> Vec<Vec<u8>> {
    let mut damages = vec![vec![0], vec![1]];
    for kind in 0..8 {
        for place in [[0, 0, 0], [0, 16, 0], [0, 32, 0], [40, 65, 0]] {
            let [at0, at1, at2] = place;
            damages.push(vec![kind & 1, kind, kind + 1, at0, at1, at2, 60, 5, 9]);
            damages.push(vec![1, kind, 2, at0, at1, at2, 60, 5, 9, 3, 1, at0, at1, at2, 1, 1, 1]);
        }
    }
    damages.push(vec![0, 255, 1, 0, 0, 0, 0, 0, 0]);
    damages
}
