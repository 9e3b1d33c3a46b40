//! The engine on the operating system's files: rooms are made, edited, evicted, checkpointed, and
//! found again.

mod common;

use collabblocks_storage_engine::{EngineConfig, RoomId, Watch, WatchJob};
use collabblocks_wal::sim_disk::SimDisk;
use collabblocks_wal::{Disk, FsDisk};
use common::*;
use rand::RngExt;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

#[test]
fn rooms_survive_an_orderly_end_and_a_sudden_one() {
    let mut rng = rng(seed(1));
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FsDisk::new());
    let mut clients: Clients = (0..5)
        .map(|i| (format!("room {i}"), Client::new(i + 1)))
        .collect();
    for round in 0..4 {
        let (mut host, report) = Host::open(&disk, dir.path(), small_config()).unwrap();
        assert_eq!(report.rooms, if round == 0 { 0 } else { 5 });
        check_acknowledged(&mut host, &mut clients);
        for (name, client) in &clients {
            let id = host.attach(name);
            let synced = host.engine.apply(host.now, id, &client.state(), true);
            assert!(synced.is_ok(), "{synced:?}");
            host.engine.detach(host.now, id);
        }
        for _ in 0..150 {
            for (name, client) in &mut clients {
                let id = host.attach(name);
                let update = client.edit(&mut rng, 60);
                let outcome = host.engine.apply(host.now, id, &update, false);
                assert!(outcome.is_ok(), "{outcome:?}");
                client.note(update, &outcome);
                host.engine.detach(host.now, id);
            }
            let span = rng.random_range(1..4) * MS;
            host.run_for(span);
            clients
                .values_mut()
                .for_each(|c| c.hear(host.engine.durable_lsn()));
        }
        for (name, client) in &clients {
            assert_eq!(host.text(name), client.text());
        }
        let stats = host.engine.stats();
        assert!(stats.log_segments <= 5, "segments are recycled: {stats:?}");
        assert!(stats.snapshots_stored > 0, "{stats:?}");
        host.run_for(1000 * MS);
        assert_eq!(
            host.engine.stats().rooms_loaded,
            0,
            "idle rooms are evicted"
        );
        for (name, client) in &clients {
            assert_eq!(
                host.text(name),
                client.text(),
                "an evicted room is as it was"
            );
        }
        if round % 2 == 0 {
            host.close();
        }
    }
}

#[test]
fn a_snapshot_is_not_stored_before_what_it_covers_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FsDisk::new());
    let config = EngineConfig {
        memory_bytes_max: 0,
        ..small_config()
    };
    let (mut host, _) = Host::open(&disk, dir.path(), config).unwrap();
    let id = host.attach("room");
    let mut client = Client::new(1);
    host.engine
        .apply(host.now, id, &client.edit(&mut rng(1), 9), false)
        .unwrap();
    host.engine.detach(host.now, id);
    let stores = |host: &Host| {
        host.jobs
            .iter()
            .any(|job| format!("{job:?}").contains("Job(store"))
    };
    for _ in 0..10 {
        host.now += MS;
        host.poll();
        assert!(!stores(&host), "its room may not be there after a crash");
    }
    assert!(host.finish_write());
    assert!(stores(&host));
    host.run_for(100 * MS);
    assert_eq!(host.engine.stats().rooms_loaded, 0);
    assert_eq!(host.text("room"), client.text());
}

/// Notes which rooms the engine goes into, and that it comes out of each.
#[derive(Default)]
struct Noted(Mutex<(Option<String>, Vec<String>)>);

impl Watch for Noted {
    fn enters_room(&self, _: RoomId, name: &str) {
        let mut noted = self.0.lock().unwrap();
        assert_eq!(noted.0.replace(name.into()), None, "one room at a time");
        noted.1.push(name.into());
    }

    fn leaves_room(&self) {
        assert!(self.0.lock().unwrap().0.take().is_some());
    }
}

