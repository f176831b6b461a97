//! Input: one header or frame per call.

use super::fault::Fault;
use super::{Closed, Connection, ENDED, Event, Phase, Role, SaslRole};
use crate::condition::{self, Error};
use crate::frame::{AMQP_HEADER, AssembledMessage, Due, Frame, FrameKind, Inbound, SASL_HEADER};
use crate::limits::HANDSHAKE_FRAME_BYTES_MAX;
use crate::performative::{Attach, Begin, Close, Detach, Disposition, End, Fields, Flow, Open, Transfer};
use crate::performative::{code, known_code};
use crate::sasl::{SaslCode, SaslFrame};
use crate::value::{DecodeError, Decoder};

impl Connection {
    /// Takes one header or frame from the front of `input`, appends what the protocol answers by itself to `output`, and says
    /// what it came to. `Ok(None)`: all of `input` is taken and more is needed. Call again until then; also with empty input
    /// after [`Connection::sasl_outcome`], because a peer may have sent ahead.
    ///
    /// The event borrows from `input` and `inbound`, not from the connection. What one call appends is at most a few hundred
    /// bytes more than the frame that it answers; a peer that sends and does not read is stopped by a caller that takes no
    /// more input while its output is not drained.
    ///
    /// # Errors
    ///
    /// The peer broke a rule of the connection; see [`Closed`]. Later calls take all input and return `Ok(None)`.
    pub fn handle<'a, 'i: 'a>(
        &mut self,
        inbound: &'a mut Inbound,
        input: &mut &'i [u8],
        output: &mut Vec<u8>,
        now_ms: u64,
    ) -> Result<Option<Event<'a>>, Closed> {
        if let Some(event) = self.pending.pop_front() {
            return Ok(Some(event));
        }
        let due = match self.phase {
            Phase::Header | Phase::HeaderAfterSasl => Due::Header,
            Phase::Opened | Phase::Closing => Due::Frame { bytes_max: self.config.max_frame_bytes },
            Phase::SaslVerdict => {
                if !inbound.keep(input, HANDSHAKE_FRAME_BYTES_MAX as usize) {
                    let error = Error::new(condition::RESOURCE_LIMIT_EXCEEDED, "Too much was sent ahead.");
                    return Err(self.fail(error, output));
                }
                return Ok(None);
            }
            Phase::Closed => {
                *input = &[];
                return Ok(None);
            }
            _ => Due::Frame { bytes_max: HANDSHAKE_FRAME_BYTES_MAX.min(self.config.max_frame_bytes) },
        };
        let (unit, message) = match inbound.next(input, due) {
            Ok(Some(unit)) => unit,
            Ok(None) => return Ok(None),
            Err(error) => return self.answer_fault(error.into(), output).map(Some),
        };
        let event = match due {
            Due::Header => self.on_header(unit, output),
            Due::Frame { .. } => self.on_frame(unit, message, output),
        };
        self.timers.heard(self.phase, now_ms);
        match event {
            Ok(event) => Ok(Some(event)),
            Err(fault) => self.answer_fault(fault, output).map(Some),
        }
    }

    fn on_header(&mut self, header: &[u8], output: &mut Vec<u8>) -> Result<Event<'static>, Fault> {
        let refused =
            Fault::connection(condition::NOT_IMPLEMENTED, "The protocol header is not one of ours.");
        let after_sasl = self.phase == Phase::HeaderAfterSasl;
        match (self.role, &self.config.sasl) {
            (Role::Server, SaslRole::Offer(mechanisms)) if header == SASL_HEADER && !after_sasl => {
                output.extend_from_slice(&SASL_HEADER);
                let mechanisms = crate::performative::Symbols::Listed(mechanisms);
                write_sasl(&SaslFrame::Mechanisms(mechanisms), output);
                self.phase = Phase::SaslInit;
            }
            (Role::Server, _) => {
                // A header that is not ours is answered with ours [AMQP 2.2].
                output.extend_from_slice(&AMQP_HEADER);
                if header != AMQP_HEADER {
                    return Err(refused);
                }
                self.phase = Phase::Open;
            }
            (Role::Client, SaslRole::Choose { .. }) if !after_sasl => {
                if header != SASL_HEADER {
                    return Err(refused);
                }
                self.phase = Phase::SaslMechanisms;
            }
            (Role::Client, _) => {
                if header != AMQP_HEADER {
                    return Err(refused);
                }
                self.phase = Phase::Open;
            }
        }
        Ok(Event::Handled)
    }

    fn on_frame<'a>(
        &mut self,
        bytes: &'a [u8],
        message: &'a mut AssembledMessage,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Fault> {
        let frame = Frame::decode(bytes)?;
        match (self.phase, frame.kind) {
            (Phase::SaslInit | Phase::SaslMechanisms | Phase::SaslOutcome, FrameKind::Sasl) => {
                self.on_sasl(SaslFrame::decode(frame.body)?, output)
            }
            (Phase::Open | Phase::Opened | Phase::Closing, FrameKind::Amqp) if frame.body.is_empty() => {
                Ok(Event::Handled)
            }
            (Phase::Open | Phase::Opened | Phase::Closing, FrameKind::Amqp) => {
                self.on_performative(frame, message, output)
            }
            _ => Err(Fault::connection(condition::CONNECTION_FRAMING_ERROR, "The frame's type is not due.")),
        }
    }

    fn on_sasl<'a>(&mut self, sasl: SaslFrame<'a>, output: &mut Vec<u8>) -> Result<Event<'a>, Fault> {
        match (self.phase, sasl) {
            (Phase::SaslInit, SaslFrame::Init { mechanism, initial_response, hostname }) => {
                let SaslRole::Offer(mechanisms) = &self.config.sasl else {
                    unreachable!("only a server gets here")
                };
                if !mechanisms.contains(&mechanism) {
                    self.phase = Phase::SaslVerdict;
                    self.sasl_outcome(SaslCode::Auth, output);
                    return Err(Fault::connection(
                        condition::UNAUTHORIZED_ACCESS,
                        "The mechanism was not offered.",
                    ));
                }
                self.phase = Phase::SaslVerdict;
                Ok(Event::SaslInit { mechanism, response: initial_response.unwrap_or_default(), hostname })
            }
            (Phase::SaslMechanisms, SaslFrame::Mechanisms(mechanisms)) => {
                let SaslRole::Choose { mechanism, response } = &self.config.sasl else {
                    unreachable!("only a client gets here")
                };
                if !mechanisms.contains(mechanism) {
                    return Err(Fault::connection(
                        condition::NOT_IMPLEMENTED,
                        "The mechanism is not offered.",
                    ));
                }
                let initial_response = (!response.is_empty()).then_some(&response[..]);
                let hostname = self.config.hostname.as_deref();
                write_sasl(&SaslFrame::Init { mechanism, initial_response, hostname }, output);
                self.phase = Phase::SaslOutcome;
                Ok(Event::Handled)
            }
            (Phase::SaslOutcome, SaslFrame::Outcome { code: SaslCode::Ok, .. }) => {
                output.extend_from_slice(&AMQP_HEADER);
                self.write_open(output);
                self.phase = Phase::HeaderAfterSasl;
                Ok(Event::Handled)
            }
            (Phase::SaslOutcome, SaslFrame::Outcome { .. }) => {
                Err(Fault::connection(condition::UNAUTHORIZED_ACCESS, "The server refused the credentials."))
            }
            _ => Err(Fault::connection(condition::ILLEGAL_STATE, "The SASL frame is not due.")),
        }
    }

    /// Server: the answer to [`Event::SaslInit`]. With anything but [`SaslCode::Ok`] the connection is over: flush the output
    /// and shut the transport. Does nothing when no answer is due.
    pub fn sasl_outcome(&mut self, code: SaslCode, output: &mut Vec<u8>) {
        if self.phase != Phase::SaslVerdict {
            return;
        }
        // The service greets so, and an old client may expect it.
        let additional_data = (code == SaslCode::Ok).then_some(&b"Welcome!"[..]);
        write_sasl(&SaslFrame::Outcome { code, additional_data }, output);
        match code {
            SaslCode::Ok => self.phase = Phase::HeaderAfterSasl,
            _ => self.over(),
        }
    }

    fn on_performative<'a>(
        &mut self,
        frame: Frame<'a>,
        message: &'a mut AssembledMessage,
        output: &mut Vec<u8>,
    ) -> Result<Event<'a>, Fault> {
        let mut decoder = Decoder::new(frame.body);
        let code = known_code(decoder.descriptor()?).ok_or(DecodeError::UnexpectedDescriptor)?;
        let mut fields = Fields::decode(&mut decoder)?;
        let fields = &mut fields;
        match (self.phase, code) {
            (Phase::Open, code::OPEN) => return self.on_open(Open::decode(fields)?, output),
            (Phase::Opened | Phase::Closing, code::CLOSE) => {
                return Ok(self.on_close(Close::decode(fields)?, output));
            }
            // Having closed, we only wait for the peer's close [AMQP 2.4.6].
            (Phase::Closing, _) => return Ok(Event::Handled),
            (Phase::Opened, _) => {}
            _ => return Err(Fault::connection(condition::ILLEGAL_STATE, "An open is due.")),
        }
        if code == code::BEGIN {
            return self.on_begin(frame.channel, Begin::decode(fields)?, output);
        }
        let session = match self.channels.find(frame.channel.into()) {
            Some(ENDED) => return Ok(Event::Handled),
            Some(session) => session,
            None => {
                return Err(Fault::connection(
                    condition::ILLEGAL_STATE,
                    "No session was begun on the channel.",
                ));
            }
        };
        match code {
            code::TRANSFER => {
                let transfer = Transfer::decode(fields)?;
                self.on_transfer(session, transfer, decoder.rest(), message, output)
            }
            code::FLOW => self.on_flow(session, Flow::decode(fields)?, output),
            code::DISPOSITION => self.on_disposition(session, Disposition::decode(fields)?, output),
            code::ATTACH => self.on_attach(session, Attach::decode(fields)?, frame.body, output),
            code::DETACH => self.on_detach(session, Detach::decode(fields)?, output),
            code::END => Ok(self.on_end(session, End::decode(fields)?, output)),
            code::OPEN => Err(Fault::connection(condition::ILLEGAL_STATE, "The connection is open already.")),
            _ => Err(DecodeError::UnexpectedDescriptor.into()),
        }
    }
}

fn write_sasl(sasl: &SaslFrame<'_>, output: &mut Vec<u8>) {
    let start = crate::frame::begin(output, FrameKind::Sasl, 0);
    sasl.encode(output);
    crate::frame::end(output, start);
}
