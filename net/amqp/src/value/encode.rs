//! Values written to the end of a buffer, each in its shortest form.
//!
//! ```
//! use net_amqp::value::{encode, Map, Value};
//!
//! let mut bytes = Vec::new();
//! let map = encode::begin_map(&mut bytes);
//! encode::symbol(&mut bytes, "port");
//! encode::int(&mut bytes, 5671);
//! map.end(&mut bytes, 2); // two values: one key and its value
//! assert_eq!(Map::from_encoded(&bytes).unwrap().find("port"), Some(Value::Int(5671)));
//! ```

use super::{Array, Descriptor, List, Map, Value};

/// null.
pub fn null(out: &mut Vec<u8>) {
    out.push(0x40);
}

/// boolean.
pub fn boolean(out: &mut Vec<u8>, value: bool) {
    out.push(if value { 0x41 } else { 0x42 });
}

/// ubyte.
pub fn ubyte(out: &mut Vec<u8>, value: u8) {
    out.extend_from_slice(&[0x50, value]);
}

/// ushort.
pub fn ushort(out: &mut Vec<u8>, value: u16) {
    fixed(out, 0x60, value.to_be_bytes());
}

/// uint.
pub fn uint(out: &mut Vec<u8>, value: u32) {
    match value {
        0 => out.push(0x43),
        1..=0xff => out.extend_from_slice(&[0x52, value as u8]),
        _ => fixed(out, 0x70, value.to_be_bytes()),
    }
}

/// ulong.
pub fn ulong(out: &mut Vec<u8>, value: u64) {
    match value {
        0 => out.push(0x44),
        1..=0xff => out.extend_from_slice(&[0x53, value as u8]),
        _ => fixed(out, 0x80, value.to_be_bytes()),
    }
}

/// int.
pub fn int(out: &mut Vec<u8>, value: i32) {
    match i8::try_from(value) {
        Ok(small) => out.extend_from_slice(&[0x54, small as u8]),
        Err(_) => fixed(out, 0x71, value.to_be_bytes()),
    }
}

/// long.
pub fn long(out: &mut Vec<u8>, value: i64) {
    match i8::try_from(value) {
        Ok(small) => out.extend_from_slice(&[0x55, small as u8]),
        Err(_) => fixed(out, 0x81, value.to_be_bytes()),
    }
}

/// timestamp: milliseconds since 1970, UTC.
pub fn timestamp(out: &mut Vec<u8>, value_ms: i64) {
    fixed(out, 0x83, value_ms.to_be_bytes());
}

/// uuid, big end first.
pub fn uuid(out: &mut Vec<u8>, value: [u8; 16]) {
    fixed(out, 0x98, value);
}

/// binary of less than 4 GiB.
pub fn binary(out: &mut Vec<u8>, value: &[u8]) {
    variable(out, 0xa0, value);
}

/// string.
pub fn string(out: &mut Vec<u8>, value: &str) {
    variable(out, 0xa1, value.as_bytes());
}

/// symbol; what is not ASCII becomes `?`, because a symbol cannot hold it.
pub fn symbol(out: &mut Vec<u8>, value: &str) {
    if value.is_ascii() {
        variable(out, 0xa3, value.as_bytes());
    } else {
        let ascii: String = value.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        variable(out, 0xa3, ascii.as_bytes());
    }
}

/// The encoding of a short symbol that is known beforehand, for [`symbol_constant!`](crate::symbol_constant).
pub const fn symbol_constant<const N: usize>(name: &str) -> [u8; N] {
    assert!(name.is_ascii() && name.len() < 256 && N == name.len() + 2);
    let mut bytes = [0; N];
    bytes[0] = 0xa3;
    bytes[1] = name.len() as u8;
    let (_, rest) = bytes.split_at_mut(2);
    rest.copy_from_slice(name.as_bytes());
    bytes
}

/// A symbol of less than 256 bytes as its encoding, made when the program is: for names that stand in every message.
///
/// ```
/// use net_amqp::value::encode;
///
/// let mut bytes = Vec::new();
/// encode::symbol(&mut bytes, "x-opt-offset");
/// assert_eq!(net_amqp::symbol_constant!("x-opt-offset"), &bytes[..]);
/// ```
#[macro_export]
macro_rules! symbol_constant {
    ($name:literal) => {
        const { &$crate::value::encode::symbol_constant::<{ $name.len() + 2 }>($name) as &[u8] }
    };
}

/// The descriptor of the value that is written next.
pub fn descriptor(out: &mut Vec<u8>, descriptor: Descriptor<'_>) {
    out.push(0x00);
    match descriptor {
        Descriptor::Code(code) => ulong(out, code),
        Descriptor::Symbol(name) => symbol(out, name),
    }
}

/// An array of symbols, an array even for one or none of them.
pub fn symbol_array<'s>(out: &mut Vec<u8>, symbols: impl IntoIterator<Item = &'s str>) {
    let array = begin_array(out, 0xb3);
    let mut count = 0;
    for symbol in symbols {
        let ascii = if symbol.is_ascii() { symbol } else { "?" };
        out.extend_from_slice(&(ascii.len() as u32).to_be_bytes());
        out.extend_from_slice(ascii.as_bytes());
        count += 1;
    }
    array.end(out, count);
}

/// An array of strings.
pub fn string_array<'s>(out: &mut Vec<u8>, strings: impl IntoIterator<Item = &'s str>) {
    let array = begin_array(out, 0xb1);
    let mut count = 0;
    for string in strings {
        out.extend_from_slice(&(string.len() as u32).to_be_bytes());
        out.extend_from_slice(string.as_bytes());
        count += 1;
    }
    array.end(out, count);
}

