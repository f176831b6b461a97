//! A partition's journal: changes as records, the answers that wait for them, and the snapshot that lets the front be cut.

use std::collections::VecDeque;

use registry::KeySealer;
use segment_log::storage::{LogAction, LogDone, Storage};
use segment_log::{AppendError, Finding, Log, LogEvent, Now, Offset, ReadLimit};

use crate::entry::{Entry, EntryError};
use crate::fault::PartitionFault;
use crate::request::{Caller, EngineError, Reply};

/// The file beside the journal's segments that holds the registry's snapshot.
pub const SNAPSHOT_NAME: &str = "registry.snapshot";

/// Bytes of records that one step of the replay takes.
const REPLAY_BYTES: usize = 1 << 20;

/// Over a large snapshot, a new one is due after its size divided by this.
const SNAPSHOT_PARTS: u64 = 4;

/// The place behind a record of the journal: what stands before it is durable once [`Journal::durable`] has reached it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(pub u64);

/// The journal of one partition.
pub(crate) struct Journal<S: Storage> {
    log: Log<S::Buffer>,
    storage: S,
    sealer: KeySealer,
    scratch: Vec<u8>,
    failed: bool,
    ticked_ms: Option<u64>,
    waiting: VecDeque<(Mark, Caller, Reply)>,
    waiting_count_max: usize,
    snapshot: Snapshot,
    snapshot_due_bytes: u64,
    /// Size of the newest snapshot.
    snapshot_bytes: u64,
    bytes_since_snapshot: u64,
}

/// How far the next snapshot is.
enum Snapshot {
    /// None is being taken.
    Idle,
    /// Its bytes are being made elsewhere.
    Making(Mark),
    /// It waits for the journal: a snapshot must never know what the journal could still lose, because records at the
    /// same offsets written after that would be taken for those that the snapshot holds.
    Made(Mark, Vec<u8>),
    /// It is being stored.
    Storing(Mark, u64),
}

/// What a journal tells its partition.
pub(crate) enum JournalNews {
    /// The snapshot is durable and the journal's front cut.
    SnapshotStored {
        /// Size of the file.
        bytes: u64,
    },
    /// The snapshot could not be stored.
    SnapshotFailed {
        /// What the storage said.
        text: String,
    },
    /// Something about the log itself.
    Log(LogEvent),
}

impl<S: Storage> Journal<S> {
    /// Open the log and hand every entry behind `mark` to `apply`. Blocks.
    pub fn open(
        mut storage: S,
        options: JournalOptions,
        mark: Mark,
        now: Now,
        mut apply: impl FnMut(Entry) -> Result<(), EntryError>,
    ) -> Result<(Self, segment_log::RecoveryReport), PartitionFault> {
        let (mut log, report) = Log::open(&mut storage, options.log, now, options.seed)?;
        let hides_changes = |finding: &Finding| match finding {
            Finding::Damaged(range) if range.resume.0 > mark.0 => Some((range.first.0, range.resume.0)),
            _ => None,
        };
        if let Some((first, resume)) = report.findings.iter().find_map(hides_changes) {
            return Err(PartitionFault::JournalDamaged { first, resume });
        }
        if log.first().0 > mark.0 || log.next().0 < mark.0 {
            let (first, next) = (log.first().0, log.next().0);
            return Err(PartitionFault::JournalGap { mark: mark.0, first, next });
        }
        let mut at = mark.0;
        let mut replayed_bytes = 0;
        while at < log.committed().0 {
            let limit = ReadLimit { bytes: REPLAY_BYTES, records: u32::MAX };
            match log.read(Offset(at), limit) {
                Ok(segment_log::Read::Records(slice)) => {
                    for record in slice.iter() {
                        Entry::decode(record.payload, &options.sealer).and_then(&mut apply).map_err(
                            |error| PartitionFault::JournalEntry { offset: record.offset.0, error },
                        )?;
                        at = record.offset.0 + 1;
                        replayed_bytes += record.payload.len() as u64;
                    }
                }
                Ok(segment_log::Read::Pending) => {
                    let load = |action: &LogAction<S::Buffer>| matches!(action, LogAction::Load { .. });
                    if perform(&mut log, &mut storage, load) == 0 {
                        return Err(PartitionFault::JournalUnreadable { offset: at });
                    }
                }
                Ok(segment_log::Read::End) => break,
                Err(segment_log::ReadError::Damaged { first, resume }) => {
                    return Err(PartitionFault::JournalDamaged { first: first.0, resume: resume.0 });
                }
                Err(segment_log::ReadError::Storage(error)) => return Err(error.into()),
                Err(_) => {
                    let (first, next) = (log.first().0, log.next().0);
                    return Err(PartitionFault::JournalGap { mark: at, first, next });
                }
            }
        }
        let journal = Self {
            log,
            storage,
            sealer: options.sealer,
            scratch: Vec::new(),
            failed: false,
            ticked_ms: None,
            waiting: VecDeque::new(),
            waiting_count_max: options.waiting_count_max,
            snapshot: Snapshot::Idle,
            snapshot_due_bytes: options.snapshot_due_bytes,
            snapshot_bytes: options.snapshot_bytes,
            bytes_since_snapshot: replayed_bytes,
        };
        Ok((journal, report))
    }

