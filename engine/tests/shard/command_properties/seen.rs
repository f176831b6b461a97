//! What is seen of a shard, held against the model: answers, queues, batches, and which of several models outlived a power
//! cut.

use engine::monitor::Protocol;
use engine::request::*;

use super::operation::{Change, DEVICES};
use super::run::{Held, Run};
use crate::command_model::{self as model, Answer, Lock, Message, Model, Refusal};
use crate::world::{World, connection, device, hub_grant};

impl Run {
    /// The answer to a change is the one that the model gives.
    pub fn check(&mut self, token: impl Into<Option<u64>>, expected: Result<u32, Refusal>) {
        let Some(token) = token.into() else { return };
        let reply = self.world.take(token);
        let agrees = match (&expected, &reply) {
            (Ok(_), Some(Reply::Done)) => true,
            (Ok(count), Some(Reply::CommandsPurged(purged))) => purged == count,
            (Err(refusal), Some(Reply::Failed(error))) => match refusal {
                Refusal::DeviceNotFound => *error == EngineError::DeviceNotFound,
                Refusal::DeviceDisabled => *error == EngineError::DeviceDisabled,
                Refusal::QueueFull => {
                    let max = self.model.rules.queue_depth_max;
                    *error == EngineError::QueueFull { depth: max, depth_max: max }
                }
                Refusal::ExpiryInvalid => matches!(error, EngineError::ExpiryInvalid { .. }),
                Refusal::LockLost => *error == EngineError::LockLost,
            },
            _ => false,
        };
        assert!(agrees, "expected {expected:?}, got {reply:?}");
    }

    /// All that can be seen is what the model says.
    pub fn compare(&mut self) {
        for (token, answer) in std::mem::take(&mut self.model.answers) {
            let reply = self.world.take(token);
            match (answer, reply) {
                (Answer::Ended, Some(Reply::Failed(EngineError::ReceiverEnded))) => {}
                (Answer::Commands(expected), Some(Reply::Commands(commands))) => {
                    let (device, receiver) = self.holder_of(&expected[0].0);
                    self.compare_commands(device, receiver, &commands, &expected);
                }
                (Answer::Receipts(expected), Some(Reply::Receipts(batches))) => {
                    let (_, receiver) = self.holder_of(&expected[0].0);
                    self.compare_batches(receiver, &batches, &expected);
                }
                (answer, reply) => panic!("expected {answer:?}, got {reply:?}"),
            }
        }
        assert!(self.world.replies.is_empty(), "nobody expected {:?}", self.world.replies);
        for (number, known) in self.model.devices.clone() {
            assert_eq!(self.world.queue(number), self.model.status(number), "queue of {number}");
            let view = self.world.find(number).unwrap();
            assert_eq!(
                (view.command_count as usize, view.generation),
                (known.commands.len(), known.generation)
            );
        }
    }

    fn holder_of(&self, lock: &Lock) -> (Option<usize>, Option<u32>) {
        match lock.holder() {
            model::Holder::Receiver(number) => (self.receivers[&number].2, Some(number)),
            model::Holder::Device => (None, None),
        }
    }

    pub fn compare_commands(
        &mut self,
        device: Option<usize>,
        receiver: Option<u32>,
        commands: &[LockedCommand],
        expected: &[(Lock, Message<model::Command>)],
    ) {
        assert_eq!(commands.len(), expected.len());
        for (command, (lock, message)) in commands.iter().zip(expected) {
            assert!(is_command(command, message), "expected {message:?}, got {command:?}");
            self.held.push(Held { token: command.token, lock_id: lock.id, device, receiver });
        }
    }

    fn compare_batches(
        &mut self,
        receiver: Option<u32>,
        batches: &[LockedReceipts],
        expected: &[(Lock, Message<Vec<model::Receipt>>)],
    ) {
        assert_eq!(batches.len(), expected.len());
        for (batch, (lock, message)) in batches.iter().zip(expected) {
            assert!(is_batch(batch, message), "expected {message:?}, got {batch:?}");
            self.held.push(Held { token: batch.token, lock_id: lock.id, device: None, receiver });
        }
    }

    pub fn replace_world(&mut self, act: impl FnOnce(World) -> World) {
        let spare = World::new(1);
        let world = std::mem::replace(&mut self.world, spare);
        self.world = act(world);
    }

    /// The power goes while a change is on its way: it is there whole or not at all, and there if it was answered.
    pub fn cut_during(&mut self, change: &Change, steps: u8, seed: u64) {
        self.world.settle();
        self.model.turn();
        self.compare();
        let before = self.model.clone();
        self.world.disk.set_delayed(true);
        let token = self.send_change(change);
        self.world.turn();
        for _ in 0..steps {
            self.world.disk.step();
            self.world.turn();
        }
        let was_answered = token.is_some_and(|token| self.world.replies.contains_key(&token));
        let expected = self.model_change(change);
        let mut candidates = vec![self.model.clone()];
        self.model.turn();
        candidates.push(self.model.clone());
        match was_answered {
            true => self.check(token, expected),
            false => candidates.push(before),
        }
        self.replace_world(|world| world.cut_power(seed));
        self.restarted(candidates);
    }

