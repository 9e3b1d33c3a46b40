//! Randomness by seed, the same everywhere.

use collabblocks_wal::sim_disk::SimRng;
use std::ops::Range;

/// A stream of random decisions.
#[derive(Clone, Debug)]
pub struct Rng(SimRng);

impl Rng {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = SimRng(seed);
        // Neighbouring seeds begin far apart.
        let start = rng.next_u64();
        Self(SimRng(start))
    }

    /// A stream of its own, so that what it is used for does not shift the decisions of others.
    pub fn fork(&mut self) -> Self {
        Self::new(self.next())
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in a range, its start where the range is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.0.below(range.end.saturating_sub(range.start).max(1))
    }

    /// An index below `len`, which is not zero.
    pub fn index(&mut self, len: usize) -> usize {
        self.0.below(len as u64) as usize
    }

    /// `true` once in `n` times on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.0.below(n) == 0
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }
}
