//! Load and reading over AMQP: devices that send until the hub dies, and a reader that takes everything that is stored.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fe2o3_amqp::link::SendError;
use fe2o3_amqp::link::delivery::DeliveryFut;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::messaging::{Batch, Data, Message, Outcome};
use fe2o3_amqp::types::primitives::{Binary, Symbol, Value};
use fe2o3_amqp::{Delivery, Receiver, Sendable, Sender};
use tokio::sync::watch;

use crate::amqp::{EventSource, Peer, answer, converse};
use crate::history::{History, ReadEvent, body};
use crate::hub::{Hub, PARTITION_COUNT};
use crate::process::wait_until;
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

/// Devices under load: what they sent and were told, and whether it is over.
#[derive(Debug)]
pub struct Load {
    history: Arc<Mutex<History>>,
    over: watch::Sender<bool>,
}

impl Default for Load {
    fn default() -> Self {
        Self { history: Arc::default(), over: watch::Sender::new(false) }
    }
}

impl Load {
    /// What was sent and acknowledged so far.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().expect("no holder panics")
    }

    /// Devices that send on one connection until the hub ends it, the load is over or `enough` events of each are sent;
    /// each keeps some transfers in flight.
    pub async fn flood(&self, hub: &Hub, devices: &[Device], enough: u64) {
        self.over.send_replace(false);
        let mut peer = answer("connect", Peer::connect(hub, None)).await.expect("the hub takes connections");
        let mut links = Vec::new();
        for device in devices {
            peer.authorize_device(hub, device).await;
            let sender = peer.telemetry(&device.id).await.expect("the device may send");
            let (history, over) = (Arc::clone(&self.history), self.over.subscribe());
            links.push(Link { sender, device: device.id.clone(), history, over });
        }
        let tasks: Vec<_> = links.into_iter().map(|link| tokio::spawn(link.flood(enough))).collect();
        for task in tasks {
            task.await.expect("no sender panics");
        }
        peer.close().await;
    }

    /// Flood on a thread of its own, do `end` to the hub `life` after the first acknowledgement, and wait for the load's end.
    pub fn flood_until(&self, hub: &Hub, devices: &[Device], life: Duration, end: impl FnOnce()) {
        std::thread::scope(|scope| {
            let before = self.history().acknowledged_count();
            let load = scope.spawn(|| converse(self.flood(hub, devices, u64::MAX)));
            let flows = || (self.history().acknowledged_count() > before).then_some(());
            wait_until(Duration::from_secs(30), flows).expect("events are acknowledged");
            std::thread::sleep(life);
            end();
            self.over.send_replace(true);
            load.join().expect("the load ends with its hub");
        });
    }
}

type Settlement = DeliveryFut<Result<Outcome, SendError>>;

/// One device's link under load.
struct Link {
    sender: Sender,
    device: String,
    history: Arc<Mutex<History>>,
    over: watch::Receiver<bool>,
}

impl Link {
    async fn flood(mut self, enough: u64) {
        let mut flying: VecDeque<(Range<u64>, Settlement)> = VecDeque::new();
        let mut over = self.over.clone();
        tokio::select! {
            () = self.send_all(&mut flying, enough) => {}
            _ = over.wait_for(|&over| over) => {}
        }
        // What was accepted before the end counts. Of a link that has ended no word comes any more: what is there, is there.
        // A load without an end stops sending for that reason alone.
        let is_over = *over.borrow() || enough == u64::MAX;
        let patience = if is_over { Duration::from_millis(1) } else { Duration::from_secs(10) };
        while let Some((numbers, settlement)) = flying.pop_front() {
            if let Ok(Ok(Outcome::Accepted(_))) = tokio::time::timeout(patience, settlement).await {
                self.acknowledge(numbers);
            }
        }
        // The link may be gone already.
        let _ = tokio::time::timeout(patience, self.sender.close()).await;
    }

    async fn send_all(&mut self, flying: &mut VecDeque<(Range<u64>, Settlement)>, enough: u64) {
        let mut events = 0;
        for transfer in 1.. {
            let count = if transfer % BATCH_EVERY == 0 { BATCH_EVENTS } else { 1 };
            let numbers = self.history.lock().expect("no holder panics").send(&self.device, count);
            let sent = if count == 1 {
                self.sender.send_batchable(message(body(&self.device, numbers.start))).await
            } else {
                let bodies = numbers.clone().map(|number| body(&self.device, number));
                self.sender.send_batchable(batch(bodies)).await
            };
            let Ok(settlement) = sent else { return };
            flying.push_back((numbers, settlement));
            events += count;
            if events >= enough {
                return;
            }
            if flying.len() >= WINDOW {
                // Waited for in its place, so that it is not lost should the wait be given up.
                let (_, settlement) = flying.front_mut().expect("the window is not empty");
                let outcome = settlement.await;
                let (numbers, _) = flying.pop_front().expect("it is still there");
                let Ok(Outcome::Accepted(_)) = outcome else { return };
                self.acknowledge(numbers);
            }
        }
    }

    fn acknowledge(&self, numbers: Range<u64>) {
        self.history.lock().expect("no holder panics").acknowledge(&self.device, numbers);
    }
}

/// The bodies of all events of a hub with [`PARTITION_COUNT`] partitions, sorted, once there are `count`.
pub fn stored(hub: &Hub, count: usize) -> Vec<String> {
    wait_until(Duration::from_secs(20), || {
        let bodies = stored_now(hub);
        (bodies.len() >= count).then_some(bodies)
    })
    .unwrap_or_else(|| panic!("{count} events are wanted, there are {:?}", stored_now(hub)))
}

/// The bodies of all events of such a hub, sorted.
pub fn stored_now(hub: &Hub) -> Vec<String> {
    let mut events = Vec::new();
    converse(read_all(hub, &hub.service(), PARTITION_COUNT, &mut events));
    let mut bodies: Vec<String> =
        events.iter().map(|event| String::from_utf8_lossy(&event.body).into_owned()).collect();
    bodies.sort();
    bodies
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
        let source = EventSource { credit: CreditMode::Manual, ..source };
        let mut receiver = peer.events(&source).await.expect("the policy may read");
        let wanted = last + 1 - known.map_or(0, |number| number + 1);
        for count in 0..wanted {
            // In portions: this client opens its session's window again only when it writes a flow.
            if count % CREDIT_PORTION == 0 {
                let credit = CREDIT_PORTION.min(wanted - count) as u32;
                receiver.set_credit(credit).await.expect("an attached link");
            }
            events.push(receive(&mut receiver, partition).await);
        }
        answer("detach", receiver.close()).await.expect("a reader can be closed");
    }
    peer.close().await;
}

/// Events that a reader asks for at a time; well below the client's session window of 2048.
const CREDIT_PORTION: u64 = 500;

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
