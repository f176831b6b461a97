//! One core: its shard, its mail, its connections, and the turn that moves all of them on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use engine::Now;
use engine::door::Busy;
use engine::job::Job;
use engine::placement::partition_core;
use engine::request::{AppendView, Caller, ConnectionId, CoreId, Notice, PartitionId, Reply, Request};
use engine::shard::Shard;

use crate::clock::Clock;
use crate::commit_round::CommitRound;
use crate::connections::{ConnectionTable, Delivery, Leaving};
use crate::context::{Call, CoreContext, Stopping};
use crate::deferred::Deferred;
use crate::disk::DmaStorage;
use crate::fatal::FatalOnPanic;
use crate::helper::{Helpers, Lane};
use crate::mailbox::{Batch, Item, Outbox, Taken};
use crate::monitor;
use crate::shared::Shared;

/// The caller of the core's own requests; no connection has this slot.
const CORE_SLOT: u32 = u32::MAX;

/// One core. All of it stays on the core's thread; other cores see its mailboxes and its bell alone.
///
/// The order of a turn: mail from other cores, the shard, its answers, calls, deadlines, mail to other cores. Tasks on the
/// core act between turns, and ring the bell for the next one.
pub(crate) struct Core {
    pub(crate) id: CoreId,
    pub(crate) core_count: u16,
    pub(crate) clock: Clock,
    pub(crate) stopping: Stopping,
    pub(crate) connections: RefCell<ConnectionTable>,
    shared: Arc<Shared>,
    partition_count: u16,
    commit_round: Rc<CommitRound>,
    /// None once the core has stopped.
    shard: RefCell<Option<Shard<DmaStorage>>>,
    /// Other cores' appends that found no room.
    deferred: RefCell<Deferred>,
    /// By core; the own one is never used.
    outboxes: RefCell<Vec<Outbox>>,
    /// None once the core has stopped: the helper threads end with the last of these.
    helpers: RefCell<Option<Helpers>>,
    /// Nothing new is taken any more.
    closed: Cell<bool>,
    /// Own flushes that have not been answered.
    flush_count: Cell<u32>,
    /// Whether one of them failed.
    flush_failed: Cell<bool>,
    /// Turns taken: one that never sleeps shows itself here.
    turn_count: Cell<u64>,
    /// Its own tasks have rung since the last turn began.
    has_rung: Cell<bool>,
    /// The time, taken at most once between two turns: what a core's tasks append in that while is one moment to the log.
    now: Cell<Option<Now>>,
    /// Calls for this core, kept until the turn's borrows are over.
    calls: RefCell<Vec<Call>>,
    /// Kept for its memory.
    mail: RefCell<Vec<Batch>>,
}

impl Core {
    pub(crate) fn new(
        id: CoreId,
        shared: Arc<Shared>,
        helpers: Helpers,
        partition_count: u16,
        connection_count_max: u32,
        commit_round: Rc<CommitRound>,
        shard: Shard<DmaStorage>,
    ) -> Rc<Self> {
        let core_count = shared.core_count();
        let clock = shared.clock;
        Rc::new(Self {
            id,
            core_count,
            clock,
            stopping: Stopping::default(),
            connections: RefCell::new(ConnectionTable::new(
                id,
                core_count,
                connection_count_max,
                clock.mono_ms(),
            )),
            shared,
            partition_count,
            commit_round,
            shard: RefCell::new(Some(shard)),
            deferred: RefCell::new(Deferred::new(id, core_count)),
            outboxes: RefCell::new((0..core_count).map(|target| Outbox::new(id, CoreId(target))).collect()),
            helpers: RefCell::new(Some(helpers)),
            closed: Cell::new(false),
            flush_count: Cell::new(0),
            flush_failed: Cell::new(false),
            turn_count: Cell::new(0),
            has_rung: Cell::new(false),
            now: Cell::new(None),
            calls: RefCell::default(),
            mail: RefCell::default(),
        })
    }

    /// Make the core take another turn. The bell itself is for other threads too, and costs an atomic exchange: between two
    /// turns the core's own tasks touch it once.
    pub(crate) fn ring(&self) {
        if !self.has_rung.replace(true) {
            self.shared.signal(self.id).ring();
        }
    }

