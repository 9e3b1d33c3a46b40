//! A shard over a real engine and a simulated disk, event by event.

mod apart;
mod durable;
mod floods;
mod hot;
mod identity;
mod joiners;
mod large;
mod presence;
mod rig;
mod slow;
mod unreadable;

use collabblocks_server::shard::{
    Claims, ConnId, ControlReply, ControlRequest, Event, Handoff, SessionLimits,
};
use rig::{Replica, Rig, awareness, sync};
use std::time::Duration;

const PONG: u8 = 10;

fn limits() -> SessionLimits {
    SessionLimits::default()
}

#[test]
fn a_client_is_greeted_and_synced() {
    let mut rig = Rig::new(false, limits());
    let a = rig.open("room");
    assert_eq!(rig.data(a), [sync(0, &[0])], "the server's step 1");
    rig.say(a, &[&sync(0, &[0])]);
    rig.turn();
    assert_eq!(rig.data(a), [sync(1, &[0, 0])]);
}

#[test]
fn a_drain_closes_everybody_even_who_hears_something_in_that_turn() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = (rig.open("room"), rig.open("room"));
    rig.say(a, &[&sync(2, &Replica::new(1).write("x"))]);
    rig.feed(Event::Control(ControlRequest::Drain));
    rig.turn();
    let mut ping = Vec::new();
    for _ in 0..100 {
        // Each turn has something to say to both.
        rig::frame(0x89, b"", &mut ping);
        for conn in [a, b] {
            if !rig.closed.contains(&conn) {
                rig.raw(conn, ping.clone());
            }
        }
        ping.clear();
        if rig.write.is_some() {
            rig.finish_write();
        }
        rig.run_jobs();
        rig.until(rig.now);
    }
    assert!(matches!(rig.replies[..], [ControlReply::Drained]));
    assert_eq!(rig.close_code(a), Some(1012));
    assert_eq!(rig.close_code(b), Some(1012));
}

#[test]
fn a_drain_with_nothing_going_on_ends() {
    let mut rig = Rig::new(false, limits());
    rig.feed(Event::Control(ControlRequest::Drain));
    rig.turn();
    rig.settle();
    assert!(matches!(rig.replies[..], [ControlReply::Drained]));
}

#[test]
fn who_builds_on_what_was_never_sent_is_asked_and_at_last_closed() {
    let mut rig = Rig::new(false, limits());
    let a = rig.open("room");
    rig.say(a, &[&sync(1, &[0, 0])]);
    rig.turn();
    rig.data(a);
    let doc = Replica::new(1);
    doc.write("never sent");
    let gap = doc.write("x");
    for round in 0..limits().gap_repeats_max {
        rig.say(a, &[&sync(2, &gap)]);
        rig.turn();
        assert_eq!(rig.data(a), [sync(0, &[0])], "round {round}");
        rig.say(a, &[&sync(1, &[0, 0])]);
        rig.turn();
    }
    rig.say(a, &[&sync(2, &gap)]);
    rig.turn();
    assert_eq!(rig.close_code(a), Some(4409));
}

#[test]
fn a_room_in_quarantine_is_not_opened_and_others_are() {
    let mut rig = Rig::new(false, limits());
    let a = rig.open_without_turn(rig::QUARANTINED);
    let b = rig.open_without_turn("room");
    rig.turn();
    rig.skip_head(a);
    assert_eq!(rig.close_code(a), Some(1011));
    assert!(rig.closed.contains(&a) && !rig.closed.contains(&b));
}

#[test]
fn a_room_name_that_is_too_long_is_told_which_setting_says_so() {
    let mut rig = Rig::new(false, limits());
    let longest = limits().room_name_bytes_max;
    let a = rig.open_without_turn(&"x".repeat(longest));
    let b = rig.open_without_turn(&"x".repeat(longest + 1));
    rig.turn();
    assert!(!rig.closed.contains(&a) && rig.closed.contains(&b));
    rig.skip_head(b);
    let frames = rig.heard(b);
    assert_eq!(frames[0].1[..2], 4400u16.to_be_bytes());
    let told = format!("the room name is longer than limits.room_name_bytes_max = {longest}");
    assert_eq!(frames[0].1[2..], *told.as_bytes());
}

/// Rooms, sessions, clients present, sessions behind.
fn gauges(rig: &mut Rig) -> [u64; 4] {
    rig.feed(Event::Control(ControlRequest::Stats { id: 1 }));
    rig.turn();
    match rig.replies.pop() {
        Some(ControlReply::Stats { id: 1, stats }) => [
            stats.rooms,
            stats.sessions,
            stats.presence_clients,
            stats.sessions_behind,
        ],
        other => panic!("{other:?}"),
    }
}

