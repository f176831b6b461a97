//! Events over MQTT at quality of service 1.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use net_mqtt::{
    Config, Connect, ConnectCode, Connection, Draft, Event, Inbound, PacketId, Publish, Qos, Role, SubAck,
};

use crate::client::publisher::{Outcome, Post, Publisher, Sent};
use crate::job::Login;
use crate::ledger::MARK_BYTES;

/// Twice in this time a client that says nothing else pings, seconds.
const KEEP_ALIVE_S: u16 = 240;

/// A connection with what brings it up.
#[derive(Debug)]
pub struct Mqtt {
    config: Arc<Config>,
    connection: Connection,
    inbound: Inbound,
    began: Instant,
    client_id: String,
    clean_session: bool,
    login: Login,
}

/// What a client hears of.
#[derive(Clone, Copy, Debug)]
pub enum Happened<'a> {
    /// The server has let it in, and whether it remembers an earlier session.
    Open {
        /// It does.
        session_present: bool,
    },
    /// A message of ours is acknowledged.
    Acknowledged(PacketId),
    /// All filters of a subscription are granted.
    Subscribed,
    /// A message.
    Publish(Publish<'a>),
}

/// Whoever hears what the server's bytes came to, and may answer.
pub type Listener<'l> = dyn FnMut(&mut Connection, Happened<'_>, &mut Vec<u8>) -> Result<(), String> + 'l;

impl Mqtt {
    /// A connection to which nothing has happened. A client that does not begin with a clean session is remembered.
    pub fn new(client_id: &str, clean_session: bool, login: Login, in_flight_max: u16) -> Self {
        let config = Arc::new(Config { in_flight_max, ..Config::default() });
        Self {
            connection: Connection::new(Role::Client, config.clone(), 0),
            config,
            inbound: Inbound::default(),
            began: Instant::now(),
            client_id: client_id.to_owned(),
            clean_session,
            login,
        }
    }

    /// The transport stands, for the first time or again: forget the connection that was, and say the first words.
    pub fn begin(&mut self, now: Instant, output: &mut Vec<u8>) {
        self.connection = Connection::new(Role::Client, self.config.clone(), 0);
        self.inbound = Inbound::default();
        self.began = now;
        let mut connect = Connect::new(&self.client_id);
        connect.clean_session = self.clean_session;
        connect.keep_alive_s = KEEP_ALIVE_S;
        let user_name;
        match &self.login {
            Login::Nothing | Login::Anonymous => {}
            Login::Password { user, password } => {
                connect.user_name = Some(user);
                connect.password = Some(password.as_bytes());
            }
            Login::Token { host, token } => {
                user_name = format!("{host}/{}/?api-version=2021-04-12", self.client_id);
                connect.user_name = Some(&user_name);
                connect.password = Some(token.as_bytes());
            }
        }
        self.connection.connect(&connect, 0, output);
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
        while let Some(event) = connection
            .handle(inbound, &mut input, output, now_ms)
            .map_err(|fault| format!("the connection ended: {fault}"))?
        {
            let happened = match event {
                Event::ConnAck(answer) if answer.code == ConnectCode::Accepted => {
                    Happened::Open { session_present: answer.session_present }
                }
                Event::ConnAck(answer) => {
                    return Err(format!("the server refused CONNECT: {:?}", answer.code));
                }
                Event::Acknowledged(id) => Happened::Acknowledged(id),
                Event::SubAck(answer) if answer.codes.contains(&SubAck::REFUSED) => {
                    return Err("the server refused a subscription".to_owned());
                }
                Event::SubAck(_) => Happened::Subscribed,
                Event::Publish(publish) => Happened::Publish(publish),
                _ => continue,
            };
            on(connection, happened, output)?;
        }
        Ok(())
    }

    /// The protocol's own deadlines.
    pub fn tick(&mut self, now: Instant, output: &mut Vec<u8>) -> Result<(), String> {
        let now_ms = (now - self.began).as_millis() as u64;
        self.connection
            .handle_timeout(now_ms, output)
            .map_err(|fault| format!("the connection ended: {fault}"))
    }

    /// Ask for messages at quality of service 1.
    pub fn subscribe(connection: &mut Connection, filters: &[String], output: &mut Vec<u8>) {
        for filters in filters.chunks(16) {
            let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), Qos::AtLeastOnce)).collect();
            connection.subscribe(&filters, output);
        }
    }

    /// The machine itself.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// Sends over MQTT: a topic for each device, or one for all of them.
#[derive(Debug)]
pub struct MqttPublisher {
    mqtt: Mqtt,
    topics: Vec<String>,
    /// What was published and not acknowledged, in order, each with its number.
    waiting: VecDeque<(PacketId, u32)>,
    sent_count: u32,
    body: Vec<u8>,
}

impl MqttPublisher {
    /// To these topics.
    pub fn new(mqtt: Mqtt, topics: Vec<String>) -> Self {
        Self { mqtt, topics, waiting: VecDeque::new(), sent_count: 0, body: Vec::new() }
    }
}

impl Publisher for MqttPublisher {
    fn begin(&mut self, now: Instant, output: &mut Vec<u8>) {
        self.mqtt.begin(now, output);
    }

    fn handle(
        &mut self,
        input: &[u8],
        now: Instant,
        output: &mut Vec<u8>,
        on: &mut dyn FnMut(Outcome) -> Result<(), String>,
    ) -> Result<(), String> {
        let Self { mqtt, waiting, .. } = self;
        mqtt.handle(input, now, output, &mut |_, happened, _| match happened {
            Happened::Acknowledged(id) => {
                // Acknowledgements come in the order of the messages [MQTT-4.6.0-2]; not every broker knows.
                let place = waiting.iter().position(|(waiting, _)| *waiting == id);
                match place.and_then(|place| waiting.remove(place)) {
                    Some((_, number)) => on(Outcome { first: number, last: number }),
                    None => Err("a message was acknowledged that was not sent".to_owned()),
                }
            }
            _ => Ok(()),
        })
    }

    fn tick(&mut self, now: Instant, output: &mut Vec<u8>) -> Result<(), String> {
        self.mqtt.tick(now, output)
    }

    fn is_ready(&self) -> bool {
        self.mqtt.connection.is_open()
    }

    fn send(&mut self, place: usize, post: &Post<'_>, output: &mut Vec<u8>) -> Result<Sent, String> {
        if self.body.len() != MARK_BYTES + post.filler.len() {
            self.body = [&[0; MARK_BYTES], post.filler].concat();
        }
        self.body[..MARK_BYTES].copy_from_slice(&post.mark.encode());
        let topic = &self.topics[place % self.topics.len()];
        let draft = Draft { topic, payload: &self.body, needs_ack: true, retain: false };
        match self.mqtt.connection.publish(&draft, output) {
            Ok(Some(id)) => {
                self.waiting.push_back((id, self.sent_count));
                self.sent_count = self.sent_count.wrapping_add(1);
                Ok(Sent::Yes)
            }
            Ok(None) | Err(_) => Ok(Sent::No),
        }
    }

    fn close(&mut self, output: &mut Vec<u8>) {
        self.mqtt.connection.close(output);
    }
}