    pub(crate) fn ask(&self, caller: Caller, request: Request) -> Result<(), Busy> {
        let target = self.owner(request.partition(self.partition_count));
        let answered = request.is_answered();
        self.send(caller, target, answered, || {
            if target == self.id {
                self.with_shard(|shard, now| shard.handle_request(caller, request, now));
                return Ok(());
            }
            let outbox = &mut self.outboxes.borrow_mut()[usize::from(target.0)];
            if !answered {
                outbox.reserve_unanswered(&self.shared.mailboxes)?;
            }
            outbox.push(Item::Request(caller, request));
            Ok(())
        })
    }

    pub(crate) fn append(&self, caller: Caller, append: AppendView<'_>) -> Result<(), Busy> {
        let target = self.owner(append.session.partition);
        self.send(caller, target, true, || {
            if target == self.id {
                // Without a shard the hub has stopped, and nobody waits for an answer.
                return self
                    .with_shard(|shard, now| shard.handle_append(caller, append, now))
                    .unwrap_or(Ok(()));
            }
            let outbox = &mut self.outboxes.borrow_mut()[usize::from(target.0)];
            outbox.push_append(&self.shared.mailboxes, caller, append)
        })
    }

    /// Take the places that a request needs, then hand it over; give them back when that fails.
    fn send(
        &self,
        caller: Caller,
        target: CoreId,
        answered: bool,
        hand_over: impl FnOnce() -> Result<(), Busy>,
    ) -> Result<(), Busy> {
        let sent = self.charge(caller.connection, target, answered).and_then(|()| {
            hand_over().inspect_err(|_| {
                if answered && self.connections.borrow_mut().release(caller.connection, target) {
                    self.release_replies(target, 1);
                }
            })
        });
        match sent {
            Ok(()) => self.ring(),
            Err(Busy) => self.shared.count_busy(),
        }
        sent
    }

    fn charge(&self, connection: ConnectionId, target: CoreId, answered: bool) -> Result<(), Busy> {
        if self.closed.get() {
            return Err(Busy);
        }
        self.connections.borrow_mut().charge(connection, target, answered)?;
        if answered && target != self.id {
            let reserved = self.outboxes.borrow_mut()[usize::from(target.0)].reserve_reply();
            if reserved.is_err() {
                self.connections.borrow_mut().release(connection, target);
            }
            reserved?;
        }
        Ok(())
    }

    fn release_replies(&self, target: CoreId, count: u32) {
        if target != self.id && count > 0 {
            self.outboxes.borrow_mut()[usize::from(target.0)].release_replies(count);
        }
    }

    pub(crate) fn send_call(&self, target: CoreId, call: Call) -> Result<(), Call> {
        assert!(target.0 < self.core_count, "no such core: {target:?} of {}", self.core_count);
        if target == self.id {
            self.calls.borrow_mut().push(call);
        } else {
            let outbox = &mut self.outboxes.borrow_mut()[usize::from(target.0)];
            if outbox.reserve_unanswered(&self.shared.mailboxes).is_err() {
                self.shared.count_busy();
                return Err(call);
            }
            outbox.push(Item::Call(call));
        }
        self.ring();
        Ok(())
    }

    /// End a connection here and wherever it is known.
    pub(crate) fn close_connection(&self, connection: ConnectionId) {
        let leaving = self.connections.borrow_mut().close(connection);
        for Leaving { core, outstanding_count } in leaving {
            if core == self.id {
                self.with_shard(|shard, now| shard.handle_connection_closed(connection, now));
            } else {
                self.release_replies(core, outstanding_count);
                self.outboxes.borrow_mut()[usize::from(core.0)].push(Item::ConnectionClosed(connection));
            }
        }
        self.ring();
    }

    /// One turn. Returns when to take the next one without being rung for, on the monotonic clock.
    pub(crate) fn turn(self: &Rc<Self>, context: &CoreContext) -> Option<u64> {
        let _fatal = FatalOnPanic::new("loop of a core");
        self.has_rung.set(false);
        self.turn_count.set(self.turn_count.get() + 1);
        self.commit_round.begin_turn();
        let now = self.clock.now();
        self.now.set(Some(now));
        self.take_mail(now);
        let shard_timeout = self.run_shard(now);
        // What the shard has just made room for is polled in another turn.
        if self.retry_deferred() {
            self.ring();
        }
        for call in self.calls.take() {
            call(context);
        }
        let wheel_timeout = self.connections.borrow_mut().advance(now.mono_ms);
        self.flush_mail();
        self.now.set(None);
        [shard_timeout, wheel_timeout].into_iter().flatten().min()
    }

