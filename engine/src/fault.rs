//! What opening a partition found, and why one may have to stay out of service.

use registry::SnapshotError;
use segment_log::storage::StorageError;
use segment_log::{OpenError, RecoveryReport};

use crate::entry::EntryError;
use crate::request::{EngineError, PartitionId};

/// What opening one partition found. A partition with a fault is out of service: it answers every request with
/// [`EngineError::StorageFailed`](crate::request::EngineError::StorageFailed), nothing of it is changed, and the others are
/// not concerned.
#[derive(Debug)]
pub struct OpenReport {
    /// Which.
    pub partition: PartitionId,
    /// What recovery of the event log found and cut.
    pub events: Option<RecoveryReport>,
    /// What recovery of the journal found and cut.
    pub journal: Option<RecoveryReport>,
    /// Identities that the partition holds.
    pub device_count: u64,
    /// Why it is out of service.
    pub fault: Option<PartitionFault>,
}

/// Why a partition cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum PartitionFault {
    /// A log does not open.
    #[error("a log does not open: {0}")]
    Log(#[from] OpenError),
    /// The snapshot cannot be read from the disk.
    #[error("the registry's snapshot cannot be read: {0}")]
    Storage(#[from] StorageError),
    /// The snapshot is damaged or was made with another data key.
    #[error("the registry's snapshot does not open: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The snapshot's own part of the engine's state is damaged.
    #[error("the snapshot's blob cannot be read: {0}")]
    SnapshotExtra(#[from] EntryError),
    /// The journal does not begin where the snapshot ends: changes are missing.
    #[error("the snapshot ends at {mark}, but the journal holds {first} to {next}: changes are missing")]
    JournalGap {
        /// Where the snapshot ends, or the place at which the replay could not go on.
        mark: u64,
        /// The journal's first record.
        first: u64,
        /// Behind its last.
        next: u64,
    },
    /// Records of the journal are damaged: identities could be missing or outdated, so nobody is let in.
    #[error("the journal's records from {first} to {resume} are damaged")]
    JournalDamaged {
        /// The first damaged.
        first: u64,
        /// The next whole one.
        resume: u64,
    },
    /// A record of the journal should be there and cannot be loaded.
    #[error("the journal's record {offset} cannot be loaded")]
    JournalUnreadable {
        /// Which.
        offset: u64,
    },
    /// The policies of a new hub could not be put down.
    #[error("the first policies cannot be stored: {0}")]
    FirstPolicies(EngineError),
    /// A record of the journal cannot be understood.
    #[error("the journal's record {offset} cannot be read: {error}")]
    JournalEntry {
        /// Which.
        offset: u64,
        /// Why.
        error: EntryError,
    },
}
