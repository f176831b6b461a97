//! A device's commands over a scripted engine: locks, credit, settlement, and the ends of links.

use std::sync::Arc;

use engine::request::{
    Ack, Caller, EngineError, Holder, LockToken, LockedCommand, Notice, PartitionId, ReceiverId, Reply,
    Request, SequenceNumber, SessionEnd, SessionId, Settlement,
};
use net_amqp::{AttachRequest, DeliveryState, LinkId, MessageBuilder, Sections, Value};

use super::script::{START_S, Test, device_grant};
use super::wire::Seen;
use crate::binding::amqp::limits;

const SESSION: SessionId = SessionId { partition: PartitionId(1), slot: 0, generation: 0 };
const RECEIVER: ReceiverId = ReceiverId { partition: PartitionId(1), slot: 4, generation: 2 };

/// A link on which `dev-1` receives its commands.
fn outlet(test: &mut Test) -> LinkId {
    test.put(device_grant("dev-1", START_S + 3600));
    let link = attach(test);
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::OpenSession { .. }), "{question:?}");
    test.answer(caller, Reply::SessionOpened(SESSION));
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::OpenCommandReceiver { session: SESSION }), "{question:?}");
    test.answer(caller, Reply::ReceiverOpened(RECEIVER));
    link
}

fn attach(test: &mut Test) -> LinkId {
    let session = test.wire.begin();
    test.run();
    let link =
        test.wire.attach(session, &AttachRequest::receiver("c", "/devices/dev-1/messages/deviceBound"));
    test.run();
    link
}

fn locked(number: u64) -> LockedCommand {
    LockedCommand {
        token: LockToken::new(PartitionId(1), SequenceNumber(number), 0xabcd),
        number: SequenceNumber(number),
        enqueued_ms: 1_795_000_000_123,
        expires_ms: 1_795_003_600_123,
        delivery_count: 3,
        ack: Ack::Full,
        message: MessageBuilder::default().data(&[number as u8; 10]).encode().into(),
    }
}

/// Grant credit and answer the request with commands of these numbers.
fn deliver(test: &mut Test, link: LinkId, credit: u32, numbers: &[u64]) {
    test.wire.grant(link, credit);
    test.run();
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::Receive { receiver: RECEIVER, .. }), "{question:?}");
    test.answer(caller, Reply::Commands(numbers.iter().map(|number| locked(*number)).collect()));
}

/// The settlements asked for since the last call.
fn settlements(test: &mut Test) -> Vec<(Caller, u64, Settlement)> {
    let asked = std::mem::take(&mut test.script.asked);
    let settlement = |(caller, question)| match question {
        Request::Settle { holder: Holder::Receiver(RECEIVER), token, settlement } => {
            Some((caller, token.number().0, settlement))
        }
        _ => None,
    };
    asked.into_iter().filter_map(settlement).collect()
}

fn told(settlements: &[(Caller, u64, Settlement)]) -> Vec<(u64, Settlement)> {
    settlements.iter().map(|(_, number, settlement)| (*number, *settlement)).collect()
}

#[test]
fn a_command_goes_out_with_its_lock_and_annotations() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    deliver(&mut test, link, 10, &[7]);
    let seen = test.wire.take(|seen| match seen {
        Seen::Message { tag, settled, payload, .. } => Some((tag.clone(), *settled, payload.clone())),
        _ => None,
    });
    let (tag, settled, payload) = seen.unwrap();
    let command = locked(7);
    assert_eq!((tag.as_slice(), settled), (&command.token.0[..], false));
    let sections = Sections::parse(&payload).unwrap();
    assert_eq!(sections.bare, &*command.message, "byte for byte as it was enqueued");
    let annotations: Vec<_> = sections.message_annotations.unwrap().iter().map(Result::unwrap).collect();
    let token = command.token.to_string();
    assert_eq!(
        annotations,
        [
            (Value::Symbol("iothub-enqueuedtime"), Value::Timestamp(1_795_000_000_123)),
            (Value::Symbol("iothub-deliverycount"), Value::Ubyte(3)),
            (Value::Symbol("x-opt-sequence-number"), Value::Ulong(7)),
            (Value::Symbol("x-opt-lock-token"), Value::String(&token)),
        ]
    );
    // What is left of the credit is asked for at once, so that the next command is pushed.
    assert!(matches!(test.asked().1, Request::Receive { count_max: 9, .. }));
}

#[test]
fn every_outcome_is_settled_once_it_is_durable() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    deliver(&mut test, link, 4, &[1, 2, 3, 4]);
    let modified =
        DeliveryState::Modified { delivery_failed: true, undeliverable_here: false, annotations: None };
    test.wire.settle(link, 1, 1, &DeliveryState::Accepted, false);
    test.wire.settle(link, 2, 2, &DeliveryState::Released, false);
    test.wire.settle(link, 3, 3, &DeliveryState::Rejected(None), false);
    test.wire.settle(link, 4, 4, &modified, false);
    test.run();
    let asked = settlements(&mut test);
    use Settlement::{Abandon, Complete, Reject};
    assert_eq!(told(&asked), [(1, Complete), (2, Abandon), (3, Reject), (4, Abandon)]);
    assert_eq!(test.settled(), [], "nothing is durable yet");
    let states = ["accepted", "Some(Released)", "", "Some(Modified"];
    for ((caller, number, _), state) in asked.into_iter().zip(states) {
        test.answer(caller, Reply::Done);
        let settled = test.settled();
        assert_eq!((settled.len(), u64::from(settled[0].0)), (1, number));
        assert!(settled[0].2.starts_with(state), "{settled:?}");
    }
}

