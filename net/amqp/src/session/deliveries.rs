//! The unsettled deliveries of a session in one direction, by delivery id.

use std::collections::VecDeque;

use crate::serial;

/// Deliveries in the order of their ids, which only grow (and wrap). A settled one leaves a gap that is closed when gaps
/// prevail, so that memory follows the number of unsettled deliveries.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    queue: VecDeque<Delivery>,
    live_count: u32,
}

#[derive(Clone, Copy, Debug)]
struct Delivery {
    id: u32,
    /// Slot of the link, or `SETTLED`.
    link: u32,
}

const SETTLED: u32 = u32::MAX;

/// Gaps that are left alone.
const GAP_COUNT_MIN: usize = 32;

/// Unsettled deliveries of one link with none of another link's between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) link: u32,
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// How many of the ids in between are deliveries of the link.
    pub(crate) count: u32,
}

impl Deliveries {
    /// Number of unsettled deliveries.
    pub(crate) fn count(&self) -> u32 {
        self.live_count
    }

    /// Whether `id` can come next: behind all others, and not so far that the order of ids would be lost.
    pub(crate) fn takes(&self, id: u32) -> bool {
        match (self.queue.front(), self.queue.back()) {
            (Some(front), Some(back)) => serial::is_before(back.id, id) && serial::is_before(front.id, id),
            _ => true,
        }
    }

    /// Adds a delivery that [`Deliveries::takes`].
    pub(crate) fn insert(&mut self, id: u32, link: u32) {
        self.queue.push_back(Delivery { id, link });
        self.live_count += 1;
    }

    /// Tells the runs of unsettled deliveries from `first` to `last`, of one link or of all, and removes them if `settle`.
    pub(crate) fn for_each_run(
        &mut self,
        first: u32,
        last: u32,
        only: Option<u32>,
        settle: bool,
        mut tell: impl FnMut(Run),
    ) {
        let Some(front) = self.queue.front().map(|delivery| delivery.id) else { return };
        // Ids are compared by their distance from the front; what lies before it is settled long since.
        let last_distance = last.wrapping_sub(front);
        if last_distance >= 1 << 31 {
            return;
        }
        let first_distance = serial::distance(front, first);
        let start = match self.queue.get(first_distance as usize) {
            // Without gaps an id is its own place.
            Some(delivery) if delivery.id == first => first_distance as usize,
            _ => self.queue.partition_point(|delivery| delivery.id.wrapping_sub(front) < first_distance),
        };
        let mut run: Option<Run> = None;
        for delivery in self.queue.range_mut(start..) {
            if delivery.id.wrapping_sub(front) > last_distance {
                break;
            }
            let Delivery { id, link } = *delivery;
            if link == SETTLED {
                continue;
            }
            match &mut run {
                Some(open) if open.link == link => (open.last, open.count) = (id, open.count + 1),
                _ => {
                    if let Some(done) = run.take() {
                        tell(done);
                    }
                    if only.is_none_or(|only| only == link) {
                        run = Some(Run { link, first: id, last: id, count: 1 });
                    }
                }
            }
            if settle && only.is_none_or(|only| only == link) {
                delivery.link = SETTLED;
                self.live_count -= 1;
            }
        }
        if let Some(done) = run {
            tell(done);
        }
        if settle {
            self.close_gaps();
        }
    }

    /// Forgets the deliveries of a link.
    pub(crate) fn remove_link(&mut self, link: u32) {
        for delivery in self.queue.iter_mut().filter(|delivery| delivery.link == link) {
            delivery.link = SETTLED;
            self.live_count -= 1;
        }
        self.close_gaps();
    }

    fn close_gaps(&mut self) {
        if self.live_count == 0 {
            self.queue.clear();
            return;
        }
        while self.queue.front().is_some_and(|delivery| delivery.link == SETTLED) {
            self.queue.pop_front();
        }
        if self.queue.len() > 2 * self.live_count as usize + GAP_COUNT_MIN {
            self.queue.retain(|delivery| delivery.link != SETTLED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(
        deliveries: &mut Deliveries,
        first: u32,
        last: u32,
        only: Option<u32>,
    ) -> Vec<(u32, u32, u32, u32)> {
        let mut runs = Vec::new();
        deliveries.for_each_run(first, last, only, true, |run| {
            runs.push((run.link, run.first, run.last, run.count));
        });
        runs
    }

    #[test]
    fn a_range_is_told_by_links_and_settled_once() {
        let mut deliveries = Deliveries::default();
        for (id, link) in [(1, 8), (2, 8), (3, 9), (4, 8), (6, 8)] {
            assert!(deliveries.takes(id));
            deliveries.insert(id, link);
        }
        assert_eq!(runs(&mut deliveries, 2, 4, None), [(8, 2, 2, 1), (9, 3, 3, 1), (8, 4, 4, 1)]);
        assert_eq!(runs(&mut deliveries, 0, 100, None), [(8, 1, 6, 2)]);
        assert_eq!(runs(&mut deliveries, 0, 100, None), []);
        assert_eq!(deliveries.count(), 0);
    }

    #[test]
    fn another_links_deliveries_are_left_alone() {
        let mut deliveries = Deliveries::default();
        for (id, link) in [(1, 8), (2, 9), (3, 8)] {
            deliveries.insert(id, link);
        }
        assert_eq!(runs(&mut deliveries, 1, 3, Some(8)), [(8, 1, 1, 1), (8, 3, 3, 1)]);
        assert_eq!(runs(&mut deliveries, 1, 3, None), [(9, 2, 2, 1)]);
    }

    #[test]
    fn ids_wrap() {
        let mut deliveries = Deliveries::default();
        for id in [u32::MAX - 1, u32::MAX, 0, 1] {
            assert!(deliveries.takes(id));
            deliveries.insert(id, 1);
        }
        assert!(!deliveries.takes(1));
        assert!(!deliveries.takes(u32::MAX));
        assert_eq!(runs(&mut deliveries, u32::MAX, 0, None), [(1, u32::MAX, 0, 2)]);
        assert_eq!(runs(&mut deliveries, u32::MAX - 5, 1, None), [(1, u32::MAX - 1, 1, 2)]);
    }

    #[test]
    fn memory_follows_what_is_unsettled() {
        let mut deliveries = Deliveries::default();
        deliveries.insert(0, 1);
        for id in 1..10_000 {
            deliveries.insert(id, 1);
            deliveries.for_each_run(id, id, None, true, drop);
        }
        assert_eq!(deliveries.count(), 1);
        assert!(deliveries.queue.len() <= GAP_COUNT_MIN + 2);
    }

    #[test]
    fn ids_too_far_apart_are_not_taken() {
        let mut deliveries = Deliveries::default();
        deliveries.insert(0, 1);
        deliveries.insert(0x7000_0000, 1);
        assert!(!deliveries.takes(0xe000_0000));
    }
}
