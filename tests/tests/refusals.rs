//! Who gets in and who does not, and how they are told.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::types::messaging::{
    ApplicationProperties, Message, MessageAnnotations, MessageId, Properties,
};
use fe2o3_amqp::types::primitives::{Binary, SimpleValue, Uuid, Value};
use tests::amqp::{EventSource, Peer, Refusal, answer, converse, detached, device_audience, send};
use tests::hub::{Hub, NAME, PARTITION_COUNT};
use tests::namespace::{Needs, run};
use tests::sas::{self, ConnectionString};
use tests::service::{Device, Service};
use tests::telemetry::{Load, annotation, message, read_all, receive_delivery};

const UNAUTHORIZED: &str = "amqp:unauthorized-access";
const NOT_FOUND: &str = "amqp:not-found";

async fn anonymous(hub: &Hub) -> Peer {
    answer("connect", Peer::connect(hub, None)).await.expect("anybody may connect")
}

/// What becomes of a token: the reply's status, then the condition of the telemetry link that rests on it.
async fn attempt(hub: &Hub, audience: &str, token: &str, device: &str) -> (Result<(), String>, String) {
    let mut peer = anonymous(hub).await;
    let put = peer.put_token(audience, token).await.map_err(|refusal| refusal.condition);
    let attach =
        peer.telemetry(device).await.err().map_or_else(|| "attached".to_owned(), |refusal| refusal.condition);
    peer.close().await;
    (put, attach)
}

fn hour() -> u64 {
    sas::now_s() + 3600
}

#[test]
fn bad_tokens_get_401_and_no_link() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2", "--log", "trace"]);
        let service = hub.service();
        let device = service.create_device("dev1");
        let other = service.create_device("dev10");
        let audience = device_audience(&hub, "dev1");
        let good = sas::token(&audience, &device.key, hour(), None);
        let without_expiry = good.split_once("&se=").expect("a token has an expiry").0.to_owned();
        let refused = [
            ("wrong key", sas::token(&audience, &sas::foreign_key(), hour(), None)),
            ("another device's key", sas::token(&audience, &other.key, hour(), None)),
            ("expired", sas::token(&audience, &device.key, sas::now_s() - 10, None)),
            ("unknown policy", sas::token(&audience, &device.key, hour(), Some("nobody"))),
            ("no expiry", without_expiry),
            ("not a token", "SharedAccessSignature".to_owned()),
            ("garbage", "sr=&sig=&se=&se=".to_owned()),
            ("nothing", String::new()),
        ];
        converse(async {
            for (what, token) in &refused {
                let (put, attach) = attempt(&hub, &audience, token, "dev1").await;
                let status = put.expect_err(what);
                assert!(matches!(status.as_str(), "400" | "401"), "{what}: {status}");
                assert_eq!(attach, UNAUTHORIZED, "{what}");
            }
            let accepted = attempt(&hub, &audience, &good, "dev1").await;
            assert_eq!(accepted, (Ok(()), "attached".to_owned()));
        });
        for (what, token) in refused.iter().chain([&("accepted", good)]) {
            let secret =
                token.split("sig=").nth(1).and_then(|rest| rest.split('&').next()).unwrap_or_default();
            assert!(
                secret.is_empty() || !hub.printed().contains(secret),
                "{what}: its signature is in the log"
            );
        }
        assert!(!hub.printed().contains(&device.key), "a key is in the log");
    });
}

/// A good token opens its own device's link and no other: `dev1` is no prefix of `dev10`.
#[test]
fn a_token_works_for_its_device_alone() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let short = service.create_device("dev1");
        let long = service.create_device("dev10");
        converse(async {
            for (holder, target) in
                [(&short, "dev10"), (&long, "dev1"), (&short, "DEV1"), (&short, "dev1%2f..%2fdev10")]
            {
                let audience = device_audience(&hub, &holder.id);
                let token = sas::token(&audience, &holder.key, hour(), None);
                let (put, attach) = attempt(&hub, &audience, &token, target).await;
                assert_eq!(put, Ok(()));
                assert!(
                    [UNAUTHORIZED, NOT_FOUND].contains(&attach.as_str()),
                    "{} as {target}: {attach}",
                    holder.id
                );
            }
            // The name is a hint: what counts is what was signed.
            let signed = sas::token(&device_audience(&hub, "dev1"), &short.key, hour(), None);
            let (_, attach) = attempt(&hub, &device_audience(&hub, "dev10"), &signed, "dev10").await;
            assert_eq!(attach, UNAUTHORIZED);
            // A token for the device does not read events.
            let mut peer = anonymous(&hub).await;
            peer.authorize_device(&hub, &short).await;
            let refusal = peer.events(&EventSource::oldest(0)).await.expect_err("a device reads no events");
            assert_eq!(refusal.condition, UNAUTHORIZED);
        });
    });
}