#[test]
fn figures_follow_what_comes_and_goes() {
    let (mut rig, _) = evicted(limits());
    assert_eq!(gauges(&mut rig), [0, 0, 0, 0]);
    let [a, b] = [(); 2].map(|()| rig.open_without_turn("room"));
    rig.turn();
    assert_eq!(gauges(&mut rig), [1, 2, 0, 0], "they wait for the room");
    // The first to be live is behind at once.
    rig.block(a);
    rig.settle();
    assert_eq!(gauges(&mut rig), [1, 2, 0, 1]);
    let c = rig.open("other");
    rig.say(c, &[&awareness(&[(7, 1, "{}"), (8, 1, "{}")])]);
    rig.say(b, &[&awareness(&[(9, 1, "{}")])]);
    rig.turn();
    assert_eq!(gauges(&mut rig), [2, 3, 3, 1]);
    rig.say(c, &[&awareness(&[(7, 2, "null")])]);
    rig.block(b);
    rig.drain(a);
    rig.turn();
    assert_eq!(gauges(&mut rig), [2, 3, 2, 1]);
    rig.feed(Event::Closed { conn: b });
    rig.turn();
    assert_eq!(gauges(&mut rig), [2, 2, 1, 0]);
    rig.feed(Event::Closed { conn: a });
    rig.feed(Event::Closed { conn: c });
    rig.turn();
    assert_eq!(gauges(&mut rig), [0, 0, 0, 0]);
}

/// A room on disk, not in memory.
fn evicted(limits: SessionLimits) -> (Rig, Replica) {
    let mut rig = Rig::new(false, limits);
    let a = rig.open("room");
    let doc = Replica::new(1);
    rig.say(a, &[&sync(2, &doc.write("kept"))]);
    rig.turn();
    rig.settle();
    rig.feed(Event::Closed { conn: a });
    for _ in 0..20 {
        rig.turn();
        rig.settle();
        rig.pass(Duration::from_millis(20));
    }
    (rig, doc)
}

#[test]
fn messages_wait_for_their_room_to_load_and_reading_stops_at_the_bound() {
    let small = SessionLimits {
        load_queue_commands_max: 2,
        ..limits()
    };
    let (mut rig, doc) = evicted(small);
    let [a, b, c] = [(); 3].map(|()| rig.open_without_turn("room"));
    rig.turn();
    assert_eq!(rig.jobs.len(), 1, "it is read from disk once");
    rig.say(a, &[&sync(0, &[0]), &sync(2, &doc.write(" and more"))]);
    // One of them leaves, and one is closed by what it said, as soon as that is read.
    rig.say(b, &[&[0, 77]]);
    rig.feed(Event::Closed { conn: c });
    rig.turn();
    assert!(rig.paused.contains(&a));
    rig.settle();
    assert!(!rig.paused.contains(&a));
    assert!(rig.closed.contains(&b));
    let d = rig.open("room");
    rig.say(d, &[&sync(0, &[0])]);
    rig.turn();
    rig.settle();
    let other = Replica::new(9);
    other.hear(&rig.data(d));
    assert_eq!(other.text(), "kept and more");
}

#[test]
fn the_first_in_a_loaded_room_may_break_the_protocol() {
    let (mut rig, _) = evicted(limits());
    let [a, b] = [(); 2].map(|()| rig.open_without_turn("room"));
    rig.say(a, &[&[0, 77]]);
    rig.turn();
    rig.settle();
    assert!(rig.closed.contains(&a) && !rig.closed.contains(&b));
    rig.say(b, &[&sync(0, &[0])]);
    rig.turn();
    rig.settle();
    let doc = Replica::new(9);
    rig.skip_head(b);
    doc.hear(&rig.data(b));
    assert_eq!(doc.text(), "kept");
}

#[test]
fn handed_off_connections_count() {
    let small = SessionLimits {
        connections_max: 1,
        ..limits()
    };
    let mut rig = Rig::new(false, small);
    rig.open("room");
    let conn = ConnId {
        slot: 9,
        generation: 1,
    };
    let handoff = Box::new(Handoff {
        bytes: rig::upgrade("room"),
        peer: rig::PEER,
        claims: Claims::default(),
    });
    rig.feed(Event::HandedOff { conn, handoff });
    rig.turn();
    assert!(rig.closed.contains(&conn));
    assert!(rig.bytes(conn).starts_with(b"HTTP/1.1 503 "));
}

