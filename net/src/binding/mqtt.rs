//! MQTT, spoken for the hub: one device, its telemetry, its commands.
//!
//! [`MqttBinding`] turns the events of [`net_mqtt::Connection`] into requests to the engine and its answers into packets. A
//! device says who it is in its CONNECT, and is then attached with one session, as a device of AMQP is. A PUBACK leaves when
//! the event is durable, and not before; a command is completed by the device's PUBACK and stays locked until then. What a
//! device may not do ends its connection, for MQTT 3.1.1 has no other word for it [IoT Hub: iot-mqtt-connect-to-iot-hub].

mod bag;
mod commands;
mod flight;
mod limits;
mod login;
mod subscribing;
mod topic;

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};

use engine::request::{AppendView, Caller, EngineError, Grant, Notice, Reply, Request, SessionId};
use net_mqtt::{Config, Connect, ConnectCode, Connection, Draft, Event, Inbound, Publish, Role};
use registry::DeviceId;

use super::{Binding, Closing, Context};
use bag::RETAIN_PROPERTY;
use commands::Commands;
use flight::Flight;
use login::{Login, StoredWill, protocol};
use subscribing::Subscribing;
use topic::Target;

/// The settings of every MQTT connection.
static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| {
    Arc::new(Config {
        packet_bytes_max: limits::PACKET_BYTES_MAX,
        connect_bytes_max: limits::CONNECT_BYTES_MAX,
        connect_timeout_ms: limits::CONNECT_MS_MAX,
        silence_ms_max: limits::SILENCE_MS_MAX,
        in_flight_max: limits::COMMAND_WINDOW,
    })
});

/// One MQTT connection to the hub.
pub struct MqttBinding {
    connection: Connection,
    inbound: Inbound,
    phase: Phase,
    /// Events on their way to the engine.
    flight: Flight,
    commands: Option<Box<Commands>>,
    /// A SUBSCRIBE or UNSUBSCRIBE in work; nothing more is read until it is answered.
    subscribing: Option<Box<Subscribing>>,
    /// The device's subscription is kept while it is away.
    is_persistent: bool,
    /// The device's session, once it is attached, also when the connection is about to end.
    session: Option<SessionId>,
    will: Option<Box<StoredWill>>,
    /// Requests that met a full engine.
    unsent: VecDeque<(u64, Request)>,
    retry_at_ms: Option<u64>,
    /// Since when events wait for room in the engine.
    refused_since_ms: Option<u64>,
    /// When the token ends, on the monotonic clock.
    expiry_ms: Option<u64>,
    /// Tells the answers about one subscription from those about the next.
    serial: u64,
    /// The hub ends the connection once what is in flight is answered.
    is_stopping: bool,
}

/// How far a connection has come.
enum Phase {
    /// No CONNECT yet.
    New,
    /// The engine verifies the token.
    Authenticating(DeviceId),
    /// The token is good; the connection is about to move to its device's core, or to learn that it stays.
    Verified(DeviceId, Box<Grant>),
    /// The engine attaches the device.
    Attaching(DeviceId, u64),
    /// The engine says what the device has subscribed to earlier, or forgets it.
    Resuming(DeviceId),
    /// The device is attached.
    Attached(DeviceId),
    Finished,
}

/// What an answer of the engine is about; in the low bits of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Authenticate,
    OpenSession,
    Append,
    OpenReceiver,
    Receive,
    Settle,
    Subscription,
    Nothing,
}

impl About {
    const ALL: [Self; 8] = [
        Self::Authenticate,
        Self::OpenSession,
        Self::Append,
        Self::OpenReceiver,
        Self::Receive,
        Self::Settle,
        Self::Subscription,
        Self::Nothing,
    ];

    /// The token of a request, with a number of its own kind.
    fn token(self, number: u64) -> u64 {
        number << 3 | self as u64
    }

    fn of(token: u64) -> Option<(Self, u64)> {
        Self::ALL.get((token & 7) as usize).map(|about| (*about, token >> 3))
    }
}

impl MqttBinding {
    /// A connection whose first bytes are about to be handed over.
    pub fn new(hub: &Context<'_>) -> Self {
        Self {
            connection: Connection::new(Role::Server, Arc::clone(&CONFIG), hub.now.mono_ms),
            inbound: Inbound::default(),
            phase: Phase::New,
            flight: Flight::default(),
            commands: None,
            subscribing: None,
            is_persistent: false,
            session: None,
            will: None,
            unsent: VecDeque::new(),
            retry_at_ms: None,
            refused_since_ms: None,
            expiry_ms: None,
            serial: 0,
            is_stopping: false,
        }
    }

