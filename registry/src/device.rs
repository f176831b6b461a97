//! The device record.

use crate::credential::{DeviceKey, DeviceKeys};
use crate::enrolment::EnrolmentId;
use crate::error::RegistryError;
use crate::id::{DeviceId, ETag, GenerationId};
use crate::limits::STATUS_REASON_CHARS_MAX;

/// Whether a device may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceStatus {
    /// It may.
    #[default]
    Enabled,
    /// It may not, and what it holds open is ended.
    Disabled,
}

impl DeviceStatus {
    /// The documented name, `enabled` or `disabled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }

    /// Read the documented name, without case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Enabled, Self::Disabled].into_iter().find(|status| text.eq_ignore_ascii_case(status.as_str()))
    }
}

/// How far a device has come in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its identity exists.
    Provisioned,
    /// It was told its hub and has its keys.
    Bootstrapped,
    /// It was here.
    Activated,
    /// It may not come any more.
    Deactivated,
}

impl Stage {
    /// Its name, as users see it. The fifth stage, de-provisioned, is that there is no identity.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioned => "provisioned",
            Self::Bootstrapped => "bootstrapped",
            Self::Activated => "activated",
            Self::Deactivated => "deactivated",
        }
    }
}

/// What a device's life has brought so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The registration that gave it its keys.
    pub registration: Option<EnrolmentId>,
    /// When that was, milliseconds since 1970.
    pub bootstrapped_ms: Option<u64>,
    /// When it was first here, milliseconds since 1970.
    pub activated_ms: Option<u64>,
}

impl Life {
    /// How far that is, for a device of this status.
    pub fn stage(&self, status: DeviceStatus) -> Stage {
        match (status, self.activated_ms, self.bootstrapped_ms) {
            (DeviceStatus::Disabled, ..) => Stage::Deactivated,
            (_, Some(_), _) => Stage::Activated,
            (_, None, Some(_)) => Stage::Bootstrapped,
            (_, None, None) => Stage::Provisioned,
        }
    }
}

/// An identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// New with every creation.
    pub generation: GenerationId,
    /// New with every change.
    pub etag: ETag,
    /// From 1; goes up when a key changes. A grant that was given for an older version no longer attaches.
    pub keys_version: u64,
    /// Both keys.
    pub keys: DeviceKeys,
    /// Whether it may connect.
    pub status: DeviceStatus,
    /// Why, at most 128 characters.
    pub status_reason: Option<String>,
    /// When the status last changed, milliseconds since 1970; none: never since creation.
    pub status_updated_ms: Option<u64>,
    /// What its life has brought so far.
    pub life: Life,
}

/// What the back end wants an identity to be.
#[derive(Clone, Debug)]
pub struct DeviceDraft {
    /// The id.
    pub device: DeviceId,
    /// None: a new identity gets a generated key, an existing one keeps its own.
    pub primary_key: Option<DeviceKey>,
    /// See `primary_key`.
    pub secondary_key: Option<DeviceKey>,
    /// Whether it may connect.
    pub status: DeviceStatus,
    /// Why, at most 128 characters.
    pub status_reason: Option<String>,
}

impl DeviceDraft {
    /// An enabled device without keys or a reason of its own.
    pub fn new(device: DeviceId) -> Self {
        Self {
            device,
            primary_key: None,
            secondary_key: None,
            status: DeviceStatus::Enabled,
            status_reason: None,
        }
    }

    /// Refuse what no identity may have.
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        match self.status_reason.as_ref().map_or(0, |reason| reason.chars().count()) {
            chars if chars > STATUS_REASON_CHARS_MAX => {
                Err(RegistryError::InvalidReason { chars, chars_max: STATUS_REASON_CHARS_MAX })
            }
            _ => Ok(()),
        }
    }
}
