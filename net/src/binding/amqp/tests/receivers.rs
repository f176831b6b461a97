//! Receivers and refused attaches over a scripted engine.

use engine::request::{EngineError, Notice, PartitionId, PartitionStatus, Reply, Request, SequenceNumber};
use net_amqp::value::Value;
use net_amqp::{AttachRequest, Body, LinkId, MessageBuilder, Properties, Sections};
use registry::Rights;

use super::script::{START_S, Test, policy_grant, token_text};
use super::wire::{Seen, status_of};
use crate::binding::amqp::limits;

#[test]
fn other_endpoints_and_wrong_directions_are_refused_in_the_documented_manner() {
    let mut test = Test::new();
    test.put(policy_grant(
        "iothubowner",
        Rights::SERVICE_CONNECT | Rights::DEVICE_CONNECT,
        &[],
        START_S + 3600,
    ));
    let session = test.wire.begin();
    test.run();
    for (sends, address, condition) in [
        (false, "/devices/d/modules/m/messages/devicebound", "amqp:not-implemented"),
        (true, "/devices/d/modules/m/twin", "amqp:not-implemented"),
        (true, "/devices/d/modules/m/methods/devicebound", "amqp:not-implemented"),
        (false, "/devices/d/methods/devicebound", "amqp:not-implemented"),
        (false, "/messages/serviceBound/filenotifications", "amqp:not-implemented"),
        (true, "/devices/d/messages/devicebound", "amqp:not-allowed"),
        (false, "/messages/devicebound", "amqp:not-allowed"),
        (true, "/messages/serviceBound/feedback", "amqp:not-allowed"),
        (false, "/devices/d/messages/events", "amqp:not-allowed"),
        (true, "plant7/ConsumerGroups/$Default/Partitions/0", "amqp:not-allowed"),
        (true, "plant7", "amqp:not-allowed"),
        (true, "/devices/a b/messages/events", "amqp:not-found"),
        (false, "other/ConsumerGroups/$Default/Partitions/0", "amqp:not-found"),
        (false, "plant7/ConsumerGroups/$Default/Partitions/4", "amqp:not-found"),
        (false, "plant7/ConsumerGroups/$Default/Partitions/x", "amqp:not-found"),
    ] {
        let request = match sends {
            true => AttachRequest::sender(address, address),
            false => AttachRequest::receiver(address, address),
        };
        let link = test.wire.attach(session, &request);
        test.run();
        let (refused, text) = test
            .wire
            .take(|seen| match seen {
                Seen::Attached { refused, .. } => Some((*refused, String::new())),
                Seen::Detached { text, .. } => Some((false, text.clone())),
                _ => None,
            })
            .unwrap();
        assert!(refused, "{address}: the attach comes first, without source and target; {text}");
        let (detached, seen_condition, text) = test
            .wire
            .take(|seen| match seen {
                Seen::Detached { link, condition, text } => Some((*link, condition.clone(), text.clone())),
                _ => None,
            })
            .unwrap();
        assert_eq!((detached, seen_condition.as_str()), (link, condition), "{address}");
        if address.contains("Partitions") && condition == "amqp:not-found" {
            assert!(
                text.starts_with("The messaging entity ") && text.contains("could not be found"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_reader_has_one_read_open_and_only_with_credit() {
    let mut test = Test::new();
    let (link, reader) = test.reader();
    assert!(test.script.asked.is_empty(), "no credit, no read");
    test.wire.grant(link, 10);
    test.run();
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::Read { event_count_max: 10, .. }), "{question:?}");
    test.wire.grant(link, 50);
    test.run();
    assert!(test.script.asked.is_empty(), "one read at a time");
    test.answer(caller, Reply::Failed(EngineError::Busy));
    assert!(test.script.asked.is_empty());
    test.advance(limits::RETRY_MS);
    let (_, question) = test.asked();
    assert!(matches!(question, Request::Read { event_count_max: 50, .. }), "{question:?}");
    test.wire.detach(link);
    test.run();
    assert!(matches!(test.asked().1, Request::CloseReader { reader: closed } if closed == reader));
}

#[test]
fn a_stolen_reader_is_told_who_took_over() {
    let mut test = Test::new();
    let (link, reader) = test.reader();
    test.wire.grant(link, 10);
    test.run();
    let (caller, _) = test.asked();
    test.notice(Notice::ReaderStolen { reader, by_name: Some("other".to_owned()), by_epoch: 3 });
    let (detached, condition, text) = test
        .wire
        .take(|seen| match seen {
            Seen::Detached { link, condition, text } => Some((*link, condition.clone(), text.clone())),
            _ => None,
        })
        .unwrap();
    assert_eq!((detached, condition.as_str()), (link, "amqp:link:stolen"));
    assert!(text.starts_with("New receiver 'other'") && text.contains("'nil'"), "{text}");
    test.answer(caller, Reply::Failed(EngineError::ReaderEnded));
    assert!(test.script.asked.is_empty(), "the reader has ended already");
}

/// A management pair in one session, and credit for ten replies.
fn management(test: &mut Test) -> LinkId {
    test.put(policy_grant("service", Rights::SERVICE_CONNECT, &["plant7"], START_S + 3600));
    let session = test.wire.begin();
    test.run();
    let requests = test.wire.attach(session, &AttachRequest::sender("to", "$management"));
    let replies = test.wire.attach(session, &AttachRequest::receiver("from", "$management"));
    test.run();
    test.wire.grant(replies, 10);
    test.run();
    requests
}

fn read_request<'a>(entries: &[(&'a str, &'a str)]) -> Vec<u8> {
    let message = MessageBuilder::default()
        .properties(Properties { message_id: Some(Value::Uuid([9; 16])), ..Properties::default() })
        .application_property("operation", Value::String("READ"));
    // Without a body, as the Python client sends it.
    entries
        .iter()
        .fold(message, |message, (name, text)| message.application_property(name, Value::String(text)))
        .encode()
}

fn reply(test: &mut Test) -> Vec<u8> {
    test.wire
        .take(|seen| match seen {
            Seen::Message { payload, .. } => Some(payload.clone()),
            _ => None,
        })
        .expect("a reply")
}

fn value_of<'a>(payload: &'a [u8], name: &str) -> Value<'a> {
    let Body::Value(Value::Map(map)) = Sections::parse(payload).unwrap().body else { panic!("a map") };
    map.find(name).unwrap_or_else(|| panic!("{name} is missing"))
}

