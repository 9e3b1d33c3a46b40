//! Presence as clients see it.

use crate::limits;
use crate::rig::{Replica, Rig, awareness, sync};
use collabblocks_server::shard::{ConnId, Event, Pace, SessionLimits};
use std::time::{Duration, Instant};

fn two(rig: &mut Rig) -> (ConnId, ConnId) {
    let pair = (rig.open("room"), rig.open("room"));
    rig.data(pair.0);
    rig.data(pair.1);
    pair
}

#[test]
fn who_goes_disappears() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = two(&mut rig);
    rig.say(a, &[&awareness(&[(7, 3, "{}")])]);
    rig.turn();
    assert_eq!(rig.data(b), [awareness(&[(7, 3, "{}")])]);
    assert_eq!(
        rig.data(a),
        [awareness(&[(7, 3, "{}")])],
        "its own, as it keeps it alive"
    );
    let c = rig.open("room");
    assert_eq!(rig.data(c)[1..], [awareness(&[(7, 3, "{}")])]);
    rig.feed(Event::Closed { conn: a });
    rig.turn();
    assert_eq!(rig.data(b), [awareness(&[(7, 3, "null")])]);
    let d = rig.open("room");
    assert_eq!(rig.data(d).len(), 1, "newcomers see nothing of the gone");
}

#[test]
fn states_that_others_repeat_do_not_use_up_ones_own_share() {
    let small = SessionLimits {
        awareness_clients_max: 2,
        ..limits()
    };
    let mut rig = Rig::new(false, small);
    let (a, b) = two(&mut rig);
    rig.say(a, &[&awareness(&[(1, 1, "{}"), (2, 1, "{}")])]);
    rig.turn();
    rig.say(b, &[&awareness(&[(1, 1, "{}"), (2, 1, "{}")])]);
    rig.say(b, &[&awareness(&[(3, 1, "{}")])]);
    rig.turn();
    rig.data(b);
    let c = rig.open("room");
    assert_eq!(rig.data(c)[1].len(), awareness(&[(1, 1, "{}"); 3]).len());
    // A further one is over the bound; one that went makes room.
    rig.say(a, &[&awareness(&[(4, 1, "{}")])]);
    rig.turn();
    assert!(rig.data(b).is_empty());
    rig.say(a, &[&awareness(&[(1, 2, "null"), (4, 1, "{}")])]);
    rig.turn();
    assert_eq!(rig.data(b), [awareness(&[(1, 2, "null"), (4, 1, "{}")])]);
}

#[test]
fn removals_of_the_unknown_are_nothing() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = two(&mut rig);
    rig.say(a, &[&awareness(&[(7, 3, "null")])]);
    rig.turn();
    assert!(rig.data(b).is_empty());
}

#[test]
fn a_flood_of_clients_that_come_and_go_costs_little() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = two(&mut rig);
    let begun = Instant::now();
    for batch in 0..20u64 {
        let entries: Vec<_> = (0..500)
            .flat_map(|i| {
                let client = batch * 500 + i;
                [(client, 1, "{}"), (client, 2, "null")]
            })
            .collect();
        rig.say(a, &[&awareness(&entries)]);
    }
    rig.turn();
    assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
    rig.data(b);
}

#[test]
fn the_very_first_state_reaches_who_was_behind() {
    let mut rig = Rig::new(false, limits());
    let (a, b) = two(&mut rig);
    rig.block(b);
    rig.turn();
    rig.say(a, &[&awareness(&[(7, 3, "{}")])]);
    rig.turn();
    rig.drain(b);
    rig.turn();
    assert_eq!(rig.data(b), [awareness(&[(7, 3, "{}")])]);
}

#[test]
fn who_announces_too_fast_is_heard_at_its_rate_and_with_the_latest() {
    let slow = SessionLimits {
        presence_rate_max: 20,
        presence_burst: 5,
        ..limits()
    };
    let mut rig = Rig::new(false, slow);
    let (a, b) = (rig.open("room"), rig.open("room"));
    rig.data(b);
    let mut heard = 0;
    for clock in 1..=100 {
        rig.say(a, &[&awareness(&[(7, clock, "{}")])]);
        rig.turn();
        // What others announced, repeated, does not count.
        for message in rig.data(b) {
            rig.say(b, &[&message]);
            heard += 1;
        }
        rig.pass(Duration::from_millis(5));
    }
    heard += rig.data(b).len();
    assert!((10..=16).contains(&heard), "half a second: {heard}");
    rig.say(b, &[&awareness(&[(8, 1, "{}")])]);
    rig.pass(Duration::from_millis(100));
    rig.turn();
    assert!(rig.data(a).contains(&awareness(&[(8, 1, "{}")])));
    rig.say(a, &[&awareness(&[(7, 101, "{\"last\":1}")])]);
    rig.turn();
    rig.pass(Duration::from_millis(100));
    let last = awareness(&[(7, 101, "{\"last\":1}")]);
    assert_eq!(rig.data(b).last(), Some(&last));
}

#[test]
fn deliveries_of_a_large_room_wait_for_company_and_its_echoes_do_not() {
    let paced = SessionLimits {
        presence_rate_max: 0,
        pace: Pace {
            presence_sessions: 1,
            document_sessions: 2,
            full_sessions: 3,
            interval_max: Duration::from_millis(20),
        },
        ..limits()
    };
    let mut rig = Rig::new(false, paced);
    let conns = [0, 1, 2].map(|_| rig.open("room"));
    let doc = Replica::new(1);
    rig.pass(Duration::from_millis(50));
    for conn in conns {
        rig.data(conn);
    }
    let updates = [0, 1, 2].map(|n| sync(2, &doc.write(&format!("{n}"))));
    for (n, update) in updates.iter().enumerate() {
        rig.say(conns[0], &[update, &awareness(&[(7, n as u32 + 1, "{}")])]);
        rig.turn();
        rig.settle();
    }
    let first = [updates[0].clone(), awareness(&[(7, 1, "{}")])];
    assert_eq!(rig.data(conns[1]), first, "a room at rest is told at once");
    let echoes = rig.data(conns[0]);
    assert_eq!(echoes.iter().filter(|m| m[0] == 0).count(), 3);
    rig.pass(Duration::from_millis(19));
    assert!(rig.data(conns[1]).is_empty());
    rig.pass(Duration::from_millis(2));
    let rest = [
        updates[1].clone(),
        updates[2].clone(),
        awareness(&[(7, 3, "{}")]),
    ];
    assert_eq!(rig.data(conns[1]), rest);
}
