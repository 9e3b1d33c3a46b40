//! The engine's configuration, and what it says to the shard that owns it.

use crate::guard::Limits;
use crate::job::Job;
use crate::room_doc::Applied;
use crate::work::WorkLimits;
use collabblocks_wal::{LogConfig, Lsn, WriteJob};
use std::time::Duration;

/// Nanoseconds of the runtime's monotonic clock; the engine never reads a clock itself.
pub type Nanos = u64;

/// A room in memory: a slot that is reused, with a generation that is not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RoomId {
    /// Dense index: the shard keeps its own room state in a vector by it.
    pub slot: u32,
    /// Grows each time the slot is reused.
    pub generation: u32,
}

/// Sizes and times.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The log's.
    pub log: LogConfig,
    /// Caps on client input.
    pub limits: Limits,
    /// Log segments kept before the rooms that pin the oldest are snapshotted.
    pub segments_max: u64,
    /// How long a commit may wait for company.
    pub commit_delay: Duration,
    /// Pending bytes at which a commit does not wait.
    pub commit_bytes: usize,
    /// How long a log that has come to rest waits before it is sealed.
    pub seal_after: Duration,
    /// How long a room without sessions stays in memory.
    pub evict_after: Duration,
    /// Bytes of documents in memory (estimate) above which rooms without sessions go at once.
    pub memory_bytes_max: usize,
    /// Free bytes on disk below which updates are refused.
    pub disk_reserve_bytes: u64,
    /// Bytes of a snapshot segment before a new one is begun.
    pub snapshot_segment_bytes: u64,
    /// Share of live bytes below which a snapshot segment is compacted.
    pub snapshot_live_ratio_min: f64,
    /// Bytes of an update from which on a job applies it; and a quarter of the bytes of a document
    /// from which on a job encodes it.
    pub apart_bytes_min: usize,
    /// Bounds of the work on a document.
    pub work: WorkLimits,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            log: LogConfig::default(),
            limits: Limits::default(),
            segments_max: 8,
            commit_delay: Duration::from_millis(2),
            commit_bytes: 256 << 10,
            seal_after: Duration::from_millis(50),
            evict_after: Duration::from_secs(60),
            memory_bytes_max: 2 << 30,
            disk_reserve_bytes: 256 << 20,
            snapshot_segment_bytes: 256 << 20,
            snapshot_live_ratio_min: 0.5,
            apart_bytes_min: 64 << 10,
            work: WorkLimits::default(),
        }
    }
}

/// What the engine wants done. The runtime carries it out and reports back.
#[derive(Debug)]
pub enum Request {
    /// Write and sync, then [`crate::Engine::on_written`]. At most one at a time.
    Write {
        /// The batch.
        job: WriteJob,
        /// More is expected soon, so that the end may be noticed with what comes then.
        lazy: bool,
    },
    /// Blocking work for a file-worker thread: `job.run(disk)`, then [`crate::Engine::on_job_done`].
    Job(Job),
}

/// What the shard must know of.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// The room can be used.
    RoomReady(RoomId),
    /// It could not be loaded; its sessions are closed with the reason and it is gone from memory.
    RoomFailed(RoomId, String),
    /// What [`crate::Engine::apply_apart`] came to. Whether the room can be used again is told beside.
    Applied {
        /// The room.
        room: RoomId,
        /// The update.
        update: crate::LargeUpdate,
        /// How it was taken.
        outcome: Result<Outcome, crate::Refusal>,
    },
    /// What [`crate::Engine::diff_apart`] came to.
    Diff {
        /// The room.
        room: RoomId,
        /// The update that was asked for, in parts that are to be applied in this order.
        diff: Result<Vec<Vec<u8>>, crate::Refusal>,
    },
}

/// Whether an attached room can be used at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoomStatus {
    /// Yes.
    Ready,
    /// A [`Notice`] will follow.
    Loading,
}

/// How an update was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What is to be relayed.
    pub applied: Applied,
    /// Units, as client and clock, that what was cut off waits for: some of them. When one is there,
    /// it is worth asking again.
    pub wanted: Vec<(u64, u32)>,
    /// When `durable_lsn` reaches this, the update (also a known one) may be acknowledged.
    pub durable_at: Lsn,
    /// The room's sequence number after it.
    pub room_seq: u64,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// Rooms known, on disk or in the log.
    pub rooms: u64,
    /// Records replayed.
    pub records: u64,
    /// A torn tail was cut at this LSN.
    pub torn_at: Option<Lsn>,
    /// The last shutdown was clean.
    pub clean: bool,
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct EngineStats {
    /// Rooms in memory.
    pub rooms_loaded: u64,
    /// Rooms known.
    pub rooms_known: u64,
    /// Estimated bytes of documents in memory.
    pub document_bytes: u64,
    /// Snapshots made durable since start.
    pub snapshots_stored: u64,
    /// Bytes of snapshots written since start.
    pub snapshot_bytes: u64,
    /// Rooms evicted since start.
    pub rooms_evicted: u64,
    /// Live log segments.
    pub log_segments: u64,
    /// Bytes appended to the log since start.
    pub log_bytes: u64,
    /// Batches committed since start.
    pub commits: u64,
}
