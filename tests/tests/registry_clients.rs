//! The registry as azure-iothub (Node) and azure-iot-hub (Python) use it, unchanged: every operation that the hub has.
#![forbid(unsafe_code)]

use serde_json::{Value, json};
use tests::clients::Script;
use tests::hub::Hub;
use tests::namespace::{Needs, run};

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
