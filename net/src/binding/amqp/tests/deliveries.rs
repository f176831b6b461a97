//! Telemetry links over a scripted engine.

use engine::request::{
    Caller, EngineError, Notice, PartitionId, Reply, Request, SequenceNumber, SessionEnd, SessionId,
};
use net_amqp::AttachRequest;

use super::script::{START_S, Test, appended, device_grant};
use super::wire::{Seen, World, telemetry};
use crate::binding::Binding;
use crate::binding::amqp::limits;
use crate::binding::properties::BATCH_FORMAT;

#[test]
fn a_run_of_deliveries_gets_one_disposition_and_only_once_it_is_durable() {
    let mut test = Test::new();
    let (link, _) = test.device();
    for number in 0..3 {
        assert_eq!(test.wire.send(link, 0, false, &telemetry(b"x")), number + 1);
    }
    test.run();
    assert_eq!(test.settled(), []);
    let callers: Vec<Caller> = test.script.appended.iter().map(|(caller, _)| *caller).collect();
    let mut world = World { door: &mut test.script, hub: &test.hub, now: test.now };
    // The three answers come in one turn.
    test.wire.replies(&mut world, callers.iter().map(|caller| (caller.token, appended(7))).collect());
    test.run();
    assert_eq!(test.settled(), [(1, 3, "accepted".to_owned())]);
}

#[test]
fn a_full_engine_stops_the_reading_and_loses_nothing() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.script.is_full = true;
    for _ in 0..3 {
        test.wire.send(link, 0, false, &telemetry(b"x"));
    }
    test.run();
    assert!(!test.wire.binding.wants_input());
    test.advance(limits::REFUSED_MS_MAX / 2);
    assert_eq!(test.settled(), []);
    test.script.is_full = false;
    test.advance(limits::RETRY_MS);
    assert_eq!(test.script.appended.len(), 3);
    assert!(test.wire.binding.wants_input());
}

#[test]
fn a_stalled_engine_is_told_to_the_sender_in_the_end() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.script.is_full = true;
    test.wire.send(link, 0, false, &telemetry(b"x"));
    test.run();
    test.advance(limits::REFUSED_MS_MAX);
    assert_eq!(test.settled(), [(1, 1, "com.microsoft:device-container-throttled".to_owned())]);
    assert!(test.wire.binding.wants_input());
}

/// A disk that stands still costs no connection: heartbeats go both ways for as long as it takes, and then the answer.
#[test]
fn heartbeats_go_on_while_a_disk_stands_still() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.wire.send(link, 0, false, &telemetry(b"x"));
    test.run();
    let (caller, ..) = test.script.appended.remove(0);
    test.advance(900_000);
    assert_eq!(test.settled(), []);
    test.answer(caller, appended(0));
    assert_eq!(test.settled(), [(1, 1, "accepted".to_owned())]);
}

/// Acceptances are told in the order of the deliveries, over all links of a session.
#[test]
fn a_run_over_several_links_gets_one_disposition_once_its_first_is_durable() {
    let mut test = Test::new();
    let (first, _) = test.device();
    let second = test.another_link(first);
    for number in 0..4 {
        let link = if number % 2 == 0 { first } else { second };
        assert_eq!(test.wire.send(link, 0, false, &telemetry(b"x")), number + 1);
    }
    test.run();
    let asked = std::mem::take(&mut test.script.appended);
    for index in [1, 3] {
        test.answer(asked[index].0, appended(index as u64));
    }
    assert_eq!(test.settled(), [], "the first one may still be refused");
    test.answer(asked[2].0, Reply::Failed(EngineError::StorageFull));
    test.answer(asked[0].0, appended(0));
    let full = "amqp:resource-limit-exceeded".to_owned();
    let accepted = || "accepted".to_owned();
    // The client machine tells them link by link.
    let expected = [(3, 3, full), (1, 1, accepted()), (2, 2, accepted()), (4, 4, accepted())];
    assert_eq!(test.settled(), expected);
    assert!(test.wire.binding.wants_input());
}

/// What is full now has room later: the delivery that met it is asked again, and nothing overtakes it.
#[test]
fn what_met_a_full_engine_keeps_its_place() {
    let mut test = Test::new();
    let (link, _) = test.device();
    let bodies = [&b"a"[..], b"b", b"c"].map(telemetry);
    test.wire.send(link, 0, false, &bodies[0]);
    test.run();
    test.script.is_full = true;
    for body in &bodies[1..] {
        test.wire.send(link, 0, false, body);
    }
    test.run();
    assert!(!test.wire.binding.wants_input());
    test.script.is_full = false;
    let asked = std::mem::take(&mut test.script.appended);
    // An answer means that there is room.
    test.answer(asked[0].0, appended(0));
    let asked = std::mem::take(&mut test.script.appended);
    assert_eq!(asked.iter().map(|(_, messages)| &messages[0]).collect::<Vec<_>>(), [&bodies[1], &bodies[2]]);
    assert!(test.wire.binding.wants_input());
}

