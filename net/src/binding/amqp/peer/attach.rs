//! What a client asks a link for, and which part of the connection it goes to.

use engine::request::EngineError;
use net_amqp::{Attach, LinkId, LinkRole, SessionId, condition};
use registry::DeviceId;

use super::{Peer, Phase};
use crate::binding::address::{Address, DeviceSegment, Resource};
use crate::binding::amqp::nodes::Node;
use crate::binding::amqp::readers::NO_LISTEN_TEXT;
use crate::binding::amqp::sessions::{Joined, Purpose, unauthorized};
use crate::binding::amqp::turn::Turn;
use crate::binding::status::Status;

impl Peer {
    /// A client asks for a link.
    pub(super) fn handle_attach(
        &mut self,
        turn: &mut Turn<'_, '_>,
        link: LinkId,
        session: SessionId,
        attach: &Attach<'_>,
    ) {
        if self.phase != Phase::Talking {
            return turn.refuse(link, &Status::of(&EngineError::Stopping));
        }
        let source = attach.source.as_ref().and_then(|source| source.address);
        let target = attach.target.as_ref().and_then(|target| target.address);
        let client_sends = attach.role == LinkRole::Sender;
        let text = if client_sends { target } else { source }.unwrap_or_default();
        let event_hub = turn.hub.hub.name.as_str();
        match (Address::parse(text, event_hub), client_sends) {
            (Address::Cbs, _) => self.nodes.attach(turn, Node::Cbs, link, session, attach),
            _ if turn.shared.grants.is_empty() => {
                let text = "Unauthorized access: no token was put to $cbs on this connection";
                let status =
                    Status::new(401_002, "IotHubUnauthorizedAccess", condition::UNAUTHORIZED_ACCESS, text);
                turn.refuse(link, &status);
            }
            (Address::Management, _) => {
                if turn.shared.grants.for_service(&Resource::management(event_hub)).is_some() {
                    self.nodes.attach(turn, Node::Management, link, session, attach);
                } else {
                    turn.refuse_reader(link, condition::UNAUTHORIZED_ACCESS, NO_LISTEN_TEXT);
                }
            }
            (Address::DeviceEvents(device), true) => {
                let joined = self.sessions.attach(turn, link, Purpose::Telemetry, &device);
                joined.into_iter().for_each(|joined| self.accept_joined(turn, joined));
            }
            (Address::DeviceCommands(device), false) => {
                let joined = self.sessions.attach(turn, link, Purpose::Commands, &device);
                joined.into_iter().for_each(|joined| self.accept_joined(turn, joined));
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
            (Address::DeviceTwin(segment), _) => {
                self.attach_of_device(turn, link, session, attach, &segment, Node::Twin);
            }
            // The link for answers comes first and is let in: a Node client whose first link is refused while it asks for the
            // second one keeps its connection for 45 s without sending anything.
            (Address::DeviceMethods(segment), true) => {
                self.attach_of_device(turn, link, session, attach, &segment, Node::Methods);
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

    /// A client asks for a link of a device's own node.
    fn attach_of_device(
        &mut self,
        turn: &mut Turn<'_, '_>,
        link: LinkId,
        session: SessionId,
        attach: &Attach<'_>,
        segment: &DeviceSegment,
        node: fn(DeviceId) -> Node,
    ) {
        let mut candidates = segment.candidates();
        match candidates.find(|device| turn.shared.grants.for_device(device).is_some()) {
            Some(device) => self.nodes.attach(turn, node(device), link, session, attach),
            None => turn.refuse(link, &unauthorized()),
        }
    }

    /// A device's session stands: its link goes to the part of the connection that it is for.
    pub(super) fn accept_joined(&mut self, turn: &mut Turn<'_, '_>, joined: Joined) {
        let Joined { link, purpose, session } = joined;
        match purpose {
            Purpose::Telemetry => self.telemetry.attach(turn, link, session),
            Purpose::Commands => self.outlets.attach_commands(turn, link, session),
        }
    }
}
