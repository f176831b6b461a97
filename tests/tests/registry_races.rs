//! The registry under many hands, and under a process that dies: what was answered is so, and nothing else is.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::https;
use tests::hub::Hub;
use tests::namespace::{Needs, run};

/// Back ends at a time.
const WRITERS: usize = 6;

/// How long the slowest machine may take for a few changes.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// What a writer knows of one of its devices.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    /// It was answered: so it is. The reason of its status, none where there is no such device.
    Is(Option<String>),
    /// The process died before it answered: one of the two.
    Either(Option<String>, Option<String>),
}

/// What a writer wants of a device that it knows: to have this reason, or not to be.
struct Wish {
    id: String,
    was: Option<String>,
    wanted: Option<String>,
}

/// A hub as writers ask it, with a token made before.
struct Asked {
    host: String,
    tls: Arc<rustls::ClientConfig>,
    authorization: String,
}

impl Asked {
    /// One request. None: the process stops or is gone, so nobody knows what became of it.
    fn ask(&self, method: &str, path: &str, if_match: &str, body: &Value) -> Option<u16> {
        let mut headers = vec![("Authorization", self.authorization.as_str())];
        if !if_match.is_empty() {
            headers.push(("If-Match", if_match));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response =
            https::request((&self.host, 443), self.tls.clone(), (method, path), &headers, body.as_bytes());
        match response {
            Ok(response) if response.status != 503 => {
                let status = response.status;
                assert!((200..300).contains(&status), "{method} {path}: {status} {}", response.text());
                Some(status)
            }
            _ => None,
        }
    }

    /// One device by a request of its own.
    fn change_one(&self, wishes: &[Wish]) -> Option<u16> {
        let [Wish { id, was, wanted }] = wishes else { panic!("one device") };
        let path = format!("/devices/{id}");
        match wanted {
            None => self.ask("DELETE", &path, "", &Value::Null),
            Some(reason) => {
                let if_match = if was.is_some() { "*" } else { "" };
                self.ask("PUT", &path, if_match, &json!({ "deviceId": id, "statusReason": reason }))
            }
        }
    }

    /// Many devices by one request: 200 says that all of it is done.
    fn change_many(&self, wishes: &[Wish]) -> Option<u16> {
        let entry = |Wish { id, was, wanted }: &Wish| {
            let mode = match (was, wanted) {
                (_, None) => "delete",
                (Some(_), Some(_)) => "update",
                (None, Some(_)) => "create",
            };
            json!({ "id": id, "importMode": mode, "statusReason": wanted })
        };
        let entries: Vec<Value> = wishes.iter().map(entry).collect();
        self.ask("POST", "/devices", "", &json!(entries))
    }
}

/// Devices are created, changed and deleted by `change`, so many at a time, while the process is killed again and again:
/// what was answered is so, and each device for itself is as it was or as it was wanted where nothing was answered.
fn answered_changes_outlive_the_process(
    device_count: usize,
    change: impl Fn(&Asked, &[Wish]) -> Option<u16> + Sync,
) {
    let mut hub = Hub::start(&["--cores", "2"]);
    let id = |writer: usize, device: usize| format!("w{writer}-{device:02}");
    let mut known: Vec<Vec<Known>> = vec![vec![Known::Is(None); device_count]; WRITERS];
    let mut unknown_count = 0;
    for round in 0..5_u64 {
        let stop = AtomicBool::new(false);
        let tried_count = AtomicUsize::new(0);
        let asked = Asked { host: hub.host(), tls: hub.tls(), authorization: hub.service().token() };
        let write = |writer: usize, known: &mut Vec<Known>| {
            let mut number = round * 1_000_000 + writer as u64 * 100_000;
            while !stop.load(Ordering::Relaxed) {
                let wish = |(device, known): (usize, &Known)| {
                    let Known::Is(was) = known.clone() else { panic!("only what is known is changed") };
                    // Each fourth change of a device is its end.
                    let number = number + device as u64;
                    let wanted = (was.is_none() || !number.is_multiple_of(4)).then(|| number.to_string());
                    Wish { id: id(writer, device), was, wanted }
                };
                let wishes: Vec<Wish> = known.iter().enumerate().map(wish).collect();
                let answer = change(&asked, &wishes);
                let learned = |Wish { was, wanted, .. }: Wish| match answer {
                    Some(_) => Known::Is(wanted),
                    None => Known::Either(was, wanted),
                };
                *known = wishes.into_iter().map(learned).collect();
                number += 1;
                tried_count.fetch_add(1, Ordering::Relaxed);
                if answer.is_none() {
                    break;
                }
            }
        };
        let write = &write;
        std::thread::scope(|scope| {
            for (writer, known) in known.iter_mut().enumerate() {
                scope.spawn(move || write(writer, known));
            }
            // As many as a quick machine makes in the same time are not made by a slow one.
            let began = Instant::now();
            std::thread::sleep(Duration::from_millis(400 + 150 * round));
            while tried_count.load(Ordering::Relaxed) <= 2 * WRITERS && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
            hub.kill_process();
            stop.store(true, Ordering::Relaxed);
            let tried_count = tried_count.load(Ordering::Relaxed);
            assert!(tried_count > WRITERS, "only {tried_count} changes were tried");
        });
        hub.kill();
        hub.run();
        let listed = hub.service().request("GET", "/devices?top=1000", &[], None).json();
        let listed = listed.as_array().expect("a list").iter();
        let mut found: BTreeMap<String, String> =
            listed.map(|device| (text(&device["deviceId"]), text(&device["statusReason"]))).collect();
        for (writer, known) in known.iter_mut().enumerate() {
            for (device, known) in known.iter_mut().enumerate() {
                let found = found.remove(&id(writer, device));
                let is_allowed = match &*known {
                    Known::Is(expected) => found == *expected,
                    Known::Either(before, after) => {
                        unknown_count += 1;
                        found == *before || found == *after
                    }
                };
                assert!(is_allowed, "{} is known as {known:?}, found {found:?}", id(writer, device));
                *known = Known::Is(found);
            }
        }
        assert!(found.is_empty(), "nobody made {found:?}");
    }
    assert!(unknown_count > 0, "no kill met a change under way");
}

#[test]
fn answered_single_changes_outlive_the_process() {
    run(Needs::LowPorts, || answered_changes_outlive_the_process(1, Asked::change_one));
}

#[test]
fn answered_bulk_changes_outlive_the_process() {
    run(Needs::LowPorts, || answered_changes_outlive_the_process(25, Asked::change_many));
}
