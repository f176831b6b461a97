//! Routes: what a method and a target mean, and who may ask for it.

use std::borrow::Cow;

use engine::request::PartitionId;
use net_http::Target;
use registry::{DeviceId, Rights};

use crate::binding::http::answer::{invalid, no_method, no_route};
use crate::binding::status::Status;

/// Most identities in one list \[IoT Hub REST: Devices - Get Devices\].
const LIST_COUNT_MAX: u32 = 1000;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `PUT /devices/{id}`: creates without `If-Match`, else updates.
    PutDevice(DeviceId),
    /// `GET /devices/{id}`.
    GetDevice(DeviceId),
    /// `DELETE /devices/{id}`.
    DeleteDevice(DeviceId),
    /// `GET /devices?top=`.
    ListDevices { count_max: u32 },
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
    /// `GET /policies/{name}`.
    GetPolicy(String),
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// A policy with these rights, or the administrator.
    Rights(Rights),
    /// The administrator of this run alone.
    Administrator,
}

impl Route {
    /// Read a request's first line. Fixed words are compared without case, ids with case and after one decoding.
    pub(super) fn parse(method: &str, target: &str, partition_count: u16) -> Result<Self, Status> {
        let target = Target::parse(target).ok_or_else(|| invalid("the request target cannot be read"))?;
        let segments: Option<Vec<Cow<'_, str>>> = target.segments().collect();
        let segments = segments.ok_or_else(|| invalid("an escape in the path cannot be decoded"))?;
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let [word, rest @ ..] = segments.as_slice() else { return Err(no_route()) };
        let is = |text: &str| word.eq_ignore_ascii_case(text);
        match rest {
            [] if is("devices") => get(method, || Ok(Self::ListDevices { count_max: read_top(&target)? })),
            [id] if is("devices") => Self::of_device(method, id),
            [of] if is("statistics") && of.eq_ignore_ascii_case("devices") => {
                get(method, || Ok(Self::DeviceStatistics))
            }
            [of] if is("statistics") && of.eq_ignore_ascii_case("service") => {
                get(method, || Ok(Self::ServiceStatistics))
            }
            [name] if is("policies") => get(method, || Ok(Self::GetPolicy((*name).to_owned()))),
            [] if is("consumerGroups") => get(method, || Ok(Self::ListGroups)),
            [name] if is("consumerGroups") => match method {
                "PUT" => Ok(Self::PutGroup((*name).to_owned())),
                "GET" => Ok(Self::GetGroup((*name).to_owned())),
                "DELETE" => Ok(Self::DeleteGroup((*name).to_owned())),
                _ => Err(no_method()),
            },
            [name, of, rest @ ..] if is("consumerGroups") && of.eq_ignore_ascii_case("checkpoints") => {
                match rest {
                    [] => get(method, || Ok(Self::ListCheckpoints((*name).to_owned()))),
                    [partition] => {
                        let partition = read_partition(partition, partition_count)?;
                        match method {
                            "GET" => Ok(Self::GetCheckpoint((*name).to_owned(), partition)),
                            "PUT" => Ok(Self::PutCheckpoint((*name).to_owned(), partition)),
                            _ => Err(no_method()),
                        }
                    }
                    _ => Err(no_route()),
                }
            }
            _ => Err(no_route()),
        }
    }

    fn of_device(method: &str, id: &str) -> Result<Self, Status> {
        let id = || DeviceId::parse(id).map_err(|error| invalid(format!("invalid device id: {error}")));
        match method {
            "PUT" => Ok(Self::PutDevice(id()?)),
            "GET" => Ok(Self::GetDevice(id()?)),
            "DELETE" => Ok(Self::DeleteDevice(id()?)),
            _ => Err(no_method()),
        }
    }

    /// Who may ask \[IoT Hub: access permissions\].
    pub(super) fn needs(&self) -> Needs {
        match self {
            Self::PutDevice(_) | Self::DeleteDevice(_) => Needs::Rights(Rights::REGISTRY_WRITE),
            Self::GetDevice(_) | Self::ListDevices { .. } | Self::DeviceStatistics => {
                Needs::Rights(Rights::REGISTRY_READ)
            }
            Self::ServiceStatistics
            | Self::ListGroups
            | Self::PutGroup(_)
            | Self::GetGroup(_)
            | Self::DeleteGroup(_)
            | Self::ListCheckpoints(_)
            | Self::GetCheckpoint(..)
            | Self::PutCheckpoint(..) => Needs::Rights(Rights::SERVICE_CONNECT),
            Self::GetPolicy(_) => Needs::Administrator,
        }
    }

    /// The path below the host that a token must cover.
    pub(super) fn resource(&self) -> Vec<&str> {
        match self {
            Self::PutDevice(id) | Self::GetDevice(id) | Self::DeleteDevice(id) => {
                vec!["devices", id.as_str()]
            }
            Self::ListDevices { .. } => vec!["devices"],
            Self::DeviceStatistics => vec!["statistics", "devices"],
            Self::ServiceStatistics => vec!["statistics", "service"],
            Self::ListGroups => vec!["consumerGroups"],
            Self::PutGroup(name) | Self::GetGroup(name) | Self::DeleteGroup(name) => {
                vec!["consumerGroups", name]
            }
            Self::ListCheckpoints(name) | Self::GetCheckpoint(name, _) | Self::PutCheckpoint(name, _) => {
                vec!["consumerGroups", name, "checkpoints"]
            }
            Self::GetPolicy(name) => vec!["policies", name],
        }
    }
}

