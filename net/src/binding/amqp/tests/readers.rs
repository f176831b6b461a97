//! Epochs, the five-reader rule and checkpoints, through the real engine.

use engine::request::{PartitionId, Reply, Request, SequenceNumber};
use net_amqp::{DeliveryState, LinkId};
use registry::ConsumerGroupId;

use super::hub::{Hub, Wish};
use super::wire::{Seen, telemetry};
use crate::binding::amqp::CHECKPOINT_CAPABILITY;

fn epoch(number: i64) -> Wish<'static> {
    Wish { epoch: Some(number), name: Some("owner"), ..Wish::default() }
}

#[test]
fn an_epoch_steals_and_a_lower_one_is_refused() {
    let mut hub = Hub::new(1);
    let wire = hub.connect_policy("service", 1);
    let plain = hub.attach_reader(wire, 0, Wish::default()).unwrap();
    let first = hub.attach_reader(wire, 0, epoch(5)).unwrap();
    assert_eq!(hub.detached(wire, plain).unwrap().0, "amqp:link:stolen");
    let (condition, _) = hub.attach_reader(wire, 0, epoch(4)).unwrap_err();
    assert_eq!(condition, "amqp:link:stolen");
    let (condition, text) = hub.attach_reader(wire, 0, Wish::default()).unwrap_err();
    assert_eq!(condition, "amqp:link:stolen");
    assert!(text.contains("'nil'") && text.contains("'owner'") && text.contains("'5'"), "{text}");
    let second = hub.attach_reader(wire, 0, epoch(5)).unwrap();
    let (condition, text) = hub.detached(wire, first).unwrap();
    assert_eq!(condition, "amqp:link:stolen");
    assert!(text.starts_with("New receiver"), "{text}");
    hub.wires[wire].detach(second);
    hub.run();
    assert!(hub.attach_reader(wire, 0, Wish::default()).is_ok(), "the owner has left");
}

#[test]
fn an_epoch_is_a_long_that_is_not_negative() {
    let mut hub = Hub::new(1);
    let wire = hub.connect_policy("service", 1);
    assert_eq!(hub.attach_reader(wire, 0, epoch(-1)).unwrap_err().0, "amqp:not-allowed");
    assert!(hub.attach_reader(wire, 0, epoch(0)).is_ok());
}

#[test]
fn five_readers_without_epoch_and_no_sixth() {
    let mut hub = Hub::new(2);
    let wire = hub.connect_policy("service", 1);
    let links: Vec<LinkId> = (0..5).map(|_| hub.attach_reader(wire, 0, Wish::default()).unwrap()).collect();
    let (condition, _) = hub.attach_reader(wire, 0, Wish::default()).unwrap_err();
    assert_eq!(condition, "amqp:resource-limit-exceeded");
    assert!(hub.attach_reader(wire, 1, Wish::default()).is_ok(), "another partition");
    hub.wires[wire].detach(links[2]);
    hub.run();
    assert!(hub.attach_reader(wire, 0, Wish::default()).is_ok());
}

const AT_CHECKPOINT: Wish<'static> = Wish {
    group: None,
    selector: Some("amqp.annotation.x-opt-offset > '@checkpoint'"),
    symbolic: false,
    epoch: None,
    name: None,
    capabilities: &[CHECKPOINT_CAPABILITY],
};

/// A hub with six events in its one partition.
fn six_events() -> Hub {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    let device = hub.connect();
    let link = hub.attach_device(device, "dev-1", 10);
    for number in 0..6 {
        hub.send(device, link, &telemetry(&[number]));
    }
    hub
}

fn checkpoint(hub: &mut Hub) -> Option<u64> {
    let request = Request::FindCheckpoint { partition: PartitionId(0), group: ConsumerGroupId::DEFAULT };
    match hub.ask(request) {
        Reply::Checkpoint(number) => number.map(|SequenceNumber(number)| number),
        reply => panic!("{reply:?}"),
    }
}

