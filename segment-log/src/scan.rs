//! Reading one segment from its start, as recovery and inspection do: what is whole, what is damaged, where it ends.

use crate::Offset;
use crate::damage::{DamageKind, DamagedRange};
use crate::index::{Index, IndexEntry};
use crate::limits::{MAIN_START, RESYNC_BYTES, SCAN_BYTES};
use crate::record::{
    ALIGN, COMMIT_BYTES, Entry, Epoch, HEADER_BYTES, Invalid, decode, decode_trusted, encode_padding,
};
use crate::segment::{Header, SLOT_POSITIONS, Slot};
use crate::storage::{BLOCK_BYTES, SegmentNumber, Storage, StorageError};

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// `None`: no commit was ever written whole.
    pub(crate) first: Option<Offset>,
    /// Behind the last record that counts.
    pub(crate) end: Offset,
    /// Everything before this was durable once, whether it is there or not.
    pub(crate) proven: Offset,
    pub(crate) first_time_ms: u64,
    pub(crate) last_time_ms: u64,
    /// Position behind the last entry that counts.
    pub(crate) data_end: u64,
    pub(crate) index: Index,
    pub(crate) damage: Vec<DamagedRange>,
    /// Records that were valid and are dropped, because their batch is not whole.
    pub(crate) records_dropped: u64,
}

/// The entry to go on with behind bytes that are none.
#[derive(Clone, Copy)]
struct Resume {
    position: u64,
    offset: Offset,
}

/// A segment's bytes with the tail slots laid over them, read piece by piece.
pub(crate) struct Source<'a, S: Storage> {
    storage: &'a mut S,
    number: SegmentNumber,
    file_bytes: u64,
    overlays: Vec<Overlay>,
    /// The highest durable mark in a slot.
    mark: Offset,
    bytes: Vec<u8>,
    start: u64,
}

/// A partial block from a tail slot.
struct Overlay {
    sequence: u64,
    position: u64,
    content: Vec<u8>,
}

impl<'a, S: Storage> Source<'a, S> {
    pub(crate) fn open(
        storage: &'a mut S,
        number: SegmentNumber,
        epoch: Epoch,
        file_bytes: u64,
    ) -> Result<Source<'a, S>, StorageError> {
        let mut overlays = Vec::new();
        let mut mark = Offset(0);
        for position in SLOT_POSITIONS {
            let mut block = vec![0; BLOCK_BYTES];
            storage.read(number, position, &mut block)?;
            if let Some(slot) = Slot::decode(&block, epoch) {
                mark = mark.max(slot.mark);
                let content = slot.content.to_vec();
                overlays.push(Overlay { sequence: slot.sequence, position: slot.position, content });
            }
        }
        // Two slots of one block: the later one holds all of the earlier and more.
        overlays.sort_by_key(|overlay| overlay.sequence);
        Ok(Source { storage, number, file_bytes, overlays, mark, bytes: Vec::new(), start: 0 })
    }

    /// Everything before this was durable when a tail slot was written.
    pub(crate) fn mark(&self) -> Offset {
        self.mark
    }

    /// Everything from `position` on that is in memory, at least `needed` bytes unless the file ends before.
    fn from(&mut self, position: u64, needed: usize) -> Result<&[u8], StorageError> {
        let held = self.start..self.start + self.bytes.len() as u64;
        let wanted = position.saturating_add(needed as u64).min(self.file_bytes);
        if !held.contains(&position) || wanted > held.end {
            self.start = position - position % BLOCK_BYTES as u64;
            let bytes = (needed + BLOCK_BYTES).max(SCAN_BYTES);
            let left = usize::try_from(self.file_bytes.saturating_sub(self.start)).unwrap_or(usize::MAX);
            self.bytes.clear();
            self.bytes.resize(bytes.min(left), 0);
            let filled = self.storage.read(self.number, self.start, &mut self.bytes)?;
            self.bytes.truncate(filled);
            for overlay in &self.overlays {
                lay_over(&mut self.bytes, self.start, overlay);
            }
        }
        let skip = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        Ok(self.bytes.get(skip..).unwrap_or(&[]))
    }

    /// One block with the slots laid over it.
    fn block(&mut self, position: u64) -> Result<Vec<u8>, StorageError> {
        let mut block = self.raw_block(position)?;
        for overlay in &self.overlays {
            lay_over(&mut block, position, overlay);
        }
        Ok(block)
    }

    fn raw_block(&mut self, position: u64) -> Result<Vec<u8>, StorageError> {
        let mut block = vec![0; BLOCK_BYTES];
        self.storage.read(self.number, position, &mut block)?;
        Ok(block)
    }

    /// The first commit at or behind `position` that begins at `least` or later, within the search range.
    fn find_commit(
        &mut self,
        position: u64,
        epoch: Epoch,
        least: Offset,
    ) -> Result<Option<Resume>, StorageError> {
        let limit = position.saturating_add(RESYNC_BYTES).min(self.file_bytes);
        let mut at = position;
        while at + (COMMIT_BYTES as u64) <= limit {
            let bytes = self.from(at, COMMIT_BYTES)?;
            if bytes.len() < COMMIT_BYTES {
                break;
            }
            if let Some((skip, offset)) = find_commit(bytes, at, epoch, least) {
                return Ok(Some(Resume { position: at + skip as u64, offset }));
            }
            // The last bytes may be the beginning of one.
            at += (bytes.len() - COMMIT_BYTES + ALIGN) as u64 / ALIGN as u64 * ALIGN as u64;
        }
        Ok(None)
    }

    /// The blocks that must be written to their places before the segment can be sealed with its records ending at
    /// `data_end`: those that only a slot holds whole, and the last one, padded.
    pub(crate) fn repairs(
        &mut self,
        epoch: Epoch,
        data_end: u64,
    ) -> Result<Vec<(u64, Vec<u8>)>, StorageError> {
        let block_bytes = BLOCK_BYTES as u64;
        let mut positions: Vec<u64> = self.overlays.iter().map(|overlay| overlay.position).collect();
        if !data_end.is_multiple_of(block_bytes) {
            positions.push(data_end - data_end % block_bytes);
        }
        positions.sort_unstable();
        positions.dedup();
        let mut repairs = Vec::new();
        for position in positions.into_iter().filter(|position| *position < data_end) {
            let mut block = self.block(position)?;
            if data_end < position + block_bytes {
                let used = usize::try_from(data_end - position).expect("less than a block");
                encode_padding(&mut block[used..], epoch, data_end);
            }
            if block != self.raw_block(position)? {
                repairs.push((position, block));
            }
        }
        Ok(repairs)
    }
}