    /// Ask again for what found no room. Whether any of it did now.
    fn retry_deferred(&self) -> bool {
        let mut deferred = self.deferred.borrow_mut();
        if deferred.is_empty() {
            return false;
        }
        self.with_shard(|shard, now| {
            deferred.retry(&self.shared.mailboxes, |caller, append| shard.handle_append(caller, append, now))
        })
        .unwrap_or(false)
    }

    fn take_mail(&self, now: Now) {
        self.retry_deferred();
        let mut shard = self.shard.borrow_mut();
        let mut batches = self.mail.take();
        for source in (0..self.core_count).map(CoreId).filter(|&source| source != self.id) {
            self.shared.mailboxes.take(source, self.id, &mut batches);
            if batches.is_empty() {
                continue;
            }
            for batch in &mut batches {
                batch.take_each(|taken| self.take_item(shard.as_mut(), source, taken, now));
            }
            self.shared.mailboxes.give_back(source, self.id, &mut batches);
        }
        self.mail.replace(batches);
    }

    fn take_item(&self, shard: Option<&mut Shard<DmaStorage>>, source: CoreId, taken: Taken<'_>, now: Now) {
        match taken {
            Taken::Appended(connection, appended) => {
                if self.connections.borrow_mut().deliver_appended(source, connection, appended) {
                    self.release_replies(source, 1);
                }
            }
            Taken::Item(Item::Reply(caller, reply)) => self.deliver_reply(source, caller, reply),
            Taken::Item(Item::Notice(connection, notice)) => self.deliver_notice(connection, notice),
            Taken::Item(Item::Call(call)) => self.calls.borrow_mut().push(call),
            // Cores take no more requests only after all of them have stopped asking.
            taken => {
                let Some(shard) = shard else { return };
                match taken {
                    Taken::Append(caller, append) => {
                        let mut deferred = self.deferred.borrow_mut();
                        if deferred.holds(source) || shard.handle_append(caller, append, now).is_err() {
                            deferred.keep(&self.shared.mailboxes, source, caller, append);
                        }
                    }
                    Taken::Item(Item::Request(caller, request)) => {
                        shard.handle_request(caller, request, now);
                    }
                    Taken::Item(Item::ConnectionClosed(connection)) => {
                        shard.handle_connection_closed(connection, now);
                    }
                    Taken::Appended(..) | Taken::Item(_) => unreachable!("the others are taken above"),
                }
            }
        }
    }

    fn run_shard(self: &Rc<Self>, now: Now) -> Option<u64> {
        let mut borrowed = self.shard.borrow_mut();
        let shard = borrowed.as_mut()?;
        shard.poll(now);
        // Notices first: a session's end is told before the reply to the change that ended it.
        while let Some((connection, notice)) = shard.poll_notice() {
            if connection.core == self.id {
                self.deliver_notice(connection, notice);
            } else {
                self.outboxes.borrow_mut()[usize::from(connection.core.0)]
                    .push(Item::Notice(connection, notice));
            }
        }
        self.deliver_appended(shard);
        while let Some((caller, reply)) = shard.poll_reply() {
            if caller.connection.core == self.id {
                self.deliver_reply(self.id, caller, reply);
            } else {
                self.outboxes.borrow_mut()[usize::from(caller.connection.core.0)]
                    .push(Item::Reply(caller, reply));
            }
        }
        while let Some(event) = shard.poll_monitor() {
            monitor::log_event(&event);
        }
        let jobs: Vec<Job> = std::iter::from_fn(|| shard.poll_job()).collect();
        let timeout_ms = shard.next_timeout_ms();
        drop(borrowed);
        for job in jobs {
            self.start_job(job);
        }
        timeout_ms
    }

