//! Events that a reader with the capability `corehub:checkpoint` has not settled yet, and how far its checkpoint may go.
//!
//! The checkpoint follows the highest event below which all are accepted. An event that is released or rejected holds it
//! for the life of the link. An acceptance is settled towards the reader only once the checkpoint that covers it is durable;
//! behind a held event no checkpoint will ever cover it, so it is settled at once.

use std::collections::VecDeque;

/// What the reader said of an event, to be repeated in the settled disposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It needs no more reading.
    Accepted,
    /// Not processed (released or modified): it stays to be read again.
    Released,
    /// Cannot be processed: it holds the checkpoint as well.
    Rejected,
}

/// A delivery to be settled towards the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The delivery.
    pub delivery_id: u32,
    /// What the reader said.
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    delivery_id: u32,
    sequence: u64,
    accepted: bool,
    settled_by_reader: bool,
}

/// The open events of one link, in the order of their sequence numbers.
#[derive(Debug)]
pub struct CheckpointWindow {
    entries: VecDeque<Entry>,
    /// Entries at the front that are accepted and wait for their checkpoint to be durable.
    accepted_count: usize,
    /// The lowest event that was not accepted.
    held: Option<u64>,
    /// The checkpoint that is being written.
    writing: Option<u64>,
    settlements: VecDeque<Settlement>,
    entry_count_max: usize,
}

