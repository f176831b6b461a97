//! Reconnect storms: all connections of a process are lost at once, when the last of them stands again.

use std::time::{Duration, Instant};

/// What the devices of a storm share.
#[derive(Clone, Debug, Default)]
pub struct Storm {
    /// Storms so far.
    pub count: u64,
    /// How many devices take part.
    pub device_count: usize,
    /// When each storm began, and how long it took until the last device was back.
    pub over: Vec<(Instant, Duration)>,
    arrived_count: usize,
    began: Option<Instant>,
    has_news: bool,
}

impl Storm {
    /// A device is there.
    pub fn arrive(&mut self, now: Instant) {
        self.arrived_count += 1;
        if self.arrived_count >= self.device_count {
            self.over.extend(self.began.take().map(|began| (began, now - began)));
            self.has_news = true;
        }
    }

    /// Begin the next one when all are there. True: everybody is to look.
    pub fn advance(&mut self, now: Instant) -> bool {
        if !std::mem::take(&mut self.has_news) {
            return false;
        }
        self.arrived_count = 0;
        self.count += 1;
        self.began = Some(now);
        true
    }

    /// Begin with the first one.
    pub fn begin(&mut self) {
        self.has_news = self.device_count > 0;
    }

    /// When the storm behind `seen` began, if it did.
    pub fn began_after(&self, seen: u64) -> Option<Instant> {
        self.began.filter(|_| self.count > seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_begins_when_all_are_there_and_takes_until_the_last_is_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut storm = Storm { device_count: 2, ..Storm::default() };
        storm.arrive(at(0));
        assert!(!storm.advance(at(0)) && storm.began_after(0).is_none());
        storm.arrive(at(1));
        assert!(storm.advance(at(2)));
        assert_eq!(storm.began_after(0), Some(at(2)));
        assert_eq!(storm.began_after(1), None, "who has gone already does not go again");
        storm.arrive(at(5));
        assert!(!storm.advance(at(5)));
        storm.arrive(at(9));
        assert_eq!(storm.over, [(at(2), Duration::from_millis(7))]);
    }
}
