//! A client that sends events by its schedule, and knows of each what became of it.

use std::collections::VecDeque;
use std::time::Instant;

use crate::client::publisher::{Outcome, Post, Publisher, Sent};
use crate::client::{Client, Run, State, Turn};
use crate::ledger::{MARK_BYTES, Mark, filler};
use crate::record::Kind;
use crate::schedule::{Pace, Schedule};

/// Plaintext of one turn at most: enough for full TLS records, little enough to stay in the cache.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// What a connection sends.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Index of its first device; the others follow.
    pub first_device: u32,
    /// How many devices.
    pub device_count: u32,
    /// Bytes of each body, at least [`MARK_BYTES`].
    pub body_bytes: usize,
    /// Events of a message.
    pub batch: u32,
    /// Messages without acknowledgement at most.
    pub in_flight_max: u32,
    /// When messages are sent.
    pub pace: Pace,
    /// Of the bodies.
    pub seed: u64,
}

/// A message that waits for its outcome.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    mark: Mark,
    intended: Instant,
}

/// The connection.
#[derive(Debug)]
pub struct Sender<P> {
    publisher: P,
    sending: Sending,
    schedule: Option<Schedule>,
    has_begun: bool,
    /// The next number of each device.
    next: Vec<u64>,
    turn: usize,
    /// Messages by number, from `first_waiting` on; what has an outcome is taken out in place.
    waiting: VecDeque<Option<Waiting>>,
    first_waiting: u32,
    in_flight: u32,
    filler: Vec<u8>,
    is_closed: bool,
}

impl<P: Publisher> Sender<P> {
    /// Sends through `publisher`.
    pub fn new(publisher: P, sending: Sending) -> Self {
        Self {
            publisher,
            schedule: None,
            has_begun: false,
            next: vec![0; sending.device_count as usize],
            turn: 0,
            waiting: VecDeque::new(),
            first_waiting: 0,
            in_flight: 0,
            filler: filler(sending.body_bytes - MARK_BYTES, sending.seed ^ u64::from(sending.first_device)),
            is_closed: false,
            sending,
        }
    }

    /// Send one message, for whichever device is next and can. False: none can.
    fn send_one(&mut self, intended: Instant, run: u32, output: &mut Vec<u8>) -> Result<bool, String> {
        let count = self.next.len();
        for step in 0..count {
            let place = (self.turn + step) % count;
            let device = self.sending.first_device + place as u32;
            let mark = Mark { run, device, number: self.next[place] };
            let post = Post { mark, count: self.sending.batch, filler: &self.filler };
            match self.publisher.send(place, &post, output)? {
                Sent::No => return Ok(false),
                Sent::OthersMay => {}
                Sent::Yes => {
                    self.next[place] += u64::from(self.sending.batch);
                    self.turn = place + 1;
                    self.waiting.push_back(Some(Waiting { mark, intended }));
                    self.in_flight += 1;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What was intended and will not be sent any more.
    fn give_up(&mut self, run: &mut Run) {
        let (Some(mut schedule), Some(end)) = (self.schedule.take(), run.ends_at) else { return };
        while schedule.next_at() < end {
            let intended = schedule.next_at();
            for _ in 0..self.sending.batch {
                run.recorder.overdue(Kind::Event, intended, end - intended);
            }
            schedule.advance();
        }
    }

    fn stop(&mut self, turn: &mut Turn<'_>) {
        self.give_up(turn.run);
        if self.in_flight == 0 {
            self.publisher.close(turn.output);
            self.is_closed = true;
        }
    }
}

/// The outcomes of one call, with what they concern.
struct Outcomes<'a> {
    waiting: &'a mut VecDeque<Option<Waiting>>,
    first_waiting: &'a mut u32,
    in_flight: &'a mut u32,
    sending: Sending,
    is_open_loop: bool,
}

impl Outcomes<'_> {
    fn take(&mut self, outcome: Outcome, run: &mut Run) -> Result<(), String> {
        // A range may begin before what still waits, have holes, and end with what was sent last.
        let first = outcome.first.wrapping_sub(*self.first_waiting) as i32;
        let last = outcome.last.wrapping_sub(*self.first_waiting) as i32;
        let Sending { batch, body_bytes, .. } = self.sending;
        let mut count = 0;
        for place in first.max(0)..=last {
            let Some(slot) = self.waiting.get_mut(place as usize) else { break };
            let Some(Waiting { mark, intended }) = slot.take() else { continue };
            *self.in_flight -= 1;
            count += u64::from(batch);
            for number in mark.number..mark.number + u64::from(batch) {
                run.ledger.acknowledge(mark.device, number)?;
            }
            let at = if self.is_open_loop { intended } else { run.now };
            run.recorder.latency(Kind::Event, at, run.now - intended, u64::from(batch));
        }
        run.recorder.count(Kind::Event, run.now, count, count * body_bytes as u64);
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            *self.first_waiting = self.first_waiting.wrapping_add(1);
        }
        Ok(())
    }
}

impl<P: Publisher> Client for Sender<P> {
    fn begin(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.publisher.begin(turn.run.now, turn.output);
        Ok(())
    }

    fn handle(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Result<(), String> {
        let Self { publisher, waiting, first_waiting, in_flight, sending, .. } = self;
        let is_open_loop = matches!(sending.pace, Pace::Open { .. });
        let mut outcomes = Outcomes { waiting, first_waiting, in_flight, sending: *sending, is_open_loop };
        let Turn { run, output } = turn;
        publisher.handle(input, run.now, output, &mut |outcome| outcomes.take(outcome, run))
    }

    fn fill(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.publisher.fill(turn.output);
        let Some(begin) = turn.run.begins_at.filter(|_| self.publisher.is_ready() && !self.is_closed) else {
            return Ok(());
        };
        if !std::mem::replace(&mut self.has_begun, true) {
            self.schedule = Schedule::new(self.sending.pace, begin);
        }
        if turn.run.is_stopping() {
            self.stop(turn);
            return Ok(());
        }
        let (now, run) = (turn.run.now, turn.run.ledger.run);
        while self.in_flight < self.sending.in_flight_max && turn.output.len() < OUTPUT_BYTES_MAX {
            let intended = self.schedule.as_ref().map_or(now, Schedule::next_at);
            if intended > now || now < begin || !self.send_one(intended, run, turn.output)? {
                break;
            }
            if let Some(schedule) = &mut self.schedule {
                schedule.advance();
            }
        }
        Ok(())
    }

    fn tick(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.publisher.tick(turn.run.now, turn.output)
    }

    fn state(&self) -> State {
        match (self.is_closed, self.publisher.is_ready()) {
            (true, _) => State::Finished,
            (false, true) => State::Ready,
            (false, false) => State::Opening,
        }
    }

    fn wake_at(&self, run: &Run) -> Option<Instant> {
        // What is due already waits for an acknowledgement, not for time.
        self.schedule.as_ref().map(Schedule::next_at).filter(|at| *at > run.now)
    }
}
