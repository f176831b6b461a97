//! Devices that fetch their identity by themselves, and the back end that lets them: the provisioning packages unchanged,
//! requests by hand, kills.
#![forbid(unsafe_code)]

use std::process::Command;
use std::time::Duration;

use engine::request::{Caller, ConnectionId, CoreId, EnrolmentRequest, IfMatch, PartitionId, Reply, Request};
use engine::shard::{PartitionStorage, Shard, ShardConfig};
use net::data_dir::{DataDir, DataKeySource};
use registry::{EnrolmentId, EnrolmentKind, EnrolmentName};
use segment_log::Now;
use segment_log::storage::disk::{DiskConfig, DiskStorage};
use serde_json::{Value, json};
use tests::clients::Script;
use tests::https::Response;
use tests::hub::{Hub, PARTITION_COUNT};
use tests::namespace::{Needs, run};
use tests::process::wait_until;
use tests::sas;

/// Of the group that most tests use.
const GROUP_KEY: &str =
    "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";

struct World {
    hub: Hub,
    scope: String,
}

impl World {
    fn start() -> Self {
        let hub = Hub::start(&["--cores", "2"]);
        let scope = hub.command_output(&["enrolment", "scope"]);
        assert!(scope.starts_with("0ne") && scope.len() == 11, "{scope}");
        assert!(hub.printed().contains(&scope), "the ready text shows the id scope");
        Self { hub, scope }
    }

    fn with_group(self, name: &str) -> Self {
        self.hub.command_output(&["enrolment", "create", name, "--group", "--primary-key", GROUP_KEY]);
        self
    }

    fn derived(&self, group: &str, registration: &str) -> String {
        self.hub.command_output(&["enrolment", "key", group, registration])
    }

    fn token(&self, registration: &str, key: &str, expires_s: u64) -> String {
        let resource = format!("{}/registrations/{registration}", self.scope);
        sas::token(&resource, key, expires_s, Some("registration"))
    }

    fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> Response {
        self.try_ask(method, path, token, body).expect("the hub answers")
    }

    fn try_ask(&self, method: &str, path: &str, token: &str, body: &str) -> std::io::Result<Response> {
        let kind = match path.contains("/messages/events") {
            true => "application/vnd.microsoft.iothub.json",
            false => "application/json; charset=utf-8",
        };
        let headers = [("Authorization", token), ("Content-Type", kind)];
        let host = self.hub.host();
        tests::https::request((&host, 443), self.hub.tls(), (method, path), &headers, body.as_bytes())
    }

    /// Ask to register, once.
    fn register(&self, registration: &str, key: &str) -> Response {
        self.register_with(registration, &self.token(registration, key, sas::now_s() + 60), "")
    }

    fn register_with(&self, registration: &str, token: &str, more: &str) -> Response {
        let path =
            format!("/{}/registrations/{registration}/register?api-version=2019-03-31{more}", self.scope);
        self.ask("PUT", &path, token, &json!({ "registrationId": registration }).to_string())
    }

    /// Register as a device does, to the end.
    fn registered(&self, registration: &str, key: &str) -> Value {
        let answer = self.register(registration, key);
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(answer.json()["status"], "assigning");
        self.polled(registration, key, answer.json()["operationId"].as_str().expect("an operation"))
    }

    fn polled(&self, registration: &str, key: &str, operation: &str) -> Value {
        let path = format!(
            "/{}/registrations/{registration}/operations/{operation}?api-version=2019-03-31",
            self.scope
        );
        let answer = self.ask("GET", &path, &self.token(registration, key, sas::now_s() + 60), "{}");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told = answer.json();
        assert_eq!((&told["status"], &told["operationId"]), (&json!("assigned"), &json!(operation)));
        told["registrationState"].clone()
    }

    fn refused(&self, answer: &Response, status: u16) {
        assert_eq!(answer.status, status, "{}", answer.text());
        let told = answer.json();
        assert_eq!(told["errorCode"].as_u64().map(|code| code / 1000), Some(u64::from(status)), "{told}");
        for field in ["trackingId", "message", "timestampUtc"] {
            assert!(told[field].is_string(), "{told}");
        }
    }

    fn stage(&self, device: &str) -> String {
        let shown: Value =
            serde_json::from_str(&self.hub.command_output(&["device", "show", device])).expect("JSON");
        shown["lifecycle"]["stage"].as_str().expect("a stage").to_owned()
    }

