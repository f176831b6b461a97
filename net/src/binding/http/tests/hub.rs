//! The API over a real shard on a simulated disk: what a back end is told is so, also after the power was cut.

use std::net::SocketAddr;

use engine::request::{Ack, CommandDraft, ConnectionId, CoreId, PartitionId};
use engine::shard::{PartitionStorage, Shard, ShardConfig, ShardDoor};
use registry::{DataKey, DeviceId, DeviceKey, DeviceKeys, KeyForm, Policy, PolicyName, Rights, sas};
use segment_log::storage::sim::{PowerCut, SimDisk, SimStorage};
use segment_log::{LogConfig, Now};
use serde_json::{Value, json};

use super::super::*;
use crate::binding::{HubInfo, Transport};

const PARTITION_COUNT: u16 = 3;
pub(super) const NOW_S: u64 = 1_700_000_000;

pub(super) struct Hub {
    disk: SimDisk,
    shard: Shard<SimStorage>,
    info: HubInfo,
    binding: HttpBinding,
    output: Vec<u8>,
    now: Now,
}

/// A policy's token of any kind.
pub(super) fn sign(resource: &str, key: &DeviceKey, expires_s: u64, policy: Option<&str>) -> String {
    sas::sign(resource, key, KeyForm::Decoded, expires_s, policy)
}

/// A field of an answer's head.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

pub(super) fn device_key(text: &str) -> DeviceKey {
    DeviceKey::from_base64(text).unwrap()
}

pub(super) fn key(seed: u8) -> DeviceKey {
    DeviceKey::from_bytes(&[seed; 32]).unwrap()
}

fn policy(name: &str, rights: Rights, seed: u8) -> Policy {
    let keys = DeviceKeys { primary: key(seed), secondary: key(seed + 100) };
    Policy { name: PolicyName::parse(name).unwrap(), rights, keys }
}

fn config() -> ShardConfig {
    let mut config = ShardConfig::new(PARTITION_COUNT, DataKey::from_bytes([7; 32]));
    let segments =
        LogConfig { segment_bytes_first: 256 << 10, segment_bytes_max: 256 << 10, ..LogConfig::default() };
    config.events = LogConfig {
        commit_bytes_max: 64 << 10,
        record_bytes_max: 32 << 10,
        tail_bytes_max: 64 << 10,
        ..segments
    };
    config.journal = config.events.clone();
    config.limits.event_bytes_max = 16 << 10;
    config.commands.command_bytes_max = 16 << 10;
    config.first_policies = vec![
        policy("owner", Rights::ALL, 1),
        policy("reader", Rights::REGISTRY_READ, 2),
        policy("service", Rights::SERVICE_CONNECT, 3),
        policy("writer", Rights::REGISTRY_WRITE, 4),
        policy("device", Rights::DEVICE_CONNECT, 5),
    ];
    config.access.host_names = vec!["hub.test".into()];
    config
}

impl Hub {
    pub(super) fn open(disk: SimDisk) -> Self {
        let storages = (0..PARTITION_COUNT).map(|number| PartitionStorage {
            id: PartitionId(number),
            events: disk.storage(&format!("{number}/events")),
            journal: disk.storage(&format!("{number}/journal")),
        });
        let now = Now { wall_ms: NOW_S * 1000, mono_ms: 0 };
        let seed = [disk.operation_count() as u8; 32];
        let (mut shard, reports) = Shard::open(config(), storages.collect(), now, seed).unwrap();
        assert!(reports.iter().all(|report| report.fault.is_none()), "{reports:?}");
        let info = HubInfo {
            administration_token: SecretText::new("of-this-run"),
            ..HubInfo::new("hub", "hub.test", PARTITION_COUNT)
        };
        let binding = HttpBinding::new(&context(&mut ShardDoor::new(&mut shard, now), &info, now));
        Self { disk, shard, info, binding, output: Vec::new(), now }
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut door = ShardDoor::new(&mut self.shard, self.now);
        let mut rest = bytes;
        let mut hub = context(&mut door, &self.info, self.now);
        if self.binding.is_finished() {
            self.binding = HttpBinding::new(&hub);
        }
        self.binding.handle_bytes(&mut rest, &mut self.output, &mut hub).unwrap();
        assert!(rest.is_empty());
    }

