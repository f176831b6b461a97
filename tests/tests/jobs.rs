//! Import and export jobs of the real program: what files say, what clients ask, and a process that dies meanwhile.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tests::clients::Script;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::process::wait_until;
use tests::service::Service;

/// How long any job of these tests may take on a machine that builds at the same time.
const PATIENCE: Duration = Duration::from_secs(60);

fn container(hub: &Hub, name: &str) -> PathBuf {
    hub.data().join("jobs/files").join(name)
}

fn write_lines(path: &Path, lines: &[Value]) {
    std::fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a directory");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).expect("a file");
}

fn read_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

fn create(service: &Service, body: &Value) -> Value {
    let response = service.request("POST", "/jobs/create", &[], Some(body));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

fn ended(service: &Service, id: &Value) -> Value {
    let path = format!("/jobs/{}", id.as_str().expect("an id"));
    let look = || {
        let job = service.request("GET", &path, &[], None).json();
        (!matches!(job["status"].as_str(), Some("enqueued" | "running"))).then_some(job)
    };
    wait_until(PATIENCE, look).expect("the job ends")
}

fn import_of(container: &str) -> Value {
    json!({ "type": "import", "inputBlobContainerUri": container, "outputBlobContainerUri": container })
}

#[test]
fn an_import_does_what_its_lines_say_and_tells_which_it_did_not() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        let old = service.create_device("old");
        service.create_device("gone");
        let etag = service.device("old").json()["etag"].clone();
        let keys =
            json!({ "primaryKey": tests::sas::foreign_key(), "secondaryKey": tests::sas::foreign_key() });
        let lines = [
            json!({ "id": "new", "importMode": "create", "status": "disabled", "statusReason": "later" }),
            json!({ "id": "old", "importMode": "create" }),
            json!({ "id": "old", "authentication": { "type": "sas", "symmetricKey": keys } }),
            json!({ "id": "old", "importMode": "updateIfMatchETag", "eTag": etag, "status": "disabled" }),
            json!({ "id": "gone", "importMode": "delete" }),
            json!({ "id": "gone", "importMode": "Delete" }),
            json!({ "id": "a b" }),
            json!({ "id": "twin", "tags": { "a": 1 } }),
            json!({ "id": "default" }),
        ];
        let input = container(&hub, "plant/today/devices.txt");
        write_lines(&input, &lines);
        let mut text = std::fs::read_to_string(&input).expect("written above");
        text.push_str("\n  \r\nno JSON\n");
        text.push_str(&format!("{}\n", "x".repeat(200_000)));
        text.push_str("{\"id\": \"last\"}");
        std::fs::write(&input, text).expect("a file");

        let job = create(&service, &import_of("plant/today"));
        assert_eq!((&job["type"], &job["endTimeUtc"]), (&json!("import"), &Value::Null), "{job}");
        let job = ended(&service, &job["jobId"]);
        assert_eq!((&job["status"], &job["progress"]), (&json!("completed"), &json!(100)), "{job}");
        assert_eq!((&job["deviceCount"], &job["refusedCount"]), (&json!(5), &json!(7)), "{job}");
        let refused: Vec<(u64, String)> = read_lines(&container(&hub, "plant/today/importErrors.log"))
            .iter()
            .map(|line| {
                (
                    line["line"].as_u64().expect("a number"),
                    line["errorCode"].as_str().expect("a code").to_owned(),
                )
            })
            .collect();
        let expected = [
            (2, "DeviceAlreadyExists"),
            (4, "PreconditionFailed"),
            (6, "DeviceNotFound"),
            (7, "ArgumentInvalid"),
            (8, "ArgumentInvalid"),
            (12, "IotHubFormatError"),
            (13, "IotHubFormatError"),
        ];
        assert_eq!(refused, expected.map(|(line, code)| (line, code.to_owned())));
        let now = service.device("old").json();
        assert_eq!(now["authentication"]["symmetricKey"], keys);
        assert_eq!(now["generationId"], json!(old.generation), "changed, not made again");
        assert_eq!(service.device("new").json()["statusReason"], "later");
        assert_eq!(service.device("gone").status, 404);
        assert_eq!((service.device("default").status, service.device("last").status), (200, 200));

        // What an export writes is what an import takes.
        let export =
            json!({ "type": "export", "outputBlobContainerUri": "file:all", "excludeKeysInExport": false });
        let job = ended(&service, &create(&service, &export)["jobId"]);
        assert_eq!((&job["status"], &job["deviceCount"]), (&json!("completed"), &json!(4)), "{job}");
        let lines = read_lines(&container(&hub, "all/devices.txt"));
        let ids: Vec<&str> = lines.iter().map(|line| line["id"].as_str().expect("an id")).collect();
        assert_eq!(ids, ["default", "last", "new", "old"]);
        assert_eq!(lines[3]["authentication"]["symmetricKey"], keys);
        service.delete_device("old");
        let output = hub.command_output(&["job", "import", "all", "--wait"]);
        assert!(output.ends_with("completed: 1 devices, 3 refused"), "{output}");
        assert_eq!(service.device("old").json()["authentication"]["symmetricKey"], keys);
        let without = json!({ "type": "export", "outputBlobContainerUri": "all", "excludeKeysInExport": true, "outputBlobName": "b" });
        ended(&service, &create(&service, &without)["jobId"]);
        assert!(
            read_lines(&container(&hub, "all/b")).iter().all(|line| line.get("authentication").is_none())
        );
        let listed = service.request("GET", "/jobs", &[], None).json();
        assert_eq!(listed.as_array().map(Vec::len), Some(4), "{listed}");
        assert!(hub.command_output(&["job", "list"]).contains("completed"));
    });
}

