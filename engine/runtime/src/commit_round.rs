//! The logs of a core commit in rounds: those that have something go out together, and the next round begins when all of the
//! last one are durable.
//!
//! A disk makes a write durable by flushing its cache, and a flush that is asked for while another is under way waits for it.
//! Logs that commit each by itself keep waiting for the flushes of the others; those of a round share one.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Longest round that is told apart from longer ones, microseconds.
const ROUND_US_MAX: u64 = 60_000_000;

/// For so long behind its last round a core still counts as one that commits.
const COMMITTING_FOR: Duration = Duration::from_millis(100);

/// Whether a round may begin. One for the logs of a core, on its thread. Open at all times where nobody takes turns.
#[derive(Debug)]
pub(crate) struct CommitRound {
    /// Writes and syncs of commits that have no answer yet.
    under_way_count: Cell<u32>,
    is_open: Cell<bool>,
    began: Cell<Option<Instant>>,
    /// The last one.
    ended: Cell<Option<Instant>>,
    /// How long rounds took, microseconds: what the disk adds to every acknowledgement.
    times_us: RefCell<Histogram<u64>>,
}

impl Default for CommitRound {
    fn default() -> Self {
        let times_us = Histogram::new_with_bounds(1, ROUND_US_MAX, 2).expect("bounds of a histogram");
        Self {
            under_way_count: Cell::new(0),
            is_open: Cell::new(true),
            began: Cell::new(None),
            ended: Cell::new(None),
            times_us: RefCell::new(times_us),
        }
    }
}

impl CommitRound {
    /// A turn of the core begins. All logs that have something then are of one round.
    pub(crate) fn begin_turn(&self) {
        self.is_open.set(self.under_way_count.get() == 0);
    }

    /// Whether a commit may go out in this turn. If not, the answer of one that is under way brings the turn in which it may.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// A write or sync of a commit goes out.
    pub(crate) fn begin(&self) {
        if self.under_way_count.get() == 0 {
            self.began.set(Some(Instant::now()));
        }
        self.under_way_count.set(self.under_way_count.get() + 1);
    }

    /// It was answered.
    pub(crate) fn end(&self) {
        self.under_way_count.set(self.under_way_count.get() - 1);
        if self.under_way_count.get() == 0
            && let Some(began) = self.began.take()
        {
            let now = Instant::now();
            self.ended.set(Some(now));
            self.times_us.borrow_mut().saturating_record((now - began).as_micros() as u64);
        }
    }

    /// Whether commits follow each other: what else goes to the disk now keeps acknowledgements waiting.
    pub(crate) fn is_committing(&self) -> bool {
        self.under_way_count.get() > 0
            || self.ended.get().is_some_and(|ended| ended.elapsed() < COMMITTING_FOR)
    }
}

/// How many rounds there were and how long they took, for the log. An event waits for the round that it finds under way and
/// for its own: what it sees of long ones goes by their time, not by their number.
impl fmt::Display for CommitRound {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = self.times_us.borrow();
        let [half, most] = [0.5, 0.99].map(|quantile| times.value_at_quantile(quantile));
        let (count, longest, by_time) = (times.len(), times.max(), quantile_by_time(&times, 0.99));
        write!(
            formatter,
            "{count} rounds of commits, p50 {half} us, p99 {most} us, by time {by_time} us, longest {longest} us"
        )
    }
}

/// The value below which rounds spent `quantile` of the time of all rounds.
fn quantile_by_time(times: &Histogram<u64>, quantile: f64) -> u64 {
    let steps = || times.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()));
    let total: u64 = steps().map(|(value, count)| value * count).sum();
    let mut passed = 0;
    steps()
        .find(|(value, count)| {
            passed += value * count;
            passed as f64 >= total as f64 * quantile
        })
        .map_or(0, |(value, _)| value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_round_begins_when_all_of_the_last_one_are_answered() {
        let round = CommitRound::default();
        round.begin_turn();
        round.begin();
        assert!(round.is_open(), "others of the same turn join it");
        round.begin();
        round.begin_turn();
        assert!(!round.is_open());
        round.end();
        round.begin_turn();
        assert!(!round.is_open(), "one is still under way");
        round.end();
        assert!(!round.is_open(), "the next turn opens it for all");
        round.begin_turn();
        assert!(round.is_open());
    }

    #[test]
    fn a_core_commits_from_its_first_round_until_some_time_after_its_last() {
        let round = CommitRound::default();
        assert!(!round.is_committing());
        round.begin();
        assert!(round.is_committing());
        round.end();
        assert!(round.is_committing());
        std::thread::sleep(COMMITTING_FOR);
        assert!(!round.is_committing());
    }

    #[test]
    fn a_round_takes_until_its_last_commit_is_answered() {
        let round = CommitRound::default();
        for _ in 0..2 {
            round.begin();
            round.begin();
            round.end();
            std::thread::sleep(Duration::from_millis(3));
            round.end();
        }
        let times = round.times_us.borrow();
        assert!(times.len() == 2 && times.min() >= 2_900, "{round}");
        assert!(round.to_string().starts_with("2 rounds of commits, p50 "), "{round}");
    }

    #[test]
    fn one_long_round_is_most_of_the_time_and_few_of_the_rounds() {
        let round = CommitRound::default();
        round.times_us.borrow_mut().record_n(100, 999).unwrap();
        round.times_us.borrow_mut().record(1_000_000).unwrap();
        let text = round.to_string();
        assert!(text.starts_with("1000 rounds of commits, p50 100 us, p99 100 us, by time 10"), "{text}");
        assert_eq!(quantile_by_time(&round.times_us.borrow(), 0.01), 100);
        assert_eq!(CommitRound::default().to_string().matches(" 0 us").count(), 4);
    }
}
