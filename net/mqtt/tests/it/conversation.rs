//! What two good peers do.

use net_mqtt::{Config, Connect, ConnectCode, Draft, Fault, PacketId, Qos, Role, SendRefused, Will};

use crate::pair::{End, Seen, connected, talk};

fn draft(payload: &[u8], needs_ack: bool) -> Draft<'_> {
    Draft { topic: "devices/d/messages/events/", payload, needs_ack, retain: false }
}

#[test]
fn messages_both_ways() {
    let (mut device, mut hub) = connected(Config::default(), &Connect::new("d"));
    let id = device.connection.subscribe(&[("a/#", Qos::ExactlyOnce)], &mut device.output);
    talk(&mut device, &mut hub, 0);
    assert_eq!(hub.events(), [Seen::Subscribe { id, filters: vec!["a/#".into()] }]);
    hub.connection.answer_subscribe(id, &[1], &mut hub.output);
    talk(&mut device, &mut hub, 0);
    assert_eq!(device.events(), [Seen::SubAck(id, vec![1])]);

    let sent = device.connection.publish(&draft(b"1", true), &mut device.output).unwrap();
    assert_eq!(device.connection.publish(&draft(b"0", false), &mut device.output), Ok(None));
    talk(&mut device, &mut hub, 0);
    let seen = hub.events();
    assert!(
        matches!(&seen[..], [Seen::Publish { payload, id, .. }, Seen::Publish { id: None, .. }] if payload == b"1" && *id == sent),
        "{seen:?}"
    );
    assert_eq!(device.connection.in_flight_count(), 1);
    hub.connection.acknowledge(sent.unwrap(), &mut hub.output);
    talk(&mut device, &mut hub, 0);
    assert_eq!(device.events(), [Seen::Acknowledged(sent.unwrap())]);
    assert_eq!(device.connection.in_flight_count(), 0);

    let id = device.connection.unsubscribe(&["a/#"], &mut device.output);
    talk(&mut device, &mut hub, 0);
    assert_eq!(hub.events(), [Seen::Unsubscribe { id, filters: vec!["a/#".into()] }]);
    hub.connection.answer_unsubscribe(id, &mut hub.output);
    device.connection.close(&mut device.output);
    talk(&mut device, &mut hub, 0);
    assert_eq!(hub.events(), [Seen::Disconnect]);
    assert!(hub.connection.is_closed() && hub.fault.is_none());
}

#[test]
fn the_window_bounds_what_is_on_the_way() {
    let config = Config { in_flight_max: 3, ..Config::default() };
    let (mut device, mut hub) = connected(config, &Connect::new("d"));
    let ids: Vec<PacketId> = (0..3)
        .map(|_| hub.connection.publish(&draft(b"x", true), &mut hub.output).unwrap().unwrap())
        .collect();
    assert_eq!(hub.connection.publish(&draft(b"x", true), &mut hub.output), Err(SendRefused::Window));
    assert_eq!(hub.connection.publish(&draft(b"x", false), &mut hub.output), Ok(None));
    talk(&mut device, &mut hub, 0);
    assert_eq!(device.events().len(), 4);
    // Out of order, twice, and one that was never sent.
    for id in [ids[1], ids[1], PacketId::new(999).unwrap()] {
        device.connection.acknowledge(id, &mut device.output);
    }
    talk(&mut device, &mut hub, 0);
    assert_eq!(hub.events(), [Seen::Acknowledged(ids[1])]);
    assert_eq!(hub.connection.window(), 1);
}

#[test]
fn identifiers_in_use_are_passed_over() {
    let (mut device, mut hub) = connected(Config::default(), &Connect::new("d"));
    let first = hub.connection.publish(&draft(b"x", true), &mut hub.output).unwrap();
    assert_eq!(first.unwrap().number(), 1);
    for _ in 0..u32::from(u16::MAX) * 2 {
        let id = hub.connection.publish(&draft(b"x", true), &mut hub.output).unwrap();
        assert_ne!(id, first);
        device.connection.acknowledge(id.unwrap(), &mut device.output);
        hub.output.clear();
        let acknowledged = std::mem::take(&mut device.output);
        hub.take(&acknowledged, 0);
    }
    assert_eq!(hub.connection.in_flight_count(), 1);
}

