//! The engine on the operating system's files: rooms are made, edited, evicted, checkpointed, and
//! found again.

mod common;

use collabblocks_wal::{Disk, FsDisk};
use common::*;
use rand::RngExt;
use std::sync::Arc;

#[test]
fn rooms_survive_an_orderly_end_and_a_sudden_one() {
    let mut rng = rng(seed(1));
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FsDisk::new());
    let mut clients: Clients = (0..5).map(|i| (format!("room {i}"), Client::new(i + 1))).collect();
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
            clients.values_mut().for_each(|c| c.hear(host.engine.durable_lsn()));
        }
        for (name, client) in &clients {
            assert_eq!(host.text(name), client.text());
        }
        let stats = host.engine.stats();
        assert!(stats.log_segments <= 5, "segments are recycled: {stats:?}");
        assert!(stats.snapshots_stored > 0, "{stats:?}");
        host.run_for(1000 * MS);
        assert_eq!(host.engine.stats().rooms_loaded, 0, "idle rooms are evicted");
        for (name, client) in &clients {
            assert_eq!(host.text(name), client.text(), "an evicted room is as it was");
        }
        if round % 2 == 0 {
            host.close();
        }
    }
}
