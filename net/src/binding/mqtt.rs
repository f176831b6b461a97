//! MQTT, spoken for the hub: one device, its telemetry, its commands.
//!
//! [`MqttBinding`] turns the events of [`net_mqtt::Connection`] into requests to the engine and its answers into packets. A
//! device says who it is in its CONNECT, and is then attached with one session, as a device of AMQP is. A PUBACK leaves when
//! the event is durable, and not before; a command is completed by the device's PUBACK and stays locked until then. What a
//! device may not do ends its connection, for MQTT 3.1.1 has no other word for it [IoT Hub: iot-mqtt-connect-to-iot-hub].

mod bag;
mod commands;
mod limits;
mod login;
mod subscribing;
mod topic;

use std::sync::{Arc, LazyLock};

use engine::request::{EngineError, Notice, Reply, Request};
use net_mqtt::{Config, Connect, ConnectCode, Connection, Draft, Event, Inbound, PacketId, Publish, Role};
use registry::DeviceId;
use tracing::{debug, info};

use super::presence::{End, Presence, Told};
use super::status::{NO_TWIN, NO_TWIN_STATUS};
use super::{Binding, Closing, Context};
use bag::{RETAIN_PROPERTY, encode_event};
use commands::Commands;
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
    presence: Presence<PacketId>,
    commands: Option<Box<Commands>>,
    /// A SUBSCRIBE or UNSUBSCRIBE in work; nothing more is read until it is answered.
    subscribing: Option<Box<Subscribing>>,
    will: Option<Box<StoredWill>>,
    /// The device's subscription is kept while it is away.
    is_persistent: bool,
    /// The engine says what the device has subscribed to earlier, or forgets it; CONNACK waits for that.
    is_resuming: bool,
    /// Nothing was read from the device at the end of the last turn; see [`MqttBinding::is_deaf`].
    was_deaf: bool,
}

impl MqttBinding {
    /// A connection whose first bytes are about to be handed over.
    pub fn new(hub: &Context<'_>) -> Self {
        Self {
            connection: Connection::new(Role::Server, Arc::clone(&CONFIG), hub.now.mono_ms),
            inbound: Inbound::default(),
            presence: Presence::default(),
            commands: None,
            subscribing: None,
            will: None,
            is_persistent: false,
            is_resuming: false,
            was_deaf: false,
        }
    }

