//! A request of this service in work: from the question to the engine's replies to the answer.

use engine::request::{
    DeviceView, EngineError, EnrolmentReply, EnrolmentRequest, IfMatch, PartitionId, Reply, Request,
};
use registry::{Assignment, Enrolment, EnrolmentId, EnrolmentKind, EnrolmentName, Registration};
use serde_json::{Value, json};

use super::body::{check_query, check_register, read_draft};
use super::bulk::Bulk;
use super::listing::Listing;
use super::route::{ProvisioningRoute, Registering, Wish};
use super::state::{enrolment_json, keys_json, operation_id, registration_json, status};
use crate::binding::http::access::Who;
use crate::binding::http::answer::{Answer, confused, invalid, no_route, refused, unauthorized};
use crate::binding::http::identity::read_if_match;
use crate::binding::http::query::read_item_count;
use crate::binding::http::work::{CONTINUATION, Call, Questions, read_continuation, write_continuation};
use crate::binding::status::Status;

/// Seconds after which a device is to ask for its operation. Its record is durable by then.
const RETRY_AFTER: &str = "1";

/// A request in work.
#[derive(Debug)]
pub(in crate::binding::http) struct Provisioning {
    /// The host that devices are told.
    hub: String,
    stage: Stage,
}

/// What it waits for.
#[derive(Debug)]
enum Stage {
    /// The identity; then the record is made.
    Assigning(Assignment),
    /// The record's durability.
    Registering,
    /// The record; then its identity.
    Record(Form),
    /// The identity of this record.
    Identity(Box<Registration>, Form),
    /// The enrolment.
    Enrolment,
    /// The enrolment; then its record, if it is a single one.
    EnrolmentWithState,
    /// The enrolment, for its keys.
    Keys,
    /// The deletion; then that of a group's records.
    Deleted,
    /// All partitions' word that they dropped a group's records.
    Dropping { replies_left: u16 },
    /// That there is such a group; then its records.
    Group { after: Option<EnrolmentId>, count_max: u32 },
    /// All partitions' enrolments.
    Enrolments(Listing<Enrolment>),
    /// All partitions' records of a group.
    Registrations(Listing<Registration>),
    /// Many changes.
    Bulk(Bulk),
}

/// As what a record is told.
#[derive(Debug)]
enum Form {
    /// As the operation of this id that made it.
    Operation(String),
    /// As it is.
    State,
    /// As part of its enrolment, which is told without it, too.
    Part(Box<Enrolment>),
}

/// What comes of a reply.
pub(in crate::binding::http) enum Step {
    Wait(Questions),
    Answer(Answer),
}

