//! The newest commits, kept in the buffers that they were written from, for those who read the tail.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::Offset;
use crate::storage::{Buffer, SegmentNumber};

/// One commit's records in memory.
pub(crate) struct TailWindow<B> {
    pub(crate) segment: SegmentNumber,
    /// Position of the buffer's first byte.
    pub(crate) base: u64,
    /// Within the buffer: where the commit begins and ends.
    pub(crate) start: usize,
    pub(crate) stop: usize,
    pub(crate) first: Offset,
    pub(crate) end: Offset,
    pub(crate) buffer: Rc<B>,
}

impl<B> TailWindow<B> {
    /// Position behind the commit's last byte.
    pub(crate) fn stop_position(&self) -> u64 {
        self.base + self.stop as u64
    }
}

/// The retained commits, oldest first.
pub(crate) struct Tail<B> {
    windows: VecDeque<TailWindow<B>>,
    /// Memory of their buffers.
    bytes: usize,
}

impl<B: Buffer> Tail<B> {
    pub(crate) fn new() -> Tail<B> {
        Tail { windows: VecDeque::new(), bytes: 0 }
    }

    pub(crate) fn push(&mut self, window: TailWindow<B>) {
        self.bytes += window.buffer.bytes().len();
        self.windows.push_back(window);
    }

    /// The commit that holds a record.
    pub(crate) fn find(&self, offset: Offset) -> Option<&TailWindow<B>> {
        let after = self.windows.partition_point(|window| window.first <= offset);
        let window = &self.windows[after.checked_sub(1)?];
        (offset < window.end).then_some(window)
    }

    /// Drop the oldest commits until at most `bytes_max` bytes are held; stops at one that `may_go` keeps, because it is
    /// nowhere else. The buffers that nobody reads any more go to `spare`.
    pub(crate) fn evict(
        &mut self,
        bytes_max: usize,
        mut may_go: impl FnMut(&TailWindow<B>) -> bool,
        mut spare: impl FnMut(B),
    ) {
        while self.bytes > bytes_max {
            match self.windows.front() {
                Some(window) if may_go(window) => {}
                _ => return,
            }
            if let Some(window) = self.windows.pop_front() {
                self.bytes -= window.buffer.bytes().len();
                if let Ok(buffer) = Rc::try_unwrap(window.buffer) {
                    spare(buffer);
                }
            }
        }
    }

    /// Forget the commits of a segment that is removed. They are the oldest.
    pub(crate) fn forget(&mut self, segment: SegmentNumber) {
        while self.windows.front().is_some_and(|window| window.segment <= segment) {
            if let Some(window) = self.windows.pop_front() {
                self.bytes -= window.buffer.bytes().len();
            }
        }
    }

    /// Memory that is held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
