//! Opening: what is on the medium after a clean stop, a crash or damage, and a report of what was found.
//!
//! Sealed segments are taken by header and footer. The others (the newest, after anything but a clean stop) are scanned and
//! cut behind the last whole batch, made durable and sealed; appends go to a fresh segment with a fresh epoch. Damage
//! before the highest durable mark is reported and kept as it is.

use std::collections::VecDeque;
use std::fmt;

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use crate::config::{ConfigField, LogConfig};
use crate::damage::{Damage, DamageKind, DamagedRange};
use crate::examine::{Examination, Piece, Probe, UNASKED, probe};
use crate::log::{Log, Recovered};
use crate::segment::Segment;
use crate::storage::{Buffer, LogAction, SegmentNumber, Storage, StorageError};
use crate::{Now, Offset};

/// What opening found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments with records.
    pub segments: usize,
    /// The first offset.
    pub first: Offset,
    /// The offset that the next record gets.
    pub next: Offset,
    /// What was out of the ordinary, in the order of the segments. Worth a log line each.
    pub findings: Vec<Finding>,
}

impl RecoveryReport {
    /// Something that was acknowledged cannot be read any more.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| matches!(finding, Finding::Damaged(_)))
    }
}

/// Something that opening found out of the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The newest segment was not sealed: the log was not closed. Its end was found by reading it.
    Unclean {
        /// Which one.
        segment: SegmentNumber,
        /// Behind its last record.
        end: Offset,
        /// Records that were whole but belonged to a batch that was not. None of them had been acknowledged.
        records_dropped: u64,
    },
    /// Records that were durable cannot be read.
    Damaged(DamagedRange),
    /// A segment's header is damaged; what it says was found elsewhere in the file.
    HeaderDamaged {
        /// Which one.
        segment: SegmentNumber,
    },
    /// A segment's footer is missing, damaged or does not fit the log; its index was made again.
    IndexRebuilt {
        /// Which one.
        segment: SegmentNumber,
    },
    /// A segment could not be sealed for want of space; that is done at the next opening.
    Unsealed {
        /// Which one.
        segment: SegmentNumber,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Unclean { segment, end, records_dropped } => {
                write!(formatter, "segment {segment} was not closed and ends before offset {end}")?;
                if *records_dropped > 0 {
                    write!(formatter, "; {records_dropped} records of an unfinished batch were cut")?;
                }
                Ok(())
            }
            Finding::Damaged(range) => range.fmt(formatter),
            Finding::HeaderDamaged { segment } => {
                write!(formatter, "the header of segment {segment} is damaged")
            }
            Finding::IndexRebuilt { segment } => {
                write!(formatter, "the index of segment {segment} was made again from its records")
            }
            Finding::Unsealed { segment } => {
                write!(formatter, "segment {segment} could not be sealed for want of space")
            }
        }
    }
}

/// Why a log could not be opened. Nothing was changed that a later try does not find again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The configuration is wrong.
    #[error("the log's configuration is out of range: {0:?}")]
    Config(ConfigField),
    /// A segment is of a format that this version does not read.
    #[error("segment {segment} has format version {version}, which this version does not read")]
    Version {
        /// Which one.
        segment: SegmentNumber,
        /// What its header says.
        version: u32,
    },
    /// The medium failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl<B: Buffer> Log<B> {
    /// Open the log in a storage's directory, an empty one too. May block; returns when appends can begin, or when there is
    /// no space for them (they then get [`crate::AppendError::NoSpace`] until there is).
    ///
    /// `seed`: unpredictable and never the same twice; the epochs of new segments are made from it.
    pub fn open<S: Storage<Buffer = B>>(
        storage: &mut S,
        config: LogConfig,
        now: Now,
        seed: u64,
    ) -> Result<(Log<B>, RecoveryReport), OpenError> {
        config.check().map_err(OpenError::Config)?;
        let (found, findings, unused) = recover(storage, &config, now)?;
        let mut unused = unused.into_iter().map(|segment| LogAction::Remove { id: UNASKED, segment });
        // A directory keeps one retired file: this one becomes the segment to go on with, so that there is a place for another,
        // which becomes the reserve. Unlinking files of their size and writing new ones full of zeros takes seconds.
        if let Some(remove) = unused.next() {
            storage.perform(remove)?;
        }
        // Even the same seed twice gives other epochs: a number is not used again.
        let mut key = [0; 32];
        for (into, from) in key.chunks_exact_mut(8).zip([seed, found.next_number, now.wall_ms, now.mono_ms]) {
            into.copy_from_slice(&from.to_le_bytes());
        }
        let chance = ChaCha12Rng::from_seed(key);
        let mut log = Log::recovered(config, now, chance, found);
        let (header, block) = log.new_header();
        let (segment, bytes) = (header.number, header.bytes);
        match storage.perform(LogAction::Prepare { id: UNASKED, segment, bytes, header: block }) {
            Ok(_) => log.activate(&header),
            Err(error) if error.is_no_space() => log.prepare_failed(error),
            Err(error) => return Err(error.into()),
        }
        for remove in unused {
            storage.perform(remove)?;
        }
        let segments = log.segments.iter().filter(|segment| segment.has_records()).count();
        let report = RecoveryReport { segments, first: log.first(), next: log.next(), findings };
        Ok((log, report))
    }
}

