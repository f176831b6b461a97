//! Random requests, with disks that take their time, kills and power cuts in between, against a plain model.

use std::collections::BTreeMap;

use engine::request::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use registry::{ConsumerGroupId, DeviceStatus, RegistryError};

use crate::checker::{Checker, DEVICES, GROUPS, Thing, group_name, mark, reason};
use crate::world::{World, connection, device};

const PARTITIONS: u16 = 2;

#[derive(Clone, Debug)]
enum Op {
    Create { device: usize },
    Update { device: usize, enabled: bool, condition: bool },
    Delete { device: usize },
    Find { device: usize },
    Open { device: usize, by: u32 },
    Append { device: usize, thief: Option<u32>, count: usize, bytes: usize },
    Close { device: usize, by: u32 },
    Leave { by: u32 },
    Checkpoint { partition: u16, back: u64, force: bool },
    CreateGroup { group: usize },
    DeleteGroup { group: usize },
    Turn,
    Step { count: u8 },
    Jobs,
    Settle,
    Kill,
    CutPower { seed: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let (any_device, any_by) = (0..DEVICES, 0..3_u32);
    prop_oneof![
        2 => any_device.clone().prop_map(|device| Op::Create { device }),
        2 => (any_device.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(device, enabled, condition)| Op::Update { device, enabled, condition }),
        1 => any_device.clone().prop_map(|device| Op::Delete { device }),
        2 => any_device.clone().prop_map(|device| Op::Find { device }),
        4 => (any_device.clone(), any_by.clone()).prop_map(|(device, by)| Op::Open { device, by }),
        16 => (any_device.clone(), prop::option::weighted(0.1, any_by.clone()), 1..4_usize, 0..900_usize)
            .prop_map(|(device, thief, count, bytes)| Op::Append { device, thief, count, bytes }),
        1 => (any_device, any_by.clone()).prop_map(|(device, by)| Op::Close { device, by }),
        1 => any_by.prop_map(|by| Op::Leave { by }),
        3 => (0..PARTITIONS, 0..4_u64, any::<bool>())
            .prop_map(|(partition, back, force)| Op::Checkpoint { partition, back, force }),
        1 => (0..GROUPS).prop_map(|group| Op::CreateGroup { group }),
        1 => (0..GROUPS).prop_map(|group| Op::DeleteGroup { group }),
        4 => Just(Op::Turn),
        4 => (1..12_u8).prop_map(|count| Op::Step { count }),
        1 => Just(Op::Jobs),
        2 => Just(Op::Settle),
        1 => Just(Op::Kill),
        2 => any::<u64>().prop_map(|seed| Op::CutPower { seed }),
    ]
}

/// Everybody exists and is attached.
fn start() -> Vec<Op> {
    let create = |device| Op::Create { device };
    let open = |device| Op::Open { device, by: device as u32 % 3 };
    let everybody = 0..DEVICES;
    everybody.clone().map(create).chain(everybody.map(open)).chain([Op::Settle]).collect()
}

/// What the model knows of the run besides the histories.
#[derive(Default)]
struct Run {
    /// Whether the identity that is there may connect.
    enabled: BTreeMap<usize, bool>,
    /// The session that lives, and by whom it was opened.
    live: BTreeMap<usize, (u32, Option<SessionId>)>,
    /// Answers that will name a session, until they come or it is gone.
    opening: BTreeMap<u64, usize>,
    /// Sessions that were ended, by whom they were opened.
    ended: Vec<(u32, SessionId)>,
    /// The last view of an identity and the place in its history that it shows.
    views: BTreeMap<usize, (usize, ETag)>,
    /// Answers that will show an identity.
    showing: BTreeMap<u64, (usize, usize)>,
}

type ETag = registry::ETag;

impl Run {
    fn end(&mut self, number: usize) {
        if let Some((by, Some(session))) = self.live.remove(&number) {
            self.ended.push((by, session));
        }
        self.opening.retain(|_, opening| *opening != number);
    }

