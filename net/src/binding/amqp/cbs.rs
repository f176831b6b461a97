//! `$cbs`: tokens put by clients, one per audience, renewed at will [Azure: AMQP claims-based security].

use engine::request::{EngineError, Reply, Request, SecretText, UnauthorizedReason};
use net_amqp::{Value, condition};
use registry::{DeviceId, SasToken};

use super::nodes::{Nodes, Ticket};
use super::rpc::{self, Outcome};
use super::turn::{Pending, Turn};
use crate::binding::Transport;
use crate::binding::status::Status;
use crate::binding::token;
use crate::strangers::is_refused_login;
use engine::monitor::Protocol;

/// The token types that are SAS tokens, without case.
const SAS_TYPES: [&str; 2] = ["servicebus.windows.net:sastoken", "azure-devices.net:sastoken"];

/// How a connection's bytes travel, as the engine names it.
pub fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Tls => Protocol::Amqps,
        Transport::WebSocket => Protocol::AmqpsWebSocket,
        Transport::Plain => Protocol::AmqpPlain,
    }
}

/// A request to verify a token, for the partition that can: a device's own token at the device's, a policy's at the hub's.
pub fn authenticate(token: &str, turn: &Turn<'_, '_>) -> Result<Request, UnauthorizedReason> {
    let sas = SasToken::parse(token).map_err(|_| UnauthorizedReason::Malformed)?;
    let partition = token::partition_of(&sas, turn.hub.hub.partition_count)?;
    let protocol = protocol(turn.hub.transport);
    Ok(Request::Authenticate { partition, token: SecretText::new(token), protocol })
}

/// Take a request. The audience is what the token says; the request's `name` is a hint that nobody needs.
pub fn handle_request(
    nodes: &mut Nodes,
    turn: &mut Turn<'_, '_>,
    ticket: Ticket,
    request: &rpc::Request<'_>,
) {
    let refusal = match read(request) {
        Ok(text) => match authenticate(text, turn) {
            Ok(question) => {
                let pending = Pending::PutToken(ticket.clone(), token::claimed_device(text));
                match turn.ask(pending, question) {
                    Ok(()) => return,
                    Err(_) => of_status(&Status::of(&EngineError::Busy)),
                }
            }
            Err(reason) => {
                refuse_login(turn, None);
                of_status(&Status::of(&EngineError::Unauthorized(reason)))
            }
        },
        Err(refusal) => refusal,
    };
    reply(nodes, turn, ticket, &refusal);
}

/// Take the engine's answer to a token.
pub fn handle_reply(
    nodes: &mut Nodes,
    turn: &mut Turn<'_, '_>,
    ticket: Ticket,
    device: Option<DeviceId>,
    answer: Reply,
) {
    let outcome = match answer {
        Reply::Authenticated(grant) => match turn.shared.grants.put(grant, &turn.hub.hub.name) {
            Ok(()) => Outcome::ok(),
            Err(exhausted) => of_status(&Status::new(
                403_005,
                "IotHubMaxCbsTokenExceeded",
                condition::RESOURCE_LIMIT_EXCEEDED,
                format!("{} tokens are the most that one connection may hold", exhausted.count_max),
            )),
        },
        Reply::Failed(error) => {
            if is_refused_login(&error) {
                refuse_login(turn, device);
            }
            of_status(&Status::of(&error))
        }
        _ => Outcome::failed(500, condition::INTERNAL_ERROR, "unexpected answer"),
    };
    reply(nodes, turn, ticket, &outcome);
}

/// A gateway's other devices do not wait for one that fails.
fn refuse_login(turn: &mut Turn<'_, '_>, device: Option<DeviceId>) {
    let may_wait = turn.shared.grants.is_empty();
    turn.hub.refuse_login(device, may_wait);
}

fn reply(nodes: &mut Nodes, turn: &mut Turn<'_, '_>, ticket: Ticket, outcome: &Outcome) {
    let message = rpc::encode_reply(ticket.correlation_id.as_deref(), outcome, net_amqp::value::encode::null);
    nodes.reply(turn, ticket, message);
}

/// The token in a request.
fn read<'a>(request: &rpc::Request<'a>) -> Result<&'a str, Outcome> {
    let malformed = |text: &str| Err(Outcome::failed(400, condition::INVALID_FIELD, text));
    match request.text("operation") {
        Some(operation) if operation.eq_ignore_ascii_case("put-token") => {}
        Some(_) => return malformed("the only operation is put-token"),
        None => return malformed("the application property operation is missing"),
    }
    let Some(kind) = request.text("type") else {
        return malformed("the application property type is missing");
    };
    if !SAS_TYPES.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
        let text = "only SAS tokens are accepted (type servicebus.windows.net:sastoken)";
        return Err(Outcome::failed(401, condition::UNAUTHORIZED_ACCESS, text));
    }
    match request.body {
        Some(Value::String(token)) => Ok(token),
        _ => malformed("the body is to be an AMQP value: the token as a string"),
    }
}

/// A refusal as a reply's status.
pub fn of_status(status: &Status) -> Outcome {
    let description = format!("{}: {}", status.name, status.message);
    Outcome::failed(status.http, status.condition, description)
}
