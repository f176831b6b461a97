//! What a device's message becomes before it is stored: the AMQP bare message alone, without what only the hub may say.
//!
//! A message that needs no change is stored as it came, byte for byte. It is written anew, section by section, when
//! - an id is a uuid: Node clients encode text that looks like one so, and readers expect the text;
//! - a text of the properties section is encoded as another kind of text: strict readers stop at it;
//! - an application property claims what only the hub stamps (`iothub-connection-*`, `iothub-enqueuedtime`,
//!   `iothub-message-source`): it is dropped;
//! - its sections are not described the short way that all Event Hubs readers understand;
//! - its body lies in several Data sections: they are joined.
//!
//! Header, delivery annotations, message annotations and footer are not part of the bare message. Of the annotations, the
//! few that IoT Hub lets a device set are kept beside it [IoT Hub: iot-hub-devguide-messages-construct].

mod fields;

use std::ops::Range;

use engine::request::EventView;
use net_amqp::value::{Decoder, Descriptor, List, Map, Value, encode, used_up};
use net_amqp::{DecodeError, condition};

use fields::{PROPERTIES, WRONG_PROPERTY};

/// The transfer format of a batch: Data sections that each hold a whole message [Event Hubs: AMQP batching].
pub const BATCH_FORMAT: u32 = 0x8001_3700;

/// Annotations that a sender may set; they come back on the event.
const EXTRA_ANNOTATIONS: [&str; 6] = [
    "iothub-interface-id",
    "dt-dataschema",
    "dt-subject",
    "Diagnostic-Id",
    "Correlation-Context",
    "x-opt-partition-key",
];

/// Why a device's message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is no AMQP message.
    #[error("the message cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// It has no body.
    #[error("the message has no body")]
    NoBody,
    /// Sections out of order, twice, or bodies of two kinds.
    #[error("the message's sections are out of order")]
    SectionOrder,
    /// The name of an application property is not text.
    #[error("the name of an application property is no string")]
    PropertyName,
    /// A batch holds something else than messages, or nothing.
    #[error("a batch holds one message in each of its Data sections")]
    Batch,
}

impl MessageError {
    /// The condition to reject the delivery with.
    pub fn condition(self) -> &'static str {
        match self {
            Self::Decode(error) => error.condition(),
            _ => condition::DECODE_ERROR,
        }
    }
}

/// How one event is stored, as places in the bytes that were given and in those that were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPlan {
    message: Place,
    /// In the bytes made.
    annotations: Range<usize>,
    annotation_value_count: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Given(Range<usize>),
    Made(Range<usize>),
}

impl EventPlan {
    /// The event, borrowed from the delivery's payload and from what planning made.
    pub fn view<'a>(&self, given: &'a [u8], made: &'a [u8]) -> EventView<'a> {
        EventView {
            message: match &self.message {
                Place::Given(range) => &given[range.clone()],
                Place::Made(range) => &made[range.clone()],
            },
            annotations: &made[self.annotations.clone()],
            annotation_value_count: self.annotation_value_count,
        }
    }

    /// Whether the message is stored as it came.
    pub fn is_as_given(&self) -> bool {
        matches!(self.message, Place::Given(_))
    }
}

/// Plan the one event of a delivery in the usual format. What has to be written anew is appended to `made`.
///
/// # Errors
///
/// [`MessageError`]: the sender's fault; `made` may have grown.
pub fn plan_message(payload: &[u8], made: &mut Vec<u8>) -> Result<EventPlan, MessageError> {
    plan(payload, 0..payload.len(), made)
}

