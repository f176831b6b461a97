//! From transfers to appends, and from the engine's answers to dispositions and credit.

use engine::door::Busy;
use engine::request::{AppendView, Caller, EngineError, EventView, Reply, SessionId};
use net_amqp::performative::DeliveryState;
use net_amqp::{LinkId, condition};

use super::flight::{Delivery, Flight, Kept};
use super::{Telemetry, TelemetryLink};
use crate::binding::amqp::limits::{
    APPEND_WAITING_MAX, EVENT_BYTES_MAX, KEPT_BYTES_MAX, REFUSED_MS_MAX, TELEMETRY_CREDIT,
};
use crate::binding::amqp::turn::{Pending, Turn, busy};
use crate::binding::properties::{BATCH_FORMAT, EventPlan, MessageError, plan_batch, plan_message};
use crate::binding::status::Status;

/// Scratch space above this many bytes is given back after use.
const SCRATCH_BYTES_KEPT: usize = 16 * 1024;

/// An append that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    session: SessionId,
    /// Its number among the session's deliveries.
    number: u64,
}

impl Telemetry {
    /// A delivery came in. False: its link is not one for telemetry.
    pub fn handle_transfer(
        &mut self,
        turn: &mut Turn<'_, '_>,
        delivery: Delivery,
        message_format: u32,
        payload: &[u8],
    ) -> bool {
        let Some(state) = self.links.get_mut(&delivery.link) else { return false };
        state.credit = state.credit.saturating_sub(1);
        state.open_count += 1;
        let session = state.session;
        match self.plan(message_format, payload) {
            Err(status) => self.reject(turn, delivery, &status),
            Ok(()) => match self.flights.get_mut(&session) {
                None => self.reject(turn, delivery, &Status::of(&EngineError::SessionEnded(None))),
                Some(flight) => {
                    self.kept_bytes += payload.len();
                    let kept = Kept { delivery, message_format, payload: payload.to_vec() };
                    let ticket = Ticket { session, number: flight.push(kept) };
                    self.append(turn, ticket, payload);
                }
            },
        }
        self.give_scratch_back();
        true
    }

    /// Find out how a delivery's events are stored.
    fn plan(&mut self, message_format: u32, payload: &[u8]) -> Result<(), Status> {
        if payload.len() > EVENT_BYTES_MAX {
            let (bytes, bytes_max) = (payload.len() as u64, EVENT_BYTES_MAX as u64);
            return Err(Status::of(&EngineError::EventTooLarge { bytes, bytes_max }));
        }
        self.made.clear();
        self.plans.clear();
        let planned = match message_format {
            0 => plan_message(payload, &mut self.made).map(|plan| self.plans.push(plan)),
            BATCH_FORMAT => plan_batch(payload, &mut self.made, &mut self.plans),
            _ => return Err(unknown_format(message_format)),
        };
        planned.map_err(|error: MessageError| {
            Status::new(400_004, "ArgumentInvalid", error.condition(), error.to_string())
        })
    }

    /// Hand the planned events to the engine.
    fn append(&mut self, turn: &mut Turn<'_, '_>, ticket: Ticket, payload: &[u8]) -> bool {
        let token = turn.shared.pending.insert(Pending::Append(ticket));
        let caller = Caller { connection: turn.hub.connection, token };
        let session = ticket.session;
        let view = |plan: &EventPlan| -> EventView<'_> { plan.view(payload, &self.made) };
        let result = match self.plans.as_slice() {
            [plan] => turn.hub.door.append(caller, AppendView { session, events: &[view(plan)] }),
            plans => {
                let events: Vec<EventView<'_>> = plans.iter().map(view).collect();
                turn.hub.door.append(caller, AppendView { session, events: &events })
            }
        };
        match result {
            Ok(()) => {
                self.asked_count += 1;
                true
            }
            Err(Busy) => {
                turn.shared.pending.remove(token);
                self.refuse(turn, ticket);
                false
            }
        }
    }

    /// The engine is full: the delivery is asked again later.
    fn refuse(&mut self, turn: &mut Turn<'_, '_>, ticket: Ticket) {
        let Some(flight) = self.flights.get_mut(&ticket.session) else { return };
        let before = flight.refused_count();
        flight.refuse(ticket.number);
        let added = flight.refused_count() - before;
        if self.refused_count == 0 {
            self.refused_since_ms = turn.hub.now.mono_ms;
        }
        self.refused_count += added;
        turn.shared.must_retry = true;
    }

    /// The engine's answer to an append.
    pub fn handle_appended(&mut self, turn: &mut Turn<'_, '_>, ticket: Ticket, answer: Reply) {
        self.asked_count -= 1;
        if matches!(answer, Reply::Failed(EngineError::Busy)) {
            return self.refuse(turn, ticket);
        }
        let Some(kept) = self.take(ticket) else { return };
        match answer {
            Reply::Appended { .. } => {
                while let Some(overtaken) = self.take_overtaken(ticket) {
                    self.reject(turn, overtaken.delivery, &busy());
                }
                self.accept(turn, kept.delivery);
            }
            Reply::Failed(error) => self.reject(turn, kept.delivery, &Status::of(&error)),
            _ => self.reject(turn, kept.delivery, &Status::of(&EngineError::StorageFailed)),
        }
    }

    fn take(&mut self, ticket: Ticket) -> Option<Kept> {
        let kept = self.flights.get_mut(&ticket.session)?.take(ticket.number)?;
        self.kept_bytes -= kept.payload.len();
        Some(kept)
    }

    fn take_overtaken(&mut self, ticket: Ticket) -> Option<Kept> {
        let kept = self.flights.get_mut(&ticket.session)?.take_overtaken(ticket.number)?;
        self.kept_bytes -= kept.payload.len();
        self.refused_count -= 1;
        Some(kept)
    }

