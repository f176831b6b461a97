//! What a shard has to say: replies, notices, monitoring events and counts, until the caller takes them.

use std::collections::VecDeque;

use crate::limits::MONITOR_EVENT_COUNT_MAX;
use crate::monitor::{Counters, MonitorEvent};
use crate::request::{Appended, Caller, ConnectionId, EngineError, Notice, Reply};

/// Filled by the partitions of a shard, emptied by the shard's caller. Its replies and notices are bounded by what the
/// callers have open; monitoring events by a limit of their own.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Answers to appends, in the order in which they were given: apart from the others, because they are small and there is one
    /// for every event.
    pub appended: VecDeque<(ConnectionId, Appended)>,
    /// Other answers, in the order in which they were given.
    pub replies: VecDeque<(Caller, Reply)>,
    /// What connections learn unasked.
    pub notices: VecDeque<(ConnectionId, Notice)>,
    monitor_events: VecDeque<MonitorEvent>,
    /// What was counted.
    pub counters: Counters,
}

impl Outbox {
    /// Answer a request.
    pub fn reply(&mut self, caller: Caller, reply: Reply) {
        self.replies.push_back((caller, reply));
    }

    /// Answer an append.
    pub fn appended(&mut self, connection: ConnectionId, appended: Appended) {
        self.appended.push_back((connection, appended));
    }

    /// Refuse a request.
    pub fn fail(&mut self, caller: Caller, error: EngineError) {
        self.reply(caller, Reply::Failed(error));
    }

    /// Tell a connection something.
    pub fn notify(&mut self, connection: ConnectionId, notice: Notice) {
        self.notices.push_back((connection, notice));
    }

    /// Leave a monitoring event; beyond the limit it is only counted.
    pub fn monitor(&mut self, event: MonitorEvent) {
        match self.monitor_events.len() < MONITOR_EVENT_COUNT_MAX {
            true => self.monitor_events.push_back(event),
            false => self.counters.monitor_events_dropped += 1,
        }
    }

    /// Take the oldest monitoring event.
    pub fn poll_monitor(&mut self) -> Option<MonitorEvent> {
        self.monitor_events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PartitionId;

    #[test]
    fn monitoring_events_that_nobody_takes_are_counted() {
        let mut outbox = Outbox::default();
        let event = |at_ms| MonitorEvent::EventsRetired { at_ms, partition: PartitionId(0), first: 0 };
        for number in 0..MONITOR_EVENT_COUNT_MAX as u64 + 3 {
            outbox.monitor(event(number));
        }
        assert_eq!(outbox.counters.monitor_events_dropped, 3);
        assert_eq!(outbox.poll_monitor(), Some(event(0)));
        outbox.monitor(event(9));
        assert_eq!(outbox.counters.monitor_events_dropped, 3);
    }
}
