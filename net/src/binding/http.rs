//! The service and device APIs over HTTPS: identities, consumer groups, checkpoints; events and commands of
//! devices [IoT Hub: REST API].
//!
//! One request is in work at a time. Each carries its own token, which the engine verifies anew; only then is the request
//! itself asked. What arrives behind it waits in the connection's buffer, and above the limit of that in the peer's. A
//! longer body than `STRANGER_BYTES_MAX` is taken only from those whose token was verified.

mod access;
mod answer;
mod bulk;
mod commands;
mod events;
mod identity;
mod jobs;
mod keys;
mod policies;
mod provisioning;
mod query;
mod receipts;
mod routes;
mod work;

use std::collections::VecDeque;

use engine::request::{Caller, EngineError, EnrolmentReply, Notice, Reply, Request, SecretText};
use net_http::{Connection, Event, Head, Limits, Response};
use registry::EnrolmentRef;

use crate::binding::status::Status;
use crate::binding::token::claimed_device;
use crate::binding::websocket::Upgrade;
use crate::binding::{Binding, Closing, Context, HubInfo};
use crate::strangers::is_refused_login;

use access::{Access, Who, check};
use answer::{Answer, Refused, confused, late, no_websocket, refused, slow, too_large, unreadable};
use commands::read_lock_timeout;
use events::EventsHead;
use query::ITEM_COUNT;
use routes::Route;
use work::{CONTINUATION, Call, Progress, Questions, Work};

pub(crate) use bulk::Entry as ImportEntry;
pub(crate) use identity::export_line;

/// Bytes of any body. Each route has its own limit below this.
const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// Bytes of a body that are taken before it is known who sends them.
const STRANGER_BYTES_MAX: usize = 64 * 1024;

/// Refused logins in a row after which the connection ends.
const REFUSED_LOGINS_MAX: u32 = 5;

/// How long a connection without a request is kept, milliseconds. Clients keep theirs for less.
const IDLE_TIMEOUT_MS: u64 = 120_000;

/// How long a request may take to arrive whole, from its first byte.
const READ_TIMEOUT_MS: u64 = 30_000;

/// How long the engine may take to answer. Longer than a slow disk's sync, shorter than a client's patience.
const ANSWER_TIMEOUT_MS: u64 = 30_000;

/// When a question that the engine was too busy to take is asked again.
const RETRY_MS: u64 = 20;

/// How often the thread of jobs is looked at for an answer.
const JOBS_POLL_MS: u64 = 20;

/// One HTTPS connection of a back end, of a device, or of the command line.
pub struct HttpBinding {
    connection: Connection,
    incoming: Option<Incoming>,
    in_work: Option<State>,
    /// Questions of the request in work that the engine has not taken yet, with their tokens.
    unasked: VecDeque<(u64, Request)>,
    /// Counts the requests, so that a late reply to one that was given up is known.
    serial: u64,
    phase: Phase,
    /// When the peer, or the engine, must have done its part.
    deadline_ms: u64,
    retry_ms: Option<u64>,
    /// The peer does not take its answers: no further request is read.
    output_is_full: bool,
    /// Requests refused in a row because of who sent them.
    refused_login_count: u32,
    /// What speaks from now on: the peer asked for a WebSocket.
    successor: Option<Box<dyn Binding>>,
    /// The request that is read or in work is one of provisioning, whose errors look otherwise.
    is_provisioning: bool,
}

/// A request, as far as it has arrived.
struct Incoming {
    authorization: Option<SecretText>,
    call: Result<Call, Refused>,
    /// Of the body of a call that is refused.
    dropped_bytes: usize,
    /// Who sends it, once that is known.
    who: Option<Who>,
    is_whole: bool,
}

/// A request whose answer is being made.
enum State {
    /// The engine verifies the token. Boxed: it is much larger than the other.
    Authenticating(Box<Incoming>),
    /// The engine does what was asked.
    Working(Work),
}

/// Whose turn it is, in which request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle(u64),
    Reading(u64),
    Working(u64),
}

impl HttpBinding {
    /// A connection whose peer is about to send its first bytes.
    pub fn new(hub: &Context<'_>) -> Self {
        let limits = Limits { body_bytes_max: BODY_BYTES_MAX, ..Limits::default() };
        Self {
            connection: Connection::new(limits),
            incoming: None,
            in_work: None,
            unasked: VecDeque::new(),
            serial: 0,
            phase: Phase::Idle(0),
            deadline_ms: hub.now.mono_ms + IDLE_TIMEOUT_MS,
            retry_ms: None,
            output_is_full: false,
            refused_login_count: 0,
            successor: None,
            is_provisioning: false,
        }
    }

