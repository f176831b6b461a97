//! Peers that speak badly, at the real program: what they do ends at most their own connection.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tests::amqp::{Peer, converse, send};
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::process::{processor_time, wait_until};
use tests::service::Device;
use tests::telemetry::message;
use tests::{https, sas};

const PLAIN_HEADER: &[u8] = b"AMQP\x00\x01\x00\x00";
const SASL_HEADER: &[u8] = b"AMQP\x03\x01\x00\x00";

/// An open frame with an empty container id and nothing else.
fn open_frame() -> Vec<u8> {
    frame(0, &[0x00, 0x53, 0x10, 0xc0, 0x03, 0x01, 0xa1, 0x00])
}

/// A begin frame with windows of 100.
fn begin_frame() -> Vec<u8> {
    frame(0, &[0x00, 0x53, 0x11, 0xc0, 0x08, 0x04, 0x40, 0x43, 0x52, 100, 0x52, 100, 0x40])
}

fn frame(channel: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32 + 8).to_be_bytes().to_vec();
    frame.extend([2, 0]);
    frame.extend(channel.to_be_bytes());
    frame.extend(body);
    frame
}

/// A list nested as deep as its bytes allow: a decoder that recurses runs out of stack.
fn nested_bomb() -> Vec<u8> {
    let mut body = vec![0x00, 0x53, 0x10];
    body.extend([0xd0, 0, 0, 0x7f, 0xff, 0, 0, 0, 1].repeat(3000));
    body
}

/// Described types whose descriptors are described types.
fn recursive_descriptors() -> Vec<u8> {
    vec![0x00; 30_000]
}

