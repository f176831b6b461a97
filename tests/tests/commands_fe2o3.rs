//! fe2o3-amqp as back end and as device: settlement in the second mode, locks over links, receipts that compete.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::primitives::{SimpleValue, Value};
use tests::amqp::{Peer, converse, send};
use tests::commands::{body, command, next, outcomes};
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::telemetry::annotation;

/// What an answer may take on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what would come at once.
const SHORT: Duration = Duration::from_millis(500);

/// A command arrives with the types that device clients cast to; what was completed never comes again, over links,
/// connections and kills; what was not comes again with another lock.
#[test]
fn locks_belong_to_their_link_and_completion_lasts() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let device = service.create_device("pump-7");
        converse(async {
            let mut back_end = Peer::back_end(&hub, &service).await;
            let mut sender = back_end.command_sender().await.expect("the owner may send");
            let mut peer = Peer::device(&hub, &device).await;
            let mut link =
                peer.commands("pump-7", CreditMode::Auto(10)).await.expect("the device may receive");
            for id in ["1", "2", "3"] {
                send(&mut sender, command("pump-7", id, "none")).await.expect("there is room");
            }
            let first = next(&mut link, PATIENCE).await.expect("it is pushed");
            assert_eq!(first.delivery_tag().len(), 16, "a lock's token");
            assert_eq!(annotation(&first, "iothub-deliverycount"), Some(Value::Ubyte(0)));
            assert!(matches!(annotation(&first, "x-opt-sequence-number"), Some(Value::Ulong(_))));
            assert!(matches!(annotation(&first, "iothub-enqueuedtime"), Some(Value::Timestamp(_))));
            assert!(matches!(annotation(&first, "x-opt-lock-token"), Some(Value::String(_))));
            let properties = first.message().properties.as_ref().expect("properties");
            assert_eq!(properties.to.as_deref(), Some("/devices/pump-7/messages/devicebound"));
            link.accept(&first).await.expect("the link stands");
            let second = next(&mut link, PATIENCE).await.expect("the next one");
            link.release(&second).await.expect("the link stands");
            // The third was sent before the second came back; it stays locked.
            let mut rest = Vec::new();
            for _ in 0..2 {
                rest.push(next(&mut link, PATIENCE).await.expect("two are left"));
            }
            let counts =
                rest.iter().map(|delivery| (body(delivery), annotation(delivery, "iothub-deliverycount")));
            let mut counts: Vec<_> = counts.collect();
            counts.sort_by(|left, right| left.0.cmp(&right.0));
            assert_eq!(
                counts,
                [("2".to_owned(), Some(Value::Ubyte(1))), ("3".to_owned(), Some(Value::Ubyte(0)))]
            );
            // A newer connection takes over at once what the older one had locked.
            let mut newer = Peer::device(&hub, &device).await;
            let mut taken = newer.commands("pump-7", CreditMode::Auto(10)).await.expect("it takes over");
            let again = [
                next(&mut taken, PATIENCE).await.expect("the lock went with the link"),
                next(&mut taken, PATIENCE).await.expect("both of them"),
            ];
            assert_eq!(again.each_ref().map(body), ["2", "3"]);
            for (older, newer) in [(&rest[0], 0), (&rest[1], 0)] {
                assert!(
                    again.iter().all(|delivery| delivery.delivery_tag() != older.delivery_tag()),
                    "{newer}"
                );
            }
            taken.accept(&again[0]).await.expect("the link stands");
            taken.reject(&again[1], None).await.expect("the link stands");
            assert!(next(&mut taken, SHORT).await.is_none());
            newer.close().await;
        });
        hub.kill();
        hub.set_arguments(&["--cores", "1"]);
        hub.run();
        converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link =
                peer.commands("pump-7", CreditMode::Auto(10)).await.expect("the device may receive");
            assert!(next(&mut link, SHORT).await.is_none(), "all were settled");
            peer.close().await;
        });
    });
}

