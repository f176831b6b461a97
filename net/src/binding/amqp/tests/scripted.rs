//! The binding over an engine that says what the test tells it: full, slow, or gone.

use engine::door::{Busy, Door};
use engine::request::{
    AppendView, Caller, ConsumerGroupView, EngineError, Grant, Notice, PartitionId, Principal, ReaderId,
    Reply, Request, SequenceNumber, SessionEnd, SessionId,
};
use net_amqp::value::Value;
use net_amqp::{AttachRequest, LinkId, SaslRole};
use registry::{ConsumerGroupId, DeviceId, GenerationId, PolicyName, Rights};
use segment_log::Now;

use super::wire::{Seen, Wire, World, hub_info, put_token, status_of, telemetry};
use crate::binding::amqp::limits;
use crate::binding::properties::BATCH_FORMAT;
use crate::binding::{Binding, HubInfo};

const START_S: u64 = 1_795_000_000;

/// A door that keeps what was asked.
#[derive(Default)]
struct Script {
    asked: Vec<(Caller, Request)>,
    appended: Vec<(Caller, Vec<Vec<u8>>)>,
    is_full: bool,
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

struct Test {
    script: Script,
    hub: HubInfo,
    now: Now,
    wire: Wire,
}

impl Test {
    /// A connection without SASL, open.
    fn new() -> Self {
        Self::with_sasl(SaslRole::Absent)
    }

    fn with_sasl(sasl: SaslRole) -> Self {
        let (mut script, hub) = (Script::default(), hub_info(4));
        let now = Now { wall_ms: START_S * 1000, mono_ms: 5_000 };
        let mut world = World { door: &mut script, hub: &hub, now };
        let wire = Wire::new(1, sasl, &mut world);
        let mut test = Self { script, hub, now, wire };
        test.run();
        test
    }

    fn run(&mut self) {
        let mut world = World { door: &mut self.script, hub: &self.hub, now: self.now };
        for _ in 0..1000 {
            if !self.wire.turn(&mut world) {
                return;
            }
        }
        panic!("the connection does not come to rest");
    }

    /// Let time pass, in steps that leave heartbeats their time.
    fn advance(&mut self, mut ms: u64) {
        while ms > 0 {
            let step = ms.min(50_000);
            self.now = Now { wall_ms: self.now.wall_ms + step, mono_ms: self.now.mono_ms + step };
            self.run();
            ms -= step;
        }
    }

    fn answer(&mut self, caller: Caller, reply: Reply) {
        let mut world = World { door: &mut self.script, hub: &self.hub, now: self.now };
        self.wire.reply(&mut world, caller.token, reply);
        self.run();
    }

    fn notice(&mut self, notice: Notice) {
        let mut world = World { door: &mut self.script, hub: &self.hub, now: self.now };
        self.wire.notice(&mut world, notice);
        self.run();
    }

    fn stop(&mut self) {
        let mut world = World { door: &mut self.script, hub: &self.hub, now: self.now };
        self.wire.stop(&mut world);
        self.run();
    }

