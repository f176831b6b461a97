//! What is written back: identities and lists as JSON, and errors in the form that every client package parses.

use std::borrow::Cow;

use engine::request::{ConnectionId, EngineError};
use net_amqp::condition::{INTERNAL_ERROR, MS_ARGUMENT_ERROR, NOT_ALLOWED, NOT_FOUND, UNAUTHORIZED_ACCESS};
use net_http::Refusal;
use net_http::websocket::OpeningError;
use serde::Serialize;
use serde_json::json;

use crate::binding::status::{Status, iso_time, tracking_id};
use crate::binding::websocket::UpgradeError;

pub(super) use crate::binding::status::invalid;

/// Why a request is not done, and what HTTP wants to be told with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: Status,
    /// The methods that the resource knows, where it does not know the request's.
    pub(super) allow: Option<&'static str>,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { status, allow: None }
    }
}

/// An answer, not yet bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(Cow<'static, str>, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// 200 with a JSON body. Clients parse only what says that it is JSON \[azure-iothub: rest_api_client.js\].
    pub(super) fn json(value: &impl Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("texts, numbers and lists of them are JSON");
        Self { status: 200, headers: vec![json_type()], body }
    }

    /// 204.
    pub(super) fn no_content() -> Self {
        Self { status: 204, headers: Vec::new(), body: Vec::new() }
    }

    /// With one more header.
    pub(super) fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A refusal.
    pub(super) fn refusal(refused: &Refused, connection: ConnectionId, wall_ms: u64) -> Self {
        let answer = Self::error(&refused.status, connection, wall_ms);
        match refused.allow {
            Some(methods) => answer.with("Allow", methods),
            None => answer,
        }
    }

    /// An error: `Message` is cut at its first `;` and `:` by the clients, `iothub-errorcode` decides their exception
    /// \[IoT Hub: troubleshoot-error-codes\].
    pub(super) fn error(status: &Status, connection: ConnectionId, wall_ms: u64) -> Self {
        let tracking = tracking_id(connection, wall_ms);
        let body = json!({
            "Message": format!("ErrorCode:{};{}", status.name, status.message.replace(';', ",")),
            "ExceptionMessage": format!("Tracking ID:{tracking}-TimeStamp:{}", iso_time(wall_ms)),
        });
        let answer =
            Self { status: status.http, headers: vec![json_type()], body: body.to_string().into_bytes() }
                .with("iothub-errorcode", status.name)
                .with("iothub-servicetrackingid", tracking);
        match status.http {
            401 => answer.with("WWW-Authenticate", "SharedAccessSignature"),
            426 => answer.with("Upgrade", "websocket").with("Sec-WebSocket-Version", "13"),
            _ => answer,
        }
    }
}

fn json_type() -> (Cow<'static, str>, String) {
    ("Content-Type".into(), "application/json; charset=utf-8".to_owned())
}

/// A body that cannot be read.
pub(super) fn malformed(message: impl Into<String>) -> Status {
    Status::new(400_006, "IotHubFormatError", MS_ARGUMENT_ERROR, message)
}

/// No or an unreadable token.
pub(super) fn unauthenticated(message: &str) -> Status {
    Status::new(401_003, "IotHubUnauthorized", UNAUTHORIZED_ACCESS, message)
}

/// A good token without the right.
pub(super) fn unauthorized() -> Status {
    let message = "the token does not cover the resource or lacks the right";
    Status::new(401_002, "IotHubUnauthorizedAccess", UNAUTHORIZED_ACCESS, message)
}

/// An api-version that is none.
pub(super) fn no_version() -> Refused {
    let message = "api-version is a date such as 2021-04-12";
    Status::new(400_001, "InvalidProtocolVersion", MS_ARGUMENT_ERROR, message).into()
}

/// No such configuration: this hub has none.
pub(super) fn no_configuration() -> Status {
    Status::new(404_301, "ConfigurationNotFound", NOT_FOUND, "the hub has no configurations")
}

