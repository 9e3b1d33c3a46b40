//! The rooms of a shard: a slab of those in memory, and the names of all that are known.

use crate::config::{Nanos, RoomId};
use crate::index::SnapshotRef;
use crate::room_doc::RoomDoc;
use collabblocks_wal::{Lsn, RoomKey};
use std::collections::{BTreeSet, HashMap};

/// The state of a room in memory.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every room in memory is ready"
)]
pub(crate) enum DocState {
    /// A job reads it from disk.
    Loading,
    /// It can be used.
    Ready(RoomDoc),
    /// A job has it, for work that would take long on the core.
    Apart {
        /// Its estimated bytes.
        bytes: usize,
        /// Its encoded state vector.
        vector: Box<[u8]>,
    },
    /// The document no longer agrees with what was logged: nothing is read from it or applied to it
    /// until it has been rebuilt from disk.
    Quarantined {
        /// That is under way, or is to begin as soon as all that was logged of it is durable.
        rebuilding: bool,
    },
}

/// A snapshot of a room on its way to disk.
pub(crate) struct Snapshotting {
    /// The room's sequence number when it was encoded.
    pub(crate) seq: u64,
    /// The first record after it, which becomes the room's pin.
    pub(crate) next_pin: Option<Lsn>,
    /// The durable snapshot and when the record that says so is durable; `None` before.
    pub(crate) stored: Option<(SnapshotRef, Lsn)>,
}

/// A room in memory.
pub(crate) struct Room {
    pub(crate) name: Box<str>,
    pub(crate) doc: DocState,
    /// `None` before its first update: it is not on disk.
    pub(crate) key: Option<RoomKey>,
    pub(crate) seq: u64,
    /// When `durable_lsn` reaches this, all that the room holds is durable.
    pub(crate) durable_at: Lsn,
    /// The first record that no durable snapshot covers: the log from there on is needed.
    pub(crate) pin: Option<Lsn>,
    pub(crate) snapshotting: Option<Snapshotting>,
    /// It stands in the queue of rooms to be snapshotted.
    pub(crate) snapshot_queued: bool,
    /// Not snapshotted again before this, after a failure.
    pub(crate) snapshot_retry_at: Nanos,
    /// It goes once its snapshot is durable; the estimated bytes of its document.
    pub(crate) evicting: Option<usize>,
    pub(crate) holds: u32,
    pub(crate) idle_since: Nanos,
    /// It stands in the queue of idle rooms.
    pub(crate) idle_queued: bool,
}

impl Room {
    pub(crate) fn new(name: Box<str>, doc: DocState) -> Self {
        Self {
            name,
            doc,
            key: None,
            seq: 0,
            durable_at: Lsn(0),
            pin: None,
            snapshotting: None,
            snapshot_queued: false,
            snapshot_retry_at: 0,
            evicting: None,
            holds: 0,
            idle_since: 0,
            idle_queued: false,
        }
    }
}

/// What is known of a room by its name; small, because it is kept for every evicted room.
#[derive(Clone, Copy, Default)]
pub(crate) struct Known {
    /// Its slot, if it is in memory.
    pub(crate) slot: Option<u32>,
    /// Its newest durable snapshot.
    pub(crate) snapshot: Option<SnapshotRef>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    room: Option<Room>,
}

/// All rooms of a shard.
#[derive(Default)]
pub(crate) struct Rooms {
    slots: Vec<Slot>,
    free: Vec<u32>,
    names: HashMap<Box<str>, Known, foldhash::quality::RandomState>,
    /// The rooms whose records are needed in the log, by the oldest.
    pins: BTreeSet<(Lsn, u32)>,
    loaded: u64,
}

