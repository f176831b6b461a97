//! What is wrong with bytes, and what ends a connection.

/// Why bytes are not a packet. There is no next packet to be found behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A first byte whose upper half is no packet type.
    #[error("{0} is no packet type")]
    UnknownType(u8),
    /// Flags in the first byte that the type does not have [MQTT-2.2.2-2].
    #[error("first byte {0:#04x} has flags that its packet type does not have")]
    Flags(u8),
    /// A remaining length of more than four digits.
    #[error("the remaining length has more than four digits")]
    Length,
    /// A packet that ends before its fields do.
    #[error("the packet ends before its fields do")]
    Cut,
    /// Bytes behind the last field.
    #[error("the packet has bytes behind its last field")]
    Trailing,
    /// Text that is not UTF-8, or with a zero character in it [MQTT-1.5.3-1, MQTT-1.5.3-2].
    #[error("a text is not UTF-8 without zero characters")]
    Text,
    /// A packet identifier of zero [MQTT-2.3.1-1].
    #[error("a packet identifier is zero")]
    ZeroId,
    /// A quality of service of 3 [MQTT-3.3.1-4].
    #[error("a quality of service of 3")]
    Qos,
    /// A DUP flag on a message without acknowledgement [MQTT-3.3.1-2].
    #[error("a duplicate of a message that nobody acknowledges")]
    Duplicate,
    /// A topic name that is empty or has wildcards [MQTT-3.3.2-2, MQTT-4.7.3-1].
    #[error("a topic name is empty or has wildcards")]
    Topic,
    /// A topic filter that is empty or has wildcards in the wrong place [MQTT-4.7.1-2, MQTT-4.7.1-3].
    #[error("a topic filter is malformed")]
    Filter,
    /// No filter, or more than [`FILTER_COUNT_MAX`](crate::limits::FILTER_COUNT_MAX) of them [MQTT-3.8.3-3].
    #[error("a packet has no topic filter, or too many")]
    FilterCount,
    /// Reserved bits that are not zero, or flags that contradict each other [MQTT-3.1.2-3, MQTT-3.1.2-11..24].
    #[error("contradictory flags")]
    ConnectFlags,
    /// A protocol name other than `MQTT`.
    #[error("the protocol is not MQTT")]
    ProtocolName,
    /// Another protocol level than 4, which is 3.1.1.
    #[error("protocol level {0} is not 4, MQTT 3.1.1")]
    ProtocolLevel(u8),
    /// A return code that does not exist.
    #[error("{0:#04x} is no return code")]
    ReturnCode(u8),
}

/// What ends a connection: the peer is at fault. Whatever is in the output is still to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Bytes that are no packet.
    #[error("malformed packet: {0}")]
    Decode(#[from] DecodeError),
    /// A packet of a size that is not taken.
    #[error("a packet of {bytes} bytes exceeds the limit of {bytes_max}")]
    TooLarge {
        /// Its size, fixed header included.
        bytes: usize,
        /// The limit at this time.
        bytes_max: usize,
    },
    /// A packet that the peer's role does not send, or not now [MQTT-3.1.0-1, MQTT-3.1.0-2].
    #[error("packet type {packet_type} is not expected here")]
    Unexpected {
        /// The upper half of its first byte.
        packet_type: u8,
    },
    /// A message with quality of service 2, or a packet that belongs to one.
    #[error("quality of service 2 is not supported")]
    ExactlyOnce,
    /// No CONNECT, or no answer to one, in time.
    #[error("the connection was not opened in time")]
    NotOpened,
    /// Nothing was heard for one and a half times the keep-alive, or for as long as the hub waits at most
    /// [MQTT-3.1.2-24].
    #[error("the peer was silent for too long")]
    Silent,
    /// The connection is over already.
    #[error("the connection is over")]
    Closed,
}