    /// One event over HTTPS with these keys: its status.
    fn send(&self, device: &str, key: &str) -> u16 {
        let token =
            sas::token(&format!("{}/devices/{device}", self.hub.host()), key, sas::now_s() + 60, None);
        let path = format!("/devices/{}/messages/events?api-version=2021-04-12", sas::escape(device));
        self.ask("POST", &path, &token, "[{\"body\": \"Nw==\"}]").status
    }
}

/// From the factory to the first event with nothing but the packages; then through every stage.
#[test]
fn node_registers_and_sends_and_goes_through_all_stages() {
    run(Needs::LowPorts, || {
        let mut world = World::start().with_group("line-1");
        let (id, key) = ("sn-007", world.derived("line-1", "sn-007"));
        let Some(mut node) = Script::start("provisioning.js", &world.hub) else { return };
        let wish = json!({ "host": world.hub.host(), "scope": world.scope, "registration": id, "key": key });
        let state = node.ask("register", wish.clone());
        assert_eq!((&state["status"], &state["deviceId"]), (&json!("assigned"), &json!(id)));
        assert_eq!(state["assignedHub"], json!(world.hub.host()));
        assert_eq!(world.stage(id), "bootstrapped");

        let mut device = Script::start("device.js", &world.hub).expect("node is there");
        let host = state["assignedHub"].as_str().expect("a host");
        let connection_string = format!("HostName={host};DeviceId={id};SharedAccessKey={key}");
        let ca = std::fs::read_to_string(world.hub.ca_file()).expect("the hub wrote its CA");
        device.ask("open", json!({ "device": id, "connectionString": connection_string, "ca": ca }));
        let sent = json!({ "device": id, "messages": [{ "body": "Nw==" }] });
        assert_eq!(device.ask("send", sent), json!(["MessageEnqueued"]));
        assert_eq!(world.stage(id), "activated");
        world.hub.kill();
        world.hub.run();
        assert_eq!(world.stage(id), "activated", "stages are kept");

        world.hub.command_output(&["device", "disable", id, "--reason", "stolen"]);
        assert_eq!(world.stage(id), "deactivated");
        // Registering again does not let a disabled device in.
        assert_eq!(node.ask("register", wish.clone())["status"], "assigned");
        assert_eq!((world.stage(id).as_str(), world.send(id, &key)), ("deactivated", 401));
        world.hub.command_output(&["device", "delete", id]);
        let service = world.hub.service();
        assert_eq!(service.device(id).status, 404, "de-provisioned");
        // As long as its enrolment lets it, it comes back as a new one.
        assert_eq!(node.ask("register", wish.clone())["status"], "assigned");
        assert_eq!((world.stage(id).as_str(), world.send(id, &key)), ("bootstrapped", 204));
        world.hub.command_output(&["enrolment", "delete", "line-1", "--group"]);
        let refused = node.try_ask("register", wish).expect_err("its group is gone");
        assert_eq!(refused["name"], "UnauthorizedError", "{refused}");
        assert_eq!(world.send(id, &key), 204, "the device that it let in stays");
    });
}

