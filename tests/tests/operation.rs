//! Running the program: starts that fail, stops, restarts, idling, retention, and readers that do not read.
#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use fe2o3_amqp::link::receiver::CreditMode;
use rustix::process::Signal;
use serde_json::json;
use tests::amqp::{EventSource, Peer, converse, send};
use tests::fresh_directory;
use tests::hub::{Hub, PARTITION_COUNT, program};
use tests::namespace::{Needs, run};
use tests::process::{anonymous_bytes, processor_time, signal_process};
use tests::service::Device;
use tests::telemetry::{Load, message, read_all, receive};

/// The one line that a failed start says.
fn complaint(hub: &mut Hub) -> String {
    let (status, printed) = hub.try_run().expect_err("this start must fail");
    let status = status.expect("a failed start ends by itself");
    assert!(!status.success(), "it ended with {status}");
    let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(!printed.contains("panicked"), "{printed}");
    (*lines.last().expect("a failed start says why")).to_owned()
}

#[test]
fn a_failed_start_says_one_sentence() {
    run(Needs::LowPorts, || {
        // A second start on the same directory.
        let hub = Hub::start(&["--cores", "1"]);
        let mut second = Hub::prepare(hub.data(), &["--cores", "1"]);
        let said = complaint(&mut second);
        assert!(said.contains(&*hub.data().to_string_lossy()) || said.contains("already"), "{said}");
        assert!(hub.service().device("nobody").status == 404, "the first one goes on");

        // A port that is taken.
        let directory = fresh_directory("taken");
        let mut taken = Hub::prepare(directory.path(), &["--cores", "1"]);
        let _holder = TcpListener::bind((taken.host(), 5671)).expect("a free port of our own address");
        let said = complaint(&mut taken);
        assert!(said.contains("5671"), "{said}");

        // What cannot be.
        let cases: [(&[&str], &str); 4] = [
            (&["--partitions", "0"], "partition"),
            (&["--partitions", "33"], "partition"),
            (&["--retention-days", "8"], "retention"),
            (&["--config", "/nonexistent/corehub.toml"], "/nonexistent/corehub.toml"),
        ];
        for (arguments, word) in cases {
            let directory = fresh_directory("wrong");
            let mut wrong = Hub::prepare(directory.path(), arguments);
            let (status, printed) = wrong.try_run().expect_err("this start must fail");
            assert!(!status.expect("a failed start ends by itself").success());
            assert!(printed.to_lowercase().contains(word), "{arguments:?}: {printed}");
        }
        let output =
            Command::new(program()).args(["serve", "--data", "/dev/null/x"]).output().expect("it can be run");
        assert!(!output.status.success());
    });
}

#[test]
fn commands_say_when_no_hub_runs() {
    run(Needs::LowPorts, || {
        let directory = fresh_directory("none");
        let output = Command::new(program())
            .args(["device", "create", "d", "--data"])
            .arg(directory.path())
            .output()
            .expect("it can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.lines().count() == 1, "{said}");
    });
}

/// What the README walks through, by the command line alone.
#[test]
fn the_command_line_manages_devices_and_groups() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        hub.command_output(&["device", "create", "one", "two", "three"]);
        let listed = hub.command_output(&["device", "list"]);
        assert!(["one", "two", "three"].iter().all(|id| listed.contains(id)), "{listed}");
        let text = hub.command_output(&["connection-string", "--device", "two"]);
        let expected = format!("HostName={};DeviceId=two;SharedAccessKey=", hub.host());
        assert!(text.starts_with(&expected) && text.lines().count() == 1, "{text}");
        let event_hub = hub.event_hub_connection_string();
        assert!(
            event_hub.starts_with(&format!("Endpoint=sb://{}", hub.host()))
                && event_hub.contains("EntityPath=hub")
        );
        hub.command_output(&["device", "disable", "two"]);
        assert_eq!(hub.service().device("two").json()["status"], "disabled");
        hub.command_output(&["device", "enable", "two"]);
        assert_eq!(hub.service().device("two").json()["status"], "enabled");
        hub.command_output(&["device", "delete", "one"]);
        assert_eq!(hub.service().device("one").status, 404);
        assert!(!hub.command(&["device", "show", "one"]).status.success());
        hub.command_output(&["consumer-group", "create", "workers"]);
        let groups = hub.command_output(&["consumer-group", "list"]);
        assert!(groups.contains("$Default") && groups.contains("workers"), "{groups}");
        hub.command_output(&["consumer-group", "delete", "workers"]);
        assert!(!hub.command(&["consumer-group", "delete", "$Default"]).status.success());
        let run_file =
            std::fs::metadata(hub.data().join("run/hub.json")).expect("commands find the hub by it");
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&run_file.permissions()) & 0o077, 0);
    });
}

