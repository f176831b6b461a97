//! SAS tokens and connection strings, written from the protocol's description and not from the hub's code, so that the
//! two check each other.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;

/// What JavaScript's `encodeURIComponent` escapes, but for a few marks that no test uses.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs()
}

/// A token for `resource` (as it is meant, not escaped) until `expires_s`, signed with the bytes that `key` stands for.
pub fn token(resource: &str, key: &str, expires_s: u64, policy: Option<&str>) -> String {
    let bytes = BASE64.decode(key).expect("a key is base64");
    token_with_key_bytes(resource, &bytes, expires_s, policy)
}

/// As [`token`], with the key's bytes themselves: Event Hubs clients sign with the text of the key.
pub fn token_with_key_bytes(resource: &str, key: &[u8], expires_s: u64, policy: Option<&str>) -> String {
    let resource = escape(resource);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(format!("{resource}\n{expires_s}").as_bytes());
    let signature = escape(&BASE64.encode(mac.finalize().into_bytes()));
    let mut token = format!("SharedAccessSignature sr={resource}&sig={signature}&se={expires_s}");
    if let Some(policy) = policy {
        token.push_str("&skn=");
        token.push_str(policy);
    }
    token
}

/// Percent-encode everything but letters, digits and `-_.~`.
pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// A key of the right length that is nobody's.
pub fn foreign_key() -> String {
    BASE64.encode([7; 32])
}

/// The parts of a connection string.
#[derive(Clone, Debug)]
pub struct ConnectionString(BTreeMap<String, String>);

impl ConnectionString {
    /// Split at `;`, each part at its first `=`.
    pub fn parse(text: &str) -> Self {
        let part = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or_else(|| panic!("no value in {text:?}"));
            (name.to_owned(), value.to_owned())
        };
        Self(text.trim().split(';').map(part).collect())
    }

    /// A part that must be there.
    pub fn part(&self, name: &str) -> &str {
        self.0.get(name).unwrap_or_else(|| panic!("no {name} in the connection string"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What real clients signed with the same key text: the first two with its bytes, the others with the text itself.
    #[test]
    fn signatures_of_real_clients() {
        const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
        let by_bytes = |resource, expires_s| token(resource, KEY, expires_s, None);
        let by_text = |resource, expires_s| token_with_key_bytes(resource, KEY.as_bytes(), expires_s, None);
        let cases = [
            (
                by_bytes("127.0.0.5/devices/Dev 1", 1_795_294_683),
                "CwULrIyiCXxs6ntAnvyx2smrVwMKwRJE9+acdc1t5g8=",
            ),
            (by_bytes("localhost", 1_795_294_458), "aM5/y8KfulpsIqBh2bVfwesMsfbHra0We6q8f9+cT90="),
            (
                by_text("sb://localhost:15672/myeh", 1_795_294_206),
                "ilvnNJ8fTuWqYFyO6+Vrj5q/4U0w9O0ZtMf7xcDcDH4=",
            ),
            (
                by_text("sb://myhub.azure-devices.test/myeh", 1_795_294_386),
                "uHP8dCuoKSuYDcTNf9g1nl/ldN7k4IDd29Lj3NN7Kz4=",
            ),
        ];
        for (token, signature) in cases {
            assert!(
                token.contains(&format!("&sig={}&", escape(signature))),
                "{token} is not signed {signature}"
            );
        }
    }
}
