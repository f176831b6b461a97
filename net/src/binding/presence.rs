//! A device's presence at the hub, through one connection that is its alone: it proves who it is and is attached, its events
//! are stored in order, its commands are received and settled.
//!
//! A protocol whose connections are devices (MQTT; AMQP's and HTTPS's carry many) puts its words in front of a
//! [`Presence`] and passes on what the engine says; `docs/add-a-protocol.md` shows how. Time, retries and tokens of requests
//! are kept here: what a full engine did not take is offered again, and whoever waits longer than
//! [`limits::REFUSED_MS_MAX`] is told that it is throttled.

mod end;
mod flight;
pub mod limits;
mod requests;

use engine::monitor::Protocol;
use engine::request::{
    AppendView, Caller, EngineError, EventView, Grant, Holder, LockToken, LockedCommand, Notice, Principal,
    ReceiverId, Reply, Request, SecretText, SessionId, Settlement, UnauthorizedReason,
};
use registry::{DeviceId, PolicyName, SasToken};

use super::{Context, token};
use crate::strangers::is_refused_login;
use flight::Flight;
use requests::{About, Requests};

pub use end::End;
pub use flight::EventShape;

/// One device's presence. `A` is what the protocol calls an event by when it acknowledges it.
///
/// Order of calls: [`log_in`](Self::log_in), then [`handle_home`](Self::handle_home) where
/// [`awaits_home`](Self::awaits_home) says so; from [`Told::Attached`] on everything else. Each `handle_*` returns what the
/// protocol is to be told; [`poll_stored`](Self::poll_stored) is asked after each of these calls: what it gives makes room.
pub struct Presence<A> {
    phase: Phase,
    /// The device's session, once it is attached, also when the connection is about to end.
    session: Option<SessionId>,
    flight: Flight<A>,
    commands: Commands,
    /// Tells the answers about one receiver from those about the next.
    serial: u32,
    /// How many commands were settled, modulo [`SETTLEMENT_NUMBERS`]: tells the answers apart.
    settlement: u64,
    is_stopping: bool,
    requests: Requests,
    /// Since when events wait for room in the engine.
    refused_since_ms: Option<u64>,
    /// When the token ends, on the monotonic clock.
    expiry_ms: Option<u64>,
    /// Whose token it is, where it is a policy's.
    policy: Option<PolicyName>,
}

/// Settlements have numbers below this, beside the caller's mark of 32 bits in a token's number of 61.
const SETTLEMENT_NUMBERS: u64 = 1 << 29;

/// How far the device has come.
enum Phase {
    /// It has not said who it is.
    Unknown,
    /// The engine verifies the token.
    Authenticating(DeviceId),
    /// The token is good; the connection is about to move to its device's core, or to learn that it stays.
    Verified(DeviceId, Box<Grant>),
    /// The engine attaches the device.
    Attaching(DeviceId, u64),
    /// The device is attached.
    Attached(DeviceId),
    /// It has left, or was sent away.
    Over,
}

/// The receiver for the device's commands.
enum Commands {
    None,
    Opening,
    Open { receiver: ReceiverId, is_asked: bool },
}

/// What the protocol is to hear.
#[derive(Debug)]
pub enum Told {
    /// The device is attached: it may send events and receive commands.
    Attached(SessionId),
    /// The device is not let in.
    Refused(EngineError),
    /// [`Presence::open_receiver`] has its answer: whether there is a receiver now.
    Receiver(bool),
    /// Commands, locked for this connection; each is settled once, or its lock ends.
    Commands(Vec<LockedCommand>),
    /// What [`Presence::settle`] was called with `mark` for is durable, or the lock was lost.
    Settled {
        /// The caller's mark.
        mark: u32,
        /// Why it was not done.
        result: Result<(), EngineError>,
    },
    /// Another receiver took over: no more commands come.
    ReceiverEnded,
    /// The answer to [`Presence::ask`].
    Answer(Reply),
    /// The presence is over, and the connection with it.
    Over(End),
}

