//! One measured run: the generator on one side, the server's process on the other.

use crate::generator::{self, Moment, Target};
use crate::process::{CpuTime, Memory, Server, core_busy_s, forget_peak};
use crate::report::{Report, ServerUse, ratio};
use crate::scenario::Scenario;
use crate::table::Figure;
use crate::work::{Task, Work};
use crate::{Error, Result};
use serde::Serialize;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A number that a server counts up on its page of metrics.
#[derive(Clone, Debug)]
pub struct Counter {
    /// What tables call it.
    pub name: String,
    /// What the page calls it; of several with labels, the sum.
    pub metric: String,
}

/// The server's process, where it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched<'a> {
    /// Its id.
    pub pid: Option<u32>,
    /// The core it is pinned to.
    pub core: Option<usize>,
    /// What is read off its page of metrics.
    pub counters: &'a [Counter],
}

/// What came of a run.
#[derive(Debug, Default, Serialize)]
pub struct Measured {
    /// The figures that stand in a table.
    pub figures: Vec<Figure>,
    /// What a reader must know before believing them.
    pub warnings: Vec<String>,
    /// All there is to say of a load.
    pub report: Option<Report>,
}

/// Runs `work` against `target`. A work that starts its server again needs `server`.
pub fn measure(
    name: &str,
    work: &Work,
    target: &Target,
    watched: Watched<'_>,
    server: Option<&mut Server>,
) -> Result<Measured> {
    match &work.task {
        Task::Load(scenario) => {
            let report = measure_load(name, scenario, target, watched)?;
            Ok(Measured {
                figures: report.figures(),
                warnings: report.warnings(),
                report: Some(report),
            })
        }
        Task::Join(joining) => joining.measure(target, watched, server),
        Task::Leave(leaving) => leaving.measure(target, watched),
    }
}

#[derive(Default)]
struct Sample {
    cpu: CpuTime,
    memory: Memory,
    core_busy_s: Option<f64>,
    generator: CpuTime,
    counters: Vec<Option<f64>>,
}

impl Sample {
    fn take(watched: Watched<'_>, target: &Target) -> Result<Self> {
        Ok(Self {
            cpu: watched
                .pid
                .map(CpuTime::of)
                .transpose()?
                .unwrap_or_default(),
            memory: watched.pid.map(Memory::of).transpose()?.unwrap_or_default(),
            core_busy_s: watched.core.and_then(core_busy_s),
            generator: CpuTime::of(std::process::id())?,
            counters: counted(watched.counters, target),
        })
    }
}

/// Runs `scenario` against `target` and reports on it under `server`'s name.
fn measure_load(
    server: &str,
    scenario: &Scenario,
    target: &Target,
    watched: Watched<'_>,
) -> Result<Report> {
    let [mut before, mut first, mut last, mut end] = [(); 4].map(|()| Sample::default());
    let outcome = generator::run(scenario, target, &mut |moment| {
        let sample = Sample::take(watched, target)?;
        match moment {
            Moment::Start => {
                watched.pid.into_iter().for_each(forget_peak);
                before = sample;
            }
            Moment::WindowStart => first = sample,
            Moment::WindowEnd => last = sample,
            Moment::End => end = sample,
        }
        Ok(())
    })?;

    if (outcome.window_ns as f64) < scenario.window_s * 5e8 {
        return Err(Error::new(
            "the generator hardly ran in the window: the machine is too busy",
        ));
    }
    let generator_cpu_s = seconds_between(&first.generator, &last.generator);
    let mut report = Report::new(server, scenario, &outcome, generator_cpu_s);
    let counts = first.counters.iter().zip(&last.counters);
    for (counter, (first, last)) in watched.counters.iter().zip(counts) {
        if let (Some(first), Some(last)) = (first, last) {
            let per_s = (last - first) / report.window_s;
            report.counted_per_s.push((counter.name.clone(), per_s));
        }
    }
    if watched.pid.is_some() {
        let cpu_s = seconds_between(&first.cpu, &last.cpu);
        let user_s = last.cpu.user_s - first.cpu.user_s;
        let ticks_s = user_s + last.cpu.system_s - first.cpu.system_s;
        let delivered = report.delivered_edits_per_s * report.window_s;
        let grown = last.memory.rss_bytes as f64 - before.memory.rss_bytes as f64;
        let core_busy = last
            .core_busy_s
            .zip(first.core_busy_s)
            .map(|(last, first)| last - first);
        report.server_use = Some(ServerUse {
            cpu_s,
            cpu_user_share: ratio(user_s, ticks_s).unwrap_or(0.0),
            cores_busy: cpu_s / report.window_s,
            core_used_by_others_share: core_busy
                .map(|busy| ((busy - cpu_s) / report.window_s).max(0.0)),
            cpu_us_per_delivered_edit: ratio(cpu_s * 1e6, delivered),
            cpu_us_per_offered_edit: ratio(cpu_s * 1e6, outcome.sent_in_window as f64),
            memory_before: before.memory,
            memory: last.memory,
            rss_bytes_peak: end.memory.rss_bytes_peak,
            rss_bytes_per_connection: grown / scenario.connections() as f64,
        });
    }
    Ok(report)
}

