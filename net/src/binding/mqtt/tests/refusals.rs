//! Who is not let in, and what ends a connection.

use engine::limits::Limits;
use engine::request::{IfMatch, KeyWish, PolicyDraft, PolicyRequest, Reply, Request};
use net_mqtt::{Connect, Qos};
use registry::{DeviceId, KeyForm, PolicyName, sas};

use super::hub::{Hub, Seen, key};
use crate::binding::credentials::{DEVICES, HOST, SECOND_LIFE, credentials};
use crate::binding::status::NO_TWIN;

const TOPIC: &str = "devices/d/messages/events/";
const USER_NAME: &str = "plant7.example/d/?api-version=2021-04-12";

fn hub() -> Hub {
    let mut hub = Hub::new();
    hub.create_device("d", 1);
    hub.create_device("e", 2);
    hub
}

#[test]
fn a_connect_that_is_not_in_order() {
    let mut hub = hub();
    let good = hub.device_token("d", 1);
    let expires_s = hub.now.wall_ms / 1000 + 10;
    let sign = |resource: &str, number| sas::sign(resource, &key(number), KeyForm::Decoded, expires_s, None);
    let expired = sas::sign("plant7.example/devices/d", &key(1), KeyForm::Decoded, 1, None);
    let (others, wrong) = (sign("plant7.example/devices/e", 2), sign("plant7.example/devices/d", 2));
    let (elsewhere, unknown) = (sign("plant7.example/devices/e", 1), sign("plant7.example/devices/x", 1));
    let policy = sas::sign("plant7.example", &key(9), KeyForm::Decoded, expires_s, Some("nobody"));
    for (what, client_id, user_name, password, expected) in [
        ("a device", "d", Some(USER_NAME), Some(&good), 0),
        ("no client id", "", Some(USER_NAME), Some(&good), 2),
        ("no id", "a b", Some(USER_NAME), Some(&good), 2),
        ("a module", "d/m", Some("plant7.example/d/m/?api-version=1"), Some(&good), 5),
        ("no user name", "d", None, None, 4),
        ("another's user name", "d", Some("plant7.example/e/"), Some(&good), 4),
        ("no host", "d", Some("d"), Some(&good), 4),
        ("no token", "d", Some(USER_NAME), None, 5),
        ("no token but text", "d", Some(USER_NAME), Some(&"secret".to_owned()), 4),
        ("an expired token", "d", Some(USER_NAME), Some(&expired), 5),
        ("another's token", "d", Some(USER_NAME), Some(&others), 5),
        ("another's key", "d", Some(USER_NAME), Some(&wrong), 5),
        ("a key for another", "d", Some(USER_NAME), Some(&elsewhere), 5),
        ("an unknown device", "x", Some("plant7.example/x/"), Some(&unknown), 5),
        ("an unknown policy", "d", Some(USER_NAME), Some(&policy), 5),
    ] {
        let connect =
            Connect { user_name, password: password.map(|text| text.as_bytes()), ..Connect::new(client_id) };
        let (wire, verdict) = hub.try_connect(&connect);
        assert_eq!((verdict, hub.is_closed(wire)), (Some(expected), expected != 0), "{what}");
    }
}

/// Every kind of credential: exactly those come in that may act as the device.
#[test]
fn every_credential() {
    let mut hub = Hub::new();
    for (id, number) in DEVICES {
        hub.create_device(id, number);
    }
    hub.disable_device("disabled", 12);
    for id in ["deleted", "recreated"] {
        let device = DeviceId::parse(id).unwrap();
        let reply = hub.ask(Request::DeleteDevice { device, if_match: IfMatch::Any });
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }
    hub.create_device("recreated", SECOND_LIFE);
    for who in credentials(hub.now.wall_ms / 1000) {
        let user_name = format!("{HOST}/{}/?api-version=2021-04-12", who.device);
        let password = who.token.as_ref().map(|text| text.as_bytes());
        let connect = Connect { user_name: Some(&user_name), password, ..Connect::new(who.device) };
        let (wire, verdict) = hub.try_connect(&connect);
        match who.opens_device {
            true => assert_eq!(verdict, Some(0), "{}", who.what),
            // What cannot be read is told from what is refused.
            false => assert!(matches!(verdict, Some(4 | 5)), "{}: {verdict:?}", who.what),
        }
        assert_eq!(hub.is_closed(wire), !who.opens_device, "{}", who.what);
        if who.opens_device {
            let topic = format!("devices/{}/messages/events/", who.device);
            hub.publish(wire, &topic, b"x", true);
            assert_eq!(hub.seen(wire), [Seen::Acknowledged(1)], "{}", who.what);
        }
    }
}

