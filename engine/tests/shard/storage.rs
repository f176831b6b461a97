//! What the shard does when the disk fails, is full, slow or damaged, and when the clock jumps.

use engine::monitor::{LogName, MonitorEvent};
use engine::request::*;
use engine::shard::PartitionFault;
use registry::RegistryError;
use segment_log::storage::Operation;
use segment_log::storage::sim::{Fault, SimDisk};

use crate::world::{START_MS, World, config, connection, device};

const P: PartitionId = PartitionId(0);

#[test]
fn no_answer_leaves_before_the_sync_has_returned() {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    world.disk.set_delayed(true);
    let appended = world.send_events(connection(1), session, &[b"event".to_vec()]);
    let created = world.send(connection(9), Request::CreateDevice(DeviceDraft::new(device(1))));
    // Whatever shows the new identity waits with it.
    let found = world.send(connection(9), Request::FindDevice { device: device(1) });
    let exists = world.send(connection(9), Request::CreateDevice(DeviceDraft::new(device(1))));
    let mut syncs = 0;
    world.turn();
    for _ in 0..100 {
        let before = world.disk.operations().len();
        if !world.disk.step() {
            break;
        }
        let synced = world.disk.operations()[before..].contains(&Operation::Sync);
        syncs += usize::from(synced);
        if syncs == 0 {
            world.turn();
            let unanswered =
                [appended, created, found, exists].map(|token| !world.replies.contains_key(&token));
            assert_eq!(unanswered, [true; 4], "answered after {:?}", &world.disk.operations()[before..]);
        }
        world.turn();
    }
    assert!(matches!(world.take(appended), Some(Reply::Appended { .. })));
    assert!(matches!(world.take(created), Some(Reply::Device(_))));
    assert!(matches!(world.take(found), Some(Reply::Device(_))));
    let error = EngineError::Registry(RegistryError::DeviceExists);
    assert!(matches!(world.take(exists), Some(Reply::Failed(found)) if found == error));
}

/// Let the next sync fail that comes after `prepare`.
fn fail_next_sync(world: &mut World, act: impl FnOnce(&mut World) -> u64) -> u64 {
    world.settle();
    // A commit is one write and one sync.
    let operation = world.disk.operation_count() + 1;
    world.disk.plan(operation, Fault::Refuse);
    let token = act(world);
    world.settle();
    assert_eq!(world.disk.operations()[operation as usize], Operation::Sync);
    token
}

#[test]
fn after_a_failed_sync_the_events_log_takes_nothing_and_the_rest_goes_on() {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    world.append(connection(1), session, b"kept").unwrap();
    let token =
        fail_next_sync(&mut world, |world| world.send_events(connection(1), session, &[b"lost".to_vec()]));
    assert!(matches!(world.take(token), Some(Reply::Failed(EngineError::StorageFailed))));
    assert_eq!(world.append(connection(1), session, b"later"), Err(EngineError::StorageFailed));
    let failed = |event: &MonitorEvent| matches!(event, MonitorEvent::LogFailed { log: LogName::Events, .. });
    assert_eq!(world.monitor.iter().filter(|event| failed(event)).count(), 1);
    // Readers and the registry are not concerned.
    assert_eq!(world.read_all(P).len(), 1);
    world.create(1);
    assert_eq!(world.refused(connection(9), Request::Flush { partition: P }), EngineError::StorageFailed);
    // Opened again, what was acknowledged is there and the log takes events.
    let mut world = world.cut_power(1);
    world.assert_healthy();
    assert_eq!(world.read_all(P)[0].2, b"kept");
    let session = world.attach(connection(1), 0);
    world.append(connection(1), session, b"again").unwrap();
}

#[test]
fn after_a_failed_sync_of_the_journal_nothing_of_the_registry_is_said_any_more() {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    let token = fail_next_sync(&mut world, |world| {
        world.send(connection(9), Request::CreateDevice(DeviceDraft::new(device(1))))
    });
    assert!(matches!(world.take(token), Some(Reply::Failed(EngineError::StorageFailed))));
    for request in [
        Request::FindDevice { device: device(0) },
        Request::CreateDevice(DeviceDraft::new(device(2))),
        World::open_request(0),
        Request::ListConsumerGroups,
    ] {
        assert_eq!(world.refused(connection(2), request), EngineError::StorageFailed);
    }
    assert!(world.notices.is_empty(), "nobody is sent away for one who cannot come");
    world.append(connection(1), session, b"telemetry goes on").unwrap();
    let mut world = world.cut_power(2);
    world.assert_healthy();
    assert!(world.find(0).is_some());
}