/// What the engine asks of whoever logs in.
#[derive(Debug)]
pub struct Credentials {
    device: DeviceId,
    question: Request,
}

impl Credentials {
    /// A device with a SAS token, which is not verified yet.
    ///
    /// # Errors
    ///
    /// The text is no token, or names neither a device nor a policy.
    pub fn with_token(
        device: DeviceId,
        text: &str,
        protocol: Protocol,
        partition_count: u16,
    ) -> Result<Self, UnauthorizedReason> {
        let sas = SasToken::parse(text).map_err(|_| UnauthorizedReason::Malformed)?;
        let partition = token::partition_of(&sas, partition_count)?;
        let question = Request::Authenticate { partition, token: SecretText::new(text), protocol };
        Ok(Self { device, question })
    }

    /// Who it says that it is.
    pub fn device(&self) -> &DeviceId {
        &self.device
    }
}

/// An event that cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError<E> {
    /// What the device said is no event.
    #[error("{0}")]
    Malformed(E),
    /// It is larger than events may be.
    #[error("an event of {bytes} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

impl<A> Default for Presence<A> {
    fn default() -> Self {
        Self {
            phase: Phase::Unknown,
            session: None,
            flight: Flight::default(),
            commands: Commands::None,
            serial: 0,
            settlement: 0,
            is_stopping: false,
            requests: Requests::default(),
            refused_since_ms: None,
            expiry_ms: None,
            policy: None,
        }
    }
}

impl<A> Presence<A> {
    /// Prove who it is. Answered by [`Told::Attached`] or [`Told::Refused`]. Once only.
    pub fn log_in(&mut self, credentials: Credentials, hub: &mut Context<'_>) {
        let Credentials { device, question } = credentials;
        self.phase = Phase::Authenticating(device);
        self.requests.ask(About::Authenticate, 0, question, hub);
    }

    /// Who it is, once it is attached.
    pub fn device(&self) -> Option<&DeviceId> {
        match &self.phase {
            Phase::Attached(device) => Some(device),
            _ => None,
        }
    }

    /// Its session, once it is attached.
    pub fn session(&self) -> Option<SessionId> {
        self.device().and(self.session)
    }

    /// Whether it has not said yet who it is.
    pub fn is_unknown(&self) -> bool {
        matches!(self.phase, Phase::Unknown)
    }

    /// Whether nothing more comes of it.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// See [`Binding::home`](super::Binding::home).
    pub fn home(&self) -> Option<DeviceId> {
        match &self.phase {
            // With a policy's token the connection stays where the policy's partition knows it.
            Phase::Verified(device, _) if self.policy.is_none() => Some(device.clone()),
            _ => None,
        }
    }

    /// See [`Binding::awaits_home`](super::Binding::awaits_home).
    pub fn awaits_home(&self) -> bool {
        matches!(self.phase, Phase::Verified(..))
    }

    /// See [`Binding::handle_home`](super::Binding::handle_home): the device is attached here.
    pub fn handle_home(&mut self, protocol: Protocol, hub: &mut Context<'_>) {
        let Phase::Verified(device, grant) = &self.phase else { return };
        let (device, grant) = (device.clone(), Grant::clone(grant));
        self.phase = Phase::Attaching(device.clone(), grant.expires_s);
        self.requests.ask(About::OpenSession, 0, Request::OpenSession { device, grant, protocol }, hub);
    }

    /// Store an event; `encode` appends it. Once it is durable, and those before it are, [`poll_stored`](Self::poll_stored)
    /// gives `answer`.
    ///
    /// # Errors
    ///
    /// [`EventError`]: the connection is to be ended.
    pub fn send<E>(
        &mut self,
        answer: Option<A>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<EventShape, E>,
        hub: &mut Context<'_>,
    ) -> Result<(), EventError<E>> {
        let number = self.flight.push(answer, encode).map_err(EventError::Malformed)?;
        let bytes = self.flight.view(number).map_or(0, |event| event.message.len());
        if bytes > limits::EVENT_BYTES_MAX {
            return Err(EventError::TooLarge { bytes });
        }
        self.append(number, hub);
        Ok(())
    }

