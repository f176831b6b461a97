//! Commands from the queue to the device and back.

use engine::limits::Limits;
use engine::request::{Ack, CommandDraft, CommandQueueStatus, IfMatch, Outcome, PartitionId, Reply, Request};
use net_amqp::{MessageBuilder, Properties, Value};
use net_mqtt::{Connect, PacketId, Qos};
use registry::DeviceId;

use super::hub::{Hub, Seen};

const FILTER: &str = "devices/d/messages/devicebound/#";

fn hub() -> Hub {
    let mut hub = Hub::new();
    hub.create_device("d", 1);
    hub
}

/// Its device is connected and has subscribed.
fn subscribed() -> (Hub, usize) {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);
    (hub, wire)
}

fn send(hub: &mut Hub, number: u32) {
    let reply = hub.ask(Request::EnqueueCommand(draft(number)));
    assert!(matches!(reply, Reply::Done), "{reply:?}");
}

fn draft(number: u32) -> CommandDraft {
    let id = number.to_string();
    let message = MessageBuilder::default()
        .properties(Properties { message_id: Some(Value::String(&id)), ..Properties::default() })
        .data(id.as_bytes())
        .encode();
    let device = DeviceId::parse("d").unwrap();
    CommandDraft { device, message, message_id: id, ack: Ack::None, expires_ms: None }
}

fn queue(hub: &mut Hub) -> CommandQueueStatus {
    let device = DeviceId::parse("d").unwrap();
    match hub.ask(Request::DescribeCommandQueue { device }) {
        Reply::CommandQueue(status) => status,
        other => panic!("{other:?}"),
    }
}

fn status(enqueued: u32, locked: u32) -> CommandQueueStatus {
    CommandQueueStatus { enqueued, locked }
}

/// The commands that a device saw: their numbers and packets.
fn commands(hub: &mut Hub, wire: usize) -> Vec<(u32, Option<PacketId>)> {
    let read = |seen| match seen {
        Seen::Message { topic, payload, id } => {
            let number: u32 = String::from_utf8(payload).unwrap().parse().unwrap();
            assert_eq!(topic, format!("devices/d/messages/devicebound/%24.mid={number}"));
            (number, id)
        }
        other => panic!("{other:?}"),
    };
    hub.seen(wire).into_iter().map(read).collect()
}

fn acknowledge(hub: &mut Hub, wire: usize, id: Option<PacketId>) {
    let end = &mut hub.wires[wire];
    end.client.acknowledge(id.unwrap(), &mut end.to_hub);
    hub.run();
}

fn unsubscribe(hub: &mut Hub, wire: usize) {
    let end = &mut hub.wires[wire];
    let id = end.client.unsubscribe(&[FILTER], &mut end.to_hub);
    hub.run();
    assert_eq!(hub.seen(wire), [Seen::UnsubAck(id)]);
}

#[test]
fn a_command_is_locked_until_the_device_has_it() {
    let mut hub = hub();
    send(&mut hub, 1);
    let wire = hub.connect("d", 1);
    assert_eq!(queue(&mut hub), status(1, 0), "nobody has subscribed");
    assert_eq!(hub.subscribe(wire, &[(FILTER, Qos::ExactlyOnce)]), [1], "two is granted as one");
    send(&mut hub, 2);
    let seen = commands(&mut hub, wire);
    assert!(matches!(seen[..], [(1, Some(_)), (2, Some(_))]), "{seen:?}");
    assert_eq!(queue(&mut hub), status(0, 2));
    acknowledge(&mut hub, wire, seen[1].1);
    assert_eq!(queue(&mut hub), status(0, 1));
    acknowledge(&mut hub, wire, seen[1].1);
    assert_eq!(queue(&mut hub), status(0, 1), "twice is once");
    hub.hang_up(wire);
    assert_eq!(queue(&mut hub), status(1, 0), "what was not acknowledged waits again");
    let wire = hub.connect("d", 1);
    hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);
    let seen = commands(&mut hub, wire);
    assert!(matches!(seen[..], [(1, Some(_))]), "{seen:?}");
}

