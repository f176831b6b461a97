//! All connections of a process: who is ready, who is due, who may connect next.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

use super::link::{Got, Link};
use super::transport::Tls;
use crate::client::{Client, Run, State, Turn};

/// One read takes as much at most.
const READ_BYTES: usize = 256 * 1024;
/// Connections that may be on their way to being ready at once: more than a listener's backlog would only be refused.
const OPENING_MAX: usize = 256;
/// Readiness taken from the kernel at once.
const EVENTS_MAX: usize = 1024;
/// Clients whose time has come are served together this often, as precisely as a process sleeps: a send for each event alone
/// would measure sends.
const GRAIN: Duration = Duration::from_micros(100);
/// How often every connection is asked whether its protocol's own clock wants something, such as a heartbeat.
const TICK: Duration = Duration::from_secs(1);

/// Where a connection goes.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// TLS, or none.
    pub tls: Option<Tls>,
}

struct Slot {
    client: Box<dyn Client>,
    endpoint: Endpoint,
    link: Option<Link>,
    /// When the client is to be asked for more; one entry in `due` at most has this time.
    due: Option<Instant>,
    /// Whether it counts among those that are opening.
    is_opening: bool,
    is_finished: bool,
}

/// Connections and their clients.
///
/// [`add`](Self::add) them, then [`turn`](Self::turn) until they are where the caller wants them.
pub struct Reactor {
    epoll: OwnedFd,
    slots: Vec<Slot>,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Before that none of `due` is served.
    due_from: Instant,
    waiting: VecDeque<usize>,
    opening_count: usize,
    ready_count: usize,
    finished_count: usize,
    next_tick: Instant,
    received_bytes: u64,
    events: Vec<epoll::Event>,
    scratch: Vec<u8>,
    opened: Vec<u8>,
    plaintext: Vec<u8>,
}

