//! Appends of other cores that found no room in their partition: kept in their order and asked again until there is some.
//!
//! What waits here still counts as lying in the mailbox that it came by, so that its bytes keep the bound of the mailbox and
//! the sender's core stops reading from those who send. An append waits for the disk alone, which either takes what is before
//! it or fails, and then nothing is busy any more.

use std::collections::VecDeque;

use engine::door::Busy;
use engine::request::{AppendBlock, AppendView, Caller, CoreId, EventBlock};

use crate::mailbox::Mailboxes;

/// What waits on one core, by the core that it came from.
pub(crate) struct Deferred {
    target: CoreId,
    queues: Vec<VecDeque<(Caller, AppendBlock)>>,
}

impl Deferred {
    pub(crate) fn new(target: CoreId, core_count: u16) -> Self {
        Self { target, queues: (0..core_count).map(|_| VecDeque::new()).collect() }
    }

    /// Whether anything of `source` waits: then what comes behind it has to wait too.
    pub(crate) fn holds(&self, source: CoreId) -> bool {
        !self.queues[usize::from(source.0)].is_empty()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// Keep an append of `source`.
    pub(crate) fn keep(
        &mut self,
        mailboxes: &Mailboxes,
        source: CoreId,
        caller: Caller,
        append: AppendView<'_>,
    ) {
        let block = own(append);
        mailboxes.charge_bytes(source, self.target, block.events.bytes.len());
        self.queues[usize::from(source.0)].push_back((caller, block));
    }

    /// Ask again, oldest first, until one of each source is refused. Whether any was taken.
    pub(crate) fn retry(
        &mut self,
        mailboxes: &Mailboxes,
        mut append: impl FnMut(Caller, AppendView<'_>) -> Result<(), Busy>,
    ) -> bool {
        let mut was_taken = false;
        for (source, queue) in (0..).map(CoreId).zip(&mut self.queues) {
            while let Some((caller, block)) = queue.front() {
                if append(*caller, AppendView { session: block.session, events: &block.events.views() })
                    .is_err()
                {
                    break;
                }
                mailboxes.release_bytes(source, self.target, block.events.bytes.len());
                queue.pop_front();
                was_taken = true;
            }
        }
        was_taken
    }
}

fn own(append: AppendView<'_>) -> AppendBlock {
    let mut events = EventBlock::default();
    append.events.iter().for_each(|event| events.push(event));
    AppendBlock { session: append.session, events }
}

#[cfg(test)]
mod tests {
    use engine::request::{ConnectionId, EventView, PartitionId, SessionId};

    use super::*;

    fn caller(token: u64) -> Caller {
        Caller { connection: ConnectionId { core: CoreId(1), slot: 1, generation: 2 }, token }
    }

    #[test]
    fn what_found_no_room_goes_in_order_and_stays_charged_until_then() {
        let mailboxes = Mailboxes::new(2);
        let mut deferred = Deferred::new(CoreId(0), 2);
        let session = SessionId { partition: PartitionId(0), slot: 0, generation: 0 };
        for token in 0..3_u64 {
            let message = [token as u8; 10];
            let event = EventView { message: &message, annotations: b"xy", annotation_value_count: 2 };
            deferred.keep(&mailboxes, CoreId(1), caller(token), AppendView { session, events: &[event] });
        }
        assert!(deferred.holds(CoreId(1)) && !deferred.holds(CoreId(0)));
        assert_eq!(mailboxes.bytes(CoreId(1), CoreId(0)), 36);
        let mut taken = Vec::new();
        let room_for = |count: usize, taken: &mut Vec<u64>, deferred: &mut Deferred| {
            deferred.retry(&mailboxes, |caller, append| {
                if taken.len() == count {
                    return Err(Busy);
                }
                assert_eq!(
                    (append.events[0].message[0], append.events[0].annotations),
                    (caller.token as u8, &b"xy"[..])
                );
                taken.push(caller.token);
                Ok(())
            })
        };
        assert!(!room_for(0, &mut taken, &mut deferred));
        assert!(room_for(2, &mut taken, &mut deferred));
        assert_eq!(mailboxes.bytes(CoreId(1), CoreId(0)), 12);
        assert!(room_for(9, &mut taken, &mut deferred) && deferred.is_empty());
        assert_eq!((taken, mailboxes.bytes(CoreId(1), CoreId(0))), (vec![0, 1, 2], 0));
    }
}
