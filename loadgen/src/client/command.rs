//! Commands from end to end: a back end that enqueues them, devices that complete them, a reader of receipts.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use net_amqp::{
    AttachRequest, Body, DeliveryState, LinkId, MessageBuilder, Properties, ReceiverSettleMode, Sections,
    SendDelivery, SendRefused, Value,
};

use crate::client::amqp::{Amqp, Happened, attach, reason};
use crate::client::publisher::{Outcome, Post, Publisher, Sent};
use crate::client::{AFTERMATH, Client, Run, State, Turn};
use crate::ledger::{Mark, device_id};
use crate::record::Kind;

/// Commands that a device's link takes ahead.
const DEVICE_CREDIT: u32 = 50;
/// Batches of receipts on their way at once.
const RECEIPT_CREDIT: u32 = 100;

/// What back end, devices and the reader of receipts know together. They are of one process.
#[derive(Debug, Default)]
pub struct Book {
    /// For each device the commands that were enqueued and not completed.
    open: Vec<VecDeque<(u64, Instant)>>,
    open_count: u64,
    /// Commands whose completion the hub has confirmed.
    completed_count: u64,
    /// Commands whose receipt has come.
    receipts: HashSet<(u32, u64)>,
    /// Back ends that may still send.
    back_end_count: u32,
    is_open_loop: bool,
    /// When a command was last completed, or its receipt last came.
    last_at: Option<Instant>,
}

/// The book as its connections hold it.
pub type SharedBook = Rc<RefCell<Book>>;

impl Book {
    /// For so many devices.
    pub fn new(device_count: u32, is_open_loop: bool) -> SharedBook {
        let open = vec![VecDeque::new(); device_count as usize];
        Rc::new(RefCell::new(Self { open, is_open_loop, ..Self::default() }))
    }

    fn complete(&mut self, device: u32, number: u64, run: &mut Run) -> Result<(), String> {
        let place = self.open[device as usize].iter().position(|(open, _)| *open == number);
        let (_, intended) = place
            .and_then(|place| self.open[device as usize].remove(place))
            .ok_or_else(|| format!("command {number} of device {device} was completed twice"))?;
        self.open_count -= 1;
        self.completed_count += 1;
        self.last_at = Some(run.now);
        let at = if self.is_open_loop { intended } else { run.now };
        run.recorder.count(Kind::Command, run.now, 1, 0);
        run.recorder.latency(Kind::Command, at, run.now - intended, 1);
        Ok(())
    }

    fn is_over(&self, now: Instant) -> bool {
        let has_calmed = self.last_at.is_none_or(|at| now.saturating_duration_since(at) >= AFTERMATH);
        self.back_end_count == 0 && self.open_count == 0 && has_calmed
    }

    fn receive(&mut self, message_id: &str, outcome: &str, run: u32, now: Instant) -> Result<(), String> {
        self.last_at = Some(now);
        let mut parts = message_id.split('-').map(|part| part.parse::<u64>().ok());
        let (Some(Some(of)), Some(Some(device)), Some(Some(number))) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("a receipt is for {message_id}, which is no command of ours"));
        };
        if of != u64::from(run) {
            return Ok(());
        }
        if outcome != "Success" {
            return Err(format!("the receipt of command {number} of device {device} says {outcome}"));
        }
        let device = u32::try_from(device).map_err(|_| "a receipt is for no device of ours")?;
        match self.receipts.insert((device, number)) {
            true => Ok(()),
            false => Err(format!("command {number} of device {device} has two receipts")),
        }
    }
}

/// Sends commands to devices over one AMQP connection.
#[derive(Debug)]
pub struct CommandPublisher {
    amqp: Amqp,
    link: Option<LinkId>,
    is_attached: bool,
    book: SharedBook,
    /// Commands of a device that are not completed, at most.
    depth_max: usize,
    wants_receipts: bool,
    first_id: Option<u32>,
    sent_count: u32,
    is_blocked: bool,
    body: Vec<u8>,
}

