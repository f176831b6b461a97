//! A client that sends events by its schedule, and knows of each what became of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

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
    /// What it sends: events, or commands that are enqueued.
    pub kind: Kind,
}

/// How soon a publisher that is blocked is asked again.
const BLOCKED_INTERVAL: Duration = Duration::from_micros(200);

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
            let post = Post { mark, count: self.sending.batch, filler: &self.filler, intended };
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
        let (Some(schedule), Some(end)) = (self.schedule.take(), run.ends_at) else { return };
        let Sending { kind, batch, .. } = self.sending;
        // A command that was not enqueued was not completed either.
        let whole = (kind == Kind::Enqueue).then_some(Kind::Command);
        schedule.give_up(end, |intended| {
            for kind in [kind].into_iter().chain(whole) {
                run.recorder.overdue(kind, intended, end - intended, u64::from(batch));
            }
        });
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
        let Sending { batch, body_bytes, kind, .. } = self.sending;
        let mut count = 0;
        for place in first.max(0)..=last {
            let Some(slot) = self.waiting.get_mut(place as usize) else { break };
            let Some(Waiting { mark, intended }) = slot.take() else { continue };
            *self.in_flight -= 1;
            count += u64::from(batch);
            for number in mark.number..mark.number + u64::from(batch) {
                let ledger = if kind == Kind::Event { &mut run.ledger } else { &mut run.commands };
                ledger.acknowledge(mark.device, number)?;
            }
            let at = if self.is_open_loop { intended } else { run.now };
            run.recorder.latency(kind, at, run.now - intended, u64::from(batch));
        }
        run.recorder.count(kind, run.now, count, count * body_bytes as u64);
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
        if self.publisher.is_blocked() && run.is_working() {
            return Some(run.now + BLOCKED_INTERVAL);
        }
        // What is due already waits for an acknowledgement, not for time.
        self.schedule.as_ref().map(Schedule::next_at).filter(|at| *at > run.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::storm::Storm;
    use crate::ledger::Ledger;
    use crate::record::Recorder;

    /// A server in memory: takes everything, and says so when the test lets it.
    #[derive(Debug, Default)]
    struct Fake {
        sent_count: u32,
        room: u32,
    }

    impl Publisher for Fake {
        fn begin(&mut self, _now: Instant, _output: &mut Vec<u8>) {}

        /// The bytes are the numbers of messages that the server has acknowledged.
        fn handle(
            &mut self,
            input: &[u8],
            _now: Instant,
            _output: &mut Vec<u8>,
            on: &mut dyn FnMut(Outcome) -> Result<(), String>,
        ) -> Result<(), String> {
            input
                .iter()
                .try_for_each(|number| on(Outcome { first: u32::from(*number), last: u32::from(*number) }))
        }

        fn tick(&mut self, _now: Instant, _output: &mut Vec<u8>) -> Result<(), String> {
            Ok(())
        }

        fn is_ready(&self) -> bool {
            true
        }

        fn send(&mut self, _place: usize, _post: &Post<'_>, _output: &mut Vec<u8>) -> Result<Sent, String> {
            if self.sent_count == self.room {
                return Ok(Sent::No);
            }
            self.sent_count += 1;
            Ok(Sent::Yes)
        }

        fn close(&mut self, _output: &mut Vec<u8>) {}
    }

    struct World {
        start: Instant,
        run: Run,
        sender: Sender<Fake>,
    }

    impl World {
        /// Ten messages a second, a window of one second.
        fn new(pace: Pace) -> Self {
            let start = Instant::now();
            let window = (start, start + Duration::from_secs(1));
            let mut recorder = Recorder::default();
            recorder.open(window.0, window.1);
            let run = Run {
                now: start,
                ledger: Ledger::new(1, 1),
                unchecked_count: 0,
                commands: Ledger::default(),
                storm: Storm::default(),
                recorder,
                begins_at: Some(start),
                ends_at: Some(window.1),
            };
            let sending = Sending {
                first_device: 0,
                device_count: 1,
                body_bytes: MARK_BYTES,
                batch: 1,
                in_flight_max: 100,
                pace,
                seed: 1,
                kind: Kind::Event,
            };
            Self { start, run, sender: Sender::new(Fake { sent_count: 0, room: 100 }, sending) }
        }

        fn at(&mut self, ms: u64, acknowledged: std::ops::Range<u8>) -> u32 {
            self.run.now = self.start + Duration::from_millis(ms);
            let mut output = Vec::new();
            let mut turn = Turn { run: &mut self.run, output: &mut output };
            let numbers: Vec<_> = acknowledged.collect();
            self.sender.handle(&numbers, &mut turn).unwrap();
            self.sender.fill(&mut turn).unwrap();
            self.sender.publisher.sent_count
        }

        fn figures(&self) -> crate::record::Figures {
            self.run.recorder.figures(Kind::Event, Duration::from_secs(1)).unwrap()
        }
    }

    const TEN_PER_S: Pace = Pace::Open { per_s: 10.0, burst: 1, phase: 0.0 };

    #[test]
    fn a_stall_of_the_server_does_not_hide() {
        let mut world = World::new(TEN_PER_S);
        assert_eq!(world.at(0, 0..0), 1);
        assert_eq!(world.at(10, 0..1), 1);
        // It takes nothing for 600 ms: what was intended meanwhile goes late, and has waited since it was intended.
        world.sender.publisher.room = 1;
        assert_eq!(world.at(600, 0..0), 1);
        world.sender.publisher.room = 100;
        assert_eq!(world.at(601, 0..0), 7);
        world.at(610, 1..7);
        let latency_us = world.figures().latency_us.unwrap();
        assert_eq!(latency_us.max / 1000, 510, "intended at 100 ms, acknowledged at 610");
        assert_eq!(latency_us.p50 / 1000, 210, "intended at 400 ms");
        assert_eq!(world.run.ledger.acknowledged_count(), 7);
    }

    #[test]
    fn what_was_never_sent_counts_as_overdue() {
        let mut world = World::new(TEN_PER_S);
        world.at(0, 0..0);
        world.sender.publisher.room = 1;
        world.at(500, 0..1);
        world.at(1000, 0..0);
        let figures = world.figures();
        assert_eq!((figures.count, figures.overdue), (1, 9));
        assert_eq!(figures.latency_us.unwrap().max / 1000, 900, "intended at 100 ms, given up at 1000");
        assert_eq!(world.sender.state(), State::Finished);
    }

    #[test]
    fn a_closed_loop_waits_for_room_and_ends_when_all_is_answered() {
        let mut world = World::new(Pace::Closed);
        world.sender.sending.in_flight_max = 2;
        assert_eq!(world.at(0, 0..0), 2);
        assert_eq!(world.at(100, 0..1), 3);
        assert_eq!(world.at(1000, 0..0), 3);
        assert_eq!(world.sender.state(), State::Ready);
        world.at(1100, 1..3);
        assert_eq!(world.sender.state(), State::Finished);
        assert_eq!(world.figures().latency_us.unwrap().max / 1000, 100);
    }
}
