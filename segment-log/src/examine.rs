//! Finding out what one segment's file is: by its header and footer, or by reading it; and sealing it if it is not sealed.

use std::rc::Rc;

use crate::Offset;
use crate::damage::DamagedRange;
use crate::limits::MAIN_START;
use crate::record::{COMMIT_BYTES, Entry, Epoch, HEADER_BYTES, decode, read_u64};
use crate::recover::{Finding, OpenError};
use crate::scan::{Scan, Source, scan};
use crate::segment::{Header, HeaderError, SLOT_POSITIONS, Segment, Slot, State, Trailer};
use crate::storage::{ActionId, BLOCK_BYTES, Buffer, LogAction, SegmentFile, Storage, StorageError};

/// Actions of the opening are answered at once and need no id.
pub(crate) const UNASKED: ActionId = ActionId(0);

/// What a file says of itself at its ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) file: SegmentFile,
    /// From the first block, or found elsewhere.
    pub(crate) header: Option<Header>,
    pub(crate) header_damaged: bool,
    /// The header is whole and of this version, which is not ours.
    pub(crate) other_version: Option<u32>,
    pub(crate) trailer: Option<Trailer>,
    /// There is a footer, be it damaged: the file was sealed and not cut since.
    pub(crate) footer_seen: bool,
}

/// Read a file's ends.
pub(crate) fn probe<S: Storage>(storage: &mut S, file: SegmentFile) -> Result<Probe, StorageError> {
    let block_bytes = BLOCK_BYTES as u64;
    let mut first = vec![0; BLOCK_BYTES];
    let filled = storage.read(file.number, 0, &mut first)?;
    first[filled..].fill(0);
    let mut last = vec![0; BLOCK_BYTES];
    let whole = file.bytes >= MAIN_START + block_bytes && file.bytes.is_multiple_of(block_bytes);
    if whole {
        let filled = storage.read(file.number, file.bytes - block_bytes, &mut last)?;
        last[filled..].fill(0);
    }
    let trailer = Trailer::decode(&last, file.bytes).filter(|trailer| trailer.number == file.number);
    let mut probe =
        Probe { file, header: None, header_damaged: false, other_version: None, trailer, footer_seen: false };
    match Header::decode(&first) {
        // A copy of another segment is not this one.
        Ok(header) if header.number != file.number => probe.trailer = None,
        Ok(header) => probe.header = Some(header),
        Err(HeaderError::Version(version)) => probe.other_version = Some(version),
        Err(HeaderError::Damaged) => {
            probe.header_damaged = true;
            let epoch = match trailer {
                Some(trailer) => Some(trailer.epoch),
                None => find_epoch(storage, file)?,
            };
            probe.header = epoch.map(|epoch| Header { number: file.number, epoch, bytes: file.bytes });
        }
    }
    if let (Some(header), Some(trailer)) = (probe.header, probe.trailer)
        && header.epoch != trailer.epoch
    {
        probe.trailer = None;
    }
    // In a file of its prepared length, what looks like a footer may be that of a recycled segment.
    let as_prepared = !probe.header_damaged && probe.header.is_some_and(|header| header.bytes == file.bytes);
    probe.footer_seen = probe.trailer.is_some() || (Trailer::is_likely(&last) && !as_prepared);
    Ok(probe)
}

/// The epoch of a segment whose header is damaged: from its first commit or from a slot, where their checksums confirm it.
fn find_epoch<S: Storage>(storage: &mut S, file: SegmentFile) -> Result<Option<Epoch>, StorageError> {
    let mut block = vec![0; BLOCK_BYTES];
    if storage.read(file.number, MAIN_START, &mut block)? >= COMMIT_BYTES {
        let epoch = Epoch::new(read_u64(&block, HEADER_BYTES));
        if let Ok((Entry::Commit { .. }, _)) = decode(&block, epoch, MAIN_START) {
            return Ok(Some(epoch));
        }
    }
    for position in SLOT_POSITIONS {
        if storage.read(file.number, position, &mut block)? == BLOCK_BYTES {
            let epoch = Epoch::new(Slot::epoch_bits(&block));
            if Slot::decode(&block, epoch).is_some() {
                return Ok(Some(epoch));
            }
        }
    }
    Ok(None)
}

impl Probe {
    /// How much of the file someone cut off, in bytes; a file that was never sealed is as long as its header says.
    fn bytes_lost(&self) -> u64 {
        match self.header {
            Some(header) if !self.footer_seen => header.bytes.saturating_sub(self.file.bytes),
            _ => 0,
        }
    }
}

/// One file, understood.
#[derive(Debug)]
pub(crate) enum Piece {
    /// It has commits, and perhaps damage among them.
    Segment(Segment, Vec<DamagedRange>),
    /// No whole commit is in it. It held records only if the segments before it end before this offset, or before the first
    /// one of those behind it.
    Blank(Probe, Offset),
    /// It held records, but nothing of them can be found.
    Unreadable(Probe),
}

/// Understands the files of a log, from the newest to the oldest, and seals what is not sealed.
pub(crate) struct Examination<'a, S: Storage> {
    storage: &'a mut S,
    index_stride_bytes: u64,
    /// The first offset of the segment that was understood last.
    known_end: Option<Offset>,
    /// How far the offsets have come for certain.
    proven: Offset,
    /// Bytes at the end of the log of which it is not known how many records they held.
    bytes_lost: u64,
    /// From the newest segment to the oldest.
    pub(crate) findings: Vec<Finding>,
}

