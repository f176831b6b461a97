//! Property bags: `key=value` pairs joined by `&` at the end of a topic, percent-encoded. Keys that begin with `$.` are system
//! properties [IoT Hub: iot-mqtt-connect-to-iot-hub; azure-iot-sdk-c `iothubtransport_mqtt_common.c`].
//!
//! A device's message becomes the AMQP message that it would have sent over AMQP, so that readers find every property in the
//! same place whatever the protocol. A plus is a plus, never a blank. A key without `=` has an empty value. A value that does
//! not fit its system property (an expiry that is no time) stays, under its own name, an application property.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use net_amqp::value::{Descriptor, encode};
use net_amqp::{Body, DecodeError, Properties, Sections, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::binding::presence::EventShape;
use crate::binding::properties::is_reserved;
use crate::binding::status::iso_time;

/// Says that the device asked for its message to be kept, which no hub does.
pub const RETAIN_PROPERTY: (&str, &str) = ("mqtt-retain", "true");

/// Says that the device's connection broke [IoT Hub: iot-mqtt-connect-to-iot-hub].
pub const WILL_PROPERTY: (&str, &str) = ("iothub-MessageType", "Will");

const APPLICATION_PROPERTIES: u64 = 0x74;
const DATA: u64 = 0x75;

/// So many names of properties are held against each other; with more of them they are put into a table.
const NAMES_COMPARED: usize = 16;

/// What JavaScript's `encodeURIComponent` and Python's `quote` leave as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Where a system property goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    MessageId,
    CorrelationId,
    UserId,
    To,
    ContentType,
    ContentEncoding,
    Expiry,
    /// The message annotation of this index.
    Annotation(usize),
    /// An application property of another name.
    Renamed(&'static str),
    /// Only the hub may say this.
    Reserved,
}

/// System keys without their `$.`.
const SYSTEM_KEYS: [(&str, Place); 16] = [
    ("mid", Place::MessageId),
    ("cid", Place::CorrelationId),
    ("uid", Place::UserId),
    ("to", Place::To),
    ("ct", Place::ContentType),
    ("ce", Place::ContentEncoding),
    ("exp", Place::Expiry),
    ("ifid", Place::Annotation(0)),
    ("sub", Place::Annotation(1)),
    ("diagid", Place::Annotation(2)),
    ("diagctx", Place::Annotation(3)),
    ("ctime", Place::Renamed("iothub-creation-time-utc")),
    ("on", Place::Renamed("iothub-outputname")),
    ("schema", Place::Renamed("iothub-message-schema")),
    ("cdid", Place::Reserved),
    ("cmid", Place::Reserved),
];

/// Names of message annotations.
const ANNOTATIONS: [&str; 4] = ["iothub-interface-id", "dt-subject", "Diagnostic-Id", "Correlation-Context"];

/// So many of them are annotations even where they are written out.
const WRITTEN_OUT: usize = 2;

/// A bag that cannot be read: text that is not UTF-8 once it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a property's text is not UTF-8")]
pub struct BagError;

/// Append an event of a device: its annotations, then its AMQP message. `marks` are further application properties.
///
/// # Errors
///
/// [`BagError`]; `out` may have grown.
pub fn encode_event(
    bag: &str,
    payload: &[u8],
    marks: &[(&str, &str)],
    out: &mut Vec<u8>,
) -> Result<EventShape, BagError> {
    let start = out.len();
    let system = System::read(bag)?;
    let annotation_value_count = system.encode_annotations(out);
    let message_start = out.len();
    system.encode(out);
    encode_own(bag, marks, out)?;
    encode::descriptor(out, Descriptor::Code(DATA));
    encode::binary(out, payload);
    Ok(EventShape {
        annotations_bytes: message_start - start,
        annotation_value_count,
        message_bytes: out.len() - message_start,
    })
}

/// The pairs of a bag as they are written.
fn entries(bag: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = bag.strip_prefix('?').unwrap_or(bag);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        // By the byte, once: the texts are a few bytes long, and a search for each of the two signs costs more.
        let (mut equals, mut end) = (None, 0);
        for byte in rest.bytes() {
            match byte {
                b'&' => break,
                b'=' if equals.is_none() => equals = Some(end),
                _ => {}
            }
            end += 1;
        }
        let entry = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some((entry, equals))
    })
    .filter(|(entry, _)| !entry.is_empty())
    .map(|(entry, equals)| equals.map_or((entry, ""), |equals| (&entry[..equals], &entry[equals + 1..])))
}

