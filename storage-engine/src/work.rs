//! What an update may cost the document library beside its bytes, and what it did cost.
//!
//! To place a struct, the library passes all items between its two neighbours, one by one. Whoever
//! knows the room names neighbours that stand side by side; what was inserted without knowing of each
//! other has others between them, at most all items of the document. A struct that goes on right
//! behind its client's last one passes at most what was inserted there since, so it is not counted.

use crate::config::Nanos;
use crate::guard::gate::STRUCTS_AT_ONCE;
use crate::guard::walk::{Id, Struct, Visit, walk};
use crate::guard::{Limits, Refusal};
use std::time::Duration;

/// The smallest struct that has to be placed: what it is, its neighbour, its content.
const STRUCT_BYTES_MIN: usize = 4;
/// Below so many steps the clock is not read.
const TIMED_STEPS_MIN: usize = 20_000;
/// What took less for each struct is no slow placing, but much content.
const STRUCT_NANOS_SLOW: u64 = 20_000;
/// For so many updates a job has the document after slow ones.
const APART_UPDATES: u32 = 256;
/// So many more items than were counted, at least, before they are counted anew.
const RECOUNT_ITEMS_MIN: usize = 10_000;

/// Bounds of the work on a document. A step is one item that one struct may have to pass; 60 to 80 ns
/// were measured.
#[derive(Clone, Copy, Debug)]
pub struct WorkLimits {
    /// The clock that the work is timed by. By default no time passes.
    pub clock: fn() -> Nanos,
    /// Steps above which an update is not applied on the core.
    pub core_steps_max: usize,
    /// Steps between two looks at the clock, about.
    pub part_steps_max: usize,
    /// Placing structs for so long on the core has a job do it from then on.
    pub slow_after: Duration,
    /// An update that takes longer is given up, and refused.
    pub update_time_max: Duration,
}

impl Default for WorkLimits {
    fn default() -> Self {
        Self {
            clock: || 0,
            core_steps_max: 700_000,
            part_steps_max: 100_000_000,
            slow_after: Duration::from_millis(10),
            update_time_max: Duration::from_secs(20),
        }
    }
}

/// Work on one document.
pub(crate) struct Effort {
    /// None for what was logged: it is applied however long it takes.
    limits: Option<WorkLimits>,
    /// As the limits have it, or without bound.
    core_steps_max: usize,
    /// Up to so many items no update is cut into smaller parts than usual.
    whole_items_max: usize,
    /// Up to so many steps the clock is not read.
    untimed_steps: usize,
    /// Items of the document, at most.
    items: usize,
    /// What they were when they were last counted.
    counted: usize,
    /// Updates that a job is to apply yet.
    apart: u32,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            limits: None,
            core_steps_max: usize::MAX,
            whole_items_max: usize::MAX,
            untimed_steps: usize::MAX,
            items: 0,
            counted: 0,
            apart: 0,
        }
    }
}

impl Effort {
    #[inline]
    pub(crate) fn bound(&mut self, limits: &WorkLimits) {
        if self.limits.is_none() {
            self.set_bounds(limits);
        }
    }

    #[cold]
    #[inline(never)]
    fn set_bounds(&mut self, limits: &WorkLimits) {
        self.core_steps_max = limits.core_steps_max;
        self.whole_items_max = limits.part_steps_max / STRUCTS_AT_ONCE;
        self.untimed_steps = TIMED_STEPS_MIN.min(limits.core_steps_max / 2);
        self.limits = Some(*limits);
    }

    /// Whether so many structs to be placed are more than the core takes.
    #[inline]
    pub(crate) fn is_much(&self, placed: usize) -> bool {
        self.steps(placed) > self.core_steps_max
    }

    #[inline]
    fn steps(&self, placed: usize) -> usize {
        placed.saturating_mul(self.items)
    }

    /// Whether a job is to apply the update.
    #[inline]
    pub(crate) fn is_for_job(&self, update: &[u8], limits: &Limits, work: &WorkLimits) -> bool {
        let much = |placed: usize| self.steps(placed) > work.core_steps_max;
        self.apart > 0
            || much(update.len() / STRUCT_BYTES_MIN)
                && much(Count::of(update, limits).map_or(0, |count| count.placed))
    }

    /// A job has applied an update.
    pub(crate) fn on_job(&mut self) {
        self.apart = self.apart.saturating_sub(1);
    }

    /// Structs that may be given to the library at once, if so many went before them.
    #[inline]
    pub(crate) fn structs_at_once(&self, before: usize) -> usize {
        let items = self.items + before;
        match &self.limits {
            Some(limits) if items > self.whole_items_max => (limits.part_steps_max / items).max(1),
            _ => STRUCTS_AT_ONCE,
        }
    }

    /// Begins to time the placing of so many structs, if it may take long.
    #[inline]
    pub(crate) fn begin(&self, placed: usize) -> Option<Nanos> {
        if self.steps(placed.max(1)) <= self.untimed_steps {
            return None;
        }
        self.begin_parts()
    }

