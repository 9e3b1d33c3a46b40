//! Readers that are slower than their room.

use crate::limits;
use crate::rig::{Replica, Rig, sync};
use collabblocks_server::shard::{ConnId, SessionLimits};
use std::time::Duration;

fn two(rig: &mut Rig) -> (ConnId, ConnId) {
    let pair = (rig.open("room"), rig.open("room"));
    rig.data(pair.0);
    rig.data(pair.1);
    pair
}

#[test]
fn what_was_missed_is_replayed() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = two(&mut rig);
    let doc = Replica::new(1);
    rig.block(b);
    let updates = ["x", "y"].map(|t| sync(2, &doc.write(t)));
    for update in &updates {
        rig.say(a, &[update]);
        rig.turn();
    }
    rig.settle();
    assert!(rig.data(b).is_empty());
    rig.drain(b);
    rig.turn();
    assert_eq!(rig.data(b), updates);
}

#[test]
fn what_was_missed_comes_in_parts_that_grow_as_the_socket_takes_them() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = two(&mut rig);
    let doc = Replica::new(1);
    rig.block(b);
    rig.turn();
    let updates: Vec<_> = (0..200)
        .map(|n| sync(2, &doc.write(&format!("{n:1000}"))))
        .collect();
    for update in &updates {
        rig.say(a, &[update]);
        rig.turn();
    }
    rig.settle();
    let mut heard = Vec::new();
    let mut takes = |rig: &mut Rig, blocks: bool| {
        rig.turn();
        let data = rig.data(b);
        let bytes: usize = data.iter().map(Vec::len).sum();
        heard.extend(data);
        if blocks {
            rig.block(b);
            rig.turn();
        }
        bytes
    };
    // A socket that takes a little now and then is given no more than that.
    for _ in 0..3 {
        rig.drain(b);
        let bytes = takes(&mut rig, true);
        assert!((16 << 10..18 << 10).contains(&bytes), "{bytes}");
        assert_eq!(takes(&mut rig, false), 0, "while it is blocked");
    }
    rig.drain(b);
    let parts = [(); 4].map(|()| takes(&mut rig, false) >> 10);
    assert_eq!(parts[..3], [16, 32, 64], "KiB, in whole frames");
    // What is said meanwhile comes after what was missed.
    let last = sync(2, &doc.write("last"));
    rig.say(a, &[&last]);
    rig.turn();
    rig.settle();
    takes(&mut rig, false);
    assert!(heard[..200] == updates && heard[200..] == [last]);
}

#[test]
fn who_takes_what_it_missed_too_slowly_is_closed() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = two(&mut rig);
    let doc = Replica::new(1);
    rig.block(b);
    rig.turn();
    for n in 0..600 {
        rig.say(a, &[&sync(2, &doc.write(&format!("{n:1000}")))]);
        rig.turn();
    }
    rig.settle();
    let timeout = limits().slow_reader_timeout;
    // Eight parts of 16 KiB within the time are as many as there must be; four are too few.
    for (parts, stays) in [(9, true), (9, true), (4, false)] {
        for _ in 0..parts {
            rig.drain(b);
            rig.turn();
            rig.block(b);
            rig.turn();
            rig.pass((timeout + Duration::from_secs(2)) / parts);
        }
        assert_eq!(!rig.closed.contains(&b), stays);
    }
}

#[test]
fn past_the_bound_a_diff_makes_up_for_it() {
    let small = SessionLimits {
        queue_soft_bytes: 10,
        ..limits()
    };
    for mid_turn in [false, true] {
        let mut rig = Rig::new(false, small);
        let (a, b) = two(&mut rig);
        let doc = Replica::new(1);
        // It may fall behind after an update of the very turn.
        rig.say(a, &[&sync(2, &doc.write("in the turn "))]);
        if !mid_turn {
            rig.turn();
        }
        rig.block(b);
        rig.turn();
        rig.say(a, &[&sync(2, &doc.write("much longer than ten bytes"))]);
        rig.turn();
        rig.settle();
        rig.drain(b);
        rig.turn();
        rig.settle();
        let other = Replica::new(2);
        other.hear(&rig.data(b));
        assert_eq!(other.text(), doc.text(), "{mid_turn}");
    }
}

#[test]
fn who_is_blocked_while_its_room_loads_misses_nothing() {
    let mut rig = crate::evicted(limits()).0;
    let b = rig.open_without_turn("room");
    rig.turn();
    rig.block(b);
    rig.say(b, &[&sync(0, &[0])]);
    rig.run_jobs();
    rig.settle();
    let a = rig.open("room");
    rig.say(a, &[&sync(2, &Replica::new(5).write("later"))]);
    rig.turn();
    rig.settle();
    rig.drain(b);
    rig.turn();
    rig.settle();
    let other = Replica::new(2);
    rig.skip_head(b);
    other.hear(&rig.data(b));
    assert!(other.text().contains("later"), "{}", other.text());
    assert!(other.text().contains("kept"), "{}", other.text());
}

#[test]
fn who_takes_some_has_time_for_more_and_who_takes_nothing_is_closed() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = two(&mut rig);
    rig.block_with(a, 10_000);
    rig.block_with(b, 10_000);
    // Each time just before it would be too late.
    for left in [9_000, 8_000, 7_000] {
        rig.pass(limits().slow_reader_timeout - Duration::from_secs(2));
        rig.block_with(a, left);
        // No progress.
        rig.block_with(b, 10_000);
        rig.turn();
    }
    assert!(rig.closed.contains(&b) && !rig.closed.contains(&a));
    rig.pass(limits().slow_reader_timeout + Duration::from_secs(2));
    assert!(rig.closed.contains(&a));
}

