//! What this machine gives to anybody: round trips over TCP, handshakes, durable writes at a pace. Figures of the hub are
//! held against those of the same minutes, because a shared machine changes from one quarter of an hour to the next.

pub mod handshakes;
pub mod round_trips;
pub mod writes;
