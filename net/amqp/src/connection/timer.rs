//! Heartbeats and the ends of patience [AMQP 2.4.5].

use super::{Closed, Config, Connection, Phase};
use crate::condition::{self, Error};
use crate::frame;

/// Shortest time between two looks at the heartbeat, ms: a peer with an absurd idle time-out gets no more than this.
const HEARTBEAT_STEP_MS_MIN: u64 = 100;

/// The deadlines of a connection.
#[derive(Debug)]
pub(super) struct Timers {
    /// When the peer's patience or silence ends the connection.
    silence_ends_ms: Option<u64>,
    /// Longest silence of the peer, ms; 0 is no limit.
    silence_max_ms: u64,
    /// A quarter of the peer's idle time-out, ms.
    heartbeat_step_ms: u64,
    heartbeat_at_ms: Option<u64>,
    /// Whether something was written since the last look. The machine does not know the time of each write, but two looks
    /// a quarter apart keep the silence below half of the peer's time-out.
    pub(super) wrote: bool,
}

impl Timers {
    pub(super) fn new(now_ms: u64, config: &Config) -> Timers {
        Timers {
            silence_ends_ms: Some(now_ms + u64::from(config.handshake_timeout_ms)),
            silence_max_ms: 2 * u64::from(config.idle_timeout_ms),
            heartbeat_step_ms: 0,
            heartbeat_at_ms: None,
            wrote: false,
        }
    }

    /// Bytes came in.
    pub(super) fn heard(&mut self, phase: Phase, now_ms: u64) {
        // Until the open the deadline stands, however often a byte drips in.
        if matches!(phase, Phase::Opened | Phase::Closing) {
            self.silence_ends_ms = (self.silence_max_ms > 0).then(|| now_ms + self.silence_max_ms);
        }
        if self.heartbeat_at_ms.is_none() && self.heartbeat_step_ms > 0 {
            self.heartbeat_at_ms = Some(now_ms + self.heartbeat_step_ms);
        }
    }

    /// The peer told its idle time-out.
    pub(super) fn set_remote_idle_timeout(&mut self, idle_timeout_ms: Option<u32>) {
        if let Some(idle_timeout_ms) = idle_timeout_ms.filter(|ms| *ms > 0) {
            self.heartbeat_step_ms = (u64::from(idle_timeout_ms) / 4).max(HEARTBEAT_STEP_MS_MIN);
        }
    }
}

impl Connection {
    /// When to call [`Connection::handle_timeout`], ms. Changes with every call of another method.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        if self.is_closed() {
            return None;
        }
        [self.timers.silence_ends_ms, self.timers.heartbeat_at_ms].into_iter().flatten().min()
    }

    /// Does what is due: a heartbeat, or the end of a connection that has been silent for twice our idle time-out or did
    /// not open in time. Calls before the time do nothing.
    pub fn handle_timeout(&mut self, now_ms: u64, output: &mut Vec<u8>) -> Result<(), Closed> {
        if self.is_closed() {
            return Ok(());
        }
        if self.timers.silence_ends_ms.is_some_and(|end_ms| end_ms <= now_ms) {
            let text = match self.phase {
                Phase::Opened | Phase::Closing => "The connection was idle for too long.",
                _ => "The connection was not opened in time.",
            };
            return Err(self.fail(Error::new(condition::CONNECTION_FORCED, text), output));
        }
        if self.timers.heartbeat_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            if !std::mem::take(&mut self.timers.wrote) && self.is_open() {
                frame::heartbeat(output);
                self.timers.wrote = true;
            }
            self.timers.heartbeat_at_ms = Some(now_ms + self.timers.heartbeat_step_ms);
        }
        Ok(())
    }
}
