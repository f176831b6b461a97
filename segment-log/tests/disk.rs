//! The operating system's form: on the file system of the temporary directory (O_DIRECT where it has that), and on tmpfs.
#![forbid(unsafe_code)]

mod common;

use std::path::{Path, PathBuf};

use common::{Model, tiny};
use segment_log::storage::disk::{AlignedBuffer, DiskConfig, DiskDirectory, DiskStorage, map_segment};
use segment_log::storage::{
    ActionId, BLOCK_BYTES, Buffer, Cause, LogAction, SegmentNumber, Storage, StorageError, directory,
};
use segment_log::{AppendError, Log, LogConfig, Now, Offset, Read, ReadLimit, drive};

/// Directories on each kind of file system that there is here.
fn directories() -> Vec<tempfile::TempDir> {
    let mut directories = vec![tempfile::tempdir().expect("a temporary directory")];
    if Path::new("/dev/shm").is_dir() {
        directories.extend(tempfile::tempdir_in("/dev/shm"));
    }
    directories
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_log_comes_back_after_each_drop_and_each_close() {
    for (directory, direct) in
        directories().iter().flat_map(|directory| [(directory, true), (directory, false)])
    {
        let path = directory.path().join("above").join(format!("log-{direct}"));
        let disk = DiskConfig { direct, ..DiskConfig::default() };
        let mut model = Model::default();
        for round in 0..6u64 {
            let mut storage = DiskStorage::open(&path, disk).unwrap();
            let (mut log, report) = Log::open(&mut storage, tiny(), Now::default(), round).unwrap();
            assert!(!report.is_damaged(), "{:?}", report.findings);
            model.survive(&log);
            for step in 0..40 {
                let sizes = [10, 300 + step * 97, 2000];
                if let Err(AppendError::Busy) = model.append(&mut log, &sizes, 5) {
                    drive(&mut log, &mut storage);
                    model.append(&mut log, &sizes, 5).expect("there is room");
                }
                if step % 4 == 0 {
                    // Not each time, so that some commits are large.
                    drive(&mut log, &mut storage);
                }
            }
            drive(&mut log, &mut storage);
            model.acknowledge(&mut log);
            assert_eq!(log.committed(), log.next());
            model.check(&mut log, &mut storage, || ());
            if round % 2 == 0 {
                log.close();
                drive(&mut log, &mut storage);
                assert!(log.is_closed());
            }
        }
    }
}

#[test]
fn files_are_allocated_whole_recycled_and_bounded() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
    let config = LogConfig { segment_bytes_max: 32 << 10, ..tiny() };
    let (mut log, _) = Log::open(&mut storage, config, Now::default(), 1).unwrap();
    let mut model = Model::default();
    drive(&mut log, &mut storage);
    let mut inodes = std::collections::BTreeMap::<u64, usize>::new();
    for _ in 0..60 {
        for path in files(directory.path()) {
            let metadata = std::fs::metadata(&path).unwrap();
            assert!(metadata.blocks() * 512 >= metadata.len(), "{path:?} is sparse");
        }
        model.append(&mut log, &[4000, 3000], 0).expect("there is room");
        drive(&mut log, &mut storage);
        log.remove_before(log.committed());
        drive(&mut log, &mut storage);
        for path in files(directory.path()).iter().filter(|path| path.extension().unwrap() == "segment") {
            *inodes.entry(std::fs::metadata(path).unwrap().ino()).or_default() += 1;
        }
        assert!(files(directory.path()).len() <= 4, "{:?}", files(directory.path()));
    }
    assert!(inodes.len() <= 4, "the same few files go round: {inodes:?}");
}

/// What a kill leaves of segments without records becomes the segment and the reserve of the next start: nothing is unlinked, and
/// nothing is filled with zeros.
#[test]
fn a_start_recycles_the_empty_segments_of_the_last_one() {
    use std::os::unix::fs::MetadataExt;
    let directory = tempfile::tempdir().unwrap();
    let inodes = || -> std::collections::BTreeSet<u64> {
        files(directory.path()).iter().map(|path| std::fs::metadata(path).unwrap().ino()).collect()
    };
    let mut before = std::collections::BTreeSet::new();
    for start in 0..4 {
        let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
        let (mut log, _) = Log::open(&mut storage, tiny(), Now::default(), start).unwrap();
        if start > 0 {
            assert_eq!(inodes(), before, "start {start}");
        }
        drive(&mut log, &mut storage);
        if start > 0 {
            assert_eq!(inodes(), before, "start {start}, driven");
        }
        before = inodes();
        assert_eq!(before.len(), 2, "a segment and its reserve");
    }
}

