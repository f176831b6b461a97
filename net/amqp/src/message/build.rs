//! Whole messages, for answers, clients and tests.

use super::{Header, Properties};
use crate::performative::{code, describe};
use crate::value::{Value, encode};

/// Collects the sections of a message and writes them in order. Sections that were not asked for are left out.
///
/// ```
/// use net_amqp::{Body, MessageBuilder, Properties, Sections, Value};
///
/// let bytes = MessageBuilder::default()
///     .properties(Properties { message_id: Some(Value::String("1")), ..Properties::default() })
///     .application_property("status-code", Value::Int(200))
///     .data(b"hello")
///     .encode();
/// let sections = Sections::parse(&bytes).unwrap();
/// assert_eq!(sections.application_properties.unwrap().find("status-code"), Some(Value::Int(200)));
/// assert!(matches!(sections.body, Body::Data(data) if data.single() == Some(b"hello")));
/// ```
#[derive(Clone, Debug, Default)]
pub struct MessageBuilder<'a> {
    header: Option<Header>,
    delivery_annotations: Vec<(&'a str, Value<'a>)>,
    message_annotations: Vec<(&'a str, Value<'a>)>,
    properties: Option<Properties<'a>>,
    application_properties: Vec<(&'a str, Value<'a>)>,
    data: Vec<&'a [u8]>,
    value: Option<Value<'a>>,
}

impl<'a> MessageBuilder<'a> {
    /// Sets the header.
    pub fn header(mut self, header: Header) -> Self {
        self.header = Some(header);
        self
    }

    /// Adds a delivery annotation; the key becomes a symbol.
    pub fn delivery_annotation(mut self, key: &'a str, value: Value<'a>) -> Self {
        self.delivery_annotations.push((key, value));
        self
    }

    /// Adds a message annotation; the key becomes a symbol.
    pub fn message_annotation(mut self, key: &'a str, value: Value<'a>) -> Self {
        self.message_annotations.push((key, value));
        self
    }

    /// Sets the properties.
    pub fn properties(mut self, properties: Properties<'a>) -> Self {
        self.properties = Some(properties);
        self
    }

    /// Adds an application property; the key becomes a string.
    pub fn application_property(mut self, key: &'a str, value: Value<'a>) -> Self {
        self.application_properties.push((key, value));
        self
    }

    /// Adds a Data section.
    pub fn data(mut self, data: &'a [u8]) -> Self {
        self.data.push(data);
        self
    }

    /// Sets the body to an AmqpValue section. It takes the place of Data sections.
    pub fn value(mut self, value: Value<'a>) -> Self {
        self.value = Some(value);
        self
    }

    /// Appends the message.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        if let Some(header) = &self.header {
            header.encode(out);
        }
        map_section(out, code::DELIVERY_ANNOTATIONS, &self.delivery_annotations, encode::symbol);
        map_section(out, code::MESSAGE_ANNOTATIONS, &self.message_annotations, encode::symbol);
        if let Some(properties) = &self.properties {
            properties.encode(out);
        }
        map_section(out, code::APPLICATION_PROPERTIES, &self.application_properties, encode::string);
        if let Some(value) = &self.value {
            describe(out, code::AMQP_VALUE);
            value.encode(out);
            return;
        }
        for data in &self.data {
            describe(out, code::DATA);
            encode::binary(out, data);
        }
    }

    /// The message on its own.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_to(&mut bytes);
        bytes
    }
}

fn map_section(
    out: &mut Vec<u8>,
    code: u8,
    entries: &[(&str, Value<'_>)],
    write_key: impl Fn(&mut Vec<u8>, &str),
) {
    if entries.is_empty() {
        return;
    }
    describe(out, code);
    let map = encode::begin_map(out);
    for (key, value) in entries {
        write_key(out, key);
        value.encode(out);
    }
    map.end(out, 2 * entries.len() as u32);
}
