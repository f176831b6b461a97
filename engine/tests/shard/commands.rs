//! Commands, one rule at a time: enqueue, receive, lock, settle, expire, purge, and the receipts of it.

use engine::monitor::{MonitorEvent, Protocol};
use engine::request::*;
use registry::DeviceStatus;

use crate::world::{START_MS, World, connection, device, hub_grant};

const P: PartitionId = PartitionId(0);

/// The back end's connection.
const BACK_END: u32 = 50;

impl World {
    pub fn enqueue_request(
        number: usize,
        body: &[u8],
        ack: Ack,
        ttl_ms: Option<u64>,
        now_ms: u64,
    ) -> Request {
        Request::EnqueueCommand(CommandDraft {
            device: device(number),
            message: body.to_vec(),
            message_id: format!("id-{}", String::from_utf8_lossy(body)),
            ack,
            expires_ms: ttl_ms.map(|ttl_ms| now_ms + ttl_ms),
        })
    }

    fn enqueue(&mut self, number: usize, body: &[u8], ack: Ack, ttl_ms: Option<u64>) {
        let request = World::enqueue_request(number, body, ack, ttl_ms, self.now.wall_ms);
        let reply = self.ask(connection(BACK_END), request);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    pub fn open_receiver(&mut self, by: ConnectionId, session: SessionId) -> ReceiverId {
        match self.ask(by, Request::OpenCommandReceiver { session }) {
            Reply::ReceiverOpened(receiver) => receiver,
            reply => panic!("{reply:?}"),
        }
    }

    /// What a receiver gets now.
    fn receive(&mut self, by: ConnectionId, receiver: ReceiverId, count_max: u32) -> Vec<LockedCommand> {
        let token = self.send(by, Request::Receive { receiver, count_max });
        self.settle();
        if !self.replies.contains_key(&token) {
            self.send(by, Request::CancelReceive { receiver });
        }
        match self.take(token) {
            Some(Reply::Commands(commands)) => commands,
            reply => panic!("{reply:?}"),
        }
    }

    fn receive_receipts(&mut self, by: ConnectionId, receiver: ReceiverId) -> Vec<LockedReceipts> {
        let token = self.send(by, Request::Receive { receiver, count_max: 10 });
        self.settle();
        if !self.replies.contains_key(&token) {
            self.send(by, Request::CancelReceive { receiver });
        }
        match self.take(token) {
            Some(Reply::Receipts(receipts)) => receipts,
            reply => panic!("{reply:?}"),
        }
    }

    pub fn poll_command_request(number: usize, lock_timeout_ms: Option<u64>) -> Request {
        let (device, protocol) = (device(number), Protocol::Https);
        Request::ReceiveCommand { device, grant: hub_grant(), protocol, lock_timeout_ms }
    }

    pub fn poll_command(&mut self, number: usize) -> Option<LockedCommand> {
        match self.ask(connection(7), World::poll_command_request(number, None)) {
            Reply::Commands(mut commands) => commands.pop(),
            reply => panic!("{reply:?}"),
        }
    }

    fn settle_command(
        &mut self,
        by: ConnectionId,
        receiver: ReceiverId,
        token: LockToken,
        settlement: Settlement,
    ) -> Result<(), EngineError> {
        match self.ask(by, Request::Settle { holder: Holder::Receiver(receiver), token, settlement }) {
            Reply::Done => Ok(()),
            Reply::Failed(error) => Err(error),
            reply => panic!("{reply:?}"),
        }
    }

    pub fn settle_polled(
        &mut self,
        number: usize,
        token: LockToken,
        settlement: Settlement,
    ) -> Result<(), EngineError> {
        let holder = Holder::Device { device: device(number), grant: hub_grant(), protocol: Protocol::Https };
        match self.ask(connection(8), Request::Settle { holder, token, settlement }) {
            Reply::Done => Ok(()),
            Reply::Failed(error) => Err(error),
            reply => panic!("{reply:?}"),
        }
    }

    pub fn queue(&mut self, number: usize) -> (u32, u32) {
        match self.ask(connection(BACK_END), Request::DescribeCommandQueue { device: device(number) }) {
            Reply::CommandQueue(status) => (status.enqueued, status.locked),
            reply => panic!("{reply:?}"),
        }
    }

    pub fn open_receipts(&mut self, by: ConnectionId) -> ReceiverId {
        match self.ask(by, Request::OpenReceiptReceiver { partition: P }) {
            Reply::ReceiverOpened(receiver) => receiver,
            reply => panic!("{reply:?}"),
        }
    }

    /// All receipts that were gathered since, as message ids with outcomes; each batch is completed.
    fn take_receipts(&mut self) -> Vec<(String, Outcome)> {
        self.pass(15_000);
        let by = connection(BACK_END);
        let receiver = self.open_receipts(by);
        let mut all = Vec::new();
        loop {
            let batches = self.receive_receipts(by, receiver);
            if batches.is_empty() {
                break;
            }
            for batch in batches {
                all.extend(
                    batch.receipts.iter().map(|receipt| (receipt.message_id.clone(), receipt.outcome)),
                );
                self.settle_command(by, receiver, batch.token, Settlement::Complete).unwrap();
            }
        }
        self.send(by, Request::CloseReceiver { receiver });
        all
    }
}

fn bodies(commands: &[LockedCommand]) -> Vec<String> {
    commands.iter().map(|command| String::from_utf8_lossy(&command.message).into_owned()).collect()
}

#[test]
fn a_waiting_device_gets_its_command_in_the_turn_in_which_it_is_durable() {
    let mut world = World::new(1);
    world.create(0);
    let by = connection(1);
    let session = world.attach(by, 0);
    let receiver = world.open_receiver(by, session);
    let waiting = world.send(by, Request::Receive { receiver, count_max: 10 });
    world.settle();
    assert!(world.take(waiting).is_none(), "there is nothing");
    world.disk.set_delayed(true);
    let enqueue = World::enqueue_request(0, b"go", Ack::Full, None, world.now.wall_ms);
    let enqueued = world.send(connection(BACK_END), enqueue);
    world.turn();
    while !world.replies.contains_key(&enqueued) {
        assert!(!world.replies.contains_key(&waiting), "received before it was durable");
        assert!(world.disk.step());
        world.turn();
    }
    let Some(Reply::Commands(commands)) = world.take(waiting) else { panic!("not received") };
    assert_eq!(bodies(&commands), ["go"]);
    let command = &commands[0];
    assert_eq!((command.enqueued_ms, command.expires_ms), (START_MS, START_MS + 3_600_000));
    assert_eq!((command.delivery_count, command.ack), (0, Ack::Full));
    assert_eq!((command.token.partition(), command.token.number()), (P, command.number));
    assert_eq!(world.queue(0), (0, 1));
    assert_eq!(world.find(0).unwrap().command_count, 1);
    world.settle_command(by, receiver, command.token, Settlement::Complete).unwrap();
    assert_eq!(world.queue(0), (0, 0));
    assert_eq!(world.take_receipts(), [("id-go".to_owned(), Outcome::Success)]);
}

#[test]
fn commands_wait_in_order_over_a_restart_and_what_was_completed_does_not_come_back() {
    let mut world = World::new(1);
    world.create(0);
    for body in [b"a", b"b", b"c"] {
        world.enqueue(0, body, Ack::Positive, None);
    }
    let first = world.poll_command(0).unwrap();
    world.settle_polled(0, first.token, Settlement::Complete).unwrap();
    let second = world.poll_command(0).unwrap();
    let mut world = world.cut_power(1);
    world.assert_healthy();
    assert_eq!(world.settle_polled(0, second.token, Settlement::Complete), Err(EngineError::LockLost));
    let by = connection(1);
    let session = world.attach(by, 0);
    let receiver = world.open_receiver(by, session);
    let commands = world.receive(by, receiver, 10);
    assert_eq!(bodies(&commands), ["b", "c"]);
    assert_eq!(commands[0].number, second.number);
    assert_ne!(commands[0].token, second.token);
    for command in commands {
        world.settle_command(by, receiver, command.token, Settlement::Complete).unwrap();
    }
    let expected = ["id-a", "id-b", "id-c"].map(|id| (id.to_owned(), Outcome::Success));
    assert_eq!(world.take_receipts(), expected);
}

#[test]
fn ten_abandons_are_too_many_and_every_outcome_is_told_to_those_who_asked() {
    let mut world = World::new(1);
    world.create(0);
    for (body, ack) in [(b"n", Ack::Negative), (b"p", Ack::Positive), (b"0", Ack::None), (b"f", Ack::Full)] {
        world.enqueue(0, body, ack, None);
        for count in 0..10 {
            let command = world.poll_command(0).unwrap();
            assert_eq!(command.delivery_count, count);
            world.settle_polled(0, command.token, Settlement::Abandon).unwrap();
        }
        assert!(world.poll_command(0).is_none());
    }
    let exceeded = |id: &str| (id.to_owned(), Outcome::DeliveryCountExceeded);
    assert_eq!(world.take_receipts(), [exceeded("id-n"), exceeded("id-f")]);

    world.enqueue(0, b"r", Ack::Full, None);
    let command = world.poll_command(0).unwrap();
    world.settle_polled(0, command.token, Settlement::Reject).unwrap();
    world.enqueue(0, b"e", Ack::Full, Some(60_000));
    world.pass(60_000);
    assert_eq!(world.queue(0), (0, 0), "expired");
    world.enqueue(0, b"u", Ack::Full, None);
    world.enqueue(0, b"l", Ack::Negative, None);
    world.poll_command(0).unwrap();
    let purge = Request::PurgeCommands { device: device(0) };
    assert!(matches!(world.ask(connection(BACK_END), purge.clone()), Reply::CommandsPurged(2)));
    assert!(matches!(world.ask(connection(BACK_END), purge), Reply::CommandsPurged(0)));
    let expected = [
        ("id-r", Outcome::Rejected),
        ("id-e", Outcome::Expired),
        ("id-u", Outcome::Purged),
        ("id-l", Outcome::Purged),
    ];
    assert_eq!(world.take_receipts(), expected.map(|(id, outcome)| (id.to_owned(), outcome)));
    let counters = *world.shard.counters();
    assert_eq!((counters.commands_enqueued, counters.commands_dead_lettered), (8, 5));
    assert_eq!((counters.commands_expired, counters.commands_purged), (1, 2));
    assert_eq!((counters.commands_given_back, counters.receipts_gathered), (36, 6));
}

#[test]
fn a_lock_is_settled_by_its_holder_alone_while_it_lasts() {
    let mut world = World::new(1);
    world.create(0);
    world.create(1);
    world.enqueue(0, b"a", Ack::None, None);
    world.enqueue(1, b"b", Ack::None, None);
    let (one, two) = (connection(1), connection(2));
    let (session, other) = (world.attach(one, 0), world.attach(two, 1));
    let (receiver, foreign) = (world.open_receiver(one, session), world.open_receiver(two, other));
    let command = world.receive(one, receiver, 1).remove(0);
    let lost = Err(EngineError::LockLost);
    let complete = Settlement::Complete;
    assert_eq!(world.settle_command(two, foreign, command.token, complete), lost, "another device");
    assert_eq!(world.settle_command(two, receiver, command.token, complete), lost, "another connection");
    assert_eq!(world.settle_polled(0, command.token, complete), lost, "a link's lock is its own");
    let forged = LockToken::new(P, command.number, command.token.nonce() ^ 1);
    assert_eq!(world.settle_command(one, receiver, forged, complete), lost, "another nonce");
    let elsewhere = LockToken::new(PartitionId(1), command.number, command.token.nonce());
    assert_eq!(world.settle_command(one, receiver, elsewhere, complete), lost, "another partition");

    world.pass(59_999);
    assert_eq!(world.queue(0), (0, 1));
    world.pass(1);
    assert_eq!(world.queue(0), (1, 0), "the lock is over");
    assert_eq!(world.settle_command(one, receiver, command.token, complete), lost, "an older lock");
    let again = world.receive(one, receiver, 1).remove(0);
    assert_eq!((again.number, again.delivery_count), (command.number, 0), "time is no delivery");
    assert_eq!(world.settle_command(one, receiver, command.token, complete), lost, "an older lock");
    world.settle_command(one, receiver, again.token, complete).unwrap();
    assert_eq!(world.settle_command(one, receiver, again.token, complete), lost, "once only");

    // Over HTTPS the lock is the device's, whatever the connection; a shorter one may be asked for.
    let polled = match world.ask(two, World::poll_command_request(1, Some(5000))) {
        Reply::Commands(mut commands) => commands.remove(0),
        reply => panic!("{reply:?}"),
    };
    world.shard.handle_connection_closed(two, world.now);
    assert_eq!(world.settle_polled(0, polled.token, complete), lost, "another device");
    world.pass(4999);
    assert_eq!(world.queue(1), (0, 1));
    world.settle_polled(1, polled.token, complete).unwrap();
}

#[test]
fn whoever_goes_gives_back_what_it_has_and_a_newer_receiver_takes_over() {
    let mut world = World::new(1);
    world.create(0);
    world.enqueue(0, b"a", Ack::None, None);
    world.enqueue(0, b"b", Ack::None, None);
    let by = connection(1);
    let session = world.attach(by, 0);
    let older = world.open_receiver(by, session);
    assert_eq!(world.receive(by, older, 10).len(), 2);
    let waiting = world.send(by, Request::Receive { receiver: older, count_max: 1 });
    let newer = world.open_receiver(by, session);
    assert!(matches!(world.take(waiting), Some(Reply::Failed(EngineError::ReceiverEnded))));
    assert!(matches!(world.notices[..], [(_, Notice::ReceiverEnded { receiver })] if receiver == older));
    let commands = world.receive(by, newer, 1);
    assert_eq!((bodies(&commands), commands[0].delivery_count), (vec!["a".to_owned()], 0));
    let receive = Request::Receive { receiver: older, count_max: 1 };
    assert_eq!(world.refused(by, receive), EngineError::ReceiverEnded);
    // The link goes; then another link comes and the connection goes.
    world.send(by, Request::CloseReceiver { receiver: newer });
    assert_eq!(world.queue(0), (2, 0));
    let last = world.open_receiver(by, session);
    assert_eq!(world.receive(by, last, 10).len(), 2);
    world.shard.handle_connection_closed(by, world.now);
    assert_eq!(world.queue(0), (2, 0));
    // A session that is stolen ends its receiver.
    let session = world.attach(by, 0);
    let stolen = world.open_receiver(by, session);
    let locked = world.receive(by, stolen, 1).remove(0);
    let waiting = {
        world.receive(by, stolen, 1);
        world.send(by, Request::Receive { receiver: stolen, count_max: 1 })
    };
    let thief = connection(2);
    let session = world.attach(thief, 0);
    assert!(matches!(world.take(waiting), Some(Reply::Failed(EngineError::ReceiverEnded))));
    let lost = Err(EngineError::LockLost);
    assert_eq!(world.settle_command(by, stolen, locked.token, Settlement::Complete), lost);
    let receiver = world.open_receiver(thief, session);
    assert_eq!(bodies(&world.receive(thief, receiver, 10)), ["a", "b"]);
    // What a receiver releases goes back as if it had never been received.
    world.send(thief, Request::CloseReceiver { receiver });
    let receiver = world.open_receiver(thief, session);
    let command = world.receive(thief, receiver, 1).remove(0);
    world.settle_command(thief, receiver, command.token, Settlement::Release).unwrap();
    assert_eq!(world.receive(thief, receiver, 1)[0].delivery_count, 0);
}

#[test]
fn what_cannot_be_enqueued_is_refused_with_its_reason() {
    let mut world = World::new(1);
    world.create(0);
    let by = connection(BACK_END);
    let enqueue = |world: &mut World, number, body: &[u8], ttl_ms: i64| {
        let Request::EnqueueCommand(mut draft) = World::enqueue_request(number, body, Ack::None, None, 0)
        else {
            unreachable!()
        };
        draft.expires_ms = Some(world.now.wall_ms.saturating_add_signed(ttl_ms));
        draft.message_id.truncate(128);
        match world.ask(by, Request::EnqueueCommand(draft)) {
            Reply::Done => None,
            Reply::Failed(error) => Some(error),
            reply => panic!("{reply:?}"),
        }
    };
    assert_eq!(enqueue(&mut world, 3, b"x", 1), Some(EngineError::DeviceNotFound));
    let invalid = Some(EngineError::ExpiryInvalid { ttl_ms_max: 2 * 86_400_000 });
    for ttl_ms in [0, -1, 2 * 86_400_000 + 1] {
        assert_eq!(enqueue(&mut world, 0, b"x", ttl_ms), invalid, "{ttl_ms}");
    }
    let too_large = EngineError::CommandTooLarge { bytes: 4097, bytes_max: 4096 };
    assert_eq!(enqueue(&mut world, 0, &[b'x'; 4097], 1000), Some(too_large));
    assert_eq!(enqueue(&mut world, 0, &[b'x'; 4096], 2 * 86_400_000), None);
    for _ in 1..50 {
        assert_eq!(enqueue(&mut world, 0, b"x", 100_000), None);
    }
    let full = EngineError::QueueFull { depth: 50, depth_max: 50 };
    assert_eq!(enqueue(&mut world, 0, b"x", 1000), Some(full.clone()));
    world.poll_command(0).unwrap();
    assert_eq!(enqueue(&mut world, 0, b"x", 1000), Some(full), "a locked command has its place");
    assert_eq!(world.shard.counters().commands_refused, 7);
    let refused = |event: &&MonitorEvent| matches!(event, MonitorEvent::CommandRefused { .. });
    assert_eq!(world.monitor.iter().filter(refused).count(), 7);
    // A disabled device is not found; what waits stays.
    let draft = DeviceDraft { status: DeviceStatus::Disabled, ..DeviceDraft::new(device(0)) };
    world.ask(by, Request::UpdateDevice { draft, if_match: IfMatch::Any });
    assert_eq!(enqueue(&mut world, 0, b"x", 1000), Some(EngineError::DeviceNotFound));
    assert_eq!(world.refused(by, World::poll_command_request(0, None)), EngineError::DeviceDisabled);
    assert_eq!(world.queue(0), (49, 1));
    for request in [
        Request::PurgeCommands { device: device(3) },
        Request::DescribeCommandQueue { device: device(3) },
        World::poll_command_request(3, None),
    ] {
        assert_eq!(world.refused(by, request), EngineError::DeviceNotFound);
    }
}

#[test]
fn a_deleted_device_takes_its_commands_and_receipts_with_it() {
    let mut world = World::new(1);
    let before = world.create(0);
    world.create(1);
    world.enqueue(0, b"done", Ack::Full, None);
    world.enqueue(1, b"other", Ack::Full, None);
    for number in 0..2 {
        let command = world.poll_command(number).unwrap();
        world.settle_polled(number, command.token, Settlement::Complete).unwrap();
    }
    world.enqueue(0, b"waits", Ack::Full, None);
    world.enqueue(0, b"locked", Ack::Full, None);
    let by = connection(1);
    let session = world.attach(by, 0);
    let receiver = world.open_receiver(by, session);
    let command = world.receive(by, receiver, 1).remove(0);
    let waiting = {
        world.receive(by, receiver, 1);
        world.send(by, Request::Receive { receiver, count_max: 1 })
    };
    world.ask(by, Request::DeleteDevice { device: device(0), if_match: IfMatch::Any });
    assert!(matches!(world.take(waiting), Some(Reply::Failed(EngineError::ReceiverEnded))));
    let after = world.create(0);
    assert_ne!(before.generation, after.generation);
    assert_eq!((world.queue(0), after.command_count), ((0, 0), 0));
    world.enqueue(0, b"new", Ack::Full, None);
    assert_eq!(world.settle_polled(0, command.token, Settlement::Complete), Err(EngineError::LockLost));
    let mut world = world.kill();
    world.assert_healthy();
    let new = world.poll_command(0).unwrap();
    assert_eq!(&*new.message, b"new");
    world.settle_polled(0, new.token, Settlement::Complete).unwrap();
    let outcomes = world.take_receipts();
    let expected = ["id-other", "id-new"].map(|id| (id.to_owned(), Outcome::Success));
    assert_eq!(outcomes, expected);
}

#[test]
fn receipts_are_batched_by_64_or_15_seconds_locked_and_shared_among_receivers() {
    let mut world = World::new(1);
    world.create(0);
    let by = connection(BACK_END);
    for round in 0..2 {
        for number in 0..35 {
            world.enqueue(0, format!("{round}-{number}").as_bytes(), Ack::Full, None);
        }
        world.ask(by, Request::PurgeCommands { device: device(0) });
    }
    let (one, two) = (world.open_receipts(by), world.open_receipts(connection(51)));
    let first = world.receive_receipts(by, one).remove(0);
    assert_eq!((first.receipts.len(), first.delivery_count), (64, 0));
    assert!(world.receive_receipts(connection(51), two).is_empty(), "six more wait for others");
    let waiting = world.send(connection(51), Request::Receive { receiver: two, count_max: 1 });
    world.pass(14_999);
    world.settle();
    assert!(world.take(waiting).is_none());
    assert_eq!(world.shard.next_timeout_ms(), Some(world.now.mono_ms + 1));
    world.pass(1);
    world.settle();
    let Some(Reply::Receipts(second)) = world.take(waiting) else { panic!("no batch") };
    assert_eq!(second[0].receipts.len(), 6);
    assert_eq!(second[0].enqueued_ms, world.now.wall_ms);
    // A lock is one receiver's; it ends with it, or with time.
    let lost = Err(EngineError::LockLost);
    let complete = Settlement::Complete;
    assert_eq!(world.settle_command(connection(51), two, first.token, complete), lost);
    world.shard.handle_connection_closed(by, world.now);
    let again = world.receive_receipts(connection(51), two).remove(0);
    assert_eq!((again.number, again.delivery_count), (first.number, 0));
    world.settle_command(connection(51), two, again.token, Settlement::Abandon).unwrap();
    let again = world.receive_receipts(connection(51), two).remove(0);
    assert_eq!((again.number, again.delivery_count), (first.number, 1));
    world.pass(60_000);
    assert_eq!(world.settle_command(connection(51), two, again.token, complete), lost);
    // What is settled stays away over a restart; what is not comes again, with its count and its number.
    let again = world.receive_receipts(connection(51), two);
    let numbers: Vec<_> = again.iter().map(|batch| (batch.number, batch.delivery_count)).collect();
    assert_eq!(numbers, [(first.number, 1), (second[0].number, 0)]);
    world.settle_command(connection(51), two, again[1].token, complete).unwrap();
    let mut world = world.cut_power(3);
    let receiver = world.open_receipts(by);
    let batches = world.receive_receipts(by, receiver);
    assert_eq!(batches.len(), 1);
    assert_eq!((batches[0].number, batches[0].delivery_count), (first.number, 1));
    assert_eq!(batches[0].receipts, first.receipts);
    // Nobody takes it: it goes after an hour.
    world.send(by, Request::CloseReceiver { receiver });
    world.pass(3_600_000);
    let receiver = world.open_receipts(by);
    assert!(world.receive_receipts(by, receiver).is_empty());
    assert_eq!(world.shard.counters().receipts_dropped, 64);
}
