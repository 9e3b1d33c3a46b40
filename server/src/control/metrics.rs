//! Prometheus text from the shards' figures. Names carry their units.

use crate::shard::Stats;
use crate::validity::UnixSeconds;
use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt::Error;

/// What the answer is called. A browser would store the type's own name as a file.
pub(super) const fn content_type(for_browser: bool) -> &'static str {
    if for_browser {
        "text/plain; charset=utf-8"
    } else {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    }
}

/// When the certificate that is served expires; not there without TLS.
pub(super) const CERTIFICATE_EXPIRY: &str = "collabblocks_tls_certificate_expiry_timestamp_seconds";

/// Upper bounds of the commit histogram, in seconds.
const TURN_BUCKETS_S: &[f64] = &[0.000_1, 0.001, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
const COMMIT_BUCKETS_S: &[f64] = &[
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.5,
    1.0,
    f64::INFINITY,
];
/// Upper bounds of the batch size histogram, in bytes.
const BATCH_BUCKETS_BYTES: &[f64] = &[
    4096.0,
    8192.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    f64::INFINITY,
];

/// Share of its time a core's loop was not waiting, since start.
pub(super) fn busy_share(stats: &Stats) -> f64 {
    stats.runtime.busy_ns as f64 / stats.runtime.elapsed_ns.max(1) as f64
}

/// The text of a scrape; shards that did not answer are missing from all but `collabblocks_shard_up`.
/// `expires` is of the certificate that is served.
pub(super) fn text(
    shards: &BTreeMap<u16, Stats>,
    count: u16,
    expires: Option<UnixSeconds>,
) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape {
        shards: shards.clone(),
        count,
        expires,
    }));
    let mut out = String::new();
    text::encode(&mut out, &registry).expect("writing to a String does not fail");
    out
}

#[derive(Debug)]
struct Scrape {
    shards: BTreeMap<u16, Stats>,
    count: u16,
    expires: Option<UnixSeconds>,
}

type Read = fn(&Stats) -> f64;

const COUNTERS: &[(&str, &str, Read)] = &[
    ("connections_accepted", "Connections since start", |s| {
        s.connections_total as f64
    }),
    (
        "handoffs",
        "Connections handed to their room's home shard",
        |s| s.handoffs_total as f64,
    ),
    ("updates", "Document updates taken", |s| s.updates as f64),
    ("update_bytes", "Bytes of document updates taken", |s| {
        s.update_bytes as f64
    }),
    ("updates_known", "Updates that held nothing new", |s| {
        s.updates_known as f64
    }),
    ("presence_states", "Presence states taken", |s| {
        s.presence_states as f64
    }),
    (
        "sends",
        "Sends to connections; all frames of a turn to one connection are one send",
        |s| s.sends as f64,
    ),
    ("send_bytes", "Bytes of frames sent", |s| {
        s.send_bytes as f64
    }),
    ("received_bytes", "Bytes received from sockets", |s| {
        s.runtime.bytes_received as f64
    }),
    (
        "accept_errors",
        "Accepts that failed for want of file descriptors",
        |s| s.runtime.accept_errors as f64,
    ),
    ("mailbox_full", "Messages that found a mailbox full", |s| {
        s.runtime.mailbox_full as f64
    }),
    (
        "fronts_refused",
        "Connections refused by the rules of the PROXY protocol or because their TLS failed",
        |s| s.runtime.fronts_refused as f64,
    ),
    ("tls_handshakes", "TLS handshakes that ended well", |s| {
        s.runtime.tls_handshakes as f64
    }),
    (
        "tls_resumed",
        "TLS handshakes that resumed an earlier session",
        |s| s.runtime.tls_resumed as f64,
    ),
    (
        "letters",
        "Letters to other cores, at most one for each core and turn",
        |s| s.letters as f64,
    ),
    ("letter_bytes", "Bytes of letters to other cores", |s| {
        s.letter_bytes as f64
    }),
    ("turns", "Turns of the core's loop", |s| {
        s.runtime.turns as f64
    }),
    (
        "core_busy_seconds",
        "Time the core's loop was not waiting",
        |s| s.runtime.busy_ns as f64 / 1e9,
    ),
    ("wal_commits", "Batches made durable", |s| {
        s.engine.commits as f64
    }),
    (
        "wal_hedged_writes",
        "Batches that were written by a second writer too, as the first took long",
        |s| s.runtime.hedged_writes as f64,
    ),
    ("wal_bytes", "Bytes appended to the log", |s| {
        s.engine.log_bytes as f64
    }),
    ("snapshots_stored", "Room snapshots made durable", |s| {
        s.engine.snapshots_stored as f64
    }),
    ("snapshot_bytes", "Bytes of snapshots written", |s| {
        s.engine.snapshot_bytes as f64
    }),
    ("rooms_evicted", "Rooms moved out of memory", |s| {
        s.engine.rooms_evicted as f64
    }),
];

