//! The snapshot file: all devices in the order of their ids, each an rkyv archive of its own, found by binary search.
//!
//! | position | bytes | header |
//! |---|---|---|
//! | 0 | 8 | magic `CHREGIST` |
//! | 8 | 4 | version, 2 |
//! | 12 | 4 | CRC-32 of the header with this field 0 |
//! | 16 | 8 | length of the whole file |
//! | 24 | 4 | CRC-32 of everything behind the header |
//! | 28 | 4 | 0 |
//! | 32 | 8 | number of enabled devices |
//! | 40 | 8 | number of disabled devices |
//! | 48 | 8 | position of the device table |
//! | 56 | 8 | position of the hub's records |
//! | 64 | 8 | position of the caller's blob, which ends the file |
//! | 72 | 8 | largest generation ever given |
//! | 80 | 8 | largest revision (ETag, consumer group) ever given |
//! | 88 | 8 | number of this snapshot |
//! | 96 | 16 | fingerprint of the data key |
//! | 112 | 8 | position of the enrolments; 0 in version 1 |
//! | 120 | 8 | 0 |
//!
//! Device records begin at 128, each 16-aligned. The device table has 12 bytes per device: position (8) and length (4) of
//! its record. Enrolments and registrations are the changes that make them, each behind its length (4). Integers are
//! little-endian. The hub's records are one rkyv archive, 16-aligned.
//!
//! A file of version 1 has no enrolments, and its device records say nothing of a device's life. It is read as it is; the next
//! one is written anew.
//!
//! Both checksums are verified before rkyv sees a byte. rkyv's own validation then runs once per record, when that record
//! is used, which needs no unsafe code and keeps opening nearly free of work per device: the id of each 64th is kept in memory,
//! so that a search looks at six records that lie together and not at twenty all over the file.

mod stored;

use std::sync::Arc;

use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;

use crate::change::{Change, ChangeError, device_owner, policy_owner, status_of};
use crate::device::{Device, DeviceStatus, Life};
use crate::enrolment::Enrolments;
use crate::error::RegistryError;
use crate::group::ConsumerGroup;
use crate::id::{ConsumerGroupId, DeviceId, ETag, GenerationId};
use crate::layer::{Entry, Merged};
use crate::policy::{Policy, PolicyName, Rights};
use crate::seal::{KeySealer, SealError};
use crate::store::DeviceCount;
use stored::{
    ArchivedStoredDevice, ArchivedStoredLivingDevice, StoredHub, StoredPolicy, archive_of, stored_device,
    stored_hub,
};

/// The bytes of a file: mapped and populated, or in memory.
pub type FileBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

const MAGIC: [u8; 8] = *b"CHREGIST";
const VERSION_1: u32 = 1;
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 128;
const ALIGNMENT: usize = 16;
const TABLE_ENTRY_BYTES: usize = 12;
const ENROLMENT_HEAD_BYTES: usize = 4;
/// Of so many devices the first one's id is kept in memory.
const LANDMARK_DISTANCE: usize = 64;

/// Counters that a snapshot carries on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) count: DeviceCount,
    /// Largest generation ever given, also to devices deleted since.
    pub(crate) generation: u64,
    /// Largest ETag and consumer group id ever given.
    pub(crate) revision: u64,
    /// Counts the snapshots.
    pub(crate) snapshot: u64,
}

/// A verified snapshot file. A clone costs one reference count.
#[derive(Clone)]
pub struct SnapshotFile {
    bytes: FileBytes,
    version: u32,
    marks: Marks,
    table: usize,
    enrolments: usize,
    hub: usize,
    extra: usize,
    fingerprint: [u8; 16],
    landmarks: Arc<[Box<str>]>,
}

