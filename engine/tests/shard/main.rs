//! A shard over the simulated disk: its promises, held against a plain model and against power cuts, full disks, failed
//! syncs and clocks that jump.
#![forbid(unsafe_code)]

mod access;
mod bulk;
mod checker;
mod command_durability;
mod command_model;
mod command_properties;
mod commands;
mod durability;
mod enrolments;
mod model;
mod reading;
mod sessions;
mod storage;
mod unattached;
mod world;
