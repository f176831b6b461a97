//! What one device's presence may make the hub hold, and its clocks.

/// Largest event, properties included, bytes; a larger one ends the connection [IoT Hub: quotas-throttling].
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// Events that wait for their answer; above it nothing is read. A commit's time of them is what one connection's rate is made
/// of.
pub const EVENT_WAITING_MAX: usize = 4096;

/// Bytes of events that wait for their answer; above it nothing is read.
pub const EVENT_WAITING_BYTES_MAX: usize = 1024 * 1024;

/// How long events, settlements and subscriptions wait for room in the engine before the connection is ended as throttled,
/// milliseconds.
pub const REFUSED_MS_MAX: u64 = 5_000;

/// How soon a request that met a full engine is asked again, milliseconds.
pub const RETRY_MS: u64 = 5;

const _: () = assert!(EVENT_WAITING_BYTES_MAX > EVENT_BYTES_MAX);
