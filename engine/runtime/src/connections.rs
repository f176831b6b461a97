//! The connections of a core: an inbox each for replies and notices, one deadline each, and what each may still ask.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use engine::door::Busy;
use engine::request::{Appended, Caller, ConnectionId, CoreId, Notice, Reply};

use crate::core::Core;
use crate::limits::CONNECTION_OUTSTANDING_MAX;
use crate::wheel::Wheel;

/// The core's table of connections. Clones are the same table; it stays on its core.
#[derive(Clone)]
pub struct Connections(pub(crate) Rc<Core>);

/// The core has as many connections as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the core has {connection_count_max} connections already")]
pub struct ConnectionsFull {
    /// The limit.
    pub connection_count_max: u32,
}

impl Connections {
    /// Enter a new connection.
    ///
    /// # Errors
    ///
    /// [`ConnectionsFull`]: refuse it, and try again once others have gone.
    pub fn register(&self) -> Result<ConnectionHandle, ConnectionsFull> {
        let id = self.0.connections.borrow_mut().register()?;
        Ok(ConnectionHandle { id, core: Rc::clone(&self.0) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.connections.borrow().live_count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What comes to a connection.
#[derive(Debug)]
pub enum Delivery {
    /// Appends are durable: the answers to all of them since the last time, in the order in which they came.
    Appended(Vec<Appended>),
    /// The answer to another request, or a failed append's.
    Reply {
        /// The caller's mark, from [`Caller::token`].
        token: u64,
        /// The answer.
        reply: Reply,
    },
    /// News.
    Notice(Notice),
    /// The deadline of [`ConnectionHandle::set_deadline`] has come; it is told once.
    Deadline,
    /// The hub stops: end the connection. Told once.
    Stopping,
}

/// One connection's entry. Dropping it ends the connection's sessions and readers on every core; answers that are still on
/// their way are thrown away.
pub struct ConnectionHandle {
    id: ConnectionId,
    core: Rc<Core>,
}

impl ConnectionHandle {
    /// The connection's name for the engine.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Take what has come, if anything has: answers and notices in their order, then the deadline, then the stop.
    pub fn try_next(&self) -> Option<Delivery> {
        self.core.connections.borrow_mut().take(self.id)
    }

    /// As [`try_next`](Self::try_next); when nothing has come, the waker is called once something has. Only the last waker
    /// is kept, and it is kept: the same task need not poll again to be woken again.
    pub fn poll_delivery(&self, context: &Context<'_>) -> Poll<Delivery> {
        let mut table = self.core.connections.borrow_mut();
        match table.take(self.id) {
            Some(delivery) => Poll::Ready(delivery),
            None => {
                table.keep_waker(self.id, context.waker());
                Poll::Pending
            }
        }
    }

    /// Wait for the next delivery. Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Delivery {
        poll_fn(|context| self.poll_delivery(context)).await
    }

    /// Ask for [`Delivery::Deadline`] at `mono_ms` of the core's clock, in place of what was asked before; none: not at
    /// all. It comes up to 64 ms late and never early. Moving it later costs nothing.
    pub fn set_deadline(&self, mono_ms: Option<u64>) {
        if self.core.connections.borrow_mut().set_deadline(self.id, mono_ms) {
            self.core.ring();
        }
    }

    /// How many requests have no answer yet. At 16384 the door answers
    /// [`Busy`](engine::door::Busy).
    pub fn outstanding(&self) -> u32 {
        self.core.connections.borrow_mut().live(self.id).map_or(0, |live| live.outstanding_count)
    }
}

impl Drop for ConnectionHandle {
    fn drop(&mut self) {
        self.core.close_connection(self.id);
    }
}

/// The table itself. It knows neither tasks nor other cores.
pub(crate) struct ConnectionTable {
    core: CoreId,
    core_count: u16,
    connection_count_max: u32,
    slots: Vec<Slot>,
    free: Vec<u32>,
    live_count: u32,
    stopping: bool,
    wheel: Wheel<(u32, u32)>,
    due: Vec<(u32, u32)>,
    /// When the core's loop looks at the wheel next, as it said last.
    armed_ms: u64,
}

struct Slot {
    generation: u32,
    live: Option<Box<Live>>,
}

struct Live {
    appended: Vec<Appended>,
    inbox: VecDeque<Delivery>,
    waker: Option<Waker>,
    deadline_ms: Option<u64>,
    /// The earliest of the connection's entries in the wheel; none: it has none that matters.
    wheel_ms: Option<u64>,
    deadline_due: bool,
    stop_due: bool,
    outstanding_count: u32,
    /// By core.
    ways: Box<[Way]>,
}

/// One connection's dealings with one core's shard.
#[derive(Clone, Default)]
struct Way {
    outstanding_count: u32,
    /// Whether anything was ever asked there, so that its shard is told of the connection's end.
    used: bool,
}

/// What a connection leaves behind at a core that it has asked something.
pub(crate) struct Leaving {
    pub(crate) core: CoreId,
    /// Answers that nobody waits for any more.
    pub(crate) outstanding_count: u32,
}

impl ConnectionTable {
    pub(crate) fn new(core: CoreId, core_count: u16, connection_count_max: u32, mono_ms: u64) -> Self {
        Self {
            core,
            core_count,
            connection_count_max,
            slots: Vec::new(),
            free: Vec::new(),
            live_count: 0,
            stopping: false,
            wheel: Wheel::new(mono_ms),
            due: Vec::new(),
            armed_ms: u64::MAX,
        }
    }

    fn register(&mut self) -> Result<ConnectionId, ConnectionsFull> {
        if self.live_count >= self.connection_count_max {
            return Err(ConnectionsFull { connection_count_max: self.connection_count_max });
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, live: None });
            u32::try_from(self.slots.len() - 1).expect("connection_count_max is 32 bits wide")
        });
        let slot = &mut self.slots[index as usize];
        slot.live = Some(Box::new(Live {
            appended: Vec::new(),
            inbox: VecDeque::new(),
            waker: None,
            deadline_ms: None,
            wheel_ms: None,
            deadline_due: false,
            stop_due: self.stopping,
            outstanding_count: 0,
            ways: vec![Way::default(); usize::from(self.core_count)].into_boxed_slice(),
        }));
        self.live_count += 1;
        Ok(ConnectionId { core: self.core, slot: index, generation: slot.generation })
    }

