//! Telemetry: devices on connections of their own, or gateways with many devices each.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{DEVICE, add, endpoint, phase};
use crate::client::amqp::Amqp;
use crate::client::https::HttpsPublisher;
use crate::client::mqtt::{Mqtt, MqttPublisher};
use crate::client::publisher::AmqpPublisher;
use crate::client::sender::{Sender, Sending};
use crate::io::Reactor;
use crate::job::{Access, Login, Protocol, Server};
use crate::ledger::device_id;
use crate::record::Kind;
use crate::schedule::Pace;

/// Connections that send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SendPart {
    /// Where to.
    pub server: Server,
    /// How they say who they are.
    pub access: Access,
    /// How they speak.
    pub protocol: Protocol,
    /// Links' target or topic; `{device}` stands for the device's id.
    pub address: String,
    /// Which connections of the run are this process's.
    pub connections: Range<u32>,
    /// Devices on each.
    pub device_count: u32,
    /// Bytes of each body.
    pub body_bytes: usize,
    /// Events of a message.
    pub batch: u32,
    /// Messages without acknowledgement at most, per connection.
    pub in_flight_max: u32,
    /// Messages a second of each connection, and how many at once; none: a closed loop.
    pub rate: Option<(f64, u32)>,
    /// Of bodies and phases.
    pub seed: u64,
    /// A token for the connection's device alone, where it has one.
    pub device_tokens: bool,
    /// What makes client names of this run its own.
    pub run: u32,
}

impl SendPart {
    /// Add the connections.
    pub fn start(&self, reactor: &mut Reactor) -> Result<(), String> {
        let endpoint = endpoint(&self.server)?;
        for index in self.connections.clone() {
            let first_device = index * self.device_count;
            let devices: Vec<_> = (first_device..first_device + self.device_count).map(device_id).collect();
            let sending = Sending {
                first_device,
                device_count: self.device_count,
                body_bytes: self.body_bytes,
                batch: self.batch,
                in_flight_max: self.in_flight_max,
                pace: self.pace(index),
                seed: self.seed,
                kind: Kind::Event,
            };
            let addresses: Vec<_> = match self.address.contains(DEVICE) {
                true => devices.iter().map(|device| self.address.replace(DEVICE, device)).collect(),
                false => vec![self.address.clone()],
            };
            let login = self.login(&devices)?;
            match self.protocol {
                Protocol::Amqp => {
                    let amqp = Amqp::new(&format!("loadgen-{}-{index}", self.run), login);
                    let durable = !self.access.is_hub();
                    let publisher = AmqpPublisher::new(amqp, addresses, self.body_bytes, self.batch, durable);
                    add(reactor, &endpoint, Sender::new(publisher, sending));
                }
                Protocol::Mqtt => {
                    let client_id = match self.access.is_hub() {
                        true => devices[0].clone(),
                        false => format!("loadgen-{}-{index}", self.run),
                    };
                    let window = u16::try_from(self.in_flight_max).unwrap_or(u16::MAX);
                    let mqtt = Mqtt::new(&client_id, true, login, window);
                    add(reactor, &endpoint, Sender::new(MqttPublisher::new(mqtt, addresses), sending));
                }
                Protocol::Https => {
                    let Login::Token { host, token } = login else {
                        return Err("only a hub takes events over HTTPS".to_owned());
                    };
                    let publisher = HttpsPublisher::new(&host, &devices[0], &token, self.batch);
                    add(reactor, &endpoint, Sender::new(publisher, sending));
                }
            }
        }
        Ok(())
    }

    fn login(&self, devices: &[String]) -> Result<Login, String> {
        match devices {
            [device] if self.device_tokens => self.access.device(device),
            _ => self.access.service(),
        }
    }

    fn pace(&self, index: u32) -> Pace {
        match self.rate {
            None => Pace::Closed,
            Some((per_s, burst)) => Pace::Open { per_s, burst, phase: phase(self.seed, index) },
        }
    }
}