#[test]
fn jobs_stay_in_their_directory_and_with_those_who_may() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let service = hub.service();
        for uri in [
            "..",
            "../partitions",
            "a/../../..",
            "/etc",
            "file:///etc",
            "https://a.blob.core.windows.net/c?sig=x",
            "a%2f..",
            "",
        ] {
            let response = service.request("POST", "/jobs/create", &[], Some(&import_of(uri)));
            assert_eq!(response.status, 400, "{uri}: {}", response.text());
        }
        let mut body = import_of("a");
        body["inputBlobName"] = json!("../records/x.json");
        assert_eq!(service.request("POST", "/jobs/create", &[], Some(&body)).status, 400);
        std::fs::create_dir_all(container(&hub, "a")).expect("a directory");
        std::os::unix::fs::symlink(
            hub.data().join("keys/data.key"),
            container(&hub, "a").join("devices.txt"),
        )
        .expect("a link");
        let job = ended(&service, &create(&service, &import_of("a"))["jobId"]);
        assert_eq!(job["status"], "failed", "{job}");
        assert!(job["failureReason"].as_str().is_some_and(|text| text.contains("input")), "{job}");

        let policy = tests::sas::ConnectionString::parse(&hub.policy_connection_string("registryRead"));
        let reader = Service::new(hub.host(), hub.tls(), &policy);
        for (method, path) in
            [("POST", "/jobs/create"), ("GET", "/jobs"), ("GET", "/jobs/x"), ("DELETE", "/jobs/x")]
        {
            let body = (method == "POST").then(|| import_of("a"));
            assert_eq!(reader.request(method, path, &[], body.as_ref()).status, 401, "{method} {path}");
        }
        assert_eq!(service.request("GET", "/jobs/x", &[], None).status, 404);
        assert_eq!(service.request("GET", "/jobs/..%2f..%2fhub", &[], None).status, 404);
        assert_eq!(service.request("PUT", "/jobs/x", &[], None).status, 405);
        let id = job["jobId"].as_str().expect("an id");
        assert_eq!(service.request("DELETE", &format!("/jobs/{id}"), &[], None).status, 400, "it has ended");
    });
}

