//! Joins of a large document: one copy for all who lack the same, a bound on the copies.

use crate::limits;
use crate::rig::{Replica, Rig, frame, sync};
use collabblocks_server::shard::{ConnId, Event, SessionLimits};
use std::time::Duration;

/// A room with a document of `kib` KiB, which has marks, so that it is not split.
fn large(kib: usize, limits: SessionLimits) -> (Rig, Replica, ConnId) {
    let mut rig = Rig::new(false, limits);
    let a = rig.open("room");
    let doc = Replica::new(1);
    rig.say(a, &[&sync(2, &doc.write_bold(&"x".repeat(kib << 10)))]);
    rig.turn();
    rig.settle();
    rig.data(a);
    // The update itself is kept for those who are still to hear of it.
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.stats().answer_bytes, 0);
    rig.data(a);
    rig.frames_peak = 0;
    (rig, doc, a)
}

fn join(rig: &mut Rig, vector: &[u8]) -> ConnId {
    let conn = rig.open("room");
    rig.data(conn);
    rig.say(conn, &[&sync(0, vector)]);
    conn
}

/// State vectors that say the same to a room that has client 1 alone: nothing is known.
const NOTHING_KNOWN: [&[u8]; 4] = [&[0], &[1, 9, 5], &[1, 1, 0], &[2, 7, 1, 8, 1]];

#[test]
fn joiners_who_lack_the_same_share_one_copy() {
    let (mut rig, doc, _) = large(2 << 10, limits());
    let joiners: Vec<_> = (0..150)
        .map(|n| join(&mut rig, NOTHING_KNOWN[n % NOTHING_KNOWN.len()]))
        .collect();
    // All are slow: each takes a slice now and then.
    let mut peak = 0;
    for _ in 0..12 {
        rig.turn();
        peak = peak.max(rig.stats().answer_bytes);
        for &conn in &joiners {
            rig.block(conn);
        }
        rig.turn();
        for &conn in &joiners {
            rig.drain(conn);
        }
    }
    rig.settle();
    assert!((2 << 20..(2 << 20) + 4096).contains(&peak), "{peak}");
    assert!(rig.frames_peak < 12 << 20, "{}", rig.frames_peak);
    for conn in joiners {
        let messages = rig.data(conn);
        assert_eq!(messages, [sync(1, &doc.state())], "whole, and once");
    }
    // They are kept a while for those who come later, no longer.
    assert!(rig.stats().answer_bytes > 0);
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.stats().answer_bytes, 0);
}

#[test]
fn those_for_whom_there_is_no_memory_wait_their_turn() {
    let tight = SessionLimits {
        answer_bytes_max: 2 << 20,
        queue_soft_bytes: 64,
        ..limits()
    };
    let (mut rig, doc, a) = large(1 << 10, tight);
    // Each asks at another state of the room, and is slow.
    let mut joiners = Vec::new();
    for n in 0..10 {
        let conn = join(&mut rig, &[0]);
        rig.turn();
        rig.block(conn);
        joiners.push(conn);
        rig.say(a, &[&sync(2, &doc.write(&format!("edit {n}")))]);
        rig.turn();
        rig.settle();
        let stats = rig.stats();
        assert!(
            stats.answer_bytes < (3 << 20) + (64 << 10),
            "{}",
            stats.answer_bytes
        );
    }
    assert_eq!(rig.stats().answers_waiting, 8);
    let mut waiting = 8;
    for round in 0..100 {
        for &conn in &joiners {
            rig.drain(conn);
        }
        rig.turn();
        let stats = rig.stats();
        assert!(
            stats.answer_bytes < (3 << 20) + (64 << 10),
            "{}",
            stats.answer_bytes
        );
        if stats.answers_waiting == 0 && waiting == 0 {
            break;
        }
        assert!(stats.answers_waiting <= waiting && round < 99);
        waiting = stats.answers_waiting;
        for &conn in &joiners {
            rig.block(conn);
        }
        rig.turn();
    }
    rig.settle();
    for conn in joiners {
        let other = Replica::new(9);
        let messages = rig.data(conn);
        assert_eq!(
            messages[0][..2],
            [0, 1],
            "nothing comes ahead of the answer"
        );
        other.hear(&messages);
        assert!(other.text() == doc.text(), "nothing is lost meanwhile");
    }
}

