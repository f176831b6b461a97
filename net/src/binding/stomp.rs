//! STOMP 1.2 over TLS, the example of `docs/add-a-protocol.md`: one device per connection, its telemetry, its commands.
//!
//! | frame of the device | what it does |
//! |---|---|
//! | `CONNECT`, `STOMP` | `login` is the device id, `passcode` its SAS token |
//! | `SEND` to `/devices/{id}/messages/events` | an event; its `receipt` is answered when it is durable |
//! | `SUBSCRIBE` to `/devices/{id}/messages/devicebound` | commands as `MESSAGE`s; with `ack:auto` a command is completed when it is sent |
//! | `ACK`, `NACK` | completes or abandons a command, with `ack:client` those before it too |
//! | `UNSUBSCRIBE`, `DISCONNECT` | what is not settled goes back to the queue |
//!
//! Properties are headers, named as in HTTPS ([`fields`](super::fields)): `iothub-messageid`, `content-type`, the sender's
//! own behind `iothub-app-`. Any other header of a `SEND` is a property of that name. Everything else is refused with an `ERROR`
//! whose `code` is IoT Hub's, and the connection ends, as STOMP has it.

pub mod frame;
mod limits;
mod subscription;

use engine::monitor::Protocol;
use engine::request::{EngineError, Notice, Reply, Settlement, UnauthorizedReason};
use net_amqp::performative::code;
use net_amqp::{message, value};
use registry::DeviceId;

use super::address::{Address, DeviceSegment};
use super::fields::MessageFields;
use super::presence::{Credentials, EventError, EventShape, Presence, Told};
use super::properties::plan_message;
use super::status::{Status, invalid};
use super::{Binding, Closing, Context};
use crate::further::Further;
use frame::{Frame, Inbound, Limits};
use subscription::{Mode, Subscription};

/// How the hub finds it.
pub const FURTHER: Further =
    Further { scheme: "stomps", title: "STOMP over TLS", open: |hub| Box::new(StompBinding::new(hub)) };

/// How devices that come by STOMP are told apart in monitoring.
const PROTOCOL: Protocol = Protocol::Further("stomps");

const CONTENT_TYPE: &str = "content-type";
const RECEIPT: &str = "receipt";

/// Headers that say how a frame travels, and nothing of the message.
const OWN_HEADERS: [&str; 4] = ["destination", RECEIPT, "content-length", "transaction"];

/// One STOMP connection to the hub.
pub struct StompBinding {
    inbound: Inbound,
    presence: Presence<Box<str>>,
    subscription: Option<Box<Subscription>>,
    /// A SUBSCRIBE waits for its receiver; nothing more is read until it is there. With the receipt that it asked for.
    subscribing: Option<Option<Box<str>>>,
    /// Receipts for settlements that are not durable yet, by the marks of the settlements.
    settling: Vec<(u32, Box<str>)>,
    last_mark: u32,
    /// The device has said goodbye.
    is_leaving: bool,
    heart: Heart,
}

/// Heart-beats, in both directions.
struct Heart {
    /// How often the device wants to hear something; 0: it does not.
    beat_ms: u32,
    next_beat_ms: u64,
    /// How long the device may be silent.
    patience_ms: u64,
    deadline_ms: u64,
}

impl StompBinding {
    /// A connection whose first bytes are about to be handed over.
    pub fn new(hub: &Context<'_>) -> Self {
        Self {
            inbound: Inbound::default(),
            presence: Presence::default(),
            subscription: None,
            subscribing: None,
            settling: Vec::new(),
            last_mark: 0,
            is_leaving: false,
            heart: Heart {
                beat_ms: 0,
                next_beat_ms: 0,
                patience_ms: limits::CONNECT_MS_MAX,
                deadline_ms: hub.now.mono_ms + limits::CONNECT_MS_MAX,
            },
        }
    }

    fn frame_limits(&self) -> Limits {
        match self.presence.is_unknown() {
            true => Limits { head_bytes_max: limits::CONNECT_BYTES_MAX, body_bytes_max: 0 },
            false => Limits {
                head_bytes_max: limits::HEAD_BYTES_MAX,
                body_bytes_max: super::presence::limits::EVENT_BYTES_MAX,
            },
        }
    }

