//! Keys: symmetric secrets of 16 to 64 bytes, in pairs so that one can be changed while the other is in use.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Random;
use crate::limits::{KEY_BYTES_GENERATED, KEY_BYTES_MAX, KEY_BYTES_MIN};

/// A symmetric key of a device or of a policy. Held inline, erased when dropped, never printed, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DeviceKey {
    bytes: [u8; KEY_BYTES_MAX],
    length: u8,
}

impl DeviceKey {
    /// A key of these bytes, 16 to 64 of them.
    pub fn from_bytes(source: &[u8]) -> Result<Self, KeyError> {
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&source.len()) {
            return Err(KeyError::Length { bytes: source.len() });
        }
        let mut bytes = [0; KEY_BYTES_MAX];
        bytes[..source.len()].copy_from_slice(source);
        Ok(Self { bytes, length: source.len() as u8 })
    }

    /// Read the text form: canonical base64 with padding. Canonical, because Event Hubs clients use the text itself as
    /// their HMAC key \[azure-eventhub: _utils.py\]: two spellings of the same bytes would be two keys.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        let mut decoded = [0; KEY_BYTES_MAX + 3];
        let length = STANDARD.decode_slice(text, &mut decoded).map_err(|error| match error {
            base64::DecodeSliceError::OutputSliceTooSmall => KeyError::Length { bytes: text.len() / 4 * 3 },
            base64::DecodeSliceError::DecodeError(_) => KeyError::NotBase64,
        })?;
        let key = Self::from_bytes(&decoded[..length]);
        decoded.zeroize();
        key
    }

    /// A new key of 32 bytes.
    pub fn generate(random: Random<'_>) -> Self {
        let mut bytes = [0; KEY_BYTES_MAX];
        random(&mut bytes[..KEY_BYTES_GENERATED]);
        Self { bytes, length: KEY_BYTES_GENERATED as u8 }
    }

    /// The key's bytes. For computing with, not for showing.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The text form, for those who may see it.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.as_bytes())
    }
}

impl PartialEq for DeviceKey {
    fn eq(&self, other: &Self) -> bool {
        (self.bytes.ct_eq(&other.bytes) & self.length.ct_eq(&other.length)).into()
    }
}

impl Eq for DeviceKey {}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DeviceKey(..)")
    }
}

/// Both keys of a device or a policy. A token is good with either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceKeys {
    /// The first key.
    pub primary: DeviceKey,
    /// The second key.
    pub secondary: DeviceKey,
}

impl DeviceKeys {
    /// Two new keys.
    pub fn generate(random: Random<'_>) -> Self {
        Self { primary: DeviceKey::generate(random), secondary: DeviceKey::generate(random) }
    }

    /// Both, for trying each.
    pub fn both(&self) -> [&DeviceKey; 2] {
        [&self.primary, &self.secondary]
    }
}

/// Why something is not a key. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 in its canonical form.
    #[error("the key is not base64")]
    NotBase64,
    /// Too short or too long.
    #[error("a key of {bytes} bytes is not within {KEY_BYTES_MIN} to {KEY_BYTES_MAX}")]
    Length {
        /// Its length (for a key far too long, an estimate).
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_16_to_64_bytes() {
        for length in [16, 32, 33, 34, 63, 64] {
            let bytes: Vec<u8> = (0..length).collect();
            let key = DeviceKey::from_bytes(&bytes).unwrap();
            assert_eq!(key.as_bytes(), bytes);
            assert_eq!(DeviceKey::from_base64(&key.to_base64()), Ok(key));
        }
        for length in [0, 1, 15, 65, 66, 67, 100] {
            let text = STANDARD.encode(vec![1; length]);
            assert!(matches!(DeviceKey::from_base64(&text), Err(KeyError::Length { .. })), "{length}");
        }
    }

    #[test]
    fn only_the_canonical_text_is_a_key() {
        let text = DeviceKey::from_bytes(&[0xff; 16]).unwrap().to_base64();
        assert!(text.ends_with("//w=="), "{text}");
        for other in [
            text.trim_end_matches('=').to_owned(),
            text.replace("w==", "x=="),
            format!("{text}\n"),
            "?".repeat(24),
        ] {
            assert_eq!(DeviceKey::from_base64(&other), Err(KeyError::NotBase64), "{other:?}");
        }
    }

    #[test]
    fn keys_are_never_printed() {
        let keys = DeviceKeys::generate(&mut |bytes| bytes.fill(0x41));
        let printed = format!("{keys:?} {keys:#?}");
        assert!(!printed.contains("65") && !printed.contains("41") && !printed.contains("QUFB"), "{printed}");
    }

    #[test]
    fn keys_differ_by_length_and_content() {
        let key = |bytes: &[u8]| DeviceKey::from_bytes(bytes).unwrap();
        assert_ne!(key(&[0; 16]), key(&[0; 17]));
        assert_ne!(key(&[0; 16]), key(&[1; 16]));
        assert_eq!(key(&[5; 64]), key(&[5; 64]));
    }
}
