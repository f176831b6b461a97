//! Peers that break the rules: the condition that each fault is answered with, and how much of the connection it ends.

use net_amqp::performative::{Begin, Disposition, Flow, Performative, Transfer};
use net_amqp::{Config, LinkRole, SaslRole, condition};

use crate::pair::{End, Seen};
use crate::windows::{open_end, receiving_end, receiving_end_with};
use crate::wire;

/// What a fault takes with it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    Connection,
    Session,
    Link,
    Nothing,
}

/// Feeds `bytes` to a hub with a session on channel 0 and a link that takes messages on handle 0, and checks that the fault is
/// answered with `condition`, on the wire as in the event, and ends what it should.
#[track_caller]
fn check(name: &str, bytes: &[u8], ends: Ends, condition: &str) {
    let mut end = receiving_end();
    end.take(bytes, 0);
    check_end(name, end, ends, condition);
}

#[track_caller]
fn check_end(name: &str, mut end: End, ends: Ends, condition: &str) {
    let output = std::mem::take(&mut end.output);
    let written = wire::performatives(&output);
    let on_the_wire = written.iter().find_map(|performative| match performative {
        Performative::Close(close) => Some((Ends::Connection, close.error.clone())),
        Performative::End(end) => Some((Ends::Session, end.error.clone())),
        Performative::Detach(detach) => Some((Ends::Link, detach.error.clone())),
        _ => None,
    });
    let last_event = end.events().pop();
    let reported = match (&end.closed, last_event) {
        (Some(closed), _) => Some((Ends::Connection, Some(closed.error.clone()))),
        (None, Some(Seen::Ended { error, .. })) => Some((Ends::Session, error)),
        (None, Some(Seen::Detached { error, .. })) => Some((Ends::Link, error)),
        _ => None,
    };
    for (place, found) in [("wire", on_the_wire), ("event", reported)] {
        match found {
            Some((what, Some(error))) => {
                assert_eq!((what, &*error.condition), (ends, condition), "{name}: {place}");
            }
            Some((what, None)) => panic!("{name}: {place}: {what:?} without error"),
            None => assert_eq!(ends, Ends::Nothing, "{name}: nothing in the {place}"),
        }
    }
    assert_eq!(end.connection.is_closed(), ends == Ends::Connection, "{name}");
    assert_eq!(
        end.connection.session_count(),
        u32::from(matches!(ends, Ends::Link | Ends::Nothing)),
        "{name}"
    );
}

#[test]
fn frames_that_are_none() {
    let framing = condition::CONNECTION_FRAMING_ERROR;
    let cases: &[(&str, &[u8])] = &[
        ("size 0", &[0, 0, 0, 0, 2, 0, 0, 0]),
        ("size 7", &[0, 0, 0, 7, 2, 0, 0, 0]),
        ("oversize", &[0, 1, 0, 1, 2, 0, 0, 0]),
        ("largest size", &[0xff; 8]),
        ("doff 0", &[0, 0, 0, 8, 0, 0, 0, 0]),
        ("doff 1", &[0, 0, 0, 8, 1, 0, 0, 0]),
        ("doff beyond the end", &[0, 0, 0, 8, 3, 0, 0, 0]),
        ("unknown type", &[0, 0, 0, 8, 2, 7, 0, 0]),
        ("SASL after the open", &[0, 0, 0, 8, 2, 1, 0, 0]),
    ];
    for (name, bytes) in cases {
        check(name, bytes, Ends::Connection, framing);
    }
}

#[test]
fn harmless_frames_are_taken() {
    check("heartbeat", &[0, 0, 0, 8, 2, 0, 0, 0], Ends::Nothing, "");
    check("heartbeat on another channel", &[0, 0, 0, 8, 2, 0, 0x12, 0x34], Ends::Nothing, "");
    let mut extended = vec![0, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3, 4];
    wire::disposition(0, u32::MAX).encode(&mut extended);
    extended[3] = extended.len() as u8;
    check("an extended header", &extended, Ends::Nothing, "");
    let nobody = wire::amqp(0, |out| wire::disposition(500, 400).encode(out));
    check("a disposition of nothing", &nobody, Ends::Nothing, "");
}

