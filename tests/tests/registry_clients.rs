//! The registry as azure-iothub (Node) and azure-iot-hub (Python) use it, unchanged: every operation that the hub has.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tests::clients::Script;
use tests::hub::Hub;
use tests::namespace::{Needs, run};
use tests::process::wait_until;

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|item| item["deviceId"].as_str().expect("an id")).collect()
}

#[test]
fn node_manages_many_devices() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let Some(mut registry) = Script::start("registry.js", &hub) else { return };
        registry.ask("open", json!({ "connectionString": hub.policy_connection_string("iothubowner") }));
        let devices: Vec<Value> =
            (0..100).map(|number| json!({ "deviceId": format!("d{number:02}") })).collect();
        let added = registry.ask("addDevices", json!({ "devices": devices }));
        assert_eq!((&added["isSuccessful"], &added["errors"]), (&json!(true), &json!([])));
        // A 400 is told as an error, its body lies in the response; the hub says which devices are meant.
        assert!(registry.try_ask("addDevices", json!({ "devices": devices })).is_err());

        let etag = registry.ask("read", json!({ "deviceId": "d01" }))["etag"].clone();
        let changes =
            json!([{ "deviceId": "d01", "status": "disabled", "statusReason": "a test", "etag": etag }]);
        let changed = registry.ask("updateDevices", json!({ "devices": changes, "force": false }));
        assert_eq!(changed["isSuccessful"], true, "{changed}");
        let read = registry.ask("read", json!({ "deviceId": "d01" }));
        assert_eq!((&read["status"], &read["statusReason"]), (&json!("disabled"), &json!("a test")));
        assert!(registry.try_ask("updateDevices", json!({ "devices": changes, "force": false })).is_err());
        registry.ask(
            "updateDevices",
            json!({ "devices": [{ "deviceId": "d02", "status": "disabled" }], "force": true }),
        );

        let found = registry.ask("query", json!({ "text": "SELECT * FROM devices", "pageSize": 30 }));
        assert_eq!((&found["pages"], ids(&found["items"]).len()), (&json!([30, 30, 30, 10]), 100));
        let text = "SELECT * FROM devices WHERE status = 'disabled' AND deviceId != 'd02'";
        let found = registry.ask("query", json!({ "text": text, "pageSize": 10 }));
        assert_eq!(ids(&found["items"]), ["d01"]);
        let refused =
            registry.try_ask("query", json!({ "text": "SELECT tags.a FROM devices", "pageSize": 10 }));
        assert_eq!(refused.expect_err("not supported")["name"], "ArgumentError");

        let statistics = registry.ask("statistics", json!({}));
        let expected = json!({ "totalDeviceCount": 100, "enabledDeviceCount": 98, "disabledDeviceCount": 2 });
        assert_eq!(statistics, expected);
        let removed = registry.ask("removeDevices", json!({ "devices": devices, "force": true }));
        assert_eq!(removed["isSuccessful"], true, "{removed}");
        assert_eq!(registry.ask("list", json!({})), json!([]));
    });
}

