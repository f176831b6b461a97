//! Commands of back ends and their receipts over a scripted engine.

use std::sync::Arc;

use engine::request::{
    Ack, EngineError, Holder, LockToken, LockedReceipts, Outcome, PartitionId, Receipt, ReceiverId, Reply,
    Request, SequenceNumber, Settlement,
};
use net_amqp::{AttachRequest, Body, DeliveryState, LinkId, MessageBuilder, Properties, Sections, Value};
use registry::{DeviceId, GenerationId, Rights};

use super::script::{START_S, Test, device_grant, policy_grant};
use super::wire::Seen;
use crate::binding::Binding;
use crate::binding::amqp::limits;

fn command(to: &str, body: &[u8]) -> Vec<u8> {
    let properties =
        Properties { to: Some(to), message_id: Some(Value::String("m-1")), ..Properties::default() };
    MessageBuilder::default().properties(properties).data(body).encode()
}

/// A link on which commands are sent, of a connection that may.
fn inlet(test: &mut Test) -> LinkId {
    test.put(policy_grant("service", Rights::SERVICE_CONNECT, &[], START_S + 3600));
    attach(test, &AttachRequest::sender("c", "amqps://plant7.example/messages/deviceBound"))
}

fn attach(test: &mut Test, request: &AttachRequest<'_>) -> LinkId {
    let session = test.wire.begin();
    test.run();
    let link = test.wire.attach(session, request);
    test.run();
    link
}

#[test]
fn a_command_is_accepted_once_it_is_durable() {
    let mut test = Test::new();
    let link = inlet(&mut test);
    test.wire.send(link, 0, false, &command("/devices/dev-1/messages/devicebound", b"go"));
    test.run();
    let (caller, question) = test.asked();
    let Request::EnqueueCommand(draft) = question else { panic!("{question:?}") };
    assert_eq!((draft.device.as_str(), draft.message_id.as_str()), ("dev-1", "m-1"));
    assert_eq!((draft.ack, draft.expires_ms), (Ack::None, None));
    assert_eq!(test.settled(), []);
    test.answer(caller, Reply::Done);
    assert_eq!(test.settled(), [(1, 1, "accepted".to_owned())]);
}

#[test]
fn refusals_have_the_documented_conditions() {
    let mut test = Test::new();
    let link = inlet(&mut test);
    for (number, (error, condition)) in [
        (EngineError::DeviceNotFound, "amqp:not-found"),
        (EngineError::QueueFull { depth: 50, depth_max: 50 }, "amqp:resource-limit-exceeded"),
        (
            EngineError::CommandTooLarge { bytes: 70_000, bytes_max: 65_536 },
            "amqp:link:message-size-exceeded",
        ),
        (EngineError::ExpiryInvalid { ttl_ms_max: 1 }, "com.microsoft:argument-out-of-range"),
        (EngineError::Busy, "com.microsoft:device-container-throttled"),
    ]
    .into_iter()
    .enumerate()
    {
        test.wire.send(link, 0, false, &command("/devices/dev-1/messages/devicebound", b"go"));
        test.run();
        let (caller, _) = test.asked();
        test.answer(caller, Reply::Failed(error));
        let id = number as u32 + 1;
        assert_eq!(test.settled(), [(id, id, condition.to_owned())]);
    }
    for (payload, condition) in [
        (command("/devices/d", b""), "amqp:not-allowed"),
        (command("/devices/not an id/messages/devicebound", b""), "amqp:not-found"),
        (command("/devices/d/modules/m/messages/devicebound", b""), "amqp:not-implemented"),
        (b"nonsense".to_vec(), "amqp:decode-error"),
    ] {
        test.wire.send(link, 0, false, &payload);
        test.run();
        assert!(test.script.asked.is_empty());
        assert_eq!(test.settled()[0].2, condition);
    }
}

