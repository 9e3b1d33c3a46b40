//! Identifiers and time.

/// Nanoseconds of a runtime's monotonic clock; in the simulator, of virtual time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// This much later.
    pub fn after(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(duration.as_nanos() as u64))
    }
}

/// A shard's number, `0..shards`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u16);

/// A connection on this shard, numbered by its runtime: `slot` is dense and reused, `generation`
/// grows with each reuse, so that a late event for a connection that is gone is recognised.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId {
    /// Index in the runtime's and the shard's tables.
    pub slot: u32,
    /// Which use of the slot.
    pub generation: u32,
}