    /// Turns until nothing moves: the disk does its work as far as it may.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.shard.poll(self.now);
            while self.shard.poll_notice().is_some() {}
            while self.shard.poll_monitor().is_some() {}
            while let Some(job) = self.shard.poll_job() {
                self.shard.handle_job_done(job.run(), self.now);
            }
            while let Some((caller, reply)) = self.shard.poll_reply() {
                let mut door = ShardDoor::new(&mut self.shard, self.now);
                let mut hub = context(&mut door, &self.info, self.now);
                self.binding.handle_reply(caller.token, reply, &mut self.output, &mut hub);
            }
        }
    }

    fn answer(&mut self) -> Option<(String, Value)> {
        let output = String::from_utf8(std::mem::take(&mut self.output)).unwrap();
        let (head, body) = output.split_once("\r\n\r\n")?;
        Some((head.to_owned(), serde_json::from_str(body).unwrap_or_default()))
    }

    /// One request with any `Authorization`; its answer's status and body.
    pub(super) fn request_as(
        &mut self,
        authorization: &str,
        line: &str,
        headers: &str,
        body: &Value,
    ) -> (u16, Value) {
        let (head, body) = self.exchange(authorization, line, headers, body);
        (head[9..12].parse().unwrap(), body)
    }

    /// One request; its answer's head and body.
    pub(super) fn exchange(
        &mut self,
        authorization: &str,
        line: &str,
        headers: &str,
        body: &Value,
    ) -> (String, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head =
            format!("{line} HTTP/1.1\r\nHost: hub.test\r\nAuthorization: {authorization}\r\n{headers}");
        self.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        self.settle();
        self.answer().unwrap_or_else(|| panic!("no answer to {line}"))
    }

    /// One request of the administrator, with whatever bytes as its body.
    pub(super) fn administer(&mut self, line: &str, body: &[u8]) -> (u16, Value) {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: hub.test\r\nAuthorization: Bearer of-this-run\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.send(&[head.as_bytes(), body].concat());
        self.settle();
        let (head, body) = self.answer().unwrap_or_else(|| panic!("no answer to {line}"));
        (head[9..12].parse().unwrap(), body)
    }

    /// One request of the owner.
    pub(super) fn request(&mut self, line: &str, headers: &str, body: Value) -> (u16, Value) {
        self.request_as(&owner(), line, headers, &body)
    }

    pub(super) fn get(&mut self, path: &str) -> (u16, Value) {
        self.request(&format!("GET {path}"), "", Value::Null)
    }

    /// Put a command into a device's queue, as a back end would.
    pub(super) fn enqueue(&mut self, device: &str, message: Vec<u8>) {
        self.enqueue_for_receipt(device, message, "", Ack::None);
    }

    /// The same, with an id and the wish to hear of its outcome.
    pub(super) fn enqueue_for_receipt(&mut self, device: &str, message: Vec<u8>, id: &str, ack: Ack) {
        let draft = CommandDraft {
            device: DeviceId::parse(device).unwrap(),
            message,
            message_id: id.to_owned(),
            ack,
            expires_ms: None,
        };
        // No request has this number: the binding takes no notice of the answer.
        let connection = ConnectionId { core: CoreId(0), slot: 0, generation: 0 };
        let caller = Caller { connection, token: u64::MAX };
        self.shard.handle_request(caller, Request::EnqueueCommand(draft), self.now);
        self.settle();
    }

    /// Ask for what is received under a lock: the answer's head, its body and the lock. None: there was nothing.
    pub(super) fn receive(&mut self, authorization: &str, path: &str) -> Option<(String, Value, String)> {
        let (head, body) = self.exchange(authorization, &format!("GET {path}"), "", &Value::Null);
        match &head[9..12] {
            "204" => None,
            "200" => {
                let etag = header(&head, "ETag").unwrap();
                assert!(etag.starts_with('"') && etag.ends_with('"'), "{head}");
                let lock = etag.trim_matches('"').to_owned();
                Some((head, body, lock))
            }
            _ => panic!("{head} {body}"),
        }
    }

    /// What devices that register have to name.
    pub(super) fn id_scope(&self) -> String {
        self.info.id_scope()
    }

    /// Time goes by.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.settle();
    }

    /// The power goes at this moment and comes back.
    pub(super) fn cut_power(self) -> Self {
        let cut = PowerCut { seed: 3, sector_bytes: 512, garbage: true };
        Self::open(self.disk.after_power_cut(cut))
    }
}

fn context<'a>(door: &'a mut dyn engine::door::Door, hub: &'a HubInfo, now: Now) -> Context<'a> {
    Context {
        door,
        connection: ConnectionId { core: CoreId(0), slot: 0, generation: 0 },
        now,
        hub,
        transport: Transport::Tls,
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        output_pending_bytes: 0,
        refused_logins: Vec::new(),
    }
}

pub(super) fn owner() -> String {
    sas::sign("hub.test", &key(1), KeyForm::Decoded, NOW_S + 60, Some("owner"))
}