#[test]
fn a_disabled_device_is_cut_off_and_not_let_in() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    hub.disable_device("d", 1);
    assert!(hub.is_closed(wire));
    let token = hub.device_token("d", 1);
    let connect =
        Connect { user_name: Some(USER_NAME), password: Some(token.as_bytes()), ..Connect::new("d") };
    assert_eq!(hub.try_connect(&connect).1, Some(5));
}

#[test]
fn a_policy_that_changes_cuts_off_those_that_came_with_it() {
    let mut hub = hub();
    let expires_s = hub.now.wall_ms / 1000 + 60;
    let token = sas::sign(&format!("{HOST}/devices/d"), &key(2), KeyForm::Decoded, expires_s, Some("device"));
    let connect =
        Connect { user_name: Some(USER_NAME), password: Some(token.as_bytes()), ..Connect::new("d") };
    let (by_policy, verdict) = hub.try_connect(&connect);
    assert_eq!(verdict, Some(0));
    let own = hub.connect("e", 2);
    let put = |hub: &mut Hub, name: &str| {
        let (primary_key, secondary_key) = (KeyWish::New, KeyWish::Keep);
        let name = PolicyName::parse(name).unwrap();
        let draft = PolicyDraft { name, rights: None, primary_key, secondary_key };
        let reply = hub.ask(Request::Policy(PolicyRequest::Put(draft)));
        assert!(matches!(reply, Reply::Policy(_)), "{reply:?}");
    };
    put(&mut hub, "service");
    assert!(!hub.is_closed(by_policy), "another policy");
    put(&mut hub, "device");
    assert!(hub.is_closed(by_policy) && !hub.is_closed(own));
    assert_eq!(hub.try_connect(&connect).1, Some(5));
}

#[test]
fn a_newer_connection_takes_over() {
    let mut hub = hub();
    let older = hub.connect("d", 1);
    let other = hub.connect("e", 2);
    let newer = hub.connect("d", 1);
    assert!(hub.is_closed(older) && !hub.is_closed(newer) && !hub.is_closed(other));
    hub.publish(newer, TOPIC, b"x", true);
    assert_eq!(hub.seen(newer), [Seen::Acknowledged(1)]);
}

#[test]
fn a_connection_ends_with_its_token() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    // The keep-alive is 60 s.
    for _ in 0..60 {
        hub.advance(59_000);
        hub.publish(wire, TOPIC, b"x", true);
        assert_eq!(hub.seen(wire).len(), 1);
    }
    assert!(!hub.is_closed(wire));
    hub.advance(59_000);
    assert!(!hub.is_closed(wire), "59.98 minutes");
    hub.advance(2_000);
    assert!(hub.is_closed(wire), "an hour and a second");
}

#[test]
fn a_token_counts_a_while_after_its_end_where_clocks_may_differ() {
    let mut hub = Hub::with(Limits::default(), 300);
    hub.create_device("d", 1);
    let expires_s = hub.now.wall_ms / 1000 + 10;
    let token = sas::sign("plant7.example/devices/d", &key(1), KeyForm::Decoded, expires_s, None);
    let connect =
        Connect { user_name: Some(USER_NAME), password: Some(token.as_bytes()), ..Connect::new("d") };
    let (wire, verdict) = hub.try_connect(&connect);
    assert_eq!(verdict, Some(0));
    hub.advance(310_000);
    hub.publish(wire, TOPIC, b"x", true);
    assert_eq!(hub.seen(wire), [Seen::Acknowledged(1)], "its last second");
    let (wire, verdict) = hub.try_connect(&connect);
    assert_eq!(verdict, Some(0), "and a new connection");
    hub.advance(1_000);
    assert!(hub.is_closed(wire));
    assert_eq!(hub.try_connect(&connect).1, Some(5));
}