    fn take_answers(&mut self, world: &mut World) {
        let opened: Vec<u64> =
            self.opening.keys().copied().filter(|token| world.replies.contains_key(token)).collect();
        for token in opened {
            let number = self.opening.remove(&token).unwrap();
            match world.take(token) {
                Some(Reply::SessionOpened(session)) => self.live.get_mut(&number).unwrap().1 = Some(session),
                reply => panic!("{reply:?}"),
            }
        }
        let shown: Vec<u64> =
            self.showing.keys().copied().filter(|token| world.replies.contains_key(token)).collect();
        for token in shown {
            let (number, index) = self.showing.remove(&token).unwrap();
            if let Some(Reply::Device(view)) = world.replies.get(&token) {
                self.views.insert(number, (index, view.etag));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn a_shard_keeps_its_promises(ops in prop::collection::vec(op(), 1..120), delayed in any::<bool>()) {
        let mut world = World::new(PARTITIONS);
        world.disk.set_delayed(delayed);
        let mut checker = Checker::new(usize::from(PARTITIONS));
        let mut run = Run::default();
        for op in start().into_iter().chain(ops) {
            world.pass(1);
            world = apply(op, world, &mut checker, &mut run, delayed);
            run.take_answers(&mut world);
            checker.take_answers(&mut world);
        }
        world = world.cut_power(1);
        checker.verify(&mut world);
    }
}

fn apply(op: Op, mut world: World, checker: &mut Checker, run: &mut Run, delayed: bool) -> World {
    let now = world.now.wall_ms;
    match op {
        Op::Create { device: number } => {
            let mut draft = DeviceDraft::new(device(number));
            draft.status_reason = reason(now);
            let token = world.send(connection(90), Request::CreateDevice(draft));
            if checker.history(Thing::Device(number)).latest().is_some() {
                let error = EngineError::Registry(RegistryError::DeviceExists);
                expect_refusal(&mut world, token, &error);
            } else if checker.changed(&mut world, token, Thing::Device(number), Some(now)) {
                run.enabled.insert(number, true);
            }
        }
        Op::Update { device: number, enabled, condition } => {
            let mut draft = DeviceDraft::new(device(number));
            draft.status_reason = reason(now);
            draft.status = if enabled { DeviceStatus::Enabled } else { DeviceStatus::Disabled };
            let history = checker.history(Thing::Device(number));
            let (present, index) = (history.latest().is_some(), history.index());
            let view = run.views.get(&number).filter(|_| condition);
            let if_match = view.map_or(IfMatch::Any, |(_, etag)| IfMatch::ETag(*etag));
            let stale = view.is_some_and(|(seen, _)| *seen != index);
            let token = world.send(connection(90), Request::UpdateDevice { draft, if_match });
            if !present {
                expect_refusal(&mut world, token, &EngineError::DeviceNotFound);
            } else if stale {
                let error = EngineError::Registry(RegistryError::PreconditionFailed);
                expect_refusal(&mut world, token, &error);
            } else if checker.changed(&mut world, token, Thing::Device(number), Some(now)) {
                run.enabled.insert(number, enabled);
                if !enabled {
                    run.end(number);
                }
            }
        }
        Op::Delete { device: number } => {
            let present = checker.history(Thing::Device(number)).latest().is_some();
            let delete = Request::DeleteDevice { device: device(number), if_match: IfMatch::Any };
            let token = world.send(connection(90), delete);
            if !present {
                expect_refusal(&mut world, token, &EngineError::DeviceNotFound);
            } else if checker.changed(&mut world, token, Thing::Device(number), None) {
                run.end(number);
            }
        }
        Op::Find { device: number } => {
            let history = checker.history(Thing::Device(number));
            let (index, latest) = (history.index(), history.latest().copied());
            let token = world.send(connection(90), Request::FindDevice { device: device(number) });
            run.showing.insert(token, (number, index));
            if !delayed {
                world.settle();
                match world.replies.get(&token) {
                    Some(Reply::Device(view)) => assert_eq!(Some(mark(view)), latest),
                    Some(Reply::Failed(EngineError::DeviceNotFound)) => assert_eq!(None, latest),
                    reply => panic!("{reply:?}"),
                }
            }
        }
        Op::Open { device: number, by } => {
            let present = checker.history(Thing::Device(number)).latest().is_some();
            let token = world.send(connection(by), World::open_request(number));
            if !present {
                expect_refusal(&mut world, token, &EngineError::DeviceNotFound);
            } else if !run.enabled[&number] {
                expect_refusal(&mut world, token, &EngineError::DeviceDisabled);
            } else if run.live.get(&number).is_some_and(|(owner, _)| *owner == by) {
                run.opening.insert(token, number);
            } else {
                run.end(number);
                run.live.insert(number, (by, None));
                run.opening.insert(token, number);
            }
        }
        Op::Append { device: number, thief, count, bytes } => {
            let owner = run.live.get(&number).map_or(0, |(owner, _)| *owner);
            let by = thief.unwrap_or(owner);
            let bodies: Vec<Vec<u8>> =
                (0..count).map(|index| format!("{now}/{index}/").into_bytes()).collect();
            let padded = |mut body: Vec<u8>| {
                body.resize(body.len() + bytes, b'.');
                body
            };
            let bodies: Vec<Vec<u8>> = bodies.into_iter().map(padded).collect();
            match run.live.get(&number) {
                Some((owner, Some(session))) if *owner == by => {
                    let token = world.send_events(connection(by), *session, &bodies);
                    match checker.appended(&mut world, token, number, bodies) {
                        None | Some(EngineError::Busy) => {}
                        Some(error) => panic!("refused: {error}"),
                    }
                }
                // Whoever else tries, with a session that was or is another's, is refused.
                live => {
                    let session = live.and_then(|(_, session)| *session).map(|session| (by, session));
                    if let Some((by, session)) = session.or(run.ended.last().copied()) {
                        let token = world.send_events(connection(by), session, &bodies);
                        let refused =
                            matches!(world.take(token), Some(Reply::Failed(EngineError::SessionEnded(_))));
                        assert!(refused);
                    }
                }
            }
        }
        Op::Close { device: number, by } => {
            if let Some((owner, Some(session))) = run.live.get(&number).copied() {
                world.send(connection(by), Request::CloseSession { session });
                if owner == by {
                    run.end(number);
                }
            }
        }
        Op::Leave { by } => {
            world.shard.handle_connection_closed(connection(by), world.now);
            for number in 0..DEVICES {
                if run.live.get(&number).is_some_and(|(owner, _)| *owner == by) {
                    // An answer that is on its way still comes, and is nobody's.
                    run.end(number);
                }
            }
        }
        Op::Checkpoint { partition, back, force } => {
            let partition = PartitionId(partition);
            let token = world.send(connection(90), Request::DescribePartition { partition });
            let Some(Reply::PartitionStatus(status)) = world.take(token) else { panic!("no status") };
            let group = ConsumerGroupId::DEFAULT;
            let number = SequenceNumber((status.next.0 + 1).saturating_sub(back));
            let put = Request::PutCheckpoint { partition, group, number, force };
            let token = world.send(connection(90), put);
            let thing = Thing::Checkpoint(partition, group);
            if number >= status.next {
                let last = status.next.0.checked_sub(1);
                let error = EngineError::CheckpointBeyondEnd { number: number.0, last };
                expect_refusal(&mut world, token, &error);
            } else {
                let present = checker.history(thing).latest().copied();
                let state = match present {
                    Some(present) if !force => present.max(number.0),
                    _ => number.0,
                };
                checker.changed(&mut world, token, thing, Some(state));
            }
        }
        Op::CreateGroup { group } => {
            let create = Request::CreateConsumerGroup { name: group_name(group) };
            let token = world.send(connection(90), create);
            if checker.history(Thing::Group(group)).latest().is_some() {
                expect_refusal(&mut world, token, &EngineError::ConsumerGroupExists);
            } else {
                checker.changed(&mut world, token, Thing::Group(group), Some(now));
            }
        }
        Op::DeleteGroup { group } => {
            // In other letters: names are compared without case.
            let delete = Request::DeleteConsumerGroup { name: group_name(group).to_ascii_uppercase() };
            let token = world.send(connection(90), delete);
            if checker.history(Thing::Group(group)).latest().is_none() {
                expect_refusal(&mut world, token, &EngineError::ConsumerGroupNotFound);
            } else {
                checker.changed(&mut world, token, Thing::Group(group), None);
            }
        }
        Op::Turn => world.turn(),
        Op::Step { count } => {
            for _ in 0..count {
                world.disk.step();
            }
            world.turn();
        }
        Op::Jobs => {
            world.run_jobs();
        }
        Op::Settle => world.settle(),
        Op::Kill => {
            world = world.kill();
            restart(&mut world, checker, run, delayed);
        }
        Op::CutPower { seed } => {
            world = world.cut_power(seed);
            restart(&mut world, checker, run, delayed);
        }
    }
    world
}

fn restart(world: &mut World, checker: &mut Checker, run: &mut Run, delayed: bool) {
    checker.verify(world);
    *run = Run::default();
    for number in 0..DEVICES {
        if let Some(view) = world.find(number) {
            run.enabled.insert(number, view.status == DeviceStatus::Enabled);
        }
    }
    world.disk.set_delayed(delayed);
    // Some come back at once.
    for number in (0..DEVICES).filter(|number| run.enabled.get(number) == Some(&true)) {
        let token = world.send(connection(0), World::open_request(number));
        world.settle();
        let Some(Reply::SessionOpened(session)) = world.take(token) else { panic!("not opened") };
        run.live.insert(number, (0, Some(session)));
    }
}

/// A refusal that shows what the registry knows waits for the journal like any answer; here only what comes is checked.
fn expect_refusal(world: &mut World, token: u64, error: &EngineError) {
    world.settle();
    match world.take(token) {
        Some(Reply::Failed(found)) => assert_eq!(&found, error),
        reply => panic!("expected {error:?}, got {reply:?}"),
    }
}
