//! The door's part for commands: what is enqueued, received under a lock, settled, and told back as receipts.
//!
//! A command waits in its device's queue until the device takes it. Receiving locks it ([IoT Hub: Invisible]); settling needs
//! the lock's token. What became of it can be told to the back end as a receipt, and receipts are received and settled in
//! batches the same way. Both kinds of receivers ask with a budget and are answered as soon as there is something, so
//! that nobody polls.

use std::fmt;
use std::sync::Arc;

use registry::{DeviceId, GenerationId};

use super::{Grant, PartitionId, SequenceNumber};
use crate::monitor::Protocol;

/// A receiver of one device's commands or of one partition's receipts, issued by the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReceiverId {
    /// The partition it receives from.
    pub partition: PartitionId,
    /// Slot in the partition's table of receivers.
    pub slot: u32,
    /// Tells it from earlier users of the slot.
    pub generation: u32,
}

/// Proof of a lock: names the partition and what is locked, and is different for each time it is locked. Becomes worthless
/// with the lock, and with a restart of the hub.
///
/// Its 16 bytes are: partition (2, little-endian), low 48 bits of the sequence number (6, little-endian), a nonce (8).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LockToken(pub [u8; 16]);

impl LockToken {
    /// A token for what has this number in this partition.
    pub fn new(partition: PartitionId, number: SequenceNumber, nonce: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&partition.0.to_le_bytes());
        bytes[2..8].copy_from_slice(&number.0.to_le_bytes()[..6]);
        bytes[8..].copy_from_slice(&nonce.to_le_bytes());
        Self(bytes)
    }

    /// The partition that it names; it may not exist.
    pub fn partition(&self) -> PartitionId {
        PartitionId(u16::from_le_bytes([self.0[0], self.0[1]]))
    }

    /// The number of the command or batch that it names.
    pub fn number(&self) -> SequenceNumber {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&self.0[2..8]);
        SequenceNumber(u64::from_le_bytes(bytes))
    }

    /// What tells this lock from the others of the same command or batch.
    pub fn nonce(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[8..]);
        u64::from_le_bytes(bytes)
    }

    /// Read the text form, with or without hyphens. None: it is no token.
    pub fn parse(text: &str) -> Option<Self> {
        uuid::Uuid::try_parse(text).ok().map(|uuid| Self(uuid.into_bytes()))
    }
}

/// The text form: a uuid's.
impl fmt::Display for LockToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).as_hyphenated().fmt(formatter)
    }
}

impl fmt::Debug for LockToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "LockToken({self})")
    }
}

/// Which outcomes of a command its sender wants to hear of [IoT Hub: `iothub-ack`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ack {
    /// None.
    #[default]
    None,
    /// Completion.
    Positive,
    /// Expiry, too many deliveries, rejection, purge.
    Negative,
    /// All of them.
    Full,
}

/// A command to enqueue.
#[derive(Clone, Debug)]
pub struct CommandDraft {
    /// For which device.
    pub device: DeviceId,
    /// The AMQP bare message (properties, application properties, body sections) as the device is to get it, opaque to the
    /// engine.
    pub message: Vec<u8>,
    /// Its id, for receipts; at most 128 bytes. Empty: it has none.
    pub message_id: String,
    /// Which outcomes are told.
    pub ack: Ack,
    /// When it expires, milliseconds since 1970; none: after the default time to live.
    pub expires_ms: Option<u64>,
}

/// A command that is locked for its receiver. A clone costs a reference count.
#[derive(Clone, Debug)]
pub struct LockedCommand {
    /// Settles it.
    pub token: LockToken,
    /// Its number: ascending in a device's queue, unique in its partition.
    pub number: SequenceNumber,
    /// When it was enqueued, milliseconds since 1970.
    pub enqueued_ms: u64,
    /// When it expires, milliseconds since 1970.
    pub expires_ms: u64,
    /// How often it was given back before.
    pub delivery_count: u8,
    /// Which outcomes are told.
    pub ack: Ack,
    /// The bare message as it was enqueued.
    pub message: Arc<[u8]>,
}

/// What a receiver says of what it has locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// It is done with: remove it. Receipt: [`Outcome::Success`].
    Complete,
    /// Put it back where it was and raise its delivery count; at the maximum it is dead-lettered instead.
    Abandon,
    /// Put it back where it was, as if it had never been received: for what was locked but never sent.
    Release,
    /// Dead-letter it. Receipt: [`Outcome::Rejected`].
    Reject,
}

/// What became of a command, in the words of the receipts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The device completed it.
    Success,
    /// Its time to live ended first.
    Expired,
    /// It was given back as often as may be.
    DeliveryCountExceeded,
    /// The device rejected it.
    Rejected,
    /// The queue was purged.
    Purged,
}

impl Outcome {
    /// The word that receipts carry \[IoT Hub: feedback message, `statusCode`\].
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Success => "Success",
            Outcome::Expired => "Expired",
            Outcome::DeliveryCountExceeded => "DeliveryCountExceeded",
            Outcome::Rejected => "Rejected",
            Outcome::Purged => "Purged",
        }
    }
}

/// What became of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The command's message id; empty: it had none.
    pub message_id: String,
    /// Its device.
    pub device: DeviceId,
    /// Which of the identities of that id.
    pub generation: GenerationId,
    /// What became of it.
    pub outcome: Outcome,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

/// A batch of receipts that is locked for its receiver.
#[derive(Clone, Debug)]
pub struct LockedReceipts {
    /// Settles the batch.
    pub token: LockToken,
    /// The batch's number in its partition.
    pub number: SequenceNumber,
    /// When the batch was made, milliseconds since 1970.
    pub enqueued_ms: u64,
    /// How often it was given back before.
    pub delivery_count: u8,
    /// 1 to 64, in the order of their outcomes.
    pub receipts: Arc<[Receipt]>,
}

/// Who settles: a lock held by a receiver is settled through it alone, one that belongs to a device by whoever may act for
/// the device, one of receipts that no receiver holds by any back end.
#[derive(Clone, Debug)]
pub enum Holder {
    /// The receiver that was given the lock (AMQP, MQTT).
    Receiver(ReceiverId),
    /// The device, over whatever connection (HTTPS).
    Device {
        /// Which.
        device: DeviceId,
        /// What the caller rests on; checked against the identity as it is now.
        grant: Grant,
        /// For monitoring.
        protocol: Protocol,
    },
    /// A back end, over whatever connection (HTTPS): of receipts alone. The caller has checked that it may.
    BackEnd,
}

/// A device's wish for its commands that holds while it is away, so that it need not be said again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// What the device called it; opaque to the engine, at most 512 bytes.
    pub address: Box<str>,
    /// Whether the device acknowledges.
    pub needs_ack: bool,
}

/// How a device's queue stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandQueueStatus {
    /// Commands that wait [IoT Hub: Enqueued].
    pub enqueued: u32,
    /// Commands that are locked [IoT Hub: Invisible].
    pub locked: u32,
}

impl CommandQueueStatus {
    /// All commands in the queue.
    pub fn depth(&self) -> u32 {
        self.enqueued + self.locked
    }
}
