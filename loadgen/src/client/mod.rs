//! Clients as machines without I/O: what devices, gateways, back ends and readers do on one connection.

pub mod amqp;
pub mod cbs;
pub mod command;
pub mod connector;
pub mod https;
pub mod mqtt;
pub mod presence;
pub mod publisher;
pub mod reader;
pub mod sender;
pub mod storm;

use std::time::{Duration, Instant};

use crate::client::storm::Storm;
use crate::ledger::Ledger;
use crate::record::Recorder;

/// How long to wait for what must not come: more than was sent, or the same twice.
pub const AFTERMATH: Duration = Duration::from_millis(200);

/// What the connections of a process share: time, what was acknowledged and read, what was measured.
#[derive(Debug)]
pub struct Run {
    /// The time of this turn.
    pub now: Instant,
    /// What was acknowledged and read back.
    pub ledger: Ledger,
    /// Events that readers got which check nothing: others read the same.
    pub unchecked_count: u64,
    /// Commands that were enqueued and delivered.
    pub commands: Ledger,
    /// Storms, where there are any.
    pub storm: Storm,
    /// What was measured.
    pub recorder: Recorder,
    /// When work begins, once that is known.
    pub begins_at: Option<Instant>,
    /// When no more work is begun, once that is known.
    pub ends_at: Option<Instant>,
}

impl Run {
    /// Whether work may be begun.
    pub fn is_working(&self) -> bool {
        self.begins_at.is_some_and(|at| self.now >= at) && !self.is_stopping()
    }

    /// Whether what is under way is to be finished and nothing more begun.
    pub fn is_stopping(&self) -> bool {
        self.ends_at.is_some_and(|at| self.now >= at)
    }
}

/// What a client works with in one turn.
#[derive(Debug)]
pub struct Turn<'t> {
    /// What all connections share.
    pub run: &'t mut Run,
    /// Plaintext for the server.
    pub output: &'t mut Vec<u8>,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not ready for work yet.
    Opening,
    /// Ready, or working.
    Ready,
    /// This connection is over and the next one is due at that time.
    Reconnect(Instant),
    /// Nothing more to do.
    Finished,
}

/// One connection's client: bytes in, bytes out. Errors end the run; each is one line that says what was wrong.
pub trait Client {
    /// The transport has just been opened: the first words.
    fn begin(&mut self, turn: &mut Turn<'_>) -> Result<(), String>;

    /// Plaintext from the server.
    fn handle(&mut self, input: &[u8], turn: &mut Turn<'_>) -> Result<(), String>;

    /// Say what may be said now. Called again as long as that is something.
    fn fill(&mut self, turn: &mut Turn<'_>) -> Result<(), String>;

    /// A second has passed: the protocol's own deadlines.
    fn tick(&mut self, _turn: &mut Turn<'_>) -> Result<(), String> {
        Ok(())
    }

    /// The TLS handshake has resumed an earlier one. May be said more than once.
    fn resumed(&mut self) {}

    /// [`State::Reconnect`] is being followed.
    fn reconnecting(&mut self) {}

    /// How far it is.
    fn state(&self) -> State;

    /// When [`Client::fill`] has something to do though nothing has come.
    fn wake_at(&self, _run: &Run) -> Option<Instant> {
        None
    }
}
