//! The power goes at every single operation of a workload of commands: what was acknowledged is there, what was completed
//! does not come back, and the journal is as long as what is alive.

use std::collections::{BTreeMap, BTreeSet};

use engine::Now;
use engine::monitor::Protocol;
use engine::request::*;
use engine::shard::ShardConfig;
use segment_log::storage::sim::SimDisk;

use crate::world::{START_MS, World, config, connection, device, hub_grant};

const P: PartitionId = PartitionId(0);
const DEVICES: usize = 3;
const ADMIN: u32 = 90;

/// What the other side knows of one command or receipt, by its message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Sent; no answer came.
    Sent,
    /// Its enqueueing was acknowledged.
    Enqueued,
    /// Its completion was sent after it had been received; no answer came.
    Completing,
    /// Its completion was acknowledged.
    Completed,
}

#[derive(Default)]
struct Ledger {
    commands: BTreeMap<String, Known>,
    /// Receipts whose batch was completed, the answer having come or not.
    taken: BTreeSet<String>,
    maybe_taken: BTreeSet<String>,
    pending: BTreeMap<u64, Pending>,
}

#[derive(Clone, Debug)]
enum Pending {
    Enqueue(String),
    Complete(String),
    CompleteBatch(Vec<String>),
}

impl Ledger {
    fn take_answers(&mut self, world: &mut World) {
        let answered: Vec<u64> =
            self.pending.keys().copied().filter(|token| world.replies.contains_key(token)).collect();
        for token in answered {
            let (pending, reply) = (self.pending.remove(&token).unwrap(), world.take(token));
            match (pending, reply) {
                (_, Some(Reply::Failed(EngineError::StorageFailed | EngineError::Busy))) => {}
                (Pending::Enqueue(id), Some(Reply::Done)) => {
                    // It may have been received and completed before its sender was told.
                    if self.commands[&id] == Known::Sent {
                        self.commands.insert(id, Known::Enqueued);
                    }
                }
                (Pending::Complete(id), Some(Reply::Done)) => {
                    self.commands.insert(id, Known::Completed);
                }
                (Pending::CompleteBatch(ids), Some(Reply::Done)) => self.taken.extend(ids),
                (pending, reply) => panic!("{pending:?}: {reply:?}"),
            }
        }
    }

    /// What is found after the cut is what may be: by the ids of waiting commands and of receipts.
    fn verify(&self, waiting: &BTreeSet<String>, told: &BTreeSet<String>) {
        for id in waiting.iter().chain(told) {
            assert!(self.commands.contains_key(id), "{id} is invented");
        }
        for (id, known) in &self.commands {
            let (waits, is_told) = (waiting.contains(id), told.contains(id));
            assert!(!(waits && is_told), "{id} is both");
            let was_taken = self.taken.contains(id);
            let may_be_taken = was_taken || self.maybe_taken.contains(id);
            match known {
                Known::Sent => assert!(!is_told, "{id} was never completed"),
                Known::Enqueued => assert!(waits && !is_told, "{id} is lost"),
                Known::Completing => {
                    assert!(waits || is_told || may_be_taken, "{id} is lost without a receipt")
                }
                Known::Completed => {
                    assert!(!waits, "{id} reappears");
                    assert!(is_told || may_be_taken, "the receipt of {id} is lost");
                }
            }
            if was_taken {
                assert!(!is_told && !waits, "{id} was done with");
            }
        }
    }
}

/// Devices that get commands, complete most of them, and a back end that takes the receipts; with rolls and snapshots in
/// between. It goes on, and is refused, when the power is off.
fn workload(disk: SimDisk) -> (World, Ledger) {
    let mut world = World::open(disk, config(1), Now { wall_ms: START_MS, mono_ms: 0 });
    let mut ledger = Ledger::default();
    for number in 0..DEVICES {
        world.send(connection(ADMIN), Request::CreateDevice(DeviceDraft::new(device(number))));
    }
    advance(&mut world, &mut ledger);
    let receivers: Vec<Option<ReceiverId>> =
        (0..DEVICES).map(|number| receiver(&mut world, number)).collect();
    for round in 0..12 {
        world.pass(5000);
        for number in 0..DEVICES {
            for index in 0..3 {
                let id = format!("{round}-{number}-{index}");
                let message = id.repeat(30).into_bytes();
                let (device, ack, expires_ms) = (device(number), Ack::Full, None);
                let draft = CommandDraft { device, message, message_id: id.clone(), ack, expires_ms };
                let token = world.send(connection(ADMIN), Request::EnqueueCommand(draft));
                ledger.commands.insert(id.clone(), Known::Sent);
                ledger.pending.insert(token, Pending::Enqueue(id));
            }
        }
        advance(&mut world, &mut ledger);
        for (number, receiver) in receivers.iter().enumerate() {
            let Some(receiver) = *receiver else { continue };
            let by = connection(number as u32);
            let receive = world.send(by, Request::Receive { receiver, count_max: 2 + round % 2 });
            advance(&mut world, &mut ledger);
            let Some(Reply::Commands(commands)) = world.take(receive) else { continue };
            for command in commands {
                let id = id_of(&command.message);
                let holder = Holder::Receiver(receiver);
                let settlement = Settlement::Complete;
                let settle = Request::Settle { holder, token: command.token, settlement };
                let token = world.send(by, settle);
                ledger.commands.insert(id.clone(), Known::Completing);
                ledger.pending.insert(token, Pending::Complete(id));
            }
        }
        advance(&mut world, &mut ledger);
        if round % 4 == 3 {
            take_receipts(&mut world, &mut ledger);
        }
    }
    (world, ledger)
}

