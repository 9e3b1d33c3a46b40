//! The storage side of a shard, as a state machine.

use crate::checkpoint::Upkeep;
use crate::commit::{Closing, Commit, Deadline};
use crate::compact::Compaction;
use crate::config::{EngineConfig, EngineStats, Nanos, Notice, Outcome, Request, RoomId};
use crate::evict::Idle;
use crate::guard::Refusal;
use crate::index::Segments;
use crate::job::{Done, Job, JobDone, Work};
use crate::paths::ShardDir;
use crate::room_doc::{Applied, RoomDoc};
use crate::rooms::{DocState, Rooms};
use crate::space::Space;
use crate::watch::{Watch, Watched};
use collabblocks_wal::{AppendError, Appended, Log, Lsn, RecordKind, RoomKey, Staged};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a room's name that a snapshot can carry.
pub(crate) const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// A duration on the runtime's clock.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// Why a room's document is not to be had.
pub(crate) const NOT_READY: Refusal = Refusal::Unavailable("the room is being read from disk");

/// Bytes of a RoomCreated record beside the name, generously.
const CREATED_BYTES: usize = 256;

/// All rooms of a shard. Lives on the shard's core; does no I/O while it serves.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) dir: Arc<ShardDir>,
    pub(crate) log: Log,
    pub(crate) rooms: Rooms,
    pub(crate) segments: Segments,
    pub(crate) commit: Commit,
    pub(crate) upkeep: Upkeep,
    pub(crate) compaction: Option<Compaction>,
    pub(crate) idle: Idle,
    pub(crate) space: Space,
    pub(crate) watched: Watched,
    /// Rooms in quarantine whose records are not all durable yet.
    pub(crate) to_rebuild: Vec<RoomId>,
    /// Rooms made from the log at start, which nobody uses yet.
    pub(crate) recovered: Vec<RoomId>,
    /// Estimated bytes of documents in memory.
    pub(crate) document_bytes: usize,
    /// Bytes of updates logged since start.
    pub(crate) log_bytes: u64,
    /// Work begun since the last call of `poll`.
    pub(crate) outbox: Vec<Work>,
    /// Jobs under way, the outbox's included.
    pub(crate) jobs: u32,
}

impl Engine {
    /// From here on `watch` is told which room's document the engine is in.
    pub fn watch(&mut self, watch: Arc<dyn Watch>) {
        self.watched = Watched::by(watch);
    }

    /// Guard, apply, append to the log. The room is `Ready`. On `Err` nothing was logged, and the
    /// document is as it was, or in quarantine until it has been rebuilt without the update.
    pub fn apply(
        &mut self,
        now: Nanos,
        id: RoomId,
        update: &[u8],
        cut_gaps: bool,
    ) -> Result<Outcome, Refusal> {
        self.may_apply(id, update.len())?;
        let room = self.rooms.get_mut(id).expect("looked at above");
        let DocState::Ready(doc) = &mut room.doc else {
            unreachable!("looked at above")
        };
        doc.bound_work(&self.config.work);
        let before = doc.memory_estimate();
        let limits = &self.config.limits;
        let work = || doc.apply(update, cut_gaps, limits);
        let applied = match self.watched.within(id, &room.name, work) {
            Ok(applied) => applied,
            Err(refusal) => {
                if doc.poisoned() {
                    self.quarantine(id, before);
                }
                return Err(refusal);
            }
        };
        let wanted = doc.take_wanted();
        let after = doc.memory_estimate();
        self.document_bytes = (self.document_bytes + after).saturating_sub(before);
        self.log_applied(now, id, update, None, applied, wanted)
    }

    /// Whether a room could take an update of so many bytes now.
    pub(crate) fn may_apply(&self, id: RoomId, bytes: usize) -> Result<(), Refusal> {
        if self.commit.closing != Closing::No {
            return Err(Refusal::Unavailable("the server is shutting down"));
        }
        let room = self
            .rooms
            .get(id)
            .ok_or(Refusal::Unavailable("the room is gone"))?;
        let DocState::Ready(_) = &room.doc else {
            return Err(NOT_READY);
        };
        if self.space.short {
            return Err(Refusal::Unavailable("the server's disk is nearly full"));
        }
        if room.name.len() > NAME_BYTES_MAX {
            let (size, limit) = (room.name.len(), NAME_BYTES_MAX);
            return Err(Refusal::TooLarge {
                what: "bytes of the room's name",
                size,
                limit,
            });
        }
        // What the log will not take must not change the document.
        match self.log.can_take(bytes + room.name.len() + CREATED_BYTES) {
            Ok(()) => Ok(()),
            Err(AppendError::TooLarge { bytes, max }) => Err(Refusal::TooLarge {
                what: "bytes of an update in the log",
                size: bytes,
                limit: max,
            }),
            Err(AppendError::Full(_) | AppendError::Poisoned) => {
                Err(Refusal::Unavailable("the server's disk is behind"))
            }
        }
    }

