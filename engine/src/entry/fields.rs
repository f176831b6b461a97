//! The fields of stored entries, read and written: little-endian integers, and texts behind their length in one byte.

use registry::{DeviceId, GenerationId};

use super::EntryError;
use crate::request::{Ack, Outcome, Receipt, SequenceNumber, Subscription};

/// Reads field after field.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn byte(&mut self) -> Result<u8, EntryError> {
        let (first, rest) = self.0.split_first().ok_or(EntryError::Length)?;
        self.0 = rest;
        Ok(*first)
    }

    pub fn count(&mut self) -> Result<u32, EntryError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(EntryError::Length)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*first))
    }

    pub fn number(&mut self) -> Result<u64, EntryError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(EntryError::Length)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*first))
    }

    pub fn sequence(&mut self) -> Result<SequenceNumber, EntryError> {
        Ok(SequenceNumber(self.number()?))
    }

    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], EntryError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(EntryError::Length)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub fn text(&mut self) -> Result<&'a str, EntryError> {
        let length = self.byte()?;
        std::str::from_utf8(self.bytes(usize::from(length))?).map_err(|_| EntryError::Value)
    }

    pub fn device(&mut self) -> Result<DeviceId, EntryError> {
        DeviceId::parse(self.text()?).map_err(|_| EntryError::Value)
    }

    pub fn ack(&mut self) -> Result<Ack, EntryError> {
        let code = self.byte()?;
        let all = [Ack::None, Ack::Positive, Ack::Negative, Ack::Full];
        all.into_iter().find(|ack| ack_code(*ack) == code).ok_or(EntryError::Value)
    }

    pub fn outcome(&mut self) -> Result<Outcome, EntryError> {
        let code = self.byte()?;
        let all = [
            Outcome::Success,
            Outcome::Expired,
            Outcome::DeliveryCountExceeded,
            Outcome::Rejected,
            Outcome::Purged,
        ];
        all.into_iter().find(|outcome| outcome_code(*outcome) == code).ok_or(EntryError::Value)
    }

    pub fn flag(&mut self) -> Result<bool, EntryError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(EntryError::Value),
        }
    }

    pub fn receipt(&mut self) -> Result<Receipt, EntryError> {
        Ok(Receipt {
            device: self.device()?,
            generation: GenerationId(self.number()?),
            outcome: self.outcome()?,
            at_ms: self.number()?,
            message_id: self.text()?.to_owned(),
        })
    }

    pub fn end(&self) -> Result<(), EntryError> {
        if self.0.is_empty() { Ok(()) } else { Err(EntryError::Length) }
    }
}

pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("what is counted lies in memory and has a limit");
    out.extend_from_slice(&count.to_le_bytes());
}

pub(super) fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("ids are shorter than 256 bytes"));
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_receipt(out: &mut Vec<u8>, receipt: &Receipt) {
    put_text(out, receipt.device.as_str());
    put_number(out, receipt.generation.0);
    out.push(outcome_code(receipt.outcome));
    put_number(out, receipt.at_ms);
    put_text(out, &receipt.message_id);
}

/// What a device has subscribed to: what (1), and the address behind it, whose length is the caller's to say.
pub(super) fn put_subscription(out: &mut Vec<u8>, subscription: Option<&Subscription>) {
    match subscription {
        None => out.push(0),
        Some(Subscription { address, needs_ack }) => {
            out.push(1 + u8::from(*needs_ack));
            out.extend_from_slice(address.as_bytes());
        }
    }
}

/// What [`put_subscription`] wrote.
pub(super) fn subscription(code: u8, address: &[u8]) -> Result<Option<Subscription>, EntryError> {
    let address = std::str::from_utf8(address).map_err(|_| EntryError::Value)?;
    match code {
        0 if address.is_empty() => Ok(None),
        0 => Err(EntryError::Length),
        1 | 2 => Ok(Some(Subscription { address: address.into(), needs_ack: code == 2 })),
        _ => Err(EntryError::Value),
    }
}

pub(super) const fn ack_code(ack: Ack) -> u8 {
    match ack {
        Ack::None => 0,
        Ack::Positive => 1,
        Ack::Negative => 2,
        Ack::Full => 3,
    }
}

pub(super) const fn outcome_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Success => 0,
        Outcome::Expired => 1,
        Outcome::DeliveryCountExceeded => 2,
        Outcome::Rejected => 3,
        Outcome::Purged => 4,
    }
}
