//! One connection in memory: the binding on one side, a client machine on the other.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use engine::door::Door;
use engine::request::{Appended, ConnectionId, CoreId, Notice, Reply, SecretText};
use net_amqp::value::{Map, Value};
use net_amqp::{
    AttachRequest, Config, Connection, DeliveryState, Event, Inbound, LinkId, MessageBuilder, Properties,
    Role, SaslRole, Sections, SendDelivery, SessionId,
};
use segment_log::Now;

use crate::binding::amqp::AmqpBinding;
use crate::binding::{Binding, Closing, Context, HubInfo, Transport};

/// The hub of all tests.
pub fn hub_info(partition_count: u16) -> HubInfo {
    HubInfo {
        created_ms: 1_700_000_000_000,
        administration_token: SecretText::new("administrator"),
        ..HubInfo::new("plant7", "plant7.example", partition_count)
    }
}

/// What the client saw.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Opened,
    Attached { link: LinkId, refused: bool, max_message_bytes: Option<u64>, offered: Vec<String> },
    Detached { link: LinkId, condition: String, text: String },
    Message { link: LinkId, delivery_id: u32, tag: Vec<u8>, settled: bool, payload: Vec<u8> },
    Settled { link: LinkId, first: u32, last: u32, state: String },
    Credit { link: LinkId },
    Closed { condition: String },
}

/// One connection.
pub struct Wire {
    pub id: ConnectionId,
    pub binding: AmqpBinding,
    pub client: Connection,
    inbound: Inbound,
    to_hub: Vec<u8>,
    /// Everything that the client has said.
    pub said: Vec<u8>,
    /// What the binding has said and the client has not read, while it does not read.
    unread: Vec<u8>,
    /// Whether the client reads.
    pub reads: bool,
    pub seen: VecDeque<Seen>,
    /// Every `accepted` that was handed to the wire, by link and delivery.
    accepted: Vec<(LinkId, u32)>,
    pub closing: Option<Closing>,
}

/// The world during one call.
pub struct World<'a> {
    pub door: &'a mut dyn Door,
    pub hub: &'a HubInfo,
    pub now: Now,
}

impl Wire {
    /// A new connection of a client with this SASL role.
    pub fn new(slot: u32, sasl: SaslRole, world: &mut World<'_>) -> Self {
        let id = ConnectionId { core: CoreId(0), slot, generation: 0 };
        let config = Config { container_id: "client".to_owned(), sasl, ..Config::default() };
        let mut client = Connection::new(Role::Client, Arc::new(config), world.now.mono_ms);
        let mut to_hub = Vec::new();
        client.start(&mut to_hub);
        Self {
            id,
            binding: AmqpBinding::new(&context(world, id, 0)),
            client,
            inbound: Inbound::default(),
            to_hub,
            said: Vec::new(),
            unread: Vec::new(),
            reads: true,
            seen: VecDeque::new(),
            accepted: Vec::new(),
            closing: None,
        }
    }

    /// One turn of both sides. Whether anything moved.
    pub fn turn(&mut self, world: &mut World<'_>) -> bool {
        let (pending, now) = (self.unread.len(), world.now);
        self.call(world, |wire, output, context| {
            let _ = wire.client.handle_timeout(now.mono_ms, &mut wire.to_hub);
            if wire.binding.next_timeout_ms().is_some_and(|at_ms| at_ms <= now.mono_ms) {
                wire.binding.handle_timeout(output, context);
            }
            let bytes = std::mem::take(&mut wire.to_hub);
            let mut rest = &bytes[..];
            if !rest.is_empty() && wire.binding.wants_input() {
                if let Err(closing) = wire.binding.handle_bytes(&mut rest, output, context) {
                    wire.closing.get_or_insert(closing);
                }
                assert!(
                    rest.is_empty() || !wire.binding.wants_input(),
                    "input was left though it was wanted"
                );
            }
            wire.said.extend_from_slice(&bytes[..bytes.len() - rest.len()]);
            wire.to_hub = rest.to_vec();
            rest.len() < bytes.len()
        }) | (self.unread.len() < pending)
    }

    /// Say these bytes in place of the client's own.
    pub fn say(&mut self, bytes: &[u8]) {
        self.to_hub = bytes.to_vec();
    }

    /// Hand a reply over.
    pub fn reply(&mut self, world: &mut World<'_>, token: u64, reply: Reply) {
        self.call(world, |wire, output, context| {
            wire.binding.handle_reply(token, reply, output, context);
            true
        });
    }

    /// Hand over several replies in one turn.
    pub fn replies(&mut self, world: &mut World<'_>, replies: Vec<(u64, Reply)>) {
        self.call(world, |wire, output, context| {
            let mut durable = Vec::new();
            for (token, reply) in replies {
                match reply {
                    Reply::Appended { first, event_count } => {
                        durable.push(Appended { token, first, event_count });
                    }
                    reply => wire.binding.handle_reply(token, reply, output, context),
                }
            }
            wire.binding.handle_appended(&durable, output, context);
            true
        });
    }

