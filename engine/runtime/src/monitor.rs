//! Monitoring events and what opening found, as log lines: what an operator must see is an error or a warning, what changes is news, and what a
//! thousand devices do at once is only for those who ask.

use engine::monitor::{LogName, MonitorEvent};
use engine::shard::OpenReport;
use segment_log::{Finding, RecoveryReport};

/// Write one event to the log.
pub(crate) fn log_event(event: &MonitorEvent) {
    match event {
        MonitorEvent::LogDamaged { partition, log, first, resume, .. } => tracing::error!(
            partition = partition.0,
            %log,
            first,
            resume,
            "stored records are damaged; they are kept and not served"
        ),
        MonitorEvent::LogFailed { partition, log, text, .. } => tracing::error!(
            partition = partition.0,
            %log,
            text,
            "a log has failed and takes nothing until the hub is restarted"
        ),
        MonitorEvent::SpaceLacking { partition, log, text, .. } => tracing::error!(
            partition = partition.0,
            %log,
            text,
            "there is no space left; telemetry is refused until there is"
        ),
        MonitorEvent::SpaceReturned { partition, log, .. } => {
            tracing::warn!(partition = partition.0, %log, "there is space again");
        }
        MonitorEvent::SnapshotFailed { partition, text, .. } => {
            tracing::warn!(
                partition = partition.0,
                text,
                "a snapshot could not be stored; the journal goes on"
            );
        }
        MonitorEvent::AccessRefused { claim, protocol, error, .. } => {
            tracing::info!(?claim, ?protocol, %error, "access refused");
        }
        MonitorEvent::EventsRetired { partition, first, .. } => {
            tracing::info!(partition = partition.0, first, "retention removed events");
        }
        MonitorEvent::PolicyChanged { name, .. } => {
            tracing::info!(policy = name.as_str(), "a policy changed; what came by it is cut off");
        }
        other => tracing::debug!(event = ?other, "monitor"),
    }
}

/// Write what opening a partition found to the log: damage and faults are errors, what was cut is a warning.
pub(crate) fn log_report(report: &OpenReport) {
    let partition = report.partition.0;
    for (log, recovery) in [(LogName::Events, &report.events), (LogName::Journal, &report.journal)] {
        if let Some(recovery) = recovery {
            log_recovery(partition, log, recovery);
        }
    }
    match &report.fault {
        Some(fault) => {
            tracing::error!(partition, %fault, "the partition is out of service; nothing of it was changed")
        }
        None => tracing::debug!(partition, device_count = report.device_count, "partition opened"),
    }
}

fn log_recovery(partition: u16, log: LogName, recovery: &RecoveryReport) {
    for finding in &recovery.findings {
        match finding {
            Finding::Damaged(range) => tracing::error!(
                partition,
                %log,
                "stored records are damaged; they are kept and not served: {range}"
            ),
            Finding::HeaderDamaged { .. } => tracing::error!(partition, %log, "{finding}"),
            // The usual end of a process that was killed.
            Finding::Unclean { records_dropped: 0, .. } => tracing::info!(partition, %log, "{finding}"),
            Finding::Unclean { .. } | Finding::IndexRebuilt { .. } | Finding::Unsealed { .. } => {
                tracing::warn!(partition, %log, "{finding}");
            }
        }
    }
    let (first, next) = (recovery.first.0, recovery.next.0);
    tracing::debug!(partition, %log, first, next, segments = recovery.segments, "log opened");
}