#[test]
fn a_full_disk_refuses_telemetry_and_nothing_else_and_heals_by_itself() {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    world.settle();
    world.disk.set_capacity(Some(world.disk.used_bytes()));
    let body = vec![5; 3000];
    let mut kept = 0;
    let refusal = loop {
        world.pass(10);
        match world.append(connection(1), session, &body) {
            Ok(number) => kept = number + 1,
            Err(error) => break error,
        }
        assert!(kept < 1000);
    };
    assert_eq!(refusal, EngineError::StorageFull);
    let lacking =
        |event: &MonitorEvent| matches!(event, MonitorEvent::SpaceLacking { log: LogName::Events, .. });
    assert!(world.monitor.iter().any(lacking));
    // Readers, checkpoints and identities go on.
    assert_eq!(world.read_all(P).len() as u64, kept);
    for number in 1..20 {
        world.create(number);
        let (group, force) = (registry::ConsumerGroupId::DEFAULT, false);
        let put =
            Request::PutCheckpoint { partition: P, group, number: SequenceNumber(number as u64), force };
        assert!(matches!(world.ask(connection(9), put), Reply::Done));
    }
    let delete = Request::DeleteDevice { device: device(5), if_match: IfMatch::Any };
    assert!(matches!(world.ask(connection(9), delete), Reply::Done));
    assert_eq!(world.append(connection(1), session, &body), Err(EngineError::StorageFull));

    world.disk.set_capacity(None);
    world.pass(5000);
    world.settle();
    assert_eq!(world.append(connection(1), session, &body), Ok(kept));
    let returned = |event: &MonitorEvent| matches!(event, MonitorEvent::SpaceReturned { .. });
    assert!(world.monitor.iter().any(returned));
}

#[test]
fn a_slow_disk_means_refusal_and_not_memory() {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    world.disk.set_delayed(true);
    let mut tokens = Vec::new();
    let refusal = loop {
        let token = world.send_events(connection(1), session, &[vec![1; 3000]]);
        world.turn();
        match world.take(token) {
            None => tokens.push(token),
            Some(Reply::Failed(error)) => break error,
            Some(reply) => panic!("{reply:?}"),
        }
        assert!(tokens.len() < 100, "the write buffers have a bound");
    };
    assert_eq!(refusal, EngineError::Busy);
    world.settle();
    for token in tokens {
        assert!(matches!(world.take(token), Some(Reply::Appended { .. })));
    }
}

#[test]
fn what_is_too_large_is_refused_and_a_batch_is_whole_or_absent() {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    let token = world.send_events(connection(1), session, &[vec![1; 10], vec![2; 4097], vec![3; 10]]);
    world.settle();
    let error = EngineError::EventTooLarge { bytes: 4097, bytes_max: 4096 };
    assert!(matches!(world.take(token), Some(Reply::Failed(found)) if found == error));
    // Each fits, but not all of them one commit.
    let token = world.send_events(connection(1), session, &vec![vec![1; 4000]; 10]);
    world.settle();
    assert!(matches!(world.take(token), Some(Reply::Failed(EngineError::EventTooLarge { .. }))));
    assert_eq!(world.status(P).next, SequenceNumber(0));
    assert_eq!(world.append(connection(1), session, &[1; 4096]), Ok(0));
}

#[test]
fn enqueued_times_never_go_back() {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    for jump_ms in [0, 3_600_000, -7_200_000, 10, -1] {
        world.now.wall_ms = world.now.wall_ms.checked_add_signed(jump_ms).unwrap();
        world.append(connection(1), session, b"now").unwrap();
    }
    let mut world = world.kill();
    world.now.wall_ms = START_MS - 1_000_000;
    let session = world.attach(connection(1), 0);
    world.append(connection(1), session, b"after a restart with a wrong clock").unwrap();
    let (reader, ..) = world.open_reader(connection(2), P, Start::Earliest, None).unwrap();
    let mut times = Vec::new();
    while times.len() < 6 {
        let read = Request::Read { reader, event_count_max: 100, bytes_max: 10_000 };
        let Reply::Events { batch, .. } = world.ask(connection(2), read) else { panic!("nothing read") };
        times.extend(batch.records.iter().map(|event| event.enqueued_ms));
    }
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(times[5], START_MS + 3_600_000);
    assert_eq!(world.status(P).last_enqueued_ms, times[5]);
}