    fn live(&mut self, id: ConnectionId) -> Option<&mut Live> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation && id.core == self.core { slot.live.as_deref_mut() } else { None }
    }

    pub(crate) fn live_count(&self) -> u32 {
        self.live_count
    }

    /// Note a request to a shard. `answered`: a place in the inbox is taken for its answer.
    pub(crate) fn charge(&mut self, id: ConnectionId, target: CoreId, answered: bool) -> Result<(), Busy> {
        let live = self.live(id).ok_or(Busy)?;
        if answered && live.outstanding_count >= CONNECTION_OUTSTANDING_MAX {
            return Err(Busy);
        }
        let way = &mut live.ways[usize::from(target.0)];
        way.used = true;
        if answered {
            way.outstanding_count += 1;
            live.outstanding_count += 1;
        }
        Ok(())
    }

    /// Take back what [`charge`](Self::charge) took: the request was not sent, or its answer is here. False: the connection
    /// has gone, and with it all its places.
    pub(crate) fn release(&mut self, id: ConnectionId, target: CoreId) -> bool {
        self.live(id).is_some_and(|live| live.release(target))
    }

    /// Bring the answer to its connection. True: the place that it had with `source` is free again.
    pub(crate) fn deliver_reply(&mut self, source: CoreId, caller: Caller, reply: Reply) -> bool {
        let Caller { connection, token } = caller;
        if let Reply::Appended { first, event_count } = reply {
            return self.deliver_appended(source, connection, Appended { token, first, event_count });
        }
        let Some(live) = self.live(connection) else { return false };
        let released = live.release(source);
        live.inbox.push_back(Delivery::Reply { token, reply });
        live.wake();
        released
    }

    /// As [`deliver_reply`](Self::deliver_reply), for the answer to an append.
    pub(crate) fn deliver_appended(&mut self, source: CoreId, id: ConnectionId, appended: Appended) -> bool {
        let Some(live) = self.live(id) else { return false };
        live.appended.push(appended);
        // The first one wakes the connection; until it has looked, the others need not.
        if live.appended.len() == 1 {
            live.wake();
        }
        live.release(source)
    }

    /// Bring news to their connection, if it still exists.
    pub(crate) fn deliver(&mut self, id: ConnectionId, delivery: Delivery) {
        if let Some(live) = self.live(id) {
            live.inbox.push_back(delivery);
            live.wake();
        }
    }

    fn take(&mut self, id: ConnectionId) -> Option<Delivery> {
        let live = self.live(id)?;
        if !live.appended.is_empty() {
            return Some(Delivery::Appended(std::mem::take(&mut live.appended)));
        }
        if let Some(delivery) = live.inbox.pop_front() {
            return Some(delivery);
        }
        // An idle connection keeps no memory of its busy times.
        if live.inbox.capacity() > 0 {
            live.inbox = VecDeque::new();
        }
        if std::mem::take(&mut live.deadline_due) {
            return Some(Delivery::Deadline);
        }
        std::mem::take(&mut live.stop_due).then_some(Delivery::Stopping)
    }

    fn keep_waker(&mut self, id: ConnectionId, waker: &Waker) {
        if let Some(live) = self.live(id) {
            match &mut live.waker {
                Some(kept) => kept.clone_from(waker),
                none => *none = Some(waker.clone()),
            }
        }
    }

    /// True: the core's loop would look too late, wake it.
    fn set_deadline(&mut self, id: ConnectionId, mono_ms: Option<u64>) -> bool {
        let Some(live) = self.live(id) else { return false };
        live.deadline_ms = mono_ms;
        live.deadline_due = false;
        let Some(deadline_ms) = mono_ms else { return false };
        if live.wheel_ms.is_some_and(|wheel_ms| wheel_ms <= deadline_ms) {
            return false;
        }
        live.wheel_ms = Some(deadline_ms);
        self.wheel.insert(deadline_ms, (id.slot, id.generation));
        Wheel::<()>::round_up(deadline_ms) < self.armed_ms
    }

    /// Tell connections whose deadline has come. Returns when to call again, if at all.
    pub(crate) fn advance(&mut self, mono_ms: u64) -> Option<u64> {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.advance(mono_ms, &mut due);
        for (slot, generation) in due.drain(..) {
            let Some(live) = self.live(ConnectionId { core: self.core, slot, generation }) else { continue };
            if live.wheel_ms.is_none_or(|wheel_ms| wheel_ms > mono_ms) {
                // An entry that an earlier deadline had overtaken.
                continue;
            }
            live.wheel_ms = None;
            match live.deadline_ms {
                Some(deadline_ms) if deadline_ms <= mono_ms => {
                    live.deadline_ms = None;
                    live.deadline_due = true;
                    live.wake();
                }
                Some(deadline_ms) => {
                    live.wheel_ms = Some(deadline_ms);
                    self.wheel.insert(deadline_ms, (slot, generation));
                }
                None => {}
            }
        }
        self.due = due;
        let next = self.wheel.next_timeout_ms();
        self.armed_ms = next.unwrap_or(u64::MAX);
        next
    }

    /// Tell every connection, and those to come, that the hub stops.
    pub(crate) fn begin_stop(&mut self) {
        self.stopping = true;
        for live in self.slots.iter_mut().filter_map(|slot| slot.live.as_deref_mut()) {
            live.stop_due = true;
            live.wake();
        }
    }

    /// Forget a connection. Tells which cores' shards know of it.
    pub(crate) fn close(&mut self, id: ConnectionId) -> Vec<Leaving> {
        if self.live(id).is_none() {
            return Vec::new();
        }
        let slot = &mut self.slots[id.slot as usize];
        let live = slot.live.take().expect("it was found");
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.live_count -= 1;
        (0..)
            .zip(live.ways)
            .filter(|(_, way)| way.used)
            .map(|(core, way)| Leaving { core: CoreId(core), outstanding_count: way.outstanding_count })
            .collect()
    }
}

