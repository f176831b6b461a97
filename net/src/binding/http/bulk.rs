//! Many identities in one request [IoT Hub: iot-hub-bulk-identity-mgmt]: what is asked of each partition, and what became of
//! each device.

use std::collections::HashSet;

use engine::limits::DEVICE_CHANGE_COUNT_MAX;
use engine::placement::device_partition;
use engine::request::{DeviceChange, EngineError, IfMatch, PartitionId, Reply, Request};
use foldhash::fast::RandomState;
use net_amqp::condition::MS_ARGUMENT_ERROR;
use registry::DeviceId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Who;
use super::answer::{Answer, confused, invalid};
use super::identity::{Wish, WishedAuthentication, WishedCapabilities, read_if_match, read_list};
use super::work::Questions;
use crate::binding::status::Status;

/// Devices in one request of a back end [IoT Hub: Bulk Registry REST API].
const COUNT_MAX: usize = 100;

/// One entry of the list. Clients name the id `id`, capitalize the mode as they like, and leave out what does not change.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    id: Option<String>,
    #[serde(default)]
    import_mode: Option<String>,
    #[serde(default, alias = "etag")]
    e_tag: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    status_reason: Option<String>,
    #[serde(default)]
    authentication: Option<WishedAuthentication>,
    #[serde(default)]
    capabilities: Option<WishedCapabilities>,
    #[serde(default)]
    module_id: Option<String>,
    #[serde(default)]
    tags: Option<Value>,
    #[serde(default)]
    properties: Option<Value>,
}

/// A bulk request in work.
#[derive(Debug)]
pub(super) struct Bulk {
    entries: Vec<Asked>,
    /// By question: the places of its changes in `entries`.
    places: Vec<Vec<usize>>,
    replies_left: usize,
}

#[derive(Debug)]
struct Asked {
    device: String,
    refused: Option<Status>,
}

impl Bulk {
    /// Read the list. An entry that cannot be is refused alone; a list that is too long or names a device twice is refused whole.
    pub(super) fn begin(body: &[u8], who: &Who, partition_count: u16) -> Result<(Self, Questions), Status> {
        let list: Vec<Entry> = read_list(body)?;
        let count_max = match who {
            Who::Administrator => DEVICE_CHANGE_COUNT_MAX,
            Who::Granted(_) | Who::Attested(_) => COUNT_MAX,
        };
        if list.len() > count_max {
            let text = format!("the list names more than {count_max} devices");
            return Err(Status::new(413_002, "TooManyDevices", MS_ARGUMENT_ERROR, text));
        }
        let mut seen = HashSet::with_capacity_and_hasher(list.len(), RandomState::default());
        let mut changes: Vec<Vec<DeviceChange>> = vec![Vec::new(); usize::from(partition_count)];
        let mut places: Vec<Vec<usize>> = vec![Vec::new(); usize::from(partition_count)];
        let mut entries = Vec::with_capacity(list.len());
        for (index, entry) in list.into_iter().enumerate() {
            let device = entry.id.clone().unwrap_or_default();
            if !seen.insert(device.clone()) {
                let text = format!("the list names {device:?} twice");
                return Err(Status::new(400_011, "DeviceDefinedMultipleTimes", MS_ARGUMENT_ERROR, text));
            }
            let refused = match entry.change() {
                Ok(change) => {
                    let partition = usize::from(device_partition(change.device(), partition_count).0);
                    changes[partition].push(change);
                    places[partition].push(index);
                    None
                }
                Err(status) => Some(status),
            };
            entries.push(Asked { device, refused });
        }
        let questions: Questions = (0..partition_count)
            .map(PartitionId)
            .zip(changes)
            .filter(|(_, changes)| !changes.is_empty())
            .map(|(partition, changes)| Request::ChangeDevices { partition, changes })
            .collect();
        places.retain(|places| !places.is_empty());
        Ok((Self { entries, places, replies_left: questions.len() }, questions))
    }

