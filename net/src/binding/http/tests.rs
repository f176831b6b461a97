//! The binding between bytes and a door: each test plays the client on one side and the engine on the other.

use std::net::SocketAddr;

use engine::door::{Busy, Door};
use engine::request::{
    AppendView, ConnectionId, ConsumerGroupView, CoreId, DeviceView, Grant, IfMatch, PartitionId,
    PolicyRequest, Principal,
};
use registry::{
    ConsumerGroupId, DeviceId, DeviceKey, DeviceKeys, ETag, GenerationId, KeyForm, PolicyName, Rights, sas,
};
use segment_log::Now;
use serde_json::{Value, json};

use super::*;
use crate::binding::{HubInfo, Transport};

mod bodies;
mod commands;
mod device;
mod hub;
mod receipts;
mod service;

/// Keeps what is asked; refuses as long as it is told to.
#[derive(Default)]
struct Questioned {
    asked: Vec<(u64, Request)>,
    is_busy: bool,
}

impl Door for Questioned {
    fn ask(&mut self, caller: Caller, request: Request) -> Result<(), Busy> {
        if self.is_busy {
            return Err(Busy);
        }
        self.asked.push((caller.token, request));
        Ok(())
    }

    fn append(&mut self, _caller: Caller, _append: AppendView<'_>) -> Result<(), Busy> {
        unreachable!("this API appends nothing")
    }
}

/// A connection with the clock and the door that it sees.
struct World {
    binding: HttpBinding,
    door: Questioned,
    hub: HubInfo,
    now_ms: u64,
    /// What the client has not taken of earlier turns.
    pending_bytes: usize,
    /// Not taken by the binding yet.
    input: Vec<u8>,
    output: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let hub = HubInfo {
            administration_token: SecretText::new("of-this-run"),
            ..HubInfo::new("hub", "hub.test", 3)
        };
        let mut door = Questioned::default();
        let binding = HttpBinding::new(&context(&mut door, &hub, 0, 0));
        Self { binding, door, hub, now_ms: 0, pending_bytes: 0, input: Vec::new(), output: Vec::new() }
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut HttpBinding, &mut Vec<u8>, &mut Context<'_>) -> T) -> T {
        let mut context = context(&mut self.door, &self.hub, self.now_ms, self.pending_bytes);
        call(&mut self.binding, &mut self.output, &mut context)
    }

    /// Send bytes, and again what was left of earlier ones.
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Closing> {
        self.input.extend_from_slice(bytes.as_ref());
        let input = std::mem::take(&mut self.input);
        let mut rest = input.as_slice();
        let result = self.call(|binding, output, hub| binding.handle_bytes(&mut rest, output, hub));
        self.input = rest.to_vec();
        result
    }

    /// The only question that waits, which is taken out.
    fn question(&mut self) -> (u64, Request) {
        assert_eq!(self.door.asked.len(), 1, "{:?}", self.door.asked);
        self.door.asked.remove(0)
    }

    fn reply(&mut self, token: u64, reply: Reply) {
        self.call(|binding, output, hub| binding.handle_reply(token, reply, output, hub));
    }

    /// Send a request with a token that the engine takes for one of `rights`.
    fn send_with(&mut self, rights: Rights, line: &str, headers: &str, body: &str) {
        self.send(request(line, &format!("Authorization: {}\r\n{headers}", token()), body)).unwrap();
        let (token, question) = self.question();
        assert!(matches!(question, Request::Authenticate { partition: PartitionId(0), .. }), "{question:?}");
        self.reply(token, Reply::Authenticated(grant(rights)));
    }

    fn advance_to(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.call(|binding, output, hub| binding.handle_timeout(output, hub));
    }

    /// The answer so far, taken out: status, headers as one text, body as JSON.
    fn answer(&mut self) -> (u16, String, Value) {
        let output = String::from_utf8(std::mem::take(&mut self.output)).unwrap();
        let (head, body) = output.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {output:?}"));
        let status = head[9..12].parse().unwrap();
        (status, head.to_owned(), serde_json::from_str(body).unwrap_or_default())
    }

    fn status(&mut self) -> u16 {
        self.answer().0
    }
}

