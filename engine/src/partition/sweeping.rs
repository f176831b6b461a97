//! What time does to commands and receipts: locks end, commands and batches expire, receipts become batches.

use registry::DeviceId;
use segment_log::storage::Storage;

use super::receiving::Undurable;
use super::{Partition, Turn};
use crate::entry::{BatchMade, Entry};
use crate::event_log::EventLog;
use crate::limits::{SWEEP_RETRY_MS, SWEPT_QUEUES_PER_TURN};
use crate::lock_queue::Due;
use crate::monitor::MonitorEvent;
use crate::request::{EngineError, Outcome, SequenceNumber};

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// Do what is due, as much as one turn may.
    pub(super) fn sweep(&mut self, turn: &mut Turn<'_>) {
        if self.journal.has_failed() {
            return;
        }
        for _ in 0..SWEPT_QUEUES_PER_TURN {
            let Some(device) = self.commands.queues.first_due(turn.now.mono_ms) else { break };
            self.sweep_device(&device, turn);
        }
        self.sweep_batches(turn);
    }

    /// When to sweep next without other cause, on the monotonic clock.
    pub(super) fn next_sweep_ms(&self) -> Option<u64> {
        if self.journal.has_failed() || self.is_closing {
            return None;
        }
        let moments = [self.commands.queues.wake_mono_ms(), self.commands.feedback.wake_mono_ms()];
        moments.into_iter().flatten().min()
    }

    /// Do what is due in a device's queue. Whoever looks at a queue does this first, so that time alone decides what is seen
    /// and not when a turn came.
    pub(super) fn sweep_device(&mut self, device: &DeviceId, turn: &mut Turn<'_>) {
        let mono_ms = turn.now.mono_ms;
        let Some(due) = self.commands.queues.take_due(device, mono_ms) else { return };
        if self.try_sweep_device(device, due, turn).is_err() {
            self.commands.queues.wake_at(device, mono_ms.saturating_add(SWEEP_RETRY_MS));
        }
    }

    fn try_sweep_device(
        &mut self,
        device: &DeviceId,
        due: Due,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        let counts = turn.config.commands.counts_every_lock;
        self.remove_commands(device, &due.expired, Outcome::Expired, turn)?;
        for number in due.lock_ended {
            self.give_back(device, number, counts, turn)?;
        }
        Ok(())
    }

    /// Do what is due among the receipts.
    pub(super) fn sweep_batches(&mut self, turn: &mut Turn<'_>) {
        let mono_ms = turn.now.mono_ms;
        let retry_ms = mono_ms.saturating_add(SWEEP_RETRY_MS);
        while let Some(receipt_count) = self.commands.feedback.batch_due(mono_ms) {
            let number = self.commands.next_number();
            let made = BatchMade { number, made_ms: turn.now.wall_ms, receipt_count };
            if self.journal_command(Entry::ReceiptsBatched(made), turn).is_err() {
                self.commands.feedback.put_batch_off(retry_ms);
                break;
            }
            self.undurable.push_back(Undurable { mark: self.journal.mark(), number, device: None });
            turn.out.counters.receipt_batches_made += 1;
        }
        let due = self.commands.feedback.batches.take_due(mono_ms);
        if self.try_sweep_batches(due, turn).is_err() {
            self.commands.feedback.batches.wake_at(retry_ms);
        }
    }

    fn try_sweep_batches(&mut self, due: Due, turn: &mut Turn<'_>) -> Result<(), EngineError> {
        let counts = turn.config.commands.counts_every_lock;
        for number in due.expired {
            self.drop_batch(number, turn)?;
        }
        for number in due.lock_ended {
            self.give_batch_back(number, counts, turn)?;
        }
        Ok(())
    }

    /// A batch's lock is over without the batch being done with.
    pub(super) fn give_batch_back(
        &mut self,
        number: SequenceNumber,
        counts: bool,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        let Some(item) = self.commands.feedback.batches.find(number) else { return Ok(()) };
        let delivery_count = item.delivery_count.saturating_add(u8::from(counts));
        if (counts && delivery_count >= turn.config.commands.receipt_delivery_count_max)
            || item.expires_mono_ms <= turn.now.mono_ms
        {
            return self.drop_batch(number, turn);
        }
        if !counts {
            self.unlock_batch(number);
            return Ok(());
        }
        self.journal_command(Entry::BatchGivenBack { number, delivery_count }, turn)?;
        self.receivers.wake_for_receipts();
        Ok(())
    }

    /// A batch goes without anybody having taken it.
    pub(super) fn drop_batch(
        &mut self,
        number: SequenceNumber,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        let Some(item) = self.commands.feedback.batches.find(number) else { return Ok(()) };
        let (at_ms, partition) = (turn.now.wall_ms, self.id);
        let receipt_count = item.content.receipts.len() as u64;
        self.journal_command(Entry::BatchRemoved { number }, turn)?;
        turn.out.counters.receipts_dropped += receipt_count;
        turn.out.monitor(MonitorEvent::ReceiptsDropped { at_ms, partition, receipt_count });
        Ok(())
    }
}