#[test]
fn disabled_and_deleted_devices_stay_out() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let disabled = service.create_device("disabled");
        let deleted = service.create_device("deleted");
        let recreated = service.create_device("recreated");
        service.set_status("disabled", "disabled");
        service.delete_device("deleted");
        service.delete_device("recreated");
        assert_ne!(service.create_device("recreated").generation, recreated.generation);
        converse(async {
            for (device, conditions) in [
                (&disabled, [UNAUTHORIZED, UNAUTHORIZED]),
                (&deleted, [NOT_FOUND, UNAUTHORIZED]),
                (&recreated, [UNAUTHORIZED; 2]),
            ] {
                let audience = device_audience(&hub, &device.id);
                let token = sas::token(&audience, &device.key, hour(), None);
                let (_, attach) = attempt(&hub, &audience, &token, &device.id).await;
                assert!(conditions.contains(&attach.as_str()), "{}: {attach}", device.id);
            }
        });
        service.set_status("disabled", "enabled");
        converse(async {
            Peer::device(&hub, &disabled).await.telemetry("disabled").await.expect("enabled again")
        });
    });
}

/// From the registry's answer on, a revoked device sends nothing, and its link ends within a second. Its neighbour on the
/// same connection goes on.
#[test]
fn a_revoked_device_is_cut_off_within_a_second() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let neighbour = service.create_device("neighbour");
        type Revoke = fn(&Service, &Device);
        let ways: [(&str, Revoke); 3] = [
            ("disabled", |service, device| service.set_status(&device.id, "disabled")),
            ("deleted", |service, device| service.delete_device(&device.id)),
            ("rekeyed", |service, device| {
                let mut identity = service.device(&device.id).json();
                identity["authentication"]["symmetricKey"]["primaryKey"] = sas::foreign_key().into();
                identity["authentication"]["symmetricKey"]["secondaryKey"] = sas::foreign_key().into();
                let path = format!("/devices/{}", device.id);
                let response = service.request("PUT", &path, &[("If-Match", "\"*\"")], Some(&identity));
                assert_eq!(response.status, 200, "{}", response.text());
            }),
        ];
        for (way, revoke) in ways {
            let device = service.create_device(way);
            converse(async {
                let mut gateway = anonymous(&hub).await;
                gateway.authorize_device(&hub, &device).await;
                gateway.authorize_device(&hub, &neighbour).await;
                let mut link = gateway.telemetry(&device.id).await.expect("the device may send");
                let mut other = gateway.telemetry(&neighbour.id).await.expect("the neighbour may send");
                send(&mut link, message(b"before".to_vec())).await.expect("the device may send");
                let revoked = tokio::task::spawn_blocking({
                    let (service, device) = (service.clone(), device.clone());
                    move || {
                        revoke(&service, &device);
                        Instant::now()
                    }
                });
                let refusal = detached(&mut link, Duration::from_secs(15)).await.expect("the link ends");
                let ended = Instant::now();
                let late = ended.saturating_duration_since(revoked.await.expect("the registry answers"));
                assert!(
                    late < Duration::from_secs(1),
                    "{way}: the link ended {late:?} after the registry's answer"
                );
                assert!(
                    [UNAUTHORIZED, NOT_FOUND].contains(&refusal.condition.as_str()),
                    "{way}: {refusal:?}"
                );
                send(&mut other, message(b"after".to_vec())).await.expect("the neighbour goes on");
                gateway.close().await;
            });
        }
    });
}

/// The same while six other devices send as fast as they can: forty links end, each within a second of the answer, and
/// nothing that the others were acknowledged is lost.
#[test]
fn revocation_is_as_quick_under_load() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let busy: Vec<Device> = service.create_devices("busy", 6);
        let revoked: Vec<Device> = service.create_devices("revoked", 40);
        let load = Load::default();
        load.flood_until(&hub, &busy, Duration::from_millis(200), || {
            for device in &revoked {
                converse(async {
                    let mut peer = Peer::device(&hub, device).await;
                    let mut link = peer.telemetry(&device.id).await.expect("the device may send");
                    let answered = tokio::task::spawn_blocking({
                        let (service, id) = (service.clone(), device.id.clone());
                        move || {
                            service.set_status(&id, "disabled");
                            Instant::now()
                        }
                    });
                    detached(&mut link, Duration::from_secs(15)).await.expect("the link ends");
                    let ended = Instant::now();
                    let late = ended.saturating_duration_since(answered.await.expect("the registry answers"));
                    assert!(late < Duration::from_secs(1), "{}: {late:?} after the answer", device.id);
                });
            }
        });
        let mut events = Vec::new();
        converse(read_all(&hub, &service, PARTITION_COUNT, &mut events));
        load.history().check(&events);
    });
}

