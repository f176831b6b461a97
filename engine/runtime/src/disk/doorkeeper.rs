//! Which ranges of sealed segments were loaded lately: only what is asked for again is worth the page cache.

use std::collections::{HashSet, VecDeque};

use segment_log::storage::SegmentNumber;

/// Ranges that are remembered, of 1 to 4 MiB each: about as much as a page cache may be trusted to keep of one log.
const RANGES_MAX: usize = 256;

/// The last ranges that were let past, oldest first.
#[derive(Default)]
pub(super) struct Doorkeeper {
    known: HashSet<(SegmentNumber, u64)>,
    order: VecDeque<(SegmentNumber, u64)>,
}

impl Doorkeeper {
    /// Whether the range that begins there was asked for before. From now on it was.
    pub(super) fn knows(&mut self, segment: SegmentNumber, position: u64) -> bool {
        let range = (segment, position);
        if !self.known.insert(range) {
            return true;
        }
        self.order.push_back(range);
        if self.order.len() > RANGES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_known_from_its_second_time_until_many_others_came() {
        let mut doorkeeper = Doorkeeper::default();
        let segment = SegmentNumber(7);
        assert!(!doorkeeper.knows(segment, 0));
        assert!(!doorkeeper.knows(segment, 4096));
        assert!(!doorkeeper.knows(SegmentNumber(8), 0));
        assert!(doorkeeper.knows(segment, 0));
        for position in 0..RANGES_MAX as u64 {
            assert!(!doorkeeper.knows(SegmentNumber(9), position));
        }
        assert_eq!((doorkeeper.known.len(), doorkeeper.order.len()), (RANGES_MAX, RANGES_MAX));
        assert!(!doorkeeper.knows(segment, 0), "forgotten");
    }
}
