//! The engine's only door: what a caller asks ([`Request`]), what it is told ([`Reply`]), and what it learns unasked
//! ([`Notice`]).
//!
//! All three are closed, owned and `Send`, so that a caller may live on another core. The one borrowed form is
//! [`AppendView`]: a caller on the shard's own core hands over the bytes where they lie, and the shard copies them into
//! the log's write buffer, once. No word of AMQP, HTTP or MQTT appears here.

mod bulk;
mod command;
mod enrolment;
mod error;
mod policy;
mod reply;

use registry::{ConsumerGroupId, DeviceId, ETag, GenerationId, PolicyName, Rights};

pub use bulk::DeviceChange;
pub use command::{
    Ack, CommandDraft, CommandQueueStatus, Holder, LockToken, LockedCommand, LockedReceipts, Outcome,
    Receipt, ReceiverId, Settlement, Subscription,
};
pub use enrolment::{Attested, EnrolmentReply, EnrolmentRequest, Page, Proof};
pub use error::{EngineError, UnauthorizedReason};
pub use policy::{KeyWish, PolicyDraft, PolicyRequest};
pub use registry::DeviceDraft;
pub use reply::{
    Appended, ConsumerGroupView, DeviceCounts, DeviceView, EventBatch, Notice, PartitionStatus, PolicyView,
    Reply, SessionEnd,
};

use crate::monitor::Protocol;

/// A partition of the hub, from 0. Stable for ever: it is written in paths and hashed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId(pub u16);

/// The place of an event in its partition: from 0, one per event, never reused. The Event Hubs offset is this number in
/// decimal text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceNumber(pub u64);

/// A core of this run. Nothing on disk names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(pub u16);

/// One connection of this run: its core, its slot there, and a generation that tells it from earlier users of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The core whose listener accepted the connection.
    pub core: CoreId,
    /// Slot in that core's table.
    pub slot: u32,
    /// Counts the users of the slot.
    pub generation: u32,
}

/// Who asks, and the caller's own mark for the answer. Each request is answered exactly once with the same `Caller`,
/// but for those whose docs say that they have no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// The connection to answer.
    pub connection: ConnectionId,
    /// Opaque to the engine; comes back with the reply.
    pub token: u64,
}

/// A device that is attached for telemetry: one per device and connection, issued by the device's shard. A newer
/// connection's session of the same device ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId {
    /// The device's partition.
    pub partition: PartitionId,
    /// Slot in the partition's table of live sessions.
    pub slot: u32,
    /// Tells it from earlier users of the slot.
    pub generation: u32,
}

/// A reader of one partition, issued by the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReaderId {
    /// The partition it reads.
    pub partition: PartitionId,
    /// Slot in the partition's table of readers.
    pub slot: u32,
    /// Tells it from earlier users of the slot.
    pub generation: u32,
}

/// What a verified token allows. Kept by the connection; checked again wherever it is used, because identities change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whose key signed it.
    pub principal: Principal,
    /// What the token's `sr` covers below the hub's host: path segments, decoded. Empty: the whole hub.
    pub resource: Vec<String>,
    /// When the token ends, seconds since 1970, without the allowed skew.
    pub expires_s: u64,
}

/// The holder of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A device's own key, of this generation and this state of its keys.
    Device {
        /// The device that the token names.
        device: DeviceId,
        /// The identity it was verified against.
        generation: GenerationId,
        /// Version of the identity's keys at that time: a token verified against older keys no longer attaches.
        keys_version: u64,
    },
    /// A hub policy.
    Policy {
        /// Its name.
        name: PolicyName,
        /// Its rights when it was verified.
        rights: Rights,
    },
}

/// Where a reader starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest event kept.
    Earliest,
    /// Only events appended after now.
    Latest,
    /// Behind (or, when inclusive, at) this sequence number. `-1`, before the first, is [`Start::Earliest`].
    Sequence {
        /// The number.
        number: u64,
        /// Whether the event of that number is read too.
        inclusive: bool,
    },
    /// The first event enqueued after (or, when inclusive, at) this time.
    Time {
        /// Milliseconds since 1970, UTC.
        ms: u64,
        /// Whether an event of that very millisecond is read too.
        inclusive: bool,
    },
    /// Behind the group's checkpoint; without one, the oldest.
    Checkpoint,
}

/// One event to append, where its bytes lie.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    /// The AMQP bare message (properties, application properties, body sections), opaque to the engine.
    pub message: &'a [u8],
    /// Further message annotations, encoded as AMQP map entries (key, value, key, value ...) without the map's head.
    /// May be empty.
    pub annotations: &'a [u8],
    /// Number of AMQP values in `annotations` (twice the number of entries).
    pub annotation_value_count: u16,
}

