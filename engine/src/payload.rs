//! Runs of stored events that travel to a reader: cloned without a copy, readable from any core.

use std::sync::Arc;

use segment_log::SharedSlice;

use crate::event::{EventError, StoredEvent};
use crate::request::SequenceNumber;

/// A run of events in order and without a gap, as they are stored. A clone costs a reference count.
///
/// Records of sealed segments are served from the map; a run of the tail was copied once when it was first read, and
/// readers of the same run share that copy.
#[derive(Clone, Debug)]
pub struct SharedRecords {
    /// Each follows the one before it; records outside of `first..end` are not part of the run.
    slices: Arc<[SharedSlice]>,
    first: u64,
    end: u64,
    bytes: usize,
}

impl SharedRecords {
    /// No event at all: what a cancelled read is answered with.
    pub(crate) fn empty(at: SequenceNumber) -> Self {
        Self { slices: Arc::new([]), first: at.0, end: at.0, bytes: 0 }
    }

    /// Take slices over that follow each other, once each of their records is known to be an event. What lies behind one
    /// that is none is left out.
    ///
    /// # Errors
    ///
    /// The very first record is no event.
    pub(crate) fn check(first: SequenceNumber, slices: Vec<SharedSlice>) -> Result<Self, EventError> {
        let (mut end, mut bytes) = (first.0, 0);
        for record in slices.iter().flat_map(SharedSlice::iter) {
            assert_eq!(record.offset.0, end, "the log reads without gaps");
            match StoredEvent::decode(SequenceNumber(end), record.time_ms, record.payload) {
                Ok(_) => {}
                Err(error) if end == first.0 => return Err(error),
                Err(_) => break,
            }
            end += 1;
            bytes += record.payload.len();
        }
        Ok(Self { slices: slices.into(), first: first.0, end, bytes })
    }

    /// The part that begins at `from` and stays within the budget: at least one event, at most `event_count_max`, and no
    /// more than `bytes_max` of records beyond the first. None when `from` is not in this run.
    pub(crate) fn part(&self, from: SequenceNumber, event_count_max: u32, bytes_max: u32) -> Option<Self> {
        if !(self.first..self.end).contains(&from.0) {
            return None;
        }
        let count_end = from.0.saturating_add(u64::from(event_count_max.max(1))).min(self.end);
        if from.0 == self.first && count_end == self.end && self.bytes <= bytes_max as usize {
            return Some(self.clone());
        }
        let (mut end, mut bytes) = (from.0, 0);
        for event in self.iter() {
            if event.sequence.0 < from.0 {
                continue;
            }
            let size = stored_bytes(&event);
            if event.sequence.0 >= count_end || (end > from.0 && bytes + size > bytes_max as usize) {
                break;
            }
            end = event.sequence.0 + 1;
            bytes += size;
        }
        Some(Self { slices: self.slices.clone(), first: from.0, end, bytes })
    }

    /// The events in order.
    pub fn iter(&self) -> impl Iterator<Item = StoredEvent<'_>> {
        self.iter_behind(0)
    }

    /// The events behind the first `count`, in order.
    pub fn iter_behind(&self, count: usize) -> impl Iterator<Item = StoredEvent<'_>> {
        let from = self.first.saturating_add(count as u64);
        self.slices
            .iter()
            .flat_map(SharedSlice::iter)
            .filter(move |record| (from..self.end).contains(&record.offset.0))
            .map(|record| {
                StoredEvent::decode(SequenceNumber(record.offset.0), record.time_ms, record.payload)
                    .expect("each record was decoded when the run was made, and its bytes never change")
            })
    }

    /// How many events.
    pub fn len(&self) -> usize {
        usize::try_from(self.end - self.first).expect("a run lies in memory")
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.first == self.end
    }

    /// Bytes of the stored records, without the log's own heads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the first event, or where one would be.
    pub fn first(&self) -> SequenceNumber {
        SequenceNumber(self.first)
    }

    /// The number behind the last event.
    pub fn end(&self) -> SequenceNumber {
        SequenceNumber(self.end)
    }
}

fn stored_bytes(event: &StoredEvent<'_>) -> usize {
    crate::event::EVENT_HEADER_BYTES + event.device.len() + event.annotations.len() + event.message.len()
}
