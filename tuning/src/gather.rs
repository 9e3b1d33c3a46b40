//! Reading the facts from procfs, sysfs, the process's limits and small probes.

use crate::disk;
use crate::facts::{BlockDevice, Facts, RingProbe};
use rustix::process::{Resource, getrlimit};
use std::path::{Path, PathBuf};
use std::str::FromStr;

impl Facts {
    /// Reads the machine; `data` is where the data directory is or will be. Takes some
    /// milliseconds of disk writes there, to a file that is gone afterwards.
    pub fn gather(data: &Path) -> Facts {
        let place = nearest_directory(data);
        Facts {
            kernel_release: Some(
                rustix::system::uname()
                    .release()
                    .to_string_lossy()
                    .into_owned(),
            ),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            ring: Some(probe_ring()),
            memlock_bytes: Some(getrlimit(Resource::Memlock).maximum.unwrap_or(u64::MAX)),
            files: Some(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)),
            may_raise_limits: may_raise_limits(),
            // The configuration says that, not the machine.
            log_on_thread: None,
            certificate: None,
            cpu_pressure_percent: line("/proc/pressure/cpu").and_then(|line| pressure(&line)),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            tcp_max_syn_backlog: number("/proc/sys/net/ipv4/tcp_max_syn_backlog"),
            governors: governors(),
            huge_pages: line("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|line| chosen(&line)),
            block: block_device(&place),
            disk: Some(disk::probe(&place)),
            disk_free_bytes: rustix::fs::statvfs(&place)
                .ok()
                .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize)),
            clocksource: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            swap_bytes: line_of("/proc/meminfo", "SwapTotal:").and_then(|line| kibibytes(&line)),
            swappiness: number("/proc/sys/vm/swappiness"),
            irqbalance: running("irqbalance"),
            smt_active: number::<u8>("/sys/devices/system/cpu/smt/active")
                .map(|active| active != 0),
        }
    }
}

/// The directory itself, or the nearest one above it that there is.
fn nearest_directory(data: &Path) -> PathBuf {
    let full = std::path::absolute(data).unwrap_or_else(|_| data.into());
    full.ancestors()
        .find(|place| place.is_dir())
        .unwrap_or(Path::new("/"))
        .into()
}

fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.lines().next()?.trim().to_string())
}

fn line_of(path: &str, prefix: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(prefix))
        .map(|rest| rest.trim().to_string())
}

fn number<T: FromStr>(path: impl AsRef<Path>) -> Option<T> {
    line(path)?.parse().ok()
}

/// Whether CAP_SYS_RESOURCE (bit 24) is in effect.
fn may_raise_limits() -> bool {
    line_of("/proc/self/status", "CapEff:")
        .and_then(|caps| u64::from_str_radix(&caps, 16).ok())
        .is_some_and(|caps| caps >> 24 & 1 == 1)
}

/// `some avg10=0.00 avg60=0.00 avg300=1.50 total=7`: the last five minutes' share.
fn pressure(line: &str) -> Option<f64> {
    let (_, rest) = line.strip_prefix("some ")?.split_once("avg300=")?;
    rest.split(' ').next()?.parse().ok()
}

fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The word in brackets, as sysfs marks a choice: `always [madvise] never`. A line of one word
/// alone is that word.
fn chosen(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let bracketed = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    match (bracketed, words.next(), words.next()) {
        (Some(word), _, _) | (None, Some(word), None) => Some(word.to_string()),
        _ => None,
    }
}

fn governors() -> Option<Vec<String>> {
    let mut found: Vec<String> = std::fs::read_dir("/sys/devices/system/cpu/cpufreq")
        .ok()?
        .filter_map(|policy| line(policy.ok()?.path().join("scaling_governor")))
        .collect();
    found.sort_unstable();
    found.dedup();
    (!found.is_empty()).then_some(found)
}

fn block_device(place: &Path) -> Option<BlockDevice> {
    let device = rustix::fs::stat(place).ok()?.st_dev;
    let numbers = format!(
        "{}:{}",
        rustix::fs::major(device),
        rustix::fs::minor(device)
    );
    let mut path = std::fs::canonicalize(format!("/sys/dev/block/{numbers}")).ok()?;
    if path.join("partition").exists() {
        path.pop();
    }
    let queue = path.join("queue");
    Some(BlockDevice {
        name: path.file_name()?.to_string_lossy().into_owned(),
        scheduler: line(queue.join("scheduler")).and_then(|line| chosen(&line)),
        write_cache: line(queue.join("write_cache")),
        rotational: number::<u8>(queue.join("rotational")).map(|rotational| rotational != 0),
    })
}

fn running(name: &str) -> Option<bool> {
    let processes = std::fs::read_dir("/proc").ok()?;
    Some(
        processes
            .filter_map(Result::ok)
            .any(|process| line(process.path().join("comm")).as_deref() == Some(name)),
    )
}

fn probe_ring() -> RingProbe {
    let mut builder =
        io_uring::IoUring::<io_uring::squeue::Entry, io_uring::cqueue::Entry>::builder();
    match builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(64)
    {
        Ok(_) => RingProbe::Works,
        Err(error) => RingProbe::Fails(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_as_the_kernel_writes_it() {
        let line = "some avg10=70.01 avg60=74.85 avg300=66.25 total=4305071137";
        assert_eq!(pressure(line), Some(66.25));
        assert_eq!(
            pressure("full avg10=0.00 avg60=0.00 avg300=0.00 total=0"),
            None
        );
    }

    #[test]
    fn choices_are_read_as_sysfs_marks_them() {
        for (line, want) in [
            ("always [madvise] never", Some("madvise")),
            ("[none] mq-deadline", Some("none")),
            ("none", Some("none")),
            ("none mq-deadline", None),
            ("", None),
        ] {
            assert_eq!(chosen(line).as_deref(), want, "{line}");
        }
        assert_eq!(kibibytes("4 kB"), Some(4096));
        assert_eq!(kibibytes("4"), None);
    }

    #[test]
    fn this_machine_is_read_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let facts = Facts::gather(&dir.path().join("not/there"));
        assert_eq!(facts.ring, Some(RingProbe::Works));
        assert!(facts.kernel_release.is_some() && facts.cores.is_some() && facts.files.is_some());
        assert!(
            facts.disk.is_some() && facts.disk_free_bytes.is_some() && facts.swap_bytes.is_some()
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
