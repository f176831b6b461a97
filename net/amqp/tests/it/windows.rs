//! Session windows, frame sizes and bounds on what a connection holds.

use net_amqp::performative::{Performative, Transfer};
use net_amqp::{Config, DeliveryState, SendDelivery, SendRefused, condition};

use crate::pair::{Cuts, End, Pair, Random, Seen};
use crate::wire;

fn config(incoming_window: u32, max_frame_bytes: u32) -> Config {
    Config { incoming_window, max_frame_bytes, ..Config::default() }
}

#[test]
fn thousands_of_messages_pass_a_small_window() {
    let mut pair = Pair::open_with(config(64, 65536), Config::default(), Cuts::Random(1));
    let (session, _) = pair.begin();
    let (sender, receiver) = pair.telemetry(session, "events", 1000);
    let mut received = 0;
    let mut sent = 0;
    while received < 4000 {
        while sent < 4000 && pair.client.send(sender, &u32::to_be_bytes(sent), false).is_ok() {
            sent += 1;
        }
        pair.run();
        let mut ids = Vec::new();
        for event in pair.hub.events() {
            let Seen::Transfer { id, payload, .. } = event else { panic!("{event:?}") };
            assert_eq!(payload, u32::to_be_bytes(received));
            received += 1;
            ids.push(id);
        }
        assert!(!ids.is_empty(), "stalled after {received}");
        assert!(pair.hub.settle(receiver, ids[0], ids[ids.len() - 1], &DeliveryState::Accepted));
        if pair.hub.connection.credit(receiver) < 500 {
            pair.hub.grant(receiver, 1000);
        }
    }
    pair.run();
    let settled: u32 = pair
        .client
        .events()
        .into_iter()
        .map(|event| match event {
            Seen::Settled { first, last, settled: true, .. } => last - first + 1,
            _ => 0,
        })
        .sum();
    assert_eq!(settled, 4000);
}

#[test]
fn a_used_up_window_stops_the_sender_until_it_opens() {
    let mut pair = Pair::open_with(Config::default(), config(10, 65536), Cuts::None);
    let (session, hub_session) = pair.begin();
    let (_, source) = pair.reader(session, "reader", 1000);
    for _ in 0..10 {
        pair.hub.send(source, b"event", true).unwrap();
    }
    assert_eq!(pair.hub.connection.sendable(source), 0);
    assert_eq!(pair.hub.send(source, b"event", true), Err(SendRefused::WindowClosed));
    pair.run();
    assert_eq!(pair.hub.event(), Seen::Window(hub_session));
    assert!(pair.hub.connection.sendable(source) > 0);
    assert_eq!(pair.client.events().len(), 10);
}

#[test]
fn large_messages_are_split_to_the_smallest_frame_and_joined() {
    for cuts in [Cuts::None, Cuts::EveryByte, Cuts::Random(5)] {
        let mut pair = Pair::open_with(Config::default(), config(5000, 512), cuts);
        let (session, _) = pair.begin();
        let (reader, source) = pair.reader(session, "reader", 10);
        let message: Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
        let (a, b) = message.split_at(777);
        let delivery =
            SendDelivery { tag: &[7; 32], message_format: 3, settled: false, payload: &[a, &[], b] };
        let id = pair.hub.connection.send(source, &delivery, &mut pair.hub.output).unwrap();
        for (_, body) in wire::bodies(&pair.hub.output) {
            assert!(body.len() + 8 <= 512);
        }
        pair.run();
        assert_eq!(
            pair.client.event(),
            Seen::Transfer {
                link: reader,
                id,
                tag: vec![7; 32],
                format: 3,
                settled: false,
                payload: message
            }
        );
        assert_eq!(pair.client.connection.held_bytes(), 0);
    }
}