#[test]
fn a_window_bounds_what_is_on_the_way() {
    let (mut hub, wire) = subscribed();
    for number in 0..40 {
        send(&mut hub, number);
    }
    let mut seen = commands(&mut hub, wire);
    assert_eq!((seen.len(), queue(&mut hub)), (16, status(24, 16)));
    let mut got = Vec::new();
    while !seen.is_empty() {
        for (number, id) in seen {
            got.push(number);
            acknowledge(&mut hub, wire, id);
        }
        seen = commands(&mut hub, wire);
    }
    assert_eq!(got, (0..40).collect::<Vec<_>>());
    assert_eq!(queue(&mut hub), status(0, 0));
}

#[test]
fn without_acknowledgements_a_command_is_done_when_it_is_sent() {
    let mut hub = hub();
    let wire = hub.connect("d", 1);
    assert_eq!(hub.subscribe(wire, &[(FILTER, Qos::AtMostOnce)]), [0]);
    for number in 0..40 {
        send(&mut hub, number);
    }
    let expected: Vec<_> = (0..40).map(|number| (number, None)).collect();
    assert_eq!(commands(&mut hub, wire), expected);
    assert_eq!(queue(&mut hub), status(0, 0));
}

#[test]
fn a_lock_that_ended_brings_the_command_again() {
    let (mut hub, wire) = subscribed();
    send(&mut hub, 1);
    let first = commands(&mut hub, wire);
    for _ in 0..3 {
        hub.advance(30_000);
        let end = &mut hub.wires[wire];
        end.client.ping(&mut end.to_hub);
        hub.run();
    }
    let again = commands(&mut hub, wire);
    assert!(
        matches!((&first[..], &again[..]), ([(1, one)], [(1, other)]) if one != other),
        "{first:?} {again:?}"
    );
    acknowledge(&mut hub, wire, first[0].1);
    assert_eq!(queue(&mut hub), status(0, 1), "too late for the first lock");
    acknowledge(&mut hub, wire, again[0].1);
    assert_eq!(queue(&mut hub), status(0, 0));
}

/// [MQTT-3.10.4-2, MQTT-3.10.4-3]
#[test]
fn what_is_on_the_way_is_completed_after_an_unsubscription() {
    let (mut hub, wire) = subscribed();
    send(&mut hub, 1);
    send(&mut hub, 2);
    let seen = commands(&mut hub, wire);
    assert_eq!(seen.len(), 2);
    unsubscribe(&mut hub, wire);
    send(&mut hub, 3);
    assert!(hub.seen(wire).is_empty());
    assert_eq!(queue(&mut hub), status(1, 2));
    acknowledge(&mut hub, wire, seen[0].1);
    assert_eq!(queue(&mut hub), status(1, 1));
    acknowledge(&mut hub, wire, seen[1].1);
    assert_eq!(queue(&mut hub), status(1, 0));
    hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);
    let seen = commands(&mut hub, wire);
    assert!(matches!(seen[..], [(3, Some(_))]), "{seen:?}");
}

#[test]
fn a_subscription_is_taken_up_again_while_commands_are_on_the_way() {
    let (mut hub, wire) = subscribed();
    send(&mut hub, 1);
    let seen = commands(&mut hub, wire);
    unsubscribe(&mut hub, wire);
    send(&mut hub, 2);
    hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);
    let again = commands(&mut hub, wire);
    assert!(matches!(again[..], [(2, Some(_))]), "{again:?}");
    send(&mut hub, 3);
    assert_eq!(commands(&mut hub, wire).len(), 1);
    acknowledge(&mut hub, wire, seen[0].1);
    assert_eq!(queue(&mut hub), status(0, 2));
}

/// The engine gives out a command in the moment in which the device no longer wants any.
#[test]
fn a_command_that_comes_behind_an_unsubscription_goes_back() {
    let (mut hub, wire) = subscribed();
    send(&mut hub, 1);
    let seen = commands(&mut hub, wire);
    hub.begin(Request::EnqueueCommand(draft(2)));
    let end = &mut hub.wires[wire];
    let id = end.client.unsubscribe(&[FILTER], &mut end.to_hub);
    hub.run();
    assert_eq!(hub.seen(wire), [Seen::UnsubAck(id)]);
    assert_eq!(queue(&mut hub), status(1, 1));
    acknowledge(&mut hub, wire, seen[0].1);
    assert_eq!(queue(&mut hub), status(1, 0));
}

