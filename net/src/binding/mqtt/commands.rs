//! Commands on their way to the device: received from its queue under a lock, sent, and completed when the device says
//! that it has them.

use engine::request::{LockToken, LockedCommand, Settlement, Subscription};
use net_mqtt::{Connection, Draft, PacketId};

use super::bag::encode_command;
use crate::binding::Context;
use crate::binding::presence::Presence;

/// The device's subscription to its commands.
#[derive(Debug)]
pub struct Commands {
    /// What its topics begin with, as the device writes it.
    prefix: Box<str>,
    /// Quality of service 1: the device acknowledges.
    needs_ack: bool,
    /// Sent and not acknowledged; locked.
    on_the_way: Vec<(PacketId, LockToken)>,
    /// The device has unsubscribed: nothing more is sent, and what is on the way is completed [MQTT-3.10.4-3].
    is_ending: bool,
}

impl Commands {
    /// A subscription whose receiver is being opened.
    pub fn new(prefix: &str, needs_ack: bool) -> Self {
        Self { prefix: prefix.into(), needs_ack, on_the_way: Vec::new(), is_ending: false }
    }

    /// The device has subscribed again.
    pub fn renew(&mut self, prefix: &str, needs_ack: bool) {
        self.prefix = prefix.into();
        self.needs_ack = needs_ack;
        self.is_ending = false;
    }

    /// The device has unsubscribed.
    pub fn begin_end(&mut self) {
        self.is_ending = true;
    }

    /// Whether the device has unsubscribed.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Whether the device has unsubscribed and has everything that was on the way.
    pub fn is_ended(&self) -> bool {
        self.is_ending && self.on_the_way.is_empty()
    }

    /// What is kept of it while the device is away.
    pub fn subscription(&self) -> Subscription {
        Subscription { address: self.prefix.clone(), needs_ack: self.needs_ack }
    }

    /// Send a command, or give it back where the device no longer wants any.
    pub fn send(
        &mut self,
        command: &LockedCommand,
        connection: &mut Connection,
        presence: &mut Presence<PacketId>,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) {
        if self.is_ending {
            return presence.settle(command.token, Settlement::Release, 0, hub);
        }
        let mut topic = String::with_capacity(self.prefix.len() + 128);
        topic.push_str(&self.prefix);
        let sent = match encode_command(&command.message, &mut topic) {
            Ok(payload) if topic.len() <= usize::from(u16::MAX) => {
                let draft =
                    Draft { topic: &topic, payload: &payload, needs_ack: self.needs_ack, retain: false };
                connection.publish(&draft, output)
            }
            // No topic can carry it: who sent it is to hear that.
            _ => return presence.settle(command.token, Settlement::Reject, 0, hub),
        };
        match sent {
            Ok(Some(id)) => self.on_the_way.push((id, command.token)),
            Ok(None) => presence.settle(command.token, Settlement::Complete, 0, hub),
            Err(_) => presence.settle(command.token, Settlement::Release, 0, hub),
        }
    }

    /// The device says that it has a command: it is completed.
    pub fn complete(&mut self, id: PacketId, presence: &mut Presence<PacketId>, hub: &mut Context<'_>) {
        let Some(place) = self.on_the_way.iter().position(|(sent, _)| *sent == id) else { return };
        let (_, token) = self.on_the_way.remove(place);
        if self.on_the_way.is_empty() {
            self.on_the_way = Vec::new();
        }
        presence.settle(token, Settlement::Complete, 0, hub);
    }
}
