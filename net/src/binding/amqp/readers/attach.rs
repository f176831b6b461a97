//! The attach of a receiver: its partition, where it starts, its epoch and what it wishes for.

use engine::request::{EngineError, PartitionId, Request, Start};
use net_amqp::performative::Symbols;
use net_amqp::value::{Descriptor, Map};
use net_amqp::{Attach, AttachReply, LinkId, SenderSettleMode, Value, condition};

use super::{CHECKPOINT_CAPABILITY, METRICS_CAPABILITY, Readers, Receiver, State};
use crate::binding::address::Resource;
use crate::binding::amqp::checkpoint::CheckpointWindow;
use crate::binding::amqp::filter::{InvalidSelector, SELECTOR_CODE, SELECTOR_NAME, parse_selector};
use crate::binding::amqp::limits::{CHECKPOINT_OPEN_MAX, RECEIVER_NAME_BYTES_MAX};
use crate::binding::amqp::turn::{Pending, Turn};
use crate::binding::status::Status;

/// The text that Event Hubs gives for a missing right to read.
pub const NO_LISTEN_TEXT: &str =
    "Unauthorized access. 'Listen' claim(s) are required to perform this operation.";

impl Readers {
    /// A client wants to receive the events of a partition.
    pub fn attach(
        &mut self,
        turn: &mut Turn<'_, '_>,
        link: LinkId,
        attach: &Attach<'_>,
        (group, partition): (&str, &str),
    ) {
        let hub = turn.hub.hub;
        let resource = Resource::partition(group, partition, &hub.name);
        if turn.shared.grants.for_service(&resource).is_none() {
            return turn.refuse_reader(link, condition::UNAUTHORIZED_ACCESS, NO_LISTEN_TEXT);
        }
        let address = format!("{}/ConsumerGroups/{group}/Partitions/{partition}", hub.name);
        let partition = match partition.parse::<u16>() {
            Ok(number) if number < hub.partition_count => PartitionId(number),
            _ => {
                let text = turn.not_found_text(&address);
                return turn.refuse_reader(link, condition::NOT_FOUND, &text);
            }
        };
        let Ok(start) = start(attach) else {
            let text = "The filter of the source is not a selector that this hub understands.";
            return turn.refuse_reader(link, condition::NOT_ALLOWED, text);
        };
        let Ok(epoch) = epoch(attach.properties) else {
            let text = "The property com.microsoft:epoch is to be a long that is not negative.";
            return turn.refuse_reader(link, condition::NOT_ALLOWED, text);
        };
        let wants_checkpoint = attach.desired_capabilities.contains(CHECKPOINT_CAPABILITY);
        if wants_checkpoint && attach.sender_settle_mode == SenderSettleMode::Settled {
            let text = "A receiver that keeps its checkpoint by accepting cannot ask for settled events.";
            return turn.refuse_reader(link, condition::NOT_ALLOWED, text);
        }
        let receiver = Receiver {
            resource,
            address,
            partition,
            start,
            epoch,
            name: name(attach.properties),
            wants_metrics: attach.desired_capabilities.contains(METRICS_CAPABILITY),
            window: wants_checkpoint.then(|| CheckpointWindow::new(CHECKPOINT_OPEN_MAX)),
            state: State::Opening { group: None },
        };
        self.links.insert(link, receiver);
        let request = Request::FindConsumerGroup { name: group.to_owned() };
        if turn.ask(Pending::FindGroup(link), request).is_err() {
            self.refuse(turn, link, engine::request::Reply::Failed(EngineError::Busy));
        }
    }
}

/// Answer the attach of a receiver whose reader is open; false when the link is gone.
pub(super) fn accept(turn: &mut Turn<'_, '_>, link: LinkId, receiver: &Receiver) -> bool {
    let mut offered = Vec::new();
    if receiver.wants_metrics {
        offered.push(METRICS_CAPABILITY);
    }
    if receiver.window.is_some() {
        offered.push(CHECKPOINT_CAPABILITY);
    }
    let offered_capabilities = match offered.is_empty() {
        true => Symbols::Absent,
        false => Symbols::Listed(&offered),
    };
    let sender_settle_mode = receiver.window.is_some().then_some(SenderSettleMode::Unsettled);
    let reply = AttachReply { offered_capabilities, sender_settle_mode, ..AttachReply::default() };
    turn.connection.accept_link(link, &reply, turn.output)
}

