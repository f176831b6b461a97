//! What commands and receipts are, said as plainly as can be: lists that are looked through from the front, no journal, no
//! sharing, no indices. The engine must show the same, request by request.

use std::collections::BTreeMap;

use engine::Now;
use engine::request::{Ack, Outcome, Settlement};
use engine::shard::CommandRules;
use registry::GenerationId;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A receiver, by a number of the model's own.
    Receiver(u32),
    /// The device, over HTTPS.
    Device,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Each lock is another.
    pub id: u64,
    holder: Holder,
    ends_mono_ms: u64,
}

impl Lock {
    pub fn holder(&self) -> Holder {
        self.holder
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<T> {
    pub number: u64,
    pub enqueued_ms: u64,
    expires_mono_ms: u64,
    pub expires_ms: u64,
    pub delivery_count: u8,
    lock: Option<Lock>,
    pub content: T,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub body: Vec<u8>,
    pub message_id: String,
    pub ack: Ack,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    pub message_id: String,
    pub device: usize,
    pub generation: GenerationId,
    pub word: &'static str,
    pub at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub generation: GenerationId,
    pub enabled: bool,
    pub commands: Vec<Message<Command>>,
    /// Who is attached, and the receiver of that session.
    pub session: Option<u32>,
    pub receiver: Option<u32>,
}

/// A receiver: who it belongs to, what it receives, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiver {
    pub by: u32,
    /// None: receipts.
    pub device: Option<usize>,
    pub waiting: Option<Waiting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub token: u64,
    count_max: usize,
    /// The smaller, the earlier it asked.
    order: u64,
}

/// What a waiting receiver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Commands(Vec<(Lock, Message<Command>)>),
    Receipts(Vec<(Lock, Message<Vec<Receipt>>)>),
    Ended,
}

/// What the model refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    DeviceNotFound,
    DeviceDisabled,
    QueueFull,
    ExpiryInvalid,
    LockLost,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub rules: CommandRules,
    pub now: Now,
    pub devices: BTreeMap<usize, Device>,
    pub receivers: BTreeMap<u32, Receiver>,
    pub pending: Vec<Receipt>,
    batch_due_mono_ms: Option<u64>,
    pub batches: Vec<Message<Vec<Receipt>>>,
    next_number: u64,
    next_id: u64,
    /// What receivers were told since it was last taken.
    pub answers: Vec<(u64, Answer)>,
}

impl Model {
    pub fn new(rules: CommandRules, now: Now) -> Self {
        Self {
            rules,
            now,
            devices: BTreeMap::new(),
            receivers: BTreeMap::new(),
            pending: Vec::new(),
            batch_due_mono_ms: None,
            batches: Vec::new(),
            next_number: 0,
            next_id: 0,
            answers: Vec::new(),
        }
    }

    pub fn create(&mut self, device: usize, generation: GenerationId) {
        let new = Device { generation, enabled: true, commands: Vec::new(), session: None, receiver: None };
        assert!(self.devices.insert(device, new).is_none());
    }

    pub fn delete(&mut self, device: usize) {
        self.pending.retain(|receipt| receipt.device != device);
        if self.pending.is_empty() {
            self.batch_due_mono_ms = None;
        }
        if let Some(device) = self.devices.get_mut(&device) {
            device.commands.clear();
        }
        self.end_session(device);
        self.devices.remove(&device);
    }

    pub fn set_enabled(&mut self, device: usize, enabled: bool) {
        self.devices.get_mut(&device).unwrap().enabled = enabled;
        if !enabled {
            self.end_session(device);
        }
    }

    pub fn attach(&mut self, device: usize, by: u32) -> Result<(), Refusal> {
        let found = self.devices.get(&device).ok_or(Refusal::DeviceNotFound)?;
        if !found.enabled {
            return Err(Refusal::DeviceDisabled);
        }
        if found.session != Some(by) {
            self.end_session(device);
            self.devices.get_mut(&device).unwrap().session = Some(by);
        }
        Ok(())
    }

    pub fn end_session(&mut self, device: usize) {
        let found = self.devices.get_mut(&device).unwrap();
        found.session = None;
        if let Some(receiver) = found.receiver.take() {
            self.end_receiver(receiver);
        }
    }

