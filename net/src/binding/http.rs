//! The service API over HTTPS: identities, consumer groups, checkpoints \[IoT Hub REST: service API\].
//!
//! One request is in work at a time. Each carries its own token, which the engine verifies anew; only then is the request
//! itself asked. What arrives behind it waits in the connection's buffer, and above the limit of that in the peer's.

mod access;
mod answer;
mod identity;
mod routes;
mod work;

use std::collections::VecDeque;

use engine::request::{Caller, EngineError, Notice, Reply, Request, SecretText};
use net_http::{Connection, Event, Head, Limits, Response};

use crate::binding::status::Status;
use crate::binding::websocket::Upgrade;
use crate::binding::{Binding, Closing, Context};

use access::{Access, check_grant};
use answer::{Answer, confused, late, no_websocket, refused, slow, unreadable};
use routes::Route;
use work::{CONTINUATION, Call, Progress, Questions, Work};

/// Bytes of a body. The largest thing that this API takes is one identity, far below this.
const BODY_BYTES_MAX: u64 = 64 * 1024;

/// How long a connection without a request is kept, milliseconds. Clients keep theirs for less.
const IDLE_TIMEOUT_MS: u64 = 120_000;

/// How long a request may take to arrive whole, from its first byte.
const READ_TIMEOUT_MS: u64 = 30_000;

/// How long the engine may take to answer. Longer than a slow disk's sync, shorter than a client's patience.
const ANSWER_TIMEOUT_MS: u64 = 30_000;

/// When a question that the engine was too busy to take is asked again.
const RETRY_MS: u64 = 20;

/// One HTTPS connection of a back end, or of the command line.
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
    /// What speaks from now on: the peer asked for a WebSocket.
    successor: Option<Box<dyn Binding>>,
}

/// A request that has not arrived whole.
struct Incoming {
    authorization: Option<SecretText>,
    call: Result<Call, Status>,
}

/// A request whose answer is being made.
enum State {
    /// The engine verifies the token.
    Authenticating(Result<Call, Status>),
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
            successor: None,
        }
    }

    /// The request is whole: find out who asks.
    fn begin(&mut self, incoming: Incoming, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        match Access::read(incoming.authorization.as_ref(), hub.hub) {
            Err(status) => self.refuse(&status, output, hub),
            Ok(Access::Administrator) => self.work(incoming.call, output, hub),
            Ok(Access::Token(question)) => {
                self.wait(State::Authenticating(incoming.call), vec![question], hub);
            }
        }
    }

    /// The caller may: do it, or say why it cannot be done.
    fn work(&mut self, call: Result<Call, Status>, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        match call.and_then(|call| Work::begin(call, hub.hub.partition_count)) {
            Err(status) => self.refuse(&status, output, hub),
            Ok((work, questions)) => self.wait(State::Working(work), questions, hub),
        }
    }

    fn wait(&mut self, state: State, questions: Questions, hub: &mut Context<'_>) {
        self.in_work = Some(state);
        let serial = self.serial;
        self.unasked.extend((0..).map(|index| serial << 16 | index).zip(questions));
        self.ask(hub);
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
            (Some(State::Authenticating(call)), Reply::Authenticated(grant)) => {
                match call.as_ref().map_or(Ok(()), |call| check_grant(&grant, &call.route)) {
                    Err(status) => self.refuse(&status, output, hub),
                    Ok(()) => self.work(call, output, hub),
                }
            }
            (Some(State::Authenticating(_)), Reply::Failed(error)) => {
                self.refuse(&refused(&error), output, hub)
            }
            (Some(State::Authenticating(_)), _) => self.refuse(&confused(), output, hub),
            (Some(State::Working(work)), reply) => {
                match work.advance(index, reply, hub.hub.partition_count) {
                    Err(status) => self.refuse(&status, output, hub),
                    Ok(Progress::Answer(answer)) => self.answer(&answer, output, hub),
                    Ok(Progress::Wait(work, questions)) => self.wait(State::Working(work), questions, hub),
                }
            }
        }
    }

    fn refuse(&mut self, status: &Status, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let answer = Answer::error(status, hub.connection, hub.now.wall_ms);
        self.answer(&answer, output, hub);
    }

    /// The request is over; replies that still come are not for the next one.
    fn answer(&mut self, answer: &Answer, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let date = answer::http_date(hub.now.wall_ms);
        let mut headers = vec![("Date", date.as_str())];
        headers.extend(answer.headers.iter().map(|(name, value)| (*name, value.as_str())));
        let response = Response { status: answer.status, headers: &headers, body: &answer.body };
        self.connection.respond(&response, output);
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
    fn new(head: &Head<'_>, partition_count: u16) -> Self {
        let header = |name| head.header(name).map(str::to_owned);
        let (if_match, continuation) = (header("if-match"), header(CONTINUATION));
        let route = Route::parse(head.method(), head.target(), partition_count);
        Self {
            authorization: head.header("authorization").map(SecretText::new),
            call: route.map(|route| Call { route, if_match, continuation, body: Vec::new() }),
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
                    None => self.incoming = Some(Incoming::new(&head, hub.hub.partition_count)),
                    Some(upgrade) => {
                        match upgrade.and_then(|upgrade| upgrade.accept(&mut self.connection, output, hub)) {
                            Ok(successor) => self.successor = Some(successor),
                            Err(error) => {
                                self.refuse(&no_websocket(&error), output, hub);
                                return Err(Closing::fault(error.to_string()));
                            }
                        }
                    }
                },
                Ok(Some(Event::Body(piece))) => {
                    if let Some(Incoming { call: Ok(call), .. }) = &mut self.incoming {
                        call.body.extend_from_slice(piece);
                    }
                }
                Ok(Some(Event::End)) => {
                    if let Some(incoming) = self.incoming.take() {
                        self.begin(incoming, output, hub);
                    }
                }
                Ok(None) => break,
                Err(refusal) => {
                    self.refuse(&unreadable(&refusal), output, hub);
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

    /// This API holds neither sessions nor readers: no notice is about it.
    fn handle_notice(&mut self, _notice: Notice, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {}

    fn handle_timeout(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.ask(hub);
        if hub.now.mono_ms < self.deadline_ms || self.connection.is_closed() {
            return;
        }
        match self.phase {
            Phase::Idle(_) => self.connection.close(),
            Phase::Reading(_) => self.refuse(&slow(), output, hub),
            Phase::Working(_) if self.unasked.is_empty() => self.refuse(&late(), output, hub),
            Phase::Working(_) => self.refuse(&refused(&EngineError::Busy), output, hub),
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
            self.refuse(&refused(&EngineError::Stopping), output, hub);
        }
        self.watch(hub);
    }

    fn is_finished(&self) -> bool {
        self.connection.is_closed()
    }
}

#[cfg(test)]
mod tests;
