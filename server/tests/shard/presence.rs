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
    let mut told = rig.data(conns[1]);
    assert!(told.starts_with(&first), "a room at rest is told at once");
    let echoes = rig.data(conns[0]);
    assert_eq!(echoes.iter().filter(|m| m[0] == 0).count(), 3);
    rig.pass(Duration::from_millis(21));
    told.extend(rig.data(conns[1]));
    let all: Vec<_> = told.iter().filter(|m| m[0] == 0).cloned().collect();
    assert_eq!(all, updates);
    assert_eq!(told.last(), Some(&awareness(&[(7, 3, "{}")])));
}

#[test]
fn sessions_of_a_large_room_have_their_own_moments_and_hear_all_in_order() {
    let paced = SessionLimits {
        presence_rate_max: 0,
        pace: Pace {
            presence_sessions: 1,
            document_sessions: 2,
            full_sessions: 3,
            interval_max: Duration::from_millis(16),
        },
        ..limits()
    };
    let mut rig = Rig::new(false, paced);
    let conns: Vec<_> = (0..40).map(|_| rig.open("room")).collect();
    let doc = Replica::new(1);
    rig.pass(Duration::from_millis(50));
    for conn in &conns {
        rig.data(*conn);
    }
    let mut written = Vec::new();
    let mut heard = vec![Vec::new(); conns.len()];
    let mut moments = vec![0; conns.len()];
    let mut most_at_once = 0;
    for ms in 0..160 {
        let update = sync(2, &doc.write("x"));
        rig.say(conns[0], &[&update, &awareness(&[(7, ms + 1, "{}")])]);
        written.push(update);
        rig.turn();
        rig.settle();
        rig.pass(Duration::from_millis(1));
        let mut at_once = 0;
        for (index, conn) in conns.iter().enumerate() {
            let data = rig.data(*conn);
            let told = data.last().is_some_and(|message| message[0] == 1);
            moments[index] += usize::from(told);
            at_once += usize::from(told);
            heard[index].extend(data);
        }
        if ms > 32 {
            most_at_once = most_at_once.max(at_once);
        }
    }
    rig.pass(Duration::from_millis(20));
    for (index, conn) in conns.iter().enumerate().skip(1) {
        heard[index].extend(rig.data(*conn));
        let documents: Vec<_> = heard[index].iter().filter(|m| m[0] == 0).cloned().collect();
        assert!(documents == written, "session {index}");
        assert_eq!(heard[index].last(), Some(&awareness(&[(7, 160, "{}")])));
        // Ten intervals; the first time it was told at once.
        assert!((9..=12).contains(&moments[index]), "{}", moments[index]);
    }
    // Sixteen groups of at most three, each at its own of sixteen moments.
    assert!(most_at_once <= 6, "{most_at_once}");
}

#[test]
fn who_falls_behind_while_frames_wait_gets_a_diff_and_not_the_whole_document() {
    let paced = SessionLimits {
        queue_soft_bytes: 4 << 10,
        pace: Pace {
            presence_sessions: 1,
            document_sessions: 1,
            full_sessions: 2,
            interval_max: Duration::from_millis(20),
        },
        ..limits()
    };
    let mut rig = Rig::new(false, paced);
    let conns = [0, 1, 2].map(|_| rig.open("room"));
    let doc = Replica::new(1);
    let big = "a".repeat(50_000);
    rig.say(conns[0], &[&sync(2, &doc.write(&big))]);
    rig.turn();
    rig.settle();
    rig.pass(Duration::from_millis(50));
    let reader = Replica::new(2);
    reader.hear(&rig.data(conns[1]));
    // Until the end frames wait: the reader falls behind among them, and misses more than is kept.
    for n in 0..40 {
        rig.say(conns[0], &[&sync(2, &doc.write(&"b".repeat(200)))]);
        rig.turn();
        rig.settle();
        if n == 3 {
            reader.hear(&rig.data(conns[1]));
            rig.block(conns[1]);
        }
        rig.pass(Duration::from_millis(3));
    }
    rig.drain(conns[1]);
    rig.turn();
    rig.settle();
    rig.pass(Duration::from_millis(50));
    rig.settle();
    let told = rig.data(conns[1]);
    let bytes: usize = told.iter().map(Vec::len).sum();
    assert!((8_000..16_000).contains(&bytes), "{bytes}");
    reader.hear(&told);
    assert_eq!(reader.text(), doc.text());
}

#[test]
fn who_comes_while_frames_wait_hears_what_comes_after() {
    let paced = SessionLimits {
        pace: Pace {
            presence_sessions: 1,
            document_sessions: 1,
            full_sessions: 2,
            interval_max: Duration::from_millis(20),
        },
        ..limits()
    };
    let mut rig = Rig::new(false, paced);
    let conns = [0, 1, 2].map(|_| rig.open("room"));
    let doc = Replica::new(1);
    rig.pass(Duration::from_millis(50));
    let [before, after] = ["a", "b"].map(|text| sync(2, &doc.write(text)));
    // Told at once; from then on frames wait.
    rig.say(conns[0], &[&sync(2, &Replica::new(3).write("x"))]);
    rig.turn();
    rig.say(conns[0], &[&before]);
    rig.turn();
    let late = rig.open("room");
    rig.say(conns[0], &[&after]);
    rig.pass(Duration::from_millis(50));
    let heard = rig.data(late);
    assert!(heard.contains(&after));
    // It may be the newcomer's own, of a connection before, and not durable yet.
    assert!(!heard.contains(&before));
    let heard = rig.data(conns[1]);
    assert!(heard.contains(&before) && heard.contains(&after));
}
