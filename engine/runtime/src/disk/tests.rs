//! The actions of a log over the rings, held against plain memory and against the blocking form.

use std::collections::BTreeMap;
use std::time::Duration;

use glommio::LocalExecutorBuilder;
use glommio::timer::Timer;
use proptest::prelude::*;
use segment_log::storage::ActionId;

use super::*;
use crate::helper::HelperThreads;

const SEGMENT_BYTES: u64 = 64 * BLOCK_BYTES as u64;
const SEGMENT: SegmentNumber = SegmentNumber(7);

/// A storage in `directory`, with its helper threads.
pub(super) fn open(directory: &Path) -> (DmaStorage, HelperThreads) {
    open_delayed(directory, Duration::ZERO)
}

fn open_delayed(directory: &Path, sync_delay: Duration) -> (DmaStorage, HelperThreads) {
    let (helpers, threads) = Helpers::start(1).expect("threads");
    let commit_round = Rc::<CommitRound>::default();
    let context = DiskContext {
        helpers,
        ring: Rc::new(|| {}),
        in_flight_count: Rc::default(),
        load_turns: LoadTurns::new(Rc::clone(&commit_round)),
        commit_round,
        sync_delay,
    };
    (DmaStorage::open(directory, DiskConfig::default(), context).expect("a directory"), threads)
}

/// Run `test` on an executor of its own.
pub(super) fn on_core<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let executor = LocalExecutorBuilder::default()
        .io_memory(crate::limits::RING_MEMORY_BYTES)
        .make()
        .expect("the tests need io_uring");
    executor.run(test());
}

async fn done(storage: &mut DmaStorage, action: LogAction<DmaBlock>) -> Done {
    let id = action.id();
    storage.submit(action);
    loop {
        if let Some(done) = storage.poll_done() {
            assert_eq!(done.id, id);
            return done.result;
        }
        Timer::new(Duration::from_micros(50)).await;
    }
}

fn block(byte: u8, bytes: usize) -> Rc<DmaBlock> {
    let mut block = DmaBlock::allocate(bytes);
    assert!(block.bytes().iter().all(|&byte| byte == 0));
    block.bytes_mut().fill(byte);
    Rc::new(block)
}

fn prepare(segment: SegmentNumber, bytes: u64) -> LogAction<DmaBlock> {
    LogAction::Prepare { id: ActionId(1), segment, bytes, header: block(0xaa, BLOCK_BYTES) }
}

fn write(position: u64, byte: u8, buffer_blocks: usize, blocks: usize) -> LogAction<DmaBlock> {
    // Both kinds of writes end up at the same place.
    let durable = byte.is_multiple_of(2);
    let buffer = block(byte, buffer_blocks * BLOCK_BYTES);
    LogAction::Write {
        id: ActionId(2),
        segment: SEGMENT,
        position,
        buffer,
        bytes: blocks * BLOCK_BYTES,
        durable,
    }
}

fn load(position: u64, bytes: usize, sealed: bool) -> LogAction<DmaBlock> {
    LogAction::Load { id: ActionId(3), segment: SEGMENT, position, bytes, sealed }
}

fn loaded(done: Done) -> Window<DmaBlock> {
    match done.expect("a load") {
        Completed::Loaded(window) => window,
        Completed::Unit => panic!("a load brings a window"),
    }
}

/// The flags that the kernel has the segment's file open with, for writes that a sync follows and for durable ones.
async fn open_flags(storage: &DmaStorage) -> [OFlags; 2] {
    use std::os::fd::AsRawFd;
    let SegmentHandle::Ring(file) = storage.0.handle(SEGMENT).await.expect("a file") else {
        panic!("it is not open over the rings")
    };
    [&file.plain, &file.durable].map(|file| {
        let info =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).expect("an open file");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("its flags").trim();
        OFlags::from_bits_retain(u32::from_str_radix(flags, 8).expect("an octal number"))
    })
}

