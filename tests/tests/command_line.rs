//! What the command line says and does for enrolments, jobs and files with mistakes in them.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::Value;
use tests::fresh_directory;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::process::wait_until;

/// The one line that a command says that fails.
fn complaint(hub: &Hub, arguments: &[&str]) -> String {
    let output = hub.command(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} does not fail");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("corehub: "), "{arguments:?}: {text}");
    last.to_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Rows of a CSV file that cannot be: what stands in front of them is done, and the line is told, but no key.
#[test]
fn files_with_bad_rows() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let directory = fresh_directory("rows");
        let file = directory.path().join("rows.csv").display().to_string();
        let key = tests::sas::foreign_key();
        let create = |text: &[u8]| {
            std::fs::write(&file, text).expect("a file");
            let output = hub.command(&["device", "create", "--file", &file]);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(!said.contains(&key), "a key is printed: {said}");
            (output.status.success(), said)
        };
        // Those that can be read and not done are told one by one, and the others are done.
        let rows = format!(
            "deviceId,primaryKey,status\ngood-1,,\nbad-key,short,enabled\nbad-status,{key},asleep\n,,\n\
             {long},,\ngood-2,{key},disabled\n",
            long = "x".repeat(129)
        );
        let (is_done, said) = create(rows.as_bytes());
        assert!(!is_done && said.contains("2 done, 4 refused"), "{said}");
        for line in ["line 3: bad-key: ", "line 4: bad-status: ", "line 5: ", "line 6: x"] {
            assert!(said.contains(line), "{line}: {said}");
        }
        let made = service.device("good-2").json();
        assert_eq!(made["status"], "disabled");
        assert_eq!(made["authentication"]["symmetricKey"]["primaryKey"], key.as_str());
        assert_eq!(service.device("good-1").status, 200);
        // Behind one that is no row nothing can be known.
        let (is_done, said) =
            create(format!("deviceId,primaryKey\nfirst,{key}\nsecond\nthird,\n").as_bytes());
        assert!(!is_done && said.contains("line: 3"), "{said}");
        assert_eq!((service.device("first").status, service.device("third").status), (200, 404));
        let (is_done, said) = create(b"deviceId\nfourth\n\xff\xfe\n");
        assert!(!is_done && said.contains("UTF-8") && service.device("fourth").status == 200, "{said}");
        // Columns that are not known, or not there.
        let (is_done, said) = create(format!("deviceId,primarykey\nfifth,{key}\n").as_bytes());
        assert!(!is_done && said.contains("primarykey") && said.contains("primaryKey"), "{said}");
        let (is_done, said) = create(b"device\nfifth\n");
        assert!(!is_done && said.contains("deviceId"), "{said}");
        assert_eq!(service.device("fifth").status, 404);
        let (is_done, said) = create(b"");
        assert!(is_done && said.contains("0 done, 0 refused"), "{said}");
        assert!(complaint(&hub, &["device", "create", "--file", "nowhere.csv"]).contains("nowhere.csv"));
    });
}

#[test]
fn enrolments() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let key = tests::sas::foreign_key();
        let created = hub.command_output(&[
            "enrolment",
            "create",
            "Pump-7",
            "--device",
            "PUMP#7",
            "--primary-key",
            &key,
        ]);
        assert_eq!(created, "created Pump-7");
        hub.command_output(&["enrolment", "create", "line-1", "--group"]);
        assert!(complaint(&hub, &["enrolment", "create", "pump-7"]).contains("exists"));
        assert!(complaint(&hub, &["enrolment", "create", "a b"]).contains("invalid"));
        assert!(complaint(&hub, &["enrolment", "create", "x", "--primary-key", "short"]).contains("key"));
        let listed = hub.command_output(&["enrolment", "list"]);
        let listed: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(listed, [["group", "enabled", "line-1"], ["single", "enabled", "pump-7"]]);

        let shown = json(&hub.command_output(&["enrolment", "show", "pump-7"]));
        assert_eq!((&shown["deviceId"], &shown["registrationId"]), (&"PUMP#7".into(), &"pump-7".into()));
        assert_eq!(shown["attestation"]["symmetricKey"]["primaryKey"], key.as_str());
        assert_eq!(hub.command_output(&["enrolment", "disable", "pump-7"]), "disabled pump-7");
        let disabled = json(&hub.command_output(&["enrolment", "show", "pump-7"]));
        assert_eq!(disabled["provisioningStatus"], "disabled");
        assert_eq!(disabled["attestation"], shown["attestation"], "its keys stay");
        assert_eq!(hub.command_output(&["enrolment", "enable", "pump-7"]), "enabled pump-7");

        let group = json(&hub.command_output(&["enrolment", "show", "line-1", "--group"]));
        for (name, option) in [("primaryKey", None), ("secondaryKey", Some("--secondary"))] {
            let mut arguments = vec!["enrolment", "key", "line-1", "sn-1"];
            arguments.extend(option);
            let group_key = group["attestation"]["symmetricKey"][name].as_str().expect("a key");
            let group_key = registry::DeviceKey::from_base64(group_key).expect("a key");
            let derived = registry::derive_key(&group_key, "sn-1").to_base64();
            assert_eq!(hub.command_output(&arguments), derived, "{name}");
        }
        let scope = hub.command_output(&["enrolment", "scope"]);
        assert!(scope.starts_with("0ne") && scope.len() == 11, "{scope}");

        // A group is no single enrolment of its name.
        for action in ["show", "enable", "disable", "delete"] {
            assert!(complaint(&hub, &["enrolment", action, "line-1"]).contains("not found"), "{action}");
        }
        assert!(complaint(&hub, &["enrolment", "key", "pump-7", "sn-1"]).contains("not found"));
        assert_eq!(hub.command_output(&["enrolment", "delete", "pump-7"]), "deleted pump-7");
        assert_eq!(hub.command_output(&["enrolment", "delete", "line-1", "--group"]), "deleted line-1");
        assert_eq!(hub.command_output(&["enrolment", "list"]), "");
        assert!(!hub.printed().contains(&key), "a key is in the log");
    });
}