impl std::fmt::Debug for Reactor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Reactor").field("connections", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Reactor {
    /// Without connections.
    pub fn new() -> Result<Self, String> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        Ok(Self {
            epoll,
            slots: Vec::new(),
            due: BinaryHeap::new(),
            due_from: Instant::now(),
            waiting: VecDeque::new(),
            opening_count: 0,
            ready_count: 0,
            finished_count: 0,
            next_tick: Instant::now() + TICK,
            received_bytes: 0,
            events: Vec::with_capacity(EVENTS_MAX),
            scratch: vec![0; READ_BYTES],
            opened: Vec::new(),
            plaintext: Vec::new(),
        })
    }

    /// A client that connects as soon as it is its turn.
    pub fn add(&mut self, endpoint: Endpoint, client: Box<dyn Client>) {
        let index = self.slots.len();
        self.slots.push(Slot {
            client,
            endpoint,
            link: None,
            due: None,
            is_opening: false,
            is_finished: false,
        });
        self.waiting.push_back(index);
    }

    /// Bytes that all sockets brought, as they travelled.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Connections whose clients have said that they are ready.
    pub fn ready_count(&self) -> usize {
        self.ready_count
    }

    /// Connections that are over for good.
    pub fn finished_count(&self) -> usize {
        self.finished_count
    }

    /// All connections.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Let every client look at what has changed in `run`.
    pub fn wake_all(&mut self, run: &mut Run) -> Result<(), String> {
        (0..self.slots.len()).try_for_each(|index| self.advance(index, run, false))
    }

    /// Do what is there to do and wait for more, until `until` at the latest.
    ///
    /// # Errors
    ///
    /// The first error of any connection: the run has failed.
    pub fn turn(&mut self, run: &mut Run, until: Instant) -> Result<(), String> {
        run.now = Instant::now();
        while self.opening_count < OPENING_MAX
            && let Some(index) = self.waiting.pop_front()
        {
            self.connect(index)?;
        }
        let due_from = self.due_from;
        while let Some(Reverse((at, index))) = self.due.peek().copied() {
            if at > run.now || due_from > run.now {
                break;
            }
            self.due_from = run.now + GRAIN;
            self.due.pop();
            if self.slots[index].due == Some(at) {
                self.slots[index].due = None;
                self.advance(index, run, false)?;
            }
        }
        if run.now >= self.next_tick {
            self.next_tick = run.now + TICK;
            (0..self.slots.len()).try_for_each(|index| self.advance(index, run, true))?;
        }
        let next = self.due.peek().map_or(until, |Reverse((at, _))| (*at).max(self.due_from).min(until));
        let next = next.min(self.next_tick);
        let patience = next.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(patience).unwrap_or_default();
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("epoll: {error}")),
        }
        run.now = Instant::now();
        let events = std::mem::take(&mut self.events);
        let result = events.iter().try_for_each(|event| {
            let data = event.data;
            self.handle_ready(data.u64() as usize, run)
        });
        self.events = events;
        result
    }

    fn connect(&mut self, index: usize) -> Result<(), String> {
        let slot = &mut self.slots[index];
        let link = Link::open(slot.endpoint.address, slot.endpoint.tls.as_ref())?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &link.stream, EventData::new_u64(index as u64), flags)
            .map_err(|error| format!("epoll: {error}"))?;
        slot.link = Some(link);
        slot.is_opening = true;
        self.opening_count += 1;
        Ok(())
    }

    fn handle_ready(&mut self, index: usize, run: &mut Run) -> Result<(), String> {
        let Slot { link: Some(link), client, endpoint, .. } = &mut self.slots[index] else { return Ok(()) };
        if !link.is_connected {
            link.finish_connecting(endpoint.address)?;
            let mut turn = Turn { run, output: &mut self.plaintext };
            client.begin(&mut turn)?;
        }
        loop {
            let Slot { link: Some(link), client, .. } = &mut self.slots[index] else { return Ok(()) };
            let count = match link.read(&mut self.scratch)? {
                Got::Nothing => break,
                Got::Bytes(count) => count,
                Got::End => return self.handle_end(index, run),
            };
            self.received_bytes += count as u64;
            let plaintext = &mut self.plaintext;
            link.transport.open(&self.scratch[..count], &mut self.opened, &mut |bytes| {
                client.handle(bytes, &mut Turn { run, output: plaintext })
            })?;
            if link.transport.is_resumed() {
                client.resumed();
            }
            // A short read has emptied the socket; the kernel tells when there is more.
            if count < self.scratch.len() {
                break;
            }
            self.advance(index, run, false)?;
        }
        self.advance(index, run, false)
    }

    /// The server has hung up.
    fn handle_end(&mut self, index: usize, run: &mut Run) -> Result<(), String> {
        let slot = &mut self.slots[index];
        match slot.client.state() {
            State::Finished | State::Reconnect(_) => self.settle(index, run),
            State::Opening | State::Ready => Err(format!("{} closed the connection", slot.endpoint.address)),
        }
    }

    /// Let a client say what it may say now, and send it.
    fn advance(&mut self, index: usize, run: &mut Run, is_tick: bool) -> Result<(), String> {
        loop {
            let Slot { link, client, .. } = &mut self.slots[index];
            let Some(link) = link.as_mut().filter(|link| link.is_connected) else { break };
            let has_room = !link.is_full();
            if has_room {
                let mut turn = Turn { run, output: &mut self.plaintext };
                if is_tick {
                    client.tick(&mut turn)?;
                }
                client.fill(&mut turn)?;
            }
            let said = !self.plaintext.is_empty();
            let all = link.write(&mut self.plaintext)?;
            // A client stops when a turn's output is large, not when it has nothing more to say.
            if !(said && all && has_room) {
                break;
            }
        }
        self.settle(index, run)
    }

    /// Do what the client's state asks for.
    fn settle(&mut self, index: usize, run: &mut Run) -> Result<(), String> {
        let slot = &mut self.slots[index];
        let state = slot.client.state();
        if slot.is_opening && !matches!(state, State::Opening) {
            slot.is_opening = false;
            self.opening_count -= 1;
            self.ready_count += 1;
        }
        let due = match state {
            State::Finished => {
                if !std::mem::replace(&mut slot.is_finished, true) {
                    self.finished_count += 1;
                }
                slot.link = None;
                None
            }
            State::Reconnect(at) => {
                slot.link = None;
                if at <= run.now {
                    slot.client.reconnecting();
                    self.waiting.push_back(index);
                    self.ready_count -= 1;
                    None
                } else {
                    Some(at)
                }
            }
            State::Opening | State::Ready => slot.client.wake_at(run),
        };
        let slot = &mut self.slots[index];
        if slot.due != due {
            slot.due = due;
            if let Some(at) = due {
                self.due.push(Reverse((at, index)));
            }
        }
        Ok(())
    }
}
