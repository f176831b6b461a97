//! Sockets, TLS and time of the load generator: one thread, one epoll.
//!
//! A generator shares the machine with what it measures, so it does as little as it can: no task, no queue and no buffer
//! per connection, one read and one write for each turn.

mod known;
mod link;
mod reactor;
mod transport;

pub use reactor::{Endpoint, Reactor};
pub use transport::Tls;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Stay on one CPU from now on.
///
/// # Errors
///
/// There is no such CPU, or this process may not use it.
pub fn pin(cpu: usize) -> Result<(), String> {
    let mut cpus = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        cpus.set(cpu);
    }
    sched_setaffinity(None, &cpus).map_err(|error| format!("cannot run on CPU {cpu}: {error}"))
}
