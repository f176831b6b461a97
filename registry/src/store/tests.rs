//! What the store refuses, keeps and forgets, and its files against damage.

use super::*;
use crate::credential::{DeviceKey, DeviceKeys};
use crate::device::DeviceDraft;
use crate::id::ETag;
use crate::policy::builtin_policies;
use crate::seal::DataKey;
use crate::snapshot::FileBytes;

mod model;

const NOW_MS: u64 = 1_700_000_000_000;

fn sealer() -> KeySealer {
    KeySealer::new(&DataKey::from_bytes([1; 32]))
}

fn empty() -> Store {
    Store::open(None, sealer()).unwrap()
}

fn open_with(
    file: impl AsRef<[u8]> + Send + Sync + 'static,
    sealer: KeySealer,
) -> Result<Store, SnapshotError> {
    Store::open(Some(SnapshotFile::open(Arc::new(file))?), sealer)
}

fn open(file: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Store, SnapshotError> {
    open_with(file, sealer())
}

fn id(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

fn keys(seed: u8) -> DeviceKeys {
    let key = |offset: u8| DeviceKey::from_bytes(&[seed.wrapping_add(offset); 32]).unwrap();
    DeviceKeys { primary: key(0), secondary: key(100) }
}

/// A source of chance that never repeats itself.
fn counting() -> impl FnMut(&mut [u8]) {
    let mut next = 0u64;
    move |bytes| {
        for chunk in bytes.chunks_mut(8) {
            next += 1;
            chunk.copy_from_slice(&next.to_le_bytes()[..chunk.len()]);
        }
    }
}

fn create(store: &mut Store, text: &str) -> Device {
    let change = store.plan_create(DeviceDraft::new(id(text)), NOW_MS, &mut counting()).unwrap();
    store.apply(change);
    store.device(&id(text)).unwrap().unwrap()
}

fn reopen(store: &mut Store) -> Store {
    let bytes = store.snapshot_job().run(|_| {}).unwrap();
    open(bytes).unwrap()
}

#[test]
fn creating_generates_what_is_missing() {
    let mut store = empty();
    let made = create(&mut store, "a");
    assert_eq!((made.keys_version, made.status, made.status_updated_ms), (1, DeviceStatus::Enabled, None));
    assert_eq!(made.keys.primary.as_bytes().len(), 32);
    assert_ne!(made.keys.primary, made.keys.secondary);

    let draft = DeviceDraft { primary_key: Some(keys(5).primary), ..DeviceDraft::new(id("b")) };
    let change = store.plan_create(draft, NOW_MS, &mut counting()).unwrap();
    store.apply(change);
    let half = store.device(&id("b")).unwrap().unwrap();
    assert_eq!(half.keys.primary, keys(5).primary);
    assert_ne!(half.keys.secondary, keys(5).primary);

    let again = store.plan_create(DeviceDraft::new(id("a")), NOW_MS, &mut counting());
    assert_eq!(again, Err(RegistryError::DeviceExists));
    assert!(store.device(&id("A")).unwrap().is_none(), "ids are compared with case");
}

#[test]
fn etags_guard_updates_and_deletes() {
    let mut store = empty();
    let made = create(&mut store, "a");
    let disable = DeviceDraft { status: DeviceStatus::Disabled, ..DeviceDraft::new(id("a")) };
    let stale = ETag(made.etag.0 + 1);
    assert_eq!(store.plan_update(disable.clone(), Some(stale), 7), Err(RegistryError::PreconditionFailed));
    assert_eq!(store.plan_delete(&id("a"), Some(stale)), Err(RegistryError::PreconditionFailed));
    let change = store.plan_update(disable.clone(), Some(made.etag), 7).unwrap();
    store.apply(change);

    let disabled = store.device(&id("a")).unwrap().unwrap();
    assert_ne!(disabled.etag, made.etag);
    assert_eq!((disabled.generation, &disabled.keys), (made.generation, &made.keys));
    assert_eq!((disabled.keys_version, disabled.status_updated_ms), (1, Some(7)));
    assert_eq!(store.count(), DeviceCount { enabled: 0, disabled: 1 });
    assert_eq!(
        store.plan_update(disable.clone(), Some(made.etag), 8),
        Err(RegistryError::PreconditionFailed)
    );

    let rekeyed = DeviceDraft { primary_key: Some(keys(3).primary), ..disable };
    let change = store.plan_update(rekeyed, None, 9).unwrap();
    store.apply(change);
    let rekeyed = store.device(&id("a")).unwrap().unwrap();
    assert_eq!((rekeyed.keys_version, rekeyed.status_updated_ms), (2, Some(7)));

    let change = store.plan_delete(&id("a"), None).unwrap();
    store.apply(change);
    assert_eq!(store.plan_delete(&id("a"), None), Err(RegistryError::DeviceNotFound));
    assert_eq!(store.plan_update(DeviceDraft::new(id("a")), None, 9), Err(RegistryError::DeviceNotFound));
    assert_eq!(store.count(), DeviceCount::default());
}

#[test]
fn generations_and_etags_never_come_back() {
    let mut store = empty();
    let first = create(&mut store, "a");
    let change = store.plan_delete(&id("a"), None).unwrap();
    store.apply(change);
    let second = create(&mut store, "a");
    assert!(second.generation > first.generation && second.etag.0 > first.etag.0);

    // Neither after a restart from a snapshot that no longer holds the device, nor when the clock went back.
    let change = store.plan_delete(&id("a"), None).unwrap();
    store.apply(change);
    let mut store = reopen(&mut store);
    let change = store.plan_create(DeviceDraft::new(id("a")), 0, &mut counting()).unwrap();
    store.apply(change);
    let third = store.device(&id("a")).unwrap().unwrap();
    assert!(third.generation > second.generation && third.etag.0 > second.etag.0);
}

#[test]
fn reasons_have_128_characters() {
    let store = empty();
    let draft =
        |reason: &str| DeviceDraft { status_reason: Some(reason.into()), ..DeviceDraft::new(id("a")) };
    assert!(store.plan_create(draft(&"ä".repeat(128)), 0, &mut counting()).is_ok());
    let refused = store.plan_create(draft(&"ä".repeat(129)), 0, &mut counting());
    assert_eq!(refused, Err(RegistryError::InvalidReason { chars: 129, chars_max: 128 }));
}

#[test]
fn consumer_groups_have_a_life_of_their_own() {
    let mut store = empty();
    assert_eq!(store.consumer_group("$DEFAULT").unwrap().id, ConsumerGroupId::DEFAULT);
    assert_eq!(store.plan_create_group("$default", 1), Err(RegistryError::ConsumerGroupDefault));
    assert_eq!(store.plan_delete_group("$Default"), Err(RegistryError::ConsumerGroupDefault));
    assert_eq!(store.plan_delete_group("Stream"), Err(RegistryError::ConsumerGroupNotFound));

    let change = store.plan_create_group("Stream", 1).unwrap();
    store.apply(change);
    let first = store.consumer_group("stream").unwrap().clone();
    assert_eq!(first.name, "Stream");
    assert_eq!(store.plan_create_group("STREAM", 1), Err(RegistryError::ConsumerGroupExists));
    let change = store.plan_delete_group("stREAM").unwrap();
    store.apply(change);

    // Deleted, restarted, created again: another incarnation.
    let mut store = reopen(&mut store);
    assert!(store.consumer_group("stream").is_none());
    let change = store.plan_create_group("stream", 2).unwrap();
    store.apply(change);
    assert_ne!(store.consumer_group("stream").unwrap().id, first.id);

    for index in store.consumer_groups().len()..20 {
        let change = store.plan_create_group(&format!("g{index}"), 3).unwrap();
        store.apply(change);
    }
    let refused = store.plan_create_group("one-more", 3);
    assert_eq!(refused, Err(RegistryError::ConsumerGroupsExhausted { count_max: 20 }));
    let names = |store: &Store| store.consumer_groups().iter().map(|g| g.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&reopen(&mut store)), names(&store));
}

#[test]
fn policies_survive_a_snapshot() {
    let mut store = empty();
    for policy in builtin_policies(&mut counting()) {
        store.apply(Change::PutPolicy(policy));
    }
    let reopened = reopen(&mut store);
    assert_eq!(reopened.policies(), store.policies());
    assert_eq!(reopened.policy("service"), store.policy("service"));
    assert!(store.policy("Service").is_none() && store.policy("iothubowner").is_some());
}

#[test]
fn damage_anywhere_in_a_file_is_found_before_it_is_served() {
    let mut store = empty();
    for text in ["a", "b", "c"] {
        create(&mut store, text);
    }
    let good = store.snapshot_job().run(|file| file.extend_from_slice(b"marks")).unwrap();
    assert_eq!(SnapshotFile::open(Arc::new(good.clone())).unwrap().extra(), b"marks");
    for index in 0..good.len() {
        for bit in [0, 7] {
            let mut bad = good.clone();
            bad[index] ^= 1 << bit;
            assert!(open(bad).is_err(), "byte {index}, bit {bit}");
        }
    }
    for end in 0..good.len() {
        assert!(open(good[..end].to_vec()).is_err(), "cut at {end}");
    }
    let other = KeySealer::new(&DataKey::from_bytes([2; 32]));
    assert_eq!(open_with(good, other).err(), Some(SnapshotError::WrongDataKey));
    let foreign = open(vec![0u8; 4096]).err();
    assert_eq!(foreign, Some(SnapshotError::NotASnapshot));
}

/// A file with right checksums but wrong contents, as only a faulty writer makes it.
fn rewritten(mut file: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut file);
    let body = crc32fast::hash(&file[128..]);
    file[24..28].copy_from_slice(&body.to_le_bytes());
    file[12..16].fill(0);
    let header = crc32fast::hash(&file[..128]);
    file[12..16].copy_from_slice(&header.to_le_bytes());
    file
}

