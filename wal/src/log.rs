//! The log as a state machine.

mod job;
mod open;

pub use job::{LogJob, LogJobDone};
pub use open::read;

use crate::batch::{Batch, BufferPool, Finish, Staged, record_bytes};
use crate::format::{BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES, padded};
use crate::segment::segment_path;
use crate::{
    AppendError, Appended, BLOCK_BYTES, Disk, Identity, LogConfig, Lsn, Poisoned, RecordKind,
    RoomKey, SegmentId, WriteJob,
};
use job::Preparation;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A segment that can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Prepared {
    segment: SegmentId,
    salt: u64,
}

/// The write under way.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    segment: SegmentId,
    offset: u64,
    bytes: usize,
    end: Lsn,
    wants_seal: bool,
}

/// The write-ahead log of one shard. Lives on its shard's core; does no I/O while it serves.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    identity: Identity,
    config: LogConfig,
    epoch: u64,
    /// The oldest segment kept.
    low: SegmentId,
    /// The segment of the last batch handed out.
    writing: Prepared,
    /// Its file.
    path: Arc<Path>,
    /// Follow `writing` without a gap.
    ready: VecDeque<Prepared>,
    preparation: Preparation,
    /// Where the next batch opens, if it fits there.
    tail: (SegmentId, u64),
    open: Option<Batch>,
    closed: VecDeque<Batch>,
    pending_bytes: usize,
    in_flight: Option<InFlight>,
    durable: Lsn,
    /// The checksum of the last batch handed out.
    previous: u32,
    /// The last durable batch wants something after it.
    unsealed: bool,
    poisoned: bool,
    pool: BufferPool,
}

impl Log {
    /// Appends a record; its payload is the concatenation of `payload`. Copies the bytes once, into
    /// the open batch. Not durable before [`Log::durable_lsn`] reaches [`Appended::durable_at`].
    /// A [`RecordKind::RoomCreated`] record takes its own LSN as its room key, whatever `room` says.
    ///
    /// A [`RecordKind::CleanShutdown`] gets a batch of its own, so that it vouches for all before it.
    pub fn append(
        &mut self,
        kind: RecordKind,
        room: RoomKey,
        room_seq: u64,
        payload: &[&[u8]],
    ) -> Result<Appended, AppendError> {
        let bytes = record_bytes(payload.iter().map(|part| part.len()).sum());
        let fits = self.admit(kind, bytes)?;
        if !fits {
            let place = self.next_place(bytes);
            self.close_open();
            self.open_batch(place, bytes);
        }
        let open = self
            .open
            .as_mut()
            .expect("a batch was opened if none was open");
        let before = open.bytes();
        let lsn = open.push(kind, room, room_seq, payload);
        self.pending_bytes += open.bytes() - before;
        Ok(Appended {
            lsn,
            durable_at: Lsn(lsn.0 + 1),
        })
    }

    /// As [`Log::append`], of an update whose payload is in the buffer of its batch already: it begins
    /// one, and its bytes are not touched.
    pub fn append_staged(
        &mut self,
        room: RoomKey,
        room_seq: u64,
        staged: Staged,
    ) -> Result<Appended, AppendError> {
        let kind = RecordKind::Update;
        let bytes = record_bytes(staged.payload().len());
        let place = self.next_place(bytes);
        if self.admit(kind, bytes)? && !self.may_open_in(place.0) {
            // It fits into the open batch, and nowhere else.
            return self.append(kind, room, room_seq, &[staged.payload()]);
        }
        self.close_open();
        let lsn = self.address(place);
        let batch = Batch::of_staged(place, lsn, kind, room, room_seq, staged);
        self.pending_bytes += batch.bytes();
        self.tail = place;
        self.open = Some(batch);
        let lsn = Lsn(lsn.0 + BATCH_HEADER_BYTES as u64);
        Ok(Appended {
            lsn,
            durable_at: Lsn(lsn.0 + 1),
        })
    }

    /// Whether an update with a payload of `bytes` would be taken now.
    pub fn can_take(&self, bytes: usize) -> Result<(), AppendError> {
        self.admit(RecordKind::Update, record_bytes(bytes))
            .map(drop)
    }

