//! Failed syncs, full disks, jumping clocks, slow disks, and what the log may cost.
#![forbid(unsafe_code)]

mod common;

use common::{Buffer, DIRECTORY, Model, open, tiny};
use segment_log::storage::sim::{Fault, PowerCut, SimDisk, SimStorage};
use segment_log::storage::{Operation, SegmentNumber, Storage};
use segment_log::{
    AppendError, Log, LogConfig, LogEvent, Now, Offset, Read, ReadError, ReadLimit, RetentionConfig, Seek,
    drive,
};

const HOUR: u64 = 3_600_000;

fn events(log: &mut Log<Buffer>) -> Vec<LogEvent> {
    std::iter::from_fn(|| log.poll_event()).collect()
}

fn fill(log: &mut Log<Buffer>, storage: &mut SimStorage, model: &mut Model, count: usize, time_ms: u64) {
    for _ in 0..count {
        model.append(log, &[900, 900], time_ms).expect("there is room");
        drive(log, storage);
    }
}

#[test]
fn a_failed_sync_latches_the_log_and_nothing_of_it_is_acknowledged_later() {
    let config = tiny();
    let whole = SimDisk::new(1);
    let (mut log, mut storage, _) = open(&whole, &config, 1);
    fill(&mut log, &mut storage, &mut Model::default(), 6, 5);
    let operations = whole.operations();
    let of_commits: Vec<u64> = (0..operations.len() as u64)
        .filter(|at| matches!(operations[*at as usize], Operation::Sync | Operation::Write))
        .collect();
    let mut latched_count = 0;
    for at in of_commits {
        let disk = SimDisk::new(1);
        disk.plan(at, Fault::Refuse);
        let mut storage = disk.storage(DIRECTORY);
        let Ok((mut log, _)) = Log::open(&mut storage, config.clone(), Now::default(), 1) else { continue };
        let mut model = Model::default();
        for _ in 0..12 {
            let refused = model.append(&mut log, &[900, 900], 5) == Err(AppendError::Latched);
            assert_eq!(refused, log.latched().is_some());
            let before = log.committed();
            drive(&mut log, &mut storage);
            assert!(!refused || log.committed() == before, "nothing is acknowledged by a latched log");
        }
        if log.latched().is_none() {
            // It was the preparation of the next segment, which is simply tried again.
            continue;
        }
        latched_count += 1;
        let committed = log.committed();
        let said = events(&mut log)
            .into_iter()
            .any(|event| matches!(event, LogEvent::Latched { committed: to, .. } if to == committed));
        assert!(said);
        assert!(log.is_closed());
        // What was acknowledged can still be read, and is all that can.
        model.acknowledged = committed.0;
        model.check(&mut log, &mut storage, || ());
        assert!(matches!(log.read(committed, ReadLimit::default()), Ok(Read::End)));
        drop((log, storage));
        for seed in 0..6 {
            let left = disk.after_power_cut(PowerCut { seed, sector_bytes: 512, garbage: true });
            let (mut log, mut storage, report) = open(&left, &config, 2);
            assert!(!report.is_damaged(), "{:?}", report.findings);
            let mut model = model.clone();
            model.survive(&log);
            fill(&mut log, &mut storage, &mut model, 3, 5);
            model.check(&mut log, &mut storage, || ());
        }
    }
    assert!(latched_count > 10, "{latched_count}");
}

