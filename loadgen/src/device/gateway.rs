//! A gateway: one connection that sends telemetry for many devices, each over a link of its own.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use net_amqp::{
    AttachRequest, Connection, DeliveryState, Event, Inbound, LinkId, MessageBuilder, Role, SendDelivery,
    SessionId, Value,
};

use crate::device::cbs::TokenExchange;
use crate::device::{Client, client_config};
use crate::workload::{MARK_BYTES, Mark, SharedLedger, device_id, filler};

/// Plaintext per turn at most: enough for full TLS records, little enough to stay in the cache.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// What a gateway sends.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The hub's name as clients use it; audience of the token.
    pub host: String,
    /// A policy's token for the whole hub.
    pub token: String,
    /// Index of its first device; the others follow.
    pub first_device: u32,
    /// How many devices.
    pub device_count: u32,
    /// Bytes of each body, at least [`MARK_BYTES`].
    pub body_bytes: usize,
    /// Events without acknowledgement at most.
    pub in_flight_max: u32,
}

/// A delivery that waits for its outcome.
#[derive(Clone, Copy, Debug)]
struct Sent {
    mark: Mark,
    at: Instant,
}

/// One device's link.
#[derive(Debug)]
struct Device {
    link: LinkId,
    next: u64,
}

/// The connection.
#[derive(Debug)]
pub struct Gateway {
    connection: Connection,
    inbound: Inbound,
    config: GatewayConfig,
    ledger: SharedLedger,
    began: Instant,
    session: Option<SessionId>,
    exchange: Option<TokenExchange>,
    is_authorized: bool,
    devices: Vec<Device>,
    turn: usize,
    /// Deliveries by id, from `first_delivery` on; settled ones are taken out in place.
    sent: VecDeque<Option<Sent>>,
    first_delivery: Option<u32>,
    in_flight: u32,
    filler: Rc<[u8]>,
    head: Vec<u8>,
    closed: bool,
}

impl Gateway {
    /// Begin a connection; `output` takes its first bytes.
    pub fn new(config: GatewayConfig, ledger: SharedLedger, output: &mut Vec<u8>) -> Self {
        let machine = Arc::new(client_config("loadgen", &config.host));
        let mut connection = Connection::new(Role::Client, machine, 0);
        connection.start(output);
        // The body's head comes from the builder once; the body behind it is the same length for every event.
        let body = vec![0; config.body_bytes];
        let whole = MessageBuilder::default()
            .application_property("a", Value::String("1"))
            .application_property("b", Value::String("22"))
            .application_property("c", Value::String("333"))
            .data(&body)
            .encode();
        let head = whole[..whole.len() - config.body_bytes].to_vec();
        Self {
            connection,
            inbound: Inbound::default(),
            ledger,
            began: Instant::now(),
            session: None,
            exchange: None,
            is_authorized: false,
            devices: Vec::new(),
            turn: 0,
            sent: VecDeque::new(),
            first_delivery: None,
            in_flight: 0,
            filler: filler(config.body_bytes - MARK_BYTES, u64::from(config.first_device) + 1).into(),
            head,
            closed: false,
            config,
        }
    }

    fn attach_devices(&mut self, output: &mut Vec<u8>) -> Result<(), String> {
        let session = self.session.ok_or("no session")?;
        for index in 0..self.config.device_count {
            let id = device_id(self.config.first_device + index);
            let address = format!("/devices/{id}/messages/events");
            let request = AttachRequest::sender(&id, &address);
            let link =
                self.connection.attach(session, &request, output).ok_or("the session takes no link")?;
            self.devices.push(Device { link, next: 0 });
        }
        Ok(())
    }

