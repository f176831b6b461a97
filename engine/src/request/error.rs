//! Why the engine refuses.

use registry::RegistryError;

use super::SessionEnd;

/// Why the engine refused. `net`'s `binding/status.rs` has the one table from these to wire codes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The token or key is malformed, wrong, expired, or for something else. The text never repeats it.
    #[error("unauthorized: {0}")]
    Unauthorized(UnauthorizedReason),
    /// No such device.
    #[error("device not found")]
    DeviceNotFound,
    /// The device is disabled.
    #[error("device is disabled")]
    DeviceDisabled,
    /// The enrolment by which the device would register is disabled.
    #[error("enrollment is disabled")]
    EnrolmentDisabled,
    /// What the registry refuses: exists already, ETag mismatch, bad value.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The session has ended: stolen, revoked or closed.
    #[error("the device's session has ended: {0:?}")]
    SessionEnded(Option<SessionEnd>),
    /// No such partition.
    #[error("partition {0} does not exist")]
    PartitionNotFound(u64),
    /// No such policy.
    #[error("policy not found")]
    PolicyNotFound,
    /// No such consumer group.
    #[error("consumer group not found")]
    ConsumerGroupNotFound,
    /// The consumer group exists.
    #[error("consumer group exists already")]
    ConsumerGroupExists,
    /// `$Default` can neither be created nor deleted; or the name breaks the rules; or there are too many.
    #[error("consumer group refused: {0}")]
    ConsumerGroupInvalid(&'static str),
    /// A live reader with a higher epoch exists, or a reader without epoch meets one with.
    #[error("a receiver with epoch {live_epoch} exists")]
    EpochHeld {
        /// The live reader's epoch.
        live_epoch: i64,
        /// The live reader's name.
        live_name: Option<String>,
    },
    /// Five readers without epoch read this partition and group already.
    #[error("{reader_count_max} receivers without epoch read this partition already")]
    ReadersExhausted {
        /// The limit.
        reader_count_max: u32,
    },
    /// No such reader, or it has ended.
    #[error("the reader has ended")]
    ReaderEnded,
    /// The device's command queue is full.
    #[error("the device's queue holds {depth} of at most {depth_max} commands")]
    QueueFull {
        /// What it holds.
        depth: u32,
        /// The limit.
        depth_max: u32,
    },
    /// The command is larger than a queue takes.
    #[error("command of {bytes} bytes exceeds {bytes_max}")]
    CommandTooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The command's expiry lies in the past or too far ahead.
    #[error("an expiry lies ahead by at most {ttl_ms_max} ms")]
    ExpiryInvalid {
        /// The longest time to live.
        ttl_ms_max: u64,
    },
    /// A subscription's address is longer than is kept.
    #[error("a subscription's address of {bytes} bytes exceeds {bytes_max}")]
    SubscriptionTooLong {
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The lock has ended, was another's, or never was.
    #[error("the message's lock is lost")]
    LockLost,
    /// No such receiver, or it has ended.
    #[error("the receiver has ended")]
    ReceiverEnded,
    /// A checkpoint beyond the last event.
    #[error("checkpoint {number} is beyond the last event, {last:?}")]
    CheckpointBeyondEnd {
        /// What was asked.
        number: u64,
        /// The last event's number; none when the partition is empty.
        last: Option<u64>,
    },
    /// A start position beyond the end of the partition.
    #[error("sequence number {number} is beyond the end, {next}")]
    PositionBeyondEnd {
        /// What was asked.
        number: u64,
        /// The number that the next event gets.
        next: u64,
    },
    /// The event, with its stamps, is larger than the hub stores.
    #[error("event of {bytes} bytes exceeds {bytes_max}")]
    EventTooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The disk is full: telemetry is refused until there is room.
    #[error("no space left on the hub's disk")]
    StorageFull,
    /// The write buffers are full: the disk does not keep up. Try again.
    #[error("the partition is busy")]
    Busy,
    /// A sync failed: the partition takes nothing until the hub is restarted and has recovered.
    #[error("the partition's log has failed and takes nothing until it is recovered")]
    StorageFailed,
    /// Stored events are damaged; reading may go on at `resume`.
    #[error("stored events from {first} are damaged; the next readable is {resume}")]
    Damaged {
        /// First damaged sequence number.
        first: u64,
        /// The next that can be read.
        resume: u64,
    },
    /// The hub is stopping.
    #[error("the hub is stopping")]
    Stopping,
}

/// Why a token or key was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnauthorizedReason {
    /// It cannot be read as a token.
    #[error("malformed token")]
    Malformed,
    /// The signature matches no key, or there is no such policy or device.
    #[error("the signature matches neither key")]
    Signature,
    /// It has expired.
    #[error("the token has expired")]
    Expired,
    /// It is good, but not for this.
    #[error("the token does not cover the resource or lacks the right")]
    NotCovered,
    /// The identity changed since it was verified.
    #[error("the identity has changed since the token was verified")]
    Stale,
}
