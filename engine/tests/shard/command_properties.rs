//! Random operations on commands and receipts, held against the plain model: every answer, every queue, every token, over
//! restarts and power cuts.

use std::collections::BTreeMap;

use engine::monitor::Protocol;
use engine::request::*;
use engine::shard::CommandRules;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use registry::DeviceStatus;
use segment_log::storage::sim::SimDisk;

use crate::command_model::{self as model, Answer, Lock, Message, Model, Refusal};
use crate::world::{World, config, connection, device, hub_grant};

const DEVICES: usize = 3;
const P: PartitionId = PartitionId(0);
const ADMIN: u32 = 90;

#[derive(Clone, Debug)]
enum Op {
    Create { device: usize },
    Delete { device: usize },
    SetEnabled { device: usize, enabled: bool },
    Attach { device: usize, by: u32 },
    CloseSession { device: usize },
    Leave { by: u32 },
    OpenReceiver { device: usize },
    CloseReceiver { pick: Index },
    OpenReceipts { by: u32 },
    Receive { pick: Index, count_max: u32 },
    CancelReceive { pick: Index },
    Enqueue(Enqueue),
    Poll { device: usize, timeout_ms: Option<u64> },
    Settle(Settle),
    Purge { device: usize },
    Pass { ms: u64, takes_turn: bool },
    Jump { ms: i64 },
    Jobs,
    Kill,
    CutPower { seed: u64 },
    CutDuring { change: Change, steps: u8, seed: u64 },
}

/// A change that a power cut may meet on its way to the disk.
#[derive(Clone, Debug)]
enum Change {
    Enqueue(Enqueue),
    Settle(Settle),
    Purge { device: usize },
    Delete { device: usize },
}

#[derive(Clone, Debug)]
struct Enqueue {
    device: usize,
    ack: Ack,
    ttl_ms: Option<i64>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Settle {
    pick: Index,
    settlement: Settlement,
    wrong: Option<Wrong>,
}

/// What is wrong with an attempt to settle.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// The token was never given.
    Nonce,
    /// Through the device where a receiver holds the lock, or the other way round.
    Holder,
    /// By another device.
    Device,
    /// By another connection.
    Connection,
}

fn enqueue() -> impl Strategy<Value = Enqueue> {
    let ack = prop::sample::select(vec![Ack::None, Ack::Positive, Ack::Negative, Ack::Full, Ack::Full]);
    let ttl_ms = prop::sample::select(vec![
        None,
        None,
        Some(20_000),
        Some(70_000),
        Some(600_000),
        Some(0),
        Some(172_800_001),
    ]);
    (0..DEVICES, ack, ttl_ms, 0..600_usize).prop_map(|(device, ack, ttl_ms, bytes)| Enqueue {
        device,
        ack,
        ttl_ms,
        bytes,
    })
}

fn settle() -> impl Strategy<Value = Settle> {
    let settlement = prop_oneof![
        4 => Just(Settlement::Complete),
        4 => Just(Settlement::Abandon),
        1 => Just(Settlement::Release),
        2 => Just(Settlement::Reject),
    ];
    let wrong = prop::sample::select(vec![Wrong::Nonce, Wrong::Holder, Wrong::Device, Wrong::Connection]);
    (any::<Index>(), settlement, prop::option::weighted(0.15, wrong))
        .prop_map(|(pick, settlement, wrong)| Settle { pick, settlement, wrong })
}