#[test]
fn bodies_that_are_none() {
    let decode = condition::DECODE_ERROR;
    let field = condition::INVALID_FIELD;
    let mut bomb = vec![0x00, 0x53, 0x12, 0xd0, 0, 0, 0x40, 0, 0, 0, 0, 14];
    // Lists of one list each, forty thousand deep: the name of an attach.
    bomb.extend([0xc0, 0xff, 0x01].repeat(5000));
    let chain = [0x00, 0x53, 0x12].repeat(10_000);
    let mut map_bomb = Vec::new();
    nested_properties(&mut map_bomb, 200);
    let cases: &[(&str, &[u8], &str)] = &[
        ("no descriptor", &[0x45], decode),
        ("half a descriptor", &[0x00, 0x53], decode),
        ("a descriptor of another type", &[0x00, 0xa1, 0x01, b'x', 0x45], decode),
        ("an unknown descriptor", &[0x00, 0x53, 0x77, 0x45], decode),
        ("a descriptor of 64 bits", &[0x00, 0x80, 1, 0, 0, 0, 0, 0, 0, 0x14, 0x45], decode),
        ("an unknown name", b"\x00\xa3\x05hello\x45", decode),
        ("a map for fields", &[0x00, 0x53, 0x12, 0xc1, 0x01, 0x00], field),
        ("no fields", &[0x00, 0x53, 0x12, 0x45], field),
        ("an unknown constructor", &[0x00, 0x53, 0x14, 0xc0, 0x02, 0x01, 0x99], decode),
        ("a size beyond the frame", &[0x00, 0x53, 0x14, 0xd0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1], decode),
        ("a count beyond the size", &[0x00, 0x53, 0x14, 0xc0, 0x03, 0xff, 0x43, 0x43], decode),
        ("a negative handle", &[0x00, 0x53, 0x14, 0xc0, 0x03, 0x01, 0x54, 0xff], field),
        ("a handle of 33 bits", &[0x00, 0x53, 0x14, 0xc0, 0x0a, 0x01, 0x80, 0, 0, 0, 1, 0, 0, 0, 0], field),
        ("a string for a handle", &[0x00, 0x53, 0x14, 0xc0, 0x04, 0x01, 0xa1, 0x01, b'x'], field),
        ("nested lists", &bomb, decode),
        ("a chain of descriptors", &chain, decode),
        ("maps too deep", &map_bomb, decode),
    ];
    for (name, body, condition) in cases {
        check(name, &wire::frame(0, 0, body), Ends::Connection, condition);
    }
}

/// An attach whose properties are maps in maps.
fn nested_properties(out: &mut Vec<u8>, depth: usize) {
    use net_amqp::value::{Map, encode};
    let mut inner = Vec::new();
    encode::map(&mut inner, &Map::EMPTY);
    for _ in 0..depth {
        let mut outer = Vec::new();
        let map = encode::begin_map(&mut outer);
        encode::symbol(&mut outer, "k");
        outer.extend_from_slice(&inner);
        map.end(&mut outer, 2);
        inner = outer;
    }
    let mut attach = wire::attach("deep", 1, LinkRole::Sender);
    attach.properties = Some(Map::from_encoded(&inner).unwrap());
    attach.encode(out);
}

#[test]
fn arrays_of_nothing_are_no_bomb() {
    // Four thousand million nulls in eleven bytes, as desired capabilities.
    let mut body = Vec::new();
    let attach = wire::attach("a", 1, LinkRole::Sender);
    attach.encode(&mut body);
    // The last two fields are null: desired-capabilities and properties.
    body.truncate(body.len() - 2);
    body.extend_from_slice(&[0xf0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x40, 0x40]);
    let size = (body.len() - 8) as u32;
    body[4..8].copy_from_slice(&size.to_be_bytes());
    check("an array of nothing", &wire::frame(0, 0, &body), Ends::Connection, condition::DECODE_ERROR);
}

#[test]
fn channels() {
    let illegal = condition::ILLEGAL_STATE;
    check("a channel in use", &wire::begin(0, 10), Ends::Connection, illegal);
    let flow = wire::amqp(7, |out| wire::flow(None, None).encode(out));
    check("a channel without session", &flow, Ends::Connection, illegal);
    let above = wire::begin(8192, 10);
    check("a channel above channel-max", &above, Ends::Connection, condition::CONNECTION_FRAMING_ERROR);
    let answer = Begin {
        remote_channel: Some(3),
        next_outgoing_id: 0,
        incoming_window: 1,
        outgoing_window: 1,
        handle_max: 1,
        offered_capabilities: net_amqp::Symbols::Absent,
        desired_capabilities: net_amqp::Symbols::Absent,
        properties: None,
    };
    let answer = wire::amqp(1, |out| answer.encode(out));
    check("an answer to nothing", &answer, Ends::Connection, condition::INVALID_FIELD);
    check("a second open", &wire::open(512), Ends::Connection, illegal);
}

