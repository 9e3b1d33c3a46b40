//! The machine that figures were taken on; without it they say little.

use serde::Serialize;
use std::fs;

/// What a report says about its machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// CPU model.
    pub cpu: String,
    /// CPUs that are online.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Whether a hypervisor is under it.
    pub virtual_machine: bool,
    /// Load average over the last minute when the run began: others' work blurs figures.
    pub load_average: f64,
}

impl Machine {
    /// Looks at this machine.
    pub fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib = meminfo
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse::<u64>().ok());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            cpu: field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            // Not `available_parallelism`: by now this thread may be pinned.
            cores: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            memory_bytes: memory_kib.unwrap_or(0) * 1024,
            virtual_machine: field("flags").is_some_and(|flags| flags.contains(" hypervisor")),
            load_average: load
                .split_whitespace()
                .next()
                .and_then(|l| l.parse().ok())
                .unwrap_or(0.0),
        }
    }

    /// One line for a table's head.
    pub fn line(&self) -> String {
        format!(
            "{} × {}{}, {:.1} GB, Linux {}, load average {:.2} at the start",
            self.cores,
            self.cpu,
            if self.virtual_machine {
                " (virtual)"
            } else {
                ""
            },
            self.memory_bytes as f64 / 1e9,
            self.kernel,
            self.load_average
        )
    }
}