#[test]
fn node_manages_enrolments() {
    run(Needs::LowPorts, || {
        let world = World::start();
        let Some(mut node) = Script::start("provisioning.js", &world.hub) else { return };
        node.ask(
            "open",
            json!({ "connectionString": world.hub.policy_connection_string("registryReadWrite") }),
        );
        let attestation = json!({ "type": "symmetricKey" });
        let made = node.ask(
            "putSingle",
            json!({ "enrolment": {
                "registrationId": "Pump-7", "deviceId": "PUMP#7", "attestation": attestation,
                "reprovisionPolicy": { "updateHubAssignment": true, "migrateDeviceData": false },
            } }),
        );
        assert_eq!((&made["registrationId"], &made["deviceId"]), (&json!("pump-7"), &json!("PUMP#7")));
        assert_eq!(made["reprovisionPolicy"]["migrateDeviceData"], false);
        assert!(made["attestation"].get("symmetricKey").is_none(), "keys are told on request alone");
        let keys = node.ask("singleKeys", json!({ "name": "pump-7" }));
        let key = keys["symmetricKey"]["primaryKey"].as_str().expect("a key").to_owned();
        let again = json!({ "enrolment": { "registrationId": "pump-7", "attestation": attestation } });
        assert_eq!(node.try_ask("putSingle", again).expect_err("exists")["name"], "DeviceAlreadyExistsError");
        let mut stale = made.clone();
        stale["etag"] = json!("AAAAAAAAAAA=");
        let refused = node.try_ask("putSingle", json!({ "enrolment": stale })).expect_err("stale");
        assert_eq!(refused["name"], "InvalidEtagError");

        let state = world.registered("pump-7", &key);
        assert_eq!(state["deviceId"], "PUMP#7");
        assert_eq!(world.send("PUMP#7", &key), 204);
        assert_eq!(node.ask("registration", json!({ "name": "pump-7" }))["status"], "assigned");
        let mut read = node.ask("single", json!({ "name": "pump-7" }));
        assert_eq!(read["registrationState"]["deviceId"], "PUMP#7");
        // What was read can be sent back; keys that are left out stay.
        read["provisioningStatus"] = json!("disabled");
        assert_eq!(node.ask("putSingle", json!({ "enrolment": read }))["provisioningStatus"], "disabled");
        assert_eq!(node.ask("singleKeys", json!({ "name": "pump-7" })), keys);
        world.refused(&world.register("pump-7", &key), 401);

        for number in 0..5 {
            let group = json!({ "enrollmentGroupId": format!("g{number}"), "attestation": attestation });
            node.ask("putGroup", json!({ "enrolment": group }));
        }
        let pages = node.ask("groups", json!({ "pageSize": 2 }));
        let sizes: Vec<usize> =
            pages.as_array().expect("pages").iter().map(|page| page.as_array().map_or(0, Vec::len)).collect();
        assert_eq!(sizes, [2, 2, 1]);
        for registration in ["a", "b", "c"] {
            world.registered(registration, &world.derived("g3", registration));
        }
        world.registered("d", &world.derived("g4", "d"));
        let found = node.ask("registrations", json!({ "name": "g3", "pageSize": 2 }));
        let found: Vec<&str> = found
            .as_array()
            .expect("pages")
            .iter()
            .flat_map(|page| page.as_array().expect("a page"))
            .filter_map(|item| item["registrationId"].as_str())
            .collect();
        assert_eq!(found, ["a", "b", "c"]);
        node.ask("deleteGroup", json!({ "name": "g3" }));
        assert!(node.try_ask("registration", json!({ "name": "a" })).is_err(), "gone with its group");
        assert_eq!(node.ask("registration", json!({ "name": "d" }))["status"], "assigned");
        node.ask("deleteRegistration", json!({ "name": "d" }));

        let many: Vec<Value> = ["m1", "m2"]
            .iter()
            .map(|id| json!({ "registrationId": id, "attestation": attestation }))
            .collect();
        let bulk = |mode: &str| json!({ "operation": { "mode": mode, "enrollments": many } });
        assert_eq!(node.ask("bulk", bulk("create"))["isSuccessful"], true);
        let refused = node.ask("bulk", bulk("create"));
        assert_eq!(
            (&refused["isSuccessful"], &refused["errors"][0]["registrationId"]),
            (&json!(false), &json!("m1"))
        );
        let singles = node.ask("singles", json!({ "pageSize": 10 }));
        assert_eq!(singles[0].as_array().map(Vec::len), Some(3));
        assert_eq!(node.ask("bulk", bulk("delete"))["isSuccessful"], true);
        for unknown in [
            json!({ "registrationId": "x", "attestation": { "type": "x509" } }),
            json!({ "registrationId": "x", "attestation": attestation, "iotHubHostName": "other.example" }),
            json!({ "registrationId": "x", "attestation": attestation, "initialTwin": { "tags": { "a": 1 } } }),
        ] {
            let refused =
                node.try_ask("putSingle", json!({ "enrolment": unknown })).expect_err("not supported");
            assert_eq!(refused["name"], "ArgumentError");
        }
        // Reading is not writing, and nobody else reads.
        node.ask("open", json!({ "connectionString": world.hub.policy_connection_string("registryRead") }));
        node.ask("single", json!({ "name": "pump-7" }));
        for (action, arguments) in
            [("singleKeys", json!({ "name": "pump-7" })), ("deleteSingle", json!({ "name": "pump-7" }))]
        {
            assert_eq!(node.try_ask(action, arguments).expect_err("no right")["name"], "UnauthorizedError");
        }
        node.ask("open", json!({ "connectionString": world.hub.policy_connection_string("service") }));
        assert!(node.try_ask("single", json!({ "name": "pump-7" })).is_err());
    });
}