fn get(method: &str, route: impl FnOnce() -> Result<Route, Status>) -> Result<Route, Status> {
    match method {
        "GET" => route(),
        _ => Err(no_method()),
    }
}

/// `top`, 1 to 1000; without it as many as there may be, for the Node package asks so and takes what comes.
fn read_top(target: &Target<'_>) -> Result<u32, Status> {
    let Some(text) = target.parameter("top") else { return Ok(LIST_COUNT_MAX) };
    match text.parse() {
        Ok(count) if (1..=LIST_COUNT_MAX).contains(&count) => Ok(count),
        _ => Err(invalid(format!("top is 1 to {LIST_COUNT_MAX}"))),
    }
}

fn read_partition(text: &str, partition_count: u16) -> Result<PartitionId, Status> {
    let partition = text
        .parse()
        .ok()
        .filter(|partition| text.bytes().all(|byte| byte.is_ascii_digit()) && *partition < partition_count);
    let not_found = || {
        let mut status = no_route();
        (status.code, status.name) = (404_003, "PartitionNotFound");
        status.message = format!("partitions are 0 to {}", partition_count - 1);
        status
    };
    partition.map(PartitionId).ok_or_else(not_found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Route, u32> {
        let (method, target) = line.split_once(' ').unwrap();
        Route::parse(method, target, 4).map_err(|status| status.code)
    }

    fn id(text: &str) -> DeviceId {
        DeviceId::parse(text).unwrap()
    }

    #[test]
    fn routes_of_the_client_packages() {
        let version = "?api-version=2021-04-12";
        assert_eq!(parse(&format!("PUT /devices/a{version}")), Ok(Route::PutDevice(id("a"))));
        assert_eq!(parse(&format!("GET /Devices/a{version}")), Ok(Route::GetDevice(id("a"))));
        assert_eq!(parse("DELETE /devices/a"), Ok(Route::DeleteDevice(id("a"))));
        assert_eq!(parse(&format!("GET /devices/{version}")), Ok(Route::ListDevices { count_max: 1000 }));
        assert_eq!(parse("GET /devices?TOP=5"), Ok(Route::ListDevices { count_max: 5 }));
        assert_eq!(parse("GET /statistics/Devices"), Ok(Route::DeviceStatistics));
        assert_eq!(parse("GET /statistics/service"), Ok(Route::ServiceStatistics));
        assert_eq!(parse("GET /consumergroups"), Ok(Route::ListGroups));
        assert_eq!(parse("PUT /consumerGroups/%24Default"), Ok(Route::PutGroup("$Default".into())));
        assert_eq!(parse("DELETE /consumerGroups/g"), Ok(Route::DeleteGroup("g".into())));
        assert_eq!(parse("GET /consumerGroups/g/checkpoints"), Ok(Route::ListCheckpoints("g".into())));
        let checkpoint = Route::PutCheckpoint("g".into(), PartitionId(3));
        assert_eq!(parse("PUT /consumerGroups/g/checkpoints/3"), Ok(checkpoint));
        assert_eq!(parse("GET /policies/service"), Ok(Route::GetPolicy("service".into())));
    }

    #[test]
    fn ids_are_decoded_once_and_lead_nowhere_else() {
        assert_eq!(parse("GET /devices/%23%3F%25"), Ok(Route::GetDevice(id("#?%"))));
        assert_eq!(parse("GET /devices/%252e"), Ok(Route::GetDevice(id("%2e"))));
        assert_eq!(parse("GET /devices/a+b"), Ok(Route::GetDevice(id("a+b"))));
        assert_eq!(parse("GET /devices/.."), Ok(Route::GetDevice(id(".."))));
        assert_eq!(parse("GET /devices/%2e%2e"), Ok(Route::GetDevice(id(".."))));
        assert_eq!(parse("GET /devices/..%2fpolicies%2fservice"), Err(400_004));
        assert_eq!(parse("GET /devices/a%00"), Err(400_004));
        assert_eq!(parse("GET /devices/a%20b"), Err(400_004));
        assert_eq!(parse("GET /devices/a%2"), Err(400_004));
        assert_eq!(parse("GET /devices/a%ff"), Err(400_004));
        assert_eq!(parse("GET /devices/../policies/service"), Err(404_000));
        assert_eq!(parse("GET /devices//"), Err(400_004));
        assert_eq!(parse(&format!("GET /devices/{}", "x".repeat(129))), Err(400_004));
        assert_eq!(parse("GET /DEVICES%2fa"), Err(404_000));
    }

    #[test]
    fn everything_else_is_not_there() {
        for line in [
            "GET /",
            "GET /nothing",
            "GET /devices/a/b",
            "GET /consumerGroups/g/checkpoints/0/x",
            "PUT /policies",
        ] {
            assert_eq!(parse(line), Err(404_000), "{line}");
        }
        for line in [
            "POST /devices/a",
            "DELETE /devices",
            "PUT /policies/service",
            "HEAD /devices/a",
            "put /devices/a",
            "DELETE /consumerGroups/g/checkpoints/1",
        ] {
            assert_eq!(parse(line), Err(405_000), "{line}");
        }
        for partition in ["4", "-1", "+1", "x", "", "65536"] {
            let expected = if partition.is_empty() { Err(405_000) } else { Err(404_003) };
            assert_eq!(parse(&format!("PUT /consumerGroups/g/checkpoints/{partition}")), expected);
        }
        for top in ["0", "1001", "-1", "x", ""] {
            assert_eq!(parse(&format!("GET /devices?top={top}")), Err(400_004), "{top}");
        }
        assert_eq!(parse("GET *"), Err(400_004));
    }
}
