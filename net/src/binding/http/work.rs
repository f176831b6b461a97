//! A request in work: from the question to the engine's replies to the answer. No bytes, no connection.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::monitor::Protocol;
use engine::request::{
    ConsumerGroupView, DeviceCounts, DeviceView, Holder, IfMatch, PartitionId, Reply, Request,
    SequenceNumber, UnattachedAppend,
};
use registry::DeviceId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::binding::HubInfo;
use crate::binding::http::access::Who;
use crate::binding::http::answer::{Answer, confused, invalid, no_configuration, refused};
use crate::binding::http::bulk::Bulk;
use crate::binding::http::commands::command_answer;
use crate::binding::http::events::EventsHead;
use crate::binding::http::identity::{Identity, read_draft, read_if_match, read_object};
use crate::binding::http::jobs::{AskedJobs, Shape, read_job};
use crate::binding::http::keys::NewKeys;
use crate::binding::http::policies::policy_json;
use crate::binding::http::provisioning::{Provisioning, Step};
use crate::binding::http::query::Query;
use crate::binding::http::receipts::Search;
use crate::binding::http::routes::Route;
use crate::binding::status::{Status, iso_time};
use crate::jobs::Question;

/// The header by which a list goes on in the next page, in both directions \[IoT Hub: query language, x-ms-continuation\].
pub(super) const CONTINUATION: &str = "x-ms-continuation";

/// A request as it was read, its caller already authorized.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) route: Route,
    pub(super) if_match: Option<String>,
    /// Where a list goes on, as the page before said.
    pub(super) continuation: Option<String>,
    /// Items of a page at most.
    pub(super) item_count: Option<String>,
    /// How long a lock is to last.
    pub(super) lock_timeout_ms: Option<u64>,
    /// When it came, on the monotonic clock.
    pub(super) moment_ms: u64,
    /// What the head says of events in the body.
    pub(super) events: Option<EventsHead>,
    pub(super) body: Vec<u8>,
    /// The host that devices are told, and the id scope: for provisioning alone.
    pub(super) assigned_hub: String,
    pub(super) id_scope: String,
}

/// What a request in work waits for.
#[derive(Debug)]
pub(super) enum Work {
    /// The identity is the answer.
    Device,
    /// The deletion.
    DeviceDeleted,
    /// Identities of all partitions, to be merged.
    Devices { found: Vec<DeviceView>, replies_left: u16, count_max: u32 },
    /// Counts of all partitions, to be added up.
    Counts { sum: DeviceCounts, replies_left: u16, of_service: bool },
    /// The group is the answer.
    Group,
    /// All groups.
    Groups,
    /// The group's end, to be told to all partitions.
    GroupDeleted,
    /// All partitions' word that they dropped the group.
    GroupDropped { replies_left: u16 },
    /// The group whose checkpoints are meant.
    GroupFound(Checkpoints),
    /// One checkpoint.
    Checkpoint,
    /// The checkpoint's durability.
    CheckpointWritten { number: u64 },
    /// All partitions' checkpoints.
    AllCheckpoints { found: Vec<Option<u64>>, replies_left: u16 },
    /// A policy, all policies, or that one is gone.
    Policy,
    /// The events' durability.
    EventsSent,
    /// A command, or word that there is none.
    Command,
    /// The settlement's durability.
    CommandSettled,
    /// A batch of receipts, or word that there is none.
    Receipts(Search),
    /// How many commands are gone.
    CommandsPurged(DeviceId),
    /// Many changes.
    Bulk(Box<Bulk>),
    /// A page of a query.
    Query(Box<Query>),
    /// What belongs to provisioning.
    Provisioning(Box<Provisioning>),
    /// New keys.
    Keys(Box<NewKeys>),
    /// The thread of jobs.
    Job(AskedJobs),
}

/// What is to be done with a group's checkpoints.
#[derive(Clone, Copy, Debug)]
pub(super) enum Checkpoints {
    All,
    One(PartitionId),
    Write(PartitionId, u64),
}

/// Requests to ask. Each reply comes back with the request's place in the list.
pub(super) type Questions = Vec<Request>;

/// What comes of a reply.
pub(super) enum Progress {
    /// More replies, after these questions are asked.
    Wait(Work, Questions),
    /// The end.
    Answer(Answer),
}

