//! Import and export jobs over HTTPS [IoT Hub REST: Jobs].

use net_amqp::condition::{INTERNAL_ERROR, MS_ARGUMENT_ERROR, NOT_ALLOWED, NOT_FOUND};
use serde::Deserialize;
use serde_json::Value;

use super::answer::{Answer, invalid, refused};
use super::identity::read_object;
use crate::binding::status::Status;
use crate::jobs::{JobDraft, JobError, JobKind, Jobs, Pending, Question, Record};
use engine::request::EngineError;

/// What a back end sends. Where the blobs are and how they are reached is this hub's own affair, so that keys and identities for
/// a cloud's storage are of no use here and not read.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobBody {
    #[serde(rename = "type")]
    kind: Option<String>,
    input_blob_container_uri: Option<String>,
    output_blob_container_uri: Option<String>,
    input_blob_name: Option<String>,
    output_blob_name: Option<String>,
    exclude_keys_in_export: Option<bool>,
    include_configurations: Option<bool>,
}

/// Read the job that `POST /jobs/create` asks for.
pub(super) fn read_job(body: &[u8]) -> Result<JobDraft, Status> {
    let body: JobBody = read_object(body)?;
    let kind = match body.kind.as_deref().map(str::to_ascii_lowercase).as_deref() {
        Some("import") => JobKind::Import,
        Some("export") => JobKind::Export,
        _ => return Err(invalid("type is import or export")),
    };
    if body.include_configurations == Some(true) {
        return Err(invalid("configurations are not supported"));
    }
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let input_container = given(body.input_blob_container_uri);
    let output_container = given(body.output_blob_container_uri).or_else(|| input_container.clone());
    Ok(JobDraft {
        kind,
        output_container: output_container.ok_or_else(|| invalid("outputBlobContainerUri is missing"))?,
        input_container,
        input_name: given(body.input_blob_name),
        output_name: given(body.output_blob_name),
        excludes_keys: body.exclude_keys_in_export == Some(true),
    })
}

/// What the answer looks like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    One,
    List,
    Nothing,
}

/// A question that the thread of jobs has and may not have answered.
#[derive(Debug)]
pub(super) struct AskedJobs {
    pending: Pending,
    shape: Shape,
}

impl AskedJobs {
    pub(super) fn ask(jobs: &Jobs, question: Question, shape: Shape) -> Result<Self, Status> {
        let pending = jobs.ask(question).map_err(|error| status(&error))?;
        Ok(Self { pending, shape })
    }

    /// The answer, once it is there.
    pub(super) fn answer(&self) -> Option<Result<Answer, Status>> {
        let answer = self.pending.answer()?;
        Some(answer.as_ref().map_err(status).map(|jobs| match self.shape {
            Shape::One => Answer::json(&jobs.first().map_or(Value::Null, Record::view)),
            Shape::List => Answer::json(&jobs.iter().map(Record::view).collect::<Vec<_>>()),
            Shape::Nothing => Answer::no_content(),
        }))
    }
}

fn status(error: &JobError) -> Status {
    let (code, name, condition) = match error {
        JobError::Busy => return refused(&EngineError::Busy),
        JobError::Closed => return refused(&EngineError::Stopping),
        JobError::Invalid(text) => return invalid(text),
        JobError::Active(_) => (403_001, "JobQuotaExceeded", NOT_ALLOWED),
        JobError::NotFound => (404_002, "JobNotFound", NOT_FOUND),
        JobError::Ended => (400_003, "InvalidOperation", MS_ARGUMENT_ERROR),
        JobError::Storage(_) => (500_001, "ServerError", INTERNAL_ERROR),
    };
    Status::new(code, name, condition, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_as_the_packages_send_them() {
        let import =
            read_job(br#"{"type":"import","inputBlobContainerUri":"a","outputBlobContainerUri":"b"}"#)
                .unwrap();
        assert_eq!(
            (import.kind, import.input_container.as_deref(), import.output_container.as_str()),
            (JobKind::Import, Some("a"), "b")
        );
        let export = br#"{"type":"Export","outputBlobContainerUri":"b","excludeKeysInExport":true,"inputBlobContainerUri":null,
            "storageAuthenticationType":"identityBased","identity":{"userAssignedIdentity":"x"}}"#;
        let export = read_job(export).unwrap();
        assert_eq!(
            (export.kind, export.excludes_keys, export.input_container),
            (JobKind::Export, true, None)
        );
        for body in [
            "{}",
            r#"{"type":"export"}"#,
            r#"{"type":"scheduleDeviceMethod","outputBlobContainerUri":"b"}"#,
            r#"{"type":"export","outputBlobContainerUri":""}"#,
            r#"{"type":"export","outputBlobContainerUri":"b","includeConfigurations":true}"#,
        ] {
            assert_eq!(read_job(body.as_bytes()).unwrap_err().code, 400_004, "{body}");
        }
        assert_eq!(read_job(br#"{"type":1}"#).unwrap_err().code, 400_006);
    }

    #[test]
    fn a_hub_without_jobs_says_so() {
        let refused = AskedJobs::ask(&Jobs::default(), Question::List, Shape::List).unwrap_err();
        assert_eq!(refused.http, 503);
    }
}
