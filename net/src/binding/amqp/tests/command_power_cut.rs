//! The power goes at every disk operation of a load of commands: what was accepted is there afterwards, what was settled
//! towards the device never comes again, and every completion that was acknowledged has its receipt.

use std::collections::BTreeSet;

use net_amqp::{DeliveryState, LinkId};
use segment_log::storage::sim::{PowerCut, SimDisk};

use super::command_round_trip::{command, id_of, let_batches_be_made, outcomes};
use super::hub::{Hub, START_S, config};

const DEVICES: [(&str, u8); 2] = [("dev-a", 10), ("dev-b", 11)];

/// One device's part of a run.
#[derive(Default)]
struct Told {
    /// Ids of commands in the order of sending, and whether each was accepted.
    sent: Vec<(String, bool)>,
    /// Commands that the device has completed, and those among them that were settled towards it.
    completed: BTreeSet<String>,
    settled: BTreeSet<String>,
}

/// A connection for each device, with its link.
fn open(hub: &mut Hub) -> Vec<(usize, LinkId)> {
    let attach = |(id, number): &(&str, u8)| {
        let wire = hub.connect();
        (wire, hub.attach_commands(wire, id, *number))
    };
    DEVICES.iter().map(attach).collect()
}

/// Commands go out and are completed while the disk lives; at `cut` the power goes.
fn run(cut: Option<u64>) -> (Hub, Vec<Told>) {
    let mut hub = Hub::open(SimDisk::new(5), config(2, 64 << 10, 4096), START_S * 1000);
    for (id, number) in DEVICES {
        hub.create_device(id, number);
    }
    let back_end = hub.connect_policy("service", 1);
    let inlet = hub.attach_sender(back_end, "/messages/devicebound").unwrap();
    let outlets = open(&mut hub);
    for (wire, outlet) in &outlets {
        hub.wires[*wire].grant(*outlet, 100);
    }
    hub.run();
    if let Some(cut) = cut {
        hub.disk.cut_power_at(hub.disk.operation_count() + cut);
    }
    let mut told: Vec<Told> = DEVICES.iter().map(|_| Told::default()).collect();
    let mut sent = Vec::new();
    let mut decided = Vec::new();
    for step in 0..12 {
        for (index, (device_id, _)) in DEVICES.iter().enumerate() {
            let id = format!("{device_id}/{step}");
            let to = format!("/devices/{device_id}/messages/devicebound");
            sent.push((
                index,
                hub.wires[back_end].send(inlet, 0, false, &command(&to, &id, "full", None)),
                id,
            ));
        }
        // Several steps may be in flight at once.
        if step % 2 == 1 {
            hub.run();
        } else {
            hub.turn();
        }
        for (index, (wire, outlet)) in outlets.iter().enumerate() {
            for event in hub.received(*wire, *outlet) {
                // Every third stays locked to the end.
                if !event.delivery_id.is_multiple_of(3) {
                    let delivery_id = event.delivery_id;
                    let state = DeliveryState::Accepted;
                    hub.wires[*wire].settle(*outlet, delivery_id, delivery_id, &state, false);
                    told[index].completed.insert(id_of(&event));
                    decided.push((index, delivery_id, id_of(&event)));
                }
            }
        }
    }
    hub.run();
    let accepted = hub.wires[back_end].accepted(inlet);
    for (index, delivery_id, id) in sent {
        told[index].sent.push((id, accepted.contains(&delivery_id)));
    }
    for (index, delivery_id, id) in decided {
        let (wire, outlet) = outlets[index];
        if hub.wires[wire].accepted(outlet).contains(&delivery_id) {
            told[index].settled.insert(id);
        }
    }
    (hub, told)
}

/// What devices and back end find afterwards agrees with what they were told.
fn check(hub: &mut Hub, told: &[Told], what: &str) {
    let links = open(hub);
    for (told, (wire, link)) in told.iter().zip(links) {
        let found: Vec<String> = hub.receive(wire, link, 100).iter().map(id_of).collect();
        let mut rest = found.iter();
        for (id, accepted) in &told.sent {
            let is_there = found.contains(id);
            assert!(
                is_there || !accepted || told.completed.contains(id),
                "{what}: the accepted command {id} is lost"
            );
            assert!(!is_there || !told.settled.contains(id), "{what}: {id} comes again after its completion");
            if is_there {
                assert_eq!(rest.next(), Some(id), "{what}: order");
            }
        }
        assert_eq!(rest.next(), None, "{what}: something was invented or came twice");
    }
    let wire = hub.connect_policy("service", 1);
    let link = hub.attach_receiver(wire, "/messages/serviceBound/feedback").unwrap();
    let_batches_be_made(hub);
    let receipts = outcomes(&hub.receive(wire, link, 100));
    let ids: BTreeSet<&String> = receipts.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), receipts.len(), "{what}: a completion has one receipt");
    for told in told {
        let missing = told.settled.iter().find(|id| !ids.contains(id));
        assert_eq!(missing, None, "{what}: an acknowledged completion without its receipt");
    }
    let completed = |id: &String| told.iter().any(|told| told.completed.contains(id));
    assert!(
        receipts.iter().all(|(id, outcome)| completed(id) && outcome == "Success"),
        "{what}: {receipts:?}"
    );
}

#[test]
fn no_power_cut_loses_a_command_or_brings_one_back() {
    let operation_count = {
        let (hub, _) = run(Some(u64::MAX >> 1));
        hub.disk.operation_count()
    };
    let (mut hub, told) = run(None);
    assert!(told.iter().all(|told| told.sent.iter().all(|(_, accepted)| *accepted)));
    assert!(told.iter().all(|told| !told.settled.is_empty() && told.settled == told.completed));
    hub.wires.clear();
    let mut hub = hub.cut_power(PowerCut { seed: 1, sector_bytes: 512, garbage: false });
    check(&mut hub, &told, "without a cut");
    let (mut cuts, mut cuts_behind_settlements) = (0, 0);
    for cut in 0..operation_count {
        let (hub, told) = run(Some(cut));
        if !hub.disk.is_power_off() {
            break;
        }
        cuts += 1;
        cuts_behind_settlements += usize::from(told.iter().any(|told| !told.settled.is_empty()));
        let sector_bytes = if cut % 2 == 0 { 512 } else { 4096 };
        let mut hub = hub.cut_power(PowerCut { seed: cut, sector_bytes, garbage: cut % 3 == 0 });
        check(&mut hub, &told, &format!("cut at {cut}"));
    }
    assert!(cuts > 20 && cuts_behind_settlements > 10, "{cuts} cuts, {cuts_behind_settlements} late enough");
}