    /// A receiver opens; its number.
    pub fn open_receiver(&mut self, by: u32, device: Option<usize>) -> u32 {
        if let Some(device) = device
            && let Some(older) = self.devices.get_mut(&device).unwrap().receiver.take()
        {
            self.end_receiver(older);
        }
        self.next_id += 1;
        let id = self.next_id as u32;
        self.receivers.insert(id, Receiver { by, device, waiting: None });
        if let Some(device) = device {
            self.devices.get_mut(&device).unwrap().receiver = Some(id);
        }
        id
    }

    pub fn end_receiver(&mut self, id: u32) {
        let Receiver { device, waiting, .. } = self.receivers.remove(&id).unwrap();
        if let Some(waiting) = waiting {
            self.answers.push((waiting.token, Answer::Ended));
        }
        let holds = |lock: Option<Lock>| lock.is_some_and(|lock| lock.holder == Holder::Receiver(id));
        match device {
            Some(device) => {
                let found = self.devices.get_mut(&device).unwrap();
                if found.receiver == Some(id) {
                    found.receiver = None;
                }
                let commands = &self.devices[&device].commands;
                let numbers: Vec<u64> = commands
                    .iter()
                    .filter(|command| holds(command.lock))
                    .map(|command| command.number)
                    .collect();
                for number in numbers {
                    self.give_back(device, number, self.rules.counts_every_lock);
                }
            }
            None => {
                let numbers: Vec<u64> =
                    self.batches.iter().filter(|batch| holds(batch.lock)).map(|batch| batch.number).collect();
                for number in numbers {
                    self.give_batch_back(number, self.rules.counts_every_lock);
                }
            }
        }
    }

    pub fn enqueue(
        &mut self,
        device: usize,
        command: Command,
        expires_ms: Option<u64>,
    ) -> Result<(), Refusal> {
        let generation = self.devices.get(&device).filter(|device| device.enabled);
        generation.ok_or(Refusal::DeviceNotFound)?;
        let expires_ms = expires_ms.unwrap_or(self.now.wall_ms + self.rules.ttl_ms_default);
        if expires_ms <= self.now.wall_ms || expires_ms > self.now.wall_ms + self.rules.ttl_ms_max {
            return Err(Refusal::ExpiryInvalid);
        }
        self.sweep(device);
        let commands = &mut self.devices.get_mut(&device).unwrap().commands;
        if commands.len() >= self.rules.queue_depth_max as usize {
            return Err(Refusal::QueueFull);
        }
        commands.push(Message {
            number: self.next_number,
            enqueued_ms: self.now.wall_ms,
            expires_mono_ms: self.now.mono_ms + (expires_ms - self.now.wall_ms),
            expires_ms,
            delivery_count: 0,
            lock: None,
            content: command,
        });
        self.next_number += 1;
        Ok(())
    }

    /// The device asks over HTTPS.
    pub fn poll(
        &mut self,
        device: usize,
        timeout_ms: Option<u64>,
    ) -> Result<Option<(Lock, Message<Command>)>, Refusal> {
        if !self.devices.get(&device).ok_or(Refusal::DeviceNotFound)?.enabled {
            return Err(Refusal::DeviceDisabled);
        }
        self.sweep(device);
        let longest_ms = self.rules.lock_timeout_ms;
        let timeout_ms = timeout_ms.unwrap_or(longest_ms).clamp(1, longest_ms);
        Ok(self.lock_command(device, Holder::Device, timeout_ms))
    }

    pub fn ask(&mut self, receiver: u32, token: u64, count_max: usize) {
        self.next_id += 1;
        let waiting = Waiting { token, count_max, order: self.next_id };
        self.receivers.get_mut(&receiver).unwrap().waiting = Some(waiting);
    }

    /// Whoever `holder` is settles what was locked by `lock_id`, as a command of `device` or as a batch.
    pub fn settle(
        &mut self,
        holder: Holder,
        device: Option<usize>,
        lock_id: u64,
        settlement: Settlement,
    ) -> Result<(), Refusal> {
        let now = self.now.mono_ms;
        let is_proven = |lock: Option<Lock>| {
            lock.is_some_and(|lock| lock.id == lock_id && lock.holder == holder && lock.ends_mono_ms > now)
        };
        match device {
            Some(device) => {
                self.sweep(device);
                let mut commands = self.devices[&device].commands.iter();
                let number =
                    commands.find(|command| is_proven(command.lock)).ok_or(Refusal::LockLost)?.number;
                match settlement {
                    Settlement::Complete => self.remove(device, number, Outcome::Success),
                    Settlement::Reject => self.remove(device, number, Outcome::Rejected),
                    Settlement::Abandon => self.give_back(device, number, true),
                    Settlement::Release => self.give_back(device, number, false),
                }
            }
            None => {
                self.sweep_batches();
                let number = self.batches.iter().find(|batch| is_proven(batch.lock));
                let number = number.ok_or(Refusal::LockLost)?.number;
                match settlement {
                    Settlement::Complete | Settlement::Reject => {
                        self.batches.retain(|batch| batch.number != number);
                    }
                    Settlement::Abandon => self.give_batch_back(number, true),
                    Settlement::Release => self.give_batch_back(number, false),
                }
            }
        }
        Ok(())
    }

