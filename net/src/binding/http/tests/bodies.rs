//! Bodies of any kind: understood or refused, never the end of the hub.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use segment_log::storage::sim::SimDisk;

use super::super::access::Who;
use super::super::bulk::Bulk;
use super::super::events::EventsHead;
use super::super::identity::read_draft;
use super::super::query::Query;
use super::hub::Hub;
use super::*;

/// Bodies as clients send them, to be damaged.
const BODIES: [&str; 5] = [
    r#"[{"id":"a","importMode":"Create","authentication":{"type":"sas","symmetricKey":{"primaryKey":"","secondaryKey":""}}},{"id":"b","importMode":"deleteIfMatchETag","eTag":"AAAAAAAAAAE="}]"#,
    r#"{"query":"SELECT * FROM devices WHERE deviceId IN ['a','b'] AND NOT (status = 'enabled')"}"#,
    r#"[{"body":"aGVsbG8=","properties":{"iothub-app-a":"1","iothub-expiry":"2026-11-21T20:58:03Z"}},{"body":"x","base64Encoded":false}]"#,
    r#"{"deviceId":"a","status":"disabled","statusReason":"r","capabilities":{"iotEdge":false},"authentication":null}"#,
    r#"{"sequenceNumber": 41}"#,
];

/// Every reader of a body gets it. What it refuses is the sender's fault.
fn feed(body: &[u8]) {
    let is_told = |status: Status| assert!((400..500).contains(&status.http), "{status:?}");
    let _ = Bulk::begin(body, &Who::Administrator, 3).map_err(is_told);
    let _ = Query::begin(body, None, None, 3).map_err(is_told);
    let _ = EventsHead::Batch.events(body).map_err(is_told);
    let _ = EventsHead::One(Vec::new()).events(body).map_err(is_told);
    let _ = read_draft(DeviceId::parse("a").unwrap(), body).map_err(is_told);
}

/// Requests that change something by what their body says, over a real shard.
const REQUESTS: [(&str, &str); 12] = [
    (
        "PUT /devices/a",
        r#"{"deviceId":"a","status":"disabled","statusReason":"r","authentication":{"type":"sas","symmetricKey":{"primaryKey":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}}}"#,
    ),
    (
        "POST /devices",
        r#"[{"id":"b","importMode":"create"},{"id":"a","importMode":"update","status":"enabled"}]"#,
    ),
    (
        "POST /devices/query",
        r#"{"query":"SELECT * FROM devices WHERE deviceId = 'a' OR status != 'enabled'"}"#,
    ),
    (
        "POST /devices/keys/regenerate",
        r#"{"policyKey":"primaryKey","devices":[{"id":"a","moduleId":null},{"id":"b"}]}"#,
    ),
    (
        "POST /jobs/create",
        r#"{"type":"import","inputBlobContainerUri":"a","outputBlobContainerUri":"b","excludeKeysInExport":true}"#,
    ),
    ("PUT /consumerGroups/$Default/checkpoints/0", r#"{"sequenceNumber": 41}"#),
    (
        "PUT /policies/p",
        r#"{"rights":"RegistryRead, ServiceConnect","primaryKey":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=","secondaryKey":null}"#,
    ),
    ("POST /policies/owner/keys/regenerate", r#"{"policyKey":"secondaryKey"}"#),
    (
        "PUT /enrollments/e",
        r#"{"registrationId":"e","deviceId":"E#1","attestation":{"type":"symmetricKey","symmetricKey":{"primaryKey":"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=","secondaryKey":""}},"provisioningStatus":"enabled","allocationPolicy":"hashed","reprovisionPolicy":{"updateHubAssignment":true,"migrateDeviceData":false},"initialTwin":{"tags":{},"properties":{"desired":{}}}}"#,
    ),
    (
        "PUT /enrollmentGroups/g",
        r#"{"enrollmentGroupId":"g","attestation":{"type":"symmetricKey"},"iotHubs":["hub.test"]}"#,
    ),
    (
        "POST /enrollments",
        r#"{"mode":"create","enrollments":[{"registrationId":"f","attestation":{"type":"symmetricKey"}}]}"#,
    ),
    ("POST /enrollments/query", r#"{"query":"SELECT * FROM enrollments"}"#),
];

type Damage = Vec<(prop::sample::Index, u8, u8)>;

fn damage() -> impl Strategy<Value = Damage> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..6)
}

fn damaged(text: &str, changes: Damage) -> Vec<u8> {
    let mut body = text.as_bytes().to_vec();
    for (at, byte, kind) in changes {
        if body.is_empty() {
            break;
        }
        let at = at.index(body.len());
        match kind {
            0 => body[at] = byte,
            1 => drop(body.remove(at)),
            2 => body.insert(at, b"\"\\{}[]:,0"[usize::from(byte) % 9]),
            _ => body.truncate(at),
        }
    }
    body
}

/// Each is answered, and what cannot be read is the sender's fault. What was done in between does not matter.
#[test]
fn damaged_requests_are_answered() {
    let hub = RefCell::new(Hub::open(SimDisk::new(31)));
    let config = ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    };
    let done = TestRunner::new(config).run(&(0..REQUESTS.len(), damage()), |(which, changes)| {
        let (line, body) = REQUESTS[which];
        let (status, answer) = hub.borrow_mut().administer(line, &damaged(body, changes));
        // This hub has no thread for jobs.
        let is_told = (200..500).contains(&status) || (status == 503 && line.ends_with("/jobs/create"));
        prop_assert!(is_told, "{line}: {status} {answer}");
        Ok(())
    });
    done.unwrap();
    assert_eq!(hub.borrow_mut().get("/statistics/devices").0, 200, "and the hub goes on");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn damaged_bodies(which in 0..BODIES.len(), changes in damage()) {
        feed(&damaged(BODIES[which], changes));
    }

    #[test]
    fn any_bytes(body in prop::collection::vec(any::<u8>(), 0..200)) {
        feed(&body);
    }
}

#[test]
fn nested_bodies_have_an_end() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let count = 10_000;
        feed(format!("{}{}", open.repeat(count), close.repeat(count)).as_bytes());
        feed(
            format!("[{{\"id\":\"a\",\"tags\":{}1{}}}]", open.repeat(count), close.repeat(count)).as_bytes(),
        );
    }
}