/// SIGTERM: in-flight events are answered, links get a reason, and it takes no ten seconds, also under load.
#[test]
fn sigterm_stops_cleanly_under_load() {
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let devices: Vec<Device> = service.create_devices("d", 6);
        let load = Load::default();
        let process = hub.process_id();
        load.flood_until(&hub, &devices, Duration::from_millis(300), || {
            signal_process(process, Signal::TERM);
            // The hub ends the links itself; the load has until then.
            std::thread::sleep(Duration::from_secs(2));
        });
        let (status, _) = hub.stop();
        assert!(status.success(), "a clean stop ends well: {status}");
        hub.run();
        assert!(!hub.printed().contains("was not closed"), "a clean stop leaves nothing to look for");
        let mut events = Vec::new();
        converse(read_all(&hub, &service, PARTITION_COUNT, &mut events));
        load.history().check(&events);
        // An idle hub stops at once.
        let (status, took) = hub.stop();
        assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    });
}

/// Without traffic the hub uses no measurable processor time: below half a percent of one core, with a reader waiting.
#[test]
fn an_idle_hub_idles() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        converse(async {
            let mut reader = Peer::reader(&hub, &service).await;
            let _receiver = reader.events(&EventSource::oldest(0)).await.expect("the policy reads");
            tokio::time::sleep(Duration::from_secs(2)).await;
            let before = processor_time(hub.process_id());
            const WATCHED: Duration = Duration::from_secs(6);
            tokio::time::sleep(WATCHED).await;
            let used = processor_time(hub.process_id()) - before;
            assert!(used <= WATCHED / 200, "{used:?} in {WATCHED:?}");
        });
    });
}

/// The program is linked so that io_uring does not interrupt its cores. Kernels before 5.19 cannot but do that.
#[test]
fn nothing_interrupts_the_cores() {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|mark: char| !mark.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let kernel_can = (numbers.next(), numbers.next()) >= (Some(5), Some(19));
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "1"]);
        hub.stop();
        assert_eq!(hub.printed_ever().contains("interrupt the cores"), !kernel_can);
    });
}

/// Retention by bytes frees disk and moves the first sequence number; who asks for older events gets the oldest.
#[test]
fn retention_by_bytes_moves_the_first_event() {
    run(Needs::LowPorts, || {
        const KEPT: u64 = 24 << 20;
        let hub = Hub::start(&["--cores", "1", "--partitions", "1", "--retention-bytes", &KEPT.to_string()]);
        let service = hub.service();
        let device = service.create_device("d");
        converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link = peer.telemetry("d").await.expect("the device may send");
            let mut reader = Peer::reader(&hub, &service).await;
            let mut first = 0;
            let mut sent = 0_u64;
            while first == 0 {
                assert!(sent < 1000, "200 MiB are stored and none is let go");
                for _ in 0..20 {
                    send(&mut link, message(vec![sent as u8; 200 * 1024]))
                        .await
                        .expect("the device may send");
                    sent += 1;
                }
                first = reader.partition(0, &service).await.expect("the policy may ask").first;
            }
            let status = reader.partition(0, &service).await.expect("the policy may ask");
            assert_eq!(
                status.last,
                i64::try_from(sent).expect("small") - 1,
                "retention takes from the front alone"
            );
            let written = service.put_checkpoint("$Default", 0, 0);
            assert!((200..300).contains(&written.status), "{}", written.text());
            let selector = Some("amqp.annotation.x-opt-offset > '@checkpoint'".to_owned());
            let checkpoint = EventSource { selector, ..EventSource::oldest(0) };
            for source in [EventSource::oldest(0), EventSource::behind(0, 0), checkpoint] {
                let mut receiver =
                    reader.events(&source).await.expect("an old position reads from the oldest");
                assert!(receive(&mut receiver, 0).await.sequence >= u64::try_from(first).expect("a number"));
                receiver.close().await.expect("a reader can be closed");
            }
        });
    });
}

