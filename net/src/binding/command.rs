//! What a back end's message becomes before it is stored as a command: the AMQP bare message as the device is to get it.
//!
//! Device clients insist on more than AMQP does, so a command is brought into their form once, when it is enqueued, and is
//! delivered byte for byte:
//! - `to` is the device's own address, `message-id` and `correlation-id` are strings, `absolute-expiry-time` stays;
//! - application properties are strings alone: the C client refuses a message with anything else, the .NET client drops it.
//!   A number, truth value, time, uuid, character or symbol becomes its text; what has none (binary, list, map, array,
//!   described value, null) refuses the command, so that its sender learns of it;
//! - the body is one Data section; several are joined, a text or binary value becomes its bytes;
//! - names that only the hub may stamp are dropped, as with telemetry.

use engine::request::Ack;
use net_amqp::value::{DecodeError, Map, Value, encode};
use net_amqp::{Body, Properties, Sections, condition, message, performative::code};
use registry::DeviceId;

use super::address::{Address, DeviceSegment};
use super::properties::is_reserved;
use super::status::{Status, iso_time};

/// The application property that says which outcomes are told [IoT Hub: iot-hub-devguide-messages-c2d].
pub const ACK_PROPERTY: &str = "iothub-ack";

/// Longest message id, bytes [IoT Hub: iot-hub-devguide-messages-construct].
const MESSAGE_ID_BYTES_MAX: usize = 128;

/// Why a back end's message is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It is no AMQP message.
    #[error("the message cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// It does not say which device it is for.
    #[error("the property to names no device: /devices/{{id}}/messages/devicebound is wanted")]
    NoDevice,
    /// It is for a module.
    #[error("this hub has no modules: the property to is to name a device")]
    Module,
    /// An id that is too long, or binary that is no text.
    #[error("{0} is to be text of at most {MESSAGE_ID_BYTES_MAX} bytes")]
    Id(&'static str),
    /// The property `iothub-ack` says something else.
    #[error("{ACK_PROPERTY} is none, positive, negative or full")]
    Ack,
    /// A property that a device cannot be given.
    #[error("an application property has a name and a value that can be told as text")]
    Property,
    /// A body that a device cannot be given.
    #[error("the body of a command is bytes or text")]
    Body,
}

impl CommandError {
    /// What the wire says about it.
    pub fn status(&self) -> Status {
        let (code, name, condition) = match self {
            Self::Decode(error) => (400_004, "ArgumentInvalid", error.condition()),
            Self::NoDevice => (400_003, "InvalidOperation", condition::NOT_ALLOWED),
            Self::Module => (501_001, "NotImplemented", condition::NOT_IMPLEMENTED),
            _ => (400_004, "ArgumentInvalid", condition::MS_ARGUMENT_ERROR),
        };
        Status::new(code, name, condition, self.to_string())
    }
}

/// A back end's message, read.
#[derive(Clone, Debug)]
pub struct CommandMessage<'a> {
    /// The device as `to` names it.
    pub device: DeviceSegment,
    /// Its id as text; empty: none.
    pub message_id: String,
    /// Which outcomes are told.
    pub ack: Ack,
    properties: Properties<'a>,
    application_properties: Option<Map<'a>>,
    body: Body<'a>,
    ttl_ms: Option<u32>,
}

impl<'a> CommandMessage<'a> {
    /// Read a message. `event_hub` is the hub's name, see [`Address::parse`].
    ///
    /// # Errors
    ///
    /// [`CommandError`]: the sender's fault.
    pub fn parse(payload: &'a [u8], event_hub: &str) -> Result<Self, CommandError> {
        let sections = Sections::parse(payload)?;
        let properties = sections.properties.unwrap_or_default();
        let to = properties.to.ok_or(CommandError::NoDevice)?;
        let device = match Address::parse(to, event_hub) {
            Address::DeviceCommands(device) => device,
            Address::ModuleCommands(_) => return Err(CommandError::Module),
            _ => return Err(CommandError::NoDevice),
        };
        let message_id = id_text(properties.message_id, "message-id")?.unwrap_or_default();
        let ack = ack(sections.application_properties)?;
        let ttl_ms = sections.header.and_then(|header| header.ttl_ms);
        let Sections { application_properties, body, .. } = sections;
        Ok(Self { device, message_id, ack, properties, application_properties, body, ttl_ms })
    }

