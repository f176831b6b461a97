//! The way in by an HTTP connection's stack, and frames in all cuts around a binding.

use std::net::SocketAddr;

use engine::door::{Busy, Door};
use engine::request::{AppendView, Caller, ConnectionId, CoreId, Request, SecretText};
use segment_log::Now;

use super::*;
use crate::binding::HubInfo;
use crate::binding::echo::Echo;
use crate::binding::http::HttpBinding;

/// A door that remembers what was asked.
#[derive(Default)]
struct Asked(Vec<Request>);

impl Door for Asked {
    fn ask(&mut self, _caller: Caller, request: Request) -> Result<(), Busy> {
        self.0.push(request);
        Ok(())
    }

    fn append(&mut self, _caller: Caller, _append: AppendView<'_>) -> Result<(), Busy> {
        Err(Busy)
    }
}

fn hub_info() -> HubInfo {
    HubInfo { administration_token: SecretText::new("administrator"), ..HubInfo::new("hub", "hub.test", 1) }
}

fn with_context<T>(door: &mut Asked, call: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let info = hub_info();
    call(&mut Context {
        door,
        connection: ConnectionId { core: CoreId(0), slot: 0, generation: 0 },
        now: Now { wall_ms: 0, mono_ms: 0 },
        hub: &info,
        transport: Transport::Tls,
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        output_pending_bytes: 0,
        refused_logins: Vec::new(),
    })
}

/// What a request for a WebSocket is answered with, and what speaks from then on.
fn upgrade(request: &str) -> (String, Option<Box<dyn Binding>>) {
    with_context(&mut Asked::default(), |hub| {
        let mut http = HttpBinding::new(hub);
        let (mut input, mut output) = (request.as_bytes(), Vec::new());
        let _ = http.handle_bytes(&mut input, &mut output, hub);
        assert!(http.is_finished());
        (String::from_utf8(output).unwrap(), http.take_successor())
    })
}

fn request(path: &str, protocol: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: hub.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
}

#[test]
fn the_paths_and_protocols_of_all_clients() {
    for (path, protocol, expected) in [
        ("/$iothub/websocket", "AMQPWSB10", Some("AMQPWSB10")),
        ("/$iothub/websocket?iothub-no-client-cert=true", "AMQPWSB10", Some("AMQPWSB10")),
        ("/$servicebus/websocket", "AMQPWSB10", Some("AMQPWSB10")),
        ("/$servicebus/websocket/", "AMQPWSB10", Some("AMQPWSB10")),
        ("/%24iothub/WebSocket", "mqtt", Some("mqtt")),
        ("/$iothub/websocket", "x, mqtt, AMQPWSB10", Some("mqtt")),
        ("/$servicebus/websocket", "mqtt, AMQPWSB10", Some("AMQPWSB10")),
        ("/$servicebus/websocket", "mqtt", None),
        ("/$iothub/websocket", "chat", None),
    ] {
        let (answer, successor) = upgrade(&request(path, protocol));
        match expected {
            Some(protocol) => {
                assert!(
                    answer.starts_with("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"),
                    "{answer}"
                );
                assert!(answer.contains(&format!("\r\nSec-WebSocket-Protocol: {protocol}\r\n")), "{answer}");
                assert!(
                    answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
                    "{answer}"
                );
                assert!(!answer.contains("Content-Length") && answer.ends_with("\r\n\r\n"), "{answer}");
            }
            None => assert!(answer.starts_with("HTTP/1.1 400 "), "{path} {protocol}: {answer}"),
        }
        assert_eq!(successor.is_some(), expected.is_some(), "{path} {protocol}");
    }
}

#[test]
fn what_is_no_opening_is_told_what_would_be() {
    let good = request("/$iothub/websocket", "AMQPWSB10");
    for (from, to, status) in [
        ("Upgrade: websocket\r\n", "", "426"),
        ("Version: 13", "Version: 7", "426"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "short", "400"),
        ("Host: hub.test\r\n", "Host: hub.test\r\nContent-Length: 3\r\n", "400"),
    ] {
        let (answer, successor) = upgrade(&good.replace(from, to));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && successor.is_none(), "{answer}");
        assert_eq!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n"), status == "426", "{answer}");
    }
}

/// A client's frame around `payload`, whose head says `first`.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [9, 8, 7, 6];
    assert!(payload.len() <= 125);
    let mut bytes = vec![first, 0x80 | payload.len() as u8];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

