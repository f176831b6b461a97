//! The commands' way to the running hub: its service API, as administrator of this run.
//!
//! One request per connection over the hub's own loopback or bound address. A client library would bring a second opinion on
//! TLS, proxies and redirects; none of them has a place between a hub and its own command line.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{CommandError, OrFail};
use crate::data_dir::{self, RunInfo};
use crate::tls::{ClientStream, Trust};

/// How long a local hub may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of an answer: a page of a thousand devices is below one megabyte.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Most header fields of an answer.
const HEADERS_MAX: usize = 64;

/// What stands in a path segment as it is [RFC 3986 2.3].
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A hub that runs, as commands see it.
pub(super) struct Hub {
    pub(super) info: RunInfo,
    trust: Trust,
}

/// An answer with a status of success.
pub(super) struct Answer {
    pub(super) body: Value,
    /// What to send as `x-ms-continuation` to get the next page.
    pub(super) continuation: Option<String>,
}

/// Why a request was not done.
pub(super) enum Refusal {
    /// The hub says no: its status, its words, and the body they were taken from.
    Status(u16, String, Value),
    /// It could not be asked.
    Failed(CommandError),
}

impl From<Refusal> for CommandError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Status(_, text, _) => CommandError::new(text),
            Refusal::Failed(error) => error,
        }
    }
}

impl Hub {
    /// The hub that runs on a data directory.
    pub(super) fn find(data: &Path) -> Result<Self, CommandError> {
        let info = data_dir::find_running(data).or_fail()?;
        let tls = info.ca.parent();
        let trust = Trust {
            ca_pem: std::fs::read(&info.ca).ok(),
            server_pem: tls.and_then(|directory| std::fs::read(directory.join("server.pem")).ok()),
        };
        Ok(Self { info, trust })
    }

    /// A TLS stream to the first of `addresses` that answers.
    pub(super) fn connect(&self, addresses: &[SocketAddr]) -> Result<ClientStream, CommandError> {
        let mut last = CommandError::new("the hub does not listen for this");
        for address in addresses.iter().map(|address| reachable(*address)) {
            match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(socket) => {
                    let _ = socket.set_nodelay(true);
                    return ClientStream::new(socket, &address.ip().to_string(), &self.trust).or_fail();
                }
                Err(error) => last = CommandError::new(format!("{address}: {error}")),
            }
        }
        Err(last)
    }

    /// Ask once.
    pub(super) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, Refusal> {
        let failed =
            |error: std::io::Error| Refusal::Failed(CommandError::new(format!("asking the hub: {error}")));
        let mut stream = self.connect(&self.info.https).map_err(Refusal::Failed)?;
        stream.socket().set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
        stream.socket().set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(failed)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let host = self.info.hosts.first().map_or("localhost", String::as_str);
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n",
            self.info.administration_token
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request.push_str("Content-Type: application/json; charset=utf-8\r\n");
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut bytes = Vec::new();
        match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes) {
            // A peer that hangs up without a goodbye is caught by the length below.
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(failed(error)),
            _ => parse_answer(&bytes),
        }
    }
}

/// A segment of a path: ids may hold `#`, `?`, `%` and `/`'s neighbours.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Where a listener's address is reached from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    };
    SocketAddr::new(ip, address.port())
}

fn parse_answer(bytes: &[u8]) -> Result<Answer, Refusal> {
    let cut = || Refusal::Failed(CommandError::new("the hub's answer is cut short"));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(head_bytes)) = head.parse(bytes) else { return Err(cut()) };
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let status = head.code.unwrap_or_default();
    let length = match header("content-length").map(str::parse) {
        Some(Ok(length)) => length,
        None if status == 204 => 0,
        _ => return Err(cut()),
    };
    let content = bytes[head_bytes..].get(..length).ok_or_else(cut)?;
    let body: Value = match content {
        [] => Value::Null,
        json => serde_json::from_slice(json).map_err(|_| cut())?,
    };
    if (200..300).contains(&status) {
        Ok(Answer { body, continuation: header("x-ms-continuation").map(str::to_string) })
    } else {
        Err(Refusal::Status(status, words(status, &body), body))
    }
}

/// What an error's body says, without the parts that are for programs: `ErrorCode:<Name>;<text>`.
fn words(status: u16, body: &Value) -> String {
    match body.get("Message").or_else(|| body.get("message")).and_then(Value::as_str) {
        Some(message) => {
            let text = message.split_once(';').map_or(message, |(_, text)| text);
            format!("the hub refuses: {} ({status})", text.trim())
        }
        None => format!("the hub refuses with status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_refusals() {
        let answer =
            parse_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nX-MS-Continuation: next\r\n\r\n{\"a\":1}");
        let answer = answer.ok().unwrap();
        assert_eq!((answer.body["a"].as_u64(), answer.continuation.as_deref()), (Some(1), Some("next")));
        assert!(parse_answer(b"HTTP/1.1 204 No Content\r\n\r\n").ok().unwrap().body.is_null());
        let refused = b"HTTP/1.1 404 Not Found\r\nContent-Length: 55\r\n\r\n{\"Message\":\"ErrorCode:DeviceNotFound;no such device x\"}\n";
        let Err(Refusal::Status(404, text, _)) = parse_answer(refused) else { panic!() };
        assert_eq!(text, "the hub refuses: no such device x (404)");
    }

    #[test]
    fn a_cut_answer_is_never_taken_for_a_whole_one() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
        for length in 0..whole.len() {
            assert!(matches!(parse_answer(&whole[..length]), Err(Refusal::Failed(_))), "{length}");
        }
        assert!(parse_answer(b"HTTP/1.1 200 OK\r\n\r\n{}").is_err(), "no length");
    }

    #[test]
    fn ids_stay_one_segment() {
        assert_eq!(segment("a/../b?c#d%e f"), "a%2F..%2Fb%3Fc%23d%25e%20f");
    }
}
