//! One real shard on a simulated disk, small and the same in every run.

use std::collections::BTreeMap;

use engine::Now;
use engine::request::{
    Ack, Caller, CommandDraft, ConnectionId, CoreId, DeviceDraft, DeviceView, EngineError, Notice,
    PartitionId, Reply, Request,
};
use engine::shard::{OpenReport, PartitionStorage, Shard, ShardConfig};
use registry::{ConsumerGroupId, DataKey, DeviceId, DeviceKeys, DeviceStatus, Policy, PolicyName, Rights};
use segment_log::LogConfig;
use segment_log::storage::sim::{SimDisk, SimStorage};

use crate::sas::{START_S, key};

/// The directory of the journal.
pub const JOURNAL: &str = "journal";
/// The file of the snapshot.
pub const SNAPSHOT: &str = "registry.snapshot";
/// Who asks besides connections.
pub const BACK_END: ConnectionId = ConnectionId { core: CoreId(0), slot: u32::MAX, generation: 0 };
/// When everything happens, milliseconds since 1970.
pub const WALL_MS: u64 = START_S * 1000;

const PARTITION: PartitionId = PartitionId(0);

/// The devices that a furnished hub knows, with the numbers of their keys.
const DEVICES: [(&str, u8); 5] = [("d", 1), ("dev-1", 10), ("dev-2", 11), ("dev-a", 10), ("e", 2)];

/// A shard with one partition.
pub struct World {
    pub disk: SimDisk,
    pub shard: Shard<SimStorage>,
    pub now: Now,
    pub report: OpenReport,
    replies: BTreeMap<u64, Reply>,
    next_token: u64,
}

/// What a connection is told.
pub enum Told {
    Reply(u64, Reply),
    Notice(Notice),
}

/// The key of the data at rest.
pub fn data_key() -> DataKey {
    DataKey::from_bytes([7; 32])
}

/// A device's id.
pub fn device(id: &str) -> DeviceId {
    DeviceId::parse(id).expect("an id")
}

/// Logs that are small, a snapshot after so many bytes of changes.
pub fn config(snapshot_due_bytes: u64) -> ShardConfig {
    let mut config = ShardConfig::new(1, data_key());
    let log = LogConfig {
        segment_bytes_first: 64 << 10,
        segment_bytes_max: 64 << 10,
        commit_bytes_max: 16 << 10,
        record_bytes_max: 8 << 10,
        tail_bytes_max: 16 << 10,
        ..LogConfig::default()
    };
    config.events = log.clone();
    config.journal = log;
    config.limits.event_bytes_max = 4096;
    config.commands.command_bytes_max = 4096;
    config.snapshot_due_bytes = snapshot_due_bytes;
    config.access.host_names = vec!["plant7.example".into()];
    let policy = |name, rights, first, second| Policy {
        name: PolicyName::parse(name).expect("a name"),
        rights,
        keys: DeviceKeys { primary: key(first), secondary: key(second) },
    };
    // The keys under which the conversations of the corpora were recorded.
    config.first_policies = vec![
        policy("owner", Rights::ALL, 1, 101),
        policy("service", Rights::SERVICE_CONNECT, 1, 3),
        policy("device", Rights::DEVICE_CONNECT, 2, 5),
        policy("registryRead", Rights::REGISTRY_READ, 3, 103),
        policy("reader", Rights::REGISTRY_READ, 2, 102),
        policy("writer", Rights::REGISTRY_WRITE, 4, 104),
    ];
    config
}

impl World {
    /// Open what is on a disk.
    pub fn open(disk: SimDisk, config: ShardConfig) -> Self {
        Self::open_at(disk, config, Now { wall_ms: WALL_MS, mono_ms: 1000 })
    }

    fn open_at(disk: SimDisk, config: ShardConfig, now: Now) -> Self {
        let storage = PartitionStorage {
            id: PARTITION,
            events: disk.storage("events"),
            journal: disk.storage(JOURNAL),
        };
        let (shard, mut reports) =
            Shard::open(config, vec![storage], now, [3; 32]).expect("the settings are sound");
        let report = reports.pop().expect("one of the partition");
        let mut world = Self { disk, shard, now, report, replies: BTreeMap::new(), next_token: 0 };
        world.settle();
        world
    }

    /// The process ends at this moment, and is started again.
    pub fn reopen(self, config: ShardConfig) -> Self {
        Self::open_at(self.disk.after_kill(1), config, self.now)
    }

    /// The disk of a hub with a few devices, one of which has commands, receipts and a subscription waiting.
    pub fn furnished() -> SimDisk {
        let mut world = Self::open(SimDisk::new(1), config(1 << 20));
        for (id, number) in DEVICES {
            world.create(id, number);
        }
        for number in 0..3 {
            world.enqueue("d", &format!("m{number}"));
            world.enqueue("dev-1", &format!("m{number}"));
        }
        let by = |name: &str| Request::CreateConsumerGroup { name: name.to_owned() };
        world.ask(by("readers"));
        world.settle();
        world.disk.after_kill(1)
    }

