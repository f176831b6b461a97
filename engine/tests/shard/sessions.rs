//! Sessions: the newest connection wins, and what may no longer be ends at once.

use engine::monitor::MonitorEvent;
use engine::request::*;
use registry::{DeviceKey, DeviceStatus};

use crate::world::{World, connection, device};

fn ended(session: SessionId, reason: SessionEnd) -> Notice {
    Notice::SessionEnded { session, reason }
}

fn take_notices(world: &mut World) -> Vec<(ConnectionId, String)> {
    world.notices.drain(..).map(|(to, notice)| (to, format!("{notice:?}"))).collect()
}

#[test]
fn nothing_of_an_ended_session_is_stored_behind_the_next_ones_first_event() {
    let mut world = World::new(1);
    world.create(0);
    let (old, new) = (connection(1), connection(2));
    let first = world.attach(old, 0);
    // All of this arrives in one turn: an event of the old link, the new link, and more of both.
    let kept = world.send_events(old, first, &[b"old 1".to_vec()]);
    let opened = world.send(new, World::open_request(0));
    let refused = world.send_events(old, first, &[b"old 2".to_vec()]);
    assert_eq!(
        take_notices(&mut world),
        [(old, format!("{:?}", ended(first, SessionEnd::Stolen)))],
        "told before anything is answered"
    );
    world.settle();
    let Some(Reply::SessionOpened(second)) = world.take(opened) else { panic!("not opened") };
    assert!(matches!(world.take(kept), Some(Reply::Appended { .. })));
    let error = Reply::Failed(EngineError::SessionEnded(Some(SessionEnd::Stolen)));
    assert_eq!(format!("{:?}", world.take(refused).unwrap()), format!("{error:?}"));
    world.append(new, second, b"new 1").unwrap();
    assert!(world.append(old, first, b"old 3").is_err());
    assert!(world.append(old, second, b"with the other's session").is_err());
    let bodies: Vec<_> = world.read_all(PartitionId(0)).into_iter().map(|(_, _, body)| body).collect();
    assert_eq!(bodies, [b"old 1", b"new 1"]);
    assert_eq!(world.shard.counters().events_refused, 3);
}

#[test]
fn links_of_one_connection_share_the_session() {
    let mut world = World::new(1);
    world.create(0);
    let by = connection(1);
    let session = world.attach(by, 0);
    assert_eq!(world.attach(by, 0), session);
    assert!(world.notices.is_empty());
    world.send(by, Request::CloseSession { session });
    assert_eq!(world.append(by, session, b"late"), Err(EngineError::SessionEnded(None)));
    let disconnected =
        |event: &MonitorEvent| matches!(event, MonitorEvent::DeviceDisconnected { reason: None, .. });
    assert_eq!(world.monitor.iter().filter(|event| disconnected(event)).count(), 1);
}

#[test]
fn a_session_that_is_stolen_while_its_answer_waits_is_never_told_as_open() {
    let mut world = World::new(1);
    world.create(0);
    // An answer waits for the journal while a change is on its way.
    let create = world.send(connection(9), Request::CreateDevice(DeviceDraft::new(device(1))));
    let first = world.send(connection(1), World::open_request(0));
    let second = world.send(connection(2), World::open_request(0));
    world.settle();
    assert!(matches!(world.take(create), Some(Reply::Device(_))));
    let stolen = EngineError::SessionEnded(Some(SessionEnd::Stolen));
    assert!(matches!(world.take(first), Some(Reply::Failed(error)) if error == stolen));
    assert!(matches!(world.take(second), Some(Reply::SessionOpened(_))));
}

#[test]
fn a_device_that_may_no_longer_be_is_cut_off_before_the_answer() {
    let by = connection(1);
    let disable = |draft: &mut DeviceDraft| draft.status = DeviceStatus::Disabled;
    let change_key = |draft: &mut DeviceDraft| {
        draft.secondary_key = Some(DeviceKey::from_bytes(&[3; 32]).unwrap());
    };
    let rename = |draft: &mut DeviceDraft| draft.status_reason = Some("a new reason".to_owned());
    type Edit = fn(&mut DeviceDraft);
    let cases: [(Edit, Option<SessionEnd>); 3] =
        [(disable, Some(SessionEnd::Disabled)), (change_key, Some(SessionEnd::KeysChanged)), (rename, None)];
    for (edit, reason) in cases {
        let mut world = World::new(2);
        world.create(0);
        world.create(1);
        let (session, other) = (world.attach(by, 0), world.attach(by, 1));
        let mut draft = DeviceDraft::new(device(0));
        edit(&mut draft);
        let token = world.send(connection(9), Request::UpdateDevice { draft, if_match: IfMatch::Any });
        assert!(!world.replies.contains_key(&token), "the answer waits for the journal");
        let told = take_notices(&mut world);
        let expected: Vec<_> =
            reason.map(|reason| (by, format!("{:?}", ended(session, reason)))).into_iter().collect();
        assert_eq!(told, expected);
        world.settle();
        let appended = world.append(by, session, b"still there?");
        match reason {
            Some(reason) => assert_eq!(appended, Err(EngineError::SessionEnded(Some(reason)))),
            None => assert_eq!(appended, Ok(0)),
        }
        world.append(by, other, b"others are not concerned").unwrap();
    }
}

#[test]
fn a_device_created_again_is_another_one() {
    let mut world = World::new(1);
    let before = world.create(0);
    let session = world.attach(connection(1), 0);
    world.append(connection(1), session, b"first life").unwrap();
    let delete = Request::DeleteDevice { device: device(0), if_match: IfMatch::ETag(before.etag) };
    assert!(matches!(world.ask(connection(9), delete), Reply::Done));
    assert_eq!(take_notices(&mut world).len(), 1);
    // In the very same millisecond, and with a clock that went back.
    world.now.wall_ms -= 5000;
    let after = world.create(0);
    assert!(after.generation > before.generation);
    assert_ne!(after.etag, before.etag);
    assert_ne!(after.keys, before.keys);
    assert_eq!((after.connected, after.last_activity_ms), (false, None));
    let refused = world.append(connection(1), session, b"from the first life");
    assert_eq!(refused, Err(EngineError::SessionEnded(Some(SessionEnd::Deleted))));
}

#[test]
fn a_connection_that_goes_takes_its_sessions_along() {
    let mut world = World::new(2);
    for number in 0..5 {
        world.create(number);
        world.attach(connection(1), number);
    }
    let stays = world.attach(connection(2), 4);
    take_notices(&mut world);
    world.shard.handle_connection_closed(connection(1), world.now);
    assert!(take_notices(&mut world).is_empty());
    assert!(!world.find(0).unwrap().connected);
    assert!(world.find(4).unwrap().connected);
    world.append(connection(2), stays, b"here").unwrap();
    let counters = *world.shard.counters();
    assert_eq!((counters.connects, counters.disconnects), (6, 5));
}

#[test]
fn a_view_tells_who_is_attached_and_when_it_was_last_seen() {
    let mut world = World::new(1);
    let created = world.create(0);
    assert_eq!(
        (created.connected, created.connection_updated_ms, created.last_activity_ms),
        (false, None, None)
    );
    world.pass(1000);
    let attached_ms = world.now.wall_ms;
    let session = world.attach(connection(1), 0);
    world.pass(500);
    world.append(connection(1), session, b"alive").unwrap();
    let view = world.find(0).unwrap();
    assert!(view.connected);
    assert_eq!(view.connection_updated_ms, Some(attached_ms));
    assert_eq!(view.last_activity_ms, Some(attached_ms + 500));
}
