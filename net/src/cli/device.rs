//! `corehub device`: identities, over the hub's service API.

mod bulk;
mod list;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::https::{Hub, Refusal, segment};
use super::{CommandError, HubArguments, OrFail, print_line};

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
        /// Device ids
        #[arg(required_unless_present = "file", value_name = "ID")]
        ids: Vec<String>,
        #[command(flatten)]
        hub: HubArguments,
        /// A CSV file of devices: its first line names the columns deviceId and, as far as wanted, primaryKey, secondaryKey,
        /// status and statusReason; - is standard input
        #[arg(long, value_name = "FILE", conflicts_with_all = ["ids", "primary_key", "secondary_key"])]
        file: Option<PathBuf>,
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
    List {
        #[command(flatten)]
        hub: HubArguments,
        /// As a JSON array, without keys
        #[arg(long)]
        json: bool,
    },
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
    /// Write all devices, with their keys, as JSON lines that import takes
    Export {
        /// A file that does not exist; - is standard output
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Without keys: devices imported from it get new ones
        #[arg(long)]
        exclude_keys: bool,
        #[command(flatten)]
        hub: HubArguments,
    },
    /// Create, update and delete devices as the JSON lines of a file say
    Import {
        /// The file; - is standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        hub: HubArguments,
    },
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
        Action::Create { hub, file: Some(file), .. } => bulk::create(&Hub::find(&hub.data)?, file),
        Action::Create { ids, hub, primary_key, secondary_key, file: None } => {
            if ids.len() > 1 && (primary_key.is_some() || secondary_key.is_some()) {
                return Err(CommandError::new("a key is for one device: name one id"));
            }
            each(ids, hub, |hub, id| {
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
        Action::Show(devices) => each(&devices.ids, &devices.hub, |hub, id| {
            let device = hub.ask("GET", &path(id), &[], None)?.body;
            print_line(serde_json::to_string_pretty(&device).or_fail()?);
            Ok(())
        }),
        Action::List { hub, json } => {
            let hub = Hub::find(&hub.data)?;
            if *json { list::print_json(&hub) } else { list::print_table(&hub) }
        }
        Action::Enable(devices) => each(&devices.ids, &devices.hub, |hub, id| {
            set_status(hub, id, "enabled", None)?;
            print_line(format_args!("enabled {id}"));
            Ok(())
        }),
        Action::Disable { devices, reason } => each(&devices.ids, &devices.hub, |hub, id| {
            set_status(hub, id, "disabled", reason.as_deref())?;
            print_line(format_args!("disabled {id}"));
            Ok(())
        }),
        Action::Delete(devices) => each(&devices.ids, &devices.hub, |hub, id| {
            hub.ask("DELETE", &path(id), &[("If-Match", "*")], None)?;
            print_line(format_args!("deleted {id}"));
            Ok(())
        }),
        Action::Export { file, exclude_keys, hub } => {
            list::export(&Hub::find(&hub.data)?, file, *exclude_keys)
        }
        Action::Import { file, hub } => bulk::import(&Hub::find(&hub.data)?, file),
    }
}

fn path(id: &str) -> String {
    format!("/devices/{}", segment(id))
}

/// All are tried; what went wrong with some is said at the end.
fn each(
    ids: &[String],
    hub: &HubArguments,
    act: impl Fn(&Hub, &str) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let hub = Hub::find(&hub.data)?;
    let failures: Vec<String> =
        ids.iter().filter_map(|id| act(&hub, id).err().map(|error| format!("{id}: {error}"))).collect();
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
            Err(Refusal::Status(412, ..)) if tries < CHANGE_TRIES => {}
            result => return result.map(|_| ()).map_err(CommandError::from),
        }
    }
}
