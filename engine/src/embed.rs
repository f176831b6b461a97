//! The engine on the caller's thread: no runtime, no network, no other thread. For edge servers that want durable, ordered
//! events, and commands that wait for their devices, with identities and checkpoints in their own process.
//!
//! The data lie as the whole hub lays them out, `DIR/partitions/NNNN/{events,journal}`. Each call that changes something
//! returns when that is durable; a program with much to write gathers events into one [`Hub::append`], which is one commit.
//! `examples/edge_server.rs` shows all of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use registry::{DataKey, DeviceDraft, DeviceId, PolicyName, Rights};
use segment_log::Now;
use segment_log::storage::StorageError;
use segment_log::storage::disk::{DiskConfig, DiskStorage};

use crate::monitor::{Counters, MonitorEvent, Protocol};
use crate::placement::device_partition;
use crate::request::{
    AppendView, Caller, CommandDraft, ConnectionId, CoreId, DeviceView, EngineError, EventBatch, EventView,
    Grant, Holder, LockToken, LockedCommand, LockedReceipts, PartitionId, PartitionStatus, Principal,
    ReaderId, ReceiverId, Reply, Request, SequenceNumber, SessionId, Settlement, Start,
};
use crate::shard::{OpenReport, PartitionStorage, Shard, ShardConfig, ShardOpenError};

/// The process itself, as the engine's only caller.
const CONNECTION: ConnectionId = ConnectionId { core: CoreId(0), slot: 0, generation: 0 };

/// All partitions of a hub on the caller's thread. Every call may wait for the disk.
pub struct Hub {
    shard: Shard<DiskStorage>,
    partition_count: u16,
    started: Instant,
    next_token: u64,
}

