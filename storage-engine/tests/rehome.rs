//! Another number of shards: every room moves, whatever crashes on the way.

mod common;

use collabblocks_storage_engine::{EngineConfig, Store, home_shard};
use collabblocks_wal::sim_disk::{SimDisk, SimFault, Unsynced};
use collabblocks_wal::{Disk, OpenError};
use common::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const ROOT: &str = "/data";

fn config() -> EngineConfig {
    let mut config = small_config();
    config.log.segment_bytes = 16 << 10;
    config.log.batch_bytes = 4 << 10;
    config.snapshot_segment_bytes = 8 << 10;
    config
}

fn open(sim: &SimDisk, shards: u16) -> Result<Store, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    Store::open(&disk, Path::new(ROOT), shards, &config(), [3; 32])
}

/// Opens all shards.
fn hosts(sim: &SimDisk, store: &Store) -> Vec<Host> {
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let open = |shard| Host::around(store.open_shard(&disk, shard, &config()).unwrap().0, &disk);
    (0..store.shards()).map(open).collect()
}

/// Edits each room in its home shard, until all is durable; some rooms end up in snapshots, others
/// in the log alone.
fn edit(sim: &SimDisk, store: &Store, clients: &mut Clients, seed: u64) {
    let mut rng = rng(seed);
    let mut hosts = hosts(sim, store);
    for round in 0..4 {
        for (number, (name, client)) in clients.iter_mut().enumerate() {
            if round == 3 && number % 2 == 0 {
                continue;
            }
            let host = &mut hosts[usize::from(home_shard(name, store.shards()))];
            let id = host.attach(name);
            let update = client.edit(&mut rng, 200);
            let outcome = host.engine.apply(host.now, id, &update, false);
            assert!(outcome.is_ok(), "{outcome:?}");
            client.note(update, &outcome);
            host.engine.detach(host.now, id);
        }
        for host in &mut hosts {
            host.run_for(if round == 2 { 1000 * MS } else { 5 * MS });
        }
    }
    for host in hosts {
        host.close();
    }
    clients
        .values_mut()
        .for_each(|c| c.hear(collabblocks_wal::Lsn(u64::MAX)));
}

fn check(sim: &SimDisk, store: &Store, texts: &BTreeMap<String, String>) {
    let mut hosts = hosts(sim, store);
    let known: u64 = hosts.iter().map(|h| h.engine.stats().rooms_known).sum();
    assert_eq!(known, texts.len() as u64, "each room has one home");
    for (name, text) in texts {
        let home = usize::from(home_shard(name, store.shards()));
        assert_eq!(&hosts[home].text(name), text, "{name}");
    }
}

#[test]
fn rooms_move_to_another_number_of_shards_and_back() {
    let sim = SimDisk::new();
    let mut clients: Clients = (0..20)
        .map(|i| (format!("room {i}"), Client::new(i + 1)))
        .collect();
    for (round, shards) in [1, 2, 3, 1, 1].into_iter().enumerate() {
        let store = open(&sim, shards).unwrap();
        assert_eq!(store.rehomed_from().is_some(), [1, 2, 3].contains(&round));
        let texts = clients
            .iter()
            .filter(|_| round > 0)
            .map(|(n, c)| (n.clone(), c.text()))
            .collect();
        check(&sim, &store, &texts);
        edit(&sim, &store, &mut clients, round as u64);
    }
}

#[test]
fn a_crash_at_any_operation_of_a_move_loses_nothing() {
    let sim = SimDisk::new();
    let mut clients: Clients = (0..6)
        .map(|i| (format!("room {i}"), Client::new(i + 1)))
        .collect();
    let store = open(&sim, 2).unwrap();
    edit(&sim, &store, &mut clients, 7);
    let texts: BTreeMap<_, _> = clients.iter().map(|(n, c)| (n.clone(), c.text())).collect();
    let mut moved = 0;
    for op in 0.. {
        let sim = sim.fork();
        let first = sim.ops_count();
        sim.fail(first + op, SimFault::PowerOff);
        let whole = open(&sim, 3).is_ok();
        for seed in 0..3 {
            let sim = sim.fork();
            sim.crash(seed + op);
            // Alternately with the number it was to move to, and with the one it came from.
            let store = open(&sim, if op % 2 == 0 { 3 } else { 2 })
                .unwrap_or_else(|e| panic!("op {op}: {e}"));
            moved += u64::from(store.rehomed_from().is_some());
            check(&sim, &store, &texts);
        }
        if whole {
            assert!(op > 20, "a move takes more operations than {op}");
            assert!(moved > 20, "crashes before the end leave the old shards");
            return;
        }
    }
}

