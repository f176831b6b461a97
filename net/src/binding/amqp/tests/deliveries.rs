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

/// The engine takes appends and refuses them later, as another core's does.
#[test]
fn what_the_engine_refuses_as_full_is_asked_again_in_order() {
    let mut test = Test::new();
    let (link, _) = test.device();
    let bodies = [&b"a"[..], b"b", b"c"].map(telemetry);
    for body in &bodies {
        test.wire.send(link, 0, false, body);
    }
    test.run();
    let asked = std::mem::take(&mut test.script.appended);
    test.answer(asked[0].0, appended(0));
    test.answer(asked[1].0, Reply::Failed(EngineError::Busy));
    assert!(!test.wire.binding.wants_input());
    test.advance(limits::RETRY_MS);
    assert!(test.script.appended.is_empty(), "the third has no answer yet: it may have been stored");
    test.answer(asked[2].0, Reply::Failed(EngineError::Busy));
    test.advance(limits::RETRY_MS);
    let asked = std::mem::take(&mut test.script.appended);
    let again: Vec<&Vec<u8>> = asked.iter().map(|(_, messages)| &messages[0]).collect();
    assert_eq!(again, [&bodies[1], &bodies[2]]);
    test.answer(asked[0].0, appended(1));
    test.answer(asked[1].0, appended(2));
    let settled = test.settled();
    assert_eq!(settled.iter().map(|run| run.2.as_str()).collect::<Vec<_>>(), ["accepted"; 3]);
    assert!(test.wire.binding.wants_input());
}

#[test]
fn what_was_overtaken_is_not_stored_behind_its_successor() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.wire.send(link, 0, false, &telemetry(b"a"));
    test.wire.send(link, 0, false, &telemetry(b"b"));
    test.run();
    let asked = std::mem::take(&mut test.script.appended);
    test.answer(asked[0].0, Reply::Failed(EngineError::Busy));
    test.answer(asked[1].0, appended(0));
    test.advance(limits::RETRY_MS);
    assert!(test.script.appended.is_empty());
    let settled = test.settled();
    assert!(settled.contains(&(1, 1, "com.microsoft:device-container-throttled".to_owned())), "{settled:?}");
    assert!(settled.contains(&(2, 2, "accepted".to_owned())), "{settled:?}");
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