#[test]
fn an_identity_lives_through_power_cuts() {
    let mut hub = Hub::open(SimDisk::new(1));
    let (status, made) = hub.request("PUT /devices/a%23b%3F%25", "", json!({"deviceId": "a#b?%"}));
    assert_eq!((status, &made["deviceId"], &made["status"]), (200, &json!("a#b?%"), &json!("enabled")));
    let mut hub = hub.cut_power();
    assert_eq!(hub.get("/devices/a%23b%3F%25"), (200, made.clone()));
    assert_eq!(hub.request("PUT /devices/a%23b%3F%25", "", json!({})).0, 409);

    let disable = json!({"deviceId": "a#b?%", "status": "disabled", "statusReason": "leaks"});
    assert_eq!(hub.request("PUT /devices/a%23b%3F%25", "If-Match: \"AAAA\"\r\n", disable.clone()).0, 412);
    let etag = format!("If-Match: \"{}\"\r\n", made["etag"].as_str().unwrap());
    let (status, disabled) = hub.request("PUT /devices/a%23b%3F%25", &etag, disable.clone());
    assert_eq!((status, &disabled["statusReason"]), (200, &json!("leaks")));
    assert_eq!(disabled["authentication"], made["authentication"], "keys that are not given stay");
    assert_ne!(disabled["etag"], made["etag"]);
    assert_eq!(hub.request("PUT /devices/a%23b%3F%25", &etag, disable).0, 412, "the old ETag");
    let mut hub = hub.cut_power();
    assert_eq!(hub.get("/devices/a%23b%3F%25"), (200, disabled));

    assert_eq!(hub.request("DELETE /devices/a%23b%3F%25", "If-Match: \"*\"\r\n", Value::Null).0, 204);
    let mut hub = hub.cut_power();
    let (status, body) = hub.get("/devices/a%23b%3F%25");
    assert!(
        status == 404 && body["Message"].as_str().unwrap().starts_with("ErrorCode:DeviceNotFound;"),
        "{body}"
    );
    assert_eq!(hub.request("DELETE /devices/a%23b%3F%25", "", Value::Null).0, 404);
    assert_eq!(hub.request("PUT /devices/a%23b%3F%25", "If-Match: *\r\n", json!({})).0, 404);
    let (_, again) = hub.request("PUT /devices/a%23b%3F%25", "", json!({}));
    assert_ne!((&again["generationId"], &again["etag"]), (&made["generationId"], &made["etag"]));
}

#[test]
fn nothing_is_answered_before_it_is_durable() {
    let mut hub = Hub::open(SimDisk::new(2));
    hub.settle();
    hub.disk.set_delayed(true);
    let body = "{}";
    let request = format!(
        "PUT /devices/a HTTP/1.1\r\nHost: hub.test\r\nAuthorization: Bearer of-this-run\r\nContent-Length: 2\r\n\r\n{body}"
    );
    hub.send(request.as_bytes());
    let mut steps = 0;
    loop {
        hub.settle();
        match hub.answer() {
            Some((head, _)) => {
                assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                break;
            }
            None => assert!(hub.disk.step(), "neither an answer nor anything to do"),
        }
        steps += 1;
    }
    assert!(steps > 0, "answered while the disk had done nothing");
    let mut hub = hub.cut_power();
    assert_eq!(hub.get("/devices/a").0, 200);
}

#[test]
fn lists_and_counts_see_all_partitions() {
    let mut hub = Hub::open(SimDisk::new(3));
    let mut names: Vec<String> = (0..20).map(|number| format!("d{number}")).collect();
    for name in &names {
        assert_eq!(hub.request(&format!("PUT /devices/{name}"), "", json!({})).0, 200);
    }
    let disabled = json!({"status": "disabled"});
    assert_eq!(hub.request("PUT /devices/d7", "If-Match: *\r\n", disabled).0, 200);
    names.sort();
    let ids = |list: &Value| -> Vec<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|device| device["deviceId"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&hub.get("/devices/?api-version=2021-04-12").1), names);
    assert_eq!(ids(&hub.get("/devices?top=7").1), names[..7]);
    // Page by page: each once, none left out, and no page too many.
    for top in [1, 6, 7, 10, 19, 20, 21] {
        let (mut seen, mut pages, mut headers) = (Vec::new(), 0, String::new());
        loop {
            let (head, body) =
                hub.exchange(&owner(), &format!("GET /devices?top={top}"), &headers, &Value::Null);
            seen.extend(ids(&body));
            pages += 1;
            match head.lines().find_map(|line| line.strip_prefix("x-ms-continuation: ")) {
                Some(token) => headers = format!("X-MS-Continuation: {token}\r\n"),
                None => break,
            }
        }
        assert_eq!((seen, pages), (names.clone(), names.len().div_ceil(top)), "top {top}");
    }
    assert_eq!(hub.request("GET /devices", "x-ms-continuation: ***\r\n", Value::Null).0, 400);
    let counts = json!({"totalDeviceCount": 20, "enabledDeviceCount": 19, "disabledDeviceCount": 1});
    assert_eq!(hub.get("/statistics/devices"), (200, counts));
    assert_eq!(hub.get("/statistics/service"), (200, json!({"connectedDeviceCount": 0})));
}