#[test]
fn an_encoded_id_is_tried_as_written_before_it_is_decoded() {
    let mut test = Test::new();
    let link = inlet(&mut test);
    test.wire.send(link, 0, false, &command("/devices/Dev%231/messages/devicebound", b"go"));
    test.run();
    let (caller, question) = test.asked();
    assert!(matches!(&question, Request::EnqueueCommand(draft) if draft.device.as_str() == "Dev%231"));
    test.answer(caller, Reply::Failed(EngineError::DeviceNotFound));
    let (caller, question) = test.asked();
    let Request::EnqueueCommand(draft) = question else { panic!("{question:?}") };
    assert_eq!(draft.device.as_str(), "Dev#1");
    let to = Sections::parse(&draft.message).unwrap().properties.unwrap().to;
    assert_eq!(to, Some("/devices/Dev#1/messages/devicebound"));
    assert_eq!(test.settled(), []);
    test.answer(caller, Reply::Failed(EngineError::DeviceNotFound));
    assert_eq!(test.settled(), [(1, 1, "amqp:not-found".to_owned())]);
}

#[test]
fn what_waits_to_be_durable_is_bounded_and_the_credit_comes_back() {
    let mut test = Test::new();
    let link = inlet(&mut test);
    let payload = command("/devices/dev-1/messages/devicebound", &[7; 60_000]);
    let mut sent = 0_usize;
    while test.wire.try_send(link, 0, false, &payload).is_some() {
        test.run();
        sent += 1;
    }
    let asked = test.script.asked.len();
    assert!(
        asked < sent && asked * 60_000 <= limits::ENQUEUE_BYTES_MAX + 60_000,
        "{asked} were taken at once"
    );
    assert!(!test.wire.binding.wants_input());
    while !test.script.asked.is_empty() {
        for (caller, _) in std::mem::take(&mut test.script.asked) {
            test.answer(caller, Reply::Done);
        }
    }
    assert_eq!(test.wire.accepted(link).len(), sent);
    assert!(test.wire.client.credit(link) >= limits::COMMAND_CREDIT / 2);
}

#[test]
fn a_full_engine_refuses_a_command_as_throttled() {
    let mut test = Test::new();
    let link = inlet(&mut test);
    test.script.is_full = true;
    test.wire.send(link, 0, false, &command("/devices/dev-1/messages/devicebound", b"go"));
    test.run();
    assert_eq!(test.settled(), [(1, 1, "com.microsoft:device-container-throttled".to_owned())]);
}

#[test]
fn sending_and_receipts_need_the_right_of_the_service() {
    for grant in [
        policy_grant("device", Rights::DEVICE_CONNECT, &[], START_S + 60),
        policy_grant("registryRead", Rights::REGISTRY_READ, &[], START_S + 60),
        policy_grant("service", Rights::SERVICE_CONNECT, &["devices"], START_S + 60),
        device_grant("dev-1", START_S + 60),
    ] {
        let mut test = Test::new();
        test.put(grant);
        for request in [
            AttachRequest::sender("c", "/messages/devicebound"),
            AttachRequest::receiver("f", "/messages/serviceBound/feedback"),
        ] {
            let link = attach(&mut test, &request);
            assert_eq!(test.detached(), Some((link, "amqp:unauthorized-access".to_owned())));
        }
    }
}

#[test]
fn links_of_a_back_end_end_with_its_token() {
    let mut test = Test::new();
    test.put(policy_grant("service", Rights::SERVICE_CONNECT, &[], START_S + 60));
    let inlet = attach(&mut test, &AttachRequest::sender("c", "/messages/devicebound"));
    let (outlet, _) = receipts_of(&mut test);
    test.advance(61_000);
    let mut ended: Vec<_> = [test.detached(), test.detached()].into_iter().flatten().collect();
    ended.sort();
    let mut expected = [inlet, outlet].map(|link| (link, "amqp:unauthorized-access".to_owned())).to_vec();
    expected.sort();
    assert_eq!(ended, expected);
    let closed = std::mem::take(&mut test.script.asked);
    assert_eq!(closed.len(), 4, "one receiver per partition is closed: {closed:?}");
}

