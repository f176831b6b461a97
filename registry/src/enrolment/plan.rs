//! Checking a wish about enrolments against the present state: what comes out is the change to make durable and apply.

use super::{
    Enrolment, EnrolmentDraft, EnrolmentId, EnrolmentKind, EnrolmentName, EnrolmentRef, Registration,
};
use crate::Random;
use crate::change::Change;
use crate::credential::{DeviceKey, DeviceKeys};
use crate::device::Device;
use crate::error::RegistryError;
use crate::id::{DeviceId, ETag, GenerationId};
use crate::limits::{ENROLMENT_COUNT_MAX, ENROLMENT_GROUP_COUNT_MAX, REGISTRATION_COUNT_MAX};
use crate::store::Store;

/// What a registration is to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Of which device.
    pub registration: EnrolmentId,
    /// By which enrolment.
    pub enrolment: EnrolmentRef,
    /// The identity.
    pub device: DeviceId,
    /// Which of the identities of that id.
    pub generation: GenerationId,
    /// The device wishes to begin anew.
    pub force: bool,
}

impl Store {
    /// The enrolment of this name.
    pub fn enrolment(&self, name: &EnrolmentName) -> Option<&Enrolment> {
        self.enrolments.of(name.kind).find(&name.id)
    }

    /// Enrolments of this kind in the order of their ids, those behind `after`.
    pub fn enrolments_after(
        &self,
        kind: EnrolmentKind,
        after: Option<&EnrolmentId>,
    ) -> impl Iterator<Item = &Enrolment> {
        self.enrolments.of(kind).after(after).map(|(_, enrolment)| enrolment)
    }

    /// What came of a registration.
    pub fn registration(&self, id: &EnrolmentId) -> Option<&Registration> {
        self.enrolments.registrations.find(id)
    }

    /// Registrations by any enrolment in the order of their ids, those behind `after`.
    pub fn all_registrations_after(
        &self,
        after: Option<&EnrolmentId>,
    ) -> impl Iterator<Item = &Registration> {
        self.enrolments.registrations.after(after).map(|(_, registration)| registration)
    }

    /// Plan a new enrolment. Missing keys are generated.
    ///
    /// # Errors
    /// [`RegistryError::EnrolmentExists`], [`RegistryError::EnrolmentsExhausted`].
    pub fn plan_create_enrolment(
        &self,
        draft: EnrolmentDraft,
        now_ms: u64,
        random: Random<'_>,
    ) -> Result<Change, RegistryError> {
        if self.enrolment(&draft.name).is_some() {
            return Err(RegistryError::EnrolmentExists);
        }
        let count_max = match draft.name.kind {
            EnrolmentKind::Single => ENROLMENT_COUNT_MAX,
            EnrolmentKind::Group => ENROLMENT_GROUP_COUNT_MAX,
        };
        if self.enrolments.of(draft.name.kind).len() >= count_max {
            return Err(RegistryError::EnrolmentsExhausted { count_max });
        }
        let primary = draft.primary_key.unwrap_or_else(|| DeviceKey::generate(random));
        let secondary = draft.secondary_key.unwrap_or_else(|| DeviceKey::generate(random));
        let etag = self.next_etag();
        Ok(Change::PutEnrolment(Box::new(Enrolment {
            name: draft.name,
            incarnation: etag.0,
            etag,
            keys: DeviceKeys { primary, secondary },
            status: draft.status,
            device: draft.device,
            settings: draft.settings,
            created_ms: now_ms,
            updated_ms: now_ms,
        })))
    }

    /// Plan a change. Keys that the draft leaves out stay.
    ///
    /// # Errors
    /// [`RegistryError::EnrolmentNotFound`], [`RegistryError::PreconditionFailed`].
    pub fn plan_update_enrolment(
        &self,
        draft: EnrolmentDraft,
        if_match: Option<ETag>,
        now_ms: u64,
    ) -> Result<Change, RegistryError> {
        let before = self.matching_enrolment(&draft.name, if_match)?;
        let keys = DeviceKeys {
            primary: draft.primary_key.unwrap_or_else(|| before.keys.primary.clone()),
            secondary: draft.secondary_key.unwrap_or_else(|| before.keys.secondary.clone()),
        };
        Ok(Change::PutEnrolment(Box::new(Enrolment {
            name: draft.name,
            incarnation: before.incarnation,
            etag: self.next_etag(),
            keys,
            status: draft.status,
            device: draft.device,
            settings: draft.settings,
            created_ms: before.created_ms,
            updated_ms: now_ms,
        })))
    }