    fn take(&mut self, frame: &Frame, output: &[u8], hub: &mut Context<'_>) -> Result<(), Status> {
        if self.presence.is_unknown() {
            return match frame.command.as_str() {
                "CONNECT" | "STOMP" => self.take_connect(frame, hub),
                _ => Err(invalid("the first frame is CONNECT or STOMP")),
            };
        }
        match frame.command.as_str() {
            "SEND" => self.take_send(frame, hub),
            "SUBSCRIBE" => self.take_subscribe(frame, hub),
            "UNSUBSCRIBE" => {
                self.subscribed(frame.header("id"))?;
                self.subscription = None;
                self.presence.close_receiver(hub);
                self.presence.pass(receipt(frame));
                Ok(())
            }
            "ACK" => self.take_settlement(frame, Settlement::Complete, output, hub),
            "NACK" => self.take_settlement(frame, Settlement::Abandon, output, hub),
            "DISCONNECT" => {
                self.is_leaving = true;
                self.presence.pass(receipt(frame));
                self.presence.begin_stop();
                Ok(())
            }
            "BEGIN" | "COMMIT" | "ABORT" => Err(invalid("there are no transactions here")),
            _ => Err(invalid("an unknown command")),
        }
    }

    fn take_connect(&mut self, frame: &Frame, hub: &mut Context<'_>) -> Result<(), Status> {
        let versions = frame.header("accept-version").unwrap_or("1.0");
        if !versions.split(',').any(|version| version.trim() == "1.2") {
            return Err(invalid("the version of STOMP here is 1.2"));
        }
        let unauthorized = |reason| Status::of(&EngineError::Unauthorized(reason));
        let device = frame.header("login").and_then(|login| DeviceId::parse(login).ok());
        let device = device.ok_or_else(|| invalid("login is the device's id"))?;
        let token = frame.header("passcode").ok_or_else(|| unauthorized(UnauthorizedReason::Malformed))?;
        let credentials = Credentials::with_token(device.clone(), token, PROTOCOL, hub.hub.partition_count);
        let credentials = credentials.map_err(|reason| {
            hub.refuse_login(Some(device), true);
            unauthorized(reason)
        })?;
        self.heart = Heart::agreed(frame.header("heart-beat"), hub.now.mono_ms)?;
        self.presence.log_in(credentials, hub);
        Ok(())
    }

    fn take_send(&mut self, frame: &Frame, hub: &mut Context<'_>) -> Result<(), Status> {
        self.check_destination(frame, |address| match address {
            Address::DeviceEvents(device) => Some(device),
            _ => None,
        })?;
        let message = encode_message(frame)?;
        let encode = |out: &mut Vec<u8>| {
            let mut made = Vec::new();
            let plan = plan_message(&message, &mut made)?;
            Ok(EventShape::append(&plan.view(&message, &made), out))
        };
        self.presence.send(receipt(frame), encode, hub).map_err(
            |error: EventError<super::properties::MessageError>| match error {
                EventError::Malformed(error) => invalid(error.to_string()),
                EventError::TooLarge { bytes } => Status::of(&EngineError::EventTooLarge {
                    bytes: bytes as u64,
                    bytes_max: super::presence::limits::EVENT_BYTES_MAX as u64,
                }),
            },
        )
    }

    fn take_subscribe(&mut self, frame: &Frame, hub: &mut Context<'_>) -> Result<(), Status> {
        if self.subscription.is_some() {
            return Err(invalid("a device has one subscription, to its commands"));
        }
        self.check_destination(frame, |address| match address {
            Address::DeviceCommands(device) => Some(device),
            _ => None,
        })?;
        let id = frame.header("id").ok_or_else(|| invalid("a subscription has an id"))?;
        let mode = Mode::of(frame.header("ack"))
            .ok_or_else(|| invalid("ack is auto, client or client-individual"))?;
        let destination = frame.header("destination").unwrap_or_default();
        self.subscription = Some(Box::new(Subscription::new(id, destination, mode)));
        self.subscribing = Some(receipt(frame));
        self.presence.open_receiver(hub);
        Ok(())
    }

    /// ACK or NACK. What the receipt says is that the settlement is durable.
    fn take_settlement(
        &mut self,
        frame: &Frame,
        settlement: Settlement,
        output: &[u8],
        hub: &mut Context<'_>,
    ) -> Result<(), Status> {
        let id = frame.header("id").ok_or_else(|| invalid("what is settled has an id"))?;
        let subscription = self.subscription.as_mut().ok_or_else(|| invalid("there is no subscription"))?;
        let tokens =
            subscription.settle(id).ok_or_else(|| invalid("nothing of this id waits to be settled"))?;
        self.last_mark = self.last_mark.wrapping_add(1).max(1);
        let count = tokens.len();
        for (index, token) in tokens.into_iter().enumerate() {
            // They are answered in order: the last one's answer is the frame's.
            let mark = if index + 1 == count { self.last_mark } else { 0 };
            self.presence.settle(token, settlement, mark, hub);
        }
        self.settling.extend(receipt(frame).map(|receipt| (self.last_mark, receipt)));
        self.receive(output, hub);
        Ok(())
    }

