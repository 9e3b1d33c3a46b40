//! What a room's document held at stream offsets of the past, so that a core or a session that
//! missed what came after one of them gets a diff from there.

/// Marks kept: the nearer to now, the denser.
const MARKS_MAX: usize = 16;

/// State vectors at stream offsets, oldest first.
#[derive(Debug, Default)]
pub struct Marks(Vec<(u64, Box<[u8]>)>);

impl Marks {
    /// Whether a mark at this offset, the latest, is worth having, if new ones are so many bytes of the
    /// stream apart.
    pub fn wants(&self, offset: u64, spacing_bytes: u64) -> bool {
        self.0
            .last()
            .is_none_or(|(last, _)| offset >= last + spacing_bytes)
    }

    /// Adds a mark; it is the latest.
    pub fn add(&mut self, offset: u64, state_vector: &[u8]) {
        assert!(
            self.0.last().is_none_or(|(last, _)| *last < offset),
            "marks are added in order"
        );
        self.0.push((offset, state_vector.into()));
        if self.0.len() <= MARKS_MAX {
            return;
        }
        // The one whose loss makes diffs grow least, measured by how much they hold anyway.
        let cost = |at: usize| {
            let gap = self.0[at + 1].0 - self.0[at - 1].0;
            (u128::from(gap) << 32) / u128::from(offset - self.0[at].0 + 1)
        };
        let least = (1..self.0.len() - 1).min_by_key(|at| cost(*at));
        self.0.remove(least.expect("there are more than two marks"));
    }

    /// A state vector of the document as it was at an offset or before: the empty one if none is
    /// known.
    pub fn before(&self, offset: u64) -> &[u8] {
        let after = self.0.partition_point(|(at, _)| *at <= offset);
        match after.checked_sub(1) {
            Some(at) => &self.0[at].1,
            None => &[0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACING_BYTES: u64 = 64 << 10;

    #[test]
    fn a_mark_is_never_after_what_it_is_asked_for() {
        let mut marks = Marks::default();
        assert_eq!(marks.before(7), [0], "nothing is known");
        let mut offset = 0;
        for n in 0..5000u64 {
            offset += SPACING_BYTES + n % 7;
            assert!(marks.wants(offset, SPACING_BYTES) && marks.0.len() <= MARKS_MAX);
            marks.add(offset, &offset.to_le_bytes());
            let found = |ask| match marks.before(ask).try_into() {
                Ok(bytes) => u64::from_le_bytes(bytes),
                Err(_) => 0,
            };
            for ask in [offset, offset - 1, offset / 2, SPACING_BYTES, 1] {
                assert!(found(ask) <= ask);
            }
            // A diff holds at most four times what was missed.
            for part in 0..8 {
                let missed = offset >> part;
                let holds = offset - found(offset - missed);
                assert!(
                    holds <= 4 * (missed + SPACING_BYTES),
                    "{holds} for {missed}"
                );
            }
        }
    }
}
