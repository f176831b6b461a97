//! What well-behaved peers do, over every way of cutting their bytes.

use net_amqp::sasl::{PlainResponse, SaslCode, plain_response};
use net_amqp::{
    AttachReply, AttachRequest, Config, DeliveryState, Error, ReceiverSettleMode, SaslRole, SendRefused,
    condition,
};

use crate::pair::{Cuts, Pair, Seen};
use crate::wire;

/// Runs a conversation over bytes in one piece, byte by byte, and in random pieces.
fn with_all_cuts(conversation: impl Fn(Cuts)) {
    conversation(Cuts::None);
    conversation(Cuts::EveryByte);
    for seed in 0..8 {
        conversation(Cuts::Random(seed));
    }
}

fn sasl(role: SaslRole) -> Config {
    Config { sasl: role, ..Config::default() }
}

#[test]
fn sasl_plain_then_open() {
    with_all_cuts(|cuts| {
        let offer = sasl(SaslRole::Offer(vec!["MSSBCBS", "ANONYMOUS", "PLAIN"]));
        let response = plain_response("dev@sas.hub", "token");
        let choice = sasl(SaslRole::Choose { mechanism: "PLAIN", response: response.clone() });
        let mut pair = Pair::new(offer, choice, cuts);
        pair.run();
        assert_eq!(
            pair.hub.event(),
            Seen::SaslInit { mechanism: "PLAIN".into(), response: response.clone() }
        );
        assert_eq!(PlainResponse::parse(&response).unwrap().user, "dev@sas.hub");
        pair.hub.connection.sasl_outcome(SaslCode::Ok, &mut pair.hub.output);
        pair.run();
        assert_eq!(pair.hub.event(), Seen::Opened { container_id: "corehub".into() });
        assert_eq!(pair.client.event(), Seen::Opened { container_id: "corehub".into() });
        assert!(pair.hub.connection.is_open());
    });
}

#[test]
fn wrong_credentials_end_both() {
    let offer = sasl(SaslRole::Offer(vec!["PLAIN"]));
    let choice = sasl(SaslRole::Choose { mechanism: "PLAIN", response: plain_response("dev", "wrong") });
    let mut pair = Pair::new(offer, choice, Cuts::None);
    pair.run();
    pair.hub.connection.sasl_outcome(SaslCode::Auth, &mut pair.hub.output);
    assert!(pair.hub.connection.is_closed());
    pair.run();
    assert_eq!(pair.client.closed.unwrap().error.condition, condition::UNAUTHORIZED_ACCESS);
}

#[test]
fn a_mechanism_that_was_not_offered_is_refused() {
    let mut pair = Pair::new(sasl(SaslRole::Offer(vec!["PLAIN"])), Config::default(), Cuts::None);
    // As a client with a certificate would ask.
    pair.hub.take(&[wire::SASL, &wire::sasl_init("EXTERNAL", b"")].concat(), 0);
    assert_eq!(pair.hub.closed.unwrap().error.condition, condition::UNAUTHORIZED_ACCESS);
    assert!(pair.hub.output.ends_with(b"\x50\x01\x40"), "the outcome says code 1");
}

#[test]
fn what_was_sent_ahead_of_the_sasl_outcome_is_kept() {
    let offer = sasl(SaslRole::Offer(vec!["ANONYMOUS"]));
    let mut probe = Pair::new(
        offer.clone(),
        sasl(SaslRole::Choose { mechanism: "ANONYMOUS", response: vec![] }),
        Cuts::None,
    );
    // Record what a client says before and after the outcome.
    let mut said = probe.client.output.clone();
    let bytes = std::mem::take(&mut probe.client.output);
    probe.hub.take(&bytes, 0);
    let bytes = std::mem::take(&mut probe.hub.output);
    probe.client.take(&bytes, 0);
    said.extend_from_slice(&probe.client.output);
    let bytes = std::mem::take(&mut probe.client.output);
    probe.hub.take(&bytes, 0);
    probe.hub.connection.sasl_outcome(SaslCode::Ok, &mut probe.hub.output);
    let bytes = std::mem::take(&mut probe.hub.output);
    probe.client.take(&bytes, 0);
    said.extend_from_slice(&probe.client.output);

    let mut pair = Pair::new(offer, Config::default(), Cuts::None);
    pair.hub.take(&said, 0);
    assert!(matches!(pair.hub.event(), Seen::SaslInit { .. }));
    assert!(pair.hub.inbound.kept_bytes() > 0);
    pair.hub.connection.sasl_outcome(SaslCode::Ok, &mut pair.hub.output);
    pair.hub.take(&[], 0);
    assert!(matches!(pair.hub.event(), Seen::Opened { .. }));
    assert_eq!(pair.hub.inbound.kept_bytes(), 0);
}

