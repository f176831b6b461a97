//! `POST /enrollments`: many changes of single enrolments, each with its result.

use engine::request::{EnrolmentRequest, IfMatch, Reply, Request};
use registry::{EnrolmentId, EnrolmentKind, EnrolmentName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::WishedEnrolment;
use crate::binding::http::answer::{Answer, invalid, refused};
use crate::binding::http::identity::{read_if_match, read_object};
use crate::binding::http::work::Questions;
use crate::binding::status::Status;

/// Enrolments of one request \[Device Provisioning Service REST API: Run Bulk Operation\].
const COUNT_MAX: usize = 10;

#[derive(Deserialize)]
struct BulkBody {
    mode: String,
    enrollments: Vec<WishedEnrolment>,
}

/// Many changes in work.
#[derive(Debug)]
pub(super) struct Bulk {
    ids: Vec<EnrolmentId>,
    errors: Vec<Value>,
    replies_left: usize,
}

impl Bulk {
    pub(super) fn begin(body: &[u8], hub: &str) -> Result<(Self, Questions), Status> {
        let BulkBody { mode, enrollments } = read_object(body)?;
        if !(1..=COUNT_MAX).contains(&enrollments.len()) {
            return Err(invalid(format!("a request has 1 to {COUNT_MAX} enrollments")));
        }
        let (mut ids, mut questions) = (Vec::new(), Vec::new());
        for wish in enrollments {
            let id = wish.registration_id.as_deref().map(EnrolmentId::parse);
            let id =
                id.and_then(Result::ok).ok_or_else(|| invalid("an enrollment has no good registrationId"))?;
            let name = EnrolmentName { kind: EnrolmentKind::Single, id: id.clone() };
            let etag = wish.etag.as_deref().map(read_if_match);
            questions.push(Request::Enrolment(match mode.to_ascii_lowercase().as_str() {
                "create" => EnrolmentRequest::Create(wish.draft(name, hub)?),
                "update" => {
                    EnrolmentRequest::Update { draft: wish.draft(name, hub)?, if_match: IfMatch::Any }
                }
                "updateifmatchetag" => {
                    let if_match = etag.ok_or_else(|| invalid("an enrollment has no etag"))?;
                    EnrolmentRequest::Update { draft: wish.draft(name, hub)?, if_match }
                }
                "delete" => EnrolmentRequest::Delete { name, if_match: etag.unwrap_or(IfMatch::Any) },
                _ => return Err(invalid("mode is create, update, updateIfMatchETag or delete")),
            }));
            ids.push(id);
        }
        Ok((Self { replies_left: ids.len(), ids, errors: Vec::new() }, questions))
    }

    /// Take the reply to the question at `index`; the answer, when this was the last.
    pub(super) fn take(&mut self, index: usize, reply: &Reply) -> Option<Answer> {
        if let (Reply::Failed(error), Some(id)) = (reply, self.ids.get(index)) {
            let Status { code, message, .. } = refused(error);
            self.errors.push(json!({
                "registrationId": id.as_str(), "errorCode": code, "errorStatus": message,
            }));
        }
        self.replies_left -= 1;
        let result = || json!({ "isSuccessful": self.errors.is_empty(), "errors": self.errors });
        (self.replies_left == 0).then(|| Answer::json(&result()))
    }
}