#[test]
fn a_message_waits_for_the_window_in_the_middle() {
    let mut pair = Pair::open_with(Config::default(), config(4, 512), Cuts::None);
    let (session, hub_session) = pair.begin();
    let (reader, source) = pair.reader(session, "reader", 10);
    let (_, other) = pair.reader(session, "other", 10);
    let message: Vec<u8> = (0..9_000u32).map(|n| (n / 3) as u8).collect();
    let id = pair.hub.send(source, &message, true).unwrap();
    assert!(pair.hub.connection.held_bytes() > 0);
    assert_eq!(pair.hub.send(other, b"x", true), Err(SendRefused::WindowClosed));
    pair.run();
    assert_eq!(
        pair.client.event(),
        Seen::Transfer { link: reader, id, tag: b"tag".into(), format: 0, settled: true, payload: message }
    );
    assert_eq!(pair.hub.event(), Seen::Window(hub_session));
    assert_eq!(pair.hub.connection.held_bytes(), 0);
    pair.hub.send(other, b"x", true).unwrap();
}

#[test]
fn what_waits_for_the_window_is_bounded_and_goes_with_its_link() {
    let hub = Config { held_bytes_max: 10_000, ..Config::default() };
    let mut end = open_end(hub, 512);
    end.take(&wire::begin(0, 2), 0);
    end.take(&wire::attach_frame(0, "a", 0, net_amqp::LinkRole::Receiver), 0);
    let Seen::Attached { link, .. } = end.events().pop().unwrap() else { panic!("an attach") };
    end.accept(link);
    let mut flow = wire::flow(Some(0), Some(10));
    flow.incoming_window = 2;
    end.take(&wire::amqp(0, |out| flow.encode(out)), 0);
    end.output.clear();
    assert_eq!(end.send(link, &[0; 20_000], true), Err(SendRefused::WindowClosed));
    assert!(end.output.is_empty(), "nothing is written of what is refused");
    end.send(link, &[0; 9_000], true).unwrap();
    assert_eq!(wire::performatives(&end.output).len(), 2);
    let held_bytes = end.connection.held_bytes();
    assert!((7_000..9_000).contains(&held_bytes));
    assert!(end.connection.detach(link, None, &mut end.output));
    assert_eq!(end.connection.held_bytes(), 0);
}

#[test]
fn unsettled_deliveries_are_bounded_on_both_sides() {
    let few = Config { unsettled_count_max: 5, ..Config::default() };
    let mut pair = Pair::open_with(few.clone(), Config::default(), Cuts::None);
    let (session, _) = pair.begin();
    let (_, source) = pair.reader(session, "reader", 100);
    for _ in 0..5 {
        pair.hub.send(source, b"x", false).unwrap();
    }
    assert_eq!(pair.hub.connection.sendable(source), 0);
    assert_eq!(pair.hub.send(source, b"x", false), Err(SendRefused::TooManyUnsettled));
    pair.hub.send(source, b"x", true).unwrap();
    pair.run();
    pair.client.events();
}

/// Who keeps to the window may send on until nothing more can be unsettled, waits then, and goes on when the hub settles.
#[test]
fn the_window_is_never_wider_than_what_may_be_unsettled() {
    let few = Config { unsettled_count_max: 8, incoming_window: 6, ..Config::default() };
    let mut pair = Pair::open_with(few, Config::default(), Cuts::None);
    let (session, hub_session) = pair.begin();
    let links = ["first", "second"].map(|name| pair.telemetry(session, name, 1000));
    let mut sent = 0;
    for turn in 0..40 {
        let (link, _) = links[turn % 2];
        while pair.client.connection.sendable(link) > 0 {
            pair.client.send(link, b"x", false).unwrap();
            sent += 1;
            pair.run();
        }
        assert_eq!(pair.client.send(link, b"x", false), Err(SendRefused::WindowClosed));
        let unsettled = pair.hub.events();
        assert!((5..=8).contains(&unsettled.len()), "{unsettled:?}");
        let Some(Seen::Transfer { id, .. }) = unsettled.first() else { panic!("{unsettled:?}") };
        let (first, last) = (*id, id + 7);
        if turn % 4 < 2 {
            let End { connection, output, .. } = &mut pair.hub;
            connection.settle_received(hub_session, (first, last), &DeliveryState::Accepted, output);
        } else {
            pair.hub.settle(links[turn % 2].1, first, last, &DeliveryState::Accepted);
        }
        pair.run();
    }
    assert!(sent >= 200, "{sent}");
    assert!(pair.client.events().iter().all(|event| !matches!(event, Seen::Ended { .. })));
}

