//! The operating system, synchronously: O_DIRECT files, preallocation, read-only maps.
//!
//! [`DiskStorage`] carries each action out where it is submitted; it is what embedding and tools use. A form that may not
//! block keeps a [`DiskStorage`] for opening, and uses [`DiskDirectory`] (clonable, `Send`) with the steps of
//! [`super::directory`] and [`map_segment`] from threads that may.
//!
//! Where the file system has no O_DIRECT (it refuses the flag, or a write with it), files are written through the page
//! cache; a sync makes both durable alike. This module holds all of the crate's unsafe code: aligned memory and maps.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::directory::{self, Directory};
use super::{
    BLOCK_BYTES, Buffer, Cause, Completed, FileBytes, LogAction, LogDone, MappedBytes, Mapping, Operation,
    SegmentFile, SegmentNumber, Storage, StorageError, Window,
};

/// Zeros are written this many bytes at a time.
const ZERO_BYTES: usize = 1 << 20;

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

/// One directory of the operating system. Clones share the descriptor (and its lock); `Send`, so that a helper thread can
/// take the slow steps.
#[derive(Clone, Debug)]
pub struct DiskDirectory {
    descriptor: Arc<OwnedFd>,
    config: DiskConfig,
}

/// An open file of a [`DiskDirectory`].
#[derive(Debug)]
pub struct DiskFile {
    descriptor: OwnedFd,
    /// O_DIRECT is on.
    direct: Cell<bool>,
}

impl DiskDirectory {
    /// Open a directory that exists.
    ///
    /// Errors: [`Cause::Locked`] where another process has it, and what the operating system says.
    pub fn open(path: &Path, config: DiskConfig) -> Result<DiskDirectory, StorageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
            .map_err(|errno| failed(Operation::Open, errno))?;
        if config.lock && !config.read_only {
            match retry_on_intr(|| rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive)) {
                Err(Errno::WOULDBLOCK) => {
                    return Err(StorageError { operation: Operation::Open, cause: Cause::Locked });
                }
                // A file system without locks cannot be shared by accident more than any other file.
                Err(Errno::NOSYS | Errno::OPNOTSUPP) | Ok(()) => {}
                Err(errno) => return Err(failed(Operation::Open, errno)),
            }
        }
        Ok(DiskDirectory { descriptor: Arc::new(descriptor), config })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> Result<DiskFile, StorageError> {
        let mode = Mode::RUSR | Mode::WUSR;
        let access = if self.config.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let flags = flags | access | OFlags::CLOEXEC;
        let open = |flags| retry_on_intr(|| rustix::fs::openat(&*self.descriptor, name, flags, mode));
        if self.config.direct {
            match open(flags | OFlags::DIRECT) {
                Ok(descriptor) => return Ok(DiskFile { descriptor, direct: Cell::new(true) }),
                Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(failed(Operation::Open, errno)),
            }
        }
        open(flags)
            .map(|descriptor| DiskFile { descriptor, direct: Cell::new(false) })
            .map_err(|errno| failed(Operation::Open, errno))
    }

    /// Open a file for reading through the page cache.
    fn open_buffered(&self, name: &str) -> Result<DiskFile, StorageError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        retry_on_intr(|| rustix::fs::openat(&*self.descriptor, name, flags, Mode::empty()))
            .map(|descriptor| DiskFile { descriptor, direct: Cell::new(false) })
            .map_err(|errno| failed(Operation::Open, errno))
    }

    /// The segments in the directory, in no order.
    pub fn list(&self) -> Result<Vec<SegmentFile>, StorageError> {
        let names = self.clone().names()?;
        let segments = names.iter().filter_map(|(name, bytes)| {
            Some(SegmentFile { number: SegmentNumber::from_file_name(name)?, bytes: *bytes })
        });
        Ok(segments.collect())
    }

    /// Read a segment through the page cache, until `into` is full or the file ends.
    pub fn read(
        &self,
        segment: SegmentNumber,
        position: u64,
        into: &mut [u8],
    ) -> Result<usize, StorageError> {
        self.open_buffered(&segment.file_name())?.read(position, into)
    }

    /// Map a file beside the segments and populate it; `None` where there is none.
    pub fn read_file(&self, name: &str) -> Result<Option<FileBytes>, StorageError> {
        let file = match self.open_buffered(name) {
            Err(StorageError { cause: Cause::Missing, .. }) => return Ok(None),
            other => other?,
        };
        let mapping = map(&file)?;
        mapping.populate(0..mapping.bytes().len())?;
        Ok(Some(Arc::new(mapping)))
    }
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

impl DiskFile {
    fn bytes(&self) -> Result<u64, StorageError> {
        let stat = retry_on_intr(|| rustix::fs::fstat(&self.descriptor))
            .map_err(|errno| failed(Operation::Read, errno))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Read until `into` is full or the file ends. With O_DIRECT, all three must be aligned.
    fn read(&self, position: u64, into: &mut [u8]) -> Result<usize, StorageError> {
        let mut filled = 0;
        while filled < into.len() {
            let at = position + filled as u64;
            match retry_on_intr(|| rustix::io::pread(&self.descriptor, &mut into[filled..], at)) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(Errno::INVAL) if self.direct.get() => self.leave_direct()?,
                Err(errno) => return Err(failed(Operation::Read, errno)),
            }
        }
        Ok(filled)
    }

