//! What the registry tells of a device's connection: as it is at the moment of asking, whatever protocol the device speaks.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::Value;
use tests::amqp::{Peer, converse, device_audience, send};
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::process::wait_until;
use tests::sas::{now_s, token};
use tests::service::{Device, Service};
use tests::telemetry::message;
use tests::{https, mqtt};

const NEVER: &str = "0001-01-01T00:00:00";

/// State, since when, last activity. Times compare as texts.
fn state(service: &Service, device: &Device) -> (String, String, String) {
    let identity = service.device(&device.id).json();
    let text =
        |name: &str| identity[name].as_str().unwrap_or_else(|| panic!("{name}: {identity}")).to_owned();
    (text("connectionState"), text("connectionStateUpdatedTime"), text("lastActivityTime"))
}

/// Devices that leave without a word are known to be gone when the hub has seen their connection end.
fn gone(service: &Service, device: &Device) -> (String, String, String) {
    let look = || Some(state(service, device)).filter(|(state, ..)| state == "Disconnected");
    wait_until(Duration::from_secs(10), look).expect("the device is known to be gone")
}

fn counted(service: &Service) -> Value {
    service.request("GET", "/statistics/service", &[], None).json()["connectedDeviceCount"].clone()
}

/// A clock of milliseconds has moved on.
fn pass() {
    std::thread::sleep(Duration::from_millis(5));
}

#[test]
fn connection_state_and_activity_are_those_of_the_moment() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let token =
            |device: &Device| token(&device_audience(&hub, &device.id), &device.key, now_s() + 3600, None);

        let device = service.create_device("amqp");
        assert_eq!(state(&service, &device), ("Disconnected".into(), NEVER.into(), NEVER.into()));
        let connected = converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link = peer.telemetry("amqp").await.expect("the device may send");
            let connected = state(&service, &device);
            assert_eq!(connected.0, "Connected");
            assert!(connected.1.as_str() > NEVER && connected.2 >= connected.1, "{connected:?}");
            assert_eq!(counted(&service), 1);
            pass();
            send(&mut link, message(b"event".to_vec())).await.expect("the device may send");
            let active = state(&service, &device);
            assert!(active.2 > connected.2 && active.1 == connected.1, "{active:?} behind {connected:?}");
            pass();
            peer.close().await;
            active
        });
        let left = gone(&service, &device);
        assert!(left.1 > connected.1 && left.2 >= connected.2, "{left:?} behind {connected:?}");

        let device = service.create_device("mqtt");
        let (stream, code) =
            mqtt::connect(&hub.host(), hub.tls(), "mqtt", &token(&device)).expect("an answer");
        assert_eq!(code, 0);
        let connected = state(&service, &device);
        assert!(connected.0 == "Connected" && connected.1.as_str() > NEVER, "{connected:?}");
        assert_eq!(counted(&service), 1);
        pass();
        drop(stream);
        assert!(gone(&service, &device).1 > connected.1);

        // One request is no connection, but it is activity.
        let device = service.create_device("https");
        let (token, path) = (token(&device), "/devices/https/messages/events");
        let headers = [("Authorization", token.as_str())];
        let send = || https::request((&hub.host(), 443), hub.tls(), ("POST", path), &headers, b"event");
        assert_eq!(send().expect("an answer").status, 204);
        let sent = state(&service, &device);
        assert_eq!((sent.0.as_str(), sent.1.as_str()), ("Disconnected", NEVER));
        assert!(sent.2.as_str() > NEVER, "{sent:?}");
        pass();
        assert_eq!(send().expect("an answer").status, 204);
        assert!(state(&service, &device).2 > sent.2);
        assert_eq!(counted(&service), 0);

        let status_time =
            || service.device("https").json()["statusUpdatedTime"].as_str().expect("a text").to_owned();
        assert_eq!(status_time(), NEVER);
        service.set_status("https", "disabled");
        let disabled = status_time();
        assert!(disabled.as_str() > NEVER);
        pass();
        service.set_status("https", "disabled");
        assert_eq!(status_time(), disabled, "nothing changed");
        service.set_status("https", "enabled");
        assert!(status_time() > disabled);
    });
}