fn settled(hub: &mut Hub, wire: usize) -> Vec<(u32, u32, String)> {
    let mut all = Vec::new();
    while let Some(run) = hub.wires[wire].take(|seen| match seen {
        Seen::Settled { first, last, state, .. } => Some((*first, *last, state.clone())),
        _ => None,
    }) {
        all.push(run);
    }
    all
}

#[test]
fn accepting_moves_the_checkpoint_and_reading_resumes_behind_it() {
    let mut hub = six_events();
    let wire = hub.connect_policy("service", 1);
    let link = hub.attach_reader(wire, 0, AT_CHECKPOINT).unwrap();
    let events = hub.receive(wire, link, 4);
    assert_eq!(events.len(), 4);
    assert!(events.iter().all(|event| !event.settled));
    let id = |index: usize| events[index].delivery_id;
    hub.wires[wire].settle(link, id(1), id(1), &DeliveryState::Accepted, false);
    hub.run();
    assert_eq!(checkpoint(&mut hub), None, "the one before is open");
    assert_eq!(settled(&mut hub, wire), []);
    hub.wires[wire].settle(link, id(0), id(0), &DeliveryState::Accepted, false);
    hub.run();
    assert_eq!(checkpoint(&mut hub), Some(1));
    assert_eq!(settled(&mut hub, wire), [(id(0), id(1), "accepted".to_owned())]);
    // A reader that settles itself.
    hub.wires[wire].settle(link, id(2), id(2), &DeliveryState::Accepted, true);
    hub.run();
    assert_eq!(checkpoint(&mut hub), Some(2));
    // Events that were not accepted come again.
    hub.wires[wire].detach(link);
    hub.run();
    let link = hub.attach_reader(wire, 0, AT_CHECKPOINT).unwrap();
    let numbers: Vec<i64> = hub.receive(wire, link, 10).iter().map(|event| event.number()).collect();
    assert_eq!(numbers, [3, 4, 5]);
}

#[test]
fn what_is_released_or_rejected_holds_the_checkpoint() {
    for state in [DeliveryState::Released, DeliveryState::Rejected(None)] {
        let mut hub = six_events();
        let wire = hub.connect_policy("service", 1);
        let link = hub.attach_reader(wire, 0, AT_CHECKPOINT).unwrap();
        let events = hub.receive(wire, link, 10);
        let (first, last) = (events[0].delivery_id, events[5].delivery_id);
        hub.wires[wire].settle(link, first + 2, first + 2, &state, true);
        hub.wires[wire].settle(link, first, last, &DeliveryState::Accepted, true);
        hub.run();
        assert_eq!(checkpoint(&mut hub), Some(1), "{state:?}");
    }
}

/// The settled disposition tells that the checkpoint survives a power cut: it must not come before the sync.
#[test]
fn an_acceptance_is_settled_only_when_its_checkpoint_is_durable() {
    let mut hub = six_events();
    let wire = hub.connect_policy("service", 1);
    let link = hub.attach_reader(wire, 0, AT_CHECKPOINT).unwrap();
    let events = hub.receive(wire, link, 1);
    hub.disk.set_delayed(true);
    hub.wires[wire].settle(
        link,
        events[0].delivery_id,
        events[0].delivery_id,
        &DeliveryState::Accepted,
        false,
    );
    hub.run();
    assert_eq!(settled(&mut hub, wire), []);
    hub.disk.set_delayed(false);
    while hub.disk.step() {
        hub.run();
    }
    hub.run();
    assert_eq!(settled(&mut hub, wire).len(), 1);
}

#[test]
fn settled_events_and_checkpoints_do_not_go_together() {
    let mut hub = six_events();
    let wire = hub.connect_policy("service", 1);
    let session = hub.begin(wire);
    let mut request = net_amqp::AttachRequest::receiver("r", "plant7/ConsumerGroups/$Default/Partitions/0");
    request.sender_settle_mode = net_amqp::SenderSettleMode::Settled;
    request.desired_capabilities = net_amqp::Symbols::Listed(&[CHECKPOINT_CAPABILITY]);
    let link = hub.wires[wire].attach(session, &request);
    hub.run();
    assert_eq!(hub.detached(wire, link).unwrap().0, "amqp:not-allowed");
}
