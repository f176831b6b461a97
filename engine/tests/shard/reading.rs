//! Readers: where they start, whom they take the place of, that each gets its share; checkpoints and groups.

use engine::request::*;
use registry::ConsumerGroupId;
use segment_log::RetentionConfig;
use segment_log::storage::sim::SimDisk;

use crate::world::{START_MS, World, config, connection};

const P: PartitionId = PartitionId(0);

/// A hub of one partition with `count` events, one per millisecond.
fn with_events(count: u64) -> World {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    for number in 0..count {
        world.append(connection(1), session, format!("event {number}").as_bytes()).unwrap();
        world.pass(1);
    }
    world
}

fn numbers(events: &[(u64, String, Vec<u8>)]) -> Vec<u64> {
    events.iter().map(|(number, ..)| *number).collect()
}

#[test]
fn readers_start_where_they_ask_to() {
    let mut world = with_events(10);
    let by = connection(2);
    let sequence = |number, inclusive| Start::Sequence { number, inclusive };
    let time = |offset_ms, inclusive| Start::Time { ms: START_MS + offset_ms, inclusive };
    let cases = [
        (Start::Earliest, 0),
        (Start::Latest, 10),
        (sequence(4, true), 4),
        (sequence(4, false), 5),
        (sequence(9, false), 10),
        (sequence(10, true), 10),
        (time(0, true), 0),
        (time(3, true), 3),
        (time(3, false), 4),
        (time(1000, true), 10),
        (Start::Checkpoint, 0),
    ];
    for (start, expected) in cases {
        let (reader, next, truncated) = world.open_reader(by, P, start.clone(), None).unwrap();
        assert_eq!((next, truncated), (expected, false), "{start:?}");
        let read = world.read(by, reader, 100);
        assert_eq!(numbers(&read), (expected..10).collect::<Vec<_>>(), "{start:?}");
        world.send(by, Request::CloseReader { reader });
    }
    for (number, inclusive) in [(10, false), (11, true), (u64::MAX, false)] {
        let refused = world.open_reader(by, P, sequence(number, inclusive), None);
        assert_eq!(refused, Err(EngineError::PositionBeyondEnd { number, next: 10 }));
    }
}

#[test]
fn a_reader_waits_for_what_is_durable_and_can_be_called_off() {
    let mut world = with_events(1);
    let (by, device) = (connection(2), connection(1));
    let (reader, ..) = world.open_reader(by, P, Start::Latest, None).unwrap();
    let session = world.attach(device, 0);
    world.disk.set_delayed(true);
    let read = world.send(by, Request::Read { reader, event_count_max: 10, bytes_max: 1000 });
    let second = world.send(by, Request::Read { reader, event_count_max: 10, bytes_max: 1000 });
    assert!(matches!(world.take(second), Some(Reply::Failed(EngineError::Busy))), "one at a time");
    world.send_events(device, session, &[b"on its way".to_vec()]);
    world.turn();
    assert!(world.take(read).is_none(), "what is not durable is not shown");
    world.send(by, Request::CancelRead { reader });
    let Some(Reply::Events { batch, .. }) = world.take(read) else { panic!("not called off") };
    assert!(batch.records.is_empty());
    let read = world.send(by, Request::Read { reader, event_count_max: 10, bytes_max: 1000 });
    world.settle();
    let Some(Reply::Events { batch, .. }) = world.take(read) else { panic!("nothing read") };
    let bodies: Vec<_> = batch.records.iter().map(|event| event.message).collect();
    assert_eq!((bodies, batch.status.next.0), (vec![&b"on its way"[..]], 2));
    // Leaving is an answer as well, for those who count their open questions.
    let read = world.send(by, Request::Read { reader, event_count_max: 10, bytes_max: 1000 });
    world.turn();
    world.send(by, Request::CloseReader { reader });
    assert!(matches!(world.take(read), Some(Reply::Failed(EngineError::ReaderEnded))));
}