#[test]
fn whoever_watches_is_told_of_all_work_on_a_document() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FsDisk::new());
    let (mut host, _) = Host::open(&disk, dir.path(), small_config()).unwrap();
    let noted = Arc::new(Noted::default());
    host.engine.watch(noted.clone());
    let told = || std::mem::take(&mut noted.0.lock().unwrap().1);
    let mut client = Client::new(1);
    let id = host.attach("a");
    host.engine
        .apply(host.now, id, &client.edit(&mut rng(seed(1)), 60), false)
        .unwrap();
    assert_eq!(told(), ["a"]);
    // What is refused may have taken long, too.
    assert!(host.engine.apply(host.now, id, &[1], false).is_err());
    assert_eq!(told(), ["a"]);
    host.engine.state_vector(id, &mut Vec::new());
    assert_eq!(told(), ["a"]);
    host.engine.diff(id, &[0]).unwrap();
    assert_eq!(told(), ["a"]);
    host.engine.detach(host.now, id);
    host.run_for(1000 * MS);
    assert_eq!(host.engine.stats().rooms_loaded, 0, "it was evicted");
    assert_eq!(told(), ["a"], "its snapshot was encoded");
}

/// Notes which rooms a job goes into, and that it does nothing on the disk meanwhile: a disk that
/// hangs is no room's fault.
struct NotedJob<'a> {
    disk: &'a SimDisk,
    inside: RefCell<Option<u64>>,
    rooms: RefCell<Vec<String>>,
}

impl WatchJob for NotedJob<'_> {
    fn enters_room(&self, name: &str) {
        let before = self.inside.replace(Some(self.asked()));
        assert_eq!(before, None, "one room at a time");
        self.rooms.borrow_mut().push(name.into());
    }

    fn leaves_room(&self) {
        assert_eq!(self.inside.take(), Some(self.asked()));
    }
}

impl NotedJob<'_> {
    fn asked(&self) -> u64 {
        self.disk.ops_count() + self.disk.reads_count()
    }
}

#[test]
fn whoever_watches_a_job_is_told_of_its_work_on_documents() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let config = EngineConfig {
        apart_bytes_min: 50,
        ..small_config()
    };
    let (mut host, _) = Host::open(&disk, Path::new("/shard"), config).unwrap();
    // Carries all jobs out, and says of each kind which rooms it was in.
    let run = |host: &mut Host| {
        let mut told = BTreeSet::new();
        while !host.jobs.is_empty() {
            let job = host.jobs.remove(0);
            let kind = format!("{job:?}");
            let kind = kind.trim_start_matches("Job(").split([' ', '(', ')']);
            let kind = kind.into_iter().next().unwrap().to_owned();
            let noted = NotedJob {
                disk: &sim,
                inside: RefCell::default(),
                rooms: RefCell::default(),
            };
            let done = job.run_watched(&sim, &noted);
            assert_eq!(noted.inside.take(), None, "it came out again");
            told.extend((noted.rooms.take().into_iter()).map(|room| (kind.clone(), room)));
            host.engine.on_job_done(host.now, done, &mut host.notices);
            host.poll();
        }
        told
    };
    let pass = |host: &mut Host| {
        let mut told = BTreeSet::new();
        for _ in 0..1000 {
            host.now += MS;
            host.poll();
            told.extend(run(host));
            host.finish_write();
        }
        told
    };
    let pair = |kind: &str, room: &str| (kind.to_owned(), room.to_owned());
    let mut client = Client::new(1);
    let id = host.attach("a");
    let update = client.edit(&mut rng(seed(1)), 600);
    host.engine
        .apply_apart(id, update.as_slice().into(), false)
        .unwrap();
    host.poll();
    assert_eq!(run(&mut host), [pair("apart", "a")].into());
    host.engine.diff_apart(id, &[0], 100).unwrap();
    host.poll();
    assert_eq!(run(&mut host), [pair("apart", "a")].into());
    host.engine.detach(host.now, id);
    // The snapshot is encoded, and read again before it is stored.
    let told = pass(&mut host);
    assert_eq!(told, [pair("apart", "a"), pair("store", "a")].into());
    assert_eq!(host.engine.stats().rooms_loaded, 0, "it was evicted");
    host.engine.attach(host.now, "a");
    assert_eq!(pass(&mut host), [pair("load", "a")].into());
}
