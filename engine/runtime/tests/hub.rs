//! A hub on cores of its own, asked through the door as connections do: on one core and on two, across restarts with the
//! other number, with mailboxes that fill up, and idle.
#![forbid(unsafe_code)]

mod common;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Client, Hub, body_of, device_id};
use engine::door::{Busy, Door};
use engine::placement::device_partition;
use engine::request::{
    Caller, CoreId, EngineError, EventView, PartitionId, Reply, Request, SequenceNumber, Start,
};
use engine_runtime::Delivery;

const PARTITION_COUNT: u16 = 5;

/// Devices whose partitions cover all of a hub's.
fn devices() -> Vec<String> {
    (0..12).map(|number| format!("device-{number}")).collect()
}

/// Every device sends `count` events, numbered from `first`, over the connection, whatever core it landed on. Returns what
/// was acknowledged, by partition.
async fn send_from_all(client: &mut Client, first: usize, count: usize) -> BTreeMap<u16, Vec<Vec<u8>>> {
    let mut acknowledged = BTreeMap::<u16, Vec<Vec<u8>>>::new();
    for device in devices() {
        let session = client.open_session(&device).await;
        for number in first..first + count {
            let body = body_of(&device, number);
            match client.append(session, &[&body]).await {
                Reply::Appended { event_count: 1, .. } => {
                    acknowledged.entry(session.partition.0).or_default().push(body);
                }
                other => panic!("not appended: {other:?}"),
            }
        }
    }
    acknowledged
}

/// Everything in every partition, in order, read over the connection.
async fn read_all(client: &mut Client) -> BTreeMap<u16, Vec<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for partition in (0..PARTITION_COUNT).map(PartitionId) {
        let bodies = client.read_all(partition).await;
        if !bodies.is_empty() {
            found.insert(partition.0, bodies);
        }
    }
    found
}

#[test]
fn every_core_reaches_every_partition_and_restarts_with_another_number_of_cores() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut expected = BTreeMap::<u16, Vec<Vec<u8>>>::new();
    for (run, core_count) in [1_u16, 2, 3, 1].into_iter().enumerate() {
        let hub = Hub::start(directory.path(), core_count, PARTITION_COUNT);
        if run == 0 {
            hub.on(0, async |client| {
                for device in devices() {
                    client.create_device(&device).await;
                }
            });
            let partitions = devices()
                .iter()
                .map(|id| device_partition(&device_id(id), PARTITION_COUNT).0)
                .collect::<std::collections::BTreeSet<_>>();
            assert!(partitions.len() > 2, "the devices are spread: {partitions:?}");
        }
        for core in 0..core_count {
            let first = 1000 * run + 100 * usize::from(core);
            let sent = hub.on(core, async move |client| send_from_all(client, first, 20).await);
            for (partition, bodies) in sent {
                expected.entry(partition).or_default().extend(bodies);
            }
        }
        for core in 0..core_count {
            let found = hub.on(core, async |client| read_all(client).await);
            assert!(found == expected, "run {run} with {core_count} cores, read on core {core}");
        }
        assert!(hub.stop().clean);
    }
}

#[test]
fn batches_are_whole_and_bytes_stay_what_they_were() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(directory.path(), 2, 2);
    for core in 0..2 {
        hub.on(core, async move |client| {
            let device = format!("batcher-{core}");
            client.create_device(&device).await;
            let session = client.open_session(&device).await;
            let before = client.describe(session.partition).await.next.0;
            let bodies: Vec<Vec<u8>> = (0..40_usize)
                .map(|number| (0..number * 97).map(|byte| (byte * 31 + number) as u8).collect())
                .collect();
            let views: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
            match client.append(session, &views).await {
                Reply::Appended { first, event_count: 40 } => assert_eq!(first, SequenceNumber(before)),
                other => panic!("not appended: {other:?}"),
            }
            let found = client.read_all(session.partition).await;
            assert!(found[found.len() - 40..] == bodies);
        });
    }
    assert!(hub.stop().clean);
}