#[test]
fn a_full_journal_keeps_an_ending_receiver() {
    let (mut hub, wire) = subscribed();
    send(&mut hub, 1);
    let seen = commands(&mut hub, wire);
    unsubscribe(&mut hub, wire);
    hub.refused_count = 1;
    acknowledge(&mut hub, wire, seen[0].1);
    hub.advance(5);
    assert_eq!((hub.refused_count, queue(&mut hub)), (0, status(0, 0)));
}

#[test]
fn a_full_engine_forgets_no_settlement() {
    let (mut hub, wire) = subscribed();
    for number in 0..5 {
        send(&mut hub, number);
    }
    let seen = commands(&mut hub, wire);
    hub.busy_count = 3;
    for (_, id) in seen {
        acknowledge(&mut hub, wire, id);
    }
    for _ in 0..5 {
        hub.advance(10);
    }
    assert_eq!((hub.busy_count, queue(&mut hub)), (0, status(0, 0)));
}

#[test]
fn a_full_journal_forgets_no_settlement() {
    let (mut hub, wire) = subscribed();
    for number in 0..5 {
        send(&mut hub, number);
    }
    let seen = commands(&mut hub, wire);
    hub.refused_count = 9;
    for (_, id) in seen {
        acknowledge(&mut hub, wire, id);
    }
    assert_eq!((hub.refused_count, queue(&mut hub)), (8, status(0, 5)), "asked once, and not again at once");
    hub.advance(5);
    hub.advance(5);
    assert_eq!((hub.refused_count, queue(&mut hub)), (0, status(0, 0)));
    assert!(!hub.is_closed(wire));
}

/// The shard itself finds its journal full: it holds as many answers as it may.
#[test]
fn a_shard_that_holds_as_many_answers_as_it_may_forgets_no_settlement() {
    let mut hub = Hub::with(Limits { change_waiting_max: 4, ..Limits::default() }, 0);
    hub.create_device("d", 1);
    let wire = hub.connect("d", 1);
    hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);
    for number in 0..9 {
        send(&mut hub, number);
    }
    let end = &mut hub.wires[wire];
    for seen in std::mem::take(&mut end.seen) {
        let Seen::Message { id: Some(id), .. } = seen else { panic!("{seen:?}") };
        end.client.acknowledge(id, &mut end.to_hub);
    }
    hub.run();
    assert_eq!(queue(&mut hub), status(0, 0));
}

#[test]
fn a_journal_that_stays_full_ends_the_connection() {
    let (mut hub, wire) = subscribed();
    send(&mut hub, 1);
    let seen = commands(&mut hub, wire);
    hub.refused_count = u32::MAX;
    acknowledge(&mut hub, wire, seen[0].1);
    for _ in 0..100 {
        hub.advance(49);
        assert!(!hub.is_closed(wire));
    }
    hub.advance(200);
    assert!(hub.is_closed(wire));
    hub.hang_up(wire);
    assert_eq!(queue(&mut hub), status(1, 0));
}

#[test]
fn a_full_journal_forgets_no_subscription() {
    let mut hub = hub();
    let (wire, _) = connect(&mut hub, false);
    hub.refused_count = 2;
    let end = &mut hub.wires[wire];
    let id = end.client.subscribe(&[(FILTER, Qos::AtLeastOnce)], &mut end.to_hub);
    hub.run();
    assert_eq!((hub.refused_count, hub.seen(wire)), (1, vec![]), "not kept, not granted");
    hub.advance(5);
    assert_eq!((hub.refused_count, hub.seen(wire)), (0, vec![]));
    hub.advance(5);
    assert_eq!(hub.seen(wire), [Seen::SubAck(id, vec![1])]);

    hub.refused_count = 3;
    let end = &mut hub.wires[wire];
    let id = end.client.unsubscribe(&[FILTER], &mut end.to_hub);
    hub.run();
    assert!(hub.seen(wire).is_empty());
    hub.advance(5);
    hub.advance(5);
    assert_eq!(hub.seen(wire), [Seen::UnsubAck(id)]);
    hub.hang_up(wire);
    assert!(!connect(&mut hub, false).1);
}

