//! Enrolments: who may get an identity without the back end making it, and what came of it
//! \[IoT Hub Device Provisioning Service: concepts-service\].

mod plan;
mod stored;

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::credential::{DeviceKey, DeviceKeys};
use crate::device::DeviceStatus;
use crate::id::{DeviceId, ETag, GenerationId, IdError};
use crate::parted::PartedMap;

pub use plan::Assignment;
pub(crate) use stored::{
    put_name, put_reference, put_registration, put_single_or_group, read_id, read_name, read_reference,
    registration, single_or_group,
};

/// A registration id or the id of an enrolment group: 1 to 128 of `a-z 0-9 - . _ :`, of which the last is no `.`, `_` or `:`.
/// Compared without case, so kept in lower case \[Device Provisioning Service: concepts-service, registration ID\].
/// Every one is also a legal device id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnrolmentId(DeviceId);

impl EnrolmentId {
    /// Check an id that is already decoded.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let is_id_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        let device = DeviceId::parse(&text.to_ascii_lowercase())?;
        if let Some(index) = text.bytes().position(|byte| !is_id_byte(byte)) {
            return Err(IdError::Character { index });
        }
        match text.ends_with(['.', '_', ':']) {
            true => Err(IdError::Character { index: text.len() - 1 }),
            false => Ok(Self(device)),
        }
    }

    /// The text, in lower case.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The device id that is the same text: what a registration gives where its enrolment names no other.
    pub fn device(&self) -> &DeviceId {
        &self.0
    }
}

impl AsRef<str> for EnrolmentId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for EnrolmentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Debug for EnrolmentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

/// Whether an enrolment is for one device or for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EnrolmentKind {
    /// For one registration id, with keys of its own.
    Single,
    /// For every registration id whose key derives from the group's.
    Group,
}

/// Which enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EnrolmentName {
    /// Single or group: two spaces of ids.
    pub kind: EnrolmentKind,
    /// The registration id or the group's id.
    pub id: EnrolmentId,
}

/// Tells an enrolment from an earlier one of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnrolmentRef {
    /// Single or group.
    pub kind: EnrolmentKind,
    /// New with every creation, among those of the same partition.
    pub incarnation: u64,
}

/// How a device is to be allocated to a hub. With one hub all come to the same; kept, so that it reads back as it was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// Evenly.
    #[default]
    Hashed,
    /// To the nearest.
    GeoLatency,
    /// To the one named.
    Static,
}

/// What an enrolment says of hubs. Kept, so that it reads back as it was set; with one hub it decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnrolmentSettings {
    /// Which hub.
    pub allocation: Allocation,
    /// Whether a later registration may move the device to another hub.
    pub update_hub_assignment: bool,
    /// Whether its data would move with it.
    pub migrate_device_data: bool,
}

impl Default for EnrolmentSettings {
    fn default() -> Self {
        Self { allocation: Allocation::Hashed, update_hub_assignment: true, migrate_device_data: true }
    }
}

/// An enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Which.
    pub name: EnrolmentName,
    /// New with every creation.
    pub incarnation: u64,
    /// New with every change.
    pub etag: ETag,
    /// The device's keys, or those that devices' keys derive from.
    pub keys: DeviceKeys,
    /// Whether it lets anybody register.
    pub status: DeviceStatus,
    /// Of a single one: the identity that it gives. None: the one with the registration id's text.
    pub device: Option<DeviceId>,
    /// What it says of hubs.
    pub settings: EnrolmentSettings,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// When it was last changed.
    pub updated_ms: u64,
}

impl Enrolment {
    /// What registrations that rest on it remember of it.
    pub fn reference(&self) -> EnrolmentRef {
        EnrolmentRef { kind: self.name.kind, incarnation: self.incarnation }
    }

    /// The keys that prove `registration`, as the device writes its id (a derived key depends on its case).
    pub fn keys_of(&self, registration: &str) -> DeviceKeys {
        match self.name.kind {
            EnrolmentKind::Single => self.keys.clone(),
            EnrolmentKind::Group => {
                let [primary, secondary] = self.keys.both().map(|key| derive_key(key, registration));
                DeviceKeys { primary, secondary }
            }
        }
    }
}

