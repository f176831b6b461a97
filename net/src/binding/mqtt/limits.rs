//! What one MQTT connection may make the hub hold, and its clocks.

/// Largest packet of a device that is known, bytes: the largest event with the longest topic.
pub const PACKET_BYTES_MAX: usize = EVENT_BYTES_MAX + 65_535 + 16;

/// Largest CONNECT, bytes: a token of a few kilobytes, a user name and a small will. A peer that is not known yet cannot
/// make us hold more.
pub const CONNECT_BYTES_MAX: usize = 16 * 1024;

/// Largest event, properties included, bytes; a larger one ends the connection [IoT Hub: quotas-throttling].
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// How long a connection may take from its first byte to the answer to its CONNECT, milliseconds.
pub const CONNECT_MS_MAX: u64 = 15_000;

/// How long a silent device is waited for, whatever keep-alive it asked for, milliseconds
/// [IoT Hub: iot-mqtt-connect-to-iot-hub, 29.45 minutes].
pub const SILENCE_MS_MAX: u64 = 1_767_000;

/// Commands on the way to one device: sent and not acknowledged. They stay locked meanwhile.
pub const COMMAND_WINDOW: u16 = 16;

/// Events that wait for their answer; above it nothing is read.
pub const EVENT_WAITING_MAX: usize = 1024;

/// Bytes of events that wait for their answer; above it nothing is read.
pub const EVENT_WAITING_BYTES_MAX: usize = 1024 * 1024;

/// How long events wait for room in the engine before the connection is ended as throttled, milliseconds.
pub const REFUSED_MS_MAX: u64 = 5_000;

/// How soon a request that met a full engine is asked again, milliseconds.
pub const RETRY_MS: u64 = 5;

const _: () = assert!(PACKET_BYTES_MAX > EVENT_BYTES_MAX && EVENT_WAITING_BYTES_MAX > PACKET_BYTES_MAX);
