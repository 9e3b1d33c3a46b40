//! Updates that a room's document has accepted and does not yet hold.
//!
//! What a plain update does is known without the document, and nobody needs the document until a
//! client, a snapshot or an update that is not plain asks for it. Given to it together, updates cost
//! a fraction of what they cost one by one, each with the caches cold.

use crate::guard::plan::{write_deletes, write_var};
use crate::guard::read::Reader;
use crate::guard::walk::{Content, Id, Kind, Parent, Struct, Visit, walk};
use crate::guard::{Limits, Refusal};
use std::cmp::Reverse;

/// Updates given to the document at once.
const UPDATES_MAX: usize = 32;
/// Bytes that a room's deferred updates hold at most.
const BYTES_MAX: usize = 4 << 10;

/// Updates that wait, in order.
#[derive(Default)]
pub(crate) struct Deferred {
    bytes: Vec<u8>,
    ends: Vec<u16>,
    /// Their number at which they are due.
    due_at: usize,
    /// Their structs that do not go on right behind their client's last one.
    placed: usize,
}

impl Deferred {
    /// Whether there is no room for an update of so many bytes beside those that wait.
    pub(crate) fn is_full(&self, bytes: usize) -> bool {
        let full = self.due_at > 0 && self.ends.len() >= self.due_at;
        full || self.bytes.len() + bytes > BYTES_MAX
    }

    /// Whether an update of so many bytes is small enough to wait.
    pub(crate) fn takes(bytes: usize) -> bool {
        bytes <= BYTES_MAX / 4
    }

    /// Adds an update. There is room for it.
    pub(crate) fn push(&mut self, update: &[u8], placed: usize) {
        if self.due_at == 0 {
            // Rooms that begin together shall not all be due in the same turn.
            self.due_at = 1 + crc32fast::hash(update) as usize % UPDATES_MAX;
        }
        self.bytes.extend_from_slice(update);
        self.ends.push(self.bytes.len() as u16);
        self.placed += placed;
    }

    pub(crate) fn placed(&self) -> usize {
        self.placed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Takes them all, with the memory they are in.
    pub(crate) fn take(&mut self) -> Self {
        let due_at = UPDATES_MAX;
        std::mem::replace(
            self,
            Self {
                due_at,
                ..Self::default()
            },
        )
    }

    /// All of them as one update, in which what a client typed in a row is one struct, and in how many
    /// places it deletes; nothing if it is not that simple.
    pub(crate) fn joined(&self) -> Option<(Vec<u8>, usize)> {
        let mut join = Join::default();
        for update in self.updates() {
            join.update = update;
            walk(update, &Limits::own_state(), &mut join).ok()?;
        }
        let cuts = join.cuts;
        Some((join.encode()?, cuts))
    }

    /// The updates, in order.
    pub(crate) fn updates(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.bytes[usize::from(start)..usize::from(end)])
    }
}

/// Text of one client, with what was to the right of all of it.
struct Run<'a> {
    id: Id,
    clock_end: u32,
    right: Option<Id>,
    /// The first struct up to its content.
    head: &'a [u8],
    text: Vec<&'a str>,
}

/// Joins updates. As a document is the same whatever the order of its updates is, so it is if text
/// comes together with what was typed on to it later.
#[derive(Default)]
struct Join<'a> {
    update: &'a [u8],
    /// In the order of their clocks for each client.
    runs: Vec<Run<'a>>,
    deletes: Vec<(u64, u32, u32)>,
    /// Deletions that do not go on where the one before was.
    cuts: usize,
    /// Something begins before the end of what is there.
    overlaps: bool,
}

