//! Tokens, keys and grants: who may come in, and who no longer.

use engine::monitor::{Claim, MonitorEvent, Protocol};
use engine::request::*;
use registry::sas::sign;
use registry::{DeviceKey, DeviceStatus, KeyForm, PolicyName, Rights};

use crate::world::{START_MS, World, connection, device};

const NOW_S: u64 = START_MS / 1000;

fn token(resource: &str, key: &DeviceKey, expires_s: u64, policy: Option<&str>) -> SecretText {
    SecretText::new(sign(resource, key, KeyForm::Decoded, expires_s, policy))
}

fn authenticate(world: &mut World, partition: PartitionId, token: SecretText) -> Result<Grant, EngineError> {
    let request = Request::Authenticate { partition, token, protocol: Protocol::Amqps };
    match world.ask(connection(1), request) {
        Reply::Authenticated(grant) => Ok(grant),
        Reply::Failed(error) => Err(error),
        reply => panic!("{reply:?}"),
    }
}

fn open(world: &mut World, number: usize, grant: Grant) -> Result<SessionId, EngineError> {
    let request = Request::OpenSession { device: device(number), grant, protocol: Protocol::Amqps };
    match world.ask(connection(1), request) {
        Reply::SessionOpened(session) => Ok(session),
        Reply::Failed(error) => Err(error),
        reply => panic!("{reply:?}"),
    }
}

fn update(world: &mut World, number: usize, edit: impl FnOnce(&mut DeviceDraft)) {
    let mut draft = DeviceDraft::new(device(number));
    edit(&mut draft);
    let reply = world.ask(connection(9), Request::UpdateDevice { draft, if_match: IfMatch::Any });
    assert!(matches!(reply, Reply::Device(_)), "{reply:?}");
}

fn unauthorized<T>(reason: UnauthorizedReason) -> Result<T, EngineError> {
    Err(EngineError::Unauthorized(reason))
}

#[test]
fn a_devices_token_lets_it_in_and_nobody_else() {
    let mut world = World::new(1);
    let view = world.create(1);
    world.create(10);
    let partition = world.partition_of(1);
    let key = &view.keys.primary;
    let good = token("hub.test/devices/device-1", key, NOW_S + 60, None);
    let grant = authenticate(&mut world, partition, good).unwrap();
    assert_eq!(grant.resource, ["devices", "device-1"]);
    open(&mut world, 1, grant.clone()).unwrap();
    let other = open(&mut world, 10, grant.clone());
    assert_eq!(other, unauthorized(UnauthorizedReason::NotCovered), "device-1 is no prefix of device-10");

    // Signed with a key that is not its own; for a device that does not exist; expired; unreadable.
    let mut check = |resource: &str, expires_s, reason| {
        let found = authenticate(&mut world, partition, token(resource, key, expires_s, None));
        assert_eq!(found, unauthorized(reason), "{resource}");
    };
    check("hub.test/devices/device-10", NOW_S + 60, UnauthorizedReason::Signature);
    check("hub.test/devices/device-2", NOW_S + 60, UnauthorizedReason::Signature);
    check("hub.test/devices/device-1", NOW_S - 1, UnauthorizedReason::Expired);
    check("hub.test", NOW_S + 60, UnauthorizedReason::Malformed);
    let found = authenticate(&mut world, partition, SecretText::new("SharedAccessSignature nothing"));
    assert_eq!(found, unauthorized(UnauthorizedReason::Malformed));
    let refusals = world.monitor.iter().filter_map(|event| match event {
        MonitorEvent::AccessRefused { claim, .. } => Some(claim.clone()),
        _ => None,
    });
    assert_eq!(refusals.clone().count(), 6);
    assert!(refusals.into_iter().any(|claim| claim == Claim::Device(device(10))));
}

