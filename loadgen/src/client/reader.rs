//! Readers: of a partition, from the oldest event, as Event Hubs clients read; of a broker's queues; of MQTT topics.

use net_amqp::performative::code;
use net_amqp::value::{Decoder, Descriptor, Value};
use net_amqp::{AttachRequest, Connection, DecodeError, DeliveryState, LinkId};

use crate::client::amqp::{Amqp, Happened, attach};
use crate::client::mqtt::{self, Mqtt};
use crate::client::{Client, Run, State, Turn};
use crate::ledger::Mark;
use crate::record::Kind;

const CREDIT: u32 = 2000;

/// The descriptor of a Data section.
const DATA: u64 = code::DATA as u64;

/// Whether what is read is checked against the ledger, or only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// Each event must be the next one of its device.
    Order,
    /// Others read the same.
    Nothing,
}

impl Checks {
    fn take(self, body: Option<&[u8]>, run: &mut Run) -> Result<(), String> {
        let body = body.ok_or("an event has no body of one piece")?;
        let mark = Mark::decode(body).ok_or("an event is none of ours")?;
        let counts = match self {
            Self::Order => run.ledger.read_back(mark)?,
            Self::Nothing => {
                run.unchecked_count += u64::from(mark.run == run.ledger.run);
                true
            }
        };
        if counts {
            run.recorder.count(Kind::Read, run.now, 1, body.len() as u64);
        }
        Ok(())
    }
}

/// Reads some addresses over one AMQP connection until the run ends.
#[derive(Debug)]
pub struct AmqpReader {
    amqp: Amqp,
    addresses: Vec<String>,
    links: Vec<LinkId>,
    checks: Checks,
    has_begun: bool,
    /// A link with deliveries that wait for our word, the first and the last of them.
    unsettled: Option<(LinkId, u32, u32)>,
    is_closed: bool,
}

impl AmqpReader {
    /// Of these addresses.
    pub fn new(amqp: Amqp, addresses: Vec<String>, checks: Checks) -> Self {
        Self {
            amqp,
            addresses,
            links: Vec::new(),
            checks,
            has_begun: false,
            unsettled: None,
            is_closed: false,
        }
    }
}

fn settle(connection: &mut Connection, unsettled: &mut Option<(LinkId, u32, u32)>, output: &mut Vec<u8>) {
    if let Some((link, first, last)) = unsettled.take() {
        connection.settle(link, first, last, &DeliveryState::Accepted, true, output);
    }
}

/// The Data section of a message that has one. What stands in front of it is passed by its size alone: whether the annotations
/// are well-formed is for the hub's tests, and looking would make the load slower than what it measures.
fn body_of(message: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let mut decoder = Decoder::new(message);
    let mut body = None;
    while !decoder.is_empty() {
        let descriptor = decoder.descriptor()?;
        match (descriptor, decoder.value()?) {
            (Descriptor::Code(DATA), Value::Binary(bytes)) if body.is_none() => body = Some(bytes),
            (Descriptor::Code(DATA), _) => return Ok(None),
            _ => {}
        }
    }
    Ok(body)
}

impl Client for AmqpReader {
    fn begin(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.amqp.begin(turn.run.now, turn.output);
        Ok(())
    }

