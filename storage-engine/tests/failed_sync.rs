//! A sync fails, what it should have made durable is read all the same, and the next power cut takes
//! it: the process that was started in between has built on nothing that it did not write again.

mod common;

use collabblocks_storage_engine::{EngineConfig, Store};
use collabblocks_wal::sim_disk::{SimDisk, SimFault};
use collabblocks_wal::{Disk, OpenError};
use common::*;
use std::path::Path;
use std::sync::Arc;

const ROOT: &str = "/data";
const ROOMS: u64 = 3;

fn config() -> EngineConfig {
    let mut config = small_config();
    config.log.segment_bytes = 16 << 10;
    config.log.batch_bytes = 4 << 10;
    config.snapshot_segment_bytes = 12 << 10;
    config
}

fn open(sim: &SimDisk) -> Result<Host, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let store = Store::open(&disk, Path::new(ROOT), 1, &config(), [5; 32])?;
    let (engine, _) = store.open_shard(&disk, 0, &config())?;
    Ok(Host::around(engine, &disk))
}

fn name(room: u64) -> String {
    format!("room {room}")
}

/// Edits by a client that nobody has heard of, until the log is poisoned or all is durable and every
/// room has left memory.
fn live(host: &mut Host, rounds: u64, life: u64) {
    let mut rng = rng(life);
    let mut clients: Vec<Client> = (0..ROOMS).map(|i| Client::new(10 * life + i)).collect();
    for round in 0..rounds {
        for (room, client) in (0..).zip(&mut clients) {
            let id = host.attach(&name(room));
            let update = client.edit(&mut rng, 300);
            let refused = host.engine.apply(host.now, id, &update, false).is_err();
            host.engine.detach(host.now, id);
            if refused {
                return;
            }
        }
        host.run_for(if round % 5 == 4 { 500 * MS } else { 2 * MS });
    }
    host.run_for(1000 * MS);
}

#[test]
fn what_a_failed_sync_left_behind_is_written_again_before_anything_relies_on_it() {
    let filled = SimDisk::new();
    let mut host = open(&filled).unwrap();
    live(&mut host, 25, 1);
    host.close();
    let mut failed = 0;
    'operations: for at in 0.. {
        for rounds in [0, 1, 25] {
            let sim = filled.fork();
            let op = sim.ops_count() + at;
            sim.fail(op, SimFault::Eio);
            if let Ok(mut host) = open(&sim) {
                live(&mut host, 12, 2);
            }
            if sim.ops_count() <= op {
                break 'operations;
            }
            failed = at + 1;
            let mut host = open(&sim).unwrap();
            live(&mut host, rounds, 3);
            let texts: Vec<String> = (0..ROOMS).map(|room| host.text(&name(room))).collect();
            drop(host);
            sim.crash_keeping(&mut |_| false);
            let mut host = open(&sim)
                .unwrap_or_else(|error| panic!("operation {at}, then {rounds} rounds: {error}"));
            for (room, text) in (0..).zip(texts) {
                assert_eq!(
                    host.text(&name(room)),
                    text,
                    "operation {at}, then {rounds} rounds"
                );
            }
        }
    }
    println!("{failed} operations failed");
    assert!(failed > 100);
}
