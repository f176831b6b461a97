//! Receivers of commands and of receipts: each is answered in the turn in which there is something for it.

use registry::DeviceId;
use segment_log::storage::Storage;

use super::{Partition, Turn};
use crate::entry::Entry;
use crate::event_log::EventLog;
use crate::journal::Mark;
use crate::limits::RECEIVE_COUNT_MAX;
use crate::lock_queue::{LockHolder, LockTerms};
use crate::receivers::{Receiver, Source, WaitingReceive};
use crate::request::{
    Caller, ConnectionId, EngineError, LockToken, LockedCommand, LockedReceipts, Notice, ReceiverId, Reply,
    SequenceNumber, SessionId, Settlement,
};
use crate::slots::SlotKey;

/// A command or batch that the journal has and the disk perhaps not yet: nobody may receive it.
#[derive(Debug)]
pub(crate) struct Undurable {
    /// Behind its record.
    pub mark: Mark,
    /// Its number.
    pub number: SequenceNumber,
    /// Whose command it is; none: a batch of receipts.
    pub device: Option<DeviceId>,
}

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// A session begins to receive commands, perhaps in the place of an older receiver of its own.
    pub(super) fn open_command_receiver(&mut self, caller: Caller, id: SessionId, turn: &mut Turn<'_>) {
        let connection = caller.connection;
        let (device, older) = match self.sessions.find_mut(id, connection) {
            Ok(session) => (session.device.clone(), session.receiver.take()),
            Err(reason) => return turn.out.fail(caller, EngineError::SessionEnded(reason)),
        };
        if let Some(older) = older {
            let receiver = self.receivers.id(older);
            turn.out.notify(connection, Notice::ReceiverEnded { receiver });
            self.end_receiver(older, turn);
        }
        let Some(receiver) = self.receivers.open(connection, Source::Commands { session: id, device }) else {
            return turn.out.fail(caller, EngineError::Busy);
        };
        if let Ok(session) = self.sessions.find_mut(id, connection) {
            session.receiver = Some(SlotKey { slot: receiver.slot, generation: receiver.generation });
        }
        turn.out.reply(caller, Reply::ReceiverOpened(receiver));
    }

    /// A back end begins to receive receipts.
    pub(super) fn open_receipt_receiver(&mut self, caller: Caller, turn: &mut Turn<'_>) {
        match self.receivers.open(caller.connection, Source::Receipts) {
            Some(receiver) => turn.out.reply(caller, Reply::ReceiverOpened(receiver)),
            None => turn.out.fail(caller, EngineError::Busy),
        }
    }

    /// A receiver asks.
    pub(super) fn receive(&mut self, caller: Caller, id: ReceiverId, count_max: u32, turn: &mut Turn<'_>) {
        if self.journal.has_failed() {
            return turn.out.fail(caller, EngineError::StorageFailed);
        }
        if let Err(error) = self.receivers.ask(caller, id, count_max.clamp(1, RECEIVE_COUNT_MAX)) {
            turn.out.fail(caller, error);
        }
    }

    /// A receiver wants its answer now.
    pub(super) fn cancel_receive(&mut self, connection: ConnectionId, id: ReceiverId, turn: &mut Turn<'_>) {
        let Some((key, receiver)) = self.receivers.owned(id, connection) else { return };
        let nothing = match receiver.source {
            Source::Commands { .. } => Reply::Commands(Vec::new()),
            Source::Receipts => Reply::Receipts(Vec::new()),
        };
        if !self.serve(key, turn)
            && let Some(waiting) = self.receivers.take_waiting(key)
        {
            turn.out.reply(waiting.caller, nothing);
        }
    }

    /// A receiver leaves.
    pub(super) fn close_receiver(&mut self, connection: ConnectionId, id: ReceiverId, turn: &mut Turn<'_>) {
        let Some((key, receiver)) = self.receivers.owned(id, connection) else { return };
        if let Source::Commands { session, .. } = receiver.source
            && let Ok(session) = self.sessions.find_mut(session, connection)
        {
            session.receiver = None;
        }
        self.end_receiver(key, turn);
    }

    /// A receiver is gone: what it has locked goes back, and its request is answered.
    pub(super) fn end_receiver(&mut self, key: SlotKey, turn: &mut Turn<'_>) {
        let Some(Receiver { source, waiting, .. }) = self.receivers.end(key) else { return };
        if let Some(WaitingReceive { caller, .. }) = waiting {
            turn.out.fail(caller, EngineError::ReceiverEnded);
        }
        let (holder, counts) = (LockHolder::Receiver(key), turn.config.commands.counts_every_lock);
        match source {
            Source::Commands { device, .. } => {
                let queue = self.commands.queues.find(&device);
                let numbers = queue.map(|queue| queue.commands.locked_by(holder)).unwrap_or_default();
                for number in numbers {
                    // What the journal does not take now is not counted; the lock goes in any case.
                    if self.give_back(&device, number, counts, turn).is_err() {
                        self.unlock(&device, number);
                    }
                }
            }
            Source::Receipts => {
                for number in self.commands.feedback.batches.locked_by(holder) {
                    if self.give_batch_back(number, counts, turn).is_err() {
                        self.unlock_batch(number);
                    }
                }
            }
        }
    }

    /// The journal has failed: nothing can be settled any more, so nothing is handed out.
    pub(super) fn fail_receivers(&mut self, turn: &mut Turn<'_>) {
        for key in self.receivers.all_waiting() {
            if let Some(waiting) = self.receivers.take_waiting(key) {
                turn.out.fail(waiting.caller, EngineError::StorageFailed);
            }
        }
    }

    /// There is something for a device: its receiver's turn comes.
    pub(super) fn wake_device(&mut self, device: &DeviceId) {
        let session = self.sessions.of_device(device);
        if let Some(receiver) = session.and_then(|(_, session)| session.receiver) {
            self.receivers.make_ready(receiver);
        }
    }

    /// Answer every receiver for whom there is something, what has just become durable among it.
    pub(super) fn serve_receivers(&mut self, turn: &mut Turn<'_>) {
        let durable = self.journal.durable();
        while let Some(first) = self.undurable.front()
            && first.mark <= durable
            && let Some(Undurable { number, device, .. }) = self.undurable.pop_front()
        {
            self.durable_end = SequenceNumber(number.0 + 1);
            match device {
                Some(device) => self.wake_device(&device),
                None => self.receivers.wake_for_receipts(),
            }
        }
        while let Some(key) = self.receivers.next_ready() {
            self.serve(key, turn);
        }
    }

    /// Answer a receiver if there is something for it. Whether that was so, or it did not ask.
    fn serve(&mut self, key: SlotKey, turn: &mut Turn<'_>) -> bool {
        let Some(Receiver { source, waiting: Some(waiting), .. }) = self.receivers.find(key) else {
            return true;
        };
        let count_max = waiting.count_max;
        let answer = match source {
            Source::Commands { device, .. } => {
                let device = device.clone();
                let commands = self.lock_commands(&device, key, count_max, turn);
                (!commands.is_empty()).then_some(Reply::Commands(commands))
            }
            Source::Receipts => {
                let batches = self.lock_batches(key, count_max, turn);
                if batches.is_empty() {
                    self.receivers.wait_for_receipts(key);
                }
                (!batches.is_empty()).then_some(Reply::Receipts(batches))
            }
        };
        let Some(answer) = answer else { return false };
        if let Some(waiting) = self.receivers.take_waiting(key) {
            turn.out.reply(waiting.caller, answer);
        }
        true
    }

    fn lock_commands(
        &mut self,
        device: &DeviceId,
        key: SlotKey,
        count_max: u32,
        turn: &mut Turn<'_>,
    ) -> Vec<LockedCommand> {
        let (holder, timeout_ms) = (LockHolder::Receiver(key), turn.config.commands.lock_timeout_ms);
        let lock = |_| self.lock_command(device, holder, timeout_ms, turn);
        (0..count_max).map_while(lock).collect()
    }

    fn lock_batches(&mut self, key: SlotKey, count_max: u32, turn: &mut Turn<'_>) -> Vec<LockedReceipts> {
        let lock = |_| self.lock_batch(LockHolder::Receiver(key), turn);
        (0..count_max).map_while(lock).collect()
    }

    /// Receive one batch of receipts for a back end without a receiver, or none.
    pub(super) fn receive_receipts(&mut self, turn: &mut Turn<'_>) -> Reply {
        self.sweep_batches(turn);
        Reply::Receipts(self.lock_batch(LockHolder::BackEnd, turn).into_iter().collect())
    }

    /// Lock the oldest batch that can be received.
    fn lock_batch(&mut self, holder: LockHolder, turn: &mut Turn<'_>) -> Option<LockedReceipts> {
        let (id, nonce, mono_ms) = (self.id, turn.nonce(), turn.now.mono_ms);
        let ends_mono_ms = mono_ms.saturating_add(turn.config.commands.receipt_lock_timeout_ms);
        let terms = LockTerms { nonce, holder, ends_mono_ms };
        let item = self.commands.feedback.batches.lock(self.durable_end, mono_ms, terms)?;
        Some(LockedReceipts {
            token: LockToken::new(id, item.number, nonce),
            number: item.number,
            enqueued_ms: item.enqueued_ms,
            delivery_count: item.delivery_count,
            receipts: item.content.receipts.clone(),
        })
    }

    /// Settle a batch of receipts.
    pub(super) fn settle_batch(
        &mut self,
        holder: LockHolder,
        token: LockToken,
        settlement: Settlement,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        self.sweep_batches(turn);
        let batches = &self.commands.feedback.batches;
        let locked = match token.partition() == self.id {
            true => batches.locked(token, holder, turn.now.mono_ms),
            false => None,
        };
        let number = locked.ok_or(EngineError::LockLost)?.number;
        match settlement {
            Settlement::Complete => {
                self.journal_command(Entry::BatchRemoved { number }, turn)?;
                turn.out.counters.receipt_batches_completed += 1;
            }
            Settlement::Reject => self.drop_batch(number, turn)?,
            Settlement::Abandon => self.give_batch_back(number, true, turn)?,
            Settlement::Release => self.give_batch_back(number, false, turn)?,
        }
        Ok(Reply::Done)
    }

    fn unlock(&mut self, device: &DeviceId, number: SequenceNumber) {
        let queue = self.commands.queues.find(device);
        if let Some(delivery_count) =
            queue.and_then(|queue| Some(queue.commands.find(number)?.delivery_count))
        {
            self.commands.queues.give_back(device, number, delivery_count);
            self.wake_device(device);
        }
    }

    pub(super) fn unlock_batch(&mut self, number: SequenceNumber) {
        let batches = &mut self.commands.feedback.batches;
        if let Some(delivery_count) = batches.find(number).map(|item| item.delivery_count) {
            batches.give_back(number, delivery_count);
            self.receivers.wake_for_receipts();
        }
    }
}
