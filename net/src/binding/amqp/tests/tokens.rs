//! Tokens and logins over a scripted engine.

use engine::request::{EngineError, Reply, Request, UnauthorizedReason};
use net_amqp::sasl::plain_response;
use net_amqp::value::Value;
use net_amqp::{AttachRequest, LinkId, MessageBuilder, Properties, SaslRole, Sections};
use registry::Rights;

use super::script::{START_S, Test, device_grant, policy_grant, token_text};
use super::wire::{Seen, put_token, status_of, telemetry};
use crate::binding::Binding;
use crate::binding::amqp::limits;

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
        let id = Sections::parse(&payload).unwrap().properties.unwrap().correlation_id;
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

/// The moment at which a token was due lies in the past for good: whoever still went by it would be looked at again and again.
#[test]
fn a_connection_that_was_closed_rests_until_it_is_given_up() {
    let mut test = Test::new();
    test.wire.reads = false;
    test.advance(limits::TOKENLESS_MS_MAX);
    let at_ms = test.wire.binding.next_timeout_ms().expect("it waits for the answer");
    assert!(at_ms > test.now.mono_ms, "{at_ms} is not behind {}", test.now.mono_ms);
    test.advance(limits::CLOSE_ANSWER_MS_MAX);
    assert!(test.wire.binding.is_finished());
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

fn login(user: &str, password: &str) -> Test {
    Test::with_sasl(SaslRole::Choose { mechanism: "PLAIN", response: plain_response(user, password) })
}

fn is_open(test: &mut Test) -> bool {
    test.wire.take(|seen| matches!(seen, Seen::Opened).then_some(())).is_some()
}

#[test]
fn plain_logs_in_with_tokens_and_keys_and_needs_no_cbs() {
    let grant = device_grant("dev-1", START_S + 60);
    let mut test = login("dev-1@sas.plant7", &token_text(&grant));
    assert!(!is_open(&mut test), "not before the verdict");
    let (caller, question) = test.asked();
    assert!(matches!(question, Request::Authenticate { .. }), "{question:?}");
    test.answer(caller, Reply::Authenticated(grant));
    assert!(is_open(&mut test));
    let session = test.wire.begin();
    test.run();
    test.wire.attach(session, &AttachRequest::sender("t", "/devices/dev-1/messages/events"));
    test.run();
    assert!(matches!(test.asked().1, Request::OpenSession { .. }));
    // One token, one connection: both end together.
    test.advance(61_000);
    let closed = test.wire.take(|seen| match seen {
        Seen::Closed { condition } => Some(condition.clone()),
        _ => None,
    });
    assert_eq!(closed.as_deref(), Some("amqp:unauthorized-access"));

    let mut test = login("service", "c2VjcmV0");
    let (caller, question) = test.asked();
    assert!(
        matches!(&question, Request::AuthenticatePolicyKey { policy, .. } if policy == "service"),
        "{question:?}"
    );
    test.answer(
        caller,
        Reply::Authenticated(policy_grant("service", Rights::SERVICE_CONNECT, &[], u64::MAX)),
    );
    assert!(is_open(&mut test));
}

#[test]
fn plain_tries_each_reading_of_a_device_id() {
    let mut test = login("a%2Bb@plant7", "c2VjcmV0");
    let (caller, question) = test.asked();
    assert!(
        matches!(&question, Request::AuthenticateDeviceKey { device, .. } if device.as_str() == "a%2Bb"),
        "{question:?}"
    );
    test.answer(caller, Reply::Failed(EngineError::Unauthorized(UnauthorizedReason::Signature)));
    let (caller, question) = test.asked();
    assert!(
        matches!(&question, Request::AuthenticateDeviceKey { device, .. } if device.as_str() == "a+b"),
        "{question:?}"
    );
    test.answer(caller, Reply::Authenticated(device_grant("a+b", u64::MAX)));
    assert!(is_open(&mut test));
}

#[test]
fn plain_is_refused_for_a_wrong_token_and_for_somebody_elses() {
    let grant = device_grant("dev-1", START_S + 60);
    let mut test = login("dev-1@sas.plant7", &token_text(&grant));
    let (caller, _) = test.asked();
    test.answer(caller, Reply::Failed(EngineError::Unauthorized(UnauthorizedReason::Signature)));
    assert!(test.wire.closing.is_some() && !is_open(&mut test));

    let mut test = login("dev-10@sas.plant7", &token_text(&grant));
    let (caller, _) = test.asked();
    test.answer(caller, Reply::Authenticated(grant.clone()));
    assert!(test.wire.closing.is_some() && !is_open(&mut test));

    let mut test = login("dev-10@sas.plant7", &token_text(&grant));
    let (caller, _) = test.asked();
    let other = policy_grant("device", Rights::DEVICE_CONNECT, &["devices", "dev-1"], START_S + 60);
    test.answer(caller, Reply::Authenticated(other));
    assert!(test.wire.closing.is_some() && !is_open(&mut test));

    let mut test = login("dev-1@sas.plant7", "SharedAccessSignature nonsense");
    assert!(test.wire.closing.is_some() && !is_open(&mut test));
}

#[test]
fn every_mechanism_but_external_is_offered() {
    for mechanism in ["ANONYMOUS", "MSSBCBS"] {
        let mut test = Test::with_sasl(SaslRole::Choose { mechanism, response: Vec::new() });
        assert!(is_open(&mut test), "{mechanism}");
    }
    let mut test = Test::with_sasl(SaslRole::Choose { mechanism: "EXTERNAL", response: Vec::new() });
    assert!(!is_open(&mut test));
}

#[test]
fn what_is_no_put_token_gets_a_code() {
    let request = |entries: &[(&'static str, &'static str)], body: Value<'_>| {
        let message = MessageBuilder::default()
            .properties(Properties { message_id: Some(Value::String("m")), ..Properties::default() });
        let message = entries
            .iter()
            .fold(message, |message, (name, text)| message.application_property(name, Value::String(text)));
        message.value(body).encode()
    };
    let sas = ("type", "ServiceBus.Windows.net:SasToken");
    let put = ("operation", "put-token");
    for (payload, code) in [
        (request(&[sas], Value::String("x")), 400),
        (request(&[("operation", "delete-token"), sas], Value::String("x")), 400),
        (request(&[put], Value::String("x")), 400),
        (request(&[put, ("type", "jwt")], Value::String("x")), 401),
        (request(&[put, sas], Value::Null), 400),
        (request(&[put, sas], Value::String("nonsense")), 401),
    ] {
        let mut test = Test::new();
        let (requests, replies) = test.cbs();
        test.wire.grant(replies, 1);
        test.wire.send(requests, 0, false, &payload);
        test.run();
        let reply = test.wire.take(|seen| match seen {
            Seen::Message { payload, .. } => Some(status_of(payload).0),
            _ => None,
        });
        assert_eq!(reply, Some(code));
    }
}

