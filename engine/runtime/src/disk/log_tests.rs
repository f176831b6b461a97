//! A log over the rings against a plain model: random batches in segments that roll often, read while they are written,
//! and opened again by turns over the rings and by the blocking form.

use std::time::Duration;

use glommio::timer::Timer;
use proptest::prelude::*;
use segment_log::storage::disk::{DiskConfig, DiskStorage};
use segment_log::storage::{BLOCK_BYTES, Storage};
use segment_log::{AppendError, Log, LogConfig, Now, Offset, Read, ReadLimit, drive};

use super::tests::{on_core, open};

const NOW: Now = Now { wall_ms: 1_700_000_000_000, mono_ms: 1 };

/// Segments that roll every few batches, and a tail so short that most reads go to the medium.
fn config() -> LogConfig {
    LogConfig {
        segment_bytes_first: 32 * BLOCK_BYTES as u64,
        segment_bytes_max: 64 * BLOCK_BYTES as u64,
        commit_bytes_max: 8 * BLOCK_BYTES,
        record_bytes_max: 16_000,
        tail_bytes_max: 4 * BLOCK_BYTES,
        load_bytes: 4 * BLOCK_BYTES,
        index_stride_bytes: BLOCK_BYTES as u64,
        ..LogConfig::default()
    }
}

/// One turn over the rings.
async fn turn<S: Storage>(log: &mut Log<S::Buffer>, storage: &mut S) {
    drive(log, storage);
    while let Some(event) = log.poll_event() {
        let text = format!("{event:?}");
        assert!(!text.contains("Failed") && !text.contains("Latched") && !text.contains("Damaged"), "{text}");
    }
    Timer::new(Duration::from_micros(20)).await;
}

async fn append<S: Storage>(log: &mut Log<S::Buffer>, storage: &mut S, batch: &[Vec<u8>]) -> Offset {
    let parts: Vec<[&[u8]; 1]> = batch.iter().map(|record| [record.as_slice()]).collect();
    let parts: Vec<&[&[u8]]> = parts.iter().map(|record| &record[..]).collect();
    loop {
        match log.append(&parts, NOW.wall_ms) {
            Ok(first) => return first,
            Err(AppendError::Busy) => turn(log, storage).await,
            Err(error) => panic!("not appended: {error}"),
        }
    }
}

async fn read_all<S: Storage>(log: &mut Log<S::Buffer>, storage: &mut S) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    loop {
        match log.read(Offset(records.len() as u64), ReadLimit::default()).expect("readable") {
            Read::Records(slice) => records.extend(slice.iter().map(|record| record.payload.to_vec())),
            Read::Pending => turn(log, storage).await,
            Read::End => return records,
        }
    }
}

/// Open, check what is there, append, check again, and close or just drop.
async fn run_of<S: Storage>(mut storage: S, model: &mut Vec<Vec<u8>>, batches: &[Vec<Vec<u8>>], clean: bool) {
    let (mut log, report) = Log::open(&mut storage, config(), NOW, 7).expect("a log");
    assert!(!report.is_damaged(), "{report:?}");
    assert!(read_all(&mut log, &mut storage).await == *model, "after opening");
    for (number, batch) in batches.iter().enumerate() {
        let first = append(&mut log, &mut storage, batch).await;
        assert_eq!(first, Offset(model.len() as u64));
        model.extend_from_slice(batch);
        if number % 3 == 0 {
            turn(&mut log, &mut storage).await;
            let found = read_all(&mut log, &mut storage).await;
            assert!(found == model[..found.len()], "while it is written");
        }
    }
    if clean {
        log.close();
    }
    while log.committed() < log.next() || (clean && !log.is_closed()) {
        turn(&mut log, &mut storage).await;
    }
    assert!(read_all(&mut log, &mut storage).await == *model, "once durable");
}

fn batches() -> impl Strategy<Value = Vec<Vec<Vec<u8>>>> {
    let record =
        (any::<u8>(), prop_oneof![0_usize..400, 0_usize..9000]).prop_map(|(byte, bytes)| vec![byte; bytes]);
    prop::collection::vec(prop::collection::vec(record, 1..3), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_the_same_over_the_rings_and_without(
        runs in prop::collection::vec((batches(), any::<bool>(), any::<bool>()), 2..5),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut model = Vec::new();
        on_core(async || {
            for (batches, over_rings, clean) in &runs {
                if *over_rings {
                    let (storage, threads) = open(directory.path());
                    let in_flight_count = storage.0.context.in_flight_count.clone();
                    run_of(storage, &mut model, batches, *clean).await;
                    while in_flight_count.get() > 0 {
                        Timer::new(Duration::from_micros(50)).await;
                    }
                    threads.join();
                } else {
                    let storage = DiskStorage::open(directory.path(), DiskConfig::default()).expect("a directory");
                    run_of(storage, &mut model, batches, *clean).await;
                }
            }
        });
    }
}

/// Filled write buffers go out as they are; part of one is copied. Both arrive.
#[test]
fn commits_of_every_size_arrive() {
    let directory = tempfile::tempdir().expect("a directory");
    on_core(async || {
        let (storage, threads) = open(directory.path());
        let sizes = [1, 4000, 16_000, 16_000, 16_000, 1, 16_000, 16_000];
        let batches: Vec<_> = sizes.iter().map(|&bytes| vec![vec![bytes as u8; bytes]]).collect();
        let in_flight_count = storage.0.context.in_flight_count.clone();
        run_of(storage, &mut Vec::new(), &batches, true).await;
        while in_flight_count.get() > 0 {
            Timer::new(Duration::from_micros(50)).await;
        }
        threads.join();
    });
}