#[test]
fn late_events_of_a_connection_that_is_gone_are_nothing() {
    let mut rig = Rig::new(false, limits());
    let a = rig.open("room");
    for _ in 0..2 {
        rig.feed(Event::Closed { conn: a });
        rig.feed(Event::Drained { conn: a });
        rig.feed(Event::Blocked {
            conn: a,
            unsent_bytes: 7,
        });
        rig.say(a, &[&sync(0, &[0])]);
        rig.turn();
    }
}

#[test]
fn data_frames_keep_a_silent_client_content_whatever_it_pings() {
    let mut rig = Rig::new(false, limits());
    let a = rig.open("room");
    rig.heard(a);
    let mut silence = 0;
    for second in 0..120 {
        if second % 7 == 0 {
            let mut ping = Vec::new();
            rig::frame(0x89, b"", &mut ping);
            rig.raw(a, ping);
            rig.turn();
        }
        rig.pass(Duration::from_secs(1));
        let heard = rig.heard(a);
        assert!(second % 7 != 0 || heard.iter().any(|(op, _)| *op == PONG));
        silence = if heard.iter().any(|(op, _)| *op == 2) {
            0
        } else {
            silence + 1
        };
        assert!(silence < 25, "a client closes after 30 s without data");
    }
}

#[test]
fn a_client_that_only_answers_pings_hears_data_in_time() {
    let mut rig = Rig::new(false, limits());
    let a = rig.open("room");
    rig.heard(a);
    let mut silence = 0;
    for _ in 0..200 {
        rig.pass(Duration::from_secs(1));
        let heard = rig.heard(a);
        if heard.iter().any(|(op, _)| *op == 9) {
            let mut pong = Vec::new();
            rig::frame(0x8a, b"", &mut pong);
            rig.raw(a, pong);
            rig.turn();
        }
        silence = if heard.iter().any(|(op, _)| *op == 2) {
            0
        } else {
            silence + 1
        };
        assert!(silence < 25, "a client closes after 30 s without data");
    }
}

#[test]
fn half_sent_messages_of_all_together_are_bounded() {
    let small = SessionLimits {
        half_read_bytes_max: 1 << 20,
        ..limits()
    };
    let mut rig = Rig::new(false, small);
    let conns: Vec<_> = (0..20).map(|_| rig.open("room")).collect();
    for &conn in &conns {
        let mut whole = Vec::new();
        rig::frame(0x82, &vec![0; 1 << 20], &mut whole);
        rig.raw(conn, whole[..200 << 10].to_vec());
        rig.turn();
    }
    let open = conns.iter().filter(|c| !rig.closed.contains(c)).count();
    assert!((2..=5).contains(&open), "{open}");
}

#[test]
fn who_has_what_builds_on_what_was_missing_is_asked_when_it_has_come() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = (rig.open("room"), rig.open("room"));
    let (base, top) = (Replica::new(1), Replica::new(2));
    let missing = base.write("base, ");
    top.apply(&missing);
    let rest = top.write("on top");
    for conn in [a, b] {
        rig.data(conn);
    }
    // A reply that builds on what the room lacks: its causal part is nothing.
    rig.say(b, &[&sync(1, &rest)]);
    rig.turn();
    rig.settle();
    assert!(
        rig.data(b).is_empty(),
        "asking at once would bring the same"
    );
    let stranger = Replica::new(3).write("x");
    rig.say(a, &[&sync(2, &stranger)]);
    rig.turn();
    rig.settle();
    assert_eq!(rig.data(b), [sync(2, &stranger)], "that was not it");
    rig.say(a, &[&sync(2, &missing)]);
    rig.turn();
    rig.settle();
    let asked: Vec<_> = rig
        .data(b)
        .into_iter()
        .filter(|m| m[..2] == [0, 0])
        .collect();
    assert_eq!(asked.len(), 1);
    rig.say(b, &[&sync(1, &rest)]);
    rig.turn();
    rig.settle();
    assert!(
        rig.data(a).contains(&sync(2, &rest)),
        "and it is there at last"
    );
    rig.say(a, &[&sync(2, &base.write("more"))]);
    rig.turn();
    let asked = rig.data(b).iter().any(|m| m[..2] == [0, 0]);
    assert!(!asked, "nobody is asked twice");
    rig.settle();
}
