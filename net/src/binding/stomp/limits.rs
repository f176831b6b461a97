//! What one STOMP connection may make the hub hold besides its device's [`presence`](crate::binding::presence), and its clocks.

/// Largest head of a frame before the device is known, bytes: a token of a few kilobytes.
pub const CONNECT_BYTES_MAX: usize = 16 * 1024;

/// Largest head of a frame of a device that is known, bytes: as many properties as fit an MQTT topic.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How long a connection may take from its first byte to the end of its CONNECT, milliseconds.
pub const CONNECT_MS_MAX: u64 = 15_000;

/// Shortest interval of heart-beats in either direction, milliseconds.
pub const BEAT_MS_MIN: u32 = 5_000;

/// How long a silent device is waited for that promised no heart-beats, milliseconds: as over MQTT.
pub const SILENCE_MS_MAX: u64 = 1_767_000;

/// Commands on the way to one device: sent and not acknowledged. They stay locked meanwhile.
pub const COMMAND_WINDOW: usize = 16;

/// Settlements whose receipts are awaited; above it nothing is read.
pub const SETTLING_MAX: usize = 64;
