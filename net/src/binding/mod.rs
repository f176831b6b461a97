//! Protocol events to requests, replies and notices back: what a connection speaks once its bytes are plaintext.
//!
//! A [`Binding`] is one connection's protocol, as a machine: bytes come in, bytes go out into a buffer that the caller
//! owns, requests leave through the [`Door`] of its [`Context`]. It owns no socket, no task and no clock; time is in the
//! context. Nothing in here knows of TLS or of glommio.

pub mod address;
pub mod amqp;
pub mod command;
#[cfg(test)]
pub mod credentials;
#[cfg(test)]
pub mod echo;
pub mod fields;
pub mod http;
pub mod mqtt;
pub mod presence;
pub mod properties;
pub mod receipts;
pub mod status;
#[cfg(feature = "stomp")]
pub mod stomp;
pub mod token;
pub mod websocket;

use std::borrow::Cow;
use std::net::SocketAddr;

use engine::door::Door;
use engine::request::{Appended, ConnectionId, Notice, Reply, SecretText};
use registry::DeviceId;
use segment_log::Now;
use subtle::ConstantTimeEq;

use crate::jobs::Jobs;
use crate::strangers::RefusedLogin;

/// Above this many plaintext bytes that the peer has not taken yet, a binding asks the engine for nothing more that it
/// would have to send: it waits for [`Binding::handle_output_drained`]. Large enough for a full read of events, small
/// enough that a thousand stalled readers cost a quarter of a gigabyte.
pub const OUTPUT_PENDING_BYTES_MAX: usize = 256 * 1024;

/// One connection's protocol.
///
/// The caller's order for each turn: any number of `handle_*` calls, [`handle_turn_end`](Binding::handle_turn_end), then it
/// sends `output` and asks [`next_timeout_ms`](Binding::next_timeout_ms), [`wants_input`](Binding::wants_input) and
/// [`is_finished`](Binding::is_finished). `output` is appended to, never read or cut.
pub trait Binding: Send {
    /// Take plaintext that arrived. The machine advances `input` past what it has understood or keeps itself; what it
    /// leaves is given again, with more behind it, so a machine that leaves bytes must do so only while
    /// [`wants_input`](Binding::wants_input) says no.
    ///
    /// # Errors
    ///
    /// [`Closing`]: the connection ends once `output` is written. No method but the destructor is called after it.
    fn handle_bytes(
        &mut self,
        input: &mut &[u8],
        output: &mut Vec<u8>,
        hub: &mut Context<'_>,
    ) -> Result<(), Closing>;

