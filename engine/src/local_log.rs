//! Events on this machine's disk: the event log over `segment-log`.

use segment_log::storage::Storage;
use segment_log::{AppendError, Log, LogConfig, LogEvent, Now, Offset, OpenError, ReadLimit, RecoveryReport};

use crate::event_log::{EventLog, EventLogNews, EventRead, LogBounds, ReadBudget, ReadError, SubmitError};
use crate::limits::READ_SLICE_COUNT_MAX;
use crate::payload::SharedRecords;
use crate::request::SequenceNumber;

/// A segment log and the storage that carries out what it asks for. The sequence number is the record's offset.
pub struct LocalLog<S: Storage> {
    log: Log<S::Buffer>,
    storage: S,
    /// Everything before it was told of as durable, or was there at the opening.
    told: Offset,
    ticked_ms: Option<u64>,
}

impl<S: Storage> LocalLog<S> {
    /// Open the log in a storage's directory, recovering what a crash left. Blocks.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(
        mut storage: S,
        config: LogConfig,
        now: Now,
        seed: u64,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let (log, report) = Log::open(&mut storage, config, now, seed)?;
        let told = log.committed();
        Ok((Self { log, storage, told, ticked_ms: None }, report))
    }
}

impl<S: Storage> EventLog for LocalLog<S> {
    fn submit(&mut self, records: &[&[&[u8]]], time_ms: u64) -> Result<(), SubmitError> {
        self.log.append(records, time_ms).map(drop).map_err(|error| match error {
            AppendError::Busy => SubmitError::Busy,
            AppendError::NoSpace => SubmitError::Full,
            AppendError::Latched => SubmitError::Failed,
            AppendError::Closed => SubmitError::Closed,
            AppendError::TooLarge { bytes, bytes_max } => {
                SubmitError::TooLarge { bytes: bytes as u64, bytes_max: bytes_max as u64 }
            }
        })
    }

    fn poll(&mut self, now: Now) {
        // Once per moment: a tick wakes readers that the last one woke in vain.
        if self.ticked_ms.replace(now.mono_ms) != Some(now.mono_ms) {
            self.log.tick(now);
        }
        segment_log::drive(&mut self.log, &mut self.storage);
    }

    fn poll_news(&mut self) -> Option<EventLogNews> {
        // Submissions first: a log that failed later still keeps what it had made durable.
        let durable = self.log.committed();
        if self.told < durable {
            let first = std::mem::replace(&mut self.told, durable);
            let event_count = durable.0 - first.0;
            return Some(EventLogNews::Appended { first: SequenceNumber(first.0), event_count });
        }
        while let Some(event) = self.log.poll_event() {
            let news = match event {
                LogEvent::Loaded => EventLogNews::Loaded,
                LogEvent::Removed { first, .. } => EventLogNews::Retired { first: SequenceNumber(first.0) },
                LogEvent::PrepareFailed { error, .. } => {
                    EventLogNews::SpaceLacking { text: error.to_string() }
                }
                LogEvent::SpaceReturned => EventLogNews::SpaceReturned,
                LogEvent::Latched { error, .. } => EventLogNews::Failed { text: error.to_string() },
                LogEvent::Damaged(range) => EventLogNews::Damaged {
                    first: SequenceNumber(range.first.0),
                    resume: SequenceNumber(range.resume.0),
                },
                _ => continue,
            };
            return Some(news);
        }
        None
    }

    fn bounds(&self) -> LogBounds {
        LogBounds {
            first: SequenceNumber(self.log.first().0),
            next: SequenceNumber(self.log.committed().0),
            submitted: SequenceNumber(self.log.next().0),
            last_time_ms: self.log.last_time_ms(),
        }
    }

    fn read(&mut self, from: SequenceNumber, budget: ReadBudget) -> Result<EventRead, ReadError> {
        let mut limit =
            ReadLimit { bytes: budget.bytes_max as usize, records: budget.event_count_max.max(1) };
        let mut next = Offset(from.0);
        let mut slices = Vec::new();
        // One slice is one commit of the tail, or one loaded range: small commits are gathered.
        while limit.records > 0 && slices.len() < READ_SLICE_COUNT_MAX {
            match self.log.read(next, limit) {
                Ok(segment_log::Read::Records(slice)) => {
                    if !slices.is_empty() && slice.bytes().len() > limit.bytes {
                        break;
                    }
                    limit.bytes = limit.bytes.saturating_sub(slice.bytes().len());
                    limit.records = limit.records.saturating_sub(slice.records());
                    next = slice.next();
                    slices.push(slice.shared());
                }
                // Whatever it is, it comes back when the next read begins there.
                _ if !slices.is_empty() => break,
                Ok(segment_log::Read::Pending) => return Ok(EventRead::Pending),
                Ok(segment_log::Read::End) => return Ok(EventRead::End),
                Err(error) => return Err(self.read_error(error)),
            }
        }
        // Fail closed for a record that nobody can read, and go on behind it.
        SharedRecords::check(from, slices)
            .map(EventRead::Events)
            .map_err(|_| ReadError::Damaged { first: from, resume: SequenceNumber(from.0 + 1) })
    }

    fn seek_time(&mut self, time_ms: u64) -> Result<Option<SequenceNumber>, ReadError> {
        match self.log.seek_time(time_ms).map_err(|error| self.read_error(error))? {
            segment_log::Seek::At(offset) => Ok(Some(SequenceNumber(offset.0))),
            segment_log::Seek::Pending => Ok(None),
        }
    }

    fn close(&mut self) {
        self.log.close();
    }

    fn is_closed(&self) -> bool {
        self.log.is_closed()
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        self.log.next_tick_ms()
    }
}

impl<S: Storage> LocalLog<S> {
    fn read_error(&self, error: segment_log::ReadError) -> ReadError {
        match error {
            segment_log::ReadError::BeforeFirst { first } => {
                ReadError::BeforeFirst { first: SequenceNumber(first.0) }
            }
            segment_log::ReadError::BeyondEnd { .. } => {
                ReadError::BeforeFirst { first: SequenceNumber(self.log.first().0) }
            }
            segment_log::ReadError::Storage(_) => ReadError::Unreadable,
            segment_log::ReadError::Damaged { first, resume } => {
                ReadError::Damaged { first: SequenceNumber(first.0), resume: SequenceNumber(resume.0) }
            }
        }
    }
}
