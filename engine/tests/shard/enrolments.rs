//! Enrolments: who proves itself by them, and what a registration leaves behind when it is cut off, repeated or forgotten.

use engine::monitor::{Claim, MonitorEvent, Protocol};
use engine::request::*;
use registry::sas::sign;
use registry::{
    Assignment, DeviceKey, DeviceStatus, EnrolmentDraft, EnrolmentId, EnrolmentKind, EnrolmentName,
    EnrolmentRef, EnrolmentSettings, GenerationId, KeyForm, Registration, RegistryError, Stage, derive_key,
};

use crate::world::{START_MS, World, connection, device};

const NOW_S: u64 = START_MS / 1000;
const SCOPE: &str = "0ne12345678";

fn id(text: &str) -> EnrolmentId {
    EnrolmentId::parse(text).unwrap()
}

fn group_key() -> DeviceKey {
    DeviceKey::from_bytes(&[3; 64]).unwrap()
}

fn other_key() -> DeviceKey {
    DeviceKey::from_bytes(&[4; 64]).unwrap()
}

fn draft(kind: EnrolmentKind, name: &str, key: &DeviceKey) -> EnrolmentDraft {
    EnrolmentDraft {
        name: EnrolmentName { kind, id: id(name) },
        primary_key: Some(key.clone()),
        secondary_key: None,
        status: DeviceStatus::Enabled,
        device: None,
        settings: EnrolmentSettings::default(),
    }
}

fn ask(world: &mut World, request: EnrolmentRequest) -> Result<EnrolmentReply, EngineError> {
    match world.ask(connection(1), Request::Enrolment(request)) {
        Reply::Enrolment(reply) => Ok(reply),
        Reply::Failed(error) => Err(error),
        reply => panic!("{reply:?}"),
    }
}

fn done(world: &mut World, request: EnrolmentRequest) {
    assert!(matches!(world.ask(connection(1), Request::Enrolment(request)), Reply::Done));
}

fn create(world: &mut World, draft: EnrolmentDraft) -> EnrolmentRef {
    match ask(world, EnrolmentRequest::Create(draft)) {
        Ok(EnrolmentReply::Enrolment(made)) => made.reference(),
        reply => panic!("{reply:?}"),
    }
}

fn set_status(world: &mut World, mut draft: EnrolmentDraft, status: DeviceStatus) {
    draft.status = status;
    ask(world, EnrolmentRequest::Update { draft, if_match: IfMatch::Any }).unwrap();
}

fn delete(world: &mut World, kind: EnrolmentKind, name: &str) {
    let name = EnrolmentName { kind, id: id(name) };
    ask(world, EnrolmentRequest::Delete { name, if_match: IfMatch::Any }).unwrap();
}

/// A proof for `registration` whose token names `resource`.
fn proof_for(registration: &str, resource: &str, key: &DeviceKey, expires_s: u64) -> Proof {
    let token = sign(resource, key, KeyForm::Decoded, expires_s, Some("registration"));
    Proof {
        registration: id(registration),
        scope: SCOPE.to_owned(),
        token: SecretText::new(token),
        protocol: Protocol::Https,
    }
}

fn proof(registration: &str, key: &DeviceKey) -> Proof {
    let now_s = NOW_S + 60;
    proof_for(registration, &format!("{SCOPE}/registrations/{registration}"), key, now_s)
}

/// Prove a device as its binding does: by its own enrolment, then by groups.
fn attest(world: &mut World, proof: Proof) -> Result<Box<Attested>, EngineError> {
    let reply = match ask(world, EnrolmentRequest::Attest(proof.clone()))? {
        EnrolmentReply::AskGroups { group } => ask(world, EnrolmentRequest::AttestByGroup { proof, group })?,
        reply => reply,
    };
    match reply {
        EnrolmentReply::Attested(attested) => Ok(attested),
        reply => panic!("{reply:?}"),
    }
}

