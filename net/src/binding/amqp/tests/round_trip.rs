//! From a device to a reader, through the real engine.

use net_amqp::value::{Decoder, Value, encode};
use net_amqp::{Body, MessageBuilder, Properties, Sections};

use super::hub::{Hub, Wish};
use super::wire::{Seen, telemetry};
use crate::binding::amqp::{METRICS_CAPABILITY, limits};
use crate::binding::properties::BATCH_FORMAT;

#[test]
fn an_event_comes_out_with_everything_that_went_in() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let link = hub.attach_device(device, "dev-1", 10);
    let body: Vec<u8> = (0..=255).collect();
    let properties = Properties {
        message_id: Some(Value::String("m-1")),
        user_id: Some(b"user"),
        to: Some("/devices/dev-1/messages/events"),
        correlation_id: Some(Value::Ulong(7)),
        content_type: Some("application/json"),
        content_encoding: Some("utf-8"),
        absolute_expiry_time_ms: Some(1_795_000_100_000),
        creation_time_ms: Some(1_795_000_000_000),
        ..Properties::default()
    };
    let message = MessageBuilder::default()
        .message_annotation("iothub-interface-id", Value::String("urn:pump"))
        .message_annotation("iothub-connection-device-id", Value::String("forged"))
        .properties(properties)
        .application_property("text", Value::String("ä"))
        .application_property("flag", Value::Bool(true))
        .application_property("int", Value::Int(-5))
        .application_property("long", Value::Long(1 << 40))
        .application_property("double", Value::Double(0.5))
        .application_property("time", Value::Timestamp(1))
        .application_property("uuid", Value::Uuid([3; 16]))
        .application_property("nothing", Value::Null)
        .data(&body)
        .encode();
    let id = hub.send(device, link, &message);
    assert_eq!(hub.wires[device].accepted(link), [id]);

    let reader = hub.connect_policy("service", 1);
    let link = hub.attach_reader(reader, 0, Wish::default()).unwrap();
    let events = hub.receive(reader, link, 10);
    assert_eq!(events.len(), 1);
    assert!(events[0].settled, "events are sent settled");
    let given = Sections::parse(&message).unwrap();
    assert_eq!(events[0].bare(), given.bare, "the message is stored as it came");
    let sections = Sections::parse(&events[0].payload).unwrap();
    let annotations = sections.message_annotations.unwrap();
    assert_eq!(annotations.find("x-opt-sequence-number"), Some(Value::Long(0)));
    assert_eq!(annotations.find("x-opt-offset"), Some(Value::String("0")));
    assert_eq!(annotations.find("iothub-connection-device-id"), Some(Value::String("dev-1")));
    assert_eq!(annotations.find("iothub-interface-id"), Some(Value::String("urn:pump")));
    assert!(matches!(annotations.find("iothub-connection-auth-generation-id"), Some(Value::String(_))));
    assert!(sections.delivery_annotations.is_none(), "no metrics were asked for");
    let Body::Data(data) = sections.body else { panic!("a Data section") };
    assert_eq!(data.single(), Some(&body[..]));
}

