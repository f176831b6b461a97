//! `corehub policy`: shared access policies and their keys.

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use serde_json::{Value, json};

use super::https::Hub;
use super::{CommandError, HubArguments, Named, print_line};

const COLLECTION: &str = "policies";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List policies and their rights
    List(HubArguments),
    /// Create a policy with new keys, or change the rights of one
    Create {
        #[command(flatten)]
        policy: Named,
        /// RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect; several with commas between them
        #[arg(long, value_name = "RIGHTS")]
        rights: String,
    },
    /// Replace a key; whatever is connected by the policy is cut off and has to come again
    Renew {
        #[command(flatten)]
        policy: Named,
        /// Which key
        #[arg(long, value_enum)]
        key: Key,
    },
    /// Delete a policy; whatever is connected by it is cut off
    Delete(Named),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Key {
    Primary,
    Secondary,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    match &arguments.action {
        Action::List(hub) => {
            let policies = Hub::find(&hub.data)?.ask("GET", "/policies", &[], None)?.body;
            let text = |policy: &Value, name: &str| policy[name].as_str().unwrap_or_default().to_owned();
            let mut table = Table::new();
            table.load_style(comfy_table::presets::NOTHING);
            table.set_header(["POLICY", "RIGHTS"]);
            for policy in policies.as_array().into_iter().flatten() {
                table.add_row([text(policy, "keyName"), text(policy, "rights")]);
            }
            print_line(table.trim_fmt());
        }
        Action::Create { policy, rights } => {
            policy.ask("PUT", COLLECTION, "", Some(&json!({ "rights": rights })))?;
            print_line(format_args!("created {}", policy.name));
        }
        Action::Renew { policy, key } => {
            let key = match key {
                Key::Primary => "primaryKey",
                Key::Secondary => "secondaryKey",
            };
            policy.ask("POST", COLLECTION, "/keys/regenerate", Some(&json!({ "policyKey": key })))?;
            print_line(format_args!("renewed {}", policy.name));
        }
        Action::Delete(policy) => {
            policy.ask("DELETE", COLLECTION, "", None)?;
            print_line(format_args!("deleted {}", policy.name));
        }
    }
    Ok(())
}