/// Pauses of some milliseconds between devices cost no buffers; a second without events gives them back.
#[test]
fn write_buffers_go_when_the_log_is_idle_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
    let (mut log, _) = Log::open(&mut storage, LogConfig::default(), Now::default(), 1).unwrap();
    drive(&mut log, &mut storage);
    let at = |mono_ms| Now { mono_ms, ..Now::default() };
    let record = vec![7; 4000];
    let mut now_ms = 0;
    for _ in 0..5 {
        for _ in 0..100 {
            log.append(&[&[&record]], 0).expect("there is room");
        }
        drive(&mut log, &mut storage);
        for _ in 0..30 {
            now_ms += 10;
            log.tick(at(now_ms));
            assert!(log.write_buffer_bytes() > 400_000, "{} bytes", log.write_buffer_bytes());
        }
    }
    let asked_ms = log.next_tick_ms().expect("it wants to give them back");
    log.tick(at(asked_ms));
    assert!(log.write_buffer_bytes() <= 64 << 10, "{} bytes", log.write_buffer_bytes());
}

/// A commit that a disk holds up keeps its buffers, and asks for no time before they can go.
#[test]
fn a_stalled_commit_asks_for_no_time_until_it_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
    let (mut log, _) = Log::open(&mut storage, LogConfig::default(), Now::default(), 1).unwrap();
    drive(&mut log, &mut storage);
    let at = |mono_ms| Now { mono_ms, ..Now::default() };
    let record = vec![7; 4000];
    for _ in 0..100 {
        log.append(&[&[&record]], 0).expect("there is room");
    }
    let writes: Vec<_> = std::iter::from_fn(|| log.poll_action()).collect();
    // What came meanwhile cannot go out before.
    log.append(&[&[&record]], 0).expect("there is room");
    for now_ms in [1, 2_000, 2_001, 10_000] {
        log.tick(at(now_ms));
        assert!(log.poll_action().is_none());
        assert!(log.next_tick_ms().is_none_or(|at_ms| at_ms > now_ms), "at {now_ms}");
    }
    writes.into_iter().for_each(|action| storage.submit(action));
    drive(&mut log, &mut storage);
    let asked_ms = log.next_tick_ms().expect("it wants to give its buffers back");
    assert!(asked_ms > 10_000);
    log.tick(at(asked_ms));
    log.tick(at(log.next_tick_ms().unwrap_or(asked_ms)));
    assert!(log.write_buffer_bytes() <= 64 << 10, "{} bytes", log.write_buffer_bytes());
}

#[test]
fn a_directory_is_open_once_and_read_only_as_often_as_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
    let second = DiskStorage::open(directory.path(), DiskConfig::default()).err();
    assert_eq!(second.map(|error| error.cause), Some(Cause::Locked));
    let read_only = DiskConfig { read_only: true, ..DiskConfig::default() };
    assert!(DiskStorage::open(directory.path(), read_only).is_ok());
    drop(storage);
    assert!(DiskStorage::open(directory.path(), DiskConfig::default()).is_ok());
    assert!(DiskStorage::open(&directory.path().join("missing"), read_only).is_err());
}

#[test]
fn what_a_crash_left_half_made_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    for name in
        ["0000000000000009.preparing", "snapshot.replacing", "0000000000000001.free", "0000000000000002.free"]
    {
        std::fs::write(directory.path().join(name), [1; 5000]).unwrap();
    }
    std::fs::write(directory.path().join("snapshot"), b"kept").unwrap();
    let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
    assert_eq!(files(directory.path()).len(), 2, "the snapshot, and one file to recycle");
    assert_eq!(storage.read_file("snapshot").unwrap().unwrap().bytes(), b"kept");
    assert!(storage.read_file("missing").unwrap().is_none());
    assert_eq!(storage.list().unwrap(), []);
}

