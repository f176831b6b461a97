//! The logs of a core commit in rounds: those that have something go out together, and the next round begins when all of the
//! last one are durable.
//!
//! A disk makes a write durable by flushing its cache, and a flush that is asked for while another is under way waits for it.
//! Logs that commit each by itself keep waiting for the flushes of the others; those of a round share one.

use std::cell::Cell;

/// Whether a round may begin. One for the logs of a core, on its thread. Open at all times where nobody takes turns.
#[derive(Debug)]
pub(crate) struct CommitRound {
    /// Writes and syncs of commits that have no answer yet.
    under_way_count: Cell<u32>,
    is_open: Cell<bool>,
}

impl Default for CommitRound {
    fn default() -> Self {
        Self { under_way_count: Cell::new(0), is_open: Cell::new(true) }
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
        self.under_way_count.set(self.under_way_count.get() + 1);
    }

    /// It was answered.
    pub(crate) fn end(&self) {
        self.under_way_count.set(self.under_way_count.get() - 1);
    }
}

#[cfg(test)]
mod tests {
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
}
