//! `POST /devices/query`: `SELECT * FROM devices` with a simple `WHERE`, page by page [IoT Hub: iot-hub-devguide-query-language].
//!
//! The answer has the shape of device twins as far as the identity goes. A condition that names its devices looks up those; any
//! other goes over all identities in the order of their ids. A request looks at a bounded number of them, so that a page may hold
//! less than was asked for, or nothing, and still say that there is more.

mod condition;

use engine::request::{DeviceView, EngineError, PartitionId, Reply, Request};
use registry::DeviceId;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, confused, invalid, refused};
use super::identity::{read_object, time};
use super::work::{CONTINUATION, Questions, read_continuation, write_continuation};
use crate::binding::status::Status;
use condition::{Condition, parse};

/// The header that says how many items a page may hold.
pub(super) const ITEM_COUNT: &str = "x-ms-max-item-count";

/// Items of a page where the caller does not say, and at most [IoT Hub: Query REST API].
const PAGE_COUNT_DEFAULT: u32 = 100;
const PAGE_COUNT_MAX: u32 = 1000;

/// Identities of one partition in one question.
const SCAN_COUNT: u32 = 500;

/// Rounds of questions in one request; after these the page ends where it is.
const SCAN_ROUNDS_MAX: u32 = 8;

/// Devices that are looked up one by one; a longer list is compared with all.
const LOOKUP_COUNT_MAX: usize = 64;

#[derive(Deserialize)]
struct QueryBody {
    query: String,
}

/// A query in work.
#[derive(Debug)]
pub(super) struct Query {
    condition: Option<Condition>,
    count_max: usize,
    /// Matching identities so far, in the order of their ids.
    found: Vec<DeviceView>,
    /// Of the round under way.
    round: Vec<DeviceView>,
    /// Where the partitions that have more ended; nothing behind the first of these is known yet.
    horizon: Option<DeviceId>,
    replies_left: u16,
    rounds_left: u32,
    /// Where the answer ends, if there may be more behind.
    rest: Option<DeviceId>,
    is_lookup: bool,
}

impl Query {
    /// Read a query; `continuation` and `item_count` are the headers of these names.
    pub(super) fn begin(
        body: &[u8],
        continuation: Option<&str>,
        item_count: Option<&str>,
        partition_count: u16,
    ) -> Result<(Self, Questions), Status> {
        let text = read_object::<QueryBody>(body)?.query;
        let condition = parse(&text).map_err(|error| invalid(error.to_string()))?;
        let after = continuation.map(read_continuation).transpose()?;
        let mut query = Self {
            count_max: read_item_count(item_count)? as usize,
            found: Vec::new(),
            round: Vec::new(),
            horizon: None,
            replies_left: 0,
            rounds_left: SCAN_ROUNDS_MAX,
            rest: None,
            is_lookup: false,
            condition,
        };
        let named = query.condition.as_ref().and_then(Condition::devices);
        let few = named.filter(|ids| ids.len() <= LOOKUP_COUNT_MAX);
        let few = few.map(|ids| ids.into_iter().filter_map(|id| DeviceId::parse(id).ok()).collect());
        let questions = match few {
            Some(ids) => query.look_up(ids, after.as_ref()),
            None => query.scan(after.as_ref(), partition_count),
        };
        Ok((query, questions))
    }

    fn look_up(&mut self, mut ids: Vec<DeviceId>, after: Option<&DeviceId>) -> Questions {
        ids.retain(|id| after.is_none_or(|after| id > after));
        self.is_lookup = true;
        self.replies_left = u16::try_from(ids.len()).expect("there are few");
        ids.into_iter().map(|device| Request::FindDevice { device }).collect()
    }

    fn scan(&mut self, after: Option<&DeviceId>, partition_count: u16) -> Questions {
        self.rounds_left -= 1;
        self.replies_left = partition_count;
        let list =
            |partition| Request::ListDevices { partition, after: after.cloned(), count_max: SCAN_COUNT };
        (0..partition_count).map(PartitionId).map(list).collect()
    }

