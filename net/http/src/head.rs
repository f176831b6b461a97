//! A request's head: found by its blank line, parsed where it lies, and what it says about the body.

use httparse::{EMPTY_HEADER, Header};

use crate::body::Body;
use crate::limits::HEADER_COUNT_MAX;
use crate::refusal::Fault;

/// A request's head, borrowed from the bytes it was parsed from.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    method: &'a str,
    target: &'a str,
    headers: [Header<'a>; HEADER_COUNT_MAX],
    header_count: usize,
}

impl<'a> Head<'a> {
    /// The method, as sent; methods are compared with case \[RFC 9110 9.1\].
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The request target, as sent and not decoded; see [`Target`](crate::Target).
    pub fn target(&self) -> &'a str {
        self.target
    }

    /// All fields in their order: name as sent, value without the blanks around it.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.headers[..self.header_count].iter().map(|header| (header.name, header.value))
    }

    /// The value of the first field of this name, compared without case. None also where the value is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.values(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether the field of this name, a comma-separated list, has this element, compared without case.
    pub fn has_element(&self, name: &str, element: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|found| found.trim_ascii().eq_ignore_ascii_case(element.as_bytes()))
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The only value of a field: `Err` if there are several.
    fn only_value(&self, name: &str, fault: Fault) -> Result<Option<&'a [u8]>, Fault> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(fault),
            (value, None) => Ok(value),
        }
    }
}

/// What a head means for the connection.
pub(crate) struct Meaning {
    pub(crate) body: Body,
    pub(crate) keep_alive: bool,
    pub(crate) is_head_method: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
}

/// Parse a whole head, blank line included.
pub(crate) fn parse(bytes: &[u8], body_bytes_max: u64) -> Result<(Head<'_>, Meaning), Fault> {
    let mut headers = [EMPTY_HEADER; HEADER_COUNT_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Fault::Head),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooManyHeaders),
        Err(httparse::Error::Version) => return Err(Fault::Version),
        Err(_) => return Err(Fault::Head),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Fault::Head);
    };
    let header_count = request.headers.len();
    let head = Head { method, target, headers, header_count };
    let is_1_1 = minor >= 1;
    let body = body_of(&head, is_1_1, body_bytes_max)?;
    match head.only_value("host", Fault::Host)? {
        Some([]) => return Err(Fault::Host),
        None if is_1_1 => return Err(Fault::Host),
        _ => {}
    }
    let keep_alive = match is_1_1 {
        true => !head.has_element("connection", "close"),
        false => head.has_element("connection", "keep-alive") && !head.has_element("connection", "close"),
    };
    let expects_continue = match head.only_value("expect", Fault::Expectation)? {
        Some(value) if !value.eq_ignore_ascii_case(b"100-continue") => return Err(Fault::Expectation),
        // An HTTP/1.0 client's expectation is to be ignored [RFC 9110 10.1.1].
        expectation => expectation.is_some() && is_1_1 && !body.is_done(),
    };
    let is_head_method = method == "HEAD";
    Ok((head, Meaning { body, keep_alive, is_head_method, expects_continue }))
}

/// How long the body is \[RFC 9112 6.3\]: what could be read in two ways is refused.
fn body_of(head: &Head<'_>, is_1_1: bool, bytes_max: u64) -> Result<Body, Fault> {
    let coding = head.only_value("transfer-encoding", Fault::AmbiguousLength)?;
    let length = head.only_value("content-length", Fault::Length)?;
    match (coding, length) {
        (Some(_), Some(_)) => Err(Fault::AmbiguousLength),
        (Some(_), None) if !is_1_1 => Err(Fault::AmbiguousLength),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Body::chunked(bytes_max)),
        (Some(_), None) => Err(Fault::TransferCoding),
        (None, Some(length)) => Body::of_length(parse_length(length)?, bytes_max),
        (None, None) => Ok(Body::none()),
    }
}

/// Digits alone: no sign, no list, no blank.
fn parse_length(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Length);
    }
    let text = std::str::from_utf8(value).map_err(|_| Fault::Length)?;
    // More digits than a number holds are a body that is too long, not a malformed field.
    text.parse().map_err(|_| Fault::BodyTooLong)
}

/// Looks for the blank line that ends a head, over any cuts of the input, and refuses lines that end in anything but CR
/// LF: a proxy in front of us might see other lines than we do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadScanner {
    state: ScanState,
}

#[derive(Clone, Copy, Debug, Default)]
enum ScanState {
    /// Before the request line, where empty lines are ignored \[RFC 9112 2.2\].
    #[default]
    Before,
    BeforeCr,
    Line,
    LineCr,
    LineStart,
    BlankCr,
}

impl HeadScanner {
    /// The number of bytes up to and with the blank line; none: not in these.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        for (index, byte) in bytes.iter().enumerate() {
            self.state = match (self.state, byte) {
                (ScanState::BlankCr, b'\n') => {
                    *self = Self::default();
                    return Ok(Some(index + 1));
                }
                (ScanState::BeforeCr, b'\n') => ScanState::Before,
                (ScanState::LineCr, b'\n') => ScanState::LineStart,
                (ScanState::BeforeCr | ScanState::LineCr | ScanState::BlankCr, _) | (_, b'\n') => {
                    return Err(Fault::LineEnd);
                }
                (ScanState::Before, b'\r') => ScanState::BeforeCr,
                (ScanState::Line, b'\r') => ScanState::LineCr,
                (ScanState::LineStart, b'\r') => ScanState::BlankCr,
                (ScanState::Before | ScanState::Line | ScanState::LineStart, _) => ScanState::Line,
            };
        }
        Ok(None)
    }

    /// Whether nothing of a request has arrived yet.
    pub(crate) fn is_before(&self) -> bool {
        matches!(self.state, ScanState::Before)
    }
}
