//! Limits on what a peer can make us hold or read.

/// Header fields of one request: what is on the stack while a head is looked at.
pub(crate) const HEADER_COUNT_MAX: usize = 64;

/// Bytes of one chunk's size line, extensions included. Nobody sends extensions; a kilobyte of them is an attack.
pub(crate) const CHUNK_LINE_BYTES_MAX: usize = 256;

/// Bytes of the trailer section behind the last chunk, which is read and dropped.
pub(crate) const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Bytes of one WebSocket frame. They are passed on as they come, so this bounds no memory; a library that puts more into one
/// frame means something else than a stream of AMQP or MQTT.
pub(crate) const FRAME_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What one connection accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, blank line included. A SAS token with every character escaped is below 4 KiB.
    pub head_bytes_max: usize,
    /// Bytes of a body, without its chunking.
    pub body_bytes_max: u64,
}

impl Default for Limits {
    /// 32 KiB of head; 1 MiB of body, four times the largest event or batch of them.
    fn default() -> Self {
        Self { head_bytes_max: 32 * 1024, body_bytes_max: 1024 * 1024 }
    }
}
