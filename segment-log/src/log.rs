//! The log: append, roll, cut the front; hands out [`LogAction`]s and takes back [`LogDone`]s.

use std::collections::VecDeque;
use std::rc::Rc;

use rand::Rng;
use rand_chacha::ChaCha12Rng;

use crate::commit::{InFlight, Writer};
use crate::config::LogConfig;
use crate::damage::{Damage, DamagedRange};
use crate::index::IndexEntry;
use crate::limits::{INDEXES_RESIDENT_MAX, RETRY_MS};
use crate::loaded::Loaded;
use crate::read::Hints;
use crate::record::{Epoch, encoded_bytes};
use crate::retention::{AgeClock, Candidate, count_removable};
use crate::segment::{Header, Segment, State, Trailer, data_limit};
use crate::storage::{
    ActionId, BLOCK_BYTES, Buffer, Completed, LogAction, LogDone, SegmentNumber, Storage, StorageError,
};
use crate::tail::Tail;
use crate::{Now, Offset};

/// An append-only log of records.
///
/// The order of calls, within one turn of whoever owns it: any number of [`Log::append`] and [`Log::read`], then
/// [`Log::poll_action`] until it yields nothing, and [`Log::handle_done`] with each answer as it comes, followed by
/// [`Log::poll_event`] until it yields nothing and by [`Log::poll_action`] again. [`Log::tick`] now and then. What
/// [`Log::committed`] has passed is durable.
///
/// It stays on its core; it owns no file and no clock.
pub struct Log<B: Buffer> {
    pub(crate) config: LogConfig,
    pub(crate) chance: ChaCha12Rng,
    pub(crate) now: Now,
    pub(crate) age_clock: AgeClock,
    /// Oldest first; the last one may take appends.
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) next_number: u64,
    /// Length of the next segment to prepare.
    pub(crate) next_segment_bytes: u64,
    pub(crate) prepared: Option<Header>,
    pub(crate) preparing: Preparing,
    pub(crate) writer: Writer<B>,
    pub(crate) tail: Tail<B>,
    pub(crate) loaded: Loaded<B>,
    pub(crate) hints: Hints,
    pub(crate) damage: Damage,
    pub(crate) next: Offset,
    pub(crate) committed: Offset,
    pub(crate) last_time_ms: u64,
    pub(crate) latched: Option<StorageError>,
    /// A reader was turned away for want of room for one more load.
    pub(crate) readers_wait: bool,
    /// Counts the uses of indexes.
    pub(crate) index_uses: u64,
    next_action: u64,
    asked: Vec<(ActionId, Asked)>,
    actions: VecDeque<LogAction<B>>,
    events: VecDeque<LogEvent>,
    removals: VecDeque<Removal>,
    removal_retry_ms: u64,
    /// Everything before this offset was declared useless.
    cut: Offset,
    /// A commit without records is wanted, so that the offsets survive the removal of all segments with records.
    mark_wanted: bool,
    roll_wanted: bool,
    closing: bool,
    /// When the active segment got its first record, monotonic.
    active_since_ms: Option<u64>,
    appended_since_tick: bool,
}

/// The next segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preparing {
    /// Not asked for.
    Idle,
    /// Asked for; `retried` after a failure.
    Asked { retried: bool },
    /// Failed, to be tried again.
    Failed { retry_ms: u64, error: StorageError },
}

/// What an action was asked for.
#[derive(Clone, Copy, Debug)]
enum Asked {
    CommitWrite,
    CommitSync,
    Prepare(Header),
    Seal(SegmentNumber, Trailer),
    Load,
    Index(SegmentNumber),
    Remove(Removal),
    Replace,
}

#[derive(Clone, Copy, Debug)]
struct Removal {
    segment: SegmentNumber,
    bytes: u64,
}

