//! Reading committed records in place.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::Offset;
use crate::record::{Entry, decode_trusted};
use crate::storage::{Buffer, Mapping, Window};

/// One committed record, borrowed from where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number in the log.
    pub offset: Offset,
    /// When it was appended, milliseconds since 1970; never less than that of the record before it.
    pub time_ms: u64,
    /// What was appended, its parts joined.
    pub payload: &'a [u8],
}

/// A run of committed records with consecutive offsets, verified, in one piece of memory. Costs nothing to make; stays on
/// its core.
pub struct CommittedSlice<B> {
    pub(crate) window: Window<B>,
    /// Within the window: from the first record to behind the last.
    pub(crate) range: Range<usize>,
    pub(crate) first: Offset,
    pub(crate) records: u32,
}

impl<B: Buffer> CommittedSlice<B> {
    /// The records, in order.
    pub fn iter(&self) -> Records<'_> {
        Records { bytes: self.bytes(), left: self.records }
    }

    /// The offset of the first record.
    pub fn first(&self) -> Offset {
        self.first
    }

    /// The offset behind the last record: where the next read goes on.
    pub fn next(&self) -> Offset {
        Offset(self.first.0 + u64::from(self.records))
    }

    /// How many records there are; at least one.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// The records as they are stored, with their headers: what [`crate::ReadLimit::bytes`] counts.
    pub fn bytes(&self) -> &[u8] {
        self.window.bytes().get(self.range.clone()).unwrap_or(&[])
    }

    /// The same records for another core: without a copy from a sealed segment, with one from the tail.
    pub fn shared(&self) -> SharedSlice {
        let memory = match &self.window {
            Window::Mapped(mapping, range) => {
                let start = range.start + self.range.start;
                SharedMemory::Mapped(mapping.clone(), start..start + self.range.len())
            }
            Window::Buffer(..) => SharedMemory::Owned(Arc::from(self.bytes())),
        };
        SharedSlice { memory, first: self.first, records: self.records }
    }
}

impl<B> fmt::Debug for CommittedSlice<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CommittedSlice({} records from {})", self.records, self.first)
    }
}

impl<'a, B: Buffer> IntoIterator for &'a CommittedSlice<B> {
    type Item = Record<'a>;
    type IntoIter = Records<'a>;

    fn into_iter(self) -> Records<'a> {
        self.iter()
    }
}

/// A [`CommittedSlice`] that may go to another core. Clones share the memory; while one lives, the segment's file is not
/// recycled.
#[derive(Clone)]
pub struct SharedSlice {
    memory: SharedMemory,
    first: Offset,
    records: u32,
}

#[derive(Clone)]
enum SharedMemory {
    Mapped(Arc<Mapping>, Range<usize>),
    Owned(Arc<[u8]>),
}

impl SharedSlice {
    /// The records, in order.
    pub fn iter(&self) -> Records<'_> {
        Records { bytes: self.bytes(), left: self.records }
    }

    /// The offset of the first record.
    pub fn first(&self) -> Offset {
        self.first
    }

    /// The offset behind the last record: where the next read goes on.
    pub fn next(&self) -> Offset {
        Offset(self.first.0 + u64::from(self.records))
    }

    /// How many records there are; at least one.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// The records as they are stored, with their headers.
    pub fn bytes(&self) -> &[u8] {
        match &self.memory {
            SharedMemory::Mapped(mapping, range) => mapping.bytes().get(range.clone()).unwrap_or(&[]),
            SharedMemory::Owned(bytes) => bytes,
        }
    }

    /// The records lie in a sealed segment's map, and no memory is held for them.
    pub fn is_mapped(&self) -> bool {
        matches!(self.memory, SharedMemory::Mapped(..))
    }
}

impl fmt::Debug for SharedSlice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SharedSlice({} records from {})", self.records, self.first)
    }
}

impl<'a> IntoIterator for &'a SharedSlice {
    type Item = Record<'a>;
    type IntoIter = Records<'a>;

    fn into_iter(self) -> Records<'a> {
        self.iter()
    }
}

/// Walks a slice's records. Allocates nothing and checks no checksum: reading did.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        while self.left > 0 {
            let (entry, length) = decode_trusted(self.bytes).ok()?;
            self.bytes = &self.bytes[length..];
            if let Entry::Record { offset, time_ms, payload, .. } = entry {
                self.left -= 1;
                return Some(Record { offset, time_ms, payload });
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for Records<'_> {}
