//! header and properties [AMQP 3.2.1, 3.2.4].

use crate::performative::{Fields, code, describe};
use crate::value::{DecodeError, Value, encode};

/// The header section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the message is to survive the loss of its holder.
    pub durable: bool,
    /// 4 is normal.
    pub priority: u8,
    /// Time to live, ms.
    pub ttl_ms: Option<u32>,
    /// Whether nobody else has acquired it before.
    pub first_acquirer: bool,
    /// Failed deliveries so far.
    pub delivery_count: u32,
}

impl Default for Header {
    fn default() -> Header {
        Header { durable: false, priority: 4, ttl_ms: None, first_acquirer: false, delivery_count: 0 }
    }
}

impl Header {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Header, DecodeError> {
        Ok(Header {
            durable: fields.boolean("durable")?.unwrap_or(false),
            priority: fields.ubyte("priority")?.unwrap_or(4),
            ttl_ms: fields.uint("ttl")?,
            first_acquirer: fields.boolean("first-acquirer")?.unwrap_or(false),
            delivery_count: fields.uint("delivery-count")?.unwrap_or(0),
        })
    }

    /// Appends the section.
    pub fn encode(&self, out: &mut Vec<u8>) {
        describe(out, code::HEADER);
        let list = encode::begin_list(out);
        encode::boolean(out, self.durable);
        encode::ubyte(out, self.priority);
        match self.ttl_ms {
            Some(ttl_ms) => encode::uint(out, ttl_ms),
            None => encode::null(out),
        }
        encode::boolean(out, self.first_acquirer);
        encode::uint(out, self.delivery_count);
        list.end(out, 5);
    }
}

/// The properties section.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Properties<'a> {
    /// A string, uuid, ulong or binary; from some clients an integer of another type.
    pub message_id: Option<Value<'a>>,
    /// Who sent it; not verified.
    pub user_id: Option<&'a [u8]>,
    /// Where it is to go.
    pub to: Option<&'a str>,
    /// What it is about.
    pub subject: Option<&'a str>,
    /// Where to answer.
    pub reply_to: Option<&'a str>,
    /// The message that it belongs to; of the same types as `message_id`. An answer repeats type and value of the request's
    /// `message_id`.
    pub correlation_id: Option<Value<'a>>,
    /// MIME type of the body.
    pub content_type: Option<&'a str>,
    /// MIME encoding of the body.
    pub content_encoding: Option<&'a str>,
    /// When it ends, ms since 1970.
    pub absolute_expiry_time_ms: Option<i64>,
    /// When it was made, ms since 1970.
    pub creation_time_ms: Option<i64>,
    /// The group that it belongs to.
    pub group_id: Option<&'a str>,
    /// Its place there.
    pub group_sequence: Option<u32>,
    /// The group of answers.
    pub reply_to_group_id: Option<&'a str>,
}

impl<'a> Properties<'a> {
    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Properties<'a>, DecodeError> {
        Ok(Properties {
            message_id: id(fields, "message-id")?,
            user_id: fields.binary("user-id")?,
            to: fields.string("to")?,
            subject: fields.string("subject")?,
            reply_to: fields.string("reply-to")?,
            correlation_id: id(fields, "correlation-id")?,
            content_type: fields.symbol("content-type")?,
            content_encoding: fields.symbol("content-encoding")?,
            absolute_expiry_time_ms: fields.timestamp("absolute-expiry-time")?,
            creation_time_ms: fields.timestamp("creation-time")?,
            group_id: fields.string("group-id")?,
            group_sequence: fields.uint("group-sequence")?,
            reply_to_group_id: fields.string("reply-to-group-id")?,
        })
    }

    /// Appends the section with all its fields up to the last one that is not null.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let text = |value: Option<&'a str>| value.map(Value::String);
        let symbol = |value: Option<&'a str>| value.map(Value::Symbol);
        let fields = [
            self.message_id,
            self.user_id.map(Value::Binary),
            text(self.to),
            text(self.subject),
            text(self.reply_to),
            self.correlation_id,
            symbol(self.content_type),
            symbol(self.content_encoding),
            self.absolute_expiry_time_ms.map(Value::Timestamp),
            self.creation_time_ms.map(Value::Timestamp),
            text(self.group_id),
            self.group_sequence.map(Value::Uint),
            text(self.reply_to_group_id),
        ];
        let count = fields.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        describe(out, code::PROPERTIES);
        let list = encode::begin_list(out);
        for field in &fields[..count] {
            field.unwrap_or(Value::Null).encode(out);
        }
        list.end(out, count as u32);
    }
}

/// An id of one of the four types that ids have. uamqp makes an int or long of a whole number; that is taken too.
fn id<'a>(fields: &mut Fields<'a>, name: &'static str) -> Result<Option<Value<'a>>, DecodeError> {
    match fields.value()? {
        None => Ok(None),
        Some(id @ (Value::String(_) | Value::Uuid(_) | Value::Binary(_))) => Ok(Some(id)),
        Some(id @ (Value::Ulong(_) | Value::Uint(_) | Value::Long(_) | Value::Int(_))) => Ok(Some(id)),
        Some(_) => Err(DecodeError::WrongType(name)),
    }
}