/// Begins a list; its elements are whatever is appended until [`Compound::end`].
pub fn begin_list(out: &mut Vec<u8>) -> Compound {
    Compound::begin(out, 0xd0)
}

/// Begins a map; append key, value, key, value ... until [`Compound::end`].
pub fn begin_map(out: &mut Vec<u8>) -> Compound {
    Compound::begin(out, 0xd1)
}

/// Begins an array of elements with the constructor `element`; append the elements without it.
pub fn begin_array(out: &mut Vec<u8>, element: u8) -> Compound {
    let compound = Compound::begin(out, 0xf0);
    out.push(element);
    compound
}

/// Begins a list of less than 255 bytes, in the short form.
pub(crate) fn begin_list8(out: &mut Vec<u8>) -> Compound8 {
    out.extend_from_slice(&[0xc0, 0, 0]);
    Compound8 { body: out.len() }
}

/// A compound that is being written. Its size and count are filled in at the end.
#[derive(Debug)]
#[must_use = "a compound is not valid before its end is written"]
pub struct Compound {
    /// Where the bytes behind size and count begin.
    body: usize,
}

impl Compound {
    fn begin(out: &mut Vec<u8>, code: u8) -> Compound {
        out.push(code);
        out.extend_from_slice(&[0; 8]);
        Compound { body: out.len() }
    }

    /// Ends it. `count` is the number of values appended: in a map keys and values together.
    pub fn end(self, out: &mut [u8], count: u32) {
        let size = (out.len() - self.body + 4) as u32;
        out[self.body - 8..self.body - 4].copy_from_slice(&size.to_be_bytes());
        out[self.body - 4..self.body].copy_from_slice(&count.to_be_bytes());
    }
}

/// A short list that is being written.
#[derive(Debug)]
#[must_use = "a compound is not valid before its end is written"]
pub(crate) struct Compound8 {
    body: usize,
}

impl Compound8 {
    pub(crate) fn end(self, out: &mut [u8], count: u8) {
        let size = u8::try_from(out.len() - self.body + 1)
            .expect("short lists hold a bounded number of short fields");
        out[self.body - 2] = size;
        out[self.body - 1] = count;
    }
}

impl Value<'_> {
    /// Appends the value in its shortest form; the inside of compounds is copied as it stands.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Value::Null => null(out),
            Value::Bool(value) => boolean(out, value),
            Value::Ubyte(value) => ubyte(out, value),
            Value::Ushort(value) => ushort(out, value),
            Value::Uint(value) => uint(out, value),
            Value::Ulong(value) => ulong(out, value),
            Value::Byte(value) => out.extend_from_slice(&[0x51, value as u8]),
            Value::Short(value) => fixed(out, 0x61, value.to_be_bytes()),
            Value::Int(value) => int(out, value),
            Value::Long(value) => long(out, value),
            Value::Float(value) => fixed(out, 0x72, value.to_be_bytes()),
            Value::Double(value) => fixed(out, 0x82, value.to_be_bytes()),
            Value::Decimal32(bytes) => fixed(out, 0x74, bytes),
            Value::Decimal64(bytes) => fixed(out, 0x84, bytes),
            Value::Decimal128(bytes) => fixed(out, 0x94, bytes),
            Value::Char(value) => fixed(out, 0x73, u32::from(value).to_be_bytes()),
            Value::Timestamp(value) => timestamp(out, value),
            Value::Uuid(bytes) => uuid(out, bytes),
            Value::Binary(bytes) => binary(out, bytes),
            Value::String(text) => string(out, text),
            Value::Symbol(text) => symbol(out, text),
            Value::List(ref value) => list(out, value),
            Value::Map(ref value) => map(out, value),
            Value::Array(ref value) => array(out, value),
            Value::Described(ref value) => value.encode(out),
        }
    }
}

/// list, its elements as they stand.
pub fn list(out: &mut Vec<u8>, list: &List<'_>) {
    if list.count() == 0 {
        out.push(0x45);
    } else {
        compound(out, 0xc0, list.count(), list.body());
    }
}

/// map, its entries as they stand.
pub fn map(out: &mut Vec<u8>, map: &Map<'_>) {
    compound(out, 0xc1, map.value_count(), map.body());
}

/// array, its elements as they stand.
pub fn array(out: &mut Vec<u8>, array: &Array<'_>) {
    compound(out, 0xe0, array.count(), array.body());
}

fn fixed<const N: usize>(out: &mut Vec<u8>, code: u8, bytes: [u8; N]) {
    out.push(code);
    out.extend_from_slice(&bytes);
}

/// A variable width value: `code` is its short form's constructor, the long form's lies 0x10 above.
fn variable(out: &mut Vec<u8>, code: u8, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(length) => out.extend_from_slice(&[code, length]),
        Err(_) => fixed(out, code + 0x10, (bytes.len() as u32).to_be_bytes()),
    }
    out.extend_from_slice(bytes);
}

/// A compound or array with its body as it stands; codes as in [`variable`].
fn compound(out: &mut Vec<u8>, code: u8, count: u32, body: &[u8]) {
    match (u8::try_from(body.len() + 1), u8::try_from(count)) {
        (Ok(size), Ok(count)) => out.extend_from_slice(&[code, size, count]),
        _ => {
            fixed(out, code + 0x10, (body.len() as u32 + 4).to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
        }
    }
    out.extend_from_slice(body);
}