fn decode(text: &str) -> Result<Cow<'_, str>, BagError> {
    match text.bytes().any(|byte| byte == b'%') {
        true => percent_decode_str(text).decode_utf8().map_err(|_| BagError),
        false => Ok(Cow::Borrowed(text)),
    }
}

/// Where the property of a decoded name goes, if that is not the device's own affair.
fn place_of(name: &str) -> Option<Place> {
    // Nearly all names end here.
    if !matches!(name.as_bytes(), [b'$' | b'd' | b'i', ..]) {
        return None;
    }
    match name.strip_prefix("$.") {
        Some(key) => SYSTEM_KEYS.iter().find(|(known, _)| *known == key).map(|(_, place)| *place),
        None => ANNOTATIONS[..WRITTEN_OUT].iter().position(|known| *known == name).map(Place::Annotation),
    }
}

/// The system properties of a bag: those with a field in the properties section, and the annotations.
#[derive(Default)]
struct System<'a> {
    message_id: Option<Cow<'a, str>>,
    correlation_id: Option<Cow<'a, str>>,
    user_id: Option<Cow<'a, str>>,
    to: Option<Cow<'a, str>>,
    content_type: Option<Cow<'a, str>>,
    content_encoding: Option<Cow<'a, str>>,
    expiry_ms: Option<i64>,
    annotations: [Option<Cow<'a, str>>; ANNOTATIONS.len()],
}

impl<'a> System<'a> {
    fn read(bag: &'a str) -> Result<Self, BagError> {
        let mut found = Self::default();
        for (name, value) in entries(bag) {
            let Some(place) = place_of(&decode(name)?) else { continue };
            let value = decode(value)?;
            match place {
                place if !fits(place, &value) => {}
                Place::MessageId => found.message_id = Some(value),
                Place::CorrelationId => found.correlation_id = Some(value),
                Place::UserId => found.user_id = Some(value),
                Place::To => found.to = Some(value),
                Place::ContentType => found.content_type = Some(value),
                Place::ContentEncoding => found.content_encoding = Some(value),
                Place::Expiry => found.expiry_ms = read_time(&value),
                Place::Annotation(index) => found.annotations[index] = Some(value),
                Place::Renamed(_) | Place::Reserved => {}
            }
        }
        Ok(found)
    }

    /// How many AMQP values were appended.
    fn encode_annotations(&self, out: &mut Vec<u8>) -> u16 {
        let mut value_count = 0;
        for (name, value) in ANNOTATIONS.iter().zip(&self.annotations) {
            if let Some(value) = value {
                encode::symbol(out, name);
                encode::string(out, value);
                value_count += 2;
            }
        }
        value_count
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let properties = Properties {
            message_id: self.message_id.as_deref().map(Value::String),
            correlation_id: self.correlation_id.as_deref().map(Value::String),
            user_id: self.user_id.as_deref().map(str::as_bytes),
            to: self.to.as_deref(),
            content_type: self.content_type.as_deref(),
            content_encoding: self.content_encoding.as_deref(),
            absolute_expiry_time_ms: self.expiry_ms,
            ..Properties::default()
        };
        if properties != Properties::default() {
            properties.encode(out);
        }
    }
}

/// Whether a value can stand where its system property goes.
fn fits(place: Place, value: &str) -> bool {
    match place {
        Place::ContentType | Place::ContentEncoding => value.is_ascii(),
        Place::Expiry => read_time(value).is_some(),
        _ => true,
    }
}

/// Append the application properties: the device's own, and the marks. Each stands once [AMQP 1.6.23]: the last counts.
fn encode_own(bag: &str, marks: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), BagError> {
    let start = out.len();
    encode::descriptor(out, Descriptor::Code(APPLICATION_PROPERTIES));
    let map = encode::begin_map(out);
    let (mut names, mut may_repeat, mut count) = ([(0, 0); NAMES_COMPARED], false, 0);
    let mut put = |name: &str, value: &str, out: &mut Vec<u8>| {
        let at = out.len();
        encode::string(out, name);
        match names.get_mut(count) {
            Some(place) => {
                *place = (at, out.len());
                may_repeat |= names[..count].iter().any(|&(from, to)| out[from..to] == out[at..]);
            }
            None => may_repeat = true,
        }
        encode::string(out, value);
        count += 1;
    };
    for (name, value) in entries(bag) {
        if let Some((name, value)) = own(name, value)? {
            put(&name, &value, out);
        }
    }
    for (name, value) in marks {
        put(name, value, out);
    }
    if count == 0 || may_repeat {
        out.truncate(start);
    } else {
        map.end(out, 2 * count as u32);
    }
    if may_repeat { encode_own_once(bag, marks, out) } else { Ok(()) }
}

