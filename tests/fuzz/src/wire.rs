//! What we say must be read: frames, packets and responses.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use net::binding::stomp::frame::{Inbound, Limits};
use net_amqp::performative::Performative;
use net_amqp::sasl::SaslFrame;
use net_mqtt::Packet;
use net_mqtt::packet::Header;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

/// Headers and frames, each with a performative.
pub fn check_amqp(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let length = match bytes.starts_with(b"AMQP") {
            true => 8,
            false => u32::from_be_bytes(*bytes.first_chunk().expect("a frame has a size")) as usize,
        };
        let (unit, rest) = bytes.split_at_checked(length).expect("a frame of ours is whole");
        bytes = rest;
        if unit.starts_with(b"AMQP") || length == 8 {
            continue;
        }
        assert_eq!(unit[4], 2, "no extended header");
        match unit[5] {
            0 => assert!(Performative::decode(&unit[8..]).is_ok(), "a performative of ours"),
            _ => assert!(SaslFrame::decode(&unit[8..]).is_ok(), "a SASL frame of ours"),
        }
    }
}

/// Packets, also to the other implementation.
pub fn check_mqtt(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let header = Header::decode(bytes).expect("a header of ours").expect("whole");
        let (packet, rest) = bytes.split_at(header.packet_bytes());
        Packet::decode(header.first, &packet[header.header_bytes..]).expect("a packet of ours");
        let read = mqttbytes::v4::read(&mut BytesMut::from(packet), packet.len() + 1);
        assert!(read.is_ok(), "the other implementation reads it: {read:?}");
        bytes = rest;
    }
}

/// Frames, and line ends between them, written as they would be again.
pub fn check_stomp(mut bytes: &[u8]) {
    let limits = Limits { head_bytes_max: 1 << 16, body_bytes_max: 1 << 16 };
    let mut inbound = Inbound::default();
    while let [first, rest @ ..] = bytes {
        if *first == b'\n' {
            bytes = rest;
            continue;
        }
        let start = bytes;
        let mut frame = inbound.next(&mut bytes, limits).expect("a frame of ours").expect("whole");
        assert!(["CONNECTED", "RECEIPT", "MESSAGE", "ERROR"].contains(&&*frame.command), "{}", frame.command);
        frame.headers.retain(|(name, _)| name != "content-length");
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(again, start[..start.len() - bytes.len()], "what is read is what was written");
    }
}

/// What a response says.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body, where that is JSON.
    pub body: serde_json::Value,
}

/// Responses, with JSON where they say so. Behind a switch of protocols come frames, which the other implementation reads too, with
/// what the new protocol says in them.
pub fn read_responses(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head_bytes) = response.parse(bytes).expect("a response of ours")
        else {
            panic!("a response of ours is whole");
        };
        let field = |name: &str| {
            let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| std::str::from_utf8(header.value).expect("a field of ours is text"))
        };
        bytes = &bytes[head_bytes..];
        let status = response.code.expect("parsed");
        let mut body = serde_json::Value::Null;
        match status {
            100 => continue,
            101 => {
                let data = unframe(bytes);
                match field("sec-websocket-protocol").expect("what was asked for") {
                    "mqtt" => check_mqtt(&data),
                    _ => check_amqp(&data),
                }
                bytes = &[];
            }
            204 | 304 => {}
            _ => {
                let length: usize = field("content-length").expect("a length").parse().expect("a number");
                // What answers HEAD has a length and no body: the next response follows, or nothing.
                if !bytes.is_empty() && !bytes.starts_with(b"HTTP/1.1 ") {
                    let (said, rest) = bytes.split_at_checked(length).expect("a body of ours is whole");
                    if field("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
                        body = serde_json::from_slice(said).expect("JSON of ours");
                    }
                    bytes = rest;
                }
            }
        }
        answers.push(Answer { status, body });
    }
    answers
}

/// The stream in a server's frames.
fn unframe(bytes: &[u8]) -> Vec<u8> {
    let mut peer = WebSocket::from_raw_socket(Heard(bytes), Role::Client, None);
    let mut data = Vec::new();
    loop {
        match peer.read() {
            Ok(Message::Binary(piece)) => data.extend_from_slice(&piece),
            Ok(Message::Close(_) | Message::Ping(_) | Message::Pong(_)) => {}
            Ok(other) => panic!("a frame that we never send: {other:?}"),
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => return data,
            Err(tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return data,
            Err(error) => panic!("the other implementation refuses a frame of ours: {error}"),
        }
    }
}

/// What was said before the end; answers go nowhere.
struct Heard<'a>(&'a [u8]);

impl Read for Heard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Heard<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