    /// Whether a record of `bytes`, header included, is taken now, and then whether it fits into
    /// the open batch.
    fn admit(&self, kind: RecordKind, bytes: usize) -> Result<bool, AppendError> {
        if self.poisoned {
            return Err(AppendError::Poisoned);
        }
        let max = self.record_bytes_max();
        if bytes > max {
            return Err(AppendError::TooLarge { bytes, max });
        }
        let housekeeping = kind.is_housekeeping();
        // One record is always taken, however large: it must be possible to write it at some time.
        if !housekeeping
            && self.pending_bytes > 0
            && self.pending_bytes + bytes > self.config.queue_bytes_max
        {
            return Err(AppendError::Full("the disk is behind"));
        }
        let fits = self.open.as_ref().is_some_and(|open| {
            kind != RecordKind::CleanShutdown
                && open.bytes() + bytes <= self.batch_bytes_max(open.offset)
        });
        if !fits && !housekeeping && !self.may_open_in(self.next_place(bytes).0) {
            return Err(AppendError::Full(
                "no segment can be prepared: is the disk full?",
            ));
        }
        Ok(fits)
    }

    /// The largest record, header included, that a segment can hold.
    fn record_bytes_max(&self) -> usize {
        (self.config.segment_bytes - SEGMENT_HEADER_BYTES) as usize - BATCH_HEADER_BYTES
    }

    /// Bytes that a batch at `offset` may grow to by further records.
    fn batch_bytes_max(&self, offset: u64) -> usize {
        self.config
            .batch_bytes
            .min((self.config.segment_bytes - offset) as usize)
    }

    fn address(&self, place: (SegmentId, u64)) -> Lsn {
        Lsn(place.0.0 * self.config.segment_bytes + place.1)
    }

    /// Where a batch that begins with a record of `bytes` will stand.
    fn next_place(&self, bytes: usize) -> (SegmentId, u64) {
        let (segment, offset) = match &self.open {
            Some(open) => (open.segment, open.offset + padded(open.bytes()) as u64),
            None => self.tail,
        };
        if offset + padded(BATCH_HEADER_BYTES + bytes) as u64 <= self.config.segment_bytes {
            (segment, offset)
        } else {
            (SegmentId(segment.0 + 1), SEGMENT_HEADER_BYTES)
        }
    }

    /// While no further segment can be prepared, the last one is kept for what makes room.
    fn may_open_in(&self, segment: SegmentId) -> bool {
        !self.preparation.failing()
            || self.ready.back().is_some_and(|last| segment < last.segment)
            || segment == self.writing.segment
    }

    fn open_batch(&mut self, place: (SegmentId, u64), record: usize) {
        let lsn = self.address(place);
        let buffer = self.pool.take(BATCH_HEADER_BYTES + record);
        let batch = Batch::new(place.0, place.1, lsn, buffer);
        self.pending_bytes += batch.bytes();
        self.tail = place;
        self.open = Some(batch);
    }

    fn close_open(&mut self) {
        if let Some(open) = self.open.take() {
            self.tail = (open.segment, open.offset + padded(open.bytes()) as u64);
            self.closed.push_back(open);
        }
    }

    /// Bytes appended and not yet handed out in a [`WriteJob`].
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Whether a [`WriteJob`] is under way (one at a time).
    pub fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Closes the open batch and hands it out, unless one is under way, nothing is pending, or the
    /// next segment is not prepared yet.
    pub fn next_write(&mut self) -> Option<WriteJob> {
        if self.poisoned || self.in_flight.is_some() {
            return None;
        }
        let segment = self.closed.front().or(self.open.as_ref())?.segment;
        if segment != self.writing.segment {
            let next = *self.ready.front()?;
            assert_eq!(next.segment, segment, "segments are begun in order");
            self.ready.pop_front();
            self.writing = next;
            self.path = segment_path(&self.dir, segment).into();
        }
        if self.closed.is_empty() {
            self.close_open();
        }
        let batch = self.closed.pop_front().expect("a batch is pending");
        self.pending_bytes -= batch.bytes();
        let (offset, lsn, wants_seal) = (batch.offset, batch.lsn, batch.wants_seal);
        let (buffer, checksum) = batch.finish(Finish {
            salt: self.writing.salt,
            epoch: self.epoch,
            durable_lsn: self.durable,
            previous: self.previous,
        });
        self.previous = checksum;
        self.in_flight = Some(InFlight {
            segment,
            offset,
            bytes: buffer.len(),
            end: Lsn(lsn.0 + buffer.len() as u64),
            wants_seal,
        });
        Some(WriteJob {
            segment,
            path: self.path.clone(),
            offset,
            buffer,
        })
    }

