//! Revocation with many devices connected: from the registry's answer to the end of the live connection, for each cause.
//!
//! An ordinary run has few devices. `COREHUB_REVOCATION_DEVICES=15000` asks for more (each takes a descriptor here and one in the
//! hub), and `--nocapture` shows the figures: `cargo test --release -p tests --test revocation -- --nocapture`.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tests::hub::Hub;
use tests::mqtt::{self, Stream};
use tests::namespace::{Needs, run};
use tests::sas::{foreign_key, now_s, token};
use tests::service::Service;

const DEVICE_COUNT: usize = 150;

/// How many of them are revoked, one after the other.
const REVOKED_COUNT: usize = 90;

fn device_count() -> usize {
    match std::env::var("COREHUB_REVOCATION_DEVICES") {
        Ok(text) => text.parse().expect("COREHUB_REVOCATION_DEVICES is a number"),
        Err(_) => DEVICE_COUNT,
    }
}

/// Create devices that all have one key.
fn create(service: &Service, ids: &[String], key: &str) {
    for ids in ids.chunks(100) {
        let keys = json!({ "primaryKey": key, "secondaryKey": key });
        let entry = |id: &String| json!({ "id": id, "importMode": "create", "authentication": { "symmetricKey": keys } });
        let list: Vec<Value> = ids.iter().map(entry).collect();
        let response = service.request("POST", "/devices", &[], Some(&json!(list)));
        assert_eq!(response.status, 200, "{}", response.text());
    }
}

/// Sees connections end, on a thread of its own.
struct Watch {
    epoll: OwnedFd,
    ended: Receiver<(u64, Instant)>,
}

impl Watch {
    fn start() -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        let (sender, ended) = channel();
        let watched = epoll.try_clone().expect("a descriptor");
        std::thread::spawn(move || {
            let mut events = Vec::with_capacity(64);
            loop {
                events.clear();
                let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
                let waited =
                    epoll::wait(&watched, rustix::buffer::spare_capacity(&mut events), Some(&timeout));
                let now = Instant::now();
                if waited.is_err() {
                    continue;
                }
                for event in &events {
                    if sender.send((event.data.u64(), now)).is_err() {
                        return;
                    }
                }
            }
        });
        Self { epoll, ended }
    }

    /// An idle device hears nothing but the end.
    fn add(&self, number: usize, stream: &Stream) {
        let data = epoll::EventData::new_u64(number as u64);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::add(&self.epoll, stream.sock.as_fd(), data, flags).expect("a socket can be watched");
    }
}

/// Whether a connection that was heard of is over, and was not merely told something.
fn is_over(stream: &mut Stream) -> bool {
    let mut rest = [0; 64];
    match stream.read(&mut rest) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
    }
}

#[test]
fn revoked_devices_are_cut_off_and_no_others() {
    run(Needs::LowPorts, || {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
            .expect("the soft limit may rise");
        let count = device_count();
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let (host, tls, key) = (hub.host(), hub.tls(), foreign_key());
        let ids: Vec<String> = (0..count).map(|number| format!("d{number:05}")).collect();
        create(&service, &ids, &key);
        let watch = Watch::start();
        let mut streams: Vec<Stream> = Vec::with_capacity(count);
        let began = Instant::now();
        for (number, id) in ids.iter().enumerate() {
            let token = token(&format!("{host}/devices/{id}"), &key, now_s() + 3600, None);
            let (stream, code) = mqtt::connect(&host, tls.clone(), id, &token).expect("the hub answers");
            assert_eq!(code, 0, "{id}");
            watch.add(number, &stream);
            streams.push(stream);
        }
        println!("{count} devices connected over MQTT with TLS in {:.1} s", began.elapsed().as_secs_f64());
        let connected = service.request("GET", "/statistics/service", &[], None).json();
        assert_eq!(connected["connectedDeviceCount"], json!(count));

        let revoked: Vec<usize> = (0..REVOKED_COUNT.min(count / 2))
            .map(|place| place * (count / REVOKED_COUNT.min(count / 2)))
            .collect();
        let mut late_us: Vec<(usize, u64)> = Vec::new();
        for (place, &number) in revoked.iter().enumerate() {
            let path = format!("/devices/{}", ids[number]);
            let response = match place % 3 {
                0 => {
                    let body =
                        json!({ "deviceId": ids[number], "status": "disabled", "statusReason": "revoked" });
                    service.request("PUT", &path, &[("If-Match", "*")], Some(&body))
                }
                1 => service.request("DELETE", &path, &[("If-Match", "*")], None),
                _ => {
                    let body = json!({ "policyKey": "primaryKey", "devices": [{ "id": ids[number] }] });
                    service.request("POST", "/devices/keys/regenerate", &[], Some(&body))
                }
            };
            let answered = Instant::now();
            assert!(matches!(response.status, 200 | 204), "{}", response.text());
            let (ended, at) = watch.ended.recv_timeout(Duration::from_secs(5)).expect("the connection ends");
            assert_eq!(ended, number as u64, "another device's connection was touched");
            late_us.push((place % 3, at.saturating_duration_since(answered).as_micros() as u64));
        }
        for &number in &revoked {
            assert!(is_over(&mut streams[number]), "{} was only told something", ids[number]);
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(watch.ended.try_recv().is_err(), "another device's connection was touched");
        let connected = service.request("GET", "/statistics/service", &[], None).json();
        assert_eq!(connected["connectedDeviceCount"], json!(count - revoked.len()));

        let mut of_cause: HashMap<usize, Vec<u64>> = HashMap::new();
        for (cause, us) in late_us {
            of_cause.entry(cause).or_default().push(us);
        }
        for (cause, name) in ["disabled", "deleted", "rekeyed"].into_iter().enumerate() {
            let late = of_cause.get_mut(&cause).expect("each cause was tried");
            late.sort_unstable();
            let quantile = |hundredths: usize| late[(late.len() - 1) * hundredths / 100];
            println!(
                "{name:<9} p50 {} us, p99 {} us after the answer, {} devices",
                quantile(50),
                quantile(99),
                late.len()
            );
            assert!(quantile(99) < 1_000_000, "{name}: {} us", quantile(99));
        }
    });
}
