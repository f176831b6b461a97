//! One shard over a simulated disk, with a clock that the test turns.

use std::collections::BTreeMap;

use engine::Now;
use engine::monitor::{MonitorEvent, Protocol};
use engine::placement::device_partition;
use engine::request::*;
use engine::shard::{OpenReport, PartitionStorage, Shard, ShardConfig};
use registry::{ConsumerGroupId, DataKey, DeviceId, PolicyName, Rights};
use segment_log::storage::sim::{PowerCut, SimDisk, SimStorage};
use segment_log::{LogConfig, RetentionConfig};

/// When the tests begin, milliseconds since 1970.
pub const START_MS: u64 = 1_700_000_000_000;

pub struct World {
    pub disk: SimDisk,
    pub shard: Shard<SimStorage>,
    pub config: ShardConfig,
    pub now: Now,
    pub reports: Vec<OpenReport>,
    pub replies: BTreeMap<u64, Reply>,
    pub notices: Vec<(ConnectionId, Notice)>,
    pub monitor: Vec<MonitorEvent>,
    next_token: u64,
    /// Counts the starts: what a hub draws by chance is different each time.
    run: u8,
}

/// Logs so small that they roll every few records, and snapshots every few changes.
pub fn config(partition_count: u16) -> ShardConfig {
    let mut config = ShardConfig::new(partition_count, DataKey::from_bytes([7; 32]));
    let log = LogConfig {
        segment_bytes_first: 32 << 10,
        segment_bytes_max: 64 << 10,
        commit_bytes_max: 16 << 10,
        record_bytes_max: 8 << 10,
        roll_age_ms: None,
        retention: RetentionConfig::default(),
        tail_bytes_max: 16 << 10,
        index_stride_bytes: 4 << 10,
        load_bytes: 8 << 10,
        keep_prepared: true,
    };
    config.events = log.clone();
    config.journal = log;
    config.limits.event_bytes_max = 4096;
    config.commands.command_bytes_max = 4096;
    config.snapshot_due_bytes = 500;
    config
}

pub fn connection(slot: u32) -> ConnectionId {
    ConnectionId { core: CoreId(0), slot, generation: 0 }
}

pub fn device(number: usize) -> DeviceId {
    DeviceId::parse(&format!("device-{number}")).unwrap()
}

/// A policy's grant over the whole hub.
pub fn hub_grant() -> Grant {
    let principal =
        Principal::Policy { name: PolicyName::parse("device").unwrap(), rights: Rights::DEVICE_CONNECT };
    Grant { principal, resource: Vec::new(), expires_s: u64::MAX }
}

impl World {
    pub fn new(partition_count: u16) -> World {
        World::open(SimDisk::new(1), config(partition_count), Now { wall_ms: START_MS, mono_ms: 0 })
    }

    pub fn open(disk: SimDisk, config: ShardConfig, now: Now) -> World {
        World::start(disk, config, now, 0)
    }

    fn start(disk: SimDisk, config: ShardConfig, now: Now, run: u8) -> World {
        let storages = (0..config.partition_count)
            .map(|number| PartitionStorage {
                id: PartitionId(number),
                events: disk.storage(&format!("{number}/events")),
                journal: disk.storage(&format!("{number}/journal")),
            })
            .collect();
        let mut seed = [disk.operation_count() as u8; 32];
        seed[0] = run;
        let (shard, reports) = Shard::open(config.clone(), storages, now, seed).unwrap();
        World {
            disk,
            shard,
            config,
            now,
            reports,
            replies: BTreeMap::new(),
            notices: Vec::new(),
            monitor: Vec::new(),
            next_token: 0,
            run,
        }
    }

    /// The process is killed and started again.
    pub fn kill(self) -> World {
        let disk = self.disk.after_kill(self.disk.operation_count());
        World::start(disk, self.config, self.now, self.run.wrapping_add(1))
    }

    /// The power goes and comes back.
    pub fn cut_power(self, seed: u64) -> World {
        let sector_bytes = if seed.is_multiple_of(2) { 512 } else { 4096 };
        let disk =
            self.disk.after_power_cut(PowerCut { seed, sector_bytes, garbage: seed.is_multiple_of(3) });
        World::start(disk, self.config, self.now, self.run.wrapping_add(1))
    }

    /// Nothing was found wrong when the partitions were opened.
    pub fn assert_healthy(&self) {
        for report in &self.reports {
            assert!(report.fault.is_none(), "{report:?}");
            let damaged = |log: &Option<segment_log::RecoveryReport>| log.as_ref().unwrap().is_damaged();
            assert!(!damaged(&report.events) && !damaged(&report.journal), "{report:?}");
        }
    }

    /// Hand a request over; the answer's token. Only what the shard refuses at once is answered before the next turn.
    pub fn send(&mut self, connection: ConnectionId, request: Request) -> u64 {
        self.next_token += 1;
        let caller = Caller { connection, token: self.next_token };
        self.shard.handle_request(caller, request, self.now);
        self.collect();
        self.next_token
    }

    /// Hand events over; the answer's token.
    pub fn send_events(&mut self, connection: ConnectionId, session: SessionId, bodies: &[Vec<u8>]) -> u64 {
        self.next_token += 1;
        let caller = Caller { connection, token: self.next_token };
        let events: Vec<EventView<'_>> = bodies
            .iter()
            .map(|message| EventView { message, annotations: b"", annotation_value_count: 0 })
            .collect();
        let append = AppendView { session, events: &events };
        if self.shard.handle_append(caller, append, self.now).is_err() {
            self.replies.insert(caller.token, Reply::Failed(EngineError::Busy));
        }
        self.collect();
        self.next_token
    }

    /// The end of a turn.
    pub fn turn(&mut self) {
        self.shard.poll(self.now);
        self.collect();
    }