#[test]
fn contents_that_pass_the_checksum_but_make_no_sense_are_refused() {
    let mut store = empty();
    for index in 0..20 {
        create(&mut store, &format!("device-{index:02}"));
    }
    let good = store.snapshot_job().run(|_| {}).unwrap();
    assert!(open(rewritten(good.clone(), |_| ())).is_ok());
    assert_eq!(
        open(rewritten(good.clone(), |file| file[8] = 3)).err(),
        Some(SnapshotError::Version { version: 3 })
    );

    // Whatever single byte is wrong: an error when opening or when reading, never a panic, never another device's keys.
    let truth: Vec<Device> = store.devices_after(None, 100).unwrap();
    for index in 128..good.len() {
        let Ok(damaged) = open(rewritten(good.clone(), |file| file[index] ^= 0x55)) else { continue };
        let _ = damaged.devices_after(None, 100);
        for device in &truth {
            if let Ok(Some(found)) = damaged.device(&device.id) {
                assert_eq!((&found.id, &found.keys), (&device.id, &device.keys), "byte {index}");
            }
        }
    }
    for at in (16..120).step_by(8) {
        for value in [u64::MAX, 1 << 40, good.len() as u64 + 1] {
            let bad = rewritten(good.clone(), |file| file[at..at + 8].copy_from_slice(&value.to_le_bytes()));
            if let Ok(damaged) = open(bad) {
                let _ = damaged.devices_after(None, 100);
            }
        }
    }
}

