//! Import and export of all identities as jobs that outlive a restart [IoT Hub: iot-hub-bulk-identity-mgmt].
//!
//! A thread of its own does them, for it may sleep in files; it asks the shards through an
//! [`OutsideDoor`]. A connection hands it a question and looks now and then for the answer.

mod export;
mod import;
mod place;
mod record;
mod tidying;
mod worker;

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use engine_runtime::OutsideDoor;

pub use record::{JobKind, JobStatus, Record};
use worker::{Message, Worker};

/// Questions that may wait for the thread: more than can be asked while it does one batch.
const QUESTION_COUNT_MAX: usize = 64;

/// The way to the jobs. The default has none behind it and refuses everything.
#[derive(Clone, Default)]
pub struct Jobs(Option<SyncSender<Message>>);

/// What may be asked.
#[derive(Clone, Debug)]
pub enum Question {
    /// Begin a job. Answered with it once it is durable.
    Create(JobDraft),
    /// All jobs that are kept, the newest first.
    List,
    /// One job.
    Find(String),
    /// End a job that has not ended; answered with it once it is durable.
    Cancel(String),
}

/// A job as it is asked for.
#[derive(Clone, Debug)]
pub struct JobDraft {
    /// Import or export.
    pub kind: JobKind,
    /// Where the input is; imports have one.
    pub input_container: Option<String>,
    /// Where output goes.
    pub output_container: String,
    /// The input's name there.
    pub input_name: Option<String>,
    /// The output's.
    pub output_name: Option<String>,
    /// Whether an export leaves keys out.
    pub excludes_keys: bool,
}

/// Why a question about jobs is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Too many questions wait.
    #[error("the hub is busy with other questions about jobs")]
    Busy,
    /// The hub stops, or has no jobs.
    #[error("the hub does no jobs now")]
    Closed,
    /// What was asked cannot be.
    #[error("{0}")]
    Invalid(String),
    /// There is one already.
    #[error("job {0} is active: there is one import or export at a time")]
    Active(String),
    /// No such job.
    #[error("no such job")]
    NotFound,
    /// It has ended already.
    #[error("the job has ended already")]
    Ended,
    /// The job could not be written down.
    #[error("the job cannot be stored: {0}")]
    Storage(String),
}

/// What is answered: the jobs that were asked for.
pub type Answer = Result<Vec<Record>, JobError>;

/// An answer that may not be there yet.
#[derive(Clone, Debug, Default)]
pub struct Pending(Arc<OnceLock<Answer>>);

impl Pending {
    /// The answer, once it is there.
    pub fn answer(&self) -> Option<&Answer> {
        self.0.get()
    }

    fn tell(&self, answer: Answer) {
        // Each question is answered once.
        let _ = self.0.set(answer);
    }
}

impl Jobs {
    /// Ask; the call does not wait.
    ///
    /// # Errors
    ///
    /// [`JobError::Busy`] and [`JobError::Closed`]; nothing was asked then.
    pub fn ask(&self, question: Question) -> Result<Pending, JobError> {
        use std::sync::mpsc::TrySendError;
        let pending = Pending::default();
        let message = Message::Question(question, pending.clone());
        match self.0.as_ref().ok_or(JobError::Closed)?.try_send(message) {
            Ok(()) => Ok(pending),
            Err(TrySendError::Full(_)) => Err(JobError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(JobError::Closed),
        }
    }
}

/// Where jobs keep what they need.
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// The jobs themselves, one file each.
    pub records: PathBuf,
    /// The directory that all containers lie in.
    pub files: PathBuf,
    /// How many partitions the hub has.
    pub partition_count: u16,
}

/// The thread, to be stopped behind the cores.
pub struct JobsThread {
    jobs: Jobs,
    thread: JoinHandle<()>,
}

impl JobsThread {
    /// Read what earlier runs left, and begin: a job that had not ended goes on.
    ///
    /// # Errors
    ///
    /// The directories cannot be made or read.
    pub fn start(config: JobsConfig, door: OutsideDoor) -> io::Result<(Jobs, Self)> {
        let (sender, questions) = sync_channel(QUESTION_COUNT_MAX);
        let jobs = Jobs(Some(sender));
        let worker = Worker::open(config, door, questions)?;
        let thread = std::thread::Builder::new().name("jobs".into()).spawn(move || worker.run())?;
        Ok((jobs.clone(), Self { jobs, thread }))
    }

    /// Wait for the thread's end, which comes when the cores have ended. A job that has not ended goes on with the next start.
    pub fn stop(self) {
        if let Some(sender) = &self.jobs.0 {
            // It may have ended by itself, for want of a hub.
            let _ = sender.send(Message::Stop);
        }
        if self.thread.join().is_err() {
            tracing::error!("the thread of import and export jobs panicked: please report this");
        }
    }
}
