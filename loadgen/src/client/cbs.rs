//! The `$cbs` exchange of a connection: one token for all that it does.

use net_amqp::{
    AttachRequest, Connection, DeliveryState, LinkId, MessageBuilder, Properties, Sections, SendDelivery,
    SessionId, Value,
};

/// A put-token exchange: attached, sent, answered.
#[derive(Debug)]
pub struct TokenExchange {
    sender: LinkId,
    receiver: LinkId,
    audience: String,
    token: String,
    is_sent: bool,
}

impl TokenExchange {
    /// Attach both links of `$cbs`.
    pub fn start(
        connection: &mut Connection,
        session: SessionId,
        audience: String,
        token: String,
        output: &mut Vec<u8>,
    ) -> Result<Self, String> {
        let mut attach = |request: &AttachRequest<'_>| {
            connection.attach(session, request, output).ok_or_else(|| "the session takes no link".to_owned())
        };
        let sender = attach(&AttachRequest::sender("cbs-sender", "$cbs"))?;
        let receiver = attach(&AttachRequest::receiver("cbs-receiver", "$cbs"))?;
        Ok(Self { sender, receiver, audience, token, is_sent: false })
    }

    /// Whether a link is one of its two.
    pub fn owns(&self, link: LinkId) -> bool {
        link == self.sender || link == self.receiver
    }

    /// Grant credit for the answer once its link stands.
    pub fn handle_attached(&self, connection: &mut Connection, link: LinkId, output: &mut Vec<u8>) {
        if link == self.receiver {
            connection.grant(link, 10, output);
        }
    }

    /// Send the token once there is credit.
    pub fn send(&mut self, connection: &mut Connection, output: &mut Vec<u8>) {
        if self.is_sent || connection.sendable(self.sender) == 0 {
            return;
        }
        let properties = Properties {
            message_id: Some(Value::String("token")),
            to: Some("$cbs"),
            reply_to: Some("cbs"),
            ..Properties::default()
        };
        let message = MessageBuilder::default()
            .properties(properties)
            .application_property("operation", Value::String("put-token"))
            .application_property("type", Value::String("servicebus.windows.net:sastoken"))
            .application_property("name", Value::String(&self.audience))
            .value(Value::String(&self.token))
            .encode();
        let delivery = SendDelivery { tag: b"token", message_format: 0, settled: true, payload: &[&message] };
        self.is_sent = connection.send(self.sender, &delivery, output).is_ok();
    }

    /// Look at a transfer. None: it is not the answer.
    pub fn handle_answer(
        &self,
        connection: &mut Connection,
        link: LinkId,
        delivery_id: u32,
        payload: &[u8],
        output: &mut Vec<u8>,
    ) -> Option<Result<(), String>> {
        if link != self.receiver {
            return None;
        }
        connection.settle(link, delivery_id, delivery_id, &DeliveryState::Accepted, true, output);
        let sections = match Sections::parse(payload) {
            Ok(sections) => sections,
            Err(error) => return Some(Err(format!("the answer to put-token cannot be read: {error}"))),
        };
        let code = sections.application_properties.and_then(|properties| properties.find("status-code"));
        Some(match code {
            Some(Value::Int(200)) => Ok(()),
            other => Err(format!("put-token was answered with {other:?}")),
        })
    }
}