/// Plan the events of a delivery in the [`BATCH_FORMAT`]. The envelope's own sections around its body say nothing.
///
/// # Errors
///
/// As [`plan_message`]: one bad message refuses the whole batch.
pub fn plan_batch(
    payload: &[u8],
    made: &mut Vec<u8>,
    events: &mut Vec<EventPlan>,
) -> Result<(), MessageError> {
    let mut decoder = Decoder::new(payload);
    while !decoder.is_empty() {
        let section = Section::decode(&mut decoder, payload)?;
        match (section.code, section.value) {
            (SectionCode::Data, Value::Binary(inner)) => {
                let end = section.range.end;
                events.push(plan(payload, end - inner.len()..end, made)?);
            }
            (SectionCode::Data | SectionCode::Sequence | SectionCode::Value, _) => {
                return Err(MessageError::Batch);
            }
            _ => {}
        }
    }
    if events.is_empty() { Err(MessageError::Batch) } else { Ok(()) }
}

/// The sections of a message, in their order [AMQP 3.2].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SectionCode {
    Header = 0x70,
    DeliveryAnnotations,
    MessageAnnotations,
    Properties,
    ApplicationProperties,
    Data,
    Sequence,
    Value,
    Footer,
}

impl SectionCode {
    /// By their code, from 0x70 on.
    const ALL: [Self; 9] = {
        use SectionCode::*;
        [
            Header,
            DeliveryAnnotations,
            MessageAnnotations,
            Properties,
            ApplicationProperties,
            Data,
            Sequence,
            Value,
            Footer,
        ]
    };

    #[cold]
    fn of(descriptor: Descriptor<'_>) -> Result<Self, DecodeError> {
        Ok(match descriptor {
            Descriptor::Code(code @ 0x70..=0x78) => Self::ALL[code as usize - 0x70],
            Descriptor::Symbol("amqp:header:list") => Self::Header,
            Descriptor::Symbol("amqp:delivery-annotations:map") => Self::DeliveryAnnotations,
            Descriptor::Symbol("amqp:message-annotations:map") => Self::MessageAnnotations,
            Descriptor::Symbol("amqp:properties:list") => Self::Properties,
            Descriptor::Symbol("amqp:application-properties:map") => Self::ApplicationProperties,
            Descriptor::Symbol("amqp:data:binary") => Self::Data,
            Descriptor::Symbol("amqp:amqp-sequence:list") => Self::Sequence,
            Descriptor::Symbol("amqp:amqp-value:*") => Self::Value,
            Descriptor::Symbol("amqp:footer:map") => Self::Footer,
            _ => return Err(DecodeError::UnexpectedDescriptor),
        })
    }
}

struct Section<'a> {
    code: SectionCode,
    value: Value<'a>,
    /// Of the whole section, descriptor included.
    range: Range<usize>,
    /// Where its value begins.
    value_start: usize,
    is_short: bool,
}

impl<'a> Section<'a> {
    /// The next section of `payload`, whose rest is in `decoder`.
    #[inline(always)]
    fn decode(decoder: &mut Decoder<'a>, payload: &'a [u8]) -> Result<Self, DecodeError> {
        let start = payload.len() - decoder.rest().len();
        let (code, is_short) = match decoder.rest() {
            [0x00, 0x53, code @ 0x70..=0x78, rest @ ..] => {
                *decoder = Decoder::new(rest);
                (SectionCode::ALL[usize::from(code - 0x70)], true)
            }
            _ => (SectionCode::of(decoder.descriptor()?)?, false),
        };
        let value_start = payload.len() - decoder.rest().len();
        let value = decoder.section()?;
        let end = payload.len() - decoder.rest().len();
        Ok(Self { code, value, range: start..end, value_start, is_short })
    }
}

/// What the sections of one message hold.
#[derive(Default)]
struct Parts<'a> {
    properties: Option<List<'a>>,
    application_properties: Option<Map<'a>>,
    annotations: Option<Map<'a>>,
    data: Option<&'a [u8]>,
    data_count: usize,
    /// The body is an AMQP value or a sequence.
    has_other_body: bool,
    bare: Option<Range<usize>>,
    must_rewrite: bool,
}

