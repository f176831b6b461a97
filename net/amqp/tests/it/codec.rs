//! Constructors one by one, and messages.

use net_amqp::message::{self, Header};
use net_amqp::performative::code;
use net_amqp::value::{Descriptor, List, Map, encode};
use net_amqp::{Body, DecodeError, Decoder, MessageBuilder, Properties, Sections, Value};

#[track_caller]
fn decode(bytes: &[u8]) -> Value<'_> {
    let mut decoder = Decoder::new(bytes);
    let value = decoder.value().unwrap();
    assert!(decoder.is_empty());
    value.check().unwrap();
    value
}

#[test]
fn every_constructor_is_known() {
    let cases: &[(&[u8], Value<'_>)] = &[
        (&[0x40], Value::Null),
        (&[0x41], Value::Bool(true)),
        (&[0x42], Value::Bool(false)),
        (&[0x56, 1], Value::Bool(true)),
        (&[0x56, 0], Value::Bool(false)),
        (&[0x50, 200], Value::Ubyte(200)),
        (&[0x60, 1, 2], Value::Ushort(258)),
        (&[0x43], Value::Uint(0)),
        (&[0x52, 200], Value::Uint(200)),
        (&[0x70, 0, 1, 0, 0], Value::Uint(65536)),
        (&[0x44], Value::Ulong(0)),
        (&[0x53, 200], Value::Ulong(200)),
        (&[0x80, 0, 0, 0, 1, 0, 0, 0, 0], Value::Ulong(1 << 32)),
        (&[0x51, 0xff], Value::Byte(-1)),
        (&[0x61, 0xff, 0xfe], Value::Short(-2)),
        (&[0x54, 0xfd], Value::Int(-3)),
        (&[0x71, 0xff, 0xff, 0xff, 0], Value::Int(-256)),
        (&[0x55, 0xfc], Value::Long(-4)),
        (&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0], Value::Long(-256)),
        (&[0x72, 0x3f, 0x80, 0, 0], Value::Float(1.0)),
        (&[0x82, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0], Value::Double(1.0)),
        (&[0x74, 1, 2, 3, 4], Value::Decimal32([1, 2, 3, 4])),
        (&[0x84, 1, 2, 3, 4, 5, 6, 7, 8], Value::Decimal64([1, 2, 3, 4, 5, 6, 7, 8])),
        (&[0x94, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], Value::Decimal128(u128::to_be_bytes(1))),
        (&[0x73, 0, 1, 0xf6, 0], Value::Char('😀')),
        (&[0x83, 0, 0, 0, 0, 0, 0, 1, 0], Value::Timestamp(256)),
        (&[0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], Value::Uuid(u128::to_be_bytes(2))),
        (&[0xa0, 2, 1, 2], Value::Binary(&[1, 2])),
        (&[0xb0, 0, 0, 0, 2, 1, 2], Value::Binary(&[1, 2])),
        (&[0xa1, 2, 0xc3, 0xbc], Value::String("ü")),
        (&[0xb1, 0, 0, 0, 1, b'x'], Value::String("x")),
        (&[0xa3, 1, b'x'], Value::Symbol("x")),
        (&[0xb3, 0, 0, 0, 1, b'x'], Value::Symbol("x")),
        (&[0x45], Value::List(List::EMPTY)),
        (&[0xc0, 1, 0], Value::List(List::EMPTY)),
        (&[0xd0, 0, 0, 0, 4, 0, 0, 0, 0], Value::List(List::EMPTY)),
        (&[0xc1, 1, 0], Value::Map(Map::EMPTY)),
        (&[0xd1, 0, 0, 0, 4, 0, 0, 0, 0], Value::Map(Map::EMPTY)),
    ];
    for (bytes, value) in cases {
        assert_eq!(decode(bytes), *value, "{bytes:x?}");
        let mut again = Vec::new();
        value.encode(&mut again);
        assert_eq!(decode(&again), *value);
        for length in 0..bytes.len() {
            assert_eq!(Decoder::new(&bytes[..length]).value(), Err(DecodeError::Truncated), "{bytes:x?}");
        }
    }
    let known: Vec<u8> = cases.iter().map(|(bytes, _)| bytes[0]).chain([0x00, 0xe0, 0xf0]).collect();
    for code in (0..=255).filter(|code| !known.contains(code)) {
        assert_eq!(Decoder::new(&[code; 40]).value(), Err(DecodeError::UnknownConstructor(code)));
    }
}

