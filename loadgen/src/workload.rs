//! What is sent, and the ledger of what was acknowledged and read back.

use std::cell::RefCell;
use std::rc::Rc;

use hdrhistogram::Histogram;

/// Bytes at the front of each body that name the event: device index, then number, both little-endian.
pub const MARK_BYTES: usize = 12;

/// One event's name: which device, and its how-manieth event from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Index of the device.
    pub device: u32,
    /// Number of the event within the device.
    pub number: u64,
}

impl Mark {
    /// The bytes at the front of the body.
    pub fn encode(self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..4].copy_from_slice(&self.device.to_le_bytes());
        bytes[4..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// Read a body's front. None: it is no body of ours.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let device = u32::from_le_bytes(body.get(..4)?.try_into().ok()?);
        let number = u64::from_le_bytes(body.get(4..MARK_BYTES)?.try_into().ok()?);
        Some(Self { device, number })
    }
}

/// The id of a device of the run.
pub fn device_id(index: u32) -> String {
    format!("load-{index:05}")
}

/// Bytes that fill a body up, from a seed (xorshift): not compressible, the same in each run.
pub fn filler(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// What happened to each device's events. Shared by the connections of one thread.
#[derive(Debug)]
pub struct Ledger {
    acknowledged: Vec<u64>,
    read: Vec<u64>,
    /// Events acknowledged while the window is open.
    pub window_count: u64,
    /// Time from sending to acknowledgement in the window, microseconds.
    pub latency_us: Histogram<u64>,
    /// Whether acknowledgements are counted.
    pub window_is_open: bool,
    /// Whether senders shall stop.
    pub is_stopping: bool,
}

/// The ledger as the connections hold it.
pub type SharedLedger = Rc<RefCell<Ledger>>;

impl Ledger {
    /// For so many devices.
    pub fn new(device_count: u32) -> Self {
        Self {
            acknowledged: vec![0; device_count as usize],
            read: vec![0; device_count as usize],
            window_count: 0,
            latency_us: Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid"),
            window_is_open: false,
            is_stopping: false,
        }
    }

    /// The hub has acknowledged an event.
    ///
    /// # Errors
    ///
    /// A device's events were acknowledged out of order.
    pub fn acknowledge(&mut self, mark: Mark, latency_us: u64) -> Result<(), String> {
        let count = &mut self.acknowledged[mark.device as usize];
        if *count != mark.number {
            return Err(format!("{mark:?} acknowledged where number {count} was expected"));
        }
        *count += 1;
        if self.window_is_open {
            self.window_count += 1;
            self.latency_us.saturating_record(latency_us);
        }
        Ok(())
    }

    /// A reader has got an event.
    ///
    /// # Errors
    ///
    /// It is not the next one of its device: lost, doubled, out of order or invented.
    pub fn read_back(&mut self, mark: Mark) -> Result<(), String> {
        let count = self
            .read
            .get_mut(mark.device as usize)
            .ok_or_else(|| format!("{mark:?} was read, but there is no such device"))?;
        if *count != mark.number {
            return Err(format!("{mark:?} was read where number {count} was expected"));
        }
        *count += 1;
        Ok(())
    }

    /// All acknowledged events.
    pub fn acknowledged_count(&self) -> u64 {
        self.acknowledged.iter().sum()
    }

    /// All events read back.
    pub fn read_count(&self) -> u64 {
        self.read.iter().sum()
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

    #[test]
    fn a_lost_doubled_or_moved_event_is_found() {
        let mut ledger = Ledger::new(2);
        for number in 0..3 {
            ledger.acknowledge(Mark { device: 1, number }, 5).unwrap();
        }
        ledger.read_back(Mark { device: 1, number: 0 }).unwrap();
        assert!(ledger.read_back(Mark { device: 1, number: 0 }).is_err(), "doubled");
        assert!(ledger.read_back(Mark { device: 1, number: 2 }).is_err(), "lost or moved");
        assert!(ledger.read_back(Mark { device: 7, number: 0 }).is_err(), "invented");
        assert!(ledger.verify().is_err());
        for number in 1..3 {
            ledger.read_back(Mark { device: 1, number }).unwrap();
        }
        ledger.verify().unwrap();
    }

    #[test]
    fn marks_survive_the_way() {
        let mark = Mark { device: 7, number: u64::MAX - 3 };
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        assert_eq!(Mark::decode(&[0; 11]), None);
    }
}
