//! Snapshots of rooms, and the checkpoint that moves the log's low end past what they cover.
//!
//! Snapshot jobs, manifest writes and compaction take turns: at most one of them is under way, so
//! that snapshot segments have one writer and the manifest names what was durable before it.

use crate::commit::{Closing, Deadline};
use crate::config::{Nanos, RoomId};
use crate::engine::{Engine, nanos};
use crate::guard::Refusal;
use crate::job::Work;
use crate::manifest::Manifest;
use crate::rooms::{DocState, Snapshotting};
use crate::snapshot::format::Body;
use crate::snapshot::write::{Encoded, Stored, Tail};
use collabblocks_wal::{Lsn, RecordKind};
use std::collections::VecDeque;
use std::io;
use std::time::Duration;

/// Estimated bytes of documents encoded in one call of `poll`, which holds the core meanwhile; one
/// larger document still is.
const ENCODE_BYTES_MAX: usize = 2 << 20;
/// Encoded bytes and rooms in a batch.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_ROOMS: usize = 256;
/// After an error of the disk.
const DISK_RETRY: Duration = Duration::from_secs(5);
/// After a room's document could not be encoded or read again.
const ROOM_RETRY: Duration = Duration::from_secs(60);

/// The state of snapshots and checkpoints.
pub(crate) struct Upkeep {
    /// Where the next batch of snapshots goes.
    pub(crate) tail: Tail,
    /// The number of the snapshot segment after that.
    pub(crate) next_segment: u32,
    /// The manifest as it is on disk.
    pub(crate) manifest: Manifest,
    /// One of the jobs that take turns is under way.
    pub(crate) busy: bool,
    /// None of them is begun before this, after an error of the disk.
    pub(crate) retry_at: Nanos,
    /// Rooms to be snapshotted.
    queue: VecDeque<RoomId>,
    /// Encoded, and not yet given to a job.
    staged: Vec<Encoded>,
    staged_bytes: usize,
    /// All that is staged is durable in the log at this address.
    staged_needs: Lsn,
    /// The slots of rooms whose SnapshotInstalled is in the log and durable at this address, in its
    /// order. A room keeps its slot until its snapshot ended, though it may get another id.
    installing: VecDeque<(Lsn, u32)>,
    /// Snapshots made durable since start, and their bytes.
    pub(crate) stored: u64,
    pub(crate) stored_bytes: u64,
}

impl Upkeep {
    pub(crate) fn new(tail: Tail, manifest: Manifest) -> Self {
        Self {
            tail,
            next_segment: tail.segment + 1,
            manifest,
            busy: false,
            retry_at: 0,
            queue: VecDeque::new(),
            staged: Vec::new(),
            staged_bytes: 0,
            staged_needs: Lsn(0),
            installing: VecDeque::new(),
            stored: 0,
            stored_bytes: 0,
        }
    }

    /// After an error: what was written last is not trusted to be the file's end.
    pub(crate) fn abandon_tail(&mut self, now: Nanos) {
        self.retry_at = now.saturating_add(nanos(DISK_RETRY));
        self.next_tail();
    }

    /// Begins a new snapshot segment.
    pub(crate) fn next_tail(&mut self) {
        self.tail = Tail {
            segment: self.next_segment,
            offset: 0,
        };
        self.next_segment += 1;
    }
}

impl Engine {
    /// Puts a room into the queue of those to be snapshotted, unless it is there or on its way.
    pub(crate) fn want_snapshot(&mut self, id: RoomId) {
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        if room.pin.is_some() && room.snapshotting.is_none() && !room.snapshot_queued {
            room.snapshot_queued = true;
            self.upkeep.queue.push_back(id);
        }
    }

    /// All that concerns snapshots and checkpoints.
    pub(crate) fn poll_upkeep(&mut self, now: Nanos, next: &mut Deadline) {
        self.take_installed();
        if self.commit.closing != Closing::No || self.log.poisoned() {
            return;
        }
        self.want_checkpoint(now, next);
        self.encode_some(now, next);
        if self.upkeep.busy {
            return;
        }
        if now < self.upkeep.retry_at {
            next.at(self.upkeep.retry_at);
            return;
        }
        if let Some(work) = self.next_upkeep() {
            self.upkeep.busy = true;
            self.begin(work);
        }
    }