/// Who goes by the count reads on behind the last element, who goes by the size does not: the two would see different messages.
#[test]
fn nothing_lies_behind_the_last_element() {
    for bytes in [
        &[0xc0, 3, 1, 0x40, 0x41][..],
        &[0xc0, 2, 0, 0x41],
        &[0xd0, 0, 0, 0, 6, 0, 0, 0, 1, 0x40, 0x41],
        &[0xc1, 4, 2, 0x40, 0x40, 0x41],
        &[0xe0, 4, 1, 0x50, 7, 8],
        &[0xc0, 6, 1, 0xc0, 3, 1, 0x40, 0x41],
    ] {
        let value = Decoder::new(bytes).value().unwrap();
        assert!(matches!(value.check(), Err(DecodeError::InvalidCount(_))), "{bytes:x?}");
    }
    // A header, properties and application-properties likewise.
    for section in [&[0xc0, 3, 1, 0x40, 0x41][..], &[0xc0, 2, 0, 0x41]] {
        for code in [code::HEADER, code::PROPERTIES] {
            let message = [&[0x00, 0x53, code], section].concat();
            assert_eq!(Sections::parse(&message), Err(DecodeError::InvalidCount(0)), "{message:x?}");
        }
    }
    let message = [0x00, 0x53, code::APPLICATION_PROPERTIES, 0xc1, 2, 0, 0x41];
    assert_eq!(Sections::parse(&message), Err(DecodeError::InvalidCount(0)));
}

#[test]
fn a_field_may_have_another_integer_type() {
    use net_amqp::performative::Performative;
    // A transfer whose handle is a ulong and whose delivery-id is an int.
    let bytes = [0x00, 0x53, 0x14, 0xc0, 0x05, 0x02, 0x53, 0x07, 0x54, 0x08];
    assert!(matches!(
        Performative::decode(&bytes),
        Ok(Performative::Transfer(transfer, [])) if transfer.handle == 7 && transfer.delivery_id == Some(8)
    ));
}

#[test]
fn values_that_their_types_forbid_are_refused() {
    let cases: &[(&[u8], DecodeError)] = &[
        (&[0x56, 2], DecodeError::InvalidValue("boolean")),
        (&[0x73, 0, 0, 0xd8, 0], DecodeError::InvalidValue("char")),
        (&[0x73, 0, 0x11, 0, 0], DecodeError::InvalidValue("char")),
        (&[0xa1, 1, 0xff], DecodeError::InvalidValue("string")),
        (&[0xa3, 2, 0xc3, 0xbc], DecodeError::InvalidValue("symbol")),
        (&[0xc0, 2, 9, 0x40], DecodeError::InvalidCount(9)),
        (&[0xc1, 2, 1, 0x40], DecodeError::InvalidCount(1)),
        (&[0xc0, 0], DecodeError::Truncated),
        (&[0xd0, 0, 0, 0, 3, 0, 0, 0], DecodeError::Truncated),
        (&[0x00, 0x40, 0x40], DecodeError::UnexpectedDescriptor),
        (&[0x00, 0x00, 0x53, 1, 0x40, 0x40], DecodeError::UnexpectedDescriptor),
    ];
    for (bytes, error) in cases {
        assert_eq!(Decoder::new(bytes).value(), Err(*error), "{bytes:x?}");
    }
}