#[test]
fn python_manages_devices() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let Some(mut registry) = Script::start("registry.py", &hub) else { return };
        let connection_string = hub.policy_connection_string("iothubowner");
        registry.ask("open", json!({ "connectionString": connection_string, "caFile": hub.ca_file() }));
        let created = registry.ask("create", json!({ "deviceId": "a#b%", "status": "enabled" }));
        let keys = &created["authentication"]["symmetricKey"];
        assert!(keys["primaryKey"].as_str().is_some_and(|key| key.len() == 44), "{created}");
        let exists = registry.try_ask("create", json!({ "deviceId": "a#b%", "status": "enabled" }));
        assert_eq!(exists.expect_err("it exists")["status"], 409);
        assert_eq!(registry.ask("read", json!({ "deviceId": "a#b%" })), created);

        let update = |etag: &Value| {
            json!({
                "deviceId": "a#b%", "etag": etag, "status": "disabled",
                "primaryKey": keys["primaryKey"], "secondaryKey": keys["secondaryKey"],
            })
        };
        let updated = registry.ask("update", update(&created["etag"]));
        assert_eq!(
            (&updated["status"], &updated["generationId"]),
            (&json!("disabled"), &created["generationId"])
        );
        let late = registry.try_ask("update", update(&created["etag"]));
        assert_eq!(late.expect_err("somebody was faster")["status"], 412);

        let entry = |number: u32| json!({ "id": format!("d{number}"), "importMode": "create" });
        let bulk: Vec<Value> = (0..20).map(entry).collect();
        assert_eq!(registry.ask("bulk", json!({ "devices": bulk }))["isSuccessful"], true);
        let again = registry.ask("bulk", json!({ "devices": [bulk[0].clone(), entry(20)] }));
        assert_eq!(
            (&again["isSuccessful"], again["errors"].as_array().map(Vec::len)),
            (&json!(false), Some(1))
        );
        assert_eq!(
            (&again["errors"][0]["deviceId"], &again["errors"][0]["errorCode"]),
            (&json!("d0"), &json!("DeviceAlreadyExists"))
        );
        assert_eq!(ids(&registry.ask("list", json!({ "count": 5 }))).len(), 5);
        assert_eq!(ids(&registry.ask("list", json!({}))).len(), 22);
        let found = registry
            .ask("query", json!({ "text": "SELECT * FROM devices WHERE status='enabled'", "pageSize": 8 }));
        assert_eq!((&found["pages"], &found["type"]), (&json!([8, 8, 5]), &json!("twin")));
        let statistics = registry.ask("registryStatistics", json!({}));
        assert_eq!(statistics["totalDeviceCount"], 22);
        assert_eq!(registry.ask("serviceStatistics", json!({}))["connectedDeviceCount"], 0);
        assert_eq!(registry.ask("purge", json!({ "deviceId": "d1" }))["totalMessagesPurged"], 0);
        registry.ask("remove", json!({ "deviceId": "a#b%", "etag": updated["etag"] }));
        let gone = registry.try_ask("read", json!({ "deviceId": "a#b%" }));
        assert_eq!(gone.expect_err("it is gone")["status"], 404);
    });
}

/// How Node's package tells 404 without a code that it knows, and 405.
const NOT_FOUND: &str = "Not found";
const WRONG_METHOD: &str = "the resource does not know this method";

/// Names of what a package offers.
fn names(list: &Value) -> BTreeSet<String> {
    list.as_array().expect("names").iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

/// What the package offers beside what the other tests call fails at once and in words, for the hub does not have it. What a
/// newer package offers is in neither list, and fails this test.
#[test]
fn node_is_told_what_the_hub_does_not_have() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        hub.service().create_device("d");
        let Some(mut registry) = Script::start("registry.js", &hub) else { return };
        registry.ask("open", json!({ "connectionString": hub.policy_connection_string("iothubowner") }));
        assert_eq!(registry.ask("configurations", json!({})), json!([]));
        let module = json!({ "deviceId": "d", "moduleId": "m" });
        let configuration = json!({ "id": "c", "schemaVersion": "1.0", "content": {}, "etag": "x" });
        let patch = json!({ "tags": { "a": 1 } });
        let missing = [
            ("getTwin", json!(["d"]), NOT_FOUND),
            ("getModuleTwin", json!(["d", "m"]), NOT_FOUND),
            ("updateTwin", json!(["d", patch, "*"]), NOT_FOUND),
            ("updateModuleTwin", json!(["d", "m", patch, "*"]), NOT_FOUND),
            ("addConfiguration", json!([configuration]), WRONG_METHOD),
            ("getConfiguration", json!(["c"]), NOT_FOUND),
            ("updateConfiguration", json!([configuration, true]), WRONG_METHOD),
            ("removeConfiguration", json!(["c"]), WRONG_METHOD),
            ("applyConfigurationContentOnDevice", json!(["d", {}]), NOT_FOUND),
            ("addModule", json!([module]), NOT_FOUND),
            ("getModulesOnDevice", json!(["d"]), NOT_FOUND),
            ("getModule", json!(["d", "m"]), NOT_FOUND),
            ("updateModule", json!([module, true]), NOT_FOUND),
            ("removeModule", json!(["d", "m"]), NOT_FOUND),
        ];
        let called = [
            "create",
            "update",
            "get",
            "list",
            "delete",
            "addDevices",
            "updateDevices",
            "removeDevices",
            "importDevicesFromBlob",
            "importDevicesFromBlobByIdentity",
            "exportDevicesToBlob",
            "exportDevicesToBlobByIdentity",
            "listJobs",
            "getJob",
            "cancelJob",
            "createQuery",
            "getRegistryStatistics",
            "getConfigurations",
        ];
        for (method, arguments, message) in &missing {
            let refused = registry.try_ask("call", json!({ "method": method, "args": arguments }));
            assert_eq!(refused.expect_err(method)["message"], **message, "{method}");
        }
        let known = missing.iter().map(|(method, ..)| *method).chain(called);
        assert_eq!(names(&registry.ask("offered", json!({}))), known.map(str::to_owned).collect());
        let identity = registry.ask("read", json!({ "deviceId": "d" }));
        assert_eq!(identity["status"], "enabled", "and nothing of it is done");
    });
}

