//! Events of devices: stamped, submitted, acknowledged once durable.

use segment_log::storage::Storage;

use super::{Partition, Turn};
use crate::event::{EVENT_HEADER_BYTES, Source, Stamp};
use crate::event_log::{EventLog, SubmitError, Ticket};
use crate::monitor::MonitorEvent;
use crate::request::{Caller, EngineError, EventView, Reply, SequenceNumber, SessionId};

/// Events that are submitted and not durable yet.
#[derive(Debug)]
pub(crate) struct PendingAppend {
    ticket: Ticket,
    caller: Caller,
    event_count: u32,
    bytes: u64,
    time_ms: u64,
}

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// Take events of a session, all or none. Answered once they are durable.
    pub fn append(&mut self, caller: Caller, id: SessionId, events: &[EventView<'_>], turn: &mut Turn<'_>) {
        let event_count = u32::try_from(events.len()).expect("a batch lies in memory");
        if let Err(error) = self.try_append(caller, id, events, event_count, turn) {
            turn.out.counters.events_refused += u64::from(event_count);
            if let Ok(session) = self.sessions.find_mut(id, caller.connection) {
                let (at_ms, device, error) = (turn.now.wall_ms, session.device.clone(), error.clone());
                turn.out.monitor(MonitorEvent::EventsRefused { at_ms, device, event_count, error });
            }
            turn.out.fail(caller, error);
        }
    }

    fn try_append(
        &mut self,
        caller: Caller,
        id: SessionId,
        events: &[EventView<'_>],
        event_count: u32,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        let bounds = self.events.bounds();
        let session = self.sessions.find_mut(id, caller.connection).map_err(EngineError::SessionEnded)?;
        if self.events_failed {
            return Err(EngineError::StorageFailed);
        }
        let limits = &turn.config.limits;
        if self.appends.len() >= limits.append_waiting_max as usize {
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
            turn.out.reply(caller, Reply::Appended { first: bounds.submitted, event_count: 0 });
            return Ok(());
        }

        let stamp = Stamp {
            device: session.device.as_str(),
            generation: session.generation,
            auth: session.auth,
            source: Source::Telemetry,
        };
        // A clock that goes back must not take the partition with it.
        let time_ms = turn.now.wall_ms.max(bounds.last_time_ms);
        let ticket = submit(&mut self.events, &stamp, events, time_ms).map_err(|error| match error {
            SubmitError::Busy => EngineError::Busy,
            SubmitError::Full => EngineError::StorageFull,
            SubmitError::TooLarge { bytes, bytes_max } => EngineError::EventTooLarge { bytes, bytes_max },
            SubmitError::Failed => EngineError::StorageFailed,
            SubmitError::Closed => EngineError::Stopping,
        })?;
        session.last_activity_ms = turn.now.wall_ms;
        self.appends.push_back(PendingAppend { ticket, caller, event_count, bytes, time_ms });
        Ok(())
    }

    /// A submission is durable: its caller is told.
    pub(super) fn release_append(&mut self, ticket: Ticket, first: SequenceNumber, turn: &mut Turn<'_>) {
        let append = self.appends.pop_front().expect("the log tells only of what was submitted");
        assert_eq!(append.ticket, ticket, "the log tells in the order of submission");
        self.last_enqueued_ms = append.time_ms;
        turn.out.counters.events_appended += u64::from(append.event_count);
        turn.out.counters.event_bytes_appended += append.bytes;
        turn.out.reply(append.caller, Reply::Appended { first, event_count: append.event_count });
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

fn submit(
    log: &mut impl EventLog,
    stamp: &Stamp<'_>,
    events: &[EventView<'_>],
    time_ms: u64,
) -> Result<Ticket, SubmitError> {
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
