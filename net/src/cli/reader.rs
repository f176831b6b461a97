//! An Event Hubs reader of some partitions over one connection, as a machine: `net-amqp` in the client's role.

use std::sync::Arc;

use net_amqp::sasl::plain_response;
use net_amqp::value::encode;
use net_amqp::value::{Descriptor, Map};
use net_amqp::{
    AttachRequest, Config, Connection, Event, Inbound, LinkId, ReceiverSettleMode, Role, SaslRole,
    SenderSettleMode, Source,
};

use super::talk::words;

/// Events that each partition may send ahead.
const CREDIT: u32 = 300;

/// Descriptor of a selector filter, as Event Hubs clients send it.
const SELECTOR_FILTER: &str = "apache.org:selector-filter:string";

/// Longest event that is taken: the hub's own limit with its stamps.
const EVENT_BYTES_MAX: u64 = 1024 * 1024;

/// What to read, and as whom.
pub(super) struct Plan {
    /// The event hub's name.
    pub(super) hub: String,
    /// The consumer group.
    pub(super) group: String,
    /// The partitions.
    pub(super) partitions: Vec<u16>,
    /// The text of the selector: where to start.
    pub(super) selector: String,
    /// The policy that reads.
    pub(super) policy: String,
    /// Its key's text.
    pub(super) key: String,
}

/// The reader. Secrets are in its connection's settings, so it has no `Debug`.
pub(super) struct Reader {
    plan: Plan,
    connection: Connection,
    inbound: Inbound,
    links: Vec<(LinkId, u16)>,
}

impl Reader {
    /// Begin; `output` is what to send first.
    pub(super) fn start(plan: Plan, now_ms: u64, output: &mut Vec<u8>) -> Self {
        let config = Config {
            container_id: "corehub-monitor".into(),
            hostname: Some(plan.hub.clone()),
            message_bytes_max: EVENT_BYTES_MAX,
            sasl: SaslRole::Choose { mechanism: "PLAIN", response: plain_response(&plan.policy, &plan.key) },
            ..Config::default()
        };
        let mut connection = Connection::new(Role::Client, Arc::new(config), now_ms);
        connection.start(output);
        Self { plan, connection, inbound: Inbound::default(), links: Vec::new() }
    }

    /// Take what came from the hub; each event goes to `receive`, with its partition and as a whole message.
    ///
    /// # Errors
    ///
    /// The hub's words, once the connection or a link has ended.
    pub(super) fn handle(
        &mut self,
        mut input: &[u8],
        output: &mut Vec<u8>,
        now_ms: u64,
        mut receive: impl FnMut(u16, &[u8]),
    ) -> Result<(), String> {
        loop {
            let event = self.connection.handle(&mut self.inbound, &mut input, output, now_ms);
            let Some(event) = event.map_err(|closed| words(&closed.error))? else { return Ok(()) };
            match event {
                Event::Opened(_) => {
                    self.connection.begin(output);
                }
                Event::Begun { session } => {
                    for partition in self.plan.partitions.clone() {
                        let link = attach(&mut self.connection, session, &self.plan, partition, output);
                        self.links.extend(link.map(|link| (link, partition)));
                    }
                }
                Event::Attached { link, attach, .. } if attach.source.is_some() => {
                    self.connection.grant(link, CREDIT, output);
                }
                Event::Transfer { link, payload, .. } => {
                    if let Some((_, partition)) = self.links.iter().find(|(known, _)| *known == link) {
                        receive(*partition, payload);
                    }
                    if self.connection.credit(link) <= CREDIT / 2 {
                        self.connection.grant(link, CREDIT, output);
                    }
                }
                Event::Detached { error, .. } | Event::Ended { error, .. } | Event::Closed { error } => {
                    return Err(
                        error.map_or_else(|| "the hub ended the connection".into(), |error| words(&error))
                    );
                }
                _ => {}
            }
        }
    }

    /// When to call [`handle_timeout`](Reader::handle_timeout).
    pub(super) fn next_timeout_ms(&self) -> Option<u64> {
        self.connection.next_timeout_ms()
    }

    /// Heartbeats, and the end of a hub that is silent.
    ///
    /// # Errors
    ///
    /// As for [`handle`](Reader::handle).
    pub(super) fn handle_timeout(&mut self, now_ms: u64, output: &mut Vec<u8>) -> Result<(), String> {
        self.connection.handle_timeout(now_ms, output).map_err(|closed| words(&closed.error))
    }
}

fn attach(
    connection: &mut Connection,
    session: net_amqp::SessionId,
    plan: &Plan,
    partition: u16,
    output: &mut Vec<u8>,
) -> Option<LinkId> {
    let address = format!("{}/ConsumerGroups/{}/Partitions/{partition}", plan.hub, plan.group);
    let mut filter = Vec::new();
    let map = encode::begin_map(&mut filter);
    encode::symbol(&mut filter, SELECTOR_FILTER);
    encode::descriptor(&mut filter, Descriptor::Symbol(SELECTOR_FILTER));
    encode::string(&mut filter, &plan.selector);
    map.end(&mut filter, 2);
    let request = AttachRequest {
        source: Source { filter: Map::from_encoded(&filter).ok(), ..Source::at(&address) },
        sender_settle_mode: SenderSettleMode::Settled,
        receiver_settle_mode: ReceiverSettleMode::First,
        max_message_bytes: Some(EVENT_BYTES_MAX),
        ..AttachRequest::receiver(&address, &address)
    };
    connection.attach(session, &request, output)
}
