//! A log's directory over the core's rings: direct writes, syncs and reads by glommio, everything that may sleep on helper
//! threads.
//!
//! Nothing that a running log asks for is done on the core's thread but handing it over. Each action is a task that ends
//! with its answer, which is left for [`Storage::poll_done`] and rings the core's bell.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};
use rustix::fs::OFlags;
use rustix::io::Errno;
use segment_log::storage::directory::{self, Directory};
use segment_log::storage::disk::{
    AlignedBuffer, DiskConfig, DiskDirectory, DiskFile, DiskStorage, map_segment,
};
use segment_log::storage::transfer::Transfer;
use segment_log::storage::{
    BLOCK_BYTES, Buffer, Cause, Completed, FileBytes, LogAction, LogDone, Mapping, Operation, SegmentFile,
    SegmentNumber, Storage, StorageError, Window,
};

use crate::buffer::{Allowance, DmaBlock, Share, dma_copy_of};
use crate::commit_round::CommitRound;
use crate::helper::{Helpers, Lane};

use self::doorkeeper::Doorkeeper;
pub(crate) use self::load_turns::LoadTurns;

mod doorkeeper;
mod load_turns;

type Done = Result<Completed<DmaBlock>, StorageError>;

/// How long a segment that goes waits for readers that still have it mapped.
const UNMAP_WAIT: Duration = Duration::from_secs(1);
const UNMAP_POLL: Duration = Duration::from_millis(20);

/// Memory of a log for ranges of sealed segments that are not mapped, asked for, read or still with a reader, in bytes. With more
/// readers than that is enough for, the others' ranges are mapped.
const DIRECT_BYTES_MAX: usize = 32 << 20;

/// What the disk work of one core has in common.
#[derive(Clone)]
pub(crate) struct DiskContext {
    /// Threads for what may sleep.
    pub(crate) helpers: Helpers,
    /// Makes the core take its next turn.
    pub(crate) ring: Rc<dyn Fn()>,
    /// Actions whose answer is still to come.
    pub(crate) in_flight_count: Rc<Cell<u32>>,
    /// When commits may go out.
    pub(crate) commit_round: Rc<CommitRound>,
    /// When loads may.
    pub(crate) load_turns: LoadTurns,
    /// See [`RuntimeConfig::sync_delay_ms`](crate::RuntimeConfig::sync_delay_ms).
    pub(crate) sync_delay: Duration,
}

/// One log's directory, on the core that runs the log.
pub struct DmaStorage(Rc<Inner>);

struct Inner {
    path: PathBuf,
    /// Opening goes through it, and it holds the directory's lock.
    disk: RefCell<DiskStorage>,
    directory: DiskDirectory,
    context: DiskContext,
    files: RefCell<HashMap<SegmentNumber, SegmentHandle>>,
    maps: RefCell<HashMap<SegmentNumber, MapEntry>>,
    doorkeeper: RefCell<Doorkeeper>,
    direct: Allowance,
    done: RefCell<VecDeque<LogDone<DmaBlock>>>,
}

/// The way to write to a segment.
#[derive(Clone)]
enum SegmentHandle {
    /// Over the rings: O_DIRECT, or tmpfs, where glommio leaves that flag away.
    Ring(RingFile),
    /// A file system without direct I/O: through the page cache, on a helper thread.
    Helper(Arc<Mutex<DiskFile>>),
}

/// A segment's file, opened twice.
#[derive(Clone)]
struct RingFile {
    /// For reads, and for writes that a sync makes durable.
    plain: Rc<DmaFile>,
    /// O_DSYNC: what is written through it is durable when it is answered, with one trip to the ring and one to a kernel
    /// thread less than a write and a sync.
    durable: Rc<DmaFile>,
}

impl RingFile {
    async fn open(path: &Path) -> Result<Self, GlommioError<()>> {
        let open = async |flags: OFlags| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(flags.bits().cast_signed());
            options.dma_open(path).await.map(Rc::new)
        };
        Ok(Self { plain: open(OFlags::empty()).await?, durable: open(OFlags::DSYNC).await? })
    }

    async fn close(self) {
        // All writes were durable when they were answered: what closing could tell is known.
        let _ = self.plain.close_rc().await;
        let _ = self.durable.close_rc().await;
    }
}

#[derive(Default)]
struct MapEntry {
    map: Weak<Mapping>,
    /// Loads that read the file right now, or may be making a map.
    loading_count: u32,
}

