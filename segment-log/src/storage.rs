//! The seam to the medium: what the log asks for ([`LogAction`]), what it is told ([`LogDone`]), and the [`Storage`] that
//! carries it out.
//!
//! Three forms exist: [`disk::DiskStorage`] (the operating system, synchronously), [`sim::SimStorage`] (a disk in memory
//! that cuts power, tears, refuses and fills up), and one over io_uring in the engine's runtime. What is the same in all of
//! them, the order of steps that makes an action survive a power cut, is written once in [`directory`].

pub mod directory;
pub mod disk;
pub mod sim;
pub mod transfer;

use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use disk::AlignedBuffer;

/// Every position and length that is written is a multiple of this, in bytes: the largest unit that disks and file
/// systems ask of direct I/O.
pub const BLOCK_BYTES: usize = 4096;

/// The number of a segment: ordered by age, never reused. Its file is `{number:016x}.segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The name of the segment's file: `000000000000002a.segment`.
    pub fn file_name(self) -> String {
        format!("{:016x}.segment", self.0)
    }

    /// The number in the name of a segment's file; `None` for any other file.
    pub fn from_file_name(name: &str) -> Option<SegmentNumber> {
        let digits = name.strip_suffix(".segment")?;
        let canonical =
            digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        canonical.then(|| u64::from_str_radix(digits, 16).ok().map(SegmentNumber))?
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// Tells one asked action from another; counts up from 1 within one open log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionId(pub u64);

/// Memory that the medium can be written from: allocated by the storage, filled by the log, frozen in an [`Rc`] while it is
/// being written and while readers hold it, and used again afterwards.
pub trait Buffer: 'static {
    /// Whether a write takes a whole buffer without a copy and the front part of one only by a copy. The log then keeps one
    /// buffer to fill and hands out copies of what it holds, which nobody needs to copy again.
    const IS_WRITTEN_WHOLE: bool = false;

    /// A zeroed buffer of `bytes` bytes, a multiple of [`BLOCK_BYTES`], aligned as the storage's writes need it.
    fn allocate(bytes: usize) -> Self;
    /// A buffer with this content, a multiple of [`BLOCK_BYTES`].
    fn copy_of(bytes: &[u8]) -> Self;
    /// All of it.
    fn bytes(&self) -> &[u8];
    /// All of it, to be filled.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// Something the log wants done. Each is answered by exactly one [`LogDone`] with the same id, in any order.
///
/// The log never has a write and a sync of one segment in flight at the same time, and asks for nothing that depends on an
/// unanswered action; so an implementation needs no order among what it was given.
pub enum LogAction<B> {
    /// Create a segment's file, or take a retired one into use; see [`directory::prepare`].
    Prepare {
        /// Comes back with the answer.
        id: ActionId,
        /// The new segment.
        segment: SegmentNumber,
        /// Length of the file in bytes, a multiple of [`BLOCK_BYTES`]: allocated on the medium and not sparse when the
        /// answer comes.
        bytes: u64,
        /// The first block of the file.
        header: Rc<B>,
    },
    /// Write the first `bytes` bytes of `buffer` at `position`, whole: a short write is continued.
    Write {
        /// Comes back with the answer.
        id: ActionId,
        /// The segment to write to.
        segment: SegmentNumber,
        /// A multiple of [`BLOCK_BYTES`], within the prepared length.
        position: u64,
        /// Where the bytes are; nobody changes them until the log has dropped its own handle.
        buffer: Rc<B>,
        /// How many, a multiple of [`BLOCK_BYTES`].
        bytes: usize,
        /// Answered only once these bytes are durable: no [`LogAction::Sync`] follows.
        durable: bool,
    },
    /// Make every answered write of the segment durable (`fdatasync`). Answered only after it returned. Never retried.
    Sync {
        /// Comes back with the answer.
        id: ActionId,
        /// The segment to sync.
        segment: SegmentNumber,
    },
    /// Close a segment for ever; see [`directory::seal`]. No write to it follows.
    Seal {
        /// Comes back with the answer.
        id: ActionId,
        /// The segment to seal.
        segment: SegmentNumber,
        /// Length of the file afterwards; the footer ends there.
        file_bytes: u64,
        /// All of this buffer goes to the end of the file.
        footer: Rc<B>,
    },
    /// Make a range of a segment readable without waiting: [`Completed::Loaded`].
    Load {
        /// Comes back with the answer.
        id: ActionId,
        /// The segment to read.
        segment: SegmentNumber,
        /// A multiple of [`BLOCK_BYTES`].
        position: u64,
        /// How many bytes, a multiple of [`BLOCK_BYTES`].
        bytes: usize,
        /// The segment is sealed and never written again: map its file once and populate this range of the map. Otherwise
        /// read into a buffer.
        sealed: bool,
    },
    /// Take a segment's file away, or keep it for recycling; see [`directory::remove`].
    Remove {
        /// Comes back with the answer.
        id: ActionId,
        /// The segment to remove.
        segment: SegmentNumber,
    },
    /// Replace a small file beside the segments, whole or not at all; see [`directory::replace`].
    Replace {
        /// Comes back with the answer.
        id: ActionId,
        /// Its name, not that of a segment.
        name: String,
        /// Its new content.
        bytes: Vec<u8>,
    },
}

impl<B> LogAction<B> {
    /// What the answer must carry.
    pub fn id(&self) -> ActionId {
        match self {
            LogAction::Prepare { id, .. }
            | LogAction::Write { id, .. }
            | LogAction::Sync { id, .. }
            | LogAction::Seal { id, .. }
            | LogAction::Load { id, .. }
            | LogAction::Remove { id, .. }
            | LogAction::Replace { id, .. } => *id,
        }
    }
}

impl<B> fmt::Debug for LogAction<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogAction::Prepare { id, segment, bytes, .. } => {
                write!(formatter, "Prepare({id:?}, {segment}, {bytes} bytes)")
            }
            LogAction::Write { id, segment, position, bytes, durable, .. } => {
                write!(formatter, "Write({id:?}, {segment}, {bytes} bytes at {position}, durable: {durable})")
            }
            LogAction::Sync { id, segment } => write!(formatter, "Sync({id:?}, {segment})"),
            LogAction::Seal { id, segment, file_bytes, .. } => {
                write!(formatter, "Seal({id:?}, {segment}, {file_bytes} bytes)")
            }
            LogAction::Load { id, segment, position, bytes, sealed } => {
                write!(formatter, "Load({id:?}, {segment}, {bytes} bytes at {position}, sealed: {sealed})")
            }
            LogAction::Remove { id, segment } => write!(formatter, "Remove({id:?}, {segment})"),
            LogAction::Replace { id, name, bytes } => {
                write!(formatter, "Replace({id:?}, {name}, {} bytes)", bytes.len())
            }
        }
    }
}

