//! A hub in memory: connections over one real shard on a simulated disk, with a clock that the test turns.

use std::collections::BTreeMap;

use engine::door::{Busy, Door};
use engine::request::*;
use engine::shard::{PartitionStorage, Shard, ShardConfig};
use net_amqp::performative::Symbols;
use net_amqp::value::{Descriptor, Map, Value, encode};
use net_amqp::{AttachRequest, LinkId, SaslRole, SessionId as AmqpSession};
use registry::{DataKey, DeviceId, DeviceStatus, KeyForm, sas};
use segment_log::storage::sim::{SimDisk, SimStorage};
use segment_log::{LogConfig, Now, RetentionConfig};

use super::wire::{Seen, Wire, World, hub_info, put_token, status_of};
use crate::binding::{HubInfo, credentials};

pub use crate::binding::credentials::key;

/// When the tests begin, seconds since 1970.
pub const START_S: u64 = 1_795_000_000;

/// Who makes devices and reads what is stored.
const BACK_END: ConnectionId = ConnectionId { core: CoreId(0), slot: u32::MAX, generation: 0 };

pub struct Hub {
    pub disk: SimDisk,
    pub shard: Shard<SimStorage>,
    pub info: HubInfo,
    pub now: Now,
    pub wires: Vec<Wire>,
    config: ShardConfig,
    /// Answers to the back end.
    answers: BTreeMap<u64, Reply>,
    next_token: u64,
}

/// One call's way into the shard.
struct Way<'a>(&'a mut Shard<SimStorage>, Now);

impl Door for Way<'_> {
    fn ask(&mut self, caller: Caller, request: Request) -> Result<(), Busy> {
        self.0.handle_request(caller, request, self.1);
        Ok(())
    }

    fn append(&mut self, caller: Caller, append: AppendView<'_>) -> Result<(), Busy> {
        self.0.handle_append(caller, append, self.1)
    }
}

/// What a receiver asks for besides its partition.
#[derive(Clone, Copy, Default)]
pub struct Wish<'a> {
    pub group: Option<&'a str>,
    pub selector: Option<&'a str>,
    /// The selector's descriptor is the symbol and not the number.
    pub symbolic: bool,
    pub epoch: Option<i64>,
    pub name: Option<&'a str>,
    pub capabilities: &'a [&'a str],
}

/// Settings with small logs. `event_bytes_max` is the largest event.
pub fn config(partition_count: u16, segment_bytes: u64, event_bytes_max: u32) -> ShardConfig {
    let mut config = ShardConfig::new(partition_count, DataKey::from_bytes([7; 32]));
    config.first_policies = credentials::policies();
    let log = LogConfig {
        segment_bytes_first: segment_bytes,
        segment_bytes_max: segment_bytes,
        commit_bytes_max: segment_bytes as usize / 4,
        record_bytes_max: (segment_bytes as usize / 8).max(event_bytes_max as usize + 4096),
        roll_age_ms: None,
        retention: RetentionConfig::default(),
        tail_bytes_max: segment_bytes as usize / 4,
        ..LogConfig::default()
    };
    config.events = log;
    config.journal = LogConfig {
        segment_bytes_first: 64 << 10,
        segment_bytes_max: 64 << 10,
        commit_bytes_max: 16 << 10,
        record_bytes_max: 8 << 10,
        tail_bytes_max: 16 << 10,
        keep_prepared: true,
        ..LogConfig::default()
    };
    config.limits.event_bytes_max = event_bytes_max;
    config.commands.command_bytes_max = 4 << 10;
    config
}

impl Hub {
    /// A new hub with room for the largest documented events.
    pub fn new(partition_count: u16) -> Self {
        Self::open(SimDisk::new(1), config(partition_count, 4 << 20, 256 << 10), START_S * 1000)
    }

    /// A hub over what is on a disk.
    pub fn open(disk: SimDisk, config: ShardConfig, wall_ms: u64) -> Self {
        let now = Now { wall_ms, mono_ms: 1000 };
        let storages = (0..config.partition_count)
            .map(|number| PartitionStorage {
                id: PartitionId(number),
                events: disk.storage(&format!("{number}/events")),
                journal: disk.storage(&format!("{number}/journal")),
            })
            .collect();
        let (shard, _reports) = Shard::open(config.clone(), storages, now, [3; 32]).unwrap();
        let info = hub_info(config.partition_count);
        let mut hub = Self {
            disk,
            shard,
            info,
            now,
            wires: Vec::new(),
            config,
            answers: BTreeMap::new(),
            next_token: 0,
        };
        hub.run();
        hub
    }

