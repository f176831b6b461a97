//! Frames and protocol headers [AMQP 2.2, 2.3], and the buffer that joins cut ones.

use crate::limits::KEPT_BUFFER_BYTES_MAX;

/// `AMQP` 0 1.0.0: the protocol itself.
pub const AMQP_HEADER: [u8; 8] = *b"AMQP\x00\x01\x00\x00";
/// `AMQP` 3 1.0.0: SASL first.
pub const SASL_HEADER: [u8; 8] = *b"AMQP\x03\x01\x00\x00";

/// Bytes of a frame's fixed head.
pub const FRAME_HEAD_BYTES: usize = 8;

/// What a frame's type byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// 0.
    Amqp,
    /// 1.
    Sasl,
}

/// A frame taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// AMQP or SASL.
    pub kind: FrameKind,
    /// The channel; without meaning in SASL frames.
    pub channel: u16,
    /// The performative and what follows it. Empty in a heartbeat.
    pub body: &'a [u8],
}

/// Why bytes are not a frame. The connection cannot go on: there is no next frame to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Smaller than a frame's head.
    #[error("a frame of {frame_bytes} bytes is smaller than its head")]
    TooSmall {
        /// The size it claims.
        frame_bytes: u32,
    },
    /// Larger than we said that we take.
    #[error("a frame of {frame_bytes} bytes exceeds the limit of {frame_bytes_max}")]
    TooLarge {
        /// The size it claims.
        frame_bytes: u32,
        /// The limit at this time.
        frame_bytes_max: u32,
    },
    /// A data offset that points into the head or beyond the end.
    #[error("a data offset of {doff} is impossible")]
    InvalidDataOffset {
        /// The offset, in words of four bytes.
        doff: u8,
    },
    /// A type that is neither AMQP nor SASL, or not the one due.
    #[error("frame type {frame_type} is not expected here")]
    UnexpectedType {
        /// The type.
        frame_type: u8,
    },
}

impl<'a> Frame<'a> {
    /// Takes one whole frame apart; `bytes` is as long as its size field says. Extended headers are passed over.
    pub fn decode(bytes: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let &[s0, s1, s2, s3, doff, frame_type, c0, c1, ..] = bytes else {
            return Err(FrameError::TooSmall { frame_bytes: bytes.len() as u32 });
        };
        debug_assert_eq!(u32::from_be_bytes([s0, s1, s2, s3]) as usize, bytes.len());
        let body_at = usize::from(doff) * 4;
        if body_at < FRAME_HEAD_BYTES || body_at > bytes.len() {
            return Err(FrameError::InvalidDataOffset { doff });
        }
        let kind = match frame_type {
            0 => FrameKind::Amqp,
            1 => FrameKind::Sasl,
            _ => return Err(FrameError::UnexpectedType { frame_type }),
        };
        Ok(Frame { kind, channel: u16::from_be_bytes([c0, c1]), body: &bytes[body_at..] })
    }
}

/// Begins a frame; append the body, then [`end`].
pub(crate) fn begin(out: &mut Vec<u8>, kind: FrameKind, channel: u16) -> usize {
    let start = out.len();
    let [c0, c1] = channel.to_be_bytes();
    out.extend_from_slice(&[0, 0, 0, 0, 2, kind as u8, c0, c1]);
    start
}

/// Fills in the size of the frame that began at `start`.
pub(crate) fn end(out: &mut [u8], start: usize) {
    let size = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// An empty frame: the heartbeat.
pub(crate) fn heartbeat(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, 0, 0, 8, 2, 0, 0, 0]);
}

/// What a peer sent in parts: the bytes of a cut frame until the rest arrives, and the last message that came in several
/// frames. It stands beside the [`crate::Connection`], so that events borrow from it and not from the connection.
#[derive(Debug, Default)]
pub struct Inbound {
    kept: Vec<u8>,
    /// How much of `kept` was handed out by the last call.
    taken: usize,
    pub(crate) message: AssembledMessage,
}

/// A delivery of several frames, whole.
#[derive(Debug, Default)]
pub(crate) struct AssembledMessage {
    pub(crate) tag: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// What the connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Eight bytes of a protocol header.
    Header,
    /// A frame of at most this many bytes.
    Frame { bytes_max: u32 },
}

impl Inbound {
    /// Bytes held between calls.
    pub fn kept_bytes(&self) -> usize {
        self.kept.len() - self.taken
    }

    /// The next whole header or frame, in place where it lies whole in `input`; otherwise all input is taken and kept.
    /// `input` moves on by what was taken. Never keeps more than one frame beyond what [`Inbound::keep`] put there.
    pub(crate) fn next<'a, 'i: 'a>(
        &'a mut self,
        input: &mut &'i [u8],
        due: Due,
    ) -> Result<Option<(&'a [u8], &'a mut AssembledMessage)>, FrameError> {
        self.release();
        if self.kept.is_empty() {
            return match due.unit_bytes(input)? {
                Some(length) if length <= input.len() => {
                    let (unit, rest) = input.split_at(length);
                    *input = rest;
                    Ok(Some((unit, &mut self.message)))
                }
                _ => {
                    self.kept.extend_from_slice(input);
                    *input = &[];
                    Ok(None)
                }
            };
        }
        // First enough to know the size, then the rest.
        if due.unit_bytes(&self.kept)?.is_none() {
            self.fill(input, 4);
        }
        let Some(length) = due.unit_bytes(&self.kept)? else { return Ok(None) };
        self.fill(input, length);
        if self.kept.len() < length {
            return Ok(None);
        }
        self.taken = length;
        Ok(Some((&self.kept[..length], &mut self.message)))
    }

    /// Keeps all of `input` for later, but not more than `bytes_max` in all. False when that is exceeded.
    pub(crate) fn keep(&mut self, input: &mut &[u8], bytes_max: usize) -> bool {
        self.release();
        if self.kept.len() + input.len() > bytes_max {
            return false;
        }
        self.kept.extend_from_slice(input);
        *input = &[];
        true
    }

    /// Lets go of what the last call handed out.
    fn release(&mut self) {
        if self.taken > 0 {
            self.kept.drain(..self.taken);
            self.taken = 0;
            if self.kept.is_empty() && self.kept.capacity() > KEPT_BUFFER_BYTES_MAX {
                self.kept = Vec::new();
            }
        }
        if !self.message.payload.is_empty() {
            self.message = AssembledMessage::default();
        }
    }

    /// Takes from `input` until `kept` has `length` bytes.
    fn fill(&mut self, input: &mut &[u8], length: usize) {
        let missing = length.saturating_sub(self.kept.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.kept.extend_from_slice(taken);
        *input = rest;
    }
}

impl Due {
    /// Length of the unit that begins with `bytes`, once they tell.
    fn unit_bytes(self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let bytes_max = match self {
            Due::Header => return Ok(Some(8)),
            Due::Frame { bytes_max } => bytes_max,
        };
        let Some(size) = bytes.first_chunk() else { return Ok(None) };
        let frame_bytes = u32::from_be_bytes(*size);
        if (frame_bytes as usize) < FRAME_HEAD_BYTES {
            return Err(FrameError::TooSmall { frame_bytes });
        }
        if frame_bytes > bytes_max {
            return Err(FrameError::TooLarge { frame_bytes, frame_bytes_max: bytes_max });
        }
        Ok(Some(frame_bytes as usize))
    }
}
