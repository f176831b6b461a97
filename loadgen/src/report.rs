//! What a run found, as a table or JSON.

use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Table};
use serde_json::{Value, json};

use crate::arguments::{Arguments, Profile};
use crate::job::Protocol;
use crate::ledger::Ledger;
use crate::plot;
use crate::record::{Figures, Kind, Percentiles, Recorder};
use crate::shape::Shape;

/// Seconds of a schedule that may be unsent at its end without being worth a line to people.
const NOISE_S: f64 = 0.05;

/// The figures of one run.
#[derive(Debug)]
pub struct Report {
    /// What was asked for.
    pub arguments: Arguments,
    /// With the profile's numbers.
    pub shape: Shape,
    /// What was driven.
    pub target: String,
    /// How the load spoke.
    pub protocol: Protocol,
    /// Whether it used TLS.
    pub has_tls: bool,
    /// How long was measured.
    pub window: Duration,
    /// Of each kind that was measured.
    pub figures: Vec<(Kind, Option<Figures>)>,
    /// Everything else.
    pub found: Found,
}

/// What the processes of a run found, put together.
#[derive(Debug, Default)]
pub struct Found {
    /// What was acknowledged.
    pub ledger: Ledger,
    /// What was measured.
    pub recorder: Recorder,
    /// What it cost the server.
    pub server: Option<ServerUse>,
    /// What was read back; none: nothing was.
    pub read_back: Option<ReadBack>,
    /// Each pass of a replay.
    pub passes: Vec<ReadBack>,
    /// Commands that were delivered once, in order, completed and receipted.
    pub command_count: u64,
    /// Events of another run that the hub was filled with before.
    pub filled_count: u64,
    /// How long each reconnect storm took, seconds.
    pub storms_s: Vec<f64>,
}

/// What the window cost the server.
#[derive(Clone, Copy, Debug)]
pub struct ServerUse {
    /// User and system time, seconds.
    pub cpu_s: f64,
    /// Memory that it held at the end of the window, bytes.
    pub resident_bytes: u64,
    /// Memory that it held before the load connected, bytes.
    pub resident_before_bytes: u64,
}

/// What was read back after the window, all of it checked.
#[derive(Clone, Copy, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadBack {
    /// Events.
    pub count: u64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes of bodies a second, to all readers.
    pub bytes_per_s: f64,
    /// Bytes a second as they travelled: bodies with the properties and annotations of their events, frames, records.
    pub wire_bytes_per_s: f64,
    /// Events that an earlier run had left.
    pub foreign_count: u64,
    /// Acknowledged events that retention took before.
    pub expired_count: u64,
}

/// What is counted, for people and for machines.
fn names(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Event => ("events", "acknowledged"),
        Kind::Connect => ("connects", "connected"),
        Kind::Command => ("commands", "completed"),
        Kind::Resume => ("resumptions", "resumed"),
        Kind::Enqueue => ("enqueued", "enqueued"),
        Kind::Receipt => ("receipts", "receipts"),
        Kind::Read => ("reads", "read"),
    }
}

impl Report {
    fn measured(&self) -> impl Iterator<Item = (Kind, &Figures)> {
        self.figures.iter().filter_map(|(kind, figures)| Some((*kind, figures.as_ref()?)))
    }

    /// At what rate a kind is due, where it has a schedule: the commands of a mixed load have one of their own.
    fn rate_of(&self, kind: Kind) -> Option<f64> {
        match (self.arguments.profile, kind) {
            (Profile::Mixed, Kind::Command | Kind::Enqueue) => Some(self.shape.command_rate),
            _ => self.shape.rate,
        }
    }

    /// What one of the run's main kind has cost the server, nanoseconds.
    fn cpu_ns_each(&self) -> Option<f64> {
        let (_, figures) = self.measured().next()?;
        Some(self.found.server?.cpu_s * 1e9 / figures.count.max(1) as f64)
    }

    /// What an idle connection costs the server, bytes.
    fn bytes_each(&self) -> Option<f64> {
        let server = self.found.server.filter(|_| self.arguments.profile == Profile::Idle)?;
        let grown = server.resident_bytes.saturating_sub(server.resident_before_bytes);
        Some(grown as f64 / f64::from(self.shape.connections))
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let Self { arguments, shape, found, .. } = self;
        let profile = arguments.profile;
        let mut value = json!({
            "profile": profile.name(),
            "target": self.target,
            "protocol": format!("{:?}", self.protocol).to_lowercase(),
            "tls": self.has_tls,
            "connections": shape.connections,
            "devices": shape.connections * shape.devices,
            "bodyBytes": profile.has_bodies().then_some(shape.body_bytes),
            "batch": profile.sends().then_some(shape.batch),
            "loop": if shape.rate.is_some() { "open" } else { "closed" },
            "ratePerSecond": shape.rate,
            "burst": shape.burst,
            "inFlightMaxPerConnection": profile.has_bodies().then_some(shape.in_flight),
            "commandDepth": profile.has_commands().then_some(shape.depth),
            "commandRatePerSecond": (profile == Profile::Mixed).then_some(shape.command_rate),
            "wantsReceipts": profile.has_commands().then_some(!arguments.no_receipts),
            "filled": arguments.fill.map(|_| found.filled_count),
            "readers": profile.has_readers().then_some(shape.readers),
            "seed": shape.seed,
            "windowSeconds": self.window.as_secs_f64(),
            "serverCpuNanosecondsEach": self.cpu_ns_each(),
            "serverCpuSeconds": found.server.map(|server| server.cpu_s),
            "serverResidentBytes": found.server.map(|server| server.resident_bytes),
            "serverBytesPerConnection": self.bytes_each(),
            "verified": found.read_back.map(|read| read.count),
            "readBackSeconds": found.read_back.map(|read| read.seconds),
            "readBackBytesPerSecond": found.read_back.map(|read| read.bytes_per_s),
            "leftByEarlierRuns": found.read_back.map(|read| read.foreign_count),
            "expired": found.read_back.map(|read| read.expired_count),
            "commandsVerified": found.command_count,
            "stormSeconds": found.storms_s,
            "passes": found.passes,
        });
        for (kind, figures) in self.measured() {
            value[names(kind).0] = json!(figures);
        }
        value
    }