    /// Make a device with the keys of a number.
    fn create(&mut self, id: &str, number: u8) {
        let draft = DeviceDraft {
            device: device(id),
            primary_key: Some(key(number)),
            secondary_key: Some(key(number + 100)),
            status: DeviceStatus::Enabled,
            status_reason: None,
        };
        let reply = self.ask(Request::CreateDevice(draft));
        assert!(matches!(reply, Some(Reply::Device(_))), "{reply:?}");
    }

    /// Put a command into a device's queue.
    fn enqueue(&mut self, id: &str, message_id: &str) {
        let message = net_amqp::MessageBuilder::default().data(b"go").encode();
        let draft = CommandDraft {
            device: device(id),
            message,
            message_id: message_id.to_owned(),
            ack: Ack::Full,
            expires_ms: None,
        };
        let reply = self.ask(Request::EnqueueCommand(draft));
        assert!(matches!(reply, Some(Reply::Done)), "{reply:?}");
    }

    /// Turns until nothing moves. What is for connections is dropped.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.turn(drop) {
                return;
            }
        }
        panic!("the shard does not come to rest");
    }

    /// One turn; what is for a connection is handed on. Whether anything moved.
    pub fn turn(&mut self, mut tell: impl FnMut(Told)) -> bool {
        let mut moved = false;
        self.shard.poll(self.now);
        while let Some((_, notice)) = self.shard.poll_notice() {
            moved = true;
            tell(Told::Notice(notice));
        }
        while let Some((caller, reply)) = self.shard.poll_reply() {
            moved = true;
            if caller.connection == BACK_END {
                let earlier = self.replies.insert(caller.token, reply);
                assert!(earlier.is_none(), "answered twice");
            } else {
                tell(Told::Reply(caller.token, reply));
            }
        }
        while let Some(job) = self.shard.poll_job() {
            moved = true;
            self.shard.handle_job_done(job.run(), self.now);
        }
        while self.shard.poll_monitor().is_some() {}
        moved
    }

    /// What the back end asks; none: it was not answered.
    pub fn ask(&mut self, request: Request) -> Option<Reply> {
        self.next_token += 1;
        let caller = Caller { connection: BACK_END, token: self.next_token };
        self.shard.handle_request(caller, request, self.now);
        self.settle();
        self.replies.remove(&self.next_token)
    }

    /// All that the partition knows for good besides its events, as text: who is connected and what is locked ends with the process.
    pub fn known(&mut self) -> Vec<String> {
        let mut known = Vec::new();
        let mut after = None;
        let mut devices = Vec::new();
        loop {
            let request = Request::ListDevices { partition: PARTITION, after: after.clone(), count_max: 100 };
            match self.ask(request) {
                Some(Reply::Devices(page)) if page.is_empty() => break,
                Some(Reply::Devices(page)) => {
                    let ids: Vec<_> = page.iter().map(|view| view.device.clone()).collect();
                    assert!(ids.is_sorted() && after.as_ref().is_none_or(|after| *after < ids[0]));
                    after = ids.last().cloned();
                    devices.extend(ids);
                    known.extend(page.into_iter().map(lasting));
                }
                other => {
                    // An identity that cannot be read closes the list, and says so.
                    assert!(matches!(other, Some(Reply::Failed(_))), "{other:?}");
                    known.push(format!("{other:?}"));
                    break;
                }
            }
        }
        for device in devices {
            match self.ask(Request::FindDevice { device: device.clone() }) {
                Some(Reply::Device(view)) => known.push(lasting(*view)),
                other => known.push(format!("{other:?}")),
            }
            match self.ask(Request::DescribeCommandQueue { device }) {
                Some(Reply::CommandQueue(status)) => {
                    known.push(format!("{} commands", status.enqueued + status.locked));
                }
                other => {
                    assert!(matches!(other, Some(Reply::Failed(EngineError::DeviceNotFound))), "{other:?}");
                    known.push(format!("{other:?}"));
                }
            }
        }
        known.push(format!("{:?}", self.ask(Request::CountDevices { partition: PARTITION })));
        known.push(format!("{:?}", self.ask(Request::ListConsumerGroups)));
        for group in [ConsumerGroupId::DEFAULT, ConsumerGroupId(1), ConsumerGroupId(2)] {
            known.push(format!("{:?}", self.ask(Request::FindCheckpoint { partition: PARTITION, group })));
        }
        known
    }
}

/// An identity as it is after a restart.
fn lasting(view: DeviceView) -> String {
    let view = DeviceView { connected: false, connection_updated_ms: None, last_activity_ms: None, ..view };
    format!("{view:?}")
}