/// Something that the owner of the log may count or say; [`LogEvent::Loaded`] and [`LogEvent::Replaced`] wake those who
/// wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// Everything before this offset is durable and readable.
    Committed {
        /// Exclusive.
        to: Offset,
    },
    /// Something that readers were told to wait for is there (or will not come): those that got
    /// [`crate::Read::Pending`] try again.
    Loaded,
    /// Appends go to another segment from here on.
    Rolled {
        /// The new segment.
        segment: SegmentNumber,
        /// Its first record.
        first: Offset,
    },
    /// A segment got its footer and is closed for ever.
    Sealed {
        /// Which one.
        segment: SegmentNumber,
    },
    /// A segment that is full could not be sealed. It stays readable and is sealed at the next opening.
    SealFailed {
        /// Which one.
        segment: SegmentNumber,
        /// Why.
        error: StorageError,
    },
    /// The next segment is ready.
    Prepared {
        /// Its number.
        segment: SegmentNumber,
        /// Length of its file.
        bytes: u64,
    },
    /// The next segment could not be made; it is tried again. Appends go on while the present one has room.
    PrepareFailed {
        /// Why; usually there is no space.
        error: StorageError,
    },
    /// The next segment could be made again.
    SpaceReturned,
    /// Retention, or a cut, removed a segment.
    Removed {
        /// Which one.
        segment: SegmentNumber,
        /// The first offset of the log now.
        first: Offset,
        /// Length of the file that went, in bytes.
        bytes: u64,
    },
    /// A segment's file could not be removed; it is tried again.
    RemoveFailed {
        /// Which one.
        segment: SegmentNumber,
        /// Why.
        error: StorageError,
    },
    /// Reading found damage that was not known. It stays on the medium as it is.
    Damaged(DamagedRange),
    /// A write or a sync failed: nothing is appended until the log was opened again.
    Latched {
        /// What failed.
        error: StorageError,
        /// What was durable before stays so, and readable.
        committed: Offset,
    },
    /// The answer to [`Log::replace_file`].
    Replaced {
        /// As it returned.
        id: ActionId,
        /// Whether the new content is durable; otherwise the old one is.
        result: Result<(), StorageError>,
    },
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The write buffers are full, or the next segment is being made: try again after the next commit.
    #[error("the log's write buffers are full")]
    Busy,
    /// The segment is full and the medium has no room for another: try again after [`LogEvent::SpaceReturned`].
    #[error("no space left for the next segment")]
    NoSpace,
    /// A record or the batch is larger than the log takes. Never succeeds.
    #[error("{bytes} bytes are more than the {bytes_max} that fit")]
    TooLarge {
        /// The record's payload, or the whole batch as stored.
        bytes: usize,
        /// What is allowed of it.
        bytes_max: usize,
    },
    /// A write or a sync has failed: the log must be opened again.
    #[error("the log has latched after a failed write or sync")]
    Latched,
    /// [`Log::close`] was called.
    #[error("the log is closed")]
    Closed,
}

impl<B: Buffer> Log<B> {
    /// A log over what recovery found; nothing takes appends yet.
    pub(crate) fn recovered(config: LogConfig, now: Now, chance: ChaCha12Rng, found: Recovered) -> Log<B> {
        Log {
            age_clock: AgeClock::new(now, found.last_time_ms),
            writer: Writer::new(config.commit_bytes_max),
            config,
            chance,
            now,
            segments: found.segments,
            next_number: found.next_number,
            next_segment_bytes: found.next_segment_bytes,
            prepared: None,
            preparing: Preparing::Idle,
            tail: Tail::new(),
            loaded: Loaded::new(),
            hints: Hints::new(),
            damage: found.damage,
            next: found.next,
            committed: found.next,
            last_time_ms: found.last_time_ms.unwrap_or(0),
            latched: None,
            readers_wait: false,
            index_uses: 0,
            next_action: 1,
            asked: Vec::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            removals: VecDeque::new(),
            removal_retry_ms: 0,
            cut: Offset(0),
            mark_wanted: false,
            roll_wanted: false,
            closing: false,
            active_since_ms: None,
            appended_since_tick: false,
        }
    }

