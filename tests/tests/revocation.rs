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
use tests::amqp::{Peer, converse, detached, send};
use tests::hub::Hub;
use tests::mqtt::{self, Stream};
use tests::namespace::{Needs, run};
use tests::sas::{ConnectionString, foreign_key, now_s, token};
use tests::service::Service;
use tests::telemetry::message;

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
            // The end may come before the answer: both leave the hub in the same moment.
            let asked = Instant::now();
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
            assert!(matches!(response.status, 200 | 204), "{}", response.text());
            let (ended, at) = watch.ended.recv_timeout(Duration::from_secs(5)).expect("the connection ends");
            assert_eq!(ended, number as u64, "another device's connection was touched");
            late_us.push((place % 3, at.saturating_duration_since(asked).as_micros() as u64));
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
                "{name:<9} p50 {} us, p99 {} us after the request, {} devices",
                quantile(50),
                quantile(99),
                late.len()
            );
            assert!(quantile(99) < 1_000_000, "{name}: {} us", quantile(99));
        }
    });
}

/// A policy's key is renewed: links and connections that came with it end within a second, and its tokens are refused from then on,
/// after a kill too. A device of its own key and a back end of another policy go on.
#[test]
fn a_policy_that_changes_ends_what_rests_on_it() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let devices = service.create_devices("d", 3);
        let policy = |hub: &Hub, name: &str| {
            let text = hub.policy_connection_string(name);
            Service::new(hub.host(), hub.tls(), &ConnectionString::parse(&text))
        };
        let (back_end, acting) = (policy(&hub, "service"), policy(&hub, "device"));
        let connect = |hub: &Hub, device: &str, token: &str| {
            mqtt::connect(&hub.host(), hub.tls(), device, token).expect("the hub answers")
        };
        let own = token(&format!("{}/devices/d1", hub.host()), &devices[1].key, now_s() + 3600, None);
        let (mut own_stream, code) = connect(&hub, "d1", &own);
        assert_eq!(code, 0);
        let (mut stream, code) = connect(&hub, "d0", &acting.token());
        assert_eq!(code, 0, "the policy acts as any device");
        converse(async {
            let mut peer = Peer::back_end(&hub, &back_end).await;
            let mut commands = peer.command_sender().await.expect("the policy may send");
            let mut gateway = Peer::back_end(&hub, &acting).await;
            let mut events = gateway.telemetry("d2").await.expect("the policy acts as any device");
            let renew = |name: &'static str| {
                let output = hub.command_output(&["policy", "renew", name, "--key", "primary"]);
                assert_eq!(output, format!("renewed {name}"));
                Instant::now()
            };
            let answered = renew("service");
            let refusal = detached(&mut commands, Duration::from_secs(10)).await.expect("the link ends");
            let late = Instant::now().saturating_duration_since(answered);
            assert_eq!(refusal.condition, "amqp:unauthorized-access");
            assert!(late < Duration::from_secs(1), "{late:?} after the answer");
            send(&mut events, message(b"another policy".to_vec())).await.expect("it goes on");

            let answered = renew("device");
            let refusal = detached(&mut events, Duration::from_secs(10)).await.expect("the link ends");
            assert_eq!(refusal.condition, "amqp:unauthorized-access");
            stream.sock.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            let ended = is_over(&mut stream);
            assert!(ended, "the device that came with the policy's token");
            let late = Instant::now().saturating_duration_since(answered);
            assert!(late < Duration::from_secs(1), "{late:?} after the answer");
        });
        own_stream.sock.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        assert!(!is_over(&mut own_stream), "a device of its own key goes on");
        let refused = |hub: &Hub| {
            assert_eq!(connect(hub, "d0", &acting.token()).1, 5);
            assert_eq!(back_end.request("GET", "/statistics/service", &[], None).status, 401);
            let renewed = policy(hub, "service");
            assert_eq!(renewed.request("GET", "/statistics/service", &[], None).status, 200);
        };
        refused(&hub);
        hub.kill();
        hub.run();
        refused(&hub);
    });
}
