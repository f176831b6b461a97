//! What becomes of a peer's fault: the link, the session or the connection ends, with the specification's condition.

use super::{Closed, Connection, Event, Phase, Role};
use crate::condition::{self, Error};
use crate::frame::{self, FrameError, FrameKind};
use crate::performative::{Close, Detach, End};
use crate::value::DecodeError;

/// A fault of the peer, by how much of the connection it takes with it.
#[derive(Debug)]
pub(super) enum Fault {
    /// The link in this slot is detached.
    Link(u32, Error<'static>),
    /// The session in this slot is ended.
    Session(u32, Error<'static>),
    /// The connection is closed.
    Connection(Error<'static>),
}

impl Fault {
    pub(super) fn link(slot: u32, condition: &'static str, description: &'static str) -> Fault {
        Fault::Link(slot, Error::new(condition, description))
    }

    pub(super) fn session(slot: u32, condition: &'static str, description: &'static str) -> Fault {
        Fault::Session(slot, Error::new(condition, description))
    }

    pub(super) fn connection(condition: &'static str, description: &'static str) -> Fault {
        Fault::Connection(Error::new(condition, description))
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Fault {
        Fault::Connection(Error::new(error.condition(), error.to_string()))
    }
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Fault {
        Fault::Connection(Error::new(condition::CONNECTION_FRAMING_ERROR, error.to_string()))
    }
}

impl Connection {
    /// Answers a fault, and says what there is to report.
    pub(super) fn answer_fault(
        &mut self,
        fault: Fault,
        output: &mut Vec<u8>,
    ) -> Result<Event<'static>, Closed> {
        match fault {
            Fault::Link(slot, error) => {
                let link = self.link_id(slot);
                self.write_detach(slot, true, Some(&error), output);
                Ok(Event::Detached { link, closed: true, error: Some(error) })
            }
            Fault::Session(slot, error) => {
                self.write_end(slot, Some(&error), output);
                self.report_ended(slot, Some(error));
                Ok(self.pending.pop_front().unwrap_or(Event::Handled))
            }
            Fault::Connection(error) => Err(self.fail(error, output)),
        }
    }

    /// Ends the connection for a fault of the peer, and tells it where there is a way to.
    pub(super) fn fail(&mut self, error: Error<'static>, output: &mut Vec<u8>) -> Closed {
        match self.phase {
            // A server that closes must have opened [AMQP 2.4.3]; a client has.
            Phase::Open => {
                if self.role == Role::Server {
                    self.write_open(output);
                }
                self.write_close(Some(&error), output);
            }
            Phase::Opened => self.write_close(Some(&error), output),
            _ => {}
        }
        self.over();
        Closed { error }
    }

    /// Forgets everything.
    pub(super) fn over(&mut self) {
        self.phase = Phase::Closed;
        self.sessions.clear();
        self.links.clear();
        self.pending.clear();
        self.held_bytes = 0;
    }

    /// Writes a detach and lets everything go that the link held; its handle stays taken until the peer detaches too.
    pub(super) fn write_detach(
        &mut self,
        slot: u32,
        closed: bool,
        error: Option<&Error<'_>>,
        output: &mut Vec<u8>,
    ) {
        self.empty_link(slot);
        let Some(link) = self.links.at_mut(slot) else { return };
        link.state = crate::link::LinkState::Detaching;
        let (session, handle) = (link.session, link.local_handle);
        self.write_error_frame(session as u16, error, output, |out, error| {
            Detach { handle, closed, error: error.cloned() }.encode(out);
        });
    }

    /// Writes an end. The session is still in the table.
    pub(super) fn write_end(&mut self, slot: u32, error: Option<&Error<'_>>, output: &mut Vec<u8>) {
        self.write_error_frame(slot as u16, error, output, |out, error| {
            End { error: error.cloned() }.encode(out);
        });
    }

    pub(super) fn write_close(&mut self, error: Option<&Error<'_>>, output: &mut Vec<u8>) {
        self.write_error_frame(0, error, output, |out, error| Close { error: error.cloned() }.encode(out));
    }

    /// Writes a frame with an error. What the peer's frame size cannot hold is left out, from the least important.
    pub(super) fn write_error_frame(
        &mut self,
        channel: u16,
        error: Option<&Error<'_>>,
        output: &mut Vec<u8>,
        encode: impl Fn(&mut Vec<u8>, Option<&Error<'_>>),
    ) {
        self.timers.wrote = true;
        let start = frame::begin(output, FrameKind::Amqp, channel);
        let body = output.len();
        encode(output, error);
        let fits = |output: &Vec<u8>| output.len() - start <= self.remote.max_frame_bytes as usize;
        if let Some(error) = error.filter(|_| !fits(output)) {
            let mut error = Error { info: None, ..error.clone() };
            output.truncate(body);
            encode(output, Some(&error));
            if !fits(output) {
                error.description = None;
                output.truncate(body);
                encode(output, Some(&error));
            }
        }
        frame::end(output, start);
    }
}
