//! A room's data that the disk does not give: its sessions are told, other rooms hear nothing of it.

use crate::limits;
use crate::rig::{Replica, Rig, awareness, sync};
use collabblocks_server::shard::{ConnId, Event};
use collabblocks_wal::Disk;
use collabblocks_wal::sim_disk::{ReadFault, SimDisk};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A shard that has put the room "bad" to disk and out of memory, with a session in "other"; and
/// the file of the snapshot.
fn evicted(sim: &SimDisk, doc: &Replica) -> (Rig, ConnId, PathBuf) {
    let mut rig = Rig::over(&(Arc::new(sim.clone()) as Arc<dyn Disk>), false, limits());
    let bad = rig.open("bad");
    rig.say(bad, &[&sync(2, &doc.write("kept"))]);
    rig.turn();
    rig.settle();
    assert_eq!(rig.data(bad).len(), 2, "greeted, and its update is safe");
    rig.feed(Event::Closed { conn: bad });
    rig.turn();
    rig.pass(Duration::from_secs(1));
    rig.settle();
    assert_eq!(rig.stats().engine.rooms_loaded, 0, "it is evicted");
    let other = rig.open("other");
    rig.data(other);
    let mut files = sim.files().into_keys();
    let snapshot = files.find(|path| path.extension().is_some_and(|e| e == "snap"));
    (rig, other, snapshot.expect("there is a snapshot"))
}

/// Somebody edits in the room: it is safe, and heard.
fn is_served(rig: &mut Rig, writer: ConnId, doc: &Replica) {
    let update = sync(2, &doc.write("more"));
    rig.say(writer, &[&update]);
    rig.turn();
    rig.settle();
    assert_eq!(rig.data(writer), [update]);
}

#[test]
fn a_room_whose_snapshot_cannot_be_read_closes_its_sessions_with_1011_and_no_others() {
    let sim = SimDisk::new();
    let (doc, elsewhere) = (Replica::new(1), Replica::new(2));
    let (mut rig, other, snapshot) = evicted(&sim, &doc);
    let bytes = sim.bytes(&snapshot).unwrap().len() as u64;
    sim.spoil(&snapshot, 0..bytes, ReadFault::Lasting);
    let before = sim.bytes(&snapshot);
    for _ in 0..3 {
        let (a, b) = (rig.open("bad"), rig.open("bad"));
        // What is said before it is known that the room cannot be read is not acknowledged.
        let lost = Replica::new(3).write("not taken");
        rig.say(a, &[&awareness(&[(3, 1, "{}")]), &sync(2, &lost)]);
        rig.turn();
        rig.settle();
        for conn in [a, b] {
            let heard = rig.heard(conn);
            assert!(
                heard.iter().all(|(opcode, _)| *opcode == 8),
                "nothing before the end: {heard:?}"
            );
            let [(_, close)] = heard.as_slice() else {
                panic!("{heard:?}");
            };
            assert_eq!(close[..2], 1011u16.to_be_bytes());
            assert!(
                String::from_utf8_lossy(&close[2..]).contains("could not be loaded"),
                "{close:?}"
            );
            assert!(rig.closed.contains(&conn));
        }
        is_served(&mut rig, other, &elsewhere);
    }
    assert!(!rig.closed.contains(&other));
    assert_eq!(sim.bytes(&snapshot), before, "nothing is written over it");
    // The disk reads again: the next session has all that was acknowledged.
    sim.heal();
    let again = rig.open("bad");
    rig.say(again, &[&sync(0, &[0])]);
    rig.turn();
    rig.settle();
    let copy = Replica::new(4);
    copy.hear(&rig.data(again)[1..]);
    assert_eq!(copy.text(), "kept");
    is_served(&mut rig, again, &copy);
}

#[test]
fn one_read_that_fails_costs_one_session_its_connection() {
    let sim = SimDisk::new();
    let doc = Replica::new(1);
    let (mut rig, other, snapshot) = evicted(&sim, &doc);
    assert_ne!(snapshot, Path::new("/"));
    sim.spoil(&snapshot, 4096..4097, ReadFault::Once);
    let a = rig.open("bad");
    rig.settle();
    assert_eq!(rig.close_code(a), Some(1011));
    let b = rig.open("bad");
    rig.say(b, &[&sync(0, &[0])]);
    rig.turn();
    rig.settle();
    let copy = Replica::new(4);
    copy.hear(&rig.data(b)[1..]);
    assert_eq!(copy.text(), "kept");
    assert!(!rig.closed.contains(&b) && !rig.closed.contains(&other));
}