fn plan(payload: &[u8], place: Range<usize>, made: &mut Vec<u8>) -> Result<EventPlan, MessageError> {
    let base = place.start;
    let message = &payload[place];
    let parts = Parts::read(message)?;
    let (annotations, annotation_value_count) = keep_annotations(parts.annotations, made);
    let bare = parts.bare.clone().ok_or(MessageError::NoBody)?;
    let place = match parts.must_rewrite {
        false => Place::Given(base + bare.start..base + bare.end),
        true => {
            let start = made.len();
            parts.write(message, made)?;
            Place::Made(start..made.len())
        }
    };
    Ok(EventPlan { message: place, annotations, annotation_value_count })
}

impl<'a> Parts<'a> {
    fn read(message: &'a [u8]) -> Result<Self, MessageError> {
        let mut parts = Self::default();
        let mut decoder = Decoder::new(message);
        let mut last = None;
        while !decoder.is_empty() {
            let section = Section::decode(&mut decoder, message)?;
            let repeats = matches!(section.code, SectionCode::Data | SectionCode::Sequence);
            if last.is_some_and(|last| section.code < last || (section.code == last && !repeats)) {
                return Err(MessageError::SectionOrder);
            }
            last = Some(section.code);
            parts.take(&section)?;
        }
        if parts.data_count > 1 {
            parts.must_rewrite = true;
        }
        if parts.data.is_none() && !parts.has_other_body {
            return Err(MessageError::NoBody);
        }
        Ok(parts)
    }

    /// Look at a section, and at each value in it once.
    fn take(&mut self, section: &Section<'a>) -> Result<(), MessageError> {
        let is_bare = (SectionCode::Properties..=SectionCode::Value).contains(&section.code);
        if is_bare {
            let start = self.bare.as_ref().map_or(section.range.start, |bare| bare.start);
            self.bare = Some(start..section.range.end);
            self.must_rewrite |= !section.is_short;
        }
        match (section.code, section.value) {
            (SectionCode::MessageAnnotations, Value::Map(map)) => {
                section.value.check()?;
                self.annotations = Some(map);
            }
            (SectionCode::Properties, Value::List(list)) => {
                let mut fields = Decoder::new(list.body());
                for index in 0..list.count() {
                    let kind = PROPERTIES.get(index as usize).ok_or(WRONG_PROPERTY)?;
                    self.must_rewrite |= !kind.is(fields.constructor().ok_or(DecodeError::Truncated)?)?;
                    fields.check_next()?;
                }
                used_up(&fields, list.count())?;
                self.properties = Some(list);
            }
            (SectionCode::ApplicationProperties, Value::Map(map)) => {
                let mut entries = Decoder::new(map.body());
                for _ in 0..map.value_count() / 2 {
                    let name = entries.text_bytes()?.ok_or(MessageError::PropertyName)?;
                    self.must_rewrite |= is_reserved(name);
                    entries.check_next()?;
                }
                used_up(&entries, map.value_count())?;
                self.application_properties = Some(map);
            }
            (SectionCode::Data, Value::Binary(data)) => {
                self.data.get_or_insert(data);
                self.data_count += 1;
            }
            (SectionCode::Sequence, Value::List(_)) | (SectionCode::Value, _) => {
                section.value.check()?;
                if self.data.is_some() || (section.code == SectionCode::Value && self.has_other_body) {
                    return Err(MessageError::SectionOrder);
                }
                self.has_other_body = true;
            }
            (SectionCode::Header, Value::List(_))
            | (SectionCode::DeliveryAnnotations | SectionCode::Footer, Value::Map(_)) => {
                section.value.check()?
            }
            // Some libraries write an empty section's value as null.
            (SectionCode::Properties | SectionCode::ApplicationProperties, Value::Null) => {
                self.must_rewrite = true;
            }
            (code, Value::Null) if code < SectionCode::Data || code == SectionCode::Footer => {}
            _ => return Err(DecodeError::WrongType("section").into()),
        }
        Ok(())
    }

