//! The fields of a composite, one after the other, with the types that the specification gives them.

use crate::condition::Error;
use crate::value::{self, Array, DecodeError, Decoder, Map, Value, encode, used_up};

use super::{code, known_code};

/// The fields of a list, from the first. A null field and one that was left out at the end read the same.
pub(crate) struct Fields<'a> {
    decoder: Decoder<'a>,
    left: u32,
}

impl<'a> Fields<'a> {
    /// The fields of the list that comes next.
    #[inline]
    pub(crate) fn decode(decoder: &mut Decoder<'a>) -> Result<Fields<'a>, DecodeError> {
        // A short list: size, of which the count is the first byte, and count.
        if let [0xc0, size, count, rest @ ..] = decoder.rest()
            && let Some(body_bytes) = usize::from(*size).checked_sub(1)
            && usize::from(*count) <= body_bytes
            && let Some((body, rest)) = rest.split_at_checked(body_bytes)
        {
            *decoder = Decoder::new(rest);
            return Ok(Fields { decoder: Decoder::new(body), left: (*count).into() });
        }
        Self::decode_other(decoder)
    }

    fn decode_other(decoder: &mut Decoder<'a>) -> Result<Fields<'a>, DecodeError> {
        match decoder.value()? {
            Value::List(list) => Ok(Fields { decoder: Decoder::new(list.body()), left: list.count() }),
            _ => Err(DecodeError::WrongType("composite")),
        }
    }

    /// The next field's constructor, or `None` when it is null or beyond the end. Its data comes next in the decoder.
    #[inline]
    fn constructor(&mut self) -> Result<Option<u8>, DecodeError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        match self.decoder.byte()? {
            0x40 => Ok(None),
            code => Ok(Some(code)),
        }
    }

    /// Passes over the fields that are left; nothing may lie behind the last one.
    pub(crate) fn end(mut self) -> Result<(), DecodeError> {
        while self.left > 0 {
            self.value()?;
        }
        used_up(&self.decoder, 0)
    }

    /// The next field, whatever its type.
    pub(crate) fn value(&mut self) -> Result<Option<Value<'a>>, DecodeError> {
        match self.constructor()? {
            None => Ok(None),
            Some(code) => self.decoder.value_of(code).map(Some),
        }
    }

    /// Passes over a field that is null or left out. False: it is there.
    #[inline(always)]
    pub(crate) fn is_absent(&mut self) -> bool {
        match self.decoder.rest() {
            _ if self.left == 0 => true,
            [0x40, rest @ ..] => {
                self.pass(rest);
                true
            }
            _ => false,
        }
    }

    /// The same by its encoding.
    fn raw(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let whole = self.decoder.rest();
        match self.value()? {
            None => Ok(None),
            Some(_) => Ok(Some(&whole[..whole.len() - self.decoder.rest().len()])),
        }
    }

    /// Moves over a field that nobody reads, but not over a malformed one.
    pub(crate) fn skip(&mut self) -> Result<(), DecodeError> {
        self.value().map(drop)
    }

    // The fields of transfers and of properties come with nearly every frame: their usual encodings are told apart here, in one
    // look at the bytes and without a call, and the rest elsewhere.

    /// A field was read; `rest` lies behind it.
    #[inline(always)]
    fn pass(&mut self, rest: &'a [u8]) {
        self.left -= 1;
        self.decoder = Decoder::new(rest);
    }

    /// The same with what the field holds.
    #[inline(always)]
    fn take<T>(&mut self, value: T, rest: &'a [u8]) -> Result<T, DecodeError> {
        self.pass(rest);
        Ok(value)
    }

    #[inline(always)]
    pub(crate) fn uint(&mut self, name: &'static str) -> Result<Option<u32>, DecodeError> {
        match self.decoder.rest() {
            _ if self.left == 0 => Ok(None),
            [0x40, rest @ ..] => self.take(None, rest),
            [0x43, rest @ ..] => self.take(Some(0), rest),
            [0x52, value, rest @ ..] => self.take(Some((*value).into()), rest),
            [0x70, a, b, c, d, rest @ ..] => self.take(Some(u32::from_be_bytes([*a, *b, *c, *d])), rest),
            _ => self.other_uint(name),
        }
    }