impl DmaStorage {
    /// Open a directory, made if it is missing. What a crash left half made is removed. May block.
    ///
    /// # Errors
    ///
    /// As [`DiskStorage::open`].
    pub(crate) fn open(path: &Path, config: DiskConfig, context: DiskContext) -> Result<Self, StorageError> {
        let disk = DiskStorage::open(path, config)?;
        let path =
            std::path::absolute(path).map_err(|error| StorageError::from_io(Operation::Open, &error))?;
        Ok(Self(Rc::new(Inner {
            path,
            directory: disk.directory().clone(),
            disk: RefCell::new(disk),
            context,
            files: RefCell::default(),
            maps: RefCell::default(),
            doorkeeper: RefCell::default(),
            direct: Allowance::new(DIRECT_BYTES_MAX),
            done: RefCell::default(),
        })))
    }
}

impl Storage for DmaStorage {
    type Buffer = DmaBlock;

    fn list(&mut self) -> Result<Vec<SegmentFile>, StorageError> {
        self.0.disk.borrow_mut().list()
    }

    fn read(
        &mut self,
        segment: SegmentNumber,
        position: u64,
        into: &mut [u8],
    ) -> Result<usize, StorageError> {
        self.0.disk.borrow_mut().read(segment, position, into)
    }

    fn read_file(&mut self, name: &str) -> Result<Option<FileBytes>, StorageError> {
        self.0.disk.borrow_mut().read_file(name)
    }

    fn perform(&mut self, action: LogAction<DmaBlock>) -> Done {
        let completed = self.0.disk.borrow_mut().perform(blocking(action))?;
        Ok(match completed {
            Completed::Unit => Completed::Unit,
            Completed::Loaded(Window::Mapped(map, range)) => Completed::Loaded(Window::Mapped(map, range)),
            Completed::Loaded(Window::Buffer(buffer, range)) => {
                Completed::Loaded(Window::Buffer(Rc::new(DmaBlock::copy_of(buffer.bytes())), range))
            }
        })
    }

    fn submit(&mut self, action: LogAction<DmaBlock>) {
        let inner = Rc::clone(&self.0);
        let in_flight_count = &self.0.context.in_flight_count;
        in_flight_count.set(in_flight_count.get() + 1);
        let is_commit = matches!(action, LogAction::Write { .. } | LogAction::Sync { .. });
        if is_commit {
            self.0.context.commit_round.begin();
        }
        glommio::spawn_local(async move {
            let id = action.id();
            let result = inner.carry_out(action).await;
            if is_commit {
                inner.context.commit_round.end();
            }
            inner.done.borrow_mut().push_back(LogDone { id, result });
            let in_flight_count = &inner.context.in_flight_count;
            in_flight_count.set(in_flight_count.get() - 1);
            (inner.context.ring)();
        })
        .detach();
    }

    fn poll_done(&mut self) -> Option<LogDone<DmaBlock>> {
        self.0.done.borrow_mut().pop_front()
    }

    fn takes_commits(&self) -> bool {
        self.0.context.commit_round.is_open()
    }
}

impl Inner {
    async fn carry_out(&self, action: LogAction<DmaBlock>) -> Done {
        match action {
            LogAction::Prepare { segment, bytes, header, .. } => {
                self.prepare(segment, bytes, header.bytes().to_vec()).await?;
            }
            LogAction::Write { segment, position, buffer, bytes, durable, .. } => {
                self.write(segment, position, &buffer, bytes, durable).await?;
                if durable {
                    self.delay_sync().await;
                }
            }
            LogAction::Sync { segment, .. } => {
                self.sync(segment).await?;
                self.delay_sync().await;
            }
            LogAction::Seal { segment, file_bytes, footer, .. } => {
                self.close(segment).await;
                let mut directory = self.directory.clone();
                let footer = footer.bytes().to_vec();
                let seal = move || directory::seal(&mut directory, segment, file_bytes, &footer);
                self.context.helpers.run(Lane::Quick, seal).await?;
            }
            LogAction::Load { segment, position, bytes, sealed: true, .. } => {
                return self.load_sealed(segment, position, bytes).await.map(Completed::Loaded);
            }
            LogAction::Load { segment, position, bytes, sealed: false, .. } => {
                return self.load_active(segment, position, bytes).await.map(Completed::Loaded);
            }
            LogAction::Remove { segment, .. } => {
                self.close(segment).await;
                self.remove(segment).await?;
            }
            LogAction::Replace { name, bytes, .. } => {
                let mut directory = self.directory.clone();
                let replace = move || directory::replace(&mut directory, &name, &bytes);
                self.context.helpers.run(Lane::Slow, replace).await?;
            }
        }
        Ok(Completed::Unit)
    }

