//! The service API over HTTPS: identities, consumer groups, checkpoints \[protocol.md 7\].
//!
//! One request is in work at a time. Each carries its own token, which the engine verifies anew; only then is the request
//! itself asked. What arrives behind it waits in the connection's buffer, and above the limit of that in the peer's.

mod access;
mod answer;
mod identity;
mod routes;
mod work;

use std::collections::VecDeque;

use engine::request::{Caller, Notice, Reply, Request, SecretText};
use net_http::{Connection, Event, Head, Limits, Response};

use crate::binding::{Binding, Closing, Context};
use crate::binding::status::Status;

use access::{Access, check_grant};
use answer::{Answer, confused, late, unreadable};
use routes::{Needs, Route};
use work::{Call, Progress, Work};

/// Bytes of a body. The largest thing that this API takes is one identity, far below this.
const BODY_BYTES_MAX: u64 = 64 * 1024;

/// How long a connection without a request is kept. Clients keep theirs for less.
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
    in_work: Option<InWork>,
    /// Counts the requests, so that late replies to one that was given up are known.
    serial: u64,
    /// When the peer, or the engine, must have done its part.
    deadline_ms: u64,
    /// The peer does not take its answers: no further request is read.
    output_is_full: bool,
}

/// A request that has not arrived whole.
struct Incoming {
    route: Result<Route, Status>,
    authorization: Option<SecretText>,
    if_match: Option<String>,
    body: Vec<u8>,
}

/// A request whose answer is being made.
struct InWork {
    state: State,
    /// Questions not yet taken by the engine, with their tokens.
    unasked: VecDeque<(u64, Request)>,
}

enum State {
    Authenticating { route: Result<Route, Status>, if_match: Option<String>, body: Vec<u8> },
    Working(Work),
}

impl HttpBinding {
    /// A connection whose peer has just sent its first bytes.
    pub fn new(hub: &Context<'_>) -> Self {
        let limits = Limits { body_bytes_max: BODY_BYTES_MAX, ..Limits::default() };
        Self {
            connection: Connection::new(limits),
            incoming: None,
            in_work: None,
            serial: 0,
            deadline_ms: hub.now.mono_ms + READ_TIMEOUT_MS,
            output_is_full: false,
        }
    }

    /// The request is whole: find out who asks.
    fn begin(&mut self, incoming: Incoming, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.serial += 1;
        self.deadline_ms = hub.now.mono_ms + ANSWER_TIMEOUT_MS;
        let Incoming { route, authorization, if_match, body } = incoming;
        match Access::read(authorization.as_ref(), hub.hub) {
            Err(status) => self.refuse(&status, output, hub),
            Ok(Access::Administrator) => self.work(route, if_match, body, output, hub),
            Ok(Access::Token(question)) => {
                self.in_work = Some(InWork {
                    state: State::Authenticating { route, if_match, body },
                    unasked: VecDeque::from([(self.token(0), question)]),
                });
                self.ask(hub);
            }
        }
    }

    /// The caller may: ask the request itself.
    fn work(
        &mut self,
        route: Result<Route, Status>,
        if_match: Option<String>,
        body: Vec<u8>,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) {
        let begun =
            route.and_then(|route| Work::begin(Call { route, if_match, body }, hub.hub.partition_count));
        match begun {
            Err(status) => self.refuse(&status, output, hub),
            Ok((work, questions)) => self.wait(work, questions, hub),
        }
    }

    fn wait(&mut self, work: Work, questions: Vec<Request>, hub: &mut Context<'_>) {
        let mut unasked = self.in_work.take().map(|in_work| in_work.unasked).unwrap_or_default();
        unasked.extend((0..).map(|index| self.token(index)).zip(questions));
        self.in_work = Some(InWork { state: State::Working(work), unasked });
        self.ask(hub);
    }

    /// Hand over what the engine takes; the rest is tried again until the answer's deadline.
    fn ask(&mut self, hub: &mut Context<'_>) {
        let Some(in_work) = &mut self.in_work else { return };
        while let Some((token, request)) = in_work.unasked.front() {
            let caller = Caller { connection: hub.connection, token: *token };
            if hub.door.ask(caller, request.clone()).is_err() {
                break;
            }
            in_work.unasked.pop_front();
        }
    }

    /// The serial number of the request in work and the question's place among its questions.
    fn token(&self, index: u64) -> u64 {
        self.serial << 16 | index
    }

    fn refuse(&mut self, status: &Status, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let answer = Answer::error(status, hub.connection, hub.now.wall_ms);
        self.answer(&answer, output, hub);
    }

