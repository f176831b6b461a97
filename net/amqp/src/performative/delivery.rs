//! flow, transfer and disposition: what travels once links stand. All of them fit a short list.

use super::fields::optional;
use super::{DeliveryState, Fields, LinkRole, code, describe};
use crate::value::{DecodeError, Map, encode};

/// flow [AMQP 2.7.4].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flow<'a> {
    /// The next transfer id that its sender expects; null before it has seen our begin.
    pub next_incoming_id: Option<u32>,
    /// Transfers that its sender takes from there.
    pub incoming_window: u32,
    /// The next transfer id that its sender will use.
    pub next_outgoing_id: u32,
    /// Transfers that its sender can send.
    pub outgoing_window: u32,
    /// The link, or null for the session alone.
    pub handle: Option<u32>,
    /// The link's delivery count.
    pub delivery_count: Option<u32>,
    /// The link's credit.
    pub link_credit: Option<u32>,
    /// Messages waiting at the sender.
    pub available: Option<u32>,
    /// Whether credit is to be used up or given back at once.
    pub drain: bool,
    /// Whether a flow is asked for in return.
    pub echo: bool,
    /// Link state properties.
    pub properties: Option<Map<'a>>,
}

impl<'a> Flow<'a> {
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Flow<'a>, DecodeError> {
        Ok(Flow {
            next_incoming_id: fields.uint("next-incoming-id")?,
            incoming_window: fields
                .uint("incoming-window")?
                .ok_or(DecodeError::MissingField("incoming-window"))?,
            next_outgoing_id: fields
                .uint("next-outgoing-id")?
                .ok_or(DecodeError::MissingField("next-outgoing-id"))?,
            outgoing_window: fields
                .uint("outgoing-window")?
                .ok_or(DecodeError::MissingField("outgoing-window"))?,
            handle: fields.uint("handle")?,
            delivery_count: fields.uint("delivery-count")?,
            link_credit: fields.uint("link-credit")?,
            available: fields.uint("available")?,
            drain: fields.boolean("drain")?.unwrap_or(false),
            echo: fields.boolean("echo")?.unwrap_or(false),
            properties: fields.map("properties")?,
        })
    }

    /// Appends the performative with its eleven fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::FLOW);
        let list = encode::begin_list(out);
        optional(out, self.next_incoming_id, encode::uint);
        encode::uint(out, self.incoming_window);
        encode::uint(out, self.next_outgoing_id);
        encode::uint(out, self.outgoing_window);
        optional(out, self.handle, encode::uint);
        optional(out, self.delivery_count, encode::uint);
        optional(out, self.link_credit, encode::uint);
        optional(out, self.available, encode::uint);
        encode::boolean(out, self.drain);
        encode::boolean(out, self.echo);
        optional(out, self.properties.as_ref(), encode::map);
        list.end(out, 11);
    }
}

/// transfer [AMQP 2.7.5]. The payload follows it in the frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transfer<'a> {
    /// The link.
    pub handle: u32,
    /// The delivery; may be left out after its first frame.
    pub delivery_id: Option<u32>,
    /// The sender's mark for it; the same.
    pub delivery_tag: Option<&'a [u8]>,
    /// Format of the message; the same.
    pub message_format: Option<u32>,
    /// Whether it is settled; null is as before, false at first.
    pub settled: Option<bool>,
    /// Whether another frame of the delivery follows.
    pub more: bool,
    /// rcv-settle-mode of this delivery alone, as it travels.
    pub receiver_settle_mode: Option<u8>,
    /// The state at the sender.
    pub state: Option<DeliveryState<'a>>,
    /// Whether a delivery of an earlier attachment goes on.
    pub resume: bool,
    /// Whether the delivery is given up.
    pub aborted: bool,
    /// Whether the receiver may answer late.
    pub batchable: bool,
}

impl<'a> Transfer<'a> {
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Transfer<'a>, DecodeError> {
        Ok(Transfer {
            handle: fields.uint("handle")?.ok_or(DecodeError::MissingField("handle"))?,
            delivery_id: fields.uint("delivery-id")?,
            delivery_tag: fields.binary("delivery-tag")?,
            message_format: fields.uint("message-format")?,
            settled: fields.boolean("settled")?,
            more: fields.boolean("more")?.unwrap_or(false),
            receiver_settle_mode: fields.ubyte("rcv-settle-mode")?,
            state: DeliveryState::decode(fields)?,
            resume: fields.boolean("resume")?.unwrap_or(false),
            aborted: fields.boolean("aborted")?.unwrap_or(false),
            batchable: fields.boolean("batchable")?.unwrap_or(false),
        })
    }

    /// Appends the performative with its eleven fields; the payload comes next.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::TRANSFER);
        match self.state {
            // Without a state the fields take less than 100 bytes.
            None if self
                .delivery_tag
                .is_none_or(|tag| tag.len() <= crate::limits::DELIVERY_TAG_BYTES_MAX) =>
            {
                let list = encode::begin_list8(out);
                self.encode_fields(out);
                list.end(out, 11);
            }
            _ => {
                let list = encode::begin_list(out);
                self.encode_fields(out);
                list.end(out, 11);
            }
        }
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        encode::uint(out, self.handle);
        optional(out, self.delivery_id, encode::uint);
        optional(out, self.delivery_tag, encode::binary);
        optional(out, self.message_format, encode::uint);
        optional(out, self.settled, encode::boolean);
        encode::boolean(out, self.more);
        optional(out, self.receiver_settle_mode, encode::ubyte);
        optional(out, self.state.as_ref(), |out, state| state.encode(out));
        encode::boolean(out, self.resume);
        encode::boolean(out, self.aborted);
        encode::boolean(out, self.batchable);
    }
}

/// disposition [AMQP 2.7.6].
#[derive(Clone, Debug, PartialEq)]
pub struct Disposition<'a> {
    /// Which end of the deliveries whoever sends this is.
    pub role: LinkRole,
    /// The first delivery.
    pub first: u32,
    /// The last one; null means the first alone.
    pub last: Option<u32>,
    /// Whether they are settled.
    pub settled: bool,
    /// Their state.
    pub state: Option<DeliveryState<'a>>,
    /// Whether the answer may come late. Written as null when false, as the service does.
    pub batchable: bool,
}

impl<'a> Disposition<'a> {
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Disposition<'a>, DecodeError> {
        Ok(Disposition {
            role: LinkRole::decode(fields)?,
            first: fields.uint("first")?.ok_or(DecodeError::MissingField("first"))?,
            last: fields.uint("last")?,
            settled: fields.boolean("settled")?.unwrap_or(false),
            state: DeliveryState::decode(fields)?,
            batchable: fields.boolean("batchable")?.unwrap_or(false),
        })
    }

    /// Appends the performative with its six fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::DISPOSITION);
        match self.state {
            None | Some(DeliveryState::Accepted | DeliveryState::Released) => {
                let list = encode::begin_list8(out);
                self.encode_fields(out);
                list.end(out, 6);
            }
            _ => {
                let list = encode::begin_list(out);
                self.encode_fields(out);
                list.end(out, 6);
            }
        }
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        self.role.encode(out);
        encode::uint(out, self.first);
        optional(out, self.last, encode::uint);
        encode::boolean(out, self.settled);
        optional(out, self.state.as_ref(), |out, state| state.encode(out));
        optional(out, self.batchable.then_some(true), encode::boolean);
    }
}