fn assign(world: &mut World, attested: &Attested) -> Result<GenerationId, EngineError> {
    match ask(world, EnrolmentRequest::Assign(Box::new(attested.clone())))? {
        EnrolmentReply::Assigned { generation } => Ok(generation),
        reply => panic!("{reply:?}"),
    }
}

fn register_request(attested: &Attested, generation: GenerationId, force: bool) -> EnrolmentRequest {
    EnrolmentRequest::Register(Assignment {
        registration: attested.registration.clone(),
        enrolment: attested.enrolment,
        device: attested.device.clone(),
        generation,
        force,
    })
}

/// All four questions.
fn registered(world: &mut World, proof: Proof, force: bool) -> Result<Registration, EngineError> {
    let attested = attest(world, proof)?;
    let generation = assign(world, &attested)?;
    match ask(world, register_request(&attested, generation, force))? {
        EnrolmentReply::Registration(record) => Ok(*record),
        reply => panic!("{reply:?}"),
    }
}

fn find(world: &mut World, registration: &str) -> Result<Registration, EngineError> {
    match ask(world, EnrolmentRequest::FindRegistration { registration: id(registration) })? {
        EnrolmentReply::Registration(record) => Ok(*record),
        reply => panic!("{reply:?}"),
    }
}

fn no_registration<T>() -> Result<T, EngineError> {
    Err(EngineError::Registry(RegistryError::RegistrationNotFound))
}

fn unauthorized<T>(reason: UnauthorizedReason) -> Result<T, EngineError> {
    Err(EngineError::Unauthorized(reason))
}

#[test]
fn a_device_proves_itself_by_its_enrolment_alone() {
    let mut world = World::new(1);
    let single = draft(EnrolmentKind::Single, "device-1", &other_key());
    let mut named = draft(EnrolmentKind::Single, "named", &other_key());
    named.device = Some(device(7));
    create(&mut world, single.clone());
    create(&mut world, named);
    let group = create(&mut world, draft(EnrolmentKind::Group, "line", &group_key()));

    let attested = attest(&mut world, proof("device-1", &other_key())).unwrap();
    assert_eq!((attested.device, attested.enrolment.kind), (device(1), EnrolmentKind::Single));
    assert_eq!(attest(&mut world, proof("named", &other_key())).unwrap().device, device(7));
    let derived = derive_key(&group_key(), "device-2");
    let attested = attest(&mut world, proof("device-2", &derived)).unwrap();
    assert_eq!((attested.device, attested.enrolment), (device(2), group));
    assert_eq!(attested.keys.primary, derived);

    // Another's key, the group's own; a single enrolment has the word where there is one.
    let signature = || unauthorized(UnauthorizedReason::Signature);
    let mut check = |presented: Proof, expected: Result<(), EngineError>| {
        assert_eq!(attest(&mut world, presented).map(|_| ()), expected);
    };
    check(proof("device-1", &group_key()), signature());
    check(proof("device-1", &derive_key(&group_key(), "device-1")), signature());
    check(proof("device-2", &group_key()), signature());
    check(proof("device-3", &derived), signature());
    // Expired, for another, for another scope, unreadable.
    let resource = format!("{SCOPE}/registrations/device-2");
    let expired = proof_for("device-2", &resource, &derived, NOW_S - 1);
    check(expired, unauthorized(UnauthorizedReason::Expired));
    let not_covered = || unauthorized(UnauthorizedReason::NotCovered);
    check(proof_for("device-3", &resource, &derived, NOW_S + 60), not_covered());
    check(proof_for("device-2", "0ne0/registrations/device-2", &derived, NOW_S + 60), not_covered());
    check(proof_for("device-2", &format!("{SCOPE}/devices/device-2"), &derived, NOW_S + 60), not_covered());
    let unreadable = Proof { token: SecretText::new("nothing"), ..proof("device-2", &derived) };
    check(unreadable, unauthorized(UnauthorizedReason::Malformed));
    let refusals = world.monitor.iter().filter_map(|event| match event {
        MonitorEvent::AccessRefused { claim, .. } => Some(claim.clone()),
        _ => None,
    });
    assert_eq!(refusals.clone().count(), 9);
    assert!(refusals.into_iter().any(|claim| claim == Claim::Device(device(3))));

    // Only who has the key learns that it is disabled; and it shuts out, whatever its group says.
    set_status(&mut world, single, DeviceStatus::Disabled);
    let disabled = attest(&mut world, proof("device-1", &other_key())).map(|_| ());
    assert_eq!(disabled, Err(EngineError::EnrolmentDisabled));
    assert_eq!(attest(&mut world, proof("device-1", &derived)).map(|_| ()), signature());
    let shut_out = proof("device-1", &derive_key(&group_key(), "device-1"));
    assert_eq!(attest(&mut world, shut_out).map(|_| ()), signature());
    let line = draft(EnrolmentKind::Group, "line", &group_key());
    set_status(&mut world, line, DeviceStatus::Disabled);
    let disabled = attest(&mut world, proof("device-2", &derived)).map(|_| ());
    assert_eq!(disabled, Err(EngineError::EnrolmentDisabled));
}

