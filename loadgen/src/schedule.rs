//! When something is to be sent: a schedule that goes on whatever the server does, or whenever there is room.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How a client's work is paced.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Pace {
    /// Closed loop: the next one goes as soon as fewer than the allowed number are under way.
    Closed,
    /// Open loop: so many a second, whatever the server does.
    Open {
        /// How many a second, above 0.
        per_s: f64,
        /// How many are due at once: a gateway passes on what has gathered. At least 1.
        burst: u32,
        /// Where in its first interval the client begins, 0 to 1.
        phase: f64,
    },
}

/// The intended times of one client's work.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    interval: Duration,
    burst: u64,
    first: Instant,
    next: u64,
}

impl Schedule {
    /// Begins at `start`. None for a closed loop, which intends no times.
    pub fn new(pace: Pace, start: Instant) -> Option<Self> {
        let Pace::Open { per_s, burst, phase } = pace else { return None };
        let interval = Duration::from_secs_f64((f64::from(burst) / per_s).min(86_400.0));
        Some(Self { interval, burst: u64::from(burst), first: start + interval.mul_f64(phase), next: 0 })
    }

    /// When the next one is intended.
    pub fn next_at(&self) -> Instant {
        let nanos = self.interval.as_nanos() * u128::from(self.next / self.burst);
        // 64 bits of nanoseconds are five centuries.
        self.first + Duration::from_nanos(nanos as u64)
    }

    /// No more will be begun: hear of those that were intended before `end`.
    pub fn give_up(mut self, end: Instant, mut each: impl FnMut(Instant)) {
        while self.next_at() < end {
            each(self.next_at());
            self.advance();
        }
    }

    /// The next one was begun.
    pub fn advance(&mut self) {
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_goes_on_by_itself() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Pace::Open { per_s: 1000.0, burst: 2, phase: 0.5 }, start).unwrap();
        let mut times = Vec::new();
        for _ in 0..6 {
            times.push((schedule.next_at() - start).as_micros());
            schedule.advance();
        }
        assert_eq!(times, [1000, 1000, 3000, 3000, 5000, 5000]);
        assert!(Schedule::new(Pace::Closed, start).is_none());
    }
}
