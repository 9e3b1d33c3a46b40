//! Rooms that nobody uses leave memory; on demand they are read again.

use crate::commit::{Closing, Deadline};
use crate::config::{Nanos, Notice, RoomId, RoomStatus};
use crate::engine::{Engine, nanos};
use crate::job::Work;
use crate::room_doc::RoomDoc;
use crate::rooms::{DocState, Room};
use std::collections::VecDeque;

/// Rooms looked at in one call of `poll`.
const EVICTIONS_MAX: usize = 256;

/// The rooms without holds.
#[derive(Default)]
pub(crate) struct Idle {
    /// Rooms that had no holds when they were put here, in about the order of when they lost them.
    queue: VecDeque<RoomId>,
    /// Estimated bytes of the documents that are to go once their snapshots are durable.
    leaving_bytes: usize,
    /// Rooms evicted since start.
    pub(crate) evicted: u64,
}

impl Engine {
    /// Takes a hold on a room, which is made if it is new (a new room is not logged before its first
    /// update). Each hold is let go with [`Engine::detach`].
    pub fn attach(&mut self, _now: Nanos, name: &str) -> (RoomId, RoomStatus) {
        let id = match self.rooms.find(name) {
            Some(id) => id,
            None => self.bring_in(name),
        };
        self.keep(id);
        let room = self.rooms.get_mut(id).expect("the room was found or made");
        room.holds += 1;
        let status = match room.doc {
            DocState::Ready(_) => RoomStatus::Ready,
            DocState::Loading | DocState::Apart { .. } => RoomStatus::Loading,
            DocState::Quarantined { .. } => {
                self.want_rebuild(id);
                RoomStatus::Loading
            }
        };
        (id, status)
    }

    /// Makes a new room, or begins to load one that is on disk.
    fn bring_in(&mut self, name: &str) -> RoomId {
        let Some(at) = self.rooms.snapshot(name) else {
            let doc = RoomDoc::new();
            self.document_bytes += doc.memory_estimate();
            return self
                .rooms
                .insert(Room::new(name.into(), DocState::Ready(doc)));
        };
        let mut room = Room::new(name.into(), DocState::Loading);
        room.key = Some(at.key);
        room.seq = at.seq;
        let room = self.rooms.insert(room);
        self.load(room, name.into());
        room
    }

    /// Has a room read from its snapshot, which covers all of it.
    pub(crate) fn load(&mut self, room: RoomId, name: Box<str>) {
        let at = self
            .rooms
            .snapshot(&name)
            .expect("a room that is loaded has a snapshot");
        self.segments.read_begins(at.segment);
        self.begin(Work::Load { room, name, at });
    }

    /// A room was read, or could not be.
    pub(crate) fn on_loaded(
        &mut self,
        now: Nanos,
        id: RoomId,
        segment: Option<u32>,
        doc: Result<Box<RoomDoc>, String>,
        notices: &mut Vec<Notice>,
    ) {
        if let Some(segment) = segment {
            self.segments.read_ended(segment);
        }
        let room = self
            .rooms
            .get_mut(id)
            .expect("a room that loads stays in memory");
        match doc {
            Ok(doc) => {
                self.document_bytes += doc.memory_estimate();
                room.doc = DocState::Ready(*doc);
                notices.push(Notice::RoomReady(id));
                if room.holds == 0 {
                    self.note_idle(now, id);
                }
            }
            Err(why) => {
                notices.push(Notice::RoomFailed(id, why));
                // Its holds are gone with it. What the log alone holds of it stays pinned there.
                if room.pin.is_some() {
                    room.holds = 0;
                    // The queues know it by the id that goes.
                    room.snapshot_queued = false;
                    room.idle_queued = false;
                    room.doc = DocState::Quarantined { rebuilding: false };
                    self.rooms.renew(id);
                } else {
                    self.rooms.remove(id);
                }
            }
        }
    }

    /// Lets go of a hold. The room may be evicted later; its id stays valid until then.
    pub fn detach(&mut self, now: Nanos, id: RoomId) {
        // A room that could not be loaded is gone before its sessions are.
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        room.holds = room.holds.checked_sub(1).expect("a hold is let go once");
        if room.holds == 0 {
            self.note_idle(now, id);
        }
    }

    /// A room has no holds from now on.
    pub(crate) fn note_idle(&mut self, now: Nanos, id: RoomId) {
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        room.idle_since = now;
        if !room.idle_queued {
            room.idle_queued = true;
            self.idle.queue.push_back(id);
        }
    }

    /// Evicts rooms that have been idle for long, or any idle ones while memory is over its budget.
    pub(crate) fn poll_evict(&mut self, now: Nanos, next: &mut Deadline) {
        if self.commit.closing != Closing::No || self.log.poisoned() {
            return;
        }
        let mut evicted = false;
        for _ in 0..EVICTIONS_MAX.min(self.idle.queue.len()) {
            let Some(&id) = self.idle.queue.front() else {
                return;
            };
            let Some(room) = self.rooms.get_mut(id) else {
                self.idle.queue.pop_front();
                continue;
            };
            let evict_at = room
                .idle_since
                .saturating_add(nanos(self.config.evict_after));
            let staying = self.document_bytes.saturating_sub(self.idle.leaving_bytes);
            let crowded = staying > self.config.memory_bytes_max;
            if room.holds == 0 && now < evict_at && !crowded {
                next.at(evict_at);
                return;
            }
            self.idle.queue.pop_front();
            if room.holds == 0 && room.pin.is_some() && now < room.snapshot_retry_at {
                // It could not be snapshotted: others first.
                next.at(room.snapshot_retry_at);
                self.idle.queue.push_back(id);
                continue;
            }
            room.idle_queued = false;
            if room.holds == 0 {
                self.evict(id);
                evicted = true;
            }
        }
        if evicted {
            next.at(now);
        }
    }

    /// Drops a room from memory, after a snapshot if it needs one.
    fn evict(&mut self, id: RoomId) {
        let room = self.rooms.get_mut(id).expect("an idle room is in memory");
        let DocState::Ready(doc) = &room.doc else {
            return;
        };
        if room.pin.is_some() {
            if room.evicting.is_none() {
                let bytes = doc.memory_estimate();
                room.evicting = Some(bytes);
                self.idle.leaving_bytes += bytes;
            }
            self.want_snapshot(id);
            return;
        }
        self.document_bytes = self.document_bytes.saturating_sub(doc.memory_estimate());
        self.rooms.remove(id);
        self.idle.evicted += 1;
    }

    /// The room is wanted: it does not go once its snapshot is durable.
    fn keep(&mut self, id: RoomId) {
        if let Some(bytes) = self.rooms.get_mut(id).and_then(|room| room.evicting.take()) {
            self.idle.leaving_bytes -= bytes;
        }
    }

    /// A snapshot became durable: the room may have waited for it.
    pub(crate) fn evict_if_wanted(&mut self, id: RoomId) {
        let waits = self
            .rooms
            .get(id)
            .is_some_and(|room| room.evicting.is_some() && room.pin.is_none());
        if waits {
            self.keep(id);
            self.evict(id);
        }
    }

    /// A room that was to be evicted could not be snapshotted: it counts as idle from now on.
    pub(crate) fn stop_evicting(&mut self, now: Nanos, id: RoomId) {
        let waits = self
            .rooms
            .get(id)
            .is_some_and(|room| room.evicting.is_some());
        if waits {
            self.keep(id);
            self.note_idle(now, id);
        }
    }
}