    fn answer(&mut self, answer: &Answer, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let date = http_date(hub.now.wall_ms);
        let mut headers = vec![("Date", date.as_str())];
        headers.extend(answer.headers.iter().map(|(name, value)| (*name, value.as_str())));
        self.connection
            .respond(&Response { status: answer.status, headers: &headers, body: &answer.body }, output);
        self.in_work = None;
        self.incoming = None;
        self.serial += 1;
        self.deadline_ms = hub.now.mono_ms + IDLE_TIMEOUT_MS;
        self.output_is_full = hub.output_is_full(output);
    }

    /// What follows from the reply to a question of the request in work.
    fn progress(&mut self, index: usize, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let Some(InWork { state, unasked }) = self.in_work.take() else { return };
        match (state, reply) {
            (State::Authenticating { route, if_match, body }, Reply::Authenticated(grant)) => {
                // What is not there is hidden from nobody who has any right here, and from everybody else.
                let checked = route.as_ref().map_or(Ok(()), |route| check_grant(&grant, route));
                match checked {
                    Err(status) => self.refuse(&status, output, hub),
                    Ok(()) => self.work(route, if_match, body, output, hub),
                }
            }
            (State::Authenticating { .. }, Reply::Failed(error)) => {
                self.refuse(&answer::refused(&error), output, hub);
            }
            (State::Authenticating { .. }, _) => self.refuse(&confused(), output, hub),
            (State::Working(work), reply) => match work.advance(index, reply, hub.hub.partition_count) {
                Err(status) => self.refuse(&status, output, hub),
                Ok(Progress::Answer(answer)) => self.answer(&answer, output, hub),
                Ok(Progress::Wait(work, questions)) => {
                    self.in_work = Some(InWork { state: State::Working(Work::Device), unasked });
                    self.wait(work, questions, hub);
                }
            },
        }
    }
}

impl Incoming {
    fn new(head: &Head<'_>, partition_count: u16) -> Self {
        Self {
            route: Route::parse(head.method(), head.target(), partition_count),
            authorization: head.header("authorization").map(SecretText::new),
            if_match: head.header("if-match").map(str::to_owned),
            body: Vec::new(),
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
        if self.connection.is_idle() && !input.is_empty() {
            self.deadline_ms = hub.now.mono_ms + READ_TIMEOUT_MS;
        }
        while self.in_work.is_none() && !self.output_is_full {
            match self.connection.handle(input, output) {
                Ok(Some(Event::Head(head))) => {
                    self.incoming = Some(Incoming::new(&head, hub.hub.partition_count));
                }
                Ok(Some(Event::Body(piece))) => {
                    if let Some(incoming) = &mut self.incoming {
                        incoming.body.extend_from_slice(piece);
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
        Ok(())
    }

    fn handle_reply(&mut self, token: u64, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if token >> 16 == self.serial {
            self.progress((token & 0xffff) as usize, reply, output, hub);
            self.ask(hub);
        }
    }

    fn handle_notice(&mut self, _notice: Notice, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        // This API holds neither sessions nor readers: no notice is about it.
    }

    fn handle_timeout(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.ask(hub);
        if hub.now.mono_ms < self.deadline_ms || self.connection.is_closed() {
            return;
        }
        match self.in_work {
            Some(InWork { ref unasked, .. }) if !unasked.is_empty() => {
                self.refuse(&answer::refused(&engine::request::EngineError::Busy), output, hub);
            }
            Some(_) => self.refuse(&late(), output, hub),
            None if self.connection.is_idle() => self.connection.close(),
            None => {
                let mut status = answer::invalid("the request did not arrive in time");
                status.http = 408;
                self.refuse(&status, output, hub);
            }
        }
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        let has_unasked = self.in_work.as_ref().is_some_and(|in_work| !in_work.unasked.is_empty());
        let _ = has_unasked;
        Some(self.deadline_ms)
    }

    fn handle_output_drained(&mut self, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        self.output_is_full = false;
    }

    fn wants_input(&self) -> bool {
        self.in_work.is_none() && !self.output_is_full && !self.connection.is_closed()
    }

    fn begin_stop(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let is_reading = self.in_work.is_none() && !self.connection.is_idle();
        self.connection.close();
        if is_reading && !self.connection.is_closed() {
            self.refuse(&answer::refused(&engine::request::EngineError::Stopping), output, hub);
        }
    }

    fn is_finished(&self) -> bool {
        self.connection.is_closed()
    }
}
