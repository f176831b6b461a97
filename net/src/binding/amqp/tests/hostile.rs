//! Damaged conversations: whatever bytes come, they end at most the connection that sent them.

use std::sync::LazyLock;

use net_amqp::DeliveryState;
use proptest::prelude::*;
use proptest::sample::Index;

use super::hub::{Hub, Wish};
use super::wire::telemetry;
use crate::binding::amqp::CHECKPOINT_CAPABILITY;

/// What a client says that puts tokens, sends as a device, and reads with checkpoints.
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
        let hostile = hub.accept();
        for part in cuts.windows(2) {
            hub.wires[hostile].say(&bytes[part[0]..part[1]]);
            hub.run();
        }
        hub.advance(60_000);
        hub.send(other, link, &telemetry(b"x"));
        prop_assert_eq!(hub.wires[other].accepted(link).len(), 1);
        prop_assert!(hub.wires[other].closing.is_none());
    }
}