fn context<'a>(
    door: &'a mut Questioned,
    hub: &'a HubInfo,
    now_ms: u64,
    output_pending_bytes: usize,
) -> Context<'a> {
    Context {
        door,
        connection: ConnectionId { core: CoreId(0), slot: 0, generation: 0 },
        now: Now { wall_ms: 1_795_294_683_000 + now_ms, mono_ms: now_ms },
        hub,
        transport: Transport::Tls,
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        output_pending_bytes,
        refused_logins: Vec::new(),
    }
}

fn token() -> String {
    let key = DeviceKey::from_bytes(&[1; 32]).unwrap();
    sas::sign("hub.test", &key, KeyForm::Decoded, 2_000_000_000, Some("p"))
}

fn grant(rights: Rights) -> Grant {
    let principal = Principal::Policy { name: PolicyName::parse("p").unwrap(), rights };
    Grant { principal, resource: Vec::new(), expires_s: 2_000_000_000 }
}

fn request(line: &str, headers: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{line} HTTP/1.1\r\nHost: hub.test\r\n{headers}{length}\r\n{body}")
}

fn view(id: &str) -> DeviceView {
    DeviceView {
        device: DeviceId::parse(id).unwrap(),
        generation: GenerationId(1),
        etag: ETag(7),
        keys: DeviceKeys::generate(&mut |bytes| bytes.fill(1)),
        status: registry::DeviceStatus::Enabled,
        status_reason: None,
        status_updated_ms: None,
        life: registry::Life::default(),
        connected: false,
        connection_updated_ms: None,
        last_activity_ms: None,
        command_count: 0,
    }
}

fn group() -> ConsumerGroupView {
    ConsumerGroupView { id: ConsumerGroupId(9), name: "Stream".into(), created_ms: 0 }
}

#[test]
fn a_device_is_created_as_the_node_package_does_it() {
    let mut world = World::new();
    let body = json!({"deviceId": "a#b", "authentication": {"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": ""}}});
    world.send_with(
        Rights::REGISTRY_WRITE,
        "PUT /devices/a%23b?api-version=2021-04-12",
        "",
        &body.to_string(),
    );
    let (token, question) = world.question();
    let Request::CreateDevice(draft) = question else { panic!("{question:?}") };
    assert_eq!((draft.device.as_str(), draft.primary_key), ("a#b", None));
    assert!(world.output.is_empty() && !world.binding.wants_input());
    world.reply(token, Reply::Device(Box::new(view("a#b"))));
    let (status, head, body) = world.answer();
    assert_eq!((status, &body["deviceId"]), (200, &json!("a#b")));
    assert!(head.contains("\r\nETag: \"AAAAAAAAAAc=\"\r\n") && head.contains("application/json"), "{head}");
    assert!(head.contains("\r\nDate: Sat, 21 Nov 2026 20:58:03 GMT\r\n"), "{head}");
    assert!(world.binding.wants_input() && !world.binding.is_finished());
}

#[test]
fn conditions_reach_the_engine() {
    for (header, expected) in [
        ("If-Match: \"*\"\r\n", IfMatch::Any),
        ("If-Match: *\r\n", IfMatch::Any),
        ("If-Match: \"AAAAAAAAAAc=\"\r\n", IfMatch::ETag(ETag(7))),
        ("If-Match: \"foreign\"\r\n", IfMatch::ETag(ETag::NEVER)),
    ] {
        let mut world = World::new();
        world.send_with(Rights::REGISTRY_WRITE, "PUT /devices/a", header, "{}");
        let question = world.question().1;
        assert!(
            matches!(&question, Request::UpdateDevice { if_match, .. } if *if_match == expected),
            "{question:?}"
        );
        let mut world = World::new();
        world.send_with(Rights::REGISTRY_WRITE, "DELETE /devices/a", header, "");
        let (token, question) = world.question();
        assert!(
            matches!(&question, Request::DeleteDevice { if_match, .. } if *if_match == expected),
            "{question:?}"
        );
        world.reply(token, Reply::Done);
        assert_eq!(world.status(), 204);
    }
}

