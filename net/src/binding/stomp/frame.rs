//! STOMP 1.2 frames [STOMP 1.2]: a command, headers, a body that ends with a zero byte.

use std::fmt;

/// Most headers of one frame.
const HEADER_COUNT_MAX: usize = 256;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is, in capitals.
    pub command: String,
    /// Names and values, decoded, in their order. Of a name that stands twice the first counts.
    pub headers: Vec<(String, String)>,
    /// What it carries.
    pub body: Vec<u8>,
}

impl Frame {
    /// A frame without headers and body.
    pub fn new(command: &str) -> Self {
        Self { command: command.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Append the frame. The length of its body is said, so that the body may hold anything.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // The frames of a connection's opening are read by peers of every version, which did not escape yet.
        let is_raw = is_raw(&self.command);
        out.extend_from_slice(self.command.as_bytes());
        out.push(b'\n');
        for (name, value) in &self.headers {
            escape(name, is_raw, out);
            out.push(b':');
            escape(value, is_raw, out);
            out.push(b'\n');
        }
        if !self.body.is_empty() {
            out.extend_from_slice(format!("content-length:{}\n", self.body.len()).as_bytes());
        }
        out.push(b'\n');
        out.extend_from_slice(&self.body);
        out.push(0);
    }
}

/// Bytes that are no frame, or too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The head of a frame is longer than may be.
    HeadTooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// More headers than may be.
    TooManyHeaders,
    /// The body is longer than may be.
    BodyTooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// A head that is not UTF-8.
    NoText,
    /// A header without a colon.
    NoColon,
    /// A backslash in front of something else than `n`, `r`, `c` and a backslash.
    Escape,
    /// `content-length` is no number.
    Length,
    /// What comes behind `content-length` bytes is not a zero byte.
    NoEnd,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadTooLong { bytes_max } => {
                write!(formatter, "a frame's head is longer than {bytes_max} bytes")
            }
            Self::TooManyHeaders => write!(formatter, "a frame has more than {HEADER_COUNT_MAX} headers"),
            Self::BodyTooLong { bytes_max } => {
                write!(formatter, "a frame's body is longer than {bytes_max} bytes")
            }
            Self::NoText => formatter.write_str("a frame's head is not UTF-8"),
            Self::NoColon => formatter.write_str("a header has no colon"),
            Self::Escape => formatter.write_str("a header has an undefined escape sequence"),
            Self::Length => formatter.write_str("content-length is not a number"),
            Self::NoEnd => formatter.write_str("a frame does not end with a zero byte"),
        }
    }
}

/// What one frame may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of command and headers.
    pub head_bytes_max: usize,
    /// Bytes of the body.
    pub body_bytes_max: usize,
}

/// Puts frames together. Holds at most one frame's bytes, and nothing between frames.
#[derive(Debug, Default)]
pub struct Inbound {
    bytes: Vec<u8>,
    /// Where the line begins that has not ended yet.
    line_start: usize,
    body: Option<BodyStart>,
}

#[derive(Clone, Copy, Debug)]
struct BodyStart {
    start: usize,
    /// As `content-length` says; none: up to the first zero byte.
    bytes: Option<usize>,
}

impl Inbound {
    /// The next whole frame; `input` moves on past it. None: all of `input` is taken. Line ends between frames, which are
    /// heart-beats, are passed over.
    ///
    /// # Errors
    ///
    /// [`Fault`]: what follows in the stream cannot be told any more.
    pub fn next(&mut self, input: &mut &[u8], limits: Limits) -> Result<Option<Frame>, Fault> {
        loop {
            let Some(body) = self.body else {
                if !self.take_line(input, limits)? {
                    return Ok(None);
                }
                continue;
            };
            if !self.take_body(body, input, limits)? {
                return Ok(None);
            }
            let Self { bytes, .. } = std::mem::take(self);
            let (head, rest) = bytes.split_at(body.start);
            let (command, headers) = read_head(head)?;
            return Ok(Some(Frame { command, headers, body: rest[..rest.len() - 1].to_vec() }));
        }
    }

