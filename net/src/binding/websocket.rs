//! AMQP and MQTT inside WebSocket frames, on the port of HTTPS: for devices and back ends whose firewalls let nothing else
//! through [RFC 6455; AMQP: WebSocket binding 1.0; MQTT-3.1.1 6].
//!
//! An upgraded connection is a [`WebSocketBinding`] around the binding that the subprotocol asks for. The inner one sees a
//! byte stream, as it does without frames.

use engine::request::{Appended, Notice, Reply};
use net_http::websocket::{CloseCode, Opening, OpeningError, WebSocket, frame_from};
use net_http::{Head, Target};
use registry::DeviceId;

use super::amqp::AmqpBinding;
use super::mqtt::MqttBinding;
use super::{Binding, Closing, Context, Transport};

/// Where device clients look for it: AMQP and MQTT. The clients of Python's uamqp use the other one for everything.
const DEVICE_PATH: &str = "$iothub";
/// Where Event Hubs clients look for it: AMQP alone.
const EVENT_HUBS_PATH: &str = "$servicebus";

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Amqp,
    Mqtt,
}

/// A request that asks for a WebSocket where there is one, and what it is answered with.
#[derive(Debug)]
pub struct Upgrade {
    inside: Inside,
    protocol: String,
    accept: String,
}

/// Why a request to a path of WebSockets gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    /// It is no request for one.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// It names no subprotocol that is spoken there.
    #[error("no subprotocol is spoken here but AMQPWSB10, and mqtt on {DEVICE_PATH}/websocket")]
    Protocol,
    /// It has a body.
    #[error("a request for a WebSocket has no body")]
    Body,
}

impl Upgrade {
    /// Read a request's head. None: its path is not one of WebSockets.
    pub fn read(head: &Head<'_>) -> Option<Result<Self, UpgradeError>> {
        let target = Target::parse(head.target())?;
        let mut segments = target.segments().filter(|segment| segment.as_deref() != Some(""));
        let (Some(Some(first)), Some(Some(second)), None) =
            (segments.next(), segments.next(), segments.next())
        else {
            return None;
        };
        let has_mqtt = first.eq_ignore_ascii_case(DEVICE_PATH);
        let is_ours = has_mqtt || first.eq_ignore_ascii_case(EVENT_HUBS_PATH);
        if !is_ours || !second.eq_ignore_ascii_case("websocket") {
            return None;
        }
        Some(Self::of(head, has_mqtt))
    }

    fn of(head: &Head<'_>, has_mqtt: bool) -> Result<Self, UpgradeError> {
        let Opening { accept, protocols } = Opening::read(head)?;
        let inside = |protocol: &str| match protocol {
            _ if protocol.eq_ignore_ascii_case("AMQPWSB10") => Some(Inside::Amqp),
            _ if has_mqtt && protocol.eq_ignore_ascii_case("mqtt") => Some(Inside::Mqtt),
            _ => None,
        };
        let known = protocols.into_iter().find_map(|protocol| Some((inside(protocol)?, protocol.to_owned())));
        let (inside, protocol) = known.ok_or(UpgradeError::Protocol)?;
        Ok(Self { inside, protocol, accept })
    }

    /// Say yes on `connection`, which has just given the head.
    ///
    /// # Errors
    ///
    /// [`UpgradeError::Body`], and nothing is written.
    pub fn accept(
        self,
        connection: &mut net_http::Connection,
        output: &mut Vec<u8>,
        hub: &Context<'_>,
    ) -> Result<Box<dyn Binding>, UpgradeError> {
        let headers = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", self.accept.as_str()),
            ("Sec-WebSocket-Protocol", self.protocol.as_str()),
        ];
        if !connection.switch_protocols(&headers, output) {
            return Err(UpgradeError::Body);
        }
        let inner: Box<dyn Binding> = match self.inside {
            Inside::Amqp => Box::new(AmqpBinding::new(hub)),
            Inside::Mqtt => Box::new(MqttBinding::new(hub)),
        };
        Ok(Box::new(WebSocketBinding::new(inner)))
    }
}

/// A binding inside WebSocket frames.
pub struct WebSocketBinding {
    socket: WebSocket,
    inner: Box<dyn Binding>,
    /// Bytes of the stream that the inner binding did not want yet. At most what one read brings.
    held: Vec<u8>,
    /// What answers the peer's goodbye, while words from before it are still held.
    farewell: Option<Vec<u8>>,
    is_stopping: bool,
}

impl WebSocketBinding {
    /// Frames around `inner`.
    pub fn new(inner: Box<dyn Binding>) -> Self {
        Self { socket: WebSocket::default(), inner, held: Vec::new(), farewell: None, is_stopping: false }
    }

