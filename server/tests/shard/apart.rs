//! Large work on a document is done by a job: its room waits, and nobody else.

use crate::identity::may;
use crate::rig::{Replica, Rig, awareness, config, engine_config, sync};
use crate::{PONG, limits};
use collabblocks_server::shard::{
    Access, ConnId, ControlReply, ControlRequest, Event, SessionLimits, ShardConfig,
};
use collabblocks_storage_engine::{EngineConfig, WorkLimits};
use collabblocks_wal::Disk;
use collabblocks_wal::sim_disk::SimDisk;
use std::cell::Cell;
use std::sync::Arc;

const LARGE: usize = 1000;

fn rig(limits: SessionLimits) -> Rig {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    Rig::apart(&disk, config(false, limits, 0, 1), LARGE)
}

fn greeted(rig: &mut Rig, room: &str) -> ConnId {
    let conn = rig.open(room);
    rig.data(conn);
    conn
}

/// A client has sent a large update, and a job has the document.
fn away(rig: &mut Rig, a: ConnId) -> (Replica, Vec<u8>) {
    let doc = Replica::new(1);
    let update = sync(2, &doc.write(&"x".repeat(LARGE)));
    rig.say(a, &[&update]);
    rig.turn();
    assert_eq!(rig.jobs.len(), 1, "{:?}", rig.jobs);
    (doc, update)
}

#[test]
fn a_large_update_holds_up_its_room_alone() {
    let mut rig = rig(limits());
    let [a, b] = [(); 2].map(|()| greeted(&mut rig, "room"));
    let [c, d] = [(); 2].map(|()| greeted(&mut rig, "other"));
    let (_, large) = away(&mut rig, a);
    let small = sync(2, &Replica::new(2).write("small"));
    let states = awareness(&[(2, 1, "{}")]);
    rig.say(b, &[&small, &states]);
    let elsewhere = sync(2, &Replica::new(3).write("elsewhere"));
    rig.say(c, &[&elsewhere]);
    rig.turn();
    assert_eq!(rig.data(d), [elsewhere], "another room does not wait");
    let told = [states];
    assert_eq!(rig.data(a), told, "neither does presence");
    assert_eq!(rig.data(b), told);
    rig.run_jobs();
    let (large, small) = ([large], [small]);
    assert_eq!(rig.data(b), large);
    assert_eq!(rig.data(a), small);
    rig.settle();
    assert_eq!(rig.data(a), large, "its echo, once it is durable");
    assert_eq!(rig.data(b), small);
}

#[test]
fn what_follows_in_order_is_taken_in_order() {
    let mut rig = rig(limits());
    let [a, b] = [(); 2].map(|()| greeted(&mut rig, "room"));
    let (doc, first) = away(&mut rig, a);
    // One that builds on it, another large one that builds on that, and one more.
    let rest = ["y", &"z".repeat(LARGE), "."].map(|text| sync(2, &doc.write(text)));
    rig.say(a, &[&rest[0], &rest[1], &rest[2]]);
    rig.turn();
    rig.run_jobs();
    assert_eq!(rig.data(b), [first.clone(), rest[0].clone()]);
    assert_eq!(rig.jobs.len(), 1, "the next large one");
    rig.run_jobs();
    assert_eq!(rig.data(b), [rest[1].clone(), rest[2].clone()]);
    rig.settle();
    let echoes: Vec<_> = std::iter::once(first).chain(rest).collect();
    assert_eq!(rig.data(a), echoes);
}

#[test]
fn a_gap_is_asked_for_once_however_much_waits() {
    let mut rig = rig(limits());
    let [a, b] = [(); 2].map(|()| greeted(&mut rig, "room"));
    away(&mut rig, a);
    let doc = Replica::new(2);
    doc.write("never sent ");
    for n in 0..10 {
        rig.say(b, &[&sync(2, &doc.write(&n.to_string()))]);
    }
    // What the client answers, unasked, comes after those.
    rig.say(b, &[&sync(1, &doc.state())]);
    rig.turn();
    rig.run_jobs();
    rig.settle();
    assert_eq!(rig.close_code(b), None);
    let heard = Replica::new(9);
    heard.hear(&rig.data(a));
    assert!(heard.text().ends_with("never sent 0123456789"));
}

#[test]
fn who_comes_meanwhile_gets_all() {
    let mut rig = rig(limits());
    let a = greeted(&mut rig, "room");
    let (doc, _) = away(&mut rig, a);
    let b = rig.open("room");
    rig.say(b, &[&sync(0, &[0])]);
    rig.turn();
    assert!(
        rig.data(b).is_empty(),
        "it is greeted when the room is back"
    );
    rig.settle();
    let heard = Replica::new(9);
    heard.hear(&rig.data(b));
    assert!(heard.text() == doc.text());
}

