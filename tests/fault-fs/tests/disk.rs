//! The server on a disk that fails: what was acknowledged is there afterwards, nothing is
//! acknowledged after the first failure of the log, and the process ends with 70.

use collabblocks_fault_fs::{
    Client, DiskFault, FaultFs, Faults, Heard, Operation, Server, binary, ledger,
};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// The runtimes, and the ways to make a batch durable.
const WAYS: [&[&str]; 4] = [
    &["--runtime", "ring", "--wal-sync", "dsync"],
    &["--runtime", "ring", "--wal-sync", "fdatasync"],
    &["--runtime", "ring", "--wal-sync", "thread"],
    &["--runtime", "glommio"],
];

/// Runs a test on a mounted file system, or says why it cannot.
fn on_fault_fs(test: impl FnOnce(&FaultFs)) {
    let dir = tempfile::tempdir().unwrap();
    match FaultFs::mount(dir.path()) {
        Ok(fs) => test(&fs),
        Err(error) => println!("SKIPPED: FUSE cannot be mounted here: {error}"),
    }
}

fn fails(fs: &FaultFs, way: &[&str], operation: Operation, after: u64, fault: DiskFault) {
    let what = format!("{way:?}, {fault:?} at {operation:?} {after}");
    let data = fs.root().join(format!("data-{}", what.len()));
    let binary = binary();
    fs.set_faults(Faults::default());
    let mut server = Server::start(&binary, &data, way).unwrap();
    let mut client = Client::connect(&server.address, "room").unwrap();
    let mut acknowledged = BTreeSet::new();
    while acknowledged.len() < 5 {
        if client.waiting() < 3 {
            client.write().expect("the server is well");
        }
        if let Heard::Acknowledged(number) = client.hear(SOON) {
            acknowledged.insert(number);
        }
    }
    let next = Some((operation, after, fault));
    fs.set_faults(Faults {
        next,
        ..Faults::default()
    });
    let deadline = Instant::now() + SOON;
    let mut too_late = BTreeSet::new();
    loop {
        assert!(Instant::now() < deadline, "{what}: nothing fails");
        if fault == DiskFault::Short && too_late.iter().any(|n| acknowledged.contains(n)) {
            // The ring wrote the other half by itself: nothing has failed.
            server.kill();
            break;
        }
        let fired = fs.faults().fired;
        if client.waiting() < 3 || fired {
            match client.write() {
                Some(number) if fired => drop(too_late.insert(number)),
                Some(_) => {}
                None => break,
            }
        }
        match client.hear(Duration::from_millis(20)) {
            Heard::Acknowledged(number) => drop(acknowledged.insert(number)),
            Heard::Closed => break,
            _ => {}
        }
    }
    assert!(fs.faults().fired, "{what}: it ended by itself");
    if let Some(code) = server.exit_code(SOON) {
        assert_eq!(code, 70, "{what}: {}", server.log());
        assert!(
            acknowledged.is_disjoint(&too_late),
            "{what}: acknowledged after the failure"
        );
    } else {
        assert_eq!(fault, DiskFault::Short, "{what}: it goes on");
    }
    fs.set_faults(Faults::default());
    let server = Server::start(&binary, &data, way)
        .unwrap_or_else(|error| panic!("{what}: on a healthy disk: {error}"));
    let kept = ledger(&server.address, "room").unwrap();
    assert!(
        acknowledged.is_subset(&kept),
        "{what}: {acknowledged:?} were acknowledged and {kept:?} are there"
    );
}

fn all_ways(operation: Operation, fault: DiskFault) {
    on_fault_fs(|fs| {
        for (way, after) in WAYS.iter().zip([0, 1, 4, 2]) {
            fails(fs, way, operation, after, fault);
        }
    });
}

#[test]
fn a_failed_write_ends_the_process_and_loses_nothing() {
    all_ways(Operation::Write, DiskFault::Eio);
}

#[test]
fn a_failed_sync_ends_the_process_and_loses_nothing() {
    all_ways(Operation::Sync, DiskFault::Eio);
}

#[test]
fn a_short_write_ends_the_process_and_loses_nothing() {
    all_ways(Operation::Write, DiskFault::Short);
}

#[test]
fn a_log_write_without_space_ends_the_process_and_loses_nothing() {
    all_ways(Operation::Write, DiskFault::Enospc);
}

#[test]
fn a_slow_sync_delays_acknowledgements_and_no_deliveries() {
    on_fault_fs(|fs| {
        let mut wrong = Vec::new();
        for (index, way) in WAYS.iter().enumerate() {
            let data = fs.root().join(format!("slow-{index}"));
            fs.set_faults(Faults::default());
            let server = Server::start(&binary(), &data, way).unwrap();
            let mut writer = Client::connect(&server.address, "room").unwrap();
            let mut reader = Client::connect(&server.address, "room").unwrap();
            let sync_takes = Duration::from_millis(700);
            fs.set_faults(Faults {
                sync_takes,
                ..Faults::default()
            });
            let sent = Instant::now();
            writer.write().unwrap();
            writer.write().unwrap();
            let (mut delivered, mut acknowledged) = (Vec::new(), Vec::new());
            while delivered.len() < 2 {
                match reader.hear(sync_takes / 3) {
                    Heard::Update => delivered.push(sent.elapsed()),
                    Heard::Nothing => println!("{way:?}\n{}", server.where_it_stands()),
                    other => panic!("{way:?}: {other:?}"),
                }
            }
            while acknowledged.len() < 2 {
                if let Heard::Acknowledged(_) = writer.hear(SOON) {
                    acknowledged.push(sent.elapsed());
                }
            }
            if delivered[1] >= sync_takes / 2 || acknowledged[0] < sync_takes {
                wrong.push(format!(
                    "{way:?}: delivered after {delivered:?}, acknowledged after {acknowledged:?}"
                ));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}
