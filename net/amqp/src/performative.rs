//! The nine performatives and what they carry, borrowed from their frame [AMQP 2.7, 3.5].
//!
//! `encode` writes every field up to the last, nulls included, as list8 or list32 behind a smallulong descriptor: clients
//! that decode by position depend on it. `decode` takes whatever the specification allows.

mod delivery;
mod fields;
mod lifecycle;
mod link;
mod state;
mod terminus;

pub use delivery::{Disposition, Flow, Transfer};
pub(crate) use fields::Fields;
pub use fields::Symbols;
pub use lifecycle::{Begin, Close, End, Open};
pub use link::{Attach, Detach, LinkRole, ReceiverSettleMode, SenderSettleMode};
pub use state::DeliveryState;
pub use terminus::{Source, Target};

use crate::value::{DecodeError, Decoder, Descriptor};

/// Descriptor codes of performatives, SASL frames, termini, states and message sections.
pub mod code {
    /// open.
    pub const OPEN: u8 = 0x10;
    /// begin.
    pub const BEGIN: u8 = 0x11;
    /// attach.
    pub const ATTACH: u8 = 0x12;
    /// flow.
    pub const FLOW: u8 = 0x13;
    /// transfer.
    pub const TRANSFER: u8 = 0x14;
    /// disposition.
    pub const DISPOSITION: u8 = 0x15;
    /// detach.
    pub const DETACH: u8 = 0x16;
    /// end.
    pub const END: u8 = 0x17;
    /// close.
    pub const CLOSE: u8 = 0x18;
    /// error.
    pub const ERROR: u8 = 0x1d;
    /// received.
    pub const RECEIVED: u8 = 0x23;
    /// accepted.
    pub const ACCEPTED: u8 = 0x24;
    /// rejected.
    pub const REJECTED: u8 = 0x25;
    /// released.
    pub const RELEASED: u8 = 0x26;
    /// modified.
    pub const MODIFIED: u8 = 0x27;
    /// source.
    pub const SOURCE: u8 = 0x28;
    /// target.
    pub const TARGET: u8 = 0x29;
    /// The coordinator of transactions, which takes the place of a target.
    pub const COORDINATOR: u8 = 0x30;
    /// sasl-mechanisms.
    pub const SASL_MECHANISMS: u8 = 0x40;
    /// sasl-init.
    pub const SASL_INIT: u8 = 0x41;
    /// sasl-outcome.
    pub const SASL_OUTCOME: u8 = 0x44;
    /// header section.
    pub const HEADER: u8 = 0x70;
    /// delivery-annotations section.
    pub const DELIVERY_ANNOTATIONS: u8 = 0x71;
    /// message-annotations section.
    pub const MESSAGE_ANNOTATIONS: u8 = 0x72;
    /// properties section.
    pub const PROPERTIES: u8 = 0x73;
    /// application-properties section.
    pub const APPLICATION_PROPERTIES: u8 = 0x74;
    /// data section.
    pub const DATA: u8 = 0x75;
    /// amqp-sequence section.
    pub const AMQP_SEQUENCE: u8 = 0x76;
    /// amqp-value section.
    pub const AMQP_VALUE: u8 = 0x77;
    /// footer section.
    pub const FOOTER: u8 = 0x78;
}

