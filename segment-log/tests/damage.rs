//! Damaged segments: the range is closed, said, and left as it is; all else stays readable.
#![forbid(unsafe_code)]

mod common;

use common::{Buffer, DIRECTORY, Model, open, read_around, tiny};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use segment_log::storage::SegmentNumber;
use segment_log::storage::sim::{PowerCut, SimDisk, SimStorage};
use segment_log::{
    DamageKind, Finding, Log, LogConfig, LogEvent, Now, Offset, OpenError, Read, ReadError, ReadLimit, drive,
};

const BLOCK: usize = 4096;

/// A change of a file's bytes.
type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

/// A disk with some 300 records in several sealed segments; the last one sealed only if `closed`.
fn filled(closed: bool) -> (SimDisk, Model, LogConfig) {
    let config = LogConfig { index_stride_bytes: 8192, ..tiny() };
    let (disk, model) = filled_with(closed, &config);
    (disk, model, config)
}

fn filled_with(closed: bool, config: &LogConfig) -> (SimDisk, Model) {
    let disk = SimDisk::new(5);
    let mut model = Model::default();
    let (mut log, mut storage, _) = open(&disk, config, 3);
    for step in 0..126u64 {
        let sizes = [50 + (step as usize * 37) % 900, 20, 700];
        model.append(&mut log, &sizes, step * 10).expect("there is room");
        drive(&mut log, &mut storage);
    }
    if closed {
        log.close();
        drive(&mut log, &mut storage);
    }
    model.acknowledge(&mut log);
    assert_eq!(model.acknowledged as usize, model.records.len());
    (disk.after_kill(1), model)
}

fn segments(disk: &SimDisk) -> Vec<(String, u64)> {
    disk.files(DIRECTORY).into_iter().filter(|(name, _)| name.ends_with(".segment")).collect()
}

/// The newest segment that holds records; behind it, a prepared one may wait.
fn newest(disk: &SimDisk, model: &Model) -> String {
    let payload = &model.records.last().expect("there are records").payload;
    let holds = |name: &String| {
        disk.file_bytes(DIRECTORY, name).windows(payload.len()).any(|window| window == &payload[..])
    };
    segments(disk).into_iter().map(|(name, _)| name).rfind(holds).expect("the newest record is somewhere")
}

/// Whatever is read is what was written; returns how much is missing.
fn check_partial(log: &mut Log<Buffer>, storage: &mut SimStorage, model: &Model) -> u64 {
    let (records, damage) = read_around(log, storage);
    for (offset, payload) in &records {
        let known = model.records.get(*offset as usize).expect("nothing is invented");
        assert!(known.payload == *payload, "payload of {offset}");
    }
    let mut missing: Vec<u64> = (log.first().0..log.committed().0).collect();
    missing.retain(|offset| records.binary_search_by_key(offset, |record| record.0).is_err());
    for offset in &missing {
        assert!(
            damage.iter().any(|(first, resume)| (*first..*resume).contains(offset)),
            "{offset} is missing"
        );
    }
    missing.len() as u64
}