    /// The only thing asked since the last call.
    fn asked(&mut self) -> (Caller, Request) {
        let mut asked = std::mem::take(&mut self.script.asked);
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    /// Put a token whose verification gives `grant`; links of the `$cbs` pair.
    fn put(&mut self, grant: Grant) {
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

    fn cbs(&mut self) -> (LinkId, LinkId) {
        let session = self.wire.begin();
        self.run();
        let request = self.wire.attach(session, &AttachRequest::sender("to", "$cbs"));
        let reply = self.wire.attach(session, &AttachRequest::receiver("from", "$cbs"));
        self.run();
        (request, reply)
    }

    /// Attach `dev-1` for telemetry.
    fn device(&mut self) -> (LinkId, SessionId) {
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

    /// Attach a reader of partition 2.
    fn reader(&mut self) -> (LinkId, ReaderId) {
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

    fn detached(&mut self) -> Option<(LinkId, String)> {
        self.wire.take(|seen| match seen {
            Seen::Detached { link, condition, .. } => Some((*link, condition.clone())),
            _ => None,
        })
    }

    fn settled(&mut self) -> Vec<(u32, u32, String)> {
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

fn device_grant(id: &str, expires_s: u64) -> Grant {
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

fn policy_grant(name: &str, rights: Rights, resource: &[&str], expires_s: u64) -> Grant {
    let name = PolicyName::parse(name).unwrap();
    let resource = resource.iter().map(|&segment| segment.to_owned()).collect();
    Grant { principal: Principal::Policy { name, rights }, resource, expires_s }
}

/// The text of some token for the grant; the scripted engine does not verify it.
fn token_text(grant: &Grant) -> String {
    let policy = match &grant.principal {
        Principal::Policy { name, .. } => format!("&skn={}", name.as_str()),
        Principal::Device { .. } => String::new(),
    };
    let path = grant.resource.join("%2F");
    let signature = "ihCqh6pXRVDHDV%2FqB0DRa92rAS3jK0ktc8tuQ5p0oEY%3D";
    format!("SharedAccessSignature sr=plant7.example%2F{path}&sig={signature}&se={}{policy}", grant.expires_s)
}

fn appended(number: u64) -> Reply {
    Reply::Appended { first: SequenceNumber(number), event_count: 1 }
}

#[test]
fn a_run_of_deliveries_gets_one_disposition_and_only_once_it_is_durable() {
    let mut test = Test::new();
    let (link, _) = test.device();
    for number in 0..3 {
        assert_eq!(test.wire.send(link, 0, false, &telemetry(b"x")), number + 1);
    }
    test.run();
    assert_eq!(test.settled(), []);
    let callers: Vec<Caller> = test.script.appended.iter().map(|(caller, _)| *caller).collect();
    let mut world = World { door: &mut test.script, hub: &test.hub, now: test.now };
    // The three answers come in one turn.
    test.wire.replies(&mut world, callers.iter().map(|caller| (caller.token, appended(7))).collect());
    test.run();
    assert_eq!(test.settled(), [(1, 3, "accepted".to_owned())]);
}

#[test]
fn a_full_engine_stops_the_reading_and_loses_nothing() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.script.is_full = true;
    for _ in 0..3 {
        test.wire.send(link, 0, false, &telemetry(b"x"));
    }
    test.run();
    assert!(!test.wire.binding.wants_input());
    test.advance(limits::PARKED_MS_MAX / 2);
    assert_eq!(test.settled(), []);
    test.script.is_full = false;
    test.advance(limits::RETRY_MS);
    assert_eq!(test.script.appended.len(), 3);
    assert!(test.wire.binding.wants_input());
}

#[test]
fn a_stalled_engine_is_told_to_the_sender_in_the_end() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.script.is_full = true;
    test.wire.send(link, 0, false, &telemetry(b"x"));
    test.run();
    test.advance(limits::PARKED_MS_MAX);
    assert_eq!(test.settled(), [(1, 1, "com.microsoft:device-container-throttled".to_owned())]);
    assert!(test.wire.binding.wants_input());
}

#[test]
fn a_batch_is_one_append_and_one_answer() {
    let mut test = Test::new();
    let (link, _) = test.device();
    let (one, two) = (telemetry(b"one"), telemetry(b"two"));
    let batch = net_amqp::MessageBuilder::default().data(&one).data(&two).encode();
    test.wire.send(link, BATCH_FORMAT, false, &batch);
    test.run();
    let (caller, messages) = test.script.appended.remove(0);
    assert_eq!(messages, [one, two]);
    test.answer(caller, Reply::Appended { first: SequenceNumber(0), event_count: 2 });
    assert_eq!(test.settled(), [(1, 1, "accepted".to_owned())]);
}

#[test]
fn what_cannot_be_stored_is_rejected_with_its_reason() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.wire.send(link, 0, false, &telemetry(&vec![0; limits::EVENT_BYTES_MAX]));
    test.wire.send(link, 0, false, b"junk");
    test.wire.send(link, 77, false, &telemetry(b"x"));
    test.run();
    let states: Vec<String> = test.settled().into_iter().map(|(_, _, state)| state).collect();
    assert_eq!(states, ["amqp:link:message-size-exceeded", "amqp:decode-error", "amqp:not-implemented"]);
    assert!(test.script.appended.is_empty());
    test.wire.send(link, 0, false, &telemetry(b"x"));
    test.run();
    let (caller, _) = test.script.appended.remove(0);
    test.answer(caller, Reply::Failed(EngineError::StorageFull));
    assert_eq!(test.settled()[0].2, "amqp:resource-limit-exceeded");
}

#[test]
fn a_message_above_the_limit_of_the_link_detaches_it() {
    let mut test = Test::new();
    let (link, session) = test.device();
    // The attach says so, and the client machine would obey; a peer that does not is detached.
    let max = test.wire.take(|seen| match seen {
        Seen::Attached { link: attached, max_message_bytes, .. } if *attached == link => {
            Some(*max_message_bytes)
        }
        _ => None,
    });
    assert_eq!(max, Some(Some(limits::MESSAGE_BYTES_MAX)));
    test.notice(Notice::SessionEnded { session, reason: SessionEnd::Stolen });
    assert_eq!(test.detached(), Some((link, "amqp:link:stolen".to_owned())));
}

#[test]
fn the_end_of_a_session_ends_its_links_with_the_reason() {
    for (reason, condition) in [
        (SessionEnd::Stolen, "amqp:link:stolen"),
        (SessionEnd::Disabled, "amqp:unauthorized-access"),
        (SessionEnd::KeysChanged, "amqp:unauthorized-access"),
        (SessionEnd::Deleted, "amqp:not-found"),
    ] {
        let mut test = Test::new();
        let (link, session) = test.device();
        test.wire.send(link, 0, false, &telemetry(b"x"));
        test.run();
        test.notice(Notice::SessionEnded { session, reason });
        assert_eq!(test.detached(), Some((link, condition.to_owned())));
        // The answer to the append comes too late for the link and harms nobody.
        let (caller, _) = test.script.appended.remove(0);
        test.answer(caller, appended(0));
        assert_eq!(test.wire.closing, None);
    }
}

#[test]
fn the_last_link_of_a_device_closes_its_session_even_if_the_engine_is_full() {
    let mut test = Test::new();
    let (link, session) = test.device();
    test.script.is_full = true;
    test.wire.detach(link);
    test.run();
    assert!(test.script.asked.is_empty());
    test.script.is_full = false;
    test.advance(limits::RETRY_MS);
    assert!(matches!(test.asked().1, Request::CloseSession { session: closed } if closed == session));
}

#[test]
fn a_session_that_nobody_waits_for_any_more_is_closed() {
    let mut test = Test::new();
    test.put(device_grant("dev-1", START_S + 3600));
    let session = test.wire.begin();
    test.run();
    test.wire.attach(session, &AttachRequest::sender("t", "/devices/dev-1/messages/events"));
    test.run();
    let (caller, _) = test.asked();
    test.wire.end(session);
    test.run();
    let session = SessionId { partition: PartitionId(1), slot: 0, generation: 0 };
    test.answer(caller, Reply::SessionOpened(session));
    assert!(matches!(test.asked().1, Request::CloseSession { .. }));
}

#[test]
fn replies_of_cbs_wait_for_credit() {
    let mut test = Test::new();
    let (request, reply) = test.cbs();
    for id in 0..3 {
        test.wire.send(request, 0, false, &put_token(Value::Ulong(id), "nonsense"));
    }
    test.run();
    let accepted = test.settled();
    assert!(accepted.iter().all(|(_, _, state)| state == "accepted"), "{accepted:?}");
    test.wire.grant(reply, 2);
    test.run();
    let mut replies = Vec::new();
    while let Some(payload) = test.wire.take(|seen| match seen {
        Seen::Message { payload, .. } => Some(payload.clone()),
        _ => None,
    }) {
        let id = net_amqp::Sections::parse(&payload).unwrap().properties.unwrap().correlation_id;
        assert_eq!(id, Some(Value::Ulong(replies.len() as u64)));
        replies.push(status_of(&payload).0);
    }
    assert_eq!(replies, [401, 401]);
    test.wire.grant(reply, 1);
    test.run();
    assert!(test.wire.take(|seen| matches!(seen, Seen::Message { .. }).then_some(())).is_some());
}

#[test]
fn a_client_that_never_takes_its_replies_runs_out_of_credit() {
    let mut test = Test::new();
    let (request, _reply) = test.cbs();
    let mut sent_count = 0;
    while test.wire.try_send(request, 0, false, &put_token(Value::Ulong(sent_count), "nonsense")).is_some() {
        sent_count += 1;
        test.run();
        assert!(sent_count <= 100);
    }
    assert_eq!(sent_count, 100);
}

#[test]
fn without_a_token_only_cbs_is_open_and_not_for_long() {
    let mut test = Test::new();
    let session = test.wire.begin();
    test.run();
    for address in ["/devices/dev-1/messages/events", "plant7", "$management", "nothing"] {
        let link = test.wire.attach(session, &AttachRequest::sender(address, address));
        test.run();
        assert_eq!(test.detached(), Some((link, "amqp:unauthorized-access".to_owned())), "{address}");
    }
    assert!(test.script.asked.is_empty());
    test.advance(limits::TOKENLESS_MS_MAX - 1);
    assert_eq!(test.wire.closing, None);
    test.advance(1);
    let closed = test.wire.take(|seen| match seen {
        Seen::Closed { condition } => Some(condition.clone()),
        _ => None,
    });
    assert_eq!(closed.as_deref(), Some("amqp:connection:forced"));
}

#[test]
fn tokens_that_expire_end_their_links_alone() {
    let mut test = Test::new();
    let (link, session) = test.device();
    test.put(device_grant("dev-2", START_S + 7200));
    test.advance(3_600_000);
    assert_eq!(test.detached(), None, "the token counts to the end of its last second");
    test.advance(1_000);
    assert_eq!(test.detached(), Some((link, "amqp:unauthorized-access".to_owned())));
    assert!(matches!(test.asked().1, Request::CloseSession { session: closed } if closed == session));
    assert_eq!(test.wire.closing, None);
}

#[test]
fn a_renewed_token_keeps_its_links() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.advance(3_000_000);
    test.put(device_grant("dev-1", START_S + 7200));
    test.advance(1_000_000);
    assert_eq!(test.detached(), None);
    test.wire.send(link, 0, false, &telemetry(b"x"));
    test.run();
    assert_eq!(test.script.appended.len(), 1);
}

#[test]
fn other_endpoints_and_wrong_directions_are_refused_in_the_documented_manner() {
    let mut test = Test::new();
    test.put(policy_grant(
        "iothubowner",
        Rights::SERVICE_CONNECT | Rights::DEVICE_CONNECT,
        &[],
        START_S + 3600,
    ));
    let session = test.wire.begin();
    test.run();
    for (sends, address, condition) in [
        (false, "/devices/d/messages/devicebound", "amqp:not-implemented"),
        (true, "/devices/d/twin", "amqp:not-implemented"),
        (true, "/messages/devicebound", "amqp:not-implemented"),
        (false, "/devices/d/messages/events", "amqp:not-allowed"),
        (true, "plant7/ConsumerGroups/$Default/Partitions/0", "amqp:not-allowed"),
        (true, "plant7", "amqp:not-allowed"),
        (true, "/devices/a b/messages/events", "amqp:not-found"),
        (false, "other/ConsumerGroups/$Default/Partitions/0", "amqp:not-found"),
        (false, "plant7/ConsumerGroups/$Default/Partitions/4", "amqp:not-found"),
        (false, "plant7/ConsumerGroups/$Default/Partitions/x", "amqp:not-found"),
    ] {
        let request = match sends {
            true => AttachRequest::sender(address, address),
            false => AttachRequest::receiver(address, address),
        };
        let link = test.wire.attach(session, &request);
        test.run();
        let (refused, text) = test
            .wire
            .take(|seen| match seen {
                Seen::Attached { refused, .. } => Some((*refused, String::new())),
                Seen::Detached { text, .. } => Some((false, text.clone())),
                _ => None,
            })
            .unwrap();
        assert!(refused, "{address}: the attach comes first, without source and target; {text}");
        let (detached, seen_condition, text) = test
            .wire
            .take(|seen| match seen {
                Seen::Detached { link, condition, text } => Some((*link, condition.clone(), text.clone())),
                _ => None,
            })
            .unwrap();
        assert_eq!((detached, seen_condition.as_str()), (link, condition), "{address}");
        if address.contains("Partitions") && condition == "amqp:not-found" {
            assert!(
                text.starts_with("The messaging entity ") && text.contains("could not be found"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_reader_has_one_read_open_and_only_with_credit() {
    let mut test = Test::new();
    let (link, reader) = test.reader();
    assert!(test.script.asked.is_empty(), "no credit, no read");
    test.wire.grant(link, 10);
    test.run();
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::Read { event_count_max: 10, .. }), "{question:?}");
    test.wire.grant(link, 50);
    test.run();
    assert!(test.script.asked.is_empty(), "one read at a time");
    test.answer(caller, Reply::Failed(EngineError::Busy));
    assert!(test.script.asked.is_empty());
    test.advance(limits::RETRY_MS);
    let (_, question) = test.asked();
    assert!(matches!(question, Request::Read { event_count_max: 50, .. }), "{question:?}");
    test.wire.detach(link);
    test.run();
    assert!(matches!(test.asked().1, Request::CloseReader { reader: closed } if closed == reader));
}

#[test]
fn a_stolen_reader_is_told_who_took_over() {
    let mut test = Test::new();
    let (link, reader) = test.reader();
    test.wire.grant(link, 10);
    test.run();
    let (caller, _) = test.asked();
    test.notice(Notice::ReaderStolen { reader, by_name: Some("other".to_owned()), by_epoch: 3 });
    let (detached, condition, text) = test
        .wire
        .take(|seen| match seen {
            Seen::Detached { link, condition, text } => Some((*link, condition.clone(), text.clone())),
            _ => None,
        })
        .unwrap();
    assert_eq!((detached, condition.as_str()), (link, "amqp:link:stolen"));
    assert!(text.starts_with("New receiver 'other'") && text.contains("'nil'"), "{text}");
    test.answer(caller, Reply::Failed(EngineError::ReaderEnded));
    assert!(test.script.asked.is_empty(), "the reader has ended already");
}

#[test]
fn a_stop_answers_what_is_in_flight_and_says_goodbye() {
    let mut test = Test::new();
    let (link, _) = test.device();
    test.wire.send(link, 0, false, &telemetry(b"x"));
    test.run();
    test.stop();
    assert_eq!(test.wire.closing, None, "an append is in flight");
    let (caller, _) = test.script.appended.remove(0);
    test.answer(caller, appended(0));
    let mut story = Vec::new();
    while let Some(seen) = test.wire.seen.pop_front() {
        match seen {
            Seen::Settled { state, .. } => story.push(state),
            Seen::Detached { condition, .. } | Seen::Closed { condition } => story.push(condition),
            _ => {}
        }
    }
    assert_eq!(story.first().map(String::as_str), Some("accepted"));
    assert!(story[1..].iter().all(|condition| condition == "amqp:connection:forced"), "{story:?}");
    assert!(story.len() >= 3);
    assert!(test.wire.closing.is_some());
}
