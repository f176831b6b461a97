//! The account of a run: what each device sent, what was acknowledged, and whether what was read agrees.
//!
//! The rule: what was acknowledged is there, once, in the order of its device; what was not is there or absent, a batch
//! as a whole; nothing is there that was not sent.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Bytes of a body beyond its label; large enough that events spread over blocks.
const PADDING_BYTES: usize = 180;

/// An event as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadEvent {
    /// The partition.
    pub partition: u16,
    /// Its sequence number.
    pub sequence: u64,
    /// The device that the hub stamped on it.
    pub device: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// What the devices of a run sent and were told.
#[derive(Clone, Debug, Default)]
pub struct History(BTreeMap<String, Sent>);

#[derive(Clone, Debug, Default)]
struct Sent {
    /// Events from 0 up to this were sent, each once.
    next: u64,
    /// Those that were acknowledged.
    acknowledged: BTreeSet<u64>,
    /// Those that were sent as one batch.
    batches: Vec<Range<u64>>,
}

impl History {
    /// The numbers of the next `count` events of a device; more than one are a batch.
    pub fn send(&mut self, device: &str, count: u64) -> Range<u64> {
        let sent = self.0.entry(device.to_owned()).or_default();
        let numbers = sent.next..sent.next + count;
        sent.next = numbers.end;
        if count > 1 {
            sent.batches.push(numbers.clone());
        }
        numbers
    }

    /// The hub accepted these.
    pub fn acknowledge(&mut self, device: &str, numbers: Range<u64>) {
        self.0.get_mut(device).expect("only what was sent is acknowledged").acknowledged.extend(numbers);
    }

    /// How many events were acknowledged.
    pub fn acknowledged_count(&self) -> u64 {
        self.0.values().map(|sent| sent.acknowledged.len() as u64).sum()
    }

    /// Everything that is wrong with what was read; `events` in the order of their partitions. Empty: all is well.
    pub fn faults(&self, events: &[ReadEvent]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut numbers: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let mut last: BTreeMap<u16, u64> = BTreeMap::new();
        for event in events {
            match last.insert(event.partition, event.sequence) {
                Some(previous) if event.sequence != previous + 1 => {
                    faults.push(format!(
                        "partition {}: {} follows {previous}",
                        event.partition, event.sequence
                    ));
                }
                _ => {}
            }
            match number_of(&event.device, &event.body) {
                Some(number) => numbers.entry(&event.device).or_default().push(number),
                None => {
                    faults.push(format!("invented or damaged: {} {:?}", event.device, label(&event.body)))
                }
            }
        }
        for device in numbers.keys().filter(|device| !self.0.contains_key(**device)) {
            faults.push(format!("{device} never sent anything"));
        }
        for (device, sent) in &self.0 {
            sent.check(device, numbers.get(device.as_str()).map_or(&[], Vec::as_slice), &mut faults);
        }
        faults
    }

    /// Panic with what is wrong.
    pub fn check(&self, events: &[ReadEvent]) {
        let faults = self.faults(events);
        let shown = &faults[..faults.len().min(20)];
        assert!(
            faults.is_empty(),
            "{} faults in {} events:\n{}",
            faults.len(),
            events.len(),
            shown.join("\n")
        );
    }
}

impl Sent {
    fn check(&self, device: &str, read: &[u64], faults: &mut Vec<String>) {
        for pair in read.windows(2).filter(|pair| pair[1] <= pair[0]) {
            let what = if pair[0] == pair[1] { "twice" } else { "out of order" };
            faults.push(format!("{device}: {} behind {}, {what}", pair[1], pair[0]));
        }
        let read: BTreeSet<u64> = read.iter().copied().collect();
        for number in read.range(self.next..) {
            faults.push(format!("{device}: {number} was never sent"));
        }
        for number in self.acknowledged.difference(&read) {
            faults.push(format!("{device}: {number} was acknowledged and is lost"));
        }
        for batch in &self.batches {
            let kept = read.range(batch.clone()).count() as u64;
            if kept != 0 && kept != batch.end - batch.start {
                faults.push(format!("{device}: {kept} events of batch {batch:?}"));
            }
        }
    }
}

/// The body of a device's event: a label that names it and bytes that follow from the label.
pub fn body(device: &str, number: u64) -> Vec<u8> {
    let mut body = format!("{device}/{number}/").into_bytes();
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    body.extend((0..PADDING_BYTES).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    }));
    body
}

fn number_of(device: &str, bytes: &[u8]) -> Option<u64> {
    let rest = bytes.strip_prefix(device.as_bytes())?.strip_prefix(b"/")?;
    let digits = &rest[..rest.iter().position(|&byte| byte == b'/')?];
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (body(device, number) == bytes).then_some(number)
}

fn label(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(numbers: &[u64]) -> Vec<ReadEvent> {
        let event = |(sequence, &number): (usize, &u64)| ReadEvent {
            partition: 0,
            sequence: sequence as u64,
            device: "d".to_owned(),
            body: body("d", number),
        };
        numbers.iter().enumerate().map(event).collect()
    }

    fn faults(read_numbers: &[u64]) -> Vec<String> {
        let mut history = History::default();
        let first = history.send("d", 1);
        history.acknowledge("d", first);
        history.send("d", 3);
        history.send("d", 1);
        history.faults(&read(read_numbers))
    }

    #[test]
    fn each_kind_of_fault_is_noticed() {
        assert_eq!(faults(&[0]), [""; 0]);
        assert_eq!(faults(&[0, 1, 2, 3]), [""; 0]);
        assert_eq!(faults(&[0, 4]), [""; 0]);
        assert!(faults(&[1, 2, 3])[0].contains("lost"));
        assert!(faults(&[0, 1, 3])[0].contains("of batch"));
        assert!(faults(&[0, 4, 4])[0].contains("twice"));
        assert!(faults(&[4, 0])[0].contains("out of order"));
        assert!(faults(&[0, 5])[0].contains("never sent"));
        let mut damaged = read(&[0]);
        damaged[0].body[20] ^= 1;
        let mut history = History::default();
        history.send("d", 1);
        assert!(history.faults(&damaged)[0].contains("damaged"));
        let mut gap = read(&[0]);
        gap.extend(read(&[0, 0, 4]).split_off(2));
        history.send("d", 4);
        assert!(history.faults(&gap)[0].contains("follows"));
    }
}
