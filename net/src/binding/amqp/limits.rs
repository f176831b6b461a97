//! What one AMQP connection may make the hub hold, and its clocks.

/// Tokens of one connection: more than the ten thousand devices of a large gateway.
pub const GRANT_COUNT_MAX: usize = 16 * 1024;

/// Sessions of one connection: libraries with one session per device use as many as there are devices.
pub const SESSION_COUNT_MAX: u16 = 16 * 1024;

/// Links of one connection: one per device and the few for tokens.
pub const LINK_COUNT_MAX: u32 = 32 * 1024;

/// Largest message that a link takes before it is detached, bytes; told in each attach [IoT Hub: 1 MiB].
pub const MESSAGE_BYTES_MAX: u64 = 1024 * 1024;

/// Largest delivery of telemetry, single or batch, bytes; larger ones are rejected [IoT Hub: quotas-throttling].
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// Largest frame that is taken, bytes [as the service says].
pub const FRAME_BYTES_MAX: u32 = 64 * 1024;

/// What is told as idle time-out, milliseconds [as the service says].
pub const IDLE_TIMEOUT_MS: u32 = 240_000;

/// Transfers that a session may send before it hears of a larger window [as the service says].
pub const INCOMING_WINDOW: u32 = 5000;

/// Credit of a telemetry link: deliveries that it may have on the way or unanswered.
pub const TELEMETRY_CREDIT: u32 = 1000;

/// Credit of a request link, which is also how many replies wait for a peer that does not take them.
pub const REQUEST_CREDIT: u32 = 100;

/// Appends of one connection that wait for their answer; above it nothing is read. Below what the runtime allows a
/// connection, so that there is room for requests of other kinds.
pub const APPEND_WAITING_MAX: usize = 15 * 1024;

/// Events of one read at most.
pub const READ_EVENT_COUNT_MAX: u32 = 2048;

/// Events that a link with checkpoints may leave unsettled.
pub const CHECKPOINT_OPEN_MAX: usize = 2048;

/// How long a delivery waits for room in the engine before it is rejected as throttled, milliseconds.
pub const REFUSED_MS_MAX: u64 = 5_000;

/// How long a receiver that drains its credit waits for events that may be there, milliseconds.
pub const DRAIN_WAIT_MS: u64 = 20;

/// How soon a request that met a full engine is asked again, milliseconds.
pub const RETRY_MS: u64 = 5;

/// How long a connection may go without any token, milliseconds [Service Bus: 60 s without links].
pub const TOKENLESS_MS_MAX: u64 = 60_000;

/// How long the peer has to answer a close, milliseconds.
pub const CLOSE_ANSWER_MS_MAX: u64 = 1_000;

/// Longest message id of a request, encoded, in bytes: it is kept for the reply.
pub const MESSAGE_ID_BYTES_MAX: usize = 512;

/// Longest name of a receiver that is kept, bytes; the rest is cut.
pub const RECEIVER_NAME_BYTES_MAX: usize = 256;

/// Credit of a link on which commands come in [as the service says].
pub const COMMAND_CREDIT: u32 = 1000;

/// Commands of one connection that wait to be durable; above it nothing is read.
pub const ENQUEUE_WAITING_MAX: usize = 1024;

/// Bytes of such commands; above it nothing is read. Each is 64 KiB at most.
pub const ENQUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Deliveries that a link may leave unsettled where a lock stands behind each. Above what a device's queue holds.
pub const UNSETTLED_COUNT_MAX: usize = 1024;

/// How long something that is locked waits for the peer's window before it is given back, milliseconds: half of the
/// shortest usual lock.
pub const QUEUED_MS_MAX: u64 = 30_000;

/// No lock lasts longer, milliseconds [IoT Hub: locks of feedback last 5 to 300 s].
pub const LOCK_MS_MAX: u64 = 300_000;

const _: () = assert!(EVENT_BYTES_MAX as u64 <= MESSAGE_BYTES_MAX);
