//! Monitoring events as log lines: what an operator must see is an error or a warning, what changes is news, and what a
//! thousand devices do at once is only for those who ask.

use engine::monitor::MonitorEvent;

/// Write one event to the log.
pub(crate) fn log(event: &MonitorEvent) {
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
        other => tracing::debug!(event = ?other, "monitor"),
    }
}
