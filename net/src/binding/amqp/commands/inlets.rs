//! Links to `/messages/devicebound`: commands of back ends, each accepted once it is durable in its device's queue.
//!
//! A command that the engine has no room for is rejected as throttled at once: asked again later it could be overtaken by
//! a later command to the same device.

use engine::request::{CommandDraft, EngineError, Reply, Request};
use net_amqp::{AttachReply, DeliveryState, LinkId, condition};
use registry::DeviceId;

use crate::binding::address::Resource;
use crate::binding::amqp::LinkMap;
use crate::binding::amqp::limits::{
    COMMAND_CREDIT, ENQUEUE_BYTES_MAX, ENQUEUE_WAITING_MAX, MESSAGE_BYTES_MAX,
};
use crate::binding::amqp::sessions::{expired_status, refusal};
use crate::binding::amqp::telemetry::Delivery;
use crate::binding::amqp::turn::{Pending, Turn, busy};
use crate::binding::command::{CommandError, CommandMessage};
use crate::binding::status::Status;

/// A command that waits for its answer.
#[derive(Debug)]
pub struct EnqueueTicket {
    delivery: Delivery,
    /// Bytes of its message.
    bytes: usize,
    again: Option<Again>,
}

/// What it takes to ask for the next reading of the device's id.
#[derive(Debug)]
struct Again {
    payload: Vec<u8>,
    rest: Vec<DeviceId>,
}

/// All links on which commands come in.
#[derive(Debug, Default)]
pub struct Inlets {
    links: LinkMap<Inlet>,
    /// Commands that wait for their answer, and their bytes.
    waiting_count: usize,
    waiting_bytes: usize,
}

#[derive(Debug)]
struct Inlet {
    credit: u32,
    /// Commands without an answer.
    open_count: u32,
}

impl Inlets {
    /// A back end wants to send commands.
    pub fn attach(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        if !may_send(turn) {
            let text = "Unauthorized access: no token of this connection has the right ServiceConnect";
            let status =
                Status::new(401_002, "IotHubUnauthorizedAccess", condition::UNAUTHORIZED_ACCESS, text);
            return turn.refuse(link, &status);
        }
        let reply = AttachReply { max_message_bytes: Some(MESSAGE_BYTES_MAX), ..AttachReply::default() };
        if turn.connection.accept_link(link, &reply, turn.output) {
            turn.connection.grant(link, COMMAND_CREDIT, turn.output);
            self.links.insert(link, Inlet { credit: COMMAND_CREDIT, open_count: 0 });
        }
    }

    /// A delivery came in. False: its link is not one for commands.
    pub fn handle_transfer(
        &mut self,
        turn: &mut Turn<'_, '_>,
        delivery: Delivery,
        message_format: u32,
        payload: &[u8],
    ) -> bool {
        let Some(inlet) = self.links.get_mut(&delivery.link) else { return false };
        inlet.credit = inlet.credit.saturating_sub(1);
        inlet.open_count += 1;
        if message_format != 0 {
            let text = format!("message format {message_format:#x}: a command is sent by itself");
            let status = Status::new(400_003, "InvalidOperation", condition::NOT_IMPLEMENTED, text);
            self.reject(turn, delivery, &status);
            return true;
        }
        let candidates = match CommandMessage::parse(payload, &turn.hub.hub.name) {
            Ok(message) => message.device.candidates().collect(),
            Err(error) => {
                self.reject(turn, delivery, &error.status());
                return true;
            }
        };
        self.enqueue(turn, delivery, payload, candidates);
        true
    }

    /// Ask for the command to be enqueued for the first of `candidates`.
    fn enqueue(
        &mut self,
        turn: &mut Turn<'_, '_>,
        delivery: Delivery,
        payload: &[u8],
        mut candidates: Vec<DeviceId>,
    ) {
        if candidates.is_empty() {
            return self.reject(turn, delivery, &Status::of(&EngineError::DeviceNotFound));
        }
        let device = candidates.remove(0);
        let draft = match draft(turn, device, payload) {
            Ok(draft) => draft,
            Err(error) => return self.reject(turn, delivery, &error.status()),
        };
        let again = (!candidates.is_empty()).then(|| Again { payload: payload.to_vec(), rest: candidates });
        let bytes = draft.message.len() + again.as_ref().map_or(0, |again| again.payload.len());
        let ticket = EnqueueTicket { delivery, bytes, again };
        match turn.ask(Pending::Enqueue(Box::new(ticket)), Request::EnqueueCommand(draft)) {
            Ok(()) => {
                self.waiting_count += 1;
                self.waiting_bytes += bytes;
            }
            Err(_) => self.reject(turn, delivery, &busy()),
        }
    }