#[test]
fn a_batch_becomes_events_and_a_bad_one_none() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let link = hub.attach_device(device, "dev-1", 10);
    let parts: Vec<Vec<u8>> = (0..3).map(|number| telemetry(&[number])).collect();
    let batch = parts.iter().fold(MessageBuilder::default(), |batch, part| batch.data(part)).encode();
    hub.wires[device].send(link, BATCH_FORMAT, false, &batch);
    let bad = MessageBuilder::default().data(&parts[0]).data(b"no message").encode();
    hub.wires[device].send(link, BATCH_FORMAT, false, &bad);
    hub.run();
    assert_eq!(hub.wires[device].accepted(link), [1]);
    let stored = hub.stored(0);
    assert_eq!(stored.iter().map(|(number, _, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(stored.into_iter().map(|(_, _, message)| message).collect::<Vec<_>>(), parts);
}

#[test]
fn three_thousand_messages_on_one_link_keep_their_order() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let link = hub.attach_device(device, "dev-1", 10);
    let mut sent_count: u32 = 0;
    while sent_count < 3000 {
        let message = telemetry(&sent_count.to_be_bytes());
        match hub.wires[device].try_send(link, 0, false, &message) {
            Some(_) => sent_count += 1,
            None => assert!(hub.turn(), "the link has no credit and nothing moves"),
        }
    }
    hub.run();
    assert_eq!(hub.wires[device].accepted(link).len(), 3000);
    let dispositions =
        hub.wires[device].seen.iter().filter(|seen| matches!(seen, Seen::Settled { .. })).count();
    assert!(dispositions <= 30, "{dispositions} dispositions answer what came in a few turns");
    let stored = hub.stored(0);
    let numbers: Vec<Vec<u8>> = (0..3000_u32).map(|number| telemetry(&number.to_be_bytes())).collect();
    assert_eq!(stored.into_iter().map(|(_, _, message)| message).collect::<Vec<_>>(), numbers);
}

#[test]
fn a_gateway_has_many_devices_on_one_connection() {
    let mut hub = Hub::new(4);
    let gateway = hub.connect();
    let links: Vec<_> = (0..200)
        .map(|number| {
            let id = format!("dev-{number}");
            hub.create_device(&id, 10);
            hub.attach_device(gateway, &id, 10)
        })
        .collect();
    for (number, link) in links.iter().enumerate() {
        hub.wires[gateway].send(*link, 0, false, &telemetry(&[number as u8]));
    }
    hub.run();
    assert!(links.iter().all(|link| hub.wires[gateway].accepted(*link).len() == 1));
    let mut devices: Vec<String> =
        (0..4).flat_map(|partition| hub.stored(partition)).map(|(_, device, _)| device).collect();
    devices.sort();
    let mut expected: Vec<String> = (0..200).map(|number| format!("dev-{number}")).collect();
    expected.sort();
    assert_eq!(devices, expected);
}

#[test]
fn readers_start_where_their_selector_says() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let link = hub.attach_device(device, "dev-1", 10);
    for number in 0..5 {
        hub.send(device, link, &telemetry(&[number]));
        hub.advance(1000);
    }
    let start_ms = hub.now.wall_ms - 5000;
    let reader = hub.connect_policy("service", 1);
    let mut check = |selector: &str, symbolic: bool, expected: &[i64]| {
        let wish = Wish { selector: Some(selector), symbolic, ..Wish::default() };
        let link = hub.attach_reader(reader, 0, wish).unwrap();
        let numbers: Vec<i64> = hub.receive(reader, link, 100).iter().map(|event| event.number()).collect();
        assert_eq!(numbers, expected, "{selector}");
        hub.wires[reader].detach(link);
        hub.run();
    };
    check("amqp.annotation.x-opt-offset > '-1'", false, &[0, 1, 2, 3, 4]);
    check("amqp.annotation.x-opt-offset > '2'", true, &[3, 4]);
    check("amqp.annotation.x-opt-offset >= '2'", false, &[2, 3, 4]);
    check("amqp.annotation.x-opt-sequence-number > '3'", true, &[4]);
    check("amqp.annotation.x-opt-offset > '@latest'", false, &[]);
    check("amqp.annotation.x-opt-offset > '@checkpoint'", false, &[0, 1, 2, 3, 4]);
    check(&format!("amqp.annotation.x-opt-enqueued-time > '{}'", start_ms + 2000), false, &[3, 4]);
    check(&format!("amqp.annotation.x-opt-enqueued-time >= '{}'", start_ms + 2000), true, &[2, 3, 4]);
    check("amqp.annotation.x-opt-enqueued-time > '0'", false, &[0, 1, 2, 3, 4]);

    let wish = Wish { selector: Some("amqp.annotation.x-opt-offset > '99'"), ..Wish::default() };
    assert_eq!(hub.attach_reader(reader, 0, wish).unwrap_err().0, "com.microsoft:argument-error");
    let wish = Wish { selector: Some("junk"), ..Wish::default() };
    assert_eq!(hub.attach_reader(reader, 0, wish).unwrap_err().0, "amqp:not-allowed");
}

#[test]
fn events_reach_a_reader_as_they_become_durable() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let sender = hub.attach_device(device, "dev-1", 10);
    let reader = hub.connect_policy("service", 1);
    let wish = Wish { selector: Some("amqp.annotation.x-opt-offset > '@latest'"), ..Wish::default() };
    let link = hub.attach_reader(reader, 0, wish).unwrap();
    assert_eq!(hub.receive(reader, link, 2), []);
    for number in 0..4 {
        hub.send(device, sender, &telemetry(&[number]));
    }
    let numbers =
        |events: Vec<super::hub::Event>| events.iter().map(|event| event.number()).collect::<Vec<_>>();
    let first = hub.received(reader, link);
    assert_eq!(numbers(first), [0, 1], "no more than the credit");
    let rest = hub.receive(reader, link, 10);
    assert_eq!(numbers(rest), [2, 3]);
}

