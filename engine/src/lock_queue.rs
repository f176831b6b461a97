//! Messages in the order of their numbers, received under a lock: what commands and batches of receipts have in common.

use std::collections::VecDeque;

use crate::request::{LockToken, SequenceNumber};
use crate::slots::SlotKey;

/// A message that waits or is locked.
#[derive(Clone, Debug)]
pub(crate) struct Item<T> {
    /// Its number; larger than that of every earlier item.
    pub number: SequenceNumber,
    /// When it came, milliseconds since 1970.
    pub enqueued_ms: u64,
    /// When it expires, on the monotonic clock of this run.
    pub expires_mono_ms: u64,
    /// How often it was given back.
    pub delivery_count: u8,
    /// What it is.
    pub content: T,
    is_locked: bool,
}

impl<T> Item<T> {
    /// An item that nobody has locked.
    pub fn new(
        number: SequenceNumber,
        enqueued_ms: u64,
        expires_mono_ms: u64,
        delivery_count: u8,
        content: T,
    ) -> Self {
        Self { number, enqueued_ms, expires_mono_ms, delivery_count, content, is_locked: false }
    }
}

/// Who may settle what is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockHolder {
    /// One receiver.
    Receiver(SlotKey),
    /// The device, over whatever connection.
    Device,
    /// Any back end, over whatever connection.
    BackEnd,
}

/// A lock to be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockTerms {
    /// Tells it from every other lock.
    pub nonce: u64,
    /// Who may settle.
    pub holder: LockHolder,
    /// When it ends, on the monotonic clock.
    pub ends_mono_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lock {
    number: SequenceNumber,
    terms: LockTerms,
}

/// What has come due in a queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Items whose locks are over, ascending. They are locked until the owner unlocks them, and no token settles them.
    pub lock_ended: Vec<SequenceNumber>,
    /// Items that nobody has locked and that have expired, ascending.
    pub expired: Vec<SequenceNumber>,
}

/// The items of one queue, oldest first. Knows no durability and keeps no journal: its owner does.
///
/// Work is linear in the number of items at worst, and constant while the oldest is received and settled first.
#[derive(Clone, Debug)]
pub(crate) struct LockQueue<T> {
    items: VecDeque<Item<T>>,
    locks: Vec<Lock>,
    /// Nothing comes due before this moment of the monotonic clock; perhaps nothing does at it either.
    wake_mono_ms: u64,
}

impl<T> Default for LockQueue<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), locks: Vec::new(), wake_mono_ms: u64::MAX }
    }
}

impl<T> LockQueue<T> {
    /// Put an item in behind all others.
    pub fn push(&mut self, item: Item<T>) {
        let last = self.items.back().map(|last| last.number);
        assert!(last < Some(item.number), "numbers rise");
        self.wake_at(item.expires_mono_ms);
        self.items.push_back(item);
    }

    /// All items, locked ones too.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Items that are locked.
    pub fn locked_count(&self) -> usize {
        self.locks.len()
    }