    /// Ask the engine, now or as soon as there is room.
    fn ask(&mut self, about: About, number: u64, request: Request, hub: &mut Context<'_>) {
        let token = about.token(number);
        let caller = Caller { connection: hub.connection, token };
        if self.unsent.is_empty() && hub.door.ask(caller, request.clone()).is_ok() {
            return;
        }
        self.unsent.push_back((token, request));
        self.retry_at_ms = Some(hub.now.mono_ms + limits::RETRY_MS);
    }

    fn send_unsent(&mut self, hub: &mut Context<'_>) {
        while let Some((token, request)) = self.unsent.front() {
            let caller = Caller { connection: hub.connection, token: *token };
            if hub.door.ask(caller, request.clone()).is_err() {
                self.retry_at_ms = Some(hub.now.mono_ms + limits::RETRY_MS);
                return;
            }
            self.unsent.pop_front();
        }
    }

    fn take(&mut self, event: Event<'_>, output: &mut Vec<u8>, hub: &mut Context<'_>) -> Result<(), Closing> {
        match event {
            Event::Connect(connect) => self.take_connect(&connect, output, hub),
            Event::Publish(publish) => self.take_publish(&publish, output, hub)?,
            Event::Acknowledged(id) => {
                let request = self.commands.as_mut().and_then(|commands| commands.complete(id));
                self.settle(request, hub);
                self.receive(output, hub);
            }
            Event::Subscribe(subscribe) => self.take_subscribe(subscribe.id, &subscribe.filters, output, hub),
            Event::Unsubscribe(unsubscribe) => {
                self.take_unsubscribe(unsubscribe.id, &unsubscribe.filters, output, hub);
            }
            Event::Disconnect => {
                self.will = None;
                self.finish();
            }
            // The rest is a client's to hear.
            _ => {}
        }
        Ok(())
    }

