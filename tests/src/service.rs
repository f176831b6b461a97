//! The service API over HTTPS, as a back end uses it.

use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::{Value, json};

use crate::https::{self, Response};
use crate::sas::{self, ConnectionString, escape};

/// A device and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Its primary key in base64.
    pub key: String,
    /// The generation of its identity.
    pub generation: String,
}

/// The service API with the rights of one policy.
#[derive(Clone, Debug)]
pub struct Service {
    host: String,
    tls: Arc<ClientConfig>,
    policy: String,
    key: String,
}

impl Service {
    /// With the policy of a connection string.
    pub fn new(host: String, tls: Arc<ClientConfig>, policy: &ConnectionString) -> Self {
        let part = |name| policy.part(name).to_owned();
        Self { host, tls, policy: part("SharedAccessKeyName"), key: part("SharedAccessKey") }
    }

    /// A token of the policy for the whole hub.
    pub fn token(&self) -> String {
        sas::token(&self.host, &self.key, sas::now_s() + 3600, Some(&self.policy))
    }

    /// A token for the event hub, as Event Hubs clients make it: signed with the text of the key.
    pub fn event_hub_token(&self, event_hub: &str) -> String {
        let resource = format!("sb://{}/{event_hub}", self.host);
        sas::token_with_key_bytes(&resource, self.key.as_bytes(), sas::now_s() + 3600, Some(&self.policy))
    }

    /// Any request.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Response {
        let token = self.token();
        let mut all = vec![("Authorization", token.as_str())];
        let text = body.map(Value::to_string).unwrap_or_default();
        if body.is_some() {
            all.push(("Content-Type", "application/json"));
        }
        all.extend_from_slice(headers);
        let separator = if path.contains('?') { '&' } else { '?' };
        let target = format!("{path}{separator}api-version=2021-04-12");
        https::request((&self.host, 443), self.tls.clone(), (method, &target), &all, text.as_bytes())
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Create a device with keys of the hub's choice.
    pub fn create_device(&self, id: &str) -> Device {
        let response = self.request("PUT", &device_path(id), &[], Some(&json!({ "deviceId": id })));
        assert_eq!(response.status, 200, "{}", response.text());
        device(&response.json())
    }

    /// Create so many devices: `prefix0`, `prefix1` and so on.
    pub fn create_devices(&self, prefix: &str, count: usize) -> Vec<Device> {
        (0..count).map(|number| self.create_device(&format!("{prefix}{number}"))).collect()
    }

    /// An identity as the hub tells it.
    pub fn device(&self, id: &str) -> Response {
        self.request("GET", &device_path(id), &[], None)
    }

    /// Enable or disable a device, whatever its ETag.
    pub fn set_status(&self, id: &str, status: &str) {
        let mut identity = self.device(id).json();
        identity["status"] = json!(status);
        identity["statusReason"] = json!("by a test");
        let response = self.request("PUT", &device_path(id), &[("If-Match", "\"*\"")], Some(&identity));
        assert_eq!(response.status, 200, "{}", response.text());
    }

    /// Delete a device, whatever its ETag.
    pub fn delete_device(&self, id: &str) {
        let response = self.request("DELETE", &device_path(id), &[("If-Match", "\"*\"")], None);
        assert_eq!(response.status, 204, "{}", response.text());
    }

    /// Create a consumer group.
    pub fn create_consumer_group(&self, name: &str) {
        let response = self.request("PUT", &format!("/consumerGroups/{name}"), &[], None);
        assert!(matches!(response.status, 200 | 201), "{} {}", response.status, response.text());
    }

    /// Set a checkpoint; it may go back.
    pub fn put_checkpoint(&self, group: &str, partition: u16, number: u64) -> Response {
        let body = json!({ "sequenceNumber": number });
        self.request("PUT", &checkpoint_path(group, partition), &[], Some(&body))
    }

    /// The checkpoint, where there is one.
    pub fn checkpoint(&self, group: &str, partition: u16) -> Option<u64> {
        let response = self.request("GET", &checkpoint_path(group, partition), &[], None);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()["sequenceNumber"].as_u64()
    }
}

/// A device from the JSON of its identity.
pub fn device(identity: &Value) -> Device {
    let text = |value: &Value| {
        value.as_str().unwrap_or_else(|| panic!("a text is missing in {identity}")).to_owned()
    };
    Device {
        id: text(&identity["deviceId"]),
        key: text(&identity["authentication"]["symmetricKey"]["primaryKey"]),
        generation: text(&identity["generationId"]),
    }
}

fn device_path(id: &str) -> String {
    format!("/devices/{}", escape(id))
}

fn checkpoint_path(group: &str, partition: u16) -> String {
    format!("/consumerGroups/{}/checkpoints/{partition}", escape(group))
}
