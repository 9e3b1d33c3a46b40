//! Damage: what was acknowledged is never given up silently, and one bad room leaves the others be.

mod common;

use collabblocks_storage_engine::{
    EngineConfig, Limits, Notice, Refusal, RoomStatus, Salvaged, Store, list_rooms, salvage,
};
use collabblocks_wal::sim_disk::SimDisk;
use collabblocks_wal::{Disk, OpenError};
use common::*;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const ROOT: &str = "/data";

fn config() -> EngineConfig {
    let mut config = small_config();
    config.log.segment_bytes = 16 << 10;
    config.log.batch_bytes = 4 << 10;
    config
}

fn open(sim: &SimDisk) -> Result<Host, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let store = Store::open(&disk, Path::new(ROOT), 1, &config(), [5; 32])?;
    let (engine, _) = store.open_shard(&disk, 0, &config())?;
    Ok(Host::around(engine, &disk))
}

/// Edits rooms until the log has been recycled, evicts them all, and closes; the clients.
fn filled(sim: &SimDisk, rooms: u64) -> Clients {
    let mut clients: Clients = (0..rooms)
        .map(|i| (format!("room {i}"), Client::new(i + 1)))
        .collect();
    let mut host = open(sim).unwrap();
    let mut rng = rng(11);
    for _ in 0..120 {
        for (name, client) in &mut clients {
            let id = host.attach(name);
            let update = client.edit(&mut rng, 200);
            host.engine.apply(host.now, id, &update, false).unwrap();
            host.engine.detach(host.now, id);
        }
        host.run_for(2 * MS);
    }
    host.run_for(1000 * MS);
    let stats = host.engine.stats();
    assert!(
        stats.commits * 4096 > 3 * stats.log_segments * (16 << 10),
        "the log was recycled: {stats:?}"
    );
    assert_eq!(stats.rooms_loaded, 0);
    host.close();
    clients
}

fn snapshot_files(sim: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    sim.files()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|e| e == "snap"))
        .collect()
}

