//! A disk that does not give what it holds, once or for good: a start is refused for what the
//! operating system said, a room that is asked for fails alone, nothing is cut off or written over,
//! and once the disk reads again all is there.

mod common;

use collabblocks_storage_engine::{
    EngineConfig, Notice, Refusal, RoomStatus, Salvaged, Store, list_rooms, salvage,
};
use collabblocks_wal::sim_disk::{ReadFault, SimDisk};
use collabblocks_wal::{Disk, OpenError};
use common::*;
use rand::RngExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ROOT: &str = "/data";
const BLOCK: u64 = 4096;
/// What the simulated disk says of a read that failed.
const EIO: &str = "simulated input/output error";

fn config() -> EngineConfig {
    let mut config = small_config();
    config.log.segment_bytes = 16 << 10;
    config.log.batch_bytes = 4 << 10;
    config
}

/// A store that grows by edits, and opens with all snapshots that it makes still unlisted.
fn unlisted() -> EngineConfig {
    EngineConfig {
        snapshot_live_ratio_min: 0.0,
        segments_max: 100,
        ..config()
    }
}

fn open_as(sim: &SimDisk, shards: u16, config: &EngineConfig) -> Result<Vec<Host>, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let store = Store::open(&disk, Path::new(ROOT), shards, config, [5; 32])?;
    let open = |shard| {
        let (engine, _) = store.open_shard(&disk, shard, config)?;
        Ok(Host::around(engine, &disk))
    };
    (0..shards).map(open).collect()
}

fn open(sim: &SimDisk) -> Result<Host, OpenError> {
    Ok(open_as(sim, 1, &config())?.remove(0))
}

fn edit(host: &mut Host, clients: &mut Clients, rounds: u64, seed: u64) {
    edit_by(host, clients, rounds, seed, 200);
}

fn edit_by(host: &mut Host, clients: &mut Clients, rounds: u64, seed: u64, len_max: usize) {
    let mut rng = rng(seed);
    for _ in 0..rounds {
        for (name, client) in clients.iter_mut() {
            let id = host.attach(name);
            let update = client.edit(&mut rng, len_max);
            host.engine.apply(host.now, id, &update, false).unwrap();
            host.engine.detach(host.now, id);
        }
        host.run_for(2 * MS);
    }
}

/// Rooms in snapshots that the manifest lists, in snapshots that only the log tells of, and with
/// updates that only the log has. All of it is durable; the process was killed.
fn store() -> (SimDisk, Clients) {
    let sim = SimDisk::new();
    let mut clients: Clients = (0..3)
        .map(|i| (format!("room {i}"), Client::new(i + 1)))
        .collect();
    let mut host = open(&sim).unwrap();
    edit(&mut host, &mut clients, 60, 1);
    // One whose snapshot is more than what is read at once for its head.
    let mut large: Clients = [("large".to_owned(), Client::new(4))].into();
    edit_by(&mut host, &mut large, 20, 4, 10_000);
    clients.extend(large);
    host.run_for(1000 * MS);
    host.close();
    let mut host = open_as(&sim, 1, &unlisted()).unwrap().remove(0);
    let mut some = clients.split_off("room 1");
    edit(&mut host, &mut some, 2, 2);
    host.run_for(1000 * MS);
    assert_eq!(host.engine.stats().snapshots_stored, 2);
    let mut last = some.split_off("room 2");
    edit(&mut host, &mut last, 3, 3);
    host.run_for(100 * MS);
    clients.extend(some);
    clients.extend(last);
    (sim, clients)
}

fn places(sim: &SimDisk) -> Vec<(PathBuf, u64)> {
    let places = |(path, bytes): (PathBuf, Vec<u8>)| {
        let offsets = (0..bytes.len() as u64).step_by(BLOCK as usize);
        offsets.map(move |offset| (path.clone(), offset))
    };
    sim.files().into_iter().flat_map(places).collect()
}

#[track_caller]
fn all_there(hosts: &mut [Host], clients: &Clients, when: &str) {
    for (name, client) in clients {
        let home = collabblocks_storage_engine::home_shard(name, hosts.len() as u16);
        let text = hosts[usize::from(home)].text(name);
        assert_eq!(text, client.text(), "{when}: {name}");
    }
}