/// No such route.
pub(super) fn no_route() -> Refused {
    Status::new(404_000, "GenericNotFound", NOT_FOUND, "no such resource").into()
}

/// A route that knows only the methods in `allow` [RFC 9110 15.5.6].
pub(super) fn no_method(allow: &'static str) -> Refused {
    let status =
        Status::new(405_000, "InvalidOperation", NOT_ALLOWED, "the resource does not know this method");
    Refused { status, allow: Some(allow) }
}

/// A body that is longer than its route takes.
pub(super) fn too_large(bytes_max: usize) -> Status {
    let message = format!("the body exceeds {bytes_max} bytes");
    Status::new(413_001, "MessageTooLarge", MS_ARGUMENT_ERROR, message)
}

/// The engine did not answer in time.
pub(super) fn late() -> Status {
    Status::new(500_008, "GenericTimeout", INTERNAL_ERROR, "the hub did not answer in time")
}

/// The peer did not send its request in time.
pub(super) fn slow() -> Status {
    let mut status = invalid("the request did not arrive in time");
    status.http = 408;
    status
}

/// The engine answered what was not asked.
pub(super) fn confused() -> Status {
    Status::new(500_001, "ServerError", INTERNAL_ERROR, "the hub has made an error")
}

/// What the engine refuses.
pub(super) fn refused(error: &EngineError) -> Status {
    Status::of(error)
}

/// What HTTP itself refuses.
pub(super) fn unreadable(refusal: &Refusal) -> Status {
    let mut status = match refusal.status {
        413 => Status::new(413_001, "MessageTooLarge", MS_ARGUMENT_ERROR, refusal.to_string()),
        _ => Status::new(400_003, "InvalidOperation", MS_ARGUMENT_ERROR, refusal.to_string()),
    };
    status.http = refusal.status;
    status
}

/// A request to a path of WebSockets that gets none.
pub(super) fn no_websocket(error: &UpgradeError) -> Status {
    let mut status = Status::new(400_003, "InvalidOperation", NOT_ALLOWED, error.to_string());
    if matches!(error, UpgradeError::Opening(OpeningError::NotAsked | OpeningError::Version)) {
        status.http = 426;
    }
    status
}

/// A moment as the `Date` field has it \[RFC 9110 5.6.7\].
pub(super) fn http_date(wall_ms: u64) -> String {
    let moment = i64::try_from(wall_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
    let text = moment.and_then(|moment| printer.timestamp_to_rfc9110_string(&moment).ok());
    text.unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 GMT".to_owned())
}

#[cfg(test)]
mod tests {
    use engine::request::CoreId;

    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(http_date(1_795_294_683_001), "Sat, 21 Nov 2026 20:58:03 GMT");
        assert_eq!(http_date(u64::MAX), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn errors_have_the_form_that_clients_take_apart() {
        let connection = ConnectionId { core: CoreId(0), slot: 1, generation: 2 };
        let answer = Answer::error(&invalid("one; two"), connection, 1_795_294_683_001);
        assert_eq!(answer.status, 400);
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        // As azure-iot-http-base does it.
        let message = body["Message"].as_str().unwrap();
        let (code, text) = message.split_once(';').unwrap();
        assert_eq!((code.split(':').nth(1), text), (Some("ArgumentInvalid"), "one, two"));
        assert!(body["ExceptionMessage"].as_str().unwrap().starts_with("Tracking ID:0000"));
        let header =
            |name| answer.headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str());
        assert_eq!(header("iothub-errorcode"), Some("ArgumentInvalid"));
        assert_eq!(header("Content-Type"), Some("application/json; charset=utf-8"));
        assert!(header("WWW-Authenticate").is_none());
        let answer = Answer::error(&unauthenticated("x"), connection, 0);
        assert!(answer.headers.iter().any(|(name, _)| *name == "WWW-Authenticate"));
    }
}
