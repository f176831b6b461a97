//! A device that is there: connected, let in, its links or subscriptions standing, and nothing more.

use std::time::Instant;

use net_amqp::AttachRequest;

use crate::client::amqp::{Amqp, Happened, attach};
use crate::client::mqtt::{self, Mqtt};

/// How a device is there.
#[derive(Debug)]
pub enum Presence {
    /// Over AMQP.
    Amqp {
        /// The connection.
        amqp: Box<Amqp>,
        /// What it sends to.
        targets: Vec<String>,
        /// What it receives from.
        sources: Vec<String>,
        /// Links that stand.
        attached_count: usize,
    },
    /// Over MQTT.
    Mqtt {
        /// The connection.
        mqtt: Mqtt,
        /// What it subscribes to.
        filters: Vec<String>,
        /// Whether that is granted.
        is_ready: bool,
    },
}

impl Presence {
    /// The transport stands, for the first time or again.
    pub fn begin(&mut self, now: Instant, output: &mut Vec<u8>) {
        match self {
            Self::Amqp { amqp, attached_count, .. } => {
                *attached_count = 0;
                amqp.begin(now, output);
            }
            Self::Mqtt { mqtt, is_ready, .. } => {
                *is_ready = false;
                mqtt.begin(now, output);
            }
        }
    }

    /// Bytes from the server.
    pub fn handle(&mut self, input: &[u8], now: Instant, output: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Amqp { amqp, targets, sources, attached_count } => {
                amqp.handle(input, now, output, &mut |connection, happened, output| {
                    match happened {
                        Happened::Authorized(session) => {
                            for target in &*targets {
                                attach(connection, session, &AttachRequest::sender(target, target), output)?;
                            }
                            for source in &*sources {
                                attach(
                                    connection,
                                    session,
                                    &AttachRequest::receiver(source, source),
                                    output,
                                )?;
                            }
                        }
                        Happened::Attached(_) => *attached_count += 1,
                        Happened::Settled { .. } | Happened::Transfer { .. } => {}
                    }
                    Ok(())
                })
            }
            Self::Mqtt { mqtt, filters, is_ready } => {
                mqtt.handle(input, now, output, &mut |connection, happened, output| {
                    match happened {
                        mqtt::Happened::Open { .. } if filters.is_empty() => *is_ready = true,
                        mqtt::Happened::Open { .. } => Mqtt::subscribe(connection, filters, output),
                        mqtt::Happened::Subscribed => *is_ready = true,
                        mqtt::Happened::Acknowledged(_) | mqtt::Happened::Publish(_) => {}
                    }
                    Ok(())
                })
            }
        }
    }

    /// Go on with what comes before being there.
    pub fn fill(&mut self, output: &mut Vec<u8>) {
        if let Self::Amqp { amqp, .. } = self {
            amqp.fill(output);
        }
    }

    /// The protocol's own deadlines.
    pub fn tick(&mut self, now: Instant, output: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Amqp { amqp, .. } => amqp.tick(now, output),
            Self::Mqtt { mqtt, .. } => mqtt.tick(now, output),
        }
    }

    /// Whether it is there.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Amqp { targets, sources, attached_count, .. } => {
                *attached_count == targets.len() + sources.len()
            }
            Self::Mqtt { is_ready, .. } => *is_ready,
        }
    }

    /// Say goodbye.
    pub fn close(&mut self, output: &mut Vec<u8>) {
        match self {
            Self::Amqp { amqp, .. } => amqp.close(output),
            Self::Mqtt { mqtt, .. } => mqtt.connection().close(output),
        }
    }
}
