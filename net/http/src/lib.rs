//! HTTP/1.1 heads, bodies and connections, without I/O.
//!
//! A [`Connection`] is the server's side of one connection: bytes in by [`Connection::handle`], which yields a request's
//! [`Head`], the pieces of its body and its end; bytes out by [`Connection::respond`]. Heads are parsed where they lie;
//! only one that arrives in pieces is kept, and no more than its limit. One request is in work at a time: what a client
//! sends ahead stays with the caller until the answer is written.
//!
//! A request that another reader could take for something else (two lengths, a length beside chunks, a stray CR or LF, a
//! folded header, a malformed chunk) is refused and the connection closed: no guess, no repair \[RFC 9112 6.3, 11.2\].
//!
//! ```
//! use net_http::{Connection, Event, Limits, Response};
//!
//! let mut connection = Connection::new(Limits::default());
//! let (mut input, mut output) = (&b"GET /devices?top=2 HTTP/1.1\r\nHost: hub\r\n\r\n"[..], Vec::new());
//! let Ok(Some(Event::Head(head))) = connection.handle(&mut input, &mut output) else { panic!() };
//! assert_eq!((head.method(), head.target()), ("GET", "/devices?top=2"));
//! assert!(matches!(connection.handle(&mut input, &mut output), Ok(Some(Event::End))));
//! connection.respond(&Response { status: 200, headers: &[("Content-Type", "application/json")], body: b"[]" }, &mut output);
//! assert!(output.starts_with(b"HTTP/1.1 200 OK\r\n"));
//! ```
#![forbid(unsafe_code)]

mod body;
mod connection;
mod head;
mod limits;
mod refusal;
mod response;
mod target;
pub mod websocket;

pub use connection::{Connection, Event};
pub use head::Head;
pub use limits::Limits;
pub use refusal::{Fault, Refusal};
pub use response::Response;
pub use target::{Target, decode};
