//! Frames made by hand, for what our own client would not say.

use net_amqp::performative::{Begin, Close, Disposition, Flow, Open, Performative, Transfer};
use net_amqp::sasl::SaslFrame;
use net_amqp::{Attach, LinkRole, ReceiverSettleMode, SenderSettleMode, Source, Symbols, Target};

pub const AMQP: &[u8] = b"AMQP\x00\x01\x00\x00";
pub const SASL: &[u8] = b"AMQP\x03\x01\x00\x00";

/// A frame around a body.
pub fn frame(frame_type: u8, channel: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend_from_slice(&[2, frame_type]);
    bytes.extend_from_slice(&channel.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// An AMQP frame whose body `encode` writes.
pub fn amqp(channel: u16, encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    encode(&mut body);
    frame(0, channel, &body)
}

/// A SASL init.
pub fn sasl_init(mechanism: &str, response: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    SaslFrame::Init { mechanism, initial_response: Some(response), hostname: None }.encode(&mut body);
    frame(1, 0, &body)
}

/// An open of a client without wishes.
pub fn open(max_frame_bytes: u32) -> Vec<u8> {
    let open = Open {
        container_id: "client",
        hostname: Some("hub"),
        max_frame_bytes,
        channel_max: 100,
        idle_timeout_ms: None,
        offered_capabilities: Symbols::Absent,
        desired_capabilities: Symbols::Absent,
        properties: None,
    };
    amqp(0, |out| open.encode(out))
}

/// A begin on `channel` with this incoming window.
pub fn begin(channel: u16, incoming_window: u32) -> Vec<u8> {
    let begin = Begin {
        remote_channel: None,
        next_outgoing_id: 0,
        incoming_window,
        outgoing_window: 100,
        handle_max: 1000,
        offered_capabilities: Symbols::Absent,
        desired_capabilities: Symbols::Absent,
        properties: None,
    };
    amqp(channel, |out| begin.encode(out))
}

/// An attach of a peer with this role.
pub fn attach<'a>(name: &'a str, handle: u32, role: LinkRole) -> Attach<'a> {
    Attach {
        name,
        handle,
        role,
        sender_settle_mode: SenderSettleMode::Mixed,
        receiver_settle_mode: ReceiverSettleMode::First,
        source: Some(Source::at("source")),
        target: Some(Target::at("target")),
        unsettled: None,
        incomplete_unsettled: false,
        initial_delivery_count: (role == LinkRole::Sender).then_some(0),
        max_message_bytes: None,
        offered_capabilities: Symbols::Absent,
        desired_capabilities: Symbols::Absent,
        properties: None,
    }
}

pub fn attach_frame(channel: u16, name: &str, handle: u32, role: LinkRole) -> Vec<u8> {
    amqp(channel, |out| attach(name, handle, role).encode(out))
}

/// A transfer with a payload.
pub fn transfer(channel: u16, transfer: &Transfer<'_>, payload: &[u8]) -> Vec<u8> {
    amqp(channel, |out| {
        transfer.encode(out);
        out.extend_from_slice(payload);
    })
}

/// A delivery in one frame.
pub fn delivery(handle: u32, id: u32) -> Transfer<'static> {
    Transfer { handle, delivery_id: Some(id), delivery_tag: Some(b"t"), ..Transfer::default() }
}

/// A flow for the session, or with a handle for a link.
pub fn flow(handle: Option<u32>, link_credit: Option<u32>) -> Flow<'static> {
    Flow {
        next_incoming_id: Some(1),
        incoming_window: 100,
        next_outgoing_id: 0,
        outgoing_window: 100,
        handle,
        link_credit,
        ..Flow::default()
    }
}

/// A disposition of a receiver.
pub fn disposition(first: u32, last: u32) -> Disposition<'static> {
    Disposition {
        role: LinkRole::Receiver,
        first,
        last: Some(last),
        settled: true,
        state: Some(net_amqp::DeliveryState::Accepted),
        batchable: false,
    }
}

pub fn close() -> Vec<u8> {
    amqp(0, |out| Close { error: None }.encode(out))
}

/// The bodies of all frames in `bytes`, a leading header left out, with their channels.
pub fn bodies(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut bodies = Vec::new();
    while !bytes.is_empty() {
        let length = match bytes.starts_with(b"AMQP") {
            true => 8,
            false => u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize,
        };
        let (unit, rest) = bytes.split_at(length);
        bytes = rest;
        if !unit.starts_with(b"AMQP") && unit.len() > 8 && unit[5] == 0 {
            bodies.push((u16::from_be_bytes([unit[6], unit[7]]), &unit[8..]));
        }
    }
    bodies
}

/// The performatives in `bytes`.
pub fn performatives(bytes: &[u8]) -> Vec<Performative<'_>> {
    bodies(bytes).into_iter().map(|(_, body)| Performative::decode(body).expect("our own bytes")).collect()
}