    #[cold]
    fn other_uint(&mut self, name: &'static str) -> Result<Option<u32>, DecodeError> {
        self.value()?.map_or(Ok(None), |value| integer(value, name))
    }

    pub(crate) fn ulong(&mut self, name: &'static str) -> Result<Option<u64>, DecodeError> {
        match self.value()? {
            None => Ok(None),
            Some(Value::Ulong(value)) => Ok(Some(value)),
            Some(other) => integer(other, name),
        }
    }

    pub(crate) fn ushort(&mut self, name: &'static str) -> Result<Option<u16>, DecodeError> {
        match self.value()? {
            None => Ok(None),
            Some(other) => integer(other, name),
        }
    }

    #[inline]
    pub(crate) fn ubyte(&mut self, name: &'static str) -> Result<Option<u8>, DecodeError> {
        match self.constructor()? {
            None => Ok(None),
            Some(0x50) => self.decoder.byte().map(Some),
            Some(code) => integer(self.decoder.value_of(code)?, name),
        }
    }

    #[inline(always)]
    pub(crate) fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, DecodeError> {
        match self.decoder.rest() {
            _ if self.left == 0 => Ok(None),
            [0x40, rest @ ..] => self.take(None, rest),
            [0x41, rest @ ..] => self.take(Some(true), rest),
            [0x42, rest @ ..] => self.take(Some(false), rest),
            _ => self.other_boolean(name),
        }
    }

    #[cold]
    fn other_boolean(&mut self, name: &'static str) -> Result<Option<bool>, DecodeError> {
        match self.value()? {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(DecodeError::WrongType(name)),
        }
    }

    #[inline]
    pub(crate) fn timestamp(&mut self, name: &'static str) -> Result<Option<i64>, DecodeError> {
        match self.constructor()? {
            None => Ok(None),
            Some(0x83) => Ok(Some(i64::from_be_bytes(self.decoder.fixed()?))),
            Some(_) => Err(DecodeError::WrongType(name)),
        }
    }