impl Receiver {
    /// Why the engine refused it, as Event Hubs says it.
    pub(super) fn refusal(&self, turn: &Turn<'_, '_>, error: &EngineError) -> (&'static str, String) {
        let status = Status::of(error);
        let text = match error {
            EngineError::ConsumerGroupNotFound | EngineError::PartitionNotFound(_) => {
                turn.not_found_text(&self.address)
            }
            EngineError::EpochHeld { live_epoch, live_name } => {
                self.epoch_text(*live_epoch, live_name.as_deref())
            }
            EngineError::ReadersExhausted { reader_count_max } => format!(
                "Exceeded the maximum number of allowed receivers per partition in a consumer group which is \
                 {reader_count_max}."
            ),
            EngineError::PositionBeyondEnd { number, next } => format!(
                "The supplied offset '{number}' is invalid. The last offset in the system is '{}'.",
                *next as i64 - 1
            ),
            _ => status.message.clone(),
        };
        (status.event_hubs_condition(), text)
    }

    fn epoch_text(&self, live_epoch: i64, live_name: Option<&str>) -> String {
        let (own, live) = (shown(self.name.as_deref()), shown(live_name));
        match self.epoch {
            Some(epoch) => format!(
                "Receiver '{live}' with a higher epoch '{live_epoch}' already exists. Receiver '{own}' with epoch \
                 {epoch} cannot be created. Make sure you are creating receiver with increasing epoch value to ensure \
                 connectivity, or ensure all old epoch receivers are closed or disconnected."
            ),
            None => format!(
                "Non-epoch receiver '{own}' is not allowed while receiver '{live}' with epoch '{live_epoch}' exists."
            ),
        }
    }

    /// What the reader hears that is pushed out.
    pub(super) fn stolen_text(&self, by_name: Option<&str>, by_epoch: i64) -> String {
        let (own, newcomer) = (shown(self.name.as_deref()), shown(by_name));
        match self.epoch {
            // Old processors look for "New receiver with higher epoch", newer ones for the condition.
            Some(epoch) => format!(
                "New receiver '{newcomer}' with higher epoch of '{by_epoch}' is created hence current receiver '{own}' \
                 with epoch '{epoch}' is getting disconnected. If you are recreating the receiver, make sure a higher \
                 epoch is used."
            ),
            None => format!(
                "New receiver '{newcomer}' with epoch of '{by_epoch}' is created hence current receiver '{own}' without \
                 epoch is getting disconnected."
            ),
        }
    }
}

/// Event Hubs calls a receiver without a name so.
fn shown(name: Option<&str>) -> &str {
    name.unwrap_or("nil")
}

/// Where the filter of the source says to start; without a selector at the oldest event.
fn start(attach: &Attach<'_>) -> Result<Start, InvalidSelector> {
    let filter = attach.source.as_ref().and_then(|source| source.filter);
    let selector = filter.and_then(|filter| filter.find(SELECTOR_NAME).or_else(|| described(filter)));
    match selector {
        None | Some(Value::Null) => Ok(Start::Earliest),
        Some(value) => parse_selector(text(value).ok_or(InvalidSelector)?),
    }
}

/// A selector under another name, told by its descriptor.
fn described(filter: Map<'_>) -> Option<Value<'_>> {
    let is_selector = |value: &Value<'_>| match value {
        Value::Described(described) => [Descriptor::Code(SELECTOR_CODE), Descriptor::Symbol(SELECTOR_NAME)]
            .contains(&described.descriptor),
        _ => false,
    };
    filter.iter().map_while(Result::ok).map(|(_, value)| value).find(is_selector)
}

fn text(value: Value<'_>) -> Option<&str> {
    match value {
        Value::Described(described) => described.value().ok()?.as_text(),
        value => value.as_text(),
    }
}

/// The owner level. None: a reader among others.
fn epoch(properties: Option<Map<'_>>) -> Result<Option<i64>, InvalidSelector> {
    match properties.and_then(|properties| properties.find("com.microsoft:epoch")) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_i64() {
            Some(epoch) if epoch >= 0 => Ok(Some(epoch)),
            _ => Err(InvalidSelector),
        },
    }
}

fn name(properties: Option<Map<'_>>) -> Option<String> {
    let name = properties?.find("com.microsoft:receiver-name")?.as_text()?;
    let mut end = name.len().min(RECEIVER_NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Some(name[..end].to_owned())
}
