//! Sockets, on their cores: the only part of this crate that names glommio.

mod counters;
mod gate;
mod handoff;
mod listener;
mod pending;
mod pump;
mod reserve;

pub use listener::{Endpoint, Front, serve_core};
pub use reserve::{ReserveError, reserve};