/// Symbolic names of the descriptors above; few peers write them, all may.
const NAMES: [(&str, u8); 29] = [
    ("amqp:open:list", code::OPEN),
    ("amqp:begin:list", code::BEGIN),
    ("amqp:attach:list", code::ATTACH),
    ("amqp:flow:list", code::FLOW),
    ("amqp:transfer:list", code::TRANSFER),
    ("amqp:disposition:list", code::DISPOSITION),
    ("amqp:detach:list", code::DETACH),
    ("amqp:end:list", code::END),
    ("amqp:close:list", code::CLOSE),
    ("amqp:error:list", code::ERROR),
    ("amqp:received:list", code::RECEIVED),
    ("amqp:accepted:list", code::ACCEPTED),
    ("amqp:rejected:list", code::REJECTED),
    ("amqp:released:list", code::RELEASED),
    ("amqp:modified:list", code::MODIFIED),
    ("amqp:source:list", code::SOURCE),
    ("amqp:target:list", code::TARGET),
    ("amqp:sasl-mechanisms:list", code::SASL_MECHANISMS),
    ("amqp:sasl-init:list", code::SASL_INIT),
    ("amqp:sasl-outcome:list", code::SASL_OUTCOME),
    ("amqp:header:list", code::HEADER),
    ("amqp:delivery-annotations:map", code::DELIVERY_ANNOTATIONS),
    ("amqp:message-annotations:map", code::MESSAGE_ANNOTATIONS),
    ("amqp:properties:list", code::PROPERTIES),
    ("amqp:application-properties:map", code::APPLICATION_PROPERTIES),
    ("amqp:data:binary", code::DATA),
    ("amqp:amqp-sequence:list", code::AMQP_SEQUENCE),
    ("amqp:amqp-value:*", code::AMQP_VALUE),
    ("amqp:footer:map", code::FOOTER),
];

/// The code of a descriptor of the specification, whichever way it is written.
pub(crate) fn known_code(descriptor: Descriptor<'_>) -> Option<u8> {
    match descriptor {
        Descriptor::Code(code) => u8::try_from(code).ok(),
        Descriptor::Symbol("amqp:coordinator:list") => Some(code::COORDINATOR),
        Descriptor::Symbol(symbol) => NAMES.iter().find(|(name, _)| *name == symbol).map(|(_, code)| *code),
    }
}

/// One performative and, behind a transfer, the payload.
#[derive(Clone, Debug, PartialEq)]
pub enum Performative<'a> {
    /// open.
    Open(Box<Open<'a>>),
    /// begin.
    Begin(Box<Begin<'a>>),
    /// attach.
    Attach(Box<Attach<'a>>),
    /// flow.
    Flow(Flow<'a>),
    /// transfer, and the part of the message in this frame.
    Transfer(Transfer<'a>, &'a [u8]),
    /// disposition.
    Disposition(Disposition<'a>),
    /// detach.
    Detach(Detach<'a>),
    /// end.
    End(End<'a>),
    /// close.
    Close(Close<'a>),
}

impl<'a> Performative<'a> {
    /// Decodes the body of an AMQP frame that is not empty.
    pub fn decode(body: &'a [u8]) -> Result<Performative<'a>, DecodeError> {
        let mut decoder = Decoder::new(body);
        let code = known_code(decoder.descriptor()?).ok_or(DecodeError::UnexpectedDescriptor)?;
        let mut fields = Fields::decode(&mut decoder)?;
        Ok(match code {
            code::OPEN => Performative::Open(Box::new(Open::decode(&mut fields)?)),
            code::BEGIN => Performative::Begin(Box::new(Begin::decode(&mut fields)?)),
            code::ATTACH => Performative::Attach(Box::new(Attach::decode(&mut fields)?)),
            code::FLOW => Performative::Flow(Flow::decode(&mut fields)?),
            code::TRANSFER => Performative::Transfer(Transfer::decode(&mut fields)?, decoder.rest()),
            code::DISPOSITION => Performative::Disposition(Disposition::decode(&mut fields)?),
            code::DETACH => Performative::Detach(Detach::decode(&mut fields)?),
            code::END => Performative::End(End::decode(&mut fields)?),
            code::CLOSE => Performative::Close(Close::decode(&mut fields)?),
            _ => return Err(DecodeError::UnexpectedDescriptor),
        })
    }
}

/// Writes a smallulong descriptor.
pub(crate) fn describe(out: &mut Vec<u8>, code: u8) {
    out.extend_from_slice(&[0x00, 0x53, code]);
}
