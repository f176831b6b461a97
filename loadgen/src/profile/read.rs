//! Reading: partitions of a hub, queues of a broker, topics that a broker has kept for a subscriber.

use serde::{Deserialize, Serialize};

use super::{add, endpoint};
use crate::client::amqp::Amqp;
use crate::client::mqtt::Mqtt;
use crate::client::reader::{AmqpReader, Checks, MqttReader, MqttReading};
use crate::io::Reactor;
use crate::job::{Access, Server};

/// Readers over AMQP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AmqpPart {
    /// Where.
    pub server: Server,
    /// As whom.
    pub access: Access,
    /// For each connection the addresses that it reads.
    pub connections: Vec<Vec<String>>,
    /// Whether what is read is checked, or others read the same.
    pub is_checked: bool,
}

impl AmqpPart {
    /// Add the connections.
    pub fn start(&self, reactor: &mut Reactor) -> Result<(), String> {
        let endpoint = endpoint(&self.server)?;
        let checks = if self.is_checked { Checks::Order } else { Checks::Nothing };
        for (index, addresses) in self.connections.iter().enumerate() {
            let amqp = Amqp::new(&format!("loadgen-reader-{index}"), self.access.service()?);
            add(reactor, &endpoint, AmqpReader::new(amqp, addresses.clone(), checks));
        }
        Ok(())
    }
}

/// A reader over MQTT that its broker remembers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MqttPart {
    /// Where.
    pub server: Server,
    /// As whom.
    pub access: Access,
    /// By what name it is remembered.
    pub client_id: String,
    /// What it reads.
    pub filters: Vec<String>,
    /// What it does with the connection.
    pub reading: MqttStep,
}

/// What a reader over MQTT does with one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MqttStep {
    /// Subscribes, before anything is sent.
    Subscribe,
    /// Takes what has come since.
    Collect,
    /// Makes the broker forget it.
    Forget,
}

impl MqttPart {
    /// Add the connection.
    pub fn start(&self, reactor: &mut Reactor) -> Result<(), String> {
        let reading = match self.reading {
            MqttStep::Subscribe => MqttReading::Subscribe,
            MqttStep::Collect => MqttReading::Collect,
            MqttStep::Forget => MqttReading::Forget,
        };
        let mqtt = Mqtt::new(&self.client_id, reading == MqttReading::Forget, self.access.service()?, 1);
        add(reactor, &endpoint(&self.server)?, MqttReader::new(mqtt, self.filters.clone(), reading));
        Ok(())
    }
}