/// A link of receipts and its receivers.
fn receipts(test: &mut Test) -> (LinkId, Vec<ReceiverId>) {
    test.put(policy_grant("service", Rights::SERVICE_CONNECT, &[], START_S + 3600));
    receipts_of(test)
}

fn receipts_of(test: &mut Test) -> (LinkId, Vec<ReceiverId>) {
    let link = attach(test, &AttachRequest::receiver("f", "/Messages/servicebound/feedback"));
    let asked = std::mem::take(&mut test.script.asked);
    assert_eq!(asked.len(), 4, "{asked:?}");
    let mut receivers = Vec::new();
    for (caller, question) in asked {
        let Request::OpenReceiptReceiver { partition } = question else { panic!("{question:?}") };
        let receiver = ReceiverId { partition, slot: 1, generation: 0 };
        receivers.push(receiver);
        test.answer(caller, Reply::ReceiverOpened(receiver));
    }
    (link, receivers)
}

fn batch(partition: u16, number: u64) -> LockedReceipts {
    let receipt = |id: &str, outcome| Receipt {
        message_id: id.to_owned(),
        device: DeviceId::parse("dev-1").unwrap(),
        generation: GenerationId(637),
        outcome,
        at_ms: 1_795_000_000_001,
    };
    LockedReceipts {
        token: LockToken::new(PartitionId(partition), SequenceNumber(number), 9),
        number: SequenceNumber(number),
        enqueued_ms: 1_795_000_000_123,
        delivery_count: 0,
        receipts: Arc::new([
            receipt("m-1", Outcome::Success),
            receipt("m-2", Outcome::DeliveryCountExceeded),
        ]),
    }
}

#[test]
fn receipts_have_the_form_that_readers_parse() {
    let mut test = Test::new();
    let (link, _) = receipts(&mut test);
    test.wire.grant(link, 5);
    test.run();
    let (caller, question) = test.script.asked.remove(2);
    assert!(matches!(question, Request::Receive { count_max: 5, .. }), "{question:?}");
    let sent = batch(2, 77);
    test.answer(caller, Reply::Receipts(vec![sent.clone()]));
    let seen = test.wire.take(|seen| match seen {
        Seen::Message { tag, settled, payload, .. } => Some((tag.clone(), *settled, payload.clone())),
        _ => None,
    });
    let (tag, settled, payload) = seen.unwrap();
    assert_eq!((tag.as_slice(), settled), (&sent.token.0[..], false));
    let sections = Sections::parse(&payload).unwrap();
    let annotations: Vec<_> = sections.message_annotations.unwrap().iter().map(Result::unwrap).collect();
    assert_eq!(annotations, [(Value::Symbol("iothub-enqueuedtime"), Value::Timestamp(1_795_000_000_123))]);
    let properties = sections.properties.unwrap();
    assert_eq!(properties.content_type, Some("application/vnd.microsoft.iothub.feedback.json"));
    assert_eq!(properties.user_id, Some(&b"plant7"[..]));
    assert_eq!(properties.to, Some("/messages/serviceBound/feedback"));
    assert_eq!(properties.message_id, Some(Value::String("2-77")));
    let Body::Data(data) = sections.body else { panic!("data") };
    let json = std::str::from_utf8(data.single().unwrap()).unwrap();
    let first = r#"{"originalMessageId":"m-1","enqueuedTimeUtc":"2026-11-18T11:06:40.001Z","statusCode":"Success","description":"Success","deviceId":"dev-1","deviceGenerationId":"637"}"#;
    assert!(json.starts_with(&format!("[{first},")), "{json}");
    assert!(json.contains(r#""statusCode":"DeliveryCountExceeded","description":"DeliveryCountExceeded""#));
}

#[test]
fn one_credit_takes_one_batch_of_all_partitions_and_releases_the_rest() {
    let mut test = Test::new();
    let (link, receivers) = receipts(&mut test);
    test.wire.grant(link, 1);
    test.run();
    let asked = std::mem::take(&mut test.script.asked);
    assert_eq!(asked.len(), 4, "every partition is asked: {asked:?}");
    assert!(asked.iter().all(|(_, question)| matches!(question, Request::Receive { count_max: 1, .. })));
    test.answer(asked[1].0, Reply::Receipts(vec![batch(1, 5)]));
    let cancelled: Vec<_> = std::mem::take(&mut test.script.asked).into_iter().map(|(_, q)| q).collect();
    assert_eq!(cancelled.len(), 3, "{cancelled:?}");
    assert!(cancelled.iter().all(|question| matches!(question, Request::CancelReceive { .. })));
    // One crossed the cancellation, the others have nothing.
    let surplus = batch(3, 6);
    test.answer(asked[3].0, Reply::Receipts(vec![surplus.clone()]));
    let (_, question) = test.asked();
    let Request::Settle { holder: Holder::Receiver(holder), token, settlement } = question else {
        panic!("{question:?}")
    };
    assert_eq!((holder, token, settlement), (receivers[3], surplus.token, Settlement::Release));
    test.answer(asked[0].0, Reply::Receipts(Vec::new()));
    test.answer(asked[2].0, Reply::Receipts(Vec::new()));
    assert!(test.script.asked.is_empty(), "no credit, no request");
    // Settling gives no credit; the next grant asks all again.
    test.wire.settle(link, 1, 1, &DeliveryState::Accepted, false);
    test.run();
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::Settle { settlement: Settlement::Complete, .. }), "{question:?}");
    test.answer(caller, Reply::Done);
    assert_eq!(test.settled(), [(1, 1, "accepted".to_owned())]);
    test.wire.grant(link, 1);
    test.run();
    assert_eq!(test.script.asked.len(), 4);
}