    /// Append a batch: after a crash it is there whole, or not at all. Each record is given in parts, which are joined; they
    /// are copied once, into the write buffer. Nothing is durable before [`Log::committed`] has passed it.
    ///
    /// `time_ms`: milliseconds since 1970; a record never gets less than the one before it. Returns the first record's
    /// offset.
    ///
    /// # Panics
    ///
    /// If the batch has no record.
    pub fn append(&mut self, batch: &[&[&[u8]]], time_ms: u64) -> Result<Offset, AppendError> {
        assert!(!batch.is_empty(), "a batch has a record");
        if self.latched.is_some() {
            return Err(AppendError::Latched);
        }
        if self.closing {
            return Err(AppendError::Closed);
        }
        let bytes = self.batch_bytes(batch)?;
        self.make_room(bytes)?;
        let first = self.next;
        let time_ms = time_ms.max(self.last_time_ms);
        let segment = self.segments.back_mut().expect("there is room in a segment");
        let open = self.writer.open.as_mut().expect("there is room in a buffer");
        if !segment.has_records() {
            segment.first_time_ms = time_ms;
            self.active_since_ms = Some(self.now.mono_ms);
        }
        for (at, parts) in batch.iter().enumerate() {
            let payload_bytes = parts.iter().map(|part| part.len()).sum();
            let offset = Offset(first.0 + at as u64);
            let position = open.push(parts, payload_bytes, time_ms, at + 1 < batch.len());
            if let Some(index) = &mut segment.index {
                index.note(IndexEntry { offset, time_ms, position }, self.config.index_stride_bytes);
            }
        }
        segment.data_end = open.position();
        segment.last_time_ms = time_ms;
        self.next = Offset(first.0 + batch.len() as u64);
        segment.end = self.next;
        self.last_time_ms = time_ms;
        self.appended_since_tick = true;
        Ok(first)
    }

    fn batch_bytes(&self, batch: &[&[&[u8]]]) -> Result<usize, AppendError> {
        let mut all = 0;
        for parts in batch {
            let bytes = parts.iter().map(|part| part.len()).sum();
            if bytes > self.config.record_bytes_max {
                return Err(AppendError::TooLarge { bytes, bytes_max: self.config.record_bytes_max });
            }
            all += encoded_bytes(bytes);
        }
        let bytes_max = self.config.batch_bytes_max();
        if all > bytes_max { Err(AppendError::TooLarge { bytes: all, bytes_max }) } else { Ok(all) }
    }

    /// Make room for a batch in the open buffer and its segment, rolling where that is needed.
    fn make_room(&mut self, bytes: usize) -> Result<(), AppendError> {
        loop {
            let fits_segment = match (&self.writer.open, self.segments.back()) {
                (Some(open), Some(active)) => {
                    let limit = data_limit(active.file_bytes, self.config.index_stride_bytes);
                    open.position() + open.needed(bytes) as u64 <= limit
                }
                _ => false,
            };
            if !fits_segment {
                self.roll()?;
            } else if self.writer.make_room(bytes) {
                return Ok(());
            } else if self.writer.is_full() {
                return Err(AppendError::Busy);
            } else {
                self.writer.hand_over();
            }
        }
    }

    /// Go on in the prepared segment.
    fn roll(&mut self) -> Result<(), AppendError> {
        let Some(header) = self.prepared else {
            return Err(match self.preparing {
                Preparing::Failed { .. } | Preparing::Asked { retried: true } => AppendError::NoSpace,
                _ => AppendError::Busy,
            });
        };
        if self.writer.is_full() {
            return Err(AppendError::Busy);
        }
        self.prepared = None;
        self.leave_active();
        self.activate(&header);
        self.events.push_back(LogEvent::Rolled { segment: header.number, first: self.next });
        Ok(())
    }