/// Events to append for one session, all or none, in this order. Answered by [`Reply::Appended`] once durable.
#[derive(Clone, Copy, Debug)]
pub struct AppendView<'a> {
    /// The device that sends.
    pub session: SessionId,
    /// At least one.
    pub events: &'a [EventView<'a>],
}

/// The owned form of [`AppendView`], for the way to another core.
#[derive(Clone, Debug)]
pub struct AppendBlock {
    /// The device that sends.
    pub session: SessionId,
    /// What it sends.
    pub events: EventBlock,
}

/// Events of a device that is not attached (HTTPS): all or none, in this order. It neither opens a session nor ends one.
#[derive(Clone, Debug)]
pub struct UnattachedAppend {
    /// The device that sends.
    pub device: DeviceId,
    /// What the caller rests on; checked against the identity as it is now.
    pub grant: Grant,
    /// For monitoring.
    pub protocol: Protocol,
    /// At least one.
    pub events: EventBlock,
}

/// Owned events, all bytes in one block.
#[derive(Clone, Debug, Default)]
pub struct EventBlock {
    /// All events' bytes, one behind the other.
    pub bytes: Vec<u8>,
    /// Where each event lies in `bytes`.
    pub spans: Vec<EventSpan>,
}

impl EventBlock {
    /// Copy an event in behind the others.
    ///
    /// # Panics
    ///
    /// If the block would exceed 4 GiB.
    pub fn push(&mut self, event: &EventView<'_>) {
        let length = |count: usize| u32::try_from(count).expect("events have a limit far below 4 GiB");
        self.spans.push(EventSpan {
            start: length(self.bytes.len()),
            annotations_bytes: length(event.annotations.len()),
            annotation_value_count: event.annotation_value_count,
            message_bytes: length(event.message.len()),
        });
        self.bytes.extend_from_slice(event.annotations);
        self.bytes.extend_from_slice(event.message);
    }

    /// The events where they lie in the block.
    ///
    /// # Panics
    ///
    /// If a span lies outside of the block.
    pub fn views(&self) -> Vec<EventView<'_>> {
        let view = |span: &EventSpan| {
            let (_, rest) = self.bytes.split_at(span.start as usize);
            let (annotations, rest) = rest.split_at(span.annotations_bytes as usize);
            let (message, _) = rest.split_at(span.message_bytes as usize);
            EventView { message, annotations, annotation_value_count: span.annotation_value_count }
        };
        self.spans.iter().map(view).collect()
    }
}

/// One event's place in an [`EventBlock`]: annotations first, the message behind them.
#[derive(Clone, Copy, Debug)]
pub struct EventSpan {
    /// Where the annotations begin.
    pub start: u32,
    /// Length of the annotations.
    pub annotations_bytes: u32,
    /// Number of AMQP values in the annotations.
    pub annotation_value_count: u16,
    /// Length of the message.
    pub message_bytes: u32,
}

/// The condition on which an identity is changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// Whatever its ETag (`*`).
    Any,
    /// Only with this ETag.
    ETag(ETag),
}