    #[inline(always)]
    pub(crate) fn binary(&mut self, name: &'static str) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.decoder.rest() {
            _ if self.left == 0 => Ok(None),
            [0x40, rest @ ..] => self.take(None, rest),
            [0xa0, length, rest @ ..] if rest.len() >= usize::from(*length) => {
                let (value, rest) = rest.split_at((*length).into());
                self.take(Some(value), rest)
            }
            _ => self.other_binary(name),
        }
    }

    #[cold]
    fn other_binary(&mut self, name: &'static str) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.value()? {
            None => Ok(None),
            Some(Value::Binary(value)) => Ok(Some(value)),
            Some(_) => Err(DecodeError::WrongType(name)),
        }
    }

    /// A string; a symbol in its place is taken too, and the other way round in [`Fields::symbol`]: clients mix them up, and
    /// nothing depends on the difference.
    #[inline]
    pub(crate) fn string(&mut self, name: &'static str) -> Result<Option<&'a str>, DecodeError> {
        match self.constructor()? {
            None => Ok(None),
            Some(0xa1) => value::utf8(self.decoder.variable8()?).map(Some),
            Some(0xa3) => value::ascii(self.decoder.variable8()?).map(Some),
            Some(code) => match self.decoder.value_of(code)?.as_text() {
                Some(text) => Ok(Some(text)),
                None => Err(DecodeError::WrongType(name)),
            },
        }
    }

    pub(crate) fn symbol(&mut self, name: &'static str) -> Result<Option<&'a str>, DecodeError> {
        self.string(name)
    }

    /// A field that may hold several symbols.
    pub(crate) fn symbols(&mut self, name: &'static str) -> Result<Symbols<'a>, DecodeError> {
        match self.value()? {
            None => Ok(Symbols::Absent),
            Some(Value::Symbol(symbol)) => Ok(Symbols::One(symbol)),
            Some(Value::Array(array)) => {
                match array.iter().all(|item| matches!(item, Ok(Value::Symbol(_)))) {
                    true => Ok(Symbols::Array(array)),
                    false => Err(DecodeError::WrongType(name)),
                }
            }
            Some(_) => Err(DecodeError::WrongType(name)),
        }
    }

    /// A map, checked through and through: it outlives the frame in many callers' hands.
    pub(crate) fn map(&mut self, name: &'static str) -> Result<Option<Map<'a>>, DecodeError> {
        match self.value()? {
            None => Ok(None),
            Some(Value::Map(map)) => map.check().map(|()| Some(map)),
            Some(_) => Err(DecodeError::WrongType(name)),
        }
    }

    /// A described list, opened.
    pub(crate) fn composite(&mut self) -> Result<Option<(u8, Fields<'a>)>, DecodeError> {
        match self.raw()? {
            None => Ok(None),
            Some(raw) => {
                let mut decoder = Decoder::new(raw);
                let code = known_code(decoder.descriptor()?).ok_or(DecodeError::UnexpectedDescriptor)?;
                Ok(Some((code, Fields::decode(&mut decoder)?)))
            }
        }
    }

    /// An error.
    pub(crate) fn error(&mut self) -> Result<Option<Error<'a>>, DecodeError> {
        let Some((code, mut fields)) = self.composite()? else { return Ok(None) };
        if code != code::ERROR {
            return Err(DecodeError::UnexpectedDescriptor);
        }
        Ok(Some(Error {
            condition: fields.symbol("condition")?.ok_or(DecodeError::MissingField("condition"))?.into(),
            description: fields.string("description")?.map(Into::into),
            info: match fields.raw()? {
                None => None,
                Some(raw) => {
                    Map::from_encoded(raw)?.check()?;
                    Some(raw.into())
                }
            },
        }))
    }
}

/// An integer in another type than the specification's: clients have written uints as ulongs, and nothing depends on it.
fn integer<T: TryFrom<i64>>(value: Value<'_>, name: &'static str) -> Result<Option<T>, DecodeError> {
    match value.as_i64().map(T::try_from) {
        Some(Ok(value)) => Ok(Some(value)),
        _ => Err(DecodeError::WrongType(name)),
    }
}

/// A field of several symbols: capabilities, locales, outcomes, mechanisms.
#[derive(Clone, Copy, Debug, Default)]
pub enum Symbols<'a> {
    /// null.
    #[default]
    Absent,
    /// A single symbol, which the specification allows in place of an array of one.
    One(&'a str),
    /// An array as it travelled; every element is a symbol.
    Array(Array<'a>),
    /// Symbols to be written, as an array.
    Listed(&'a [&'a str]),
}

impl<'a> Symbols<'a> {
    /// The symbols.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let (one, array, listed) = match *self {
            Symbols::Absent => (None, None, None),
            Symbols::One(symbol) => (Some(symbol), None, None),
            Symbols::Array(array) => (None, Some(array), None),
            Symbols::Listed(symbols) => (None, None, Some(symbols)),
        };
        let array = array.into_iter().flat_map(|array| array.iter());
        let array = array.filter_map(|item| item.ok().and_then(|value| value.as_text()));
        one.into_iter().chain(array).chain(listed.into_iter().flatten().copied())
    }

    /// Whether `symbol` is among them.
    pub fn contains(&self, symbol: &str) -> bool {
        self.iter().any(|other| other == symbol)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Symbols::Absent => encode::null(out),
            Symbols::One(symbol) => encode::symbol(out, symbol),
            Symbols::Array(array) => encode::array(out, array),
            Symbols::Listed(symbols) => encode::symbol_array(out, symbols.iter().copied()),
        }
    }
}

impl PartialEq for Symbols<'_> {
    fn eq(&self, other: &Self) -> bool {
        matches!(self, Symbols::Absent) == matches!(other, Symbols::Absent) && self.iter().eq(other.iter())
    }
}

/// Writes `value` by `write`, or null.
pub(super) fn optional<T>(out: &mut Vec<u8>, value: Option<T>, write: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        Some(value) => write(out, value),
        None => encode::null(out),
    }
}

/// Writes an error with its three fields, or null.
pub(crate) fn error(out: &mut Vec<u8>, error: Option<&Error<'_>>) {
    let Some(error) = error else { return encode::null(out) };
    super::describe(out, code::ERROR);
    let list = encode::begin_list(out);
    encode::symbol(out, &error.condition);
    optional(out, error.description.as_deref(), encode::string);
    optional(out, error.info.as_deref(), |out, info: &[u8]| out.extend_from_slice(info));
    list.end(out, 3);
}