/// A live link ends within 5 s of its token's expiry; a renewed one goes on.
#[test]
fn a_link_ends_with_its_token() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let service = hub.service();
        let (short, renewed) = (service.create_device("short"), service.create_device("renewed"));
        converse(async {
            let mut gateway = anonymous(&hub).await;
            for device in [&short, &renewed] {
                let audience = device_audience(&hub, &device.id);
                let token = sas::token(&audience, &device.key, sas::now_s() + 3, None);
                gateway.put_token(&audience, &token).await.expect("it has not expired yet");
            }
            let start = Instant::now();
            let mut short_link = gateway.telemetry("short").await.expect("its token is good");
            let mut renewed_link = gateway.telemetry("renewed").await.expect("its token is good");
            gateway.authorize_device(&hub, &renewed).await;
            let refusal = detached(&mut short_link, Duration::from_secs(15)).await.expect("the link ends");
            assert_eq!(refusal.condition, UNAUTHORIZED);
            let age = start.elapsed();
            assert!(age > Duration::from_secs(1) && age < Duration::from_secs(9), "it ended after {age:?}");
            send(&mut renewed_link, message(b"still here".to_vec())).await.expect("a renewed token goes on");
        });
    });
}

/// The allowed clock skew lets a token live on for that long, and no longer.
#[test]
fn the_clock_skew_is_a_setting() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1", "--token-skew-s", "300"]);
        let device = hub.service().create_device("late");
        let audience = device_audience(&hub, "late");
        converse(async {
            for (age_s, admitted) in [(60, true), (290, true), (320, false)] {
                let token = sas::token(&audience, &device.key, sas::now_s() - age_s, None);
                let (put, _) = attempt(&hub, &audience, &token, "late").await;
                assert_eq!(put.is_ok(), admitted, "expired {age_s} s ago: {put:?}");
            }
        });
    });
}

#[test]
fn sasl_plain_lets_the_right_ones_in() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let service = hub.service();
        let device = service.create_device("Plain#1%");
        let audience = device_audience(&hub, &sas::escape(&device.id));
        let label = hub.host();
        let label = label.split('.').next().expect("a host has a first label");
        let owner = ConnectionString::parse(&hub.policy_connection_string("service"));
        let (policy, key) = (owner.part("SharedAccessKeyName"), owner.part("SharedAccessKey"));
        let plain =
            |username: String, password: &str| SaslProfile::Plain { username, password: password.to_owned() };
        let raw = format!("{}/devices/{}", hub.host(), device.id);
        let good = sas::token(&raw, &device.key, hour(), None);
        let bad = sas::token(&audience, &sas::foreign_key(), hour(), None);
        converse(async {
            for hub_label in [NAME, label] {
                let username = format!("{}@sas.{hub_label}", device.id);
                let connected = Peer::connect(&hub, Some(plain(username.clone(), &good))).await;
                let mut peer = connected.unwrap_or_else(|error| panic!("{username}: {error}"));
                let mut link = peer.telemetry(&device.id).await.expect("PLAIN needs no further token");
                send(&mut link, message(b"by PLAIN".to_vec())).await.expect("the device may send");
                assert!(
                    Peer::connect(&hub, Some(plain(username, &bad))).await.is_err(),
                    "a wrong key gets in"
                );
            }
            // A policy by its raw key, as the oldest Event Hubs clients do.
            let mut peer =
                Peer::connect(&hub, Some(plain(policy.to_owned(), key))).await.expect("the policy's key");
            peer.events(&EventSource::oldest(0)).await.expect("the service policy reads");
            assert!(Peer::connect(&hub, Some(plain(policy.to_owned(), &sas::foreign_key()))).await.is_err());
        });
    });
}

