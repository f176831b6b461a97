//! A connection of each protocol over a real shard: CBS, addresses, topics and property bags, JSON bodies, queries, headers.
//!
//! Whatever a client says, and in whatever pieces: the connection comes to rest after each of them, all that the hub says is
//! well-formed (frames, packets, responses with JSON in them), what it stored is too, a hub that stops or a client that
//! is silent ends the connection, and a hub that is started again knows what it knew.

use std::cell::OnceCell;
use std::net::SocketAddr;

use engine::request::{Appended, ConnectionId, CoreId, PartitionId, Reply, Request, SecretText, Start};
use engine::shard::ShardDoor;
use net::binding::amqp::AmqpBinding;
use net::binding::http::HttpBinding;
use net::binding::mqtt::MqttBinding;
use net::binding::stomp::StompBinding;
use net::binding::{Context, HubInfo, OUTPUT_PENDING_BYTES_MAX, Transport};
use net::certificate::{Certificates, Name};
use net::stack::{OpenBinding, Port, Stack, Turn};
use net::tls::Acceptor;
use net_amqp::Sections;
use net_amqp::value::Decoder;
use registry::ConsumerGroupId;
use segment_log::storage::sim::SimDisk;

use crate::input::{Stream, assert_same};
use crate::sas::START_S;
use crate::shard::{Told, World, config};
use crate::wire::{check_amqp, check_mqtt, check_stomp, read_responses};

const CONNECTION: ConnectionId = ConnectionId { core: CoreId(0), slot: 1, generation: 0 };

/// AMQP: SASL, CBS, telemetry, commands, readers, management.
pub fn amqp(input: &[u8]) {
    if let Some(said) = converse(input, AMQP) {
        check_amqp(&said);
    }
}

/// HTTPS: the service API, queries, devices, and the two others in WebSockets.
pub fn http(input: &[u8]) {
    if let Some(said) = converse(input, HTTP) {
        read_responses(&said);
    }
}

/// MQTT: topics, property bags, wills, subscriptions.
pub fn mqtt(input: &[u8]) {
    if let Some(said) = converse(input, MQTT) {
        check_mqtt(&said);
    }
}

/// STOMP: headers, receipts, settlements, heart-beats.
pub fn stomp(input: &[u8]) {
    if let Some(said) = converse(input, STOMP) {
        check_stomp(&said);
    }
}

/// Opens an AMQP connection.
pub const AMQP: OpenBinding = |_, hub| Box::new(AmqpBinding::new(hub));
/// Opens an HTTPS connection.
pub const HTTP: OpenBinding = |_, hub| Box::new(HttpBinding::new(hub));
/// Opens an MQTT connection.
pub const MQTT: OpenBinding = |_, hub| Box::new(MqttBinding::new(hub));
/// Opens a STOMP connection.
const STOMP: OpenBinding = |_, hub| Box::new(StompBinding::new(hub));

/// What a hub says to a client that says this, cut as the input says.
fn converse(input: &[u8], binding: OpenBinding) -> Option<Vec<u8>> {
    let stream = Stream::of(input)?;
    Some(answers(stream.pieces(), stream.whims().once_in(2), binding))
}

/// What a hub says to a client that says each of this once the hub has come to rest. `stops`: then the hub stops, else the client
/// is silent.
pub fn answers<'a>(said: impl IntoIterator<Item = &'a [u8]>, stops: bool, binding: OpenBinding) -> Vec<u8> {
    thread_local! {
        static FIXTURE: OnceCell<Fixture> = const { OnceCell::new() };
    }
    let mut hub = FIXTURE.with(|fixture| Hub::new(fixture.get_or_init(Fixture::new), binding));
    for piece in said {
        hub.hear(piece);
    }
    hub.finish(stops)
}

/// What never changes between runs: the disk of a hub with devices, and what a stack is opened with.
struct Fixture {
    disk: SimDisk,
    acceptor: Acceptor,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory for certificates");
        let certificates = Certificates::new(directory.path());
        let name = Name::parse("localhost").expect("a name");
        certificates.prepare(&[name], START_S).expect("certificates are made");
        let (chain, key) = certificates.load().expect("certificates were made");
        let acceptor = Acceptor::new(&chain, &key).expect("certificates of ours");
        Self { disk: World::furnished(), acceptor }
    }
}

/// One connection in the clear over a shard, and what it was told.
struct Hub {
    world: World,
    info: HubInfo,
    stack: Stack,
    /// What the client has said and was not read.
    unread: Vec<u8>,
    /// What was said to the client.
    said: Vec<u8>,
}

