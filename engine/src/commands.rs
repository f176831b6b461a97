//! What a partition knows of commands and receipts: the fold over the journal's entries about them.
//!
//! The same code takes an entry that was just appended and one that is replayed. Everything that is not in the journal,
//! locks above all, is changed beside it and gone after a restart.

use std::sync::Arc;

use registry::DeviceId;
use segment_log::Now;

use crate::command_queue::{CommandQueues, DeviceQueue};
use crate::entry::{BatchMade, Enqueued, Entry, EntryError, GivenBack, Removed};
use crate::feedback::{Batch, Feedback};
use crate::lock_queue::Item;
use crate::request::{Receipt, SequenceNumber};
use crate::subscriptions::Subscriptions;

/// The commands and receipts of one partition.
#[derive(Debug)]
pub(crate) struct Commands {
    /// What waits for devices.
    pub queues: CommandQueues,
    /// What is told of it.
    pub feedback: Feedback,
    /// Who has subscribed to its commands and keeps that while it is away.
    pub subscriptions: Subscriptions,
    next_number: u64,
    receipt_ttl_ms: u64,
}

impl Commands {
    /// Nothing yet. `receipt_ttl_ms`: how long a batch waits for somebody to receive it.
    pub fn new(receipt_ttl_ms: u64) -> Self {
        Self {
            queues: CommandQueues::default(),
            feedback: Feedback::default(),
            subscriptions: Subscriptions::default(),
            next_number: 0,
            receipt_ttl_ms,
        }
    }

    /// The number that the next command or batch gets.
    pub fn next_number(&self) -> SequenceNumber {
        SequenceNumber(self.next_number)
    }

    /// Go on with this number at least: none that was ever given comes again.
    pub fn go_on_from(&mut self, number: u64) {
        self.next_number = self.next_number.max(number);
    }

    /// Take an entry of the journal, which must be about commands or receipts.
    pub fn apply(&mut self, entry: Entry, now: Now) -> Result<(), EntryError> {
        match entry {
            Entry::CommandEnqueued(enqueued) => self.enqueue(enqueued, now),
            Entry::CommandsRemoved(removed) => self.remove(&removed, now),
            Entry::CommandGivenBack(given) => self.give_back(&given),
            Entry::ReceiptsBatched(made) => self.make_batch(&made, now),
            Entry::BatchGivenBack { number, delivery_count } => self.give_batch_back(number, delivery_count),
            Entry::BatchRemoved { number } => self.remove_batch(number),
            Entry::Subscribed { device, subscription } => {
                self.subscriptions.put(&device, subscription);
                Ok(())
            }
            Entry::Registry(_) | Entry::Checkpoint { .. } | Entry::CheckpointDropped { .. } => {
                unreachable!("the registry and the checkpoints take what is theirs")
            }
        }
    }

    /// A command was enqueued.
    pub fn enqueue(&mut self, enqueued: Enqueued, now: Now) -> Result<(), EntryError> {
        if enqueued.number.0 < self.next_number {
            return Err(EntryError::Unfitting);
        }
        self.put(enqueued, 0, now);
        Ok(())
    }

    /// Commands left their queue, some with a receipt.
    pub fn remove(&mut self, removed: &Removed, now: Now) -> Result<(), EntryError> {
        for (number, has_receipt) in &removed.numbers {
            let found = self.queues.remove(&removed.device, *number);
            let (generation, item) = found.ok_or(EntryError::Unfitting)?;
            if *has_receipt {
                let receipt = Receipt {
                    message_id: item.content.message_id.into_string(),
                    device: removed.device.clone(),
                    generation,
                    outcome: removed.outcome,
                    at_ms: removed.at_ms,
                };
                self.feedback.gather(receipt, now.mono_ms);
            }
        }
        Ok(())
    }

    /// A command was given back.
    pub fn give_back(&mut self, given: &GivenBack) -> Result<(), EntryError> {
        fits(self.queues.give_back(&given.device, given.number, given.delivery_count))
    }

    /// Receipts became a batch.
    pub fn make_batch(&mut self, made: &BatchMade, now: Now) -> Result<(), EntryError> {
        if made.number.0 < self.next_number {
            return Err(EntryError::Unfitting);
        }
        self.go_on_from(made.number.0.saturating_add(1));
        let expires_mono_ms = self.batch_moment(made.made_ms, now);
        let BatchMade { number, made_ms, receipt_count } = *made;
        fits(self.feedback.make_batch(number, receipt_count, made_ms, expires_mono_ms, now.mono_ms))
    }

