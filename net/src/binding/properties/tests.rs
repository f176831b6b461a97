use proptest::prelude::*;

use super::*;

/// A message section by section, as a client would write it.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn section(mut self, code: u64, value: impl FnOnce(&mut Vec<u8>)) -> Self {
        encode::descriptor(&mut self.bytes, Descriptor::Code(code));
        value(&mut self.bytes);
        self
    }

    /// With an eight-byte descriptor, as some libraries write it.
    fn long_section(mut self, code: u8, value: impl FnOnce(&mut Vec<u8>)) -> Self {
        self.bytes.extend_from_slice(&[0x00, 0x80, 0, 0, 0, 0, 0, 0, 0, code]);
        value(&mut self.bytes);
        self
    }

    fn map(self, code: u64, entries: &[(&str, &str)]) -> Self {
        self.section(code, |out| write_map(out, entries))
    }

    fn ids(self, message_id: impl Fn(&mut Vec<u8>), correlation_id: impl Fn(&mut Vec<u8>)) -> Self {
        self.section(0x73, |out| {
            let list = encode::begin_list(out);
            message_id(out);
            encode::null(out);
            encode::string(out, "/devices/d/messages/events");
            encode::null(out);
            encode::null(out);
            correlation_id(out);
            encode::symbol(out, "application/json");
            list.end(out, 7);
        })
    }

    fn data(self, body: &[u8]) -> Self {
        self.section(0x75, |out| encode::binary(out, body))
    }

    fn build(self) -> Vec<u8> {
        self.bytes
    }
}

fn write_map(out: &mut Vec<u8>, entries: &[(&str, &str)]) {
    let map = encode::begin_map(out);
    for (name, value) in entries {
        encode::string(out, name);
        encode::string(out, value);
    }
    map.end(out, 2 * entries.len() as u32);
}

fn message() -> Message {
    Message::default()
}

/// The stored message and the kept annotations of one delivery.
fn stored(payload: &[u8]) -> Result<(Vec<u8>, Vec<u8>, bool), MessageError> {
    let mut made = b"earlier".to_vec();
    let plan = plan_message(payload, &mut made)?;
    let view = plan.view(payload, &made);
    Ok((view.message.to_vec(), view.annotations.to_vec(), plan.is_as_given()))
}

#[test]
fn a_clean_message_is_stored_as_it_came_without_what_is_not_bare() {
    let bare = message()
        .ids(|out| encode::string(out, "m-1"), encode::null)
        .map(0x74, &[("temperature", "21"), ("iothub-operation", "x")])
        .data(b"body");
    let given = message()
        .section(0x70, |out| encode::list(out, &List::EMPTY))
        .map(0x71, &[("x-hop", "1")])
        .map(0x72, &[("x-opt-sequence-number", "99")]);
    let payload = [given.build(), bare.bytes.clone(), message().map(0x78, &[]).build()].concat();
    let (stored, annotations, as_given) = stored(&payload).unwrap();
    assert!(as_given);
    assert_eq!(stored, bare.bytes);
    assert_eq!(annotations, b"");
}

#[test]
fn uuid_ids_become_text() {
    let uuid = *uuid::Uuid::parse_str("00112233-4455-6677-8899-aabbccddeeff").unwrap().as_bytes();
    let text = |out: &mut Vec<u8>| encode::string(out, "00112233-4455-6677-8899-aabbccddeeff");
    let payload = message().ids(|out| encode::uuid(out, uuid), |out| encode::uuid(out, uuid)).data(b"b");
    let expected = message().ids(text, text).data(b"b");
    let (stored, _, as_given) = stored(&payload.build()).unwrap();
    assert!(!as_given);
    assert_eq!(stored, expected.build());
}

