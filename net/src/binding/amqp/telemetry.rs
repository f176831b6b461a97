//! Telemetry links: a device's session in the engine, and the way of each delivery to `accepted` or `rejected`.
//!
//! All links of one device on the connection share its session. A delivery is accepted when the engine says that its events
//! are durable, and not before; runs of accepted deliveries get one disposition at the end of the turn. A delivery that
//! meets a full engine is parked: nothing more is read from the connection until there is room, or, after some seconds,
//! until it was rejected as throttled. Nothing is dropped without an answer.

mod parked;

use std::collections::HashMap;

use engine::door::Busy;
use engine::request::{AppendView, Caller, EngineError, EventView, Reply, Request, SessionEnd, SessionId};
use foldhash::fast::RandomState;
use net_amqp::performative::DeliveryState;
use net_amqp::{AttachReply, LinkId, condition};
use registry::DeviceId;

use super::LinkMap;
use super::cbs::protocol;
use super::limits::{APPEND_WAITING_MAX, EVENT_BYTES_MAX, MESSAGE_BYTES_MAX, TELEMETRY_CREDIT};
use super::turn::{Pending, Turn, busy};
use crate::binding::address::DeviceSegment;
use crate::binding::properties::{BATCH_FORMAT, EventPlan, plan_batch, plan_message};
use crate::binding::status::Status;
pub use parked::Delivery;
use parked::Parked;

/// Scratch space above this many bytes is given back after use.
const SCRATCH_BYTES_KEPT: usize = 16 * 1024;

/// All telemetry links of a connection.
#[derive(Debug, Default)]
pub struct Telemetry {
    links: LinkMap<TelemetryLink>,
    devices: HashMap<DeviceId, DeviceState, RandomState>,
    by_session: HashMap<SessionId, DeviceId, RandomState>,
    parked: Option<Parked>,
    /// Appends that wait for their answer.
    waiting_count: usize,
    /// Links with something to say at the end of the turn.
    dirty: Vec<LinkId>,
    made: Vec<u8>,
    plans: Vec<EventPlan>,
}

#[derive(Debug)]
enum DeviceState {
    Opening { links: Vec<LinkId> },
    Open { session: SessionId, links: Vec<LinkId> },
}

#[derive(Debug)]
struct TelemetryLink {
    device: DeviceId,
    /// The device's session, once the link is accepted.
    session: Option<SessionId>,
    /// Other readings of the id in the link's address.
    candidates: Vec<DeviceId>,
    credit: u32,
    /// Deliveries without an answer.
    open_count: u32,
    /// Accepted deliveries that were not told yet, first and last.
    accepted: Option<(u32, u32)>,
    is_dirty: bool,
}

impl Telemetry {
    /// A client wants to send as the device that `segment` names.
    pub fn attach(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, segment: &DeviceSegment) {
        let mut candidates: Vec<DeviceId> = segment.candidates().collect();
        if candidates.is_empty() {
            return turn.refuse(link, &Status::of(&EngineError::DeviceNotFound));
        }
        candidates.retain(|device| turn.shared.grants.for_device(device).is_some());
        self.attach_as(turn, link, candidates);
    }

    /// Attach as the first of `candidates`.
    fn attach_as(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, mut candidates: Vec<DeviceId>) {
        if candidates.is_empty() {
            return turn.refuse(link, &unauthorized());
        }
        let device = candidates.remove(0);
        let Some(grant) = turn.shared.grants.for_device(&device).cloned() else {
            return turn.refuse(link, &unauthorized());
        };
        let mut open_session = None;
        match self.devices.get_mut(&device) {
            Some(DeviceState::Opening { links }) => links.push(link),
            Some(DeviceState::Open { session, links }) => {
                links.push(link);
                open_session = Some(*session);
                accept(turn, link);
            }
            None => {
                let protocol = protocol(turn.hub.transport);
                let request = Request::OpenSession { device: device.clone(), grant, protocol };
                if turn.ask(Pending::OpenSession(device.clone()), request).is_err() {
                    return turn.refuse(link, &busy());
                }
                self.devices.insert(device.clone(), DeviceState::Opening { links: vec![link] });
            }
        }
        let state = TelemetryLink {
            device,
            session: open_session,
            candidates,
            credit: TELEMETRY_CREDIT,
            open_count: 0,
            accepted: None,
            is_dirty: false,
        };
        self.links.insert(link, state);
    }

