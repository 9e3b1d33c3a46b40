//! What a run comes to, as numbers with units, as JSON and as a table.

use crate::generator::{Oddities, Outcome};
use crate::process::Memory;
use crate::scenario::{Pace, Scenario};
use crate::table::{BATCHED, Figure, UNBATCHED, group};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Percentiles of a latency, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// Values behind the percentiles.
    pub count: u64,
    /// Median.
    pub us_p50: f64,
    /// 95th percentile.
    pub us_p95: f64,
    /// 99th percentile.
    pub us_p99: f64,
    /// 99.9th percentile.
    pub us_p999: f64,
    /// The largest value.
    pub us_max: f64,
}

impl Latency {
    /// Reads the percentiles off a histogram of nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            count: histogram.len(),
            us_p50: at(0.5),
            us_p95: at(0.95),
            us_p99: at(0.99),
            us_p999: at(0.999),
            us_max: histogram.max() as f64 / 1e3,
        }
    }
}

/// What the server's process used in the measured window.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ServerUse {
    /// CPU of all its threads, in seconds.
    pub cpu_s: f64,
    /// The share of that in user mode, from timer ticks.
    pub cpu_user_share: f64,
    /// CPU as a share of the window; 1 is one whole core.
    pub cores_busy: f64,
    /// How much of its core others used in the window, where it is pinned: noise.
    pub core_used_by_others_share: Option<f64>,
    /// CPU for each edit that was delivered to a client other than its writer.
    pub cpu_us_per_delivered_edit: Option<f64>,
    /// CPU for each edit that was offered.
    pub cpu_us_per_offered_edit: Option<f64>,
    /// Memory before the first connection.
    pub memory_before: Memory,
    /// Memory at the end of the window.
    pub memory: Memory,
    /// The most that was resident until all had come.
    pub rss_bytes_peak: u64,
    /// Growth of resident memory for each connection.
    pub rss_bytes_per_connection: f64,
}

/// What became of the states that cursors' movers sent.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Presence {
    /// States shown to others in the window, a second: they or a later one of their client arrived.
    pub shown_per_s: f64,
    /// The share of those that did not arrive themselves.
    pub superseded_share: f64,
    /// States that were never shown, of the whole run.
    pub never: u64,
    /// The same as a share of all that were owed.
    pub never_share: f64,
    /// From the time a state was due until it or a later one of its client arrived.
    pub shown: Latency,
}

/// Where the frames of some clients alone were read. Rates are theirs, as if all had got the same.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sampled {
    /// Clients whose frames were read.
    pub clients: usize,
    /// Bytes that one of the others received in the window, as a share of what one of them did.
    pub others_bytes_share: f64,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which server.
    pub server: String,
    /// What was run.
    pub scenario: Scenario,
    /// How long the window was, in seconds.
    pub window_s: f64,
    /// Edits sent in the window, a second.
    pub offered_edits_per_s: f64,
    /// Edits delivered in the window to clients other than their writers, a second.
    pub delivered_edits_per_s: f64,
    /// Edits that came back to their writers in the window, a second.
    pub echoed_edits_per_s: f64,
    /// Deliveries that never came, of the whole run.
    pub undelivered_edits: u64,
    /// The same as a share of all that were owed.
    pub undelivered_share: f64,
    /// Deliveries that came more than once.
    pub repeated_edits: u64,
    /// Edits passed over by a later one of the same writer.
    pub skipped_edits: u64,
    /// Edits of clients that are not of this run.
    pub foreign_edits: u64,
    /// From the scheduled time to arrival at others.
    pub delivery: Latency,
    /// From the scheduled time to the echo.
    pub ack: Latency,
    /// How late the generator handed edits to its sockets: large means that it, not the server,
    /// could not keep up.
    pub generator_lag: Latency,
    /// The generator's own CPU as a share of the window.
    pub generator_cores_busy: f64,
    /// Bytes received from the server in the window.
    pub received_bytes: u64,
    /// What went wrong.
    pub oddities: Oddities,
    /// What became of presence, where there was any.
    pub presence: Option<Presence>,
    /// Whose frames were read, if not everybody's.
    pub sampled: Option<Sampled>,
    /// What the server counted of itself in the window, a second.
    pub counted_per_s: Vec<(String, f64)>,
    /// What the server used, where its process is known.
    pub server_use: Option<ServerUse>,
}