    fn take_connect(&mut self, connect: &Connect<'_>, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        match Login::read(connect, hub) {
            Err(code) => self.refuse(code, output),
            Ok(login) => {
                self.will = login.will;
                self.is_persistent = !login.clean_session;
                self.phase = Phase::Authenticating(login.device);
                self.ask(About::Authenticate, 0, login.question, hub);
            }
        }
    }

    fn refuse(&mut self, code: ConnectCode, output: &mut Vec<u8>) {
        self.connection.refuse(code, output);
        self.will = None;
        self.finish();
    }

    fn finish(&mut self) {
        self.phase = Phase::Finished;
        self.commands = None;
        self.subscribing = None;
        self.unsent.clear();
    }

    fn take_publish(
        &mut self,
        publish: &Publish<'_>,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) -> Result<(), Closing> {
        let Phase::Attached(device) = &self.phase else { return Ok(()) };
        match Target::of(publish.topic, device) {
            Target::Telemetry { bag } => {
                let marks: &[(&str, &str)] = if publish.retain { &[RETAIN_PROPERTY] } else { &[] };
                let number = self.flight.push(publish.id, bag, publish.payload, marks);
                let number = number.map_err(|error| Closing::fault(error.to_string()))?;
                let bytes = self.flight.view(number).map_or(0, |event| event.message.len());
                if bytes > limits::EVENT_BYTES_MAX {
                    return Err(Closing::fault(format!("an event of {bytes} bytes")));
                }
                self.append(number, hub);
            }
            Target::Twin { request_id } => {
                self.flight.push_done(publish.id);
                // The status of what is not there; clients fail with it instead of waiting.
                let topic = format!("$iothub/twin/res/501/?$rid={request_id}");
                let draft = Draft { topic: &topic, payload: b"", needs_ack: false, retain: false };
                if topic.len() <= usize::from(u16::MAX) {
                    // Without acknowledgement there is no window that could be full.
                    let _ = self.connection.publish(&draft, output);
                }
            }
            Target::Foreign => return Err(Closing::fault("a message to a topic that is not the device's")),
        }
        Ok(())
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
        self.retry_at_ms = Some(hub.now.mono_ms + limits::RETRY_MS);
    }

    /// Ask again for what met a full engine.
    fn retry(&mut self, hub: &mut Context<'_>) {
        if self.retry_at_ms.take().is_none() {
            return;
        }
        self.send_unsent(hub);
        while self.retry_at_ms.is_none()
            && let Some(number) = self.flight.ask_again()
        {
            self.append(number, hub);
        }
        if !self.flight.has_refused() {
            self.refused_since_ms = None;
        }
    }

    /// Ask for commands, if there is room for them.
    fn receive(&mut self, output: &[u8], hub: &mut Context<'_>) {
        if self.is_stopping || self.subscribing.is_some() || hub.output_is_full(output) {
            return;
        }
        let request = self.commands.as_mut().and_then(|commands| commands.ask(&self.connection));
        if let Some(request) = request {
            self.ask(About::Receive, self.serial, request, hub);
        }
    }

    fn settle(&mut self, request: Option<Request>, hub: &mut Context<'_>) {
        if let Some(request) = request {
            self.ask(About::Settle, self.serial, request, hub);
        }
    }

    fn take_reply(
        &mut self,
        (about, number): (About, u64),
        reply: Reply,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) {
        let is_current = number == self.serial;
        match (about, reply) {
            (About::Append, reply) => self.take_appended(number, reply, hub),
            (About::Authenticate, reply) => self.take_authenticated(reply, output),
            (About::OpenSession, reply) => self.take_session(reply, output, hub),
            (About::OpenReceiver, Reply::ReceiverOpened(receiver)) => match &mut self.commands {
                Some(commands) if is_current => {
                    commands.open(receiver);
                    match self.subscribing {
                        Some(_) => self.keep_subscription(output, hub),
                        None => self.receive(output, hub),
                    }
                }
                _ => self.ask(About::Nothing, 0, Request::CloseReceiver { receiver }, hub),
            },
            (About::OpenReceiver, _) if is_current => {
                self.commands = None;
                self.answer_subscribing(false, output, hub);
            }
            (About::Subscription, reply) => self.take_subscription(reply, output, hub),
            (About::Receive, Reply::Commands(commands)) if is_current => {
                let Some(mut open) = self.commands.take() else { return };
                open.end_receive();
                for command in &commands {
                    let request = open.send(&mut self.connection, command, output);
                    self.settle(request, hub);
                }
                self.commands = Some(open);
                self.receive(output, hub);
            }
            // Its receiver was taken away; a notice says so, or the session is over.
            (About::Receive, _) if is_current => {
                if let Some(commands) = &mut self.commands {
                    commands.end_receive();
                }
            }
            // A settlement that came too late: the lock had ended, and the command comes again.
            _ => {}
        }
    }

    fn take_appended(&mut self, number: u64, reply: Reply, hub: &mut Context<'_>) {
        match reply {
            Reply::Appended { .. } => self.flight.complete(number),
            Reply::Failed(EngineError::Busy) => self.refuse_event(number, hub),
            // It will not be stored, and nothing in the protocol says so but the end of the connection.
            _ => self.finish(),
        }
    }

    fn take_authenticated(&mut self, reply: Reply, output: &mut Vec<u8>) {
        let Phase::Authenticating(device) = &self.phase else { return };
        match reply {
            Reply::Authenticated(grant) => {
                self.phase = Phase::Verified(device.clone(), Box::new(grant));
            }
            reply => self.refuse(refusal(&reply), output),
        }
    }

    fn take_session(&mut self, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let Phase::Attaching(device, expires_s) = &self.phase else { return };
        match reply {
            Reply::SessionOpened(session) => {
                // A token counts to the end of its last second.
                let end_s = expires_s.saturating_add(hub.hub.token_skew_s).saturating_add(1);
                let left_ms = end_s.saturating_mul(1000).saturating_sub(hub.now.wall_ms);
                self.expiry_ms = Some(hub.now.mono_ms.saturating_add(left_ms));
                self.phase = Phase::Resuming(device.clone());
                self.session = Some(session);
                let request = match self.is_persistent {
                    true => Request::FindSubscription { session },
                    false => Request::PutSubscription { session, subscription: None },
                };
                self.ask(About::Subscription, self.serial, request, hub);
            }
            reply => self.refuse(refusal(&reply), output),
        }
    }

    /// Do what is due whatever happened.
    fn finish_turn(&mut self, output: &mut Vec<u8>) {
        while let Some(id) = self.flight.poll_acknowledged() {
            self.connection.acknowledge(id, output);
        }
        if self.is_stopping && self.flight.is_empty() {
            self.finish();
        }
    }
}

