//! From a request's first line to a route.

use std::borrow::Cow;

use engine::request::{PartitionId, Settlement};
use net_http::Target;
use registry::DeviceId;

use super::Route;
use crate::binding::http::answer::{Refused, invalid, no_method, no_route, no_version};
use crate::binding::http::commands::read_lock;
use crate::binding::http::policies::PolicyRoute;
use crate::binding::http::provisioning::ProvisioningRoute;
use crate::binding::http::receipts::read_batch_lock;

/// Most identities in one list [IoT Hub: iot-hub-devguide-identity-registry].
const LIST_COUNT_MAX: u32 = 1000;

impl Route {
    /// Read a request's first line. Fixed words are compared without case, ids with case and after one decoding.
    pub(in crate::binding::http) fn parse(
        method: &str,
        target: &str,
        partition_count: u16,
    ) -> Result<Self, Refused> {
        let target = Target::parse(target).ok_or_else(|| invalid("the request target cannot be read"))?;
        let segments: Option<Vec<Cow<'_, str>>> = target.segments().collect();
        let segments = segments.ok_or_else(|| invalid("an escape in the path cannot be decoded"))?;
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        if let Some(route) = ProvisioningRoute::parse(method, &segments, &target) {
            return route.map(Self::Provisioning);
        }
        if target.parameter("api-version").is_some_and(|version| !is_version(&version)) {
            return Err(no_version());
        }
        let [word, rest @ ..] = segments.as_slice() else { return Err(no_route()) };
        match word.to_ascii_lowercase().as_str() {
            "devices" => of_devices(method, rest, &target),
            "messages" => of_receipts(method, rest, partition_count),
            "statistics" => of_statistics(method, rest),
            "policies" => of_policies(method, rest).map(Self::Policy),
            "configurations" => match rest {
                [] => get(method, || Ok(Self::ListConfigurations)),
                [id] => get(method, || Ok(Self::GetConfiguration((*id).to_owned()))),
                _ => Err(no_route()),
            },
            "jobs" => match rest {
                [] => get(method, || Ok(Self::ListJobs)),
                [word] if method == "POST" && is(word, "create") => Ok(Self::CreateJob),
                [id] => match method {
                    "GET" => Ok(Self::GetJob((*id).to_owned())),
                    "DELETE" => Ok(Self::CancelJob((*id).to_owned())),
                    _ => Err(no_method("DELETE, GET")),
                },
                _ => Err(no_route()),
            },
            "consumergroups" => of_groups(method, rest, partition_count),
            _ => Err(no_route()),
        }
    }
}

fn of_devices(method: &str, rest: &[&str], target: &Target<'_>) -> Result<Route, Refused> {
    match rest {
        [] => match method {
            "GET" => Ok(Route::ListDevices { count_max: read_top(target)? }),
            "POST" => Ok(Route::ChangeDevices),
            _ => Err(no_method("GET, POST")),
        },
        // A device may have this name too; nobody posts to a device.
        [word] if method == "POST" && is(word, "query") => Ok(Route::Query),
        // A device may have this name as well, but nothing of that name.
        [of, word] if is(of, "keys") && is(word, "regenerate") => match method {
            "POST" => Ok(Route::RegenerateKeys),
            _ => Err(no_method("POST")),
        },
        [id] => match method {
            "PUT" => Ok(Route::PutDevice(device(id)?)),
            "GET" => Ok(Route::GetDevice(device(id)?)),
            "DELETE" => Ok(Route::DeleteDevice(device(id)?)),
            _ => Err(no_method("DELETE, GET, PUT")),
        },
        [id, of, events] if is(of, "messages") && is(events, "events") => match method {
            "POST" => Ok(Route::SendEvents(device(id)?)),
            _ => Err(no_method("POST")),
        },
        [id, of, bound] if is(of, "messages") && is(bound, "devicebound") => match method {
            "GET" => Ok(Route::ReceiveCommand(device(id)?)),
            _ => Err(no_method("GET")),
        },
        [id, of, bound, lock] if is(of, "messages") && is(bound, "devicebound") => match method {
            "DELETE" => {
                let settlement = match target.parameter("reject") {
                    Some(_) => Settlement::Reject,
                    None => Settlement::Complete,
                };
                Ok(Route::SettleCommand(device(id)?, read_lock(lock)?, settlement))
            }
            _ => Err(no_method("DELETE")),
        },
        [id, of, bound, lock, abandon]
            if is(of, "messages") && is(bound, "devicebound") && is(abandon, "abandon") =>
        {
            match method {
                "POST" => Ok(Route::SettleCommand(device(id)?, read_lock(lock)?, Settlement::Abandon)),
                _ => Err(no_method("POST")),
            }
        }
        [id, commands] if is(commands, "commands") => match method {
            "DELETE" => Ok(Route::PurgeCommands(device(id)?)),
            _ => Err(no_method("DELETE")),
        },
        _ => Err(no_route()),
    }
}

