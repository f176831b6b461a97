//! Who waits for commands and receipts: the receivers of one partition and what they ask for.

use std::collections::VecDeque;

use registry::DeviceId;

use crate::request::{Caller, ConnectionId, EngineError, PartitionId, ReceiverId, SessionId};
use crate::slots::{SlotKey, Slots};

/// A receiver.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    /// Whose it is; no other may ask or settle with it.
    pub connection: ConnectionId,
    /// What it receives.
    pub source: Source,
    /// The request that waits.
    pub waiting: Option<WaitingReceive>,
    is_queued: bool,
}

/// What a receiver receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The commands of a session's device.
    Commands {
        /// The session; the receiver ends with it.
        session: SessionId,
        /// Its device.
        device: DeviceId,
    },
    /// The partition's receipts.
    Receipts,
}

/// A request without an answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitingReceive {
    /// Whom to answer.
    pub caller: Caller,
    /// Most messages.
    pub count_max: u32,
}

/// The receivers of one partition. Each has one waiting request at most.
#[derive(Debug)]
pub(crate) struct Receivers {
    partition: PartitionId,
    slots: Slots<Receiver, ()>,
    /// To be looked at in this turn, each once.
    ready: VecDeque<SlotKey>,
    /// Those that receive receipts.
    of_receipts: Vec<SlotKey>,
    of_receipts_max: usize,
    /// Those of them that wait, in the order of asking.
    waiting_for_receipts: VecDeque<SlotKey>,
}

impl Receivers {
    /// None yet, and at most so many: `receipt_receiver_count_max` for receipts, and one for each session.
    pub fn new(partition: PartitionId, session_count_max: u32, receipt_receiver_count_max: u32) -> Self {
        Self {
            partition,
            slots: Slots::new(session_count_max.saturating_add(receipt_receiver_count_max)),
            ready: VecDeque::new(),
            of_receipts: Vec::new(),
            of_receipts_max: receipt_receiver_count_max as usize,
            waiting_for_receipts: VecDeque::new(),
        }
    }

    /// Put a receiver in. None: the table is full.
    pub fn open(&mut self, connection: ConnectionId, source: Source) -> Option<ReceiverId> {
        let for_receipts = source == Source::Receipts;
        if for_receipts && self.of_receipts.len() >= self.of_receipts_max {
            return None;
        }
        let receiver = Receiver { connection, source, waiting: None, is_queued: false };
        let key = self.slots.insert(receiver).ok()?;
        if for_receipts {
            self.of_receipts.push(key);
        }
        Some(self.id(key))
    }

    /// A receiver that lives.
    pub fn find(&self, key: SlotKey) -> Option<&Receiver> {
        self.slots.find(key)
    }

    /// A receiver that lives and is this connection's.
    pub fn owned(&self, id: ReceiverId, connection: ConnectionId) -> Option<(SlotKey, &Receiver)> {
        let key = key(id);
        let receiver = self.slots.find(key).filter(|receiver| receiver.connection == connection)?;
        Some((key, receiver))
    }

    /// Take a request; it is answered when the receiver's turn comes.
    ///
    /// # Errors
    ///
    /// [`EngineError::ReceiverEnded`]; [`EngineError::Busy`] when one waits already.
    pub fn ask(&mut self, caller: Caller, id: ReceiverId, count_max: u32) -> Result<(), EngineError> {
        let (key, receiver) = self.owned(id, caller.connection).ok_or(EngineError::ReceiverEnded)?;
        if receiver.waiting.is_some() {
            return Err(EngineError::Busy);
        }
        let for_receipts = receiver.source == Source::Receipts;
        if let Some(receiver) = self.slots.find_mut(key) {
            receiver.waiting = Some(WaitingReceive { caller, count_max });
        }
        if for_receipts {
            // Nobody is served before those who asked earlier, should there be something in this very turn.
            self.wait_for_receipts(key);
            self.wake_for_receipts();
        } else {
            self.make_ready(key);
        }
        Ok(())
    }

    /// Take the request that waits away, because it is answered.
    pub fn take_waiting(&mut self, key: SlotKey) -> Option<WaitingReceive> {
        let receiver = self.slots.find_mut(key)?;
        let waiting = receiver.waiting.take();
        if receiver.source == Source::Receipts {
            self.waiting_for_receipts.retain(|other| *other != key);
        }
        waiting
    }