/// What can be asked of a shard. The router finds the shard by [`Request::partition`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Request {
    /// Verify a SAS token. A token without `skn` goes to the device's partition, one with `skn` to partition 0.
    /// Reply: [`Reply::Authenticated`].
    Authenticate {
        /// Where it is verified: see [`crate::placement`].
        partition: PartitionId,
        /// The whole token text. Never logged.
        token: SecretText,
        /// How it was presented, for monitoring.
        protocol: Protocol,
    },
    /// Verify a raw policy key (SASL PLAIN with the key's text as password). Partition 0. Reply: [`Reply::Authenticated`].
    AuthenticatePolicyKey {
        /// The policy.
        policy: String,
        /// The key's base64 text. Never logged.
        key: SecretText,
        /// For monitoring.
        protocol: Protocol,
    },
    /// Verify a raw device key (SASL PLAIN). Reply: [`Reply::Authenticated`].
    AuthenticateDeviceKey {
        /// The device.
        device: DeviceId,
        /// The key's base64 text. Never logged.
        key: SecretText,
        /// For monitoring.
        protocol: Protocol,
    },
    /// A device attaches for telemetry. The grant is checked again against the identity as it is now. An older session
    /// of the device on another connection ends ([`Notice::SessionEnded`], `Stolen`). Reply: [`Reply::SessionOpened`].
    OpenSession {
        /// The device.
        device: DeviceId,
        /// What the connection rests on.
        grant: Grant,
        /// For stamps and monitoring.
        protocol: Protocol,
    },
    /// The device's last link on the connection is gone. No reply.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// Append from another core; see [`AppendView`]. Reply: [`Reply::Appended`].
    Append(AppendBlock),
    /// Append for a device that is not attached. Reply: [`Reply::Appended`] once durable, together with what the device's
    /// identity was at that time.
    AppendUnattached(UnattachedAppend),
    /// Attach a reader. Reply: [`Reply::ReaderOpened`].
    OpenReader {
        /// The partition.
        partition: PartitionId,
        /// The consumer group, found by [`Request::FindConsumerGroup`].
        group: ConsumerGroupId,
        /// Where to start.
        start: Start,
        /// Owner level: one live reader with an epoch per partition and group; the newcomer wins unless its epoch is lower.
        epoch: Option<i64>,
        /// The reader's own name for texts about stealing.
        name: Option<String>,
    },
    /// Ask for events. One outstanding read per reader; it waits until there is at least one event, the reader ends or
    /// [`Request::CancelRead`]. Reply: [`Reply::Events`].
    Read {
        /// The reader.
        reader: ReaderId,
        /// Most events in the reply; at least 1.
        event_count_max: u32,
        /// Most bytes of records in the reply; one event may exceed it.
        bytes_max: u32,
    },
    /// Answer the waiting read now, with no events if there are none. No reply of its own.
    CancelRead {
        /// The reader.
        reader: ReaderId,
    },
    /// The reader is gone. No reply of its own; a waiting read is answered with [`EngineError::ReaderEnded`].
    CloseReader {
        /// Which.
        reader: ReaderId,
    },
    /// What the partition holds. Reply: [`Reply::PartitionStatus`].
    DescribePartition {
        /// The partition.
        partition: PartitionId,
    },
    /// Move a checkpoint forward; `force` also backward. Reply: [`Reply::Done`] once durable,
    /// or [`EngineError::CheckpointBeyondEnd`].
    PutCheckpoint {
        /// The partition.
        partition: PartitionId,
        /// The consumer group.
        group: ConsumerGroupId,
        /// The last event that needs no more reading.
        number: SequenceNumber,
        /// Whether it may go back.
        force: bool,
    },
    /// Read a checkpoint. Reply: [`Reply::Checkpoint`].
    FindCheckpoint {
        /// The partition.
        partition: PartitionId,
        /// The consumer group.
        group: ConsumerGroupId,
    },
    /// The group was deleted: end its readers, drop its checkpoint. Reply: [`Reply::Done`] once durable.
    DropConsumerGroup {
        /// The partition.
        partition: PartitionId,
        /// The group.
        group: ConsumerGroupId,
    },
    /// Look a consumer group up by name, without case. Partition 0. Reply: [`Reply::ConsumerGroup`].
    FindConsumerGroup {
        /// Its name.
        name: String,
    },
    /// Create a consumer group. Partition 0. Reply: [`Reply::ConsumerGroup`] once durable.
    CreateConsumerGroup {
        /// 1 to 50 characters of `[A-Za-z0-9._-]`.
        name: String,
    },
    /// Delete a consumer group; the caller then sends [`Request::DropConsumerGroup`] to every partition. Partition 0.
    /// Reply: [`Reply::ConsumerGroup`] (what was deleted) once durable.
    DeleteConsumerGroup {
        /// Its name.
        name: String,
    },
    /// All consumer groups. Partition 0. Reply: [`Reply::ConsumerGroups`].
    ListConsumerGroups,
    /// Create an identity. Reply: [`Reply::Device`] once durable.
    CreateDevice(DeviceDraft),
    /// Change an identity. Reply: [`Reply::Device`] once durable. Live sessions of a device that is disabled or whose keys
    /// changed end before the reply.
    UpdateDevice {
        /// What it shall be.
        draft: DeviceDraft,
        /// Its condition.
        if_match: IfMatch,
    },
    /// Delete an identity. Live sessions end before the reply. Reply: [`Reply::Done`] once durable.
    DeleteDevice {
        /// The id.
        device: DeviceId,
        /// Its condition.
        if_match: IfMatch,
    },
    /// Change many identities of one partition, in this order and in one commit. Reply: [`Reply::DevicesChanged`] once durable.
    ChangeDevices {
        /// The partition of all of them.
        partition: PartitionId,
        /// At most [`DEVICE_CHANGE_COUNT_MAX`](crate::limits::DEVICE_CHANGE_COUNT_MAX); what comes behind is refused as busy.
        changes: Vec<DeviceChange>,
    },
    /// Read an identity. Reply: [`Reply::Device`], once what it shows is durable.
    FindDevice {
        /// The id.
        device: DeviceId,
    },
    /// Identities of one partition in the order of their ids; the router's caller merges the partitions.
    /// Reply: [`Reply::Devices`].
    ListDevices {
        /// The partition.
        partition: PartitionId,
        /// Only ids behind this one.
        after: Option<DeviceId>,
        /// Most identities in the reply.
        count_max: u32,
    },
    /// Count identities and live sessions of one partition. Reply: [`Reply::DeviceCounts`].
    CountDevices {
        /// The partition.
        partition: PartitionId,
    },
    /// Enqueue a command. The caller has checked that whoever asks may send commands. Reply: [`Reply::Done`] once
    /// durable, or [`EngineError::DeviceNotFound`] (also for a disabled device), [`EngineError::QueueFull`],
    /// [`EngineError::CommandTooLarge`], [`EngineError::ExpiryInvalid`].
    EnqueueCommand(CommandDraft),
    /// Attach a receiver for the commands of the session's device. A session has one at most: a newer one ends the older
    /// ([`Notice::ReceiverEnded`]), and the end of the session ends it without a notice of its own.
    /// Reply: [`Reply::ReceiverOpened`].
    OpenCommandReceiver {
        /// The device's session, of the same connection.
        session: SessionId,
    },
    /// Remember what the session's device has subscribed to, across its connections, or that it no longer has.
    /// Reply: [`Reply::Done`] once durable, or [`EngineError::SubscriptionTooLong`].
    PutSubscription {
        /// The device's session, of the same connection.
        session: SessionId,
        /// To what.
        subscription: Option<Subscription>,
    },
    /// What the session's device has subscribed to. Reply: [`Reply::Subscription`], once what it shows is durable.
    FindSubscription {
        /// The device's session, of the same connection.
        session: SessionId,
    },
    /// Attach a receiver for the receipts of one partition. Several compete. Reply: [`Reply::ReceiverOpened`].
    OpenReceiptReceiver {
        /// The partition.
        partition: PartitionId,
    },
    /// Ask for commands or receipt batches, which are locked for the receiver. One outstanding request per receiver; it
    /// waits until there is at least one, the receiver ends or [`Request::CancelReceive`].
    /// Reply: [`Reply::Commands`] or [`Reply::Receipts`].
    Receive {
        /// The receiver.
        receiver: ReceiverId,
        /// Most commands or batches in the reply; at least 1.
        count_max: u32,
    },
    /// Answer the waiting [`Request::Receive`] now, with nothing if there is nothing. No reply of its own.
    CancelReceive {
        /// The receiver.
        receiver: ReceiverId,
    },
    /// The receiver is gone: what it has locked goes back as if it had never been received. No reply of its own; a
    /// waiting request is answered with [`EngineError::ReceiverEnded`].
    CloseReceiver {
        /// Which.
        receiver: ReceiverId,
    },
    /// Receive one command now or none, for a device without a session (HTTPS). The lock belongs to the device.
    /// Reply: [`Reply::Commands`].
    ReceiveCommand {
        /// The device.
        device: DeviceId,
        /// What the caller rests on; checked against the identity as it is now.
        grant: Grant,
        /// For monitoring.
        protocol: Protocol,
        /// How long the lock lasts; none: the default, which is also the most.
        lock_timeout_ms: Option<u64>,
    },
    /// Receive one batch of receipts of a partition now or none, for a back end without a receiver (HTTPS). The lock belongs to
    /// all back ends. Reply: [`Reply::Receipts`].
    ReceiveReceipts {
        /// The partition.
        partition: PartitionId,
    },
    /// Settle a command or a batch of receipts. Reply: [`Reply::Done`] once durable, or [`EngineError::LockLost`].
    Settle {
        /// Who.
        holder: Holder,
        /// What.
        token: LockToken,
        /// How.
        settlement: Settlement,
    },
    /// Remove every command of a device's queue, locked ones too. Reply: [`Reply::CommandsPurged`] once durable.
    PurgeCommands {
        /// The device.
        device: DeviceId,
    },
    /// How a device's queue stands. Reply: [`Reply::CommandQueue`].
    DescribeCommandQueue {
        /// The device.
        device: DeviceId,
    },
    /// About enrolments and registrations.
    Enrolment(EnrolmentRequest),
    /// About policies.
    Policy(PolicyRequest),
    /// Make every change so far durable and take a snapshot where it is due; used before a clean stop.
    /// Reply: [`Reply::Done`].
    Flush {
        /// The partition.
        partition: PartitionId,
    },
}

impl Request {
    /// Whether it has an answer: one, always, unless its connection ends first.
    pub fn is_answered(&self) -> bool {
        !matches!(
            self,
            Request::CloseSession { .. }
                | Request::CancelRead { .. }
                | Request::CloseReader { .. }
                | Request::CancelReceive { .. }
                | Request::CloseReceiver { .. }
        )
    }
}

/// Text that must not be printed: tokens and keys. `Debug` shows its length alone.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// Wrap a token or key.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for verification only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SecretText({} bytes)", self.0.len())
    }
}
