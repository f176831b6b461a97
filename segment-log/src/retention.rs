//! Which segments may go: by age, by bytes, or because the reader of the log said so.

use crate::limits::CLOCK_JUMP_MS;
use crate::{Now, Offset};

/// How long records are kept. Whole segments go, the oldest first; the one that takes appends never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionConfig {
    /// A segment goes when its newest record is older than this, in milliseconds. `None`: age removes nothing.
    pub age_ms: Option<u64>,
    /// The oldest segment goes while all together take more than this, in bytes. `None`: size removes nothing.
    pub bytes: Option<u64>,
}

/// The clock that age is measured by: the wall clock as long as it can be believed.
///
/// Within a run, a wall clock that is more than an hour away from where elapsed monotonic time puts it is not believed, and
/// age goes on by the monotonic clock. Across runs there is nothing to compare with: where the wall clock at the start is
/// more than an hour ahead of the newest record, age removes nothing in the first hour.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AgeClock {
    anchor: Now,
    /// Monotonic time from which on age may remove.
    trusted_from_ms: u64,
}

impl AgeClock {
    pub(crate) fn new(now: Now, newest_ms: Option<u64>) -> AgeClock {
        let ahead = newest_ms.is_some_and(|newest| now.wall_ms > newest.saturating_add(CLOCK_JUMP_MS));
        let trusted_from_ms = if ahead { now.mono_ms.saturating_add(CLOCK_JUMP_MS) } else { now.mono_ms };
        AgeClock { anchor: now, trusted_from_ms }
    }

    /// The time to compare records' times with; `None` while it cannot be told.
    pub(crate) fn believed_ms(&self, now: Now) -> Option<u64> {
        if now.mono_ms < self.trusted_from_ms {
            return None;
        }
        let expected = self.anchor.wall_ms.saturating_add(now.mono_ms.saturating_sub(self.anchor.mono_ms));
        Some(if now.wall_ms.abs_diff(expected) <= CLOCK_JUMP_MS { now.wall_ms } else { expected })
    }
}

/// What retention asks of one segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) end: Offset,
    pub(crate) last_time_ms: u64,
    pub(crate) bytes: u64,
}

/// How many of the candidates, oldest first, may go. `bytes_all` counts these and all that may not go; `cut` is the offset
/// before which nothing is needed.
pub(crate) fn count_removable(
    candidates: impl Iterator<Item = Candidate>,
    config: RetentionConfig,
    believed_ms: Option<u64>,
    bytes_all: u64,
    cut: Offset,
) -> usize {
    let mut bytes_left = bytes_all;
    let mut count = 0;
    for candidate in candidates {
        let old = match (config.age_ms, believed_ms) {
            (Some(age_ms), Some(now_ms)) => candidate.last_time_ms.saturating_add(age_ms) < now_ms,
            _ => false,
        };
        let too_much = config.bytes.is_some_and(|bytes_max| bytes_left > bytes_max);
        if !old && !too_much && candidate.end > cut {
            break;
        }
        bytes_left = bytes_left.saturating_sub(candidate.bytes);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn now(wall_ms: u64, mono_ms: u64) -> Now {
        Now { wall_ms, mono_ms }
    }

    #[test]
    fn the_wall_clock_is_followed_within_an_hour() {
        let clock = AgeClock::new(now(100 * HOUR, 5), Some(100 * HOUR));
        assert_eq!(clock.believed_ms(now(101 * HOUR, 5 + HOUR)), Some(101 * HOUR));
        assert_eq!(clock.believed_ms(now(101 * HOUR + 60_000, 5 + HOUR)), Some(101 * HOUR + 60_000));
    }

    #[test]
    fn a_jump_within_a_run_is_confirmed_by_monotonic_time_alone() {
        let clock = AgeClock::new(now(100 * HOUR, 0), Some(100 * HOUR));
        assert_eq!(clock.believed_ms(now(300 * HOUR, 1000)), Some(100 * HOUR + 1000));
        assert_eq!(clock.believed_ms(now(300 * HOUR, 200 * HOUR)), Some(300 * HOUR));
        assert_eq!(clock.believed_ms(now(0, 2 * HOUR)), Some(102 * HOUR));
    }

    #[test]
    fn a_clock_far_ahead_at_the_start_is_believed_after_an_hour() {
        let clock = AgeClock::new(now(300 * HOUR, 7), Some(100 * HOUR));
        assert_eq!(clock.believed_ms(now(300 * HOUR, 7)), None);
        assert_eq!(clock.believed_ms(now(301 * HOUR - 1, 6 + HOUR)), None);
        assert_eq!(clock.believed_ms(now(301 * HOUR, 7 + HOUR)), Some(301 * HOUR));
    }

    #[test]
    fn age_bytes_and_cut_take_the_oldest_and_stop_at_the_first_that_stays() {
        let three =
            || (1..=3).map(|at| Candidate { end: Offset(at * 10), last_time_ms: at * 100, bytes: 1000 });
        let count = |config, believed, cut| count_removable(three(), config, believed, 3500, Offset(cut));
        let none = RetentionConfig::default();
        assert_eq!(count(none, Some(10_000), 0), 0);
        let age = RetentionConfig { age_ms: Some(150), bytes: None };
        assert_eq!(count(age, Some(250), 0), 0);
        assert_eq!(count(age, Some(251), 0), 1);
        assert_eq!(count(age, None, 0), 0);
        let bytes = RetentionConfig { age_ms: None, bytes: Some(1500) };
        assert_eq!(count(bytes, None, 0), 2);
        assert_eq!(count(none, None, 19), 1);
        assert_eq!(count(none, None, 20), 2);
    }
}
