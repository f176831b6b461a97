//! Reading: from the retained tail, from what was loaded, or by asking for a load.

use crate::Offset;
use crate::cursor::CommittedSlice;
use crate::damage::{DamageKind, DamagedRange};
use crate::event::LogEvent;
use crate::index::IndexEntry;
use crate::limits::{HINT_COUNT, MAIN_START, READ_AHEAD_LOADS};
use crate::loaded::Found;
use crate::log::Log;
use crate::record::Epoch;
use crate::scan::resync;
use crate::segment::{Segment, State};
use crate::storage::{BLOCK_BYTES, Buffer, SegmentNumber, StorageError, Window};
use crate::walk::{Stopped, Walk, walk};

/// How much one read may yield; at least one record comes, however large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// Most bytes of records as stored (payload, 24 bytes of header, padding).
    pub bytes: usize,
    /// Most records.
    pub records: u32,
}

impl Default for ReadLimit {
    fn default() -> ReadLimit {
        ReadLimit { bytes: 256 << 10, records: u32::MAX }
    }
}

/// What a read found.
#[derive(Debug)]
pub enum Read<B> {
    /// Records from the offset on. There may be more behind them, in another piece of memory.
    Records(CommittedSlice<B>),
    /// A load was asked for: read again after [`LogEvent::Loaded`].
    Pending,
    /// Nothing is committed there yet: read again after [`LogEvent::Committed`].
    End,
}

/// What a search by time found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The first record that is not older; the committed end where there is none.
    At(Offset),
    /// A load was asked for: seek again after [`LogEvent::Loaded`].
    Pending,
}

/// Why nothing can be read at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The record was removed: go on at the first one.
    #[error("the offset lies before the first one, {first}")]
    BeforeFirst {
        /// The first offset of the log.
        first: Offset,
    },
    /// No such record was appended.
    #[error("the offset lies beyond the end, {next}")]
    BeyondEnd {
        /// The offset that the next record gets.
        next: Offset,
    },
    /// These records are damaged; nothing of them is handed out. Go on at `resume` to skip them.
    #[error("the records from {first} to before {resume} are damaged")]
    Damaged {
        /// The offset that was asked for.
        first: Offset,
        /// Where reading goes on.
        resume: Offset,
    },
    /// The medium did not yield the bytes. Reading again tries again.
    #[error(transparent)]
    Storage(StorageError),
}

/// Where readers left off: a record's offset and its place.
pub(crate) struct Hints([Option<(Offset, SegmentNumber, u64)>; HINT_COUNT]);

impl Hints {
    pub(crate) fn new() -> Hints {
        Hints([None; HINT_COUNT])
    }

    fn put(&mut self, offset: Offset, segment: SegmentNumber, position: u64) {
        self.0[offset.0 as usize % HINT_COUNT] = Some((offset, segment, position));
    }

    fn find(&self, offset: Offset, segment: SegmentNumber) -> Option<u64> {
        let (there, of, position) = self.0[offset.0 as usize % HINT_COUNT]?;
        (there == offset && of == segment).then_some(position)
    }
}

/// What one step of a search came to.
enum Step<B> {
    Found(CommittedSlice<B>),
    /// Nothing was wanted up to here; go on at this offset.
    Passed(Offset),
    Pending,
}

/// A place in a segment from which records are walked.
#[derive(Clone, Copy)]
struct Place {
    offset: Offset,
    position: u64,
}

impl<B: Buffer> Log<B> {
    /// Read committed records from `from` on, in place. Nothing is ever handed out that is not durable, and nothing whose
    /// checksum does not match.
    ///
    /// A slice ends where its piece of memory does, so a reader goes on at [`CommittedSlice::next`] until [`Read::End`]. A
    /// log that has latched can still be read.
    pub fn read(&mut self, from: Offset, limit: ReadLimit) -> Result<Read<B>, ReadError> {
        let first = self.first();
        if from < first {
            return Err(ReadError::BeforeFirst { first });
        }
        if from >= self.committed {
            let next = self.next;
            return if from > next { Err(ReadError::BeyondEnd { next }) } else { Ok(Read::End) };
        }
        match self.step(from, from, |offset, _| offset >= from, limit)? {
            Step::Found(slice) => Ok(Read::Records(slice)),
            Step::Pending => Ok(Read::Pending),
            Step::Passed(resume) => Err(ReadError::Damaged { first: from, resume }),
        }
    }