impl SnapshotFile {
    /// Verify header and checksum, at the speed of memory, and look at each 64th device. May run on any thread.
    pub fn open(bytes: FileBytes) -> Result<Self, SnapshotError> {
        let file = (*bytes).as_ref();
        let header = file.get(..HEADER_BYTES).ok_or(SnapshotError::Malformed)?;
        if header[..8] != MAGIC {
            return Err(SnapshotError::NotASnapshot);
        }
        let mut zeroed: [u8; HEADER_BYTES] = header.try_into().expect("the header's length");
        zeroed[12..16].fill(0);
        if crc32fast::hash(&zeroed) != u32_at(header, 12) {
            return Err(SnapshotError::Checksum);
        }
        let version = u32_at(header, 8);
        if !(VERSION_1..=VERSION).contains(&version) {
            return Err(SnapshotError::Version { version });
        }
        if u64_at(header, 16) != file.len() as u64 {
            return Err(SnapshotError::Malformed);
        }
        if crc32fast::hash(&file[HEADER_BYTES..]) != u32_at(header, 24) {
            return Err(SnapshotError::Checksum);
        }
        let position_at = |at| usize::try_from(u64_at(header, at)).map_err(|_| SnapshotError::Malformed);
        let (table, hub, extra) = (position_at(48)?, position_at(56)?, position_at(64)?);
        let enrolments = if version == VERSION_1 { hub } else { position_at(112)? };
        let count = DeviceCount { enabled: u64_at(header, 32), disabled: u64_at(header, 40) };
        let table_bytes = count
            .enabled
            .checked_add(count.disabled)
            .and_then(|devices| usize::try_from(devices).ok())
            .and_then(|devices| devices.checked_mul(TABLE_ENTRY_BYTES));
        if table.checked_add(table_bytes.ok_or(SnapshotError::Malformed)?).is_none_or(|end| end > enrolments)
            || enrolments > hub
            || hub > extra
            || extra > file.len()
        {
            return Err(SnapshotError::Malformed);
        }
        let marks = Marks {
            count,
            generation: u64_at(header, 72),
            revision: u64_at(header, 80),
            snapshot: u64_at(header, 88),
        };
        let fingerprint = header[96..112].try_into().expect("sixteen bytes");
        let landmarks = Arc::default();
        let bytes = aligned(bytes);
        let mut file = Self { bytes, version, marks, table, enrolments, hub, extra, fingerprint, landmarks };
        let ids = (0..file.device_count()).step_by(LANDMARK_DISTANCE).map(|index| file.id(index));
        let landmarks: Result<Vec<Box<str>>, RegistryError> = ids.map(|id| id.map(Box::from)).collect();
        // One that makes no sense refuses its own device when it is asked for, and nobody else: then there are no landmarks.
        file.landmarks = landmarks.unwrap_or_default().into();
        Ok(file)
    }

    /// The same without the blob, for whoever serves from it and has no more use for that: `copy` is given what lies in
    /// front of the blob and returns the bytes to serve from.
    pub fn without_extra(self, copy: impl FnOnce(&[u8]) -> FileBytes) -> Self {
        let bytes = aligned(copy(&self.file()[..self.extra]));
        Self { bytes, ..self }
    }

    /// The blob that the snapshot was taken with.
    pub fn extra(&self) -> &[u8] {
        &self.file()[self.extra..]
    }

    /// Length of the whole file.
    pub fn bytes_len(&self) -> usize {
        self.file().len()
    }

    pub(crate) fn marks(&self) -> Marks {
        self.marks
    }

    pub(crate) fn device_count(&self) -> usize {
        (self.marks.count.enabled + self.marks.count.disabled) as usize
    }

