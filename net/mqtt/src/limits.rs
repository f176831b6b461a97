//! The crate's fixed limits. What depends on the listener stands in [`crate::Config`].

/// Largest body that a packet can have, bytes: four digits of seven bits [MQTT-3.1.1 2.2.3].
pub const BODY_BYTES_MAX: usize = 0x0fff_ffff;

/// Bytes of the longest fixed header: the first byte and the length's four.
pub const HEADER_BYTES_MAX: usize = 5;

/// Most topic filters in one SUBSCRIBE or UNSUBSCRIBE. The protocol has no limit; a device has a handful.
pub const FILTER_COUNT_MAX: usize = 64;

/// Largest buffer that an idle connection keeps for its next cut packet, bytes. Nothing: most packets arrive whole.
pub const KEPT_BUFFER_BYTES_MAX: usize = 0;

const _: () = assert!(BODY_BYTES_MAX == 128 * 128 * 128 * 128 - 1);