    /// Find the first committed record whose time is not before `time_ms`. Damaged records are passed over.
    ///
    /// Errors: [`ReadError::Storage`] alone.
    pub fn seek_time(&mut self, time_ms: u64) -> Result<Seek, ReadError> {
        let newer = |segment: &&Segment| {
            segment.has_records() && segment.state != State::Unreadable && segment.last_time_ms >= time_ms
        };
        let Some(segment) = self.segments.iter().find(newer) else {
            return Ok(Seek::At(self.committed));
        };
        let (number, first) = (segment.number, segment.first);
        if !self.index_is_here(number) {
            return Ok(Seek::Pending);
        }
        let index = self.segment(number).and_then(|segment| segment.index.as_ref());
        let mut at = index.and_then(|index| index.before_time(time_ms)).map_or(first, |entry| entry.offset);
        let one = ReadLimit { bytes: 0, records: 1 };
        while at < self.committed {
            match self.step(at, at, |_, record_time_ms| record_time_ms >= time_ms, one) {
                Ok(Step::Found(slice)) => return Ok(Seek::At(slice.first())),
                Ok(Step::Passed(next)) => at = next,
                Ok(Step::Pending) => return Ok(Seek::Pending),
                Err(ReadError::Damaged { resume, .. }) => at = resume,
                Err(error) => return Err(error),
            }
        }
        Ok(Seek::At(self.committed))
    }

    /// Look for the first wanted record from `from` on, in one piece of memory.
    fn step(
        &mut self,
        from: Offset,
        asked: Offset,
        wanted: impl Fn(Offset, u64) -> bool,
        limit: ReadLimit,
    ) -> Result<Step<B>, ReadError> {
        if let Some(range) = self.damage.find(from) {
            return Err(ReadError::Damaged { first: asked, resume: range.resume });
        }
        if let Some(step) = self.step_in_tail(from, &wanted, limit) {
            return Ok(step);
        }
        let after = self.segments.partition_point(|segment| segment.first <= from);
        // Segments without records share their first offset with the one behind them.
        let at = (0..after).rev().find(|at| self.segments[*at].has_records());
        let Some(segment) = at.map(|at| &self.segments[at]) else {
            return Ok(Step::Passed(self.first()));
        };
        if from >= segment.end || segment.state == State::Unreadable {
            let later = self.segments.iter().find(|next| next.has_records() && next.first > from);
            let resume = later.map_or(self.committed, |next| next.first);
            return Err(ReadError::Damaged { first: asked, resume });
        }
        let number = segment.number;
        if !self.index_is_here(number) {
            return Ok(Step::Pending);
        }
        self.step_in_loaded(number, from, &wanted, limit)
    }

    /// In the retained buffers; `None` where the record is not in them.
    fn step_in_tail(
        &mut self,
        from: Offset,
        wanted: &impl Fn(Offset, u64) -> bool,
        limit: ReadLimit,
    ) -> Option<Step<B>> {
        let window = self.tail.find(from)?;
        if window.end > self.committed {
            return None;
        }
        let inside = window.base + window.start as u64..window.stop_position();
        let segment = self.segment(window.segment)?;
        let hint = self.hints.find(from, window.segment).map(|position| Place { offset: from, position });
        let indexed = || {
            let entry = segment.index.as_ref()?.by_offset(from)?;
            Some(Place { offset: entry.offset, position: entry.position })
        };
        let place = hint.or_else(indexed).filter(|place| inside.contains(&place.position));
        let place = place.unwrap_or(Place { offset: window.first, position: inside.start });
        let at = (place.position - window.base) as usize;
        let bytes = &window.buffer.bytes()[..window.stop];
        let (base, number, end) = (window.base, window.segment, window.end);
        let found = walk(bytes, base, at, place.offset, None, end, wanted, limit, |_| {});
        assert!(!matches!(found.stopped, Stopped::Bad | Stopped::Short { .. }), "a retained commit is whole");
        let range = found.start..found.stop;
        let window = Window::Buffer(window.buffer.clone(), 0..window.stop);
        self.hints.put(found.next, number, base + found.stop as u64);
        Some(if found.records == 0 {
            Step::Passed(found.next)
        } else {
            Step::Found(CommittedSlice { window, range, first: found.first, records: found.records })
        })
    }