#[test]
fn python_is_told_what_the_hub_does_not_have() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "1"]);
        let Some(mut registry) = Script::start("registry.py", &hub) else { return };
        let connection_string = hub.policy_connection_string("iothubowner");
        registry.ask("open", json!({ "connectionString": connection_string, "caFile": hub.ca_file() }));
        let made = registry.ask("create", json!({ "deviceId": "d", "status": "enabled" }));
        assert_eq!(registry.ask("configurations", json!({})), json!([]));
        let (sha1, etag) = ("ab".repeat(20), made["etag"].clone());
        let model = |name: &str, fields: Value| json!({ "model": name, "fields": fields });
        let twin = model("Twin", json!({ "tags": { "a": 1 } }));
        let method = model("CloudToDeviceMethod", json!({ "method_name": "m", "payload": 1 }));
        let configuration = model("Configuration", json!({ "id": "c", "schema_version": "1.0" }));
        let queries = model("ConfigurationQueriesTestInput", json!({ "target_condition": "*" }));
        let job = model("JobRequest", json!({ "job_id": "j", "type": "scheduleUpdateTwin" }));
        let missing = [
            ("registry", "create_device_with_x509", json!(["x", sha1, sha1, "enabled"]), 400),
            ("registry", "create_device_with_certificate_authority", json!(["x", "enabled"]), 400),
            ("registry", "update_device_with_x509", json!(["d", etag, sha1, sha1, "enabled"]), 400),
            ("registry", "update_device_with_certificate_authority", json!(["d", etag, "enabled"]), 400),
            ("registry", "create_module_with_sas", json!(["d", "m", "", "", ""]), 404),
            ("registry", "create_module_with_x509", json!(["d", "m", "", sha1, sha1]), 404),
            ("registry", "create_module_with_certificate_authority", json!(["d", "m", ""]), 404),
            ("registry", "update_module_with_sas", json!(["d", "m", "", etag, "", ""]), 404),
            ("registry", "update_module_with_x509", json!(["d", "m", "", etag, sha1, sha1]), 404),
            ("registry", "update_module_with_certificate_authority", json!(["d", "m", "", etag]), 404),
            ("registry", "get_module", json!(["d", "m"]), 404),
            ("registry", "get_modules", json!(["d"]), 404),
            ("registry", "delete_module", json!(["d", "m"]), 404),
            ("registry", "get_twin", json!(["d"]), 404),
            ("registry", "replace_twin", json!(["d", twin]), 404),
            ("registry", "update_twin", json!(["d", twin]), 404),
            ("registry", "get_module_twin", json!(["d", "m"]), 404),
            ("registry", "replace_module_twin", json!(["d", "m", twin]), 404),
            ("registry", "update_module_twin", json!(["d", "m", twin]), 404),
            ("registry", "invoke_device_method", json!(["d", method]), 404),
            ("registry", "invoke_device_module_method", json!(["d", "m", method]), 404),
            ("configurations", "get_configuration", json!(["c"]), 404),
            ("configurations", "create_configuration", json!([configuration]), 405),
            ("configurations", "update_configuration", json!([configuration, "e"]), 405),
            ("configurations", "delete_configuration", json!(["c"]), 405),
            ("configurations", "test_configuration_queries", json!([queries]), 405),
            ("configurations", "apply_configuration_on_edge_device", json!(["d", {}]), 404),
            ("jobs", "create_scheduled_job", json!(["j", job]), 404),
            ("jobs", "get_scheduled_job", json!(["j"]), 404),
            ("jobs", "cancel_scheduled_job", json!(["j"]), 404),
            ("jobs", "query_scheduled_jobs", json!(["scheduleUpdateTwin", "running"]), 404),
        ];
        let called = [
            ("registry", "create_device_with_sas"),
            ("registry", "update_device_with_sas"),
            ("registry", "get_device"),
            ("registry", "delete_device"),
            ("registry", "get_devices"),
            ("registry", "get_service_statistics"),
            ("registry", "get_device_registry_statistics"),
            ("registry", "bulk_create_or_update_devices"),
            ("registry", "query_iot_hub"),
            // By the test `commands_python`.
            ("registry", "send_c2d_message"),
            ("configurations", "get_configurations"),
            ("jobs", "create_import_export_job"),
            ("jobs", "get_import_export_jobs"),
            ("jobs", "get_import_export_job"),
            ("jobs", "cancel_import_export_job"),
            ("runtime", "receive_feedback_notification"),
            ("runtime", "complete_feedback_notification"),
            ("runtime", "abandon_feedback_notification"),
        ];
        for (of, method, arguments, status) in &missing {
            let asked = json!({ "of": of, "method": method, "args": arguments });
            let error = registry.try_ask("call", asked).expect_err(method);
            assert_eq!(error["status"], json!(status), "{method}: {error}");
        }
        for of in ["registry", "jobs", "configurations", "runtime"] {
            let known = missing.iter().map(|(of, method, ..)| (*of, *method)).chain(called);
            let known = known.filter(|(owner, _)| *owner == of).map(|(_, method)| method.to_owned());
            assert_eq!(names(&registry.ask("offered", json!({ "of": of }))), known.collect(), "{of}");
        }
        assert_eq!(registry.ask("read", json!({ "deviceId": "d" })), made, "and nothing of it is done");
    });
}