    fn take(&mut self, event: Event<'_>, output: &mut Vec<u8>, hub: &mut Context<'_>) -> Result<(), Closing> {
        match event {
            Event::Connect(connect) => self.take_connect(&connect, output, hub),
            Event::Publish(publish) => self.take_publish(&publish, output, hub)?,
            Event::Acknowledged(id) => {
                if let Some(commands) = &mut self.commands {
                    commands.complete(id, &mut self.presence, hub);
                }
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
            Err(code) => {
                let device = DeviceId::parse(connect.client_id).ok();
                hub.refuse_login(device, true);
                self.refuse(code, output);
            }
            Ok(login) => {
                self.will = login.will;
                self.is_persistent = !login.clean_session;
                self.presence.log_in(login.credentials, hub);
            }
        }
    }

    fn refuse(&mut self, code: ConnectCode, output: &mut Vec<u8>) {
        self.connection.refuse(code, output);
        self.will = None;
        self.finish();
    }

    fn finish(&mut self) {
        self.presence.finish();
        self.commands = None;
        self.subscribing = None;
    }

    /// The device, once its CONNECT is accepted.
    fn attached(&self) -> Option<&DeviceId> {
        self.presence.device().filter(|_| !self.is_resuming)
    }

    /// Whether the device's silence says nothing, because nothing is read from it: what it said waits in the socket.
    fn is_deaf(&self) -> bool {
        self.connection.is_open() && (self.was_deaf || !self.wants_input())
    }

    fn take_publish(
        &mut self,
        publish: &Publish<'_>,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) -> Result<(), Closing> {
        let Some(device) = self.attached() else { return Ok(()) };
        match Target::of(publish.topic, device) {
            Target::Telemetry { bag } => {
                let marks: &[(&str, &str)] = if publish.retain { &[RETAIN_PROPERTY] } else { &[] };
                let encode = |out: &mut Vec<u8>| encode_event(bag, publish.payload, marks, out);
                self.presence
                    .send(publish.id, encode, hub)
                    .map_err(|error| Closing::fault(error.to_string()))?;
            }
            Target::Twin { request_id } => {
                self.presence.pass(publish.id);
                // Clients fail with it instead of waiting: Python's by the status, Node's by the body alone.
                let topic = format!("$iothub/twin/res/{NO_TWIN_STATUS}/?$rid={request_id}");
                let draft = Draft { topic: &topic, payload: NO_TWIN, needs_ack: false, retain: false };
                if topic.len() <= usize::from(u16::MAX) {
                    // Without acknowledgement there is no window that could be full.
                    let _ = self.connection.publish(&draft, output);
                }
            }
            Target::Foreign => return Err(Closing::fault("a message to a topic that is not the device's")),
        }
        Ok(())
    }

    /// Tell what is stored, up to the first event that still waits. That makes room for more.
    fn acknowledge(&mut self, output: &mut Vec<u8>) {
        while let Some(id) = self.presence.poll_stored() {
            self.connection.acknowledge(id, output);
        }
    }

    /// Ask for commands, if there is room for them.
    fn receive(&mut self, output: &[u8], hub: &mut Context<'_>) {
        let is_wanted = self.commands.as_ref().is_some_and(|commands| !commands.is_ending());
        if self.subscribing.is_some() || !is_wanted || hub.output_is_full(output) {
            return;
        }
        let room = u32::try_from(self.connection.window()).unwrap_or(u32::MAX);
        self.presence.receive(room, hub);
    }

    /// What the device's presence has come to.
    fn hear(&mut self, told: Told, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        match told {
            Told::Attached(session) => {
                self.is_resuming = true;
                let request = match self.is_persistent {
                    true => Request::FindSubscription { session },
                    false => Request::PutSubscription { session, subscription: None },
                };
                self.presence.ask(request, hub);
            }
            Told::Refused(error) => self.refuse(refusal(&error), output),
            Told::Receiver(true) => match self.subscribing {
                Some(_) => self.keep_subscription(output, hub),
                None => self.receive(output, hub),
            },
            Told::Receiver(false) => self.fail_subscribing(&EngineError::ReceiverEnded, hub),
            Told::Answer(reply) => self.take_subscription(reply, output, hub),
            Told::Commands(locked) => {
                if let Some(commands) = &mut self.commands {
                    for command in &locked {
                        commands.send(command, &mut self.connection, &mut self.presence, output, hub);
                    }
                }
                self.receive(output, hub);
            }
            // Where it came too late, the lock had ended, and the command comes again.
            Told::Settled { .. } => self.close_ended(hub),
            Told::ReceiverEnded => self.commands = None,
            Told::Over(end) if self.is_resuming => self.refuse(refusal(&end.error()), output),
            // The end of the connection is the protocol's only word for it.
            Told::Over(end) => {
                let is_ours = matches!(end, End::Throttled | End::NotStored(_));
                let (error, peer) = (end.error(), hub.peer);
                match is_ours {
                    true => info!(%peer, "connection ended: {error}"),
                    false => debug!(%peer, "connection ended: {error}"),
                }
                self.finish();
            }
        }
    }
}

/// The code to refuse a CONNECT with.
fn refusal(error: &EngineError) -> ConnectCode {
    match error {
        EngineError::Unauthorized(_) | EngineError::DeviceNotFound | EngineError::DeviceDisabled => {
            ConnectCode::NotAuthorized
        }
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
                Ok(Some(event)) => {
                    self.take(event, output, hub)?;
                    self.acknowledge(output);
                }
                Ok(None) => break,
                Err(fault) => return Err(Closing::fault(fault.to_string())),
            }
        }
        self.inbound = inbound;
        Ok(())
    }

    fn handle_reply(&mut self, token: u64, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if let Some(told) = self.presence.handle_reply(token, reply, hub) {
            self.hear(told, output, hub);
        }
        self.acknowledge(output);
    }

    fn handle_notice(&mut self, notice: Notice, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if let Some(told) = self.presence.handle_notice(notice) {
            self.hear(told, output, hub);
        }
    }

    fn handle_timeout(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if let Some(told) = self.presence.handle_timeout(hub) {
            self.hear(told, output, hub);
        } else if !self.is_deaf()
            && let Err(fault) = self.connection.handle_timeout(hub.now.mono_ms, output)
        {
            info!(peer = %hub.peer, "connection ended: {fault}");
            self.finish();
        }
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        match self.is_finished() {
            true => None,
            false => {
                let silence_ms = self.connection.next_timeout_ms().filter(|_| !self.is_deaf());
                [self.presence.next_timeout_ms(), silence_ms].into_iter().flatten().min()
            }
        }
    }

    fn handle_output_drained(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.receive(output, hub);
    }

    fn handle_turn_end(&mut self, _output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let is_deaf = self.connection.is_open() && !self.wants_input();
        if std::mem::replace(&mut self.was_deaf, is_deaf) && !is_deaf {
            self.connection.restart_silence(hub.now.mono_ms);
        }
        if self.presence.is_settled() {
            self.finish();
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
        self.presence.handle_home(protocol(hub.transport), hub);
    }

    fn wants_input(&self) -> bool {
        self.presence.is_unknown()
            || (self.presence.has_room() && !self.is_resuming && self.subscribing.is_none())
    }

    fn begin_stop(&mut self, output: &mut Vec<u8>, _hub: &mut Context<'_>) {
        if self.attached().is_some() {
            self.presence.begin_stop();
        } else if self.presence.is_unknown() {
            self.finish();
        } else {
            self.refuse(ConnectCode::Unavailable, output);
        }
    }

    fn handle_gone(&mut self, hub: &mut Context<'_>) {
        if let Some(will) = self.will.take() {
            self.presence.send_last(will.view(), hub);
        }
    }

    fn is_finished(&self) -> bool {
        self.presence.is_over()
    }
}

#[cfg(test)]
mod tests;
