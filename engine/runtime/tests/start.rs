//! What keeps a hub from starting is told in a sentence, and leaves nothing behind.
#![forbid(unsafe_code)]

mod common;

use std::path::Path;

use common::{Hub, shard_config};
use engine::request::PartitionId;
use engine_runtime::{RuntimeConfig, StartError, partition_dir, start};

fn refusal(directory: &Path, configure: impl FnOnce(&mut RuntimeConfig)) -> StartError {
    let mut config = RuntimeConfig::new(directory, shard_config(2));
    configure(&mut config);
    match start(config, |_| async {}) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

#[test]
fn cores_that_cannot_be_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let error = refusal(directory.path(), |config| config.core_count = 0);
    assert!(matches!(error, StartError::CoreCount { core_count: 0 }), "{error}");
    let error = refusal(directory.path(), |config| config.pin = Some(vec![0, 0]));
    assert!(matches!(error, StartError::Pin { cpu_count: 2, core_count: 1 }), "{error}");
    let error = refusal(directory.path(), |config| config.pin = Some(vec![100_000]));
    assert!(matches!(error, StartError::Executor { core: 0, .. }), "{error}");
    assert!(!directory.path().join("partitions").exists(), "nothing was made");
}

#[test]
fn a_directory_in_use_or_in_the_way_is_refused_and_free_again_afterwards() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(directory.path(), 1, 2);
    let error = refusal(directory.path(), |config| config.core_count = 2);
    assert!(matches!(error, StartError::Directory { .. }), "{error}");
    assert!(hub.stop().clean);

    // One core's trouble ends the others too: all directories are free again.
    let in_the_way = partition_dir(directory.path(), PartitionId(1)).join("events");
    let aside = directory.path().join("aside");
    std::fs::rename(&in_the_way, &aside).expect("renamed");
    std::fs::write(&in_the_way, "a file").expect("written");
    let error = refusal(directory.path(), |config| config.core_count = 2);
    assert!(matches!(error, StartError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("0001/events"), "{error}");
    std::fs::remove_file(&in_the_way).expect("removed");
    std::fs::rename(&aside, &in_the_way).expect("renamed");
    assert!(Hub::start(directory.path(), 2, 2).stop().clean);
}

#[test]
fn a_core_may_be_pinned() {
    let directory = tempfile::tempdir().expect("a directory");
    let cpu = rustix::thread::sched_getaffinity(None).expect("this thread's CPUs");
    let cpu = (0..1024).find(|&index| cpu.is_set(index)).expect("a CPU to run on");
    let hub = Hub::start_with(directory.path(), 1, 2, |config| config.pin = Some(vec![cpu]));
    let found =
        hub.on(0, async |_| rustix::thread::sched_getaffinity(None).expect("the core's CPUs").count());
    assert_eq!(found, 1);
    assert!(hub.stop().clean);
}