#[test]
fn a_full_disk_refuses_appends_and_serves_again_by_itself() {
    for keep_prepared in [true, false] {
        let config = LogConfig { keep_prepared, ..tiny() };
        let disk = SimDisk::new(1);
        let (mut log, mut storage, _) = open(&disk, &config, 1);
        let mut model = Model::default();
        let mut now = Now::default();
        fill(&mut log, &mut storage, &mut model, 4, 0);
        disk.set_capacity(Some(disk.used_bytes() + 1000));
        let refused = loop {
            match model.append(&mut log, &[900, 900], 0) {
                Ok(_) => drive(&mut log, &mut storage),
                Err(error) => break error,
            }
        };
        assert_eq!(refused, AppendError::NoSpace);
        model.acknowledge(&mut log);
        assert_eq!(log.committed(), log.next());
        // A batch is refused whole, again and again, and said once.
        let mut failed = 0;
        for _ in 0..20 {
            now.mono_ms += 1000;
            log.tick(now);
            drive(&mut log, &mut storage);
            let refusal = model.append(&mut log, &[10, 8000, 10], 0).unwrap_err();
            assert_eq!(refusal, AppendError::NoSpace);
            failed += events(&mut log)
                .iter()
                .filter(|event| matches!(event, LogEvent::PrepareFailed { .. }))
                .count();
        }
        assert!(failed <= 1, "it is not said again and again");
        assert!(log.next_tick_ms().is_some_and(|at| at <= now.mono_ms + 1000), "it wants to try again");
        model.check(&mut log, &mut storage, || ());
        // Closing what there is works without room, and so does opening.
        let closed = disk.after_kill(1);
        closed.set_capacity(Some(closed.used_bytes()));
        let (mut reopened, mut reopened_storage, report) = open(&closed, &config, 2);
        assert!(!report.is_damaged(), "{:?}", report.findings);
        assert_eq!(reopened.next(), log.next());
        model.check(&mut reopened, &mut reopened_storage, || ());

        disk.set_capacity(None);
        now.mono_ms += 1000;
        log.tick(now);
        drive(&mut log, &mut storage);
        assert!(events(&mut log).contains(&LogEvent::SpaceReturned));
        fill(&mut log, &mut storage, &mut model, 30, 0);
        model.check(&mut log, &mut storage, || ());
    }
}

#[test]
fn a_reserve_takes_small_appends_while_the_disk_is_full() {
    let config = LogConfig { keep_prepared: true, ..tiny() };
    let disk = SimDisk::new(1);
    let (mut log, mut storage, _) = open(&disk, &config, 1);
    let mut model = Model::default();
    drive(&mut log, &mut storage);
    disk.set_capacity(Some(disk.used_bytes()));
    let mut appended = 0;
    while model.append(&mut log, &[100], 0).is_ok() {
        drive(&mut log, &mut storage);
        appended += 1;
    }
    // The rest of this segment, and all of the next one.
    assert!(appended > 150, "{appended}");
    assert_eq!(log.committed(), log.next());
}

#[test]
fn retention_by_bytes_and_age_frees_the_disk_and_moves_the_first_offset() {
    let retention = RetentionConfig { age_ms: None, bytes: Some(120 << 10) };
    let config = LogConfig { retention, ..tiny() };
    let disk = SimDisk::new(1);
    let (mut log, mut storage, _) = open(&disk, &config, 1);
    let mut model = Model::default();
    fill(&mut log, &mut storage, &mut model, 300, 7);
    assert!(log.first() > Offset(300));
    assert!(log.size_bytes() < (120 << 10) + (64 << 10), "{}", log.size_bytes());
    assert!(disk.used_bytes() < 400 << 10, "{}", disk.used_bytes());
    model.check(&mut log, &mut storage, || ());
    let error = log.read(Offset(0), ReadLimit::default()).unwrap_err();
    assert_eq!(error, ReadError::BeforeFirst { first: log.first() });
    let removed = events(&mut log).iter().filter(|event| matches!(event, LogEvent::Removed { .. })).count();
    assert!(removed > 5);
}

#[test]
fn when_everything_is_removed_the_offsets_go_on() {
    let retention = RetentionConfig { age_ms: Some(24 * HOUR), bytes: None };
    let config = LogConfig { retention, roll_age_ms: Some(HOUR), ..tiny() };
    let disk = SimDisk::new(1);
    let mut storage = disk.storage(DIRECTORY);
    let mut now = Now { wall_ms: 1000 * HOUR, mono_ms: 0 };
    let (mut log, _) = Log::open(&mut storage, config.clone(), now, 1).unwrap();
    let mut model = Model::default();
    fill(&mut log, &mut storage, &mut model, 40, now.wall_ms);
    for _ in 0..30 {
        now = Now { wall_ms: now.wall_ms + HOUR, mono_ms: now.mono_ms + HOUR };
        log.tick(now);
        drive(&mut log, &mut storage);
    }
    assert_eq!((log.first(), log.next()), (Offset(80), Offset(80)));
    assert_eq!(log.latched(), None);
    assert_eq!(log.seek_time(0), Ok(Seek::At(Offset(80))));
    let files = disk.files(DIRECTORY);
    assert!(files.len() <= 3, "{files:?}");
    // However often it is opened, closed or not, and nothing piles up.
    drop((log, storage));
    let mut disk = disk;
    for round in 0..6 {
        disk = disk.after_power_cut(PowerCut { seed: round, sector_bytes: 512, garbage: true });
        let (mut log, mut storage, report) = open(&disk, &config, round);
        assert!(!report.is_damaged(), "{:?}", report.findings);
        assert_eq!((log.first(), log.next()), (Offset(80), Offset(80)));
        drive(&mut log, &mut storage);
        if round % 2 == 0 {
            log.close();
            drive(&mut log, &mut storage);
            assert!(log.is_closed());
        }
        assert!(disk.files(DIRECTORY).len() <= 4, "{:?}", disk.files(DIRECTORY));
    }
}

