//! Nobody is told of undurable content of its own.

use crate::limits;
use crate::rig::{Replica, Rig, awareness, sync};
use collabblocks_server::shard::{Event, SessionLimits};

#[test]
fn the_echo_waits_for_the_disk_and_peers_do_not() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = (rig.open("room"), rig.open("room"));
    rig.data(a);
    rig.data(b);
    let update = sync(2, &Replica::new(1).write("x"));
    rig.say(a, &[&update]);
    rig.turn();
    assert_eq!(rig.data(b), std::slice::from_ref(&update));
    assert!(rig.data(a).is_empty());
    rig.say(a, &[&update]);
    rig.turn();
    assert!(rig.data(a).is_empty(), "known, and not durable either");
    rig.commit();
    assert_eq!(rig.data(a), [update.clone(), update.clone()]);
    assert!(rig.data(b).is_empty());
    rig.say(a, &[&update]);
    rig.turn();
    assert_eq!(rig.data(a), [update], "known and durable: at once");
}

#[test]
fn step_2_waits_for_the_disk() {
    let mut rig = Rig::new(false, limits());
    let a = rig.open("room");
    let doc = Replica::new(1);
    rig.say(a, &[&sync(2, &doc.write("x"))]);
    rig.turn();
    let b = rig.open("room");
    rig.data(b);
    rig.say(b, &[&sync(0, &[0])]);
    rig.turn();
    assert!(rig.data(b).is_empty());
    rig.commit();
    assert_eq!(rig.data(b), [sync(1, &doc.state())]);
}

#[test]
fn what_builds_on_an_answer_comes_after_it() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = (rig.open("room"), rig.open("room"));
    rig.data(b);
    let doc = Replica::new(1);
    rig.say(a, &[&sync(2, &doc.write("first "))]);
    rig.turn();
    rig.data(b);
    let c = rig.open("room");
    rig.data(c);
    rig.say(c, &[&sync(0, &[0])]);
    rig.turn();
    let answer = sync(1, &doc.state());
    let next = sync(2, &doc.write("second"));
    rig.say(a, &[&next]);
    rig.turn();
    assert_eq!(rig.data(b), std::slice::from_ref(&next));
    assert!(rig.data(c).is_empty(), "its answer waits for the log");
    rig.commit();
    rig.turn();
    assert_eq!(rig.data(c), [answer, next]);
}

#[test]
fn what_comes_late_on_an_old_connection_is_told_to_the_new_one_when_it_is_durable() {
    let mut rig = Rig::new(false, limits());
    let (old, peer) = (rig.open("room"), rig.open("room"));
    rig.say(old, &[&awareness(&[(1, 1, "{}")])]);
    rig.turn();
    let doc = Replica::new(1);
    let (late, later) = (sync(2, &doc.write("late ")), sync(2, &doc.write("later")));
    let new = rig.open("room");
    // The client is back, and says so.
    rig.say(new, &[&sync(0, &[0]), &awareness(&[(1, 2, "{}")])]);
    rig.turn();
    rig.settle();
    for conn in [old, peer, new] {
        rig.data(conn);
    }
    rig.say(old, &[&late]);
    rig.turn();
    assert!(rig.data(new).is_empty(), "it would take it for its echo");
    rig.commit();
    for conn in [new, peer, old] {
        assert_eq!(rig.data(conn), std::slice::from_ref(&late));
    }
    // What it says on the new one goes out at once.
    rig.say(new, &[&later]);
    rig.turn();
    assert_eq!(rig.data(peer), [later]);
    rig.settle();
}

#[test]
fn strict_peers_wait_too() {
    let mut rig = Rig::new(true, limits());
    let (a, b) = (rig.open("room"), rig.open("room"));
    rig.data(a);
    rig.data(b);
    let update = sync(2, &Replica::new(1).write("x"));
    rig.say(a, &[&update]);
    rig.turn();
    assert!(rig.data(a).is_empty() && rig.data(b).is_empty());
    rig.commit();
    assert_eq!(rig.data(a), std::slice::from_ref(&update));
    assert_eq!(rig.data(b), [update]);
}

#[test]
fn a_room_made_anew_knows_what_is_still_held_for_it() {
    let small = SessionLimits {
        queue_soft_bytes: 10,
        ..limits()
    };
    let mut rig = Rig::new(true, small);
    let a = rig.open("room");
    let doc = Replica::new(1);
    rig.say(a, &[&sync(2, &doc.write("first "))]);
    rig.turn();
    rig.feed(Event::Closed { conn: a });
    rig.turn();
    // The room is empty, and made anew while its update is on its way to the disk.
    let (b, c) = (rig.open("room"), rig.open("room"));
    let other = Replica::new(2);
    rig.data(c);
    rig.say(c, &[&sync(0, &[0])]);
    rig.turn();
    rig.say(b, &[&sync(2, &doc.write("second, longer than the bound"))]);
    rig.turn();
    rig.commit();
    rig.block(c);
    rig.turn();
    rig.settle();
    other.hear(&rig.data(c));
    rig.drain(c);
    rig.turn();
    rig.settle();
    other.hear(&rig.data(c));
    assert_eq!(other.text(), doc.text());
}
