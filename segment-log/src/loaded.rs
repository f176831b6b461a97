//! Ranges of segments that were brought into memory for readers: populated parts of maps, and buffers.

use crate::limits::{LOADED_BUFFER_BYTES_MAX, LOADED_COUNT_MAX, LOADED_MS};
use crate::storage::{ActionId, Buffer, Completed, SegmentNumber, StorageError, Window};

/// One range, asked for or there.
struct Range<B> {
    segment: SegmentNumber,
    start: u64,
    /// As asked until it is there, then as it is.
    stop: u64,
    state: State<B>,
    /// When it was asked, answered or last read.
    touched_ms: u64,
    /// Somebody read it: it may go.
    read: bool,
}

enum State<B> {
    Asked(ActionId),
    Ready { window: Window<B>, cut: bool },
    Failed(StorageError),
}

/// What is known of a position.
pub(crate) enum Found<B> {
    /// Bytes from the position on. `cut`: the file ends where they end, although more was asked for.
    Ready { window: Window<B>, cut: bool },
    /// Asked; the answer is on its way.
    Asked,
    /// Could not be read; said once, then it may be asked again.
    Failed(StorageError),
    /// Nobody asked.
    Nothing,
}

/// The ranges of one log. Bounded in number, and in bytes where they are not mapped.
pub(crate) struct Loaded<B> {
    ranges: Vec<Range<B>>,
}

impl<B: Buffer> Loaded<B> {
    pub(crate) fn new() -> Loaded<B> {
        Loaded { ranges: Vec::new() }
    }

    /// What there is from `position` on, as much as possible; at least `needed` bytes, or it does not count.
    pub(crate) fn find(
        &mut self,
        segment: SegmentNumber,
        position: u64,
        needed: u64,
        now_ms: u64,
    ) -> Found<B> {
        let holds =
            |range: &Range<B>| range.segment == segment && range.start <= position && position < range.stop;
        let mut asked = false;
        let mut best: Option<usize> = None;
        let mut failed = None;
        for (at, range) in self.ranges.iter().enumerate().filter(|(_, range)| holds(range)) {
            match &range.state {
                State::Asked(_) => asked |= position + needed <= range.stop,
                State::Failed(_) => failed = Some(at),
                State::Ready { .. } => {
                    if best.is_none_or(|best| self.ranges[best].stop < range.stop) {
                        best = Some(at);
                    }
                }
            }
        }
        if let Some(at) = best {
            let (stop, cut) = self.reach(at);
            if position + needed <= stop || cut {
                let range = &mut self.ranges[at];
                range.touched_ms = now_ms;
                range.read = true;
                if let State::Ready { window, .. } = &range.state {
                    return Found::Ready {
                        window: part(window, position - range.start, stop - position),
                        cut,
                    };
                }
            }
        }
        if asked {
            return Found::Asked;
        }
        match failed.map(|at| self.ranges.swap_remove(at).state) {
            Some(State::Failed(error)) => Found::Failed(error),
            _ => Found::Nothing,
        }
    }

    /// How far the bytes go on behind a range: through populated neighbours of the same map.
    fn reach(&mut self, at: usize) -> (u64, bool) {
        let range = &self.ranges[at];
        let (segment, mut stop) = (range.segment, range.stop);
        let State::Ready { window, cut } = &range.state else { return (stop, false) };
        let mut cut = *cut;
        if !matches!(window, Window::Mapped(..)) {
            return (stop, cut);
        }
        while !cut {
            let further = self.ranges.iter_mut().find(|next| {
                next.segment == segment
                    && next.start <= stop
                    && stop < next.stop
                    && matches!(next.state, State::Ready { window: Window::Mapped(..), .. })
            });
            let Some(next) = further else { break };
            next.read = true;
            stop = next.stop;
            cut = matches!(next.state, State::Ready { cut: true, .. });
        }
        (stop, cut)
    }

    /// The range from `start` on was asked for or is there.
    pub(crate) fn knows(&self, segment: SegmentNumber, start: u64) -> bool {
        self.ranges.iter().any(|range| range.segment == segment && range.start <= start && start < range.stop)
    }

    /// There is room for one more that a reader waits for, after the oldest are dropped where they must be: what was read
    /// first, then memory that nobody has come for. It can be asked for again, so that readers which are too many for the memory
    /// get on all the same.
    pub(crate) fn make_room(&mut self) -> bool {
        while self.ranges.len() >= LOADED_COUNT_MAX || self.buffer_bytes() > LOADED_BUFFER_BYTES_MAX {
            let only_buffers = self.ranges.len() < LOADED_COUNT_MAX;
            let oldest = (0..self.ranges.len())
                .filter(|at| match only_buffers {
                    true => self.ranges[*at].buffer_bytes() > 0,
                    false => self.ranges[*at].read,
                })
                .min_by_key(|at| (!self.ranges[*at].read, self.ranges[*at].touched_ms));
            match oldest {
                Some(at) => drop(self.ranges.swap_remove(at)),
                None => return false,
            }
        }
        true
    }

