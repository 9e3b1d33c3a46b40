//! What is known of a host. What could not be read is `None`, and judged unknown.

/// Everything that the checks look at.
#[derive(Clone, Default, Debug)]
pub struct Facts {
    /// The kernel's release: `6.1.0-18-amd64`.
    pub kernel_release: Option<String>,
    /// Cores that this process may use.
    pub cores: Option<usize>,
    /// `kernel.io_uring_disabled`; absent before Linux 6.6, where nothing can be disabled.
    pub io_uring_disabled: Option<u64>,
    /// Whether a ring could be made.
    pub ring: Option<RingProbe>,
    /// The hard limit of locked memory in bytes, `u64::MAX` for none.
    pub memlock_bytes: Option<u64>,
    /// The hard limit of open files, `u64::MAX` for none.
    pub files: Option<u64>,
    /// Whether this process may raise its limits (CAP_SYS_RESOURCE).
    pub may_raise_limits: bool,
    /// Whether the log is to be written by a thread of its own (`wal.sync`).
    pub log_on_thread: Option<bool>,
    /// The certificate that clients are to be shown.
    pub certificate: Option<Certificate>,
    /// Percent of the last five minutes in which some thread waited for a core.
    pub cpu_pressure_percent: Option<f64>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub tcp_max_syn_backlog: Option<u64>,
    /// The CPU frequency governors in use, each once.
    pub governors: Option<Vec<String>>,
    /// The chosen mode of transparent huge pages.
    pub huge_pages: Option<String>,
    /// The disk below the data directory.
    pub block: Option<BlockDevice>,
    /// What the data directory answered to direct, synced writes.
    pub disk: Option<DiskProbe>,
    /// Bytes free for this process where the data directory lies.
    pub disk_free_bytes: Option<u64>,
    /// The kernel's clock source.
    pub clocksource: Option<String>,
    /// Bytes of swap.
    pub swap_bytes: Option<u64>,
    /// `vm.swappiness`.
    pub swappiness: Option<u64>,
    /// Whether irqbalance runs.
    pub irqbalance: Option<bool>,
    /// Whether cores share hardware threads.
    pub smt_active: Option<bool>,
}

/// A disk's queue as sysfs tells it.
#[derive(Clone, Default, Debug)]
pub struct BlockDevice {
    /// Its name: `nvme0n1`.
    pub name: String,
    /// The I/O scheduler chosen.
    pub scheduler: Option<String>,
    /// `write back` or `write through`.
    pub write_cache: Option<String>,
    /// Whether it turns.
    pub rotational: Option<bool>,
}

/// What is known of the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// There is to be no TLS.
    None,
    /// It cannot be used, and why.
    Unusable(String),
    /// It can be used.
    Dated {
        /// When it expires, for people.
        not_after: String,
        /// Seconds until it holds; negative if it does.
        holds_in_s: i64,
        /// Seconds until it expires; negative if it has.
        expires_in_s: i64,
    },
}

/// How a ring answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RingProbe {
    /// It was made.
    Works,
    /// It was not, and what the kernel said.
    Fails(String),
}

/// How 4 KiB O_DIRECT writes, each followed by fdatasync, went on a zero-filled file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskProbe {
    /// Microseconds of a write and its sync.
    Synced {
        /// Half took less.
        p50_us: u64,
        /// One in a hundred took longer.
        p99_us: u64,
    },
    /// The file system does not take O_DIRECT.
    NotDirect,
    /// Nothing could be written, and what the kernel said.
    Fails(String),
}