/// What there is, what was found wrong with it, and the files that hold nothing, which are to be removed.
fn recover<S: Storage>(
    storage: &mut S,
    config: &LogConfig,
    now: Now,
) -> Result<(Recovered, Vec<Finding>, Vec<SegmentNumber>), OpenError> {
    let mut files = storage.list()?;
    files.sort_by_key(|file| file.number);
    let mut probes = Vec::with_capacity(files.len());
    for file in &files {
        let probe = probe(storage, *file)?;
        if let Some(version) = probe.other_version {
            return Err(OpenError::Version { segment: file.number, version });
        }
        probes.push(probe);
    }
    // From the newest to the oldest: the first offset of each says where the one before it ended.
    let mut examination = Examination::new(storage, config.index_stride_bytes);
    let mut pieces = VecDeque::new();
    for probe in probes.iter().rev() {
        pieces.push_front(examination.take(*probe)?);
    }
    let next_segment_bytes = next_segment_bytes(&probes, &pieces, config);
    let unused = settle_blanks(&mut pieces, &mut examination);
    let least_next = examination.least_next();
    let mut findings: Vec<Finding> = examination.findings.into_iter().rev().collect();
    let mut recovered = Recovered {
        segments: VecDeque::new(),
        damage: Damage::default(),
        next: least_next,
        last_time_ms: None,
        next_number: files.last().map_or(0, |file| file.number.0 + 1),
        next_segment_bytes,
    };
    assemble(&mut recovered, pieces, least_next, now);
    findings.extend(recovered.damage.iter().map(Finding::Damaged));
    Ok((recovered, findings, unused))
}

/// Twice the length of the newest segment with records if that was more than half full, else the same again.
fn next_segment_bytes(probes: &[Probe], pieces: &VecDeque<Piece>, config: &LogConfig) -> u64 {
    let newest = pieces.iter().zip(probes).rev().find_map(|(piece, probe)| match piece {
        Piece::Segment(segment, _) if segment.has_records() => Some((probe.header?.bytes, segment.data_end)),
        _ => None,
    });
    let bytes = newest.map_or(0, |(bytes, data_end)| if data_end * 2 > bytes { bytes * 2 } else { bytes });
    bytes.clamp(config.segment_bytes_first, config.segment_bytes_max)
}

/// Decide which files without a whole commit held records once: those that others say something is missing from. The
/// numbers of those that did not are returned; such a file was prepared, and perhaps written to by a commit that did not
/// end, so its epoch must not be used again.
fn settle_blanks<S: Storage>(
    pieces: &mut VecDeque<Piece>,
    examination: &mut Examination<'_, S>,
) -> Vec<SegmentNumber> {
    let mut unused = Vec::new();
    for at in 0..pieces.len() {
        let Piece::Blank(probe, mark) = pieces[at] else { continue };
        let segment = |piece: &Piece| match piece {
            Piece::Segment(segment, _) => Some((segment.first, segment.end)),
            _ => None,
        };
        let before = pieces.range(..at).rev().find_map(segment).map_or(Offset(0), |(_, end)| end);
        let behind = pieces.range(at + 1..).find_map(segment).map(|(first, _)| first);
        if before >= mark.max(behind.unwrap_or(Offset(0))) {
            unused.push(probe.file.number);
        } else {
            pieces[at] = Piece::Unreadable(probe);
            if behind.is_none() {
                examination.lose(&probe);
            }
        }
    }
    unused
}

/// Put the pieces in a row, and name what is missing between them.
fn assemble(recovered: &mut Recovered, mut pieces: VecDeque<Piece>, least_next: Offset, now: Now) {
    let mut end: Option<Offset> = None;
    while let Some(piece) = pieces.pop_front() {
        match piece {
            Piece::Blank(..) => {}
            Piece::Segment(segment, ranges) => {
                if let Some(end) = end
                    && end < segment.first
                {
                    recovered.damage.add(whole_range(
                        segment.number,
                        end,
                        segment.first,
                        DamageKind::Missing,
                    ));
                }
                if let Some(before) = recovered.segments.back_mut() {
                    before.end = before.end.min(segment.first);
                }
                for range in ranges {
                    recovered.damage.add(range);
                }
                end = Some(segment.end);
                recovered.last_time_ms = recovered.last_time_ms.max(Some(segment.last_time_ms));
                recovered.segments.push_back(segment);
            }
            Piece::Unreadable(probe) => {
                let behind = pieces.iter().find_map(|piece| match piece {
                    Piece::Segment(segment, _) => Some((segment.first, segment.first_time_ms)),
                    _ => None,
                });
                let (stop, time_ms) = behind.unwrap_or((least_next, now.wall_ms));
                let first = end.unwrap_or(if behind.is_some() { stop } else { Offset(0) });
                let kind = if behind.is_some() { DamageKind::Unreadable } else { DamageKind::Truncated };
                recovered.damage.add(whole_range(probe.file.number, first, stop, kind));
                let (number, bytes) = (probe.file.number, probe.file.bytes);
                recovered.segments.push_back(Segment::unreadable(number, bytes, first, stop, time_ms));
                end = Some(stop);
            }
        }
    }
    if let (Some(end), Some(last)) = (end, recovered.segments.back())
        && end < least_next
    {
        recovered.damage.add(whole_range(last.number, end, least_next, DamageKind::Truncated));
    }
}

fn whole_range(segment: SegmentNumber, first: Offset, resume: Offset, kind: DamageKind) -> DamagedRange {
    DamagedRange { segment, first, resume, kind, resume_position: None }
}
