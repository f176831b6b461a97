//! WebSocket, the server's side [RFC 6455]: the opening request, and frames of a byte stream.
//!
//! The protocols that travel in here (AMQP, MQTT) do not care where a frame ends, so a [`WebSocket`] gives out bytes as they
//! come and keeps no message: an idle connection holds nothing but the state between two frames.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::head::Head;
use crate::limits::FRAME_BYTES_MAX;

/// What stands behind the client's key in the hash that proves the server's understanding [RFC 6455 1.3].
const ACCEPT_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const VERSION: &str = "13";

/// Most bytes of a frame's head: two, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

/// Most bytes in a control frame [RFC 6455 5.5].
const CONTROL_BYTES_MAX: u64 = 125;

/// A request that asks for a WebSocket, and rightly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    /// What the answer says in `Sec-WebSocket-Accept`.
    pub accept: String,
    /// The subprotocols that the client speaks, by its preference.
    pub protocols: Vec<&'a str>,
}

/// Why a request is no opening of a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// It does not ask for one.
    #[error("the request does not ask for a WebSocket")]
    NotAsked,
    /// It asks for another version than 13.
    #[error("the WebSocket version is to be {VERSION}")]
    Version,
    /// Its key is not the base64 text of 16 bytes.
    #[error("Sec-WebSocket-Key is to be the base64 text of 16 bytes")]
    Key,
}

impl<'a> Opening<'a> {
    /// Read a request's head.
    ///
    /// # Errors
    ///
    /// [`OpeningError`]: it is to be answered with a status that says no.
    pub fn read(head: &Head<'a>) -> Result<Self, OpeningError> {
        let is_asked = head.method() == "GET"
            && head.has_element("upgrade", "websocket")
            && head.has_element("connection", "upgrade");
        if !is_asked {
            return Err(OpeningError::NotAsked);
        }
        if head.header("sec-websocket-version") != Some(VERSION) {
            return Err(OpeningError::Version);
        }
        let key = head.header("sec-websocket-key").ok_or(OpeningError::Key)?;
        match STANDARD.decode(key) {
            Ok(bytes) if bytes.len() == 16 => {}
            _ => return Err(OpeningError::Key),
        }
        let protocols = head
            .headers()
            .filter(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-protocol"))
            .filter_map(|(_, value)| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(',').map(str::trim))
            .collect();
        Ok(Self { accept: accept(key), protocols })
    }
}

fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize())
}

/// Why a connection is closed, as its close frame says [RFC 6455 7.4.1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// The purpose is fulfilled.
    Normal = 1000,
    /// The server stops.
    GoingAway = 1001,
    /// The peer broke the protocol.
    ProtocolError = 1002,
    /// The peer sent text.
    Unsupported = 1003,
    /// The peer sent a frame that is too large.
    TooBig = 1009,
}

/// What ends a connection: the peer is at fault. A close frame that says so is in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Reserved bits or codes, or a length that is not written the shortest way.
    #[error("a frame's head has what this version does not know")]
    Reserved,
    /// A client masks its frames [RFC 6455 5.1].
    #[error("a frame without mask")]
    Unmasked,
    /// A control frame in pieces, or too long.
    #[error("a control frame in pieces or of more than 125 bytes")]
    Control,
    /// A continuation of nothing, or a message inside a message.
    #[error("a fragment in the wrong place")]
    Fragment,
    /// A close frame whose body is no code and text.
    #[error("a malformed close frame")]
    Close,
    /// Text; what travels here is binary [MQTT-6.0.0-1].
    #[error("a text frame")]
    Text,
    /// More than `FRAME_BYTES_MAX`.
    #[error("a frame of {0} bytes")]
    TooBig(u64),
}

