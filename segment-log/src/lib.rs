//! An append-only log of records in segments, acknowledged only when durable.
#![deny(unsafe_code)]

mod commit;
mod config;
mod cursor;
mod damage;
mod examine;
mod index;
mod limits;
mod loaded;
mod log;
mod read;
mod record;
mod recover;
mod retention;
mod scan;
mod segment;
pub mod storage;
mod tail;
mod walk;

use std::fmt;

pub use config::{ConfigField, LogConfig};
pub use cursor::{CommittedSlice, Record, Records, SharedSlice};
pub use damage::{DamageKind, DamagedRange};
pub use limits::{COMMIT_BYTES_MAX_RANGE, SEGMENT_BYTES_MAX};
pub use log::{AppendError, Log, LogEvent, drive};
pub use read::{Read, ReadError, ReadLimit, Seek};
pub use recover::{Finding, OpenError, RecoveryReport};
pub use retention::RetentionConfig;

/// A record's number in its log: from 0, one per record, never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(pub u64);

impl fmt::Display for Offset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The time, as the owner of a log tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970. May jump.
    pub wall_ms: u64,
    /// Milliseconds since some moment before this run's first call. Never goes back.
    pub mono_ms: u64,
}
