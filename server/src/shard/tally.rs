//! Sums over the rooms, kept as they change: a scrape must not cost a look at each.

use super::Shard;
use super::room::Room;
use collabblocks_storage_engine::RoomId;

/// What is counted of a room, or of all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Rooms: one.
    pub rooms: u64,
    /// Sessions, those that wait for it to load included.
    pub sessions: u64,
    /// Clients present.
    pub present: u64,
    /// Sessions that are behind.
    pub behind: u64,
}

impl Counts {
    fn of(room: &Room) -> Self {
        Self {
            rooms: 1,
            sessions: room.len() as u64,
            present: room.presence.present() as u64,
            behind: room.behind as u64,
        }
    }

    /// Replaces one room's part of the sum.
    fn replace(&mut self, old: Self, new: Self) {
        let moved = |sum: u64, old: u64, new: u64| {
            (sum + new)
                .checked_sub(old)
                .expect("what is taken out of a sum was put in")
        };
        self.rooms = moved(self.rooms, old.rooms, new.rooms);
        self.sessions = moved(self.sessions, old.sessions, new.sessions);
        self.present = moved(self.present, old.present, new.present);
        self.behind = moved(self.behind, old.behind, new.behind);
    }
}

impl Shard {
    /// To be called after a room's sessions or presence changed.
    pub(super) fn tally(&mut self, id: RoomId) {
        if let Some(Some(room)) = self.rooms.get_mut(id.slot as usize) {
            let now = Counts::of(room);
            let before = std::mem::replace(&mut room.counted, now);
            self.counts.replace(before, now);
        }
    }

    /// Forgets a room.
    pub(super) fn drop_room(&mut self, id: RoomId) {
        if let Some(room) = self.rooms[id.slot as usize].take() {
            self.counts.replace(room.counted, Counts::default());
            self.apart_bytes -= room.apart.map_or(0, |apart| apart.bytes());
        }
    }
}