/// What was answered is there after a crash; what was not is made by the next attempt, with the same identity.
#[test]
fn a_registration_survives_a_crash_between_its_steps() {
    for seed in 0..8 {
        let mut world = World::new(2);
        create(&mut world, draft(EnrolmentKind::Group, "line", &group_key()));
        let derived = derive_key(&group_key(), "device-1");
        let attested = attest(&mut world, proof("device-1", &derived)).unwrap();
        let generation = assign(&mut world, &attested).unwrap();
        // The record is on its way, or was not even asked for.
        if seed % 2 == 0 {
            world.disk.set_delayed(true);
            let request = Request::Enrolment(register_request(&attested, generation, false));
            let token = world.send(connection(1), request);
            world.turn();
            let early = world.take(token);
            assert!(early.is_none(), "answered before it is durable: {early:?}");
        }
        let mut world = if seed < 4 { world.cut_power(seed) } else { world.kill() };
        world.assert_healthy();
        let view = world.find(1).expect("the identity was answered");
        assert_eq!((view.generation, &view.keys.primary), (generation, &derived));
        assert_eq!(view.life.stage(view.status), Stage::Bootstrapped);
        if seed % 2 == 1 {
            assert_eq!(find(&mut world, "device-1"), no_registration());
        }

        let record = registered(&mut world, proof("device-1", &derived), false).unwrap();
        assert_eq!((&record.device, record.generation), (&device(1), generation));
        let mut world = world.cut_power(seed);
        world.assert_healthy();
        assert_eq!(find(&mut world, "device-1"), Ok(record));
        assert_eq!(world.find(1).unwrap().etag, view.etag, "the identity was left as it was");
    }
}

#[test]
fn who_registers_again_keeps_its_identity() {
    let mut world = World::new(2);
    let line = draft(EnrolmentKind::Group, "line", &group_key());
    create(&mut world, line.clone());
    let derived = derive_key(&group_key(), "device-1");
    let first = registered(&mut world, proof("device-1", &derived), false).unwrap();
    world.pass(1000);
    let again = registered(&mut world, proof("device-1", &derived), false).unwrap();
    assert_eq!((again.incarnation, again.created_ms), (first.incarnation, first.created_ms));
    assert!(again.etag != first.etag && again.updated_ms == START_MS + 1000);
    let forced = registered(&mut world, proof("device-1", &derived), true).unwrap();
    assert!(forced.incarnation != first.incarnation && forced.created_ms == START_MS + 1000);
    assert_eq!(forced.generation, first.generation);

    // Other keys of its group, and still disabled: the identity follows with its keys alone.
    let mut disabled = DeviceDraft::new(device(1));
    disabled.status = DeviceStatus::Disabled;
    world.ask(connection(9), Request::UpdateDevice { draft: disabled, if_match: IfMatch::Any });
    let renewed = EnrolmentDraft { primary_key: Some(other_key()), ..line };
    ask(&mut world, EnrolmentRequest::Update { draft: renewed, if_match: IfMatch::Any }).unwrap();
    let refused = attest(&mut world, proof("device-1", &derived)).map(|_| ());
    assert_eq!(refused, unauthorized(UnauthorizedReason::Signature));
    let other = derive_key(&other_key(), "device-1");
    registered(&mut world, proof("device-1", &other), false).unwrap();
    let view = world.find(1).unwrap();
    assert_eq!((view.generation, &view.keys.primary), (first.generation, &other));
    assert_eq!(view.status, DeviceStatus::Disabled);

    // A deleted one comes back as a new one.
    world.ask(connection(9), Request::DeleteDevice { device: device(1), if_match: IfMatch::Any });
    let record = registered(&mut world, proof("device-1", &other), false).unwrap();
    assert!(record.generation != first.generation && record.incarnation != forced.incarnation);
}

