//! Operations carried out on a shard and on the model at once.

use std::collections::BTreeMap;

use engine::monitor::Protocol;
use engine::request::*;
use engine::shard::CommandRules;
use proptest::sample::Index;
use registry::DeviceStatus;
use segment_log::storage::sim::SimDisk;

use super::operation::{Change, DEVICES, Enqueue, Op, Settle, Wrong};
use crate::command_model::{self as model, Model, Refusal};
use crate::world::{World, config, connection, device, hub_grant};

const P: PartitionId = PartitionId(0);
const ADMIN: u32 = 90;

/// A lock that was once given, whatever became of it.
#[derive(Clone, Debug)]
pub struct Held {
    pub token: LockToken,
    pub lock_id: u64,
    /// None: a batch of receipts.
    pub device: Option<usize>,
    /// None: the device holds it.
    pub receiver: Option<u32>,
}

pub struct Run {
    pub world: World,
    pub model: Model,
    pub held: Vec<Held>,
    /// All receivers of this run, by the model's number: their ids, connections and what they receive.
    pub receivers: BTreeMap<u32, (ReceiverId, u32, Option<usize>)>,
    pub next_body: u64,
}

impl Run {
    pub fn new(rules: CommandRules) -> Self {
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

    pub fn apply(&mut self, op: Op) {
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
    pub fn send_change(&mut self, change: &Change) -> Option<u64> {
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
    pub fn model_change(&mut self, change: &Change) -> Result<u32, Refusal> {
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
}
