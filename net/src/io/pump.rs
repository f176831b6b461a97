//! One connection's task: bytes from the socket into its [`Stack`], the stack's words back, deadlines.
//!
//! Nothing is allocated for a connection that is idle: reads go into the core's scratch buffer, words come out of the core's
//! other two, and only what the peer does not take at once is kept, bounded. While a peer does not read, nothing more is read
//! from it.

use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use engine::request::CoreId;
use engine_runtime::{ConnectionHandle, CoreDoor, Delivery};
use futures_lite::{AsyncRead, AsyncWrite, future};
use glommio::net::TcpStream;
use glommio::timer::sleep;
use tracing::{debug, info, warn};

use super::gate::Ticket;
use super::handoff;
use super::listener::Shared;
use super::pending::{Pending, SHARED_BUFFER_BYTES_KEPT};
use crate::binding::{Closing, Context, OUTPUT_PENDING_BYTES_MAX};
use crate::stack::{Stack, Turn};
use crate::strangers::{RefusedLogin, Verdict};

/// While more than this waits for the peer, nothing is read from it: its requests would only add to it.
const PENDING_PAUSES_READING_BYTES: usize = 64 * 1024;

/// With more than this waiting for it a connection ends. Bindings stop asking long before; only answers to what was asked
/// already can come so far.
const PENDING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A peer that takes not one byte of what waits for it in this time is gone, or wants to be.
const STALL_TIMEOUT_MS: u64 = 120_000;

/// The same once the connection is over but for its last words.
const LAST_WORDS_TIMEOUT_MS: u64 = 5_000;

/// How long a closed connection's last bytes may take to arrive, and the peer to hang up.
const LINGER: Duration = Duration::from_secs(2);

/// A connection's task from its start: to its end, or until it leaves for its device's core.
///
/// The stream and the rest lie in boxes of their own: a future holds each of its arguments once for every layer of futures around
/// it, which made of one kilobyte four and a half.
pub(super) async fn run(mut pump: Box<Pump>, mut stream: Box<TcpStream>) {
    let end = loop {
        match poll_fn(|task| pump.poll(task, &mut stream)).await {
            Some(end) => break end,
            None => pump.shared.context.breathe().await,
        }
    };
    if let End::Leaves(core) = end {
        let Pump { shared, stack, handle, peer, .. } = *pump;
        // The engine holds nothing for it under this name any more, and will know it by another.
        drop(handle);
        return handoff::depart(&shared, core, *stream, stack, peer);
    }
    pump.report(&end);
    pump.act(|stack, turn| stack.handle_gone(turn));
    let lingers = matches!(end, End::Closed) && pump.stack.has_spoken();
    let shared = Rc::clone(&pump.shared);
    // Its sessions and readers end now, not when the peer hangs up.
    drop(pump);
    if lingers {
        Box::pin(linger(shared, stream)).await;
    }
}

/// Let the peer read the last words.
async fn linger(shared: Rc<Shared>, mut stream: Box<TcpStream>) {
    if stream.shutdown(Shutdown::Write).await.is_ok() {
        let gone = poll_fn(|task| discard(&shared, task, &mut stream));
        future::or(gone, async {
            sleep(LINGER).await;
        })
        .await;
    }
}

/// Read and forget what still comes: closing a socket with unread bytes would destroy what the peer has not read yet.
fn discard(shared: &Shared, task: &mut TaskContext<'_>, stream: &mut TcpStream) -> Poll<()> {
    let mut scratch = shared.scratch.borrow_mut();
    while let Ok(1..) = ready!(Pin::new(&mut *stream).poll_read(task, &mut scratch)) {}
    Poll::Ready(())
}

/// How a connection ended.
enum End {
    /// The stack closed it and everything was sent.
    Closed,
    /// It goes on on another core, where its device lives.
    Leaves(CoreId),
    /// The peer took nothing for too long, or too much waited for it.
    Stalled,
    /// The socket failed.
    Failed(io::Error),
}