    /// Nothing is to be stored: [`poll_stored`](Self::poll_stored) gives `answer` once what came before it is durable.
    pub fn pass(&mut self, answer: Option<A>) {
        self.flight.push_done(answer);
    }

    /// The next event that is durable, in the order of arrival.
    pub fn poll_stored(&mut self) -> Option<A> {
        self.flight.poll_acknowledged()
    }

    /// Whether another event may come. While it may not, nothing is to be read.
    pub fn has_room(&self) -> bool {
        matches!(self.phase, Phase::Attached(_)) && !self.is_stopping && self.flight.has_room()
    }

    /// Ask for a receiver of the device's commands. Answered by [`Told::Receiver`].
    pub fn open_receiver(&mut self, hub: &mut Context<'_>) {
        let Some(session) = self.session() else { return };
        self.commands = Commands::Opening;
        self.serial += 1;
        let number = self.serial.into();
        self.requests.ask(About::OpenReceiver, number, Request::OpenCommandReceiver { session }, hub);
    }

    /// Whether [`Told::Receiver`] is to come.
    pub fn is_opening_receiver(&self) -> bool {
        matches!(self.commands, Commands::Opening)
    }

    /// Ask for no more commands; those that are locked may still be settled. [`Told::Commands`] may come once more.
    pub fn cancel_receive(&mut self, hub: &mut Context<'_>) {
        if let Commands::Open { receiver, is_asked: true } = self.commands {
            self.requests.ask(About::Nothing, 0, Request::CancelReceive { receiver }, hub);
        }
    }

    /// Whether a settlement has no answer yet.
    pub fn is_settling(&self) -> bool {
        self.requests.is_insisting(About::Settle)
    }

    /// Receive no commands any more: those that are locked go back.
    pub fn close_receiver(&mut self, hub: &mut Context<'_>) {
        if let Commands::Open { receiver, .. } = std::mem::replace(&mut self.commands, Commands::None) {
            self.requests.ask(About::Nothing, 0, Request::CloseReceiver { receiver }, hub);
        }
    }

    /// Ask for as many commands as there is room for, at least one, unless that is asked already.
    pub fn receive(&mut self, count_max: u32, hub: &mut Context<'_>) {
        let Commands::Open { receiver, is_asked: is_asked @ false } = &mut self.commands else { return };
        if count_max > 0 && !self.is_stopping {
            *is_asked = true;
            let request = Request::Receive { receiver: *receiver, count_max };
            self.requests.ask(About::Receive, self.serial.into(), request, hub);
        }
    }

    /// Settle a command. Answered by [`Told::Settled`] with `mark`, unless its receiver has ended.
    pub fn settle(&mut self, token: LockToken, settlement: Settlement, mark: u32, hub: &mut Context<'_>) {
        if let Commands::Open { receiver, .. } = self.commands {
            let holder = Holder::Receiver(receiver);
            self.settlement = (self.settlement + 1) % SETTLEMENT_NUMBERS;
            let number = self.settlement << 32 | u64::from(mark);
            self.requests.insist(About::Settle, number, Request::Settle { holder, token, settlement }, hub);
        }
    }

    /// Ask the engine something else. Answered by [`Told::Answer`]; one at a time.
    pub fn ask(&mut self, request: Request, hub: &mut Context<'_>) {
        self.requests.insist(About::Own, self.serial.into(), request, hub);
    }

    /// Take no more of the device, and give out what is stored already: see [`is_settled`](Self::is_settled).
    pub fn begin_stop(&mut self) {
        self.is_stopping = true;
    }

    /// Whether it stops, and nothing waits for its answer.
    pub fn is_settled(&self) -> bool {
        self.is_stopping && self.flight.is_empty()
    }

    /// It has left, or is sent away.
    pub fn finish(&mut self) {
        self.phase = Phase::Over;
        self.commands = Commands::None;
        self.requests.clear();
    }

