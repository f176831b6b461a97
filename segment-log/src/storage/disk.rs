//! The operating system, synchronously: O_DIRECT files, preallocation, read-only maps.
//!
//! [`DiskStorage`] carries each action out where it is submitted; it is what embedding and tools use. A form that may not
//! block keeps a [`DiskStorage`] for opening, and uses [`DiskDirectory`] (clonable, `Send`) with the steps of
//! [`super::directory`] and [`map_segment`] from threads that may.
//!
//! Where the file system has no O_DIRECT (it refuses the flag, or a write with it), files are written through the page
//! cache; a sync makes both durable alike. This module holds all of the crate's unsafe code: aligned memory and maps.
#![allow(unsafe_code)]

mod files;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::path::Path;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Arc, Weak};

pub use files::{DiskDirectory, DiskFile};

use super::directory::{self, Directory};
use super::{
    BLOCK_BYTES, Buffer, Completed, FileBytes, LogAction, LogDone, MappedBytes, Mapping, Operation,
    SegmentFile, SegmentNumber, Storage, StorageError, Window,
};

/// How a directory on the operating system is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskConfig {
    /// Write around the page cache where the file system can. Default true.
    pub direct: bool,
    /// Refuse a directory that another process has open, by an advisory lock on it. Default true.
    pub lock: bool,
    /// Open read-only and clean nothing up: for tools that look at a running log. Actions that write fail. Default false.
    pub read_only: bool,
}

impl Default for DiskConfig {
    fn default() -> DiskConfig {
        DiskConfig { direct: true, lock: true, read_only: false }
    }
}

/// Zeroed memory aligned to [`BLOCK_BYTES`]; of a fixed length, a multiple of that.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the buffer owns its memory alone, hands out only what the borrow rules allow, and has no thread affinity.
unsafe impl Send for AlignedBuffer {}
// SAFETY: through a shared reference the memory can only be read.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, BLOCK_BYTES).expect("a buffer's length fits the address space")
    }
}

impl Buffer for AlignedBuffer {
    fn allocate(bytes: usize) -> AlignedBuffer {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES), "a buffer of whole blocks");
        let layout = AlignedBuffer::layout(bytes);
        // SAFETY: the layout's size is not zero, as asserted above.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => AlignedBuffer { start, bytes },
            None => handle_alloc_error(layout),
        }
    }

    fn copy_of(bytes: &[u8]) -> AlignedBuffer {
        let mut buffer = AlignedBuffer::allocate(bytes.len());
        buffer.bytes_mut().copy_from_slice(bytes);
        buffer
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `allocate` made `bytes` initialized bytes at `start`, which live as long as self; while this borrow
        // lives, `bytes_mut` cannot be called.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow of self is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this same layout, and nothing borrows it any more.
        unsafe { dealloc(self.start.as_ptr(), AlignedBuffer::layout(self.bytes)) }
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "AlignedBuffer({} bytes)", self.bytes)
    }
}

/// Make a directory and what is missing above it, each entry durable before the next is made. One that is there is left.
fn create_directory(path: &Path) -> Result<(), StorageError> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    create_directory(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(|error| StorageError::from_io(Operation::Open, &error))?,
    }
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let config = DiskConfig { lock: false, ..DiskConfig::default() };
    DiskDirectory::open(parent, config)?.sync_names()
}

/// Map a sealed segment, read-only. The file must not be written or shortened while the mapping lives:
/// [`directory::seal`] comes before, [`directory::remove`] with `recyclable` after the last clone is gone.
pub fn map_segment(directory: &DiskDirectory, segment: SegmentNumber) -> Result<Arc<Mapping>, StorageError> {
    map(&directory.open_buffered(&segment.file_name())?).map(Arc::new)
}

fn map(file: &DiskFile) -> Result<Mapping, StorageError> {
    if file.bytes()? == 0 {
        return Ok(Mapping::empty());
    }
    // SAFETY: the file is ours (the directory is locked and private to the hub's user). Only sealed segments and replaced
    // files are mapped: the former are never written or shortened again while a map of them lives (the log asks for no
    // write after a seal, `DiskStorage` recycles only what no map refers to), the latter are replaced by renaming another
    // file over them. Anyone else who truncates the file would make a later access SIGBUS, which ends the process.
    let map = unsafe { memmap2::Mmap::map(&file.descriptor) };
    map.map(|map| Mapping(MappedBytes::Map(map)))
        .map_err(|error| StorageError::from_io(Operation::Map, &error))
}

/// A log's directory on the operating system; each action is carried out where it is submitted.
pub struct DiskStorage {
    directory: DiskDirectory,
    /// Segments that are being written, or read before they are sealed.
    files: BTreeMap<SegmentNumber, DiskFile>,
    /// Maps of sealed segments that may still be in use.
    maps: BTreeMap<SegmentNumber, Weak<Mapping>>,
    done: VecDeque<LogDone<AlignedBuffer>>,
}

