//! The store against a plain model: any order of changes, snapshots and restarts.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// One step of the property test; devices are named by a small number so that steps meet.
#[derive(Clone, Debug)]
enum Step {
    Create { device: u8, seed: u8 },
    Update { device: u8, seed: u8, disable: bool, rekey: bool, stale: bool },
    Delete { device: u8, stale: bool },
    CreateGroup { group: u8 },
    DeleteGroup { group: u8 },
    Page { after: u8, count_max: usize },
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
        assert_eq!(self.store.consumer_groups(), self.groups.values().cloned().collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn store_and_model_agree(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            world.run(step);
            world.check();
        }
    }
}
