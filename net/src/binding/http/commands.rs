//! Commands for a device: a locked message becomes a response whose headers carry its properties [IoT Hub: device REST API].

use std::borrow::Cow;

use engine::request::{Ack, LockToken, LockedCommand};
use net_amqp::{Body, Sections, Value};
use net_http::Head;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::answer::{Answer, confused, invalid};
use super::fields::OWN_PREFIX;
use crate::binding::command::{ACK_PROPERTY, ack_word};
use crate::binding::status::{Status, iso_time};

/// The request header that asks for a shorter lock, in seconds.
const LOCK_TIMEOUT: &str = "iothub-messagelocktimeout";

/// What may stand in a header's name [RFC 9110 5.6.2]; everything else of a property's name is percent-encoded.
const NAME: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// How long the device wants the lock to last. None: as long as it may.
pub(super) fn read_lock_timeout(head: &Head<'_>) -> Result<Option<u64>, Status> {
    let Some(text) = head.header(LOCK_TIMEOUT) else { return Ok(None) };
    match text.trim().parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Some(u64::from(seconds) * 1000)),
        _ => Err(invalid(format!("{LOCK_TIMEOUT} is a number of seconds"))),
    }
}

/// Read a lock from a path. What is no lock was never one: the device is told that it is lost.
pub(super) fn read_lock(text: &str) -> Result<LockToken, Status> {
    let lost = || Status::of(&engine::request::EngineError::LockLost);
    LockToken::parse(text.trim_matches('"')).ok_or_else(lost)
}

/// The command, or 204 where there is none.
///
/// # Errors
///
/// The stored message cannot be read, which is the hub's fault.
pub(super) fn command_answer(commands: &[LockedCommand]) -> Result<Answer, Status> {
    let Some(command) = commands.first() else { return Ok(Answer::no_content()) };
    let sections = Sections::parse(&command.message).map_err(|_| confused())?;
    let mut answer = Answer { status: 200, headers: Vec::new(), body: body_of(sections.body)? }
        .with("ETag", format!("\"{}\"", command.token))
        .with("iothub-sequencenumber", command.number.0.to_string())
        .with("iothub-enqueuedtime", iso_time(command.enqueued_ms))
        .with("iothub-expiry", iso_time(command.expires_ms))
        .with("iothub-deliverycount", command.delivery_count.to_string());
    if command.ack != Ack::None {
        answer = answer.with("iothub-ack", ack_word(command.ack));
    }
    let mut content_type = "application/octet-stream";
    if let Some(properties) = sections.properties {
        let texts = [
            ("iothub-messageid", properties.message_id.map(text_of)),
            ("iothub-correlationid", properties.correlation_id.map(text_of)),
            ("iothub-userid", properties.user_id.map(|id| text_of(Value::Binary(id)))),
            ("iothub-to", properties.to.map(str::to_owned)),
            ("iothub-contenttype", properties.content_type.map(str::to_owned)),
            ("iothub-contentencoding", properties.content_encoding.map(str::to_owned)),
            // The C client looks for these.
            ("ContentType", properties.content_type.map(str::to_owned)),
            ("ContentEncoding", properties.content_encoding.map(str::to_owned)),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                answer = answer.with(name, text);
            }
        }
        content_type = properties.content_type.unwrap_or(content_type);
    }
    answer = answer.with("Content-Type", content_type);
    for entry in sections.application_properties.iter().flat_map(|properties| properties.iter()) {
        let Ok((name, value)) = entry else { continue };
        let name = name.as_text().unwrap_or_default();
        // Its receiver is told by the header above.
        if !name.eq_ignore_ascii_case(ACK_PROPERTY) {
            answer = answer.with(header_name(name), text_of(value));
        }
    }
    Ok(answer)
}

fn header_name(name: &str) -> Cow<'static, str> {
    Cow::Owned(format!("{OWN_PREFIX}{}", utf8_percent_encode(name, NAME)))
}

fn body_of(body: Body<'_>) -> Result<Vec<u8>, Status> {
    match body {
        Body::Empty => Ok(Vec::new()),
        Body::Data(data) => Ok(data.iter().flatten().copied().collect()),
        Body::Value(Value::Binary(bytes)) => Ok(bytes.to_vec()),
        Body::Value(value) => Ok(text_of(value).into_bytes()),
        Body::Sequence(_) => Err(confused()),
    }
}

