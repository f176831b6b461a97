//! SIGKILL of the real program under load: every acknowledged event is there after the restart, in order per device, none
//! twice, none invented, with one core and with two in turn.
#![forbid(unsafe_code)]

use std::time::Duration;

use tests::amqp::converse;
use tests::hub::{Hub, PARTITION_COUNT};
use tests::namespace::{Needs, run};
use tests::telemetry::{Load, read_all};

/// Kills in an ordinary run; `COREHUB_KILL_COUNT` asks for another number.
const KILL_COUNT: u64 = 30;
const DEVICE_COUNT: usize = 8;

#[test]
fn nothing_acknowledged_is_lost() {
    run(Needs::LowPorts, || {
        let kill_count = match std::env::var("COREHUB_KILL_COUNT") {
            Ok(text) => text.parse().expect("COREHUB_KILL_COUNT is a number"),
            Err(_) => KILL_COUNT,
        };
        let mut hub = Hub::start(&["--cores", "1"]);
        let service = hub.service();
        let devices: Vec<_> = service.create_devices("d", DEVICE_COUNT);
        let load = Load::default();
        let mut events = Vec::new();
        for kill in 0..kill_count {
            // From the first acknowledgement to half a second of load, in no order.
            let life = Duration::from_millis(kill * 7919 % 300);
            load.flood_until(&hub, &devices, life, || hub.kill_process());
            hub.kill();
            let cores = if kill % 2 == 0 { "2" } else { "1" };
            hub.set_arguments(&["--cores", cores]);
            hub.run();
            // Only what is new is read: that what was read before stays where it was, the end of the test shows.
            converse(read_all(&hub, &service, PARTITION_COUNT, &mut events));
            events.sort_by_key(|event| (event.partition, event.sequence));
            load.history().check(&events);
        }
        let mut again = Vec::new();
        converse(read_all(&hub, &service, PARTITION_COUNT, &mut again));
        assert!(again == events, "what was read once reads otherwise after {kill_count} kills");
        let acknowledged = load.history().acknowledged_count();
        assert!(
            acknowledged > kill_count * DEVICE_COUNT as u64,
            "the load was too small to mean anything: {acknowledged}"
        );
    });
}
