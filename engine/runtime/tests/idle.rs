//! A hub without traffic uses no measurable CPU. A process of its own, because CPU time is counted by process.
#![forbid(unsafe_code)]

mod common;

use std::time::Duration;

use common::Hub;
use engine::request::Reply;
use rustix::time::{ClockId, clock_gettime};

fn process_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).expect("positive"),
        u32::try_from(time.tv_nsec).expect("nanoseconds"),
    )
}

#[test]
fn an_idle_hub_uses_no_cpu() {
    let directory = tempfile::tempdir().expect("a directory");
    let hub = Hub::start(directory.path(), 2, 5);
    hub.on(0, async |client| {
        client.create_device("idle").await;
        let session = client.open_session("idle").await;
        let reply = client.append(session, &[b"before the quiet"]).await;
        assert!(matches!(reply, Reply::Appended { .. }));
    });
    // Segments are made in advance after the start; then there is nothing to do.
    std::thread::sleep(Duration::from_millis(800));
    let before = process_cpu();
    std::thread::sleep(Duration::from_secs(1));
    let used = process_cpu() - before;
    assert!(used < Duration::from_millis(10), "two idle cores used {used:?} in a second");
    assert!(hub.stop().clean);
}