    /// Append an entry. It is not durable yet; [`Journal::answer`] holds what shows it.
    ///
    /// # Errors
    ///
    /// [`EngineError::StorageFull`], [`EngineError::Busy`], [`EngineError::StorageFailed`]: nothing was appended.
    pub fn append(&mut self, entry: &Entry, now: Now) -> Result<(), EngineError> {
        if self.waiting.len() >= self.waiting_count_max {
            return Err(EngineError::Busy);
        }
        self.scratch.clear();
        entry.encode_head(&self.sealer, &mut self.scratch);
        let time_ms = now.wall_ms.max(self.log.last_time_ms());
        let appended = self.log.append(&[&[&self.scratch, entry.body()]], time_ms);
        match appended {
            Ok(_) => {
                self.bytes_since_snapshot += (self.scratch.len() + entry.body().len()) as u64;
                Ok(())
            }
            Err(AppendError::Busy) => Err(EngineError::Busy),
            Err(AppendError::NoSpace) => Err(EngineError::StorageFull),
            Err(AppendError::Latched) => Err(EngineError::StorageFailed),
            Err(AppendError::Closed) => Err(EngineError::Stopping),
            Err(AppendError::TooLarge { bytes, bytes_max }) => {
                Err(EngineError::EventTooLarge { bytes: bytes as u64, bytes_max: bytes_max as u64 })
            }
        }
    }

    /// Append an entry while the partition opens. Blocks until it is durable.
    pub fn append_opening(&mut self, entry: &Entry, now: Now) -> Result<(), EngineError> {
        self.append(entry, now)?;
        perform(&mut self.log, &mut self.storage, |_| false);
        if self.durable() < self.mark() { Err(EngineError::StorageFailed) } else { Ok(()) }
    }

    /// Keep an answer until everything appended so far, which it may show, is durable; for good if it already is.
    pub fn answer(&mut self, caller: Caller, reply: Reply) {
        if self.failed {
            return self.waiting.push_back((Mark(0), caller, Reply::Failed(EngineError::StorageFailed)));
        }
        self.waiting.push_back((self.mark(), caller, reply));
    }

    /// The answers that wait, to be taken back.
    pub fn waiting_replies(&mut self) -> impl Iterator<Item = &mut Reply> {
        self.waiting.iter_mut().map(|(_, _, reply)| reply)
    }

