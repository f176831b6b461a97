//! The time that cores act by.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use segment_log::Now;

/// The wall clock, and a clock that never goes back; both in milliseconds. All cores of a run share one origin, so their
/// monotonic times compare.
///
/// Each call asks the operating system (tens of nanoseconds); take the time once per turn.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock whose monotonic time begins now, at 1: 0 stays free for "never".
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The time. A wall clock before 1970 reads as 1970.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX), mono_ms: self.mono_ms() }
    }

    /// The monotonic part of [`now`](Self::now) alone.
    pub fn mono_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_the_origin_and_advance() {
        let clock = Clock::start();
        let copy = clock;
        std::thread::sleep(std::time::Duration::from_millis(3));
        let (first, second) = (clock.now(), copy.now());
        assert!(first.mono_ms >= 4, "{}", first.mono_ms);
        assert!(second.mono_ms - first.mono_ms < 1000);
        assert!(first.wall_ms > 1_700_000_000_000);
    }
}
