//! Many devices from a file, in lists that the hub takes whole. Nothing but one list is in memory.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::https::{Hub, Refusal};
use crate::cli::{CommandError, OrFail, print_line};

/// Devices in one request: as many as the hub takes from its administrator.
const LIST_COUNT: usize = 1000;

/// Bytes of lines in one request, below what the hub takes.
const LIST_BYTES: usize = 768 * 1024;

/// Bytes of one line.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// How often a list is sent again for what the hub was too busy to take.
const BUSY_TRIES: u32 = 200;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// One row of a CSV file; the columns may stand in any order. One of another name is refused: who misspells that of the keys
/// would get devices with others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    device_id: String,
    primary_key: Option<String>,
    secondary_key: Option<String>,
    status: Option<String>,
    status_reason: Option<String>,
}

/// Create the devices of a CSV file.
pub(super) fn create(hub: &Hub, file: &Path) -> Result<(), CommandError> {
    let source = Source::open(file)?;
    let mut sender = Sender::new(hub, source.bar("created"));
    let bar = sender.bar.clone();
    let mut rows = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bar.wrap_read(source.reader));
    for (index, row) in rows.deserialize::<Row>().enumerate() {
        let row = match row {
            Ok(row) => row,
            // Where it goes on cannot be known.
            Err(error) => {
                sender.send()?;
                return Err(CommandError::new(format!("{}: {error}", file.display())));
            }
        };
        let empty_as_none = |text: Option<String>| text.filter(|text| !text.is_empty());
        let entry = json!({
            "id": row.device_id, "importMode": "create",
            "status": empty_as_none(row.status).unwrap_or_else(|| "enabled".to_owned()),
            "statusReason": empty_as_none(row.status_reason),
            "authentication": { "type": "sas", "symmetricKey": {
                "primaryKey": row.primary_key, "secondaryKey": row.secondary_key,
            } },
        });
        // The first line names the columns.
        sender.add(index + 2, entry)?;
    }
    sender.finish()
}

/// Do what the JSON lines of a file say.
pub(super) fn import(hub: &Hub, file: &Path) -> Result<(), CommandError> {
    let source = Source::open(file)?;
    let mut sender = Sender::new(hub, source.bar("imported"));
    let bar = sender.bar.clone();
    let mut lines = BufReader::new(bar.wrap_read(source.reader));
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let read = lines.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).or_fail()?;
        if read == 0 {
            break;
        }
        if read as u64 == LINE_BYTES_MAX {
            return Err(CommandError::new(format!("line {number} is longer than {LINE_BYTES_MAX} bytes")));
        }
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(&line) {
            Ok(entry) => sender.add(number, entry)?,
            // Not what stands there: it may be a key.
            Err(_) => sender.refuse(number, "not JSON"),
        }
    }
    sender.finish()
}

/// Where the devices come from.
struct Source {
    reader: Box<dyn Read>,
    bytes: Option<u64>,
}

impl Source {
    fn open(file: &Path) -> Result<Self, CommandError> {
        if file == Path::new("-") {
            return Ok(Self { reader: Box::new(std::io::stdin()), bytes: None });
        }
        let failed = |error: std::io::Error| CommandError::new(format!("{}: {error}", file.display()));
        let opened = File::open(file).map_err(failed)?;
        let bytes = opened.metadata().map_err(failed)?.len();
        Ok(Self { reader: Box::new(opened), bytes: Some(bytes) })
    }

    /// A bar over the file's bytes, which are known; how many devices it has is not.
    fn bar(&self, verb: &str) -> ProgressBar {
        let bar = match self.bytes {
            Some(bytes) => ProgressBar::new(bytes),
            None => ProgressBar::no_length(),
        };
        if !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = ["{bar:40} {percent:>3} %  {msg} ", verb, "  {eta}"].concat();
        bar.with_style(ProgressStyle::with_template(&template).expect("a fixed template"))
    }
}

