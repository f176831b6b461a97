//! What we say.

use super::{Connection, Phase, Role};
use crate::packet::{
    ConnAck, Connect, ConnectCode, Packet, PacketId, Publish, Qos, SubAck, encode_subscribe,
    encode_unsubscribe,
};

/// A message to send.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// Where it is published: no wildcards, at most 65,535 bytes.
    pub topic: &'a str,
    /// What is published.
    pub payload: &'a [u8],
    /// Whether it is to be acknowledged.
    pub needs_ack: bool,
    /// Whether it is to be kept for later subscribers.
    pub retain: bool,
}

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendRefused {
    /// The connection is not open.
    #[error("the connection is not open")]
    NotOpen,
    /// As many messages as may be wait for their acknowledgement.
    #[error("as many messages as may be wait for their acknowledgement")]
    Window,
}

impl Connection {
    /// Accept the client whose CONNECT waits. `session_present`: it is known from an earlier connection.
    pub fn accept(&mut self, session_present: bool, now_ms: u64, output: &mut Vec<u8>) {
        if (self.role, self.phase) == (Role::Server, Phase::Connecting) {
            self.phase = Phase::Open;
            self.deadline_ms = now_ms + self.patience_ms();
            Packet::ConnAck(ConnAck { session_present, code: ConnectCode::Accepted }).encode(output);
        }
    }

    /// Refuse the client whose CONNECT waits. The connection is over once `output` is sent.
    pub fn refuse(&mut self, code: ConnectCode, output: &mut Vec<u8>) {
        if (self.role, self.phase) == (Role::Server, Phase::Connecting) {
            Packet::ConnAck(ConnAck { session_present: false, code }).encode(output);
        }
        self.phase = Phase::Closed;
    }

    /// End the connection. A client says goodbye; a server has no word for it.
    pub fn close(&mut self, output: &mut Vec<u8>) {
        if (self.role, self.phase) == (Role::Client, Phase::Open) {
            Packet::Disconnect.encode(output);
        }
        self.phase = Phase::Closed;
    }

    /// Send a message; its identifier, if it is to be acknowledged.
    ///
    /// # Errors
    ///
    /// [`SendRefused`]: nothing was sent.
    ///
    /// # Panics
    ///
    /// If the topic is longer than 65,535 bytes.
    pub fn publish(
        &mut self,
        draft: &Draft<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Option<PacketId>, SendRefused> {
        if self.phase != Phase::Open {
            return Err(SendRefused::NotOpen);
        }
        let Draft { topic, payload, needs_ack, retain } = *draft;
        let id = match needs_ack {
            true if self.window() == 0 => return Err(SendRefused::Window),
            true => Some(self.in_flight.begin()),
            false => None,
        };
        let qos = if needs_ack { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        Packet::Publish(Publish { topic, payload, qos, id, duplicate: false, retain }).encode(output);
        Ok(id)
    }

    /// How many more messages may be sent that are to be acknowledged.
    pub fn window(&self) -> usize {
        self.in_flight.room(self.config.in_flight_max)
    }

    /// Tell the peer that its message has arrived.
    pub fn acknowledge(&mut self, id: PacketId, output: &mut Vec<u8>) {
        if self.phase == Phase::Open {
            Packet::PubAck(id).encode(output);
        }
    }

    /// Answer a SUBSCRIBE: for each of its filters the quality of service granted, or [`SubAck::REFUSED`].
    pub fn answer_subscribe(&mut self, id: PacketId, codes: &[u8], output: &mut Vec<u8>) {
        if self.phase == Phase::Open {
            Packet::SubAck(SubAck { id, codes }).encode(output);
        }
    }

    /// Answer an UNSUBSCRIBE.
    pub fn answer_unsubscribe(&mut self, id: PacketId, output: &mut Vec<u8>) {
        if self.phase == Phase::Open {
            Packet::UnsubAck(id).encode(output);
        }
    }

    /// Client: introduce itself, once.
    ///
    /// # Panics
    ///
    /// If a text, a will's payload or the password is longer than 65,535 bytes.
    pub fn connect(&mut self, connect: &Connect<'_>, now_ms: u64, output: &mut Vec<u8>) {
        if (self.role, self.phase) == (Role::Client, Phase::New) {
            self.phase = Phase::Connecting;
            self.keep_alive_s = connect.keep_alive_s;
            self.deadline_ms = now_ms + self.config.connect_timeout_ms;
            Packet::Connect(*connect).encode(output);
        }
    }

    /// Client: ask for messages; the identifier comes back in [`Event::SubAck`](super::Event::SubAck).
    ///
    /// # Panics
    ///
    /// If a filter is longer than 65,535 bytes.
    pub fn subscribe(&mut self, filters: &[(&str, Qos)], output: &mut Vec<u8>) -> PacketId {
        let id = self.in_flight.give();
        encode_subscribe(id, filters, output);
        id
    }

    /// Client: ask for messages no longer.
    ///
    /// # Panics
    ///
    /// If a filter is longer than 65,535 bytes.
    pub fn unsubscribe(&mut self, filters: &[&str], output: &mut Vec<u8>) -> PacketId {
        let id = self.in_flight.give();
        encode_unsubscribe(id, filters, output);
        id
    }

    /// Client: say that it is there.
    pub fn ping(&mut self, output: &mut Vec<u8>) {
        Packet::PingReq.encode(output);
    }

    /// How often a client pings: twice in its keep-alive, whatever else it says, so that no clock is needed at each packet.
    pub(super) fn ping_interval_ms(&self) -> u64 {
        u64::from(self.keep_alive_s) * 500
    }
}
