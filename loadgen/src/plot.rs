//! A run by time, as a picture: throughput above, latency percentiles below. Written by hand: a picture of lines needs no
//! library.

use std::fmt::Write;

use crate::record::{Figures, Point};

const WIDTH: f64 = 900.0;
const PANEL_HEIGHT: f64 = 220.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const GAP: f64 = 50.0;

/// One panel: where it lies and what its axis covers.
struct Panel {
    top: f64,
    seconds: f64,
    low: f64,
    high: f64,
    is_log: bool,
}

impl Panel {
    fn x(&self, at_s: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * at_s / self.seconds.max(f64::EPSILON)
    }

    fn y(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.is_log { value.max(1.0).log10() } else { value };
        let (low, high) = (scale(self.low), scale(self.high));
        let part = (scale(value) - low) / (high - low).max(f64::EPSILON);
        self.top + PANEL_HEIGHT * (1.0 - part.clamp(0.0, 1.0))
    }

    fn frame(&self, title: &str, unit: &str, svg: &mut String) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, self.top + PANEL_HEIGHT);
        writeln!(svg, r##"<text x="{LEFT}" y="{:.0}" font-weight="bold">{title}</text>"##, self.top - 8.0)?;
        let ticks: Vec<f64> = match self.is_log {
            true => (0..10)
                .map(|power| 10f64.powi(power))
                .filter(|tick| (self.low..=self.high).contains(tick))
                .collect(),
            false => (0..=4).map(|step| self.high * f64::from(step) / 4.0).collect(),
        };
        for tick in ticks {
            let y = self.y(tick);
            writeln!(svg, r##"<line x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#ddd"/>"##)?;
            writeln!(
                svg,
                r##"<text x="{:.0}" y="{:.1}" text-anchor="end">{tick:.0}{unit}</text>"##,
                LEFT - 6.0,
                y + 4.0
            )?;
        }
        for step in 0..=4 {
            let at_s = self.seconds * f64::from(step) / 4.0;
            let x = self.x(at_s);
            writeln!(
                svg,
                r##"<text x="{x:.1}" y="{:.0}" text-anchor="middle">{at_s:.0} s</text>"##,
                bottom + 16.0
            )?;
        }
        Ok(())
    }

    fn line(&self, points: &[(f64, f64)], colour: &str, svg: &mut String) -> std::fmt::Result {
        write!(svg, r##"<polyline fill="none" stroke="{colour}" stroke-width="1.5" points=""##)?;
        for (at_s, value) in points {
            write!(svg, "{:.1},{:.1} ", self.x(*at_s), self.y(*value))?;
        }
        writeln!(svg, r##""/>"##)
    }
}

/// Draw one kind's figures. `title` and `what` are plain text.
pub fn draw(title: &str, what: &str, figures: &Figures) -> String {
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = write_svg(&mut svg, title, what, &figures.timeline);
    svg
}

fn write_svg(svg: &mut String, title: &str, what: &str, timeline: &[Point]) -> std::fmt::Result {
    let height = TOP + 2.0 * PANEL_HEIGHT + 2.0 * GAP;
    writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">"##
    )?;
    writeln!(svg, r##"<rect width="{WIDTH}" height="{height}" fill="white"/>"##)?;
    writeln!(svg, r##"<text x="{LEFT}" y="20" font-size="14">{}</text>"##, escape(title))?;
    let seconds = timeline.last().map_or(1.0, |point| point.at_s);
    let rates: Vec<_> = timeline.iter().map(|point| (point.at_s, point.per_s)).collect();
    let high = rates.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let panel = Panel { top: TOP, seconds, low: 0.0, high, is_log: false };
    panel.frame(&escape(&format!("{what} per second")), "", svg)?;
    panel.line(&rates, "#1f77b4", svg)?;

    let latencies: Vec<_> =
        timeline.iter().filter_map(|point| Some((point.at_s, point.latency_us?))).collect();
    if !latencies.is_empty() {
        let max = latencies.iter().map(|(_, latency)| latency.max).max().unwrap_or(1).max(10) as f64;
        let min = latencies.iter().map(|(_, latency)| latency.p50).min().unwrap_or(1).max(1) as f64;
        let (low, high) = (10f64.powf(min.log10().floor()), 10f64.powf(max.log10().ceil()));
        let panel = Panel { top: TOP + PANEL_HEIGHT + GAP, seconds, low, high, is_log: true };
        panel.frame("latency, microseconds", "", svg)?;
        type Pick = fn(&crate::record::Percentiles) -> u64;
        let lines: [(&str, &str, Pick); 4] = [
            ("p50", "#2ca02c", |latency| latency.p50),
            ("p99", "#ff7f0e", |latency| latency.p99),
            ("p99.9", "#d62728", |latency| latency.p99_9),
            ("max", "#888", |latency| latency.max),
        ];
        for (index, (name, colour, pick)) in lines.into_iter().enumerate() {
            let points: Vec<_> =
                latencies.iter().map(|(at_s, latency)| (*at_s, pick(latency) as f64)).collect();
            panel.line(&points, colour, svg)?;
            let x = WIDTH - RIGHT - 200.0 + 50.0 * index as f64;
            writeln!(svg, r##"<text x="{x:.0}" y="{:.0}" fill="{colour}">{name}</text>"##, panel.top - 8.0)?;
        }
    }
    writeln!(svg, "</svg>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::record::{Kind, Recorder};

    #[test]
    fn a_picture_has_a_line_for_each_percentile_and_stays_in_its_frame() {
        let start = Instant::now();
        let mut recorder = Recorder::default();
        recorder.open(start, start + Duration::from_secs(3));
        for ms in 0..3000 {
            let at = start + Duration::from_millis(ms);
            recorder.count(Kind::Event, at, 1, 1);
            recorder.latency(Kind::Event, at, Duration::from_micros(100 + ms * ms), 1);
        }
        let figures = recorder.figures(Kind::Event, Duration::from_secs(3)).unwrap();
        let svg = draw("a <load> & more", "events", &figures);
        assert_eq!(svg.matches("<polyline").count(), 5);
        assert!(svg.contains("a &lt;load&gt; &amp; more"));
        let points = svg
            .split("points=\"")
            .skip(1)
            .flat_map(|rest| rest.split('"').next())
            .flat_map(str::split_whitespace);
        let mut count = 0;
        for (x, y) in points.filter_map(|point| point.split_once(',')) {
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!(
                (0.0..=WIDTH).contains(&x) && (TOP..=TOP + 2.0 * PANEL_HEIGHT + GAP).contains(&y),
                "{x},{y}"
            );
            count += 1;
        }
        assert_eq!(count, 15);
    }
}
