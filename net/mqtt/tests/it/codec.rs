//! Every packet there and back, and as an independent codec reads and writes it.

use bytes::BytesMut;
use net_mqtt::packet::{Header, encode_subscribe, encode_unsubscribe};
use net_mqtt::{ConnAck, Connect, ConnectCode, Packet, PacketId, Publish, Qos, SubAck, Will};
use proptest::prelude::*;

/// The packet's bytes, once it was seen that they decode to it and that no shorter prefix does.
#[track_caller]
fn check(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(&mut bytes);
    let header = Header::decode(&bytes).unwrap().unwrap();
    assert_eq!(header.packet_bytes(), bytes.len());
    let body = &bytes[header.header_bytes..];
    assert_eq!(Packet::decode(header.first, body).as_ref(), Ok(packet));
    check_oracle(&bytes);
    bytes
}

/// The other codec reads the same packet: it writes the same bytes.
#[track_caller]
fn check_oracle(bytes: &[u8]) {
    use mqttbytes::v4::{self, Packet as Other};
    let mut stream = BytesMut::from(bytes);
    let mut again = BytesMut::new();
    let packet = v4::read(&mut stream, bytes.len() + 1).expect("the other codec reads it");
    assert!(stream.is_empty());
    match packet {
        Other::Connect(packet) => packet.write(&mut again),
        Other::ConnAck(packet) => packet.write(&mut again),
        Other::Publish(packet) => packet.write(&mut again),
        Other::PubAck(packet) => packet.write(&mut again),
        Other::PubRec(packet) => packet.write(&mut again),
        Other::PubRel(packet) => packet.write(&mut again),
        Other::PubComp(packet) => packet.write(&mut again),
        Other::Subscribe(packet) => packet.write(&mut again),
        Other::SubAck(packet) => packet.write(&mut again),
        Other::Unsubscribe(packet) => packet.write(&mut again),
        // Without a body, and without a writer of their own.
        Other::PingReq | Other::PingResp | Other::Disconnect | Other::UnsubAck(_) => return,
    }
    .expect("the other codec writes it");
    assert_eq!(again, bytes, "the other codec writes it otherwise");
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

#[test]
fn packets_byte_by_byte() {
    let cases: Vec<(Packet<'_>, &[u8])> = vec![
        (
            Packet::Connect(Connect {
                client_id: "d",
                clean_session: false,
                keep_alive_s: 0x0102,
                will: Some(Will { topic: "w", payload: b"x", qos: Qos::AtLeastOnce, retain: true }),
                user_name: Some("u"),
                password: Some(b"p"),
            }),
            b"\x10\x19\x00\x04MQTT\x04\xec\x01\x02\x00\x01d\x00\x01w\x00\x01x\x00\x01u\x00\x01p",
        ),
        (Packet::Connect(Connect::new("")), b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"),
        (
            Packet::ConnAck(ConnAck { session_present: true, code: ConnectCode::Accepted }),
            b"\x20\x02\x01\x00",
        ),
        (
            Packet::ConnAck(ConnAck { session_present: false, code: ConnectCode::NotAuthorized }),
            b"\x20\x02\x00\x05",
        ),
        (
            Packet::Publish(Publish {
                topic: "a/b",
                payload: b"hi",
                qos: Qos::AtLeastOnce,
                id: Some(id(0x0a0b)),
                duplicate: true,
                retain: true,
            }),
            b"\x3b\x09\x00\x03a/b\x0a\x0bhi",
        ),
        (
            Packet::Publish(Publish {
                topic: "t",
                payload: b"",
                qos: Qos::AtMostOnce,
                id: None,
                duplicate: false,
                retain: false,
            }),
            b"\x30\x03\x00\x01t",
        ),
        (Packet::PubAck(id(1)), b"\x40\x02\x00\x01"),
        (Packet::PubRec(id(2)), b"\x50\x02\x00\x02"),
        (Packet::PubRel(id(3)), b"\x62\x02\x00\x03"),
        (Packet::PubComp(id(4)), b"\x70\x02\x00\x04"),
        (Packet::SubAck(SubAck { id: id(5), codes: &[0, 1, 2, 0x80] }), b"\x90\x06\x00\x05\x00\x01\x02\x80"),
        (Packet::UnsubAck(id(6)), b"\xb0\x02\x00\x06"),
        (Packet::PingReq, b"\xc0\x00"),
        (Packet::PingResp, b"\xd0\x00"),
        (Packet::Disconnect, b"\xe0\x00"),
    ];
    for (packet, expected) in cases {
        assert_eq!(check(&packet), expected, "{packet:?}");
    }
}

#[test]
fn a_password_is_not_printed() {
    let connect = Connect { user_name: Some("u"), password: Some(b"secret"), ..Connect::new("d") };
    let text = format!("{:?}", Packet::Connect(connect));
    assert!(!text.contains("secret") && text.contains("password_bytes: Some(6)"), "{text}");
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9/ äß€𝄞%$.]{0,40}"
}

fn topic() -> impl Strategy<Value = String> {
    "[a-z0-9/ äß€𝄞%$.]{1,40}"
}

fn qos() -> impl Strategy<Value = Qos> {
    prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        proptest::collection::vec(any::<u8>(), 16_300..16_500)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_publish_goes_there_and_back(
        topic in topic(), payload in payload(), qos in qos(), number in 1u16.., duplicate: bool, retain: bool,
    ) {
        let needs_id = qos != Qos::AtMostOnce;
        check(&Packet::Publish(Publish {
            topic: &topic,
            payload: &payload,
            qos,
            id: needs_id.then(|| id(number)),
            duplicate: duplicate && needs_id,
            retain,
        }));
    }

    #[test]
    fn a_connect_goes_there_and_back(
        client_id in text(), clean_session: bool, keep_alive_s: u16,
        will in proptest::option::of((topic(), proptest::collection::vec(any::<u8>(), 0..50), qos(), any::<bool>())),
        login in proptest::option::of((topic(), topic())),
    ) {
        let will = will.as_ref().map(|(topic, payload, qos, retain)| Will {
            topic, payload, qos: *qos, retain: *retain,
        });
        let (user_name, password) = match &login {
            Some((user_name, password)) => (Some(user_name.as_str()), Some(password.as_bytes())),
            None => (None, None),
        };
        let packet = Connect { client_id: &client_id, clean_session, keep_alive_s, will, user_name, password };
        check(&Packet::Connect(packet));
    }

    #[test]
    fn filters_go_there_and_back(
        filters in proptest::collection::vec(("[a-z/]{1,10}(/#|/\\+)?", qos()), 1..20), number in 1u16..,
    ) {
        let pairs: Vec<(&str, Qos)> = filters.iter().map(|(text, qos)| (text.as_str(), *qos)).collect();
        let mut bytes = Vec::new();
        encode_subscribe(id(number), &pairs, &mut bytes);
        let header = Header::decode(&bytes).unwrap().unwrap();
        let packet = Packet::decode(header.first, &bytes[header.header_bytes..]).unwrap();
        let Packet::Subscribe(subscribe) = packet else { panic!("{packet:?}") };
        prop_assert_eq!(subscribe.id, id(number));
        prop_assert_eq!(subscribe.filters.iter().collect::<Vec<_>>(), pairs.clone());
        prop_assert_eq!(check(&packet), bytes);

        let texts: Vec<&str> = pairs.iter().map(|(text, _)| *text).collect();
        let mut bytes = Vec::new();
        encode_unsubscribe(id(number), &texts, &mut bytes);
        let header = Header::decode(&bytes).unwrap().unwrap();
        let packet = Packet::decode(header.first, &bytes[header.header_bytes..]).unwrap();
        let Packet::Unsubscribe(unsubscribe) = packet else { panic!("{packet:?}") };
        prop_assert_eq!(unsubscribe.filters.iter().map(|(text, _)| text).collect::<Vec<_>>(), texts);
        prop_assert_eq!(check(&packet), bytes);
    }

    #[test]
    fn any_bytes_decode_to_a_packet_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
        if let Ok(packet) = Packet::decode(bytes[0], &bytes[1..]) {
            let mut again = Vec::new();
            packet.encode(&mut again);
            let header = Header::decode(&again).unwrap().unwrap();
            prop_assert_eq!(Packet::decode(header.first, &again[header.header_bytes..]), Ok(packet));
        }
    }
}
