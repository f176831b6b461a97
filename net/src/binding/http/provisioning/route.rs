//! What a method and a target of this service mean, and who may ask for it.

use net_http::Target;
use registry::{EnrolmentId, EnrolmentKind, EnrolmentName, Rights};

use crate::binding::http::answer::{Refused, invalid, no_method, no_route};
use crate::binding::http::routes::Needs;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::binding::http) enum ProvisioningRoute {
    /// A device, about itself.
    Device(Registering),
    /// `GET /provisioning`: the hub's id scope.
    Scope,
    /// `PUT /enrollments/{id}`, `PUT /enrollmentGroups/{id}`: creates without `If-Match`, else updates.
    PutEnrolment(EnrolmentName),
    /// `GET` of the same.
    GetEnrolment(EnrolmentName),
    /// `DELETE` of the same.
    DeleteEnrolment(EnrolmentName),
    /// `POST .../attestationMechanism`: the keys.
    GetKeys(EnrolmentName),
    /// `POST /enrollments/query`, `POST /enrollmentGroups/query`.
    QueryEnrolments(EnrolmentKind),
    /// `POST /enrollments`: many changes.
    ChangeEnrolments,
    /// `GET /registrations/{id}`.
    GetRegistration(EnrolmentId),
    /// `DELETE /registrations/{id}`.
    DeleteRegistration(EnrolmentId),
    /// `POST /registrations/{group}/query`.
    QueryRegistrations(EnrolmentId),
}

/// What a device asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::binding::http) struct Registering {
    /// The id scope that it believes to be here.
    pub(in crate::binding::http) scope: String,
    /// Who it says it is.
    pub(in crate::binding::http) registration: EnrolmentId,
    /// What it wishes.
    pub(in crate::binding::http) wish: Wish,
}

/// What a device wishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::binding::http) enum Wish {
    /// `PUT /{scope}/registrations/{id}/register`.
    Register { force: bool },
    /// `GET /{scope}/registrations/{id}/operations/{operation}`.
    Operation(String),
    /// `POST /{scope}/registrations/{id}`: how it stands.
    State,
}

impl ProvisioningRoute {
    /// Read a path, whose fixed words are compared without case. None: it is not for this service.
    pub(in crate::binding::http) fn parse(
        method: &str,
        segments: &[&str],
        target: &Target<'_>,
    ) -> Option<Result<Self, Refused>> {
        let [word, rest @ ..] = segments else { return None };
        Some(match word.to_ascii_lowercase().as_str() {
            "enrollments" => of_enrolments(method, EnrolmentKind::Single, rest),
            "enrollmentgroups" => of_enrolments(method, EnrolmentKind::Group, rest),
            "registrations" => of_registrations(method, rest),
            "provisioning" if rest.is_empty() => match method {
                "GET" => Ok(Self::Scope),
                _ => Err(no_method("GET")),
            },
            _ => match rest {
                [of, rest @ ..] if is(of, "registrations") => of_device(method, word, rest, target),
                _ => return None,
            },
        })
    }

    /// Who may ask.
    pub(in crate::binding::http) fn needs(&self) -> Needs {
        match self {
            Self::Device(_) => Needs::Registration,
            Self::Scope | Self::GetEnrolment(_) | Self::QueryEnrolments(_) => {
                Needs::Rights(Rights::REGISTRY_READ)
            }
            Self::GetRegistration(_) | Self::QueryRegistrations(_) => Needs::Rights(Rights::REGISTRY_READ),
            Self::PutEnrolment(_)
            | Self::DeleteEnrolment(_)
            | Self::GetKeys(_)
            | Self::ChangeEnrolments
            | Self::DeleteRegistration(_) => Needs::Rights(Rights::REGISTRY_WRITE),
        }
    }

