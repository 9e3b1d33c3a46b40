//! Damaged and forged updates: whatever comes, the room answers, soon, and stays whole.

use collabblocks_storage_engine::guard::{self, Limits};
use collabblocks_storage_engine::{Applied, RoomDoc, split_update};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};
use yrs::block::ClientID;
use yrs::{
    Any, Array, Doc, Map, MapPrelim, OffsetKind, Options, ReadTxn, Text, TextPrelim, Transact,
    XmlElementPrelim,
};
use yrs::{XmlFragment, XmlTextPrelim};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Updates of three clients that see each other's, in causal order.
fn history(random: &mut ChaCha8Rng, length: usize) -> Vec<Vec<u8>> {
    let docs: Vec<Doc> = (1..=3)
        .map(|client| {
            let mut options = Options::with_client_id(ClientID::new(client));
            options.offset_kind = OffsetKind::Utf16;
            Doc::with_options(options)
        })
        .collect();
    let mut updates: Vec<Vec<u8>> = Vec::new();
    for _ in 0..length {
        let doc = &docs[random.random_range(0..3)];
        let text = doc.get_or_insert_text("t");
        let map = doc.get_or_insert_map("m");
        let array = doc.get_or_insert_array("a");
        let xml = doc.get_or_insert_xml_fragment("x");
        let mut txn = doc.transact_mut();
        let before = txn.state_vector();
        match random.random_range(0..10) {
            0..=3 => {
                let at = random.random_range(0..=text.len(&txn));
                text.insert(
                    &mut txn,
                    at,
                    ["a", "bc", "😀", "x😀y", "𝒳𝒴"][random.random_range(0..5)],
                );
            }
            4 if text.len(&txn) > 1 => {
                let at = random.random_range(0..text.len(&txn) - 1);
                text.remove_range(&mut txn, at, 1);
            }
            5 => {
                map.insert(
                    &mut txn,
                    ["k", "l"][random.random_range(0..2)],
                    random.random_range(0..9i64),
                );
            }
            6 => {
                map.insert(&mut txn, "n", MapPrelim::from([("i", Any::from("j"))]));
            }
            7 => {
                array.insert(&mut txn, 0, TextPrelim::new("in"));
            }
            8 => {
                let element = xml.insert(&mut txn, 0, XmlElementPrelim::empty("p"));
                element.insert(&mut txn, 0, XmlTextPrelim::new("😀"));
            }
            _ => {
                array.push_back(&mut txn, Any::from(vec![Any::Null, Any::from(1.5)]));
            }
        }
        let update = txn.encode_diff_v1(&before);
        drop(txn);
        for other in &docs {
            if random.random_bool(0.8) || updates.len().is_multiple_of(7) {
                let state = doc
                    .transact()
                    .encode_diff_v1(&other.transact().state_vector());
                let state = yrs::updates::decoder::Decode::decode_v1(&state[..]).unwrap();
                if !std::ptr::eq(other, doc) {
                    yrs::TransactionMut::apply_update(&mut other.transact_mut(), state).unwrap();
                }
            }
        }
        updates.push(update);
    }
    updates
}

