//! `corehub send`: one command to a device, and its receipt where that is wanted.

use clap::Args;
use jiff::{Span, SpanRelativeTo, Timestamp};
use net_amqp::{MessageBuilder, Properties, Value};
use serde_json::Value as Json;

use super::https::{Hub, segment};
use super::sender::{Plan, Sender, Wanted};
use super::talk::talk;
use super::{CommandError, HubArguments, OrFail, print_line};
use crate::binding::command::{ACK_PROPERTY, ack_word, parse_ack};

/// The policy that sends.
const POLICY: &str = "service";

/// A command's time to live where none is given [IoT Hub: one hour].
const TTL_MS_DEFAULT: u64 = 3_600_000;

/// How long after the command's end its receipt may still come, milliseconds: receipts wait 15 s for others to share a
/// batch with, and a lock of another receiver lasts a minute.
const RECEIPT_DELAY_MS_MAX: u64 = 90_000;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    hub: HubArguments,
    /// Device
    #[arg(value_name = "ID")]
    device: String,
    /// What to send
    #[arg(value_name = "BODY")]
    body: String,
    /// Outcomes to be told of: none, positive, negative or full
    #[arg(long, value_name = "WORD", value_parser = ack)]
    ack: Option<&'static str>,
    /// How long the command waits for its device, such as 90s, 30m, 1h or 2d; an hour by default
    #[arg(long, value_name = "TIME", value_parser = ttl_ms)]
    ttl: Option<u64>,
    /// A property for the device, as often as wanted
    #[arg(long, value_name = "NAME=VALUE", value_parser = property)]
    property: Vec<(String, String)>,
    /// The command's id; a new uuid by default
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// What the device's answer is to repeat
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Wait for the receipt and print it; asks for all outcomes unless --ack says which. Other receivers of receipts compete
    /// for it, but lose none of theirs
    #[arg(long)]
    wait: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    if arguments.wait && arguments.ack == Some("none") {
        return Err(CommandError::new("with --ack none there is no receipt to wait for"));
    }
    let hub = Hub::find(&arguments.hub.data)?;
    let policy = hub.ask("GET", &format!("/policies/{}", segment(POLICY)), &[], None)?.body;
    let key = policy.get("primaryKey").and_then(Json::as_str).unwrap_or_default();
    let message_id = match &arguments.message_id {
        Some(id) => id.clone(),
        None => new_id()?,
    };
    let ttl_ms = arguments.ttl.unwrap_or(TTL_MS_DEFAULT);
    let plan = Plan {
        host: hub.info.hosts.first().cloned().unwrap_or_default(),
        policy: POLICY.into(),
        key: key.into(),
        message: message(arguments, &message_id, Timestamp::now().as_millisecond()),
        wait: arguments.wait.then(|| Wanted {
            message_id: message_id.clone(),
            device: arguments.device.clone(),
            patience_ms: ttl_ms.saturating_add(RECEIPT_DELAY_MS_MAX),
        }),
    };
    let sender = talk(&hub, |now_ms, output| Sender::start(plan, now_ms, output))?;
    if !arguments.wait {
        print_line(&message_id);
        return Ok(());
    }
    match sender.receipt {
        Some(receipt) => {
            print_line(format_args!("{message_id} {} {}", receipt.status_code, receipt.enqueued_time_utc));
            Ok(())
        }
        None => Err(CommandError::new(format!(
            "{message_id}: no receipt came; another receiver of receipts may have taken it, or none was asked for"
        ))),
    }
}

/// The command as it goes to the hub. The device's id stands in `to` as it is: the hub tries that first.
fn message(arguments: &Arguments, message_id: &str, now_ms: i64) -> Vec<u8> {
    let to = format!("/devices/{}/messages/devicebound", arguments.device);
    let expiry = arguments.ttl.map(|ttl_ms| now_ms.saturating_add_unsigned(ttl_ms));
    let properties = Properties {
        message_id: Some(Value::String(message_id)),
        to: Some(&to),
        correlation_id: arguments.correlation_id.as_deref().map(Value::String),
        absolute_expiry_time_ms: expiry,
        ..Properties::default()
    };
    let mut builder = MessageBuilder::default().properties(properties).data(arguments.body.as_bytes());
    for (name, value) in &arguments.property {
        builder = builder.application_property(name, Value::String(value));
    }
    if let Some(ack) = arguments.ack.or(arguments.wait.then_some("full")) {
        builder = builder.application_property(ACK_PROPERTY, Value::String(ack));
    }
    builder.encode()
}

fn new_id() -> Result<String, CommandError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).or_fail()?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())
}

fn ack(text: &str) -> Result<&'static str, String> {
    parse_ack(text).map(ack_word).ok_or_else(|| "none, positive, negative or full".to_string())
}

fn ttl_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time such as 90s, 30m, 1h or 2d");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    u64::try_from(duration.as_millis()).ok().filter(|ms| *ms > 0).ok_or_else(wrong)
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("a property is NAME=VALUE".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use net_amqp::Sections;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_command_says_what_was_asked_for() {
        let words = [
            "x",
            "dev 1",
            "go",
            "--data",
            "d",
            "--ttl",
            "2d",
            "--property",
            "a=b=c",
            "--correlation-id",
            "7",
            "--wait",
        ];
        let line = Line::parse_from(words);
        let bytes = message(&line.arguments, "m", 1000);
        let sections = Sections::parse(&bytes).unwrap();
        let properties = sections.properties.unwrap();
        assert_eq!(properties.to, Some("/devices/dev 1/messages/devicebound"));
        assert_eq!(properties.correlation_id, Some(Value::String("7")));
        assert_eq!(properties.absolute_expiry_time_ms, Some(1000 + 2 * 86_400_000));
        let entries: Vec<_> = sections.application_properties.unwrap().iter().map(Result::unwrap).collect();
        let entry = |name, value| (Value::String(name), Value::String(value));
        assert_eq!(entries, [entry("a", "b=c"), entry("iothub-ack", "full")]);
    }

    #[test]
    fn times_to_live() {
        assert_eq!(ttl_ms("90s"), Ok(90_000));
        assert_eq!(ttl_ms("30m"), Ok(1_800_000));
        assert_eq!(ttl_ms("2d"), Ok(172_800_000));
        for wrong in ["", "soon", "-1h", "0s", "1mo"] {
            assert!(ttl_ms(wrong).is_err(), "{wrong}");
        }
    }
}
