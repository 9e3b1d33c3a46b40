//! Large updates are told as they came, in slices, and in order with all else.

use crate::limits;
use crate::rig::{Replica, Rig, config, frame, sync};
use collabblocks_server::shard::{ConnId, Event, SessionLimits};
use collabblocks_wal::Disk;
use collabblocks_wal::sim_disk::SimDisk;
use std::sync::Arc;

/// Updates of so many bytes are applied by a job; of sixteen times as many they are large.
const APART: usize = 100;
const LARGE: usize = 16 * APART;
const SLICE: usize = 500;

fn sliced() -> SessionLimits {
    SessionLimits {
        slice_bytes: SLICE,
        ..limits()
    }
}

fn rig_of(strict: bool, limits: SessionLimits) -> Rig {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    Rig::apart(&disk, config(strict, limits, 0, 1), APART)
}

fn greeted(rig: &mut Rig) -> ConnId {
    let conn = rig.open("room");
    rig.data(conn);
    conn
}

fn large(doc: &Replica) -> Vec<u8> {
    sync(2, &doc.write(&"x".repeat(LARGE)))
}

fn small(doc: &Replica) -> Vec<u8> {
    sync(2, &doc.write("small"))
}

#[test]
fn peers_and_their_author_get_what_came_in_order_and_in_slices() {
    for strict in [false, true] {
        let mut rig = rig_of(strict, sliced());
        let [a, b, c] = [(); 3].map(|()| greeted(&mut rig));
        let doc = Replica::new(1);
        let said: Vec<_> = (0..3)
            .flat_map(|_| [small(&doc), large(&doc), large(&doc), small(&doc)])
            .collect();
        let of_c = sync(2, &Replica::new(3).write("beside"));
        for (n, message) in said.iter().enumerate() {
            rig.say(a, &[message]);
            if n == 5 {
                rig.say(c, &[&of_c]);
            }
            if n % 2 == 0 {
                rig.turn();
            }
        }
        rig.frames_peak = 0;
        rig.settle();
        assert!(
            rig.frames_peak < 3 * (SLICE + 100) + LARGE / 2,
            "{} bytes in a turn",
            rig.frames_peak
        );
        let without = |mut heard: Vec<Vec<u8>>| {
            let before = heard.len();
            heard.retain(|message| *message != of_c);
            assert_eq!(heard.len() + 1, before, "each hears the other one once");
            heard
        };
        assert!(without(rig.data(a)) == said, "its echoes, in order");
        assert!(without(rig.data(b)) == said);
        assert!(without(rig.data(c)) == said);
    }
}

#[test]
fn an_update_in_any_buffer_is_told_as_clients_write_it() {
    let mut rig = rig_of(false, sliced());
    let [a, b] = [(); 2].map(|()| greeted(&mut rig));
    let doc = Replica::new(1);
    let mut cut_into = |update: Vec<u8>, message: Vec<u8>| {
        let mut bytes = Vec::new();
        frame(0x82, &message, &mut bytes);
        // As a socket gives it.
        for piece in bytes.chunks(10_000) {
            rig.raw(a, piece.to_vec());
            rig.turn();
        }
        rig.settle();
        let told = [sync(2, &update)];
        assert!(rig.data(b) == told);
        let mut heard = rig.data(a);
        heard.retain(|message| message[0] == 0);
        assert!(heard == told);
    };
    let much = "x".repeat(100_000);
    let update = doc.write(&much);
    cut_into(update.clone(), sync(2, &update));
    // A length that is written in more bytes than it needs.
    let update = doc.write(&much);
    let mut message = sync(2, &update);
    let last = message.len() - update.len() - 1;
    message[last] |= 0x80;
    message.insert(last + 1, 0);
    cut_into(update, message);
    // Answered, not announced.
    let update = doc.write(&much);
    cut_into(update.clone(), sync(1, &update));
    // With another message before it.
    let update = doc.write(&much);
    let before = [&[3][..], &sync(2, &update)].concat();
    cut_into(update, before);
}