#[test]
fn a_damaged_journal_takes_one_partition_out_of_service_and_no_other() {
    let mut settings = config(2);
    settings.snapshot_due_bytes = u64::MAX;
    let mut world = World::open(SimDisk::new(3), settings, World::new(1).now);
    for number in 0..80 {
        world.create(number);
    }
    let (hurt, whole) = (PartitionId(1), PartitionId(0));
    let disk = world.disk.after_kill(1);
    for (name, _) in disk.files("1/journal") {
        disk.damage("1/journal", &name, |bytes| {
            bytes.iter_mut().skip(12 << 10).take(600).for_each(|byte| *byte ^= 0x55);
        });
    }
    let hurt_file = "0000000000000000.segment";
    let before = disk.file_bytes("1/journal", hurt_file);
    let mut world = World::open(disk, world.config.clone(), world.now);
    let fault = world.reports.iter().find(|report| report.partition == hurt).unwrap().fault.as_ref();
    assert!(matches!(fault, Some(PartitionFault::JournalDamaged { .. })), "{fault:?}");
    for number in 0..80 {
        let partition = world.partition_of(number);
        let reply = world.ask(connection(9), Request::FindDevice { device: device(number) });
        match partition == whole {
            true => assert!(matches!(reply, Reply::Device(_))),
            false => assert!(matches!(reply, Reply::Failed(EngineError::StorageFailed))),
        }
    }
    let after = world.disk.file_bytes("1/journal", hurt_file);
    assert_eq!(after[12 << 10..16 << 10], before[12 << 10..16 << 10], "nothing is deleted or repaired");
    let refused = world.refused(connection(9), Request::DescribePartition { partition: PartitionId(2) });
    assert_eq!(refused, EngineError::PartitionNotFound(2));
}

#[test]
fn damaged_events_are_reported_and_passed_over() {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    for number in 0..60_u8 {
        world.append(connection(1), session, &[number; 2000]).unwrap();
    }
    world.settle();
    let disk = world.disk.after_kill(1);
    let (name, _) = disk.files("0/events").into_iter().min().unwrap();
    disk.damage("0/events", &name, |bytes| bytes[20_000] ^= 1);
    let mut world = World::open(disk, world.config.clone(), world.now);
    let by = connection(2);
    let (reader, ..) = world.open_reader(by, P, Start::Earliest, None).unwrap();
    let (mut read, mut damage) = (Vec::new(), None);
    loop {
        let token = world.send(by, Request::Read { reader, event_count_max: 100, bytes_max: 100_000 });
        world.settle();
        match world.take(token) {
            Some(Reply::Events { batch, .. }) => {
                for event in batch.records.iter() {
                    assert_eq!(event.message, [event.sequence.0 as u8; 2000], "nothing damaged is shown");
                    read.push(event.sequence.0);
                }
            }
            Some(Reply::Failed(EngineError::Damaged { first, resume })) => {
                assert!(damage.replace((first, resume)).is_none());
            }
            Some(reply) => panic!("{reply:?}"),
            None => break,
        }
    }
    let (first, resume) = damage.expect("the damage is found");
    let expected: Vec<u64> = (0..60).filter(|number| !(first..resume).contains(number)).collect();
    assert_eq!(read, expected);
    assert!(world.monitor.iter().any(|event| matches!(event, MonitorEvent::LogDamaged { .. })));
}

#[test]
fn the_journal_is_cut_by_snapshots_and_a_flush_waits_for_them() {
    let mut world = World::new(1);
    let segments = |world: &World| -> Vec<String> {
        let files = world.disk.files("0/journal").into_iter().map(|(name, _)| name);
        files.filter(|name| name.ends_with(".segment")).collect()
    };
    let first = segments(&world).into_iter().min().unwrap();
    for round in 0..60 {
        for number in 0..5 {
            let draft =
                DeviceDraft { status_reason: Some(format!("{round}")), ..DeviceDraft::new(device(number)) };
            let request = match round {
                0 => Request::CreateDevice(draft),
                _ => Request::UpdateDevice { draft, if_match: IfMatch::Any },
            };
            assert!(matches!(world.ask(connection(9), request), Reply::Device(_)));
        }
    }
    let flush = world.send(connection(9), Request::Flush { partition: P });
    world.settle();
    assert!(matches!(world.take(flush), Some(Reply::Done)));
    assert!(world.shard.counters().snapshots > 5);
    assert!(!segments(&world).contains(&first), "the journal's front is gone");
    let mut world = world.kill();
    assert_eq!(world.reports[0].device_count, 5);
    for number in 0..5 {
        assert_eq!(world.find(number).unwrap().status_reason.as_deref(), Some("59"));
    }
    // A policy that was made at the first start is the same ever after.
    let find = Request::Policy(PolicyRequest::Find { name: "iothubowner".to_owned() });
    let Reply::Policy(before) = world.ask(connection(9), find.clone()) else { panic!("no policy") };
    let mut world = world.kill();
    let Reply::Policy(after) = world.ask(connection(9), find) else { panic!("no policy") };
    assert_eq!(before.keys, after.keys);
}

