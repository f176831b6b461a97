//! The power goes at every single operation of a workload: each answer that was given before is found to be true after.

use engine::Now;
use engine::request::*;
use registry::{ConsumerGroupId, DeviceStatus};
use segment_log::storage::sim::{PowerCut, SimDisk};

use crate::checker::{Checker, DEVICES, Thing, group_name, reason};
use crate::world::{START_MS, World, config, connection, device};

const PARTITIONS: u16 = 2;

/// A workload of every kind of change, with rolls and snapshots in between. It goes on, and is refused, when the power is
/// off.
fn workload(disk: SimDisk) -> (World, Checker) {
    let mut world = World::open(disk, config(PARTITIONS), Now { wall_ms: START_MS, mono_ms: 0 });
    let mut checker = Checker::new(usize::from(PARTITIONS));
    let admin = connection(90);
    for round in 0..6_u64 {
        for number in 0..DEVICES {
            world.pass(1);
            let mark = world.now.wall_ms;
            let mut draft = DeviceDraft::new(device(number));
            draft.status_reason = reason(mark);
            let present = checker.history(Thing::Device(number)).latest().is_some();
            let deletes = round % 3 == 2 && number % 2 == 1;
            let (request, state) = match (present, deletes) {
                (false, _) => (Request::CreateDevice(draft), Some(mark)),
                (true, true) => {
                    (Request::DeleteDevice { device: draft.device, if_match: IfMatch::Any }, None)
                }
                (true, false) => {
                    draft.status = DeviceStatus::Enabled;
                    (Request::UpdateDevice { draft, if_match: IfMatch::Any }, Some(mark))
                }
            };
            let token = world.send(admin, request);
            if checker.changed(&mut world, token, Thing::Device(number), state) && state.is_none() {
                checker.changed(&mut world, token, Thing::Subscription(number), None);
            }
        }
        // Some changes and events share a commit, others do not.
        advance(&mut world, &mut checker);
        for number in (0..DEVICES).filter(|number| !(round % 3 == 2 && number % 2 == 1)) {
            let token = world.send(connection(number as u32), World::open_request(number));
            advance(&mut world, &mut checker);
            let Some(Reply::SessionOpened(session)) = world.take(token) else { continue };
            let mark = (round % 3 != 0).then_some(world.now.wall_ms);
            let address = |mark: u64| Subscription { address: mark.to_string().into(), needs_ack: true };
            let put = Request::PutSubscription { session, subscription: mark.map(address) };
            let token = world.send(connection(number as u32), put);
            checker.changed(&mut world, token, Thing::Subscription(number), mark);
            for batch in 0..3_usize {
                let body = |index| format!("{round}/{number}/{batch}/{index}").repeat(40).into_bytes();
                let bodies: Vec<Vec<u8>> = (0..=batch).map(body).collect();
                let token = world.send_events(connection(number as u32), session, &bodies);
                checker.appended(&mut world, token, number, bodies);
            }
        }
        advance(&mut world, &mut checker);
        for partition in (0..PARTITIONS).map(PartitionId) {
            let token = world.send(admin, Request::DescribePartition { partition });
            let Some(Reply::PartitionStatus(status)) = world.take(token) else { continue };
            let Some(last) = status.next.0.checked_sub(1) else { continue };
            let group = ConsumerGroupId::DEFAULT;
            let put = Request::PutCheckpoint { partition, group, number: SequenceNumber(last), force: false };
            let token = world.send(admin, put);
            checker.changed(&mut world, token, Thing::Checkpoint(partition, group), Some(last));
        }
        let group = (round % 2) as usize;
        let (request, state) = match checker.history(Thing::Group(group)).latest() {
            None => (Request::CreateConsumerGroup { name: group_name(group) }, Some(world.now.wall_ms)),
            Some(_) => (Request::DeleteConsumerGroup { name: group_name(group) }, None),
        };
        let token = world.send(admin, request);
        checker.changed(&mut world, token, Thing::Group(group), state);
        advance(&mut world, &mut checker);
    }
    (world, checker)
}

/// A turn whose answers count from the moment they are given.
fn advance(world: &mut World, checker: &mut Checker) {
    for _ in 0..3 {
        world.turn();
        checker.take_answers(world);
        world.run_jobs();
    }
}

/// Cut the power at each operation from `start` in steps of `stride`, and look at what is left.
fn cut_everywhere(start: u64, stride: usize) {
    let disk = SimDisk::new(5);
    let (world, _) = workload(disk.clone());
    assert!(world.shard.counters().snapshots >= 2, "the workload is to take snapshots");
    assert!(world.shard.counters().events_appended > 100);
    let operations = disk.operation_count();
    for operation in (start..operations).step_by(stride) {
        let disk = SimDisk::new(5);
        disk.cut_power_at(operation);
        let (world, mut checker) = workload(disk);
        assert!(world.disk.is_power_off(), "operation {operation} of {operations}");
        let mut world = world.cut_power(operation);
        checker.verify(&mut world);
        // And it goes on: what comes now is kept, too.
        world.pass(1);
        let mark = world.now.wall_ms;
        let mut draft = DeviceDraft::new(device(0));
        draft.status_reason = reason(mark);
        let request = match checker.history(Thing::Device(0)).latest() {
            Some(_) => Request::UpdateDevice { draft, if_match: IfMatch::Any },
            None => Request::CreateDevice(draft),
        };
        let token = world.send(connection(90), request);
        assert!(checker.changed(&mut world, token, Thing::Device(0), Some(mark)), "operation {operation}");
        world.settle();
        checker.take_answers(&mut world);
        let mut world = world.cut_power(operation + 1);
        checker.verify(&mut world);
    }
}

#[test]
fn whatever_was_answered_survives_a_power_cut_at_every_operation() {
    cut_everywhere(0, 1);
}

#[test]
fn the_power_may_go_again_while_the_shard_recovers() {
    let disk = SimDisk::new(5);
    workload(disk.clone());
    let operations = disk.operation_count();
    for first_cut in [operations / 5, operations / 2, operations - 3] {
        let crashed = || {
            let disk = SimDisk::new(5);
            disk.cut_power_at(first_cut);
            let (world, checker) = workload(disk);
            (
                world.disk.after_power_cut(PowerCut { seed: first_cut, sector_bytes: 512, garbage: true }),
                checker,
            )
        };
        let now = Now { wall_ms: START_MS + 10_000, mono_ms: 0 };
        let (disk, _) = crashed();
        let before = disk.operation_count();
        World::open(disk.clone(), config(PARTITIONS), now).settle();
        let recovery = before..disk.operation_count();
        assert!(recovery.end > recovery.start, "recovery writes");
        for operation in recovery {
            let (disk, mut checker) = crashed();
            disk.cut_power_at(operation);
            let mut world = World::open(disk, config(PARTITIONS), now);
            world.settle();
            assert!(world.disk.is_power_off());
            let mut world = world.cut_power(operation);
            checker.verify(&mut world);
        }
    }
}
