//! The one table from what the engine refuses to what the wire says: IoT Hub's error code and name, its HTTP status, and
//! the AMQP condition [IoT Hub: troubleshoot-error-codes].

use engine::request::{ConnectionId, EngineError, SessionEnd, UnauthorizedReason};
use net_amqp::condition::*;
use registry::RegistryError;
use serde_json::json;

/// The status of an answer about a device's twin, which this hub does not have.
pub const NO_TWIN_STATUS: u16 = 501;

/// The body of that answer, as Node's client over MQTT reads it, which ignores the status.
pub const NO_TWIN: &[u8] = br#"{"errorCode":501001,"message":"there are no device twins here"}"#;

/// What the wire says about one refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status, 400 to 599.
    pub http: u16,
    /// IoT Hub's error code: the HTTP status with three more digits.
    pub code: u32,
    /// IoT Hub's name of the code.
    pub name: &'static str,
    /// The AMQP error condition.
    pub condition: &'static str,
    /// A sentence for people, without secrets.
    pub message: String,
}

impl Status {
    /// A status of the binding itself, for what never reaches the engine. The HTTP status is what the code begins with.
    pub fn new(code: u32, name: &'static str, condition: &'static str, message: impl Into<String>) -> Self {
        let http = u16::try_from(code / 1000).unwrap_or(500);
        Self { http, code, name, condition, message: message.into() }
    }

    /// What the wire says about `error`.
    pub fn of(error: &EngineError) -> Self {
        let (code, name, condition) = match error {
            EngineError::Unauthorized(reason) => unauthorized(*reason),
            EngineError::DeviceNotFound => DEVICE_NOT_FOUND,
            EngineError::DeviceDisabled => (401_002, "IotHubUnauthorizedAccess", UNAUTHORIZED_ACCESS),
            EngineError::EnrolmentDisabled => (401_002, "IotHubUnauthorizedAccess", UNAUTHORIZED_ACCESS),
            EngineError::Registry(error) => of_registry(error),
            EngineError::SessionEnded(reason) => of_session_end(*reason),
            EngineError::PartitionNotFound(_) => (404_003, "PartitionNotFound", NOT_FOUND),
            EngineError::ConsumerGroupNotFound => CONSUMER_GROUP_NOT_FOUND,
            EngineError::PolicyNotFound => (404_000, "PolicyNotFound", NOT_FOUND),
            EngineError::ConsumerGroupExists => CONSUMER_GROUP_EXISTS,
            EngineError::ConsumerGroupInvalid(_) => INVALID,
            EngineError::EpochHeld { .. } => (409_002, "LinkCreationConflict", LINK_STOLEN),
            EngineError::ReadersExhausted { .. } => (403_002, "IotHubQuotaExceeded", RESOURCE_LIMIT_EXCEEDED),
            EngineError::ReaderEnded => (503_001, "ServiceUnavailable", LINK_DETACH_FORCED),
            EngineError::CheckpointBeyondEnd { .. } => (400_004, "ArgumentInvalid", MS_ARGUMENT_OUT_OF_RANGE),
            EngineError::PositionBeyondEnd { .. } => INVALID,
            EngineError::EventTooLarge { .. } => (413_001, "MessageTooLarge", LINK_MESSAGE_SIZE_EXCEEDED),
            EngineError::QueueFull { .. } => {
                (403_004, "DeviceMaximumQueueDepthExceeded", RESOURCE_LIMIT_EXCEEDED)
            }
            EngineError::CommandTooLarge { .. } => (413_001, "MessageTooLarge", LINK_MESSAGE_SIZE_EXCEEDED),
            EngineError::SubscriptionTooLong { .. } => INVALID,
            EngineError::ExpiryInvalid { .. } => {
                (403_009, "InvalidMessageExpiryTime", MS_ARGUMENT_OUT_OF_RANGE)
            }
            EngineError::LockLost => (412_002, "DeviceMessageLockLost", MS_MESSAGE_LOCK_LOST),
            EngineError::ReceiverEnded => (503_001, "ServiceUnavailable", LINK_DETACH_FORCED),
            EngineError::StorageFull => (403_002, "IotHubQuotaExceeded", RESOURCE_LIMIT_EXCEEDED),
            EngineError::Busy => (429_001, "ThrottlingException", MS_DEVICE_CONTAINER_THROTTLED),
            EngineError::StorageFailed | EngineError::Damaged { .. } => SERVER_ERROR,
            EngineError::Stopping => (503_001, "ServiceUnavailable", LINK_DETACH_FORCED),
            _ => SERVER_ERROR,
        };
        Self::new(code, name, condition, error.to_string())
    }