#[test]
fn each_read_of_a_start_that_fails_once_refuses_it_and_costs_nothing() {
    let (sim, clients) = store();
    for shards in [1, 2] {
        let whole = sim.fork();
        let first = whole.reads_count();
        all_there(
            &mut open_as(&whole, shards, &config()).unwrap(),
            &clients,
            "without a fault",
        );
        let mut refused = 0;
        for read in 0.. {
            let sim = sim.fork();
            sim.fail_read(first + read);
            let when = format!("{shards} shards, read {read}");
            let opened = open_as(&sim, shards, &config());
            if sim.reads_failed() == 0 {
                break;
            }
            match opened {
                Ok(mut hosts) => all_there(&mut hosts, &clients, &when),
                Err(OpenError::Io { error, .. }) if error.to_string() == EIO => refused += 1,
                Err(error) => panic!("{when}: {error}"),
            }
            sim.crash(read);
            let mut hosts = open_as(&sim, shards, &config())
                .unwrap_or_else(|error| panic!("{when}, the next start: {error}"));
            all_there(&mut hosts, &clients, &when);
        }
        assert!(refused > 15, "{refused} reads");
    }
}

#[test]
fn a_place_that_cannot_be_read_refuses_the_start_or_fails_its_room_alone() {
    let (sim, clients) = store();
    let (mut refused, mut failed, mut harmless) = (0, 0, 0);
    for (path, offset) in places(&sim) {
        let sim = sim.fork();
        let when = format!("{} at {offset}", path.display());
        sim.spoil(&path, offset..offset + 512, ReadFault::Lasting);
        match open(&sim) {
            Err(OpenError::Io { error, path: at }) => {
                assert!(error.to_string() == EIO && at == path, "{when}: {error}");
                refused += 1;
            }
            Err(error) => panic!("{when}: {error}"),
            Ok(mut host) => {
                let mut bad = Vec::new();
                for (name, client) in &clients {
                    let (id, status) = host.engine.attach(host.now, name);
                    if status == RoomStatus::Loading {
                        host.run_for(MS);
                    }
                    let why = host.notices.drain(..).find_map(|notice| match notice {
                        Notice::RoomFailed(of, why) if of == id => Some(why),
                        _ => None,
                    });
                    if let Some(why) = why {
                        assert!(why.contains(EIO), "{when}: {why}");
                        let refusal = host.engine.apply(host.now, id, &client.state(), true);
                        assert!(
                            matches!(refusal, Err(Refusal::Unavailable(_))),
                            "{when}: nothing is written over it"
                        );
                        bad.push(name);
                    } else {
                        host.engine.detach(host.now, id);
                        assert_eq!(host.text(name), client.text(), "{when}");
                    }
                }
                // The same server, the same room: it is read anew for the next who asks.
                sim.heal();
                for name in &bad {
                    assert_eq!(host.text(name), clients[*name].text(), "{when}, healed");
                }
                *(if bad.is_empty() {
                    &mut harmless
                } else {
                    &mut failed
                }) += 1;
            }
        }
        sim.heal();
        sim.crash(offset);
        let host = open(&sim).unwrap_or_else(|error| panic!("{when}, healed: {error}"));
        all_there(&mut [host], &clients, &when);
    }
    println!("{refused} refused, {failed} with a room that failed, {harmless} harmless");
    assert!(refused > 5 && failed > 5);
}