const GAUGES: &[(&str, &str, Read)] = &[
    ("connections", "Connections now", |s| s.connections as f64),
    ("sessions", "Sessions attached to rooms now", |s| {
        s.sessions as f64
    }),
    (
        "sessions_behind",
        "Sessions too slow for the room's updates now",
        |s| s.sessions_behind as f64,
    ),
    (
        "hot_rooms",
        "Rooms whose further sessions stay on the cores that accept them, now",
        |s| s.hot_rooms as f64,
    ),
    (
        "authenticating",
        "Clients that wait for the authenticator's answer now",
        |s| s.authenticating as f64,
    ),
    (
        "away_sessions",
        "Sessions whose room is on another core now",
        |s| s.away_sessions as f64,
    ),
    ("presence_clients", "Clients present in rooms now", |s| {
        s.presence_clients as f64
    }),
    ("rooms_open", "Rooms with sessions now", |s| s.rooms as f64),
    ("rooms_loaded", "Rooms in memory now", |s| {
        s.engine.rooms_loaded as f64
    }),
    ("rooms_known", "Rooms in memory or on disk", |s| {
        s.engine.rooms_known as f64
    }),
    (
        "document_bytes",
        "Estimated bytes of documents in memory",
        |s| s.engine.document_bytes as f64,
    ),
    (
        "queue_bytes",
        "Bytes of acknowledgements that wait for the log",
        |s| s.ack_queue_bytes as f64,
    ),
    (
        "answer_bytes",
        "Bytes of large sync answers being sent, or kept for who asks the same",
        |s| s.answer_bytes as f64,
    ),
    (
        "held_back_bytes",
        "Bytes that wait for sockets that take none",
        |s| s.held_back_bytes as f64,
    ),
    (
        "answers_waiting",
        "Sessions whose sync answer waits for others to have got theirs",
        |s| s.answers_waiting as f64,
    ),
    ("wal_segments", "Segments of the log in use", |s| {
        s.engine.log_segments as f64
    }),
    ("turn_seconds_max", "The longest turn since start", |s| {
        s.runtime.turn_ns.max() as f64 / 1e9
    }),
    (
        "core_busy_share",
        "Share of time the core's loop was not waiting, since start",
        busy_share,
    ),
];

struct Distribution {
    name: &'static str,
    help: &'static str,
    bounds: &'static [f64],
    /// What one count of the histogram is in the metric's unit.
    unit: f64,
    read: fn(&Stats) -> &Histogram<u64>,
}