    /// Write all of `bytes`, continuing after a short write. Falls back to the page cache where direct I/O does not take
    /// the memory, the length or the file system.
    fn write(&self, position: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(BLOCK_BYTES)
            && bytes.len().is_multiple_of(BLOCK_BYTES)
            && position.is_multiple_of(BLOCK_BYTES as u64);
        if self.direct.get() && !aligned {
            self.leave_direct()?;
        }
        let mut written = 0;
        while written < bytes.len() {
            let at = position + written as u64;
            match retry_on_intr(|| rustix::io::pwrite(&self.descriptor, &bytes[written..], at)) {
                Ok(0) => return Err(StorageError { operation: Operation::Write, cause: Cause::NoSpace }),
                Ok(count) => {
                    written += count;
                    if self.direct.get() && !written.is_multiple_of(BLOCK_BYTES) {
                        // The rest of a short direct write need not be aligned.
                        written -= written % BLOCK_BYTES;
                    }
                }
                Err(Errno::INVAL) if self.direct.get() => self.leave_direct()?,
                Err(errno) => return Err(failed(Operation::Write, errno)),
            }
        }
        Ok(())
    }

    /// Go through the page cache from here on.
    fn leave_direct(&self) -> Result<(), StorageError> {
        let flags =
            rustix::fs::fcntl_getfl(&self.descriptor).map_err(|errno| failed(Operation::Open, errno))?;
        rustix::fs::fcntl_setfl(&self.descriptor, flags - OFlags::DIRECT)
            .map_err(|errno| failed(Operation::Open, errno))?;
        self.direct.set(false);
        Ok(())
    }

    /// `fdatasync`: content and length.
    fn sync(&self) -> Result<(), StorageError> {
        // Not retried, not even when interrupted: the kernel may have dropped the pages that it could not write.
        rustix::fs::fdatasync(&self.descriptor).map_err(|errno| failed(Operation::Sync, errno))
    }
}

impl Directory for DiskDirectory {
    type File = DiskFile;

    fn names(&mut self) -> Result<Vec<(String, u64)>, StorageError> {
        let wrong = |errno| failed(Operation::List, errno);
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&*self.descriptor).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            // Names that are not UTF-8 are none of ours.
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            match rustix::fs::statat(&*self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => names.push((name.to_owned(), u64::try_from(stat.st_size).unwrap_or(0))),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(wrong(errno)),
            }
        }
        Ok(names)
    }

    fn create(&mut self, name: &str) -> Result<DiskFile, StorageError> {
        self.open_file(name, OFlags::CREATE | OFlags::TRUNC)
    }

    fn open(&mut self, name: &str) -> Result<DiskFile, StorageError> {
        self.open_file(name, OFlags::empty())
    }

    fn bytes(&mut self, file: &DiskFile) -> Result<u64, StorageError> {
        file.bytes()
    }

    fn allocate(&mut self, file: &DiskFile, from: u64, to: u64) -> Result<(), StorageError> {
        assert!(from <= to, "a file is lengthened");
        if from == to {
            return Ok(());
        }
        match retry_on_intr(|| {
            rustix::fs::fallocate(&file.descriptor, FallocateFlags::empty(), from, to - from)
        }) {
            // Without fallocate the zeros below allocate, block by block.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(failed(Operation::Allocate, errno)),
        }
        let zeros = AlignedBuffer::allocate(ZERO_BYTES);
        let mut position = from;
        while position < to {
            let bytes = ZERO_BYTES.min(usize::try_from(to - position).unwrap_or(ZERO_BYTES));
            file.write(position, &zeros.bytes()[..bytes])?;
            position += bytes as u64;
        }
        Ok(())
    }

    fn shorten(&mut self, file: &DiskFile, bytes: u64) -> Result<(), StorageError> {
        retry_on_intr(|| rustix::fs::ftruncate(&file.descriptor, bytes))
            .map_err(|errno| failed(Operation::Shorten, errno))
    }

    fn write(&mut self, file: &DiskFile, position: u64, bytes: &[u8]) -> Result<(), StorageError> {
        file.write(position, bytes)
    }

    fn sync(&mut self, file: &DiskFile) -> Result<(), StorageError> {
        file.sync()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StorageError> {
        retry_on_intr(|| rustix::fs::renameat(&*self.descriptor, from, &*self.descriptor, to))
            .map_err(|errno| failed(Operation::Rename, errno))
    }

    fn unlink(&mut self, name: &str) -> Result<(), StorageError> {
        retry_on_intr(|| rustix::fs::unlinkat(&*self.descriptor, name, AtFlags::empty()))
            .map_err(|errno| failed(Operation::Remove, errno))
    }

    fn sync_names(&mut self) -> Result<(), StorageError> {
        rustix::fs::fsync(&*self.descriptor).map_err(|errno| failed(Operation::SyncNames, errno))
    }
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
    /// Errors: [`Cause::Locked`] where another process has it, and what the operating system says.
    pub fn open(path: &Path, config: DiskConfig) -> Result<DiskStorage, StorageError> {
        if !config.read_only && !path.is_dir() {
            std::fs::create_dir_all(path).map_err(|error| StorageError::from_io(Operation::Open, &error))?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                let unlocked = DiskConfig { lock: false, ..config };
                DiskDirectory::open(parent, unlocked)?.sync_names()?;
            }
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
            LogAction::Write { segment, position, buffer, bytes, .. } => {
                self.file(segment)?.write(position, &buffer.bytes()[..bytes])?;
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

fn failed(operation: Operation, errno: Errno) -> StorageError {
    StorageError::from_io(operation, &io::Error::from(errno))
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