fn receiver(world: &mut World, number: usize) -> Option<ReceiverId> {
    let by = connection(number as u32);
    let token = world.send(by, World::open_request(number));
    world.turn();
    let Some(Reply::SessionOpened(session)) = world.take(token) else { return None };
    let token = world.send(by, Request::OpenCommandReceiver { session });
    world.turn();
    match world.take(token) {
        Some(Reply::ReceiverOpened(receiver)) => Some(receiver),
        _ => None,
    }
}

fn take_receipts(world: &mut World, ledger: &mut Ledger) {
    let by = connection(ADMIN);
    let token = world.send(by, Request::OpenReceiptReceiver { partition: P });
    world.turn();
    let Some(Reply::ReceiverOpened(receiver)) = world.take(token) else { return };
    let token = world.send(by, Request::Receive { receiver, count_max: 2 });
    advance(world, ledger);
    let Some(Reply::Receipts(batches)) = world.take(token) else { return };
    for batch in batches {
        let ids: Vec<String> = batch.receipts.iter().map(|receipt| receipt.message_id.clone()).collect();
        let (holder, settlement) = (Holder::Receiver(receiver), Settlement::Complete);
        let token = world.send(by, Request::Settle { holder, token: batch.token, settlement });
        ledger.maybe_taken.extend(ids.iter().cloned());
        ledger.pending.insert(token, Pending::CompleteBatch(ids));
    }
    advance(world, ledger);
    world.send(by, Request::CloseReceiver { receiver });
}

/// A turn whose answers count from the moment they are given.
fn advance(world: &mut World, ledger: &mut Ledger) {
    for _ in 0..3 {
        world.turn();
        ledger.take_answers(world);
        world.run_jobs();
    }
}

fn id_of(message: &[u8]) -> String {
    String::from_utf8_lossy(&message[..message.len() / 30]).into_owned()
}

/// The ids of everything that waits, and of everything that is told.
fn look(world: &mut World) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut waiting, mut told) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..DEVICES {
        if world.find(number).is_none() {
            continue;
        }
        let mut last = None;
        while let Reply::Commands(commands) =
            world.ask(connection(7), World::poll_command_request(number, None))
            && let Some(command) = commands.first()
        {
            assert!(last.replace(command.number) < Some(command.number), "in order");
            assert_eq!(command.message.len() % 30, 0);
            assert!(waiting.insert(id_of(&command.message)), "twice");
        }
    }
    world.pass(15_000);
    let receiver = world.open_receipts(connection(ADMIN));
    let token = world.send(connection(ADMIN), Request::Receive { receiver, count_max: 1000 });
    world.settle();
    if !world.replies.contains_key(&token) {
        world.send(connection(ADMIN), Request::CancelReceive { receiver });
    }
    let Some(Reply::Receipts(batches)) = world.take(token) else { panic!("no receipts") };
    for receipt in batches.iter().flat_map(|batch| batch.receipts.iter()) {
        assert_eq!(receipt.outcome, Outcome::Success);
        assert!(told.insert(receipt.message_id.clone()), "told twice");
    }
    (waiting, told)
}