#[test]
fn telemetry_is_sent_received_and_settled() {
    with_all_cuts(|cuts| {
        let mut pair = Pair::open(cuts);
        let (session, _) = pair.begin();
        let (sender, receiver) = pair.telemetry(session, "events", 10);
        let ids: Vec<u32> = (0..3).map(|n| pair.client.send(sender, &[n; 100], false).unwrap()).collect();
        pair.run();
        let events = pair.hub.events();
        assert_eq!(events.len(), 3);
        for (n, event) in events.into_iter().enumerate() {
            assert_eq!(
                event,
                Seen::Transfer {
                    link: receiver,
                    id: ids[n],
                    tag: b"tag".into(),
                    format: 0,
                    settled: false,
                    payload: vec![n as u8; 100]
                }
            );
        }
        assert_eq!(pair.hub.connection.credit(receiver), 7);
        assert!(pair.hub.settle(receiver, ids[0], ids[1], &DeliveryState::Accepted));
        let reason = Error::new(condition::LINK_MESSAGE_SIZE_EXCEEDED, "too big");
        assert!(pair.hub.settle(receiver, ids[2], ids[2], &DeliveryState::Rejected(Some(reason.clone()))));
        assert!(!pair.hub.settle(receiver, ids[0], ids[2], &DeliveryState::Accepted), "all are settled");
        pair.run();
        let settled = |first, last, state| Seen::Settled {
            link: sender,
            first,
            last,
            state: Some(state),
            settled: true,
        };
        assert_eq!(
            pair.client.events(),
            [
                settled(ids[0], ids[1], DeliveryState::Accepted),
                settled(ids[2], ids[2], DeliveryState::Rejected(Some(reason)))
            ]
        );
    });
}

#[test]
fn a_refused_link_is_attached_without_termini_and_detached() {
    with_all_cuts(|cuts| {
        let mut pair = Pair::open(cuts);
        let (session, _) = pair.begin();
        let request = AttachRequest::receiver("link", "nowhere");
        let link = pair.client.connection.attach(session, &request, &mut pair.client.output).unwrap();
        pair.run();
        let hub_link = pair.hub.attached();
        let error = Error::new(condition::NOT_FOUND, "There is no such thing.");
        assert!(pair.hub.connection.refuse_link(hub_link, &error, &mut pair.hub.output));
        pair.run();
        assert_eq!(
            pair.client.events(),
            [
                Seen::Attached { link, name: "link".into(), source: None, target: None, refused: true },
                Seen::Detached { link, closed: true, error: Some(error) }
            ]
        );
        assert_eq!(pair.hub.events(), []);
        assert_eq!((pair.hub.connection.link_count(), pair.client.connection.link_count()), (0, 0));
        assert_eq!(pair.hub.connection.held_bytes(), 0);
        assert!(!pair.hub.connection.refuse_link(hub_link, &Error::new("x", "y"), &mut pair.hub.output));
    });
}

#[test]
fn the_answer_can_replace_what_was_asked() {
    let mut pair = Pair::open(Cuts::None);
    let (session, _) = pair.begin();
    let request = AttachRequest::receiver("link", "asked");
    pair.client.connection.attach(session, &request, &mut pair.client.output).unwrap();
    pair.run();
    let hub_link = pair.hub.attached();
    let reply = AttachReply {
        source: Some(net_amqp::Source::at("given")),
        receiver_settle_mode: Some(ReceiverSettleMode::Second),
        ..AttachReply::default()
    };
    assert!(pair.hub.connection.accept_link(hub_link, &reply, &mut pair.hub.output));
    pair.run();
    assert!(matches!(pair.client.event(), Seen::Attached { source: Some(source), .. } if source == "given"));
}

#[test]
fn credit_that_came_before_the_answer_counts() {
    let mut pair = Pair::open(Cuts::None);
    let (session, _) = pair.begin();
    let request = AttachRequest::receiver("reader", "hub");
    pair.client.connection.attach(session, &request, &mut pair.client.output).unwrap();
    // A peer that has not seen our attach knows no delivery count.
    pair.client.output.extend(wire::amqp(0, |out| wire::flow(Some(0), Some(7)).encode(out)));
    let bytes = std::mem::take(&mut pair.client.output);
    pair.hub.take(&bytes, 0);
    let link = pair.hub.attached();
    assert_eq!(pair.hub.connection.sendable(link), 0, "not before it is accepted");
    assert_eq!(pair.hub.send(link, b"x", true), Err(SendRefused::NotAttached));
    pair.hub.accept(link);
    assert_eq!(pair.hub.connection.sendable(link), 7);
}