#[test]
fn a_flipped_bit_in_a_snapshot_is_refused_at_start_or_fails_that_room_alone() {
    let sim = SimDisk::new();
    let clients = filled(&sim, 3);
    let (mut refused, mut failed, mut harmless) = (0, 0, 0);
    for (path, bytes) in snapshot_files(&sim) {
        for offset in (0..bytes.len() as u64).step_by(61) {
            let sim = sim.fork();
            sim.corrupt(&path, offset, 0x10);
            let mut host = match open(&sim) {
                Ok(host) => host,
                Err(OpenError::Mismatch { .. } | OpenError::Refused { .. }) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            let mut all = true;
            for (name, client) in &clients {
                let (id, status) = host.engine.attach(host.now, name);
                if status == RoomStatus::Loading {
                    host.run_for(MS);
                }
                if host
                    .notices
                    .iter()
                    .any(|n| matches!(n, Notice::RoomFailed(i, _) if *i == id))
                {
                    all = false;
                    let refusal = host.engine.apply(host.now, id, &client.state(), true);
                    assert!(
                        matches!(refusal, Err(Refusal::Unavailable(_))),
                        "nothing is written over it"
                    );
                    continue;
                }
                assert_eq!(
                    host.text(name),
                    client.text(),
                    "byte {offset} of {}",
                    path.display()
                );
            }
            *(if all { &mut harmless } else { &mut failed }) += 1;
        }
    }
    println!("{refused} refused, {failed} rooms failed, {harmless} harmless");
    assert!(refused > 3 && failed > 3);
}

#[test]
fn a_torn_snapshot_gives_way_to_the_one_before_it() {
    let sim = SimDisk::new();
    let mut clients = filled(&sim, 3);
    let before = sim.files();
    // Nothing but the one new snapshot is written: no manifest knows of it.
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let config = EngineConfig {
        snapshot_live_ratio_min: 0.0,
        segments_max: 100,
        ..config()
    };
    let store = Store::open(&disk, Path::new(ROOT), 1, &config, [5; 32]).unwrap();
    let mut host = Host::around(store.open_shard(&disk, 0, &config).unwrap().0, &disk);
    let id = host.attach("room 0");
    let update = clients.get_mut("room 0").unwrap().edit(&mut rng(5), 50);
    host.engine.apply(host.now, id, &update, false).unwrap();
    host.engine.detach(host.now, id);
    host.run_for(1000 * MS);
    assert_eq!(host.engine.stats().snapshots_stored, 1);
    drop(host);
    let mut torn = 0;
    for (path, bytes) in snapshot_files(&sim) {
        let old = before.get(&path).map_or(0, Vec::len);
        let end = bytes.iter().rposition(|&b| b != 0).unwrap();
        for offset in (old..end).rev().step_by(97) {
            let sim = sim.fork();
            sim.corrupt(&path, offset as u64, 1);
            let mut host = open(&sim).unwrap();
            clients.iter().for_each(|(name, client)| {
                assert_eq!(host.text(name), client.text(), "byte {offset}")
            });
            torn += 1;
        }
        // Cut short within an entry or the padding after it; what is made of that opens once more.
        for len in (old + 1..=end + 1)
            .rev()
            .step_by(97)
            .chain(end + 2..bytes.len())
        {
            let sim = sim.fork();
            sim.truncate(&path, len as u64).unwrap();
            for _ in 0..2 {
                let mut host = open(&sim).unwrap_or_else(|e| panic!("{len} bytes: {e}"));
                for (name, client) in &clients {
                    assert_eq!(host.text(name), client.text(), "{len} bytes");
                }
            }
            torn += 1;
        }
    }
    assert!(torn > 5);
}

#[test]
fn a_log_whose_only_manifest_is_lost_is_refused_and_left_as_it_is() {
    let sim = SimDisk::new();
    let mut host = open(&sim).unwrap();
    let id = host.attach("room");
    let update = Client::new(1).edit(&mut rng(1), 20);
    host.engine.apply(host.now, id, &update, false).unwrap();
    host.run_for(1000 * MS);
    host.close();
    // Slot a still says that the log has not been made.
    let newest = Path::new("/data/gen-0001/shard-000/manifest-b");
    for lose in [
        |sim: &SimDisk, path: &Path| sim.corrupt(path, 40, 1),
        |sim: &SimDisk, path: &Path| Disk::remove(sim, path).unwrap(),
    ] {
        let sim = sim.fork();
        lose(&sim, newest);
        let before = sim.files();
        let Err(OpenError::Mismatch { what, .. }) = open(&sim) else {
            panic!("it is refused");
        };
        assert!(what.contains("restore the manifest"), "{what}");
        assert_eq!(sim.files(), before);
    }
}

#[test]
fn a_snapshot_file_that_is_gone_is_refused() {
    let sim = SimDisk::new();
    filled(&sim, 2);
    let mut refused = 0;
    for (path, bytes) in snapshot_files(&sim) {
        let gone = sim.fork();
        Disk::remove(&gone, &path).unwrap();
        refused += u32::from(open(&gone).is_err());
        let short = sim.fork();
        Disk::truncate(&short, &path, bytes.len() as u64 / 8192 * 4096).unwrap();
        refused += u32::from(open(&short).is_err());
    }
    assert!(refused > 0);
    assert!(open(&sim).is_ok());
}

#[test]
fn one_manifest_slot_is_enough_and_none_is_refused() {
    let sim = SimDisk::new();
    let clients = filled(&sim, 2);
    let slots: Vec<PathBuf> = sim
        .files()
        .into_keys()
        .filter(|path| path.to_string_lossy().contains("manifest-"))
        .collect();
    assert_eq!(slots.len(), 2);
    // The newer slot damaged: what it said is lost, so the log below may be gone; never a wrong room.
    for slot in &slots {
        let one = sim.fork();
        one.corrupt(slot, 40, 1);
        match open(&one) {
            Ok(mut host) => clients
                .iter()
                .for_each(|(name, client)| assert_eq!(host.text(name), client.text())),
            Err(error) => println!("{}: {error}", slot.display()),
        }
    }
    let none = sim.fork();
    slots.iter().for_each(|slot| none.corrupt(slot, 40, 1));
    assert!(matches!(open(&none), Err(OpenError::Mismatch { .. })));
    let absent = sim.fork();
    slots
        .iter()
        .for_each(|slot| Disk::remove(&absent, slot).unwrap());
    assert!(matches!(open(&absent), Err(OpenError::Mismatch { .. })));
}

/// A disk on which every third change to snapshots and manifests fails, after half of it was done.
struct Flaky {
    inner: SimDisk,
    changes: AtomicU64,
}

impl Flaky {
    fn fails(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        let chosen = path.ends_with(".snap") || path.contains("manifest-");
        chosen && self.changes.fetch_add(1, Ordering::Relaxed) % 3 == 2
    }
}

impl Disk for Flaky {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        self.inner.len(path)
    }
    fn read_at(&self, path: &Path, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(path, offset, buf)
    }
    fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.fails(path) {
            self.inner
                .write_at(path, offset, &bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write_at(path, offset, bytes)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        match self.fails(path) {
            true => Err(io::ErrorKind::Other.into()),
            false => self.inner.sync(path),
        }
    }
    fn create_zeroed(&self, path: &Path, len: u64) -> io::Result<()> {
        self.inner.create_zeroed(path, len)
    }
    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.inner.truncate(path, len)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.inner.free_bytes(path)
    }
}