#[test]
fn a_file_is_kept_for_its_identities_and_not_for_a_larger_blob() {
    for (blob_bytes, is_kept) in [(10, true), (10_000, false)] {
        let mut store = empty();
        let made = create(&mut store, "a");
        let bytes = store.snapshot_job().run(|file| file.resize(file.len() + blob_bytes, 7)).unwrap();
        let bytes: FileBytes = Arc::new(bytes);
        let file = SnapshotFile::open(bytes.clone()).unwrap();
        assert_eq!(file.extra(), vec![7; blob_bytes]);
        let store = Store::open(Some(file), sealer()).unwrap();
        assert_eq!(Arc::strong_count(&bytes) > 1, is_kept, "{blob_bytes} bytes");
        assert_eq!(store.device(&id("a")), Ok(Some(made)));
    }
}

#[test]
fn an_unaligned_file_is_served_all_the_same() {
    struct Shifted(Vec<u8>, usize);
    impl AsRef<[u8]> for Shifted {
        fn as_ref(&self) -> &[u8] {
            &self.0[self.1..]
        }
    }
    let mut store = empty();
    let made = create(&mut store, "a");
    let file = store.snapshot_job().run(|_| {}).unwrap();
    for shift in 0..16 {
        let shifted = Shifted([vec![0; shift], file.clone()].concat(), shift);
        let store = open(shifted).unwrap();
        assert_eq!(store.device(&id("a")), Ok(Some(made.clone())));
    }
}

#[test]
fn keys_are_not_readable_in_a_file() {
    let mut store = empty();
    let key = DeviceKey::from_bytes(b"a key that could be found again").unwrap();
    let draft = DeviceDraft {
        primary_key: Some(key.clone()),
        secondary_key: Some(key.clone()),
        ..DeviceDraft::new(id("a"))
    };
    let change = store.plan_create(draft, NOW_MS, &mut counting()).unwrap();
    store.apply(change);
    let file = store.snapshot_job().run(|_| {}).unwrap();
    for secret in [key.as_bytes(), key.to_base64().as_bytes()] {
        assert!(!file.windows(8).any(|window| window == &secret[..8]));
    }
}

