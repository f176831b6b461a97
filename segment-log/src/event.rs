//! What a log says of itself, and why it refuses an append.

use crate::Offset;
use crate::damage::DamagedRange;
use crate::storage::{ActionId, SegmentNumber, StorageError};

/// Something that the owner of the log may count or say; [`LogEvent::Loaded`] and [`LogEvent::Replaced`] wake those who
/// wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// Everything before this offset is durable and readable.
    Committed {
        /// Exclusive.
        to: Offset,
    },
    /// Something that readers were told to wait for is there (or will not come): those that got
    /// [`crate::Read::Pending`] try again.
    Loaded,
    /// Appends go to another segment from here on.
    Rolled {
        /// The new segment.
        segment: SegmentNumber,
        /// Its first record.
        first: Offset,
    },
    /// A segment got its footer and is closed for ever.
    Sealed {
        /// Which one.
        segment: SegmentNumber,
    },
    /// A segment that is full could not be sealed. It stays readable and is sealed at the next opening.
    SealFailed {
        /// Which one.
        segment: SegmentNumber,
        /// Why.
        error: StorageError,
    },
    /// The next segment is ready.
    Prepared {
        /// Its number.
        segment: SegmentNumber,
        /// Length of its file.
        bytes: u64,
    },
    /// The next segment could not be made; it is tried again. Appends go on while the present one has room.
    PrepareFailed {
        /// Why; usually there is no space.
        error: StorageError,
    },
    /// The next segment could be made again.
    SpaceReturned,
    /// Retention, or a cut, removed a segment.
    Removed {
        /// Which one.
        segment: SegmentNumber,
        /// The first offset of the log now.
        first: Offset,
        /// Length of the file that went, in bytes.
        bytes: u64,
    },
    /// A segment's file could not be removed; it is tried again.
    RemoveFailed {
        /// Which one.
        segment: SegmentNumber,
        /// Why.
        error: StorageError,
    },
    /// Reading found damage that was not known. It stays on the medium as it is.
    Damaged(DamagedRange),
    /// A write or a sync failed: nothing is appended until the log was opened again.
    Latched {
        /// What failed.
        error: StorageError,
        /// What was durable before stays so, and readable.
        committed: Offset,
    },
    /// The answer to [`crate::Log::replace_file`].
    Replaced {
        /// As it returned.
        id: ActionId,
        /// Whether the new content is durable; otherwise the old one is.
        result: Result<(), StorageError>,
    },
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The write buffers are full, or the next segment is being made: try again after the next commit.
    #[error("the log's write buffers are full")]
    Busy,
    /// The segment is full and the medium has no room for another: try again after [`LogEvent::SpaceReturned`].
    #[error("no space left for the next segment")]
    NoSpace,
    /// A record or the batch is larger than the log takes. Never succeeds.
    #[error("{bytes} bytes are more than the {bytes_max} that fit")]
    TooLarge {
        /// The record's payload, or the whole batch as stored.
        bytes: usize,
        /// What is allowed of it.
        bytes_max: usize,
    },
    /// A write or a sync has failed: the log must be opened again.
    #[error("the log has latched after a failed write or sync")]
    Latched,
    /// [`crate::Log::close`] was called.
    #[error("the log is closed")]
    Closed,
}
