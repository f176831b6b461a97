//! Device identities, hub policies and their rights, as a fold over changes.
//!
//! The crate knows no storage, socket or protocol. A [`Store`] holds one partition's identities (partition 0 also the
//! hub's policies and consumer groups); each mutation is planned against it, becomes a [`Change`] that the caller makes
//! durable, and is applied. From time to time a [`SnapshotJob`] folds everything into one file, which is later served
//! where it lies: opening verifies a checksum and keeps the id of each 64th device, nothing else per device.
//!
//! Time comes in as milliseconds since 1970, chance as a function that fills bytes ([`Random`]).
//!
//! ```
//! use registry::{DataKey, DeviceDraft, DeviceId, KeySealer, Store};
//!
//! let sealer = KeySealer::new(&DataKey::generate(&mut |bytes| bytes.fill(7)));
//! let mut store = Store::open(None, sealer).unwrap();
//! let pump = DeviceId::parse("pump-1").unwrap();
//! let change = store.plan_create(DeviceDraft::new(pump.clone()), 1_700_000_000_000, &mut |bytes| bytes.fill(3)).unwrap();
//! // Here the caller appends `change` to its journal.
//! store.apply(change);
//! assert!(store.device(&pump).unwrap().is_some());
//! ```
#![forbid(unsafe_code)]

pub mod audience;
mod change;
mod credential;
mod device;
mod enrolment;
mod error;
mod group;
mod id;
mod layer;
pub mod limits;
mod parted;
mod plan;
mod policy;
pub mod sas;
mod seal;
mod snapshot;
mod store;

pub use audience::Audience;
pub use change::{Change, ChangeError};
pub use credential::{DeviceKey, DeviceKeys, KeyError};
pub use device::{Device, DeviceDraft, DeviceStatus, Life, Stage};
pub use enrolment::{
    Allocation, Assignment, Enrolment, EnrolmentDraft, EnrolmentId, EnrolmentKind, EnrolmentName,
    EnrolmentRef, EnrolmentSettings, Registration, derive_key,
};
pub use error::RegistryError;
pub use group::{ConsumerGroup, DEFAULT_CONSUMER_GROUP};
pub use id::{ConsumerGroupId, DeviceId, ETag, GenerationId, IdError};
pub use parted::PartedMap;
pub use policy::{KeyWish, Policy, PolicyDraft, PolicyName, Rights, builtin_policies};
pub use sas::{KeyForm, SasError, SasToken};
pub use seal::{DataKey, KeySealer, SealError};
pub use snapshot::{FileBytes, SnapshotError, SnapshotFile};
pub use store::{DeviceCount, Retired, SnapshotJob, Store};

/// Where chance comes from: fills the whole slice. A seeded generator in simulations, the operating system otherwise.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);
