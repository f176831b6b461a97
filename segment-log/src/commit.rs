//! Group commit: what is appended gathers in a write buffer while one commit is on its way to the medium; when that is
//! durable, the next one starts with all that gathered.
//!
//! No block with acknowledged bytes is written a second time in place. A commit that ends in the middle of a block leaves
//! that part in one of two alternating tail slots; the block itself is written once, when it is full or padded. Until then
//! its bytes are carried along at the front of the write buffer.

use std::rc::Rc;

use crate::Offset;
use crate::limits::{COMMIT_PADDED_BYTES, MAIN_START, WRITE_BUFFER_BYTES_FIRST};
use crate::record::{self, COMMIT_BYTES, Epoch, RecordHead};
use crate::segment::{Header, SLOT_CONTENT_MAX, SLOT_POSITIONS, Slot};
use crate::storage::{ActionId, BLOCK_BYTES, Buffer, SegmentNumber};
use crate::tail::TailWindow;

/// How many emptied buffers wait to be filled again.
const SPARE_BUFFERS_MAX: usize = 2;

/// Appended entries of one segment that no commit has taken yet, behind the carried part of a block that one has.
pub(crate) struct WriteBuffer<B> {
    buffer: B,
    segment: SegmentNumber,
    epoch: Epoch,
    /// Position of the buffer's first byte, a block's start.
    base: u64,
    filled: usize,
    /// Less than a block: written by earlier commits, to a tail slot.
    carried: usize,
    /// What is behind `carried` begins with a commit entry, to be completed when it goes out.
    begun: bool,
    first: Offset,
    end: Offset,
    time_ms: u64,
    slots_written: u64,
}

/// One write of a commit.
pub(crate) struct BlockWrite<B> {
    pub(crate) position: u64,
    pub(crate) buffer: Rc<B>,
    pub(crate) bytes: usize,
}

/// A commit that is ready to go out.
pub(crate) struct Frozen<B> {
    pub(crate) segment: SegmentNumber,
    /// At most two: blocks in their place, and a tail slot.
    pub(crate) writes: Vec<BlockWrite<B>>,
    pub(crate) first: Offset,
    pub(crate) end: Offset,
    /// All before this position is in its place once the commit is durable.
    pub(crate) placed: u64,
    /// The commit's records, if it has any.
    pub(crate) window: Option<TailWindow<B>>,
}

impl<B: Buffer> WriteBuffer<B> {
    fn new(buffer: B, header: &Header, next: Offset, time_ms: u64) -> WriteBuffer<B> {
        WriteBuffer {
            buffer,
            segment: header.number,
            epoch: header.epoch,
            base: MAIN_START,
            filled: 0,
            carried: 0,
            begun: false,
            first: next,
            end: next,
            time_ms,
            slots_written: 0,
        }
    }

    fn capacity(&self) -> usize {
        self.buffer.bytes().len()
    }

    /// Position where the next entry goes.
    pub(crate) fn position(&self) -> u64 {
        self.base + self.filled as u64
    }

    /// There is something to commit.
    pub(crate) fn is_dirty(&self) -> bool {
        self.filled > self.carried
    }

    /// Bytes that records of `bytes` bytes will take here.
    pub(crate) fn needed(&self, bytes: usize) -> usize {
        bytes + if self.begun { 0 } else { COMMIT_BYTES }
    }