/// The log still appends, and commits.
fn goes_on(log: &mut Log<Buffer>, storage: &mut SimStorage) {
    let first = log.append(&[&[b"after the damage"]], 0).expect("there is room");
    drive(log, storage);
    assert!(log.committed() > first);
    match log.read(first, ReadLimit::default()).unwrap() {
        Read::Records(slice) => assert_eq!(slice.iter().next().unwrap().payload, b"after the damage"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_seeded_corpus_of_damage_is_closed_reported_and_left_alone() {
    for closed in [true, false] {
        let (whole, model, config) = filled(closed);
        let (count, newest) = (segments(&whole).len(), newest(&whole, &model));
        assert!(count >= 4);
        for seed in 0..400u64 {
            let mut chance = ChaCha8Rng::seed_from_u64(seed);
            let disk = whole.after_kill(seed);
            let names = segments(&disk);
            let (name, bytes) = names[chance.random_range(0..count)].clone();
            let kind = chance.random_range(0..5);
            let blocks = bytes as usize / BLOCK;
            let (from, to) = (chance.random_range(0..blocks), chance.random_range(0..blocks));
            let at = chance.random_range(0..bytes as usize);
            let noise = chance.next_u64();
            disk.damage(DIRECTORY, &name, |file| match kind {
                0 => file[at] ^= 1 << (noise % 8),
                1 => file[at / 512 * 512..at / 512 * 512 + 512].fill(0),
                2 => file.truncate(at),
                3 => file.copy_within(from * BLOCK..(from + 1) * BLOCK, to * BLOCK),
                _ => {
                    let end = (at + 700).min(file.len());
                    file[at..end]
                        .iter_mut()
                        .for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(noise as u8));
                }
            });
            let context =
                format!("seed {seed}, closed {closed}: kind {kind} at {at} ({from} to {to}) of {name}");
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let (mut log, mut storage, report) = open(&disk, &config, seed);
                let lost = check_partial(&mut log, &mut storage, &model);
                // Offsets are never used twice, however much is lost.
                let unsynced = if closed { 0 } else { 3 };
                assert!(log.next().0 + unsynced >= model.acknowledged, "next is {}", log.next());
                if lost > 0 {
                    let said = std::iter::from_fn(|| log.poll_event())
                        .any(|event| matches!(event, LogEvent::Damaged(_)));
                    assert!(said || report.is_damaged(), "damage is said: {:?}", report.findings);
                    assert!(log.damage().count() > 0);
                }
                // A flip or a sector costs a few records, not the segment.
                let all = model.records.len() as u64;
                let truncated = log.damage().any(|range| range.kind == DamageKind::Truncated);
                assert!(truncated || kind == 2 || lost < all / 3, "lost {lost} of {all}");
                assert!(!truncated || name >= newest, "only the newest segment may hide how many it had");
                let kept = segments(&disk).iter().any(|(there, _)| *there == name);
                assert!(kept || name > newest, "nothing is deleted");
                goes_on(&mut log, &mut storage);
                drop((log, storage));
                // The next opening says the same, and the newest records are there.
                let (mut log, mut storage, _) = open(&disk, &config, seed + 1);
                let mut model = model.clone();
                let end = log.next().0 as usize - 1;
                model.records.truncate(end);
                model
                    .records
                    .resize(end, common::Known { time_ms: 0, payload: Vec::new(), ends_batch: true });
                model.records.push(common::Known {
                    time_ms: 0,
                    payload: b"after the damage".to_vec(),
                    ends_batch: true,
                });
                check_partial(&mut log, &mut storage, &model);
            }));
            if let Err(panic) = result {
                eprintln!("{context}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn one_flipped_bit_costs_one_record() {
    let (disk, model, config) = filled(true);
    let (name, _) = &segments(&disk)[1];
    let payload = &model.records[100].payload;
    let find = |file: &[u8]| file.windows(payload.len()).position(|window| window == payload);
    let (name, at) = match find(&disk.file_bytes(DIRECTORY, name)) {
        Some(at) => (name.clone(), at),
        None => segments(&disk)
            .into_iter()
            .find_map(|(name, _)| Some((name.clone(), find(&disk.file_bytes(DIRECTORY, &name))?)))
            .expect("the record is somewhere"),
    };
    disk.damage(DIRECTORY, &name, |file| file[at + 3] ^= 0x10);
    let (mut log, mut storage, report) = open(&disk, &config, 9);
    assert_eq!(report.findings, []);
    let (records, damage) = read_around(&mut log, &mut storage);
    assert_eq!(damage, [(100, 101)]);
    assert_eq!(records.len() + 1, model.records.len());
    let events: Vec<LogEvent> = std::iter::from_fn(|| log.poll_event()).collect();
    let found = events.iter().find_map(|event| match event {
        LogEvent::Damaged(range) => Some(*range),
        _ => None,
    });
    let range = found.expect("it is said");
    assert_eq!((range.first, range.resume, range.kind), (Offset(100), Offset(101), DamageKind::Bytes));
    assert_eq!(
        log.read(Offset(100), ReadLimit::default()).unwrap_err(),
        ReadError::Damaged { first: Offset(100), resume: Offset(101) }
    );
    // A search by time passes over it.
    let time_ms = model.records[100].time_ms;
    loop {
        match log.seek_time(time_ms).unwrap() {
            segment_log::Seek::At(offset) => break assert!((99..=102).contains(&offset.0), "{offset}"),
            segment_log::Seek::Pending => drive(&mut log, &mut storage),
        }
    }
}

#[test]
fn damage_below_a_later_commit_is_corruption_and_above_it_is_the_end() {
    // Not closed: the newest segment is scanned. It holds everything.
    let config = LogConfig { segment_bytes_first: 512 << 10, segment_bytes_max: 512 << 10, ..tiny() };
    let (whole, model) = filled_with(false, &config);
    let name = newest(&whole, &model);
    let bytes = whole.file_bytes(DIRECTORY, &name);
    let start = model.records.iter().position(|known| {
        let payload = &known.payload;
        payload.len() > 600 && bytes.windows(payload.len()).any(|window| window == &payload[..])
    });
    let (first, last) = (start.expect("the newest segment has records"), model.records.len() - 1);
    for (damaged, corrupt) in [(first, true), (last, false)] {
        let disk = whole.after_kill(2);
        let payload = &model.records[damaged].payload;
        let places: Vec<usize> = bytes
            .windows(payload.len())
            .enumerate()
            .filter(|(_, window)| window == payload)
            .map(|(at, _)| at)
            .collect();
        disk.damage(DIRECTORY, &name, |file| places.iter().for_each(|at| file[*at] ^= 1));
        let (mut log, mut storage, report) = open(&disk, &config, 4);
        assert_eq!(report.is_damaged(), corrupt, "{:?}", report.findings);
        if corrupt {
            assert_eq!(log.next().0, model.acknowledged);
            let (records, damage) = read_around(&mut log, &mut storage);
            assert_eq!(damage, [(damaged as u64, damaged as u64 + 1)]);
            assert_eq!(records.len() + 1, model.records.len());
        } else {
            // The last batch is not whole any more; nothing proves that it ever was.
            assert_eq!(log.next().0, model.acknowledged - 3);
            let unclean = report.findings.iter().any(|finding| matches!(finding, Finding::Unclean { .. }));
            assert!(unclean, "{:?}", report.findings);
        }
    }
}

#[test]
fn a_footer_that_is_missing_damaged_or_of_another_time_is_made_again() {
    let (whole, model, config) = filled(true);
    let mut names = segments(&whole);
    let newest = newest(&whole, &model);
    names.retain(|(name, _)| *name <= newest);
    for (at, (name, bytes)) in names.iter().enumerate() {
        let older = whole.file_bytes(DIRECTORY, &names[(at + 1) % names.len()].0);
        let changes: [Change; 4] = [
            // The trailer.
            &|file| file[*bytes as usize - 50] ^= 1,
            // An index entry; found only when it is used.
            &|file| file[*bytes as usize - BLOCK + 3] ^= 1,
            // The footer of another segment.
            &|file| {
                let from = older.len() - BLOCK;
                file[*bytes as usize - BLOCK..].copy_from_slice(&older[from..]);
            },
            // No footer at all, as after a crash before it was written.
            &|file| {
                let length = u64::from_le_bytes(file[32..40].try_into().unwrap()) as usize;
                file[*bytes as usize - BLOCK..].fill(0);
                file.resize(length.max(file.len()), 0);
            },
        ];
        for change in changes {
            let disk = whole.after_kill(7);
            disk.damage(DIRECTORY, name, change);
            let (mut log, mut storage, report) = open(&disk, &config, 8);
            assert!(!report.is_damaged(), "{:?}", report.findings);
            assert_eq!(log.next().0, model.acknowledged);
            model.check(&mut log, &mut storage, || ());
            for time_ms in [0, 333, 777, 5000] {
                model.check_seek(&mut log, &mut storage, time_ms, &|| ());
            }
            drop((log, storage));
            let (_, _, report) = open(&disk, &config, 9);
            assert_eq!(report.findings, [], "it was made again for good");
        }
    }
}

#[test]
fn a_missing_segment_is_a_gap_and_the_newest_one_skips_offsets() {
    let (whole, model, config) = filled(true);
    let names = segments(&whole);
    let disk = whole.after_kill(1);
    disk.lose_file(DIRECTORY, &names[1].0);
    let (mut log, mut storage, report) = open(&disk, &config, 2);
    let missing = report
        .findings
        .iter()
        .any(|finding| matches!(finding, Finding::Damaged(range) if range.kind == DamageKind::Missing));
    assert!(missing, "{:?}", report.findings);
    assert!(check_partial(&mut log, &mut storage, &model) > 0);
    assert_eq!(log.next().0, model.acknowledged);
    goes_on(&mut log, &mut storage);

    // Cut in the middle, it tells neither how many records it had nor where they ended.
    let disk = whole.after_kill(1);
    disk.damage(DIRECTORY, &names.last().unwrap().0, |file| file.truncate(5 * BLOCK + 100));
    let (mut log, mut storage, report) = open(&disk, &config, 2);
    let cut = report
        .findings
        .iter()
        .any(|finding| matches!(finding, Finding::Damaged(range) if range.kind == DamageKind::Truncated));
    assert!(cut, "{:?}", report.findings);
    assert!(log.next().0 > model.acknowledged, "no offset is used twice");
    check_partial(&mut log, &mut storage, &model);
    goes_on(&mut log, &mut storage);
}

#[test]
fn a_damaged_header_is_said_and_the_records_stay() {
    for closed in [true, false] {
        let (whole, model, config) = filled(closed);
        let newest = newest(&whole, &model);
        for (name, _) in segments(&whole).into_iter().take_while(|(name, _)| *name <= newest) {
            let disk = whole.after_kill(1);
            disk.damage(DIRECTORY, &name, |file| file[..BLOCK].fill(0xFF));
            let (mut log, mut storage, report) = open(&disk, &config, 2);
            let number = SegmentNumber::from_file_name(&name).unwrap();
            assert!(
                report.findings.contains(&Finding::HeaderDamaged { segment: number }),
                "{:?}",
                report.findings
            );
            assert!(!report.is_damaged(), "{:?}", report.findings);
            model.check(&mut log, &mut storage, || ());
        }
    }
}

#[test]
fn a_segment_of_a_later_version_is_not_touched() {
    let (disk, _, config) = filled(true);
    let (name, _) = segments(&disk)[0].clone();
    disk.damage(DIRECTORY, &name, |file| {
        file[8..12].copy_from_slice(&2u32.to_le_bytes());
        let mut covered = file[..12].to_vec();
        covered.extend_from_slice(&file[16..BLOCK]);
        file[12..16].copy_from_slice(&crc32(&covered).to_le_bytes());
    });
    let before = segments(&disk);
    let result = Log::open(&mut disk.storage(DIRECTORY), config, Now::default(), 1);
    let number = SegmentNumber::from_file_name(&name).unwrap();
    assert_eq!(result.err(), Some(OpenError::Version { segment: number, version: 2 }));
    assert_eq!(segments(&disk), before);
}

/// CRC-32 bit by bit: the format's, written independently.
fn crc32(bytes: &[u8]) -> u32 {
    let mut register = !0u32;
    for byte in bytes {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            register = (register >> 1) ^ (0xEDB8_8320 & (register & 1).wrapping_neg());
        }
    }
    !register
}

#[test]
fn an_unreadable_medium_is_an_error_of_the_read_and_may_heal() {
    let (disk, model, config) = filled(true);
    let (mut log, mut storage, _) = open(&disk, &config, 2);
    disk.set_unreadable(Some((DIRECTORY, SegmentNumber(1))));
    let mut at = Offset(0);
    let error = loop {
        match log.read(at, ReadLimit::default()) {
            Ok(Read::Records(slice)) => at = slice.next(),
            Ok(Read::Pending) => drive(&mut log, &mut storage),
            Ok(Read::End) => panic!("a segment cannot be read"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Storage(_)), "{error}");
    disk.set_unreadable(None);
    model.check(&mut log, &mut storage, || ());
}

#[test]
fn records_of_a_recycled_file_and_forged_ones_never_validate() {
    // The same payloads again and again, in files that are recycled; each payload is itself a picture of a segment.
    let config = LogConfig { segment_bytes_max: 32 << 10, ..tiny() };
    let mut disk = SimDisk::new(1);
    let (mut log, mut storage, _) = open(&disk, &config, 0);
    let mut model = Model::default();
    let mut recycled = 0;
    for round in 0..60u64 {
        let forged = disk.file_bytes(DIRECTORY, &segments(&disk).last().unwrap().0);
        let picture = &forged[3 * BLOCK..3 * BLOCK + 8000];
        for piece in [picture, &picture[32..7000], &picture[..100]] {
            log.append(&[&[piece]], round).expect("there is room");
            model.records.push(common::Known { time_ms: round, payload: piece.to_vec(), ends_batch: true });
            drive(&mut log, &mut storage);
        }
        model.acknowledge(&mut log);
        log.remove_before(Offset(log.committed().0.saturating_sub(4)));
        drive(&mut log, &mut storage);
        if round % 3 == 2 {
            drop((log, storage));
            disk = disk.after_power_cut(PowerCut { seed: round, sector_bytes: 512, garbage: true });
            let opened = open(&disk, &config, round);
            (log, storage) = (opened.0, opened.1);
            assert!(!opened.2.is_damaged(), "{:?}", opened.2.findings);
            assert_eq!(log.next().0, model.acknowledged);
            assert_eq!(log.committed().0 as usize, model.records.len());
            model.check(&mut log, &mut storage, || ());
        }
        recycled += usize::from(disk.files(DIRECTORY).iter().any(|(name, _)| name.ends_with(".free")));
    }
    assert!(recycled > 0, "files were recycled");
}

#[test]
fn inspection_reads_everything_and_changes_nothing() {
    let (disk, model, config) = filled(false);
    let name = &segments(&disk)[1].0;
    disk.damage(DIRECTORY, name, |file| {
        let middle = file.len() / 2;
        file[middle..middle + 512].fill(0);
    });
    let before: Vec<_> = disk.files(DIRECTORY);
    let mut storage = disk.storage(DIRECTORY);
    let operations = disk.operation_count();
    let found = segment_log::inspect(&mut storage).unwrap();
    assert_eq!((disk.files(DIRECTORY), disk.operation_count()), (before, operations));
    let newest = found.iter().rfind(|segment| segment.first.is_some()).unwrap();
    assert_eq!(newest.end.0, model.acknowledged);
    assert_eq!(newest.last_time_ms, model.records.last().unwrap().time_ms);
    assert_eq!(found[0].first, Some(Offset(0)));
    let damaged: Vec<usize> = (0..found.len()).filter(|at| !found[*at].damage.is_empty()).collect();
    assert_eq!(damaged, [1]);
    // It says the same as reading does.
    let (mut log, mut storage, _) = open(&disk, &config, 7);
    let (_, read) = read_around(&mut log, &mut storage);
    let inspected: Vec<(u64, u64)> =
        found[1].damage.iter().map(|range| (range.first.0, range.resume.0)).collect();
    assert_eq!(inspected, read);
}

#[test]
fn a_segment_of_zeros_in_the_middle_is_not_taken_for_an_unused_one() {
    let (disk, model, config) = filled(true);
    let name = segments(&disk)[1].0.clone();
    disk.damage(DIRECTORY, &name, |file| {
        // As prepared and never written to; but the segment behind it begins where records of this one ended.
        let length = u64::from_le_bytes(file[32..40].try_into().unwrap()) as usize;
        file[BLOCK..].fill(0);
        file.resize(length, 0);
    });
    let (mut log, mut storage, report) = open(&disk, &config, 2);
    let unreadable = report
        .findings
        .iter()
        .any(|finding| matches!(finding, Finding::Damaged(range) if range.kind == DamageKind::Unreadable));
    assert!(unreadable, "{:?}", report.findings);
    assert!(check_partial(&mut log, &mut storage, &model) > 0);
    assert_eq!(log.next().0, model.acknowledged);
    assert!(segments(&disk).iter().any(|(there, _)| *there == name), "nothing is deleted");
    goes_on(&mut log, &mut storage);
}
