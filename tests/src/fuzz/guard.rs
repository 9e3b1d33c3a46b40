//! The guard: what it lets through, yrs takes without a panic and as Yjs would, and what comes out
//! again is whole.

use crate::sim::document::Document;
use crate::sim::rng::Rng;
use collabblocks_storage_engine::guard::Limits;
use collabblocks_storage_engine::{Applied, RoomDoc, split_update};

fn limits() -> Limits {
    Limits {
        update_structs_max: 5_000,
        update_deletes_max: 5_000,
        ..Limits::default()
    }
}

/// What a room hands out can be read again, into the same.
fn check(room: &mut RoomDoc) {
    assert!(!room.poisoned(), "yrs failed on what the guard let through");
    let state = room.encode_state().expect("a room that is well is encoded");
    let again = RoomDoc::from_state(&state).expect("what the server wrote, it reads");
    let vector = |room: &RoomDoc| {
        let mut vector = Vec::new();
        room.state_vector(&mut vector);
        vector
    };
    assert_eq!(vector(room), vector(&again), "a state is not read whole");
    room.diff(&[0], &limits())
        .expect("an empty state vector is good");
}

/// One update into an empty room, as an update and as a step 2.
pub(super) fn update(input: &[u8]) {
    for cut_gaps in [false, true] {
        let mut room = RoomDoc::new();
        if let Ok(applied) = room.apply(input, cut_gaps, &limits()) {
            if let Applied::Cut(rest) = applied {
                let mut other = RoomDoc::new();
                let taken = other.apply(&rest, false, &limits());
                assert_eq!(
                    taken,
                    Ok(Applied::New),
                    "what is relayed is taken by others"
                );
            }
            check(&mut room);
        } else {
            assert!(!room.poisoned(), "yrs failed on what the guard let through");
        }
    }
    for piece in split_update(input, 64) {
        assert!(
            piece.len() <= input.len() + 64,
            "a piece outgrows the whole"
        );
    }
}

/// Updates one after another, each with its length before it; the length's lowest bit says whether
/// it is a step 2.
pub(super) fn updates(mut input: &[u8]) {
    let mut room = RoomDoc::new();
    while let [low, high, rest @ ..] = input {
        let length = u16::from_le_bytes([*low, *high]);
        let (update, others) = rest.split_at(usize::from(length / 2).min(rest.len()));
        input = others;
        let taken = room.apply(update, length % 2 == 1, &limits());
        assert!(!room.poisoned(), "yrs failed on what the guard let through");
        if matches!(taken, Ok(Applied::New)) {
            let again = room.apply(update, false, &limits());
            assert!(
                matches!(again, Ok(Applied::Known | Applied::New)),
                "the same again: {again:?}"
            );
        }
    }
    check(&mut room);
}

/// The edits of two people who see each other's now and then.
fn history(seed: u64) -> Vec<Vec<u8>> {
    let mut rng = Rng::new(seed);
    let mut people = [Document::new(1), Document::new(2)];
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut seen = [0, 0];
    for _ in 0..20 {
        let who = rng.index(2);
        if rng.one_in(3) {
            for update in &all[seen[who]..] {
                people[who]
                    .apply(update)
                    .expect("people's updates are good");
            }
            seen[who] = all.len();
        }
        all.extend(people[who].edit(&mut rng));
    }
    all
}

pub(super) fn update_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for seed in 0..8 {
        let mut document = Document::new(3);
        for update in history(seed) {
            document.apply(&update).expect("people's updates are good");
            if seed == 0 {
                seeds.push(update);
            }
        }
        seeds.push(document.diff(&[0]));
    }
    seeds
}

pub(super) fn updates_seeds() -> Vec<Vec<u8>> {
    let framed = |(n, update): (usize, &Vec<u8>)| {
        let length = (update.len() * 2 + n % 2) as u16;
        [&length.to_le_bytes(), update.as_slice()].concat()
    };
    (0..12)
        .map(|seed| history(seed).iter().enumerate().flat_map(framed).collect())
        .collect()
}
