//! `corehub device`: identities, over the hub's service API.

use clap::{Args, Subcommand};
use comfy_table::Table;
use serde_json::{Value, json};

use super::https::{Hub, Refusal, segment};
use super::{CommandError, HubArguments, OrFail, print_line};

/// Identities that one answer holds at most.
const PAGE: usize = 1000;

/// How often a change is tried again when somebody else was faster.
const CHANGE_TRIES: u32 = 5;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create devices; keys that are not given are made
    Create {
        #[command(flatten)]
        devices: Devices,
        /// Base64 text of the first key, for a single device
        #[arg(long, value_name = "KEY")]
        primary_key: Option<String>,
        /// Base64 text of the second key, for a single device
        #[arg(long, value_name = "KEY")]
        secondary_key: Option<String>,
    },
    /// Show devices, with their keys, as JSON
    Show(Devices),
    /// List all devices
    List(HubArguments),
    /// Let devices connect
    Enable(Devices),
    /// Cut devices off and refuse them
    Disable {
        #[command(flatten)]
        devices: Devices,
        /// Why, at most 128 characters
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Delete devices
    Delete(Devices),
}

#[derive(Args, Debug)]
struct Devices {
    /// Device ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    hub: HubArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    match &arguments.action {
        Action::Create { devices, primary_key, secondary_key } => {
            if devices.ids.len() > 1 && (primary_key.is_some() || secondary_key.is_some()) {
                return Err(CommandError::new("a key is for one device: name one id"));
            }
            each(devices, |hub, id| {
                let keys = json!({ "primaryKey": primary_key, "secondaryKey": secondary_key });
                let body = json!({
                    "deviceId": id, "status": "enabled",
                    "authentication": { "type": "sas", "symmetricKey": keys },
                });
                hub.ask("PUT", &path(id), &[], Some(&body))?;
                print_line(format_args!("created {id}"));
                Ok(())
            })
        }
        Action::Show(devices) => each(devices, |hub, id| {
            let device = hub.ask("GET", &path(id), &[], None)?.body;
            print_line(serde_json::to_string_pretty(&device).or_fail()?);
            Ok(())
        }),
        Action::List(hub) => list(&Hub::find(&hub.data)?),
        Action::Enable(devices) => each(devices, |hub, id| {
            set_status(hub, id, "enabled", None)?;
            print_line(format_args!("enabled {id}"));
            Ok(())
        }),
        Action::Disable { devices, reason } => each(devices, |hub, id| {
            set_status(hub, id, "disabled", reason.as_deref())?;
            print_line(format_args!("disabled {id}"));
            Ok(())
        }),
        Action::Delete(devices) => each(devices, |hub, id| {
            hub.ask("DELETE", &path(id), &[("If-Match", "*")], None)?;
            print_line(format_args!("deleted {id}"));
            Ok(())
        }),
    }
}

fn path(id: &str) -> String {
    format!("/devices/{}", segment(id))
}

/// All are tried; what went wrong with some is said at the end.
fn each(devices: &Devices, act: impl Fn(&Hub, &str) -> Result<(), CommandError>) -> Result<(), CommandError> {
    let hub = Hub::find(&devices.hub.data)?;
    let failures: Vec<String> = devices
        .ids
        .iter()
        .filter_map(|id| act(&hub, id).err().map(|error| format!("{id}: {error}")))
        .collect();
    if failures.is_empty() { Ok(()) } else { Err(CommandError::new(failures.join("; "))) }
}

/// Change the status and nothing else, even when somebody changes the device at the same time.
fn set_status(hub: &Hub, id: &str, status: &str, reason: Option<&str>) -> Result<(), CommandError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let mut device = hub.ask("GET", &path(id), &[], None)?.body;
        device["status"] = status.into();
        device["statusReason"] = reason.into();
        let etag = format!("\"{}\"", device["etag"].as_str().unwrap_or_default());
        match hub.ask("PUT", &path(id), &[("If-Match", &etag)], Some(&device)) {
            Err(Refusal::Status(412, _)) if tries < CHANGE_TRIES => {}
            result => return result.map(|_| ()).map_err(CommandError::from),
        }
    }
}

fn list(hub: &Hub) -> Result<(), CommandError> {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["DEVICE", "STATUS", "STATE", "LAST ACTIVITY", "REASON"]);
    let path = format!("/devices?top={PAGE}");
    let mut continuation: Option<String> = None;
    loop {
        let next = continuation.as_deref();
        let headers: Vec<(&str, &str)> = next.map(|token| ("x-ms-continuation", token)).into_iter().collect();
        let page = hub.ask("GET", &path, &headers, None)?;
        for device in page.body.as_array().into_iter().flatten() {
            let field = |name: &str| device.get(name).and_then(Value::as_str).unwrap_or_default();
            table.add_row([
                field("deviceId"),
                field("status"),
                field("connectionState"),
                field("lastActivityTime"),
                field("statusReason"),
            ]);
        }
        match page.continuation {
            Some(token) if next != Some(&token) => continuation = Some(token),
            _ => break,
        }
    }
    print_line(table.trim_fmt());
    Ok(())
}