#[test]
fn budgets_of_count_and_bytes_hold_and_the_copies_of_the_tail_are_shared() {
    let mut world = World::new(1);
    world.create(0);
    let session = world.attach(connection(1), 0);
    let bodies: Vec<Vec<u8>> = (0..20_u8).map(|byte| vec![byte; 500]).collect();
    for some in bodies.chunks(5) {
        world.send_events(connection(1), session, some);
    }
    world.settle();
    for (count, bytes, expected) in [(3, 100_000, 3), (100, 2000, 3), (100, 1, 1), (100, 100_000, 20)] {
        let (reader, ..) = world.open_reader(connection(2), P, Start::Earliest, None).unwrap();
        let read = Request::Read { reader, event_count_max: count, bytes_max: bytes };
        let Reply::Events { batch, .. } = world.ask(connection(2), read) else { panic!("nothing read") };
        // Records of sealed segments come in runs of their own; nothing is more than was asked for.
        assert!(batch.records.len() <= expected && !batch.records.is_empty());
        assert_eq!(batch.records.iter().count(), batch.records.len());
        world.send(connection(2), Request::CloseReader { reader });
    }
    let all = world.read_all(P);
    assert_eq!(all.into_iter().map(|(_, _, body)| body).collect::<Vec<_>>(), bodies);
    // Two that read the same get the same memory.
    let mut starts = Vec::new();
    for by in [connection(2), connection(3)] {
        let start = Start::Sequence { number: 19, inclusive: true };
        let (reader, ..) = world.open_reader(by, P, start, None).unwrap();
        let read = Request::Read { reader, event_count_max: 5, bytes_max: 5000 };
        let Reply::Events { batch, .. } = world.ask(by, read) else { panic!("nothing read") };
        starts.push(batch.records.iter().next().unwrap().message.as_ptr());
    }
    assert_eq!(starts[0], starts[1]);
}

#[test]
fn readers_are_served_in_turn() {
    let mut world = with_events(40);
    let readers: Vec<_> = (2..7)
        .map(|slot| {
            let by = connection(slot);
            (by, world.open_reader(by, P, Start::Earliest, None).unwrap().0)
        })
        .collect();
    // All ask again in each turn, the first one first; each gets the same share.
    let mut counts = [0; 5];
    for _ in 0..4 {
        for (index, (by, reader)) in readers.iter().enumerate() {
            counts[index] += world.read(*by, *reader, 3).len();
        }
    }
    assert_eq!(counts, [12; 5]);
}

#[test]
fn an_epoch_takes_the_partition_and_says_so() {
    let mut world = with_events(3);
    let plain: Vec<_> =
        (2..7).map(|slot| world.open_reader(connection(slot), P, Start::Earliest, None).unwrap().0).collect();
    let sixth = world.open_reader(connection(7), P, Start::Earliest, None);
    assert_eq!(sixth, Err(EngineError::ReadersExhausted { reader_count_max: 5 }));
    let waiting =
        world.send(connection(2), Request::Read { reader: plain[0], event_count_max: 1, bytes_max: 1 });
    world.turn();
    world.take(waiting);
    let end = Start::Latest;
    let (first, ..) = world.open_reader(connection(8), P, end.clone(), Some(3)).unwrap();
    assert_eq!(world.notices.len(), 5);
    world.notices.clear();

    // The next one of the same epoch wins; whoever waits is told why, and then answered.
    let read = world.send(connection(8), Request::Read { reader: first, event_count_max: 1, bytes_max: 1 });
    world.settle();
    let (second, ..) = world.open_reader(connection(9), P, end.clone(), Some(3)).unwrap();
    let [(to, Notice::ReaderStolen { reader, by_name, by_epoch })] = &world.notices[..] else {
        panic!("{:?}", world.notices)
    };
    assert_eq!((*to, *reader, *by_epoch), (connection(8), first, 3));
    assert_eq!(by_name.as_deref(), Some("reader-9"));
    assert!(matches!(world.take(read), Some(Reply::Failed(EngineError::ReaderEnded))));
    let stolen =
        world.refused(connection(8), Request::Read { reader: first, event_count_max: 1, bytes_max: 1 });
    assert_eq!(stolen, EngineError::ReaderEnded);

    let held = EngineError::EpochHeld { live_epoch: 3, live_name: Some("reader-9".to_owned()) };
    for epoch in [Some(2), None] {
        assert_eq!(world.open_reader(connection(8), P, end.clone(), epoch), Err(held.clone()));
    }
    // Once the owner is gone the place is free, for others without epoch as well.
    world.shard.handle_connection_closed(connection(9), world.now);
    world.open_reader(connection(8), P, end, None).unwrap();
    let gone =
        world.refused(connection(9), Request::Read { reader: second, event_count_max: 1, bytes_max: 1 });
    assert_eq!(gone, EngineError::ReaderEnded);
}

#[test]
fn nobody_is_sent_away_for_a_newcomer_that_is_refused() {
    let mut world = with_events(3);
    let (reader, ..) = world.open_reader(connection(2), P, Start::Earliest, Some(1)).unwrap();
    let beyond = Start::Sequence { number: 50, inclusive: true };
    assert!(world.open_reader(connection(3), P, beyond, Some(2)).is_err());
    assert!(world.notices.is_empty());
    assert_eq!(world.read(connection(2), reader, 10).len(), 3);
}

