//! attach and detach: from the peer and by the caller.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::fault::Fault;
use super::{AttachReply, AttachRequest, Connection, Event, LinkId, SessionId};
use crate::condition::{self, Error};
use crate::frame::{self, FrameKind};
use crate::limits::LINK_NAME_BYTES_MAX;
use crate::link::{Link, LinkState};
use crate::performative::{Attach, Detach, LinkRole, Performative, Source, Symbols, Target};
use crate::session::SessionState;

/// Links beyond [`super::Config::link_count_max`] that can be refused one by one, because a refused link takes a slot until
/// the peer detaches. Beyond it the session ends.
const REFUSED_LINK_COUNT_MAX: u32 = 256;

impl Connection {
    pub(super) fn on_attach<'a>(
        &mut self,
        session_slot: u32,
        attach: Attach<'a>,
        body: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Fault> {
        if attach.handle > self.config.handle_max {
            return Err(Fault::connection(
                condition::CONNECTION_FRAMING_ERROR,
                "The handle is above handle-max.",
            ));
        }
        let session = self.sessions.at(session_slot).expect("channels name sessions that stand");
        if session.remote_handles.find(attach.handle).is_some() {
            return Err(Fault::session(
                session_slot,
                condition::SESSION_HANDLE_IN_USE,
                "The handle is attached already.",
            ));
        }
        let role = attach.role.opposite();
        let hash = name_hash(attach.name, role);
        // A link of ours that we gave up before its answer came is still to be found by it.
        let named = session.local_handles.with_hash(hash).find(|slot| {
            self.links.at(*slot).is_some_and(|link| {
                (link.is_live() || link.remote_handle.is_none())
                    && link.role == role
                    && *link.name == *attach.name
            })
        });
        if let Some(slot) = named {
            match self.links.at(slot).map(|link| &link.state) {
                Some(LinkState::Requested) => return Ok(self.on_attach_answer(slot, attach)),
                Some(LinkState::Detaching) => {
                    self.note_remote_handle(slot, attach.handle);
                    return Ok(Event::Handled);
                }
                _ => {
                    // The newcomer takes the name over [AMQP 2.6.1].
                    let error = Error::new(condition::LINK_STOLEN, "The link was attached again.");
                    let link = self.link_id(slot);
                    self.write_detach(slot, true, Some(&error), output);
                    self.pending.push_back(Event::Detached { link, closed: true, error: Some(error) });
                }
            }
        }
        self.on_attach_proposal(session_slot, role, hash, attach, body, output)
    }

    /// A link that the peer wants.
    fn on_attach_proposal<'a>(
        &mut self,
        session_slot: u32,
        role: LinkRole,
        hash: u32,
        attach: Attach<'a>,
        body: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Fault> {
        let link_count_max = self.config.link_count_max;
        if self.links.count() >= link_count_max + REFUSED_LINK_COUNT_MAX {
            return Err(Fault::session(
                session_slot,
                condition::RESOURCE_LIMIT_EXCEEDED,
                "Too many links on the connection.",
            ));
        }
        let refusal = if attach.name.len() > LINK_NAME_BYTES_MAX {
            Some(Error::new(condition::INVALID_FIELD, "The link's name is too long."))
        } else if attach.target.as_ref().is_some_and(|target| target.is_coordinator) {
            Some(Error::new(condition::NOT_IMPLEMENTED, "There are no transactions here."))
        } else if self.links.count() >= link_count_max {
            Some(Error::new(condition::RESOURCE_LIMIT_EXCEEDED, "Too many links on the connection."))
        } else if !self.hold(body.len()) {
            Some(Error::new(condition::RESOURCE_LIMIT_EXCEEDED, "Too much is waiting on the connection."))
        } else {
            None
        };
        let proposal = if refusal.is_none() { body.into() } else { Box::default() };
        let mut link = Link::new(session_slot, role, attach.name, LinkState::Proposed(proposal));
        // The service answers with the peer's own handle; nobody else uses ours.
        (link.local_handle, link.remote_handle) = (attach.handle, Some(attach.handle));
        if role == LinkRole::Receiver {
            link.delivery_count = attach.initial_delivery_count.unwrap_or(0);
        } else {
            link.message_bytes_max = no_limit_if_zero(attach.max_message_bytes);
        }
        let (slot, generation) = self.links.insert(link);
        let session = self.sessions.at_mut(session_slot).expect("channels name sessions that stand");
        if session.local_handles.find(attach.handle).is_some() {
            // Only a connection that attaches by itself as well gets here.
            let handle = session.local_handles.lowest_free();
            self.links.at_mut(slot).expect("it was just inserted").local_handle = handle;
            session.local_handles.insert(handle, slot, hash);
        } else {
            session.local_handles.insert(attach.handle, slot, hash);
        }
        session.remote_handles.insert(attach.handle, slot, 0);
        let link = LinkId { slot, generation };
        match refusal {
            Some(error) => {
                self.refuse(slot, &attach, &error, output);
                Ok(Event::Handled)
            }
            None => {
                let session = self.session_id(session_slot);
                Ok(Event::Attached { link, session, attach: Box::new(attach) })
            }
        }
    }

