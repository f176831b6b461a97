//! AMQP, spoken for the hub: tokens, telemetry and commands of devices, readers of the event hub, receipts.
//!
//! [`AmqpBinding`] turns the events of [`net_amqp::Connection`] into requests to the engine and its answers into frames. A
//! connection is a `Peer` whose parts are its login, the request nodes `$cbs`, `$management` and twins, the devices attached on it
//! with their telemetry links, receivers of events, inlets for commands, and outlets of commands and receipts. Each part gets
//! a `Turn` to work with: the protocol machine, the output, the way to the engine.

mod cbs;
mod checkpoint;
mod commands;
mod delivery;
mod filter;
mod grants;
mod limits;
mod link_table;
mod login;
mod management;
mod nodes;
mod peer;
mod pending;
mod readers;
mod rpc;
mod sasl;
mod sessions;
mod small_map;
mod telemetry;
mod turn;
mod twin;

use std::sync::{Arc, LazyLock};

use engine::request::{Appended, Notice, Reply};
use net_amqp::{Config, Connection, Inbound, LinkId, Role, SaslRole, condition};
use registry::DeviceId;

use super::{Binding, Closing, Context};
use peer::Peer;
use small_map::SmallMap;
use telemetry::append_number;
use turn::{Shared, Turn};

pub use readers::{CHECKPOINT_CAPABILITY, METRICS_CAPABILITY};

/// Something for each of several links.
type LinkMap<T> = SmallMap<LinkId, T>;

/// The settings of every AMQP connection.
static CONFIG: LazyLock<Arc<Config>> = LazyLock::new(|| {
    Arc::new(Config {
        container_id: "corehub".to_owned(),
        max_frame_bytes: limits::FRAME_BYTES_MAX,
        channel_max: limits::SESSION_COUNT_MAX - 1,
        idle_timeout_ms: limits::IDLE_TIMEOUT_MS,
        session_count_max: limits::SESSION_COUNT_MAX.into(),
        link_count_max: limits::LINK_COUNT_MAX,
        incoming_window: limits::INCOMING_WINDOW,
        message_bytes_max: limits::MESSAGE_BYTES_MAX,
        sasl: SaslRole::Offer(sasl::MECHANISMS.to_vec()),
        ..Config::default()
    })
});

/// One AMQP connection to the hub.
pub struct AmqpBinding {
    connection: Connection,
    inbound: Inbound,
    shared: Shared,
    peer: Peer,
}

impl AmqpBinding {
    /// A connection whose first bytes are about to be handed over.
    pub fn new(hub: &Context<'_>) -> Self {
        let now_ms = hub.now.mono_ms;
        Self {
            connection: Connection::new(Role::Server, Arc::clone(&CONFIG), now_ms),
            inbound: Inbound::default(),
            shared: Shared::default(),
            peer: Peer::new(now_ms),
        }
    }

    /// Run `action` with everything it needs, then do what is due whatever happened.
    fn with(
        &mut self,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
        action: impl FnOnce(&mut Peer, &mut Turn<'_, '_>),
    ) {
        let Self { connection, shared, peer, .. } = self;
        peer.with(&mut Turn { connection, output, hub, shared }, action);
    }

    /// After a SASL verdict the machine may have frames that the client sent ahead.
    fn resume_input(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if self.peer.take_verdict_given() && self.handle_bytes(&mut &[][..], output, hub).is_err() {
            self.peer.finish();
        }
    }
}

impl Binding for AmqpBinding {
    fn handle_bytes(
        &mut self,
        input: &mut &[u8],
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) -> Result<(), Closing> {
        let Self { connection, inbound, shared, peer } = self;
        while peer.wants_input() {
            match connection.handle(inbound, input, output, hub.now.mono_ms) {
                Ok(Some(event)) => peer.handle_event(&mut Turn { connection, output, hub, shared }, event),
                Ok(None) => break,
                Err(closed) => {
                    peer.finish();
                    return Err(Closing::fault(closed.error.to_string()));
                }
            }
        }
        // What is due whatever happened is due once for all that came together.
        peer.with(&mut Turn { connection, output, hub, shared }, |_, _| {});
        Ok(())
    }

    fn handle_reply(&mut self, token: u64, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with(output, hub, |peer, turn| {
            if let Some(number) = append_number(token) {
                peer.handle_append_answer(turn, number, &reply);
            } else if let Some(pending) = turn.shared.pending.remove(token) {
                peer.handle_reply(turn, pending, reply);
            }
            // An answer means that there is room again.
            peer.retry(turn);
        });
        self.resume_input(output, hub);
    }

    fn handle_appended(&mut self, appended: &[Appended], output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let numbers = appended.iter().filter_map(|appended| append_number(appended.token));
        numbers.for_each(|number| self.peer.handle_appended(number));
        self.with(output, hub, |peer, turn| {
            peer.tell_accepted(turn);
            peer.retry(turn);
        });
    }

    fn handle_notice(&mut self, notice: Notice, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with(output, hub, |peer, turn| peer.handle_notice(turn, notice));
    }

    fn handle_timeout(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        match self.connection.handle_timeout(hub.now.mono_ms, output) {
            Ok(()) => self.with(output, hub, Peer::handle_timeout),
            Err(_) => self.peer.finish(),
        }
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        match self.peer.is_finished() {
            true => None,
            false => {
                [self.peer.next_timeout_ms(), self.connection.next_timeout_ms()].into_iter().flatten().min()
            }
        }
    }

    fn handle_output_drained(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with(output, hub, Peer::handle_room);
    }

    fn handle_turn_end(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with(output, hub, Peer::handle_turn_end);
    }

    fn home(&self) -> Option<DeviceId> {
        match self.peer.is_unattached() && self.shared.pending.is_empty() {
            true => self.shared.grants.sole_device(),
            false => None,
        }
    }

    fn wants_input(&self) -> bool {
        self.peer.wants_input()
    }

    fn begin_stop(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with(output, hub, |peer, turn| peer.begin_end(turn, condition::CONNECTION_FORCED));
    }

    fn begin_detach(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with(output, hub, |peer, turn| peer.begin_end(turn, condition::LINK_DETACH_FORCED));
    }

    fn is_finished(&self) -> bool {
        self.peer.is_finished()
    }
}

#[cfg(test)]
mod tests;
