//! Serving the readers of a partition: each in its turn, from one shared copy where they read the same.

use std::collections::VecDeque;

use crate::event_log::{EventLog, EventRead, ReadBudget, ReadError};
use crate::limits::{READ_BYTES_MAX, READ_EVENT_COUNT_MAX};
use crate::outbox::Outbox;
use crate::payload::SharedRecords;
use crate::readers::{Reader, Readers, Stage, WaitingRead};
use crate::request::{
    Caller, ConnectionId, EngineError, EventBatch, PartitionStatus, ReaderId, Reply, SequenceNumber,
};

/// The reads of one partition that have no answer yet.
///
/// A reader has one read at most, so serving them first come, first served gives each the same share.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The readers themselves.
    pub readers: Readers,
    /// Reads to look at in this turn.
    ready: VecDeque<ReaderId>,
    /// Reads at the end of the log: looked at again when something becomes durable.
    at_end: Vec<ReaderId>,
    /// Reads and openings that wait for bytes to be loaded.
    loading: Vec<ReaderId>,
    /// The run that was last read up to the end: readers that wait for new events all want the same one.
    tail: Option<SharedRecords>,
}

impl Reading {
    /// No read yet.
    pub fn new(readers: Readers) -> Self {
        Self { readers, ready: VecDeque::new(), at_end: Vec::new(), loading: Vec::new(), tail: None }
    }

    /// Take a read; it is answered by [`Reading::serve`] now or later.
    pub fn ask(&mut self, caller: Caller, id: ReaderId, count_max: u32, bytes_max: u32, out: &mut Outbox) {
        let Some(reader) = self.readers.owned_mut(id, caller.connection) else {
            return out.fail(caller, EngineError::ReaderEnded);
        };
        match &mut reader.stage {
            Stage::At { waiting, .. } if waiting.is_none() => {
                *waiting = Some(WaitingRead {
                    caller,
                    event_count_max: count_max.clamp(1, READ_EVENT_COUNT_MAX),
                    bytes_max: bytes_max.min(READ_BYTES_MAX),
                });
                self.ready.push_back(id);
            }
            // A second read while one waits: one answer at a time is the rule, so that one is refused.
            _ => out.fail(caller, EngineError::Busy),
        }
    }

    /// Answer a waiting read with no events.
    pub fn cancel(
        &mut self,
        connection: ConnectionId,
        id: ReaderId,
        status: PartitionStatus,
        out: &mut Outbox,
    ) {
        let Some(reader) = self.readers.owned_mut(id, connection) else { return };
        if let Stage::At { next, waiting } = &mut reader.stage
            && let Some(read) = waiting.take()
        {
            let batch = EventBatch { records: SharedRecords::empty(*next), status };
            out.reply(read.caller, Reply::Events { reader: id, batch });
            self.forget(id);
        }
    }

    /// Take a reader out, with what it left open.
    pub fn end(&mut self, id: ReaderId) -> Option<Reader> {
        self.forget(id);
        self.readers.end(id)
    }

    /// Take a reader out of the queues.
    fn forget(&mut self, id: ReaderId) {
        self.ready.retain(|other| *other != id);
        self.at_end.retain(|other| *other != id);
        self.loading.retain(|other| *other != id);
    }

    /// Take a reader whose start has to be looked up; its opener is answered by [`Reading::serve`] now or later.
    pub fn seek(&mut self, id: ReaderId) {
        self.ready.push_back(id);
    }

    /// Something became durable: those at the end have something to read.
    pub fn wake_at_end(&mut self) {
        self.ready.extend(self.at_end.drain(..));
    }

    /// Something was loaded.
    pub fn wake_loading(&mut self) {
        self.ready.extend(self.loading.drain(..));
    }

