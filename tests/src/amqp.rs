//! fe2o3-amqp as a peer of the hub: an independent implementation of AMQP 1.0 that plays device, gateway and reader.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::link::receiver::CreditMode;
use fe2o3_amqp::link::{
    DetachError, LinkStateError, ReceiverAttachError, RecvError, SendError, SenderAttachError,
};
use fe2o3_amqp::sasl_profile::SaslProfile;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::types::definitions::{self, ErrorCondition, Fields};
use fe2o3_amqp::types::messaging::{
    AmqpValue, ApplicationProperties, Data, Message, MessageId, Outcome, Properties, Source,
};
use fe2o3_amqp::types::primitives::{OrderedMap, SimpleValue, Symbol, Value};
use fe2o3_amqp::{Connection, Receiver, Sender, Session};
use rustls::pki_types::ServerName;
use serde_amqp::described::Described;
use serde_amqp::descriptor::Descriptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::hub::{Hub, NAME};
use crate::sas;
use crate::service::{Device, Service};

/// No single answer of the hub takes longer, even on a machine that builds at the same time.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Run a conversation on this thread, with a deadline for all of it.
pub fn converse<T>(conversation: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(150), conversation).await })
        .expect("the conversation with the hub ends in time")
}

/// Wait for one answer of the hub.
pub async fn answer<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("the hub does not answer: {what}"))
}

/// Why the hub refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The AMQP condition, or the status code of a `$cbs` reply.
    pub condition: String,
    /// Its text.
    pub description: String,
}

impl Refusal {
    pub(crate) fn from_error(error: &definitions::Error) -> Self {
        let condition = match &error.condition {
            ErrorCondition::AmqpError(condition) => Symbol::from(condition),
            ErrorCondition::ConnectionError(condition) => Symbol::from(condition),
            ErrorCondition::SessionError(condition) => Symbol::from(condition),
            ErrorCondition::LinkError(condition) => Symbol::from(condition),
            ErrorCondition::Custom(condition) => condition.clone(),
        };
        let condition = condition.as_str().to_owned();
        Self { condition, description: error.description.clone().unwrap_or_default() }
    }

    fn from_link_state(error: &LinkStateError) -> Self {
        match error {
            LinkStateError::RemoteClosedWithError(error) | LinkStateError::RemoteDetachedWithError(error) => {
                Self::from_error(error)
            }
            other => Self::other(other),
        }
    }

    /// How a link ended by itself.
    pub fn from_detach(error: &DetachError) -> Self {
        match error {
            DetachError::RemoteClosedWithError(error) | DetachError::RemoteDetachedWithError(error) => {
                Self::from_error(error)
            }
            other => Self::other(other),
        }
    }

    /// How receiving ended.
    pub fn from_receive(error: &RecvError) -> Self {
        match error {
            RecvError::LinkStateError(error) => Self::from_link_state(error),
            other => Self::other(other),
        }
    }

    fn from_send(error: &SendError) -> Self {
        match error {
            SendError::LinkStateError(error) => Self::from_link_state(error),
            SendError::Detached(error) => Self::from_detach(error),
            other => Self::other(other),
        }
    }

    pub(crate) fn other(error: &dyn std::fmt::Debug) -> Self {
        Self { condition: format!("{error:?}"), description: String::new() }
    }
}

/// Where a reader starts, as the text of an Event Hubs selector.
#[derive(Clone, Debug)]
pub struct EventSource {
    /// The consumer group.
    pub group: String,
    /// The partition.
    pub partition: u16,
    /// A selector such as `amqp.annotation.x-opt-offset > '-1'`.
    pub selector: Option<String>,
    /// The owner level.
    pub epoch: Option<i64>,
    /// Whether acceptance moves the group's checkpoint.
    pub checkpoints: bool,
    /// How the client grants credit. Where it does so by itself, it counts what it has accepted: a reader of settled
    /// events gets no more than the first grant.
    pub credit: CreditMode,
}

impl EventSource {
    /// Everything in a partition, for `$Default`.
    pub fn oldest(partition: u16) -> Self {
        Self {
            group: "$Default".to_owned(),
            partition,
            selector: Some("amqp.annotation.x-opt-offset > '-1'".to_owned()),
            epoch: None,
            checkpoints: false,
            credit: CreditMode::Auto(1000),
        }
    }

    /// Everything behind a sequence number.
    pub fn behind(partition: u16, number: u64) -> Self {
        let selector = Some(format!("amqp.annotation.x-opt-sequence-number > '{number}'"));
        Self { selector, ..Self::oldest(partition) }
    }
}

/// What `$management` says about a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// The oldest event kept.
    pub first: i64,
    /// The newest; -1 when there never was one.
    pub last: i64,
}