#[test]
fn arrays_share_one_constructor_descriptors_included() {
    let numbers = decode(&[0xe0, 5, 3, 0x54, 1, 0xff, 3]);
    let Value::Array(numbers) = numbers else { panic!("{numbers:?}") };
    let numbers: Vec<_> = numbers.iter().map(Result::unwrap).collect();
    assert_eq!(numbers, [Value::Int(1), Value::Int(-1), Value::Int(3)]);

    // Two described bytes: the descriptor is written once, in front.
    let described = decode(&[0xf0, 0, 0, 0, 10, 0, 0, 0, 2, 0x00, 0x53, 7, 0x50, 1, 2]);
    let Value::Array(array) = described else { panic!("{described:?}") };
    for (item, byte) in array.iter().zip(1..) {
        let Ok(Value::Described(item)) = item else { panic!("{item:?}") };
        assert_eq!((item.descriptor, item.value()), (Descriptor::Code(7), Ok(Value::Ubyte(byte))));
        // Taken out of the array, an element stands alone.
        let mut alone = Vec::new();
        Value::Described(item).encode(&mut alone);
        assert_eq!(alone, [0x00, 0x53, 7, 0x50, byte]);
    }

    let lists = decode(&[0xe0, 6, 2, 0xc0, 1, 0, 1, 0]);
    let Value::Array(lists) = lists else { panic!("{lists:?}") };
    assert!(lists.iter().all(|item| item == Ok(Value::List(List::EMPTY))));

    let nulls = decode(&[0xe0, 2, 200, 0x40]);
    assert!(matches!(nulls, Value::Array(nulls) if nulls.iter().count() == 200));
}

#[test]
fn nesting_is_bounded_and_not_recursed_into_before_it_is() {
    let nested = |depth: usize| {
        let mut bytes = vec![0x45];
        for _ in 0..depth {
            let mut outer = Vec::new();
            let list = encode::begin_list(&mut outer);
            outer.extend_from_slice(&bytes);
            list.end(&mut outer, 1);
            bytes = outer;
        }
        bytes
    };
    assert_eq!(Decoder::new(&nested(32)).value().unwrap().check(), Ok(()));
    assert_eq!(Decoder::new(&nested(33)).value().unwrap().check(), Err(DecodeError::TooDeep));
    let described = [[0x00, 0x53, 1].repeat(100_000), vec![0x40]].concat();
    assert_eq!(Decoder::new(&described).value().unwrap().check(), Err(DecodeError::TooDeep));
}

#[test]
fn long_texts_take_the_long_form() {
    let text = "x".repeat(256);
    let mut bytes = Vec::new();
    encode::string(&mut bytes, &text);
    assert_eq!(bytes[..5], [0xb1, 0, 0, 1, 0]);
    bytes.clear();
    encode::string(&mut bytes, &text[1..]);
    assert_eq!(bytes[..2], [0xa1, 255]);
    bytes.clear();
    encode::symbol(&mut bytes, "grün");
    assert_eq!(decode(&bytes), Value::Symbol("gr?n"));
}

#[test]
fn a_message_is_found_in_its_sections() {
    let properties = Properties {
        message_id: Some(Value::Ulong(0)),
        user_id: Some(b"hub"),
        to: Some("/devices/d"),
        correlation_id: Some(Value::Uuid([7; 16])),
        content_type: Some("application/json"),
        absolute_expiry_time_ms: Some(12),
        group_sequence: Some(3),
        ..Properties::default()
    };
    let bytes = MessageBuilder::default()
        .header(Header { durable: true, ttl_ms: Some(5), ..Header::default() })
        .delivery_annotation("metric", Value::Long(1))
        .message_annotation("x-opt-offset", Value::String("9"))
        .properties(properties)
        .application_property("n", Value::Double(0.5))
        .data(b"one")
        .data(b"two")
        .encode();
    let sections = Sections::parse(&bytes).unwrap();
    assert_eq!(sections.header, Some(Header { durable: true, ttl_ms: Some(5), ..Header::default() }));
    assert_eq!(sections.delivery_annotations.unwrap().find("metric"), Some(Value::Long(1)));
    assert_eq!(sections.message_annotations.unwrap().find("x-opt-offset"), Some(Value::String("9")));
    assert_eq!(sections.properties, Some(properties));
    assert_eq!(sections.application_properties.unwrap().find("n"), Some(Value::Double(0.5)));
    let Body::Data(data) = sections.body else { panic!("{:?}", sections.body) };
    assert_eq!(data.iter().collect::<Vec<_>>(), [b"one", b"two"]);
    assert_eq!(data.single(), None);
    // The bare message stands for itself.
    assert!(bytes.ends_with(sections.bare));
    let bare = Sections::parse(sections.bare).unwrap();
    assert_eq!((bare.properties, bare.body, bare.header), (Some(properties), sections.body, None));
    assert_eq!(bare.bare, sections.bare);
}