impl CheckpointWindow {
    /// An empty window for at most `entry_count_max` open events.
    pub fn new(entry_count_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            accepted_count: 0,
            held: None,
            writing: None,
            settlements: VecDeque::new(),
            entry_count_max,
        }
    }

    /// How many more events may be sent.
    pub fn room(&self) -> usize {
        self.entry_count_max.saturating_sub(self.entries.len())
    }

    /// An event went out, unsettled. Sequence numbers rise.
    pub fn handle_sent(&mut self, delivery_id: u32, sequence: u64) {
        debug_assert!(self.entries.back().is_none_or(|last| last.sequence < sequence));
        self.entries.push_back(Entry { delivery_id, sequence, accepted: false, settled_by_reader: false });
    }

    /// The reader gave its verdict on the deliveries `first` to `last`; the ids may wrap. Unknown ones are ignored.
    pub fn handle_verdicts(&mut self, first: u32, last: u32, verdict: Verdict, settled_by_reader: bool) {
        let length = last.wrapping_sub(first);
        let ids: Vec<u32> = self
            .entries
            .iter()
            .map(|entry| entry.delivery_id)
            .filter(|id| id.wrapping_sub(first) <= length)
            .collect();
        for id in ids {
            self.handle_verdict(id, verdict, settled_by_reader);
        }
    }

    fn handle_verdict(&mut self, delivery_id: u32, verdict: Verdict, settled_by_reader: bool) {
        let Some(index) = self.find(delivery_id) else { return };
        let entry = &mut self.entries[index];
        if entry.accepted {
            entry.settled_by_reader |= settled_by_reader;
            return;
        }
        entry.settled_by_reader = settled_by_reader;
        let sequence = entry.sequence;
        if verdict == Verdict::Accepted && self.held.is_none_or(|held| sequence < held) {
            entry.accepted = true;
            self.extend_accepted();
            return;
        }
        self.entries.remove(index);
        if !settled_by_reader {
            self.settlements.push_back(Settlement { delivery_id, verdict });
        }
        if verdict != Verdict::Accepted && self.held.is_none_or(|held| sequence < held) {
            self.held = Some(sequence);
            self.settle_behind(sequence);
        }
    }

    /// The checkpoint to write next, if one is due and none is being written.
    pub fn poll_checkpoint(&mut self) -> Option<u64> {
        if self.writing.is_some() || self.accepted_count == 0 {
            return None;
        }
        let number = self.entries[self.accepted_count - 1].sequence;
        self.writing = Some(number);
        Some(number)
    }

    /// The checkpoint of the last [`poll_checkpoint`](Self::poll_checkpoint) is durable.
    pub fn handle_durable(&mut self) {
        let Some(number) = self.writing.take() else { return };
        while self.entries.front().is_some_and(|entry| entry.sequence <= number) {
            let Some(entry) = self.entries.pop_front() else { break };
            self.accepted_count -= 1;
            if !entry.settled_by_reader {
                self.settlements
                    .push_back(Settlement { delivery_id: entry.delivery_id, verdict: Verdict::Accepted });
            }
        }
    }

    /// The checkpoint of the last [`poll_checkpoint`](Self::poll_checkpoint) could not be asked for: ask again later.
    pub fn handle_not_asked(&mut self) {
        self.writing = None;
    }

    /// Whether a checkpoint is being written.
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Deliveries to settle now.
    pub fn poll_settlement(&mut self) -> Option<Settlement> {
        self.settlements.pop_front()
    }

    /// Delivery ids rise with the entries, by serial number arithmetic [RFC 1982].
    fn find(&self, delivery_id: u32) -> Option<usize> {
        let first = self.entries.front()?.delivery_id;
        let distance = delivery_id.wrapping_sub(first);
        self.entries.binary_search_by_key(&distance, |entry| entry.delivery_id.wrapping_sub(first)).ok()
    }

    fn extend_accepted(&mut self) {
        while self.entries.get(self.accepted_count).is_some_and(|entry| entry.accepted) {
            self.accepted_count += 1;
        }
    }

    /// Nothing behind `held` will be covered by a checkpoint: what is accepted there is settled.
    fn settle_behind(&mut self, held: u64) {
        let settlements = &mut self.settlements;
        self.entries.retain(|entry| {
            let done = entry.accepted && entry.sequence > held;
            if done && !entry.settled_by_reader {
                settlements
                    .push_back(Settlement { delivery_id: entry.delivery_id, verdict: Verdict::Accepted });
            }
            !done
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(count: u64) -> CheckpointWindow {
        let mut window = CheckpointWindow::new(8);
        for number in 0..count {
            window.handle_sent(u32::MAX.wrapping_add(number as u32), 100 + number);
        }
        window
    }

    fn id(number: u32) -> u32 {
        u32::MAX.wrapping_add(number)
    }

    fn settled(window: &mut CheckpointWindow) -> Vec<(u32, Verdict)> {
        std::iter::from_fn(|| window.poll_settlement()).map(|s| (s.delivery_id, s.verdict)).collect()
    }

    #[test]
    fn the_checkpoint_waits_for_the_gap_and_the_settlement_for_the_checkpoint() {
        let mut window = window(4);
        window.handle_verdict(id(1), Verdict::Accepted, false);
        assert_eq!(window.poll_checkpoint(), None);
        window.handle_verdict(id(0), Verdict::Accepted, false);
        assert_eq!(window.poll_checkpoint(), Some(101));
        window.handle_verdict(id(2), Verdict::Accepted, true);
        assert_eq!(window.poll_checkpoint(), None, "one is being written");
        assert_eq!(settled(&mut window), []);
        window.handle_durable();
        assert_eq!(settled(&mut window), [(id(0), Verdict::Accepted), (id(1), Verdict::Accepted)]);
        assert_eq!(window.poll_checkpoint(), Some(102));
        window.handle_durable();
        assert_eq!(settled(&mut window), [], "the reader settled it itself");
        assert_eq!(window.room(), 7);
    }

    #[test]
    fn an_event_that_is_not_accepted_holds_the_checkpoint() {
        let mut window = window(4);
        window.handle_verdict(id(2), Verdict::Accepted, false);
        window.handle_verdict(id(1), Verdict::Released, false);
        assert_eq!(
            settled(&mut window),
            [(id(1), Verdict::Released), (id(2), Verdict::Accepted)],
            "no checkpoint will cover what lies behind"
        );
        window.handle_verdict(id(3), Verdict::Accepted, false);
        assert_eq!(settled(&mut window), [(id(3), Verdict::Accepted)]);
        window.handle_verdict(id(0), Verdict::Accepted, false);
        assert_eq!(window.poll_checkpoint(), Some(100));
        window.handle_durable();
        assert_eq!(settled(&mut window), [(id(0), Verdict::Accepted)]);
        assert_eq!(window.poll_checkpoint(), None);
        assert_eq!(window.room(), 8);
        window.handle_verdict(id(0), Verdict::Accepted, false);
        assert_eq!(settled(&mut window), []);
    }

    #[test]
    fn a_refused_write_is_asked_again() {
        let mut window = window(1);
        window.handle_verdict(id(0), Verdict::Accepted, false);
        assert_eq!(window.poll_checkpoint(), Some(100));
        window.handle_not_asked();
        assert_eq!(window.poll_checkpoint(), Some(100));
    }
}