#[test]
fn a_grant_ends_with_what_it_rests_on() {
    let mut world = World::new(1);
    let view = world.create(0);
    let grant_of = |world: &mut World, view: &DeviceView| {
        let good = token("hub.test/devices/device-0", &view.keys.secondary, NOW_S + 60, None);
        authenticate(world, PartitionId(0), good).unwrap()
    };
    let grant = grant_of(&mut world, &view);
    update(&mut world, 0, |draft| draft.primary_key = Some(DeviceKey::from_bytes(&[1; 16]).unwrap()));
    assert_eq!(open(&mut world, 0, grant), unauthorized(UnauthorizedReason::Stale));

    let view = world.find(0).unwrap();
    let grant = grant_of(&mut world, &view);
    update(&mut world, 0, |draft| draft.status = DeviceStatus::Disabled);
    assert_eq!(open(&mut world, 0, grant.clone()), Err(EngineError::DeviceDisabled));
    let good = token("hub.test/devices/device-0", &view.keys.primary, NOW_S + 60, None);
    assert_eq!(authenticate(&mut world, PartitionId(0), good), Err(EngineError::DeviceDisabled));
    update(&mut world, 0, |draft| draft.status = DeviceStatus::Enabled);
    open(&mut world, 0, grant.clone()).unwrap();

    world.ask(connection(9), Request::DeleteDevice { device: device(0), if_match: IfMatch::Any });
    assert_eq!(open(&mut world, 0, grant.clone()), Err(EngineError::DeviceNotFound));
    world.create(0);
    assert_eq!(open(&mut world, 0, grant), unauthorized(UnauthorizedReason::Stale));

    let view = world.find(0).unwrap();
    let grant = grant_of(&mut world, &view);
    world.pass(61_000);
    assert_eq!(open(&mut world, 0, grant), unauthorized(UnauthorizedReason::Expired));
}

#[test]
fn policies_act_for_devices_only_with_the_right_and_within_their_resource() {
    let mut world = World::new(1);
    world.create(0);
    let policy = |world: &mut World, name: &str| {
        let reply = world.ask(connection(9), Request::Policy(PolicyRequest::Find { name: name.to_owned() }));
        let Reply::Policy(policy) = reply else { panic!("{reply:?}") };
        *policy
    };
    assert_eq!(
        world.refused(connection(9), Request::Policy(PolicyRequest::Find { name: "nobody".to_owned() })),
        EngineError::PolicyNotFound
    );
    let device_policy = policy(&mut world, "device");
    let service_policy = policy(&mut world, "service");
    assert_eq!(device_policy.rights, Rights::DEVICE_CONNECT);

    let mut check = |view: &PolicyView, resource: &str, expected: Result<(), UnauthorizedReason>| {
        let good = token(resource, &view.keys.primary, NOW_S + 60, Some(view.name.as_str()));
        let grant = authenticate(&mut world, PartitionId(0), good).unwrap();
        let found = open(&mut world, 0, grant).map(|_| ());
        assert_eq!(found, expected.map_err(EngineError::Unauthorized), "{resource}");
    };
    check(&device_policy, "hub.test", Ok(()));
    check(&device_policy, "hub.test/devices", Ok(()));
    check(&device_policy, "hub.test/devices/device-0", Ok(()));
    check(&device_policy, "hub.test/devices/device-", Err(UnauthorizedReason::NotCovered));
    check(&device_policy, "sb://hub.test/hub", Err(UnauthorizedReason::NotCovered));
    check(&service_policy, "hub.test", Err(UnauthorizedReason::NotCovered));
    let swapped = token("hub.test", &service_policy.keys.primary, NOW_S + 60, Some("device"));
    let found = authenticate(&mut world, PartitionId(0), swapped);
    assert_eq!(found, unauthorized(UnauthorizedReason::Signature));
}

#[test]
fn raw_keys_are_as_good_as_tokens() {
    let mut world = World::new(1);
    let view = world.create(0);
    let ask = |world: &mut World, key: String| {
        let (key, protocol) = (SecretText::new(key), Protocol::Amqps);
        world.ask(connection(1), Request::AuthenticateDeviceKey { device: device(0), key, protocol })
    };
    let Reply::Authenticated(grant) = ask(&mut world, view.keys.secondary.to_base64()) else {
        panic!("refused")
    };
    open(&mut world, 0, grant).unwrap();
    let wrong = DeviceKey::from_bytes(&[9; 32]).unwrap().to_base64();
    assert!(matches!(ask(&mut world, wrong), Reply::Failed(EngineError::Unauthorized(_))));

    let Reply::Policy(policy) =
        world.ask(connection(9), Request::Policy(PolicyRequest::Find { name: "service".to_owned() }))
    else {
        panic!("no policy")
    };
    let ask = |world: &mut World, key: String| {
        let (policy, key, protocol) = ("service".to_owned(), SecretText::new(key), Protocol::Amqps);
        world.ask(connection(1), Request::AuthenticatePolicyKey { policy, key, protocol })
    };
    let Reply::Authenticated(grant) = ask(&mut world, policy.keys.primary.to_base64()) else {
        panic!("refused")
    };
    assert!(grant.resource.is_empty());
    assert!(matches!(ask(&mut world, "nonsense".to_owned()), Reply::Failed(EngineError::Unauthorized(_))));
}

