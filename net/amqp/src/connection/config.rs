//! What a listener or a client sets.

use crate::session::Session;

/// Which side of a connection a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It was connected to. It answers open, begin and attach.
    Server,
    /// It connected. It opens, begins and attaches.
    Client,
}

/// What SASL is used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SaslRole {
    /// None: a client begins with the plain header, a server refuses the SASL header.
    #[default]
    Absent,
    /// A server offers these mechanisms, in this order, and takes the plain header as well.
    Offer(Vec<&'static str>),
    /// A client chooses this one.
    Choose {
        /// The mechanism, such as `PLAIN` or `ANONYMOUS`.
        mechanism: &'static str,
        /// Its initial response; see [`crate::sasl::plain_response`].
        response: Vec<u8>,
    },
}

/// The settings of connections; one value serves all connections of a listener.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our container id.
    pub container_id: String,
    /// A client: the host it means. A server: whatever it calls itself, or nothing.
    pub hostname: Option<String>,
    /// Largest frame that we take, bytes; at least 512.
    pub max_frame_bytes: u32,
    /// Highest channel number that we take.
    pub channel_max: u16,
    /// What we advertise as our idle time-out, ms. The connection is closed when nothing arrived for twice as long.
    pub idle_timeout_ms: u32,
    /// How long the peer has until its open, ms.
    pub handshake_timeout_ms: u32,
    /// Highest handle that we take.
    pub handle_max: u32,
    /// Most sessions at a time. What exceeds it is ended with `amqp:resource-limit-exceeded`.
    pub session_count_max: u32,
    /// Most links at a time, of all sessions. What exceeds it is refused likewise.
    pub link_count_max: u32,
    /// Transfers that we take per session before a flow of ours; refreshed when half of it is used up. Told is less where so many
    /// could not be unsettled: a peer that keeps to its window is never ended for [`Config::unsettled_count_max`].
    pub incoming_window: u32,
    /// Largest message that we take on a link, bytes, unless the link was accepted with another limit.
    pub message_bytes_max: u64,
    /// Most unsettled deliveries per session and direction: no window is told that would take more, and
    /// [`super::Connection::send`] refuses.
    pub unsettled_count_max: u32,
    /// Most bytes that the peer can make the connection hold: messages that arrive in parts, attaches that wait for their
    /// answer, messages that wait for the peer's window. Beyond it links are detached, attaches and sends refused.
    pub held_bytes_max: usize,
    /// [`super::Connection::send`] refuses while the caller's output holds more than this, bytes.
    pub output_bytes_max: usize,
    /// SASL.
    pub sasl: SaslRole,
}

impl Config {
    /// The largest window that is told.
    pub(crate) fn window_max(&self) -> u32 {
        self.incoming_window.min(self.unsettled_count_max)
    }

    /// How many transfers a session may take now: each may be one delivery more that is unsettled.
    pub(super) fn window(&self, session: &Session) -> u32 {
        // One may be in hand: out of the window, and not unsettled yet.
        let unsettled_left = self.unsettled_count_max.saturating_sub(session.incoming.count() + 1);
        self.incoming_window.min(unsettled_left).max(session.incoming_window)
    }
}

impl Default for Config {
    /// What IoT Hub advertises, without SASL.
    fn default() -> Config {
        Config {
            container_id: "corehub".into(),
            hostname: None,
            max_frame_bytes: 65536,
            channel_max: 8191,
            idle_timeout_ms: 240_000,
            handshake_timeout_ms: 60_000,
            handle_max: 262_143,
            session_count_max: 8192,
            link_count_max: 32_768,
            incoming_window: 5000,
            message_bytes_max: 1 << 20,
            unsettled_count_max: 10_000,
            held_bytes_max: 4 << 20,
            output_bytes_max: 1 << 20,
            sasl: SaslRole::Absent,
        }
    }
}
