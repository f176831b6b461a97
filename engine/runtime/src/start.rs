//! The start of a run, and its end.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use engine::request::CoreId;
use engine::shard::{PartitionStorage, Shard, ShardOpenError};
use glommio::{GlommioError, LocalExecutorBuilder, Placement, PoolPlacement};
use segment_log::storage::StorageError;
use segment_log::storage::disk::DiskConfig;

use crate::commit_round::CommitRound;
use crate::config::{RuntimeConfig, partition_dir};
use crate::context::CoreContext;
use crate::core::{Core, own_partitions};
use crate::disk::{DiskContext, DmaStorage, LoadTurns};
use crate::fatal::FatalOnPanic;
use crate::helper::{HelperThreads, Helpers};
use crate::limits::{CORE_COUNT_MAX, PREEMPT_MS, RING_DEPTH, RING_MEMORY_BYTES};
use crate::monitor;
use crate::probe::{ProbeError, check_io_uring};
use crate::ring_setup::is_cooperative;
use crate::run::run_core;
use crate::shared::{News, Shared};

/// Beyond the stop's own deadline, how long threads are waited for that may hang in the kernel.
const JOIN_GRACE: Duration = Duration::from_millis(500);

/// Why the runtime did not start. The text is one sentence for whoever started it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// io_uring is missing or forbidden.
    #[error(transparent)]
    IoUring(#[from] ProbeError),
    /// A number of cores that cannot be.
    #[error("{core_count} cores cannot be used: it must be 1 to {CORE_COUNT_MAX}")]
    CoreCount {
        /// What was asked.
        core_count: u16,
    },
    /// The CPUs named are not one for each core.
    #[error("{cpu_count} CPUs are named to pin {core_count} cores to: name one for each core")]
    Pin {
        /// CPUs named.
        cpu_count: usize,
        /// Cores asked.
        core_count: u16,
    },
    /// An executor could not be made: usually its CPU does not exist, or may not be used.
    #[error("core {core} cannot be started: {text}")]
    Executor {
        /// Which.
        core: u16,
        /// What glommio said.
        text: String,
    },
    /// The operating system gave no thread or no randomness.
    #[error("the hub cannot be started: {0}")]
    System(#[from] io::Error),
    /// A partition's directory cannot be used.
    #[error("{path} cannot be opened: {error}")]
    Directory {
        /// Where.
        path: PathBuf,
        /// Why.
        error: StorageError,
    },
    /// A partition cannot be opened.
    #[error(transparent)]
    Open(#[from] ShardOpenError),
}

/// Start the cores: check that io_uring can be used, open every partition (each core its own, all at once), and run
/// `per_core` on each core. Returns once all partitions are open. Recovery is logged: what was cut, and why.
///
/// `per_core` is the core's first task. It gets the core's [`CoreContext`], spawns what it wants with glommio, and returns
/// soon after [`Stopping`](crate::Stopping) is set. A panic in it ends the process.
///
/// An executor costs a descriptor that is never given back, so start once per process.
///
/// # Errors
///
/// [`StartError`]; nothing runs then.
pub fn start<F, Fut>(config: RuntimeConfig, per_core: F) -> Result<Running, StartError>
where
    F: Fn(CoreContext) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    check_io_uring()?;
    let core_count = config.core_count;
    if !(1..=CORE_COUNT_MAX).contains(&core_count) {
        return Err(StartError::CoreCount { core_count });
    }
    if let Some(cpus) = &config.pin
        && cpus.len() != usize::from(core_count)
    {
        return Err(StartError::Pin { cpu_count: cpus.len(), core_count });
    }

    let (news_sender, news) = channel();
    let shared = Arc::new(Shared::new(core_count, config.stop_timeout_ms, news_sender));
    let (helpers, helper_threads) = Helpers::start(usize::from(core_count).clamp(2, 8))?;
    let gate = Arc::new(Gate::default());
    let (opened_sender, opened) = channel();
    let mut threads = Vec::new();
    let mut result = Ok(());
    for core in (0..core_count).map(CoreId) {
        let seed = CoreSeed {
            core,
            config: config.clone(),
            shared: Arc::clone(&shared),
            helpers: helpers.clone(),
            gate: Arc::clone(&gate),
            opened: opened_sender.clone(),
        };
        let per_core = per_core.clone();
        match thread::Builder::new().name(format!("core-{}", core.0)).spawn(move || seed.run(per_core)) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                result = Err(error.into());
                break;
            }
        }
    }
    drop((opened_sender, helpers));
    // Every core tells once, and the channel ends when all have.
    for opened in opened {
        if result.is_ok() {
            result = opened;
        }
    }
    gate.open(result.is_ok());
    let running = Running { shared, news, threads, helper_threads };
    match result {
        Ok(()) => {
            if !is_cooperative() {
                tracing::warn!(
                    "completions of io_uring interrupt the cores: the hub is faster on Linux 5.19 or newer, in a program \
                     that is linked as engine_runtime::ring_setup says"
                );
            }
            Ok(running)
        }
        Err(error) => {
            running.join_threads(usize::from(core_count));
            Err(error)
        }
    }
}

