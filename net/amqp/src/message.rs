//! Messages: their sections found in place, and whole ones written [AMQP 3.2].

mod build;
mod properties;

pub use build::MessageBuilder;
pub use properties::{Header, Properties};

use crate::performative::{Fields, code, known_code};
use crate::value::{DecodeError, Decoder, Map, Value};

/// Message format of the standard [AMQP 3.2.16].
pub const STANDARD_FORMAT: u32 = 0;

/// Message format of a batch: each Data section holds one whole message.
pub const BATCH_FORMAT: u32 = 0x8001_3700;

/// The sections of one message, borrowed and checked: maps and values in it yield no errors any more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sections<'a> {
    /// header.
    pub header: Option<Header>,
    /// delivery-annotations.
    pub delivery_annotations: Option<Map<'a>>,
    /// message-annotations.
    pub message_annotations: Option<Map<'a>>,
    /// properties.
    pub properties: Option<Properties<'a>>,
    /// application-properties.
    pub application_properties: Option<Map<'a>>,
    /// The body.
    pub body: Body<'a>,
    /// footer.
    pub footer: Option<Map<'a>>,
    /// The bare message: properties, application-properties and body as they were sent.
    pub bare: &'a [u8],
}

/// The body of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Body<'a> {
    /// No section at all; some requests come so.
    #[default]
    Empty,
    /// One or more Data sections.
    Data(DataSections<'a>),
    /// One or more AmqpSequence sections, as encoded.
    Sequence(&'a [u8]),
    /// An AmqpValue section.
    Value(Value<'a>),
}

/// A run of Data sections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DataSections<'a> {
    encoded: &'a [u8],
}

impl<'a> DataSections<'a> {
    /// The contents of the sections.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut decoder = Decoder::new(self.encoded);
        std::iter::from_fn(move || {
            decoder.descriptor().ok()?;
            match decoder.value() {
                Ok(Value::Binary(bytes)) => Some(bytes),
                _ => None,
            }
        })
    }

    /// The content, where there is one section.
    pub fn single(&self) -> Option<&'a [u8]> {
        let mut sections = self.iter();
        let first = sections.next()?;
        sections.next().is_none().then_some(first)
    }

    /// The sections as they were sent.
    pub fn encoded(&self) -> &'a [u8] {
        self.encoded
    }
}

