//! One measured run: the generator on one side, the server's process on the other.

use crate::generator::{self, Moment, Target};
use crate::process::{CpuTime, Memory, core_busy_s};
use crate::report::{Report, ServerUse, ratio};
use crate::scenario::Scenario;
use crate::{Error, Result};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{SystemTime, UNIX_EPOCH};

/// The server's process, where it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    /// Its id.
    pub pid: Option<u32>,
    /// The core it is pinned to.
    pub core: Option<usize>,
}

#[derive(Default)]
struct Sample {
    cpu: CpuTime,
    memory: Memory,
    core_busy_s: Option<f64>,
    generator: CpuTime,
}

impl Sample {
    fn take(watched: Watched) -> Result<Self> {
        Ok(Self {
            cpu: watched
                .pid
                .map(CpuTime::of)
                .transpose()?
                .unwrap_or_default(),
            memory: watched.pid.map(Memory::of).transpose()?.unwrap_or_default(),
            core_busy_s: watched.core.and_then(core_busy_s),
            generator: CpuTime::of(std::process::id())?,
        })
    }
}

/// Runs `scenario` against `target` and reports on it under `server`'s name.
pub fn measure(
    server: &str,
    scenario: &Scenario,
    target: &Target,
    watched: Watched,
) -> Result<Report> {
    let [mut before, mut first, mut last] = [(); 3].map(|()| Sample::default());
    let outcome = generator::run(scenario, target, &mut |moment| {
        let sample = Sample::take(watched)?;
        match moment {
            Moment::Start => before = sample,
            Moment::WindowStart => first = sample,
            Moment::WindowEnd => last = sample,
        }
        Ok(())
    })
    .map_err(|error| Error::new(format!("{server}, {}: {error}", scenario.name)))?;

    if (outcome.window_ns as f64) < scenario.window_s * 5e8 {
        return Err(Error::new(format!(
            "{server}, {}: the generator hardly ran in the window: the machine is too busy",
            scenario.name
        )));
    }
    let generator_cpu_s = seconds_between(&first.generator, &last.generator);
    let mut report = Report::new(server, scenario, &outcome, generator_cpu_s);
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
            rss_bytes_per_connection: grown / scenario.connections() as f64,
        });
    }
    Ok(report)
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

/// Reads `ws://host:port`.
pub fn parse_target(url: &str) -> Result<SocketAddr> {
    let authority = url
        .strip_prefix("ws://")
        .unwrap_or(url)
        .trim_end_matches('/');
    let mut addresses = authority
        .to_socket_addrs()
        .map_err(|error| Error::new(format!("{url}: {error} (expected ws://host:port)")))?;
    addresses
        .next()
        .ok_or_else(|| Error::new(format!("{url} has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_with_and_without_the_scheme() {
        assert_eq!(parse_target("ws://127.0.0.1:80/").unwrap().port(), 80);
        assert_eq!(parse_target("127.0.0.1:9000").unwrap().port(), 9_000);
        assert!(parse_target("ws://127.0.0.1").is_err());
    }

    #[test]
    fn client_ids_have_five_bytes_and_stay_below_32_bits() {
        let (_, base) = fresh_identity();
        assert!((0x8000_0000..=0xffff_0000).contains(&base));
    }
}
