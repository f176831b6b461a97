//! A coarse timing wheel: the deadlines of all connections of a core, behind one timer.

use crate::limits::{WHEEL_SLOT_COUNT, WHEEL_TICK_MS};

const WORD_BITS: usize = u64::BITS as usize;

/// Deadlines by key, to [`WHEEL_TICK_MS`]. A key has at most one entry; entries are told once and forgotten.
///
/// The owner keeps each key's true deadline. Moving it later costs the wheel nothing: the entry comes out at the old time,
/// and the owner puts it back. Moving it earlier adds a second entry, and the owner ignores the one that comes out too
/// late. So there may be more entries than keys, but each insert leaves at most one behind.
#[derive(Debug)]
pub(crate) struct Wheel<K> {
    slots: Vec<Vec<Entry<K>>>,
    /// One bit per slot that is not empty.
    occupied: [u64; WHEEL_SLOT_COUNT / WORD_BITS],
    /// Everything at or before this tick has been told.
    tick: u64,
    entry_count: usize,
}

#[derive(Debug)]
struct Entry<K> {
    tick: u64,
    key: K,
}

impl<K> Wheel<K> {
    /// An empty wheel that stands at `mono_ms`.
    pub(crate) fn new(mono_ms: u64) -> Self {
        Self {
            slots: (0..WHEEL_SLOT_COUNT).map(|_| Vec::new()).collect(),
            occupied: [0; WHEEL_SLOT_COUNT / WORD_BITS],
            tick: mono_ms / WHEEL_TICK_MS,
            entry_count: 0,
        }
    }

    /// The moment at which an entry for `mono_ms` would come out: never before it, at most one tick after it.
    pub(crate) fn round_up(mono_ms: u64) -> u64 {
        mono_ms.div_ceil(WHEEL_TICK_MS).saturating_mul(WHEEL_TICK_MS)
    }

    /// Tell `key` at `mono_ms`, or at the next tick when that has passed.
    pub(crate) fn insert(&mut self, mono_ms: u64, key: K) {
        let tick = mono_ms.div_ceil(WHEEL_TICK_MS).max(self.tick + 1);
        let slot = slot_of(tick);
        self.slots[slot].push(Entry { tick, key });
        self.occupied[slot / WORD_BITS] |= 1 << (slot % WORD_BITS);
        self.entry_count += 1;
    }

    /// Advance to `mono_ms` and take out what is due into `due`, in no particular order within a tick.
    pub(crate) fn advance(&mut self, mono_ms: u64, due: &mut Vec<K>) {
        let target = mono_ms / WHEEL_TICK_MS;
        if target <= self.tick {
            return;
        }
        if self.entry_count > 0 {
            let span = (target - self.tick).min(WHEEL_SLOT_COUNT as u64);
            for tick in self.tick + 1..=self.tick + span {
                self.empty_slot(slot_of(tick), target, due);
            }
        }
        self.tick = target;
    }

    fn empty_slot(&mut self, slot: usize, target: u64, due: &mut Vec<K>) {
        let entries = &mut self.slots[slot];
        let before = entries.len();
        due.extend(entries.extract_if(.., |entry| entry.tick <= target).map(|entry| entry.key));
        self.entry_count -= before - entries.len();
        if entries.is_empty() {
            // A burst's memory is not kept for ever.
            if entries.capacity() > 1024 {
                *entries = Vec::new();
            }
            self.occupied[slot / WORD_BITS] &= !(1 << (slot % WORD_BITS));
        }
    }

    /// When to call [`advance`](Self::advance) next: the first slot that holds anything. None when the wheel is empty. A
    /// deadline beyond the wheel's span makes one needless call per turn of the wheel.
    pub(crate) fn next_timeout_ms(&self) -> Option<u64> {
        if self.entry_count == 0 {
            return None;
        }
        let next = self.tick + 1;
        let start = slot_of(next);
        let words = self.occupied.len();
        for step in 0..=words {
            let word = (start / WORD_BITS + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % WORD_BITS);
            }
            if bits != 0 {
                let slot = word * WORD_BITS + bits.trailing_zeros() as usize;
                let distance = (slot + WHEEL_SLOT_COUNT - start) % WHEEL_SLOT_COUNT;
                return Some((next + distance as u64) * WHEEL_TICK_MS);
            }
        }
        unreachable!("a wheel with entries has an occupied slot")
    }
}

fn slot_of(tick: u64) -> usize {
    (tick % WHEEL_SLOT_COUNT as u64) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN_MS: u64 = WHEEL_TICK_MS * WHEEL_SLOT_COUNT as u64;

    #[test]
    fn an_empty_wheel_asks_for_nothing() {
        let mut wheel = Wheel::<u32>::new(5);
        let mut due = Vec::new();
        assert_eq!(wheel.next_timeout_ms(), None);
        wheel.advance(10 * SPAN_MS, &mut due);
        assert!(due.is_empty());
        assert_eq!(wheel.next_timeout_ms(), None);
    }

    #[test]
    fn a_far_deadline_waits_for_its_turn_of_the_wheel() {
        let mut wheel = Wheel::new(0);
        let mut due = Vec::new();
        let deadline = 3 * SPAN_MS + 100;
        wheel.insert(deadline, 7u32);
        let mut calls = 0;
        while due.is_empty() {
            let next = wheel.next_timeout_ms().expect("an entry waits");
            wheel.advance(next, &mut due);
            calls += 1;
            assert!(due.is_empty() || next >= deadline);
        }
        assert_eq!(calls, 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        // Every entry comes out once, never early, and at most a tick after its time when the owner keeps its word.
        #[test]
        fn entries_come_out_once_and_on_time(
            start in 0u64..100_000,
            steps in prop::collection::vec((0u64..200_000, 1u64..30_000), 1..60),
        ) {
            let mut wheel = Wheel::new(start);
            let (mut now, mut open, mut due) = (start, std::collections::HashMap::new(), Vec::new());
            for (key, (delay, pause)) in steps.into_iter().enumerate() {
                wheel.insert(now + delay, key);
                open.insert(key, now + delay);
                let until = now + pause;
                while let Some(next) = wheel.next_timeout_ms().filter(|&next| next <= until) {
                    now = now.max(next);
                    wheel.advance(now, &mut due);
                    for key in due.drain(..) {
                        let deadline = open.remove(&key).expect("told once");
                        prop_assert!(now >= deadline, "{now} is before {deadline}");
                    }
                }
                now = until;
                for deadline in open.values() {
                    prop_assert!(deadline + 2 * WHEEL_TICK_MS > now, "{deadline} was missed at {now}");
                }
            }
        }
    }
}
