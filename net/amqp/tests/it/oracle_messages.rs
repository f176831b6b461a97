//! Messages against fe2o3-amqp's, in both directions.

use fe2o3_amqp_types::messaging as theirs;
use fe2o3_amqp_types::messaging::message::__private::{Deserializable, Serializable};
use fe2o3_amqp_types::primitives::SimpleValue;
use net_amqp::message::Header;
use net_amqp::{Body, MessageBuilder, Properties, Sections, Value};
use proptest::prelude::*;
use serde_amqp::Value as TheirValue;
use serde_amqp::primitives::{Symbol, Timestamp, Uuid};
use serde_amqp::{from_slice, to_vec};

use crate::oracle::seeded;

/// What a message is made of.
#[derive(Clone, Debug)]
struct Parts {
    id: Option<Id>,
    correlation_id: Option<Id>,
    texts: [Option<String>; 6],
    symbols: [Option<String>; 2],
    times: [Option<i64>; 2],
    user_id: Option<Vec<u8>>,
    group_sequence: Option<u32>,
    header: Option<(bool, u8, Option<u32>, u32)>,
    annotations: Option<std::collections::BTreeMap<String, i64>>,
    application: Option<std::collections::BTreeMap<String, String>>,
    body: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Id {
    Text(String),
    Uuid([u8; 16]),
    Ulong(u64),
    Binary(Vec<u8>),
}

impl Id {
    fn ours(&self) -> Value<'_> {
        match self {
            Id::Text(text) => Value::String(text),
            Id::Uuid(bytes) => Value::Uuid(*bytes),
            Id::Ulong(number) => Value::Ulong(*number),
            Id::Binary(bytes) => Value::Binary(bytes),
        }
    }

    fn theirs(&self) -> theirs::MessageId {
        match self {
            Id::Text(text) => theirs::MessageId::String(text.clone()),
            Id::Uuid(bytes) => theirs::MessageId::Uuid(Uuid::from(*bytes)),
            Id::Ulong(number) => theirs::MessageId::Ulong(*number),
            Id::Binary(bytes) => theirs::MessageId::Binary(bytes.clone().into()),
        }
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let id = prop_oneof![
        "\\PC{0,40}".prop_map(Id::Text),
        any::<[u8; 16]>().prop_map(Id::Uuid),
        prop_oneof![Just(0), any::<u64>()].prop_map(Id::Ulong),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Id::Binary),
    ];
    let text = "\\PC{0,20}";
    let name = "[a-z-]{1,10}";
    (
        (
            prop::option::of(id.clone()),
            prop::option::of(id),
            prop::array::uniform6(prop::option::of(text)),
            prop::array::uniform2(prop::option::of("[a-z/+]{0,20}")),
            any::<[Option<i64>; 2]>(),
            prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            any::<Option<u32>>(),
        ),
        (
            any::<Option<(bool, u8, Option<u32>, u32)>>(),
            prop::option::of(prop::collection::btree_map(name, any::<i64>(), 1..4)),
            prop::option::of(prop::collection::btree_map(text, text, 1..4)),
            prop::collection::vec(any::<u8>(), 0..400),
        ),
    )
        .prop_map(
            |(
                (id, correlation_id, texts, symbols, times, user_id, group_sequence),
                (header, annotations, application, body),
            )| Parts {
                id,
                correlation_id,
                texts,
                symbols,
                times,
                user_id,
                group_sequence,
                header,
                annotations,
                application,
                body,
            },
        )
}