fn lay_over(bytes: &mut [u8], start: u64, overlay: &Overlay) {
    let Some(at) = overlay.position.checked_sub(start).and_then(|at| usize::try_from(at).ok()) else {
        return;
    };
    if at < bytes.len() {
        let count = overlay.content.len().min(bytes.len() - at);
        bytes[at..at + count].copy_from_slice(&overlay.content[..count]);
    }
}

/// Scan a segment. `known_end`: the first offset of the next segment, or what else proves how far this one went: what is
/// missing before that is damage; without it, the segment ends where the last whole batch does, unless a later commit, a
/// slot or `proven` says that more was durable.
pub(crate) fn scan<S: Storage>(
    source: &mut Source<'_, S>,
    header: &Header,
    known_end: Option<Offset>,
    proven: Offset,
    index_stride_bytes: u64,
) -> Result<Scan, StorageError> {
    let epoch = header.epoch;
    let proven = proven.max(known_end.unwrap_or(Offset(0))).max(source.mark);
    let mut scan = Scan {
        first: None,
        end: Offset(0),
        proven,
        first_time_ms: 0,
        last_time_ms: 0,
        data_end: MAIN_START,
        index: Index::default(),
        damage: Vec::new(),
        records_dropped: 0,
    };
    let mut position = MAIN_START;
    let mut expected = Offset(0);
    // The record that the open batch began with.
    let mut batch: Option<IndexEntry> = None;
    let mut needed = ALIGN;
    loop {
        if scan.first.is_some() && batch.is_none() && known_end.is_some_and(|end| expected >= end) {
            break;
        }
        let file_bytes = source.file_bytes;
        let bytes = source.from(position, needed)?;
        let whole = bytes.len();
        let taken = match decode(bytes, epoch, position) {
            Ok((Entry::Commit { offset, time_ms }, length)) if scan.first.is_none() || offset == expected => {
                if scan.first.is_none() {
                    (scan.first, scan.end, expected) = (Some(offset), offset, offset);
                    (scan.first_time_ms, scan.last_time_ms) = (time_ms, time_ms);
                }
                scan.proven = scan.proven.max(offset);
                Some(length)
            }
            Ok((Entry::Record { offset, time_ms, more, .. }, length))
                if scan.first.is_some() && offset == expected =>
            {
                let entry = batch.unwrap_or(IndexEntry { offset, time_ms, position });
                if scan.first == Some(offset) {
                    scan.first_time_ms = time_ms;
                }
                expected = Offset(offset.0 + 1);
                batch = Some(entry);
                if !more {
                    scan.index.note(entry, index_stride_bytes);
                    (scan.end, scan.last_time_ms, batch) = (expected, time_ms, None);
                }
                Some(length)
            }
            Ok((Entry::Padding, length)) if scan.first.is_some() => Some(length),
            Err(Invalid::Short { needed: more })
                if more > whole && more > needed && position + (more as u64) <= file_bytes =>
            {
                needed = more;
                continue;
            }
            _ => None,
        };
        needed = ALIGN;
        if let Some(length) = taken {
            position += length as u64;
            if batch.is_none() {
                scan.data_end = position;
            }
            continue;
        }
        // No entry. It is damage if something proves that more was durable, and the end of the segment otherwise.
        let later = source.find_commit(position + ALIGN as u64, epoch, expected)?;
        if later.is_none() && (scan.first.is_none() || scan.proven <= expected) {
            scan.records_dropped = expected.0 - scan.end.0;
            break;
        }
        // What was read of the open batch was durable and stays.
        scan.end = expected;
        scan.data_end = position;
        if let Some(entry) = batch.take() {
            scan.index.note(entry, index_stride_bytes);
        }
        let bytes = source.from(position, HEADER_BYTES)?;
        let bound = later.map_or(scan.proven, |later| later.offset);
        let near = resync_near(bytes, position, epoch, expected)
            .map(|(skip, offset)| Resume { position: position + skip as u64, offset })
            .filter(|near| {
                scan.first.is_some()
                    && near.offset <= bound
                    && later.is_none_or(|later| near.position <= later.position)
            });
        let Some(resume) = near.or(later) else { break };
        if scan.first.is_none() {
            (scan.first, expected) = (Some(resume.offset), resume.offset);
        }
        scan.damage.push(DamagedRange {
            segment: header.number,
            first: expected,
            resume: resume.offset,
            kind: DamageKind::Bytes,
            resume_position: Some(resume.position),
        });
        (position, expected, scan.end) = (resume.position, resume.offset, resume.offset);
    }
    if let Some(end) = known_end {
        scan.end = scan.end.min(end);
    }
    Ok(scan)
}

