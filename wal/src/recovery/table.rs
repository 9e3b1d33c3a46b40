//! What recovery decides at a position of the log: every combination of findings, as a table.

/// What stands at the position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Block {
    /// Zero bytes, or the segment's end.
    Zero,
    /// No intact batch header.
    Unreadable,
    /// An intact batch header.
    Header,
    /// An intact batch header of an unknown version.
    NewerHeader,
}

/// The findings. Where `block` has no header, `own_salt`, `in_place`, `chained` and `payload` are
/// without meaning and the table does not look at them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Facts {
    pub(crate) block: Block,
    /// Its salt is the segment's: it was written since the file got its present number.
    pub(crate) own_salt: bool,
    /// It says that it belongs at this position.
    pub(crate) in_place: bool,
    /// It names the checksum of the batch before it.
    pub(crate) chained: bool,
    /// Its bounds, checksum and padding are right.
    pub(crate) payload: bool,
    /// The next segment's first batch follows the batch before this position directly.
    pub(crate) continued: bool,
    /// Something later was written after bytes at this position had become durable.
    pub(crate) vouched: bool,
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Replay the batch and go on after it.
    Replay,
    /// The log goes on in the next segment.
    NextSegment,
    /// The log ends here; nothing is to be repaired.
    End,
    /// The log ends here in a write that was cut short: zero what is left of it.
    Torn,
    /// Acknowledged data is damaged: refuse.
    Damaged,
    /// A write went to the wrong place: refuse.
    Misdirected,
    /// Written by newer software: refuse.
    Newer,
}

/// A row: `None` fits anything.
struct Row {
    block: Option<Block>,
    own_salt: Option<bool>,
    in_place: Option<bool>,
    chained: Option<bool>,
    payload: Option<bool>,
    continued: Option<bool>,
    vouched: Option<bool>,
    verdict: Verdict,
}

const ANY: Row = Row {
    block: None,
    own_salt: None,
    in_place: None,
    chained: None,
    payload: None,
    continued: None,
    vouched: None,
    verdict: Verdict::Damaged,
};

const OWN: Row = Row {
    block: Some(Block::Header),
    own_salt: Some(true),
    ..ANY
};

/// The first row that fits decides.
const TABLE: [Row; 11] = [
    Row {
        block: Some(Block::NewerHeader),
        own_salt: Some(true),
        verdict: Verdict::Newer,
        ..ANY
    },
    Row {
        in_place: Some(true),
        chained: Some(true),
        payload: Some(true),
        verdict: Verdict::Replay,
        ..OWN
    },
    // What stands behind the last batch of a full segment is no part of the log.
    Row {
        continued: Some(true),
        verdict: Verdict::NextSegment,
        ..ANY
    },
    // The salt is judged before the place: a leftover's place never fits.
    Row {
        in_place: Some(false),
        verdict: Verdict::Misdirected,
        ..OWN
    },
    // The batch before it is intact but not the one that it was written after.
    Row {
        chained: Some(false),
        verdict: Verdict::Damaged,
        ..OWN
    },
    Row {
        vouched: Some(true),
        verdict: Verdict::Damaged,
        ..ANY
    },
    Row {
        block: Some(Block::Zero),
        verdict: Verdict::End,
        ..ANY
    },
    // Leftovers of an earlier use of the file.
    Row {
        block: Some(Block::Header),
        own_salt: Some(false),
        verdict: Verdict::End,
        ..ANY
    },
    Row {
        block: Some(Block::NewerHeader),
        own_salt: Some(false),
        verdict: Verdict::End,
        ..ANY
    },
    Row {
        block: Some(Block::Unreadable),
        verdict: Verdict::Torn,
        ..ANY
    },
    Row {
        payload: Some(false),
        verdict: Verdict::Torn,
        ..OWN
    },
];

impl Row {
    fn fits(&self, facts: &Facts) -> bool {
        fn fits<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        fits(self.block, facts.block)
            && fits(self.own_salt, facts.own_salt)
            && fits(self.in_place, facts.in_place)
            && fits(self.chained, facts.chained)
            && fits(self.payload, facts.payload)
            && fits(self.continued, facts.continued)
            && fits(self.vouched, facts.vouched)
    }
}

fn row(facts: &Facts) -> usize {
    TABLE
        .iter()
        .position(|row| row.fits(facts))
        .expect("the table covers every combination, which a test holds")
}

/// Decides.
pub(crate) fn decide(facts: &Facts) -> Verdict {
    TABLE[row(facts)].verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_combination() -> Vec<Facts> {
        let mut all = Vec::new();
        for block in [
            Block::Zero,
            Block::Unreadable,
            Block::Header,
            Block::NewerHeader,
        ] {
            for bits in 0..64u32 {
                let bit = |n: u32| bits & (1 << n) != 0;
                all.push(Facts {
                    block,
                    own_salt: bit(0),
                    in_place: bit(1),
                    chained: bit(2),
                    payload: bit(3),
                    continued: bit(4),
                    vouched: bit(5),
                });
            }
        }
        all
    }

    /// The rules once more, as the format document words them.
    fn expected(f: &Facts) -> Verdict {
        let readable = f.block == Block::Header;
        if f.block == Block::NewerHeader && f.own_salt {
            return Verdict::Newer;
        }
        if readable && f.own_salt && f.in_place && f.chained && f.payload {
            return Verdict::Replay;
        }
        if f.continued {
            return Verdict::NextSegment;
        }
        if readable && f.own_salt {
            return match (f.in_place, f.chained, f.vouched) {
                (false, _, _) => Verdict::Misdirected,
                (true, false, _) | (true, true, true) => Verdict::Damaged,
                (true, true, false) => Verdict::Torn,
            };
        }
        match (f.vouched, f.block) {
            (true, _) => Verdict::Damaged,
            (false, Block::Unreadable) => Verdict::Torn,
            (false, Block::Zero | Block::Header | Block::NewerHeader) => Verdict::End,
        }
    }

    #[test]
    fn every_combination_has_the_verdict_of_the_rules() {
        for facts in every_combination() {
            assert_eq!(decide(&facts), expected(&facts), "{facts:?}");
        }
    }

    #[test]
    fn every_row_decides_something() {
        for index in 0..TABLE.len() {
            assert!(
                every_combination().iter().any(|f| row(f) == index),
                "row {index}"
            );
        }
    }

    #[test]
    fn what_is_vouched_for_is_never_cut_off() {
        for facts in every_combination()
            .iter()
            .filter(|f| f.vouched && !f.continued)
        {
            assert!(
                !matches!(decide(facts), Verdict::End | Verdict::Torn),
                "{facts:?}"
            );
        }
    }
}