fn is_tmpfs(directory: &Path) -> bool {
    let tmpfs_magic = 0x0102_1994;
    rustix::fs::statfs(directory).is_ok_and(|stat| stat.f_type == tmpfs_magic)
}

#[test]
fn a_sync_is_delayed_where_that_is_measured() {
    let directory = tempfile::tempdir().expect("a directory");
    on_core(|| async {
        let delay = Duration::from_millis(50);
        let (mut storage, threads) = open_delayed(directory.path(), delay);
        done(&mut storage, prepare(SEGMENT, SEGMENT_BYTES)).await.expect("room");
        let began = std::time::Instant::now();
        done(&mut storage, LogAction::Sync { id: ActionId(4), segment: SEGMENT }).await.expect("synced");
        assert!(began.elapsed() >= delay);
        let began = std::time::Instant::now();
        done(&mut storage, write(BLOCK_BYTES as u64, 2, 1, 1)).await.expect("durable");
        assert!(began.elapsed() >= delay);
        drop(storage);
        threads.join();
    });
}

async fn check_life_of_a_segment(directory: &Path, by_helper: bool) {
    let (mut storage, threads) = open(directory);
    done(&mut storage, prepare(SEGMENT, SEGMENT_BYTES)).await.expect("room");
    let path = directory.join(SEGMENT.file_name());
    assert_eq!(std::fs::metadata(&path).expect("a file").len(), SEGMENT_BYTES);
    let [plain, durable] = open_flags(&storage).await;
    assert_eq!([plain, durable].map(|flags| flags.contains(OFlags::DIRECT)), [!is_tmpfs(directory); 2]);
    assert_eq!([plain, durable].map(|flags| flags.contains(OFlags::DSYNC)), [false, true]);
    if by_helper {
        storage.0.close(SEGMENT).await;
        let handle = storage.0.helper_handle(SEGMENT).await.expect("a file");
        storage.0.files.borrow_mut().insert(SEGMENT, handle);
    }

    // Three blocks of a buffer of eight: what lies behind them is untouched.
    let block_bytes = BLOCK_BYTES as u64;
    done(&mut storage, write(block_bytes, 0xbb, 8, 3)).await.expect("written");
    done(&mut storage, write(4 * block_bytes, 0xcc, 1, 1)).await.expect("written");
    done(&mut storage, LogAction::Sync { id: ActionId(4), segment: SEGMENT }).await.expect("synced");
    let expected: Vec<u8> = [(0xaa, 1), (0xbb, 3), (0xcc, 1), (0, 59)]
        .iter()
        .flat_map(|&(byte, count)| vec![byte; count * BLOCK_BYTES])
        .collect();
    assert!(std::fs::read(&path).expect("a file") == expected);

    let window = loaded(done(&mut storage, load(3 * block_bytes, 3 * BLOCK_BYTES, false)).await);
    assert!(matches!(window, Window::Buffer(..)));
    assert!(window.bytes() == &expected[3 * BLOCK_BYTES..6 * BLOCK_BYTES]);
    // Where the file ends, the window does.
    let window = loaded(done(&mut storage, load(SEGMENT_BYTES - block_bytes, 4 * BLOCK_BYTES, false)).await);
    assert_eq!(window.bytes().len(), BLOCK_BYTES);

    let footer = block(0xff, 2 * BLOCK_BYTES);
    let seal = LogAction::Seal { id: ActionId(5), segment: SEGMENT, file_bytes: 7 * block_bytes, footer };
    done(&mut storage, seal).await.expect("sealed");
    let ranges = [(0, 2 * BLOCK_BYTES), (4 * block_bytes, 9 * BLOCK_BYTES)];
    let mut windows = Vec::new();
    for (position, bytes) in [ranges, ranges].concat() {
        windows.push(loaded(done(&mut storage, load(position, bytes, true)).await));
    }
    let Ok([once, once_more, first, second]) = <[Window<DmaBlock>; 4]>::try_from(windows) else {
        panic!("four were asked for");
    };
    assert!(
        matches!((&once, &once_more), (Window::Buffer(..), Window::Buffer(..))),
        "not worth the page cache"
    );
    assert!(once.bytes() == first.bytes() && once_more.bytes() == second.bytes());
    match (&first, &second) {
        (Window::Mapped(first, _), Window::Mapped(second, _)) => assert!(Arc::ptr_eq(first, second)),
        _ => panic!("what is asked for again is mapped"),
    }
    assert!(first.bytes() == &expected[..2 * BLOCK_BYTES]);
    assert_eq!(second.bytes().len(), 3 * BLOCK_BYTES);
    assert!(second.bytes()[BLOCK_BYTES..].iter().all(|&byte| byte == 0xff));

    // While a map lives, the file must not be recycled.
    let remove = || LogAction::Remove { id: ActionId(6), segment: SEGMENT };
    done(&mut storage, remove()).await.expect("removed");
    assert!(!path.exists());
    let free = directory.join(format!("{SEGMENT}.free"));
    assert!(!free.exists());
    assert!(first.bytes()[0] == 0xaa, "its bytes stay");
    drop((first, second));

    // Once the last one has gone it is, and the next segment is made of it.
    done(&mut storage, prepare(SEGMENT, SEGMENT_BYTES)).await.expect("room");
    let seal = LogAction::Seal {
        id: ActionId(8),
        segment: SEGMENT,
        file_bytes: SEGMENT_BYTES,
        footer: block(0xff, BLOCK_BYTES),
    };
    done(&mut storage, seal).await.expect("sealed");
    done(&mut storage, load(0, BLOCK_BYTES, true)).await.expect("read");
    let read = loaded(done(&mut storage, load(0, BLOCK_BYTES, true)).await);
    assert!(matches!(read, Window::Mapped(..)));
    glommio::spawn_local(async move {
        glommio::timer::sleep(Duration::from_millis(50)).await;
        drop(read);
    })
    .detach();
    done(&mut storage, remove()).await.expect("removed");
    assert!(free.exists());
    done(&mut storage, prepare(SegmentNumber(8), 2 * SEGMENT_BYTES)).await.expect("room");
    assert!(!free.exists());

    let replace =
        |text: &str| LogAction::Replace { id: ActionId(7), name: "snapshot".into(), bytes: text.into() };
    done(&mut storage, replace("one")).await.expect("replaced");
    done(&mut storage, replace("second")).await.expect("replaced");
    let file = storage.read_file("snapshot").expect("readable").expect("there");
    assert_eq!(file.bytes(), b"second");

    let missing = done(&mut storage, LogAction::Sync { id: ActionId(8), segment: SegmentNumber(99) }).await;
    assert_eq!(missing.expect_err("no such file").cause, Cause::Missing);
    assert_eq!(storage.0.context.in_flight_count.get(), 0);
    drop(storage);
    threads.join();
}

