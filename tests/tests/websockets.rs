//! WebSockets at the real program: what is refused, openings that lead nowhere, and words that arrive together.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net_mqtt::{Connect, Packet, PacketId, Publish, Qos, Will};
use rustls::ClientConfig;
use tests::hub::Hub;
use tests::mqtt::Stream;
use tests::namespace::{Needs, run};
use tests::service::Device;
use tests::telemetry::{stored, stored_now};
use tests::{https, mqtt, sas};

/// Let in, without a kept session.
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: [u8; 2] = [0xd0, 0];

fn connect(hub: &Hub, tls: &Arc<ClientConfig>) -> Stream {
    https::connect(&hub.host(), 443, Arc::clone(tls)).expect("the hub listens")
}

fn opening(path: &str, protocol: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
}

/// The answer up to its blank line.
fn read_head(stream: &mut Stream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("heads are text")
}

/// A socket on which MQTT is spoken.
fn mqtt_socket(hub: &Hub, tls: &Arc<ClientConfig>) -> Stream {
    let mut stream = connect(hub, tls);
    stream.write_all(opening("/$iothub/websocket", "mqtt").as_bytes()).expect("the hub takes it");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    stream
}

/// A client's frame, whose head says `first`, of a payload below 64 KiB.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 8, 9, 10];
    let length = u16::try_from(payload.len()).expect("short");
    let mut bytes = match u8::try_from(length) {
        Ok(length @ ..126) => vec![first, 0x80 | length],
        _ => [&[first, 0x80 | 126][..], &length.to_be_bytes()].concat(),
    };
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A device's own token.
fn token(hub: &Hub, device: &Device) -> String {
    let resource = format!("{}/devices/{}", hub.host(), device.id);
    sas::token(&resource, &device.key, sas::now_s() + 3600, None)
}

/// A client's packet.
fn packet(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(&mut bytes);
    bytes
}

/// A PUBLISH to the device's events, with a number if it is to be acknowledged.
fn event(device: &str, body: &str, number: Option<u16>) -> Vec<u8> {
    packet(&Packet::Publish(Publish {
        topic: &format!("devices/{device}/messages/events/"),
        payload: body.as_bytes(),
        qos: if number.is_some() { Qos::AtLeastOnce } else { Qos::AtMostOnce },
        id: number.and_then(PacketId::new),
        duplicate: false,
        retain: false,
    }))
}

/// The stream of the hub's frames up to so many bytes; each frame is short.
fn read_stream(stream: &mut Stream, count: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let mut head = [0; 2];
        stream.read_exact(&mut head).expect("a frame");
        assert!(head[0] == 0x82 && head[1] < 126, "a frame {head:x?} behind {heard:x?}");
        let start = heard.len();
        heard.resize(start + usize::from(head[1]), 0);
        stream.read_exact(&mut heard[start..]).expect("a whole frame");
    }
    heard
}

/// All that a stream brings to its end, which the hub makes in good order.
fn read_end(stream: &mut Stream) -> Vec<u8> {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("the hub ends it");
    heard
}

/// Whether a stranger still gets an answer, and how soon.
fn knock(hub: &Hub, tls: &Arc<ClientConfig>) -> Duration {
    let start = Instant::now();
    let mut stream = connect(hub, tls);
    stream.write_all(opening("/$iothub/websocket", "AMQPWSB10").as_bytes()).expect("the hub takes it");
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "));
    let header = b"AMQP\x00\x01\x00\x00";
    stream.write_all(&frame(0x82, header)).expect("the hub takes it");
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, *b"\x82\x08AMQP\x00\x01\x00\x00");
    start.elapsed()
}

#[test]
fn faults_are_named_in_a_close_frame() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let tls = hub.tls();
        for (what, bytes, code) in [
            ("no mask", vec![0x82, 0x01, 0x00], 1002_u16),
            ("text", frame(0x81, b"hello"), 1003),
            ("an endless frame", vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 1009),
            ("a fragment of nothing", frame(0x80, b"x"), 1002),
            ("reserved bits", frame(0xf2, b"x"), 1002),
            ("a long ping", vec![0x89, 0xfe, 0x01, 0x00], 1002),
        ] {
            let mut stream = mqtt_socket(&hub, &tls);
            stream.write_all(&bytes).expect("the hub takes it");
            let mut answer = Vec::new();
            // How the TLS below ends is not what is tested here.
            let _ = stream.read_to_end(&mut answer);
            assert_eq!(answer, [&[0x88, 2][..], &code.to_be_bytes()].concat(), "{what}");
        }
        // MQTT that is none, in frames that are good: closed, and nobody else hears of it.
        let mut stream = mqtt_socket(&hub, &tls);
        stream.write_all(&frame(0x82, b"\xff\xff\xff\xff")).expect("the hub takes it");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"\x88\x02\x03\xe8");
        knock(&hub, &tls);
    });
}

