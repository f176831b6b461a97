//! The load generator against the real hub: each profile at a small size. A run succeeds only if what the hub has
//! acknowledged came back once and in order.
#![forbid(unsafe_code)]

use std::process::Command;

use serde_json::Value as Json;
use tests::{fresh_directory, hub};

/// Run a profile for half a second; its report.
fn run(arguments: &str) -> Json {
    run_for("0.5", arguments)
}

fn run_for(seconds: &str, arguments: &str) -> Json {
    let directory = fresh_directory("load");
    let address = hub::own_address().to_string();
    let output = Command::new(hub::program().with_file_name("loadgen-under-test"))
        .args(arguments.split_whitespace())
        .args(["--warm-up", "0.1", "--seconds", seconds, "--json", "--hub-bind", &address])
        .arg("--hub-binary")
        .arg(hub::program())
        .args(["--hub-arg=--pin", "--hub-arg=none", "--data-parent"])
        .arg(directory.path())
        .current_dir(directory.path())
        .output()
        .expect("the load generator can be run");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "loadgen {arguments}: {complaint}");
    serde_json::from_slice(&output.stdout).expect("the report is JSON")
}

fn number(report: &Json, path: &str) -> f64 {
    report.pointer(path).and_then(Json::as_f64).unwrap_or_else(|| panic!("{path} is missing in {report}"))
}

/// The profile has measured so many at least, with latencies, and everything sent was read back. What was due in the window and
/// could not be sent counts: how fast a busy machine is is not the question.
fn check_sent(report: &Json, least: f64) {
    assert!(number(report, "/events/count") + number(report, "/events/overdue") >= least, "{report}");
    let latency = |name: &str| number(report, &format!("/events/latencyMicroseconds/{name}"));
    assert!(latency("p50") > 0.0 && latency("p50") <= latency("p99") && latency("p99") <= latency("max"));
    assert!(number(report, "/verified") >= number(report, "/events/count"), "{report}");
    assert!(number(report, "/serverResidentBytes") > 1e6, "{report}");
}

#[test]
fn gateways_send_in_an_open_and_in_a_closed_loop() {
    check_sent(&run("gateway --connections 2 --devices 5 --rate 500"), 50.0);
    check_sent(&run("gateway --connections 2 --devices 5 --closed --in-flight 64 --plain"), 50.0);
    check_sent(&run("gateway --connections 1 --devices 3 --rate 500 --batch 5"), 50.0);
}

/// Large enough events that segments fill up and go while more of them come; all that retention leaves is read back.
#[test]
fn a_hub_under_load_forgets_the_oldest_events_alone() {
    let report = run_for(
        "3",
        "gateway --connections 2 --devices 5 --closed --in-flight 64 --body-bytes 16384 --partitions 1 \
         --retention-mib 8",
    );
    assert!(number(&report, "/expired") > 100.0, "{report}");
    assert!(number(&report, "/verified") > 100.0, "{report}");
}

#[test]
fn devices_send_over_each_protocol_from_several_processes() {
    for protocol in ["amqp", "mqtt", "https"] {
        let load = format!("telemetry --protocol {protocol} --connections 6 --rate 200 --processes 2");
        check_sent(&run(&load), 20.0);
    }
}

/// What the hub does not take yet waits in its place; nobody needs to say anything more to be heard.
#[test]
fn a_device_may_send_more_than_the_hub_takes_at_a_time() {
    for protocol in ["amqp", "mqtt"] {
        check_sent(
            &run(&format!("telemetry --protocol {protocol} --connections 1 --closed --in-flight 6000")),
            1000.0,
        );
    }
}

#[test]
fn devices_connect_again_with_tickets_and_in_storms() {
    let full = run("connect --connections 4 --rate 40");
    assert!(number(&full, "/connects/count") > 0.0 && full.get("resumptions").is_none(), "{full}");
    for version in ["1.2", "1.3"] {
        let again = run(&format!("connect --connections 4 --closed --resume --tls {version}"));
        assert!(number(&again, "/connects/count") > 0.0, "{again}");
        let missed = number(&again, "/connects/count") - number(&again, "/resumptions/count");
        assert!(missed == 0.0, "{missed} handshakes were full ones: {again}");
    }
    let storms = run("connect --protocol mqtt --connections 5 --storm");
    assert!(!storms["stormSeconds"].as_array().expect("a list").is_empty(), "{storms}");
}

#[test]
fn idle_devices_are_weighed() {
    // Few of them would live in memory that the hub has freed before.
    for protocol in ["amqp", "mqtt"] {
        let report = run(&format!("idle --protocol {protocol} --connections 300"));
        let bytes = number(&report, "/serverBytesPerConnection");
        assert!((100.0..1e6).contains(&bytes), "{report}");
    }
}

#[test]
fn commands_go_round() {
    let report = run("commands --connections 2 --devices 3 --rate 100");
    assert!(
        number(&report, "/commands/count") > 10.0 && number(&report, "/enqueued/count") > 10.0,
        "{report}"
    );
    assert!(number(&report, "/commandsVerified") >= number(&report, "/commands/count"), "{report}");
    assert_eq!((&report["wantsReceipts"], &report["commandDepth"]), (&true.into(), &10.into()), "{report}");
}

#[test]
fn everything_is_replayed_and_mixed_loads_are_told_apart() {
    let report = run("replay --connections 2 --devices 5 --in-flight 64 --readers 2 --passes 3");
    let passes = report["passes"].as_array().expect("a list");
    assert_eq!(passes.len(), 3);
    assert!(passes.iter().all(|pass| number(pass, "/count") == number(&report, "/verified")));
    assert_eq!(number(&report, "/reads/count"), 2.0 * number(&report, "/verified"), "{report}");
    // Annotations, frames and records come on top of the bodies.
    assert!(passes.iter().all(|pass| number(pass, "/wireBytesPerS") > number(pass, "/bytesPerS")));

    let report = run(
        "mixed --connections 1 --devices 3 --rate 200 --command-rate 50 --no-receipts --fill 0.5 --plot load.svg",
    );
    check_sent(&report, 20.0);
    assert!(number(&report, "/filled") > 100.0, "{report}");
    assert_eq!(report["filled"], report["leftByEarlierRuns"], "{report}");
    assert!(number(&report, "/commandsVerified") > 5.0 && number(&report, "/reads/count") > 5.0, "{report}");
}
