//! Two machines face to face in memory, with a virtual clock and seeded cuts between their bytes.

use std::sync::Arc;

use net_amqp::{
    AttachReply, AttachRequest, Closed, Config, Connection, DeliveryState, Error, Event, Inbound, LinkId,
    Role, SendDelivery, SendRefused, SessionId,
};

/// An event without its borrows. Attaches are reduced to what tests ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    SaslInit { mechanism: String, response: Vec<u8> },
    Opened { container_id: String },
    Begun(SessionId),
    Attached { link: LinkId, name: String, source: Option<String>, target: Option<String>, refused: bool },
    Flow { link: LinkId, credit: u32, drain: bool },
    Window(SessionId),
    Transfer { link: LinkId, id: u32, tag: Vec<u8>, format: u32, settled: bool, payload: Vec<u8> },
    Aborted(LinkId),
    Drained(LinkId),
    Settled { link: LinkId, first: u32, last: u32, state: Option<DeliveryState<'static>>, settled: bool },
    Detached { link: LinkId, closed: bool, error: Option<Error<'static>> },
    Ended { session: SessionId, error: Option<Error<'static>> },
    Closed { error: Option<Error<'static>> },
}

/// How bytes are cut on their way.
#[derive(Clone, Copy, Debug)]
pub enum Cuts {
    None,
    EveryByte,
    /// Pieces of random length, by seed.
    Random(u64),
}

/// A small generator; the same seed gives the same numbers everywhere.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// One end: a machine, what it wrote and what it reported.
pub struct End {
    pub connection: Connection,
    pub inbound: Inbound,
    pub output: Vec<u8>,
    pub seen: Vec<Seen>,
    pub closed: Option<Closed>,
}

impl End {
    pub fn new(role: Role, config: Config) -> End {
        End {
            connection: Connection::new(role, Arc::new(config), 0),
            inbound: Inbound::default(),
            output: Vec::new(),
            seen: Vec::new(),
            closed: None,
        }
    }

    /// Takes in bytes and notes what they come to.
    pub fn take(&mut self, mut input: &[u8], now_ms: u64) {
        loop {
            match self.connection.handle(&mut self.inbound, &mut input, &mut self.output, now_ms) {
                Ok(Some(event)) => self.seen.extend(seen(event)),
                Ok(None) => break,
                Err(closed) => {
                    assert!(self.closed.is_none(), "a connection ends once");
                    self.closed = Some(closed);
                }
            }
        }
        assert!(input.is_empty(), "without an error all input is taken");
    }

    /// The events since the last call.
    pub fn events(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// The one event since the last call.
    #[track_caller]
    pub fn event(&mut self) -> Seen {
        let mut events = self.events();
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }

    #[track_caller]
    pub fn attached(&mut self) -> LinkId {
        match self.event() {
            Seen::Attached { link, .. } => link,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn begun(&mut self) -> SessionId {
        match self.event() {
            Seen::Begun(session) => session,
            other => panic!("{other:?}"),
        }
    }

    pub fn send(&mut self, link: LinkId, payload: &[u8], settled: bool) -> Result<u32, SendRefused> {
        let delivery = SendDelivery { tag: b"tag", message_format: 0, settled, payload: &[payload] };
        self.connection.send(link, &delivery, &mut self.output)
    }

    pub fn grant(&mut self, link: LinkId, credit: u32) {
        assert!(self.connection.grant(link, credit, &mut self.output));
    }

    pub fn accept(&mut self, link: LinkId) {
        assert!(self.connection.accept_link(link, &AttachReply::default(), &mut self.output));
    }

    pub fn settle(&mut self, link: LinkId, first: u32, last: u32, state: &DeliveryState<'_>) -> bool {
        self.connection.settle(link, first, last, state, true, &mut self.output)
    }
}

/// A hub and a client.
pub struct Pair {
    pub hub: End,
    pub client: End,
    pub now_ms: u64,
    cuts: Cuts,
    random: Random,
}

impl Pair {
    pub fn new(hub: Config, client: Config, cuts: Cuts) -> Pair {
        let seed = if let Cuts::Random(seed) = cuts { seed } else { 0 };
        let mut pair = Pair {
            hub: End::new(Role::Server, hub),
            client: End::new(Role::Client, client),
            now_ms: 0,
            cuts,
            random: Random(seed),
        };
        pair.client.connection.start(&mut pair.client.output);
        pair
    }

    /// Both open, without SASL.
    pub fn open(cuts: Cuts) -> Pair {
        Pair::open_with(Config::default(), Config::default(), cuts)
    }

    pub fn open_with(hub: Config, client: Config, cuts: Cuts) -> Pair {
        let mut pair = Pair::new(hub, client, cuts);
        pair.run();
        assert!(pair.hub.connection.is_open() && pair.client.connection.is_open());
        pair.hub.events();
        pair.client.events();
        pair
    }

    /// Carries bytes to and fro until nobody has anything to say.
    pub fn run(&mut self) {
        while !self.hub.output.is_empty() || !self.client.output.is_empty() {
            let bytes = std::mem::take(&mut self.client.output);
            deliver(&mut self.hub, &bytes, self.cuts, &mut self.random, self.now_ms);
            let bytes = std::mem::take(&mut self.hub.output);
            deliver(&mut self.client, &bytes, self.cuts, &mut self.random, self.now_ms);
        }
    }

    /// A session: the client's id and the hub's.
    pub fn begin(&mut self) -> (SessionId, SessionId) {
        let session = self.client.connection.begin(&mut self.client.output).expect("room for a session");
        self.run();
        assert_eq!(self.client.begun(), session);
        (session, self.hub.begun())
    }

    /// A link that the hub accepts: the client's id and the hub's.
    pub fn attach(&mut self, session: SessionId, request: &AttachRequest<'_>) -> (LinkId, LinkId) {
        let client = self
            .client
            .connection
            .attach(session, request, &mut self.client.output)
            .expect("room for a link");
        self.run();
        let hub = self.hub.attached();
        self.hub.accept(hub);
        self.run();
        assert_eq!(self.client.attached(), client);
        (client, hub)
    }

    /// A link on which the client sends.
    pub fn telemetry(&mut self, session: SessionId, name: &str, credit: u32) -> (LinkId, LinkId) {
        let (client, hub) = self.attach(session, &AttachRequest::sender(name, "/devices/d/messages/events"));
        self.hub.grant(hub, credit);
        self.run();
        assert_eq!(self.client.event(), Seen::Flow { link: client, credit, drain: false });
        (client, hub)
    }

    /// A link on which the hub sends.
    pub fn reader(&mut self, session: SessionId, name: &str, credit: u32) -> (LinkId, LinkId) {
        let (client, hub) = self.attach(session, &AttachRequest::receiver(name, "hub/Partitions/0"));
        self.client.grant(client, credit);
        self.run();
        assert_eq!(self.hub.event(), Seen::Flow { link: hub, credit, drain: false });
        (client, hub)
    }
}

fn deliver(to: &mut End, mut bytes: &[u8], cuts: Cuts, random: &mut Random, now_ms: u64) {
    while !bytes.is_empty() {
        let length = match cuts {
            Cuts::None => bytes.len(),
            Cuts::EveryByte => 1,
            Cuts::Random(_) => {
                let scale = [3, 40, 700, 9000][random.below(4)];
                (1 + random.below(scale)).min(bytes.len())
            }
        };
        let (piece, rest) = bytes.split_at(length);
        to.take(piece, now_ms);
        bytes = rest;
    }
}

fn seen(event: Event<'_>) -> Option<Seen> {
    Some(match event {
        Event::Handled => return None,
        Event::SaslInit { mechanism, response, .. } => {
            Seen::SaslInit { mechanism: mechanism.into(), response: response.into() }
        }
        Event::Opened(open) => Seen::Opened { container_id: open.container_id.into() },
        Event::Begun { session } => Seen::Begun(session),
        Event::Attached { link, attach, .. } => Seen::Attached {
            link,
            name: attach.name.into(),
            refused: attach.source.is_none() && attach.target.is_none(),
            source: attach.source.and_then(|source| source.address.map(Into::into)),
            target: attach.target.and_then(|target| target.address.map(Into::into)),
        },
        Event::Flow { link, credit, drain } => Seen::Flow { link, credit, drain },
        Event::Window { session } => Seen::Window(session),
        Event::Transfer { link, delivery_id, delivery_tag, message_format, settled, payload } => {
            Seen::Transfer {
                link,
                id: delivery_id,
                tag: delivery_tag.into(),
                format: message_format,
                settled,
                payload: payload.into(),
            }
        }
        Event::Aborted { link } => Seen::Aborted(link),
        Event::Drained { link } => Seen::Drained(link),
        Event::Settled { link, first, last, state, settled } => {
            Seen::Settled { link, first, last, state: state.map(DeliveryState::into_owned), settled }
        }
        Event::Detached { link, closed, error } => {
            Seen::Detached { link, closed, error: error.map(Error::into_owned) }
        }
        Event::Ended { session, error } => Seen::Ended { session, error: error.map(Error::into_owned) },
        Event::Closed { error } => Seen::Closed { error: error.map(Error::into_owned) },
    })
}