fn put(world: &mut World, group: ConsumerGroupId, number: u64, force: bool) -> Result<(), EngineError> {
    let request = Request::PutCheckpoint { partition: P, group, number: SequenceNumber(number), force };
    match world.ask(connection(9), request) {
        Reply::Done => Ok(()),
        Reply::Failed(error) => Err(error),
        reply => panic!("{reply:?}"),
    }
}

fn find(world: &mut World, group: ConsumerGroupId) -> Option<u64> {
    match world.ask(connection(9), Request::FindCheckpoint { partition: P, group }) {
        Reply::Checkpoint(number) => number.map(|number| number.0),
        reply => panic!("{reply:?}"),
    }
}

#[test]
fn reading_goes_on_behind_the_checkpoint_also_after_a_crash() {
    let mut world = with_events(10);
    let group = ConsumerGroupId::DEFAULT;
    assert_eq!(find(&mut world, group), None);
    put(&mut world, group, 6, false).unwrap();
    put(&mut world, group, 4, false).unwrap();
    assert_eq!(find(&mut world, group), Some(6), "it goes forward only");
    let beyond = put(&mut world, group, 10, true);
    assert_eq!(beyond, Err(EngineError::CheckpointBeyondEnd { number: 10, last: Some(9) }));
    let mut world = world.cut_power(3);
    assert_eq!(find(&mut world, group), Some(6));
    let (reader, next, truncated) = world.open_reader(connection(2), P, Start::Checkpoint, None).unwrap();
    assert_eq!((next, truncated), (7, false));
    assert_eq!(numbers(&world.read(connection(2), reader, 10)), [7, 8, 9]);
    put(&mut world, group, 1, true).unwrap();
    assert_eq!(find(&mut world, group), Some(1));
}

#[test]
fn a_checkpoint_older_than_what_is_kept_reads_from_the_oldest() {
    let mut config = config(1);
    config.events.retention = RetentionConfig { age_ms: None, bytes: Some(100 << 10) };
    let mut world = World::open(SimDisk::new(2), config, World::new(1).now);
    world.create(0);
    let session = world.attach(connection(1), 0);
    let body = vec![7; 3000];
    world.append(connection(1), session, &body).unwrap();
    put(&mut world, ConsumerGroupId::DEFAULT, 0, false).unwrap();
    for _ in 0..100 {
        world.pass(1000);
        world.append(connection(1), session, &body).unwrap();
    }
    let first = world.status(P).first.0;
    assert!(first > 10, "retention has removed something");
    for (start, truncated) in [
        (Start::Checkpoint, true),
        (Start::Sequence { number: 3, inclusive: true }, true),
        (Start::Earliest, false),
        (Start::Time { ms: START_MS, inclusive: true }, false),
    ] {
        let found = world.open_reader(connection(2), P, start, None).unwrap();
        assert_eq!((found.1, found.2), (first, truncated));
    }
    // One that was slow is carried along.
    let (reader, ..) = world.open_reader(connection(3), P, Start::Earliest, None).unwrap();
    for _ in 0..100 {
        world.pass(1000);
        world.append(connection(1), session, &body).unwrap();
    }
    let first = world.status(P).first.0;
    assert_eq!(world.read(connection(3), reader, 1)[0].0, first);
}

#[test]
fn what_is_older_than_retention_goes_and_frees_the_disk() {
    const HOUR_MS: u64 = 3_600_000;
    const KEPT_HOURS: u64 = 24;
    let mut config = config(1);
    config.events.retention = RetentionConfig { age_ms: Some(KEPT_HOURS * HOUR_MS), bytes: None };
    config.events.roll_age_ms = Some(HOUR_MS);
    let disk = SimDisk::new(2);
    let mut world = World::open(disk.clone(), config, World::new(1).now);
    world.create(0);
    let session = world.attach(connection(1), 0);
    let mut used_bytes_max = 0;
    for hour in 0..10 * KEPT_HOURS {
        assert_eq!(world.append(connection(1), session, &[7; 3000]), Ok(hour));
        // Within a segment's hour of its age each event is gone, and none goes before.
        let first = world.status(P).first.0;
        let oldest = hour.saturating_sub(KEPT_HOURS);
        assert!((oldest.saturating_sub(2)..=oldest).contains(&first), "hour {hour}: {first} is the first");
        if hour < 3 * KEPT_HOURS {
            used_bytes_max = used_bytes_max.max(disk.used_bytes());
        } else {
            assert!(disk.used_bytes() <= used_bytes_max, "hour {hour}: the disk fills");
        }
        world.pass(HOUR_MS);
    }
    world.settle();
    let first = world.status(P).first.0;
    for (start, truncated) in [
        (Start::Sequence { number: 0, inclusive: true }, true),
        (Start::Time { ms: START_MS, inclusive: true }, false),
        (Start::Earliest, false),
    ] {
        let (reader, next, was_truncated) = world.open_reader(connection(2), P, start, None).unwrap();
        assert_eq!((next, was_truncated), (first, truncated));
        assert_eq!(world.read(connection(2), reader, 1)[0].0, first);
        world.send(connection(2), Request::CloseReader { reader });
    }
    // A clock that jumps takes nothing along: only time that has passed does.
    world.now.wall_ms += 1000 * KEPT_HOURS * HOUR_MS;
    world.settle();
    assert_eq!(world.status(P).first.0, first);
}

