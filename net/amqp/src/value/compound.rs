//! Lists, maps, arrays and described values: slices whose elements are decoded on demand [AMQP 1.6.22 to 1.6.24, 1.2].

use super::{DecodeError, Decoder, Value, used_up};
use crate::limits::EMPTY_ELEMENT_COUNT_MAX;

/// A list's elements.
#[derive(Clone, Copy, Debug)]
pub struct List<'a> {
    count: u32,
    body: &'a [u8],
}

impl<'a> List<'a> {
    /// The list without elements.
    pub const EMPTY: List<'static> = List { count: 0, body: &[] };

    pub(super) fn new(count: u32, body: &'a [u8]) -> Result<List<'a>, DecodeError> {
        // Each element has at least its constructor.
        if count as usize > body.len() {
            return Err(DecodeError::InvalidCount(count));
        }
        Ok(List { count, body })
    }

    /// Number of elements.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The elements' bytes, without the list's head.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The elements; an error ends the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, DecodeError>> + use<'a> {
        let mut decoder = Decoder::new(self.body);
        fused(self.count, move || decoder.value())
    }
}

impl PartialEq for List<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// A map's entries, in the order in which they travelled.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    count: u32,
    body: &'a [u8],
}

impl<'a> Map<'a> {
    /// The map without entries.
    pub const EMPTY: Map<'static> = Map { count: 0, body: &[] };

    pub(super) fn new(count: u32, body: &'a [u8]) -> Result<Map<'a>, DecodeError> {
        if !count.is_multiple_of(2) || count as usize > body.len() {
            return Err(DecodeError::InvalidCount(count));
        }
        Ok(Map { count, body })
    }

    /// A map from its encoding, constructor included, as [`super::encode::begin_map`] makes it.
    pub fn from_encoded(bytes: &'a [u8]) -> Result<Map<'a>, DecodeError> {
        match Decoder::new(bytes).value()? {
            Value::Map(map) => Ok(map),
            _ => Err(DecodeError::WrongType("map")),
        }
    }

    /// Number of values: keys and values together, as it travels.
    pub fn value_count(&self) -> u32 {
        self.count
    }

    /// The entries' bytes (key, value, key, value ...), without the map's head.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries; an error ends the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Result<(Value<'a>, Value<'a>), DecodeError>> + use<'a> {
        let mut decoder = Decoder::new(self.body);
        fused(self.count / 2, move || Ok((decoder.value()?, decoder.value()?)))
    }

    /// The first value whose key is this string or symbol.
    pub fn find(&self, name: &str) -> Option<Value<'a>> {
        self.iter().map_while(Result::ok).find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
    }

    /// Checks everything inside; see [`Value::check`].
    pub fn check(&self) -> Result<(), DecodeError> {
        Value::Map(*self).check()
    }
}

impl PartialEq for Map<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// An array's elements: one constructor, then the elements without theirs.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    count: u32,
    /// The constructor and, behind it, the elements.
    body: &'a [u8],
}

impl<'a> Array<'a> {
    pub(super) fn new(count: u32, body: &'a [u8]) -> Result<Array<'a>, DecodeError> {
        // An element may have no bytes at all (null, list0), so its count needs a bound of its own.
        if count as usize > body.len() && count > EMPTY_ELEMENT_COUNT_MAX {
            return Err(DecodeError::InvalidCount(count));
        }
        Ok(Array { count, body })
    }

    /// Number of elements.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The constructor and the elements' bytes, without the array's head.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The elements; an error ends the iteration.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, DecodeError>> + use<'a> {
        let constructor = self.body;
        let mut data = Decoder::new(self.body);
        let mut skipped = skip_constructor(&mut data);
        fused(self.count, move || {
            std::mem::replace(&mut skipped, Ok(()))?;
            construct(Decoder::new(constructor), &mut data)
        })
    }

    /// Whether the elements are all that there is.
    pub(super) fn check_end(&self) -> Result<(), DecodeError> {
        let mut data = Decoder::new(self.body);
        if self.count > 0 {
            skip_constructor(&mut data)?;
            (0..self.count).try_for_each(|_| skip_data(self.body, &mut data))?;
            return used_up(&data, self.count);
        }
        Ok(())
    }
}

impl PartialEq for Array<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// What a described value is described by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor<'a> {
    /// A numeric code; the specification's own have a domain of 0.
    Code(u64),
    /// A symbolic one, such as `amqp:accepted:list`.
    Symbol(&'a str),
}

/// A described value [AMQP 1.2].
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// What it is.
    pub descriptor: Descriptor<'a>,
    /// The constructor of the value, and what follows; in an array the constructor lies apart from the data.
    constructor: &'a [u8],
    data: &'a [u8],
}

impl<'a> Described<'a> {
    /// Decodes behind the zero byte.
    pub(super) fn decode(decoder: &mut Decoder<'a>) -> Result<Described<'a>, DecodeError> {
        let descriptor = decoder.descriptor_value()?;
        let constructor = decoder.rest();
        // A chain of descriptors is walked here, not recursed into.
        skip_constructor(decoder)?;
        let data = decoder.rest();
        skip_data(constructor, decoder)?;
        let data = &data[..data.len() - decoder.rest().len()];
        Ok(Described { descriptor, constructor, data })
    }

    /// Appends it as it stands, descriptor and value.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        super::encode::descriptor(out, self.descriptor);
        // The constructor ends with the first byte that is not a descriptor's zero.
        let mut rest = Decoder::new(self.constructor);
        if skip_constructor(&mut rest).is_ok() {
            out.extend_from_slice(&self.constructor[..self.constructor.len() - rest.rest().len()]);
            out.extend_from_slice(self.data);
        }
    }

    /// The value that is described.
    pub fn value(&self) -> Result<Value<'a>, DecodeError> {
        construct(Decoder::new(self.constructor), &mut Decoder::new(self.data))
    }
}

impl PartialEq for Described<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.descriptor == other.descriptor && self.value() == other.value()
    }
}

/// A value whose constructor and data lie apart.
fn construct<'a>(mut constructor: Decoder<'a>, data: &mut Decoder<'a>) -> Result<Value<'a>, DecodeError> {
    match constructor.byte()? {
        0x00 => {
            let descriptor = constructor.descriptor_value()?;
            let inner = constructor.rest();
            let bytes = data.rest();
            skip_data(inner, data)?;
            let bytes = &bytes[..bytes.len() - data.rest().len()];
            Ok(Value::Described(Described { descriptor, constructor: inner, data: bytes }))
        }
        code => data.value_of(code),
    }
}

/// Moves behind a constructor, its descriptors included.
fn skip_constructor(decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
    while decoder.byte()? == 0x00 {
        decoder.descriptor_value()?;
    }
    Ok(())
}

/// Moves behind the data of a value that begins with `constructor`.
fn skip_data<'a>(constructor: &'a [u8], data: &mut Decoder<'a>) -> Result<(), DecodeError> {
    let mut constructor = Decoder::new(constructor);
    loop {
        match constructor.byte()? {
            0x00 => constructor.descriptor_value()?,
            code => return data.value_of(code).map(drop),
        };
    }
}

/// `count` items, or fewer and one error.
fn fused<T>(
    count: u32,
    mut next: impl FnMut() -> Result<T, DecodeError>,
) -> impl Iterator<Item = Result<T, DecodeError>> {
    let mut left = count;
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let item = next();
        if item.is_err() {
            left = 0;
        }
        Some(item)
    })
}