#[test]
fn a_connection_with_too_many_open_requests_is_refused_until_they_are_answered() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(directory.path(), 2, 2);
    hub.on(0, async |client| {
        for partition in [PartitionId(0), PartitionId(1)] {
            // So many rounds that places which were not given back would be missed between the cores too.
            for _ in 0..9 {
                let mut taken = 0_u32;
                let caller = Caller { connection: client.connection.id(), token: 1 };
                while client.door.ask(caller, Request::DescribePartition { partition }) != Err(Busy) {
                    taken += 1;
                    assert!(taken < 100_000, "there is no bound");
                }
                assert_eq!(client.connection.outstanding(), taken);
                for _ in 0..taken {
                    match client.connection.next().await {
                        Delivery::Reply { token: 1, reply: Reply::PartitionStatus(status) } => {
                            assert_eq!(status.partition, partition);
                        }
                        other => panic!("not an answer: {other:?}"),
                    }
                }
                assert_eq!(client.connection.outstanding(), 0);
                client.describe(partition).await;
            }
        }
    });
    assert!(hub.busy_count() >= 18);
    assert!(hub.stop().clean);
}

#[test]
fn two_cores_that_flood_each_other_both_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(directory.path(), 2, 2);
    for core in 0..2 {
        hub.on(core, async move |client| {
            let id = format!("flood-{core}");
            client.create_device(&id).await;
        });
    }
    // Device 0 or 1 may live on either core: each core sends for both, so both directions fill.
    let flood = async |client: &mut Client| {
        let mut sessions = Vec::new();
        for core in 0..2 {
            let id = format!("flood-{core}");
            // The other core attaches the same devices in the same moment.
            let session = loop {
                match client.try_open_session(&id).await {
                    Some(session) => break session,
                    None => continue,
                }
            };
            sessions.push(session);
        }
        let body = vec![7; 16 * 1024];
        let (mut sent, mut answered, mut refused, mut stored) = (0_u64, 0_u64, 0_u64, 0_u64);
        while answered < 6000 {
            while sent < 6000 {
                let session = sessions[(sent % 2) as usize];
                let events = [EventView { message: &body, annotations: &[], annotation_value_count: 0 }];
                let caller = Caller { connection: client.connection.id(), token: sent };
                let append = engine::request::AppendView { session, events: &events };
                if client.door.append(caller, append).is_err() {
                    refused += 1;
                    break;
                }
                sent += 1;
            }
            if sent == answered {
                // The other core fills the partition: nothing of ours is on the way that would tell of room.
                glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
                continue;
            }
            match client.connection.next().await {
                Delivery::Appended(answers) => {
                    stored += answers.len() as u64;
                    answered += answers.len() as u64;
                }
                // The newer session of the other core.
                Delivery::Reply { reply: Reply::Failed(EngineError::SessionEnded(_)), .. } => answered += 1,
                Delivery::Notice(_) => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
        (refused, stored)
    };
    let results = hub.on_both(flood);
    let refused: u64 = results.iter().map(|(refused, _)| refused).sum();
    let stored: u64 = results.iter().map(|(_, stored)| stored).sum();
    assert!(stored > 0);
    assert!(refused > 0 || stored > 6000, "nothing was ever full: {results:?}");
    assert!(hub.stop().clean);
}

/// A helper may be done before the core has begun to wait for it.
#[test]
fn snapshots_are_made_while_the_shard_works_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start_with(directory.path(), 1, 1, |config| config.shard.snapshot_due_bytes = 1);
    hub.on(0, async |client| {
        for number in 0..300 {
            client.create_device(&format!("device-{number}")).await;
        }
    });
    let report = hub.stop();
    assert!(report.clean, "{report:?}");
    assert!(
        directory.path().join("partitions/0000/journal/registry.snapshot").exists(),
        "no snapshot was made"
    );
}

