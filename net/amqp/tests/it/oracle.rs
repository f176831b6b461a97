//! Values against fe2o3-amqp's codec: the same bytes have the same meaning, in both directions.

use net_amqp::Decoder;
use net_amqp::value::{Descriptor, Value};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_amqp::Value as TheirValue;
use serde_amqp::described::Described as TheirDescribed;
use serde_amqp::descriptor::Descriptor as TheirDescriptor;
use serde_amqp::primitives::{Array, OrderedMap, Symbol, Timestamp, Uuid};
use serde_amqp::{from_slice, to_vec};

/// The same cases on each run.
pub fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Whether the two stand for the same value.
fn same(ours: &Value<'_>, theirs: &TheirValue) -> bool {
    match (ours, theirs) {
        (Value::Null, TheirValue::Null) => true,
        (Value::Bool(a), TheirValue::Bool(b)) => a == b,
        (Value::Ubyte(a), TheirValue::Ubyte(b)) => a == b,
        (Value::Ushort(a), TheirValue::Ushort(b)) => a == b,
        (Value::Uint(a), TheirValue::Uint(b)) => a == b,
        (Value::Ulong(a), TheirValue::Ulong(b)) => a == b,
        (Value::Byte(a), TheirValue::Byte(b)) => a == b,
        (Value::Short(a), TheirValue::Short(b)) => a == b,
        (Value::Int(a), TheirValue::Int(b)) => a == b,
        (Value::Long(a), TheirValue::Long(b)) => a == b,
        (Value::Float(a), TheirValue::Float(b)) => a.to_bits() == b.0.to_bits(),
        (Value::Double(a), TheirValue::Double(b)) => a.to_bits() == b.0.to_bits(),
        (Value::Decimal32(a), TheirValue::Decimal32(b)) => a == b.as_inner(),
        (Value::Decimal64(a), TheirValue::Decimal64(b)) => a == b.as_inner(),
        (Value::Decimal128(a), TheirValue::Decimal128(b)) => a == b.as_inner(),
        (Value::Char(a), TheirValue::Char(b)) => a == b,
        (Value::Timestamp(a), TheirValue::Timestamp(b)) => *a == b.milliseconds(),
        (Value::Uuid(a), TheirValue::Uuid(b)) => a == b.as_inner(),
        (Value::Binary(a), TheirValue::Binary(b)) => *a == b.as_slice(),
        (Value::String(a), TheirValue::String(b)) => a == b,
        (Value::Symbol(a), TheirValue::Symbol(b)) => *a == b.as_str(),
        (Value::List(a), TheirValue::List(b)) => same_items(a.iter().map(Result::unwrap), b),
        (Value::Array(a), TheirValue::Array(b)) => same_items(a.iter().map(Result::unwrap), &b.0),
        (Value::Map(a), TheirValue::Map(b)) => {
            a.value_count() as usize == 2 * b.len()
                && a.iter().map(Result::unwrap).zip(b.iter()).all(|(a, b)| same(&a.0, b.0) && same(&a.1, b.1))
        }
        (Value::Described(a), TheirValue::Described(b)) => {
            let descriptors = match (a.descriptor, &b.descriptor) {
                (Descriptor::Code(a), TheirDescriptor::Code(b)) => a == *b,
                (Descriptor::Symbol(a), TheirDescriptor::Name(b)) => a == b.as_str(),
                _ => false,
            };
            descriptors && same(&a.value().unwrap(), &b.value)
        }
        _ => false,
    }
}

fn same_items<'a>(ours: impl Iterator<Item = Value<'a>>, theirs: &[TheirValue]) -> bool {
    let ours: Vec<_> = ours.collect();
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
}

fn symbol() -> impl Strategy<Value = Symbol> {
    prop_oneof!["[a-z:-]{0,12}", "[a-z]{300}"].prop_map(Symbol::from)
}

