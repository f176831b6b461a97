//! CONNECT and CONNACK [MQTT-3.1.1 3.1, 3.2].

use std::fmt;

use super::field::{Fields, field_bytes, put_binary};
use super::{Qos, begin};
use crate::error::DecodeError;
use crate::topic::is_topic;

const PROTOCOL_NAME: &str = "MQTT";
/// The name that protocol level 3, MQTT 3.1, went by.
const OLD_PROTOCOL_NAME: &str = "MQIsdp";
const PROTOCOL_LEVEL: u8 = 4;

const CLEAN_SESSION: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const WILL_RETAIN: u8 = 1 << 5;
const PASSWORD: u8 = 1 << 6;
const USER_NAME: u8 = 1 << 7;

/// A client introduces itself. `Debug` shows of the password that there is one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Who it is; may be empty.
    pub client_id: &'a str,
    /// Whether what the server knows of an earlier connection is to be forgotten.
    pub clean_session: bool,
    /// Longest time between two packets of the client, seconds; 0: it may be silent.
    pub keep_alive_s: u16,
    /// What is published when the connection ends without a goodbye.
    pub will: Option<Will<'a>>,
    /// User name.
    pub user_name: Option<&'a str>,
    /// Password; only with a user name.
    pub password: Option<&'a [u8]>,
}

/// A message that is published when its client's connection ends without a goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// How it is published.
    pub qos: Qos,
    /// Whether it is kept for later subscribers.
    pub retain: bool,
}

impl<'a> Connect<'a> {
    /// A clean session without keep-alive, will, user name and password.
    pub fn new(client_id: &'a str) -> Self {
        Self { client_id, clean_session: true, keep_alive_s: 0, will: None, user_name: None, password: None }
    }

    pub(super) fn decode(fields: &mut Fields<'a>) -> Result<Self, DecodeError> {
        match (fields.text()?, fields.byte()?) {
            (PROTOCOL_NAME, PROTOCOL_LEVEL) => {}
            (PROTOCOL_NAME | OLD_PROTOCOL_NAME, level) => {
                // What follows may be of a form that we do not know.
                return Err(DecodeError::ProtocolLevel(level));
            }
            _ => return Err(DecodeError::ProtocolName),
        }
        let flags = fields.byte()?;
        let has = |flag| flags & flag != 0;
        let will_qos = flags >> 3 & 3;
        let is_contradictory = flags & 1 != 0
            || (!has(WILL) && (will_qos != 0 || has(WILL_RETAIN)))
            || (has(PASSWORD) && !has(USER_NAME));
        if is_contradictory {
            return Err(DecodeError::ConnectFlags);
        }
        let keep_alive_s = fields.number()?;
        let client_id = fields.text()?;
        let will = match has(WILL) {
            true => {
                let topic = fields.text()?;
                if !is_topic(topic) {
                    return Err(DecodeError::Topic);
                }
                let (payload, qos) = (fields.binary()?, Qos::of(will_qos)?);
                Some(Will { topic, payload, qos, retain: has(WILL_RETAIN) })
            }
            false => None,
        };
        let user_name = has(USER_NAME).then(|| fields.text()).transpose()?;
        let password = has(PASSWORD).then(|| fields.binary()).transpose()?;
        Ok(Self { client_id, clean_session: has(CLEAN_SESSION), keep_alive_s, will, user_name, password })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let texts = [
            Some(self.client_id.as_bytes()),
            self.will.map(|will| will.topic.as_bytes()),
            self.will.map(|will| will.payload),
            self.user_name.map(str::as_bytes),
            self.password,
        ];
        let mut flags = if self.clean_session { CLEAN_SESSION } else { 0 };
        if let Some(will) = &self.will {
            flags |= WILL | (will.qos as u8) << 3 | if will.retain { WILL_RETAIN } else { 0 };
        }
        flags |= self.user_name.map_or(0, |_| USER_NAME) | self.password.map_or(0, |_| PASSWORD);
        let payload_bytes: usize = texts.iter().flatten().map(|text| field_bytes(text)).sum();
        begin(0x10, field_bytes(PROTOCOL_NAME.as_bytes()) + 4 + payload_bytes, out);
        put_binary(PROTOCOL_NAME.as_bytes(), out);
        out.extend_from_slice(&[PROTOCOL_LEVEL, flags]);
        out.extend_from_slice(&self.keep_alive_s.to_be_bytes());
        for text in texts.into_iter().flatten() {
            put_binary(text, out);
        }
    }
}

impl fmt::Debug for Connect<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connect")
            .field("client_id", &self.client_id)
            .field("clean_session", &self.clean_session)
            .field("keep_alive_s", &self.keep_alive_s)
            .field("will", &self.will.map(|will| will.topic))
            .field("user_name", &self.user_name)
            .field("password_bytes", &self.password.map(<[u8]>::len))
            .finish()
    }
}

/// The answer to a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck {
    /// Whether the server knows the client from an earlier connection; only with [`ConnectCode::Accepted`].
    pub session_present: bool,
    /// The verdict.
    pub code: ConnectCode,
}

/// The verdict on a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCode {
    /// 0.
    Accepted = 0,
    /// 1: the protocol level is not 4.
    ProtocolLevel = 1,
    /// 2: the client id is not allowed.
    ClientId = 2,
    /// 3: try again later.
    Unavailable = 3,
    /// 4: user name or password are malformed.
    BadCredentials = 4,
    /// 5: not authorized.
    NotAuthorized = 5,
}

impl ConnAck {
    pub(super) fn decode(fields: &mut Fields<'_>) -> Result<Self, DecodeError> {
        let (flags, code) = (fields.byte()?, fields.byte()?);
        let code = match code {
            0 => ConnectCode::Accepted,
            1 => ConnectCode::ProtocolLevel,
            2 => ConnectCode::ClientId,
            3 => ConnectCode::Unavailable,
            4 => ConnectCode::BadCredentials,
            5 => ConnectCode::NotAuthorized,
            code => return Err(DecodeError::ReturnCode(code)),
        };
        match (flags, code) {
            (0, _) => Ok(Self { session_present: false, code }),
            (1, ConnectCode::Accepted) => Ok(Self { session_present: true, code }),
            _ => Err(DecodeError::ConnectFlags),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let is_present = self.session_present && self.code == ConnectCode::Accepted;
        out.extend_from_slice(&[0x20, 2, u8::from(is_present), self.code as u8]);
    }
}