#[test]
fn who_is_closed_while_blocked_is_told_why() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = two(&mut rig);
    rig.block(b);
    rig.say(a, &[&sync(2, &Replica::new(1).write("x"))]);
    // Its echo is dropped: it says it again when it comes back.
    rig.say(b, &[&sync(2, &Replica::new(2).write("y"))]);
    rig.turn();
    rig.settle();
    rig.say(b, &[&[0, 9]]);
    rig.turn();
    let heard = rig.heard(b);
    assert_eq!(heard.len(), 1);
    assert_eq!(
        (heard[0].0, &heard[0].1[..2]),
        (8, &4400u16.to_be_bytes()[..])
    );
}

#[test]
fn diffs_for_a_slow_reader_do_not_pile_up() {
    let small = SessionLimits {
        queue_soft_bytes: 1 << 10,
        slice_bytes: 4 << 10,
        ..limits()
    };
    let mut rig = Rig::new(false, small);
    let (a, b) = two(&mut rig);
    let (doc, other) = (Replica::new(1), Replica::new(2));
    rig.block(b);
    rig.turn();
    // Whenever the reader has taken a slice, the text has been replaced by another one.
    for round in 0..100 {
        rig.say(
            a,
            &[&sync(
                2,
                &doc.replace(&format!("{round:04}").repeat(750), 8),
            )],
        );
        rig.turn();
        rig.commit();
        rig.drain(b);
        rig.turn();
        other.hear(&rig.data(b));
        rig.block(b);
        rig.turn();
    }
    rig.settle();
    for _ in 0..30 {
        rig.drain(b);
        rig.turn();
        other.hear(&rig.data(b));
        rig.block(b);
        rig.turn();
    }
    assert!(
        other.text() == doc.text(),
        "it gets the latest, not all that was"
    );
}

fn crowd(rig: &mut Rig, sessions: usize) -> Vec<ConnId> {
    let conns: Vec<_> = (0..sessions).map(|_| rig.open("room")).collect();
    for &conn in &conns {
        rig.data(conn);
    }
    conns
}

#[test]
fn a_large_update_goes_out_in_slices_and_is_kept_once() {
    let mut rig = Rig::new(false, limits());
    let conns = crowd(&mut rig, 200);
    let (a, b) = (conns[0], conns[1]);
    let doc = Replica::new(1);
    let large = sync(2, &doc.write(&"x".repeat(2 << 20)));
    let small = sync(2, &doc.write("after"));
    let both = [large, small];
    rig.frames_peak = 0;
    rig.say(a, &[&both[0], &both[1]]);
    rig.turn();
    // All but two have stopped reading.
    for &conn in &conns[2..] {
        rig.block(conn);
    }
    rig.settle();
    let mut peak = rig.stats().answer_bytes;
    assert!(rig.data(a) == both, "its echoes, in order");
    assert!(rig.data(b) == both);
    // They take a slice now and then.
    for _ in 0..300 {
        for &conn in &conns[2..] {
            rig.drain(conn);
        }
        rig.turn();
        rig.turn();
        for &conn in &conns[2..] {
            rig.block(conn);
        }
        rig.turn();
        peak = peak.max(rig.stats().answer_bytes);
    }
    assert!((2 << 20..(2 << 20) + 1024).contains(&peak), "{peak}");
    for &conn in &conns[2..] {
        assert!(rig.data(conn) == both, "they go on where they were");
    }
    let frames = rig.frames_peak;
    assert!(frames < 20 << 20, "a turn's frames: {frames}");
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.stats().answer_bytes, 0);
}

#[test]
fn a_turn_that_is_large_for_all_of_a_room_goes_out_in_parts() {
    let mut rig = Rig::new(false, limits());
    let conns = crowd(&mut rig, 100);
    rig.frames_peak = 0;
    let mut said = Vec::new();
    for (&conn, client) in conns[..15].iter().zip(1..) {
        let update = sync(2, &Replica::new(client).write(&"x".repeat(60_000)));
        rig.say(conn, &[&update]);
        said.push(update);
    }
    rig.turn();
    assert!(
        rig.heard(conns[99]).is_empty(),
        "nobody gets 900 KB in a turn"
    );
    rig.settle();
    let frames = rig.frames_peak;
    assert!(frames < 12 << 20, "a turn's frames: {frames}");
    assert!(rig.data(conns[99]) == said);
    let of_others = rig.data(conns[0]);
    assert!(of_others.len() == 15 && said.iter().all(|update| of_others.contains(update)));
}

#[test]
fn past_the_bound_of_a_core_those_go_for_whom_most_waits() {
    let few = SessionLimits {
        queue_core_bytes_max: 1 << 20,
        ..limits()
    };
    let mut rig = Rig::new(false, few);
    let conns = crowd(&mut rig, 20);
    rig.block_with(conns[0], 1 << 10);
    for &conn in &conns[1..11] {
        rig.block_with(conn, 100 << 10);
    }
    rig.turn();
    rig.settle();
    assert_eq!(rig.stats().held_back_bytes, 1001 << 10);
    assert!(rig.closed.is_empty());
    rig.block_with(conns[11], 100 << 10);
    rig.turn();
    rig.settle();
    assert!(rig.stats().held_back_bytes <= 896 << 10);
    assert_eq!(rig.closed.len(), 3, "an eighth is freed");
    assert!(!rig.closed.contains(&conns[0]), "a little is no harm");
    // What is taken no longer counts, and neither does who is gone.
    for &conn in &conns[..12] {
        if !rig.closed.contains(&conn) {
            rig.drain(conn);
        }
    }
    rig.turn();
    assert_eq!(rig.stats().held_back_bytes, 0);
    assert_eq!(rig.stats().refused["slow_reader"], 3);
}
