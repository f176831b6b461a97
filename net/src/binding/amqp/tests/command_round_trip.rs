//! Commands over a real shard: from the back end through the device's queue to the receipt.

use engine::request::{Reply, Request};
use net_amqp::{Body, DeliveryState, LinkId, MessageBuilder, Properties, Sections, Value};
use registry::{DeviceId, DeviceStatus};

use super::hub::{Event, Hub};
use super::wire::Seen;

/// A command with its body as message id.
pub fn command<'a>(to: &'a str, id: &'a str, ack: &'a str, expires_ms: Option<u64>) -> Vec<u8> {
    let properties = Properties {
        to: Some(to),
        message_id: Some(Value::String(id)),
        absolute_expiry_time_ms: expires_ms.map(|ms| ms as i64),
        ..Properties::default()
    };
    MessageBuilder::default()
        .properties(properties)
        .application_property("iothub-ack", Value::String(ack))
        .data(id.as_bytes())
        .encode()
}

/// The message id of a command as its device gets it.
pub fn id_of(event: &Event) -> String {
    let sections = Sections::parse(&event.payload).unwrap();
    let Some(Value::String(id)) = sections.properties.unwrap().message_id else { panic!("a string") };
    id.to_owned()
}

fn ids(events: &[Event]) -> Vec<String> {
    events.iter().map(id_of).collect()
}

fn delivery_count(event: &Event) -> Value<'_> {
    let annotations = Sections::parse(&event.payload).unwrap().message_annotations.unwrap();
    annotations.find("iothub-deliverycount").unwrap()
}

/// Message id and outcome of every receipt in what came.
pub fn outcomes(events: &[Event]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for event in events {
        let Body::Data(data) = Sections::parse(&event.payload).unwrap().body else { panic!("data") };
        let json: serde_json::Value = serde_json::from_slice(data.single().unwrap()).unwrap();
        let text = |record: &serde_json::Value, name: &str| record[name].as_str().unwrap().to_owned();
        all.extend(json.as_array().unwrap().iter().map(|record| {
            assert_eq!(record["statusCode"], record["description"]);
            (text(record, "originalMessageId"), text(record, "statusCode"))
        }));
    }
    all.sort();
    all
}

const TO: &str = "/devices/dev-a/messages/devicebound";

struct Scene {
    hub: Hub,
    back_end: usize,
    inlet: LinkId,
    receipts: LinkId,
    device: usize,
    outlet: LinkId,
}

/// A back end that sends and takes receipts, and the device `dev-a`.
fn scene() -> Scene {
    let mut hub = Hub::new(4);
    hub.create_device("dev-a", 10);
    let back_end = hub.connect_policy("service", 1);
    let inlet = hub.attach_sender(back_end, "/messages/devicebound").unwrap();
    let receipts = hub.attach_receiver(back_end, "/messages/serviceBound/feedback").unwrap();
    let device = hub.connect();
    let outlet = hub.attach_commands(device, "dev-a", 10);
    Scene { hub, back_end, inlet, receipts, device, outlet }
}

impl Scene {
    fn send(&mut self, id: &str) {
        let sent = self.hub.send(self.back_end, self.inlet, &command(TO, id, "full", None));
        assert!(self.hub.wires[self.back_end].accepted(self.inlet).contains(&sent), "{id}");
    }

    fn refused(&mut self, payload: &[u8]) -> String {
        let (wire, inlet) = (self.back_end, self.inlet);
        let id = self.hub.send(wire, inlet, payload);
        let state = self.hub.wires[wire].take(|seen| match seen {
            Seen::Settled { link, first, state, .. } if *link == inlet && *first == id => Some(state.clone()),
            _ => None,
        });
        state.unwrap()
    }

    fn receipts(&mut self) -> Vec<(String, String)> {
        let_batches_be_made(&mut self.hub);
        let (wire, link) = (self.back_end, self.receipts);
        let batches = self.hub.receive(wire, link, 100);
        for batch in &batches {
            let id = batch.delivery_id;
            self.hub.wires[wire].settle(link, id, id, &DeliveryState::Accepted, true);
        }
        self.hub.run();
        outcomes(&batches)
    }
}

/// Receipts wait for company, and a batch for its record; the hub rests between a second and the next.
pub fn let_batches_be_made(hub: &mut Hub) {
    for _ in 0..17 {
        hub.advance(1000);
    }
}

fn pair(id: &str, outcome: &str) -> (String, String) {
    (id.to_owned(), outcome.to_owned())
}

#[test]
fn a_connected_device_is_pushed_to_and_its_word_becomes_a_receipt() {
    let mut scene = scene();
    let (device, outlet) = (scene.device, scene.outlet);
    assert!(scene.hub.receive(device, outlet, 100).is_empty());
    for id in ["complete", "reject", "abandon"] {
        scene.send(id);
    }
    let events = scene.hub.received(device, outlet);
    assert_eq!(ids(&events), ["complete", "reject", "abandon"]);
    let wire = &mut scene.hub.wires[device];
    wire.settle(outlet, events[0].delivery_id, events[0].delivery_id, &DeliveryState::Accepted, false);
    wire.settle(outlet, events[1].delivery_id, events[1].delivery_id, &DeliveryState::Rejected(None), false);
    let mut abandoned = events[2].clone();
    for count in 0..10 {
        assert_eq!(delivery_count(&abandoned), Value::Ubyte(count));
        let id = abandoned.delivery_id;
        scene.hub.wires[device].settle(outlet, id, id, &DeliveryState::Released, false);
        scene.hub.run();
        let mut again = scene.hub.received(device, outlet);
        match count {
            9 => assert!(again.is_empty(), "the tenth time was the last"),
            _ => abandoned = again.remove(0),
        }
    }
    assert_eq!(
        scene.receipts(),
        [pair("abandon", "DeliveryCountExceeded"), pair("complete", "Success"), pair("reject", "Rejected")]
    );
    assert_eq!(scene.receipts(), [], "what was accepted does not come again");
}

