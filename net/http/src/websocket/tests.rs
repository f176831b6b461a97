//! Frames against another implementation, in all cuts, and frames that break the rules.

use std::io::{Cursor, Read, Write};

use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket as Peer};

use super::*;
use crate::{Connection, Event, Limits};

fn opening(request: &str) -> Result<(String, Vec<String>), OpeningError> {
    let mut connection = Connection::new(Limits::default());
    let (mut input, mut output) = (request.as_bytes(), Vec::new());
    let Ok(Some(Event::Head(head))) = connection.handle(&mut input, &mut output) else { panic!("a head") };
    Opening::read(&head)
        .map(|opening| (opening.accept, opening.protocols.into_iter().map(str::to_owned).collect()))
}

#[test]
fn openings() {
    let request = |fields: &str| opening(&format!("GET /chat HTTP/1.1\r\nHost: hub\r\n{fields}\r\n"));
    // The example of RFC 6455 1.3.
    let good = "Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
    assert_eq!(request(good), Ok((accept.clone(), vec![])));
    let both = format!("{good}Sec-WebSocket-Protocol: mqtt, AMQPWSB10\r\nSec-WebSocket-Protocol: x\r\n");
    let protocols = ["mqtt", "AMQPWSB10", "x"].map(str::to_owned).to_vec();
    assert_eq!(request(&both), Ok((accept, protocols)));
    for (from, to, error) in [
        ("Upgrade: WebSocket", "Upgrade: h2c", OpeningError::NotAsked),
        ("keep-alive, Upgrade", "keep-alive", OpeningError::NotAsked),
        ("13", "8", OpeningError::Version),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl", OpeningError::Key),
        ("dGhlIHNhbXBsZSBub25jZQ==", "?", OpeningError::Key),
        ("Sec-WebSocket-Key", "X", OpeningError::Key),
    ] {
        assert_eq!(request(&good.replace(from, to)), Err(error), "{to}");
    }
}

