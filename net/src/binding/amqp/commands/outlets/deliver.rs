//! From the engine's queues to transfers: asking within the credit, sending, releasing what the peer does not take.

use engine::door::Busy;
use engine::request::{EngineError, Holder, Reply, Request, Settlement};
use net_amqp::{DeliveryState, LinkId, SendDelivery, SendRefused, condition};

use super::{Asking, Content, Locked, Outlet, Outlets};
use crate::binding::amqp::commands::encode::{encode_annotations, encode_receipts};
use crate::binding::amqp::limits::{LOCK_MS_MAX, QUEUED_MS_MAX};
use crate::binding::amqp::turn::{Pending, Turn};
use crate::binding::status::Status;

/// Why an outlet's queue did not go out to its end.
enum Stop {
    /// It did, or the peer wants no more of it.
    Sent,
    /// The peer takes nothing for now; a window, a settlement or drained output goes on.
    Waits,
    /// What comes next is larger than the peer's limit.
    TooLarge,
}

impl Outlets {
    /// The peer has changed the credit of a link.
    pub fn handle_flow(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        self.pump(turn, link);
    }

    /// There is room again: go on with every link that waited for it.
    pub fn pump_stalled(&mut self, turn: &mut Turn<'_, '_>) {
        for link in std::mem::take(&mut self.stalled) {
            self.pump(turn, link);
        }
    }

    /// The engine's answer to a source's request.
    pub fn handle_received(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, source: u16, answer: Reply) {
        let Some(outlet) = self.links.get_mut(&link) else { return };
        let now_ms = turn.hub.now.mono_ms;
        let source = &mut outlet.sources[usize::from(source)];
        let Some(receiver) = source.receiver else { return };
        source.asking = Asking::Idle;
        if outlet.queue.is_empty() {
            outlet.queued_since_ms = now_ms;
        }
        let count_before = outlet.queue.len();
        match answer {
            Reply::Commands(commands) => outlet.queue.extend(
                commands.into_iter().map(|command| Locked { receiver, content: Content::Command(command) }),
            ),
            Reply::Receipts(batches) => outlet.queue.extend(
                batches.into_iter().map(|batch| Locked { receiver, content: Content::Receipts(batch) }),
            ),
            Reply::Failed(EngineError::Busy) => {
                turn.shared.must_retry = true;
                self.stalled.insert(link);
                return;
            }
            Reply::Failed(error) => return self.close(turn, link, &Status::of(&error)),
            _ => return self.close(turn, link, &Status::of(&EngineError::StorageFailed)),
        }
        source.is_dry = outlet.queue.len() == count_before;
        self.pump(turn, link);
    }

    /// Do what can be done on a link: settle, send, and ask for more as far as it has credit.
    pub(super) fn pump(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        let Some(outlet) = self.links.get_mut(&link).filter(|outlet| outlet.is_open) else { return };
        let is_settled = outlet.ask_settlements(turn, link).is_ok();
        match outlet.send(turn, link, &mut self.front) {
            Stop::Sent => {}
            Stop::Waits => {
                turn.shared.must_retry |= !is_settled;
                self.stalled.insert(link);
                return;
            }
            Stop::TooLarge => {
                let text = "what comes next is larger than the max-message-size of the link";
                let status =
                    Status::new(413_001, "MessageTooLarge", condition::LINK_MESSAGE_SIZE_EXCEEDED, text);
                return self.close(turn, link, &status);
            }
        }
        if !is_settled || outlet.receive(turn, link).is_err() {
            turn.shared.must_retry = true;
            self.stalled.insert(link);
        }
    }
}

impl Outlet {
    /// Send what is locked, as far as the peer takes it.
    fn send(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, front: &mut Vec<u8>) -> Stop {
        let now_ms = turn.hub.now.mono_ms;
        if now_ms.saturating_sub(self.queued_since_ms) >= QUEUED_MS_MAX {
            // Most of the lock is over: the peer would have no time left to deal with it.
            self.release_queue(turn);
        }
        while let Some(locked) = self.queue.front() {
            if turn.hub.output_is_full(turn.output) {
                return Stop::Waits;
            }
            front.clear();
            let message: &[u8] = match &locked.content {
                Content::Command(command) => {
                    encode_annotations(command, front);
                    &command.message
                }
                Content::Receipts(batch) => {
                    encode_receipts(batch, &turn.hub.hub.name, front);
                    &[]
                }
            };
            let (receiver, token) = (locked.receiver, locked.token());
            let payload: [&[u8]; 2] = [front, message];
            let delivery =
                SendDelivery { tag: &token.0, message_format: 0, settled: false, payload: &payload };
            match turn.connection.send(link, &delivery, turn.output) {
                Ok(delivery_id) => self.sent.push(delivery_id, receiver, token, now_ms),
                Err(SendRefused::NoCredit | SendRefused::NotAttached) => break,
                Err(SendRefused::TooLarge { .. }) => return Stop::TooLarge,
                Err(_) => return Stop::Waits,
            }
            self.queue.pop_front();
        }
        self.release_queue(turn);
        Stop::Sent
    }

    /// Give back what is locked and was not sent.
    fn release_queue(&mut self, turn: &mut Turn<'_, '_>) {
        for locked in self.queue.drain(..) {
            turn.tell(Request::Settle {
                holder: Holder::Receiver(locked.receiver),
                token: locked.token(),
                settlement: Settlement::Release,
            });
        }
    }

    /// Ask every source for what the credit takes; where there is none left, or the peer wants it back, have the open
    /// requests answered now.
    fn receive(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) -> Result<(), Busy> {
        if self.sent.room() == 0 {
            self.make_room(turn, link);
        }
        let is_draining = turn.connection.is_draining(link);
        let room = u32::try_from(self.sent.room()).unwrap_or(u32::MAX);
        let count_max = turn.connection.credit(link).min(room);
        for (index, source) in self.sources.iter_mut().enumerate() {
            let Some(receiver) = source.receiver else { continue };
            source.is_dry &= is_draining;
            if source.asking == Asking::Idle && count_max > 0 && !source.is_dry {
                turn.ask(Pending::Receive(link, index as u16), Request::Receive { receiver, count_max })?;
                source.asking = Asking::Waiting;
            }
            if source.asking == Asking::Waiting && (count_max == 0 || is_draining) {
                turn.tell(Request::CancelReceive { receiver });
                source.asking = Asking::Cancelled;
            }
        }
        let is_done = |source: &super::Source| source.asking == Asking::Idle;
        if is_draining && self.sources.iter().all(is_done) {
            turn.connection.drained(link, turn.output);
        }
        Ok(())
    }

    /// A peer that settles nothing would never get anything again: forget deliveries whose locks ended long ago.
    fn make_room(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        let Some(before_ms) = turn.hub.now.mono_ms.checked_sub(LOCK_MS_MAX) else { return };
        while let Some(id) = self.sent.take_lapsed(before_ms) {
            turn.connection.settle(link, id, id, &DeliveryState::Released, true, turn.output);
        }
    }
}