    /// Hand a notice over.
    pub fn notice(&mut self, world: &mut World<'_>, notice: Notice) {
        self.call(world, |wire, output, context| {
            wire.binding.handle_notice(notice, output, context);
            true
        });
    }

    /// Stop the hub.
    pub fn stop(&mut self, world: &mut World<'_>) {
        self.call(world, |wire, output, context| {
            wire.binding.begin_stop(output, context);
            true
        });
    }

    /// The deliveries of a link that were accepted.
    pub fn accepted(&self, link: LinkId) -> Vec<u32> {
        self.accepted.iter().filter(|(accepted, _)| *accepted == link).map(|(_, id)| *id).collect()
    }

    /// Bytes that the binding has said and the client has not read.
    pub fn unread_bytes(&self) -> usize {
        self.unread.len()
    }

    fn call(
        &mut self,
        world: &mut World<'_>,
        action: impl FnOnce(&mut Self, &mut Vec<u8>, &mut Context<'_>) -> bool,
    ) -> bool {
        if self.closing.is_some() {
            return false;
        }
        let mut output = Vec::new();
        let mut context = context(world, self.id, self.unread.len());
        let moved = action(self, &mut output, &mut context);
        self.binding.handle_turn_end(&mut output, &mut context);
        if self.binding.is_finished() {
            self.closing.get_or_insert(Closing::Orderly);
        }
        self.unread.append(&mut output);
        if self.reads && !self.unread.is_empty() {
            self.read(world.now.mono_ms);
            if self.closing.is_none() {
                let mut output = Vec::new();
                self.binding.handle_output_drained(&mut output, &mut self::context(world, self.id, 0));
                self.unread = output;
            }
        }
        let has_said = !self.to_hub.is_empty() && self.binding.wants_input() && self.closing.is_none();
        moved || has_said || (self.reads && !self.unread.is_empty())
    }

    fn read(&mut self, now_ms: u64) {
        let bytes = std::mem::take(&mut self.unread);
        let mut input = &bytes[..];
        loop {
            match self.client.handle(&mut self.inbound, &mut input, &mut self.to_hub, now_ms) {
                Ok(Some(event)) => {
                    if let Event::Settled {
                        link, first, last, state: Some(DeliveryState::Accepted), ..
                    } = event
                    {
                        self.accepted.extend((first..=last).map(|id| (link, id)));
                    }
                    self.seen.extend(seen(&event));
                }
                Ok(None) => break,
                Err(closed) => {
                    self.seen.push_back(Seen::Closed { condition: closed.error.condition.into_owned() });
                    break;
                }
            }
        }
    }

    /// Take the next thing seen that `matches`; what came before it is dropped.
    pub fn take<T>(&mut self, matches: impl Fn(&Seen) -> Option<T>) -> Option<T> {
        while let Some(seen) = self.seen.pop_front() {
            if let Some(found) = matches(&seen) {
                return Some(found);
            }
        }
        None
    }

    /// Take the next thing seen that `matches`; what came before it stays.
    pub fn pick<T>(&mut self, matches: impl Fn(&Seen) -> Option<T>) -> Option<T> {
        let index = self.seen.iter().position(|seen| matches(seen).is_some())?;
        self.seen.remove(index).and_then(|seen| matches(&seen))
    }

    /// Begin a session.
    pub fn begin(&mut self) -> SessionId {
        self.client.begin(&mut self.to_hub).expect("an open connection has room for a session")
    }

    /// Attach a link.
    pub fn attach(&mut self, session: SessionId, request: &AttachRequest<'_>) -> LinkId {
        self.client.attach(session, request, &mut self.to_hub).expect("a begun session has room for a link")
    }

    /// Grant credit on a link on which the client receives.
    pub fn grant(&mut self, link: LinkId, credit: u32) {
        assert!(self.client.grant(link, credit, &mut self.to_hub));
    }

    /// Grant credit that is to be used up or given back.
    pub fn drain(&mut self, link: LinkId, credit: u32) {
        assert!(self.client.drain(link, credit, &mut self.to_hub));
    }

    /// Send a message; its delivery id.
    pub fn send(&mut self, link: LinkId, message_format: u32, settled: bool, payload: &[u8]) -> u32 {
        self.try_send(link, message_format, settled, payload).expect("the link has credit")
    }

    /// Send a message if there is credit.
    pub fn try_send(
        &mut self,
        link: LinkId,
        message_format: u32,
        settled: bool,
        payload: &[u8],
    ) -> Option<u32> {
        let payload: [&[u8]; 1] = [payload];
        let delivery = SendDelivery { tag: &[7], message_format, settled, payload: &payload };
        self.client.send(link, &delivery, &mut self.to_hub).ok()
    }

    /// Settle deliveries that were received.
    pub fn settle(&mut self, link: LinkId, first: u32, last: u32, state: &DeliveryState<'_>, settled: bool) {
        assert!(self.client.settle(link, first, last, state, settled, &mut self.to_hub));
    }

    /// End a session.
    pub fn end(&mut self, session: SessionId) {
        assert!(self.client.end(session, None, &mut self.to_hub));
    }

    /// Detach a link.
    pub fn detach(&mut self, link: LinkId) {
        assert!(self.client.detach(link, None, &mut self.to_hub));
    }
}

fn context<'w>(
    world: &'w mut World<'_>,
    connection: ConnectionId,
    output_pending_bytes: usize,
) -> Context<'w> {
    Context {
        door: world.door,
        connection,
        now: world.now,
        hub: world.hub,
        transport: Transport::Tls,
        peer: SocketAddr::from(([127, 0, 0, 1], 50_000)),
        output_pending_bytes,
        refused_logins: Vec::new(),
    }
}

