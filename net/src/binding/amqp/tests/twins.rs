//! Requests to twins and calls of methods, over a scripted engine.

use engine::request::{Notice, PartitionId, Reply, Request, SessionEnd};
use net_amqp::value::Value;
use net_amqp::{AttachRequest, Body, LinkId, MessageBuilder, Properties, Sections, SessionId};

use super::script::{START_S, Test, device_grant};
use super::wire::Seen;
use crate::binding::status::NO_TWIN;

/// The links for requests and for answers, in one session that other devices may share, once the device's session stands.
fn attach(test: &mut Test, session: SessionId, id: &str) -> (LinkId, LinkId) {
    let address = format!("/devices/{id}/twin");
    let requests = test.wire.attach(session, &AttachRequest::sender(&format!("to {id}"), &address));
    let answers = test.wire.attach(session, &AttachRequest::receiver(&format!("from {id}"), &address));
    test.run();
    join(test, device_session(id));
    (requests, answers)
}

fn device_session(id: &str) -> engine::request::SessionId {
    let slot = u32::from(id.as_bytes()[id.len() - 1]);
    engine::request::SessionId { partition: PartitionId(1), slot, generation: 0 }
}

/// The engine opens the session that a device's first link asks for.
fn join(test: &mut Test, session: engine::request::SessionId) {
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::OpenSession { .. }), "{question:?}");
    test.answer(caller, Reply::SessionOpened(session));
}

/// Links that ended for want of a right, in no order.
fn ended(test: &mut Test, count: usize) -> Vec<LinkId> {
    let mut links: Vec<LinkId> = (0..count)
        .map(|_| {
            let (link, condition) = test.detached().expect("a link ends");
            assert_eq!(condition, "amqp:unauthorized-access");
            link
        })
        .collect();
    assert_eq!(test.detached(), None);
    links.sort();
    links
}

fn ask(test: &mut Test, link: LinkId, correlation_id: Value<'_>) {
    let message = MessageBuilder::default()
        .message_annotation("operation", Value::String("GET"))
        .properties(Properties { correlation_id: Some(correlation_id), ..Properties::default() })
        .data(b" ")
        .encode();
    test.wire.send(link, 0, true, &message);
    test.run();
}

/// The link that an answer came by, and its correlation id as text. The rest of it is what a client fails by.
fn answer(test: &mut Test) -> Option<(LinkId, String)> {
    let (link, message) = test.wire.take(|seen| match seen {
        Seen::Message { link, payload, .. } => Some((*link, payload.clone())),
        _ => None,
    })?;
    let sections = Sections::parse(&message).unwrap();
    assert_eq!(sections.message_annotations.unwrap().find("status"), Some(Value::Int(501)));
    let Body::Data(body) = sections.body else { panic!("{:?}", sections.body) };
    assert_eq!(body.single(), Some(NO_TWIN));
    Some((link, format!("{:?}", sections.properties.unwrap().correlation_id.unwrap())))
}

#[test]
fn each_device_is_told_on_its_own_link_that_there_is_no_twin() {
    let mut test = Test::new();
    test.put(device_grant("dev-1", START_S + 3600));
    test.put(device_grant("dev-2", START_S + 7200));
    let session = test.wire.begin();
    test.run();
    let (first, to_first) = attach(&mut test, session, "dev-1");
    let (second, to_second) = attach(&mut test, session, "dev-2");
    ask(&mut test, first, Value::String("a"));
    assert_eq!(answer(&mut test), None, "without credit");
    test.wire.grant(to_first, 10);
    test.wire.grant(to_second, 10);
    test.run();
    ask(&mut test, second, Value::Uuid([7; 16]));
    assert_eq!(answer(&mut test), Some((to_first, format!("{:?}", Value::String("a")))));
    assert_eq!(answer(&mut test), Some((to_second, format!("{:?}", Value::Uuid([7; 16])))));
    assert!(test.script.asked.is_empty(), "the engine has no part in the answers");
    // A device whose token ends has no twin to ask for; the other one goes on.
    test.advance(3_601_000);
    assert_eq!(ended(&mut test, 2), [first.min(to_first), first.max(to_first)]);
    ask(&mut test, second, Value::String("b"));
    assert_eq!(answer(&mut test), Some((to_second, format!("{:?}", Value::String("b")))));
}

