//! What is left of a room, and the document that it makes.

use crate::guard::{Limits, Refusal};
use crate::index::SnapshotRef;
use crate::room_doc::{Applied, RoomDoc};
use crate::salvage::SalvagedRoom;
use collabblocks_wal::RoomKey;
use std::collections::BTreeMap;

/// Updates that a room's document may fail on before the rest of the room is given up.
const POISON_MAX: usize = 8;

/// All that can be read of a room.
#[derive(Default)]
pub(crate) struct Pieces {
    pub(crate) name: Option<String>,
    pub(crate) snapshots: Vec<SnapshotRef>,
    pub(crate) updates: BTreeMap<u64, Vec<u8>>,
    /// The highest number of an update that something tells of.
    pub(crate) told_of: u64,
}

/// What a room is put together in: a [`RoomDoc`], and in tests one that fails, as no update is known
/// on which a `RoomDoc` does.
pub(crate) trait Document: Default {
    /// Takes an update, or the part of it that does not build on what is not there. Whether the
    /// document fails on it is known when this returns.
    fn take(&mut self, update: &[u8], limits: &Limits) -> Result<Applied, Refusal>;

    /// Whether it failed on something, and is of no use any more.
    fn failed(&self) -> bool;
}

impl Document for RoomDoc {
    fn take(&mut self, update: &[u8], limits: &Limits) -> Result<Applied, Refusal> {
        let applied = self.apply(update, true, limits);
        self.settle().and(applied)
    }

    fn failed(&self) -> bool {
        self.poisoned()
    }
}

/// Says which updates are missing between others.
fn gap(first: u64, last: u64) -> String {
    match first == last {
        true => format!("update {first}"),
        false => format!("updates {first} to {last}"),
    }
}

