//! A back end that sends one command and may wait for its receipt, as a machine: `net-amqp` in the client's role.
//!
//! Receipts are one queue that all back ends compete for, so waiting must not take what is others'. It looks at the queue
//! in rounds: a link of its own takes whatever is there, without settling it, and is detached a moment later. The hub gives
//! back what a link had when it goes as if it had never been received, so that a look counts as no delivery; between two
//! rounds everybody else has his turn. A batch is accepted, and so removed, only if our receipt is all that it holds.

use std::sync::Arc;

use net_amqp::sasl::plain_response;
use net_amqp::{
    AttachRequest, Body, Config, Connection, DeliveryState, Event, Inbound, LinkId, Role, SaslRole, Sections,
    SendDelivery, SessionId,
};
use serde::Deserialize;

use super::talk::{Step, Talk, words};

/// How long a look at the receipts takes, milliseconds.
const LOOK_MS: u64 = 200;

/// How long others have their turn between two looks, milliseconds.
const PAUSE_MS: u64 = 1_000;

/// Batches that one look takes.
const LOOK_CREDIT: u32 = 500;

/// Longest message that is taken: a batch of receipts is far smaller.
const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;

/// What to send, and as whom.
pub(super) struct Plan {
    /// The host that is meant.
    pub(super) host: String,
    /// The policy that sends.
    pub(super) policy: String,
    /// Its key's text.
    pub(super) key: String,
    /// The command as a whole message.
    pub(super) message: Vec<u8>,
    /// Whose receipt to wait for.
    pub(super) wait: Option<Wanted>,
}

/// A receipt that is waited for.
pub(super) struct Wanted {
    /// The command's message id.
    pub(super) message_id: String,
    /// Its device.
    pub(super) device: String,
    /// How long to wait, milliseconds.
    pub(super) patience_ms: u64,
}

/// A receipt as the hub tells it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipt {
    /// The command's message id.
    pub(super) original_message_id: String,
    /// When the outcome was.
    pub(super) enqueued_time_utc: String,
    /// The outcome.
    pub(super) status_code: String,
    /// The device.
    pub(super) device_id: String,
}

/// The sender. Secrets are in its connection's settings, so it has no `Debug`.
pub(super) struct Sender {
    plan: Plan,
    connection: Connection,
    inbound: Inbound,
    state: State,
    /// The receipt, once it was seen.
    pub(super) receipt: Option<Receipt>,
    round: u64,
    deadline_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    /// The command goes out with the first credit.
    Attaching(SessionId, LinkId),
    /// It was sent and has no answer.
    Sent(SessionId),
    Looking {
        session: SessionId,
        link: LinkId,
        until_ms: u64,
    },
    Pausing {
        session: SessionId,
        until_ms: u64,
    },
}

impl Sender {
    /// Begin; `output` is what to send first.
    pub(super) fn start(plan: Plan, now_ms: u64, output: &mut Vec<u8>) -> Self {
        let config = Config {
            container_id: "corehub-send".into(),
            hostname: Some(plan.host.clone()),
            message_bytes_max: MESSAGE_BYTES_MAX,
            sasl: SaslRole::Choose { mechanism: "PLAIN", response: plain_response(&plan.policy, &plan.key) },
            ..Config::default()
        };
        let mut connection = Connection::new(Role::Client, Arc::new(config), now_ms);
        connection.start(output);
        Self {
            plan,
            connection,
            inbound: Inbound::default(),
            state: State::Opening,
            receipt: None,
            round: 0,
            deadline_ms: u64::MAX,
        }
    }

    /// The next word of the hub, as far as the machine has not dealt with it alone.
    fn handle_event(&mut self, event: Owned, output: &mut Vec<u8>, now_ms: u64) -> Result<Step, String> {
        match (event, self.state) {
            (Owned::Opened, _) => {
                self.connection.begin(output);
            }
            (Owned::Begun(session), State::Opening) => {
                let request = AttachRequest::sender("command", "/messages/devicebound");
                let link = self.connection.attach(session, &request, output);
                self.state = State::Attaching(session, link.ok_or("the hub takes no links")?);
            }
            (Owned::Credit, State::Attaching(session, link)) if self.connection.sendable(link) > 0 => {
                let payload: [&[u8]; 1] = [&self.plan.message];
                let delivery =
                    SendDelivery { tag: b"1", message_format: 0, settled: false, payload: &payload };
                self.connection.send(link, &delivery, output).map_err(|error| error.to_string())?;
                self.state = State::Sent(session);
            }
            (Owned::Accepted, State::Sent(session)) => {
                let Some(wanted) = &self.plan.wait else { return Ok(self.close(output)) };
                self.deadline_ms = now_ms.saturating_add(wanted.patience_ms);
                self.look(session, now_ms, output)?;
            }
            (Owned::Attached, State::Looking { link, .. }) => {
                self.connection.grant(link, LOOK_CREDIT, output);
            }
            (Owned::Message(delivery_id, payload), State::Looking { link, .. }) => {
                let receipts = receipts(&payload);
                let found = receipts.iter().find(|receipt| self.is_wanted(receipt));
                if let Some(found) = found {
                    if receipts.len() == 1 {
                        let state = DeliveryState::Accepted;
                        self.connection.settle(link, delivery_id, delivery_id, &state, true, output);
                    }
                    self.receipt = Some(found.clone());
                    self.connection.detach(link, None, output);
                    return Ok(self.close(output));
                }
            }
            (Owned::Failed(text), _) => return Err(text),
            _ => {}
        }
        Ok(Step::GoesOn)
    }

