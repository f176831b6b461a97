//! Who the connection is: SASL, and how long it may go on without a token.

use engine::request::{EngineError, Reply, Request};
use net_amqp::sasl::SaslCode;
use registry::DeviceId;

use super::cbs::{authenticate, protocol};
use super::limits::TOKENLESS_MS_MAX;
use super::sasl::{Password, Plain, User};
use super::turn::{Pending, Turn};
use crate::strangers::is_refused_login;

/// The connection's login and its deadlines.
#[derive(Debug)]
pub struct Login {
    is_plain: bool,
    verdict_given: bool,
    /// Since when the connection has no token.
    tokenless_since_ms: Option<u64>,
    /// When the next token ends, on the monotonic clock.
    expiry_ms: Option<u64>,
}

impl Login {
    /// A connection that was accepted at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self { is_plain: false, verdict_given: false, tokenless_since_ms: Some(now_ms), expiry_ms: None }
    }

    /// Whether the connection rests on SASL PLAIN: it ends with that token.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Whether a verdict was given since the last call.
    pub fn take_verdict_given(&mut self) -> bool {
        std::mem::take(&mut self.verdict_given)
    }

    /// The client chose a mechanism. False: it is refused and the connection is over.
    pub fn handle_init(&mut self, turn: &mut Turn<'_, '_>, mechanism: &str, response: &[u8]) -> bool {
        // The other mechanisms prove nothing: tokens come by `$cbs`.
        if mechanism != "PLAIN" {
            turn.connection.sasl_outcome(SaslCode::Ok, turn.output);
            return true;
        }
        let Ok(plain) = Plain::parse(response) else { return refuse(turn, None) };
        self.ask(turn, plain, None)
    }

    /// Ask the engine about a login; with a key, as the first of the ids that the user name may mean.
    fn ask(&mut self, turn: &mut Turn<'_, '_>, plain: Plain, ids: Option<Vec<DeviceId>>) -> bool {
        let protocol = protocol(turn.hub.transport);
        let mut rest = Vec::new();
        let question = match (&plain.password, &plain.user) {
            (Password::Token(token), _) => match authenticate(token.reveal(), turn) {
                Ok(question) => question,
                Err(_) => return refuse(turn, Some(&plain.user)),
            },
            (Password::Key(key), User::Policy(policy)) => {
                Request::AuthenticatePolicyKey { policy: policy.clone(), key: key.clone(), protocol }
            }
            (Password::Key(key), User::Device(all)) => {
                rest = ids.unwrap_or_else(|| all.clone());
                if rest.is_empty() {
                    return refuse(turn, None);
                }
                let device = rest.remove(0);
                Request::AuthenticateDeviceKey { device, key: key.clone(), protocol }
            }
        };
        match turn.ask(Pending::Login { plain, rest }, question) {
            Ok(()) => true,
            Err(_) => {
                turn.connection.sasl_outcome(SaslCode::SysTemp, turn.output);
                false
            }
        }
    }

    /// The engine's answer to a login. False: it is refused and the connection is over.
    pub fn handle_reply(
        &mut self,
        turn: &mut Turn<'_, '_>,
        plain: Plain,
        rest: Vec<DeviceId>,
        answer: Reply,
    ) -> bool {
        match answer {
            Reply::Authenticated(grant) if plain.user.owns(&grant) => {
                if turn.shared.grants.put(grant, &turn.hub.hub.name).is_err() {
                    return refuse(turn, None);
                }
                self.is_plain = true;
                self.verdict_given = true;
                turn.connection.sasl_outcome(SaslCode::Ok, turn.output);
                true
            }
            Reply::Failed(EngineError::Unauthorized(_) | EngineError::DeviceNotFound) if !rest.is_empty() => {
                self.ask(turn, plain, Some(rest))
            }
            Reply::Failed(error) if !is_refused_login(&error) => {
                turn.connection.sasl_outcome(SaslCode::SysTemp, turn.output);
                false
            }
            _ => refuse(turn, Some(&plain.user)),
        }
    }

    /// Look at the tokens after a call: until when they last, or since when there is none.
    pub fn watch(&mut self, turn: &Turn<'_, '_>) {
        let now = turn.hub.now;
        let grants = &turn.shared.grants;
        self.tokenless_since_ms = match grants.is_empty() {
            true => Some(self.tokenless_since_ms.unwrap_or(now.mono_ms)),
            false => None,
        };
        self.expiry_ms = grants.next_expiry_s().map(|expiry_s| {
            // A token counts to the end of its last second.
            let end_s = expiry_s.saturating_add(turn.hub.hub.token_skew_s).saturating_add(1);
            now.mono_ms.saturating_add(end_s.saturating_mul(1000).saturating_sub(now.wall_ms))
        });
    }

    /// Whether the connection has gone without a token for too long.
    pub fn is_overdue(&self, turn: &Turn<'_, '_>) -> bool {
        turn.shared.grants.is_empty()
            && self.tokenless_since_ms.is_some_and(|since| turn.hub.now.mono_ms >= since + TOKENLESS_MS_MAX)
    }

    /// When to look at the tokens next.
    pub fn next_timeout_ms(&self) -> Option<u64> {
        let tokenless = self.tokenless_since_ms.map(|since_ms| since_ms + TOKENLESS_MS_MAX);
        [tokenless, self.expiry_ms].into_iter().flatten().min()
    }
}

fn refuse(turn: &mut Turn<'_, '_>, user: Option<&User>) -> bool {
    let device = match user {
        Some(User::Device(ids)) => ids.first().cloned(),
        _ => None,
    };
    turn.hub.refuse_login(device, true);
    turn.connection.sasl_outcome(SaslCode::Auth, turn.output);
    false
}
