//! The HTTP connection machine, and the WebSocket machine that follows it.

use net_http::websocket::{CloseCode, Opening, WebSocket, frame_from};
use net_http::{Connection, Event, Limits, Response, Target};

use crate::input::{Stream, assert_same};

const HEAD_BYTES_MAX: usize = 2048;
const BODY_BYTES_MAX: u64 = 4096;

/// Requests one behind the other, each answered when it is whole.
pub fn connection(input: &[u8]) {
    let Some(stream) = Stream::of(input) else { return };
    let mut whole = Server::new();
    whole.take(stream.bytes);
    let mut cut = Server::new();
    for piece in stream.pieces() {
        cut.take(piece);
    }
    assert_same(&whole.seen, &cut.seen, "events");
    // A client that sends its body at once is not told to go on; one that waits is, as often as it waits.
    let last = |server: &Server| without_interim(&server.output);
    assert_eq!(last(&whole), last(&cut), "the answers differ");
    assert_eq!(whole.connection.is_closed(), cut.connection.is_closed());
    assert_eq!(whole.connection.is_idle(), cut.connection.is_idle());
}

fn without_interim(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).expect("answers are text").replace("HTTP/1.1 100 Continue\r\n\r\n", "")
}

struct Server {
    connection: Connection,
    output: Vec<u8>,
    seen: Vec<String>,
    body: Vec<u8>,
    held: Vec<u8>,
    interim_count: usize,
}

impl Server {
    fn new() -> Self {
        let limits = Limits { head_bytes_max: HEAD_BYTES_MAX, body_bytes_max: BODY_BYTES_MAX };
        Self {
            connection: Connection::new(limits),
            output: Vec::new(),
            seen: Vec::new(),
            body: Vec::new(),
            held: Vec::new(),
            interim_count: 0,
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        let mut input = &bytes[..];
        let mut calls = 0;
        loop {
            calls += 1;
            assert!(calls <= 3 * bytes.len() + 10, "the machine makes no progress");
            let before = self.output.len();
            match self.connection.handle(&mut input, &mut self.output) {
                Ok(Some(Event::Head(head))) => {
                    assert!(head.headers().count() <= 64);
                    let segments = Target::parse(head.target()).map(|target| {
                        let name = target.parameter("api-version");
                        (target.segments().collect::<Vec<_>>(), name)
                    });
                    let opening = Opening::read(&head).map(|opening| opening.accept);
                    self.seen.push(format!("{:?} {segments:?} {opening:?}", (head.method(), head.target())));
                    self.seen.extend(head.headers().map(|header| format!("{header:?}")));
                }
                Ok(Some(Event::Body(piece))) => {
                    assert!(!piece.is_empty());
                    self.body.extend_from_slice(piece);
                    assert!(self.body.len() as u64 <= BODY_BYTES_MAX);
                }
                Ok(Some(Event::End)) => {
                    self.seen.push(format!("end of {:?}", std::mem::take(&mut self.body)));
                    assert!(self.connection.awaits_answer());
                    let response = Response { status: 200, headers: &[("A", "b")], body: b"ok" };
                    self.connection.respond(&response, &mut self.output);
                    self.interim_count = 0;
                }
                Ok(None) => {
                    let interim_bytes = self.output.len() - before;
                    self.interim_count += usize::from(interim_bytes > 0);
                    assert!(self.interim_count <= 1, "told twice to go on");
                    break;
                }
                Err(refusal) => {
                    self.seen.push(format!("{refusal:?}"));
                    let status = refusal.status;
                    self.connection.respond(&Response { status, headers: &[], body: b"" }, &mut self.output);
                    assert!(self.connection.is_closed(), "a refusal ends the connection");
                }
            }
        }
        if !self.connection.is_closed() {
            assert!(input.is_empty(), "what is answered at once leaves nothing");
        }
        self.held = input.to_vec();
    }
}

/// Frames of a client, in one piece and in many; the stream in them, and the answers.
pub fn websocket(input: &[u8]) {
    let Some(stream) = Stream::of(input) else { return };
    let mut whole = Socket::default();
    whole.take(stream.bytes);
    let mut cut = Socket::default();
    for piece in stream.pieces() {
        cut.take(piece);
        assert!(cut.data.len() <= stream.bytes.len());
    }
    assert_eq!(whole.data, cut.data);
    assert_eq!(whole.output, cut.output);
    assert_eq!(whole.fault, cut.fault);
    assert_eq!(whole.socket.is_closed(), cut.socket.is_closed());
    check_answers(&whole.output, stream.bytes.len());
    // What the stream would be answered with is one frame that says how long it is.
    let mut framed = whole.data.clone();
    frame_from(0, &mut framed);
    assert!(whole.data.is_empty() == framed.is_empty() && framed.ends_with(&whole.data));
}

#[derive(Default)]
struct Socket {
    socket: WebSocket,
    data: Vec<u8>,
    output: Vec<u8>,
    fault: Option<String>,
}

impl Socket {
    fn take(&mut self, bytes: &[u8]) {
        if self.socket.is_closed() {
            let data_bytes = self.data.len();
            self.socket
                .handle(bytes, &mut self.data, &mut self.output)
                .expect("nothing is read after the end");
            assert_eq!(self.data.len(), data_bytes, "nothing is read after the end");
        } else if let Err(fault) = self.socket.handle(bytes, &mut self.data, &mut self.output) {
            self.fault = Some(format!("{fault:?}"));
            assert!(self.socket.is_closed());
            let before = self.output.len();
            self.socket.close(CloseCode::Normal, &mut self.output);
            assert_eq!(self.output.len(), before, "goodbye is said once");
        }
    }
}

/// Pongs and one close at the end: frames of a server, whole, without mask, no longer than a control frame may be.
fn check_answers(mut output: &[u8], input_bytes: usize) {
    assert!(output.len() <= input_bytes + 4, "an answer is no longer than what it answers");
    while let [first, length, rest @ ..] = output {
        assert!(matches!(first, 0x88 | 0x8a) && *length <= 125, "{first:#x} {length}");
        output = rest.get(usize::from(*length)..).expect("a frame of ours is whole");
        assert!(*first == 0x8a || output.is_empty(), "nothing comes behind a close");
    }
    assert!(output.is_empty());
}