    /// The placing of so many structs has ended.
    #[inline]
    pub(crate) fn end(&mut self, begun: Option<Nanos>, structs: usize) {
        if let Some(begun) = begun {
            self.end_timed(begun, structs);
        }
    }

    #[cold]
    #[inline(never)]
    fn end_timed(&mut self, begun: Nanos, structs: usize) {
        if let Some(limits) = &self.limits {
            let took = (limits.clock)().saturating_sub(begun);
            let slow = u128::from(took) >= limits.slow_after.as_nanos();
            if slow && took >= STRUCT_NANOS_SLOW.saturating_mul(structs as u64) {
                self.apart = APART_UPDATES;
            }
        }
    }

    /// Begins an update that is applied in parts.
    #[cold]
    #[inline(never)]
    pub(crate) fn begin_parts(&self) -> Option<Nanos> {
        self.limits.as_ref().map(|limits| (limits.clock)())
    }

    /// Whether an update takes so long that it is given up.
    pub(crate) fn is_too_long(&self, begun: Option<Nanos>) -> bool {
        let (Some(begun), Some(limits)) = (begun, &self.limits) else {
            return false;
        };
        let took = (limits.clock)().saturating_sub(begun);
        u128::from(took) > limits.update_time_max.as_nanos()
    }

    /// So many structs were placed, others went on behind one that was there, and so many ranges were
    /// deleted: each may have split an item.
    #[inline]
    pub(crate) fn grew(&mut self, structs: usize, placed: usize, deletes: usize) {
        self.items += structs + placed + 2 * deletes;
    }

    /// Whether the bound is so far above what was counted that counting is worth it.
    pub(crate) fn is_stale(&self) -> bool {
        self.items > 2 * self.counted + RECOUNT_ITEMS_MIN
    }

    /// The document has so many items.
    pub(crate) fn count(&mut self, items: usize) {
        (self.items, self.counted) = (items, items);
    }
}

/// Structs of an update.
#[derive(Default)]
pub(crate) struct Count {
    pub(crate) structs: usize,
    /// Those that do not go on right behind their client's last one.
    pub(crate) placed: usize,
}

impl Count {
    #[cold]
    #[inline(never)]
    pub(crate) fn of(update: &[u8], limits: &Limits) -> Result<Self, Refusal> {
        let mut count = Self::default();
        walk(update, limits, &mut count)?;
        Ok(count)
    }
}

/// Whether a struct stands elsewhere than right behind its client's last one.
#[inline]
pub(crate) fn is_placed(read: &Struct<'_>) -> bool {
    let before = Id {
        clock: read.id.clock.wrapping_sub(1),
        ..read.id
    };
    read.origin != Some(before)
}

impl<'a> Visit<'a> for Count {
    fn on_section(&mut self, _: u64) {}

    #[inline]
    fn on_struct(&mut self, read: &Struct<'a>) -> Result<(), Refusal> {
        self.structs += 1;
        self.placed += usize::from(is_placed(read));
        Ok(())
    }

    fn on_delete(&mut self, _: u64, _: u32, _: u32) -> Result<(), Refusal> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::plan::write_var;
    use crate::room_doc::RoomDoc;

    #[test]
    fn what_waits_for_the_document_is_no_more_than_the_core_takes() {
        let mut doc = RoomDoc::new();
        doc.bound_work(&WorkLimits {
            core_steps_max: 1000,
            ..WorkLimits::default()
        });
        let mut most = 0;
        for client in (1..=120).rev() {
            let update = [1, 1, client, 0, 4, 1, 1, b't', 1, b'a', 0];
            doc.apply(&update, false, &Limits::default()).unwrap();
            if client < 20 {
                most = most.max(doc.waiting());
            }
        }
        assert!(
            (1..10).contains(&most),
            "{most} of {} items",
            doc.effort().items
        );
        // What goes on behind its client's last waits as ever.
        for clock in 1..32 {
            let update = [1, 1, 1, clock, 0x84, 1, clock - 1, 1, b'b', 0];
            doc.apply(&update, false, &Limits::default()).unwrap();
            most = most.max(doc.waiting());
        }
        assert!(most < 10, "{most}");
    }

    #[test]
    fn items_are_counted_anew_when_the_bound_has_grown_too_far() {
        let mut doc = RoomDoc::new();
        doc.bound_work(&WorkLimits::default());
        // Characters that were typed in a row come as a struct each, and are one item then.
        let limits = Limits::default();
        let count = 12_000;
        let mut update = vec![1];
        write_var(&mut update, count);
        update.extend([1, 0, 4, 1, 1, b't', 1, b'a']);
        for clock in 1..count {
            update.extend([0x84, 1]);
            write_var(&mut update, clock - 1);
            update.extend([1, b'a']);
        }
        update.push(0);
        doc.apply(&update, false, &limits).unwrap();
        assert!(doc.effort().items >= 12_000);
        let next = [1, 1, 2, 0, 4, 1, 1, b't', 1, b'a', 0];
        doc.apply_all(&next, false, &limits).unwrap();
        assert!(doc.effort().items < 10, "{}", doc.effort().items);
    }
}