/// What a turn found.
enum Progress {
    /// Nothing to do.
    Nothing,
    /// Nothing to do, and the socket was not asked, because too much waits for the peer.
    Paused,
    /// Something was done; there may be more.
    Some,
    /// So much that others on this core come first.
    Much,
    /// The socket failed.
    Failed(io::Error),
}

/// What a connection's task works with.
pub(super) struct Pump {
    shared: Rc<Shared>,
    door: CoreDoor,
    stack: Stack,
    handle: ConnectionHandle,
    peer: SocketAddr,
    pending: Pending,
    /// So much was pending that the binding may wait to hear that it no longer is.
    owes_drained: bool,
    /// Its place at the gate of handshakes.
    ticket: Ticket,
    /// What the runtime was last asked for.
    deadline_ms: Option<u64>,
    /// When the connection ends unless the peer takes a byte of what waits for it.
    stalled_at_ms: Option<u64>,
    /// Whether it may still leave for another core: once in its life.
    may_move: bool,
    /// Until then nothing is sent and nothing read: a login was refused, and its answer waits.
    held_until_ms: Option<u64>,
}

impl Pump {
    /// A connection at its start. `has_moved`: it stays on this core.
    pub(super) fn new(
        shared: Rc<Shared>,
        stack: Stack,
        peer: SocketAddr,
        handle: ConnectionHandle,
        has_moved: bool,
    ) -> Box<Self> {
        Box::new(Self {
            door: shared.context.door.clone(),
            shared,
            stack,
            handle,
            peer,
            pending: Pending::default(),
            owes_drained: false,
            ticket: Ticket::default(),
            deadline_ms: None,
            stalled_at_ms: None,
            may_move: !has_moved,
            held_until_ms: None,
        })
    }

    /// Turns until there is nothing to do, then wait. Ready with an end when the connection has come to it, without one when
    /// there is more but others on this core come first.
    fn poll(&mut self, task: &mut TaskContext<'_>, stream: &mut TcpStream) -> Poll<Option<End>> {
        loop {
            let progress = self.turn(task, stream);
            if let Err(error) = self.write(task, stream) {
                return Poll::Ready(Some(End::Failed(error)));
            }
            if self.pending.is_empty() {
                if self.stack.closing().is_some() {
                    return Poll::Ready(Some(End::Closed));
                }
                if std::mem::take(&mut self.owes_drained) {
                    self.act(|stack, turn| stack.handle_output_drained(turn));
                    continue;
                }
            } else if self.is_stalled() {
                return Poll::Ready(Some(End::Stalled));
            }
            match progress {
                Progress::Failed(error) => return Poll::Ready(Some(End::Failed(error))),
                Progress::Some => {}
                // The socket has taken what was in the way, and nobody has asked it for input since: nothing would wake us.
                Progress::Paused if !self.is_paused() => {}
                Progress::Much => return Poll::Ready(None),
                Progress::Nothing | Progress::Paused => {
                    if let Some(core) = self.destination() {
                        return Poll::Ready(Some(End::Leaves(core)));
                    }
                    if self.stack.awaits_home() {
                        self.act(|stack, turn| stack.handle_home(turn));
                        continue;
                    }
                    self.set_deadline();
                    let delivery = ready!(self.handle.poll_delivery(task));
                    self.deliver(delivery);
                }
            }
        }
    }

