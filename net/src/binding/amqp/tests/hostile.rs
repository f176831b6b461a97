//! Damaged conversations: whatever bytes come, they end at most the connection that sent them.

use std::sync::LazyLock;

use net_amqp::DeliveryState;
use proptest::prelude::*;
use proptest::sample::Index;

use super::command_round_trip::command;
use super::hub::{Hub, Wish};
use super::wire::telemetry;
use crate::binding::amqp::CHECKPOINT_CAPABILITY;

/// What a client says that puts tokens, sends as a device, reads with checkpoints, and is both ends of commands.
static CONVERSATION: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut hub = hub();
    let wire = hub.connect_policy("service", 1);
    let device = hub.attach_device(wire, "dev-1", 10);
    for number in 0..3 {
        hub.send(wire, device, &telemetry(&[number]));
    }
    let wish = Wish { epoch: Some(1), capabilities: &[CHECKPOINT_CAPABILITY], ..Wish::default() };
    let reader = hub.attach_reader(wire, 0, wish).unwrap();
    let events = hub.receive(wire, reader, 10);
    let (first, last) = (events[0].delivery_id, events[2].delivery_id);
    hub.wires[wire].settle(reader, first, last, &DeliveryState::Accepted, false);
    hub.run();
    let inlet = hub.attach_sender(wire, "/messages/devicebound").unwrap();
    let outlet = hub.attach_receiver(wire, "/devices/dev-1/messages/devicebound").unwrap();
    let receipts = hub.attach_receiver(wire, "/messages/serviceBound/feedback").unwrap();
    for id in ["a", "b", "c"] {
        hub.send(wire, inlet, &command("/devices/dev-1/messages/devicebound", id, "full", None));
    }
    let commands = hub.receive(wire, outlet, 10);
    let outcomes = [DeliveryState::Accepted, DeliveryState::Rejected(None), DeliveryState::Released];
    for (command, outcome) in commands.iter().zip(outcomes) {
        hub.wires[wire].settle(outlet, command.delivery_id, command.delivery_id, &outcome, false);
    }
    hub.run();
    hub.wires[wire].drain(receipts, 5);
    hub.run();
    hub.wires[wire].detach(outlet);
    hub.wires[wire].detach(reader);
    hub.wires[wire].detach(device);
    hub.run();
    hub.wires[wire].said.clone()
});

fn hub() -> Hub {
    let mut hub = Hub::new(1);
    hub.create_device("dev-1", 10);
    hub.create_device("dev-2", 11);
    hub
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_conversation_harms_nobody_else(
        damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6),
        cuts in proptest::collection::vec(any::<Index>(), 0..6),
        lost in proptest::option::of((any::<Index>(), 1_usize..40)),
    ) {
        let mut bytes = CONVERSATION.clone();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((at, count)) = lost {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();

        let mut hub = hub();
        let other = hub.connect();
        let link = hub.attach_device(other, "dev-2", 11);
        let outlet = hub.attach_commands(other, "dev-2", 11);
        let back_end = hub.connect_policy("service", 1);
        let inlet = hub.attach_sender(back_end, "/messages/devicebound").unwrap();
        let hostile = hub.accept();
        for part in cuts.windows(2) {
            hub.wires[hostile].say(&bytes[part[0]..part[1]]);
            hub.run();
        }
        hub.advance(60_000);
        hub.send(other, link, &telemetry(b"x"));
        prop_assert_eq!(hub.wires[other].accepted(link).len(), 1);
        hub.send(back_end, inlet, &command("/devices/dev-2/messages/devicebound", "x", "none", None));
        prop_assert_eq!(hub.receive(other, outlet, 5).len(), 1);
        prop_assert!(hub.wires[other].closing.is_none());
    }
}