impl CommandPublisher {
    /// With at most `depth_max` commands of a device on their way.
    pub fn new(amqp: Amqp, book: SharedBook, depth_max: usize, wants_receipts: bool) -> Self {
        book.borrow_mut().back_end_count += 1;
        Self {
            amqp,
            link: None,
            is_attached: false,
            book,
            depth_max,
            wants_receipts,
            first_id: None,
            sent_count: 0,
            is_blocked: false,
            body: Vec::new(),
        }
    }
}

impl Publisher for CommandPublisher {
    fn begin(&mut self, now: Instant, output: &mut Vec<u8>) {
        self.amqp.begin(now, output);
    }

    fn handle(
        &mut self,
        input: &[u8],
        now: Instant,
        output: &mut Vec<u8>,
        on: &mut dyn FnMut(Outcome) -> Result<(), String>,
    ) -> Result<(), String> {
        let Self { amqp, link, is_attached, first_id, .. } = self;
        amqp.handle(input, now, output, &mut |connection, happened, output| match happened {
            Happened::Authorized(session) => {
                let request = AttachRequest::sender("commands", "/messages/devicebound");
                *link = Some(attach(connection, session, &request, output)?);
                Ok(())
            }
            Happened::Attached(_) => {
                *is_attached = true;
                Ok(())
            }
            Happened::Settled { first, last, state, .. } => on(Outcome::of(first, last, state, *first_id)?),
            Happened::Transfer { .. } => Err("a message came on no link of ours".to_owned()),
        })
    }

    fn fill(&mut self, output: &mut Vec<u8>) {
        self.amqp.fill(output);
    }

    fn tick(&mut self, now: Instant, output: &mut Vec<u8>) -> Result<(), String> {
        self.amqp.tick(now, output)
    }

    fn is_ready(&self) -> bool {
        self.is_attached
    }

    fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    fn send(&mut self, _place: usize, post: &Post<'_>, output: &mut Vec<u8>) -> Result<Sent, String> {
        let Some(link) = self.link else { return Ok(Sent::No) };
        let Mark { run, device, number } = post.mark;
        let mut book = self.book.borrow_mut();
        let open = &book.open[device as usize];
        self.is_blocked = open.len() >= self.depth_max;
        if self.is_blocked {
            return Ok(Sent::OthersMay);
        }
        let connection = self.amqp.connection();
        if connection.sendable(link) == 0 {
            return Ok(Sent::No);
        }
        let to = format!("/devices/{}/messages/devicebound", device_id(device));
        let message_id = format!("{run}-{device}-{number}");
        self.body.clear();
        self.body.extend_from_slice(&post.mark.encode());
        self.body.extend_from_slice(post.filler);
        let message = MessageBuilder::default()
            .properties(Properties {
                message_id: Some(Value::String(&message_id)),
                to: Some(&to),
                ..Properties::default()
            })
            .application_property(
                "iothub-ack",
                Value::String(if self.wants_receipts { "full" } else { "none" }),
            )
            .data(&self.body)
            .encode();
        let tag = self.sent_count.to_le_bytes();
        let delivery = SendDelivery { tag: &tag, message_format: 0, settled: false, payload: &[&message] };
        match connection.send(link, &delivery, output) {
            Ok(id) => {
                self.first_id.get_or_insert(id);
                self.sent_count = self.sent_count.wrapping_add(1);
                book.open[device as usize].push_back((number, post.intended));
                book.open_count += 1;
                Ok(Sent::Yes)
            }
            Err(error @ SendRefused::TooLarge { .. }) => Err(error.to_string()),
            Err(_) => Ok(Sent::No),
        }
    }

    fn close(&mut self, output: &mut Vec<u8>) {
        self.book.borrow_mut().back_end_count -= 1;
        self.amqp.close(output);
    }
}

/// Receives the commands of some devices over one AMQP connection and completes each; the hub's confirmation that the
/// completion is durable ends the command.
#[derive(Debug)]
pub struct CommandReceiver {
    amqp: Amqp,
    sources: Vec<String>,
    attached_count: usize,
    book: SharedBook,
    /// Deliveries by id, from `first_id` on, that wait for the hub's confirmation.
    waiting: VecDeque<Option<Mark>>,
    first_id: u32,
    is_closed: bool,
}

