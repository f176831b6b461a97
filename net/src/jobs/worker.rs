//! The thread of jobs: one page of what is tidied after a start or one batch of the active job, then whatever was asked
//! meanwhile.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::placement::device_partition;
use engine::request::{DeviceChange, DeviceView, EngineError, PartitionId, Reply, Request};
use engine_runtime::OutsideDoor;
use registry::DeviceId;
use tracing::{error, info, warn};

use super::export::Export;
use super::import::Import;
use super::place::{Files, is_name, make_root};
use super::record::{JobKind, JobStatus, Record};
use super::tidying::Tidying;
use super::{Answer, JobDraft, JobError, JobsConfig, Pending, Question};

/// How long ended jobs are kept, milliseconds [IoT Hub: iot-hub-devguide-quotas-throttling, 30 days of job history].
const KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// How many are kept.
const KEPT_COUNT_MAX: usize = 100;

/// How often changes are asked again that a partition was too busy for, and how long apart: half a minute in all.
const BUSY_TRIES: u32 = 1500;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// What comes to the thread.
pub(super) enum Message {
    Question(Question, Pending),
    Stop,
}

/// Why a job does not go on.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The hub stops: the job goes on with the next start.
    Closed,
    /// For good, and why.
    Failed(String),
}

impl Trouble {
    /// What nothing can be made of.
    pub(super) fn unexpected(reply: Reply) -> Self {
        match reply {
            Reply::Failed(EngineError::Stopping) => Self::Closed,
            Reply::Failed(error) => Self::Failed(error.to_string()),
            _ => Self::Failed("the hub has made an error".into()),
        }
    }

    fn too_busy() -> Self {
        Self::Failed("the hub was too busy for too long".into())
    }

    pub(super) fn failed(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }
}

/// The hub as jobs see it.
pub(super) struct Hub {
    door: OutsideDoor,
    pub(super) partition_count: u16,
}

impl Hub {
    /// Ask and wait.
    pub(super) fn ask(&self, requests: Vec<Request>) -> Result<Vec<Reply>, Trouble> {
        self.door.ask(requests).map_err(|_| Trouble::Closed)
    }

    /// Read an identity. None: there is none. What cannot be told is not taken for either.
    pub(super) fn find(&self, device: &DeviceId) -> Result<Option<Box<DeviceView>>, Trouble> {
        match self.ask_patiently(&Request::FindDevice { device: device.clone() })? {
            Reply::Device(view) => Ok(Some(view)),
            Reply::Failed(EngineError::DeviceNotFound) => Ok(None),
            reply => Err(Trouble::unexpected(reply)),
        }
    }

    /// Ask one question, again and again as long as whoever is to answer is busy.
    pub(super) fn ask_patiently(&self, request: &Request) -> Result<Reply, Trouble> {
        for _ in 0..BUSY_TRIES {
            match self.ask(vec![request.clone()])?.pop() {
                Some(Reply::Failed(EngineError::Busy)) => std::thread::sleep(BUSY_PAUSE),
                Some(reply) => return Ok(reply),
                None => return Err(Trouble::Closed),
            }
        }
        Err(Trouble::too_busy())
    }