impl Hub {
    /// Open the hub in a directory, which is made if it is missing. Another process that has it open is refused.
    ///
    /// # Errors
    ///
    /// [`HubOpenError`]. A partition that is damaged does not fail the opening; its report says so, and it answers
    /// [`EngineError::StorageFailed`].
    pub fn open(directory: &Path, config: ShardConfig) -> Result<(Self, Vec<OpenReport>), HubOpenError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| HubOpenError::File { path, error }
        };
        let mut partitions = Vec::new();
        for id in (0..config.partition_count).map(PartitionId) {
            let path = directory.join("partitions").join(format!("{:04}", id.0));
            make_directories(&path).map_err(at(&path))?;
            let storage = |name| {
                let path = path.join(name);
                DiskStorage::open(&path, DiskConfig::default())
                    .map_err(|error| HubOpenError::Storage { path, error })
            };
            partitions.push(PartitionStorage {
                id,
                events: storage("events")?,
                journal: storage("journal")?,
            });
        }
        let mut seed = [0; 32];
        fill_random(&mut seed).map_err(HubOpenError::Random)?;
        let started = Instant::now();
        let partition_count = config.partition_count;
        let (shard, reports) = Shard::open(config, partitions, now(started), seed)?;
        Ok((Self { shard, partition_count, started, next_token: 0 }, reports))
    }

    /// The partition of a device.
    pub fn partition(&self, device: &DeviceId) -> PartitionId {
        device_partition(device, self.partition_count)
    }

    /// Create an identity.
    ///
    /// # Errors
    ///
    /// [`EngineError::Registry`] when it exists, and what any call may meet.
    pub fn create_device(&mut self, draft: DeviceDraft) -> Result<DeviceView, EngineError> {
        match self.ask(Request::CreateDevice(draft))? {
            Reply::Device(device) => Ok(*device),
            reply => Err(confused(&reply)),
        }
    }

    /// Read an identity.
    ///
    /// # Errors
    ///
    /// [`EngineError::DeviceNotFound`], and what any call may meet.
    pub fn find_device(&mut self, device: &DeviceId) -> Result<DeviceView, EngineError> {
        match self.ask(Request::FindDevice { device: device.clone() })? {
            Reply::Device(device) => Ok(*device),
            reply => Err(confused(&reply)),
        }
    }

    /// Attach a device: its events are appended with the session that this gives.
    ///
    /// # Errors
    ///
    /// [`EngineError::DeviceNotFound`], [`EngineError::DeviceDisabled`], and what any call may meet.
    pub fn open_session(&mut self, device: &DeviceId) -> Result<SessionId, EngineError> {
        let (device, grant, protocol) = (device.clone(), grant(), Protocol::Embedded);
        match self.ask(Request::OpenSession { device, grant, protocol })? {
            Reply::SessionOpened(session) => Ok(session),
            reply => Err(confused(&reply)),
        }
    }

    /// Append events, all or none, and wait until they are durable. The first one's number.
    ///
    /// # Errors
    ///
    /// [`EngineError::SessionEnded`], [`EngineError::EventTooLarge`], [`EngineError::StorageFull`] (try again later), and
    /// what any call may meet.
    pub fn append(
        &mut self,
        session: SessionId,
        events: &[EventView<'_>],
    ) -> Result<SequenceNumber, EngineError> {
        // Busy means that the next segment is being made, which a turn of this storage finishes.
        for is_last in [false, true] {
            let caller = self.caller();
            let taken = self.shard.handle_append(caller, AppendView { session, events }, now(self.started));
            if taken.is_err() {
                self.turn(caller);
                match is_last {
                    true => return Err(EngineError::Busy),
                    false => continue,
                }
            }
            match self.turn(caller) {
                Some(Reply::Appended { first, .. }) => return Ok(first),
                Some(reply) => return Err(confused(&reply)),
                None => return Err(EngineError::Busy),
            }
        }
        Err(EngineError::Busy)
    }

    /// Read a partition for a consumer group (`$Default` always exists).
    ///
    /// # Errors
    ///
    /// [`EngineError::ConsumerGroupNotFound`], [`EngineError::PositionBeyondEnd`], and what any call may meet.
    pub fn open_reader(
        &mut self,
        partition: PartitionId,
        group: &str,
        start: Start,
    ) -> Result<ReaderId, EngineError> {
        let group = match self.ask(Request::FindConsumerGroup { name: group.to_owned() })? {
            Reply::ConsumerGroup(group) => group.id,
            reply => return Err(confused(&reply)),
        };
        match self.ask(Request::OpenReader { partition, group, start, epoch: None, name: None })? {
            Reply::ReaderOpened { reader, .. } => Ok(reader),
            reply => Err(confused(&reply)),
        }
    }

    /// The next events of a reader, at most `event_count_max`; none when it has read everything.
    ///
    /// # Errors
    ///
    /// [`EngineError::Damaged`]: the next call goes on behind the damage. And what any call may meet.
    pub fn read(&mut self, reader: ReaderId, event_count_max: u32) -> Result<EventBatch, EngineError> {
        let caller = self.caller();
        let read = Request::Read { reader, event_count_max, bytes_max: u32::MAX };
        self.shard.handle_request(caller, read, now(self.started));
        let answer = self.turn(caller).or_else(|| {
            self.shard.handle_request(caller, Request::CancelRead { reader }, now(self.started));
            self.turn(caller)
        });
        match answer {
            Some(Reply::Events { batch, .. }) => Ok(batch),
            Some(reply) => Err(confused(&reply)),
            None => Err(EngineError::ReaderEnded),
        }
    }

    /// Remember for a consumer group that a partition is read up to and with `number`. Never goes back.
    ///
    /// # Errors
    ///
    /// [`EngineError::CheckpointBeyondEnd`], and what any call may meet.
    pub fn put_checkpoint(
        &mut self,
        partition: PartitionId,
        group: &str,
        number: SequenceNumber,
    ) -> Result<(), EngineError> {
        let group = match self.ask(Request::FindConsumerGroup { name: group.to_owned() })? {
            Reply::ConsumerGroup(group) => group.id,
            reply => return Err(confused(&reply)),
        };
        match self.ask(Request::PutCheckpoint { partition, group, number, force: false })? {
            Reply::Done => Ok(()),
            reply => Err(confused(&reply)),
        }
    }

    /// Enqueue a command, which waits for its device until it expires. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`EngineError::DeviceNotFound`] (also for a disabled one), [`EngineError::QueueFull`], [`EngineError::CommandTooLarge`],
    /// [`EngineError::ExpiryInvalid`], and what any call may meet.
    pub fn enqueue_command(&mut self, draft: CommandDraft) -> Result<(), EngineError> {
        self.ask_done(Request::EnqueueCommand(draft))
    }

    /// The oldest command that waits for a device, locked for a minute; none when nothing waits.
    ///
    /// # Errors
    ///
    /// [`EngineError::DeviceNotFound`], [`EngineError::DeviceDisabled`], and what any call may meet.
    pub fn receive_command(&mut self, device: &DeviceId) -> Result<Option<LockedCommand>, EngineError> {
        let (device, grant, protocol) = (device.clone(), grant(), Protocol::Embedded);
        match self.ask(Request::ReceiveCommand { device, grant, protocol, lock_timeout_ms: None })? {
            Reply::Commands(commands) => Ok(commands.into_iter().next()),
            reply => Err(confused(&reply)),
        }
    }

    /// Say what becomes of a command that was received. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`EngineError::LockLost`]: it waits again or is gone. And what any call may meet.
    pub fn settle_command(
        &mut self,
        device: &DeviceId,
        token: LockToken,
        settlement: Settlement,
    ) -> Result<(), EngineError> {
        let holder = Holder::Device { device: device.clone(), grant: grant(), protocol: Protocol::Embedded };
        self.ask_done(Request::Settle { holder, token, settlement })
    }

    /// Begin to receive the receipts of a partition's devices.
    ///
    /// # Errors
    ///
    /// What any call may meet.
    pub fn open_receipts(&mut self, partition: PartitionId) -> Result<ReceiverId, EngineError> {
        match self.ask(Request::OpenReceiptReceiver { partition })? {
            Reply::ReceiverOpened(receiver) => Ok(receiver),
            reply => Err(confused(&reply)),
        }
    }

    /// The batches of receipts that wait, at most `count_max`, locked for a minute. One is made of 64 receipts, or of fewer
    /// 15 seconds after the first.
    ///
    /// # Errors
    ///
    /// What any call may meet.
    pub fn receive_receipts(
        &mut self,
        receiver: ReceiverId,
        count_max: u32,
    ) -> Result<Vec<LockedReceipts>, EngineError> {
        let caller = self.caller();
        self.shard.handle_request(caller, Request::Receive { receiver, count_max }, now(self.started));
        let answer = self.turn(caller).or_else(|| {
            self.shard.handle_request(caller, Request::CancelReceive { receiver }, now(self.started));
            self.turn(caller)
        });
        match answer {
            Some(Reply::Receipts(batches)) => Ok(batches),
            Some(reply) => Err(confused(&reply)),
            None => Err(EngineError::ReceiverEnded),
        }
    }

    /// Say what becomes of a batch of receipts. Durable when this returns.
    ///
    /// # Errors
    ///
    /// [`EngineError::LockLost`], and what any call may meet.
    pub fn settle_receipts(
        &mut self,
        receiver: ReceiverId,
        token: LockToken,
        settlement: Settlement,
    ) -> Result<(), EngineError> {
        self.ask_done(Request::Settle { holder: Holder::Receiver(receiver), token, settlement })
    }

    /// What a partition holds.
    ///
    /// # Errors
    ///
    /// What any call may meet.
    pub fn describe(&mut self, partition: PartitionId) -> Result<PartitionStatus, EngineError> {
        match self.ask(Request::DescribePartition { partition })? {
            Reply::PartitionStatus(status) => Ok(status),
            reply => Err(confused(&reply)),
        }
    }

    /// Any request that has a reply, answered when it is durable. Not for [`Request::Read`] and [`Request::Receive`], which may
    /// wait for ever.
    ///
    /// # Errors
    ///
    /// What the engine refuses it with; [`EngineError::Busy`] when it is not answered in one turn.
    pub fn ask(&mut self, request: Request) -> Result<Reply, EngineError> {
        let caller = self.caller();
        self.shard.handle_request(caller, request, now(self.started));
        match self.turn(caller) {
            Some(Reply::Failed(error)) => Err(error),
            Some(reply) => Ok(reply),
            None => Err(EngineError::Busy),
        }
    }

    /// Let what waits for time go on: retention, expiry, locks, batches of receipts. To be called now and then by a program
    /// that is otherwise idle: every few seconds where it sends commands, else about once a minute.
    pub fn tick(&mut self) {
        self.shard.poll(now(self.started));
        self.run_jobs();
    }

    /// Close the hub: what there is becomes durable, and the next opening has nothing to look for. A hub that is just
    /// dropped loses nothing that was answered either; its next opening reads the last segment of each log once.
    pub fn close(mut self) {
        self.shard.close(now(self.started));
        self.tick();
    }

    /// What happened since the last call.
    pub fn poll_monitor(&mut self) -> Option<MonitorEvent> {
        self.shard.poll_monitor()
    }

    /// What was counted since the opening.
    pub fn counters(&self) -> &Counters {
        self.shard.counters()
    }

    fn ask_done(&mut self, request: Request) -> Result<(), EngineError> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            reply => Err(confused(&reply)),
        }
    }

    fn caller(&mut self) -> Caller {
        self.next_token += 1;
        Caller { connection: CONNECTION, token: self.next_token }
    }

    /// One turn; the answer to `caller`, if it came.
    fn turn(&mut self, caller: Caller) -> Option<Reply> {
        self.shard.poll(now(self.started));
        self.run_jobs();
        // Notices tell connections what other connections did; there is one alone, and its calls fail by themselves.
        while self.shard.poll_notice().is_some() {}
        let mut answer = None;
        while let Some((answered, reply)) = self.shard.poll_reply() {
            if answered == caller {
                answer = Some(reply);
            }
        }
        answer
    }

    fn run_jobs(&mut self) {
        while let Some(job) = self.shard.poll_job() {
            let done = job.run();
            self.shard.handle_job_done(done, now(self.started));
            self.shard.poll(now(self.started));
        }
    }
}