/// The same where a property may stand more than once, or there are many.
fn encode_own_once(bag: &str, marks: &[(&str, &str)], out: &mut Vec<u8>) -> Result<(), BagError> {
    let own = entries(bag).filter_map(|(name, value)| own(name, value).transpose());
    let marks = marks.iter().map(|(name, value)| Ok((Cow::Borrowed(*name), Cow::Borrowed(*value))));
    let all = own.chain(marks).collect::<Result<Vec<_>, _>>()?;
    let last: HashMap<&str, usize> =
        all.iter().enumerate().map(|(index, (name, _))| (&**name, index)).collect();
    encode::descriptor(out, Descriptor::Code(APPLICATION_PROPERTIES));
    let map = encode::begin_map(out);
    for (index, (name, value)) in all.iter().enumerate() {
        if last[&**name] == index {
            encode::string(out, name);
            encode::string(out, value);
        }
    }
    map.end(out, 2 * last.len() as u32);
    Ok(())
}

/// An application property: its name and value.
type Own<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The application property, if it is one, that an entry of a bag becomes.
fn own<'a>(name: &'a str, value: &'a str) -> Result<Option<Own<'a>>, BagError> {
    let (name, value) = (decode(name)?, decode(value)?);
    Ok(match place_of(&name) {
        Some(Place::Renamed(known)) => Some((Cow::Borrowed(known), value)),
        Some(Place::Reserved) => None,
        Some(place) if fits(place, &value) => None,
        None if is_reserved(name.as_bytes()) => None,
        _ => Some((name, value)),
    })
}

/// A moment as clients write it, milliseconds since 1970: ISO 8601, UTC where it does not say, or the number itself.
fn read_time(text: &str) -> Option<i64> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some(moment.as_millisecond());
    }
    let in_utc = |moment: DateTime| TimeZone::UTC.to_timestamp(moment).ok();
    match text.parse::<DateTime>().ok().and_then(in_utc) {
        Some(moment) => Some(moment.as_millisecond()),
        None => text.parse().ok(),
    }
}

/// Append a command's properties to its topic, and give its body.
///
/// # Errors
///
/// [`DecodeError`]: what is stored is no message of the form that commands have.
pub fn encode_command<'a>(message: &'a [u8], topic: &mut String) -> Result<Cow<'a, [u8]>, DecodeError> {
    let sections = Sections::parse(message)?;
    let mut bag = Bag { topic, is_first: true };
    let properties = sections.properties.unwrap_or_default();
    bag.put_system("mid", properties.message_id.and_then(|id| id.as_text()));
    bag.put_system("cid", properties.correlation_id.and_then(|id| id.as_text()));
    bag.put_system("uid", properties.user_id.and_then(|id| std::str::from_utf8(id).ok()));
    bag.put_system("to", properties.to);
    bag.put_system("ct", properties.content_type);
    bag.put_system("ce", properties.content_encoding);
    let expiry = properties.absolute_expiry_time_ms.and_then(|ms| u64::try_from(ms).ok()).map(iso_time);
    bag.put_system("exp", expiry.as_deref());
    for entry in sections.application_properties.iter().flat_map(|map| map.iter()) {
        let (name, value) = entry?;
        if let (Some(name), Some(value)) = (name.as_text(), value.as_text()) {
            bag.put(name, value);
        }
    }
    match sections.body {
        Body::Data(data) => match data.single() {
            Some(data) => Ok(Cow::Borrowed(data)),
            None => Ok(Cow::Owned(data.iter().flatten().copied().collect())),
        },
        _ => Err(DecodeError::WrongType("body")),
    }
}

struct Bag<'a> {
    topic: &'a mut String,
    is_first: bool,
}

impl Bag<'_> {
    fn put_system(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.begin();
            // The C client compares the key as it is encoded.
            self.topic.extend(["%24.", key]);
            self.put_value(value);
        }
    }

    fn put(&mut self, name: &str, value: &str) {
        self.begin();
        self.topic.extend(utf8_percent_encode(name, ESCAPED));
        self.put_value(value);
    }

    fn put_value(&mut self, value: &str) {
        // Also in front of nothing: without it Azure's clients give their applications `undefined` or None.
        self.topic.push('=');
        self.topic.extend(utf8_percent_encode(value, ESCAPED));
    }

    fn begin(&mut self) {
        if !std::mem::take(&mut self.is_first) {
            self.topic.push('&');
        }
    }
}