impl Hub {
    /// A connection that has said nothing.
    fn new(fixture: &Fixture, binding: OpenBinding) -> Self {
        let world = World::open(fixture.disk.after_kill(1), config(1 << 20));
        assert!(world.report.fault.is_none());
        let info = HubInfo {
            administration_token: SecretText::new("administrator"),
            ..HubInfo::new("plant7", "plant7.example", 1)
        };
        let stack = Stack::open(Port::PlainAmqp, &fixture.acceptor, binding, world.now.mono_ms)
            .expect("in the clear nothing can fail");
        Self { world, info, stack, unread: Vec::new(), said: Vec::new() }
    }

    /// One turn of the connection, as the pump does it.
    fn act(&mut self, act: impl FnOnce(&mut Stack, &mut Turn<'_, '_>)) {
        let now = self.world.now;
        let mut context = Context {
            door: &mut ShardDoor::new(&mut self.world.shard, now),
            connection: CONNECTION,
            now,
            hub: &self.info,
            transport: Transport::Tls,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            output_pending_bytes: 0,
            refused_logins: Vec::new(),
        };
        let before = self.said.len();
        let mut turn = Turn { plaintext: &mut Vec::new(), wire: &mut self.said, hub: &mut context };
        act(&mut self.stack, &mut turn);
        self.stack.end_turn(&mut turn);
        if turn.wire.len() - before >= OUTPUT_PENDING_BYTES_MAX {
            self.stack.handle_output_drained(&mut turn);
            self.stack.end_turn(&mut turn);
        }
    }

    /// The client says this; everything takes its way until nothing moves.
    fn hear(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        for _ in 0..10_000 {
            if !self.read() && !self.turn() {
                return;
            }
        }
        panic!("the connection does not come to rest");
    }

    fn read(&mut self) -> bool {
        let is_read = !self.unread.is_empty() && self.stack.wants_input();
        if is_read {
            let mut bytes = std::mem::take(&mut self.unread);
            self.act(|stack, turn| stack.handle_input(&mut bytes, turn));
        }
        is_read
    }

    fn turn(&mut self) -> bool {
        let mut told = Vec::new();
        let moved = self.world.turn(|one| told.push(one));
        if !told.is_empty() {
            self.act(|stack, turn| {
                for one in told {
                    match one {
                        Told::Notice(notice) => stack.handle_notice(notice, turn),
                        Told::Reply(token, Reply::Appended { first, event_count }) => {
                            stack.handle_appended(&[Appended { token, first, event_count }], turn);
                        }
                        Told::Reply(token, reply) => stack.handle_reply(token, reply, turn),
                    }
                }
            });
        }
        let awaits_home = self.stack.awaits_home();
        if awaits_home {
            self.act(Stack::handle_home);
        }
        moved || awaits_home
    }

    /// The client says nothing more, and the hub stops or goes on: the connection ends. What was stored is sound, and known again
    /// by a hub that starts. Returns all that was said.
    fn finish(mut self, stops: bool) -> Vec<u8> {
        if stops {
            self.act(Stack::begin_stop);
        }
        self.hear(&[]);
        for round in 0.. {
            if self.stack.closing().is_some() {
                break;
            }
            assert!(round < 1000, "a silent connection never ends");
            let at_ms = self.stack.next_timeout_ms().expect("a connection that is not over ends in time");
            let ms = at_ms.saturating_sub(self.world.now.mono_ms);
            self.world.now.mono_ms += ms;
            self.world.now.wall_ms += ms;
            self.act(Stack::handle_timeout);
            self.hear(&[]);
        }
        self.act(Stack::handle_gone);
        let now = self.world.now;
        self.world.shard.handle_connection_closed(CONNECTION, now);
        self.world.settle();
        check_stored(&mut self.world);
        let known = self.world.known();
        let mut again = self.world.reopen(config(1 << 20));
        assert!(again.report.fault.is_none(), "what was written is read again: {:?}", again.report.fault);
        assert_same(&known, &again.known(), "what is known before and after a restart");
        self.said
    }
}

/// What the hub took as an event is a message that a strict reader takes.
fn check_stored(world: &mut World) {
    let request = Request::OpenReader {
        partition: PartitionId(0),
        group: ConsumerGroupId::DEFAULT,
        start: Start::Earliest,
        epoch: None,
        name: None,
    };
    let Some(Reply::ReaderOpened { reader, .. }) = world.ask(request) else { panic!("a reader") };
    let read = Request::Read { reader, event_count_max: 1000, bytes_max: 1 << 20 };
    if let Some(Reply::Events { batch, .. }) = world.ask(read) {
        for event in batch.records.iter() {
            Sections::parse(event.message).expect("a message");
            let mut sections = Decoder::new(event.message);
            while !sections.is_empty() {
                sections.descriptor().expect("a section of an event");
                sections.value().and_then(|value| value.check()).expect("its value");
            }
        }
    }
    world.ask(Request::CloseReader { reader });
}
