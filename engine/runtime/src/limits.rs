//! The limits of the runtime, each with its unit and its reason.

/// Cores that a hub may use. More than any machine this is meant for; `CoreId` has room for it.
pub const CORE_COUNT_MAX: u16 = 256;

/// Requests that one connection may have unanswered: enough for a gateway to keep a commit of every partition busy while the
/// next one gathers. One connection's replies then cost at most about two megabytes.
pub const CONNECTION_OUTSTANDING_MAX: u32 = 16 * 1024;

/// Connections per core unless configured: what the descriptors of a large machine allow.
pub const CONNECTION_COUNT_MAX_DEFAULT: u32 = 250_000;

/// Requests from one core to another that are not answered yet. Each holds the room of its reply on the way back, so this
/// is also the bound on replies in that mailbox. Large enough that a core never starves while the other commits what it was given.
pub const MAILBOX_OUTSTANDING_MAX: u32 = 65_536;

/// Requests without a reply (and calls) that may lie in one mailbox, not taken yet. They are small, and a core takes all
/// that lies there in one turn.
pub const MAILBOX_UNANSWERED_MAX: u32 = 65_536;

/// Bytes of events that may lie in one mailbox, not taken yet: some turns of a core at its highest rate of ingest.
pub const MAILBOX_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An append alone may exceed [`MAILBOX_BYTES_MAX`] only when the mailbox is empty; this is the largest block at all,
/// because an event's place in it is 32 bits wide.
pub const MAILBOX_BLOCK_BYTES_MAX: usize = 1 << 30;

/// Capacity above which an emptied block is given back to the allocator instead of being used again.
pub const MAILBOX_BLOCK_KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Resolution of a core's timing wheel, milliseconds. Keep-alives and deadlines are seconds; a slot of 64 ms keeps a core
/// with ten thousand connections at no more than 16 wake-ups per second.
pub const WHEEL_TICK_MS: u64 = 64;

/// Slots of the wheel. 1024 of them span 65 s; a later deadline is looked at once per turn of the wheel.
pub const WHEEL_SLOT_COUNT: usize = 1024;

/// How long a stop may take in all, milliseconds, unless configured.
pub const STOP_TIMEOUT_MS_DEFAULT: u64 = 10_000;

/// The part of a stop that connections get to say goodbye, in hundredths; the rest is for the disk.
pub const STOP_CONNECTIONS_PERCENT: u64 = 60;

/// glommio's preemption timer, milliseconds. It must not fire before the first task of a round has run: the executor would
/// sleep on tasks that are ready, until something else wakes it. So it is far longer than a thread is kept off its CPU;
/// that the rings are looked at often is seen to by each turn of a core.
pub const PREEMPT_MS: u64 = 1000;

/// The longest that a core's loop sleeps, milliseconds: whatever way of waking it might be lost in glommio, it is lost for
/// a second. Costs an idle core some tens of microseconds per second.
pub const SLEEP_MS_MAX: u64 = 1000;

/// Depth of a core's submission rings. A core has at most a few disk actions per partition in flight; sockets need one
/// entry each only while they are armed.
pub const RING_DEPTH: usize = 256;

/// Memory that each core registers with io_uring. Write buffers come from the ordinary allocator, so the smallest
/// that glommio takes.
pub const RING_MEMORY_BYTES: usize = 64 * 1024;

const _: () = assert!(WHEEL_SLOT_COUNT.is_multiple_of(64));
const _: () = assert!(MAILBOX_OUTSTANDING_MAX > CONNECTION_OUTSTANDING_MAX);
const _: () = assert!(MAILBOX_BLOCK_BYTES_MAX < u32::MAX as usize);
const _: () = assert!(STOP_CONNECTIONS_PERCENT < 100);
