//! Who is refused or cut off, through the real engine.

use engine::request::{
    DeviceCounts, IfMatch, KeyWish, PartitionId, PolicyDraft, PolicyRequest, Reply, Request,
};
use net_amqp::SaslRole;
use net_amqp::sasl::plain_response;
use registry::{DeviceId, DeviceStatus, KeyForm, PolicyName, sas};

use super::hub::{Hub, Wish, key};
use super::wire::{Seen, telemetry};
use crate::binding::amqp::limits;

fn device_hub() -> Hub {
    let mut hub = Hub::new(2);
    for (id, number) in [("dev-1", 10), ("dev-10", 11)] {
        hub.create_device(id, number);
    }
    hub
}

#[test]
fn bad_tokens_get_401_and_open_nothing() {
    let mut hub = device_hub();
    let wire = hub.connect();
    let sign = |resource: &str, number: u8, expires_s: u64, policy: Option<&str>| {
        sas::sign(resource, &key(number), KeyForm::Decoded, expires_s, policy)
    };
    let later = hub.in_an_hour();
    let past = hub.now.wall_ms / 1000 - 1;
    for (token, what) in [
        (sign("plant7.example/devices/dev-1", 11, later, None), "another device's key"),
        (sign("plant7.example/devices/dev-1", 10, past, None), "expired"),
        (sign("plant7.example/devices/nobody", 10, later, None), "unknown device"),
        (sign("plant7.example", 10, later, Some("service")), "a device's key for a policy"),
        (sign("plant7.example", 1, later, Some("nobody")), "unknown policy"),
        ("SharedAccessSignature sr=x".to_owned(), "malformed"),
    ] {
        assert_eq!(hub.put_token(wire, &token).0, 401, "{what}");
    }
    let refused = hub.attach_sender(wire, "/devices/dev-1/messages/events").unwrap_err();
    assert_eq!(refused.0, "amqp:unauthorized-access");
}

#[test]
fn a_token_attaches_its_own_device_alone() {
    let mut hub = device_hub();
    let wire = hub.connect();
    let token = hub.device_token("dev-1", 10);
    assert_eq!(hub.put_token(wire, &token).0, 200);
    assert!(hub.attach_sender(wire, "/devices/dev-1/messages/events").is_ok());
    for id in ["dev-10", "dev", "dev-1%2F", "Dev-1"] {
        let refused = hub.attach_sender(wire, &format!("/devices/{id}/messages/events")).unwrap_err();
        let expected = if id.ends_with('F') { "amqp:not-found" } else { "amqp:unauthorized-access" };
        assert!(refused.0 == expected || refused.0 == "amqp:unauthorized-access", "{id}: {refused:?}");
    }
    let refused = hub.attach_reader(wire, 0, Wish::default()).unwrap_err();
    assert_eq!(refused.0, "amqp:unauthorized-access", "a device does not read events");
}

#[test]
fn policies_act_by_their_rights() {
    let mut hub = device_hub();
    let devices = hub.connect_policy("device", 2);
    assert!(hub.attach_sender(devices, "/devices/dev-1/messages/events").is_ok());
    let refused = hub.attach_sender(devices, "/devices/nobody/messages/events").unwrap_err();
    assert_eq!(refused.0, "amqp:not-found");
    assert_eq!(hub.attach_reader(devices, 0, Wish::default()).unwrap_err().0, "amqp:unauthorized-access");
    let service = hub.connect_policy("service", 1);
    assert!(hub.attach_reader(service, 0, Wish::default()).is_ok());
    let refused = hub.attach_sender(service, "/devices/dev-1/messages/events").unwrap_err();
    assert_eq!(refused.0, "amqp:unauthorized-access");
    let registry = hub.connect_policy("registryRead", 3);
    assert_eq!(hub.attach_reader(registry, 0, Wish::default()).unwrap_err().0, "amqp:unauthorized-access");
}

/// Event Hubs clients sign with the text of the key, for a path below the host.
#[test]
fn event_hubs_tokens_cover_what_they_name() {
    let mut hub = device_hub();
    let wire = hub.connect();
    let resource = "sb://plant7.example/plant7/ConsumerGroups/$Default/Partitions/1";
    let token = sas::sign(resource, &key(1), KeyForm::Text, hub.in_an_hour(), Some("service"));
    assert_eq!(hub.put_token(wire, &token).0, 200);
    assert!(hub.attach_reader(wire, 1, Wish::default()).is_ok());
    assert_eq!(hub.attach_reader(wire, 0, Wish::default()).unwrap_err().0, "amqp:unauthorized-access");
}