impl Parts {
    fn properties(&self) -> Properties<'_> {
        let [to, subject, reply_to, group_id, reply_to_group_id, _] =
            self.texts.each_ref().map(Option::as_deref);
        let [content_type, content_encoding] = self.symbols.each_ref().map(Option::as_deref);
        Properties {
            message_id: self.id.as_ref().map(Id::ours),
            user_id: self.user_id.as_deref(),
            to,
            subject,
            reply_to,
            correlation_id: self.correlation_id.as_ref().map(Id::ours),
            content_type,
            content_encoding,
            absolute_expiry_time_ms: self.times[0],
            creation_time_ms: self.times[1],
            group_id,
            group_sequence: self.group_sequence,
            reply_to_group_id,
        }
    }

    fn header(&self) -> Option<Header> {
        self.header.map(|(durable, priority, ttl_ms, delivery_count)| Header {
            durable,
            priority,
            ttl_ms,
            first_acquirer: !durable,
            delivery_count,
        })
    }

    fn ours(&self) -> Vec<u8> {
        let mut builder = MessageBuilder::default().properties(self.properties());
        if let Some(header) = self.header() {
            builder = builder.header(header);
        }
        for (key, value) in self.annotations.iter().flatten() {
            builder = builder.message_annotation(key, Value::Long(*value));
        }
        for (key, value) in self.application.iter().flatten() {
            builder = builder.application_property(key, Value::String(value));
        }
        builder.data(&self.body).encode()
    }

    fn theirs(&self) -> theirs::Message<theirs::Data> {
        let [to, subject, reply_to, group_id, reply_to_group_id, _] = self.texts.clone();
        let [content_type, content_encoding] = self.symbols.clone().map(|text| text.map(Symbol::from));
        let [absolute_expiry_time, creation_time] =
            self.times.map(|time| time.map(Timestamp::from_milliseconds));
        let annotations = self.annotations.as_ref().map(|entries| {
            entries.iter().fold(theirs::MessageAnnotations::builder(), |builder, (key, value)| {
                builder.insert(Symbol::from(key.as_str()), *value)
            })
        });
        let application = self.application.as_ref().map(|entries| {
            entries.iter().fold(theirs::ApplicationProperties::builder(), |builder, (key, value)| {
                builder.insert(key.clone(), SimpleValue::String(value.clone()))
            })
        });
        theirs::Message {
            header: self.header().map(|header| theirs::Header {
                durable: header.durable,
                priority: theirs::Priority(header.priority),
                ttl: header.ttl_ms,
                first_acquirer: header.first_acquirer,
                delivery_count: header.delivery_count,
            }),
            delivery_annotations: None,
            message_annotations: annotations.map(|builder| builder.build()),
            properties: Some(theirs::Properties {
                message_id: self.id.as_ref().map(Id::theirs),
                user_id: self.user_id.clone().map(Into::into),
                to,
                subject,
                reply_to,
                correlation_id: self.correlation_id.as_ref().map(Id::theirs),
                content_type,
                content_encoding,
                absolute_expiry_time,
                creation_time,
                group_id,
                group_sequence: self.group_sequence,
                reply_to_group_id,
            }),
            application_properties: application.map(|builder| builder.build()),
            body: theirs::Data(self.body.clone().into()),
            footer: None,
        }
    }
}

proptest! {
    #![proptest_config(seeded(200))]

    #[test]
    fn messages_mean_the_same(parts in parts()) {
        let ours = parts.ours();
        let read = from_slice::<Deserializable<theirs::Message<theirs::Data>>>(&ours).unwrap().0;
        prop_assert_eq!(&read, &parts.theirs());

        let theirs = to_vec(&Serializable(parts.theirs())).unwrap();
        let sections = Sections::parse(&theirs).unwrap();
        prop_assert_eq!(sections.header, parts.header());
        prop_assert_eq!(sections.properties, Some(parts.properties()));
        for (key, value) in parts.annotations.iter().flatten() {
            prop_assert_eq!(sections.message_annotations.unwrap().find(key), Some(Value::Long(*value)));
        }
        for (key, value) in parts.application.iter().flatten() {
            prop_assert_eq!(sections.application_properties.unwrap().find(key), Some(Value::String(value)));
        }
        let Body::Data(data) = sections.body else { panic!("{:?}", sections.body) };
        prop_assert_eq!(data.single(), Some(&parts.body[..]));
        prop_assert_eq!(Sections::parse(&ours).unwrap().properties, sections.properties);
    }
}

#[test]
fn a_value_as_body_means_the_same() {
    let ours = MessageBuilder::default().value(Value::String("put-token")).encode();
    let read = from_slice::<Deserializable<theirs::Message<theirs::AmqpValue<TheirValue>>>>(&ours).unwrap().0;
    assert_eq!(read.body.0, TheirValue::String("put-token".into()));
    assert_eq!(to_vec(&Serializable(read)).unwrap(), ours);
}
