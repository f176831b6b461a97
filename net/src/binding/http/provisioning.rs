//! The hub as the Device Provisioning Service: devices that fetch their identity, and the back end that says which may
//! \[Device Provisioning Service REST API\].

mod body;
mod bulk;
mod listing;
mod route;
mod state;
mod work;

use engine::monitor::Protocol;
use engine::request::{ConnectionId, EnrolmentRequest, Proof, Request, SecretText};
use net_http::Target;
use registry::EnrolmentRef;
use serde_json::json;

use super::access::Access;
use super::answer::{Answer, Refused, unauthenticated};
use crate::binding::HubInfo;
use crate::binding::status::{Status, iso_time, tracking_id};

pub(super) use route::{ProvisioningRoute, Registering};
pub(super) use work::{Provisioning, Step};

/// Whether a request is meant for this service, well-formed or not: its errors have a form of their own.
pub(super) fn concerns(target: &str) -> bool {
    let Some(target) = Target::parse(target) else { return false };
    let words: Vec<String> =
        target.segments().flatten().take(2).map(|word| word.to_ascii_lowercase()).collect();
    match words.as_slice() {
        [word, ..] if matches!(word.as_str(), "enrollments" | "enrollmentgroups" | "registrations") => true,
        [_, word] => word == "registrations",
        _ => false,
    }
}

/// A refusal in this service's form \[Device Provisioning Service REST API: ProvisioningServiceErrorDetails\].
pub(super) fn refusal(refused: &Refused, connection: ConnectionId, wall_ms: u64) -> Answer {
    let Status { http, code, message, .. } = &refused.status;
    let body = json!({
        "errorCode": code,
        "trackingId": tracking_id(connection, wall_ms),
        "message": message,
        "timestampUtc": iso_time(wall_ms),
    });
    let mut answer = Answer::json(&body);
    answer.status = *http;
    match (http, refused.allow) {
        (401, _) => answer.with("WWW-Authenticate", "SharedAccessSignature"),
        (429, _) => answer.with("Retry-After", "5"),
        (_, Some(methods)) => answer.with("Allow", methods),
        _ => answer,
    }
}

impl Registering {
    /// The question whether the token of the header proves this device.
    pub(super) fn access(&self, header: Option<&SecretText>, hub: &HubInfo) -> Result<Access, Status> {
        let proof = self.proof(header, hub)?;
        Ok(Access::Token(Request::Enrolment(EnrolmentRequest::Attest(proof))))
    }

    /// The question whether a group lets this device in.
    pub(super) fn ask_groups(
        &self,
        header: Option<&SecretText>,
        group: Option<EnrolmentRef>,
        hub: &HubInfo,
    ) -> Result<Request, Status> {
        let proof = self.proof(header, hub)?;
        Ok(Request::Enrolment(EnrolmentRequest::AttestByGroup { proof, group }))
    }

    fn proof(&self, header: Option<&SecretText>, hub: &HubInfo) -> Result<Proof, Status> {
        let token = header.ok_or_else(|| unauthenticated("the request has no Authorization field"))?.clone();
        let scope = hub.id_scope();
        if !self.scope.eq_ignore_ascii_case(&scope) {
            return Err(unauthenticated("this hub has another id scope"));
        }
        Ok(Proof { registration: self.registration.clone(), scope, token, protocol: Protocol::Https })
    }
}