impl CommandReceiver {
    /// For the devices with these ids.
    pub fn new(amqp: Amqp, devices: &[String], book: SharedBook) -> Self {
        let sources =
            devices.iter().map(|device| format!("/devices/{device}/messages/devicebound")).collect();
        Self {
            amqp,
            sources,
            attached_count: 0,
            book,
            waiting: VecDeque::new(),
            first_id: 0,
            is_closed: false,
        }
    }
}

impl Client for CommandReceiver {
    fn begin(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.amqp.begin(turn.run.now, turn.output);
        Ok(())
    }

    fn handle(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Result<(), String> {
        let Turn { run, output } = turn;
        let Self { amqp, sources, attached_count, book, waiting, first_id, .. } = self;
        amqp.handle(input, run.now, output, &mut |connection, happened, output| match happened {
            Happened::Authorized(session) => sources.iter().try_for_each(|source| {
                let request = AttachRequest {
                    receiver_settle_mode: ReceiverSettleMode::Second,
                    ..AttachRequest::receiver(source, source)
                };
                attach(connection, session, &request, output).map(drop)
            }),
            Happened::Attached(link) => {
                *attached_count += 1;
                connection.grant(link, DEVICE_CREDIT, output);
                Ok(())
            }
            Happened::Transfer { link, delivery_id, payload, .. } => {
                let mark = body(payload)?.and_then(Mark::decode).ok_or("a command is none of ours")?;
                if !run.commands.read_back(mark)? {
                    return Err("a command of another run came".to_owned());
                }
                if waiting.is_empty() {
                    *first_id = delivery_id;
                }
                // A bound on what a server can make us remember by leaving ids out.
                let place = delivery_id.wrapping_sub(*first_id) as usize;
                if place >= waiting.len() + 1024 || place < waiting.len() {
                    return Err("the server's delivery ids do not go up one by one".to_owned());
                }
                waiting.resize(place, None);
                waiting.push_back(Some(mark));
                connection.settle(link, delivery_id, delivery_id, &DeliveryState::Accepted, false, output);
                if connection.credit(link) < DEVICE_CREDIT / 2 {
                    connection.grant(link, DEVICE_CREDIT, output);
                }
                Ok(())
            }
            Happened::Settled { first, last, state, .. } => {
                check_completion(state.as_ref())?;
                let (first, last) =
                    (first.wrapping_sub(*first_id) as i32, last.wrapping_sub(*first_id) as i32);
                for place in first.max(0)..=last {
                    let Some(slot) = waiting.get_mut(place as usize) else { break };
                    if let Some(Mark { device, number, .. }) = slot.take() {
                        book.borrow_mut().complete(device, number, run)?;
                    }
                }
                while let Some(None) = waiting.front() {
                    waiting.pop_front();
                    *first_id = first_id.wrapping_add(1);
                }
                Ok(())
            }
        })
    }

    fn fill(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.amqp.fill(turn.output);
        if turn.run.is_stopping() && !self.is_closed && self.book.borrow().is_over(turn.run.now) {
            self.amqp.close(turn.output);
            self.is_closed = true;
        }
        Ok(())
    }

    fn tick(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.amqp.tick(turn.run.now, turn.output)
    }

    fn state(&self) -> State {
        match (self.is_closed, self.attached_count == self.sources.len()) {
            (true, _) => State::Finished,
            (false, true) => State::Ready,
            (false, false) => State::Opening,
        }
    }
}

/// The hub's answer to a completion: durable, or refused.
fn check_completion(state: Option<&DeliveryState<'_>>) -> Result<(), String> {
    match state {
        Some(DeliveryState::Accepted) => Ok(()),
        Some(DeliveryState::Rejected(error)) => {
            Err(format!("a completion was refused: {}", reason(error.as_ref())))
        }
        state => Err(format!("a completion was not confirmed: {state:?}")),
    }
}

fn body(payload: &[u8]) -> Result<Option<&[u8]>, String> {
    let sections = Sections::parse(payload).map_err(|error| error.to_string())?;
    Ok(match sections.body {
        Body::Data(data) => data.single(),
        _ => None,
    })
}

/// Takes the receipts of all commands: each must say Success, and come once.
#[derive(Debug)]
pub struct ReceiptReader {
    amqp: Amqp,
    is_attached: bool,
    book: SharedBook,
    is_closed: bool,
}

impl ReceiptReader {
    /// Of the commands in this book.
    pub fn new(amqp: Amqp, book: SharedBook) -> Self {
        Self { amqp, is_attached: false, book, is_closed: false }
    }
}

impl Client for ReceiptReader {
    fn begin(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.amqp.begin(turn.run.now, turn.output);
        Ok(())
    }

