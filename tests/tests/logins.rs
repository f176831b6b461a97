//! Logins that fail: counted by address and by device, told, and answered ever later, while whoever has the right key comes in at once.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use fe2o3_amqp::sasl_profile::SaslProfile;
use tests::amqp::{Peer, converse, device_audience};
use tests::hub::{Hub, NAME};
use tests::namespace::{Needs, run};
use tests::sas::{foreign_key, now_s, token};
use tests::service::Device;
use tests::{https, mqtt};

/// Failures that nobody waits for, and some more: 50, 100, 200, 400 and 800 ms.
const FREE: usize = 20;
const SLOWED: usize = 5;
const SLOWED_FOR: Duration = Duration::from_millis(1550);

/// What a good login may take on a machine that builds at the same time; far below the next delay, 1.6 s.
const AT_ONCE: Duration = Duration::from_millis(1000);

fn device_token(hub: &Hub, device: &Device, key: &str) -> String {
    token(&device_audience(hub, &device.id), key, now_s() + 3600, None)
}

fn over_https(hub: &Hub, device: &Device, key: &str) -> bool {
    let (token, path) =
        (device_token(hub, device, key), format!("/devices/{}/messages/devicebound", device.id));
    let headers = [("Authorization", token.as_str())];
    let answer = https::request((&hub.host(), 443), hub.tls(), ("GET", &path), &headers, &[]);
    match answer.expect("the hub answers").status {
        204 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

fn over_mqtt(hub: &Hub, device: &Device, key: &str) -> bool {
    let token = device_token(hub, device, key);
    let (_, code) = mqtt::connect(&hub.host(), hub.tls(), &device.id, &token).expect("the hub answers");
    code == 0
}

fn over_cbs(hub: &Hub, device: &Device, key: &str) -> bool {
    let token = device_token(hub, device, key);
    converse(async {
        let mut peer = Peer::connect(hub, None).await.expect("anybody may connect");
        peer.put_token(&device_audience(hub, &device.id), &token).await.is_ok()
    })
}

fn over_plain(hub: &Hub, device: &Device, key: &str) -> bool {
    let username = format!("{}@sas.{NAME}", device.id);
    let profile = SaslProfile::Plain { username, password: device_token(hub, device, key) };
    converse(async { Peer::connect(hub, Some(profile)).await.is_ok() })
}

type Login = fn(&Hub, &Device, &str) -> bool;

#[test]
fn failures_wait_and_the_true_device_does_not() {
    let ways: [(&str, Login); 4] =
        [("HTTPS", over_https), ("MQTT", over_mqtt), ("CBS", over_cbs), ("SASL PLAIN", over_plain)];
    run(Needs::LowPorts, || {
        for (way, login) in ways {
            let mut hub = Hub::start(&["--cores", "1"]);
            let device = hub.service().create_device("guessed");
            let began = Instant::now();
            for _ in 0..FREE {
                assert!(!login(&hub, &device, &foreign_key()), "{way}: a wrong key gets in");
            }
            let free = began.elapsed();
            let began = Instant::now();
            for _ in 0..SLOWED {
                assert!(!login(&hub, &device, &foreign_key()), "{way}: a wrong key gets in");
            }
            let slowed = began.elapsed();
            assert!(
                slowed >= SLOWED_FOR,
                "{way}: {slowed:?} for those that wait, {free:?} for those that do not"
            );
            let began = Instant::now();
            assert!(login(&hub, &device, &device.key), "{way}: the true device is locked out");
            assert!(began.elapsed() < AT_ONCE, "{way}: the true device waited {:?}", began.elapsed());
            let printed = hub.printed();
            let lines: Vec<&str> =
                printed.lines().filter(|line| line.contains("logins fail again and again")).collect();
            assert_eq!(lines.len(), 1, "{way}: told once, at the tenth: {lines:?}");
            assert!(lines[0].contains("guessed") && lines[0].contains("address_count=10"), "{lines:?}");
            hub.stop();
            let counted = format!("logins refused {}, delayed {SLOWED}", FREE + SLOWED);
            assert!(hub.printed_ever().contains(&counted), "{way}: {counted}");
        }
    });
}

#[test]
fn the_delay_is_a_setting() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1", "--failed-login-delay-max-s", "0"]);
        let device = hub.service().create_device("guessed");
        let mut slowest = Duration::ZERO;
        for _ in 0..FREE + 2 * SLOWED {
            let began = Instant::now();
            assert!(!over_https(&hub, &device, &foreign_key()));
            slowest = slowest.max(began.elapsed());
        }
        // The last ones would wait 5 s.
        assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    });
}

/// A gateway's devices do not wait for one of them whose key is wrong.
#[test]
fn a_gateway_is_not_held_up_by_one_of_its_devices() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let (good, bad) = (hub.service().create_device("good"), hub.service().create_device("bad"));
        converse(async {
            let mut gateway = Peer::device(&hub, &good).await;
            for _ in 0..FREE + 2 * SLOWED {
                let token = device_token(&hub, &bad, &foreign_key());
                assert!(gateway.put_token(&device_audience(&hub, &bad.id), &token).await.is_err());
            }
            let began = Instant::now();
            gateway.telemetry("good").await.expect("the device may send");
            assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        });
    });
}
