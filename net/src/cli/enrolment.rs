//! `corehub enrolment`: who may get an identity by itself, over the hub's provisioning API.

use clap::{Args, Subcommand};
use registry::{DeviceKey, derive_key};
use serde_json::{Value, json};

use super::https::{Hub, Refusal, segment};
use super::{CommandError, HubArguments, OrFail, print_line};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create an enrolment; keys that are not given are made
    Create {
        #[command(flatten)]
        one: One,
        /// The identity that a single enrolment gives, where it is not the registration id
        #[arg(long, value_name = "ID", conflicts_with = "group")]
        device: Option<String>,
        /// Base64 text of the first key
        #[arg(long, value_name = "KEY")]
        primary_key: Option<String>,
        /// Base64 text of the second key
        #[arg(long, value_name = "KEY")]
        secondary_key: Option<String>,
    },
    /// Show an enrolment, with its keys, as JSON
    Show(One),
    /// List all enrolments: kind, id and status
    List(HubArguments),
    /// Let devices register
    Enable(One),
    /// Let no device register; those that have stay
    Disable(One),
    /// Delete an enrolment; the devices that it let in stay
    Delete(One),
    /// Print the key of a device of a group
    Key {
        /// The group
        #[arg(value_name = "GROUP")]
        group: String,
        /// The device's registration id, as the device writes it
        #[arg(value_name = "REGISTRATION")]
        registration: String,
        /// Derived from the group's second key
        #[arg(long)]
        secondary: bool,
        #[command(flatten)]
        hub: HubArguments,
    },
    /// Print the hub's id scope
    Scope(HubArguments),
}

#[derive(Args, Debug)]
struct One {
    /// The registration id of a single enrolment, or with --group a group's id
    #[arg(value_name = "ID")]
    id: String,
    /// A group, whose devices' keys derive from its own
    #[arg(long)]
    group: bool,
    #[command(flatten)]
    hub: HubArguments,
}

impl One {
    fn path(&self) -> String {
        path(self.group, &self.id)
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    match &arguments.action {
        Action::Create { one, device, primary_key, secondary_key } => {
            let id_field = if one.group { "enrollmentGroupId" } else { "registrationId" };
            let keys = json!({ "primaryKey": primary_key, "secondaryKey": secondary_key });
            let body = json!({
                id_field: one.id, "deviceId": device, "provisioningStatus": "enabled",
                "attestation": { "type": "symmetricKey", "symmetricKey": keys },
            });
            Hub::find(&one.hub.data)?.ask("PUT", &one.path(), &[], Some(&body))?;
            print_line(format_args!("created {}", one.id));
        }
        Action::Show(one) => {
            let hub = Hub::find(&one.hub.data)?;
            let mut enrolment = hub.ask("GET", &one.path(), &[], None)?.body;
            enrolment["attestation"] = keys(&hub, &one.path())?;
            print_line(serde_json::to_string_pretty(&enrolment).or_fail()?);
        }
        Action::List(hub) => {
            let hub = Hub::find(&hub.data)?;
            list(&hub, "group", "/enrollmentGroups/query", "/enrollmentGroupId")?;
            list(&hub, "single", "/enrollments/query", "/registrationId")?;
        }
        Action::Enable(one) => set_status(one, "enabled")?,
        Action::Disable(one) => set_status(one, "disabled")?,
        Action::Delete(one) => {
            Hub::find(&one.hub.data)?.ask("DELETE", &one.path(), &[], None)?;
            print_line(format_args!("deleted {}", one.id));
        }
        Action::Key { group, registration, secondary, hub } => {
            let keys = keys(&Hub::find(&hub.data)?, &path(true, group))?;
            let name = if *secondary { "/symmetricKey/secondaryKey" } else { "/symmetricKey/primaryKey" };
            let key = DeviceKey::from_base64(text(&keys, name)).or_fail()?;
            print_line(derive_key(&key, registration).to_base64());
        }
        Action::Scope(hub) => {
            let hub = Hub::find(&hub.data)?.ask("GET", "/provisioning", &[], None)?.body;
            print_line(text(&hub, "/idScope"));
        }
    }
    Ok(())
}

fn path(is_group: bool, id: &str) -> String {
    format!("/{}/{}", if is_group { "enrollmentGroups" } else { "enrollments" }, segment(id))
}

fn keys(hub: &Hub, path: &str) -> Result<Value, CommandError> {
    Ok(hub.ask("POST", &format!("{path}/attestationMechanism"), &[], None)?.body)
}

fn list(hub: &Hub, kind: &str, path: &str, id: &str) -> Result<(), CommandError> {
    let mut continuation: Option<String> = None;
    loop {
        let mut headers = vec![("x-ms-max-item-count", "1000")];
        headers.extend(continuation.as_deref().map(|token| ("x-ms-continuation", token)));
        let page = hub.ask("POST", path, &headers, Some(&json!({ "query": "*" })))?;
        for item in page.body.as_array().into_iter().flatten() {
            print_line(format_args!("{kind:6}  {:8}  {}", text(item, "/provisioningStatus"), text(item, id)));
        }
        continuation = page.continuation;
        if continuation.is_none() {
            return Ok(());
        }
    }
}

/// Change the status and nothing else. Who was faster is told, not overwritten.
fn set_status(one: &One, status: &str) -> Result<(), CommandError> {
    let hub = Hub::find(&one.hub.data)?;
    let mut enrolment = hub.ask("GET", &one.path(), &[], None)?.body;
    enrolment["provisioningStatus"] = status.into();
    let etag = format!("\"{}\"", text(&enrolment, "/etag"));
    hub.ask("PUT", &one.path(), &[("If-Match", &etag)], Some(&enrolment)).map_err(
        |refusal| match refusal {
            Refusal::Status(412, ..) => {
                CommandError::new("somebody else has just changed the enrolment: try again")
            }
            refusal => refusal.into(),
        },
    )?;
    print_line(format_args!("{status} {}", one.id));
    Ok(())
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