/// Rooms come and go, snapshots are made, compacted and listed, and now and then a read fails.
#[test]
fn reads_that_fail_while_it_runs_cost_no_update() {
    let seed = seed(21);
    for round in 0..10 {
        let (sim, mut clients) = store();
        let mut rng = rng(seed + round);
        let mut host = open(&sim).unwrap();
        let mut failed = 0;
        for turn in 0..150 {
            for (name, client) in &mut clients {
                if rng.random_range(0..3) == 0 {
                    sim.fail_read(sim.reads_count() + rng.random_range(0..3));
                }
                let (id, status) = host.engine.attach(host.now, name);
                if status == RoomStatus::Loading {
                    host.run_for(MS);
                }
                let mine = |n: &Notice| matches!(n, Notice::RoomFailed(of, _) if *of == id);
                if host.notices.drain(..).any(|notice| mine(&notice)) {
                    failed += 1;
                    continue;
                }
                let update = client.edit(&mut rng, 200);
                let outcome = host.engine.apply(host.now, id, &update, false);
                assert!(outcome.is_ok(), "{outcome:?}");
                host.engine.detach(host.now, id);
            }
            host.run_for(if turn % 5 == 0 { 250 * MS } else { 2 * MS });
        }
        let unread = sim.reads_failed();
        sim.heal();
        assert!(failed > 3 && unread > failed, "{failed} of {unread}");
        let mut hosts = [host];
        all_there(&mut hosts, &clients, "in the end");
        drop(hosts);
        all_there(&mut [open(&sim).unwrap()], &clients, "after a start");
    }
}

#[test]
fn what_is_listed_and_salvaged_says_what_cannot_be_read_and_has_the_rest() {
    let (sim, clients) = store();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let records = |path: &Path| path.extension().is_some_and(|e| e == "wal");
    let (mut lossless, mut lossy) = (0, 0);
    for (path, offset) in places(&sim) {
        let when = format!("{} at {offset}", path.display());
        sim.heal();
        sim.spoil(&path, offset..offset + 512, ReadFault::Lasting);
        match list_rooms(&sim, Path::new(ROOT)) {
            Ok(shards) => {
                let shards = shards.expect("there is a store");
                let faults = shards.iter().flat_map(|shard| {
                    let rooms = shard.rooms.iter().filter_map(|room| room.fault.as_ref());
                    rooms.chain(&shard.faults)
                });
                let said = faults.map(String::as_str).collect::<Vec<_>>().join("; ");
                let needed = open(&sim.fork()).is_err();
                assert!(!needed || said.contains(EIO), "{when}: {said}");
            }
            Err(OpenError::Io { error, .. }) => assert_eq!(error.to_string(), EIO),
            Err(error) => panic!("{when}: {error}"),
        }
        let (salvaged, whole) = salvaged(&disk, &path, offset, &clients);
        let told = |fault: &String| fault.contains(EIO) && fault.contains(&*path.to_string_lossy());
        let name = path.file_name().unwrap().to_string_lossy();
        // Salvage does without these.
        let needless = name.contains("manifest-") || name.ends_with(".snap") && offset == 0;
        assert!(
            needless || salvaged.faults.iter().any(told),
            "{when}: {:?}",
            salvaged.faults
        );
        if records(&path) {
            // Only what stands in the block itself can be lost, so at most the updates in it.
            let lost: usize = salvaged.rooms.iter().map(|room| room.lost.len()).sum();
            assert!(lost <= clients.len() * 2, "{when}: {:?}", salvaged.rooms);
        }
        *(if whole { &mut lossless } else { &mut lossy }) += 1;
    }
    println!("{lossless} places cost nothing, {lossy} something");
    assert!(lossless > lossy && lossy > 0);
}

/// Salvages what a place is missing from: each room is whole, or what it lacks is told of it or of the
/// place, which alone had it. Whether all rooms are whole.
fn salvaged(disk: &Arc<dyn Disk>, path: &Path, offset: u64, clients: &Clients) -> (Salvaged, bool) {
    let when = format!("{} at {offset}", path.display());
    let out = PathBuf::from(format!("/out{}/{offset}", path.display()));
    let salvaged = salvage(disk, Path::new(ROOT), &out, &config(), [9; 32]).unwrap();
    let store = Store::open(disk, &out, 1, &config(), [5; 32]).unwrap();
    let mut host = Host::around(store.open_shard(disk, 0, &config()).unwrap().0, disk);
    let mut whole = true;
    for (name, client) in clients {
        let room = salvaged.rooms.iter().find(|room| room.name == *name);
        let kept = room.is_some_and(|r| r.room_seq > 0 && host.text(name) == client.text());
        let told = |fault: &String| fault.contains(&*path.to_string_lossy());
        assert!(
            kept || room.is_some_and(|room| !room.lost.is_empty())
                || salvaged.faults.iter().any(told),
            "{when}: {name} is lost in silence"
        );
        whole &= kept;
    }
    (salvaged, whole)
}