impl DiskStorage {
    /// Open a directory, make it if it is missing, and remove what a crash left half made.
    ///
    /// Errors: [`super::Cause::Locked`] where another process has it, and what the operating system says.
    pub fn open(path: &Path, config: DiskConfig) -> Result<DiskStorage, StorageError> {
        if !config.read_only {
            create_directory(path)?;
        }
        let mut directory = DiskDirectory::open(path, config)?;
        if !config.read_only {
            directory::clean(&mut directory)?;
        }
        Ok(DiskStorage { directory, files: BTreeMap::new(), maps: BTreeMap::new(), done: VecDeque::new() })
    }

    /// The directory, for a form that takes the slow steps elsewhere.
    pub fn directory(&self) -> &DiskDirectory {
        &self.directory
    }

    fn file(&mut self, segment: SegmentNumber) -> Result<&DiskFile, StorageError> {
        use std::collections::btree_map::Entry;
        match self.files.entry(segment) {
            Entry::Occupied(there) => Ok(there.into_mut()),
            Entry::Vacant(room) => Ok(room.insert(self.directory.open(&segment.file_name())?)),
        }
    }

    fn mapping(&mut self, segment: SegmentNumber) -> Result<Arc<Mapping>, StorageError> {
        if let Some(mapping) = self.maps.get(&segment).and_then(Weak::upgrade) {
            return Ok(mapping);
        }
        let mapping = map_segment(&self.directory, segment)?;
        self.maps.insert(segment, Arc::downgrade(&mapping));
        Ok(mapping)
    }

    fn load(
        &mut self,
        segment: SegmentNumber,
        position: u64,
        bytes: usize,
        sealed: bool,
    ) -> Result<Window<AlignedBuffer>, StorageError> {
        if !sealed {
            let mut buffer = AlignedBuffer::allocate(bytes);
            let filled = self.file(segment)?.read(position, buffer.bytes_mut())?;
            return Ok(Window::Buffer(Rc::new(buffer), 0..filled));
        }
        let mapping = self.mapping(segment)?;
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(mapping.bytes().len());
        let end = start.saturating_add(bytes).min(mapping.bytes().len());
        mapping.populate(start..end)?;
        Ok(Window::Mapped(mapping, start..end))
    }
}

impl Storage for DiskStorage {
    type Buffer = AlignedBuffer;

    fn list(&mut self) -> Result<Vec<SegmentFile>, StorageError> {
        self.directory.list()
    }

    fn read(
        &mut self,
        segment: SegmentNumber,
        position: u64,
        into: &mut [u8],
    ) -> Result<usize, StorageError> {
        self.directory.read(segment, position, into)
    }

    fn read_file(&mut self, name: &str) -> Result<Option<FileBytes>, StorageError> {
        self.directory.read_file(name)
    }

    fn perform(
        &mut self,
        action: LogAction<AlignedBuffer>,
    ) -> Result<Completed<AlignedBuffer>, StorageError> {
        match action {
            LogAction::Prepare { segment, bytes, header, .. } => {
                directory::prepare(&mut self.directory, segment, bytes, header.bytes())?;
            }
            LogAction::Write { segment, position, buffer, bytes, durable, .. } => {
                let file = self.file(segment)?;
                file.write(position, &buffer.bytes()[..bytes])?;
                if durable {
                    file.sync()?;
                }
            }
            LogAction::Sync { segment, .. } => self.file(segment)?.sync()?,
            LogAction::Seal { segment, file_bytes, footer, .. } => {
                self.files.remove(&segment);
                directory::seal(&mut self.directory, segment, file_bytes, footer.bytes())?;
            }
            LogAction::Load { segment, position, bytes, sealed, .. } => {
                return self.load(segment, position, bytes, sealed).map(Completed::Loaded);
            }
            LogAction::Remove { segment, .. } => {
                self.files.remove(&segment);
                let mapped = self.maps.remove(&segment).is_some_and(|map| map.strong_count() > 0);
                directory::remove(&mut self.directory, segment, !mapped)?;
            }
            LogAction::Replace { name, bytes, .. } => {
                directory::replace(&mut self.directory, &name, &bytes)?;
            }
        }
        Ok(Completed::Unit)
    }

    fn submit(&mut self, action: LogAction<AlignedBuffer>) {
        let id = action.id();
        let result = self.perform(action);
        self.done.push_back(LogDone { id, result });
    }

    fn poll_done(&mut self) -> Option<LogDone<AlignedBuffer>> {
        self.done.pop_front()
    }
}

/// Call again while a signal interrupts.
pub(super) fn retry_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