/// Twenty thousand lines, and SIGKILL in between: each device is there once, each line that is refused is told of once.
#[test]
fn an_import_and_an_export_outlive_the_process() {
    const COUNT: usize = 90_000;
    run(Needs::LowPorts, || {
        let mut hub = Hub::start(&["--cores", "2"]);
        let service = hub.service();
        service.create_device("d00500");
        let mut lines: Vec<Value> = (0..COUNT)
            .map(|number| json!({ "id": format!("d{number:05}"), "importMode": "create", "status": "disabled" }))
            .collect();
        lines.insert(9_000, json!({ "id": "a b", "importMode": "create" }));
        lines.push(json!({ "id": "d00001", "importMode": "delete" }));
        write_lines(&container(&hub, "many/devices.txt"), &lines);
        let id = create(&service, &import_of("many"))["jobId"].clone();
        let second = service.request("POST", "/jobs/create", &[], Some(&import_of("many")));
        assert_eq!((second.status, second.headers["iothub-errorcode"].as_str()), (403, "JobQuotaExceeded"));
        let path = format!("/jobs/{}", id.as_str().expect("an id"));
        let mut kills_under_way = 0;
        let mut seen = Value::from(0);
        // Each kill comes as soon as the job is seen further than at the last one.
        while kills_under_way < 12 {
            let progress = service.request("GET", &path, &[], None).json();
            if progress["endTimeUtc"] != Value::Null {
                break;
            }
            if progress["deviceCount"] != seen {
                seen = progress["deviceCount"].clone();
                hub.kill();
                hub.run();
                kills_under_way += 1;
            }
        }
        let job = ended(&service, &id);
        assert!(kills_under_way >= 2, "only {kills_under_way} kills met the job under way");
        assert_eq!(job["status"], "completed", "{job}");
        assert_eq!((&job["deviceCount"], &job["refusedCount"]), (&json!(COUNT), &json!(2)), "{job}");
        let refused: Vec<Value> = read_lines(&container(&hub, "many/importErrors.log"));
        let refused: Vec<&Value> = refused.iter().map(|line| &line["id"]).collect();
        assert_eq!(refused, [&json!("d00500"), &json!("a b")]);
        let statistics = service.request("GET", "/statistics/devices", &[], None).json();
        assert_eq!(statistics["totalDeviceCount"], json!(COUNT - 1));

        let export = json!({ "type": "export", "outputBlobContainerUri": "out" });
        let id = create(&service, &export)["jobId"].clone();
        for kill in 0..4 {
            std::thread::sleep(Duration::from_millis(15 * kill));
            hub.kill();
            hub.run();
        }
        assert_eq!(ended(&service, &id)["status"], "completed");
        let mut found: BTreeMap<String, Value> = BTreeMap::new();
        let lines = read_lines(&container(&hub, "out/devices.txt"));
        assert!(lines.is_sorted_by_key(|line| line["id"].as_str().map(str::to_owned)), "in the order of ids");
        for line in lines {
            let id = line["id"].as_str().expect("an id").to_owned();
            assert!(found.insert(id.clone(), line).is_none(), "{id} twice");
        }
        assert_eq!(found.len(), COUNT - 1);
        assert_eq!(found["d00007"]["status"], "disabled");
        assert!(!container(&hub, "out/devices.txt.part").exists());
    });
}

#[test]
fn a_cancelled_job_ends_and_leaves_no_part() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let service = hub.service();
        let lines: Vec<Value> = (0..60_000).map(|number| json!({ "id": format!("d{number}") })).collect();
        write_lines(&container(&hub, "many/devices.txt"), &lines);
        let id = create(&service, &import_of("many"))["jobId"].clone();
        let path = format!("/jobs/{}", id.as_str().expect("an id"));
        assert_eq!(service.request("DELETE", &path, &[], None).status, 204);
        let job = service.request("GET", &path, &[], None).json();
        assert_eq!(job["status"], "cancelled", "{job}");
        assert_ne!(job["endTimeUtc"], Value::Null);
        let count =
            || service.request("GET", "/statistics/devices", &[], None).json()["totalDeviceCount"].clone();
        let before = count();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(count(), before, "nothing goes on");
        assert!(before.as_u64().is_some_and(|count| count < 60_000), "cancelled before its end");
        create(&service, &json!({ "type": "export", "outputBlobContainerUri": "out" }));
    });
}

