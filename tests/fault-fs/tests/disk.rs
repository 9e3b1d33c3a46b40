//! The server on a disk that fails: what was acknowledged is there afterwards, nothing is
//! acknowledged after the first failure of the log, and the process ends with 70.

use collabblocks_fault_fs::{
    Client, DiskFault, FaultFs, Faults, Heard, Mounted, Operation, Server, binary, ext4_image,
    ledger,
};
use std::collections::BTreeSet;
use std::path::Path;
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

/// How long it takes until two numbers are delivered to another client, and until they are
/// acknowledged, when a sync takes long.
fn with_slow_sync(fs: &FaultFs, data: &Path, way: &[&str]) -> Result<(), String> {
    fs.set_faults(Faults::default());
    let server = Server::start(&binary(), data, way)?;
    let mut writer = Client::connect(&server.address, "room")?;
    let mut reader = Client::connect(&server.address, "room")?;
    let sync_takes = Duration::from_millis(700);
    fs.set_faults(Faults {
        sync_takes,
        ..Faults::default()
    });
    let sent = Instant::now();
    writer.write().ok_or("it cannot write")?;
    writer.write().ok_or("it cannot write")?;
    let (mut delivered, mut acknowledged) = (Vec::new(), Vec::new());
    let mut standing = String::new();
    while delivered.len() < 2 {
        match reader.hear(sync_takes / 3) {
            Heard::Update => delivered.push(sent.elapsed()),
            Heard::Nothing => standing = server.where_it_stands(),
            other => return Err(format!("{way:?}: {other:?}")),
        }
    }
    while acknowledged.len() < 2 {
        if let Heard::Acknowledged(_) = writer.hear(SOON) {
            acknowledged.push(sent.elapsed());
        }
    }
    fs.set_faults(Faults::default());
    if delivered[1] < sync_takes / 2 && acknowledged[0] >= sync_takes {
        return Ok(());
    }
    Err(format!(
        "{way:?}: delivered after {delivered:?}, acknowledged after {acknowledged:?}\n{standing}"
    ))
}

#[test]
fn a_slow_sync_delays_acknowledgements_and_no_deliveries() {
    on_fault_fs(|fs| {
        // With RWF_DSYNC, FUSE waits for the sync within the submission itself, as no file system
        // does that a data directory may be on: that way is tried on ext4, below.
        for (index, way) in WAYS.iter().enumerate().skip(1) {
            let data = fs.root().join(format!("slow-{index}"));
            with_slow_sync(fs, &data, way).unwrap();
        }
    });
}

#[test]
fn a_slow_flush_below_ext4_delays_acknowledgements_and_no_deliveries() {
    on_fault_fs(|fs| {
        let dir = tempfile::tempdir().unwrap();
        // The image is named as a log is, so that its flushes are slow.
        let name = "disk.wal";
        let mounted = ext4_image(dir.path(), 64 << 20).and_then(|image| {
            fs.add_image(name, image);
            let at = dir.path().join("ext4");
            std::fs::create_dir(&at).map_err(|error| error.to_string())?;
            Mounted::new(&fs.root().join(name), &at).map(|mounted| (mounted, at))
        });
        let (_mounted, at) = match mounted {
            Ok(mounted) => mounted,
            Err(why) => return println!("SKIPPED: no ext4 on a loop device here: {why}"),
        };
        for (index, way) in WAYS.iter().enumerate() {
            with_slow_sync(fs, &at.join(format!("slow-{index}")), way).unwrap();
        }
    });
}