impl<'a> Visit<'a> for Join<'a> {
    fn on_section(&mut self, _: u64) {}

    fn on_struct(&mut self, read: &Struct<'a>) -> Result<(), Refusal> {
        self.overlaps |= read.kind != Kind::Item(Content::String);
        if self.overlaps {
            return Ok(());
        }
        let mut content = Reader::new(&self.update[read.content_at..read.end]);
        let text = content.string()?;
        let id = read.id;
        let mut runs = self.runs.iter_mut().rev();
        if let Some(run) = runs.find(|run| run.id.client == id.client) {
            let before = Id {
                clock: id.clock.wrapping_sub(1),
                ..id
            };
            self.overlaps |= run.clock_end != id.clock;
            if read.origin == Some(before)
                && read.right_origin == run.right
                && read.parent == Parent::Inherited
            {
                run.clock_end = read.clock_end();
                run.text.push(text);
                return Ok(());
            }
        }
        self.runs.push(Run {
            id,
            clock_end: read.clock_end(),
            right: read.right_origin,
            head: &self.update[read.at..read.content_at],
            text: vec![text],
        });
        Ok(())
    }

    fn on_delete(&mut self, client: u64, clock: u32, clock_end: u32) -> Result<(), Refusal> {
        let goes_on =
            |last: &(u64, u32, u32)| last.0 == client && (last.1 == clock_end || last.2 == clock);
        self.cuts += usize::from(!self.deletes.last().is_some_and(goes_on));
        self.deletes.push((client, clock, clock_end));
        Ok(())
    }
}

impl Join<'_> {
    fn encode(mut self) -> Option<Vec<u8>> {
        if self.overlaps {
            return None;
        }
        self.runs
            .sort_by_key(|run| (Reverse(run.id.client), run.id.clock));
        self.deletes.sort_by_key(|&(client, ..)| Reverse(client));
        let sections = || {
            self.runs
                .chunk_by(|one, next| one.id.client == next.id.client)
        };
        let mut out = Vec::new();
        write_var(&mut out, sections().count() as u64);
        for runs in sections() {
            write_var(&mut out, runs.len() as u64);
            write_var(&mut out, runs[0].id.client);
            write_var(&mut out, u64::from(runs[0].id.clock));
            for run in runs {
                out.extend_from_slice(run.head);
                write_var(
                    &mut out,
                    run.text.iter().map(|text| text.len() as u64).sum(),
                );
                for text in &run.text {
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
        write_deletes(&mut out, &self.deletes);
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(updates: &[&[u8]]) -> Option<Vec<u8>> {
        let mut deferred = Deferred::default();
        for update in updates {
            deferred.push(update, 1);
        }
        Some(deferred.joined()?.0)
    }

    const A: &[u8] = &[1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0];
    const B: &[u8] = &[1, 1, 1, 1, 0x84, 1, 0, 1, b'b', 0];

    #[test]
    fn what_was_typed_in_a_row_is_one_struct() {
        let c: &[u8] = &[1, 1, 1, 2, 0x84, 1, 1, 1, b'c', 1, 1, 1, 0, 1];
        let whole = [
            1, 1, 1, 0, 4, 1, 1, b't', 3, b'a', b'b', b'c', 1, 1, 1, 0, 1,
        ];
        assert_eq!(joined(&[A, B, c]), Some(whole.to_vec()));
    }

    #[test]
    fn what_was_typed_elsewhere_is_another_struct() {
        // Client 1 types on to what client 2 wrote, and in front of its own text.
        let two: &[u8] = &[1, 1, 2, 0, 0x84, 1, 0, 1, b'x', 0];
        let behind: &[u8] = &[1, 1, 1, 1, 0x84, 2, 0, 1, b'b', 0];
        let front: &[u8] = &[1, 1, 1, 2, 0x44, 1, 0, 1, b'c', 0];
        let whole = [
            2, 1, 2, 0, 0x84, 1, 0, 1, b'x', 3, 1, 0, 4, 1, 1, b't', 1, b'a', 0x84, 2, 0, 1, b'b',
            0x44, 1, 0, 1, b'c', 0,
        ];
        assert_eq!(joined(&[A, two, behind, front]), Some(whole.to_vec()));
    }

    #[test]
    fn what_overlaps_is_not_joined() {
        let again: &[u8] = &[1, 1, 1, 0, 4, 1, 1, b't', 2, b'a', b'b', 0];
        assert_eq!(joined(&[A, again]), None);
    }

    #[test]
    fn rooms_are_due_at_different_times() {
        let due = |client: u8| {
            let mut deferred = Deferred::default();
            let update = [1, 1, client, 0, 4, 1, 1, b't', 1, b'a', 0];
            (1..).find(|_| {
                deferred.push(&update, 1);
                deferred.is_full(0)
            })
        };
        let all: std::collections::BTreeSet<_> = (0..100).map(due).collect();
        assert!(all.len() > UPDATES_MAX / 2 && all.iter().all(|due| *due <= Some(UPDATES_MAX)));
    }
}
