//! A shard's figures since start, read by the control plane.

/// Counted by the runtime.
#[derive(Clone, Debug, Default)]
pub struct RuntimeStats {
    /// Nanoseconds this core's loop was not waiting.
    pub busy_ns: u64,
    /// Nanoseconds since the loop began.
    pub elapsed_ns: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Events that found no room in a mailbox.
    pub mailbox_full: u64,
    /// Accept calls that failed for want of file descriptors.
    pub accept_errors: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
}

/// All figures of a shard.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// The runtime's.
    pub runtime: RuntimeStats,
}
