//! Many changes of identities in one request.

use engine::limits::DEVICE_CHANGE_COUNT_MAX;
use engine::request::*;
use registry::{DeviceStatus, ETag, RegistryError};

use crate::world::{World, connection, device};

fn change(world: &mut World, changes: Vec<DeviceChange>) -> Vec<Result<(), EngineError>> {
    match world.ask(connection(1), Request::ChangeDevices { partition: PartitionId(0), changes }) {
        Reply::DevicesChanged(results) => results,
        reply => panic!("{reply:?}"),
    }
}

fn create(number: usize) -> DeviceChange {
    DeviceChange::Create(DeviceDraft::new(device(number)))
}

#[test]
fn each_change_is_done_or_refused_for_itself() {
    let mut world = World::new(1);
    let before = world.create(1);
    let disabled = DeviceDraft { status: DeviceStatus::Disabled, ..DeviceDraft::new(device(1)) };
    let update = |if_match| DeviceChange::Update { draft: disabled.clone(), if_match };
    let delete = |number, if_match| DeviceChange::Delete { device: device(number), if_match };
    let results = change(
        &mut world,
        vec![
            create(2),
            create(2),
            update(IfMatch::ETag(ETag(u64::MAX))),
            update(IfMatch::ETag(before.etag)),
            delete(2, IfMatch::Any),
            delete(2, IfMatch::Any),
            create(3),
        ],
    );
    let refused = |error| Err(EngineError::Registry(error));
    let expected = [
        Ok(()),
        refused(RegistryError::DeviceExists),
        refused(RegistryError::PreconditionFailed),
        Ok(()),
        Ok(()),
        Err(EngineError::DeviceNotFound),
        Ok(()),
    ];
    assert_eq!(results, expected);
    let mut world = world.cut_power(3);
    assert_eq!(world.find(1).unwrap().status, DeviceStatus::Disabled);
    assert!(world.find(2).is_none() && world.find(3).is_some());
}

#[test]
fn many_identities_take_few_disk_operations() {
    let mut world = World::new(1);
    world.config.snapshot_due_bytes = u64::MAX;
    world.settle();
    let before = world.disk.operation_count();
    let count = 40;
    let results = change(&mut world, (0..count).map(create).collect());
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let operations = world.disk.operation_count() - before;
    assert!(operations < count as u64, "{operations} disk operations for {count} devices");
    let too_many = change(&mut world, vec![create(1); DEVICE_CHANGE_COUNT_MAX + 1]);
    assert_eq!(too_many.last(), Some(&Err(EngineError::Busy)));
}

#[test]
fn a_device_of_another_partition_is_refused() {
    let mut world = World::new(2);
    let elsewhere = (0..).find(|number| world.partition_of(*number) == PartitionId(1)).unwrap();
    let results = change(&mut world, vec![create(elsewhere)]);
    assert_eq!(results, [Err(EngineError::PartitionNotFound(1))]);
}