#[test]
fn errors_of_the_disk_beside_the_log_lose_nothing() {
    let sim = SimDisk::new();
    let mut clients = filled(&sim, 3);
    let flaky = Arc::new(Flaky {
        inner: sim.clone(),
        changes: AtomicU64::new(0),
    });
    let disk: Arc<dyn Disk> = flaky.clone();
    // A start has to be able to write.
    let whole: Arc<dyn Disk> = Arc::new(sim.clone());
    let store = Store::open(&whole, Path::new(ROOT), 1, &config(), [5; 32]).unwrap();
    for round in 0..3 {
        let (engine, _) = store.open_shard(&whole, 0, &config()).unwrap();
        let mut host = Host::around(engine, &disk);
        let mut rng = rng(round);
        for turn in 0..60 {
            for (name, client) in &mut clients {
                let id = host.attach(name);
                let update = client.edit(&mut rng, 100);
                host.engine.apply(host.now, id, &update, false).unwrap();
                host.engine.detach(host.now, id);
            }
            host.run_for(if turn % 10 == 0 { 6_000 * MS } else { 2 * MS });
        }
        clients
            .iter()
            .for_each(|(name, client)| assert_eq!(host.text(name), client.text()));
        assert!(host.engine.stats().snapshots_stored > 0);
        sim.crash(round);
    }
    assert!(flaky.changes.load(Ordering::Relaxed) > 60);
    let mut host = open(&sim).unwrap();
    clients
        .iter()
        .for_each(|(name, client)| assert_eq!(host.text(name), client.text()));
}

#[test]
fn updates_are_refused_before_the_disk_is_full_and_taken_again_after() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    sim.set_capacity(Some(4 << 20));
    let config = EngineConfig {
        disk_reserve_bytes: 1 << 20,
        ..config()
    };
    let (mut host, _) = Host::open(&disk, Path::new(ROOT), config).unwrap();
    let (mut client, mut rng) = (Client::new(1), rng(1));
    let mut taken = |host: &mut Host| {
        let id = host.attach("room");
        let update = client.edit(&mut rng, 20);
        let outcome = host.engine.apply(host.now, id, &update, true);
        host.engine.detach(host.now, id);
        host.run_for(10_000 * MS);
        outcome.map(drop)
    };
    assert_eq!(taken(&mut host), Ok(()));
    let hog = Path::new("/data/hog");
    disk.write_at(hog, 0, &vec![1; 3 << 20]).unwrap();
    // The first finds out.
    let _ = taken(&mut host);
    assert!(matches!(taken(&mut host), Err(Refusal::Unavailable(_))));
    assert!(!host.text("room").is_empty(), "reading goes on");
    disk.remove(hog).unwrap();
    host.run_for(10_000 * MS);
    assert!(matches!(taken(&mut host), Ok(()) | Err(Refusal::Gap)));
}

#[test]
fn a_log_that_got_no_segments_goes_on_by_itself_once_it_can() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    sim.set_capacity(Some(4 << 20));
    // No checkpoint makes room.
    let config = EngineConfig {
        segments_max: 1000,
        ..config()
    };
    let (mut host, _) = Host::open(&disk, Path::new(ROOT), config).unwrap();
    let id = host.attach("room");
    host.run_for(1000 * MS);
    let hog = Path::new("/data/hog");
    let free = disk.free_bytes(Path::new(ROOT)).unwrap();
    disk.write_at(hog, 0, &vec![1; free as usize]).unwrap();
    let (mut client, mut rng) = (Client::new(1), rng(1));
    // A small rest of the last segment may still take some.
    let mut refused = 0;
    while refused < 3 {
        client.edit(&mut rng, 400);
        let outcome = host.engine.apply(host.now, id, &client.state(), false);
        refused = match outcome {
            Err(Refusal::Unavailable(_)) => refused + 1,
            outcome => outcome.map(|_| 0).unwrap(),
        };
        host.run_for(2000 * MS);
    }
    disk.remove(hog).unwrap();
    // Nobody tries meanwhile.
    host.run_for(3000 * MS);
    let all = client.state();
    assert!(host.engine.apply(host.now, id, &all, false).is_ok());
    assert_eq!(host.text("room"), client.text());
}