/// What another implementation reads and writes.
#[derive(Default)]
struct Pipe {
    to_peer: Cursor<Vec<u8>>,
    from_peer: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.to_peer.read(buffer)? {
            0 => Err(std::io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.from_peer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn another_implementation_is_understood_in_all_cuts() {
    let mut peer = Peer::from_raw_socket(Pipe::default(), Role::Client, None);
    let mut expected = Vec::new();
    for size in [0, 1, 3, 4, 5, 125, 126, 127, 1000, 65_535, 65_536, 200_000] {
        let bytes: Vec<u8> = (0..size).map(|index| (index * 7) as u8).collect();
        expected.extend_from_slice(&bytes);
        peer.send(Message::Binary(bytes.into())).unwrap();
        peer.send(Message::Ping(vec![size as u8; 5].into())).unwrap();
    }
    let said = std::mem::take(&mut peer.get_mut().from_peer);
    for chunk_bytes in [1, 2, 3, 7, 1000, said.len()] {
        let (mut socket, mut data, mut output) = (WebSocket::default(), Vec::new(), Vec::new());
        for chunk in said.chunks(chunk_bytes) {
            socket.handle(chunk, &mut data, &mut output).unwrap();
        }
        assert!(data == expected, "in chunks of {chunk_bytes}");
        assert_eq!(output.len(), 12 * 7, "twelve pongs of five bytes");
        assert!(socket.control.capacity() == 0 && socket.frame.is_none());
    }
}

#[test]
fn another_implementation_understands_us() {
    let mut output = Vec::new();
    let sizes = [1, 125, 126, 65_535, 65_536, 100_000];
    for size in sizes {
        let start = output.len();
        output.resize(start + size, size as u8);
        frame_from(start, &mut output);
    }
    let start = output.len();
    frame_from(start, &mut output);
    let mut socket = WebSocket::default();
    socket.close(CloseCode::GoingAway, &mut output);
    socket.close(CloseCode::Normal, &mut output);
    let mut peer = Peer::from_raw_socket(Pipe::default(), Role::Client, None);
    peer.get_mut().to_peer = Cursor::new(output);
    for size in sizes {
        let message = peer.read().unwrap();
        assert!(message == Message::Binary(vec![size as u8; size].into()), "{size}");
    }
    let Message::Close(Some(frame)) = peer.read().unwrap() else { panic!("a close") };
    assert_eq!(u16::from(frame.code), 1001);
    let _ = peer.flush();
    let answer = std::mem::take(&mut peer.get_mut().from_peer);
    assert!(!answer.is_empty());
    socket.handle(&answer, &mut Vec::new(), &mut Vec::new()).unwrap();
    assert!(socket.is_closed());
}

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut bytes = vec![first, 0x80 | payload.len() as u8];
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn handle(bytes: &[u8]) -> (Result<(), FrameFault>, Vec<u8>, Vec<u8>) {
    let (mut socket, mut data, mut output) = (WebSocket::default(), Vec::new(), Vec::new());
    let result = socket.handle(bytes, &mut data, &mut output);
    assert_eq!(result.is_err() || !output.is_empty() && output[0] == 0x88, socket.is_closed());
    (result, data, output)
}

#[test]
fn fragments_with_control_frames_between() {
    let bytes =
        [frame(0x02, b"a"), frame(0x89, b"p"), frame(0x00, b"b"), frame(0x8a, b""), frame(0x80, b"c")]
            .concat();
    assert_eq!(handle(&bytes), (Ok(()), b"abc".to_vec(), b"\x8a\x01p".to_vec()));
}

#[test]
fn a_close_is_answered_with_its_code() {
    assert_eq!(handle(&frame(0x88, b"\x03\xe8bye")), (Ok(()), vec![], b"\x88\x02\x03\xe8".to_vec()));
    assert_eq!(handle(&frame(0x88, b"")), (Ok(()), vec![], b"\x88\x00".to_vec()));
    let behind = [frame(0x88, b""), frame(0x82, b"late")].concat();
    assert_eq!(handle(&behind).1, b"", "nothing counts behind a close");
}

#[test]
fn frames_that_break_the_rules() {
    let cases: &[(Vec<u8>, FrameFault, u16)] = &[
        (vec![0xc2], FrameFault::Reserved, 1002),
        (vec![0x83], FrameFault::Reserved, 1002),
        (vec![0x8b], FrameFault::Reserved, 1002),
        (vec![0x82, 0x01], FrameFault::Unmasked, 1002),
        (vec![0x81], FrameFault::Text, 1003),
        (vec![0x80], FrameFault::Fragment, 1002),
        ([frame(0x02, b"a"), frame(0x82, b"b")].concat(), FrameFault::Fragment, 1002),
        (vec![0x09], FrameFault::Control, 1002),
        (vec![0x89, 0xfe, 0x00, 0x7e], FrameFault::Control, 1002),
        (vec![0x82, 0xfe, 0x00, 0x7d], FrameFault::Reserved, 1002),
        (vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], FrameFault::Reserved, 1002),
        (vec![0x82, 0xff, 0, 0, 0, 0, 1, 0, 0, 1], FrameFault::TooBig(16_777_217), 1009),
        (vec![0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0], FrameFault::TooBig(0xff << 56), 1009),
        (frame(0x88, b"\x03"), FrameFault::Close, 1002),
        (frame(0x88, b"\x03\xed"), FrameFault::Close, 1002),
        (frame(0x88, b"\x03\xe8\xff"), FrameFault::Close, 1002),
    ];
    for (bytes, fault, code) in cases {
        let (result, _, output) = handle(bytes);
        assert_eq!(result, Err(*fault), "{bytes:x?}");
        assert_eq!(output[output.len() - 4..], [&[0x88, 2][..], &code.to_be_bytes()].concat(), "{bytes:x?}");
    }
}
