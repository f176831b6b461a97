//! All devices of a hub, page by page: as a table, as JSON, and as lines for an import.

use std::fs::OpenOptions;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use comfy_table::Table;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::cli::https::Hub;
use crate::cli::{CommandError, OrFail, print_line};

/// Identities in one answer.
const PAGE: usize = 1000;

/// Call `act` for each page of devices, in the order of their ids.
fn each_page(
    hub: &Hub,
    mut act: impl FnMut(Vec<Value>) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let path = format!("/devices?top={PAGE}");
    let mut continuation: Option<String> = None;
    loop {
        let next = continuation.as_deref();
        let headers: Vec<(&str, &str)> = next.map(|token| ("x-ms-continuation", token)).into_iter().collect();
        let mut page = hub.ask("GET", &path, &headers, None)?;
        if let Value::Array(devices) = page.body.take() {
            act(devices)?;
        }
        match page.continuation {
            Some(token) if next != Some(&token) => continuation = Some(token),
            _ => return Ok(()),
        }
    }
}

/// A table; one of more than a page is several below each other.
pub(super) fn print_table(hub: &Hub) -> Result<(), CommandError> {
    let mut is_first = true;
    each_page(hub, |devices| {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        if std::mem::take(&mut is_first) {
            table.set_header(["DEVICE", "STATUS", "STATE", "LAST ACTIVITY", "REASON"]);
        }
        for device in &devices {
            let field = |name: &str| device.get(name).and_then(Value::as_str).unwrap_or_default();
            table.add_row([
                field("deviceId"),
                field("status"),
                field("connectionState"),
                field("lastActivityTime"),
                field("statusReason"),
            ]);
        }
        print_line(table.trim_fmt());
        Ok(())
    })
}

/// A JSON array with one device per line. Keys are what `show` is for.
pub(super) fn print_json(hub: &Hub) -> Result<(), CommandError> {
    let mut separator = "[";
    each_page(hub, |devices| {
        let mut text = String::new();
        for mut device in devices {
            if let Some(fields) = device.as_object_mut() {
                fields.remove("authentication");
            }
            text.push_str(std::mem::replace(&mut separator, ","));
            text.push('\n');
            text.push_str(&device.to_string());
        }
        if !text.is_empty() {
            print_text(&text);
        }
        Ok(())
    })?;
    print_line(if separator == "[" { "[]" } else { "\n]" });
    Ok(())
}

fn print_text(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if stdout.write_all(text.as_bytes()).is_err() {
        std::process::exit(0);
    }
}

/// One line for each device, in the shape that an import takes [IoT Hub: iot-hub-bulk-identity-mgmt].
pub(super) fn export(hub: &Hub, file: &Path, exclude_keys: bool) -> Result<(), CommandError> {
    let is_stdout = file == Path::new("-");
    let mut out: BufWriter<Box<dyn Write>> = BufWriter::new(match is_stdout {
        true => Box::new(std::io::stdout()),
        // It holds keys: its owner alone may read it, and an older file is not lost by a typing error.
        false => Box::new(
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(file)
                .map_err(|error| CommandError::new(format!("{}: {error}", file.display())))?,
        ),
    });
    let progress = ProgressBar::no_length();
    if is_stdout || !std::io::stderr().is_terminal() {
        progress.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let mut count = 0_u64;
    each_page(hub, |devices| {
        for device in &devices {
            writeln!(out, "{}", exported(device, exclude_keys)).or_fail()?;
        }
        count += devices.len() as u64;
        progress.set_position(count);
        Ok(())
    })?;
    out.flush().or_fail()?;
    progress.finish_and_clear();
    if !is_stdout {
        print_line(format_args!("exported {count} devices"));
    }
    Ok(())
}

fn exported(device: &Value, exclude_keys: bool) -> Value {
    let mut line = json!({
        "id": device["deviceId"], "eTag": device["etag"], "importMode": "create",
        "status": device["status"], "statusReason": device["statusReason"],
    });
    if !exclude_keys {
        let keys = &device["authentication"]["symmetricKey"];
        line["authentication"] = json!({ "type": "sas", "symmetricKey": keys });
    }
    line
}