    /// Where the device is (`Ok`) or would be (`Err`) in the order of ids.
    pub(crate) fn search(&self, id: &str) -> Result<Result<usize, usize>, RegistryError> {
        let behind = self.landmarks.partition_point(|landmark| **landmark <= *id);
        let (mut low, mut high) = match self.landmarks.is_empty() {
            true => (0, self.device_count()),
            false => (
                behind.saturating_sub(1) * LANDMARK_DISTANCE,
                self.device_count().min(behind * LANDMARK_DISTANCE),
            ),
        };
        while low < high {
            let middle = low + (high - low) / 2;
            match self.id(middle)?.cmp(id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Ok(middle)),
            }
        }
        Ok(Err(low))
    }

    pub(crate) fn id(&self, index: usize) -> Result<&str, RegistryError> {
        Ok(self.record(index)?.id.as_str())
    }

    /// Which identity a device is here and what its status is.
    pub(crate) fn standing(&self, id: &str) -> Result<Option<(GenerationId, DeviceStatus)>, RegistryError> {
        let Ok(index) = self.search(id)? else { return Ok(None) };
        let record = self.record(index)?;
        let status = status_of(record.status).ok_or(RegistryError::Damaged)?;
        Ok(Some((GenerationId(record.generation.into()), status)))
    }

    /// The status of a device, if it is here and readable.
    pub(crate) fn status(&self, id: &str) -> Option<DeviceStatus> {
        self.standing(id).ok()?.map(|(_, status)| status)
    }

    /// The device at `index`, with its keys opened.
    pub(crate) fn device(&self, index: usize, sealer: &KeySealer) -> Result<Device, RegistryError> {
        let (stored, life) = (self.record(index)?, self.life(index)?);
        let id = DeviceId::parse(&stored.id).map_err(|_| RegistryError::Damaged)?;
        let generation = GenerationId(stored.generation.into());
        Ok(Device {
            keys: sealer.open(&device_owner(&id, generation), &stored.sealed_keys)?,
            id,
            generation,
            etag: ETag(stored.etag.into()),
            keys_version: stored.keys_version.into(),
            status: status_of(stored.status).ok_or(RegistryError::Damaged)?,
            status_reason: stored.status_reason.as_ref().map(|reason| reason.as_str().to_owned()),
            status_updated_ms: stored.status_updated_ms.as_ref().map(|ms| ms.to_native()),
            life,
        })
    }

    /// Policies and consumer groups. The data key is checked first, so that a wrong one is told from damage.
    pub(crate) fn hub_records(
        &self,
        sealer: &KeySealer,
    ) -> Result<(Vec<Policy>, Vec<ConsumerGroup>), SnapshotError> {
        if sealer.fingerprint() != self.fingerprint {
            return Err(SnapshotError::WrongDataKey);
        }
        let archive = self.file().get(self.hub..self.extra).ok_or(SnapshotError::Malformed)?;
        let hub: StoredHub =
            rkyv::from_bytes::<StoredHub, Failure>(archive).map_err(|_| SnapshotError::Malformed)?;
        let groups = hub.groups.into_iter().map(|group| ConsumerGroup {
            id: ConsumerGroupId(group.id),
            name: group.name,
            created_ms: group.created_ms,
        });
        let policy = |stored: StoredPolicy| {
            let name = PolicyName::parse(&stored.name).map_err(|_| SnapshotError::Malformed)?;
            let rights = Rights::from_bits(stored.rights).ok_or(SnapshotError::Malformed)?;
            let keys = sealer.open(&policy_owner(&name), &stored.sealed_keys)?;
            Ok(Policy { name, rights, keys })
        };
        let policies: Result<Vec<Policy>, SnapshotError> = hub.policies.into_iter().map(policy).collect();
        Ok((policies?, groups.collect()))
    }

    /// The changes that make the enrolments and registrations.
    pub(crate) fn enrolments(&self, sealer: &KeySealer) -> Result<Vec<Change>, SnapshotError> {
        let mut rest = self.file().get(self.enrolments..self.hub).ok_or(SnapshotError::Malformed)?;
        let mut changes = Vec::new();
        while rest.len() >= ENROLMENT_HEAD_BYTES {
            let (head, behind) = rest.split_at(ENROLMENT_HEAD_BYTES);
            let length = u32_at(head, 0) as usize;
            if length == 0 {
                break;
            }
            let (change, behind) = behind.split_at_checked(length).ok_or(SnapshotError::Malformed)?;
            changes.push(Change::decode(change, sealer)?);
            rest = behind;
        }
        match rest.iter().all(|byte| *byte == 0) && rest.len() < ALIGNMENT {
            true => Ok(changes),
            false => Err(SnapshotError::Malformed),
        }
    }

    fn record(&self, index: usize) -> Result<&ArchivedStoredDevice, RegistryError> {
        if self.version != VERSION_1 {
            return Ok(&self.living(index)?.device);
        }
        let bytes = self.record_bytes(index).ok_or(RegistryError::Damaged)?;
        rkyv::access::<ArchivedStoredDevice, Failure>(bytes).map_err(|_| RegistryError::Damaged)
    }

    fn living(&self, index: usize) -> Result<&ArchivedStoredLivingDevice, RegistryError> {
        let bytes = self.record_bytes(index).ok_or(RegistryError::Damaged)?;
        rkyv::access::<ArchivedStoredLivingDevice, Failure>(bytes).map_err(|_| RegistryError::Damaged)
    }

    fn life(&self, index: usize) -> Result<Life, RegistryError> {
        if self.version == VERSION_1 { Ok(Life::default()) } else { self.living(index)?.life() }
    }

    fn record_bytes(&self, index: usize) -> Option<&[u8]> {
        let file = self.file();
        let entry = self.table.checked_add(index.checked_mul(TABLE_ENTRY_BYTES)?)?;
        let entry = file.get(entry..entry + TABLE_ENTRY_BYTES)?;
        let start = usize::try_from(u64_at(entry, 0)).ok()?;
        file.get(start..start.checked_add(u32_at(entry, 8) as usize)?)
    }

    fn file(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

impl std::fmt::Debug for SnapshotFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SnapshotFile").field("marks", &self.marks).finish_non_exhaustive()
    }
}