fn op() -> impl Strategy<Value = Op> {
    let (any_device, any_by) = (0..DEVICES, 0..3_u32);
    let change = prop_oneof![
        3 => enqueue().prop_map(Change::Enqueue),
        4 => settle().prop_map(Change::Settle),
        1 => any_device.clone().prop_map(|device| Change::Purge { device }),
        1 => any_device.clone().prop_map(|device| Change::Delete { device }),
    ];
    let timeout_ms = prop::sample::select(vec![None, Some(0), Some(5000), Some(1_000_000)]);
    let ms = prop::sample::select(vec![1, 5000, 15_000, 20_000, 60_000, 61_000, 600_000, 3_600_000]);
    prop_oneof![
        2 => any_device.clone().prop_map(|device| Op::Create { device }),
        1 => any_device.clone().prop_map(|device| Op::Delete { device }),
        1 => (any_device.clone(), any::<bool>()).prop_map(|(device, enabled)| Op::SetEnabled { device, enabled }),
        3 => (any_device.clone(), any_by.clone()).prop_map(|(device, by)| Op::Attach { device, by }),
        1 => any_device.clone().prop_map(|device| Op::CloseSession { device }),
        1 => any_by.clone().prop_map(|by| Op::Leave { by }),
        3 => any_device.clone().prop_map(|device| Op::OpenReceiver { device }),
        1 => any::<Index>().prop_map(|pick| Op::CloseReceiver { pick }),
        2 => any_by.prop_map(|by| Op::OpenReceipts { by }),
        12 => (any::<Index>(), 1..4_u32).prop_map(|(pick, count_max)| Op::Receive { pick, count_max }),
        2 => any::<Index>().prop_map(|pick| Op::CancelReceive { pick }),
        18 => enqueue().prop_map(Op::Enqueue),
        4 => (any_device.clone(), timeout_ms).prop_map(|(device, timeout_ms)| Op::Poll { device, timeout_ms }),
        20 => settle().prop_map(Op::Settle),
        1 => any_device.prop_map(|device| Op::Purge { device }),
        8 => (ms, any::<bool>()).prop_map(|(ms, takes_turn)| Op::Pass { ms, takes_turn }),
        1 => prop::sample::select(vec![-3_600_000, 3_600_000]).prop_map(|ms| Op::Jump { ms }),
        2 => Just(Op::Jobs),
        1 => Just(Op::Kill),
        1 => any::<u64>().prop_map(|seed| Op::CutPower { seed }),
        4 => (change, 0..8_u8, any::<u64>()).prop_map(|(change, steps, seed)| Op::CutDuring { change, steps, seed }),
    ]
}

/// A lock that was once given, whatever became of it.
#[derive(Clone, Debug)]
struct Held {
    token: LockToken,
    lock_id: u64,
    /// None: a batch of receipts.
    device: Option<usize>,
    /// None: the device holds it.
    receiver: Option<u32>,
}

struct Run {
    world: World,
    model: Model,
    held: Vec<Held>,
    /// All receivers of this run, by the model's number: their ids, connections and what they receive.
    receivers: BTreeMap<u32, (ReceiverId, u32, Option<usize>)>,
    next_body: u64,
}

