//! What stands on the wire: the annotations in front of a command, and a batch of receipts as a whole message.

use engine::request::{LockedCommand, LockedReceipts};
use net_amqp::message::{self, Properties};
use net_amqp::performative::code;
use net_amqp::value::{Value, encode};

use crate::binding::receipts;

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

/// Append a batch of receipts as a message. `hub` is the hub's name, which readers expect as user id.
pub fn encode_receipts(batch: &LockedReceipts, hub: &str, out: &mut Vec<u8>) {
    message::section(out, code::MESSAGE_ANNOTATIONS);
    let map = encode::begin_map(out);
    encode::symbol(out, "iothub-enqueuedtime");
    encode::timestamp(out, batch.enqueued_ms as i64);
    map.end(out, 2);
    let message_id = receipts::message_id(batch);
    let properties = Properties {
        message_id: Some(Value::String(&message_id)),
        user_id: Some(hub.as_bytes()),
        to: Some(receipts::ADDRESS),
        content_type: Some(receipts::CONTENT_TYPE),
        ..Properties::default()
    };
    properties.encode(out);
    message::section(out, code::DATA);
    encode::binary(out, &receipts::json(batch));
}
