//! Telemetry links: the way of each delivery of a device's session to `accepted` or `rejected`.
//!
//! A delivery is accepted when the engine says that its events are durable, and not before; runs of accepted deliveries get
//! one disposition at the end of the turn. While the engine is full nothing more is read from the connection, and what met
//! it so is asked again or, after some seconds, rejected as throttled. Nothing is dropped without an answer.

mod deliver;
mod flight;

use std::collections::HashMap;

use engine::request::SessionId;
use foldhash::fast::RandomState;
use net_amqp::{AttachReply, LinkId};

use super::LinkMap;
use super::limits::{MESSAGE_BYTES_MAX, TELEMETRY_CREDIT};
use super::turn::Turn;
use crate::binding::properties::EventPlan;
pub use deliver::Ticket;
pub use flight::Delivery;
use flight::Flight;

/// All telemetry links of a connection.
#[derive(Debug, Default)]
pub struct Telemetry {
    links: LinkMap<TelemetryLink>,
    /// What each device's session has on the way.
    flights: HashMap<SessionId, Flight, RandomState>,
    /// Appends that wait for their answer.
    asked_count: usize,
    /// Deliveries that wait to be asked again, and since when some do.
    refused_count: usize,
    refused_since_ms: u64,
    /// Bytes kept of deliveries without an answer.
    kept_bytes: usize,
    /// Links with something to say at the end of the turn.
    dirty: Vec<LinkId>,
    made: Vec<u8>,
    plans: Vec<EventPlan>,
}

#[derive(Debug)]
struct TelemetryLink {
    session: SessionId,
    credit: u32,
    /// Deliveries without an answer.
    open_count: u32,
    /// Accepted deliveries that were not told yet, first and last.
    accepted: Option<(u32, u32)>,
    is_dirty: bool,
}

impl Telemetry {
    /// Accept a link of a device whose session stands.
    pub fn attach(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, session: SessionId) {
        let reply = AttachReply { max_message_bytes: Some(MESSAGE_BYTES_MAX), ..AttachReply::default() };
        if turn.connection.accept_link(link, &reply, turn.output) {
            turn.connection.grant(link, TELEMETRY_CREDIT, turn.output);
        }
        self.links.insert(link, TelemetryLink::new(session));
        self.flights.entry(session).or_default();
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    /// A session is over. What of it was not stored will not be.
    pub fn forget_session(&mut self, session: SessionId) {
        let Some(flight) = self.flights.remove(&session) else { return };
        self.refused_count -= flight.refused_count();
        self.kept_bytes -= flight.bytes();
    }

    /// Every telemetry link.
    pub fn all_links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.keys().copied()
    }
}

impl TelemetryLink {
    fn new(session: SessionId) -> Self {
        Self { session, credit: TELEMETRY_CREDIT, open_count: 0, accepted: None, is_dirty: false }
    }
}