#[test]
fn handles() {
    let attach = |handle| wire::attach_frame(0, "another", handle, LinkRole::Sender);
    check("a handle in use", &attach(0), Ends::Session, condition::SESSION_HANDLE_IN_USE);
    check(
        "a handle above handle-max",
        &attach(262_144),
        Ends::Connection,
        condition::CONNECTION_FRAMING_ERROR,
    );
    let unattached = condition::SESSION_UNATTACHED_HANDLE;
    let flow = wire::amqp(0, |out| wire::flow(Some(9), Some(1)).encode(out));
    check("a flow on no handle", &flow, Ends::Session, unattached);
    let transfer = wire::transfer(0, &wire::delivery(9, 0), b"x");
    check("a transfer on no handle", &transfer, Ends::Session, unattached);
    let detach = net_amqp::performative::Detach { handle: 9, closed: true, error: None };
    check("a detach of no handle", &wire::amqp(0, |out| detach.encode(out)), Ends::Session, unattached);
}

#[test]
fn deliveries() {
    let delivery = wire::delivery(0, 5);
    let one = |transfer: &Transfer<'_>| wire::transfer(0, transfer, b"x");
    let field = condition::INVALID_FIELD;
    let without_id = Transfer { delivery_id: None, ..delivery.clone() };
    check("no delivery-id", &one(&without_id), Ends::Session, field);
    let without_tag = Transfer { delivery_tag: None, ..delivery.clone() };
    check("no delivery-tag", &one(&without_tag), Ends::Session, field);
    let long_tag = Transfer { delivery_tag: Some(&[0; 33]), ..delivery.clone() };
    check("a tag of 33 bytes", &one(&long_tag), Ends::Link, field);
    check("an id twice", &[one(&delivery), one(&delivery)].concat(), Ends::Session, field);
    let earlier = wire::delivery(0, 4);
    check("an id that goes back", &[one(&delivery), one(&earlier)].concat(), Ends::Session, field);
    let far = wire::delivery(0, 5 + (1 << 31));
    check("an id half the circle away", &[one(&delivery), one(&far)].concat(), Ends::Session, field);
    let more = Transfer { more: true, ..delivery.clone() };
    let other = wire::delivery(0, 6);
    check("another delivery in the middle", &[one(&more), one(&other)].concat(), Ends::Link, field);
    let too_many: Vec<u8> = (0..101).flat_map(|id| one(&wire::delivery(0, id))).collect();
    check("more than the credit", &too_many, Ends::Link, condition::LINK_TRANSFER_LIMIT_EXCEEDED);
}

#[test]
fn messages_without_end() {
    let large = condition::LINK_MESSAGE_SIZE_EXCEEDED;
    let more = Transfer { more: true, ..wire::delivery(0, 1) };
    let frame = wire::transfer(0, &more, &[0; 65_000]);
    check("a transfer that never ends", &frame.repeat(17), Ends::Link, large);
    let frame = wire::transfer(0, &more, &[]);
    check("a transfer that never ends nor begins", &frame.repeat(20_000), Ends::Link, large);
    let hub = Config { message_bytes_max: 100, ..Config::default() };
    let mut end = receiving_end_with(hub);
    end.take(&wire::transfer(0, &wire::delivery(0, 1), &[0; 101]), 0);
    check_end("one frame too large", end, Ends::Link, large);
}

#[test]
fn transfers_where_none_belong() {
    let mut end = open_end(Config::default(), 65536);
    end.take(&wire::begin(0, 100), 0);
    end.take(&wire::attach_frame(0, "a", 0, LinkRole::Sender), 0);
    end.take(&wire::transfer(0, &wire::delivery(0, 1), b"x"), 0);
    check_end("before the attach is answered", end, Ends::Link, condition::ILLEGAL_STATE);

    let mut end = open_end(Config::default(), 65536);
    end.take(&wire::begin(0, 100), 0);
    end.take(&wire::attach_frame(0, "a", 0, LinkRole::Receiver), 0);
    let Some(Seen::Attached { link, .. }) = end.events().pop() else { panic!("an attach") };
    end.accept(link);
    end.output.clear();
    end.take(&wire::transfer(0, &wire::delivery(0, 1), b"x"), 0);
    check_end("on a link on which we send", end, Ends::Link, condition::ILLEGAL_STATE);
}