/// Why a file is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// Some other file.
    #[error("not a registry snapshot")]
    NotASnapshot,
    /// Written by a newer version of this program.
    #[error("a registry snapshot of version {version} is newer than this program")]
    Version {
        /// The version found.
        version: u32,
    },
    /// Damaged.
    #[error("the registry snapshot's checksum is wrong")]
    Checksum,
    /// Damaged, or from a faulty writer.
    #[error("the registry snapshot is malformed")]
    Malformed,
    /// Its keys were sealed with another data key than the one given.
    #[error("the registry snapshot was sealed with another data key")]
    WrongDataKey,
    /// An enrolment or a registration cannot be read.
    #[error(transparent)]
    Enrolment(#[from] ChangeError),
    /// A policy's keys do not open although the data key is the right one.
    #[error(transparent)]
    Sealed(#[from] SealError),
}

/// What a file holds besides devices.
#[derive(Clone, Copy)]
pub(crate) struct HubRecords<'a> {
    pub(crate) policies: &'a [Policy],
    pub(crate) groups: &'a [ConsumerGroup],
    pub(crate) enrolments: &'a Enrolments,
}

/// Write a whole file.
pub(crate) fn write_snapshot(
    devices: Merged<'_>,
    base: Option<&SnapshotFile>,
    hub: HubRecords<'_>,
    marks: Marks,
    write_extra: impl FnOnce(&mut Vec<u8>),
    sealer: &KeySealer,
) -> Result<Vec<u8>, SnapshotError> {
    let mut file =
        Vec::with_capacity(base.map_or(HEADER_BYTES, |base| base.file().len() + base.file().len() / 8));
    file.resize(HEADER_BYTES, 0);
    let mut table = Vec::new();
    let mut count = DeviceCount::default();
    for entry in devices {
        let archive;
        let (record, status) = match (entry.map_err(|_| SnapshotError::Malformed)?, base) {
            (Entry::Layered(device), _) => {
                archive = archive_of(&stored_device(device, sealer))?;
                (archive.as_slice(), Some(device.status))
            }
            (Entry::Stored(index), Some(base)) if base.version == VERSION_1 => {
                let device = base.device(index, sealer).map_err(|_| SnapshotError::Malformed)?;
                archive = archive_of(&stored_device(&device, sealer))?;
                (archive.as_slice(), Some(device.status))
            }
            (Entry::Stored(index), Some(base)) => {
                let status = base.record(index).ok().and_then(|record| status_of(record.status));
                (base.record_bytes(index).ok_or(SnapshotError::Malformed)?, status)
            }
            (Entry::Stored(_), None) => return Err(SnapshotError::Malformed),
        };
        match status.ok_or(SnapshotError::Malformed)? {
            DeviceStatus::Enabled => count.enabled += 1,
            DeviceStatus::Disabled => count.disabled += 1,
        }
        table.extend_from_slice(&(file.len() as u64).to_le_bytes());
        table.extend_from_slice(
            &u32::try_from(record.len()).map_err(|_| SnapshotError::Malformed)?.to_le_bytes(),
        );
        file.extend_from_slice(record);
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    }

    let table_position = file.len();
    file.extend_from_slice(&table);
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    let enrolments_position = file.len();
    write_enrolments(hub.enrolments, sealer, &mut file);
    file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    let hub_position = file.len();
    file.extend_from_slice(&archive_of(&stored_hub(hub.policies, hub.groups, sealer))?);
    let extra_position = file.len();
    write_extra(&mut file);

    let body_checksum = crc32fast::hash(&file[HEADER_BYTES..]);
    let file_bytes = file.len() as u64;
    let header = &mut file[..HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[24..28].copy_from_slice(&body_checksum.to_le_bytes());
    let numbers = [
        (16, file_bytes),
        (32, count.enabled),
        (40, count.disabled),
        (48, table_position as u64),
        (56, hub_position as u64),
        (64, extra_position as u64),
        (72, marks.generation),
        (80, marks.revision),
        (88, marks.snapshot),
        (112, enrolments_position as u64),
    ];
    for (at, number) in numbers {
        header[at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    header[96..112].copy_from_slice(&sealer.fingerprint());
    let header_checksum = crc32fast::hash(header);
    header[12..16].copy_from_slice(&header_checksum.to_le_bytes());
    Ok(file)
}

fn write_enrolments(enrolments: &Enrolments, sealer: &KeySealer, file: &mut Vec<u8>) {
    let Enrolments { groups, singles, registrations } = enrolments;
    let enrolments = groups.iter().chain(singles.iter());
    let enrolments = enrolments.map(|(_, enrolment)| Change::PutEnrolment(Box::new(enrolment.clone())));
    let registrations = registrations.iter();
    let registrations =
        registrations.map(|(_, registration)| Change::PutRegistration(Box::new(registration.clone())));
    for change in enrolments.chain(registrations) {
        let head = file.len();
        file.extend_from_slice(&[0; ENROLMENT_HEAD_BYTES]);
        change.encode(sealer, file);
        let length =
            u32::try_from(file.len() - head - ENROLMENT_HEAD_BYTES).expect("a change is far below 4 GiB");
        file[head..head + ENROLMENT_HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
    }
}

/// rkyv reads in place and so needs its alignment. A mapping begins at a page; anything else is copied once if need be.
fn aligned(bytes: FileBytes) -> FileBytes {
    let file = (*bytes).as_ref();
    if file.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        return bytes;
    }
    let mut copy = AlignedVec::<ALIGNMENT>::with_capacity(file.len());
    copy.extend_from_slice(file);
    Arc::new(AlignedBytes(copy))
}

struct AlignedBytes(AlignedVec<ALIGNMENT>);

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