    /// All items, oldest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Item<T>> + DoubleEndedIterator {
        self.items.iter()
    }

    /// An item by its number.
    pub fn find(&self, number: SequenceNumber) -> Option<&Item<T>> {
        self.index(number).ok().map(|index| &self.items[index])
    }

    /// Whether there is something to receive: neither locked nor expired, and below `end`.
    pub fn has_receivable(&self, end: SequenceNumber, now_mono_ms: u64) -> bool {
        self.next_receivable(end, now_mono_ms).is_some()
    }

    /// Lock the oldest item that can be received.
    pub fn lock(&mut self, end: SequenceNumber, now_mono_ms: u64, terms: LockTerms) -> Option<&Item<T>> {
        let index = self.next_receivable(end, now_mono_ms)?;
        self.wake_at(terms.ends_mono_ms);
        let item = &mut self.items[index];
        item.is_locked = true;
        self.locks.push(Lock { number: item.number, terms });
        Some(&self.items[index])
    }

    /// The item whose lock the token proves: the present one, of this holder, and not over.
    pub fn locked(&self, token: LockToken, holder: LockHolder, now_mono_ms: u64) -> Option<&Item<T>> {
        let proven = |lock: &&Lock| {
            lock.number == token.number()
                && lock.terms.nonce == token.nonce()
                && lock.terms.holder == holder
                && lock.terms.ends_mono_ms > now_mono_ms
        };
        self.find(self.locks.iter().find(proven)?.number)
    }

    /// What a holder has locked, ascending.
    pub fn locked_by(&self, holder: LockHolder) -> Vec<SequenceNumber> {
        self.locks_where(|lock| lock.terms.holder == holder)
    }

    /// Put an item back where it is, with this delivery count. Whether it is there.
    pub fn give_back(&mut self, number: SequenceNumber, delivery_count: u8) -> bool {
        let Ok(index) = self.index(number) else { return false };
        let item = &mut self.items[index];
        item.delivery_count = delivery_count;
        item.is_locked = false;
        let expires_mono_ms = item.expires_mono_ms;
        self.wake_at(expires_mono_ms);
        self.locks.retain(|lock| lock.number != number);
        true
    }

    /// Take an item out, locked or not.
    pub fn remove(&mut self, number: SequenceNumber) -> Option<Item<T>> {
        let index = self.index(number).ok()?;
        let item = self.items.remove(index)?;
        if item.is_locked {
            self.locks.retain(|lock| lock.number != number);
        }
        Some(item)
    }

    /// When to ask for what is due.
    pub fn wake_mono_ms(&self) -> u64 {
        self.wake_mono_ms
    }

    /// Ask for what is due at this moment, if not before.
    pub fn wake_at(&mut self, mono_ms: u64) {
        self.wake_mono_ms = self.wake_mono_ms.min(mono_ms);
    }

    /// What is due now. It is told once: who cannot act on it now says when to be told again by [`LockQueue::wake_at`].
    pub fn take_due(&mut self, now_mono_ms: u64) -> Due {
        if self.wake_mono_ms > now_mono_ms {
            return Due::default();
        }
        let lock_ended = self.locks_where(|lock| lock.terms.ends_mono_ms <= now_mono_ms);
        let waiting = || self.items.iter().filter(|item| !item.is_locked);
        let expired = waiting().filter(|item| item.expires_mono_ms <= now_mono_ms).map(|item| item.number);
        let due = Due { lock_ended, expired: expired.collect() };
        let lock_ends = self.locks.iter().map(|lock| lock.terms.ends_mono_ms);
        let moments = lock_ends.chain(waiting().map(|item| item.expires_mono_ms));
        self.wake_mono_ms = moments.filter(|moment| *moment > now_mono_ms).min().unwrap_or(u64::MAX);
        due
    }

    fn next_receivable(&self, end: SequenceNumber, now_mono_ms: u64) -> Option<usize> {
        let receivable = |item: &Item<T>| !item.is_locked && item.expires_mono_ms > now_mono_ms;
        let index = self.items.iter().position(receivable)?;
        (self.items[index].number < end).then_some(index)
    }

    fn locks_where(&self, wanted: impl Fn(&Lock) -> bool) -> Vec<SequenceNumber> {
        let mut numbers: Vec<_> =
            self.locks.iter().filter(|lock| wanted(lock)).map(|lock| lock.number).collect();
        numbers.sort_unstable();
        numbers
    }

    fn index(&self, number: SequenceNumber) -> Result<usize, usize> {
        match self.items.front() {
            Some(first) if first.number == number => Ok(0),
            _ => self.items.binary_search_by_key(&number, |item| item.number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PartitionId;

    const END: SequenceNumber = SequenceNumber(100);

    fn queue(expires: &[u64]) -> LockQueue<char> {
        let mut queue = LockQueue::default();
        for (number, expires_mono_ms) in (0..).map(SequenceNumber).zip(expires) {
            queue.push(Item::new(number, 0, *expires_mono_ms, 0, 'x'));
        }
        queue
    }

    fn terms(nonce: u64, slot: u32, ends_mono_ms: u64) -> LockTerms {
        LockTerms { nonce, holder: holder(slot), ends_mono_ms }
    }

    fn holder(slot: u32) -> LockHolder {
        LockHolder::Receiver(SlotKey { slot, generation: 0 })
    }

    fn token(number: u64, nonce: u64) -> LockToken {
        LockToken::new(PartitionId(0), SequenceNumber(number), nonce)
    }

    #[test]
    fn items_are_locked_in_order_and_each_once() {
        let mut queue = queue(&[50, 50, 50]);
        assert_eq!(queue.lock(SequenceNumber(0), 1, terms(7, 1, 9)).map(|item| item.number), None);
        for number in 0..3 {
            let locked = queue.lock(END, 1, terms(number, 1, 9)).map(|item| item.number);
            assert_eq!(locked, Some(SequenceNumber(number)));
        }
        assert!(queue.lock(END, 1, terms(7, 1, 9)).is_none());
        assert!(queue.give_back(SequenceNumber(1), 3));
        let again = queue.lock(END, 1, terms(8, 2, 9)).map(|item| (item.number.0, item.delivery_count));
        assert_eq!(again, Some((1, 3)));
        assert_eq!(queue.locked_by(holder(1)), [SequenceNumber(0), SequenceNumber(2)]);
    }

    #[test]
    fn only_the_present_lock_of_the_same_holder_counts() {
        let mut queue = queue(&[50]);
        queue.lock(END, 1, terms(7, 1, 9));
        let settles = |queue: &LockQueue<char>, nonce, slot, now| {
            queue.locked(token(0, nonce), holder(slot), now).is_some()
        };
        assert!(settles(&queue, 7, 1, 8));
        assert!(!settles(&queue, 7, 1, 9), "it is over");
        assert!(!settles(&queue, 8, 1, 8), "another nonce");
        assert!(!settles(&queue, 7, 2, 8), "another holder");
        assert!(queue.locked(token(1, 7), holder(1), 8).is_none(), "another number");
        queue.give_back(SequenceNumber(0), 0);
        queue.lock(END, 1, terms(8, 1, 9));
        assert!(!settles(&queue, 7, 1, 8), "an older lock");
    }

    #[test]
    fn what_is_due_is_told_once_and_expiry_waits_for_the_lock() {
        let mut queue = queue(&[20, 30]);
        assert_eq!(queue.wake_mono_ms(), 20);
        queue.lock(END, 1, terms(7, 1, 40));
        assert_eq!(queue.take_due(25), Due::default());
        assert_eq!(queue.wake_mono_ms(), 30);
        let due = Due { lock_ended: vec![], expired: vec![SequenceNumber(1)] };
        assert_eq!(queue.take_due(30), due);
        assert_eq!(queue.take_due(30), Due::default());
        queue.remove(SequenceNumber(1)).unwrap();
        let due = Due { lock_ended: vec![SequenceNumber(0)], expired: vec![] };
        assert_eq!((queue.wake_mono_ms(), queue.take_due(40)), (40, due));
        queue.give_back(SequenceNumber(0), 0);
        assert!(!queue.has_receivable(END, 40), "it expired while it was locked");
        let due = Due { lock_ended: vec![], expired: vec![SequenceNumber(0)] };
        assert_eq!(queue.take_due(40), due);
        queue.remove(SequenceNumber(0)).unwrap();
        assert!(queue.is_empty() && queue.locked_count() == 0);
        assert_eq!((queue.take_due(50), queue.wake_mono_ms()), (Due::default(), u64::MAX));
    }
}
