//! `corehub consumer-group`: create, list and delete consumer groups.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::https::{Hub, segment};
use super::{CommandError, HubArguments, print_line};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Create a consumer group
    Create(One),
    /// List consumer groups
    List(HubArguments),
    /// Delete a consumer group with its checkpoints
    Delete(One),
}

#[derive(Args, Debug)]
struct One {
    /// The group's name
    name: String,
    #[command(flatten)]
    hub: HubArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    match &arguments.action {
        Action::Create(one) => {
            ask(one, "PUT")?;
            print_line(format_args!("created {}", one.name));
        }
        Action::Delete(one) => {
            ask(one, "DELETE")?;
            print_line(format_args!("deleted {}", one.name));
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

fn ask(one: &One, method: &str) -> Result<(), CommandError> {
    let path = format!("/consumerGroups/{}", segment(&one.name));
    Hub::find(&one.hub.data)?.ask(method, &path, &[], None)?;
    Ok(())
}