    fn is_wanted(&self, receipt: &Receipt) -> bool {
        self.plan.wait.as_ref().is_some_and(|wanted| {
            receipt.original_message_id == wanted.message_id && receipt.device_id == wanted.device
        })
    }

    /// Begin a look at the receipts.
    fn look(&mut self, session: SessionId, now_ms: u64, output: &mut Vec<u8>) -> Result<(), String> {
        self.round += 1;
        let name = format!("receipts-{}", self.round);
        let request = AttachRequest::receiver(&name, "/messages/serviceBound/feedback");
        let link = self.connection.attach(session, &request, output).ok_or("the hub takes no links")?;
        self.state = State::Looking { session, link, until_ms: now_ms + LOOK_MS };
        Ok(())
    }

    fn close(&mut self, output: &mut Vec<u8>) -> Step {
        self.connection.close(None, output);
        Step::Done
    }
}

impl Talk for Sender {
    fn handle(&mut self, mut input: &[u8], output: &mut Vec<u8>, now_ms: u64) -> Result<Step, String> {
        loop {
            let event = self.connection.handle(&mut self.inbound, &mut input, output, now_ms);
            let Some(event) = event.map_err(|closed| words(&closed.error))? else { return Ok(Step::GoesOn) };
            let event = Owned::of(event);
            if self.handle_event(event, output, now_ms)? == Step::Done {
                return Ok(Step::Done);
            }
        }
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        let own = match self.state {
            State::Looking { until_ms, .. } | State::Pausing { until_ms, .. } => Some(until_ms),
            _ => None,
        };
        [own, self.connection.next_timeout_ms()].into_iter().flatten().min()
    }

    fn handle_timeout(&mut self, now_ms: u64, output: &mut Vec<u8>) -> Result<Step, String> {
        self.connection.handle_timeout(now_ms, output).map_err(|closed| words(&closed.error))?;
        match self.state {
            State::Looking { session, link, until_ms } if until_ms <= now_ms => {
                // What it took goes back with it.
                self.connection.detach(link, None, output);
                self.state = State::Pausing { session, until_ms: now_ms + PAUSE_MS };
                if now_ms >= self.deadline_ms {
                    return Ok(self.close(output));
                }
            }
            State::Pausing { session, until_ms } if until_ms <= now_ms => {
                self.look(session, now_ms, output)?;
            }
            _ => {}
        }
        Ok(Step::GoesOn)
    }
}

/// What the sender wants to know of an event, without its borrows.
enum Owned {
    Opened,
    Begun(SessionId),
    Attached,
    Credit,
    Accepted,
    Message(u32, Vec<u8>),
    Failed(String),
    Other,
}

impl Owned {
    fn of(event: Event<'_>) -> Self {
        match event {
            Event::Opened(_) => Self::Opened,
            Event::Begun { session } => Self::Begun(session),
            Event::Attached { attach, .. } if attach.source.is_some() => Self::Attached,
            Event::Flow { .. } => Self::Credit,
            Event::Settled { state: Some(DeliveryState::Accepted), .. } => Self::Accepted,
            Event::Settled { state: Some(DeliveryState::Rejected(Some(error))), .. } => {
                Self::Failed(words(&error))
            }
            Event::Settled { .. } => Self::Failed("the hub did not accept the command".into()),
            Event::Transfer { delivery_id, payload, .. } => Self::Message(delivery_id, payload.to_vec()),
            Event::Detached { error, .. } | Event::Ended { error, .. } | Event::Closed { error } => {
                Self::Failed(
                    error.map_or_else(|| "the hub ended the connection".into(), |error| words(&error)),
                )
            }
            _ => Self::Other,
        }
    }
}

/// The receipts of a batch; none where it cannot be read.
fn receipts(message: &[u8]) -> Vec<Receipt> {
    let Ok(Sections { body: Body::Data(data), .. }) = Sections::parse(message) else { return Vec::new() };
    data.single().and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
}
