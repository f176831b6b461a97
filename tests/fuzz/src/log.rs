//! A log over damaged segments: what is read is what was written, what is not is said, and the log goes on.

use std::cell::OnceCell;

use segment_log::storage::Storage;
use segment_log::storage::sim::{SimDisk, SimStorage};
use segment_log::{
    Log, LogConfig, Now, Offset, OpenError, Read, ReadError, ReadLimit, RecoveryReport, Seek, drive,
};

type Buffer = <SimStorage as Storage>::Buffer;

const DIRECTORY: &str = "log";

fn config() -> LogConfig {
    LogConfig {
        segment_bytes_first: 32 << 10,
        segment_bytes_max: 32 << 10,
        commit_bytes_max: 16 << 10,
        record_bytes_max: 8 << 10,
        tail_bytes_max: 16 << 10,
        index_stride_bytes: 4096,
        load_bytes: 8192,
        ..LogConfig::default()
    }
}

/// A disk with records in several segments, and the records.
struct Whole {
    disk: SimDisk,
    payloads: Vec<Vec<u8>>,
}

thread_local! {
    static WHOLE: OnceCell<[Whole; 2]> = const { OnceCell::new() };
}

fn whole(is_closed: bool) -> Whole {
    let disk = SimDisk::new(5);
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let (mut log, mut storage, _) = open(&disk).expect("a new log opens");
    for step in 0..40_usize {
        let start = payloads.len();
        for size in [50 + step * 37 % 900, 20, 700] {
            payloads.push((0..size).map(|at| (at / 3 + step * 7 + size) as u8).collect());
        }
        let parts: Vec<[&[u8]; 1]> = payloads[start..].iter().map(|payload| [&payload[..]]).collect();
        let batch: Vec<&[&[u8]]> = parts.iter().map(|parts| &parts[..]).collect();
        log.append(&batch, step as u64 * 10).expect("there is room");
        drive(&mut log, &mut storage);
    }
    if is_closed {
        log.close();
        drive(&mut log, &mut storage);
    }
    Whole { disk: disk.after_kill(1), payloads }
}

fn open(disk: &SimDisk) -> Result<(Log<Buffer>, SimStorage, RecoveryReport), OpenError> {
    let mut storage = disk.storage(DIRECTORY);
    let (log, report) = Log::open(&mut storage, config(), Now::default(), 3)?;
    Ok((log, storage, report))
}

/// Instructions of eight bytes: what to do to which file, where, and with what. The first byte's lowest bit says whether the log
/// was closed before.
pub fn recovery(input: &[u8]) {
    let [first, damages @ ..] = input else { return };
    WHOLE.with(|wholes| {
        let wholes = wholes.get_or_init(|| [whole(false), whole(true)]);
        let whole = &wholes[usize::from(first & 1)];
        let disk = whole.disk.after_kill(1);
        for instruction in damages.chunks_exact(8).take(16) {
            damage(&disk, instruction);
        }
        // A front that is gone as a whole looks as if its time had come.
        let front = |disk: &SimDisk| disk.files(DIRECTORY).first().map(|(name, _)| name.clone());
        let is_front_lost = front(&disk) != front(&whole.disk);
        check(&disk, &whole.payloads, is_front_lost);
    });
}