#[cfg(test)]
mod tests {
    use net_amqp::MessageBuilder;

    use super::*;

    #[test]
    fn every_property_goes_where_amqp_clients_put_it() {
        let bag = "%24.mid=m%201&$.cid=c&$.uid=u&%24.to=%2Fdevices%2Fd&%24.ct=application%2Fjson&%24.ce=utf-8\
                   &%24.exp=2026-11-21T20%3A58%3A03Z&%24.ifid=urn:i&%24.sub=part&%24.ctime=now&%24.on=out&%24.schema=s\
                   &a=b&a%20b=c%3Dd%26&plus+=1+1&empty=&none&iothub-ack=full&%C3%A4=%E2%82%AC&$.new=x\
                   &iothub-connection-device-id=forged&%24.cdid=forged&IoTHub-EnqueuedTime=1";
        let mut out = b"in front".to_vec();
        let shape = encode_event(bag, b"body", &[RETAIN_PROPERTY], &mut out).unwrap();
        let (annotations, message) = out[8..].split_at(shape.annotations_bytes);
        assert_eq!(message.len(), shape.message_bytes);
        let sections = Sections::parse(message).unwrap();
        let expected = Properties {
            message_id: Some(Value::String("m 1")),
            correlation_id: Some(Value::String("c")),
            user_id: Some(b"u"),
            to: Some("/devices/d"),
            content_type: Some("application/json"),
            content_encoding: Some("utf-8"),
            absolute_expiry_time_ms: Some(1_795_294_683_000),
            ..Properties::default()
        };
        assert_eq!(sections.properties, Some(expected));
        let own: Vec<(String, String)> = sections
            .application_properties
            .unwrap()
            .iter()
            .map(|entry| entry.unwrap())
            .map(|(name, value)| (name.as_text().unwrap().into(), value.as_text().unwrap().into()))
            .collect();
        let expected = [
            ("iothub-creation-time-utc", "now"),
            ("iothub-outputname", "out"),
            ("iothub-message-schema", "s"),
            ("a", "b"),
            ("a b", "c=d&"),
            ("plus+", "1+1"),
            ("empty", ""),
            ("none", ""),
            ("iothub-ack", "full"),
            ("ä", "€"),
            ("$.new", "x"),
            ("mqtt-retain", "true"),
        ];
        assert_eq!(own, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let Body::Data(data) = sections.body else { panic!() };
        assert_eq!(data.single(), Some(&b"body"[..]));
        assert_eq!(shape.annotation_value_count, 4);
        let mut expected = Vec::new();
        for (name, value) in [("iothub-interface-id", "urn:i"), ("dt-subject", "part")] {
            encode::symbol(&mut expected, name);
            encode::string(&mut expected, value);
        }
        assert_eq!(annotations, expected);
    }

    /// A map has no equal keys [AMQP 1.6.23].
    #[test]
    fn a_property_that_stands_twice_counts_once() {
        let bag = "a=1&b=1&a=2&$.ctime=old&iothub-creation-time-utc=new&mqtt-retain=no&%61=3\
                   &$.sub=x&$.ifid=urn:i&dt-subject=y";
        let read = |bag: &str| {
            let mut out = Vec::new();
            let shape = encode_event(bag, b"", &[RETAIN_PROPERTY], &mut out).unwrap();
            let (annotations, message) = out.split_at(shape.annotations_bytes);
            let sections = Sections::parse(message).unwrap();
            let texts = |(name, value): (Value<'_>, Value<'_>)| {
                (name.as_text().unwrap().to_owned(), value.as_text().unwrap().to_owned())
            };
            let own = sections.application_properties.unwrap();
            let own: Vec<_> = own.iter().map(|entry| texts(entry.unwrap())).collect();
            (annotations.to_vec(), shape.annotation_value_count, own)
        };
        let (annotations, value_count, own) = read(bag);
        let mut expected = Vec::new();
        for (name, value) in [("iothub-interface-id", "urn:i"), ("dt-subject", "y")] {
            encode::symbol(&mut expected, name);
            encode::string(&mut expected, value);
        }
        assert_eq!((annotations, value_count), (expected, 4));
        let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = [
            text("b", "1"),
            text("iothub-creation-time-utc", "new"),
            text("a", "3"),
            text("mqtt-retain", "true"),
        ];
        assert_eq!(own, expected);

        // As many as a topic holds, by the other way.
        let many: Vec<String> = (0..10_000).map(|number| format!("{}={number}", number % 100)).collect();
        let (_, _, own) = read(&many.join("&"));
        assert_eq!(own.len(), 101);
        assert_eq!(
            (&own[0], &own[99], &own[100]),
            (&text("0", "9900"), &text("99", "9999"), &text("mqtt-retain", "true"))
        );
    }

    #[test]
    fn what_does_not_fit_stays_a_property() {
        let mut out = Vec::new();
        encode_event("$.exp=soon&$.ct=%C3%A4", b"", &[], &mut out).unwrap();
        let sections = Sections::parse(&out).unwrap();
        assert_eq!(sections.properties, None);
        let own = sections.application_properties.unwrap();
        assert_eq!(own.find("$.exp"), Some(Value::String("soon")));
        assert_eq!(own.find("$.ct"), Some(Value::String("ä")));
    }

    #[test]
    fn times_as_clients_write_them() {
        for (text, expected) in [
            ("2026-11-21T20:58:03Z", Some(1_795_294_683_000)),
            ("2026-11-21T20:58:03", Some(1_795_294_683_000)),
            ("2026-11-21T20:58:03.123456", Some(1_795_294_683_123)),
            ("2026-11-21T20:58:03.123456Z", Some(1_795_294_683_123)),
            ("2026-11-21T20:58:03+00:00", Some(1_795_294_683_000)),
            ("2026-11-21T21:58:03+01:00", Some(1_795_294_683_000)),
            ("1795294683000", Some(1_795_294_683_000)),
            ("2026-11-21", Some(1_795_219_200_000)),
            ("20:58:03", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(read_time(text), expected, "{text}");
        }
    }

    #[test]
    fn a_bag_may_be_empty_and_must_be_text() {
        for bag in ["", "?", "&&"] {
            let mut out = Vec::new();
            encode_event(bag, b"x", &[], &mut out).unwrap();
            assert_eq!(out, b"\x00\x53\x75\xa0\x01x", "{bag}");
        }
        assert_eq!(encode_event("a=%ff", b"", &[], &mut Vec::new()), Err(BagError));
        assert_eq!(encode_event("%C3=b", b"", &[], &mut Vec::new()), Err(BagError));
    }

    #[test]
    fn a_commands_topic_has_all_its_properties() {
        let message = MessageBuilder::default()
            .properties(Properties {
                message_id: Some(Value::String("m 1")),
                correlation_id: Some(Value::String("c")),
                user_id: Some(b"u"),
                to: Some("/devices/d/messages/devicebound"),
                content_type: Some("a/b"),
                content_encoding: Some("utf-8"),
                absolute_expiry_time_ms: Some(1_795_294_683_000),
                ..Properties::default()
            })
            .application_property("iothub-ack", Value::String("full"))
            .application_property("ä b", Value::String("1+1=2"))
            .application_property("none", Value::String(""))
            .data(b"body")
            .encode();
        let mut topic = "devices/d/messages/devicebound/".to_owned();
        assert_eq!(*encode_command(&message, &mut topic).unwrap(), *b"body");
        assert_eq!(
            topic,
            "devices/d/messages/devicebound/%24.mid=m%201&%24.cid=c&%24.uid=u\
             &%24.to=%2Fdevices%2Fd%2Fmessages%2Fdevicebound&%24.ct=a%2Fb&%24.ce=utf-8&%24.exp=2026-11-21T20%3A58%3A03Z\
             &iothub-ack=full&%C3%A4%20b=1%2B1%3D2&none="
        );
        let mut topic = String::new();
        let empty = Properties { correlation_id: Some(Value::String("")), ..Properties::default() };
        let empty = MessageBuilder::default().properties(empty).data(b"").encode();
        assert!(encode_command(&empty, &mut topic).unwrap().is_empty());
        assert_eq!(topic, "%24.cid=");
        let mut topic = String::new();
        let bare = MessageBuilder::default().data(b"").encode();
        assert!(encode_command(&bare, &mut topic).unwrap().is_empty() && topic.is_empty());
        assert!(encode_command(b"\x00", &mut topic).is_err());
    }
}