#[test]
fn a_connection_that_goes_takes_its_sessions_along() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(directory.path(), 2, PARTITION_COUNT);
    hub.on(0, async |client| {
        for device in devices() {
            client.create_device(&device).await;
        }
    });
    hub.on(1, async |client| {
        for device in devices() {
            client.open_session(&device).await;
        }
    });
    // The client of core 1 is gone now; its end may still be on its way to core 0.
    hub.on(0, async |client| {
        let begun = Instant::now();
        loop {
            let mut connected = 0;
            for partition in (0..PARTITION_COUNT).map(PartitionId) {
                match client.ask(Request::CountDevices { partition }).await {
                    Reply::DeviceCounts(counts) => connected += counts.connected,
                    other => panic!("not counted: {other:?}"),
                }
            }
            if connected == 0 {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{connected} sessions outlived their connection"
            );
        }
    });
    assert!(hub.stop().clean);
}

#[test]
fn a_waiting_read_is_answered_across_cores() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(directory.path(), 2, 2);
    for core in 0..2 {
        hub.on(core, async move |client| {
            let device = format!("late-{core}");
            client.create_device(&device).await;
            let session = client.open_session(&device).await;
            let reader = client.open_reader(session.partition, Start::Latest).await;
            client.begin(90, Request::Read { reader, event_count_max: 10, bytes_max: 1 << 20 });
            client.begin_append(91, session, &[b"the one"]);
            let mut seen = Vec::new();
            while seen.len() < 2 {
                match client.connection.next().await {
                    Delivery::Reply { token: 90, reply: Reply::Events { batch, .. } } => {
                        assert_eq!(batch.records.iter().count(), 1);
                        seen.push(90);
                    }
                    Delivery::Appended(answers) => seen.extend(answers.iter().map(|answer| answer.token)),
                    other => panic!("unexpected: {other:?}"),
                }
            }
            assert_eq!(client.connection.outstanding(), 0);
        });
    }
    assert!(hub.stop().clean);
}

#[test]
fn calls_cross_to_another_core_and_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(directory.path(), 2, 2);
    let (sender, receiver) = std::sync::mpsc::channel();
    hub.on(0, async move |client| {
        for number in 0..100 {
            let sender = sender.clone();
            let there: engine_runtime::Call = Box::new(move |context| {
                let via = context.core;
                let back: engine_runtime::Call =
                    Box::new(move |context| sender.send((number, via.0, context.core.0)).expect("it waits"));
                assert!(context.send_to_core(CoreId(0), back).is_ok(), "room");
            });
            assert!(client.context.send_to_core(CoreId(1), there).is_ok(), "room");
        }
    });
    let calls: Vec<_> = receiver.iter().take(100).collect();
    let expected: Vec<_> = (0..100).map(|number| (number, 1, 0)).collect();
    assert_eq!(calls, expected);
    assert!(hub.stop().clean);
}

#[test]
fn a_busy_task_that_breathes_does_not_starve_the_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(directory.path(), 1, 2);
    hub.on(0, async |client| {
        let context = client.context.clone();
        let busy = Rc::new(Cell::new(true));
        let (goes_on, mut rounds) = (Rc::clone(&busy), 0_u64);
        let task = glommio::spawn_local(async move {
            while goes_on.get() {
                rounds += 1;
                context.breathe().await;
            }
            rounds
        });
        client.create_device("busy").await;
        let session = client.open_session("busy").await;
        let begun = Instant::now();
        for _ in 0..20 {
            assert!(matches!(client.append(session, &[b"durable"]).await, Reply::Appended { .. }));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        busy.set(false);
        assert!(task.await > 20, "the task was not busy");
    });
    assert!(hub.stop().clean);
}

#[test]
fn a_stop_ends_in_time_although_a_connection_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start_with(directory.path(), 2, 2, |config| config.stop_timeout_ms = 1000);
    hub.on(0, async |client| {
        client.create_device("stubborn").await;
        let session = client.open_session("stubborn").await;
        client.append(session, &[b"kept"]).await;
    });
    hub.keep_connection(1);
    let begun = Instant::now();
    let report = hub.stop();
    assert!(!report.clean, "a connection stayed");
    assert!(begun.elapsed() < Duration::from_millis(1600), "{:?}", begun.elapsed());

    let hub = Hub::start(directory.path(), 1, 2);
    hub.on(0, async |client| {
        let partition = device_partition(&device_id("stubborn"), 2);
        assert_eq!(client.read_all(partition).await, [b"kept"]);
    });
    assert!(hub.stop().clean);
}