#[test]
fn a_drained_link_of_receipts_is_answered_when_every_partition_has() {
    let mut test = Test::new();
    let (link, _) = receipts(&mut test);
    test.wire.drain(link, 10);
    test.run();
    let asked = std::mem::take(&mut test.script.asked);
    assert_eq!(asked.len(), 8, "asked, and to be answered at once: {asked:?}");
    let receives: Vec<_> =
        asked.iter().filter(|(_, question)| matches!(question, Request::Receive { .. })).collect();
    for (number, (caller, _)) in receives.iter().enumerate() {
        assert_eq!(test.wire.client.credit(link), 10, "after {number} answers");
        test.answer(*caller, Reply::Receipts(Vec::new()));
    }
    assert_eq!(test.wire.client.credit(link), 0);
    assert!(test.script.asked.is_empty());
}

#[test]
fn a_refused_partition_refuses_the_link_and_closes_the_others() {
    let mut test = Test::new();
    test.put(policy_grant("service", Rights::SERVICE_CONNECT, &[], START_S + 3600));
    let link = attach(&mut test, &AttachRequest::receiver("f", "/messages/serviceBound/feedback"));
    let asked = std::mem::take(&mut test.script.asked);
    let receiver = |number| ReceiverId { partition: PartitionId(number), slot: 1, generation: 0 };
    test.answer(asked[0].0, Reply::ReceiverOpened(receiver(0)));
    test.answer(asked[1].0, Reply::Failed(EngineError::Busy));
    assert_eq!(test.detached(), Some((link, "com.microsoft:device-container-throttled".to_owned())));
    assert!(matches!(test.asked().1, Request::CloseReceiver { receiver: closed } if closed == receiver(0)));
    test.answer(asked[2].0, Reply::ReceiverOpened(receiver(2)));
    assert!(matches!(test.asked().1, Request::CloseReceiver { receiver: closed } if closed == receiver(2)));
}
