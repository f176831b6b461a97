//! What a caller is told: answers, and what it learns unasked.

use registry::{
    ConsumerGroupId, DeviceId, DeviceKeys, DeviceStatus, ETag, GenerationId, Life, PolicyName, Rights,
};

use super::{
    CommandQueueStatus, EngineError, EnrolmentReply, Grant, LockedCommand, LockedReceipts, PartitionId,
    ReaderId, ReceiverId, SequenceNumber, SessionId, Subscription,
};
use crate::payload::SharedRecords;

/// An identity as callers see it.
#[derive(Clone, Debug)]
pub struct DeviceView {
    /// The id.
    pub device: DeviceId,
    /// New with every creation.
    pub generation: GenerationId,
    /// New with every change.
    pub etag: ETag,
    /// Both keys.
    pub keys: DeviceKeys,
    /// Enabled or disabled.
    pub status: DeviceStatus,
    /// Why.
    pub status_reason: Option<String>,
    /// When the status last changed, milliseconds since 1970; none: never.
    pub status_updated_ms: Option<u64>,
    /// Whether it is attached right now.
    pub connected: bool,
    /// When that last changed, as far as this run knows.
    pub connection_updated_ms: Option<u64>,
    /// Its last event or attach, as far as this run knows.
    pub last_activity_ms: Option<u64>,
    /// Commands in its queue, locked ones too.
    pub command_count: u32,
    /// What its life has brought so far.
    pub life: Life,
}

/// A policy with its keys.
#[derive(Clone, Debug)]
pub struct PolicyView {
    /// Its name.
    pub name: PolicyName,
    /// What it allows.
    pub rights: Rights,
    /// Both keys.
    pub keys: DeviceKeys,
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerGroupView {
    /// Its incarnation: a group created again has another.
    pub id: ConsumerGroupId,
    /// Its name as created.
    pub name: String,
    /// When, milliseconds since 1970.
    pub created_ms: u64,
}

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which.
    pub partition: PartitionId,
    /// The oldest event kept; equals `next` when there is none.
    pub first: SequenceNumber,
    /// The number that the next durable event gets; `next - 1` is the last readable one.
    pub next: SequenceNumber,
    /// When the last event was enqueued, milliseconds since 1970; 0 when there never was one.
    pub last_enqueued_ms: u64,
}

/// Events for a reader, in order.
#[derive(Clone, Debug)]
pub struct EventBatch {
    /// The stored records; see [`crate::event::StoredEvent`] for what each holds.
    pub records: SharedRecords,
    /// The partition at the time of reading, for runtime metrics.
    pub status: PartitionStatus,
}

/// The answer to an append, [`Reply::Appended`], with its caller's mark: for those who hand many of them on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The caller's mark, from [`Caller::token`](super::Caller::token).
    pub token: u64,
    /// The first event's number; the others follow without a gap.
    pub first: SequenceNumber,
    /// How many.
    pub event_count: u32,
}

/// The answers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Reply {
    /// The request failed.
    Failed(EngineError),
    /// The request is done, and durable where it changes something.
    Done,
    /// The token or key is good.
    Authenticated(Grant),
    /// The device is attached.
    SessionOpened(SessionId),
    /// The events are durable.
    Appended {
        /// The first one's number; the others follow without a gap.
        first: SequenceNumber,
        /// How many.
        event_count: u32,
    },
    /// The reader is attached.
    ReaderOpened {
        /// Its id.
        reader: ReaderId,
        /// What it will read first (or later, should that be gone by then).
        next: SequenceNumber,
        /// The position asked for is older than what is kept; reading starts at the oldest.
        truncated: bool,
    },
    /// Events, at least one unless the read was cancelled.
    Events {
        /// Whose.
        reader: ReaderId,
        /// What.
        batch: EventBatch,
    },
    /// What the partition holds.
    PartitionStatus(PartitionStatus),
    /// The group's checkpoint in the partition.
    Checkpoint(Option<SequenceNumber>),
    /// The group.
    ConsumerGroup(ConsumerGroupView),
    /// All groups, by name.
    ConsumerGroups(Vec<ConsumerGroupView>),
    /// The identity. Boxed: it is large and rare.
    Device(Box<DeviceView>),
    /// Identities in the order of their ids.
    Devices(Vec<DeviceView>),
    /// What became of each change, in their order.
    DevicesChanged(Vec<Result<(), EngineError>>),
    /// Counts of one partition.
    DeviceCounts(DeviceCounts),
    /// The receiver is attached.
    ReceiverOpened(ReceiverId),
    /// Commands, locked; at least one unless the request was cancelled or does not wait.
    Commands(Vec<LockedCommand>),
    /// Batches of receipts, locked; at least one unless the request was cancelled.
    Receipts(Vec<LockedReceipts>),
    /// How many commands were removed.
    CommandsPurged(u32),
    /// What the device has subscribed to.
    Subscription(Option<Subscription>),
    /// How the queue stands.
    CommandQueue(CommandQueueStatus),
    /// About enrolments and registrations.
    Enrolment(EnrolmentReply),
    /// The policy.
    Policy(Box<PolicyView>),
    /// All policies, by name.
    Policies(Vec<PolicyView>),
}

/// Counts of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Identities that may connect.
    pub enabled: u64,
    /// Identities that may not.
    pub disabled: u64,
    /// Devices with a live session.
    pub connected: u64,
}

/// Why a session ended without its connection asking for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// A newer connection of the same device took over.
    Stolen,
    /// The device was disabled.
    Disabled,
    /// The device was deleted.
    Deleted,
    /// Its keys changed.
    KeysChanged,
}

/// What a connection learns unasked.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// A session is over: nothing more of it is appended.
    SessionEnded {
        /// Which.
        session: SessionId,
        /// Why.
        reason: SessionEnd,
    },
    /// Another reader took the partition. A waiting read is answered with [`EngineError::ReaderEnded`] behind this.
    ReaderStolen {
        /// Which.
        reader: ReaderId,
        /// The newcomer's name, if it has one.
        by_name: Option<String>,
        /// The newcomer's epoch.
        by_epoch: i64,
    },
    /// A newer receiver of the same session took over: what was locked for this one went back. A waiting request is answered
    /// with [`EngineError::ReceiverEnded`] behind this.
    ReceiverEnded {
        /// Which.
        receiver: ReceiverId,
    },
    /// A policy was changed or deleted: what rests on a grant of it ends.
    PolicyChanged {
        /// Which.
        name: PolicyName,
    },
    /// The reader's consumer group was deleted. A waiting read is answered with [`EngineError::ReaderEnded`] behind this.
    ReaderGroupDeleted {
        /// Which.
        reader: ReaderId,
    },
}