/// One connection with one session, and the `$cbs` and `$management` pairs once they are needed.
pub struct Peer {
    connection: ConnectionHandle<()>,
    pub(crate) session: SessionHandle<()>,
    cbs: Option<(Sender, Receiver)>,
    management: Option<(Sender, Receiver)>,
    faucet: Arc<AtomicBool>,
    pub(crate) count: u64,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Peer").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Peer {
    /// Connect over TLS; without a profile by the plain header, as Node's device client does.
    pub async fn connect(hub: &Hub, profile: Option<SaslProfile>) -> Result<Self, String> {
        let host = hub.host();
        let tcp = TcpStream::connect((host.as_str(), 5671)).await.map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(hub.tls());
        let name = ServerName::try_from(host.clone()).expect("an address is a server name");
        let tls = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
        let mut builder = Connection::builder().container_id("tests").hostname(host.as_str()).scheme("amqp");
        if let Some(profile) = profile {
            builder = builder.sasl_profile(profile);
        }
        let faucet = Arc::new(AtomicBool::new(true));
        let stream = Faucet { stream: tls, open: Arc::clone(&faucet) };
        let mut connection = builder.open_with_stream(stream).await.map_err(|error| error.to_string())?;
        let session = Session::begin(&mut connection).await.map_err(|error| error.to_string())?;
        Ok(Self { connection, session, cbs: None, management: None, faucet, count: 0 })
    }

    /// Connect and put a device's own token.
    pub async fn device(hub: &Hub, device: &Device) -> Self {
        let mut peer = answer("connect", Self::connect(hub, None)).await.expect("the hub takes connections");
        peer.authorize_device(hub, device).await;
        peer
    }

    /// Connect and put a token for the event hub.
    pub async fn reader(hub: &Hub, service: &Service) -> Self {
        let profile = Some(SaslProfile::Anonymous);
        let mut peer =
            answer("connect", Self::connect(hub, profile)).await.expect("the hub takes connections");
        let audience = format!("sb://{}/{NAME}", hub.host());
        peer.put_token(&audience, &service.event_hub_token(NAME)).await.expect("the policy may read");
        peer
    }

    /// Put a device's own token, valid for an hour.
    pub async fn authorize_device(&mut self, hub: &Hub, device: &Device) {
        let audience = device_audience(hub, &device.id);
        let token = sas::token(&audience, &device.key, sas::now_s() + 3600, None);
        self.put_token(&audience, &token).await.expect("a device's own token is good");
    }

    /// Put a token; the refusal's condition is the reply's status code.
    pub async fn put_token(&mut self, audience: &str, token: &str) -> Result<(), Refusal> {
        if self.cbs.is_none() {
            self.cbs = Some(self.attach_pair("$cbs").await?);
        }
        self.count += 1;
        let properties = ApplicationProperties::builder()
            .insert("operation", "put-token")
            .insert("type", "servicebus.windows.net:sastoken")
            .insert("name", audience)
            .build();
        let request = Message::builder()
            .properties(Properties::builder().message_id(MessageId::String(self.count.to_string())).build())
            .application_properties(properties)
            .value(token.to_owned())
            .build();
        let (sender, receiver) = self.cbs.as_mut().expect("attached above");
        let reply = exchange(sender, receiver, request).await?;
        match status(&reply) {
            200 => Ok(()),
            status => {
                let description = text_property(&reply, "status-description").unwrap_or_default();
                Err(Refusal { condition: status.to_string(), description })
            }
        }
    }

    /// Attach a telemetry link for a device.
    pub async fn telemetry(&mut self, device: &str) -> Result<Sender, Refusal> {
        self.count += 1;
        let link = format!("telemetry-{}", self.count);
        let attaching = Sender::attach(&mut self.session, link, format!("/devices/{device}/messages/events"));
        answer("attach for telemetry", attaching).await.map_err(|error| match error {
            SenderAttachError::RemoteClosedWithError(error) => Refusal::from_error(&error),
            other => Refusal::other(&other),
        })
    }

    /// Attach a reader.
    pub async fn events(&mut self, wanted: &EventSource) -> Result<Receiver, Refusal> {
        self.count += 1;
        let address = format!("{NAME}/ConsumerGroups/{}/Partitions/{}", wanted.group, wanted.partition);
        let mut source = Source::builder().address(address);
        if let Some(selector) = &wanted.selector {
            source = source.filter(selector_filter(selector));
        }
        let mut builder = Receiver::builder()
            .name(format!("reader-{}", self.count))
            .source(source.build())
            .credit_mode(wanted.credit.clone())
            .verify_incoming_source(false);
        if let Some(epoch) = wanted.epoch {
            builder = builder.properties(epoch_property(epoch));
        }
        builder = builder.add_desired_capabilities("com.microsoft:enable-receiver-runtime-metric");
        if wanted.checkpoints {
            builder = builder.add_desired_capabilities("corehub:checkpoint");
        }
        let attached = answer("attach for reading", builder.attach(&mut self.session)).await;
        if attached.is_err() {
            // This client answers a refusal twice, and its second detach must not meet the next link of the same handle.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        attached.map_err(|error| receiver_refusal(&error))
    }

    /// What `$management` says about a partition.
    pub async fn partition(&mut self, partition: u16, service: &Service) -> Result<PartitionStatus, Refusal> {
        if self.management.is_none() {
            self.management = Some(self.attach_pair("$management").await?);
        }
        self.count += 1;
        let properties = ApplicationProperties::builder()
            .insert("operation", "READ")
            .insert("type", "com.microsoft:partition")
            .insert("name", NAME)
            .insert("partition", partition.to_string())
            .insert("security_token", service.event_hub_token(NAME))
            .build();
        let request = Message::builder()
            .properties(Properties::builder().message_id(MessageId::String(self.count.to_string())).build())
            .application_properties(properties)
            .value(String::new())
            .build();
        let (sender, receiver) = self.management.as_mut().expect("attached above");
        let reply = exchange(sender, receiver, request).await?;
        assert_eq!(status(&reply), 200, "{reply:?}");
        let AmqpValue(Value::Map(map)) = &reply.body else { panic!("no map in {reply:?}") };
        let number = |name: &str| match map.get(&Value::String(name.to_owned())) {
            Some(Value::Long(number)) => *number,
            other => panic!("{name} is {other:?}"),
        };
        Ok(PartitionStatus {
            first: number("begin_sequence_number"),
            last: number("last_enqueued_sequence_number"),
        })
    }

    /// Read nothing from the socket any more, ever: what the hub sends stays in the buffers between.
    pub fn stop_reading(&self) {
        self.faucet.store(false, Ordering::Relaxed);
    }

    /// Close the connection; a hub that has gone is no matter.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(5), self.connection.close()).await;
    }