    /// Take a reply; the questions of the next round, if this was the last of its round.
    pub(super) fn take(&mut self, reply: Reply, partition_count: u16) -> Result<Questions, Status> {
        match reply {
            Reply::Device(view) if self.is_lookup => self.round.push(*view),
            Reply::Failed(EngineError::DeviceNotFound) if self.is_lookup => {}
            Reply::Devices(page) if !self.is_lookup => {
                if let Some(last) = page.last().filter(|_| page.len() >= SCAN_COUNT as usize)
                    && self.horizon.as_ref().is_none_or(|horizon| last.device < *horizon)
                {
                    self.horizon = Some(last.device.clone());
                }
                self.round.extend(page);
            }
            Reply::Failed(error) => return Err(refused(&error)),
            _ => return Err(confused()),
        }
        self.replies_left -= 1;
        match self.replies_left {
            0 => Ok(self.end_round(partition_count)),
            _ => Ok(Vec::new()),
        }
    }

    fn end_round(&mut self, partition_count: u16) -> Questions {
        let mut round = std::mem::take(&mut self.round);
        let horizon = self.horizon.take();
        round.retain(|view| horizon.as_ref().is_none_or(|horizon| view.device <= *horizon));
        round.retain(|view| self.condition.as_ref().is_none_or(|condition| condition.matches(view)));
        round.sort_by(|one, other| one.device.cmp(&other.device));
        self.found.extend(round);
        if self.found.len() > self.count_max {
            self.found.truncate(self.count_max);
            // What lies behind the page is found again by the next one.
            self.rest = self.found.last().map(|view| view.device.clone());
            return Vec::new();
        }
        match horizon {
            Some(horizon) if self.rounds_left > 0 && self.found.len() < self.count_max => {
                self.scan(Some(&horizon), partition_count)
            }
            horizon => {
                self.rest = horizon;
                Vec::new()
            }
        }
    }

    /// Whether the page is ready.
    pub(super) fn is_done(&self) -> bool {
        self.replies_left == 0
    }

    /// The page.
    pub(super) fn answer(&self) -> Answer {
        let items: Vec<Item<'_>> = self.found.iter().map(Item::of).collect();
        let answer = Answer::json(&items).with("x-ms-item-type", "twin");
        match &self.rest {
            Some(last) => answer.with(CONTINUATION, write_continuation(last)),
            None => answer,
        }
    }
}

pub(super) fn read_item_count(text: Option<&str>) -> Result<u32, Status> {
    let Some(text) = text else { return Ok(PAGE_COUNT_DEFAULT) };
    match text.trim().parse() {
        Ok(count) if (1..=PAGE_COUNT_MAX).contains(&count) => Ok(count),
        _ => Err(invalid(format!("{ITEM_COUNT} is 1 to {PAGE_COUNT_MAX}"))),
    }
}

/// An identity in the shape of a device twin.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    device_id: &'a str,
    device_etag: String,
    status: &'static str,
    status_reason: Option<&'a str>,
    status_update_time: String,
    connection_state: &'static str,
    last_activity_time: String,
    cloud_to_device_message_count: u32,
    authentication_type: &'static str,
}

impl<'a> Item<'a> {
    fn of(view: &'a DeviceView) -> Self {
        Self {
            device_id: view.device.as_str(),
            device_etag: view.etag.to_string(),
            status: view.status.as_str(),
            status_reason: view.status_reason.as_deref(),
            status_update_time: time(view.status_updated_ms),
            connection_state: connection_state(view),
            last_activity_time: time(view.last_activity_ms),
            cloud_to_device_message_count: view.command_count,
            authentication_type: "sas",
        }
    }
}

fn connection_state(view: &DeviceView) -> &'static str {
    if view.connected { "Connected" } else { "Disconnected" }
}
