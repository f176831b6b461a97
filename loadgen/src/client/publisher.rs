//! What sends events over one connection, whatever the protocol; and how it does so over AMQP.

use std::time::Instant;

use net_amqp::message::Header;
use net_amqp::{AttachRequest, DeliveryState, LinkId, MessageBuilder, SendDelivery, SendRefused, Value};

use crate::client::amqp::{Amqp, Happened, attach, reason};
use crate::ledger::Mark;

/// Message format of a batch: each Data section is a message of its own.
const BATCH_FORMAT: u32 = 0x8001_3700;

/// Events that travel as one message and are acknowledged as one.
#[derive(Clone, Copy, Debug)]
pub struct Post<'a> {
    /// The first event's name; the others follow.
    pub mark: Mark,
    /// How many, at least 1.
    pub count: u32,
    /// What stands behind the mark in each body.
    pub filler: &'a [u8],
    /// When it was to be sent.
    pub intended: Instant,
}

impl Post<'_> {
    /// The names of its events.
    pub fn marks(&self) -> impl Iterator<Item = Mark> + use<> {
        let Mark { run, device, number } = self.mark;
        (number..number + u64::from(self.count)).map(move |number| Mark { run, device, number })
    }
}

/// Whether a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It did.
    Yes,
    /// Not for this device; another's might.
    OthersMay,
    /// Nobody's for now.
    No,
}

/// The server's word about the messages sent as number `first` to `last` on this connection, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The first one.
    pub first: u32,
    /// The last one.
    pub last: u32,
}

impl Outcome {
    /// What an AMQP peer says of deliveries, the first of which had the id `base`.
    pub fn of(
        first: u32,
        last: u32,
        state: Option<DeliveryState<'_>>,
        base: Option<u32>,
    ) -> Result<Self, String> {
        match (state, base) {
            (Some(DeliveryState::Accepted), Some(base)) => {
                Ok(Self { first: first.wrapping_sub(base), last: last.wrapping_sub(base) })
            }
            (Some(DeliveryState::Rejected(error)), _) => {
                Err(format!("a message was rejected: {}", reason(error.as_ref())))
            }
            (state, _) => Err(format!("a message was not accepted: {state:?}")),
        }
    }
}

/// Sends the events of some devices over one connection.
pub trait Publisher {
    /// The transport stands.
    fn begin(&mut self, now: Instant, output: &mut Vec<u8>);

    /// Bytes from the server; `on` hears what it took. What it refuses is an error.
    fn handle(
        &mut self,
        input: &[u8],
        now: Instant,
        output: &mut Vec<u8>,
        on: &mut dyn FnMut(Outcome) -> Result<(), String>,
    ) -> Result<(), String>;

    /// Go on with whatever comes before the first event.
    fn fill(&mut self, _output: &mut Vec<u8>) {}

    /// The protocol's own deadlines.
    fn tick(&mut self, now: Instant, output: &mut Vec<u8>) -> Result<(), String>;

    /// Whether events can be sent.
    fn is_ready(&self) -> bool;