    /// Ask again for what met a full engine, each session's deliveries in their order.
    pub fn retry(&mut self, turn: &mut Turn<'_, '_>) {
        if self.refused_count == 0 {
            return;
        }
        if turn.hub.now.mono_ms.saturating_sub(self.refused_since_ms) >= REFUSED_MS_MAX {
            return self.reject_refused(turn, &busy());
        }
        let has_refused = self.flights.iter().filter(|(_, flight)| flight.refused_count() > 0);
        let sessions: Vec<SessionId> = has_refused.map(|(session, _)| *session).collect();
        for session in sessions {
            self.retry_session(turn, session);
        }
        turn.shared.must_retry |= self.refused_count > 0;
    }

    fn retry_session(&mut self, turn: &mut Turn<'_, '_>, session: SessionId) {
        let due = self.flights.get(&session).map(Flight::due).unwrap_or_default();
        for number in due {
            let Some(flight) = self.flights.get_mut(&session) else { break };
            let Some(lent) = flight.ask_again(number) else { continue };
            self.refused_count -= 1;
            let ticket = Ticket { session, number };
            let is_attached = self.links.contains_key(&lent.delivery.link);
            let is_asked = is_attached
                && self.plan(lent.message_format, &lent.payload).is_ok()
                && self.append(turn, ticket, &lent.payload);
            if let Some(flight) = self.flights.get_mut(&session) {
                flight.give_back(number, lent.payload);
            }
            if !is_attached {
                // What its link is gone with needs no answer and is not stored.
                self.take(ticket);
            } else if !is_asked {
                break;
            }
        }
        self.give_scratch_back();
    }

    /// Reject everything that waits to be asked again.
    pub fn reject_refused(&mut self, turn: &mut Turn<'_, '_>, status: &Status) {
        let mut refused = Vec::new();
        for flight in self.flights.values_mut() {
            refused.extend(std::iter::from_fn(|| flight.take_refused()));
        }
        for kept in refused {
            self.refused_count -= 1;
            self.kept_bytes -= kept.payload.len();
            self.reject(turn, kept.delivery, status);
        }
    }

    fn accept(&mut self, turn: &mut Turn<'_, '_>, delivery: Delivery) {
        let Delivery { link, delivery_id, settled } = delivery;
        let Some(state) = self.links.get_mut(&link) else { return };
        state.open_count = state.open_count.saturating_sub(1);
        if !settled {
            state.accepted = match state.accepted {
                Some((first, last)) if last.wrapping_add(1) == delivery_id => Some((first, delivery_id)),
                earlier => {
                    if let Some((first, last)) = earlier {
                        turn.connection.settle(
                            link,
                            first,
                            last,
                            &DeliveryState::Accepted,
                            true,
                            turn.output,
                        );
                    }
                    Some((delivery_id, delivery_id))
                }
            };
        }
        state.mark_dirty(link, &mut self.dirty);
    }

    fn reject(&mut self, turn: &mut Turn<'_, '_>, delivery: Delivery, status: &Status) {
        let Delivery { link, delivery_id, settled } = delivery;
        let Some(state) = self.links.get_mut(&link) else { return };
        state.open_count = state.open_count.saturating_sub(1);
        if !settled {
            let outcome = DeliveryState::Rejected(Some(turn.error(status)));
            turn.connection.settle(link, delivery_id, delivery_id, &outcome, true, turn.output);
        }
        state.mark_dirty(link, &mut self.dirty);
    }

    /// The peer gave up a delivery half way.
    pub fn handle_aborted(&mut self, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.credit = state.credit.saturating_sub(1);
            state.mark_dirty(link, &mut self.dirty);
        }
    }

    /// Tell what was accepted, and grant new credit.
    pub fn handle_turn_end(&mut self, turn: &mut Turn<'_, '_>) {
        for link in std::mem::take(&mut self.dirty) {
            let Some(state) = self.links.get_mut(&link) else { continue };
            state.is_dirty = false;
            if let Some((first, last)) = state.accepted.take() {
                turn.connection.settle(link, first, last, &DeliveryState::Accepted, true, turn.output);
            }
            let credit = TELEMETRY_CREDIT.saturating_sub(state.open_count);
            if credit.saturating_sub(state.credit) >= TELEMETRY_CREDIT / 2 {
                state.credit = credit;
                turn.connection.grant(link, credit, turn.output);
            }
        }
    }

    /// Whether the end of the turn has something to say.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether more deliveries are welcome.
    pub fn has_room(&self) -> bool {
        self.refused_count == 0 && self.asked_count < APPEND_WAITING_MAX && self.kept_bytes < KEPT_BYTES_MAX
    }

    /// Whether a delivery waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.asked_count + self.refused_count > 0
    }

    fn give_scratch_back(&mut self) {
        if self.made.capacity() > SCRATCH_BYTES_KEPT {
            self.made = Vec::new();
        }
        if self.plans.len() > 1 {
            self.plans = Vec::new();
        }
    }
}

impl TelemetryLink {
    /// The end of the turn is to look at the link.
    fn mark_dirty(&mut self, link: LinkId, dirty: &mut Vec<LinkId>) {
        if !std::mem::replace(&mut self.is_dirty, true) {
            dirty.push(link);
        }
    }
}

fn unknown_format(message_format: u32) -> Status {
    Status::new(
        400_003,
        "InvalidOperation",
        condition::NOT_IMPLEMENTED,
        format!("message format {message_format:#x} is neither 0 nor a batch, {BATCH_FORMAT:#x}"),
    )
}
