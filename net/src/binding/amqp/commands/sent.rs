//! What a link has sent under a lock and what its peer says of it, until the engine has kept that.

use std::collections::VecDeque;

use engine::request::{LockToken, ReceiverId, Settlement};
use net_amqp::DeliveryState;

/// What the peer said of a delivery, to be repeated in the settled disposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done with.
    Accepted,
    /// Not dealt with: it is to come again.
    Released,
    /// The same, in other words.
    Modified,
    /// It cannot be dealt with.
    Rejected,
}

impl Verdict {
    /// What a disposition says. None: it is no outcome yet.
    pub fn of(state: Option<&DeliveryState<'_>>, settled: bool) -> Option<Self> {
        match state {
            Some(DeliveryState::Accepted) => Some(Self::Accepted),
            Some(DeliveryState::Rejected(_)) => Some(Self::Rejected),
            Some(DeliveryState::Modified { .. }) => Some(Self::Modified),
            Some(DeliveryState::Released) => Some(Self::Released),
            // Settled without an outcome: it was not dealt with.
            _ => settled.then_some(Self::Released),
        }
    }

    /// What it means for the lock [IoT Hub: iot-hub-devguide-messages-c2d].
    pub fn settlement(self) -> Settlement {
        match self {
            Self::Accepted => Settlement::Complete,
            Self::Released | Self::Modified => Settlement::Abandon,
            Self::Rejected => Settlement::Reject,
        }
    }

    /// What the settled disposition says.
    pub fn state(self) -> DeliveryState<'static> {
        match self {
            Self::Accepted => DeliveryState::Accepted,
            Self::Released => DeliveryState::Released,
            Self::Modified => DeliveryState::Modified {
                delivery_failed: true,
                undeliverable_here: false,
                annotations: None,
            },
            Self::Rejected => DeliveryState::Rejected(None),
        }
    }
}

/// A lock and how it is to be settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The delivery that it was sent as.
    pub delivery_id: u32,
    /// Who holds the lock.
    pub receiver: ReceiverId,
    /// The lock.
    pub token: LockToken,
    /// How.
    pub settlement: Settlement,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    delivery_id: u32,
    receiver: ReceiverId,
    token: LockToken,
    sent_ms: u64,
    verdict: Option<Verdict>,
    is_asked: bool,
    settled_by_peer: bool,
}

/// The deliveries of one link that are not settled yet, in the order of their ids.
#[derive(Debug)]
pub struct Sent {
    entries: VecDeque<Entry>,
    /// Deliveries with a verdict that the engine has not been asked to keep.
    due: VecDeque<u32>,
    asked_count: usize,
    entry_count_max: usize,
}

impl Sent {
    /// Nothing sent, and at most `entry_count_max` at a time.
    pub fn new(entry_count_max: usize) -> Self {
        Self { entries: VecDeque::new(), due: VecDeque::new(), asked_count: 0, entry_count_max }
    }

    /// How many more may be sent.
    pub fn room(&self) -> usize {
        self.entry_count_max.saturating_sub(self.entries.len())
    }

    /// A delivery went out.
    pub fn push(&mut self, delivery_id: u32, receiver: ReceiverId, token: LockToken, sent_ms: u64) {
        self.entries.push_back(Entry {
            delivery_id,
            receiver,
            token,
            sent_ms,
            verdict: None,
            is_asked: false,
            settled_by_peer: false,
        });
    }

    /// The peer's verdict on the deliveries `first` to `last`; the ids may wrap. The first one counts, unknown ids do not.
    pub fn decide(&mut self, first: u32, last: u32, verdict: Option<Verdict>, settled_by_peer: bool) {
        let length = last.wrapping_sub(first);
        for entry in &mut self.entries {
            if entry.delivery_id.wrapping_sub(first) > length {
                continue;
            }
            entry.settled_by_peer |= settled_by_peer;
            if entry.verdict.is_none() && verdict.is_some() {
                entry.verdict = verdict;
                self.due.push_back(entry.delivery_id);
            }
        }
    }

    /// The next lock to settle. It counts as asked for.
    pub fn poll_due(&mut self) -> Option<Due> {
        loop {
            let delivery_id = self.due.pop_front()?;
            let Some(entry) = self.find(delivery_id) else { continue };
            let (receiver, token) = (entry.receiver, entry.token);
            let Some(verdict) = entry.verdict else { continue };
            entry.is_asked = true;
            self.asked_count += 1;
            return Some(Due { delivery_id, receiver, token, settlement: verdict.settlement() });
        }
    }

    /// The engine was full: the lock is due again.
    pub fn handle_not_asked(&mut self, delivery_id: u32) {
        let Some(entry) = self.find(delivery_id) else { return };
        if std::mem::take(&mut entry.is_asked) {
            self.asked_count -= 1;
            self.due.push_front(delivery_id);
        }
    }

    /// The engine has answered: the delivery leaves. What the peer said, unless it has settled already and hears no more.
    pub fn take_answered(&mut self, delivery_id: u32) -> Option<Verdict> {
        let index = self.index(delivery_id)?;
        let entry = self.entries.remove(index)?;
        self.asked_count -= usize::from(entry.is_asked);
        entry.verdict.filter(|_| !entry.settled_by_peer)
    }

    /// A full link's oldest delivery, if its lock must have ended long ago: sent before `before_ms`, and without a
    /// verdict. It leaves.
    pub fn take_lapsed(&mut self, before_ms: u64) -> Option<u32> {
        let is_lapsed = |entry: &&Entry| entry.sent_ms < before_ms && entry.verdict.is_none();
        let entry = self.entries.front().filter(is_lapsed)?;
        let delivery_id = entry.delivery_id;
        self.entries.pop_front();
        Some(delivery_id)
    }

    /// Whether a settlement waits for its answer or to be asked for.
    pub fn is_settling(&self) -> bool {
        self.asked_count > 0 || !self.due.is_empty()
    }

    fn find(&mut self, delivery_id: u32) -> Option<&mut Entry> {
        let index = self.index(delivery_id)?;
        self.entries.get_mut(index)
    }

    /// Delivery ids rise with the entries, by serial number arithmetic [RFC 1982].
    fn index(&self, delivery_id: u32) -> Option<usize> {
        let first = self.entries.front()?.delivery_id;
        let distance = delivery_id.wrapping_sub(first);
        self.entries.binary_search_by_key(&distance, |entry| entry.delivery_id.wrapping_sub(first)).ok()
    }
}