    /// The next of the jobs that take turns.
    fn next_upkeep(&mut self) -> Option<Work> {
        let up = &mut self.upkeep;
        let full =
            up.staged_bytes >= BATCH_BYTES || up.staged.len() >= BATCH_ROOMS || up.queue.is_empty();
        // A snapshot that is durable before the records it covers could name a room that is not.
        if full && !up.staged.is_empty() && up.staged_needs <= self.log.durable_lsn() {
            up.staged_bytes = 0;
            up.staged_needs = Lsn(0);
            return Some(Work::Store {
                tail: up.tail,
                batch: std::mem::take(&mut up.staged),
            });
        }
        if let Some(low) = self.movable_low() {
            return Some(Work::Manifest(self.next_manifest(low, None)));
        }
        self.next_compaction()
    }

    /// The manifest after the one on disk.
    pub(crate) fn next_manifest(&self, low: u64, without: Option<u32>) -> Manifest {
        let before = &self.upkeep.manifest;
        Manifest {
            sequence: before.sequence + 1,
            store: before.store,
            shard: before.shard,
            low,
            snapshots: self.segments.list(without),
        }
    }

    /// Whether more log segments are kept than should be.
    fn log_too_long(&self) -> bool {
        let (low, high) = self.log.live_segments();
        high.0 - low.0 + 1 > self.config.segments_max
    }

    /// Where the log could begin, if that is worth a manifest.
    fn movable_low(&self) -> Option<u64> {
        if !self.log_too_long() {
            return None;
        }
        let (low, high) = self.log.live_segments();
        let needed = self
            .rooms
            .pins()
            .next()
            .map_or(high, |(pin, _)| self.log.segment_of(pin));
        let needed = needed
            .min(self.log.segment_of(self.log.durable_lsn()))
            .min(high);
        (needed > low).then_some(needed.0)
    }

    /// Queues the rooms that pin the oldest segment, once it has to go.
    fn want_checkpoint(&mut self, now: Nanos, next: &mut Deadline) {
        let up = &self.upkeep;
        let at_work =
            up.busy || !up.queue.is_empty() || !up.staged.is_empty() || !up.installing.is_empty();
        if at_work || now < up.retry_at || !self.log_too_long() {
            return;
        }
        let (low, _) = self.log.live_segments();
        let pinning: Vec<RoomId> = self
            .rooms
            .pins()
            .take_while(|&(pin, _)| self.log.segment_of(pin) <= low)
            .map(|(_, id)| id)
            .collect();
        for id in pinning {
            let retry_at = self.rooms.get(id).map_or(0, |room| room.snapshot_retry_at);
            if retry_at <= now {
                self.want_snapshot(id);
            } else {
                next.at(retry_at);
            }
        }
    }

    /// Encodes rooms of the queue, within the budget of one call.
    fn encode_some(&mut self, now: Nanos, next: &mut Deadline) {
        let mut budget = ENCODE_BYTES_MAX;
        while self.upkeep.staged_bytes < BATCH_BYTES && self.upkeep.staged.len() < BATCH_ROOMS {
            let Some(&id) = self.upkeep.queue.front() else {
                return;
            };
            let size = self.rooms.get(id).map_or(0, |room| match &room.doc {
                DocState::Ready(doc) => doc.memory_estimate(),
                _ => 0,
            });
            if size > budget && budget < ENCODE_BYTES_MAX {
                next.at(now);
                return;
            }
            budget = budget.saturating_sub(size);
            self.upkeep.queue.pop_front();
            self.encode(now, id);
        }
    }

    fn encode(&mut self, now: Nanos, id: RoomId) {
        let apart = self.encodes_apart(id);
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        room.snapshot_queued = false;
        // It may have been queued again while a job encoded it.
        if room.snapshotting.is_some() {
            return;
        }
        let (DocState::Ready(doc), Some(_), Some(_)) = (&mut room.doc, room.key, room.pin) else {
            return;
        };
        let state = if apart {
            let begun = self.state_apart(id);
            return begun.expect("the document was looked at");
        } else {
            (self.watched).within(id, &room.name, || doc.encode_state())
        };
        if doc.poisoned() {
            let bytes = doc.memory_estimate();
            self.quarantine(id, bytes);
        }
        self.stage(now, id, state);
    }