    /// There is room for one more that nobody waits for yet: nothing that is unread has to go for it.
    pub(crate) fn has_room_ahead(&self) -> bool {
        let unread = self.ranges.iter().filter(|range| !range.read);
        let (count, bytes) =
            unread.fold((0, 0), |(count, bytes), range| (count + 1, bytes + range.buffer_bytes()));
        count < LOADED_COUNT_MAX && bytes <= LOADED_BUFFER_BYTES_MAX / 2
    }

    fn buffer_bytes(&self) -> usize {
        self.ranges.iter().map(Range::buffer_bytes).sum()
    }

    /// Note that a range was asked for.
    pub(crate) fn ask(&mut self, id: ActionId, segment: SegmentNumber, start: u64, stop: u64, now_ms: u64) {
        let state = State::Asked(id);
        self.ranges.push(Range { segment, start, stop, state, touched_ms: now_ms, read: false });
    }

    /// Take the answer.
    pub(crate) fn answer(&mut self, id: ActionId, result: Result<Completed<B>, StorageError>, now_ms: u64) {
        let asked = |range: &&mut Range<B>| matches!(range.state, State::Asked(asked) if asked == id);
        let Some(range) = self.ranges.iter_mut().find(asked) else { return };
        range.touched_ms = now_ms;
        range.state = match result {
            Ok(Completed::Loaded(window)) => {
                let stop = range.start + window.bytes().len() as u64;
                let cut = stop < range.stop;
                range.stop = stop;
                State::Ready { window, cut }
            }
            Ok(Completed::Unit) => panic!("a load is answered with what was loaded"),
            Err(error) => State::Failed(error),
        };
        if range.start == range.stop {
            // Nothing of the range exists; keep the fact where a reader will find it.
            range.stop = range.start + 1;
        }
    }

    /// A load of the segment is on its way.
    pub(crate) fn is_loading(&self, segment: SegmentNumber) -> bool {
        self.ranges.iter().any(|range| range.segment == segment && matches!(range.state, State::Asked(_)))
    }

    /// Forget a segment, which is removed. What readers hold stays with them.
    pub(crate) fn forget(&mut self, segment: SegmentNumber) {
        self.ranges.retain(|range| range.segment != segment || matches!(range.state, State::Asked(_)));
    }

    /// Forget what nobody came for, and what may have left memory by now.
    pub(crate) fn age(&mut self, now_ms: u64) {
        self.ranges.retain(|range| {
            matches!(range.state, State::Asked(_)) || now_ms < range.touched_ms.saturating_add(LOADED_MS)
        });
    }
}

impl<B: Buffer> Range<B> {
    fn buffer_bytes(&self) -> usize {
        match &self.state {
            State::Ready { window: Window::Buffer(buffer, _), .. } => buffer.bytes().len(),
            _ => 0,
        }
    }
}

/// A part of a window; through neighbours of a map it may be longer than the window itself.
fn part<B>(window: &Window<B>, skip: u64, bytes: u64) -> Window<B> {
    let (skip, bytes) = (skip as usize, bytes as usize);
    match window {
        Window::Mapped(mapping, range) => {
            let start = range.start + skip;
            Window::Mapped(mapping.clone(), start..start + bytes)
        }
        Window::Buffer(buffer, range) => {
            let start = range.start + skip;
            Window::Buffer(buffer.clone(), start..(start + bytes).min(range.end))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::storage::disk::AlignedBuffer;

    const BYTES: usize = 4 << 20;

    #[test]
    fn readers_that_are_too_many_for_the_memory_get_on() {
        let mut loaded = Loaded::<AlignedBuffer>::new();
        let segment = SegmentNumber(1);
        for number in 0..6 {
            let start = number * BYTES as u64;
            loaded.ask(ActionId(number), segment, start, start + BYTES as u64, number);
            let window = Window::Buffer(Rc::new(AlignedBuffer::allocate(BYTES)), 0..BYTES);
            loaded.answer(ActionId(number), Ok(Completed::Loaded(window)), number);
        }
        // Nobody has come for any of them, and one that was read goes first.
        assert!(matches!(loaded.find(segment, 5 * BYTES as u64, 1, 9), Found::Ready { .. }));
        assert!(!loaded.has_room_ahead());
        assert!(loaded.make_room());
        assert!(!loaded.knows(segment, 5 * BYTES as u64), "it was read");
        assert!(!loaded.knows(segment, 0) && loaded.knows(segment, BYTES as u64), "the oldest");
        assert!(loaded.buffer_bytes() <= LOADED_BUFFER_BYTES_MAX);
    }
}