    /// Everything that has come from the engine, and one read of the socket.
    fn turn(&mut self, task: &mut TaskContext<'_>, stream: &mut TcpStream) -> Progress {
        let mut progress = Progress::Nothing;
        if let Some(first) = self.handle.try_next() {
            self.deliver(first);
            progress = Progress::Some;
        }
        if !self.stack.wants_input() {
            return progress;
        }
        if self.is_paused() {
            return if matches!(progress, Progress::Nothing) { Progress::Paused } else { progress };
        }
        if !self.stack.has_spoken() && self.shared.gate.poll_pass(&mut self.ticket, task).is_pending() {
            return progress;
        }
        let shared = Rc::clone(&self.shared);
        let mut scratch = shared.scratch.borrow_mut();
        let carried = self.stack.carried();
        let carried_bytes = carried.len();
        scratch[..carried_bytes].copy_from_slice(carried);
        match Pin::new(stream).poll_read(task, &mut scratch[carried_bytes..]) {
            Poll::Pending => progress,
            Poll::Ready(Err(error)) => Progress::Failed(error),
            Poll::Ready(Ok(0)) => {
                self.stack.handle_end_of_input();
                Progress::Some
            }
            Poll::Ready(Ok(count)) => {
                self.shared.counters.bytes_received.add(count);
                let end = carried_bytes + count;
                let is_full = end == scratch.len();
                self.act(|stack, turn| stack.handle_input(&mut scratch[..end], turn));
                if is_full { Progress::Much } else { Progress::Some }
            }
        }
    }

    /// Hand on what has come from the engine, `first` and all that is behind it, in one turn.
    fn deliver(&mut self, first: Delivery) {
        let mut next = Some(first);
        self.act_with(|stack, handle, deadline_ms, turn| {
            while let Some(delivery) = next.take().or_else(|| handle.try_next()) {
                match delivery {
                    Delivery::Appended(appended) => stack.handle_appended(&appended, turn),
                    Delivery::Reply { token, reply } => stack.handle_reply(token, reply, turn),
                    Delivery::Notice(notice) => stack.handle_notice(notice, turn),
                    Delivery::Stopping => stack.begin_stop(turn),
                    Delivery::Deadline => {
                        *deadline_ms = None;
                        stack.handle_timeout(turn);
                    }
                }
            }
        });
    }

    fn act(&mut self, act: impl FnOnce(&mut Stack, &mut Turn<'_, '_>)) {
        self.act_with(|stack, _, _, turn| act(stack, turn));
    }

    /// One turn of the stack. What it has to say goes behind what is pending.
    fn act_with(
        &mut self,
        act: impl FnOnce(&mut Stack, &ConnectionHandle, &mut Option<u64>, &mut Turn<'_, '_>),
    ) {
        let shared = &*self.shared;
        let mut plaintext = shared.plaintext.borrow_mut();
        // Another connection's turn that panicked may have left something.
        plaintext.clear();
        let mut hub = Context {
            door: &mut self.door,
            connection: self.handle.id(),
            now: shared.context.clock.now(),
            hub: &shared.hub,
            transport: self.stack.port().transport(),
            peer: self.peer,
            output_pending_bytes: self.pending.len(),
            refused_logins: Vec::new(),
        };
        let wire = self.pending.buffer(&shared.wire);
        let mut turn = Turn { plaintext: &mut plaintext, wire, hub: &mut hub };
        act(&mut self.stack, &self.handle, &mut self.deadline_ms, &mut turn);
        self.stack.end_turn(&mut turn);
        let refused = std::mem::take(&mut hub.refused_logins);
        self.owes_drained |= self.pending.len() >= OUTPUT_PENDING_BYTES_MAX;
        plaintext.shrink_to(SHARED_BUFFER_BYTES_KEPT);
        drop(plaintext);
        refused.iter().for_each(|login| self.count_refused(login));
    }

    /// A login was refused: count it, say it where it is news, and let the answer wait where too many were.
    fn count_refused(&mut self, login: &RefusedLogin) {
        let shared = Rc::clone(&self.shared);
        let (address, now_ms) = (self.peer.ip(), self.now_ms());
        let verdict = shared.strangers.borrow_mut().refuse(address, login.device.as_ref(), now_ms);
        shared.counters.logins_refused.count();
        if verdict.delay_ms > 0 && login.may_wait {
            shared.counters.logins_delayed.count();
            self.held_until_ms = Some(now_ms + verdict.delay_ms);
        }
        if verdict.is_news {
            let device = login.device.as_ref().map_or("none that can be read", |device| device.as_str());
            let Verdict { delay_ms, address_count, device_count, .. } = verdict;
            warn!(%address, device, address_count, device_count, delay_ms, "logins fail again and again");
        }
    }