impl Report {
    /// Puts together what the client side saw; the caller adds what it knows of the server.
    pub fn new(server: &str, scenario: &Scenario, outcome: &Outcome, generator_cpu_s: f64) -> Self {
        let window_s = outcome.window_ns as f64 / 1e9;
        let per_s = |last: u64, first: u64| (last - first) as f64 / window_s;
        let (first, last) = (&outcome.at_window_start, &outcome.at_window_end);
        let sampled = (outcome.readers < scenario.clients_per_room).then(|| {
            let others = scenario.clients_per_room - outcome.readers;
            let each = outcome.received_bytes_in_window as f64 / outcome.readers as f64;
            Sampled {
                clients: outcome.readers,
                others_bytes_share: ratio(
                    outcome.thrown_bytes_in_window as f64 / others as f64,
                    each,
                )
                .unwrap_or(0.0),
            }
        });
        let all_per_read = sampled.map_or(1.0, |sampled| {
            (scenario.clients_per_room - 1) as f64 / (sampled.clients - 1) as f64
        });
        Self {
            server: server.to_owned(),
            scenario: scenario.clone(),
            window_s,
            offered_edits_per_s: outcome.sent_in_window as f64 / window_s,
            delivered_edits_per_s: per_s(last.delivered, first.delivered) * all_per_read,
            echoed_edits_per_s: per_s(last.echoed, first.echoed),
            undelivered_edits: outcome.undelivered,
            undelivered_share: ratio(outcome.undelivered as f64, outcome.owed as f64)
                .unwrap_or(0.0),
            repeated_edits: outcome.at_end.repeated,
            skipped_edits: outcome.at_end.skipped,
            foreign_edits: outcome.at_end.foreign,
            delivery: Latency::of(&outcome.delivery_ns),
            ack: Latency::of(&outcome.ack_ns),
            generator_lag: Latency::of(&outcome.send_lag_ns),
            generator_cores_busy: generator_cpu_s / window_s,
            received_bytes: outcome.received_bytes_in_window + outcome.thrown_bytes_in_window,
            oddities: outcome.oddities,
            presence: outcome.presence.as_ref().map(|shown| Presence {
                shown_per_s: shown.shown_in_window as f64 / window_s * all_per_read,
                superseded_share: ratio(
                    shown.superseded_in_window as f64,
                    shown.shown_in_window as f64,
                )
                .unwrap_or(0.0),
                never: shown.never,
                never_share: ratio(shown.never as f64, shown.owed as f64).unwrap_or(0.0),
                shown: Latency::of(&shown.shown_ns),
            }),
            sampled,
            counted_per_s: Vec::new(),
            server_use: None,
        }
    }

    /// CPU microseconds per delivered edit, where the server's process is known and edits flowed.
    pub fn cpu_us_per_delivered_edit(&self) -> Option<f64> {
        self.server_use
            .and_then(|used| used.cpu_us_per_delivered_edit)
    }

    /// Whether edits are offered in the window.
    fn offers_edits(&self) -> bool {
        self.scenario.pace != Pace::Idle && !self.scenario.falls_silent
    }

    fn is_idle(&self) -> bool {
        !self.offers_edits() && self.presence.is_none()
    }

