//! How a log is set up.

use crate::limits::{COMMIT_BYTES_MAX_RANGE, MAIN_START, SEGMENT_BYTES_MAX};
use crate::record::{COMMIT_BYTES, LENGTH_MAX, encoded_bytes};
use crate::retention::RetentionConfig;
use crate::segment;
use crate::storage::BLOCK_BYTES;

/// How a log is set up. All of it may change from one opening to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Length of the first segment's file in bytes. Each is followed by one of twice the length; after
    /// a reopening, only where the last one was more than half full.
    /// Default 4 MiB.
    pub segment_bytes_first: u64,
    /// Where the doubling ends, in bytes. Default 256 MiB, at most 2 GiB.
    pub segment_bytes_max: u64,
    /// Most bytes of one commit, and of each of the up to three write buffers. Default 2 MiB, from 16 KiB to 16 MiB.
    pub commit_bytes_max: usize,
    /// Largest payload of one record, in bytes. Default 1 MiB.
    pub record_bytes_max: usize,
    /// A segment with records is left after this many milliseconds, so that retention by age can take them. Default none.
    pub roll_age_ms: Option<u64>,
    /// What may be removed, and when. Default nothing.
    pub retention: RetentionConfig,
    /// Memory of the newest commits, which are read without the medium, in bytes. Default 8 MiB. What the medium does not
    /// hold in its place yet is kept in addition.
    pub tail_bytes_max: usize,
    /// One place per so many bytes is remembered in a segment's index. Default 64 KiB, at least a block.
    pub index_stride_bytes: u64,
    /// How much is brought into memory at once for a reader, in bytes. Default 1 MiB, at least a block.
    pub load_bytes: usize,
    /// Hold the next segment ready at all times, as a reserve for a full disk, and not only from when the current one is
    /// half full. Default true.
    pub keep_prepared: bool,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes_first: 4 << 20,
            segment_bytes_max: 256 << 20,
            commit_bytes_max: 2 << 20,
            record_bytes_max: 1 << 20,
            roll_age_ms: None,
            retention: RetentionConfig::default(),
            tail_bytes_max: 8 << 20,
            index_stride_bytes: 64 << 10,
            load_bytes: 1 << 20,
            keep_prepared: true,
        }
    }
}

/// A field of [`LogConfig`] that is out of its range, or does not fit the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigField {
    /// `segment_bytes_first`: whole blocks, and room for a whole commit and a footer.
    SegmentBytesFirst,
    /// `segment_bytes_max`: whole blocks, from `segment_bytes_first` to 2 GiB.
    SegmentBytesMax,
    /// `commit_bytes_max`: whole blocks, from 16 KiB to 16 MiB.
    CommitBytesMax,
    /// `record_bytes_max`: a batch of one record of this size must fit a commit.
    RecordBytesMax,
    /// `index_stride_bytes`: at least a block.
    IndexStrideBytes,
    /// `load_bytes`: whole blocks, at least one.
    LoadBytes,
}

impl LogConfig {
    /// Most bytes that one batch may take, its records' headers and padding included.
    pub fn batch_bytes_max(&self) -> usize {
        // Besides its own, a buffer holds the carried part of a block and the entry that begins the commit.
        self.commit_bytes_max.saturating_sub(BLOCK_BYTES + COMMIT_BYTES)
    }

    /// Check each field; the first one that is wrong.
    pub fn check(&self) -> Result<(), ConfigField> {
        let block = BLOCK_BYTES as u64;
        if !COMMIT_BYTES_MAX_RANGE.contains(&self.commit_bytes_max)
            || !self.commit_bytes_max.is_multiple_of(BLOCK_BYTES)
        {
            return Err(ConfigField::CommitBytesMax);
        }
        if self.record_bytes_max > LENGTH_MAX || encoded_bytes(self.record_bytes_max) > self.batch_bytes_max()
        {
            return Err(ConfigField::RecordBytesMax);
        }
        if self.index_stride_bytes < block {
            return Err(ConfigField::IndexStrideBytes);
        }
        if self.load_bytes < BLOCK_BYTES || !self.load_bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(ConfigField::LoadBytes);
        }
        let room = segment::data_limit(self.segment_bytes_first, self.index_stride_bytes);
        if !self.segment_bytes_first.is_multiple_of(block) || room < MAIN_START + self.commit_bytes_max as u64
        {
            return Err(ConfigField::SegmentBytesFirst);
        }
        let range = self.segment_bytes_first..=SEGMENT_BYTES_MAX;
        if !range.contains(&self.segment_bytes_max) || !self.segment_bytes_max.is_multiple_of(block) {
            return Err(ConfigField::SegmentBytesMax);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_sound_and_each_field_is_checked() {
        let good = LogConfig::default();
        assert_eq!(good.check(), Ok(()));
        let wrong = [
            (LogConfig { commit_bytes_max: 20_000, ..good.clone() }, ConfigField::CommitBytesMax),
            (LogConfig { record_bytes_max: 2 << 20, ..good.clone() }, ConfigField::RecordBytesMax),
            (LogConfig { index_stride_bytes: 100, ..good.clone() }, ConfigField::IndexStrideBytes),
            (LogConfig { load_bytes: 0, ..good.clone() }, ConfigField::LoadBytes),
            (LogConfig { segment_bytes_first: 2 << 20, ..good.clone() }, ConfigField::SegmentBytesFirst),
            (LogConfig { segment_bytes_max: 1 << 20, ..good.clone() }, ConfigField::SegmentBytesMax),
        ];
        for (config, field) in wrong {
            assert_eq!(config.check(), Err(field));
        }
    }
}