#[test]
fn a_range_is_settled_each_and_a_peer_that_settled_hears_nothing() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    deliver(&mut test, link, 3, &[1, 2, 3]);
    // As the Node client does: settled, without waiting.
    test.wire.settle(link, 1, 3, &DeliveryState::Accepted, true);
    test.run();
    let asked = settlements(&mut test);
    assert_eq!(told(&asked), [1, 2, 3].map(|number| (number, Settlement::Complete)));
    for (caller, _, _) in asked {
        test.answer(caller, Reply::Done);
    }
    assert_eq!(test.settled(), []);
}

#[test]
fn a_lost_lock_is_told_where_the_peer_can_hear_it() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    deliver(&mut test, link, 2, &[1, 2]);
    test.wire.settle(link, 1, 1, &DeliveryState::Accepted, false);
    test.wire.settle(link, 2, 2, &DeliveryState::Accepted, true);
    test.run();
    for (caller, _, _) in settlements(&mut test) {
        test.answer(caller, Reply::Failed(EngineError::LockLost));
    }
    assert_eq!(test.settled(), [(1, 1, "com.microsoft:message-lock-lost".to_owned())]);
}

#[test]
fn a_full_engine_is_asked_again_for_settlements_and_commands() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    deliver(&mut test, link, 1, &[1]);
    test.script.is_full = true;
    test.wire.settle(link, 1, 1, &DeliveryState::Accepted, false);
    test.wire.grant(link, 5);
    test.run();
    assert!(test.script.asked.is_empty());
    test.script.is_full = false;
    test.advance(limits::RETRY_MS);
    let mut asked = std::mem::take(&mut test.script.asked);
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(matches!(asked[1].1, Request::Receive { count_max: 5, .. }), "{asked:?}");
    let (caller, question) = asked.remove(0);
    assert!(matches!(question, Request::Settle { .. }), "{question:?}");
    test.answer(caller, Reply::Failed(EngineError::Busy));
    assert_eq!(test.settled(), []);
    test.advance(limits::RETRY_MS);
    let (caller, _, _) = settlements(&mut test)[0];
    test.answer(caller, Reply::Done);
    assert_eq!(test.settled(), [(1, 1, "accepted".to_owned())]);
}

#[test]
fn what_the_credit_no_longer_takes_is_released() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    test.wire.grant(link, 5);
    test.run();
    let (caller, _) = test.asked();
    test.wire.grant(link, 0);
    test.run();
    let (_, question) = test.asked();
    assert!(matches!(question, Request::CancelReceive { receiver: RECEIVER }), "{question:?}");
    // The answer was on its way already.
    test.answer(caller, Reply::Commands(vec![locked(1), locked(2)]));
    assert_eq!(told(&settlements(&mut test)), [1, 2].map(|number| (number, Settlement::Release)));
    let seen = test.wire.pick(|seen| matches!(seen, Seen::Message { .. }).then_some(()));
    assert_eq!(seen, None);
}

#[test]
fn a_drain_takes_what_there_is_and_gives_the_rest_back() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    test.wire.drain(link, 5);
    test.run();
    let asked = std::mem::take(&mut test.script.asked);
    assert!(matches!(asked[0].1, Request::Receive { count_max: 5, .. }), "{asked:?}");
    assert!(matches!(asked[1].1, Request::CancelReceive { .. }), "{asked:?}");
    test.answer(asked[0].0, Reply::Commands(vec![locked(1)]));
    assert_eq!(test.wire.client.credit(link), 4, "there may be more");
    let (caller, _) = std::mem::take(&mut test.script.asked).remove(0);
    test.answer(caller, Reply::Commands(Vec::new()));
    assert_eq!(test.wire.client.credit(link), 0);
    assert!(test.script.asked.is_empty());
}

#[test]
fn a_detached_link_tells_what_was_decided_and_gives_the_rest_back() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    deliver(&mut test, link, 2, &[1, 2]);
    test.script.is_full = true;
    test.wire.settle(link, 1, 1, &DeliveryState::Accepted, true);
    test.wire.detach(link);
    test.run();
    test.script.is_full = false;
    test.advance(limits::RETRY_MS);
    let asked: Vec<_> = std::mem::take(&mut test.script.asked).into_iter().map(|(_, q)| q).collect();
    let [Request::Settle { settlement, .. }, Request::CloseReceiver { .. }, Request::CloseSession { .. }] =
        asked.as_slice()
    else {
        panic!("{asked:?}")
    };
    assert_eq!(*settlement, Settlement::Complete);
}

