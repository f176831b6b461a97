//! The commands that wait for devices: one queue for each device that has any, all in memory.
//!
//! A queue is shared with the job that writes a snapshot of it, and copied when it changes meanwhile. This is state
//! alone: what is written to the journal, and who is told, is the partition's.

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use registry::{DeviceId, GenerationId};

use crate::limits::COMMAND_OVERHEAD_BYTES;
use crate::lock_queue::{Due, Item, LockHolder, LockQueue, LockTerms};
use crate::request::{Ack, CommandQueueStatus, LockToken, Outcome, SequenceNumber};

/// What is kept of a command besides its number and its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// When it expires, milliseconds since 1970.
    pub expires_ms: u64,
    /// Which outcomes are told.
    pub ack: Ack,
    /// Its id, for receipts; empty where none is asked for.
    pub message_id: Box<str>,
    /// The bare message.
    pub message: Arc<[u8]>,
}

impl Command {
    /// What it counts against the limit of waiting bytes.
    fn bytes(&self) -> u64 {
        (self.message.len() + self.message_id.len()) as u64 + COMMAND_OVERHEAD_BYTES
    }
}

/// Whether a sender that asked for `ack` is told of this outcome [IoT Hub: iot-hub-devguide-messages-c2d].
pub(crate) fn is_told(ack: Ack, outcome: Outcome) -> bool {
    match ack {
        Ack::None => false,
        Ack::Positive => outcome == Outcome::Success,
        Ack::Negative => outcome != Outcome::Success,
        Ack::Full => true,
    }
}

/// One device's commands; at least one.
#[derive(Clone, Debug)]
pub(crate) struct DeviceQueue {
    /// Which of the identities of the device's id they are for.
    pub generation: GenerationId,
    /// The commands.
    pub commands: LockQueue<Command>,
}

impl DeviceQueue {
    /// How many wait and how many are locked.
    pub fn status(&self) -> CommandQueueStatus {
        let count = |count: usize| u32::try_from(count).expect("a queue's depth has a limit");
        let locked = self.commands.locked_count();
        CommandQueueStatus { enqueued: count(self.commands.len() - locked), locked: count(locked) }
    }
}

/// The command queues of one partition. A device without commands has no entry.
#[derive(Debug, Default)]
pub(crate) struct CommandQueues {
    queues: HashMap<DeviceId, Arc<DeviceQueue>, RandomState>,
    /// Each queue under the moment at which it wants to be looked at.
    wakes: BTreeSet<(u64, DeviceId)>,
    bytes: u64,
    acked_count: u64,
}

impl CommandQueues {
    /// A device's queue; none: it is empty.
    pub fn find(&self, device: &DeviceId) -> Option<&DeviceQueue> {
        self.queues.get(device).map(|queue| &**queue)
    }

    /// How a device's queue stands.
    pub fn status(&self, device: &DeviceId) -> CommandQueueStatus {
        self.find(device).map(DeviceQueue::status).unwrap_or_default()
    }

    /// Bytes of all waiting commands, as they count against the limit.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Commands whose senders asked for receipts: each may become one.
    pub fn acked_count(&self) -> u64 {
        self.acked_count
    }

    /// Put a command in behind those of its device.
    pub fn push(&mut self, device: &DeviceId, generation: GenerationId, item: Item<Command>) {
        self.bytes += item.content.bytes();
        self.acked_count += u64::from(item.content.ack != Ack::None);
        if let Some(item) = self.change(device, item, |queue, item| queue.commands.push(item)) {
            let mut queue = DeviceQueue { generation, commands: LockQueue::default() };
            queue.commands.push(item);
            self.wakes.insert((queue.commands.wake_mono_ms(), device.clone()));
            self.queues.insert(device.clone(), Arc::new(queue));
        }
    }

    /// Lock the oldest command below `end` that can be received. What is given to `show` is that command.
    pub fn lock<R>(
        &mut self,
        device: &DeviceId,
        end: SequenceNumber,
        now_mono_ms: u64,
        terms: LockTerms,
        show: impl FnOnce(&Item<Command>) -> R,
    ) -> Option<R> {
        // Who finds nothing must not copy a queue that a snapshot is written of.
        if !self.find(device)?.commands.has_receivable(end, now_mono_ms) {
            return None;
        }
        let mut shown = None;
        self.change(device, (), |queue, ()| shown = queue.commands.lock(end, now_mono_ms, terms).map(show));
        shown
    }