impl Work {
    /// Begin what `who`, who may, asks for.
    pub(super) fn begin(call: Call, who: Who, hub: &HubInfo) -> Result<Progress, Status> {
        if let Route::Provisioning(route) = &call.route {
            let (work, step) = Provisioning::begin(route.clone(), &call, who, hub.partition_count)?;
            return Ok(Self::go_on(work, step));
        }
        match &call.route {
            Route::ListConfigurations => return Ok(Progress::Answer(Answer::json(&json!([])))),
            Route::GetConfiguration(_) => return Err(no_configuration()),
            _ => {}
        }
        match Self::start(call, who, hub)? {
            // Nothing is to be asked where every device was refused or none is named.
            (Self::Bulk(bulk), _) if bulk.is_done() => Ok(Progress::Answer(bulk.answer())),
            (Self::Query(query), _) if query.is_done() => Ok(Progress::Answer(query.answer())),
            (Self::Keys(keys), _) if keys.is_done() => Ok(Progress::Answer(keys.answer())),
            (work, questions) => Ok(Progress::Wait(work, questions)),
        }
    }

    fn go_on(work: Provisioning, step: Step) -> Progress {
        match step {
            Step::Answer(answer) => Progress::Answer(answer),
            Step::Wait(questions) => Progress::Wait(Self::Provisioning(Box::new(work)), questions),
        }
    }

    fn start(call: Call, who: Who, hub: &HubInfo) -> Result<(Self, Questions), Status> {
        let partition_count = hub.partition_count;
        let partitions = || (0..partition_count).map(PartitionId);
        let replies_left = partition_count;
        Ok(match call.route {
            Route::PutDevice(device) => {
                let draft = read_draft(device, &call.body)?;
                let request = match call.if_match.as_deref().map(read_if_match) {
                    None => Request::CreateDevice(draft),
                    Some(if_match) => Request::UpdateDevice { draft, if_match },
                };
                (Self::Device, vec![request])
            }
            Route::GetDevice(device) => (Self::Device, vec![Request::FindDevice { device }]),
            Route::DeleteDevice(device) => {
                let if_match = call.if_match.as_deref().map_or(IfMatch::Any, read_if_match);
                (Self::DeviceDeleted, vec![Request::DeleteDevice { device, if_match }])
            }
            Route::ListDevices { count_max } => {
                let after = call.continuation.as_deref().map(read_continuation).transpose()?;
                // One more than asked for tells whether there are more.
                let list = |partition| Request::ListDevices {
                    partition,
                    after: after.clone(),
                    count_max: count_max + 1,
                };
                let work = Self::Devices { found: Vec::new(), replies_left, count_max };
                (work, partitions().map(list).collect())
            }
            Route::DeviceStatistics | Route::ServiceStatistics => {
                let count = |partition| Request::CountDevices { partition };
                let of_service = call.route == Route::ServiceStatistics;
                let work = Self::Counts { sum: DeviceCounts::default(), replies_left, of_service };
                (work, partitions().map(count).collect())
            }
            Route::ListGroups => (Self::Groups, vec![Request::ListConsumerGroups]),
            Route::PutGroup(name) => (Self::Group, vec![Request::CreateConsumerGroup { name }]),
            Route::GetGroup(name) => (Self::Group, vec![Request::FindConsumerGroup { name }]),
            Route::DeleteGroup(name) => (Self::GroupDeleted, vec![Request::DeleteConsumerGroup { name }]),
            Route::ListCheckpoints(name) => find_group(name, Checkpoints::All),
            Route::GetCheckpoint(name, partition) => find_group(name, Checkpoints::One(partition)),
            Route::PutCheckpoint(name, partition) => {
                let wish: CheckpointBody = read_object(&call.body)?;
                find_group(name, Checkpoints::Write(partition, wish.sequence_number))
            }
            Route::SendEvents(device) => {
                let grant = who.of_device()?;
                let events = call.events.unwrap_or(EventsHead::Batch).events(&call.body)?;
                let append = UnattachedAppend { device, grant, protocol: Protocol::Https, events };
                (Self::EventsSent, vec![Request::AppendUnattached(append)])
            }
            Route::ReceiveCommand(device) => {
                let (grant, lock_timeout_ms) = (who.of_device()?, call.lock_timeout_ms);
                let protocol = Protocol::Https;
                (Self::Command, vec![Request::ReceiveCommand { device, grant, protocol, lock_timeout_ms }])
            }
            Route::SettleCommand(device, token, settlement) => {
                let holder = Holder::Device { device, grant: who.of_device()?, protocol: Protocol::Https };
                (Self::CommandSettled, vec![Request::Settle { holder, token, settlement }])
            }
            Route::ReceiveReceipts => {
                let (search, question) = Search::begin(call.moment_ms, partition_count);
                (Self::Receipts(search), vec![question])
            }
            Route::SettleReceipts(token, settlement) => {
                let holder = Holder::BackEnd;
                (Self::CommandSettled, vec![Request::Settle { holder, token, settlement }])
            }
            Route::PurgeCommands(device) => {
                (Self::CommandsPurged(device.clone()), vec![Request::PurgeCommands { device }])
            }
            Route::ChangeDevices => {
                let (bulk, questions) = Bulk::begin(&call.body, &who, partition_count)?;
                (Self::Bulk(Box::new(bulk)), questions)
            }
            Route::Query => {
                let (continuation, item_count) = (call.continuation.as_deref(), call.item_count.as_deref());
                let (query, questions) = Query::begin(&call.body, continuation, item_count, partition_count)?;
                (Self::Query(Box::new(query)), questions)
            }
            Route::Provisioning(_) => return Err(confused()),
            Route::Policy(route) => (Self::Policy, vec![route.question(&call.body)?]),
            Route::ListConfigurations | Route::GetConfiguration(_) => return Err(confused()),
            Route::RegenerateKeys => {
                let (keys, questions) = NewKeys::begin(&call.body)?;
                (Self::Keys(Box::new(keys)), questions)
            }
            Route::CreateJob => {
                let asked = AskedJobs::ask(&hub.jobs, Question::Create(read_job(&call.body)?), Shape::One)?;
                (Self::Job(asked), Vec::new())
            }
            Route::ListJobs => {
                (Self::Job(AskedJobs::ask(&hub.jobs, Question::List, Shape::List)?), Vec::new())
            }
            Route::GetJob(id) => {
                (Self::Job(AskedJobs::ask(&hub.jobs, Question::Find(id), Shape::One)?), Vec::new())
            }
            Route::CancelJob(id) => {
                (Self::Job(AskedJobs::ask(&hub.jobs, Question::Cancel(id), Shape::Nothing)?), Vec::new())
            }
        })
    }

