//! SUBSCRIBE, UNSUBSCRIBE and their answers [MQTT-3.1.1 3.8 to 3.10].

use super::field::{Fields, field_bytes, put_binary};
use super::{PacketId, Qos, begin};
use crate::error::DecodeError;
use crate::limits::FILTER_COUNT_MAX;
use crate::topic::is_filter;

/// A client wants messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// For the answer.
    pub id: PacketId,
    /// Which ones, each with the highest quality of service that it wants.
    pub filters: Filters<'a>,
}

/// A client no longer wants messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// For the answer.
    pub id: PacketId,
    /// Which ones. Their quality of service says nothing.
    pub filters: Filters<'a>,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Of the question.
    pub id: PacketId,
    /// For each filter the quality of service granted, or [`SubAck::REFUSED`].
    pub codes: &'a [u8],
}

/// Topic filters, 1 to [`FILTER_COUNT_MAX`], checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filters<'a> {
    body: &'a [u8],
    have_qos: bool,
}

impl<'a> Filters<'a> {
    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Qos)> + use<'a> {
        let mut fields = Fields(self.body);
        let have_qos = self.have_qos;
        std::iter::from_fn(move || next_filter(&mut fields, have_qos).ok())
    }

    fn decode(fields: &mut Fields<'a>, have_qos: bool) -> Result<Self, DecodeError> {
        let body = fields.0;
        let mut count = 0;
        while !fields.0.is_empty() {
            next_filter(fields, have_qos)?;
            count += 1;
        }
        match count {
            1..=FILTER_COUNT_MAX => Ok(Self { body, have_qos }),
            _ => Err(DecodeError::FilterCount),
        }
    }
}

fn next_filter<'a>(fields: &mut Fields<'a>, has_qos: bool) -> Result<(&'a str, Qos), DecodeError> {
    let text = fields.text()?;
    if !is_filter(text) {
        return Err(DecodeError::Filter);
    }
    let qos = if has_qos { Qos::of(fields.byte()?)? } else { Qos::AtMostOnce };
    Ok((text, qos))
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        Ok(Self { id: fields.id()?, filters: Filters::decode(fields, true)? })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_filters(0x82, self.id, self.filters.body, out);
    }
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        Ok(Self { id: fields.id()?, filters: Filters::decode(fields, false)? })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_filters(0xa2, self.id, self.filters.body, out);
    }
}

fn put_filters(first: u8, id: PacketId, body: &[u8], out: &mut Vec<u8>) {
    begin(first, 2 + body.len(), out);
    out.extend_from_slice(&id.number().to_be_bytes());
    out.extend_from_slice(body);
}

/// Append a SUBSCRIBE to these filters.
///
/// # Panics
///
/// If a filter is longer than 65,535 bytes.
pub fn encode_subscribe(id: PacketId, filters: &[(&str, Qos)], out: &mut Vec<u8>) {
    begin(0x82, 2 + filters.iter().map(|(filter, _)| field_bytes(filter.as_bytes()) + 1).sum::<usize>(), out);
    out.extend_from_slice(&id.number().to_be_bytes());
    for (filter, qos) in filters {
        put_binary(filter.as_bytes(), out);
        out.push(*qos as u8);
    }
}

/// Append an UNSUBSCRIBE from these filters.
///
/// # Panics
///
/// If a filter is longer than 65,535 bytes.
pub fn encode_unsubscribe(id: PacketId, filters: &[&str], out: &mut Vec<u8>) {
    begin(0xa2, 2 + filters.iter().map(|filter| field_bytes(filter.as_bytes())).sum::<usize>(), out);
    out.extend_from_slice(&id.number().to_be_bytes());
    for filter in filters {
        put_binary(filter.as_bytes(), out);
    }
}

impl<'a> SubAck<'a> {
    /// The code of a filter that is refused [MQTT-3.9.3-2].
    pub const REFUSED: u8 = 0x80;

    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        let id = fields.id()?;
        let codes = fields.rest();
        match codes.iter().find(|code| !matches!(code, 0..=2 | &&Self::REFUSED)) {
            Some(code) => Err(DecodeError::ReturnCode(*code)),
            None if codes.is_empty() => Err(DecodeError::Cut),
            None => Ok(Self { id, codes }),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_filters(0x90, self.id, self.codes, out);
    }
}
