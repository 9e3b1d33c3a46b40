//! A data directory that version 1 wrote is opened by every later version.

mod common;

use collabblocks_storage_engine::{EngineConfig, Store, home_shard};
use collabblocks_wal::{Disk, FsDisk};
use common::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SHARDS: u16 = 2;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-v1")
}

fn config() -> EngineConfig {
    let mut config = small_config();
    config.log.segment_bytes = 16 << 10;
    config.log.batch_bytes = 4 << 10;
    config.log.segments_ready = 1;
    config
}

fn hosts(root: &Path) -> Vec<Host> {
    let disk: Arc<dyn Disk> = Arc::new(FsDisk::new());
    let store = Store::open(&disk, root, SHARDS, &config(), [9; 32]).unwrap();
    (0..SHARDS)
        .map(|shard| Host::around(store.open_shard(&disk, shard, &config()).unwrap().0, &disk))
        .collect()
}

/// Rooms `0..6`, with `number + 1` updates each; the first half is in snapshots, the others in the
/// log alone.
fn clients() -> Clients {
    (0..6)
        .map(|number| (format!("room {number} ä"), Client::new(number + 1)))
        .collect()
}

fn edit(number: usize, client: &mut Client) -> Vec<Vec<u8>> {
    let mut rng = rng(number as u64);
    (0..=number).map(|_| client.edit(&mut rng, 40)).collect()
}

#[test]
#[ignore = "writes the fixture; run only when the format's version grows, into a new directory"]
fn write_the_fixture() {
    let mut hosts = hosts(&fixture());
    for (number, (name, client)) in clients().iter_mut().enumerate() {
        let host = &mut hosts[usize::from(home_shard(name, SHARDS))];
        let id = host.attach(name);
        for update in edit(number, client) {
            host.engine.apply(host.now, id, &update, false).unwrap();
        }
        host.engine.detach(host.now, id);
        host.run_for(if number < 3 { 1000 * MS } else { 10 * MS });
    }
    hosts.into_iter().for_each(Host::close);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

#[test]
fn a_store_of_version_1_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(), dir.path());
    let mut hosts = hosts(dir.path());
    let known: u64 = hosts
        .iter()
        .map(|host| host.engine.stats().rooms_known)
        .sum();
    let loaded: u64 = hosts
        .iter()
        .map(|host| host.engine.stats().rooms_loaded)
        .sum();
    assert_eq!((known, loaded), (6, 3));
    for (number, (name, client)) in clients().iter_mut().enumerate() {
        edit(number, client);
        let host = &mut hosts[usize::from(home_shard(name, SHARDS))];
        assert_eq!(host.text(name), client.text(), "{name}");
    }
}
