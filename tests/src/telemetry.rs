//! Load and reading over AMQP: devices that send until the hub dies, and a reader that takes everything that is stored.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fe2o3_amqp::link::SendError;
use fe2o3_amqp::link::delivery::DeliveryFut;
use fe2o3_amqp::types::messaging::{Batch, Data, Message, Outcome};
use fe2o3_amqp::types::primitives::{Binary, Symbol, Value};
use fe2o3_amqp::{Delivery, Receiver, Sendable, Sender};

use crate::amqp::{EventSource, Peer, answer, converse};
use crate::history::{History, ReadEvent, body};
use crate::hub::Hub;
use crate::service::{Device, Service};

/// Message format of a batch whose data sections are messages.
pub const BATCH_FORMAT: u32 = 0x8001_3700;
/// Unsettled transfers of one device.
const WINDOW: usize = 32;
/// Every so many transfers of a device one is a batch of [`BATCH_EVENTS`].
const BATCH_EVERY: u64 = 8;
const BATCH_EVENTS: u64 = 5;

/// A message with one data section.
pub fn message(body: Vec<u8>) -> Message<Data> {
    Message::builder().data(Binary::from(body)).build()
}

/// A batch: data sections that each hold a whole message with one data section.
pub fn batch(bodies: impl Iterator<Item = Vec<u8>>) -> Sendable<Batch<Data>> {
    let sections: Vec<Data> = bodies.map(|body| Data(Binary::from(bare_message(&body)))).collect();
    let message = Message::builder().data_batch(sections).build();
    Sendable::builder().message(message).message_format(BATCH_FORMAT).build()
}

/// One data section, encoded: `[AMQP 3.2.6]`, vbin32.
fn bare_message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("bodies of tests are small");
    let mut bytes = vec![0x00, 0x53, 0x75, 0xb0];
    bytes.extend(length.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Devices that send on one connection until the hub is gone or `enough` events of each are acknowledged; each keeps
/// some transfers in flight. What is sent and acknowledged goes into `history`.
pub async fn flood(hub: &Hub, devices: &[Device], history: &Arc<Mutex<History>>, enough: u64) {
    let Ok(mut peer) = Peer::connect(hub, None).await else { return };
    let mut senders = Vec::new();
    for device in devices {
        peer.authorize_device(hub, device).await;
        senders.push((device.id.clone(), peer.telemetry(&device.id).await.expect("the device may send")));
    }
    let tasks: Vec<_> = senders
        .into_iter()
        .map(|(device, sender)| tokio::spawn(flood_link(sender, device, Arc::clone(history), enough)))
        .collect();
    for task in tasks {
        task.await.expect("no sender panics");
    }
    peer.close().await;
}

type Settlement = DeliveryFut<Result<Outcome, SendError>>;

async fn flood_link(mut sender: Sender, device: String, history: Arc<Mutex<History>>, enough: u64) {
    let mut flying: VecDeque<(Range<u64>, Settlement)> = VecDeque::new();
    let mut transfers = 0;
    let mut events = 0;
    while events < enough {
        transfers += 1;
        let count = if transfers % BATCH_EVERY == 0 { BATCH_EVENTS } else { 1 };
        let numbers = history.lock().expect("no holder panics").send(&device, count);
        let sent = if count == 1 {
            sender.send_batchable(message(body(&device, numbers.start))).await
        } else {
            sender.send_batchable(batch(numbers.clone().map(|number| body(&device, number)))).await
        };
        let Ok(settlement) = sent else { break };
        events += count;
        flying.push_back((numbers, settlement));
        while flying.len() >= WINDOW {
            if !take_settlement(&mut flying, &device, &history).await {
                break;
            }
        }
    }
    // What was accepted before the end counts, also where the end is known already.
    while !flying.is_empty() {
        take_settlement(&mut flying, &device, &history).await;
    }
    // The link may be gone already.
    let _ = tokio::time::timeout(Duration::from_secs(5), sender.close()).await;
}

/// Whether the oldest transfer was accepted.
async fn take_settlement(
    flying: &mut VecDeque<(Range<u64>, Settlement)>,
    device: &str,
    history: &Arc<Mutex<History>>,
) -> bool {
    let Some((numbers, settlement)) = flying.pop_front() else { return false };
    match settlement.await {
        Ok(Outcome::Accepted(_)) => {
            history.lock().expect("no holder panics").acknowledge(device, numbers);
            true
        }
        _ => false,
    }
}

/// Flood on a thread of its own, so that the caller can kill the hub meanwhile.
pub fn flood_until_killed(hub: &mut Hub, devices: &[Device], history: &Arc<Mutex<History>>, life: Duration) {
    std::thread::scope(|scope| {
        let target: &Hub = hub;
        let load = scope.spawn(|| converse(flood(target, devices, history, u64::MAX)));
        let before = history.lock().expect("no holder panics").acknowledged_count();
        let flows = || history.lock().expect("no holder panics").acknowledged_count() > before;
        crate::process::wait_until(Duration::from_secs(30), || flows().then_some(()))
            .expect("events are acknowledged");
        std::thread::sleep(life);
        target.kill_process();
        load.join().expect("the load ends with its hub");
    });
    hub.kill();
}

/// Everything stored behind what `events` holds already is added to it, partition by partition.
pub async fn read_all(hub: &Hub, service: &Service, partition_count: u16, events: &mut Vec<ReadEvent>) {
    let mut peer = Peer::reader(hub, service).await;
    for partition in 0..partition_count {
        let known =
            events.iter().rev().find(|event| event.partition == partition).map(|event| event.sequence);
        let status = peer.partition(partition, service).await.expect("the policy may ask");
        let Ok(last) = u64::try_from(status.last) else { continue };
        if known == Some(last) {
            continue;
        }
        let source = match known {
            Some(number) => EventSource::behind(partition, number),
            None => EventSource::oldest(partition),
        };
        let mut receiver = peer.events(&source).await.expect("the policy may read");
        loop {
            let event = receive(&mut receiver, partition).await;
            let sequence = event.sequence;
            events.push(event);
            if sequence >= last {
                break;
            }
        }
        receiver.close().await.expect("a reader can be closed");
    }
    peer.close().await;
}

/// The next event of a reader.
pub async fn receive(receiver: &mut Receiver, partition: u16) -> ReadEvent {
    read_event(partition, &receive_delivery(receiver).await)
}

/// The next delivery of a reader.
pub async fn receive_delivery(receiver: &mut Receiver) -> Delivery<Data> {
    answer("an event", receiver.recv::<Data>()).await.expect("a reader stays attached")
}

/// An event from its delivery.
pub fn read_event(partition: u16, delivery: &Delivery<Data>) -> ReadEvent {
    let sequence = match annotation(delivery, "x-opt-sequence-number") {
        Some(Value::Long(number)) => u64::try_from(number).expect("sequence numbers count from 0"),
        other => panic!("the sequence number must be a long, not {other:?}"),
    };
    assert_eq!(annotation(delivery, "x-opt-offset"), Some(Value::String(sequence.to_string())));
    let device = match annotation(delivery, "iothub-connection-device-id") {
        Some(Value::String(device)) => device,
        other => panic!("the device must be a string, not {other:?}"),
    };
    ReadEvent { partition, sequence, device, body: delivery.body().0.to_vec() }
}

/// A message annotation by its name.
pub fn annotation(delivery: &Delivery<Data>, name: &str) -> Option<Value> {
    let annotations = delivery.message().message_annotations.as_ref()?;
    annotations
        .0
        .get(&fe2o3_amqp::types::messaging::annotations::OwnedKey::Symbol(Symbol::from(name)))
        .cloned()
}
