//! The state of one link at our end.

use crate::performative::LinkRole;

/// A link, from the peer's attach or ours until both have detached.
#[derive(Debug)]
pub(crate) struct Link {
    /// Slot of its session.
    pub(crate) session: u32,
    /// Which end we are.
    pub(crate) role: LinkRole,
    pub(crate) state: LinkState,
    pub(crate) name: Box<str>,
    /// Our handle, in frames that we send.
    pub(crate) local_handle: u32,
    /// The peer's handle; `None` until it has attached.
    pub(crate) remote_handle: Option<u32>,
    /// Deliveries sent on the link, counted from the initial delivery count [AMQP 2.6.7].
    pub(crate) delivery_count: u32,
    /// Deliveries that may still be sent.
    pub(crate) credit: u32,
    /// Whether credit is to be used up or given back.
    pub(crate) drain: bool,
    /// Largest message that may be sent on it, bytes, by either side's word.
    pub(crate) message_bytes_max: u64,
    /// Unsettled deliveries of the link in its session's table.
    pub(crate) unsettled_count: u32,
    /// A delivery that has begun to arrive.
    pub(crate) assembly: Option<Box<Assembly>>,
}

/// Where a link is in its life.
#[derive(Debug)]
pub(crate) enum LinkState {
    /// The peer attached; the performative is kept for the answer.
    Proposed(Box<[u8]>),
    /// We attached and wait for the answer.
    Requested,
    /// Both attached.
    Attached,
    /// The peer's answer was a refusal: its detach is about to come.
    Refused,
    /// We detached and wait for the peer's detach. Everything else on the link is ignored.
    Detaching,
}

/// A delivery that comes in several frames.
#[derive(Debug)]
pub(crate) struct Assembly {
    pub(crate) delivery_id: u32,
    pub(crate) tag: Vec<u8>,
    pub(crate) message_format: u32,
    pub(crate) settled: bool,
    pub(crate) payload: Vec<u8>,
    /// Frames so far.
    pub(crate) frame_count: u32,
}

impl Link {
    /// A link without credit.
    pub(crate) fn new(session: u32, role: LinkRole, name: &str, state: LinkState) -> Link {
        Link {
            session,
            role,
            state,
            name: name.into(),
            local_handle: 0,
            remote_handle: None,
            delivery_count: 0,
            credit: 0,
            drain: false,
            message_bytes_max: u64::MAX,
            unsettled_count: 0,
            assembly: None,
        }
    }

    /// Whether messages may travel.
    pub(crate) fn is_attached(&self) -> bool {
        matches!(self.state, LinkState::Attached)
    }

    /// Whether we have detached already.
    pub(crate) fn is_detaching(&self) -> bool {
        matches!(self.state, LinkState::Detaching)
    }

    /// Whether someone outside knows the link: it was reported, and we have not detached it.
    pub(crate) fn is_live(&self) -> bool {
        !self.is_detaching()
    }

    /// Bytes that the link makes the connection hold.
    pub(crate) fn held_bytes(&self) -> usize {
        let proposed = if let LinkState::Proposed(attach) = &self.state { attach.len() } else { 0 };
        proposed + self.assembly.as_ref().map_or(0, |assembly| assembly.payload.len())
    }

    /// As the sender: takes over the receiver's credit [AMQP 2.6.7].
    pub(crate) fn take_credit(&mut self, delivery_count: Option<u32>, link_credit: u32, drain: bool) {
        // A receiver that has not seen our attach yet counts from the initial delivery count, which is 0 with us.
        let limit = delivery_count.unwrap_or(0).wrapping_add(link_credit);
        self.credit = crate::serial::distance(self.delivery_count, limit).min(link_credit);
        self.drain = drain;
    }

    /// As the receiver: takes over the sender's delivery count, which runs ahead when it gives credit back.
    pub(crate) fn take_delivery_count(&mut self, delivery_count: u32) {
        let advance = delivery_count.wrapping_sub(self.delivery_count);
        if advance <= self.credit {
            self.delivery_count = delivery_count;
            self.credit -= advance;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(delivery_count: u32, credit: u32) -> Link {
        let mut link = Link::new(0, LinkRole::Sender, "link", LinkState::Attached);
        (link.delivery_count, link.credit) = (delivery_count, credit);
        link
    }

    #[test]
    fn credit_counts_from_the_receivers_delivery_count() {
        let mut sender = link(10, 0);
        // The receiver has seen 7 of the 10: three of its five credits are used up already.
        sender.take_credit(Some(7), 5, false);
        assert_eq!(sender.credit, 2);
        // What it takes back can be less than what is on its way.
        sender.take_credit(Some(7), 1, false);
        assert_eq!(sender.credit, 0);
    }

    #[test]
    fn credit_wraps_with_the_delivery_count() {
        let mut sender = link(u32::MAX, 0);
        sender.take_credit(Some(u32::MAX - 1), 4, false);
        assert_eq!(sender.credit, 3);
    }

    #[test]
    fn a_delivery_count_beyond_the_credit_is_not_believed() {
        let mut receiver = link(5, 3);
        receiver.take_delivery_count(100);
        assert_eq!((receiver.delivery_count, receiver.credit), (5, 3));
        receiver.take_delivery_count(8);
        assert_eq!((receiver.delivery_count, receiver.credit), (8, 0));
    }
}
