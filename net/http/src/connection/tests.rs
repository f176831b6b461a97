//! Requests in every cut, requests that must be refused, and their words in any order.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// What came out of a connection: each request with its body, answered at once with its number.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    requests: Vec<(String, Vec<u8>)>,
    refusal: Option<Refusal>,
    output: Vec<u8>,
}

/// Feed `pieces`; a request is answered as soon as it is whole.
fn hear(limits: Limits, pieces: &[&[u8]]) -> Heard {
    let mut connection = Connection::new(limits);
    let mut heard = Heard::default();
    let mut waiting = Vec::new();
    for piece in pieces {
        waiting.extend_from_slice(piece);
        let mut input = waiting.as_slice();
        loop {
            match connection.handle(&mut input, &mut heard.output) {
                Ok(Some(Event::Head(head))) => {
                    heard.requests.push((format!("{} {}", head.method(), head.target()), Vec::new()));
                }
                Ok(Some(Event::Body(bytes))) => {
                    assert!(!bytes.is_empty());
                    heard.requests.last_mut().unwrap().1.extend_from_slice(bytes);
                }
                Ok(Some(Event::End)) => {
                    let number = heard.requests.len().to_string();
                    let response = Response { status: 200, headers: &[], body: number.as_bytes() };
                    connection.respond(&response, &mut heard.output);
                }
                Ok(None) => break,
                Err(refusal) => {
                    let again = connection.handle(&mut input, &mut heard.output);
                    assert_eq!(again.err(), Some(refusal));
                    let status = refusal.status;
                    connection.respond(&Response { status, ..Response::default() }, &mut heard.output);
                    assert!(connection.is_closed());
                    heard.refusal = Some(refusal);
                    return heard;
                }
            }
        }
        let rest = input.to_vec();
        waiting = rest;
    }
    heard
}

