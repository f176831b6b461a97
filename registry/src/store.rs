//! Lookups and listing pages over the fold of all changes.

use std::sync::Arc;

use crate::change::Change;
use crate::device::{Device, DeviceStatus};
use crate::enrolment::Enrolments;
use crate::error::RegistryError;
use crate::group::ConsumerGroup;
use crate::id::{ConsumerGroupId, DeviceId, GenerationId};
use crate::layer::{Entry, Layer, Merged};
use crate::policy::Policy;
use crate::seal::KeySealer;
use crate::snapshot::{HubRecords, Marks, SnapshotError, SnapshotFile, write_snapshot};

/// Identities of one partition; in partition 0 also the hub's policies and consumer groups.
///
/// A snapshot file at the bottom, served where it lies, and above it what changed since: one layer that takes changes and,
/// from [`Store::snapshot_job`] to [`Store::adopt`], one more that is being written. A device in the file costs no memory
/// beyond the file's pages; its keys are opened when it is looked up.
pub struct Store {
    pub(crate) sealer: KeySealer,
    base: Option<SnapshotFile>,
    frozen: Arc<Layer>,
    recent: Layer,
    pub(crate) marks: Marks,
    pub(crate) policies: Vec<Policy>,
    pub(crate) groups: Vec<ConsumerGroup>,
    pub(crate) enrolments: Enrolments,
}

/// How many identities there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCount {
    /// That may connect.
    pub enabled: u64,
    /// That may not.
    pub disabled: u64,
}

impl DeviceCount {
    fn of(&mut self, status: DeviceStatus) -> &mut u64 {
        match status {
            DeviceStatus::Enabled => &mut self.enabled,
            DeviceStatus::Disabled => &mut self.disabled,
        }
    }
}

impl Store {
    /// Open over a snapshot, or empty. Its bytes are kept for as long as the store serves from them; where the caller's blob
    /// in it ([`SnapshotFile::extra`], to be read before) is the larger part, the identities are copied and the rest let go.
    /// Changes made since the snapshot are to be applied next.
    ///
    /// # Errors
    /// See [`SnapshotError`]; the store is then to stay closed, for an empty one would let nobody in and forget everybody.
    pub fn open(file: Option<SnapshotFile>, sealer: KeySealer) -> Result<Self, SnapshotError> {
        let mut store = Self {
            sealer,
            base: None,
            frozen: Arc::default(),
            recent: Layer::new(),
            marks: Marks::default(),
            policies: Vec::new(),
            groups: vec![ConsumerGroup::builtin()],
            enrolments: Enrolments::default(),
        };
        let Some(file) = file else { return Ok(store) };
        let (policies, groups) = file.hub_records(&store.sealer)?;
        policies.into_iter().for_each(|policy| store.apply(Change::PutPolicy(policy)));
        groups.into_iter().for_each(|group| store.apply(Change::PutConsumerGroup(group)));
        file.enrolments(&store.sealer)?.into_iter().for_each(|change| store.apply(change));
        store.marks = file.marks();
        // A blob that is larger than all identities is not kept in memory for their sake.
        let is_mostly_extra = file.extra().len() > file.bytes_len() / 2;
        store.base = Some(match is_mostly_extra {
            true => file.without_extra(|front| Arc::new(front.to_vec())),
            false => file,
        });
        Ok(store)
    }

