//! What is told of enrolments and registrations, as JSON.

use engine::request::DeviceView;
use registry::{Allocation, Enrolment, EnrolmentKind, Registration};
use serde_json::{Value, json};

use crate::binding::status::iso_time;

/// An enrolment, without its keys; with what came of it, where that is known.
pub(super) fn enrolment_json(enrolment: &Enrolment, state: Option<Value>) -> Value {
    let allocation = match enrolment.settings.allocation {
        Allocation::Hashed => "hashed",
        Allocation::GeoLatency => "geoLatency",
        Allocation::Static => "static",
    };
    let mut value = json!({
        "attestation": { "type": "symmetricKey" },
        "provisioningStatus": enrolment.status.as_str(),
        "reprovisionPolicy": {
            "updateHubAssignment": enrolment.settings.update_hub_assignment,
            "migrateDeviceData": enrolment.settings.migrate_device_data,
        },
        "allocationPolicy": allocation,
        "capabilities": { "iotEdge": false },
        "createdDateTimeUtc": iso_time(enrolment.created_ms),
        "lastUpdatedDateTimeUtc": iso_time(enrolment.updated_ms),
        "etag": enrolment.etag.to_string(),
    });
    let id = enrolment.name.id.as_str();
    match enrolment.name.kind {
        EnrolmentKind::Group => value["enrollmentGroupId"] = id.into(),
        EnrolmentKind::Single => {
            value["registrationId"] = id.into();
            if let Some(device) = &enrolment.device {
                value["deviceId"] = device.as_str().into();
            }
            if let Some(state) = state {
                value["registrationState"] = state;
            }
        }
    }
    value
}

/// An enrolment's keys.
pub(super) fn keys_json(enrolment: &Enrolment) -> Value {
    json!({
        "type": "symmetricKey",
        "symmetricKey": {
            "primaryKey": enrolment.keys.primary.to_base64(),
            "secondaryKey": enrolment.keys.secondary.to_base64(),
        },
    })
}

/// `assigned`, or `unassigned` where the identity that was given is gone.
pub(super) fn status(registration: &Registration, device: Option<&DeviceView>) -> &'static str {
    match device {
        Some(view) if view.generation == registration.generation => "assigned",
        _ => "unassigned",
    }
}

/// What came of a registration.
pub(super) fn registration_json(registration: &Registration, hub: &str, status: &str) -> Value {
    json!({
        "registrationId": registration.id.as_str(),
        "createdDateTimeUtc": iso_time(registration.created_ms),
        "assignedHub": hub,
        "deviceId": registration.device.as_str(),
        "status": status,
        "substatus": "initialAssignment",
        "lastUpdatedDateTimeUtc": iso_time(registration.updated_ms),
        "etag": registration.etag.to_string(),
    })
}

/// The operation that made a registration's record: the same for as long as that goes on.
pub(super) fn operation_id(registration: &Registration) -> String {
    format!("1.{:016x}", registration.incarnation)
}
