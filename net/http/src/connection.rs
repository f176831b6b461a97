//! The server's side of one connection.

use crate::body::Body;
use crate::head::{self, Head, HeadScanner};
use crate::limits::Limits;
use crate::refusal::{Fault, Refusal};
use crate::response::Response;

/// The server's side of one connection, as a machine.
///
/// Call [`handle`](Self::handle) until it gives nothing; after [`Event::End`] it takes no input until the request is
/// answered by [`respond`](Self::respond). After a [`Refusal`], `respond` and close.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    scanner: HeadScanner,
    /// The beginning of a head that has not arrived whole; the head itself while its body is read.
    kept: Vec<u8>,
    phase: Phase,
    /// Of the request in work.
    keep_alive: bool,
    is_head_method: bool,
}

#[derive(Debug)]
enum Phase {
    Head,
    Body { body: Body, expects_continue: bool },
    Answer,
    Refused(Refusal),
    Closed,
}

/// What a client sent.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request begins. Asking for more says that its body is wanted: a client that waits for it is told to continue.
    Head(Box<Head<'a>>),
    /// A piece of its body, never empty.
    Body(&'a [u8]),
    /// The request is whole and waits for its answer.
    End,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            scanner: HeadScanner::default(),
            kept: Vec::new(),
            phase: Phase::Head,
            keep_alive: false,
            is_head_method: false,
        }
    }

    /// Take bytes. `input` is advanced past what was understood or kept; `output` gets interim answers. None: all input is
    /// used up, or what is left of it belongs to the next request and this one has no answer yet.
    ///
    /// # Errors
    /// The request is refused, and with it the connection: answer with the refusal's status. Further calls say the same.
    pub fn handle<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Refusal> {
        match &mut self.phase {
            Phase::Refused(refusal) => Err(*refusal),
            Phase::Answer | Phase::Closed => Ok(None),
            Phase::Body { body, expects_continue } => {
                if std::mem::take(expects_continue) && input.is_empty() {
                    output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                match body.take(input) {
                    Ok(Some(piece)) => Ok(Some(Event::Body(piece))),
                    Ok(None) if body.is_done() => {
                        self.phase = Phase::Answer;
                        Ok(Some(Event::End))
                    }
                    Ok(None) => Ok(None),
                    Err(fault) => {
                        let refusal = Refusal::from(fault);
                        self.phase = Phase::Refused(refusal);
                        Err(refusal)
                    }
                }
            }
            Phase::Head => self.handle_head(input).map_err(Refusal::from),
        }
    }

    fn handle_head<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Event<'a>>, Fault> {
        let refuse = |phase: &mut Phase, fault: Fault| {
            *phase = Phase::Refused(fault.into());
            fault
        };
        let found = self.scanner.scan(input).map_err(|fault| refuse(&mut self.phase, fault))?;
        let count = found.unwrap_or(input.len());
        if self.kept.len() + count > self.limits.head_bytes_max {
            return Err(refuse(&mut self.phase, Fault::HeadTooLong));
        }
        let (taken, rest) = input.split_at(count);
        *input = rest;
        let bytes = match (found, self.kept.is_empty()) {
            (Some(_), true) => taken,
            _ => {
                self.kept.extend_from_slice(taken);
                &self.kept
            }
        };
        if found.is_none() {
            return Ok(None);
        }
        let (head, meaning) =
            head::parse(bytes, self.limits.body_bytes_max).map_err(|fault| refuse(&mut self.phase, fault))?;
        self.keep_alive = meaning.keep_alive;
        self.is_head_method = meaning.is_head_method;
        self.phase = Phase::Body { body: meaning.body, expects_continue: meaning.expects_continue };
        Ok(Some(Event::Head(Box::new(head))))
    }

    /// Answer the request in work, or a refusal. The connection closes behind the answer where the client asked for that,
    /// after a refusal, and when the request's body was not read to its end.
    pub fn respond(&mut self, response: &Response<'_>, output: &mut Vec<u8>) {
        let keep_alive = self.keep_alive && matches!(self.phase, Phase::Answer);
        response.encode(!keep_alive, self.is_head_method, output);
        self.phase = if keep_alive { Phase::Head } else { Phase::Closed };
        self.is_head_method = false;
        // A long head, once seen, is not worth its memory for the rest of the connection.
        self.kept = Vec::new();
    }

    /// Answer a request whose head has just come with 101: what follows on the connection, from the rest of the input on, is
    /// another protocol, and this machine is done. False, and nothing is written: the request has a body.
    pub fn switch_protocols(&mut self, headers: &[(&str, &str)], output: &mut Vec<u8>) -> bool {
        match &self.phase {
            Phase::Body { body, .. } if body.is_done() => {
                Response { status: 101, headers, body: &[] }.encode(false, false, output);
                self.phase = Phase::Closed;
                self.kept = Vec::new();
                true
            }
            _ => false,
        }
    }

    /// Close behind the next answer, or now if no request is in work.
    pub fn close(&mut self) {
        self.keep_alive = false;
        if matches!(self.phase, Phase::Head) {
            self.phase = Phase::Closed;
        }
    }

    /// Whether nothing of a request has arrived that is not answered yet.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head) && self.kept.is_empty() && self.scanner.is_before()
    }

    /// Whether a whole request waits for its answer.
    pub fn awaits_answer(&self) -> bool {
        matches!(self.phase, Phase::Answer)
    }

    /// Whether the connection is over once the output so far is sent.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }
}

#[cfg(test)]
mod tests;
