//! What a shard is set up with.

use registry::{DataKey, Policy};
use segment_log::{LogConfig, RetentionConfig};

use crate::access::AccessRules;
use crate::command_rules::CommandRules;
use crate::event::EVENT_HEADER_BYTES;
use crate::limits::{COMMAND_HEAD_BYTES_MAX, EVENT_STAMP_BYTES_MAX, Limits, PARTITION_COUNT_MAX};

/// Settings of a shard: the same for all shards of a hub.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Partitions of the hub, fixed at its first start: 1 to 32.
    pub partition_count: u16,
    /// What tokens are held against, besides keys.
    pub access: AccessRules,
    /// What a caller can make a shard hold.
    pub limits: Limits,
    /// How commands are kept and what is told of them.
    pub commands: CommandRules,
    /// Seals keys at rest.
    pub data_key: DataKey,
    /// The policies of a new hub; empty: the built-in ones with generated keys.
    pub first_policies: Vec<Policy>,
    /// How each event log is kept, retention among it.
    pub events: LogConfig,
    /// How each journal is kept. Nothing of it is retired but by a snapshot.
    pub journal: LogConfig,
    /// Bytes of journal records after which a partition's registry and commands are written as a snapshot and the journal is
    /// cut; or a quarter of what the last snapshot had, where that is more.
    pub snapshot_due_bytes: u64,
}

impl ShardConfig {
    /// Defaults: seven days of events, any host name in tokens, no skew, the documented limits.
    pub fn new(partition_count: u16, data_key: DataKey) -> Self {
        let retention = RetentionConfig { age_ms: Some(7 * 24 * 3_600_000), bytes: None };
        Self {
            partition_count,
            access: AccessRules::default(),
            limits: Limits::default(),
            commands: CommandRules::default(),
            data_key,
            first_policies: Vec::new(),
            // Retention takes whole segments, so one must not stay open for days: an hour late is what age may cost.
            events: LogConfig { retention, roll_age_ms: Some(3_600_000), ..LogConfig::default() },
            // The next segment lies ready at all times: identities and checkpoints can be changed on a full disk.
            journal: LogConfig {
                segment_bytes_first: 1 << 20,
                segment_bytes_max: 16 << 20,
                commit_bytes_max: 512 << 10,
                record_bytes_max: (64 << 10) + COMMAND_HEAD_BYTES_MAX,
                tail_bytes_max: 256 << 10,
                keep_prepared: true,
                ..LogConfig::default()
            },
            snapshot_due_bytes: 16 << 20,
        }
    }

    /// The first setting that is wrong.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if !(1..=PARTITION_COUNT_MAX).contains(&self.partition_count) {
            return Err("partition_count is not within 1 to 32");
        }
        if self.events.check().is_err() || self.journal.check().is_err() {
            return Err("a log's settings do not fit each other");
        }
        if (self.limits.event_bytes_max as usize) + EVENT_STAMP_BYTES_MAX > self.events.record_bytes_max {
            return Err("the largest event with its stamp does not fit a record");
        }
        self.commands.check()?;
        if (self.commands.command_bytes_max as usize) + COMMAND_HEAD_BYTES_MAX > self.journal.record_bytes_max
        {
            return Err("the largest command with its head does not fit a record of the journal");
        }
        // A queue is purged by one record: the head, and nine bytes for each command.
        if (self.commands.queue_depth_max as usize) * 9 + COMMAND_HEAD_BYTES_MAX
            > self.journal.record_bytes_max
        {
            return Err("the purge of the deepest queue does not fit a record of the journal");
        }
        if self.access.token_skew_s > 300 {
            return Err("token_skew_s is not within 0 to 300");
        }
        Ok(())
    }
}

const _: () = assert!(EVENT_STAMP_BYTES_MAX > EVENT_HEADER_BYTES, "a stamp holds the header and the id");
