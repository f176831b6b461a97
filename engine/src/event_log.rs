//! Where a partition's events live: the seam between the hub's meaning and a log.
//!
//! Its shape is "submit now, be told the sequence number later", so that a local disk and a log on another host look
//! alike. The local form is [`LocalLog`](crate::local_log::LocalLog).

use segment_log::Now;

use crate::payload::SharedRecords;
use crate::request::SequenceNumber;

/// An append-only log of events. Single-threaded; never blocks.
///
/// The caller's order in a turn: any number of calls, then [`EventLog::poll`], then [`EventLog::poll_news`] until there is
/// none.
pub trait EventLog {
    /// Submit events, all or none, in this order; each record is given in parts, which are copied before this returns.
    /// `time_ms` is their enqueued time, never smaller than that of an earlier call. Told by [`EventLogNews::Appended`].
    ///
    /// # Errors
    ///
    /// [`SubmitError`]: nothing was submitted.
    fn submit(&mut self, records: &[&[&[u8]]], time_ms: u64) -> Result<(), SubmitError>;

    /// Carry on with what is asked and what is done. Called at the end of each turn and at the time of
    /// [`EventLog::next_timeout_ms`].
    fn poll(&mut self, now: Now);

    /// What happened since.
    fn poll_news(&mut self) -> Option<EventLogNews>;

    /// What the log holds.
    fn bounds(&self) -> LogBounds;

    /// Read durable events from `from` on. `from` must be below `bounds().next`.
    ///
    /// # Errors
    ///
    /// [`ReadError`] says where reading can go on.
    fn read(&mut self, from: SequenceNumber, limit: ReadBudget) -> Result<EventRead, ReadError>;

    /// The first durable event enqueued at `time_ms` or later; `bounds().next` when there is none. None: it has to be
    /// looked up, ask again after [`EventLogNews::Loaded`].
    ///
    /// # Errors
    ///
    /// [`ReadError`] when the place cannot be told because of damage.
    fn seek_time(&mut self, time_ms: u64) -> Result<Option<SequenceNumber>, ReadError>;

    /// Take nothing more, make what there is durable, and leave the log so that the next opening has nothing to look for.
    /// Carried out by [`EventLog::poll`], done when [`EventLog::is_closed`]. Reading goes on.
    fn close(&mut self);

    /// Whether it is closed, or has failed and will never be.
    fn is_closed(&self) -> bool;

    /// When [`EventLog::poll`] wants to be called again without other cause, on the monotonic clock.
    fn next_timeout_ms(&self) -> Option<u64>;
}

/// What a log tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventLogNews {
    /// Events are durable: the oldest of those that were submitted and not told of yet, in the order of their submission. What
    /// was submitted together is told of together.
    Appended {
        /// The first one's number; the others follow without a gap.
        first: SequenceNumber,
        /// How many.
        event_count: u64,
    },
    /// What was missing for a read or a seek is there now, or could not be loaded: ask again.
    Loaded,
    /// Events were removed by retention.
    Retired {
        /// The oldest event that is kept now.
        first: SequenceNumber,
    },
    /// The log has failed: no submission that was not reported as durable ever will be, nothing more is taken.
    Failed {
        /// What the storage said.
        text: String,
    },
    /// There is no room for more events.
    SpaceLacking {
        /// What the storage said.
        text: String,
    },
    /// There is room again.
    SpaceReturned,
    /// Stored events are damaged.
    Damaged {
        /// The first that cannot be read.
        first: SequenceNumber,
        /// The next that can.
        resume: SequenceNumber,
    },
}

/// What a log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// The oldest event kept; `next` when there is none.
    pub first: SequenceNumber,
    /// Behind the last durable event.
    pub next: SequenceNumber,
    /// Behind the last submitted event; at least `next`. A log that learns its numbers late says `next`.
    pub submitted: SequenceNumber,
    /// Enqueued time of the last submitted event, milliseconds since 1970; 0 when there never was one.
    pub last_time_ms: u64,
}

/// How much to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBudget {
    /// Most events; at least 1.
    pub event_count_max: u32,
    /// Most bytes of records; the first event may exceed it.
    pub bytes_max: u32,
}

/// What a read found.
#[derive(Clone, Debug)]
pub enum EventRead {
    /// At least one event, the first of which is the one asked for.
    Events(SharedRecords),
    /// They have to be loaded: ask again after [`EventLogNews::Loaded`].
    Pending,
    /// There is none yet.
    End,
}

/// Why there is nothing to read at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// Older than what is kept.
    BeforeFirst {
        /// The oldest kept.
        first: SequenceNumber,
    },
    /// Damaged.
    Damaged {
        /// The first damaged event, at or behind the place asked for.
        first: SequenceNumber,
        /// The next that can be read.
        resume: SequenceNumber,
    },
    /// The medium did not yield the bytes; to read again is to try again.
    Unreadable,
}

/// Why events were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// The write buffers are full: the disk does not keep up.
    Busy,
    /// There is no room for more events.
    Full,
    /// A record is larger than the log takes.
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The log has failed.
    Failed,
    /// The log is closed.
    Closed,
}
