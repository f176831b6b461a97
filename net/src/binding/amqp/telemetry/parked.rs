//! A delivery that met a full engine.

use net_amqp::LinkId;

use crate::binding::amqp::limits::PARKED_MS_MAX;

/// A delivery of a telemetry link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its link.
    pub link: LinkId,
    /// Its id.
    pub delivery_id: u32,
    /// Whether the sender settled it and wants no answer.
    pub settled: bool,
}

/// The delivery that waits for room, with a copy of its bytes. There is at most one per connection.
#[derive(Debug)]
pub struct Parked {
    /// Which.
    pub delivery: Delivery,
    /// Its format.
    pub message_format: u32,
    /// Its bytes, at most those of the largest event.
    pub payload: Vec<u8>,
    since_ms: u64,
}

impl Parked {
    /// Keep a delivery that came at `now_ms`.
    pub fn new(delivery: Delivery, message_format: u32, payload: &[u8], now_ms: u64) -> Self {
        Self { delivery, message_format, payload: payload.to_vec(), since_ms: now_ms }
    }

    /// Whether it has waited so long that its sender is to hear of it.
    pub fn is_overdue(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.since_ms) >= PARKED_MS_MAX
    }
}
