//! The store against a plain model: any order of changes, snapshots and restarts.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::enrolment::{
    Enrolment, EnrolmentDraft, EnrolmentId, EnrolmentKind, EnrolmentName, EnrolmentSettings, Registration,
};

/// One step of the property test; devices are named by a small number so that steps meet.
#[derive(Clone, Debug)]
enum Step {
    Create { device: u8, seed: u8 },
    Update { device: u8, seed: u8, disable: bool, rekey: bool, stale: bool },
    Delete { device: u8, stale: bool },
    CreateGroup { group: u8 },
    DeleteGroup { group: u8 },
    Page { after: u8, count_max: usize },
    Enrol { is_group: bool, id: u8, seed: u8, disable: bool },
    Unenrol { is_group: bool, id: u8, stale: bool },
    Register { id: u8, by_group: Option<u8>, force: bool },
    Unregister { id: u8 },
    DropRegistrations { group: u8 },
    Activate { device: u8 },
    StartSnapshot,
    FinishSnapshot { adopt: bool },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let device = 0..12u8;
    prop_oneof![
        4 => (device.clone(), any::<u8>()).prop_map(|(device, seed)| Step::Create { device, seed }),
        4 => (device.clone(), any::<u8>(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(device, seed, disable, rekey, stale)| Step::Update { device, seed, disable, rekey, stale }),
        3 => (device.clone(), any::<bool>()).prop_map(|(device, stale)| Step::Delete { device, stale }),
        1 => (0..3u8).prop_map(|group| Step::CreateGroup { group }),
        1 => (0..3u8).prop_map(|group| Step::DeleteGroup { group }),
        2 => (device, 0..6usize).prop_map(|(after, count_max)| Step::Page { after, count_max }),
        3 => (any::<bool>(), 0..4u8, any::<u8>(), any::<bool>())
            .prop_map(|(is_group, id, seed, disable)| Step::Enrol { is_group, id, seed, disable }),
        1 => (any::<bool>(), 0..4u8, any::<bool>())
            .prop_map(|(is_group, id, stale)| Step::Unenrol { is_group, id, stale }),
        4 => (0..4u8, prop::option::of(0..4u8), any::<bool>())
            .prop_map(|(id, by_group, force)| Step::Register { id, by_group, force }),
        1 => (0..4u8).prop_map(|id| Step::Unregister { id }),
        1 => (0..4u8).prop_map(|group| Step::DropRegistrations { group }),
        1 => (0..12u8).prop_map(|device| Step::Activate { device }),
        2 => Just(Step::StartSnapshot),
        2 => any::<bool>().prop_map(|adopt| Step::FinishSnapshot { adopt }),
        2 => Just(Step::Reopen),
    ]
}

/// A store with its journal and its last file, beside a map that says what it must hold.
struct World {
    store: Store,
    file: Option<Arc<Vec<u8>>>,
    /// Changes since `file`, in their stored form.
    journal: Vec<Vec<u8>>,
    /// A job that is running, and how much of the journal it covers.
    job: Option<(SnapshotJob, usize)>,
    devices: BTreeMap<DeviceId, Device>,
    groups: BTreeMap<String, ConsumerGroup>,
    enrolments: BTreeMap<(EnrolmentKind, EnrolmentId), Enrolment>,
    registrations: BTreeMap<EnrolmentId, Registration>,
    generation: u64,
    revision: u64,
}

impl World {
    fn new() -> Self {
        Self {
            store: empty(),
            file: None,
            journal: Vec::new(),
            job: None,
            devices: BTreeMap::new(),
            groups: BTreeMap::from([("$default".to_owned(), ConsumerGroup::builtin())]),
            enrolments: BTreeMap::new(),
            registrations: BTreeMap::new(),
            generation: 0,
            revision: 0,
        }
    }

    fn journal(&mut self, change: Change) {
        let mut bytes = Vec::new();
        change.encode(&sealer(), &mut bytes);
        self.journal.push(bytes);
        self.store.apply(change);
    }

    fn put(&mut self, planned: Result<Change, RegistryError>, expected: Result<Device, RegistryError>) {
        match (planned, expected) {
            (Ok(Change::PutDevice(device)), Ok(expected)) => {
                assert!(device.etag.0 > self.revision, "an etag came back");
                self.revision = device.etag.0;
                self.generation = self.generation.max(device.generation.0);
                assert_eq!(*device, Device { etag: device.etag, generation: device.generation, ..expected });
                self.devices.insert(device.id.clone(), (*device).clone());
                self.journal(Change::PutDevice(device));
            }
            (planned, expected) => assert_eq!(planned.err(), expected.err()),
        }
    }