impl Live {
    /// Give back the place of one answer. False: there is none.
    fn release(&mut self, target: CoreId) -> bool {
        let way = &mut self.ways[usize::from(target.0)];
        if way.outstanding_count == 0 {
            return false;
        }
        way.outstanding_count -= 1;
        self.outstanding_count -= 1;
        true
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> ConnectionTable {
        ConnectionTable::new(CoreId(1), 2, 3, 0)
    }

    fn answer(table: &mut ConnectionTable, id: ConnectionId, reply: Reply) -> bool {
        table.deliver_reply(CoreId(0), Caller { connection: id, token: 9 }, reply)
    }

    #[test]
    fn a_slot_used_again_gets_nothing_of_its_predecessor() {
        let mut table = table();
        let first = table.register().expect("room");
        table.charge(first, CoreId(0), true).expect("room");
        let leaving = table.close(first);
        assert_eq!(leaving.len(), 1);
        assert_eq!((leaving[0].core, leaving[0].outstanding_count), (CoreId(0), 1));

        let second = table.register().expect("room");
        assert_eq!(second.slot, first.slot);
        assert!(!answer(&mut table, first, Reply::Done), "its place went with the connection");
        assert!(table.take(second).is_none());
        assert!(table.close(first).is_empty());
        assert!(table.charge(first, CoreId(0), true).is_err());
        assert_eq!(table.live_count(), 1);
    }

    #[test]
    fn the_table_and_each_connection_are_bounded() {
        let mut table = table();
        let ids: Vec<_> = (0..3).map(|_| table.register().expect("room")).collect();
        assert_eq!(table.register(), Err(ConnectionsFull { connection_count_max: 3 }));
        for _ in 0..CONNECTION_OUTSTANDING_MAX {
            table.charge(ids[0], CoreId(0), true).expect("room");
        }
        assert_eq!(table.charge(ids[0], CoreId(1), true), Err(Busy));
        table.charge(ids[0], CoreId(1), false).expect("what is not answered needs no place");
        table.charge(ids[1], CoreId(0), true).expect("another connection has its own");
        assert!(answer(&mut table, ids[0], Reply::Done));
        table.charge(ids[0], CoreId(1), true).expect("room again");
        assert!(matches!(table.take(ids[0]), Some(Delivery::Reply { token: 9, reply: Reply::Done })));
        table.close(ids[2]);
        table.register().expect("room again");
    }

    #[test]
    fn deadlines_move_both_ways_and_come_once() {
        let mut table = table();
        let id = table.register().expect("room");
        assert!(table.set_deadline(id, Some(10_000)));
        assert!(!table.set_deadline(id, Some(20_000)), "later costs nothing");
        assert!(table.advance(5_000).is_some());
        assert!(table.set_deadline(id, Some(6_000)), "earlier wakes the core");
        let mut now = 5_000;
        let mut told = Vec::new();
        while let Some(next) = table.advance(now) {
            while let Some(delivery) = table.take(id) {
                assert!(matches!(delivery, Delivery::Deadline));
                told.push(now);
                if told.len() == 1 {
                    table.set_deadline(id, Some(15_000));
                }
            }
            now = next;
        }
        assert!(matches!(table.take(id), Some(Delivery::Deadline)));
        told.push(now);
        assert_eq!(told.len(), 2);
        assert!((6_000..6_128).contains(&told[0]) && (15_000..15_128).contains(&told[1]), "{told:?}");
        assert!(table.take(id).is_none());
    }

    #[test]
    fn a_stop_is_told_once_to_old_and_new() {
        let mut table = table();
        let old = table.register().expect("room");
        table.begin_stop();
        let new = table.register().expect("room");
        for id in [old, new] {
            assert!(matches!(table.take(id), Some(Delivery::Stopping)));
            assert!(table.take(id).is_none());
        }
    }
}
