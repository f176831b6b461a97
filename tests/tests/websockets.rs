//! WebSockets at the real program: what is refused, and openings that lead nowhere.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tests::hub::Hub;
use tests::namespace::{Needs, run};

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(hub: &Hub, tls: &Arc<ClientConfig>) -> Stream {
    let name = ServerName::try_from(hub.host()).expect("an address is a name");
    let socket = TcpStream::connect((hub.host().as_str(), 443)).expect("the hub listens");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket takes a timeout");
    let session = ClientConnection::new(Arc::clone(tls), name).expect("the configuration is good");
    StreamOwned::new(session, socket)
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

/// A client's frame, whose head says `first`, of a payload below 126 bytes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 8, 9, 10];
    let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).expect("short")];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
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
            let mut stream = connect(&hub, &tls);
            stream.write_all(opening("/$iothub/websocket", "mqtt").as_bytes()).expect("the hub takes it");
            assert!(read_head(&mut stream).starts_with("HTTP/1.1 101 "), "{what}");
            stream.write_all(&bytes).expect("the hub takes it");
            let mut answer = Vec::new();
            // How the TLS below ends is not what is tested here.
            let _ = stream.read_to_end(&mut answer);
            assert_eq!(answer, [&[0x88, 2][..], &code.to_be_bytes()].concat(), "{what}");
        }
        // MQTT that is none, in frames that are good: closed, and nobody else hears of it.
        let mut stream = connect(&hub, &tls);
        stream.write_all(opening("/$iothub/websocket", "mqtt").as_bytes()).expect("the hub takes it");
        read_head(&mut stream);
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
        // They are given up: a frame that never comes after fifteen seconds, a head after thirty.
        for stream in &mut idle[..2] {
            stream.sock.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket takes a timeout");
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said);
            let text = String::from_utf8_lossy(&said);
            assert!(text.starts_with("HTTP/1.1 408 ") || text.starts_with("HTTP/1.1 101 "), "{text}");
        }
    });
}