    /// The engine's answer to a device's session.
    pub fn handle_session(&mut self, turn: &mut Turn<'_, '_>, device: DeviceId, answer: Reply) {
        let Some(DeviceState::Opening { links }) = self.devices.remove(&device) else { return };
        match answer {
            Reply::SessionOpened(session) if links.is_empty() => turn.tell(Request::CloseSession { session }),
            Reply::SessionOpened(session) if turn.shared.grants.for_device(&device).is_none() => {
                turn.tell(Request::CloseSession { session });
                for link in links {
                    self.links.remove(&link);
                    turn.refuse(link, &expired_status());
                }
            }
            Reply::SessionOpened(session) => {
                for link in &links {
                    accept(turn, *link);
                    if let Some(state) = self.links.get_mut(link) {
                        state.session = Some(session);
                    }
                }
                self.by_session.insert(session, device.clone());
                self.devices.insert(device, DeviceState::Open { session, links });
            }
            answer => {
                let error = match answer {
                    Reply::Failed(error) => error,
                    _ => EngineError::StorageFailed,
                };
                for link in links {
                    let Some(state) = self.links.remove(&link) else { continue };
                    match error {
                        EngineError::DeviceNotFound if !state.candidates.is_empty() => {
                            self.attach_as(turn, link, state.candidates);
                        }
                        _ => turn.refuse(link, &Status::of(&error)),
                    }
                }
            }
        }
    }

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
        match self.append(turn, delivery, session, message_format, payload) {
            Ok(()) => {}
            Err(Refusal::Status(status)) => self.reject(turn, delivery, &status),
            Err(Refusal::Busy) => {
                turn.shared.must_retry = true;
                let now_ms = turn.hub.now.mono_ms;
                self.parked = Some(Parked::new(delivery, message_format, payload, now_ms));
            }
        }
        true
    }

    /// The peer gave up a delivery half way.
    pub fn handle_aborted(&mut self, link: LinkId) {
        if let Some(state) = self.links.get_mut(&link) {
            state.credit = state.credit.saturating_sub(1);
            state.mark_dirty(link, &mut self.dirty);
        }
    }

    /// Hand a delivery's events to the engine.
    fn append(
        &mut self,
        turn: &mut Turn<'_, '_>,
        delivery: Delivery,
        session: Option<SessionId>,
        message_format: u32,
        payload: &[u8],
    ) -> Result<(), Refusal> {
        let session = session.ok_or(Refusal::Status(session_over()))?;
        if payload.len() > EVENT_BYTES_MAX {
            let error =
                EngineError::EventTooLarge { bytes: payload.len() as u64, bytes_max: EVENT_BYTES_MAX as u64 };
            return Err(Refusal::Status(Status::of(&error)));
        }
        self.made.clear();
        self.plans.clear();
        let planned = match message_format {
            0 => plan_message(payload, &mut self.made).map(|plan| self.plans.push(plan)),
            BATCH_FORMAT => plan_batch(payload, &mut self.made, &mut self.plans),
            _ => return Err(Refusal::Status(unknown_format(message_format))),
        };
        planned.map_err(|error| {
            Refusal::Status(Status::new(400_004, "ArgumentInvalid", error.condition(), error.to_string()))
        })?;
        let token = turn.shared.pending.insert(Pending::Append(delivery));
        let caller = Caller { connection: turn.hub.connection, token };
        let result = match self.plans.as_slice() {
            [plan] => {
                let events = [plan.view(payload, &self.made)];
                turn.hub.door.append(caller, AppendView { session, events: &events })
            }
            plans => {
                let events: Vec<EventView<'_>> =
                    plans.iter().map(|plan| plan.view(payload, &self.made)).collect();
                turn.hub.door.append(caller, AppendView { session, events: &events })
            }
        };
        if self.made.capacity() > SCRATCH_BYTES_KEPT {
            self.made = Vec::new();
            self.plans = Vec::new();
        }
        match result {
            Ok(()) => {
                self.waiting_count += 1;
                Ok(())
            }
            Err(Busy) => {
                turn.shared.pending.remove(token);
                Err(Refusal::Busy)
            }
        }
    }

    /// The engine's answer to an append.
    pub fn handle_appended(&mut self, turn: &mut Turn<'_, '_>, delivery: Delivery, answer: Reply) {
        self.waiting_count -= 1;
        match answer {
            Reply::Appended { .. } => self.accept(turn, delivery),
            Reply::Failed(error) => self.reject(turn, delivery, &Status::of(&error)),
            _ => self.reject(turn, delivery, &Status::of(&EngineError::StorageFailed)),
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
        self.parked.is_none() && self.waiting_count < APPEND_WAITING_MAX
    }

    /// Whether a delivery waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.parked.is_some() || self.waiting_count > 0
    }

    /// Try the parked delivery again.
    pub fn retry(&mut self, turn: &mut Turn<'_, '_>) {
        let Some(parked) = self.parked.take() else { return };
        // What its link is gone with needs no answer and is not stored.
        let Some(session) = self.links.get(&parked.delivery.link).map(|state| state.session) else { return };
        match self.append(turn, parked.delivery, session, parked.message_format, &parked.payload) {
            Ok(()) => {}
            Err(Refusal::Status(status)) => self.reject(turn, parked.delivery, &status),
            Err(Refusal::Busy) if parked.is_overdue(turn.hub.now.mono_ms) => {
                self.reject(turn, parked.delivery, &busy());
            }
            Err(Refusal::Busy) => {
                turn.shared.must_retry = true;
                self.parked = Some(parked);
            }
        }
    }

    /// Answer the parked delivery: the hub stops.
    pub fn reject_parked(&mut self, turn: &mut Turn<'_, '_>) {
        if let Some(parked) = self.parked.take() {
            self.reject(turn, parked.delivery, &Status::of(&EngineError::Stopping));
        }
    }

    /// The engine ended a session.
    pub fn handle_session_ended(&mut self, turn: &mut Turn<'_, '_>, session: SessionId, reason: SessionEnd) {
        let Some(device) = self.by_session.remove(&session) else { return };
        let Some(DeviceState::Open { links, .. }) = self.devices.remove(&device) else { return };
        let status = Status::of(&EngineError::SessionEnded(Some(reason)));
        self.detach_all(turn, &links, &status);
    }

    /// Detach the links of devices whose tokens have expired.
    pub fn handle_expiry(&mut self, turn: &mut Turn<'_, '_>) {
        let expired: Vec<DeviceId> = self
            .devices
            .keys()
            .filter(|device| turn.shared.grants.for_device(device).is_none())
            .cloned()
            .collect();
        for device in expired {
            let links = match self.devices.remove(&device) {
                Some(DeviceState::Open { session, links }) => {
                    self.by_session.remove(&session);
                    turn.tell(Request::CloseSession { session });
                    links
                }
                // The engine refuses the grant itself.
                Some(opening) => {
                    self.devices.insert(device, opening);
                    continue;
                }
                None => continue,
            };
            self.detach_all(turn, &links, &expired_status());
        }
    }

    fn detach_all(&mut self, turn: &mut Turn<'_, '_>, links: &[LinkId], status: &Status) {
        for &link in links {
            self.links.remove(&link);
            turn.detach(link, status);
        }
    }

    /// The peer detached a link.
    pub fn handle_detached(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        let Some(state) = self.links.remove(&link) else { return };
        match self.devices.get_mut(&state.device) {
            Some(DeviceState::Opening { links }) => links.retain(|other| *other != link),
            Some(DeviceState::Open { session, links }) => {
                links.retain(|other| *other != link);
                if links.is_empty() {
                    let session = *session;
                    self.devices.remove(&state.device);
                    self.by_session.remove(&session);
                    turn.tell(Request::CloseSession { session });
                }
            }
            None => {}
        }
    }

    /// Every telemetry link.
    pub fn all_links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.keys().copied()
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

enum Refusal {
    Status(Status),
    Busy,
}

fn accept(turn: &mut Turn<'_, '_>, link: LinkId) {
    let reply = AttachReply { max_message_bytes: Some(MESSAGE_BYTES_MAX), ..AttachReply::default() };
    if turn.connection.accept_link(link, &reply, turn.output) {
        turn.connection.grant(link, TELEMETRY_CREDIT, turn.output);
    }
}

fn unauthorized() -> Status {
    Status::new(
        401_002,
        "IotHubUnauthorizedAccess",
        condition::UNAUTHORIZED_ACCESS,
        "Unauthorized access: no token of this connection covers the device",
    )
}

/// What links hear whose token has expired.
pub fn expired_status() -> Status {
    Status::new(401_003, "IotHubUnauthorized", condition::UNAUTHORIZED_ACCESS, "the token has expired")
}

fn session_over() -> Status {
    Status::of(&EngineError::SessionEnded(None))
}

fn unknown_format(message_format: u32) -> Status {
    Status::new(
        400_003,
        "InvalidOperation",
        condition::NOT_IMPLEMENTED,
        format!("message format {message_format:#x} is neither 0 nor a batch, {BATCH_FORMAT:#x}"),
    )
}
