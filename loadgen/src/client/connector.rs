//! A device that stays, or that comes and goes: alone, or all at once.

use std::time::Instant;

use crate::client::presence::Presence;
use crate::client::{Client, Run, State, Turn};
use crate::record::Kind;
use crate::schedule::{Pace, Schedule};

/// What a device does with its connection.
#[derive(Clone, Copy, Debug)]
pub enum Coming {
    /// It holds it.
    Stays,
    /// It ends it and connects again at its pace.
    Returns(Pace),
    /// It waits for all others of its process, loses its connection when they do, and connects again at once.
    Storms,
}

/// How far a device is with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// On its way.
    Coming,
    /// There.
    There,
    /// Gone; the next connection is due then.
    Away(Instant),
    /// Gone for good.
    Over,
}

/// One device.
#[derive(Debug)]
pub struct Connector {
    presence: Presence,
    coming: Coming,
    schedule: Option<Schedule>,
    phase: Phase,
    /// When the connection that is on its way was intended; none for the first one, which belongs to nobody's schedule.
    intended: Option<Instant>,
    is_resumed: bool,
    storm: u64,
}

impl Connector {
    /// A device that has not come yet.
    pub fn new(presence: Presence, coming: Coming) -> Self {
        Self {
            presence,
            coming,
            schedule: None,
            phase: Phase::Coming,
            intended: None,
            is_resumed: false,
            storm: 0,
        }
    }

    fn arrive(&mut self, run: &mut Run) {
        self.phase = Phase::There;
        if matches!(self.coming, Coming::Storms) {
            run.storm.arrive(run.now);
        }
        let Some(intended) = self.intended.take() else { return };
        let is_open_loop = matches!(self.coming, Coming::Returns(Pace::Open { .. }));
        let at = if is_open_loop { intended } else { run.now };
        run.recorder.count(Kind::Connect, run.now, 1, 0);
        run.recorder.latency(Kind::Connect, at, run.now - intended, 1);
        if self.is_resumed {
            run.recorder.count(Kind::Resume, run.now, 1, 0);
        }
    }

    /// When it is to go and come again, if it is.
    fn next(&mut self, run: &Run) -> Option<Instant> {
        let begin = run.begins_at?;
        match self.coming {
            Coming::Stays => None,
            Coming::Returns(Pace::Closed) => Some(run.now),
            Coming::Returns(pace) => {
                let schedule = match &mut self.schedule {
                    Some(schedule) => schedule,
                    None => self.schedule.insert(Schedule::new(pace, begin)?),
                };
                let at = schedule.next_at();
                if run.ends_at.is_some_and(|end| at >= end) {
                    return None;
                }
                schedule.advance();
                Some(at)
            }
            Coming::Storms => run.storm.began_after(self.storm),
        }
    }
}

impl Client for Connector {
    fn begin(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        self.is_resumed = false;
        self.presence.begin(turn.run.now, turn.output);
        Ok(())
    }

    fn handle(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Result<(), String> {
        if self.phase == Phase::Coming || self.phase == Phase::There {
            self.presence.handle(input, turn.run.now, turn.output)?;
        }
        Ok(())
    }

    fn fill(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        if !matches!(self.phase, Phase::Coming | Phase::There) {
            return Ok(());
        }
        self.presence.fill(turn.output);
        if self.phase == Phase::Coming && self.presence.is_ready() {
            self.arrive(turn.run);
        }
        if self.phase != Phase::There {
            return Ok(());
        }
        if turn.run.is_stopping() {
            if let (Some(schedule), Some(end)) = (self.schedule.take(), turn.run.ends_at) {
                let recorder = &mut turn.run.recorder;
                schedule.give_up(end, |at| recorder.overdue(Kind::Connect, at, end - at, 1));
            }
            self.presence.close(turn.output);
            self.phase = Phase::Over;
        } else if let Some(at) = self.next(turn.run) {
            self.storm = turn.run.storm.count;
            self.intended = Some(at);
            self.phase = Phase::Away(at);
            // In a storm connections are lost, not ended.
            if !matches!(self.coming, Coming::Storms) {
                self.presence.close(turn.output);
            }
        }
        Ok(())
    }

    fn tick(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        match self.phase {
            Phase::There => self.presence.tick(turn.run.now, turn.output),
            _ => Ok(()),
        }
    }

    fn resumed(&mut self) {
        self.is_resumed = true;
    }

    fn reconnecting(&mut self) {
        self.phase = Phase::Coming;
    }

    fn state(&self) -> State {
        match self.phase {
            Phase::Coming => State::Opening,
            Phase::There => State::Ready,
            Phase::Away(at) => State::Reconnect(at),
            Phase::Over => State::Finished,
        }
    }
}
