//! SAS tokens: reading, verifying, and (for clients, the command line and tests) signing
//! \[IoT Hub: control access with SAS, token structure\].

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::audience::Audience;
use crate::credential::DeviceKey;
use crate::limits::TOKEN_BYTES_MAX;

const SCHEME: &str = "SharedAccessSignature";

/// Everything but RFC 3986's unreserved characters.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A token, read but not yet verified. Borrows the text; holds no secret (a signature is not one, but still gives access:
/// `Debug` leaves it out).
#[derive(Clone)]
pub struct SasToken<'a> {
    resource_text: &'a str,
    expiry_text: &'a str,
    signature: [u8; 32],
    audience: Audience,
    policy: Option<Cow<'a, str>>,
    expires_s: u64,
}

impl<'a> SasToken<'a> {
    /// Read `SharedAccessSignature sr=...&sig=...&se=...[&skn=...]`: the fields in any order, their names without case,
    /// each at most once, `sr`, `sig` and `se` present. Unknown fields are ignored.
    pub fn parse(text: &'a str) -> Result<Self, SasError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(SasError::Malformed);
        }
        let fields =
            text.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix(' ')).ok_or(SasError::Malformed)?;
        if fields.contains(' ') {
            return Err(SasError::Malformed);
        }
        let [mut resource, mut signature, mut expiry, mut policy] = [None; 4];
        for field in fields.split('&') {
            let (name, value) = field.split_once('=').ok_or(SasError::Malformed)?;
            let known =
                [("sr", &mut resource), ("sig", &mut signature), ("se", &mut expiry), ("skn", &mut policy)];
            if let Some((_, slot)) = known.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known))
                && slot.replace(value).is_some()
            {
                return Err(SasError::Malformed);
            }
        }
        let resource_text: &str = resource.ok_or(SasError::Malformed)?;
        let expiry_text: &str = expiry.ok_or(SasError::Malformed)?;
        let policy = match policy.map(|name: &str| percent_decode_str(name).decode_utf8()) {
            Some(Err(_)) => return Err(SasError::Malformed),
            Some(Ok(name)) if !name.is_empty() => Some(name),
            _ => None,
        };
        Ok(Self {
            resource_text,
            expiry_text,
            signature: decode_signature(signature.ok_or(SasError::Malformed)?)?,
            audience: Audience::parse(resource_text).ok_or(SasError::Malformed)?,
            policy,
            expires_s: parse_seconds(expiry_text)?,
        })
    }

    /// What it is for.
    pub fn resource(&self) -> &Audience {
        &self.audience
    }

    /// The policy whose key signed it, decoded. None: a device's own key did.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }

    /// When it ends, seconds since 1970, without skew.
    pub fn expires_s(&self) -> u64 {
        self.expires_s
    }

    /// The device whose own key should have signed it: of a token without policy, the id behind `devices`.
    pub fn device(&self) -> Option<&str> {
        match (&self.policy, self.audience.segments.as_slice()) {
            (None, [collection, id, ..]) if collection.eq_ignore_ascii_case("devices") => Some(id),
            _ => None,
        }
    }

    /// Whether one of the keys signed it and it has not ended at `now_s` (seconds since 1970) with `skew_s` of tolerance.
    ///
    /// IoT Hub clients sign with the key's bytes, Event Hubs clients with its base64 text, so each key is tried in both
    /// forms, in that order, until one fits. Each comparison takes constant time, and a token that fits none is held against
    /// all of them: how long it takes tells who has no key only how many there are. The signature is judged before the
    /// expiry, so that only the key's holder learns of the latter.
    pub fn verify_with_keys(&self, keys: &[&DeviceKey], now_s: u64, skew_s: u64) -> Result<(), SasError> {
        let forms = keys.iter().flat_map(|key| [(key, KeyForm::Decoded), (key, KeyForm::Text)]);
        let mut expected =
            forms.map(|(key, form)| signature(key, form, self.resource_text, self.expiry_text));
        if !expected.any(|expected| bool::from(expected.ct_eq(&self.signature))) {
            return Err(SasError::Signature);
        }
        match now_s > self.expires_s.saturating_add(skew_s) {
            true => Err(SasError::Expired),
            false => Ok(()),
        }
    }
}

impl std::fmt::Debug for SasToken<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SasToken")
            .field("resource", &self.audience)
            .field("policy", &self.policy)
            .field("expires_s", &self.expires_s)
            .finish_non_exhaustive()
    }
}

/// Which bytes of a key go into the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// The key's bytes: IoT Hub clients.
    Decoded,
    /// The key's base64 text: Event Hubs clients.
    Text,
}

/// Why a token is refused. No variant repeats any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SasError {
    /// It cannot be read, or a field is missing.
    #[error("malformed token")]
    Malformed,
    /// No key signed it.
    #[error("the signature matches no key")]
    Signature,
    /// It has ended.
    #[error("the token has expired")]
    Expired,
}

/// The text of a token for `resource` (`host[/path]` or a URL, not yet encoded) that ends at `expires_s`.
pub fn sign(resource: &str, key: &DeviceKey, form: KeyForm, expires_s: u64, policy: Option<&str>) -> String {
    let resource = utf8_percent_encode(resource, COMPONENT).to_string();
    let expiry = expires_s.to_string();
    let signature = STANDARD.encode(signature(key, form, &resource, &expiry));
    let signature = utf8_percent_encode(&signature, COMPONENT);
    let mut text = format!("{SCHEME} sr={resource}&sig={signature}&se={expiry}");
    if let Some(policy) = policy {
        text.push_str("&skn=");
        text.extend(utf8_percent_encode(policy, COMPONENT));
    }
    text
}

/// HMAC-SHA256 over resource and expiry exactly as they stand in the token.
fn signature(key: &DeviceKey, form: KeyForm, resource: &str, expiry: &str) -> [u8; 32] {
    let text;
    let key_bytes = match form {
        KeyForm::Decoded => key.as_bytes(),
        KeyForm::Text => {
            text = zeroize::Zeroizing::new(key.to_base64());
            text.as_bytes()
        }
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(key_bytes).expect("HMAC takes a key of any length");
    for part in [resource, "\n", expiry] {
        mac.update(part.as_bytes());
    }
    mac.finalize().into_bytes().into()
}

/// Percent escapes are resolved, a plus stays a plus.
fn decode_signature(text: &str) -> Result<[u8; 32], SasError> {
    let base64: Cow<'_, [u8]> = percent_decode_str(text).into();
    let bytes = STANDARD.decode(base64).map_err(|_| SasError::Malformed)?;
    bytes.try_into().map_err(|_| SasError::Malformed)
}

/// Decimal digits alone: no sign, no blank, no fraction.
fn parse_seconds(text: &str) -> Result<u64, SasError> {
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().map_err(|_| SasError::Malformed),
        false => Err(SasError::Malformed),
    }
}

#[cfg(test)]
mod tests;