impl Pieces {
    /// Makes the room of them, reading snapshots with `read`; the document unless nothing is left.
    pub(crate) fn put_together<D: Document>(
        mut self,
        key: RoomKey,
        limits: &Limits,
        read: &dyn Fn(&str, SnapshotRef) -> Result<D, String>,
    ) -> (SalvagedRoom, Option<D>) {
        let mut lost = Vec::new();
        let name = self.name.take().unwrap_or_else(|| {
            lost.push("its name".to_owned());
            format!("salvaged-{}", key.0)
        });
        self.snapshots.sort_by_key(|at| at.seq);
        let (mut doc, mut base, mut seq) = (D::default(), None, 0);
        for at in self.snapshots.iter().rev() {
            match read(&name, *at) {
                Ok(read) => {
                    (doc, base, seq) = (read, Some(*at), at.seq);
                    break;
                }
                Err(why) => lost.push(format!("its snapshot of update {}: {why}", at.seq)),
            }
        }
        // A snapshot that is not needed is no loss: the log has it all.
        if (seq + 1..=self.told_of).all(|n| self.updates.contains_key(&n)) {
            lost.retain(|what| what == "its name");
        }
        let mut missing: Option<u64> = None;
        let (mut last, mut refused, mut poison) = (seq, 0, Vec::new());
        for n in seq + 1..=self.told_of {
            let Some(update) = self.updates.get(&n) else {
                missing.get_or_insert(n);
                continue;
            };
            if let Some(first) = missing.take() {
                lost.push(gap(first, n - 1));
            }
            let taken = doc.take(update, limits);
            if !doc.failed() {
                refused += u64::from(!matches!(taken, Ok(Applied::New | Applied::Known)));
                last = if taken.is_ok() { n } else { last };
                continue;
            }
            // The document is made again without the update that it failed on.
            lost.push(format!("update {n}, on which the document fails"));
            poison.push(n);
            let again = base.map_or_else(|| Ok(D::default()), |at| read(&name, at));
            doc = again.unwrap_or_else(|why| {
                lost.push(format!("its snapshot of update {seq}, read again: {why}"));
                D::default()
            });
            let before = self.updates.range(seq + 1..n);
            for (_, update) in before.filter(|(before, _)| !poison.contains(before)) {
                let _ = doc.take(update, limits);
            }
            if doc.failed() || poison.len() == POISON_MAX {
                if n < self.told_of {
                    lost.push(gap(n + 1, self.told_of));
                }
                break;
            }
        }
        if let Some(first) = missing {
            lost.push(gap(first, self.told_of));
        }
        if refused > 0 {
            lost.push(format!(
                "{refused} updates, or parts of them, that build on what is lost"
            ));
        }
        let left = last > 0 && !doc.failed();
        if !left {
            lost.push("all of it".to_owned());
        }
        let room = SalvagedRoom {
            name,
            room_seq: if left { last } else { 0 },
            lost,
        };
        (room, left.then_some(doc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use collabblocks_wal::Lsn;
    use std::cell::RefCell;

    /// A document that fails on what a test says, and is otherwise one.
    #[derive(Default)]
    struct Brittle {
        doc: RoomDoc,
        failed: bool,
    }

    thread_local! {
        static FATAL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }

    impl Document for Brittle {
        fn take(&mut self, update: &[u8], limits: &Limits) -> Result<Applied, Refusal> {
            self.failed |= FATAL.with_borrow(|fatal| fatal.iter().any(|f| f == update));
            match self.failed {
                true => Err(Refusal::Unavailable("it failed")),
                false => self.doc.take(update, limits),
            }
        }

        fn failed(&self) -> bool {
            self.failed
        }
    }

    /// The client of this number types its n-th letter, behind the one before it.
    fn typed(client: u8, n: u8) -> Vec<u8> {
        match n {
            0 => vec![1, 1, client, 0, 4, 1, 1, b't', 1, b'a', 0],
            _ => vec![1, 1, client, n, 0x84, client, n - 1, 1, b'a' + n, 0],
        }
    }

    fn pieces(updates: &[Vec<u8>], from: u64) -> Pieces {
        Pieces {
            name: Some("room".into()),
            snapshots: Vec::new(),
            updates: (from..).zip(updates.iter().cloned()).collect(),
            told_of: from + updates.len() as u64 - 1,
        }
    }

    fn put_together(
        pieces: Pieces,
        fatal: &[Vec<u8>],
        read: &dyn Fn() -> Result<Brittle, String>,
    ) -> (SalvagedRoom, Option<Brittle>) {
        FATAL.set(fatal.to_vec());
        pieces.put_together(RoomKey(7), &Limits::own_state(), &|name, _| {
            assert_eq!(name, "room");
            read()
        })
    }

    fn clocks(doc: &Option<Brittle>) -> Vec<u8> {
        let mut vector = Vec::new();
        doc.as_ref()
            .expect("there is a document")
            .doc
            .state_vector(&mut vector);
        vector
    }

    #[test]
    fn an_update_on_which_the_document_fails_is_left_out_and_named() {
        // Two clients in turn; what the first types after the fatal one builds on it.
        let updates: Vec<_> = (0..4).flat_map(|n| [typed(1, n), typed(2, n)]).collect();
        let never = || panic!("there is no snapshot");
        let whole = put_together(pieces(&updates, 1), &[], &never);
        assert_eq!((whole.0.room_seq, whole.0.lost), (8, vec![]));
        assert_eq!(clocks(&whole.1), [2, 2, 4, 1, 4]);
        let (room, doc) = put_together(pieces(&updates, 1), &[typed(1, 2)], &never);
        assert_eq!(clocks(&doc), [2, 2, 4, 1, 2], "all but what builds on it");
        assert_eq!(room.room_seq, 8);
        assert_eq!(
            room.lost,
            [
                "update 5, on which the document fails",
                "1 updates, or parts of them, that build on what is lost"
            ]
        );
        let last = put_together(pieces(&updates, 1), &[typed(2, 3)], &never);
        assert_eq!(last.0.lost, ["update 8, on which the document fails"]);
        assert_eq!((last.0.room_seq, clocks(&last.1)), (7, vec![2, 2, 3, 1, 4]));
    }

    #[test]
    fn a_document_that_failed_is_made_again_from_the_snapshot() {
        let snapshot = || {
            let mut base = Brittle::default();
            for n in 0..2 {
                base.doc.take(&typed(1, n), &Limits::own_state()).unwrap();
            }
            base
        };
        let updates = [typed(1, 2), typed(2, 0), typed(3, 0)];
        let with_snapshot = || Pieces {
            snapshots: vec![SnapshotRef {
                key: RoomKey(7),
                seq: 2,
                covers: Lsn(0),
                segment: 0,
                len: 0,
                offset: 0,
            }],
            ..pieces(&updates, 3)
        };
        let fatal = [typed(2, 0)];
        let (room, doc) = put_together(with_snapshot(), &fatal, &|| Ok(snapshot()));
        assert_eq!(room.lost, ["update 4, on which the document fails"]);
        assert_eq!(clocks(&doc), [2, 3, 1, 1, 3]);
        // The disk gives it the first time, and then no more.
        let reads = RefCell::new(0);
        let once = || {
            *reads.borrow_mut() += 1;
            match *reads.borrow() {
                1 => Ok(snapshot()),
                _ => Err("input/output error".to_owned()),
            }
        };
        let (room, doc) = put_together(with_snapshot(), &fatal, &once);
        assert_eq!(clocks(&doc), [1, 3, 1]);
        let said = room
            .lost
            .iter()
            .any(|what| what.contains("input/output error"));
        assert!(said, "{:?}", room.lost);
    }

    #[test]
    fn a_room_with_too_many_such_updates_is_given_up_from_there_on() {
        let updates: Vec<_> = (1..=12).map(|client| typed(client, 0)).collect();
        let fatal = &updates[1..10];
        let never = || panic!("there is no snapshot");
        let (room, doc) = put_together(pieces(&updates, 1), fatal, &never);
        assert_eq!(clocks(&doc), [1, 1, 1]);
        assert_eq!(room.room_seq, 1);
        assert_eq!(room.lost.len(), POISON_MAX + 1, "{:?}", room.lost);
        assert_eq!(room.lost[POISON_MAX], "updates 10 to 12");
        let all = put_together(pieces(&updates[..3], 1), &updates, &never);
        assert!(all.1.is_none() && all.0.room_seq == 0);
        assert_eq!(all.0.lost.last().map(String::as_str), Some("all of it"));
    }
}
