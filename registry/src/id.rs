//! Ids: checked once when they are parsed, valid ever after.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::limits::DEVICE_ID_BYTES_MAX;

/// A device's id: 1 to 128 characters of `A-Z a-z 0-9 - : . + % _ # * ? ! ( ) , = @ $ ' ;`, compared with case
/// \[IoT Hub: identity registry, device identity properties\]. Ordered by its bytes. A clone costs one reference count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    /// Check an id that is already decoded: no percent escape is resolved here, because `%` is a legal character.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > DEVICE_ID_BYTES_MAX {
            return Err(IdError::TooLong { bytes: text.len(), bytes_max: DEVICE_ID_BYTES_MAX });
        }
        match text.bytes().position(|byte| !is_id_byte(byte)) {
            Some(index) => Err(IdError::Character { index }),
            None => Ok(Self(text.into())),
        }
    }

    /// The text, as the device and the back end write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-:.+%_#*?!(),=@$';".contains(&byte)
}

impl Borrow<str> for DeviceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for DeviceId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, formatter)
    }
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It has no character.
    #[error("an id has at least one character")]
    Empty,
    /// It is too long.
    #[error("an id of {bytes} bytes exceeds {bytes_max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// It holds a character that ids may not have.
    #[error("the character at byte {index} is not allowed in an id")]
    Character {
        /// Where the character begins.
        index: usize,
    },
}

/// Tells a device from an earlier one of the same id: new with every creation, and larger than every earlier one of the
/// partition. Callers see its decimal text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerationId(pub u64);

/// 100-nanosecond ticks from year 1 to 1970, and per millisecond: generation ids look like those of the cloud.
const TICKS_TO_1970: u64 = 621_355_968_000_000_000;
const TICKS_PER_MS: u64 = 10_000;

impl GenerationId {
    /// The id of an identity that is created at `ms` milliseconds since 1970.
    pub(crate) fn at(ms: u64) -> Self {
        Self(ms.saturating_mul(TICKS_PER_MS).saturating_add(TICKS_TO_1970))
    }

    /// When the identity was created, milliseconds since 1970: not before that moment, and later where the clock went back or
    /// more were created in a millisecond than it has ticks.
    pub fn created_ms(self) -> u64 {
        self.0.saturating_sub(TICKS_TO_1970) / TICKS_PER_MS
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// Tells a state of an identity from every other state: new with every change. Callers see an opaque text (base64 of its
/// eight bytes), without the quotes that HTTP puts around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ETag(pub u64);

impl ETag {
    /// The ETag that no identity ever has: what a text that this hub did not issue stands for.
    pub const NEVER: Self = Self(0);

    /// Read what [`fmt::Display`] wrote. None: this hub never issued such a text, so no identity has it.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        Some(Self(u64::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&STANDARD.encode(self.0.to_be_bytes()))
    }
}

/// A consumer group's incarnation: a group that is deleted and created again has another, so that nothing of the first
/// (checkpoints, readers) is taken for the second's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerGroupId(pub u64);

impl ConsumerGroupId {
    /// `$Default`, which exists in every hub from its first moment to its last.
    pub const DEFAULT: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids_follow_the_table() {
        for good in ["a", "Dev-1", "A:b.c+d%e_f#g*h?i!j(k)l,m=n@o$p'q;r", "..", "%2f", &"x".repeat(128)] {
            assert_eq!(DeviceId::parse(good).unwrap().as_str(), good);
        }
        let check = |bad: &str, error| assert_eq!(DeviceId::parse(bad), Err(error), "{bad:?}");
        check("", IdError::Empty);
        check(&"x".repeat(129), IdError::TooLong { bytes: 129, bytes_max: 128 });
        check("a/b", IdError::Character { index: 1 });
        check("a b", IdError::Character { index: 1 });
        check("ab\"", IdError::Character { index: 2 });
        check("ab\0", IdError::Character { index: 2 });
        check("aé", IdError::Character { index: 1 });
        check("a&b", IdError::Character { index: 1 });
    }

    #[test]
    fn device_ids_keep_case_and_byte_order() {
        let id = |text| DeviceId::parse(text).unwrap();
        assert_ne!(id("a"), id("A"));
        assert!(id("B") < id("a") && id("dev1") < id("dev10"));
        assert_eq!(format!("{:?} {}", id("a'b"), id("a'b")), "\"a'b\" a'b");
    }

    #[test]
    fn etags_survive_their_text() {
        for etag in [ETag(0), ETag(1), ETag(u64::MAX)] {
            assert_eq!(ETag::parse(&etag.to_string()), Some(etag));
        }
        for foreign in ["", "*", "\"AAAAAAAAAAE=\"", "AAAA", "AAAAAAAAAAAAAAAA", "äö"] {
            assert_eq!(ETag::parse(foreign), None, "{foreign:?}");
        }
    }
}
