//! What back ends and devices send, as JSON.

use registry::{
    Allocation, DeviceId, DeviceStatus, EnrolmentDraft, EnrolmentId, EnrolmentKind, EnrolmentName,
    EnrolmentSettings,
};
use serde::Deserialize;
use serde_json::Value;

use crate::binding::http::answer::invalid;
use crate::binding::http::identity::{WishedKeys, read_key, read_object};
use crate::binding::status::Status;

/// An enrolment as a back end sends it. What only the hub sets is ignored, since clients send back what they read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WishedEnrolment {
    #[serde(alias = "enrollmentGroupId")]
    pub(super) registration_id: Option<String>,
    pub(super) etag: Option<String>,
    device_id: Option<String>,
    attestation: Option<WishedAttestation>,
    provisioning_status: Option<String>,
    iot_hub_host_name: Option<String>,
    iot_hubs: Option<Vec<String>>,
    initial_twin: Option<Value>,
    capabilities: Option<Value>,
    allocation_policy: Option<String>,
    custom_allocation_definition: Option<Value>,
    reprovision_policy: Option<WishedReprovisioning>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WishedAttestation {
    #[serde(rename = "type")]
    kind: Option<String>,
    symmetric_key: Option<WishedKeys>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WishedReprovisioning {
    update_hub_assignment: Option<bool>,
    migrate_device_data: Option<bool>,
}

/// Read the enrolment that `name` shall be.
pub(super) fn read_draft(name: EnrolmentName, hub: &str, body: &[u8]) -> Result<EnrolmentDraft, Status> {
    read_object::<WishedEnrolment>(body)?.draft(name, hub)
}

impl WishedEnrolment {
    /// The enrolment that `name` shall be. What this hub does not have is refused, not dropped: the back end would believe it set.
    pub(super) fn draft(self, name: EnrolmentName, hub: &str) -> Result<EnrolmentDraft, Status> {
        if self.registration_id.is_some_and(|id| !id.eq_ignore_ascii_case(name.id.as_str())) {
            return Err(invalid("the id of the body is not the one of the path"));
        }
        let status = self.provisioning_status.as_deref().unwrap_or("enabled");
        let status = DeviceStatus::parse(status)
            .ok_or_else(|| invalid("provisioningStatus is enabled or disabled"))?;
        let keys = match self.attestation {
            None => WishedKeys::default(),
            Some(WishedAttestation { kind, symmetric_key }) => {
                if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("symmetricKey")) {
                    return Err(invalid("only attestation of type symmetricKey is supported"));
                }
                symmetric_key.unwrap_or_default()
            }
        };
        let hubs = self.iot_hubs.iter().flatten().chain(&self.iot_hub_host_name);
        if hubs.into_iter().any(|name| !name.is_empty() && !name.eq_ignore_ascii_case(hub)) {
            return Err(invalid(format!("devices can be allocated to this hub alone, {hub}")));
        }
        if self.initial_twin.is_some_and(|twin| has_content(&twin)) {
            return Err(invalid("initial twins are not supported"));
        }
        if self.capabilities.is_some_and(|capabilities| capabilities["iotEdge"] == true) {
            return Err(invalid("edge devices are not supported"));
        }
        if self.custom_allocation_definition.is_some_and(|definition| has_content(&definition)) {
            return Err(invalid("custom allocation is not supported"));
        }
        let allocation = match self.allocation_policy.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("hashed") => Allocation::Hashed,
            Some("geolatency") => Allocation::GeoLatency,
            Some("static") => Allocation::Static,
            Some(_) => return Err(invalid("allocationPolicy is hashed, geoLatency or static")),
        };
        let reprovisioning = self.reprovision_policy;
        let or_true = |wish: Option<bool>| wish.unwrap_or(true);
        let device = match self.device_id.as_deref().filter(|id| !id.is_empty()) {
            None => None,
            Some(_) if name.kind == EnrolmentKind::Group => return Err(invalid("a group has no deviceId")),
            Some(id) => {
                Some(DeviceId::parse(id).map_err(|error| invalid(format!("invalid device id: {error}")))?)
            }
        };
        Ok(EnrolmentDraft {
            name,
            primary_key: read_key(keys.primary_key)?,
            secondary_key: read_key(keys.secondary_key)?,
            status,
            device,
            settings: EnrolmentSettings {
                allocation,
                update_hub_assignment: or_true(
                    reprovisioning.as_ref().and_then(|policy| policy.update_hub_assignment),
                ),
                migrate_device_data: or_true(
                    reprovisioning.as_ref().and_then(|policy| policy.migrate_device_data),
                ),
            },
        })
    }
}

/// Clients send empty objects for what is not set.
fn has_content(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Object(fields) => fields.values().any(has_content),
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RegisterBody {
    registration_id: Option<String>,
    tpm: Option<Value>,
}

/// Check what a device sends with its registration. What it says to a custom allocation is nobody's here.
pub(super) fn check_register(registration: &EnrolmentId, body: &[u8]) -> Result<(), Status> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    let body: RegisterBody = read_object(body)?;
    if body.tpm.is_some_and(|tpm| has_content(&tpm)) {
        return Err(invalid("only symmetric keys are supported"));
    }
    match body.registration_id {
        Some(id) if !id.eq_ignore_ascii_case(registration.as_str()) => {
            Err(invalid("the registrationId of the body is not the one of the path"))
        }
        _ => Ok(()),
    }
}

#[derive(Deserialize)]
struct QueryBody {
    query: Option<String>,
}

/// Check a query: all there are, for there is nothing to choose by.
pub(super) fn check_query(body: &[u8], collection: &str) -> Result<(), Status> {
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    let query = read_object::<QueryBody>(body)?.query.unwrap_or_else(|| "*".to_owned());
    let words: Vec<String> = query.split_whitespace().map(str::to_ascii_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["*"] => Ok(()),
        ["select", "*", "from", of] if of.eq_ignore_ascii_case(collection) => Ok(()),
        _ => Err(invalid(format!("a query here is * or SELECT * FROM {collection}"))),
    }
}