fn of_policies(method: &str, rest: &[&str]) -> Result<PolicyRoute, Refused> {
    match rest {
        [] => match method {
            "GET" => Ok(PolicyRoute::List),
            _ => Err(no_method("GET")),
        },
        [name] => match method {
            "PUT" => Ok(PolicyRoute::Put((*name).to_owned())),
            "GET" => Ok(PolicyRoute::Get((*name).to_owned())),
            "DELETE" => Ok(PolicyRoute::Delete((*name).to_owned())),
            _ => Err(no_method("DELETE, GET, PUT")),
        },
        [name, of, word] if is(of, "keys") && is(word, "regenerate") => match method {
            "POST" => Ok(PolicyRoute::Renew((*name).to_owned())),
            _ => Err(no_method("POST")),
        },
        _ => Err(no_route()),
    }
}

fn of_receipts(method: &str, rest: &[&str], partition_count: u16) -> Result<Route, Refused> {
    let [bound, feedback, rest @ ..] = rest else { return Err(no_route()) };
    if !is(bound, "servicebound") || !is(feedback, "feedback") {
        return Err(no_route());
    }
    let settle = |lock: &str, settlement| {
        Ok(Route::SettleReceipts(read_batch_lock(lock, partition_count)?, settlement))
    };
    match rest {
        [] => get(method, || Ok(Route::ReceiveReceipts)),
        [lock] => match method {
            "DELETE" => settle(lock, Settlement::Complete),
            _ => Err(no_method("DELETE")),
        },
        [lock, abandon] if is(abandon, "abandon") => match method {
            "POST" => settle(lock, Settlement::Abandon),
            _ => Err(no_method("POST")),
        },
        _ => Err(no_route()),
    }
}

fn of_statistics(method: &str, rest: &[&str]) -> Result<Route, Refused> {
    match rest {
        [of] if is(of, "devices") => get(method, || Ok(Route::DeviceStatistics)),
        [of] if is(of, "service") => get(method, || Ok(Route::ServiceStatistics)),
        _ => Err(no_route()),
    }
}

fn of_groups(method: &str, rest: &[&str], partition_count: u16) -> Result<Route, Refused> {
    match rest {
        [] => get(method, || Ok(Route::ListGroups)),
        [name] => match method {
            "PUT" => Ok(Route::PutGroup((*name).to_owned())),
            "GET" => Ok(Route::GetGroup((*name).to_owned())),
            "DELETE" => Ok(Route::DeleteGroup((*name).to_owned())),
            _ => Err(no_method("DELETE, GET, PUT")),
        },
        [name, of] if is(of, "checkpoints") => get(method, || Ok(Route::ListCheckpoints((*name).to_owned()))),
        [name, of, partition] if is(of, "checkpoints") => {
            let partition = read_partition(partition, partition_count)?;
            match method {
                "GET" => Ok(Route::GetCheckpoint((*name).to_owned(), partition)),
                "PUT" => Ok(Route::PutCheckpoint((*name).to_owned(), partition)),
                _ => Err(no_method("GET, PUT")),
            }
        }
        _ => Err(no_route()),
    }
}

/// A date, of whatever day, and what kind of preview it is. Clients of all years ask for the same things.
fn is_version(text: &str) -> bool {
    let (date, kind) = text.split_at_checked(10).unwrap_or((text, ""));
    let is_date = date.len() == 10
        && date.bytes().enumerate().all(|(place, byte)| match place {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_date && (kind.is_empty() || kind.starts_with('-'))
}

fn is(segment: &str, word: &str) -> bool {
    segment.eq_ignore_ascii_case(word)
}

fn get(method: &str, route: impl FnOnce() -> Result<Route, Refused>) -> Result<Route, Refused> {
    match method {
        "GET" => route(),
        _ => Err(no_method("GET")),
    }
}

fn device(id: &str) -> Result<DeviceId, Refused> {
    DeviceId::parse(id).map_err(|error| invalid(format!("invalid device id: {error}")).into())
}

/// `top`, 1 to 1000; without it as many as there may be, for the Node package asks so and takes what comes.
fn read_top(target: &Target<'_>) -> Result<u32, Refused> {
    let Some(text) = target.parameter("top") else { return Ok(LIST_COUNT_MAX) };
    match text.parse() {
        Ok(count) if (1..=LIST_COUNT_MAX).contains(&count) => Ok(count),
        _ => Err(invalid(format!("top is 1 to {LIST_COUNT_MAX}")).into()),
    }
}

fn read_partition(text: &str, partition_count: u16) -> Result<PartitionId, Refused> {
    let partition = text
        .parse()
        .ok()
        .filter(|partition| text.bytes().all(|byte| byte.is_ascii_digit()) && *partition < partition_count);
    let not_found = || {
        let mut refused = no_route();
        (refused.status.code, refused.status.name) = (404_003, "PartitionNotFound");
        refused.status.message = format!("partitions are 0 to {}", partition_count - 1);
        refused
    };
    partition.map(PartitionId).ok_or_else(not_found)
}