    /// Whether another question that the journal has to hold can be taken.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < self.waiting_count_max
    }

    /// The next answer that may go out.
    pub fn poll_answer(&mut self) -> Option<(Caller, Reply)> {
        let durable = self.durable();
        let (mark, _, _) = self.waiting.front()?;
        if *mark > durable && !self.failed {
            return None;
        }
        let (mark, caller, reply) = self.waiting.pop_front()?;
        match mark > durable {
            true => Some((caller, Reply::Failed(EngineError::StorageFailed))),
            false => Some((caller, reply)),
        }
    }

    /// Behind everything appended.
    pub fn mark(&self) -> Mark {
        Mark(self.log.next().0)
    }

    /// Behind everything durable.
    pub fn durable(&self) -> Mark {
        Mark(self.log.committed().0)
    }

    /// Whether a write or sync failed: nothing is taken any more.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether enough was appended for a new snapshot, and none is being taken. A quarter of the last one is enough: so each
    /// byte that is appended costs four bytes of snapshot at most, nearly all of them copied on a helper thread, and what has to
    /// be replayed at a start is no more than a quarter of what is alive.
    pub fn snapshot_is_due(&self) -> bool {
        matches!(self.snapshot, Snapshot::Idle)
            && !self.failed
            && self.bytes_since_snapshot >= self.snapshot_due_bytes.max(self.snapshot_bytes / SNAPSHOT_PARTS)
    }

    /// Whether one is being taken.
    pub fn snapshot_is_under_way(&self) -> bool {
        !matches!(self.snapshot, Snapshot::Idle) && !self.failed
    }

    /// A snapshot of everything appended so far is being made.
    pub fn begin_snapshot(&mut self) -> Mark {
        let mark = self.mark();
        self.snapshot = Snapshot::Making(mark);
        self.bytes_since_snapshot = 0;
        mark
    }

    /// The snapshot's bytes, or none if they could not be made.
    pub fn finish_snapshot(&mut self, bytes: Option<Vec<u8>>) {
        self.snapshot = match (&self.snapshot, bytes) {
            (Snapshot::Making(mark), Some(bytes)) => Snapshot::Made(*mark, bytes),
            _ => Snapshot::Idle,
        };
    }

    /// Ask for what is to be done, take what is done.
    pub fn poll(&mut self, now: Now) {
        // Once per moment: a tick may ask for what the last one asked for in vain.
        if self.ticked_ms.replace(now.mono_ms) != Some(now.mono_ms) {
            self.log.tick(now);
        }
        segment_log::drive(&mut self.log, &mut self.storage);
        if let Snapshot::Made(mark, _) = &self.snapshot
            && *mark <= self.durable()
            && let Snapshot::Made(mark, bytes) = std::mem::replace(&mut self.snapshot, Snapshot::Idle)
        {
            self.snapshot = Snapshot::Storing(mark, bytes.len() as u64);
            self.log.replace_file(SNAPSHOT_NAME, bytes);
            segment_log::drive(&mut self.log, &mut self.storage);
        }
    }

    /// What happened since.
    pub fn poll_news(&mut self) -> Option<JournalNews> {
        let event = self.log.poll_event()?;
        Some(match event {
            LogEvent::Replaced { result, .. } => {
                let stage = std::mem::replace(&mut self.snapshot, Snapshot::Idle);
                match (stage, result) {
                    (Snapshot::Storing(mark, bytes), Ok(())) => {
                        self.snapshot_bytes = bytes;
                        self.log.remove_before(Offset(mark.0));
                        segment_log::drive(&mut self.log, &mut self.storage);
                        JournalNews::SnapshotStored { bytes }
                    }
                    (_, Ok(())) => JournalNews::SnapshotStored { bytes: 0 },
                    (_, Err(error)) => JournalNews::SnapshotFailed { text: error.to_string() },
                }
            }
            LogEvent::Latched { .. } => {
                self.failed = true;
                JournalNews::Log(event)
            }
            event => JournalNews::Log(event),
        })
    }

    /// Take nothing more, make what there is durable, and leave nothing for the next opening to look for.
    pub fn close(&mut self) {
        self.log.close();
    }

    /// Whether it is closed, or has failed and will never be.
    pub fn is_closed(&self) -> bool {
        self.log.is_closed()
    }

    /// When to poll again without other cause.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        self.log.next_tick_ms()
    }
}

/// How a journal is kept.
pub(crate) struct JournalOptions {
    /// The log's own settings.
    pub log: segment_log::LogConfig,
    /// Seals keys in records.
    pub sealer: KeySealer,
    /// For the segments' epochs.
    pub seed: u64,
    /// Answers that may wait.
    pub waiting_count_max: usize,
    /// Bytes of entries after which a snapshot is due, or a quarter of the last one, where that is more.
    pub snapshot_due_bytes: u64,
    /// Size of the snapshot that there is.
    pub snapshot_bytes: u64,
}

/// Carry out what the log asks for, up to and with the first action that `is_last`. Blocks: only while a partition opens.
/// How many actions there were.
fn perform<S: Storage>(
    log: &mut Log<S::Buffer>,
    storage: &mut S,
    is_last: impl Fn(&LogAction<S::Buffer>) -> bool,
) -> usize {
    let mut count = 0;
    while let Some(action) = log.poll_action() {
        let (id, was_last) = (action.id(), is_last(&action));
        let result = storage.perform(action);
        log.handle_done(LogDone { id, result });
        count += 1;
        if was_last {
            break;
        }
    }
    count
}