    /// Take the reply to the question at `index`. A refusal by any partition is the answer.
    pub(super) fn advance(
        self,
        index: usize,
        reply: Reply,
        partition_count: u16,
    ) -> Result<Progress, Status> {
        let done = |answer| Ok(Progress::Answer(answer));
        let wait = |work| Ok(Progress::Wait(work, Vec::new()));
        match (self, reply) {
            (Self::Bulk(mut bulk), reply) => {
                bulk.take(index, reply)?;
                if bulk.is_done() { done(bulk.answer()) } else { wait(Self::Bulk(bulk)) }
            }
            (Self::Provisioning(mut work), reply) => {
                let step = work.take(index, reply, partition_count)?;
                Ok(Self::go_on(*work, step))
            }
            (Self::Query(mut query), reply) => {
                let questions = query.take(reply, partition_count)?;
                match query.is_done() {
                    true => done(query.answer()),
                    false => Ok(Progress::Wait(Self::Query(query), questions)),
                }
            }
            (Self::Keys(mut keys), reply) => {
                let questions = keys.take(index, reply, partition_count)?;
                match keys.is_done() {
                    true => done(keys.answer()),
                    false => Ok(Progress::Wait(Self::Keys(keys), questions)),
                }
            }
            (Self::Receipts(search), reply) => search.take(reply, partition_count),
            (_, Reply::Failed(error)) => Err(refused(&error)),
            (Self::Device, Reply::Device(view)) => done(device_answer(&view)),
            (Self::DeviceDeleted, Reply::Done) => done(Answer::no_content()),
            (Self::Devices { mut found, replies_left, count_max }, Reply::Devices(more)) => {
                found.extend(more);
                match replies_left {
                    1 => done(devices_answer(found, count_max)),
                    _ => wait(Self::Devices { found, replies_left: replies_left - 1, count_max }),
                }
            }
            (Self::Counts { mut sum, replies_left, of_service }, Reply::DeviceCounts(counts)) => {
                sum.enabled += counts.enabled;
                sum.disabled += counts.disabled;
                sum.connected += counts.connected;
                match replies_left {
                    1 => done(counts_answer(sum, of_service)),
                    _ => wait(Self::Counts { sum, replies_left: replies_left - 1, of_service }),
                }
            }
            (Self::Group, Reply::ConsumerGroup(group)) => done(Answer::json(&group_json(&group))),
            (Self::Groups, Reply::ConsumerGroups(groups)) => {
                done(Answer::json(&groups.iter().map(group_json).collect::<Vec<_>>()))
            }
            (Self::GroupDeleted, Reply::ConsumerGroup(group)) => {
                let drop = |partition| Request::DropConsumerGroup {
                    partition: PartitionId(partition),
                    group: group.id,
                };
                let questions = (0..partition_count).map(drop).collect();
                Ok(Progress::Wait(Self::GroupDropped { replies_left: partition_count }, questions))
            }
            (Self::GroupDropped { replies_left: 1 }, Reply::Done) => done(Answer::no_content()),
            (Self::GroupDropped { replies_left }, Reply::Done) => {
                wait(Self::GroupDropped { replies_left: replies_left - 1 })
            }
            (Self::GroupFound(checkpoints), Reply::ConsumerGroup(group)) => {
                let (work, questions) = checkpoint_questions(checkpoints, &group, partition_count);
                Ok(Progress::Wait(work, questions))
            }
            (Self::Checkpoint, Reply::Checkpoint(number)) => {
                done(Answer::json(&CheckpointView { sequence_number: number.map(|number| number.0) }))
            }
            (Self::CheckpointWritten { number }, Reply::Done) => {
                done(Answer::json(&CheckpointView { sequence_number: Some(number) }))
            }
            (Self::AllCheckpoints { mut found, replies_left }, Reply::Checkpoint(number)) => {
                if let Some(place) = found.get_mut(index) {
                    *place = number.map(|number| number.0);
                }
                match replies_left {
                    1 => done(checkpoints_answer(&found)),
                    _ => wait(Self::AllCheckpoints { found, replies_left: replies_left - 1 }),
                }
            }
            (Self::Command, Reply::Commands(commands)) => done(command_answer(&commands)?),
            (Self::CommandSettled, Reply::Done) => done(Answer::no_content()),
            (Self::CommandsPurged(device), Reply::CommandsPurged(count)) => {
                let purged = json!({
                    "deviceId": device.as_str(), "moduleId": null, "totalMessagesPurged": count,
                });
                done(Answer::json(&purged))
            }
            (Self::EventsSent, Reply::Appended { .. }) => done(Answer::no_content()),
            (Self::Policy, Reply::Policy(policy)) => done(Answer::json(&policy_json(&policy))),
            (Self::Policy, Reply::Policies(policies)) => {
                done(Answer::json(&policies.iter().map(policy_json).collect::<Vec<_>>()))
            }
            (Self::Policy, Reply::Done) => done(Answer::no_content()),
            _ => Err(confused()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CheckpointBody {
    sequence_number: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckpointView {
    sequence_number: Option<u64>,
}

fn find_group(name: String, checkpoints: Checkpoints) -> (Work, Questions) {
    (Work::GroupFound(checkpoints), vec![Request::FindConsumerGroup { name }])
}

fn checkpoint_questions(
    checkpoints: Checkpoints,
    group: &ConsumerGroupView,
    partition_count: u16,
) -> (Work, Questions) {
    let find = |partition| Request::FindCheckpoint { partition, group: group.id };
    match checkpoints {
        Checkpoints::One(partition) => (Work::Checkpoint, vec![find(partition)]),
        Checkpoints::Write(partition, number) => {
            let put = Request::PutCheckpoint {
                partition,
                group: group.id,
                number: SequenceNumber(number),
                force: true,
            };
            (Work::CheckpointWritten { number }, vec![put])
        }
        Checkpoints::All => {
            let found = vec![None; usize::from(partition_count)];
            let work = Work::AllCheckpoints { found, replies_left: partition_count };
            (work, (0..partition_count).map(PartitionId).map(find).collect())
        }
    }
}

fn device_answer(view: &DeviceView) -> Answer {
    Answer::json(&Identity::of(view)).with("ETag", format!("\"{}\"", view.etag))
}

/// Each partition gave its first `count_max` and one more; the first of all are among them.
fn devices_answer(mut found: Vec<DeviceView>, count_max: u32) -> Answer {
    found.sort_by(|one, other| one.device.cmp(&other.device));
    let has_more = found.len() > count_max as usize;
    found.truncate(count_max as usize);
    let answer = Answer::json(&found.iter().map(Identity::of).collect::<Vec<_>>());
    match found.last() {
        Some(last) if has_more => answer.with(CONTINUATION, write_continuation(&last.device)),
        _ => answer,
    }
}

/// A page ended with this device. Clients know the text as opaque.
pub(super) fn write_continuation(last: &DeviceId) -> String {
    STANDARD.encode(last.as_str())
}

/// The page before ended with the device of this name.
pub(super) fn read_continuation(text: &str) -> Result<DeviceId, Status> {
    let decoded = STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    decoded
        .and_then(|id| DeviceId::parse(&id).ok())
        .ok_or_else(|| invalid("the continuation is not one of this hub"))
}

fn counts_answer(sum: DeviceCounts, of_service: bool) -> Answer {
    Answer::json(&match of_service {
        true => json!({ "connectedDeviceCount": sum.connected }),
        false => json!({
            "totalDeviceCount": sum.enabled + sum.disabled,
            "enabledDeviceCount": sum.enabled,
            "disabledDeviceCount": sum.disabled,
        }),
    })
}

fn group_json(group: &ConsumerGroupView) -> Value {
    json!({ "name": group.name, "createdTime": iso_time(group.created_ms) })
}

fn checkpoints_answer(found: &[Option<u64>]) -> Answer {
    let checkpoint = |(partition, number): (usize, &Option<u64>)| json!({ "partition": partition, "sequenceNumber": number });
    Answer::json(&found.iter().enumerate().map(checkpoint).collect::<Vec<_>>())
}
