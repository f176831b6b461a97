//! The partitions that one core runs: requests in, replies out once they are durable.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use registry::Random;
use segment_log::Now;
use segment_log::storage::Storage;

pub use crate::access::AccessRules;
pub use crate::command_rules::CommandRules;
pub use crate::config::ShardConfig;
use crate::door::{Busy, Door};
pub use crate::fault::{OpenReport, PartitionFault};
pub use crate::job::{Job, JobDone};
use crate::local_log::LocalLog;
use crate::monitor::{Counters, MonitorEvent};
use crate::outbox::Outbox;
pub use crate::partition::PartitionStorage;
use crate::partition::{Partition, Turn, open};
use crate::request::{
    AppendView, Appended, Caller, ConnectionId, EngineError, Notice, PartitionId, Reply, Request,
};

/// The partitions of one core. Synchronous and single-threaded: time comes in with each call, I/O is asked of the storages
/// that it was opened with.
///
/// The order of a turn: any number of `handle_*` calls, then [`Shard::poll`], then [`Shard::poll_notice`],
/// [`Shard::poll_reply`], [`Shard::poll_monitor`] and [`Shard::poll_job`] until each has nothing more. Notices come before
/// replies, so that the end of a session is told before the answer to the change that ended it. Nothing acts inside a
/// `handle_*` call but what cannot fail later; a turn's appends become one commit per log.
pub struct Shard<S: Storage> {
    config: ShardConfig,
    /// By number.
    partitions: Vec<Place<S>>,
    out: Outbox,
    random: ChaCha20Rng,
    now: Now,
}

/// What the shard has for a number.
enum Place<S: Storage> {
    /// Another shard's partition.
    Elsewhere,
    /// It could not be opened.
    OutOfService,
    /// It serves.
    Serving(Box<Partition<LocalLog<S>, S>>),
}

impl<S: Storage> Shard<S> {
    /// Open partitions. Blocks. A partition that cannot be served is reported and answers
    /// [`EngineError::StorageFailed`]; the others serve.
    ///
    /// `seed`: 32 bytes of the operating system's randomness; keys are made from it.
    ///
    /// # Errors
    ///
    /// [`ShardOpenError`]: the settings are wrong; nothing was opened.
    pub fn open(
        config: ShardConfig,
        partitions: Vec<PartitionStorage<S>>,
        now: Now,
        seed: [u8; 32],
    ) -> Result<(Self, Vec<OpenReport>), ShardOpenError> {
        config.check().map_err(ShardOpenError::Config)?;
        let count = usize::from(config.partition_count);
        let mut places: Vec<Place<S>> = (0..count).map(|_| Place::Elsewhere).collect();
        let mut out = Outbox::default();
        let mut random = ChaCha20Rng::from_seed(seed);
        let mut reports = Vec::new();
        for storage in partitions {
            let id = storage.id;
            match places.get(usize::from(id.0)) {
                Some(Place::Elsewhere) => {}
                Some(_) => return Err(ShardOpenError::Twice(id)),
                None => return Err(ShardOpenError::Unknown(id)),
            }
            let fill: Random<'_> = &mut |bytes| random.fill_bytes(bytes);
            let mut turn = Turn { now, config: &config, out: &mut out, random: fill };
            let (partition, report) = open(storage, &mut turn);
            places[usize::from(id.0)] = match partition {
                Some(partition) => Place::Serving(Box::new(partition)),
                None => Place::OutOfService,
            };
            reports.push(report);
        }
        Ok((Self { config, partitions: places, out, random, now }, reports))
    }

    /// Take a request. The reply comes in this turn or a later one, once; see each request for those without.
    pub fn handle_request(&mut self, caller: Caller, request: Request, now: Now) {
        let id = request.partition(self.config.partition_count);
        let is_answered = request.is_answered();
        let answer = self.with_partition(id, now, |partition, turn| {
            partition.handle_request(caller, request, turn);
        });
        if let Err(error) = answer
            && is_answered
        {
            self.out.fail(caller, error);
        }
    }

    /// Take events from the shard's own core: copied once, into the log's write buffer.
    ///
    /// # Errors
    ///
    /// [`Busy`]: the partition waits for its disk and has no room. Nothing was taken, and no reply comes: try again once
    /// others of its appends have been answered.
    pub fn handle_append(&mut self, caller: Caller, append: AppendView<'_>, now: Now) -> Result<(), Busy> {
        let answer = self.with_partition(append.session.partition, now, |partition, turn| {
            partition.append(caller, append.session, append.events, turn)
        });
        answer.unwrap_or_else(|error| {
            self.out.fail(caller, error);
            Ok(())
        })
    }

    /// A connection is gone: its sessions, readers and receivers end; what it waits for may still be answered, and is to be dropped.
    pub fn handle_connection_closed(&mut self, connection: ConnectionId, now: Now) {
        self.for_each(now, |partition, turn| partition.handle_connection_closed(connection, turn));
    }

    /// Take the result of a [`Job`].
    pub fn handle_job_done(&mut self, done: JobDone, now: Now) {
        // A job comes from a partition that serves, and a partition that serves does so for good.
        let _ = self.with_partition(done.partition, now, |partition, turn| {
            partition.handle_job_done(done, turn);
        });
    }

