//! `corehub monitor`: events, one line each, as they arrive.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use jiff::Timestamp;
use net_amqp::{Body, Sections, Value};
use serde_json::Value as Json;

use super::https::{Hub, segment};
use super::reader::{Plan, Reader};
use super::talk::{Step, Talk, talk};
use super::{CommandError, HubArguments, print_line};

/// The policy that the monitor reads as.
const POLICY: &str = "service";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    hub: HubArguments,
    /// Only this device's events
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u16>,
    /// Where to start: earliest, latest, or a time such as 2026-01-31T08:00:00Z
    #[arg(long, value_name = "earliest|latest|TIME", default_value = "latest")]
    from: From,
    /// Consumer group to read in
    #[arg(long, value_name = "G", default_value = "$Default")]
    consumer_group: String,
}

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Earliest,
    Latest,
    Time(Timestamp),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(Self::Earliest),
            "latest" => Ok(Self::Latest),
            time => time.parse().map(Self::Time).map_err(|_| {
                format!("{text:?} is neither earliest nor latest nor a time such as 2026-01-31T08:00:00Z")
            }),
        }
    }
}

impl From {
    fn selector(self) -> String {
        match self {
            Self::Earliest => "amqp.annotation.x-opt-offset > '-1'".into(),
            Self::Latest => "amqp.annotation.x-opt-offset > '@latest'".into(),
            Self::Time(time) => {
                format!("amqp.annotation.x-opt-enqueued-time >= '{}'", time.as_millisecond())
            }
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let hub = Hub::find(&arguments.hub.data)?;
    let partition_count = hub.info.partitions;
    let partitions = match arguments.partition {
        None => (0..partition_count).collect(),
        Some(partition) if partition < partition_count => vec![partition],
        Some(partition) => {
            return Err(CommandError::new(format!(
                "there is no partition {partition}: the hub has {partition_count}"
            )));
        }
    };
    let policy = hub.ask("GET", &format!("/policies/{}", segment(POLICY)), &[], None)?.body;
    let key = policy.get("primaryKey").and_then(Json::as_str).unwrap_or_default();
    let plan = Plan {
        hub: hub.info.name.clone(),
        group: arguments.consumer_group.clone(),
        partitions,
        selector: arguments.from.selector(),
        policy: POLICY.into(),
        key: key.into(),
    };
    let device = arguments.device.clone();
    talk(&hub, |now_ms, output| Monitor { reader: Reader::start(plan, now_ms, output), device })?;
    Ok(())
}

/// Prints events until the hub ends it, or somebody ends the program.
struct Monitor {
    reader: Reader,
    /// Whose alone.
    device: Option<String>,
}

impl Talk for Monitor {
    fn handle(&mut self, input: &[u8], output: &mut Vec<u8>, now_ms: u64) -> Result<Step, String> {
        let device = self.device.as_deref();
        self.reader.handle(input, output, now_ms, |partition, message| {
            if let Some(line) = line(partition, message, device) {
                print_line(line);
            }
        })?;
        Ok(Step::GoesOn)
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        self.reader.next_timeout_ms()
    }

    fn handle_timeout(&mut self, now_ms: u64, output: &mut Vec<u8>) -> Result<Step, String> {
        self.reader.handle_timeout(now_ms, output)?;
        Ok(Step::GoesOn)
    }
}

/// One event's line; none when it is another device's.
fn line(partition: u16, message: &[u8], device: Option<&str>) -> Option<String> {
    let Ok(message) = Sections::parse(message) else {
        return Some(format!("partition {partition}: an event that cannot be read"));
    };
    let annotation = |name| message.message_annotations.as_ref().and_then(|map| map.find(name));
    let from = annotation("iothub-connection-device-id").and_then(|value| value.as_text()).unwrap_or("-");
    if device.is_some_and(|device| device != from) {
        return None;
    }
    let time = match annotation("x-opt-enqueued-time") {
        Some(Value::Timestamp(ms)) => Timestamp::from_millisecond(ms).ok(),
        _ => None,
    };
    let time = time.map_or_else(|| "-".to_string(), |time| format!("{time:.3}"));
    let number = annotation("x-opt-sequence-number").and_then(|value| value.as_i64()).unwrap_or(-1);
    let mut line = format!("{time} {partition}/{number} {from} {}", body(&message.body));
    for entry in message.application_properties.iter().flat_map(|map| map.iter()) {
        let Ok((name, value)) = entry else { break };
        let value = match value.as_text() {
            Some(text) => text.to_string(),
            None => format!("{value:?}"),
        };
        let _ = write!(line, " {}={}", printable(name.as_text().unwrap_or("?")), printable(&value));
    }
    Some(line)
}

/// A body as text where it is text, else as base64.
fn body(body: &Body<'_>) -> String {
    match body {
        Body::Empty => "-".into(),
        Body::Data(sections) => {
            let bytes = sections.iter().collect::<Vec<_>>().concat();
            match std::str::from_utf8(&bytes) {
                Ok(text) => printable(text),
                Err(_) => format!("base64:{}", STANDARD.encode(&bytes)),
            }
        }
        Body::Value(value) => match value.as_text() {
            Some(text) => printable(text),
            None => format!("{value:?}"),
        },
        other => format!("{other:?}"),
    }
}

/// A device's text must not move a terminal's cursor, nor look like a second line.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|char| {
            let escaped = char.is_control().then(|| char.escape_default());
            let plain = escaped.is_none().then_some(char);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_amqp::MessageBuilder;

    fn event<'a>(device: &'a str, body: &'a [u8]) -> MessageBuilder<'a> {
        MessageBuilder::default()
            .message_annotation("x-opt-sequence-number", Value::Long(12))
            .message_annotation("x-opt-enqueued-time", Value::Timestamp(1_790_000_000_123))
            .message_annotation("iothub-connection-device-id", Value::String(device))
            .data(body)
    }

    #[test]
    fn an_event_is_one_line() {
        let message = event("pump7", b"{\"t\":20}").application_property("unit", Value::String("C")).encode();
        let line = line(3, &message, None).unwrap();
        assert_eq!(line, "2026-09-21T14:13:20.123Z 3/12 pump7 {\"t\":20} unit=C");
    }

    #[test]
    fn other_devices_are_left_out() {
        let message = event("pump7", b"x").encode();
        assert!(line(0, &message, Some("pump7")).is_some());
        assert!(line(0, &message, Some("pump70")).is_none());
    }

    #[test]
    fn what_is_not_text_does_not_reach_the_terminal() {
        let binary = line(0, &event("d", &[0xff, 0]).encode(), None).unwrap();
        assert!(binary.ends_with(" base64:/wA="), "{binary}");
        let nasty = line(0, &event("d", b"a\x1b[2Jb\nc").encode(), None).unwrap();
        assert!(nasty.ends_with(" a\\u{1b}[2Jb\\nc"), "{nasty}");
        assert!(line(0, b"no message", None).is_some());
    }

    #[test]
    fn starts() {
        assert_eq!("earliest".parse(), Ok(From::Earliest));
        let time: From = "2026-09-21T14:13:20.123Z".parse().unwrap();
        assert_eq!(time.selector(), "amqp.annotation.x-opt-enqueued-time >= '1790000000123'");
        assert!("1h".parse::<From>().is_err());
    }
}
