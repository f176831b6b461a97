//! Error conditions, and the error that travels in detach, end, close and rejected.

use std::borrow::Cow;
use std::fmt;

/// `amqp:internal-error` [AMQP 2.8.15].
pub const INTERNAL_ERROR: &str = "amqp:internal-error";
/// `amqp:not-found` [AMQP 2.8.15].
pub const NOT_FOUND: &str = "amqp:not-found";
/// `amqp:unauthorized-access` [AMQP 2.8.15].
pub const UNAUTHORIZED_ACCESS: &str = "amqp:unauthorized-access";
/// `amqp:decode-error` [AMQP 2.8.15].
pub const DECODE_ERROR: &str = "amqp:decode-error";
/// `amqp:resource-limit-exceeded` [AMQP 2.8.15].
pub const RESOURCE_LIMIT_EXCEEDED: &str = "amqp:resource-limit-exceeded";
/// `amqp:not-allowed` [AMQP 2.8.15].
pub const NOT_ALLOWED: &str = "amqp:not-allowed";
/// `amqp:invalid-field` [AMQP 2.8.15].
pub const INVALID_FIELD: &str = "amqp:invalid-field";
/// `amqp:not-implemented` [AMQP 2.8.15].
pub const NOT_IMPLEMENTED: &str = "amqp:not-implemented";
/// `amqp:resource-locked` [AMQP 2.8.15].
pub const RESOURCE_LOCKED: &str = "amqp:resource-locked";
/// `amqp:precondition-failed` [AMQP 2.8.15].
pub const PRECONDITION_FAILED: &str = "amqp:precondition-failed";
/// `amqp:resource-deleted` [AMQP 2.8.15].
pub const RESOURCE_DELETED: &str = "amqp:resource-deleted";
/// `amqp:illegal-state` [AMQP 2.8.15].
pub const ILLEGAL_STATE: &str = "amqp:illegal-state";
/// `amqp:frame-size-too-small` [AMQP 2.8.15].
pub const FRAME_SIZE_TOO_SMALL: &str = "amqp:frame-size-too-small";
/// `amqp:connection:forced` [AMQP 2.8.16].
pub const CONNECTION_FORCED: &str = "amqp:connection:forced";
/// `amqp:connection:framing-error` [AMQP 2.8.16].
pub const CONNECTION_FRAMING_ERROR: &str = "amqp:connection:framing-error";
/// `amqp:connection:redirect` [AMQP 2.8.16].
pub const CONNECTION_REDIRECT: &str = "amqp:connection:redirect";
/// `amqp:session:window-violation` [AMQP 2.8.17].
pub const SESSION_WINDOW_VIOLATION: &str = "amqp:session:window-violation";
/// `amqp:session:errant-link` [AMQP 2.8.17].
pub const SESSION_ERRANT_LINK: &str = "amqp:session:errant-link";
/// `amqp:session:handle-in-use` [AMQP 2.8.17].
pub const SESSION_HANDLE_IN_USE: &str = "amqp:session:handle-in-use";
/// `amqp:session:unattached-handle` [AMQP 2.8.17].
pub const SESSION_UNATTACHED_HANDLE: &str = "amqp:session:unattached-handle";
/// `amqp:link:detach-forced` [AMQP 2.8.18].
pub const LINK_DETACH_FORCED: &str = "amqp:link:detach-forced";
/// `amqp:link:transfer-limit-exceeded` [AMQP 2.8.18].
pub const LINK_TRANSFER_LIMIT_EXCEEDED: &str = "amqp:link:transfer-limit-exceeded";
/// `amqp:link:message-size-exceeded` [AMQP 2.8.18].
pub const LINK_MESSAGE_SIZE_EXCEEDED: &str = "amqp:link:message-size-exceeded";
/// `amqp:link:redirect` [AMQP 2.8.18].
pub const LINK_REDIRECT: &str = "amqp:link:redirect";
/// `amqp:link:stolen` [AMQP 2.8.18].
pub const LINK_STOLEN: &str = "amqp:link:stolen";
/// `com.microsoft:timeout`: try again.
pub const MS_TIMEOUT: &str = "com.microsoft:timeout";
/// `com.microsoft:server-busy`: try again after some seconds.
pub const MS_SERVER_BUSY: &str = "com.microsoft:server-busy";
/// `com.microsoft:device-container-throttled`: IoT Hub's throttling signal.
pub const MS_DEVICE_CONTAINER_THROTTLED: &str = "com.microsoft:device-container-throttled";
/// `com.microsoft:quota-exceeded`.
pub const MS_QUOTA_EXCEEDED: &str = "com.microsoft:quota-exceeded";
/// `com.microsoft:argument-error`.
pub const MS_ARGUMENT_ERROR: &str = "com.microsoft:argument-error";
/// `com.microsoft:argument-out-of-range`.
pub const MS_ARGUMENT_OUT_OF_RANGE: &str = "com.microsoft:argument-out-of-range";
/// `com.microsoft:device-already-exists`.
pub const MS_DEVICE_ALREADY_EXISTS: &str = "com.microsoft:device-already-exists";
/// `com.microsoft:message-lock-lost`.
pub const MS_MESSAGE_LOCK_LOST: &str = "com.microsoft:message-lock-lost";
/// `com.microsoft:precondition-failed`.
pub const MS_PRECONDITION_FAILED: &str = "com.microsoft:precondition-failed";
/// `com.microsoft:operation-cancelled`.
pub const MS_OPERATION_CANCELLED: &str = "com.microsoft:operation-cancelled";

/// The `error` composite [AMQP 2.8.14]: what is written with its three fields, and what a peer sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Error<'a> {
    /// The condition, a symbol: one of this module's constants, or whatever the peer says.
    pub condition: Cow<'a, str>,
    /// Text for people.
    pub description: Option<Cow<'a, str>>,
    /// The info map, encoded with its constructor; see [`crate::value::encode::begin_map`].
    pub info: Option<Cow<'a, [u8]>>,
}

impl<'a> Error<'a> {
    /// An error with a text and without info.
    pub fn new(condition: impl Into<Cow<'a, str>>, description: impl Into<Cow<'a, str>>) -> Error<'a> {
        Error { condition: condition.into(), description: Some(description.into()), info: None }
    }

    /// The same with an info map: an encoded map with symbol keys, its constructor included.
    pub fn with_info(mut self, info: impl Into<Cow<'a, [u8]>>) -> Error<'a> {
        self.info = Some(info.into());
        self
    }

    /// The same, owned.
    pub fn into_owned(self) -> Error<'static> {
        Error {
            condition: Cow::Owned(self.condition.into_owned()),
            description: self.description.map(|text| Cow::Owned(text.into_owned())),
            info: self.info.map(|info| Cow::Owned(info.into_owned())),
        }
    }
}

impl fmt::Debug for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({self})")
    }
}

impl fmt::Display for Error<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.condition)?;
        match &self.description {
            Some(description) => write!(f, ": {description}"),
            None => Ok(()),
        }
    }
}
