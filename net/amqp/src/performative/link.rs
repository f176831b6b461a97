//! attach and detach.

use super::fields::{error, optional};
use super::{Fields, Source, Symbols, Target, code, describe};
use crate::condition::Error;
use crate::value::{DecodeError, Map, encode};

/// Which end of a link someone is [AMQP 2.8.1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkRole {
    /// It sends messages.
    Sender,
    /// It receives messages.
    Receiver,
}

impl LinkRole {
    /// The other end.
    pub fn opposite(self) -> LinkRole {
        match self {
            LinkRole::Sender => LinkRole::Receiver,
            LinkRole::Receiver => LinkRole::Sender,
        }
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<LinkRole, DecodeError> {
        Ok(match fields.boolean("role")?.ok_or(DecodeError::MissingField("role"))? {
            true => LinkRole::Receiver,
            false => LinkRole::Sender,
        })
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        encode::boolean(out, self == LinkRole::Receiver);
    }
}

/// snd-settle-mode [AMQP 2.8.2].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenderSettleMode {
    /// Nothing is sent settled.
    Unsettled = 0,
    /// Everything is sent settled.
    Settled = 1,
    /// Either.
    #[default]
    Mixed = 2,
}

/// rcv-settle-mode [AMQP 2.8.3].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReceiverSettleMode {
    /// The receiver settles of its own accord.
    #[default]
    First = 0,
    /// The receiver settles after the sender has.
    Second = 1,
}

/// attach [AMQP 2.7.3].
#[derive(Clone, Debug, PartialEq)]
pub struct Attach<'a> {
    /// Name of the link.
    pub name: &'a str,
    /// Number of the link in the frames of whoever sends this.
    pub handle: u32,
    /// Which end whoever sends this is.
    pub role: LinkRole,
    /// How the sender settles.
    pub sender_settle_mode: SenderSettleMode,
    /// How the receiver settles.
    pub receiver_settle_mode: ReceiverSettleMode,
    /// Where messages come from. `None` on both sides of an answer is a refusal.
    pub source: Option<Source<'a>>,
    /// Where messages go.
    pub target: Option<Target<'a>>,
    /// Deliveries that a resumed link has not settled.
    pub unsettled: Option<Map<'a>>,
    /// Whether `unsettled` is only a part.
    pub incomplete_unsettled: bool,
    /// Delivery count to begin with; from senders alone.
    pub initial_delivery_count: Option<u32>,
    /// Largest message taken on the link, bytes; 0 and null mean no limit.
    pub max_message_bytes: Option<u64>,
    /// Offered capabilities.
    pub offered_capabilities: Symbols<'a>,
    /// Desired capabilities.
    pub desired_capabilities: Symbols<'a>,
    /// Link properties; the keys are symbols.
    pub properties: Option<Map<'a>>,
}

impl<'a> Attach<'a> {
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Attach<'a>, DecodeError> {
        Ok(Attach {
            name: fields.string("name")?.ok_or(DecodeError::MissingField("name"))?,
            handle: fields.uint("handle")?.ok_or(DecodeError::MissingField("handle"))?,
            role: LinkRole::decode(fields)?,
            sender_settle_mode: match fields.ubyte("snd-settle-mode")? {
                None | Some(2) => SenderSettleMode::Mixed,
                Some(0) => SenderSettleMode::Unsettled,
                Some(1) => SenderSettleMode::Settled,
                Some(_) => return Err(DecodeError::WrongType("snd-settle-mode")),
            },
            receiver_settle_mode: match fields.ubyte("rcv-settle-mode")? {
                None | Some(0) => ReceiverSettleMode::First,
                Some(1) => ReceiverSettleMode::Second,
                Some(_) => return Err(DecodeError::WrongType("rcv-settle-mode")),
            },
            source: Source::decode(fields)?,
            target: Target::decode(fields)?,
            unsettled: fields.map("unsettled")?,
            incomplete_unsettled: fields.boolean("incomplete-unsettled")?.unwrap_or(false),
            initial_delivery_count: fields.uint("initial-delivery-count")?,
            max_message_bytes: fields.ulong("max-message-size")?,
            offered_capabilities: fields.symbols("offered-capabilities")?,
            desired_capabilities: fields.symbols("desired-capabilities")?,
            properties: fields.map("properties")?,
        })
    }

    /// Appends the performative with its fourteen fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::ATTACH);
        let list = encode::begin_list(out);
        encode::string(out, self.name);
        encode::uint(out, self.handle);
        self.role.encode(out);
        encode::ubyte(out, self.sender_settle_mode as u8);
        encode::ubyte(out, self.receiver_settle_mode as u8);
        optional(out, self.source.as_ref(), |out, source| source.encode(out));
        optional(out, self.target.as_ref(), |out, target| target.encode(out));
        optional(out, self.unsettled.as_ref(), encode::map);
        encode::boolean(out, self.incomplete_unsettled);
        optional(out, self.initial_delivery_count, encode::uint);
        optional(out, self.max_message_bytes, encode::ulong);
        self.offered_capabilities.encode(out);
        self.desired_capabilities.encode(out);
        optional(out, self.properties.as_ref(), encode::map);
        list.end(out, 14);
    }
}

/// detach [AMQP 2.7.7].
#[derive(Clone, Debug, PartialEq)]
pub struct Detach<'a> {
    /// The link, by the handle of whoever sends this.
    pub handle: u32,
    /// Whether the link is over for good.
    pub closed: bool,
    /// Why, when not in peace.
    pub error: Option<Error<'a>>,
}

impl<'a> Detach<'a> {
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Detach<'a>, DecodeError> {
        Ok(Detach {
            handle: fields.uint("handle")?.ok_or(DecodeError::MissingField("handle"))?,
            closed: fields.boolean("closed")?.unwrap_or(false),
            error: fields.error()?,
        })
    }

    /// Appends the performative with its three fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::DETACH);
        let list = encode::begin_list(out);
        encode::uint(out, self.handle);
        encode::boolean(out, self.closed);
        error(out, self.error.as_ref());
        list.end(out, 3);
    }
}
