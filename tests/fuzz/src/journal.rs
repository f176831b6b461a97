//! Journals and snapshots that are well-formed as far as their checksums go: what they say may still be anything.

use std::sync::Arc;

use registry::{Change, KeySealer, SnapshotFile, Store};
use segment_log::storage::sim::SimDisk;
use segment_log::{Log, Now, Read, ReadLimit, drive};

use crate::shard::{JOURNAL, SNAPSHOT, WALL_MS, World, config, data_key};

/// Records, each behind its length in two bytes, little end first.
fn split(mut input: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk() {
        let Some((record, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else {
            break;
        };
        records.push(record);
        input = rest;
    }
    records
}

fn now() -> Now {
    Now { wall_ms: WALL_MS, mono_ms: 1000 }
}

/// A partition opens over a journal of these records or says why not; what it then knows survives a restart, and a snapshot.
pub fn entries(input: &[u8]) {
    let sealer = KeySealer::new(&data_key());
    let records = split(input);
    for record in &records {
        // The registry's own form, behind the byte of the kind.
        if let Some((_, change)) = record.split_first()
            && let Ok(change) = Change::decode(change, &sealer)
        {
            let mut again = Vec::new();
            change.encode(&sealer, &mut again);
            assert_eq!(Change::decode(&again, &sealer).expect("what was encoded"), change);
        }
    }
    let disk = SimDisk::new(1);
    let mut storage = disk.storage(JOURNAL);
    let (mut log, _) = Log::open(&mut storage, config(1).journal, now(), 3).expect("a new log opens");
    for record in records.iter().take(200) {
        if log.append(&[&[record]], WALL_MS).is_ok() {
            drive(&mut log, &mut storage);
        }
    }
    drop((log, storage));
    survive(disk.after_kill(1));
}

/// A snapshot whose checksums and length are made right, in the place of the one that a hub has taken.
pub fn snapshot(input: &[u8]) {
    let mut bytes = input.to_vec();
    if bytes.len() >= 128 {
        let (length, body) = (bytes.len() as u64, crc32fast::hash(&bytes[128..]));
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        bytes[24..28].copy_from_slice(&body.to_le_bytes());
        bytes[12..16].fill(0);
        let head = crc32fast::hash(&bytes[..128]);
        bytes[12..16].copy_from_slice(&head.to_le_bytes());
    }
    if let Ok(file) = SnapshotFile::open(Arc::new(bytes.clone())) {
        assert!(file.extra().len() <= bytes.len());
        let _ = Store::open(Some(file), KeySealer::new(&data_key()));
    }
    let disk = SimDisk::new(1);
    let mut storage = disk.storage(JOURNAL);
    let (mut log, _) = Log::open(&mut storage, config(1).journal, now(), 3).expect("a new log opens");
    // Snapshots of the seeds stand at one of the first offsets.
    for _ in 0..16 {
        log.append(&[&[&[3, 2, 1, 0, 0, 0, 0, 0, 0]]], WALL_MS).expect("there is room");
        drive(&mut log, &mut storage);
    }
    log.replace_file(SNAPSHOT, bytes);
    drive(&mut log, &mut storage);
    drop((log, storage));
    survive(disk.after_kill(1));
}

fn survive(disk: SimDisk) {
    let mut world = World::open(disk, config(1 << 20));
    if world.report.fault.is_some() {
        return;
    }
    let known = world.known();
    // The same again, and with a snapshot that is due at once.
    let mut world = world.reopen(config(1));
    assert!(world.report.fault.is_none(), "{:?}", world.report.fault);
    assert_eq!(world.known(), known, "after a restart");
    world.settle();
    let mut world = world.reopen(config(1 << 20));
    assert!(world.report.fault.is_none(), "behind a snapshot: {:?}", world.report.fault);
    assert_eq!(world.known(), known, "behind a snapshot");
}

/// The records of a disk's journal, as [`split`] takes them apart: all of them, and each kind alone behind the first ones.
pub fn seeds(disk: &SimDisk) -> Vec<Vec<u8>> {
    let mut storage = disk.storage(JOURNAL);
    let (mut log, _) = Log::open(&mut storage, config(1).journal, now(), 3).expect("a journal of ours");
    let mut records = Vec::new();
    let mut at = log.first();
    loop {
        match log.read(at, ReadLimit::default()).expect("a journal of ours") {
            Read::Records(slice) => {
                records.extend(slice.iter().map(|record| record.payload.to_vec()));
                at = slice.next();
            }
            Read::Pending => drive(&mut log, &mut storage),
            Read::End => break,
        }
    }
    let eight = |value: u8| [value, 0, 0, 0, 0, 0, 0, 0];
    let (device, number) = ([1, b'd'], eight(1));
    records.extend([
        [&[2], &eight(1)[..], &eight(9)].concat(),
        [&[6], &device[..], &number, &[9]].concat(),
        [&[5], &device[..], &[3], &eight(8), &[1, 0, 0, 0], &number, &[1]].concat(),
        [&[7], &eight(9)[..], &eight(10), &[1, 0, 0, 0]].concat(),
        [&[8], &eight(9)[..], &[11]].concat(),
        [&[9], &eight(9)[..]].concat(),
        [&[10], &device[..], &[2], b"a/b"].concat(),
        [&[3], &eight(1)[..]].concat(),
    ]);
    let join = |records: &[Vec<u8>]| -> Vec<u8> {
        let length = |record: &Vec<u8>| (record.len() as u16).to_le_bytes();
        records.iter().flat_map(|record| [&length(record)[..], record].concat()).collect()
    };
    let mut seeds: Vec<Vec<u8>> = records.iter().map(|record| join(std::slice::from_ref(record))).collect();
    seeds.extend((2..records.len()).step_by(4).map(|count| join(&records[..count])));
    seeds.push(join(&records));
    seeds
}

/// The snapshot that a hub takes.
pub fn snapshot_seed() -> Vec<u8> {
    let world = World::open(World::furnished(), config(1));
    let bytes = world.disk.file_bytes(JOURNAL, SNAPSHOT);
    assert!(!bytes.is_empty(), "a snapshot was due");
    bytes
}
