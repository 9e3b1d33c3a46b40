//! The log as a state machine.

use crate::{
    AppendError, Appended, Disk, Identity, LogConfig, Lsn, OpenError, Poisoned, Record, RecordKind,
    Recovered, RoomKey, SegmentId, WriteJob,
};
use std::io;
use std::path::Path;

/// Blocking work that the log wants done off the data core: preparing or recycling a segment.
#[derive(Debug)]
pub struct LogJob {}

impl LogJob {
    /// Carries it out. May take long (it zero-fills files).
    pub fn run(self, _disk: &dyn Disk) -> LogJobDone {
        unimplemented!()
    }
}

/// How a [`LogJob`] ended.
#[derive(Debug)]
pub struct LogJobDone {}

/// The write-ahead log of one shard. Lives on its shard's core; does no I/O while it serves.
#[derive(Debug)]
pub struct Log {}

impl Log {
    /// Makes a new log in an empty directory (blocking): one segment, ready to be written.
    pub fn create(_disk: &dyn Disk, _dir: &Path, _identity: Identity, _config: LogConfig) -> Result<Log, OpenError> {
        unimplemented!()
    }

    /// Opens a log (blocking): reads it from segment `low` on, which must exist, gives every record
    /// to `replay` in order, repairs a torn tail, and is ready to append after it. Segments below
    /// `low` are spare. An `Err` from `replay` becomes [`OpenError::Refused`].
    pub fn open(
        _disk: &dyn Disk,
        _dir: &Path,
        _identity: Identity,
        _config: LogConfig,
        _low: SegmentId,
        _replay: &mut dyn FnMut(Record<'_>) -> Result<(), String>,
    ) -> Result<(Log, Recovered), OpenError> {
        unimplemented!()
    }

    /// Appends a record; its payload is the concatenation of `payload`. Copies the bytes once, into
    /// the open batch. Not durable before [`Log::durable_lsn`] reaches [`Appended::durable_at`].
    /// A [`RecordKind::RoomCreated`] record takes its own LSN as its room key, whatever `room` says.
    pub fn append(
        &mut self,
        _kind: RecordKind,
        _room: RoomKey,
        _room_seq: u64,
        _payload: &[&[u8]],
    ) -> Result<Appended, AppendError> {
        unimplemented!()
    }

    /// Bytes appended and not yet handed out in a [`WriteJob`].
    pub fn pending_bytes(&self) -> usize {
        unimplemented!()
    }

    /// Whether a [`WriteJob`] is under way (one at a time).
    pub fn in_flight(&self) -> bool {
        unimplemented!()
    }

    /// Closes the open batch and hands it out, unless one is under way, nothing is pending, or the
    /// next segment is not prepared yet.
    pub fn next_write(&mut self) -> Option<WriteJob> {
        unimplemented!()
    }

    /// A write ended: `Ok(bytes)` as written and synced. Anything short of all bytes, and any error,
    /// poisons the log. On success `durable_lsn` has moved to the batch's end, which is returned.
    pub fn on_written(&mut self, _job: WriteJob, _result: io::Result<usize>) -> Result<Lsn, Poisoned> {
        unimplemented!()
    }

    /// Whether the last durable batch is vouched for by nothing after it.
    pub fn needs_seal(&self) -> bool {
        unimplemented!()
    }

    /// Appends a Seal if one is needed and nothing else is pending.
    pub fn seal(&mut self) {
        unimplemented!()
    }

    /// The next piece of blocking work, if there is any that is not under way.
    pub fn next_job(&mut self) -> Option<LogJob> {
        unimplemented!()
    }

    /// A [`LogJob`] ended. A failed preparation is tried again later and does not poison; appends
    /// answer [`AppendError::Full`] once space runs out.
    pub fn on_job_done(&mut self, _done: LogJobDone) {
        unimplemented!()
    }

    /// Segments below `low` hold nothing that is needed: they may be recycled. The caller has made
    /// `low` durable in its manifest before.
    pub fn recycle_below(&mut self, _low: SegmentId) {
        unimplemented!()
    }

    /// All below this address is on disk.
    pub fn durable_lsn(&self) -> Lsn {
        unimplemented!()
    }

    /// Where the next record will land at the earliest.
    pub fn appended_lsn(&self) -> Lsn {
        unimplemented!()
    }

    /// The segment an address lies in.
    pub fn segment_of(&self, _lsn: Lsn) -> SegmentId {
        unimplemented!()
    }

    /// The oldest segment kept and the one being written.
    pub fn live_segments(&self) -> (SegmentId, SegmentId) {
        unimplemented!()
    }

    /// Whether a write failed.
    pub fn poisoned(&self) -> bool {
        unimplemented!()
    }
}
