//! One connection as a machine: TLS, the protocol of its port, and the binding that speaks it. No socket, no task, no clock.
//!
//! A turn is any number of `handle_*` calls and one [`Stack::end_turn`]. Within it the binding's words gather in the turn's
//! plaintext buffer; the end of the turn seals them together, so that all replies of a turn share one record. Both buffers of
//! [`Turn`] belong to the core and are used by one connection after the other.

use engine::request::{Appended, Notice, Reply};
use registry::DeviceId;

use crate::binding::amqp::AmqpBinding;
use crate::binding::http::HttpBinding;
use crate::binding::mqtt::MqttBinding;
use crate::binding::{Binding, Closing, Context, Transport};
use crate::further::Further;
use crate::tls::{Acceptor, Session, TlsError};

/// Most time between a connection's acceptance and its first byte of plaintext: the TLS handshake, however slowly its bytes
/// drip, and the first word of the protocol. Both ends of a link with a second of delay manage in a fifth of it.
pub const FIRST_WORD_TIMEOUT_MS: u64 = 15_000;

/// What a listener's port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// AMQP inside TLS, 5671.
    Amqps,
    /// HTTPS, 443.
    Https,
    /// MQTT inside TLS, 8883.
    Mqtts,
    /// AMQP in the clear, on loopback alone.
    PlainAmqp,
    /// A protocol that the program was built with besides, inside TLS.
    Further(&'static Further),
}

impl Port {
    /// How its bytes travel.
    pub fn transport(self) -> Transport {
        match self {
            Self::Amqps | Self::Https | Self::Mqtts | Self::Further(_) => Transport::Tls,
            Self::PlainAmqp => Transport::Plain,
        }
    }

    /// Its name in addresses and log lines.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Amqps => "amqps",
            Self::Https => "https",
            Self::Mqtts => "mqtts",
            Self::PlainAmqp => "amqp",
            Self::Further(protocol) => protocol.scheme,
        }
    }
}

