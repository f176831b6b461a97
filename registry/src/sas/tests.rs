//! Vectors of real clients, and what must be refused.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

const KEY_TEXT: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

fn key() -> DeviceKey {
    DeviceKey::from_base64(KEY_TEXT).unwrap()
}

fn other_key() -> DeviceKey {
    DeviceKey::from_bytes(&[7; 32]).unwrap()
}

fn verify(token: &str, now_s: u64) -> Result<(), SasError> {
    SasToken::parse(token)?.verify_with_keys(&[&other_key(), &key()], now_s, 0)
}

/// One vector, made by a real client, in every spelling of the signature that clients use.
fn check_vector(resource: &str, expiry: u64, signature: &str, policy: Option<&str>) {
    let all_escaped = utf8_percent_encode(signature, COMPONENT).to_string();
    let spellings = [
        signature.to_owned(),
        all_escaped.clone(),
        all_escaped.to_lowercase_escapes(),
        signature.replace('+', "%2B").replace('=', "%3D"),
    ];
    for spelling in spellings {
        let skn = policy.map_or_else(String::new, |name| format!("&skn={name}"));
        for token in [
            format!("SharedAccessSignature sr={resource}&sig={spelling}&se={expiry}{skn}"),
            format!("SharedAccessSignature SE={expiry}{skn}&Sig={spelling}&sR={resource}"),
        ] {
            let parsed = SasToken::parse(&token).unwrap();
            assert_eq!((parsed.policy(), parsed.expires_s()), (policy, expiry));
            assert_eq!(parsed.verify_with_keys(&[&key()], expiry, 0), Ok(()), "{token}");
            assert_eq!(parsed.verify_with_keys(&[&other_key()], expiry, 0), Err(SasError::Signature));
        }
    }
}

trait LowercaseEscapes {
    fn to_lowercase_escapes(&self) -> String;
}

impl LowercaseEscapes for String {
    fn to_lowercase_escapes(&self) -> String {
        self.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d")
    }
}

#[test]
fn signatures_of_real_clients_verify() {
    check_vector(
        "127.0.0.5%2Fdevices%2FDev%201",
        1795294683,
        "CwULrIyiCXxs6ntAnvyx2smrVwMKwRJE9+acdc1t5g8=",
        None,
    );
    check_vector(
        "localhost",
        1795294458,
        "aM5/y8KfulpsIqBh2bVfwesMsfbHra0We6q8f9+cT90=",
        Some("iothubowner"),
    );
    let event_hub = "sb%3A%2F%2Flocalhost%3A15672%2Fmyeh";
    check_vector(event_hub, 1795294206, "ilvnNJ8fTuWqYFyO6+Vrj5q/4U0w9O0ZtMf7xcDcDH4=", Some("service"));
    let event_hub = "sb%3A%2F%2Fmyhub.azure-devices.test%2Fmyeh";
    check_vector(event_hub, 1795294386, "uHP8dCuoKSuYDcTNf9g1nl/ldN7k4IDd29Lj3NN7Kz4=", Some("service"));
}

#[test]
fn signing_gives_what_real_clients_send() {
    let signature = |token: String| {
        let start = token.find("sig=").unwrap() + 4;
        let end = start + token[start..].find('&').unwrap();
        percent_decode_str(&token[start..end]).decode_utf8().unwrap().into_owned()
    };
    let device = sign("127.0.0.5/devices/Dev 1", &key(), KeyForm::Decoded, 1795294683, None);
    assert_eq!(signature(device), "CwULrIyiCXxs6ntAnvyx2smrVwMKwRJE9+acdc1t5g8=");
    let event_hub = sign("sb://localhost:15672/myeh", &key(), KeyForm::Text, 1795294206, Some("service"));
    assert_eq!(signature(event_hub), "ilvnNJ8fTuWqYFyO6+Vrj5q/4U0w9O0ZtMf7xcDcDH4=");
}

