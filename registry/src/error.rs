//! What the registry refuses.

use crate::id::IdError;
use crate::{KeyError, SealError};

/// Why the registry refused. All but `Damaged` and `Sealed` are the caller's to put right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The device exists already.
    #[error("device exists already")]
    DeviceExists,
    /// No such device.
    #[error("device not found")]
    DeviceNotFound,
    /// The identity has another ETag than the condition names.
    #[error("the identity has changed since its ETag was read")]
    PreconditionFailed,
    /// Not a device id.
    #[error("invalid device id: {0}")]
    InvalidId(#[from] IdError),
    /// Not a key.
    #[error("invalid key: {0}")]
    InvalidKey(#[from] KeyError),
    /// The status reason is too long.
    #[error("a status reason of {chars} characters exceeds {chars_max}")]
    InvalidReason {
        /// Its length.
        chars: usize,
        /// The limit.
        chars_max: usize,
    },
    /// Not a policy name.
    #[error("invalid policy name")]
    InvalidPolicyName,
    /// No such policy.
    #[error("policy not found")]
    PolicyNotFound,
    /// The hub has as many policies as it may.
    #[error("the hub has {count_max} policies already")]
    PoliciesExhausted {
        /// The limit.
        count_max: usize,
    },
    /// The last policy stays.
    #[error("the hub's last policy is not deleted")]
    LastPolicy,
    /// Not a consumer group's name.
    #[error("a consumer group's name is 1 to 50 characters of A-Z a-z 0-9 . _ -")]
    InvalidConsumerGroupName,
    /// The consumer group exists already (names are compared without case).
    #[error("consumer group exists already")]
    ConsumerGroupExists,
    /// No such consumer group.
    #[error("consumer group not found")]
    ConsumerGroupNotFound,
    /// `$Default` is neither created nor deleted.
    #[error("$Default always exists")]
    ConsumerGroupDefault,
    /// The hub has as many consumer groups as it may.
    #[error("the hub has {count_max} consumer groups already")]
    ConsumerGroupsExhausted {
        /// The limit.
        count_max: usize,
    },
    /// An enrolment of this name exists.
    #[error("enrollment exists already")]
    EnrolmentExists,
    /// No such enrolment.
    #[error("enrollment not found")]
    EnrolmentNotFound,
    /// There are as many enrolments as there may be.
    #[error("there are {count_max} enrollments already")]
    EnrolmentsExhausted {
        /// The limit.
        count_max: usize,
    },
    /// No such registration.
    #[error("registration not found")]
    RegistrationNotFound,
    /// There are as many registrations as there may be.
    #[error("there are {count_max} registrations already")]
    RegistrationsExhausted {
        /// The limit.
        count_max: usize,
    },
    /// The identity that a registration would get is not its own.
    #[error("the device exists and was not made by this registration")]
    DeviceTaken,
    /// A stored identity cannot be read, though its file's checksum was right: the hub refuses to guess.
    #[error("a stored identity is damaged")]
    Damaged,
    /// A stored identity's keys cannot be opened.
    #[error("a stored identity's keys cannot be opened: {0}")]
    Sealed(#[from] SealError),
}