/// A link that goes takes its unsettled deliveries along, and others may send.
#[test]
fn a_detached_link_gives_its_part_of_the_window_back() {
    let few = Config { unsettled_count_max: 8, incoming_window: 8, ..Config::default() };
    let mut pair = Pair::open_with(few, Config::default(), Cuts::None);
    let (session, _) = pair.begin();
    let [first, second] = ["first", "second"].map(|name| pair.telemetry(session, name, 1000).0);
    while pair.client.connection.sendable(first) > 0 {
        pair.client.send(first, b"x", false).unwrap();
        pair.run();
    }
    assert_eq!(pair.client.connection.sendable(second), 0);
    let End { connection, output, .. } = &mut pair.client;
    assert!(connection.detach(first, None, output));
    pair.run();
    assert!(pair.client.connection.sendable(second) > 0);
}

#[test]
fn a_message_that_the_peer_will_not_take_is_refused() {
    let mut end = open_end(Config::default(), 65536);
    end.take(&wire::begin(0, 100), 0);
    let mut attach = wire::attach("a", 0, net_amqp::LinkRole::Receiver);
    attach.max_message_bytes = Some(10);
    end.take(&wire::amqp(0, |out| attach.encode(out)), 0);
    let Seen::Attached { link, .. } = end.events().pop().unwrap() else { panic!("an attach") };
    end.accept(link);
    end.take(&wire::amqp(0, |out| wire::flow(Some(0), Some(10)).encode(out)), 0);
    let refused = SendRefused::TooLarge { message_bytes: 11, message_bytes_max: 10 };
    assert_eq!(end.send(link, &[0; 11], true), Err(refused));
    assert!(end.send(link, &[0; 10], true).is_ok());
}

#[test]
fn the_output_has_a_bound() {
    let hub = Config { output_bytes_max: 1000, ..Config::default() };
    let mut pair = Pair::open_with(hub, Config::default(), Cuts::None);
    let (session, _) = pair.begin();
    let (_, source) = pair.reader(session, "reader", 1000);
    let refused = (0..1000).find_map(|_| pair.hub.send(source, &[0; 100], true).err());
    assert_eq!(refused, Some(SendRefused::OutputFull));
    assert!(pair.hub.output.len() < 1200);
}

