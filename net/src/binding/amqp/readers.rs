//! Receivers of the event hub: readers of a partition for a consumer group.
//!
//! A receiver has at most one read open, sized by its credit. What a read brings stays in the batch that the engine shares
//! with all readers until the peer takes it; nothing more is asked for while the peer is behind. Events go out settled,
//! without state per delivery, but where the attach asked for [`CHECKPOINT_CAPABILITY`].

mod attach;
mod deliver;

pub use attach::NO_LISTEN_TEXT;

use engine::request::{EngineError, EventBatch, Notice, PartitionId, ReaderId, Reply, Request, Start};
use net_amqp::performative::DeliveryState;
use net_amqp::{LinkId, condition};
use registry::ConsumerGroupId;

use super::LinkMap;
use super::checkpoint::CheckpointWindow;
use super::sessions::expired_status;
use super::small_map::SmallMap;
use super::turn::{Pending, Turn};
use crate::binding::address::Resource;
use crate::binding::status::Status;

/// The desired capability of a receiver whose acceptances move its group's checkpoint: an addition of this hub.
pub const CHECKPOINT_CAPABILITY: &str = "corehub:checkpoint";

/// The desired capability of a receiver that wants to know how far the partition has grown.
pub const METRICS_CAPABILITY: &str = "com.microsoft:enable-receiver-runtime-metric";

/// What a link hears whose grant is gone.
pub const EXPIRED_TEXT: &str =
    "ExpiredToken: The token is expired, or the key that it was made with has changed.";

/// All receivers of a connection.
#[derive(Debug, Default)]
pub struct Readers {
    links: LinkMap<Receiver>,
    by_reader: SmallMap<ReaderId, LinkId>,
    /// What stands in front of each message, reused.
    front: Vec<u8>,
}

#[derive(Debug)]
struct Receiver {
    /// What it needs a right for.
    resource: Resource,
    /// Its address, for texts.
    address: String,
    partition: PartitionId,
    start: Start,
    epoch: Option<i64>,
    name: Option<String>,
    wants_metrics: bool,
    window: Option<CheckpointWindow>,
    /// The attach with its strings, until it is answered.
    state: State,
}

#[derive(Debug)]
enum State {
    /// Its consumer group is looked up, or its reader is being opened.
    Opening { group: Option<ConsumerGroupId> },
    /// It stands.
    Open(Box<OpenReceiver>),
}

#[derive(Debug)]
struct OpenReceiver {
    reader: ReaderId,
    group: ConsumerGroupId,
    is_reading: bool,
    /// What was read and not sent yet: the batch, and how many of its events are sent.
    batch: Option<(EventBatch, usize)>,
    /// When the open read is to end though nothing came, because the peer wants its credit back.
    cancel_at_ms: Option<u64>,
    is_cancelled: bool,
    next_tag: u32,
    must_retry_read: bool,
    must_retry_checkpoint: bool,
}

