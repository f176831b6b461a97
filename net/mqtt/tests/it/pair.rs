//! Two ends face to face, in memory.

use std::sync::Arc;

use net_mqtt::{Config, Connection, Event, Fault, Inbound, PacketId, Role};

/// A seeded source of chance.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// What an end reported, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Connect { client_id: String, keep_alive_s: u16, will_topic: Option<String> },
    Publish { topic: String, payload: Vec<u8>, id: Option<PacketId> },
    Acknowledged(PacketId),
    Subscribe { id: PacketId, filters: Vec<String> },
    Unsubscribe { id: PacketId, filters: Vec<String> },
    Disconnect,
    ConnAck(u8),
    SubAck(PacketId, Vec<u8>),
    UnsubAck(PacketId),
}

impl Seen {
    fn of(event: Event<'_>) -> Option<Self> {
        let texts =
            |filters: net_mqtt::Filters<'_>| filters.iter().map(|(text, _)| text.to_owned()).collect();
        Some(match event {
            Event::Handled => return None,
            Event::Connect(connect) => Self::Connect {
                client_id: connect.client_id.to_owned(),
                keep_alive_s: connect.keep_alive_s,
                will_topic: connect.will.map(|will| will.topic.to_owned()),
            },
            Event::Publish(publish) => Self::Publish {
                topic: publish.topic.to_owned(),
                payload: publish.payload.to_vec(),
                id: publish.id,
            },
            Event::Acknowledged(id) => Self::Acknowledged(id),
            Event::Subscribe(subscribe) => {
                Self::Subscribe { id: subscribe.id, filters: texts(subscribe.filters) }
            }
            Event::Unsubscribe(unsubscribe) => {
                Self::Unsubscribe { id: unsubscribe.id, filters: texts(unsubscribe.filters) }
            }
            Event::Disconnect => Self::Disconnect,
            Event::ConnAck(answer) => Self::ConnAck(answer.code as u8),
            Event::SubAck(answer) => Self::SubAck(answer.id, answer.codes.to_vec()),
            Event::UnsubAck(id) => Self::UnsubAck(id),
        })
    }
}

/// One end: a machine, what it wrote and what it reported.
pub struct End {
    pub connection: Connection,
    pub inbound: Inbound,
    pub output: Vec<u8>,
    pub seen: Vec<Seen>,
    pub fault: Option<Fault>,
    /// What the machine did not take yet.
    held: Vec<u8>,
}

impl End {
    pub fn new(role: Role, config: Config) -> Self {
        Self {
            connection: Connection::new(role, Arc::new(config), 0),
            inbound: Inbound::default(),
            output: Vec::new(),
            seen: Vec::new(),
            fault: None,
            held: Vec::new(),
        }
    }

    pub fn take(&mut self, bytes: &[u8], now_ms: u64) {
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut input = &held[..];
        while self.fault.is_none() {
            match self.connection.handle(&mut self.inbound, &mut input, &mut self.output, now_ms) {
                Ok(Some(event)) => self.seen.extend(Seen::of(event)),
                Ok(None) => break,
                Err(fault) => self.fault = Some(fault),
            }
        }
        self.held = input.to_vec();
    }

    /// What was reported since the last call.
    pub fn events(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }
}

/// Let each hear what the other said, until both are silent.
pub fn talk(one: &mut End, other: &mut End, now_ms: u64) {
    while !one.output.is_empty() || !other.output.is_empty() {
        let (from_one, from_other) = (std::mem::take(&mut one.output), std::mem::take(&mut other.output));
        other.take(&from_one, now_ms);
        one.take(&from_other, now_ms);
    }
}

/// A device and a hub that has accepted it, both with nothing left to report.
pub fn connected(config: Config, connect: &net_mqtt::Connect<'_>) -> (End, End) {
    let mut device = End::new(Role::Client, config.clone());
    let mut hub = End::new(Role::Server, config);
    device.connection.connect(connect, 0, &mut device.output);
    talk(&mut device, &mut hub, 0);
    hub.connection.accept(false, 0, &mut hub.output);
    talk(&mut device, &mut hub, 0);
    assert!(matches!(hub.events()[..], [Seen::Connect { .. }]));
    assert_eq!(device.events(), [Seen::ConnAck(0)]);
    (device, hub)
}
