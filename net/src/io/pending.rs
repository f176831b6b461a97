//! What a connection has to say and its peer has not taken yet, and the core's buffer that words are written into.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The room that a core's shared buffers keep between turns.
pub(super) const SHARED_BUFFER_BYTES_KEPT: usize = 1024 * 1024;

/// Leftovers of at most this size move into memory of their own, and the core's buffer goes back: copying them costs less than
/// a new buffer for whoever speaks next.
const SMALL_LEFTOVER_BYTES: usize = 16 * 1024;

/// Room beyond their words that the buffers of a core's slow peers may have together. Whoever is refused it keeps no more memory
/// than it has words.
const SLACK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A core's buffer for words on their way out. Whoever has its turn takes it, and gives it back when the peer has taken all of
/// them, which is nearly always.
#[derive(Default)]
pub(super) struct WireBuffer {
    idle: RefCell<Vec<u8>>,
    /// Of all [`Slack`]s of the core.
    slack_bytes: Rc<Cell<usize>>,
}

impl WireBuffer {
    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.shrink_to(SHARED_BUFFER_BYTES_KEPT);
        let mut idle = self.idle.borrow_mut();
        if idle.capacity() < buffer.capacity() {
            *idle = buffer;
        }
    }

    fn slack(&self, bytes: usize) -> Option<Slack> {
        let all = self.slack_bytes.get() + bytes;
        (all <= SLACK_BYTES_MAX).then(|| {
            self.slack_bytes.set(all);
            Slack { bytes, all: Rc::clone(&self.slack_bytes) }
        })
    }
}

/// A share of [`SLACK_BYTES_MAX`].
struct Slack {
    bytes: usize,
    all: Rc<Cell<usize>>,
}

impl Drop for Slack {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}

/// Bytes that the peer has not taken yet.
#[derive(Default)]
pub(super) struct Pending {
    buffer: Vec<u8>,
    start: usize,
    /// The buffer is larger than what is left in it, because more is about to be written behind that.
    slack: Option<Slack>,
}

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// To append to; [`Pending::park`] or [`Pending::give_back`] before another connection's turn.
    pub(super) fn buffer(&mut self, core: &WireBuffer) -> &mut Vec<u8> {
        let is_small = self.slack.is_none() && self.len() <= SMALL_LEFTOVER_BYTES;
        // It may hold the core's buffer already.
        if is_small && self.buffer.capacity() < core.idle.borrow().capacity() {
            let mut buffer = core.idle.take();
            buffer.clear();
            buffer.extend_from_slice(self.bytes());
            (self.buffer, self.start) = (buffer, 0);
        }
        &mut self.buffer
    }

    /// Everything was taken.
    pub(super) fn give_back(&mut self, core: &WireBuffer) {
        (self.start, self.slack) = (0, None);
        if self.buffer.capacity() > 0 {
            core.give_back(std::mem::take(&mut self.buffer));
        }
    }

    /// Something is left over, who knows for how long.
    pub(super) fn park(&mut self, core: &WireBuffer) {
        self.slack = None;
        let left = self.len();
        if left > SMALL_LEFTOVER_BYTES {
            self.slack = core.slack(self.buffer.capacity() - left);
        }
        if self.slack.is_none() {
            let rest = self.bytes().to_vec();
            self.give_back(core);
            self.buffer = rest;
        } else if self.start >= left {
            // No byte moves more often than others were taken.
            self.buffer.drain(..self.start);
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of a connection, of which the peer takes all but `left`.
    fn say(pending: &mut Pending, core: &WireBuffer, words: &[u8], left: usize) {
        pending.buffer(core).extend_from_slice(words);
        pending.consume(pending.len() - left);
        match left {
            0 => pending.give_back(core),
            _ => pending.park(core),
        }
    }

    #[test]
    fn words_stay_in_order_whatever_is_left_of_them() {
        let core = WireBuffer::default();
        let mut pending = Pending::default();
        let mut said = Vec::new();
        let mut heard = Vec::new();
        for (turn, taken) in [0, 10, 60_000, 0, 200_000, 1, 150_000, 170_000].into_iter().enumerate() {
            let words: Vec<u8> = (0..100_000).map(|at| (at * 7 + turn * 13) as u8).collect();
            said.extend_from_slice(&words);
            pending.buffer(&core).extend_from_slice(&words);
            let taken = taken.min(pending.len());
            heard.extend_from_slice(&pending.bytes()[..taken]);
            pending.consume(taken);
            pending.park(&core);
        }
        heard.extend_from_slice(pending.bytes());
        assert!(heard == said);
    }

    #[test]
    fn a_small_rest_leaves_the_cores_buffer_to_others() {
        let core = WireBuffer::default();
        let mut pending = Pending::default();
        say(&mut pending, &core, &[7; 100_000], 20);
        assert_eq!((pending.len(), pending.buffer.capacity()), (20, 20));
        assert!(core.idle.borrow().capacity() >= 100_000);
        assert_eq!(core.slack_bytes.get(), 0);
    }

    #[test]
    fn nothing_is_kept_once_all_is_taken() {
        let core = WireBuffer::default();
        let mut pending = Pending::default();
        say(&mut pending, &core, &[7; 300_000], 200_000);
        assert!(core.slack_bytes.get() > 0);
        say(&mut pending, &core, &[], 0);
        assert_eq!((pending.buffer.capacity(), core.slack_bytes.get()), (0, 0));
        assert!(core.idle.borrow().capacity() >= 200_000);
        say(&mut pending, &core, &[7; 300_000], 200_000);
        drop(pending);
        assert_eq!(core.slack_bytes.get(), 0);
    }

    #[test]
    fn many_slow_peers_keep_no_more_than_their_words() {
        let core = WireBuffer::default();
        let left = 20_000;
        let mut parked = Vec::new();
        for _ in 0..200 {
            let mut pending = Pending::default();
            say(&mut pending, &core, &vec![7; 400_000], left);
            parked.push(pending);
        }
        let held: usize = parked.iter().map(|pending| pending.buffer.capacity()).sum();
        assert!(core.slack_bytes.get() <= SLACK_BYTES_MAX);
        assert!(held <= SLACK_BYTES_MAX + 200 * left, "{held}");
        drop(parked);
        assert_eq!(core.slack_bytes.get(), 0);
    }
}