#[test]
fn node_imports_and_exports() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let Some(mut registry) = Script::start("registry.js", &hub) else { return };
        registry
            .ask("open", json!({ "connectionString": hub.policy_connection_string("registryReadWrite") }));
        write_lines(&container(&hub, "in/devices.txt"), &[json!({ "id": "n1" }), json!({ "id": "n 2" })]);
        let job = registry.ask("importJob", json!({ "input": "in", "output": "log" }));
        let job = ended(&hub.service(), &job["jobId"]);
        assert_eq!((&job["status"], &job["deviceCount"]), (&json!("completed"), &json!(1)), "{job}");
        assert_eq!(read_lines(&container(&hub, "log/importErrors.log")).len(), 1);
        let job = registry.ask("exportJob", json!({ "output": "out", "excludeKeys": true }));
        ended(&hub.service(), &job["jobId"]);
        assert_eq!(read_lines(&container(&hub, "out/devices.txt"))[0]["id"], "n1");
        // Who the cloud's storage would believe the hub to be is nobody's concern here.
        let identity = json!("/subscriptions/s/resourceGroups/g");
        write_lines(&container(&hub, "more/devices.txt"), &[json!({ "id": "n3" })]);
        let wish = json!({ "input": "more", "output": "more", "identity": identity });
        let job = registry.ask("importJobByIdentity", wish);
        assert_eq!(ended(&hub.service(), &job["jobId"])["deviceCount"], 1);
        let wish = json!({ "output": "out", "excludeKeys": false, "identity": identity });
        let job = registry.ask("exportJobByIdentity", wish);
        ended(&hub.service(), &job["jobId"]);
        assert_eq!(read_lines(&container(&hub, "out/devices.txt"))[1]["id"], "n3");
        let job = registry.ask("getJob", json!({ "jobId": job["jobId"] }));
        assert_eq!((&job["type"], &job["status"]), (&json!("export"), &json!("completed")));
        assert_eq!(registry.ask("listJobs", json!({})).as_array().map(Vec::len), Some(4));
        let refused = registry.try_ask("cancelJob", json!({ "jobId": job["jobId"] }));
        assert_eq!(refused.expect_err("it has ended")["name"], "ArgumentError");
    });
}

#[test]
fn python_imports_and_exports() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let Some(mut registry) = Script::start("registry.py", &hub) else { return };
        let connection_string = hub.policy_connection_string("registryReadWrite");
        registry.ask("open", json!({ "connectionString": connection_string, "caFile": hub.ca_file() }));
        write_lines(&container(&hub, "in/devices.txt"), &[json!({ "id": "p1" })]);
        let job = registry.ask("importJob", json!({ "input": "in", "output": "log" }));
        let job = ended(&hub.service(), &job["jobId"]);
        assert_eq!((&job["status"], &job["deviceCount"]), (&json!("completed"), &json!(1)), "{job}");
        let job = registry.ask("exportJob", json!({ "output": "out", "excludeKeys": true }));
        ended(&hub.service(), &job["jobId"]);
        assert_eq!(read_lines(&container(&hub, "out/devices.txt"))[0]["id"], "p1");
        let job = registry.ask("getJob", json!({ "jobId": job["jobId"] }));
        assert_eq!((&job["type"], &job["status"]), (&json!("export"), &json!("completed")));
        assert_eq!(registry.ask("listJobs", json!({})).as_array().map(Vec::len), Some(2));
        let refused = registry.try_ask("cancelJob", json!({ "jobId": job["jobId"] }));
        assert_eq!(refused.expect_err("it has ended")["status"], 400);
    });
}
