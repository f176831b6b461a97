//! The binding against a real shard.
