//! SAS tokens: reading, verifying, and what they are for.

use registry::audience::covers;
use registry::sas::sign;
use registry::{Audience, DeviceKey, KeyForm, SasError, SasToken};

/// The moment at which everything happens, seconds since 1970: the tokens in the corpora were signed for the hour behind it.
pub const START_S: u64 = 1_795_000_000;

/// The key of a number, the same in every run.
pub fn key(number: u8) -> DeviceKey {
    DeviceKey::from_bytes(&[number; 32]).expect("a key")
}

/// The key of the tokens that real clients have made, in base64.
const CLIENTS_KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// A token's text.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = Audience::parse(text);
    let Ok(token) = SasToken::parse(text) else { return };
    let audience = token.resource();
    assert!(!audience.host.is_empty() && audience.segments.iter().all(|segment| !segment.is_empty()));
    assert!(covers(&audience.segments, &audience.segments), "a resource covers itself");
    let (now_s, other) = (START_S, key(200));
    let key = DeviceKey::from_base64(CLIENTS_KEY).expect("a key");
    assert_eq!(token.verify_with_keys(&[], now_s, 300), Err(SasError::Signature));
    assert_eq!(token.verify_with_keys(&[&other], now_s, 300), Err(SasError::Signature));
    match token.verify_with_keys(&[&other, &key], now_s, 0) {
        Ok(()) => {
            assert!(now_s <= token.expires_s());
            check_forgery(text, &token, &key, now_s);
        }
        Err(SasError::Expired) => assert!(now_s > token.expires_s()),
        Err(error) => assert_eq!(error, SasError::Signature),
    }
    // The same said by ourselves is accepted for the same resource, and ends at the same time.
    let resource = [&[audience.host.clone()][..], &audience.segments].concat().join("/");
    let again = sign(&resource, &key, KeyForm::Decoded, token.expires_s(), token.policy());
    if let Ok(again) = SasToken::parse(&again) {
        let verdict = again.verify_with_keys(&[&key], token.expires_s(), 0);
        assert_eq!(verdict, Ok(()));
        assert_eq!((again.policy(), again.expires_s()), (token.policy(), token.expires_s()));
    }
}

/// A token that the key signed says what was signed: another expiry or resource does not pass.
fn check_forgery(text: &str, token: &SasToken<'_>, key: &DeviceKey, now_s: u64) {
    let longer = text.replace(&token.expires_s().to_string(), &(token.expires_s() + 1).to_string());
    if longer != text
        && let Ok(longer) = SasToken::parse(&longer)
        && longer.expires_s() != token.expires_s()
    {
        assert_eq!(longer.verify_with_keys(&[key], now_s, 0), Err(SasError::Signature));
    }
    assert_eq!(token.verify_with_keys(&[key], token.expires_s().saturating_add(301), 300), {
        match token.expires_s().checked_add(301) {
            Some(_) => Err(SasError::Expired),
            None => Ok(()),
        }
    });
}