/// The code to refuse a CONNECT with.
fn refusal(reply: &Reply) -> ConnectCode {
    match reply {
        Reply::Failed(
            EngineError::Unauthorized(_) | EngineError::DeviceNotFound | EngineError::DeviceDisabled,
        ) => ConnectCode::NotAuthorized,
        _ => ConnectCode::Unavailable,
    }
}

impl Binding for MqttBinding {
    fn handle_bytes(
        &mut self,
        input: &mut &[u8],
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) -> Result<(), Closing> {
        // Taken out, so that events can borrow from it while the rest of the binding works.
        let mut inbound = std::mem::take(&mut self.inbound);
        while self.wants_input() {
            match self.connection.handle(&mut inbound, input, output, hub.now.mono_ms) {
                Ok(Some(event)) => self.take(event, output, hub)?,
                Ok(None) => break,
                Err(fault) => return Err(Closing::fault(fault.to_string())),
            }
        }
        self.inbound = inbound;
        Ok(())
    }

    fn handle_reply(&mut self, token: u64, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if let Some(about) = About::of(token) {
            self.take_reply(about, reply, output, hub);
        }
        // An answer means that there is room again.
        self.retry(hub);
    }

    fn handle_notice(&mut self, notice: Notice, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        match notice {
            Notice::SessionEnded { session, .. } if self.session == Some(session) => {
                // A newer connection of the device, or its end: nothing of this one is stored any more, the will included.
                self.session = None;
                self.finish();
            }
            Notice::ReceiverEnded { receiver } => {
                self.commands.take_if(|commands| commands.receiver() == Some(receiver));
            }
            _ => {}
        }
    }

    fn handle_timeout(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let now_ms = hub.now.mono_ms;
        let is_over = |at_ms: Option<u64>| at_ms.is_some_and(|at_ms| at_ms <= now_ms);
        if is_over(self.expiry_ms)
            || is_over(self.refused_since_ms.map(|since_ms| since_ms + limits::REFUSED_MS_MAX))
            || self.connection.handle_timeout(now_ms, output).is_err()
        {
            return self.finish();
        }
        if is_over(self.retry_at_ms) {
            self.retry(hub);
        }
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Finished => None,
            _ => [self.retry_at_ms, self.expiry_ms, self.connection.next_timeout_ms()]
                .into_iter()
                .flatten()
                .min(),
        }
    }

    fn handle_output_drained(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.receive(output, hub);
    }

    fn handle_turn_end(&mut self, output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        self.finish_turn(output);
        self.flight.trim();
    }

    fn home(&self) -> Option<DeviceId> {
        match &self.phase {
            Phase::Verified(device, _) => Some(device.clone()),
            _ => None,
        }
    }

    fn awaits_home(&self) -> bool {
        matches!(self.phase, Phase::Verified(..))
    }

    fn handle_home(&mut self, _output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let Phase::Verified(device, grant) = &self.phase else { return };
        let (device, grant) = (device.clone(), Grant::clone(grant));
        self.phase = Phase::Attaching(device.clone(), grant.expires_s);
        let protocol = protocol(hub.transport);
        self.ask(About::OpenSession, 0, Request::OpenSession { device, grant, protocol }, hub);
    }

    fn wants_input(&self) -> bool {
        match self.phase {
            Phase::New => true,
            Phase::Attached(..) => !self.is_stopping && self.subscribing.is_none() && self.flight.has_room(),
            _ => false,
        }
    }

    fn begin_stop(&mut self, output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        match self.phase {
            Phase::Attached(..) => self.is_stopping = true,
            Phase::New => self.finish(),
            _ => self.refuse(ConnectCode::Unavailable, output),
        }
    }

    fn handle_gone(&mut self, hub: &mut Context<'_>) {
        if let (Some(session), Some(will)) = (self.session, self.will.take()) {
            let caller = Caller { connection: hub.connection, token: About::Nothing.token(0) };
            // Nobody is left to try again for.
            if hub.door.append(caller, AppendView { session, events: &[will.view()] }).is_err() {
                tracing::warn!(peer = %hub.peer, "a device's will is lost: the engine has no room for it");
            }
        }
    }

    fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }
}

#[cfg(test)]
mod tests;
