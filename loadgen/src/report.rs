//! What a run found, as a table or JSON.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Table};
use serde_json::{Value, json};

use crate::arguments::{Arguments, Shape};
use crate::job::Protocol;
use crate::record::{Figures, Kind, Percentiles};

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
    /// Of each kind that was measured.
    pub figures: Vec<(Kind, Option<Figures>)>,
    /// What it cost the server.
    pub server_use: Option<ServerUse>,
    /// What was read back; none: nothing was.
    pub read_back: Option<ReadBack>,
}

/// What the window cost the server.
#[derive(Clone, Copy, Debug)]
pub struct ServerUse {
    /// User and system time, seconds.
    pub cpu_s: f64,
    /// Memory that it held at the end, bytes.
    pub resident_bytes: u64,
}

/// What was read back after the window, all of it checked.
#[derive(Clone, Copy, Debug)]
pub struct ReadBack {
    /// Events.
    pub count: u64,
    /// How long it took.
    pub seconds: f64,
    /// Bytes of bodies a second.
    pub bytes_per_s: f64,
    /// Events that an earlier run had left.
    pub foreign_count: u64,
}

/// What is counted, for people and for machines.
fn names(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Event => ("events", "acknowledged"),
        Kind::Connect => ("connects", "connected"),
        Kind::Command => ("commands", "completed"),
        Kind::Read => ("reads", "read"),
    }
}

impl Report {
    fn measured(&self) -> impl Iterator<Item = (Kind, &Figures)> {
        self.figures.iter().filter_map(|(kind, figures)| Some((*kind, figures.as_ref()?)))
    }

    /// What one of the run's main kind has cost the server, nanoseconds.
    fn cpu_ns_each(&self) -> Option<f64> {
        let (_, figures) = self.measured().next()?;
        Some(self.server_use?.cpu_s * 1e9 / figures.count.max(1) as f64)
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let Self { arguments, shape, .. } = self;
        let mut value = json!({
            "profile": arguments.profile.name(),
            "target": self.target,
            "protocol": format!("{:?}", self.protocol).to_lowercase(),
            "tls": self.has_tls,
            "connections": shape.connections,
            "devices": shape.connections * shape.devices,
            "bodyBytes": arguments.body_bytes,
            "batch": arguments.batch,
            "loop": if shape.rate.is_some() { "open" } else { "closed" },
            "ratePerSecond": shape.rate,
            "burst": shape.burst,
            "inFlightMaxPerConnection": shape.in_flight,
            "seed": arguments.seed,
            "windowSeconds": arguments.seconds,
            "serverCpuNanosecondsEach": self.cpu_ns_each(),
            "serverCpuSeconds": self.server_use.map(|server| server.cpu_s),
            "serverResidentBytes": self.server_use.map(|server| server.resident_bytes),
            "verified": self.read_back.map(|read| read.count),
            "readBackSeconds": self.read_back.map(|read| read.seconds),
            "readBackBytesPerSecond": self.read_back.map(|read| read.bytes_per_s),
            "leftByEarlierRuns": self.read_back.map(|read| read.foreign_count),
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
            row(done, describe_count(what, figures, self.arguments.seconds));
            if let Some(latency_us) = figures.latency_us {
                row("latency", describe_latency(&latency_us, self.shape.rate.is_some()));
            }
            // The last moments of a schedule are always under way.
            if figures.overdue as f64 > self.shape.rate.unwrap_or_default() * NOISE_S {
                let text =
                    format!("{} {what} of the schedule had not even been sent at the end", figures.overdue);
                row("OVERDUE", text);
            }
        }
        if let (Some(server), Some(ns)) = (self.server_use, self.cpu_ns_each()) {
            let mib = server.resident_bytes as f64 / 1_048_576.0;
            let busy = server.cpu_s / self.arguments.seconds;
            row("server", format!("{ns:.0} ns of CPU each, {busy:.2} CPUs busy, {mib:.1} MiB resident"));
        }
        row(
            "verified",
            match self.read_back {
                None => "NOT: nothing was read back".to_owned(),
                Some(ReadBack { count, seconds, bytes_per_s, foreign_count }) => {
                    let mb_per_s = bytes_per_s / 1e6;
                    let left = match foreign_count {
                        0 => String::new(),
                        count => format!("; {count} were left by earlier runs"),
                    };
                    format!(
                        "{count} read back once and in order, in {seconds:.1} s ({mb_per_s:.0} MB/s){left}"
                    )
                }
            },
        );
        table
    }

    fn describe_load(&self) -> String {
        let Self { arguments, shape, .. } = self;
        let pace = match shape.rate {
            Some(rate) => format!("open loop at {rate:.0}/s"),
            None => format!("closed loop with at most {} in flight on each", shape.in_flight),
        };
        format!(
            "{} to a {}: {} connections, {} devices, {} B bodies, {} {}, {pace}",
            arguments.profile.name(),
            self.target,
            shape.connections,
            shape.connections * shape.devices,
            arguments.body_bytes,
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
