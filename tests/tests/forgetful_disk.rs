//! The real program on a disk that forgets what was not synced: after every cut all that was acknowledged is there.
#![forbid(unsafe_code)]

use std::time::Duration;

use tests::amqp::converse;
use tests::disk::mounted::ForgetfulDisk;
use tests::history::ReadEvent;
use tests::hub::{Hub, PARTITION_COUNT};
use tests::namespace::{Needs, run};
use tests::service::Device;
use tests::skip;
use tests::telemetry::{Load, read_all};

const DEVICE_COUNT: usize = 6;

/// A hub, the disk that it is on, its devices and what they were told.
struct Bench {
    /// In front of the disk: fields are dropped in this order, and a mounted disk waits for whoever has files open there.
    hub: Hub,
    disk: ForgetfulDisk,
    devices: Vec<Device>,
    load: Load,
    events: Vec<ReadEvent>,
}

impl Bench {
    fn start(seed: u64) -> Option<Self> {
        let disk = match ForgetfulDisk::mount(seed) {
            Ok(disk) => disk,
            Err(error) => {
                skip(&format!("FUSE cannot be mounted: {error}"));
                return None;
            }
        };
        let hub = Hub::start_in(&disk.path().join("data"), &["--cores", "1"]);
        let service = hub.service();
        let devices = service.create_devices("d", DEVICE_COUNT);
        Some(Self { hub, disk, devices, load: Load::default(), events: Vec::new() })
    }

    /// Load, and in the middle of it the power goes.
    fn cut_under_load(&mut self, life: Duration) {
        self.load.flood_until(&self.hub, &self.devices, life, || {
            self.disk.cut();
            self.hub.kill_process();
        });
        self.hub.kill();
        self.disk.restore();
    }

    fn read_everything(&mut self) {
        let service = self.hub.service();
        self.events.clear();
        converse(read_all(&self.hub, &service, PARTITION_COUNT, &mut self.events));
    }
}

#[test]
fn what_was_acknowledged_survives_every_cut() {
    run(Needs::Mounts, || {
        let Some(mut bench) = Bench::start(0x1C0_FFEE) else { return };
        for cut in 0..4 {
            let cores = if cut % 2 == 0 { "2" } else { "1" };
            bench.cut_under_load(Duration::from_millis(100 + 150 * cut));
            bench.hub.set_arguments(&["--cores", cores]);
            bench.hub.run();
            bench.read_everything();
            bench.load.history().check(&bench.events);
            // A device made before the cut is there after it.
            let service = bench.hub.service();
            assert_eq!(
                service.device(&bench.devices[0].id).json()["generationId"],
                bench.devices[0].generation.as_str()
            );
        }
        assert!(bench.disk.sync_count() > 0);
        assert!(bench.load.history().acknowledged_count() > 100, "the load was too small to mean anything");
    });
}

/// The same with the sync taken out: a disk that only says that it synced. What was acknowledged then is lost, and the
/// check above must notice; else it would prove nothing.
#[test]
fn a_lying_disk_is_noticed() {
    run(Needs::Mounts, || {
        let Some(mut bench) = Bench::start(0xBAD_D15C) else { return };
        bench.disk.ignore_syncs(true);
        bench.cut_under_load(Duration::from_millis(400));
        bench.disk.ignore_syncs(false);
        if bench.hub.try_run().is_err() || bench.hub.printed().contains("stored records are damaged") {
            // It noticed by itself: its files do not fit together, or what they hold is no longer whole. The check above
            // reads every event and goes red at either.
            return;
        }
        bench.read_everything();
        let faults = bench.load.history().faults(&bench.events);
        assert!(
            faults.iter().any(|fault| fault.contains("lost")),
            "nothing was lost on a disk that does not sync"
        );
    });
}