#[test]
fn jobs() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let container = hub.data().join("jobs/files/plant");
        std::fs::create_dir_all(&container).expect("a directory");
        let lines = "{\"id\":\"one\"}\n{\"id\":\"two\"}\n{\"id\":\"a b\"}\n";
        std::fs::write(container.join("devices.txt"), lines).expect("a file");
        let said = hub.command_output(&["job", "import", "plant", "--wait"]);
        assert!(said.ends_with(" completed: 2 devices, 1 refused"), "{said}");
        let id = said.split(' ').next().expect("an id").to_owned();
        let shown = json(&hub.command_output(&["job", "show", &id]));
        assert_eq!((&shown["jobId"], &shown["type"]), (&id.as_str().into(), &"import".into()));
        let errors = std::fs::read_to_string(container.join("importErrors.log")).expect("a log");
        assert!(errors.contains("\"line\":3"), "{errors}");

        let started = hub.command_output(&["job", "export", "all", "--exclude-keys"]);
        let has_ended = || {
            let shown = json(&hub.command_output(&["job", "show", &started]));
            (shown["status"] == "completed").then_some(())
        };
        wait_until(Duration::from_secs(20), has_ended).expect("the job ends");
        let said = hub.command_output(&["job", "export", "all/again", "--wait"]);
        assert!(said.ends_with(" completed: 2 devices, 0 refused"), "{said}");
        let exported = |name: &str| {
            std::fs::read_to_string(hub.data().join("jobs/files").join(name)).expect("an export")
        };
        assert!(exported("all/again/devices.txt").contains("primaryKey"));
        let without = exported("all/devices.txt");
        assert!(without.lines().count() == 2 && !without.contains("primaryKey"), "{without}");
        let table = hub.command_output(&["job", "list"]);
        let rows: Vec<&str> = table.lines().collect();
        assert!(rows.len() == 4 && rows[0].starts_with("JOB"), "{table}");
        assert!(rows[2].contains(&started) && rows[3].contains(&id), "the newest first: {table}");
        assert_eq!(json(&hub.command_output(&["job", "list", "--json"])).as_array().map(Vec::len), Some(3));

        assert!(complaint(&hub, &["job", "cancel", &id]).contains("ended"));
        assert!(complaint(&hub, &["job", "show", "nobody"]).contains("no such job"));
        assert!(complaint(&hub, &["job", "import", "../partitions"]).contains("corehub: "));
        let failed = complaint(&hub, &["job", "import", "nowhere", "--wait"]);
        assert!(failed.contains("failed") && failed.contains("input"), "{failed}");
        let lines: String = (0..50_000).map(|number| format!("{{\"id\":\"m{number}\"}}\n")).collect();
        std::fs::write(container.join("devices.txt"), lines).expect("a file");
        let id = hub.command_output(&["job", "import", "plant"]);
        assert!(complaint(&hub, &["job", "export", "late"]).contains(&id), "there is one at a time");
        assert_eq!(hub.command_output(&["job", "cancel", &id]), format!("cancelled {id}"));
        assert_eq!(json(&hub.command_output(&["job", "show", &id]))["status"], "cancelled");
    });
}

#[test]
fn policies() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let rows = || -> Vec<String> {
            let table = hub.command_output(&["policy", "list"]);
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(rows().len(), 6, "a header and the five of every hub");
        assert_eq!(
            hub.command_output(&["policy", "create", "auditor", "--rights", "RegistryRead"]),
            "created auditor"
        );
        assert!(rows().contains(&"auditor RegistryRead".to_owned()), "{:?}", rows());
        let before = hub.policy_connection_string("auditor");
        assert_eq!(
            hub.command_output(&["policy", "renew", "auditor", "--key", "primary"]),
            "renewed auditor"
        );
        let after = hub.policy_connection_string("auditor");
        assert_ne!(before, after);
        hub.command_output(&["policy", "renew", "auditor", "--key", "secondary"]);
        assert_eq!(hub.policy_connection_string("auditor"), after, "the other key stays");
        hub.command_output(&["policy", "create", "auditor", "--rights", "RegistryRead,ServiceConnect"]);
        assert!(rows().contains(&"auditor RegistryRead, ServiceConnect".to_owned()), "{:?}", rows());
        assert_eq!(hub.policy_connection_string("auditor"), after, "its keys stay");
        assert!(complaint(&hub, &["policy", "create", "x", "--rights", "Everything"]).contains("rights are"));
        assert!(complaint(&hub, &["policy", "renew", "nobody", "--key", "primary"]).contains("not found"));
        assert_eq!(hub.command_output(&["policy", "delete", "auditor"]), "deleted auditor");
        assert!(complaint(&hub, &["policy", "delete", "auditor"]).contains("not found"));
        assert_eq!(rows().len(), 6);
    });
}