#[test]
fn a_device_shares_its_session_between_its_links() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    let session = test.wire.begin();
    test.run();
    let telemetry = test.wire.attach(session, &AttachRequest::sender("t", "/devices/dev-1/messages/events"));
    test.run();
    assert!(test.script.asked.is_empty(), "the session stands");
    test.wire.detach(telemetry);
    test.run();
    assert!(test.script.asked.is_empty(), "the other link needs the session");
    test.wire.detach(link);
    test.run();
    let asked: Vec<_> = std::mem::take(&mut test.script.asked).into_iter().map(|(_, q)| q).collect();
    assert!(matches!(asked[..], [Request::CloseReceiver { .. }, Request::CloseSession { session: SESSION }]));
}

#[test]
fn a_newer_link_of_the_session_takes_over() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    test.wire.grant(link, 5);
    test.run();
    let (waiting, _) = test.asked();
    attach(&mut test);
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::OpenCommandReceiver { session: SESSION }), "{question:?}");
    test.notice(Notice::ReceiverEnded { receiver: RECEIVER });
    test.answer(caller, Reply::ReceiverOpened(ReceiverId { slot: 9, ..RECEIVER }));
    test.answer(waiting, Reply::Failed(EngineError::ReceiverEnded));
    assert_eq!(test.detached(), Some((link, "amqp:link:stolen".to_owned())));
    assert_eq!(test.detached(), None, "the newer link stays");
    // The first link's end does not end the session.
    let left = std::mem::take(&mut test.script.asked);
    assert!(!left.iter().any(|(_, question)| matches!(question, Request::CloseSession { .. })), "{left:?}");
}

#[test]
fn links_of_commands_end_with_the_session_and_with_the_token() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    test.notice(Notice::SessionEnded { session: SESSION, reason: SessionEnd::Disabled });
    assert_eq!(test.detached(), Some((link, "amqp:unauthorized-access".to_owned())));

    let mut test = Test::new();
    let link = outlet(&mut test);
    deliver(&mut test, link, 2, &[1]);
    test.script.asked.clear();
    test.advance(3_601_000);
    assert_eq!(test.detached(), Some((link, "amqp:unauthorized-access".to_owned())));
    let asked: Vec<_> = std::mem::take(&mut test.script.asked).into_iter().map(|(_, q)| q).collect();
    assert!(matches!(asked[..], [Request::CloseReceiver { .. }, Request::CloseSession { .. }]), "{asked:?}");
}

#[test]
fn a_refused_receiver_refuses_the_link_and_leaves_the_session() {
    let mut test = Test::new();
    test.put(device_grant("dev-1", START_S + 3600));
    let link = attach(&mut test);
    let (caller, _) = test.asked();
    test.answer(caller, Reply::SessionOpened(SESSION));
    let (caller, _) = test.asked();
    test.answer(caller, Reply::Failed(EngineError::SessionEnded(Some(SessionEnd::Stolen))));
    assert_eq!(test.detached(), Some((link, "amqp:link:stolen".to_owned())));
    assert!(matches!(test.asked().1, Request::CloseSession { session: SESSION }));
}

#[test]
fn a_peer_that_settles_nothing_is_held_to_a_bound_and_starts_again_when_the_locks_are_over() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    let all: Vec<u64> = (0..limits::UNSETTLED_COUNT_MAX as u64).collect();
    deliver(&mut test, link, 5000, &all);
    assert!(test.script.asked.is_empty(), "nothing more is asked for");
    // Windows and credit of the peer do not help, time does.
    test.wire.grant(link, 5000);
    test.run();
    assert!(test.script.asked.is_empty());
    test.advance(limits::LOCK_MS_MAX + 1000);
    test.wire.grant(link, 5000);
    test.run();
    let (_, question) = test.asked();
    assert!(matches!(question, Request::Receive { .. }), "{question:?}");
    assert_eq!(test.settled().len(), limits::UNSETTLED_COUNT_MAX);
}

#[test]
fn a_peer_that_does_not_read_gets_no_command_whose_lock_is_almost_over() {
    let mut test = Test::new();
    let link = outlet(&mut test);
    test.wire.grant(link, 100);
    test.run();
    let (caller, _) = test.asked();
    test.wire.reads = false;
    let large: Arc<[u8]> = MessageBuilder::default().data(&[7; 60_000]).encode().into();
    let commands = (0..50).map(|number| LockedCommand { message: Arc::clone(&large), ..locked(number) });
    test.answer(caller, Reply::Commands(commands.collect()));
    assert!(test.wire.unread_bytes() < 50 * 60_000, "the output is bounded");
    assert!(test.script.asked.is_empty());
    test.now.mono_ms += limits::QUEUED_MS_MAX;
    test.wire.reads = true;
    test.run();
    let released = settlements(&mut test);
    assert!(!released.is_empty());
    assert!(released.iter().all(|(_, _, settlement)| *settlement == Settlement::Release));
}
