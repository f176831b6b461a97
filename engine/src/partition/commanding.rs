//! Commands: enqueued by back ends, locked and settled by devices, purged.
//!
//! Each change is appended to the journal first and then made; the answer waits until it is durable. Locks are not in the
//! journal.

use registry::{DeviceId, DeviceStatus};
use segment_log::storage::Storage;

use super::receiving::Undurable;
use super::{Partition, Turn, refused};
use crate::access;
use crate::command_queue::{Command, is_told};
use crate::entry::{Enqueued, Entry, GivenBack, Removed};
use crate::event_log::EventLog;
use crate::limits::{MESSAGE_ID_BYTES_MAX, SUBSCRIPTION_BYTES_MAX};
use crate::lock_queue::{Item, LockHolder, LockTerms};
use crate::monitor::{MonitorEvent, Protocol};
use crate::receivers::Source;
use crate::request::{
    Ack, CommandDraft, ConnectionId, EngineError, Grant, Holder, LockToken, LockedCommand, Outcome, Reply,
    SequenceNumber, SessionId, Settlement, Subscription,
};

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// Enqueue a command.
    pub(super) fn enqueue_command(
        &mut self,
        draft: CommandDraft,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let (device, bytes, ack) = (draft.device.clone(), draft.message.len() as u64, draft.ack);
        let at_ms = turn.now.wall_ms;
        match self.try_enqueue(draft, turn) {
            Ok(()) => {
                turn.out.counters.commands_enqueued += 1;
                turn.out.counters.command_bytes_enqueued += bytes;
                turn.out.monitor(MonitorEvent::CommandEnqueued { at_ms, device, bytes, ack });
                Ok(Reply::Done)
            }
            Err(error) => {
                turn.out.counters.commands_refused += 1;
                let refusal = error.clone();
                turn.out.monitor(MonitorEvent::CommandRefused { at_ms, device, bytes, ack, error: refusal });
                Err(error)
            }
        }
    }

    fn try_enqueue(&mut self, draft: CommandDraft, turn: &mut Turn<'_>) -> Result<(), EngineError> {
        let CommandDraft { device, message, message_id, ack, expires_ms } = draft;
        let (rules, now) = (&turn.config.commands, turn.now);
        let too_large = |bytes: usize, bytes_max: u64| {
            let bytes = bytes as u64;
            if bytes > bytes_max { Err(EngineError::CommandTooLarge { bytes, bytes_max }) } else { Ok(()) }
        };
        too_large(message.len(), u64::from(rules.command_bytes_max))?;
        too_large(message_id.len(), MESSAGE_ID_BYTES_MAX as u64)?;
        let generation = match self.store.standing(&device).map_err(refused)? {
            Some((generation, DeviceStatus::Enabled)) => generation,
            _ => return Err(EngineError::DeviceNotFound),
        };
        let expires_ms = expires_ms.unwrap_or(now.wall_ms.saturating_add(rules.ttl_ms_default));
        let latest_ms = now.wall_ms.saturating_add(rules.ttl_ms_max);
        if expires_ms <= now.wall_ms || expires_ms > latest_ms {
            return Err(EngineError::ExpiryInvalid { ttl_ms_max: rules.ttl_ms_max });
        }
        self.sweep_device(&device, turn);
        let (depth, depth_max) = (self.commands.queues.status(&device).depth(), rules.queue_depth_max);
        if depth >= depth_max {
            return Err(EngineError::QueueFull { depth, depth_max });
        }
        if self.space_lacks {
            return Err(EngineError::StorageFull);
        }
        let owed = self.commands.queues.acked_count() + self.commands.feedback.receipt_count();
        if self.commands.queues.bytes() + message.len() as u64 > rules.waiting_bytes_max
            || (ack != Ack::None && owed >= rules.receipt_count_max)
        {
            return Err(EngineError::Busy);
        }
        let number = self.commands.next_number();
        // Without receipts nobody will ask for the id.
        let message_id = if ack == Ack::None { Box::default() } else { message_id.into_boxed_str() };
        let command = Command { expires_ms, ack, message_id, message: message.into() };
        let enqueued =
            Enqueued { device: device.clone(), generation, number, enqueued_ms: now.wall_ms, command };
        self.journal_command(Entry::CommandEnqueued(enqueued), turn)?;
        self.undurable.push_back(Undurable { mark: self.journal.mark(), number, device: Some(device) });
        Ok(())
    }

    /// Receive one command now, or none; its lock belongs to the device.
    pub(super) fn receive_command(
        &mut self,
        device: &DeviceId,
        grant: &Grant,
        protocol: Protocol,
        lock_timeout_ms: Option<u64>,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        self.check_device(device, grant, protocol, turn)?;
        self.sweep_device(device, turn);
        let longest_ms = turn.config.commands.lock_timeout_ms;
        let timeout_ms = lock_timeout_ms.map_or(longest_ms, |asked_ms| asked_ms.clamp(1, longest_ms));
        let locked = self.lock_command(device, LockHolder::Device, timeout_ms, turn);
        Ok(Reply::Commands(locked.into_iter().collect()))
    }

    /// Lock the oldest command that can be received.
    pub(super) fn lock_command(
        &mut self,
        device: &DeviceId,
        holder: LockHolder,
        timeout_ms: u64,
        turn: &mut Turn<'_>,
    ) -> Option<LockedCommand> {
        let (id, nonce, mono_ms) = (self.id, turn.nonce(), turn.now.mono_ms);
        let terms = LockTerms { nonce, holder, ends_mono_ms: mono_ms.saturating_add(timeout_ms) };
        let locked = self.commands.queues.lock(device, self.durable_end, mono_ms, terms, |item| {
            show(item, LockToken::new(id, item.number, nonce))
        })?;
        turn.out.counters.commands_received += 1;
        Some(locked)
    }

    /// Settle a command or a batch of receipts.
    pub(super) fn settle(
        &mut self,
        connection: ConnectionId,
        holder: &Holder,
        token: LockToken,
        settlement: Settlement,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let (device, holder) = match holder {
            Holder::Device { device, grant, protocol } => {
                self.check_device(device, grant, *protocol, turn)?;
                (device.clone(), LockHolder::Device)
            }
            Holder::BackEnd => return self.settle_batch(LockHolder::BackEnd, token, settlement, turn),
            Holder::Receiver(id) => {
                let (key, receiver) = self.receivers.owned(*id, connection).ok_or(EngineError::LockLost)?;
                let holder = LockHolder::Receiver(key);
                match &receiver.source {
                    Source::Commands { device, .. } => (device.clone(), holder),
                    Source::Receipts => return self.settle_batch(holder, token, settlement, turn),
                }
            }
        };
        self.sweep_device(&device, turn);
        let mono_ms = turn.now.mono_ms;
        let locked = match token.partition() == self.id {
            true => self.commands.queues.locked(&device, token, holder, mono_ms),
            false => None,
        };
        let number = locked.ok_or(EngineError::LockLost)?.number;
        match settlement {
            Settlement::Complete => self.remove_commands(&device, &[number], Outcome::Success, turn)?,
            Settlement::Reject => self.remove_commands(&device, &[number], Outcome::Rejected, turn)?,
            Settlement::Abandon => self.give_back(&device, number, true, turn)?,
            Settlement::Release => self.give_back(&device, number, false, turn)?,
        }
        Ok(Reply::Done)
    }

    /// Remove all commands of a device, locked ones too.
    pub(super) fn purge_commands(
        &mut self,
        device: &DeviceId,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        self.store.standing(device).map_err(refused)?.ok_or(EngineError::DeviceNotFound)?;
        self.sweep_device(device, turn);
        let Some(queue) = self.commands.queues.find(device) else { return Ok(Reply::CommandsPurged(0)) };
        let numbers: Vec<SequenceNumber> = queue.commands.iter().map(|item| item.number).collect();
        let depth = queue.status().depth();
        self.remove_commands(device, &numbers, Outcome::Purged, turn)?;
        Ok(Reply::CommandsPurged(depth))
    }

    /// How a device's queue stands.
    pub(super) fn describe_command_queue(
        &mut self,
        device: &DeviceId,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        self.store.standing(device).map_err(refused)?.ok_or(EngineError::DeviceNotFound)?;
        self.sweep_device(device, turn);
        Ok(Reply::CommandQueue(self.commands.queues.status(device)))
    }

    /// A lock is over without the command being done with: it waits again, unless that was once too often or its time is over.
    /// `counts`: whether that was a delivery.
    pub(super) fn give_back(
        &mut self,
        device: &DeviceId,
        number: SequenceNumber,
        counts: bool,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        let queue = self.commands.queues.find(device);
        let Some(item) = queue.and_then(|queue| queue.commands.find(number)) else { return Ok(()) };
        let delivery_count = item.delivery_count.saturating_add(u8::from(counts));
        if counts && delivery_count >= turn.config.commands.delivery_count_max {
            return self.remove_commands(device, &[number], Outcome::DeliveryCountExceeded, turn);
        }
        if item.expires_mono_ms <= turn.now.mono_ms {
            return self.remove_commands(device, &[number], Outcome::Expired, turn);
        }
        if counts {
            let given = GivenBack { device: device.clone(), number, delivery_count };
            self.journal_command(Entry::CommandGivenBack(given), turn)?;
            turn.out.counters.commands_given_back += 1;
        } else {
            self.commands.queues.give_back(device, number, delivery_count);
        }
        self.wake_device(device);
        Ok(())
    }

    /// Commands leave their queue, with the receipts that were asked for in the same record.
    pub(super) fn remove_commands(
        &mut self,
        device: &DeviceId,
        numbers: &[SequenceNumber],
        outcome: Outcome,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        let Some(queue) = self.commands.queues.find(device) else { return Ok(()) };
        let ack_of = |number: &SequenceNumber| {
            let item = queue.commands.find(*number)?;
            Some((*number, is_told(item.content.ack, outcome)))
        };
        let numbers: Vec<_> = numbers.iter().filter_map(ack_of).collect();
        let told_count = numbers.iter().filter(|(_, is_told)| *is_told).count() as u64;
        let command_count = u32::try_from(numbers.len()).expect("a queue's depth has a limit");
        if command_count == 0 {
            return Ok(());
        }
        let at_ms = turn.now.wall_ms;
        let removed = Removed { device: device.clone(), outcome, at_ms, numbers };
        self.journal_command(Entry::CommandsRemoved(removed), turn)?;
        let counters = &mut turn.out.counters;
        counters.receipts_gathered += told_count;
        *match outcome {
            Outcome::Success => &mut counters.commands_completed,
            Outcome::Expired => &mut counters.commands_expired,
            Outcome::DeliveryCountExceeded | Outcome::Rejected => &mut counters.commands_dead_lettered,
            Outcome::Purged => &mut counters.commands_purged,
        } += u64::from(command_count);
        let device = device.clone();
        turn.out.monitor(MonitorEvent::CommandsEnded { at_ms, device, outcome, command_count });
        Ok(())
    }

    /// Remember what a session's device has subscribed to.
    pub(super) fn put_subscription(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
        subscription: Option<Subscription>,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, EngineError> {
        let bytes = subscription.as_ref().map_or(0, |subscription| subscription.address.len()) as u64;
        if bytes > SUBSCRIPTION_BYTES_MAX as u64 {
            return Err(EngineError::SubscriptionTooLong { bytes, bytes_max: SUBSCRIPTION_BYTES_MAX as u64 });
        }
        let device = self.device_of(connection, session)?;
        if self.commands.subscriptions.find(&device) != subscription.as_ref() {
            self.journal_command(Entry::Subscribed { device, subscription }, turn)?;
        }
        Ok(Reply::Done)
    }

    /// What a session's device has subscribed to.
    pub(super) fn find_subscription(
        &mut self,
        connection: ConnectionId,
        session: SessionId,
    ) -> Result<Reply, EngineError> {
        let device = self.device_of(connection, session)?;
        Ok(Reply::Subscription(self.commands.subscriptions.find(&device).cloned()))
    }

    fn device_of(&mut self, connection: ConnectionId, session: SessionId) -> Result<DeviceId, EngineError> {
        let session = self.sessions.find_mut(session, connection).map_err(EngineError::SessionEnded)?;
        Ok(session.device.clone())
    }

    /// Append a change to the journal and, if that was taken, make it.
    pub(super) fn journal_command(&mut self, entry: Entry, turn: &mut Turn<'_>) -> Result<(), EngineError> {
        self.journal.append(&entry, turn.now)?;
        self.commands.apply(entry, turn.now).expect("it was made from what is there");
        Ok(())
    }

    /// Whether a caller may act for a device, now: then the device is here.
    fn check_device(
        &mut self,
        device: &DeviceId,
        grant: &Grant,
        protocol: Protocol,
        turn: &mut Turn<'_>,
    ) -> Result<(), EngineError> {
        let now_s = turn.now.wall_ms / 1000;
        let checked = access::check_session(&self.store, &turn.config.access, device, grant, now_s);
        let (device, _) =
            checked.map_err(|error| super::checking::refuse_grant(grant, error, protocol, turn))?;
        self.activate(&device, turn);
        Ok(())
    }
}

/// What a receiver sees of a command that was locked for it.
fn show(item: &Item<Command>, token: LockToken) -> LockedCommand {
    LockedCommand {
        token,
        number: item.number,
        enqueued_ms: item.enqueued_ms,
        expires_ms: item.content.expires_ms,
        delivery_count: item.delivery_count,
        ack: item.content.ack,
        message: item.content.message.clone(),
    }
}
