//! A room whose updates wait to be given to the document together ends as one that gives it each.

use collabblocks_storage_engine::{Applied, Limits, RoomDoc};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use yrs::updates::decoder::Decode;
use yrs::{Array, Doc, GetString, Map, ReadTxn, StateVector, Text, Transact, Update};

/// What a state says.
fn content(state: &[u8]) -> String {
    let doc = Doc::with_client_id(99);
    let (text, map) = (doc.get_or_insert_text("t"), doc.get_or_insert_map("m"));
    let list = doc.get_or_insert_array("l");
    doc.transact_mut()
        .apply_update(Update::decode_v1(state).unwrap())
        .unwrap();
    let txn = doc.transact();
    assert!(!txn.has_missing_updates());
    let mut entries: Vec<String> = map
        .iter(&txn)
        .map(|(key, value)| format!("{key}={}", value.to_string(&txn)))
        .collect();
    entries.sort();
    format!("{} {entries:?} {}", text.get_string(&txn), list.len(&txn))
}

/// One of some people who type into one text, mostly where they typed before, and often at the same
/// place as others.
struct Person {
    doc: Doc,
    at: u32,
    /// How many of all updates it has seen.
    seen: usize,
}

impl Person {
    fn edit(&mut self, random: &mut ChaCha8Rng) -> Vec<u8> {
        let text = self.doc.get_or_insert_text("t");
        let (map, list) = (
            self.doc.get_or_insert_map("m"),
            self.doc.get_or_insert_array("l"),
        );
        let mut txn = self.doc.transact_mut();
        let length = text.len(&txn);
        self.at = self.at.min(length);
        match random.random_range(0..100) {
            0..4 => map
                .insert(&mut txn, "key", random.random_range(0..100))
                .ignore(),
            4..7 => list
                .push_back(&mut txn, random.random_range(0..100))
                .ignore(),
            7..20 if length > 0 => {
                let from = random.random_range(0..length);
                text.remove_range(&mut txn, from, random.random_range(1..4).min(length - from));
                self.at = from;
            }
            20..30 => self.at = random.random_range(0..=length),
            _ => {}
        }
        self.at = self.at.min(text.len(&txn));
        let first = random.random_range(0..10);
        let letters = &"abcdefghijkl"[first..first + random.random_range(1..3)];
        text.insert(&mut txn, self.at, letters);
        // Now and then in front of what it has just written.
        if random.random_bool(0.9) {
            self.at += letters.len() as u32;
        }
        txn.encode_update_v1()
    }
}

/// For results that do not matter here.
trait Ignore: Sized {
    fn ignore(self) {}
}
impl<T> Ignore for T {}

#[test]
fn what_deletes_without_saying_so_does_not_wait() {
    // Text as an entry of a map, which nobody writes but anybody can: the second deletes the first.
    let entry = |clock: u8, origin: &[u8]| {
        let mut update = vec![1, 1, 1, clock];
        match origin {
            [] => update.extend([0x24, 1, 1, b'm', 1, b'k', 1, b'a']),
            origin => {
                update.push(0xa4);
                update.extend(origin);
                update.extend([1, b'b']);
            }
        }
        update.push(0);
        update
    };
    let (limits, mut room) = (Limits::default(), RoomDoc::new());
    for update in [entry(0, &[]), entry(1, &[1, 0])] {
        assert_eq!(room.apply(&update, false, &limits), Ok(Applied::New));
    }
    let first_is_deleted = [0, 1, 1, 1, 0, 1];
    assert_eq!(
        room.apply(&first_is_deleted, false, &limits),
        Ok(Applied::Known)
    );
}

#[test]
fn a_room_that_waits_ends_as_one_that_does_not() {
    let seed = std::env::var("COLLABBLOCKS_SEED").map_or(1, |text| text.parse().expect("a number"));
    println!("COLLABBLOCKS_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let limits = Limits::default();
    for round in 0..400 {
        let mut people: Vec<Person> = (1..=3)
            .map(|client| Person {
                doc: Doc::with_client_id(client),
                at: 0,
                seen: 0,
            })
            .collect();
        let mut all: Vec<Vec<u8>> = Vec::new();
        let (mut room, mut prompt) = (RoomDoc::new(), RoomDoc::new());
        for _ in 0..random.random_range(5..60) {
            let person = &mut people[random.random_range(0..3)];
            if random.random_bool(0.4) {
                let to = random.random_range(person.seen..=all.len());
                for update in &all[person.seen..to] {
                    let update = Update::decode_v1(update).unwrap();
                    person.doc.transact_mut().apply_update(update).unwrap();
                }
                person.seen = to;
            }
            let update = person.edit(&mut random);
            assert_eq!(room.apply(&update, false, &limits), Ok(Applied::New));
            assert_eq!(prompt.apply(&update, false, &limits), Ok(Applied::New));
            prompt.settle().unwrap();
            all.push(update);
        }
        let whole = Doc::new();
        for update in &all {
            let update = Update::decode_v1(update).unwrap();
            whole.transact_mut().apply_update(update).unwrap();
        }
        let whole = whole
            .transact()
            .encode_state_as_update_v1(&StateVector::default());
        let (one, other) = (room.encode_state().unwrap(), prompt.encode_state().unwrap());
        let what = format!("seed {seed}, round {round}");
        assert_eq!(content(&one), content(&whole), "{what}");
        assert_eq!(content(&other), content(&whole), "{what}");
        assert_eq!(
            room.apply(&other, false, &limits),
            Ok(Applied::Known),
            "{what}"
        );
        assert_eq!(
            prompt.apply(&one, false, &limits),
            Ok(Applied::Known),
            "{what}"
        );
    }
}
