//! What a connection reports, and what it is asked to do.

use crate::condition::Error;
use crate::performative::{
    Attach, DeliveryState, LinkRole, Open, ReceiverSettleMode, SenderSettleMode, Source, Symbols, Target,
};
use crate::value::Map;

/// A session of one connection. Ids of ended sessions do not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// A link of one connection, whichever its session. Ids of detached links do not come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl LinkId {
    /// A small number that no other link of the connection has while this one stands: a place in the caller's own table.
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// What one frame of the peer came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// The machine dealt with it alone; nothing to do.
    Handled,
    /// Server: the client chose an offered mechanism. Answer with [`super::Connection::sasl_outcome`], now or later; until
    /// then input is kept unread.
    SaslInit {
        /// The mechanism.
        mechanism: &'a str,
        /// Its initial response; empty when there was none. Secret.
        response: &'a [u8],
        /// The host that the client means.
        hostname: Option<&'a str>,
    },
    /// The peer's open. A server has answered it already.
    Opened(Box<Open<'a>>),
    /// A session stands: the peer began it (it is answered already) or answered ours.
    Begun {
        /// The session.
        session: SessionId,
    },
    /// Server: the peer wants a link; answer with [`super::Connection::accept_link`] or [`super::Connection::refuse_link`],
    /// now or later. Client: the peer's answer; without source and target it is a refusal and [`Event::Detached`] follows.
    Attached {
        /// The link.
        link: LinkId,
        /// Its session.
        session: SessionId,
        /// What the peer says of it.
        attach: Box<Attach<'a>>,
    },
    /// The peer changed the credit of an accepted link on which we send.
    Flow {
        /// The link.
        link: LinkId,
        /// Messages that it now takes, the session's window left aside.
        credit: u32,
        /// Whether to answer with [`super::Connection::drained`] after sending what there is.
        drain: bool,
    },
    /// A session whose window was used up takes transfers again: any of its links may go on sending.
    Window {
        /// The session.
        session: SessionId,
    },
    /// A whole message.
    Transfer {
        /// The link, on which we receive.
        link: LinkId,
        /// Its delivery id.
        delivery_id: u32,
        /// The sender's tag, at most 32 bytes.
        delivery_tag: &'a [u8],
        /// Its format; 0 is the standard one.
        message_format: u32,
        /// Whether it is settled: then it gets no answer.
        settled: bool,
        /// All sections of the message.
        payload: &'a [u8],
    },
    /// The peer gave up a message half way. It has used up one credit.
    Aborted {
        /// The link, on which we receive.
        link: LinkId,
    },
    /// The peer has used up or given back all credit of a link that is drained.
    Drained {
        /// The link, on which we receive.
        link: LinkId,
    },
    /// The peer's word about deliveries of one link, `first` to `last`. Ids in between that were settled before, or belong
    /// to no delivery of the link, count for nothing.
    Settled {
        /// The link, of either role.
        link: LinkId,
        /// First delivery id.
        first: u32,
        /// Last delivery id, the same as `first` for one delivery; it may be the smaller number where ids wrap.
        last: u32,
        /// Their state.
        state: Option<DeliveryState<'a>>,
        /// Whether they are settled now. If not, and the state is an outcome, [`super::Connection::settle`] settles.
        settled: bool,
    },
    /// A link is gone: the peer detached it, its session ended, or the peer broke a rule on it. What had to be sent for it
    /// is sent. Not reported for links that we detached or refused.
    Detached {
        /// The link that was.
        link: LinkId,
        /// Whether the peer closed it for good.
        closed: bool,
        /// Why.
        error: Option<Error<'a>>,
    },
    /// A session is gone; each of its links was reported before. Not reported for sessions that we ended.
    Ended {
        /// The session that was.
        session: SessionId,
        /// Why.
        error: Option<Error<'a>>,
    },
    /// The peer closed the connection; it is answered. Flush the output and shut the transport. Links and sessions are gone
    /// without further events.
    Closed {
        /// Why.
        error: Option<Error<'a>>,
    },
}

/// The connection is over because of what the peer did or did not do. The output holds what is still to be said; send it,
/// then shut the transport. Links and sessions are gone without further events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Closed {
    /// What was told to the peer, where there was a way to tell.
    pub error: Error<'static>,
}