    fn subscribed(&self, id: Option<&str>) -> Result<(), Status> {
        match &self.subscription {
            Some(subscription) if id == Some(subscription.id()) => Ok(()),
            _ => Err(invalid("there is no subscription of this id")),
        }
    }

    /// The destination must be the device's own.
    fn check_destination(
        &self,
        frame: &Frame,
        of: impl FnOnce(Address) -> Option<DeviceSegment>,
    ) -> Result<(), Status> {
        let text = frame.header("destination").ok_or_else(|| invalid("a destination is missing"))?;
        let segment = of(Address::parse(text, ""));
        let is_own =
            segment.is_some_and(|segment| segment.candidates().any(|id| Some(&id) == self.presence.device()));
        match is_own {
            true => Ok(()),
            false => Err(Status::of(&EngineError::Unauthorized(UnauthorizedReason::NotCovered))),
        }
    }

    /// Answer what asked for a receipt, up to the first event that still waits. That makes room for more.
    fn tell_stored(&mut self, output: &mut Vec<u8>) {
        while let Some(receipt) = self.presence.poll_stored() {
            answer(&receipt, output);
        }
    }

    /// Ask for commands, if there is room for them.
    fn receive(&mut self, output: &[u8], hub: &mut Context<'_>) {
        if let Some(subscription) = &self.subscription
            && !hub.output_is_full(output)
        {
            self.presence.receive(subscription.room(), hub);
        }
    }

    /// What the device's presence has come to.
    fn hear(&mut self, told: Told, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        match told {
            Told::Attached(_) => {
                Frame::new("CONNECTED")
                    .with("version", "1.2")
                    .with("server", "corehub")
                    .with("heart-beat", format!("{0},{0}", limits::BEAT_MS_MIN))
                    .encode(output);
                self.heart.next_beat_ms = hub.now.mono_ms + u64::from(self.heart.beat_ms);
                self.heart.heard(hub.now.mono_ms);
            }
            Told::Refused(error) => self.fail(&Status::of(&error), None, output),
            Told::Receiver(true) => {
                if let Some(Some(receipt)) = self.subscribing.take() {
                    answer(&receipt, output);
                }
                self.receive(output, hub);
            }
            Told::Receiver(false) | Told::ReceiverEnded => {
                let receipt = self.subscribing.take().flatten();
                self.fail(&Status::of(&EngineError::ReceiverEnded), receipt.as_deref(), output);
            }
            Told::Commands(commands) => {
                if let Some(subscription) = &mut self.subscription {
                    for command in &commands {
                        if let Some(settlement) = subscription.send(command, output) {
                            self.presence.settle(command.token, settlement, 0, hub);
                        }
                    }
                }
                self.receive(output, hub);
            }
            Told::Settled { mark, result } => self.hear_settled(mark, result, output),
            // Nothing is asked.
            Told::Answer(_) => {}
            Told::Over(end) => self.fail(&Status::of(&end.error()), None, output),
        }
    }

    /// Who asked for a receipt hears how it went; for the others a lock that was lost means that the command comes again.
    fn hear_settled(&mut self, mark: u32, result: Result<(), EngineError>, output: &mut Vec<u8>) {
        let Some(place) = self.settling.iter().position(|(known, _)| *known == mark) else { return };
        let (_, receipt) = self.settling.remove(place);
        match result {
            Ok(()) => answer(&receipt, output),
            Err(error) => self.fail(&Status::of(&error), Some(&receipt), output),
        }
    }

    /// Say what is wrong. The connection is over.
    fn fail(&mut self, status: &Status, receipt: Option<&str>, output: &mut Vec<u8>) {
        let mut frame = Frame::new("ERROR")
            .with("version", "1.2")
            .with("message", status.name)
            .with("code", status.code.to_string())
            .with(CONTENT_TYPE, "text/plain");
        if let Some(receipt) = receipt {
            frame = frame.with("receipt-id", receipt);
        }
        frame.with_body(status.message.as_bytes()).encode(output);
        self.presence.finish();
        self.subscription = None;
    }
}

/// The receipt that a frame asks for.
fn receipt(frame: &Frame) -> Option<Box<str>> {
    frame.header(RECEIPT).map(Into::into)
}

fn answer(receipt: &str, output: &mut Vec<u8>) {
    Frame::new("RECEIPT").with("receipt-id", receipt).encode(output);
}

/// The AMQP message that a SEND means.
fn encode_message(frame: &Frame) -> Result<Vec<u8>, Status> {
    let mut fields = MessageFields::default();
    let mut seen: Vec<&str> = Vec::new();
    for (name, value) in &frame.headers {
        if OWN_HEADERS.contains(&name.as_str()) || seen.contains(&name.as_str()) {
            continue;
        }
        seen.push(name);
        if name == CONTENT_TYPE {
            fields.take("iothub-contenttype", value)?;
        } else if name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("iothub-")) {
            fields.take(name, value)?;
        } else {
            fields.put(name, value)?;
        }
    }
    let mut bytes = Vec::new();
    fields.encode_to(&mut bytes);
    message::section(&mut bytes, code::DATA);
    value::encode::binary(&mut bytes, &frame.body);
    Ok(bytes)
}