/// A reader that grants credit and stops reading costs bounded memory and nobody else anything.
#[test]
fn a_reader_that_stops_costs_little() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1", "--partitions", "1"]);
        let service = hub.service();
        let device = service.create_device("d");
        converse(async {
            let mut peer = Peer::device(&hub, &device).await;
            let mut link = peer.telemetry("d").await.expect("the device may send");
            for number in 0..400_u64 {
                send(&mut link, message(vec![number as u8; 100 * 1024])).await.expect("the device may send");
            }
            let before = anonymous_bytes(hub.process_id());
            // They grant everything and take nothing: their sockets fill, and that is all.
            let mut stalled = Vec::new();
            for _ in 0..4 {
                let mut reader = Peer::reader(&hub, &service).await;
                let source = EventSource { credit: CreditMode::Manual, ..EventSource::oldest(0) };
                let mut receiver = reader.events(&source).await.expect("the policy reads");
                reader.stop_reading();
                receiver.set_credit(100_000).await.expect("an attached link");
                stalled.push((reader, receiver));
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            let grown = anonymous_bytes(hub.process_id()).saturating_sub(before);
            assert!(grown < 24 << 20, "four stalled readers cost {grown} bytes");
            // Others read and send as if nothing were.
            let mut reader = Peer::reader(&hub, &service).await;
            let mut receiver = reader.events(&EventSource::oldest(0)).await.expect("the policy reads");
            for number in 0..400 {
                assert_eq!(receive(&mut receiver, 0).await.sequence, number);
            }
            send(&mut link, message(b"after".to_vec())).await.expect("the device may send");
            drop(stalled);
        });
    });
}

/// Thousands of devices from files and back, by the command line alone.
#[test]
fn the_command_line_moves_many_devices() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let directory = fresh_directory("many");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let mut rows = String::from("deviceId,status,statusReason,primaryKey\n");
        for number in 0..2500 {
            rows.push_str(&format!("m{number:04},enabled,,\n"));
        }
        rows.push_str("\"quoted\",disabled,\"a, b\",\n");
        std::fs::write(path("many.csv"), rows).expect("a file");
        let said = hub.command_output(&["device", "create", "--file", &path("many.csv")]);
        assert_eq!(said, "2501 done, 0 refused");
        let quoted = hub.service().device("quoted").json();
        assert_eq!((&quoted["status"], &quoted["statusReason"]), (&json!("disabled"), &json!("a, b")));
        // What was refused is told by its line, and the rest is done.
        std::fs::write(path("more.csv"), "deviceId\nm0001\nnew\na b\nnew\n").expect("a file");
        let output = hub.command(&["device", "create", "--file", &path("more.csv")]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        for start in ["line 2: m0001: ", "line 4: a b: ", "line 5: new: "] {
            assert!(complaint.contains(start), "{complaint}");
        }
        assert_eq!(hub.service().device("new").status, 200);

        let listed: serde_json::Value =
            serde_json::from_str(&hub.command_output(&["device", "list", "--json"])).expect("JSON");
        assert_eq!(listed.as_array().map(Vec::len), Some(2502));
        assert!(listed[0]["authentication"].is_null());
        let key = hub.service().device("m0007").json()["authentication"]["symmetricKey"].clone();
        assert_eq!(hub.command_output(&["device", "export", &path("all.jsonl")]), "exported 2502 devices");
        let mode = std::fs::metadata(path("all.jsonl")).expect("written").permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o077, 0, "it holds keys");
        assert!(
            !hub.command(&["device", "export", &path("all.jsonl")]).status.success(),
            "nothing is overwritten"
        );
        let without = hub.command_output(&["device", "export", "-", "--exclude-keys"]);
        assert!(without.lines().count() == 2502 && !without.contains("primaryKey"));

        // All in one partition: a page is full with it alone.
        let other = Hub::start(&["--cores", "1", "--partitions", "1"]);
        assert_eq!(other.command_output(&["device", "import", &path("all.jsonl")]), "2502 done, 0 refused");
        let moved = other.service().device("m0007").json();
        assert_eq!(moved["authentication"]["symmetricKey"], key);
        assert_eq!(other.service().device("quoted").json()["statusReason"], "a, b");
        assert_eq!(other.command_output(&["device", "list"]).lines().count(), 2503);
        std::fs::write(path("delete.jsonl"), "{\"id\":\"m0007\",\"importMode\":\"delete\"}\n\nnonsense\n")
            .expect("a file");
        let output = other.command(&["device", "import", &path("delete.jsonl")]);
        assert!(String::from_utf8_lossy(&output.stderr).contains("line 3: not JSON"), "{output:?}");
        assert_eq!(other.service().device("m0007").status, 404, "what can be read is done");
    });
}