    pub fn purge(&mut self, device: usize) -> Result<u32, Refusal> {
        self.devices.get(&device).ok_or(Refusal::DeviceNotFound)?;
        self.sweep(device);
        let numbers: Vec<u64> = self.devices[&device].commands.iter().map(|command| command.number).collect();
        for number in &numbers {
            self.remove(device, *number, Outcome::Purged);
        }
        Ok(numbers.len() as u32)
    }

    /// How many wait and how many are locked.
    pub fn status(&self, device: usize) -> (u32, u32) {
        let commands = &self.devices[&device].commands;
        let locked = commands.iter().filter(|command| command.lock.is_some()).count();
        ((commands.len() - locked) as u32, locked as u32)
    }

    /// The end of a turn: what is due is done, then everybody who waits is looked at.
    pub fn turn(&mut self) {
        let devices: Vec<usize> = self.devices.keys().copied().collect();
        for device in devices {
            self.sweep(device);
        }
        self.sweep_batches();
        let mut waiting: Vec<(u64, u32)> = self
            .receivers
            .iter()
            .filter_map(|(id, receiver)| receiver.waiting.map(|waiting| (waiting.order, *id)))
            .collect();
        waiting.sort_unstable();
        for (_, id) in waiting {
            self.serve(id);
        }
    }

    /// The hub starts again: nobody is there, nothing is locked, and what is left of each life is by the wall clock.
    pub fn restart(&mut self) {
        self.receivers.clear();
        self.answers.clear();
        let now = self.now;
        let moment = |from_ms: u64, until_ms: u64| {
            let (left, whole) = (until_ms.saturating_sub(now.wall_ms), until_ms - from_ms);
            now.mono_ms + left.min(whole)
        };
        for device in self.devices.values_mut() {
            (device.session, device.receiver) = (None, None);
            for command in &mut device.commands {
                command.lock = None;
                command.expires_mono_ms = moment(command.enqueued_ms, command.expires_ms);
            }
        }
        for batch in &mut self.batches {
            batch.lock = None;
            batch.expires_mono_ms = moment(batch.enqueued_ms, batch.expires_ms);
        }
        if !self.pending.is_empty() {
            self.batch_due_mono_ms = Some(now.mono_ms + 15_000);
        }
    }

    fn serve(&mut self, id: u32) {
        let Some(Receiver { device, waiting: Some(waiting), .. }) = self.receivers.get(&id).cloned() else {
            return;
        };
        let answer = match device {
            Some(device) => {
                let mut commands = Vec::new();
                while commands.len() < waiting.count_max
                    && let Some(command) =
                        self.lock_command(device, Holder::Receiver(id), self.rules.lock_timeout_ms)
                {
                    commands.push(command);
                }
                (!commands.is_empty()).then_some(Answer::Commands(commands))
            }
            None => {
                let mut batches = Vec::new();
                let timeout_ms = self.rules.receipt_lock_timeout_ms;
                while batches.len() < waiting.count_max
                    && let Some(batch) = lock(
                        &mut self.batches,
                        Holder::Receiver(id),
                        timeout_ms,
                        self.now.mono_ms,
                        &mut self.next_id,
                    )
                {
                    batches.push(batch);
                }
                (!batches.is_empty()).then_some(Answer::Receipts(batches))
            }
        };
        if let Some(answer) = answer {
            self.receivers.get_mut(&id).unwrap().waiting = None;
            self.answers.push((waiting.token, answer));
        }
    }

    fn lock_command(
        &mut self,
        device: usize,
        holder: Holder,
        timeout_ms: u64,
    ) -> Option<(Lock, Message<Command>)> {
        let commands = &mut self.devices.get_mut(&device).unwrap().commands;
        lock(commands, holder, timeout_ms, self.now.mono_ms, &mut self.next_id)
    }