#[test]
fn the_incoming_window_is_enforced() {
    // The machine refreshes its window in time; a window of one transfer is used up by each.
    let mut end = receiving_end_with(Config { incoming_window: 0, ..Config::default() });
    end.take(&wire::transfer(0, &wire::delivery(0, 1), b"x"), 0);
    check_end("beyond the window", end, Ends::Session, condition::SESSION_WINDOW_VIOLATION);
}

#[test]
fn opens() {
    let begin_first = [wire::AMQP, &wire::begin(0, 1)[..]].concat();
    let mut end = End::new(net_amqp::Role::Server, Config::default());
    end.take(&begin_first, 0);
    assert_eq!(end.closed.as_ref().unwrap().error.condition, condition::ILLEGAL_STATE);
    // Whoever closes has opened [AMQP 2.4.3].
    let written = wire::performatives(&end.output);
    assert!(matches!(&written[..], [Performative::Open(_), Performative::Close(_)]));

    let mut end = End::new(net_amqp::Role::Server, Config::default());
    end.take(&[wire::AMQP, &wire::open(511)].concat(), 0);
    assert_eq!(end.closed.as_ref().unwrap().error.condition, condition::INVALID_FIELD);

    let mut end = End::new(net_amqp::Role::Server, Config::default());
    end.take(&[wire::AMQP, &[0, 0, 0x20, 1, 2, 0, 0, 0]].concat(), 0);
    assert_eq!(end.closed.as_ref().unwrap().error.condition, condition::CONNECTION_FRAMING_ERROR);
}

#[test]
fn headers() {
    let cases: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n\r\n",
        b"AMQP\x00\x00\x09\x01",
        b"AMQP\x02\x01\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        wire::SASL,
    ];
    for header in cases {
        let mut end = End::new(net_amqp::Role::Server, Config::default());
        end.take(header, 0);
        assert_eq!(end.closed.as_ref().unwrap().error.condition, condition::NOT_IMPLEMENTED);
        assert_eq!(end.output, wire::AMQP, "we say what we speak");
        end.take(b"more", 0);
        assert!(end.connection.is_closed());
    }
}

#[test]
fn sasl_out_of_turn() {
    let sasl = Config { sasl: SaslRole::Offer(vec!["PLAIN"]), ..Config::default() };
    let init = wire::sasl_init("PLAIN", b"\0user\0password");
    let cases: &[(&str, Vec<u8>)] = &[
        ("an AMQP frame", wire::open(512)),
        ("an outcome from the client", wire::frame(1, 0, &[0x00, 0x53, 0x44, 0xc0, 0x03, 0x01, 0x50, 0x00])),
        ("a frame larger than a token", vec![0, 0, 0x20, 1, 2, 1, 0, 0]),
        ("too much sent ahead", [&init[..], &[0; 8193]].concat()),
    ];
    for (name, bytes) in cases {
        let mut end = End::new(net_amqp::Role::Server, sasl.clone());
        end.take(wire::SASL, 0);
        end.take(bytes, 0);
        assert!(end.closed.is_some() && end.connection.is_closed(), "{name}");
        assert!(wire::performatives(&end.output).is_empty(), "{name}: no AMQP frame before the open");
    }
}

#[test]
fn too_many_sessions_are_ended_one_by_one() {
    let mut end = open_end(Config { session_count_max: 2, ..Config::default() }, 65536);
    for channel in 0..4 {
        end.take(&wire::begin(channel, 10), 0);
    }
    assert_eq!(end.events().len(), 2);
    assert_eq!(end.connection.session_count(), 2);
    let written = wire::performatives(&end.output);
    let ended = |performative: &&Performative<'_>| {
        matches!(performative, Performative::End(end)
            if end.error.as_ref().unwrap().condition == condition::RESOURCE_LIMIT_EXCEEDED)
    };
    assert_eq!(written.iter().filter(ended).count(), 2);
    // What is sent there meanwhile is ignored.
    end.take(&wire::attach_frame(3, "a", 0, LinkRole::Sender), 0);
    assert!(end.connection.is_open());
    assert_eq!(end.events(), []);
}

