//! `corehub job`: import and export of all identities as jobs of the hub.

use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::Table;
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde_json::{Value, json};

use super::https::{Hub, segment};
use super::{CommandError, HubArguments, OrFail, print_line};

/// How often a job is looked at.
const POLL: Duration = Duration::from_millis(200);

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create, update and delete devices as CONTAINER/devices.txt says; what is refused goes to CONTAINER/importErrors.log
    Import {
        /// A directory below the hub's directory for jobs
        #[arg(value_name = "CONTAINER")]
        container: String,
        #[command(flatten)]
        started: Started,
    },
    /// Write all devices, with their keys, to CONTAINER/devices.txt
    Export {
        /// A directory below the hub's directory for jobs; made where it is missing
        #[arg(value_name = "CONTAINER")]
        container: String,
        /// Without keys: devices imported from it get new ones
        #[arg(long)]
        exclude_keys: bool,
        #[command(flatten)]
        started: Started,
    },
    /// List jobs, the newest first
    List {
        #[command(flatten)]
        hub: HubArguments,
        /// As a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show a job as JSON
    Show(Job),
    /// End a job that has not ended
    Cancel(Job),
}

#[derive(Args, Debug)]
struct Started {
    /// Wait for the job's end, and fail if it does
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    hub: HubArguments,
}

#[derive(Args, Debug)]
struct Job {
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    hub: HubArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    match &arguments.action {
        Action::Import { container, started } => start(
            started,
            &json!({ "type": "import", "inputBlobContainerUri": container, "outputBlobContainerUri": container }),
        ),
        Action::Export { container, exclude_keys, started } => start(
            started,
            &json!({ "type": "export", "outputBlobContainerUri": container, "excludeKeysInExport": exclude_keys }),
        ),
        Action::List { hub, json } => {
            let jobs = Hub::find(&hub.data)?.ask("GET", "/jobs", &[], None)?.body;
            if *json {
                print_line(serde_json::to_string_pretty(&jobs).or_fail()?);
                return Ok(());
            }
            let mut table = Table::new();
            table.load_style(comfy_table::presets::NOTHING);
            table.set_header(["JOB", "TYPE", "STATUS", "PROGRESS", "DEVICES", "REFUSED", "STARTED"]);
            for job in jobs.as_array().map_or(&[][..], Vec::as_slice) {
                let fields =
                    ["jobId", "type", "status", "progress", "deviceCount", "refusedCount", "startTimeUtc"];
                table.add_row(fields.map(|name| text(&job[name])));
            }
            print_line(table.trim_fmt());
            Ok(())
        }
        Action::Show(Job { id, hub }) => {
            let job = Hub::find(&hub.data)?.ask("GET", &path(id), &[], None)?.body;
            print_line(serde_json::to_string_pretty(&job).or_fail()?);
            Ok(())
        }
        Action::Cancel(Job { id, hub }) => {
            Hub::find(&hub.data)?.ask("DELETE", &path(id), &[], None)?;
            print_line(format_args!("cancelled {id}"));
            Ok(())
        }
    }
}

fn start(started: &Started, body: &Value) -> Result<(), CommandError> {
    let hub = Hub::find(&started.hub.data)?;
    let mut job = hub.ask("POST", "/jobs/create", &[], Some(body))?.body;
    let id = text(&job["jobId"]);
    if !started.wait {
        print_line(id);
        return Ok(());
    }
    let bar = ProgressBar::new(100);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    while matches!(job["status"].as_str(), Some("enqueued" | "running")) {
        bar.set_position(job["progress"].as_u64().unwrap_or_default());
        std::thread::sleep(POLL);
        job = hub.ask("GET", &path(&id), &[], None)?.body;
    }
    bar.finish_and_clear();
    let (status, done) = (text(&job["status"]), text(&job["deviceCount"]));
    print_line(format_args!("{id} {status}: {done} devices, {} refused", text(&job["refusedCount"])));
    match status.as_str() {
        "completed" => Ok(()),
        _ => Err(CommandError::new(format!("the job {status}: {}", text(&job["failureReason"])))),
    }
}

fn path(id: &str) -> String {
    format!("/jobs/{}", segment(id))
}

/// A text without its quotes.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