    /// Have a job run by a helper thread. glommio begins a task within `spawn_local`, and a quick helper is done by then: the
    /// shard must not be borrowed.
    fn start_job(self: &Rc<Self>, job: Job) {
        debug_assert!(self.shard.try_borrow_mut().is_ok(), "the task takes the shard");
        let helpers = self.helpers.borrow();
        let done = helpers.as_ref().expect("they go after the shard").run(Lane::Slow, move || job.run());
        let core = Rc::clone(self);
        glommio::spawn_local(async move {
            let done = done.await;
            core.with_shard(|shard, now| shard.handle_job_done(done, now));
            core.ring();
        })
        .detach();
    }

    fn deliver_reply(&self, source: CoreId, caller: Caller, reply: Reply) {
        if caller.connection.slot == CORE_SLOT {
            self.flush_count.set(self.flush_count.get() - 1);
            if let Reply::Failed(error) = reply {
                tracing::error!(partition = caller.token, %error, "a partition could not be flushed");
                self.flush_failed.set(true);
            }
            return;
        }
        if self.connections.borrow_mut().deliver_reply(source, caller, reply) {
            self.release_replies(source, 1);
        }
    }

    /// Bring the answers to appends to their connections.
    fn deliver_appended(&self, shard: &mut Shard<DmaStorage>) {
        let mut connections = self.connections.borrow_mut();
        while let Some((connection, appended)) = shard.poll_appended() {
            if connection.core == self.id {
                connections.deliver_appended(self.id, connection, appended);
            } else {
                self.outboxes.borrow_mut()[usize::from(connection.core.0)]
                    .push_appended(connection, appended);
            }
        }
    }

    fn deliver_notice(&self, connection: ConnectionId, notice: Notice) {
        self.connections.borrow_mut().deliver(connection, Delivery::Notice(notice));
    }

    fn flush_mail(&self) {
        for (target, outbox) in (0..).map(CoreId).zip(self.outboxes.borrow_mut().iter_mut()) {
            if outbox.flush(&self.shared.mailboxes) {
                self.shared.signal(target).ring();
            }
        }
    }

    /// Act on the shard from a task of this core. After the stop there is none.
    fn with_shard<T>(&self, act: impl FnOnce(&mut Shard<DmaStorage>, Now) -> T) -> Option<T> {
        let _fatal = FatalOnPanic::new("shard");
        let mut shard = self.shard.borrow_mut();
        let shard = shard.as_mut()?;
        let now = self.now.get().unwrap_or_else(|| self.clock.now());
        self.now.set(Some(now));
        Some(act(shard, now))
    }

    /// Ask every partition of this core to make everything durable. Nothing new is taken from now on.
    pub(crate) fn begin_flush(&self) {
        self.closed.set(true);
        let connection = ConnectionId { core: self.id, slot: CORE_SLOT, generation: 0 };
        for partition in self.partitions() {
            self.flush_count.set(self.flush_count.get() + 1);
            let caller = Caller { connection, token: u64::from(partition.0) };
            self.with_shard(|shard, now| {
                shard.handle_request(caller, Request::Flush { partition }, now);
            });
        }
        self.ring();
    }

    /// Whether all flushes have been answered; with true inside if none failed.
    pub(crate) fn flushed(&self) -> Option<bool> {
        (self.flush_count.get() == 0).then(|| !self.flush_failed.get())
    }

    /// Seal every log, so that the next start looks for nothing. After the flushes.
    pub(crate) fn begin_close(&self) {
        self.with_shard(|shard, now| shard.close(now));
        self.ring();
    }

    /// Whether every log is sealed, or has failed.
    pub(crate) fn is_closed(&self) -> bool {
        self.shard.borrow().as_ref().is_none_or(Shard::is_closed)
    }

    /// Give the shard and its files up.
    pub(crate) fn end(&self) {
        tracing::info!(core = self.id.0, "{} turns, {}", self.turn_count.get(), self.commit_round);
        self.closed.set(true);
        self.shard.borrow_mut().take();
        self.helpers.borrow_mut().take();
    }

    fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        own_partitions(self.id, self.core_count, self.partition_count)
    }

    fn owner(&self, partition: PartitionId) -> CoreId {
        partition_core(partition, self.core_count)
    }
}

/// The partitions that a core runs.
pub(crate) fn own_partitions(
    core: CoreId,
    core_count: u16,
    partition_count: u16,
) -> impl Iterator<Item = PartitionId> {
    (0..partition_count)
        .map(PartitionId)
        .filter(move |&partition| partition_core(partition, core_count) == core)
}
