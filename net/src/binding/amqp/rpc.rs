//! Requests to `$cbs`, `$management` and twins, and the replies to the first two.

use net_amqp::value::{Decoder, Descriptor, Map, Value, encode};
use net_amqp::{DecodeError, performative::code};

use super::limits::MESSAGE_ID_BYTES_MAX;

/// A request, as far as these nodes look into it.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// The message id as it was encoded: the reply repeats it with the same type.
    pub message_id: Option<&'a [u8]>,
    /// The correlation id as it was encoded: what a twin's reply repeats.
    pub correlation_id: Option<&'a [u8]>,
    /// Where the reply is wanted.
    pub reply_to: Option<&'a str>,
    /// What is asked.
    pub properties: Option<Map<'a>>,
    /// The body, when it is one AMQP value.
    pub body: Option<Value<'a>>,
}

impl<'a> Request<'a> {
    /// Read a message. A message without a body is fine.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        let mut request = Self::default();
        let mut decoder = Decoder::new(message);
        while !decoder.is_empty() {
            let descriptor = decoder.descriptor()?;
            let value = decoder.value()?;
            match (section(descriptor), value) {
                (Some(code::PROPERTIES), Value::List(fields)) => {
                    let mut rest = Decoder::new(fields.body());
                    for index in 0..fields.count() {
                        let field = rest.raw()?;
                        let value = Decoder::new(field).value()?;
                        match (index, value) {
                            (0, value) if value != Value::Null => request.message_id = Some(field),
                            (4, value) => request.reply_to = value.as_text(),
                            (5, value) if value != Value::Null => request.correlation_id = Some(field),
                            _ => {}
                        }
                    }
                }
                (Some(code::APPLICATION_PROPERTIES), Value::Map(map)) => {
                    map.check()?;
                    request.properties = Some(map);
                }
                (Some(code::AMQP_VALUE), value) => request.body = Some(value),
                _ => {}
            }
        }
        for (id, name) in [(request.message_id, "message-id"), (request.correlation_id, "correlation-id")] {
            if id.is_some_and(|id| id.len() > MESSAGE_ID_BYTES_MAX) {
                return Err(DecodeError::InvalidValue(name));
            }
        }
        Ok(request)
    }

    /// A text among the application properties.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.properties?.find(name)?.as_text()
    }
}

fn section(descriptor: Descriptor<'_>) -> Option<u8> {
    match descriptor {
        Descriptor::Code(code) => u8::try_from(code).ok(),
        Descriptor::Symbol("amqp:properties:list") => Some(code::PROPERTIES),
        Descriptor::Symbol("amqp:application-properties:map") => Some(code::APPLICATION_PROPERTIES),
        Descriptor::Symbol("amqp:amqp-value:*") => Some(code::AMQP_VALUE),
        Descriptor::Symbol(_) => None,
    }
}

/// What a reply says of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// An HTTP status.
    pub code: u16,
    /// A sentence for people.
    pub description: String,
    /// The AMQP condition of a failure, for the clients that look for one.
    pub condition: Option<&'static str>,
}

impl Outcome {
    /// Done.
    pub fn ok() -> Self {
        Self { code: 200, description: "OK".to_owned(), condition: None }
    }

    /// Refused.
    pub fn failed(code: u16, condition: &'static str, description: impl Into<String>) -> Self {
        Self { code, description: description.into(), condition: Some(condition) }
    }
}

/// The reply to a request, which repeats this encoded id. `body` writes the one AMQP value.
pub fn encode_reply(
    correlation_id: Option<&[u8]>,
    outcome: &Outcome,
    body: impl FnOnce(&mut Vec<u8>),
) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    encode::descriptor(&mut out, Descriptor::Code(code::PROPERTIES.into()));
    let list = encode::begin_list(&mut out);
    for _ in 0..5 {
        encode::null(&mut out);
    }
    match correlation_id {
        Some(id) => out.extend_from_slice(id),
        None => encode::null(&mut out),
    }
    list.end(&mut out, 6);
    encode::descriptor(&mut out, Descriptor::Code(code::APPLICATION_PROPERTIES.into()));
    let map = encode::begin_map(&mut out);
    encode::string(&mut out, "status-code");
    encode::int(&mut out, outcome.code.into());
    encode::string(&mut out, "status-description");
    encode::string(&mut out, &outcome.description);
    if let Some(condition) = outcome.condition {
        encode::string(&mut out, "error-condition");
        encode::symbol(&mut out, condition);
    }
    map.end(&mut out, if outcome.condition.is_some() { 6 } else { 4 });
    encode::descriptor(&mut out, Descriptor::Code(code::AMQP_VALUE.into()));
    body(&mut out);
    out
}