/// Gathers lists and sends them.
struct Sender<'a> {
    hub: &'a Hub,
    bar: ProgressBar,
    list: Vec<Value>,
    ids: HashSet<String>,
    list_bytes: usize,
    /// The line where each entry of the list stands.
    lines: Vec<usize>,
    done_count: u64,
    refused_count: u64,
}

impl<'a> Sender<'a> {
    fn new(hub: &'a Hub, bar: ProgressBar) -> Self {
        let (list, lines) = (Vec::with_capacity(LIST_COUNT), Vec::with_capacity(LIST_COUNT));
        Self { hub, bar, list, ids: HashSet::new(), list_bytes: 0, lines, done_count: 0, refused_count: 0 }
    }

    fn add(&mut self, line: usize, entry: Value) -> Result<(), CommandError> {
        // A list that names a device twice is refused whole; its second mention goes into the next one.
        let id = entry["id"].as_str().unwrap_or_default().to_owned();
        let is_repeated = self.ids.contains(&id);
        let bytes = entry.to_string().len() + 1;
        if is_repeated || self.list.len() >= LIST_COUNT || self.list_bytes + bytes > LIST_BYTES {
            self.send()?;
        }
        self.ids.insert(id);
        self.list_bytes += bytes;
        self.list.push(entry);
        self.lines.push(line);
        Ok(())
    }

    fn finish(mut self) -> Result<(), CommandError> {
        self.send()?;
        self.bar.finish_and_clear();
        print_line(format_args!("{} done, {} refused", self.done_count, self.refused_count));
        match self.refused_count {
            0 => Ok(()),
            count => Err(CommandError::new(format!("{count} devices were refused"))),
        }
    }

    /// Send the list; what the hub is too busy for is sent again.
    fn send(&mut self) -> Result<(), CommandError> {
        let mut tries = 0;
        while !self.list.is_empty() {
            let list = Value::Array(std::mem::take(&mut self.list));
            let answer = match self.hub.ask("POST", "/devices", &[], Some(&list)) {
                Ok(answer) => answer.body,
                Err(Refusal::Status(400, _, body)) if body["errors"].is_array() => body,
                Err(refusal) => return Err(refusal.into()),
            };
            let Value::Array(sent) = list else { unreachable!("made as a list above") };
            self.done_count += sent.len() as u64;
            let errors = answer["errors"].as_array().map_or(&[][..], Vec::as_slice);
            let mut busy = Vec::new();
            for error in errors {
                self.done_count -= 1;
                let place = sent.iter().position(|entry| is_of(entry, error)).unwrap_or_default();
                if error["errorCode"] == "ThrottlingException" && tries < BUSY_TRIES {
                    busy.push(place);
                } else {
                    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                    let (id, status, code) = (text("deviceId"), text("errorStatus"), text("errorCode"));
                    let line = self.lines.get(place).copied().unwrap_or_default();
                    self.refuse(line, &format!("{id}: {status} ({code})"));
                }
            }
            let keep = |place: &usize| (sent[*place].clone(), self.lines[*place]);
            (self.list, self.lines) = busy.iter().map(keep).unzip();
            if !self.list.is_empty() {
                tries += 1;
                std::thread::sleep(BUSY_PAUSE);
            }
        }
        self.lines.clear();
        self.ids.clear();
        self.list_bytes = 0;
        self.bar.set_message(self.done_count.to_string());
        Ok(())
    }

    /// A line that comes to nothing.
    fn refuse(&mut self, line: usize, why: &str) {
        self.refused_count += 1;
        self.bar.suspend(|| eprintln!("line {line}: {why}"));
    }
}

/// Whether an error is about this entry. An entry without an id is told of with an empty one.
fn is_of(entry: &Value, error: &Value) -> bool {
    entry["id"].as_str().unwrap_or_default() == error["deviceId"].as_str().unwrap_or_default()
}