#[test]
fn a_link_detached_by_the_peer_is_answered_and_gone() {
    with_all_cuts(|cuts| {
        let mut pair = Pair::open(cuts);
        let (session, _) = pair.begin();
        let (sender, receiver) = pair.telemetry(session, "events", 10);
        pair.client.send(sender, b"x", false).unwrap();
        assert!(pair.client.connection.detach(sender, None, &mut pair.client.output));
        pair.run();
        assert!(matches!(
            &pair.hub.events()[..],
            [Seen::Transfer { .. }, Seen::Detached { link, closed: true, error: None }] if *link == receiver
        ));
        assert_eq!(pair.client.events(), []);
        assert!(!pair.hub.settle(receiver, 1, 1, &DeliveryState::Accepted));
        assert!(!pair.hub.connection.grant(receiver, 1, &mut pair.hub.output));
        assert!(pair.hub.output.is_empty());
        assert_eq!((pair.hub.connection.link_count(), pair.client.connection.link_count()), (0, 0));
        // The handle and the name are free again.
        let (again, _) = pair.telemetry(session, "events", 3);
        assert_ne!(again, sender);
    });
}

#[test]
fn a_link_given_up_before_its_answer_takes_the_late_answer() {
    for accepts in [true, false] {
        let mut pair = Pair::open(Cuts::None);
        let (session, _) = pair.begin();
        let request = AttachRequest::sender("events", "somewhere");
        let link = pair.client.connection.attach(session, &request, &mut pair.client.output).unwrap();
        let attach = std::mem::take(&mut pair.client.output);
        pair.hub.take(&attach, 0);
        let hub_link = pair.hub.attached();
        assert!(pair.client.connection.detach(link, None, &mut pair.client.output));
        if accepts {
            // The answer crosses the detach.
            pair.hub.accept(hub_link);
            pair.run();
            assert_eq!(pair.hub.event(), Seen::Detached { link: hub_link, closed: true, error: None });
        } else {
            // The detach comes before there is an answer.
            pair.run();
            assert_eq!(pair.hub.event(), Seen::Detached { link: hub_link, closed: true, error: None });
            let reply = AttachReply::default();
            assert!(!pair.hub.connection.accept_link(hub_link, &reply, &mut pair.hub.output));
        }
        assert_eq!(pair.client.events(), []);
        assert_eq!((pair.hub.connection.link_count(), pair.client.connection.link_count()), (0, 0));
    }
}

#[test]
fn a_session_given_up_before_its_answer_takes_the_late_answer() {
    let mut pair = Pair::open(Cuts::None);
    let session = pair.client.connection.begin(&mut pair.client.output).unwrap();
    assert!(pair.client.connection.end(session, None, &mut pair.client.output));
    assert!(!pair.client.connection.end(session, None, &mut pair.client.output));
    pair.run();
    assert!(matches!(&pair.hub.events()[..], [Seen::Begun(_), Seen::Ended { error: None, .. }]));
    assert_eq!(pair.client.events(), []);
    assert_eq!((pair.hub.connection.session_count(), pair.client.connection.session_count()), (0, 0));
    pair.begin();
}

#[test]
fn frames_for_a_link_that_we_detached_are_ignored() {
    let mut pair = Pair::open(Cuts::None);
    let (session, _) = pair.begin();
    let (sender, receiver) = pair.telemetry(session, "events", 10);
    pair.client.send(sender, b"on its way", false).unwrap();
    let stolen = Error::new(condition::LINK_STOLEN, "New receiver");
    assert!(pair.hub.connection.detach(receiver, Some(&stolen), &mut pair.hub.output));
    pair.run();
    assert_eq!(pair.hub.events(), []);
    assert_eq!(pair.client.event(), Seen::Detached { link: sender, closed: true, error: Some(stolen) });
    assert_eq!(pair.hub.connection.link_count(), 0);
    assert!(pair.hub.connection.is_open());
}

