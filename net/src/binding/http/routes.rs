//! Routes: what a method and a target mean, and who may ask for it.

mod parse;

use engine::request::{LockToken, PartitionId, Settlement};
use registry::{DeviceId, Rights};

use super::policies::PolicyRoute;
use super::provisioning::{ProvisioningRoute, Registering};

/// Bytes of a body that most routes take: one identity is far below.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a body with events. A batch of the largest size is a third longer in base64, and its properties come on top.
const EVENTS_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of a list of devices: a thousand with both keys and the longest reason of status.
const LIST_BYTES_MAX: usize = 1024 * 1024;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `PUT /devices/{id}`: creates without `If-Match`, else updates.
    PutDevice(DeviceId),
    /// `POST /devices/{id}/messages/events`.
    SendEvents(DeviceId),
    /// `GET /devices/{id}`.
    GetDevice(DeviceId),
    /// `DELETE /devices/{id}`.
    DeleteDevice(DeviceId),
    /// `GET /devices?top=`.
    ListDevices { count_max: u32 },
    /// `POST /devices`: many changes.
    ChangeDevices,
    /// `POST /devices/query`.
    Query,
    /// `DELETE /devices/{id}/commands`.
    PurgeCommands(DeviceId),
    /// `GET /devices/{id}/messages/devicebound`.
    ReceiveCommand(DeviceId),
    /// `DELETE /devices/{id}/messages/devicebound/{lock}`, with or without `reject`, and `POST .../{lock}/abandon`.
    SettleCommand(DeviceId, LockToken, Settlement),
    /// `GET /messages/serviceBound/feedback`.
    ReceiveReceipts,
    /// `DELETE /messages/serviceBound/feedback/{lock}` and `POST .../{lock}/abandon`.
    SettleReceipts(LockToken, Settlement),
    /// `GET /statistics/devices`.
    DeviceStatistics,
    /// `GET /statistics/service`.
    ServiceStatistics,
    /// `GET /consumerGroups`.
    ListGroups,
    /// `PUT /consumerGroups/{name}`.
    PutGroup(String),
    /// `GET /consumerGroups/{name}`.
    GetGroup(String),
    /// `DELETE /consumerGroups/{name}`.
    DeleteGroup(String),
    /// `GET /consumerGroups/{name}/checkpoints`.
    ListCheckpoints(String),
    /// `GET /consumerGroups/{name}/checkpoints/{partition}`.
    GetCheckpoint(String, PartitionId),
    /// `PUT /consumerGroups/{name}/checkpoints/{partition}`.
    PutCheckpoint(String, PartitionId),
    /// What is about policies.
    Policy(PolicyRoute),
    /// What belongs to provisioning.
    Provisioning(ProvisioningRoute),
    /// `POST /devices/keys/regenerate`.
    RegenerateKeys,
    /// `GET /configurations`.
    ListConfigurations,
    /// `GET /configurations/{id}`.
    GetConfiguration(String),
    /// `POST /jobs/create`.
    CreateJob,
    /// `GET /jobs`.
    ListJobs,
    /// `GET /jobs/{id}`.
    GetJob(String),
    /// `DELETE /jobs/{id}`.
    CancelJob(String),
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// A policy with these rights, or the administrator.
    Rights(Rights),
    /// The device's own token, or one of a policy that lets devices connect.
    Device,
    /// A device that registers, by the keys that its enrolment gives it.
    Registration,
    /// The administrator of this run alone.
    Administrator,
}

impl Route {
    /// Who may ask [IoT Hub: iot-hub-devguide-security].
    pub(super) fn needs(&self) -> Needs {
        match self {
            Self::PutDevice(_)
            | Self::DeleteDevice(_)
            | Self::ChangeDevices
            | Self::RegenerateKeys
            | Self::CreateJob
            | Self::ListJobs
            | Self::GetJob(_)
            | Self::CancelJob(_) => Needs::Rights(Rights::REGISTRY_WRITE),
            Self::GetDevice(_)
            | Self::ListDevices { .. }
            | Self::DeviceStatistics
            | Self::ListConfigurations
            | Self::GetConfiguration(_) => Needs::Rights(Rights::REGISTRY_READ),
            Self::Query
            | Self::PurgeCommands(_)
            | Self::ReceiveReceipts
            | Self::SettleReceipts(..)
            | Self::ServiceStatistics
            | Self::ListGroups
            | Self::PutGroup(_)
            | Self::GetGroup(_)
            | Self::DeleteGroup(_)
            | Self::ListCheckpoints(_)
            | Self::GetCheckpoint(..)
            | Self::PutCheckpoint(..) => Needs::Rights(Rights::SERVICE_CONNECT),
            Self::SendEvents(_) | Self::ReceiveCommand(_) | Self::SettleCommand(..) => Needs::Device,
            Self::Policy(_) => Needs::Administrator,
            Self::Provisioning(route) => route.needs(),
        }
    }

    /// The longest body that it takes, in bytes.
    pub(super) fn body_bytes_max(&self) -> usize {
        match self {
            Self::SendEvents(_) => EVENTS_BYTES_MAX,
            Self::ChangeDevices => LIST_BYTES_MAX,
            _ => BODY_BYTES_MAX,
        }
    }

    /// The device whose doing it is.
    pub(super) fn device(&self) -> Option<&DeviceId> {
        match self {
            Self::SendEvents(id) | Self::ReceiveCommand(id) | Self::SettleCommand(id, ..) => Some(id),
            _ => None,
        }
    }

    /// The device that wishes to register.
    pub(super) fn registering(&self) -> Option<&Registering> {
        match self {
            Self::Provisioning(ProvisioningRoute::Device(device)) => Some(device),
            _ => None,
        }
    }

    /// The path below the host that a token must cover.
    pub(super) fn resource(&self) -> Vec<&str> {
        match self {
            Self::PutDevice(id) | Self::GetDevice(id) | Self::DeleteDevice(id) => {
                vec!["devices", id.as_str()]
            }
            Self::SendEvents(id) => vec!["devices", id.as_str(), "messages", "events"],
            Self::ReceiveCommand(id) | Self::SettleCommand(id, ..) => {
                vec!["devices", id.as_str(), "messages", "devicebound"]
            }
            Self::PurgeCommands(id) => vec!["devices", id.as_str(), "commands"],
            Self::ReceiveReceipts | Self::SettleReceipts(..) => vec!["messages", "serviceBound", "feedback"],
            Self::Query => vec!["devices", "query"],
            Self::ListDevices { .. } | Self::ChangeDevices => vec!["devices"],
            Self::DeviceStatistics => vec!["statistics", "devices"],
            Self::ServiceStatistics => vec!["statistics", "service"],
            Self::ListGroups => vec!["consumerGroups"],
            Self::PutGroup(name) | Self::GetGroup(name) | Self::DeleteGroup(name) => {
                vec!["consumerGroups", name]
            }
            Self::ListCheckpoints(name) | Self::GetCheckpoint(name, _) | Self::PutCheckpoint(name, _) => {
                vec!["consumerGroups", name, "checkpoints"]
            }
            Self::Policy(route) => route.resource(),
            Self::Provisioning(route) => route.resource(),
            Self::RegenerateKeys => vec!["devices", "keys", "regenerate"],
            Self::ListConfigurations => vec!["configurations"],
            Self::GetConfiguration(id) => vec!["configurations", id],
            Self::CreateJob => vec!["jobs", "create"],
            Self::ListJobs => vec!["jobs"],
            Self::GetJob(id) | Self::CancelJob(id) => vec!["jobs", id],
        }
    }
}

#[cfg(test)]
mod tests;
