//! Inputs that the guard refuses, each with its reason, and what happens to the room: nothing.

use collabblocks_storage_engine::guard::{self, Limits, Refusal};
use collabblocks_storage_engine::{Applied, RoomDoc};

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// A room that holds "a" of client 1 in root text `t`, deleted "x" and "y" of client 9 there, and a
/// map type of client 8 in root map `m`.
fn room() -> RoomDoc {
    let mut room = RoomDoc::new();
    for update in [
        "0101010004010174016100",
        "010109000401017402787901090100 02",
        "01010800270 1016d016b01 00",
    ] {
        assert_eq!(
            room.apply(&bytes(update), false, &Limits::default()),
            Ok(Applied::New),
            "{update}"
        );
    }
    room
}

fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Malformed { reason, .. } => reason,
        Refusal::TooLarge { what, .. } => what,
        Refusal::Gap => "gap",
        Refusal::Rejected(_) => "rejected",
        Refusal::Unavailable(_) => "unavailable",
        Refusal::TooSlow => "too slow",
    }
}

/// Updates, and why each is refused.
const REFUSED: &[(&str, &str, &str)] = &[
    // What breaks yrs, or what it reads differently from Yjs.
    (
        "a child of a string",
        "0103070004010174016104000700016204010174016300",
        "parent_not_type",
    ),
    (
        "a child of a string that the room holds",
        "010107000400010001 6200",
        "parent_not_type",
    ),
    (
        "a clock beyond i32",
        "010107818080800804010174017800",
        "clock_range",
    ),
    (
        "clocks that wrap",
        "010307ffffffff0f04010174017804010174017904010174017a00",
        "clock_range",
    ),
    (
        "a section that ends beyond i32",
        "010107feffffff0704010174027a7a00",
        "clock_range",
    ),
    (
        "a tombstone that ends beyond i32",
        "0101070101 01 0174 ffffffff07 00",
        "clock_range",
    ),
    (
        "a deletion that ends beyond i32",
        "00010101 01ffffffff07",
        "clock_range",
    ),
    (
        "client 2^53",
        "0101 8080808080808010 00 0401017401 61 00",
        "integer_range",
    ),
    (
        "an integer of nine bytes",
        "0101 808080808080808001 00 0401017401 61 00",
        "integer_range",
    ),
    (
        "a client section twice",
        "0201070004010174016101070104010174016200",
        "section_twice",
    ),
    (
        "a client section twice, others between",
        "03 010500 0401017401 61 010900 0401017401 61 010501 0401017401 62 00",
        "section_twice",
    ),
    (
        "a client's deletions twice",
        "00 02 01 01 00 01 01 01 00 01",
        "section_twice",
    ),
    (
        "an empty client section",
        "02 000500 010700 0401017401 61 00",
        "empty_section",
    ),
    (
        "a client section of nothing",
        "01 00 05 00 00 00 00",
        "empty_section",
    ),
    (
        "an empty string",
        "01 01 07 00 04 01 01 74 00 00",
        "empty_struct",
    ),
    ("a GC of nothing", "01 01 07 00 00 00 00", "empty_struct"),
    ("a Skip of nothing", "01 01 07 00 0a 00 00", "empty_struct"),
    (
        "a tombstone of nothing",
        "01 01 07 00 01 01 01 74 00 00",
        "empty_struct",
    ),
    ("no values", "01 01 07 00 08 01 01 74 00 00", "empty_struct"),
    ("a deletion of nothing", "00 01 01 01 00 00", "empty_delete"),
    (
        "a GC with an origin",
        "01 01 07 00 80 01 00 05 00",
        "content_unknown",
    ),
    (
        "a Skip with an origin",
        "01 01 07 00 8a 01 00 05 00",
        "content_unknown",
    ),
    (
        "content kind 11",
        "01 01 07 00 0b 01 01 74 01 61 00",
        "content_unknown",
    ),
    (
        "content kind 20, which yrs reads as a string",
        "01 01 07 00 14 01 01 74 01 61 00",
        "content_unknown",
    ),
    (
        "ContentJSON",
        "01 01 07 00 02 01 01 74 01 01 31 00",
        "content_json",
    ),
    (
        "a hook, whose name yrs does not read",
        "01 01 07 00 07 01 01 74 05 01 61 00",
        "type_unknown",
    ),
    (
        "a weak link",
        "01 01 07 00 07 01 01 74 07 00 01 00 00",
        "type_unknown",
    ),
    (
        "an undefined type",
        "01 01 07 00 07 01 01 74 0f 00",
        "type_unknown",
    ),
    (
        "a parent that is neither name nor id",
        "01 01 07 00 04 02 01 74 01 61 00",
        "parent_kind",
    ),
    (
        "a string that is not UTF-8",
        "01 01 07 00 04 01 01 74 01 ff 00",
        "utf8",
    ),
    (
        "a lone surrogate",
        "01 01 07 00 04 01 01 74 03 ed a0 80 00",
        "utf8",
    ),
    (
        "a key that is not UTF-8",
        "01 01 07 00 24 01 01 74 01 ff 01 61 00",
        "utf8",
    ),
    (
        "an item between two types",
        "01 02 07 00 04 01 01 75 01 61 c4 01 00 07 00 01 62 00",
        "origins_apart",
    ),
    (
        "an item between a list and a map entry",
        "01 02 07 00 24 01 01 74 01 6b 01 61 c4 01 00 07 00 01 62 00",
        "origins_apart",
    ),
    (
        "an item known in part, whose rest is put elsewhere",
        "01 01 01 00 04 01 01 75 02 61 62 00",
        "origins_apart",
    ),
    // Claims that would be allocated or recursed into.
    (
        "10 million client sections",
        "80 ad e2 04 00 00 00",
        "count_range",
    ),
    ("268 million of them", "80 80 80 80 01", "count_range"),
    ("a length bomb", "80 80 80 08", "count_range"),
    ("1 million structs", "01 c0 84 3d 07 00 00", "count_range"),
    (
        "250 million values",
        "01 01 07 00 08 01 01 74 ff ff ff 7a 00",
        "count_range",
    ),
    (
        "an array of 250 million",
        "01 01 07 00 08 01 01 74 01 75 ff ff ff 7a 00",
        "count_range",
    ),
    (
        "a map of 250 million",
        "01 01 07 00 08 01 01 74 01 76 ff ff ff 7a 00",
        "count_range",
    ),
    (
        "a string longer than all",
        "01 01 07 00 04 01 01 74 7f 61 00",
        "count_range",
    ),
    (
        "250 million deletions",
        "00 01 01 ff ff ff 7a 00 01",
        "count_range",
    ),
    (
        "250 million clients with deletions",
        "00 ff ff ff 7a 01 01 00 01",
        "count_range",
    ),
    // Values.
    (
        "a value of an unknown kind",
        "01 01 07 00 08 01 01 74 01 73 00",
        "any_tag",
    ),
    (
        "an integer value beyond 2^53",
        "01 01 07 00 08 01 01 74 01 7d bf ff ff ff ff ff ff ff 7f 00",
        "integer_range",
    ),
    (
        "an embed that is not JSON",
        "01 01 07 00 05 01 01 74 01 7b 00",
        "json",
    ),
    (
        "an embed that is JSON twice",
        "01 01 07 00 05 01 01 74 03 31 20 31 00",
        "json",
    ),
    (
        "an embed of infinity",
        "01 01 07 00 05 01 01 74 05 31 65 39 39 39 00",
        "json",
    ),
    (
        "an embed of half a pair",
        "01 01 07 00 05 01 01 74 08 22 5c 75 64 38 33 64 22 00",
        "json",
    ),
    (
        "a mark that is not JSON",
        "01 01 07 00 06 01 01 74 01 62 04 74 72 75 00 00",
        "json",
    ),
    (
        "a sub-document whose options are no map",
        "01 01 07 00 09 01 01 74 01 67 7e 00",
        "subdoc_options",
    ),
    // Ends.
    ("nothing", "", "truncated"),
    (
        "an update that ends early",
        "01 01 07 00 04 01 01 74 01 61",
        "truncated",
    ),
    ("an update that goes on", "0000 00", "trailing_bytes"),
    (
        "update v2, empty",
        "00000000000001000000000000",
        "trailing_bytes",
    ),
    (
        "update v2",
        "000001070000000104060374616101000101000001010000",
        "trailing_bytes",
    ),
    // Gaps.
    (
        "the client's earlier text is missing",
        "01 01 01 05 04 01 01 74 01 61 00",
        "gap",
    ),
    (
        "a client at a forged clock",
        "01 01 07 ff ff ff 07 04 01 01 74 01 78 00",
        "gap",
    ),
    ("an unknown origin", "01 01 07 00 84 05 00 01 61 00", "gap"),
    (
        "an origin just after the last",
        "01 01 07 00 84 01 01 01 61 00",
        "gap",
    ),
    (
        "an unknown right origin",
        "01 01 07 00 44 05 00 01 61 00",
        "gap",
    ),
    (
        "an unknown parent",
        "01 01 07 00 04 00 05 00 01 61 00",
        "gap",
    ),
    (
        "an origin in itself",
        "01 01 07 00 84 07 00 01 61 00",
        "gap",
    ),
    (
        "two that wait for each other",
        "02 01 07 00 84 06 00 01 61 01 06 00 84 07 00 01 61 00",
        "gap",
    ),
    (
        "a struct behind a hole",
        "01 03 07 00 04 01 01 74 01 61 0a 01 84 07 00 01 62 00",
        "gap",
    ),
    (
        "a deletion of what is not there",
        "00 01 01 01 01 01",
        "gap",
    ),
    ("a deletion that goes on beyond", "00 01 01 01 00 02", "gap"),
    (
        "a deletion of an unknown client's",
        "00 01 05 01 00 01",
        "gap",
    ),
];

