//! A reader of one partition, as an Event Hubs client reads: from the oldest event, with credit.

use std::sync::Arc;
use std::time::Instant;

use net_amqp::{AttachRequest, Body, Connection, Event, Inbound, LinkId, Role, Sections};

use crate::device::cbs::TokenExchange;
use crate::device::{Client, client_config};
use crate::workload::{Mark, SharedLedger};

const CREDIT: u32 = 2000;

/// One partition's reader. It never finishes by itself: the run ends when all events are there.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    inbound: Inbound,
    ledger: SharedLedger,
    began: Instant,
    host: String,
    token: String,
    address: String,
    exchange: Option<TokenExchange>,
    receiver: Option<LinkId>,
    closed: bool,
}

impl Reader {
    /// Begin a connection that reads `partition` of event hub `event_hub`.
    pub fn new(
        host: &str,
        token: &str,
        event_hub: &str,
        partition: u16,
        ledger: SharedLedger,
        output: &mut Vec<u8>,
    ) -> Self {
        let mut connection =
            Connection::new(Role::Client, Arc::new(client_config("loadgen-reader", host)), 0);
        connection.start(output);
        Self {
            connection,
            inbound: Inbound::default(),
            ledger,
            began: Instant::now(),
            host: host.to_owned(),
            token: token.to_owned(),
            address: format!("{event_hub}/ConsumerGroups/$Default/Partitions/{partition}"),
            exchange: None,
            receiver: None,
            closed: false,
        }
    }
}

impl Client for Reader {
    fn handle(&mut self, mut input: &[u8], output: &mut Vec<u8>) -> Result<(), String> {
        let now_ms = self.began.elapsed().as_millis() as u64;
        let mut inbound = std::mem::take(&mut self.inbound);
        loop {
            let event = self
                .connection
                .handle(&mut inbound, &mut input, output, now_ms)
                .map_err(|closed| format!("a reader's connection ended: {closed:?}"))?;
            match event {
                None => break,
                Some(Event::Opened(_)) => {
                    self.connection.begin(output);
                }
                Some(Event::Begun { session }) => {
                    let (host, token) = (self.host.clone(), self.token.clone());
                    self.exchange =
                        Some(TokenExchange::start(&mut self.connection, session, host, token, output)?);
                }
                Some(Event::Attached { link, .. }) if Some(link) == self.receiver => {
                    self.connection.grant(link, CREDIT, output);
                }
                Some(Event::Attached { link, .. }) => {
                    if let Some(exchange) = &self.exchange {
                        exchange.handle_attached(&mut self.connection, link, output);
                    }
                }
                Some(Event::Transfer { link, payload, .. }) if Some(link) == self.receiver => {
                    let sections = Sections::parse(payload).map_err(|error| error.to_string())?;
                    let Body::Data(data) = sections.body else {
                        return Err("an event has no data".to_owned());
                    };
                    let mark = data.single().and_then(Mark::decode).ok_or("an event is none of ours")?;
                    self.ledger.borrow_mut().read_back(mark)?;
                    if self.connection.credit(link) < CREDIT / 2 {
                        self.connection.grant(link, CREDIT, output);
                    }
                }
                Some(Event::Transfer { link, delivery_id, payload, .. }) => {
                    let answer = self.exchange.as_ref().and_then(|exchange| {
                        exchange.handle_answer(&mut self.connection, link, delivery_id, payload, output)
                    });
                    answer.ok_or("a transfer came on no link of ours")??;
                    let session = self.connection.session_of(link).ok_or("the session is gone")?;
                    let request = AttachRequest::receiver("reader", &self.address);
                    let link = self
                        .connection
                        .attach(session, &request, output)
                        .ok_or("the session takes no link")?;
                    self.receiver = Some(link);
                }
                Some(Event::Detached { error, .. } | Event::Ended { error, .. }) => {
                    return Err(format!("the hub ended a reader: {error:?}"));
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
        if self.ledger.borrow().is_stopping && !self.closed {
            self.connection.close(None, output);
            self.closed = true;
        }
    }

    fn is_finished(&self) -> bool {
        self.closed
    }
}