    fn run(&mut self, step: Step) {
        let name = |device: u8| id(&format!("d{device}"));
        match step {
            Step::Create { device, seed } => {
                let wanted = keys(seed);
                let draft = DeviceDraft {
                    primary_key: Some(wanted.primary.clone()),
                    secondary_key: Some(wanted.secondary.clone()),
                    ..DeviceDraft::new(name(device))
                };
                let planned = self.store.plan_create(draft, u64::from(seed), &mut counting());
                if let Ok(Change::PutDevice(device)) = &planned {
                    assert!(device.generation.0 > self.generation, "a generation came back");
                }
                let expected = match self.devices.contains_key(&name(device)) {
                    true => Err(RegistryError::DeviceExists),
                    false => Ok(Device {
                        id: name(device),
                        generation: crate::GenerationId(0),
                        etag: ETag(0),
                        keys_version: 1,
                        keys: wanted,
                        status: DeviceStatus::Enabled,
                        status_reason: None,
                        status_updated_ms: None,
                        life: crate::Life::default(),
                    }),
                };
                self.put(planned, expected);
            }
            Step::Update { device, seed, disable, rekey, stale } => {
                let status = if disable { DeviceStatus::Disabled } else { DeviceStatus::Enabled };
                let draft = DeviceDraft {
                    primary_key: rekey.then(|| keys(seed).primary),
                    status,
                    status_reason: disable.then(|| format!("reason {seed}")),
                    ..DeviceDraft::new(name(device))
                };
                let before = self.devices.get(&name(device)).cloned();
                let if_match = stale.then_some(ETag(u64::MAX)).or(before.as_ref().map(|device| device.etag));
                let planned = self.store.plan_update(draft.clone(), if_match, 77);
                let expected = match before {
                    None => Err(RegistryError::DeviceNotFound),
                    Some(_) if stale => Err(RegistryError::PreconditionFailed),
                    Some(before) => {
                        let primary = draft.primary_key.unwrap_or(before.keys.primary.clone());
                        let changed = primary != before.keys.primary;
                        Ok(Device {
                            keys: DeviceKeys { primary, secondary: before.keys.secondary.clone() },
                            keys_version: before.keys_version + u64::from(changed),
                            status_updated_ms: if status == before.status {
                                before.status_updated_ms
                            } else {
                                Some(77)
                            },
                            status,
                            status_reason: draft.status_reason,
                            ..before
                        })
                    }
                };
                self.put(planned, expected);
            }
            Step::Delete { device, stale } => {
                let planned = self.store.plan_delete(&name(device), stale.then_some(ETag(u64::MAX)));
                match self.devices.contains_key(&name(device)) {
                    false => assert_eq!(planned, Err(RegistryError::DeviceNotFound)),
                    true if stale => assert_eq!(planned, Err(RegistryError::PreconditionFailed)),
                    true => {
                        self.devices.remove(&name(device));
                        self.journal(planned.unwrap());
                    }
                }
            }
            Step::CreateGroup { group } => {
                let text = format!("g{group}");
                match self.store.plan_create_group(&text, 5) {
                    Ok(Change::PutConsumerGroup(made)) => {
                        assert!(made.id.0 > self.revision);
                        self.revision = made.id.0;
                        assert!(self.groups.insert(text, made.clone()).is_none());
                        self.journal(Change::PutConsumerGroup(made));
                    }
                    refused => assert_eq!(refused, Err(RegistryError::ConsumerGroupExists)),
                }
            }
            Step::DeleteGroup { group } => {
                let text = format!("G{group}");
                match self.store.plan_delete_group(&text) {
                    Ok(change) => {
                        assert!(self.groups.remove(&text.to_lowercase()).is_some());
                        self.journal(change);
                    }
                    refused => assert_eq!(refused, Err(RegistryError::ConsumerGroupNotFound)),
                }
            }
            Step::Page { after, count_max } => {
                let page = self.store.devices_after(Some(&name(after)), count_max).unwrap();
                let behind = (std::ops::Bound::Excluded(name(after)), std::ops::Bound::Unbounded);
                let expected: Vec<Device> =
                    self.devices.range(behind).take(count_max).map(|(_, device)| device.clone()).collect();
                assert_eq!(page, expected);
            }
            Step::Enrol { is_group, id, seed, disable } => self.enrol(name_of(is_group, id), seed, disable),
            Step::Unenrol { is_group, id, stale } => {
                let name = name_of(is_group, id);
                let planned = self.store.plan_delete_enrolment(&name, stale.then_some(ETag(u64::MAX)));
                match self.enrolments.get(&(name.kind, name.id.clone())) {
                    None => assert_eq!(planned, Err(RegistryError::EnrolmentNotFound)),
                    Some(_) if stale => assert_eq!(planned, Err(RegistryError::PreconditionFailed)),
                    Some(gone) => {
                        let reference = gone.reference();
                        let its = |found: &Registration| found.enrolment == reference && found.id == name.id;
                        self.registrations.retain(|_, found| is_group || !its(found));
                        self.enrolments.remove(&(name.kind, name.id.clone()));
                        self.journal(planned.unwrap());
                    }
                }
            }
            Step::Register { id, by_group, force } => self.register(id, by_group, force),
            Step::Unregister { id } => {
                let id = enrolment_id(id);
                match (self.store.plan_delete_registration(&id, None), self.registrations.remove(&id)) {
                    (Ok(change), Some(_)) => self.journal(change),
                    (planned, found) => {
                        assert_eq!((planned, found), (Err(RegistryError::RegistrationNotFound), None));
                    }
                }
            }
            Step::DropRegistrations { group } => {
                let name = name_of(true, group);
                let Some(enrolment) = self.enrolments.get(&(name.kind, name.id)).map(Enrolment::reference)
                else {
                    return;
                };
                self.registrations.retain(|_, found| found.enrolment != enrolment);
                self.journal(Change::DropRegistrations { enrolment });
            }
            Step::Activate { device } => {
                let Some(found) = self.devices.get_mut(&name(device)) else { return };
                match self.store.plan_activate(found, 88) {
                    None => assert_eq!(found.life.activated_ms, Some(88)),
                    Some(change) => {
                        assert_eq!(found.life.activated_ms.replace(88), None);
                        self.journal(change);
                    }
                }
            }
            Step::StartSnapshot => {
                self.job = Some((self.store.snapshot_job(), self.journal.len()));
            }
            Step::FinishSnapshot { adopt } => {
                let Some((job, covered)) = self.job.take() else { return };
                let extra = covered.to_le_bytes();
                let bytes = Arc::new(job.run(|file| file.extend_from_slice(&extra)).unwrap());
                if adopt {
                    let file = SnapshotFile::open(bytes.clone()).unwrap();
                    assert_eq!(file.extra(), extra);
                    let file = file.without_extra(|front| Arc::new(front.to_vec()));
                    assert_eq!(file.extra(), []);
                    drop(self.store.adopt(file));
                }
                self.file = Some(bytes);
                self.journal.drain(..covered);
            }
            Step::Reopen => {
                self.job = None;
                let file = self.file.clone().map(|file| SnapshotFile::open(file).unwrap());
                self.store = Store::open(file, sealer()).unwrap();
                for bytes in &self.journal {
                    self.store.apply(Change::decode(bytes, &sealer()).unwrap());
                }
            }
        }
    }

