//! Why a device's presence is over.

use engine::request::{EngineError, SessionEnd, UnauthorizedReason};

/// Why a presence is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The engine ended the session: a newer connection of the device, or a change of its identity.
    Ended(SessionEnd),
    /// The token has expired.
    Expired,
    /// The policy whose token it is has changed.
    Revoked,
    /// The engine had no room for what the device sent or settled for too long.
    Throttled,
    /// An event will not be stored.
    NotStored(EngineError),
}

impl End {
    /// The engine's word for it.
    pub fn error(self) -> EngineError {
        match self {
            Self::Ended(end) => EngineError::SessionEnded(Some(end)),
            Self::Expired => EngineError::Unauthorized(UnauthorizedReason::Expired),
            Self::Revoked => EngineError::Unauthorized(UnauthorizedReason::Stale),
            Self::Throttled => EngineError::Busy,
            Self::NotStored(error) => error,
        }
    }
}