/// The size is small here; `REGISTRY_DEVICE_COUNT=1000000` in a release build shows the real one.
#[test]
fn opening_costs_nothing_per_device() {
    let device_count = std::env::var("REGISTRY_DEVICE_COUNT")
        .map_or(3000, |text| text.parse().expect("a number of devices"));
    let mut store = empty();
    for index in 0..device_count {
        store.apply(Change::PutDevice(Box::new(Device {
            id: id(&format!("device-{index:07}")),
            generation: crate::GenerationId(index),
            etag: ETag(index),
            keys_version: 1,
            keys: keys(index as u8),
            status: DeviceStatus::Enabled,
            status_reason: None,
            status_updated_ms: None,
            life: crate::Life::default(),
        })));
    }
    let started = std::time::Instant::now();
    let bytes = store.snapshot_job().run(|_| {}).unwrap();
    let (written, file_bytes) = (started.elapsed(), bytes.len());
    let started = std::time::Instant::now();
    let opened = open(bytes).unwrap();
    let opening = started.elapsed();
    let started = std::time::Instant::now();
    for index in (0..device_count).step_by(device_count as usize / 1000) {
        let found = opened.device(&id(&format!("device-{index:07}"))).unwrap().unwrap();
        assert_eq!(found.keys, keys(index as u8));
    }
    let lookup = started.elapsed() / 1000;
    println!(
        "{device_count} devices, {file_bytes} bytes: written in {written:?}, opened in {opening:?}, found in {lookup:?}"
    );
    assert_eq!(opened.count().enabled, device_count);
    assert_eq!(opened.changed_count(), 0, "nothing was built per device");
    assert!(file_bytes as u64 <= 320 * device_count + 4096, "{file_bytes} bytes");
    assert!(opening.as_millis() < 700, "{opening:?}");
}

/// Written by the last program that knew no enrolments: two devices, one of them disabled, five policies, a group, a blob.
const VERSION_1: &[u8] = include_bytes!("tests/vectors/version-1.snapshot");

#[test]
fn a_file_of_version_1_opens_and_is_written_anew() {
    let mut store = open(VERSION_1).unwrap();
    for _ in 0..2 {
        assert_eq!(store.count(), DeviceCount { enabled: 1, disabled: 1 });
        assert_eq!((store.policies().len(), store.consumer_groups().len()), (5, 2));
        let (plain, pump) =
            (store.device(&id("plain")).unwrap(), store.device(&id("pump-1")).unwrap().unwrap());
        assert_eq!(plain.unwrap().life, crate::Life::default());
        assert_eq!((pump.status_reason.as_deref(), pump.status_updated_ms), (Some("leaks"), Some(9)));
        assert_eq!(store.standing(&pump.id), Ok(Some((pump.generation, DeviceStatus::Disabled))));
        let bytes = store.snapshot_job().run(|_| {}).unwrap();
        assert_eq!(bytes[8], 2, "the version");
        store = open(bytes).unwrap();
    }
    // What a file of version 1 holds is still served where it lies, with changes above it.
    let mut store = open(VERSION_1).unwrap();
    let change = store.plan_activate(&store.device(&id("plain")).unwrap().unwrap(), 3).unwrap();
    store.apply(change);
    let store = reopen(&mut store);
    assert_eq!(store.device(&id("plain")).unwrap().unwrap().life.activated_ms, Some(3));
    assert_eq!(store.device(&id("pump-1")).unwrap().unwrap().keys_version, 1);
}

#[test]
fn enrolments_and_registrations_have_bounds_and_damage_is_refused() {
    use crate::enrolment::{EnrolmentDraft, EnrolmentId, EnrolmentKind, EnrolmentName, EnrolmentSettings};
    let draft = |number: usize| EnrolmentDraft {
        name: EnrolmentName {
            kind: EnrolmentKind::Group,
            id: EnrolmentId::parse(&format!("g{number}")).unwrap(),
        },
        primary_key: None,
        secondary_key: None,
        status: DeviceStatus::Enabled,
        device: None,
        settings: EnrolmentSettings::default(),
    };
    let mut store = empty();
    for number in 0..100 {
        let change = store.plan_create_enrolment(draft(number), 1, &mut counting()).unwrap();
        store.apply(change);
    }
    let refused = store.plan_create_enrolment(draft(100), 1, &mut counting());
    assert_eq!(refused, Err(RegistryError::EnrolmentsExhausted { count_max: 100 }));

    let bytes = store.snapshot_job().run(|_| {}).unwrap();
    let keys = store.enrolments_after(EnrolmentKind::Group, None).next().unwrap().keys.primary.clone();
    assert!(!bytes.windows(16).any(|window| window == &keys.as_bytes()[..16]), "keys are readable");
    assert_eq!(open(bytes.clone()).unwrap().enrolments_after(EnrolmentKind::Group, None).count(), 100);
    let other = KeySealer::new(&DataKey::from_bytes([2; 32]));
    assert_eq!(open_with(bytes, other).err(), Some(SnapshotError::WrongDataKey));
}
