//! Packets, decoded where they lie and encoded to the end of a buffer [MQTT-3.1.1 2, 3].

mod connect;
mod field;
mod publish;
mod subscribe;

pub use connect::{ConnAck, Connect, ConnectCode, Will};
pub use publish::Publish;
pub use subscribe::{Filters, SubAck, Subscribe, Unsubscribe, encode_subscribe, encode_unsubscribe};

use std::num::NonZeroU16;

use crate::error::DecodeError;
use crate::limits::{BODY_BYTES_MAX, HEADER_BYTES_MAX};
use field::Fields;

/// Tells a packet from the others that wait for an acknowledgement in the same direction; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(NonZeroU16);

impl PacketId {
    /// The identifier of this number; none for zero.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.0.get()
    }
}

/// Quality of service: who must hear of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Qos {
    /// 0: nobody acknowledges.
    AtMostOnce = 0,
    /// 1: acknowledged by PUBACK.
    AtLeastOnce = 1,
    /// 2: decoded, but not spoken by [`crate::Connection`].
    ExactlyOnce = 2,
}

impl Qos {
    /// Of the two bits.
    pub fn of(bits: u8) -> Result<Self, DecodeError> {
        match bits {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(DecodeError::Qos),
        }
    }
}

/// One packet, borrowed from the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A client introduces itself.
    Connect(Connect<'a>),
    /// The server's answer to it.
    ConnAck(ConnAck),
    /// A message.
    Publish(Publish<'a>),
    /// A message with quality of service 1 has arrived.
    PubAck(PacketId),
    /// Of quality of service 2.
    PubRec(PacketId),
    /// Of quality of service 2.
    PubRel(PacketId),
    /// Of quality of service 2.
    PubComp(PacketId),
    /// A client wants messages.
    Subscribe(Subscribe<'a>),
    /// What it gets.
    SubAck(SubAck<'a>),
    /// A client no longer wants messages.
    Unsubscribe(Unsubscribe<'a>),
    /// The answer to that.
    UnsubAck(PacketId),
    /// Is anybody there?
    PingReq,
    /// Yes.
    PingResp,
    /// A client says goodbye.
    Disconnect,
}

/// A packet's fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type and flags; checked.
    pub first: u8,
    /// Bytes of the header itself, 2 to 5.
    pub header_bytes: usize,
    /// Bytes behind it.
    pub body_bytes: usize,
}

impl Header {
    /// Read a fixed header. None: `bytes` end within it.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] as soon as the bytes so far cannot begin a packet.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        check_first(first)?;
        let mut body_bytes = 0;
        for (index, byte) in rest.iter().take(HEADER_BYTES_MAX - 1).enumerate() {
            body_bytes |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(Some(Self { first, header_bytes: index + 2, body_bytes }));
            }
        }
        match rest.len() < HEADER_BYTES_MAX - 1 {
            true => Ok(None),
            false => Err(DecodeError::Length),
        }
    }

    /// Bytes of the whole packet.
    pub fn packet_bytes(&self) -> usize {
        self.header_bytes + self.body_bytes
    }
}

/// Whether a packet may begin so: a known type with the flags that it has.
fn check_first(first: u8) -> Result<(), DecodeError> {
    match (first >> 4, first & 0x0f) {
        (0 | 15, _) => Err(DecodeError::UnknownType(first >> 4)),
        (3, flags) => match (Qos::of(flags >> 1 & 3)?, flags & 8 != 0) {
            (Qos::AtMostOnce, true) => Err(DecodeError::Duplicate),
            _ => Ok(()),
        },
        (6 | 8 | 10, 2) | (1 | 2 | 4 | 5 | 7 | 9 | 11..=14, 0) => Ok(()),
        _ => Err(DecodeError::Flags(first)),
    }
}

impl<'a> Packet<'a> {
    /// Read the body of a packet whose fixed header begins with `first`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: the bytes are no such packet, whole and with nothing behind it.
    pub fn decode(first: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        check_first(first)?;
        let mut fields = Fields(body);
        let packet = match first >> 4 {
            1 => Self::Connect(Connect::decode(&mut fields)?),
            2 => Self::ConnAck(ConnAck::decode(&mut fields)?),
            3 => Self::Publish(Publish::decode(first, &mut fields)?),
            4 => Self::PubAck(fields.id()?),
            5 => Self::PubRec(fields.id()?),
            6 => Self::PubRel(fields.id()?),
            7 => Self::PubComp(fields.id()?),
            8 => Self::Subscribe(Subscribe::decode(&mut fields)?),
            9 => Self::SubAck(SubAck::decode(&mut fields)?),
            10 => Self::Unsubscribe(Unsubscribe::decode(&mut fields)?),
            11 => Self::UnsubAck(fields.id()?),
            12 => Self::PingReq,
            13 => Self::PingResp,
            _ => Self::Disconnect,
        };
        match fields.0.is_empty() {
            true => Ok(packet),
            false => Err(DecodeError::Trailing),
        }
    }

    /// Append the packet to `out`.
    ///
    /// # Panics
    ///
    /// If a text or a will is longer than 65,535 bytes, or the whole longer than [`BODY_BYTES_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let acknowledge = |out: &mut Vec<u8>, first, id: &PacketId| {
            out.extend_from_slice(&[first, 2]);
            out.extend_from_slice(&id.number().to_be_bytes());
        };
        match self {
            Self::Connect(connect) => connect.encode(out),
            Self::ConnAck(answer) => answer.encode(out),
            Self::Publish(publish) => publish.encode(out),
            Self::PubAck(id) => acknowledge(out, 0x40, id),
            Self::PubRec(id) => acknowledge(out, 0x50, id),
            Self::PubRel(id) => acknowledge(out, 0x62, id),
            Self::PubComp(id) => acknowledge(out, 0x70, id),
            Self::Subscribe(subscribe) => subscribe.encode(out),
            Self::SubAck(answer) => answer.encode(out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(out),
            Self::UnsubAck(id) => acknowledge(out, 0xb0, id),
            Self::PingReq => out.extend_from_slice(&[0xc0, 0]),
            Self::PingResp => out.extend_from_slice(&[0xd0, 0]),
            Self::Disconnect => out.extend_from_slice(&[0xe0, 0]),
        }
    }
}

