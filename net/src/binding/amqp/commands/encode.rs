//! What stands on the wire: the annotations in front of a command, and a batch of receipts as a whole message.

use engine::request::{LockedCommand, LockedReceipts, Receipt};
use net_amqp::message::{self, Properties};
use net_amqp::performative::code;
use net_amqp::value::{Value, encode};
use serde::Serialize;

use crate::binding::status::iso_time;

/// Where receipts are received, as they say themselves.
const RECEIPTS_ADDRESS: &str = "/messages/serviceBound/feedback";

/// What receipts are [IoT Hub: iot-hub-devguide-messages-c2d, message feedback].
const RECEIPTS_CONTENT_TYPE: &str = "application/vnd.microsoft.iothub.feedback.json";

/// Append the message annotations of a command; its message follows byte for byte. The types are those that device clients
/// cast to [.NET device client: AmqpIotMessageConverter.cs].
pub fn encode_annotations(command: &LockedCommand, out: &mut Vec<u8>) {
    message::section(out, code::MESSAGE_ANNOTATIONS);
    let map = encode::begin_map(out);
    encode::symbol(out, "iothub-enqueuedtime");
    encode::timestamp(out, command.enqueued_ms as i64);
    encode::symbol(out, "iothub-deliverycount");
    encode::ubyte(out, command.delivery_count);
    encode::symbol(out, "x-opt-sequence-number");
    encode::ulong(out, command.number.0);
    encode::symbol(out, "x-opt-lock-token");
    encode::string(out, &command.token.to_string());
    map.end(out, 8);
}

/// One receipt as its readers know it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'r> {
    original_message_id: &'r str,
    enqueued_time_utc: String,
    status_code: &'static str,
    /// The only word there was in 2015.
    description: &'static str,
    device_id: &'r str,
    device_generation_id: String,
}

impl<'r> Record<'r> {
    fn new(receipt: &'r Receipt) -> Self {
        Self {
            original_message_id: &receipt.message_id,
            enqueued_time_utc: iso_time(receipt.at_ms),
            status_code: receipt.outcome.word(),
            description: receipt.outcome.word(),
            device_id: receipt.device.as_str(),
            device_generation_id: receipt.generation.0.to_string(),
        }
    }
}

/// Append a batch of receipts as a message. `hub` is the hub's name, which readers expect as user id.
pub fn encode_receipts(batch: &LockedReceipts, hub: &str, out: &mut Vec<u8>) {
    message::section(out, code::MESSAGE_ANNOTATIONS);
    let map = encode::begin_map(out);
    encode::symbol(out, "iothub-enqueuedtime");
    encode::timestamp(out, batch.enqueued_ms as i64);
    map.end(out, 2);
    // The same at each delivery, and another in each partition.
    let message_id = format!("{}-{}", batch.token.partition().0, batch.number.0);
    let properties = Properties {
        message_id: Some(Value::String(&message_id)),
        user_id: Some(hub.as_bytes()),
        to: Some(RECEIPTS_ADDRESS),
        content_type: Some(RECEIPTS_CONTENT_TYPE),
        ..Properties::default()
    };
    properties.encode(out);
    let records: Vec<Record<'_>> = batch.receipts.iter().map(Record::new).collect();
    let json = serde_json::to_vec(&records).expect("text and numbers have a JSON form");
    message::section(out, code::DATA);
    encode::binary(out, &json);
}