/// Find the next entry behind bytes at `at` that are none, where `expected` should have been: the record or commit that
/// follows if only this entry is damaged, else the next commit. `bytes` lie at `base`.
pub(crate) fn resync(
    bytes: &[u8],
    at: usize,
    base: u64,
    epoch: Epoch,
    expected: Offset,
) -> Option<(usize, Offset)> {
    let rest = bytes.get(at..)?;
    let position = base + at as u64;
    let found = resync_near(rest, position, epoch, expected).or_else(|| {
        let behind = rest.get(ALIGN..)?;
        let (skip, offset) = find_commit(behind, position + ALIGN as u64, epoch, expected)?;
        Some((skip + ALIGN, offset))
    });
    found.map(|(skip, offset)| (at + skip, offset))
}

/// As [`resync`], if the damaged entry's own length is whole, or it was one whose length is known.
fn resync_near(bytes: &[u8], position: u64, epoch: Epoch, expected: Offset) -> Option<(usize, Offset)> {
    let after_record = Offset(expected.0 + 1);
    let follows = |skip: usize, offset: Offset| {
        let rest = bytes.get(skip..)?;
        let (entry, _) = decode(rest, epoch, position + skip as u64).ok()?;
        let there = match entry {
            Entry::Record { offset, .. } | Entry::Commit { offset, .. } => offset,
            Entry::Padding => return None,
        };
        (there == offset).then_some((skip, offset))
    };
    let by_length = match decode_trusted(bytes) {
        Ok((Entry::Record { .. }, length)) => follows(length, after_record),
        _ => None,
    };
    let to_block = BLOCK_BYTES - (position % BLOCK_BYTES as u64) as usize;
    by_length.or_else(|| follows(COMMIT_BYTES, expected)).or_else(|| follows(to_block, expected))
}

/// The first commit in `bytes`, which lie at `base`, that begins at `least` or later. Searched by the epoch that each one
/// carries, which no sender knows.
fn find_commit(bytes: &[u8], base: u64, epoch: Epoch, least: Offset) -> Option<(usize, Offset)> {
    let bits = epoch.bits().to_le_bytes();
    let misaligned = (base % ALIGN as u64) as usize;
    assert_eq!(misaligned, 0, "entries are aligned");
    let mut skip = 0;
    while skip + COMMIT_BYTES <= bytes.len() {
        if bytes[skip + HEADER_BYTES..skip + COMMIT_BYTES] == bits
            && let Ok((Entry::Commit { offset, .. }, _)) = decode(&bytes[skip..], epoch, base + skip as u64)
            && offset >= least
        {
            return Some((skip, offset));
        }
        skip += ALIGN;
    }
    None
}
