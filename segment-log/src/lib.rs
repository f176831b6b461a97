//! An append-only log of records in segments, acknowledged only when durable.
//!
//! A [`Log`] is synchronous, single-threaded and does no I/O: it hands out [`storage::LogAction`]s and is told what became
//! of them. Time comes in as [`Now`], chance as a seed. So it runs under any runtime, or under none, and the same code is
//! tested on a disk in memory that loses power at every single write ([`storage::sim`]).
//!
//! ```
//! use segment_log::storage::disk::{DiskConfig, DiskStorage};
//! use segment_log::{Log, LogConfig, Now, Offset, Read, ReadLimit, drive};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path();
//! let now = Now { wall_ms: 1_700_000_000_000, mono_ms: 0 };
//! let mut storage = DiskStorage::open(path, DiskConfig::default())?;
//! let (mut log, report) = Log::open(&mut storage, LogConfig::default(), now, 0x5eed)?;
//! assert!(!report.is_damaged());
//!
//! // A batch of two records, the second one in two parts. It is there whole after a crash, or not at all.
//! let first = log.append(&[&[b"one"], &[b"tw", b"o"]], now.wall_ms)?;
//! assert_eq!(log.committed(), Offset(0)); // not durable yet
//! drive(&mut log, &mut storage); // one durable write
//! assert_eq!(log.committed(), Offset(2));
//!
//! if let Read::Records(slice) = log.read(first, ReadLimit::default())? {
//!     let payloads: Vec<&[u8]> = slice.iter().map(|record| record.payload).collect();
//!     assert_eq!(payloads, [&b"one"[..], b"two"]);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! - A record is acknowledged ([`Log::committed`] passes it) only after a sync returned that covers it. After one failed
//!   write or sync nothing is acknowledged any more until the log was opened again; a sync is never repeated.
//! - After a crash, what was acknowledged is there; what was not is there whole, by batches, or not at all; and nothing else
//!   is there. No block that holds acknowledged bytes is ever written a second time in place.
//! - Reading hands out no byte that is not durable, and none whose checksum does not match. Damage closes the records that
//!   it hit, is said ([`LogEvent::Damaged`], [`RecoveryReport`]) and is left on the medium as it is.
//! - Appending copies each payload once and allocates nothing per record; reading copies nothing on its core.
//! - Offsets count records from 0. None is used twice, whatever was removed, lost or damaged.
//! - Memory is bounded: three write buffers, the retained tail, loaded ranges and a few indexes per log.
//!
//! The bytes on the medium are described in `docs/segment-format.md`, with what is assumed of it.
//!
//! # Who does what
//!
//! | | |
//! |---|---|
//! | [`Log`] | appends, rolls, reads, retains; [`drive`] for storages that block |
//! | [`storage::Storage`] | carries out actions: [`storage::disk`] on the operating system, [`storage::sim`] in tests |
//! | [`CommittedSlice`], [`SharedSlice`] | a run of records in place, for this core and for any |
//! | [`RecoveryReport`], [`inspect`] | what opening found; what is in a directory without opening it |
#![deny(unsafe_code)]

mod actions;
mod commit;
mod config;
mod cursor;
mod damage;
mod event;
mod examine;
mod index;
mod inspect;
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
pub use event::{AppendError, LogEvent};
pub use inspect::{InspectedState, Inspection, inspect};
pub use limits::{COMMIT_BYTES_MAX_RANGE, SEGMENT_BYTES_MAX};
pub use log::{Log, drive};
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