    /// Leave room for the entry that begins a commit.
    pub(crate) fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            self.filled += COMMIT_BYTES;
        }
    }

    /// Add a record; there must be room. Returns its position.
    pub(crate) fn push(&mut self, parts: &[&[u8]], payload_bytes: usize, time_ms: u64, more: bool) -> u64 {
        self.begin();
        let position = self.position();
        let stop = self.filled + record::encoded_bytes(payload_bytes);
        let head = RecordHead { offset: self.end, time_ms, more };
        let into = &mut self.buffer.bytes_mut()[self.filled..stop];
        record::encode(into, self.epoch, &head, parts, payload_bytes);
        self.filled = stop;
        self.end.0 += 1;
        self.time_ms = time_ms;
        position
    }

    fn pad_to_block(&mut self) {
        let stop = self.filled.next_multiple_of(BLOCK_BYTES);
        if stop > self.filled {
            let position = self.position();
            record::encode_padding(&mut self.buffer.bytes_mut()[self.filled..stop], self.epoch, position);
            self.filled = stop;
        }
    }

    /// Fill in the entry that begins the commit: all before its first record is durable now.
    fn complete(&mut self) {
        if self.begun {
            let position = self.base + self.carried as u64;
            let entry = &mut self.buffer.bytes_mut()[self.carried..self.carried + COMMIT_BYTES];
            record::encode_commit(entry, self.epoch, self.first, self.time_ms, position);
        }
    }

    /// The commit's records as they will be read, in a buffer that nobody writes any more.
    fn window(&self, buffer: &Rc<B>) -> Option<TailWindow<B>> {
        (self.first < self.end).then(|| TailWindow {
            segment: self.segment,
            base: self.base,
            start: self.carried,
            stop: self.filled,
            first: self.first,
            end: self.end,
            buffer: buffer.clone(),
        })
    }

    /// Make a commit of what gathered and go on behind it. `spare` gives the buffer to go on with if this one goes out.
    fn freeze(&mut self, spare: impl FnOnce(usize) -> B) -> Frozen<B> {
        self.complete();
        let dirty = self.filled - self.carried;
        let partial = self.filled % BLOCK_BYTES;
        if dirty >= COMMIT_PADDED_BYTES || partial > SLOT_CONTENT_MAX {
            self.pad_to_block();
        }
        let whole = self.filled - self.filled % BLOCK_BYTES;
        // A buffer that is well used goes out as it is; of one that is not, only the used part is kept by its readers.
        let is_well_used = match B::IS_WRITTEN_WHOLE {
            true => self.filled == self.capacity(),
            false => self.filled * 4 >= self.capacity(),
        };
        if whole == self.filled && is_well_used {
            let fresh = spare(self.capacity());
            let buffer = Rc::new(std::mem::replace(&mut self.buffer, fresh));
            let writes = vec![BlockWrite { position: self.base, buffer: buffer.clone(), bytes: whole }];
            let window = self.window(&buffer);
            let first = self.first;
            self.go_on_behind(whole);
            return self.frozen(first, writes, window);
        }
        let copy = Rc::new(B::copy_of(&self.buffer.bytes()[..self.filled.next_multiple_of(BLOCK_BYTES)]));
        let window = self.window(&copy);
        let mut writes = Vec::with_capacity(2);
        if whole > 0 {
            writes.push(BlockWrite { position: self.base, buffer: copy.clone(), bytes: whole });
        }
        if whole < self.filled {
            writes.push(self.slot(&copy.bytes()[whole..self.filled], self.base + whole as u64));
            self.slots_written += 1;
        }
        self.buffer.bytes_mut().copy_within(whole..self.filled, 0);
        let first = self.first;
        self.go_on_behind(whole);
        self.frozen(first, writes, window)
    }

    /// As [`WriteBuffer::freeze`], of a padded buffer that nothing follows.
    fn freeze_last(mut self) -> Frozen<B> {
        self.complete();
        let end_position = self.position();
        let (segment, first, end) = (self.segment, self.first, self.end);
        let (base, bytes) = (self.base, self.filled);
        let unused = B::allocate(BLOCK_BYTES);
        let buffer = Rc::new(std::mem::replace(&mut self.buffer, unused));
        let window = self.window(&buffer);
        let writes = vec![BlockWrite { position: base, buffer, bytes }];
        Frozen { segment, writes, first, end, placed: end_position, window }
    }

    /// The partial block, for the tail slot that does not hold the last acknowledged one.
    fn slot(&self, content: &[u8], position: u64) -> BlockWrite<B> {
        let mut block = B::allocate(BLOCK_BYTES);
        let slot = Slot { sequence: self.slots_written, position, mark: self.first, content };
        slot.encode(self.epoch, block.bytes_mut());
        let position = SLOT_POSITIONS[(self.slots_written % 2) as usize];
        BlockWrite { position, buffer: Rc::new(block), bytes: BLOCK_BYTES }
    }

    fn go_on_behind(&mut self, whole: usize) {
        self.base += whole as u64;
        self.filled -= whole;
        self.carried = self.filled;
        self.begun = false;
        self.first = self.end;
    }

    fn frozen(&self, first: Offset, writes: Vec<BlockWrite<B>>, window: Option<TailWindow<B>>) -> Frozen<B> {
        Frozen { segment: self.segment, writes, first, end: self.end, placed: self.base, window }
    }
}

