//! The rkyv archives of a snapshot file.

use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::SnapshotError;
use crate::change::{device_owner, policy_owner, status_code};
use crate::device::{Device, Life};
use crate::enrolment::EnrolmentId;
use crate::error::RegistryError;
use crate::group::ConsumerGroup;
use crate::policy::Policy;
use crate::seal::KeySealer;

/// A device at rest, in a file of version 1.
#[derive(Archive, Serialize)]
pub(super) struct StoredDevice {
    pub(super) id: String,
    pub(super) generation: u64,
    pub(super) etag: u64,
    pub(super) keys_version: u64,
    pub(super) sealed_keys: Vec<u8>,
    pub(super) status: u8,
    pub(super) status_reason: Option<String>,
    pub(super) status_updated_ms: Option<u64>,
}

/// A device at rest, since version 2. What never was is 0 or empty: there are many of these.
#[derive(Archive, Serialize)]
pub(super) struct StoredLivingDevice {
    pub(super) device: StoredDevice,
    pub(super) registration: String,
    pub(super) bootstrapped_ms: u64,
    pub(super) activated_ms: u64,
}

impl ArchivedStoredLivingDevice {
    pub(super) fn life(&self) -> Result<Life, RegistryError> {
        let registration = match self.registration.as_str() {
            "" => None,
            text => Some(EnrolmentId::parse(text).map_err(|_| RegistryError::Damaged)?),
        };
        let moment = |ms: u64| Some(ms).filter(|ms| *ms > 0);
        Ok(Life {
            registration,
            bootstrapped_ms: moment(self.bootstrapped_ms.into()),
            activated_ms: moment(self.activated_ms.into()),
        })
    }
}

/// A policy at rest.
#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StoredPolicy {
    pub(super) name: String,
    pub(super) rights: u8,
    pub(super) sealed_keys: Vec<u8>,
}

/// A consumer group at rest.
#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StoredGroup {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) created_ms: u64,
}

/// What partition 0 holds besides devices and enrolments.
#[derive(Archive, Serialize, Deserialize)]
pub(super) struct StoredHub {
    pub(super) policies: Vec<StoredPolicy>,
    pub(super) groups: Vec<StoredGroup>,
}

pub(super) fn stored_device(device: &Device, sealer: &KeySealer) -> StoredLivingDevice {
    let mut sealed_keys = Vec::new();
    sealer.seal(&device_owner(&device.id, device.generation), &device.keys, &mut sealed_keys);
    StoredLivingDevice {
        device: StoredDevice {
            id: device.id.as_str().to_owned(),
            generation: device.generation.0,
            etag: device.etag.0,
            keys_version: device.keys_version,
            sealed_keys,
            status: status_code(device.status),
            status_reason: device.status_reason.clone(),
            status_updated_ms: device.status_updated_ms,
        },
        registration: device.life.registration.as_ref().map_or_else(String::new, ToString::to_string),
        bootstrapped_ms: device.life.bootstrapped_ms.unwrap_or(0),
        activated_ms: device.life.activated_ms.unwrap_or(0),
    }
}

pub(super) fn stored_hub(policies: &[Policy], groups: &[ConsumerGroup], sealer: &KeySealer) -> StoredHub {
    let policy = |policy: &Policy| {
        let mut sealed_keys = Vec::new();
        sealer.seal(&policy_owner(&policy.name), &policy.keys, &mut sealed_keys);
        StoredPolicy { name: policy.name.as_str().to_owned(), rights: policy.rights.bits(), sealed_keys }
    };
    let group = |group: &ConsumerGroup| StoredGroup {
        id: group.id.0,
        name: group.name.clone(),
        created_ms: group.created_ms,
    };
    StoredHub { policies: policies.iter().map(policy).collect(), groups: groups.iter().map(group).collect() }
}

pub(super) fn archive_of(
    value: &impl for<'a> Serialize<
        rkyv::api::high::HighSerializer<AlignedVec, rkyv::ser::allocator::ArenaHandle<'a>, Failure>,
    >,
) -> Result<AlignedVec, SnapshotError> {
    rkyv::to_bytes::<Failure>(value).map_err(|_| SnapshotError::Malformed)
}
