//! PUBLISH [MQTT-3.1.1 3.3].

use super::field::{Fields, field_bytes, put_binary};
use super::{PacketId, Qos, begin};
use crate::error::DecodeError;
use crate::topic::is_topic;

/// A message on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Where it is published: no wildcards.
    pub topic: &'a str,
    /// What is published.
    pub payload: &'a [u8],
    /// Quality of service.
    pub qos: Qos,
    /// For the acknowledgement; none, and only then, without one.
    pub id: Option<PacketId>,
    /// Whether it was sent before; never without acknowledgement.
    pub duplicate: bool,
    /// Whether it is to be kept for later subscribers.
    pub retain: bool,
}

impl<'a> Publish<'a> {
    pub(super) fn decode(first: u8, fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let qos = Qos::of(first >> 1 & 3)?;
        let topic = fields.text()?;
        if !is_topic(topic) {
            return Err(DecodeError::Topic);
        }
        let id = match qos {
            Qos::AtMostOnce => None,
            _ => Some(fields.id()?),
        };
        Ok(Self { topic, payload: fields.rest(), qos, id, duplicate: first & 8 != 0, retain: first & 1 != 0 })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let flags = u8::from(self.duplicate) << 3 | (self.qos as u8) << 1 | u8::from(self.retain);
        let id_bytes = self.id.map_or(0, |_| 2);
        begin(0x30 | flags, field_bytes(self.topic.as_bytes()) + id_bytes + self.payload.len(), out);
        put_binary(self.topic.as_bytes(), out);
        if let Some(id) = self.id {
            out.extend_from_slice(&id.number().to_be_bytes());
        }
        out.extend_from_slice(self.payload);
    }
}