/// How an attach is accepted. The default echoes what the peer asked for.
#[derive(Clone, Debug, Default)]
pub struct AttachReply<'r> {
    /// In place of the peer's source.
    pub source: Option<Source<'r>>,
    /// In place of the peer's target.
    pub target: Option<Target<'r>>,
    /// In place of the peer's snd-settle-mode.
    pub sender_settle_mode: Option<SenderSettleMode>,
    /// In place of the peer's rcv-settle-mode.
    pub receiver_settle_mode: Option<ReceiverSettleMode>,
    /// What the attach says as max-message-size; by default [`super::Config::message_bytes_max`].
    pub max_message_bytes: Option<u64>,
    /// Largest message that is really taken on the link, bytes; by default what the attach says. What exceeds it detaches
    /// the link with `amqp:link:message-size-exceeded`.
    pub message_bytes_max: Option<u64>,
    /// Offered capabilities.
    pub offered_capabilities: Symbols<'r>,
    /// Link properties.
    pub properties: Option<Map<'r>>,
}

/// A link that a client asks for.
#[derive(Clone, Debug)]
pub struct AttachRequest<'r> {
    /// Its name, unused in this session for this role.
    pub name: &'r str,
    /// Which end we are.
    pub role: LinkRole,
    /// Where messages come from.
    pub source: Source<'r>,
    /// Where they go.
    pub target: Target<'r>,
    /// How the sender settles.
    pub sender_settle_mode: SenderSettleMode,
    /// How the receiver settles.
    pub receiver_settle_mode: ReceiverSettleMode,
    /// Largest message that we take, bytes.
    pub max_message_bytes: Option<u64>,
    /// Desired capabilities.
    pub desired_capabilities: Symbols<'r>,
    /// Link properties.
    pub properties: Option<Map<'r>>,
}

impl<'r> AttachRequest<'r> {
    /// A link on which we send to `address`.
    pub fn sender(name: &'r str, address: &'r str) -> AttachRequest<'r> {
        AttachRequest { target: Target::at(address), ..AttachRequest::bare(name, LinkRole::Sender) }
    }

    /// A link on which we receive from `address`.
    pub fn receiver(name: &'r str, address: &'r str) -> AttachRequest<'r> {
        AttachRequest { source: Source::at(address), ..AttachRequest::bare(name, LinkRole::Receiver) }
    }

    fn bare(name: &'r str, role: LinkRole) -> AttachRequest<'r> {
        AttachRequest {
            name,
            role,
            source: Source::default(),
            target: Target::default(),
            sender_settle_mode: SenderSettleMode::Mixed,
            receiver_settle_mode: ReceiverSettleMode::First,
            max_message_bytes: None,
            desired_capabilities: Symbols::Absent,
            properties: None,
        }
    }
}

/// A message to send.
#[derive(Clone, Copy, Debug)]
pub struct SendDelivery<'d> {
    /// Our mark for it, at most 32 bytes; unique among the link's unsettled deliveries.
    pub tag: &'d [u8],
    /// Its format; 0 is the standard one. Always written.
    pub message_format: u32,
    /// Whether it is sent settled: then nothing is kept of it and no [`Event::Settled`] comes.
    pub settled: bool,
    /// The message's bytes, in parts that are copied once, one behind the other.
    pub payload: &'d [&'d [u8]],
}

/// Why a message was not sent. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendRefused {
    /// The link is gone, not answered yet, or not one on which we send.
    #[error("the link does not stand or we do not send on it")]
    NotAttached,
    /// The peer has granted no credit: wait for [`Event::Flow`].
    #[error("the link has no credit")]
    NoCredit,
    /// The session's window is used up, or a message waits for it already: wait for [`Event::Window`].
    #[error("the session's window is used up")]
    WindowClosed,
    /// Too many deliveries of the session are unsettled: wait for [`Event::Settled`].
    #[error("too many unsettled deliveries")]
    TooManyUnsettled,
    /// The output holds more than [`super::Config::output_bytes_max`]: wait until it is drained.
    #[error("the output is full")]
    OutputFull,
    /// The peer's attach allows only smaller messages. It will never go.
    #[error("{message_bytes} bytes exceed the peer's limit of {message_bytes_max}")]
    TooLarge {
        /// Size of this one.
        message_bytes: u64,
        /// The peer's limit.
        message_bytes_max: u64,
    },
    /// A tag of more than 32 bytes.
    #[error("the delivery tag is too long")]
    TagTooLong,
}