    fn handle_outcome(&mut self, first: u32, last: u32, accepted: bool) -> Result<(), String> {
        let base = self.first_delivery.ok_or("an outcome came before a delivery")?;
        let now = Instant::now();
        let mut ledger = self.ledger.borrow_mut();
        for id in first..=last {
            let slot = id.wrapping_sub(base) as usize;
            let Some(sent) = self.sent.get_mut(slot).and_then(Option::take) else { continue };
            self.in_flight -= 1;
            if !accepted {
                return Err(format!("{:?} was not accepted", sent.mark));
            }
            ledger.acknowledge(sent.mark, (now - sent.at).as_micros() as u64)?;
        }
        while let Some(None) = self.sent.front() {
            self.sent.pop_front();
            self.first_delivery = self.first_delivery.map(|base| base.wrapping_add(1));
        }
        Ok(())
    }

    fn send_one(&mut self, now: Instant, output: &mut Vec<u8>) -> bool {
        let count = self.devices.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let device = &mut self.devices[index];
            if self.connection.sendable(device.link) == 0 {
                continue;
            }
            let mark = Mark { device: self.config.first_device + index as u32, number: device.next };
            let tag = (device.next as u32).to_le_bytes();
            let delivery = SendDelivery {
                tag: &tag,
                message_format: 0,
                settled: false,
                payload: &[&self.head, &mark.encode(), &self.filler],
            };
            let Ok(id) = self.connection.send(device.link, &delivery, output) else { return false };
            device.next += 1;
            self.turn = index + 1;
            self.first_delivery.get_or_insert(id);
            self.sent.push_back(Some(Sent { mark, at: now }));
            self.in_flight += 1;
            return true;
        }
        false
    }
}

impl Client for Gateway {
    fn handle(&mut self, mut input: &[u8], output: &mut Vec<u8>) -> Result<(), String> {
        let now_ms = self.began.elapsed().as_millis() as u64;
        let mut inbound = std::mem::take(&mut self.inbound);
        loop {
            let event = self
                .connection
                .handle(&mut inbound, &mut input, output, now_ms)
                .map_err(|closed| format!("the connection ended: {closed:?}"))?;
            match event {
                None => break,
                Some(Event::Opened(_)) => self.session = self.connection.begin(output),
                Some(Event::Begun { session }) => {
                    let (host, token) = (self.config.host.clone(), self.config.token.clone());
                    self.exchange =
                        Some(TokenExchange::start(&mut self.connection, session, host, token, output)?);
                }
                Some(Event::Attached { link, .. }) => {
                    if let Some(exchange) = &self.exchange {
                        exchange.handle_attached(&mut self.connection, link, output);
                    }
                }
                Some(Event::Transfer { link, delivery_id, payload, .. }) => {
                    let answer = self.exchange.as_ref().and_then(|exchange| {
                        exchange.handle_answer(&mut self.connection, link, delivery_id, payload, output)
                    });
                    answer.ok_or("a transfer came on no link of ours")??;
                    if !std::mem::replace(&mut self.is_authorized, true) {
                        self.attach_devices(output)?;
                    }
                }
                Some(Event::Settled { first, last, state, .. }) => {
                    let accepted = matches!(state, Some(DeliveryState::Accepted));
                    self.handle_outcome(first, last, accepted)?;
                }
                Some(Event::Detached { error, .. } | Event::Ended { error, .. }) => {
                    return Err(format!("the hub ended a link: {error:?}"));
                }
                Some(Event::Closed { error: Some(error) }) => {
                    return Err(format!("the hub closed: {error:?}"));
                }
                Some(_) => {}
            }
        }
        self.inbound = inbound;
        Ok(())
    }

    fn fill(&mut self, output: &mut Vec<u8>) {
        if let Some(exchange) = &mut self.exchange {
            exchange.send(&mut self.connection, output);
        }
        if self.closed {
            return;
        }
        if self.ledger.borrow().is_stopping {
            if self.in_flight == 0 {
                self.connection.close(None, output);
                self.closed = true;
            }
            return;
        }
        if self.devices.is_empty() {
            return;
        }
        let now = Instant::now();
        while self.in_flight < self.config.in_flight_max && output.len() < OUTPUT_BYTES_MAX {
            if !self.send_one(now, output) {
                break;
            }
        }
    }

    fn is_finished(&self) -> bool {
        self.closed
    }
}
