//! `$management`: what the event hub and its partitions hold [Event Hubs: AMQP management].

use engine::request::{EngineError, Grant, PartitionId, PartitionStatus, Principal, Reply, Request};
use net_amqp::condition;
use net_amqp::value::encode;
use registry::Rights;

use super::cbs::{authenticate, of_status};
use super::delivery::last_number;
use super::nodes::{Nodes, Ticket};
use super::rpc::{self, Outcome};
use super::turn::{Pending, Turn};
use crate::binding::address::{Address, Resource};
use crate::binding::status::Status;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `READ` of `com.microsoft:eventhub`.
    DescribeEventHub,
    /// `READ` of `com.microsoft:partition`.
    DescribePartition(PartitionId),
}

/// Take a request. A token inside it is verified first; without one the link's own right counts.
pub fn handle_request(
    nodes: &mut Nodes,
    turn: &mut Turn<'_, '_>,
    ticket: Ticket,
    request: &rpc::Request<'_>,
) {
    let operation = match read(request, turn) {
        Ok(operation) => operation,
        Err(outcome) => return fail(nodes, turn, ticket, &outcome),
    };
    let Some(token) = request.text("security_token") else { return perform(nodes, turn, ticket, operation) };
    let question = match authenticate(token, turn) {
        Ok(question) => question,
        Err(reason) => {
            let outcome = of_status(&Status::of(&EngineError::Unauthorized(reason)));
            return fail(nodes, turn, ticket, &outcome);
        }
    };
    if turn.ask(Pending::ManagementToken(ticket.clone(), operation), question).is_err() {
        fail(nodes, turn, ticket, &busy());
    }
}

/// Take the engine's answer about the token of a request.
pub fn handle_token(
    nodes: &mut Nodes,
    turn: &mut Turn<'_, '_>,
    ticket: Ticket,
    operation: Operation,
    answer: Reply,
) {
    match answer {
        Reply::Authenticated(grant) if allows(&grant, &turn.hub.hub.name) => {
            perform(nodes, turn, ticket, operation);
        }
        Reply::Failed(error) => fail(nodes, turn, ticket, &of_status(&Status::of(&error))),
        _ => {
            let text = "Unauthorized access. 'Listen' claim(s) are required to perform this operation.";
            fail(nodes, turn, ticket, &Outcome::failed(401, condition::UNAUTHORIZED_ACCESS, text));
        }
    }
}

/// Take the engine's answer about a partition.
pub fn handle_description(nodes: &mut Nodes, turn: &mut Turn<'_, '_>, ticket: Ticket, answer: Reply) {
    match answer {
        Reply::PartitionStatus(status) => {
            let name = &turn.hub.hub.name;
            let message = rpc::encode_reply(ticket.correlation_id.as_deref(), &Outcome::ok(), |out| {
                encode_partition(name, &status, out);
            });
            nodes.reply(turn, ticket, message);
        }
        Reply::Failed(error) => fail(nodes, turn, ticket, &of_status(&Status::of(&error))),
        _ => {
            let outcome = Outcome::failed(500, condition::INTERNAL_ERROR, "unexpected answer");
            fail(nodes, turn, ticket, &outcome);
        }
    }
}

fn allows(grant: &Grant, event_hub: &str) -> bool {
    let is_service = matches!(&grant.principal, Principal::Policy { rights, .. } if rights.contains(Rights::SERVICE_CONNECT));
    let granted = Resource::from_segments(&grant.resource, event_hub);
    let wanted = Resource::management(event_hub);
    // Clients sign the token inside a request for the event hub, or for the node itself.
    is_service && wanted.segments().starts_with(granted.segments())
}