#[test]
fn what_nobody_takes_expires_and_what_is_purged_is_told() {
    let mut scene = scene();
    let soon = scene.hub.now.wall_ms + 1000;
    let sent = scene.hub.send(scene.back_end, scene.inlet, &command(TO, "short", "negative", Some(soon)));
    assert!(scene.hub.wires[scene.back_end].accepted(scene.inlet).contains(&sent));
    scene.hub.advance(2000);
    scene.send("purged");
    let device = DeviceId::parse("dev-a").unwrap();
    assert!(matches!(scene.hub.ask(Request::PurgeCommands { device }), Reply::CommandsPurged(1)));
    assert_eq!(scene.receipts(), [pair("purged", "Purged"), pair("short", "Expired")]);
}

#[test]
fn refusals_of_a_real_queue() {
    let mut scene = scene();
    let now_ms = scene.hub.now.wall_ms;
    assert_eq!(
        scene.refused(&command("/devices/nobody/messages/devicebound", "x", "none", None)),
        "amqp:not-found"
    );
    for expires_ms in [now_ms - 1, now_ms + 3 * 86_400_000] {
        let refused = scene.refused(&command(TO, "x", "none", Some(expires_ms)));
        assert_eq!(refused, "com.microsoft:argument-out-of-range");
    }
    let large = MessageBuilder::default()
        .properties(Properties { to: Some(TO), ..Properties::default() })
        .data(&vec![7; 64 * 1024])
        .encode();
    assert_eq!(scene.refused(&large), "amqp:link:message-size-exceeded");
    for number in 0..50 {
        scene.send(&number.to_string());
    }
    assert_eq!(scene.refused(&command(TO, "x", "none", None)), "amqp:resource-limit-exceeded");
    scene.hub.create_device("off", 11);
    scene.hub.update_device("off", 11, DeviceStatus::Disabled);
    assert_eq!(
        scene.refused(&command("/devices/off/messages/devicebound", "x", "none", None)),
        "amqp:not-found"
    );
}

#[test]
fn a_link_that_goes_gives_back_what_it_has_locked_and_a_newer_connection_gets_it() {
    let mut scene = scene();
    for id in ["1", "2", "3"] {
        scene.send(id);
    }
    let (device, outlet) = (scene.device, scene.outlet);
    let events = scene.hub.receive(device, outlet, 2);
    assert_eq!(ids(&events), ["1", "2"]);
    scene.hub.wires[device].settle(
        outlet,
        events[0].delivery_id,
        events[0].delivery_id,
        &DeliveryState::Accepted,
        true,
    );
    scene.hub.run();
    let newer = scene.hub.connect();
    let outlet = scene.hub.attach_commands(newer, "dev-a", 10);
    assert_eq!(scene.hub.detached(device, scene.outlet).unwrap().0, "amqp:link:stolen");
    let events = scene.hub.receive(newer, outlet, 10);
    assert_eq!(ids(&events), ["2", "3"]);
    assert!(events.iter().all(|event| delivery_count(event) == Value::Ubyte(0)), "nobody abandoned them");
}

#[test]
fn a_lock_that_is_over_is_told_and_the_command_comes_again() {
    let mut scene = scene();
    scene.send("late");
    let (device, outlet) = (scene.device, scene.outlet);
    let events = scene.hub.receive(device, outlet, 10);
    scene.hub.advance(61_000);
    let again = scene.hub.received(device, outlet);
    assert_eq!(ids(&again), ["late"]);
    let id = events[0].delivery_id;
    scene.hub.wires[device].seen.clear();
    scene.hub.wires[device].settle(outlet, id, id, &DeliveryState::Accepted, false);
    scene.hub.run();
    let state = scene.hub.wires[device].take(|seen| match seen {
        Seen::Settled { first, state, .. } => Some((*first, state.clone())),
        _ => None,
    });
    assert_eq!(state, Some((id, "com.microsoft:message-lock-lost".to_owned())));
}

#[test]
fn receivers_of_receipts_compete_and_nothing_is_told_twice() {
    let mut scene = scene();
    let other = scene.hub.connect_policy("service", 1);
    let link = scene.hub.attach_receiver(other, "/messages/serviceBound/feedback").unwrap();
    let (device, outlet) = (scene.device, scene.outlet);
    scene.send("a");
    let events = scene.hub.receive(device, outlet, 10);
    scene.hub.wires[device].settle(
        outlet,
        events[0].delivery_id,
        events[0].delivery_id,
        &DeliveryState::Accepted,
        true,
    );
    let_batches_be_made(&mut scene.hub);
    let taken = scene.hub.receive(other, link, 1);
    assert_eq!(outcomes(&taken), [pair("a", "Success")]);
    let (back_end, receipts) = (scene.back_end, scene.receipts);
    assert!(scene.hub.receive(back_end, receipts, 1).is_empty(), "it is locked");
    // The link goes without a word: the batch goes to the one that waits.
    scene.hub.wires[other].detach(link);
    scene.hub.run();
    let events = scene.hub.received(back_end, receipts);
    assert_eq!(outcomes(&events), [pair("a", "Success")]);
}