    /// Whether reads are left for the next turn.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Answer what can be answered, within what is left of the turn's budget in bytes. `status` is the partition as it is
    /// now.
    pub fn serve(
        &mut self,
        log: &mut impl EventLog,
        status: PartitionStatus,
        budget: &mut usize,
        out: &mut Outbox,
    ) {
        // Each is looked at once: what cannot be answered now waits for the log to say something.
        for _ in 0..self.ready.len() {
            if *budget == 0 {
                return;
            }
            let Some(id) = self.ready.pop_front() else { return };
            let Some(reader) = self.readers.find_mut(id) else { continue };
            match reader.stage {
                Stage::Seeking { opener, time_ms } => self.serve_seek(id, opener, time_ms, log, out),
                Stage::At { waiting: None, .. } => {}
                Stage::At { next, waiting: Some(read) } => {
                    let bytes = self.serve_read(id, next, read, log, status, out);
                    *budget = budget.saturating_sub(bytes);
                }
            }
        }
        if self.readers.len() == 0 {
            self.tail = None;
        }
    }

    fn serve_seek(
        &mut self,
        id: ReaderId,
        opener: Caller,
        time_ms: u64,
        log: &mut impl EventLog,
        out: &mut Outbox,
    ) {
        let next = match log.seek_time(time_ms) {
            Ok(Some(next)) => next,
            Ok(None) => return self.loading.push(id),
            Err(ReadError::BeforeFirst { first }) => first,
            Err(ReadError::Damaged { resume, .. }) => resume,
            Err(ReadError::Unreadable) => {
                self.readers.end(id);
                return out.fail(opener, EngineError::StorageFailed);
            }
        };
        if let Some(reader) = self.readers.find_mut(id) {
            reader.stage = Stage::At { next, waiting: None };
            out.reply(opener, Reply::ReaderOpened { reader: id, next, truncated: false });
        }
    }

    /// Answer one read, or put it where it waits. How many bytes that took from the turn's budget.
    fn serve_read(
        &mut self,
        id: ReaderId,
        mut next: SequenceNumber,
        read: WaitingRead,
        log: &mut impl EventLog,
        status: PartitionStatus,
        out: &mut Outbox,
    ) -> usize {
        let (answer, behind, bytes) = loop {
            if next >= status.next {
                self.at_end.push(id);
                return 0;
            }
            match self.read_run(next, read, log, status) {
                Ok(EventRead::Events(records)) => {
                    let (behind, bytes) = (records.end(), records.bytes().max(1));
                    out.counters.events_read += records.len() as u64;
                    let batch = EventBatch { records, status };
                    break (Reply::Events { reader: id, batch }, behind, bytes);
                }
                Ok(EventRead::Pending) => {
                    self.loading.push(id);
                    return 0;
                }
                Ok(EventRead::End) => {
                    self.at_end.push(id);
                    return 0;
                }
                // Retention went past a slow reader: it goes on with what is left.
                Err(ReadError::BeforeFirst { first }) if first > next => next = first,
                Err(ReadError::BeforeFirst { .. }) => {
                    self.at_end.push(id);
                    return 0;
                }
                Err(ReadError::Unreadable) => {
                    break (Reply::Failed(EngineError::StorageFailed), next, 1);
                }
                Err(ReadError::Damaged { first, resume }) => {
                    let error = EngineError::Damaged { first: first.0, resume: resume.0 };
                    break (Reply::Failed(error), resume, 1);
                }
            }
        };
        if let Some(reader) = self.readers.find_mut(id) {
            reader.stage = Stage::At { next: behind, waiting: None };
        }
        out.reply(read.caller, answer);
        bytes
    }

    fn read_run(
        &mut self,
        next: SequenceNumber,
        read: WaitingRead,
        log: &mut impl EventLog,
        status: PartitionStatus,
    ) -> Result<EventRead, ReadError> {
        let shared = self.tail.as_ref().filter(|tail| tail.end() == status.next);
        if let Some(part) = shared.and_then(|tail| tail.part(next, read.event_count_max, read.bytes_max)) {
            return Ok(EventRead::Events(part));
        }
        let budget = ReadBudget { event_count_max: read.event_count_max, bytes_max: read.bytes_max };
        let found = log.read(next, budget)?;
        if let EventRead::Events(records) = &found
            && records.end() == status.next
        {
            self.tail = Some(records.clone());
        }
        Ok(found)
    }
}
