//! An engine that says what the test tells it: full, slow, or gone.

use engine::door::{Busy, Door};
use engine::request::{
    AppendView, Caller, ConsumerGroupView, Grant, Notice, PartitionId, Principal, ReaderId, Reply, Request,
    SequenceNumber, SessionId,
};
use net_amqp::value::Value;
use net_amqp::{AttachRequest, LinkId, SaslRole};
use registry::{ConsumerGroupId, DeviceId, GenerationId, PolicyName, Rights};
use segment_log::Now;

use super::wire::{Seen, Wire, World, hub_info, put_token, status_of};
use crate::binding::HubInfo;

pub const START_S: u64 = 1_795_000_000;

/// A door that keeps what was asked.
#[derive(Default)]
pub struct Script {
    pub asked: Vec<(Caller, Request)>,
    pub appended: Vec<(Caller, Vec<Vec<u8>>)>,
    pub is_full: bool,
}

impl Door for Script {
    fn ask(&mut self, caller: Caller, request: Request) -> Result<(), Busy> {
        if self.is_full {
            return Err(Busy);
        }
        self.asked.push((caller, request));
        Ok(())
    }

    fn append(&mut self, caller: Caller, append: AppendView<'_>) -> Result<(), Busy> {
        if self.is_full {
            return Err(Busy);
        }
        let messages = append.events.iter().map(|event| event.message.to_vec()).collect();
        self.appended.push((caller, messages));
        Ok(())
    }
}

pub struct Test {
    pub script: Script,
    pub hub: HubInfo,
    pub now: Now,
    pub wire: Wire,
}

impl Test {
    /// A connection without SASL, open.
    pub fn new() -> Self {
        Self::with_sasl(SaslRole::Absent)
    }

    pub fn with_sasl(sasl: SaslRole) -> Self {
        let (mut script, hub) = (Script::default(), hub_info(4));
        let now = Now { wall_ms: START_S * 1000, mono_ms: 5_000 };
        let mut world = World { door: &mut script, hub: &hub, now };
        let wire = Wire::new(1, sasl, &mut world);
        let mut test = Self { script, hub, now, wire };
        test.run();
        test
    }

    pub fn run(&mut self) {
        let mut world = World { door: &mut self.script, hub: &self.hub, now: self.now };
        for _ in 0..1000 {
            if !self.wire.turn(&mut world) {
                return;
            }
        }
        panic!("the connection does not come to rest");
    }

    /// Let time pass, in steps that leave heartbeats their time.
    pub fn advance(&mut self, mut ms: u64) {
        while ms > 0 {
            let step = ms.min(50_000);
            self.now = Now { wall_ms: self.now.wall_ms + step, mono_ms: self.now.mono_ms + step };
            self.run();
            ms -= step;
        }
    }

    pub fn answer(&mut self, caller: Caller, reply: Reply) {
        let mut world = World { door: &mut self.script, hub: &self.hub, now: self.now };
        self.wire.reply(&mut world, caller.token, reply);
        self.run();
    }

    pub fn notice(&mut self, notice: Notice) {
        let mut world = World { door: &mut self.script, hub: &self.hub, now: self.now };
        self.wire.notice(&mut world, notice);
        self.run();
    }

    pub fn stop(&mut self) {
        let mut world = World { door: &mut self.script, hub: &self.hub, now: self.now };
        self.wire.stop(&mut world);
        self.run();
    }