/// A device's key from its group's: HMAC-SHA256 of the registration id
/// \[Device Provisioning Service: concepts-symmetric-key-attestation, group enrollments\].
pub fn derive_key(group: &DeviceKey, registration: &str) -> DeviceKey {
    let mut mac = Hmac::<Sha256>::new_from_slice(group.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(registration.as_bytes());
    DeviceKey::from_bytes(&mac.finalize().into_bytes()).expect("a key may have 32 bytes")
}

/// What the back end wants an enrolment to be.
#[derive(Clone, Debug)]
pub struct EnrolmentDraft {
    /// Which.
    pub name: EnrolmentName,
    /// None: a new one gets a generated key, an existing one keeps its own.
    pub primary_key: Option<DeviceKey>,
    /// See `primary_key`.
    pub secondary_key: Option<DeviceKey>,
    /// Whether it lets anybody register.
    pub status: DeviceStatus,
    /// See [`Enrolment::device`].
    pub device: Option<DeviceId>,
    /// See [`Enrolment::settings`].
    pub settings: EnrolmentSettings,
}

/// What came of a registration: who got which identity, by which enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Of which device, by the id that it registers with.
    pub id: EnrolmentId,
    /// By which enrolment.
    pub enrolment: EnrolmentRef,
    /// The identity that it got.
    pub device: DeviceId,
    /// Which of the identities of that id.
    pub generation: GenerationId,
    /// New with every record that is made anew.
    pub incarnation: u64,
    /// New with every change.
    pub etag: ETag,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// When the device last registered.
    pub updated_ms: u64,
}

/// What one partition knows of enrolments: the single ones and registrations whose ids hash to it; partition 0 also the groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Enrolments {
    pub(crate) groups: PartedMap<EnrolmentId, Enrolment>,
    pub(crate) singles: PartedMap<EnrolmentId, Enrolment>,
    pub(crate) registrations: PartedMap<EnrolmentId, Registration>,
}

impl Enrolments {
    pub(crate) fn of(&self, kind: EnrolmentKind) -> &PartedMap<EnrolmentId, Enrolment> {
        match kind {
            EnrolmentKind::Single => &self.singles,
            EnrolmentKind::Group => &self.groups,
        }
    }

    pub(crate) fn of_mut(&mut self, kind: EnrolmentKind) -> &mut PartedMap<EnrolmentId, Enrolment> {
        match kind {
            EnrolmentKind::Single => &mut self.singles,
            EnrolmentKind::Group => &mut self.groups,
        }
    }

    /// The enrolment is gone, and with a single one what came of it. What came of a group lies in all partitions.
    pub(crate) fn delete(&mut self, name: &EnrolmentName) {
        let Some(gone) = self.of_mut(name.kind).remove(&name.id) else { return };
        let is_its = |registration: &Registration| registration.enrolment == gone.reference();
        if name.kind == EnrolmentKind::Single && self.registrations.find(&name.id).is_some_and(is_its) {
            self.registrations.remove(&name.id);
        }
    }

    /// Forget what came of an enrolment.
    pub(crate) fn drop_registrations(&mut self, enrolment: EnrolmentRef) {
        let its = self.registrations.iter().filter(|(_, registration)| registration.enrolment == enrolment);
        let ids: Vec<EnrolmentId> = its.map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| drop(self.registrations.remove(id)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_lower_case_and_end_well() {
        for (text, id) in [("Sensor-1", "sensor-1"), ("a:b.c_d-", "a:b.c_d-"), ("7", "7")] {
            assert_eq!(EnrolmentId::parse(text).unwrap().as_str(), id);
        }
        for bad in ["", "a.", "a_", "a:", "a b", "a/b", "a#b", "ä", &"x".repeat(129)] {
            assert!(EnrolmentId::parse(bad).is_err(), "{bad}");
        }
    }

    /// The example of \[Device Provisioning Service: how-to-legacy-device-symm-key\], computed with
    /// `printf sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6 | openssl sha256 -mac HMAC -macopt hexkey:... -binary | base64`.
    #[test]
    fn keys_derive_as_documented() {
        let group = DeviceKey::from_base64(
            "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==",
        );
        let device = derive_key(&group.unwrap(), "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6");
        assert_eq!(device.to_base64(), "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=");
    }
}