#[test]
fn who_is_behind_gets_it_among_what_was_missed() {
    let mut rig = rig_of(false, sliced());
    let [a, b] = [(); 2].map(|()| greeted(&mut rig));
    let doc = Replica::new(1);
    rig.block(b);
    let said = [small(&doc), large(&doc), small(&doc), large(&doc)];
    for message in &said {
        rig.say(a, &[message]);
        rig.turn();
        rig.settle();
    }
    assert!(rig.data(b).is_empty());
    rig.drain(b);
    rig.turn();
    rig.settle();
    assert!(rig.data(b) == said);
    assert!(rig.data(a) == said);
}

#[test]
fn past_the_memory_for_them_peers_are_told_by_a_diff() {
    let tight = SessionLimits {
        answer_bytes_max: 2 * LARGE,
        ..sliced()
    };
    let mut rig = rig_of(false, tight);
    let [a, b] = [(); 2].map(|()| greeted(&mut rig));
    let doc = Replica::new(1);
    let said = [(); 4].map(|()| large(&doc));
    rig.block(a);
    for message in &said {
        rig.say(a, &[message]);
        rig.turn();
        rig.settle();
    }
    let mut heard = rig.data(b);
    assert!(heard == said[..2], "what there was memory for");
    // When its author has taken those, there is memory for a diff of the rest.
    rig.drain(a);
    rig.turn();
    rig.settle();
    let diff = rig.data(b);
    assert!(diff[0][..2] == [0, 1] && !said.contains(&diff[0]));
    heard.extend(diff);
    let reader = Replica::new(9);
    reader.hear(&heard);
    assert!(reader.text() == doc.text());
    let mut heard = rig.data(a);
    heard.retain(|message| message[..2] == [0, 2]);
    assert!(heard == said, "echoes are the bytes that came");
}

#[test]
fn what_waits_for_the_log_or_for_its_author_counts() {
    let small_queue = SessionLimits {
        queue_hard_bytes: 3 * LARGE,
        ..sliced()
    };
    let mut rig = rig_of(false, small_queue);
    let [a, b] = [(); 2].map(|()| greeted(&mut rig));
    let doc = Replica::new(1);
    let say = |rig: &mut Rig| {
        rig.say(a, &[&large(&doc)]);
        rig.turn();
        rig.run_jobs();
    };
    say(&mut rig);
    assert!(rig.stats().ack_queue_bytes > LARGE as u64);
    rig.settle();
    assert_eq!(rig.stats().ack_queue_bytes, 0);
    assert_eq!(rig.data(a).len(), 1);
    // The disk takes nothing.
    for _ in 0..4 {
        say(&mut rig);
    }
    assert_eq!(rig.close_code(a), Some(1013), "the disk cannot keep up");
    rig.settle();
    // An author that does not read.
    rig.data(b);
    rig.block(b);
    let doc = Replica::new(2);
    for _ in 0..5 {
        if !rig.closed.contains(&b) {
            rig.say(b, &[&large(&doc)]);
            rig.turn();
            rig.settle();
        }
    }
    assert!(rig.closed.contains(&b), "more waits for it than may");
}

#[test]
fn who_leaves_takes_nothing_along() {
    let mut rig = rig_of(false, sliced());
    let [a, b, c] = [(); 3].map(|()| greeted(&mut rig));
    let doc = Replica::new(1);
    let update = large(&doc);
    rig.say(a, &[&update]);
    rig.turn();
    rig.run_jobs();
    // In the middle of what it is told.
    rig.turn();
    rig.feed(Event::Closed { conn: b });
    rig.turn();
    rig.feed(Event::Closed { conn: a });
    rig.turn();
    rig.settle();
    assert!(rig.data(c) == [update]);
    let next = sync(2, &Replica::new(3).write("next"));
    rig.say(c, &[&next]);
    rig.turn();
    rig.settle();
    assert!(rig.data(c) == [next]);
}
