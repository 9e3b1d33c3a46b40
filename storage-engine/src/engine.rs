//! The storage side of a shard, as a state machine.

use crate::guard::{Limits, Refusal};
use crate::room_doc::Applied;
use collabblocks_wal::{Disk, LogConfig, Lsn, OpenError, Poisoned, WriteJob};
use std::io;
use std::path::Path;
use std::sync::Arc;
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
}

/// What the engine wants done. The runtime carries it out and reports back.
#[derive(Debug)]
pub enum Request {
    /// Write and sync, then [`Engine::on_written`]. At most one at a time.
    Write(WriteJob),
    /// Blocking work for a file-worker thread: `job.run(disk)`, then [`Engine::on_job_done`].
    Job(Job),
}

/// Blocking work: preparing segments, loading, decoding, storing and compacting snapshots, manifests.
pub struct Job {}
impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

impl Job {
    /// Carries it out, on a file-worker thread (the simulator: at a time of its choosing).
    pub fn run(self, _disk: &dyn Disk) -> JobDone {
        unimplemented!()
    }
}

/// How a [`Job`] ended. `Send`.
pub struct JobDone {}
impl std::fmt::Debug for JobDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JobDone")
    }
}

/// What the shard must know of.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// The room can be used.
    RoomReady(RoomId),
    /// It could not be loaded; its sessions are closed with the reason and it is gone from memory.
    RoomFailed(RoomId, String),
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

/// All rooms of a shard. Lives on the shard's core; does no I/O while it serves.
pub struct Engine {}

impl Engine {
    /// Opens (or makes) the shard's directory `dir` (blocking): manifest, snapshot index, log replay.
    pub fn open(
        _disk: &Arc<dyn Disk>,
        _dir: &Path,
        _identity: collabblocks_wal::Identity,
        _config: EngineConfig,
    ) -> Result<(Engine, OpenReport), OpenError> {
        unimplemented!()
    }

    /// Takes a hold on a room, which is made if it is new (a new room is not logged before its first
    /// update). Each hold is let go with [`Engine::detach`].
    pub fn attach(&mut self, _now: Nanos, _name: &str) -> (RoomId, RoomStatus) {
        unimplemented!()
    }

    /// Lets go of a hold. The room may be evicted later; its id stays valid until then.
    pub fn detach(&mut self, _now: Nanos, _room: RoomId) {
        unimplemented!()
    }

    /// Guard, apply, append to the log. The room is `Ready`.
    pub fn apply(&mut self, _now: Nanos, _room: RoomId, _update: &[u8], _cut_gaps: bool) -> Result<Outcome, Refusal> {
        unimplemented!()
    }

    /// Appends the room's encoded state vector.
    pub fn state_vector(&self, _room: RoomId, _out: &mut Vec<u8>) {
        unimplemented!()
    }

    /// Appends the diff for a client's state vector, update v1.
    pub fn diff(&self, _room: RoomId, _sv: &[u8], _out: &mut Vec<u8>) -> Result<(), Refusal> {
        unimplemented!()
    }

    /// When `durable_lsn` reaches this, all that the room holds is durable.
    pub fn room_durable_at(&self, _room: RoomId) -> Lsn {
        unimplemented!()
    }

    /// All below is on disk.
    pub fn durable_lsn(&self) -> Lsn {
        unimplemented!()
    }

    /// Called at the end of every turn and when the returned time has come: pushes what is to be
    /// done now, and returns when it wants to be called next.
    pub fn poll(&mut self, _now: Nanos, _requests: &mut Vec<Request>) -> Option<Nanos> {
        unimplemented!()
    }

    /// A log write ended.
    pub fn on_written(&mut self, _now: Nanos, _job: WriteJob, _result: io::Result<usize>) -> Result<Lsn, Poisoned> {
        unimplemented!()
    }

    /// A job ended.
    pub fn on_job_done(&mut self, _now: Nanos, _done: JobDone, _notices: &mut Vec<Notice>) {
        unimplemented!()
    }

    /// Shutdown: from now on `poll` flushes without delay and ends the log with CleanShutdown;
    /// `true` once all is durable and nothing is under way.
    pub fn close(&mut self, _now: Nanos) -> bool {
        unimplemented!()
    }

    /// Figures for metrics.
    pub fn stats(&self) -> EngineStats {
        unimplemented!()
    }
}