#[test]
fn whoever_cannot_prove_itself_is_refused() {
    run(Needs::LowPorts, || {
        let world = World::start().with_group("line-1");
        let soon = sas::now_s() + 60;
        let key = world.derived("line-1", "a");
        let check = |registration: &str, token: &str| {
            world.refused(&world.register_with(registration, token, ""), 401)
        };
        check("a", &world.token("a", &sas::foreign_key(), soon));
        check("a", &world.token("a", GROUP_KEY, soon));
        check("a", &world.token("a", &key, sas::now_s() - 10));
        check("b", &world.token("a", &key, soon));
        check("b", &world.token("b", &key, soon));
        check("a", "SharedAccessSignature sr=x");
        check("a", &world.hub.service().token());
        let other = World { scope: "0ne00000000".into(), hub: world.hub };
        other.refused(&other.register("a", &key), 401);
        let world = World { scope: other.hub.command_output(&["enrolment", "scope"]), hub: other.hub };
        let path = "/0ne00000000/registrations/a/register?api-version=2019-03-31";
        world.refused(&world.ask("PUT", path, &world.token("a", &key, soon), "{}"), 401);
        let unsigned = world.ask("PUT", &format!("/{}/registrations/a/register", world.scope), "", "{}");
        world.refused(&unsigned, 401);
        assert_eq!(world.hub.service().device("a").status, 404, "nobody got an identity");

        // Malformed bodies, bodies for somebody else, methods and operations that there are not.
        let good = world.token("a", &key, soon);
        let path = format!("/{}/registrations/a/register?api-version=2019-03-31", world.scope);
        for body in ["[]", "{", "{\"registrationId\":\"b\"}", "{\"tpm\":{\"endorsementKey\":\"x\"}}"] {
            world.refused(&world.ask("PUT", &path, &good, body), 400);
        }
        world.refused(&world.ask("PUT", &path, &good, &" ".repeat(65 * 1024)), 413);
        let answer = world.register("a", &key);
        assert_eq!(answer.status, 202);
        let foreign = format!("/{}/registrations/a/operations/1.0000?api-version=2019-03-31", world.scope);
        world.refused(&world.ask("GET", &foreign, &good, ""), 404);

        // A device of a group that is shut out alone; a group that is disabled.
        world.hub.command_output(&["enrolment", "create", "a"]);
        world.refused(&world.register("a", &key), 401);
        world.hub.command_output(&["enrolment", "delete", "a"]);
        world.registered("a", &key);
        world.hub.command_output(&["enrolment", "disable", "line-1", "--group"]);
        world.refused(&world.register("a", &key), 401);
        world.hub.command_output(&["enrolment", "enable", "line-1", "--group"]);

        // What one group has, another does not get; nor what a back end made.
        world.hub.command_output(&["enrolment", "create", "line-2", "--group"]);
        world.refused(&world.register("a", &world.derived("line-2", "a")), 401);
        world.hub.service().create_device("made-by-hand");
        world.refused(&world.register("made-by-hand", &world.derived("line-2", "made-by-hand")), 409);
        let text = world.hub.printed_ever();
        for secret in [key.as_str(), GROUP_KEY, good.as_str()] {
            assert!(!text.contains(secret), "a secret in the log");
        }
    });
}

