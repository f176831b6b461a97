//! The request nodes `$cbs`, `$management`, and those of each device: request links, reply links, and replies that wait for credit.
//!
//! A reply goes out on a reply link of the request's own session: on the one that the request names, or else on the one
//! attached last. It waits until the link is there and has credit; how many wait is bounded by the request link's credit,
//! which is renewed only as replies leave.

use std::collections::VecDeque;

use net_amqp::{AttachReply, LinkId, LinkRole, SendDelivery, SendRefused, SenderSettleMode, SessionId};
use registry::DeviceId;

use super::LinkMap;
use super::limits::REQUEST_CREDIT;
use super::rpc::Request;
use super::small_map::SmallMap;
use super::turn::Turn;

/// Replies that wait in one node at most: several request links' worth, should a client attach links anew instead of
/// taking its replies.
const QUEUE_LENGTH_MAX: usize = 4 * REQUEST_CREDIT as usize;

/// Which node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// `$cbs`.
    Cbs,
    /// `$management`.
    Management,
    /// The twin of a device.
    Twin(DeviceId),
    /// Where answers to calls of a device's methods go: it has no credit, for there are no calls.
    Methods(DeviceId),
}

/// What a reply needs to know of its request.
#[derive(Clone, Debug)]
pub struct Ticket {
    node: (SessionId, Node),
    request_link: LinkId,
    reply_to: Option<String>,
    /// What the reply is to repeat as its correlation id, as it was encoded: the request's message id, or where a twin is asked
    /// its correlation id.
    pub correlation_id: Option<Vec<u8>>,
}

/// All request nodes of a connection.
#[derive(Debug, Default)]
pub struct Nodes {
    requests: LinkMap<RequestLink>,
    replies: LinkMap<(SessionId, Node)>,
    nodes: SmallMap<(SessionId, Node), NodeState>,
    /// Replies that wait, in all nodes.
    queued_count: usize,
}

#[derive(Debug)]
struct RequestLink {
    node: (SessionId, Node),
    credit: u32,
    /// Requests whose reply has not left yet.
    open_count: u32,
}

#[derive(Debug, Default)]
struct NodeState {
    links: Vec<ReplyLink>,
    request_link_count: u32,
    queue: VecDeque<QueuedReply>,
    next_tag: u32,
}

#[derive(Debug)]
struct ReplyLink {
    link: LinkId,
    address: Option<String>,
    sends_settled: bool,
}

#[derive(Debug)]
struct QueuedReply {
    request_link: LinkId,
    reply_to: Option<String>,
    message: Vec<u8>,
}

impl Nodes {
    /// Accept a link to or from a node.
    pub fn attach(&mut self, turn: &mut Turn<'_, '_>, node: Node, link: LinkId) {
        let Some((session, asked)) = turn.connection.proposal(link) else { return };
        let role = asked.role;
        // What a receiver's requests may name as the place for their replies.
        let address = asked.target.as_ref().and_then(|target| target.address).map(str::to_owned);
        let sends_settled = asked.sender_settle_mode == SenderSettleMode::Settled;
        turn.connection.accept_link(link, &AttachReply::default(), turn.output);
        let key = (session, node);
        match role {
            LinkRole::Sender => {
                let credit = match key.1 {
                    Node::Methods(_) => 0,
                    Node::Cbs | Node::Management | Node::Twin(_) => REQUEST_CREDIT,
                };
                turn.connection.grant(link, credit, turn.output);
                self.nodes.get_or_default(key.clone()).request_link_count += 1;
                self.requests.insert(link, RequestLink { node: key, credit, open_count: 0 });
            }
            LinkRole::Receiver => {
                let links = &mut self.nodes.get_or_default(key.clone()).links;
                // Nearly always the only one.
                links.reserve_exact(1);
                links.push(ReplyLink { link, address, sends_settled });
                self.replies.insert(link, key.clone());
                self.send(turn, &key);
            }
        }
    }

    /// Whether the link is one of a node's request links: then its transfers are requests.
    pub fn node_of_request(&self, link: LinkId) -> Option<Node> {
        self.requests.get(&link).map(|request| request.node.1.clone())
    }

    /// A request came in on `link`.
    pub fn open(&mut self, link: LinkId, request: &Request<'_>) -> Option<Ticket> {
        let state = self.requests.get_mut(&link)?;
        state.credit = state.credit.saturating_sub(1);
        state.open_count += 1;
        let correlation_id = match state.node.1 {
            Node::Cbs | Node::Management => request.message_id,
            Node::Twin(_) | Node::Methods(_) => request.correlation_id,
        };
        Some(Ticket {
            node: state.node.clone(),
            request_link: link,
            reply_to: request.reply_to.map(str::to_owned),
            correlation_id: correlation_id.map(<[u8]>::to_vec),
        })
    }