    fn enrol(&mut self, name: EnrolmentName, seed: u8, disable: bool) {
        let wanted = keys(seed);
        let draft = EnrolmentDraft {
            name: name.clone(),
            primary_key: Some(wanted.primary.clone()),
            secondary_key: Some(wanted.secondary.clone()),
            status: if disable { DeviceStatus::Disabled } else { DeviceStatus::Enabled },
            device: (seed > 200 && name.kind == EnrolmentKind::Single).then(|| id("other")),
            settings: EnrolmentSettings { migrate_device_data: disable, ..EnrolmentSettings::default() },
        };
        let before = self.enrolments.get(&(name.kind, name.id.clone())).cloned();
        let planned = self.store.plan_create_enrolment(draft.clone(), 5, &mut counting());
        let planned = match &before {
            None => planned,
            Some(before) => {
                assert_eq!(planned, Err(RegistryError::EnrolmentExists));
                let stale = self.store.plan_update_enrolment(draft.clone(), Some(ETag(u64::MAX)), 6);
                assert_eq!(stale, Err(RegistryError::PreconditionFailed));
                self.store.plan_update_enrolment(draft.clone(), Some(before.etag), 6)
            }
        };
        let Ok(Change::PutEnrolment(made)) = planned else { panic!("{planned:?}") };
        assert!(made.etag.0 > self.revision, "an etag came back");
        self.revision = made.etag.0;
        let expected = Enrolment {
            name: name.clone(),
            incarnation: before.as_ref().map_or(made.etag.0, |before| before.incarnation),
            etag: made.etag,
            keys: wanted,
            status: draft.status,
            device: draft.device,
            settings: draft.settings,
            created_ms: 5,
            updated_ms: if before.is_some() { 6 } else { 5 },
        };
        assert_eq!(*made, expected);
        self.enrolments.insert((name.kind, name.id), expected);
        self.journal(Change::PutEnrolment(made));
    }

