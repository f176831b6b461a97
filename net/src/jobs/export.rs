//! All identities into a file, page by page in the order of their ids.

use std::fs::File;
use std::io::{self, Write};

use engine::request::{DeviceView, PartitionId, Reply, Request};
use registry::DeviceId;

use super::place::{Container, Files};
use super::record::Record;
use super::worker::{Hub, Trouble};
use crate::binding::http::export_line;

/// The file of identities, where no other name is given [IoT Hub: iot-hub-bulk-identity-mgmt].
pub(super) const OUTPUT_NAME: &str = "devices.txt";

/// Identities of one partition in one question.
const PAGE_COUNT: u32 = 1000;

/// An export under way.
#[derive(Debug)]
pub(super) struct Export {
    container: Container,
    /// None: it has its last name already.
    file: Option<File>,
    part_name: String,
    /// How many identities there were at its beginning, for the progress.
    total_count: u64,
}

impl Export {
    /// Open the output where the job stands.
    pub(super) fn open(record: &Record, files: &Files, hub: &Hub) -> Result<Self, Trouble> {
        let names = files.parse(&record.output_container).map_err(Trouble::Failed)?;
        let failed = |error: io::Error| Trouble::failed("the output cannot be opened", error);
        let container = files.open(&names, true).map_err(failed)?;
        let part_name = format!("{}.part", record.output_name);
        let kept_bytes = record.done.output_bytes;
        // A kill may have come between the last name and the word of it.
        let is_named = kept_bytes > 0
            && container.read(&part_name).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            && matches!(length(&container, &record.output_name), Ok(length) if length == kept_bytes);
        let file = match is_named {
            true => None,
            false => Some(container.write(&part_name, kept_bytes).map_err(failed)?),
        };
        let counts = (0..hub.partition_count)
            .map(|partition| Request::CountDevices { partition: PartitionId(partition) });
        let mut total_count = 0;
        for reply in hub.ask(counts.collect())? {
            if let Reply::DeviceCounts(counts) = reply {
                total_count += counts.enabled + counts.disabled;
            }
        }
        Ok(Self { container, file, part_name, total_count })
    }

    /// Write the next page. True: that was the last one.
    pub(super) fn step(&mut self, record: &mut Record, hub: &Hub) -> Result<bool, Trouble> {
        let Some(file) = &mut self.file else { return Ok(true) };
        let after = record.done.device.as_deref().map(DeviceId::parse).transpose();
        let after = after.map_err(|error| Trouble::failed("the job cannot be read", error))?;
        let list = |partition| Request::ListDevices {
            partition: PartitionId(partition),
            after: after.clone(),
            count_max: PAGE_COUNT,
        };
        let mut found: Vec<DeviceView> = Vec::new();
        // Behind the first of these nothing is known yet of some partition.
        let mut horizon: Option<DeviceId> = None;
        for reply in hub.ask((0..hub.partition_count).map(list).collect())? {
            let page = match reply {
                Reply::Devices(page) => page,
                Reply::Failed(error) => return Err(Trouble::Failed(error.to_string())),
                _ => return Err(Trouble::Failed("the hub has made an error".into())),
            };
            if let Some(last) = page.last().filter(|_| page.len() >= PAGE_COUNT as usize) {
                let is_first = horizon.as_ref().is_none_or(|horizon| last.device < *horizon);
                horizon = if is_first { Some(last.device.clone()) } else { horizon };
            }
            found.extend(page);
        }
        found.retain(|view| horizon.as_ref().is_none_or(|horizon| view.device <= *horizon));
        found.sort_unstable_by(|one, other| one.device.cmp(&other.device));
        let mut bytes = Vec::new();
        for view in &found {
            bytes.extend_from_slice(export_line(view, record.excludes_keys).as_bytes());
            bytes.push(b'\n');
        }
        let failed = |error: io::Error| Trouble::failed("the output cannot be written", error);
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(failed)?;
        record.done.output_bytes += bytes.len() as u64;
        record.done.device_count += found.len() as u64;
        if let Some(last) = found.last() {
            record.done.device = Some(last.device.as_str().to_owned());
        }
        let percent = (record.done.device_count * 100).checked_div(self.total_count).unwrap_or(99);
        record.progress = u32::try_from(percent.min(99)).unwrap_or(99);
        if horizon.is_some() {
            return Ok(false);
        }
        self.container.rename(&self.part_name, &record.output_name).map_err(failed)?;
        Ok(true)
    }

    /// It ends before its end: nobody shall take the part for the whole.
    pub(super) fn discard(self) {
        if let Err(error) = self.container.remove(&self.part_name) {
            tracing::warn!("the part of an export cannot be removed: {error}");
        }
    }
}

fn length(container: &Container, name: &str) -> io::Result<u64> {
    Ok(container.read(name)?.metadata()?.len())
}