    /// Run a call of the inner binding; what it says becomes one frame, and its goodbye ours.
    fn with<T>(
        &mut self,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
        call: impl FnOnce(&mut dyn Binding, &mut Vec<u8>, &mut Context<'_>) -> T,
    ) -> T {
        hub.transport = Transport::WebSocket;
        let start = output.len();
        let result = call(&mut *self.inner, output, hub);
        match self.is_finished() {
            // Nothing may follow a close frame.
            true => output.truncate(start),
            false => frame_from(start, output),
        }
        if self.inner.is_finished() {
            let code = if self.is_stopping { CloseCode::GoingAway } else { CloseCode::Normal };
            self.close(code, output);
        }
        result
    }

    /// Answer the peer's goodbye, or say the first one: the last word.
    fn close(&mut self, code: CloseCode, output: &mut Vec<u8>) {
        match self.farewell.take() {
            Some(farewell) => output.extend_from_slice(&farewell),
            None => self.socket.close(code, output),
        }
    }

    /// Answer the peer's goodbye, once all that was said before it is taken.
    fn answer_goodbye(&mut self, output: &mut Vec<u8>) {
        if self.held.is_empty() && self.farewell.is_some() {
            self.close(CloseCode::Normal, output);
        }
    }

    /// Give the inner binding bytes of the stream. What it does not want is held.
    fn feed(&mut self, bytes: &[u8], output: &mut Vec<u8>, hub: &mut Context<'_>) -> Result<(), Closing> {
        let mut rest = bytes;
        if !rest.is_empty() && self.inner.wants_input() {
            let result =
                self.with(output, hub, |inner, output, hub| inner.handle_bytes(&mut rest, output, hub));
            if result.is_err() {
                self.close(CloseCode::Normal, output);
                return result;
            }
        }
        self.held = rest.to_vec();
        Ok(())
    }

    /// Give it what it did not want earlier.
    fn feed_held(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        while !self.held.is_empty() && self.inner.wants_input() {
            let held = std::mem::take(&mut self.held);
            if self.feed(&held, output, hub).is_err() || self.held.len() == held.len() {
                return;
            }
        }
        self.answer_goodbye(output);
    }

    fn with_held(
        &mut self,
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
        call: impl FnOnce(&mut dyn Binding, &mut Vec<u8>, &mut Context<'_>),
    ) {
        self.with(output, hub, call);
        self.feed_held(output, hub);
    }
}

impl Binding for WebSocketBinding {
    fn handle_bytes(
        &mut self,
        input: &mut &[u8],
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) -> Result<(), Closing> {
        let (mut data, mut answers) = (Vec::new(), Vec::new());
        let framed = self.socket.handle(std::mem::take(input), &mut data, &mut answers);
        match self.socket.is_closed() {
            true => self.farewell = Some(answers),
            false => output.extend_from_slice(&answers),
        }
        self.feed(&data, output, hub)?;
        if let Err(fault) = framed {
            self.close(CloseCode::ProtocolError, output);
            return Err(Closing::fault(fault.to_string()));
        }
        self.answer_goodbye(output);
        Ok(())
    }

    fn handle_reply(&mut self, token: u64, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with_held(output, hub, |inner, output, hub| inner.handle_reply(token, reply, output, hub));
    }

    fn handle_appended(&mut self, appended: &[Appended], output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with_held(output, hub, |inner, output, hub| inner.handle_appended(appended, output, hub));
    }

    fn handle_notice(&mut self, notice: Notice, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with_held(output, hub, |inner, output, hub| inner.handle_notice(notice, output, hub));
    }

    fn handle_timeout(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with_held(output, hub, |inner, output, hub| inner.handle_timeout(output, hub));
    }

    fn next_timeout_ms(&self) -> Option<u64> {
        self.inner.next_timeout_ms()
    }

    fn handle_output_drained(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with_held(output, hub, |inner, output, hub| inner.handle_output_drained(output, hub));
    }

    fn handle_turn_end(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with(output, hub, |inner, output, hub| inner.handle_turn_end(output, hub));
    }

    fn home(&self) -> Option<DeviceId> {
        self.inner.home().filter(|_| self.held.is_empty())
    }

    fn awaits_home(&self) -> bool {
        self.inner.awaits_home()
    }

    fn handle_home(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.with_held(output, hub, |inner, output, hub| inner.handle_home(output, hub));
    }

    fn handle_gone(&mut self, hub: &mut Context<'_>) {
        self.inner.handle_gone(hub);
    }

    fn wants_input(&self) -> bool {
        self.held.is_empty() && !self.socket.is_closed() && self.inner.wants_input()
    }

    fn begin_stop(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.is_stopping = true;
        self.with(output, hub, |inner, output, hub| inner.begin_stop(output, hub));
    }

    fn begin_detach(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.is_stopping = true;
        self.with(output, hub, |inner, output, hub| inner.begin_detach(output, hub));
    }

    fn is_finished(&self) -> bool {
        self.socket.is_closed() && self.farewell.is_none()
    }
}

#[cfg(test)]
mod tests;
