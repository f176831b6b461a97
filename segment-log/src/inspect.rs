//! Looking at a log without opening it: nothing is written, sealed or removed, so it may be running meanwhile.

use crate::Offset;
use crate::damage::{DamageKind, DamagedRange};
use crate::examine::{Probe, probe};
use crate::recover::OpenError;
use crate::scan::{Source, scan};
use crate::storage::{Cause, SegmentNumber, Storage, StorageError};

/// How finely an inspection indexes, which it does not use.
const STRIDE_BYTES: u64 = 1 << 20;

/// What one segment's file holds, every record of it read and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The segment.
    pub segment: SegmentNumber,
    /// Length of its file in bytes.
    pub bytes: u64,
    /// What it is.
    pub state: InspectedState,
    /// The first offset; `None` while it holds no commit.
    pub first: Option<Offset>,
    /// Behind the last record.
    pub end: Offset,
    /// Time of the first record, milliseconds since 1970.
    pub first_time_ms: u64,
    /// Time of the last record, milliseconds since 1970.
    pub last_time_ms: u64,
    /// Records that cannot be read.
    pub damage: Vec<DamagedRange>,
    /// The first block is damaged.
    pub header_damaged: bool,
}

/// What a segment's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InspectedState {
    /// Closed for ever, with a footer.
    Sealed,
    /// Being written, or left by a crash.
    Open,
    /// Of a format that this version does not read.
    OtherVersion(u32),
    /// Neither header nor records can be made out.
    Unreadable,
}

/// Read all segments of a directory, the oldest first. May block, and takes as long as reading them does.
///
/// Of a log that is running, the newest segment may be seen in the middle of a commit, and segments may go away meanwhile;
/// those are left out.
pub fn inspect<S: Storage>(storage: &mut S) -> Result<Vec<Inspection>, OpenError> {
    let mut files = storage.list()?;
    files.sort_by_key(|file| file.number);
    let mut inspections = Vec::with_capacity(files.len());
    let mut known_end = None;
    for file in files.into_iter().rev() {
        let found = probe(storage, file).and_then(|probe| {
            Ok(match inspect_one(storage, &probe, known_end)? {
                Some(inspection) => inspection,
                None => nothing(&probe),
            })
        });
        match found {
            Ok(inspection) => {
                known_end = inspection.first.or(known_end);
                inspections.push(inspection);
            }
            Err(error) if error.cause == Cause::Missing => {}
            Err(error) => return Err(error.into()),
        }
    }
    inspections.reverse();
    Ok(inspections)
}

fn inspect_one<S: Storage>(
    storage: &mut S,
    probe: &Probe,
    known_end: Option<Offset>,
) -> Result<Option<Inspection>, StorageError> {
    let Some(header) = probe.header else { return Ok(None) };
    let known_end = probe.trailer.map(|trailer| trailer.end).or(known_end);
    let mut source = Source::open(storage, header.number, header.epoch, probe.file.bytes)?;
    let mut found = scan(&mut source, &header, known_end, Offset(0), STRIDE_BYTES)?;
    if let Some(end) = known_end.filter(|end| found.first.is_some() && found.end < *end) {
        found.damage.push(DamagedRange {
            segment: header.number,
            first: found.end,
            resume: end,
            kind: DamageKind::Missing,
            resume_position: None,
        });
    }
    let state = if probe.trailer.is_some() { InspectedState::Sealed } else { InspectedState::Open };
    Ok(Some(Inspection {
        segment: header.number,
        bytes: probe.file.bytes,
        state,
        first: found.first,
        end: found.end,
        first_time_ms: found.first_time_ms,
        last_time_ms: found.last_time_ms,
        damage: found.damage,
        header_damaged: probe.header_damaged,
    }))
}

/// A file of which nothing is known.
fn nothing(probe: &Probe) -> Inspection {
    let state = match probe.other_version {
        Some(version) => InspectedState::OtherVersion(version),
        None => InspectedState::Unreadable,
    };
    Inspection {
        segment: probe.file.number,
        bytes: probe.file.bytes,
        state,
        first: None,
        end: Offset(0),
        first_time_ms: 0,
        last_time_ms: 0,
        damage: Vec::new(),
        header_damaged: probe.header_damaged,
    }
}
