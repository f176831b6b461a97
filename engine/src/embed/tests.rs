//! A hub in the process, over real files.

use super::*;

const P: PartitionId = PartitionId(0);

fn open(directory: &Path) -> Hub {
    let (hub, reports) = Hub::open(directory, ShardConfig::new(1, data_key(directory).unwrap())).unwrap();
    assert!(reports.iter().all(|report| report.fault.is_none()));
    hub
}

fn event(message: &[u8]) -> EventView<'_> {
    EventView { message, annotations: b"", annotation_value_count: 0 }
}

#[test]
fn what_is_appended_and_checkpointed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let device = DeviceId::parse("press-1").unwrap();
    let mut hub = open(directory.path());
    let created = hub.create_device(DeviceDraft::new(device.clone())).unwrap();
    let session = hub.open_session(&device).unwrap();
    assert_eq!(hub.partition(&device), P);
    assert_eq!(hub.append(session, &[event(b"one"), event(b"two")]), Ok(SequenceNumber(0)));
    assert_eq!(hub.append(session, &[event(b"three")]), Ok(SequenceNumber(2)));
    hub.put_checkpoint(P, "$Default", SequenceNumber(0)).unwrap();
    let locked = Hub::open(directory.path(), ShardConfig::new(1, data_key(directory.path()).unwrap()));
    assert!(matches!(locked, Err(HubOpenError::Storage { .. })), "one process at a time");
    drop(hub);

    let mut hub = open(directory.path());
    assert_eq!(hub.find_device(&device).unwrap().keys, created.keys);
    let reader = hub.open_reader(P, "$default", Start::Checkpoint).unwrap();
    let mut bodies = Vec::new();
    loop {
        let batch = hub.read(reader, 10).unwrap();
        if batch.records.is_empty() {
            break;
        }
        bodies.extend(batch.records.iter().map(|event| (event.device.to_owned(), event.message.to_vec())));
    }
    let expected = |body: &[u8]| ("press-1".to_owned(), body.to_vec());
    assert_eq!(bodies, [expected(b"two"), expected(b"three")]);
    assert_eq!(hub.describe(P).unwrap().next, SequenceNumber(3));
    let unknown = hub.open_reader(P, "nobody", Start::Earliest).unwrap_err();
    assert_eq!(unknown, EngineError::ConsumerGroupNotFound);
}

#[test]
fn a_command_waits_for_its_device_and_is_told_of_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let device = DeviceId::parse("press-1").unwrap();
    let mut hub = open(directory.path());
    hub.create_device(DeviceDraft::new(device.clone())).unwrap();
    for number in 0..64 {
        let draft = CommandDraft {
            device: device.clone(),
            message: format!("stroke {number}").into_bytes(),
            message_id: number.to_string(),
            ack: crate::request::Ack::Full,
            expires_ms: None,
        };
        hub.enqueue_command(draft).unwrap();
        if number == 31 {
            drop(hub);
            hub = open(directory.path());
        }
        if number % 2 == 1 {
            continue;
        }
        let command = hub.receive_command(&device).unwrap().unwrap();
        hub.settle_command(&device, command.token, Settlement::Complete).unwrap();
        let again = hub.settle_command(&device, command.token, Settlement::Complete);
        assert_eq!(again, Err(EngineError::LockLost));
    }
    let receiver = hub.open_receipts(P).unwrap();
    assert_eq!(hub.receive_receipts(receiver, 10).unwrap().len(), 0, "32 wait for others");
    while let Some(command) = hub.receive_command(&device).unwrap() {
        hub.settle_command(&device, command.token, Settlement::Reject).unwrap();
    }
    let batches = hub.receive_receipts(receiver, 10).unwrap();
    assert_eq!(batches.iter().map(|batch| batch.receipts.len()).collect::<Vec<_>>(), [64]);
    hub.settle_receipts(receiver, batches[0].token, Settlement::Complete).unwrap();
    hub.close();
    let mut hub = open(directory.path());
    let receiver = hub.open_receipts(P).unwrap();
    assert!(hub.receive_receipts(receiver, 10).unwrap().is_empty());
}

#[test]
fn a_hub_in_the_process_fills_segments_and_takes_snapshots() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = ShardConfig::new(1, data_key(directory.path()).unwrap());
    config.events.segment_bytes_first = 4 << 20;
    config.events.segment_bytes_max = 4 << 20;
    config.snapshot_due_bytes = 1000;
    let (mut hub, _) = Hub::open(directory.path(), config.clone()).unwrap();
    for number in 0..20 {
        let device = DeviceId::parse(&format!("press-{number}")).unwrap();
        hub.create_device(DeviceDraft::new(device)).unwrap();
    }
    assert!(hub.counters().snapshots >= 1);
    let session = hub.open_session(&DeviceId::parse("press-3").unwrap()).unwrap();
    let body = vec![9; 200_000];
    for number in 0..60 {
        assert_eq!(hub.append(session, &[event(&body)]), Ok(SequenceNumber(number)));
    }
    drop(hub);
    let (mut hub, _) = Hub::open(directory.path(), config).unwrap();
    let reader = hub.open_reader(P, "$Default", Start::Earliest).unwrap();
    let mut count = 0;
    loop {
        let batch = hub.read(reader, 100).unwrap();
        if batch.records.is_empty() {
            break;
        }
        assert!(batch.records.iter().all(|event| event.message == body));
        count += batch.records.len();
    }
    assert_eq!(count, 60);
}
