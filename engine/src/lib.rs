//! The hub's meaning: partitions, event logs, journals, sessions, readers, checkpoints, command queues and receipts,
//! without threads, sockets or clocks.
//!
//! A [`Shard`](shard::Shard) is the partitions that one core runs. Its only door is [`request`]: closed enums for what is
//! asked, answered and told. It owns no file: each partition asks its two logs' storages for what is to be done
//! ([`segment_log::storage::Storage`]), and releases an answer once the record behind it is durable.
//!
//! [`embed`] is the same on the caller's thread, for programs that want the log and the identities without a network.
#![forbid(unsafe_code)]

mod access;
mod attestation;
mod checkpoints;
mod command_queue;
mod command_rules;
mod commands;
mod config;
pub mod door;
pub mod embed;
mod entry;
pub mod event;
pub mod event_log;
mod fault;
mod feedback;
pub mod job;
mod journal;
pub mod limits;
pub mod local_log;
mod lock_queue;
pub mod monitor;
mod outbox;
mod partition;
pub mod payload;
pub mod placement;
mod policy_holders;
mod readers;
mod reading;
mod receivers;
pub mod request;
mod sessions;
pub mod shard;
mod slots;
mod subscriptions;

pub use entry::EntryError;
pub use segment_log::Now;