#[test]
fn a_jump_of_the_wall_clock_removes_nothing_before_monotonic_time_confirms_it() {
    let retention = RetentionConfig { age_ms: Some(24 * HOUR), bytes: None };
    let config = LogConfig { retention, ..tiny() };
    let disk = SimDisk::new(1);
    let mut storage = disk.storage(DIRECTORY);
    let start = Now { wall_ms: 1000 * HOUR, mono_ms: 50 };
    let (mut log, _) = Log::open(&mut storage, config.clone(), start, 1).unwrap();
    fill(&mut log, &mut storage, &mut Model::default(), 60, start.wall_ms);
    let at = |log: &mut Log<Buffer>, storage: &mut SimStorage, wall_hours: u64, mono_hours: u64| {
        log.tick(Now { wall_ms: wall_hours * HOUR, mono_ms: 50 + mono_hours * HOUR });
        drive(log, storage);
        log.first().0
    };
    assert_eq!(at(&mut log, &mut storage, 3000, 1), 0, "forward");
    assert_eq!(at(&mut log, &mut storage, 0, 2), 0, "back");
    assert_eq!(at(&mut log, &mut storage, 1026, 3), 0, "a day too far");
    assert!(at(&mut log, &mut storage, 1026, 26) > 0, "confirmed");

    // Across runs, there is an hour to notice.
    let disk = disk.after_kill(2);
    let mut storage = disk.storage(DIRECTORY);
    let now = Now { wall_ms: 5000 * HOUR, mono_ms: 0 };
    let (mut log, _) = Log::open(&mut storage, config, now, 2).unwrap();
    let first = log.first();
    log.tick(Now { wall_ms: 5000 * HOUR + HOUR / 2, mono_ms: HOUR / 2 });
    drive(&mut log, &mut storage);
    assert_eq!(log.first(), first);
    log.tick(Now { wall_ms: 5001 * HOUR, mono_ms: HOUR });
    drive(&mut log, &mut storage);
    assert!(log.first() > first);
}

#[test]
fn a_hundred_small_commits_per_second_grow_the_log_by_twice_its_records_at_most() {
    for payload_bytes in [8, 100, 256, 1000, 4000] {
        let disk = SimDisk::new(1);
        let (mut log, mut storage, _) = open(&disk, &LogConfig::default(), 1);
        let payload = vec![7; payload_bytes];
        let before = log.size_bytes();
        let count = 1500;
        for at in 0..count {
            log.append(&[&[&payload]], at * 10).expect("there is room");
            drive(&mut log, &mut storage);
        }
        assert_eq!(log.committed(), Offset(count));
        let grown = log.size_bytes() - before;
        let records = count * (24 + payload_bytes as u64).next_multiple_of(8);
        assert!(grown <= 2 * records, "{payload_bytes}: {grown} for {records}");
    }
}

#[test]
fn a_stalled_disk_is_back_pressure_with_bounded_memory() {
    let config = tiny();
    let disk = SimDisk::new(1);
    let (mut log, mut storage, _) = open(&disk, &config, 1);
    disk.set_delayed(true);
    let mut model = Model::default();
    let mut accepted = 0;
    for _ in 0..10_000 {
        match model.append(&mut log, &[500], 0) {
            Ok(_) => accepted += 1,
            Err(error) => assert_eq!(error, AppendError::Busy),
        }
        drive(&mut log, &mut storage);
    }
    // One commit on its way, one buffer waits, one fills.
    assert!(accepted < 3 * config.commit_bytes_max / 500, "{accepted}");
    assert_eq!(log.committed(), Offset(0));
    assert!(disk.pending_count() < 8);
    disk.set_delayed(false);
    while disk.step() {
        drive(&mut log, &mut storage);
    }
    drive(&mut log, &mut storage);
    assert_eq!(log.committed(), Offset(accepted as u64));
    model.check(&mut log, &mut storage, || ());
}

