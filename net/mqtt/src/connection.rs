//! One end of one connection.

mod event;
mod in_flight;
mod send;

use std::sync::Arc;

use crate::error::{DecodeError, Fault};
use crate::inbound::Inbound;
use crate::packet::{ConnAck, ConnectCode, Packet, Qos};

pub use event::Event;
use in_flight::InFlight;
pub use send::{Draft, SendRefused};

/// Which end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers CONNECT.
    Server,
    /// Sends CONNECT.
    Client,
}

/// What one end allows the other.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest packet, bytes, fixed header included.
    pub packet_bytes_max: usize,
    /// Largest packet before the connection is open: a peer that is not known yet cannot make us hold more.
    pub connect_bytes_max: usize,
    /// How long a connection may take until it is open, milliseconds.
    pub connect_timeout_ms: u64,
    /// How long a server waits for a silent client, whatever keep-alive it asked for, milliseconds.
    pub silence_ms_max: u64,
    /// Most messages sent at quality of service 1 that are not acknowledged.
    pub in_flight_max: u16,
}

impl Default for Config {
    /// 1 MiB packets, 16 KiB until the connection is open, which takes 15 s at most; 1767 s of silence
    /// \[IoT Hub: iot-mqtt-connect-to-iot-hub\]; 16 messages on the way.
    fn default() -> Self {
        Self {
            packet_bytes_max: 1024 * 1024,
            connect_bytes_max: 16 * 1024,
            connect_timeout_ms: 15_000,
            silence_ms_max: 1_767_000,
            in_flight_max: 16,
        }
    }
}

/// One end of one connection, as a machine.
///
/// A server calls [`handle`](Self::handle) until it gives nothing. After [`Event::Connect`] it takes no input until
/// [`accept`](Self::accept) or [`refuse`](Self::refuse). A client begins with [`connect`](Self::connect). After a [`Fault`] the
/// connection is over once the output so far is sent.
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    role: Role,
    phase: Phase,
    keep_alive_s: u16,
    /// Server: when the peer's silence ends the connection. Client: when it must say something.
    deadline_ms: u64,
    /// Our messages that are not acknowledged.
    in_flight: InFlight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was said.
    New,
    /// A CONNECT waits for its answer.
    Connecting,
    Open,
    Closed,
}

impl Connection {
    /// A connection whose transport has just been opened.
    pub fn new(role: Role, config: Arc<Config>, now_ms: u64) -> Self {
        let deadline_ms = now_ms + config.connect_timeout_ms;
        Self { config, role, phase: Phase::New, keep_alive_s: 0, deadline_ms, in_flight: InFlight::default() }
    }

    /// Take the next packet. `input` moves on past what was understood or kept; answers that need nobody's word go to
    /// `output`. None: all input is used up, or a CONNECT waits for its answer, or the connection is over.
    ///
    /// # Errors
    ///
    /// [`Fault`]: the connection is over once `output` is sent.
    pub fn handle<'a, 'i: 'a>(
        &mut self,
        inbound: &'a mut Inbound,
        input: &mut &'i [u8],
        output: &mut Vec<u8>,
        now_ms: u64,
    ) -> Result<Option<Event<'a>>, Fault> {
        let bytes_max = match self.phase {
            Phase::Closed => return Ok(None),
            Phase::Connecting if self.role == Role::Server => return Ok(None),
            Phase::New | Phase::Connecting => self.config.connect_bytes_max,
            Phase::Open => self.config.packet_bytes_max,
        };
        let result = self.take(inbound, input, bytes_max, output, now_ms);
        if result.is_err() {
            self.phase = Phase::Closed;
        }
        result
    }

    fn take<'a, 'i: 'a>(
        &mut self,
        inbound: &'a mut Inbound,
        input: &mut &'i [u8],
        bytes_max: usize,
        output: &mut Vec<u8>,
        now_ms: u64,
    ) -> Result<Option<Event<'a>>, Fault> {
        let Some((header, body)) = inbound.next(input, bytes_max)? else { return Ok(None) };
        let packet_type = header.first >> 4;
        // A client is told its fault in the one case in which there is a packet for it [MQTT-3.1.2-2].
        let packet = Packet::decode(header.first, body).inspect_err(|error| {
            let is_connect = self.role == Role::Server && self.phase == Phase::New;
            if is_connect && matches!(error, DecodeError::ProtocolLevel(_)) {
                let code = ConnectCode::ProtocolLevel;
                Packet::ConnAck(ConnAck { session_present: false, code }).encode(output);
            }
        })?;
        let is_exactly_once = match packet {
            Packet::Publish(publish) => publish.qos == Qos::ExactlyOnce,
            _ => matches!(packet_type, 5..=7),
        };
        if is_exactly_once && self.phase == Phase::Open {
            return Err(Fault::ExactlyOnce);
        }
        let event = match self.role {
            Role::Server => self.take_from_client(packet, output),
            Role::Client => self.take_from_server(packet, now_ms),
        };
        if self.role == Role::Server && self.phase == Phase::Open {
            self.deadline_ms = now_ms + self.patience_ms();
        }
        event.map(Some).ok_or(Fault::Unexpected { packet_type })
    }

    /// How long a server waits for a silent client: one and a half times its keep-alive [MQTT-3.1.2-24].
    fn patience_ms(&self) -> u64 {
        match self.keep_alive_s {
            0 => self.config.silence_ms_max,
            keep_alive_s => (u64::from(keep_alive_s) * 1500).min(self.config.silence_ms_max),
        }
    }

    /// Server: count the client's silence from now, because nothing was read from it until now.
    pub fn restart_silence(&mut self, now_ms: u64) {
        if (self.role, self.phase) == (Role::Server, Phase::Open) {
            self.deadline_ms = now_ms + self.patience_ms();
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), milliseconds. Changes with every call of another method.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        let is_silent_client =
            self.role == Role::Client && self.phase == Phase::Open && self.keep_alive_s == 0;
        (self.phase != Phase::Closed && !is_silent_client).then_some(self.deadline_ms)
    }

    /// Do what is due: a client pings, a server ends a connection that was not opened in time or has been silent for too
    /// long. Calls before the time do nothing.
    ///
    /// # Errors
    ///
    /// [`Fault`]: the connection is over once `output` is sent.
    pub fn handle_timeout(&mut self, now_ms: u64, output: &mut Vec<u8>) -> Result<(), Fault> {
        if self.next_timeout_ms().is_none_or(|at_ms| now_ms < at_ms) {
            return Ok(());
        }
        match (self.role, self.phase) {
            (Role::Client, Phase::Open) => {
                self.ping(output);
                self.deadline_ms = now_ms + self.ping_interval_ms();
                Ok(())
            }
            (_, Phase::Open) => {
                self.phase = Phase::Closed;
                Err(Fault::Silent)
            }
            _ => {
                self.phase = Phase::Closed;
                Err(Fault::NotOpened)
            }
        }
    }

    /// Whether a CONNECT was accepted and nothing has ended the connection since.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether the connection is over once the output so far is sent.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Messages sent that are not acknowledged.
    pub fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }
}