#[test]
fn what_somebody_sent_who_has_left_is_kept_and_told_once_durable() {
    for stays in [true, false] {
        let mut rig = rig(limits());
        let a = greeted(&mut rig, "room");
        let b = stays.then(|| greeted(&mut rig, "room"));
        let (doc, large) = away(&mut rig, a);
        rig.feed(Event::Closed { conn: a });
        rig.turn();
        rig.run_jobs();
        if let Some(b) = b {
            assert!(rig.data(b).is_empty(), "its author cannot send it again");
            rig.settle();
            assert_eq!(rig.data(b), [large]);
        }
        rig.settle();
        let c = greeted(&mut rig, "room");
        rig.say(c, &[&sync(0, &[0])]);
        rig.turn();
        rig.settle();
        let heard = Replica::new(9);
        heard.hear(&rig.data(c));
        assert!(heard.text() == doc.text(), "{stays}");
    }
}

#[test]
fn one_job_makes_the_answer_of_all_who_lack_the_same() {
    let mut rig = rig(limits());
    let a = greeted(&mut rig, "room");
    let doc = Replica::new(1);
    rig.say(a, &[&sync(2, &doc.write_bold(&"x".repeat(8 * LARGE)))]);
    rig.turn();
    rig.settle();
    rig.data(a);
    let joiners = [(); 3].map(|()| greeted(&mut rig, "room"));
    for conn in joiners {
        rig.say(conn, &[&sync(0, &[0])]);
    }
    rig.turn();
    assert_eq!(rig.jobs.len(), 1, "{:?}", rig.jobs);
    let answer = sync(1, &doc.state());
    let next = sync(2, &doc.write("next"));
    rig.say(a, &[&next]);
    rig.turn();
    assert!(joiners.iter().all(|&conn| rig.data(conn).is_empty()));
    rig.run_jobs();
    rig.settle();
    let first = rig.data(joiners[0]);
    assert_eq!(first, [answer.clone(), next]);
    for conn in joiners {
        let heard = Replica::new(9);
        heard.hear(&first);
        heard.hear(&rig.data(conn));
        assert!(heard.text() == doc.text(), "nothing is lost meanwhile");
    }
}

#[test]
fn snapshots_of_large_documents_are_encoded_by_a_job_too() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let doc = Replica::new(1);
    {
        let mut rig = Rig::apart(&disk, config(false, limits(), 0, 1), LARGE);
        let a = greeted(&mut rig, "room");
        rig.say(a, &[&sync(2, &doc.write(&"x".repeat(8 * LARGE)))]);
        rig.turn();
        rig.settle();
        rig.feed(Event::Closed { conn: a });
        rig.turn();
        // Idle rooms go after a millisecond.
        rig.pass(std::time::Duration::from_millis(5));
        let apart = format!("{:?}", rig.jobs);
        assert!(apart.contains("apart"), "{apart}");
        rig.settle();
        rig.pass(std::time::Duration::from_millis(100));
        rig.settle();
        assert_eq!(rig.stats().engine.rooms_evicted, 1);
    }
    let mut rig = Rig::apart(&disk, config(false, limits(), 0, 1), LARGE);
    let b = rig.open("room");
    rig.say(b, &[&sync(0, &[0])]);
    rig.turn();
    rig.settle();
    let heard = Replica::new(9);
    heard.hear(&rig.data(b));
    assert!(heard.text() == doc.text());
}

#[test]
fn what_waits_is_bounded() {
    let tight = SessionLimits {
        load_queue_room_bytes_max: 200,
        ..limits()
    };
    let mut rig = rig(tight);
    let [a, b] = [(); 2].map(|()| greeted(&mut rig, "room"));
    away(&mut rig, a);
    let doc = Replica::new(2);
    rig.say(b, &[&sync(2, &doc.write("fits"))]);
    rig.turn();
    assert_eq!(rig.close_code(b), None);
    // However small they are.
    for _ in 0..10 {
        if !rig.closed.contains(&b) {
            rig.say(b, &[&sync(2, &doc.write("."))]);
            rig.turn();
        }
    }
    assert_eq!(rig.close_code(b), Some(1013));
    rig.run_jobs();
    rig.settle();
    assert_eq!(rig.close_code(a), None);
}

#[test]
fn a_session_that_may_only_read_adds_nothing_to_what_waits() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    // Nothing fits the queue.
    let tight = SessionLimits {
        load_queue_room_bytes_max: 0,
        ..limits()
    };
    let asking = ShardConfig {
        authenticates: true,
        ..config(false, tight, 0, 1)
    };
    let mut rig = Rig::apart(&disk, asking, LARGE);
    let [a, b] = [(); 2].map(|()| rig.open_as("room", may(Access::ReadWrite)));
    let reader = rig.open_as("room", may(Access::ReadOnly));
    let (doc, _) = away(&mut rig, a);
    let own = Replica::new(2);
    let small = sync(2, &own.write("small"));
    let large = sync(2, &own.write(&"x".repeat(LARGE)));
    rig.say(reader, &[&small, &large, &sync(1, &own.state())]);
    rig.turn();
    assert_eq!(rig.close_code(reader), None);
    assert_eq!(rig.stats().refused["read_only"], 3);
    assert_eq!(rig.jobs.len(), 1, "{:?}", rig.jobs);
    // Of who may write it would have waited.
    rig.say(b, &[&sync(2, &Replica::new(3).write("."))]);
    rig.turn();
    assert_eq!(rig.close_code(b), Some(1013));
    rig.settle();
    let heard = Replica::new(9);
    heard.hear(&rig.data(reader));
    assert!(heard.text() == doc.text(), "theirs, and nothing of its own");
    assert_eq!(rig.stats().updates, 1);
}