#[test]
fn management_describes_the_event_hub_with_the_types_that_clients_cast_to() {
    let mut test = Test::new();
    let requests = management(&mut test);
    let request = read_request(&[("type", "com.microsoft:eventhub"), ("name", "plant7")]);
    test.wire.send(requests, 0, false, &request);
    test.run();
    let payload = reply(&mut test);
    assert_eq!(status_of(&payload), (200, "OK".to_owned()));
    let id = Sections::parse(&payload).unwrap().properties.unwrap().correlation_id;
    assert_eq!(id, Some(Value::Uuid([9; 16])));
    assert_eq!(value_of(&payload, "name"), Value::String("plant7"));
    assert_eq!(value_of(&payload, "created_at"), Value::Timestamp(1_700_000_000_000));
    assert_eq!(value_of(&payload, "partition_count"), Value::Int(4));
    let Value::Array(ids) = value_of(&payload, "partition_ids") else { panic!("an array") };
    let ids: Vec<Value<'_>> = ids.iter().map(Result::unwrap).collect();
    assert_eq!(ids, ["0", "1", "2", "3"].map(Value::String));
}

#[test]
fn management_describes_partitions_and_checks_the_token_inside_a_request() {
    let mut test = Test::new();
    let requests = management(&mut test);
    let grant = policy_grant("service", Rights::SERVICE_CONNECT, &["plant7"], START_S + 3600);
    let token = token_text(&grant);
    let request = read_request(&[
        ("type", "com.microsoft:partition"),
        ("name", "plant7"),
        ("partition", "2"),
        ("security_token", &token),
    ]);
    test.wire.send(requests, 0, false, &request);
    test.run();
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::Authenticate { .. }), "{question:?}");
    test.answer(caller, Reply::Authenticated(grant));
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::DescribePartition { partition: PartitionId(2) }), "{question:?}");
    test.answer(
        caller,
        Reply::PartitionStatus(PartitionStatus {
            partition: PartitionId(2),
            first: SequenceNumber(5),
            next: SequenceNumber(8),
            last_enqueued_ms: 1_795_000_000_123,
        }),
    );
    let payload = reply(&mut test);
    assert_eq!(status_of(&payload).0, 200);
    assert_eq!(value_of(&payload, "partition"), Value::String("2"));
    assert_eq!(value_of(&payload, "begin_sequence_number"), Value::Long(5));
    assert_eq!(value_of(&payload, "last_enqueued_sequence_number"), Value::Long(7));
    assert_eq!(value_of(&payload, "last_enqueued_offset"), Value::String("7"));
    assert_eq!(value_of(&payload, "last_enqueued_time_utc"), Value::Timestamp(1_795_000_000_123));
    assert_eq!(value_of(&payload, "is_partition_empty"), Value::Bool(false));

    // A token without the right is refused, whatever the link rests on.
    test.wire.send(requests, 0, false, &request);
    test.run();
    let (caller, _) = test.asked();
    test.answer(
        caller,
        Reply::Authenticated(policy_grant("device", Rights::DEVICE_CONNECT, &[], START_S + 60)),
    );
    assert_eq!(status_of(&reply(&mut test)).0, 401);
}

#[test]
fn management_says_what_does_not_exist() {
    let mut test = Test::new();
    let requests = management(&mut test);
    for (entries, code) in [
        (vec![("type", "com.microsoft:eventhub"), ("name", "other")], 404),
        (vec![("type", "com.microsoft:partition"), ("name", "plant7"), ("partition", "4")], 404),
        (vec![("type", "com.microsoft:partition"), ("name", "plant7"), ("partition", "-1")], 404),
        (vec![("type", "com.microsoft:namespace"), ("name", "plant7")], 400),
    ] {
        test.wire.send(requests, 0, false, &read_request(&entries));
        test.run();
        let payload = reply(&mut test);
        let (status, text) = status_of(&payload);
        assert_eq!(status, code, "{entries:?}");
        let properties = Sections::parse(&payload).unwrap().application_properties.unwrap();
        assert!(matches!(properties.find("error-condition"), Some(Value::Symbol(_))));
        if code == 404 {
            assert!(
                text.starts_with("The messaging entity ") && text.contains("could not be found"),
                "{text}"
            );
        }
    }
}
