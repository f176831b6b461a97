//! Device twins, which this hub does not have: a device may attach the links, and is told so in answer to each request
//! [IoT Hub: iot-hub-amqp-support, device twin].
//!
//! Refusing the links would be shorter, but the Node client ends its whole connection over a link that is refused, and with it the
//! telemetry of a device that only looked for settings; the request itself would never end.

use net_amqp::value::Decoder;
use net_amqp::{MessageBuilder, Properties, Value};

use super::nodes::{Nodes, Ticket};
use super::turn::Turn;
use crate::binding::status::{NO_TWIN, NO_TWIN_STATUS};

/// Take a request, whatever it asks for.
pub fn handle_request(nodes: &mut Nodes, turn: &mut Turn<'_, '_>, ticket: Ticket) {
    let message = encode_refusal(ticket.correlation_id.as_deref());
    nodes.reply(turn, ticket, message);
}

/// The answer, which repeats this encoded correlation id.
fn encode_refusal(correlation_id: Option<&[u8]>) -> Vec<u8> {
    let correlation_id = correlation_id.and_then(|id| Decoder::new(id).value().ok());
    MessageBuilder::default()
        .message_annotation("status", Value::Int(NO_TWIN_STATUS.into()))
        .properties(Properties { correlation_id, ..Properties::default() })
        .data(NO_TWIN)
        .encode()
}

#[cfg(test)]
mod tests {
    use net_amqp::Sections;

    use super::*;

    #[test]
    fn the_answer_repeats_the_correlation_id_with_its_type() {
        for id in [Some(Value::String("7")), Some(Value::Uuid([3; 16])), Some(Value::Ulong(7)), None] {
            let encoded = id.map(|id| {
                let mut bytes = Vec::new();
                id.encode(&mut bytes);
                bytes
            });
            let message = encode_refusal(encoded.as_deref());
            let sections = Sections::parse(&message).unwrap();
            assert_eq!(sections.properties.unwrap().correlation_id, id);
        }
    }
}