/// A message whose properties hold a value in one field.
fn with_field(index: u32, value: &[u8]) -> Vec<u8> {
    let section = message().section(0x73, |out| {
        let list = encode::begin_list(out);
        (0..index).for_each(|_| encode::null(out));
        out.extend_from_slice(value);
        list.end(out, index + 1);
    });
    section.data(b"b").build()
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

/// What a strict reader would stop at is made right where it is text, and refused elsewhere.
#[test]
fn each_property_is_of_its_kind() {
    let values = [
        encoded(|out| encode::string(out, "text")),
        encoded(|out| encode::symbol(out, "text")),
        encoded(|out| encode::binary(out, b"text")),
        encoded(|out| encode::timestamp(out, 7)),
        encoded(|out| encode::uint(out, 7)),
        encoded(|out| encode::ulong(out, 7)),
    ];
    let [string, symbol, binary, timestamp, uint, ulong] = &values;
    // For each field what becomes of those, in their order.
    let id = [Some(string), Some(string), Some(binary), None, None, Some(ulong)];
    let text = [Some(string), Some(string), None, None, None, None];
    let name = [Some(symbol), Some(symbol), None, None, None, None];
    let moment = [None, None, None, Some(timestamp), None, None];
    let user = [Some(binary), None, Some(binary), None, None, None];
    let number = [None, None, None, None, Some(uint), None];
    let fields = [id, user, text, text, text, id, name, name, moment, moment, text, number, text];
    for (index, expected) in (0..).zip(fields) {
        for (value, expected) in values.iter().zip(expected) {
            let found = stored(&with_field(index, value)).map(|(stored, _, as_given)| (stored, as_given));
            match expected {
                Some(expected) => {
                    assert_eq!(found, Ok((with_field(index, expected), expected == value)), "field {index}");
                    let Ok((stored, _)) = found else { unreachable!() };
                    net_amqp::Sections::parse(&stored).unwrap();
                }
                None => {
                    let wrong = MessageError::Decode(DecodeError::WrongType("properties"));
                    assert_eq!(found, Err(wrong), "field {index}: {value:?}");
                }
            }
        }
    }
    let no_symbol = encoded(|out| encode::string(out, "ä"));
    assert!(stored(&with_field(6, &no_symbol)).is_err());
    assert!(stored(&with_field(13, string)).is_err(), "there is no such field");
}

#[test]
fn what_only_the_hub_may_say_is_dropped() {
    let payload = message()
        .map(0x72, &[("iothub-connection-device-id", "other"), ("iothub-enqueuedtime", "1")])
        .map(
            0x74,
            &[
                ("a", "1"),
                ("iothub-connection-device-id", "other"),
                ("IoTHub-Connection-Auth-Method", "other"),
                ("iothub-enqueuedtime", "0"),
                ("iothub-message-source", "twinChangeEvents"),
                ("iothub-connectionish", "stays"),
            ],
        )
        .data(b"b");
    let (stored_bytes, annotations, _) = stored(&payload.build()).unwrap();
    let expected = message().map(0x74, &[("a", "1"), ("iothub-connectionish", "stays")]).data(b"b");
    assert_eq!(stored_bytes, expected.build());
    assert_eq!(annotations, b"");
    let only_forged = message().map(0x74, &[("iothub-message-source", "x")]).data(b"b");
    assert_eq!(stored(&only_forged.build()).unwrap().0, message().data(b"b").build());
}

#[test]
fn the_annotations_that_a_device_may_set_are_kept_beside_the_message() {
    let payload = message()
        .map(0x72, &[("dt-subject", "pump"), ("x-opt-offset", "7"), ("iothub-interface-id", "urn:x")])
        .data(b"b");
    let mut made = Vec::new();
    let payload = payload.build();
    let plan = plan_message(&payload, &mut made).unwrap();
    let view = plan.view(&payload, &made);
    assert!(plan.is_as_given());
    assert_eq!(view.annotation_value_count, 4);
    let mut expected = Vec::new();
    for (name, value) in [("iothub-interface-id", "urn:x"), ("dt-subject", "pump")] {
        encode::symbol(&mut expected, name);
        encode::string(&mut expected, value);
    }
    assert_eq!(view.annotations, expected);
}

#[test]
fn bodies_of_every_kind() {
    let joined = message().data(b"one").data(b"").data(b"two");
    assert_eq!(stored(&joined.build()).unwrap().0, message().data(b"onetwo").build());
    let value = message().section(0x77, |out| encode::string(out, "text"));
    assert_eq!(stored(&value.bytes).unwrap(), (value.bytes.clone(), vec![], true));
    let sequence = message().section(0x76, |out| encode::list(out, &List::EMPTY));
    assert_eq!(stored(&sequence.bytes).unwrap(), (sequence.bytes.clone(), vec![], true));
    let long = message().long_section(0x75, |out| encode::binary(out, b"b"));
    assert_eq!(stored(&long.build()).unwrap().0, message().data(b"b").build());
    let long = message().long_section(0x77, |out| encode::string(out, "b"));
    assert_eq!(
        stored(&long.build()).unwrap().0,
        message().section(0x77, |out| encode::string(out, "b")).build()
    );
    let empty_sections = message().section(0x74, encode::null).data(b"b");
    assert_eq!(stored(&empty_sections.build()).unwrap().0, message().data(b"b").build());
}

#[test]
fn what_is_no_message_is_refused() {
    let check = |payload: Vec<u8>| stored(&payload).unwrap_err();
    assert_eq!(check(vec![]), MessageError::NoBody);
    assert_eq!(check(message().map(0x74, &[]).build()), MessageError::NoBody);
    assert_eq!(check(message().data(b"b").map(0x74, &[]).build()), MessageError::SectionOrder);
    assert_eq!(check(message().map(0x74, &[]).map(0x74, &[]).data(b"").build()), MessageError::SectionOrder);
    let two_kinds = message().data(b"").section(0x77, encode::null);
    assert_eq!(check(two_kinds.build()), MessageError::SectionOrder);
    assert!(matches!(
        check(message().section(0x75, |out| encode::string(out, "x")).build()),
        MessageError::Decode(_)
    ));
    assert!(matches!(check(message().section(0x99, encode::null).build()), MessageError::Decode(_)));
    let number_name = message().section(0x74, |out| {
        let map = encode::begin_map(out);
        encode::int(out, 1);
        encode::int(out, 1);
        map.end(out, 2);
    });
    assert_eq!(check(number_name.data(b"").build()), MessageError::PropertyName);
    // Who goes by the count would read something else than who goes by the size.
    let hidden_field = message().section(0x73, |out| {
        let list = encode::begin_list(out);
        encode::string(out, "id");
        encode::string(out, "hidden");
        list.end(out, 1);
    });
    let hidden_entry = message().section(0x74, |out| {
        let map = encode::begin_map(out);
        for text in ["n", "1", "iothub-message-source", "x"] {
            encode::string(out, text);
        }
        map.end(out, 2);
    });
    for hidden in [hidden_field, hidden_entry] {
        let error = check(hidden.data(b"").build());
        assert!(matches!(error, MessageError::Decode(DecodeError::InvalidCount(_))), "{error:?}");
    }
}

#[test]
fn a_batch_is_its_inner_messages_all_or_none() {
    let clean = message().map(0x74, &[("n", "1")]).data(b"first").build();
    let forged = message().map(0x74, &[("iothub-message-source", "x")]).data(b"second").build();
    let batch = message().map(0x72, &[("x-opt-partition-key", "k")]).data(&clean).data(&forged).build();
    let (mut made, mut plans) = (Vec::new(), Vec::new());
    plan_batch(&batch, &mut made, &mut plans).unwrap();
    let stored: Vec<&[u8]> = plans.iter().map(|plan| plan.view(&batch, &made).message).collect();
    assert_eq!(stored, [clean.clone(), message().data(b"second").build()]);
    assert_eq!(plans.iter().map(EventPlan::is_as_given).collect::<Vec<_>>(), [true, false]);

    let refuse = |payload: Vec<u8>| plan_batch(&payload, &mut Vec::new(), &mut Vec::new()).unwrap_err();
    assert_eq!(refuse(vec![]), MessageError::Batch);
    assert_eq!(
        refuse(message().section(0x77, |out| encode::binary(out, &clean)).build()),
        MessageError::Batch
    );
    assert_eq!(refuse(message().data(&clean).data(b"").build()), MessageError::NoBody);
    assert!(matches!(refuse(message().data(&clean).data(b"junk").build()), MessageError::Decode(_)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever bytes come, planning ends in a plan or an error, and what it planned is a clean message again.
    #[test]
    fn planning_is_total_and_idempotent(
        properties in proptest::collection::vec(("[a-z]{0,12}", "[a-z]{0,12}"), 0..4),
        forged in any::<bool>(),
        body in proptest::collection::vec(any::<u8>(), 0..400),
        damage in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
    ) {
        let mut entries: Vec<(&str, &str)> =
            properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if forged {
            entries.push(("iothub-connection-device-id", "other"));
        }
        let mut payload = message().ids(encode::null, |out| encode::ulong(out, 7)).map(0x74, &entries).data(&body).build();
        if let Some((index, byte)) = damage {
            let at = index.index(payload.len());
            payload[at] = byte;
        }
        if let Ok((clean, _, _)) = stored(&payload) {
            let (again, annotations, as_given) = stored(&clean).unwrap();
            prop_assert!(as_given);
            prop_assert_eq!(again, clean);
            prop_assert_eq!(annotations, b"");
        }
    }
}