#[test]
fn a_slice_of_a_sealed_segment_outlives_its_segment() {
    let config = tiny();
    let disk = SimDisk::new(1);
    let (mut log, mut storage, _) = open(&disk, &config, 1);
    let mut model = Model::default();
    fill(&mut log, &mut storage, &mut model, 60, 0);
    log.close();
    drive(&mut log, &mut storage);
    let (mut log, mut storage, _) = open(&disk, &config, 2);
    let shared = loop {
        match log.read(Offset(0), ReadLimit::default()).unwrap() {
            Read::Records(slice) => break slice.shared(),
            _ => drive(&mut log, &mut storage),
        }
    };
    assert!(shared.is_mapped());
    let other = std::thread::spawn({
        let shared = shared.clone();
        move || shared.iter().map(|record| record.payload.len()).sum::<usize>()
    });
    assert_eq!(other.join().unwrap(), shared.iter().map(|record| record.payload.len()).sum::<usize>());
    // Removed and its room taken by others, while the slice is held: the simulated disk would notice a write to it.
    log.remove_before(log.next());
    drive(&mut log, &mut storage);
    fill(&mut log, &mut storage, &mut model, 60, 0);
    for (record, known) in shared.iter().zip(&model.records) {
        assert_eq!(record.payload, known.payload);
    }
}

#[test]
fn a_file_beside_the_segments_is_replaced_whole_or_not_at_all() {
    let disk = SimDisk::new(1);
    let (mut log, mut storage, _) = open(&disk, &tiny(), 1);
    for (content, fault) in [(1u8, None), (2, Some(Fault::NoSpace)), (3, Some(Fault::Refuse)), (4, None)] {
        if let Some(fault) = fault {
            // Its write: the creation comes first.
            disk.plan(disk.operation_count() + 1, fault);
        }
        let id = log.replace_file("snapshot", vec![content; 10_001]);
        drive(&mut log, &mut storage);
        let told = events(&mut log).into_iter().find_map(|event| match event {
            LogEvent::Replaced { id: told, result } if told == id => Some(result),
            _ => None,
        });
        assert_eq!(told.expect("it is told").is_ok(), fault.is_none());
        let expected = if fault.is_none() { content } else { 1 };
        let bytes = storage.read_file("snapshot").unwrap().expect("it is there");
        assert_eq!(bytes.bytes(), vec![expected; 10_001]);
    }
    assert!(storage.read_file("other").unwrap().is_none());
    assert_eq!(log.latched(), None, "a snapshot is not the log");
}

#[test]
fn limits_of_records_and_batches_are_said() {
    let config = tiny();
    let disk = SimDisk::new(1);
    let (mut log, mut storage, _) = open(&disk, &config, 1);
    let large = vec![1; config.record_bytes_max + 1];
    let error = log.append(&[&[&large]], 0).unwrap_err();
    assert_eq!(error, AppendError::TooLarge { bytes: large.len(), bytes_max: config.record_bytes_max });
    let parts: [&[u8]; 1] = [&large[1..]];
    let error = log.append(&[&parts, &parts], 0).unwrap_err();
    assert!(
        matches!(error, AppendError::TooLarge { bytes_max, .. } if bytes_max == config.batch_bytes_max())
    );
    log.append(&[&parts], 0).expect("a record of the largest size");
    log.close();
    assert_eq!(log.append(&[&parts], 0), Err(AppendError::Closed));
    drive(&mut log, &mut storage);
    assert_eq!(log.committed(), Offset(1));
    assert_eq!(
        log.read(Offset(2), ReadLimit::default()).unwrap_err(),
        ReadError::BeyondEnd { next: Offset(1) }
    );
    assert_eq!(SegmentNumber::from_file_name("000000000000001G.segment"), None);
    assert_eq!(SegmentNumber::from_file_name(&SegmentNumber(77).file_name()), Some(SegmentNumber(77)));
}