#[test]
fn refusals_of_the_engine_keep_their_codes() {
    let check = |error: EngineError, expected: (u16, &str)| {
        let mut world = World::new();
        world.send_with(Rights::ALL, "GET /devices/a", "", "");
        let (token, _) = world.question();
        world.reply(token, Reply::Failed(error));
        let (status, head, body) = world.answer();
        assert_eq!(status, expected.0);
        assert!(head.contains(&format!("iothub-errorcode: {}\r\n", expected.1)), "{head}");
        assert!(
            body["Message"].as_str().unwrap().starts_with(&format!("ErrorCode:{};", expected.1)),
            "{body}"
        );
    };
    check(EngineError::DeviceNotFound, (404, "DeviceNotFound"));
    check(EngineError::Registry(registry::RegistryError::DeviceExists), (409, "DeviceAlreadyExists"));
    check(EngineError::Registry(registry::RegistryError::PreconditionFailed), (412, "PreconditionFailed"));
}

#[test]
fn nobody_gets_further_than_the_token_allows() {
    // Refused without asking anybody.
    for headers in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic eA==\r\n",
        "Authorization: SharedAccessSignature sr=hub\r\n",
    ] {
        let mut world = World::new();
        world.send(request("GET /devices/a", headers, "")).unwrap();
        assert!(world.door.asked.is_empty());
        let (status, head, _) = world.answer();
        assert_eq!(status, 401, "{headers}");
        assert!(head.contains("WWW-Authenticate"), "{head}");
    }
    // Refused by the engine.
    let mut world = World::new();
    world.send(request("GET /devices/a", &format!("Authorization: {}\r\n", token()), "")).unwrap();
    let (token, _) = world.question();
    let expired = engine::request::UnauthorizedReason::Expired;
    world.reply(token, Reply::Failed(EngineError::Unauthorized(expired)));
    assert_eq!(world.status(), 401);
    // Good, but without the right: the request itself is never asked.
    let mut world = World::new();
    world.send_with(Rights::REGISTRY_READ | Rights::SERVICE_CONNECT, "DELETE /devices/a", "", "");
    assert!(world.door.asked.is_empty());
    let (status, head, _) = world.answer();
    assert_eq!(status, 401);
    assert!(head.contains("IotHubUnauthorizedAccess"), "{head}");
    // Good, but for nothing that exists: told only to those who may come in at all.
    let mut world = World::new();
    world.send_with(Rights::REGISTRY_READ, "GET /nothing", "", "");
    assert_eq!(world.status(), 404);
    let mut world = World::new();
    world.send(request("GET /nothing", "", "")).unwrap();
    assert_eq!(world.status(), 401);
    // A device's own token, even a good one.
    let mut world = World::new();
    let key = DeviceKey::from_bytes(&[1; 32]).unwrap();
    let own = sas::sign("hub.test/devices/a", &key, KeyForm::Decoded, 2_000_000_000, None);
    world.send(request("GET /devices/a", &format!("Authorization: {own}\r\n"), "")).unwrap();
    let (token, _) = world.question();
    let principal = Principal::Device {
        device: DeviceId::parse("a").unwrap(),
        generation: GenerationId(1),
        keys_version: 1,
    };
    world.reply(token, Reply::Authenticated(Grant { principal, resource: Vec::new(), expires_s: 0 }));
    assert_eq!(world.status(), 401);
}

#[test]
fn guessing_ends_the_connection() {
    let mut world = World::new();
    let wrong = request("GET /devices/a", "Authorization: Bearer wrong\r\n", "");
    let right = request("GET /nothing", "Authorization: Bearer of-this-run\r\n", "");
    for _ in 1..REFUSED_LOGINS_MAX {
        world.send(&wrong).unwrap();
        assert_eq!(world.status(), 401);
    }
    world.send(&right).unwrap();
    assert_eq!(world.status(), 404);
    for _ in 1..REFUSED_LOGINS_MAX {
        world.send(&wrong).unwrap();
        assert_eq!(world.status(), 401);
        assert!(!world.binding.is_finished());
    }
    world.send(&wrong).unwrap();
    let (status, head, _) = world.answer();
    assert!(status == 401 && head.ends_with("Connection: close"), "{head}");
    assert!(world.binding.is_finished());
}

