//! A hub in memory: MQTT connections over one real shard on a simulated disk, with a clock that the test turns.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use engine::door::{Busy, Door};
use engine::limits::Limits;
use engine::request::*;
use engine::shard::{PartitionStorage, Shard, ShardConfig};
use net_amqp::{Body, Sections};
use net_mqtt::{Config, Connect, Connection, Event, Inbound, PacketId, Qos, Role};
use registry::{ConsumerGroupId, DataKey, DeviceId, DeviceStatus, KeyForm, sas};
use segment_log::Now;
use segment_log::storage::sim::{PowerCut, SimDisk, SimStorage};

use crate::binding::mqtt::MqttBinding;
use crate::binding::{Binding, Closing, Context, HubInfo, Transport, credentials};

pub use crate::binding::credentials::key;

const BACK_END: ConnectionId = ConnectionId { core: CoreId(0), slot: u32::MAX, generation: 0 };

/// One call's way into the shard, full as often as the test says.
struct Way<'a> {
    shard: &'a mut Shard<SimStorage>,
    now: Now,
    busy_count: &'a mut u32,
    refused_count: &'a mut u32,
    refused: &'a mut VecDeque<(Caller, Reply)>,
    kept_count: &'a mut u32,
}

impl Way<'_> {
    fn check(&mut self) -> Result<(), Busy> {
        match *self.busy_count {
            0 => Ok(()),
            _ => {
                *self.busy_count -= 1;
                Err(Busy)
            }
        }
    }
}

impl Door for Way<'_> {
    fn ask(&mut self, caller: Caller, request: Request) -> Result<(), Busy> {
        self.check()?;
        *self.kept_count += u32::from(matches!(request, Request::PutSubscription { .. }));
        let is_journaled = matches!(request, Request::Settle { .. } | Request::PutSubscription { .. });
        if is_journaled && *self.refused_count > 0 {
            *self.refused_count -= 1;
            self.refused.push_back((caller, Reply::Failed(EngineError::Busy)));
        } else {
            self.shard.handle_request(caller, request, self.now);
        }
        Ok(())
    }

    fn append(&mut self, caller: Caller, append: AppendView<'_>) -> Result<(), Busy> {
        self.check()?;
        self.shard.handle_append(caller, append, self.now)
    }
}

/// What a device saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    ConnAck(u8, bool),
    SubAck(PacketId, Vec<u8>),
    UnsubAck(PacketId),
    Acknowledged(u16),
    Message { topic: String, payload: Vec<u8>, id: Option<PacketId> },
}

/// An event as it is stored: device, body, application properties.
pub type Stored = (String, Vec<u8>, Vec<(String, String)>);

/// A connection of a device.
pub struct Wire {
    id: ConnectionId,
    pub binding: MqttBinding,
    pub client: Connection,
    inbound: Inbound,
    /// What the client has said and the binding has not taken.
    pub to_hub: Vec<u8>,
    pub seen: VecDeque<Seen>,
    pub closing: Option<Closing>,
}

impl Wire {
    fn hear(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let bytes = std::mem::take(&mut self.to_hub);
        let mut input = &bytes[..];
        self.closing = self.binding.handle_bytes(&mut input, output, hub).err();
        self.to_hub = input.to_vec();
    }
}

pub struct Hub {
    disk: SimDisk,
    pub shard: Shard<SimStorage>,
    pub info: HubInfo,
    pub now: Now,
    pub wires: Vec<Wire>,
    /// So many calls of the engine find it full.
    pub busy_count: u32,
    /// So many settlements and subscriptions are taken, and then answered that the journal is full.
    pub refused_count: u32,
    refused: VecDeque<(Caller, Reply)>,
    /// So many subscriptions the engine was asked to keep.
    pub kept_count: u32,
    answers: BTreeMap<u64, Reply>,
    next_token: u64,
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

fn open(disk: &SimDisk, now: Now, limits: Limits, skew_s: u64) -> Shard<SimStorage> {
    let mut config = ShardConfig::new(1, DataKey::from_bytes([7; 32]));
    config.limits = limits;
    config.access.token_skew_s = skew_s;
    config.first_policies = credentials::policies();
    config.access.host_names = vec![credentials::HOST.to_owned()];
    let storage = PartitionStorage {
        id: PartitionId(0),
        events: disk.storage("events"),
        journal: disk.storage("journal"),
    };
    Shard::open(config, vec![storage], now, [3; 32]).unwrap().0
}

impl Hub {
    /// The power fails, and the hub is started again.
    pub fn reopen(&mut self) {
        self.disk = self.disk.after_power_cut(PowerCut { seed: 5, sector_bytes: 512, garbage: true });
        self.shard = open(&self.disk, self.now, Limits::default(), self.info.token_skew_s);
        self.run();
    }

