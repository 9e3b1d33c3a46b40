//! Guests: the stand-ins, at a room's home, of sessions whose sockets are on other cores. To the room
//! a guest is a session like any other, but that what it is told goes out by mail.

use super::connection::{Connection, Stage};
use super::echoes::Echoes;
use super::stream::Messages;
use super::types::{ConnId, ShardId};
use std::sync::Arc;

/// Set in the slot of a guest's id: runtimes number their connections below.
const GUEST: u32 = 1 << 31;

/// Whether an id is a guest's.
pub fn is_guest(id: ConnId) -> bool {
    id.slot & GUEST != 0
}

/// A session of another core.
#[derive(Debug)]
pub struct Guest {
    /// What it would be here. Its frames of the turn are in `out`; it is never blocked.
    pub connection: Connection,
    /// Where its socket is.
    pub core: ShardId,
    /// The connection's id there.
    pub conn: ConnId,
    /// The room's stream offset when the answer it waits for was made.
    pub answer_at: u64,
    /// The answer is in `out`.
    pub answered: bool,
    /// The answer, if it is large.
    pub stream: Option<Arc<Messages>>,
    /// What it wrote and is to be told again, from a large update on.
    pub echoes: Echoes,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    guest: Option<Box<Guest>>,
}

/// All guests of a shard.
#[derive(Debug, Default)]
pub struct Guests {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Those with something to be told, or to be closed.
    pub touched: Vec<ConnId>,
}

impl Guests {
    /// Takes a guest in, whose connection is made for the id it gets.
    pub fn insert(&mut self, make: impl FnOnce(ConnId) -> Guest) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        let id = ConnId {
            slot: slot | GUEST,
            generation: place.generation,
        };
        place.guest = Some(Box::new(make(id)));
        id
    }

    /// A guest, unless it has left.
    pub fn get(&self, id: ConnId) -> Option<&Guest> {
        let place = self.slots.get((id.slot & !GUEST) as usize)?;
        let guest = place.guest.as_deref()?;
        (is_guest(id) && place.generation == id.generation).then_some(guest)
    }

    /// A guest, unless it has left.
    pub fn get_mut(&mut self, id: ConnId) -> Option<&mut Guest> {
        let place = self.slots.get_mut((id.slot & !GUEST) as usize)?;
        let guest = place.guest.as_deref_mut()?;
        (is_guest(id) && place.generation == id.generation).then_some(guest)
    }

    /// Puts a guest on the list of those to be told something.
    pub fn touch(&mut self, id: ConnId) -> Option<&mut Connection> {
        let place = self.slots.get_mut((id.slot & !GUEST) as usize)?;
        let guest = place.guest.as_deref_mut()?;
        if place.generation != id.generation {
            return None;
        }
        if !guest.connection.touched {
            guest.connection.touched = true;
            self.touched.push(id);
        }
        Some(&mut guest.connection)
    }

    /// A guest has left.
    pub fn remove(&mut self, id: ConnId) {
        if self.get(id).is_none() {
            return;
        }
        let slot = id.slot & !GUEST;
        self.slots[slot as usize].guest = None;
        self.free.push(slot);
    }

    /// All of them.
    pub fn ids(&self) -> Vec<ConnId> {
        let slots = self.slots.iter().enumerate();
        let there = slots.filter(|(_, place)| place.guest.is_some());
        let id = |(slot, place): (usize, &Slot)| ConnId {
            slot: slot as u32 | GUEST,
            generation: place.generation,
        };
        there.map(id).collect()
    }

    /// Where the author of a frame is on a core, if it is a session of that core.
    pub fn on_core(&self, author: Option<ConnId>, core: ShardId) -> Option<ConnId> {
        let guest = self.get(author?)?;
        let there = guest.core == core && matches!(guest.connection.stage, Stage::Session(_));
        there.then_some(guest.conn)
    }
}
