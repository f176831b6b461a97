//! What a client asks a link for, and which part of the connection it goes to.

use engine::request::EngineError;
use net_amqp::{Attach, LinkId, LinkRole, condition};
use registry::DeviceId;

use super::{Peer, Phase};
use crate::binding::address::{Address, DeviceSegment, Resource};
use crate::binding::amqp::nodes::Node;
use crate::binding::amqp::readers::NO_LISTEN_TEXT;
use crate::binding::amqp::sessions::{Joined, Purpose};
use crate::binding::amqp::turn::Turn;
use crate::binding::status::Status;

impl Peer {
    /// A client asks for a link.
    pub(super) fn handle_attach(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, attach: &Attach<'_>) {
        if self.phase != Phase::Talking {
            return turn.refuse(link, &Status::of(&EngineError::Stopping));
        }
        let source = attach.source.as_ref().and_then(|source| source.address);
        let target = attach.target.as_ref().and_then(|target| target.address);
        let client_sends = attach.role == LinkRole::Sender;
        let text = if client_sends { target } else { source }.unwrap_or_default();
        let event_hub = turn.hub.hub.name.as_str();
        match (Address::parse(text, event_hub), client_sends) {
            (Address::Cbs, _) => self.nodes.attach(turn, Node::Cbs, link),
            _ if turn.shared.grants.is_empty() => {
                let text = "Unauthorized access: no token was put to $cbs on this connection";
                let status =
                    Status::new(401_002, "IotHubUnauthorizedAccess", condition::UNAUTHORIZED_ACCESS, text);
                turn.refuse(link, &status);
            }
            (Address::Management, _) => {
                if turn.shared.grants.for_service(&Resource::management(event_hub)).is_some() {
                    self.nodes.attach(turn, Node::Management, link);
                } else {
                    turn.refuse_reader(link, condition::UNAUTHORIZED_ACCESS, NO_LISTEN_TEXT);
                }
            }
            (Address::DeviceEvents(device), true) => {
                self.join(turn, link, Purpose::Telemetry, &device);
            }
            (Address::DeviceCommands(device), false) => {
                self.join(turn, link, Purpose::Commands, &device);
            }
            (Address::Commands, true) => self.inlets.attach(turn, link),
            (Address::Receipts, false) => self.outlets.attach_receipts(turn, link),
            (Address::Partition { group, partition }, false) => {
                self.readers.attach(turn, link, attach, (&group, &partition));
            }
            (
                Address::DeviceEvents(_)
                | Address::DeviceCommands(_)
                | Address::Commands
                | Address::Receipts
                | Address::Partition { .. },
                _,
            ) => {
                let text = "the link goes the wrong way for its address";
                turn.refuse(link, &Status::new(400_003, "InvalidOperation", condition::NOT_ALLOWED, text));
            }
            (Address::DeviceTwin(device), _) => {
                self.join(turn, link, Purpose::Twin, &device);
            }
            // The link for answers comes first and is let in: a Node client whose first link is refused while it asks for the
            // second one keeps its connection for 45 s without sending anything.
            (Address::DeviceMethods(device), true) => {
                self.join(turn, link, Purpose::Methods, &device);
            }
            (
                Address::ModuleCommands(_)
                | Address::DeviceMethods(_)
                | Address::DeviceOther(_)
                | Address::ServiceEndpoint,
                _,
            ) => {
                let text = "this hub does not have the endpoint";
                turn.refuse(link, &Status::new(501_001, "NotImplemented", condition::NOT_IMPLEMENTED, text));
            }
            (Address::EventHub, _) => {
                let text = "The event hub takes events from devices alone and is read by partition.";
                turn.refuse_reader(link, condition::NOT_ALLOWED, text);
            }
            (Address::Unknown, _) => {
                let text = turn.not_found_text(text);
                turn.refuse_reader(link, condition::NOT_FOUND, &text);
            }
        }
    }

    /// A device's link joins its session, which may have to be opened first.
    fn join(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, purpose: Purpose, device: &DeviceSegment) {
        let joined = self.sessions.attach(turn, link, purpose, device);
        joined.into_iter().for_each(|joined| self.accept_joined(turn, joined));
    }

    /// A device's session stands: its link goes to the part of the connection that it is for.
    pub(super) fn accept_joined(&mut self, turn: &mut Turn<'_, '_>, joined: Joined) {
        let Joined { link, purpose, session } = joined;
        match purpose {
            Purpose::Telemetry => self.telemetry.attach(turn, link, session),
            Purpose::Commands => self.outlets.attach_commands(turn, link, session),
            Purpose::Twin => self.attach_node(turn, link, Node::Twin),
            Purpose::Methods => self.attach_node(turn, link, Node::Methods),
        }
    }

    fn attach_node(&mut self, turn: &mut Turn<'_, '_>, link: LinkId, node: fn(DeviceId) -> Node) {
        if let Some(device) = self.sessions.device_of(link) {
            self.nodes.attach(turn, node(device.clone()), link);
        }
    }
}