    pub fn new() -> Self {
        Self::with(Limits::default(), 0)
    }

    /// With these limits, and so many seconds for which a token counts after its end.
    pub fn with(limits: Limits, token_skew_s: u64) -> Self {
        let disk = SimDisk::new(1);
        let now = Now { wall_ms: 1_795_000_000_000, mono_ms: 1000 };
        let shard = open(&disk, now, limits, token_skew_s);
        let info = HubInfo {
            administration_token: SecretText::new("administrator"),
            token_skew_s,
            ..HubInfo::new("plant7", "plant7.example", 1)
        };
        let mut hub = Self {
            disk,
            shard,
            info,
            now,
            wires: Vec::new(),
            busy_count: 0,
            refused_count: 0,
            refused: VecDeque::new(),
            kept_count: 0,
            answers: BTreeMap::new(),
            next_token: 0,
        };
        hub.run();
        hub
    }

    /// Run one call of a wire's binding, with the end of its turn.
    fn call(&mut self, index: usize, call: impl FnOnce(&mut Wire, &mut Vec<u8>, &mut Context<'_>)) {
        let Self { shard, info, now, wires, busy_count, refused_count, refused, kept_count, .. } = self;
        let wire = &mut wires[index];
        let mut way = Way { shard, now: *now, busy_count, refused_count, refused, kept_count };
        let mut context = Context {
            door: &mut way,
            connection: wire.id,
            now: *now,
            hub: info,
            transport: Transport::Tls,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            output_pending_bytes: 0,
            refused_logins: Vec::new(),
        };
        let mut output = Vec::new();
        call(wire, &mut output, &mut context);
        if wire.closing.is_none() {
            if wire.binding.awaits_home() {
                wire.binding.handle_home(&mut output, &mut context);
            }
            // What was said ahead is heard in the turn in which there is room for it.
            if wire.binding.wants_input() && !wire.to_hub.is_empty() {
                wire.hear(&mut output, &mut context);
            }
        }
        if wire.closing.is_none() {
            wire.binding.handle_turn_end(&mut output, &mut context);
            if wire.binding.is_finished() {
                wire.closing = Some(Closing::Orderly);
            }
        }
        if wire.closing.is_some() {
            wire.binding.handle_gone(&mut context);
        }
        let mut input = &output[..];
        while let Ok(Some(event)) = wire.client.handle(&mut wire.inbound, &mut input, &mut wire.to_hub, 0) {
            wire.seen.extend(match event {
                Event::ConnAck(answer) => Some(Seen::ConnAck(answer.code as u8, answer.session_present)),
                Event::SubAck(answer) => Some(Seen::SubAck(answer.id, answer.codes.to_vec())),
                Event::UnsubAck(id) => Some(Seen::UnsubAck(id)),
                Event::Acknowledged(id) => Some(Seen::Acknowledged(id.number())),
                Event::Publish(message) => Some(Seen::Message {
                    topic: message.topic.to_owned(),
                    payload: message.payload.to_vec(),
                    id: message.id,
                }),
                _ => None,
            });
        }
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

    fn turn(&mut self) -> bool {
        let moved = self.hear();
        self.shard.poll(self.now);
        self.answer() || moved
    }

    /// Everyone is told what the shard has to say; it does nothing more yet. Whether it had anything to say.
    pub fn answer(&mut self) -> bool {
        let mut moved = false;
        while let Some((connection, notice)) = self.shard.poll_notice() {
            moved = true;
            self.call(connection.slot as usize, |wire, output, hub| {
                if wire.closing.is_none() {
                    wire.binding.handle_notice(notice, output, hub);
                }
            });
        }
        while let Some((caller, reply)) = self.refused.pop_front().or_else(|| self.shard.poll_reply()) {
            moved = true;
            if caller.connection == BACK_END {
                self.answers.insert(caller.token, reply);
            } else {
                self.call(caller.connection.slot as usize, |wire, output, hub| {
                    if wire.closing.is_none() {
                        wire.binding.handle_reply(caller.token, reply, output, hub);
                    }
                });
            }
        }
        while let Some(job) = self.shard.poll_job() {
            self.shard.handle_job_done(job.run(), self.now);
        }
        while self.shard.poll_monitor().is_some() {}
        moved
    }

    /// The bindings take what their clients have said; the shard does nothing yet. Whether anything was said.
    pub fn hear(&mut self) -> bool {
        let mut moved = false;
        for index in 0..self.wires.len() {
            let wire = &mut self.wires[index];
            if wire.closing.is_none() && !wire.to_hub.is_empty() && wire.binding.wants_input() {
                moved = true;
                self.call(index, Wire::hear);
            }
        }
        moved
    }

    /// Let time pass, and everything take its way.
    pub fn advance(&mut self, ms: u64) {
        self.pass(ms);
        self.run();
    }

    /// Let time pass for the bindings; the shard does nothing yet.
    pub fn pass(&mut self, ms: u64) {
        self.now = Now { wall_ms: self.now.wall_ms + ms, mono_ms: self.now.mono_ms + ms };
        for index in 0..self.wires.len() {
            let wire = &self.wires[index];
            let is_due = wire.binding.next_timeout_ms().is_some_and(|at_ms| at_ms <= self.now.mono_ms);
            if wire.closing.is_none() && is_due {
                self.call(index, |wire, output, hub| wire.binding.handle_timeout(output, hub));
            }
        }
    }

    /// What the back end asks, and the answer.
    pub fn ask(&mut self, request: Request) -> Reply {
        let token = self.begin(request);
        self.run();
        self.answers.remove(&token).expect("an answer")
    }

    /// The back end asks something; the shard does nothing yet.
    pub fn begin(&mut self, request: Request) -> u64 {
        self.next_token += 1;
        let caller = Caller { connection: BACK_END, token: self.next_token };
        self.shard.handle_request(caller, request, self.now);
        self.next_token
    }

    /// Make a device with the keys of this number.
    pub fn create_device(&mut self, id: &str, number: u8) {
        let reply = self.ask(Request::CreateDevice(draft(id, number, DeviceStatus::Enabled)));
        assert!(matches!(reply, Reply::Device(_)), "{reply:?}");
    }

    /// Disable a device.
    pub fn disable_device(&mut self, id: &str, number: u8) {
        let draft = draft(id, number, DeviceStatus::Disabled);
        let reply = self.ask(Request::UpdateDevice { draft, if_match: IfMatch::Any });
        assert!(matches!(reply, Reply::Device(_)), "{reply:?}");
    }

    /// A device's own token.
    pub fn device_token(&self, id: &str, number: u8) -> String {
        let resource = format!("plant7.example/devices/{id}");
        sas::sign(&resource, &key(number), KeyForm::Decoded, self.now.wall_ms / 1000 + 3600, None)
    }

    /// A new connection that has said nothing.
    pub fn accept(&mut self) -> usize {
        let id = ConnectionId { core: CoreId(0), slot: self.wires.len() as u32, generation: 0 };
        let Self { shard, info, now, busy_count, refused_count, refused, kept_count, .. } = self;
        let mut way = Way { shard, now: *now, busy_count, refused_count, refused, kept_count };
        let context = Context {
            door: &mut way,
            connection: id,
            now: *now,
            hub: info,
            transport: Transport::Tls,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            output_pending_bytes: 0,
            refused_logins: Vec::new(),
        };
        let wire = Wire {
            id,
            binding: MqttBinding::new(&context),
            client: Connection::new(
                Role::Client,
                Arc::new(Config { in_flight_max: 1000, ..Config::default() }),
                0,
            ),
            inbound: Inbound::default(),
            to_hub: Vec::new(),
            seen: VecDeque::new(),
            closing: None,
        };
        self.wires.push(wire);
        self.wires.len() - 1
    }

    /// A new connection with this CONNECT; its number and the verdict, if there is one.
    pub fn try_connect(&mut self, connect: &Connect<'_>) -> (usize, Option<u8>) {
        let index = self.accept();
        let wire = &mut self.wires[index];
        wire.client.connect(connect, 0, &mut wire.to_hub);
        self.run();
        let verdict = self.wires[index].seen.pop_front();
        match verdict {
            Some(Seen::ConnAck(code, _)) => (index, Some(code)),
            None => (index, None),
            other => panic!("{other:?}"),
        }
    }

    /// A connection of a device that is let in.
    pub fn connect(&mut self, id: &str, number: u8) -> usize {
        let user_name = format!("plant7.example/{id}/?api-version=2021-04-12");
        let token = self.device_token(id, number);
        let connect = Connect {
            user_name: Some(&user_name),
            password: Some(token.as_bytes()),
            keep_alive_s: 60,
            ..Connect::new(id)
        };
        let (wire, verdict) = self.try_connect(&connect);
        assert_eq!(verdict, Some(0));
        wire
    }

    /// Publish, and let everything take its way.
    pub fn publish(&mut self, wire: usize, topic: &str, payload: &[u8], needs_ack: bool) {
        self.say(wire, topic, payload, needs_ack);
        self.run();
    }

    /// Publish.
    pub fn say(&mut self, wire: usize, topic: &str, payload: &[u8], needs_ack: bool) {
        let wire = &mut self.wires[wire];
        let draft = net_mqtt::Draft { topic, payload, needs_ack, retain: false };
        wire.client.publish(&draft, &mut wire.to_hub).unwrap();
    }

    /// Subscribe; the codes of the answer.
    pub fn subscribe(&mut self, wire: usize, filters: &[(&str, Qos)]) -> Vec<u8> {
        let end = &mut self.wires[wire];
        let id = end.client.subscribe(filters, &mut end.to_hub);
        self.run();
        match self.wires[wire].seen.pop_front() {
            Some(Seen::SubAck(answered, codes)) if answered == id => codes,
            other => panic!("{other:?}"),
        }
    }

    /// Everything stored.
    pub fn stored(&mut self) -> Vec<Stored> {
        let reply = self.ask(Request::OpenReader {
            partition: PartitionId(0),
            group: ConsumerGroupId::DEFAULT,
            start: Start::Earliest,
            epoch: None,
            name: None,
        });
        let Reply::ReaderOpened { reader, .. } = reply else { panic!("{reply:?}") };
        self.next_token += 1;
        let caller = Caller { connection: BACK_END, token: self.next_token };
        let read = Request::Read { reader, event_count_max: 10_000, bytes_max: 64 << 20 };
        self.shard.handle_request(caller, read, self.now);
        self.run();
        self.shard.handle_request(caller, Request::CancelRead { reader }, self.now);
        self.run();
        let reply = self.answers.remove(&caller.token).expect("an answer");
        self.shard.handle_request(caller, Request::CloseReader { reader }, self.now);
        let Reply::Events { batch, .. } = reply else { panic!("{reply:?}") };
        let texts = |(name, value): (net_amqp::Value<'_>, net_amqp::Value<'_>)| {
            (name.as_text().unwrap().to_owned(), value.as_text().unwrap().to_owned())
        };
        batch
            .records
            .iter()
            .map(|event| {
                let sections = Sections::parse(event.message).unwrap();
                let Body::Data(data) = sections.body else { panic!() };
                let own = sections
                    .application_properties
                    .map_or_else(Vec::new, |map| map.iter().map(|entry| texts(entry.unwrap())).collect());
                (event.device.to_owned(), data.single().unwrap().to_vec(), own)
            })
            .collect()
    }

    /// What a device saw since the last call.
    pub fn seen(&mut self, wire: usize) -> Vec<Seen> {
        self.wires[wire].seen.drain(..).collect()
    }

    /// Whether a connection is over.
    pub fn is_closed(&self, wire: usize) -> bool {
        self.wires[wire].closing.is_some()
    }

    /// The hub stops.
    pub fn stop(&mut self, wire: usize) {
        self.call(wire, |wire, output, hub| wire.binding.begin_stop(output, hub));
        self.run();
    }

    /// The peer of a connection is gone.
    pub fn hang_up(&mut self, wire: usize) {
        self.call(wire, |wire, _, _| wire.closing = Some(Closing::Orderly));
        let id = self.wires[wire].id;
        self.shard.handle_connection_closed(id, self.now);
        self.run();
    }
}
