//! The engine on the caller's thread: no runtime, no network, no other thread. For edge servers that want durable, ordered
//! events with identities and checkpoints in their own process.
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
    AppendView, Caller, ConnectionId, CoreId, DeviceView, EngineError, EventBatch, EventView, Grant,
    PartitionId, PartitionStatus, Principal, ReaderId, Reply, Request, SequenceNumber, SessionId, Start,
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
        // Who runs in the process needs no key.
        let name = PolicyName::parse("embedded")?;
        let principal = Principal::Policy { name, rights: Rights::DEVICE_CONNECT };
        let grant = Grant { principal, resource: Vec::new(), expires_s: u64::MAX };
        let (device, protocol) = (device.clone(), Protocol::Embedded);
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
            self.shard.handle_append(caller, AppendView { session, events }, now(self.started));
            match self.turn(caller) {
                Some(Reply::Appended { first, .. }) => return Ok(first),
                Some(Reply::Failed(EngineError::Busy)) if !is_last => {}
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

    /// Any request that has a reply, answered when it is durable. Not for [`Request::Read`], which may wait for ever.
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

    /// Let retention and other work that waits for time go on. To be called now and then by a program that is otherwise
    /// idle, about once a minute.
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

fn confused(reply: &Reply) -> EngineError {
    match reply {
        Reply::Failed(error) => error.clone(),
        other => unreachable!("the engine answers each request in kind, not with {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0);

    fn open(directory: &Path) -> Hub {
        let (hub, reports) = Hub::open(directory, ShardConfig::new(1, data_key(directory).unwrap())).unwrap();
        assert!(reports.iter().all(|report| report.fault.is_none()));
        hub
    }

    fn event(message: &[u8]) -> EventView<'_> {
        EventView { message, annotations: b"", annotation_value_count: 0 }
    }

    #[test]
    fn what_is_appended_and_checkpointed_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let device = DeviceId::parse("press-1").unwrap();
        let mut hub = open(directory.path());
        let created = hub.create_device(DeviceDraft::new(device.clone())).unwrap();
        let session = hub.open_session(&device).unwrap();
        assert_eq!(hub.partition(&device), P);
        assert_eq!(hub.append(session, &[event(b"one"), event(b"two")]), Ok(SequenceNumber(0)));
        assert_eq!(hub.append(session, &[event(b"three")]), Ok(SequenceNumber(2)));
        hub.put_checkpoint(P, "$Default", SequenceNumber(0)).unwrap();
        let locked = Hub::open(directory.path(), ShardConfig::new(1, data_key(directory.path()).unwrap()));
        assert!(matches!(locked, Err(HubOpenError::Storage { .. })), "one process at a time");
        drop(hub);

        let mut hub = open(directory.path());
        assert_eq!(hub.find_device(&device).unwrap().keys, created.keys);
        let reader = hub.open_reader(P, "$default", Start::Checkpoint).unwrap();
        let mut bodies = Vec::new();
        loop {
            let batch = hub.read(reader, 10).unwrap();
            if batch.records.is_empty() {
                break;
            }
            bodies
                .extend(batch.records.iter().map(|event| (event.device.to_owned(), event.message.to_vec())));
        }
        let expected = |body: &[u8]| ("press-1".to_owned(), body.to_vec());
        assert_eq!(bodies, [expected(b"two"), expected(b"three")]);
        assert_eq!(hub.describe(P).unwrap().next, SequenceNumber(3));
        let unknown = hub.open_reader(P, "nobody", Start::Earliest).unwrap_err();
        assert_eq!(unknown, EngineError::ConsumerGroupNotFound);
    }

    #[test]
    fn a_hub_in_the_process_fills_segments_and_takes_snapshots() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = ShardConfig::new(1, data_key(directory.path()).unwrap());
        config.events.segment_bytes_first = 4 << 20;
        config.events.segment_bytes_max = 4 << 20;
        config.snapshot_due_bytes = 1000;
        let (mut hub, _) = Hub::open(directory.path(), config.clone()).unwrap();
        for number in 0..20 {
            let device = DeviceId::parse(&format!("press-{number}")).unwrap();
            hub.create_device(DeviceDraft::new(device)).unwrap();
        }
        assert!(hub.counters().snapshots >= 1);
        let session = hub.open_session(&DeviceId::parse("press-3").unwrap()).unwrap();
        let body = vec![9; 200_000];
        for number in 0..60 {
            assert_eq!(hub.append(session, &[event(&body)]), Ok(SequenceNumber(number)));
        }
        drop(hub);
        let (mut hub, _) = Hub::open(directory.path(), config).unwrap();
        let reader = hub.open_reader(P, "$Default", Start::Earliest).unwrap();
        let mut count = 0;
        loop {
            let batch = hub.read(reader, 100).unwrap();
            if batch.records.is_empty() {
                break;
            }
            assert!(batch.records.iter().all(|event| event.message == body));
            count += batch.records.len();
        }
        assert_eq!(count, 60);
    }
}
