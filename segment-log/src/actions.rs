//! What the log asks for at the end of a turn, and what it makes of the answers.

use std::rc::Rc;

use rand::Rng;

use crate::commit::InFlight;
use crate::event::LogEvent;
use crate::limits::{INDEXES_RESIDENT_MAX, RETRY_MS};
use crate::log::Log;
use crate::record::Epoch;
use crate::segment::{Header, Segment, State, Trailer};
use crate::storage::{
    ActionId, BLOCK_BYTES, Buffer, Completed, LogAction, LogDone, SegmentNumber, StorageError,
};

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
pub(crate) enum Asked {
    CommitWrite,
    Prepare(Header),
    Seal(SegmentNumber, Trailer),
    Load,
    Index(SegmentNumber),
    Remove(Removal),
    Replace,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Removal {
    pub(crate) segment: SegmentNumber,
    pub(crate) bytes: u64,
}

impl<B: Buffer> Log<B> {
    /// Fill the queue of actions with all that can be asked for now.
    pub(crate) fn plan(&mut self) {
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
        if self.commits_held {
            return;
        }
        if self.mark_wanted
            && let Some(open) = self.writer.open.as_mut()
            && self.segments.back().is_some_and(|active| !active.committed)
        {
            open.begin();
        }
        let Some(frozen) = self.writer.freeze() else { return };
        // The commit says so of itself, and recovery believes it.
        assert_eq!(frozen.first, self.committed, "everything before a commit is durable when it goes out");
        // Two writes go out side by side, each durable by itself: a sync behind both would be one more trip to the kernel.
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
                durable: true,
            });
        }
        if let Some(window) = frozen.window {
            self.tail.push(window);
        }
        let (segment, end, placed) = (frozen.segment, frozen.end, frozen.placed);
        self.writer.in_flight = Some(InFlight { segment, end, placed, writes });
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
        for at in (0..self.segments.len()).rev() {
            let segment = &mut self.segments[at];
            if segment.state == State::Sealed {
                break;
            }
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
        // One at a time and the oldest first, so that a crash leaves no gap. Behind a preparation: what that one recycles makes
        // room for this one to be kept, and freeing a file's extents can hold up a disk for long.
        let Some(removal) = self.removals.front().copied() else { return };
        let segment = removal.segment;
        let busy = self.asked.iter().any(|(_, asked)| match asked {
            Asked::Remove(_) | Asked::Prepare(_) => true,
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

    pub(crate) fn ask(&mut self, what: Asked) -> ActionId {
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
            self.commit_done();
        }
    }

    /// The commit on its way is durable.
    fn commit_done(&mut self) {
        let Some(commit) = self.writer.in_flight.take() else { return };
        // Its buffers can go only from now on.
        self.idle_since_ms = None;
        if let Some(segment) = self.segment_mut(commit.segment) {
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
        let Some(segment) = self.segment_mut(number) else { return };
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
        if let Some(segment) = self.segment_mut(number) {
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
    pub(crate) fn drop_indexes(&mut self) {
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
}
