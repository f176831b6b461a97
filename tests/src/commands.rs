//! Commands over AMQP: a back end that sends and takes receipts, and a device that receives.

use std::time::Duration;

use fe2o3_amqp::link::SenderAttachError;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::types::definitions::ReceiverSettleMode;
use fe2o3_amqp::types::messaging::{ApplicationProperties, Data, Message, MessageId, Properties};
use fe2o3_amqp::types::primitives::Binary;
use fe2o3_amqp::{Delivery, Receiver, Sender};
use serde_json::Value as Json;

use crate::amqp::{Peer, Refusal, answer, receiver_refusal};
use crate::hub::Hub;
use crate::service::Service;

impl Peer {
    /// Connect and put a policy's token for the whole hub.
    pub async fn back_end(hub: &Hub, service: &Service) -> Self {
        let mut peer = answer("connect", Self::connect(hub, None)).await.expect("the hub takes connections");
        peer.put_token(&hub.host(), &service.token()).await.expect("the policy is good");
        peer
    }

    /// Attach for sending commands.
    pub async fn command_sender(&mut self) -> Result<Sender, Refusal> {
        self.count += 1;
        let link = format!("commands-{}", self.count);
        let attaching = Sender::attach(&mut self.session, link, "/messages/devicebound");
        answer("attach for commands", attaching).await.map_err(|error| match error {
            SenderAttachError::RemoteClosedWithError(error) => Refusal::from_error(&error),
            other => Refusal::other(&other),
        })
    }

    /// Attach for a device's commands; the hub settles each after its outcome is durable.
    pub async fn commands(&mut self, device: &str, credit: CreditMode) -> Result<Receiver, Refusal> {
        self.locked_receiver(&format!("/devices/{device}/messages/devicebound"), credit).await
    }

    /// Attach for receipts.
    pub async fn receipts(&mut self, credit: CreditMode) -> Result<Receiver, Refusal> {
        self.locked_receiver("/messages/servicebound/feedback", credit).await
    }

    async fn locked_receiver(&mut self, address: &str, credit: CreditMode) -> Result<Receiver, Refusal> {
        self.count += 1;
        let builder = Receiver::builder()
            .name(format!("locked-{}", self.count))
            .source(address)
            .receiver_settle_mode(ReceiverSettleMode::Second)
            .credit_mode(credit);
        let attached = answer("attach for receiving", builder.attach(&mut self.session)).await;
        attached.map_err(|error| receiver_refusal(&error))
    }
}

/// A command with its id as body.
pub fn command(device: &str, id: &str, ack: &str) -> Message<Data> {
    let properties = Properties::builder()
        .message_id(MessageId::String(id.to_owned()))
        .to(format!("/devices/{device}/messages/devicebound"))
        .build();
    let application_properties = ApplicationProperties::builder().insert("iothub-ack", ack).build();
    Message::builder()
        .properties(properties)
        .application_properties(application_properties)
        .data(Binary::from(id.as_bytes().to_vec()))
        .build()
}

/// The next command or batch, or none within `patience`.
pub async fn next(receiver: &mut Receiver, patience: Duration) -> Option<Delivery<Data>> {
    let waiting = tokio::time::timeout(patience, receiver.recv::<Data>()).await.ok()?;
    Some(waiting.expect("the link stands"))
}

/// The body of a command as text.
pub fn body(delivery: &Delivery<Data>) -> String {
    String::from_utf8(delivery.body().0.to_vec()).expect("commands of tests are text")
}

/// Message id and outcome of each receipt of a batch.
pub fn outcomes(batch: &Delivery<Data>) -> Vec<(String, String)> {
    let records: Vec<Json> = serde_json::from_slice(&batch.body().0).expect("receipts are a JSON array");
    let text = |record: &Json, name: &str| record[name].as_str().expect("a text").to_owned();
    records.iter().map(|record| (text(record, "originalMessageId"), text(record, "statusCode"))).collect()
}