#[test]
fn a_drain_waits_for_the_job() {
    let mut rig = rig(limits());
    let a = greeted(&mut rig, "room");
    let (_, large) = away(&mut rig, a);
    rig.feed(Event::Control(ControlRequest::Drain));
    rig.turn();
    assert_eq!(rig.close_code(a), None);
    rig.settle();
    rig.until(rig.now);
    let heard = rig.heard(a);
    assert!(heard.iter().all(|(opcode, _)| *opcode != PONG));
    assert!(heard.contains(&(2, large)), "it is acknowledged before");
    assert!(matches!(rig.replies[..], [ControlReply::Drained]));
}

/// So many clients, the first of them with this number, insert a character each at the start of an
/// empty text.
fn at_one_place(first: u8, count: u8) -> Vec<u8> {
    let mut update = vec![count];
    for client in (first..first + count).rev() {
        update.extend([1, client, 0, 4, 1, 1, b't', 1, b'a']);
    }
    update.push(0);
    sync(2, &update)
}

/// A shard whose engine takes but little work on the core.
fn rig_for(work: WorkLimits) -> Rig {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let engine = EngineConfig {
        work,
        ..engine_config()
    };
    Rig::with_engine(&disk, config(false, limits(), 0, 1), engine)
}

#[test]
fn small_updates_that_are_much_work_hold_up_their_room_alone() {
    let mut rig = rig_for(WorkLimits {
        core_steps_max: 150,
        ..WorkLimits::default()
    });
    let [a, b] = [(); 2].map(|()| greeted(&mut rig, "room"));
    let [c, d] = [(); 2].map(|()| greeted(&mut rig, "other"));
    let base = at_one_place(1, 40);
    rig.say(a, &[&base]);
    rig.turn();
    assert_eq!(rig.data(b), [base], "there was nothing to be passed");
    let dear = [50, 60, 70, 80].map(|client| at_one_place(client, 2));
    rig.say(a, &[&dear[0], &dear[1], &dear[2], &dear[3]]);
    let elsewhere = sync(2, &Replica::new(3).write("elsewhere"));
    rig.say(c, &[&elsewhere]);
    rig.turn();
    assert_eq!(rig.data(d), [elsewhere], "another room does not wait");
    assert!(rig.data(b).is_empty());
    // One after the other, in order; nothing is lost of what waits, and it counts once.
    for dear in &dear {
        assert_eq!(rig.jobs.len(), 1, "{:?}", rig.jobs);
        rig.run_jobs();
        assert_eq!(rig.data(b), std::slice::from_ref(dear));
    }
    rig.settle();
    let told = rig.data(a);
    assert_eq!(told.len(), 5, "their echoes: {told:?}");
}

thread_local! {
    /// What the clock shows, and by how much it goes on each time it is read.
    static CLOCK: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

#[test]
fn an_update_that_takes_too_long_closes_its_session_alone() {
    let mut rig = rig_for(WorkLimits {
        clock: || {
            let (now, step) = CLOCK.get();
            CLOCK.set((now + step, step));
            now
        },
        core_steps_max: 150,
        part_steps_max: 100,
        ..WorkLimits::default()
    });
    let [a, b] = [(); 2].map(|()| greeted(&mut rig, "room"));
    let base = at_one_place(1, 40);
    rig.say(a, &[&base]);
    rig.turn();
    rig.settle();
    assert_eq!((rig.data(a), rig.data(b)), (vec![base.clone()], vec![base]));
    CLOCK.set((0, 60_000_000_000));
    rig.say(a, &[&at_one_place(50, 20)]);
    rig.turn();
    rig.run_jobs();
    CLOCK.set((0, 0));
    // What others say meanwhile waits until the room's document has been made again.
    let next = sync(2, &Replica::new(100).write("next"));
    rig.say(b, &[&next]);
    rig.turn();
    rig.settle();
    assert_eq!(rig.close_code(a), Some(4413));
    assert_eq!(rig.close_code(b), None);
    assert_eq!(rig.stats().refused["work"], 1);
    let c = rig.open("room");
    rig.say(c, &[&sync(0, &[0])]);
    rig.turn();
    rig.settle();
    let heard = Replica::new(101);
    heard.hear(&rig.data(c));
    assert_eq!(heard.text().len(), 40 + 4, "{}", heard.text());
}
