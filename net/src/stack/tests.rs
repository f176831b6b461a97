use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use engine::door::{Busy, Door};
use engine::request::{AppendView, Caller, ConnectionId, CoreId, Request, SecretText};
use rustls::ClientConnection;
use segment_log::Now;

use super::*;
use crate::binding::HubInfo;
use crate::binding::echo::Echo;
use crate::certificate::{Certificates, Name};
use crate::tls::{ClientStream, Trust, client_config};

/// A door to nowhere.
struct NoDoor;

impl Door for NoDoor {
    fn ask(&mut self, _caller: Caller, _request: Request) -> Result<(), Busy> {
        Err(Busy)
    }

    fn append(&mut self, _caller: Caller, _append: AppendView<'_>) -> Result<(), Busy> {
        Err(Busy)
    }
}

fn echo(_port: Port, _hub: &Context<'_>) -> Box<dyn Binding> {
    Box::new(Echo::default())
}

fn acceptor() -> (tempfile::TempDir, Acceptor, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::new(directory.path());
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    certificates.prepare(&[Name::parse("localhost").unwrap()], now_s).unwrap();
    let (chain, key) = certificates.load().unwrap();
    let ca = std::fs::read(certificates.ca_path()).unwrap();
    (directory, Acceptor::new(&chain, &key).unwrap(), ca)
}

struct World {
    stack: Stack,
    mono_ms: Cell<u64>,
    hub: HubInfo,
}

impl World {
    fn new(port: Port) -> (tempfile::TempDir, Vec<u8>, Self) {
        let (directory, acceptor, ca) = acceptor();
        let stack = Stack::open(port, &acceptor, echo, 0).unwrap();
        let hub =
            HubInfo { administration_token: SecretText::new("t"), ..HubInfo::new("hub", "localhost", 4) };
        (directory, ca, Self { stack, mono_ms: Cell::new(0), hub })
    }

    /// One turn; returns what reached the wire.
    fn turn(&mut self, act: impl FnOnce(&mut Stack, &mut Turn<'_, '_>)) -> Vec<u8> {
        let (mut plaintext, mut wire) = (Vec::new(), Vec::new());
        let mut context = Context {
            door: &mut NoDoor,
            connection: ConnectionId { core: CoreId(0), slot: 0, generation: 0 },
            now: Now { wall_ms: 0, mono_ms: self.mono_ms.get() },
            hub: &self.hub,
            transport: self.stack.port.transport(),
            peer: "127.0.0.1:1".parse().unwrap(),
            output_pending_bytes: 0,
            refused_logins: Vec::new(),
        };
        let mut turn = Turn { plaintext: &mut plaintext, wire: &mut wire, hub: &mut context };
        act(&mut self.stack, &mut turn);
        self.stack.end_turn(&mut turn);
        assert!(plaintext.is_empty());
        wire
    }

    fn give(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut scratch = self.stack.carried().to_vec();
        scratch.extend_from_slice(bytes);
        self.turn(|stack, turn| stack.handle_input(&mut scratch, turn))
    }
}

#[test]
fn what_the_binding_does_not_want_waits_in_order() {
    let (_directory, _ca, mut world) = World::new(Port::PlainAmqp);
    assert_eq!(world.give(b"ab!cd!e"), b"ab!\n");
    assert!(!world.stack.wants_input());
    assert_eq!(world.give(b"fg"), b"", "one more read had been under way");
    assert_eq!(world.turn(|stack, turn| stack.handle_reply(1, Reply::Done, turn)), b"[1]cd!\n");
    assert!(!world.stack.wants_input());
    assert_eq!(world.turn(|stack, turn| stack.handle_reply(2, Reply::Done, turn)), b"[2]efg\n");
    assert!(world.stack.wants_input());
}

#[test]
fn a_turn_with_nothing_to_say_sends_nothing() {
    let (_directory, _ca, mut world) = World::new(Port::PlainAmqp);
    assert_eq!(world.turn(|_, _| {}), b"");
    assert_eq!(world.give(b""), b"");
    assert!(!world.stack.has_spoken());
}

#[test]
fn the_end_comes_once_and_nothing_follows_it() {
    let (_directory, _ca, mut world) = World::new(Port::PlainAmqp);
    assert_eq!(world.give(b"a.b"), b"a.");
    assert_eq!(world.stack.closing(), Some(&Closing::Orderly));
    assert_eq!(world.give(b"c"), b"");
    assert_eq!(world.turn(|stack, turn| stack.handle_reply(1, Reply::Done, turn)), b"");
    assert_eq!(world.stack.next_timeout_ms(), None);

    let (_directory, _ca, mut world) = World::new(Port::PlainAmqp);
    assert_eq!(world.give(b"a?b"), b"a?");
    assert_eq!(world.stack.closing(), Some(&Closing::fault("a question")));
}

