//! The log: append, roll, cut the front; hands out [`LogAction`]s and takes back [`LogDone`]s.

use std::collections::VecDeque;

use rand_chacha::ChaCha12Rng;

use crate::actions::{Asked, Preparing, Removal};
use crate::commit::Writer;
use crate::config::LogConfig;
use crate::damage::{Damage, DamagedRange};
use crate::event::{AppendError, LogEvent};
use crate::index::IndexEntry;
use crate::limits::{IDLE_MS, RETRY_MS};
use crate::loaded::Loaded;
use crate::read::Hints;
use crate::record::encoded_bytes;
use crate::retention::{AgeClock, Candidate, count_removable};
use crate::segment::{Header, Segment, State, data_limit};
use crate::storage::{ActionId, Buffer, LogAction, SegmentNumber, Storage, StorageError};
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
    pub(crate) next_action: u64,
    pub(crate) asked: Vec<(ActionId, Asked)>,
    pub(crate) actions: VecDeque<LogAction<B>>,
    pub(crate) events: VecDeque<LogEvent>,
    pub(crate) removals: VecDeque<Removal>,
    pub(crate) removal_retry_ms: u64,
    /// Everything before this offset was declared useless.
    cut: Offset,
    /// A commit without records is wanted, so that the offsets survive the removal of all segments with records.
    pub(crate) mark_wanted: bool,
    /// See [`Log::hold_commits`].
    pub(crate) commits_held: bool,
    pub(crate) roll_wanted: bool,
    pub(crate) closing: bool,
    /// When the active segment got its first record, monotonic.
    active_since_ms: Option<u64>,
    /// The first tick since the last append, monotonic.
    pub(crate) idle_since_ms: Option<u64>,
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
            commits_held: false,
            roll_wanted: false,
            closing: false,
            active_since_ms: None,
            idle_since_ms: None,
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
        self.idle_since_ms = None;
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
    pub(crate) fn roll(&mut self) -> Result<(), AppendError> {
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
    pub(crate) fn leave_active(&mut self) {
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

    /// A segment by its number.
    pub(crate) fn segment(&self, number: SegmentNumber) -> Option<&Segment> {
        let at = self.segments.binary_search_by_key(&number, |segment| segment.number).ok()?;
        self.segments.get(at)
    }

    /// A segment by its number.
    pub(crate) fn segment_mut(&mut self, number: SegmentNumber) -> Option<&mut Segment> {
        let at = self.segments.binary_search_by_key(&number, |segment| segment.number).ok()?;
        self.segments.get_mut(at)
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

    /// Memory that the write side holds, in bytes: what gathers, what waits, and buffers kept for the next commits.
    pub fn write_buffer_bytes(&self) -> usize {
        self.writer.bytes()
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

    /// Whether what was appended is kept back for now: commits go out once it is no longer.
    pub fn hold_commits(&mut self, hold: bool) {
        self.commits_held = hold;
    }

    /// Something to say, if there is.
    pub fn poll_event(&mut self) -> Option<LogEvent> {
        self.events.pop_front()
    }

    pub(crate) fn note(&mut self, event: LogEvent) {
        self.events.push_back(event);
    }

    /// Tell the time: retention, roll by age, another try of what failed, and memory that an idle log does not need. About once
    /// per second, or when [`Log::next_tick_ms`] says so.
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
        let idle_since_ms = *self.idle_since_ms.get_or_insert(now.mono_ms);
        if now.mono_ms >= idle_since_ms.saturating_add(IDLE_MS) {
            self.writer.shrink();
        }
        self.retain();
    }

    /// When [`Log::tick`] is wanted next, by the monotonic clock, always later than the last one; `None` while nothing waits for
    /// time. What was due then and could not be done, because a preparation or a commit is under way, waits for that one's
    /// answer.
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
        let shrink = match self.writer.can_shrink() {
            true => Some(self.idle_since_ms.unwrap_or(self.now.mono_ms).saturating_add(IDLE_MS)),
            false => None,
        };
        let moments = [prepare, removal, roll, readers, age, shrink].into_iter().flatten();
        moments.filter(|at_ms| *at_ms > self.now.mono_ms).min()
    }

    /// Declare everything before `offset` useless: whole segments in front of it are removed.
    pub fn remove_before(&mut self, offset: Offset) {
        self.cut = self.cut.max(offset);
        self.retain();
    }

    /// Take out of the front what retention and the cut let go.
    pub(crate) fn retain(&mut self) {
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
        log.hold_commits(!storage.takes_commits());
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
