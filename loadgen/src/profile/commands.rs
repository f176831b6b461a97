//! Commands from end to end: one back end, devices that complete, receipts.

use serde::{Deserialize, Serialize};

use super::{add, endpoint};
use crate::client::amqp::Amqp;
use crate::client::command::{Book, CommandPublisher, CommandReceiver, ReceiptReader};
use crate::client::sender::{Sender, Sending};
use crate::io::Reactor;
use crate::job::{Access, Server};
use crate::ledger::device_id;
use crate::record::Kind;
use crate::schedule::Pace;

/// A back end and its devices. All of them are in one process, because they share a book.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CommandsPart {
    /// Where to.
    pub server: Server,
    /// How they say who they are.
    pub access: Access,
    /// Index of the first device.
    pub first_device: u32,
    /// Connections of devices.
    pub connection_count: u32,
    /// Devices on each.
    pub device_count: u32,
    /// Bytes of each body.
    pub body_bytes: usize,
    /// Commands that are not known to be enqueued, at most.
    pub in_flight_max: u32,
    /// Commands of a device that are not completed, at most.
    pub depth_max: usize,
    /// Commands a second; none: a closed loop.
    pub rate: Option<f64>,
    /// Whether every command asks for a receipt.
    pub wants_receipts: bool,
    /// Of the bodies.
    pub seed: u64,
}

impl CommandsPart {
    /// Add the connections.
    pub fn start(&self, reactor: &mut Reactor) -> Result<(), String> {
        let endpoint = endpoint(&self.server)?;
        let device_count = self.connection_count * self.device_count;
        let book = Book::new(self.first_device + device_count, self.rate.is_some());
        for index in 0..self.connection_count {
            let first = self.first_device + index * self.device_count;
            let devices: Vec<_> = (first..first + self.device_count).map(device_id).collect();
            let login = match &devices[..] {
                [device] => self.access.device(device)?,
                _ => self.access.service()?,
            };
            let amqp = Amqp::new(&format!("loadgen-commands-{index}"), login);
            add(reactor, &endpoint, CommandReceiver::new(amqp, &devices, book.clone()));
        }
        if self.wants_receipts {
            let amqp = Amqp::new("loadgen-receipts", self.access.service()?);
            add(reactor, &endpoint, ReceiptReader::new(amqp, book.clone()));
        }
        let sending = Sending {
            first_device: self.first_device,
            device_count,
            body_bytes: self.body_bytes,
            batch: 1,
            in_flight_max: self.in_flight_max,
            pace: self.rate.map_or(Pace::Closed, |per_s| Pace::Open { per_s, burst: 1, phase: 0.0 }),
            seed: self.seed,
            kind: Kind::Enqueue,
        };
        let amqp = Amqp::new("loadgen-back-end", self.access.service()?);
        let publisher = CommandPublisher::new(amqp, book, self.depth_max, self.wants_receipts);
        add(reactor, &endpoint, Sender::new(publisher, sending));
        Ok(())
    }
}
