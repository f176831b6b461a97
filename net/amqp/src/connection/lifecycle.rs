//! open, begin, end, close: from the peer and by the caller.

use super::fault::Fault;
use super::{Connection, ENDED, Event, Phase, Role, SaslRole, SessionId};
use crate::condition::{self, Error};
use crate::frame::{self, AMQP_HEADER, FrameKind, SASL_HEADER};
use crate::limits::FRAME_BYTES_MIN;
use crate::performative::{Begin, Close, End, Open, Symbols};
use crate::session::{Session, SessionState};

impl Connection {
    /// Client: writes the header, and the open where no SASL comes first. Call once, before anything else.
    pub fn start(&mut self, output: &mut Vec<u8>) {
        debug_assert!(self.role == Role::Client && self.phase == Phase::Header);
        if let SaslRole::Choose { .. } = self.config.sasl {
            output.extend_from_slice(&SASL_HEADER);
        } else {
            output.extend_from_slice(&AMQP_HEADER);
            self.write_open(output);
        }
    }

    pub(super) fn on_open<'a>(&mut self, open: Open<'a>, output: &mut Vec<u8>) -> Result<Event<'a>, Fault> {
        if open.max_frame_bytes < FRAME_BYTES_MIN {
            return Err(Fault::connection(condition::INVALID_FIELD, "max-frame-size is below 512."));
        }
        if self.role == Role::Server {
            self.write_open(output);
        }
        // More than what we take ourselves buys nothing.
        self.remote.max_frame_bytes = open.max_frame_bytes.min(self.config.max_frame_bytes);
        self.remote.channel_max = open.channel_max;
        self.timers.set_remote_idle_timeout(open.idle_timeout_ms);
        self.phase = Phase::Opened;
        Ok(Event::Opened(Box::new(open)))
    }

    pub(super) fn write_open(&mut self, output: &mut Vec<u8>) {
        let open = Open {
            container_id: &self.config.container_id,
            hostname: self.config.hostname.as_deref(),
            max_frame_bytes: self.config.max_frame_bytes,
            channel_max: self.config.channel_max,
            idle_timeout_ms: Some(self.config.idle_timeout_ms),
            offered_capabilities: Symbols::Absent,
            desired_capabilities: Symbols::Absent,
            properties: None,
        };
        let start = frame::begin(output, FrameKind::Amqp, 0);
        open.encode(output);
        frame::end(output, start);
        self.timers.wrote = true;
    }

    pub(super) fn on_close<'a>(&mut self, close: Close<'a>, output: &mut Vec<u8>) -> Event<'a> {
        if self.phase == Phase::Opened {
            self.write_close(None, output);
        }
        self.over();
        Event::Closed { error: close.error }
    }

    /// Closes the connection. Links and sessions are gone without further events; [`Event::Closed`] comes when the peer has
    /// answered, or [`Connection::handle_timeout`] ends the wait. Does nothing unless it is open.
    pub fn close(&mut self, error: Option<&Error<'_>>, output: &mut Vec<u8>) {
        if self.phase == Phase::Opened {
            self.write_close(error, output);
            self.over();
            self.phase = Phase::Closing;
        }
    }

    pub(super) fn on_begin(
        &mut self,
        channel: u16,
        begin: Begin<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Event<'static>, Fault> {
        if channel > self.config.channel_max {
            return Err(Fault::connection(
                condition::CONNECTION_FRAMING_ERROR,
                "The channel is above channel-max.",
            ));
        }
        if self.channels.find(channel.into()).is_some_and(|slot| slot != ENDED) {
            return Err(Fault::connection(condition::ILLEGAL_STATE, "The channel is in use."));
        }
        let slot = match begin.remote_channel {
            Some(ours) => self.answered(ours.into())?,
            None => self.begun_by_peer(channel, &begin, output)?,
        };
        let Some(session) = slot.and_then(|slot| self.sessions.at_mut(slot)) else {
            self.channels.insert(channel.into(), ENDED, 0);
            return Ok(Event::Handled);
        };
        session.state = SessionState::Begun;
        session.remote_channel = channel;
        session.next_incoming_id = begin.next_outgoing_id;
        session.remote_incoming_window = begin.incoming_window;
        session.outgoing_window = begin.incoming_window;
        session.remote_handle_max = begin.handle_max;
        let slot = slot.expect("the session was found");
        self.channels.insert(channel.into(), slot, 0);
        Ok(Event::Begun { session: self.session_id(slot) })
    }

    /// The slot of a session of ours that the peer answers; `None` when it was given up meanwhile.
    fn answered(&mut self, slot: u32) -> Result<Option<u32>, Fault> {
        match self.sessions.at(slot).map(|session| session.state) {
            Some(SessionState::Requested) => Ok(Some(slot)),
            Some(SessionState::GivenUp) => {
                self.sessions.remove(slot);
                Ok(None)
            }
            _ => Err(Fault::connection(condition::INVALID_FIELD, "remote-channel names no begin of ours.")),
        }
    }

    /// Answers the begin of a peer; `None` when there are too many sessions, which the peer is told.
    fn begun_by_peer(
        &mut self,
        channel: u16,
        begin: &Begin<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Option<u32>, Fault> {
        let too_many = self.sessions.count() >= self.config.session_count_max;
        let (slot, _) = self.sessions.insert(Session::new(SessionState::Begun, self.config.window_max()));
        if slot > self.remote.channel_max.into() {
            return Err(Fault::connection(
                condition::RESOURCE_LIMIT_EXCEEDED,
                "The peer's channel-max leaves no channel.",
            ));
        }
        self.write_begin(slot, Some(channel), begin.incoming_window, output);
        if too_many {
            let error =
                Error::new(condition::RESOURCE_LIMIT_EXCEEDED, "Too many sessions on the connection.");
            self.write_end(slot, Some(&error), output);
            self.sessions.remove(slot);
            return Ok(None);
        }
        Ok(Some(slot))
    }

    fn write_begin(
        &mut self,
        slot: u32,
        remote_channel: Option<u16>,
        outgoing_window: u32,
        output: &mut Vec<u8>,
    ) {
        let begin = Begin {
            remote_channel,
            next_outgoing_id: crate::session::FIRST_OUTGOING_ID,
            incoming_window: self.config.window_max(),
            outgoing_window,
            handle_max: self.config.handle_max,
            offered_capabilities: Symbols::Absent,
            desired_capabilities: Symbols::Absent,
            properties: None,
        };
        let start = frame::begin(output, FrameKind::Amqp, slot as u16);
        begin.encode(output);
        frame::end(output, start);
        self.timers.wrote = true;
    }

    /// Client: begins a session. [`Event::Begun`] says when it stands. `None` when the connection is not open or has no
    /// channel left.
    pub fn begin(&mut self, output: &mut Vec<u8>) -> Option<SessionId> {
        if !self.is_open() || self.sessions.count() >= self.config.session_count_max {
            return None;
        }
        let (slot, generation) =
            self.sessions.insert(Session::new(SessionState::Requested, self.config.window_max()));
        if slot > self.remote.channel_max.into() {
            self.sessions.remove(slot);
            return None;
        }
        self.write_begin(slot, None, self.config.window_max(), output);
        Some(SessionId { slot, generation })
    }

    pub(super) fn on_end<'a>(&mut self, slot: u32, end: End<'a>, output: &mut Vec<u8>) -> Event<'a> {
        self.write_end(slot, None, output);
        let session = self.session_id(slot);
        self.forget_session(slot, true);
        if self.pending.is_empty() {
            return Event::Ended { session, error: end.error };
        }
        self.pending.push_back(Event::Ended { session, error: end.error.map(Error::into_owned) });
        self.pending.pop_front().expect("it was just seen to hold events")
    }

    /// Ends a session. Its links are gone without further events.
    pub fn end(&mut self, session: SessionId, error: Option<&Error<'_>>, output: &mut Vec<u8>) -> bool {
        let Some(state) = self.sessions.get(session.slot, session.generation).map(|session| session.state)
        else {
            return false;
        };
        match state {
            SessionState::GivenUp => return false,
            SessionState::Begun => {
                self.write_end(session.slot, error, output);
                self.forget_session(session.slot, false);
            }
            SessionState::Requested => {
                // The channel stays taken until the peer's begin says which of its channels to ignore.
                self.write_end(session.slot, error, output);
                self.forget_links(session.slot, false);
                if let Some(session) = self.sessions.at_mut(session.slot) {
                    session.state = SessionState::GivenUp;
                }
            }
        }
        true
    }

    /// Reports the end of a session that we ended for a fault of the peer.
    pub(super) fn report_ended(&mut self, slot: u32, error: Option<Error<'static>>) {
        let session = self.session_id(slot);
        self.forget_session(slot, true);
        self.pending.push_back(Event::Ended { session, error });
    }

    fn forget_session(&mut self, slot: u32, report: bool) {
        self.forget_links(slot, report);
        if let Some(session) = self.sessions.remove(slot) {
            self.channels.insert(session.remote_channel.into(), ENDED, 0);
        }
    }

    fn forget_links(&mut self, slot: u32, report: bool) {
        let Some(session) = self.sessions.at_mut(slot) else { return };
        let handles = std::mem::take(&mut session.local_handles);
        session.remote_handles = Default::default();
        for link in handles.slots() {
            if report && self.links.at(link).is_some_and(|link| link.is_live()) {
                let link = self.link_id(link);
                self.pending.push_back(Event::Detached { link, closed: true, error: None });
            }
            self.empty_link(link);
            self.links.remove(link);
        }
    }

    /// Lets go of what a link holds: bytes, unsettled deliveries, credit.
    pub(super) fn empty_link(&mut self, slot: u32) {
        let Some(link) = self.links.at_mut(slot) else { return };
        let mut held_bytes = link.held_bytes();
        link.assembly = None;
        if let crate::link::LinkState::Proposed(attach) = &mut link.state {
            *attach = Box::default();
        }
        link.credit = 0;
        let (role, unsettled_count) = (link.role, std::mem::take(&mut link.unsettled_count));
        if let Some(session) = self.sessions.at_mut(link.session) {
            if unsettled_count > 0 {
                session.deliveries(role).remove_link(slot);
            }
            if let Some(waiting) = session.waiting.take_if(|waiting| waiting.link == slot) {
                held_bytes += waiting.payload.len();
            }
        }
        self.release(held_bytes);
    }
}
