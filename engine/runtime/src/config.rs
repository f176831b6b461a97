//! What a run is given.

use std::path::{Path, PathBuf};

use engine::request::PartitionId;
use engine::shard::ShardConfig;

use crate::limits::{CONNECTION_COUNT_MAX_DEFAULT, STOP_TIMEOUT_MS_DEFAULT};

/// How many cores, which, and where the hub's data lie.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Executors to run: 1 to 256. Nothing on disk depends on it.
    pub core_count: u16,
    /// The CPU of each executor; none: the kernel places them.
    pub pin: Option<Vec<usize>>,
    /// The hub's data directory; see [`partition_dir`].
    pub data_dir: PathBuf,
    /// The hub.
    pub shard: ShardConfig,
    /// Connections that each core takes at most.
    pub connection_count_max: u32,
    /// How long a stop may take in all, milliseconds.
    pub stop_timeout_ms: u64,
    /// How much longer each sync of a log is made to take, milliseconds: 0 but where the behaviour over a slower disk is measured.
    pub sync_delay_ms: u64,
}

impl RuntimeConfig {
    /// One core, placed by the kernel.
    pub fn new(data_dir: impl Into<PathBuf>, shard: ShardConfig) -> Self {
        Self {
            core_count: 1,
            pin: None,
            data_dir: data_dir.into(),
            shard,
            connection_count_max: CONNECTION_COUNT_MAX_DEFAULT,
            stop_timeout_ms: STOP_TIMEOUT_MS_DEFAULT,
            sync_delay_ms: 0,
        }
    }
}

/// Where a partition lies: `<data>/partitions/0007`, with its event log in `events` and its journal in `journal` below.
pub fn partition_dir(data_dir: &Path, partition: PartitionId) -> PathBuf {
    data_dir.join("partitions").join(format!("{:04}", partition.0))
}
