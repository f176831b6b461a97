//! The caller's way to all shards: one call to ask, the answer comes later to the connection.

use crate::request::{AppendView, Caller, Request};

/// The way from a connection to whichever shard answers. Implemented over mailboxes by the runtime, and over one shard by
/// [`ShardDoor`](crate::shard::ShardDoor).
///
/// Both calls only hand over; the reply comes to the caller's connection in a later turn, once for each request but those
/// that have none.
pub trait Door {
    /// Hand over a request.
    ///
    /// # Errors
    ///
    /// [`Busy`]: nothing was handed over, and no reply will come.
    fn ask(&mut self, caller: Caller, request: Request) -> Result<(), Busy>;

    /// Hand over events where they lie; they are copied before this returns.
    ///
    /// # Errors
    ///
    /// [`Busy`]: nothing was handed over, and no reply will come.
    fn append(&mut self, caller: Caller, append: AppendView<'_>) -> Result<(), Busy>;
}

/// The way to a shard is full, or the connection has too many requests open: stop asking until answers have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the way to the engine is full")]
pub struct Busy;