    /// The text that IoT Hub puts into an AMQP error's description: a JSON object with code, message and a tracking id.
    pub fn description(&self, connection: ConnectionId, wall_ms: u64) -> String {
        let timestamp = iso_time(wall_ms);
        json!({
            "errorCode": self.code,
            "message": self.message,
            "trackingId": format!("{}-G:0-TimeStamp:{timestamp}", tracking_id(connection, wall_ms)),
            "timestampUtc": timestamp,
            "info": null,
        })
        .to_string()
    }

    /// The condition for an Event Hubs client, which retries by other names than a device.
    pub fn event_hubs_condition(&self) -> &'static str {
        match self.condition {
            MS_DEVICE_CONTAINER_THROTTLED => MS_SERVER_BUSY,
            condition => condition,
        }
    }
}

/// A value that cannot be.
pub fn invalid(message: impl Into<String>) -> Status {
    Status::new(INVALID.0, INVALID.1, INVALID.2, message)
}

type Entry = (u32, &'static str, &'static str);

const DEVICE_NOT_FOUND: Entry = (404_001, "DeviceNotFound", NOT_FOUND);
const CONSUMER_GROUP_NOT_FOUND: Entry = (404_000, "ConsumerGroupNotFound", NOT_FOUND);
const CONSUMER_GROUP_EXISTS: Entry = (409_000, "ConsumerGroupAlreadyExists", NOT_ALLOWED);
const INVALID: Entry = (400_004, "ArgumentInvalid", MS_ARGUMENT_ERROR);
const SERVER_ERROR: Entry = (500_001, "ServerError", INTERNAL_ERROR);

fn unauthorized(reason: UnauthorizedReason) -> Entry {
    match reason {
        UnauthorizedReason::NotCovered => (401_002, "IotHubUnauthorizedAccess", UNAUTHORIZED_ACCESS),
        UnauthorizedReason::Malformed
        | UnauthorizedReason::Signature
        | UnauthorizedReason::Expired
        | UnauthorizedReason::Stale => (401_003, "IotHubUnauthorized", UNAUTHORIZED_ACCESS),
    }
}

fn of_session_end(reason: Option<SessionEnd>) -> Entry {
    match reason {
        Some(SessionEnd::Stolen) => (409_002, "LinkCreationConflict", LINK_STOLEN),
        Some(SessionEnd::Disabled) => (401_002, "IotHubUnauthorizedAccess", UNAUTHORIZED_ACCESS),
        Some(SessionEnd::Deleted) => DEVICE_NOT_FOUND,
        Some(SessionEnd::KeysChanged) => (401_003, "IotHubUnauthorized", UNAUTHORIZED_ACCESS),
        None => (503_001, "ServiceUnavailable", LINK_DETACH_FORCED),
    }
}