    /// Go on with a request that is whole, or too long to be taken unseen.
    fn begin(&mut self, incoming: Incoming, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if let Some(who) = incoming.who.clone() {
            return self.go_on(incoming, who, output, hub);
        }
        let registering = incoming.call.as_ref().ok().and_then(|call| call.route.registering());
        let access = match registering {
            Some(device) => device.access(incoming.authorization.as_ref(), hub.hub),
            None => Access::read(incoming.authorization.as_ref(), hub.hub),
        };
        match access {
            Err(status) => self.refuse_login(status, incoming.authorization.as_ref(), output, hub),
            Ok(Access::Administrator) => self.go_on(incoming, Who::Administrator, output, hub),
            Ok(Access::Token(question)) => {
                self.wait(State::Authenticating(Box::new(incoming)), vec![question], hub);
            }
        }
    }

    /// Whoever goes on guessing does so on a new connection, whose handshake waits its turn.
    fn refuse_login(
        &mut self,
        status: Status,
        authorization: Option<&SecretText>,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) {
        hub.refuse_login(authorization.and_then(|text| claimed_device(text.reveal())), true);
        self.refused_login_count += 1;
        if self.refused_login_count >= REFUSED_LOGINS_MAX {
            self.connection.close();
        }
        self.refuse(&status.into(), output, hub);
    }

    /// The caller is known: do what it asks if it may, or wait for the rest of what it asks.
    fn go_on(&mut self, incoming: Incoming, who: Who, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.refused_login_count = 0;
        let call =
            incoming.call.and_then(|call| check(&who, &call.route).map(|()| call).map_err(Refused::from));
        match call {
            Err(refused) => self.refuse(&refused, output, hub),
            Ok(call) if call.body.len() > call.route.body_bytes_max() => {
                self.refuse(&too_large(call.route.body_bytes_max()).into(), output, hub);
            }
            Ok(call) if !incoming.is_whole => {
                self.incoming = Some(Incoming { call: Ok(call), who: Some(who), ..incoming });
            }
            Ok(call) => match Work::begin(call, who, hub.hub) {
                Err(status) => self.refuse(&status.into(), output, hub),
                Ok(Progress::Answer(answer)) => self.answer(&answer, output, hub),
                Ok(Progress::Wait(work, questions)) => self.wait(State::Working(work), questions, hub),
            },
        }
    }

    /// More of the body has come.
    fn check_body(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let Some(incoming) = self.incoming.take() else { return };
        let bytes = incoming.call.as_ref().map_or(incoming.dropped_bytes, |call| call.body.len());
        match incoming.who {
            None if bytes <= STRANGER_BYTES_MAX => self.incoming = Some(incoming),
            _ => self.begin(incoming, output, hub),
        }
    }

    fn wait(&mut self, state: State, questions: Questions, hub: &mut Context<'_>) {
        self.in_work = Some(state);
        let serial = self.serial;
        self.unasked.extend((0..).map(|index| serial << 16 | index).zip(questions));
        self.ask(hub);
        self.watch_jobs(hub);
    }

    /// Nobody tells when the thread of jobs has answered.
    fn watch_jobs(&mut self, hub: &Context<'_>) {
        if let Some(State::Working(Work::Job(_))) = &self.in_work {
            self.retry_ms = Some(hub.now.mono_ms + JOBS_POLL_MS);
        }
    }

    /// Take the answer of the thread of jobs, if it is there.
    fn poll_jobs(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let Some(State::Working(Work::Job(asked))) = &self.in_work else { return };
        match asked.answer() {
            None => self.watch_jobs(hub),
            Some(Ok(answer)) => self.answer(&answer, output, hub),
            Some(Err(status)) => self.refuse(&status.into(), output, hub),
        }
    }

    /// Hand over what the engine takes; the rest is tried again until the answer's deadline.
    fn ask(&mut self, hub: &mut Context<'_>) {
        self.retry_ms = None;
        while let Some((token, request)) = self.unasked.front() {
            let caller = Caller { connection: hub.connection, token: *token };
            if hub.door.ask(caller, request.clone()).is_err() {
                self.retry_ms = Some(hub.now.mono_ms + RETRY_MS);
                return;
            }
            self.unasked.pop_front();
        }
    }