const DISTRIBUTIONS: &[Distribution] = &[
    Distribution {
        name: "collabblocks_turn_seconds",
        help: "Time that the core took for a turn of events, before its sends",
        bounds: TURN_BUCKETS_S,
        unit: 1e-9,
        read: |stats| &stats.runtime.turn_ns,
    },
    Distribution {
        name: "collabblocks_wal_commit_seconds",
        help: "Time from handing a batch to the disk until it was durable",
        bounds: COMMIT_BUCKETS_S,
        unit: 1e-9,
        read: |stats| &stats.commit_ns,
    },
    Distribution {
        name: "collabblocks_wal_batch_bytes",
        help: "Bytes of a batch",
        bounds: BATCH_BUCKETS_BYTES,
        unit: 1.0,
        read: |stats| &stats.batch_bytes,
    },
];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut up = encoder.encode_descriptor(
            "collabblocks_shard_up",
            "Whether the shard answers",
            None,
            MetricType::Gauge,
        )?;
        for shard in 0..self.count {
            let answers = i64::from(self.shards.contains_key(&shard));
            up.encode_family(&[("shard", shard.to_string())])?
                .encode_gauge(&answers)?;
        }
        if let Some(UnixSeconds(expires)) = self.expires {
            encoder
                .encode_descriptor(
                    CERTIFICATE_EXPIRY,
                    "When the certificate that is served expires, in seconds since 1970",
                    None,
                    MetricType::Gauge,
                )?
                .encode_gauge(&expires)?;
        }
        for (name, help, read) in COUNTERS {
            let name = format!("collabblocks_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (shard, stats) in &self.shards {
                let labels = [("shard", shard.to_string())];
                metric
                    .encode_family(&labels)?
                    .encode_counter::<[(&str, &str); 0], f64, f64>(&read(stats), None)?;
            }
        }
        for (name, help, read) in GAUGES {
            let name = format!("collabblocks_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for (shard, stats) in &self.shards {
                metric
                    .encode_family(&[("shard", shard.to_string())])?
                    .encode_gauge(&read(stats))?;
            }
        }
        let mut refused = encoder.encode_descriptor(
            "collabblocks_refused",
            "Inputs refused and connections closed, by reason",
            None,
            MetricType::Counter,
        )?;
        for (shard, stats) in &self.shards {
            for (reason, count) in &stats.refused {
                let labels = [
                    ("shard", shard.to_string()),
                    ("reason", (*reason).to_owned()),
                ];
                refused
                    .encode_family(&labels)?
                    .encode_counter::<[(&str, &str); 0], u64, f64>(count, None)?;
            }
        }
        for Distribution {
            name,
            help,
            bounds,
            unit,
            read,
        } in DISTRIBUTIONS
        {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for (shard, stats) in &self.shards {
                let (sum, buckets) = buckets(read(stats), bounds, *unit);
                let labels = [("shard", shard.to_string())];
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_histogram::<[(&str, &str); 0]>(
                    sum,
                    read(stats).len(),
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }
}

/// Sum and counts per bucket (not cumulative), in the metric's unit.
fn buckets(histogram: &Histogram<u64>, bounds: &[f64], unit: f64) -> (f64, Vec<(f64, u64)>) {
    let mut buckets: Vec<(f64, u64)> = bounds.iter().map(|&bound| (bound, 0)).collect();
    let mut sum = 0.0;
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to() as f64 * unit;
        let count = step.count_since_last_iteration();
        sum += value * count as f64;
        let bucket = bounds
            .partition_point(|&bound| bound < value)
            .min(bounds.len() - 1);
        buckets[bucket].1 += count;
    }
    (sum, buckets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_has_every_name_and_cumulative_buckets() {
        let mut stats = Stats {
            updates: 7,
            ..Stats::default()
        };
        for us in [50, 200, 300, 3_000, 9_000_000] {
            stats.commit_ns.record(us * 1000).unwrap();
        }
        stats.refused.insert("gap", 3);
        let out = text(&BTreeMap::from([(1, stats)]), 2, None);
        for line in [
            "collabblocks_shard_up{shard=\"0\"} 0",
            "collabblocks_shard_up{shard=\"1\"} 1",
            "collabblocks_updates_total{shard=\"1\"} 7.0",
            "collabblocks_refused_total{shard=\"1\",reason=\"gap\"} 3",
            "collabblocks_wal_commit_seconds_bucket{le=\"0.0001\",shard=\"1\"} 1",
            "collabblocks_wal_commit_seconds_bucket{le=\"0.0005\",shard=\"1\"} 3",
            "collabblocks_wal_commit_seconds_bucket{le=\"+Inf\",shard=\"1\"} 5",
        ] {
            assert!(out.lines().any(|l| l == line), "no line {line} in\n{out}");
        }
        for (name, _, _) in COUNTERS.iter().chain(GAUGES) {
            assert!(
                out.contains(&format!("# TYPE collabblocks_{name} ")),
                "{name}"
            );
        }
        assert!(out.ends_with("# EOF\n"));
    }
}
