//! A job as it is kept: one file each, replaced as a whole.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::binding::status::iso_time;
use crate::files::{self, Readers};

/// The version of the file's form.
const VERSION: u32 = 1;

/// Which way identities go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobKind {
    /// Into the hub.
    Import,
    /// Out of it.
    Export,
}

/// How a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobStatus {
    /// It is about to begin.
    Enqueued,
    /// It is under way.
    Running,
    /// All is done.
    Completed,
    /// It could not go on.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl JobStatus {
    /// Whether there is more to do.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Enqueued | Self::Running)
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// Its id: letters, digits and hyphens.
    pub id: String,
    /// Which way.
    pub kind: JobKind,
    /// How it stands.
    pub status: JobStatus,
    /// When it was asked for, milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// How far it is, 0 to 100.
    pub progress: u32,
    /// Why it failed.
    pub failure: Option<String>,
    /// As it was asked for.
    pub input_container: Option<String>,
    /// As it was asked for.
    pub output_container: String,
    /// The input's name there.
    pub input_name: String,
    /// The output's name there; an import's is that of its log of errors.
    pub output_name: String,
    /// Whether keys are left out.
    pub excludes_keys: bool,
    /// Everything before here is done and durable.
    pub done: Done,
}

/// How far a job has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// Bytes of the input.
    pub input_bytes: u64,
    /// Lines of the input.
    pub line_count: u64,
    /// Bytes of the output: what lies behind them is cut when the job goes on.
    pub output_bytes: u64,
    /// The last device of an export.
    pub device: Option<String>,
    /// Devices imported or exported.
    pub device_count: u64,
    /// Lines that came to nothing.
    pub refused_count: u64,
}

impl Record {
    /// A job that has done nothing yet.
    pub(super) fn new(id: String, draft: super::JobDraft, now_ms: u64) -> Self {
        let output_name = match draft.kind {
            JobKind::Import => super::import::ERRORS_NAME,
            JobKind::Export => super::export::OUTPUT_NAME,
        };
        Self {
            version: VERSION,
            id,
            kind: draft.kind,
            status: JobStatus::Enqueued,
            started_ms: now_ms,
            ended_ms: None,
            progress: 0,
            failure: None,
            input_container: draft.input_container,
            output_container: draft.output_container,
            input_name: draft.input_name.unwrap_or_else(|| super::export::OUTPUT_NAME.to_owned()),
            output_name: match (draft.kind, draft.output_name) {
                (JobKind::Export, Some(name)) => name,
                _ => output_name.to_owned(),
            },
            excludes_keys: draft.excludes_keys,
            done: Done::default(),
        }
    }

    /// As it is told \[IoT Hub REST: Jobs - Get Import Export Job\], with counts of our own.
    pub fn view(&self) -> Value {
        let time = |ms: u64| iso_time(ms);
        json!({
            "jobId": self.id, "type": self.kind, "status": self.status, "progress": self.progress,
            "startTimeUtc": time(self.started_ms), "endTimeUtc": self.ended_ms.map(time),
            "failureReason": self.failure, "inputBlobContainerUri": self.input_container,
            "outputBlobContainerUri": self.output_container, "inputBlobName": self.input_name,
            "outputBlobName": self.output_name, "excludeKeysInExport": self.excludes_keys,
            "storageAuthenticationType": null, "deviceCount": self.done.device_count,
            "refusedCount": self.done.refused_count,
        })
    }

    /// Write it down; durable when this returns.
    pub(super) fn store(&self, directory: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self).expect("numbers and texts are JSON");
        files::replace(&directory.join(format!("{}.json", self.id)), &bytes, Readers::Owner)
    }

    /// Read all there are, the oldest first. One that cannot be read is an error: its job may be half done.
    pub(super) fn load_all(directory: &Path) -> io::Result<Vec<Self>> {
        let mut records = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let bytes = std::fs::read(&path)?;
            let record: Self = serde_json::from_slice(&bytes)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            if record.version != VERSION {
                let text = format!("{}: made by a newer version of the hub", path.display());
                return Err(io::Error::other(text));
            }
            records.push(record);
        }
        records.sort_by(|one, other| (one.started_ms, &one.id).cmp(&(other.started_ms, &other.id)));
        Ok(records)
    }

    /// Forget it.
    pub(super) fn remove(&self, directory: &Path) -> io::Result<()> {
        std::fs::remove_file(directory.join(format!("{}.json", self.id)))
    }
}
