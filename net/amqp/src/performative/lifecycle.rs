//! open, begin, end, close.

use super::fields::{error, optional};
use super::{Fields, Symbols, code, describe};
use crate::condition::Error;
use crate::value::{DecodeError, Map, encode};

/// open [AMQP 2.7.1].
#[derive(Clone, Debug, PartialEq)]
pub struct Open<'a> {
    /// Name of the peer's container.
    pub container_id: &'a str,
    /// The host that the peer means to speak to.
    pub hostname: Option<&'a str>,
    /// Largest frame that the peer takes, bytes. Null reads as `u32::MAX`.
    pub max_frame_bytes: u32,
    /// Highest channel number that the peer takes. Null reads as `u16::MAX`.
    pub channel_max: u16,
    /// The peer closes when it hears nothing for this long.
    pub idle_timeout_ms: Option<u32>,
    /// Offered capabilities.
    pub offered_capabilities: Symbols<'a>,
    /// Desired capabilities.
    pub desired_capabilities: Symbols<'a>,
    /// Product, version and the like.
    pub properties: Option<Map<'a>>,
}

impl<'a> Open<'a> {
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Open<'a>, DecodeError> {
        let container_id = fields.string("container-id")?.ok_or(DecodeError::MissingField("container-id"))?;
        let hostname = fields.string("hostname")?;
        let max_frame_bytes = fields.uint("max-frame-size")?.unwrap_or(u32::MAX);
        let channel_max = fields.ushort("channel-max")?.unwrap_or(u16::MAX);
        let idle_timeout_ms = fields.uint("idle-time-out")?;
        fields.skip()?; // outgoing-locales
        fields.skip()?; // incoming-locales
        Ok(Open {
            container_id,
            hostname,
            max_frame_bytes,
            channel_max,
            idle_timeout_ms,
            offered_capabilities: fields.symbols("offered-capabilities")?,
            desired_capabilities: fields.symbols("desired-capabilities")?,
            properties: fields.map("properties")?,
        })
    }

    /// Appends the performative with its ten fields; locales are null.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::OPEN);
        let list = encode::begin_list(out);
        encode::string(out, self.container_id);
        optional(out, self.hostname, encode::string);
        encode::uint(out, self.max_frame_bytes);
        encode::ushort(out, self.channel_max);
        optional(out, self.idle_timeout_ms, encode::uint);
        encode::null(out);
        encode::null(out);
        self.offered_capabilities.encode(out);
        self.desired_capabilities.encode(out);
        optional(out, self.properties.as_ref(), encode::map);
        list.end(out, 10);
    }
}

/// begin [AMQP 2.7.2].
#[derive(Clone, Debug, PartialEq)]
pub struct Begin<'a> {
    /// In an answer, the channel of the begin that is answered.
    pub remote_channel: Option<u16>,
    /// Transfer id of the first transfer that the peer will send.
    pub next_outgoing_id: u32,
    /// Transfers that the peer takes before its next flow.
    pub incoming_window: u32,
    /// Transfers that the peer may send before our next flow.
    pub outgoing_window: u32,
    /// Highest handle that the peer takes. Null reads as `u32::MAX`.
    pub handle_max: u32,
    /// Offered capabilities.
    pub offered_capabilities: Symbols<'a>,
    /// Desired capabilities.
    pub desired_capabilities: Symbols<'a>,
    /// Session properties.
    pub properties: Option<Map<'a>>,
}

impl<'a> Begin<'a> {
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Begin<'a>, DecodeError> {
        Ok(Begin {
            remote_channel: fields.ushort("remote-channel")?,
            next_outgoing_id: fields
                .uint("next-outgoing-id")?
                .ok_or(DecodeError::MissingField("next-outgoing-id"))?,
            incoming_window: fields
                .uint("incoming-window")?
                .ok_or(DecodeError::MissingField("incoming-window"))?,
            outgoing_window: fields
                .uint("outgoing-window")?
                .ok_or(DecodeError::MissingField("outgoing-window"))?,
            handle_max: fields.uint("handle-max")?.unwrap_or(u32::MAX),
            offered_capabilities: fields.symbols("offered-capabilities")?,
            desired_capabilities: fields.symbols("desired-capabilities")?,
            properties: fields.map("properties")?,
        })
    }

    /// Appends the performative with its eight fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::BEGIN);
        let list = encode::begin_list(out);
        optional(out, self.remote_channel, encode::ushort);
        encode::uint(out, self.next_outgoing_id);
        encode::uint(out, self.incoming_window);
        encode::uint(out, self.outgoing_window);
        encode::uint(out, self.handle_max);
        self.offered_capabilities.encode(out);
        self.desired_capabilities.encode(out);
        optional(out, self.properties.as_ref(), encode::map);
        list.end(out, 8);
    }
}

/// end [AMQP 2.7.8].
#[derive(Clone, Debug, PartialEq)]
pub struct End<'a> {
    /// Why, when not in peace.
    pub error: Option<Error<'a>>,
}

impl<'a> End<'a> {
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<End<'a>, DecodeError> {
        Ok(End { error: fields.error()? })
    }

    /// Appends the performative with its one field.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::END);
        let list = encode::begin_list(out);
        error(out, self.error.as_ref());
        list.end(out, 1);
    }
}

/// close [AMQP 2.7.9].
#[derive(Clone, Debug, PartialEq)]
pub struct Close<'a> {
    /// Why, when not in peace.
    pub error: Option<Error<'a>>,
}

impl<'a> Close<'a> {
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Close<'a>, DecodeError> {
        Ok(Close { error: fields.error()? })
    }

    /// Appends the performative with its one field.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::CLOSE);
        let list = encode::begin_list(out);
        error(out, self.error.as_ref());
        list.end(out, 1);
    }
}
