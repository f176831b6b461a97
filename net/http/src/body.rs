//! A request's body, by length or in chunks, handed on in the pieces in which it arrives.

use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use crate::refusal::Fault;

/// Reads one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body {
    state: BodyState,
    /// Bytes that may still come.
    allowance: u64,
}

#[derive(Clone, Copy, Debug)]
enum BodyState {
    Done,
    Length { left: u64 },
    Chunks(Chunk),
}

/// Where in the grammar of chunks \[RFC 9112 7.1\].
#[derive(Clone, Copy, Debug)]
enum Chunk {
    Size { size: u64, digits: u32 },
    Extension { size: u64, bytes: usize },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer { bytes: usize, line_bytes: usize },
    TrailerLf { bytes: usize, line_bytes: usize },
}

impl Body {
    pub(crate) fn none() -> Self {
        Self { state: BodyState::Done, allowance: 0 }
    }

    pub(crate) fn of_length(length: u64, bytes_max: u64) -> Result<Self, Fault> {
        match length {
            0 => Ok(Self::none()),
            length if length > bytes_max => Err(Fault::BodyTooLong),
            length => Ok(Self { state: BodyState::Length { left: length }, allowance: length }),
        }
    }

    pub(crate) fn chunked(bytes_max: u64) -> Self {
        Self { state: BodyState::Chunks(Chunk::Size { size: 0, digits: 0 }), allowance: bytes_max }
    }

    /// Whether the body's last byte has been taken.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, BodyState::Done)
    }

    /// Take bytes of the body: a piece of its content, or none when `input` is used up or the body is done.
    pub(crate) fn take<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Fault> {
        while !input.is_empty() {
            match &mut self.state {
                BodyState::Done => return Ok(None),
                BodyState::Length { left } => {
                    let piece = split_front(input, left);
                    if *left == 0 {
                        self.state = BodyState::Done;
                    }
                    return Ok(Some(piece));
                }
                BodyState::Chunks(Chunk::Data { left }) => {
                    let piece = split_front(input, left);
                    if *left == 0 {
                        self.state = BodyState::Chunks(Chunk::DataCr);
                    }
                    return Ok(Some(piece));
                }
                BodyState::Chunks(chunk) => {
                    let byte = input[0];
                    *input = &input[1..];
                    self.state = chunk.step(byte, &mut self.allowance)?;
                }
            }
        }
        Ok(None)
    }
}

impl Chunk {
    /// Take one byte of the framing.
    fn step(self, byte: u8, allowance: &mut u64) -> Result<BodyState, Fault> {
        let next = match (self, byte) {
            (Chunk::Size { size, digits }, byte) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = (byte as char).to_digit(16).ok_or(Fault::Chunk)?;
                Chunk::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Chunk::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => Chunk::Extension { size, bytes: 1 },
            (Chunk::Size { size, digits: 1.. }, b'\r') => Chunk::SizeLf { size },
            (Chunk::Extension { size, .. }, b'\r') => Chunk::SizeLf { size },
            (Chunk::Extension { size, bytes }, b'\t' | b' '..=b'~' | 0x80..)
                if bytes < CHUNK_LINE_BYTES_MAX =>
            {
                Chunk::Extension { size, bytes: bytes + 1 }
            }
            (Chunk::SizeLf { size: 0 }, b'\n') => Chunk::Trailer { bytes: 0, line_bytes: 0 },
            (Chunk::SizeLf { size }, b'\n') => {
                *allowance = allowance.checked_sub(size).ok_or(Fault::BodyTooLong)?;
                Chunk::Data { left: size }
            }
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size { size: 0, digits: 0 },
            (Chunk::Trailer { bytes, line_bytes }, b'\r') => Chunk::TrailerLf { bytes, line_bytes },
            (Chunk::Trailer { bytes, line_bytes }, b'\t' | b' '..=b'~' | 0x80..)
                if bytes < TRAILER_BYTES_MAX =>
            {
                Chunk::Trailer { bytes: bytes + 1, line_bytes: line_bytes + 1 }
            }
            (Chunk::TrailerLf { line_bytes: 0, .. }, b'\n') => return Ok(BodyState::Done),
            (Chunk::TrailerLf { bytes, .. }, b'\n') => Chunk::Trailer { bytes, line_bytes: 0 },
            _ => return Err(Fault::Chunk),
        };
        Ok(BodyState::Chunks(next))
    }
}

/// As much of `left` as `input` has.
fn split_front<'a>(input: &mut &'a [u8], left: &mut u64) -> &'a [u8] {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    let (piece, rest) = input.split_at(count);
    *input = rest;
    *left -= count as u64;
    piece
}