#[test]
fn a_binding_inside_sees_a_stream() {
    let header = b"AMQP\x00\x01\x00\x00";
    // Split over frames, with a ping between, as a fragmented message and as two.
    let split = [frame(0x02, &header[..3]), frame(0x89, b"?"), frame(0x80, &header[3..])].concat();
    let joined = frame(0x82, header);
    for said in [split, joined] {
        for chunk_bytes in [1, 5, said.len()] {
            let (_, successor) = upgrade(&request("/$iothub/websocket", "AMQPWSB10"));
            let mut binding = successor.unwrap();
            let mut output = Vec::new();
            with_context(&mut Asked::default(), |hub| {
                for chunk in said.chunks(chunk_bytes) {
                    binding.handle_bytes(&mut &chunk[..], &mut output, hub).unwrap();
                    binding.handle_turn_end(&mut output, hub);
                }
                assert_eq!(hub.transport, Transport::WebSocket);
            });
            let answer = [&b"\x82\x08"[..], header].concat();
            assert!(output.ends_with(&answer), "{output:x?}");
            assert_eq!(output.len() - answer.len(), if said.len() > 20 { 3 } else { 0 }, "{output:x?}");
        }
    }
}

/// The protocol of the one login that was asked about.
fn asked_protocol(door: &Asked) -> engine::monitor::Protocol {
    let [Request::Authenticate { protocol, .. }] = &door.0[..] else { panic!("{:?}", door.0) };
    *protocol
}

#[test]
fn the_token_says_how_the_device_came() {
    use net_amqp::sasl::{SaslFrame, plain_response};
    use net_mqtt::{Connect, Packet};
    let key = registry::DeviceKey::from_bytes(&[1; 32]).unwrap();
    let token = registry::sas::sign("hub.test/devices/d", &key, registry::KeyForm::Decoded, 9, None);
    let mut connect = Vec::new();
    let packet =
        Connect { user_name: Some("hub.test/d/"), password: Some(token.as_bytes()), ..Connect::new("d") };
    Packet::Connect(packet).encode(&mut connect);
    let (_, successor) = upgrade(&request("/$iothub/websocket", "mqtt"));
    let mut binding = successor.unwrap();
    let mut door = Asked::default();
    let mut output = Vec::new();
    with_context(&mut door, |hub| {
        for piece in connect.chunks(100) {
            let bytes = frame(0x82, piece);
            binding.handle_bytes(&mut &bytes[..], &mut output, hub).unwrap();
        }
        assert!(!binding.wants_input(), "until the token is verified");
        binding.begin_stop(&mut output, hub);
    });
    assert_eq!(asked_protocol(&door), engine::monitor::Protocol::MqttsWebSocket);
    assert_eq!(output, b"\x82\x04\x20\x02\x00\x03\x88\x02\x03\xe9", "unavailable, and going away");
    assert!(binding.is_finished());

    let mut init = vec![0, 0, 0, 0, 2, 1, 0, 0];
    let response = plain_response("d@sas.hub", &token);
    SaslFrame::Init { mechanism: "PLAIN", initial_response: Some(&response), hostname: None }
        .encode(&mut init);
    init[3] = init.len() as u8;
    let (_, successor) = upgrade(&request("/$iothub/websocket", "AMQPWSB10"));
    let mut binding = successor.unwrap();
    let mut door = Asked::default();
    with_context(&mut door, |hub| {
        for piece in [&b"AMQP\x03\x01\x00\x00"[..], &init].concat().chunks(100) {
            binding.handle_bytes(&mut &frame(0x82, piece)[..], &mut Vec::new(), hub).unwrap();
        }
    });
    assert_eq!(asked_protocol(&door), engine::monitor::Protocol::AmqpsWebSocket);
}

#[test]
fn a_goodbye_is_answered_and_a_fault_is_named() {
    for (said, answer, is_fault) in [
        (frame(0x88, b"\x03\xe8"), &b"\x88\x02\x03\xe8"[..], false),
        (vec![0x82, 0x00], b"\x88\x02\x03\xea", true),
        (vec![0x81], b"\x88\x02\x03\xeb", true),
    ] {
        let (_, successor) = upgrade(&request("/$iothub/websocket", "mqtt"));
        let mut binding = successor.unwrap();
        let mut output = Vec::new();
        let result =
            with_context(&mut Asked::default(), |hub| binding.handle_bytes(&mut &said[..], &mut output, hub));
        assert_eq!((result.is_err(), &output[..]), (is_fault, answer), "{said:x?}");
        assert!(binding.is_finished());
    }
}

