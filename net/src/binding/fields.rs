//! A message's properties as HTTP fields name them, and the AMQP sections that they become.
//!
//! The same names stand in the header of a single event and in the `properties` of each event of a batch: system properties
//! with fixed names, and the sender's own behind the prefix `iothub-app-` [IoT Hub: device REST API, Send Device Event]. Names are
//! compared without case; what follows the prefix keeps its own.

use std::borrow::Cow;

use engine::request::{Ack, LockedCommand};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use net_amqp::{Body, DecodeError, MessageBuilder, Properties, Sections, Value};

use crate::binding::command::{ACK_PROPERTY, ack_word};
use crate::binding::status::{Status, invalid, iso_time};

/// What stands in front of the sender's own properties.
pub const OWN_PREFIX: &str = "iothub-app-";

/// Fields that become application properties of another name, in the words of the AMQP clients.
const RENAMED: [(&str, &str); 4] = [
    ("iothub-ack", "iothub-ack"),
    ("iothub-operation", "iothub-operation"),
    ("iothub-messageschema", "iothub-message-schema"),
    ("iothub-creationtimeutc", "iothub-creation-time-utc"),
];

/// Fields that become message annotations.
const ANNOTATIONS: [&str; 2] = ["iothub-interface-id", "dt-subject"];

/// The properties of one message, borrowed from where they were found.
#[derive(Default)]
pub struct MessageFields<'a> {
    properties: Properties<'a>,
    has_properties: bool,
    builder: MessageBuilder<'a>,
}

impl<'a> MessageFields<'a> {
    /// Take a field; those that say nothing of the message are passed over.
    ///
    /// # Errors
    ///
    /// The value is not one for this field.
    pub fn take(&mut self, name: &'a str, value: &'a str) -> Result<(), Status> {
        if let Some(own) = strip_prefix_without_case(name, OWN_PREFIX) {
            return self.put(own, value);
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if let Some((_, renamed)) = RENAMED.iter().find(|(known, _)| is(known)) {
            return self.put(renamed, value);
        }
        if let Some(annotation) = ANNOTATIONS.into_iter().find(|known| is(known)) {
            let builder = std::mem::take(&mut self.builder);
            self.builder = builder.message_annotation(annotation, Value::String(value));
            return Ok(());
        }
        let properties = &mut self.properties;
        if is("iothub-messageid") {
            properties.message_id = Some(Value::String(value));
        } else if is("iothub-correlationid") {
            properties.correlation_id = Some(Value::String(value));
        } else if is("iothub-userid") {
            properties.user_id = Some(value.as_bytes());
        } else if is("iothub-to") {
            properties.to = Some(value);
        } else if is("iothub-contenttype") {
            properties.content_type = Some(symbol(name, value)?);
        } else if is("iothub-contentencoding") {
            properties.content_encoding = Some(symbol(name, value)?);
        } else if is("iothub-expiry") {
            let moment = read_time(value).ok_or_else(|| invalid("iothub-expiry is not a time"))?;
            properties.absolute_expiry_time_ms = Some(moment);
        } else {
            return Ok(());
        }
        self.has_properties = true;
        Ok(())
    }

    /// Take a property of the sender's own.
    ///
    /// # Errors
    ///
    /// It has no name.
    pub fn put(&mut self, name: &'a str, value: &'a str) -> Result<(), Status> {
        if name.is_empty() {
            return Err(invalid("a property has no name"));
        }
        let builder = std::mem::take(&mut self.builder);
        self.builder = builder.application_property(name, Value::String(value));
        Ok(())
    }

    /// Append all sections in front of the body.
    pub fn encode_to(self, out: &mut Vec<u8>) {
        let builder = match self.has_properties {
            true => self.builder.properties(self.properties),
            false => self.builder,
        };
        builder.encode_to(out);
    }
}

/// A command as fields: what a protocol whose messages have headers hands to the device.
pub struct CommandFields {
    /// System properties by their names.
    pub known: Vec<(&'static str, String)>,
    /// The sender's own properties, without [`OWN_PREFIX`].
    pub own: Vec<(String, String)>,
    /// What the body is, where the sender has said so.
    pub content_type: Option<String>,
    /// How the body is encoded, where the sender has said so.
    pub content_encoding: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl CommandFields {
    /// Read a command.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: what is stored is no message, which is the hub's fault.
    pub fn read(command: &LockedCommand) -> Result<Self, DecodeError> {
        let sections = Sections::parse(&command.message)?;
        let mut known = vec![
            ("iothub-sequencenumber", command.number.0.to_string()),
            ("iothub-enqueuedtime", iso_time(command.enqueued_ms)),
            ("iothub-expiry", iso_time(command.expires_ms)),
            ("iothub-deliverycount", command.delivery_count.to_string()),
        ];
        if command.ack != Ack::None {
            known.push(("iothub-ack", ack_word(command.ack).to_owned()));
        }
        let properties = sections.properties.unwrap_or_default();
        let content_type = properties.content_type.map(str::to_owned);
        let content_encoding = properties.content_encoding.map(str::to_owned);
        let texts = [
            ("iothub-messageid", properties.message_id.map(text_of)),
            ("iothub-correlationid", properties.correlation_id.map(text_of)),
            ("iothub-userid", properties.user_id.map(|id| text_of(Value::Binary(id)))),
            ("iothub-to", properties.to.map(str::to_owned)),
            ("iothub-contenttype", content_type.clone()),
            ("iothub-contentencoding", content_encoding.clone()),
        ];
        known.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text?))));
        let mut own = Vec::new();
        for entry in sections.application_properties.iter().flat_map(|properties| properties.iter()) {
            let Ok((name, value)) = entry else { continue };
            let name = name.as_text().unwrap_or_default();
            // Its receiver is told by the field above.
            if !name.eq_ignore_ascii_case(ACK_PROPERTY) {
                own.push((name.to_owned(), text_of(value)));
            }
        }
        Ok(Self { known, own, content_type, content_encoding, body: body_of(sections.body)? })
    }
}

