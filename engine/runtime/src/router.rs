//! The way from a connection to whichever shard answers.

use std::rc::Rc;

use engine::door::{Busy, Door};
use engine::request::{AppendView, Caller, Request};

use crate::core::Core;

/// A core's [`Door`]: a request for a partition of this core goes straight into its shard, one for another core's into
/// that core's mailbox. Either way the answer comes to the caller's connection in a later turn. Clones are the same door;
/// it stays on its core.
#[derive(Clone)]
pub struct CoreDoor(pub(crate) Rc<Core>);

impl Door for CoreDoor {
    fn ask(&mut self, caller: Caller, request: Request) -> Result<(), Busy> {
        self.0.ask(caller, request)
    }

    fn append(&mut self, caller: Caller, append: AppendView<'_>) -> Result<(), Busy> {
        self.0.append(caller, append)
    }
}