    /// The command whose lock the token proves.
    pub fn locked(
        &self,
        device: &DeviceId,
        token: LockToken,
        holder: LockHolder,
        now_mono_ms: u64,
    ) -> Option<&Item<Command>> {
        self.find(device)?.commands.locked(token, holder, now_mono_ms)
    }

    /// Put a command back in its place. Whether it is there.
    pub fn give_back(&mut self, device: &DeviceId, number: SequenceNumber, delivery_count: u8) -> bool {
        let mut found = false;
        self.change(device, (), |queue, ()| found = queue.commands.give_back(number, delivery_count));
        found
    }

    /// Take a command out. None: it is not there.
    pub fn remove(
        &mut self,
        device: &DeviceId,
        number: SequenceNumber,
    ) -> Option<(GenerationId, Item<Command>)> {
        let mut removed = None;
        self.change(device, (), |queue, ()| {
            removed = queue.commands.remove(number).map(|item| (queue.generation, item));
        });
        if let Some((_, item)) = &removed {
            self.forget(&item.content);
        }
        removed
    }

    /// The device is gone, and its commands with it. How many there were.
    pub fn drop_device(&mut self, device: &DeviceId) -> u32 {
        let Some(queue) = self.queues.remove(device) else { return 0 };
        self.wakes.remove(&(queue.commands.wake_mono_ms(), device.clone()));
        for item in queue.commands.iter() {
            self.forget(&item.content);
        }
        queue.status().depth()
    }

    /// When the first queue wants to be looked at.
    pub fn wake_mono_ms(&self) -> Option<u64> {
        self.wakes.first().map(|(moment, _)| *moment).filter(|moment| *moment < u64::MAX)
    }

    /// A queue that wants to be looked at now.
    pub fn first_due(&self, now_mono_ms: u64) -> Option<DeviceId> {
        self.wakes.first().filter(|(moment, _)| *moment <= now_mono_ms).map(|(_, device)| device.clone())
    }

    /// What is due in a device's queue now; told once, as by [`LockQueue::take_due`].
    pub fn take_due(&mut self, device: &DeviceId, now_mono_ms: u64) -> Option<Due> {
        self.find(device).filter(|queue| queue.commands.wake_mono_ms() <= now_mono_ms)?;
        let mut due = None;
        self.change(device, (), |queue, ()| due = Some(queue.commands.take_due(now_mono_ms)));
        due
    }

    /// Look at a device's queue again at this moment.
    pub fn wake_at(&mut self, device: &DeviceId, mono_ms: u64) {
        self.change(device, (), |queue, ()| queue.commands.wake_at(mono_ms));
    }

    /// All queues as they are now, shared with whoever writes them down.
    pub fn share(&self) -> Vec<(DeviceId, Arc<DeviceQueue>)> {
        self.queues.iter().map(|(device, queue)| (device.clone(), queue.clone())).collect()
    }

    /// Change a device's queue, and keep the moments and the absence of empty queues right. Gives `value` back when the
    /// device has none.
    fn change<V>(&mut self, device: &DeviceId, value: V, act: impl FnOnce(&mut DeviceQueue, V)) -> Option<V> {
        let Some(shared) = self.queues.get_mut(device) else { return Some(value) };
        let queue = Arc::make_mut(shared);
        let before = queue.commands.wake_mono_ms();
        act(queue, value);
        let (after, is_empty) = (queue.commands.wake_mono_ms(), queue.commands.is_empty());
        if is_empty {
            self.wakes.remove(&(before, device.clone()));
            self.queues.remove(device);
        } else if before != after {
            self.wakes.remove(&(before, device.clone()));
            self.wakes.insert((after, device.clone()));
        }
        None
    }

    fn forget(&mut self, command: &Command) {
        self.bytes -= command.bytes();
        self.acked_count -= u64::from(command.ack != Ack::None);
    }
}
