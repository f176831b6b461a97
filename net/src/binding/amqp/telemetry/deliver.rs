//! From transfers to appends, and from the engine's answers to dispositions and credit.

use engine::door::Busy;
use engine::request::{AppendView, Caller, EngineError, EventView, Reply, SessionId};
use net_amqp::performative::DeliveryState;
use net_amqp::{LinkId, condition};

use super::flight::{Delivery, Flight};
use super::{Refused, Telemetry, TelemetryLink};
use crate::binding::amqp::limits::{APPEND_WAITING_MAX, EVENT_BYTES_MAX, REFUSED_MS_MAX, TELEMETRY_CREDIT};
use crate::binding::amqp::turn::{Turn, busy};
use crate::binding::properties::{BATCH_FORMAT, EventPlan, MessageError, plan_batch, plan_message};
use crate::binding::status::Status;

/// Scratch space above this many bytes is given back after use.
const SCRATCH_BYTES_KEPT: usize = 16 * 1024;

impl Telemetry {
    /// A delivery came in. False: its link is not one for telemetry.
    pub fn handle_transfer(
        &mut self,
        turn: &mut Turn<'_, '_>,
        delivery: Delivery,
        message_format: u32,
        payload: &[u8],
    ) -> bool {
        let Some(state) = self.links.get_mut(delivery.link) else { return false };
        state.credit = state.credit.saturating_sub(1);
        state.open_count += 1;
        let session = state.session;
        match self.plan(message_format, payload) {
            Err(status) => self.reject(turn, delivery, &status),
            Ok(()) => {
                let number = self.flight.push(delivery);
                if self.append(turn, session, number, payload).is_err() {
                    turn.shared.must_retry = true;
                    let since_ms = turn.hub.now.mono_ms;
                    let payload = payload.to_vec();
                    self.refused = Some(Refused { number, delivery, message_format, payload, since_ms });
                }
            }
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
    fn append(
        &mut self,
        turn: &mut Turn<'_, '_>,
        session: SessionId,
        number: u64,
        payload: &[u8],
    ) -> Result<(), Busy> {
        let caller = Caller { connection: turn.hub.connection, token: Flight::token(number) };
        let view = |plan: &EventPlan| -> EventView<'_> { plan.view(payload, &self.made) };
        match self.plans.as_slice() {
            [plan] => turn.hub.door.append(caller, AppendView { session, events: &[view(plan)] }),
            plans => {
                let events: Vec<EventView<'_>> = plans.iter().map(view).collect();
                turn.hub.door.append(caller, AppendView { session, events: &events })
            }
        }
    }

    /// An append is durable; [`Telemetry::tell_accepted`] tells it.
    pub fn handle_appended(&mut self, number: u64) {
        self.flight.accept(number);
    }

    /// The engine's answer to one append that came by itself: a refusal, but for doors that hand on each answer so.
    pub fn handle_answer(&mut self, turn: &mut Turn<'_, '_>, number: u64, answer: &Reply) {
        let status = match answer {
            Reply::Appended { .. } => {
                self.handle_appended(number);
                return self.tell_accepted(turn);
            }
            Reply::Failed(error) => Status::of(error),
            _ => Status::of(&EngineError::StorageFailed),
        };
        if let Some(delivery) = self.flight.take(number) {
            self.reject(turn, delivery, &status);
        }
        // It may have held accepted ones back, and with them the room for more.
        self.tell_accepted(turn);
    }

    /// Ask again for what met a full engine.
    pub fn retry(&mut self, turn: &mut Turn<'_, '_>) {
        let Some(refused) = self.refused.take() else { return };
        let Some(session) = self.links.get_mut(refused.delivery.link).map(|state| state.session) else {
            // What its link is gone with needs no answer and is not stored.
            self.flight.take(refused.number);
            return self.tell_accepted(turn);
        };
        let is_taken = self.plan(refused.message_format, &refused.payload).is_ok()
            && self.append(turn, session, refused.number, &refused.payload).is_ok();
        self.give_scratch_back();
        if !is_taken {
            let is_overdue = turn.hub.now.mono_ms.saturating_sub(refused.since_ms) >= REFUSED_MS_MAX;
            self.refused = Some(refused);
            match is_overdue {
                true => self.reject_refused(turn, &busy()),
                false => turn.shared.must_retry = true,
            }
        }
    }

    /// Reject what waits to be asked again.
    pub fn reject_refused(&mut self, turn: &mut Turn<'_, '_>, status: &Status) {
        if let Some(Refused { number, .. }) = self.refused.take()
            && let Some(delivery) = self.flight.take(number)
        {
            self.reject(turn, delivery, status);
            self.tell_accepted(turn);
        }
    }

    fn reject(&mut self, turn: &mut Turn<'_, '_>, delivery: Delivery, status: &Status) {
        let Delivery { link, delivery_id, settled } = delivery;
        let Some(state) = self.links.get_mut(link) else { return };
        state.open_count = state.open_count.saturating_sub(1);
        state.mark_dirty(link, &mut self.dirty);
        if !settled {
            let outcome = DeliveryState::Rejected(Some(turn.error(status)));
            turn.connection.settle(link, delivery_id, delivery_id, &outcome, true, turn.output);
        }
    }

    /// The peer gave up a delivery half way.
    pub fn handle_aborted(&mut self, link: LinkId) {
        if let Some(state) = self.links.get_mut(link) {
            state.credit = state.credit.saturating_sub(1);
            state.mark_dirty(link, &mut self.dirty);
        }
    }

    /// Grant new credit.
    pub fn handle_turn_end(&mut self, turn: &mut Turn<'_, '_>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for link in dirty.drain(..) {
            let Some(state) = self.links.get_mut(link) else { continue };
            state.is_dirty = false;
            let credit = TELEMETRY_CREDIT.saturating_sub(state.open_count);
            if credit.saturating_sub(state.credit) >= TELEMETRY_CREDIT / 2 {
                state.credit = credit;
                turn.connection.grant(link, credit, turn.output);
            }
        }
        // An idle connection keeps nothing of its busy times.
        if self.flight.len() > 0 {
            self.dirty = dirty;
        } else {
            self.flight.shrink();
        }
    }

    /// Tell what was accepted, up to the first delivery that still waits.
    pub fn tell_accepted(&mut self, turn: &mut Turn<'_, '_>) {
        let mut run: Option<Run> = None;
        while let Some(Delivery { link, delivery_id, settled }) = self.flight.pop_accepted() {
            let Some(state) = self.links.get_mut(link) else { continue };
            state.open_count = state.open_count.saturating_sub(1);
            state.mark_dirty(link, &mut self.dirty);
            if settled {
                continue;
            }
            let session = state.amqp_session;
            match &mut run {
                Some(open) if open.session == session && open.last.wrapping_add(1) == delivery_id => {
                    open.last = delivery_id;
                }
                _ => {
                    let next = Run { session, first: delivery_id, last: delivery_id };
                    if let Some(done) = run.replace(next) {
                        done.tell(turn);
                    }
                }
            }
        }
        if let Some(done) = run {
            done.tell(turn);
        }
    }

    /// Whether the end of the turn has something to say.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether more deliveries are welcome.
    pub fn has_room(&self) -> bool {
        self.refused.is_none() && self.flight.len() < APPEND_WAITING_MAX
    }

    /// Whether a delivery waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.flight.is_waiting()
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

/// Accepted deliveries of one AMQP session whose ids follow each other.
struct Run {
    session: net_amqp::SessionId,
    first: u32,
    last: u32,
}

impl Run {
    fn tell(self, turn: &mut Turn<'_, '_>) {
        let Self { session, first, last } = self;
        turn.connection.settle_received(session, (first, last), &DeliveryState::Accepted, turn.output);
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
