//! Identities out of a file: created, changed and deleted as its lines say, in batches.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};

use engine::request::{DeviceChange, IfMatch};
use registry::DeviceId;
use serde_json::json;

use super::place::Files;
use super::record::{JobStatus, Record};
use super::worker::{Hub, Trouble};
use crate::binding::http::ImportEntry;
use crate::binding::status::Status;

/// The file that tells which lines came to nothing [IoT Hub: iot-hub-bulk-identity-mgmt].
pub(super) const ERRORS_NAME: &str = "importErrors.log";

/// Lines of one batch: all may be of one partition, which takes this many at a time.
const BATCH_LINE_COUNT: usize = engine::limits::DEVICE_CHANGE_COUNT_MAX;

/// Bytes of one line, and of one batch.
const LINE_BYTES_MAX: u64 = 64 * 1024;
const BATCH_BYTES_MAX: u64 = 1024 * 1024;

/// Codes of what a line that is done again may be refused with although its wish stands.
const MAY_STAND: [u32; 3] = [404_001, 409_001, 412_001];

/// An import under way.
#[derive(Debug)]
pub(super) struct Import {
    input: BufReader<File>,
    /// Length of the input, for the progress.
    input_bytes: u64,
    errors: File,
    /// Read, but for the next batch.
    held: Option<Line>,
    /// The next batch may have been done by an earlier run.
    may_be_done: bool,
}

/// A line of the input.
#[derive(Debug)]
struct Line {
    number: u64,
    bytes: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Blank,
    Change {
        change: DeviceChange,
        /// Where the device exists already: its condition.
        or_update: Option<IfMatch>,
    },
    Refused {
        id: String,
        status: Status,
    },
}

impl Import {
    /// Open input and log of errors where the job stands.
    pub(super) fn open(record: &Record, files: &Files) -> Result<Self, Trouble> {
        let input_container = record.input_container.as_deref().unwrap_or_default();
        let names = files.parse(input_container).map_err(Trouble::Failed)?;
        let opened = files.open(&names, false).and_then(|container| container.read(&record.input_name));
        let mut input = opened.map_err(|error| Trouble::failed("the input cannot be opened", error))?;
        let unreadable = |error: io::Error| Trouble::failed("the input cannot be read", error);
        let input_bytes = input.metadata().map_err(unreadable)?.len();
        if input_bytes < record.done.input_bytes {
            return Err(Trouble::Failed("the input is shorter than it was".into()));
        }
        input.seek(SeekFrom::Start(record.done.input_bytes)).map_err(unreadable)?;
        let names = files.parse(&record.output_container).map_err(Trouble::Failed)?;
        let errors = files
            .open(&names, true)
            .and_then(|container| container.write(&record.output_name, record.done.output_bytes))
            .map_err(|error| Trouble::failed("the log of errors cannot be opened", error))?;
        // That a job is under way is stored before its first batch.
        let may_be_done = record.status == JobStatus::Running;
        Ok(Self { input: BufReader::new(input), input_bytes, errors, held: None, may_be_done })
    }

    /// Do the next batch. True: that was the last one.
    pub(super) fn step(&mut self, record: &mut Record, hub: &Hub) -> Result<bool, Trouble> {
        let lines = self.read_batch(record.done.line_count)?;
        if lines.is_empty() {
            return Ok(true);
        }
        let refused = self.apply(&lines, record.started_ms, hub)?;
        let mut log = Vec::new();
        for (line, refused) in lines.iter().zip(&refused) {
            record.done.input_bytes += line.bytes;
            record.done.line_count += 1;
            let id = match (&line.content, refused) {
                (Content::Blank, _) => continue,
                (_, None) => {
                    record.done.device_count += 1;
                    continue;
                }
                (Content::Change { change, .. }, _) => change.device().as_str(),
                (Content::Refused { id, .. }, _) => id,
            };
            let Some(status) = refused else { continue };
            record.done.refused_count += 1;
            let error = json!({
                "id": id, "line": line.number, "errorCode": status.name, "errorStatus": status.message,
            });
            log.extend_from_slice(error.to_string().as_bytes());
            log.push(b'\n');
        }
        let written = self.errors.write_all(&log).and_then(|()| self.errors.sync_data());
        written.map_err(|error| Trouble::failed("the log of errors cannot be written", error))?;
        record.done.output_bytes += log.len() as u64;
        let percent = (record.done.input_bytes * 100).checked_div(self.input_bytes).unwrap_or(99);
        record.progress = u32::try_from(percent.min(99)).unwrap_or(99);
        self.may_be_done = false;
        Ok(false)
    }