    /// The peer's answer to our attach.
    fn on_attach_answer<'a>(&mut self, slot: u32, attach: Attach<'a>) -> Event<'a> {
        let link_id = self.link_id(slot);
        let link = self.links.at_mut(slot).expect("the caller found it");
        let accepted = match link.role {
            LinkRole::Sender => attach.target.is_some(),
            LinkRole::Receiver => attach.source.is_some(),
        };
        link.state = if accepted { LinkState::Attached } else { LinkState::Refused };
        match link.role {
            LinkRole::Sender => link.message_bytes_max = no_limit_if_zero(attach.max_message_bytes),
            LinkRole::Receiver => link.delivery_count = attach.initial_delivery_count.unwrap_or(0),
        }
        let session_slot = link.session;
        self.note_remote_handle(slot, attach.handle);
        let session = self.session_id(session_slot);
        Event::Attached { link: link_id, session, attach: Box::new(attach) }
    }

    /// Remembers the peer's handle of a link of ours that it answers.
    fn note_remote_handle(&mut self, slot: u32, handle: u32) {
        let Some(link) = self.links.at_mut(slot) else { return };
        link.remote_handle = Some(handle);
        if let Some(session) = self.sessions.at_mut(link.session) {
            session.remote_handles.insert(handle, slot, 0);
        }
    }

    /// What the peer asks for with a link that is neither accepted nor refused yet, and in which session.
    pub fn proposal(&self, link: LinkId) -> Option<(SessionId, Box<Attach<'_>>)> {
        let entry = self.link(link)?;
        let LinkState::Proposed(proposal) = &entry.state else { return None };
        Some((self.session_id(entry.session), decoded(proposal)))
    }

    /// Accepts a link that the peer proposed. What it may send is then granted by [`Connection::grant`]; what it takes is told
    /// by [`Connection::sendable`], because a receiver may grant credit before it is accepted.
    pub fn accept_link(&mut self, link: LinkId, reply: &AttachReply<'_>, output: &mut Vec<u8>) -> bool {
        let message_bytes_max = self.config.message_bytes_max;
        let Some(entry) = self.link_mut(link) else { return false };
        let LinkState::Proposed(proposal) = &mut entry.state else { return false };
        let proposal = std::mem::take(proposal);
        entry.state = LinkState::Attached;
        let (role, session, handle) = (entry.role, entry.session, entry.local_handle);
        let max_message_bytes = reply.max_message_bytes.unwrap_or(message_bytes_max);
        if role == LinkRole::Receiver {
            entry.message_bytes_max =
                no_limit_if_zero(Some(reply.message_bytes_max.unwrap_or(max_message_bytes)));
        }
        self.release(proposal.len());
        let asked = decoded(&proposal);
        let answer = Attach {
            name: asked.name,
            handle,
            role,
            sender_settle_mode: reply.sender_settle_mode.unwrap_or(asked.sender_settle_mode),
            receiver_settle_mode: reply.receiver_settle_mode.unwrap_or(asked.receiver_settle_mode),
            // Null in either would mean a refusal to strict clients.
            source: Some(reply.source.clone().or(asked.source).unwrap_or_default()),
            target: Some(reply.target.clone().or(asked.target).unwrap_or_default()),
            unsettled: None,
            incomplete_unsettled: false,
            initial_delivery_count: (role == LinkRole::Sender).then_some(0),
            max_message_bytes: Some(max_message_bytes),
            offered_capabilities: reply.offered_capabilities,
            desired_capabilities: Symbols::Absent,
            properties: reply.properties,
        };
        self.write_attach(session, &answer, output);
        true
    }

    /// Refuses a link that the peer proposed: an attach without source and target, then a detach with the error. The link is
    /// gone without further events.
    pub fn refuse_link(&mut self, link: LinkId, error: &Error<'_>, output: &mut Vec<u8>) -> bool {
        let Some(entry) = self.link_mut(link) else { return false };
        let LinkState::Proposed(proposal) = &mut entry.state else { return false };
        let proposal = std::mem::take(proposal);
        self.release(proposal.len());
        let asked = decoded(&proposal);
        self.refuse(link.slot, &asked, error, output);
        true
    }

    fn refuse(&mut self, slot: u32, asked: &Attach<'_>, error: &Error<'_>, output: &mut Vec<u8>) {
        self.write_refusal(slot, asked, output);
        self.write_detach(slot, true, Some(error), output);
    }

    /// The attach that says no; N-DEV, proton-j and uamqp need it before the detach.
    fn write_refusal(&mut self, slot: u32, asked: &Attach<'_>, output: &mut Vec<u8>) {
        let Some(link) = self.links.at(slot) else { return };
        let (session, role, handle) = (link.session, link.role, link.local_handle);
        let answer = Attach {
            name: asked.name,
            handle,
            role,
            sender_settle_mode: asked.sender_settle_mode,
            receiver_settle_mode: asked.receiver_settle_mode,
            source: None,
            target: None,
            unsettled: None,
            incomplete_unsettled: false,
            initial_delivery_count: None,
            max_message_bytes: Some(self.config.message_bytes_max),
            offered_capabilities: Symbols::Absent,
            desired_capabilities: Symbols::Absent,
            properties: None,
        };
        self.write_attach(session, &answer, output);
    }

    fn write_attach(&mut self, session: u32, attach: &Attach<'_>, output: &mut Vec<u8>) {
        let start = frame::begin(output, FrameKind::Amqp, session as u16);
        attach.encode(output);
        frame::end(output, start);
        self.timers.wrote = true;
    }

    /// Client: asks for a link. [`Event::Attached`] brings the answer. `None` when the session does not stand, or has no handle
    /// left.
    pub fn attach(
        &mut self,
        session: SessionId,
        request: &AttachRequest<'_>,
        output: &mut Vec<u8>,
    ) -> Option<LinkId> {
        let entry = self.sessions.get_mut(session.slot, session.generation)?;
        let handle = entry.local_handles.lowest_free();
        let room = entry.state == SessionState::Begun && handle <= entry.remote_handle_max;
        if !room || self.links.count() >= self.config.link_count_max {
            return None;
        }
        let mut link = Link::new(session.slot, request.role, request.name, LinkState::Requested);
        link.local_handle = handle;
        if let (LinkRole::Receiver, Some(limit)) = (request.role, request.max_message_bytes) {
            link.message_bytes_max = no_limit_if_zero(Some(limit));
        }
        let (slot, generation) = self.links.insert(link);
        entry.local_handles.insert(handle, slot, name_hash(request.name, request.role));
        let attach = Attach {
            name: request.name,
            handle,
            role: request.role,
            sender_settle_mode: request.sender_settle_mode,
            receiver_settle_mode: request.receiver_settle_mode,
            source: Some(Source::clone(&request.source)),
            target: Some(Target::clone(&request.target)),
            unsettled: None,
            incomplete_unsettled: false,
            initial_delivery_count: (request.role == LinkRole::Sender).then_some(0),
            max_message_bytes: request.max_message_bytes,
            offered_capabilities: Symbols::Absent,
            desired_capabilities: request.desired_capabilities,
            properties: request.properties,
        };
        self.write_attach(session.slot, &attach, output);
        Some(LinkId { slot, generation })
    }

    pub(super) fn on_detach<'a>(
        &mut self,
        session_slot: u32,
        detach: Detach<'a>,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Fault> {
        let session = self.sessions.at(session_slot).expect("channels name sessions that stand");
        let Some(slot) = session.remote_handles.find(detach.handle) else {
            return Err(Fault::session(
                session_slot,
                condition::SESSION_UNATTACHED_HANDLE,
                "The handle is not attached.",
            ));
        };
        let link_id = self.link_id(slot);
        let Some(link) = self.links.at_mut(slot) else { return Ok(Event::Handled) };
        let was_live = link.is_live();
        if was_live {
            if let LinkState::Proposed(proposal) = &mut link.state {
                // Even now an attach must come before the detach.
                let proposal = std::mem::take(proposal);
                self.release(proposal.len());
                self.write_refusal(slot, &decoded(&proposal), output);
            }
            self.write_detach(slot, detach.closed, None, output);
        }
        self.remove_link(slot);
        self.widen_window(session_slot, output);
        match was_live {
            true => Ok(Event::Detached { link: link_id, closed: detach.closed, error: detach.error }),
            false => Ok(Event::Handled),
        }
    }

    /// Closes a link. It is gone without further events.
    pub fn detach(&mut self, link: LinkId, error: Option<&Error<'_>>, output: &mut Vec<u8>) -> bool {
        let Some(entry) = self.link_mut(link) else { return false };
        if let LinkState::Proposed(_) = entry.state {
            let error =
                error.cloned().unwrap_or_else(|| Error::new(condition::LINK_DETACH_FORCED, "Refused."));
            return self.refuse_link(link, &error, output);
        }
        self.write_detach(link.slot, true, error, output);
        true
    }

    /// Takes a link out of the tables; both have detached.
    fn remove_link(&mut self, slot: u32) {
        self.empty_link(slot);
        let Some(link) = self.links.remove(slot) else { return };
        if let Some(session) = self.sessions.at_mut(link.session) {
            session.local_handles.remove(link.local_handle);
            if let Some(handle) = link.remote_handle {
                session.remote_handles.remove(handle);
            }
        }
    }
}

/// Links are found by name and role within their session.
fn name_hash(name: &str, role: LinkRole) -> u32 {
    let mut hasher = DefaultHasher::new();
    (name, role).hash(&mut hasher);
    hasher.finish() as u32
}

fn no_limit_if_zero(message_bytes_max: Option<u64>) -> u64 {
    message_bytes_max.filter(|limit| *limit > 0).unwrap_or(u64::MAX)
}

/// A link's proposal.
fn decoded(proposal: &[u8]) -> Box<Attach<'_>> {
    match Performative::decode(proposal) {
        Ok(Performative::Attach(asked)) => asked,
        _ => unreachable!("the attach was decoded when it came"),
    }
}