    fn handle(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Result<(), String> {
        let Turn { run, output } = turn;
        let Self { amqp, is_attached, book, .. } = self;
        amqp.handle(input, run.now, output, &mut |connection, happened, output| match happened {
            Happened::Authorized(session) => {
                let request = AttachRequest::receiver("receipts", "/messages/serviceBound/feedback");
                attach(connection, session, &request, output).map(drop)
            }
            Happened::Attached(link) => {
                *is_attached = true;
                connection.grant(link, RECEIPT_CREDIT, output);
                Ok(())
            }
            Happened::Transfer { link, delivery_id, settled, payload } => {
                let batch = body(payload)?.ok_or("a batch of receipts has no body of one piece")?;
                let records: Vec<Receipt> = serde_json::from_slice(batch)
                    .map_err(|error| format!("a batch of receipts cannot be read: {error}"))?;
                for Receipt { original_message_id, status_code } in &records {
                    book.borrow_mut().receive(original_message_id, status_code, run.commands.run, run.now)?;
                }
                run.recorder.count(Kind::Receipt, run.now, records.len() as u64, 0);
                if !settled {
                    connection.settle(link, delivery_id, delivery_id, &DeliveryState::Accepted, true, output);
                }
                if connection.credit(link) < RECEIPT_CREDIT / 2 {
                    connection.grant(link, RECEIPT_CREDIT, output);
                }
                Ok(())
            }
            Happened::Settled { .. } => Ok(()),
        })
    }

    fn fill(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.amqp.fill(turn.output);
        let book = self.book.borrow();
        let has_all = book.is_over(turn.run.now) && book.receipts.len() as u64 == book.completed_count;
        if turn.run.is_stopping() && !self.is_closed && has_all {
            self.amqp.close(turn.output);
            self.is_closed = true;
        }
        Ok(())
    }

    fn tick(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.amqp.tick(turn.run.now, turn.output)
    }

    fn state(&self) -> State {
        match (self.is_closed, self.is_attached) {
            (true, _) => State::Finished,
            (false, true) => State::Ready,
            (false, false) => State::Opening,
        }
    }
}

/// What became of one command [IoT Hub: iot-hub-devguide-messages-c2d].
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Receipt {
    original_message_id: String,
    status_code: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_receipt_says_success_and_comes_once() {
        let book = Book::new(2, false);
        let mut book = book.borrow_mut();
        let now = Instant::now();
        book.receive("7-1-0", "Success", 7, now).unwrap();
        book.receive("8-1-0", "Expired", 7, now).unwrap();
        assert!(book.receive("7-1-0", "Success", 7, now).is_err(), "twice");
        assert!(book.receive("7-1-1", "Expired", 7, now).is_err());
        assert!(book.receive("nonsense", "Success", 7, now).is_err());
        assert_eq!(book.receipts.len(), 1);
    }

    #[test]
    fn a_completion_counts_when_the_hub_has_accepted_it() {
        check_completion(Some(&DeliveryState::Accepted)).unwrap();
        assert!(check_completion(Some(&DeliveryState::Rejected(None))).is_err());
        assert!(check_completion(None).is_err());
    }

    #[test]
    fn what_comes_twice_is_waited_for() {
        let book = Book::new(1, false);
        let mut book = book.borrow_mut();
        let now = Instant::now();
        assert!(book.is_over(now), "nothing was sent");
        book.receive("7-0-0", "Success", 7, now).unwrap();
        assert!(!book.is_over(now + AFTERMATH / 2) && book.is_over(now + AFTERMATH));
    }
}