    /// The figures that stand in a table.
    pub fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        let used = self.server_use.as_ref();
        if let Some(presence) = &self.presence {
            let cost =
                used.and_then(|used| ratio(used.cpu_s * 1e6, presence.shown_per_s * self.window_s));
            let cost = cost.filter(|_| !self.offers_edits());
            figures.extend(
                cost.map(|cost| Figure::new("CPU µs per state shown", cost, 3).over(BATCHED)),
            );
            figures.push(Figure::new("states shown/s", presence.shown_per_s, 0));
            let share = presence.superseded_share * 100.0;
            figures.push(Figure::new("by a later one, %", share, 1));
            figures.push(Figure::new(
                "never shown, %",
                presence.never_share * 100.0,
                2,
            ));
            let shown = presence.shown;
            if shown.count > 0 {
                figures.push(Figure::new("shown p50 ms", shown.us_p50 / 1e3, 2).over(BATCHED));
                figures.push(Figure::new("shown p95 ms", shown.us_p95 / 1e3, 2));
                figures.push(Figure::new("shown p99 ms", shown.us_p99 / 1e3, 2));
                figures.push(Figure::new("shown max ms", shown.us_max / 1e3, 2));
            }
        }
        if self.offers_edits() {
            let cost = self.cpu_us_per_delivered_edit();
            figures.extend(
                cost.map(|cost| Figure::new("CPU µs per delivered edit", cost, 2).over(UNBATCHED)),
            );
            let rate = Figure::new("delivered edits/s", self.delivered_edits_per_s, 0);
            let saturated = matches!(self.scenario.pace, Pace::Closed { .. });
            figures.push(if saturated { rate.over(BATCHED) } else { rate });
            figures.push(Figure::new(
                "never delivered, %",
                self.undelivered_share * 100.0,
                2,
            ));
            let delivery = self.delivery;
            figures.push(Figure::new("delivery p50 µs", delivery.us_p50, 0).over(UNBATCHED));
            // A server that waits for company shows it here and in its median.
            figures.push(Figure::new("delivery p99 µs", delivery.us_p99, 0));
            figures.push(Figure::new("delivery max µs", delivery.us_max, 0));
            figures.push(Figure::new("ack p50 µs", self.ack.us_p50, 0));
            figures.push(Figure::new("ack p99 µs", self.ack.us_p99, 0));
        }
        for (name, rate) in &self.counted_per_s {
            figures.push(Figure::new(format!("{name}/s"), *rate, 1));
        }
        if let Some(used) = used {
            let core = used.cores_busy * 100.0;
            figures.push(Figure::new("server, % of a core", core, 1));
            figures.push(Figure::new("RSS MB", used.memory.rss_bytes as f64 / 1e6, 1));
            figures.push(Figure::new(
                "peak RSS MB",
                used.rss_bytes_peak as f64 / 1e6,
                1,
            ));
            let each = used.rss_bytes_per_connection;
            figures.push(Figure::new("bytes per connection", each, 0));
        }
        figures
    }

    /// What a reader must know before believing the figures; empty when all is well.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.undelivered_edits > 0 {
            warnings.push(format!(
                "{} deliveries never came ({:.2} %)",
                self.undelivered_edits,
                self.undelivered_share * 100.0
            ));
        }
        if let Some(presence) = self.presence.filter(|presence| presence.never > 0) {
            warnings.push(format!("{} states were never shown", presence.never));
        }
        if let Some(sampled) = self.sampled {
            warnings.push(format!(
                "the frames of {} of {} clients were read, and rates are theirs for all; one of the \
                 others received {:.1} % of their bytes, which were counted and thrown away",
                sampled.clients,
                self.scenario.clients_per_room,
                sampled.others_bytes_share * 100.0
            ));
        }
        let oddities = &self.oddities;
        for (count, what) in [
            (self.skipped_edits, "edits were passed over"),
            (self.foreign_edits, "edits of strangers"),
            (oddities.closed, "connections were closed"),
            (oddities.unreadable, "messages could not be read"),
            (oddities.text_frames, "text frames"),
            (oddities.asked_again, "requests for state during the load"),
            (oddities.refused, "refusals"),
            (
                oddities.given_up,
                "deliveries were given up to keep the loop going",
            ),
        ] {
            if count > 0 {
                warnings.push(format!("{count} {what}"));
            }
        }
        if self.generator_cores_busy > 0.9 && !self.is_idle() {
            warnings.push(format!(
                "the generator's core was {:.0} % busy: figures may be its limit, not the server's",
                self.generator_cores_busy * 100.0
            ));
        }
        if let Some(others) = self
            .server_use
            .and_then(|used| used.core_used_by_others_share)
            && others > 0.05
        {
            warnings.push(format!(
                "others used {:.0} % of the server's core",
                others * 100.0
            ));
        }
        warnings
    }

    /// One line a figure.
    pub fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<28}{value}");
        };
        line(
            "offered",
            format!("{:.0} edits/s", self.offered_edits_per_s),
        );
        line(
            "delivered to others",
            format!("{} edits/s", group(self.delivered_edits_per_s)),
        );
        line(
            "echoed to the writer",
            format!("{} edits/s", group(self.echoed_edits_per_s)),
        );
        for (name, latency) in [
            ("delivery", self.delivery),
            ("acknowledgement", self.ack),
            ("generator lag", self.generator_lag),
        ] {
            if latency.count > 0 {
                line(
                    name,
                    format!(
                        "p50 {:.0}  p95 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0} µs",
                        latency.us_p50,
                        latency.us_p95,
                        latency.us_p99,
                        latency.us_p999,
                        latency.us_max
                    ),
                );
            }
        }
        if let Some(presence) = &self.presence {
            let shown = presence.shown;
            line(
                "presence",
                format!(
                    "{} states shown/s, {:.1} % of them by a later one, {:.2} % never",
                    group(presence.shown_per_s),
                    presence.superseded_share * 100.0,
                    presence.never_share * 100.0
                ),
            );
            line(
                "",
                format!(
                    "p50 {:.0}  p95 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0} µs",
                    shown.us_p50, shown.us_p95, shown.us_p99, shown.us_p999, shown.us_max
                ),
            );
        }
        for (name, rate) in &self.counted_per_s {
            line(name, format!("{rate:.1}/s"));
        }
        if let Some(used) = &self.server_use {
            if let Some(cost) = used.cpu_us_per_delivered_edit {
                line("server CPU", format!("{cost:.2} µs per delivered edit"));
            }
            if let Some(cost) = used.cpu_us_per_offered_edit {
                line("", format!("{cost:.2} µs per offered edit"));
            }
            line(
                "",
                format!(
                    "{:.1} % of a core, {:.0} % of it in user mode",
                    used.cores_busy * 100.0,
                    used.cpu_user_share * 100.0
                ),
            );
            line(
                "server memory",
                format!(
                    "{:.1} MB, at most {:.1} MB, {:.1} MB before the load, {:.0} bytes per connection",
                    used.memory.rss_bytes as f64 / 1e6,
                    used.rss_bytes_peak as f64 / 1e6,
                    used.memory_before.rss_bytes as f64 / 1e6,
                    used.rss_bytes_per_connection
                ),
            );
        }
        line(
            "generator",
            format!("{:.1} % of a core", self.generator_cores_busy * 100.0),
        );
        for warning in self.warnings() {
            line("NOTE", warning);
        }
        text
    }
}

/// `a / b`, unless `b` is zero.
pub fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut histogram = crate::tracker::new_histogram();
        for ms in 1..=1_000u64 {
            histogram.record(ms * 1_000_000).unwrap();
        }
        let latency = Latency::of(&histogram);
        assert_eq!(latency.count, 1_000);
        assert!((latency.us_p50 - 500_000.0).abs() < 1_000.0);
        assert!((latency.us_p99 - 990_000.0).abs() < 1_500.0);
        assert_eq!(ratio(1.0, 0.0), None);
    }
}