/// Append a fixed header.
fn begin(first: u8, body_bytes: usize, out: &mut Vec<u8>) {
    assert!(body_bytes <= BODY_BYTES_MAX, "a packet's body has at most {BODY_BYTES_MAX} bytes");
    out.reserve(HEADER_BYTES_MAX + body_bytes);
    out.push(first);
    let mut left = body_bytes;
    loop {
        let digit = (left & 0x7f) as u8;
        left >>= 7;
        out.push(if left > 0 { digit | 0x80 } else { digit });
        if left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_at_their_edges() {
        for (length, digits) in [
            (0, vec![0x00]),
            (127, vec![0x7f]),
            (128, vec![0x80, 0x01]),
            (16_383, vec![0xff, 0x7f]),
            (16_384, vec![0x80, 0x80, 0x01]),
            (2_097_152, vec![0x80, 0x80, 0x80, 0x01]),
        ] {
            let mut out = Vec::new();
            begin(0x30, length, &mut out);
            assert_eq!(out[1..], digits);
            let header = Header::decode(&out).unwrap().unwrap();
            assert_eq!((header.body_bytes, header.header_bytes), (length, out.len()));
            assert_eq!(Header::decode(&out[..out.len() - 1]), Ok(None));
        }
        assert_eq!(Header::decode(&[0x30, 0xff, 0xff, 0xff, 0xff]), Err(DecodeError::Length));
        assert_eq!(Header::decode(&[0x30, 0xff, 0xff, 0xff]), Ok(None));
        assert_eq!(Header::decode(&[0x00]), Err(DecodeError::UnknownType(0)), "at the first byte already");
    }
}
