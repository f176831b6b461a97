//! The door's part for shared access policies: for the administrator alone, which the caller has checked.

pub use registry::{KeyWish, PolicyDraft};

/// What is asked about policies. Partition 0.
///
/// Whatever rests on a policy that changes or goes ends: each connection that holds a grant of it is told
/// [`Notice::PolicyChanged`](super::Notice::PolicyChanged) before the reply, and one that waits for such a grant is refused.
#[derive(Clone, Debug)]
pub enum PolicyRequest {
    /// All policies. Reply: [`Reply::Policies`](super::Reply::Policies).
    List,
    /// One policy with its keys. Reply: [`Reply::Policy`](super::Reply::Policy).
    Find {
        /// Its name.
        name: String,
    },
    /// Make a policy, or change it. Reply: [`Reply::Policy`](super::Reply::Policy) once durable.
    Put(PolicyDraft),
    /// Delete a policy. Reply: [`Reply::Done`](super::Reply::Done) once durable.
    Delete {
        /// Its name.
        name: String,
    },
}