    async fn prepare(&self, segment: SegmentNumber, bytes: u64, header: Vec<u8>) -> Result<(), StorageError> {
        let mut directory = self.directory.clone();
        let prepare = move || directory::prepare(&mut directory, segment, bytes, &header);
        self.context.helpers.run(Lane::Fill, prepare).await?;
        // Opened ahead of the first write, which somebody waits for; that one says what is wrong, if anything is.
        let _ = self.handle(segment).await;
        Ok(())
    }

    /// The segment's open file, opened now if it has to be.
    async fn handle(&self, segment: SegmentNumber) -> Result<SegmentHandle, StorageError> {
        if let Some(handle) = self.files.borrow().get(&segment) {
            return Ok(handle.clone());
        }
        let path = self.path.join(segment.file_name());
        let handle = match RingFile::open(&path).await {
            Ok(file) => SegmentHandle::Ring(file),
            Err(error) if refuses_direct(&error) => self.helper_handle(segment).await?,
            Err(error) => return Err(failed(Operation::Open, &error)),
        };
        // Another task may have opened it meanwhile; one of them is enough.
        Ok(self.files.borrow_mut().entry(segment).or_insert(handle).clone())
    }

    async fn helper_handle(&self, segment: SegmentNumber) -> Result<SegmentHandle, StorageError> {
        let mut directory = self.directory.clone();
        let open = move || directory.open(&segment.file_name());
        let file = self.context.helpers.run(Lane::Quick, open).await?;
        Ok(SegmentHandle::Helper(Arc::new(Mutex::new(file))))
    }

    async fn close(&self, segment: SegmentNumber) {
        let handle = self.files.borrow_mut().remove(&segment);
        if let Some(SegmentHandle::Ring(file)) = handle {
            file.close().await;
        }
    }

    async fn write(
        &self,
        segment: SegmentNumber,
        position: u64,
        buffer: &DmaBlock,
        bytes: usize,
        durable: bool,
    ) -> Result<(), StorageError> {
        let file = match self.handle(segment).await? {
            SegmentHandle::Ring(file) if durable => file.durable,
            SegmentHandle::Ring(file) => file.plain,
            SegmentHandle::Helper(file) => {
                return self.write_by_helper(file, position, buffer, bytes, durable).await;
            }
        };
        let mut course = Transfer::new(bytes, BLOCK_BYTES);
        while !course.is_over() {
            let written = course.done();
            let rest =
                if written == 0 { buffer.head(bytes) } else { dma_copy_of(&buffer.bytes()[written..bytes]) };
            let answer = file.write_rc_at(rest, position + written as u64).await;
            let answer =
                answer.map_err(|error| errno(&error).ok_or_else(|| failed(Operation::Write, &error)));
            let taken = match answer {
                Ok(count) => course.take(Ok(count)),
                Err(error) => course.take(Err(error?)),
            };
            match taken {
                Ok(()) => {}
                Err(errno) if is_refusal_of_direct(errno) => {
                    let handle = self.helper_handle(segment).await?;
                    self.files.borrow_mut().insert(segment, handle.clone());
                    let SegmentHandle::Helper(file) = handle else { unreachable!("it was just made") };
                    return self.write_by_helper(file, position, buffer, bytes, durable).await;
                }
                Err(errno) => return Err(StorageError::from_io(Operation::Write, &errno.into())),
            }
        }
        match course.done() == bytes {
            true => Ok(()),
            false => Err(StorageError { operation: Operation::Write, cause: Cause::NoSpace }),
        }
    }

    async fn write_by_helper(
        &self,
        file: Arc<Mutex<DiskFile>>,
        position: u64,
        buffer: &DmaBlock,
        bytes: usize,
        durable: bool,
    ) -> Result<(), StorageError> {
        let mut directory = self.directory.clone();
        let copy = AlignedBuffer::copy_of(&buffer.bytes()[..bytes]);
        let write = move || {
            let file = file.lock().unwrap_or_else(PoisonError::into_inner);
            directory.write(&file, position, copy.bytes())?;
            if durable { directory.sync(&file) } else { Ok(()) }
        };
        self.context.helpers.run(Lane::Quick, write).await
    }

    async fn sync(&self, segment: SegmentNumber) -> Result<(), StorageError> {
        match self.handle(segment).await? {
            SegmentHandle::Ring(file) => {
                // Not asked again, not even when interrupted: the kernel may have dropped the pages that did not reach the disk.
                file.plain.fdatasync().await.map_err(|error| failed(Operation::Sync, &error))
            }
            SegmentHandle::Helper(file) => {
                let mut directory = self.directory.clone();
                let sync = move || directory.sync(&file.lock().unwrap_or_else(PoisonError::into_inner));
                self.context.helpers.run(Lane::Quick, sync).await
            }
        }
    }