#[test]
fn bodies_of_every_kind() {
    assert_eq!(Sections::parse(&[]).unwrap(), Sections::default());
    let only_properties = MessageBuilder::default().properties(Properties::default()).encode();
    assert_eq!(Sections::parse(&only_properties).unwrap().body, Body::Empty);
    let value = MessageBuilder::default().value(Value::String("token")).encode();
    assert_eq!(value, b"\x00\x53\x77\xa1\x05token");
    assert_eq!(Sections::parse(&value).unwrap().body, Body::Value(Value::String("token")));
    let sequences = [0x00, 0x53, 0x76, 0x45, 0x00, 0x53, 0x76, 0xc0, 2, 1, 0x40];
    assert_eq!(Sections::parse(&sequences).unwrap().body, Body::Sequence(&sequences));
    // Descriptors in their other forms.
    let named = b"\x00\xa3\x10amqp:data:binary\xa0\x01x";
    let wide = b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x75\xa0\x01x";
    for bytes in [&named[..], wide] {
        let Body::Data(data) = Sections::parse(bytes).unwrap().body else { panic!("{bytes:x?}") };
        assert_eq!(data.single(), Some(&b"x"[..]));
    }
}

#[test]
fn sections_out_of_place_are_refused() {
    let section = |code: u8| {
        let mut bytes = Vec::new();
        message::section(&mut bytes, code);
        match code {
            code::HEADER | code::PROPERTIES | code::AMQP_SEQUENCE => bytes.push(0x45),
            code::DATA => bytes.extend_from_slice(&[0xa0, 0]),
            code::AMQP_VALUE => bytes.push(0x40),
            _ => bytes.extend_from_slice(&[0xc1, 1, 0]),
        }
        bytes
    };
    let parse = |codes: &[u8]| {
        let bytes = codes.iter().flat_map(|code| section(*code)).collect::<Vec<_>>();
        Sections::parse(&bytes).map(drop)
    };
    assert_eq!(parse(&[0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x75, 0x78]), Ok(()));
    assert_eq!(parse(&[0x72, 0x73, 0x75, 0x71]), Ok(()), "EH-PY writes delivery annotations last");
    for codes in [
        &[0x70, 0x70][..],
        &[0x73, 0x73],
        &[0x74, 0x73],
        &[0x75, 0x74],
        &[0x75, 0x76],
        &[0x75, 0x77],
        &[0x77, 0x77],
        &[0x73, 0x72, 0x75],
        &[0x75, 0x78, 0x75],
    ] {
        assert!(matches!(parse(codes), Err(DecodeError::MisplacedSection(_))), "{codes:x?}");
    }
    assert_eq!(Sections::parse(&[0x00, 0x53, 0x10, 0x45]).map(drop), Err(DecodeError::UnexpectedDescriptor));
    assert_eq!(Sections::parse(&[0x40]).map(drop), Err(DecodeError::UnexpectedDescriptor));
    let text_for_data = [0x00, 0x53, 0x75, 0xa1, 0];
    assert_eq!(Sections::parse(&text_for_data).map(drop), Err(DecodeError::WrongType("data")));
    let truth_for_id = [0x00, 0x53, 0x73, 0xc0, 2, 1, 0x41];
    assert_eq!(Sections::parse(&truth_for_id).map(drop), Err(DecodeError::WrongType("message-id")));
    let int_for_id = [0x00, 0x53, 0x73, 0xc0, 3, 1, 0x54, 1];
    assert!(Sections::parse(&int_for_id).is_ok(), "uamqp writes whole numbers so");
}
