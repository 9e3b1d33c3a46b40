//! Small messages that ask for large answers.

use crate::limits;
use crate::rig::{Replica, Rig, awareness, sync};
use collabblocks_server::shard::SessionLimits;

/// A room with a document of 100 KiB and as much presence.
fn rich() -> Rig {
    let mut rig = Rig::new(false, limits());
    let a = rig.open("room");
    rig.say(
        a,
        &[&sync(2, &Replica::new(1).write(&"x".repeat(100 << 10)))],
    );
    let state = format!("\"{}\"", "p".repeat(10 << 10));
    for client in 0..10 {
        rig.say(a, &[&awareness(&[(client, 1, &state)])]);
    }
    rig.turn();
    rig.settle();
    rig.frames_peak = 0;
    rig
}

#[test]
fn presence_is_told_once_however_often_it_is_asked_for() {
    let mut rig = rich();
    let b = rig.open("room");
    rig.data(b);
    rig.say(b, &[&[3; 2000]]);
    rig.turn();
    assert_eq!(rig.data(b).len(), 1);
    assert!(rig.frames_peak < 1 << 20, "{}", rig.frames_peak);
}

#[test]
fn step_1_is_answered_once_a_turn_however_often_it_comes() {
    for durable in [true, false] {
        let mut rig = rich();
        let b = rig.open("room");
        if !durable {
            rig.say(b, &[&sync(2, &Replica::new(2).write("y"))]);
        }
        rig.data(b);
        for _ in 0..10 {
            rig.say(b, &[&sync(0, &[1, 9, 1]).repeat(200)]);
        }
        rig.turn();
        for _ in 0..10 {
            rig.say(b, &[&sync(0, &[1, 9, 1]).repeat(200)]);
        }
        rig.turn();
        rig.settle();
        let steps = rig.data(b).iter().filter(|m| m[..2] == [0, 1]).count();
        assert!((1..=2).contains(&steps), "{steps}");
        assert!(rig.frames_peak < 1 << 20, "{}", rig.frames_peak);
    }
}

#[test]
fn gaps_are_asked_for_once_a_turn() {
    let mut rig = rich();
    let b = rig.open("room");
    rig.data(b);
    let doc = Replica::new(3);
    doc.write("never sent");
    let gap = sync(2, &doc.write("x"));
    let known = sync(2, &[0, 0]);
    let reply = sync(1, &[0, 0]);
    let all = [reply, gap, known].concat().repeat(100);
    rig.say(b, &[&all]);
    rig.turn();
    let asked = rig.data(b).iter().filter(|m| m[..2] == [0, 0]).count();
    assert_eq!(asked, 1);
}

#[test]
fn large_documents_go_to_many_joiners_at_the_pace_of_the_turns() {
    let mut rig = Rig::new(false, limits());
    let a = rig.open("room");
    let doc = Replica::new(1);
    for client in 0..16 {
        let part = Replica::new(100 + client);
        part.apply(&doc.state());
        let update = part.write(&"x".repeat(100 << 10));
        doc.apply(&update);
        rig.say(a, &[&sync(2, &update)]);
    }
    rig.turn();
    rig.settle();
    rig.frames_peak = 0;
    let joiners: Vec<_> = (0..200).map(|_| rig.open("room")).collect();
    for &conn in &joiners {
        rig.say(conn, &[&sync(0, &[0])]);
    }
    rig.turn();
    rig.settle();
    assert!(rig.frames_peak < 32 << 20, "{}", rig.frames_peak);
    for conn in joiners {
        let other = Replica::new(9);
        other.hear(&rig.data(conn));
        assert_eq!(other.text().len(), doc.text().len());
    }
}

#[test]
fn many_who_write_at_once_do_not_get_a_copy_each_in_one_turn() {
    for soft in [64 << 20, 1 << 10] {
        let limits = SessionLimits {
            queue_soft_bytes: soft,
            ..limits()
        };
        let mut rig = Rig::new(false, limits);
        let authors: Vec<_> = (0..64)
            .map(|n| (rig.open("room"), Replica::new(n)))
            .collect();
        rig.settle();
        for (conn, doc) in &authors {
            rig.data(*conn);
            let update = sync(2, &doc.write(&"x".repeat(32 << 10)));
            rig.say(*conn, &[&update]);
        }
        rig.turn();
        assert!(rig.frames_peak < 16 << 20, "{}", rig.frames_peak);
        rig.settle();
        assert!(rig.frames_peak < 16 << 20, "{}", rig.frames_peak);
        for (conn, doc) in &authors {
            doc.hear(&rig.data(*conn));
            assert_eq!(doc.text().len(), 64 * (32 << 10), "{soft}");
        }
    }
}

#[test]
fn a_storm_of_joiners_is_told_who_is_there_at_the_pace_of_the_turns() {
    let mut rig = rich();
    let joiners: Vec<_> = (0..300).map(|_| rig.open_without_turn("room")).collect();
    rig.turn();
    assert!(rig.frames_peak < 10 << 20, "{}", rig.frames_peak);
    rig.settle();
    assert!(rig.frames_peak < 10 << 20, "{}", rig.frames_peak);
    for conn in joiners {
        rig.skip_head(conn);
        let told = rig.data(conn).iter().filter(|m| m[0] == 1).count();
        assert_eq!(told, 1);
    }
}

#[test]
fn what_waits_for_rooms_to_load_is_bounded_for_all() {
    let tight = SessionLimits {
        load_queue_core_bytes_max: 1 << 20,
        load_queue_room_bytes_max: 512 << 10,
        ..limits()
    };
    let mut rig = crate::evicted(tight).0;
    let (big, small) = (vec![0; 200 << 10], sync(0, &[0]));
    let all: Vec<_> = (0..10).map(|_| rig.open_without_turn("room")).collect();
    rig.turn();
    for &conn in &all {
        rig.skip_head(conn);
        rig.say(conn, &[&sync(2, &big)]);
        rig.turn();
    }
    let kept: Vec<_> = all.iter().filter(|c| !rig.closed.contains(c)).collect();
    assert_eq!(kept.len(), 2, "the room's bound");
    assert_eq!(rig.close_code(all[5]), Some(1013));
    // Whoever says little may still come; it is read no further.
    let late = rig.open_without_turn("room");
    rig.turn();
    rig.skip_head(late);
    rig.say(late, &[&small, &[3], &sync(2, &vec![0; 120 << 10])]);
    rig.turn();
    assert_eq!(rig.close_code(late), Some(1013));
    let late = rig.open_without_turn("room");
    rig.turn();
    rig.skip_head(late);
    rig.say(late, &[&small]);
    rig.say(late, &[&vec![3; 60 << 10]]);
    rig.turn();
    // Those that go make place.
    for conn in all {
        if !rig.closed.contains(&conn) {
            rig.feed(collabblocks_server::shard::Event::Closed { conn });
        }
    }
    rig.run_jobs();
    rig.settle();
    assert!(!rig.closed.contains(&late));
    assert!(
        rig.data(late).iter().any(|m| m[..2] == [0, 1]),
        "it is answered"
    );
}
