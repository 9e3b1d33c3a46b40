//! The checks: pure judgements over [`Facts`].

use crate::facts::{Certificate, DiskProbe, Facts, RingProbe};
use serde::Serialize;

/// How much a check matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The server does not start, or loses what it is for.
    Required,
    /// Latency or capacity suffers visibly.
    Important,
    /// The last few percent, and repeatable measurements.
    Advice,
}

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As wanted.
    Ok,
    /// It works, and could be better.
    Warn,
    /// It has to change.
    Fail,
    /// It could not be found out, or has no meaning here.
    Unknown,
}

/// Share of time in which threads may wait for a core before that counts as more work than cores.
const CPU_PRESSURE_PERCENT_MAX: f64 = 10.0;

/// Seconds that a certificate should still hold: 14 days.
pub const CERTIFICATE_LEFT_S_MIN: i64 = 14 * 86_400;

/// A check.
#[derive(Debug)]
pub struct Check {
    /// A short stable name.
    pub id: &'static str,
    /// What is looked at.
    pub title: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What is wanted.
    pub wanted: &'static str,
    /// Why.
    pub why: &'static str,
    /// The command or setting that gets there; `{disk}` stands for the disk's name.
    pub how: &'static str,
    judge: fn(&Facts) -> Option<(Status, String)>,
}

/// A check and how it ended here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// [`Check::id`].
    pub id: &'static str,
    /// [`Check::title`].
    pub title: &'static str,
    /// [`Check::severity`].
    pub severity: Severity,
    /// How it ended.
    pub status: Status,
    /// What is set.
    pub current: String,
    /// The same as a number, if it is so many bytes; those without a limit have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_bytes: Option<u64>,
    /// [`Check::wanted`].
    pub wanted: &'static str,
    /// [`Check::why`].
    pub why: &'static str,
    /// [`Check::how`], with the disk's name.
    pub how: String,
}

/// Judges facts by all checks.
pub fn evaluate(facts: &Facts) -> Vec<Finding> {
    let disk = facts
        .block
        .as_ref()
        .map_or("<disk>", |block| block.name.as_str());
    let finding = |check: &Check| {
        let (status, current) =
            (check.judge)(facts).unwrap_or((Status::Unknown, "cannot be read here".into()));
        Finding {
            id: check.id,
            title: check.title,
            severity: check.severity,
            status,
            current,
            current_bytes: bytes(check.id, facts).filter(|bytes| *bytes != u64::MAX),
            wanted: check.wanted,
            why: check.why,
            how: check.how.replace("{disk}", disk),
        }
    };
    checks().iter().map(finding).collect()
}

/// The bytes that a check is about, if it is about bytes.
fn bytes(id: &str, facts: &Facts) -> Option<u64> {
    match id {
        "memlock" => facts.memlock_bytes,
        "space" => facts.disk_free_bytes,
        "swap" => facts.swap_bytes,
        _ => None,
    }
}

/// All checks, in the order they are printed.
pub fn checks() -> &'static [Check] {
    CHECKS
}

fn judged(ok: bool, otherwise: Status, current: impl Into<String>) -> Option<(Status, String)> {
    Some((if ok { Status::Ok } else { otherwise }, current.into()))
}

fn at_least(value: Option<u64>, wanted: u64) -> Option<(Status, String)> {
    value.and_then(|value| judged(value >= wanted, Status::Warn, amount(value)))
}

fn amount(value: u64) -> String {
    if value == u64::MAX {
        "unlimited".into()
    } else {
        value.to_string()
    }
}

fn at_least_bytes(value: Option<u64>, wanted: u64) -> Option<(Status, String)> {
    let (status, _) = at_least(value, wanted)?;
    Some((status, amount_bytes(value?)))
}

/// Bytes in the largest unit of which there is one, cut off after a digit: what is shown is there.
fn amount_bytes(value: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    if value == u64::MAX {
        return "unlimited".into();
    }
    match UNITS.iter().find(|(_, unit)| value >= *unit) {
        None => format!("{value} bytes"),
        Some((name, unit)) => {
            let (whole, tenths) = (value / unit, value % unit * 10 / unit);
            match tenths {
                0 => format!("{whole} {name}"),
                _ => format!("{whole}.{tenths} {name}"),
            }
        }
    }
}

fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

static CHECKS: &[Check] = &[
    Check {
        id: "kernel",
        title: "Kernel version",
        severity: Severity::Required,
        wanted: "Linux 6.1 or newer",
        why: "the ring runtime needs what io_uring gained with it (deferred task work, multishot accept and receive)",
        how: "install a newer kernel from your distribution and reboot",
        judge: |facts| {
            facts
                .kernel_release
                .as_ref()
                .and_then(|release| judged(version(release) >= (6, 1), Status::Fail, release))
        },
    },
    Check {
        id: "io_uring",
        title: "io_uring is allowed",
        severity: Severity::Required,
        wanted: "a ring can be made",
        why: "all sockets and files of the server are driven by it",
        how: "sysctl -w kernel.io_uring_disabled=0; in a container allow io_uring_setup, io_uring_enter and \
              io_uring_register in the seccomp profile",
        judge: |facts| {
            let disabled = facts.io_uring_disabled.filter(|disabled| *disabled != 0);
            let sysctl = disabled
                .map(|value| format!(" (kernel.io_uring_disabled = {value})"))
                .unwrap_or_default();
            match facts.ring.as_ref()? {
                RingProbe::Works => {
                    judged(disabled.is_none(), Status::Warn, format!("works{sysctl}"))
                }
                RingProbe::Fails(why) => judged(false, Status::Fail, format!("{why}{sysctl}")),
            }
        },
    },
    Check {
        id: "memlock",
        title: "Locked memory",
        severity: Severity::Important,
        wanted: "at least 64 MiB",
        why: "buffers registered with the kernel count against it, and the glommio runtime does not start with little",
        how: "LimitMEMLOCK=64M in the unit, or `* - memlock 65536` in /etc/security/limits.conf",
        judge: |facts| match at_least_bytes(facts.memlock_bytes, 64 << 20)? {
            (Status::Warn, current) if facts.may_raise_limits => judged(
                true,
                Status::Ok,
                format!("{current}, which this user may raise"),
            ),
            other => Some(other),
        },
    },
    Check {
        id: "files",
        title: "Open files",
        severity: Severity::Important,
        wanted: "at least 65536",
        why: "each connection is an open file; past the limit no further one is accepted",
        how: "LimitNOFILE=1048576 in the unit, or `* - nofile 1048576` in /etc/security/limits.conf",
        judge: |facts| match at_least(facts.files, 65_536)? {
            (Status::Warn, current) if facts.files < Some(256) => {
                judged(false, Status::Fail, current)
            }
            other => Some(other),
        },
    },
    Check {
        id: "somaxconn",
        title: "Accept queue",
        severity: Severity::Important,
        wanted: "net.core.somaxconn at least 4096",
        why: "connections beyond it are dropped when many clients reconnect at once",
        how: "sysctl -w net.core.somaxconn=4096",
        judge: |facts| at_least(facts.somaxconn, 4_096),
    },
    Check {
        id: "syn_backlog",
        title: "Half-open connections",
        severity: Severity::Important,
        wanted: "net.ipv4.tcp_max_syn_backlog at least 4096",
        why: "handshakes beyond it are dropped when many clients reconnect at once",
        how: "sysctl -w net.ipv4.tcp_max_syn_backlog=4096",
        judge: |facts| at_least(facts.tcp_max_syn_backlog, 4_096),
    },
    Check {
        id: "governor",
        title: "CPU frequency governor",
        severity: Severity::Important,
        wanted: "performance",
        why: "a core that clocks down between edits adds microseconds to each, and makes measurements differ",
        how: "cpupower frequency-set -g performance",
        judge: |facts| {
            let governors = facts.governors.as_ref()?;
            judged(
                governors.iter().all(|governor| governor == "performance"),
                Status::Warn,
                governors.join(", "),
            )
        },
    },
    Check {
        id: "huge_pages",
        title: "Transparent huge pages",
        severity: Severity::Advice,
        wanted: "madvise or never",
        why: "with `always` the kernel compacts memory while a core waits, and small rooms hold large pages",
        how: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        judge: |facts| {
            facts
                .huge_pages
                .as_ref()
                .and_then(|mode| judged(mode == "madvise" || mode == "never", Status::Warn, mode))
        },
    },
    Check {
        id: "scheduler",
        title: "I/O scheduler",
        severity: Severity::Advice,
        wanted: "none (mq-deadline for a disk that turns)",
        why: "the log is written by one sequential writer a core; ordering its writes again only delays them",
        how: "echo none > /sys/block/{disk}/queue/scheduler",
        judge: |facts| {
            let block = facts.block.as_ref()?;
            let scheduler = block.scheduler.as_ref()?;
            let turns = block.rotational == Some(true) && !block.name.starts_with("vd");
            let ok = scheduler == "none" || (turns && scheduler == "mq-deadline");
            judged(ok, Status::Warn, format!("{scheduler} on {}", block.name))
        },
    },
    Check {
        id: "write_cache",
        title: "Disk write cache",
        severity: Severity::Advice,
        wanted: "write through, or syncs within 1000 µs",
        why: "a volatile cache is flushed for each commit; drives with power-loss protection need no flush",
        how: "use a drive with power-loss protection; never switch flushes off on one without",
        judge: |facts| {
            let block = facts.block.as_ref()?;
            let cache = block.write_cache.as_ref()?;
            let fast =
                matches!(facts.disk, Some(DiskProbe::Synced { p50_us, .. }) if p50_us <= 1_000);
            judged(
                cache == "write through" || fast,
                Status::Warn,
                format!("{cache} on {}", block.name),
            )
        },
    },
    Check {
        id: "direct",
        title: "O_DIRECT in the data directory",
        severity: Severity::Required,
        wanted: "4096-byte writes are taken",
        why: "the write-ahead log is written past the page cache, so that a sync waits for its own bytes only",
        how: "put the data directory on ext4 or XFS",
        judge: |facts| match facts.disk.as_ref()? {
            DiskProbe::Synced { .. } => judged(true, Status::Ok, "taken"),
            DiskProbe::NotDirect => judged(false, Status::Fail, "refused by the file system"),
            DiskProbe::Fails(why) => judged(false, Status::Fail, why.as_str()),
        },
    },
    Check {
        id: "sync",
        title: "Durable write of 4 KiB",
        severity: Severity::Important,
        wanted: "p50 from 8 to 2000 µs, p99 within 20000 µs",
        why: "an edit is acknowledged after one; one faster than any disk is not durable (tmpfs, a lying disk)",
        how: "use a local NVMe drive with power-loss protection and ext4 or XFS; nothing else busy on it",
        judge: |facts| match facts.disk.as_ref()? {
            DiskProbe::Synced { p50_us, p99_us } => judged(
                (8..=2_000).contains(p50_us) && *p99_us <= 20_000,
                Status::Warn,
                format!("p50 {p50_us} µs, p99 {p99_us} µs"),
            ),
            _ => None,
        },
    },
    Check {
        id: "space",
        title: "Free space",
        severity: Severity::Important,
        wanted: "at least 4 GiB",
        why: "each core keeps up to 16 log segments of 64 MiB besides snapshots; short of space updates are refused",
        how: "free some space, or put the data directory on a larger disk",
        judge: |facts| at_least_bytes(facts.disk_free_bytes, 4 << 30),
    },
    Check {
        id: "clocksource",
        title: "Clock source",
        severity: Severity::Important,
        wanted: "tsc, kvm-clock, hyperv_clocksource_tsc_page or arch_sys_counter",
        why: "with the others each reading of the clock is a system call",
        how: "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource",
        judge: |facts| {
            let fast = [
                "tsc",
                "kvm-clock",
                "hyperv_clocksource_tsc_page",
                "arch_sys_counter",
            ];
            facts
                .clocksource
                .as_ref()
                .and_then(|source| judged(fast.contains(&source.as_str()), Status::Warn, source))
        },
    },
    Check {
        id: "swap",
        title: "Swap",
        severity: Severity::Advice,
        wanted: "none, or vm.swappiness at most 10",
        why: "a room that was swapped out holds up all rooms of its core while it is read back",
        how: "swapoff -a, or sysctl -w vm.swappiness=1",
        judge: |facts| match (facts.swap_bytes?, facts.swappiness) {
            (0, _) => judged(true, Status::Ok, "none"),
            (bytes, Some(swappiness)) => judged(
                swappiness <= 10,
                Status::Warn,
                format!("{}, swappiness {swappiness}", amount_bytes(bytes)),
            ),
            (_, None) => None,
        },
    },
    Check {
        id: "log_sync",
        title: "Writes of the log, and what else the cores do",
        severity: Severity::Important,
        wanted: "wal.sync = \"thread\", or cores that other work leaves alone",
        why: "with `dsync` and `fdatasync` a kernel thread of one core ends each write; where that core has more work \
              than it can do, a batch waits for 20 ms before it is written by a thread as well, and acknowledgements \
              wait with it (deliveries do not); collabblocks_wal_hedged_writes_total counts such batches",
        how: "set wal.sync = \"thread\", or keep other work off the cores that serve rooms",
        judge: |facts| {
            if facts.log_on_thread? {
                return judged(true, Status::Ok, "a thread of its own");
            }
            let percent = facts.cpu_pressure_percent?;
            judged(
                percent <= CPU_PRESSURE_PERCENT_MAX,
                Status::Warn,
                format!("by the ring; threads waited for a core {percent:.0} % of the time"),
            )
        },
    },
    Check {
        id: "certificate",
        title: "TLS certificate",
        severity: Severity::Important,
        wanted: "usable, and for 14 days or more",
        why: "clients refuse one that has expired; a server does not start with one that cannot be used",
        how: "put a new certificate and key where tls.certificate and tls.key say; a running server serves them within seconds",
        judge: |facts| match facts.certificate.as_ref()? {
            Certificate::None => judged(true, Status::Ok, "no TLS"),
            Certificate::Unusable(why) => judged(false, Status::Fail, why.as_str()),
            Certificate::Dated {
                not_after,
                holds_in_s,
                expires_in_s,
            } => {
                if *holds_in_s > 0 {
                    return judged(false, Status::Fail, "does not hold yet");
                }
                if *expires_in_s < 0 {
                    return judged(false, Status::Fail, format!("expired at {not_after}"));
                }
                judged(
                    *expires_in_s >= CERTIFICATE_LEFT_S_MIN,
                    Status::Warn,
                    format!("expires at {not_after}"),
                )
            }
        },
    },
    Check {
        id: "irqbalance",
        title: "Interrupt balancing",
        severity: Severity::Advice,
        wanted: "off on four cores or more, interrupts pinned beside the data cores",
        why: "irqbalance moves interrupts onto cores that serve rooms, at changing times",
        how: "systemctl disable --now irqbalance, then set /proc/irq/*/smp_affinity_list",
        judge: |facts| {
            let (running, cores) = (facts.irqbalance?, facts.cores?);
            judged(
                !running || cores < 4,
                Status::Warn,
                if running { "running" } else { "not running" },
            )
        },
    },
    Check {
        id: "smt",
        title: "Hardware threads",
        severity: Severity::Advice,
        wanted: "known: two threads of one core share its caches and units",
        why: "one shard a hardware thread gives the most throughput, one a core the steadiest latency",
        how: "for steady latency name one thread of each pair in --cores (`lscpu -e` shows the pairs)",
        judge: |facts| {
            let active = facts.smt_active?;
            judged(
                true,
                Status::Ok,
                if active {
                    "two or more threads a core"
                } else {
                    "one thread a core"
                },
            )
        },
    },
];

#[cfg(test)]
#[path = "checks_tests.rs"]
pub(crate) mod tests;
