//! Telemetry links: the way of each delivery to `accepted` or `rejected`.
//!
//! A delivery is accepted when the engine says that its events are durable, and not before. Acceptances are told in the order
//! in which the deliveries came, so that a run of them gets one disposition, whatever links of the session it came by. While
//! the engine is full nothing more is read from the connection; the one delivery that met it so is asked again or, after
//! some seconds, rejected as throttled. Nothing is dropped without an answer.

mod deliver;
mod flight;

use engine::request::SessionId;
use net_amqp::{AttachReply, LinkId};

use super::limits::{MESSAGE_BYTES_MAX, TELEMETRY_CREDIT};
use super::link_table::LinkTable;
use super::turn::Turn;
use crate::binding::properties::EventPlan;
use flight::Flight;
pub use flight::{Delivery, append_number};

/// All telemetry links of a connection.
#[derive(Debug, Default)]
pub struct Telemetry {
    links: LinkTable<TelemetryLink>,
    flight: Flight,
    refused: Option<Refused>,
    /// Links that took something since the last turn's end.
    dirty: Vec<LinkId>,
    made: Vec<u8>,
    plans: Vec<EventPlan>,
}

#[derive(Debug)]
struct TelemetryLink {
    /// The device's session in the engine.
    session: SessionId,
    /// The AMQP session of the link.
    amqp_session: net_amqp::SessionId,
    credit: u32,
    /// Deliveries without an answer.
    open_count: u32,
    is_dirty: bool,
}

/// A delivery that met a full engine, with what it takes to ask again.
#[derive(Debug)]
struct Refused {
    number: u64,
    delivery: Delivery,
    message_format: u32,
    payload: Vec<u8>,
    since_ms: u64,
}

impl Telemetry {
    /// Accept a link of a device whose session stands.
    pub fn attach(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, session: SessionId) {
        let reply = AttachReply { max_message_bytes: Some(MESSAGE_BYTES_MAX), ..AttachReply::default() };
        if !turn.connection.accept_link(link, &reply, turn.output) {
            return;
        }
        turn.connection.grant(link, TELEMETRY_CREDIT, turn.output);
        let Some(amqp_session) = turn.connection.session_of(link) else { return };
        let credit = TELEMETRY_CREDIT;
        let state = TelemetryLink { session, amqp_session, credit, open_count: 0, is_dirty: false };
        self.links.insert(link, state);
    }

    /// A link is gone. What of it has no answer yet gets none: its sender cannot hear it.
    pub fn forget(&mut self, link: LinkId) {
        self.links.remove(link);
    }

    /// Every telemetry link.
    pub fn all_links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.links()
    }
}
