//! Credit and settlement, by the caller.

use super::{Connection, LinkId, SessionId};
use crate::frame::{self, FrameKind};
use crate::performative::{DeliveryState, Disposition, LinkRole};

impl Connection {
    /// On a link on which we receive: lets the peer send this many messages from now on, whatever was granted before.
    pub fn grant(&mut self, link: LinkId, credit: u32, output: &mut Vec<u8>) -> bool {
        self.write_credit(link, credit, false, output)
    }

    /// The same, and asks the peer to use the credit up or give it back at once; [`super::Event::Drained`] says when it has.
    pub fn drain(&mut self, link: LinkId, credit: u32, output: &mut Vec<u8>) -> bool {
        self.write_credit(link, credit, true, output)
    }

    fn write_credit(&mut self, link: LinkId, credit: u32, drain: bool, output: &mut Vec<u8>) -> bool {
        match self.link_mut(link) {
            Some(entry) if entry.is_attached() && entry.role == LinkRole::Receiver => {
                (entry.credit, entry.drain) = (credit, drain);
                self.write_link_flow(link.slot, output);
                true
            }
            _ => false,
        }
    }

    /// On a link on which we send and that the peer drains: gives back the credit that is left. Call it when there is nothing
    /// more to send.
    pub fn drained(&mut self, link: LinkId, output: &mut Vec<u8>) -> bool {
        match self.link_mut(link) {
            Some(entry) if entry.is_attached() && entry.role == LinkRole::Sender && entry.drain => {
                entry.delivery_count = entry.delivery_count.wrapping_add(entry.credit);
                entry.credit = 0;
                self.write_link_flow(link.slot, output);
                if let Some(entry) = self.link_mut(link) {
                    entry.drain = false;
                }
                true
            }
            _ => false,
        }
    }

    /// Tells the state of the link's unsettled deliveries from `first` to `last` (the same for a single one). Deliveries of
    /// other links in between are left alone. On a link on which we send this completes what the peer has given an outcome.
    ///
    /// True if anything was written: false when none of them is unsettled any more.
    pub fn settle(
        &mut self,
        link: LinkId,
        first: u32,
        last: u32,
        state: &DeliveryState<'_>,
        settled: bool,
        output: &mut Vec<u8>,
    ) -> bool {
        let Some(entry) = self.links.get_mut(link.slot, link.generation).filter(|entry| entry.is_live())
        else {
            return false;
        };
        let (session_slot, role) = (entry.session, entry.role);
        let session = self.sessions.at_mut(session_slot).expect("links name sessions that stand");
        let max_frame_bytes = self.remote.max_frame_bytes as usize;
        let start = output.len();
        session.deliveries(role).for_each_run(first, last, Some(link.slot), settled, |run| {
            if settled {
                entry.unsettled_count -= run.count;
            }
            let last = (run.last != run.first).then_some(run.last);
            let disposition = Disposition {
                role,
                first: run.first,
                last,
                settled,
                state: Some(state.clone()),
                batchable: false,
            };
            write_disposition(session_slot, &disposition, output, max_frame_bytes);
        });
        let wrote = output.len() > start;
        self.timers.wrote |= wrote;
        if settled && role == LinkRole::Receiver {
            self.widen_window(session_slot, output);
        }
        wrote
    }

    /// Settles the session's unsettled deliveries from `first` to `last`, on links on which we receive, with one state and in
    /// one frame, whatever their links: deliveries of a session are numbered across its links.
    ///
    /// True if anything was written: false when none of them is unsettled any more.
    pub fn settle_received(
        &mut self,
        session: SessionId,
        (first, last): (u32, u32),
        state: &DeliveryState<'_>,
        output: &mut Vec<u8>,
    ) -> bool {
        let Some(entry) = self.sessions.get_mut(session.slot, session.generation) else { return false };
        let links = &mut self.links;
        let mut is_any = false;
        entry.deliveries(LinkRole::Receiver).for_each_run(first, last, None, true, |run| {
            is_any = true;
            if let Some(link) = links.at_mut(run.link) {
                link.unsettled_count -= run.count;
            }
        });
        if is_any {
            let role = LinkRole::Receiver;
            let last = (last != first).then_some(last);
            let state = Some(state.clone());
            let disposition = Disposition { role, first, last, settled: true, state, batchable: false };
            let max_frame_bytes = self.remote.max_frame_bytes as usize;
            write_disposition(session.slot, &disposition, output, max_frame_bytes);
            self.timers.wrote = true;
            self.widen_window(session.slot, output);
        }
        is_any
    }
}

/// Writes a disposition. Should its error not fit the peer's frame size, only its condition goes.
fn write_disposition(
    session_slot: u32,
    disposition: &Disposition<'_>,
    output: &mut Vec<u8>,
    max_frame_bytes: usize,
) {
    let start = frame::begin(output, FrameKind::Amqp, session_slot as u16);
    disposition.encode(output);
    if output.len() - start > max_frame_bytes {
        let state = match &disposition.state {
            Some(DeliveryState::Rejected(Some(error))) => {
                let error =
                    crate::Error { condition: error.condition.clone(), description: None, info: None };
                Some(DeliveryState::Rejected(Some(error)))
            }
            Some(DeliveryState::Modified { delivery_failed, undeliverable_here, .. }) => {
                Some(DeliveryState::Modified {
                    delivery_failed: *delivery_failed,
                    undeliverable_here: *undeliverable_here,
                    annotations: None,
                })
            }
            other => other.clone(),
        };
        output.truncate(start + frame::FRAME_HEAD_BYTES);
        Disposition { state, ..disposition.clone() }.encode(output);
    }
    frame::end(output, start);
}