impl Heart {
    /// From the device's `heart-beat:<how often it can>,<how often it wants>`.
    fn agreed(header: Option<&str>, now_ms: u64) -> Result<Self, Status> {
        let wrong = || invalid("heart-beat is two numbers of milliseconds");
        let (can, wants) = header.unwrap_or("0,0").split_once(',').ok_or_else(wrong)?;
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let longer = |ms: u32| if ms == 0 { 0 } else { ms.max(limits::BEAT_MS_MIN) };
        let (can_ms, beat_ms) = (longer(number(can)?), longer(number(wants)?));
        let patience_ms = match can_ms {
            0 => limits::SILENCE_MS_MAX,
            // Half as much again, for the way.
            ms => (u64::from(ms) * 3 / 2).min(limits::SILENCE_MS_MAX),
        };
        let (next_beat_ms, deadline_ms) = (now_ms + u64::from(beat_ms), now_ms + patience_ms);
        Ok(Self { beat_ms, next_beat_ms, patience_ms, deadline_ms })
    }

    fn heard(&mut self, now_ms: u64) {
        self.deadline_ms = now_ms + self.patience_ms;
    }
}

impl Binding for StompBinding {
    fn handle_bytes(
        &mut self,
        input: &mut &[u8],
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) -> Result<(), Closing> {
        if !self.presence.is_unknown() {
            self.heart.heard(hub.now.mono_ms);
        }
        while self.wants_input() {
            let limits = self.frame_limits();
            let (result, receipt) = match self.inbound.next(input, limits) {
                Ok(None) => break,
                Ok(Some(frame)) => (self.take(&frame, output, hub), receipt(&frame)),
                Err(fault) => (Err(invalid(fault.to_string())), None),
            };
            if let Err(status) = result {
                self.fail(&status, receipt.as_deref(), output);
                return Err(Closing::fault(format!("{} {}", status.code, status.message)));
            }
            self.tell_stored(output);
        }
        Ok(())
    }

    fn handle_reply(&mut self, token: u64, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if let Some(told) = self.presence.handle_reply(token, reply, hub) {
            self.hear(told, output, hub);
        }
        self.tell_stored(output);
    }

    fn handle_notice(&mut self, notice: Notice, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if let Some(told) = self.presence.handle_notice(notice) {
            self.hear(told, output, hub);
        }
    }

    fn handle_timeout(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let now_ms = hub.now.mono_ms;
        if let Some(told) = self.presence.handle_timeout(hub) {
            self.hear(told, output, hub);
        } else if now_ms >= self.heart.deadline_ms {
            self.fail(&invalid("nothing was heard for too long"), None, output);
        } else if self.presence.device().is_some()
            && self.heart.beat_ms > 0
            && now_ms >= self.heart.next_beat_ms
        {
            output.push(b'\n');
            self.heart.next_beat_ms = now_ms + u64::from(self.heart.beat_ms);
        }
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        if self.is_finished() {
            return None;
        }
        let beats = self.presence.device().is_some() && self.heart.beat_ms > 0;
        [
            self.presence.next_timeout_ms(),
            beats.then_some(self.heart.next_beat_ms),
            Some(self.heart.deadline_ms),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn handle_output_drained(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.receive(output, hub);
    }

    fn handle_turn_end(&mut self, output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        if self.presence.is_settled() && !self.presence.is_over() {
            match self.is_leaving {
                true => self.presence.finish(),
                false => self.fail(&Status::of(&EngineError::Stopping), None, output),
            }
        }
        self.presence.trim();
    }

    fn home(&self) -> Option<DeviceId> {
        self.presence.home()
    }

    fn awaits_home(&self) -> bool {
        self.presence.awaits_home()
    }

    fn handle_home(&mut self, _output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.presence.handle_home(PROTOCOL, hub);
    }

    fn wants_input(&self) -> bool {
        let has_room = self.subscribing.is_none() && self.settling.len() < limits::SETTLING_MAX;
        self.presence.is_unknown() || (self.presence.has_room() && has_room)
    }

    fn begin_stop(&mut self, output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        match self.presence.device() {
            Some(_) => self.presence.begin_stop(),
            None => self.fail(&Status::of(&EngineError::Stopping), None, output),
        }
    }

    fn is_finished(&self) -> bool {
        self.presence.is_over()
    }
}