/// The commit on its way.
pub(crate) struct InFlight {
    pub(crate) segment: SegmentNumber,
    pub(crate) end: Offset,
    pub(crate) placed: u64,
    /// Writes that were not answered yet; each is durable when it is.
    pub(crate) writes: Vec<ActionId>,
}

/// The write side of a log: one buffer that fills, at most one full one that waits, at most one commit on its way.
pub(crate) struct Writer<B> {
    /// Takes appends; `None` while there is no segment for them.
    pub(crate) open: Option<WriteBuffer<B>>,
    /// Full or of a segment that was left; padded; goes out before `open`.
    waiting: Option<WriteBuffer<B>>,
    pub(crate) in_flight: Option<InFlight>,
    spare: Vec<B>,
    bytes_max: usize,
}

impl<B: Buffer> Writer<B> {
    pub(crate) fn new(commit_bytes_max: usize) -> Writer<B> {
        Writer { open: None, waiting: None, in_flight: None, spare: Vec::new(), bytes_max: commit_bytes_max }
    }

    /// Go on in a prepared segment. The former one must have been left.
    pub(crate) fn open_segment(&mut self, header: &Header, next: Offset, time_ms: u64) {
        assert!(self.open.is_none(), "the former segment was left");
        let bytes = WRITE_BUFFER_BYTES_FIRST.min(self.bytes_max);
        let buffer = self.take_spare(bytes);
        self.open = Some(WriteBuffer::new(buffer, header, next, time_ms));
    }

    /// The open buffer has room for so many bytes, or could be made to.
    pub(crate) fn make_room(&mut self, bytes: usize) -> bool {
        let Some(open) = &mut self.open else { return false };
        let needed = open.filled + open.needed(bytes);
        if needed <= open.capacity() {
            return true;
        }
        if needed > self.bytes_max {
            return false;
        }
        let capacity = needed.next_power_of_two().clamp(WRITE_BUFFER_BYTES_FIRST, self.bytes_max);
        let mut larger = B::allocate(capacity.max(needed.next_multiple_of(BLOCK_BYTES)));
        larger.bytes_mut()[..open.filled].copy_from_slice(&open.buffer.bytes()[..open.filled]);
        open.buffer = larger;
        true
    }

    /// A full buffer waits already: back-pressure.
    pub(crate) fn is_full(&self) -> bool {
        self.waiting.is_some()
    }

    /// Let the open buffer wait and go on at the next block of the same segment.
    pub(crate) fn hand_over(&mut self) {
        assert!(self.waiting.is_none(), "one buffer waits at most");
        let Some(mut full) = self.open.take() else { return };
        full.pad_to_block();
        let buffer = self.take_spare(full.capacity());
        self.open = Some(WriteBuffer {
            buffer,
            segment: full.segment,
            epoch: full.epoch,
            base: full.position(),
            filled: 0,
            carried: 0,
            begun: false,
            first: full.end,
            end: full.end,
            time_ms: full.time_ms,
            slots_written: full.slots_written,
        });
        self.waiting = Some(full);
    }

