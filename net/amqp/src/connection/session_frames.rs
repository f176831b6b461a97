//! flow, transfer and disposition from the peer.

use super::fault::Fault;
use super::{Connection, Event, LinkId};
use crate::condition;
use crate::frame::AssembledMessage;
use crate::limits::{DELIVERY_TAG_BYTES_MAX, FRAMES_PER_DELIVERY_MAX};
use crate::link::{Assembly, LinkState};
use crate::performative::{Disposition, Flow, LinkRole, Transfer};

impl Connection {
    pub(super) fn on_flow<'a>(
        &mut self,
        session_slot: u32,
        flow: Flow<'a>,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Fault> {
        let session = self.sessions.at_mut(session_slot).expect("channels name sessions that stand");
        let had_room = session.has_room();
        session.take_window(&flow);
        if session.waiting.is_some() {
            self.send_waiting(session_slot, output);
        }
        let session = self.sessions.at(session_slot).expect("channels name sessions that stand");
        let window_opened = !had_room && session.has_room();
        let event = match flow.handle {
            Some(handle) => {
                let Some(slot) = session.remote_handles.find(handle) else {
                    return Err(Fault::session(
                        session_slot,
                        condition::SESSION_UNATTACHED_HANDLE,
                        "The handle is not attached.",
                    ));
                };
                self.on_link_flow(slot, &flow, output)
            }
            None => {
                if flow.echo {
                    self.write_session_flow(session_slot, output);
                }
                Event::Handled
            }
        };
        if window_opened {
            let opened = Event::Window { session: self.session_id(session_slot) };
            if event == Event::Handled {
                return Ok(opened);
            }
            self.pending.push_back(opened);
        }
        Ok(event)
    }

    fn on_link_flow(&mut self, slot: u32, flow: &Flow<'_>, output: &mut Vec<u8>) -> Event<'static> {
        let link_id = self.link_id(slot);
        let Some(link) = self.links.at_mut(slot).filter(|link| link.is_live()) else { return Event::Handled };
        let event = match link.role {
            LinkRole::Sender => {
                link.take_credit(flow.delivery_count, flow.link_credit.unwrap_or(0), flow.drain);
                match link.is_attached() {
                    true => Event::Flow { link: link_id, credit: link.credit, drain: link.drain },
                    false => Event::Handled,
                }
            }
            LinkRole::Receiver => {
                if let Some(delivery_count) = flow.delivery_count {
                    link.take_delivery_count(delivery_count);
                }
                match link.drain && link.credit == 0 {
                    true => {
                        link.drain = false;
                        Event::Drained { link: link_id }
                    }
                    false => Event::Handled,
                }
            }
        };
        if flow.echo && link.is_attached() {
            self.write_link_flow(slot, output);
        }
        event
    }

    /// Tells the peer of a larger window once half of it is used up and enough of it is free again.
    pub(super) fn widen_window(&mut self, session_slot: u32, output: &mut Vec<u8>) {
        let full = self.config.window_max();
        let Some(session) = self.sessions.at(session_slot) else { return };
        let more = self.config.window(session).saturating_sub(session.incoming_window);
        if session.incoming_window <= full / 2 && more >= full.div_ceil(4) {
            self.write_session_flow(session_slot, output);
        }
    }

    /// Writes the session's state, its incoming window as large as it may be.
    fn write_session_flow(&mut self, session_slot: u32, output: &mut Vec<u8>) {
        let Some(session) = self.sessions.at_mut(session_slot) else { return };
        session.incoming_window = self.config.window(session);
        let flow = session.flow();
        self.write_flow(session_slot, &flow, output);
    }

    /// Writes the state of a link and of its session.
    pub(super) fn write_link_flow(&mut self, slot: u32, output: &mut Vec<u8>) {
        let Some(link) = self.links.at(slot) else { return };
        let session_slot = link.session;
        let Some(session) = self.sessions.at_mut(session_slot) else { return };
        session.incoming_window = self.config.window(session);
        let flow = Flow {
            handle: Some(link.local_handle),
            delivery_count: Some(link.delivery_count),
            link_credit: Some(link.credit),
            available: Some(0),
            drain: link.drain,
            ..session.flow()
        };
        self.write_flow(session_slot, &flow, output);
    }

    fn write_flow(&mut self, session_slot: u32, flow: &Flow<'_>, output: &mut Vec<u8>) {
        let start = crate::frame::begin(output, crate::frame::FrameKind::Amqp, session_slot as u16);
        flow.encode(output);
        crate::frame::end(output, start);
        self.timers.wrote = true;
    }

    pub(super) fn on_transfer<'a>(
        &mut self,
        session_slot: u32,
        transfer: Transfer<'a>,
        payload: &'a [u8],
        message: &'a mut AssembledMessage,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Fault> {
        let session = self.sessions.at_mut(session_slot).expect("channels name sessions that stand");
        if session.incoming_window == 0 {
            return Err(Fault::session(
                session_slot,
                condition::SESSION_WINDOW_VIOLATION,
                "A transfer beyond the incoming window.",
            ));
        }
        session.incoming_window -= 1;
        session.next_incoming_id = session.next_incoming_id.wrapping_add(1);
        self.widen_window(session_slot, output);
        let session = self.sessions.at_mut(session_slot).expect("channels name sessions that stand");
        let Some(slot) = session.remote_handles.find(transfer.handle) else {
            return Err(Fault::session(
                session_slot,
                condition::SESSION_UNATTACHED_HANDLE,
                "The handle is not attached.",
            ));
        };
        let link_id = LinkId { slot, generation: self.links.generation(slot) };
        let link = self.links.at_mut(slot).expect("handles name links that stand");
        match link.state {
            LinkState::Detaching => return Ok(Event::Handled),
            LinkState::Attached if link.role == LinkRole::Receiver => {}
            _ => {
                return Err(Fault::link(slot, condition::ILLEGAL_STATE, "The link does not take transfers."));
            }
        }
        if let Some(assembly) = &link.assembly {
            if transfer.delivery_id.is_some_and(|id| id != assembly.delivery_id) {
                return Err(Fault::link(
                    slot,
                    condition::INVALID_FIELD,
                    "A delivery began before the last one ended.",
                ));
            }
            return self.on_further_transfer(slot, transfer, payload, message);
        }
        let (Some(delivery_id), Some(delivery_tag)) = (transfer.delivery_id, transfer.delivery_tag) else {
            return Err(Fault::session(
                session_slot,
                condition::INVALID_FIELD,
                "A delivery begins without id or tag.",
            ));
        };
        if link.credit == 0 {
            return Err(Fault::link(
                slot,
                condition::LINK_TRANSFER_LIMIT_EXCEEDED,
                "A transfer without credit.",
            ));
        }
        if delivery_tag.len() > DELIVERY_TAG_BYTES_MAX {
            return Err(Fault::link(slot, condition::INVALID_FIELD, "The delivery tag is too long."));
        }
        let in_order =
            session.last_delivery_id.is_none_or(|last| crate::serial::is_before(last, delivery_id));
        if !in_order || !session.incoming.takes(delivery_id) {
            return Err(Fault::session(session_slot, condition::INVALID_FIELD, "Delivery ids must grow."));
        }
        session.last_delivery_id = Some(delivery_id);
        link.credit -= 1;
        link.delivery_count = link.delivery_count.wrapping_add(1);
        let message_format = transfer.message_format.unwrap_or(0);
        if transfer.more || transfer.aborted {
            link.assembly = Some(Box::new(Assembly {
                delivery_id,
                tag: delivery_tag.to_vec(),
                message_format,
                settled: false,
                payload: Vec::new(),
                frame_count: 0,
            }));
            return self.on_further_transfer(slot, transfer, payload, message);
        }
        if payload.len() as u64 > link.message_bytes_max {
            return Err(too_large(slot));
        }
        let settled = transfer.settled.unwrap_or(false);
        if !settled {
            self.note_unsettled(slot, delivery_id);
        }
        Ok(Event::Transfer { link: link_id, delivery_id, delivery_tag, message_format, settled, payload })
    }

    /// A frame of a delivery that is being assembled, its first one among them.
    fn on_further_transfer<'a>(
        &mut self,
        slot: u32,
        transfer: Transfer<'a>,
        payload: &[u8],
        message: &'a mut AssembledMessage,
    ) -> Result<Event<'a>, Fault> {
        let link_id = self.link_id(slot);
        let held = transfer.aborted || self.hold(payload.len());
        let link = self.links.at_mut(slot).expect("the caller found it");
        let assembly = link.assembly.as_mut().expect("the caller made it");
        if transfer.aborted {
            let held_bytes = assembly.payload.len();
            link.assembly = None;
            self.release(held_bytes);
            return Ok(Event::Aborted { link: link_id });
        }
        if !held {
            return Err(Fault::link(
                slot,
                condition::RESOURCE_LIMIT_EXCEEDED,
                "Too much is in parts on the connection.",
            ));
        }
        assembly.payload.extend_from_slice(payload);
        assembly.frame_count += 1;
        assembly.settled |= transfer.settled.unwrap_or(false);
        if assembly.payload.len() as u64 > link.message_bytes_max
            || assembly.frame_count > FRAMES_PER_DELIVERY_MAX
        {
            return Err(too_large(slot));
        }
        if transfer.more {
            return Ok(Event::Handled);
        }
        let assembly = *link.assembly.take().expect("it was just extended");
        self.release(assembly.payload.len());
        let Assembly { delivery_id, message_format, settled, .. } = assembly;
        if !settled {
            self.note_unsettled(slot, delivery_id);
        }
        *message = AssembledMessage { tag: assembly.tag, payload: assembly.payload };
        Ok(Event::Transfer {
            link: link_id,
            delivery_id,
            delivery_tag: &message.tag,
            message_format,
            settled,
            payload: &message.payload,
        })
    }

    /// Remembers a delivery that waits for our disposition.
    fn note_unsettled(&mut self, slot: u32, delivery_id: u32) {
        let link = self.links.at_mut(slot).expect("the caller found it");
        let session = self.sessions.at_mut(link.session).expect("links name sessions that stand");
        // The window is never wider than what is left of it, and the transfer was within the window.
        debug_assert!(session.incoming.count() < self.config.unsettled_count_max, "the window is too wide");
        session.incoming.insert(delivery_id, slot);
        link.unsettled_count += 1;
    }

    pub(super) fn on_disposition<'a>(
        &mut self,
        session_slot: u32,
        disposition: Disposition<'a>,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Fault> {
        let Disposition { first, settled, state, .. } = disposition;
        let last = disposition.last.unwrap_or(first);
        let session = self.sessions.at_mut(session_slot).expect("channels name sessions that stand");
        let links = &mut self.links;
        let pending = &mut self.pending;
        let mut told = None;
        session.deliveries(disposition.role.opposite()).for_each_run(first, last, None, settled, |run| {
            let link = LinkId { slot: run.link, generation: links.generation(run.link) };
            if let (true, Some(entry)) = (settled, links.at_mut(run.link)) {
                entry.unsettled_count -= run.count;
            }
            let (first, last) = (run.first, run.last);
            match &told {
                None => told = Some(Event::Settled { link, first, last, state: state.clone(), settled }),
                Some(_) => {
                    let state = state.clone().map(|state| state.into_owned());
                    pending.push_back(Event::Settled { link, first, last, state, settled });
                }
            }
        });
        self.widen_window(session_slot, output);
        Ok(told.unwrap_or(Event::Handled))
    }
}

fn too_large(slot: u32) -> Fault {
    Fault::link(slot, condition::LINK_MESSAGE_SIZE_EXCEEDED, "The message exceeds max-message-size.")
}