#[test]
fn what_is_loaded_in_pieces_beside_commits_is_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    // No piece is like another.
    let content: Vec<u8> = (0..129 * BLOCK_BYTES).map(|at| (at / 500) as u8).collect();
    std::fs::write(directory.path().join(SEGMENT.file_name()), &content).expect("a segment");
    on_core(async || {
        let (mut storage, threads) = open(directory.path());
        storage.0.context.commit_round.begin();
        // The second one goes on behind the file's end.
        for (first, count) in [(1, 100), (2, 400)] {
            let (position, bytes) = (first * BLOCK_BYTES, count * BLOCK_BYTES);
            // Of a segment that is still written, then of a sealed one: directly, and when it is asked for again by a map.
            for (sealed, is_mapped) in [(false, false), (true, false), (true, true)] {
                let window = loaded(done(&mut storage, load(position as u64, bytes, sealed)).await);
                assert_eq!(matches!(window, Window::Mapped(..)), is_mapped);
                assert!(window.bytes() == &content[position..content.len().min(position + bytes)]);
            }
        }
        drop(storage);
        threads.join();
    });
}

#[test]
fn a_segment_lives_over_the_rings() {
    let directory = tempfile::tempdir().expect("a directory");
    on_core(async || check_life_of_a_segment(directory.path(), false).await);
}

