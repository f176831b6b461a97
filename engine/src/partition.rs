//! The unit of placement: one event log, one journal, and the identities, sessions, readers, checkpoints, commands and
//! receipts that go with them.

mod checking;
mod commanding;
mod consuming;
mod enrolling;
mod identities;
mod opening;
mod policies;
mod receiving;
mod sweeping;
mod telemetry;

use std::collections::VecDeque;

use registry::{Random, RegistryError, SnapshotFile, Store};
use segment_log::storage::Storage;
use segment_log::{LogEvent, Now};

use crate::checkpoints::Checkpoints;
use crate::commands::Commands;
use crate::config::ShardConfig;
use crate::entry::Frozen;
use crate::event_log::{EventLog, EventLogNews};
use crate::job::{Job, JobDone};
use crate::journal::{Journal, JournalNews, Mark};
use crate::limits::READ_BYTES_PER_TURN;
use crate::monitor::{LogName, MonitorEvent};
use crate::outbox::Outbox;
use crate::policy_holders::PolicyHolders;
use crate::reading::Reading;
use crate::receivers::Receivers;
use crate::request::{
    Caller, ConnectionId, EngineError, PartitionId, PartitionStatus, Reply, Request, SequenceNumber,
    UnattachedAppend,
};
use crate::sessions::Sessions;
use receiving::Undurable;
use telemetry::PendingAppend;

pub use opening::PartitionStorage;
pub(crate) use opening::open;

/// A partition in service. `E` is where its events live, `S` the storage of its journal.
pub(crate) struct Partition<E: EventLog, S: Storage> {
    id: PartitionId,
    events: E,
    journal: Journal<S>,
    store: Store,
    checkpoints: Checkpoints,
    commands: Commands,
    /// Commands and batches below this number are durable and may be received.
    durable_end: SequenceNumber,
    /// Those that are not yet, oldest first.
    undurable: VecDeque<Undurable>,
    receivers: Receivers,
    /// The journal lives on its reserve: it takes what frees memory and no commands.
    space_lacks: bool,
    sessions: Sessions,
    policy_holders: PolicyHolders,
    reading: Reading,
    /// Submitted and not durable yet, oldest first.
    appends: VecDeque<PendingAppend>,
    /// Of devices that are not attached, behind the changes of identities that they rest on.
    unattached: VecDeque<(Mark, Caller, UnattachedAppend)>,
    events_failed: bool,
    /// Enqueued time of the newest durable event.
    last_enqueued_ms: u64,
    flushes: Vec<Flush>,
    jobs: VecDeque<Job>,
    is_closing: bool,
    /// Made, and adopted once it is stored.
    snapshot_file: Option<SnapshotFile>,
}

/// A caller that waits for everything so far.
struct Flush {
    caller: Caller,
    journal: Mark,
    events: SequenceNumber,
}

/// What a partition works with during one call.
pub(crate) struct Turn<'a> {
    /// The time.
    pub now: Now,
    /// The settings.
    pub config: &'a ShardConfig,
    /// Where answers go.
    pub out: &'a mut Outbox,
    /// Where chance comes from.
    pub random: Random<'a>,
}