    /// What time does to a device's commands.
    fn sweep(&mut self, device: usize) {
        let now = self.now.mono_ms;
        let commands = self.devices[&device].commands.clone();
        for command in commands.iter().filter(|command| command.lock.is_none()) {
            if command.expires_mono_ms <= now {
                self.remove(device, command.number, Outcome::Expired);
            }
        }
        for command in &commands {
            if command.lock.is_some_and(|lock| lock.ends_mono_ms <= now) {
                self.give_back(device, command.number, self.rules.counts_every_lock);
            }
        }
    }

    fn sweep_batches(&mut self) {
        let now = self.now.mono_ms;
        while self.batch_due_mono_ms.is_some_and(|due| due <= now) {
            let count = self.pending.len().min(64);
            let content = self.pending.drain(..count).collect();
            self.batches.push(Message {
                number: self.next_number,
                enqueued_ms: self.now.wall_ms,
                expires_mono_ms: now + self.rules.receipt_ttl_ms,
                expires_ms: self.now.wall_ms + self.rules.receipt_ttl_ms,
                delivery_count: 0,
                lock: None,
                content,
            });
            self.next_number += 1;
            self.batch_due_mono_ms = match self.pending.len() {
                0 => None,
                1..64 => Some(now + 15_000),
                _ => Some(now),
            };
        }
        self.batches.retain(|batch| batch.lock.is_some() || batch.expires_mono_ms > now);
        for batch in self.batches.clone() {
            if batch.lock.is_some_and(|lock| lock.ends_mono_ms <= now) {
                self.give_batch_back(batch.number, self.rules.counts_every_lock);
            }
        }
    }

    fn give_back(&mut self, device: usize, number: u64, counts: bool) {
        let commands = &mut self.devices.get_mut(&device).unwrap().commands;
        let command = commands.iter_mut().find(|command| command.number == number).unwrap();
        command.lock = None;
        command.delivery_count += u8::from(counts);
        if counts && command.delivery_count >= self.rules.delivery_count_max {
            self.remove(device, number, Outcome::DeliveryCountExceeded);
        } else if command.expires_mono_ms <= self.now.mono_ms {
            self.remove(device, number, Outcome::Expired);
        }
    }

    fn give_batch_back(&mut self, number: u64, counts: bool) {
        let batch = self.batches.iter_mut().find(|batch| batch.number == number).unwrap();
        batch.lock = None;
        batch.delivery_count += u8::from(counts);
        let is_exceeded = counts && batch.delivery_count >= self.rules.receipt_delivery_count_max;
        if is_exceeded || batch.expires_mono_ms <= self.now.mono_ms {
            self.batches.retain(|batch| batch.number != number);
        }
    }

    fn remove(&mut self, device: usize, number: u64, outcome: Outcome) {
        let found = self.devices.get_mut(&device).unwrap();
        let index = found.commands.iter().position(|command| command.number == number).unwrap();
        let command = found.commands.remove(index).content;
        let is_told = match command.ack {
            Ack::None => false,
            Ack::Positive => outcome == Outcome::Success,
            Ack::Negative => outcome != Outcome::Success,
            Ack::Full => true,
        };
        if is_told {
            self.pending.push(Receipt {
                message_id: command.message_id,
                device,
                generation: found.generation,
                word: outcome.word(),
                at_ms: self.now.wall_ms,
            });
            if self.pending.len() >= 64 {
                self.batch_due_mono_ms = Some(self.now.mono_ms);
            } else if self.batch_due_mono_ms.is_none() {
                self.batch_due_mono_ms = Some(self.now.mono_ms + 15_000);
            }
        }
    }
}

/// Lock the oldest that is neither locked nor expired.
fn lock<T: Clone>(
    messages: &mut [Message<T>],
    holder: Holder,
    timeout_ms: u64,
    now_mono_ms: u64,
    next_id: &mut u64,
) -> Option<(Lock, Message<T>)> {
    let waits = |message: &&mut Message<T>| message.lock.is_none() && message.expires_mono_ms > now_mono_ms;
    let message = messages.iter_mut().find(waits)?;
    *next_id += 1;
    let lock = Lock { id: *next_id, holder, ends_mono_ms: now_mono_ms + timeout_ms };
    message.lock = Some(lock);
    Some((lock, message.clone()))
}
