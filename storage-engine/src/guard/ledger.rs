//! What a room holds, as far as the gate must know it: clocks, deletions, and where shared types
//! stand. Kept beside the document, as yrs tells none of it cheaply.

use super::walk::Id;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Sorted, disjoint, non-adjacent ranges of clocks: start to end.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u32, u32>);

impl Ranges {
    /// Adds `start..end`.
    pub(crate) fn insert(&mut self, mut start: u32, mut end: u32) {
        while let Some((&from, &to)) = self.0.range(..=end).next_back() {
            if to < start {
                break;
            }
            if from <= start && to >= end {
                return;
            }
            self.0.remove(&from);
            start = start.min(from);
            end = end.max(to);
        }
        self.0.insert(start, end);
    }

    /// Whether all of `start..end` is in it.
    pub(crate) fn contains(&self, start: u32, end: u32) -> bool {
        self.0
            .range(..=start)
            .next_back()
            .is_some_and(|(_, &to)| to >= end)
    }
}

/// Nesting of shared types: 0 for what stands in a root type.
pub(crate) type Depth = u16;

/// Where units stand: in which type, and whether as its map entries or attributes. Units whose type
/// is gone stand nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place(u32);

impl Place {
    /// Nowhere.
    pub(crate) const NONE: Place = Place(0);

    pub(crate) fn new(container: u32, keyed: bool) -> Self {
        Place((container + 1) << 1 | u32::from(keyed))
    }

    /// Whether it is in a type that is there, and not as one of its entries or attributes.
    pub(crate) fn is_in_sequence(self) -> bool {
        self != Self::NONE && self.0 & 1 == 0
    }

    /// The type, as an index into the ledger's containers.
    pub(crate) fn container(self) -> Option<u32> {
        (self.0 >> 1).checked_sub(1)
    }
}

/// A type that units stand in.
#[derive(Clone, Copy, Debug)]
struct Container {
    /// Of what stands in it.
    depth: Depth,
    /// It was deleted, and with it all that stood in it.
    dead: bool,
}

#[derive(Default, Debug)]
struct Client {
    /// The clock after the last unit.
    clock: u32,
    deleted: Ranges,
    /// Items that are shared types and not deleted, with their containers.
    types: BTreeMap<u32, u32>,
    /// Where units stand, from each clock up to the next one's; the last run apart.
    places: BTreeMap<u32, Place>,
    last_start: u32,
    last_place: Place,
}

/// See the module.
#[derive(Default, Debug)]
pub(crate) struct Ledger {
    clients: HashMap<u64, Client, foldhash::fast::RandomState>,
    containers: Vec<Container>,
    /// Containers of root types.
    roots: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    /// Sub-documents that are not deleted.
    subdocs: BTreeSet<Id>,
}

impl Ledger {
    /// The clock after a client's last unit, 0 if it has none.
    #[inline]
    pub(crate) fn clock(&self, client: u64) -> u32 {
        self.clients.get(&client).map_or(0, |known| known.clock)
    }