#[test]
fn tokens_open_what_they_are_for() {
    let mut hub = Hub::open(SimDisk::new(4));
    let (_, made) = hub.request("PUT /devices/dev1", "", json!({}));
    hub.request("PUT /devices/dev10", "", json!({}));
    let device_key =
        DeviceKey::from_base64(made["authentication"]["symmetricKey"]["primaryKey"].as_str().unwrap())
            .unwrap();
    let sign = |resource, seed, policy| sas::sign(resource, &key(seed), KeyForm::Decoded, NOW_S + 60, policy);
    let mut check = |authorization: &str, line: &str, expected: u16, name: &str| {
        let (status, body) = hub.request_as(authorization, line, "", &Value::Null);
        let code = body["Message"].as_str().and_then(|text| text.split([':', ';']).nth(1)).unwrap_or("");
        assert_eq!((status, code), (expected, name), "{line} with {authorization}");
    };
    check(&sign("hub.test", 1, Some("owner")), "GET /devices/dev1", 200, "");
    check(&sign("hub.test", 101, Some("owner")), "GET /devices/dev1", 200, "");
    check(&sign("HUB.TEST:443/devices/dev1", 2, Some("reader")), "GET /devices/dev1", 200, "");
    check(
        &sign("hub.test/devices/dev1", 2, Some("reader")),
        "GET /devices/dev10",
        401,
        "IotHubUnauthorizedAccess",
    );
    check(&sign("hub.test", 2, Some("reader")), "DELETE /devices/dev1", 401, "IotHubUnauthorizedAccess");
    check(&sign("hub.test", 3, Some("service")), "GET /devices/dev1", 401, "IotHubUnauthorizedAccess");
    check(&sign("other.test", 1, Some("owner")), "GET /devices/dev1", 401, "IotHubUnauthorizedAccess");
    check(&sign("hub.test", 9, Some("owner")), "GET /devices/dev1", 401, "IotHubUnauthorized");
    check(&sign("hub.test", 1, Some("nobody")), "GET /devices/dev1", 401, "IotHubUnauthorized");
    let expired = sas::sign("hub.test", &key(1), KeyForm::Decoded, NOW_S - 1, Some("owner"));
    check(&expired, "GET /devices/dev1", 401, "IotHubUnauthorized");
    let own = sas::sign("hub.test/devices/dev1", &device_key, KeyForm::Decoded, NOW_S + 60, None);
    check(&own, "GET /devices/dev1", 401, "IotHubUnauthorizedAccess");
    check("Bearer of-this-run", "GET /devices/dev1", 200, "");
    check("Bearer of-another", "GET /devices/dev1", 401, "IotHubUnauthorized");
    check(&sign("hub.test", 1, Some("owner")), "GET /policies/owner", 401, "IotHubUnauthorizedAccess");
    let (status, policy) = hub.request_as("Bearer of-this-run", "GET /policies/owner", "", &Value::Null);
    assert_eq!((status, &policy["primaryKey"]), (200, &json!(key(1).to_base64())));
}

#[test]
fn groups_and_checkpoints_live_through_power_cuts() {
    let mut hub = Hub::open(SimDisk::new(5));
    assert_eq!(hub.request("PUT /consumerGroups/Stream", "", Value::Null).0, 200);
    assert_eq!(hub.request("PUT /consumerGroups/stream", "", Value::Null).0, 409);
    assert_eq!(hub.request("PUT /consumerGroups/$Default", "", Value::Null).0, 400);
    assert_eq!(hub.request("DELETE /consumerGroups/$default", "", Value::Null).0, 400);
    assert_eq!(hub.request("PUT /consumerGroups/a%20b", "", Value::Null).0, 400);
    let mut hub = hub.cut_power();
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&hub.get("/consumerGroups").1), ["$Default", "Stream"]);
    assert_eq!(hub.get("/consumerGroups/STREAM").1["name"], "Stream");
    // The partition is empty: whatever the number, it lies beyond the end.
    let beyond = hub.request("PUT /consumerGroups/stream/checkpoints/1", "", json!({"sequenceNumber": 0}));
    assert_eq!(beyond.0, 400, "{}", beyond.1);
    assert_eq!(hub.get("/consumerGroups/stream/checkpoints/1"), (200, json!({"sequenceNumber": null})));
    assert_eq!(hub.get("/consumerGroups/nobody/checkpoints/1").0, 404);
    assert_eq!(hub.request("DELETE /consumerGroups/sTREAM", "", Value::Null).0, 204);
    let mut hub = hub.cut_power();
    assert_eq!(names(&hub.get("/consumerGroups").1), ["$Default"]);
    assert_eq!(hub.request("DELETE /consumerGroups/stream", "", Value::Null).0, 404);
}
