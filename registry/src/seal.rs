//! Keys at rest: sealed with a data key that may lie apart from the data.

use std::fmt;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Random;
use crate::credential::{DeviceKey, DeviceKeys};

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// The secret from which the sealing keys derive: 32 bytes, kept in a file or handed in by a descriptor.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DataKey([u8; 32]);

impl DataKey {
    /// A new one.
    pub fn generate(random: Random<'_>) -> Self {
        let mut bytes = [0; 32];
        random(&mut bytes);
        Self(bytes)
    }

    /// The key of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the file that keeps them.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DataKey(..)")
    }
}

/// Seals and opens pairs of keys: XChaCha20-Poly1305, bound to whose keys they are, so that a sealed pair moved to another
/// identity does not open.
///
/// The nonce is derived from the content (HMAC-SHA256 under a key of its own), not drawn: sealing needs no source of
/// chance, and the same pair for the same owner gives the same bytes, which tells nobody more than that it is unchanged.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeySealer {
    cipher_key: [u8; 32],
    nonce_key: [u8; 32],
    fingerprint: [u8; 16],
}

impl KeySealer {
    /// The sealer of this data key.
    pub fn new(data_key: &DataKey) -> Self {
        let derive = |purpose: &[u8]| hmac(&data_key.0, &[purpose]);
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&derive(b"corehub: data key's fingerprint, 1")[..16]);
        Self {
            cipher_key: derive(b"corehub: sealing device and policy keys, 1"),
            nonce_key: derive(b"corehub: nonces for sealed keys, 1"),
            fingerprint,
        }
    }

    /// Tells data keys apart without giving them away; a file names the one that its keys were sealed with.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// Append the sealed pair to `out`. `owner` says whose keys these are; the same is needed to open them.
    pub(crate) fn seal(&self, owner: &[u8], keys: &DeviceKeys, out: &mut Vec<u8>) {
        let (primary, secondary) = (keys.primary.as_bytes(), keys.secondary.as_bytes());
        let mut plain = Zeroizing::new(Vec::with_capacity(1 + primary.len() + secondary.len() + TAG_BYTES));
        plain.push(primary.len() as u8);
        plain.extend_from_slice(primary);
        plain.extend_from_slice(secondary);
        let nonce_source = hmac(&self.nonce_key, &[&(owner.len() as u64).to_le_bytes(), owner, &plain]);
        let nonce = XNonce::try_from(&nonce_source[..NONCE_BYTES]).expect("a nonce is 24 bytes");
        self.cipher()
            .encrypt_in_place(&nonce, owner, &mut *plain)
            .expect("a pair of keys is far below the cipher's limit");
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&plain);
    }

    /// Open what [`KeySealer::seal`] wrote for the same owner.
    pub(crate) fn open(&self, owner: &[u8], sealed: &[u8]) -> Result<DeviceKeys, SealError> {
        let (nonce, cipher_text) = sealed.split_at_checked(NONCE_BYTES).ok_or(SealError)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| SealError)?;
        let mut plain = Zeroizing::new(cipher_text.to_vec());
        self.cipher().decrypt_in_place(&nonce, owner, &mut *plain).map_err(|_| SealError)?;
        let (&length, keys) = plain.split_first().ok_or(SealError)?;
        let (primary, secondary) = keys.split_at_checked(usize::from(length)).ok_or(SealError)?;
        Ok(DeviceKeys {
            primary: DeviceKey::from_bytes(primary).map_err(|_| SealError)?,
            secondary: DeviceKey::from_bytes(secondary).map_err(|_| SealError)?,
        })
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(self.cipher_key))
    }
}

impl fmt::Debug for KeySealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeySealer(..)")
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Sealed keys do not open: another data key, another owner, or damage; which of them cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed keys do not open with this data key")]
pub struct SealError;

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(seed: u8) -> KeySealer {
        KeySealer::new(&DataKey::from_bytes([seed; 32]))
    }

    fn keys() -> DeviceKeys {
        DeviceKeys {
            primary: DeviceKey::from_bytes(b"a primary key of 27 bytes..").unwrap(),
            secondary: DeviceKey::from_bytes(b"the secondary one").unwrap(),
        }
    }

    #[test]
    fn sealed_keys_open_for_their_owner_alone() {
        let mut sealed = Vec::new();
        sealer(1).seal(b"owner", &keys(), &mut sealed);
        assert_eq!(sealer(1).open(b"owner", &sealed), Ok(keys()));
        assert_eq!(sealer(1).open(b"other", &sealed), Err(SealError));
        assert_eq!(sealer(2).open(b"owner", &sealed), Err(SealError));
        assert_ne!(sealer(1).fingerprint(), sealer(2).fingerprint());
    }

    #[test]
    fn sealed_bytes_show_nothing_and_tolerate_nothing() {
        let mut sealed = Vec::new();
        sealer(1).seal(b"owner", &keys(), &mut sealed);
        for secret in [keys().primary.as_bytes(), keys().secondary.as_bytes()] {
            assert!(!sealed.windows(8).any(|window| window == &secret[..8]));
        }
        for index in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[index] ^= 1;
            assert_eq!(sealer(1).open(b"owner", &damaged), Err(SealError), "byte {index}");
            assert_eq!(sealer(1).open(b"owner", &sealed[..index]), Err(SealError), "cut at {index}");
        }
    }

    #[test]
    fn nonces_follow_content_and_owner() {
        let seal = |owner: &[u8], keys: &DeviceKeys| {
            let mut sealed = Vec::new();
            sealer(1).seal(owner, keys, &mut sealed);
            sealed
        };
        let swapped = DeviceKeys { primary: keys().secondary.clone(), secondary: keys().primary.clone() };
        assert_eq!(seal(b"owner", &keys()), seal(b"owner", &keys()));
        assert_ne!(seal(b"owner", &keys())[..24], seal(b"other", &keys())[..24]);
        assert_ne!(seal(b"owner", &keys())[..24], seal(b"owner", &swapped)[..24]);
    }
}
