//! Memory that a core's disk work writes from and reads into.

use std::cell::Cell;
use std::rc::Rc;

use glommio::io::{DmaBuffer, ReadResult};
use segment_log::storage::Buffer;

/// Memory for direct I/O over the core's rings. It stays on its core.
pub struct DmaBlock(
    Memory,
    #[expect(dead_code, reason = "what matters is when it is dropped")] Option<Share>,
);

enum Memory {
    /// Allocated by the log, to be filled and written.
    Write(Rc<DmaBuffer>),
    /// Filled by a read.
    Read(ReadResult),
}

/// How much memory reads of a kind may hold until their readers have let go of it.
#[derive(Clone)]
pub(crate) struct Allowance(Rc<Cell<usize>>);

impl Allowance {
    /// So many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    /// A share of it, given back when dropped; none when less is left.
    pub(crate) fn take(&self, bytes: usize) -> Option<Share> {
        self.0.set(self.0.get().checked_sub(bytes)?);
        Some(Share { allowance: self.clone(), bytes })
    }
}

/// A part of an [`Allowance`].
pub(crate) struct Share {
    allowance: Allowance,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        let left = &self.allowance.0;
        left.set(left.get() + self.bytes);
    }
}

impl DmaBlock {
    /// What a read has filled; empty where the file ends.
    pub(crate) fn from_read(read: ReadResult) -> Self {
        Self(Memory::Read(read), None)
    }

    /// The same block, which holds a share of an allowance as long as it lives.
    pub(crate) fn within(self, share: Share) -> Self {
        Self(self.0, Some(share))
    }

    /// The first `bytes` bytes as glommio writes them: a whole buffer. It is the buffer itself where it has that length;
    /// otherwise they are copied.
    pub(crate) fn head(&self, bytes: usize) -> Rc<DmaBuffer> {
        match &self.0 {
            Memory::Write(buffer) if buffer.len() == bytes => Rc::clone(buffer),
            _ => dma_copy_of(&self.bytes()[..bytes]),
        }
    }
}

/// A new buffer with this content.
pub(crate) fn dma_copy_of(bytes: &[u8]) -> Rc<DmaBuffer> {
    let mut buffer = glommio::allocate_dma_buffer_global(bytes.len());
    buffer.as_bytes_mut().copy_from_slice(bytes);
    Rc::new(buffer)
}

impl Buffer for DmaBlock {
    const IS_WRITTEN_WHOLE: bool = true;

    fn allocate(bytes: usize) -> Self {
        // Not from the ring's registered memory: the tail keeps its buffers for long, and that memory is small.
        let mut buffer = glommio::allocate_dma_buffer_global(bytes);
        buffer.as_bytes_mut().fill(0);
        Self(Memory::Write(Rc::new(buffer)), None)
    }

    fn copy_of(bytes: &[u8]) -> Self {
        Self(Memory::Write(dma_copy_of(bytes)), None)
    }

    fn bytes(&self) -> &[u8] {
        match &self.0 {
            Memory::Write(buffer) => buffer.as_bytes(),
            Memory::Read(read) => read,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Write(buffer) => {
                if Rc::get_mut(buffer).is_none() {
                    // A ring has not let go of it since its last write: leave that memory alone.
                    *buffer = dma_copy_of(buffer.as_bytes());
                }
                Rc::get_mut(buffer).expect("it is nobody else's now").as_bytes_mut()
            }
            Memory::Read(..) => panic!("what was read is not written to"),
        }
    }
}

impl std::fmt::Debug for DmaBlock {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "DmaBlock({} bytes)", self.bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_never_exceeded_and_comes_back() {
        let allowance = Allowance::new(10);
        let first = allowance.take(6).unwrap();
        assert!(allowance.take(5).is_none());
        let second = allowance.take(4).unwrap();
        assert!(allowance.take(1).is_none());
        drop(first);
        assert!(allowance.take(7).is_none());
        drop((allowance.take(6).unwrap(), second));
        assert!(allowance.take(10).is_some());
    }
}