    async fn attach_pair(&mut self, node: &str) -> Result<(Sender, Receiver), Refusal> {
        self.count += 1;
        let name = format!("{node}-{}", self.count);
        let sender =
            answer("attach", Sender::attach(&mut self.session, format!("{name}-sender"), node)).await;
        let sender = sender.map_err(|error| Refusal::other(&error))?;
        let receiver =
            answer("attach", Receiver::attach(&mut self.session, format!("{name}-receiver"), node)).await;
        Ok((sender, receiver.map_err(|error| receiver_refusal(&error))?))
    }
}

/// What a device's token must cover.
pub fn device_audience(hub: &Hub, device: &str) -> String {
    format!("{}/devices/{device}", hub.host())
}

/// Send one message and wait for what becomes of it.
pub async fn send(sender: &mut Sender, message: Message<Data>) -> Result<(), Refusal> {
    match answer("settle", sender.send(message)).await.map_err(|error| Refusal::from_send(&error))? {
        Outcome::Accepted(_) => Ok(()),
        Outcome::Rejected(rejected) => Err(rejected.error.map_or_else(
            || Refusal { condition: "rejected without an error".to_owned(), description: String::new() },
            |error| Refusal::from_error(&error),
        )),
        other => Err(Refusal::other(&other)),
    }
}

/// Wait until the hub detaches a link by itself, and why.
pub async fn detached(sender: &mut Sender, patience: Duration) -> Option<Refusal> {
    tokio::time::timeout(patience, sender.on_detach()).await.ok().map(|error| Refusal::from_detach(&error))
}

async fn exchange(
    sender: &mut Sender,
    receiver: &mut Receiver,
    request: Message<AmqpValue<String>>,
) -> Result<Message<AmqpValue<Value>>, Refusal> {
    answer("take a request", sender.send(request)).await.map_err(|error| Refusal::from_send(&error))?;
    let reply = answer("reply", receiver.recv::<AmqpValue<Value>>()).await;
    let reply = reply.map_err(|error| Refusal::from_receive(&error))?;
    receiver.accept(&reply).await.map_err(|error| Refusal::other(&error))?;
    Ok(reply.into_message())
}

fn status(reply: &Message<AmqpValue<Value>>) -> i32 {
    match property(reply, "status-code") {
        Some(SimpleValue::Int(status)) => *status,
        other => panic!("the status code must be an int, not {other:?}"),
    }
}

fn text_property(reply: &Message<AmqpValue<Value>>, name: &str) -> Option<String> {
    match property(reply, name) {
        Some(SimpleValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

fn property<'a>(reply: &'a Message<AmqpValue<Value>>, name: &str) -> Option<&'a SimpleValue> {
    reply.application_properties.as_ref().and_then(|properties| properties.0.get(name))
}

pub(crate) fn receiver_refusal(error: &ReceiverAttachError) -> Refusal {
    match error {
        ReceiverAttachError::RemoteClosedWithError(error) => Refusal::from_error(error),
        other => Refusal::other(other),
    }
}

fn epoch_property(epoch: i64) -> Fields {
    let mut properties = Fields::new();
    properties.insert(Symbol::from("com.microsoft:epoch"), Value::Long(epoch));
    properties
}

fn selector_filter(selector: &str) -> OrderedMap<Symbol, Value> {
    const NAME: &str = "apache.org:selector-filter:string";
    let value = Described {
        descriptor: Descriptor::Code(0x0000_468C_0000_0004),
        value: Value::from(selector.to_owned()),
    };
    let mut filter = OrderedMap::new();
    filter.insert(Symbol::from(NAME), Value::Described(Box::new(value)));
    filter
}

/// A stream whose reading side can be shut for good.
#[derive(Debug)]
struct Faucet<Stream> {
    stream: Stream,
    open: Arc<AtomicBool>,
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Faucet<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Nobody is woken: it never opens again.
        if !self.open.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Faucet<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