#[test]
fn a_drained_link_gives_its_credit_back() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let sender = hub.attach_device(device, "dev-1", 10);
    hub.send(device, sender, &telemetry(b"x"));
    let reader = hub.connect_policy("service", 1);
    let link = hub.attach_reader(reader, 0, Wish::default()).unwrap();
    hub.wires[reader].drain(link, 10);
    hub.run();
    assert_eq!(hub.received(reader, link).len(), 1);
    hub.advance(limits::DRAIN_WAIT_MS + limits::RETRY_MS);
    assert_eq!(hub.wires[reader].client.credit(link), 0);
    hub.wires[reader].drain(link, 10);
    hub.run();
    hub.advance(limits::DRAIN_WAIT_MS);
    hub.advance(limits::RETRY_MS);
    assert_eq!(hub.wires[reader].client.credit(link), 0);
    assert_eq!(hub.receive(reader, link, 1), []);
}

#[test]
fn runtime_metrics_are_delivery_annotations() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let sender = hub.attach_device(device, "dev-1", 10);
    for number in 0..3 {
        hub.send(device, sender, &telemetry(&[number]));
    }
    let reader = hub.connect_policy("service", 1);
    let link = hub
        .attach_reader(reader, 0, Wish { capabilities: &[METRICS_CAPABILITY], ..Wish::default() })
        .unwrap();
    let events = hub.receive(reader, link, 1);
    let annotations = Sections::parse(&events[0].payload).unwrap().delivery_annotations.unwrap();
    assert_eq!(annotations.find("last_enqueued_sequence_number"), Some(Value::Long(2)));
    assert_eq!(annotations.find("last_enqueued_offset"), Some(Value::String("2")));
}

/// A reader that grants credit and does not read costs what one read brings, and nobody else anything.
#[test]
fn a_stalled_reader_costs_bounded_memory() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let sender = hub.attach_device(device, "dev-1", 10);
    let body = vec![7; 100 * 1024];
    for _ in 0..30 {
        hub.send(device, sender, &telemetry(&body));
    }
    let stalled = hub.connect_policy("service", 1);
    let stalled_link = hub.attach_reader(stalled, 0, Wish::default()).unwrap();
    hub.wires[stalled].grant(stalled_link, 1000);
    hub.wires[stalled].reads = false;
    for _ in 0..200 {
        hub.turn();
    }
    let unread = hub.wires[stalled].unread_bytes();
    assert!((100 * 1024..600 * 1024).contains(&unread), "{unread} bytes");
    let other = hub.connect_policy("service", 1);
    let other_link = hub.attach_reader(other, 0, Wish::default()).unwrap();
    assert_eq!(hub.wires[other].seen.len(), 0);
    hub.wires[other].grant(other_link, 1000);
    for _ in 0..1000 {
        hub.turn();
    }
    assert_eq!(hub.received(other, other_link).len(), 30);
    hub.wires[stalled].reads = true;
    hub.run();
    assert_eq!(hub.received(stalled, stalled_link).len(), 30);
}

#[test]
fn large_messages_go_through_small_frames() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let sender = hub.attach_device(device, "dev-1", 10);
    let body = vec![7; 255 * 1024];
    hub.send(device, sender, &telemetry(&body));
    hub.send(device, sender, &telemetry(&vec![7; 300 * 1024]));
    assert_eq!(hub.wires[device].accepted(sender), [1]);
    let stored = hub.stored(0);
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].2, telemetry(&body));
}

/// Readers decode by position: the stored bytes must begin with short descriptors whatever the device wrote.
#[test]
fn a_message_with_long_descriptors_is_stored_in_the_short_form() {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let sender = hub.attach_device(device, "dev-1", 10);
    let mut message = vec![0x00, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x75];
    encode::binary(&mut message, b"body");
    hub.send(device, sender, &message);
    let stored = hub.stored(0);
    assert_eq!(&stored[0].2[..3], [0x00, 0x53, 0x75]);
    let mut decoder = Decoder::new(&stored[0].2[3..]);
    assert_eq!(decoder.value(), Ok(Value::Binary(b"body")));
}
