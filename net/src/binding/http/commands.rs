//! Commands for a device: a locked message becomes a response whose headers carry its properties [IoT Hub: device REST API].

use std::borrow::Cow;

use engine::request::{LockToken, LockedCommand};
use net_http::Head;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::answer::{Answer, confused, invalid};
use crate::binding::fields::{CommandFields, OWN_PREFIX};
use crate::binding::status::Status;

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
    let fields = CommandFields::read(command).map_err(|_| confused())?;
    let mut answer = Answer { status: 200, headers: Vec::new(), body: fields.body }
        .with("ETag", format!("\"{}\"", command.token));
    for (name, text) in fields.known {
        answer = answer.with(name, text);
    }
    // The C client looks for these.
    let of_c = [("ContentType", fields.content_type.clone()), ("ContentEncoding", fields.content_encoding)];
    for (name, text) in of_c {
        if let Some(text) = text {
            answer = answer.with(name, text);
        }
    }
    let content_type = fields.content_type.unwrap_or_else(|| "application/octet-stream".to_owned());
    answer = answer.with("Content-Type", content_type);
    for (name, text) in fields.own {
        answer = answer.with(header_name(&name), text);
    }
    Ok(answer)
}

fn header_name(name: &str) -> Cow<'static, str> {
    Cow::Owned(format!("{OWN_PREFIX}{}", utf8_percent_encode(name, NAME)))
}

#[cfg(test)]
mod tests {
    use engine::request::{Ack, PartitionId, SequenceNumber};
    use net_amqp::{MessageBuilder, Properties, Value};

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
