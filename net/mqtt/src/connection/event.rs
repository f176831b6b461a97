//! What comes of the peer's packets.

use super::{Connection, Phase};
use crate::packet::{
    ConnAck, Connect, ConnectCode, Packet, PacketId, Publish, SubAck, Subscribe, Unsubscribe,
};

/// What a peer said, borrowed from its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Nothing for the caller to do.
    Handled,
    /// A client introduces itself and waits for [`Connection::accept`] or [`Connection::refuse`].
    Connect(Connect<'a>),
    /// A message, at quality of service 0 or 1. With an identifier it waits for [`Connection::acknowledge`], in the order of
    /// arrival [MQTT-4.6.0-2].
    Publish(Publish<'a>),
    /// The message of ours with this identifier has arrived.
    Acknowledged(PacketId),
    /// A client wants messages and waits for [`Connection::answer_subscribe`].
    Subscribe(Subscribe<'a>),
    /// A client no longer wants messages and waits for [`Connection::answer_unsubscribe`].
    Unsubscribe(Unsubscribe<'a>),
    /// A client has said goodbye; the connection is over.
    Disconnect,
    /// The server's verdict; the connection is open, or over.
    ConnAck(ConnAck),
    /// What the server grants of a subscription.
    SubAck(SubAck<'a>),
    /// The server's answer to an UNSUBSCRIBE.
    UnsubAck(PacketId),
}

impl Connection {
    /// What a client's packet comes to; none: clients do not send it, or not now.
    pub(super) fn take_from_client<'a>(
        &mut self,
        packet: Packet<'a>,
        output: &mut Vec<u8>,
    ) -> Option<Event<'a>> {
        let event = match (self.phase, packet) {
            (Phase::New, Packet::Connect(connect)) => {
                self.phase = Phase::Connecting;
                self.keep_alive_s = connect.keep_alive_s;
                Event::Connect(connect)
            }
            (Phase::Open, Packet::Subscribe(subscribe)) => Event::Subscribe(subscribe),
            (Phase::Open, Packet::Unsubscribe(unsubscribe)) => Event::Unsubscribe(unsubscribe),
            (Phase::Open, Packet::PingReq) => {
                Packet::PingResp.encode(output);
                Event::Handled
            }
            (Phase::Open, Packet::Disconnect) => {
                self.phase = Phase::Closed;
                Event::Disconnect
            }
            (Phase::Open, packet) => return self.take_message(packet),
            _ => return None,
        };
        Some(event)
    }

    /// What a server's packet comes to; none: servers do not send it, or not now.
    pub(super) fn take_from_server<'a>(&mut self, packet: Packet<'a>, now_ms: u64) -> Option<Event<'a>> {
        let event = match (self.phase, packet) {
            (Phase::Connecting, Packet::ConnAck(answer)) => {
                self.phase = match answer.code {
                    ConnectCode::Accepted => Phase::Open,
                    _ => Phase::Closed,
                };
                self.deadline_ms = now_ms + self.ping_interval_ms();
                Event::ConnAck(answer)
            }
            (Phase::Open, Packet::SubAck(answer)) => Event::SubAck(answer),
            (Phase::Open, Packet::UnsubAck(id)) => Event::UnsubAck(id),
            (Phase::Open, Packet::PingResp) => Event::Handled,
            (Phase::Open, packet) => return self.take_message(packet),
            _ => return None,
        };
        Some(event)
    }

    fn take_message<'a>(&mut self, packet: Packet<'a>) -> Option<Event<'a>> {
        match packet {
            Packet::Publish(publish) => Some(Event::Publish(publish)),
            Packet::PubAck(id) => {
                // One that we do not wait for says nothing: an earlier one may have been sent twice.
                Some(match self.in_flight.end(id) {
                    true => Event::Acknowledged(id),
                    false => Event::Handled,
                })
            }
            _ => None,
        }
    }
}
