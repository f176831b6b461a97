//! The devices that are attached on a connection: each has one session in the engine, which all its links share.
//!
//! A link of a device, whatever it is for, joins the device's session before it is accepted; the last one that leaves
//! closes it. The id in a link's address is matched as written first, then decoded.

use engine::request::{EngineError, Reply, Request, SessionId};
use net_amqp::{LinkId, condition};
use registry::DeviceId;

use super::LinkMap;
use super::cbs::protocol;
use super::small_map::SmallMap;
use super::turn::{Pending, Turn, busy};
use crate::binding::address::DeviceSegment;
use crate::binding::status::Status;

/// What a device's link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The device sends events.
    Telemetry,
    /// The device receives commands.
    Commands,
    /// The device asks for its twin, or is answered.
    Twin,
    /// The device answers calls of its methods.
    Methods,
}

/// A link whose device's session stands; it is to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The link.
    pub link: LinkId,
    /// What it is for.
    pub purpose: Purpose,
    /// The session.
    pub session: SessionId,
}

/// All devices of a connection.
#[derive(Debug, Default)]
pub struct DeviceSessions {
    links: LinkMap<DeviceLink>,
    devices: SmallMap<DeviceId, State>,
    by_session: SmallMap<SessionId, DeviceId>,
}

#[derive(Debug)]
struct DeviceLink {
    device: DeviceId,
    purpose: Purpose,
    /// Other readings of the id in the link's address.
    candidates: Vec<DeviceId>,
}

#[derive(Debug)]
struct State {
    links: Vec<LinkId>,
    /// None: it is being opened.
    session: Option<SessionId>,
}

impl DeviceSessions {
    /// Whether no device is attached, nor about to be.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// The device that a link is of.
    pub fn device_of(&self, link: LinkId) -> Option<&DeviceId> {
        self.links.get(&link).map(|link| &link.device)
    }

    /// A client wants a link of the device that `segment` names. Some: its session stands already; none: its answer comes
    /// later, or the link is refused.
    pub fn attach(
        &mut self,
        turn: &mut Turn<'_, '_>,
        link: LinkId,
        purpose: Purpose,
        segment: &DeviceSegment,
    ) -> Option<Joined> {
        let mut candidates: Vec<DeviceId> = segment.candidates().collect();
        if candidates.is_empty() {
            turn.refuse(link, &Status::of(&EngineError::DeviceNotFound));
            return None;
        }
        candidates.retain(|device| turn.shared.grants.for_device(device).is_some());
        self.attach_as(turn, link, purpose, candidates)
    }

    /// Attach as the first of `candidates`.
    fn attach_as(
        &mut self,
        turn: &mut Turn<'_, '_>,
        link: LinkId,
        purpose: Purpose,
        mut candidates: Vec<DeviceId>,
    ) -> Option<Joined> {
        let grant = candidates.first().and_then(|device| turn.shared.grants.for_device(device)).cloned();
        let Some(grant) = grant else {
            turn.refuse(link, &unauthorized());
            return None;
        };
        let device = candidates.remove(0);
        let joined = match self.devices.get_mut(&device) {
            Some(state) => {
                state.links.push(link);
                state.session.map(|session| Joined { link, purpose, session })
            }
            None => {
                let protocol = protocol(turn.hub.transport);
                let request = Request::OpenSession { device: device.clone(), grant, protocol };
                if turn.ask(Pending::OpenSession(device.clone()), request).is_err() {
                    turn.refuse(link, &busy());
                    return None;
                }
                self.devices.insert(device.clone(), State { links: vec![link], session: None });
                None
            }
        };
        self.links.insert(link, DeviceLink { device, purpose, candidates });
        joined
    }

    /// The engine's answer to a device's session; the links that may now be accepted. The others are refused.
    pub fn handle_answer(&mut self, turn: &mut Turn<'_, '_>, device: DeviceId, answer: Reply) -> Vec<Joined> {
        if self.devices.get(&device).is_none_or(|state| state.session.is_some()) {
            return Vec::new();
        }
        let Some(State { links, .. }) = self.devices.remove(&device) else { return Vec::new() };
        match answer {
            Reply::SessionOpened(session) if links.is_empty() => {
                turn.tell(Request::CloseSession { session });
                Vec::new()
            }
            Reply::SessionOpened(session) if turn.shared.grants.for_device(&device).is_none() => {
                turn.tell(Request::CloseSession { session });
                for link in links {
                    self.links.remove(&link);
                    turn.refuse(link, &expired_status());
                }
                Vec::new()
            }
            Reply::SessionOpened(session) => {
                let joined = |link: &LinkId| {
                    let purpose = self.links.get(link)?.purpose;
                    Some(Joined { link: *link, purpose, session })
                };
                let all = links.iter().filter_map(joined).collect();
                self.devices.insert(device.clone(), State { links, session: Some(session) });
                self.by_session.insert(session, device);
                all
            }
            answer => self.refuse_all(turn, links, &refusal(answer)),
        }
    }

    /// Refuse links whose session was refused, but for those whose id has another reading.
    fn refuse_all(
        &mut self,
        turn: &mut Turn<'_, '_>,
        links: Vec<LinkId>,
        error: &EngineError,
    ) -> Vec<Joined> {
        let mut joined = Vec::new();
        for link in links {
            let Some(state) = self.links.remove(&link) else { continue };
            match error {
                EngineError::DeviceNotFound if !state.candidates.is_empty() => {
                    joined.extend(self.attach_as(turn, link, state.purpose, state.candidates));
                }
                _ => turn.refuse(link, &Status::of(error)),
            }
        }
        joined
    }

    /// The peer detached a link. The session, if this was its last link: it is closed.
    pub fn handle_detached(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) -> Option<SessionId> {
        let device = self.links.remove(&link)?.device;
        let state = self.devices.get_mut(&device)?;
        state.links.retain(|other| *other != link);
        let session = state.session.filter(|_| state.links.is_empty())?;
        self.forget(session);
        turn.tell(Request::CloseSession { session });
        Some(session)
    }

    /// A session is over; its links, which are to be detached.
    pub fn forget(&mut self, session: SessionId) -> Vec<LinkId> {
        let state = self.by_session.remove(&session).and_then(|device| self.devices.remove(&device));
        let links = state.map(|state| state.links).unwrap_or_default();
        for link in &links {
            self.links.remove(link);
        }
        links
    }

    /// The sessions of devices that no token covers any more: it has expired, or its policy has changed. Where one is
    /// still being opened, its answer is looked at again.
    pub fn expired(&self, turn: &Turn<'_, '_>) -> Vec<SessionId> {
        let has_expired = |device: &DeviceId| turn.shared.grants.for_device(device).is_none();
        let expired = self.by_session.iter().filter(|(_, device)| has_expired(device));
        expired.map(|(session, _)| *session).collect()
    }
}

/// Why the engine refused something that it has only one good answer to.
pub fn refusal(answer: Reply) -> EngineError {
    match answer {
        Reply::Failed(error) => error,
        _ => EngineError::StorageFailed,
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

/// What links hear whose grant is gone.
pub fn expired_status() -> Status {
    Status::new(
        401_003,
        "IotHubUnauthorized",
        condition::UNAUTHORIZED_ACCESS,
        "the token has expired, or its key has changed",
    )
}