    fn register(&mut self, id: u8, by_group: Option<u8>, force: bool) {
        let registration = enrolment_id(id);
        let name = by_group.map_or(name_of(false, id), |group| name_of(true, group));
        let Some(enrolment) = self.enrolments.get(&(name.kind, name.id)).cloned() else { return };
        let keys = enrolment.keys_of(registration.as_str());
        let device = enrolment.device.clone().unwrap_or_else(|| registration.device().clone());
        let before = self.devices.get(&device).cloned();
        let may = before.as_ref().is_none_or(|before| match &before.life.registration {
            Some(owner) => *owner == registration,
            None => before.keys == keys,
        });
        match self.store.plan_assign(&registration, &device, &keys, 66) {
            Err(error) => {
                assert_eq!((error, may), (RegistryError::DeviceTaken, false));
                return;
            }
            Ok(None) => {
                let before = before.expect("nothing is to be done of what is there");
                assert_eq!((before.keys, before.life.registration), (keys, Some(registration.clone())));
            }
            Ok(Some(Change::PutDevice(made))) => {
                assert!(may && made.etag.0 > self.revision);
                assert!(before.is_some() || made.generation.0 > self.generation);
                (self.revision, self.generation) = (made.etag.0, self.generation.max(made.generation.0));
                let was = before.clone().unwrap_or_else(|| Device { keys_version: 1, ..(*made).clone() });
                let rekeyed = before.is_some_and(|before| before.keys != keys);
                let life = crate::Life {
                    registration: Some(registration.clone()),
                    bootstrapped_ms: was.life.bootstrapped_ms.or(Some(66)),
                    activated_ms: was.life.activated_ms,
                };
                let keys_version = was.keys_version + u64::from(rekeyed);
                assert_eq!(*made, Device { etag: made.etag, keys, keys_version, life, ..was });
                self.devices.insert(device.clone(), (*made).clone());
                self.journal(Change::PutDevice(made));
            }
            Ok(Some(other)) => panic!("{other:?}"),
        }
        let generation = self.devices[&device].generation;
        let assignment = crate::Assignment {
            registration: registration.clone(),
            enrolment: enrolment.reference(),
            device: device.clone(),
            generation,
            force,
        };
        let planned = self.store.plan_registration(assignment, 67).unwrap();
        let Change::PutRegistration(made) = planned else { panic!("{planned:?}") };
        let goes_on = self.registrations.get(&registration).filter(|before| {
            !force
                && before.enrolment == enrolment.reference()
                && (&before.device, before.generation) == (&device, generation)
        });
        assert_eq!(made.incarnation, goes_on.map_or(made.etag.0, |before| before.incarnation));
        assert!(made.etag.0 > self.revision);
        self.revision = made.etag.0;
        self.registrations.insert(registration, (*made).clone());
        self.journal(Change::PutRegistration(made));
    }

    fn check(&self) {
        for device in 0..12 {
            let device = id(&format!("d{device}"));
            let expected = self.devices.get(&device);
            assert_eq!(self.store.device(&device).unwrap().as_ref(), expected);
            let standing = expected.map(|device| (device.generation, device.status));
            assert_eq!(self.store.standing(&device), Ok(standing));
        }
        let all: Vec<&Device> = self.devices.values().collect();
        assert_eq!(self.store.devices_after(None, 100).unwrap().iter().collect::<Vec<_>>(), all);
        let disabled = all.iter().filter(|device| device.status == DeviceStatus::Disabled).count() as u64;
        assert_eq!(self.store.count(), DeviceCount { enabled: all.len() as u64 - disabled, disabled });
        for kind in [EnrolmentKind::Single, EnrolmentKind::Group] {
            let expected = self.enrolments.values().filter(|enrolment| enrolment.name.kind == kind);
            assert!(self.store.enrolments_after(kind, None).eq(expected));
        }
        for id in (0..4).map(enrolment_id) {
            assert_eq!(self.store.registration(&id), self.registrations.get(&id));
        }
        for enrolment in self.enrolments.values().map(Enrolment::reference) {
            let expected = self.registrations.values().filter(|found| found.enrolment == enrolment);
            let found = self.store.all_registrations_after(None);
            assert!(found.filter(|found| found.enrolment == enrolment).eq(expected));
        }
        assert_eq!(self.store.consumer_groups(), self.groups.values().cloned().collect::<Vec<_>>());
    }
}

fn enrolment_id(number: u8) -> EnrolmentId {
    EnrolmentId::parse(&format!("d{number}")).unwrap()
}

fn name_of(is_group: bool, number: u8) -> EnrolmentName {
    let kind = if is_group { EnrolmentKind::Group } else { EnrolmentKind::Single };
    EnrolmentName { kind, id: enrolment_id(number) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn store_and_model_agree(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
            world.check();
        }
    }
}