#[test]
fn the_resource_is_signed_as_it_stands() {
    // Raw slashes, as the C client sends them; lower-case escapes, as the documents show them.
    for resource in ["hub.test/devices/d", "hub.test%2fdevices%2fd", "hub.test%2Fdevices%2Fd"] {
        let signature = STANDARD.encode(super::signature(&key(), KeyForm::Decoded, resource, "2000000000"));
        let token = format!("SharedAccessSignature sr={resource}&sig={signature}&se=2000000000");
        assert_eq!(verify(&token, 1), Ok(()), "{resource}");
        assert_eq!(SasToken::parse(&token).unwrap().device(), Some("d"));
        // The same resource in another spelling is another text to sign.
        let respelled = token.replace(resource, "hub.test%2Fdevices/d");
        assert_eq!(verify(&respelled, 1), Err(SasError::Signature));
    }
}

#[test]
fn a_plus_is_never_a_blank() {
    let token = "SharedAccessSignature sr=hub%2Fdevices%2Fa+b&sig=x&se=1"
        .replace("sig=x", &format!("sig={}", "A".repeat(43) + "="));
    assert_eq!(SasToken::parse(&token).unwrap().device(), Some("a+b"));
    let policy = token + "&skn=a+b";
    assert_eq!(SasToken::parse(&policy).unwrap().policy(), Some("a+b"));
}

#[test]
fn a_trailing_api_version_is_no_part_of_the_resource() {
    let token = sign("hub/devices/d/api-version=2016-11-14", &key(), KeyForm::Decoded, 9, None);
    let token = SasToken::parse(&token).unwrap();
    assert_eq!(token.verify_with_keys(&[&key()], 9, 0), Ok(()));
    assert_eq!(token.resource().segments, ["devices", "d"]);
}

#[test]
fn tokens_end_with_the_skew_and_not_before() {
    let token = sign("hub/devices/d", &key(), KeyForm::Decoded, 1000, None);
    let token = SasToken::parse(&token).unwrap();
    let check = |now_s, skew_s, expected| {
        assert_eq!(token.verify_with_keys(&[&key()], now_s, skew_s), expected, "at {now_s} with {skew_s}");
    };
    check(0, 0, Ok(()));
    check(1000, 0, Ok(()));
    check(1001, 0, Err(SasError::Expired));
    check(1300, 300, Ok(()));
    check(1301, 300, Err(SasError::Expired));
    // A wrong key is told nothing about the expiry.
    assert_eq!(token.verify_with_keys(&[&other_key()], 9999, 0), Err(SasError::Signature));
    let endless = sign("hub", &key(), KeyForm::Decoded, u64::MAX, None);
    assert_eq!(SasToken::parse(&endless).unwrap().verify_with_keys(&[&key()], u64::MAX, 300), Ok(()));
}