/// One damage to `bytes`, with `donor` to take pieces from.
fn damage(random: &mut ChaCha8Rng, bytes: &mut Vec<u8>, donor: &[u8]) {
    let at = random
        .random_range(0..bytes.len().max(1))
        .min(bytes.len().saturating_sub(1));
    match random.random_range(0..8) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.random_range(0..8),
        1 if !bytes.is_empty() => bytes[at] = random.random_range(0..12),
        2 if !bytes.is_empty() => {
            bytes[at] = [0x7f, 0x80, 0xff, 0xc4, 0x84, 0x44, 0x24, 0x27][random.random_range(0..8)]
        }
        3 if !bytes.is_empty() => {
            bytes[at] = bytes[at].wrapping_add([1, 255][random.random_range(0..2)]);
        }
        4 if !bytes.is_empty() => {
            bytes.remove(at);
        }
        5 => bytes.insert(at, random.random()),
        6 if !donor.is_empty() => {
            let from = random.random_range(0..donor.len());
            let to = random.random_range(from..donor.len().min(from + 12));
            bytes.splice(at..at, donor[from..to].iter().copied());
        }
        _ => {
            let to = (at + random.random_range(0..6)).min(bytes.len());
            let piece = bytes[at.min(to)..to].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

#[test]
fn damaged_updates_are_answered_and_leave_the_room_whole() {
    let seed = number("COLLABBLOCKS_SEED", 1);
    let rounds = number("COLLABBLOCKS_GUARD_ROUNDS", 60);
    println!("COLLABBLOCKS_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let limits = Limits::default();
    let (mut taken, mut refused, mut poisoned) = (0u64, 0u64, 0u64);
    let trace = std::env::var_os("COLLABBLOCKS_GUARD_TRACE");
    for round in 0..rounds {
        let updates = history(&mut random, 40);
        let cut = random.random_range(0..updates.len());
        let mut room = RoomDoc::new();
        for update in &updates[..cut] {
            // What lost a predecessor is a gap, and dropped.
            let _ = room.apply(update, false, &limits);
        }
        let mut state = room.encode_state().unwrap();
        for turn in 0..250 {
            let mut update = if random.random_bool(0.1) {
                state.clone()
            } else {
                updates[random.random_range(0..updates.len())].clone()
            };
            for _ in 0..random.random_range(1..4) {
                damage(&mut random, &mut update, &updates[cut]);
            }
            let cut_gaps = random.random_bool(0.5);
            let what = format!(
                "seed {seed}, round {round}, turn {turn}: {} onto {}",
                to_hex(&update),
                to_hex(&state)
            );
            let started = Instant::now();
            // A hang names no input, so the last one can be had in a file.
            if let Some(path) = &trace {
                std::fs::write(path, &what).unwrap();
            }
            let answer = room.apply(&update, cut_gaps, &limits);
            let answer = room.settle().and(answer);
            if room.poisoned() {
                // A forged document can bring yrs's own counts to overflow, which it checks in debug
                // builds only. The room then says so and is loaded again.
                assert!(
                    answer.is_err() && room.encode_state().is_err(),
                    "{what}: {answer:?}"
                );
                room = RoomDoc::from_state(&state).unwrap();
                poisoned += 1;
                continue;
            }
            match &answer {
                Ok(Applied::New | Applied::Cut(_)) => {
                    taken += 1;
                    let new = room
                        .encode_state()
                        .unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
                    let again = RoomDoc::from_state(&new)
                        .unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
                    let (mut one, mut other) = (Vec::new(), Vec::new());
                    room.state_vector(&mut one);
                    again.state_vector(&mut other);
                    assert_eq!(one, other, "{what}");
                    split_update(&new, 64);
                    state = new;
                    if let Ok(Applied::Cut(part)) = &answer {
                        assert_eq!(
                            room.apply(part, false, &limits),
                            Ok(Applied::Known),
                            "{what}"
                        );
                    }
                }
                Ok(_) => taken += 1,
                Err(_) => {
                    refused += 1;
                    if turn % 16 == 0 {
                        assert_eq!(
                            room.encode_state().unwrap(),
                            state,
                            "{what}: refused, yet changed"
                        );
                    }
                }
            }
            let _ = room.diff(&update, &limits);
            let _ = guard::awareness(&update, &limits);
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "{what}: took {:?}",
                started.elapsed()
            );
        }
    }
    println!("taken {taken}, refused {refused}, poisoned {poisoned}");
    assert!(poisoned <= 1 + taken / 5_000, "too many get past the guard");
    assert!(
        taken > rounds * 10 && refused > rounds * 10,
        "the damage is neither all nor nothing"
    );
}
