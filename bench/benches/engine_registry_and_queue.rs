//! An identity created and found, and a command enqueued, received and completed, each durable by itself, in one partition over
//! real files.
#![forbid(unsafe_code)]

use criterion::{Criterion, criterion_group, criterion_main};
use engine::embed::Hub;
use engine::request::{Ack, CommandDraft, Settlement};
use engine::shard::ShardConfig;
use registry::{DataKey, DeviceDraft, DeviceId};
use tempfile::TempDir;

/// Identities that are there when one of them is looked for.
const DEVICE_COUNT: u32 = 1000;

fn device(number: u32) -> DeviceId {
    DeviceId::parse(&format!("device-{number:08}")).expect("a device id")
}

fn hub() -> (TempDir, Hub) {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
    let config = ShardConfig::new(1, DataKey::from_bytes([7; 32]));
    let (hub, _) = Hub::open(directory.path(), config).expect("a hub");
    (directory, hub)
}

fn registry(criterion: &mut Criterion) {
    let (_directory, mut hub) = hub();
    let mut next = 0;
    let mut create = |hub: &mut Hub| {
        hub.create_device(DeviceDraft::new(device(next))).expect("it is new");
        next += 1;
    };
    (0..DEVICE_COUNT).for_each(|_| create(&mut hub));
    let mut at = 0;
    criterion.bench_function("engine/find_device", |bencher| {
        bencher.iter(|| {
            at = (at + 617) % DEVICE_COUNT;
            hub.find_device(&device(at)).expect("it was created")
        });
    });
    criterion.bench_function("engine/create_device", |bencher| bencher.iter(|| create(&mut hub)));
}

fn queue(criterion: &mut Criterion) {
    let (_directory, mut hub) = hub();
    let device = device(1);
    hub.create_device(DeviceDraft::new(device.clone())).expect("it is new");
    let mut number: u64 = 0;
    criterion.bench_function("engine/command_cycle", |bencher| {
        bencher.iter(|| {
            number += 1;
            let draft = CommandDraft {
                device: device.clone(),
                message: vec![0x5a; 256],
                message_id: format!("{number:036}"),
                ack: Ack::None,
                expires_ms: None,
            };
            hub.enqueue_command(draft).expect("there is room");
            let command =
                hub.receive_command(&device).expect("the device is there").expect("a command waits");
            hub.settle_command(&device, command.token, Settlement::Complete).expect("it is locked");
        });
    });
}

criterion_group!(benches, registry, queue);
criterion_main!(benches);
