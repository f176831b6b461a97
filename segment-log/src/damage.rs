//! What is known to be damaged: ranges of offsets that cannot be read.

use std::fmt;

use crate::Offset;
use crate::limits::DAMAGE_COUNT_MAX;
use crate::storage::SegmentNumber;

/// Records that were durable and are not whole any more. Nothing of the range is handed out; what is on the medium stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedRange {
    /// The segment that holds them, or held them.
    pub segment: SegmentNumber,
    /// The first offset that cannot be read.
    pub first: Offset,
    /// The first offset behind, where reading goes on.
    pub resume: Offset,
    /// How it is damaged.
    pub kind: DamageKind,
    /// Where reading goes on in the segment, if it does.
    pub(crate) resume_position: Option<u64>,
}

/// How a range is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// Bytes in the middle of a segment are not what was written.
    Bytes,
    /// The records between two segments are in neither: a file is missing or was cut.
    Missing,
    /// The file tells neither its epoch nor its records.
    Unreadable,
    /// The newest segment was cut or cannot be read. How many records it had is not known; so many offsets are skipped
    /// that none is used twice.
    Truncated,
}

impl fmt::Display for DamagedRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            DamageKind::Bytes => "damaged bytes",
            DamageKind::Missing => "missing records",
            DamageKind::Unreadable => "an unreadable file",
            DamageKind::Truncated => "a truncated or unreadable newest segment",
        };
        write!(formatter, "{what}: offsets {} to {} of segment {}", self.first, self.resume, self.segment)
    }
}

/// The known ranges in order; they may overlap.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    ranges: Vec<DamagedRange>,
}

impl Damage {
    /// Add a range; false where it was known.
    pub(crate) fn add(&mut self, range: DamagedRange) -> bool {
        let known = |there: &DamagedRange| {
            there.segment == range.segment && there.first <= range.first && range.resume <= there.resume
        };
        if self.ranges.iter().any(known) {
            return false;
        }
        if self.ranges.len() < DAMAGE_COUNT_MAX {
            let at = self.ranges.partition_point(|there| there.first <= range.first);
            self.ranges.insert(at, range);
        }
        true
    }

    /// The range that an offset lies in, the one that reaches furthest.
    pub(crate) fn find(&self, offset: Offset) -> Option<DamagedRange> {
        let holds = |range: &&DamagedRange| range.first <= offset && offset < range.resume;
        self.ranges.iter().filter(holds).max_by_key(|range| range.resume).copied()
    }

    /// Where reading went on behind damage of this segment, at or before an offset.
    pub(crate) fn resume_before(&self, segment: SegmentNumber, offset: Offset) -> Option<(Offset, u64)> {
        let of_segment =
            self.ranges.iter().filter(|range| range.segment == segment && range.resume <= offset);
        of_segment.filter_map(|range| Some((range.resume, range.resume_position?))).max()
    }

    /// Forget what was removed.
    pub(crate) fn forget_before(&mut self, first: Offset) {
        self.ranges.retain(|range| range.resume > first);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = DamagedRange> + '_ {
        self.ranges.iter().copied()
    }
}