    /// The only thing asked since the last call.
    pub fn asked(&mut self) -> (Caller, Request) {
        let mut asked = std::mem::take(&mut self.script.asked);
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    /// Put a token whose verification gives `grant`; links of the `$cbs` pair.
    pub fn put(&mut self, grant: Grant) {
        let (request, reply) = self.cbs();
        self.wire.grant(reply, 10);
        self.wire.send(request, 0, false, &put_token(Value::Ulong(0), &token_text(&grant)));
        self.run();
        let (caller, question) = self.asked();
        assert!(matches!(question, Request::Authenticate { .. }), "{question:?}");
        self.answer(caller, Reply::Authenticated(grant));
        let reply = self.wire.take(|seen| match seen {
            Seen::Message { payload, .. } => Some(status_of(payload)),
            _ => None,
        });
        assert_eq!(reply, Some((200, "OK".to_owned())));
    }

    pub fn cbs(&mut self) -> (LinkId, LinkId) {
        let session = self.wire.begin();
        self.run();
        let request = self.wire.attach(session, &AttachRequest::sender("to", "$cbs"));
        let reply = self.wire.attach(session, &AttachRequest::receiver("from", "$cbs"));
        self.run();
        (request, reply)
    }

    /// Attach `dev-1` for telemetry.
    pub fn device(&mut self) -> (LinkId, SessionId) {
        self.put(device_grant("dev-1", START_S + 3600));
        let session = self.wire.begin();
        self.run();
        let link = self.wire.attach(session, &AttachRequest::sender("t", "/devices/dev-1/messages/events"));
        self.run();
        let (caller, question) = self.asked();
        assert!(matches!(question, Request::OpenSession { .. }), "{question:?}");
        let session = SessionId { partition: PartitionId(1), slot: 0, generation: 0 };
        self.answer(caller, Reply::SessionOpened(session));
        (link, session)
    }

    /// Attach a second link of the same device, in the session of the first one.
    pub fn another_link(&mut self, first: LinkId) -> LinkId {
        let session = self.wire.client.session_of(first).expect("it stands");
        let link = self.wire.attach(session, &AttachRequest::sender("t2", "/devices/dev-1/messages/events"));
        self.run();
        link
    }

    /// Attach a reader of partition 2.
    pub fn reader(&mut self) -> (LinkId, ReaderId) {
        self.put(policy_grant("service", Rights::SERVICE_CONNECT, &[], START_S + 3600));
        let session = self.wire.begin();
        self.run();
        let address = "plant7/ConsumerGroups/$Default/Partitions/2";
        let link = self.wire.attach(session, &AttachRequest::receiver("r", address));
        self.run();
        let (caller, question) = self.asked();
        assert!(matches!(question, Request::FindConsumerGroup { .. }), "{question:?}");
        let group = ConsumerGroupView { id: ConsumerGroupId(0), name: "$Default".to_owned(), created_ms: 0 };
        self.answer(caller, Reply::ConsumerGroup(group));
        let (caller, question) = self.asked();
        assert!(matches!(question, Request::OpenReader { .. }), "{question:?}");
        let reader = ReaderId { partition: PartitionId(2), slot: 3, generation: 0 };
        let opened = Reply::ReaderOpened { reader, next: SequenceNumber(0), truncated: false };
        self.answer(caller, opened);
        (link, reader)
    }

    pub fn detached(&mut self) -> Option<(LinkId, String)> {
        self.wire.take(|seen| match seen {
            Seen::Detached { link, condition, .. } => Some((*link, condition.clone())),
            _ => None,
        })
    }

    pub fn settled(&mut self) -> Vec<(u32, u32, String)> {
        let mut all = Vec::new();
        while let Some(run) = self.wire.take(|seen| match seen {
            Seen::Settled { first, last, state, .. } => Some((*first, *last, state.clone())),
            _ => None,
        }) {
            all.push(run);
        }
        all
    }
}

pub fn device_grant(id: &str, expires_s: u64) -> Grant {
    Grant {
        principal: Principal::Device {
            device: DeviceId::parse(id).unwrap(),
            generation: GenerationId(1),
            keys_version: 1,
        },
        resource: vec!["devices".to_owned(), id.to_owned()],
        expires_s,
    }
}

pub fn policy_grant(name: &str, rights: Rights, resource: &[&str], expires_s: u64) -> Grant {
    let name = PolicyName::parse(name).unwrap();
    let resource = resource.iter().map(|&segment| segment.to_owned()).collect();
    Grant { principal: Principal::Policy { name, rights }, resource, expires_s }
}

/// The text of some token for the grant; the scripted engine does not verify it.
pub fn token_text(grant: &Grant) -> String {
    let policy = match &grant.principal {
        Principal::Policy { name, .. } => format!("&skn={}", name.as_str()),
        Principal::Device { .. } => String::new(),
    };
    let path = grant.resource.join("%2F");
    let signature = "ihCqh6pXRVDHDV%2FqB0DRa92rAS3jK0ktc8tuQ5p0oEY%3D";
    format!("SharedAccessSignature sr=plant7.example%2F{path}&sig={signature}&se={}{policy}", grant.expires_s)
}

pub fn appended(number: u64) -> Reply {
    Reply::Appended { first: SequenceNumber(number), event_count: 1 }
}
