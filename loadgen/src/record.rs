//! What was measured: how much and how long, over all and by time.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Slices of the window at most; each holds a histogram of 140 KiB for each thing that is measured.
const SLICE_COUNT_MAX: u64 = 120;
/// Longest latency told apart, microseconds; longer ones count as this.
const LATENCY_US_MAX: u64 = 600_000_000;

/// What a count or a latency is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Events, from the intended time to the acknowledgement.
    Event,
    /// Connections, from the intended time to the last answer before they are of use.
    Connect,
    /// Commands, from the intended time until the device knows that their completion is durable.
    Command,
    /// Connections among those whose TLS handshake resumed an earlier one; without latency.
    Resume,
    /// Commands, from the intended time until the back end knows that they are enqueued.
    Enqueue,
    /// Receipts of commands; without latency.
    Receipt,
    /// Events that readers get while the window is open; without latency.
    Read,
}

/// All kinds.
pub const KINDS: [Kind; 7] =
    [Kind::Event, Kind::Connect, Kind::Command, Kind::Resume, Kind::Enqueue, Kind::Receipt, Kind::Read];

/// A part of the window.
#[derive(Clone, Debug)]
struct Slice {
    count: u64,
    latency_us: Histogram<u64>,
}

impl Slice {
    fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are valid");
        Self { count: 0, latency_us }
    }
}

/// One kind's measurements.
#[derive(Clone, Debug, Default)]
struct Series {
    /// Since the beginning, the window or not.
    total: u64,
    bytes: u64,
    overdue: u64,
    slices: Vec<Slice>,
}

/// Collects what happens within a window of time.
#[derive(Clone, Debug)]
pub struct Recorder {
    window: Option<(Instant, Instant)>,
    slice: Duration,
    series: [Series; KINDS.len()],
}

impl Default for Recorder {
    /// Records nothing but totals yet.
    fn default() -> Self {
        Self { window: None, slice: Duration::from_secs(1), series: Default::default() }
    }
}

impl Recorder {
    /// Measure from `from` to `to`.
    pub fn open(&mut self, from: Instant, to: Instant) {
        self.window = Some((from, to));
        self.slice = slice(to - from);
    }

    /// Measure from `from` until it is [closed](Self::close), a day at most.
    pub fn open_end(&mut self, from: Instant) {
        self.window = Some((from, from + Duration::from_secs(86_400)));
        self.slice = Duration::from_secs(1);
    }

    /// Measure no longer than to `at`.
    pub fn close(&mut self, at: Instant) {
        if let Some((_, to)) = &mut self.window {
            *to = at.min(*to);
        }
    }

    /// So many of a kind were done at `at`, with so many bytes.
    pub fn count(&mut self, kind: Kind, at: Instant, count: u64, bytes: u64) {
        let index = self.slice_index(at);
        let series = &mut self.series[kind as usize];
        series.total += count;
        if let Some(index) = index {
            series.bytes += bytes;
            series.slice(index).count += count;
        }
    }

    /// How long one took. `at` says whether and where in the window it counts: the intended time of an open loop, the
    /// end of a closed one.
    pub fn latency(&mut self, kind: Kind, at: Instant, latency: Duration, count: u64) {
        if let Some(index) = self.slice_index(at) {
            let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            let histogram = &mut self.series[kind as usize].slice(index).latency_us;
            histogram.saturating_record_n(latency_us, count);
        }
    }

    /// So many that were intended within the window had not even begun at its end: they have taken `latency` at least.
    pub fn overdue(&mut self, kind: Kind, at: Instant, latency: Duration, count: u64) {
        if self.slice_index(at).is_some() {
            self.series[kind as usize].overdue += count;
            self.latency(kind, at, latency, count);
        }
    }

    /// All of a kind since the beginning.
    pub fn total(&self, kind: Kind) -> u64 {
        self.series[kind as usize].total
    }

    fn slice_index(&mut self, at: Instant) -> Option<usize> {
        let (from, _) = self.window.filter(|(from, to)| (*from..*to).contains(&at))?;
        let index = |slice: Duration| ((at - from).as_nanos() / slice.as_nanos()) as usize;
        // A window of known length has slices that are long enough.
        while index(self.slice) >= 2 * SLICE_COUNT_MAX as usize {
            self.slice *= 2;
            self.series.iter_mut().for_each(Series::halve);
        }
        Some(index(self.slice))
    }
}

impl Series {
    fn slice(&mut self, index: usize) -> &mut Slice {
        while self.slices.len() <= index {
            self.slices.push(Slice::new());
        }
        &mut self.slices[index]
    }

    /// Two slices become one.
    fn halve(&mut self) {
        let mut halved: Vec<Slice> = Vec::new();
        for (index, slice) in std::mem::take(&mut self.slices).into_iter().enumerate() {
            match halved.last_mut().filter(|_| index % 2 == 1) {
                None => halved.push(slice),
                Some(into) => {
                    into.count += slice.count;
                    into.latency_us.add(&slice.latency_us).expect("the bounds are the same");
                }
            }
        }
        self.slices = halved;
    }
}

/// How long a slice of a window is: a second, or longer where there would be too many.
fn slice(window: Duration) -> Duration {
    Duration::from_secs((window.as_secs() / SLICE_COUNT_MAX).max(1))
}

/// One slice's measurements as they travel: latencies in microseconds, each with how often it occurred.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct SliceRecord {
    count: u64,
    latencies: Vec<(u64, u64)>,
}

/// One kind's measurements as they travel from process to process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    total: u64,
    bytes: u64,
    overdue: u64,
    slice: Duration,
    slices: Vec<SliceRecord>,
}