impl<'a> Sections<'a> {
    /// Finds and checks the sections of `message`.
    ///
    /// The order of the specification is asked for, but annotations may also come last, as EH-PY writes them; only the bare
    /// message must be in one piece.
    ///
    /// # Errors
    ///
    /// Anything that is not a well-formed message. An empty one has no sections and is well-formed.
    pub fn parse(message: &'a [u8]) -> Result<Sections<'a>, DecodeError> {
        let mut sections = Sections::default();
        let mut decoder = Decoder::new(message);
        let mut bare = BareSpan::default();
        let mut body_start = 0;
        while !decoder.is_empty() {
            let start = message.len() - decoder.rest().len();
            let code = known_code(decoder.descriptor()?).ok_or(DecodeError::UnexpectedDescriptor)?;
            let misplaced = DecodeError::MisplacedSection(code.into());
            if is_bare(code) {
                bare.begin(start, code).ok_or(misplaced)?;
            }
            match code {
                code::HEADER => once(&mut sections.header, whole(&mut decoder, Header::decode)?, misplaced)?,
                code::DELIVERY_ANNOTATIONS => {
                    once(&mut sections.delivery_annotations, map(&mut decoder)?, misplaced)?
                }
                code::MESSAGE_ANNOTATIONS => {
                    once(&mut sections.message_annotations, map(&mut decoder)?, misplaced)?
                }
                code::FOOTER => once(&mut sections.footer, map(&mut decoder)?, misplaced)?,
                code::PROPERTIES => {
                    sections.properties = Some(whole(&mut decoder, Properties::decode)?);
                }
                code::APPLICATION_PROPERTIES => sections.application_properties = Some(map(&mut decoder)?),
                code::DATA => match decoder.value()? {
                    Value::Binary(_) => {}
                    _ => return Err(DecodeError::WrongType("data")),
                },
                code::AMQP_SEQUENCE => match decoder.value()? {
                    value @ Value::List(_) => value.check()?,
                    _ => return Err(DecodeError::WrongType("amqp-sequence")),
                },
                code::AMQP_VALUE => {
                    let value = decoder.value()?;
                    value.check()?;
                    sections.body = Body::Value(value);
                }
                _ => return Err(DecodeError::UnexpectedDescriptor),
            }
            let end = message.len() - decoder.rest().len();
            if is_bare(code) {
                if matches!(code, code::DATA | code::AMQP_SEQUENCE) {
                    if matches!(sections.body, Body::Empty) {
                        body_start = start;
                    }
                    let encoded = &message[body_start..end];
                    sections.body = match code {
                        code::DATA => Body::Data(DataSections { encoded }),
                        _ => Body::Sequence(encoded),
                    };
                }
                bare.end = end;
            } else {
                bare.interrupt();
            }
        }
        sections.bare = &message[bare.start.unwrap_or(0)..bare.end];
        Ok(sections)
    }
}

/// Where the bare message lies, and which section of it came last.
#[derive(Default)]
struct BareSpan {
    start: Option<usize>,
    end: usize,
    last_code: u8,
    is_over: bool,
}

impl BareSpan {
    /// `None` when the section does not belong behind what came before.
    fn begin(&mut self, start: usize, code: u8) -> Option<()> {
        let repeats = code == self.last_code && matches!(code, code::DATA | code::AMQP_SEQUENCE);
        let follows = code > self.last_code && self.last_code < code::DATA;
        if self.is_over || !(repeats || follows) {
            return None;
        }
        self.last_code = code;
        self.start.get_or_insert(start);
        Some(())
    }

    /// A section that is not of the bare message comes in between or behind.
    fn interrupt(&mut self) {
        self.is_over = self.start.is_some();
    }
}

fn is_bare(code: u8) -> bool {
    (code::PROPERTIES..=code::AMQP_VALUE).contains(&code)
}

fn once<T>(place: &mut Option<T>, value: T, misplaced: DecodeError) -> Result<(), DecodeError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(misplaced),
    }
}

/// A section that is a list of fields, with nothing behind them.
fn whole<'a, T>(
    decoder: &mut Decoder<'a>,
    decode: impl FnOnce(&mut Fields<'a>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut fields = Fields::decode(decoder)?;
    let section = decode(&mut fields)?;
    fields.end().map(|()| section)
}

fn map<'a>(decoder: &mut Decoder<'a>) -> Result<Map<'a>, DecodeError> {
    match decoder.value()? {
        Value::Map(map) => map.check().map(|()| map),
        _ => Err(DecodeError::WrongType("map")),
    }
}

/// Begins a section: its descriptor. The section's value (a map, a list, a binary) comes next.
///
/// ```
/// use net_amqp::message::{self, Sections};
/// use net_amqp::performative::code;
/// use net_amqp::value::{encode, Value};
///
/// let mut bytes = Vec::new();
/// message::section(&mut bytes, code::MESSAGE_ANNOTATIONS);
/// let map = encode::begin_map(&mut bytes);
/// encode::symbol(&mut bytes, "x-opt-sequence-number");
/// encode::long(&mut bytes, 7);
/// map.end(&mut bytes, 2);
/// message::section(&mut bytes, code::DATA);
/// encode::binary(&mut bytes, b"hello");
/// let sections = Sections::parse(&bytes).unwrap();
/// assert_eq!(sections.message_annotations.unwrap().find("x-opt-sequence-number"), Some(Value::Long(7)));
/// ```
pub fn section(out: &mut Vec<u8>, code: u8) {
    crate::performative::describe(out, code);
}
