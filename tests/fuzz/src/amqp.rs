//! The AMQP connection machine in both roles.

use std::sync::Arc;

use net_amqp::sasl::SaslCode;
use net_amqp::{
    AttachReply, AttachRequest, Config, Connection, DeliveryState, Error, Event, Inbound, LinkId, Role,
    SaslRole, Sections, SendDelivery,
};

use crate::input::{Choices, Stream, assert_same};
use crate::wire::check_amqp;

const HELD_BYTES_MAX: usize = 100_000;
const SESSION_COUNT_MAX: u32 = 8;
const LINK_COUNT_MAX: u32 = 16;
const FRAME_BYTES_MAX: u32 = 4096;

/// Bytes that one call may write besides an answer to the frame that it took.
const ANSWER_BYTES_MAX: usize = 4096;

fn config(sasl: SaslRole) -> Config {
    Config {
        held_bytes_max: HELD_BYTES_MAX,
        session_count_max: SESSION_COUNT_MAX,
        link_count_max: LINK_COUNT_MAX,
        unsettled_count_max: 64,
        message_bytes_max: 50_000,
        output_bytes_max: 20_000,
        max_frame_bytes: FRAME_BYTES_MAX,
        sasl,
        ..Config::default()
    }
}

/// The server: offers SASL, lets everybody in, takes and sends messages on whatever is attached.
pub fn server(input: &[u8]) {
    both(input, Role::Server, SaslRole::Offer(vec!["ANONYMOUS", "PLAIN", "MSSBCBS"]));
}

/// The client: begins two sessions when the server has opened, and attaches two links to each.
pub fn client(input: &[u8]) {
    both(input, Role::Client, SaslRole::Choose { mechanism: "ANONYMOUS", response: Vec::new() });
}

fn both(input: &[u8], role: Role, sasl: SaslRole) {
    let Some(stream) = Stream::of(input) else { return };
    let config = Arc::new(config(sasl));
    let mut whole = End::new(role, &config, stream.whims());
    whole.take(stream.bytes);
    let mut cut = End::new(role, &config, stream.whims());
    for piece in stream.pieces() {
        cut.take(piece);
        cut.check_bounds();
    }
    assert_same(&whole.seen, &cut.seen, "events");
    assert_same(&whole.output, &cut.output, "answers");
    whole.finish();
    cut.finish();
}

/// One end, with a caller that answers at once.
struct End {
    role: Role,
    connection: Connection,
    inbound: Inbound,
    output: Vec<u8>,
    seen: Vec<String>,
    whims: Choices,
    is_over: bool,
    input_bytes: usize,
}

impl End {
    fn new(role: Role, config: &Arc<Config>, whims: Choices) -> Self {
        let mut connection = Connection::new(role, Arc::clone(config), 0);
        let mut output = Vec::new();
        if role == Role::Client {
            connection.start(&mut output);
        }
        Self {
            role,
            connection,
            inbound: Inbound::default(),
            output,
            seen: Vec::new(),
            whims,
            is_over: false,
            input_bytes: 0,
        }
    }

    fn take(&mut self, mut input: &[u8]) {
        self.input_bytes += input.len();
        let mut calls = 0;
        loop {
            let before = self.output.len();
            let result = self.connection.handle(&mut self.inbound, &mut input, &mut self.output, 0);
            let written = self.output.len() - before;
            assert!(
                written <= FRAME_BYTES_MAX as usize + ANSWER_BYTES_MAX,
                "{written} bytes of answer to a frame"
            );
            calls += 1;
            assert!(calls < 1000 + 40 * self.input_bytes, "the machine makes no progress");
            match result {
                Ok(Some(event)) => {
                    self.seen.push(format!("{event:?}"));
                    let is_server = self.role == Role::Server;
                    if !is_server {
                        ask(&mut self.connection, &event, &mut self.output);
                    }
                    react(&mut self.connection, event, is_server, &mut self.output, &mut self.whims);
                }
                Ok(None) => break,
                Err(closed) => {
                    assert!(!self.is_over, "a connection ends once");
                    self.is_over = true;
                    self.seen.push(format!("{closed:?}"));
                    assert!(self.connection.is_closed());
                }
            }
        }
        assert!(input.is_empty(), "without an error all input is taken");
    }