#[test]
fn nothing_is_taken_until_a_connect_is_answered() {
    let mut device = End::new(Role::Client, Config::default());
    let mut hub = End::new(Role::Server, Config::default());
    let will = Will { topic: "w", payload: b"", qos: Qos::AtMostOnce, retain: false };
    let connect = Connect { keep_alive_s: 9, will: Some(will), ..Connect::new("d") };
    device.connection.connect(&connect, 0, &mut device.output);
    device.connection.ping(&mut device.output);
    hub.take(&std::mem::take(&mut device.output), 0);
    let connect = Seen::Connect { client_id: "d".into(), keep_alive_s: 9, will_topic: Some("w".into()) };
    assert_eq!((hub.events(), hub.output.len()), (vec![connect], 0));
    hub.connection.accept(true, 0, &mut hub.output);
    hub.take(&[], 0);
    assert_eq!(hub.output, [0x20, 2, 1, 0, 0xd0, 0]);
}

#[test]
fn a_refused_client_hears_why() {
    let mut device = End::new(Role::Client, Config::default());
    let mut hub = End::new(Role::Server, Config::default());
    device.connection.connect(&Connect::new("d"), 0, &mut device.output);
    talk(&mut device, &mut hub, 0);
    hub.connection.refuse(ConnectCode::NotAuthorized, &mut hub.output);
    talk(&mut device, &mut hub, 0);
    assert_eq!(device.events(), [Seen::ConnAck(5)]);
    assert!(device.connection.is_closed() && hub.connection.is_closed());
}

#[test]
fn silence_ends_a_connection_and_pings_keep_it() {
    let (mut device, mut hub) =
        connected(Config::default(), &Connect { keep_alive_s: 60, ..Connect::new("d") });
    assert_eq!(hub.connection.next_timeout_ms(), Some(90_000));
    let mut now_ms = 0;
    for _ in 0..100 {
        now_ms = device.connection.next_timeout_ms().unwrap();
        device.connection.handle_timeout(now_ms, &mut device.output).unwrap();
        hub.connection.handle_timeout(now_ms, &mut hub.output).unwrap();
        talk(&mut device, &mut hub, now_ms);
    }
    assert_eq!(now_ms, 3_000_000);
    hub.connection.handle_timeout(now_ms + 89_999, &mut hub.output).unwrap();
    assert_eq!(hub.connection.handle_timeout(now_ms + 90_000, &mut hub.output), Err(Fault::Silent));
    assert!(hub.connection.is_closed());
}

#[test]
fn patience_has_an_end() {
    for (keep_alive_s, patience_ms) in [(0, 1_767_000), (1, 1_500), (1200, 1_767_000), (u16::MAX, 1_767_000)]
    {
        let (_, hub) = connected(Config::default(), &Connect { keep_alive_s, ..Connect::new("d") });
        assert_eq!(hub.connection.next_timeout_ms(), Some(patience_ms), "{keep_alive_s}");
    }
    let mut hub = End::new(Role::Server, Config::default());
    hub.take(b"\x10\x0c\x00\x04MQ", 14_999);
    assert_eq!(hub.connection.handle_timeout(15_000, &mut hub.output), Err(Fault::NotOpened));
}

#[test]
fn packets_of_any_cut_arrive() {
    let (mut device, mut hub) = connected(Config::default(), &Connect::new("d"));
    for size in [0, 1, 100, 127, 128, 16_384, 100_000] {
        device.connection.publish(&draft(&vec![7; size], false), &mut device.output).unwrap();
    }
    let bytes = std::mem::take(&mut device.output);
    for chunk_bytes in [1, 2, 3, 5, 1000, 65_536] {
        for chunk in bytes.chunks(chunk_bytes) {
            hub.take(chunk, 0);
        }
        assert_eq!(hub.inbound.kept_bytes(), 0);
        let sizes: Vec<usize> = hub
            .events()
            .iter()
            .map(|seen| match seen {
                Seen::Publish { payload, .. } => payload.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, [0, 1, 100, 127, 128, 16_384, 100_000], "in chunks of {chunk_bytes}");
    }
}