#[test]
fn tokens_for_another_host_are_refused_where_hosts_are_named() {
    let mut world = World::new(1);
    let view = world.create(0);
    let mut config = world.config.clone();
    config.access.host_names = vec!["hub.test".to_owned()];
    config.access.token_skew_s = 300;
    world.config = config;
    let mut world = world.kill();
    let mut check = |resource: &str, expires_s, expected: Result<(), UnauthorizedReason>| {
        let presented = token(resource, &view.keys.primary, expires_s, None);
        let found = authenticate(&mut world, PartitionId(0), presented).map(|_| ());
        assert_eq!(found, expected.map_err(EngineError::Unauthorized), "{resource}");
    };
    check("HUB.test:8883/devices/device-0", NOW_S + 60, Ok(()));
    check("other.test/devices/device-0", NOW_S + 60, Err(UnauthorizedReason::NotCovered));
    check("hub.test/devices/device-0", NOW_S - 300, Ok(()));
    check("hub.test/devices/device-0", NOW_S - 301, Err(UnauthorizedReason::Expired));
}

#[test]
fn a_policy_that_changes_takes_its_grants_with_it() {
    let mut world = World::new(1);
    let name = |text: &str| PolicyName::parse(text).unwrap();
    let policy_token = |world: &mut World, name: &str| {
        let reply = world.ask(connection(9), Request::Policy(PolicyRequest::Find { name: name.to_owned() }));
        let Reply::Policy(policy) = reply else { panic!("{reply:?}") };
        token("hub.test", &policy.keys.primary, NOW_S + 60, Some(name))
    };
    let ask = |token: &SecretText, protocol| {
        let (partition, token) = (PartitionId(0), token.clone());
        Request::Authenticate { partition, token, protocol }
    };
    let renew = |name: PolicyName| {
        let (primary_key, secondary_key) = (KeyWish::New, KeyWish::Keep);
        Request::Policy(PolicyRequest::Put(PolicyDraft { name, rights: None, primary_key, secondary_key }))
    };
    let good = policy_token(&mut world, "service");
    let other = policy_token(&mut world, "device");
    for (slot, token, protocol) in [
        (1, &good, Protocol::Amqps),
        (2, &good, Protocol::Https),
        (3, &other, Protocol::Mqtts),
        (4, &good, Protocol::MqttsWebSocket),
        (5, &good, Protocol::Amqps),
    ] {
        let reply = world.ask(connection(slot), ask(token, protocol));
        assert!(matches!(reply, Reply::Authenticated(_)), "{reply:?}");
    }
    world.shard.handle_connection_closed(connection(5), world.now);
    // One whose answer is on its way in the very turn is refused.
    let late = world.send(connection(6), ask(&good, Protocol::Amqps));
    let done = world.send(connection(9), renew(name("service")));
    world.settle();
    assert!(matches!(world.take(done), Some(Reply::Policy(_))));
    let stale = Some(Reply::Failed(EngineError::Unauthorized(UnauthorizedReason::Stale)));
    assert_eq!(format!("{:?}", world.take(late)), format!("{stale:?}"));
    let mut told: Vec<u32> = std::mem::take(&mut world.notices)
        .into_iter()
        .map(|(connection, notice)| {
            assert!(
                matches!(&notice, Notice::PolicyChanged { name } if name.as_str() == "service"),
                "{notice:?}"
            );
            connection.slot
        })
        .collect();
    told.sort();
    assert_eq!(told, [1, 4, 6]);
    let refused = world.refused(connection(1), ask(&good, Protocol::Amqps));
    assert_eq!(refused, EngineError::Unauthorized(UnauthorizedReason::Signature));

    // It is so for good, and a policy that is deleted stays away.
    let Reply::Done =
        world.ask(connection(9), Request::Policy(PolicyRequest::Delete { name: "device".into() }))
    else {
        panic!("not deleted")
    };
    assert_eq!(world.notices.len(), 1);
    let mut world = world.cut_power(7);
    for token in [&good, &other] {
        let refused = world.refused(connection(1), ask(token, Protocol::Amqps));
        assert_eq!(refused, EngineError::Unauthorized(UnauthorizedReason::Signature));
    }
    let reply = world.ask(connection(9), Request::Policy(PolicyRequest::List));
    let Reply::Policies(policies) = reply else { panic!("{reply:?}") };
    let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["iothubowner", "registryRead", "registryReadWrite", "service"]);
    assert!(matches!(world.ask(connection(9), renew(name("service"))), Reply::Policy(_)));
    let unknown = world.refused(connection(9), renew(name("device")));
    assert_eq!(unknown, EngineError::PolicyNotFound);
}