    /// The engine's answer to a command.
    pub fn handle_enqueued(&mut self, turn: &mut Turn<'_, '_>, ticket: EnqueueTicket, answer: Reply) {
        let EnqueueTicket { delivery, bytes, again } = ticket;
        self.waiting_count -= 1;
        self.waiting_bytes -= bytes;
        match (answer, again) {
            (Reply::Done, _) => self.accept(turn, delivery),
            (Reply::Failed(EngineError::DeviceNotFound), Some(again))
                if self.links.contains_key(&delivery.link) =>
            {
                self.enqueue(turn, delivery, &again.payload, again.rest);
            }
            (answer, _) => self.reject(turn, delivery, &Status::of(&refusal(answer))),
        }
    }

    fn accept(&mut self, turn: &mut Turn<'_, '_>, delivery: Delivery) {
        self.settle(turn, delivery, &DeliveryState::Accepted);
    }

    fn reject(&mut self, turn: &mut Turn<'_, '_>, delivery: Delivery, status: &Status) {
        let state = DeliveryState::Rejected(Some(turn.error(status)));
        self.settle(turn, delivery, &state);
    }

    /// Answer a delivery, and let its sender send on.
    fn settle(&mut self, turn: &mut Turn<'_, '_>, delivery: Delivery, state: &DeliveryState<'_>) {
        let Delivery { link, delivery_id, settled } = delivery;
        let Some(inlet) = self.links.get_mut(&link) else { return };
        inlet.open_count = inlet.open_count.saturating_sub(1);
        if !settled {
            turn.connection.settle(link, delivery_id, delivery_id, state, true, turn.output);
        }
        inlet.grant(turn, link);
    }

    /// The peer gave up a delivery half way.
    pub fn handle_aborted(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        if let Some(inlet) = self.links.get_mut(&link) {
            inlet.credit = inlet.credit.saturating_sub(1);
            inlet.grant(turn, link);
        }
    }

    /// Detach every link if the right to send commands is gone.
    pub fn handle_expiry(&mut self, turn: &mut Turn<'_, '_>) {
        if !may_send(turn) {
            let links = std::mem::take(&mut self.links);
            for &link in links.keys() {
                turn.detach(link, &expired_status());
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// A link is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    /// Every link.
    pub fn all_links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.keys().copied()
    }

    /// Whether more commands are welcome.
    pub fn has_room(&self) -> bool {
        self.waiting_count < ENQUEUE_WAITING_MAX && self.waiting_bytes < ENQUEUE_BYTES_MAX
    }

    /// Whether a command waits for its answer.
    pub fn is_waiting(&self) -> bool {
        self.waiting_count > 0
    }
}

impl Inlet {
    /// Renew the credit once half of it is used up and answered.
    fn grant(&mut self, turn: &mut Turn<'_, '_>, link: LinkId) {
        let credit = COMMAND_CREDIT.saturating_sub(self.open_count);
        if credit.saturating_sub(self.credit) >= COMMAND_CREDIT / 2 {
            self.credit = credit;
            turn.connection.grant(link, credit, turn.output);
        }
    }
}

fn may_send(turn: &Turn<'_, '_>) -> bool {
    turn.shared.grants.for_service(&Resource::commands(&turn.hub.hub.name)).is_some()
}

fn draft(turn: &Turn<'_, '_>, device: DeviceId, payload: &[u8]) -> Result<CommandDraft, CommandError> {
    let command = CommandMessage::parse(payload, &turn.hub.hub.name)?;
    let message = command.encode(&device)?;
    let expires_ms = command.expires_ms(turn.hub.now.wall_ms);
    Ok(CommandDraft { device, message, message_id: command.message_id, ack: command.ack, expires_ms })
}