fn scalar() -> impl Strategy<Value = TheirValue> {
    prop_oneof![
        Just(TheirValue::Null),
        any::<bool>().prop_map(TheirValue::Bool),
        any::<u8>().prop_map(TheirValue::Ubyte),
        any::<u16>().prop_map(TheirValue::Ushort),
        prop_oneof![0..300u32, any::<u32>()].prop_map(TheirValue::Uint),
        prop_oneof![0..300u64, any::<u64>()].prop_map(TheirValue::Ulong),
        any::<i8>().prop_map(TheirValue::Byte),
        any::<i16>().prop_map(TheirValue::Short),
        prop_oneof![-200..200i32, any::<i32>()].prop_map(TheirValue::Int),
        prop_oneof![-200..200i64, any::<i64>()].prop_map(TheirValue::Long),
        any::<f32>().prop_map(|value| TheirValue::Float(value.into())),
        any::<f64>().prop_map(|value| TheirValue::Double(value.into())),
        any::<[u8; 4]>().prop_map(|bytes| TheirValue::Decimal32(bytes.into())),
        any::<[u8; 8]>().prop_map(|bytes| TheirValue::Decimal64(bytes.into())),
        any::<[u8; 16]>().prop_map(|bytes| TheirValue::Decimal128(bytes.into())),
        any::<char>().prop_map(TheirValue::Char),
        any::<i64>().prop_map(|ms| TheirValue::Timestamp(Timestamp::from_milliseconds(ms))),
        any::<[u8; 16]>().prop_map(|bytes| TheirValue::Uuid(Uuid::from(bytes))),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| TheirValue::Binary(bytes.into())),
        "\\PC{0,20}".prop_map(TheirValue::String),
        "[a-zü]{250,260}".prop_map(TheirValue::String),
        symbol().prop_map(TheirValue::Symbol),
    ]
}

/// Arrays whose elements have one type.
fn array() -> impl Strategy<Value = TheirValue> {
    let of = |items: Vec<TheirValue>| TheirValue::Array(Array(items));
    prop_oneof![
        prop::collection::vec("[a-z]{0,30}", 1..20)
            .prop_map(move |items| of(items.into_iter().map(TheirValue::String).collect())),
        prop::collection::vec(any::<i64>(), 1..40)
            .prop_map(move |items| of(items.into_iter().map(TheirValue::Long).collect())),
        prop::collection::vec(any::<[u8; 16]>(), 1..9)
            .prop_map(move |items| of(items.into_iter().map(|b| TheirValue::Uuid(b.into())).collect())),
    ]
}

fn value() -> impl Strategy<Value = TheirValue> {
    prop_oneof![4 => scalar(), 1 => array()].prop_recursive(3, 40, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(TheirValue::List),
            prop::collection::vec((symbol(), inner.clone()), 0..6).prop_map(|entries| {
                let entries = entries.into_iter().map(|(key, value)| (TheirValue::Symbol(key), value));
                TheirValue::Map(OrderedMap::from_iter(entries))
            }),
            (any::<u64>(), inner.clone()).prop_map(|(code, value)| {
                let descriptor = TheirDescriptor::Code(code);
                TheirValue::Described(Box::new(TheirDescribed { descriptor, value }))
            }),
            (symbol(), inner).prop_map(|(name, value)| {
                let descriptor = TheirDescriptor::Name(name);
                TheirValue::Described(Box::new(TheirDescribed { descriptor, value }))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(seeded(400))]

    #[test]
    fn values_mean_the_same(theirs in value()) {
        let bytes = to_vec(&theirs).unwrap();
        let mut decoder = Decoder::new(&bytes);
        let ours = decoder.value().unwrap();
        prop_assert!(decoder.is_empty());
        prop_assert!(ours.check().is_ok());
        prop_assert!(same(&ours, &theirs), "{ours:?} {theirs:?}");
        let mut again = Vec::new();
        ours.encode(&mut again);
        prop_assert_eq!(from_slice::<TheirValue>(&again).unwrap(), theirs);
        prop_assert!(again.len() <= bytes.len(), "ours is the shortest form");
        let mut decoder = Decoder::new(&again);
        prop_assert_eq!(decoder.value().unwrap(), ours);
    }

    #[test]
    fn both_decoders_agree_about_damaged_values(theirs in value(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = to_vec(&theirs).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        let mut decoder = Decoder::new(&bytes);
        let ours = decoder.value().and_then(|value| value.check().map(|()| value));
        // The way past a value judges it as the value itself does, and ends at the same place.
        let mut passing = Decoder::new(&bytes);
        prop_assert_eq!(passing.check_next(), ours.map(drop));
        if ours.is_ok() {
            prop_assert_eq!(passing.rest(), decoder.rest());
        }
        // Theirs takes some things that the specification forbids; what both take means the same to both.
        if let (Ok(ours), Some(theirs)) = (ours, read_by_them(&bytes)) {
            let has_map = format!("{theirs:?}").contains("Map");
            // A map with a key twice has one entry there, and keeps both here.
            prop_assert!(same(&ours, &theirs) || has_map, "{ours:?} {theirs:?}");
        }
    }
}

/// What their decoder makes of damaged bytes. It panics at some of them.
fn read_by_them(bytes: &[u8]) -> Option<TheirValue> {
    std::panic::catch_unwind(|| from_slice(bytes).ok()).ok().flatten()
}
