//! The hub's meaning: partitions, event logs, journals, readers and checkpoints, without threads, sockets or clocks.
#![forbid(unsafe_code)]