/// A device cannot set the stamps that say who it is; what else it sets comes out as it went in.
#[test]
fn forged_stamps_are_dropped() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let device = service.create_device("honest");
        let forged = [
            "iothub-connection-device-id",
            "iothub-connection-auth-generation-id",
            "iothub-enqueuedtime",
            "iothub-message-source",
        ];
        converse(async {
            let mut annotations = MessageAnnotations::builder();
            let mut properties = ApplicationProperties::builder()
                .insert("iothub-message-schema", "kept")
                .insert("plain", "kept");
            for name in forged {
                annotations = annotations.insert(name, Value::String("forged".to_owned()));
                properties = properties.insert(name, SimpleValue::String("forged".to_owned()));
            }
            annotations = annotations.insert("x-opt-sequence-number", Value::Long(4711));
            let sent = Message::builder()
                .message_annotations(annotations.build())
                .properties(Properties::builder().message_id(MessageId::Uuid(Uuid::from([0x5a; 16]))).build())
                .application_properties(properties.build())
                .data(Binary::from(b"body".to_vec()))
                .build();
            let mut sender = Peer::device(&hub, &device).await;
            let mut link = sender.telemetry("honest").await.expect("the device may send");
            send(&mut link, sent).await.expect("forged stamps do not make a message bad");

            let mut events = Vec::new();
            read_all(&hub, &service, PARTITION_COUNT, &mut events).await;
            let [event] = events.as_slice() else { panic!("one event was sent: {events:?}") };
            assert_eq!((event.device.as_str(), event.sequence), ("honest", 0));
            let mut reader = Peer::reader(&hub, &service).await;
            let mut receiver =
                reader.events(&EventSource::oldest(event.partition)).await.expect("the policy reads");
            let delivery = receive_delivery(&mut receiver).await;
            let generation = annotation(&delivery, "iothub-connection-auth-generation-id");
            assert_eq!(generation, Some(Value::String(device.generation.clone())));
            assert_eq!(
                annotation(&delivery, "iothub-message-source"),
                Some(Value::String("Telemetry".to_owned()))
            );
            assert!(matches!(annotation(&delivery, "iothub-enqueuedtime"), Some(Value::Timestamp(_))));
            let properties = delivery.message().application_properties.clone().expect("there were some");
            let names: Vec<&str> = properties.0.keys().map(String::as_str).collect();
            assert_eq!(names, ["iothub-message-schema", "plain"]);
            let id =
                delivery.message().properties.as_ref().and_then(|properties| properties.message_id.clone());
            assert_eq!(id, Some(MessageId::String("5a5a5a5a-5a5a-5a5a-5a5a-5a5a5a5a5a5a".to_owned())));
        });
    });
}

/// Over HTTPS: a missing right is 401, an unknown device 404, and none of it a way around a path.
#[test]
fn https_refuses_as_documented() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let owner = hub.service();
        owner.create_device("known");
        let reader = ConnectionString::parse(&hub.policy_connection_string("registryRead"));
        let reader = Service::new(hub.host(), hub.tls(), &reader);
        let forged =
            "HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=".to_owned() + &sas::foreign_key();
        let stranger = Service::new(hub.host(), hub.tls(), &ConnectionString::parse(&forged));
        let body = serde_json::json!({ "deviceId": "new" });
        assert_eq!(reader.device("known").status, 200);
        assert_eq!(reader.request("PUT", "/devices/new", &[], Some(&body)).status, 401);
        assert_eq!(reader.request("DELETE", "/devices/known", &[("If-Match", "\"*\"")], None).status, 401);
        assert_eq!(stranger.device("known").status, 401);
        let missing = owner.device("unknown");
        assert_eq!(missing.status, 404);
        assert!(missing.text().contains("DeviceNotFound"), "{}", missing.text());
        let known = serde_json::json!({ "deviceId": "known" });
        let exists = owner.request("PUT", "/devices/known", &[], Some(&known));
        assert_eq!(exists.status, 409, "{}", exists.text());
        let stale = owner.request("PUT", "/devices/known", &[("If-Match", "\"AAAA\"")], Some(&known));
        assert_eq!(stale.status, 412, "{}", stale.text());
        for id in ["a/b", "a\\b", "", &"x".repeat(129), "ä"] {
            let body = serde_json::json!({ "deviceId": id });
            let response = owner.request("PUT", &format!("/devices/{}", sas::escape(id)), &[], Some(&body));
            assert!((400..500).contains(&response.status), "{id:?}: {}", response.status);
        }
        for id in ["..", "dots.and-dashes", "a#b?c%d", "it's (legal)!".replace(' ', "").as_str()] {
            assert_eq!(owner.create_device(id).id, id);
            assert_eq!(owner.device(id).json()["deviceId"], id);
            owner.delete_device(id);
        }
    });
}

#[test]
fn unknown_places_are_not_found() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let service = hub.service();
        let device = service.create_device("d");
        converse(async {
            let mut reader = Peer::reader(&hub, &service).await;
            let elsewhere = [
                EventSource { group: "nobody".to_owned(), ..EventSource::oldest(0) },
                EventSource::oldest(PARTITION_COUNT),
            ];
            for source in elsewhere {
                let refusal = reader.events(&source).await.expect_err("there is no such place");
                assert_eq!(refusal.condition, NOT_FOUND, "{source:?}");
                assert!(refusal.description.contains("could not be found"), "{refusal:?}");
            }
            let source = EventSource {
                selector: Some("amqp.annotation.x-opt-offset like 5".to_owned()),
                ..EventSource::oldest(0)
            };
            let refusal: Refusal = reader.events(&source).await.expect_err("that is no selector");
            assert_eq!(refusal.condition, "amqp:not-allowed");
            let mut peer = Peer::device(&hub, &device).await;
            let refusal = peer.telemetry("d/elsewhere").await.expect_err("there is no such path");
            assert!([NOT_FOUND, UNAUTHORIZED].contains(&refusal.condition.as_str()), "{refusal:?}");
        });
    });
}
