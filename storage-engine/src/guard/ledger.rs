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

#[derive(Default, Debug)]
struct Client {
    /// The clock after the last unit.
    clock: u32,
    deleted: Ranges,
    /// Items that are shared types and not deleted, with the depth of what stands in them.
    types: BTreeMap<u32, Depth>,
    /// Units that stand deeper than 0: start to (end, depth).
    deep: BTreeMap<u32, (u32, Depth)>,
}

/// See the module.
#[derive(Default, Debug)]
pub(crate) struct Ledger {
    clients: HashMap<u64, Client, foldhash::fast::RandomState>,
    /// Sub-documents that are not deleted.
    subdocs: BTreeSet<Id>,
    /// Whether any shared type was ever nested: if not, nothing is looked up in `types` or `deep`.
    nested: bool,
}

impl Ledger {
    /// The clock after a client's last unit, 0 if it has none.
    #[inline]
    pub(crate) fn clock(&self, client: u64) -> u32 {
        self.clients.get(&client).map_or(0, |known| known.clock)
    }

    pub(crate) fn nested(&self) -> bool {
        self.nested
    }

    pub(crate) fn client_count(&self) -> usize {
        self.clients.len()
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

    /// The depth of what stands in the type that item `id` is; `None` if it is no living type.
    pub(crate) fn type_depth(&self, id: Id) -> Option<Depth> {
        self.clients.get(&id.client)?.types.get(&id.clock).copied()
    }

    /// The depth at which unit `id` stands.
    pub(crate) fn depth(&self, id: Id) -> Depth {
        if !self.nested {
            return 0;
        }
        let Some(known) = self.clients.get(&id.client) else {
            return 0;
        };
        match known.deep.range(..=id.clock).next_back() {
            Some((_, &(end, depth))) if id.clock < end => depth,
            _ => 0,
        }
    }

    /// Moves a client's clock up to `clock`.
    #[inline]
    pub(crate) fn advance(&mut self, client: u64, clock: u32) {
        let known = self.clients.entry(client).or_default();
        known.clock = known.clock.max(clock);
    }

    /// Notes that `start..end` of a client stands at `depth`.
    pub(crate) fn note_depth(&mut self, client: u64, start: u32, end: u32, depth: Depth) {
        if depth == 0 {
            return;
        }
        self.nested = true;
        let known = self.clients.entry(client).or_default();
        if let Some((_, (last_end, last_depth))) = known.deep.range_mut(..start).next_back()
            && *last_end == start
            && *last_depth == depth
        {
            *last_end = end;
            return;
        }
        known.deep.insert(start, (end, depth));
    }

    /// Notes a shared type.
    pub(crate) fn note_type(&mut self, id: Id, depth_inside: Depth) {
        self.nested = true;
        self.clients
            .entry(id.client)
            .or_default()
            .types
            .insert(id.clock, depth_inside);
    }

    pub(crate) fn subdocs(&self) -> &BTreeSet<Id> {
        &self.subdocs
    }

    pub(crate) fn note_subdoc(&mut self, id: Id) {
        self.subdocs.insert(id);
    }

    /// Notes a deletion.
    pub(crate) fn note_deleted(&mut self, client: u64, start: u32, end: u32) {
        let nested = self.nested;
        let known = self.clients.entry(client).or_default();
        known.deleted.insert(start, end);
        if nested && !known.types.is_empty() {
            while let Some((&clock, _)) = known.types.range(start..end).next() {
                known.types.remove(&clock);
            }
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
