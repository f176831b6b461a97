//! A segment's sparse index: where some of its records lie, by offset and by time.

use crate::Offset;
use crate::record::read_u64;

/// Bytes of one entry in a footer.
pub(crate) const ENTRY_BYTES: usize = 24;

/// One record's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) offset: Offset,
    pub(crate) time_ms: u64,
    pub(crate) position: u64,
}

/// Entries in rising order of all three, about one per stride of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    entries: Vec<IndexEntry>,
}

impl Index {
    /// Add a record's place if it lies a stride behind the last one; called in the order of records. A place that is
    /// already covered is ignored, so that a walk over a poor index improves it.
    pub(crate) fn note(&mut self, entry: IndexEntry, stride_bytes: u64) {
        match self.entries.last() {
            Some(last) if entry.position < last.position + stride_bytes || entry.offset <= last.offset => {}
            _ => self.entries.push(entry),
        }
    }

    /// The last entry at or before a record.
    pub(crate) fn by_offset(&self, offset: Offset) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        after.checked_sub(1).map(|at| self.entries[at])
    }

    /// The last entry whose record is older than a time: the first record that is not lies behind it.
    pub(crate) fn before_time(&self, time_ms: u64) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| entry.time_ms < time_ms);
        after.checked_sub(1).map(|at| self.entries[at])
    }

    /// The first entry that lies behind a position and names a later record.
    pub(crate) fn behind(&self, position: u64, offset: Offset) -> Option<IndexEntry> {
        let at = self.entries.partition_point(|entry| entry.position <= position || entry.offset <= offset);
        self.entries.get(at).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Append the entries' bytes.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        for entry in &self.entries {
            into.extend_from_slice(&entry.offset.0.to_le_bytes());
            into.extend_from_slice(&entry.time_ms.to_le_bytes());
            into.extend_from_slice(&entry.position.to_le_bytes());
        }
    }

    /// From entries' bytes whose checksum was verified; `None` where they are not in order after all.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Index> {
        let entries: Vec<IndexEntry> = bytes
            .chunks_exact(ENTRY_BYTES)
            .map(|entry| IndexEntry {
                offset: Offset(read_u64(entry, 0)),
                time_ms: read_u64(entry, 8),
                position: read_u64(entry, 16),
            })
            .collect();
        let rising = entries.windows(2).all(|pair| {
            pair[0].offset < pair[1].offset
                && pair[0].time_ms <= pair[1].time_ms
                && pair[0].position < pair[1].position
        });
        (rising && bytes.len().is_multiple_of(ENTRY_BYTES)).then_some(Index { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let mut index = Index::default();
        for at in 0..100 {
            let entry = IndexEntry { offset: Offset(at), time_ms: at / 10, position: 12288 + at * 100 };
            index.note(entry, 1000);
        }
        index
    }

    #[test]
    fn it_keeps_one_entry_per_stride() {
        assert_eq!(index().len(), 10);
    }

    #[test]
    fn it_finds_the_entry_at_or_before() {
        let index = index();
        assert_eq!(index.by_offset(Offset(0)).unwrap().offset, Offset(0));
        assert_eq!(index.by_offset(Offset(29)).unwrap().offset, Offset(20));
        assert_eq!(index.by_offset(Offset(30)).unwrap().offset, Offset(30));
        assert_eq!(index.before_time(0), None);
        assert_eq!(index.before_time(3).unwrap().offset, Offset(20));
        assert_eq!(index.behind(12288, Offset(0)).unwrap().offset, Offset(10));
        assert_eq!(index.behind(12288 + 9900, Offset(95)), None);
    }

    #[test]
    fn it_comes_back_from_bytes_and_refuses_disorder() {
        let index = index();
        let mut bytes = Vec::new();
        index.encode(&mut bytes);
        assert_eq!(Index::decode(&bytes), Some(index));
        bytes.rotate_left(ENTRY_BYTES);
        assert_eq!(Index::decode(&bytes), None);
        assert_eq!(Index::decode(&bytes[1..]), None);
    }
}
