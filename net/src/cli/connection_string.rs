//! `corehub connection-string`: one connection string, alone on stdout.

use clap::Args;
use serde_json::Value;

use super::https::{Hub, segment};
use super::{CommandError, HubArguments, print_line};

/// The port that clients take where the string names none.
const AMQPS_PORT_DEFAULT: u16 = 5671;

/// The policy of service connection strings: it may do everything.
const SERVICE_POLICY: &str = "iothubowner";

/// The policy of Event Hubs connection strings: readers need no more.
const EVENT_HUB_POLICY: &str = "service";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    hub: HubArguments,
    /// Of this policy [default: iothubowner; with --event-hub: service]
    #[arg(long, value_name = "NAME", conflicts_with = "device")]
    policy: Option<String>,
    /// Of this device
    #[arg(long, value_name = "ID", conflicts_with = "event_hub")]
    device: Option<String>,
    /// For Event Hubs clients
    #[arg(long)]
    event_hub: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let hub = Hub::find(&arguments.hub.data)?;
    let host = hub.info.hosts.first().map_or("localhost", String::as_str);
    print_line(match &arguments.device {
        Some(id) => {
            let device = hub.ask("GET", &format!("/devices/{}", segment(id)), &[], None)?.body;
            let key = text(&device, "/authentication/symmetricKey/primaryKey")?;
            format!("HostName={host};DeviceId={id};SharedAccessKey={key}")
        }
        None => {
            let default = if arguments.event_hub { EVENT_HUB_POLICY } else { SERVICE_POLICY };
            let name = arguments.policy.as_deref().unwrap_or(default);
            let policy = hub.ask("GET", &format!("/policies/{}", segment(name)), &[], None)?.body;
            let (name, key) = (text(&policy, "/keyName")?, text(&policy, "/primaryKey")?);
            if arguments.event_hub {
                let port = hub.info.amqps.first().map_or(AMQPS_PORT_DEFAULT, |address| address.port());
                event_hub_string(host, port, name, key, &hub.info.name)
            } else {
                format!("HostName={host};SharedAccessKeyName={name};SharedAccessKey={key}")
            }
        }
    });
    Ok(())
}

fn event_hub_string(host: &str, port: u16, policy: &str, key: &str, hub: &str) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let port = if port == AMQPS_PORT_DEFAULT { String::new() } else { format!(":{port}") };
    format!("Endpoint=sb://{host}{port}/;SharedAccessKeyName={policy};SharedAccessKey={key};EntityPath={hub}")
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str, CommandError> {
    let missing = || CommandError::new("the hub's answer lacks what was asked for");
    value.pointer(pointer).and_then(Value::as_str).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_hub_strings_name_a_port_only_where_clients_would_guess_wrong() {
        assert_eq!(
            event_hub_string("hub.example", 5671, "service", "a2V5", "plant"),
            "Endpoint=sb://hub.example/;SharedAccessKeyName=service;SharedAccessKey=a2V5;EntityPath=plant"
        );
        assert!(event_hub_string("::1", 15671, "p", "k", "h").starts_with("Endpoint=sb://[::1]:15671/;"));
    }
}
