//! The fields of the properties section: of which kind each is, and a value made so where a client has chosen another kind of
//! text.

use net_amqp::DecodeError;
use net_amqp::value::{Value, encode};

/// What a field of the properties section is.
#[derive(Clone, Copy, Debug)]
pub(super) enum PropertyKind {
    Id,
    Binary,
    String,
    Symbol,
    Timestamp,
    Uint,
}

/// The fields of the properties section [AMQP 3.2.4].
pub(super) const PROPERTIES: [PropertyKind; 13] = {
    use PropertyKind::*;
    // Message id, user id, to, subject, reply-to, correlation id, content type and encoding, expiry, creation, group.
    [Id, Binary, String, String, String, Id, Symbol, Symbol, Timestamp, Timestamp, String, Uint, String]
};

/// A field is of another kind, or there are more than there can be.
pub(super) const WRONG_PROPERTY: DecodeError = DecodeError::WrongType("properties");

impl PropertyKind {
    /// Whether a value with this constructor [AMQP 1.6] is of the kind; false: it can be made so.
    pub(super) fn is(self, constructor: u8) -> Result<bool, DecodeError> {
        match (self, constructor) {
            (_, 0x40)
            | (Self::Id, 0x44 | 0x53 | 0x80 | 0xa0 | 0xb0 | 0xa1 | 0xb1)
            | (Self::Binary, 0xa0 | 0xb0)
            | (Self::String, 0xa1 | 0xb1)
            | (Self::Symbol, 0xa3 | 0xb3)
            | (Self::Timestamp, 0x83)
            | (Self::Uint, 0x43 | 0x52 | 0x70) => Ok(true),
            (Self::Id, 0x98)
            | (Self::Binary | Self::Symbol, 0xa1 | 0xb1)
            | (Self::Id | Self::String, 0xa3 | 0xb3) => Ok(false),
            _ => Err(WRONG_PROPERTY),
        }
    }

    /// Append a value that is not of the kind, made so.
    pub(super) fn encode(self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        match (self, value) {
            (Self::Id, Value::Uuid(bytes)) => {
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                encode::string(out, uuid::Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut text));
            }
            (Self::Id | Self::String, Value::Symbol(text)) => encode::string(out, text),
            (Self::Binary, Value::String(text)) => encode::binary(out, text.as_bytes()),
            (Self::Symbol, Value::String(text)) if text.is_ascii() => encode::symbol(out, text),
            _ => return Err(WRONG_PROPERTY),
        }
        Ok(())
    }
}
