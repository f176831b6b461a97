//! What is sent, and the ledger of what was acknowledged and read back.

use serde::{Deserialize, Serialize};

/// Bytes at the front of each body that name the event: run, device index, then number, all little-endian.
pub const MARK_BYTES: usize = 16;

/// One event's name: which run, which device, and its how-manieth event from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The run, so that what an earlier one has left in a broker is not taken for this one's.
    pub run: u32,
    /// Index of the device.
    pub device: u32,
    /// Number of the event within the device.
    pub number: u64,
}

impl Mark {
    /// The bytes at the front of the body.
    pub fn encode(self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..4].copy_from_slice(&self.run.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.device.to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// Read a body's front. None: it is no body of ours.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let run = u32::from_le_bytes(body.get(..4)?.try_into().ok()?);
        let device = u32::from_le_bytes(body.get(4..8)?.try_into().ok()?);
        let number = u64::from_le_bytes(body.get(8..MARK_BYTES)?.try_into().ok()?);
        Some(Self { run, device, number })
    }
}

/// The id of a device of the run.
pub fn device_id(index: u32) -> String {
    format!("load-{index:05}")
}

/// Bytes that fill a body up, from a seed (xorshift): not compressible, the same in each run.
pub fn filler(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = mix(seed) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// A number that looks like chance, from a seed (the finalizer of splitmix64).
pub fn mix(seed: u64) -> u64 {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// What happened to each device's events.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// The run whose events count.
    pub run: u32,
    acknowledged: Vec<u64>,
    read: Vec<u64>,
    /// Events of other runs that a reader has got.
    pub foreign_count: u64,
    /// The server's retention may have taken the oldest events of a device.
    pub may_expire: bool,
    /// Events that it took.
    pub expired_count: u64,
}

impl Ledger {
    /// For so many devices.
    pub fn new(run: u32, device_count: u32) -> Self {
        let none = vec![0; device_count as usize];
        Self { run, acknowledged: none.clone(), read: none, ..Self::default() }
    }

    /// Devices that it knows.
    pub fn device_count(&self) -> u32 {
        self.acknowledged.len() as u32
    }

    /// The server has acknowledged an event.
    ///
    /// # Errors
    ///
    /// A device's events were acknowledged out of order.
    pub fn acknowledge(&mut self, device: u32, number: u64) -> Result<(), String> {
        let count = &mut self.acknowledged[device as usize];
        if *count != number {
            return Err(format!("event {number} of device {device} acknowledged where {count} was expected"));
        }
        *count += 1;
        Ok(())
    }

    /// A reader has got an event. True: it is one of this run's.
    ///
    /// # Errors
    ///
    /// It is not the next one of its device: lost, doubled, out of order or invented.
    pub fn read_back(&mut self, mark: Mark) -> Result<bool, String> {
        let Mark { run, device, number } = mark;
        if run != self.run {
            self.foreign_count += 1;
            return Ok(false);
        }
        let count = self.read.get_mut(device as usize).ok_or_else(|| {
            format!("event {number} of device {device} was read, but there is no such device")
        })?;
        if self.may_expire && *count == 0 {
            self.expired_count += number;
            *count = number;
        }
        if *count != number {
            return Err(format!("event {number} of device {device} was read where {count} was expected"));
        }
        *count += 1;
        Ok(true)
    }

    /// Take over what another process has had acknowledged and read.
    pub fn merge(&mut self, other: &Self) {
        let add = |all: &mut Vec<u64>, more: &[u64]| {
            all.resize(all.len().max(more.len()), 0);
            all.iter_mut().zip(more).for_each(|(all, more)| *all += more);
        };
        add(&mut self.acknowledged, &other.acknowledged);
        add(&mut self.read, &other.read);
        self.foreign_count += other.foreign_count;
        self.expired_count += other.expired_count;
    }

    /// Forget what was read: the next reader begins from the oldest again.
    pub fn forget_read(&mut self) {
        self.read.fill(0);
        self.expired_count = 0;
    }

    /// All acknowledged events.
    pub fn acknowledged_count(&self) -> u64 {
        self.acknowledged.iter().sum()
    }

    /// All events read back.
    pub fn read_count(&self) -> u64 {
        self.read.iter().sum::<u64>() - self.expired_count
    }

    /// Acknowledged events that were not read back yet, nor taken by retention.
    pub fn missing_count(&self) -> u64 {
        self.acknowledged_count().saturating_sub(self.read.iter().sum())
    }

    /// Whether retention left what it had to, which is so many events of this run at least.
    ///
    /// # Errors
    ///
    /// It took more.
    pub fn verify_left(&self, least: u64) -> Result<(), String> {
        match self.expired_count > 0 && self.read_count() < least.min(self.acknowledged_count()) {
            false => Ok(()),
            true => Err(format!(
                "{} events were left of {}: retention leaves {least} at least",
                self.read_count(),
                self.acknowledged_count()
            )),
        }
    }

    /// Whether each device's events were read back as acknowledged.
    ///
    /// # Errors
    ///
    /// The first device for which that is not so.
    pub fn verify(&self) -> Result<(), String> {
        match self.acknowledged.iter().zip(&self.read).position(|(acknowledged, read)| acknowledged != read) {
            None => Ok(()),
            Some(index) => Err(format!(
                "device {index}: {} events acknowledged, {} read back",
                self.acknowledged[index], self.read[index]
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(counts: &[u64]) -> Ledger {
        let mut ledger = Ledger::new(9, counts.len() as u32);
        for (device, count) in counts.iter().enumerate() {
            (0..*count).for_each(|number| ledger.acknowledge(device as u32, number).unwrap());
        }
        ledger
    }

    fn mark(device: u32, number: u64) -> Mark {
        Mark { run: 9, device, number }
    }

    #[test]
    fn a_lost_doubled_or_moved_event_is_found() {
        let mut ledger = acknowledged(&[0, 3]);
        ledger.read_back(mark(1, 0)).unwrap();
        assert!(ledger.read_back(mark(1, 0)).is_err(), "doubled");
        assert!(ledger.read_back(mark(1, 2)).is_err(), "lost or moved");
        assert!(ledger.read_back(mark(7, 0)).is_err(), "invented");
        assert!(ledger.verify().is_err());
        for number in 1..3 {
            ledger.read_back(mark(1, number)).unwrap();
        }
        ledger.verify().unwrap();
        ledger.read_back(mark(0, 0)).unwrap();
        assert!(ledger.verify().is_err(), "stored, and never acknowledged to anyone");
    }

    #[test]
    fn the_last_event_of_a_device_may_not_be_lost_either() {
        let mut ledger = acknowledged(&[2, 2]);
        for (device, number) in [(0, 0), (1, 0), (0, 1)] {
            ledger.read_back(mark(device, number)).unwrap();
        }
        assert!(ledger.verify().is_err());
    }

    #[test]
    fn what_an_earlier_run_left_is_counted_and_left_alone() {
        let mut ledger = acknowledged(&[1]);
        assert!(!ledger.read_back(Mark { run: 8, device: 70, number: 5 }).unwrap());
        assert!(ledger.read_back(mark(0, 0)).unwrap());
        ledger.verify().unwrap();
        assert_eq!(ledger.foreign_count, 1);
    }

    #[test]
    fn acknowledgements_come_in_order_too() {
        let mut ledger = Ledger::new(9, 1);
        ledger.acknowledge(0, 0).unwrap();
        assert!(ledger.acknowledge(0, 2).is_err());
    }

    #[test]
    fn retention_takes_the_oldest_and_nothing_else() {
        let mut ledger = acknowledged(&[5, 2]);
        ledger.may_expire = true;
        for (device, number) in [(0, 3), (0, 4), (1, 0)] {
            ledger.read_back(mark(device, number)).unwrap();
        }
        assert!(ledger.read_back(mark(0, 6)).is_err(), "lost");
        assert_eq!((ledger.read_count(), ledger.expired_count, ledger.missing_count()), (3, 3, 1));
        assert!(ledger.verify().is_err(), "the last one of a device is missing");
        ledger.read_back(mark(1, 1)).unwrap();
        ledger.verify().unwrap();
        ledger.forget_read();
        assert_eq!((ledger.read_count(), ledger.missing_count()), (0, 7));
    }

    #[test]
    fn retention_takes_no_more_than_it_may() {
        let mut ledger = acknowledged(&[5]);
        ledger.may_expire = true;
        ledger.read_back(mark(0, 3)).unwrap();
        ledger.read_back(mark(0, 4)).unwrap();
        ledger.verify().unwrap();
        ledger.verify_left(2).unwrap();
        assert!(ledger.verify_left(3).is_err());
    }

    #[test]
    fn processes_add_up() {
        let mut ledger = Ledger::default();
        ledger.merge(&acknowledged(&[2]));
        ledger.merge(&acknowledged(&[0, 5]));
        assert_eq!(ledger.acknowledged_count(), 7);
    }

    #[test]
    fn marks_survive_the_way() {
        let mark = Mark { run: 3, device: 7, number: u64::MAX - 3 };
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        assert_eq!(Mark::decode(&[0; MARK_BYTES - 1]), None);
    }
}