    /// What follows from the reply to the question at `index`.
    fn advance(&mut self, index: usize, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        match (self.in_work.take(), reply) {
            (None, _) => {}
            (Some(State::Authenticating(incoming)), Reply::Authenticated(grant)) => {
                self.go_on(*incoming, Who::Granted(grant), output, hub);
            }
            (
                Some(State::Authenticating(incoming)),
                Reply::Enrolment(EnrolmentReply::AskGroups { group }),
            ) => {
                self.ask_groups(incoming, group, output, hub);
            }
            (Some(State::Authenticating(incoming)), Reply::Enrolment(EnrolmentReply::Attested(attested))) => {
                self.go_on(*incoming, Who::Attested(attested), output, hub);
            }
            (Some(State::Authenticating(incoming)), Reply::Failed(error)) if is_refused_login(&error) => {
                self.refuse_login(refused(&error), incoming.authorization.as_ref(), output, hub);
            }
            (Some(State::Authenticating(_)), Reply::Failed(error)) => {
                self.refuse(&refused(&error).into(), output, hub);
            }
            (Some(State::Authenticating(_)), _) => self.refuse(&confused().into(), output, hub),
            (Some(State::Working(work)), reply) => {
                match work.advance(index, reply, hub.hub.partition_count) {
                    Err(status) => self.refuse(&status.into(), output, hub),
                    Ok(Progress::Answer(answer)) => self.answer(&answer, output, hub),
                    Ok(Progress::Wait(work, questions)) => self.wait(State::Working(work), questions, hub),
                }
            }
        }
    }

    /// The device that wishes to register has no enrolment of its own: perhaps a group lets it in.
    fn ask_groups(
        &mut self,
        incoming: Box<Incoming>,
        group: Option<EnrolmentRef>,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) {
        let registering = incoming.call.as_ref().ok().and_then(|call| call.route.registering());
        let question = registering
            .ok_or_else(confused)
            .and_then(|device| device.ask_groups(incoming.authorization.as_ref(), group, hub.hub));
        match question {
            Ok(question) => self.wait(State::Authenticating(incoming), vec![question], hub),
            Err(status) => self.refuse(&status.into(), output, hub),
        }
    }

    fn refuse(&mut self, refused: &Refused, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let form = if self.is_provisioning { provisioning::refusal } else { Answer::refusal };
        let answer = form(refused, hub.connection, hub.now.wall_ms);
        self.answer(&answer, output, hub);
    }

    /// The request is over; replies that still come are not for the next one.
    fn answer(&mut self, answer: &Answer, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let date = answer::http_date(hub.now.wall_ms);
        let mut headers = vec![("Date", date.as_str())];
        headers.extend(answer.headers.iter().map(|(name, value)| (name.as_ref(), value.as_str())));
        let response = Response { status: answer.status, headers: &headers, body: &answer.body };
        self.connection.respond(&response, output);
        self.is_provisioning = false;
        self.incoming = None;
        self.in_work = None;
        self.unasked.clear();
        self.retry_ms = None;
        self.serial += 1;
        self.output_is_full = hub.output_is_full(output);
    }

    /// Give whoever's turn it is now the time that is due.
    fn watch(&mut self, hub: &Context<'_>) {
        let (phase, timeout_ms) = match (&self.in_work, self.connection.is_idle()) {
            (Some(_), _) => (Phase::Working(self.serial), ANSWER_TIMEOUT_MS),
            (None, false) => (Phase::Reading(self.serial), READ_TIMEOUT_MS),
            (None, true) => (Phase::Idle(self.serial), IDLE_TIMEOUT_MS),
        };
        if phase != self.phase {
            self.phase = phase;
            self.deadline_ms = hub.now.mono_ms + timeout_ms;
        }
    }
}