#[test]
fn drain_gives_credit_back() {
    with_all_cuts(|cuts| {
        let mut pair = Pair::open(cuts);
        let (session, _) = pair.begin();
        let (reader, source) = pair.reader(session, "reader", 10);
        pair.hub.send(source, b"one", true).unwrap();
        assert!(pair.client.connection.drain(reader, 9, &mut pair.client.output));
        pair.run();
        assert!(matches!(pair.client.event(), Seen::Transfer { settled: true, .. }));
        // The client had not seen the message when it wrote its flow, and nothing counts twice.
        let Seen::Flow { credit, drain: true, .. } = pair.hub.event() else { panic!("a drain is reported") };
        assert!(credit == 9 || credit == 8);
        assert!(pair.hub.connection.is_draining(source));
        pair.hub.send(source, b"two", true).unwrap();
        assert!(pair.hub.connection.drained(source, &mut pair.hub.output));
        assert!(!pair.hub.connection.drained(source, &mut pair.hub.output), "once");
        assert_eq!(pair.hub.send(source, b"three", true), Err(SendRefused::NoCredit));
        pair.run();
        assert!(matches!(
            &pair.client.events()[..],
            [Seen::Transfer { .. }, Seen::Drained(link)] if *link == reader
        ));
        assert_eq!(pair.client.connection.credit(reader), 0);
    });
}

#[test]
fn the_second_settle_mode_is_completed_by_the_sender() {
    let mut pair = Pair::open(Cuts::None);
    let (session, _) = pair.begin();
    let (reader, source) = pair.reader(session, "commands", 10);
    let id = pair.hub.send(source, b"command", false).unwrap();
    pair.run();
    pair.client.events();
    // The receiver tells an outcome without settling, and waits for the sender's word.
    assert!(pair.client.connection.settle(
        reader,
        id,
        id,
        &DeliveryState::Accepted,
        false,
        &mut pair.client.output
    ));
    pair.run();
    let told = |link, settled| Seen::Settled {
        link,
        first: id,
        last: id,
        state: Some(DeliveryState::Accepted),
        settled,
    };
    assert_eq!(pair.hub.event(), told(source, false));
    assert!(pair.hub.settle(source, id, id, &DeliveryState::Accepted));
    pair.run();
    assert_eq!(pair.client.event(), told(reader, true));
    assert!(!pair.client.settle(reader, id, id, &DeliveryState::Accepted), "it is over");
}