    /// After a restart the hub knows what one of the models knows, which is the right one from then on.
    pub fn restarted(&mut self, mut candidates: Vec<Model>) {
        self.world.assert_healthy();
        self.receivers.clear();
        for model in &mut candidates {
            model.now = self.world.now;
            model.restart();
        }
        self.choose(&mut candidates);
        if candidates.len() > 1 {
            // Receipts are seen once they are in a batch.
            self.world.pass(15_000);
            self.choose(&mut candidates);
        }
        self.model = candidates.swap_remove(0);
    }

    /// Keep those models that know what is to be seen now: one at least.
    fn choose(&mut self, candidates: &mut Vec<Model>) {
        self.world.settle();
        let queues: Vec<Option<Seen>> = (0..DEVICES).map(|number| self.world.see(number)).collect();
        let batches = self.world.see_batches();
        let fits = |model: &Model| {
            let queue_fits = |(number, seen): (usize, &Option<Seen>)| match (seen, model.devices.get(&number))
            {
                (None, None) => true,
                (Some(seen), Some(device)) => {
                    let all = || seen.commands.iter().zip(&device.commands);
                    seen.depth as usize == device.commands.len()
                        && (!device.enabled || seen.commands.len() == device.commands.len())
                        && all().all(|(command, message)| is_command(command, message))
                }
                _ => false,
            };
            queues.iter().enumerate().all(queue_fits)
                && batches.len() == model.batches.len()
                && batches.iter().zip(&model.batches).all(|(batch, message)| is_batch(batch, message))
        };
        for model in candidates.iter_mut() {
            model.now = self.world.now;
            model.turn();
        }
        candidates.retain(fits);
        assert!(!candidates.is_empty(), "no model knows {queues:?} and {batches:?}");
        self.world.replies.clear();
    }
}

/// What is seen of a device's queue.
#[derive(Debug)]
struct Seen {
    depth: u32,
    /// None are shown of a disabled device.
    commands: Vec<LockedCommand>,
}

impl World {
    /// Look at a device's queue and leave it as it was. None: there is no such device.
    fn see(&mut self, number: usize) -> Option<Seen> {
        let depth = self.find(number)?.command_count;
        let mut commands = Vec::new();
        while let Reply::Commands(locked) = self.ask(connection(7), World::poll_command_request(number, None))
            && let Some(command) = locked.into_iter().next()
        {
            commands.push(command);
        }
        for command in &commands {
            let (device, grant, protocol) = (device(number), hub_grant(), Protocol::Https);
            let holder = Holder::Device { device, grant, protocol };
            let release = Request::Settle { holder, token: command.token, settlement: Settlement::Release };
            assert!(matches!(self.ask(connection(7), release), Reply::Done));
        }
        Some(Seen { depth, commands })
    }

    /// Look at the batches of receipts and leave them as they were.
    fn see_batches(&mut self) -> Vec<LockedReceipts> {
        let by = connection(8);
        let receiver = self.open_receipts(by);
        let token = self.send(by, Request::Receive { receiver, count_max: 1000 });
        self.settle();
        if !self.replies.contains_key(&token) {
            self.send(by, Request::CancelReceive { receiver });
        }
        let Some(Reply::Receipts(batches)) = self.take(token) else { panic!("no receipts") };
        for batch in &batches {
            let holder = Holder::Receiver(receiver);
            let release = Request::Settle { holder, token: batch.token, settlement: Settlement::Release };
            assert!(matches!(self.ask(by, release), Reply::Done));
        }
        self.send(by, Request::CloseReceiver { receiver });
        batches
    }
}

fn is_command(command: &LockedCommand, message: &Message<model::Command>) -> bool {
    (command.number.0, command.enqueued_ms, command.expires_ms, command.delivery_count)
        == (message.number, message.enqueued_ms, message.expires_ms, message.delivery_count)
        && (command.ack, &*command.message) == (message.content.ack, &*message.content.body)
}

fn is_batch(batch: &LockedReceipts, message: &Message<Vec<model::Receipt>>) -> bool {
    let receipt = |receipt: &Receipt| model::Receipt {
        message_id: receipt.message_id.clone(),
        device: (0..DEVICES).find(|number| device(*number) == receipt.device).unwrap(),
        generation: receipt.generation,
        word: receipt.outcome.word(),
        at_ms: receipt.at_ms,
    };
    // What expired in several queues at once is told in any order.
    let mut seen: Vec<_> = batch.receipts.iter().map(receipt).collect();
    let mut expected = message.content.clone();
    seen.sort_unstable();
    expected.sort_unstable();
    (batch.number.0, batch.enqueued_ms, batch.delivery_count)
        == (message.number, message.enqueued_ms, message.delivery_count)
        && seen == expected
}