#[test]
fn a_room_that_only_a_rotten_head_of_a_snapshot_named_is_told_of() {
    let (sim, clients) = store();
    let mut gone = 0;
    for (path, offset) in places(&sim) {
        if path.extension().is_some_and(|e| e == "snap") && offset == BLOCK {
            let sim = sim.fork();
            sim.corrupt(&path, offset + 20, 1);
            let disk: Arc<dyn Disk> = Arc::new(sim);
            let (salvaged, _) = salvaged(&disk, &path, offset, &clients);
            gone += clients.len() - salvaged.rooms.len();
        }
    }
    assert_eq!(gone, 1, "the large room was in one snapshot alone");
}

#[test]
fn a_log_that_cannot_be_read_is_not_begun_anew_when_its_manifest_is_lost() {
    let sim = SimDisk::new();
    let mut clients: Clients = [("room".to_owned(), Client::new(1))].into();
    let mut host = open(&sim).unwrap();
    edit(&mut host, &mut clients, 3, 1);
    host.run_for(100 * MS);
    drop(host);
    let newest = Path::new("/data/gen-0001/shard-000/manifest-b");
    let manifest = sim.bytes(newest).unwrap();
    // The older slot says that the log has not been made.
    Disk::remove(&sim, newest).unwrap();
    let mut tried = 0;
    for (path, offset) in places(&sim) {
        if path.extension().is_none_or(|e| e != "wal") {
            continue;
        }
        tried += 1;
        let sim = sim.fork();
        sim.spoil(&path, offset..offset + 512, ReadFault::Lasting);
        let when = format!("{} at {offset}", path.display());
        match open(&sim).map(drop) {
            Err(OpenError::Io { error, .. }) => assert_eq!(error.to_string(), EIO, "{when}"),
            other => panic!("{when}: {other:?}"),
        }
        sim.heal();
        sim.write_at(newest, 0, &manifest).unwrap();
        all_there(&mut [open(&sim).unwrap()], &clients, &when);
    }
    assert!(tried > 3);
}

/// The log could do without it; but what is passed over would have to be taken for torn.
#[test]
fn a_snapshot_that_no_manifest_lists_and_that_cannot_be_read_is_not_taken_for_a_torn_one() {
    let (sim, mut clients) = store();
    let mut host = open_as(&sim, 1, &unlisted()).unwrap().remove(0);
    let (before, whole) = (sim.files(), sim.fork());
    let mut large = clients.split_off("large");
    clients.append(&mut large.split_off("room 0"));
    edit(&mut host, &mut large, 1, 7);
    let snapshots = |sim: &SimDisk| {
        let files = sim.files().into_iter();
        let snapshots = files.filter(|(path, _)| path.extension().is_some_and(|e| e == "snap"));
        snapshots.map(|(_, bytes)| bytes.len()).sum::<usize>()
    };
    // Up to the moment at which it is on disk: no manifest is written after it.
    while snapshots(&sim) < snapshots(&whole) + 10 * BLOCK as usize {
        host.now += MS;
        host.poll();
        if !host.finish_write() && !host.jobs.is_empty() {
            host.finish_job(0);
        }
        assert!(host.now < 60_000 * MS, "there is no snapshot");
    }
    drop(host);
    clients.append(&mut large);
    let mut refused = 0;
    for (path, offset) in places(&sim) {
        let listed = before.get(&path).map_or(0, Vec::len) as u64;
        if path.extension().is_none_or(|e| e != "snap") || offset < listed {
            continue;
        }
        let sim = sim.fork();
        sim.spoil(&path, offset..offset + 512, ReadFault::Lasting);
        let when = format!("{} at {offset}", path.display());
        match open(&sim).map(drop) {
            Err(OpenError::Io { error, .. }) => assert_eq!(error.to_string(), EIO, "{when}"),
            other => panic!("{when}: {other:?}"),
        }
        sim.heal();
        all_there(&mut [open(&sim).unwrap()], &clients, &when);
        refused += 1;
    }
    assert!(refused > 5, "{refused}");
}
