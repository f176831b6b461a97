//! A device identity as JSON \[IoT Hub REST: Devices - Get Identity\].

use engine::request::{DeviceDraft, DeviceView, IfMatch};
use registry::{DeviceId, DeviceKey, DeviceStatus, ETag};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::binding::http::answer::{invalid, malformed};
use crate::binding::status::{Status, iso_time};

/// What Azure writes for a moment that never was.
const NEVER: &str = "0001-01-01T00:00:00";

/// An identity as it is told.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity<'a> {
    device_id: &'a str,
    generation_id: String,
    etag: String,
    connection_state: &'static str,
    status: &'static str,
    status_reason: Option<&'a str>,
    connection_state_updated_time: String,
    status_updated_time: String,
    last_activity_time: String,
    cloud_to_device_message_count: u32,
    authentication: Authentication,
    capabilities: Capabilities,
    device_scope: Option<&'a str>,
    parent_scopes: [&'a str; 0],
    /// The hub's own: clients ignore what they do not know.
    lifecycle: Lifecycle<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lifecycle<'a> {
    stage: &'static str,
    registration_id: Option<&'a str>,
    bootstrapped_time: String,
    activated_time: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Authentication {
    symmetric_key: SymmetricKey,
    #[serde(rename = "x509Thumbprint")]
    x509_thumbprint: Thumbprints,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SymmetricKey {
    primary_key: String,
    secondary_key: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Thumbprints {
    primary_thumbprint: Option<&'static str>,
    secondary_thumbprint: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    iot_edge: bool,
}

impl<'a> Identity<'a> {
    pub(super) fn of(view: &'a DeviceView) -> Self {
        Self {
            device_id: view.device.as_str(),
            generation_id: view.generation.to_string(),
            etag: view.etag.to_string(),
            connection_state: if view.connected { "Connected" } else { "Disconnected" },
            status: view.status.as_str(),
            status_reason: view.status_reason.as_deref(),
            connection_state_updated_time: time(view.connection_updated_ms),
            status_updated_time: time(view.status_updated_ms),
            last_activity_time: time(view.last_activity_ms),
            cloud_to_device_message_count: view.command_count,
            authentication: Authentication {
                symmetric_key: SymmetricKey {
                    primary_key: view.keys.primary.to_base64(),
                    secondary_key: view.keys.secondary.to_base64(),
                },
                x509_thumbprint: Thumbprints { primary_thumbprint: None, secondary_thumbprint: None },
                kind: "sas",
            },
            capabilities: Capabilities { iot_edge: false },
            device_scope: None,
            parent_scopes: [],
            lifecycle: Lifecycle {
                stage: view.life.stage(view.status).as_str(),
                registration_id: view.life.registration.as_ref().map(AsRef::as_ref),
                bootstrapped_time: time(view.life.bootstrapped_ms),
                activated_time: time(view.life.activated_ms),
            },
        }
    }
}

/// An identity as a line of an export, in the shape that an import takes \[IoT Hub: iot-hub-bulk-identity-mgmt\].
pub(crate) fn export_line(view: &DeviceView, excludes_keys: bool) -> String {
    let mut line = serde_json::json!({
        "id": view.device.as_str(), "eTag": view.etag.to_string(), "importMode": "create",
        "status": view.status.as_str(), "statusReason": view.status_reason,
    });
    if !excludes_keys {
        let keys = serde_json::json!({
            "primaryKey": view.keys.primary.to_base64(), "secondaryKey": view.keys.secondary.to_base64(),
        });
        line["authentication"] = serde_json::json!({ "type": "sas", "symmetricKey": keys });
    }
    line.to_string()
}

/// UTC without the `Z`, as Azure writes it.
pub(super) fn time(ms: Option<u64>) -> String {
    ms.map_or_else(|| NEVER.to_owned(), |ms| iso_time(ms).trim_end_matches('Z').to_owned())
}

/// What a back end sends of an identity. Fields that only the hub sets are ignored, since clients send back what they read.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Wish {
    pub(super) device_id: Option<String>,
    pub(super) status: Option<String>,
    pub(super) status_reason: Option<String>,
    pub(super) authentication: Option<WishedAuthentication>,
    pub(super) capabilities: Option<WishedCapabilities>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WishedAuthentication {
    #[serde(rename = "type")]
    kind: Option<String>,
    // The first Node packages wrote the name so.
    #[serde(alias = "SymmetricKey")]
    symmetric_key: Option<WishedKeys>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WishedKeys {
    pub(super) primary_key: Option<String>,
    pub(super) secondary_key: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WishedCapabilities {
    iot_edge: Option<bool>,
}

/// Read the identity that `device` shall get.
pub(super) fn read_draft(device: DeviceId, body: &[u8]) -> Result<DeviceDraft, Status> {
    read_object::<Wish>(body)?.draft(device)
}

impl Wish {
    /// The identity that `device` shall get. What this hub does not have (certificates, edge devices) is refused, not dropped:
    /// the back end would believe that it is set.
    pub(super) fn draft(self, device: DeviceId) -> Result<DeviceDraft, Status> {
        if self.device_id.is_some_and(|id| id != device.as_str()) {
            return Err(invalid("the deviceId of the body is not the one of the path"));
        }
        let status = match self.status.as_deref() {
            None => DeviceStatus::Enabled,
            Some(text) => {
                DeviceStatus::parse(text).ok_or_else(|| invalid("status is enabled or disabled"))?
            }
        };
        if self.capabilities.and_then(|capabilities| capabilities.iot_edge) == Some(true) {
            return Err(invalid("edge devices are not supported"));
        }
        let authentication = self.authentication.unwrap_or_default();
        if authentication.kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("sas")) {
            return Err(invalid("only authentication of type sas is supported"));
        }
        let keys = authentication.symmetric_key.unwrap_or_default();
        Ok(DeviceDraft {
            device,
            primary_key: read_key(keys.primary_key)?,
            secondary_key: read_key(keys.secondary_key)?,
            status,
            status_reason: self.status_reason,
        })
    }
}

/// Read a JSON object. A list, which serde would take for the object's fields in their order, is none.
pub(super) fn read_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(malformed("the body is not a JSON object"));
    }
    read_json(body)
}

/// Read a JSON list.
pub(super) fn read_list<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, Status> {
    read_json(body)
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    // Where, not what: serde's own text repeats what it found, and that may be a key.
    serde_json::from_slice(body).map_err(|error| {
        malformed(format!("the body cannot be read at line {}, column {}", error.line(), error.column()))
    })
}

/// Clients send an empty text for a key that the hub shall choose.
pub(super) fn read_key(text: Option<String>) -> Result<Option<DeviceKey>, Status> {
    match text.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => DeviceKey::from_base64(text).map(Some).map_err(|error| invalid(error.to_string())),
    }
}

/// Read `If-Match`: an ETag or `*`, in quotes or without, as the packages send either.
pub(super) fn read_if_match(value: &str) -> IfMatch {
    let value = value.trim();
    let text = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    match text {
        "*" => IfMatch::Any,
        text => IfMatch::ETag(ETag::parse(text).unwrap_or(ETag::NEVER)),
    }
}

#[cfg(test)]
mod tests {
    use registry::{DeviceKeys, GenerationId};
    use serde_json::{Value, json};

    use super::*;

    fn view() -> DeviceView {
        DeviceView {
            device: DeviceId::parse("pump").unwrap(),
            generation: GenerationId(637_000),
            etag: ETag(5),
            keys: DeviceKeys::generate(&mut |bytes| bytes.fill(1)),
            status: DeviceStatus::Disabled,
            status_reason: Some("leaks".into()),
            status_updated_ms: Some(1_795_294_683_001),
            connected: true,
            connection_updated_ms: None,
            last_activity_ms: None,
            command_count: 0,
            life: registry::Life::default(),
        }
    }

    #[test]
    fn an_identity_has_every_documented_field() {
        let key = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
        let expected = json!({
            "deviceId": "pump", "generationId": "637000", "etag": "AAAAAAAAAAU=",
            "connectionState": "Connected", "status": "disabled", "statusReason": "leaks",
            "connectionStateUpdatedTime": "0001-01-01T00:00:00",
            "statusUpdatedTime": "2026-11-21T20:58:03.001", "lastActivityTime": "0001-01-01T00:00:00",
            "cloudToDeviceMessageCount": 0,
            "authentication": {
                "symmetricKey": {"primaryKey": key, "secondaryKey": key},
                "x509Thumbprint": {"primaryThumbprint": null, "secondaryThumbprint": null}, "type": "sas",
            },
            "capabilities": {"iotEdge": false}, "deviceScope": null, "parentScopes": [],
            "lifecycle": {
                "stage": "deactivated", "registrationId": null,
                "bootstrappedTime": "0001-01-01T00:00:00", "activatedTime": "0001-01-01T00:00:00",
            },
        });
        assert_eq!(serde_json::to_value(Identity::of(&view())).unwrap(), expected);
    }

    fn draft(body: &Value) -> Result<DeviceDraft, Status> {
        read_draft(DeviceId::parse("pump").unwrap(), body.to_string().as_bytes())
    }

    #[test]
    fn what_was_read_can_be_sent_back() {
        let sent_back = serde_json::to_value(Identity::of(&view())).unwrap();
        let draft = draft(&sent_back).unwrap();
        assert_eq!((draft.status, draft.status_reason.as_deref()), (DeviceStatus::Disabled, Some("leaks")));
        assert_eq!(draft.primary_key, Some(view().keys.primary));
    }

    #[test]
    fn missing_keys_are_the_hubs_to_choose() {
        let empty = json!({"primaryKey": "", "secondaryKey": ""});
        for body in [
            json!({"deviceId": "pump"}),
            json!({}),
            json!({"deviceId": "pump", "authentication": null, "status": null, "statusReason": null}),
            json!({"authentication": {"type": "sas", "symmetricKey": empty}}),
            json!({"authentication": {"SymmetricKey": empty}, "somethingNew": [1, 2]}),
        ] {
            let draft = draft(&body).unwrap();
            assert_eq!(
                (draft.primary_key, draft.secondary_key, draft.status),
                (None, None, DeviceStatus::Enabled)
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let key = |text: &str| json!({"authentication": {"symmetricKey": {"primaryKey": text}}});
        for body in [
            json!({"deviceId": "Pump"}),
            json!({"status": "on"}),
            json!({"authentication": {"type": "selfSigned"}}),
            json!({"capabilities": {"iotEdge": true}}),
            key("short"),
            key("AQEBAQEBAQ=="),
        ] {
            assert_eq!(draft(&body).unwrap_err().code, 400_004, "{body}");
        }
        for body in ["", "[]", "{", "null", "{\"status\":1}"] {
            let refused = read_draft(DeviceId::parse("pump").unwrap(), body.as_bytes());
            assert_eq!(refused.unwrap_err().code, 400_006, "{body}");
        }
        for secret in
            [key("bXktc2VjcmV0LWtleQ=="), json!({"authentication": {"symmetricKey": "bXktc2VjcmV0"}})]
        {
            let refused = draft(&secret).unwrap_err();
            assert!(!refused.message.contains("bXkt"), "{refused:?}");
        }
    }

    #[test]
    fn conditions_come_quoted_or_not() {
        for any in ["*", "\"*\"", " \"*\" "] {
            assert_eq!(read_if_match(any), IfMatch::Any, "{any}");
        }
        for etag in ["AAAAAAAAAAU=", "\"AAAAAAAAAAU=\""] {
            assert_eq!(read_if_match(etag), IfMatch::ETag(ETag(5)), "{etag}");
        }
        for never in ["", "\"", "W/\"AAAAAAAAAAU=\"", "\"a\", \"b\"", "\"*"] {
            assert_eq!(read_if_match(never), IfMatch::ETag(ETag::NEVER), "{never}");
        }
    }
}
