//! Responses to bytes.

/// A response. `Content-Length` and `Connection` are written by the connection, everything else is the caller's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Response<'a> {
    /// The status, 200 to 599.
    pub status: u16,
    /// Fields besides those that frame the message.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body; empty for 204 and 304, which have none.
    pub body: &'a [u8],
}

impl Response<'_> {
    /// Append the response. To a HEAD request it goes out without its body, but with its length.
    pub(crate) fn encode(&self, close: bool, to_head_method: bool, output: &mut Vec<u8>) {
        let has_body = !matches!(self.status, 100..=199 | 204 | 304);
        output.reserve(160 + self.body.len());
        output.extend_from_slice(b"HTTP/1.1 ");
        put_number(output, u64::from(self.status));
        output.push(b' ');
        output.extend_from_slice(reason(self.status).as_bytes());
        for (name, value) in self.headers {
            put_header(output, name, value);
        }
        if has_body {
            output.extend_from_slice(b"\r\nContent-Length: ");
            put_number(output, self.body.len() as u64);
        }
        if close {
            put_header(output, "Connection", "close");
        }
        output.extend_from_slice(b"\r\n\r\n");
        if has_body && !to_head_method {
            output.extend_from_slice(self.body);
        }
    }
}

/// Control characters would end the line and begin another: they go out as blanks.
fn put_header(output: &mut Vec<u8>, name: &str, value: &str) {
    output.extend_from_slice(b"\r\n");
    output.extend_from_slice(name.as_bytes());
    output.extend_from_slice(b": ");
    output.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
}

fn put_number(output: &mut Vec<u8>, number: u64) {
    output.extend_from_slice(number.to_string().as_bytes());
}

/// The usual phrase \[RFC 9110 15, RFC 6585\].
fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(response: Response<'_>, close: bool, to_head_method: bool) -> String {
        let mut output = Vec::new();
        response.encode(close, to_head_method, &mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn responses_frame_themselves() {
        let ok = Response { status: 200, headers: &[("ETag", "\"x\"")], body: b"{}" };
        assert_eq!(
            encoded(ok, false, false),
            "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 2\r\n\r\n{}"
        );
        assert_eq!(encoded(ok, false, true), "HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 2\r\n\r\n");
        let none = Response { status: 204, ..Response::default() };
        assert_eq!(encoded(none, true, false), "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        let empty = Response { status: 404, ..Response::default() };
        assert_eq!(encoded(empty, false, false), "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn a_value_cannot_begin_another_line() {
        let split = Response { status: 200, headers: &[("A", "x\r\nB: y\0")], body: b"" };
        assert_eq!(
            encoded(split, false, false),
            "HTTP/1.1 200 OK\r\nA: x  B: y \r\nContent-Length: 0\r\n\r\n"
        );
    }
}