#[test]
fn a_batch_is_one_append_and_one_answer() {
    let mut test = Test::new();
    let (link, _) = test.device();
    let (one, two) = (telemetry(b"one"), telemetry(b"two"));
    let batch = net_amqp::MessageBuilder::default().data(&one).data(&two).encode();
    test.wire.send(link, BATCH_FORMAT, false, &batch);
    test.run();
    let (caller, messages) = test.script.appended.remove(0);
    assert_eq!(messages, [one, two]);
    test.answer(caller, Reply::Appended { first: SequenceNumber(0), event_count: 2 });
    assert_eq!(test.settled(), [(1, 1, "accepted".to_owned())]);
}

#[test]
fn what_cannot_be_stored_is_rejected_with_its_reason() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.wire.send(link, 0, false, &telemetry(&vec![0; limits::EVENT_BYTES_MAX]));
    test.wire.send(link, 0, false, b"junk");
    test.wire.send(link, 77, false, &telemetry(b"x"));
    test.run();
    let states: Vec<String> = test.settled().into_iter().map(|(_, _, state)| state).collect();
    assert_eq!(states, ["amqp:link:message-size-exceeded", "amqp:decode-error", "amqp:not-implemented"]);
    assert!(test.script.appended.is_empty());
    test.wire.send(link, 0, false, &telemetry(b"x"));
    test.run();
    let (caller, _) = test.script.appended.remove(0);
    test.answer(caller, Reply::Failed(EngineError::StorageFull));
    assert_eq!(test.settled()[0].2, "amqp:resource-limit-exceeded");
}

#[test]
fn a_message_above_the_limit_of_the_link_detaches_it() {
    let mut test = Test::new();
    let (link, session) = test.device();
    // The attach says so, and the client machine would obey; a peer that does not is detached.
    let max = test.wire.take(|seen| match seen {
        Seen::Attached { link: attached, max_message_bytes, .. } if *attached == link => {
            Some(*max_message_bytes)
        }
        _ => None,
    });
    assert_eq!(max, Some(Some(limits::MESSAGE_BYTES_MAX)));
    test.notice(Notice::SessionEnded { session, reason: SessionEnd::Stolen });
    assert_eq!(test.detached(), Some((link, "amqp:link:stolen".to_owned())));
}

#[test]
fn the_end_of_a_session_ends_its_links_with_the_reason() {
    for (reason, condition) in [
        (SessionEnd::Stolen, "amqp:link:stolen"),
        (SessionEnd::Disabled, "amqp:unauthorized-access"),
        (SessionEnd::KeysChanged, "amqp:unauthorized-access"),
        (SessionEnd::Deleted, "amqp:not-found"),
    ] {
        let mut test = Test::new();
        let (link, session) = test.device();
        test.wire.send(link, 0, false, &telemetry(b"x"));
        test.run();
        test.notice(Notice::SessionEnded { session, reason });
        assert_eq!(test.detached(), Some((link, condition.to_owned())));
        // The answer to the append comes too late for the link and harms nobody.
        let (caller, _) = test.script.appended.remove(0);
        test.answer(caller, appended(0));
        assert_eq!(test.wire.closing, None);
    }
}

#[test]
fn the_last_link_of_a_device_closes_its_session_even_if_the_engine_is_full() {
    let mut test = Test::new();
    let (link, session) = test.device();
    test.script.is_full = true;
    test.wire.detach(link);
    test.run();
    assert!(test.script.asked.is_empty());
    test.script.is_full = false;
    test.advance(limits::RETRY_MS);
    assert!(matches!(test.asked().1, Request::CloseSession { session: closed } if closed == session));
}

#[test]
fn a_session_that_nobody_waits_for_any_more_is_closed() {
    let mut test = Test::new();
    test.put(device_grant("dev-1", START_S + 3600));
    let session = test.wire.begin();
    test.run();
    test.wire.attach(session, &AttachRequest::sender("t", "/devices/dev-1/messages/events"));
    test.run();
    let (caller, _) = test.asked();
    test.wire.end(session);
    test.run();
    let session = SessionId { partition: PartitionId(1), slot: 0, generation: 0 };
    test.answer(caller, Reply::SessionOpened(session));
    assert!(matches!(test.asked().1, Request::CloseSession { .. }));
}

#[test]
fn a_stop_answers_what_is_in_flight_and_says_goodbye() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.wire.send(link, 0, false, &telemetry(b"x"));
    test.run();
    test.stop();
    assert_eq!(test.wire.closing, None, "an append is in flight");
    let (caller, _) = test.script.appended.remove(0);
    test.answer(caller, appended(0));
    let mut story = Vec::new();
    while let Some(seen) = test.wire.seen.pop_front() {
        match seen {
            Seen::Settled { state, .. } => story.push(state),
            Seen::Detached { condition, .. } | Seen::Closed { condition } => story.push(condition),
            _ => {}
        }
    }
    assert_eq!(story.first().map(String::as_str), Some("accepted"));
    assert!(story[1..].iter().all(|condition| condition == "amqp:connection:forced"), "{story:?}");
    assert!(story.len() >= 3);
    assert!(test.wire.closing.is_some());
}
