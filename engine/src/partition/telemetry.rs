//! Events of devices: stamped, submitted, acknowledged once durable.

use std::collections::VecDeque;

use segment_log::storage::Storage;

use super::{Partition, Turn};
use crate::access::check_session;
use crate::door::Busy;
use crate::event::{EVENT_HEADER_BYTES, Source, Stamp};
use crate::event_log::{EventLog, SubmitError};
use crate::monitor::MonitorEvent;
use crate::request::{Appended, Caller, EngineError, EventView, SequenceNumber, SessionId, UnattachedAppend};

/// Events that are submitted and not durable yet.
#[derive(Debug)]
pub(crate) struct PendingAppend {
    caller: Caller,
    event_count: u32,
    bytes: u64,
    time_ms: u64,
}

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// Take events of a session, all or none. Answered once they are durable.
    ///
    /// # Errors
    ///
    /// [`Busy`]: there is no room now. Nothing was taken, and no answer comes.
    pub fn append(
        &mut self,
        caller: Caller,
        id: SessionId,
        events: &[EventView<'_>],
        turn: &mut Turn<'_>,
    ) -> Result<(), Busy> {
        let event_count = count(events);
        if let Err(error) = self.try_append(caller, id, events, event_count, turn) {
            if error == EngineError::Busy {
                turn.out.counters.appends_deferred += 1;
                return Err(Busy);
            }
            turn.out.counters.events_refused += u64::from(event_count);
            if let Ok(session) = self.sessions.find_mut(id, caller.connection) {
                let (at_ms, device, error) = (turn.now.wall_ms, session.device.clone(), error.clone());
                turn.out.monitor(MonitorEvent::EventsRefused { at_ms, device, event_count, error });
            }
            turn.out.fail(caller, error);
        }
        Ok(())
    }

    fn try_append(
        &mut self,
        caller: Caller,
        id: SessionId,
        events: &[EventView<'_>],
        event_count: u32,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        let session = self.sessions.find_mut(id, caller.connection).map_err(EngineError::SessionEnded)?;
        let stamp = Stamp {
            device: session.device.as_str(),
            generation: session.generation,
            auth: session.auth,
            source: Source::Telemetry,
        };
        let append = submit(&mut self.events, &self.appends, self.events_failed, &stamp, events, turn)?;
        session.last_activity_ms = turn.now.wall_ms;
        match append {
            Some(append) => self.appends.push_back(append.of(caller, event_count)),
            None => self.nothing_appended(caller, turn),
        }
        Ok(())
    }

    /// Take events of a device that is not attached. What is known of its identity must be durable before events rest on it.
    pub(super) fn append_unattached(
        &mut self,
        caller: Caller,
        append: UnattachedAppend,
        turn: &mut Turn<'_>,
    ) {
        if self.unattached.len() >= turn.config.limits.change_waiting_max as usize {
            return self.refuse_unattached(caller, &append, EngineError::Busy, turn);
        }
        self.unattached.push_back((self.journal.mark(), caller, append));
        self.submit_unattached(turn);
    }

    /// Submit what waited for the journal.
    pub(super) fn submit_unattached(&mut self, turn: &mut Turn<'_>) {
        let durable = self.journal.durable();
        while self.unattached.front().is_some_and(|(mark, ..)| *mark <= durable || self.journal.has_failed())
        {
            let Some((_, caller, append)) = self.unattached.pop_front() else { break };
            if let Err(error) = self.try_append_unattached(caller, &append, turn) {
                self.refuse_unattached(caller, &append, error, turn);
            }
        }
    }

    fn try_append_unattached(
        &mut self,
        caller: Caller,
        append: &UnattachedAppend,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        if self.journal.has_failed() {
            return Err(EngineError::StorageFailed);
        }
        let UnattachedAppend { device: id, grant, events, .. } = append;
        let now_s = turn.now.wall_ms / 1000;
        let (device, auth) = check_session(&self.store, &turn.config.access, id, grant, now_s)?;
        let (generation, source) = (device.generation, Source::Telemetry);
        let stamp = Stamp { device: id.as_str(), generation, auth, source };
        let views = events.views();
        let append = submit(&mut self.events, &self.appends, self.events_failed, &stamp, &views, turn)?;
        self.sessions.touch(id, turn.now.wall_ms);
        self.activate(&device, turn);
        match append {
            Some(append) => self.appends.push_back(append.of(caller, count(&views))),
            None => self.nothing_appended(caller, turn),
        }
        Ok(())
    }

    fn refuse_unattached(
        &mut self,
        caller: Caller,
        append: &UnattachedAppend,
        error: EngineError,
        turn: &mut Turn<'_>,
    ) {
        let event_count = u32::try_from(append.events.spans.len()).expect("a batch lies in memory");
        turn.out.counters.events_refused += u64::from(event_count);
        let (at_ms, device) = (turn.now.wall_ms, append.device.clone());
        turn.out.monitor(MonitorEvent::EventsRefused { at_ms, device, event_count, error: error.clone() });
        turn.out.fail(caller, error);
    }

    fn nothing_appended(&self, caller: Caller, turn: &mut Turn<'_>) {
        let first = self.events.bounds().submitted;
        turn.out.appended(caller.connection, Appended { token: caller.token, first, event_count: 0 });
    }

    /// Events are durable, from `first` on so many: whoever submitted them is told.
    pub(super) fn release_appends(&mut self, first: SequenceNumber, event_count: u64, turn: &mut Turn<'_>) {
        turn.out.counters.events_appended += event_count;
        let SequenceNumber(mut next) = first;
        let end = next + event_count;
        while next < end {
            let append = self.appends.pop_front().expect("the log tells only of what was submitted");
            let PendingAppend { caller, event_count, bytes, time_ms } = append;
            self.last_enqueued_ms = time_ms;
            turn.out.counters.event_bytes_appended += bytes;
            let first = SequenceNumber(next);
            turn.out.appended(caller.connection, Appended { token: caller.token, first, event_count });
            next += u64::from(event_count);
        }
        assert_eq!(next, end, "what was submitted together is told of together");
    }

    /// The log has failed: whoever waits for it is told, and nothing more is taken.
    pub(super) fn fail_appends(&mut self, turn: &mut Turn<'_>) {
        self.events_failed = true;
        for append in self.appends.drain(..) {
            turn.out.counters.events_refused += u64::from(append.event_count);
            turn.out.fail(append.caller, EngineError::StorageFailed);
        }
    }
}

fn count(events: &[EventView<'_>]) -> u32 {
    u32::try_from(events.len()).expect("a batch lies in memory")
}

/// What was submitted; whose it is is added by [`Submitted::of`].
struct Submitted {
    bytes: u64,
    time_ms: u64,
}

impl Submitted {
    fn of(self, caller: Caller, event_count: u32) -> PendingAppend {
        let Self { bytes, time_ms } = self;
        PendingAppend { caller, event_count, bytes, time_ms }
    }
}

/// Submit events under one stamp, all or none. None: there were none.
fn submit(
    log: &mut impl EventLog,
    waiting: &VecDeque<PendingAppend>,
    has_failed: bool,
    stamp: &Stamp<'_>,
    events: &[EventView<'_>],
    turn: &Turn<'_>,
) -> Result<Option<Submitted>, EngineError> {
    if has_failed {
        return Err(EngineError::StorageFailed);
    }
    let limits = &turn.config.limits;
    if waiting.len() >= limits.append_waiting_max as usize {
        return Err(EngineError::Busy);
    }
    let bytes_max = u64::from(limits.event_bytes_max);
    let mut bytes = 0;
    for event in events {
        let size = (event.message.len() + event.annotations.len()) as u64;
        if size > bytes_max {
            return Err(EngineError::EventTooLarge { bytes: size, bytes_max });
        }
        bytes += size;
    }
    if events.is_empty() {
        return Ok(None);
    }
    // A clock that goes back must not take the partition with it.
    let time_ms = turn.now.wall_ms.max(log.bounds().last_time_ms);
    submit_records(log, stamp, events, time_ms).map_err(|error| match error {
        SubmitError::Busy => EngineError::Busy,
        SubmitError::Full => EngineError::StorageFull,
        SubmitError::TooLarge { bytes, bytes_max } => EngineError::EventTooLarge { bytes, bytes_max },
        SubmitError::Failed => EngineError::StorageFailed,
        SubmitError::Closed => EngineError::Stopping,
    })?;
    Ok(Some(Submitted { bytes, time_ms }))
}

fn submit_records(
    log: &mut impl EventLog,
    stamp: &Stamp<'_>,
    events: &[EventView<'_>],
    time_ms: u64,
) -> Result<(), SubmitError> {
    let header = |event: &EventView<'_>| -> [u8; EVENT_HEADER_BYTES] {
        let annotations_bytes = u32::try_from(event.annotations.len()).expect("an event's size has a limit");
        stamp.encode_header(annotations_bytes, event.annotation_value_count)
    };
    // The most frequent case needs no memory but the stack's.
    if let [event] = events {
        let header = header(event);
        return log.submit(&[&[&header, stamp.device.as_bytes(), event.annotations, event.message]], time_ms);
    }
    let headers: Vec<_> = events.iter().map(header).collect();
    let parts: Vec<[&[u8]; 4]> = events
        .iter()
        .zip(&headers)
        .map(|(event, header)| [&header[..], stamp.device.as_bytes(), event.annotations, event.message])
        .collect();
    let records: Vec<&[&[u8]]> = parts.iter().map(|parts| &parts[..]).collect();
    log.submit(&records, time_ms)
}
