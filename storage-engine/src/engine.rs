//! The storage side of a shard, as a state machine.

use crate::commit::{Closing, Commit, Deadline};
use crate::config::{
    EngineConfig, EngineStats, Nanos, Notice, Outcome, Request, RoomId, RoomStatus,
};
use crate::guard::Refusal;
use crate::job::{Done, Job, JobDone, Work};
use crate::room_doc::{Applied, RoomDoc};
use crate::rooms::{DocState, Room, Rooms};
use collabblocks_wal::{Log, Lsn, RecordKind, RoomKey};
use std::time::Duration;

/// Bytes of a room's name that a snapshot can carry.
pub(crate) const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// A duration on the runtime's clock.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// All rooms of a shard. Lives on the shard's core; does no I/O while it serves.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) log: Log,
    pub(crate) rooms: Rooms,
    pub(crate) commit: Commit,
    pub(crate) document_bytes: usize,
    pub(crate) log_bytes: u64,
    /// Jobs under way.
    pub(crate) jobs: u32,
}

impl Engine {
    /// Takes a hold on a room, which is made if it is new (a new room is not logged before its first
    /// update). Each hold is let go with [`Engine::detach`].
    pub fn attach(&mut self, _now: Nanos, name: &str) -> (RoomId, RoomStatus) {
        let id = match self.rooms.find(name) {
            Some(id) => id,
            None => self
                .rooms
                .insert(Room::new(name.into(), DocState::Ready(RoomDoc::new()))),
        };
        let room = self.rooms.get_mut(id).expect("the room was found or made");
        room.holds += 1;
        let status = match room.doc {
            DocState::Ready(_) => RoomStatus::Ready,
            DocState::Loading | DocState::Quarantined(_) => RoomStatus::Loading,
        };
        (id, status)
    }

    /// Lets go of a hold. The room may be evicted later; its id stays valid until then.
    pub fn detach(&mut self, now: Nanos, room: RoomId) {
        // A room that could not be loaded is gone before its sessions are.
        let Some(room) = self.rooms.get_mut(room) else {
            return;
        };
        room.holds = room.holds.checked_sub(1).expect("a hold is let go once");
        if room.holds == 0 {
            room.idle_since = now;
        }
    }

    /// Guard, apply, append to the log. The room is `Ready`. On `Err` nothing was logged, and the
    /// document is as it was or in quarantine until it has been rebuilt without the update.
    pub fn apply(
        &mut self,
        now: Nanos,
        id: RoomId,
        update: &[u8],
        cut_gaps: bool,
    ) -> Result<Outcome, Refusal> {
        if self.commit.closing != Closing::No {
            return Err(Refusal::Unavailable("the server is shutting down"));
        }
        let room = self
            .rooms
            .get_mut(id)
            .ok_or(Refusal::Unavailable("the room is gone"))?;
        let DocState::Ready(doc) = &mut room.doc else {
            return Err(Refusal::Unavailable("the room is being read from disk"));
        };
        let before = doc.memory_estimate();
        let applied = doc.apply(update, cut_gaps, &self.config.limits)?;
        self.document_bytes = (self.document_bytes + doc.memory_estimate()).saturating_sub(before);
        let bytes = match &applied {
            Applied::New => update,
            Applied::Cut(bytes) => bytes,
            Applied::Known | Applied::CutKnown => {
                return Ok(Outcome {
                    applied,
                    durable_at: room.durable_at,
                    room_seq: room.seq,
                });
            }
        };
        let key = match room.key {
            Some(key) => key,
            None => {
                let created = self.log.append(
                    RecordKind::RoomCreated,
                    RoomKey(0),
                    0,
                    &[room.name.as_bytes()],
                );
                let created = created.map_err(|_| Refusal::Unavailable("the log is full"))?;
                let key = RoomKey(created.lsn.0);
                room.key = Some(key);
                key
            }
        };
        let appended = self
            .log
            .append(RecordKind::Update, key, room.seq + 1, &[bytes])
            .map_err(|_| Refusal::Unavailable("the log is full"))?;
        self.log_bytes += bytes.len() as u64;
        room.seq += 1;
        room.durable_at = appended.durable_at;
        let outcome = Outcome {
            durable_at: appended.durable_at,
            room_seq: room.seq,
            applied,
        };
        self.commit.pending_since.get_or_insert(now);
        Ok(outcome)
    }

    /// Appends the room's encoded state vector.
    pub fn state_vector(&self, room: RoomId, out: &mut Vec<u8>) {
        match self.rooms.get(room).map(|room| &room.doc) {
            Some(DocState::Ready(doc)) => doc.state_vector(out),
            // Nothing can be said to be known: the empty state vector.
            _ => out.push(0),
        }
    }

    /// Appends the diff for a client's state vector, update v1.
    pub fn diff(&self, room: RoomId, sv: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        match self.rooms.get(room).map(|room| &room.doc) {
            Some(DocState::Ready(doc)) => doc.diff(sv, &self.config.limits, out),
            _ => Err(Refusal::Unavailable("the room is being read from disk")),
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
        while let Some(job) = self.log.next_job() {
            self.jobs += 1;
            requests.push(Request::Job(Job {
                work: Work::Log(job),
            }));
        }
        self.poll_commit(now, requests, &mut next);
        next.0
    }

    /// A job ended.
    pub fn on_job_done(&mut self, _now: Nanos, done: JobDone, _notices: &mut Vec<Notice>) {
        self.jobs = self.jobs.checked_sub(1).expect("each job ends once");
        match done.done {
            Done::Log(done) => self.log.on_job_done(done),
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
            log_segments: high.0 - low.0 + 1,
            log_bytes: self.log_bytes,
            commits: self.commit.commits,
            ..EngineStats::default()
        }
    }
}
