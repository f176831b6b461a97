//! Links on which something goes out under a lock: a device's commands, or the receipts of all partitions.
//!
//! An outlet has one receiver in the engine for each of its sources: the device's queue, or every partition's receipts. Each
//! has at most one request open, sized by the link's credit; what comes beyond the credit that is left by then is released
//! at once, as if it had never been received. A delivery's tag is the lock's token; what the peer says of it goes to the
//! engine and is answered, where the peer still listens, once that is durable.

mod deliver;
mod settle;

use std::collections::{HashSet, VecDeque};

use engine::request::{
    EngineError, LockToken, LockedCommand, LockedReceipts, Notice, PartitionId, ReceiverId, Reply, Request,
    SessionId,
};
use foldhash::fast::RandomState;
use net_amqp::{AttachReply, LinkId, SenderSettleMode, condition};

use super::sent::Sent;
use crate::binding::address::Resource;
use crate::binding::amqp::LinkMap;
use crate::binding::amqp::limits::UNSETTLED_COUNT_MAX;
use crate::binding::amqp::sessions::{expired_status, refusal};
use crate::binding::amqp::small_map::SmallMap;
use crate::binding::amqp::turn::{Pending, Turn};
use crate::binding::status::Status;

/// All outlets of a connection.
#[derive(Debug, Default)]
pub struct Outlets {
    links: LinkMap<Box<Outlet>>,
    by_receiver: SmallMap<ReceiverId, LinkId>,
    /// Links to go on with once there is room: in the engine, in the session's window, in the output.
    stalled: HashSet<LinkId, RandomState>,
    /// Links that ended from this side since the last [`Outlets::take_ended`].
    ended: Vec<LinkId>,
    /// What stands in front of each message, reused.
    front: Vec<u8>,
}

#[derive(Debug)]
struct Outlet {
    kind: Kind,
    /// Whether the attach is answered.
    is_open: bool,
    sources: Vec<Source>,
    /// Locked and not sent yet, and since when the first waits.
    queue: VecDeque<Locked>,
    queued_since_ms: u64,
    sent: Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Commands,
    Receipts,
}

/// A receiver in the engine.
#[derive(Debug, Default)]
struct Source {
    /// None: it is being opened.
    receiver: Option<ReceiverId>,
    asking: Asking,
    /// While the link drains: it had nothing more.
    is_dry: bool,
}

/// How a source's request stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asking {
    /// There is none.
    #[default]
    Idle,
    /// It waits for something to receive.
    Waiting,
    /// It is to be answered now.
    Cancelled,
}

/// What is locked for a receiver.
#[derive(Debug)]
struct Locked {
    receiver: ReceiverId,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Command(LockedCommand),
    Receipts(LockedReceipts),
}

impl Locked {
    fn token(&self) -> LockToken {
        match &self.content {
            Content::Command(command) => command.token,
            Content::Receipts(batch) => batch.token,
        }
    }
}

impl Outlets {
    /// A device wants to receive its commands; its session stands.
    pub fn attach_commands(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, session: SessionId) {
        self.links.insert(link, Box::new(Outlet::new(Kind::Commands, 1)));
        let request = Request::OpenCommandReceiver { session };
        if turn.ask(Pending::OpenReceiver(link, 0), request).is_err() {
            self.refuse(turn, link, &EngineError::Busy);
        }
    }

    /// A back end wants to receive receipts.
    pub fn attach_receipts(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        if !may_read_receipts(turn) {
            let text = "Unauthorized access: no token of this connection has the right ServiceConnect";
            let status =
                Status::new(401_002, "IotHubUnauthorizedAccess", condition::UNAUTHORIZED_ACCESS, text);
            return turn.refuse(link, &status);
        }
        let partition_count = turn.hub.hub.partition_count;
        self.links.insert(link, Box::new(Outlet::new(Kind::Receipts, partition_count.into())));
        for number in 0..partition_count {
            let request = Request::OpenReceiptReceiver { partition: PartitionId(number) };
            if turn.ask(Pending::OpenReceiver(link, number), request).is_err() {
                return self.refuse(turn, link, &EngineError::Busy);
            }
        }
    }