#[test]
fn policies_are_for_the_administrator() {
    let mut world = World::new();
    world.send_with(Rights::ALL, "GET /policies/service", "", "");
    assert_eq!(world.status(), 401);
    world.send(request("GET /policies/service", "Authorization: Bearer of-this-run\r\n", "")).unwrap();
    let (token, question) = world.question();
    assert!(
        matches!(&question, Request::Policy(PolicyRequest::Find { name }) if name == "service"),
        "{question:?}"
    );
    let keys = view("a").keys;
    let policy = engine::request::PolicyView {
        name: PolicyName::parse("service").unwrap(),
        rights: Rights::REGISTRY_WRITE | Rights::SERVICE_CONNECT,
        keys,
    };
    world.reply(token, Reply::Policy(Box::new(policy)));
    let (status, _, body) = world.answer();
    let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let rights = "RegistryRead, RegistryWrite, ServiceConnect";
    assert_eq!(body, json!({"keyName": "service", "rights": rights, "primaryKey": key, "secondaryKey": key}));
    assert_eq!(status, 200);
}

#[test]
fn lists_are_merged_from_all_partitions() {
    let mut world = World::new();
    world.send_with(Rights::REGISTRY_READ, "GET /devices/?api-version=2021-04-12&top=3", "", "");
    let asked = std::mem::take(&mut world.door.asked);
    assert_eq!(asked.len(), 3);
    let pages = [vec!["b", "e"], vec![], vec!["a", "c", "d"]];
    for (((token, question), page), partition) in asked.into_iter().zip(pages).zip(0..) {
        let Request::ListDevices { partition: found, after: None, count_max: 4 } = question else { panic!() };
        assert_eq!(found, PartitionId(partition));
        assert!(world.output.is_empty());
        world.reply(token, Reply::Devices(page.into_iter().map(view).collect()));
    }
    let (status, _, body) = world.answer();
    let ids: Vec<&str> =
        body.as_array().unwrap().iter().map(|device| device["deviceId"].as_str().unwrap()).collect();
    assert_eq!((status, ids), (200, vec!["a", "b", "c"]));
}

#[test]
fn counts_are_added_up() {
    for (route, rights, expected) in [
        (
            "devices",
            Rights::REGISTRY_READ,
            json!({"totalDeviceCount": 9, "enabledDeviceCount": 6, "disabledDeviceCount": 3}),
        ),
        ("service", Rights::SERVICE_CONNECT, json!({"connectedDeviceCount": 12})),
    ] {
        let mut world = World::new();
        world.send_with(rights, &format!("GET /statistics/{route}"), "", "");
        for (token, _) in std::mem::take(&mut world.door.asked) {
            let counts = engine::request::DeviceCounts { enabled: 2, disabled: 1, connected: 4 };
            world.reply(token, Reply::DeviceCounts(counts));
        }
        assert_eq!(world.answer().2, expected);
    }
}