    /// For people.
    pub fn to_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        let mut row = |name: &str, text: String| {
            table.add_row([Cell::new(name).set_alignment(CellAlignment::Left), Cell::new(text)]);
        };
        row("load", self.describe_load());
        for (kind, figures) in self.measured() {
            let (what, done) = names(kind);
            row(done, describe_count(what, figures, self.window.as_secs_f64()));
            if let Some(latency_us) = figures.latency_us {
                row("latency", describe_latency(&latency_us, self.rate_of(kind).is_some()));
            }
            // The last moments of a schedule are always under way.
            if figures.overdue as f64 > self.rate_of(kind).unwrap_or_default() * NOISE_S {
                let text =
                    format!("{} {what} of the schedule had not even been sent at the end", figures.overdue);
                row("OVERDUE", text);
            }
        }
        let found = &self.found;
        if !found.storms_s.is_empty() {
            let mut seconds = found.storms_s.clone();
            seconds.sort_by(f64::total_cmp);
            let (median, max) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
            let text = format!(
                "{} times, until all were back {median:.2} s (median), {max:.2} s (longest)",
                seconds.len()
            );
            row("storms", text);
        }
        for (index, pass) in found.passes.iter().enumerate() {
            let per_s = pass.bytes_per_s / self.shape.body_bytes as f64;
            let text = format!(
                "{per_s:.0} events/s, {:.0} MB/s of bodies, {:.0} MB/s as they travelled, {:.2} s",
                pass.bytes_per_s / 1e6,
                pass.wire_bytes_per_s / 1e6,
                pass.seconds
            );
            row(&format!("pass {}", index + 1), text);
        }
        if let Some(server) = found.server {
            let mib = server.resident_bytes as f64 / 1_048_576.0;
            let busy = server.cpu_s / self.window.as_secs_f64();
            let each = self.cpu_ns_each().map_or_else(String::new, |ns| format!("{ns:.0} ns of CPU each, "));
            row("server", format!("{each}{busy:.2} CPUs busy, {mib:.1} MiB resident"));
        }
        if let Some(bytes) = self.bytes_each() {
            row("memory", format!("{:.2} KiB of the server for each connection", bytes / 1024.0));
        }
        if found.command_count > 0 {
            let receipts = if self.arguments.no_receipts { "" } else { ", each with its receipt" };
            let text = format!(
                "{} commands delivered once and in order, and completed{receipts}",
                found.command_count
            );
            row("verified", text);
        }
        match found.read_back {
            None if self.arguments.profile.sends() => {
                row("verified", "NOT: nothing was read back".to_owned())
            }
            None => {}
            Some(ReadBack { count, seconds, bytes_per_s, foreign_count, expired_count, .. }) => {
                let mb_per_s = bytes_per_s / 1e6;
                let left = match foreign_count {
                    0 => String::new(),
                    count => format!("; {count} were there before"),
                };
                let expired = match expired_count {
                    0 => String::new(),
                    count => format!("; retention took {count} before"),
                };
                let text = format!(
                    "{count} events read back once and in order, in {seconds:.1} s ({mb_per_s:.0} MB/s){expired}{left}"
                );
                row("verified", text);
            }
        }
        table
    }

    /// A picture of the run's main kind by time.
    pub fn to_svg(&self) -> Result<String, String> {
        let (kind, figures) = self.measured().next().ok_or("nothing was measured that could be drawn")?;
        Ok(plot::draw(&self.describe_load(), names(kind).0, figures))
    }

    fn describe_load(&self) -> String {
        let Self { arguments, shape, .. } = self;
        let pace = match shape.rate {
            Some(rate) => format!("open loop at {rate:.0}/s"),
            None if arguments.profile == Profile::Idle => "idle".to_owned(),
            None if arguments.storm => "storms".to_owned(),
            None if arguments.profile == Profile::Connect => "closed loop".to_owned(),
            None => format!("closed loop with at most {} in flight on each", shape.in_flight),
        };
        let bodies = match arguments.profile.has_bodies() {
            true => format!(", {} B bodies", shape.body_bytes),
            false => String::new(),
        };
        format!(
            "{} to a {}: {} connections, {} devices{bodies}, {} {}, {pace}",
            arguments.profile.name(),
            self.target,
            shape.connections,
            shape.connections * shape.devices,
            format!("{:?}", self.protocol).to_uppercase(),
            if self.has_tls { "with TLS" } else { "without TLS" },
        )
    }
}

fn describe_count(what: &str, figures: &Figures, window_s: f64) -> String {
    let mb_per_s = figures.bytes_per_s / 1e6;
    format!("{:.0} {what}/s ({} in {window_s:.1} s; {mb_per_s:.1} MB/s)", figures.per_s, figures.count)
}

fn describe_latency(latency_us: &Percentiles, is_open_loop: bool) -> String {
    let Percentiles { p50, p99, p99_9, max } = latency_us;
    let from = if is_open_loop { "from the intended time" } else { "from sending" };
    format!("p50 {p50} us, p99 {p99} us, p99.9 {p99_9} us, max {max} us, {from}")
}