impl Provisioning {
    /// Begin what `who`, who may, asks for.
    pub(in crate::binding::http) fn begin(
        route: ProvisioningRoute,
        call: &Call,
        who: Who,
        partition_count: u16,
    ) -> Result<(Self, Step), Status> {
        let ask = |stage, request| Ok((stage, vec![Request::Enrolment(request)]));
        let hub = call.assigned_hub.clone();
        let if_match = call.if_match.as_deref().map(read_if_match);
        let (stage, questions) = match route {
            ProvisioningRoute::Scope => {
                let scope = json!({ "idScope": call.id_scope, "assignedHub": hub });
                return Ok((Self { hub, stage: Stage::Enrolment }, Step::Answer(Answer::json(&scope))));
            }
            ProvisioningRoute::Device(Registering { registration, wish, .. }) => match wish {
                Wish::Register { force } => {
                    check_register(&registration, &call.body)?;
                    let attested = who.attested()?;
                    let assignment = Assignment {
                        registration,
                        enrolment: attested.enrolment,
                        device: attested.device.clone(),
                        generation: registry::GenerationId(0),
                        force,
                    };
                    ask(Stage::Assigning(assignment), EnrolmentRequest::Assign(attested))
                }
                Wish::Operation(id) => ask(
                    Stage::Record(Form::Operation(id)),
                    EnrolmentRequest::FindRegistration { registration },
                ),
                Wish::State => {
                    ask(Stage::Record(Form::State), EnrolmentRequest::FindRegistration { registration })
                }
            },
            ProvisioningRoute::PutEnrolment(name) => {
                let draft = read_draft(name, &hub, &call.body)?;
                let request = match if_match {
                    None => EnrolmentRequest::Create(draft),
                    Some(if_match) => EnrolmentRequest::Update { draft, if_match },
                };
                ask(Stage::Enrolment, request)
            }
            ProvisioningRoute::GetEnrolment(name) => {
                ask(Stage::EnrolmentWithState, EnrolmentRequest::Find { name })
            }
            ProvisioningRoute::GetKeys(name) => ask(Stage::Keys, EnrolmentRequest::Find { name }),
            ProvisioningRoute::DeleteEnrolment(name) => {
                let if_match = if_match.unwrap_or(IfMatch::Any);
                ask(Stage::Deleted, EnrolmentRequest::Delete { name, if_match })
            }
            ProvisioningRoute::ChangeEnrolments => {
                let (bulk, questions) = Bulk::begin(&call.body, &hub)?;
                Ok((Stage::Bulk(bulk), questions))
            }
            ProvisioningRoute::QueryEnrolments(kind) => {
                let collection =
                    if kind == EnrolmentKind::Single { "enrollments" } else { "enrollmentGroups" };
                check_query(&call.body, collection)?;
                let (after, count_max) = read_page(call)?;
                let list = |partition| EnrolmentRequest::List {
                    partition: PartitionId(partition),
                    kind,
                    after: after.clone(),
                    count_max: count_max + 1,
                };
                let listing = Listing::new(partition_count, count_max);
                let questions = (0..partition_count).map(list).map(Request::Enrolment).collect();
                Ok((Stage::Enrolments(listing), questions))
            }
            ProvisioningRoute::GetRegistration(registration) => {
                ask(Stage::Record(Form::State), EnrolmentRequest::FindRegistration { registration })
            }
            ProvisioningRoute::DeleteRegistration(registration) => {
                let if_match = if_match.unwrap_or(IfMatch::Any);
                let request = EnrolmentRequest::DeleteRegistration { registration, if_match };
                ask(Stage::Dropping { replies_left: 1 }, request)
            }
            ProvisioningRoute::QueryRegistrations(id) => {
                check_query(&call.body, "registrations")?;
                let (after, count_max) = read_page(call)?;
                let name = EnrolmentName { kind: EnrolmentKind::Group, id };
                ask(Stage::Group { after, count_max }, EnrolmentRequest::Find { name })
            }
        }?;
        Ok((Self { hub, stage }, Step::Wait(questions)))
    }

