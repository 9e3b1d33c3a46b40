//! The engine against plain documents, on the simulated disk: random edits, evictions, checkpoints
//! and crashes at any point. Whatever was acknowledged is there after every crash.

mod common;

use collabblocks_storage_engine::{EngineConfig, Refusal, RoomStatus, split_update};
use collabblocks_wal::Disk;
use collabblocks_wal::sim_disk::{SimDisk, SimFault};
use common::*;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const ROOMS: usize = 6;
/// Fits a record of the small log.
const PART_BYTES: usize = 4 << 10;

/// What a run met, so that a test can tell that it met anything.
#[derive(Default, Debug)]
struct Met {
    crashes: u64,
    acked: u64,
    stored: u64,
    evicted: u64,
    recycled: u64,
}

fn config(rng: &mut ChaCha8Rng) -> EngineConfig {
    let mut config = small_config();
    config.log.segment_bytes = 16 << 10;
    config.log.batch_bytes = 4 << 10;
    config.log.salt_seed = rng.random();
    config.snapshot_segment_bytes = 16 << 10;
    config.evict_after = Duration::from_millis(rng.random_range(1..50));
    config.segments_max = rng.random_range(2..5);
    if rng.random_range(0..3) == 0 {
        config.memory_bytes_max = 4_000;
    }
    config
}

/// One step of the world; `false` if the disk has failed.
fn step(rng: &mut ChaCha8Rng, host: &mut Host, clients: &mut Clients) -> bool {
    match rng.random_range(0..100) {
        0..50 => {
            let name = format!("room {}", rng.random_range(0..ROOMS));
            let client = clients.get_mut(&name).unwrap();
            let (id, status) = host.engine.attach(host.now, &name);
            if status == RoomStatus::Ready {
                let update = client.edit(rng, 120);
                let mut outcome = host.engine.apply(host.now, id, &update, false);
                if outcome == Err(Refusal::Gap) {
                    for part in split_update(&client.state(), PART_BYTES) {
                        outcome = host.engine.apply(host.now, id, &part, true);
                    }
                }
                match &outcome {
                    Ok(_) => {}
                    Err(Refusal::Unavailable(_)) => {}
                    Err(other) => panic!("{name}: {other}"),
                }
                client.note(update, &outcome);
            }
            host.engine.detach(host.now, id);
        }
        50..65 => host.poll(),
        65..85 => {
            if host.write.is_some() {
                return host.finish_write();
            }
        }
        85..95 => {
            if !host.jobs.is_empty() {
                let at = rng.random_range(0..host.jobs.len());
                host.finish_job(at);
            }
        }
        _ => host.now += rng.random_range(0..20) * MS,
    }
    true
}

fn run(seed: u64, met: &mut Met) {
    let mut rng = rng(seed);
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let dir = Path::new("/data/shard");
    let config = config(&mut rng);
    let mut clients: Clients = (0..ROOMS)
        .map(|i| (format!("room {i}"), Client::new(i as u64 + 1)))
        .collect();
    for _ in 0..4 {
        let (mut host, _) = match Host::open(&disk, dir, config.clone()) {
            Ok(opened) => opened,
            Err(error) => panic!("seed {seed}: {error}"),
        };
        host.now = rng.random_range(0..1000) * MS;
        check_acknowledged(&mut host, &mut clients);
        let steps = rng.random_range(100..1500);
        if rng.random_range(0..2) == 0 {
            sim.fail(
                sim.ops_count() + rng.random_range(0..300),
                SimFault::PowerOff,
            );
        }
        for _ in 0..steps {
            if !step(&mut rng, &mut host, &mut clients) {
                break;
            }
            let durable = host.engine.durable_lsn();
            clients.values_mut().for_each(|c| c.hear(durable));
        }
        let stats = host.engine.stats();
        met.stored += stats.snapshots_stored;
        met.evicted += stats.rooms_evicted;
        met.recycled +=
            u64::from(stats.commits * 4096 > (stats.log_segments + 1) * config.log.segment_bytes);
        met.crashes += 1;
        drop(host);
        sim.crash(rng.random());
    }
    let (mut host, _) =
        Host::open(&disk, dir, config).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    check_acknowledged(&mut host, &mut clients);
    for (name, client) in &clients {
        let id = host.attach(name);
        for part in split_update(&client.state(), PART_BYTES) {
            let outcome = host.engine.apply(host.now, id, &part, true);
            assert!(outcome.is_ok(), "seed {seed}: {name}: {outcome:?}");
        }
        host.engine.detach(host.now, id);
        host.run_for(10 * MS);
        assert_eq!(host.text(name), client.text(), "seed {seed}: {name}");
        met.acked += client.acked.len() as u64;
    }
    host.run_for(5000 * MS);
    assert_eq!(
        host.engine.stats().rooms_loaded,
        0,
        "seed {seed}: all rooms can be evicted"
    );
    for (name, client) in &clients {
        assert_eq!(
            host.text(name),
            client.text(),
            "seed {seed}: {name} after eviction"
        );
    }
    host.close();
}

#[test]
fn acknowledged_updates_survive_every_crash() {
    let first = seed(1000);
    let runs = std::env::var("COLLABBLOCKS_RUNS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(30);
    let mut met = Met::default();
    for seed in first..first + runs {
        println!("run with seed {seed}");
        run(seed, &mut met);
    }
    println!("{met:?}");
    assert!(
        met.acked > 100 && met.stored > 10 && met.evicted > 10 && met.recycled > 10,
        "{met:?}"
    );
}
