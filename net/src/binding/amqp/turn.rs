//! What one call works with: the protocol machine, the way to the engine, and what all parts of a connection share.

use std::collections::VecDeque;

use engine::door::Busy;
use engine::request::{Caller, EngineError, Request};
use net_amqp::{Connection, Error, LinkId};
use registry::DeviceId;

use super::grants::Grants;
use super::limits::GRANT_COUNT_MAX;
use super::nodes::Ticket;
use super::pending::PendingTable;
use super::sasl::Plain;
use crate::binding::Context;
use crate::binding::status::{self, Status};

/// A request of this connection that waits for its answer.
#[derive(Debug)]
pub enum Pending {
    /// A SASL PLAIN login. The rest are readings of the user name that were not tried yet.
    Login {
        /// What the client presented.
        plain: Plain,
        /// The candidates of the user name that are left, for keys.
        rest: Vec<DeviceId>,
    },
    /// A token was put to `$cbs`.
    PutToken(Ticket, Option<DeviceId>),
    /// The token inside a management request; then the request itself.
    ManagementToken(Ticket, super::management::Operation),
    /// A management request about a partition.
    Description(Ticket),
    /// A device's session.
    OpenSession(DeviceId),
    /// A receiver's consumer group.
    FindGroup(LinkId),
    /// A receiver's reader.
    OpenReader(LinkId),
    /// Events for a receiver.
    Read(LinkId),
    /// A receiver's checkpoint.
    PutCheckpoint(LinkId),
    /// A command to enqueue.
    Enqueue(Box<super::commands::EnqueueTicket>),
    /// The receiver of an outlet's source.
    OpenReceiver(LinkId, u16),
    /// Commands or receipts for an outlet's source.
    Receive(LinkId, u16),
    /// What an outlet's peer said of a delivery.
    Settle(LinkId, u32),
}

/// What all parts of a connection share.
#[derive(Debug)]
pub struct Shared {
    /// What the connection's tokens allow.
    pub grants: Grants,
    /// Requests that wait for their answer.
    pub pending: PendingTable<Pending>,
    /// Requests whose answer nobody waits for and that met a full engine; they must not be lost. At most a few per session,
    /// reader and receiver, and one for each lock of an outlet.
    unsent: VecDeque<Request>,
    /// Something met a full engine and has to be asked again.
    pub must_retry: bool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            grants: Grants::new(GRANT_COUNT_MAX),
            pending: PendingTable::default(),
            unsent: VecDeque::new(),
            must_retry: false,
        }
    }
}

/// One call.
pub struct Turn<'t, 'h> {
    /// The protocol machine.
    pub connection: &'t mut Connection,
    /// Where its words go.
    pub output: &'t mut Vec<u8>,
    /// The world.
    pub hub: &'t mut Context<'h>,
    /// What the parts share.
    pub shared: &'t mut Shared,
}

impl Turn<'_, '_> {
    /// Ask the engine; the answer finds `pending` again.
    pub fn ask(&mut self, pending: Pending, request: Request) -> Result<(), Busy> {
        let token = self.shared.pending.insert(pending);
        let result = self.hub.door.ask(Caller { connection: self.hub.connection, token }, request);
        if result.is_err() {
            self.shared.pending.remove(token);
        }
        result
    }

    /// Tell the engine something that has no answer, or none that anybody waits for, now or as soon as there is room.
    pub fn tell(&mut self, request: Request) {
        self.shared.unsent.push_back(request);
        self.send_unsent();
    }

    /// Ask again for what met a full engine.
    pub fn send_unsent(&mut self) {
        let caller = Caller { connection: self.hub.connection, token: u64::MAX };
        while let Some(request) = self.shared.unsent.front() {
            if self.hub.door.ask(caller, request.clone()).is_err() {
                self.shared.must_retry = true;
                return;
            }
            self.shared.unsent.pop_front();
        }
    }

    /// Refuse an attach as IoT Hub does.
    pub fn refuse(&mut self, link: LinkId, status: &Status) {
        let error = self.error(status);
        self.connection.refuse_link(link, &error, self.output);
    }

    /// Refuse an attach as Event Hubs does: with plain text.
    pub fn refuse_reader(&mut self, link: LinkId, condition: &'static str, text: &str) {
        let error = Error::new(condition, self.event_hubs_text(text));
        self.connection.refuse_link(link, &error, self.output);
    }

    /// Detach a link as IoT Hub does.
    pub fn detach(&mut self, link: LinkId, status: &Status) {
        let error = self.error(status);
        self.connection.detach(link, Some(&error), self.output);
    }

    /// Detach a link as Event Hubs does.
    pub fn detach_reader(&mut self, link: LinkId, condition: &'static str, text: &str) {
        let error = Error::new(condition, self.event_hubs_text(text));
        self.connection.detach(link, Some(&error), self.output);
    }

    /// A status as an AMQP error with IoT Hub's description.
    pub fn error(&self, status: &Status) -> Error<'static> {
        Error::new(status.condition, status.description(self.hub.connection, self.hub.now.wall_ms))
    }

    /// A text of Event Hubs with what stands behind each of them.
    fn event_hubs_text(&self, text: &str) -> String {
        let wall_ms = self.hub.now.wall_ms;
        format!(
            "{text} TrackingId:{}_G0, SystemTracker:{}, Timestamp:{}",
            status::tracking_id(self.hub.connection, wall_ms),
            self.hub.hub.name,
            status::iso_time(wall_ms),
        )
    }

    /// What Event Hubs clients look for when something does not exist.
    pub fn not_found_text(&self, address: &str) -> String {
        let host = self.hub.hub.host_names.first().map_or("", String::as_str);
        let path = address.trim_start_matches('/');
        format!("The messaging entity 'sb://{host}/{path}' could not be found.")
    }
}

/// The status of a request that found no room.
pub fn busy() -> Status {
    Status::of(&EngineError::Busy)
}