#[test]
fn delivery_ids_wrap_over_the_end() {
    let mut end = receiving_end();
    for (n, id) in [u32::MAX - 1, u32::MAX, 0, 1].into_iter().enumerate() {
        end.take(&wire::transfer(0, &wire::delivery(0, id), &[n as u8]), 0);
    }
    let events = end.events();
    let ids: Vec<_> = events
        .iter()
        .map(|event| match event {
            Seen::Transfer { id, .. } => *id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [u32::MAX - 1, u32::MAX, 0, 1]);
    let Seen::Transfer { link, .. } = events[0] else { unreachable!() };
    end.output.clear();
    assert!(end.settle(link, u32::MAX - 1, 1, &DeliveryState::Accepted));
    assert!(matches!(
        &wire::performatives(&end.output)[..],
        [Performative::Disposition(told)] if told.first == u32::MAX - 1 && told.last == Some(1)
    ));
}

#[test]
fn an_aborted_message_leaves_nothing_behind() {
    let mut end = receiving_end();
    let more = Transfer { more: true, ..wire::delivery(0, 1) };
    end.take(&wire::transfer(0, &more, &[1; 1000]), 0);
    assert_eq!(end.connection.held_bytes(), 1000);
    end.take(&wire::transfer(0, &Transfer { aborted: true, ..wire::delivery(0, 1) }, &[]), 0);
    let Seen::Aborted(link) = end.event() else { panic!("an abort") };
    assert_eq!((end.connection.held_bytes(), end.connection.credit(link)), (0, 99));
    end.take(&wire::transfer(0, &wire::delivery(0, 2), b"whole"), 0);
    assert!(matches!(end.event(), Seen::Transfer { payload, .. } if payload == b"whole"));
}

#[test]
fn a_message_in_parts_keeps_what_its_first_frame_said() {
    let mut end = receiving_end();
    let first = Transfer { more: true, message_format: Some(9), settled: Some(true), ..wire::delivery(0, 1) };
    let next = Transfer { handle: 0, more: true, ..Transfer::default() };
    let last = Transfer { handle: 0, ..Transfer::default() };
    end.take(&wire::transfer(0, &first, b"a"), 0);
    end.take(&wire::transfer(0, &next, b""), 0);
    end.take(&wire::transfer(0, &last, b"b"), 0);
    assert!(matches!(
        end.event(),
        Seen::Transfer { id: 1, format: 9, settled: true, payload, tag, .. } if payload == b"ab" && tag == b"t"
    ));
}

#[test]
fn several_messages_arrive_in_parts_at_once_within_the_bound() {
    let hub = Config { held_bytes_max: 50_000, ..Config::default() };
    let mut end = open_end(hub, 65536);
    end.take(&wire::begin(0, 100), 0);
    for handle in 0..4 {
        let name = format!("link {handle}");
        end.take(&wire::attach_frame(0, &name, handle, net_amqp::LinkRole::Sender), 0);
        let Seen::Attached { link, .. } = end.events().pop().unwrap() else { panic!("an attach") };
        end.accept(link);
        end.grant(link, 10);
    }
    for handle in 0..3 {
        let more = Transfer { more: true, ..wire::delivery(handle, handle) };
        end.take(&wire::transfer(0, &more, &[handle as u8; 15_000]), 0);
    }
    assert_eq!(end.events(), []);
    let more = Transfer { more: true, ..wire::delivery(3, 3) };
    end.take(&wire::transfer(0, &more, &[3; 15_000]), 0);
    assert!(matches!(end.event(), Seen::Detached { error: Some(error), .. }
        if error.condition == condition::RESOURCE_LIMIT_EXCEEDED));
    for handle in [2, 0, 1] {
        let last = Transfer { handle, ..Transfer::default() };
        end.take(&wire::transfer(0, &last, &[handle as u8; 1000]), 0);
        assert!(matches!(end.event(), Seen::Transfer { payload, .. } if payload == [handle as u8; 16_000]));
    }
    assert_eq!(end.connection.held_bytes(), 0);
}

#[test]
fn a_cut_frame_leaves_no_large_buffer_behind() {
    let mut end = receiving_end();
    let frame = wire::transfer(0, &wire::delivery(0, 1), &[5; 60_000]);
    let mut random = Random(3);
    let mut rest = &frame[..];
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at((1 + random.below(20_000)).min(rest.len()));
        end.take(piece, 0);
        rest = tail;
    }
    assert!(matches!(end.event(), Seen::Transfer { payload, .. } if payload == [5; 60_000]));
    assert_eq!(end.inbound.kept_bytes(), 0);
}

/// A hub to which a peer with this frame size has opened.
pub fn open_end(config: Config, max_frame_bytes: u32) -> End {
    let mut end = End::new(net_amqp::Role::Server, config);
    end.take(wire::AMQP, 0);
    end.take(&wire::open(max_frame_bytes), 0);
    assert!(end.connection.is_open());
    end.events();
    end
}

/// A hub with one link on handle 0 that takes 100 messages.
pub fn receiving_end() -> End {
    receiving_end_with(Config::default())
}

/// The same by another configuration.
pub fn receiving_end_with(config: Config) -> End {
    let mut end = open_end(config, 65536);
    end.take(&wire::begin(0, 100), 0);
    end.take(&wire::attach_frame(0, "events", 0, net_amqp::LinkRole::Sender), 0);
    let Some(Seen::Attached { link, .. }) = end.events().pop() else { panic!("an attach") };
    end.accept(link);
    end.grant(link, 100);
    end.output.clear();
    end
}
