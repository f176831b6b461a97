//! What a device asks: events in every form, and the bodies that it takes to say them.

use engine::request::{EventBlock, UnattachedAppend};
use net_amqp::{Body, Sections};

use super::*;

fn device_token(id: &str) -> String {
    let key = DeviceKey::from_bytes(&[1; 32]).unwrap();
    sas::sign(&format!("hub.test/devices/{id}"), &key, KeyForm::Decoded, 2_000_000_000, None)
}

pub(super) fn device_grant(id: &str) -> Grant {
    let device = DeviceId::parse(id).unwrap();
    let principal = Principal::Device { device, generation: GenerationId(1), keys_version: 1 };
    Grant { principal, resource: vec!["devices".into(), id.into()], expires_s: 2_000_000_000 }
}

/// Send a request with a device's token that the engine takes for good.
fn send_as(world: &mut World, id: &str, line: &str, headers: &str, body: &str) {
    let authorization = format!("Authorization: {}\r\n{headers}", device_token(id));
    world.send(request(line, &authorization, body)).unwrap();
    let (token, question) = world.question();
    assert!(matches!(question, Request::Authenticate { .. }), "{question:?}");
    world.reply(token, Reply::Authenticated(device_grant(id)));
}

fn append(world: &mut World) -> (u64, UnattachedAppend) {
    match world.question() {
        (token, Request::AppendUnattached(append)) => (token, append),
        other => panic!("{other:?}"),
    }
}

fn bodies(events: &EventBlock) -> Vec<Vec<u8>> {
    let body = |event: engine::request::EventView<'_>| match Sections::parse(event.message).unwrap().body {
        Body::Data(data) => data.single().unwrap().to_vec(),
        other => panic!("{other:?}"),
    };
    events.views().into_iter().map(body).collect()
}

#[test]
fn an_event_is_answered_once_it_is_durable() {
    let mut world = World::new();
    let headers = "iothub-app-A: 1\r\nIoTHub-MessageId: m\r\niothub-interface-id: urn:i\r\n";
    send_as(
        &mut world,
        "d#1",
        "POST /devices/d%231/messages/events?api-version=2021-04-12",
        headers,
        "hello",
    );
    let (token, sent) = append(&mut world);
    assert_eq!((sent.device.as_str(), &sent.grant), ("d#1", &device_grant("d#1")));
    assert_eq!(bodies(&sent.events), [b"hello"]);
    assert_eq!(sent.events.spans[0].annotation_value_count, 2);
    assert!(world.output.is_empty() && !world.binding.wants_input());
    let durable = engine::request::SequenceNumber(0);
    world.reply(token, Reply::Appended { first: durable, event_count: 1 });
    let (status, head, _) = world.answer();
    assert_eq!(status, 204);
    assert!(!head.to_ascii_lowercase().contains("content-length"), "{head}");
    // The next one on the same connection, refused by the engine.
    send_as(&mut world, "d", "POST /Devices/d/Messages/Events", "", "");
    let (token, sent) = append(&mut world);
    assert_eq!(bodies(&sent.events), [b""]);
    world.reply(token, Reply::Failed(EngineError::StorageFull));
    let (status, head, _) = world.answer();
    assert_eq!(status, 403);
    assert!(head.contains("iothub-errorcode: IotHubQuotaExceeded"), "{head}");
}

#[test]
fn a_batch_is_one_request_to_the_engine() {
    let mut world = World::new();
    let headers = "Content-Type: application/vnd.microsoft.iothub.json; charset=utf-8\r\n";
    let body = r#"[{"body":"b25l"},{"body":"two","base64Encoded":false}]"#;
    send_as(&mut world, "d", "POST /devices/d/messages/events", headers, body);
    let (token, sent) = append(&mut world);
    assert_eq!(bodies(&sent.events), [b"one", b"two"]);
    world.reply(token, Reply::Appended { first: engine::request::SequenceNumber(0), event_count: 2 });
    assert_eq!(world.status(), 204);
    send_as(&mut world, "d", "POST /devices/d/messages/events", headers, "{}");
    assert!(world.door.asked.is_empty());
    assert_eq!(world.status(), 400);
}

#[test]
fn nobody_speaks_for_another_device() {
    let path = "POST /devices/dev1/messages/events";
    for id in ["dev10", "dev", "DEV1"] {
        let mut world = World::new();
        send_as(&mut world, id, path, "", "x");
        assert!(world.door.asked.is_empty());
        assert_eq!(world.status(), 401, "{id}");
    }
    for (rights, may) in
        [(Rights::DEVICE_CONNECT, true), (Rights::SERVICE_CONNECT | Rights::REGISTRY_WRITE, false)]
    {
        let mut world = World::new();
        world.send_with(rights, path, "", "x");
        assert_eq!(world.door.asked.len(), usize::from(may), "{rights:?}");
    }
    // Whoever administers the hub is no device.
    let mut world = World::new();
    world.send(request(path, "Authorization: Bearer of-this-run\r\n", "x")).unwrap();
    assert_eq!(world.status(), 401);
    let mut world = World::new();
    send_as(&mut world, "d", "GET /devices/d", "", "");
    assert_eq!(world.status(), 401, "a device does not manage itself");
}

#[test]
fn long_bodies_are_taken_from_those_who_are_known() {
    let chunk = "x".repeat(STRANGER_BYTES_MAX);
    let length = 3 * STRANGER_BYTES_MAX;
    let head = |authorization: &str| {
        format!(
            "POST /devices/d/messages/events HTTP/1.1\r\nHost: hub\r\n{authorization}Content-Length: {length}\r\n\r\n"
        )
    };
    // A stranger is refused before the body has come.
    let mut world = World::new();
    world.send(head("")).unwrap();
    world.send(&chunk).unwrap();
    assert!(world.output.is_empty());
    world.send("x").unwrap();
    assert_eq!(world.status(), 401);
    assert!(world.binding.is_finished());
    // The token is verified before more is taken.
    let mut world = World::new();
    world.send(head(&format!("Authorization: {}\r\n", device_token("d")))).unwrap();
    world.send(&chunk).unwrap();
    assert!(world.door.asked.is_empty());
    world.send(&chunk).unwrap();
    let (token, _) = world.question();
    assert!(!world.binding.wants_input());
    world.reply(token, Reply::Authenticated(device_grant("d")));
    assert!(world.binding.wants_input() && world.output.is_empty());
    world.send(&chunk).unwrap();
    let (_, sent) = append(&mut world);
    assert_eq!(bodies(&sent.events)[0].len(), length);
    // What no route of that length is for.
    let mut world = World::new();
    let long = "x".repeat(STRANGER_BYTES_MAX + 1);
    world.send_with(Rights::ALL, "PUT /devices/d", "", &long);
    assert_eq!(world.status(), 413);
    let mut world = World::new();
    world.send_with(Rights::ALL, "PUT /nothing", "", &long);
    assert_eq!(world.status(), 404);
}

#[test]
fn a_resource_says_which_methods_it_knows() {
    for (line, expected) in [
        ("PATCH /devices/d", "DELETE, GET, PUT"),
        ("GET /devices/d/messages/events", "POST"),
        ("POST /statistics/devices", "GET"),
    ] {
        let mut world = World::new();
        world.send_with(Rights::ALL, line, "", "");
        let (status, head, _) = world.answer();
        assert_eq!(status, 405, "{line}");
        assert!(head.contains(&format!("\r\nAllow: {expected}\r\n")), "{head}");
    }
}
