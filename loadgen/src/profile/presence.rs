//! Devices that are there, and nothing more: idle ones, ones that come and go, reconnect storms.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{DEVICE, add, endpoint, phase};
use crate::client::amqp::Amqp;
use crate::client::connector::{Coming, Connector};
use crate::client::mqtt::Mqtt;
use crate::client::presence::Presence;
use crate::io::Reactor;
use crate::job::{Access, Protocol, Resume, Server};
use crate::ledger::device_id;
use crate::schedule::Pace;

/// Devices on connections of their own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PresencePart {
    /// Where to.
    pub server: Server,
    /// How they say who they are.
    pub access: Access,
    /// How they speak.
    pub protocol: Protocol,
    /// What an AMQP device sends to; `{device}` stands for its id.
    pub targets: Vec<String>,
    /// What it receives from, or subscribes to.
    pub sources: Vec<String>,
    /// Which connections of the run are this process's.
    pub connections: Range<u32>,
    /// What they do.
    pub habit: Habit,
    /// Whether a handshake builds on the one before.
    pub resume: Resume,
    /// Of the phases.
    pub seed: u64,
    /// What makes client names of this run its own.
    pub run: u32,
}

/// What devices do with their connections.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Habit {
    /// They hold them.
    Stay,
    /// Each ends its connection and comes again at once.
    ReturnAtOnce,
    /// Each does so many times a second.
    Return(f64),
    /// All lose them at once.
    Storm,
}

impl PresencePart {
    /// Add the connections.
    pub fn start(&self, reactor: &mut Reactor) -> Result<(), String> {
        let endpoint = endpoint(&self.server)?;
        for index in self.connections.clone() {
            let device = device_id(index);
            let login = self.access.device(&device)?;
            let of = |addresses: &[String]| -> Vec<_> {
                addresses.iter().map(|address| address.replace(DEVICE, &device)).collect()
            };
            let name = match self.access.is_hub() {
                true => device.clone(),
                false => format!("loadgen-{}-{index}", self.run),
            };
            let presence = match self.protocol {
                Protocol::Amqp => Presence::Amqp {
                    amqp: Box::new(Amqp::new(&name, login)),
                    targets: of(&self.targets),
                    sources: of(&self.sources),
                    attached_count: 0,
                },
                Protocol::Mqtt => Presence::Mqtt {
                    mqtt: Mqtt::new(&name, true, login, 1),
                    filters: of(&self.sources),
                    is_ready: false,
                },
                Protocol::Https => return Err("this profile is for AMQP and MQTT".to_owned()),
            };
            let coming = match self.habit {
                Habit::Stay => Coming::Stays,
                Habit::Storm => Coming::Storms,
                Habit::ReturnAtOnce => Coming::Returns(Pace::Closed),
                Habit::Return(per_s) => {
                    Coming::Returns(Pace::Open { per_s, burst: 1, phase: phase(self.seed, index) })
                }
            };
            // Each device has tickets of its own.
            let mut own = endpoint.clone();
            own.tls = endpoint.tls.as_ref().map(|tls| tls.remembering(self.resume));
            add(reactor, &own, Connector::new(presence, coming));
        }
        Ok(())
    }
}
