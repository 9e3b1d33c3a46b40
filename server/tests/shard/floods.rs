//! Small messages that ask for large answers.

use crate::limits;
use crate::rig::{Replica, Rig, awareness, sync};

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