    /// A batch was given back.
    pub fn give_batch_back(&mut self, number: SequenceNumber, delivery_count: u8) -> Result<(), EntryError> {
        fits(self.feedback.batches.give_back(number, delivery_count))
    }

    /// A batch is done with.
    pub fn remove_batch(&mut self, number: SequenceNumber) -> Result<(), EntryError> {
        self.feedback.remove_batch(number).map(|_| ()).ok_or(EntryError::Unfitting)
    }

    /// A batch that a snapshot holds.
    pub fn restore_batch(
        &mut self,
        number: SequenceNumber,
        made_ms: u64,
        delivery_count: u8,
        receipts: Vec<Receipt>,
        now: Now,
    ) -> Result<(), EntryError> {
        // A queue's numbers rise; nothing that is stored may make that fail.
        if self.feedback.batches.iter().next_back().is_some_and(|last| last.number >= number) {
            return Err(EntryError::Unfitting);
        }
        let content = Batch { receipts: receipts.into() };
        let expires_mono_ms = self.batch_moment(made_ms, now);
        self.feedback.put_batch(Item::new(number, made_ms, expires_mono_ms, delivery_count, content));
        self.go_on_from(number.0.saturating_add(1));
        Ok(())
    }

    /// A command that a snapshot holds; those of a device come in their order.
    pub fn restore_command(
        &mut self,
        enqueued: Enqueued,
        delivery_count: u8,
        now: Now,
    ) -> Result<(), EntryError> {
        let last = self.queues.find(&enqueued.device).and_then(|queue| queue.commands.iter().next_back());
        if last.is_some_and(|last| last.number >= enqueued.number) {
            return Err(EntryError::Unfitting);
        }
        self.put(enqueued, delivery_count, now);
        Ok(())
    }

    /// The device was deleted: its queue is gone, what was gathered of receipts, and its subscription. How many commands that was.
    pub fn drop_device(&mut self, device: &DeviceId) -> u32 {
        self.feedback.drop_device(device);
        self.subscriptions.put(device, None);
        self.queues.drop_device(device)
    }

    /// Everything as it is now, for the job that writes it down.
    pub fn freeze(&self) -> FrozenCommands {
        FrozenCommands {
            next_number: self.next_number,
            pending: self.feedback.pending().cloned().collect(),
            batches: self.feedback.batches.iter().cloned().collect(),
            queues: self.queues.share(),
            subscriptions: self.subscriptions.clone(),
        }
    }

    fn put(&mut self, enqueued: Enqueued, delivery_count: u8, now: Now) {
        let Enqueued { device, generation, number, enqueued_ms, command } = enqueued;
        self.go_on_from(number.0.saturating_add(1));
        let expires_mono_ms = moment(enqueued_ms, command.expires_ms, now);
        let item = Item::new(number, enqueued_ms, expires_mono_ms, delivery_count, command);
        self.queues.push(&device, generation, item);
    }

    fn batch_moment(&self, made_ms: u64, now: Now) -> u64 {
        moment(made_ms, made_ms.saturating_add(self.receipt_ttl_ms), now)
    }
}

/// Commands and receipts at one moment.
#[derive(Debug)]
pub(crate) struct FrozenCommands {
    /// The number that the next command or batch gets.
    pub next_number: u64,
    /// Receipts that are in no batch.
    pub pending: Vec<Receipt>,
    /// Batches, oldest first.
    pub batches: Vec<Item<Batch>>,
    /// The queues.
    pub queues: Vec<(DeviceId, Arc<DeviceQueue>)>,
    /// The standing subscriptions.
    pub subscriptions: Subscriptions,
}

/// When something expires on the clock of this run, which no step of the wall clock moves: after what is left of its time,
/// and never after more than it ever had, whatever the wall clock says.
fn moment(from_ms: u64, expires_ms: u64, now: Now) -> u64 {
    let lifetime_ms = expires_ms.saturating_sub(from_ms);
    now.mono_ms.saturating_add(expires_ms.saturating_sub(now.wall_ms).min(lifetime_ms))
}

fn fits(fitting: bool) -> Result<(), EntryError> {
    if fitting { Ok(()) } else { Err(EntryError::Unfitting) }
}