impl Readers {
    /// Whether `link` is a receiver of events.
    pub fn owns(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// The engine's answer about a receiver's consumer group.
    pub fn handle_group(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, answer: Reply) {
        let Some(receiver) = self.links.get_mut(&link) else { return };
        let group = match answer {
            Reply::ConsumerGroup(group) => group.id,
            answer => return self.refuse(turn, link, answer),
        };
        receiver.state = State::Opening { group: Some(group) };
        let request = Request::OpenReader {
            partition: receiver.partition,
            group,
            start: receiver.start.clone(),
            epoch: receiver.epoch,
            name: receiver.name.clone(),
        };
        if turn.ask(Pending::OpenReader(link), request).is_err() {
            self.refuse(turn, link, Reply::Failed(EngineError::Busy));
        }
    }

    /// The engine's answer about a reader.
    pub fn handle_reader(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, answer: Reply) {
        let (reader, truncated) = match answer {
            Reply::ReaderOpened { reader, truncated, .. } => (reader, truncated),
            answer => return self.refuse(turn, link, answer),
        };
        let Some(receiver) = self.links.get_mut(&link) else {
            return turn.tell(Request::CloseReader { reader });
        };
        let State::Opening { group: Some(group) } = receiver.state else {
            return turn.tell(Request::CloseReader { reader });
        };
        if turn.shared.grants.for_service(&receiver.resource).is_none() {
            self.links.remove(&link);
            turn.tell(Request::CloseReader { reader });
            return turn.refuse(link, &expired_status());
        }
        if truncated {
            tracing::warn!(
                partition = receiver.partition.0,
                address = receiver.address,
                "the position asked for is older than what is kept; reading starts at the oldest event"
            );
        }
        if !attach::accept(turn, link, receiver) {
            self.links.remove(&link);
            return turn.tell(Request::CloseReader { reader });
        }
        receiver.state = State::Open(Box::new(OpenReceiver::new(reader, group)));
        self.by_reader.insert(reader, link);
        self.pump(turn, link);
    }

    /// Refuse an attach for the engine's reason.
    fn refuse(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, answer: Reply) {
        let Some(receiver) = self.links.remove(&link) else { return };
        let error = match answer {
            Reply::Failed(error) => error,
            _ => EngineError::StorageFailed,
        };
        let (condition, text) = receiver.refusal(turn, &error);
        turn.refuse_reader(link, condition, &text);
    }

    /// The peer has changed the credit of a link.
    pub fn handle_flow(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        self.pump(turn, link);
    }

    /// The peer takes more: go on with every receiver that waited for it.
    pub fn pump_all(&mut self, turn: &mut Turn<'_, '_>) {
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.pump(turn, link);
        }
    }