impl Recorder {
    /// What was measured, for another process.
    pub fn records(&self) -> Vec<Record> {
        let slice = |slice: &Slice| SliceRecord {
            count: slice.count,
            latencies: slice
                .latency_us
                .iter_recorded()
                .map(|value| (value.value_iterated_to(), value.count_at_value()))
                .collect(),
        };
        let record = |series: &Series| Record {
            total: series.total,
            bytes: series.bytes,
            overdue: series.overdue,
            slice: self.slice,
            slices: series.slices.iter().map(slice).collect(),
        };
        self.series.iter().map(record).collect()
    }

    /// Add what another process has measured, in slices of the same length.
    pub fn merge(&mut self, records: &[Record]) {
        self.slice = records.first().map_or(self.slice, |record| record.slice.max(Duration::from_secs(1)));
        for (series, record) in self.series.iter_mut().zip(records) {
            series.total += record.total;
            series.bytes += record.bytes;
            series.overdue += record.overdue;
            for (index, more) in record.slices.iter().enumerate().take(2 * SLICE_COUNT_MAX as usize) {
                let slice = series.slice(index);
                slice.count += more.count;
                for (value, count) in &more.latencies {
                    slice.latency_us.saturating_record_n(*value, *count);
                }
            }
        }
    }

    /// The figures of a kind over a window of that length; none when nothing of it was measured.
    pub fn figures(&self, kind: Kind, window: Duration) -> Option<Figures> {
        let series = &self.series[kind as usize];
        let mut latency_us = Slice::new().latency_us;
        for slice in &series.slices {
            latency_us.add(&slice.latency_us).expect("the bounds are the same");
        }
        let count: u64 = series.slices.iter().map(|slice| slice.count).sum();
        let slice_s = self.slice.as_secs_f64();
        let timeline = series.slices.iter().enumerate().map(|(index, slice)| {
            let begin_s = index as f64 * slice_s;
            let length_s = slice_s.min(window.as_secs_f64() - begin_s).max(f64::EPSILON);
            Point {
                at_s: begin_s + length_s,
                per_s: slice.count as f64 / length_s,
                latency_us: Percentiles::of(&slice.latency_us),
            }
        });
        let is_empty = count == 0 && latency_us.is_empty();
        (!is_empty).then(|| Figures {
            count,
            per_s: count as f64 / window.as_secs_f64(),
            bytes_per_s: series.bytes as f64 / window.as_secs_f64(),
            overdue: series.overdue,
            latency_us: Percentiles::of(&latency_us),
            timeline: timeline.collect(),
        })
    }
}

/// What came of one kind in the window.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// How many were done in the window.
    pub count: u64,
    /// The same a second.
    #[serde(rename = "perSecond")]
    pub per_s: f64,
    /// Bytes of bodies a second.
    #[serde(rename = "bytesPerSecond")]
    pub bytes_per_s: f64,
    /// Intended within the window, and not begun at its end: the server cannot keep up with the schedule.
    pub overdue: u64,
    /// Microseconds.
    #[serde(rename = "latencyMicroseconds")]
    pub latency_us: Option<Percentiles>,
    /// The same by time.
    pub timeline: Vec<Point>,
}

/// A slice of the window.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// Its end, seconds from the beginning of the window.
    #[serde(rename = "atSeconds")]
    pub at_s: f64,
    /// How many a second were done in it.
    #[serde(rename = "perSecond")]
    pub per_s: f64,
    /// Microseconds.
    #[serde(rename = "latencyMicroseconds")]
    pub latency_us: Option<Percentiles>,
}

/// Percentiles of latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half took no longer.
    pub p50: u64,
    /// 99 of 100 took no longer.
    pub p99: u64,
    /// 999 of 1000 took no longer.
    pub p99_9: u64,
    /// The longest.
    pub max: u64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_counts_and_processes_add_up() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let window = Duration::from_secs(2);
        let mut recorder = Recorder::default();
        recorder.open(at(1000), at(3000));
        for ms in [500, 1500, 2500, 3000] {
            recorder.count(Kind::Event, at(ms), 10, 100);
            recorder.latency(Kind::Event, at(ms), Duration::from_micros(ms), 1);
        }
        let mut all = Recorder::default();
        all.merge(&recorder.records());
        all.merge(&recorder.records());
        let figures = all.figures(Kind::Event, window).unwrap();
        assert_eq!((figures.count, figures.per_s, figures.bytes_per_s), (40, 20.0, 200.0));
        assert_eq!(figures.timeline.iter().map(|point| point.per_s).collect::<Vec<_>>(), [20.0, 20.0]);
        let latency_us = figures.latency_us.unwrap();
        assert_eq!((latency_us.p50 / 10, latency_us.max / 10), (150, 250));
        assert_eq!(all.total(Kind::Event), 80);
        assert!(all.figures(Kind::Command, window).is_none());
    }
    #[test]
    fn an_open_end_takes_as_long_as_it_takes() {
        let start = Instant::now();
        let mut recorder = Recorder::default();
        recorder.open_end(start);
        for second in 0..1000 {
            recorder.count(Kind::Read, start + Duration::from_secs(second), 1, 1);
        }
        recorder.close(start + Duration::from_secs(1000));
        recorder.count(Kind::Read, start + Duration::from_secs(1001), 1, 1);
        let mut all = Recorder::default();
        all.merge(&recorder.records());
        let figures = all.figures(Kind::Read, Duration::from_secs(1000)).unwrap();
        assert_eq!((figures.count, figures.per_s), (1000, 1.0));
        assert!(figures.timeline.len() < 2 * SLICE_COUNT_MAX as usize, "{}", figures.timeline.len());
        assert!(figures.timeline.iter().all(|point| point.per_s == 1.0), "{:?}", figures.timeline);
    }
}