/// What a carried-out action yields.
#[derive(Debug)]
pub enum Completed<B> {
    /// Nothing but the fact.
    Unit,
    /// The range that a [`LogAction::Load`] asked for. It may be shorter where the file is.
    Loaded(Window<B>),
}

/// The answer to one [`LogAction`].
#[derive(Debug)]
pub struct LogDone<B> {
    /// The action's id.
    pub id: ActionId,
    /// What became of it.
    pub result: Result<Completed<B>, StorageError>,
}

/// Bytes of a segment in memory.
pub enum Window<B> {
    /// A populated range of a sealed segment's map. May be read from any core.
    Mapped(Arc<Mapping>, Range<usize>),
    /// A range of a buffer that nobody writes any more. Stays on its core.
    Buffer(Rc<B>, Range<usize>),
}

impl<B: Buffer> Window<B> {
    /// The bytes; the first one lies at the position that was asked for.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Window::Mapped(mapping, range) => mapping.bytes().get(range.clone()).unwrap_or(&[]),
            Window::Buffer(buffer, range) => buffer.bytes().get(range.clone()).unwrap_or(&[]),
        }
    }
}

impl<B> Clone for Window<B> {
    fn clone(&self) -> Window<B> {
        match self {
            Window::Mapped(mapping, range) => Window::Mapped(mapping.clone(), range.clone()),
            Window::Buffer(buffer, range) => Window::Buffer(buffer.clone(), range.clone()),
        }
    }
}

impl<B> fmt::Debug for Window<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Window::Mapped(_, range) => write!(formatter, "Mapped({range:?})"),
            Window::Buffer(_, range) => write!(formatter, "Buffer({range:?})"),
        }
    }
}

/// A whole file in memory that never changes while anyone holds it: a map on the operating system, plain memory on the
/// simulated disk. `Send` and `Sync`; starts at a multiple of [`BLOCK_BYTES`].
#[derive(Debug)]
pub struct Mapping(MappedBytes);

#[derive(Debug)]
enum MappedBytes {
    Empty,
    Map(memmap2::Mmap),
    Memory(AlignedBuffer, usize),
}

impl Mapping {
    /// A mapping of nothing, for a file of no bytes: the operating system maps none.
    pub fn empty() -> Mapping {
        Mapping(MappedBytes::Empty)
    }

    /// A copy of `bytes` in memory of its own.
    pub fn from_bytes(bytes: &[u8]) -> Mapping {
        if bytes.is_empty() {
            return Mapping::empty();
        }
        let mut buffer = AlignedBuffer::allocate(bytes.len().next_multiple_of(BLOCK_BYTES));
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        Mapping(MappedBytes::Memory(buffer, bytes.len()))
    }