    /// The active segment, if there is one, takes no more; what it holds is committed, then it is sealed.
    fn leave_active(&mut self) {
        self.writer.leave_segment();
        if let Some(active) = self.segments.back_mut().filter(|last| last.state == State::Active) {
            active.state = State::Closing;
        }
        self.roll_wanted = false;
        self.active_since_ms = None;
    }

    /// Let a prepared segment take appends, and choose the length of the one behind it.
    pub(crate) fn activate(&mut self, header: &Header) {
        self.segments.push_back(Segment::activated(header, self.next, self.last_time_ms));
        self.writer.open_segment(header, self.next, self.last_time_ms);
        self.next_segment_bytes = (header.bytes * 2).min(self.config.segment_bytes_max);
    }

    /// The offset of the oldest record; equal to [`Log::next`] when there is none. Moves up when segments are removed.
    pub fn first(&self) -> Offset {
        self.segments.iter().find(|segment| segment.has_records()).map_or(self.next, |segment| segment.first)
    }

    /// The offset that the next appended record gets.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Everything before this offset is durable and can be read.
    pub fn committed(&self) -> Offset {
        self.committed
    }

    /// The time of the newest record, milliseconds since 1970; 0 when there never was one.
    pub fn last_time_ms(&self) -> u64 {
        self.last_time_ms
    }

