//! Events from packets to the log.

use net_mqtt::{Connect, Draft, Qos, Will};

use super::hub::{Hub, Seen};
use crate::binding::Binding;
use crate::binding::presence::limits::EVENT_WAITING_MAX;

const TOPIC: &str = "devices/d/messages/events/";

fn bodies(hub: &mut Hub) -> Vec<Vec<u8>> {
    hub.stored().into_iter().map(|(_, body, _)| body).collect()
}

fn hub() -> Hub {
    let mut hub = Hub::new();
    hub.create_device("d", 1);
    hub
}

#[test]
fn events_are_stored_and_then_acknowledged() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    hub.publish(wire, TOPIC, b"zero", false);
    hub.publish(wire, "devices/d/messages/events/a=b&%24.mid=1", b"one", true);
    assert_eq!(hub.seen(wire), [Seen::Acknowledged(1)]);
    let own = vec![("a".to_owned(), "b".to_owned())];
    assert_eq!(
        hub.stored(),
        [("d".to_owned(), b"zero".to_vec(), vec![]), ("d".to_owned(), b"one".to_vec(), own)]
    );
}

#[test]
fn nothing_is_retained_but_the_wish() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    let end = &mut hub.wires[wire];
    let draft = Draft { topic: TOPIC, payload: b"x", needs_ack: true, retain: true };
    end.client.publish(&draft, &mut end.to_hub).unwrap();
    hub.run();
    assert_eq!(hub.seen(wire), [Seen::Acknowledged(1)]);
    let wish = vec![("mqtt-retain".to_owned(), "true".to_owned())];
    assert_eq!(hub.stored(), [("d".to_owned(), b"x".to_vec(), wish)]);
    for filter in ["devices/d/messages/devicebound/#", "devices/d/messages/events/#"] {
        hub.subscribe(wire, &[(filter, Qos::AtLeastOnce)]);
    }
    assert!(hub.seen(wire).is_empty());
}

#[test]
fn no_acknowledgement_before_the_sync() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    for number in 0..100_u8 {
        hub.say(wire, TOPIC, &[number; 200], true);
    }
    hub.hear();
    // Everything is handed over, nothing is durable.
    assert!(hub.seen(wire).is_empty());
    hub.run();
    let acknowledged: Vec<Seen> = (1..=100).map(Seen::Acknowledged).collect();
    assert_eq!(hub.seen(wire), acknowledged);
    assert_eq!(bodies(&mut hub).len(), 100);
}

#[test]
fn a_full_engine_loses_nothing() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    hub.busy_count = 3;
    for number in 0..50_u8 {
        hub.say(wire, TOPIC, &[number], true);
    }
    hub.run();
    assert!(hub.seen(wire).is_empty());
    for _ in 0..10 {
        hub.advance(10);
    }
    assert_eq!(hub.seen(wire), (1..=50).map(Seen::Acknowledged).collect::<Vec<_>>());
    assert_eq!(bodies(&mut hub), (0..50).map(|number| vec![number]).collect::<Vec<_>>());
}

#[test]
fn an_engine_that_stays_full_ends_the_connection() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    hub.busy_count = u32::MAX;
    hub.say(wire, TOPIC, b"x", true);
    hub.run();
    for _ in 0..100 {
        hub.advance(49);
        assert!(!hub.is_closed(wire));
    }
    hub.advance(200);
    assert!(hub.is_closed(wire) && hub.seen(wire).is_empty());
}

/// The engine has events whose disk takes its time, and the hub reads nothing more: whether the device pings
/// meanwhile it cannot know.
#[test]
fn a_device_that_is_not_read_is_not_called_silent() {
    let mut hub = hub();
    let (wire, _) = connect_with_will(&mut hub, TOPIC);
    for number in 0..EVENT_WAITING_MAX {
        hub.say(wire, TOPIC, b"x", number % 8 == 0);
    }
    hub.hear();
    assert!(!hub.wires[wire].binding.wants_input());
    for _ in 0..10 {
        hub.pass(30_000);
    }
    assert!(!hub.is_closed(wire), "five minutes, at a keep-alive of one");
    hub.run();
    assert_eq!(hub.seen(wire).len(), EVENT_WAITING_MAX / 8);
    hub.advance(89_000);
    assert!(!hub.is_closed(wire), "its time begins when it is read again");
    hub.advance(2_000);
    assert!(hub.is_closed(wire));
    assert_eq!(bodies(&mut hub).len(), EVENT_WAITING_MAX + 1, "and the will");
}