/// A back end that cannot hold a connection hears of its commands, too.
#[test]
fn python_polls_for_receipts() {
    run(Needs::LowPorts, || {
        let hub = Hub::start(&["--cores", "2"]);
        let Some(mut registry) = Script::start("registry.py", &hub) else { return };
        let connection_string = hub.policy_connection_string("service");
        registry.ask("open", json!({ "connectionString": connection_string, "caFile": hub.ca_file() }));
        hub.service().create_device("d");
        hub.command_output(&["send", "d", "open", "--ack", "full", "--message-id", "m-1"]);
        assert_eq!(registry.ask("receiveFeedback", json!({})), Value::Null);
        assert_eq!(registry.ask("purge", json!({ "deviceId": "d" }))["totalMessagesPurged"], 1);
        let receive = |registry: &mut Script| {
            let batch = wait_until(Duration::from_secs(30), || {
                std::thread::sleep(Duration::from_millis(300));
                Some(registry.ask("receiveFeedback", json!({}))).filter(|batch| !batch.is_null())
            });
            batch.expect("a batch is made 15 s after its first receipt")
        };
        let first = receive(&mut registry);
        let receipt = &first["receipts"][0];
        assert_eq!(
            (&receipt["originalMessageId"], &receipt["statusCode"], &receipt["deviceId"]),
            (&json!("m-1"), &json!("Purged"), &json!("d"))
        );
        assert_eq!(registry.ask("receiveFeedback", json!({})), Value::Null, "it is locked");
        registry.ask("abandonFeedback", json!({ "lock": first["lock"] }));
        let again = receive(&mut registry);
        assert_eq!(again["receipts"], first["receipts"]);
        let lost = registry.try_ask("completeFeedback", json!({ "lock": first["lock"] }));
        assert_eq!(lost.expect_err("an older lock")["status"], 412);
        registry.ask("completeFeedback", json!({ "lock": again["lock"] }));
        assert_eq!(registry.ask("receiveFeedback", json!({})), Value::Null);
    });
}
