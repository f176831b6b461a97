//! What a run found, as a table or JSON.

use hdrhistogram::Histogram;

/// The figures of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Connections that sent.
    pub connection_count: u32,
    /// Devices on all of them.
    pub device_count: u32,
    /// Bytes of each body.
    pub body_bytes: usize,
    /// Whether the connections used TLS.
    pub tls: bool,
    /// Events without acknowledgement at most, per connection.
    pub in_flight_max: u32,
    /// Length of the measured window, seconds.
    pub window_s: f64,
    /// Events acknowledged in the window.
    pub event_count: u64,
    /// CPU time that the hub's process used in the window, seconds.
    pub hub_cpu_s: f64,
    /// From sending to acknowledgement, microseconds.
    pub latency_us: Histogram<u64>,
    /// Events read back and checked after the window.
    pub verified_count: u64,
    /// How long reading them back took, seconds.
    pub read_s: f64,
}

impl Report {
    /// Acknowledged events per second.
    pub fn events_per_s(&self) -> f64 {
        self.event_count as f64 / self.window_s
    }

    /// The hub's CPU time per acknowledged event, nanoseconds.
    pub fn cpu_ns_per_event(&self) -> f64 {
        self.hub_cpu_s * 1e9 / self.event_count.max(1) as f64
    }

    /// For machines.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "connections": self.connection_count,
            "devices": self.device_count,
            "bodyBytes": self.body_bytes,
            "tls": self.tls,
            "inFlightMaxPerConnection": self.in_flight_max,
            "windowSeconds": self.window_s,
            "events": self.event_count,
            "eventsPerSecond": self.events_per_s(),
            "hubCpuNanosecondsPerEvent": self.cpu_ns_per_event(),
            "latencyMicroseconds": {
                "p50": self.latency_us.value_at_quantile(0.5),
                "p99": self.latency_us.value_at_quantile(0.99),
                "p99_9": self.latency_us.value_at_quantile(0.999),
                "max": self.latency_us.max(),
            },
            "verified": self.verified_count,
            "readBackSeconds": self.read_s,
        })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = [
            (
                "load",
                format!(
                    "{} connections, {} devices, {} B bodies, {}, at most {} in flight per connection, closed loop",
                    self.connection_count,
                    self.device_count,
                    self.body_bytes,
                    if self.tls { "TLS" } else { "no TLS" },
                    self.in_flight_max
                ),
            ),
            (
                "acknowledged",
                format!(
                    "{:.0} events/s (durable; {} in {:.1} s)",
                    self.events_per_s(),
                    self.event_count,
                    self.window_s
                ),
            ),
            ("hub CPU", format!("{:.0} ns per event", self.cpu_ns_per_event())),
            (
                "latency",
                format!(
                    "p50 {} us, p99 {} us, p99.9 {} us, max {} us",
                    self.latency_us.value_at_quantile(0.5),
                    self.latency_us.value_at_quantile(0.99),
                    self.latency_us.value_at_quantile(0.999),
                    self.latency_us.max()
                ),
            ),
            (
                "verified",
                format!(
                    "{} events read back once and in order, in {:.1} s",
                    self.verified_count, self.read_s
                ),
            ),
        ];
        for (name, text) in rows {
            writeln!(formatter, "{name:<13} {text}")?;
        }
        Ok(())
    }
}