/// What the server's page of metrics says; nothing of what it does not say.
pub(crate) fn counted(counters: &[Counter], target: &Target) -> Vec<Option<f64>> {
    if counters.is_empty() || target.tls.is_some() {
        return Vec::new();
    }
    let page = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(target.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let host = target.address;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut page = Vec::new();
        stream.read_to_end(&mut page)?;
        Ok(String::from_utf8_lossy(&page).into_owned())
    };
    // A server without such a page just has no such figures.
    let page = page().unwrap_or_default();
    counters
        .iter()
        .map(|counter| sum_of(&page, &counter.metric))
        .collect()
}

/// The sum of a metric over its labels.
fn sum_of(page: &str, metric: &str) -> Option<f64> {
    let values: Vec<f64> = page
        .lines()
        .filter_map(|line| line.strip_prefix(metric))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit(' ').next()?.trim().parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

fn seconds_between(first: &CpuTime, last: &CpuTime) -> f64 {
    last.on_cpu_ns.saturating_sub(first.on_cpu_ns) as f64 / 1e9
}

/// A name start and a first client id that no earlier run had, so that rooms are empty and a late
/// edit of another run is not taken for one of this.
pub fn fresh_identity() -> (String, u64) {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let stamp = since.as_nanos() as u64 >> 10;
    // Client ids are 32-bit in today's clients; this keeps the upper bit, so all have five bytes.
    let base = 0x8000_0000 | (stamp << 16 & 0x7fff_0000);
    (format!("bench-{stamp:x}-"), base)
}

/// Reads `ws://host:port` or `wss://host:port`, and whether it is the latter.
pub fn parse_target(url: &str) -> Result<(SocketAddr, bool)> {
    let encrypted = url.starts_with("wss://");
    let authority = url
        .strip_prefix("ws://")
        .or_else(|| url.strip_prefix("wss://"))
        .unwrap_or(url)
        .trim_end_matches('/');
    let mut addresses = authority
        .to_socket_addrs()
        .map_err(|error| Error::new(format!("{url}: {error} (expected ws://host:port)")))?;
    addresses
        .next()
        .map(|address| (address, encrypted))
        .ok_or_else(|| Error::new(format!("{url} has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_taken_for_it() {
        let page = "# TYPE a counter\na_total{shard=\"0\"} 3\na_total{shard=\"1\"} 4\n\
                    a_total_more 9\nb 1.5\n";
        assert_eq!(sum_of(page, "a_total"), Some(7.0));
        assert_eq!(sum_of(page, "b"), Some(1.5));
        assert_eq!(sum_of(page, "c"), None);
    }

    #[test]
    fn targets_are_read_with_and_without_the_scheme() {
        assert_eq!(parse_target("ws://127.0.0.1:80/").unwrap().0.port(), 80);
        assert_eq!(parse_target("127.0.0.1:9000").unwrap().0.port(), 9_000);
        assert!(parse_target("wss://127.0.0.1:9000").unwrap().1);
        assert!(parse_target("ws://127.0.0.1").is_err());
    }

    #[test]
    fn client_ids_have_five_bytes_and_stay_below_32_bits() {
        let (_, base) = fresh_identity();
        assert!((0x8000_0000..=0xffff_0000).contains(&base));
    }
}
