//! What we say must be read: frames and packets.

use bytes::BytesMut;
use net_amqp::performative::Performative;
use net_amqp::sasl::SaslFrame;
use net_mqtt::Packet;
use net_mqtt::packet::Header;

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