/// Makes the binding of a connection whose peer has just said its first word on a port.
pub type OpenBinding = fn(Port, &Context<'_>) -> Box<dyn Binding>;

/// The bindings of the real hub, those of [`FURTHER`](crate::further::FURTHER) among them.
pub fn open_binding(port: Port, hub: &Context<'_>) -> Box<dyn Binding> {
    match port {
        Port::Amqps | Port::PlainAmqp => Box::new(AmqpBinding::new(hub)),
        Port::Https => Box::new(HttpBinding::new(hub)),
        Port::Mqtts => Box::new(MqttBinding::new(hub)),
        Port::Further(protocol) => (protocol.open)(hub),
    }
}

/// What one turn of a connection works with.
pub struct Turn<'a, 'h> {
    /// The binding's words so far, sealed and emptied at the end of the turn.
    pub plaintext: &'a mut Vec<u8>,
    /// What must reach the peer, appended to.
    pub wire: &'a mut Vec<u8>,
    /// What bindings see of the world.
    pub hub: &'a mut Context<'h>,
}

/// One connection.
pub struct Stack {
    port: Port,
    open_binding: OpenBinding,
    tls: Option<Session>,
    binding: Option<Box<dyn Binding>>,
    /// Plaintext that the binding did not want yet. At most what one read brings: nothing is read while there is some.
    held: Vec<u8>,
    first_word_deadline_ms: u64,
    is_detaching: bool,
    closing: Option<Closing>,
}

impl Stack {
    /// A connection that was just accepted on `port`. Ports with TLS open a session of `acceptor`.
    ///
    /// # Errors
    ///
    /// [`TlsError`] when no session can be opened.
    pub fn open(
        port: Port,
        acceptor: &Acceptor,
        open_binding: OpenBinding,
        now_ms: u64,
    ) -> Result<Self, TlsError> {
        let tls = match port.transport() {
            Transport::Tls | Transport::WebSocket => Some(acceptor.open()?),
            Transport::Plain => None,
        };
        Ok(Self {
            port,
            open_binding,
            tls,
            binding: None,
            held: Vec::new(),
            first_word_deadline_ms: now_ms + FIRST_WORD_TIMEOUT_MS,
            is_detaching: false,
            closing: None,
        })
    }

    /// The port that it came in by.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Bytes that must be in front of the next input.
    pub fn carried(&self) -> &[u8] {
        self.tls.as_ref().map_or(&[], Session::carried)
    }

    /// Take what was read, [`carried`](Stack::carried) bytes first. The bytes are decrypted in place.
    pub fn handle_input(&mut self, bytes: &mut [u8], turn: &mut Turn<'_, '_>) {
        if self.closing.is_some() {
            return;
        }
        let Some(mut tls) = self.tls.take() else {
            self.receive(bytes, turn.plaintext, turn.hub);
            return;
        };
        let result = tls.handle_input(bytes, turn.wire, |plaintext| {
            self.receive(plaintext, turn.plaintext, turn.hub);
        });
        if let Err(error) = result {
            self.close(Closing::fault(error.to_string()));
        }
        self.tls = Some(tls);
    }

    /// The peer's end of input: it has hung up.
    pub fn handle_end_of_input(&mut self) {
        self.close(match self.binding {
            Some(_) => Closing::Orderly,
            None => Closing::fault("hung up before it said anything"),
        });
    }

    /// Take the answer to one of the binding's requests.
    pub fn handle_reply(&mut self, token: u64, reply: Reply, turn: &mut Turn<'_, '_>) {
        if let Some(binding) = self.talking() {
            binding.handle_reply(token, reply, turn.plaintext, turn.hub);
        }
    }

    /// Take the answers to appends of the binding that are durable.
    pub fn handle_appended(&mut self, appended: &[Appended], turn: &mut Turn<'_, '_>) {
        if let Some(binding) = self.talking() {
            binding.handle_appended(appended, turn.plaintext, turn.hub);
        }
    }

    /// Take what the engine tells the connection unasked.
    pub fn handle_notice(&mut self, notice: Notice, turn: &mut Turn<'_, '_>) {
        if let Some(binding) = self.talking() {
            binding.handle_notice(notice, turn.plaintext, turn.hub);
        }
    }

    /// The moment of [`next_timeout_ms`](Stack::next_timeout_ms) has come, or something else made it worth a look.
    pub fn handle_timeout(&mut self, turn: &mut Turn<'_, '_>) {
        let now_ms = turn.hub.now.mono_ms;
        if self.binding.is_none() && now_ms >= self.first_word_deadline_ms {
            self.close(Closing::fault("said nothing in time"));
        } else if let Some(binding) = self.talking()
            && binding.next_timeout_ms().is_some_and(|at_ms| now_ms >= at_ms)
        {
            binding.handle_timeout(turn.plaintext, turn.hub);
        }
    }

    /// The peer has taken all that was pending.
    pub fn handle_output_drained(&mut self, turn: &mut Turn<'_, '_>) {
        if let Some(binding) = self.talking() {
            binding.handle_output_drained(turn.plaintext, turn.hub);
        }
    }

    /// The hub stops: a connection that has said nothing yet ends at once, the others by their protocol's words.
    pub fn begin_stop(&mut self, turn: &mut Turn<'_, '_>) {
        match self.talking() {
            Some(binding) => binding.begin_stop(turn.plaintext, turn.hub),
            None => self.close(Closing::Orderly),
        }
    }

    /// The turn is over: the binding settles what it gathered, and its words are sealed into `wire`.
    pub fn end_turn(&mut self, turn: &mut Turn<'_, '_>) {
        if self.tls.as_ref().is_some_and(Session::is_nearly_exhausted) && !self.is_detaching {
            self.is_detaching = true;
            if let Some(binding) = self.talking() {
                binding.begin_detach(turn.plaintext, turn.hub);
            }
        }
        self.receive_held(turn);
        if let Some(binding) = self.talking() {
            binding.handle_turn_end(turn.plaintext, turn.hub);
            if binding.is_finished() {
                self.close(Closing::Orderly);
            }
        }
        // Like the end of input, the peer's close counts once all that was said before it has been taken.
        if self.tls.as_ref().is_some_and(Session::is_peer_closed) && self.wants_input() {
            self.close(Closing::Orderly);
        }
        let is_over = self.closing.is_some();
        match &mut self.tls {
            // Nothing waits in front of these words, which is nearly always: they need not be copied.
            None if turn.wire.is_empty() => std::mem::swap(turn.wire, turn.plaintext),
            None => turn.wire.extend_from_slice(turn.plaintext),
            Some(tls) => {
                let result = match tls.is_open() {
                    true => tls.seal(turn.plaintext, turn.wire),
                    // Before the handshake has ended nobody has anything to say, after a failed one nobody may.
                    false => Ok(()),
                };
                if is_over {
                    tls.close(turn.wire);
                }
                if let Err(error) = result {
                    self.close(Closing::fault(error.to_string()));
                }
            }
        }
        turn.plaintext.clear();
    }

    /// See [`Binding::home`]. None while anything is under way that a move would have to carry.
    pub fn home(&self) -> Option<DeviceId> {
        match self.closing.is_none() && self.held.is_empty() && !self.is_detaching {
            true => self.binding.as_ref()?.home(),
            false => None,
        }
    }

    /// See [`Binding::awaits_home`].
    pub fn awaits_home(&self) -> bool {
        self.closing.is_none() && self.binding.as_ref().is_some_and(|binding| binding.awaits_home())
    }

    /// See [`Binding::handle_home`].
    pub fn handle_home(&mut self, turn: &mut Turn<'_, '_>) {
        if let Some(binding) = self.talking() {
            binding.handle_home(turn.plaintext, turn.hub);
        }
    }

    /// The connection is over, however it came to that; see [`Binding::handle_gone`]. Called once.
    pub fn handle_gone(&mut self, turn: &mut Turn<'_, '_>) {
        if let Some(binding) = &mut self.binding {
            binding.handle_gone(turn.hub);
        }
    }

    /// Whether to read from the peer.
    pub fn wants_input(&self) -> bool {
        self.closing.is_none()
            && self.held.is_empty()
            && self.binding.as_ref().is_none_or(|binding| binding.wants_input())
    }

    /// When to call [`handle_timeout`](Stack::handle_timeout), on the monotonic clock.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        match &self.binding {
            _ if self.closing.is_some() => None,
            None => Some(self.first_word_deadline_ms),
            Some(binding) => binding.next_timeout_ms(),
        }
    }

    /// Why the connection is over, once it is: what is in `wire` is still to be sent, then the socket closes.
    pub fn closing(&self) -> Option<&Closing> {
        self.closing.as_ref()
    }

    /// Whether the peer has said its first word, in plaintext.
    pub fn has_spoken(&self) -> bool {
        self.binding.is_some()
    }

    /// What was negotiated, for a log line.
    pub fn describe(&self) -> String {
        match &self.tls {
            Some(tls) => format!("{} ({})", self.port.scheme(), tls.describe()),
            None => self.port.scheme().to_string(),
        }
    }

    /// The binding, while the connection is not over.
    fn talking(&mut self) -> Option<&mut Box<dyn Binding>> {
        match self.closing {
            None => self.binding.as_mut(),
            Some(_) => None,
        }
    }

    fn close(&mut self, closing: Closing) {
        self.closing.get_or_insert(closing);
    }

    /// Plaintext from the peer. The first of it makes the binding: a peer that never gets so far costs little.
    fn receive(&mut self, bytes: &[u8], output: &mut Vec<u8>, hub: &mut Context<'_>) {
        if self.closing.is_some() || bytes.is_empty() {
            return;
        }
        if self.binding.is_none() {
            self.binding = Some((self.open_binding)(self.port, hub));
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(bytes);
            return;
        }
        let mut rest = bytes;
        self.feed(&mut rest, output, hub);
        self.held.extend_from_slice(rest);
    }

    /// Give the binding what it did not want earlier.
    fn receive_held(&mut self, turn: &mut Turn<'_, '_>) {
        while !self.held.is_empty() && self.talking().is_some_and(|binding| binding.wants_input()) {
            let mut held = std::mem::take(&mut self.held);
            let mut rest = &held[..];
            self.feed(&mut rest, turn.plaintext, turn.hub);
            let taken_bytes = held.len() - rest.len();
            if taken_bytes < held.len() {
                held.drain(..taken_bytes);
                self.held = held;
            }
            if taken_bytes == 0 {
                break;
            }
        }
    }

    fn feed(&mut self, rest: &mut &[u8], output: &mut Vec<u8>, hub: &mut Context<'_>) {
        let Some(binding) = self.talking() else { return };
        if !binding.wants_input() {
            return;
        }
        match binding.handle_bytes(rest, output, hub) {
            Err(closing) => self.close(closing),
            Ok(()) => match binding.take_successor() {
                Some(successor) => {
                    self.binding = Some(successor);
                    if !rest.is_empty() {
                        self.feed(rest, output, hub);
                    }
                }
                None if binding.is_finished() => self.close(Closing::Orderly),
                None => {}
            },
        }
    }
}

#[cfg(test)]
mod tests;
