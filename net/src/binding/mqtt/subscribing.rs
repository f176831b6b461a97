//! The device's subscription to its commands: granted, kept while it is away, taken up again.

use engine::request::{EngineError, Reply, Request, Subscription};
use net_mqtt::{Filters, PacketId, Qos, SubAck};

use super::commands::Commands;
use super::topic::command_prefix;
use super::{MqttBinding, refusal};
use crate::binding::Context;

/// What a SUBSCRIBE or UNSUBSCRIBE is answered with, once its receiver is open and it is kept.
pub(super) struct Subscribing {
    id: PacketId,
    /// None: it is an UNSUBSCRIBE.
    codes: Option<Vec<u8>>,
}

impl MqttBinding {
    /// The only subscription that a device can have here is to its commands. The others are refused one by one; those
    /// to twins and methods, which this hub does not have, among them.
    pub(super) fn take_subscribe(
        &mut self,
        id: PacketId,
        filters: &Filters<'_>,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) {
        let Some(device) = self.attached() else { return };
        let mut wanted = None;
        let code = |(filter, qos): (_, Qos)| match command_prefix(filter, device) {
            None => SubAck::REFUSED,
            Some(prefix) => {
                let granted = qos.min(Qos::AtLeastOnce);
                wanted = Some((prefix, granted == Qos::AtLeastOnce));
                granted as u8
            }
        };
        let codes: Vec<u8> = filters.iter().map(code).collect();
        match (wanted, &mut self.commands) {
            (None, _) => self.connection.answer_subscribe(id, &codes, output),
            (Some((prefix, needs_ack)), Some(commands)) => {
                commands.renew(prefix, needs_ack);
                self.subscribing = Some(Box::new(Subscribing { id, codes: Some(codes) }));
                // A receiver that is being opened, for the subscription of an earlier connection, comes first here too.
                if !self.presence.is_opening_receiver() {
                    self.keep_subscription(output, hub);
                }
            }
            (Some((prefix, needs_ack)), None) => {
                let commands = Commands::new(prefix, needs_ack);
                self.subscribing = Some(Box::new(Subscribing { id, codes: Some(codes) }));
                self.open_receiver(commands, hub);
            }
        }
    }

    fn open_receiver(&mut self, commands: Commands, hub: &mut Context<'_>) {
        self.commands = Some(Box::new(commands));
        self.presence.open_receiver(hub);
    }

    /// The subscription is another one now: keep it, if that is wanted, then answer.
    pub(super) fn keep_subscription(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        match self.presence.session() {
            Some(session) if self.is_persistent => {
                let commands = self.commands.as_ref().filter(|commands| !commands.is_ending());
                let subscription = commands.map(|commands| commands.subscription());
                self.presence.ask(Request::PutSubscription { session, subscription }, hub);
            }
            _ => self.answer_subscribing(output, hub),
        }
    }

    fn answer_subscribing(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let Some(subscribing) = self.subscribing.take() else { return };
        match subscribing.codes {
            Some(codes) => self.connection.answer_subscribe(subscribing.id, &codes, output),
            None => self.connection.answer_unsubscribe(subscribing.id, output),
        }
        self.receive(output, hub);
    }

    /// The subscription is not what the device wants it to be. An UNSUBACK cannot say so, and Azure's packages take every SUBACK for
    /// a grant: the connection ends [MQTT-4.8.0-2].
    pub(super) fn fail_subscribing(&mut self, error: &EngineError, hub: &Context<'_>) {
        tracing::info!(peer = %hub.peer, "connection ended: its subscription cannot be kept: {error}");
        self.finish();
    }

    pub(super) fn take_unsubscribe(
        &mut self,
        id: PacketId,
        filters: &Filters<'_>,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) {
        let Some(device) = self.attached() else { return };
        if !filters.iter().any(|(filter, _)| command_prefix(filter, device).is_some()) {
            return self.connection.answer_unsubscribe(id, output);
        }
        if let Some(commands) = &mut self.commands {
            commands.begin_end();
            self.presence.cancel_receive(hub);
            self.close_ended(hub);
        }
        self.subscribing = Some(Box::new(Subscribing { id, codes: None }));
        self.keep_subscription(output, hub);
    }

    /// Close the receiver of a subscription that has ended, once what was on the way is completed.
    pub(super) fn close_ended(&mut self, hub: &mut Context<'_>) {
        if self.commands.as_ref().is_some_and(|commands| commands.is_ended()) && !self.presence.is_settling()
        {
            self.commands = None;
            self.presence.close_receiver(hub);
        }
    }

    /// The engine's answer about the subscription: of earlier connections, while this one begins, or of this one.
    pub(super) fn take_subscription(&mut self, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if !self.is_resuming {
            return match reply {
                Reply::Done => self.answer_subscribing(output, hub),
                Reply::Failed(error) => self.fail_subscribing(&error, hub),
                _ => self.fail_subscribing(&EngineError::StorageFailed, hub),
            };
        }
        let subscription = match reply {
            Reply::Done => None,
            Reply::Subscription(subscription) => subscription,
            Reply::Failed(error) => return self.refuse(refusal(&error), output),
            _ => return self.refuse(refusal(&EngineError::StorageFailed), output),
        };
        self.is_resuming = false;
        self.connection.accept(subscription.is_some(), hub.now.mono_ms, output);
        if let Some(Subscription { address, needs_ack }) = subscription {
            self.open_receiver(Commands::new(&address, needs_ack), hub);
        }
    }
}