    /// In ranges that were loaded, or by asking for one.
    fn step_in_loaded(
        &mut self,
        number: SegmentNumber,
        from: Offset,
        wanted: &impl Fn(Offset, u64) -> bool,
        limit: ReadLimit,
    ) -> Result<Step<B>, ReadError> {
        let segment = self.segment(number).expect("the segment was just found");
        let (epoch, stop) = (segment.epoch, segment.end.min(self.committed));
        let sealed = segment.state == State::Sealed;
        let readable = if sealed { segment.data_end } else { segment.placed };
        let mut place = self.place(number, from);
        let mut needed = 1;
        loop {
            let block = BLOCK_BYTES as u64;
            let skipped = place.position % block;
            let start = place.position - skipped;
            if place.position + needed > readable.next_multiple_of(block) {
                return self.damaged(number, place, from, None).map(|behind| Step::Passed(behind.offset));
            }
            let (window, cut) = match self.loaded.find(number, start, skipped + needed, self.now.mono_ms) {
                Found::Ready { window, cut } => (window, cut),
                Found::Asked => return Ok(Step::Pending),
                Found::Failed(error) => return Err(ReadError::Storage(error)),
                Found::Nothing => {
                    self.load(number, start, skipped + needed, readable, sealed);
                    return Ok(Step::Pending);
                }
            };
            let bytes = window.bytes();
            let usable = usize::try_from(readable - start).unwrap_or(usize::MAX).min(bytes.len());
            let (at, offset) = (skipped as usize, place.offset);
            let found =
                self.walk_segment(number, &bytes[..usable], start, (at, offset), epoch, stop, wanted, limit);
            let here = Place { offset: found.next, position: start + found.stop as u64 };
            if found.records > 0 {
                self.hints.put(here.offset, number, here.position);
                self.read_ahead(number, here.position, start + usable as u64, readable, sealed);
                let range = found.start..found.stop;
                let slice = CommittedSlice { window, range, first: found.first, records: found.records };
                return Ok(Step::Found(slice));
            }
            match found.stopped {
                Stopped::End | Stopped::Limit => return Ok(Step::Passed(found.next)),
                Stopped::Short { needed: more } if !cut && here.position + more as u64 <= readable => {
                    (place, needed) = (here, more as u64);
                }
                // What is not in its place yet is in the tail.
                Stopped::Short { .. } if self.tail.find(here.offset).is_some() => {
                    return Ok(Step::Passed(here.offset));
                }
                Stopped::Short { .. } | Stopped::Bad => {
                    let behind = resync(&bytes[..usable], found.stop, start, epoch, here.offset);
                    let behind = behind.map(|(at, offset)| Place { offset, position: start + at as u64 });
                    (place, needed) = (self.damaged(number, here, from, behind)?, 1);
                }
            }
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one call; the walk's own arguments and the segment to note in"
    )]
    fn walk_segment(
        &mut self,
        number: SegmentNumber,
        bytes: &[u8],
        base: u64,
        (at, offset): (usize, Offset),
        epoch: Epoch,
        stop: Offset,
        wanted: &impl Fn(Offset, u64) -> bool,
        limit: ReadLimit,
    ) -> Walk {
        let stride_bytes = self.config.index_stride_bytes;
        let segment = self.segments.iter_mut().find(|segment| segment.number == number);
        let mut index = segment
            .filter(|segment| segment.state == State::Sealed)
            .and_then(|segment| segment.index.as_mut());
        // An index that was lost comes back by walking.
        let note = |entry: IndexEntry| {
            if let Some(index) = &mut index {
                index.note(entry, stride_bytes);
            }
        };
        walk(bytes, base, at, offset, Some(epoch), stop, wanted, limit, note)
    }

