//! Tables of connections, numbered as shards see them.

use crate::shard::{ConnId, Instant};
use std::collections::VecDeque;

/// Connections a core can number: 24 bits of an io_uring operation's user data.
pub(crate) const SLOTS_MAX: u32 = 1 << 24;

/// The generation comes first, next to what is looked at first of the value.
#[derive(Debug)]
#[repr(C, align(64))]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Connections of a core by slot and generation.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slots<T> {
    /// Takes a connection in, unless there is no number left for it. `make` is given its number.
    pub fn insert(&mut self, make: impl FnOnce(ConnId) -> T) -> Option<ConnId> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len())
                    .ok()
                    .filter(|slot| *slot < SLOTS_MAX)?;
                self.slots.push(Slot {
                    generation: 0,
                    value: None,
                });
                slot
            }
        };
        let place = &mut self.slots[slot as usize];
        assert!(place.value.is_none(), "a free slot holds a connection");
        place.generation = place.generation.wrapping_add(1);
        let id = ConnId {
            slot,
            generation: place.generation,
        };
        place.value = Some(make(id));
        Some(id)
    }

    /// A connection, unless it is gone.
    pub fn get(&mut self, id: ConnId) -> Option<&mut T> {
        let place = self.slots.get_mut(id.slot as usize)?;
        if place.generation == id.generation {
            place.value.as_mut()
        } else {
            None
        }
    }

    /// Reads a little of each of some connections, so that the cache misses of the looks that follow
    /// overlap.
    pub fn warm(&self, ids: impl Iterator<Item = ConnId>) {
        for id in ids {
            std::hint::black_box(self.slots.get(id.slot as usize).map(|slot| slot.generation));
        }
    }

    /// Takes a connection out; its slot may be used again.
    pub fn remove(&mut self, id: ConnId) -> T {
        let place = &mut self.slots[id.slot as usize];
        assert_eq!(
            place.generation, id.generation,
            "a connection is removed once"
        );
        let value = place.value.take().expect("a connection is removed once");
        self.free.push(id.slot);
        value
    }

    /// Takes a connection in again that was removed just before, under the same number.
    pub fn put_back(&mut self, id: ConnId, value: T) {
        assert_eq!(self.free.pop(), Some(id.slot), "nothing came between");
        let place = &mut self.slots[id.slot as usize];
        assert_eq!(place.generation, id.generation, "nothing came between");
        place.value = Some(value);
    }
}

/// Connections that are to be gone by a time, in order of it.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    list: VecDeque<(Instant, ConnId)>,
}

impl Deadlines {
    /// All are given the same span, so they stay in order.
    pub fn add(&mut self, at: Instant, conn: ConnId) {
        self.list.push_back((at, conn));
    }

    pub fn next(&self) -> Option<Instant> {
        self.list.front().map(|(at, _)| *at)
    }

    pub fn pop_due(&mut self, now: Instant) -> Option<ConnId> {
        self.list
            .pop_front_if(|(at, _)| *at <= now)
            .map(|(_, conn)| conn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_is_used_again_does_not_answer_to_its_old_number() {
        let mut slots = Slots::default();
        let first = slots.insert(|_| 'a').unwrap();
        let second = slots.insert(|_| 'b').unwrap();
        assert_eq!(slots.remove(first), 'a');
        let third = slots
            .insert(|id| if id.slot == first.slot { 'c' } else { '?' })
            .unwrap();
        assert_eq!((third.slot, slots.get(third)), (first.slot, Some(&mut 'c')));
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(second), 'b');
        slots.put_back(second, 'd');
        assert_eq!(slots.get(second), Some(&mut 'd'));
    }

    #[test]
    fn deadlines_come_in_order_and_not_early() {
        let mut deadlines = Deadlines::default();
        let of = |slot| ConnId {
            slot,
            generation: 1,
        };
        deadlines.add(Instant(5), of(1));
        deadlines.add(Instant(9), of(2));
        assert_eq!(
            (deadlines.next(), deadlines.pop_due(Instant(4))),
            (Some(Instant(5)), None)
        );
        assert_eq!(deadlines.pop_due(Instant(8)), Some(of(1)));
        assert_eq!(
            (deadlines.pop_due(Instant(8)), deadlines.pop_due(Instant(9))),
            (None, Some(of(2)))
        );
    }
}