#[test]
fn each_is_refused_for_its_reason_and_changes_nothing() {
    let mut room = room();
    let before = room.encode_state().unwrap();
    let mut failures = Vec::new();
    for (what, hex, wanted) in REFUSED {
        let answer = room.apply(&bytes(hex), false, &Limits::default());
        if !answer
            .as_ref()
            .is_err_and(|refusal| reason(refusal) == *wanted)
        {
            failures.push(format!("{what}: {answer:?}, not {wanted}"));
        }
        // Nothing of these is taken from a step 2 either; a hole's first struct apart.
        let answer = room.apply(&bytes(hex), true, &Limits::default());
        let taken = *wanted == "gap" && matches!(answer, Ok(Applied::CutKnown));
        if !taken
            && !answer
                .as_ref()
                .is_err_and(|refusal| reason(refusal) == *wanted)
            && !matches!(
                *what,
                "a struct behind a hole" | "a deletion that goes on beyond"
            )
        {
            failures.push(format!("{what}, in a step 2: {answer:?}, not {wanted}"));
        }
        if matches!(
            *what,
            "a struct behind a hole" | "a deletion that goes on beyond"
        ) {
            assert!(matches!(answer, Ok(Applied::Cut(_))), "{what}: {answer:?}");
            room = self::room();
        }
        assert_eq!(
            room.encode_state().unwrap(),
            before,
            "{what}: the room changed"
        );
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Updates that look odd and are taken.
const TAKEN: &[(&str, &str)] = &[
    ("an emoji in a root array", "010107000401016104f09f988000"),
    ("a child of a type", "010107000400080001 6200"),
    (
        "a child of a type in the same update",
        "01020700 27 01 01 6d 01 7a 01 28 00 07 00 01 6b 01 7e 00",
    ),
    (
        "a deletion in an unsorted order",
        "010107000401017402616201 07 02 01 01 00 01",
    ),
    (
        "sections by rising client",
        "02 010500 0401017401 61 010700 0401017401 61 00",
    ),
    (
        "sections that need each other in turn",
        "02 010700 840500 0161 020500 0401017401 61 840700 01 62 00",
    ),
    (
        "a GC and a tombstone",
        "01 02 07 00 00 05 01 01 01 74 02 00",
    ),
    (
        "a child of a tombstone",
        "01 02 07 00 01 01 01 74 01 04 00 07 00 01 61 00",
    ),
    ("a child of a GC", "01 02 07 00 00 01 04 00 07 00 01 61 00"),
    (
        "a sub-document with unknown options",
        "010107002901016d017301677602086175746f4c6f616478046d657461760101617d0100",
    ),
    (
        "every kind of value",
        "010107000801017409 7f 7e 7d41 7c3fc00000 7b3ff199999999999a 7a0000000000000001 79 78 7601016b75017403010203 00",
    ),
    (
        "a clock as a step over a known range",
        "01 02 01 00 0a 01 84 01 00 01 62 00",
    ),
];

#[test]
fn odd_but_sound_updates_are_taken() {
    for (what, hex) in TAKEN {
        let mut room = room();
        let answer = room.apply(&bytes(hex), false, &Limits::default());
        assert_eq!(answer, Ok(Applied::New), "{what}");
        assert_eq!(
            room.apply(&bytes(hex), false, &Limits::default()),
            Ok(Applied::Known),
            "{what}, again"
        );
        let state = room.encode_state().unwrap();
        let mut again = RoomDoc::from_state(&state).unwrap();
        assert_eq!(
            again.apply(&bytes(hex), false, &Limits::default()),
            Ok(Applied::Known),
            "{what}, reloaded"
        );
    }
}

#[test]
fn out_of_order_updates_are_gaps_until_they_fit() {
    let [zero, one, two] = [
        "0101010004010174016100",
        "01010200440100016200",
        "01010101c402000100016300",
    ]
    .map(bytes);
    let limits = Limits::default();
    let mut room = RoomDoc::new();
    assert_eq!(room.apply(&one, false, &limits), Err(Refusal::Gap));
    assert_eq!(room.apply(&two, false, &limits), Err(Refusal::Gap));
    for update in [&zero, &one, &two] {
        assert_eq!(room.apply(update, false, &limits), Ok(Applied::New));
        assert_eq!(room.apply(update, false, &limits), Ok(Applied::Known));
    }
    assert_eq!(text(&mut room), "bca");
}

/// The text at root `t`, as yrs reads the room's state.
fn text(room: &mut RoomDoc) -> String {
    use yrs::updates::decoder::Decode;
    use yrs::{Doc, GetString, Transact, Update};
    let doc = Doc::new();
    let text = doc.get_or_insert_text("t");
    let mut txn = doc.transact_mut();
    txn.apply_update(Update::decode_v1(&room.encode_state().unwrap()).unwrap())
        .unwrap();
    text.get_string(&txn)
}

#[test]
fn a_step_2_is_cut_to_its_causal_part() {
    let limits = Limits::default();
    // Written by Yjs: client 5 typed "abcd"; client 6 has missed "b", so its "cd" is pending, and
    // has typed "Z".
    let step2 = bytes("02010600440500015a0405000401017401610a018405010163840502016400");
    let [_, b, c, d] = [
        "0101050004010174016100",
        "01010501840500016200",
        "01010502840501016300",
        "01010503840502016400",
    ]
    .map(bytes);
    let mut room = RoomDoc::new();
    assert_eq!(room.apply(&step2, false, &limits), Err(Refusal::Gap));
    let Ok(Applied::Cut(part)) = room.apply(&step2, true, &limits) else {
        panic!("it has a causal part")
    };
    assert_eq!(text(&mut room), "Za");
    // The part stands on its own, as a peer or the log sees it.
    let mut peer = RoomDoc::new();
    assert_eq!(peer.apply(&part, false, &limits), Ok(Applied::New));
    assert_eq!(peer.encode_state(), room.encode_state());
    assert_eq!(room.apply(&step2, true, &limits), Ok(Applied::CutKnown));
    assert_eq!(room.apply(&c, false, &limits), Err(Refusal::Gap));
    assert_eq!(room.apply(&b, false, &limits), Ok(Applied::New));
    // Now nothing is missing, the hole in the bytes notwithstanding.
    assert_eq!(room.apply(&step2, false, &limits), Ok(Applied::New));
    assert_eq!(room.apply(&d, false, &limits), Ok(Applied::Known));
    assert_eq!(text(&mut room), "Zabcd");
}

#[test]
fn a_cut_step_2_keeps_the_deletions_of_what_is_there() {
    let limits = Limits::default();
    let mut room = RoomDoc::new();
    room.apply(&bytes("010105000401017403616263 00"), false, &limits)
        .unwrap();
    // Deletes 5:1..2, 5:2..9 (half known) and 7:0..1 (unknown); adds 6:0, and 6:5 behind a hole.
    let step2 = bytes(
        "01 03 06 00 04 01 01 74 01 5a 0a 04 84 05 00 01 59 02 07 01 00 01 05 02 01 01 02 07",
    );
    let Ok(Applied::Cut(part)) = room.apply(&step2, true, &limits) else {
        panic!("it has a causal part")
    };
    assert_eq!(
        part,
        bytes("01 01 06 00 04 01 01 74 01 5a 01 05 02 01 01 02 01")
    );
    assert_eq!(text(&mut room), "aZ");
}

#[test]
fn halves_of_a_pair_become_replacement_characters_as_in_yjs() {
    let limits = Limits::default();
    let mut room = RoomDoc::new();
    room.apply(&bytes("010101000401017404f09f988000"), false, &limits)
        .unwrap();
    let mut other = RoomDoc::from_state(&room.encode_state().unwrap()).unwrap();
    // Written by Yjs: "b" between the halves; the second half deleted.
    room.apply(&bytes("01010200c401000101016200"), false, &limits)
        .unwrap();
    assert_eq!(text(&mut room), "\u{fffd}b\u{fffd}");
    other.apply(&bytes("000101010101"), false, &limits).unwrap();
    assert_eq!(text(&mut other), "\u{fffd}");
}

#[test]
fn caps_are_met() {
    let tight = Limits {
        update_bytes_max: 40,
        update_structs_max: 2,
        update_deletes_max: 1,
        clients_max: 2,
        any_depth_max: 2,
        type_depth_max: 1,
        document_bytes_max: 59,
        subdocs_max: 1,
        awareness_entries_max: 1,
        awareness_state_bytes_max: 4,
    };
    let cases = [
        (
            "01 01 07 00 04 01 01 74 20 6161616161616161 6161616161616161 6161616161616161 6161616161616161 00",
            "update bytes",
        ),
        ("01 03 07 00 00 01 00 01 00 01 00", "structs in one update"),
        ("00 01 01 02 00 01 00 01", "delete ranges in one update"),
        (
            "03 01 07 00 00 01 01 06 00 00 01 01 05 00 00 01 00",
            "client sections",
        ),
        (
            "00 03 03 01 00 01 02 01 00 01 01 01 00 01",
            "client sections",
        ),
        (
            "01 01 07 00 08 01 01 74 01 75 01 75 01 75 01 7e 00",
            "any_depth",
        ),
        ("01 01 07 00 05 01 01 74 06 5b 5b 5b 5d 5d 5d 00", "json"),
        (
            "01 02 07 00 27 01 01 6d 01 6b 01 27 00 07 00 01 6b 01 00",
            "nesting of shared types",
        ),
        (
            "01 02 07 00 09 01 01 74 01 67 76 00 09 01 01 74 01 67 76 00 00",
            "sub-documents",
        ),
    ];
    for (hex, wanted) in cases {
        let answer = RoomDoc::new().apply(&bytes(hex), true, &tight);
        assert!(
            answer
                .as_ref()
                .is_err_and(|refusal| reason(refusal) == wanted),
            "{hex}: {answer:?}, not {wanted}"
        );
    }
    let mut room = RoomDoc::new();
    let typed = |client: u8| {
        bytes(&format!(
            "01 01 {client:02x} 00 04 01 01 74 14 {} 00",
            "61".repeat(20)
        ))
    };
    assert_eq!(room.apply(&typed(1), false, &tight), Ok(Applied::New));
    let answer = room.apply(&typed(2), false, &tight);
    assert!(
        answer
            .as_ref()
            .is_err_and(|refusal| reason(refusal) == "bytes of the room's document"),
        "{answer:?}"
    );
    // A deletion makes room.
    assert_eq!(
        room.apply(&bytes("00 01 01 01 00 14"), false, &tight),
        Ok(Applied::New)
    );
    assert_eq!(room.apply(&typed(2), false, &tight), Ok(Applied::New));
}

#[test]
fn nesting_is_counted_over_updates_and_through_origins() {
    let limits = Limits {
        type_depth_max: 3,
        ..Limits::default()
    };
    let mut room = RoomDoc::new();
    // A map in root `m`; an array in it; in that a text, and beside that, by its origin, another.
    for update in [
        "01 01 07 00 27 01 01 6d 01 6b 01 00",
        "01 01 07 01 27 00 07 00 01 6b 00 00",
        "01 01 07 02 07 00 07 01 02 00",
        "01 01 07 03 87 07 02 02 00",
        "01 01 07 04 84 07 02 02 61 62 00",
    ] {
        assert_eq!(
            room.apply(&bytes(update), false, &limits),
            Ok(Applied::New),
            "{update}"
        );
    }
    let reloaded = RoomDoc::from_state(&room.encode_state().unwrap()).unwrap();
    for mut room in [room, reloaded] {
        for parent in ["02", "03"] {
            let answer = room.apply(
                &bytes(&format!("01 01 07 06 07 00 07 {parent} 02 00")),
                false,
                &limits,
            );
            assert!(
                answer
                    .as_ref()
                    .is_err_and(|refusal| reason(refusal) == "nesting of shared types"),
                "{answer:?}"
            );
        }
        assert_eq!(
            room.apply(&bytes("01 01 07 06 07 00 07 01 02 00"), false, &limits),
            Ok(Applied::New)
        );
    }
}

#[test]
fn state_vectors_are_checked() {
    let limits = Limits::default();
    for (hex, wanted) in [
        ("80e1eb17", "count_range"),
        ("80808008", "count_range"),
        ("", "truncated"),
        ("01 01", "count_range"),
        ("02 01 00 01 01", "section_twice"),
        ("01 01 ffffffff0f", "clock_range"),
        ("01 8080808080808010 00", "integer_range"),
        ("00 00", "trailing_bytes"),
    ] {
        let answer = guard::state_vector(&bytes(hex), &limits);
        assert!(
            answer
                .as_ref()
                .is_err_and(|refusal| reason(refusal) == wanted),
            "{hex}: {answer:?}"
        );
        assert_eq!(room().diff(&bytes(hex), &limits), Err(answer.unwrap_err()));
    }
    let tight = Limits {
        clients_max: 1,
        ..limits.clone()
    };
    assert!(guard::state_vector(&bytes("02 02 05 01 05"), &tight).is_err());
    assert_eq!(
        guard::state_vector(&bytes("02 02 05 01 06"), &limits),
        Ok(vec![(2, 5), (1, 6)])
    );
}

#[test]
fn a_diff_holds_what_the_client_lacks() {
    let limits = Limits::default();
    let mut room = room();
    let mut vector = Vec::new();
    room.state_vector(&mut vector);
    assert_eq!(vector, bytes("03 09 02 08 01 01 01"));
    let diff = |room: &mut RoomDoc, vector: &[u8]| room.diff(vector, &limits).unwrap();
    assert_eq!(RoomDoc::new().diff(&[0], &limits).unwrap(), [0, 0]);
    // A client ahead of the room, or of clients it does not know, gets the deletions.
    for vector in [
        bytes("03 09 02 08 01 01 01"),
        bytes("04 63 07 09 05 08 05 01 05"),
    ] {
        assert_eq!(diff(&mut room, &vector), bytes("00 01 09 01 00 02"));
    }
    let lacks_one = diff(&mut room, &bytes("02 09 02 08 01"));
    assert_eq!(
        lacks_one,
        bytes("01 01 01 00 04 01 01 74 01 61 01 09 01 00 02")
    );
    // Who claims more than the room has lacks the same as who claims all of it, or none.
    for (claimed, clamped) in [
        ("03 08 01 63 07 09 02", "02 09 02 08 01"),
        ("03 01 00 09 09 08 63", "02 09 02 08 01"),
        ("01 63 07", "00"),
    ] {
        let mut out = Vec::new();
        room.clamp(&bytes(claimed), &limits, &mut out).unwrap();
        assert_eq!(out, bytes(clamped), "{claimed}");
        assert_eq!(
            diff(&mut room, &bytes(claimed)),
            diff(&mut room, &out),
            "{claimed}"
        );
    }
}

#[test]
fn awareness_is_checked() {
    let limits = Limits::default();
    for (what, hex, wanted) in [
        ("entries without end", "ff ff ff 7f", "count_range"),
        (
            "a clock that cannot grow",
            "01 01 ff ff ff ff 0f 04 6e 75 6c 6c",
            "clock_range",
        ),
        ("a state that is not JSON", "01 01 01 01 7b", "json"),
        ("an empty state", "01 01 01 00", "json"),
        ("a state that is not UTF-8", "01 01 01 01 ff", "utf8"),
        (
            "a client of 2^53",
            "01 80 80 80 80 80 80 80 10 01 02 7b 7d",
            "integer_range",
        ),
        ("bytes after the end", "00 00", "trailing_bytes"),
        ("an end too early", "01 01 01 02 7b", "count_range"),
    ] {
        let update = bytes(hex);
        let answer = guard::awareness(&update, &limits);
        assert!(
            answer
                .as_ref()
                .is_err_and(|refusal| reason(refusal) == wanted),
            "{what}: {answer:?}"
        );
    }
    let mut deep = bytes("01 01 01 ca 01");
    deep.extend([b'['; 101]);
    deep.extend([b']'; 101]);
    assert!(guard::awareness(&deep, &limits).is_err_and(|refusal| reason(&refusal) == "json"));
    let tight = Limits {
        awareness_entries_max: 1,
        awareness_state_bytes_max: 3,
        ..limits.clone()
    };
    assert!(guard::awareness(&bytes("01 01 01 04 6e 75 6c 6c"), &tight).is_err());
    assert!(guard::awareness(&bytes("02 01 01 02 7b 7d 02 01 02 7b 7d"), &tight).is_err());
    let update = bytes("02 01 01 02 7b 7d 02 fe ff ff ff 0f 04 6e 75 6c 6c");
    let entries = guard::awareness(&update, &limits).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(
        (entries[0].client, entries[0].clock, entries[0].state),
        (1, 1, Some("{}"))
    );
    assert_eq!(
        (entries[1].client, entries[1].clock, entries[1].state),
        (2, u32::MAX - 1, None)
    );
    assert_eq!(guard::awareness(&[0], &limits), Ok(vec![]));
}

#[test]
fn subdocuments_come_back_as_they_came_and_count_while_they_live() {
    let limits = Limits {
        subdocs_max: 2,
        ..Limits::default()
    };
    let mut room = RoomDoc::new();
    // Written by Yjs: key "s" of root map `m` is a sub-document with options yrs does not know.
    let written = bytes("010104002901016d017301677602086175746f4c6f616478046d657461760101617d0100");
    assert_eq!(room.apply(&written, false, &limits), Ok(Applied::New));
    // Bytes that a client wrote stay bytes.
    let blob = bytes("01 01 05 00 03 01 01 61 02 01 67 00");
    assert_eq!(room.apply(&blob, false, &limits), Ok(Applied::New));
    let mut diff = |vector| room.diff(&bytes(vector), &limits).unwrap();
    assert_eq!(diff("01 05 01"), written);
    assert_eq!(diff("01 04 01"), blob);
    let mut reloaded = RoomDoc::from_state(&room.encode_state().unwrap()).unwrap();
    assert_eq!(reloaded.encode_state(), room.encode_state());
    // Another beside it, and a third, which is one too many until one was deleted.
    let another = |clock: u8| bytes(&format!("01 01 06 {clock:02x} 09 01 01 61 01 67 76 00 00"));
    for room in [&mut room, &mut reloaded] {
        assert_eq!(room.apply(&another(0), false, &limits), Ok(Applied::New));
        let answer = room.apply(&another(1), false, &limits);
        assert!(
            answer
                .as_ref()
                .is_err_and(|refusal| reason(refusal) == "sub-documents"),
            "{answer:?}"
        );
        assert_eq!(
            room.apply(&bytes("00 01 04 01 00 01"), false, &limits),
            Ok(Applied::New)
        );
        assert_eq!(room.apply(&another(1), false, &limits), Ok(Applied::New));
    }
}