fn body_of(body: Body<'_>) -> Result<Vec<u8>, DecodeError> {
    match body {
        Body::Empty => Ok(Vec::new()),
        Body::Data(data) => Ok(data.iter().flatten().copied().collect()),
        Body::Value(Value::Binary(bytes)) => Ok(bytes.to_vec()),
        Body::Value(value) => Ok(text_of(value).into_bytes()),
        Body::Sequence(_) => Err(DecodeError::WrongType("body")),
    }
}

/// A value as text: fields hold nothing else.
fn text_of(value: Value<'_>) -> String {
    match value {
        Value::String(text) | Value::Symbol(text) => text.to_owned(),
        Value::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Uuid(bytes) => uuid::Uuid::from_bytes(bytes).to_string(),
        Value::Timestamp(ms) => u64::try_from(ms).map(iso_time).unwrap_or_default(),
        Value::Ulong(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        value => value.as_i64().map(|number| number.to_string()).unwrap_or_default(),
    }
}

/// The text of a header field. Clients write UTF-8 as it is; Node writes what ISO 8859-1 has in that.
pub fn field_text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.iter().map(|byte| char::from(*byte)).collect()),
    }
}

fn strip_prefix_without_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn symbol<'a>(name: &str, value: &'a str) -> Result<&'a str, Status> {
    match value.is_ascii() {
        true => Ok(value),
        false => Err(invalid(format!("{name} is not ASCII"))),
    }
}

/// A moment in one of the forms that clients write, as milliseconds since 1970: ISO 8601, the `Date` field's, milliseconds,
/// .NET's (`10/15/2018 03:54:24`) and JavaScript's (`Mon Oct 15 2018 03:54:24 GMT+0000 (...)`). Without an offset it is UTC.
pub fn read_time(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(ms) = text.parse::<i64>() {
        return Some(ms);
    }
    let moment = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| in_utc(text.parse::<DateTime>().ok()?))
        .or_else(|| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok())
        .or_else(|| in_utc(DateTime::strptime("%m/%d/%Y %H:%M:%S", text).ok()?))
        .or_else(|| {
            let text = text.split(" (").next()?;
            Some(jiff::Zoned::strptime("%a %b %d %Y %H:%M:%S GMT%z", text).ok()?.timestamp())
        });
    moment.map(Timestamp::as_millisecond)
}

