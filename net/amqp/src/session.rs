//! The state of one session at our end: windows, handles, unsettled deliveries [AMQP 2.5].

mod deliveries;
mod handles;

pub(crate) use deliveries::Deliveries;
pub(crate) use handles::Handles;

use crate::performative::{Flow, LinkRole};

/// A session, from begin to end. Its slot in the connection's table is our channel.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) state: SessionState,
    /// The peer's channel; without meaning before its begin.
    pub(crate) remote_channel: u16,
    /// Transfer id that we expect next.
    pub(crate) next_incoming_id: u32,
    /// Transfers that the peer may still send.
    pub(crate) incoming_window: u32,
    /// Transfer id that we use next.
    pub(crate) next_outgoing_id: u32,
    /// Transfers that we may still send.
    pub(crate) remote_incoming_window: u32,
    /// What our flows say that we can send: the peer's first incoming window, as the service does.
    pub(crate) outgoing_window: u32,
    /// Delivery id that we use next.
    pub(crate) next_delivery_id: u32,
    /// The peer's last delivery id.
    pub(crate) last_delivery_id: Option<u32>,
    /// Highest handle that the peer takes.
    pub(crate) remote_handle_max: u32,
    /// All links of the session by our handle.
    pub(crate) local_handles: Handles,
    /// Those that the peer has attached, by its handle.
    pub(crate) remote_handles: Handles,
    /// Unsettled deliveries that we received.
    pub(crate) incoming: Deliveries,
    /// Unsettled deliveries that we sent.
    pub(crate) outgoing: Deliveries,
    /// The rest of a delivery that did not fit into the window.
    pub(crate) waiting: Option<Box<Waiting>>,
}

/// Where a session is in its life. An ended one is gone from the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionState {
    /// We began it and wait for the peer's begin.
    Requested,
    /// The same, but it is given up already.
    GivenUp,
    /// Both have begun.
    Begun,
}

/// The unsent rest of a delivery.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Slot of its link.
    pub(crate) link: u32,
    pub(crate) delivery_id: u32,
    pub(crate) tag: Vec<u8>,
    pub(crate) message_format: u32,
    pub(crate) settled: bool,
    pub(crate) payload: Vec<u8>,
    /// How much of `payload` is sent.
    pub(crate) sent_bytes: usize,
}

/// Transfer id of our first transfer, and our first delivery id; the service begins with 1.
pub(crate) const FIRST_OUTGOING_ID: u32 = 1;

impl Session {
    /// A session of which the peer knows nothing yet.
    pub(crate) fn new(state: SessionState, incoming_window: u32) -> Session {
        Session {
            state,
            remote_channel: 0,
            next_incoming_id: 0,
            incoming_window,
            next_outgoing_id: FIRST_OUTGOING_ID,
            remote_incoming_window: 0,
            outgoing_window: incoming_window,
            next_delivery_id: FIRST_OUTGOING_ID,
            last_delivery_id: None,
            remote_handle_max: u32::MAX,
            local_handles: Handles::default(),
            remote_handles: Handles::default(),
            incoming: Deliveries::default(),
            outgoing: Deliveries::default(),
            waiting: None,
        }
    }

    /// Whether the window lets a new delivery begin.
    pub(crate) fn has_room(&self) -> bool {
        self.remote_incoming_window > 0 && self.waiting.is_none()
    }

    /// Takes over the peer's window [AMQP 2.5.6]: what it takes from its next incoming id on, less what is on its way.
    pub(crate) fn take_window(&mut self, flow: &Flow<'_>) {
        let seen = flow.next_incoming_id.unwrap_or(FIRST_OUTGOING_ID);
        let on_the_way = crate::serial::distance(seen, self.next_outgoing_id);
        self.remote_incoming_window = flow.incoming_window.saturating_sub(on_the_way);
    }

    /// The session's part of a flow that we send.
    pub(crate) fn flow(&self) -> Flow<'static> {
        Flow {
            next_incoming_id: Some(self.next_incoming_id),
            incoming_window: self.incoming_window,
            next_outgoing_id: self.next_outgoing_id,
            outgoing_window: self.outgoing_window,
            ..Flow::default()
        }
    }

    /// The unsettled deliveries of links on which we have this role.
    pub(crate) fn deliveries(&mut self, role: LinkRole) -> &mut Deliveries {
        match role {
            LinkRole::Sender => &mut self.outgoing,
            LinkRole::Receiver => &mut self.incoming,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_reduced_by_what_is_on_its_way_and_never_wraps() {
        let mut session = Session::new(SessionState::Begun, 100);
        session.next_outgoing_id = 10;
        let flow =
            |next_incoming_id, incoming_window| Flow { next_incoming_id, incoming_window, ..Flow::default() };
        session.take_window(&flow(Some(4), 10));
        assert_eq!(session.remote_incoming_window, 4);
        session.take_window(&flow(Some(4), 5));
        assert_eq!(session.remote_incoming_window, 0);
        // uamqp's window has no end.
        session.take_window(&flow(Some(9), u32::MAX));
        assert_eq!(session.remote_incoming_window, u32::MAX - 1);
        // Without an id the peer has seen nothing.
        session.take_window(&flow(None, 10));
        assert_eq!(session.remote_incoming_window, 1);
    }
}