impl Run {
    fn new(rules: CommandRules) -> Self {
        let mut config = config(1);
        config.commands = rules.clone();
        let now = World::new(1).now;
        let world = World::open(SimDisk::new(9), config, now);
        let model = Model::new(rules, now);
        let mut run = Self { world, model, held: Vec::new(), receivers: BTreeMap::new(), next_body: 0 };
        for device in 0..DEVICES {
            run.apply(Op::Create { device });
            run.apply(Op::Attach { device, by: device as u32 });
            run.apply(Op::OpenReceiver { device });
        }
        run.apply(Op::OpenReceipts { by: 0 });
        run
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Create { device: number } => {
                let create = Request::CreateDevice(DeviceDraft::new(device(number)));
                match self.world.ask(connection(ADMIN), create) {
                    Reply::Device(view) => self.model.create(number, view.generation),
                    Reply::Failed(EngineError::Registry(_)) => {
                        assert!(self.model.devices.contains_key(&number))
                    }
                    reply => panic!("{reply:?}"),
                }
            }
            Op::Delete { device } => {
                let token = self.send_change(&Change::Delete { device });
                self.world.settle();
                let expected = self.model_change(&Change::Delete { device });
                self.check(token, expected);
            }
            Op::SetEnabled { device: number, enabled } => {
                let status = if enabled { DeviceStatus::Enabled } else { DeviceStatus::Disabled };
                let draft = DeviceDraft { status, ..DeviceDraft::new(device(number)) };
                let update = Request::UpdateDevice { draft, if_match: IfMatch::Any };
                match self.world.ask(connection(ADMIN), update) {
                    Reply::Device(_) => self.model.set_enabled(number, enabled),
                    Reply::Failed(EngineError::DeviceNotFound) => {
                        assert!(!self.model.devices.contains_key(&number))
                    }
                    reply => panic!("{reply:?}"),
                }
            }
            Op::Attach { device, by } => {
                let token = self.world.send(connection(by), World::open_request(device));
                self.world.settle();
                match self.model.attach(device, by) {
                    Ok(()) => assert!(matches!(self.world.take(token), Some(Reply::SessionOpened(_)))),
                    Err(refusal) => self.check(token, Err(refusal)),
                }
            }
            Op::CloseSession { device } => {
                let Some((by, session)) = self.session(device) else { return };
                self.world.send(connection(by), Request::CloseSession { session });
                self.model.end_session(device);
            }
            Op::Leave { by } => self.leave(by),
            Op::OpenReceiver { device } => {
                let Some((by, session)) = self.session(device) else { return };
                let id = self.world.open_receiver(connection(by), session);
                let number = self.model.open_receiver(by, Some(device));
                self.receivers.insert(number, (id, by, Some(device)));
            }
            Op::OpenReceipts { by } => {
                let id = self.world.open_receipts(connection(by));
                let number = self.model.open_receiver(by, None);
                self.receivers.insert(number, (id, by, None));
            }
            Op::CloseReceiver { pick } => {
                let Some((number, receiver, by)) = self.receiver(&pick) else { return };
                self.world.send(connection(by), Request::CloseReceiver { receiver });
                self.model.end_receiver(number);
            }
            Op::Receive { pick, count_max } => {
                let Some((number, receiver, by)) = self.receiver(&pick) else { return };
                let token = self.world.send(connection(by), Request::Receive { receiver, count_max });
                match self.model.receivers[&number].waiting {
                    Some(_) => {
                        assert!(matches!(self.world.take(token), Some(Reply::Failed(EngineError::Busy))))
                    }
                    None => self.model.ask(number, token, count_max as usize),
                }
            }
            Op::CancelReceive { pick } => {
                let Some((number, receiver, by)) = self.receiver(&pick) else { return };
                // What waits after a turn waits because there is nothing.
                self.world.settle();
                self.model.turn();
                self.compare();
                self.world.send(connection(by), Request::CancelReceive { receiver });
                if let Some(waiting) = self.model.receivers.get_mut(&number).unwrap().waiting.take() {
                    match self.world.take(waiting.token) {
                        Some(Reply::Commands(commands)) => assert!(commands.is_empty()),
                        Some(Reply::Receipts(batches)) => assert!(batches.is_empty()),
                        reply => panic!("{reply:?}"),
                    }
                }
            }
            Op::Enqueue(enqueue) => self.change(&Change::Enqueue(enqueue)),
            Op::Settle(settle) => self.change(&Change::Settle(settle)),
            Op::Purge { device } => self.change(&Change::Purge { device }),
            Op::Poll { device, timeout_ms } => {
                let token = self.world.send(connection(7), World::poll_command_request(device, timeout_ms));
                let expected = self.model.poll(device, timeout_ms);
                self.world.settle();
                match expected {
                    Err(refusal) => self.check(token, Err(refusal)),
                    Ok(locked) => {
                        let Some(Reply::Commands(commands)) = self.world.take(token) else {
                            panic!("no answer")
                        };
                        let locked: Vec<_> = locked.into_iter().collect();
                        self.compare_commands(Some(device), None, &commands, &locked);
                    }
                }
            }
            Op::Pass { ms, takes_turn } => {
                self.world.pass(ms);
                self.model.now = self.world.now;
                if !takes_turn {
                    return;
                }
            }
            Op::Jump { ms } => {
                self.world.now.wall_ms = self.world.now.wall_ms.saturating_add_signed(ms);
                self.model.now = self.world.now;
            }
            Op::Jobs => {
                self.world.turn();
                self.world.run_jobs();
            }
            Op::Kill => {
                self.replace_world(World::kill);
                self.restarted(vec![self.model.clone()]);
            }
            Op::CutPower { seed } => {
                self.replace_world(|world| world.cut_power(seed));
                self.restarted(vec![self.model.clone()]);
            }
            Op::CutDuring { change, steps, seed } => self.cut_during(&change, steps, seed),
        }
        self.world.settle();
        self.model.turn();
        self.compare();
    }

    fn session(&mut self, device: usize) -> Option<(u32, SessionId)> {
        let by = self.model.devices.get(&device)?.session?;
        // Opening again on the same connection gives the session that there is.
        Some((by, self.world.attach(connection(by), device)))
    }

    fn leave(&mut self, by: u32) {
        self.world.shard.handle_connection_closed(connection(by), self.world.now);
        let of_connection = |device: &model::Device| device.session == Some(by);
        let devices: Vec<usize> = self
            .model
            .devices
            .iter()
            .filter(|(_, device)| of_connection(device))
            .map(|(number, _)| *number)
            .collect();
        devices.into_iter().for_each(|device| self.model.end_session(device));
        let receivers = self.model.receivers.iter().filter(|(_, receiver)| receiver.by == by);
        let receivers: Vec<u32> = receivers.map(|(number, _)| *number).collect();
        receivers.into_iter().for_each(|receiver| self.model.end_receiver(receiver));
    }

    /// A receiver that lives.
    fn receiver(&self, pick: &Index) -> Option<(u32, ReceiverId, u32)> {
        let alive: Vec<u32> = self.model.receivers.keys().copied().collect();
        let number = *alive.get(pick.index(alive.len().max(1)))?;
        let (id, by, _) = self.receivers[&number];
        Some((number, id, by))
    }

    fn change(&mut self, change: &Change) {
        let token = self.send_change(change);
        self.world.settle();
        let expected = self.model_change(change);
        if let Some(token) = token {
            self.check(Some(token), expected);
        }
    }

    /// Hand a change to the engine. None: there is nothing to settle.
    fn send_change(&mut self, change: &Change) -> Option<u64> {
        match change {
            Change::Enqueue(enqueue) => {
                let (draft, _) = self.draft(enqueue);
                Some(self.world.send(connection(ADMIN), Request::EnqueueCommand(draft)))
            }
            Change::Settle(settle) => {
                let (by, request, ..) = self.settlement(settle)?;
                Some(self.world.send(by, request))
            }
            Change::Purge { device: number } => {
                let request = Request::PurgeCommands { device: device(*number) };
                Some(self.world.send(connection(ADMIN), request))
            }
            Change::Delete { device: number } => {
                let request = Request::DeleteDevice { device: device(*number), if_match: IfMatch::Any };
                Some(self.world.send(connection(ADMIN), request))
            }
        }
    }

    /// What the model makes of a change; the count is that of a purge.
    fn model_change(&mut self, change: &Change) -> Result<u32, Refusal> {
        match change {
            Change::Enqueue(enqueue) => {
                let (draft, command) = self.draft(enqueue);
                self.next_body += 1;
                self.model.enqueue(enqueue.device, command, draft.expires_ms).map(|()| 0)
            }
            Change::Settle(settle) => {
                let Some((_, _, holder, device, lock_id)) = self.settlement(settle) else { return Ok(0) };
                if holder == model::Holder::Device
                    && let Some(number) = device
                {
                    match self.model.devices.get(&number) {
                        None => return Err(Refusal::DeviceNotFound),
                        Some(device) if !device.enabled => return Err(Refusal::DeviceDisabled),
                        Some(_) => {}
                    }
                }
                let is_alive = match holder {
                    model::Holder::Receiver(number) => self.model.receivers.contains_key(&number),
                    model::Holder::Device => true,
                };
                match is_alive {
                    true => self.model.settle(holder, device, lock_id, settle.settlement).map(|()| 0),
                    false => Err(Refusal::LockLost),
                }
            }
            Change::Purge { device } => self.model.purge(*device),
            Change::Delete { device } => match self.model.devices.contains_key(device) {
                true => {
                    self.model.delete(*device);
                    Ok(0)
                }
                false => Err(Refusal::DeviceNotFound),
            },
        }
    }

    fn draft(&self, enqueue: &Enqueue) -> (CommandDraft, model::Command) {
        let mut body = format!("{}/", self.next_body).into_bytes();
        body.resize(body.len() + enqueue.bytes, b'.');
        let message_id = format!("id-{}", self.next_body);
        let expires_ms = enqueue.ttl_ms.map(|ms| self.world.now.wall_ms.saturating_add_signed(ms));
        let draft = CommandDraft {
            device: device(enqueue.device),
            message: body.clone(),
            message_id: message_id.clone(),
            ack: enqueue.ack,
            expires_ms,
        };
        (draft, model::Command { body, message_id, ack: enqueue.ack })
    }

    /// Who settles what, and how the model calls it: the holder, the device, the lock (0: none that ever was).
    fn settlement(
        &self,
        settle: &Settle,
    ) -> Option<(ConnectionId, Request, model::Holder, Option<usize>, u64)> {
        // Mostly one of those that were given lately.
        let recent = &self.held[self.held.len().saturating_sub(6)..];
        let held = recent.get(settle.pick.index(recent.len().max(1)))?;
        let (mut token, mut lock_id) = (held.token, held.lock_id);
        let (mut device_number, mut receiver) = (held.device, held.receiver);
        if let Some(number) = receiver
            && !self.receivers.contains_key(&number)
        {
            // A token of an earlier run, tried through whoever receives the same now.
            let receives_same = |(_, receiver): &(&u32, &model::Receiver)| receiver.device == device_number;
            receiver = Some(*self.model.receivers.iter().find(receives_same)?.0);
        }
        let mut stranger = false;
        match settle.wrong {
            None => {}
            Some(Wrong::Nonce) => {
                token = LockToken::new(P, token.number(), token.nonce() ^ 1);
                lock_id = 0;
            }
            Some(Wrong::Holder) => {
                receiver = match receiver {
                    Some(_) => None,
                    None => self.model.devices.get(&device_number?)?.receiver,
                };
                device_number = device_number.or(Some(0));
            }
            Some(Wrong::Device) => {
                device_number = Some((device_number.unwrap_or(0) + 1) % DEVICES);
                receiver = None;
            }
            Some(Wrong::Connection) => {
                receiver?;
                stranger = true;
                lock_id = 0;
            }
        }
        let (by, holder, model_holder) = match receiver {
            Some(number) => {
                let (id, by, _) = self.receivers[&number];
                // To another connection the receiver does not exist.
                let (by, number) = if stranger { (by + 1, u32::MAX) } else { (by, number) };
                (by, Holder::Receiver(id), model::Holder::Receiver(number))
            }
            None => {
                let holder = Holder::Device {
                    device: device(device_number?),
                    grant: hub_grant(),
                    protocol: Protocol::Https,
                };
                (7, holder, model::Holder::Device)
            }
        };
        let request = Request::Settle { holder, token, settlement: settle.settlement };
        Some((connection(by), request, model_holder, device_number, lock_id))
    }

    /// The answer to a change is the one that the model gives.
    fn check(&mut self, token: impl Into<Option<u64>>, expected: Result<u32, Refusal>) {
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
    fn compare(&mut self) {
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

    fn compare_commands(
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

    fn replace_world(&mut self, act: impl FnOnce(World) -> World) {
        let spare = World::new(1);
        let world = std::mem::replace(&mut self.world, spare);
        self.world = act(world);
    }

    /// The power goes while a change is on its way: it is there whole or not at all, and there if it was answered.
    fn cut_during(&mut self, change: &Change, steps: u8, seed: u64) {
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
    fn restarted(&mut self, mut candidates: Vec<Model>) {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn commands_and_receipts_are_what_the_model_says(
        ops in prop::collection::vec(op(), 1..150),
        counts_every_lock in any::<bool>(),
    ) {
        let mut run = Run::new(CommandRules {
            queue_depth_max: 5,
            command_bytes_max: 4096,
            delivery_count_max: 3,
            receipt_delivery_count_max: 2,
            counts_every_lock,
            ..CommandRules::default()
        });
        for op in ops {
            run.apply(op);
        }
    }
}