    /// Plan a deletion. What came of a group is dropped by [`Change::DropRegistrations`] in every partition.
    ///
    /// # Errors
    /// See [`Store::plan_update_enrolment`].
    pub fn plan_delete_enrolment(
        &self,
        name: &EnrolmentName,
        if_match: Option<ETag>,
    ) -> Result<Change, RegistryError> {
        let before = self.matching_enrolment(name, if_match)?;
        Ok(Change::DeleteEnrolment { name: before.name.clone() })
    }

    /// Plan that `device` is given to `registration` with these keys. None: it is so already.
    ///
    /// An identity that the back end made, or that another registration got, is not taken over, unless it has the very keys:
    /// whoever holds a group's key could else be any device.
    ///
    /// # Errors
    /// [`RegistryError::DeviceTaken`]; see [`Store::device`].
    pub fn plan_assign(
        &self,
        registration: &EnrolmentId,
        device: &DeviceId,
        keys: &DeviceKeys,
        now_ms: u64,
    ) -> Result<Option<Change>, RegistryError> {
        let Some(mut after) = self.device(device)? else {
            let mut made = self.first_state(device.clone(), keys.clone(), now_ms);
            made.life.registration = Some(registration.clone());
            made.life.bootstrapped_ms = Some(now_ms);
            return Ok(Some(Change::PutDevice(Box::new(made))));
        };
        let has_keys = after.keys == *keys;
        match &after.life.registration {
            Some(before) if before == registration && has_keys => return Ok(None),
            Some(before) if before == registration => {}
            None if has_keys => {}
            _ => return Err(RegistryError::DeviceTaken),
        }
        after.etag = self.next_etag();
        after.keys_version += u64::from(!has_keys);
        after.keys = keys.clone();
        after.life.registration = Some(registration.clone());
        after.life.bootstrapped_ms.get_or_insert(now_ms);
        Ok(Some(Change::PutDevice(Box::new(after))))
    }

    /// Plan that a device was seen: its first time is kept. None: it was seen before.
    pub fn plan_activate(&self, device: &Device, now_ms: u64) -> Option<Change> {
        let mut after = device.clone();
        match after.life.activated_ms.replace(now_ms) {
            None => Some(Change::PutDevice(Box::new(after))),
            Some(_) => None,
        }
    }

    /// Plan the record of a registration. One of the same enrolment and identity goes on, unless the device wishes a new one.
    ///
    /// # Errors
    /// [`RegistryError::RegistrationsExhausted`].
    pub fn plan_registration(&self, assignment: Assignment, now_ms: u64) -> Result<Change, RegistryError> {
        let Assignment { registration: id, enrolment, device, generation, force } = assignment;
        let before = self.registration(&id);
        if before.is_none() && self.enrolments.registrations.len() >= REGISTRATION_COUNT_MAX {
            return Err(RegistryError::RegistrationsExhausted { count_max: REGISTRATION_COUNT_MAX });
        }
        let etag = self.next_etag();
        let goes_on = before.filter(|before| {
            !force
                && (before.enrolment, &before.device, before.generation) == (enrolment, &device, generation)
        });
        let (incarnation, created_ms) =
            goes_on.map_or((etag.0, now_ms), |before| (before.incarnation, before.created_ms));
        Ok(Change::PutRegistration(Box::new(Registration {
            id,
            enrolment,
            device,
            generation,
            incarnation,
            etag,
            created_ms,
            updated_ms: now_ms,
        })))
    }

    /// Plan to forget what came of a registration. The identity stays.
    ///
    /// # Errors
    /// [`RegistryError::RegistrationNotFound`], [`RegistryError::PreconditionFailed`].
    pub fn plan_delete_registration(
        &self,
        id: &EnrolmentId,
        if_match: Option<ETag>,
    ) -> Result<Change, RegistryError> {
        let before = self.registration(id).ok_or(RegistryError::RegistrationNotFound)?;
        match if_match {
            Some(etag) if etag != before.etag => Err(RegistryError::PreconditionFailed),
            _ => Ok(Change::DeleteRegistration { id: id.clone() }),
        }
    }

    fn matching_enrolment(
        &self,
        name: &EnrolmentName,
        if_match: Option<ETag>,
    ) -> Result<&Enrolment, RegistryError> {
        let before = self.enrolment(name).ok_or(RegistryError::EnrolmentNotFound)?;
        match if_match {
            Some(etag) if etag != before.etag => Err(RegistryError::PreconditionFailed),
            _ => Ok(before),
        }
    }
}
