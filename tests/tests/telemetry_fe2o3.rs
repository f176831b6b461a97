//! fe2o3-amqp as device, as gateway and as reader with the checkpoint capability.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::messaging::{ApplicationProperties, Header, Message, MessageId, Outcome, Properties};
use fe2o3_amqp::types::primitives::{Binary, SimpleValue, Symbol, Timestamp, Value};
use tests::amqp::{EventSource, Peer, Refusal, answer, converse, send};
use tests::hub::{Hub, PARTITION_COUNT};
use tests::namespace::{Needs, run};
use tests::service::Service;
use tests::telemetry::{BATCH_FORMAT, Load, batch, message, read_all, read_event, receive, receive_delivery};

/// Devices of the gateway.
const GATEWAY_DEVICE_COUNT: usize = 200;

/// The partition that a device's events went to.
async fn partition_of(hub: &Hub, service: &Service, device: &str) -> u16 {
    let mut events = Vec::new();
    read_all(hub, service, PARTITION_COUNT, &mut events).await;
    events.iter().find(|event| event.device == device).expect("the device has sent").partition
}

/// Properties and bodies of every kind come out as they went in.
#[test]
fn messages_come_out_as_they_went_in() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let device = service.create_device("device#1%");
        let properties = Properties::builder()
            .message_id(MessageId::String("m-1".to_owned()))
            .user_id(Binary::from(b"user".to_vec()))
            .to("/devices/device#1%/messages/events")
            .subject("subject")
            .correlation_id(MessageId::Ulong(7))
            .content_type(Symbol::from("application/json"))
            .content_encoding(Symbol::from("utf-8"))
            .absolute_expiry_time(Timestamp::from_milliseconds(4_000_000_000_000))
            .creation_time(Timestamp::from_milliseconds(1_000_000_000_000))
            .build();
        let application_properties = ApplicationProperties::builder()
            .insert("text", "ä€😀")
            .insert("empty", "")
            .insert("long", i64::MIN)
            .insert("int", -1_i32)
            .insert("ubyte", 255_u8)
            .insert("truth", true)
            .insert("double", SimpleValue::Double(0.1.into()))
            .insert("when", SimpleValue::Timestamp(Timestamp::from_milliseconds(5)))
            .insert("binary", SimpleValue::Binary(Binary::from(vec![0, 255])))
            .build();
        let bodies: Vec<Vec<u8>> = vec![
            Vec::new(),
            vec![0],
            (0..=255).collect(),
            // Longer than a frame: several transfers for one delivery, both ways.
            (0..200_000_u32).map(|number| (number % 251) as u8).collect(),
        ];
        converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link = peer.telemetry("device#1%").await.expect("the device may send");
            for body in &bodies {
                let sent = Message::builder()
                    .header(Header { durable: true, ..Header::default() })
                    .properties(properties.clone())
                    .application_properties(application_properties.clone())
                    .data(Binary::from(body.clone()))
                    .build();
                send(&mut link, sent).await.expect("the device may send");
            }
            let partition = partition_of(&hub, &service, "device#1%").await;
            let mut reader = Peer::reader(&hub, &service).await;
            let mut receiver =
                reader.events(&EventSource::oldest(partition)).await.expect("the policy reads");
            for (sequence, body) in bodies.iter().enumerate() {
                let delivery = receive_delivery(&mut receiver).await;
                let event = read_event(partition, &delivery);
                assert_eq!((event.sequence, event.device.as_str()), (sequence as u64, "device#1%"));
                assert!(event.body == *body, "the body of {} bytes changed", body.len());
                assert_eq!(delivery.message().properties.as_ref(), Some(&properties));
                assert_eq!(delivery.message().application_properties.as_ref(), Some(&application_properties));
            }
        });
    });
}

/// A batch becomes its events, each with a number of its own, in order.
#[test]
fn a_batch_becomes_its_events() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let device = service.create_device("batcher");
        converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link = peer.telemetry("batcher").await.expect("the device may send");
            let bodies: Vec<Vec<u8>> =
                (0..50_u8).map(|number| vec![number; 100 + usize::from(number)]).collect();
            let outcome = answer("settle", link.send(batch(bodies.iter().cloned())))
                .await
                .expect("the device may send");
            assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
            let mut events = Vec::new();
            read_all(&hub, &service, PARTITION_COUNT, &mut events).await;
            let read: Vec<_> = events.iter().map(|event| (event.sequence, event.body.clone())).collect();
            let sent: Vec<_> = (0..).zip(bodies).collect();
            assert!(read == sent, "{} events of 50", read.len());
            // A batch whose sections are not messages is refused as a whole, and the link lives on.
            let garbage = Message::builder().data_batch(vec![Binary::from(b"no message".to_vec())]).build();
            let garbage =
                fe2o3_amqp::Sendable::builder().message(garbage).message_format(BATCH_FORMAT).build();
            let outcome = answer("settle", link.send(garbage)).await;
            assert!(matches!(outcome, Ok(Outcome::Rejected(_))), "{outcome:?}");
            send(&mut link, message(b"after".to_vec())).await.expect("the link lives on");
        });
    });
}