    /// Take input up to the end of a line; false: there is no end yet.
    fn take_line(&mut self, input: &mut &[u8], limits: Limits) -> Result<bool, Fault> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let (taken, rest) = input.split_at(end.map_or(input.len(), |end| end + 1));
        if self.bytes.len() + taken.len() > limits.head_bytes_max {
            return Err(Fault::HeadTooLong { bytes_max: limits.head_bytes_max });
        }
        *input = rest;
        self.bytes.extend_from_slice(taken);
        if end.is_none() {
            return Ok(false);
        }
        let line = &self.bytes[self.line_start..self.bytes.len() - 1];
        let is_empty = matches!(line, b"" | b"\r");
        if is_empty && self.line_start == 0 {
            // A heart-beat, or the line end that may follow a frame.
            self.bytes = Vec::new();
        } else if is_empty {
            let (_, headers) = read_head(&self.bytes)?;
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let bytes = match length {
                None => None,
                Some((_, text)) => Some(text.parse().map_err(|_| Fault::Length)?),
            };
            if bytes.is_some_and(|bytes: usize| bytes > limits.body_bytes_max) {
                return Err(Fault::BodyTooLong { bytes_max: limits.body_bytes_max });
            }
            self.body = Some(BodyStart { start: self.bytes.len(), bytes });
        } else {
            self.line_start = self.bytes.len();
        }
        Ok(true)
    }

    /// Take input up to the end of the frame; false: there is no end yet.
    fn take_body(&mut self, body: BodyStart, input: &mut &[u8], limits: Limits) -> Result<bool, Fault> {
        let held = self.bytes.len() - body.start;
        let count = match body.bytes {
            Some(bytes) => (bytes + 1 - held).min(input.len()),
            None => input.iter().position(|byte| *byte == 0).map_or(input.len(), |end| end + 1),
        };
        let (taken, rest) = input.split_at(count);
        *input = rest;
        self.bytes.extend_from_slice(taken);
        let held = held + count;
        match body.bytes {
            Some(bytes) if held <= bytes => Ok(false),
            _ if self.bytes[body.start..].last() == Some(&0) => Ok(true),
            Some(_) => Err(Fault::NoEnd),
            None if held > limits.body_bytes_max => {
                Err(Fault::BodyTooLong { bytes_max: limits.body_bytes_max })
            }
            None => Ok(false),
        }
    }
}

/// The command and the headers of a head that ends with an empty line.
fn read_head(head: &[u8]) -> Result<(String, Vec<(String, String)>), Fault> {
    let text = std::str::from_utf8(head).map_err(|_| Fault::NoText)?;
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let command = lines.next().unwrap_or_default();
    let is_raw = is_raw(command);
    let mut headers = Vec::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        if headers.len() == HEADER_COUNT_MAX {
            return Err(Fault::TooManyHeaders);
        }
        let (name, value) = line.split_once(':').ok_or(Fault::NoColon)?;
        headers.push((unescape(name, is_raw)?, unescape(value, is_raw)?));
    }
    Ok((command.to_owned(), headers))
}

/// Whether a frame's headers are written as they are.
fn is_raw(command: &str) -> bool {
    matches!(command, "CONNECT" | "CONNECTED")
}

fn escape(text: &str, is_raw: bool, out: &mut Vec<u8>) {
    if is_raw {
        // A line end would be another header.
        return out.extend(text.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    }
    for byte in text.bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b':' => out.extend_from_slice(b"\\c"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            byte => out.push(byte),
        }
    }
}

