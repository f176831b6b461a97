//! Where connections live: one that belongs to a single device moves to the core of its device, and nobody notices.
#![forbid(unsafe_code)]

use tests::amqp::{Peer, converse, send};
use tests::hub::{Hub, PARTITION_COUNT};
use tests::namespace::{Needs, run};
use tests::telemetry::{message, read_all};

/// Enough that some land on the wrong one of two cores, whatever the kernel's hash says of their ports.
const DEVICE_COUNT: usize = 40;
const EVENT_COUNT: u8 = 5;

/// The number behind `label` in each core's count of its connections, added up.
fn counted(printed: &str, label: &str) -> u64 {
    let lines = printed.lines().filter(|line| line.contains("connections: accepted"));
    lines.filter_map(|line| line.split(label).nth(1)?.split(',').next()?.trim().parse::<u64>().ok()).sum()
}

#[test]
fn a_connection_moves_to_its_device_and_goes_on() {
    run(Needs::LowPorts, || {
        for (cores, moves) in [("2", true), ("1", false)] {
            let mut hub = Hub::start(&["--cores", cores]);
            let service = hub.service();
            let devices: Vec<_> = service.create_devices("d", DEVICE_COUNT);
            let mut events = Vec::new();
            converse(async {
                for device in &devices {
                    // Its token is put, and answered, before it attaches: the way of the device packages.
                    let mut peer = Peer::device(&hub, device).await;
                    let mut link = peer.telemetry(&device.id).await.expect("the device may send");
                    for number in 0..EVENT_COUNT {
                        send(&mut link, message(vec![number; 3])).await.expect("the device may send");
                    }
                    peer.close().await;
                }
                read_all(&hub, &service, PARTITION_COUNT, &mut events).await;
            });
            for device in &devices {
                let bodies: Vec<_> = events
                    .iter()
                    .filter(|event| event.device == device.id)
                    .map(|event| event.body[0])
                    .collect();
                assert_eq!(bodies, (0..EVENT_COUNT).collect::<Vec<_>>(), "{}", device.id);
            }
            let (status, _) = hub.stop();
            assert!(status.success(), "{status}");
            let printed = hub.printed_ever();
            assert_eq!(counted(&printed, "moved in ") > 0, moves, "{printed}");
            assert_eq!(counted(&printed, "not movable "), 0, "{printed}");
        }
    });
}
