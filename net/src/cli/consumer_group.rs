//! `corehub consumer-group`: create, list and delete consumer groups.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::https::Hub;
use super::{CommandError, HubArguments, Named, print_line};

const COLLECTION: &str = "consumerGroups";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create a consumer group
    Create(Named),
    /// List consumer groups
    List(HubArguments),
    /// Delete a consumer group with its checkpoints
    Delete(Named),
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    match &arguments.action {
        Action::Create(group) => {
            group.ask("PUT", COLLECTION, "", None)?;
            print_line(format_args!("created {}", group.name));
        }
        Action::Delete(group) => {
            group.ask("DELETE", COLLECTION, "", None)?;
            print_line(format_args!("deleted {}", group.name));
        }
        Action::List(hub) => {
            let groups = Hub::find(&hub.data)?.ask("GET", "/consumerGroups", &[], None)?.body;
            for group in groups.as_array().into_iter().flatten() {
                print_line(group.get("name").and_then(Value::as_str).unwrap_or_default());
            }
        }
    }
    Ok(())
}