fn of_registry(error: &RegistryError) -> Entry {
    match error {
        RegistryError::DeviceExists => (409_001, "DeviceAlreadyExists", MS_DEVICE_ALREADY_EXISTS),
        RegistryError::DeviceNotFound => DEVICE_NOT_FOUND,
        RegistryError::DeviceTaken => (409_001, "DeviceAlreadyExists", MS_DEVICE_ALREADY_EXISTS),
        RegistryError::EnrolmentExists => (409_201, "EnrollmentConflict", NOT_ALLOWED),
        RegistryError::EnrolmentNotFound => (404_201, "EnrollmentNotFound", NOT_FOUND),
        RegistryError::RegistrationNotFound => (404_202, "RegistrationNotFound", NOT_FOUND),
        RegistryError::PolicyNotFound => (404_000, "PolicyNotFound", NOT_FOUND),
        RegistryError::EnrolmentsExhausted { .. }
        | RegistryError::RegistrationsExhausted { .. }
        | RegistryError::PoliciesExhausted { .. } => {
            (403_002, "IotHubQuotaExceeded", RESOURCE_LIMIT_EXCEEDED)
        }
        RegistryError::PreconditionFailed => (412_001, "PreconditionFailed", MS_PRECONDITION_FAILED),
        RegistryError::InvalidId(_)
        | RegistryError::InvalidKey(_)
        | RegistryError::InvalidReason { .. }
        | RegistryError::InvalidPolicyName
        | RegistryError::LastPolicy
        | RegistryError::InvalidConsumerGroupName
        | RegistryError::ConsumerGroupDefault => INVALID,
        RegistryError::ConsumerGroupExists => CONSUMER_GROUP_EXISTS,
        RegistryError::ConsumerGroupNotFound => CONSUMER_GROUP_NOT_FOUND,
        RegistryError::ConsumerGroupsExhausted { .. } => {
            (403_002, "IotHubQuotaExceeded", RESOURCE_LIMIT_EXCEEDED)
        }
        _ => SERVER_ERROR,
    }
}

/// 32 hex digits that lead from an error text to the connection and moment that it was written at.
pub fn tracking_id(connection: ConnectionId, wall_ms: u64) -> String {
    let ConnectionId { core, slot, generation } = connection;
    format!("{:04x}{slot:08x}{generation:08x}{:012x}", core.0, wall_ms & 0xffff_ffff_ffff)
}

/// A moment as ISO 8601 text in UTC, to the millisecond.
pub fn iso_time(wall_ms: u64) -> String {
    let moment = i64::try_from(wall_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use engine::request::CoreId;

    use super::*;

    fn check(error: EngineError, http: u16, code: u32, name: &str, condition: &str) {
        let status = Status::of(&error);
        assert_eq!(
            (status.http, status.code, status.name, status.condition),
            (http, code, name, condition),
            "{error:?}"
        );
    }

    #[test]
    fn the_documented_codes() {
        use EngineError as E;
        let unauthorized = |reason| E::Unauthorized(reason);
        check(
            unauthorized(UnauthorizedReason::NotCovered),
            401,
            401_002,
            "IotHubUnauthorizedAccess",
            UNAUTHORIZED_ACCESS,
        );
        check(
            unauthorized(UnauthorizedReason::Expired),
            401,
            401_003,
            "IotHubUnauthorized",
            UNAUTHORIZED_ACCESS,
        );
        check(E::DeviceNotFound, 404, 404_001, "DeviceNotFound", NOT_FOUND);
        check(
            E::Registry(RegistryError::DeviceExists),
            409,
            409_001,
            "DeviceAlreadyExists",
            MS_DEVICE_ALREADY_EXISTS,
        );
        check(
            E::Registry(RegistryError::PreconditionFailed),
            412,
            412_001,
            "PreconditionFailed",
            MS_PRECONDITION_FAILED,
        );
        check(E::SessionEnded(Some(SessionEnd::Stolen)), 409, 409_002, "LinkCreationConflict", LINK_STOLEN);
        check(
            E::EventTooLarge { bytes: 2, bytes_max: 1 },
            413,
            413_001,
            "MessageTooLarge",
            LINK_MESSAGE_SIZE_EXCEEDED,
        );
        check(E::StorageFull, 403, 403_002, "IotHubQuotaExceeded", RESOURCE_LIMIT_EXCEEDED);
        check(E::Busy, 429, 429_001, "ThrottlingException", MS_DEVICE_CONTAINER_THROTTLED);
        check(E::Stopping, 503, 503_001, "ServiceUnavailable", LINK_DETACH_FORCED);
    }

    #[test]
    fn a_description_is_the_json_that_clients_parse() {
        let connection = ConnectionId { core: CoreId(1), slot: 2, generation: 3 };
        let text = Status::of(&EngineError::DeviceNotFound).description(connection, 1_795_294_683_001);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["errorCode"], 404_001);
        assert_eq!(value["message"], "device not found");
        assert_eq!(value["timestampUtc"], "2026-11-21T20:58:03.001Z");
        assert!(value["trackingId"].as_str().unwrap().starts_with("00010000000200000003"));
    }
}