    /// When it expires, milliseconds since 1970: at its `absolute-expiry-time`, or else its header's `ttl` after now. None:
    /// it does not say.
    pub fn expires_ms(&self, now_ms: u64) -> Option<u64> {
        match self.properties.absolute_expiry_time_ms {
            // A time before 1970 has passed as surely as 1970 itself.
            Some(ms) => Some(u64::try_from(ms).unwrap_or(0)),
            None => self.ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms.into())),
        }
    }

    /// The bare message as `device` is to get it.
    ///
    /// # Errors
    ///
    /// [`CommandError`]: something in it has no form that a device can be given.
    pub fn encode(&self, device: &DeviceId) -> Result<Vec<u8>, CommandError> {
        let to = format!("/devices/{device}/messages/devicebound");
        let correlation_id = id_text(self.properties.correlation_id, "correlation-id")?;
        let properties = Properties {
            message_id: (!self.message_id.is_empty()).then_some(Value::String(&self.message_id)),
            to: Some(&to),
            correlation_id: correlation_id.as_deref().map(Value::String),
            ..self.properties
        };
        let mut out = Vec::with_capacity(256);
        properties.encode(&mut out);
        self.encode_application_properties(&mut out)?;
        message::section(&mut out, code::DATA);
        match self.body {
            Body::Empty => encode::binary(&mut out, &[]),
            Body::Data(data) => match data.single() {
                Some(data) => encode::binary(&mut out, data),
                None => encode::binary(&mut out, &data.iter().collect::<Vec<_>>().concat()),
            },
            Body::Value(Value::Binary(bytes)) => encode::binary(&mut out, bytes),
            Body::Value(Value::String(text)) => encode::binary(&mut out, text.as_bytes()),
            Body::Value(_) | Body::Sequence(_) => return Err(CommandError::Body),
        }
        Ok(out)
    }

    fn encode_application_properties(&self, out: &mut Vec<u8>) -> Result<(), CommandError> {
        let start = out.len();
        message::section(out, code::APPLICATION_PROPERTIES);
        let map = encode::begin_map(out);
        let mut value_count = 0;
        for entry in self.application_properties.iter().flat_map(Map::iter) {
            let (name, value) = entry?;
            let name = name.as_text().ok_or(CommandError::Property)?;
            if is_reserved(name) || name.eq_ignore_ascii_case(ACK_PROPERTY) {
                continue;
            }
            encode::string(out, name);
            encode::string(out, &property_text(value).ok_or(CommandError::Property)?);
            value_count += 2;
        }
        if self.ack != Ack::None {
            encode::string(out, ACK_PROPERTY);
            encode::string(out, ack_word(self.ack));
            value_count += 2;
        }
        map.end(out, value_count);
        if value_count == 0 {
            out.truncate(start);
        }
        Ok(())
    }
}

/// How `iothub-ack` names it.
pub fn ack_word(ack: Ack) -> &'static str {
    match ack {
        Ack::None => "none",
        Ack::Positive => "positive",
        Ack::Negative => "negative",
        Ack::Full => "full",
    }
}

/// What `iothub-ack` says, without case; `None` when it is none of the four words.
pub fn parse_ack(text: &str) -> Option<Ack> {
    let all = [Ack::None, Ack::Positive, Ack::Negative, Ack::Full];
    all.into_iter().find(|ack| ack_word(*ack).eq_ignore_ascii_case(text))
}

fn ack(properties: Option<Map<'_>>) -> Result<Ack, CommandError> {
    for entry in properties.iter().flat_map(Map::iter) {
        let (name, value) = entry?;
        if name.as_text().is_some_and(|name| name.eq_ignore_ascii_case(ACK_PROPERTY)) {
            return match value {
                Value::Null => Ok(Ack::None),
                value => value.as_text().and_then(parse_ack).ok_or(CommandError::Ack),
            };
        }
    }
    Ok(Ack::None)
}

/// An id of any of its four types as text.
fn id_text(id: Option<Value<'_>>, name: &'static str) -> Result<Option<String>, CommandError> {
    let text = match id {
        None => return Ok(None),
        Some(Value::Binary(bytes)) => String::from_utf8(bytes.to_vec()).ok(),
        Some(value) => property_text(value),
    };
    let text = text.filter(|text| text.len() <= MESSAGE_ID_BYTES_MAX);
    text.map(Some).ok_or(CommandError::Id(name))
}

/// A value of a simple type as text. None: it has no text.
fn property_text(value: Value<'_>) -> Option<String> {
    Some(match value {
        Value::String(text) | Value::Symbol(text) => text.to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Ulong(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Char(char) => char.to_string(),
        Value::Timestamp(ms) => iso_time(u64::try_from(ms).ok()?),
        Value::Uuid(bytes) => uuid::Uuid::from_bytes(bytes).hyphenated().to_string(),
        number => number.as_i64()?.to_string(),
    })
}

#[cfg(test)]
mod tests;