    /// A write ended: `Ok(bytes)` as written and synced. Anything short of all bytes, and any error,
    /// poisons the log. On success `durable_lsn` has moved to the batch's end, which is returned.
    pub fn on_written(
        &mut self,
        job: WriteJob,
        result: io::Result<usize>,
    ) -> Result<Lsn, Poisoned> {
        let written = self
            .in_flight
            .take()
            .expect("a write that ends was under way");
        assert_eq!(
            (job.segment, job.offset, job.buffer.len()),
            (written.segment, written.offset, written.bytes),
            "the write that ends is the one under way"
        );
        let why = match result {
            Ok(bytes) if bytes == written.bytes => {
                assert!(self.durable < written.end, "durability only grows");
                self.durable = written.end;
                self.unsealed = written.wants_seal;
                self.pool.give(job.buffer);
                return Ok(self.durable);
            }
            Ok(bytes) => format!("{bytes} of {} bytes were written", written.bytes),
            Err(error) => error.to_string(),
        };
        self.poisoned = true;
        Err(Poisoned {
            lsn: self.durable,
            why,
        })
    }

    /// Whether the last durable batch is vouched for by nothing after it.
    pub fn needs_seal(&self) -> bool {
        self.unsealed && self.in_flight.is_none() && self.pending_bytes == 0 && !self.poisoned
    }

    /// Appends a Seal if one is needed and nothing else is pending.
    pub fn seal(&mut self) {
        if self.needs_seal() {
            // It is taken whatever is full, and a segment always has room for it or a next one does.
            self.append(RecordKind::Seal, RoomKey(0), 0, &[])
                .expect("a Seal is never refused by a log that is not poisoned");
        }
    }

    /// The next piece of blocking work, if there is any that is not under way.
    pub fn next_job(&mut self) -> Option<LogJob> {
        if self.poisoned {
            return None;
        }
        let last = self.ready.back().unwrap_or(&self.writing).segment;
        let next = SegmentId(last.0 + 1);
        let more = self.ready.len() < self.config.segments_ready;
        self.preparation.next_job(
            &self.dir,
            more.then_some(next),
            self.epoch,
            self.identity,
            &self.config,
        )
    }

    /// A [`LogJob`] ended. A failed preparation is tried again later and does not poison; appends
    /// answer [`AppendError::Full`] once space runs out.
    pub fn on_job_done(&mut self, done: LogJobDone) {
        if let Some(prepared) = self.preparation.on_done(done) {
            let last = self.ready.back().unwrap_or(&self.writing).segment;
            assert_eq!(
                prepared.segment.0,
                last.0 + 1,
                "segments are prepared in order"
            );
            self.ready.push_back(prepared);
        }
    }

    /// Whether the last preparation of a segment failed, as it does on a full disk.
    pub fn preparation_failing(&self) -> bool {
        self.preparation.failing()
    }

    /// Has a failed preparation tried again with the next call of [`Log::next_job`], however few
    /// calls there were since: for whoever has a clock.
    pub fn retry_preparation(&mut self) {
        self.preparation.retry();
    }

    /// Segments below `low` hold nothing that is needed: they may be recycled. The caller has made
    /// `low` durable in its manifest before. `low` is at most the segment being written.
    pub fn recycle_below(&mut self, low: SegmentId) {
        assert!(
            low <= self.writing.segment,
            "the segment being written is needed"
        );
        while self.low < low {
            self.preparation.add_spare(self.low);
            self.low.0 += 1;
        }
    }

    /// All below this address is on disk.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable
    }

    /// Where the next record will land at the earliest.
    pub fn appended_lsn(&self) -> Lsn {
        match &self.open {
            Some(open) => open.next_lsn(),
            None => {
                Lsn(self.address(self.next_place(record_bytes(0))).0 + BATCH_HEADER_BYTES as u64)
            }
        }
    }

    /// The segment an address lies in.
    pub fn segment_of(&self, lsn: Lsn) -> SegmentId {
        SegmentId(lsn.0 / self.config.segment_bytes)
    }

    /// The oldest segment kept and the one being written.
    pub fn live_segments(&self) -> (SegmentId, SegmentId) {
        (self.low, self.writing.segment)
    }

    /// Whether a write failed.
    pub fn poisoned(&self) -> bool {
        self.poisoned
    }

    /// Segments prepared ahead of the one being written.
    pub fn segments_ready(&self) -> usize {
        self.ready.len()
    }
}

impl WriteJob {
    /// Carries it out, blocking: for the simulator and tests. A runtime has its own, faster way.
    pub fn run(&self, disk: &dyn Disk) -> io::Result<usize> {
        assert!(self.offset.is_multiple_of(BLOCK_BYTES as u64));
        disk.write_at(&self.path, self.offset, self.buffer.as_slice())?;
        disk.sync(&self.path)?;
        Ok(self.buffer.len())
    }
}
