//! Device identities, hub policies and their rights, as a fold over changes.
#![forbid(unsafe_code)]