fn unescape(text: &str, is_raw: bool) -> Result<String, Fault> {
    if is_raw || !text.contains('\\') {
        return Ok(text.to_owned());
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('c') => ':',
                Some('\\') => '\\',
                _ => return Err(Fault::Escape),
            },
            character => character,
        });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { head_bytes_max: 1000, body_bytes_max: 1000 };

    fn all(mut bytes: &[u8], limits: Limits) -> Result<Vec<Frame>, Fault> {
        let mut inbound = Inbound::default();
        let mut frames = Vec::new();
        while let Some(frame) = inbound.next(&mut bytes, limits)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_as_clients_write_them() {
        let bytes =
            b"\n\r\nCONNECT\r\nlogin:a\\nb\r\n\r\n\0\nSEND\ndestination:/a\\cb\ndestination:/c\n\nbody\0\
                      SEND\ncontent-length:3\n\na\0b\0\n\n";
        let expected = [
            Frame::new("CONNECT").with("login", "a\\nb"),
            Frame::new("SEND").with("destination", "/a:b").with("destination", "/c").with_body(*b"body"),
            Frame::new("SEND").with("content-length", "3").with_body(*b"a\0b"),
        ];
        assert_eq!(all(bytes, LIMITS).unwrap(), expected);
        assert_eq!(expected[1].header("destination"), Some("/a:b"));
    }

    #[test]
    fn what_is_no_frame() {
        let long = [b"SEND\n".to_vec(), b"a:b\n".repeat(300), b"\n\0".to_vec()].concat();
        let cases: [(&[u8], Fault); 12] = [
            (b"SEND\nno colon\n\n\0", Fault::NoColon),
            (b"SEND\na:\\t\n\n\0", Fault::Escape),
            (b"SEND\na:\\\n\n\0", Fault::Escape),
            (b"SEND\na:\xff\n\n\0", Fault::NoText),
            (b"SEND\ncontent-length:-1\n\n\0", Fault::Length),
            (b"SEND\ncontent-length:99999999999999999999999\n\n\0", Fault::Length),
            (b"SEND\ncontent-length:18446744073709551615\n\n\0", Fault::BodyTooLong { bytes_max: 1000 }),
            (b"SEND\ncontent-length:1001\n\n", Fault::BodyTooLong { bytes_max: 1000 }),
            (b"SEND\ncontent-length:1\n\nab\0", Fault::NoEnd),
            (&[b"SEND\n\n".to_vec(), vec![b'x'; 1001]].concat(), Fault::BodyTooLong { bytes_max: 1000 }),
            (&[b'x'; 1001], Fault::HeadTooLong { bytes_max: 1000 }),
            (&long[..], Fault::HeadTooLong { bytes_max: 1000 }),
        ];
        for (bytes, fault) in cases {
            assert_eq!(all(bytes, LIMITS), Err(fault), "{}", String::from_utf8_lossy(bytes));
        }
        let wide = Limits { head_bytes_max: 10_000, ..LIMITS };
        assert_eq!(all(&long, wide), Err(Fault::TooManyHeaders));
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let texts = prop::collection::vec((".{0,12}", ".{0,12}"), 0..6);
        let body = prop::collection::vec(any::<u8>(), 0..200);
        (prop::sample::select(vec!["SEND", "MESSAGE", "ERROR", "RECEIPT"]), texts, body).prop_map(
            |(command, texts, body)| Frame {
                command: command.to_owned(),
                // Names in the order of their places, so that none is the length's.
                headers: texts.into_iter().map(|(name, value)| (format!("x{name}"), value)).collect(),
                body,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is written is read again, however its bytes arrive.
        #[test]
        fn frames_come_back(frames in prop::collection::vec(frame(), 1..5), cut in 1_usize..40) {
            let mut bytes = Vec::new();
            for frame in &frames {
                frame.encode(&mut bytes);
                bytes.push(b'\n');
            }
            let limits = Limits { head_bytes_max: 4096, body_bytes_max: 4096 };
            let mut inbound = Inbound::default();
            let mut found = Vec::new();
            for mut piece in bytes.chunks(cut) {
                while let Some(mut frame) = inbound.next(&mut piece, limits).unwrap() {
                    frame.headers.retain(|(name, _)| name != "content-length");
                    found.push(frame);
                }
                prop_assert!(piece.is_empty());
            }
            prop_assert_eq!(found, frames);
            prop_assert_eq!(inbound.bytes.capacity(), 0, "nothing is kept between frames");
        }

        /// Nothing that arrives is kept beyond the limits, or ends in a panic.
        #[test]
        fn noise_is_bounded(bytes in prop::collection::vec(prop::sample::select(b"\n\r:\\\0acSEND".to_vec()), 0..3000)) {
            let limits = Limits { head_bytes_max: 64, body_bytes_max: 64 };
            let mut inbound = Inbound::default();
            for mut piece in bytes.chunks(7) {
                loop {
                    match inbound.next(&mut piece, limits) {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                    prop_assert!(inbound.bytes.len() <= 64 + 64 + 7);
                }
            }
        }
    }
}