impl FrameFault {
    fn code(self) -> CloseCode {
        match self {
            Self::Text => CloseCode::Unsupported,
            Self::TooBig(_) => CloseCode::TooBig,
            _ => CloseCode::ProtocolError,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// The server's side of one WebSocket, as a machine.
#[derive(Debug, Default)]
pub struct WebSocket {
    /// The head of a frame that has not arrived whole.
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: u8,
    /// The frame whose payload is being read.
    frame: Option<Frame>,
    /// The payload of a control frame, until it is whole.
    control: Vec<u8>,
    /// A message's last fragment has not come.
    is_in_message: bool,
    is_closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    /// Bytes of payload that are still to come.
    left: u64,
    /// Turned so that its first byte is for the next byte of payload.
    mask: [u8; 4],
}

impl WebSocket {
    /// Take all bytes of `input`. The stream's bytes are appended to `data`, answers to pings and to a close go to `output`.
    ///
    /// # Errors
    ///
    /// [`FrameFault`]: the connection is over once `output` is sent. What was appended to `data` before counts.
    pub fn handle(
        &mut self,
        mut input: &[u8],
        data: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<(), FrameFault> {
        while !input.is_empty() && !self.is_closed {
            if let Err(fault) = self.step(&mut input, data, output) {
                self.close(fault.code(), output);
                return Err(fault);
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        input: &mut &[u8],
        data: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<(), FrameFault> {
        if self.frame.is_none() {
            let (&byte, rest) = input.split_first().expect("asked only with input");
            *input = rest;
            self.head[usize::from(self.head_bytes)] = byte;
            self.head_bytes += 1;
            self.frame = self.parse_head()?;
        }
        let Some(frame) = &mut self.frame else { return Ok(()) };
        self.head_bytes = 0;
        let count = usize::try_from(frame.left).unwrap_or(usize::MAX).min(input.len());
        let (taken, rest) = input.split_at(count);
        *input = rest;
        let target = if frame.opcode as u8 >= Opcode::Close as u8 { &mut self.control } else { data };
        unmask(taken, frame.mask, target);
        debug_assert!(self.control.len() as u64 <= CONTROL_BYTES_MAX, "a control frame is small");
        frame.mask.rotate_left(count % 4);
        frame.left -= count as u64;
        if frame.left == 0 {
            let opcode = frame.opcode;
            self.frame = None;
            self.end_frame(opcode, output)?;
        }
        Ok(())
    }

    /// The frame, once its head is whole; what is wrong with it, as soon as that is known.
    fn parse_head(&mut self) -> Result<Option<Frame>, FrameFault> {
        let head = &self.head[..usize::from(self.head_bytes)];
        let &[first, ref rest @ ..] = head else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(FrameFault::Reserved);
        }
        let is_last = first & 0x80 != 0;
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(FrameFault::Reserved),
        };
        let is_control = opcode as u8 >= Opcode::Close as u8;
        let &[second, ref rest @ ..] = rest else {
            return match opcode {
                Opcode::Text => Err(FrameFault::Text),
                Opcode::Continuation if !self.is_in_message => Err(FrameFault::Fragment),
                Opcode::Binary if self.is_in_message => Err(FrameFault::Fragment),
                _ if is_control && !is_last => Err(FrameFault::Control),
                _ => Ok(None),
            };
        };
        if second & 0x80 == 0 {
            return Err(FrameFault::Unmasked);
        }
        let (left, rest) = match second & 0x7f {
            126 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from(u16::from_be_bytes(*bytes)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from_be_bytes(*bytes), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let is_shortest = match second & 0x7f {
            126 => left > 125,
            127 => left > u64::from(u16::MAX),
            _ => true,
        };
        match left {
            _ if !is_shortest => return Err(FrameFault::Reserved),
            CONTROL_BYTES_MAX.. if is_control && left > CONTROL_BYTES_MAX => return Err(FrameFault::Control),
            left if left > FRAME_BYTES_MAX => return Err(FrameFault::TooBig(left)),
            _ => {}
        }
        let Some(mask) = rest.first_chunk() else { return Ok(None) };
        if !is_control {
            self.is_in_message = !is_last;
        }
        Ok(Some(Frame { opcode, left, mask: *mask }))
    }

    /// The payload of a frame is whole.
    fn end_frame(&mut self, opcode: Opcode, output: &mut Vec<u8>) -> Result<(), FrameFault> {
        // The next control frame may be long in coming.
        let control = std::mem::take(&mut self.control);
        match opcode {
            Opcode::Ping => put_frame(Opcode::Pong, &control, output),
            Opcode::Close => {
                if !is_close_body(&control) {
                    return Err(FrameFault::Close);
                }
                // The answer repeats the code.
                put_frame(Opcode::Close, &control[..control.len().min(2)], output);
                self.is_closed = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// Say goodbye, once. The connection is over when `output` is sent.
    pub fn close(&mut self, code: CloseCode, output: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.is_closed, true) {
            put_frame(Opcode::Close, &(code as u16).to_be_bytes(), output);
        }
    }

    /// Whether either side has said goodbye.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }
}

/// Append bytes with their mask taken off.
fn unmask(bytes: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(bytes);
    let mut chunks = out[start..].chunks_exact_mut(4);
    for chunk in &mut chunks {
        for (byte, mask) in chunk.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Whether it is empty, or a code that may be sent and a text [RFC 6455 7.4].
fn is_close_body(body: &[u8]) -> bool {
    match body.split_first_chunk() {
        None => body.is_empty(),
        Some((code, text)) => {
            let is_code = matches!(u16::from_be_bytes(*code), 1000..=1003 | 1007..=1014 | 3000..=4999);
            is_code && std::str::from_utf8(text).is_ok()
        }
    }
}

/// Make one binary frame of what stands in `output` from `start` on; nothing of nothing.
pub fn frame_from(start: usize, output: &mut Vec<u8>) {
    let bytes = output.len() - start;
    if bytes > 0 {
        let (head, head_bytes) = head_of(Opcode::Binary, bytes);
        output.splice(start..start, head[..head_bytes].iter().copied());
    }
}

fn put_frame(opcode: Opcode, payload: &[u8], output: &mut Vec<u8>) {
    let (head, head_bytes) = head_of(opcode, payload.len());
    output.extend_from_slice(&head[..head_bytes]);
    output.extend_from_slice(payload);
}

/// The head of a whole frame of a server's, and how long it is.
fn head_of(opcode: Opcode, payload_bytes: usize) -> ([u8; 10], usize) {
    let mut head = [0; 10];
    head[0] = 0x80 | opcode as u8;
    let head_bytes = match payload_bytes {
        0..=125 => {
            head[1] = payload_bytes as u8;
            2
        }
        126..=0xffff => {
            head[1] = 126;
            head[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            4
        }
        _ => {
            head[1] = 127;
            head[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        }
    };
    (head, head_bytes)
}

#[cfg(test)]
mod tests;