#[test]
fn a_disposition_over_several_links_is_told_to_each() {
    let mut pair = Pair::open(Cuts::None);
    let (session, _) = pair.begin();
    let (reader_a, source_a) = pair.reader(session, "a", 10);
    let (_, source_b) = pair.reader(session, "b", 10);
    let first = pair.hub.send(source_a, b"1", false).unwrap();
    pair.hub.send(source_b, b"2", false).unwrap();
    let last = pair.hub.send(source_a, b"3", false).unwrap();
    pair.run();
    pair.client.events();
    // A peer may settle the whole session's range at once; ours would not.
    pair.client.output.extend(wire::amqp(0, |out| wire::disposition(first, last).encode(out)));
    pair.run();
    let links: Vec<_> = pair
        .hub
        .events()
        .into_iter()
        .map(|event| match event {
            Seen::Settled { link, first, last, .. } => (link, first, last),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(links, [(source_a, first, first), (source_b, first + 1, first + 1), (source_a, last, last)]);
    assert_eq!(pair.client.connection.role_of(reader_a), Some(net_amqp::LinkRole::Receiver));
}

#[test]
fn link_names_belong_to_their_session() {
    let mut pair = Pair::open(Cuts::None);
    let (one, _) = pair.begin();
    let (two, _) = pair.begin();
    let (_, a) = pair.telemetry(one, "same name", 1);
    let (_, b) = pair.telemetry(two, "same name", 1);
    assert_ne!(pair.hub.connection.session_of(a), pair.hub.connection.session_of(b));
    // A sender and a receiver of one name are two links as well.
    pair.reader(one, "same name", 1);
    assert_eq!(pair.hub.connection.link_count(), 3);
}

#[test]
fn a_link_attached_again_takes_the_name_over() {
    let mut pair = Pair::open(Cuts::None);
    let (session, _) = pair.begin();
    let (first, old) = pair.telemetry(session, "events", 1);
    let request = AttachRequest::sender("events", "/devices/d/messages/events");
    let second = pair.client.connection.attach(session, &request, &mut pair.client.output).unwrap();
    assert_ne!(first, second);
    pair.run();
    let events = pair.hub.events();
    assert!(matches!(&events[..], [Seen::Attached { .. }, Seen::Detached { link, error: Some(error), .. }]
        if *link == old && error.condition == condition::LINK_STOLEN));
    assert!(matches!(pair.client.event(), Seen::Detached { link, .. } if link == first));
}

#[test]
fn the_end_of_a_session_takes_its_links_with_it() {
    with_all_cuts(|cuts| {
        let mut pair = Pair::open(cuts);
        let (session, hub_session) = pair.begin();
        let (_, a) = pair.telemetry(session, "a", 1);
        let (_, b) = pair.reader(session, "b", 1);
        let (other, _) = pair.begin();
        let (_, c) = pair.telemetry(other, "c", 1);
        assert!(pair.client.connection.end(session, None, &mut pair.client.output));
        pair.run();
        let gone = |link| Seen::Detached { link, closed: true, error: None };
        assert_eq!(pair.hub.events(), [gone(a), gone(b), Seen::Ended { session: hub_session, error: None }]);
        assert_eq!(pair.client.events(), []);
        assert_eq!(pair.hub.connection.session_count(), 1);
        assert!(pair.hub.connection.grant(c, 5, &mut pair.hub.output));
        pair.run();
        assert!(pair.client.connection.is_open());
    });
}

#[test]
fn frames_for_an_ended_session_are_ignored() {
    let mut pair = Pair::open(Cuts::None);
    let (session, _) = pair.begin();
    let (sender, _) = pair.telemetry(session, "a", 1);
    // What EH-PY does: end first, then detach on the channel that was ended.
    let mut late = Vec::new();
    assert!(pair.client.connection.detach(sender, None, &mut late));
    pair.client.connection.end(session, None, &mut pair.client.output);
    pair.client.output.extend_from_slice(&late);
    pair.run();
    assert!(matches!(&pair.hub.events()[..], [Seen::Detached { .. }, Seen::Ended { .. }]));
    assert!(pair.hub.connection.is_open());
    // The channel can be begun again.
    pair.begin();
}

#[test]
fn close_is_answered() {
    with_all_cuts(|cuts| {
        let mut pair = Pair::open(cuts);
        let (session, _) = pair.begin();
        pair.telemetry(session, "a", 1);
        let error = Error::new(condition::CONNECTION_FORCED, "The hub stops.");
        pair.hub.connection.close(Some(&error), &mut pair.hub.output);
        pair.run();
        assert_eq!(pair.client.event(), Seen::Closed { error: Some(error) });
        assert_eq!(pair.hub.event(), Seen::Closed { error: None });
        assert!(pair.hub.connection.is_closed() && pair.client.connection.is_closed());
        assert_eq!(pair.hub.connection.next_timeout_ms(), None);
    });
}

#[test]
fn silence_is_broken_by_heartbeats_and_ended_by_the_deadline() {
    let quick = Config { idle_timeout_ms: 60_000, ..Config::default() };
    let mut pair = Pair::open_with(Config::default(), quick, Cuts::None);
    let mut beats = Vec::new();
    while pair.now_ms < 300_000 {
        pair.now_ms = pair.hub.connection.next_timeout_ms().unwrap();
        pair.hub.connection.handle_timeout(pair.now_ms, &mut pair.hub.output).unwrap();
        if !pair.hub.output.is_empty() {
            assert_eq!(pair.hub.output, [0, 0, 0, 8, 2, 0, 0, 0]);
            beats.push(pair.now_ms);
            let bytes = std::mem::take(&mut pair.hub.output);
            pair.client.take(&bytes, pair.now_ms);
        }
    }
    // Something was written at 0, then at most half of the client's time-out passes.
    assert!(beats[0] <= 30_000 && beats.windows(2).all(|two| two[1] - two[0] <= 30_000), "{beats:?}");
    assert!(pair.client.connection.handle_timeout(pair.now_ms, &mut pair.client.output).is_ok());
    // The client says nothing for twice the hub's time-out.
    let closed = pair.hub.connection.handle_timeout(480_000, &mut pair.hub.output).unwrap_err();
    assert_eq!(closed.error.condition, condition::CONNECTION_FORCED);
    let bytes = std::mem::take(&mut pair.hub.output);
    pair.client.take(&bytes, 480_000);
    assert!(matches!(pair.client.event(), Seen::Closed { error: Some(_) }));
}

#[test]
fn a_handshake_that_drips_is_ended_in_time() {
    let mut pair = Pair::new(Config::default(), Config::default(), Cuts::None);
    pair.hub.take(b"AMQP", 30_000);
    pair.hub.take(b"\x00\x01\x00\x00", 59_000);
    assert_eq!(pair.hub.connection.next_timeout_ms(), Some(60_000));
    assert!(pair.hub.connection.handle_timeout(59_999, &mut pair.hub.output).is_ok());
    assert!(pair.hub.connection.handle_timeout(60_000, &mut pair.hub.output).is_err());
    assert!(pair.hub.connection.is_closed());
}
