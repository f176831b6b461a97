//! The MQTT connection machine and packet codec, against mqttbytes on the same bytes.

use std::sync::Arc;

use bytes::BytesMut;
use mqttbytes::v4::{self, Packet as Other};
use net_mqtt::packet::Header;
use net_mqtt::{
    Config, Connect, ConnectCode, Connection, Draft, Event, Fault, Inbound, Packet, Qos, Role, is_filter,
    is_topic,
};

use crate::input::{Choices, Stream, assert_same};
use crate::wire::check_mqtt;

const PACKET_BYTES_MAX: usize = 4096;
const CONNECT_BYTES_MAX: usize = 512;
const IN_FLIGHT_MAX: u16 = 4;

/// A server, or with an odd first whim a client, whose caller answers at once.
pub fn connection(input: &[u8]) {
    let Some(stream) = Stream::of(input) else { return };
    let mut whole = End::new(stream.whims());
    whole.take(stream.bytes);
    let mut cut = End::new(stream.whims());
    for piece in stream.pieces() {
        cut.take(piece);
    }
    assert_same(&whole.seen, &cut.seen, "events");
    assert_same(&whole.output, &cut.output, "answers");
    assert_eq!(whole.connection.is_closed(), cut.connection.is_closed());
    check_mqtt(&whole.output);
}

struct End {
    connection: Connection,
    inbound: Inbound,
    output: Vec<u8>,
    seen: Vec<String>,
    whims: Choices,
    fault: Option<Fault>,
    held: Vec<u8>,
}

impl End {
    fn new(mut whims: Choices) -> Self {
        let role = if whims.once_in(4) { Role::Client } else { Role::Server };
        let config = Config {
            packet_bytes_max: PACKET_BYTES_MAX,
            connect_bytes_max: CONNECT_BYTES_MAX,
            in_flight_max: IN_FLIGHT_MAX,
            ..Config::default()
        };
        let mut connection = Connection::new(role, Arc::new(config), 0);
        let mut output = Vec::new();
        connection.connect(&Connect::new("d"), 0, &mut output);
        Self {
            connection,
            inbound: Inbound::default(),
            output,
            seen: Vec::new(),
            whims,
            fault: None,
            held: Vec::new(),
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        let mut input = &bytes[..];
        let mut calls = 0;
        while self.fault.is_none() {
            calls += 1;
            assert!(calls <= bytes.len() + 2, "the machine makes no progress");
            match self.connection.handle(&mut self.inbound, &mut input, &mut self.output, 0) {
                Ok(Some(event)) => {
                    self.seen.push(format!("{event:?}"));
                    react(&mut self.connection, &event, &mut self.output, &mut self.whims);
                }
                Ok(None) => break,
                Err(fault) => {
                    self.seen.push(format!("{fault:?}"));
                    self.fault = Some(fault);
                    assert!(self.connection.is_closed());
                }
            }
        }
        assert!(self.inbound.kept_bytes() <= PACKET_BYTES_MAX);
        assert!(self.connection.in_flight_count() <= usize::from(IN_FLIGHT_MAX));
        assert!(input.is_empty() || self.connection.is_closed(), "what is answered at once leaves nothing");
        self.held = input.to_vec();
    }
}

/// What the hub's caller would answer, with some whims.
fn react(connection: &mut Connection, event: &Event<'_>, output: &mut Vec<u8>, whims: &mut Choices) {
    match event {
        Event::Connect(_) if whims.once_in(20) => connection.refuse(ConnectCode::Unavailable, output),
        Event::Connect(_) => connection.accept(whims.once_in(2), 0, output),
        Event::Publish(publish) => {
            assert!(is_topic(publish.topic) && publish.qos != Qos::ExactlyOnce);
            if let Some(id) = publish.id {
                connection.acknowledge(id, output);
            }
        }
        Event::Subscribe(subscribe) => {
            let codes: Vec<u8> = subscribe.filters.iter().map(|(_, qos)| (qos as u8).min(1)).collect();
            assert!(subscribe.filters.iter().all(|(filter, _)| is_filter(filter)));
            connection.answer_subscribe(subscribe.id, &codes, output);
            let payload = vec![1; whims.below(3000)];
            let draft = Draft { topic: "t", payload: &payload, needs_ack: true, retain: false };
            while connection.publish(&draft, output).is_ok() {}
        }
        Event::Unsubscribe(unsubscribe) => connection.answer_unsubscribe(unsubscribe.id, output),
        _ => {}
    }
}

/// One packet.
pub fn packet(bytes: &[u8]) {
    let Ok(Some(header)) = Header::decode(bytes) else { return };
    let Some(body) = bytes.get(header.header_bytes..header.packet_bytes()) else { return };
    let Ok(packet) = Packet::decode(header.first, body) else { return };
    let mut again = Vec::new();
    packet.encode(&mut again);
    let second = Header::decode(&again).expect("our own header").expect("whole");
    assert_eq!((second.first, second.body_bytes), (header.first, header.body_bytes));
    assert_eq!(&again[second.header_bytes..], body, "there is one way to write a packet's body");
    assert_eq!(Packet::decode(second.first, &again[second.header_bytes..]), Ok(packet));
    check_other(&packet, &again);
}

/// What both take means the same to both.
fn check_other(ours: &Packet<'_>, bytes: &[u8]) {
    let Ok(theirs) = v4::read(&mut BytesMut::from(bytes), bytes.len() + 1) else {
        return;
    };
    match (ours, theirs) {
        (Packet::Publish(ours), Other::Publish(theirs)) => {
            assert_eq!((ours.topic, ours.payload), (&theirs.topic[..], &theirs.payload[..]));
            assert_eq!(
                (ours.qos as u8, ours.retain, ours.duplicate),
                (theirs.qos as u8, theirs.retain, theirs.dup)
            );
            assert_eq!(ours.id.map_or(0, |id| id.number()), theirs.pkid);
        }
        (Packet::Connect(ours), Other::Connect(theirs)) => {
            assert_eq!(ours.client_id, theirs.client_id);
            assert_eq!((ours.keep_alive_s, ours.clean_session), (theirs.keep_alive, theirs.clean_session));
            assert_eq!(ours.will.map(|will| (will.topic, will.payload)), {
                theirs.last_will.as_ref().map(|will| (&will.topic[..], &will.message[..]))
            });
            if let Some(login) = &theirs.login {
                assert_eq!(ours.user_name.unwrap_or_default(), login.username);
                assert_eq!(ours.password.unwrap_or_default(), login.password.as_bytes());
            }
        }
        (Packet::Subscribe(ours), Other::Subscribe(theirs)) => {
            assert_eq!(ours.id.number(), theirs.pkid);
            let ours: Vec<_> = ours.filters.iter().map(|(filter, qos)| (filter, qos as u8)).collect();
            let theirs: Vec<_> =
                theirs.filters.iter().map(|filter| (&filter.path[..], filter.qos as u8)).collect();
            assert_eq!(ours, theirs);
        }
        (Packet::Unsubscribe(ours), Other::Unsubscribe(theirs)) => {
            assert_eq!(ours.filters.iter().map(|(filter, _)| filter).collect::<Vec<_>>(), theirs.topics);
        }
        (Packet::PubAck(id), Other::PubAck(theirs)) => assert_eq!(id.number(), theirs.pkid),
        (Packet::ConnAck(ours), Other::ConnAck(theirs)) => {
            assert_eq!((ours.session_present, ours.code as u8), (theirs.session_present, theirs.code as u8));
        }
        _ => {}
    }
}