    pub(crate) fn client_count(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn container_count(&self) -> u32 {
        self.containers.len() as u32
    }

    /// Clients and clocks, in no order.
    pub(crate) fn clocks(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.clients
            .iter()
            .map(|(&client, known)| (client, known.clock))
    }

    #[inline]
    pub(crate) fn is_deleted(&self, client: u64, start: u32, end: u32) -> bool {
        self.clients
            .get(&client)
            .is_some_and(|known| known.deleted.contains(start, end))
    }

    /// The container of a root type, if anything ever stood in it.
    #[inline]
    pub(crate) fn root(&self, name: &str) -> Option<u32> {
        self.roots.get(name).copied()
    }

    /// The container that item `id` is; `None` if it is no living type.
    pub(crate) fn container(&self, id: Id) -> Option<u32> {
        self.clients.get(&id.client)?.types.get(&id.clock).copied()
    }

    /// The depth of what stands in a container.
    pub(crate) fn depth(&self, container: u32) -> Option<Depth> {
        self.containers
            .get(container as usize)
            .map(|container| container.depth)
    }

    /// Where unit `id` stands.
    #[inline]
    pub(crate) fn place(&self, id: Id) -> Place {
        let Some(known) = self.clients.get(&id.client) else {
            return Place::NONE;
        };
        let place = if id.clock >= known.last_start {
            known.last_place
        } else {
            known
                .places
                .range(..=id.clock)
                .next_back()
                .map_or(Place::NONE, |(_, &place)| place)
        };
        self.while_alive(place)
    }

    /// Where a client's last unit stands, or stood.
    #[inline]
    pub(crate) fn last_place(&self, client: u64) -> Place {
        self.clients
            .get(&client)
            .map_or(Place::NONE, |known| known.last_place)
    }

    /// `place`, if its container is not gone.
    #[inline]
    pub(crate) fn while_alive(&self, place: Place) -> Place {
        match place
            .container()
            .and_then(|index| self.containers.get(index as usize))
        {
            Some(container) if container.dead => Place::NONE,
            _ => place,
        }
    }

    /// Moves a client's clock up to `clock`.
    #[inline]
    pub(crate) fn advance(&mut self, client: u64, clock: u32) {
        let known = self.clients.entry(client).or_default();
        known.clock = known.clock.max(clock);
    }

    /// Notes that a client's units stand at `place` from `start` on.
    pub(crate) fn note_place(&mut self, client: u64, start: u32, place: Place) {
        let known = self.clients.entry(client).or_default();
        if known.last_place != place {
            if start > known.last_start {
                known.places.insert(known.last_start, known.last_place);
            }
            (known.last_start, known.last_place) = (start, place);
        }
    }

    /// Notes a container, and says which it is.
    pub(crate) fn note_container(&mut self, depth: Depth) -> u32 {
        self.containers.push(Container { depth, dead: false });
        self.containers.len() as u32 - 1
    }

    /// Notes a root type.
    pub(crate) fn note_root(&mut self, name: &str, container: u32) {
        self.roots.insert(name.into(), container);
    }

    /// Notes a shared type.
    pub(crate) fn note_type(&mut self, id: Id, container: u32) {
        self.clients
            .entry(id.client)
            .or_default()
            .types
            .insert(id.clock, container);
    }

    /// Notes that what stood in a container is gone.
    pub(crate) fn note_dead(&mut self, container: u32) {
        self.containers[container as usize].dead = true;
    }

    pub(crate) fn subdocs(&self) -> &BTreeSet<Id> {
        &self.subdocs
    }

    pub(crate) fn note_subdoc(&mut self, id: Id) {
        self.subdocs.insert(id);
    }

    /// Whether some of a client's units from `start` to `end` are shared types or sub-documents.
    pub(crate) fn holds_types(&self, client: u64, start: u32, end: u32) -> bool {
        let id = |clock| Id { client, clock };
        let types = |known: &Client| known.types.range(start..end).next().is_some();
        self.clients.get(&client).is_some_and(types)
            || self.subdocs.range(id(start)..id(end)).next().is_some()
    }

    /// Notes a deletion.
    pub(crate) fn note_deleted(&mut self, client: u64, start: u32, end: u32) {
        let known = self.clients.entry(client).or_default();
        known.deleted.insert(start, end);
        while let Some((&clock, &container)) = known.types.range(start..end).next() {
            known.types.remove(&clock);
            self.containers[container as usize].dead = true;
        }
        let range = Id {
            client,
            clock: start,
        }..Id { client, clock: end };
        while let Some(&id) = self.subdocs.range(range.clone()).next() {
            self.subdocs.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_what_touches_or_overlaps() {
        let mut ranges = Ranges::default();
        for (start, end) in [
            (10, 20),
            (30, 40),
            (0, 5),
            (20, 25),
            (24, 31),
            (41, 50),
            (2, 60),
        ] {
            ranges.insert(start, end);
            assert!(ranges.contains(start, end));
        }
        assert_eq!(ranges.0.into_iter().collect::<Vec<_>>(), [(0, 60)]);
    }

    #[test]
    fn ranges_keep_holes() {
        let mut ranges = Ranges::default();
        ranges.insert(10, 20);
        ranges.insert(21, 30);
        assert!(!ranges.contains(19, 22));
        assert!(!ranges.contains(9, 11));
        assert!(ranges.contains(21, 30));
        assert_eq!(ranges.0.len(), 2);
    }
}