    fn handle(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Result<(), String> {
        let Turn { run, output } = turn;
        let Self { amqp, addresses, links, checks, unsettled, .. } = self;
        amqp.handle(input, run.now, output, &mut |connection, happened, output| match happened {
            Happened::Authorized(session) => addresses.iter().enumerate().try_for_each(|(index, address)| {
                let name = format!("reader-{index}");
                attach(connection, session, &AttachRequest::receiver(&name, address), output).map(drop)
            }),
            Happened::Attached(link) => {
                links.push(link);
                Ok(())
            }
            Happened::Transfer { link, delivery_id, settled, payload } => {
                checks.take(body_of(payload).map_err(|error| error.to_string())?, run)?;
                if !settled {
                    match unsettled {
                        Some((waiting, _, last)) if *waiting == link => *last = delivery_id,
                        _ => {
                            settle(connection, unsettled, output);
                            *unsettled = Some((link, delivery_id, delivery_id));
                        }
                    }
                }
                if connection.credit(link) < CREDIT / 2 {
                    connection.grant(link, CREDIT, output);
                }
                Ok(())
            }
            Happened::Settled { .. } => Ok(()),
        })
    }

    fn fill(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.amqp.fill(turn.output);
        settle(self.amqp.connection(), &mut self.unsettled, turn.output);
        // What is read is measured: it begins with the run.
        if self.state() == State::Ready && turn.run.begins_at.is_some() && !self.has_begun {
            self.has_begun = true;
            for link in &self.links {
                self.amqp.connection().grant(*link, CREDIT, turn.output);
            }
        }
        if turn.run.is_stopping() && !self.is_closed {
            self.amqp.close(turn.output);
            self.is_closed = true;
        }
        Ok(())
    }

    fn tick(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.amqp.tick(turn.run.now, turn.output)
    }

    fn state(&self) -> State {
        match (self.is_closed, self.links.len() == self.addresses.len()) {
            (true, _) => State::Finished,
            (false, true) => State::Ready,
            (false, false) => State::Opening,
        }
    }
}

/// What an MQTT reader does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MqttReading {
    /// Subscribe and go: the broker keeps what comes for it.
    Subscribe,
    /// Take what was kept since.
    Collect,
    /// Connect and go; with a clean session, which makes the broker forget its subscriber.
    Forget,
}

/// Reads topics over one MQTT connection.
#[derive(Debug)]
pub struct MqttReader {
    mqtt: Mqtt,
    filters: Vec<String>,
    reading: MqttReading,
    granted_count: usize,
    is_ready: bool,
    is_closed: bool,
}

impl MqttReader {
    /// Of these filters; `mqtt` must be one that the broker remembers.
    pub fn new(mqtt: Mqtt, filters: Vec<String>, reading: MqttReading) -> Self {
        Self { mqtt, filters, reading, granted_count: 0, is_ready: false, is_closed: false }
    }
}

impl Client for MqttReader {
    fn begin(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.mqtt.begin(turn.run.now, turn.output);
        Ok(())
    }

    fn handle(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Result<(), String> {
        let Turn { run, output } = turn;
        let Self { mqtt, filters, reading, granted_count, is_ready, .. } = self;
        mqtt.handle(input, run.now, output, &mut |connection, happened, output| match happened {
            mqtt::Happened::Open { session_present: false } if *reading == MqttReading::Collect => {
                Err("the broker has forgotten its subscriber, and what came for it".to_owned())
            }
            mqtt::Happened::Open { .. } => {
                *is_ready = *reading != MqttReading::Subscribe;
                if !*is_ready {
                    Mqtt::subscribe(connection, filters, output);
                }
                Ok(())
            }
            mqtt::Happened::Subscribed => {
                *granted_count += 16;
                *is_ready = *granted_count >= filters.len();
                Ok(())
            }
            mqtt::Happened::Publish(publish) => {
                if let Some(id) = publish.id {
                    connection.acknowledge(id, output);
                }
                // While it subscribes only what an earlier run has left could come.
                match reading {
                    MqttReading::Subscribe | MqttReading::Forget => Ok(()),
                    MqttReading::Collect => Checks::Order.take(Some(publish.payload), run),
                }
            }
            mqtt::Happened::Acknowledged(_) => Ok(()),
        })
    }

    fn fill(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        if turn.run.is_stopping() && !self.is_closed {
            self.mqtt.connection().close(turn.output);
            self.is_closed = true;
        }
        Ok(())
    }

    fn tick(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.mqtt.tick(turn.run.now, turn.output)
    }

    fn state(&self) -> State {
        match (self.is_closed, self.is_ready) {
            (true, _) => State::Finished,
            (false, true) => State::Ready,
            (false, false) => State::Opening,
        }
    }
}
