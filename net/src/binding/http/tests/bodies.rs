//! Bodies of any kind: understood or refused, never the end of the hub.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::access::Who;
use super::super::bulk::Bulk;
use super::super::events::EventsHead;
use super::super::identity::read_draft;
use super::super::query::Query;
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn damaged_bodies(which in 0..BODIES.len(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..6)) {
        let mut body = BODIES[which].as_bytes().to_vec();
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
        feed(&body);
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