    async fn delay_sync(&self) {
        if !self.context.sync_delay.is_zero() {
            glommio::timer::sleep(self.context.sync_delay).await;
        }
    }

    /// Retire a segment, after its last readers where they are quick. A file that they still map cannot be recycled.
    async fn remove(&self, segment: SegmentNumber) -> Result<(), StorageError> {
        let is_mapped = |entry: &MapEntry| entry.loading_count > 0 || entry.map.strong_count() > 0;
        let mut waited = Duration::ZERO;
        while waited < UNMAP_WAIT && self.maps.borrow().get(&segment).is_some_and(is_mapped) {
            glommio::timer::sleep(UNMAP_POLL).await;
            waited += UNMAP_POLL;
        }
        let entry = self.maps.borrow_mut().remove(&segment).unwrap_or_default();
        let recyclable = !is_mapped(&entry);
        let mut directory = self.directory.clone();
        let remove = move || directory::remove(&mut directory, segment, recyclable);
        self.context.helpers.run(Lane::Quick, remove).await
    }

    /// A range that nobody asked for lately comes straight from the disk, past the page cache: a reader of old events should
    /// not drive out of memory what others come for again. What is asked for again is mapped. See docs/decisions/0017.
    async fn load_sealed(
        &self,
        segment: SegmentNumber,
        position: u64,
        bytes: usize,
    ) -> Result<Window<DmaBlock>, StorageError> {
        let is_new = !self.doorkeeper.borrow_mut().knows(segment, position);
        if is_new
            && let Some(share) = self.direct.take(bytes)
            && let Some(window) = self.load_directly(segment, position, bytes, share).await
        {
            return Ok(window);
        }
        self.load_mapped(segment, position, bytes).await
    }

    /// None where it does not work: the map may, and says what is wrong where it does not either.
    async fn load_directly(
        &self,
        segment: SegmentNumber,
        position: u64,
        bytes: usize,
        share: Share,
    ) -> Option<Window<DmaBlock>> {
        // Meanwhile the file must not be recycled.
        self.maps.borrow_mut().entry(segment).or_default().loading_count += 1;
        let read = self.read_directly(segment, position, bytes).await;
        if let Some(entry) = self.maps.borrow_mut().get_mut(&segment) {
            entry.loading_count -= 1;
        }
        match read {
            Ok(Some((block, filled))) => Some(Window::Buffer(Rc::new(block.within(share)), 0..filled)),
            Ok(None) => None,
            Err(error) => {
                if !refuses_direct(&error) {
                    tracing::warn!(%segment, position, %error, "a direct read failed: the range is mapped");
                }
                None
            }
        }
    }

    /// What was read, and how many bytes of it count. None where the read ended before the range and the file did.
    async fn read_directly(
        &self,
        segment: SegmentNumber,
        position: u64,
        bytes: usize,
    ) -> Result<Option<(DmaBlock, usize)>, GlommioError<()>> {
        // Opened for each range: readers are few, ranges are large, and open files of all old segments would need a bound.
        let file = OpenOptions::new().read(true).dma_open(&self.path.join(segment.file_name())).await?;
        let read = async {
            let (block, filled) = self.context.load_turns.read(&file, position, bytes).await?;
            let is_whole = filled == bytes || position + filled as u64 >= file.file_size().await?;
            Ok(is_whole.then_some((block, filled)))
        }
        .await;
        // It was read alone: closing tells nothing.
        let _ = file.close().await;
        read
    }

    /// Map the segment once, and bring the range into memory.
    async fn load_mapped(
        &self,
        segment: SegmentNumber,
        position: u64,
        bytes: usize,
    ) -> Result<Window<DmaBlock>, StorageError> {
        let known = {
            let mut maps = self.maps.borrow_mut();
            let entry = maps.entry(segment).or_default();
            entry.loading_count += 1;
            entry.map.upgrade()
        };
        let loaded = self.populate(segment, known, position, bytes).await;
        let mut maps = self.maps.borrow_mut();
        // It is gone when the segment was removed meanwhile.
        let Some(entry) = maps.get_mut(&segment) else {
            return loaded.map(|(map, range)| Window::Mapped(map, range));
        };
        entry.loading_count -= 1;
        let (map, range) = loaded?;
        // Two loads may have made a map each: the first stays.
        let map = entry.map.upgrade().filter(|known| range.end <= known.bytes().len()).unwrap_or(map);
        entry.map = Arc::downgrade(&map);
        Ok(Window::Mapped(map, range))
    }

