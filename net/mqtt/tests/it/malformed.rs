//! A corpus of packets that break the rules, each with the fault that it is.

use net_mqtt::DecodeError as E;
use net_mqtt::{Config, Connect, Fault, Role};

use crate::pair::{End, Seen, connected};

/// First packets that a server refuses.
#[test]
fn bad_beginnings() {
    let cases: &[(&[u8], Fault)] = &[
        (b"GET / HTTP/1.1\r\n", Fault::Decode(E::Flags(b'G'))),
        (b"\x16\x03\x01\x02\x00", Fault::Decode(E::Flags(0x16))),
        (b"\x00\x00", Fault::Decode(E::UnknownType(0))),
        (b"\xf0\x00", Fault::Decode(E::UnknownType(15))),
        (b"\xc0\x00", Fault::Unexpected { packet_type: 12 }),
        (b"\xe0\x00", Fault::Unexpected { packet_type: 14 }),
        (b"\x30\x03\x00\x01t", Fault::Unexpected { packet_type: 3 }),
        (b"\x50\x02\x00\x01", Fault::Unexpected { packet_type: 5 }),
        (b"\x20\x02\x00\x00", Fault::Unexpected { packet_type: 2 }),
        (b"\x10\xff\xff\xff\xff\x01", Fault::Decode(E::Length)),
        (b"\x10\xff\xff\xff\x7f", Fault::TooLarge { bytes: 268_435_460, bytes_max: 16_384 }),
        (b"\x10\x00", Fault::Decode(E::Cut)),
        (b"\x10\x02\x00\x04", Fault::Decode(E::Cut)),
        (b"\x10\x0c\x00\x04MQTX\x04\x02\x00\x00\x00\x00", Fault::Decode(E::ProtocolName)),
        (b"\x10\x0c\x00\x04MQTT\x04\x03\x00\x00\x00\x00", Fault::Decode(E::ConnectFlags)),
        (b"\x10\x0c\x00\x04MQTT\x04\x42\x00\x00\x00\x00", Fault::Decode(E::ConnectFlags)),
        (b"\x10\x0c\x00\x04MQTT\x04\x0a\x00\x00\x00\x00", Fault::Decode(E::ConnectFlags)),
        (b"\x10\x0c\x00\x04MQTT\x04\x22\x00\x00\x00\x00", Fault::Decode(E::ConnectFlags)),
        (b"\x10\x11\x00\x04MQTT\x04\x1e\x00\x00\x00\x00\x00\x01w\x00\x00", Fault::Decode(E::Qos)),
        (b"\x10\x11\x00\x04MQTT\x04\x06\x00\x00\x00\x00\x00\x01#\x00\x00", Fault::Decode(E::Topic)),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x00x", Fault::Decode(E::Trailing)),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01\xff", Fault::Decode(E::Text)),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01\x00", Fault::Decode(E::Text)),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x09d", Fault::Decode(E::Cut)),
    ];
    for (bytes, fault) in cases {
        let mut hub = End::new(Role::Server, Config::default());
        hub.take(bytes, 0);
        assert_eq!((hub.fault, hub.events()), (Some(*fault), vec![]), "{bytes:x?}");
        assert!(hub.output.is_empty() && hub.connection.is_closed(), "{bytes:x?}");
    }
}

#[test]
fn another_protocol_level_is_told_so() {
    for bytes in [
        &b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00"[..],
        b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00",
    ] {
        let mut hub = End::new(Role::Server, Config::default());
        hub.take(bytes, 0);
        assert!(matches!(hub.fault, Some(Fault::Decode(E::ProtocolLevel(5 | 3)))), "{:?}", hub.fault);
        assert_eq!(hub.output, [0x20, 2, 0, 1]);
    }
}