/// Whatever was answered is there after a kill, and whatever was not is done by asking again.
#[test]
fn registrations_survive_kills_and_repetition() {
    run(Needs::LowPorts, || {
        let mut world = World::start().with_group("line-1");
        let mut operations = Vec::new();
        for number in 0..8 {
            let id = format!("k{number}");
            let key = world.derived("line-1", &id);
            let answer = world.register(&id, &key);
            assert_eq!(answer.status, 202, "{}", answer.text());
            operations.push((id, key, answer.json()["operationId"].as_str().expect("an id").to_owned()));
        }
        let process = world.hub.process_id();
        // Some more are on their way while it dies.
        let dying: Vec<(String, String)> = (0..6)
            .map(|number| format!("dying{number}"))
            .map(|id| (id.clone(), world.derived("line-1", &id)))
            .collect();
        std::thread::scope(|scope| {
            for (id, key) in &dying {
                let world = &world;
                scope.spawn(move || {
                    // It may be answered, cut off or not even connected.
                    let path = format!("/{}/registrations/{id}/register?api-version=2019-03-31", world.scope);
                    let _ = world.try_ask("PUT", &path, &world.token(id, key, sas::now_s() + 60), "{}");
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(15));
            world.hub.kill_process();
        });
        world.hub.kill();
        world.hub.run();
        assert_ne!(world.hub.process_id(), process);
        for (id, key, operation) in &operations {
            let before = world.polled(id, key, operation);
            let again = world.registered(id, key);
            assert_eq!(
                again["createdDateTimeUtc"], before["createdDateTimeUtc"],
                "the same registration goes on"
            );
            assert_ne!(again["etag"], before["etag"]);
            assert_eq!(world.send(id, key), 204);
        }
        for (id, key) in &dying {
            assert_eq!(world.registered(id, key)["deviceId"], json!(id));
            assert_eq!(world.send(id, key), 204);
        }

        // Registering anew, and with keys that have changed: the same identity, the other keys.
        let (id, key, _) = &operations[0];
        let generation = |world: &World| world.hub.service().device(id).json()["generationId"].clone();
        let before = (generation(&world), world.registered(id, key)["createdDateTimeUtc"].clone());
        let token = world.token(id, key, sas::now_s() + 60);
        let forced = world.register_with(id, &token, "&forceRegistration=true").json();
        let forced = world.polled(id, key, forced["operationId"].as_str().expect("an id"));
        assert_ne!(forced["createdDateTimeUtc"], before.1, "a new record");
        assert_eq!(generation(&world), before.0, "of the same identity");
        world.hub.command_output(&["enrolment", "delete", "line-1", "--group"]);
        world.hub.command_output(&["enrolment", "create", "line-1", "--group"]);
        let other = world.derived("line-1", id);
        assert_ne!(*key, other);
        world.registered(id, &other);
        assert_eq!((world.send(id, key), world.send(id, &other)), (401, 204));
        assert_eq!(generation(&world), before.0);
    });
}

/// What the disk holds when a hub dies between the deletion of a group and that of what came of it.
fn delete_group_alone(hub: &Hub, group: &str) {
    let data_dir = DataDir::open(hub.data()).expect("nobody has it open");
    let key = data_dir.data_key(&DataKeySource::Beside, false).expect("the hub made its key");
    let directory = hub.data().join("partitions/0000");
    let storage = |name| DiskStorage::open(&directory.join(name), DiskConfig::default()).expect("a log");
    let partition =
        PartitionStorage { id: PartitionId(0), events: storage("events"), journal: storage("journal") };
    let wall_ms = sas::now_s() * 1000;
    let now = Now { wall_ms, mono_ms: 0 };
    let config = ShardConfig::new(PARTITION_COUNT, key);
    let (mut shard, _) = Shard::open(config, vec![partition], now, [7; 32]).expect("the hub's own partition");
    let connection = ConnectionId { core: CoreId(0), slot: 0, generation: 0 };
    let name = EnrolmentName {
        kind: EnrolmentKind::Group,
        id: EnrolmentId::parse(group).expect("an enrolment's id"),
    };
    let delete = EnrolmentRequest::Delete { name, if_match: IfMatch::Any };
    shard.handle_request(Caller { connection, token: 0 }, Request::Enrolment(delete), now);
    shard.poll(now);
    let (_, reply) = shard.poll_reply().expect("this storage is done when it returns");
    assert!(matches!(reply, Reply::Enrolment(_)), "{reply:?}");
}

#[test]
fn what_came_of_a_deleted_group_goes_with_the_next_start() {
    run(Needs::LowPorts, || {
        let mut world = World::start().with_group("line-1");
        world.hub.command_output(&["enrolment", "create", "line-2", "--group"]);
        let of = |group: &str| -> Vec<String> { (0..12).map(|number| format!("{group}-{number}")).collect() };
        for group in ["line-1", "line-2"] {
            for id in of(group) {
                world.registered(&id, &world.derived(group, &id));
            }
        }
        world.hub.stop();
        delete_group_alone(&world.hub, "line-1");
        world.hub.run();
        let service = world.hub.service();
        let status = |id: &str| service.request("GET", &format!("/registrations/{id}"), &[], None).status;
        let gone = wait_until(Duration::from_secs(20), || {
            of("line-1").iter().all(|id| status(id) == 404).then_some(())
        });
        assert!(gone.is_some(), "registrations of a group that is gone stay");
        for id in of("line-2") {
            assert_eq!(status(&id), 200, "{id}");
        }
        for id in of("line-1") {
            assert_eq!(service.device(&id).status, 200, "{id}: the identity stays");
        }
    });
}

/// The walk in the documentation, word for word but for the hub that it is walked on.
#[test]
fn the_walk_works_as_documented() {
    run(Needs::LowPorts, || {
        if ["curl", "openssl"].iter().any(|program| Command::new(program).arg("version").output().is_err()) {
            return tests::skip("curl or openssl is missing");
        }
        let hub = Hub::start(&["--cores", "1"]);
        let (said, _) = tests::walk::run(&hub, include_str!("../../docs/provisioning.md"));
        let stages: Vec<&str> =
            said.lines().filter_map(|line| line.trim().strip_prefix("\"stage\": ")).collect();
        let expected = ["\"bootstrapped\"", "\"activated\"", "\"deactivated\""];
        assert!(stages.iter().map(|stage| stage.trim_end_matches(',')).eq(expected), "{said}");
        assert!(said.contains("\"assigned\""), "{said}");
    });
}
