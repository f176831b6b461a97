//! Work that takes its time, for a thread that may take it.

use std::sync::Arc;

use registry::{Retired, SnapshotError, SnapshotFile, SnapshotJob};
use segment_log::storage::Mapping;

use crate::entry::Frozen;
use crate::request::PartitionId;

/// Work that a shard hands out: it may run on any thread, and the result goes back to
/// [`Shard::handle_job_done`](crate::shard::Shard::handle_job_done).
#[derive(Debug)]
pub struct Job {
    partition: PartitionId,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Write the registry's snapshot, with everything else that the journal knows, into memory.
    Snapshot(Box<(SnapshotJob, Frozen)>),
    /// Free what a snapshot made superfluous.
    Drop(Freed),
}

/// Keeps `Debug` off what has none.
struct Freed(Retired);

impl std::fmt::Debug for Freed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Freed(_) = self;
        formatter.write_str("Freed")
    }
}

impl Job {
    pub(crate) fn snapshot(partition: PartitionId, job: SnapshotJob, frozen: Frozen) -> Self {
        Self { partition, work: Work::Snapshot(Box::new((job, frozen))) }
    }

    pub(crate) fn free(partition: PartitionId, retired: Retired) -> Self {
        Self { partition, work: Work::Drop(Freed(retired)) }
    }

    /// Do it. Blocks for as long as it takes: about a second for a million identities or a gibibyte of commands.
    pub fn run(self) -> JobDone {
        let made = match self.work {
            Work::Drop(Freed(retired)) => {
                drop(retired);
                None
            }
            Work::Snapshot(work) => {
                let (job, frozen) = *work;
                Some(job.run(|out| frozen.encode(out)).and_then(|bytes| {
                    // The file is verified here once more, and the identities are served from memory from now on: what
                    // is mapped at the next start is this very content. Commands are in memory already.
                    let bytes = Arc::new(bytes);
                    let file = SnapshotFile::open(bytes.clone())?;
                    let file = file.without_extra(|front| Arc::new(Mapping::from_bytes(front)));
                    Ok(MadeSnapshot { bytes: Arc::unwrap_or_clone(bytes), file })
                }))
            }
        };
        JobDone { partition: self.partition, made }
    }
}

/// The result of a [`Job`].
pub struct JobDone {
    pub(crate) partition: PartitionId,
    /// None: the job had nothing to tell.
    pub(crate) made: Option<Result<MadeSnapshot, SnapshotError>>,
}

impl std::fmt::Debug for JobDone {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("JobDone").field("partition", &self.partition).finish_non_exhaustive()
    }
}

/// A snapshot, ready to be stored and to be served from.
pub(crate) struct MadeSnapshot {
    /// For the file.
    pub bytes: Vec<u8>,
    /// The same, verified.
    pub file: SnapshotFile,
}