    /// What the log takes on the medium, in bytes: the files of closed segments and the used part of the open one.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(Segment::used_bytes).sum()
    }

    /// Memory that the retained tail holds, in bytes.
    pub fn tail_bytes(&self) -> usize {
        self.tail.bytes()
    }

    /// What failed, if the log has latched.
    pub fn latched(&self) -> Option<StorageError> {
        self.latched
    }

    /// Nothing is appended that is not durable, and nothing of that is on its way.
    pub fn is_quiet(&self) -> bool {
        self.writer.is_clean()
    }

    /// The damage that is known: what recovery reported and what reading has found since, oldest first.
    pub fn damage(&self) -> impl Iterator<Item = DamagedRange> + '_ {
        self.damage.iter()
    }

    /// The next thing to be done. Called at the end of a turn until it yields nothing: that is when what was appended
    /// since becomes one commit, unless one is on its way.
    pub fn poll_action(&mut self) -> Option<LogAction<B>> {
        if self.actions.is_empty() {
            self.plan();
        }
        self.actions.pop_front()
    }

    fn plan(&mut self) {
        if self.latched.is_none() {
            self.plan_roll();
            self.plan_commit();
            self.plan_prepare();
            self.plan_seals();
            self.plan_removal();
        }
    }

    fn plan_roll(&mut self) {
        if self.closing && !self.writer.is_full() && self.writer.open.is_some() {
            self.leave_active();
            // Without a commit it says nothing; the next opening removes it.
            if self.segments.back().is_some_and(|last| !last.has_records() && !last.committed) {
                self.segments.pop_back();
            }
        } else if self.roll_wanted && !self.closing {
            // Where it cannot be done yet, the next turn tries again.
            let _ = self.roll();
        }
    }

    fn plan_commit(&mut self) {
        if self.mark_wanted
            && let Some(open) = self.writer.open.as_mut()
            && self.segments.back().is_some_and(|active| !active.committed)
        {
            open.begin();
        }
        let Some(frozen) = self.writer.freeze() else { return };
        let mut writes = Vec::with_capacity(frozen.writes.len());
        for write in frozen.writes {
            let id = self.ask(Asked::CommitWrite);
            writes.push(id);
            self.actions.push_back(LogAction::Write {
                id,
                segment: frozen.segment,
                position: write.position,
                buffer: write.buffer,
                bytes: write.bytes,
            });
        }
        if let Some(window) = frozen.window {
            self.tail.push(window);
        }
        let (segment, end, placed) = (frozen.segment, frozen.end, frozen.placed);
        self.writer.in_flight = Some(InFlight { segment, end, placed, writes, sync: None });
    }

    fn plan_prepare(&mut self) {
        let half_full = match self.segments.back() {
            Some(active) if active.state == State::Active => active.data_end * 2 > active.file_bytes,
            _ => true,
        };
        let wanted = self.config.keep_prepared || half_full;
        if self.closing || self.prepared.is_some() || !wanted {
            return;
        }
        let retried = match self.preparing {
            Preparing::Idle => false,
            Preparing::Asked { .. } => return,
            Preparing::Failed { retry_ms, .. } if self.now.mono_ms < retry_ms => return,
            Preparing::Failed { .. } => true,
        };
        let (header, block) = self.new_header();
        let id = self.ask(Asked::Prepare(header));
        self.preparing = Preparing::Asked { retried };
        let (segment, bytes) = (header.number, header.bytes);
        self.actions.push_back(LogAction::Prepare { id, segment, bytes, header: block });
    }

    /// The header of a segment that was never there.
    pub(crate) fn new_header(&mut self) -> (Header, Rc<B>) {
        let header = Header {
            number: SegmentNumber(self.next_number),
            epoch: Epoch::new(self.chance.next_u64()),
            bytes: self.next_segment_bytes,
        };
        self.next_number += 1;
        let mut block = B::allocate(BLOCK_BYTES);
        header.encode(block.bytes_mut());
        (header, Rc::new(block))
    }

    fn plan_seals(&mut self) {
        for at in 0..self.segments.len() {
            let segment = &mut self.segments[at];
            if segment.state != State::Closing || self.writer.holds(segment.number) {
                continue;
            }
            segment.state = State::Sealing;
            let number = segment.number;
            let (footer, trailer) = segment.footer::<B>(0);
            let id = self.ask(Asked::Seal(number, trailer));
            let file_bytes = trailer.file_bytes;
            self.actions.push_back(LogAction::Seal {
                id,
                segment: number,
                file_bytes,
                footer: Rc::new(footer),
            });
        }
    }

    fn plan_removal(&mut self) {
        // One at a time and the oldest first, so that a crash leaves no gap.
        let Some(removal) = self.removals.front().copied() else { return };
        let segment = removal.segment;
        let busy = self.asked.iter().any(|(_, asked)| match asked {
            Asked::Remove(_) => true,
            Asked::Index(loading) => *loading == segment,
            _ => false,
        });
        if busy || self.loaded.is_loading(segment) || self.now.mono_ms < self.removal_retry_ms {
            return;
        }
        self.removals.pop_front();
        let id = self.ask(Asked::Remove(removal));
        self.actions.push_back(LogAction::Remove { id, segment });
    }

    /// Ask for a range of a segment for readers.
    pub(crate) fn ask_load(&mut self, segment: SegmentNumber, start: u64, stop: u64, sealed: bool) {
        let id = self.ask(Asked::Load);
        self.loaded.ask(id, segment, start, stop, self.now.mono_ms);
        let bytes = usize::try_from(stop - start).expect("a loaded range fits memory");
        self.actions.push_back(LogAction::Load { id, segment, position: start, bytes, sealed });
    }

    /// Ask for the index of a sealed segment, once.
    pub(crate) fn ask_index(&mut self, segment: SegmentNumber, position: u64, bytes: u64) {
        let asked =
            |(_, asked): &(ActionId, Asked)| matches!(asked, Asked::Index(there) if *there == segment);
        if self.asked.iter().any(asked) {
            return;
        }
        let id = self.ask(Asked::Index(segment));
        let bytes = usize::try_from(bytes).expect("a footer fits memory");
        self.actions.push_back(LogAction::Load { id, segment, position, bytes, sealed: true });
    }

    fn ask(&mut self, what: Asked) -> ActionId {
        let id = ActionId(self.next_action);
        self.next_action += 1;
        self.asked.push((id, what));
        id
    }

    /// Take the answer to an action.
    ///
    /// # Panics
    ///
    /// If no such action is unanswered.
    pub fn handle_done(&mut self, done: LogDone<B>) {
        let at = self.asked.iter().position(|(id, _)| *id == done.id).expect("an answer to what was asked");
        let (id, asked) = self.asked.swap_remove(at);
        match asked {
            Asked::CommitWrite => self.write_done(id, done.result.map(drop)),
            Asked::CommitSync => self.sync_done(done.result.map(drop)),
            Asked::Prepare(header) => self.prepare_done(header, done.result.map(drop)),
            Asked::Seal(segment, trailer) => self.seal_done(segment, trailer, done.result.map(drop)),
            Asked::Load => {
                self.loaded.answer(id, done.result, self.now.mono_ms);
                self.readers_wait = false;
                self.events.push_back(LogEvent::Loaded);
            }
            Asked::Index(segment) => self.index_done(segment, done.result),
            Asked::Remove(removal) => self.remove_done(removal, done.result.map(drop)),
            Asked::Replace => {
                self.events.push_back(LogEvent::Replaced { id, result: done.result.map(drop) });
            }
        }
    }

    fn write_done(&mut self, id: ActionId, result: Result<(), StorageError>) {
        if let Err(error) = result {
            return self.latch(error);
        }
        let Some(commit) = &mut self.writer.in_flight else { return };
        commit.writes.retain(|write| *write != id);
        if commit.writes.is_empty() {
            let segment = commit.segment;
            let id = self.ask(Asked::CommitSync);
            if let Some(commit) = &mut self.writer.in_flight {
                commit.sync = Some(id);
            }
            self.actions.push_back(LogAction::Sync { id, segment });
        }
    }

    fn sync_done(&mut self, result: Result<(), StorageError>) {
        if let Err(error) = result {
            return self.latch(error);
        }
        let Some(commit) = self.writer.in_flight.take() else { return };
        let found = self.segments.iter_mut().rev().find(|segment| segment.number == commit.segment);
        if let Some(segment) = found {
            segment.placed = commit.placed;
            segment.committed = true;
        }
        if self.committed < commit.end {
            self.committed = commit.end;
            self.events.push_back(LogEvent::Committed { to: commit.end });
        }
        if self.mark_wanted {
            self.mark_wanted = false;
            self.retain();
        }
        self.evict_tail();
    }

    fn evict_tail(&mut self) {
        let (segments, committed) = (&self.segments, self.committed);
        let writer = &mut self.writer;
        self.tail.evict(
            self.config.tail_bytes_max,
            |window| {
                let placed = segments.iter().rev().find(|segment| segment.number == window.segment);
                let placed = placed.is_none_or(|segment| window.stop_position() <= segment.placed);
                placed && window.end <= committed
            },
            |buffer| writer.keep_spare(buffer),
        );
    }

    fn prepare_done(&mut self, header: Header, result: Result<(), StorageError>) {
        let retried = matches!(self.preparing, Preparing::Asked { retried: true });
        if let Err(error) = result {
            self.prepare_failed(error);
            return;
        }
        self.preparing = Preparing::Idle;
        self.events.push_back(LogEvent::Prepared { segment: header.number, bytes: header.bytes });
        if retried {
            self.events.push_back(LogEvent::SpaceReturned);
        }
        let active = self.segments.back().is_some_and(|last| last.state == State::Active);
        if active || self.closing || self.latched.is_some() {
            self.prepared = Some(header);
        } else {
            self.activate(&header);
        }
    }

    /// Note that there is no next segment for now.
    pub(crate) fn prepare_failed(&mut self, error: StorageError) {
        let retry_ms = self.now.mono_ms.saturating_add(RETRY_MS);
        let known = matches!(self.preparing, Preparing::Asked { retried: true });
        self.preparing = Preparing::Failed { retry_ms, error };
        if !known {
            self.events.push_back(LogEvent::PrepareFailed { error });
        }
    }

    fn seal_done(&mut self, number: SegmentNumber, trailer: Trailer, result: Result<(), StorageError>) {
        let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == number) else { return };
        match result {
            Ok(()) => {
                segment.state = State::Sealed;
                segment.file_bytes = trailer.file_bytes;
                segment.footer_bytes = u64::from(trailer.footer_bytes);
                segment.trailer = Some(trailer);
                self.events.push_back(LogEvent::Sealed { segment: number });
                self.drop_indexes();
                self.retain();
            }
            Err(error) => {
                segment.state = State::Unsealed;
                self.events.push_back(LogEvent::SealFailed { segment: number, error });
                if !error.is_no_space() {
                    // Its records were durable before; but a medium that fails a sync is not written any more.
                    self.latch(error);
                }
            }
        }
    }

    fn index_done(&mut self, number: SegmentNumber, result: Result<Completed<B>, StorageError>) {
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.number == number) {
            let footer = match &result {
                Ok(Completed::Loaded(window)) => window.bytes(),
                _ => &[],
            };
            // Without its footer a segment is walked from its start, which makes another index.
            let index = segment.trailer.and_then(|trailer| trailer.index(footer));
            segment.index = Some(index.unwrap_or_default());
            segment.index_awaited = true;
            self.drop_indexes();
        }
        self.events.push_back(LogEvent::Loaded);
    }

    /// Keep only the indexes of sealed segments that were used last.
    fn drop_indexes(&mut self) {
        let resident = |segment: &&mut Segment| {
            segment.state == State::Sealed && segment.index.is_some() && !segment.index_awaited
        };
        while self.segments.iter_mut().filter(resident).count() > INDEXES_RESIDENT_MAX {
            let oldest = self.segments.iter_mut().filter(resident).min_by_key(|segment| segment.index_used);
            if let Some(segment) = oldest {
                segment.index = None;
            }
        }
    }

    fn remove_done(&mut self, removal: Removal, result: Result<(), StorageError>) {
        let Removal { segment, bytes } = removal;
        match result {
            Ok(()) => {
                let first = self.first();
                self.events.push_back(LogEvent::Removed { segment, first, bytes });
                // Room may have come back.
                if let Preparing::Failed { retry_ms, .. } = &mut self.preparing {
                    *retry_ms = self.now.mono_ms;
                }
            }
            Err(error) => {
                self.removals.push_front(removal);
                self.removal_retry_ms = self.now.mono_ms.saturating_add(RETRY_MS);
                self.events.push_back(LogEvent::RemoveFailed { segment, error });
            }
        }
    }

    fn latch(&mut self, error: StorageError) {
        if self.latched.is_none() {
            self.latched = Some(error);
            self.writer.abandon();
            self.actions
                .retain(|action| matches!(action, LogAction::Load { .. } | LogAction::Replace { .. }));
            self.events.push_back(LogEvent::Latched { error, committed: self.committed });
        }
    }

    /// Something to say, if there is.
    pub fn poll_event(&mut self) -> Option<LogEvent> {
        self.events.pop_front()
    }

    pub(crate) fn note(&mut self, event: LogEvent) {
        self.events.push_back(event);
    }

    /// Tell the time: retention, roll by age, and another try of what failed. About once per second, or when
    /// [`Log::next_tick_ms`] says so.
    pub fn tick(&mut self, now: Now) {
        self.now = now;
        self.loaded.age(now.mono_ms);
        self.segments.iter_mut().for_each(|segment| segment.index_awaited = false);
        self.drop_indexes();
        if std::mem::take(&mut self.readers_wait) {
            self.events.push_back(LogEvent::Loaded);
        }
        if let (Some(age_ms), Some(since_ms)) = (self.config.roll_age_ms, self.active_since_ms) {
            self.roll_wanted |= now.mono_ms >= since_ms.saturating_add(age_ms);
        }
        if !std::mem::take(&mut self.appended_since_tick) {
            self.writer.shrink();
        }
        self.retain();
    }

    /// When [`Log::tick`] is wanted next, by the monotonic clock; `None` while nothing waits for time.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let prepare = match self.preparing {
            Preparing::Failed { retry_ms, .. } => Some(retry_ms),
            _ => None,
        };
        let removal = (!self.removals.is_empty()).then_some(self.removal_retry_ms);
        let roll = match (self.config.roll_age_ms, self.active_since_ms) {
            (Some(age_ms), Some(since_ms)) => Some(since_ms.saturating_add(age_ms)),
            _ => None,
        };
        let readers = self.readers_wait.then_some(self.now.mono_ms.saturating_add(RETRY_MS));
        let aging = self.config.retention.age_ms.is_some() && self.segments.len() > 1;
        let age = aging.then_some(self.now.mono_ms.saturating_add(60 * RETRY_MS));
        [prepare, removal, roll, readers, age].into_iter().flatten().min()
    }

    /// Declare everything before `offset` useless: whole segments in front of it are removed.
    pub fn remove_before(&mut self, offset: Offset) {
        self.cut = self.cut.max(offset);
        self.retain();
    }

    /// Take out of the front what retention and the cut let go.
    fn retain(&mut self) {
        if self.latched.is_some() {
            return;
        }
        let closed =
            |segment: &&Segment| matches!(segment.state, State::Sealed | State::Unsealed | State::Unreadable);
        let candidates = self.segments.iter().take_while(closed).map(|segment| Candidate {
            end: segment.end,
            last_time_ms: segment.last_time_ms,
            bytes: segment.used_bytes(),
        });
        let believed_ms = self.age_clock.believed_ms(self.now);
        let (retention, bytes_all) = (self.config.retention, self.size_bytes());
        let mut count = count_removable(candidates, retention, believed_ms, bytes_all, self.cut);
        if count == 0 {
            return;
        }
        // Some segment must tell the next opening how far the offsets have come.
        let tells = |segment: &Segment| segment.committed && segment.state != State::Unreadable;
        if !self.segments.iter().skip(count).any(tells) {
            self.mark_wanted = true;
            count = self.segments.iter().take(count).rposition(tells).unwrap_or(0);
        }
        for _ in 0..count {
            let Some(segment) = self.segments.pop_front() else { break };
            self.tail.forget(segment.number);
            self.loaded.forget(segment.number);
            self.removals.push_back(Removal { segment: segment.number, bytes: segment.file_bytes });
        }
        self.damage.forget_before(self.first());
    }

    /// Replace a small file beside the segments, whole or not at all, such as a snapshot of what the log says. Told by
    /// [`LogEvent::Replaced`].
    pub fn replace_file(&mut self, name: impl Into<String>, bytes: Vec<u8>) -> ActionId {
        let id = self.ask(Asked::Replace);
        self.actions.push_back(LogAction::Replace { id, name: name.into(), bytes });
        id
    }

    /// Take no more appends, commit what there is and seal the last segment, so that the next opening scans nothing. Done
    /// when [`Log::is_closed`]. A log that is just dropped loses nothing that was committed.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Closed, and all is durable and sealed; or latched, and nothing more will come.
    pub fn is_closed(&self) -> bool {
        let open =
            |segment: &Segment| matches!(segment.state, State::Active | State::Closing | State::Sealing);
        self.latched.is_some() || (self.closing && self.is_quiet() && !self.segments.iter().any(open))
    }
}

/// What recovery hands to a new log.
pub(crate) struct Recovered {
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) damage: Damage,
    pub(crate) next: Offset,
    pub(crate) last_time_ms: Option<u64>,
    pub(crate) next_number: u64,
    pub(crate) next_segment_bytes: u64,
}

/// Submit everything a log asks for and hand it everything that was done, until neither has more: for storages that carry
/// actions out where they are submitted.
pub fn drive<S: Storage>(log: &mut Log<S::Buffer>, storage: &mut S) {
    loop {
        let mut quiet = true;
        while let Some(action) = log.poll_action() {
            storage.submit(action);
            quiet = false;
        }
        while let Some(done) = storage.poll_done() {
            log.handle_done(done);
            quiet = false;
        }
        if quiet {
            return;
        }
    }
}