    /// Carry out what waits at the disk and at the job thread, until nothing does.
    pub fn settle(&mut self) {
        loop {
            self.turn();
            let mut busy = self.run_jobs();
            while self.disk.step() {
                busy = true;
            }
            if !busy {
                return self.turn();
            }
        }
    }

    /// Do the jobs that were handed out; whether there was any.
    pub fn run_jobs(&mut self) -> bool {
        let mut any = false;
        while let Some(job) = self.shard.poll_job() {
            self.shard.handle_job_done(job.run(), self.now);
            any = true;
        }
        any
    }

    fn collect(&mut self) {
        while let Some(notice) = self.shard.poll_notice() {
            self.notices.push(notice);
        }
        while let Some((caller, reply)) = self.shard.poll_reply() {
            let earlier = self.replies.insert(caller.token, reply);
            assert!(earlier.is_none(), "token {} was answered twice", caller.token);
        }
        while let Some(event) = self.shard.poll_monitor() {
            self.monitor.push(event);
        }
    }

    pub fn take(&mut self, token: u64) -> Option<Reply> {
        self.replies.remove(&token)
    }

    /// Ask and wait for the answer.
    pub fn ask(&mut self, connection: ConnectionId, request: Request) -> Reply {
        let token = self.send(connection, request);
        self.settle();
        self.take(token).expect("the request is answered")
    }

    /// Ask and wait for a refusal.
    pub fn refused(&mut self, connection: ConnectionId, request: Request) -> EngineError {
        match self.ask(connection, request) {
            Reply::Failed(error) => error,
            reply => panic!("expected a refusal, got {reply:?}"),
        }
    }

    pub fn create(&mut self, number: usize) -> DeviceView {
        let draft = DeviceDraft::new(device(number));
        match self.ask(connection(99), Request::CreateDevice(draft)) {
            Reply::Device(view) => *view,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn find(&mut self, number: usize) -> Option<DeviceView> {
        match self.ask(connection(99), Request::FindDevice { device: device(number) }) {
            Reply::Device(view) => Some(*view),
            Reply::Failed(EngineError::DeviceNotFound) => None,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn open_request(number: usize) -> Request {
        Request::OpenSession { device: device(number), grant: hub_grant(), protocol: Protocol::Amqps }
    }

    pub fn attach(&mut self, by: ConnectionId, number: usize) -> SessionId {
        match self.ask(by, World::open_request(number)) {
            Reply::SessionOpened(session) => session,
            reply => panic!("{reply:?}"),
        }
    }

    /// What a device has subscribed to: the mark that is its address.
    pub fn subscription(&mut self, number: usize) -> Option<u64> {
        let by = connection(97);
        let session = self.attach(by, number);
        let reply = self.ask(by, Request::FindSubscription { session });
        self.send(by, Request::CloseSession { session });
        match reply {
            Reply::Subscription(kept) => kept.map(|kept| kept.address.parse().unwrap()),
            reply => panic!("{reply:?}"),
        }
    }

    /// Append one event and wait for the answer.
    pub fn append(&mut self, by: ConnectionId, session: SessionId, body: &[u8]) -> Result<u64, EngineError> {
        let token = self.send_events(by, session, &[body.to_vec()]);
        self.settle();
        match self.take(token).expect("the append is answered") {
            Reply::Appended { first, event_count: 1 } => Ok(first.0),
            Reply::Failed(error) => Err(error),
            reply => panic!("{reply:?}"),
        }
    }

    pub fn partition_of(&self, number: usize) -> PartitionId {
        device_partition(&device(number), self.config.partition_count)
    }

    pub fn open_reader(
        &mut self,
        by: ConnectionId,
        partition: PartitionId,
        start: Start,
        epoch: Option<i64>,
    ) -> Result<(ReaderId, u64, bool), EngineError> {
        let (group, name) = (ConsumerGroupId::DEFAULT, Some(format!("reader-{}", by.slot)));
        match self.ask(by, Request::OpenReader { partition, group, start, epoch, name }) {
            Reply::ReaderOpened { reader, next, truncated } => Ok((reader, next.0, truncated)),
            Reply::Failed(error) => Err(error),
            reply => panic!("{reply:?}"),
        }
    }

    /// What a reader gets now: device and body of each event, none if nothing is there.
    pub fn read(&mut self, by: ConnectionId, reader: ReaderId, count: u32) -> Vec<(u64, String, Vec<u8>)> {
        let token = self.send(by, Request::Read { reader, event_count_max: count, bytes_max: 4096 });
        self.settle();
        if !self.replies.contains_key(&token) {
            self.send(by, Request::CancelRead { reader });
        }
        match self.take(token).expect("the read is answered") {
            Reply::Events { batch, .. } => batch
                .records
                .iter()
                .map(|event| (event.sequence.0, event.device.to_owned(), event.message.to_vec()))
                .collect(),
            reply => panic!("{reply:?}"),
        }
    }

    /// All events of a partition, from the oldest.
    pub fn read_all(&mut self, partition: PartitionId) -> Vec<(u64, String, Vec<u8>)> {
        let by = connection(98);
        let (reader, ..) = self.open_reader(by, partition, Start::Earliest, None).unwrap();
        let mut all = Vec::new();
        loop {
            let some = self.read(by, reader, 7);
            if some.is_empty() {
                break;
            }
            all.extend(some);
        }
        self.send(by, Request::CloseReader { reader });
        all
    }

    pub fn status(&mut self, partition: PartitionId) -> PartitionStatus {
        match self.ask(connection(99), Request::DescribePartition { partition }) {
            Reply::PartitionStatus(status) => status,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn pass(&mut self, ms: u64) {
        self.now.wall_ms += ms;
        self.now.mono_ms += ms;
    }
}
