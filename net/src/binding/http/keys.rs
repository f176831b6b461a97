//! New keys for many devices in one request [IoT Hub REST: Service - Bulk Regenerate Device Key].

use engine::placement::device_partition;
use engine::request::{DeviceChange, DeviceDraft, DeviceView, IfMatch, PartitionId, Reply, Request};
use net_amqp::condition::{INTERNAL_ERROR, MS_ARGUMENT_ERROR};
use registry::{DeviceId, DeviceKey};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, confused, invalid, refused};
use super::identity::read_object;
use super::work::Questions;
use crate::binding::status::Status;

/// Devices in one request, as in every other list.
const COUNT_MAX: usize = 100;

/// Bytes of a new key: those of a key that the hub makes for a new device.
const KEY_BYTES: usize = 32;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    policy_key: Which,
    devices: Vec<Named>,
}

/// Which of two keys.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum Which {
    #[serde(rename = "primaryKey", alias = "primary", alias = "PrimaryKey")]
    Primary,
    #[serde(rename = "secondaryKey", alias = "secondary", alias = "SecondaryKey")]
    Secondary,
}

impl Which {
    fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primaryKey",
            Self::Secondary => "secondaryKey",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    id: String,
    #[serde(default)]
    module_id: Option<String>,
}

/// A request for new keys in work: the identities are read, then changed on condition that nobody else changed them meanwhile.
#[derive(Debug)]
pub(super) struct NewKeys {
    which: Which,
    devices: Vec<Asked>,
    /// By question of the round under way: the places of its devices.
    places: Vec<Vec<usize>>,
    replies_left: usize,
    is_changing: bool,
}

#[derive(Debug)]
struct Asked {
    id: String,
    result: Result<Option<Box<DeviceView>>, Status>,
}

impl NewKeys {
    /// Read the request, and ask for the identities.
    pub(super) fn begin(body: &[u8]) -> Result<(Self, Questions), Status> {
        let body: Body = read_object(body)?;
        if body.devices.len() > COUNT_MAX {
            let text = format!("the list names more than {COUNT_MAX} devices");
            return Err(Status::new(413_002, "TooManyDevices", MS_ARGUMENT_ERROR, text));
        }
        let (mut devices, mut places, mut questions) = (Vec::new(), Vec::new(), Vec::new());
        for (place, Named { id, module_id }) in body.devices.into_iter().enumerate() {
            if devices.iter().any(|known: &Asked| known.id == id) {
                let text = format!("the list names {id:?} twice");
                return Err(Status::new(400_011, "DeviceDefinedMultipleTimes", MS_ARGUMENT_ERROR, text));
            }
            let result = match DeviceId::parse(&id) {
                _ if module_id.is_some() => Err(invalid("modules are not supported")),
                Err(error) => Err(invalid(format!("invalid device id: {error}"))),
                Ok(device) => {
                    places.push(vec![place]);
                    questions.push(Request::FindDevice { device });
                    Ok(None)
                }
            };
            devices.push(Asked { id, result });
        }
        let replies_left = questions.len();
        Ok((Self { which: body.policy_key, devices, places, replies_left, is_changing: false }, questions))
    }

    /// Whether all is asked and answered.
    pub(super) fn is_done(&self) -> bool {
        self.replies_left == 0
    }

    /// Take the reply to the question at `index` of its round; what is to be asked next.
    pub(super) fn take(
        &mut self,
        index: usize,
        reply: Reply,
        partition_count: u16,
    ) -> Result<Questions, Status> {
        let places = self.places.get(index).ok_or_else(confused)?;
        match reply {
            Reply::Device(view) if !self.is_changing => self.devices[places[0]].result = Ok(Some(view)),
            Reply::DevicesChanged(results) if self.is_changing && results.len() == places.len() => {
                for (place, result) in places.iter().zip(results) {
                    if let Err(error) = result {
                        self.devices[*place].result = Err(refused(&error));
                    }
                }
            }
            Reply::Failed(error) => {
                places.iter().for_each(|place| self.devices[*place].result = Err(refused(&error)));
            }
            _ => return Err(confused()),
        }
        self.replies_left -= 1;
        match self.replies_left == 0 && !self.is_changing {
            true => self.change(partition_count),
            false => Ok(Vec::new()),
        }
    }

    /// All identities are known: give them their new keys.
    fn change(&mut self, partition_count: u16) -> Result<Questions, Status> {
        self.is_changing = true;
        let mut changes: Vec<(Vec<usize>, Vec<DeviceChange>)> =
            vec![Default::default(); usize::from(partition_count)];
        for (place, asked) in self.devices.iter_mut().enumerate() {
            let Ok(Some(view)) = &mut asked.result else { continue };
            let key = match self.which {
                Which::Primary => &mut view.keys.primary,
                Which::Secondary => &mut view.keys.secondary,
            };
            *key = new_key()?;
            let draft = DeviceDraft {
                primary_key: Some(view.keys.primary.clone()),
                secondary_key: Some(view.keys.secondary.clone()),
                status: view.status,
                status_reason: view.status_reason.clone(),
                ..DeviceDraft::new(view.device.clone())
            };
            let partition = usize::from(device_partition(&view.device, partition_count).0);
            changes[partition].0.push(place);
            changes[partition].1.push(DeviceChange::Update { draft, if_match: IfMatch::ETag(view.etag) });
        }
        let asked = (0..).map(PartitionId).zip(changes).filter(|(_, (places, _))| !places.is_empty());
        let (places, questions): (Vec<_>, Questions) = asked
            .map(|(partition, (places, changes))| (places, Request::ChangeDevices { partition, changes }))
            .unzip();
        self.replies_left = questions.len();
        self.places = places;
        Ok(questions)
    }

    /// The new keys, and which devices have none.
    pub(super) fn answer(&self) -> Answer {
        let (mut keys, mut errors): (Vec<Value>, Vec<Value>) = Default::default();
        for Asked { id, result } in &self.devices {
            match result {
                Ok(Some(view)) => keys.push(json!({
                    "id": id, "primaryKey": view.keys.primary.to_base64(),
                    "secondaryKey": view.keys.secondary.to_base64(),
                })),
                Ok(None) => {}
                Err(status) => errors.push(json!({
                    "deviceId": id, "errorCode": status.name, "errorStatus": status.message,
                })),
            }
        }
        Answer::json(&json!({ "policyKey": self.which.as_str(), "rotatedKeys": keys, "errors": errors }))
    }
}

fn new_key() -> Result<DeviceKey, Status> {
    let mut bytes = [0; KEY_BYTES];
    let filled = getrandom::fill(&mut bytes).map_err(|error| error.to_string());
    filled
        .and_then(|()| DeviceKey::from_bytes(&bytes).map_err(|error| error.to_string()))
        .map_err(|text| Status::new(500_001, "ServerError", INTERNAL_ERROR, text))
}
