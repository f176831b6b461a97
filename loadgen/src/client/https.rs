//! Events over HTTPS, as the device API takes them; requests may be pipelined.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::client::publisher::{Outcome, Post, Publisher, Sent};
use crate::ledger::Mark;

/// Longest head of a response.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Fields of a response at most.
const FIELD_COUNT_MAX: usize = 64;
/// Longest body of a response: events have none, and errors are short.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Sends one device's events.
#[derive(Debug)]
pub struct HttpsPublisher {
    /// The request up to its content length.
    head: String,
    is_batch: bool,
    has_begun: bool,
    is_closed: bool,
    /// The beginning of a response whose end has not come.
    kept: Vec<u8>,
    /// Responses that have come.
    answered_count: u32,
    body: Vec<u8>,
}

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    head_bytes: usize,
    body_bytes: usize,
}

impl HttpsPublisher {
    /// For `device` of the hub that is called `host`, with its token.
    pub fn new(host: &str, device: &str, token: &str, batch: u32) -> Self {
        let is_batch = batch > 1;
        let media_type = match is_batch {
            true => "application/vnd.microsoft.iothub.json",
            false => "application/octet-stream",
        };
        let head = format!(
            "POST /devices/{device}/messages/events?api-version=2021-04-12 HTTP/1.1\r\nHost: {host}\r\n\
             Authorization: {token}\r\nContent-Type: {media_type}\r\niothub-app-a: 1\r\niothub-app-b: 22\r\n\
             iothub-app-c: 333\r\nContent-Length: "
        );
        Self {
            head,
            is_batch,
            has_begun: false,
            is_closed: false,
            kept: Vec::new(),
            answered_count: 0,
            body: Vec::new(),
        }
    }
}

/// Look for a whole response. None: there is more to come.
fn next_response(bytes: &[u8]) -> Result<Option<Response>, String> {
    let mut fields = [httparse::EMPTY_HEADER; FIELD_COUNT_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let malformed = |error: httparse::Error| format!("the response cannot be read: {error}");
    let head_bytes = match response.parse(bytes).map_err(malformed)? {
        httparse::Status::Complete(head_bytes) => head_bytes,
        httparse::Status::Partial if bytes.len() > HEAD_BYTES_MAX => {
            return Err(format!("the response's head has more than {HEAD_BYTES_MAX} bytes"));
        }
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.unwrap_or_default();
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let body_bytes = match (status, length) {
        (204 | 304 | 100..=199, _) => 0,
        (_, None) => return Err(format!("a response with status {status} does not say its length")),
        (_, Some(field)) => std::str::from_utf8(field.value)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|bytes| *bytes <= BODY_BYTES_MAX)
            .ok_or("a response has no length that can be used")?,
    };
    let is_whole = bytes.len() >= head_bytes + body_bytes;
    Ok(is_whole.then_some(Response { status, head_bytes, body_bytes }))
}

impl Publisher for HttpsPublisher {
    fn begin(&mut self, _now: Instant, _output: &mut Vec<u8>) {
        self.has_begun = true;
    }

    fn handle(
        &mut self,
        input: &[u8],
        _now: Instant,
        _output: &mut Vec<u8>,
        on: &mut dyn FnMut(Outcome) -> Result<(), String>,
    ) -> Result<(), String> {
        self.kept.extend_from_slice(input);
        let mut start = 0;
        while start < self.kept.len()
            && let Some(response) = next_response(&self.kept[start..])?
        {
            let Response { status, head_bytes, body_bytes } = response;
            match status {
                100..=199 => {}
                200..=299 => {
                    let number = self.answered_count;
                    self.answered_count = number.wrapping_add(1);
                    on(Outcome { first: number, last: number })?;
                }
                _ => return Err(format!("an event was answered with status {status}")),
            }
            start += head_bytes + body_bytes;
        }
        self.kept.drain(..start);
        Ok(())
    }

    fn tick(&mut self, _now: Instant, _output: &mut Vec<u8>) -> Result<(), String> {
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.has_begun
    }

    fn send(&mut self, _place: usize, post: &Post<'_>, output: &mut Vec<u8>) -> Result<Sent, String> {
        self.body.clear();
        if self.is_batch {
            self.body.push(b'[');
            for mark in post.marks().map(Mark::encode) {
                let body = STANDARD.encode([&mark, post.filler].concat());
                self.body.extend_from_slice(br#"{"body":""#);
                self.body.extend_from_slice(body.as_bytes());
                self.body.extend_from_slice(br#""},"#);
            }
            // The comma behind the last one.
            self.body.pop();
            self.body.push(b']');
        } else {
            self.body.extend_from_slice(&post.mark.encode());
            self.body.extend_from_slice(post.filler);
        }
        output.extend_from_slice(self.head.as_bytes());
        output.extend_from_slice(format!("{}\r\n\r\n", self.body.len()).as_bytes());
        output.extend_from_slice(&self.body);
        Ok(Sent::Yes)
    }

    fn close(&mut self, _output: &mut Vec<u8>) {
        self.is_closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_in_pieces_and_bad_ones() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 204 No Content\r\n\r\n";
        for end in 0..41 {
            assert_eq!(next_response(&whole[..end]), Ok(None), "{end}");
        }
        let first = next_response(whole).unwrap().unwrap();
        assert_eq!(first, Response { status: 200, head_bytes: 38, body_bytes: 3 });
        let second = next_response(&whole[41..]).unwrap().unwrap();
        assert_eq!((second.status, second.body_bytes), (204, 0));
        for bad in
            ["nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"]
        {
            assert!(next_response(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(next_response(&vec![b'a'; HEAD_BYTES_MAX + 1]).is_err());
    }
}
