//! What a core gives to the tasks that run on it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use engine::request::CoreId;

use crate::breath::breathe;
use crate::clock::Clock;
use crate::connections::Connections;
use crate::core::Core;
use crate::router::CoreDoor;

/// Something to be done on another core.
pub type Call = Box<dyn FnOnce(&CoreContext) + Send>;

/// A core, as its tasks see it. Clones are the same core; it stays there.
#[derive(Clone)]
pub struct CoreContext {
    /// Which core.
    pub core: CoreId,
    /// How many there are.
    pub core_count: u16,
    /// The way to all shards.
    pub door: CoreDoor,
    /// The time.
    pub clock: Clock,
    /// This core's connections.
    pub connections: Connections,
    /// Whether the hub stops.
    pub stopping: Stopping,
}

impl CoreContext {
    pub(crate) fn new(core: &Rc<Core>) -> Self {
        Self {
            core: core.id,
            core_count: core.core_count,
            door: CoreDoor(Rc::clone(core)),
            clock: core.clock,
            connections: Connections(Rc::clone(core)),
            stopping: core.stopping.clone(),
        }
    }

    /// Let the core's rings, its shard and its other tasks go first. For a task that has more to do than fits one turn:
    /// waking itself instead would keep the core from seeing what disk and sockets have answered.
    pub async fn breathe(&self) {
        breathe().await;
    }

    /// Have `call` run on `core` in its next turn, outside of any task. It should spawn what takes time.
    ///
    /// # Errors
    ///
    /// The call itself, when that core's mailbox is full: try again in a later turn.
    pub fn send_to_core(&self, core: CoreId, call: Call) -> Result<(), Call> {
        self.connections.0.send_call(core, call)
    }
}

/// Whether the hub stops, on one core.
#[derive(Clone, Default)]
pub struct Stopping(Rc<StoppingState>);

#[derive(Default)]
struct StoppingState {
    set: Cell<bool>,
    wakers: RefCell<Vec<Waker>>,
}

impl Stopping {
    /// Whether it does.
    pub fn is_set(&self) -> bool {
        self.0.set.get()
    }

    /// Wait until it does. Meant for the few listeners of a core: connections are told by
    /// [`Delivery::Stopping`](crate::Delivery::Stopping).
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.is_set() {
                return Poll::Ready(());
            }
            let mut wakers = self.0.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                wakers.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn set(&self) {
        self.0.set.set(true);
        self.0.wakers.take().into_iter().for_each(Waker::wake);
    }
}