    /// Take the answer to a request; `token` is the one of its [`Caller`](engine::request::Caller).
    fn handle_reply(&mut self, token: u64, reply: Reply, output: &mut Vec<u8>, hub: &mut Context<'_>);

    /// Take the answers to appends that are durable, in the order in which they came. The tokens are those of their
    /// [`Caller`](engine::request::Caller)s.
    fn handle_appended(&mut self, appended: &[Appended], output: &mut Vec<u8>, hub: &mut Context<'_>) {
        for &Appended { token, first, event_count } in appended {
            self.handle_reply(token, Reply::Appended { first, event_count }, output, hub);
        }
    }

    /// Take what the engine tells unasked.
    fn handle_notice(&mut self, notice: Notice, output: &mut Vec<u8>, hub: &mut Context<'_>);

    /// The moment of [`next_timeout_ms`](Binding::next_timeout_ms) has come. May also be called early.
    fn handle_timeout(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>);

    /// When to call [`handle_timeout`](Binding::handle_timeout), on the clock of [`Now::mono_ms`].
    fn next_timeout_ms(&self) -> Option<u64>;

    /// The peer has taken what was pending: go on with what waited for [`Context::output_is_full`] to end.
    fn handle_output_drained(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>);

    /// The turn ends: write what was gathered over its calls (credit for many links at once). Called once per turn, after the
    /// other `handle_*` calls and before `output` is sent. Input that was not welcome has been offered again by then, so
    /// what makes room for it belongs into those calls.
    fn handle_turn_end(&mut self, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {}

    /// The one device that the connection has proved to belong to, at a moment when the engine holds nothing for it and
    /// owes it nothing: it may move to that device's core now. None: it serves better where it is, or it is too late.
    fn home(&self) -> Option<DeviceId> {
        None
    }

    /// Whether it does not go on until it knows where it is to stay; see [`handle_home`](Binding::handle_home).
    fn awaits_home(&self) -> bool {
        false
    }

    /// The connection is where it stays, moved or not: go on. Called only while [`awaits_home`](Binding::awaits_home) says so.
    fn handle_home(&mut self, _output: &mut Vec<u8>, _hub: &mut Context<'_>) {}

    /// The connection is over, however it came to that, and nothing more can be said: the last moment to ask the engine for
    /// something. Its answer comes to nobody.
    fn handle_gone(&mut self, _hub: &mut Context<'_>) {}

    /// The binding that speaks from the next byte on, where the peer has asked for another protocol and been told yes. Asked
    /// for after each [`handle_bytes`](Binding::handle_bytes); the rest of its input is the successor's.
    fn take_successor(&mut self) -> Option<Box<dyn Binding>> {
        None
    }

    /// Whether more input is welcome. While it is not, nothing is read from the peer: its TCP window closes.
    fn wants_input(&self) -> bool;

    /// The hub stops: end links and refuse new work with a reason that makes clients try again, answer what is in
    /// flight, then say goodbye and become [finished](Binding::is_finished).
    fn begin_stop(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>);

    /// The connection cannot go on much longer for a reason outside the protocol (its TLS keys are used up): end it so that
    /// the client comes back. The same as [`begin_stop`](Binding::begin_stop) unless a protocol has a better word.
    fn begin_detach(&mut self, output: &mut Vec<u8>, hub: &mut Context<'_>) {
        self.begin_stop(output, hub);
    }

    /// Whether the connection is over once the output so far is written.
    fn is_finished(&self) -> bool;
}

/// What a binding sees of the world during one call.
pub struct Context<'a> {
    /// The way to the engine. A refusal ([`engine::door::Busy`]) means that the way is full: tell the peer, or try again.
    pub door: &'a mut dyn Door,
    /// This connection, for [`Caller`](engine::request::Caller).
    pub connection: ConnectionId,
    /// The time of this turn.
    pub now: Now,
    /// The hub that is spoken for.
    pub hub: &'a HubInfo,
    /// How the bytes travel.
    pub transport: Transport,
    /// The other end.
    pub peer: SocketAddr,
    /// Plaintext bytes of earlier turns that the peer has not taken yet.
    pub output_pending_bytes: usize,
    /// Logins that were refused in this turn, for whoever counts them; see [`Context::refuse_login`].
    pub refused_logins: Vec<RefusedLogin>,
}

impl Context<'_> {
    /// Leave word that a login was refused. `may_wait`: the answer, and all that the connection has to say, may be kept back for
    /// a while, because it rests on no other login.
    pub fn refuse_login(&mut self, device: Option<DeviceId>, may_wait: bool) {
        self.refused_logins.push(RefusedLogin { device, may_wait });
    }

    /// Whether the peer is so far behind that nothing more should be asked for on its behalf. `output` is the buffer of
    /// this call.
    pub fn output_is_full(&self, output: &[u8]) -> bool {
        self.output_pending_bytes + output.len() >= OUTPUT_PENDING_BYTES_MAX
    }
}

/// How the bytes of a connection travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Inside TLS.
    Tls,
    /// In WebSocket frames inside TLS.
    WebSocket,
    /// In the clear, from this machine only: the emulator mode of Event Hubs clients.
    Plain,
}

/// The hub as every connection sees it; fixed for a run.
pub struct HubInfo {
    /// Its name: the event hub's name and the `<hub>` of SASL user names.
    pub name: String,
    /// The names and addresses by which clients reach it; the first goes into connection strings. At least one.
    pub host_names: Vec<String>,
    /// How many partitions it has: 1 to 32.
    pub partition_count: u16,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// How long after its expiry a token still counts, seconds, 0 to 300.
    pub token_skew_s: u64,
    /// The administrator's token of this run; see [`HubInfo::is_administrator`].
    pub administration_token: SecretText,
    /// Import and export of identities.
    pub jobs: Jobs,
}

impl HubInfo {
    /// A hub under one host name, with nothing else set: no birth, no skew, no administrator, no jobs.
    pub fn new(name: &str, host_name: &str, partition_count: u16) -> Self {
        Self {
            name: name.to_owned(),
            host_names: vec![host_name.to_owned()],
            partition_count,
            created_ms: 0,
            token_skew_s: 0,
            administration_token: SecretText::new(""),
            jobs: Jobs::default(),
        }
    }

    /// What devices that register call this hub: `0ne` and eight hex digits, from its name and its birth, the same for ever.
    pub fn id_scope(&self) -> String {
        // FNV-1a, 32 bits: spread is all that is wanted.
        let bytes = self.name.bytes().chain(self.created_ms.to_le_bytes());
        let hash =
            bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("0ne{hash:08X}")
    }

    /// Whether `token`, from `Authorization: Bearer <token>`, is the one that this run wrote into the owner-only
    /// `run/hub.json`. Its holder may do whatever a back end with `iothubowner` may, and read and change policies with their keys.
    /// Compared in constant time.
    pub fn is_administrator(&self, token: &str) -> bool {
        let expected = self.administration_token.reveal();
        !expected.is_empty() && bool::from(expected.as_bytes().ct_eq(token.as_bytes()))
    }
}

/// Why a connection ends. Both go into a log line, never to the peer: that was told in `output`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Both sides said goodbye, or the protocol ends here.
    Orderly,
    /// The peer broke the protocol or a limit; the text says how, without any of the peer's secrets.
    Fault(Cow<'static, str>),
}

impl Closing {
    /// A peer's fault.
    pub fn fault(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Fault(text.into())
    }
}