/// The key that encrypts keys at rest, from `DIR/data.key`, which is made at the first call: 32 random bytes that the owner
/// alone may read. A program that has a better place for it makes its own [`DataKey`].
///
/// # Errors
///
/// What the file system says; [`io::ErrorKind::InvalidData`] when the file holds something else.
pub fn data_key(directory: &Path) -> io::Result<DataKey> {
    make_directories(directory)?;
    let path = directory.join("data.key");
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(mut file) => {
            file.read_to_end(&mut bytes)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bytes.resize(32, 0);
            fill_random(&mut bytes)?;
            // Whole under another name first: a key that is cut short by a crash would lock everybody out.
            let unfinished = directory.join("data.key.new");
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(directory)?.sync_all()?;
        }
        Err(error) => return Err(error),
    }
    let bytes = bytes.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(DataKey::from_bytes(bytes))
}

/// Why a hub does not open.
#[derive(Debug, thiserror::Error)]
pub enum HubOpenError {
    /// A directory cannot be made.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A log's directory cannot be used, or another process does.
    #[error("{}: {error}", path.display())]
    Storage {
        /// Which.
        path: PathBuf,
        /// Why.
        error: StorageError,
    },
    /// The operating system gives no randomness.
    #[error("no randomness: {0}")]
    Random(io::Error),
    /// The settings are wrong.
    #[error(transparent)]
    Shard(#[from] ShardOpenError),
}

/// Make a directory and what is above it, each entry durable.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    make_directories(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    File::open(parent)?.sync_all()
}

fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
}

/// The clocks: wall time may jump, monotonic time counts from the opening.
fn now(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Now { wall_ms: ms(wall), mono_ms: ms(started.elapsed()) }
}

/// Who runs in the process needs no key.
fn grant() -> Grant {
    let name = PolicyName::parse("embedded").expect("a name by the rules");
    let principal = Principal::Policy { name, rights: Rights::DEVICE_CONNECT };
    Grant { principal, resource: Vec::new(), expires_s: u64::MAX }
}

fn confused(reply: &Reply) -> EngineError {
    match reply {
        Reply::Failed(error) => error.clone(),
        other => unreachable!("the engine answers each request in kind, not with {other:?}"),
    }
}

#[cfg(test)]
mod tests;
