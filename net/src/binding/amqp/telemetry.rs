//! Telemetry links: a device's session in the engine, and the way of each delivery to `accepted` or `rejected`.
//!
//! All links of one device on the connection share its session. A delivery is accepted when the engine says that its events
//! are durable, and not before; runs of accepted deliveries get one disposition at the end of the turn. While the engine is
//! full nothing more is read from the connection, and what met it so is asked again or, after some seconds, rejected as
//! throttled. Nothing is dropped without an answer.

mod deliver;
mod flight;

use std::collections::HashMap;

use engine::request::{EngineError, Reply, Request, SessionEnd, SessionId};
use foldhash::fast::RandomState;
use net_amqp::{AttachReply, LinkId, condition};
use registry::DeviceId;

use super::LinkMap;
use super::cbs::protocol;
use super::limits::{MESSAGE_BYTES_MAX, TELEMETRY_CREDIT};
use super::turn::{Pending, Turn, busy};
use crate::binding::address::DeviceSegment;
use crate::binding::properties::EventPlan;
use crate::binding::status::Status;
pub use deliver::Ticket;
pub use flight::Delivery;
use flight::Flight;

/// All telemetry links of a connection.
#[derive(Debug, Default)]
pub struct Telemetry {
    links: LinkMap<TelemetryLink>,
    devices: HashMap<DeviceId, DeviceState, RandomState>,
    sessions: HashMap<SessionId, OpenSession, RandomState>,
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
enum DeviceState {
    Opening { links: Vec<LinkId> },
    Open(SessionId),
}

#[derive(Debug)]
struct OpenSession {
    device: DeviceId,
    links: Vec<LinkId>,
    flight: Flight,
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
    /// Whether there are none, and no session either.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.devices.is_empty()
    }

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
        let mut state = TelemetryLink::new(device.clone(), candidates);
        match self.devices.get_mut(&device) {
            Some(DeviceState::Opening { links }) => links.push(link),
            Some(DeviceState::Open(session)) => {
                state.session = Some(*session);
                if let Some(session) = self.sessions.get_mut(session) {
                    session.links.push(link);
                }
                accept(turn, link);
            }
            None => {
                let protocol = protocol(turn.hub.transport);
                let request = Request::OpenSession { device: device.clone(), grant, protocol };
                if turn.ask(Pending::OpenSession(device.clone()), request).is_err() {
                    return turn.refuse(link, &busy());
                }
                self.devices.insert(device, DeviceState::Opening { links: vec![link] });
            }
        }
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
                self.devices.insert(device.clone(), DeviceState::Open(session));
                self.sessions.insert(session, OpenSession { device, links, flight: Flight::default() });
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

    /// The engine ended a session.
    pub fn handle_session_ended(&mut self, turn: &mut Turn<'_, '_>, session: SessionId, reason: SessionEnd) {
        let links = self.forget_session(session);
        self.detach_all(turn, &links, &Status::of(&EngineError::SessionEnded(Some(reason))));
    }

    /// Detach the links of devices whose tokens have expired. Where a session is still being opened, its answer is looked at
    /// again.
    pub fn handle_expiry(&mut self, turn: &mut Turn<'_, '_>) {
        let grants = &turn.shared.grants;
        let has_expired = |session: &OpenSession| grants.for_device(&session.device).is_none();
        let expired: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| has_expired(session))
            .map(|(session, _)| *session)
            .collect();
        for session in expired {
            turn.tell(Request::CloseSession { session });
            let links = self.forget_session(session);
            self.detach_all(turn, &links, &expired_status());
        }
    }

    /// The peer detached a link.
    pub fn handle_detached(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        let Some(state) = self.links.remove(&link) else { return };
        match self.devices.get_mut(&state.device) {
            Some(DeviceState::Opening { links }) => links.retain(|other| *other != link),
            Some(DeviceState::Open(session)) => {
                let session = *session;
                let Some(open) = self.sessions.get_mut(&session) else { return };
                open.links.retain(|other| *other != link);
                if open.links.is_empty() {
                    self.forget_session(session);
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

    /// A session is over; its links. What of it was not stored will not be.
    fn forget_session(&mut self, session: SessionId) -> Vec<LinkId> {
        let Some(open) = self.sessions.remove(&session) else { return Vec::new() };
        self.devices.remove(&open.device);
        self.refused_count -= open.flight.refused_count();
        self.kept_bytes -= open.flight.bytes();
        open.links
    }

    fn detach_all(&mut self, turn: &mut Turn<'_, '_>, links: &[LinkId], status: &Status) {
        for &link in links {
            self.links.remove(&link);
            turn.detach(link, status);
        }
    }
}

impl TelemetryLink {
    fn new(device: DeviceId, candidates: Vec<DeviceId>) -> Self {
        Self {
            device,
            session: None,
            candidates,
            credit: TELEMETRY_CREDIT,
            open_count: 0,
            accepted: None,
            is_dirty: false,
        }
    }
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