/// Packets of an open connection that a server refuses.
#[test]
fn bad_packets() {
    let cases: &[(&[u8], Fault)] = &[
        (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", Fault::Unexpected { packet_type: 1 }),
        (b"\x20\x02\x00\x00", Fault::Unexpected { packet_type: 2 }),
        (b"\x36\x05\x00\x01t\x00\x01", Fault::Decode(E::Qos)),
        (b"\x34\x05\x00\x01t\x00\x01", Fault::ExactlyOnce),
        (b"\x38\x03\x00\x01t", Fault::Decode(E::Duplicate)),
        (b"\x32\x05\x00\x01t\x00\x00", Fault::Decode(E::ZeroId)),
        (b"\x32\x03\x00\x01t", Fault::Decode(E::Cut)),
        (b"\x30\x02\x00\x00", Fault::Decode(E::Topic)),
        (b"\x30\x05\x00\x03a/#", Fault::Decode(E::Topic)),
        (b"\x30\x05\x00\x03a/+", Fault::Decode(E::Topic)),
        (b"\x30\x03\x00\x01\x00", Fault::Decode(E::Text)),
        (b"\x30\x05\x00\x03\xed\xa0\x80", Fault::Decode(E::Text)),
        (b"\x30\x81\x80\x80\x80\x01", Fault::Decode(E::Length)),
        (b"\x30\xff\xff\xff\x7f", Fault::TooLarge { bytes: 268_435_460, bytes_max: 1_048_576 }),
        (b"\x40\x03\x00\x01\x00", Fault::Decode(E::Trailing)),
        (b"\x41\x02\x00\x01", Fault::Decode(E::Flags(0x41))),
        (b"\x40\x02\x00\x00", Fault::Decode(E::ZeroId)),
        (b"\x50\x02\x00\x01", Fault::ExactlyOnce),
        (b"\x62\x02\x00\x01", Fault::ExactlyOnce),
        (b"\x60\x02\x00\x01", Fault::Decode(E::Flags(0x60))),
        (b"\x70\x02\x00\x01", Fault::ExactlyOnce),
        (b"\x80\x06\x00\x01\x00\x01a\x00", Fault::Decode(E::Flags(0x80))),
        (b"\x82\x02\x00\x01", Fault::Decode(E::FilterCount)),
        (b"\x82\x06\x00\x01\x00\x01a\x03", Fault::Decode(E::Qos)),
        (b"\x82\x05\x00\x01\x00\x01a", Fault::Decode(E::Cut)),
        (b"\x82\x05\x00\x01\x00\x00\x00", Fault::Decode(E::Filter)),
        (b"\x82\x07\x00\x01\x00\x02a#\x00", Fault::Decode(E::Filter)),
        (b"\x82\x08\x00\x01\x00\x03#/a\x00", Fault::Decode(E::Filter)),
        (b"\xa2\x02\x00\x01", Fault::Decode(E::FilterCount)),
        (b"\x90\x03\x00\x01\x00", Fault::Unexpected { packet_type: 9 }),
        (b"\xb0\x02\x00\x01", Fault::Unexpected { packet_type: 11 }),
        (b"\xc0\x01\x00", Fault::Decode(E::Trailing)),
        (b"\xd0\x00", Fault::Unexpected { packet_type: 13 }),
        (b"\xe1\x00", Fault::Decode(E::Flags(0xe1))),
    ];
    for (bytes, fault) in cases {
        let (_, mut hub) = connected(Config::default(), &Connect::new("d"));
        hub.take(bytes, 0);
        assert_eq!((hub.fault, hub.events()), (Some(*fault), vec![]), "{bytes:x?}");
        assert!(hub.output.is_empty() && hub.connection.is_closed(), "{bytes:x?}");
        hub.take(b"\xc0\x00", 0);
        assert!(hub.output.is_empty(), "nothing is said after the end");
    }
}

#[test]
fn as_many_filters_as_may_be() {
    let mut subscribe = Vec::new();
    let id = net_mqtt::PacketId::new(7).unwrap();
    let filters = vec![("a", net_mqtt::Qos::AtMostOnce); net_mqtt::limits::FILTER_COUNT_MAX];
    net_mqtt::packet::encode_subscribe(id, &filters, &mut subscribe);
    let (_, mut hub) = connected(Config::default(), &Connect::new("d"));
    hub.take(&subscribe, 0);
    assert!(matches!(&hub.events()[..], [Seen::Subscribe { filters, .. }] if filters.len() == 64));
    subscribe.clear();
    net_mqtt::packet::encode_subscribe(id, &[&filters[..], &filters[..1]].concat(), &mut subscribe);
    hub.take(&subscribe, 0);
    assert_eq!(hub.fault, Some(Fault::Decode(E::FilterCount)));
}