#[test]
fn lowered_limits_do_not_refuse_what_was_taken_before() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let (mut client, mut rng) = (Client::new(1), rng(1));
    let (mut host, _) = Host::open(&disk, Path::new(ROOT), config()).unwrap();
    let id = host.attach("room");
    host.engine
        .apply(host.now, id, &client.edit(&mut rng, 200), false)
        .unwrap();
    host.close();
    let limits = Limits {
        update_bytes_max: 2,
        document_bytes_max: 2,
        ..Limits::default()
    };
    let (mut host, _) =
        Host::open(&disk, Path::new(ROOT), EngineConfig { limits, ..config() }).unwrap();
    assert_eq!(host.text("room"), client.text());
}

#[test]
fn rooms_are_listed_without_opening() {
    let sim = SimDisk::new();
    filled(&sim, 2);
    let before = sim.files();
    let shards = list_rooms(&sim, Path::new(ROOT)).unwrap().unwrap();
    assert_eq!(sim.files(), before, "nothing is changed");
    assert_eq!(shards.len(), 1);
    assert!(shards[0].faults.is_empty(), "{:?}", shards[0].faults);
    let names: Vec<&str> = shards[0].rooms.iter().map(|room| &*room.name).collect();
    assert_eq!(names, ["room 0", "room 1"]);
    assert!(
        shards[0]
            .rooms
            .iter()
            .all(|r| r.room_seq == 120 && r.snapshot_seq == Some(120) && r.fault.is_none())
    );
    assert_eq!(list_rooms(&sim, Path::new("/elsewhere")).unwrap(), None);
}

/// Salvages into another directory of the same disk, and opens that.
fn salvaged(sim: &SimDisk) -> (Salvaged, Host) {
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let out = Path::new("/out");
    let before = sim.files();
    let salvaged = salvage(&disk, Path::new(ROOT), out, &config(), [9; 32]).unwrap();
    for (path, bytes) in before {
        assert_eq!(
            sim.bytes(&path).as_ref(),
            Some(&bytes),
            "{path:?} was changed"
        );
    }
    let again = salvage(&disk, Path::new(ROOT), out, &config(), [9; 32]);
    assert!(matches!(again, Err(OpenError::Mismatch { .. })));
    let store = Store::open(&disk, out, 1, &config(), [5; 32]).unwrap();
    let (engine, _) = store.open_shard(&disk, 0, &config()).unwrap();
    (salvaged, Host::around(engine, &disk))
}

#[test]
fn a_whole_store_is_salvaged_whole() {
    let sim = SimDisk::new();
    let clients = filled(&sim, 3);
    // Neither the store file nor the manifests are needed.
    for (path, _) in sim.files() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "store" || name.starts_with("manifest") {
            sim.corrupt(&path, 40, 0xff);
        }
    }
    let (salvaged, mut host) = salvaged(&sim);
    assert_eq!(salvaged.rooms.len(), clients.len());
    for room in salvaged.rooms {
        assert_eq!(room.lost, Vec::<String>::new(), "{}", room.name);
    }
    for (name, client) in &clients {
        assert_eq!(host.text(name), client.text(), "{name}");
    }
}

#[test]
fn damage_anywhere_costs_what_was_there_and_is_told() {
    let sim = SimDisk::new();
    let mut clients = filled(&sim, 3);
    // And some that only the log has.
    let mut host = open(&sim).unwrap();
    let mut rng = rng(12);
    for _ in 0..10 {
        for (name, client) in &mut clients {
            let id = host.attach(name);
            let update = client.edit(&mut rng, 200);
            host.engine.apply(host.now, id, &update, false).unwrap();
            host.run_for(2 * MS);
        }
    }
    drop(host);
    let (mut refused, mut lossless, mut lossy) = (0, 0, 0);
    for (path, bytes) in sim.files() {
        for offset in (0..bytes.len()).step_by(509) {
            let sim = sim.fork();
            sim.corrupt(&path, offset as u64, 0x20);
            refused += u32::from(open(&sim.fork()).is_err());
            let (salvaged, mut host) = salvaged(&sim);
            for (name, client) in &clients {
                let room = salvaged.rooms.iter().find(|room| room.name == *name);
                let room = room.unwrap_or_else(|| panic!("{path:?} at {offset}: {name} is gone"));
                let whole = room.room_seq > 0 && host.text(name) == client.text();
                assert!(
                    whole || !room.lost.is_empty(),
                    "{path:?} at {offset}: {name} lost something, and nobody says so"
                );
                if whole {
                    lossless += 1;
                } else {
                    lossy += 1;
                }
            }
        }
    }
    assert!(
        refused > 5 && lossy > 5 && lossless > 5 * lossy,
        "refused {refused}, whole {lossless}, not whole {lossy}"
    );
}