    /// Make changes, at most one for each device and not more than a partition takes at a time. What a partition was too busy
    /// for is asked again; what came of each, in their order.
    pub(super) fn change(&self, changes: Vec<DeviceChange>) -> Result<Vec<Result<(), EngineError>>, Trouble> {
        let mut results = vec![Err(EngineError::Busy); changes.len()];
        let mut left: Vec<(usize, DeviceChange)> = changes.into_iter().enumerate().collect();
        for _ in 0..BUSY_TRIES {
            let mut of_partitions = vec![Vec::new(); usize::from(self.partition_count)];
            for (place, change) in left.drain(..) {
                let partition = device_partition(change.device(), self.partition_count);
                of_partitions[usize::from(partition.0)].push((place, change));
            }
            let asked: Vec<(PartitionId, Vec<(usize, DeviceChange)>)> = (0..)
                .map(PartitionId)
                .zip(of_partitions)
                .filter(|(_, changes)| !changes.is_empty())
                .collect();
            let requests = asked.iter().map(|(partition, changes)| Request::ChangeDevices {
                partition: *partition,
                changes: changes.iter().map(|(_, change)| change.clone()).collect(),
            });
            let replies = self.ask(requests.collect())?;
            for ((_, changes), reply) in asked.into_iter().zip(replies) {
                let of_each = match reply {
                    Reply::DevicesChanged(of_each) if of_each.len() == changes.len() => of_each,
                    Reply::Failed(error) => vec![Err(error); changes.len()],
                    _ => return Err(Trouble::Failed("the hub has made an error".into())),
                };
                for ((place, change), result) in changes.into_iter().zip(of_each) {
                    match &result {
                        Err(EngineError::Busy) => left.push((place, change)),
                        Err(EngineError::Stopping) => return Err(Trouble::Closed),
                        Err(error @ (EngineError::StorageFull | EngineError::StorageFailed)) => {
                            return Err(Trouble::Failed(error.to_string()));
                        }
                        _ => {}
                    }
                    results[place] = result;
                }
            }
            if left.is_empty() {
                return Ok(results);
            }
            std::thread::sleep(BUSY_PAUSE);
        }
        Err(Trouble::too_busy())
    }
}

/// The job under way.
struct Active {
    id: String,
    work: Option<ActiveWork>,
}

enum ActiveWork {
    Import(Box<Import>),
    Export(Export),
}

/// The thread's own.
pub(super) struct Worker {
    hub: Hub,
    files: Files,
    records_directory: PathBuf,
    /// The oldest first.
    records: Vec<Record>,
    active: Option<Active>,
    /// None: done.
    tidying: Option<Tidying>,
    questions: Receiver<Message>,
}

impl Worker {
    pub(super) fn open(
        config: JobsConfig,
        door: OutsideDoor,
        questions: Receiver<Message>,
    ) -> io::Result<Self> {
        crate::files::create_directory(&config.records)?;
        let files = Files::new(make_root(&config.files)?);
        let records = Record::load_all(&config.records)?;
        let active = records.iter().find(|record| record.status.is_active());
        let active = active.map(|record| Active { id: record.id.clone(), work: None });
        if let Some(active) = &active {
            info!(job = active.id, "a job of an earlier run goes on");
        }
        let hub = Hub { door, partition_count: config.partition_count };
        let tidying = Some(Tidying::default());
        Ok(Self { hub, files, records_directory: config.records, records, active, tidying, questions })
    }

    pub(super) fn run(mut self) {
        loop {
            let message = match self.active.is_none() && self.tidying.is_none() {
                true => self.questions.recv().map_err(|_| TryRecvError::Disconnected),
                false => self.questions.try_recv(),
            };
            match message {
                Ok(Message::Question(question, pending)) => pending.tell(self.answer(question)),
                Err(TryRecvError::Empty) if self.step() => {}
                Ok(Message::Stop) | Err(_) => return,
            }
        }
    }

    fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Create(draft) => self.create(draft).map(|record| vec![record]),
            Question::List => Ok(self.records.iter().rev().cloned().collect()),
            Question::Find(id) => self.find(&id).map(|index| vec![self.records[index].clone()]),
            Question::Cancel(id) => {
                let index = self.find(&id)?;
                if !self.records[index].status.is_active() {
                    return Err(JobError::Ended);
                }
                self.end(JobStatus::Cancelled, None);
                Ok(vec![self.records[index].clone()])
            }
        }
    }

    fn find(&self, id: &str) -> Result<usize, JobError> {
        self.records.iter().position(|record| record.id == id).ok_or(JobError::NotFound)
    }

    fn create(&mut self, draft: JobDraft) -> Result<Record, JobError> {
        let containers = [draft.input_container.as_deref(), Some(draft.output_container.as_str())];
        for container in containers.into_iter().flatten() {
            self.files.parse(container).map_err(JobError::Invalid)?;
        }
        for name in [&draft.input_name, &draft.output_name].into_iter().flatten() {
            if !is_name(name) {
                let text =
                    "a file's name is 1 to 128 letters, digits, '.', '_' and '-', without a dot in front";
                return Err(JobError::Invalid(text.into()));
            }
        }
        if draft.kind == JobKind::Import && draft.input_container.is_none() {
            return Err(JobError::Invalid("inputBlobContainerUri is missing".into()));
        }
        if let Some(active) = &self.active {
            return Err(JobError::Active(active.id.clone()));
        }
        let now_ms = now_ms();
        let record = Record::new(new_id().map_err(storage)?, draft, now_ms);
        record.store(&self.records_directory).map_err(storage)?;
        info!(job = record.id, kind = ?record.kind, "a job begins");
        self.active = Some(Active { id: record.id.clone(), work: None });
        self.records.push(record.clone());
        self.forget_old(now_ms);
        Ok(record)
    }

    /// Do one batch. False: the hub stops.
    fn step(&mut self) -> bool {
        if let Some(tidying) = &mut self.tidying {
            match tidying.step(&self.hub) {
                Ok(false) => {}
                Ok(true) => self.tidying = None,
                Err(Trouble::Closed) => return false,
                Err(Trouble::Failed(text)) => {
                    warn!("what came of deleted enrolment groups stays until the next start: {text}");
                    self.tidying = None;
                }
            }
            return true;
        }
        let Some(active) = &mut self.active else { return true };
        let Some(record) = self.records.iter_mut().find(|record| record.id == active.id) else {
            self.active = None;
            return true;
        };
        let progress = match &mut active.work {
            Some(ActiveWork::Import(import)) => import.step(record, &self.hub),
            Some(ActiveWork::Export(export)) => export.step(record, &self.hub),
            None => {
                let opened = match record.kind {
                    JobKind::Import => {
                        Import::open(record, &self.files).map(|import| ActiveWork::Import(Box::new(import)))
                    }
                    JobKind::Export => Export::open(record, &self.files, &self.hub).map(ActiveWork::Export),
                };
                record.status = JobStatus::Running;
                opened.map(|work| {
                    active.work = Some(work);
                    false
                })
            }
        };
        match progress {
            Ok(false) => {
                if let Err(error) = record.store(&self.records_directory) {
                    self.end(JobStatus::Failed, Some(format!("the job cannot be stored: {error}")));
                }
            }
            Ok(true) => self.end(JobStatus::Completed, None),
            Err(Trouble::Closed) => return false,
            Err(Trouble::Failed(text)) => self.end(JobStatus::Failed, Some(text)),
        }
        true
    }

    /// The active job ends.
    fn end(&mut self, status: JobStatus, failure: Option<String>) {
        let Some(active) = self.active.take() else { return };
        let Some(record) = self.records.iter_mut().find(|record| record.id == active.id) else { return };
        record.status = status;
        record.ended_ms = Some(now_ms());
        match (&failure, status) {
            (Some(text), _) => warn!(job = record.id, "a job failed: {text}"),
            (None, JobStatus::Completed) => {
                record.progress = 100;
                let done = &record.done;
                info!(
                    job = record.id,
                    devices = done.device_count,
                    refused = done.refused_count,
                    "a job is done"
                );
            }
            (None, _) => info!(job = record.id, "a job was cancelled"),
        }
        record.failure = failure;
        if let (Some(ActiveWork::Export(export)), false) = (active.work, status == JobStatus::Completed) {
            export.discard();
        }
        if let Err(error) = record.store(&self.records_directory) {
            error!(
                job = record.id,
                "the end of a job cannot be stored; the next start will go on with it: {error}"
            );
        }
    }

    fn forget_old(&mut self, now_ms: u64) {
        let directory = &self.records_directory;
        let mut surplus = self.records.len().saturating_sub(KEPT_COUNT_MAX);
        self.records.retain(|record| {
            let is_old = record.started_ms + KEPT_MS < now_ms || surplus > 0;
            if record.status.is_active() || !is_old {
                return true;
            }
            surplus = surplus.saturating_sub(1);
            if let Err(error) = record.remove(directory) {
                warn!(job = record.id, "an old job cannot be removed: {error}");
            }
            false
        });
    }
}

fn storage(error: io::Error) -> JobError {
    JobError::Storage(error.to_string())
}

fn new_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().hyphenated().to_string())
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
