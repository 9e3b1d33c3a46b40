//! Presence as clients see it.

use crate::limits;
use crate::rig::{Rig, awareness};
use collabblocks_server::shard::{ConnId, Event, SessionLimits};
use std::time::Instant;

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
