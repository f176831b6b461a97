//! Delivery states and outcomes [AMQP 3.4].

use std::borrow::Cow;

use super::fields::{error, optional};
use super::{Fields, code, describe};
use crate::condition::Error;
use crate::value::{DecodeError, encode};

/// The state of a delivery; all but `Received` and `Unknown` are outcomes.
#[derive(Clone, Debug, PartialEq)]
pub enum DeliveryState<'a> {
    /// How far a delivery came; not an outcome.
    Received {
        /// Section that was reached.
        section_number: u32,
        /// Bytes of it.
        section_offset: u64,
    },
    /// It was taken.
    Accepted,
    /// It is invalid. Always give an error: N-DEV counts a rejection without one as success.
    Rejected(Option<Error<'a>>),
    /// It was not, and will not be, acted upon.
    Released,
    /// Like released, with changes.
    Modified {
        /// Whether the attempt counts as failed.
        delivery_failed: bool,
        /// Whether it is not to come back to this link.
        undeliverable_here: bool,
        /// The encoded map of annotations, constructor included.
        annotations: Option<Cow<'a, [u8]>>,
    },
    /// A state of an extension (transactions), which nothing here knows. Written as null.
    Unknown,
}

impl<'a> DeliveryState<'a> {
    #[inline]
    pub(crate) fn decode(fields: &mut Fields<'a>) -> Result<Option<DeliveryState<'a>>, DecodeError> {
        if fields.is_absent() { Ok(None) } else { Self::decode_present(fields) }
    }

    fn decode_present(fields: &mut Fields<'a>) -> Result<Option<DeliveryState<'a>>, DecodeError> {
        let Some((code, mut fields)) = fields.composite()? else { return Ok(None) };
        Ok(Some(match code {
            code::RECEIVED => DeliveryState::Received {
                section_number: fields
                    .uint("section-number")?
                    .ok_or(DecodeError::MissingField("section-number"))?,
                section_offset: fields
                    .ulong("section-offset")?
                    .ok_or(DecodeError::MissingField("section-offset"))?,
            },
            code::ACCEPTED => DeliveryState::Accepted,
            code::REJECTED => DeliveryState::Rejected(fields.error()?),
            code::RELEASED => DeliveryState::Released,
            code::MODIFIED => DeliveryState::Modified {
                delivery_failed: fields.boolean("delivery-failed")?.unwrap_or(false),
                undeliverable_here: fields.boolean("undeliverable-here")?.unwrap_or(false),
                annotations: fields.map("message-annotations")?.map(|map| {
                    let mut bytes = Vec::new();
                    encode::map(&mut bytes, &map);
                    bytes.into()
                }),
            },
            _ => DeliveryState::Unknown,
        }))
    }

    /// Appends the state.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            DeliveryState::Received { section_number, section_offset } => {
                describe(out, code::RECEIVED);
                let list = encode::begin_list(out);
                encode::uint(out, *section_number);
                encode::ulong(out, *section_offset);
                list.end(out, 2);
            }
            DeliveryState::Accepted => out.extend_from_slice(&[0x00, 0x53, code::ACCEPTED, 0x45]),
            DeliveryState::Rejected(reason) => {
                describe(out, code::REJECTED);
                let list = encode::begin_list(out);
                error(out, reason.as_ref());
                list.end(out, 1);
            }
            DeliveryState::Released => out.extend_from_slice(&[0x00, 0x53, code::RELEASED, 0x45]),
            DeliveryState::Modified { delivery_failed, undeliverable_here, annotations } => {
                describe(out, code::MODIFIED);
                let list = encode::begin_list(out);
                encode::boolean(out, *delivery_failed);
                encode::boolean(out, *undeliverable_here);
                optional(out, annotations.as_deref(), |out, map: &[u8]| out.extend_from_slice(map));
                list.end(out, 3);
            }
            DeliveryState::Unknown => encode::null(out),
        }
    }

    /// The same, owned.
    pub fn into_owned(self) -> DeliveryState<'static> {
        match self {
            DeliveryState::Received { section_number, section_offset } => {
                DeliveryState::Received { section_number, section_offset }
            }
            DeliveryState::Accepted => DeliveryState::Accepted,
            DeliveryState::Rejected(reason) => DeliveryState::Rejected(reason.map(Error::into_owned)),
            DeliveryState::Released => DeliveryState::Released,
            DeliveryState::Modified { delivery_failed, undeliverable_here, annotations } => {
                DeliveryState::Modified {
                    delivery_failed,
                    undeliverable_here,
                    annotations: annotations.map(|map| Cow::Owned(map.into_owned())),
                }
            }
            DeliveryState::Unknown => DeliveryState::Unknown,
        }
    }
}
