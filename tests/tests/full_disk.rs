//! A full disk: telemetry is refused with a clear error, the hub lives, and it works again by itself once there is room.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use fe2o3_amqp::Sender;
use rustix::mount::{MountFlags, mount};
use tests::amqp::{EventSource, Peer, Refusal, converse, send};
use tests::fresh_directory;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::telemetry::{message, receive};

/// Room for the hub's files and a few segments.
const DISK_BYTES: u64 = 160 << 20;
const BODY_BYTES: usize = 200 * 1024;

/// Take all the room that is left.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file can be made");
    let zeros = vec![0_u8; 64 * 1024];
    while file.write_all(&zeros).is_ok() {}
}

/// Send until the hub refuses; how many it took.
async fn send_until_refused(link: &mut Sender) -> (u64, Refusal) {
    for sent in 0..2 * DISK_BYTES / BODY_BYTES as u64 {
        if let Err(refusal) = send(link, message(vec![sent as u8; BODY_BYTES])).await {
            return (sent, refusal);
        }
    }
    panic!("twice the disk's bytes are acknowledged");
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    run(Needs::Mounts, || {
        let directory = fresh_directory("full");
        let options = std::ffi::CString::new(format!("size={DISK_BYTES}")).expect("no zero byte");
        mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).expect("a tmpfs");
        let mut hub = Hub::start_in(&directory.path().join("data"), &["--cores", "1", "--partitions", "1"]);
        let service = hub.service();
        let device = service.create_device("d");
        let ballast = directory.path().join("ballast");
        let stored = converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link = peer.telemetry("d").await.expect("the device may send");
            fill(&ballast);
            let (sent, refusal) = send_until_refused(&mut link).await;
            assert_eq!(refusal.condition, "amqp:resource-limit-exceeded", "{refusal:?}");
            // It says why, goes on refusing, and does not take the link.
            let again = send(&mut link, message(vec![0; BODY_BYTES])).await.expect_err("it is still full");
            assert_eq!(again.condition, refusal.condition);
            // What is stored can be read while it is full.
            let mut reader = Peer::reader(&hub, &service).await;
            let mut receiver = reader.events(&EventSource::oldest(0)).await.expect("the policy reads");
            for number in 0..sent {
                assert_eq!(receive(&mut receiver, 0).await.sequence, number);
            }
            // Room returns, and so does the hub, on the same link, by itself.
            std::fs::remove_file(&ballast).expect("it is ours");
            let mut recovered = false;
            for _ in 0..100 {
                if send(&mut link, message(vec![7; BODY_BYTES])).await.is_ok() {
                    recovered = true;
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            assert!(recovered, "there is room again and it goes on refusing");
            assert_eq!(receive(&mut receiver, 0).await.sequence, sent);
            sent + 1
        });
        assert!(hub.is_running());
        // Full again, by events alone, and cut off there: it starts, has all of it, and can be asked.
        let filled = converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link = peer.telemetry("d").await.expect("the device may send");
            send_until_refused(&mut link).await.0
        });
        hub.kill();
        hub.run();
        let status = converse(async {
            let mut reader = Peer::reader(&hub, &service).await;
            reader.partition(0, &service).await.expect("the policy may ask")
        });
        assert_eq!(status.last, i64::try_from(stored + filled).expect("small") - 1);
        service.delete_device("d");
        assert_eq!(service.device("d").status, 404, "deleting works on a full disk");
    });
}