    /// Logs what a room's document took; `staged` is that, if it is large.
    pub(crate) fn log_applied(
        &mut self,
        now: Nanos,
        id: RoomId,
        update: &[u8],
        staged: Option<Box<Staged>>,
        applied: Applied,
        wanted: Vec<(u64, u32)>,
    ) -> Result<Outcome, Refusal> {
        let bytes = match &applied {
            Applied::New => update,
            Applied::Cut(bytes) => bytes,
            Applied::Known | Applied::CutKnown => {
                let room = self.rooms.get(id).expect("the room is in use");
                return Ok(Outcome {
                    applied,
                    wanted,
                    durable_at: room.durable_at,
                    room_seq: room.seq,
                });
            }
        };
        self.commit
            .on_appended(now, nanos(self.config.commit_delay));
        let Some(appended) = self.log_update(id, bytes, staged) else {
            let room = self.rooms.get(id).expect("the room is in use");
            let DocState::Ready(doc) = &room.doc else {
                unreachable!("it has just taken an update")
            };
            let bytes = doc.memory_estimate();
            self.quarantine(id, bytes);
            return Err(Refusal::Unavailable("the server's disk is behind"));
        };
        self.log_bytes += bytes.len() as u64;
        let room = self.rooms.get(id).expect("the room is in use");
        Ok(Outcome {
            durable_at: appended.durable_at,
            room_seq: room.seq,
            applied,
            wanted,
        })
    }

    /// Appends an update, and before a room's first one the room's making.
    fn log_update(
        &mut self,
        id: RoomId,
        update: &[u8],
        staged: Option<Box<Staged>>,
    ) -> Option<Appended> {
        let room = self.rooms.get_mut(id).expect("the room is in use");
        let mut pin = None;
        let key = match room.key {
            Some(key) => key,
            None => {
                let created = self
                    .log
                    .append(
                        RecordKind::RoomCreated,
                        RoomKey(0),
                        0,
                        &[room.name.as_bytes()],
                    )
                    .ok()?;
                let key = RoomKey(created.lsn.0);
                room.key = Some(key);
                room.durable_at = created.durable_at;
                pin = Some(created.lsn);
                key
            }
        };
        let seq = room.seq + 1;
        let appended = match staged {
            None => self.log.append(RecordKind::Update, key, seq, &[update]),
            Some(staged) => self.log.append_staged(key, seq, *staged),
        };
        let appended = appended.ok();
        if let Some(appended) = appended {
            room.seq += 1;
            room.durable_at = appended.durable_at;
            pin = pin.or(Some(appended.lsn));
            if let Some(snapshotting) = &mut room.snapshotting {
                snapshotting.next_pin.get_or_insert(appended.lsn);
            }
        }
        if room.pin.is_none() && pin.is_some() {
            self.rooms.set_pin(id, pin);
        }
        appended
    }

    /// Appends the room's encoded state vector.
    pub fn state_vector(&self, room: RoomId, out: &mut Vec<u8>) {
        match self.rooms.get(room).map(|room| (&room.name, &room.doc)) {
            Some((name, DocState::Ready(doc))) => {
                (self.watched).within(room, name, || doc.state_vector(out))
            }
            // Of what it is to take nothing was told to anybody.
            Some((_, DocState::Apart { vector, .. })) => out.extend_from_slice(vector),
            // Nothing can be said to be known: the empty state vector.
            _ => out.push(0),
        }
    }

    /// The diff for a client's state vector, update v1.
    pub fn diff(&mut self, id: RoomId, sv: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Some(room) = self.rooms.get_mut(id) else {
            return Err(NOT_READY);
        };
        let DocState::Ready(doc) = &mut room.doc else {
            return Err(NOT_READY);
        };
        let work = || doc.diff(sv, &self.config.limits);
        let diff = self.watched.within(id, &room.name, work);
        if doc.poisoned() {
            let bytes = doc.memory_estimate();
            self.quarantine(id, bytes);
        }
        diff
    }