fn in_utc(moment: DateTime) -> Option<Timestamp> {
    TimeZone::UTC.to_timestamp(moment).ok()
}

#[cfg(test)]
mod tests {
    use net_amqp::Sections;

    use super::*;

    fn encoded(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut message = MessageFields::default();
        for (name, value) in fields {
            message.take(name, value).unwrap();
        }
        let mut bytes = Vec::new();
        message.encode_to(&mut bytes);
        bytes
    }

    #[test]
    fn fields_become_the_sections_that_amqp_clients_send() {
        let bytes = encoded(&[
            ("IoTHub-MessageId", "m"),
            ("iothub-correlationid", "c"),
            ("IOTHUB-USERID", "u"),
            ("iothub-to", "/devices/d/messages/events"),
            ("iothub-expiry", "2026-11-21T20:58:03Z"),
            ("iothub-contenttype", "application/json"),
            ("iothub-contentencoding", "utf-8"),
            ("iothub-ack", "full"),
            ("iothub-messageschema", "s"),
            ("iothub-interface-id", "urn:i"),
            ("dt-subject", "part"),
            ("IoTHub-App-Own Name", "ä"),
            ("iothub-app-empty", ""),
            ("Host", "hub"),
            ("iothub-messagelocktimeout", "3"),
        ]);
        let sections = Sections::parse(&bytes).unwrap();
        let expected = Properties {
            message_id: Some(Value::String("m")),
            correlation_id: Some(Value::String("c")),
            user_id: Some(b"u"),
            to: Some("/devices/d/messages/events"),
            content_type: Some("application/json"),
            content_encoding: Some("utf-8"),
            absolute_expiry_time_ms: Some(1_795_294_683_000),
            ..Properties::default()
        };
        assert_eq!(sections.properties, Some(expected));
        let texts = |map: Option<net_amqp::value::Map<'_>>| -> Vec<(String, String)> {
            let text = |value: Value<'_>| value.as_text().unwrap().to_owned();
            map.unwrap()
                .iter()
                .map(|entry| entry.map(|(name, value)| (text(name), text(value))).unwrap())
                .collect()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            texts(sections.application_properties),
            [
                pair("iothub-ack", "full"),
                pair("iothub-message-schema", "s"),
                pair("Own Name", "ä"),
                pair("empty", "")
            ]
        );
        assert_eq!(
            texts(sections.message_annotations),
            [pair("iothub-interface-id", "urn:i"), pair("dt-subject", "part")]
        );
        assert!(encoded(&[("Host", "hub")]).is_empty());
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (name, value) in [("iothub-expiry", "soon"), ("iothub-contenttype", "ä"), ("iothub-app-", "x")] {
            assert_eq!(MessageFields::default().take(name, value).unwrap_err().http, 400, "{name}");
        }
    }

    #[test]
    fn times_of_all_clients() {
        for text in [
            "2026-11-21T20:58:03Z",
            "2026-11-21T20:58:03.000Z",
            "2026-11-21T20:58:03",
            "2026-11-21T21:58:03+01:00",
            "Sat, 21 Nov 2026 20:58:03 GMT",
            "11/21/2026 20:58:03",
            "1795294683000",
            "Sat Nov 21 2026 20:58:03 GMT+0000 (Coordinated Universal Time)",
        ] {
            assert_eq!(read_time(text), Some(1_795_294_683_000), "{text}");
        }
        for text in ["", "now", "2026", "21/11/2026 20:58:03", "-", "99999999999999999999"] {
            let found = read_time(text);
            assert!(found.is_none() || text == "2026", "{text}: {found:?}");
        }
    }

    #[test]
    fn header_text_is_utf8_or_latin() {
        assert_eq!(field_text("ä€".as_bytes()), "ä€");
        assert_eq!(field_text(b"\xe4x"), "äx");
    }
}