/// There is no word for an UNSUBSCRIBE that failed, and clients take a SUBACK for a grant whatever it says: the connection ends
/// [MQTT-4.8.0-2].
#[test]
fn a_subscription_that_cannot_be_kept_ends_the_connection() {
    for is_subscribed in [false, true] {
        let mut hub = hub();
        let (wire, _) = connect(&mut hub, false);
        if is_subscribed {
            hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);
        }
        hub.refused_count = u32::MAX;
        let end = &mut hub.wires[wire];
        match is_subscribed {
            false => end.client.subscribe(&[(FILTER, Qos::AtLeastOnce)], &mut end.to_hub),
            true => end.client.unsubscribe(&[FILTER], &mut end.to_hub),
        };
        send(&mut hub, 1);
        hub.advance(4_900);
        assert!(!hub.is_closed(wire));
        hub.advance(200);
        assert!(hub.is_closed(wire) && hub.seen(wire).is_empty(), "no word and no command");
        hub.refused_count = 0;
        hub.hang_up(wire);
        assert_eq!(connect(&mut hub, false).1, is_subscribed, "what was kept before is kept");
    }
}

/// A connection that keeps its subscription, or does not; whether the hub knew one.
fn connect(hub: &mut Hub, clean_session: bool) -> (usize, bool) {
    let wire = begin_connect(hub, clean_session);
    hub.run();
    match hub.wires[wire].seen.pop_front() {
        Some(Seen::ConnAck(0, is_known)) => (wire, is_known),
        other => panic!("{other:?}"),
    }
}

fn begin_connect(hub: &mut Hub, clean_session: bool) -> usize {
    let token = hub.device_token("d", 1);
    let wire = hub.accept();
    let end = &mut hub.wires[wire];
    let connect = Connect {
        clean_session,
        user_name: Some("plant7.example/d/"),
        password: Some(token.as_bytes()),
        ..Connect::new("d")
    };
    end.client.connect(&connect, 0, &mut end.to_hub);
    wire
}

/// Said before the hub has taken up the kept subscription, which it is in the place of.
#[test]
fn a_subscription_behind_the_connect_is_kept_once() {
    let mut hub = hub();
    let (wire, _) = connect(&mut hub, false);
    hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);
    hub.hang_up(wire);
    send(&mut hub, 1);

    let wire = begin_connect(&mut hub, false);
    let end = &mut hub.wires[wire];
    let id = end.client.subscribe(&[(FILTER, Qos::AtMostOnce)], &mut end.to_hub);
    hub.kept_count = 0;
    hub.run();
    let seen = hub.seen(wire);
    let expected = (Seen::ConnAck(0, true), Seen::SubAck(id, vec![0]));
    assert!(
        matches!(&seen[..], [one, other, Seen::Message { id: None, .. }] if (one, other) == (&expected.0, &expected.1)),
        "{seen:?}"
    );
    assert_eq!(hub.kept_count, 1);

    hub.hang_up(wire);
    let wire = begin_connect(&mut hub, false);
    let end = &mut hub.wires[wire];
    let id = end.client.unsubscribe(&[FILTER], &mut end.to_hub);
    hub.kept_count = 0;
    hub.run();
    assert_eq!(hub.seen(wire), [Seen::ConnAck(0, true), Seen::UnsubAck(id)]);
    assert_eq!(hub.kept_count, 1);
    hub.hang_up(wire);
    assert!(!connect(&mut hub, false).1);
}