/// A disk that goes away also while what a former move left behind is removed, which is no failure by
/// itself: the start is refused for what the operating system said, never as if a room were damaged, and
/// the next one has every room.
#[test]
fn a_disk_that_goes_away_in_a_move_is_not_a_damaged_room() {
    let made = SimDisk::new();
    let mut clients: Clients = (0..6)
        .map(|i| (format!("room {i}"), Client::new(i + 1)))
        .collect();
    let store = open(&made, 2).unwrap();
    edit(&made, &store, &mut clients, 7);
    let texts: BTreeMap<_, _> = clients.iter().map(|(n, c)| (n.clone(), c.text())).collect();
    made.fail(made.ops_count() + 15, SimFault::PowerOff);
    assert!(open(&made, 3).is_err(), "the move is not over by then");
    made.crash(1);
    let mut refused = 0;
    for op in 0.. {
        let sim = made.fork();
        sim.fail(sim.ops_count() + op, SimFault::PowerOff);
        match open(&sim, 3) {
            Ok(_) => break,
            Err(OpenError::Io { .. }) => refused += 1,
            Err(error) => panic!("op {op}: {error}"),
        }
        sim.crash(op);
        let store = open(&sim, 3).unwrap_or_else(|e| panic!("op {op}, next start: {e}"));
        check(&sim, &store, &texts);
    }
    assert!(refused > 20, "only {refused} starts were refused");
}

/// The move's last steps fail, the new shards are found all the same, and the old ones are removed:
/// not before it is certain that the new ones are found again.
#[test]
fn the_old_shards_go_only_when_the_new_ones_are_certain() {
    let made = SimDisk::new();
    let mut clients: Clients = (0..3)
        .map(|i| (format!("room {i}"), Client::new(i + 1)))
        .collect();
    let store = open(&made, 1).unwrap();
    edit(&made, &store, &mut clients, 7);
    let texts: BTreeMap<_, _> = clients.iter().map(|(n, c)| (n.clone(), c.text())).collect();
    let whole = made.fork();
    open(&whole, 2).unwrap();
    let (first, last) = (made.ops_count(), whole.ops_count());
    let mut found = 0;
    for op in last.saturating_sub(8).max(first)..last {
        let failed = made.fork();
        failed.fail(op, SimFault::Eio);
        // The last steps are no part of the move any more.
        let _ = open(&failed, 2);
        for stop in 0.. {
            let sim = failed.fork();
            let end = sim.ops_count() + stop;
            sim.fail(end, SimFault::PowerOff);
            let opened = open(&sim, 2);
            let over = sim.ops_count() <= end;
            found += u64::from(opened.is_ok_and(|store| store.rehomed_from().is_none()));
            let units = sim.unsynced();
            let names: Vec<usize> = (0..units.len())
                .filter(|&unit| matches!(units[unit], Unsynced::Names { .. }))
                .collect();
            for kept in 0..2u32 << names.len() {
                let sim = sim.fork();
                sim.crash_keeping(&mut |unit| {
                    // All bytes are the last bit.
                    let bit = names.iter().position(|&name| name == unit);
                    kept & (1 << bit.unwrap_or(names.len())) != 0
                });
                let store = open(&sim, 2).unwrap_or_else(|e| panic!("op {op}, then {stop}: {e}"));
                check(&sim, &store, &texts);
            }
            if over {
                break;
            }
        }
    }
    assert!(found > 0, "the new shards were never found");
}

#[test]
fn a_crash_while_a_store_is_made_leaves_one_that_opens() {
    for op in 0.. {
        let sim = SimDisk::new();
        sim.fail(op, SimFault::PowerOff);
        let whole = open(&sim, 2).is_ok();
        for seed in 0..4 {
            let sim = sim.fork();
            sim.crash(seed + op);
            let store = open(&sim, 2).unwrap_or_else(|e| panic!("op {op}: {e}"));
            check(&sim, &store, &BTreeMap::new());
        }
        if whole {
            assert!(op > 10);
            return;
        }
    }
}

#[test]
fn homes_never_change() {
    // Part of the format: other values would look for rooms where they are not.
    let names = [
        "",
        "a",
        "room 1",
        "docs/ä/7",
        "a name of more than two hundred and forty bytes would take another way",
    ];
    let homes: Vec<u16> = names.iter().map(|name| home_shard(name, 1000)).collect();
    assert_eq!(homes, [138, 719, 420, 153, 571]);
    assert_eq!(home_shard("anything", 1), 0);
}

#[test]
fn what_is_missing_or_from_the_future_is_refused() {
    let sim = SimDisk::new();
    let store = open(&sim, 2).unwrap();
    let disk: &dyn Disk = &sim;
    let file = Path::new(ROOT).join("store");

    let without_file = sim.fork();
    Disk::remove(&without_file, &file).unwrap();
    assert!(matches!(
        open(&without_file, 2),
        Err(OpenError::Mismatch { .. })
    ));

    let flipped = sim.fork();
    flipped.corrupt(&file, 40, 1);
    assert!(matches!(open(&flipped, 2), Err(OpenError::Mismatch { .. })));

    let without_shard = sim.fork();
    without_shard.remove_dir_all(&store.shard_dir(1)).unwrap();
    assert!(matches!(
        open(&without_shard, 2),
        Err(OpenError::Mismatch { .. })
    ));
    assert!(disk.len(&file).is_ok());
}
