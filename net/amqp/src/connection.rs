//! The connection machine: headers, SASL, open and close, channels, and the way of each frame to its session and link.

mod config;
mod event;
mod fault;
mod handle;
mod lifecycle;
mod link_frames;
mod methods;
mod send;
mod session_frames;
mod timer;

use std::collections::VecDeque;
use std::sync::Arc;

pub use config::{Config, Role, SaslRole};
pub use event::{AttachReply, AttachRequest, Closed, Event, LinkId, SendDelivery, SendRefused, SessionId};

use crate::limits::FRAME_BYTES_MIN;
use crate::link::Link;
use crate::performative::LinkRole;
use crate::session::{Handles, Session};
use crate::table::Table;
use timer::Timers;

/// One AMQP connection, of either role.
///
/// Order of calls: a client calls [`Connection::start`] first. Whenever bytes arrived, call [`Connection::handle`] until it
/// returns `Ok(None)`, and answer events by the other methods, at once or later. Send what was appended to `output`. Call
/// [`Connection::handle_timeout`] when [`Connection::next_timeout_ms`] has passed.
///
/// Methods that name a link or a session return false (or `None`) when it is gone, which may be at any time: the peer's
/// detach is answered before its event is seen. Nothing needs to be done then.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Arc<Config>,
    phase: Phase,
    remote: Remote,
    sessions: Table<Session>,
    /// Sessions by the peer's channel; `ENDED` for those that are over.
    channels: Handles,
    links: Table<Link>,
    /// Events that one frame caused beyond its first.
    pending: VecDeque<Event<'static>>,
    /// See [`Config::held_bytes_max`].
    held_bytes: usize,
    timers: Timers,
}

/// What the peer's open said.
#[derive(Debug)]
struct Remote {
    max_frame_bytes: u32,
    channel_max: u16,
}

/// In [`Connection::channels`]: the session is over, frames for it are ignored.
const ENDED: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The first header is due.
    Header,
    /// Server: the client's choice of a mechanism is due.
    SaslInit,
    /// Server: the caller's verdict is due.
    SaslVerdict,
    /// Client: the server's mechanisms are due.
    SaslMechanisms,
    /// Client: the server's verdict is due.
    SaslOutcome,
    /// The header behind SASL is due.
    HeaderAfterSasl,
    /// The peer's open is due.
    Open,
    /// Both have opened.
    Opened,
    /// We have closed and wait for the peer's close.
    Closing,
    /// It is over.
    Closed,
}

impl Connection {
    /// A connection to which nothing has happened. `now_ms` is of the monotonic clock that all later calls use.
    ///
    /// # Panics
    ///
    /// If the configuration has a maximum frame size below 512 bytes.
    pub fn new(role: Role, config: Arc<Config>, now_ms: u64) -> Connection {
        assert!(config.max_frame_bytes >= FRAME_BYTES_MIN, "AMQP allows no smaller maximum frame size");
        Connection {
            role,
            timers: Timers::new(now_ms, &config),
            config,
            phase: Phase::Header,
            // What may be assumed before the peer's open is known [AMQP 2.4.1].
            remote: Remote { max_frame_bytes: FRAME_BYTES_MIN, channel_max: u16::MAX },
            sessions: Table::default(),
            channels: Handles::default(),
            links: Table::default(),
            pending: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// Whether both have opened and neither has closed.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Opened
    }

    /// Whether it is over: nothing more will be read or written.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Number of sessions.
    pub fn session_count(&self) -> u32 {
        self.sessions.count()
    }

    /// Number of links, those among them that wait for the peer's detach.
    pub fn link_count(&self) -> u32 {
        self.links.count()
    }

    /// Bytes that the peer makes the connection hold; see [`Config::held_bytes_max`].
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Our role on a link.
    pub fn role_of(&self, link: LinkId) -> Option<LinkRole> {
        self.link(link).map(|link| link.role)
    }

    /// The session of a link.
    pub fn session_of(&self, link: LinkId) -> Option<SessionId> {
        self.link(link).map(|link| self.session_id(link.session))
    }

    /// Messages that may still be sent on the link by the receiver's word, whichever end we are.
    pub fn credit(&self, link: LinkId) -> u32 {
        self.link(link).map_or(0, |link| link.credit)
    }

    /// Whether the receiver of a link on which we send waits for [`Connection::drained`].
    pub fn is_draining(&self, link: LinkId) -> bool {
        self.link(link).is_some_and(|link| link.drain && link.role == LinkRole::Sender)
    }

    /// Messages that can be sent now on a link, if each fits one frame.
    pub fn sendable(&self, link: LinkId) -> u32 {
        let Some(link) = self.link(link).filter(|link| link.is_attached() && link.role == LinkRole::Sender)
        else {
            return 0;
        };
        let Some(session) = self.sessions.at(link.session).filter(|session| session.has_room()) else {
            return 0;
        };
        let unsettled_left = self.config.unsettled_count_max.saturating_sub(session.outgoing.count());
        link.credit.min(session.remote_incoming_window).min(unsettled_left)
    }

    /// A link that is not detaching.
    fn link(&self, link: LinkId) -> Option<&Link> {
        self.links.get(link.slot, link.generation).filter(|link| link.is_live())
    }

    /// See [`Connection::link`].
    fn link_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        self.links.get_mut(link.slot, link.generation).filter(|link| link.is_live())
    }

    fn link_id(&self, slot: u32) -> LinkId {
        LinkId { slot, generation: self.links.generation(slot) }
    }

    fn session_id(&self, slot: u32) -> SessionId {
        SessionId { slot, generation: self.sessions.generation(slot) }
    }

    /// Books bytes that the peer makes us hold. False when that would be too many.
    fn hold(&mut self, bytes: usize) -> bool {
        let held_bytes = self.held_bytes + bytes;
        let fits = held_bytes <= self.config.held_bytes_max;
        if fits {
            self.held_bytes = held_bytes;
        }
        fits
    }

    fn release(&mut self, bytes: usize) {
        self.held_bytes -= bytes;
    }
}