    /// The path below the host that a policy's token must cover.
    pub(in crate::binding::http) fn resource(&self) -> Vec<&str> {
        let of_kind = |kind: EnrolmentKind| match kind {
            EnrolmentKind::Single => "enrollments",
            EnrolmentKind::Group => "enrollmentGroups",
        };
        match self {
            Self::Scope => vec!["provisioning"],
            Self::PutEnrolment(name)
            | Self::GetEnrolment(name)
            | Self::DeleteEnrolment(name)
            | Self::GetKeys(name) => vec![of_kind(name.kind), name.id.as_str()],
            Self::QueryEnrolments(kind) => vec![of_kind(*kind)],
            Self::ChangeEnrolments => vec!["enrollments"],
            Self::Device(Registering { registration: id, .. })
            | Self::GetRegistration(id)
            | Self::DeleteRegistration(id)
            | Self::QueryRegistrations(id) => vec!["registrations", id.as_str()],
        }
    }
}

fn of_enrolments(method: &str, kind: EnrolmentKind, rest: &[&str]) -> Result<ProvisioningRoute, Refused> {
    let name = |text: &str| Ok::<_, Refused>(EnrolmentName { kind, id: id(text)? });
    match rest {
        [] if kind == EnrolmentKind::Single => match method {
            "POST" => Ok(ProvisioningRoute::ChangeEnrolments),
            _ => Err(no_method("POST")),
        },
        // An enrolment may have this name too; nobody posts to an enrolment.
        [word] if method == "POST" && is(word, "query") => Ok(ProvisioningRoute::QueryEnrolments(kind)),
        [text] => match method {
            "PUT" => Ok(ProvisioningRoute::PutEnrolment(name(text)?)),
            "GET" => Ok(ProvisioningRoute::GetEnrolment(name(text)?)),
            "DELETE" => Ok(ProvisioningRoute::DeleteEnrolment(name(text)?)),
            _ => Err(no_method("DELETE, GET, PUT")),
        },
        [text, of] if is(of, "attestationmechanism") => match method {
            "POST" => Ok(ProvisioningRoute::GetKeys(name(text)?)),
            _ => Err(no_method("POST")),
        },
        _ => Err(no_route()),
    }
}

fn of_registrations(method: &str, rest: &[&str]) -> Result<ProvisioningRoute, Refused> {
    match rest {
        [text] => match method {
            "GET" => Ok(ProvisioningRoute::GetRegistration(id(text)?)),
            "DELETE" => Ok(ProvisioningRoute::DeleteRegistration(id(text)?)),
            _ => Err(no_method("DELETE, GET")),
        },
        [text, of] if is(of, "query") => match method {
            "POST" => Ok(ProvisioningRoute::QueryRegistrations(id(text)?)),
            _ => Err(no_method("POST")),
        },
        _ => Err(no_route()),
    }
}

fn of_device(
    method: &str,
    scope: &str,
    rest: &[&str],
    target: &Target<'_>,
) -> Result<ProvisioningRoute, Refused> {
    let device = |text: &str, wish| {
        Ok(ProvisioningRoute::Device(Registering { scope: scope.to_owned(), registration: id(text)?, wish }))
    };
    match rest {
        [text] => match method {
            "POST" => device(text, Wish::State),
            _ => Err(no_method("POST")),
        },
        [text, of] if is(of, "register") => {
            let force = target.parameter("forceRegistration");
            let force = force.is_some_and(|value| value.eq_ignore_ascii_case("true"));
            match method {
                "PUT" => device(text, Wish::Register { force }),
                _ => Err(no_method("PUT")),
            }
        }
        [text, of, operation] if is(of, "operations") => match method {
            "GET" => device(text, Wish::Operation((*operation).to_owned())),
            _ => Err(no_method("GET")),
        },
        _ => Err(no_route()),
    }
}

fn is(segment: &str, word: &str) -> bool {
    segment.eq_ignore_ascii_case(word)
}

fn id(text: &str) -> Result<EnrolmentId, Refused> {
    EnrolmentId::parse(text).map_err(|error| invalid(format!("invalid enrollment id: {error}")).into())
}