#[test]
fn a_reply_repeats_the_message_id_with_its_type() {
    for id in [Value::Ulong(0), Value::Uuid([7; 16]), Value::String("m-1"), Value::Binary(b"m")] {
        let mut test = Test::new();
        let (requests, replies) = test.cbs();
        test.wire.grant(replies, 1);
        test.wire.send(requests, 0, false, &put_token(id, "nonsense"));
        test.run();
        let payload = test.wire.take(|seen| match seen {
            Seen::Message { payload, .. } => Some(payload.clone()),
            _ => None,
        });
        let payload = payload.unwrap();
        assert_eq!(Sections::parse(&payload).unwrap().properties.unwrap().correlation_id, Some(id));
    }
}

/// A reply goes to the session of its request, and there to the link that the request names.
#[test]
fn replies_find_their_way_among_sessions_and_links() {
    let mut test = Test::new();
    let (first_requests, first_replies) = test.cbs();
    let (second_requests, second_replies) = test.cbs();
    test.wire.grant(first_replies, 5);
    test.wire.grant(second_replies, 5);
    let reply_link = |test: &mut Test| -> Option<LinkId> {
        test.run();
        test.wire.take(|seen| match seen {
            Seen::Message { link, .. } => Some(*link),
            _ => None,
        })
    };
    test.wire.send(second_requests, 0, false, &put_token(Value::Ulong(0), "nonsense"));
    assert_eq!(reply_link(&mut test), Some(second_replies));
    test.wire.send(first_requests, 0, false, &put_token(Value::Ulong(0), "nonsense"));
    assert_eq!(reply_link(&mut test), Some(first_replies));
}
