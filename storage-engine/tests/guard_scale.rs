//! Updates that are small on the wire and dear to apply, and what an ordinary one costs.

use collabblocks_storage_engine::guard::Limits;
use collabblocks_storage_engine::{Applied, RoomDoc, split_update};
use std::time::{Duration, Instant};

fn var(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Client 1 writes `text` at the start of root text `t`.
fn typed(text: &str) -> Vec<u8> {
    let mut update = vec![1, 1, 1, 0, 4, 1, 1, b't'];
    var(&mut update, text.len() as u64);
    update.extend(text.as_bytes());
    update.push(0);
    update
}

/// Runs `work` and refuses to wait for what grows with the square of its size.
fn soon<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    let took = started.elapsed();
    println!("{what}: {took:?}");
    assert!(took < Duration::from_secs(10), "{what} took {took:?}");
    result
}

#[test]
fn one_char_items_that_were_never_joined() {
    let count = 80_000u64;
    let mut update = vec![1];
    var(&mut update, count);
    update.extend([1, 0]);
    for clock in 0..count {
        if clock == 0 {
            update.extend([4, 1, 1, b't']);
        } else {
            update.extend([0x84, 1]);
            var(&mut update, clock - 1);
        }
        update.extend([1, b'a']);
    }
    update.push(0);
    let mut room = RoomDoc::new();
    let applied = soon("80,000 items", || {
        room.apply(&update, false, &Limits::default())
    });
    assert_eq!(applied, Ok(Applied::New));
    let state = room.encode_state().unwrap();
    assert!(state.len() < 81_000, "they were joined");
    // In pieces they are still all there.
    let mut other = RoomDoc::new();
    for part in split_update(&update, 4_096) {
        assert!(part.len() < 4_200);
        assert_eq!(
            other.apply(&part, false, &Limits::default()),
            Ok(Applied::New)
        );
    }
    assert_eq!(other.encode_state().unwrap(), state);
}

#[test]
fn a_chain_through_the_sections_of_many_clients() {
    // Each client's struct stands after that of the next lower one, so the highest, which comes
    // first, needs all the others.
    let count = 50_000u64;
    let mut update = Vec::new();
    var(&mut update, count);
    for client in (1..=count).rev() {
        update.push(1);
        var(&mut update, client);
        update.push(0);
        if client == 1 {
            update.extend([4, 1, 1, b't']);
        } else {
            update.push(0x84);
            var(&mut update, client - 1);
            update.push(0);
        }
        update.extend([1, b'a']);
    }
    update.push(0);
    let mut room = RoomDoc::new();
    let applied = soon("50,000 clients", || {
        room.apply(&update, false, &Limits::default())
    });
    assert_eq!(applied, Ok(Applied::New));
    let state = room.encode_state().unwrap();
    soon("50,000 clients, reloaded", || RoomDoc::from_state(&state)).unwrap();
}

#[test]
fn a_text_with_every_fifth_character_deleted() {
    let mut room = RoomDoc::new();
    let count = 100_000u64;
    room.apply(
        &typed(&"abcd ".repeat(count as usize)),
        false,
        &Limits::default(),
    )
    .unwrap();
    let mut update = vec![0, 1, 1];
    var(&mut update, count);
    for word in 0..count {
        var(&mut update, 5 * word + 4);
        update.push(1);
    }
    let applied = soon("100,000 deletions", || {
        room.apply(&update, false, &Limits::default())
    });
    assert_eq!(applied, Ok(Applied::New));
    assert_eq!(
        soon("again", || room.apply(&update, false, &Limits::default())),
        Ok(Applied::Known)
    );
    let state = room.encode_state().unwrap();
    let mut reloaded = soon("reloaded", || RoomDoc::from_state(&state)).unwrap();
    assert_eq!(
        reloaded.apply(&update, false, &Limits::default()),
        Ok(Applied::Known)
    );
}

#[test]
fn values_nested_to_the_limit_and_beyond() {
    let nested = |depth: usize| {
        let mut update = vec![1, 1, 7, 0, 8, 1, 1, b't', 1];
        update.extend([117u8, 1].repeat(depth));
        update.extend([126, 0]);
        update
    };
    let limits = Limits::default();
    assert_eq!(
        RoomDoc::new().apply(&nested(limits.any_depth_max), false, &limits),
        Ok(Applied::New)
    );
    assert!(
        RoomDoc::new()
            .apply(&nested(limits.any_depth_max + 1), false, &limits)
            .is_err()
    );
    assert!(
        RoomDoc::new()
            .apply(&nested(7_000), false, &limits)
            .is_err()
    );
}

#[test]
fn a_document_of_20_megabytes_passes() {
    let limits = Limits::default();
    let mut room = RoomDoc::new();
    let update = typed(&"0123456789".repeat(2_000_000));
    assert_eq!(
        soon("20 MB", || room.apply(&update, false, &limits)),
        Ok(Applied::New)
    );
    let state = room.encode_state().unwrap();
    assert_eq!(
        soon("20 MB, reloaded", || RoomDoc::from_state(&state))
            .unwrap()
            .encode_state()
            .unwrap(),
        state
    );
}

#[test]
#[ignore = "measures: run with --release -- --ignored --nocapture, on a quiet core"]
fn an_ordinary_update_costs_about_a_microsecond() {
    let mut updates = Vec::new();
    for clock in 0..200_000u64 {
        let mut update = vec![1, 1, 0xe8, 0x87, 0xc2, 0xa1, 0x0b];
        var(&mut update, clock);
        if clock == 0 {
            update.extend([4, 1, 1, b't']);
        } else {
            update.extend([0x84, 0xe8, 0x87, 0xc2, 0xa1, 0x0b]);
            var(&mut update, clock - 1);
        }
        update.extend([1, b'a', 0]);
        updates.push(update);
    }
    let limits = Limits::default();
    let mut best = Duration::MAX;
    for _ in 0..7 {
        let mut room = RoomDoc::new();
        let started = Instant::now();
        for update in &updates {
            room.apply(update, false, &limits).unwrap();
        }
        best = best.min(started.elapsed());
    }
    let each = best / updates.len() as u32;
    let mut room = RoomDoc::new();
    for update in &updates {
        room.apply(update, false, &limits).unwrap();
    }
    let mut known = Duration::MAX;
    for _ in 0..7 {
        let started = Instant::now();
        for update in &updates {
            room.apply(update, false, &limits).unwrap();
        }
        known = known.min(started.elapsed());
    }
    println!(
        "applied: {each:?}, known: {:?}",
        known / updates.len() as u32
    );
    assert!(each < Duration::from_micros(4));
}