    /// Whether all partitions have answered.
    pub(super) fn is_done(&self) -> bool {
        self.replies_left == 0
    }

    /// Take one partition's answer. One that cannot change anything refuses all of its devices.
    pub(super) fn take(&mut self, index: usize, reply: Reply) -> Result<(), Status> {
        let places = self.places.get(index).ok_or_else(confused)?;
        let results: Vec<Result<(), EngineError>> = match reply {
            Reply::DevicesChanged(results) if results.len() == places.len() => results,
            Reply::Failed(error) => vec![Err(error); places.len()],
            _ => return Err(confused()),
        };
        for (place, result) in places.iter().zip(results) {
            self.entries[*place].refused = result.err().map(|error| Status::of(&error));
        }
        self.replies_left -= 1;
        Ok(())
    }

    /// What became of each device: 200 where all went well, else 400, with the same shape.
    pub(super) fn answer(&self) -> Answer {
        let error = |entry: &Asked| {
            let status = entry.refused.as_ref()?;
            Some(json!({
                "deviceId": entry.device, "errorCode": status.name, "errorStatus": status.message,
            }))
        };
        let errors: Vec<Value> = self.entries.iter().filter_map(error).collect();
        let is_successful = errors.is_empty();
        let mut answer =
            Answer::json(&json!({ "isSuccessful": is_successful, "errors": errors, "warnings": [] }));
        if !is_successful {
            answer.status = 400;
        }
        answer
    }
}

impl Entry {
    /// The device's id as it was given.
    pub(crate) fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    /// As a line of an import job: what to change, and on which condition a device that exists already may be changed in place of
    /// being created. Jobs have two more modes, one of which is what an entry means that names none.
    pub(crate) fn of_job(mut self) -> Result<(DeviceChange, Option<IfMatch>), Status> {
        let mode = self.import_mode.as_deref().unwrap_or("createOrUpdate").to_ascii_lowercase();
        let or_update = match mode.as_str() {
            "createorupdate" => Some(IfMatch::Any),
            "createorupdateifmatchetag" => Some(self.if_match()?),
            _ => None,
        };
        if or_update.is_some() {
            self.import_mode = Some("create".into());
        }
        Ok((self.change()?, or_update))
    }

    fn if_match(&self) -> Result<IfMatch, Status> {
        let text = self.e_tag.as_deref().filter(|text| !text.is_empty());
        text.map(read_if_match).ok_or_else(|| invalid("the entry's eTag is missing"))
    }

    fn change(self) -> Result<DeviceChange, Status> {
        let etag = self.if_match();
        let id = self.id.ok_or_else(|| invalid("an entry has no id"))?;
        let device = DeviceId::parse(&id).map_err(|error| invalid(format!("invalid device id: {error}")))?;
        if self.module_id.is_some_and(|module| !module.is_empty()) {
            return Err(invalid("modules are not supported"));
        }
        let is_given = |value: Option<Value>| match value {
            None | Some(Value::Null) => false,
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(_) => true,
        };
        if is_given(self.tags) || is_given(self.properties) {
            return Err(invalid("device twins are not supported"));
        }
        let wish = Wish {
            device_id: None,
            status: self.status,
            status_reason: self.status_reason,
            authentication: self.authentication,
            capabilities: self.capabilities,
        };
        let mode = self.import_mode.as_deref().unwrap_or("create").to_ascii_lowercase();
        match mode.as_str() {
            "create" => Ok(DeviceChange::Create(wish.draft(device)?)),
            "update" => Ok(DeviceChange::Update { draft: wish.draft(device)?, if_match: IfMatch::Any }),
            "updateifmatchetag" => {
                let if_match = etag?;
                Ok(DeviceChange::Update { draft: wish.draft(device)?, if_match })
            }
            "delete" => Ok(DeviceChange::Delete { device, if_match: IfMatch::Any }),
            "deleteifmatchetag" => Ok(DeviceChange::Delete { device, if_match: etag? }),
            _ => Err(invalid("the entry's importMode is none that this hub has")),
        }
    }
}