    /// The connection is gone: the last moment to store something, where the engine has not ended the session. Nobody
    /// is left to hear of its fate, or to try again for.
    pub fn send_last(&mut self, event: EventView<'_>, hub: &mut Context<'_>) {
        if let Some(session) = self.session {
            let caller = Caller { connection: hub.connection, token: About::Nothing.token(0) };
            if hub.door.append(caller, AppendView { session, events: &[event] }).is_err() {
                tracing::warn!(peer = %hub.peer, "a device's will is lost: the engine has no room for it");
            }
        }
    }

    /// See [`Binding::handle_reply`](super::Binding::handle_reply).
    pub fn handle_reply(&mut self, token: u64, reply: Reply, hub: &mut Context<'_>) -> Option<Told> {
        let is_busy = matches!(reply, Reply::Failed(EngineError::Busy));
        let told = match self.requests.handle_answer(token, is_busy, hub) {
            true => None,
            false => About::of(token).and_then(|(about, number)| self.take_reply(about, number, reply, hub)),
        };
        // Any other answer means that there is room again.
        if !is_busy {
            self.retry(hub);
        }
        told
    }

    /// See [`Binding::handle_notice`](super::Binding::handle_notice).
    pub fn handle_notice(&mut self, notice: Notice) -> Option<Told> {
        match notice {
            Notice::SessionEnded { session, reason } if self.session == Some(session) => {
                // A newer connection of the device, or its end: nothing of this one is stored any more.
                self.session = None;
                self.end(End::Ended(reason))
            }
            Notice::PolicyChanged { name } if self.policy.as_ref() == Some(&name) => match self.phase {
                Phase::Over => None,
                _ => self.end(End::Revoked),
            },
            Notice::ReceiverEnded { receiver: ended } => match self.commands {
                Commands::Open { receiver, .. } if receiver == ended => {
                    self.commands = Commands::None;
                    Some(Told::ReceiverEnded)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// See [`Binding::handle_timeout`](super::Binding::handle_timeout).
    pub fn handle_timeout(&mut self, hub: &mut Context<'_>) -> Option<Told> {
        let is_due = |at_ms: Option<u64>| at_ms.is_some_and(|at_ms| at_ms <= hub.now.mono_ms);
        if is_due(self.expiry_ms) {
            return self.end(End::Expired);
        }
        if is_due(self.refused_since_ms.map(|since_ms| since_ms + limits::REFUSED_MS_MAX))
            || self.requests.is_overdue(hub.now.mono_ms)
        {
            return self.end(End::Throttled);
        }
        if is_due(self.requests.retry_at_ms()) {
            self.retry(hub);
        }
        None
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), on the monotonic clock.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Over => None,
            _ => self.requests.retry_at_ms().into_iter().chain(self.expiry_ms).min(),
        }
    }

    /// Give back at the end of a turn what an idle device does not need.
    pub fn trim(&mut self) {
        self.flight.trim();
        self.requests.trim();
    }

    fn end(&mut self, end: End) -> Option<Told> {
        self.finish();
        Some(Told::Over(end))
    }

    /// Ask again for what met a full engine.
    fn retry(&mut self, hub: &mut Context<'_>) {
        if !self.requests.retry(hub) {
            return;
        }
        while self.requests.retry_at_ms().is_none()
            && let Some(number) = self.flight.ask_again()
        {
            self.append(number, hub);
        }
        if !self.flight.has_refused() {
            self.refused_since_ms = None;
        }
    }

    /// Hand an event over.
    fn append(&mut self, number: u64, hub: &mut Context<'_>) {
        let (Some(session), Some(view)) = (self.session, self.flight.view(number)) else { return };
        let caller = Caller { connection: hub.connection, token: About::Append.token(number) };
        if hub.door.append(caller, AppendView { session, events: &[view] }).is_err() {
            self.refuse_event(number, hub);
        }
    }

    fn refuse_event(&mut self, number: u64, hub: &Context<'_>) {
        self.flight.refuse(number);
        self.refused_since_ms.get_or_insert(hub.now.mono_ms);
        self.requests.retry_soon(hub);
    }

    fn take_reply(&mut self, about: About, number: u64, reply: Reply, hub: &mut Context<'_>) -> Option<Told> {
        let is_current = number == u64::from(self.serial);
        match (about, reply) {
            (About::Append, reply) => self.take_appended(number, reply, hub),
            (About::Authenticate, reply) => self.take_authenticated(reply, hub),
            (About::OpenSession, reply) => self.take_session(reply, hub),
            (About::OpenReceiver, Reply::ReceiverOpened(receiver)) => match self.commands {
                Commands::Opening if is_current => {
                    self.commands = Commands::Open { receiver, is_asked: false };
                    Some(Told::Receiver(true))
                }
                _ => {
                    self.requests.ask(About::Nothing, 0, Request::CloseReceiver { receiver }, hub);
                    None
                }
            },
            (About::OpenReceiver, _) if is_current => {
                self.commands = Commands::None;
                Some(Told::Receiver(false))
            }
            (About::Receive, reply) if is_current => {
                let Commands::Open { is_asked, .. } = &mut self.commands else { return None };
                *is_asked = false;
                match reply {
                    Reply::Commands(commands) => Some(Told::Commands(commands)),
                    // Its receiver was taken away; a notice says so, or the session is over.
                    _ => None,
                }
            }
            (About::Settle, reply) => {
                let mark = u32::try_from(number & u64::from(u32::MAX)).ok()?;
                let result = match reply {
                    Reply::Failed(error) => Err(error),
                    _ => Ok(()),
                };
                Some(Told::Settled { mark, result })
            }
            (About::Own, reply) => Some(Told::Answer(reply)),
            _ => None,
        }
    }

    fn take_appended(&mut self, number: u64, reply: Reply, hub: &mut Context<'_>) -> Option<Told> {
        let error = match reply {
            Reply::Appended { .. } => {
                self.flight.complete(number);
                return None;
            }
            Reply::Failed(EngineError::Busy) => {
                self.refuse_event(number, hub);
                return None;
            }
            Reply::Failed(error) => error,
            _ => EngineError::StorageFailed,
        };
        self.end(End::NotStored(error))
    }

    fn take_authenticated(&mut self, reply: Reply, hub: &mut Context<'_>) -> Option<Told> {
        let Phase::Authenticating(device) = &self.phase else { return None };
        match reply {
            Reply::Authenticated(grant) => {
                self.policy = match &grant.principal {
                    Principal::Policy { name, .. } => Some(name.clone()),
                    Principal::Device { .. } => None,
                };
                self.phase = Phase::Verified(device.clone(), Box::new(grant));
                None
            }
            reply => {
                let device = device.clone();
                self.refuse(device, reply, hub)
            }
        }
    }

    fn take_session(&mut self, reply: Reply, hub: &mut Context<'_>) -> Option<Told> {
        let Phase::Attaching(device, expires_s) = &self.phase else { return None };
        match reply {
            Reply::SessionOpened(session) => {
                // A token counts to the end of its last second.
                let end_s = expires_s.saturating_add(hub.hub.token_skew_s).saturating_add(1);
                let left_ms = end_s.saturating_mul(1000).saturating_sub(hub.now.wall_ms);
                self.expiry_ms = Some(hub.now.mono_ms.saturating_add(left_ms));
                self.phase = Phase::Attached(device.clone());
                self.session = Some(session);
                Some(Told::Attached(session))
            }
            reply => {
                let device = device.clone();
                self.refuse(device, reply, hub)
            }
        }
    }

    fn refuse(&mut self, device: DeviceId, reply: Reply, hub: &mut Context<'_>) -> Option<Told> {
        self.finish();
        let error = match reply {
            Reply::Failed(error) => error,
            _ => EngineError::StorageFailed,
        };
        if is_refused_login(&error) {
            hub.refuse_login(Some(device), true);
        }
        Some(Told::Refused(error))
    }
}