impl Rooms {
    /// Takes a room in. Its name must not be in memory yet.
    pub(crate) fn insert(&mut self, room: Room) -> RoomId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 rooms fit into memory")
        });
        let known = self.names.entry(room.name.clone()).or_default();
        assert!(known.slot.is_none(), "a room is in memory at most once");
        known.slot = Some(slot);
        if let Some(pin) = room.pin {
            self.pins.insert((pin, slot));
        }
        let place = &mut self.slots[slot as usize];
        place.room = Some(room);
        self.loaded += 1;
        RoomId {
            slot,
            generation: place.generation,
        }
    }

    /// Takes a room out of memory; its name stays known if it has a snapshot.
    pub(crate) fn remove(&mut self, id: RoomId) -> Option<Room> {
        let place = self
            .slots
            .get_mut(id.slot as usize)
            .filter(|s| s.generation == id.generation)?;
        let room = place.room.take()?;
        assert!(
            room.pin.is_none(),
            "a room that the log alone holds stays in memory"
        );
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.loaded -= 1;
        let known = self
            .names
            .get_mut(&room.name)
            .expect("a room in memory has a name");
        known.slot = None;
        if known.snapshot.is_none() {
            self.names.remove(&room.name);
        }
        Some(room)
    }

    /// Makes all ids of a room stale, and gives it a new one.
    pub(crate) fn renew(&mut self, id: RoomId) -> RoomId {
        let place = &mut self.slots[id.slot as usize];
        assert!(
            place.generation == id.generation && place.room.is_some(),
            "the room is in memory"
        );
        place.generation = place.generation.wrapping_add(1);
        RoomId {
            slot: id.slot,
            generation: place.generation,
        }
    }

    pub(crate) fn get(&self, id: RoomId) -> Option<&Room> {
        self.slots
            .get(id.slot as usize)
            .filter(|s| s.generation == id.generation)?
            .room
            .as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: RoomId) -> Option<&mut Room> {
        self.slots
            .get_mut(id.slot as usize)
            .filter(|s| s.generation == id.generation)?
            .room
            .as_mut()
    }

    /// The id of a slot that is in use.
    pub(crate) fn id_of(&self, slot: u32) -> RoomId {
        let place = &self.slots[slot as usize];
        assert!(place.room.is_some(), "the slot is in use");
        RoomId {
            slot,
            generation: place.generation,
        }
    }

    /// The room of this name, if it is in memory.
    pub(crate) fn find(&self, name: &str) -> Option<RoomId> {
        self.names.get(name)?.slot.map(|slot| self.id_of(slot))
    }

    /// The room's newest durable snapshot.
    pub(crate) fn snapshot(&self, name: &str) -> Option<SnapshotRef> {
        self.names.get(name)?.snapshot
    }

    /// Notes the room's newest durable snapshot; gives back the one before.
    pub(crate) fn set_snapshot(
        &mut self,
        name: &str,
        snapshot: SnapshotRef,
    ) -> Option<SnapshotRef> {
        match self.names.get_mut(name) {
            Some(known) => known.snapshot.replace(snapshot),
            None => {
                let known = Known {
                    slot: None,
                    snapshot: Some(snapshot),
                };
                self.names.insert(name.into(), known);
                None
            }
        }
    }

    /// The room's snapshot cannot be read, and is not needed.
    pub(crate) fn forget_snapshot(&mut self, name: &str) {
        if let Some(known) = self.names.get_mut(name) {
            known.snapshot = None;
        }
    }

    /// Moves a room's pin.
    pub(crate) fn set_pin(&mut self, id: RoomId, pin: Option<Lsn>) {
        let Some(room) = self.get_mut(id) else { return };
        let before = std::mem::replace(&mut room.pin, pin);
        if let Some(before) = before {
            self.pins.remove(&(before, id.slot));
        }
        if let Some(pin) = pin {
            self.pins.insert((pin, id.slot));
        }
    }

    /// Rooms that pin the log, the oldest pin first.
    pub(crate) fn pins(&self) -> impl Iterator<Item = (Lsn, RoomId)> + '_ {
        self.pins.iter().map(|&(lsn, slot)| (lsn, self.id_of(slot)))
    }

    /// Rooms in memory.
    pub(crate) fn loaded(&self) -> u64 {
        self.loaded
    }

    /// Rooms known.
    pub(crate) fn known(&self) -> u64 {
        self.names.len() as u64
    }

    /// All rooms known, in no order: only for what does not depend on one.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Known)> {
        self.names.iter().map(|(name, known)| (&**name, known))
    }
}
