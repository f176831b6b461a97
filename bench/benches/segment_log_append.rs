//! Records of 256 B into a log on the disk: one commit of several sizes, durable.
#![forbid(unsafe_code)]

use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use segment_log::storage::disk::{DiskConfig, DiskStorage};
use segment_log::{AppendError, Log, LogConfig, Now, RetentionConfig, drive};

fn commit(criterion: &mut Criterion) {
    let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
    let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).expect("a directory");
    // However long it runs, old segments make room.
    let retention = RetentionConfig { bytes: Some(1 << 30), ..RetentionConfig::default() };
    let config = LogConfig { retention, ..LogConfig::default() };
    let began = Instant::now();
    let now = || {
        let mono_ms = began.elapsed().as_millis() as u64;
        Now { wall_ms: 1_700_000_000_000 + mono_ms, mono_ms }
    };
    let (mut log, _) = Log::open(&mut storage, config, now(), 7).expect("a log");
    let payload = [0x5a; 256];
    let mut group = criterion.benchmark_group("segment_log");
    for record_count in [1_u64, 64, 1024] {
        group.throughput(Throughput::Elements(record_count));
        group.bench_function(BenchmarkId::new("commit", record_count), |bencher| {
            bencher.iter(|| {
                let time_ms = now().wall_ms;
                for _ in 0..record_count {
                    while let Err(error) = log.append(&[&[&payload]], time_ms) {
                        assert_eq!(error, AppendError::Busy);
                        drive(&mut log, &mut storage);
                    }
                }
                drive(&mut log, &mut storage);
                while log.poll_event().is_some() {}
                log.tick(now());
                assert_eq!(log.committed(), log.next());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