#[test]
fn who_waits_and_goes_is_forgotten() {
    let tight = SessionLimits {
        answer_bytes_max: 1 << 20,
        ..limits()
    };
    let (mut rig, doc, a) = large(1 << 10, tight);
    let first = join(&mut rig, &[0]);
    rig.turn();
    rig.block(first);
    rig.say(a, &[&sync(2, &doc.write("more"))]);
    rig.turn();
    rig.settle();
    let (second, third) = (join(&mut rig, &[0]), join(&mut rig, &[0]));
    rig.turn();
    rig.settle();
    assert_eq!(rig.stats().answers_waiting, 2);
    for gone in [first, second] {
        rig.feed(Event::Closed { conn: gone });
    }
    rig.turn();
    rig.settle();
    assert_eq!(rig.stats().answers_waiting, 0);
    assert_eq!(rig.data(third), [sync(1, &doc.state())]);
}

/// Has a joiner take a slice each `pause`, until it is closed or has got all; how long that took.
fn trickle(rig: &mut Rig, conn: ConnId, pause: Duration) -> Duration {
    let began = rig.now;
    while !rig.closed.contains(&conn) {
        rig.block(conn);
        rig.turn();
        // A client that lives answers pings.
        rig.raw(conn, vec![0x8a, 0x80, 0, 0, 0, 0]);
        rig.pass(pause);
        if rig.closed.contains(&conn) {
            break;
        }
        rig.drain(conn);
        rig.turn();
        if !rig.data(conn).is_empty() {
            break;
        }
    }
    Duration::from_nanos(rig.now - began)
}

#[test]
fn a_joiner_that_trickles_is_closed_and_sooner_if_others_wait() {
    let sliced = SessionLimits {
        slice_bytes: 16 << 10,
        answer_bytes_max: 1 << 20,
        ..limits()
    };
    let timeout = sliced.slow_reader_timeout;
    for (pause, waits, closed) in [
        // A sixteenth is four slices.
        (timeout / 8, false, false),
        (timeout / 2, false, true),
        (timeout / 8, true, true),
        (timeout / 32, true, false),
    ] {
        let (mut rig, doc, a) = large(1 << 10, sliced);
        let conn = join(&mut rig, &[0]);
        rig.turn();
        rig.block(conn);
        rig.say(a, &[&sync(2, &doc.write("more"))]);
        rig.turn();
        rig.settle();
        let waiter = waits.then(|| join(&mut rig, &[0]));
        rig.feed(Event::Closed { conn: a });
        rig.turn();
        let took = trickle(&mut rig, conn, pause);
        assert_eq!(
            rig.closed.contains(&conn),
            closed,
            "{pause:?} {waits} {took:?}"
        );
        assert!(took < timeout * 17, "{took:?}");
        if let Some(waiter) = waiter {
            rig.settle();
            assert!(rig.data(waiter).contains(&sync(1, &doc.state())));
        }
    }
}

#[test]
fn control_frames_go_between_slices_and_data_after_the_message() {
    let (mut rig, doc, _) = large(1 << 10, limits());
    let conn = join(&mut rig, &[0]);
    rig.turn();
    let update = sync(2, &Replica::new(5).write("own"));
    let mut ping = Vec::new();
    frame(0x89, b"still there?", &mut ping);
    rig.raw(conn, ping);
    rig.say(conn, &[&update]);
    rig.settle();
    rig.turn();
    let heard: Vec<_> = rig.heard(conn);
    assert_eq!(heard[0], (10, b"still there?".to_vec()));
    assert_eq!(heard[1], (2, sync(1, &doc.state())));
    assert_eq!(heard[2], (2, update));
}

#[test]
fn a_close_ends_a_message_in_the_middle() {
    let (mut rig, _, _) = large(1 << 10, limits());
    let conn = join(&mut rig, &[0]);
    rig.turn();
    rig.say(conn, &[&[0, 9, 0]]);
    rig.turn();
    let heard = rig.heard(conn);
    assert_eq!(heard.len(), 1, "no more of the message");
    assert_eq!(
        (heard[0].0, &heard[0].1[..2]),
        (8, &4400u16.to_be_bytes()[..])
    );
    assert!(rig.closed.contains(&conn));
    rig.settle();
}