    /// All of the file. On the operating system, a range that [`Mapping::populate`] was not called for may wait for the
    /// disk when it is touched.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            MappedBytes::Empty => &[],
            MappedBytes::Map(map) => map,
            MappedBytes::Memory(buffer, bytes) => &buffer.bytes()[..*bytes],
        }
    }

    /// Bring `range` into memory and make it present in the map, so that touching it does not fault. Blocks while it
    /// reads: not for a core's own thread, unless it is known to be cached.
    ///
    /// Errors: [`Cause::Short`] where the range lies outside of the file, [`Cause::Os`] where the medium cannot be read
    /// (the range must not be touched then: that would be SIGBUS).
    pub fn populate(&self, range: Range<usize>) -> Result<(), StorageError> {
        if range.start > range.end || range.end > self.bytes().len() {
            return Err(StorageError { operation: Operation::Map, cause: Cause::Short });
        }
        match &self.0 {
            MappedBytes::Map(map) if !range.is_empty() => {
                disk::retry_interrupted(|| {
                    map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len())
                })
                .or_else(|error| {
                    // Before Linux 5.14 the advice is unknown; readahead is then the best there is.
                    if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) {
                        map.advise_range(memmap2::Advice::WillNeed, range.start, range.len())
                    } else {
                        Err(error)
                    }
                })
                .map_err(|error| StorageError::from_io(Operation::Map, &error))
            }
            _ => Ok(()),
        }
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

/// A whole small file, mapped and populated.
pub type FileBytes = Arc<Mapping>;

/// One segment's file as the directory shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// From its name.
    pub number: SegmentNumber,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Carries out what a log asks for; one per log directory.
///
/// A log is opened first, with the calls that may block; then it runs, and asks now to be told later.
pub trait Storage {
    /// The memory that this storage writes from.
    type Buffer: Buffer;

    /// Opening: the segments in the directory, in any order. May block.
    fn list(&mut self) -> Result<Vec<SegmentFile>, StorageError>;

    /// Opening: read at `position` until `into` is full or the file ends; how many bytes it was. May block.
    fn read(&mut self, segment: SegmentNumber, position: u64, into: &mut [u8])
    -> Result<usize, StorageError>;

    /// Opening: a file beside the segments, whole; `None` when there is none of that name. May block.
    fn read_file(&mut self, name: &str) -> Result<Option<FileBytes>, StorageError>;

    /// Opening: carry out one action now and return what came of it. May block.
    fn perform(&mut self, action: LogAction<Self::Buffer>) -> Result<Completed<Self::Buffer>, StorageError>;

    /// Running: take an action; [`Storage::poll_done`] tells of it later. A form that blocks may carry it out here.
    fn submit(&mut self, action: LogAction<Self::Buffer>);

    /// Running: the next answer, if there is one by now.
    fn poll_done(&mut self) -> Option<LogDone<Self::Buffer>>;

    /// Running: whether a commit may go out now. A storage that several logs share may hold one back for a while, so that it goes out
    /// together with those of others; what is appended meanwhile goes with it.
    fn takes_commits(&self) -> bool {
        true
    }
}

/// Something that the medium did not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} failed: {cause}")]
pub struct StorageError {
    /// What was tried.
    pub operation: Operation,
    /// Why it failed.
    pub cause: Cause,
}

impl StorageError {
    /// From an error of the operating system.
    pub fn from_io(operation: Operation, error: &std::io::Error) -> StorageError {
        let cause = match error.kind() {
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::FileTooLarge => Cause::NoSpace,
            std::io::ErrorKind::NotFound => Cause::Missing,
            std::io::ErrorKind::UnexpectedEof => Cause::Short,
            _ => Cause::Os(error.raw_os_error().unwrap_or(0)),
        };
        StorageError { operation, cause }
    }

    /// The medium is full; it may help to wait or to delete.
    pub fn is_no_space(&self) -> bool {
        self.cause == Cause::NoSpace
    }
}

/// What was tried on the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// List the directory.
    List,
    /// Open or create a file.
    Open,
    /// Read from a file.
    Read,
    /// Map a file, or populate a map.
    Map,
    /// Allocate room for a file.
    Allocate,
    /// Shorten a file.
    Shorten,
    /// Write to a file.
    Write,
    /// Make a file durable.
    Sync,
    /// Give a file another name.
    Rename,
    /// Remove a file.
    Remove,
    /// Make the directory's entries durable.
    SyncNames,
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Operation::List => "listing the directory",
            Operation::Open => "opening a file",
            Operation::Read => "reading",
            Operation::Map => "mapping a file",
            Operation::Allocate => "allocating room",
            Operation::Shorten => "shortening a file",
            Operation::Write => "writing",
            Operation::Sync => "syncing a file",
            Operation::Rename => "renaming a file",
            Operation::Remove => "removing a file",
            Operation::SyncNames => "syncing the directory",
        })
    }
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The medium or the quota is full.
    NoSpace,
    /// There is no such file.
    Missing,
    /// The file ends before what was asked for.
    Short,
    /// The operating system's error number.
    Os(i32),
    /// Another process has the directory open.
    Locked,
    /// The simulated power is off.
    PowerCut,
    /// The storage's own machinery ended (its thread or ring is gone).
    Ended,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NoSpace => formatter.write_str("no space left"),
            Cause::Missing => formatter.write_str("no such file"),
            Cause::Short => formatter.write_str("the file is too short"),
            Cause::Os(code) => std::io::Error::from_raw_os_error(*code).fmt(formatter),
            Cause::Locked => formatter.write_str("another process has the directory open"),
            Cause::PowerCut => formatter.write_str("the power is off"),
            Cause::Ended => formatter.write_str("the storage has ended"),
        }
    }
}