    /// The engine's answer about an outlet's source.
    pub fn handle_opened(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, source: u16, answer: Reply) {
        let receiver = match answer {
            Reply::ReceiverOpened(receiver) => receiver,
            answer => return self.refuse(turn, link, &refusal(answer)),
        };
        let Some(outlet) = self.links.get_mut(&link) else {
            return turn.tell(Request::CloseReceiver { receiver });
        };
        outlet.sources[usize::from(source)].receiver = Some(receiver);
        self.by_receiver.insert(receiver, link);
        if outlet.sources.iter().any(|source| source.receiver.is_none()) {
            return;
        }
        if outlet.kind == Kind::Receipts && !may_read_receipts(turn) {
            self.forget(turn, link);
            return turn.refuse(link, &expired_status());
        }
        // A lock stands behind each delivery, so none goes out settled, whatever the attach asked for.
        let sender_settle_mode = Some(SenderSettleMode::Unsettled);
        outlet.is_open = true;
        let reply = AttachReply { sender_settle_mode, ..AttachReply::default() };
        turn.connection.accept_link(link, &reply, turn.output);
        self.pump(turn, link);
    }

    /// Refuse an attach for the engine's reason.
    fn refuse(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, error: &EngineError) {
        if self.forget(turn, link) {
            self.ended.push(link);
            turn.refuse(link, &Status::of(error));
        }
    }

    /// What the engine tells unasked about a receiver. False: it is not about one.
    pub fn handle_notice(&mut self, turn: &mut Turn<'_, '_>, notice: &Notice) -> bool {
        let Notice::ReceiverEnded { receiver } = notice else { return false };
        if let Some(link) = self.by_receiver.get(receiver).copied() {
            let text = "another link of the device on this connection receives its commands now";
            let status = Status::new(409_002, "LinkCreationConflict", condition::LINK_STOLEN, text);
            self.close(turn, link, &status);
        }
        true
    }

    /// Detach the links of receipts if the right to receive them is gone.
    pub fn handle_expiry(&mut self, turn: &mut Turn<'_, '_>) {
        if may_read_receipts(turn) {
            return;
        }
        let is_expired = |outlet: &Outlet| outlet.kind == Kind::Receipts && outlet.is_open;
        let expired: Vec<LinkId> =
            self.links.iter().filter(|(_, outlet)| is_expired(outlet)).map(|(link, _)| *link).collect();
        for link in expired {
            self.close(turn, link, &expired_status());
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether `link` is an outlet.
    pub fn owns(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// Every outlet's link.
    pub fn all_links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.keys().copied()
    }

    /// Links that ended from this side since the last call.
    pub fn take_ended(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.ended)
    }

    /// Detach a link.
    fn close(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, status: &Status) {
        self.forget(turn, link);
        self.ended.push(link);
        turn.detach(link, status);
    }

    /// A link is gone: what was decided on it is still told, everything else that it has locked goes back. False: it was no
    /// outlet.
    pub fn forget(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) -> bool {
        let Some(mut outlet) = self.links.remove(&link) else { return false };
        self.stalled.remove(&link);
        outlet.tell_settlements(turn);
        for receiver in outlet.sources.iter().filter_map(|source| source.receiver) {
            self.by_receiver.remove(&receiver);
            turn.tell(Request::CloseReceiver { receiver });
        }
        true
    }
}

impl Outlet {
    fn new(kind: Kind, source_count: usize) -> Self {
        Self {
            kind,
            is_open: false,
            sources: std::iter::repeat_with(Source::default).take(source_count).collect(),
            queue: VecDeque::new(),
            queued_since_ms: 0,
            sent: Sent::new(UNSETTLED_COUNT_MAX),
        }
    }
}

fn may_read_receipts(turn: &Turn<'_, '_>) -> bool {
    turn.shared.grants.for_service(&Resource::receipts(&turn.hub.hub.name)).is_some()
}
