//! Which writer has which batch of the log: decisions alone, no input or output.
//!
//! A batch goes to the ring. Its end there is brought about by workers of the kernel that belong to one
//! core, and which an overcommitted core can leave waiting for seconds. So a batch that takes longer
//! than [`HEDGE_AFTER_NS`] is given to a thread as well: the same bytes for the same place, which is
//! harmless to write twice, and whose durability each of the two guarantees by itself. Whichever ends
//! first is what the shard is told. The other one is then *late*, and until it ends:
//!
//! - the writer it is with takes nothing else; batches go to the other;
//! - no batch for another segment is started. The file of a segment is used again once the log has
//!   moved on, and a late write into batches of its next life would destroy them. Those are batches
//!   for another segment too, so while one is late none is written;
//! - hence there is one late write at most: for a second one both writers would have to be free.
//!
//! A large batch goes to the thread to begin with, if that is free: handing it to the ring takes the core
//! as long as the kernel takes to find its pages, and a copy for the thread as long as that again.

use crate::shard::Instant;
use collabblocks_wal::SegmentId;

/// A batch that takes longer than this is given to the thread too. Longer than healthy disks take,
/// shorter than anyone notices.
pub(super) const HEDGE_AFTER_NS: u64 = 20_000_000;

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writer {
    /// The kernel, asked through the ring.
    Ring,
    /// The log's thread.
    Thread,
}

/// What a write that ended was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// The shard waits for it.
    First,
    /// The other writer's end was told before.
    Late,
}

/// A batch under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Batch {
    number: u64,
    segment: SegmentId,
}

/// What is under way, and when a batch is to be given to the thread too.
#[derive(Debug)]
pub(super) struct Hedge {
    /// Nothing is given to the ring.
    thread_only: bool,
    ring: Option<Batch>,
    thread: Option<Batch>,
    /// The one that the shard waits for.
    current: Option<Batch>,
    hedge_at: Instant,
    started: u64,
}

impl Hedge {
    pub fn new(thread_only: bool) -> Self {
        Self {
            thread_only,
            ring: None,
            thread: None,
            current: None,
            hedge_at: Instant(0),
            started: 0,
        }
    }

    /// Who is to write a new batch; `None` if it has to wait for the end of a late write.
    pub fn start(&mut self, segment: SegmentId, large: bool, now: Instant) -> Option<Writer> {
        assert!(
            self.current.is_none(),
            "one batch of the log is under way at a time"
        );
        let late = self.late();
        if late.is_some_and(|late| late.segment != segment) {
            return None;
        }
        self.started += 1;
        let batch = Batch {
            number: self.started,
            segment,
        };
        self.current = Some(batch);
        if self.thread_only || self.ring.is_some() || (large && self.thread.is_none()) {
            assert!(self.thread.is_none(), "only one write is late at a time");
            self.thread = Some(batch);
            return Some(Writer::Thread);
        }
        self.ring = Some(batch);
        self.hedge_at = now.after(std::time::Duration::from_nanos(HEDGE_AFTER_NS));
        Some(Writer::Ring)
    }

    /// A writer is done with what it had.
    pub fn ended(&mut self, writer: Writer) -> Ended {
        let batch = match writer {
            Writer::Ring => self.ring.take(),
            Writer::Thread => self.thread.take(),
        };
        let batch = batch.expect("a write that ends was under way");
        if self.current != Some(batch) {
            return Ended::Late;
        }
        self.current = None;
        assert!(
            self.ring.is_none() || self.thread.is_none(),
            "only one write is late at a time"
        );
        Ended::First
    }

    /// When the batch under way is to be given to the thread as well, should it not have ended.
    pub fn due(&self) -> Option<Instant> {
        // With a late write the thread is taken: its end makes this due.
        let hedges = self.ring.is_some() && self.ring == self.current && self.thread.is_none();
        hedges.then_some(self.hedge_at)
    }

    /// The batch under way was given to the thread as well.
    pub fn hedged(&mut self) {
        assert!(self.due().is_some(), "a batch is hedged once");
        self.thread = self.current;
    }

