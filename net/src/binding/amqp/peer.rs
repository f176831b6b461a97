//! What a connection holds besides the protocol's own state, and where its events, answers and timers go.

mod attach;

use engine::request::{EngineError, Notice, Reply, Request, SessionId};
use net_amqp::{DeliveryState, Error, Event, LinkId, condition};

use super::commands::{Inlets, Outlets};
use super::login::Login;
use super::nodes::{Node, Nodes};
use super::readers::{EXPIRED_TEXT, Readers};
use super::sessions::{DeviceSessions, expired_status};
use super::telemetry::{Delivery, Telemetry};
use super::turn::{Pending, Turn};
use super::{cbs, limits, management, rpc, twin};
use crate::binding::address::Resource;
use crate::binding::status::Status;

/// What the connection holds besides the protocol's own state.
#[derive(Debug)]
pub struct Peer {
    login: Login,
    nodes: Nodes,
    sessions: DeviceSessions,
    telemetry: Telemetry,
    readers: Readers,
    inlets: Inlets,
    outlets: Outlets,
    phase: Phase,
    retry_at_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Talking,
    /// What is in flight is being answered; then every link ends with this condition.
    Stopping(&'static str),
    /// We have closed and wait for the peer's close until then.
    Closing {
        deadline_ms: u64,
    },
    Finished,
}

impl Peer {
    /// A connection that was accepted at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self {
            login: Login::new(now_ms),
            nodes: Nodes::default(),
            sessions: DeviceSessions::default(),
            telemetry: Telemetry::default(),
            readers: Readers::default(),
            inlets: Inlets::default(),
            outlets: Outlets::default(),
            phase: Phase::Talking,
            retry_at_ms: None,
        }
    }

    /// Run `action`, then do what is due whatever happened.
    pub fn with(&mut self, turn: &mut Turn<'_, '_>, action: impl FnOnce(&mut Self, &mut Turn<'_, '_>)) {
        action(self, turn);
        for link in self.outlets.take_ended() {
            self.leave(turn, link);
        }
        self.finish_stop(turn);
        if std::mem::take(&mut turn.shared.must_retry) {
            self.retry_at_ms = Some(turn.hub.now.mono_ms + limits::RETRY_MS);
        }
        self.login.watch(turn);
    }

    /// Whether more input is welcome.
    pub fn wants_input(&self) -> bool {
        !self.is_finished() && self.telemetry.has_room() && self.inlets.has_room()
    }

    /// Whether the connection is over.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// The connection is over.
    pub fn finish(&mut self) {
        self.phase = Phase::Finished;
    }

    /// Whether nothing is attached but request nodes, and nothing ends: the engine knows nothing of the connection.
    pub fn is_unattached(&self) -> bool {
        self.phase == Phase::Talking
            && self.retry_at_ms.is_none()
            && self.sessions.is_empty()
            && self.readers.is_empty()
            && self.inlets.is_empty()
            && self.outlets.is_empty()
    }

    fn finish_unless(&mut self, goes_on: bool) {
        if !goes_on {
            self.finish();
        }
    }

    /// Whether a SASL verdict was given since the last call.
    pub fn take_verdict_given(&mut self) -> bool {
        self.login.take_verdict_given()
    }

    /// Take what the engine tells unasked.
    pub fn handle_notice(&mut self, turn: &mut Turn<'_, '_>, notice: Notice) {
        match notice {
            Notice::SessionEnded { session, reason } => {
                let status = Status::of(&EngineError::SessionEnded(Some(reason)));
                self.end_session(turn, session, &status);
            }
            Notice::PolicyChanged { name } => {
                if turn.shared.grants.revoke(&name) && self.phase == Phase::Talking {
                    self.end_ungranted(turn);
                }
            }
            notice => {
                if !self.outlets.handle_notice(turn, &notice) {
                    self.readers.handle_notice(turn, &notice);
                }
            }
        }
    }

    /// The peer takes more: go on with what waited for that.
    pub fn handle_room(&mut self, turn: &mut Turn<'_, '_>) {
        self.nodes.send_all(turn);
        self.readers.pump_all(turn);
        self.outlets.pump_stalled(turn);
    }

    /// Say what was gathered over the turn.
    pub fn handle_turn_end(&mut self, turn: &mut Turn<'_, '_>) {
        self.telemetry.handle_turn_end(turn);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn next_timeout_ms(&self) -> Option<u64> {
        let phase = match self.phase {
            Phase::Talking => self.login.next_timeout_ms(),
            // Whatever happens to its tokens: nothing is done about them any more.
            Phase::Stopping(_) | Phase::Finished => None,
            Phase::Closing { deadline_ms } => Some(deadline_ms),
        };
        // Should a turn ever end without its end being told, what it gathered goes out with the next tick.
        let unsaid = self.telemetry.is_dirty().then_some(0);
        [phase, unsaid, self.retry_at_ms].into_iter().flatten().min()
    }

    /// End every link with `condition` and the connection behind them, once what is in flight is answered.
    pub fn begin_end(&mut self, turn: &mut Turn<'_, '_>, condition: &'static str) {
        if self.phase == Phase::Talking {
            self.phase = Phase::Stopping(condition);
            self.telemetry.reject_refused(turn, &Status::of(&EngineError::Stopping));
        }
    }

    /// Take what one frame of the peer came to.
    pub fn handle_event(&mut self, turn: &mut Turn<'_, '_>, event: Event<'_>) {
        match event {
            Event::SaslInit { mechanism, response, .. } => {
                let goes_on = self.login.handle_init(turn, mechanism, response);
                self.finish_unless(goes_on);
            }
            Event::Attached { link, attach, .. } => self.handle_attach(turn, link, &attach),
            Event::Flow { link, .. } if self.readers.owns(link) => self.readers.handle_flow(turn, link),
            Event::Flow { link, .. } if self.outlets.owns(link) => self.outlets.handle_flow(turn, link),
            Event::Flow { link, .. } => self.nodes.handle_credit(turn, link),
            Event::Window { .. } => self.handle_room(turn),
            Event::Transfer { link, delivery_id, message_format, settled, payload, .. } => {
                let delivery = Delivery { link, delivery_id, settled };
                if !self.telemetry.handle_transfer(turn, delivery, message_format, payload)
                    && !self.inlets.handle_transfer(turn, delivery, message_format, payload)
                {
                    self.handle_request(turn, delivery, payload);
                }
            }
            Event::Aborted { link } => {
                self.telemetry.handle_aborted(link);
                self.inlets.handle_aborted(turn, link);
            }
            Event::Settled { link, first, last, state, settled } => {
                self.handle_settled(turn, link, (first, last), state, settled);
            }
            Event::Detached { link, .. } => {
                self.nodes.handle_detached(link);
                self.telemetry.forget(link);
                self.readers.handle_detached(turn, link);
                self.inlets.forget(link);
                self.outlets.forget(turn, link);
                self.leave(turn, link);
            }
            Event::Ended { session, .. } => self.nodes.handle_ended(session),
            Event::Closed { .. } => self.phase = Phase::Finished,
            _ => {}
        }
    }

    /// A message came in for a request node.
    fn handle_request(&mut self, turn: &mut Turn<'_, '_>, delivery: Delivery, payload: &[u8]) {
        let Delivery { link, delivery_id, settled } = delivery;
        let Some(node) = self.nodes.node_of_request(link) else { return };
        let request = rpc::Request::decode(payload);
        if !settled {
            let state = match &request {
                Ok(_) => DeliveryState::Accepted,
                Err(error) => DeliveryState::Rejected(Some(Error::new(error.condition(), error.to_string()))),
            };
            turn.connection.settle(link, delivery_id, delivery_id, &state, true, turn.output);
        }
        let Ok(request) = request else { return self.nodes.handle_refused(turn, link) };
        let Some(ticket) = self.nodes.open(link, &request) else { return };
        match node {
            Node::Cbs => cbs::handle_request(&mut self.nodes, turn, ticket, &request),
            Node::Management => management::handle_request(&mut self.nodes, turn, ticket, &request),
            Node::Twin(_) => twin::handle_request(&mut self.nodes, turn, ticket),
            // Without credit nothing comes.
            Node::Methods(_) => {}
        }
    }

    /// The peer's word about what we sent.
    fn handle_settled(
        &mut self,
        turn: &mut Turn<'_, '_>,
        link: LinkId,
        (first, last): (u32, u32),
        state: Option<DeliveryState<'_>>,
        settled: bool,
    ) {
        if self.readers.owns(link) {
            self.readers.handle_settled(turn, link, (first, last), state.as_ref(), settled);
        } else if self.outlets.owns(link) {
            self.outlets.handle_settled(turn, link, (first, last), state.as_ref(), settled);
        } else if let Some(state) = state.filter(|_| !settled) {
            turn.connection.settle(link, first, last, &state, true, turn.output);
        }
    }

    /// Take the engine's answer to what was asked.
    pub fn handle_reply(&mut self, turn: &mut Turn<'_, '_>, pending: Pending, reply: Reply) {
        match pending {
            Pending::Login { plain, rest } => {
                let goes_on = self.login.handle_reply(turn, plain, rest, reply);
                self.finish_unless(goes_on);
            }
            Pending::PutToken(ticket, device) => {
                cbs::handle_reply(&mut self.nodes, turn, ticket, device, reply);
            }
            Pending::ManagementToken(ticket, operation) => {
                management::handle_token(&mut self.nodes, turn, ticket, operation, reply);
            }
            Pending::Description(ticket) => {
                management::handle_description(&mut self.nodes, turn, ticket, reply)
            }
            Pending::OpenSession(device) => {
                for joined in self.sessions.handle_answer(turn, device, reply) {
                    self.accept_joined(turn, joined);
                }
            }
            Pending::FindGroup(link) => self.readers.handle_group(turn, link, reply),
            Pending::OpenReader(link) => self.readers.handle_reader(turn, link, reply),
            Pending::Read(link) => self.readers.handle_events(turn, link, reply),
            Pending::PutCheckpoint(link) => self.readers.handle_checkpoint(turn, link, reply),
            Pending::Enqueue(ticket) => self.inlets.handle_enqueued(turn, *ticket, reply),
            Pending::OpenReceiver(link, source) => self.outlets.handle_opened(turn, link, source, reply),
            Pending::Receive(link, source) => self.outlets.handle_received(turn, link, source, reply),
            Pending::Settle(link, delivery_id) => self.outlets.handle_kept(turn, link, delivery_id, reply),
        }
    }

    /// An append of telemetry is durable.
    pub fn handle_appended(&mut self, number: u64) {
        self.telemetry.handle_appended(number);
    }

    /// Tell what was accepted of telemetry, which makes room for more.
    pub fn tell_accepted(&mut self, turn: &mut Turn<'_, '_>) {
        self.telemetry.tell_accepted(turn);
    }

    /// The engine's answer to an append of telemetry that came by itself.
    pub fn handle_append_answer(&mut self, turn: &mut Turn<'_, '_>, number: u64, reply: &Reply) {
        self.telemetry.handle_answer(turn, number, reply);
    }

    /// Ask again for what met a full engine.
    pub fn retry(&mut self, turn: &mut Turn<'_, '_>) {
        if self.retry_at_ms.take().is_some() {
            turn.send_unsent();
            self.telemetry.retry(turn);
            self.readers.retry(turn);
            self.outlets.pump_stalled(turn);
        }
    }

    /// Do what is due.
    pub fn handle_timeout(&mut self, turn: &mut Turn<'_, '_>) {
        let now_ms = turn.hub.now.mono_ms;
        if self.retry_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.retry(turn);
        }
        self.handle_turn_end(turn);
        match self.phase {
            Phase::Closing { deadline_ms } if deadline_ms <= now_ms => self.phase = Phase::Finished,
            Phase::Talking => self.check_tokens(turn),
            _ => {}
        }
    }

    /// End what rests on tokens that have expired.
    fn check_tokens(&mut self, turn: &mut Turn<'_, '_>) {
        if turn.shared.grants.expire(turn.hub.now.wall_ms / 1000, turn.hub.hub.token_skew_s) {
            self.end_ungranted(turn);
        }
        if self.phase == Phase::Talking && self.login.is_overdue(turn) {
            self.close(turn, condition::CONNECTION_FORCED, "No token was put to $cbs in time.");
        }
    }

    /// Some grants are gone: end what no other grant allows.
    fn end_ungranted(&mut self, turn: &mut Turn<'_, '_>) {
        if self.login.is_plain() && turn.shared.grants.is_empty() {
            let text = "The token of the connection is no longer good.";
            return self.close(turn, condition::UNAUTHORIZED_ACCESS, text);
        }
        for session in self.sessions.expired(turn) {
            self.end_session(turn, session, &expired_status());
            turn.tell(Request::CloseSession { session });
        }
        self.readers.handle_expiry(turn);
        self.inlets.handle_expiry(turn);
        self.outlets.handle_expiry(turn);
        if turn.shared.grants.for_service(&Resource::management(&turn.hub.hub.name)).is_none() {
            for link in self.nodes.links(&Node::Management) {
                self.nodes.handle_detached(link);
                turn.detach_reader(link, condition::UNAUTHORIZED_ACCESS, EXPIRED_TEXT);
            }
        }
    }

    /// A device's session is over: so are its links.
    fn end_session(&mut self, turn: &mut Turn<'_, '_>, session: SessionId, status: &Status) {
        for link in self.sessions.forget(session) {
            self.telemetry.forget(link);
            self.outlets.forget(turn, link);
            self.nodes.handle_detached(link);
            turn.detach(link, status);
        }
    }

    /// A link of a device is gone; with the last one goes the session.
    fn leave(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        self.sessions.handle_detached(turn, link);
    }

    /// When the hub stops and all that was in flight is answered: say goodbye.
    fn finish_stop(&mut self, turn: &mut Turn<'_, '_>) {
        let Phase::Stopping(condition) = self.phase else { return };
        let is_waiting = self.telemetry.is_waiting()
            || self.readers.is_waiting()
            || self.inlets.is_waiting()
            || self.outlets.is_waiting();
        if is_waiting {
            return;
        }
        self.telemetry.handle_turn_end(turn);
        let reason = Error::new(condition, "The hub ends the connection; connect again.");
        let links: Vec<LinkId> = self
            .nodes
            .all_links()
            .chain(self.telemetry.all_links())
            .chain(self.readers.all_links())
            .chain(self.inlets.all_links())
            .chain(self.outlets.all_links())
            .collect();
        for link in links {
            turn.connection.detach(link, Some(&reason), turn.output);
        }
        self.close(turn, condition::CONNECTION_FORCED, "The hub ends the connection; connect again.");
    }

    fn close(&mut self, turn: &mut Turn<'_, '_>, condition: &'static str, text: &'static str) {
        // What has not been opened cannot be closed.
        let was_open = turn.connection.is_open();
        turn.connection.close(Some(&Error::new(condition, text)), turn.output);
        self.phase = match was_open {
            true => Phase::Closing { deadline_ms: turn.hub.now.mono_ms + limits::CLOSE_ANSWER_MS_MAX },
            false => Phase::Finished,
        };
    }
}
