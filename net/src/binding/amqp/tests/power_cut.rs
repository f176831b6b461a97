//! Each `accepted` that was handed to the wire before a power cut is found after it, whichever operation the cut hits.

use net_amqp::{LinkId, MessageBuilder};
use segment_log::storage::sim::{PowerCut, SimDisk};

use super::hub::{Hub, START_S, config};
use super::wire::telemetry;
use crate::binding::properties::BATCH_FORMAT;

const DEVICES: [(&str, u8); 2] = [("dev-a", 10), ("dev-b", 11)];

/// One device's part of a run: what it sent and was told, in the order of sending.
#[derive(Default)]
struct Told {
    /// Per delivery: its events' messages.
    sent: Vec<Vec<Vec<u8>>>,
    accepted: Vec<bool>,
}

/// A hub on which two devices have just attached: the wire and a link for each.
fn attached() -> (Hub, usize, Vec<LinkId>) {
    let disk = SimDisk::new(5);
    let mut hub = Hub::open(disk, config(2, 64 << 10, 4096), START_S * 1000);
    let wire = hub.connect();
    let attach = |(id, number): &(&str, u8)| {
        hub.create_device(id, *number);
        hub.attach_device(wire, id, *number)
    };
    let links = DEVICES.iter().map(attach).collect();
    (hub, wire, links)
}

/// The devices send singles and batches while the disk lives; at `cut` the power goes.
fn run(cut: Option<u64>) -> (Hub, Vec<Told>) {
    let (mut hub, wire, links) = attached();
    if let Some(cut) = cut {
        hub.disk.cut_power_at(hub.disk.operation_count() + cut);
    }
    let mut told: Vec<Told> = DEVICES.iter().map(|_| Told::default()).collect();
    let mut ids: Vec<Vec<u32>> = DEVICES.iter().map(|_| Vec::new()).collect();
    for step in 0..14_u8 {
        for (index, link) in links.iter().enumerate() {
            let body = |part: u8| telemetry(&[&[index as u8, step, part][..], &[7; 900]].concat());
            let is_batch = step % 3 == 2;
            let parts: Vec<Vec<u8>> = (0..if is_batch { 3 } else { 1 }).map(body).collect();
            let (format, payload) = match is_batch {
                false => (0, parts[0].clone()),
                true => (
                    BATCH_FORMAT,
                    parts.iter().fold(MessageBuilder::default(), |b, part| b.data(part)).encode(),
                ),
            };
            ids[index].push(hub.wires[wire].send(*link, format, false, &payload));
            told[index].sent.push(parts);
        }
        // Several steps of one device may be in flight at once.
        if step % 2 == 1 {
            hub.run();
        } else {
            hub.turn();
        }
    }
    hub.run();
    for (index, told) in told.iter_mut().enumerate() {
        let accepted = hub.wires[wire].accepted(links[index]);
        told.accepted = ids[index].iter().map(|id| accepted.contains(id)).collect();
    }
    (hub, told)
}

/// What a reader finds afterwards agrees with what the devices were told.
fn check(hub: &mut Hub, told: &[Told], what: &str) {
    let stored: Vec<(u64, String, Vec<u8>)> = (0..2).flat_map(|partition| hub.stored(partition)).collect();
    for (index, (id, _)) in DEVICES.iter().enumerate() {
        let found: Vec<&Vec<u8>> =
            stored.iter().filter(|(_, device, _)| device == id).map(|(_, _, message)| message).collect();
        let mut rest = found.iter();
        for (sent, accepted) in told[index].sent.iter().zip(&told[index].accepted) {
            let is_stored = found.contains(&&sent[0]);
            assert!(is_stored || !accepted, "{what}: an accepted event of {id} is lost");
            if is_stored {
                for message in sent {
                    assert_eq!(rest.next(), Some(&message), "{what}: {id}: order, or a torn batch");
                }
            }
        }
        assert_eq!(rest.next(), None, "{what}: {id}: something was invented or came twice");
    }
}

#[test]
fn no_power_cut_loses_what_was_accepted() {
    let (mut hub, told) = run(None);
    assert!(told.iter().all(|told| told.accepted.iter().all(|accepted| *accepted)));
    let before = {
        let (hub, _) = run(Some(u64::MAX >> 1));
        hub.disk.operation_count()
    };
    check(&mut hub, &told, "without a cut");
    let started = attached().0.disk.operation_count();
    let operation_count = before - started;
    assert!(operation_count > 30, "{operation_count} operations");
    let mut cut_with_acceptances = 0;
    for cut in 0..operation_count {
        let (hub, told) = run(Some(cut));
        assert!(hub.disk.is_power_off(), "operation {cut} was not reached");
        cut_with_acceptances +=
            usize::from(told.iter().any(|told| told.accepted.iter().any(|accepted| *accepted)));
        let sector_bytes = if cut % 2 == 0 { 512 } else { 4096 };
        let mut hub = hub.cut_power(PowerCut { seed: cut, sector_bytes, garbage: cut % 3 == 0 });
        check(&mut hub, &told, &format!("cut at {cut}"));
    }
    assert!(cut_with_acceptances > 10, "most cuts come behind an acceptance");
}
