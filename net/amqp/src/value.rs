//! AMQP values, decoded where they lie [AMQP 1.6].
//!
//! A compound value is a borrowed slice and a count; its elements are decoded when someone asks for them. Decoding one value
//! never recurses; only [`Value::check`] walks into the depth, and that is bounded.

mod compound;
pub mod encode;

pub use compound::{Array, Described, Descriptor, List, Map};

use crate::limits::NESTING_MAX;

/// Why bytes are not the value that was looked for. All of them are the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value, or a size points beyond its surroundings.
    #[error("the bytes end inside a value")]
    Truncated,
    /// No type of AMQP 1.0 has this constructor.
    #[error("unknown constructor {0:#04x}")]
    UnknownConstructor(u8),
    /// A value that its type does not allow: text that is not UTF-8, a symbol that is not ASCII, a boolean of 2, a surrogate
    /// as char.
    #[error("not a valid {0}")]
    InvalidValue(&'static str),
    /// A count that cannot be true for the bytes that follow, or an odd one in a map.
    #[error("a count of {0} is impossible here")]
    InvalidCount(u32),
    /// Values nested deeper than [`crate::limits::NESTING_MAX`].
    #[error("nested too deeply")]
    TooDeep,
    /// A descriptor that is neither a ulong nor a symbol, or one that means nothing here.
    #[error("unexpected descriptor")]
    UnexpectedDescriptor,
    /// A field of another type than the specification says.
    #[error("field {0} has the wrong type")]
    WrongType(&'static str),
    /// A mandatory field that is null or left out.
    #[error("field {0} is missing")]
    MissingField(&'static str),
    /// A message section that comes twice or in the wrong place.
    #[error("section {0:#x} does not belong here")]
    MisplacedSection(u64),
}

impl DecodeError {
    /// The condition to answer with.
    pub fn condition(self) -> &'static str {
        match self {
            DecodeError::WrongType(_) | DecodeError::MissingField(_) => crate::condition::INVALID_FIELD,
            _ => crate::condition::DECODE_ERROR,
        }
    }
}

/// One AMQP value. Text and compounds borrow from the bytes they were decoded from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// null.
    Null,
    /// boolean.
    Bool(bool),
    /// ubyte.
    Ubyte(u8),
    /// ushort.
    Ushort(u16),
    /// uint.
    Uint(u32),
    /// ulong.
    Ulong(u64),
    /// byte.
    Byte(i8),
    /// short.
    Short(i16),
    /// int.
    Int(i32),
    /// long.
    Long(i64),
    /// float.
    Float(f32),
    /// double.
    Double(f64),
    /// decimal32, its bytes as they travel.
    Decimal32([u8; 4]),
    /// decimal64, its bytes as they travel.
    Decimal64([u8; 8]),
    /// decimal128, its bytes as they travel.
    Decimal128([u8; 16]),
    /// char.
    Char(char),
    /// timestamp: milliseconds since 1970, UTC.
    Timestamp(i64),
    /// uuid, its bytes as they travel (big end first).
    Uuid([u8; 16]),
    /// binary.
    Binary(&'a [u8]),
    /// string.
    String(&'a str),
    /// symbol: ASCII.
    Symbol(&'a str),
    /// list.
    List(List<'a>),
    /// map.
    Map(Map<'a>),
    /// array.
    Array(Array<'a>),
    /// described value.
    Described(Described<'a>),
}

impl<'a> Value<'a> {
    /// Checks everything inside, down to [`NESTING_MAX`] levels: afterwards no iterator over this value yields an error.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.check_below(NESTING_MAX)
    }

    fn check_below(&self, levels: u32) -> Result<(), DecodeError> {
        let below = || levels.checked_sub(1).ok_or(DecodeError::TooDeep);
        match self {
            Value::List(list) => check_values(list.body(), list.count(), below),
            Value::Map(map) => check_values(map.body(), map.value_count(), below),
            Value::Array(array) => {
                array.iter().try_for_each(|item| item?.check_below(below()?))?;
                array.check_end()
            }
            Value::Described(described) => described.value()?.check_below(below()?),
            _ => Ok(()),
        }
    }

    /// The text of a string or a symbol.
    pub fn as_text(&self) -> Option<&'a str> {
        match *self {
            Value::String(text) | Value::Symbol(text) => Some(text),
            _ => None,
        }
    }

    /// Any integer type as an `i64`, where it fits.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::Ubyte(number) => Some(number.into()),
            Value::Ushort(number) => Some(number.into()),
            Value::Uint(number) => Some(number.into()),
            Value::Ulong(number) => number.try_into().ok(),
            Value::Byte(number) => Some(number.into()),
            Value::Short(number) => Some(number.into()),
            Value::Int(number) => Some(number.into()),
            Value::Long(number) => Some(number),
            _ => None,
        }
    }
}

/// Checks the values of a list or map; each may nest as deep as `levels` says, which is asked only if there is one.
fn check_values(
    body: &[u8],
    count: u32,
    levels: impl Fn() -> Result<u32, DecodeError>,
) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(body);
    if count > 0 {
        let levels = levels()?;
        (0..count).try_for_each(|_| decoder.check(levels))?;
    }
    used_up(&decoder, count)
}

/// Nothing may lie behind the last of `count` values that `decoder` has read: who goes by the count would read on there, who goes
/// by the size would not.
///
/// # Errors
///
/// [`DecodeError::InvalidCount`] when something does.
pub fn used_up(decoder: &Decoder<'_>, count: u32) -> Result<(), DecodeError> {
    match decoder.is_empty() {
        true => Ok(()),
        false => Err(DecodeError::InvalidCount(count)),
    }
}

/// Reads values from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// A decoder over `bytes`.
    pub fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: bytes }
    }

    /// What is not decoded yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything is decoded.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value. Compounds are not looked into beyond their size and count.
    pub fn value(&mut self) -> Result<Value<'a>, DecodeError> {
        let code = self.byte()?;
        self.value_of(code)
    }

    /// As [`Decoder::value`], for sections of messages: what they usually are is decoded here, without a call.
    #[inline]
    pub fn section(&mut self) -> Result<Value<'a>, DecodeError> {
        match self.byte()? {
            0xa0 => Ok(Value::Binary(self.variable8()?)),
            0xb0 => Ok(Value::Binary(self.variable32()?)),
            0xc1 => {
                let (count, body) = self.compound(0xc1)?;
                Ok(Value::Map(Map::new(count, body)?))
            }
            code => self.value_of(code),
        }
    }

    /// The constructor of the next value; none: nothing is left.
    pub fn constructor(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Moves behind the next value, which must be a string or a symbol, and checks it; as its bytes, for who only compares them.
    /// `None`: it is something else.
    ///
    /// # Errors
    ///
    /// Anything that is not a well-formed value.
    #[inline]
    pub fn text_bytes(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.short_text() {
            Some(text) => Ok(Some(text)),
            None => Ok(self.value()?.as_text().map(str::as_bytes)),
        }
    }

    /// Moves behind the next value if it is text in ASCII with a length of one byte: nearly all text is. Otherwise it stays.
    #[inline]
    fn short_text(&mut self) -> Option<&'a [u8]> {
        let [0xa1 | 0xa3, length, behind @ ..] = self.rest else { return None };
        let (text, rest) = behind.split_at_checked((*length).into())?;
        is_ascii(text).then(|| {
            self.rest = rest;
            text
        })
    }

    /// Moves behind the next value and checks everything inside it; as [`Value::check`] without making a [`Value`] of it.
    ///
    /// # Errors
    ///
    /// Anything that is not a well-formed value.
    #[inline]
    pub fn check_next(&mut self) -> Result<(), DecodeError> {
        match self.short_text() {
            Some(_) => Ok(()),
            None => self.check(NESTING_MAX),
        }
    }

    /// Moves behind the next value and checks everything inside it. What messages are full of is checked without making a
    /// [`Value`] of it.
    fn check(&mut self, levels: u32) -> Result<(), DecodeError> {
        let code = self.byte()?;
        match code {
            0xa1 => check_utf8(self.variable8()?),
            0xa3 => check_ascii(self.variable8()?),
            0xa0 => self.variable8().map(drop),
            0x40..=0x45 => Ok(()),
            0x50..=0x55 => self.take(1).map(drop),
            0x60 | 0x61 => self.take(2).map(drop),
            0x70..=0x72 => self.take(4).map(drop),
            0x80..=0x83 => self.take(8).map(drop),
            0x98 => self.take(16).map(drop),
            _ => self.value_of(code)?.check_below(levels),
        }
    }

    /// The next value's encoding, constructor included, without looking into it.
    pub fn raw(&mut self) -> Result<&'a [u8], DecodeError> {
        let whole = self.rest;
        self.value()?;
        Ok(&whole[..whole.len() - self.rest.len()])
    }

    /// The descriptor of the next value, which must be a described one; the value itself comes next.
    #[inline]
    pub fn descriptor(&mut self) -> Result<Descriptor<'a>, DecodeError> {
        match self.byte()? {
            0x00 => self.descriptor_value(),
            _ => Err(DecodeError::UnexpectedDescriptor),
        }
    }

    /// The descriptor itself, behind its zero byte.
    #[inline]
    pub(crate) fn descriptor_value(&mut self) -> Result<Descriptor<'a>, DecodeError> {
        // Smallulong is what everybody writes.
        if let [0x53, code, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(Descriptor::Code((*code).into()));
        }
        self.rare_descriptor()
    }

    fn rare_descriptor(&mut self) -> Result<Descriptor<'a>, DecodeError> {
        match self.rest.first() {
            Some(0x53 | 0x80 | 0x44 | 0xa3 | 0xb3) => match self.value()? {
                Value::Ulong(code) => Ok(Descriptor::Code(code)),
                Value::Symbol(name) => Ok(Descriptor::Symbol(name)),
                _ => Err(DecodeError::UnexpectedDescriptor),
            },
            Some(_) => Err(DecodeError::UnexpectedDescriptor),
            None => Err(DecodeError::Truncated),
        }
    }

    /// The value whose constructor `code` is already read.
    pub(crate) fn value_of(&mut self, code: u8) -> Result<Value<'a>, DecodeError> {
        Ok(match code {
            0x00 => Value::Described(Described::decode(self)?),
            0x40 => Value::Null,
            0x41 => Value::Bool(true),
            0x42 => Value::Bool(false),
            0x43 => Value::Uint(0),
            0x44 => Value::Ulong(0),
            0x45 => Value::List(List::EMPTY),
            0x50 => Value::Ubyte(self.byte()?),
            0x51 => Value::Byte(self.byte()? as i8),
            0x52 => Value::Uint(self.byte()?.into()),
            0x53 => Value::Ulong(self.byte()?.into()),
            0x54 => Value::Int((self.byte()? as i8).into()),
            0x55 => Value::Long((self.byte()? as i8).into()),
            0x56 => match self.byte()? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                _ => return Err(DecodeError::InvalidValue("boolean")),
            },
            0x60 => Value::Ushort(u16::from_be_bytes(self.fixed()?)),
            0x61 => Value::Short(i16::from_be_bytes(self.fixed()?)),
            0x70 => Value::Uint(u32::from_be_bytes(self.fixed()?)),
            0x71 => Value::Int(i32::from_be_bytes(self.fixed()?)),
            0x72 => Value::Float(f32::from_be_bytes(self.fixed()?)),
            0x73 => Value::Char(
                char::from_u32(u32::from_be_bytes(self.fixed()?)).ok_or(DecodeError::InvalidValue("char"))?,
            ),
            0x74 => Value::Decimal32(self.fixed()?),
            0x80 => Value::Ulong(u64::from_be_bytes(self.fixed()?)),
            0x81 => Value::Long(i64::from_be_bytes(self.fixed()?)),
            0x82 => Value::Double(f64::from_be_bytes(self.fixed()?)),
            0x83 => Value::Timestamp(i64::from_be_bytes(self.fixed()?)),
            0x84 => Value::Decimal64(self.fixed()?),
            0x94 => Value::Decimal128(self.fixed()?),
            0x98 => Value::Uuid(self.fixed()?),
            0xa0 => Value::Binary(self.variable8()?),
            0xb0 => Value::Binary(self.variable32()?),
            0xa1 => Value::String(utf8(self.variable8()?)?),
            0xb1 => Value::String(utf8(self.variable32()?)?),
            0xa3 => Value::Symbol(ascii(self.variable8()?)?),
            0xb3 => Value::Symbol(ascii(self.variable32()?)?),
            0xc0 | 0xd0 => {
                let (count, body) = self.compound(code)?;
                Value::List(List::new(count, body)?)
            }
            0xc1 | 0xd1 => {
                let (count, body) = self.compound(code)?;
                Value::Map(Map::new(count, body)?)
            }
            0xe0 | 0xf0 => {
                let (count, body) = self.compound(code)?;
                Value::Array(Array::new(count, body)?)
            }
            _ => return Err(DecodeError::UnknownConstructor(code)),
        })
    }

    /// Size and count of a compound or array, and the bytes behind the count.
    #[inline]
    fn compound(&mut self, code: u8) -> Result<(u32, &'a [u8]), DecodeError> {
        // The size counts the bytes behind it, the count's own among them. The high nibble's low bit says how wide both are.
        if code & 0x10 == 0 {
            let body = self.variable8()?;
            let (count, body) = body.split_first().ok_or(DecodeError::Truncated)?;
            Ok(((*count).into(), body))
        } else {
            let body = self.variable32()?;
            let (count, body) = body.split_first_chunk().ok_or(DecodeError::Truncated)?;
            Ok((u32::from_be_bytes(*count), body))
        }
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*byte)
    }

    #[inline]
    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    pub(crate) fn variable8(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.byte()?.into();
        self.take(length)
    }

    #[inline]
    fn variable32(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = u32::from_be_bytes(self.fixed()?) as usize;
        self.take(length)
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }
}

pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::InvalidValue("string"))
}

/// As [`utf8`] for who does not want the text: nearly all of it is ASCII, and that is seen eight bytes at a time.
fn check_utf8(bytes: &[u8]) -> Result<(), DecodeError> {
    if is_ascii(bytes) { Ok(()) } else { utf8(bytes).map(drop) }
}

/// As [`ascii`] for who does not want the text.
fn check_ascii(bytes: &[u8]) -> Result<(), DecodeError> {
    if is_ascii(bytes) { Ok(()) } else { Err(DecodeError::InvalidValue("symbol")) }
}

/// Names and short values are what messages are full of: for those it is done here, without a call.
#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    // What is left of the last word is looked at together with bytes before it, which costs nothing.
    let bits = if let Some(last) = bytes.last_chunk() {
        let (words, _) = bytes.as_chunks();
        words.iter().fold(u64::from_ne_bytes(*last), |bits, word| bits | u64::from_ne_bytes(*word))
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        (u32::from_ne_bytes(*first) | u32::from_ne_bytes(*last)).into()
    } else {
        bytes.iter().fold(0, |bits, byte| bits | u64::from(*byte))
    };
    bits & 0x8080_8080_8080_8080 == 0
}

pub(crate) fn ascii(bytes: &[u8]) -> Result<&str, DecodeError> {
    match bytes.is_ascii() {
        true => utf8(bytes),
        false => Err(DecodeError::InvalidValue("symbol")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_high_bit_is_seen_wherever_it_stands() {
        for length in 0..40 {
            let mut text = vec![b'a'; length];
            assert!(is_ascii(&text), "{length} bytes");
            for place in 0..length {
                text[place] = 0x80;
                assert!(!is_ascii(&text), "{place} of {length} bytes");
                text[place] = b'a';
            }
        }
    }
}