#[test]
fn a_journal_much_longer_than_what_is_loaded_at_once_is_replayed_whole() {
    let mut settings = config(1);
    settings.snapshot_due_bytes = u64::MAX;
    settings.journal.load_bytes = 4096;
    let mut world = World::open(SimDisk::new(3), settings, World::new(1).now);
    world.create(0);
    let reason = |round: u32| Some(format!("{round:0>100}"));
    for round in 0..6000 {
        let draft = DeviceDraft { status_reason: reason(round), ..DeviceDraft::new(device(0)) };
        world.send(connection(9), Request::UpdateDevice { draft, if_match: IfMatch::Any });
        if round % 20 == 0 {
            world.settle();
        }
    }
    world.settle();
    assert!(world.replies.values().all(|reply| matches!(reply, Reply::Device(_))));
    let mut world = world.kill();
    world.assert_healthy();
    assert_eq!(world.find(0).unwrap().status_reason, reason(5999));
}

#[test]
fn a_snapshot_never_knows_what_the_journal_can_still_lose() {
    let update = |world: &mut World, round: u64| {
        let draft = DeviceDraft { status_reason: Some(format!("{round}")), ..DeviceDraft::new(device(0)) };
        world.send(connection(9), Request::UpdateDevice { draft, if_match: IfMatch::Any })
    };
    for seed in 0..40 {
        let mut world = World::open(SimDisk::new(seed), config(1), World::new(1).now);
        world.create(0);
        world.settle();
        world.disk.set_delayed(true);
        // Snapshots are made of changes that are still on their way, and the disk does things in an order of its own.
        let mut acknowledged = None;
        for round in 0..12 + seed % 5 {
            let token = update(&mut world, round);
            world.turn();
            world.run_jobs();
            world.turn();
            world.disk.step();
            world.turn();
            if world.replies.contains_key(&token) {
                acknowledged = Some(round);
            }
        }
        let mut world = world.cut_power(seed);
        world.assert_healthy();
        let found = world.find(0).unwrap().status_reason.map(|reason| reason.parse::<u64>().unwrap());
        assert!(found >= acknowledged, "seed {seed}: {found:?}, but {acknowledged:?} was answered");
        // What is written now must not be taken for what a snapshot had already.
        for round in 100..120 {
            update(&mut world, round);
            world.settle();
        }
        let mut world = world.cut_power(seed + 1);
        world.assert_healthy();
        assert_eq!(world.find(0).unwrap().status_reason.as_deref(), Some("119"), "seed {seed}");
    }
}

#[test]
fn a_closed_shard_has_answered_everything_and_leaves_nothing_to_look_for() {
    let mut world = World::new(2);
    world.create(0);
    let session = world.attach(connection(1), 0);
    world.disk.set_delayed(true);
    let appended = world.send_events(connection(1), session, &[b"last".to_vec()]);
    let created = world.send(connection(9), Request::CreateDevice(DeviceDraft::new(device(1))));
    world.shard.close(world.now);
    assert!(!world.shard.is_closed());
    let late = world.send_events(connection(1), session, &[b"late".to_vec()]);
    assert!(matches!(world.take(late), Some(Reply::Failed(EngineError::Stopping))));
    world.settle();
    assert!(world.shard.is_closed());
    assert!(matches!(world.take(appended), Some(Reply::Appended { .. })));
    assert!(matches!(world.take(created), Some(Reply::Device(_))));
    let mut world = world.cut_power(1);
    world.assert_healthy();
    for report in &world.reports {
        let findings = |log: &Option<segment_log::RecoveryReport>| log.as_ref().unwrap().findings.clone();
        assert_eq!((findings(&report.events), findings(&report.journal)), (vec![], vec![]));
    }
    assert!(world.find(1).is_some());
}

#[test]
fn of_two_changes_with_one_etag_one_wins() {
    let mut world = World::new(1);
    let view = world.create(0);
    let change = |reason: &str| Request::UpdateDevice {
        draft: DeviceDraft { status_reason: Some(reason.to_owned()), ..DeviceDraft::new(device(0)) },
        if_match: IfMatch::ETag(view.etag),
    };
    world.disk.set_delayed(true);
    let (first, second) =
        (world.send(connection(1), change("first")), world.send(connection(2), change("second")));
    let read = world.send(connection(3), Request::FindDevice { device: device(0) });
    world.settle();
    assert!(matches!(world.take(first), Some(Reply::Device(_))));
    let lost = EngineError::Registry(RegistryError::PreconditionFailed);
    assert!(matches!(world.take(second), Some(Reply::Failed(error)) if error == lost));
    let Some(Reply::Device(seen)) = world.take(read) else { panic!("not found") };
    assert_eq!(seen.status_reason.as_deref(), Some("first"));
    let delete = Request::DeleteDevice { device: device(0), if_match: IfMatch::ETag(view.etag) };
    assert_eq!(world.refused(connection(1), delete), lost);
}