/// [IoT Hub: iot-mqtt-connect-to-iot-hub] 29.45 minutes, whatever the device asked for.
#[test]
fn silence_ends_a_connection_after_29_minutes_at_the_latest() {
    for keep_alive_s in [0, 65_535] {
        let mut hub = hub();
        let token = hub.device_token("d", 1);
        let connect = Connect {
            user_name: Some(USER_NAME),
            password: Some(token.as_bytes()),
            keep_alive_s,
            ..Connect::new("d")
        };
        let (wire, _) = hub.try_connect(&connect);
        hub.advance(1_766_000);
        assert!(!hub.is_closed(wire), "{keep_alive_s}");
        hub.advance(1_000);
        assert!(hub.is_closed(wire), "{keep_alive_s}");
    }
}

#[test]
fn foreign_topics_end_the_connection() {
    for topic in [
        "devices/e/messages/events/",
        "devices/d/messages/devicebound/",
        "devices/d/modules/m/messages/events/",
        "devices/d/messages/events/a=%ff",
        "$iothub/methods/res/200/?$rid=1",
        "$SYS/broker",
        "x",
    ] {
        let mut hub = hub();
        let wire = hub.connect("d", 1);
        let other = hub.connect("e", 2);
        hub.publish(wire, topic, b"x", true);
        assert!(hub.is_closed(wire) && hub.seen(wire).is_empty(), "{topic}");
        assert!(hub.stored().is_empty(), "{topic}");
        assert!(!hub.is_closed(other), "{topic}");
    }
}

#[test]
fn quality_of_service_2_ends_the_connection() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    let publish = net_mqtt::Publish {
        topic: TOPIC,
        payload: b"x",
        qos: Qos::ExactlyOnce,
        id: net_mqtt::PacketId::new(1),
        duplicate: false,
        retain: false,
    };
    net_mqtt::Packet::Publish(publish).encode(&mut hub.wires[wire].to_hub);
    hub.run();
    assert!(hub.is_closed(wire) && hub.stored().is_empty());
}

#[test]
fn subscriptions_to_what_is_not_there_are_refused_one_by_one() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    let filters = [
        "#",
        "+/+/+/+/#",
        "devices/+/messages/devicebound/#",
        "devices/e/messages/devicebound/#",
        "devices/d/modules/m/inputs/#",
        "$iothub/twin/res/#",
        "$iothub/twin/PATCH/properties/desired/#",
        "$iothub/methods/POST/#",
    ]
    .map(|filter| (filter, Qos::AtLeastOnce));
    assert_eq!(hub.subscribe(wire, &filters), [0x80; 8]);
    assert!(!hub.is_closed(wire));
}

#[test]
fn a_twin_request_fails_clearly() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    hub.publish(wire, TOPIC, b"x", true);
    hub.publish(wire, "$iothub/twin/GET/?$rid=7a", b"", true);
    let answer =
        Seen::Message { topic: "$iothub/twin/res/501/?$rid=7a".into(), payload: NO_TWIN.to_vec(), id: None };
    assert_eq!(hub.seen(wire), [Seen::Acknowledged(1), answer, Seen::Acknowledged(2)]);
    assert_eq!(hub.stored().len(), 1);
}

#[test]
fn nothing_is_heard_before_a_connect_is_answered() {
    let mut hub = hub();
    let token = hub.device_token("d", 1);
    let connect =
        Connect { user_name: Some(USER_NAME), password: Some(token.as_bytes()), ..Connect::new("d") };
    let wire = hub.accept();
    let end = &mut hub.wires[wire];
    end.client.connect(&connect, 0, &mut end.to_hub);
    net_mqtt::Packet::Publish(net_mqtt::Publish {
        topic: TOPIC,
        payload: b"ahead",
        qos: Qos::AtMostOnce,
        id: None,
        duplicate: false,
        retain: false,
    })
    .encode(&mut end.to_hub);
    hub.run();
    assert_eq!(hub.seen(wire), [Seen::ConnAck(0, false)]);
    assert_eq!(hub.stored().len(), 1);
}

#[test]
fn a_stranger_does_not_stay() {
    let mut hub = hub();
    let wire = hub.accept();
    hub.wires[wire].to_hub.extend_from_slice(b"\x10");
    hub.run();
    hub.advance(14_000);
    assert!(!hub.is_closed(wire));
    hub.advance(1_000);
    assert!(hub.is_closed(wire));
}