#[test]
fn an_identity_is_not_taken_over() {
    let mut world = World::new(2);
    create(&mut world, draft(EnrolmentKind::Group, "line", &group_key()));
    let before = world.create(1);
    let taken = registered(&mut world, proof("device-1", &derive_key(&group_key(), "device-1")), false);
    assert_eq!(taken, Err(EngineError::Registry(RegistryError::DeviceTaken)));
    // Nor does an enrolment give what another registration has.
    registered(&mut world, proof("device-2", &derive_key(&group_key(), "device-2")), false).unwrap();
    let mut greedy = draft(EnrolmentKind::Single, "greedy", &other_key());
    greedy.device = Some(device(2));
    create(&mut world, greedy);
    let taken = registered(&mut world, proof("greedy", &other_key()), false);
    assert_eq!(taken, Err(EngineError::Registry(RegistryError::DeviceTaken)));
    assert_eq!(find(&mut world, "greedy"), no_registration());
    assert_eq!(world.find(1).unwrap().etag, before.etag);
}

#[test]
fn a_deleted_enrolment_takes_its_registrations_along() {
    let mut world = World::new(2);
    create(&mut world, draft(EnrolmentKind::Single, "device-0", &other_key()));
    let group = create(&mut world, draft(EnrolmentKind::Group, "line", &group_key()));
    let kept = create(&mut world, draft(EnrolmentKind::Group, "kept", &other_key()));
    registered(&mut world, proof("device-0", &other_key()), false).unwrap();
    for number in 1..6 {
        let name = format!("device-{number}");
        registered(&mut world, proof(&name, &derive_key(&group_key(), &name)), false).unwrap();
    }
    let other = derive_key(&other_key(), "device-9");
    assert_eq!(registered(&mut world, proof("device-9", &other), false).unwrap().enrolment, kept);
    // One that has a group is not let in by another.
    let stranger = proof("device-1", &derive_key(&other_key(), "device-1"));
    assert_eq!(attest(&mut world, stranger.clone()).map(|_| ()), unauthorized(UnauthorizedReason::Signature));

    delete(&mut world, EnrolmentKind::Single, "device-0");
    assert_eq!(find(&mut world, "device-0"), no_registration());
    delete(&mut world, EnrolmentKind::Group, "line");
    for partition in 0..2 {
        let partition = PartitionId(partition);
        done(&mut world, EnrolmentRequest::DropRegistrations { partition, enrolment: group });
    }
    let mut world = world.cut_power(1);
    for number in 0..6 {
        assert_eq!(find(&mut world, &format!("device-{number}")), no_registration());
        assert!(world.find(number).is_some(), "the identity stays");
    }
    find(&mut world, "device-9").unwrap();
    let gone = proof("device-2", &derive_key(&group_key(), "device-2"));
    assert_eq!(attest(&mut world, gone).map(|_| ()), unauthorized(UnauthorizedReason::Signature));
    assert_eq!(attest(&mut world, stranger).unwrap().enrolment, kept);
    let request =
        EnrolmentRequest::DeleteRegistration { registration: id("device-9"), if_match: IfMatch::Any };
    done(&mut world, request.clone());
    assert_eq!(ask(&mut world, request).map(|_| ()), no_registration());
}