fn amqp_attacks() -> Vec<(&'static str, Vec<u8>)> {
    let after_open = |bytes: &[u8]| [PLAIN_HEADER, &open_frame(), bytes].concat();
    let after_begin = |bytes: &[u8]| [PLAIN_HEADER, &open_frame(), &begin_frame(), bytes].concat();
    vec![
        ("noise instead of a header", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another version", b"AMQP\x00\x09\x09\x09".to_vec()),
        ("size 0", after_open(&[0; 8])),
        ("size below a head", after_open(&[0, 0, 0, 7, 2, 0, 0, 0])),
        ("an endless size", after_open(&[0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0])),
        ("a wrong data offset", after_open(&[0, 0, 0, 16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("an offset beyond the frame", after_open(&[0, 0, 0, 16, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("a frame of an unknown type", after_open(&[0, 0, 0, 8, 2, 9, 0, 0])),
        (
            "a list larger than its frame",
            [PLAIN_HEADER, &frame(0, &[0x00, 0x53, 0x10, 0xd0, 0xff, 0xff, 0xff, 0xff])].concat(),
        ),
        (
            "a count larger than its list",
            [
                PLAIN_HEADER,
                &frame(0, &[0x00, 0x53, 0x10, 0xd0, 0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
            ]
            .concat(),
        ),
        ("nested lists", [PLAIN_HEADER, &frame(0, &nested_bomb())].concat()),
        ("nested descriptors", [PLAIN_HEADER, &frame(0, &recursive_descriptors())].concat()),
        ("two opens", after_open(&open_frame())),
        (
            "a transfer without a session",
            after_open(&frame(5, &[0x00, 0x53, 0x14, 0xc0, 0x03, 0x02, 0x43, 0x43])),
        ),
        ("the same channel twice", after_begin(&begin_frame())),
        (
            "a transfer without a link",
            after_begin(&frame(0, &[0x00, 0x53, 0x14, 0xc0, 0x03, 0x02, 0x43, 0x43])),
        ),
        ("an unknown performative", after_begin(&frame(0, &[0x00, 0x53, 0x7f, 0x45]))),
        (
            "SASL without a mechanism",
            [SASL_HEADER, &[0, 0, 0, 13, 2, 1, 0, 0, 0x00, 0x53, 0x41, 0xc0, 0x00]].concat(),
        ),
        ("SASL and AMQP at once", [SASL_HEADER, &open_frame()].concat()),
    ]
}

fn http_attacks() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    let mut headers = "GET /devices/x HTTP/1.1\r\nHost: h\r\n".to_owned();
    (0..5000).for_each(|number| headers.push_str(&format!("x-{number}: y\r\n")));
    vec![
        (
            "length and chunks",
            text(
                "POST /devices/x/messages/events HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            ),
        ),
        (
            "two lengths",
            text("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        ),
        ("a signed length", text("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc")),
        (
            "a chunk size that overflows",
            text("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
        ),
        ("a blank before the colon", text("GET / HTTP/1.1\r\nHost : h\r\n\r\n")),
        ("folded headers", text("GET / HTTP/1.1\r\nHost: h\r\nx: a\r\n b\r\n\r\n")),
        ("a header bomb", headers.into_bytes()),
        ("a long line", [b"GET /".to_vec(), vec![b'a'; 200_000]].concat()),
        ("noise", (0..=255).cycle().take(5000).collect()),
    ]
}

/// An MQTT packet with a short body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(body.len()).expect("short")], body].concat()
}

/// A CONNECT of a device that is let in.
fn mqtt_connect(hub: &Hub, device: &Device) -> Vec<u8> {
    let resource = format!("{}/devices/{}", hub.host(), device.id);
    let token = sas::token(&resource, &device.key, sas::now_s() + 3600, None);
    let user_name = format!("{}/{}/?api-version=2021-04-12", hub.host(), device.id);
    let connect = net_mqtt::Connect {
        user_name: Some(&user_name),
        password: Some(token.as_bytes()),
        ..net_mqtt::Connect::new(&device.id)
    };
    let mut bytes = Vec::new();
    net_mqtt::Packet::Connect(connect).encode(&mut bytes);
    bytes
}

/// What strangers say, and what a device says that was let in as `device`.
fn mqtt_attacks(hub: &Hub, device: &Device) -> Vec<(&'static str, Vec<u8>)> {
    let connect = mqtt_connect(hub, device);
    let after = |bytes: &[u8]| [&connect, bytes].concat();
    let topic = |text: &[u8]| [&(text.len() as u16).to_be_bytes()[..], text].concat();
    let own = format!("devices/{}/messages/events/", device.id);
    vec![
        ("noise instead of a CONNECT", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("a length without end", vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("a CONNECT of 256 MiB", vec![0x10, 0xff, 0xff, 0xff, 0x7f]),
        ("a PUBLISH of a stranger", packet(0x30, &topic(own.as_bytes()))),
        ("a SUBSCRIBE of a stranger", packet(0x82, b"\x00\x01\x00\x01#\x00")),
        ("another protocol", packet(0x10, b"\x00\x04QTTM\x04\x02\x00\x00\x00\x00")),
        ("a token that is cut off", connect[..connect.len() - 40].iter().copied().chain([0; 40]).collect()),
        ("two CONNECTs", after(&connect)),
        ("a PUBLISH of 256 MiB", after(&[0x30, 0xff, 0xff, 0xff, 0x7f])),
        ("a topic longer than its packet", after(&packet(0x30, b"\xff\xffx"))),
        ("a topic with wildcards", after(&packet(0x30, &topic(b"devices/+/messages/events/")))),
        ("everybody's topic", after(&packet(0x30, &topic(b"#")))),
        ("a foreign topic", after(&packet(0x30, &topic(b"devices/healthy/messages/events/")))),
        ("a topic that is no text", after(&packet(0x30, &topic(b"devices/\xff/messages/events/")))),
        ("a topic with a zero", after(&packet(0x30, &topic(b"devices/\0/messages/events/")))),
        ("properties that are no text", after(&packet(0x30, &topic(format!("{own}a=%ff").as_bytes())))),
        ("quality of service 2", after(&packet(0x34, &[topic(own.as_bytes()), vec![0, 1]].concat()))),
        ("quality of service 3", after(&packet(0x36, &[topic(own.as_bytes()), vec![0, 1]].concat()))),
        ("identifier 0", after(&packet(0x32, &[topic(own.as_bytes()), vec![0, 0]].concat()))),
        ("a SUBSCRIBE to nothing", after(&packet(0x82, b"\x00\x01"))),
        ("a filter without an end", after(&packet(0x82, b"\x00\x01\x00\xff#\x00"))),
        ("a CONNACK", after(&packet(0x20, b"\x00\x00"))),
        ("wrong flags", after(&packet(0xc1, b""))),
        ("a reserved packet", after(&packet(0xf0, b""))),
    ]
}

/// What an end performative begins with: the fault was the session's, and so is the end.
const END: &[u8] = &[0x00, 0x53, 0x17];

/// Send bytes over TLS and wait until the hub ends the connection or the session.
fn attack(hub: &Hub, port: u16, bytes: &[u8]) -> Result<(), String> {
    let mut stream = https::connect(&hub.host(), port, hub.tls()).map_err(|error| error.to_string())?;
    stream.sock.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
    // It may close before everything is sent: that is its right.
    let _ = stream.write_all(bytes).and_then(|()| stream.flush());
    let mut answer: Vec<u8> = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.windows(END.len()).any(|window| window == END) {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => answer.extend(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(format!("it does not end, after {answer:02x?}"));
            }
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

/// A device that has been there all along.
async fn healthy(hub: &Hub, device: &Device) -> (Peer, fe2o3_amqp::Sender) {
    let mut peer = Peer::device(hub, device).await;
    let mut link = peer.telemetry(&device.id).await.expect("the device may send");
    send(&mut link, message(b"before".to_vec())).await.expect("the device may send");
    (peer, link)
}

#[test]
fn malformed_bytes_end_their_own_connection_alone() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "1"]);
        let device = hub.service().create_device("healthy");
        converse(async {
            let (_peer, mut link) = healthy(&hub, &device).await;
            let mut attacks: Vec<_> =
                amqp_attacks().into_iter().map(|(what, bytes)| (5671, what, bytes)).collect();
            attacks.extend(http_attacks().into_iter().map(|(what, bytes)| (443, what, bytes)));
            let mqtt = mqtt_attacks(&hub, &hub.service().create_device("hostile"));
            attacks.extend(mqtt.into_iter().map(|(what, bytes)| (8883, what, bytes)));
            for (port, what, bytes) in attacks {
                std::thread::scope(|scope| {
                    let ended = scope.spawn(|| attack(&hub, port, &bytes)).join().expect("no attack panics");
                    assert!(ended.is_ok(), "{what} on port {port}: {ended:?}");
                });
                send(&mut link, message(what.as_bytes().to_vec())).await.expect("the healthy device goes on");
            }
            // Bytes that are not TLS, and a handshake that never ends.
            for bytes in [b"\x16\x03\x01\xff\xff".as_slice(), b"plain text\r\n", &[0; 1000]] {
                let mut raw = TcpStream::connect((hub.host(), 5671)).expect("the hub takes connections");
                let _ = raw.write_all(bytes);
            }
            send(&mut link, message(b"after".to_vec())).await.expect("the healthy device goes on");
        });
        assert!(hub.is_running());
        assert!(!hub.printed().contains("panicked"), "something panicked");
    });
}

/// More connections than descriptors: those that have one go on, the processor idles, and room is used when it returns.
#[test]
fn descriptors_run_out_and_return() {
    run(Needs::LowPorts, || {
        let directory = tests::fresh_directory("descriptors");
        let mut hub = Hub::prepare(directory.path(), &["--cores", "1"]);
        hub.limit_descriptors(300);
        hub.run();
        let device = hub.service().create_device("healthy");
        converse(async {
            let (_peer, mut link) = healthy(&hub, &device).await;
            let crowd: Vec<_> =
                (0..500).filter_map(|_| TcpStream::connect((hub.host(), 5671)).ok()).collect();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = processor_time(hub.process_id());
            tokio::time::sleep(Duration::from_secs(2)).await;
            let used = processor_time(hub.process_id()) - before;
            assert!(used < Duration::from_millis(600), "it spins: {used:?} in 2 s");
            send(&mut link, message(b"in the crowd".to_vec())).await.expect("who is there goes on");
            drop(crowd);
            let returns = || {
                https::connect(&hub.host(), 443, hub.tls()).ok().and_then(|mut stream| {
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").ok()?;
                    stream.read(&mut [0; 100]).ok().filter(|&bytes| bytes > 0)
                })
            };
            wait_until(Duration::from_secs(20), returns).expect("connections are taken again");
            send(&mut link, message(b"after".to_vec())).await.expect("who is there goes on");
        });
    });
}