#[test]
fn a_deleted_group_is_dropped_in_every_partition() {
    let mut world = World::new();
    world.send_with(Rights::SERVICE_CONNECT, "DELETE /consumerGroups/stream", "", "");
    let (token, question) = world.question();
    assert!(matches!(&question, Request::DeleteConsumerGroup { name } if name == "stream"), "{question:?}");
    // The engine is busy when the partitions are to be told: they are told later, none twice.
    world.door.is_busy = true;
    world.reply(token, Reply::ConsumerGroup(group()));
    assert_eq!(world.binding.next_timeout_ms(), Some(RETRY_MS));
    world.door.is_busy = false;
    world.advance_to(RETRY_MS);
    let asked = std::mem::take(&mut world.door.asked);
    let dropped: Vec<(u16, u64)> = asked
        .iter()
        .map(|(_, question)| match question {
            Request::DropConsumerGroup { partition, group } => (partition.0, group.0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(dropped, [(0, 9), (1, 9), (2, 9)]);
    for (token, _) in asked {
        assert!(world.output.is_empty());
        world.reply(token, Reply::Done);
    }
    assert_eq!(world.status(), 204);
}

#[test]
fn groups_and_checkpoints() {
    let mut world = World::new();
    world.send_with(Rights::SERVICE_CONNECT, "PUT /consumerGroups/Stream", "", "");
    let (token, _) = world.question();
    world.reply(token, Reply::ConsumerGroup(group()));
    let (status, _, body) = world.answer();
    assert_eq!((status, body), (200, json!({"name": "Stream", "createdTime": "1970-01-01T00:00:00Z"})));

    world.send_with(
        Rights::SERVICE_CONNECT,
        "PUT /consumerGroups/stream/checkpoints/2",
        "",
        "{\"sequenceNumber\": 41}",
    );
    let (token, _) = world.question();
    world.reply(token, Reply::ConsumerGroup(group()));
    let (token, question) = world.question();
    let Request::PutCheckpoint { partition, group: id, number, force } = question else {
        panic!("{question:?}")
    };
    assert_eq!((partition.0, id.0, number.0, force), (2, 9, 41, true));
    world.reply(token, Reply::Done);
    assert_eq!(world.answer().2, json!({"sequenceNumber": 41}));

    world.send_with(Rights::SERVICE_CONNECT, "GET /consumerGroups/stream/checkpoints/1", "", "");
    let (token, _) = world.question();
    world.reply(token, Reply::ConsumerGroup(group()));
    let (token, _) = world.question();
    world.reply(token, Reply::Checkpoint(None));
    assert_eq!(world.answer().2, json!({"sequenceNumber": null}));

    world.send_with(Rights::SERVICE_CONNECT, "GET /consumerGroups/stream/checkpoints", "", "");
    let (token, _) = world.question();
    world.reply(token, Reply::ConsumerGroup(group()));
    // Replies of different partitions come in any order.
    for (token, question) in std::mem::take(&mut world.door.asked).into_iter().rev() {
        let Request::FindCheckpoint { partition, .. } = question else { panic!("{question:?}") };
        let number = (partition.0 != 1).then(|| engine::request::SequenceNumber(u64::from(partition.0) * 10));
        world.reply(token, Reply::Checkpoint(number));
    }
    let expected = json!([
        {"partition": 0, "sequenceNumber": 0},
        {"partition": 1, "sequenceNumber": null},
        {"partition": 2, "sequenceNumber": 20},
    ]);
    assert_eq!(world.answer().2, expected);

    for body in [
        "",
        "{}",
        "[5]",
        "{\"sequenceNumber\": -1}",
        "{\"sequenceNumber\": 1.5}",
        "{\"sequenceNumber\": \"1\"}",
    ] {
        world.send_with(Rights::SERVICE_CONNECT, "PUT /consumerGroups/stream/checkpoints/2", "", body);
        assert_eq!(world.status(), 400, "{body}");
    }
}

#[test]
fn one_request_is_in_work_at_a_time() {
    let mut world = World::new();
    let one = request("GET /devices/a", "Authorization: Bearer of-this-run\r\n", "");
    let two = request("GET /devices/b", "Authorization: Bearer of-this-run\r\n", "");
    world.send([one.clone(), two.clone()].concat()).unwrap();
    assert_eq!(world.input, two.as_bytes());
    let (first, _) = world.question();
    world.reply(first, Reply::Device(Box::new(view("a"))));
    assert_eq!(world.answer().2["deviceId"], "a");
    world.send("").unwrap();
    let (second, _) = world.question();
    // A reply to the request before is not taken for this one's.
    world.reply(first, Reply::Device(Box::new(view("a"))));
    assert!(world.output.is_empty());
    world.reply(second, Reply::Device(Box::new(view("b"))));
    assert_eq!(world.answer().2["deviceId"], "b");
    // Byte by byte it is the same.
    for byte in one.bytes() {
        world.send([byte]).unwrap();
    }
    let (third, _) = world.question();
    world.reply(third, Reply::Device(Box::new(view("a"))));
    assert_eq!(world.status(), 200);
}

#[test]
fn a_client_that_takes_nothing_is_not_read_from() {
    let mut world = World::new();
    world.pending_bytes = crate::binding::OUTPUT_PENDING_BYTES_MAX;
    world.send(request("GET /devices/a", "", "").repeat(3)).unwrap();
    assert_eq!(world.output.windows(12).filter(|window| *window == b"HTTP/1.1 401").count(), 1);
    assert!(!world.binding.wants_input());
    world.pending_bytes = 0;
    world.call(|binding, output, hub| binding.handle_output_drained(output, hub));
    assert!(world.binding.wants_input());
    world.send("").unwrap();
    assert_eq!(world.output.windows(12).filter(|window| *window == b"HTTP/1.1 401").count(), 3);
}

#[test]
fn everything_ends_in_time() {
    // Nothing asked.
    let mut world = World::new();
    assert_eq!(world.binding.next_timeout_ms(), Some(IDLE_TIMEOUT_MS));
    world.advance_to(IDLE_TIMEOUT_MS);
    assert!(world.binding.is_finished() && world.output.is_empty());
    // Half asked, and dripped.
    let mut world = World::new();
    for step in 0..20 {
        world.now_ms = 1000 + step * 1000;
        world.send("X").unwrap();
    }
    assert_eq!(world.binding.next_timeout_ms(), Some(1000 + READ_TIMEOUT_MS));
    world.advance_to(1000 + READ_TIMEOUT_MS);
    assert_eq!(world.status(), 408);
    assert!(world.binding.is_finished());
    // Asked, but not answered by the engine.
    let mut world = World::new();
    world.send(request("GET /devices/a", "Authorization: Bearer of-this-run\r\n", "")).unwrap();
    let (token, _) = world.question();
    world.advance_to(ANSWER_TIMEOUT_MS - 1);
    assert!(world.output.is_empty());
    world.advance_to(ANSWER_TIMEOUT_MS);
    assert_eq!(world.status(), 500);
    world.reply(token, Reply::Device(Box::new(view("a"))));
    assert!(world.output.is_empty() && world.binding.wants_input());
    // Asked, but not taken by the engine.
    let mut world = World::new();
    world.door.is_busy = true;
    world.send(request("GET /devices/a", "Authorization: Bearer of-this-run\r\n", "")).unwrap();
    world.advance_to(ANSWER_TIMEOUT_MS);
    assert_eq!(world.status(), 429);
}

#[test]
fn a_stop_lets_a_request_in_work_end() {
    let stop = |world: &mut World| world.call(|binding, output, hub| binding.begin_stop(output, hub));
    let mut world = World::new();
    world.send(request("GET /devices/a", "Authorization: Bearer of-this-run\r\n", "")).unwrap();
    stop(&mut world);
    assert!(!world.binding.is_finished());
    let (token, _) = world.question();
    world.reply(token, Reply::Device(Box::new(view("a"))));
    let (status, head, _) = world.answer();
    assert!(status == 200 && head.ends_with("Connection: close"), "{head}");
    assert!(world.binding.is_finished());
    // An idle connection ends at once; one whose body is still to come is told.
    let mut world = World::new();
    stop(&mut world);
    assert!(world.binding.is_finished() && world.output.is_empty());
    let mut world = World::new();
    world.send("PUT /devices/a HTTP/1.1\r\nHost: hub\r\nContent-Length: 9\r\n\r\nabc").unwrap();
    stop(&mut world);
    assert_eq!(world.status(), 503);
    assert!(world.binding.is_finished());
}

#[test]
fn what_http_refuses_is_answered_and_ends_the_connection() {
    for (bytes, expected) in [
        ("GET /devices/a HTTP/1.1\r\n\r\n", 400),
        ("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1048577\r\n\r\n", 413),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("\u{16}\u{3}\u{1}\r\n\r\n", 400),
    ] {
        let mut world = World::new();
        assert!(matches!(world.send(bytes), Err(Closing::Fault(_))), "{bytes:?}");
        let (status, head, body) = world.answer();
        assert_eq!(status, expected, "{bytes:?}");
        assert!(head.ends_with("Connection: close") && body["Message"].is_string(), "{head} {body}");
    }
}

#[test]
fn no_secret_is_printed() {
    let mut world = World::new();
    world.send(request("GET /devices/a", &format!("Authorization: {}\r\n", token()), "")).unwrap();
    let (_, question) = world.question();
    assert!(!format!("{question:?}").contains("sig="), "{question:?}");
}
