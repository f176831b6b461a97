//! Commands on their way to the device: received from its queue under a lock, sent, and completed when the device says
//! that it has them.

use engine::request::{Holder, LockToken, LockedCommand, ReceiverId, Request, Settlement, Subscription};
use net_mqtt::{Connection, Draft, PacketId};

use super::bag::encode_command;
use super::limits::COMMAND_WINDOW;

/// The device's subscription to its commands.
#[derive(Debug)]
pub struct Commands {
    /// What its topics begin with, as the device writes it.
    prefix: Box<str>,
    /// Quality of service 1: the device acknowledges.
    needs_ack: bool,
    /// None: it is being opened.
    receiver: Option<ReceiverId>,
    is_receiving: bool,
    /// Sent and not acknowledged; locked.
    on_the_way: Vec<(PacketId, LockToken)>,
}

impl Commands {
    /// A subscription whose receiver is being opened.
    pub fn new(prefix: &str, needs_ack: bool) -> Self {
        Self { prefix: prefix.into(), needs_ack, receiver: None, is_receiving: false, on_the_way: Vec::new() }
    }

    /// The device has subscribed again.
    pub fn renew(&mut self, prefix: &str, needs_ack: bool) {
        self.prefix = prefix.into();
        self.needs_ack = needs_ack;
    }

    /// What is kept of it while the device is away.
    pub fn subscription(&self) -> Subscription {
        Subscription { address: self.prefix.clone(), needs_ack: self.needs_ack }
    }

    /// Its receiver, once it is open.
    pub fn receiver(&self) -> Option<ReceiverId> {
        self.receiver
    }

    /// The receiver is open.
    pub fn open(&mut self, receiver: ReceiverId) {
        self.receiver = Some(receiver);
    }

    /// What to ask for next: as much as may be on the way. None: nothing, now.
    pub fn ask(&mut self, connection: &Connection) -> Option<Request> {
        let count_max = u32::try_from(connection.window()).unwrap_or(u32::MAX);
        let receiver = self.receiver.filter(|_| !self.is_receiving && count_max > 0)?;
        self.is_receiving = true;
        Some(Request::Receive { receiver, count_max: count_max.min(COMMAND_WINDOW.into()) })
    }

    /// What was asked for has its answer.
    pub fn end_receive(&mut self) {
        self.is_receiving = false;
    }

    /// Send a command; what it becomes at once, if anything.
    pub fn send(
        &mut self,
        connection: &mut Connection,
        command: &LockedCommand,
        output: &mut Vec<u8>,
    ) -> Option<Request> {
        let mut topic = String::with_capacity(self.prefix.len() + 128);
        topic.push_str(&self.prefix);
        let sent = match encode_command(&command.message, &mut topic) {
            Ok(payload) if topic.len() <= usize::from(u16::MAX) => {
                let draft =
                    Draft { topic: &topic, payload: &payload, needs_ack: self.needs_ack, retain: false };
                connection.publish(&draft, output)
            }
            // No topic can carry it: who sent it is to hear that.
            _ => return self.settle(command.token, Settlement::Reject),
        };
        match sent {
            Ok(Some(id)) => {
                self.on_the_way.push((id, command.token));
                None
            }
            Ok(None) => self.settle(command.token, Settlement::Complete),
            Err(_) => self.settle(command.token, Settlement::Release),
        }
    }

    /// The device says that it has a command; the request that completes it.
    pub fn complete(&mut self, id: PacketId) -> Option<Request> {
        let place = self.on_the_way.iter().position(|(sent, _)| *sent == id)?;
        let (_, token) = self.on_the_way.remove(place);
        self.settle(token, Settlement::Complete)
    }

    fn settle(&self, token: LockToken, settlement: Settlement) -> Option<Request> {
        let holder = Holder::Receiver(self.receiver?);
        Some(Request::Settle { holder, token, settlement })
    }
}