    /// What came in on `link` was no request and gets no reply.
    pub fn handle_refused(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        if let Some(state) = self.requests.get_mut(&link) {
            state.credit = state.credit.saturating_sub(1);
            state.open_count += 1;
        }
        self.close_request(turn, link);
    }

    /// The reply to a request is known.
    pub fn reply(&mut self, turn: &mut Turn<'_, '_>, ticket: Ticket, message: Vec<u8>) {
        let Ticket { node, request_link, reply_to, .. } = ticket;
        // Without any link left nobody could be told.
        if let Some(state) = self.nodes.get_mut(&node)
            && state.queue.len() < QUEUE_LENGTH_MAX
        {
            state.queue.push_back(QueuedReply { request_link, reply_to, message });
            self.queued_count += 1;
        }
        self.send(turn, &node);
    }

    /// A reply link has new credit, or a session has room again.
    pub fn handle_credit(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        if let Some(key) = self.replies.get(&link).cloned() {
            self.send(turn, &key);
        }
    }

    /// The peer takes more: try all replies that wait.
    pub fn send_all(&mut self, turn: &mut Turn<'_, '_>) {
        // Nearly always: and a gateway has thousands of nodes.
        if self.queued_count == 0 {
            return;
        }
        let waiting = self.nodes.iter().filter(|(_, state)| !state.queue.is_empty());
        let waiting: Vec<_> = waiting.map(|(key, _)| key.clone()).collect();
        for key in waiting {
            self.send(turn, &key);
        }
    }

    /// A link is gone; with the last one goes all that its node holds.
    pub fn handle_detached(&mut self, link: LinkId) {
        let request = self.requests.remove(&link);
        let key = match (&request, self.replies.remove(&link)) {
            (Some(request), _) => request.node.clone(),
            (None, Some(key)) => key,
            (None, None) => return,
        };
        let Some(state) = self.nodes.get_mut(&key) else { return };
        state.request_link_count -= u32::from(request.is_some());
        state.links.retain(|reply| reply.link != link);
        if state.request_link_count == 0 && state.links.is_empty() {
            self.queued_count -= state.queue.len();
            self.nodes.remove(&key);
        }
    }

    /// A session is gone, and its links before it.
    pub fn handle_ended(&mut self, session: SessionId) {
        self.nodes.retain(|(owner, _), state| {
            let stays = *owner != session;
            self.queued_count -= if stays { 0 } else { state.queue.len() };
            stays
        });
    }

    /// The links of a node, for when the right to use it ends.
    pub fn links(&self, node: &Node) -> Vec<LinkId> {
        let requests = self.requests.iter().map(|(link, request)| (link, &request.node));
        let replies = self.replies.iter();
        requests.chain(replies).filter(|(_, key)| key.1 == *node).map(|(link, _)| *link).collect()
    }

    /// Every link of every node.
    pub fn all_links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.requests.keys().chain(self.replies.keys()).copied()
    }

    fn send(&mut self, turn: &mut Turn<'_, '_>, key: &(SessionId, Node)) {
        let Some(state) = self.nodes.get_mut(key) else { return };
        let mut left = Vec::new();
        while let Some(reply) = state.queue.front() {
            let named =
                state.links.iter().find(|link| link.address.is_some() && link.address == reply.reply_to);
            let Some(link) = named.or(state.links.last()) else { break };
            let tag = state.next_tag.to_le_bytes();
            let send = |turn: &mut Turn<'_, '_>, settled| {
                let payload: [&[u8]; 1] = [&reply.message];
                let delivery = SendDelivery { tag: &tag, message_format: 0, settled, payload: &payload };
                turn.connection.send(link.link, &delivery, turn.output)
            };
            let sent = match send(turn, link.sends_settled) {
                // Some clients never settle replies.
                Err(SendRefused::TooManyUnsettled) => send(turn, true),
                sent => sent,
            };
            match sent {
                Ok(_) | Err(SendRefused::TooLarge { .. }) => {}
                Err(_) => break,
            }
            state.next_tag = state.next_tag.wrapping_add(1);
            left.push(reply.request_link);
            state.queue.pop_front();
            self.queued_count -= 1;
        }
        if state.queue.is_empty() {
            // Between two tokens it is idle for an hour.
            state.queue = VecDeque::new();
        }
        for link in left {
            self.close_request(turn, link);
        }
    }

    /// A request is done: its link may send another one.
    fn close_request(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        let Some(state) = self.requests.get_mut(&link) else { return };
        state.open_count = state.open_count.saturating_sub(1);
        let credit = REQUEST_CREDIT.saturating_sub(state.open_count);
        if credit.saturating_sub(state.credit) >= REQUEST_CREDIT / 2 {
            state.credit = credit;
            turn.connection.grant(link, credit, turn.output);
        }
    }
}