    /// Take a receiver out, with what it left open.
    pub fn end(&mut self, key: SlotKey) -> Option<Receiver> {
        let receiver = self.slots.remove(key, ())?;
        if receiver.source == Source::Receipts {
            self.of_receipts.retain(|other| *other != key);
            self.waiting_for_receipts.retain(|other| *other != key);
        }
        Some(receiver)
    }

    /// Look at a receiver in this turn, if it waits.
    pub fn make_ready(&mut self, key: SlotKey) {
        if let Some(receiver) = self.slots.find_mut(key)
            && receiver.waiting.is_some()
            && !receiver.is_queued
        {
            receiver.is_queued = true;
            self.ready.push_back(key);
        }
    }

    /// Look at everybody who waits for receipts, in the order of asking.
    pub fn wake_for_receipts(&mut self) {
        for key in std::mem::take(&mut self.waiting_for_receipts) {
            self.make_ready(key);
        }
    }

    /// There was nothing for a receiver of receipts: it waits on.
    pub fn wait_for_receipts(&mut self, key: SlotKey) {
        self.waiting_for_receipts.push_back(key);
    }

    /// The next receiver to look at.
    pub fn next_ready(&mut self) -> Option<SlotKey> {
        let key = self.ready.pop_front()?;
        if let Some(receiver) = self.slots.find_mut(key) {
            receiver.is_queued = false;
        }
        Some(key)
    }

    /// The receivers of receipts of a connection; those of commands go with their sessions.
    pub fn of_connection(&self, connection: ConnectionId) -> Vec<SlotKey> {
        let of_connection =
            |key: &SlotKey| self.slots.find(*key).is_some_and(|receiver| receiver.connection == connection);
        self.of_receipts.iter().copied().filter(of_connection).collect()
    }

    /// Those that have a request waiting, for the end of everything.
    pub fn all_waiting(&self) -> Vec<SlotKey> {
        let waiting = self.slots.iter().filter(|(_, receiver)| receiver.waiting.is_some());
        waiting.map(|(key, _)| key).collect()
    }

    /// The id that names a receiver outside.
    pub fn id(&self, key: SlotKey) -> ReceiverId {
        ReceiverId { partition: self.partition, slot: key.slot, generation: key.generation }
    }
}

fn key(id: ReceiverId) -> SlotKey {
    SlotKey { slot: id.slot, generation: id.generation }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::CoreId;

    fn caller(slot: u32) -> Caller {
        Caller { connection: ConnectionId { core: CoreId(0), slot, generation: 0 }, token: 0 }
    }

    #[test]
    fn receivers_of_receipts_are_served_in_the_order_of_asking() {
        let mut receivers = Receivers::new(PartitionId(0), 0, 2);
        let first = receivers.open(caller(1).connection, Source::Receipts).unwrap();
        let second = receivers.open(caller(2).connection, Source::Receipts).unwrap();
        assert_eq!(receivers.open(caller(3).connection, Source::Receipts), None, "there is a limit");
        assert_eq!(receivers.ask(caller(2), first, 1), Err(EngineError::ReceiverEnded), "not its own");
        receivers.ask(caller(2), second, 1).unwrap();
        receivers.ask(caller(1), first, 1).unwrap();
        assert_eq!(receivers.ask(caller(1), first, 1), Err(EngineError::Busy), "one at a time");
        let order = [second, first].map(key);
        assert_eq!([receivers.next_ready(), receivers.next_ready()], order.map(Some));
        order.iter().for_each(|key| receivers.wait_for_receipts(*key));
        assert!(receivers.take_waiting(order[0]).is_some());
        receivers.wake_for_receipts();
        assert_eq!([receivers.next_ready(), receivers.next_ready()], [Some(order[1]), None]);
        receivers.end(order[1]).unwrap();
        assert_eq!(receivers.of_connection(caller(1).connection), []);
        assert!(receivers.open(caller(3).connection, Source::Receipts).is_some());
        assert_eq!(receivers.ask(caller(1), first, 1), Err(EngineError::ReceiverEnded));
    }
}