    /// The end of a turn: submit what the logs ask for, take what is done, release replies.
    pub fn poll(&mut self, now: Now) {
        self.for_each(now, |partition, turn| partition.poll(turn));
    }

    /// A clean stop begins: no log takes anything any more, what there is becomes durable and each log is sealed, so that
    /// the next opening scans nothing. Goes on with each [`Shard::poll`] until [`Shard::is_closed`]. Best after a
    /// [`Request::Flush`] of each partition; a shard that is just dropped loses nothing that was answered either.
    pub fn close(&mut self, now: Now) {
        self.for_each(now, |partition, _| partition.close());
    }

    /// Whether every log is closed, or has failed and will never be.
    pub fn is_closed(&self) -> bool {
        self.partitions.iter().all(|place| match place {
            Place::Serving(partition) => partition.is_closed(),
            _ => true,
        })
    }

    /// The next answer: those to appends first, unless [`Shard::poll_appended`] has taken them.
    pub fn poll_reply(&mut self) -> Option<(Caller, Reply)> {
        match self.poll_appended() {
            Some((connection, Appended { token, first, event_count })) => {
                Some((Caller { connection, token }, Reply::Appended { first, event_count }))
            }
            None => self.out.replies.pop_front(),
        }
    }

    /// The next answer to an append, for those who hand many of them on together.
    pub fn poll_appended(&mut self) -> Option<(ConnectionId, Appended)> {
        self.out.appended.pop_front()
    }

    /// The next thing that a connection learns unasked.
    pub fn poll_notice(&mut self) -> Option<(ConnectionId, Notice)> {
        self.out.notices.pop_front()
    }

    /// The next monitoring event.
    pub fn poll_monitor(&mut self) -> Option<MonitorEvent> {
        self.out.poll_monitor()
    }

    /// Work for a thread that may take its time; its result comes back by [`Shard::handle_job_done`].
    pub fn poll_job(&mut self) -> Option<Job> {
        self.serving().find_map(Partition::poll_job)
    }

    /// When to call [`Shard::poll`] without other cause, on the monotonic clock; may be now.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        let serving = self.partitions.iter().filter_map(|place| match place {
            Place::Serving(partition) => partition.next_timeout_ms(self.now),
            _ => None,
        });
        serving.min()
    }

    /// What was counted since the shard was opened.
    pub fn counters(&self) -> &Counters {
        &self.out.counters
    }

    fn serving(&mut self) -> impl Iterator<Item = &mut Partition<LocalLog<S>, S>> {
        self.partitions.iter_mut().filter_map(|place| match place {
            Place::Serving(partition) => Some(&mut **partition),
            _ => None,
        })
    }

    fn with_partition<T>(
        &mut self,
        id: PartitionId,
        now: Now,
        act: impl FnOnce(&mut Partition<LocalLog<S>, S>, &mut Turn<'_>) -> T,
    ) -> Result<T, EngineError> {
        self.now = now;
        let Self { config, partitions, out, random, .. } = self;
        match partitions.get_mut(usize::from(id.0)) {
            Some(Place::Serving(partition)) => {
                let mut turn = Turn { now, config, out, random: &mut |bytes| random.fill_bytes(bytes) };
                Ok(act(partition, &mut turn))
            }
            Some(Place::OutOfService) => Err(EngineError::StorageFailed),
            Some(Place::Elsewhere) | None => Err(EngineError::PartitionNotFound(u64::from(id.0))),
        }
    }

    fn for_each(&mut self, now: Now, mut act: impl FnMut(&mut Partition<LocalLog<S>, S>, &mut Turn<'_>)) {
        for number in 0..self.config.partition_count {
            // Those elsewhere or out of service have nothing to do.
            let _ = self.with_partition(PartitionId(number), now, &mut act);
        }
    }
}

/// Why a shard does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardOpenError {
    /// A setting is out of its range.
    #[error("the engine's settings are wrong: {0}")]
    Config(&'static str),
    /// A partition was given twice.
    #[error("partition {} was given twice", .0.0)]
    Twice(PartitionId),
    /// The hub has no such partition.
    #[error("the hub has no partition {}", .0.0)]
    Unknown(PartitionId),
}

/// The way to one shard on the caller's own thread: for tests and for the embedding of one shard.
pub struct ShardDoor<'a, S: Storage> {
    shard: &'a mut Shard<S>,
    now: Now,
}

impl<'a, S: Storage> ShardDoor<'a, S> {
    /// For one turn, at this time.
    pub fn new(shard: &'a mut Shard<S>, now: Now) -> Self {
        Self { shard, now }
    }
}

impl<S: Storage> Door for ShardDoor<'_, S> {
    fn ask(&mut self, caller: Caller, request: Request) -> Result<(), Busy> {
        self.shard.handle_request(caller, request, self.now);
        Ok(())
    }

    fn append(&mut self, caller: Caller, append: AppendView<'_>) -> Result<(), Busy> {
        self.shard.handle_append(caller, append, self.now)
    }
}