    /// Write the bare message in its clean form.
    fn write(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
        if let Some(list) = self.properties {
            begin_section(out, SectionCode::Properties);
            write_properties(list, out)?;
        }
        if let Some(map) = self.application_properties {
            write_application_properties(map, out)?;
        }
        if self.data.is_some() {
            begin_section(out, SectionCode::Data);
            match (self.data_count, self.data) {
                (1, Some(data)) => encode::binary(out, data),
                _ => encode::binary(out, &joined_data(message)?),
            }
        } else {
            write_other_body(message, out)?;
        }
        Ok(())
    }
}

fn begin_section(out: &mut Vec<u8>, code: SectionCode) {
    encode::descriptor(out, Descriptor::Code(code as u64));
}

/// Whether only the hub may say this. Without case: a consumer may compare so.
pub fn is_reserved(name: impl AsRef<[u8]>) -> bool {
    let name = name.as_ref();
    let starts_with =
        |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    // Nearly all names end here.
    if !matches!(name.first(), Some(b'i' | b'I')) {
        return false;
    }
    starts_with(&b"iothub-connection-"[..])
        || name.eq_ignore_ascii_case(b"iothub-enqueuedtime")
        || name.eq_ignore_ascii_case(b"iothub-message-source")
}

fn write_properties(properties: List<'_>, out: &mut Vec<u8>) -> Result<(), MessageError> {
    let list = encode::begin_list(out);
    let mut fields = Decoder::new(properties.body());
    for kind in PROPERTIES.iter().take(properties.count() as usize) {
        let field = fields.raw()?;
        match kind.is(field[0])? {
            true => out.extend_from_slice(field),
            false => kind.encode(Decoder::new(field).value()?, out)?,
        }
    }
    list.end(out, properties.count());
    Ok(())
}

fn write_application_properties(properties: Map<'_>, out: &mut Vec<u8>) -> Result<(), MessageError> {
    let start = out.len();
    begin_section(out, SectionCode::ApplicationProperties);
    let map = encode::begin_map(out);
    let mut value_count = 0;
    let mut entries = Decoder::new(properties.body());
    for _ in 0..properties.value_count() / 2 {
        let (name, value) = (entries.raw()?, entries.raw()?);
        let text = Decoder::new(name).value()?.as_text().ok_or(MessageError::PropertyName)?;
        if !is_reserved(text) {
            out.extend_from_slice(name);
            out.extend_from_slice(value);
            value_count += 2;
        }
    }
    map.end(out, value_count);
    if value_count == 0 {
        out.truncate(start);
    }
    Ok(())
}

fn joined_data(message: &[u8]) -> Result<Vec<u8>, MessageError> {
    let mut joined = Vec::new();
    let mut decoder = Decoder::new(message);
    while !decoder.is_empty() {
        let section = Section::decode(&mut decoder, message)?;
        if let (SectionCode::Data, Value::Binary(data)) = (section.code, section.value) {
            joined.extend_from_slice(data);
        }
    }
    Ok(joined)
}

fn write_other_body(message: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
    let mut decoder = Decoder::new(message);
    while !decoder.is_empty() {
        let section = Section::decode(&mut decoder, message)?;
        if matches!(section.code, SectionCode::Sequence | SectionCode::Value) {
            begin_section(out, section.code);
            out.extend_from_slice(&message[section.value_start..section.range.end]);
        }
    }
    Ok(())
}

/// Append the annotations that a sender may set, as map entries without the map's head.
fn keep_annotations(annotations: Option<Map<'_>>, made: &mut Vec<u8>) -> (Range<usize>, u16) {
    let start = made.len();
    let Some(annotations) = annotations else { return (start..start, 0) };
    let mut value_count = 0;
    for name in EXTRA_ANNOTATIONS {
        let value = annotations.find(name);
        if let Some(value @ (Value::String(_) | Value::Symbol(_))) = value {
            encode::symbol(made, name);
            value.encode(made);
            value_count += 2;
        }
    }
    (start..made.len(), value_count)
}

#[cfg(test)]
mod tests;