    /// Appends a client's state vector as far as the room has it, in the one way to write it. Clients
    /// of which this is the same lack the same.
    pub fn clamp(&self, room: RoomId, sv: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        self.ready(room)?.1.clamp(sv, &self.config.limits, out)
    }

    /// Bytes of the room's encoded state, at most.
    pub fn state_bytes_max(&self, room: RoomId) -> usize {
        self.ready(room).map_or(0, |(_, doc)| doc.state_bytes_max())
    }

    /// Whether a client's unit is in the room.
    pub fn has(&self, room: RoomId, client: u64, clock: u32) -> bool {
        self.ready(room)
            .is_ok_and(|(_, doc)| doc.has(client, clock))
    }

    pub(crate) fn ready(&self, room: RoomId) -> Result<(&str, &RoomDoc), Refusal> {
        match self.rooms.get(room).map(|room| (&room.name, &room.doc)) {
            Some((name, DocState::Ready(doc))) => Ok((name, doc)),
            _ => Err(NOT_READY),
        }
    }

    /// When `durable_lsn` reaches this, all that the room holds is durable.
    pub fn room_durable_at(&self, room: RoomId) -> Lsn {
        self.rooms.get(room).map_or(Lsn(0), |room| room.durable_at)
    }

    /// The sequence number of the room's last record.
    pub fn room_seq(&self, room: RoomId) -> u64 {
        self.rooms.get(room).map_or(0, |room| room.seq)
    }

    /// All below is on disk.
    pub fn durable_lsn(&self) -> Lsn {
        self.log.durable_lsn()
    }

    /// Called at the end of every turn and when the returned time has come: pushes what is to be
    /// done now, and returns when it wants to be called next.
    pub fn poll(&mut self, now: Nanos, requests: &mut Vec<Request>) -> Option<Nanos> {
        let mut next = Deadline::default();
        for id in std::mem::take(&mut self.recovered) {
            self.note_idle(now, id);
        }
        if let Some(job) = self.log.next_job() {
            self.begin(Work::Log(job));
        }
        self.poll_evict(now, &mut next);
        self.poll_upkeep(now, &mut next);
        self.poll_rebuild();
        self.poll_space(now, &mut next);
        // Last, so that what the others logged leaves with this write.
        self.poll_commit(now, requests, &mut next);
        requests.extend(self.take_jobs().map(Request::Job));
        next.0
    }

    /// The jobs begun since they were asked for last, by [`Engine::poll`] too.
    pub fn take_jobs(&mut self) -> impl Iterator<Item = Job> {
        let dir = &self.dir;
        self.outbox.drain(..).map(|work| Job {
            dir: dir.clone(),
            work,
        })
    }

    /// Hands out a job with the next call of `poll` or `take_jobs`.
    pub(crate) fn begin(&mut self, work: Work) {
        self.jobs += 1;
        self.outbox.push(work);
    }

    /// A job ended.
    pub fn on_job_done(&mut self, now: Nanos, done: JobDone, notices: &mut Vec<Notice>) {
        self.jobs = self.jobs.checked_sub(1).expect("each job ends once");
        match done.done {
            Done::Log(done) => self.log.on_job_done(done),
            Done::Load { room, segment, doc } => {
                self.on_loaded(now, room, Some(segment), doc, notices)
            }
            Done::Rebuild { room, segment, doc } => {
                self.on_loaded(now, room, segment, doc, notices)
            }
            Done::Store(stored) => self.on_stored(now, stored),
            Done::Manifest(manifest, result) => self.on_manifest(now, manifest, result),
            Done::List(segment, found) => self.on_listed(segment, found),
            Done::Copy(copied) => self.on_copied(now, copied),
            Done::Remove(removed) => self.on_removed(removed),
            Done::FreeBytes(free) => self.on_free_bytes(now, free),
            Done::Apart(done) => self.on_apart(now, done, notices),
        }
    }

    /// Whether no job is under way.
    pub(crate) fn at_rest(&self) -> bool {
        self.jobs == 0
    }

    /// Figures for metrics.
    pub fn stats(&self) -> EngineStats {
        let (low, high) = self.log.live_segments();
        EngineStats {
            rooms_loaded: self.rooms.loaded(),
            rooms_known: self.rooms.known(),
            document_bytes: self.document_bytes as u64,
            snapshots_stored: self.upkeep.stored,
            snapshot_bytes: self.upkeep.stored_bytes,
            rooms_evicted: self.idle.evicted,
            log_segments: high.0 - low.0 + 1,
            log_bytes: self.log_bytes,
            commits: self.commit.commits,
        }
    }
}
