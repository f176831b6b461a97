//! Shards on pinned cores: mailboxes, disk work and the clock, over glommio.
//!
//! [`start`] opens a hub's partitions, partition `p` on core `p` modulo the number of cores, and runs one executor per
//! core. A core's tasks see it as a [`CoreContext`]: they enter their connections in its [`Connections`] table, ask
//! whatever shard there is through its [`CoreDoor`], and find the answers in their connection's inbox, whichever core
//! they came from.
//!
//! What is not here: protocols, rules of the hub, and anything of a core that another core may touch, but its mailboxes
//! and its bell. A core's thread makes no call that can sleep: what may is done by io_uring or by helper threads. A core
//! with nothing to do sleeps until its bell rings, its disk answers or its next deadline has come.
#![deny(unsafe_code)]

mod breath;
mod buffer;
mod clock;
mod commit_round;
mod config;
mod connections;
mod context;
mod core;
mod deferred;
mod disk;
mod fatal;
mod freed_memory;
mod helper;
pub mod limits;
mod mailbox;
mod monitor;
mod outside;
pub mod probe;
mod ring_setup;
mod router;
mod run;
mod shared;
mod signal;
mod start;
mod wheel;

pub use clock::Clock;
pub use config::{RuntimeConfig, partition_dir};
pub use connections::{ConnectionHandle, Connections, ConnectionsFull, Delivery};
pub use context::{Call, CoreContext, Stopping};
pub use freed_memory::keep_freed_memory;
pub use outside::{OutsideClosed, OutsideDesk, OutsideDoor, outside_door};
pub use router::CoreDoor;
pub use start::{Running, StartError, StopHandle, StopReport, start};