#[test]
fn commands_settlements_and_receipts_survive_a_power_cut_at_every_operation() {
    let disk = SimDisk::new(6);
    let (world, ledger) = workload(disk.clone());
    let counters = *world.shard.counters();
    assert!(counters.snapshots >= 2, "{counters:?}");
    assert!(counters.receipt_batches_completed >= 2 && counters.commands_completed >= 60, "{counters:?}");
    assert!(ledger.pending.is_empty());
    for operation in 0..disk.operation_count() {
        let disk = SimDisk::new(6);
        disk.cut_power_at(operation);
        let (world, ledger) = workload(disk);
        assert!(world.disk.is_power_off());
        let mut world = world.cut_power(operation);
        world.assert_healthy();
        let (waiting, told) = look(&mut world);
        ledger.verify(&waiting, &told);
        // A second cut changes nothing of it.
        let mut world = world.cut_power(operation + 1);
        world.assert_healthy();
        assert_eq!(look(&mut world), (waiting, told), "operation {operation}");
    }
}

#[test]
fn nothing_is_handed_out_before_it_is_durable() {
    let mut world = World::new(1);
    world.create(0);
    let by = connection(1);
    let receiver = world.open_receipts(by);
    world.disk.set_delayed(true);
    let enqueue = World::enqueue_request(0, b"go", Ack::Full, None, world.now.wall_ms);
    let enqueued = world.send(connection(ADMIN), enqueue);
    let mut polls = Vec::new();
    while !world.replies.contains_key(&enqueued) {
        polls.push(world.send(connection(7), World::poll_command_request(0, None)));
        world.turn();
        assert!(world.replies.contains_key(&enqueued) || world.disk.step());
    }
    assert!(polls.len() > 1, "nothing was on its way");
    for poll in polls {
        assert!(matches!(world.take(poll), Some(Reply::Commands(commands)) if commands.is_empty()));
    }
    let command = world.poll_command(0).expect("it is durable");
    world.settle_polled(0, command.token, Settlement::Complete).unwrap();

    // A batch of receipts is made in the turn in which it is due. What is answered after that waits for it.
    world.pass(15_000);
    world.turn();
    assert_eq!(world.shard.counters().receipt_batches_made, 1);
    let waiting = world.send(by, Request::Receive { receiver, count_max: 1 });
    let durable = world.send(connection(ADMIN), Request::FindDevice { device: device(0) });
    world.turn();
    assert!(!world.replies.contains_key(&durable), "nothing was on its way");
    while !world.replies.contains_key(&durable) {
        assert!(!world.replies.contains_key(&waiting), "received before it was durable");
        assert!(world.disk.step());
        world.turn();
    }
    assert!(matches!(world.take(waiting), Some(Reply::Receipts(batches)) if batches.len() == 1));
}

/// Send and complete commands, a hundred at a time, to devices of which a few never answer.
fn churn(config: ShardConfig, count: u64) {
    let mut world = World::open(SimDisk::new(4), config, Now { wall_ms: START_MS, mono_ms: 0 });
    for number in 0..DEVICES {
        world.create(number);
    }
    let by = connection(1);
    let session = world.attach(by, 0);
    let receiver = world.open_receiver(by, session);
    let draft = |number: usize| CommandDraft {
        device: device(number),
        message: vec![b'x'; 100],
        message_id: String::new(),
        ack: Ack::None,
        expires_ms: None,
    };
    // These wait all the time and are written down again with every snapshot.
    for _ in 0..20 {
        world.ask(connection(ADMIN), Request::EnqueueCommand(draft(1)));
    }
    let (mut most_bytes, mut done) = (0, 0);
    while done < count {
        for _ in 0..50 {
            world.send(connection(ADMIN), Request::EnqueueCommand(draft(0)));
        }
        world.turn();
        let token = world.send(by, Request::Receive { receiver, count_max: 50 });
        world.turn();
        let Some(Reply::Commands(commands)) = world.take(token) else { panic!("nothing to receive") };
        done += commands.len() as u64;
        for command in commands {
            let (holder, settlement) = (Holder::Receiver(receiver), Settlement::Complete);
            world.send(by, Request::Settle { holder, token: command.token, settlement });
        }
        world.turn();
        world.run_jobs();
        world.turn();
        assert!(world.replies.values().all(|reply| matches!(reply, Reply::Done)), "{:?}", world.replies);
        world.replies.clear();
        world.monitor.clear();
        most_bytes = most_bytes.max(journal_bytes(&world));
    }
    let counters = *world.shard.counters();
    assert_eq!(counters.commands_completed, done);
    // Each snapshot of about 3.5 KiB pays for itself; segments are 32 to 64 KiB, one open, one prepared, one to recycle, one
    // not yet cut.
    assert!(most_bytes < 400 << 10, "the journal has grown to {most_bytes} bytes");
    assert!(counters.snapshots > done / 200, "{counters:?}");
    let mut world = world.kill();
    world.assert_healthy();
    assert_eq!((world.queue(0), world.queue(1)), ((0, 0), (20, 0)));
}