/// From 256 KiB on a message is refused by its own condition, and the link lives on.
#[test]
fn a_message_too_large_is_refused() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let device = hub.service().create_device("large");
        converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link = peer.telemetry("large").await.expect("the device may send");
            let refusal = send(&mut link, message(vec![1; 300 * 1024])).await.expect_err("it is too large");
            assert_eq!(refusal.condition, "amqp:link:message-size-exceeded");
            send(&mut link, message(vec![1; 250 * 1024])).await.expect("it is not too large");
        });
    });
}

/// One connection, one session, 200 devices: each sends by its own right and keeps its order; whatever core owns them.
#[test]
fn a_gateway_carries_many_devices() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let devices = service.create_devices("g", GATEWAY_DEVICE_COUNT);
        let load = Load::default();
        converse(load.flood(&hub, &devices, 12));
        let mut events = Vec::new();
        converse(read_all(&hub, &service, PARTITION_COUNT, &mut events));
        let history = load.history().clone();
        assert!(history.acknowledged_count() >= 12 * GATEWAY_DEVICE_COUNT as u64);
        history.check(&events);
        let mut partitions: BTreeMap<u16, usize> = BTreeMap::new();
        events.iter().for_each(|event| *partitions.entry(event.partition).or_default() += 1);
        assert_eq!(partitions.len(), usize::from(PARTITION_COUNT), "200 devices spread over all partitions");
        // The same with the other number of cores after a clean stop.
        let (status, _) = hub.stop();
        assert!(status.success(), "{status}");
        hub.set_arguments(&["--cores", "1"]);
        hub.run();
        let mut again = Vec::new();
        converse(read_all(&hub, &service, PARTITION_COUNT, &mut again));
        assert!(again == events, "a restart with another number of cores changed what is read");
    });
}

/// A device's newer connection takes over: nothing of the older one is stored behind the newer one's first event.
#[test]
fn a_newer_connection_of_a_device_takes_over() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let device = service.create_device("moving");
        converse(async {
            let mut older = Peer::device(&hub, &device).await;
            let mut older_link = older.telemetry("moving").await.expect("the device may send");
            let flood = tokio::spawn(async move {
                let mut number = 0_u64;
                let mut settlements = Vec::new();
                while let Ok(settlement) =
                    older_link.send_batchable(message(number.to_be_bytes().to_vec())).await
                {
                    settlements.push(settlement);
                    number += 1;
                    tokio::task::yield_now().await;
                }
                let mut accepted = 0;
                for settlement in settlements {
                    accepted += u64::from(matches!(settlement.await, Ok(Outcome::Accepted(_))));
                }
                accepted
            });
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut newer = Peer::device(&hub, &device).await;
            let mut newer_link = newer.telemetry("moving").await.expect("the newer connection wins");
            send(&mut newer_link, message(b"newer".to_vec())).await.expect("the device may send");
            let accepted = flood.await.expect("the older link ends");
            let mut events = Vec::new();
            read_all(&hub, &service, PARTITION_COUNT, &mut events).await;
            assert_eq!(
                events.last().expect("something was sent").body,
                b"newer",
                "an event of the older link is behind"
            );
            let numbers: Vec<u64> = events[..events.len() - 1]
                .iter()
                .map(|event| u64::from_be_bytes(event.body.as_slice().try_into().expect("eight bytes")))
                .collect();
            assert!(
                accepted > 0 && numbers.len() as u64 >= accepted,
                "{accepted} accepted, {} stored",
                numbers.len()
            );
            assert!(
                numbers.windows(2).all(|pair| pair[0] < pair[1]),
                "the older link's events are out of order"
            );
        });
    });
}