    fn check_bounds(&self) {
        assert!(self.connection.held_bytes() <= HELD_BYTES_MAX);
        assert!(self.connection.session_count() <= SESSION_COUNT_MAX + 1);
        assert!(self.connection.link_count() <= LINK_COUNT_MAX + 256);
        assert!(self.inbound.kept_bytes() <= 8192, "{}", self.inbound.kept_bytes());
    }

    fn finish(mut self) {
        self.check_bounds();
        if self.connection.is_closed() {
            assert_eq!((self.connection.held_bytes(), self.connection.link_count()), (0, 0));
        }
        check_amqp(&self.output);
        // Time ends what is left: nothing stays open beside a silent peer.
        let mut output = Vec::new();
        for round in 0.. {
            assert!(round < 6000, "a silent connection never ends");
            let Some(at_ms) = self.connection.next_timeout_ms() else { break };
            if self.connection.handle_timeout(at_ms, &mut output).is_err() {
                break;
            }
        }
        assert!(self.connection.is_closed());
        check_amqp(&output);
    }
}

/// What a client begins.
fn ask(connection: &mut Connection, event: &Event<'_>, output: &mut Vec<u8>) {
    match event {
        Event::Opened(_) => {
            connection.begin(output);
            connection.begin(output);
        }
        Event::Begun { session } => {
            let requests = [AttachRequest::sender("out", "events"), AttachRequest::receiver("in", "hub/0")];
            for request in requests {
                connection.attach(*session, &request, output);
            }
        }
        _ => {}
    }
}

/// What a caller does with an event.
fn react(
    connection: &mut Connection,
    event: Event<'_>,
    is_server: bool,
    output: &mut Vec<u8>,
    whims: &mut Choices,
) {
    match event {
        Event::SaslInit { .. } => {
            let code = if whims.once_in(50) { SaslCode::Auth } else { SaslCode::Ok };
            connection.sasl_outcome(code, output);
        }
        Event::Attached { link, .. } if is_server && whims.once_in(8) => {
            let error = Error::new("amqp:not-found", "no");
            connection.refuse_link(link, &error, output);
        }
        Event::Attached { link, .. } => {
            if is_server {
                connection.accept_link(link, &AttachReply::default(), output);
            }
            connection.grant(link, 12, output);
            send(connection, link, output, whims);
        }
        Event::Flow { link, drain, .. } => {
            send(connection, link, output, whims);
            if drain {
                connection.drained(link, output);
            }
        }
        Event::Transfer { link, delivery_id, settled, payload, .. } => {
            if let Ok(sections) = Sections::parse(payload) {
                assert!(sections.bare.len() <= payload.len());
            }
            if !settled && !whims.once_in(3) {
                connection.settle(
                    link,
                    delivery_id.wrapping_sub(2),
                    delivery_id,
                    &DeliveryState::Accepted,
                    true,
                    output,
                );
            }
        }
        Event::Settled { link, first, last, settled: false, .. } => {
            connection.settle(link, first, last, &DeliveryState::Accepted, true, output);
        }
        Event::Aborted { link } | Event::Drained { link } => {
            connection.grant(link, 5, output);
        }
        _ => {}
    }
}

fn send(connection: &mut Connection, link: LinkId, output: &mut Vec<u8>, whims: &mut Choices) {
    while connection.sendable(link) > 0 {
        let payload = vec![1; whims.below(3000)];
        let settled = whims.once_in(2);
        let delivery = SendDelivery { tag: b"tag", message_format: 0, settled, payload: &[&payload] };
        if connection.send(link, &delivery, output).is_err() {
            break;
        }
    }
}