#[test]
fn a_disabled_deleted_or_rekeyed_device_is_cut_off_at_once() {
    type Change = fn(&mut Hub);
    let changes: [(Change, &str); 3] = [
        (|hub| hub.update_device("dev-1", 10, DeviceStatus::Disabled), "amqp:unauthorized-access"),
        (|hub| hub.update_device("dev-1", 20, DeviceStatus::Enabled), "amqp:unauthorized-access"),
        (
            |hub| {
                let device = DeviceId::parse("dev-1").unwrap();
                let reply = hub.ask(Request::DeleteDevice { device, if_match: IfMatch::Any });
                assert!(matches!(reply, Reply::Done), "{reply:?}");
            },
            "amqp:not-found",
        ),
    ];
    for (change, condition) in changes {
        let mut hub = device_hub();
        let wire = hub.connect();
        let link = hub.attach_device(wire, "dev-1", 10);
        let other = hub.attach_device(wire, "dev-10", 11);
        change(&mut hub);
        assert_eq!(hub.detached(wire, link).unwrap().0, condition);
        assert!(hub.attach_sender(wire, "/devices/dev-1/messages/events").is_err(), "its token is stale");
        hub.send(wire, other, &telemetry(b"x"));
        assert_eq!(hub.wires[wire].accepted(other).len(), 1, "the other device lives on");
    }
}

/// Everything on the connection that rests on the policy ends, however it came in; what rests on something else lives on.
#[test]
fn a_policy_that_changes_cuts_off_what_rests_on_it() {
    let mut hub = device_hub();
    let back_end = hub.connect_policy("service", 1);
    let reader = hub.attach_reader(back_end, 0, Wish::default()).unwrap();
    let receipts = hub.attach_receiver(back_end, "/messages/serviceBound/feedback").unwrap();
    let commands = hub.attach_sender(back_end, "/messages/devicebound").unwrap();
    let management = hub.attach_sender(back_end, "$management").unwrap();
    let gateway = hub.connect_policy("service", 1);
    let own = hub.attach_device(gateway, "dev-10", 11);
    let plain =
        SaslRole::Choose { mechanism: "PLAIN", response: plain_response("service", &key(1).to_base64()) };
    let plain = hub.accept_with(plain);
    hub.run();
    let read = hub.attach_reader(plain, 1, Wish::default()).unwrap();
    let devices = hub.connect_policy("device", 2);
    let by_policy = hub.attach_sender(devices, "/devices/dev-1/messages/events").unwrap();

    let put = |hub: &mut Hub, name: &str, number: u8| {
        let (primary_key, secondary_key) = (KeyWish::Given(key(number)), KeyWish::Keep);
        let name = PolicyName::parse(name).unwrap();
        let draft = PolicyDraft { name, rights: None, primary_key, secondary_key };
        let reply = hub.ask(Request::Policy(PolicyRequest::Put(draft)));
        assert!(matches!(reply, Reply::Policy(_)), "{reply:?}");
    };
    put(&mut hub, "service", 31);
    for link in [reader, receipts, commands, management] {
        let ended = hub.wires[back_end].pick(|seen| match seen {
            Seen::Detached { link: detached, condition, .. } if *detached == link => Some(condition.clone()),
            _ => None,
        });
        assert_eq!(ended.as_deref(), Some("amqp:unauthorized-access"), "{link:?}");
    }
    assert!(hub.attach_reader(back_end, 0, Wish::default()).is_err());
    assert!(hub.wires[plain].closing.is_some(), "it rests on the key alone");
    assert!(hub.detached(plain, read).is_none());
    for (wire, link) in [(gateway, own), (devices, by_policy)] {
        hub.send(wire, link, &telemetry(b"x"));
        assert_eq!(hub.wires[wire].accepted(link).len(), 1);
    }
    put(&mut hub, "device", 32);
    assert_eq!(hub.detached(devices, by_policy).unwrap().0, "amqp:unauthorized-access");

    // The connection lives on with a token that is good.
    let resource = "plant7.example";
    let old = sas::sign(resource, &key(1), KeyForm::Decoded, hub.in_an_hour(), Some("service"));
    assert_eq!(hub.put_token(back_end, &old).0, 401);
    let new = sas::sign(resource, &key(31), KeyForm::Decoded, hub.in_an_hour(), Some("service"));
    assert_eq!(hub.put_token(back_end, &new).0, 200);
    assert!(hub.attach_reader(back_end, 0, Wish::default()).is_ok());
}