    /// Whether a refusal is kept back. At the hub's stop nothing is.
    fn is_held(&self) -> bool {
        self.held_until_ms.is_some_and(|until_ms| self.now_ms() < until_ms)
            && !self.shared.context.stopping.is_set()
    }

    /// Send what is pending, as much as the socket takes.
    fn write(&mut self, task: &mut TaskContext<'_>, stream: &mut TcpStream) -> io::Result<()> {
        if self.is_held() {
            self.pending.park(&self.shared.wire);
            return Ok(());
        }
        self.held_until_ms = None;
        let mut has_moved = false;
        while !self.pending.is_empty() {
            match Pin::new(&mut *stream).poll_write(task, self.pending.bytes())? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => {
                    self.shared.counters.bytes_sent.add(count);
                    self.pending.consume(count);
                    has_moved = true;
                }
                Poll::Pending => {
                    self.owes_drained = true;
                    if has_moved || self.stalled_at_ms.is_none() {
                        let timeout_ms = match self.stack.closing() {
                            None => STALL_TIMEOUT_MS,
                            Some(_) => LAST_WORDS_TIMEOUT_MS,
                        };
                        self.stalled_at_ms = Some(self.now_ms() + timeout_ms);
                    }
                    self.pending.park(&self.shared.wire);
                    return Ok(());
                }
            }
        }
        self.stalled_at_ms = None;
        self.pending.give_back(&self.shared.wire);
        Ok(())
    }

    /// Where the connection should go on, at a moment when nothing of it is under way.
    fn destination(&self) -> Option<CoreId> {
        if !self.may_move || !self.pending.is_empty() || self.handle.outstanding() > 0 {
            return None;
        }
        handoff::destination(&self.shared, &self.stack)
    }

    /// Whether so much waits for the peer that nothing is read from it.
    fn is_paused(&self) -> bool {
        self.pending.len() > PENDING_PAUSES_READING_BYTES || self.is_held()
    }

    fn is_stalled(&self) -> bool {
        self.pending.len() > PENDING_BYTES_MAX
            || self.stalled_at_ms.is_some_and(|at_ms| self.now_ms() >= at_ms)
    }

    fn now_ms(&self) -> u64 {
        self.shared.context.clock.now().mono_ms
    }

    fn set_deadline(&mut self) {
        let deadlines = [self.stack.next_timeout_ms(), self.stalled_at_ms, self.held_until_ms];
        let deadline_ms = deadlines.into_iter().flatten().min();
        if deadline_ms != self.deadline_ms {
            self.deadline_ms = deadline_ms;
            self.handle.set_deadline(deadline_ms);
        }
    }

    /// Count the connection's end and say it in the log: in detail for those who look, in short when the peer was at fault.
    fn report(&self, end: &End) {
        let counters = &self.shared.counters;
        let (peer, how) = (self.peer, self.stack.describe());
        match (end, self.stack.closing()) {
            (End::Stalled, _) => {
                counters.stalled.count();
                info!(%peer, %how, "connection ended: it did not take what was sent to it");
            }
            (End::Failed(error), _) => debug!(%peer, %how, "connection lost: {error}"),
            (End::Closed, Some(Closing::Fault(reason))) if self.stack.has_spoken() => {
                counters.faults.count();
                info!(%peer, %how, "connection ended: {reason}");
            }
            (End::Closed, Some(Closing::Fault(reason))) => {
                counters.handshake_failures.count();
                debug!(%peer, %how, "connection ended before its first word: {reason}");
            }
            (End::Closed | End::Leaves(_), _) => debug!(%peer, %how, "connection ended"),
        }
    }
}