    /// The thread could not be asked: it is tried again after as long.
    pub fn postpone(&mut self, now: Instant) {
        self.hedge_at = now.after(std::time::Duration::from_nanos(HEDGE_AFTER_NS));
    }

    /// The write whose batch has ended already.
    fn late(&self) -> Option<Batch> {
        let late = |of: Option<Batch>| of.filter(|_| of != self.current);
        late(self.ring).or(late(self.thread))
    }

    /// Whether a write is under way whose batch has ended already.
    pub fn is_late(&self) -> bool {
        self.late().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    const NOW: Instant = Instant(1_000);
    const LATER: Instant = Instant(1_000 + HEDGE_AFTER_NS);
    const A: SegmentId = SegmentId(7);
    const B: SegmentId = SegmentId(8);

    /// The ring is slow with a batch, which the thread then has written.
    fn late_on_ring() -> Hedge {
        let mut hedge = Hedge::new(false);
        assert_eq!(hedge.start(A, false, NOW), Some(Writer::Ring));
        assert_eq!(hedge.due(), Some(LATER));
        hedge.hedged();
        assert_eq!(hedge.due(), None, "once");
        assert!(!hedge.is_late());
        assert_eq!(hedge.ended(Writer::Thread), Ended::First);
        assert!(hedge.is_late());
        hedge
    }

    #[test]
    fn a_batch_that_ends_in_time_is_the_ring_s_alone() {
        let mut hedge = Hedge::new(false);
        for segment in [A, A, B] {
            assert_eq!(hedge.start(segment, false, NOW), Some(Writer::Ring));
            assert_eq!(hedge.ended(Writer::Ring), Ended::First);
            assert_eq!((hedge.due(), hedge.is_late()), (None, false));
        }
    }

    #[test]
    fn while_the_ring_is_late_batches_go_to_the_thread() {
        let mut hedge = late_on_ring();
        for _ in 0..3 {
            assert_eq!(hedge.start(A, false, NOW), Some(Writer::Thread));
            assert_eq!(hedge.due(), None, "there is no third writer");
            assert_eq!(hedge.ended(Writer::Thread), Ended::First);
        }
        assert_eq!(hedge.start(A, false, NOW), Some(Writer::Thread));
        assert_eq!(hedge.ended(Writer::Ring), Ended::Late);
        assert!(!hedge.is_late(), "what the thread has is under way");
        assert_eq!(hedge.ended(Writer::Thread), Ended::First);
        assert_eq!(hedge.start(A, false, NOW), Some(Writer::Ring));
    }

    #[test]
    fn while_the_thread_is_late_batches_go_to_the_ring_and_are_not_hedged() {
        let mut hedge = Hedge::new(false);
        hedge.start(A, false, NOW);
        hedge.hedged();
        assert_eq!(hedge.ended(Writer::Ring), Ended::First);
        assert!(hedge.is_late());
        assert_eq!(hedge.start(A, false, NOW), Some(Writer::Ring));
        assert_eq!(hedge.due(), None, "the thread is taken");
        assert_eq!(hedge.ended(Writer::Thread), Ended::Late);
        assert_eq!(hedge.due(), Some(LATER), "the thread is free");
    }

    #[test]
    fn another_segment_waits_for_the_late_write() {
        for late in [Writer::Ring, Writer::Thread] {
            let mut hedge = Hedge::new(false);
            hedge.start(A, false, NOW);
            hedge.hedged();
            let first = if late == Writer::Ring {
                Writer::Thread
            } else {
                Writer::Ring
            };
            hedge.ended(first);
            assert_eq!(hedge.start(B, false, NOW), None);
            assert_eq!(hedge.start(B, false, NOW), None, "nothing was begun");
            assert_eq!(hedge.ended(late), Ended::Late);
            assert_eq!(hedge.start(B, false, NOW), Some(Writer::Ring));
        }
    }

    #[test]
    fn a_thread_that_cannot_be_asked_is_asked_again() {
        let mut hedge = Hedge::new(false);
        hedge.start(A, false, NOW);
        hedge.postpone(LATER);
        assert_eq!(hedge.due(), Some(Instant(LATER.0 + HEDGE_AFTER_NS)));
    }

    #[test]
    fn a_large_batch_is_the_thread_s_if_that_is_free() {
        let mut hedge = Hedge::new(false);
        assert_eq!(hedge.start(A, true, NOW), Some(Writer::Thread));
        assert_eq!(hedge.due(), None, "the thread has it");
        assert_eq!(hedge.ended(Writer::Thread), Ended::First);
        assert_eq!(hedge.start(A, false, NOW), Some(Writer::Ring));
        hedge.hedged();
        assert_eq!(hedge.ended(Writer::Ring), Ended::First);
        assert_eq!(hedge.start(A, true, NOW), Some(Writer::Ring));
        assert_eq!(hedge.ended(Writer::Thread), Ended::Late);
        assert_eq!(hedge.ended(Writer::Ring), Ended::First);
        assert_eq!(hedge.start(B, true, NOW), Some(Writer::Thread));
    }

    #[test]
    fn with_the_thread_alone_nothing_is_hedged() {
        let mut hedge = Hedge::new(true);
        for segment in [A, B] {
            assert_eq!(hedge.start(segment, false, NOW), Some(Writer::Thread));
            assert_eq!(hedge.due(), None);
            assert_eq!(hedge.ended(Writer::Thread), Ended::First);
        }
    }

    #[test]
    fn what_nobody_writes_does_not_end_and_nothing_is_begun_twice() {
        let fails = |hedge: &mut Hedge, act: fn(&mut Hedge)| {
            assert!(catch_unwind(AssertUnwindSafe(|| act(hedge))).is_err());
        };
        fails(&mut Hedge::new(false), |hedge| {
            hedge.ended(Writer::Ring);
        });
        fails(&mut late_on_ring(), |hedge| {
            hedge.ended(Writer::Thread);
        });
        fails(&mut late_on_ring(), Hedge::hedged);
        let mut busy = Hedge::new(false);
        busy.start(A, false, NOW);
        fails(&mut busy, |hedge| {
            hedge.start(A, false, NOW);
        });
    }

    /// All that can happen, in all orders to some depth: a batch is told of exactly once, at most one
    /// write is late, and no two segments are written to at a time.
    #[test]
    fn every_order_of_ends_keeps_the_rules() {
        fn go(hedge: &Hedge, under_way: Option<SegmentId>, depth: usize, seen: &mut usize) {
            *seen += 1;
            let copy = || Hedge { ..*hedge };
            let writing = [hedge.ring, hedge.thread];
            let segments: Vec<_> = writing.iter().flatten().map(|b| b.segment).collect();
            assert!(segments.iter().all(|s| *s == segments[0]), "{hedge:?}");
            let late = writing
                .iter()
                .flatten()
                .filter(|b| Some(**b) != hedge.current);
            assert!(late.count() <= 1, "{hedge:?}");
            if depth == 0 {
                return;
            }
            for writer in [Writer::Ring, Writer::Thread] {
                let has = if writer == Writer::Ring {
                    hedge.ring
                } else {
                    hedge.thread
                };
                if has.is_some() {
                    let mut next = copy();
                    let ended = next.ended(writer);
                    assert!(ended == Ended::Late || under_way.is_some(), "{hedge:?}");
                    let left = under_way.filter(|_| ended == Ended::Late);
                    go(&next, left, depth - 1, seen);
                }
            }
            if hedge.due().is_some() {
                let mut next = copy();
                next.hedged();
                go(&next, under_way, depth - 1, seen);
            }
            if under_way.is_none() {
                for segment in [A, B] {
                    let mut next = copy();
                    if next.start(segment, false, NOW).is_some() {
                        go(&next, Some(segment), depth - 1, seen);
                    }
                }
            }
        }
        let mut seen = 0;
        go(&Hedge::new(false), None, 12, &mut seen);
        assert!(seen > 1_000, "only {seen} states");
    }
}