#[test]
fn a_thousand_half_open_upgrades_hold_up_nobody() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let tls = hub.tls();
        // One that is connected before, and stays so.
        let device = hub.service().create_device("d");
        let mut connected = mqtt_socket(&hub, &tls);
        let connect_packet = mqtt::connect_packet(&hub.host(), "d", &token(&hub, &device));
        connected.write_all(&frame(0x82, &connect_packet)).expect("the hub takes it");
        assert_eq!(read_stream(&mut connected, 4), CONNACK);
        let mut ping = || {
            connected.write_all(&frame(0x82, &PINGREQ)).expect("it is connected");
            assert_eq!(read_stream(&mut connected, 2), PINGRESP);
        };
        let whole = opening("/$iothub/websocket", "mqtt");
        let (half, _) = whole.split_at(whole.len() / 2);
        let mut idle = Vec::new();
        for number in 0..1000 {
            let mut stream = connect(&hub, &tls);
            // Half of a head, or a whole one and half of a frame.
            let said = if number % 2 == 0 { half } else { &whole };
            stream.write_all(said.as_bytes()).expect("the hub takes it");
            if number % 2 == 1 {
                stream.write_all(&[0x82, 0xfe, 0x00]).expect("the hub takes it");
            }
            idle.push(stream);
        }
        let slowest = (0..20).map(|_| knock(&hub, &tls)).max().expect("twenty");
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        ping();
        // They are given up: a frame that never comes after fifteen seconds, a head after thirty.
        for (number, stream) in idle.iter_mut().enumerate() {
            stream.sock.set_read_timeout(Some(Duration::from_secs(40))).expect("a socket takes a timeout");
            let said = read_end(stream);
            let text = String::from_utf8_lossy(&said);
            if number % 2 == 0 {
                assert!(text.starts_with("HTTP/1.1 408 "), "{number}: {text}");
            } else {
                assert!(text.starts_with("HTTP/1.1 101 "), "{number}: {text}");
                assert!(said.ends_with(b"\r\n\r\n\x88\x02\x03\xe8"), "{number}: {text}");
            }
        }
        ping();
    });
}

#[test]
fn packets_that_arrive_together_are_all_answered() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let tls = hub.tls();
        let device = hub.service().create_device("d");
        let packets = [
            mqtt::connect_packet(&hub.host(), "d", &token(&hub, &device)),
            event("d", "together", Some(7)),
            PINGREQ.to_vec(),
        ];
        let one = frame(0x82, &packets.concat());
        let three = packets.map(|packet| frame(0x82, &packet)).concat();
        for said in [one, three] {
            let mut stream = mqtt_socket(&hub, &tls);
            stream.write_all(&said).expect("the hub takes it");
            assert_eq!(read_stream(&mut stream, 4), CONNACK);
            // The event's waits until it is durable.
            let mut others = read_stream(&mut stream, 6);
            if others.starts_with(&PINGRESP) {
                others.rotate_left(2);
            }
            assert_eq!(others, [&[0x40, 2, 0, 7][..], &PINGRESP].concat());
        }
        assert_eq!(stored(&hub, 2), ["together", "together"]);
    });
}

/// What a device says from its first word to its last, with a will that it withdraws by its goodbye.
fn short_visit(hub: &Hub, device: &Device) -> Vec<u8> {
    let topic = format!("devices/{}/messages/events/", device.id);
    let connect = packet(&Packet::Connect(Connect {
        user_name: Some(&format!("{}/{}/?api-version=2021-04-12", hub.host(), device.id)),
        password: Some(token(hub, device).as_bytes()),
        will: Some(Will { topic: &topic, payload: b"the will", qos: Qos::AtLeastOnce, retain: false }),
        ..Connect::new(&device.id)
    }));
    let events = (0..3).flat_map(|number| event(&device.id, &format!("{} {number}", device.id), None));
    connect.into_iter().chain(events).chain(packet(&Packet::Disconnect)).collect()
}

#[test]
fn a_visit_in_one_breath_is_heard_to_its_end() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let tls = hub.tls();
        let framed = hub.service().create_device("framed");
        let mut stream = mqtt_socket(&hub, &tls);
        let visit = frame(0x82, &short_visit(&hub, &framed));
        stream.write_all(&[visit, frame(0x88, b"\x03\xe8")].concat()).expect("the hub takes it");
        assert_eq!(read_end(&mut stream), b"\x82\x04\x20\x02\x00\x00\x88\x02\x03\xe8");

        // Without frames, and with the end of TLS in the same breath.
        let plain = hub.service().create_device("plain");
        let mut stream = https::connect(&hub.host(), mqtt::PORT, hub.tls()).expect("the hub listens");
        stream.conn.complete_io(&mut stream.sock).expect("a handshake");
        stream.conn.writer().write_all(&short_visit(&hub, &plain)).expect("there is room");
        stream.conn.send_close_notify();
        stream.conn.write_tls(&mut stream.sock).expect("the hub takes it");
        assert_eq!(read_end(&mut stream), CONNACK);

        let mut heard = ["framed 0", "framed 1", "framed 2", "plain 0", "plain 1", "plain 2"].to_vec();
        assert_eq!(stored(&hub, 6), heard);
        // In front of this a will would stand.
        for device in [framed, plain] {
            let token = token(&hub, &device);
            let (mut stream, code) =
                mqtt::connect(&hub.host(), hub.tls(), &device.id, &token).expect("an answer");
            assert_eq!(code, 0);
            stream.write_all(&event(&device.id, "later", Some(1))).expect("it is connected");
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).expect("an acknowledgement");
        }
        heard.splice(3..3, ["later", "later"]);
        assert_eq!(stored_now(&hub), heard, "and no will");
    });
}