#[test]
fn too_many_links_are_refused_and_then_end_the_session() {
    let mut end = open_end(Config { link_count_max: 3, ..Config::default() }, 65536);
    end.take(&wire::begin(0, 10), 0);
    end.events();
    for handle in 0..1000 {
        let name = format!("link {handle}");
        end.take(&wire::attach_frame(0, &name, handle, LinkRole::Sender), 0);
    }
    let events = end.events();
    let attached = events.iter().filter(|event| matches!(event, Seen::Attached { .. })).count();
    assert_eq!(attached, 3);
    assert!(matches!(events.last(), Some(Seen::Ended { error: Some(error), .. })
        if error.condition == condition::RESOURCE_LIMIT_EXCEEDED));
    assert_eq!((end.connection.link_count(), end.connection.held_bytes()), (0, 0));
}

#[test]
fn attaches_that_wait_for_an_answer_are_bounded() {
    let mut end = open_end(Config { held_bytes_max: 500, ..Config::default() }, 65536);
    end.take(&wire::begin(0, 10), 0);
    for handle in 0..100 {
        let name = format!("link {handle}");
        end.take(&wire::attach_frame(0, &name, handle, LinkRole::Sender), 0);
        assert!(end.connection.held_bytes() <= 500);
    }
    assert!(end.connection.is_open());
    assert!(end.events().len() < 10);
}

#[test]
fn a_coordinator_is_refused() {
    let mut end = open_end(Config::default(), 65536);
    end.take(&wire::begin(0, 10), 0);
    end.events();
    end.output.clear();
    let mut body = Vec::new();
    wire::attach("tx", 0, LinkRole::Sender).encode(&mut body);
    // A target becomes a coordinator by its descriptor; both are lists.
    let target = body.windows(3).rposition(|bytes| bytes == [0x00, 0x53, 0x29]).unwrap();
    body[target + 2] = 0x30;
    end.take(&wire::frame(0, 0, &body), 0);
    assert_eq!(end.events(), []);
    let written = wire::performatives(&end.output);
    assert!(matches!(&written[..], [Performative::Attach(attach), Performative::Detach(detach)]
        if attach.target.is_none() && detach.error.as_ref().unwrap().condition == condition::NOT_IMPLEMENTED));
}

#[test]
fn an_error_is_shortened_to_the_peers_frame_size() {
    let mut end = open_end(Config::default(), 512);
    end.take(&wire::begin(0, 10), 0);
    end.take(&wire::attach_frame(0, "a", 0, LinkRole::Sender), 0);
    let Some(Seen::Attached { link, .. }) = end.events().pop() else { panic!("an attach") };
    end.output.clear();
    let error = net_amqp::Error::new(condition::NOT_FOUND, "x".repeat(1000));
    assert!(end.connection.refuse_link(link, &error, &mut end.output));
    let bodies = wire::bodies(&end.output);
    assert!(bodies.iter().all(|(_, body)| body.len() <= 504));
    assert!(matches!(Performative::decode(bodies[1].1), Ok(Performative::Detach(detach))
        if detach.error.as_ref().unwrap().condition == condition::NOT_FOUND));
}

#[test]
fn after_a_fault_other_sessions_and_links_go_on() {
    let mut end = receiving_end();
    end.take(&wire::begin(1, 10), 0);
    end.take(&wire::attach_frame(1, "b", 0, LinkRole::Sender), 0);
    let Some(Seen::Attached { link, .. }) = end.events().pop() else { panic!("an attach") };
    end.accept(link);
    end.grant(link, 5);
    let flow = Flow { ..wire::flow(Some(9), None) };
    end.take(&wire::amqp(0, |out| flow.encode(out)), 0);
    assert!(matches!(end.events().last(), Some(Seen::Ended { .. })));
    end.take(&wire::transfer(1, &wire::delivery(0, 1), b"x"), 0);
    assert!(matches!(end.event(), Seen::Transfer { .. }));
    let told = Disposition { role: LinkRole::Sender, ..wire::disposition(1, 1) };
    end.take(&wire::amqp(1, |out| told.encode(out)), 0);
    assert!(matches!(end.event(), Seen::Settled { .. }), "a sender may settle first");
    end.take(&wire::close(), 0);
    assert!(matches!(end.event(), Seen::Closed { error: None }));
}