    /// Change what the lines say; why not, for each that came to nothing.
    fn apply(&self, lines: &[Line], started_ms: u64, hub: &Hub) -> Result<Vec<Option<Status>>, Trouble> {
        let mut refused: Vec<Option<Status>> = lines
            .iter()
            .map(|line| match &line.content {
                Content::Refused { status, .. } => Some(status.clone()),
                _ => None,
            })
            .collect();
        let wanted = lines.iter().enumerate().filter_map(|(place, line)| match &line.content {
            Content::Change { change, or_update } => Some((place, change, or_update)),
            _ => None,
        });
        let wanted: Vec<(usize, &DeviceChange, &Option<IfMatch>)> = wanted.collect();
        let results = hub.change(wanted.iter().map(|(_, change, _)| (*change).clone()).collect())?;
        // Those that exist already, and may.
        let mut updates = Vec::new();
        for ((place, change, or_update), result) in wanted.iter().zip(results) {
            let status = result.err().map(|error| Status::of(&error));
            match (change, or_update, &status) {
                (DeviceChange::Create(draft), Some(if_match), Some(Status { code: 409_001, .. })) => {
                    let update = DeviceChange::Update { draft: draft.clone(), if_match: if_match.clone() };
                    updates.push((*place, update));
                }
                _ => refused[*place] = status,
            }
        }
        let results = hub.change(updates.iter().map(|(_, update)| update.clone()).collect())?;
        for ((place, _), result) in updates.iter().zip(results) {
            refused[*place] = result.err().map(|error| Status::of(&error));
        }
        if self.may_be_done {
            for (place, change, _) in &wanted {
                if refused[*place].as_ref().is_some_and(|status| MAY_STAND.contains(&status.code))
                    && stands(change, started_ms, hub)?
                {
                    refused[*place] = None;
                }
            }
        }
        Ok(refused)
    }

    /// The lines of the next batch, none when there are no more. A device is named once in a batch: its changes are done in order.
    fn read_batch(&mut self, first_number: u64) -> Result<Vec<Line>, Trouble> {
        let mut lines: Vec<Line> = Vec::new();
        let mut seen: HashSet<DeviceId> = HashSet::new();
        let mut bytes = 0;
        while lines.len() < BATCH_LINE_COUNT && bytes < BATCH_BYTES_MAX {
            let number = first_number + lines.len() as u64 + 1;
            let line = match self.held.take() {
                Some(line) => line,
                None => match self.read_line(number) {
                    Ok(Some(line)) => line,
                    Ok(None) => break,
                    Err(error) => return Err(Trouble::failed("the input cannot be read", error)),
                },
            };
            if let Content::Change { change, .. } = &line.content
                && !seen.insert(change.device().clone())
            {
                self.held = Some(line);
                break;
            }
            bytes += line.bytes;
            lines.push(line);
        }
        Ok(lines)
    }

    fn read_line(&mut self, number: u64) -> io::Result<Option<Line>> {
        let mut text = Vec::new();
        let mut bytes = self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut text)? as u64;
        if bytes == 0 {
            return Ok(None);
        }
        let refused = |message: String| Content::Refused {
            id: String::new(),
            status: Status::new(
                400_006,
                "IotHubFormatError",
                net_amqp::condition::MS_ARGUMENT_ERROR,
                message,
            ),
        };
        if bytes == LINE_BYTES_MAX && text.last() != Some(&b'\n') {
            bytes += skip_line(&mut self.input)?;
            let content = refused(format!("the line is longer than {LINE_BYTES_MAX} bytes"));
            return Ok(Some(Line { number, bytes, content }));
        }
        // Some editors put a byte order mark in front of a text.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text).trim_ascii();
        if text.is_empty() {
            return Ok(Some(Line { number, bytes, content: Content::Blank }));
        }
        // Not what stands there: it may be a key.
        let content = match serde_json::from_slice::<ImportEntry>(text) {
            // A list would be taken for the fields in their order.
            Ok(entry) if text.starts_with(b"{") => {
                let id = entry.id().to_owned();
                match entry.of_job() {
                    Ok((change, or_update)) => Content::Change { change, or_update },
                    Err(status) => Content::Refused { id, status },
                }
            }
            _ => refused("the line is no device as JSON".into()),
        };
        Ok(Some(Line { number, bytes, content }))
    }
}

/// Leave the rest of a line unread; how long it was.
fn skip_line(input: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(buffer.len(), |end| end + 1);
        let is_over = end.is_some() || buffer.is_empty();
        input.consume(count);
        skipped += count as u64;
        if is_over {
            return Ok(skipped);
        }
    }
}

/// Whether what was asked is so already, because an earlier run did it.
fn stands(change: &DeviceChange, started_ms: u64, hub: &Hub) -> Result<bool, Trouble> {
    Ok(match (change, hub.find(change.device())?) {
        (DeviceChange::Create(_), Some(view)) => view.generation.created_ms() >= started_ms,
        (DeviceChange::Update { draft, .. }, Some(view)) => {
            let keeps = |wanted: &Option<registry::DeviceKey>, key| {
                wanted.as_ref().is_none_or(|wanted| wanted == key)
            };
            view.status == draft.status
                && view.status_reason == draft.status_reason
                && keeps(&draft.primary_key, &view.keys.primary)
                && keeps(&draft.secondary_key, &view.keys.secondary)
        }
        (DeviceChange::Delete { .. }, None) => true,
        _ => false,
    })
}