/// Values that are no strings become strings; a waiting device is pushed to, wherever it and the back end landed.
#[test]
fn a_waiting_device_is_pushed_to_with_strings_alone() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let devices = service.create_devices("device-", 8);
        converse(async {
            let mut back_end = Peer::back_end(&hub, &service).await;
            let mut sender = back_end.command_sender().await.expect("the owner may send");
            for device in &devices {
                let mut peer = Peer::device(&hub, device).await;
                let mut link =
                    peer.commands(&device.id, CreditMode::Auto(5)).await.expect("the device may receive");
                let mut sent = command(&device.id, "c", "full");
                let properties = sent.application_properties.as_mut().expect("there is one");
                properties.insert("number".to_owned(), SimpleValue::Long(7));
                properties.insert("truth".to_owned(), SimpleValue::Bool(true));
                let begun = Instant::now();
                send(&mut sender, sent).await.expect("there is room");
                let delivery = next(&mut link, PATIENCE).await.expect("it is pushed");
                assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
                let properties = delivery.message().application_properties.as_ref().expect("properties");
                for (name, value) in [("number", "7"), ("truth", "true"), ("iothub-ack", "full")] {
                    let expected = SimpleValue::String(value.to_owned());
                    assert_eq!(properties.get(name), Some(&expected), "{name}");
                }
                link.accept(&delivery).await.expect("the link stands");
                peer.close().await;
            }
        });
    });
}

/// One credit takes one batch; a receiver that goes without a word leaves it to the others, and an accepted one is gone.
#[test]
fn receipts_of_all_partitions_come_on_one_link() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let devices = service.create_devices("device-", 8);
        converse(async {
            let mut back_end = Peer::back_end(&hub, &service).await;
            let mut sender = back_end.command_sender().await.expect("the owner may send");
            for device in &devices {
                send(&mut sender, command(&device.id, &device.id, "positive")).await.expect("there is room");
                let mut peer = Peer::device(&hub, device).await;
                let mut link =
                    peer.commands(&device.id, CreditMode::Auto(5)).await.expect("the device may receive");
                let delivery = next(&mut link, PATIENCE).await.expect("it waits");
                link.accept(&delivery).await.expect("the link stands");
                peer.close().await;
            }
            // One link takes a batch and goes.
            let mut hasty = Peer::back_end(&hub, &service).await;
            let mut receipts = hasty.receipts(CreditMode::Manual).await.expect("the owner may read");
            receipts.set_credit(1).await.expect("the link stands");
            assert!(next(&mut receipts, PATIENCE).await.is_some(), "within 15 s");
            assert!(next(&mut receipts, SHORT).await.is_none(), "one credit, one batch");
            hasty.close().await;
            let mut receipts = back_end.receipts(CreditMode::Auto(50)).await.expect("the owner may read");
            let mut told = Vec::new();
            while told.len() < devices.len() {
                let batch = next(&mut receipts, PATIENCE).await.expect("every completion has its receipt");
                told.extend(outcomes(&batch));
                receipts.accept(&batch).await.expect("the link stands");
            }
            told.sort();
            let expected: Vec<_> =
                devices.iter().map(|device| (device.id.clone(), "Success".to_owned())).collect();
            assert_eq!(told, expected);
            assert!(next(&mut receipts, SHORT).await.is_none());
            back_end.close().await;
        });
    });
}

/// `corehub send` says the id; with `--wait` the outcome, and the receipts of others are still there, uncounted.
#[test]
fn the_command_line_waits_and_takes_nothing_of_others() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let device = service.create_device("pump-7");
        let printed =
            hub.command_output(&["send", "pump-7", "first", "--message-id", "m-1", "--ack", "full"]);
        assert_eq!(printed, "m-1");
        let output = hub.command(&["send", "nobody", "x"]);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && complaint.contains("device not found"), "{complaint}");
        let told = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                hub.command_output(&[
                    "send",
                    "pump-7",
                    "second",
                    "--wait",
                    "--correlation-id",
                    "c",
                    "--property",
                    "unit=C",
                    "--ttl",
                    "1h",
                ])
            });
            converse(async {
                let mut peer = Peer::device(&hub, &device).await;
                let mut link =
                    peer.commands("pump-7", CreditMode::Auto(5)).await.expect("the device may receive");
                for text in ["first", "second"] {
                    let delivery = next(&mut link, PATIENCE).await.expect("it was sent");
                    assert_eq!(body(&delivery), text);
                    link.accept(&delivery).await.expect("the link stands");
                }
                peer.close().await;
            });
            waiting.join().expect("the command succeeds")
        });
        let words: Vec<&str> = told.split(' ').collect();
        assert!(
            matches!(words[..], [id, "Success", time] if id.len() == 36 && time.ends_with('Z')),
            "{told}"
        );
        converse(async {
            let mut back_end = Peer::back_end(&hub, &service).await;
            let mut receipts = back_end.receipts(CreditMode::Auto(50)).await.expect("the owner may read");
            let mut seen = Vec::new();
            while !seen.iter().any(|(id, _)| id == "m-1") {
                let batch = next(&mut receipts, PATIENCE).await.expect("the other receipt is still there");
                seen.extend(outcomes(&batch));
                receipts.accept(&batch).await.expect("the link stands");
            }
            back_end.close().await;
        });
    });
}