#[test]
fn a_segment_lives_without_direct_io() {
    let directory = tempfile::tempdir().expect("a directory");
    on_core(async || check_life_of_a_segment(directory.path(), true).await);
}

/// A directory in memory, whose file system glommio writes without O_DIRECT. Most machines have one.
fn memory_directory() -> Option<tempfile::TempDir> {
    let shared_memory = Path::new("/dev/shm");
    is_tmpfs(shared_memory).then(|| tempfile::tempdir_in(shared_memory).ok()).flatten()
}

#[test]
fn a_segment_lives_in_memory() {
    let Some(directory) = memory_directory() else { return eprintln!("skipped: no tmpfs at /dev/shm") };
    on_core(async || check_life_of_a_segment(directory.path(), false).await);
}

#[test]
fn a_full_medium_says_so_when_a_segment_is_prepared() {
    // Only where the file system refuses before it takes anything: a real disk would be filled.
    let Some(directory) = memory_directory() else { return eprintln!("skipped: no tmpfs at /dev/shm") };
    on_core(async || {
        let (mut storage, threads) = open(directory.path());
        let error = done(&mut storage, prepare(SEGMENT, 1 << 46)).await.expect_err("no such room");
        assert!(error.is_no_space(), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
        done(&mut storage, prepare(SEGMENT, SEGMENT_BYTES)).await.expect("room");
        drop(storage);
        threads.join();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    // Writes of all shapes, several in flight at once, read back over the rings and, after reopening, by the blocking form.
    #[test]
    fn writes_arrive_where_they_were_sent(
        writes in prop::collection::vec((1_u64..56, 1_usize..8, 0_usize..3, any::<u8>()), 1..24),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut blocks = BTreeMap::new();
        on_core(async || {
            let (mut storage, threads) = open(directory.path());
            done(&mut storage, prepare(SEGMENT, SEGMENT_BYTES)).await.expect("room");
            let mut open_count = 0;
            for &(first, count, spare, byte) in &writes {
                // One block is never written twice at once.
                let taken = (first..first + count as u64).any(|index| blocks.contains_key(&index));
                if taken {
                    continue;
                }
                blocks.extend((first..first + count as u64).map(|index| (index, byte)));
                storage.submit(write(first * BLOCK_BYTES as u64, byte, count + spare, count));
                open_count += 1;
            }
            while open_count > 0 {
                match storage.poll_done() {
                    Some(done) => {
                        done.result.expect("written");
                        open_count -= 1;
                    }
                    None => {
                        Timer::new(Duration::from_micros(50)).await;
                    }
                }
            }
            done(&mut storage, LogAction::Sync { id: ActionId(9), segment: SEGMENT }).await.expect("synced");
            let window = loaded(done(&mut storage, load(0, 64 * BLOCK_BYTES, false)).await);
            for (index, found) in window.bytes().chunks(BLOCK_BYTES).enumerate().skip(1) {
                let byte = blocks.get(&(index as u64)).copied().unwrap_or(0);
                assert!(found.iter().all(|&found| found == byte), "block {index}");
            }
            drop((window, storage));
            threads.join();
        });
        let mut disk = DiskStorage::open(directory.path(), DiskConfig::default()).expect("unlocked again");
        let mut found = vec![0; BLOCK_BYTES];
        for (index, byte) in blocks {
            let filled = disk.read(SEGMENT, index * BLOCK_BYTES as u64, &mut found).expect("readable");
            prop_assert_eq!(filled, BLOCK_BYTES);
            prop_assert!(found.iter().all(|&found| found == byte));
        }
    }
}
