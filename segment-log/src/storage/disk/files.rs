//! Directories and files of the operating system: the primitive operations, with short writes continued and interrupted
//! calls repeated (a sync excepted).

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{AlignedBuffer, DiskConfig, map};
use crate::storage::directory::Directory;
use crate::storage::transfer::Transfer;
use crate::storage::{
    BLOCK_BYTES, Buffer, Cause, FileBytes, Operation, SegmentFile, SegmentNumber, StorageError,
};

/// Zeros are written this many bytes at a time.
const ZERO_BYTES: usize = 256 << 10;

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
    pub(super) descriptor: OwnedFd,
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
    pub(super) fn open_buffered(&self, name: &str) -> Result<DiskFile, StorageError> {
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

impl DiskFile {
    pub(super) fn bytes(&self) -> Result<u64, StorageError> {
        let stat = retry_on_intr(|| rustix::fs::fstat(&self.descriptor))
            .map_err(|errno| failed(Operation::Read, errno))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Read until `into` is full or the file ends. With O_DIRECT, all three must be aligned.
    pub(super) fn read(&self, position: u64, into: &mut [u8]) -> Result<usize, StorageError> {
        let total = into.len();
        self.whole(Operation::Read, total, |done| {
            rustix::io::pread(&self.descriptor, &mut into[done..], position + done as u64)
        })
    }

    /// Write all of `bytes`. Falls back to the page cache where direct I/O does not take the memory, the length or the file
    /// system.
    pub(super) fn write(&self, position: u64, bytes: &[u8]) -> Result<(), StorageError> {
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(BLOCK_BYTES)
            && bytes.len().is_multiple_of(BLOCK_BYTES)
            && position.is_multiple_of(BLOCK_BYTES as u64);
        if self.direct.get() && !aligned {
            self.leave_direct()?;
        }
        let written = self.whole(Operation::Write, bytes.len(), |done| {
            rustix::io::pwrite(&self.descriptor, &bytes[done..], position + done as u64)
        })?;
        if written < bytes.len() {
            return Err(StorageError { operation: Operation::Write, cause: Cause::NoSpace });
        }
        Ok(())
    }

    /// Repeat a call until it has transferred `total` bytes or no more; through the page cache if it may not be direct.
    fn whole(
        &self,
        operation: Operation,
        total: usize,
        mut call: impl FnMut(usize) -> Result<usize, Errno>,
    ) -> Result<usize, StorageError> {
        let unit = if self.direct.get() { BLOCK_BYTES } else { 1 };
        match transfer(total, unit, &mut call) {
            Err(Errno::INVAL) if self.direct.get() => {
                self.leave_direct()?;
                transfer(total, 1, call)
            }
            other => other,
        }
        .map_err(|errno| failed(operation, errno))
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
    pub(super) fn sync(&self) -> Result<(), StorageError> {
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

fn failed(operation: Operation, errno: Errno) -> StorageError {
    StorageError::from_io(operation, &io::Error::from(errno))
}

/// Call until `total` bytes are transferred or a call transfers nothing; `call` is told how many bytes are done.
///
/// Errors: see [`Transfer::take`].
fn transfer(
    total: usize,
    unit: usize,
    mut call: impl FnMut(usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut course = Transfer::new(total, unit);
    while !course.is_over() {
        course.take(call(course.done()))?;
    }
    Ok(course.done())
}
