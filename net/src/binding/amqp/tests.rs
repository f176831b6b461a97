//! The binding face to face with a client machine: over a scripted engine, and over a real shard on a simulated disk.

mod scripted;
mod wire;