/// A hub that runs. Dropping it leaves it running.
pub struct Running {
    shared: Arc<Shared>,
    news: Receiver<News>,
    threads: Vec<JoinHandle<()>>,
    helper_threads: HelperThreads,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Connections had gone, everything was durable and all threads had ended in time. Otherwise what was acknowledged is
    /// safe all the same, and the next start recovers.
    pub clean: bool,
}

/// Begins the stop of a run, from any thread.
#[derive(Clone)]
pub struct StopHandle(Arc<Shared>);

impl StopHandle {
    /// Begin the stop: no new work, connections end, logs are flushed, cores end. Returns at once; repeating it changes
    /// nothing.
    pub fn begin_stop(&self) {
        self.0.begin_stop();
    }
}

impl Running {
    /// A way to begin the stop from elsewhere.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.shared))
    }

    /// How many requests were refused so far because a mailbox was full or a connection had too many open.
    pub fn busy_count(&self) -> u64 {
        self.shared.busy_count()
    }

    /// Begin the stop and wait for its end, at most little longer than the configured time.
    pub fn stop(self) -> StopReport {
        self.shared.begin_stop();
        self.wait()
    }

    /// Wait until somebody has begun the stop, then for its end.
    pub fn wait(self) -> StopReport {
        let mut clean = true;
        let mut ended_count = 0;
        while ended_count < self.threads.len() {
            let news = match self.shared.stop_begun_ms() {
                None => self.news.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => self.news.recv_timeout(self.until_end()),
            };
            match news {
                Ok(News::StopBegun) => {}
                Ok(News::CoreEnded { clean: core_clean }) => {
                    clean &= core_clean;
                    ended_count += 1;
                }
                Err(_) => {
                    tracing::error!("a core did not end in time");
                    clean = false;
                    break;
                }
            }
        }
        let all_joined = self.join_threads(ended_count);
        StopReport { clean: clean && all_joined }
    }

    fn until_end(&self) -> Duration {
        let begun_ms = self.shared.stop_begun_ms().unwrap_or_else(|| self.shared.clock.mono_ms());
        let end_ms = begun_ms.saturating_add(self.shared.stop_timeout_ms);
        Duration::from_millis(end_ms.saturating_sub(self.shared.clock.mono_ms())) + JOIN_GRACE
    }

    /// Join the threads when all cores have ended. Helper threads may be busy with what nobody waits for: a new segment
    /// that will not be used. They are given what is left of the time.
    fn join_threads(self, ended_count: usize) -> bool {
        if ended_count < self.threads.len() {
            return false;
        }
        let until_end = self.until_end();
        for thread in self.threads {
            // A core's panic has ended the process before.
            let _ = thread.join();
        }
        let step = Duration::from_millis(5);
        let mut left = until_end;
        while !self.helper_threads.are_finished() {
            if left.is_zero() {
                tracing::error!("disk work did not end in time");
                return false;
            }
            thread::sleep(step);
            left = left.saturating_sub(step);
        }
        self.helper_threads.join();
        true
    }
}

/// Holds opened cores until all are open, or one has failed.
#[derive(Default)]
struct Gate {
    serve: Mutex<Option<bool>>,
    changed: Condvar,
}