    /// Send for the device with this place on the connection.
    fn send(&mut self, place: usize, post: &Post<'_>, output: &mut Vec<u8>) -> Result<Sent, String>;

    /// Whether something else than the connection keeps it from sending, so that it is to be asked again soon.
    fn is_blocked(&self) -> bool {
        false
    }

    /// Say goodbye.
    fn close(&mut self, output: &mut Vec<u8>);
}

/// Sends over AMQP: a link for each address, which several devices may share.
#[derive(Debug)]
pub struct AmqpPublisher {
    amqp: Amqp,
    addresses: Vec<String>,
    links: Vec<LinkId>,
    attached_count: usize,
    /// What stands before each body.
    head: Vec<u8>,
    is_batch: bool,
    /// Delivery id of the first message.
    first_id: Option<u32>,
    sent_count: u32,
}

impl AmqpPublisher {
    /// To these addresses: one for each device, or one for all of them. `durable` marks each message as one to be kept,
    /// which brokers need.
    pub fn new(amqp: Amqp, addresses: Vec<String>, body_bytes: usize, batch: u32, durable: bool) -> Self {
        // The head comes from the builder once: what is behind it has the same length for every event.
        let body = vec![0; body_bytes];
        let mut builder = MessageBuilder::default();
        if durable {
            builder = builder.header(Header { durable: true, ..Header::default() });
        }
        let message = builder
            .application_property("a", Value::String("1"))
            .application_property("b", Value::String("22"))
            .application_property("c", Value::String("333"))
            .data(&body)
            .encode();
        let mut head = match batch {
            1 => message,
            _ => MessageBuilder::default().data(&message).encode(),
        };
        head.truncate(head.len() - body_bytes);
        Self {
            amqp,
            addresses,
            links: Vec::new(),
            attached_count: 0,
            head,
            is_batch: batch > 1,
            first_id: None,
            sent_count: 0,
        }
    }
}

impl Publisher for AmqpPublisher {
    fn begin(&mut self, now: Instant, output: &mut Vec<u8>) {
        self.amqp.begin(now, output);
    }

    fn handle(
        &mut self,
        input: &[u8],
        now: Instant,
        output: &mut Vec<u8>,
        on: &mut dyn FnMut(Outcome) -> Result<(), String>,
    ) -> Result<(), String> {
        let Self { amqp, addresses, links, attached_count, first_id, .. } = self;
        amqp.handle(input, now, output, &mut |connection, happened, output| match happened {
            Happened::Authorized(session) => addresses.iter().enumerate().try_for_each(|(index, address)| {
                let name = format!("events-{index}");
                links.push(attach(connection, session, &AttachRequest::sender(&name, address), output)?);
                Ok(())
            }),
            Happened::Attached(_) => {
                *attached_count += 1;
                Ok(())
            }
            Happened::Settled { first, last, state, .. } => on(Outcome::of(first, last, state, *first_id)?),
            Happened::Transfer { .. } => Err("a message came on no link of ours".to_owned()),
        })
    }

    fn fill(&mut self, output: &mut Vec<u8>) {
        self.amqp.fill(output);
    }

    fn tick(&mut self, now: Instant, output: &mut Vec<u8>) -> Result<(), String> {
        self.amqp.tick(now, output)
    }

    fn is_ready(&self) -> bool {
        self.attached_count == self.addresses.len()
    }

    fn send(&mut self, place: usize, post: &Post<'_>, output: &mut Vec<u8>) -> Result<Sent, String> {
        let link = self.links[place % self.links.len()];
        let connection = self.amqp.connection();
        if connection.sendable(link) == 0 {
            return Ok(if self.links.len() > 1 { Sent::OthersMay } else { Sent::No });
        }
        let tag = self.sent_count.to_le_bytes();
        let mut delivery = SendDelivery { tag: &tag, message_format: 0, settled: false, payload: &[] };
        let mark = post.mark.encode();
        let single: [&[u8]; 3] = [&self.head, &mark, post.filler];
        let marks: Vec<_>;
        let parts: Vec<&[u8]>;
        if self.is_batch {
            delivery.message_format = BATCH_FORMAT;
            marks = post.marks().map(Mark::encode).collect();
            parts = marks.iter().flat_map(|mark| [&self.head[..], mark, post.filler]).collect();
            delivery.payload = &parts;
        } else {
            delivery.payload = &single;
        }
        match connection.send(link, &delivery, output) {
            Ok(id) => {
                self.first_id.get_or_insert(id);
                self.sent_count = self.sent_count.wrapping_add(1);
                Ok(Sent::Yes)
            }
            Err(error @ SendRefused::TooLarge { .. }) => Err(error.to_string()),
            Err(_) => Ok(Sent::No),
        }
    }

    fn close(&mut self, output: &mut Vec<u8>) {
        self.amqp.close(output);
    }
}