    /// Ask again for what met a full engine.
    pub fn retry(&mut self, turn: &mut Turn<'_, '_>) {
        let is_waiting = |receiver: &Receiver| match &receiver.state {
            State::Open(open) => {
                open.must_retry_read || open.must_retry_checkpoint || open.cancel_at_ms.is_some()
            }
            State::Opening { .. } => false,
        };
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, receiver)| is_waiting(receiver)).map(|(link, _)| *link).collect();
        for link in links {
            self.write_checkpoint(turn, link);
            self.pump(turn, link);
        }
    }

    /// The engine's answer to a read.
    pub fn handle_events(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, answer: Reply) {
        let Some(open) = self.open_mut(link) else { return };
        (open.is_reading, open.cancel_at_ms, open.is_cancelled) = (false, None, false);
        match answer {
            Reply::Events { batch, .. } => {
                if batch.records.is_empty() {
                    if turn.connection.is_draining(link) {
                        turn.connection.drained(link, turn.output);
                    }
                } else {
                    open.batch = Some((batch, 0));
                }
                self.pump(turn, link);
            }
            Reply::Failed(EngineError::Busy) => {
                open.must_retry_read = true;
                turn.shared.must_retry = true;
            }
            // Its notice has come before or comes next; without one the reader is simply gone.
            Reply::Failed(EngineError::ReaderEnded) => {
                let text = "The receiver has ended; attach again.";
                self.end(turn, link, condition::LINK_DETACH_FORCED, text);
            }
            Reply::Failed(error) => {
                let status = Status::of(&error);
                self.close(turn, link, status.event_hubs_condition(), &status.message);
            }
            _ => self.close(turn, link, condition::INTERNAL_ERROR, "unexpected answer"),
        }
    }

    /// What the engine tells unasked about a reader.
    pub fn handle_notice(&mut self, turn: &mut Turn<'_, '_>, notice: &Notice) {
        match notice {
            Notice::ReaderStolen { reader, by_name, by_epoch } => {
                let Some(&link) = self.by_reader.get(reader) else { return };
                let Some(receiver) = self.links.get(&link) else { return };
                let text = receiver.stolen_text(by_name.as_deref(), *by_epoch);
                self.end(turn, link, condition::LINK_STOLEN, &text);
            }
            Notice::ReaderGroupDeleted { reader } => {
                let Some(&link) = self.by_reader.get(reader) else { return };
                let Some(receiver) = self.links.get(&link) else { return };
                let text = turn.not_found_text(&receiver.address);
                self.end(turn, link, condition::NOT_FOUND, &text);
            }
            _ => {}
        }
    }

    /// The peer's word about deliveries.
    pub fn handle_settled(
        &mut self,
        turn: &mut Turn<'_, '_>,
        link: LinkId,
        (first, last): (u32, u32),
        state: Option<&DeliveryState<'_>>,
        settled: bool,
    ) {
        let Some(receiver) = self.links.get_mut(&link) else { return };
        let Some(window) = &mut receiver.window else { return };
        let Some(verdict) = deliver::verdict(state, settled) else { return };
        window.handle_verdicts(first, last, verdict, settled);
        self.write_checkpoint(turn, link);
        self.pump(turn, link);
    }

    /// The engine's answer to a checkpoint.
    pub fn handle_checkpoint(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, answer: Reply) {
        let Some(receiver) = self.links.get_mut(&link) else { return };
        let Some(window) = &mut receiver.window else { return };
        match answer {
            Reply::Failed(EngineError::Busy) => {
                window.handle_not_asked();
                turn.shared.must_retry = true;
                if let Some(open) = self.open_mut(link) {
                    open.must_retry_checkpoint = true;
                }
            }
            Reply::Failed(error) => {
                let status = Status::of(&error);
                let text = format!("The checkpoint was not kept: {}.", status.message);
                self.close(turn, link, status.event_hubs_condition(), &text);
            }
            _ => {
                window.handle_durable();
                self.write_checkpoint(turn, link);
                self.pump(turn, link);
            }
        }
    }

    /// Whether a checkpoint is being written.
    pub fn is_waiting(&self) -> bool {
        self.links.values().any(|receiver| receiver.window.as_ref().is_some_and(CheckpointWindow::is_writing))
    }

    /// Detach receivers that no token covers any more.
    pub fn handle_expiry(&mut self, turn: &mut Turn<'_, '_>) {
        let grants = &turn.shared.grants;
        let expired: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, receiver)| {
                matches!(receiver.state, State::Open(_)) && grants.for_service(&receiver.resource).is_none()
            })
            .map(|(link, _)| *link)
            .collect();
        for link in expired {
            self.close(turn, link, condition::UNAUTHORIZED_ACCESS, EXPIRED_TEXT);
        }
    }

    /// The peer detached a link.
    pub fn handle_detached(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        if let Some(reader) = self.forget(link) {
            turn.tell(Request::CloseReader { reader });
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Every receiver's link.
    pub fn all_links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.keys().copied()
    }

    /// Detach a link and close its reader.
    fn close(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, condition: &'static str, text: &str) {
        self.handle_detached(turn, link);
        turn.detach_reader(link, condition, text);
    }

    /// Detach a link whose reader has ended already.
    fn end(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, condition: &'static str, text: &str) {
        self.forget(link);
        turn.detach_reader(link, condition, text);
    }

    fn forget(&mut self, link: LinkId) -> Option<ReaderId> {
        match self.links.remove(&link)?.state {
            State::Open(open) => {
                self.by_reader.remove(&open.reader);
                Some(open.reader)
            }
            State::Opening { .. } => None,
        }
    }

    fn open_mut(&mut self, link: LinkId) -> Option<&mut OpenReceiver> {
        match &mut self.links.get_mut(&link)?.state {
            State::Open(open) => Some(open),
            State::Opening { .. } => None,
        }
    }
}

impl OpenReceiver {
    fn new(reader: ReaderId, group: ConsumerGroupId) -> Self {
        Self {
            reader,
            group,
            is_reading: false,
            batch: None,
            cancel_at_ms: None,
            is_cancelled: false,
            next_tag: 0,
            must_retry_read: false,
            must_retry_checkpoint: false,
        }
    }
}