fn damage(disk: &SimDisk, instruction: &[u8]) {
    let &[kind, file, at0, at1, at2, length, value, more] = instruction else { return };
    let files = disk.files(DIRECTORY);
    let Some((name, file_bytes)) = files.get(usize::from(file) % files.len().max(1)) else { return };
    if *file_bytes == 0 {
        return;
    }
    let at = (usize::from(at0) | usize::from(at1) << 8 | usize::from(at2) << 16) % *file_bytes as usize;
    disk.damage(DIRECTORY, name, |file| {
        let Some(place) = file.get_mut(at..) else { return };
        let end = (usize::from(length) + 1).min(place.len());
        match kind % 8 {
            0 => place[0] ^= 1 << (value % 8),
            1 => place[0] = value,
            2 => place[..end].fill(value),
            3 => file.truncate(at),
            4 => {
                // A block in the place of another one.
                let blocks = file.len() / 512;
                let (from, to) = (usize::from(value) % blocks.max(1), usize::from(more) % blocks.max(1));
                if blocks > 0 {
                    file.copy_within(from * 512..(from + 1) * 512, to * 512);
                }
            }
            5 => place[..end].reverse(),
            6 if place.len() >= 4 => {
                let old = u32::from_le_bytes(*place.first_chunk().expect("four bytes"));
                let new = old.wrapping_add(u32::from(value)).wrapping_sub(u32::from(more));
                place[..4].copy_from_slice(&new.to_le_bytes());
            }
            _ => place[..end].iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(value)),
        }
    });
    if kind == 255 {
        disk.lose_file(DIRECTORY, name);
    }
}

fn check(disk: &SimDisk, payloads: &[Vec<u8>], is_front_lost: bool) {
    let Ok((mut log, mut storage, report)) = open(disk) else { return };
    let (first, committed) = (log.first(), log.committed());
    let is_said = report.is_damaged() || is_front_lost;
    assert!(first == Offset(0) || is_said, "the front is gone without a word");
    assert!(committed.0 <= payloads.len() as u64 || report.is_damaged(), "records were invented");
    read_all(&mut log, &mut storage, payloads);
    for time_ms in [0, 100, u64::MAX] {
        for _ in 0..1000 {
            match log.seek_time(time_ms) {
                Ok(Seek::Pending) => drive(&mut log, &mut storage),
                Ok(Seek::At(offset)) => {
                    assert!(offset >= first && offset <= log.committed());
                    break;
                }
                Err(_) => break,
            }
        }
    }
    // Whatever was lost, no number is used twice, and new records are kept.
    let offset = log.append(&[&[b"after the damage"]], 0).expect("there is room");
    assert!(offset >= committed);
    drive(&mut log, &mut storage);
    assert!(log.committed() > offset);
    let Ok((mut log, mut storage, _)) = open(&disk.after_kill(2)) else {
        panic!("a log that went on does not open again")
    };
    assert!(log.committed() > offset);
    assert_eq!(read_one(&mut log, &mut storage, offset).as_deref(), Some(&b"after the damage"[..]));
}

/// Reads from the first record to the last: each is what was written, or lies in a range that is said to be damaged. A tail that
/// looks as if it had never been synced may be gone.
fn read_all(log: &mut Log<Buffer>, storage: &mut SimStorage, payloads: &[Vec<u8>]) {
    let mut at = log.first();
    for _ in 0..100_000 {
        match log.read(at, ReadLimit::default()) {
            Ok(Read::Records(slice)) => {
                for record in slice.iter() {
                    let known = payloads.get(record.offset.0 as usize).expect("nothing is invented");
                    assert!(known == record.payload, "the payload of {}", record.offset);
                }
                assert!(slice.next() > at);
                at = slice.next();
            }
            Ok(Read::Pending) => drive(log, storage),
            Ok(Read::End) => {
                assert_eq!(at, log.committed());
                return;
            }
            Err(ReadError::Damaged { first, resume }) => {
                assert!(first == at && resume > first, "reading goes on behind damage");
                at = resume;
            }
            Err(_) => return,
        }
    }
    panic!("reading never ends");
}

fn read_one(log: &mut Log<Buffer>, storage: &mut SimStorage, offset: Offset) -> Option<Vec<u8>> {
    for _ in 0..1000 {
        match log.read(offset, ReadLimit::default()) {
            Ok(Read::Records(slice)) => return slice.iter().next().map(|record| record.payload.to_vec()),
            Ok(Read::Pending) => drive(log, storage),
            _ => return None,
        }
    }
    None
}
