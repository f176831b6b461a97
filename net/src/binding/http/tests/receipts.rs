//! Receipts over a real shard: polled for by back ends, locked, settled.

use std::collections::BTreeSet;

use engine::request::Ack;
use segment_log::storage::sim::SimDisk;
use serde_json::{Value, json};

use super::hub::*;

const PATH: &str = "/messages/serviceBound/feedback";

/// Two devices in each partition, if the hash is kind.
const DEVICES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// After this a batch is made of what there is.
const BATCH_MS: u64 = 15_000;

/// How long a batch stays locked.
const LOCK_MS: u64 = 60_000;

/// A hub whose devices have each completed a command whose sender wants to know.
fn hub() -> Hub {
    let mut hub = Hub::open(SimDisk::new(23));
    let any_device = sign("hub.test", &key(5), NOW_S + 3600, Some("device"));
    for id in DEVICES {
        assert_eq!(hub.request(&format!("PUT /devices/{id}"), "", json!({})).0, 200);
        hub.enqueue_for_receipt(id, Vec::new(), &format!("m-{id}"), Ack::Full);
        let path = format!("/devices/{id}/messages/devicebound");
        let (_, _, lock) = hub.receive(&any_device, &path).unwrap();
        assert_eq!(hub.request_as(&any_device, &format!("DELETE {path}/{lock}"), "", &Value::Null).0, 204);
    }
    hub
}

fn service() -> String {
    sign("hub.test", &key(3), NOW_S + 3600, Some("service"))
}

/// Every batch that there is: head, receipts, lock.
fn receive_all(hub: &mut Hub) -> Vec<(String, Value, String)> {
    std::iter::from_fn(|| hub.receive(&service(), PATH)).collect()
}

fn settle(hub: &mut Hub, line: &str) -> u16 {
    hub.request_as(&service(), line, "", &Value::Null).0
}

fn ids(batches: &[(String, Value, String)]) -> BTreeSet<String> {
    let receipts = batches.iter().flat_map(|(_, body, _)| body.as_array().unwrap());
    receipts.map(|receipt| receipt["originalMessageId"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn receipts_are_polled_for_locked_and_settled() {
    let mut hub = hub();
    assert!(receive_all(&mut hub).is_empty(), "a batch is made of 64 or after 15 s");
    hub.pass(BATCH_MS);
    let all = DEVICES.map(|id| format!("m-{id}")).into();
    let batches = receive_all(&mut hub);
    assert!(batches.len() > 1, "more than one partition has receipts");
    assert_eq!(ids(&batches), all);
    for (head, body, _) in &batches {
        assert_eq!(header(head, "Content-Type"), Some("application/vnd.microsoft.iothub.feedback.json"));
        assert_eq!(header(head, "iothub-deliverycount"), Some("0"));
        for receipt in body.as_array().unwrap() {
            assert_eq!(
                (&receipt["statusCode"], &receipt["description"]),
                (&json!("Success"), &json!("Success"))
            );
            assert_eq!(receipt["originalMessageId"], format!("m-{}", receipt["deviceId"].as_str().unwrap()));
            assert!(receipt["enqueuedTimeUtc"].is_string() && receipt["deviceGenerationId"].is_string());
        }
    }

    // One is given back, one is done with, and the others come back with the end of their locks.
    let (head, body, first) = &batches[0];
    assert_eq!(settle(&mut hub, &format!("POST {PATH}/{first}/abandon?api-version=2021-04-12")), 204);
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{first}")), 412, "the lock is gone");
    let again = receive_all(&mut hub);
    assert_eq!(again.len(), 1);
    assert_eq!((&again[0].1, header(&again[0].0, "iothub-deliverycount")), (body, Some("1")));
    assert_eq!(header(&again[0].0, "iothub-messageid"), header(head, "iothub-messageid"));
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{}", again[0].2)), 204);
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{}", again[0].2)), 412);
    hub.pass(LOCK_MS);
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{}", batches[1].2)), 412, "the lock has ended");
    let left = &ids(&batches) - &ids(&batches[..1]);
    assert_eq!(ids(&receive_all(&mut hub)), left);

    // What is done with is so for good, and a lock is not kept.
    let mut hub = hub.cut_power();
    assert_eq!(ids(&receive_all(&mut hub)), left);
}

#[test]
fn what_is_no_lock_of_receipts_is_lost() {
    let mut hub = hub();
    hub.pass(BATCH_MS);
    let any_device = sign("hub.test", &key(5), NOW_S + 3600, Some("device"));
    hub.enqueue("a", Vec::new());
    let (_, _, of_command) = hub.receive(&any_device, "/devices/a/messages/devicebound").unwrap();
    let batches = receive_all(&mut hub);
    let of_no_partition = format!("ffff{}", &batches[0].2[4..]);
    for lock in ["x", "", &of_command, &of_no_partition] {
        let status = settle(&mut hub, &format!("DELETE {PATH}/{lock}"));
        assert!(matches!(status, 412 | 405 | 404), "{lock}: {status}");
    }
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{of_no_partition}")), 412);
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{of_command}")), 412);
    let of_device = format!("DELETE /devices/a/messages/devicebound/{}", batches[0].2);
    assert_eq!(hub.request_as(&any_device, &of_device, "", &Value::Null).0, 412);
    assert_eq!(settle(&mut hub, &format!("DELETE {PATH}/{}", batches[0].2)), 204);
    assert_eq!(settle(&mut hub, &format!("PUT {PATH}")), 405);
    assert_eq!(settle(&mut hub, "GET /messages/serviceBound/filenotifications"), 404);
}