    /// A room's state was encoded, or could not be. It holds all that was logged of the room.
    pub(crate) fn stage(&mut self, now: Nanos, id: RoomId, state: Result<Vec<u8>, Refusal>) {
        let covers = self.log.appended_lsn();
        let room = self.rooms.get_mut(id).expect("it is being encoded");
        let (Ok(state), DocState::Ready(doc), Some(key)) = (state, &room.doc, room.key) else {
            room.snapshot_retry_at = now.saturating_add(nanos(ROOM_RETRY));
            return self.stop_evicting(now, id);
        };
        let mut state_vector = Vec::new();
        doc.state_vector(&mut state_vector);
        room.snapshotting = Some(Snapshotting {
            seq: room.seq,
            next_pin: None,
            stored: None,
        });
        let up = &mut self.upkeep;
        up.staged_bytes += state.len();
        up.staged_needs = up.staged_needs.max(room.durable_at);
        let body = Body {
            state_vector,
            state,
        };
        up.staged.push(Encoded {
            name: room.name.clone(),
            key,
            seq: room.seq,
            covers,
            body,
        });
    }

    /// A batch of snapshots was stored, or not: what is durable is announced in the log.
    pub(crate) fn on_stored(&mut self, now: Nanos, stored: Stored) {
        self.upkeep.busy = false;
        let durable = match stored.tail {
            Ok(tail) => {
                self.grow_tail(tail);
                self.upkeep.stored_bytes += stored.bytes;
                true
            }
            Err(_) => {
                self.segments.seal(self.upkeep.tail.segment);
                self.upkeep.abandon_tail(now);
                false
            }
        };
        for (name, result) in stored.rooms {
            let id = self
                .rooms
                .find(&name)
                .expect("a room stays in memory until its snapshot ended");
            let (key, seq) = {
                let room = self.rooms.get(id).expect("it was just found");
                (
                    room.key.expect("a snapshotted room is logged"),
                    room.snapshotting.as_ref().map(|s| s.seq),
                )
            };
            let announced = result.ok().filter(|_| durable).and_then(|at| {
                assert_eq!(Some(at.seq), seq, "the snapshot is the one under way");
                let payload = [at.covers.0.to_le_bytes(), at.seq.to_le_bytes()];
                let kind = RecordKind::SnapshotInstalled;
                let appended = self
                    .log
                    .append(kind, key, at.seq, &[&payload[0], &payload[1]])
                    .ok()?;
                Some((at, appended.durable_at))
            });
            let room = self.rooms.get_mut(id).expect("it was just found");
            match (announced, &mut room.snapshotting) {
                (Some((at, durable_at)), Some(snapshotting)) => {
                    snapshotting.stored = Some((at, durable_at));
                    self.segments.read_begins(at.segment);
                    self.upkeep.installing.push_back((durable_at, id.slot));
                }
                _ => {
                    room.snapshotting = None;
                    let pause = if durable { ROOM_RETRY } else { DISK_RETRY };
                    room.snapshot_retry_at = now.saturating_add(nanos(pause));
                    self.stop_evicting(now, id);
                }
            }
        }
    }

    /// Notes that the snapshot segment written to was made durable further.
    pub(crate) fn grow_tail(&mut self, tail: Tail) {
        self.segments.grown(tail.segment, tail.offset);
        self.upkeep.tail = tail;
        if tail.offset >= self.config.snapshot_segment_bytes {
            self.segments.seal(tail.segment);
            self.upkeep.next_tail();
        }
    }

    /// Lets go of the log behind snapshots whose announcement is durable.
    fn take_installed(&mut self) {
        while let Some(&(durable_at, slot)) = self.upkeep.installing.front() {
            if durable_at > self.log.durable_lsn() {
                return;
            }
            self.upkeep.installing.pop_front();
            let id = self.rooms.id_of(slot);
            let room = self
                .rooms
                .get_mut(id)
                .expect("a room stays in memory until its snapshot ended");
            let done = room.snapshotting.take().expect("its snapshot is under way");
            let (at, _) = done.stored.expect("it was stored");
            let name = room.name.clone();
            self.rooms.set_pin(id, done.next_pin);
            self.segments.read_ended(at.segment);
            self.segments.born(at);
            if let Some(before) = self.rooms.set_snapshot(&name, at) {
                self.segments.died(before);
            }
            self.upkeep.stored += 1;
            self.evict_if_wanted(id);
        }
    }

    /// The manifest was written, or not.
    pub(crate) fn on_manifest(&mut self, now: Nanos, manifest: Manifest, result: io::Result<()>) {
        self.upkeep.busy = false;
        match result {
            Ok(()) => {
                self.log.recycle_below(manifest.low());
                self.upkeep.manifest = manifest;
                self.compaction_on_manifest();
            }
            // The same slot is written again: the other one holds what was durable before.
            Err(_) => self.upkeep.retry_at = now.saturating_add(nanos(DISK_RETRY)),
        }
    }
}
