//! The crate's fixed limits. What depends on the listener stands in [`crate::Config`].

/// Smallest maximum frame size that a peer may ask for, bytes [AMQP 2.4.1, MIN-MAX-FRAME-SIZE].
pub const FRAME_BYTES_MIN: u32 = 512;

/// Largest frame before the peer's open is known, bytes: a SAS token of a few kilobytes fits into a SASL PLAIN response,
/// and a peer that has not authenticated cannot make us hold more. (The specification has 512, which real tokens exceed.)
pub const HANDSHAKE_FRAME_BYTES_MAX: u32 = 8192;

/// How deep compound and described values may nest. Real messages nest three or four deep.
pub const NESTING_MAX: u32 = 32;

/// Most elements of an array whose elements have no bytes (null, true, list0): the only place where a count is not bounded
/// by the bytes that follow it.
pub const EMPTY_ELEMENT_COUNT_MAX: u32 = 4096;

/// Largest delivery tag, bytes [AMQP 2.8.7].
pub const DELIVERY_TAG_BYTES_MAX: usize = 32;

/// Longest link name, bytes. Clients use a UUID or an address with one.
pub const LINK_NAME_BYTES_MAX: usize = 1024;

/// Most frames of one delivery: 1 MiB in frames of 512 bytes takes 2300, so only a transfer that never ends has more.
pub const FRAMES_PER_DELIVERY_MAX: u32 = 16384;

/// Largest buffer that an idle connection keeps for its next cut frame, bytes.
pub const KEPT_BUFFER_BYTES_MAX: usize = 4096;

const _: () = assert!(HANDSHAKE_FRAME_BYTES_MAX >= FRAME_BYTES_MIN);