#[test]
fn a_deleted_group_takes_readers_and_checkpoint_along_and_its_next_life_knows_nothing() {
    let mut world = with_events(5);
    let create = |world: &mut World| match world
        .ask(connection(9), Request::CreateConsumerGroup { name: "Stream".to_owned() })
    {
        Reply::ConsumerGroup(group) => group.id,
        reply => panic!("{reply:?}"),
    };
    let group = create(&mut world);
    put(&mut world, group, 3, false).unwrap();
    let open = Request::OpenReader { partition: P, group, start: Start::Checkpoint, epoch: None, name: None };
    let Reply::ReaderOpened { reader, next, .. } = world.ask(connection(2), open.clone()) else {
        panic!("not opened")
    };
    assert_eq!(next, SequenceNumber(4));
    assert_eq!(world.read(connection(2), reader, 10).len(), 1);
    let read = world.send(connection(2), Request::Read { reader, event_count_max: 1, bytes_max: 1 });
    world.settle();

    let delete = Request::DeleteConsumerGroup { name: "sTREAM".to_owned() };
    assert!(
        matches!(world.ask(connection(9), delete.clone()), Reply::ConsumerGroup(view) if view.id == group)
    );
    let dropped = world.ask(connection(9), Request::DropConsumerGroup { partition: P, group });
    assert!(matches!(dropped, Reply::Done));
    assert!(
        matches!(world.notices[..], [(_, Notice::ReaderGroupDeleted { reader: ended })] if ended == reader)
    );
    assert!(matches!(world.take(read), Some(Reply::Failed(EngineError::ReaderEnded))));
    assert_eq!(world.refused(connection(2), open), EngineError::ConsumerGroupNotFound);
    assert_eq!(put(&mut world, group, 4, false), Err(EngineError::ConsumerGroupNotFound));
    assert_eq!(world.refused(connection(9), delete), EngineError::ConsumerGroupNotFound);

    let next_life = create(&mut world);
    assert_ne!(next_life, group);
    let mut world = world.cut_power(9);
    assert_eq!(find(&mut world, next_life), None);
    assert_eq!(find(&mut world, group), None);
}

#[test]
fn groups_have_names_and_a_limit() {
    let mut world = World::new(1);
    let create = |world: &mut World, name: &str| {
        world.ask(connection(9), Request::CreateConsumerGroup { name: name.to_owned() })
    };
    for bad in ["", "a b", "$default", &"x".repeat(51)] {
        let reply = create(&mut world, bad);
        assert!(matches!(reply, Reply::Failed(EngineError::ConsumerGroupInvalid(_))), "{bad}: {reply:?}");
    }
    for number in 1..20 {
        assert!(matches!(create(&mut world, &format!("group{number}")), Reply::ConsumerGroup(_)));
    }
    let full = create(&mut world, "one-more");
    assert!(matches!(full, Reply::Failed(EngineError::ConsumerGroupInvalid(_))), "{full:?}");
    let exists = create(&mut world, "GROUP7");
    assert!(matches!(exists, Reply::Failed(EngineError::ConsumerGroupExists)), "{exists:?}");
    let delete = Request::DeleteConsumerGroup { name: "$Default".to_owned() };
    assert!(matches!(world.refused(connection(9), delete), EngineError::ConsumerGroupInvalid(_)));
    let found = world.ask(connection(9), Request::FindConsumerGroup { name: "$default".to_owned() });
    assert!(matches!(found, Reply::ConsumerGroup(view) if view.id == ConsumerGroupId::DEFAULT));
}
