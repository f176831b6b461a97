//! Events of a device: a request's header and body become the messages that the device would have sent over AMQP.
//!
//! What is stored is made by the same rules as for AMQP ([`properties`](crate::binding::properties)): a request is written as the
//! AMQP message that it means, and planned like one.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use engine::request::{EngineError, EventBlock};
use net_amqp::performative::code;
use net_amqp::{MessageBuilder, message};
use net_http::Head;
use serde::Deserialize;

use super::answer::{invalid, malformed};
use crate::binding::fields::{MessageFields, field_text};
use crate::binding::properties::plan_message;
use crate::binding::status::Status;

/// The media type of a batch [IoT Hub: device REST API].
const BATCH_TYPE: &str = "application/vnd.microsoft.iothub.json";

/// Largest event or batch of events, bytes [IoT Hub: iot-hub-devguide-quotas-throttling].
const EVENTS_BYTES_MAX: usize = 256 * 1024;

/// Clients differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the head says of the events in the body.
#[derive(Debug)]
pub(super) enum EventsHead {
    /// One event: its sections in front of the body, encoded.
    One(Vec<u8>),
    /// A batch, whose events carry their properties themselves.
    Batch,
}

impl EventsHead {
    /// Read the fields of a request's head.
    pub(super) fn read(head: &Head<'_>) -> Result<Self, Status> {
        let content_type = head.header("content-type").and_then(|value| value.split(';').next());
        if content_type.is_some_and(|value| value.trim().eq_ignore_ascii_case(BATCH_TYPE)) {
            return Ok(Self::Batch);
        }
        let texts: Vec<(&str, Cow<'_, str>)> =
            head.headers().map(|(name, value)| (name, field_text(value))).collect();
        let mut fields = MessageFields::default();
        for (name, value) in &texts {
            fields.take(name, value)?;
        }
        let mut sections = Vec::new();
        fields.encode_to(&mut sections);
        Ok(Self::One(sections))
    }

    /// The events, as they are stored.
    ///
    /// # Errors
    ///
    /// The body is no batch, or too large; nothing of it is to be stored.
    pub(super) fn events(self, body: &[u8]) -> Result<EventBlock, Status> {
        let mut block = EventBlock::default();
        match self {
            Self::One(mut sections) => {
                message::section(&mut sections, code::DATA);
                net_amqp::value::encode::binary(&mut sections, body);
                push(&mut block, &sections)?;
            }
            Self::Batch => read_batch(body, &mut block)?,
        }
        Ok(block)
    }
}

/// One event of a batch.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BatchedEvent<'a> {
    #[serde(borrow)]
    body: Cow<'a, str>,
    /// Node leaves it out and means yes.
    base64_encoded: Option<bool>,
    #[serde(borrow, default)]
    properties: Option<BatchedProperties<'a>>,
}

/// In their order, which a map would lose.
struct BatchedProperties<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

fn read_batch(body: &[u8], block: &mut EventBlock) -> Result<(), Status> {
    let events: Vec<BatchedEvent<'_>> = serde_json::from_slice(body).map_err(|error| {
        // Where, not what: serde's own text repeats what it found.
        malformed(format!("the batch cannot be read at line {}, column {}", error.line(), error.column()))
    })?;
    if events.is_empty() {
        return Err(invalid("the batch holds no event"));
    }
    let mut message = Vec::new();
    for event in &events {
        message.clear();
        let mut fields = MessageFields::default();
        for (name, value) in event.properties.iter().flat_map(|properties| &properties.0) {
            fields.take(name, value)?;
        }
        fields.encode_to(&mut message);
        let content = match event.base64_encoded {
            Some(false) => Cow::Borrowed(event.body.as_bytes()),
            _ => {
                let decoded = BASE64.decode(event.body.as_bytes());
                Cow::Owned(decoded.map_err(|_| invalid("the body of an event is not base64"))?)
            }
        };
        MessageBuilder::default().data(&content).encode_to(&mut message);
        push(block, &message)?;
    }
    Ok(())
}

fn push(block: &mut EventBlock, message: &[u8]) -> Result<(), Status> {
    let mut made = Vec::new();
    let plan = plan_message(message, &mut made).map_err(|error| invalid(error.to_string()))?;
    block.push(&plan.view(message, &made));
    if block.bytes.len() > EVENTS_BYTES_MAX {
        let (bytes, bytes_max) = (block.bytes.len() as u64, EVENTS_BYTES_MAX as u64);
        return Err(Status::of(&EngineError::EventTooLarge { bytes, bytes_max }));
    }
    Ok(())
}

impl<'de: 'a, 'a> Deserialize<'de> for BatchedProperties<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> serde::de::Visitor<'de> for Entries {
            type Value = BatchedProperties<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object of texts")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Text(name), Text(value))) = map.next_entry()? {
                    entries.push((name, value));
                }
                Ok(BatchedProperties(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A text that lies in the body where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use net_amqp::{Body, Sections};

    use super::*;

    fn batch(text: &str) -> Result<Vec<(Vec<u8>, usize)>, Status> {
        let block = EventsHead::Batch.events(text.as_bytes())?;
        let view = |event: engine::request::EventView<'_>| {
            let sections = Sections::parse(event.message).unwrap();
            let Body::Data(data) = sections.body else { panic!() };
            let names = sections.application_properties.map_or(0, |map| map.iter().count());
            (data.single().unwrap().to_vec(), names + usize::from(event.annotation_value_count))
        };
        Ok(block.views().into_iter().map(view).collect())
    }

    #[test]
    fn batches_of_both_kinds() {
        let text = r#"[{"body": "aGVsbG8=", "properties":{"iothub-app-a":"1","IoTHub-App-b":"2","dt-subject":"s"}},
            {"body":"plain \u00e4","base64Encoded":false},{"body":"aGVsbG8","base64Encoded":true,"properties":null},{"body":""}]"#;
        let expected = [
            (b"hello".to_vec(), 4),
            ("plain ä".as_bytes().to_vec(), 0),
            (b"hello".to_vec(), 0),
            (Vec::new(), 0),
        ];
        assert_eq!(batch(text).unwrap(), expected);
    }

    #[test]
    fn a_bad_event_refuses_its_batch() {
        for text in [
            "",
            "[]",
            "{}",
            "[{}]",
            "[1]",
            r#"[{"body":1}]"#,
            r#"[{"body":"?"}]"#,
            r#"[{"body":"aGk="},{"body":"aGk=","base64Encoded":1}]"#,
            r#"[{"body":"aGk=","properties":{"a":1}}]"#,
            r#"[{"body":"aGk=","properties":["a"]}]"#,
            r#"[{"body":"aGk="}] x"#,
        ] {
            let refused = batch(text).unwrap_err();
            assert_eq!(refused.http, 400, "{text}");
        }
        let large = format!(r#"{{"body":"{}","base64Encoded":false}}"#, "x".repeat(EVENTS_BYTES_MAX / 2));
        assert_eq!(batch(&format!("[{large},{large}]")).unwrap_err().http, 413);
        assert!(batch(&format!("[{large}]")).is_ok());
    }

    #[test]
    fn stamps_are_the_hubs_alone() {
        let text = r#"[{"body":"","properties":{"iothub-app-iothub-connection-device-id":"forged","iothub-app-x":"1"}}]"#;
        assert_eq!(batch(text).unwrap(), [(Vec::new(), 1)]);
    }
}