impl Turn<'_> {
    /// Eight bytes of chance.
    fn nonce(&mut self) -> u64 {
        let mut bytes = [0; 8];
        (self.random)(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// Take a request. Those that wait for durability are answered by a later [`Partition::poll`].
    pub fn handle_request(&mut self, caller: Caller, request: Request, turn: &mut Turn<'_>) {
        match request {
            Request::Append(block) => {
                if self.append(caller, block.session, &block.events.views(), turn).is_err() {
                    turn.out.fail(caller, EngineError::Busy);
                }
            }
            Request::AppendUnattached(append) => self.append_unattached(caller, append, turn),
            Request::OpenReader { group, start, epoch, name, .. } => {
                self.open_reader(caller, group, start, epoch, name, turn);
            }
            Request::Read { reader, event_count_max, bytes_max } => {
                self.reading.ask(caller, reader, event_count_max, bytes_max, turn.out);
            }
            Request::CancelRead { reader } => {
                let status = self.status();
                self.reading.cancel(caller.connection, reader, status, turn.out);
            }
            Request::CloseReader { reader } => self.close_reader(caller.connection, reader, turn),
            Request::CloseSession { session } => self.close_session(caller.connection, session, turn),
            Request::OpenCommandReceiver { session } => self.open_command_receiver(caller, session, turn),
            Request::OpenReceiptReceiver { .. } => self.open_receipt_receiver(caller, turn),
            Request::Receive { receiver, count_max } => self.receive(caller, receiver, count_max, turn),
            Request::CancelReceive { receiver } => self.cancel_receive(caller.connection, receiver, turn),
            Request::CloseReceiver { receiver } => self.close_receiver(caller.connection, receiver, turn),
            Request::DescribePartition { .. } => {
                turn.out.reply(caller, Reply::PartitionStatus(self.status()));
            }
            Request::Flush { .. } => {
                let (journal, events) = (self.journal.mark(), self.events.bounds().submitted);
                self.flushes.push(Flush { caller, journal, events });
            }
            request => self.handle_journaled(caller, request, turn),
        }
    }

    /// Requests whose answers show what the journal knows, and leave when that is durable.
    fn handle_journaled(&mut self, caller: Caller, request: Request, turn: &mut Turn<'_>) {
        if self.journal.has_failed() {
            return turn.out.fail(caller, EngineError::StorageFailed);
        }
        if !self.journal.has_room() {
            return turn.out.fail(caller, EngineError::Busy);
        }
        let answer = match request {
            Request::Authenticate { token, protocol, .. } => {
                self.authenticate(caller.connection, &token, protocol, turn)
            }
            Request::AuthenticatePolicyKey { policy, key, protocol } => {
                self.authenticate_policy_key(caller.connection, &policy, &key, protocol, turn)
            }
            Request::AuthenticateDeviceKey { device, key, protocol } => {
                self.authenticate_device_key(caller.connection, &device, &key, protocol, turn)
            }
            Request::OpenSession { device, grant, protocol } => {
                self.open_session(caller.connection, device, &grant, protocol, turn)
            }
            Request::CreateDevice(draft) => self.create_device(draft, turn),
            Request::UpdateDevice { draft, if_match } => self.update_device(draft, &if_match, turn),
            Request::DeleteDevice { device, if_match } => self.delete_device(&device, &if_match, turn),
            Request::ChangeDevices { changes, .. } => Ok(self.change_devices(changes, turn)),
            Request::FindDevice { device } => self.find_device(&device),
            Request::ListDevices { after, count_max, .. } => self.list_devices(after.as_ref(), count_max),
            Request::CountDevices { .. } => Ok(Reply::DeviceCounts(self.count_devices())),
            Request::EnqueueCommand(draft) => self.enqueue_command(draft, turn),
            Request::ReceiveCommand { device, grant, protocol, lock_timeout_ms } => {
                self.receive_command(&device, &grant, protocol, lock_timeout_ms, turn)
            }
            Request::ReceiveReceipts { .. } => Ok(self.receive_receipts(turn)),
            Request::Settle { holder, token, settlement } => {
                self.settle(caller.connection, &holder, token, settlement, turn)
            }
            Request::PutSubscription { session, subscription } => {
                self.put_subscription(caller.connection, session, subscription, turn)
            }
            Request::FindSubscription { session } => self.find_subscription(caller.connection, session),
            Request::PurgeCommands { device } => self.purge_commands(&device, turn),
            Request::DescribeCommandQueue { device } => self.describe_command_queue(&device, turn),
            Request::PutCheckpoint { group, number, force, .. } => {
                self.put_checkpoint(group, number, force, turn)
            }
            Request::FindCheckpoint { group, .. } => Ok(Reply::Checkpoint(self.checkpoints.find(group))),
            Request::DropConsumerGroup { group, .. } => self.drop_group(group, turn),
            Request::FindConsumerGroup { name } => self.find_group(&name),
            Request::CreateConsumerGroup { name } => self.create_group(&name, turn),
            Request::DeleteConsumerGroup { name } => self.delete_group(&name, turn),
            Request::ListConsumerGroups => Ok(self.list_groups()),
            Request::Policy(request) => self.handle_policy(request, turn),
            Request::Enrolment(request) => self.handle_enrolment(request, turn),
            request => unreachable!("{request:?} is answered by handle_request"),
        };
        match answer {
            // These show nothing of what the journal knows.
            Err(
                error @ (EngineError::Busy
                | EngineError::StorageFull
                | EngineError::StorageFailed
                | EngineError::Stopping),
            ) => turn.out.fail(caller, error),
            Err(error) => self.journal.answer(caller, Reply::Failed(error)),
            Ok(reply) => self.journal.answer(caller, reply),
        }
    }

    /// A connection is gone: its sessions, readers and receivers end, and nobody is told.
    pub fn handle_connection_closed(&mut self, connection: ConnectionId, turn: &mut Turn<'_>) {
        for session in self.sessions.of_connection(connection) {
            self.end_session(session, None, turn);
        }
        for reader in self.reading.readers.of_connection(connection) {
            self.reading.end(reader);
        }
        for receiver in self.receivers.of_connection(connection) {
            self.end_receiver(receiver, turn);
        }
        self.policy_holders.forget(connection);
    }

    /// Take the result of a job.
    pub fn handle_job_done(&mut self, done: JobDone, turn: &mut Turn<'_>) {
        match done.made {
            None => {}
            Some(Ok(made)) => {
                self.journal.finish_snapshot(Some(made.bytes));
                self.snapshot_file = Some(made.file);
            }
            Some(Err(error)) => {
                self.journal.finish_snapshot(None);
                self.snapshot_failed(error.to_string(), turn);
            }
        }
    }

    /// The end of a turn: what was appended goes out to the storage, what is durable is answered.
    pub fn poll(&mut self, turn: &mut Turn<'_>) {
        if !self.is_closing {
            self.sweep(turn);
        }
        self.journal.poll(turn.now);
        self.take_journal_news(turn);
        self.serve_receivers(turn);
        self.submit_unattached(turn);
        // A read may ask for bytes to be loaded, which has to go out in this turn, and is done at once by a storage that
        // blocks. Only news make work, so this ends.
        let mut budget = READ_BYTES_PER_TURN;
        loop {
            self.events.poll(turn.now);
            self.take_event_news(turn);
            if budget == 0 || !self.reading.has_work() {
                break;
            }
            let status = self.status();
            self.reading.serve(&mut self.events, status, &mut budget, turn.out);
        }
        self.release_answers(turn);
        self.release_flushes(turn);
        if self.journal.snapshot_is_due() && !self.is_closing {
            self.begin_snapshot();
        }
    }

    /// Take no more changes and events, and close both logs.
    pub fn close(&mut self) {
        self.is_closing = true;
        self.events.close();
        self.journal.close();
    }

    /// Whether both logs are closed.
    pub fn is_closed(&self) -> bool {
        self.events.is_closed() && self.journal.is_closed()
    }

    /// Work for another thread.
    pub fn poll_job(&mut self) -> Option<Job> {
        self.jobs.pop_front()
    }

    /// When to poll again without other cause, on the monotonic clock.
    pub fn next_timeout_ms(&self, now: Now) -> Option<u64> {
        let busy = self.reading.has_work().then_some(now.mono_ms);
        let sweep = self.next_sweep_ms();
        [busy, sweep, self.events.next_timeout_ms(), self.journal.next_timeout_ms()]
            .into_iter()
            .flatten()
            .min()
    }

    /// What the partition holds.
    pub fn status(&self) -> PartitionStatus {
        let bounds = self.events.bounds();
        PartitionStatus {
            partition: self.id,
            first: bounds.first,
            next: bounds.next,
            last_enqueued_ms: self.last_enqueued_ms,
        }
    }

    fn take_journal_news(&mut self, turn: &mut Turn<'_>) {
        let (partition, at_ms, log) = (self.id, turn.now.wall_ms, LogName::Journal);
        while let Some(news) = self.journal.poll_news() {
            match news {
                JournalNews::SnapshotStored { bytes } => {
                    if let Some(file) = self.snapshot_file.take() {
                        self.jobs.push_back(Job::free(self.id, self.store.adopt(file)));
                    }
                    turn.out.counters.snapshots += 1;
                    turn.out.monitor(MonitorEvent::SnapshotTaken { at_ms, partition, bytes });
                }
                JournalNews::SnapshotFailed { text } => {
                    self.snapshot_file = None;
                    self.snapshot_failed(text, turn);
                }
                JournalNews::Log(LogEvent::Latched { error, .. }) => {
                    self.fail_receivers(turn);
                    let text = error.to_string();
                    turn.out.monitor(MonitorEvent::LogFailed { at_ms, partition, log, text });
                }
                JournalNews::Log(LogEvent::PrepareFailed { error }) => {
                    self.space_lacks = true;
                    let text = error.to_string();
                    turn.out.monitor(MonitorEvent::SpaceLacking { at_ms, partition, log, text });
                }
                JournalNews::Log(LogEvent::SpaceReturned) => {
                    self.space_lacks = false;
                    turn.out.monitor(MonitorEvent::SpaceReturned { at_ms, partition, log });
                }
                JournalNews::Log(_) => {}
            }
        }
    }

    fn take_event_news(&mut self, turn: &mut Turn<'_>) {
        let (partition, at_ms, log) = (self.id, turn.now.wall_ms, LogName::Events);
        while let Some(news) = self.events.poll_news() {
            match news {
                EventLogNews::Appended { first, event_count } => {
                    self.release_appends(first, event_count, turn);
                    self.reading.wake_at_end();
                }
                EventLogNews::Loaded => self.reading.wake_loading(),
                EventLogNews::Retired { first } => {
                    turn.out.monitor(MonitorEvent::EventsRetired { at_ms, partition, first: first.0 });
                }
                EventLogNews::Failed { text } => {
                    self.fail_appends(turn);
                    turn.out.monitor(MonitorEvent::LogFailed { at_ms, partition, log, text });
                }
                EventLogNews::SpaceLacking { text } => {
                    turn.out.monitor(MonitorEvent::SpaceLacking { at_ms, partition, log, text });
                }
                EventLogNews::SpaceReturned => {
                    turn.out.monitor(MonitorEvent::SpaceReturned { at_ms, partition, log });
                }
                EventLogNews::Damaged { first, resume } => turn.out.monitor(MonitorEvent::LogDamaged {
                    at_ms,
                    partition,
                    log,
                    first: first.0,
                    resume: resume.0,
                }),
            }
        }
    }

    fn release_answers(&mut self, turn: &mut Turn<'_>) {
        while let Some((caller, reply)) = self.journal.poll_answer() {
            let reply = match reply {
                // It may have been ended again while the answer waited.
                Reply::SessionOpened(session) => match self.sessions.find_mut(session, caller.connection) {
                    Ok(_) => reply,
                    Err(reason) => Reply::Failed(EngineError::SessionEnded(reason)),
                },
                reply => reply,
            };
            turn.out.reply(caller, reply);
        }
    }

    fn release_flushes(&mut self, turn: &mut Turn<'_>) {
        let (durable, next) = (self.journal.durable(), self.events.bounds().next);
        let failed = self.journal.has_failed() || self.events_failed;
        let snapshot =
            !self.is_closing && (self.journal.snapshot_is_under_way() || self.journal.snapshot_is_due());
        self.flushes.retain(|flush| {
            if failed {
                turn.out.fail(flush.caller, EngineError::StorageFailed);
                return false;
            }
            let waits = snapshot || flush.journal > durable || flush.events > next;
            if !waits {
                turn.out.reply(flush.caller, Reply::Done);
            }
            waits
        });
    }

    fn begin_snapshot(&mut self) {
        let Mark(mark) = self.journal.begin_snapshot();
        let (checkpoints, commands) = (self.checkpoints.clone(), self.commands.freeze());
        let frozen = Frozen { mark, checkpoints, commands };
        self.jobs.push_back(Job::snapshot(self.id, self.store.snapshot_job(), frozen));
    }

    fn snapshot_failed(&mut self, text: String, turn: &mut Turn<'_>) {
        let (at_ms, partition) = (turn.now.wall_ms, self.id);
        turn.out.monitor(MonitorEvent::SnapshotFailed { at_ms, partition, text });
    }
}

/// What the registry refuses, in the engine's words.
fn refused(error: RegistryError) -> EngineError {
    match error {
        RegistryError::DeviceNotFound => EngineError::DeviceNotFound,
        RegistryError::PolicyNotFound => EngineError::PolicyNotFound,
        RegistryError::ConsumerGroupNotFound => EngineError::ConsumerGroupNotFound,
        RegistryError::ConsumerGroupExists => EngineError::ConsumerGroupExists,
        RegistryError::ConsumerGroupDefault => EngineError::ConsumerGroupInvalid("$Default always exists"),
        RegistryError::InvalidConsumerGroupName => {
            EngineError::ConsumerGroupInvalid("a name is 1 to 50 characters of A-Z a-z 0-9 . _ -")
        }
        RegistryError::ConsumerGroupsExhausted { .. } => {
            EngineError::ConsumerGroupInvalid("the hub has as many consumer groups as it may")
        }
        error => EngineError::Registry(error),
    }
}
