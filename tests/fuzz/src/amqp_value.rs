//! AMQP values, messages, performatives and SASL frames, against serde_amqp and fe2o3-amqp's types on the same bytes.

use std::cell::Cell;
use std::sync::Once;

use fe2o3_amqp_types::messaging::message::__private::Deserializable;
use fe2o3_amqp_types::messaging::{Body as TheirBody, Message as TheirMessage};
use net_amqp::performative::Performative;
use net_amqp::sasl::SaslFrame;
use net_amqp::value::{Array, Descriptor, Map};
use net_amqp::{Body, Decoder, Sections, Value};
use serde_amqp::Value as TheirValue;
use serde_amqp::descriptor::Descriptor as TheirDescriptor;

/// One value, and what its bytes are as the body of a frame.
pub fn value(bytes: &[u8]) {
    // Whatever these make of the bytes, without a panic. What they take they can show.
    let _ = Performative::decode(bytes).map(|performative| format!("{performative:?}"));
    let _ = SaslFrame::decode(bytes).map(|frame| {
        let mut again = Vec::new();
        frame.encode(&mut again);
        assert_eq!(SaslFrame::decode(&again).map(|frame| format!("{frame:?}")), Ok(format!("{frame:?}")));
    });
    let mut decoder = Decoder::new(bytes);
    let Ok(ours) = decoder.value().and_then(|value| value.check().map(|()| value)) else { return };
    let taken = &bytes[..bytes.len() - decoder.rest().len()];
    let mut again = Vec::new();
    ours.encode(&mut again);
    let mut decoder = Decoder::new(&again);
    let second = decoder.value().expect("what was encoded is decoded");
    second.check().expect("to the depth");
    assert!(decoder.is_empty());
    assert!(alike(&ours, &second), "{ours:?} came back as {second:?}");
    let mut third = Vec::new();
    second.encode(&mut third);
    assert_eq!(again, third, "the second encoding differs from the first");
    if let Some(theirs) = read_by_them::<TheirValue>(taken) {
        assert!(same(&ours, &theirs), "{ours:?} to us, {theirs:?} to them");
        let from_ours = read_by_them::<TheirValue>(&again);
        assert!(from_ours.is_some_and(|value| same(&ours, &value)), "they do not read our {ours:?}");
    }
}

/// A message: its sections, alone and to the other implementation.
pub fn message(bytes: &[u8]) {
    let Ok(sections) = Sections::parse(bytes) else { return };
    let maps = [
        sections.delivery_annotations,
        sections.message_annotations,
        sections.application_properties,
        sections.footer,
    ];
    for map in maps.into_iter().flatten() {
        assert!(map.iter().all(|entry| entry.is_ok()), "what was checked yields no errors");
    }
    let bare = Sections::parse(sections.bare).expect("the bare message stands for itself");
    assert_eq!(format!("{:?}", bare.properties), format!("{:?}", sections.properties));
    assert_eq!(format!("{:?}", bare.body), format!("{:?}", sections.body));
    match sections.body {
        Body::Data(data) => {
            let data_bytes: usize = data.iter().map(<[u8]>::len).sum();
            assert!(data_bytes < data.encoded().len());
        }
        Body::Value(value) => value.check().expect("what was checked is well-formed"),
        Body::Empty | Body::Sequence(_) => {}
    }
    let theirs = read_by_them::<Deserializable<TheirMessage<TheirBody<TheirValue>>>>(bytes);
    if let Some(Deserializable(theirs)) = theirs {
        check_against(&sections, &theirs);
    }
}