fn read(request: &rpc::Request<'_>, turn: &Turn<'_, '_>) -> Result<Operation, Outcome> {
    let bad = |text: &str| Outcome::failed(400, condition::NOT_ALLOWED, text);
    match request.text("operation") {
        Some(operation) if operation.eq_ignore_ascii_case("READ") => {}
        _ => return Err(bad("the only operation is READ")),
    }
    let hub = turn.hub.hub;
    let name = request.text("name").unwrap_or_default();
    if !matches!(Address::parse(name, &hub.name), Address::EventHub) {
        return Err(Outcome::failed(404, condition::NOT_FOUND, turn.not_found_text(name)));
    }
    match request.text("type") {
        Some("com.microsoft:eventhub") => Ok(Operation::DescribeEventHub),
        Some("com.microsoft:partition") => {
            let text = request.text("partition").unwrap_or_default();
            match text.parse::<u16>() {
                Ok(number) if number < hub.partition_count => {
                    Ok(Operation::DescribePartition(PartitionId(number)))
                }
                _ => {
                    let text = turn.not_found_text(&format!("{name}/Partitions/{text}"));
                    Err(Outcome::failed(404, condition::NOT_FOUND, text))
                }
            }
        }
        _ => Err(bad("the type is com.microsoft:eventhub or com.microsoft:partition")),
    }
}

fn perform(nodes: &mut Nodes, turn: &mut Turn<'_, '_>, ticket: Ticket, operation: Operation) {
    match operation {
        Operation::DescribeEventHub => {
            let hub = turn.hub.hub;
            let message = rpc::encode_reply(ticket.correlation_id.as_deref(), &Outcome::ok(), |out| {
                encode_event_hub(&hub.name, hub.created_ms, hub.partition_count, out);
            });
            nodes.reply(turn, ticket, message);
        }
        Operation::DescribePartition(partition) => {
            let question = Request::DescribePartition { partition };
            if turn.ask(Pending::Description(ticket.clone()), question).is_err() {
                fail(nodes, turn, ticket, &busy());
            }
        }
    }
}

fn fail(nodes: &mut Nodes, turn: &mut Turn<'_, '_>, ticket: Ticket, outcome: &Outcome) {
    let message = rpc::encode_reply(ticket.correlation_id.as_deref(), outcome, encode::null);
    nodes.reply(turn, ticket, message);
}

/// Event Hubs clients try again after this.
fn busy() -> Outcome {
    Outcome::failed(503, condition::MS_SERVER_BUSY, "the hub is busy")
}

fn encode_event_hub(name: &str, created_ms: u64, partition_count: u16, out: &mut Vec<u8>) {
    let ids: Vec<String> = (0..partition_count).map(|number| number.to_string()).collect();
    let map = encode::begin_map(out);
    encode::string(out, "name");
    encode::string(out, name);
    encode::string(out, "type");
    encode::string(out, "com.microsoft:eventhub");
    encode::string(out, "created_at");
    encode::timestamp(out, created_ms as i64);
    encode::string(out, "partition_count");
    encode::int(out, partition_count.into());
    encode::string(out, "partition_ids");
    encode::string_array(out, ids.iter().map(String::as_str));
    map.end(out, 10);
}

fn encode_partition(name: &str, status: &PartitionStatus, out: &mut Vec<u8>) {
    let last = last_number(status);
    let map = encode::begin_map(out);
    encode::string(out, "name");
    encode::string(out, name);
    encode::string(out, "type");
    encode::string(out, "com.microsoft:partition");
    encode::string(out, "partition");
    encode::string(out, &status.partition.0.to_string());
    encode::string(out, "begin_sequence_number");
    encode::long(out, status.first.0 as i64);
    encode::string(out, "last_enqueued_sequence_number");
    encode::long(out, last);
    encode::string(out, "last_enqueued_offset");
    encode::string(out, &last.to_string());
    encode::string(out, "last_enqueued_time_utc");
    encode::timestamp(out, status.last_enqueued_ms as i64);
    encode::string(out, "is_partition_empty");
    encode::boolean(out, status.first == status.next);
    map.end(out, 16);
}
