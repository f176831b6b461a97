//! Checking a wish against the present state: what comes out is the change to make durable and apply.

use crate::Random;
use crate::change::Change;
use crate::credential::{DeviceKey, DeviceKeys};
use crate::device::{Device, DeviceDraft, DeviceStatus, Life};
use crate::error::RegistryError;
use crate::group::{self, ConsumerGroup};
use crate::id::{ConsumerGroupId, DeviceId, ETag, GenerationId};
use crate::limits::GROUP_COUNT_MAX;
use crate::store::Store;

impl Store {
    /// Create an identity; missing keys are generated.
    pub fn plan_create(
        &self,
        draft: DeviceDraft,
        now_ms: u64,
        random: Random<'_>,
    ) -> Result<Change, RegistryError> {
        draft.check()?;
        if self.device(&draft.device)?.is_some() {
            return Err(RegistryError::DeviceExists);
        }
        let primary = draft.primary_key.unwrap_or_else(|| DeviceKey::generate(random));
        let secondary = draft.secondary_key.unwrap_or_else(|| DeviceKey::generate(random));
        let made = self.first_state(draft.device, DeviceKeys { primary, secondary }, now_ms);
        Ok(Change::PutDevice(Box::new(Device {
            status: draft.status,
            status_reason: draft.status_reason,
            ..made
        })))
    }

    /// Change an identity, if it has the ETag `if_match` (none: whatever its ETag). A key that the draft does not give
    /// stays as it is: a back end that only disables a device need not know its keys.
    pub fn plan_update(
        &self,
        draft: DeviceDraft,
        if_match: Option<ETag>,
        now_ms: u64,
    ) -> Result<Change, RegistryError> {
        draft.check()?;
        let before = self.matching(&draft.device, if_match)?;
        let keys = DeviceKeys {
            primary: draft.primary_key.unwrap_or_else(|| before.keys.primary.clone()),
            secondary: draft.secondary_key.unwrap_or_else(|| before.keys.secondary.clone()),
        };
        let status_updated_ms =
            if draft.status == before.status { before.status_updated_ms } else { Some(now_ms) };
        Ok(Change::PutDevice(Box::new(Device {
            id: before.id,
            generation: before.generation,
            etag: self.next_etag(),
            keys_version: before.keys_version + u64::from(keys != before.keys),
            keys,
            status: draft.status,
            status_reason: draft.status_reason,
            status_updated_ms,
            life: before.life,
        })))
    }

    /// Delete an identity, if it has the ETag `if_match` (none: whatever its ETag).
    pub fn plan_delete(&self, device: &DeviceId, if_match: Option<ETag>) -> Result<Change, RegistryError> {
        let before = self.matching(device, if_match)?;
        Ok(Change::DeleteDevice { device: before.id })
    }

    /// Create a consumer group.
    pub fn plan_create_group(&self, name: &str, now_ms: u64) -> Result<Change, RegistryError> {
        group::check_name(name)?;
        if self.consumer_group(name).is_some() {
            return Err(RegistryError::ConsumerGroupExists);
        }
        if self.consumer_groups().len() >= GROUP_COUNT_MAX {
            return Err(RegistryError::ConsumerGroupsExhausted { count_max: GROUP_COUNT_MAX });
        }
        let id = ConsumerGroupId(self.marks.revision + 1);
        Ok(Change::PutConsumerGroup(ConsumerGroup { id, name: name.to_owned(), created_ms: now_ms }))
    }

    /// Delete a consumer group.
    pub fn plan_delete_group(&self, name: &str) -> Result<Change, RegistryError> {
        let group = self.consumer_group(name).ok_or(RegistryError::ConsumerGroupNotFound)?;
        match group.id {
            ConsumerGroupId::DEFAULT => Err(RegistryError::ConsumerGroupDefault),
            id => Ok(Change::DeleteConsumerGroup { id }),
        }
    }

    /// A new identity, enabled.
    pub(crate) fn first_state(&self, id: DeviceId, keys: DeviceKeys, now_ms: u64) -> Device {
        Device {
            id,
            generation: self.next_generation(now_ms),
            etag: self.next_etag(),
            keys_version: 1,
            keys,
            status: DeviceStatus::Enabled,
            status_reason: None,
            status_updated_ms: None,
            life: Life::default(),
        }
    }

    fn matching(&self, device: &DeviceId, if_match: Option<ETag>) -> Result<Device, RegistryError> {
        let before = self.device(device)?.ok_or(RegistryError::DeviceNotFound)?;
        match if_match {
            Some(etag) if etag != before.etag => Err(RegistryError::PreconditionFailed),
            _ => Ok(before),
        }
    }

    /// Larger than every generation before, also when the clock goes back or the device is created again at once.
    fn next_generation(&self, now_ms: u64) -> GenerationId {
        GenerationId::at(now_ms).max(GenerationId(self.marks.generation + 1))
    }

    /// Above [`ETag::NEVER`] from the first on.
    pub(crate) fn next_etag(&self) -> ETag {
        ETag(self.marks.revision + 1)
    }
}