#[test]
fn a_subscription_is_kept_for_a_device_that_wants_it() {
    let mut hub = hub();
    let (wire, is_known) = connect(&mut hub, false);
    assert!(!is_known);
    hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);
    hub.hang_up(wire);
    send(&mut hub, 1);

    let (wire, is_known) = connect(&mut hub, false);
    assert!(is_known);
    let seen = commands(&mut hub, wire);
    assert!(matches!(seen[..], [(1, Some(_))]), "without another SUBSCRIBE: {seen:?}");
    acknowledge(&mut hub, wire, seen[0].1);
    hub.subscribe(wire, &[(FILTER, Qos::AtMostOnce)]);
    hub.hang_up(wire);

    hub.reopen();
    let (wire, is_known) = connect(&mut hub, false);
    assert!(is_known, "over a restart of the hub too");
    send(&mut hub, 2);
    assert_eq!(commands(&mut hub, wire), [(2, None)]);
    unsubscribe(&mut hub, wire);
    hub.hang_up(wire);
    let (wire, is_known) = connect(&mut hub, false);
    assert!(!is_known);
    hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);

    let (_, is_known) = connect(&mut hub, true);
    assert!(!is_known, "a clean session forgets");
    let (wire, is_known) = connect(&mut hub, false);
    assert!(!is_known);
    send(&mut hub, 3);
    assert!(hub.seen(wire).is_empty());
}

/// What the device is told of a subscription is true after a power cut.
#[test]
fn a_subscription_is_granted_once_it_is_durable() {
    let mut hub = hub();
    let (wire, _) = connect(&mut hub, false);
    let end = &mut hub.wires[wire];
    let id = end.client.subscribe(&[(FILTER, Qos::AtLeastOnce)], &mut end.to_hub);
    hub.hear();
    while hub.answer() {}
    assert_eq!((hub.kept_count, hub.seen(wire)), (1, vec![]), "asked, and not written");
    hub.run();
    assert_eq!(hub.seen(wire), [Seen::SubAck(id, vec![1])]);
    hub.reopen();
    let (wire, is_known) = connect(&mut hub, false);
    assert!(is_known);

    let end = &mut hub.wires[wire];
    let id = end.client.unsubscribe(&[FILTER], &mut end.to_hub);
    hub.hear();
    while hub.answer() {}
    assert_eq!((hub.kept_count, hub.seen(wire)), (2, vec![]));
    hub.run();
    assert_eq!(hub.seen(wire), [Seen::UnsubAck(id)]);
    hub.reopen();
    assert!(!connect(&mut hub, false).1);
}

#[test]
fn a_kept_subscription_goes_with_its_device() {
    let mut hub = hub();
    let (wire, _) = connect(&mut hub, false);
    hub.subscribe(wire, &[(FILTER, Qos::AtLeastOnce)]);
    hub.hang_up(wire);
    let device = DeviceId::parse("d").unwrap();
    let reply = hub.ask(Request::DeleteDevice { device, if_match: IfMatch::Any });
    assert!(matches!(reply, Reply::Done), "{reply:?}");
    hub.create_device("d", 1);
    assert!(!connect(&mut hub, false).1);
}

#[test]
fn a_command_that_no_topic_can_carry_goes_back_to_its_sender() {
    let (mut hub, wire) = subscribed();
    // Nine bytes of the topic for each three.
    let long = "\u{20ac}".repeat(10 * 1024);
    let message =
        MessageBuilder::default().application_property("a", Value::String(&long)).data(b"").encode();
    let reply = hub.ask(Request::EnqueueCommand(CommandDraft { message, ack: Ack::Full, ..draft(1) }));
    assert!(matches!(reply, Reply::Done), "{reply:?}");
    assert_eq!((hub.seen(wire), queue(&mut hub)), (vec![], status(0, 0)));
    send(&mut hub, 2);
    let seen = commands(&mut hub, wire);
    assert!(matches!(seen[..], [(2, Some(_))]), "{seen:?}");
    hub.advance(30_000);
    let reply = hub.ask(Request::ReceiveReceipts { partition: PartitionId(0) });
    let Reply::Receipts(batches) = reply else { panic!("{reply:?}") };
    let receipts: Vec<_> = batches
        .iter()
        .flat_map(|batch| batch.receipts.iter())
        .map(|receipt| (receipt.message_id.as_str(), receipt.outcome))
        .collect();
    assert_eq!(receipts, [("1", Outcome::Rejected)]);
}
