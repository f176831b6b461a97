//! A hub for tests, and a client that asks it through the door of one of its cores.

// Each test binary uses its part.
#![allow(dead_code)]

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::thread;

use engine::door::Door;
use engine::monitor::Protocol;
use engine::request::{
    AppendView, Caller, DeviceDraft, EngineError, EventView, Grant, PartitionId, PartitionStatus, ReaderId,
    Reply, Request, SecretText, SequenceNumber, SessionEnd, SessionId, Start,
};
use engine::shard::ShardConfig;
use engine_runtime::{
    ConnectionHandle, CoreContext, CoreDoor, Delivery, Running, RuntimeConfig, StopReport, start,
};
use futures_lite::FutureExt;
use registry::{ConsumerGroupId, DataKey, DeviceId, DeviceStatus};

type Job = Box<dyn FnOnce(CoreContext) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Scenarios on their way to one core.
#[derive(Clone, Default)]
struct Jobs(Arc<Mutex<(VecDeque<Job>, Option<Waker>)>>);

impl Jobs {
    fn push(&self, job: Job) {
        let mut state = self.0.lock().expect("no job runs under the lock");
        state.0.push_back(job);
        if let Some(waker) = state.1.take() {
            waker.wake();
        }
    }

    async fn next(&self) -> Job {
        poll_fn(|context| {
            let mut state = self.0.lock().expect("no job runs under the lock");
            match state.0.pop_front() {
                Some(job) => Poll::Ready(job),
                None => {
                    state.1 = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// A hub that runs. Scenarios are sent to its cores.
pub struct Hub {
    running: Running,
    jobs: Vec<Jobs>,
}

impl Hub {
    pub fn start(directory: &Path, core_count: u16, partition_count: u16) -> Self {
        Self::start_with(directory, core_count, partition_count, |_| {})
    }

    pub fn start_with(
        directory: &Path,
        core_count: u16,
        partition_count: u16,
        configure: impl FnOnce(&mut RuntimeConfig),
    ) -> Self {
        let mut config = RuntimeConfig::new(directory, shard_config(partition_count));
        config.core_count = core_count;
        configure(&mut config);
        let jobs: Vec<_> = (0..core_count).map(|_| Jobs::default()).collect();
        let per_core = jobs.clone();
        let running = start(config, move |context: CoreContext| {
            let jobs = per_core[usize::from(context.core.0)].clone();
            async move {
                let stopped = context.stopping.clone();
                let serve = async {
                    loop {
                        jobs.next().await(context.clone()).await;
                    }
                };
                serve.or(async { stopped.wait().await }).await;
            }
        });
        Self { running: running.expect("a hub"), jobs }
    }

    /// Run a scenario on a core, on a connection of its own.
    pub fn on<R: Send + 'static>(
        &self,
        core: u16,
        scenario: impl AsyncFnOnce(&mut Client) -> R + Send + 'static,
    ) -> R {
        finish(&self.begin(core, scenario))
    }

    /// Run a scenario on the first two cores at once.
    pub fn on_both<R: Send + 'static>(
        &self,
        scenario: impl AsyncFnOnce(&mut Client) -> R + Clone + Send + 'static,
    ) -> [R; 2] {
        let begun = [0, 1].map(|core| self.begin(core, scenario.clone()));
        begun.map(|begun| finish(&begun))
    }

    fn begin<R: Send + 'static>(
        &self,
        core: u16,
        scenario: impl AsyncFnOnce(&mut Client) -> R + Send + 'static,
    ) -> Receiver<thread::Result<R>> {
        let (sender, receiver) = channel();
        self.jobs[usize::from(core)].push(Box::new(move |context| {
            Box::pin(async move {
                let mut client = Client::new(&context);
                let result = AssertUnwindSafe(scenario(&mut client)).catch_unwind().await;
                drop(client);
                let _ = sender.send(result);
            })
        }));
        receiver
    }

    /// Leave a connection behind that never ends.
    pub fn keep_connection(&self, core: u16) {
        self.on(core, async |client| {
            let connection = client.context.connections.register().expect("room");
            glommio::spawn_local(async move {
                loop {
                    connection.next().await;
                }
            })
            .detach();
        });
    }

    pub fn busy_count(&self) -> u64 {
        self.running.busy_count()
    }

    pub fn stop(self) -> StopReport {
        self.running.stop()
    }
}

fn finish<R>(receiver: &Receiver<thread::Result<R>>) -> R {
    match receiver.recv_timeout(std::time::Duration::from_secs(20)).expect("the scenario ends") {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// One connection, used by one scenario.
pub struct Client {
    pub context: CoreContext,
    pub connection: ConnectionHandle,
    pub door: CoreDoor,
    token: u64,
}

impl Client {
    fn new(context: &CoreContext) -> Self {
        Self {
            connection: context.connections.register().expect("room"),
            door: context.door.clone(),
            context: context.clone(),
            token: 1000,
        }
    }

    fn caller(&self, token: u64) -> Caller {
        Caller { connection: self.connection.id(), token }
    }

    /// Ask, and leave the answer to be fetched.
    pub fn begin(&mut self, token: u64, request: Request) {
        let caller = self.caller(token);
        self.door.ask(caller, request).expect("room");
    }

    /// As [`begin`](Self::begin), for events.
    pub fn begin_append(&mut self, token: u64, session: SessionId, bodies: &[&[u8]]) {
        let events: Vec<_> = bodies
            .iter()
            .map(|message| EventView { message, annotations: &[], annotation_value_count: 0 })
            .collect();
        let caller = self.caller(token);
        self.door.append(caller, AppendView { session, events: &events }).expect("room");
    }

    async fn answer(&mut self, expected: u64) -> Reply {
        loop {
            match self.connection.next().await {
                Delivery::Reply { token, reply } => {
                    assert_eq!(token, expected);
                    return reply;
                }
                Delivery::Appended(answers) => {
                    let [answer] = answers[..] else { panic!("one was asked: {answers:?}") };
                    assert_eq!(answer.token, expected);
                    return Reply::Appended { first: answer.first, event_count: answer.event_count };
                }
                Delivery::Notice(_) => {}
                other => panic!("not an answer: {other:?}"),
            }
        }
    }

    /// Ask and wait for the answer.
    pub async fn ask(&mut self, request: Request) -> Reply {
        self.token += 1;
        self.begin(self.token, request);
        self.answer(self.token).await
    }

    /// Append and wait until it is durable.
    pub async fn append(&mut self, session: SessionId, bodies: &[&[u8]]) -> Reply {
        self.token += 1;
        self.begin_append(self.token, session, bodies);
        self.answer(self.token).await
    }

    pub async fn create_device(&mut self, id: &str) {
        let draft = DeviceDraft {
            device: device_id(id),
            primary_key: None,
            secondary_key: None,
            status: DeviceStatus::Enabled,
            status_reason: None,
        };
        match self.ask(Request::CreateDevice(draft)).await {
            Reply::Device(_) => {}
            other => panic!("not created: {other:?}"),
        }
    }

    async fn grant(&mut self, id: &str) -> Grant {
        let device = device_id(id);
        let Reply::Device(view) = self.ask(Request::FindDevice { device: device.clone() }).await else {
            panic!("no such device: {id}")
        };
        let key = SecretText::new(view.keys.primary.to_base64());
        match self.ask(Request::AuthenticateDeviceKey { device, key, protocol: Protocol::Amqps }).await {
            Reply::Authenticated(grant) => grant,
            other => panic!("not authenticated: {other:?}"),
        }
    }

    pub async fn open_session(&mut self, id: &str) -> SessionId {
        self.try_open_session(id).await.expect("no other connection attaches the device")
    }

    /// None: a newer session of another connection came in before the answer went out.
    pub async fn try_open_session(&mut self, id: &str) -> Option<SessionId> {
        let grant = self.grant(id).await;
        let request = Request::OpenSession { device: device_id(id), grant, protocol: Protocol::Amqps };
        match self.ask(request).await {
            Reply::SessionOpened(session) => Some(session),
            Reply::Failed(EngineError::SessionEnded(Some(SessionEnd::Stolen))) => None,
            other => panic!("not attached: {other:?}"),
        }
    }

    async fn default_group(&mut self) -> ConsumerGroupId {
        match self.ask(Request::FindConsumerGroup { name: "$Default".into() }).await {
            Reply::ConsumerGroup(group) => group.id,
            other => panic!("no group: {other:?}"),
        }
    }

    pub async fn open_reader(&mut self, partition: PartitionId, start: Start) -> ReaderId {
        let group = self.default_group().await;
        let request = Request::OpenReader { partition, group, start, epoch: None, name: None };
        match self.ask(request).await {
            Reply::ReaderOpened { reader, .. } => reader,
            other => panic!("no reader: {other:?}"),
        }
    }

    pub async fn describe(&mut self, partition: PartitionId) -> PartitionStatus {
        match self.ask(Request::DescribePartition { partition }).await {
            Reply::PartitionStatus(status) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// The messages of all events in a partition, in order and without a gap.
    pub async fn read_all(&mut self, partition: PartitionId) -> Vec<Vec<u8>> {
        let end = self.describe(partition).await.next;
        let reader = self.open_reader(partition, Start::Earliest).await;
        let mut bodies = Vec::new();
        while (bodies.len() as u64) < end.0 {
            match self.ask(Request::Read { reader, event_count_max: 100, bytes_max: 1 << 16 }).await {
                Reply::Events { batch, .. } => {
                    for event in batch.records.iter() {
                        assert_eq!(event.sequence, SequenceNumber(bodies.len() as u64));
                        bodies.push(event.message.to_vec());
                    }
                }
                other => panic!("not read: {other:?}"),
            }
        }
        let caller = self.caller(0);
        self.door.ask(caller, Request::CloseReader { reader }).expect("room");
        bodies
    }
}

pub fn device_id(id: &str) -> DeviceId {
    DeviceId::parse(id).expect("a valid id")
}

/// A body that tells who sent it and when.
pub fn body_of(device: &str, number: usize) -> Vec<u8> {
    format!("{device} #{number}").into_bytes()
}

/// Settings of a small hub: segments that are made in no time.
pub fn shard_config(partition_count: u16) -> ShardConfig {
    let mut config = ShardConfig::new(partition_count, DataKey::from_bytes([7; 32]));
    config.events.segment_bytes_max = 8 << 20;
    config
}
