//! The door's part for many changes of identities at a time.

use registry::{DeviceDraft, DeviceId};

use super::IfMatch;

/// One change of an identity among many. Each is done or refused for itself.
#[derive(Clone, Debug)]
pub enum DeviceChange {
    /// As [`Request::CreateDevice`](super::Request::CreateDevice).
    Create(DeviceDraft),
    /// As [`Request::UpdateDevice`](super::Request::UpdateDevice).
    Update {
        /// What it shall be.
        draft: DeviceDraft,
        /// Its condition.
        if_match: IfMatch,
    },
    /// As [`Request::DeleteDevice`](super::Request::DeleteDevice).
    Delete {
        /// The id.
        device: DeviceId,
        /// Its condition.
        if_match: IfMatch,
    },
}

impl DeviceChange {
    /// Which identity it is about.
    pub fn device(&self) -> &DeviceId {
        match self {
            Self::Create(draft) | Self::Update { draft, .. } => &draft.device,
            Self::Delete { device, .. } => device,
        }
    }
}
