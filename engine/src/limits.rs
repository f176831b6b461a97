//! What bounds everything that a caller can make a shard hold.

use registry::limits::{DEVICE_ID_BYTES_MAX, GROUP_COUNT_MAX};

use crate::event::EVENT_HEADER_BYTES;

/// Partitions that a hub may have at most [IoT Hub: 2 to 32 by default].
pub const PARTITION_COUNT_MAX: u16 = 32;

/// Checkpoints that one partition keeps at most. More than there can be groups at a time: a crash between the deletion of
/// a group and the drop of its checkpoint leaves one behind that nobody can name any more.
pub const CHECKPOINT_COUNT_MAX: usize = 1024;

/// Deleted groups that a partition remembers, so that a request that was on its way meets an answer and not a ghost.
pub const DROPPED_GROUP_COUNT_MAX: usize = 1024;

/// Readers without epoch that may read one partition for one group at a time [Event Hubs quotas].
pub const READERS_PER_GROUP_MAX: u32 = 5;

/// Longest name of a reader that is kept for texts, in bytes; what is longer is cut.
pub const READER_NAME_BYTES_MAX: usize = 256;

/// Most bytes of records in one reply to a reader, whatever it asks for: what a stalled reader can hold of the tail.
pub const READ_BYTES_MAX: u32 = 1 << 20;

/// Most events in one reply to a reader.
pub const READ_EVENT_COUNT_MAX: u32 = 16 * 1024;

/// Most commits of the tail that one reply gathers.
pub const READ_SLICE_COUNT_MAX: usize = 256;

/// Bytes of records that one partition hands to its readers in one turn; the rest waits for the next turn, so that
/// readers that catch up do not hold up those who send.
pub const READ_BYTES_PER_TURN: usize = 4 << 20;

/// Most identities in one page of a list [IoT Hub: at most 1000 per query], and one that tells whether there are more.
pub const DEVICE_PAGE_COUNT_MAX: u32 = 1001;

/// Most changes of identities in one request: what a shard does of them in one turn.
pub const DEVICE_CHANGE_COUNT_MAX: usize = 1000;

/// Registrations that one question for a group's looks at, whomever they are by: what a shard does of it in one turn.
pub const REGISTRATIONS_PER_QUESTION: usize = 10_000;

/// Monitoring events that wait for the caller to fetch them; what comes on top is counted and dropped.
pub const MONITOR_EVENT_COUNT_MAX: usize = 4096;

/// Receipts in one batch at most [IoT Hub: iot-hub-devguide-messages-c2d, 64 messages].
pub const RECEIPT_BATCH_COUNT_MAX: usize = 64;

/// How long a receipt waits for others before a batch is made of what there is [IoT Hub: 15 seconds].
pub const RECEIPT_BATCH_DELAY_MS: u64 = 15_000;

/// Most commands or batches in one reply to a receiver, whatever it asks for.
pub const RECEIVE_COUNT_MAX: u32 = 1000;

/// Longest message id, in bytes [IoT Hub: iot-hub-devguide-messages-construct, 128 characters].
pub const MESSAGE_ID_BYTES_MAX: usize = 128;

/// Longest address of a subscription, bytes: the longest device id with every character escaped, and fixed words.
pub const SUBSCRIPTION_BYTES_MAX: usize = 512;

/// What each waiting command counts against the limit of waiting bytes besides its message: its place in memory.
pub const COMMAND_OVERHEAD_BYTES: u64 = 128;

/// Bytes that stand in front of a command's message in the journal at most: the fixed fields, the device's id and the
/// message id.
pub const COMMAND_HEAD_BYTES_MAX: usize = 64 + DEVICE_ID_BYTES_MAX + MESSAGE_ID_BYTES_MAX;

/// Queues in which one turn looks for what has expired and for locks that are over; the others wait for the next turn.
pub const SWEPT_QUEUES_PER_TURN: usize = 256;

/// When to try again what the journal did not take, and nobody asked for.
pub const SWEEP_RETRY_MS: u64 = 1000;

/// Bytes that stand in front of a record's message besides its annotations: header and device id.
pub const EVENT_STAMP_BYTES_MAX: usize = EVENT_HEADER_BYTES + DEVICE_ID_BYTES_MAX;

const _: () =
    assert!(DEVICE_ID_BYTES_MAX <= u8::MAX as usize, "the stored header has one byte for the id's length");
const _: () = assert!(READ_BYTES_PER_TURN >= READ_BYTES_MAX as usize, "a turn serves at least one reader");
const _: () =
    assert!(MESSAGE_ID_BYTES_MAX <= u8::MAX as usize, "stored texts have one byte for their length");
const _: () = assert!(CHECKPOINT_COUNT_MAX >= GROUP_COUNT_MAX, "each group has room for its checkpoint");

/// Bounds that a hub's owner may set; the documented values are the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest event in bytes, message and annotations together [IoT Hub: 256 KiB].
    pub event_bytes_max: u32,
    /// Live sessions in one partition at most.
    pub session_count_max: u32,
    /// Readers of one partition at most, over all groups.
    pub reader_count_max: u32,
    /// Receivers of one partition's receipts at most; each session may have a receiver of commands besides.
    pub receipt_receiver_count_max: u32,
    /// Appends of one partition that wait for the disk; what comes on top is refused as busy.
    pub append_waiting_max: u32,
    /// Answers of one partition that wait for its journal; what comes on top is refused as busy.
    pub change_waiting_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_bytes_max: 256 * 1024,
            session_count_max: 1 << 20,
            reader_count_max: 1024,
            receipt_receiver_count_max: 1024,
            append_waiting_max: 64 * 1024,
            change_waiting_max: 64 * 1024,
        }
    }
}