impl Incoming {
    fn new(head: &Head<'_>, moment_ms: u64, hub: &HubInfo) -> Self {
        let header = |name| head.header(name).map(str::to_owned);
        let call = Route::parse(head.method(), head.target(), hub.partition_count).and_then(|route| {
            let mut call = Call {
                if_match: header("if-match"),
                continuation: header(CONTINUATION),
                item_count: header(ITEM_COUNT),
                events: None,
                lock_timeout_ms: None,
                moment_ms,
                body: Vec::new(),
                assigned_hub: String::new(),
                id_scope: String::new(),
                route,
            };
            match &call.route {
                Route::SendEvents(_) => call.events = Some(EventsHead::read(head)?),
                Route::ReceiveCommand(_) => call.lock_timeout_ms = read_lock_timeout(head)?,
                Route::Provisioning(_) => {
                    call.assigned_hub = hub.host_names.first().cloned().unwrap_or_default();
                    call.id_scope = hub.id_scope();
                }
                _ => {}
            }
            Ok(call)
        });
        let authorization = head.header("authorization").map(SecretText::new);
        Self { authorization, call, dropped_bytes: 0, who: None, is_whole: false }
    }

    /// Keep a piece of the body. What is refused anyway is counted alone.
    fn take_body(&mut self, piece: &[u8]) {
        match &mut self.call {
            Ok(call) => call.body.extend_from_slice(piece),
            Err(_) => self.dropped_bytes += piece.len(),
        }
    }
}

impl Binding for HttpBinding {
    fn handle_bytes(
        &mut self,
        input: &mut &[u8],
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) -> Result<(), Closing> {
        while self.wants_input() {
            match self.connection.handle(input, output) {
                Ok(Some(Event::Head(head))) => match Upgrade::read(&head) {
                    None => {
                        self.is_provisioning = provisioning::concerns(head.target());
                        self.incoming = Some(Incoming::new(&head, hub.now.mono_ms, hub.hub));
                    }
                    Some(upgrade) => {
                        match upgrade.and_then(|upgrade| upgrade.accept(&mut self.connection, output, hub)) {
                            Ok(successor) => self.successor = Some(successor),
                            Err(error) => {
                                self.refuse(&no_websocket(&error).into(), output, hub);
                                return Err(Closing::fault(error.to_string()));
                            }
                        }
                    }
                },
                Ok(Some(Event::Body(piece))) => {
                    if let Some(incoming) = &mut self.incoming {
                        incoming.take_body(piece);
                    }
                    self.check_body(output, hub);
                }
                Ok(Some(Event::End)) => {
                    if let Some(incoming) = self.incoming.take() {
                        self.begin(Incoming { is_whole: true, ..incoming }, output, hub);
                    }
                }
                Ok(None) => break,
                Err(refusal) => {
                    self.refuse(&unreadable(&refusal).into(), output, hub);
                    return Err(Closing::fault(refusal.to_string()));
                }
            }
        }
        self.watch(hub);
        Ok(())
    }

    fn handle_reply(&mut self, token: u64, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if token >> 16 == self.serial {
            self.advance((token & 0xffff) as usize, reply, output, hub);
            self.watch(hub);
        }
    }

    /// These APIs hold neither sessions nor readers: no notice is about them.
    fn handle_notice(&mut self, _notice: Notice, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {}

    fn handle_timeout(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.ask(hub);
        self.poll_jobs(output, hub);
        if hub.now.mono_ms < self.deadline_ms || self.connection.is_closed() {
            return;
        }
        match self.phase {
            Phase::Idle(_) => self.connection.close(),
            Phase::Reading(_) => self.refuse(&slow().into(), output, hub),
            Phase::Working(_) if self.unasked.is_empty() => self.refuse(&late().into(), output, hub),
            Phase::Working(_) => self.refuse(&refused(&EngineError::Busy).into(), output, hub),
        }
        self.watch(hub);
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        Some(self.retry_ms.map_or(self.deadline_ms, |retry_ms| retry_ms.min(self.deadline_ms)))
    }

    fn take_successor(&mut self) -> Option<Box<dyn Binding>> {
        self.successor.take()
    }

    fn handle_output_drained(&mut self, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        self.output_is_full = false;
    }

    fn wants_input(&self) -> bool {
        self.in_work.is_none() && !self.output_is_full && !self.connection.is_closed()
    }

    fn begin_stop(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.connection.close();
        if self.in_work.is_none() && !self.connection.is_closed() {
            self.refuse(&refused(&EngineError::Stopping).into(), output, hub);
        }
        self.watch(hub);
    }

    fn is_finished(&self) -> bool {
        self.connection.is_closed()
    }
}

#[cfg(test)]
mod tests;
