use net_amqp::MessageBuilder;
use net_amqp::message::Header;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn id(text: &str) -> DeviceId {
    DeviceId::parse(text).unwrap()
}

fn to(address: &str) -> Properties<'_> {
    Properties { to: Some(address), ..Properties::default() }
}

const ADDRESS: &str = "/devices/dev-1/messages/devicebound";

fn message(properties: Properties<'_>) -> MessageBuilder<'_> {
    MessageBuilder::default().properties(properties)
}

/// What the device `dev-1` gets of a message.
fn given(payload: &[u8]) -> Result<Vec<u8>, CommandError> {
    CommandMessage::parse(payload, "plant7")?.encode(&id("dev-1"))
}

fn check_refused(payload: &[u8], error: &CommandError, condition: &str) {
    let refused = given(payload).unwrap_err();
    assert_eq!((&refused, refused.status().condition), (error, condition));
}

#[test]
fn a_device_gets_what_its_clients_insist_on() {
    let properties = Properties {
        message_id: Some(Value::Uuid([0xab; 16])),
        correlation_id: Some(Value::Ulong(u64::MAX)),
        user_id: Some(b"operator"),
        content_type: Some("application/json"),
        content_encoding: Some("utf-8"),
        absolute_expiry_time_ms: Some(1_795_000_000_000),
        ..to("/Devices/dev-1/messages/deviceBound")
    };
    let payload = message(properties)
        .header(Header::default())
        .message_annotation("x-opt-lock-token", Value::String("forged"))
        .application_property("text", Value::String("t"))
        .application_property("number", Value::Int(-7))
        .application_property("truth", Value::Bool(true))
        .application_property("time", Value::Timestamp(1_795_000_000_001))
        .application_property("half", Value::Double(0.5))
        .application_property("IoTHub-Ack", Value::String("FULL"))
        .application_property("iothub-connection-device-id", Value::String("other"))
        .data(b"one ")
        .data(b"body")
        .encode();
    let command = CommandMessage::parse(&payload, "plant7").unwrap();
    assert_eq!(command.message_id, "abababab-abab-abab-abab-abababababab");
    assert_eq!((command.ack, command.expires_ms(5)), (Ack::Full, Some(1_795_000_000_000)));
    let bytes = command.encode(&id("dev-1")).unwrap();
    let sections = Sections::parse(&bytes).unwrap();
    assert_eq!(sections.bare, bytes, "nothing stands around the bare message");
    let expected = Properties {
        message_id: Some(Value::String("abababab-abab-abab-abab-abababababab")),
        correlation_id: Some(Value::String("18446744073709551615")),
        to: Some(ADDRESS),
        ..properties
    };
    assert_eq!(sections.properties, Some(expected));
    let entries: Vec<_> = sections.application_properties.unwrap().iter().map(Result::unwrap).collect();
    let entry = |name, value| (Value::String(name), Value::String(value));
    assert_eq!(
        entries,
        [
            entry("text", "t"),
            entry("number", "-7"),
            entry("truth", "true"),
            entry("time", "2026-11-18T11:06:40.001Z"),
            entry("half", "0.5"),
            entry(ACK_PROPERTY, "full"),
        ]
    );
    assert!(matches!(sections.body, Body::Data(data) if data.single() == Some(b"one body")));
}

#[test]
fn every_form_of_an_address_names_the_device() {
    for (address, ids) in [
        ("/devices/dev-1/messages/devicebound", &["dev-1"][..]),
        ("devices/dev-1/messages/deviceBound", &["dev-1"]),
        ("amqps://hub.example:5671/devices/dev-1/messages/devicebound", &["dev-1"]),
        ("/devices/Dev%231%25/messages/devicebound", &["Dev%231%25", "Dev#1%"]),
        ("/devices/Dev#1%/messages/devicebound", &["Dev#1%"]),
        ("/devices/not an id/messages/devicebound", &[]),
    ] {
        let payload = message(to(address)).data(b"x").encode();
        let command = CommandMessage::parse(&payload, "plant7").unwrap();
        let found: Vec<_> = command.device.candidates().map(|id| id.as_str().to_owned()).collect();
        assert_eq!(found, ids, "{address}");
    }
}

#[test]
fn what_has_no_device_is_refused_as_documented() {
    let no_device = |payload: &[u8]| check_refused(payload, &CommandError::NoDevice, "amqp:not-allowed");
    no_device(&MessageBuilder::default().data(b"x").encode());
    for address in
        ["", "/devices", "/devices/dev-1", "/devices/dev-1/messages/events", "/messages/devicebound"]
    {
        no_device(&message(to(address)).data(b"x").encode());
    }
    let module = message(to("/devices/d/modules/m/messages/devicebound")).data(b"x").encode();
    check_refused(&module, &CommandError::Module, "amqp:not-implemented");
}

#[test]
fn what_a_device_cannot_be_given_is_refused() {
    let argument = |payload: Vec<u8>, error| check_refused(&payload, &error, "com.microsoft:argument-error");
    let property = |value| message(to(ADDRESS)).application_property("p", value).data(b"x").encode();
    argument(property(Value::Binary(b"b")), CommandError::Property);
    argument(property(Value::Null), CommandError::Property);
    let ack = |value| message(to(ADDRESS)).application_property(ACK_PROPERTY, value).data(b"x").encode();
    argument(ack(Value::String("maybe")), CommandError::Ack);
    argument(ack(Value::Int(1)), CommandError::Ack);
    let long = "x".repeat(129);
    let with_id = |id| message(Properties { message_id: Some(id), ..to(ADDRESS) }).data(b"x").encode();
    argument(with_id(Value::String(&long)), CommandError::Id("message-id"));
    argument(with_id(Value::Binary(&[0xff])), CommandError::Id("message-id"));
    for id in [Value::String(&long[1..]), Value::Int(7), Value::Long(-7), Value::Uint(7)] {
        assert!(given(&with_id(id)).is_ok(), "{id:?}");
    }
    argument(message(to(ADDRESS)).value(Value::Int(1)).encode(), CommandError::Body);
    let refused = given(b"no message").unwrap_err();
    assert!(matches!(refused, CommandError::Decode(_)), "{refused:?}");
}

#[test]
fn bodies_become_one_data_section() {
    for (payload, body) in [
        (message(to(ADDRESS)).value(Value::String("text")).encode(), &b"text"[..]),
        (message(to(ADDRESS)).value(Value::Binary(b"bytes")).encode(), b"bytes"),
        (message(to(ADDRESS)).encode(), b""),
    ] {
        let bytes = given(&payload).unwrap();
        let sections = Sections::parse(&bytes).unwrap();
        assert!(matches!(sections.body, Body::Data(data) if data.single() == Some(body)));
        assert_eq!(sections.application_properties, None, "no section without entries");
    }
}

#[test]
fn a_lifetime_comes_from_the_expiry_or_else_from_the_header() {
    let header = Header { ttl_ms: Some(70_000), ..Header::default() };
    let expires = |expiry, header: Option<Header>| {
        let builder = message(Properties { absolute_expiry_time_ms: expiry, ..to(ADDRESS) }).data(b"x");
        let payload = match header {
            Some(header) => builder.header(header).encode(),
            None => builder.encode(),
        };
        CommandMessage::parse(&payload, "plant7").unwrap().expires_ms(1000)
    };
    assert_eq!(expires(None, None), None);
    assert_eq!(expires(None, Some(header)), Some(71_000));
    assert_eq!(expires(Some(9), Some(header)), Some(9));
    assert_eq!(expires(Some(-1), None), Some(0), "long past");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]

    /// Bytes of a peer never panic, and whatever is taken is a message that comes out of itself unchanged.
    #[test]
    fn any_bytes_are_read_or_refused(mut cuts in proptest::collection::vec((0..200_usize, any::<u8>()), 0..4)) {
        let properties = Properties { message_id: Some(Value::String("m")), ..to(ADDRESS) };
        let mut payload = message(properties)
            .application_property("p", Value::Long(5))
            .application_property(ACK_PROPERTY, Value::String("full"))
            .data(b"body")
            .encode();
        for (place, byte) in cuts.drain(..) {
            let place = place % payload.len();
            payload[place] = byte;
        }
        if let Ok(command) = CommandMessage::parse(&payload, "plant7")
            && let Ok(bytes) = command.encode(&id("dev-1"))
        {
            let again = CommandMessage::parse(&bytes, "plant7").unwrap();
            prop_assert_eq!(again.encode(&id("dev-1")).unwrap(), bytes);
        }
    }
}