fn request(lines: &[&str], body: &[u8]) -> Vec<u8> {
    let mut bytes = lines.join("\r\n").into_bytes();
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Several requests of every kind on one connection.
fn conversation() -> Vec<u8> {
    [
        request(&["GET /devices/a?api-version=1 HTTP/1.1", "Host: hub", "Accept:", "X:  y \t"], b""),
        b"\r\n".to_vec(),
        request(&["PUT /devices/a HTTP/1.1", "host: hub", "Content-Length: 5"], b"hello"),
        request(
            &["POST /x HTTP/1.1", "HOST: hub", "Transfer-Encoding: Chunked"],
            b"5\r\nhello\r\n1;a=\"b\"\r\n,\r\n0000A \r\n 0123\r\n456\r\n0\r\nTrailer: x\r\n\r\n",
        ),
        request(&["PUT /empty HTTP/1.1", "Host: hub", "Content-Length: 0"], b""),
        request(&["PUT /none HTTP/1.1", "Host: hub", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        request(&["DELETE /devices/a HTTP/1.1", "Host: hub"], b""),
    ]
    .concat()
}

fn conversation_heard() -> Vec<(String, Vec<u8>)> {
    let pair = |line: &str, body: &[u8]| (line.to_owned(), body.to_vec());
    vec![
        pair("GET /devices/a?api-version=1", b""),
        pair("PUT /devices/a", b"hello"),
        pair("POST /x", b"hello, 0123\r\n456"),
        pair("PUT /empty", b""),
        pair("PUT /none", b""),
        pair("DELETE /devices/a", b""),
    ]
}

#[test]
fn a_conversation_is_understood_in_any_cut() {
    let bytes = conversation();
    let whole = hear(Limits::default(), &[&bytes]);
    assert_eq!((whole.refusal, &whole.requests), (None, &conversation_heard()));
    assert_eq!(whole.output.windows(15).filter(|window| *window == b"HTTP/1.1 200 OK").count(), 6);

    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(hear(Limits::default(), &single), whole, "byte by byte");
    for cut in 0..bytes.len() {
        let (front, back) = bytes.split_at(cut);
        assert_eq!(hear(Limits::default(), &[front, back]), whole, "cut at {cut}");
    }
}

#[test]
fn a_head_that_lies_whole_is_not_copied() {
    let bytes = request(&["GET / HTTP/1.1", "Host: hub"], b"");
    let mut connection = Connection::new(Limits::default());
    let mut input = bytes.as_slice();
    let Ok(Some(Event::Head(head))) = connection.handle(&mut input, &mut Vec::new()) else { panic!() };
    assert!(bytes.as_ptr_range().contains(&head.target().as_ptr()));
    assert_eq!(connection.kept.capacity(), 0);
}

#[test]
fn fields_are_found_without_case() {
    let bytes = request(
        &["GET / HTTP/1.1", "Host: hub", "IF-match:  \"x\" ", "A: 1", "a: 2", "Connection: x , Close"],
        b"",
    );
    let mut connection = Connection::new(Limits::default());
    let mut input = bytes.as_slice();
    let Ok(Some(Event::Head(head))) = connection.handle(&mut input, &mut Vec::new()) else { panic!() };
    assert_eq!(
        (head.header("If-Match"), head.header("a"), head.header("b")),
        (Some("\"x\""), Some("1"), None)
    );
    assert!(head.has_element("connection", "close") && !head.has_element("connection", "clos"));
    assert_eq!(head.headers().count(), 5);
}

fn refused(bytes: &[u8]) -> Fault {
    let whole = hear(Limits::default(), &[bytes]);
    let refusal = whole.refusal.unwrap_or_else(|| panic!("taken: {:?}", String::from_utf8_lossy(bytes)));
    assert!(whole.output.ends_with(b"Connection: close\r\n\r\n"), "{:?}", whole.output);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(
        hear(Limits::default(), &single).refusal,
        Some(refusal),
        "{:?}",
        String::from_utf8_lossy(bytes)
    );
    refusal.fault
}

#[test]
fn requests_that_can_be_read_in_two_ways_are_refused() {
    let check = |lines: &[&str], body: &[u8], fault| {
        let lines = [&["POST / HTTP/1.1", "Host: hub"], lines].concat();
        let bytes = request(&lines, body);
        assert_eq!(refused(&bytes), fault, "{:?}", String::from_utf8_lossy(&bytes));
        // Whatever follows is not taken for a request.
        let followed = [&bytes[..], b"GET /smuggled HTTP/1.1\r\nHost: hub\r\n\r\n"].concat();
        assert!(
            hear(Limits::default(), &[&followed]).requests.iter().all(|(line, _)| !line.contains("smuggled"))
        );
    };
    check(&["Content-Length: 3", "Transfer-Encoding: chunked"], b"0\r\n\r\n", Fault::AmbiguousLength);
    check(&["Transfer-Encoding: chunked", "Content-Length: 3"], b"0\r\n\r\n", Fault::AmbiguousLength);
    check(&["Content-Length: 3", "Content-Length: 3"], b"abc", Fault::Length);
    check(&["Content-Length: 3", "content-length: 4"], b"abc", Fault::Length);
    check(&["Content-Length: 3, 3"], b"abc", Fault::Length);
    check(&["Content-Length: +3"], b"abc", Fault::Length);
    check(&["Content-Length: -1"], b"abc", Fault::Length);
    check(&["Content-Length: 0x3"], b"abc", Fault::Length);
    check(&["Content-Length: 3 3"], b"abc", Fault::Length);
    check(&["Content-Length:"], b"abc", Fault::Length);
    check(&["Content-Length: 99999999999999999999999"], b"abc", Fault::BodyTooLong);
    check(
        &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        b"0\r\n\r\n",
        Fault::AmbiguousLength,
    );
    check(
        &["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        b"0\r\n\r\n",
        Fault::AmbiguousLength,
    );
    check(&["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n", Fault::TransferCoding);
    check(&["Transfer-Encoding: chunked, identity"], b"0\r\n\r\n", Fault::TransferCoding);
    check(&["Transfer-Encoding: xchunked"], b"0\r\n\r\n", Fault::TransferCoding);
    check(&["Transfer-Encoding:"], b"0\r\n\r\n", Fault::TransferCoding);
    check(&["Transfer-Encoding : chunked"], b"0\r\n\r\n", Fault::Head);
    check(&["Content-Length : 3"], b"abc", Fault::Head);
    check(&[" Content-Length: 3"], b"abc", Fault::Head);
    check(&["X: y", "\tfolded"], b"", Fault::Head);
    check(&["X: y\r"], b"", Fault::LineEnd);
    check(&["X: y\rContent-Length: 3"], b"abc", Fault::LineEnd);
    check(&["X: y\nContent-Length: 3"], b"abc", Fault::LineEnd);
    check(&["Content\0-Length: 3"], b"abc", Fault::Head);
    check(&["X: a\0b"], b"", Fault::Head);
    check(&["no colon"], b"", Fault::Head);
    check(&["Host: other"], b"", Fault::Host);
    check(&["Expect: 200-ok"], b"", Fault::Expectation);
    let old = request(&["POST / HTTP/1.0", "Transfer-Encoding: chunked"], b"0\r\n\r\n");
    assert_eq!(refused(&old), Fault::AmbiguousLength);
}

#[test]
fn malformed_chunks_are_refused() {
    let check = |body: &[u8], fault| {
        let bytes = request(&["POST / HTTP/1.1", "Host: hub", "Transfer-Encoding: chunked"], body);
        assert_eq!(refused(&bytes), fault, "{:?}", String::from_utf8_lossy(body));
    };
    check(b"\r\n", Fault::Chunk);
    check(b"x\r\n", Fault::Chunk);
    check(b"+5\r\nhello\r\n", Fault::Chunk);
    check(b" 5\r\nhello\r\n", Fault::Chunk);
    check(b"0x5\r\nhello\r\n", Fault::Chunk);
    check(b"5\nhello\r\n", Fault::Chunk);
    check(b"5\rhello\r\n", Fault::Chunk);
    check(b"5\r\nhelloX\r\n", Fault::Chunk);
    check(b"5\r\nhello\n0\r\n\r\n", Fault::Chunk);
    check(b"5\r\nhello\r0\r\n\r\n", Fault::Chunk);
    check(b"5;a\nb\r\nhello\r\n", Fault::Chunk);
    check(b";a\r\n", Fault::Chunk);
    check(b"0\r\nTrailer: x\n\r\n", Fault::Chunk);
    check(b"0\r\nTrailer\0: x\r\n\r\n", Fault::Chunk);
    check(b"00000000000000005\r\nhello\r\n", Fault::Chunk);
    check(b"ffffffffffffffff\r\n", Fault::BodyTooLong);
    check(b"100001\r\n", Fault::BodyTooLong);
    check(&[b"1;".as_slice(), &[b'a'; 300], b"\r\n"].concat(), Fault::Chunk);
    check(&[b"0\r\n".as_slice(), &b"A: b\r\n".repeat(2100), b"\r\n"].concat(), Fault::Chunk);
}

#[test]
fn malformed_request_lines_are_refused() {
    for (line, fault) in [
        ("GET /", Fault::Head),
        ("GET  / HTTP/1.1", Fault::Head),
        ("GET / HTTP/1.1 x", Fault::Head),
        // What stands where the version should is not one.
        ("GET /a b HTTP/1.1", Fault::Version),
        ("G(T / HTTP/1.1", Fault::Head),
        ("GET / HTTP/2.0", Fault::Version),
        ("GET / HTTP/1.2", Fault::Version),
        ("GET / HTTP/0.9", Fault::Version),
        ("\u{16}\u{3}\u{1}", Fault::Head),
    ] {
        assert_eq!(refused(&request(&[line, "Host: hub"], b"")), fault, "{line:?}");
    }
    assert_eq!(refused(&request(&["GET / HTTP/1.1"], b"")), Fault::Host);
    assert_eq!(refused(&request(&["GET / HTTP/1.1", "Host:"], b"")), Fault::Host);
    assert_eq!(refused(b"\rGET / HTTP/1.1\r\n"), Fault::LineEnd);
    assert_eq!(refused(b"GET / HTTP/1.1\nHost: hub\n\n"), Fault::LineEnd);
}

#[test]
fn everything_has_a_limit() {
    let limits = Limits { head_bytes_max: 200, body_bytes_max: 10 };
    let padded =
        |count: usize| request(&["GET / HTTP/1.1", "Host: hub", &format!("X: {}", "y".repeat(count))], b"");
    let spare = 200 - padded(0).len();
    for pieces in [200, 1] {
        let hear = |bytes: &[u8]| hear(limits, &bytes.chunks(pieces).collect::<Vec<_>>()).refusal;
        assert_eq!(hear(&padded(spare)), None);
        assert_eq!(hear(&padded(spare + 1)).unwrap(), Refusal { status: 431, fault: Fault::HeadTooLong });
        assert_eq!(hear(&b"\r\n".repeat(101)).unwrap().fault, Fault::HeadTooLong);
        let body = |length: usize| {
            let field = format!("Content-Length: {length}");
            request(&["PUT / HTTP/1.1", "Host: hub", &field], &vec![b'x'; length])
        };
        assert_eq!(hear(&body(10)), None);
        assert_eq!(hear(&body(11)).unwrap(), Refusal { status: 413, fault: Fault::BodyTooLong });
        let chunked =
            |body: &[u8]| request(&["PUT / HTTP/1.1", "Host: hub", "Transfer-Encoding: chunked"], body);
        assert_eq!(hear(&chunked(b"5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n")), None);
        assert_eq!(
            hear(&chunked(b"5\r\n01234\r\n6\r\n567890\r\n0\r\n\r\n")).unwrap().fault,
            Fault::BodyTooLong
        );
    }
    let many = |count: usize| {
        let mut lines = vec!["GET / HTTP/1.1", "Host: hub"];
        lines.resize(count + 1, "X: y");
        hear(Limits::default(), &[&request(&lines, b"")]).refusal
    };
    assert_eq!(many(64), None);
    assert_eq!(many(65).unwrap(), Refusal { status: 431, fault: Fault::TooManyHeaders });
}

#[test]
fn connections_live_as_long_as_both_want() {
    let closes = |lines: &[&str]| {
        let heard =
            hear(Limits::default(), &[&request(lines, b""), b"GET /more HTTP/1.1\r\nHost: hub\r\n\r\n"]);
        (heard.requests.len() == 1, heard.output.windows(5).any(|window| window == b"close"))
    };
    assert_eq!(closes(&["GET / HTTP/1.1", "Host: hub"]), (false, false));
    assert_eq!(closes(&["GET / HTTP/1.1", "Host: hub", "Connection: keep-alive"]), (false, false));
    assert_eq!(closes(&["GET / HTTP/1.1", "Host: hub", "Connection: close"]), (true, true));
    assert_eq!(closes(&["GET / HTTP/1.1", "Host: hub", "Connection: x", "Connection: CLOSE"]), (true, true));
    assert_eq!(closes(&["GET / HTTP/1.0"]), (true, true));
    assert_eq!(closes(&["GET / HTTP/1.0", "Connection: Keep-Alive"]), (false, false));
}

#[test]
fn a_client_that_waits_is_told_to_continue() {
    let head = request(&["PUT / HTTP/1.1", "Host: hub", "Content-Length: 2", "Expect: 100-Continue"], b"");
    let heard = hear(Limits::default(), &[&head, b"ok"]);
    assert!(heard.output.starts_with(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), "{heard:?}");
    assert_eq!(heard.requests[0].1, b"ok");
    // One that does not wait is not.
    let heard = hear(Limits::default(), &[&[&head[..], b"ok"].concat()]);
    assert!(heard.output.starts_with(b"HTTP/1.1 200 OK"), "{heard:?}");
    // An answer before the body ends the connection: what follows might be the body or not.
    let mut connection = Connection::new(Limits::default());
    let (mut input, mut output) = (head.as_slice(), Vec::new());
    assert!(matches!(connection.handle(&mut input, &mut output), Ok(Some(Event::Head(_)))));
    connection.respond(&Response { status: 401, ..Response::default() }, &mut output);
    assert_eq!(output, b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert!(connection.is_closed());
}

#[test]
fn the_next_request_waits_for_the_answer() {
    let bytes = request(&["GET /1 HTTP/1.1", "Host: hub"], b"").repeat(2);
    let mut connection = Connection::new(Limits::default());
    let (mut input, mut output) = (bytes.as_slice(), Vec::new());
    assert!(connection.is_idle());
    assert!(matches!(connection.handle(&mut input, &mut output), Ok(Some(Event::Head(_)))));
    assert!(!connection.is_idle() && !connection.awaits_answer());
    assert!(matches!(connection.handle(&mut input, &mut output), Ok(Some(Event::End))));
    assert!(connection.awaits_answer());
    assert!(matches!(connection.handle(&mut input, &mut output), Ok(None)));
    assert_eq!(input.len(), bytes.len() / 2);
    connection.close();
    connection.respond(&Response { status: 200, ..Response::default() }, &mut output);
    assert!(connection.is_closed() && output.ends_with(b"Connection: close\r\n\r\n"));
}

#[test]
fn a_head_request_is_answered_without_body() {
    let bytes =
        [request(&["HEAD / HTTP/1.1", "Host: hub"], b""), request(&["GET / HTTP/1.1", "Host: hub"], b"")];
    let heard = hear(Limits::default(), &[&bytes.concat()]);
    let text = String::from_utf8(heard.output).unwrap();
    assert_eq!(
        text,
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2"
    );
}

/// Words from which requests and their attackers are made.
const WORDS: [&[u8]; 28] = [
    b"GET / HTTP/1.1\r\n",
    b"PUT /devices/a HTTP/1.1\r\n",
    b"POST / HTTP/1.0\r\n",
    b"Host: hub\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 3",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b":",
    b"3\r\n",
    b"abc",
    b"abc\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"ffffffffffffffff",
    b";x=y",
    b"\0",
    b"\xff\xfe",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"X: y\r\n",
    b"HEAD",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// Any bytes in any cut: no panic, and the cut makes no difference.
    #[test]
    fn words_in_any_order_and_cut(words in prop::collection::vec(0..WORDS.len(), 0..24), cuts in prop::collection::vec(1usize..40, 1..8)) {
        let bytes: Vec<u8> = words.iter().flat_map(|index| WORDS[*index]).copied().collect();
        check_cuts(&bytes, &cuts);
    }
}

fn check_cuts(bytes: &[u8], cuts: &[usize]) {
    let whole = hear(Limits::default(), &[bytes]);
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    for cut in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    let cut = hear(Limits::default(), &pieces);
    assert_eq!((&cut.requests, cut.refusal), (&whole.requests, whole.refusal));
}