#[test]
fn no_key_verifies_nothing() {
    let token = sign("hub/devices/d", &key(), KeyForm::Decoded, 1000, None);
    assert_eq!(SasToken::parse(&token).unwrap().verify_with_keys(&[], 0, 0), Err(SasError::Signature));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let good = sign("hub/devices/d", &key(), KeyForm::Decoded, 1000, Some("service"));
    assert!(SasToken::parse(&good).is_ok());
    let without = |field: &str| {
        let start = good.find(&format!("{field}=")).unwrap();
        let end = good[start..].find('&').map_or(good.len(), |length| start + length + 1);
        format!("{}{}", &good[..start], &good[end..]).trim_end_matches('&').to_owned()
    };
    let bad = [
        without("se"),
        without("sig"),
        without("sr"),
        good.replacen("SharedAccessSignature ", "sharedaccesssignature ", 1),
        good.replacen("SharedAccessSignature ", "SharedAccessSignature", 1),
        good.replacen("SharedAccessSignature ", "SharedAccessSignature  ", 1),
        good.replacen("SharedAccessSignature ", "Bearer ", 1),
        good.clone() + " x",
        good.clone() + "&se=2000",
        good.clone() + "&SR=hub",
        good.clone() + "&",
        good.replace("se=1000", "se="),
        good.replace("se=1000", "se=-1"),
        good.replace("se=1000", "se=+1"),
        good.replace("se=1000", "se=1e9"),
        good.replace("se=1000", "se=99999999999999999999"),
        good.replace("skn=service", "skn=%ff"),
        good.replace("sig=", "sig=A"),
        format!("SharedAccessSignature sr=&sig={}=&se=1", "A".repeat(43)),
        format!("SharedAccessSignature sr=hub&sig={}&se=1", "A".repeat(44)),
        String::new(),
        "SharedAccessSignature ".to_owned(),
        "SharedAccessSignature sr".to_owned(),
        good.clone() + "&x=" + &"y".repeat(TOKEN_BYTES_MAX),
    ];
    for (index, token) in bad.iter().enumerate() {
        assert_eq!(SasToken::parse(token).err(), Some(SasError::Malformed), "{index}: {token}");
    }
    assert!(SasToken::parse(&(good.clone() + "&x=y")).is_ok(), "unknown fields are ignored");
    // An empty policy is no policy.
    let empty = good.replace("skn=service", "skn=");
    assert_eq!(SasToken::parse(&empty).unwrap().device(), Some("d"));
}

#[test]
fn tampering_with_any_field_breaks_the_signature() {
    let good = sign("hub/devices/dev1", &key(), KeyForm::Decoded, 1000, None);
    for (from, to) in [("dev1", "dev10"), ("se=1000", "se=1001"), ("se=1000", "se=01000"), ("hub", "Hub")] {
        assert_eq!(verify(&good.replacen(from, to, 1), 0), Err(SasError::Signature), "{from} -> {to}");
    }
}

#[test]
fn the_signature_is_not_printed() {
    let text = sign("hub/devices/d", &key(), KeyForm::Decoded, 1000, None);
    let token = SasToken::parse(&text).unwrap();
    let printed = format!("{token:?}");
    assert!(!printed.contains("sig") && !printed.contains(&format!("{:?}", token.signature)), "{printed}");
}

/// Pieces of tokens, good and bad.
const WORDS: [&str; 20] = [
    "SharedAccessSignature",
    " ",
    "sr=",
    "sig=",
    "se=",
    "skn=",
    "&",
    "hub%2Fdevices%2Fa",
    "sb%3A%2F%2Fhub%2F",
    "%",
    "%f",
    "%ff",
    "=",
    "1795294206",
    "-1",
    "/",
    ":",
    "é",
    "\0",
    "ilvnNJ8fTuWqYFyO6%2BVrj5q%2F4U0w9O0ZtMf7xcDcDH4%3D",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// Whatever the text: an answer, and never that it verifies.
    #[test]
    fn no_text_is_harmful(words in prop::collection::vec(0..WORDS.len(), 0..24)) {
        let text: String = words.iter().map(|index| WORDS[*index]).collect();
        for text in [text.clone(), format!("SharedAccessSignature {text}")] {
            if let Ok(token) = SasToken::parse(&text) {
                prop_assert_eq!(token.verify_with_keys(&[&other_key()], 0, 300), Err(SasError::Signature));
            }
        }
    }

    /// One changed byte of a good token: refused, or it stands for the same and was no part of what is signed.
    #[test]
    fn no_changed_token_opens_anything_else(at in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
        let good = sign("hub.test/devices/dev1", &key(), KeyForm::Decoded, 1000, None);
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        if verify(&changed, 1000).is_ok() {
            let (changed, good) = (SasToken::parse(&changed).unwrap(), SasToken::parse(&good).unwrap());
            prop_assert_eq!(changed.resource(), good.resource());
            prop_assert_eq!((changed.expires_s(), changed.policy()), (good.expires_s(), good.policy()));
        }
    }
}
