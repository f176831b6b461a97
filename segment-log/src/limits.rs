//! The crate's limits, each with its unit and its reason.

use crate::storage::BLOCK_BYTES;

/// Where the records of a segment begin, in bytes: behind the header and the two tail slots.
pub(crate) const MAIN_START: u64 = 3 * BLOCK_BYTES as u64;

/// A commit of at least this many bytes is padded to the next block instead of leaving a partial one in a tail slot: the
/// padding is then at most an eighth of it.
pub(crate) const COMMIT_PADDED_BYTES: usize = 32 << 10;

/// A write buffer starts with this many bytes and doubles up to the configured size, so that an idle log stays small.
pub(crate) const WRITE_BUFFER_BYTES_FIRST: usize = 64 << 10;

/// A log that took nothing for this many milliseconds gives its large write buffers back. Devices that send in turn leave
/// gaps of some milliseconds, and making a buffer anew costs as much as filling it.
pub(crate) const IDLE_MS: u64 = 1_000;

/// Bounds of the configured `commit_bytes_max`. Above, one write holds the disk too long; below, a batch has no room.
pub const COMMIT_BYTES_MAX_RANGE: std::ops::RangeInclusive<usize> = (16 << 10)..=(16 << 20);

/// Largest segment, in bytes: positions in it fit 32 bits with room to spare.
pub const SEGMENT_BYTES_MAX: u64 = 2 << 30;

/// Recovery looks this many bytes beyond damage for a commit that proves it to be corruption and not the end. Four commits
/// of the usual size; damage that blanks more than this in one run looks like the end of the log.
pub(crate) const RESYNC_BYTES: u64 = 16 << 20;

/// Recovery and inspection read this many bytes at a time.
pub(crate) const SCAN_BYTES: usize = 1 << 20;

/// A wall clock that moved this far from where the monotonic clock puts it is not believed, in milliseconds.
pub(crate) const CLOCK_JUMP_MS: u64 = 3_600_000;

/// A failed preparation or removal is tried again after this many milliseconds.
pub(crate) const RETRY_MS: u64 = 1_000;

/// A loaded range is kept for a reader that asked for it and has not come yet, and a populated range is believed to stay in
/// memory, for this many milliseconds.
pub(crate) const LOADED_MS: u64 = 10_000;

/// Loaded ranges that one log remembers. Maps cost nothing but the entry; more readers than this take turns.
pub(crate) const LOADED_COUNT_MAX: usize = 256;

/// Memory of loaded ranges that are not mapped, in bytes, before the oldest goes. Half of it at most is read ahead.
pub(crate) const LOADED_BUFFER_BYTES_MAX: usize = 16 << 20;

/// What is read ahead of a reader of sealed segments, in loads: it waits for its first one alone.
pub(crate) const READ_AHEAD_LOADS: u64 = 4;

/// Indexes of sealed segments kept in memory; the others come back from their footers.
pub(crate) const INDEXES_RESIDENT_MAX: usize = 8;

/// Places that readers left off at, remembered so that the next read starts there.
pub(crate) const HINT_COUNT: usize = 64;

/// Damaged ranges that one log remembers one by one; beyond, they are found again when read.
pub(crate) const DAMAGE_COUNT_MAX: usize = 1024;

const _: () = assert!(COMMIT_PADDED_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(WRITE_BUFFER_BYTES_FIRST > COMMIT_PADDED_BYTES);
const _: () = assert!(RESYNC_BYTES >= *COMMIT_BYTES_MAX_RANGE.end() as u64);
const _: () = assert!(SEGMENT_BYTES_MAX <= u32::MAX as u64);
