//! What one MQTT connection may make the hub hold besides its device's [`presence`](crate::binding::presence), and its clocks.

use crate::binding::presence::limits::{EVENT_BYTES_MAX, EVENT_WAITING_BYTES_MAX};

/// Largest packet of a device that is known, bytes: the largest event with the longest topic.
pub const PACKET_BYTES_MAX: usize = EVENT_BYTES_MAX + 65_535 + 16;

/// Largest CONNECT, bytes: a token of a few kilobytes, a user name and a small will. A peer that is not known yet cannot
/// make us hold more.
pub const CONNECT_BYTES_MAX: usize = 16 * 1024;

/// How long a connection may take from its first byte to the answer to its CONNECT, milliseconds.
pub const CONNECT_MS_MAX: u64 = 15_000;

/// How long a silent device is waited for, whatever keep-alive it asked for, milliseconds
/// [IoT Hub: iot-mqtt-connect-to-iot-hub, 29.45 minutes].
pub const SILENCE_MS_MAX: u64 = 1_767_000;

/// Commands on the way to one device: sent and not acknowledged. They stay locked meanwhile.
pub const COMMAND_WINDOW: u16 = 16;

const _: () = assert!(EVENT_WAITING_BYTES_MAX > PACKET_BYTES_MAX);