    /// Every side takes its turns until nothing moves.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("the hub does not come to rest");
    }

    /// One turn of every side. Whether anything moved.
    pub fn turn(&mut self) -> bool {
        let mut moved = false;
        let Self { shard, info, now, wires, answers, .. } = self;
        for wire in wires.iter_mut() {
            let mut way = Way(shard, *now);
            moved |= wire.turn(&mut World { door: &mut way, hub: info, now: *now });
        }
        shard.poll(*now);
        while let Some((connection, notice)) = shard.poll_notice() {
            moved = true;
            let mut way = Way(shard, *now);
            let mut world = World { door: &mut way, hub: info, now: *now };
            wires[connection.slot as usize].notice(&mut world, notice);
        }
        let mut replies: BTreeMap<u32, Vec<(u64, Reply)>> = BTreeMap::new();
        while let Some((caller, reply)) = shard.poll_reply() {
            moved = true;
            if caller.connection == BACK_END {
                answers.insert(caller.token, reply);
            } else {
                replies.entry(caller.connection.slot).or_default().push((caller.token, reply));
            }
        }
        // As the pump does: all that has come for a connection is one turn of it.
        for (slot, replies) in replies {
            let mut way = Way(shard, *now);
            let mut world = World { door: &mut way, hub: info, now: *now };
            wires[slot as usize].replies(&mut world, replies);
        }
        while let Some(job) = shard.poll_job() {
            shard.handle_job_done(job.run(), *now);
        }
        while shard.poll_monitor().is_some() {}
        moved
    }

    /// Let time pass, in steps that leave heartbeats their time.
    pub fn advance(&mut self, mut ms: u64) {
        while ms > 0 {
            let step = ms.min(50_000);
            self.now = Now { wall_ms: self.now.wall_ms + step, mono_ms: self.now.mono_ms + step };
            self.run();
            ms -= step;
        }
    }

    /// What the back end asks.
    pub fn ask(&mut self, request: Request) -> Reply {
        self.next_token += 1;
        let caller = Caller { connection: BACK_END, token: self.next_token };
        self.shard.handle_request(caller, request, self.now);
        self.run();
        self.answers.remove(&self.next_token).expect("an answer")
    }

    /// Make a device with the keys of this number.
    pub fn create_device(&mut self, id: &str, number: u8) {
        let reply = self.ask(Request::CreateDevice(draft(id, number, DeviceStatus::Enabled)));
        assert!(matches!(reply, Reply::Device(_)), "{reply:?}");
    }

    /// Change a device's keys or status.
    pub fn update_device(&mut self, id: &str, number: u8, status: DeviceStatus) {
        let update = Request::UpdateDevice { draft: draft(id, number, status), if_match: IfMatch::Any };
        let reply = self.ask(update);
        assert!(matches!(reply, Reply::Device(_)), "{reply:?}");
    }

    /// A new connection without SASL; its number.
    pub fn connect(&mut self) -> usize {
        let wire = self.accept();
        self.run();
        wire
    }

    /// A new connection that has said nothing yet.
    pub fn accept(&mut self) -> usize {
        self.accept_with(SaslRole::Absent)
    }

    /// A new connection of a client with this SASL role.
    pub fn accept_with(&mut self, sasl: SaslRole) -> usize {
        let Self { shard, info, now, wires, .. } = self;
        let mut way = Way(shard, *now);
        let mut world = World { door: &mut way, hub: info, now: *now };
        wires.push(Wire::new(wires.len() as u32, sasl, &mut world));
        self.wires.len() - 1
    }

    /// A connection with a token of this policy for the whole hub.
    pub fn connect_policy(&mut self, policy: &str, number: u8) -> usize {
        let wire = self.connect();
        let token =
            sas::sign("plant7.example", &key(number), KeyForm::Decoded, self.in_an_hour(), Some(policy));
        assert_eq!(self.put_token(wire, &token).0, 200);
        wire
    }

    pub fn in_an_hour(&self) -> u64 {
        self.now.wall_ms / 1000 + 3600
    }

    /// A device's own token.
    pub fn device_token(&self, id: &str, number: u8) -> String {
        sas::sign(
            &format!("plant7.example/devices/{id}"),
            &key(number),
            KeyForm::Decoded,
            self.in_an_hour(),
            None,
        )
    }

    /// Put a token by a `$cbs` pair of its own; the reply's status.
    pub fn put_token(&mut self, wire: usize, token: &str) -> (i32, String) {
        let session = self.begin(wire);
        let requests = self.wires[wire].attach(session, &AttachRequest::sender("cbs-to", "$cbs"));
        let replies = self.wires[wire].attach(session, &AttachRequest::receiver("cbs-from", "$cbs"));
        self.run();
        self.wires[wire].grant(replies, 1);
        self.wires[wire].send(requests, 0, false, &put_token(Value::String("m"), token));
        self.run();
        let status = self.wires[wire].take(|seen| match seen {
            Seen::Message { link, payload, .. } if *link == replies => Some(status_of(payload)),
            _ => None,
        });
        self.wires[wire].end(session);
        self.run();
        status.expect("a reply to put-token")
    }

    pub fn begin(&mut self, wire: usize) -> AmqpSession {
        let session = self.wires[wire].begin();
        self.run();
        session
    }

    /// Put a device's token and attach it for telemetry.
    pub fn attach_device(&mut self, wire: usize, id: &str, number: u8) -> LinkId {
        let token = self.device_token(id, number);
        assert_eq!(self.put_token(wire, &token), (200, "OK".to_owned()));
        self.attach_sender(wire, &format!("/devices/{id}/messages/events")).unwrap()
    }

    /// Attach a link on which the client sends.
    pub fn attach_sender(&mut self, wire: usize, address: &str) -> Result<LinkId, (String, String)> {
        let session = self.begin(wire);
        let link = self.wires[wire].attach(session, &AttachRequest::sender(address, address));
        self.outcome(wire, link)
    }

    /// Put a device's token and attach it for its commands.
    pub fn attach_commands(&mut self, wire: usize, id: &str, number: u8) -> LinkId {
        let token = self.device_token(id, number);
        assert_eq!(self.put_token(wire, &token), (200, "OK".to_owned()));
        self.attach_receiver(wire, &format!("/devices/{id}/messages/devicebound")).unwrap()
    }

    /// Attach a link on which the client receives.
    pub fn attach_receiver(&mut self, wire: usize, address: &str) -> Result<LinkId, (String, String)> {
        let session = self.begin(wire);
        let link = self.wires[wire].attach(session, &AttachRequest::receiver(address, address));
        self.outcome(wire, link)
    }

    /// Attach a receiver of a partition.
    pub fn attach_reader(
        &mut self,
        wire: usize,
        partition: u16,
        wish: Wish<'_>,
    ) -> Result<LinkId, (String, String)> {
        let session = self.begin(wire);
        let group = wish.group.unwrap_or("$Default");
        let address = format!("plant7/ConsumerGroups/{group}/Partitions/{partition}");
        let (mut filter, mut properties) = (Vec::new(), Vec::new());
        let mut request = AttachRequest::receiver("reader", &address);
        if let Some(selector) = wish.selector {
            let map = encode::begin_map(&mut filter);
            encode::symbol(&mut filter, "apache.org:selector-filter:string");
            encode::descriptor(
                &mut filter,
                match wish.symbolic {
                    true => Descriptor::Symbol("apache.org:selector-filter:string"),
                    false => Descriptor::Code(0x0000_468C_0000_0004),
                },
            );
            encode::string(&mut filter, selector);
            map.end(&mut filter, 2);
            request.source.filter = Some(Map::from_encoded(&filter).unwrap());
        }
        let mut entries = Vec::new();
        entries.extend(wish.epoch.map(|epoch| ("com.microsoft:epoch", Value::Long(epoch))));
        entries.extend(wish.name.map(|name| ("com.microsoft:receiver-name", Value::String(name))));
        if !entries.is_empty() {
            request.properties = Some(super::wire::properties(&mut properties, &entries));
        }
        if !wish.capabilities.is_empty() {
            request.desired_capabilities = Symbols::Listed(wish.capabilities);
        }
        let link = self.wires[wire].attach(session, &request);
        self.outcome(wire, link)
    }

    fn outcome(&mut self, wire: usize, link: LinkId) -> Result<LinkId, (String, String)> {
        self.run();
        let refused = self.wires[wire].pick(|seen| match seen {
            Seen::Attached { link: attached, refused, .. } if *attached == link => Some(*refused),
            _ => None,
        });
        match refused.expect("an answer to the attach") {
            false => Ok(link),
            true => Err(self.wires[wire]
                .take(|seen| match seen {
                    Seen::Detached { link: detached, condition, text } if *detached == link => {
                        Some((condition.clone(), text.clone()))
                    }
                    _ => None,
                })
                .expect("a detach behind the refusal")),
        }
    }

    /// Send a message and let everything run.
    pub fn send(&mut self, wire: usize, link: LinkId, payload: &[u8]) -> u32 {
        let id = self.wires[wire].send(link, 0, false, payload);
        self.run();
        id
    }

    /// Grant credit and take what comes.
    pub fn receive(&mut self, wire: usize, link: LinkId, credit: u32) -> Vec<Event> {
        self.wires[wire].grant(link, credit);
        self.run();
        self.received(wire, link)
    }

    /// What came on a link.
    pub fn received(&mut self, wire: usize, link: LinkId) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.wires[wire].take(|seen| match seen {
            Seen::Message { link: from, delivery_id, settled, payload, .. } if *from == link => {
                Some(Event { delivery_id: *delivery_id, settled: *settled, payload: payload.clone() })
            }
            _ => None,
        }) {
            events.push(event);
        }
        events
    }

    /// The condition and text of a link's end.
    pub fn detached(&mut self, wire: usize, link: LinkId) -> Option<(String, String)> {
        self.wires[wire].take(|seen| match seen {
            Seen::Detached { link: detached, condition, text } if *detached == link => {
                Some((condition.clone(), text.clone()))
            }
            _ => None,
        })
    }

    /// The power goes and comes back; the connections are gone.
    pub fn cut_power(self, cut: segment_log::storage::sim::PowerCut) -> Self {
        let disk = self.disk.after_power_cut(cut);
        Self::open(disk, self.config, self.now.wall_ms)
    }

    /// Everything stored in a partition: number, device and message.
    pub fn stored(&mut self, partition: u16) -> Vec<(u64, String, Vec<u8>)> {
        let wire = self.connect_policy("service", 1);
        let link = self.attach_reader(wire, partition, Wish::default()).unwrap();
        let mut all = Vec::new();
        loop {
            let events = self.receive(wire, link, 500);
            if events.is_empty() {
                break;
            }
            all.extend(events.iter().map(|event| {
                let sections = net_amqp::Sections::parse(&event.payload).unwrap();
                let annotations = sections.message_annotations.unwrap();
                let number = annotations.find("x-opt-sequence-number").unwrap().as_i64().unwrap();
                let device = annotations.find("iothub-connection-device-id").unwrap().as_text().unwrap();
                (number as u64, device.to_owned(), sections.bare.to_vec())
            }));
        }
        all
    }
}

/// An event as a client received it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub delivery_id: u32,
    pub settled: bool,
    pub payload: Vec<u8>,
}

impl Event {
    /// The stored message behind the annotations.
    pub fn bare(&self) -> Vec<u8> {
        net_amqp::Sections::parse(&self.payload).unwrap().bare.to_vec()
    }

    /// Its sequence number.
    pub fn number(&self) -> i64 {
        let sections = net_amqp::Sections::parse(&self.payload).unwrap();
        sections.message_annotations.unwrap().find("x-opt-sequence-number").unwrap().as_i64().unwrap()
    }
}

fn draft(id: &str, number: u8, status: DeviceStatus) -> DeviceDraft {
    DeviceDraft {
        device: DeviceId::parse(id).unwrap(),
        primary_key: Some(key(number)),
        secondary_key: Some(key(number + 100)),
        status,
        status_reason: None,
    }
}
