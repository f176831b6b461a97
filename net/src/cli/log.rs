//! `corehub log inspect`: what a log's segments hold, read without changing them; a hub may be running on it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use comfy_table::Table;
use jiff::Timestamp;
use segment_log::storage::disk::{DiskConfig, DiskStorage};
use segment_log::{InspectedState, Inspection, inspect};

use super::{CommandError, OrFail, print_line};

/// How deep logs lie below a data directory: `partitions/0000/events`.
const DEPTH_MAX: u32 = 3;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Read segments: ranges, times, damage
    Inspect {
        /// A log's directory, or one above it, such as a data directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

pub(super) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let Action::Inspect { directory } = &arguments.action;
    let mut logs = Vec::new();
    find_logs(directory, DEPTH_MAX, &mut logs)
        .map_err(|error| CommandError::new(format!("{}: {error}", directory.display())))?;
    logs.sort();
    if logs.is_empty() {
        return Err(CommandError::new(format!("{}: no log is here or below", directory.display())));
    }
    let mut damage_count = 0;
    for path in &logs {
        let config = DiskConfig { read_only: true, ..DiskConfig::default() };
        let failed =
            |error: &dyn std::fmt::Display| CommandError::new(format!("{}: {error}", path.display()));
        let mut storage = DiskStorage::open(path, config).map_err(|error| failed(&error))?;
        let segments = inspect(&mut storage).map_err(|error| failed(&error))?;
        print_line(report(path, &segments).or_fail()?);
        damage_count += segments.iter().map(faults).sum::<usize>();
    }
    match damage_count {
        0 => Ok(()),
        count => Err(CommandError::new(format!("damage found: {count}"))),
    }
}

/// Directories with segments in them.
fn find_logs(directory: &Path, depth: u32, logs: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut is_log = false;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "segment") {
            is_log = true;
        } else if depth > 0 && entry.file_type()?.is_dir() {
            find_logs(&path, depth - 1, logs)?;
        }
    }
    if is_log {
        logs.push(directory.to_path_buf());
    }
    Ok(())
}

/// What is wrong with a segment: nothing, or how many things.
fn faults(segment: &Inspection) -> usize {
    let is_strange = !matches!(segment.state, InspectedState::Sealed | InspectedState::Open);
    segment.damage.len() + usize::from(segment.header_damaged) + usize::from(is_strange)
}

fn report(path: &Path, segments: &[Inspection]) -> Result<String, std::fmt::Error> {
    use std::fmt::Write;
    let mut text = format!("{}: ", path.display());
    let first = segments.iter().find_map(|segment| segment.first);
    let end = segments.iter().rev().find(|segment| segment.first.is_some()).map(|segment| segment.end);
    match (first, end) {
        (Some(first), Some(end)) => write!(text, "records {first} to {}", end.0.saturating_sub(1))?,
        _ => write!(text, "no records")?,
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["SEGMENT", "STATE", "BYTES", "FIRST", "END", "FROM", "TO"]);
    for segment in segments {
        let holds = segment.first.is_some();
        let shown = |text: String| if holds { text } else { "-".to_string() };
        table.add_row([
            segment.segment.to_string(),
            state(segment),
            segment.bytes.to_string(),
            shown(segment.first.map_or_else(String::new, |first| first.to_string())),
            shown(segment.end.to_string()),
            shown(time(segment.first_time_ms)),
            shown(time(segment.last_time_ms)),
        ]);
    }
    write!(text, "\n{}", table.trim_fmt())?;
    for damage in segments.iter().flat_map(|segment| &segment.damage) {
        write!(text, "\n DAMAGE {damage}")?;
    }
    Ok(text)
}

fn state(segment: &Inspection) -> String {
    let state = match segment.state {
        InspectedState::Sealed => "sealed".to_string(),
        InspectedState::Open => "open".to_string(),
        InspectedState::OtherVersion(version) => format!("format {version}"),
        InspectedState::Unreadable => "unreadable".to_string(),
    };
    if segment.header_damaged { format!("{state}, header damaged") } else { state }
}

fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "-".to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use segment_log::{Log, LogConfig, Now, drive};

    #[test]
    fn a_log_is_found_and_described_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("partitions/0000/events");
        std::fs::create_dir_all(&path).unwrap();
        let now = Now { wall_ms: 1_790_000_000_123, mono_ms: 1 };
        {
            let mut storage = DiskStorage::open(&path, DiskConfig::default()).unwrap();
            let (mut log, _) = Log::open(&mut storage, LogConfig::default(), now, 7).unwrap();
            log.append(&[&[b"one"], &[b"two"]], now.wall_ms).unwrap();
            drive(&mut log, &mut storage);
        }
        let before: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        let mut logs = Vec::new();
        find_logs(directory.path(), DEPTH_MAX, &mut logs).unwrap();
        assert_eq!(logs, std::slice::from_ref(&path));
        let config = DiskConfig { read_only: true, ..DiskConfig::default() };
        let segments = inspect(&mut DiskStorage::open(&path, config).unwrap()).unwrap();
        let text = report(&path, &segments).unwrap();
        assert!(text.contains("events: records 0 to 1\n"), "{text}");
        assert!(text.contains("2026-09-21T14:13:20.123Z"), "{text}");
        assert_eq!(segments.iter().map(faults).sum::<usize>(), 0);
        let after: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(before, after);
        run(&Arguments { action: Action::Inspect { directory: directory.path().to_path_buf() } }).unwrap();
        assert!(
            run(&Arguments { action: Action::Inspect { directory: directory.path().join("none") } }).is_err()
        );
    }
}
