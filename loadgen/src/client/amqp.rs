//! What every AMQP client does first: open, begin a session, put a token where the server wants one.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use net_amqp::sasl::plain_response;
use net_amqp::{
    AttachRequest, Config, Connection, DeliveryState, Event, Inbound, LinkId, Role, SaslRole, SessionId,
};

use crate::client::cbs::TokenExchange;
use crate::job::Login;

/// A connection with one session, and what has to come before its links.
#[derive(Debug)]
pub struct Amqp {
    config: Arc<Config>,
    connection: Connection,
    inbound: Inbound,
    began: Instant,
    login: Login,
    session: Option<SessionId>,
    exchange: Option<TokenExchange>,
    is_authorized: bool,
    is_closed: bool,
}

/// What a client hears of.
#[derive(Debug)]
pub enum Happened<'a> {
    /// Links may be attached to this session.
    Authorized(SessionId),
    /// A link stands.
    Attached(LinkId),
    /// The server's word about deliveries `first` to `last`.
    Settled {
        /// The link.
        link: LinkId,
        /// First delivery id.
        first: u32,
        /// Last delivery id.
        last: u32,
        /// Their state.
        state: Option<DeliveryState<'a>>,
    },
    /// A message.
    Transfer {
        /// The link.
        link: LinkId,
        /// Its delivery id.
        delivery_id: u32,
        /// Whether nobody waits for an answer.
        settled: bool,
        /// The message.
        payload: &'a [u8],
    },
}

/// Whoever hears what the server's bytes came to, and may answer.
pub type Listener<'l> = dyn FnMut(&mut Connection, Happened<'_>, &mut Vec<u8>) -> Result<(), String> + 'l;

impl Amqp {
    /// A connection to which nothing has happened. Servers that know containers apart see this name.
    pub fn new(container_id: &str, login: Login) -> Self {
        let sasl = match &login {
            Login::Nothing | Login::Token { .. } => SaslRole::Absent,
            Login::Anonymous => SaslRole::Choose { mechanism: "ANONYMOUS", response: container_id.into() },
            Login::Password { user, password } => {
                SaslRole::Choose { mechanism: "PLAIN", response: plain_response(user, password) }
            }
        };
        let config = Arc::new(Config {
            container_id: container_id.to_owned(),
            hostname: login.host().map(str::to_owned),
            // Room for the outcomes of all that may be in flight.
            unsettled_count_max: 1 << 20,
            incoming_window: 1 << 20,
            sasl,
            ..Config::default()
        });
        let connection = Connection::new(Role::Client, config.clone(), 0);
        Self {
            config,
            connection,
            inbound: Inbound::default(),
            began: Instant::now(),
            login,
            session: None,
            exchange: None,
            is_authorized: false,
            is_closed: false,
        }
    }

    /// The transport stands, for the first time or again: forget the connection that was, and say the first words.
    pub fn begin(&mut self, now: Instant, output: &mut Vec<u8>) {
        self.connection = Connection::new(Role::Client, self.config.clone(), 0);
        self.inbound = Inbound::default();
        self.began = now;
        self.session = None;
        self.exchange = None;
        self.is_authorized = false;
        self.is_closed = false;
        self.connection.start(output);
    }

    /// Bytes from the server; `on` hears what they came to.
    pub fn handle(
        &mut self,
        mut input: &[u8],
        now: Instant,
        output: &mut Vec<u8>,
        on: &mut Listener<'_>,
    ) -> Result<(), String> {
        let now_ms = (now - self.began).as_millis() as u64;
        let Self { connection, inbound, .. } = self;
        // Where a session ends its links go first, without a reason: that comes behind them.
        let mut is_detached = false;
        loop {
            let event = connection
                .handle(inbound, &mut input, output, now_ms)
                .map_err(|closed| format!("the connection ended: {closed}"))?;
            match event {
                None if is_detached => return Err("the server ended a link without a reason".to_owned()),
                None => return Ok(()),
                Some(Event::Opened(_)) => self.session = connection.begin(output),
                Some(Event::Begun { session }) => match &self.login {
                    Login::Token { host, token } => {
                        let (host, token) = (host.clone(), token.clone());
                        self.exchange = Some(TokenExchange::start(connection, session, host, token, output)?);
                    }
                    _ => {
                        self.is_authorized = true;
                        on(connection, Happened::Authorized(session), output)?;
                    }
                },
                Some(Event::Attached { link, attach, .. }) => match &self.exchange {
                    Some(exchange) if exchange.owns(link) => {
                        exchange.handle_attached(connection, link, output);
                    }
                    // A refusal; the reason follows with the detach.
                    _ if attach.source.is_none() && attach.target.is_none() => {}
                    _ => on(connection, Happened::Attached(link), output)?,
                },
                Some(Event::Transfer { link, delivery_id, payload, settled, .. }) => {
                    let answer = self.exchange.as_ref().and_then(|exchange| {
                        exchange.handle_answer(connection, link, delivery_id, payload, output)
                    });
                    match answer {
                        None => {
                            let transfer = Happened::Transfer { link, delivery_id, settled, payload };
                            on(connection, transfer, output)?;
                        }
                        Some(answer) => {
                            answer?;
                            if !std::mem::replace(&mut self.is_authorized, true) {
                                let session = self.session.ok_or("no session")?;
                                on(connection, Happened::Authorized(session), output)?;
                            }
                        }
                    }
                }
                Some(Event::Settled { link, first, last, state, settled }) => {
                    if !settled && state.is_some() {
                        connection.settle(link, first, last, &DeliveryState::Accepted, true, output);
                    }
                    on(connection, Happened::Settled { link, first, last, state }, output)?;
                }
                Some(Event::Detached { error: None, .. }) => is_detached = true,
                Some(Event::Detached { error, .. }) => {
                    return Err(format!("the server ended a link: {}", reason(error.as_ref())));
                }
                Some(Event::Ended { error, .. }) => {
                    return Err(format!("the server ended the session: {}", reason(error.as_ref())));
                }
                Some(Event::Closed { error }) if error.is_some() || !self.is_closed => {
                    return Err(format!("the server closed the connection: {}", reason(error.as_ref())));
                }
                Some(_) => {}
            }
        }
    }

    /// Go on with what comes before the links, where the server has made room for it.
    pub fn fill(&mut self, output: &mut Vec<u8>) {
        if let Some(exchange) = &mut self.exchange {
            exchange.send(&mut self.connection, output);
        }
    }

    /// The protocol's own deadlines.
    pub fn tick(&mut self, now: Instant, output: &mut Vec<u8>) -> Result<(), String> {
        let now_ms = (now - self.began).as_millis() as u64;
        self.connection
            .handle_timeout(now_ms, output)
            .map_err(|closed| format!("the connection ended: {closed}"))
    }

    /// The machine itself.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Close the connection, once.
    pub fn close(&mut self, output: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.is_closed, true) {
            self.connection.close(None, output);
        }
    }
}

/// Attach a link.
pub fn attach(
    connection: &mut Connection,
    session: SessionId,
    request: &AttachRequest<'_>,
    output: &mut Vec<u8>,
) -> Result<LinkId, String> {
    connection.attach(session, request, output).ok_or_else(|| "the session takes no more links".to_owned())
}

/// What the server said of an end, or that it said nothing.
pub fn reason<T: Display>(error: Option<&T>) -> String {
    error.map_or_else(|| "without a reason".to_owned(), ToString::to_string)
}