fn check_against(ours: &Sections<'_>, theirs: &TheirMessage<TheirBody<TheirValue>>) {
    if let (Some(ours), Some(theirs)) = (&ours.properties, &theirs.properties) {
        assert_eq!(ours.to, theirs.to.as_deref());
        assert_eq!(ours.subject, theirs.subject.as_deref());
        assert_eq!(ours.reply_to, theirs.reply_to.as_deref());
        assert_eq!(ours.content_type, theirs.content_type.as_ref().map(|symbol| symbol.as_str()));
        assert_eq!(ours.content_encoding, theirs.content_encoding.as_ref().map(|symbol| symbol.as_str()));
        assert_eq!(ours.user_id, theirs.user_id.as_ref().map(|bytes| bytes.as_slice()));
        let ms = theirs.absolute_expiry_time.as_ref().map(|time| time.milliseconds());
        assert_eq!(ours.absolute_expiry_time_ms, ms);
        assert_eq!(ours.creation_time_ms, theirs.creation_time.as_ref().map(|time| time.milliseconds()));
        assert_eq!(ours.group_id, theirs.group_id.as_deref());
        assert_eq!(ours.group_sequence, theirs.group_sequence);
        assert_eq!(ours.reply_to_group_id, theirs.reply_to_group_id.as_deref());
        assert_eq!(ours.message_id.is_some(), theirs.message_id.is_some());
        assert_eq!(ours.correlation_id.is_some(), theirs.correlation_id.is_some());
    }
    if let (Some(ours), Some(theirs)) = (&ours.header, &theirs.header) {
        assert_eq!((ours.durable, ours.priority), (theirs.durable, theirs.priority.0));
        assert_eq!((ours.ttl_ms, ours.delivery_count), (theirs.ttl, theirs.delivery_count));
        assert_eq!(ours.first_acquirer, theirs.first_acquirer);
    }
    match (&ours.body, &theirs.body) {
        (Body::Data(ours), TheirBody::Data(theirs)) => {
            let theirs: Vec<&[u8]> = theirs.iter().map(|data| data.0.as_slice()).collect();
            assert_eq!(ours.iter().collect::<Vec<_>>(), theirs);
        }
        (Body::Value(ours), TheirBody::Value(theirs)) => {
            assert!(same(ours, &theirs.0), "{ours:?} to us, {theirs:?} to them");
        }
        _ => {}
    }
}

/// What the other implementation makes of bytes that ours has taken. It panics at some.
fn read_by_them<T: serde_amqp::serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    quietly(|| serde_amqp::from_slice(bytes).ok()).flatten()
}

/// Run what may panic, without its words; none where it did. libFuzzer ends the process at a panic that is not kept from it.
fn quietly<T>(run: impl FnOnce() -> T) -> Option<T> {
    thread_local! {
        static IS_QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                loud(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).ok();
    IS_QUIET.set(false);
    result
}

/// Equal, with numbers that are none equal to themselves.
fn alike(one: &Value<'_>, other: &Value<'_>) -> bool {
    match (one, other) {
        (Value::Float(one), Value::Float(other)) => one.to_bits() == other.to_bits(),
        (Value::Double(one), Value::Double(other)) => one.to_bits() == other.to_bits(),
        (Value::List(one), Value::List(other)) => all_alike(one.iter(), other.iter()),
        (Value::Array(one), Value::Array(other)) => all_alike(one.iter(), other.iter()),
        (Value::Map(one), Value::Map(other)) => all_alike(flat(one), flat(other)),
        (Value::Described(one), Value::Described(other)) => {
            one.descriptor == other.descriptor
                && alike(&one.value().expect("checked"), &other.value().expect("checked"))
        }
        _ => one == other,
    }
}

type Checked<'a> = Result<Value<'a>, net_amqp::DecodeError>;

fn flat<'a>(map: &Map<'a>) -> impl Iterator<Item = Checked<'a>> + use<'a> {
    map.iter().flat_map(|entry| {
        let (key, value) = entry.expect("checked");
        [Ok(key), Ok(value)]
    })
}

fn all_alike<'a>(
    one: impl Iterator<Item = Checked<'a>>,
    mut other: impl Iterator<Item = Checked<'a>>,
) -> bool {
    let mut one = one;
    one.all(|value| {
        let other = other.next().map(|value| value.expect("checked"));
        other.is_some_and(|other| alike(&value.expect("checked"), &other))
    }) && other.next().is_none()
}

/// Whether the two stand for the same value. A map with a key twice has one entry to them and keeps both here.
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
        (Value::List(a), TheirValue::List(b)) => same_items(a.iter(), b),
        (Value::Array(a), TheirValue::Array(b)) => same_array(a, &b.0),
        (Value::Map(a), TheirValue::Map(b)) => {
            let pairs: Vec<_> = a.iter().map(|entry| entry.expect("checked")).collect();
            pairs.len() != b.len()
                || pairs.iter().zip(b.iter()).all(|(a, b)| same(&a.0, b.0) && same(&a.1, b.1))
        }
        (Value::Described(a), TheirValue::Described(b)) => {
            let descriptors = match (a.descriptor, &b.descriptor) {
                (Descriptor::Code(a), TheirDescriptor::Code(b)) => a == *b,
                (Descriptor::Symbol(a), TheirDescriptor::Name(b)) => a == b.as_str(),
                _ => false,
            };
            descriptors && same(&a.value().expect("checked"), &b.value)
        }
        _ => false,
    }
}

fn same_array(ours: &Array<'_>, theirs: &[TheirValue]) -> bool {
    same_items(ours.iter(), theirs)
}

fn same_items<'a>(ours: impl Iterator<Item = Checked<'a>>, theirs: &[TheirValue]) -> bool {
    let ours: Vec<_> = ours.map(|value| value.expect("checked")).collect();
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
}