fn seen(event: &Event<'_>) -> Option<Seen> {
    let condition = |error: &Option<net_amqp::Error<'_>>| {
        error.as_ref().map_or(String::new(), |error| error.condition.to_string())
    };
    let text = |error: &Option<net_amqp::Error<'_>>| {
        error.as_ref().and_then(|error| error.description.as_deref()).unwrap_or_default().to_owned()
    };
    Some(match event {
        Event::Opened(_) => Seen::Opened,
        Event::Attached { link, attach, .. } => Seen::Attached {
            link: *link,
            refused: attach.source.is_none() && attach.target.is_none(),
            max_message_bytes: attach.max_message_bytes,
            offered: attach.offered_capabilities.iter().map(str::to_owned).collect(),
        },
        Event::Detached { link, error, .. } => {
            Seen::Detached { link: *link, condition: condition(error), text: text(error) }
        }
        Event::Transfer { link, delivery_id, delivery_tag, settled, payload, .. } => Seen::Message {
            link: *link,
            delivery_id: *delivery_id,
            tag: delivery_tag.to_vec(),
            settled: *settled,
            payload: payload.to_vec(),
        },
        Event::Settled { link, first, last, state, settled } => {
            assert!(*settled, "what the hub settles is settled");
            let state = match state {
                Some(DeliveryState::Accepted) => "accepted".to_owned(),
                Some(DeliveryState::Rejected(error)) => condition(error),
                other => format!("{other:?}"),
            };
            Seen::Settled { link: *link, first: *first, last: *last, state }
        }
        Event::Flow { link, .. } => Seen::Credit { link: *link },
        Event::Closed { error } => Seen::Closed { condition: condition(error) },
        _ => return None,
    })
}

/// A put-token request.
pub fn put_token(message_id: Value<'_>, token: &str) -> Vec<u8> {
    MessageBuilder::default()
        .properties(Properties { message_id: Some(message_id), ..Properties::default() })
        .application_property("operation", Value::String("put-token"))
        .application_property("type", Value::String("servicebus.windows.net:sastoken"))
        .application_property("name", Value::String("whatever"))
        .value(Value::String(token))
        .encode()
}

/// A device's message.
pub fn telemetry(body: &[u8]) -> Vec<u8> {
    MessageBuilder::default().application_property("kind", Value::String("t")).data(body).encode()
}

/// The status of a reply to a request.
pub fn status_of(payload: &[u8]) -> (i32, String) {
    let sections = Sections::parse(payload).unwrap();
    let properties = sections.application_properties.unwrap();
    let Some(Value::Int(code)) = properties.find("status-code") else { panic!("an int") };
    let Some(Value::String(text)) = properties.find("status-description") else { panic!("a string") };
    (code, text.to_owned())
}

/// A link property map.
pub fn properties<'a>(bytes: &'a mut Vec<u8>, entries: &[(&str, Value<'_>)]) -> Map<'a> {
    use net_amqp::value::encode;
    let map = encode::begin_map(bytes);
    for (name, value) in entries {
        encode::symbol(bytes, name);
        value.encode(bytes);
    }
    map.end(bytes, 2 * entries.len() as u32);
    Map::from_encoded(bytes).unwrap()
}

/// Some link's id.
pub fn any_link() -> LinkId {
    let hub = hub_info(1);
    let mut door = super::script::Script::default();
    let mut world = World { door: &mut door, hub: &hub, now: Now { wall_ms: 0, mono_ms: 0 } };
    let mut wire = Wire::new(0, SaslRole::Absent, &mut world);
    while wire.turn(&mut world) {}
    let session = wire.begin();
    while wire.turn(&mut world) {}
    wire.attach(session, &AttachRequest::sender("any", "any"))
}
