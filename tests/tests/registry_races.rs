//! The registry under many hands, and under a process that dies: what was answered is so, and nothing else is.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tests::https;
use tests::hub::Hub;
use tests::namespace::{Needs, run};

/// Back ends at a time.
const WRITERS: usize = 6;

/// One conditional change that was answered with 200: the ETag that it named, and the one that came of it.
type Step = (String, String);

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Each change names the ETag that it rests on. Whatever the order in which they ran: from the first ETag there is one way
/// through all that were done, without a fork and without a gap, and it ends at what is there now.
#[test]
fn conditional_updates_form_one_history() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        service.create_device("d");
        let first = text(&service.device("d").json()["etag"]);
        let write = |writer: usize| -> (Vec<Step>, u32) {
            let (mut steps, mut lost) = (Vec::new(), 0);
            while steps.len() < 12 {
                let mut device = service.device("d").json();
                let before = text(&device["etag"]);
                device["statusReason"] = json!(format!("writer {writer}, {}", steps.len()));
                let if_match = format!("\"{before}\"");
                let response =
                    service.request("PUT", "/devices/d", &[("If-Match", &if_match)], Some(&device));
                match response.status {
                    200 => steps.push((before, text(&response.json()["etag"]))),
                    412 => lost += 1,
                    other => panic!("{other}: {}", response.text()),
                }
            }
            (steps, lost)
        };
        let results: Vec<(Vec<Step>, u32)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a writer")).collect()
        });
        let lost: u32 = results.iter().map(|(_, lost)| lost).sum();
        assert!(lost > 0, "the writers never met, so nothing was shown");
        let mut next: BTreeMap<String, String> = BTreeMap::new();
        for (before, after) in results.into_iter().flat_map(|(steps, _)| steps) {
            let earlier = next.insert(before.clone(), after);
            assert!(earlier.is_none(), "two changes rest on {before}");
        }
        let (mut at, mut length) = (first, 0);
        while let Some(after) = next.get(&at) {
            (at, length) = (after.clone(), length + 1);
        }
        assert_eq!(length, WRITERS * 12);
        assert_eq!(at, text(&service.device("d").json()["etag"]));
    });
}

/// What a writer knows of its device.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    /// It was answered: so it is.
    Is(Option<String>),
    /// The process died before it answered: one of the two.
    Either(Option<String>, Option<String>),
}

/// Devices are created, changed and deleted while the process is killed again and again.
#[test]
fn answered_changes_outlive_the_process() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "2"]);
        let mut known: Vec<Known> = vec![Known::Is(None); WRITERS];
        let mut counter = 0_u64;
        for round in 0..5 {
            let stop = AtomicBool::new(false);
            let service = hub.service();
            let (host, tls) = (hub.host(), hub.tls());
            let authorization = service.token();
            let change = |id: &str, was: &Option<String>, reason: &str| -> Option<Option<String>> {
                let path = format!("/devices/{id}");
                let deletes = was.is_some() && reason.ends_with('0');
                let body = json!({ "deviceId": id, "statusReason": reason }).to_string();
                let mut headers = vec![("Authorization", authorization.as_str())];
                let method = match (was.is_some(), deletes) {
                    (true, true) => "DELETE",
                    (true, false) => {
                        headers.push(("If-Match", "*"));
                        "PUT"
                    }
                    (false, _) => "PUT",
                };
                let body = if deletes { &[][..] } else { body.as_bytes() };
                let response = https::request((&host, 443), tls.clone(), (method, &path), &headers, body);
                match response.map(|response| response.status) {
                    Ok(200) => Some(Some(reason.to_owned())),
                    Ok(204) => Some(None),
                    // It stops, or it is gone.
                    Ok(503) | Err(_) => None,
                    Ok(other) => panic!("{method} {path}: {other}"),
                }
            };
            std::thread::scope(|scope| {
                let threads: Vec<_> = known
                    .iter_mut()
                    .enumerate()
                    .map(|(writer, known)| {
                        let (stop, change) = (&stop, &change);
                        let start = counter + writer as u64 * 100_000;
                        scope.spawn(move || {
                            let mut number = start;
                            while !stop.load(Ordering::Relaxed) {
                                let Known::Is(was) = known.clone() else { break };
                                number += 1;
                                let reason = number.to_string();
                                let wish = match was.is_some() && reason.ends_with('0') {
                                    true => None,
                                    false => Some(reason.clone()),
                                };
                                *known = match change(&format!("w{writer}"), &was, &reason) {
                                    Some(now) => Known::Is(now),
                                    None => Known::Either(was, wish),
                                };
                            }
                            number - start
                        })
                    })
                    .collect();
                std::thread::sleep(Duration::from_millis(400 + 150 * round));
                hub.kill_process();
                stop.store(true, Ordering::Relaxed);
                let done: u64 = threads.into_iter().map(|thread| thread.join().expect("a writer")).sum();
                assert!(done > WRITERS as u64, "only {done} changes were tried");
            });
            counter += 1_000_000;
            hub.kill();
            hub.run();
            let service = hub.service();
            for (writer, known) in known.iter_mut().enumerate() {
                let response = service.device(&format!("w{writer}"));
                let found = match response.status {
                    200 => Some(text(&response.json()["statusReason"])),
                    404 => None,
                    other => panic!("{other}: {}", response.text()),
                };
                let is_allowed = match &*known {
                    Known::Is(expected) => found == *expected,
                    Known::Either(before, after) => found == *before || found == *after,
                };
                assert!(is_allowed, "writer {writer} knows {known:?}, found {found:?}");
                *known = Known::Is(found);
            }
        }
    });
}
