//! What became of commands, for those who asked: receipts that gather, and batches of them that wait to be received.
//!
//! A batch is made of 64 receipts, or of those that there are 15 seconds after the first. What was gathered from a device
//! that is deleted goes with it; a batch that was made already is a message like any other and stays.

use std::collections::VecDeque;
use std::sync::Arc;

use registry::DeviceId;

use crate::limits::{RECEIPT_BATCH_COUNT_MAX, RECEIPT_BATCH_DELAY_MS};
use crate::lock_queue::{Item, LockQueue};
use crate::request::{Receipt, SequenceNumber};

/// A batch as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// In the order of their outcomes.
    pub receipts: Arc<[Receipt]>,
}

/// The receipts of one partition.
#[derive(Debug, Default)]
pub(crate) struct Feedback {
    /// Gathered and not in a batch yet, oldest first.
    pending: VecDeque<Receipt>,
    /// When what is pending becomes a batch, on the monotonic clock; none: nothing is pending.
    batch_due_mono_ms: Option<u64>,
    /// Batches that wait.
    pub batches: LockQueue<Batch>,
    batched_count: u64,
}

impl Feedback {
    /// Gather a receipt.
    pub fn gather(&mut self, receipt: Receipt, now_mono_ms: u64) {
        self.pending.push_back(receipt);
        if self.pending.len() >= RECEIPT_BATCH_COUNT_MAX {
            self.batch_due_mono_ms = Some(now_mono_ms);
        } else if self.batch_due_mono_ms.is_none() {
            self.batch_due_mono_ms = Some(now_mono_ms.saturating_add(RECEIPT_BATCH_DELAY_MS));
        }
    }

    /// How many receipts the next batch holds, if it is time to make it.
    pub fn batch_due(&self, now_mono_ms: u64) -> Option<u32> {
        self.batch_due_mono_ms.filter(|moment| *moment <= now_mono_ms)?;
        Some(self.pending.len().min(RECEIPT_BATCH_COUNT_MAX) as u32)
    }

    /// The batch could not be made: try again at this moment.
    pub fn put_batch_off(&mut self, mono_ms: u64) {
        self.batch_due_mono_ms = Some(mono_ms);
    }

    /// Make a batch of the oldest receipts. Whether there are as many.
    pub fn make_batch(
        &mut self,
        number: SequenceNumber,
        receipt_count: u32,
        made_ms: u64,
        expires_mono_ms: u64,
        now_mono_ms: u64,
    ) -> bool {
        let count = receipt_count as usize;
        if count == 0 || count > self.pending.len() {
            return false;
        }
        let receipts: Arc<[Receipt]> = self.pending.drain(..count).collect();
        self.put_batch(Item::new(number, made_ms, expires_mono_ms, 0, Batch { receipts }));
        self.batch_due_mono_ms = match self.pending.len() {
            0 => None,
            RECEIPT_BATCH_COUNT_MAX.. => Some(now_mono_ms),
            _ => Some(now_mono_ms.saturating_add(RECEIPT_BATCH_DELAY_MS)),
        };
        true
    }

    /// Put a batch in behind the others.
    pub fn put_batch(&mut self, item: Item<Batch>) {
        self.batched_count += item.content.receipts.len() as u64;
        self.batches.push(item);
    }

    /// Take a batch out. None: it is not there.
    pub fn remove_batch(&mut self, number: SequenceNumber) -> Option<Item<Batch>> {
        let item = self.batches.remove(number)?;
        self.batched_count -= item.content.receipts.len() as u64;
        Some(item)
    }

    /// The device is gone: what was gathered from it is dropped. How many receipts that was.
    pub fn drop_device(&mut self, device: &DeviceId) -> u64 {
        let before = self.pending.len();
        self.pending.retain(|receipt| receipt.device != *device);
        if self.pending.is_empty() {
            self.batch_due_mono_ms = None;
        }
        (before - self.pending.len()) as u64
    }

    /// Receipts gathered and in batches.
    pub fn receipt_count(&self) -> u64 {
        self.pending.len() as u64 + self.batched_count
    }

    /// What is gathered, oldest first.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = &Receipt> {
        self.pending.iter()
    }

    /// When to look again without other cause, on the monotonic clock.
    pub fn wake_mono_ms(&self) -> Option<u64> {
        let batches = Some(self.batches.wake_mono_ms()).filter(|moment| *moment < u64::MAX);
        [self.batch_due_mono_ms, batches].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Outcome;
    use registry::GenerationId;

    fn receipt(device: &str, at_ms: u64) -> Receipt {
        Receipt {
            message_id: at_ms.to_string(),
            device: DeviceId::parse(device).unwrap(),
            generation: GenerationId(1),
            outcome: Outcome::Success,
            at_ms,
        }
    }

    #[test]
    fn a_batch_is_made_of_64_or_after_15_seconds() {
        let mut feedback = Feedback::default();
        assert_eq!((feedback.batch_due(0), feedback.wake_mono_ms()), (None, None));
        feedback.gather(receipt("a", 0), 100);
        feedback.gather(receipt("a", 1), 5000);
        assert_eq!((feedback.batch_due(15_099), feedback.wake_mono_ms()), (None, Some(15_100)));
        assert_eq!(feedback.batch_due(15_100), Some(2));
        for number in 2..70 {
            feedback.gather(receipt("a", number), 6000);
        }
        assert_eq!(feedback.batch_due(6000), Some(64));
        assert!(feedback.make_batch(SequenceNumber(0), 64, 7, 8, 6000));
        assert_eq!((feedback.batch_due(6000), feedback.batch_due(21_000)), (None, Some(6)));
        assert!(!feedback.make_batch(SequenceNumber(1), 7, 7, 8, 6000), "there are not as many");
        assert_eq!((feedback.receipt_count(), feedback.pending().len()), (70, 6));
        assert_eq!(feedback.remove_batch(SequenceNumber(0)).unwrap().content.receipts[63].at_ms, 63);
        assert_eq!(feedback.receipt_count(), 6);
    }

    #[test]
    fn what_is_gathered_from_a_deleted_device_goes_and_what_is_batched_stays() {
        let mut feedback = Feedback::default();
        feedback.gather(receipt("a", 0), 0);
        assert!(feedback.make_batch(SequenceNumber(0), 1, 0, 50, 0));
        feedback.gather(receipt("a", 1), 0);
        feedback.gather(receipt("b", 2), 0);
        assert_eq!(feedback.drop_device(&DeviceId::parse("a").unwrap()), 1);
        assert_eq!((feedback.receipt_count(), feedback.batches.len()), (2, 1));
        assert_eq!(feedback.drop_device(&DeviceId::parse("b").unwrap()), 1);
        assert_eq!((feedback.batch_due(u64::MAX), feedback.pending().len()), (None, 0));
    }
}