#[test]
fn the_steps_work_from_another_thread_and_from_any_memory() {
    for temporary in directories() {
        let number = SegmentNumber(3);
        let mut helper = DiskDirectory::open(temporary.path(), DiskConfig::default()).unwrap();
        let made = std::thread::spawn(move || -> Result<Vec<u8>, StorageError> {
            // Off by one byte: direct I/O does not take it, so it goes through the page cache.
            let bytes = vec![7; BLOCK_BYTES + 1];
            directory::prepare(&mut helper, number, 64 << 10, &bytes[1..])?;
            directory::seal(&mut helper, number, 3 * BLOCK_BYTES as u64, &bytes[1..])?;
            let mapping = map_segment(&helper, number)?;
            mapping.populate(0..mapping.bytes().len())?;
            assert_eq!(mapping.populate(0..mapping.bytes().len() + 1).unwrap_err().cause, Cause::Short);
            Ok(mapping.bytes().to_vec())
        });
        let bytes = made.join().unwrap().unwrap();
        assert_eq!(bytes.len(), 3 * BLOCK_BYTES);
        assert!(bytes[..BLOCK_BYTES].iter().chain(&bytes[2 * BLOCK_BYTES..]).all(|byte| *byte == 7));
        assert!(bytes[BLOCK_BYTES..2 * BLOCK_BYTES].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_mapped_slice_survives_removal_and_is_not_recycled_under_its_reader() {
    let directory = tempfile::tempdir().unwrap();
    let mut model = Model::default();
    {
        let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
        let (mut log, _) = Log::open(&mut storage, tiny(), Now::default(), 1).unwrap();
        model.append(&mut log, &[5000, 600, 70], 0).unwrap();
        log.close();
        drive(&mut log, &mut storage);
    }
    let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
    let (mut log, _) = Log::open(&mut storage, tiny(), Now::default(), 2).unwrap();
    let shared = loop {
        match log.read(Offset(0), ReadLimit::default()).unwrap() {
            Read::Records(slice) => break slice.shared(),
            _ => drive(&mut log, &mut storage),
        }
    };
    assert!(shared.is_mapped());
    model.append(&mut log, &[10], 0).unwrap();
    drive(&mut log, &mut storage);
    log.remove_before(Offset(3));
    drive(&mut log, &mut storage);
    assert_eq!(log.first(), Offset(3));
    let free = files(directory.path()).into_iter().any(|path| path.extension().unwrap() == "free");
    assert!(!free, "it is unlinked while a reader has it");
    for (record, known) in shared.iter().zip(&model.records) {
        assert_eq!(record.payload, known.payload);
    }
}

#[test]
fn of_retired_files_the_largest_waits_for_the_next_segment() {
    use std::os::unix::fs::MetadataExt;
    let path = tempfile::tempdir().unwrap();
    let mut storage = DiskDirectory::open(path.path(), DiskConfig::default()).unwrap();
    let header = AlignedBuffer::allocate(BLOCK_BYTES);
    let [small, large, next] = [1, 2, 3].map(SegmentNumber);
    let (small_bytes, large_bytes) = (8 * BLOCK_BYTES as u64, 16 * BLOCK_BYTES as u64);
    directory::prepare(&mut storage, small, small_bytes, header.bytes()).unwrap();
    directory::prepare(&mut storage, large, large_bytes, header.bytes()).unwrap();
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let kept = inode(&path.path().join(large.file_name()));
    directory::remove(&mut storage, small, true).unwrap();
    directory::remove(&mut storage, large, true).unwrap();
    let left = files(path.path());
    assert_eq!(left.iter().map(|path| inode(path)).collect::<Vec<_>>(), [kept], "{left:?}");
    directory::prepare(&mut storage, next, large_bytes, header.bytes()).unwrap();
    assert_eq!(files(path.path()), [path.path().join(next.file_name())]);
    assert_eq!(inode(&path.path().join(next.file_name())), kept);
    directory::prepare(&mut storage, large, large_bytes, header.bytes()).unwrap();
    directory::remove(&mut storage, large, true).unwrap();
    directory::prepare(&mut storage, small, small_bytes, header.bytes()).unwrap();
    assert_eq!(std::fs::metadata(path.path().join(small.file_name())).unwrap().len(), small_bytes);
}

/// What the preparation recycles has left its place by then, and the retired file takes it.
#[test]
fn a_segment_is_retired_behind_a_preparation_that_is_under_way() {
    let path = tempfile::tempdir().unwrap();
    let mut storage = DiskStorage::open(path.path(), DiskConfig::default()).unwrap();
    let (mut log, _) = Log::open(&mut storage, tiny(), Now::default(), 1).unwrap();
    let mut model = Model::default();
    let mut prepared_count = 0;
    let mut held = None;
    // The third is asked for when the first segment is full.
    while held.is_none() {
        let _ = model.append(&mut log, &[4000, 4000], 0);
        while let Some(action) = log.poll_action() {
            prepared_count += u32::from(matches!(action, LogAction::Prepare { .. }));
            match action {
                LogAction::Prepare { .. } if prepared_count == 3 => held = Some(action),
                action => storage.submit(action),
            }
            while let Some(done) = storage.poll_done() {
                log.handle_done(done);
            }
        }
    }
    log.remove_before(log.committed());
    assert!(log.first() > Offset(0), "the first segment goes");
    assert!(log.poll_action().is_none(), "not beside the preparation");
    assert_eq!(log.next_tick_ms(), None, "it waits for the preparation and not for time");
    storage.submit(held.expect("it is held"));
    let done = storage.poll_done().expect("it is done where it is submitted");
    log.handle_done(done);
    assert!(matches!(log.poll_action(), Some(LogAction::Remove { .. })));
}

#[test]
fn errors_name_what_failed() {
    let directory = tempfile::tempdir().unwrap();
    let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
    let sync = LogAction::Sync { id: ActionId(1), segment: SegmentNumber(77) };
    storage.submit(sync);
    let done = storage.poll_done().unwrap();
    assert_eq!(done.id, ActionId(1));
    let error = done.result.unwrap_err();
    assert_eq!(error.to_string(), "opening a file failed: no such file");
    assert!(storage.poll_done().is_none());
    let buffer = AlignedBuffer::allocate(2 * BLOCK_BYTES);
    assert_eq!(buffer.bytes().as_ptr() as usize % BLOCK_BYTES, 0);
}

/// A reader that catches up reads each block about once, sealed or still written to, and waits for its first load alone.
#[test]
fn a_reader_is_read_ahead_of_and_nothing_is_read_twice() {
    for is_sealed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let mut storage = DiskStorage::open(directory.path(), DiskConfig::default()).unwrap();
        let config = LogConfig {
            segment_bytes_first: 4 << 20,
            segment_bytes_max: 4 << 20,
            load_bytes: 64 << 10,
            ..tiny()
        };
        let (mut log, _) = Log::open(&mut storage, config, Now::default(), 1).unwrap();
        let mut model = Model::default();
        drive(&mut log, &mut storage);
        for _ in 0..400 {
            model.append(&mut log, &[300; 10], 0).expect("there is room");
            drive(&mut log, &mut storage);
        }
        if is_sealed {
            log.close();
            drive(&mut log, &mut storage);
        }
        model.acknowledge(&mut log);

        let (mut at, mut wait_count, mut loaded_bytes, mut read_bytes) = (log.first(), 0, 0, 0);
        loop {
            match log.read(at, ReadLimit { bytes: 4096, records: u32::MAX }).expect("nothing is damaged") {
                Read::Records(slice) => (at, read_bytes) = (slice.next(), read_bytes + slice.bytes().len()),
                Read::Pending => wait_count += 1,
                Read::End => break,
            }
            while let Some(action) = log.poll_action() {
                if let LogAction::Load { bytes, sealed, .. } = action {
                    assert_eq!(sealed, is_sealed);
                    loaded_bytes += bytes;
                }
                storage.submit(action);
            }
            while let Some(done) = storage.poll_done() {
                log.handle_done(done);
            }
        }
        assert_eq!(at, log.committed());
        assert!(read_bytes > 1 << 20, "{read_bytes} bytes");
        // The rest of the active segment, less than a load, is not read ahead.
        assert!(wait_count <= 2, "{wait_count} waits");
        assert!(loaded_bytes < read_bytes + read_bytes / 8, "{loaded_bytes} bytes loaded for {read_bytes}");
    }
}