impl<'a, S: Storage> Examination<'a, S> {
    pub(crate) fn new(storage: &'a mut S, index_stride_bytes: u64) -> Examination<'a, S> {
        Examination {
            storage,
            index_stride_bytes,
            known_end: None,
            proven: Offset(0),
            bytes_lost: 0,
            findings: Vec::new(),
        }
    }

    /// The least offset that the next record may get, after all files were taken: none is used twice.
    pub(crate) fn least_next(&self) -> Offset {
        // No record is smaller than its header.
        let skipped = if self.bytes_lost > 0 { self.bytes_lost / HEADER_BYTES as u64 + 1 } else { 0 };
        Offset(self.proven.0 + skipped)
    }

    /// Take the next older file.
    pub(crate) fn take(&mut self, probe: Probe) -> Result<Piece, OpenError> {
        let newest = self.known_end.is_none();
        let piece = self.understand(&probe)?;
        match &piece {
            Piece::Segment(segment, _) => {
                self.proven = self.proven.max(segment.end);
                if newest {
                    self.bytes_lost += probe.bytes_lost();
                }
                self.known_end = Some(segment.first);
                if probe.header_damaged {
                    self.findings.push(Finding::HeaderDamaged { segment: probe.file.number });
                }
            }
            Piece::Unreadable(probe) if newest => self.lose(probe),
            Piece::Unreadable(_) | Piece::Blank(..) => {}
        }
        Ok(piece)
    }

    /// Count a file at the end of the log whose records cannot be counted.
    pub(crate) fn lose(&mut self, probe: &Probe) {
        self.bytes_lost += probe.file.bytes.max(probe.header.map_or(0, |header| header.bytes));
    }

    fn understand(&mut self, probe: &Probe) -> Result<Piece, OpenError> {
        let Some(header) = probe.header else { return Ok(Piece::Unreadable(*probe)) };
        if let Some(trailer) =
            probe.trailer.filter(|trailer| self.known_end.is_none_or(|end| end == trailer.end))
        {
            return Ok(Piece::Segment(Segment::sealed(&trailer), Vec::new()));
        }
        let number = probe.file.number;
        let known_end = self.known_end.or(probe.trailer.map(|trailer| trailer.end));
        let mut source = Source::open(self.storage, number, header.epoch, probe.file.bytes)?;
        // What newer files prove counts for the newest one with records; of the others, it is known where they end.
        let proven = if known_end.is_some() { Offset(0) } else { self.proven };
        let found = scan(&mut source, &header, known_end, proven, self.index_stride_bytes)?;
        let Some(first) = found.first else {
            self.proven = self.proven.max(source.mark());
            let used = probe.header_damaged || probe.bytes_lost() > 0 || probe.footer_seen;
            return Ok(if used { Piece::Unreadable(*probe) } else { Piece::Blank(*probe, source.mark()) });
        };
        self.proven = self.proven.max(found.proven);
        self.findings.push(if probe.footer_seen {
            Finding::IndexRebuilt { segment: number }
        } else {
            Finding::Unclean { segment: number, end: found.end, records_dropped: found.records_dropped }
        });
        let repairs = source.repairs(header.epoch, found.data_end)?;
        let (mut segment, damage) = scanned(probe, &header, first, found);
        if probe.trailer.is_none() {
            self.seal(&mut segment, probe, !damage.is_empty(), repairs)?;
        }
        Ok(Piece::Segment(segment, damage))
    }

    /// Bring every block to its place, make all that was found durable, and close the segment.
    fn seal(
        &mut self,
        segment: &mut Segment,
        probe: &Probe,
        damaged: bool,
        repairs: Vec<(u64, Vec<u8>)>,
    ) -> Result<(), OpenError> {
        // The bytes behind the end of a damaged segment may be wanted by someone who looks into it.
        let keep_bytes = if damaged || probe.bytes_lost() > 0 { probe.file.bytes } else { 0 };
        let (footer, trailer) = segment.footer::<S::Buffer>(keep_bytes);
        let number = segment.number;
        let (id, file_bytes) = (UNASKED, trailer.file_bytes);
        let mut actions = Vec::new();
        for (position, block) in repairs {
            let mut buffer = S::Buffer::allocate(BLOCK_BYTES);
            buffer.bytes_mut().copy_from_slice(&block);
            let (buffer, bytes) = (Rc::new(buffer), BLOCK_BYTES);
            actions.push(LogAction::Write { id, segment: number, position, buffer, bytes, durable: false });
        }
        // All that the footer speaks of is durable before there is one: in a file that is not shortened, the footer alone may
        // survive a power cut, and it is believed.
        actions.push(LogAction::Sync { id, segment: number });
        actions.push(LogAction::Seal { id, segment: number, file_bytes, footer: Rc::new(footer) });
        for action in actions {
            match self.storage.perform(action) {
                Ok(_) => {}
                Err(error) if error.is_no_space() => {
                    // Only a file that someone cut needs space. What was repaired must be durable before it is read.
                    self.storage.perform(LogAction::Sync { id, segment: number })?;
                    self.findings.push(Finding::Unsealed { segment: number });
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        segment.state = State::Sealed;
        segment.file_bytes = file_bytes;
        segment.footer_bytes = u64::from(trailer.footer_bytes);
        segment.trailer = Some(trailer);
        Ok(())
    }
}

/// A segment by what a scan found in it; not sealed.
fn scanned(probe: &Probe, header: &Header, first: Offset, found: Scan) -> (Segment, Vec<DamagedRange>) {
    let mut segment = Segment::activated(header, first, found.first_time_ms);
    segment.state = State::Unsealed;
    segment.file_bytes = probe.file.bytes;
    segment.end = found.end;
    segment.last_time_ms = found.last_time_ms;
    segment.data_end = found.data_end;
    segment.placed = found.data_end;
    segment.committed = true;
    segment.index = Some(found.index);
    (segment, found.damage)
}