fn journal_bytes(world: &World) -> u64 {
    world.disk.files("0/journal").into_iter().map(|(_, bytes)| bytes).sum()
}

#[test]
fn the_journal_follows_what_is_alive_and_not_what_ever_was() {
    churn(config(1), 1_000_000);
}

#[test]
fn the_limits_on_what_a_partition_holds_are_answered() {
    let mut settings = config(1);
    settings.commands.waiting_bytes_max = 4096;
    settings.commands.receipt_count_max = 3;
    settings.limits.receipt_receiver_count_max = 2;
    let mut world = World::open(SimDisk::new(4), settings, Now { wall_ms: START_MS, mono_ms: 0 });
    world.create(0);
    world.create(1);
    let enqueue = |world: &mut World, number, bytes, ack| {
        let request = World::enqueue_request(number, &vec![b'y'; bytes], ack, None, 0);
        let Request::EnqueueCommand(mut draft) = request else { unreachable!() };
        draft.message_id.clear();
        world.ask(connection(ADMIN), Request::EnqueueCommand(draft))
    };
    let is_busy = |reply| matches!(reply, Reply::Failed(EngineError::Busy));
    // Bytes, the places in memory among them.
    assert!(matches!(enqueue(&mut world, 0, 3000, Ack::None), Reply::Done));
    assert!(is_busy(enqueue(&mut world, 1, 3000, Ack::None)));
    world.ask(connection(ADMIN), Request::PurgeCommands { device: device(0) });
    assert!(matches!(enqueue(&mut world, 1, 3000, Ack::None), Reply::Done));
    world.ask(connection(ADMIN), Request::PurgeCommands { device: device(1) });
    // Receipts, those that may come and those that nobody took.
    for _ in 0..3 {
        assert!(matches!(enqueue(&mut world, 0, 1, Ack::Full), Reply::Done));
    }
    assert!(is_busy(enqueue(&mut world, 0, 1, Ack::Positive)));
    assert!(matches!(enqueue(&mut world, 0, 1, Ack::None), Reply::Done));
    world.ask(connection(ADMIN), Request::PurgeCommands { device: device(0) });
    assert!(is_busy(enqueue(&mut world, 0, 1, Ack::Negative)), "the receipts are still there");
    world.pass(15_000);
    world.settle();
    world.pass(3_600_000);
    world.settle();
    assert!(matches!(enqueue(&mut world, 0, 1, Ack::Negative), Reply::Done), "nobody took them");
    // Receivers of receipts.
    world.open_receipts(connection(1));
    world.open_receipts(connection(2));
    let refused = world.refused(connection(3), Request::OpenReceiptReceiver { partition: P });
    assert_eq!(refused, EngineError::Busy);
    world.shard.handle_connection_closed(connection(1), world.now);
    world.open_receipts(connection(3));
}

#[test]
fn a_full_disk_refuses_commands_and_still_takes_what_ends_them() {
    let mut settings = config(1);
    settings.commands.queue_depth_max = 800;
    settings.snapshot_due_bytes = u64::MAX;
    let mut world = World::open(SimDisk::new(4), settings, Now { wall_ms: START_MS, mono_ms: 0 });
    world.create(0);
    world.settle();
    world.disk.set_capacity(Some(world.disk.used_bytes()));
    let mut enqueued = 0;
    let refusal = loop {
        let request = World::enqueue_request(0, &[b'z'; 1000], Ack::None, None, 0);
        let Request::EnqueueCommand(mut draft) = request else { unreachable!() };
        draft.message_id.clear();
        match world.ask(connection(ADMIN), Request::EnqueueCommand(draft)) {
            Reply::Done => enqueued += 1,
            Reply::Failed(error) => break error,
            reply => panic!("{reply:?}"),
        }
        assert!(enqueued < 800, "the disk is full");
    };
    assert_eq!(refusal, EngineError::StorageFull);
    // Every one of them can be received and completed on what the journal holds in reserve.
    for _ in 0..enqueued {
        let reply = world.ask(connection(7), World::poll_command_request(0, None));
        let Reply::Commands(commands) = reply else { panic!("{reply:?}") };
        let holder = Holder::Device { device: device(0), grant: hub_grant(), protocol: Protocol::Https };
        let settle = Request::Settle { holder, token: commands[0].token, settlement: Settlement::Complete };
        let reply = world.ask(connection(7), settle);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }
    assert_eq!(world.queue(0), (0, 0));
    world.disk.set_capacity(None);
    world.pass(60_000);
    world.settle();
    let request = World::enqueue_request(0, b"again", Ack::None, None, 0);
    assert!(matches!(world.ask(connection(ADMIN), request), Reply::Done), "there is room again");
}