    /// Bring a range of a map, made now if there is none, into memory: at once, or piece by piece while the core commits.
    async fn populate(
        &self,
        segment: SegmentNumber,
        mut known: Option<Arc<Mapping>>,
        position: u64,
        bytes: usize,
    ) -> Result<(Arc<Mapping>, Range<usize>), StorageError> {
        let first = usize::try_from(position).unwrap_or(usize::MAX);
        let mut done = 0;
        loop {
            let turn = self.context.load_turns.take().await;
            let piece = turn.bytes_max().min(bytes - done);
            let directory = self.directory.clone();
            let load = move || {
                let map = match known {
                    Some(map) => map,
                    None => map_segment(&directory, segment)?,
                };
                let [start, from, end] =
                    [0, done, done + piece].map(|at| first.saturating_add(at).min(map.bytes().len()));
                map.populate(from..end)?;
                Ok((map, start..end))
            };
            let (map, range) = self.context.helpers.run(Lane::Quick, load).await?;
            done += piece;
            if done == bytes || range.end == map.bytes().len() {
                return Ok((map, range));
            }
            known = Some(map);
        }
    }

    /// Read from a segment that is still written: never by a map.
    async fn load_active(
        &self,
        segment: SegmentNumber,
        position: u64,
        bytes: usize,
    ) -> Result<Window<DmaBlock>, StorageError> {
        if let SegmentHandle::Ring(file) = self.handle(segment).await? {
            match self.context.load_turns.read(&file.plain, position, bytes).await {
                Ok((block, filled)) => return Ok(Window::Buffer(Rc::new(block), 0..filled)),
                Err(error) if refuses_direct(&error) => {}
                Err(error) => return Err(failed(Operation::Read, &error)),
            }
        }
        let _turn = self.context.load_turns.take().await;
        let directory = self.directory.clone();
        let read = move || {
            let mut buffer = AlignedBuffer::allocate(bytes);
            directory.read(segment, position, buffer.bytes_mut()).map(|filled| (buffer, filled))
        };
        let (buffer, filled) = self.context.helpers.run(Lane::Quick, read).await?;
        let mut block = DmaBlock::allocate(bytes);
        block.bytes_mut()[..filled].copy_from_slice(&buffer.bytes()[..filled]);
        Ok(Window::Buffer(Rc::new(block), 0..filled))
    }
}

/// The same action for the blocking form, its bytes copied.
fn blocking(action: LogAction<DmaBlock>) -> LogAction<AlignedBuffer> {
    fn copy(block: &DmaBlock) -> Rc<AlignedBuffer> {
        Rc::new(AlignedBuffer::copy_of(block.bytes()))
    }
    match action {
        LogAction::Prepare { id, segment, bytes, header } => {
            LogAction::Prepare { id, segment, bytes, header: copy(&header) }
        }
        LogAction::Write { id, segment, position, buffer, bytes, durable } => {
            LogAction::Write { id, segment, position, buffer: copy(&buffer), bytes, durable }
        }
        LogAction::Sync { id, segment } => LogAction::Sync { id, segment },
        LogAction::Seal { id, segment, file_bytes, footer } => {
            LogAction::Seal { id, segment, file_bytes, footer: copy(&footer) }
        }
        LogAction::Load { id, segment, position, bytes, sealed } => {
            LogAction::Load { id, segment, position, bytes, sealed }
        }
        LogAction::Remove { id, segment } => LogAction::Remove { id, segment },
        LogAction::Replace { id, name, bytes } => LogAction::Replace { id, name, bytes },
    }
}

/// Whether the file system says that it has no direct I/O.
fn refuses_direct(error: &GlommioError<()>) -> bool {
    errno(error).is_some_and(is_refusal_of_direct)
}

fn is_refusal_of_direct(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::OPNOTSUPP)
}

/// None: not the operating system's word.
fn errno(error: &GlommioError<()>) -> Option<Errno> {
    io_error(error).and_then(Errno::from_io_error)
}

fn failed(operation: Operation, error: &GlommioError<()>) -> StorageError {
    match io_error(error) {
        Some(error) => StorageError::from_io(operation, error),
        None => StorageError { operation, cause: Cause::Ended },
    }
}

fn io_error(error: &GlommioError<()>) -> Option<&std::io::Error> {
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => Some(source),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod log_tests;