#[test]
fn a_twin_is_asked_for_by_its_own_device_alone() {
    let mut test = Test::new();
    test.put(device_grant("dev-1", START_S + 3600));
    let session = test.wire.begin();
    test.run();
    let requests = test.wire.attach(session, &AttachRequest::sender("to", "/devices/dev-10/twin"));
    test.run();
    assert_eq!(ended(&mut test, 1), [requests]);
    assert!(test.script.asked.is_empty());
}

/// Disabled, deleted, with new keys, or on a newer connection: the links rest on the device's session like all others of it.
#[test]
fn a_device_that_is_cut_off_has_no_twin_either() {
    let mut test = Test::new();
    test.put(device_grant("dev-1", START_S + 3600));
    let session = test.wire.begin();
    test.run();
    let (requests, answers) = attach(&mut test, session, "dev-1");
    test.notice(Notice::SessionEnded { session: device_session("dev-1"), reason: SessionEnd::Disabled });
    let (first, second) = (test.detached().unwrap().0, test.detached().unwrap().0);
    assert_eq!((first.min(second), first.max(second)), (requests.min(answers), requests.max(answers)));
}

/// Who goes before the session stands leaves nothing behind.
#[test]
fn a_link_that_goes_before_its_session_stands_is_forgotten() {
    let mut test = Test::new();
    test.put(device_grant("dev-1", START_S + 3600));
    let session = test.wire.begin();
    test.run();
    let requests = test.wire.attach(session, &AttachRequest::sender("to", "/devices/dev-1/twin"));
    test.run();
    test.wire.detach(requests);
    test.run();
    let (caller, _) = test.asked();
    test.answer(caller, Reply::SessionOpened(device_session("dev-1")));
    assert!(matches!(test.asked().1, Request::CloseSession { .. }), "no link of the device is left");
}

/// Links that come and go leave nothing behind.
#[test]
fn a_client_that_asks_and_goes_gets_no_answer_of_earlier() {
    let mut test = Test::new();
    test.put(device_grant("dev-1", START_S + 3600));
    let session = test.wire.begin();
    test.run();
    let (requests, answers) = attach(&mut test, session, "dev-1");
    ask(&mut test, requests, Value::String("old"));
    test.wire.detach(requests);
    test.wire.detach(answers);
    test.run();
    assert!(matches!(test.asked().1, Request::CloseSession { .. }), "its last link is gone");
    let (requests, answers) = attach(&mut test, session, "dev-1");
    test.wire.grant(answers, 10);
    ask(&mut test, requests, Value::String("new"));
    assert_eq!(answer(&mut test), Some((answers, format!("{:?}", Value::String("new")))));
    assert_eq!(answer(&mut test), None);
}

/// The Node client asks for the link of answers first, and ends its connection in order when the second one is refused.
#[test]
fn the_link_for_calls_of_methods_is_refused_and_that_for_answers_takes_none() {
    let mut test = Test::new();
    test.put(device_grant("dev-1", START_S + 3600));
    let session = test.wire.begin();
    test.run();
    let address = "/devices/dev-1/methods/devicebound";
    let answers = test.wire.attach(session, &AttachRequest::sender("to", address));
    let calls = test.wire.attach(session, &AttachRequest::receiver("from", address));
    test.run();
    join(&mut test, device_session("dev-1"));
    assert_eq!(test.detached(), Some((calls, "amqp:not-implemented".to_owned())));
    assert_eq!(test.detached(), None);
    let message = MessageBuilder::default().data(b"{}").encode();
    assert_eq!(test.wire.try_send(answers, 0, true, &message), None, "no credit");
    test.advance(3_601_000);
    assert_eq!(test.detached(), Some((answers, "amqp:unauthorized-access".to_owned())));
}
