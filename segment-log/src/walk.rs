//! Walking over the entries of a piece of a segment.

use crate::Offset;
use crate::index::IndexEntry;
use crate::read::ReadLimit;
use crate::record::{Entry, Epoch, Invalid, decode, decode_trusted};

/// Where a walk ended, and the run of wanted records that it found.
pub(crate) struct Walk {
    /// The run, within the bytes that were walked.
    pub(crate) start: usize,
    /// Behind the run; where there is none, where the walk stopped.
    pub(crate) stop: usize,
    pub(crate) first: Offset,
    pub(crate) records: u32,
    /// The offset of what lies at `stop`.
    pub(crate) next: Offset,
    pub(crate) stopped: Stopped,
}

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// The run is as long as it may be.
    Limit,
    /// The offset to stop at was reached.
    End,
    /// The bytes end before the entry does.
    Short { needed: usize },
    /// There is no valid entry.
    Bad,
}

/// Walk over `bytes`, which lie at `base`, from `at`, where the record `offset` is expected, up to the offset `stop`.
///
/// The run begins with the first record that is `wanted` (by offset and time) and keeps to the limit. With an epoch, every
/// checksum is verified; without, the bytes are known to be good.
#[allow(clippy::too_many_arguments, reason = "the inner loop of reading, called from two places")]
pub(crate) fn walk(
    bytes: &[u8],
    base: u64,
    mut at: usize,
    mut offset: Offset,
    epoch: Option<Epoch>,
    stop: Offset,
    wanted: &impl Fn(Offset, u64) -> bool,
    limit: ReadLimit,
    mut note: impl FnMut(IndexEntry),
) -> Walk {
    let mut run_start = at;
    let mut run_stop = at;
    let mut run_first = offset;
    let mut records = 0;
    let stopped = loop {
        if offset >= stop {
            break Stopped::End;
        }
        let rest = bytes.get(at..).unwrap_or(&[]);
        let position = base + at as u64;
        let decoded = match epoch {
            Some(epoch) => decode(rest, epoch, position),
            None => decode_trusted(rest),
        };
        let (entry, length) = match decoded {
            Ok(decoded) => decoded,
            Err(Invalid::Short { needed }) => break Stopped::Short { needed },
            Err(Invalid::Bad) => break Stopped::Bad,
        };
        match entry {
            Entry::Record { offset: there, time_ms, .. } => {
                if there != offset {
                    break Stopped::Bad;
                }
                note(IndexEntry { offset, time_ms, position });
                if records == 0 {
                    if wanted(offset, time_ms) {
                        (run_start, run_first) = (at, offset);
                        (run_stop, records) = (at + length, 1);
                    }
                } else if records >= limit.records || at + length - run_start > limit.bytes {
                    break Stopped::Limit;
                } else {
                    (run_stop, records) = (at + length, records + 1);
                }
                offset = Offset(offset.0 + 1);
            }
            Entry::Commit { offset: there, .. } if there != offset => break Stopped::Bad,
            Entry::Commit { .. } | Entry::Padding => {}
        }
        at += length;
    };
    if records == 0 {
        return Walk { start: at, stop: at, first: offset, records, next: offset, stopped };
    }
    let next = Offset(run_first.0 + u64::from(records));
    Walk { start: run_start, stop: run_stop, first: run_first, records, next, stopped }
}