/// With the capability events go unsettled, and the checkpoint follows the highest event below which all are accepted.
#[test]
fn acceptance_moves_the_checkpoint() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        service.create_consumer_group("workers");
        let device = service.create_device("d");
        converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link = peer.telemetry("d").await.expect("the device may send");
            for number in 0..10_u8 {
                send(&mut link, message(vec![number])).await.expect("the device may send");
            }
        });
        let partition = converse(partition_of(&hub, &service, "d"));
        let source = EventSource {
            group: "workers".to_owned(),
            checkpoints: true,
            selector: Some("amqp.annotation.x-opt-offset > '@checkpoint'".to_owned()),
            ..EventSource::oldest(partition)
        };
        converse(async {
            let mut reader = Peer::reader(&hub, &service).await;
            let mut receiver = reader.events(&source).await.expect("the policy reads");
            let mut deliveries = Vec::new();
            for number in 0..6_u64 {
                let delivery = receive_delivery(&mut receiver).await;
                assert_eq!(read_event(partition, &delivery).sequence, number);
                deliveries.push(delivery);
            }
            // 0, 1, 3 and 4 accepted: 2 holds the checkpoint at 1.
            for accepted in [0, 1, 3, 4] {
                receiver.accept(&deliveries[accepted]).await.expect("an open delivery");
            }
            await_checkpoint(&service, partition, 1).await;
            receiver.release(&deliveries[2]).await.expect("an open delivery");
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(
                service.checkpoint("workers", partition),
                Some(1),
                "a released event holds the checkpoint"
            );
        });
        hub.kill();
        hub.run();
        converse(async {
            assert_eq!(
                service.checkpoint("workers", partition),
                Some(1),
                "a settled acceptance survives SIGKILL"
            );
            let mut reader = Peer::reader(&hub, &service).await;
            let mut receiver = reader.events(&source).await.expect("the policy reads");
            for number in 2..10 {
                let delivery = receive_delivery(&mut receiver).await;
                assert_eq!(read_event(partition, &delivery).sequence, number);
                receiver.accept(&delivery).await.expect("an open delivery");
            }
            await_checkpoint(&service, partition, 9).await;
        });
        // Back only by the HTTPS write; beyond the end not at all.
        assert!((200..300).contains(&service.put_checkpoint("workers", partition, 3).status));
        assert!((400..500).contains(&service.put_checkpoint("workers", partition, 99).status));
        converse(async {
            let mut reader = Peer::reader(&hub, &service).await;
            let mut receiver = reader.events(&source).await.expect("the policy reads");
            assert_eq!(receive(&mut receiver, partition).await.sequence, 4);
        });
    });
}

async fn await_checkpoint(service: &Service, partition: u16, wanted: u64) {
    for _ in 0..500 {
        if service.checkpoint("workers", partition) == Some(wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the checkpoint is {:?} instead of {wanted}", service.checkpoint("workers", partition));
}

/// Without the capability events come settled: the hub keeps nothing per delivery.
#[test]
fn ordinary_readers_get_settled_events() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let service = hub.service();
        let device = service.create_device("d");
        converse(Load::default().flood(&hub, &[device], 200));
        converse(async {
            let partition = partition_of(&hub, &service, "d").await;
            let mut reader = Peer::reader(&hub, &service).await;
            let source = EventSource { credit: CreditMode::Manual, ..EventSource::oldest(partition) };
            let mut receiver = reader.events(&source).await.expect("the policy reads");
            receiver.set_credit(50).await.expect("an attached link");
            for number in 0..50 {
                assert_eq!(receive(&mut receiver, partition).await.sequence, number);
            }
            // The credit is used up: nothing comes before there is more.
            let early =
                tokio::time::timeout(Duration::from_millis(300), receive(&mut receiver, partition)).await;
            assert!(early.is_err(), "an event came without credit: {early:?}");
            receiver.set_credit(1).await.expect("an attached link");
            assert_eq!(receive(&mut receiver, partition).await.sequence, 50);
        });
    });
}

/// Epochs: the newcomer wins unless its epoch is lower; a reader without one yields; five such read side by side.
#[test]
fn epochs_and_the_five_reader_rule() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        converse(async {
            let with_epoch = |epoch| EventSource { epoch, ..EventSource::oldest(0) };
            let mut reader = Peer::reader(&hub, &service).await;
            let mut plain = Vec::new();
            for _ in 0..5 {
                plain.push(reader.events(&with_epoch(None)).await.expect("five may read"));
            }
            let sixth = reader.events(&with_epoch(None)).await.expect_err("a sixth may not");
            assert_eq!(sixth.condition, "amqp:resource-limit-exceeded");
            let mut first = reader.events(&with_epoch(Some(5))).await.expect("an epoch wins over none");
            for mut receiver in plain {
                assert_eq!(ending(&mut receiver).await.condition, "amqp:link:stolen");
            }
            let stolen = "amqp:link:stolen";
            assert_eq!(reader.events(&with_epoch(Some(4))).await.expect_err("lower").condition, stolen);
            assert_eq!(reader.events(&with_epoch(None)).await.expect_err("none").condition, stolen);
            let mut second =
                reader.events(&with_epoch(Some(5))).await.expect("the newcomer wins with the same epoch");
            assert_eq!(ending(&mut first).await.condition, stolen);
            let _third = reader.events(&with_epoch(Some(6))).await.expect("a higher epoch wins");
            assert_eq!(ending(&mut second).await.condition, stolen);
        });
    });
}

/// How the hub ended a reader.
async fn ending(receiver: &mut fe2o3_amqp::Receiver) -> Refusal {
    let ended = answer("detach", receiver.recv::<Value>()).await;
    Refusal::from_receive(&ended.expect_err("the reader was stolen"))
}
