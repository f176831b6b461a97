//! A device's subscription to its commands: what was sent and not acknowledged yet.

use engine::request::{LockToken, LockedCommand, Settlement};

use super::frame::Frame;
use super::limits::COMMAND_WINDOW;
use crate::binding::fields::{CommandFields, OWN_PREFIX};

/// Who says that a command has arrived [STOMP 1.2: SUBSCRIBE ack].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody: it is completed when it is sent.
    Auto,
    /// The device, for a message and those before it.
    Client,
    /// The device, for each message.
    ClientIndividual,
}

impl Mode {
    /// From the header; without one it is [`Mode::Auto`].
    pub fn of(header: Option<&str>) -> Option<Self> {
        match header {
            None | Some("auto") => Some(Self::Auto),
            Some("client") => Some(Self::Client),
            Some("client-individual") => Some(Self::ClientIndividual),
            Some(_) => None,
        }
    }
}

/// The one subscription of a connection.
#[derive(Debug)]
pub struct Subscription {
    id: Box<str>,
    destination: Box<str>,
    mode: Mode,
    /// Sent and not acknowledged, by their numbers for ACK; locked.
    on_the_way: Vec<(u64, LockToken)>,
    last_number: u64,
}

impl Subscription {
    /// As the device calls it.
    pub fn new(id: &str, destination: &str, mode: Mode) -> Self {
        Self { id: id.into(), destination: destination.into(), mode, on_the_way: Vec::new(), last_number: 0 }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many more commands may be sent.
    pub fn room(&self) -> u32 {
        u32::try_from(COMMAND_WINDOW.saturating_sub(self.on_the_way.len())).unwrap_or(0)
    }

    /// Send a command; how it is settled at once, if it is.
    pub fn send(&mut self, command: &LockedCommand, output: &mut Vec<u8>) -> Option<Settlement> {
        // What cannot be read is no fault of the device's: who sent it is to hear that.
        let Ok(fields) = CommandFields::read(command) else { return Some(Settlement::Reject) };
        let mut frame = Frame::new("MESSAGE")
            .with("subscription", &*self.id)
            .with("message-id", command.number.0.to_string())
            .with("destination", &*self.destination);
        if self.mode != Mode::Auto {
            self.last_number += 1;
            self.on_the_way.push((self.last_number, command.token));
            frame = frame.with("ack", self.last_number.to_string());
        }
        if let Some(content_type) = fields.content_type {
            frame = frame.with("content-type", content_type);
        }
        for (name, value) in fields.known {
            frame = frame.with(name, value);
        }
        for (name, value) in fields.own {
            frame = frame.with(format!("{OWN_PREFIX}{name}"), value);
        }
        frame.with_body(fields.body).encode(output);
        (self.mode == Mode::Auto).then_some(Settlement::Complete)
    }

    /// What an ACK or NACK of this id settles, in the order in which it was sent. None: nothing of this id was sent.
    pub fn settle(&mut self, id: &str) -> Option<Vec<LockToken>> {
        let number: u64 = id.parse().ok()?;
        let place = self.on_the_way.iter().position(|(known, _)| *known == number)?;
        let range = if self.mode == Mode::Client { 0..place + 1 } else { place..place + 1 };
        let settled = self.on_the_way.drain(range).map(|(_, token)| token).collect();
        if self.on_the_way.is_empty() {
            self.on_the_way = Vec::new();
        }
        Some(settled)
    }
}

#[cfg(test)]
mod tests {
    use engine::request::{Ack, PartitionId, SequenceNumber};
    use net_amqp::{MessageBuilder, Value};

    use super::*;

    fn command(number: u64) -> LockedCommand {
        let message =
            MessageBuilder::default().application_property("a:b", Value::String("c\nd")).data(b"go");
        LockedCommand {
            token: LockToken::new(PartitionId(0), SequenceNumber(number), 7),
            number: SequenceNumber(number),
            enqueued_ms: 0,
            expires_ms: 1,
            delivery_count: 0,
            ack: Ack::None,
            message: message.encode().into(),
        }
    }

    fn sent(mode: Mode, count: u64) -> Subscription {
        let mut subscription = Subscription::new("s", "/d", mode);
        for number in 10..10 + count {
            let mut output = Vec::new();
            let settlement = subscription.send(&command(number), &mut output);
            assert_eq!(settlement, (mode == Mode::Auto).then_some(Settlement::Complete));
            let text = String::from_utf8(output).unwrap();
            assert!(text.contains("\niothub-app-a\\cb:c\\nd\n") && text.ends_with("\n\ngo\0"), "{text}");
        }
        subscription
    }

    fn numbers(tokens: Option<Vec<LockToken>>) -> Vec<u64> {
        tokens.into_iter().flatten().map(|token| token.number().0).collect()
    }

    #[test]
    fn one_by_one_or_all_before() {
        let mut one = sent(Mode::ClientIndividual, 3);
        assert_eq!(numbers(one.settle("2")), [11]);
        assert_eq!(one.settle("2"), None);
        assert_eq!(one.room() as usize, COMMAND_WINDOW - 2);
        let mut all = sent(Mode::Client, 3);
        assert_eq!(numbers(all.settle("2")), [10, 11]);
        assert_eq!(numbers(all.settle("3")), [12]);
        assert_eq!(all.room() as usize, COMMAND_WINDOW);
        assert_eq!(sent(Mode::Auto, 20).settle("1"), None);
        for id in ["", "x", "0", "99999999999999999999999"] {
            assert_eq!(sent(Mode::Client, 1).settle(id), None, "{id}");
        }
    }
}