    /// Apply a change: one just planned, or one read back from a journal. Applying a change again that the store has seen
    /// already, followed by all later ones in their order, leads to the same state.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::PutDevice(device) => {
                self.marks.generation = self.marks.generation.max(device.generation.0);
                self.marks.revision = self.marks.revision.max(device.etag.0);
                self.recount(&device.id, Some(device.status));
                self.recent.insert(device.id.clone(), Some(device));
            }
            Change::DeleteDevice { device } => {
                self.recount(&device, None);
                self.recent.insert(device, None);
            }
            Change::PutPolicy(policy) => {
                match self.policies.binary_search_by(|known| known.name.cmp(&policy.name)) {
                    Ok(index) => self.policies[index] = policy,
                    Err(index) => self.policies.insert(index, policy),
                }
            }
            Change::DeletePolicy { name } => self.policies.retain(|known| known.name != name),
            Change::PutConsumerGroup(group) => {
                self.marks.revision = self.marks.revision.max(group.id.0);
                self.groups.retain(|known| !known.name.eq_ignore_ascii_case(&group.name));
                let key = group.name.to_ascii_lowercase();
                let index = self.groups.partition_point(|known| known.name.to_ascii_lowercase() < key);
                self.groups.insert(index, group);
            }
            Change::DeleteConsumerGroup { id } => self.groups.retain(|known| known.id != id),
            Change::PutEnrolment(enrolment) => {
                self.marks.revision = self.marks.revision.max(enrolment.etag.0);
                let id = enrolment.name.id.clone();
                self.enrolments.of_mut(enrolment.name.kind).insert(id, *enrolment);
            }
            Change::DeleteEnrolment { name } => self.enrolments.delete(&name),
            Change::PutRegistration(registration) => {
                self.marks.revision = self.marks.revision.max(registration.etag.0);
                self.enrolments.registrations.insert(registration.id.clone(), *registration);
            }
            Change::DeleteRegistration { id } => drop(self.enrolments.registrations.remove(&id)),
            Change::DropRegistrations { enrolment } => self.enrolments.drop_registrations(enrolment),
        }
    }

    /// Find an identity. Its keys are opened for the answer.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`] and [`RegistryError::Sealed`] when what is stored cannot be read: refuse the device.
    pub fn device(&self, id: &DeviceId) -> Result<Option<Device>, RegistryError> {
        if let Some(layered) = self.layered(id) {
            return Ok(layered.cloned());
        }
        let Some(base) = &self.base else { return Ok(None) };
        match base.search(id.as_str())? {
            Ok(index) => base.device(index, &self.sealer).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Which of the identities of this id there is, and whether it may connect: without opening its keys.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`] when what is stored cannot be read.
    pub fn standing(&self, id: &DeviceId) -> Result<Option<(GenerationId, DeviceStatus)>, RegistryError> {
        if let Some(layered) = self.layered(id) {
            return Ok(layered.map(|device| (device.generation, device.status)));
        }
        match &self.base {
            Some(base) => base.standing(id.as_str()),
            None => Ok(None),
        }
    }

    /// At most `count_max` identities in the order of their ids, those behind `after`.
    ///
    /// # Errors
    /// See [`Store::device`].
    pub fn devices_after(
        &self,
        after: Option<&DeviceId>,
        count_max: usize,
    ) -> Result<Vec<Device>, RegistryError> {
        Merged::new([&self.recent, &self.frozen], self.base.as_ref(), after)?
            .take(count_max)
            .map(|entry| match (entry?, &self.base) {
                (Entry::Layered(device), _) => Ok(device.clone()),
                (Entry::Stored(index), Some(base)) => base.device(index, &self.sealer),
                (Entry::Stored(_), None) => Err(RegistryError::Damaged),
            })
            .collect()
    }

    /// How many identities there are.
    pub fn count(&self) -> DeviceCount {
        self.marks.count
    }

    /// The policy of this name, compared with case.
    pub fn policy(&self, name: &str) -> Option<&Policy> {
        let index = self.policies.binary_search_by(|known| known.name.as_str().cmp(name)).ok()?;
        Some(&self.policies[index])
    }

    /// All policies, by name.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The consumer group of this name, compared without case.
    pub fn consumer_group(&self, name: &str) -> Option<&ConsumerGroup> {
        self.groups.iter().find(|known| known.name.eq_ignore_ascii_case(name))
    }

    /// The consumer group of this incarnation.
    pub fn consumer_group_by_id(&self, id: ConsumerGroupId) -> Option<&ConsumerGroup> {
        self.groups.iter().find(|known| known.id == id)
    }

    /// All consumer groups, by name without case.
    pub fn consumer_groups(&self) -> &[ConsumerGroup] {
        &self.groups
    }

    /// Devices that changed since the snapshot file was taken: what a new one would take out of memory.
    pub fn changed_count(&self) -> usize {
        self.recent.len() + self.frozen.len()
    }

    /// Freeze the present state as a job that writes it as a file. Cheap when the last job's result was adopted and when
    /// it was dropped; else the unfinished job's layer is copied.
    pub fn snapshot_job(&mut self) -> SnapshotJob {
        let recent = std::mem::take(&mut self.recent);
        match self.frozen.is_empty() {
            true => self.frozen = Arc::new(recent),
            false => Arc::make_mut(&mut self.frozen).extend(recent),
        }
        self.marks.snapshot += 1;
        SnapshotJob {
            sealer: self.sealer.clone(),
            base: self.base.clone(),
            layer: self.frozen.clone(),
            marks: self.marks,
            policies: self.policies.clone(),
            groups: self.groups.clone(),
            enrolments: self.enrolments.clone(),
        }
    }

    /// Serve from the file that the last job wrote, instead of from memory. What is returned should be dropped where it
    /// hurts nobody: freeing many devices takes its time. Optional: a store that never adopts keeps all changes in memory.
    ///
    /// # Panics
    /// If the file is another than the last job's: changes would be lost.
    pub fn adopt(&mut self, file: SnapshotFile) -> Retired {
        assert_eq!(
            file.marks().snapshot,
            self.marks.snapshot,
            "only the last snapshot job's file can be adopted"
        );
        let layer = std::mem::take(&mut self.frozen);
        Retired { _layer: layer, _base: self.base.replace(file) }
    }

    /// What the layers say of a device: nothing, or that it is deleted, or the device.
    fn layered(&self, id: &DeviceId) -> Option<Option<&Device>> {
        self.recent.get(id).or_else(|| self.frozen.get(id)).map(Option::as_deref)
    }

    fn recount(&mut self, id: &DeviceId, status: Option<DeviceStatus>) {
        let before = match (self.layered(id), &self.base) {
            (Some(layered), _) => layered.map(|device| device.status),
            (None, Some(base)) => base.status(id.as_str()),
            (None, None) => None,
        };
        if let Some(before) = before {
            let count = self.marks.count.of(before);
            *count = count.saturating_sub(1);
        }
        if let Some(status) = status {
            *self.marks.count.of(status) += 1;
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Store")
            .field("count", &self.marks.count)
            .field("changed_count", &self.changed_count())
            .finish_non_exhaustive()
    }
}

/// A state to be written as a snapshot file, on any thread.
pub struct SnapshotJob {
    sealer: KeySealer,
    base: Option<SnapshotFile>,
    layer: Arc<Layer>,
    marks: Marks,
    policies: Vec<Policy>,
    groups: Vec<ConsumerGroup>,
    enrolments: Enrolments,
}

impl SnapshotJob {
    /// Fold everything into the bytes of a file. What the older file holds unchanged is copied as it lies, still sealed.
    /// `write_extra` appends a blob of the caller's own, which [`SnapshotFile::extra`] gives back.
    ///
    /// # Errors
    /// An identity in the older file is damaged: the new one would silently lack it, so there is none.
    pub fn run(self, write_extra: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>, SnapshotError> {
        let none = Layer::new();
        let merged = Merged::new([&self.layer, &none], self.base.as_ref(), None)
            .map_err(|_| SnapshotError::Malformed)?;
        write_snapshot(
            merged,
            self.base.as_ref(),
            HubRecords { policies: &self.policies, groups: &self.groups, enrolments: &self.enrolments },
            self.marks,
            write_extra,
            &self.sealer,
        )
    }
}

impl std::fmt::Debug for SnapshotJob {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SnapshotJob").field("marks", &self.marks).finish_non_exhaustive()
    }
}

/// What an adopted snapshot made superfluous. Does nothing but take its time to drop.
#[must_use = "drop it on a thread that may take its time"]
pub struct Retired {
    _layer: Arc<Layer>,
    _base: Option<SnapshotFile>,
}

#[cfg(test)]
mod tests;