/// A value as text: headers hold nothing else.
fn text_of(value: Value<'_>) -> String {
    match value {
        Value::String(text) | Value::Symbol(text) => text.to_owned(),
        Value::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Uuid(bytes) => uuid::Uuid::from_bytes(bytes).to_string(),
        Value::Timestamp(ms) => u64::try_from(ms).map(iso_time).unwrap_or_default(),
        Value::Ulong(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        value => value.as_i64().map(|number| number.to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use engine::request::{PartitionId, SequenceNumber};
    use net_amqp::{MessageBuilder, Properties};

    use super::*;

    fn command(message: Vec<u8>, ack: Ack) -> LockedCommand {
        LockedCommand {
            token: LockToken::new(PartitionId(1), SequenceNumber(2), 3),
            number: SequenceNumber(2),
            enqueued_ms: 1_795_294_683_001,
            expires_ms: 1_795_298_283_001,
            delivery_count: 4,
            ack,
            message: message.into(),
        }
    }

    fn headers(answer: &Answer) -> Vec<(String, String)> {
        answer.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect()
    }

    #[test]
    fn a_command_is_its_body_and_its_headers() {
        let properties = Properties {
            message_id: Some(Value::String("m")),
            correlation_id: Some(Value::String("c")),
            user_id: Some(b"u"),
            to: Some("/devices/d/messages/devicebound"),
            content_type: Some("text/plain"),
            ..Properties::default()
        };
        let message = MessageBuilder::default()
            .properties(properties)
            .application_property("iothub-ack", Value::String("full"))
            .application_property("Own", Value::String("v\u{e4}l\r\nInjected: x"))
            .application_property("a b:\u{e4}", Value::Int(-7))
            .data(b"hel")
            .data(b"lo");
        let answer = command_answer(&[command(message.encode(), Ack::Full)]).unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hello"[..]));
        let pairs = headers(&answer);
        let find = |name: &str| {
            let mut found = pairs.iter().filter(|(known, _)| known == name);
            let value = found.next().map(|(_, value)| value.as_str());
            assert!(found.next().is_none(), "{name} twice");
            value
        };
        assert_eq!(find("ETag"), Some("\"01000200-0000-0000-0300-000000000000\""));
        for (name, value) in [
            ("iothub-messageid", "m"),
            ("iothub-correlationid", "c"),
            ("iothub-userid", "u"),
            ("iothub-to", "/devices/d/messages/devicebound"),
            ("iothub-sequencenumber", "2"),
            ("iothub-deliverycount", "4"),
            ("iothub-ack", "full"),
            ("iothub-enqueuedtime", "2026-11-21T20:58:03.001Z"),
            ("iothub-expiry", "2026-11-21T21:58:03.001Z"),
            ("Content-Type", "text/plain"),
            ("ContentType", "text/plain"),
            ("iothub-app-a%20b%3A%C3%A4", "-7"),
        ] {
            assert_eq!(find(name), Some(value), "{name}");
        }
        assert!(find("iothub-app-Own").is_some() && find("iothub-app-iothub-ack").is_none());
    }

    #[test]
    fn nothing_waits_and_nothing_is_said() {
        assert_eq!(command_answer(&[]).unwrap(), Answer::no_content());
        let bare = command_answer(&[command(Vec::new(), Ack::None)]).unwrap();
        assert_eq!((bare.status, bare.body.len()), (200, 0));
        assert_eq!(command_answer(&[command(vec![1, 2], Ack::None)]).unwrap_err().http, 500);
    }

    #[test]
    fn locks_come_with_quotes_or_without() {
        let token = LockToken::new(PartitionId(1), SequenceNumber(2), 3);
        assert_eq!(read_lock(&token.to_string()), Ok(token));
        assert_eq!(read_lock(&format!("\"{token}\"")), Ok(token));
        for text in ["", "x", "01000200-0000-0000-0300"] {
            assert_eq!(read_lock(text).unwrap_err().code, 412_002, "{text}");
        }
    }
}