    /// Take the reply to the question at `index`.
    pub(in crate::binding::http) fn take(
        &mut self,
        index: usize,
        reply: Reply,
        partition_count: u16,
    ) -> Result<Step, Status> {
        use EnrolmentReply as Told;
        let stage = std::mem::replace(&mut self.stage, Stage::Registering);
        let done = |answer| Ok(Step::Answer(answer));
        match (stage, reply) {
            (Stage::Bulk(mut bulk), reply) => match bulk.take(index, &reply) {
                Some(answer) => done(answer),
                None => Ok(self.wait(Stage::Bulk(bulk), Vec::new())),
            },
            (Stage::Identity(record, form), Reply::Device(view)) => {
                done(self.tell(&record, form, Some(&view)))
            }
            (Stage::Identity(record, form), Reply::Failed(EngineError::DeviceNotFound)) => {
                done(self.tell(&record, form, None))
            }
            (
                Stage::Record(Form::Part(enrolment)),
                Reply::Failed(EngineError::Registry(registry::RegistryError::RegistrationNotFound)),
            ) => done(Answer::json(&enrolment_json(&enrolment, None))),
            (_, Reply::Failed(error)) => Err(refused(&error)),
            (Stage::Assigning(assignment), Reply::Enrolment(Told::Assigned { generation })) => {
                let request = EnrolmentRequest::Register(Assignment { generation, ..assignment });
                Ok(self.wait(Stage::Registering, vec![Request::Enrolment(request)]))
            }
            (Stage::Registering, Reply::Enrolment(Told::Registration(record))) => {
                let operation = json!({ "operationId": operation_id(&record), "status": "assigning" });
                let mut answer = Answer::json(&operation).with("Retry-After", RETRY_AFTER);
                answer.status = 202;
                done(answer)
            }
            (Stage::Record(Form::Operation(id)), Reply::Enrolment(Told::Registration(record)))
                if id != operation_id(&record) =>
            {
                Err(no_route().status)
            }
            (Stage::Record(form), Reply::Enrolment(Told::Registration(record))) => {
                let question = Request::FindDevice { device: record.device.clone() };
                Ok(self.wait(Stage::Identity(record, form), vec![question]))
            }
            (Stage::EnrolmentWithState, Reply::Enrolment(Told::Enrolment(enrolment)))
                if enrolment.name.kind == EnrolmentKind::Single =>
            {
                let registration = enrolment.name.id.clone();
                let request = EnrolmentRequest::FindRegistration { registration };
                Ok(self.wait(Stage::Record(Form::Part(enrolment)), vec![Request::Enrolment(request)]))
            }
            (Stage::Enrolment | Stage::EnrolmentWithState, Reply::Enrolment(Told::Enrolment(enrolment))) => {
                done(enrolment_answer(&enrolment, None))
            }
            (Stage::Keys, Reply::Enrolment(Told::Enrolment(enrolment))) => {
                done(Answer::json(&keys_json(&enrolment)))
            }
            (Stage::Deleted, Reply::Enrolment(Told::Enrolment(gone))) => {
                if gone.name.kind == EnrolmentKind::Single {
                    return done(Answer::no_content());
                }
                let drop = |partition| EnrolmentRequest::DropRegistrations {
                    partition: PartitionId(partition),
                    enrolment: gone.reference(),
                };
                let questions = (0..partition_count).map(drop).map(Request::Enrolment).collect();
                Ok(self.wait(Stage::Dropping { replies_left: partition_count }, questions))
            }
            (Stage::Dropping { replies_left: 1 }, Reply::Done) => done(Answer::no_content()),
            (Stage::Dropping { replies_left }, Reply::Done) => {
                Ok(self.wait(Stage::Dropping { replies_left: replies_left - 1 }, Vec::new()))
            }
            (Stage::Group { after, count_max }, Reply::Enrolment(Told::Enrolment(group))) => {
                let list = |partition| EnrolmentRequest::ListRegistrations {
                    partition: PartitionId(partition),
                    enrolment: Some(group.reference()),
                    after: after.clone(),
                    count_max: count_max + 1,
                };
                let questions = (0..partition_count).map(list).map(Request::Enrolment).collect();
                Ok(self.wait(Stage::Registrations(Listing::new(partition_count, count_max)), questions))
            }
            (Stage::Enrolments(mut listing), Reply::Enrolment(Told::Enrolments(page))) => {
                match listing.take(page) {
                    None => Ok(self.wait(Stage::Enrolments(listing), Vec::new())),
                    Some((items, rest)) => {
                        let items = items.iter().map(|enrolment| enrolment_json(enrolment, None)).collect();
                        done(page_answer(items, rest))
                    }
                }
            }
            (Stage::Registrations(mut listing), Reply::Enrolment(Told::Registrations(page))) => {
                match listing.take(page) {
                    None => Ok(self.wait(Stage::Registrations(listing), Vec::new())),
                    Some((items, rest)) => {
                        let told = |record| registration_json(record, &self.hub, "assigned");
                        done(page_answer(items.iter().map(told).collect(), rest))
                    }
                }
            }
            _ => Err(confused()),
        }
    }

    fn wait(&mut self, stage: Stage, questions: Questions) -> Step {
        self.stage = stage;
        Step::Wait(questions)
    }

    fn tell(&self, record: &Registration, form: Form, device: Option<&DeviceView>) -> Answer {
        let status = status(record, device);
        let state = registration_json(record, &self.hub, status);
        match form {
            Form::State => Answer::json(&state).with("ETag", format!("\"{}\"", record.etag)),
            Form::Operation(id) => {
                Answer::json(&json!({ "operationId": id, "status": status, "registrationState": state }))
            }
            Form::Part(enrolment) => enrolment_answer(&enrolment, Some(state)),
        }
    }
}

impl Who {
    /// A device that has proven itself. Nobody else registers.
    fn attested(self) -> Result<Box<engine::request::Attested>, Status> {
        match self {
            Self::Attested(attested) => Ok(attested),
            _ => Err(unauthorized()),
        }
    }
}

fn enrolment_answer(enrolment: &Enrolment, state: Option<Value>) -> Answer {
    Answer::json(&enrolment_json(enrolment, state)).with("ETag", format!("\"{}\"", enrolment.etag))
}

fn page_answer(items: Vec<Value>, rest: Option<EnrolmentId>) -> Answer {
    let answer = Answer::json(&items).with("x-ms-item-type", "enrollment");
    match rest {
        Some(last) => answer.with(CONTINUATION, write_continuation(last.device())),
        None => answer,
    }
}

/// Where a page begins, and how many items it has at most.
fn read_page(call: &Call) -> Result<(Option<EnrolmentId>, u32), Status> {
    let after = call.continuation.as_deref().map(read_continuation).transpose()?;
    let after = after.map(|id| EnrolmentId::parse(id.as_str())).transpose();
    let after = after.map_err(|_| invalid("the continuation is not one of this hub"))?;
    Ok((after, read_item_count(call.item_count.as_deref())?))
}