#[test]
fn the_newest_connection_of_a_device_wins() {
    let mut hub = device_hub();
    let first = hub.connect();
    let old = hub.attach_device(first, "dev-1", 10);
    let second = hub.connect();
    let new = hub.attach_device(second, "dev-1", 10);
    assert_eq!(hub.detached(first, old).unwrap().0, "amqp:link:stolen");
    hub.send(second, new, &telemetry(b"x"));
    assert_eq!(hub.wires[second].accepted(new).len(), 1);
}

#[test]
fn two_links_of_one_device_share_its_session() {
    let mut hub = device_hub();
    let wire = hub.connect();
    let one = hub.attach_device(wire, "dev-1", 10);
    let two = hub.attach_sender(wire, "amqps://plant7.example/devices/dev-1/messages/events").unwrap();
    hub.send(wire, one, &telemetry(b"1"));
    hub.send(wire, two, &telemetry(b"2"));
    assert_eq!((hub.wires[wire].accepted(one).len(), hub.wires[wire].accepted(two).len()), (1, 1));
    hub.wires[wire].detach(one);
    hub.run();
    hub.send(wire, two, &telemetry(b"3"));
    assert_eq!(hub.wires[wire].accepted(two).len(), 2);
    hub.wires[wire].detach(two);
    hub.run();
    let connected: u64 = (0..2)
        .map(|partition| match hub.ask(Request::CountDevices { partition: PartitionId(partition) }) {
            Reply::DeviceCounts(DeviceCounts { connected, .. }) => connected,
            reply => panic!("{reply:?}"),
        })
        .sum();
    assert_eq!(connected, 0);
}

#[test]
fn a_link_ends_with_its_token_and_lives_on_with_a_new_one() {
    let mut hub = device_hub();
    let wire = hub.connect();
    let one = hub.attach_device(wire, "dev-1", 10);
    let two = hub.attach_device(wire, "dev-10", 11);
    let reader = hub.connect_policy("service", 1);
    let read = hub.attach_reader(reader, 0, Wish::default()).unwrap();
    hub.advance(3_000_000);
    let token = hub.device_token("dev-10", 11);
    assert_eq!(hub.put_token(wire, &token).0, 200);
    hub.advance(602_000);
    assert_eq!(hub.detached(wire, one).unwrap().0, "amqp:unauthorized-access");
    assert_eq!(hub.detached(reader, read).unwrap().0, "amqp:unauthorized-access");
    hub.send(wire, two, &telemetry(b"x"));
    assert_eq!(hub.wires[wire].accepted(two).len(), 1);
    hub.advance(limits::TOKENLESS_MS_MAX);
    assert!(hub.wires[reader].closing.is_some(), "a connection without a token is closed");
    assert!(hub.wires[wire].closing.is_none());
}

#[test]
fn a_missing_group_or_partition_is_told_in_the_words_that_clients_look_for() {
    let mut hub = device_hub();
    let wire = hub.connect_policy("service", 1);
    for (partition, group) in [(2, None), (0, Some("nobody"))] {
        let wish = Wish { group, ..Wish::default() };
        let (condition, text) = hub.attach_reader(wire, partition, wish).unwrap_err();
        assert_eq!(condition, "amqp:not-found");
        assert!(text.starts_with("The messaging entity ") && text.contains("could not be found"), "{text}");
    }
}

#[test]
fn a_deleted_group_ends_its_readers() {
    let mut hub = device_hub();
    let name = || "stream".to_owned();
    let Reply::ConsumerGroup(group) = hub.ask(Request::CreateConsumerGroup { name: name() }) else {
        panic!()
    };
    let wire = hub.connect_policy("service", 1);
    let link = hub.attach_reader(wire, 1, Wish { group: Some("STREAM"), ..Wish::default() }).unwrap();
    hub.ask(Request::DeleteConsumerGroup { name: name() });
    hub.ask(Request::DropConsumerGroup { partition: PartitionId(1), group: group.id });
    assert_eq!(hub.detached(wire, link).unwrap().0, "amqp:not-found");
}
