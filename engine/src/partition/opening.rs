//! Opening a partition: recovery of both logs, the snapshot, and the journal on top of it.

use registry::{Change, KeySealer, SnapshotFile, Store, builtin_policies};
use segment_log::Finding;
use segment_log::storage::Storage;

use super::{Partition, Turn};
use crate::commands::Commands;
use crate::entry::{Blob, Entry};
use crate::event_log::EventLog;
use crate::fault::{OpenReport, PartitionFault};
use crate::journal::{Journal, JournalOptions, Mark, SNAPSHOT_NAME};
use crate::local_log::LocalLog;
use crate::monitor::{LogName, MonitorEvent};
use crate::placement::HUB_PARTITION;
use crate::readers::Readers;
use crate::reading::Reading;
use crate::receivers::Receivers;
use crate::request::PartitionId;
use crate::sessions::Sessions;

/// Where a partition lies: the storages of its two directories.
#[derive(Debug)]
pub struct PartitionStorage<S> {
    /// Which partition.
    pub id: PartitionId,
    /// The directory of its event log.
    pub events: S,
    /// The directory of its journal.
    pub journal: S,
}

/// Open a partition. Blocks. The report says what was found, also where the partition cannot be served.
pub(crate) fn open<S: Storage>(
    storage: PartitionStorage<S>,
    turn: &mut Turn<'_>,
) -> (Option<Partition<LocalLog<S>, S>>, OpenReport) {
    let partition = storage.id;
    let mut report = OpenReport { partition, events: None, journal: None, device_count: 0, fault: None };
    match try_open(storage, turn, &mut report) {
        Ok(partition) => (Some(partition), report),
        Err(fault) => {
            report.fault = Some(fault);
            (None, report)
        }
    }
}

fn try_open<S: Storage>(
    storage: PartitionStorage<S>,
    turn: &mut Turn<'_>,
    report: &mut OpenReport,
) -> Result<Partition<LocalLog<S>, S>, PartitionFault> {
    let PartitionStorage { id, events, journal: mut journal_storage } = storage;
    let (config, now) = (turn.config, turn.now);
    let sealer = KeySealer::new(&config.data_key);

    let file = journal_storage.read_file(SNAPSHOT_NAME)?;
    let snapshot = file.map(|file| SnapshotFile::open(file)).transpose()?;
    let snapshot_bytes = snapshot.as_ref().map_or(0, |file| file.bytes_len() as u64);
    let mut commands = Commands::new(config.commands.receipt_ttl_ms);
    let blob = snapshot.as_ref().map_or(&[][..], SnapshotFile::extra);
    let Blob { mark, mut checkpoints } = Blob::decode(blob, &mut commands, now)?;
    let mut store = Store::open(snapshot, sealer.clone())?;
    let options = JournalOptions {
        log: config.journal.clone(),
        sealer,
        seed: turn.nonce(),
        waiting_count_max: config.limits.change_waiting_max as usize,
        snapshot_due_bytes: config.snapshot_due_bytes,
        snapshot_bytes,
    };
    let apply = |entry| {
        match entry {
            Entry::Registry(change) => {
                if let Change::DeleteDevice { device } = &change {
                    commands.drop_device(device);
                }
                store.apply(change);
            }
            Entry::Checkpoint { group, number } => checkpoints.put(group, number),
            Entry::CheckpointDropped { group } => checkpoints.drop_group(group),
            entry => commands.apply(entry, now)?,
        }
        Ok(())
    };
    let (journal, recovered) = Journal::open(journal_storage, options, Mark(mark), now, apply)?;
    report.journal = Some(recovered);

    let (events, recovered) = LocalLog::open(events, config.events.clone(), now, turn.nonce())?;
    let damaged = recovered.findings.iter().filter_map(|finding| match finding {
        Finding::Damaged(range) => Some(range),
        _ => None,
    });
    for range in damaged {
        turn.out.monitor(MonitorEvent::LogDamaged {
            at_ms: now.wall_ms,
            partition: id,
            log: LogName::Events,
            first: range.first.0,
            resume: range.resume.0,
        });
    }
    report.events = Some(recovered);
    let count = store.count();
    report.device_count = count.enabled + count.disabled;

    let mut partition = Partition {
        id,
        last_enqueued_ms: events.bounds().last_time_ms,
        events,
        journal,
        store,
        checkpoints,
        durable_end: commands.next_number(),
        commands,
        undurable: Default::default(),
        receivers: Receivers::new(
            id,
            config.limits.session_count_max,
            config.limits.receipt_receiver_count_max,
        ),
        space_lacks: false,
        sessions: Sessions::new(id, config.limits.session_count_max),
        policy_holders: Default::default(),
        reading: Reading::new(Readers::new(id, config.limits.reader_count_max)),
        appends: Default::default(),
        unattached: Default::default(),
        events_failed: false,
        flushes: Vec::new(),
        jobs: Default::default(),
        is_closing: false,
        snapshot_file: None,
    };
    if id == HUB_PARTITION && partition.store.policies().is_empty() {
        partition.put_first_policies(turn)?;
    }
    Ok(partition)
}

impl<E: EventLog, S: Storage> Partition<E, S> {
    /// The policies of a new hub. Who asks for one is answered when it is durable.
    fn put_first_policies(&mut self, turn: &mut Turn<'_>) -> Result<(), PartitionFault> {
        let policies = match turn.config.first_policies.is_empty() {
            true => builtin_policies(turn.random),
            false => turn.config.first_policies.clone(),
        };
        for policy in policies {
            let change = Change::PutPolicy(policy);
            self.journal
                .append_opening(&Entry::Registry(change.clone()), turn.now)
                .map_err(PartitionFault::FirstPolicies)?;
            self.store.apply(change);
        }
        Ok(())
    }
}