#[test]
fn events_that_are_too_large_end_the_connection() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    hub.publish(wire, TOPIC, &vec![7; 256 * 1024 - 100], true);
    assert_eq!(hub.seen(wire), [Seen::Acknowledged(1)]);
    hub.publish(wire, TOPIC, &vec![7; 256 * 1024], true);
    assert!(hub.is_closed(wire) && hub.seen(wire).is_empty());
    assert_eq!(bodies(&mut hub).len(), 1);
}

fn connect_with_will(hub: &mut Hub, topic: &str) -> (usize, Option<u8>) {
    connect_with_will_at(hub, topic, Qos::AtLeastOnce)
}

fn connect_with_will_at(hub: &mut Hub, topic: &str, qos: Qos) -> (usize, Option<u8>) {
    let token = hub.device_token("d", 1);
    let will = Will { topic, payload: b"gone", qos, retain: true };
    hub.try_connect(&Connect {
        will: Some(will),
        user_name: Some("plant7.example/d/?api-version=2021-04-12"),
        password: Some(token.as_bytes()),
        keep_alive_s: 60,
        ..Connect::new("d")
    })
}

#[test]
fn a_will_is_published_when_the_connection_breaks() {
    let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let expected = own(&[("a", "b"), ("iothub-MessageType", "Will"), ("mqtt-retain", "true")]);
    let mut hub = hub();
    let (wire, _) = connect_with_will(&mut hub, "devices/d/messages/events/a=b");
    hub.hang_up(wire);
    assert_eq!(hub.stored(), [("d".to_owned(), b"gone".to_vec(), expected)]);

    let (wire, _) = connect_with_will(&mut hub, TOPIC);
    hub.publish(wire, "somewhere/else", b"", false);
    assert!(hub.is_closed(wire));
    assert_eq!(bodies(&mut hub).len(), 2, "a fault of the device breaks the connection");

    let (wire, _) = connect_with_will(&mut hub, TOPIC);
    hub.advance(91_000);
    assert!(hub.is_closed(wire));
    assert_eq!(bodies(&mut hub).len(), 3, "so does silence");

    let (wire, _) = connect_with_will(&mut hub, TOPIC);
    let end = &mut hub.wires[wire];
    end.client.close(&mut end.to_hub);
    hub.run();
    assert!(hub.is_closed(wire));
    assert_eq!(bodies(&mut hub).len(), 3, "a goodbye does not");

    let (older, _) = connect_with_will(&mut hub, TOPIC);
    hub.connect("d", 1);
    assert!(hub.is_closed(older));
    assert_eq!(bodies(&mut hub).len(), 3, "nothing of an older session comes behind a newer one's beginning");
}

/// A PUBLISH at quality of service 2 ends its connection; a will is stored once whatever it asks for.
#[test]
fn a_will_of_every_quality_of_service_is_stored_once() {
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut hub = hub();
        let (wire, verdict) = connect_with_will_at(&mut hub, TOPIC, qos);
        assert_eq!(verdict, Some(0), "{qos:?}");
        hub.hang_up(wire);
        assert_eq!(bodies(&mut hub), [b"gone"], "{qos:?}");
    }
}

#[test]
fn a_will_for_others_is_refused() {
    let mut hub = hub();
    for topic in ["devices/e/messages/events/", "w", "$iothub/twin/GET/?$rid=1"] {
        let (wire, verdict) = connect_with_will(&mut hub, topic);
        assert_eq!((verdict, hub.is_closed(wire)), (Some(5), true), "{topic}");
    }
}

#[test]
fn acknowledgements_leave_before_the_hub_stops() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    for _ in 0..5 {
        hub.say(wire, TOPIC, b"x", true);
    }
    hub.run();
    hub.stop(wire);
    assert_eq!(hub.seen(wire).len(), 5);
    assert!(hub.is_closed(wire));
}