#[test]
fn silence_ends_and_words_move_the_deadline_to_the_binding() {
    let (_directory, _ca, mut world) = World::new(Port::Amqps);
    assert_eq!(world.stack.next_timeout_ms(), Some(FIRST_WORD_TIMEOUT_MS));
    world.mono_ms.set(FIRST_WORD_TIMEOUT_MS - 1);
    world.turn(|stack, turn| stack.handle_timeout(turn));
    assert_eq!(world.stack.closing(), None);
    // Bytes that never become a record do not buy time.
    world.give(&[0x16, 3, 1, 1, 0]);
    world.mono_ms.set(FIRST_WORD_TIMEOUT_MS);
    world.turn(|stack, turn| stack.handle_timeout(turn));
    assert_eq!(world.stack.closing(), Some(&Closing::fault("said nothing in time")));

    let (_directory, _ca, mut world) = World::new(Port::PlainAmqp);
    world.give(b"a");
    assert_eq!(world.stack.next_timeout_ms(), Some(1000));
    world.mono_ms.set(999);
    assert_eq!(world.turn(|stack, turn| stack.handle_timeout(turn)), b"", "early is not yet");
    world.mono_ms.set(1000);
    assert_eq!(world.turn(|stack, turn| stack.handle_timeout(turn)), b"tick\n");
}

#[test]
fn a_stop_reaches_those_who_talk_and_ends_those_who_do_not() {
    let (_directory, _ca, mut world) = World::new(Port::PlainAmqp);
    world.give(b"a");
    assert_eq!(world.turn(|stack, turn| stack.begin_stop(turn)), b"stop\n");
    assert_eq!(world.stack.closing(), Some(&Closing::Orderly));
    let (_directory, _ca, mut world) = World::new(Port::Https);
    assert_eq!(world.turn(|stack, turn| stack.begin_stop(turn)), b"");
    assert_eq!(world.stack.closing(), Some(&Closing::Orderly));
}

#[test]
fn what_is_not_tls_gets_an_alert_and_ends() {
    let (_directory, _ca, mut world) = World::new(Port::Https);
    let wire = world.give(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(wire[0], 21, "an alert");
    assert!(matches!(world.stack.closing(), Some(Closing::Fault(_))));
    assert!(!world.stack.has_spoken());
}

/// The blocking client of the command line against a stack behind a real socket.
#[test]
fn the_command_lines_client_talks_through_tls() {
    let (_directory, ca, mut world) = World::new(Port::Amqps);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let client = std::thread::spawn(move || {
        let socket = std::net::TcpStream::connect(address).unwrap();
        let mut stream =
            ClientStream::new(socket, "localhost", &Trust { ca_pem: Some(ca), server_pem: None }).unwrap();
        stream.write_all(b"hello.").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    let (mut socket, _) = listener.accept().unwrap();
    let mut buffer = [0; 4096];
    while world.stack.closing().is_none() {
        let count = socket.read(&mut buffer).unwrap();
        let wire = world.give(&buffer[..count]);
        socket.write_all(&wire).unwrap();
    }
    drop(socket);
    assert_eq!(client.join().unwrap(), b"hello.");
}

/// A client and the stack face to face, past the handshake.
fn talking(world: &mut World, ca: Vec<u8>) -> ClientConnection {
    let trust = Trust { ca_pem: Some(ca), server_pem: None };
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config(&trust).unwrap()), name).unwrap();
    while client.is_handshaking() {
        let said = words(&mut client);
        hear(&mut client, &world.give(&said));
    }
    client
}

/// What a client has to send.
fn words(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// What a client understands; an end of it is no fault.
fn hear(client: &mut ClientConnection, mut wire: &[u8]) -> Vec<u8> {
    while !wire.is_empty() {
        client.read_tls(&mut wire).unwrap();
        client.process_new_packets().unwrap();
    }
    let mut heard = Vec::new();
    let _ = client.reader().read_to_end(&mut heard);
    heard
}

#[test]
fn words_in_front_of_a_close_are_heard() {
    let (_directory, ca, mut world) = World::new(Port::Amqps);
    let mut client = talking(&mut world, ca);
    // All of it in one read, of several records.
    for said in ["a!", "b!", "c"] {
        client.writer().write_all(said.as_bytes()).unwrap();
    }
    client.send_close_notify();
    let said = words(&mut client);
    let wire = world.give(&said);
    assert_eq!(hear(&mut client, &wire), b"a!\n");
    assert_eq!(world.stack.closing(), None, "there is more to be heard");
    assert!(!world.stack.wants_input());
    let wire = world.turn(|stack, turn| stack.handle_reply(1, Reply::Done, turn));
    assert_eq!(hear(&mut client, &wire), b"[1]b!\n");
    assert_eq!(world.stack.closing(), None, "there is more to be heard");
    let wire = world.turn(|stack, turn| stack.handle_reply(2, Reply::Done, turn));
    assert_eq!(hear(&mut client, &wire), b"[2]c\n");
    assert_eq!(world.stack.closing(), Some(&Closing::Orderly));
}

#[test]
fn a_close_waits_for_what_the_binding_has_in_work_and_for_no_more() {
    for (said, is_over) in [("a", true), ("a!", false), ("a.", true)] {
        let (_directory, ca, mut world) = World::new(Port::Amqps);
        let mut client = talking(&mut world, ca);
        client.writer().write_all(said.as_bytes()).unwrap();
        client.send_close_notify();
        let said = words(&mut client);
        world.give(&said);
        assert_eq!(world.stack.closing().is_some(), is_over);
        world.turn(|stack, turn| stack.handle_reply(1, Reply::Done, turn));
        assert_eq!(world.stack.closing(), Some(&Closing::Orderly));
    }
    // Nothing was said.
    let (_directory, ca, mut world) = World::new(Port::Amqps);
    let mut client = talking(&mut world, ca);
    client.send_close_notify();
    let said = words(&mut client);
    world.give(&said);
    assert_eq!(world.stack.closing(), Some(&Closing::Orderly));
}