/// A stream in frames, and the body of the close frame behind it.
type Heard = (Vec<u8>, Option<Vec<u8>>);

/// What a hub's short frames say.
fn unframed(mut output: &[u8]) -> Heard {
    let mut stream = Vec::new();
    while let [first, length, rest @ ..] = output {
        let (payload, rest) = rest.split_at(usize::from(*length));
        output = rest;
        match first {
            0x82 => stream.extend_from_slice(payload),
            0x88 => {
                assert!(output.is_empty(), "nothing follows a close frame: {output:x?}");
                return (stream, Some(payload.to_vec()));
            }
            other => panic!("a frame {other:x}"),
        }
    }
    (stream, None)
}

/// What a socket around an [`Echo`] says to this in one read, then to each of so many replies. Whether it is finished then.
fn echoed(said: &[u8], reply_count: u64) -> (Vec<Heard>, bool) {
    let mut binding = WebSocketBinding::new(Box::new(Echo::default()));
    with_context(&mut Asked::default(), |hub| {
        let mut output = Vec::new();
        binding.handle_bytes(&mut &said[..], &mut output, hub).unwrap();
        let mut heard = vec![unframed(&output)];
        for token in 1..=reply_count {
            assert!(!binding.wants_input() && !binding.is_finished(), "there is more to be heard");
            let mut output = Vec::new();
            binding.handle_reply(token, Reply::Done, &mut output, hub);
            heard.push(unframed(&output));
        }
        assert_eq!(binding.wants_input(), !binding.is_finished());
        (heard, binding.is_finished())
    })
}

#[test]
fn joined_words_wait_in_order() {
    let one = frame(0x82, b"a!b!c");
    let three = [frame(0x82, b"a!"), frame(0x82, b"b!"), frame(0x82, b"c")].concat();
    for said in [one, three] {
        let (heard, is_finished) = echoed(&said, 2);
        let expected: [&[u8]; 3] = [b"a!", b"[1]b!", b"[2]c"];
        assert_eq!(heard, expected.map(|stream| (stream.to_vec(), None)));
        assert!(!is_finished);
    }
}

#[test]
fn words_in_front_of_a_goodbye_are_heard() {
    let goodbye = frame(0x88, b"\x03\xe9");
    let answer = Some(b"\x03\xe9".to_vec());
    let said = [frame(0x82, b"a!"), frame(0x82, b"b!c"), goodbye.clone(), frame(0x82, b"too late")].concat();
    let (heard, is_finished) = echoed(&said, 2);
    let expected = [(b"a!".to_vec(), None), (b"[1]b!".to_vec(), None), (b"[2]c".to_vec(), answer.clone())];
    assert_eq!(heard, expected);
    assert!(is_finished);
    // What is inside ends by itself, or has something in work but nothing more to hear.
    for words in [b"a.", b"a!"] {
        let (heard, is_finished) = echoed(&[frame(0x82, words), goodbye.clone()].concat(), 0);
        assert_eq!(heard, [(words.to_vec(), answer.clone())]);
        assert!(is_finished);
    }
}

#[test]
fn a_stop_cuts_the_wait_for_a_goodbye_short() {
    let mut binding = WebSocketBinding::new(Box::new(Echo::default()));
    with_context(&mut Asked::default(), |hub| {
        let mut output = Vec::new();
        let said = [frame(0x82, b"a!b"), frame(0x88, b"\x03\xe8")].concat();
        binding.handle_bytes(&mut &said[..], &mut output, hub).unwrap();
        assert!(!binding.is_finished());
        binding.begin_stop(&mut output, hub);
        assert_eq!(unframed(&output), (b"a!stop".to_vec(), Some(b"\x03\xe8".to_vec())));
        assert!(binding.is_finished());
    });
}

#[test]
fn good_frames_in_front_of_a_fault_count() {
    let mut binding = WebSocketBinding::new(Box::new(Echo::default()));
    let mut output = Vec::new();
    let said = [frame(0x82, b"good"), vec![0x82, 0x00]].concat();
    let result =
        with_context(&mut Asked::default(), |hub| binding.handle_bytes(&mut &said[..], &mut output, hub));
    assert_eq!(result, Err(Closing::fault("a frame without mask")));
    assert_eq!(unframed(&output), (b"good".to_vec(), Some(b"\x03\xea".to_vec())));
    assert!(binding.is_finished());
}
