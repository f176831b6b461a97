//! Events of devices that are not attached: stored as those of a session, which they leave alone.

use engine::monitor::{MonitorEvent, Protocol};
use engine::request::*;
use registry::{DeviceStatus, Rights};

use crate::world::{World, connection, device, hub_grant};

fn append_request(number: usize, grant: Grant, bodies: &[&[u8]]) -> Request {
    let mut events = EventBlock::default();
    for message in bodies {
        events.push(&EventView { message, annotations: b"", annotation_value_count: 0 });
    }
    Request::AppendUnattached(UnattachedAppend {
        device: device(number),
        grant,
        protocol: Protocol::Https,
        events,
    })
}

fn own_grant(view: &DeviceView) -> Grant {
    let principal =
        Principal::Device { device: view.device.clone(), generation: view.generation, keys_version: 1 };
    let resource = vec!["devices".to_owned(), view.device.as_str().to_owned()];
    Grant { principal, resource, expires_s: u64::MAX }
}

#[test]
fn they_are_stored_in_order_and_end_no_session() {
    let mut world = World::new(1);
    let view = world.create(1);
    assert_eq!((view.last_activity_ms, view.connection_updated_ms), (None, None));
    let appended = world.ask(connection(2), append_request(1, own_grant(&view), &[b"one", b"two"]));
    assert!(matches!(appended, Reply::Appended { first: SequenceNumber(0), event_count: 2 }), "{appended:?}");
    let seen = world.find(1).unwrap();
    assert!(seen.last_activity_ms.is_some() && !seen.connected && seen.connection_updated_ms.is_none());

    let session = world.attach(connection(1), 1);
    world.ask(connection(2), append_request(1, hub_grant(), &[b"three"]));
    assert_eq!(world.append(connection(1), session, b"four"), Ok(3), "the session lives on");
    assert!(world.notices.is_empty());
    let bodies: Vec<Vec<u8>> = world.read_all(PartitionId(0)).into_iter().map(|(_, _, body)| body).collect();
    assert_eq!(bodies, [&b"one"[..], b"two", b"three", b"four"]);
}

#[test]
fn whoever_may_not_is_refused_and_told() {
    let mut world = World::new(1);
    let view = world.create(1);
    world.create(10);
    let grant = own_grant(&view);
    let refused = |world: &mut World, number, grant: &Grant, bodies: &[&[u8]]| {
        world.refused(connection(2), append_request(number, grant.clone(), bodies))
    };
    let not_covered = EngineError::Unauthorized(UnauthorizedReason::NotCovered);
    assert_eq!(refused(&mut world, 10, &grant, &[b"x"]), not_covered);
    assert_eq!(refused(&mut world, 2, &hub_grant(), &[b"x"]), EngineError::DeviceNotFound);
    let mut weak = hub_grant();
    if let Principal::Policy { rights, .. } = &mut weak.principal {
        *rights = Rights::SERVICE_CONNECT;
    }
    assert_eq!(refused(&mut world, 1, &weak, &[b"x"]), not_covered);
    let late = Grant { expires_s: 1, ..grant.clone() };
    assert_eq!(
        refused(&mut world, 1, &late, &[b"x"]),
        EngineError::Unauthorized(UnauthorizedReason::Expired)
    );
    let large = vec![0; 5000];
    assert!(matches!(
        refused(&mut world, 1, &grant, &[b"x", &large]),
        EngineError::EventTooLarge { bytes: 5000, bytes_max: 4096 }
    ));

    let draft = DeviceDraft { status: DeviceStatus::Disabled, ..DeviceDraft::new(device(1)) };
    world.ask(connection(9), Request::UpdateDevice { draft, if_match: IfMatch::Any });
    assert_eq!(refused(&mut world, 1, &grant, &[b"x"]), EngineError::DeviceDisabled);
    world.ask(connection(9), Request::DeleteDevice { device: device(1), if_match: IfMatch::Any });
    world.create(1);
    assert_eq!(refused(&mut world, 1, &grant, &[b"x"]), EngineError::Unauthorized(UnauthorizedReason::Stale));
    assert!(world.read_all(PartitionId(0)).is_empty(), "nothing of all this is stored");
    let told = |event: &&MonitorEvent| matches!(event, MonitorEvent::EventsRefused { .. });
    assert_eq!(world.monitor.iter().filter(told).count(), 7);
}

/// An event says which of the identities of its device's id sent it. If that identity could still be lost, the log would
/// name one that never was.
#[test]
fn they_wait_for_the_identity_that_they_rest_on() {
    let mut world = World::new(1);
    world.settle();
    world.disk.set_delayed(true);
    let created = world.send(connection(9), Request::CreateDevice(DeviceDraft::new(device(1))));
    let appended = world.send(connection(2), append_request(1, hub_grant(), &[b"x"]));
    let mut steps = 0;
    loop {
        world.turn();
        let is_created = world.replies.contains_key(&created);
        if world.take(appended).is_some() {
            assert!(is_created, "the event was stored before its device");
            break;
        }
        if !is_created {
            let Reply::PartitionStatus(status) = ({
                let token =
                    world.send(connection(9), Request::DescribePartition { partition: PartitionId(0) });
                world.turn();
                world.take(token).unwrap()
            }) else {
                panic!()
            };
            assert_eq!(status.next, SequenceNumber(0));
        }
        assert!(world.disk.step(), "neither an answer nor anything to do");
        steps += 1;
    }
    assert!(steps > 1, "answered while the disk had done nothing");
}
