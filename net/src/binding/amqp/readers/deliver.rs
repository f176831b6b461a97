//! From reads to transfers: the pump of a receiver, its drain, and its checkpoint.

use engine::request::{PartitionStatus, Request, SequenceNumber};
use net_amqp::performative::DeliveryState;
use net_amqp::{LinkId, SendDelivery, SendRefused, condition};

use super::{OpenReceiver, Readers, State};
use crate::binding::OUTPUT_PENDING_BYTES_MAX;
use crate::binding::amqp::checkpoint::{CheckpointWindow, Verdict};
use crate::binding::amqp::delivery::{encode_annotations, encode_metrics};
use crate::binding::amqp::limits::{DRAIN_WAIT_MS, READ_EVENT_COUNT_MAX};
use crate::binding::amqp::turn::{Pending, Turn};

/// Why a receiver's batch did not go out to its end.
enum Stop {
    /// It did.
    Sent,
    /// The peer takes nothing more for now; a flow, a settlement or drained output goes on.
    Waits,
    /// An event is larger than the peer's limit.
    TooLarge,
}

impl Readers {
    /// Send what there is as far as the peer takes it, and read on as far as it has credit.
    pub(super) fn pump(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        let Some(receiver) = self.links.get_mut(&link) else { return };
        let State::Open(open) = &mut receiver.state else { return };
        match open.send(turn, link, receiver.wants_metrics, receiver.window.as_mut(), &mut self.front) {
            Stop::Sent => {}
            Stop::Waits => return answer_used_up(turn, link),
            Stop::TooLarge => {
                let text = "The next event is larger than the max-message-size of the link.";
                return self.close(turn, link, condition::LINK_MESSAGE_SIZE_EXCEEDED, text);
            }
        }
        if open.is_reading {
            return open.watch_drain(turn, link);
        }
        let room = receiver.window.as_ref().map_or(usize::MAX, CheckpointWindow::room);
        let credit = turn.connection.credit(link);
        let event_count_max = credit.min(READ_EVENT_COUNT_MAX).min(u32::try_from(room).unwrap_or(u32::MAX));
        if event_count_max == 0 || turn.hub.output_is_full(turn.output) {
            return answer_used_up(turn, link);
        }
        let bytes_max = OUTPUT_PENDING_BYTES_MAX as u32;
        let request = Request::Read { reader: open.reader, event_count_max, bytes_max };
        open.must_retry_read = turn.ask(Pending::Read(link), request).is_err();
        if open.must_retry_read {
            turn.shared.must_retry = true;
            return;
        }
        open.is_reading = true;
        open.watch_drain(turn, link);
    }

    /// Write the checkpoint as far as it may go, and settle what is durable.
    pub(super) fn write_checkpoint(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        let Some(receiver) = self.links.get_mut(&link) else { return };
        let (State::Open(open), Some(window)) = (&mut receiver.state, &mut receiver.window) else { return };
        open.must_retry_checkpoint = false;
        if let Some(number) = window.poll_checkpoint() {
            let request = Request::PutCheckpoint {
                partition: receiver.partition,
                group: open.group,
                number: SequenceNumber(number),
                force: false,
            };
            if turn.ask(Pending::PutCheckpoint(link), request).is_err() {
                window.handle_not_asked();
                open.must_retry_checkpoint = true;
                turn.shared.must_retry = true;
            }
        }
        settle(turn, link, window);
    }
}

impl OpenReceiver {
    /// While a read is open: end it if the peer wants its credit back and there is nothing to read.
    fn watch_drain(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        if self.is_cancelled || !turn.connection.is_draining(link) {
            return;
        }
        let now_ms = turn.hub.now.mono_ms;
        // What is there already comes within a turn or two, from a sealed segment a little later.
        if now_ms < *self.cancel_at_ms.get_or_insert(now_ms + DRAIN_WAIT_MS) {
            turn.shared.must_retry = true;
            return;
        }
        self.is_cancelled = true;
        turn.tell(Request::CancelRead { reader: self.reader });
    }

    /// Send the events of the batch.
    fn send(
        &mut self,
        turn: &mut Turn<'_, '_>,
        link: LinkId,
        wants_metrics: bool,
        mut window: Option<&mut CheckpointWindow>,
        front: &mut Vec<u8>,
    ) -> Stop {
        let Some((batch, sent_count)) = &mut self.batch else { return Stop::Sent };
        let status: &PartitionStatus = &batch.status;
        for event in batch.records.iter_behind(*sent_count) {
            if turn.hub.output_is_full(turn.output)
                || window.as_ref().is_some_and(|window| window.room() == 0)
            {
                return Stop::Waits;
            }
            front.clear();
            if wants_metrics {
                encode_metrics(status, turn.hub.now.wall_ms, front);
            }
            encode_annotations(&event, front);
            let payload: [&[u8]; 2] = [front, event.message];
            let tag = self.next_tag.to_le_bytes();
            let settled = window.is_none();
            let delivery = SendDelivery { tag: &tag, message_format: 0, settled, payload: &payload };
            match turn.connection.send(link, &delivery, turn.output) {
                Ok(delivery_id) => {
                    if let Some(window) = &mut window {
                        window.handle_sent(delivery_id, event.sequence.0);
                    }
                }
                Err(SendRefused::TooLarge { .. }) => return Stop::TooLarge,
                Err(_) => return Stop::Waits,
            }
            self.next_tag = self.next_tag.wrapping_add(1);
            *sent_count += 1;
        }
        self.batch = None;
        Stop::Sent
    }
}

/// Tell a receiver that drains its credit when all of it went into events.
fn answer_used_up(turn: &mut Turn<'_, '_>, link: LinkId) {
    if turn.connection.is_draining(link) && turn.connection.credit(link) == 0 {
        turn.connection.drained(link, turn.output);
    }
}

/// What the peer's state of a delivery means for the checkpoint. None: nothing yet.
pub(super) fn verdict(state: Option<&DeliveryState<'_>>, settled: bool) -> Option<Verdict> {
    match state {
        Some(DeliveryState::Accepted) => Some(Verdict::Accepted),
        Some(DeliveryState::Rejected(_)) => Some(Verdict::Rejected),
        Some(DeliveryState::Released | DeliveryState::Modified { .. }) => Some(Verdict::Released),
        // Settled without an outcome: it was not accepted.
        _ if settled => Some(Verdict::Released),
        _ => None,
    }
}

/// Settle towards the peer, one disposition for each run of consecutive deliveries with one verdict.
fn settle(turn: &mut Turn<'_, '_>, link: LinkId, window: &mut CheckpointWindow) {
    let mut run: Option<(u32, u32, Verdict)> = None;
    loop {
        let next = window.poll_settlement();
        run = match (run, next) {
            (Some((first, last, verdict)), Some(next))
                if next.verdict == verdict && next.delivery_id == last.wrapping_add(1) =>
            {
                Some((first, next.delivery_id, verdict))
            }
            (earlier, next) => {
                if let Some((first, last, verdict)) = earlier {
                    let state = match verdict {
                        Verdict::Accepted => DeliveryState::Accepted,
                        Verdict::Released => DeliveryState::Released,
                        Verdict::Rejected => DeliveryState::Rejected(None),
                    };
                    turn.connection.settle(link, first, last, &state, true, turn.output);
                }
                match next {
                    Some(next) => Some((next.delivery_id, next.delivery_id, next.verdict)),
                    None => return,
                }
            }
        };
    }
}