    /// Append no more to the open buffer's segment; what it holds, be it only a carried part of a block, goes to its place.
    pub(crate) fn leave_segment(&mut self) {
        let Some(mut last) = self.open.take() else { return };
        if last.filled == 0 {
            self.keep_spare(last.buffer);
            return;
        }
        assert!(self.waiting.is_none(), "one buffer waits at most");
        last.pad_to_block();
        self.waiting = Some(last);
    }

    /// The next commit, if there is something for one and none is on its way.
    pub(crate) fn freeze(&mut self) -> Option<Frozen<B>> {
        if self.in_flight.is_some() {
            return None;
        }
        if let Some(waiting) = self.waiting.take() {
            return Some(waiting.freeze_last());
        }
        let spare = &mut self.spare;
        self.open
            .as_mut()
            .filter(|open| open.is_dirty())
            .map(|open| open.freeze(|bytes| take_spare(spare, bytes)))
    }

    /// Something of the segment is not durable and in its place yet.
    pub(crate) fn holds(&self, segment: SegmentNumber) -> bool {
        let buffered =
            [&self.open, &self.waiting].into_iter().flatten().any(|buffer| buffer.segment == segment);
        buffered || self.in_flight.as_ref().is_some_and(|commit| commit.segment == segment)
    }

    /// Nothing is to be committed or on its way.
    pub(crate) fn is_clean(&self) -> bool {
        let open_clean = self.open.as_ref().is_none_or(|open| !open.is_dirty());
        open_clean && self.waiting.is_none() && self.in_flight.is_none()
    }

    /// Keep a buffer for later.
    pub(crate) fn keep_spare(&mut self, buffer: B) {
        keep_spare(&mut self.spare, buffer);
    }

    /// Memory of all buffers, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let filling = [&self.open, &self.waiting].into_iter().flatten().map(WriteBuffer::capacity);
        filling.chain(self.spare.iter().map(|buffer| buffer.bytes().len())).sum()
    }

    /// Whether [`Writer::shrink`] has something to give back once what gathers is committed.
    pub(crate) fn can_shrink(&self) -> bool {
        let small = WRITE_BUFFER_BYTES_FIRST.min(self.bytes_max);
        !self.spare.is_empty() || self.open.as_ref().is_some_and(|open| open.capacity() > small)
    }

    /// Give back the memory that an idle log does not need.
    pub(crate) fn shrink(&mut self) {
        self.spare = Vec::new();
        let small = WRITE_BUFFER_BYTES_FIRST.min(self.bytes_max);
        if let Some(open) = self.open.as_mut().filter(|open| !open.is_dirty() && open.capacity() > small) {
            let mut buffer = B::allocate(small);
            buffer.bytes_mut()[..open.filled].copy_from_slice(&open.buffer.bytes()[..open.filled]);
            open.buffer = buffer;
        }
    }

    /// Drop all that is not durable: the log has latched.
    pub(crate) fn abandon(&mut self) {
        self.open = None;
        self.waiting = None;
        self.in_flight = None;
        self.spare = Vec::new();
    }

    fn take_spare(&mut self, bytes: usize) -> B {
        take_spare(&mut self.spare, bytes)
    }
}

fn take_spare<B: Buffer>(spare: &mut Vec<B>, bytes: usize) -> B {
    match spare.iter().position(|buffer| buffer.bytes().len() >= bytes) {
        Some(at) => spare.swap_remove(at),
        None => B::allocate(bytes),
    }
}

fn keep_spare<B: Buffer>(spare: &mut Vec<B>, buffer: B) {
    if spare.len() < SPARE_BUFFERS_MAX && buffer.bytes().len() >= WRITE_BUFFER_BYTES_FIRST {
        spare.push(buffer);
    }
}