impl Gate {
    fn open(&self, serve: bool) {
        *self.serve.lock().unwrap_or_else(PoisonError::into_inner) = Some(serve);
        self.changed.notify_all();
    }

    fn wait(&self) -> bool {
        let mut serve = self.serve.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(serve) = *serve {
                return serve;
            }
            serve = self.changed.wait(serve).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What a core's thread is made from.
struct CoreSeed {
    core: CoreId,
    config: RuntimeConfig,
    shared: Arc<Shared>,
    helpers: Helpers,
    gate: Arc<Gate>,
    opened: Sender<Result<(), StartError>>,
}

impl CoreSeed {
    fn run<F, Fut>(self, per_core: F)
    where
        F: Fn(CoreContext) -> Fut,
        Fut: Future<Output = ()> + 'static,
    {
        let _fatal = FatalOnPanic::new("thread of a core");
        let placement = match &self.config.pin {
            Some(cpus) => Placement::Fixed(cpus[usize::from(self.core.0)]),
            None => Placement::Unbound,
        };
        let executor = LocalExecutorBuilder::new(placement)
            .name("core")
            .io_memory(RING_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .preempt_timer(Duration::from_millis(PREEMPT_MS))
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
            .make();
        match executor {
            Ok(executor) => {
                let shared = Arc::clone(&self.shared);
                if let Some(clean) = executor.run(self.serve(per_core)) {
                    drop(executor);
                    shared.tell(News::CoreEnded { clean });
                }
            }
            Err(error) => {
                let error: GlommioError<()> = error;
                let error = StartError::Executor { core: self.core.0, text: error.to_string() };
                let _ = self.opened.send(Err(error));
            }
        }
    }

    /// Open the core's partitions, and serve once all cores have opened theirs. None: the start failed.
    async fn serve<F, Fut>(self, per_core: F) -> Option<bool>
    where
        F: Fn(CoreContext) -> Fut,
        Fut: Future<Output = ()> + 'static,
    {
        let in_flight_count = Rc::new(Cell::new(0));
        let commit_round = Rc::new(CommitRound::default());
        let ring: Rc<dyn Fn()> = {
            let (shared, core) = (Arc::clone(&self.shared), self.core);
            Rc::new(move || shared.signal(core).ring())
        };
        let disk = DiskContext {
            helpers: self.helpers.clone(),
            ring,
            in_flight_count: Rc::clone(&in_flight_count),
            commit_round: Rc::clone(&commit_round),
            load_turns: LoadTurns::new(Rc::clone(&commit_round)),
            sync_delay: Duration::from_millis(self.config.sync_delay_ms),
        };
        let opened = self.open(&disk);
        drop(disk);
        let (shard, result) = match opened {
            Ok(shard) => (Some(shard), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let Self { core, config, shared, helpers, gate, opened } = self;
        // `start` listens until every core has told.
        let _ = opened.send(result);
        drop(opened);
        if !gate.wait() {
            return None;
        }
        let core = Core::new(
            core,
            Arc::clone(&shared),
            helpers,
            config.shard.partition_count,
            config.connection_count_max,
            commit_round,
            shard?,
        );
        Some(run_core(core, shared, move || in_flight_count.get() == 0, per_core).await)
    }

    fn open(&self, disk: &DiskContext) -> Result<Shard<DmaStorage>, StartError> {
        let config = &self.config;
        let open_log = |path: PathBuf| {
            DmaStorage::open(&path, DiskConfig::default(), disk.clone())
                .map_err(|error| StartError::Directory { path, error })
        };
        let mut partitions = Vec::new();
        for id in own_partitions(self.core, config.core_count, config.shard.partition_count) {
            let directory = partition_dir(&config.data_dir, id);
            partitions.push(PartitionStorage {
                id,
                events: open_log(directory.join("events"))?,
                journal: open_log(directory.join("journal"))?,
            });
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(io::Error::other)?;
        let (shard, reports) = Shard::open(config.shard.clone(), partitions, self.shared.clock.now(), seed)?;
        reports.iter().for_each(monitor::log_report);
        Ok(shard)
    }
}