    /// The nearest known place at or before a record.
    fn place(&self, number: SegmentNumber, from: Offset) -> Place {
        if let Some(position) = self.hints.find(from, number) {
            return Place { offset: from, position };
        }
        let segment = self.segment(number).expect("the segment was just found");
        let indexed = segment.index.as_ref().and_then(|index| index.by_offset(from));
        let mut place = Place { offset: segment.first, position: MAIN_START };
        if let Some(entry) = indexed {
            place = Place { offset: entry.offset, position: entry.position };
        }
        if let Some((offset, position)) = self.damage.resume_before(number, from)
            && offset > place.offset
        {
            place = Place { offset, position };
        }
        place
    }

    /// Note that the record at `at` is damaged. Reading goes on at `behind` if that is known, else at the next place in the
    /// index, else behind the segment. Where that is not behind `from`, what was asked for is not lost.
    fn damaged(
        &mut self,
        number: SegmentNumber,
        at: Place,
        from: Offset,
        behind: Option<Place>,
    ) -> Result<Place, ReadError> {
        let segment = self.segment(number).expect("the segment was just found");
        let indexed = || {
            let entry = segment.index.as_ref()?.behind(at.position, at.offset)?;
            Some(Place { offset: entry.offset, position: entry.position })
        };
        let resume = behind.or_else(indexed);
        let end = segment.end.min(self.committed);
        let range = DamagedRange {
            segment: number,
            first: at.offset,
            resume: resume.map_or(end, |place| place.offset),
            kind: DamageKind::Bytes,
            resume_position: resume.map(|place| place.position),
        };
        if range.first < range.resume && self.damage.add(range) {
            self.note(LogEvent::Damaged(range));
        }
        match resume {
            Some(place) if place.offset <= from => Ok(place),
            _ => Err(ReadError::Damaged { first: from, resume: range.resume }),
        }
    }

    /// The segment's index is in memory; otherwise it was asked for.
    fn index_is_here(&mut self, number: SegmentNumber) -> bool {
        self.index_uses += 1;
        let uses = self.index_uses;
        let Some(segment) = self.segment_mut(number) else {
            return true;
        };
        segment.index_used = uses;
        if segment.index.is_some() {
            segment.index_awaited = false;
            return true;
        }
        let (bytes, position) = (segment.footer_bytes, segment.file_bytes - segment.footer_bytes);
        self.ask_index(number, position, bytes);
        false
    }

    /// Ask for at least `needed` bytes from `start` on.
    fn load(&mut self, number: SegmentNumber, start: u64, needed: u64, readable: u64, sealed: bool) {
        if !self.loaded.make_room() {
            self.readers_wait = true;
            return;
        }
        let block = BLOCK_BYTES as u64;
        let stop = start + needed.next_multiple_of(block).max(self.config.load_bytes as u64);
        self.ask_load(number, start, stop.min(readable.next_multiple_of(block)), sealed);
    }

    /// Ask for what lies behind a range before a reader comes to its end, so that it need not wait there.
    fn read_ahead(&mut self, number: SegmentNumber, position: u64, stop: u64, readable: u64, sealed: bool) {
        let block = BLOCK_BYTES as u64;
        let stop = stop - stop % block;
        let loads = if sealed { READ_AHEAD_LOADS } else { 1 };
        let bytes = loads * self.config.load_bytes as u64;
        let is_near = position + bytes / 2 > stop;
        let is_worth_it = if sealed { stop < readable } else { stop + bytes <= readable };
        if is_near && is_worth_it && !self.loaded.knows(number, stop) && self.loaded.has_room_ahead() {
            // Ranges in buffers do not join: one block is in both, so that a record which the first one cuts is whole in the
            // second, unless it is larger than that.
            self.load(number, stop - block, bytes, readable, sealed);
        }
    }
}
