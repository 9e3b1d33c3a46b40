//! The log on real files.

use crate::disk::DirectIoError;
use crate::*;
use std::path::Path;

const IDENTITY: Identity = Identity {
    store: [7; 16],
    shard: 3,
};

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 1 << 20,
        batch_bytes: 64 << 10,
        salt_seed: 42,
        ..LogConfig::default()
    }
}

type Replayed = Vec<(RecordKind, u64, Vec<u8>)>;

fn open(dir: &Path, low: u64) -> (Log, Recovered, Replayed) {
    let mut records = Vec::new();
    let (log, recovered) = Log::open(
        &FsDisk::new(),
        dir,
        IDENTITY,
        config(),
        SegmentId(low),
        &mut |r| {
            records.push((r.kind, r.room_seq, r.payload.to_vec()));
            Ok(())
        },
    )
    .unwrap();
    (log, recovered, records)
}

fn commit(log: &mut Log, disk: &FsDisk) {
    loop {
        while let Some(job) = log.next_job() {
            log.on_job_done(job.run(disk));
        }
        let Some(job) = log.next_write() else { return };
        let result = job.run(disk);
        log.on_written(job, result).unwrap();
    }
}

#[test]
fn what_is_written_to_files_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("shard-000");
    let disk = FsDisk::new();
    let mut log = Log::create(&disk, &dir, IDENTITY, config()).unwrap();
    let room = log
        .append(RecordKind::RoomCreated, RoomKey(0), 0, &[b"a room"])
        .unwrap();
    let mut wanted = vec![(RecordKind::RoomCreated, 0, b"a room".to_vec())];
    let large = vec![0xab; 900_000];
    for seq in 1..200u64 {
        let payload = if seq % 50 == 0 {
            large.clone()
        } else {
            vec![seq as u8; (seq * 37) as usize]
        };
        let (head, tail) = payload.split_at(payload.len() / 3);
        let appended = log
            .append(RecordKind::Update, RoomKey(room.lsn.0), seq, &[head, tail])
            .unwrap();
        wanted.push((RecordKind::Update, seq, payload));
        if seq % 7 == 0 {
            commit(&mut log, &disk);
            assert!(log.durable_lsn() >= appended.durable_at);
        }
    }
    log.append(RecordKind::CleanShutdown, RoomKey(0), 0, &[])
        .unwrap();
    commit(&mut log, &disk);
    assert!(log.live_segments().1 >= SegmentId(3));
    wanted.push((RecordKind::CleanShutdown, 0, Vec::new()));
    let (again, recovered, records) = open(&dir, 1);
    assert_eq!(records, wanted);
    assert!(recovered.clean);
    assert_eq!(recovered.torn_at, None);
    assert_eq!(again.durable_lsn(), log.durable_lsn());
    assert_eq!(again.live_segments(), log.live_segments());
}

#[test]
fn the_file_system_of_the_tests_has_direct_io() {
    let dir = tempfile::tempdir().unwrap();
    FsDisk::probe_direct(dir.path()).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let absent = dir.path().join("absent");
    let error = FsDisk::probe_direct(&absent).unwrap_err();
    assert!(matches!(error, DirectIoError::Io { .. }), "{error}");
    // A file system that never has it.
    let error = FsDisk::probe_direct(Path::new("/proc")).unwrap_err();
    assert!(
        matches!(
            error,
            DirectIoError::Io { .. } | DirectIoError::Unsupported { .. }
        ),
        "{error}"
    );
}

/// Files of any length, at any offset, from any memory: what snapshots and manifests need.
#[test]
fn unaligned_writes_and_reads_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FsDisk::new();
    let path = dir.path().join("a");
    let bytes: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
    disk.write_at(&path, 0, &bytes[..5000]).unwrap();
    disk.write_at(&path, 5000, &bytes[5000..]).unwrap();
    disk.sync(&path).unwrap();
    assert_eq!(disk.len(&path).unwrap(), 20_000);
    let mut aligned = AlignedBuf::zeroed(8 * BLOCK_BYTES);
    assert_eq!(
        disk.read_at(&path, 0, aligned.as_mut_slice()).unwrap(),
        20_000
    );
    assert_eq!(&aligned.as_slice()[..20_000], &bytes);
    let mut odd = vec![0; 777];
    assert_eq!(disk.read_at(&path, 4999, &mut odd).unwrap(), 777);
    assert_eq!(odd, &bytes[4999..4999 + 777]);
    assert_eq!(disk.read_at(&path, 19_990, &mut odd).unwrap(), 10);
    assert_eq!(disk.read_at(&path, 30_000, &mut odd).unwrap(), 0);
    // Direct over what went through the page cache, and back.
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    block.as_mut_slice().fill(9);
    disk.write_at(&path, BLOCK_BYTES as u64, block.as_slice())
        .unwrap();
    assert_eq!(
        disk.read_at(&path, BLOCK_BYTES as u64 + 1, &mut odd)
            .unwrap(),
        777
    );
    assert_eq!(odd, [9; 777]);
}

#[test]
fn names_truncation_and_directories() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FsDisk::new();
    let inner = dir.path().join("x/y");
    disk.create_dir(&inner).unwrap();
    disk.create_dir(&inner).unwrap();
    let (a, b) = (inner.join("a"), inner.join("b"));
    disk.create_zeroed(&a, 3 * BLOCK_BYTES as u64).unwrap();
    disk.write_at(&b, 0, b"other").unwrap();
    disk.rename(&a, &b).unwrap();
    disk.sync_dir(&inner).unwrap();
    assert_eq!(disk.list(&inner).unwrap(), ["b"]);
    // Not the file that had the name before.
    assert_eq!(disk.len(&b).unwrap(), 3 * BLOCK_BYTES as u64);
    let mut one = [7];
    assert_eq!(disk.read_at(&b, 0, &mut one).unwrap(), 1);
    assert_eq!(one, [0]);
    disk.truncate(&b, 10).unwrap();
    assert_eq!(disk.len(&b).unwrap(), 10);
    disk.remove(&b).unwrap();
    assert!(disk.len(&b).is_err() && disk.read_at(&b, 0, &mut one).is_err());
    assert!(disk.free_bytes(&inner).unwrap() > 0);
    disk.remove_dir_all(&dir.path().join("x")).unwrap();
    assert!(disk.list(&inner).is_err());
}

#[test]
fn a_log_of_the_usual_size_takes_the_largest_update() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FsDisk::new();
    let started = std::time::Instant::now();
    let config = LogConfig::default();
    let mut log = Log::create(&disk, dir.path(), IDENTITY, config.clone()).unwrap();
    println!("created in {:?}", started.elapsed());
    let large = vec![0x5a; 32 << 20];
    log.append(RecordKind::Update, RoomKey(1), 1, &[&large])
        .unwrap();
    let appended = log
        .append(RecordKind::Update, RoomKey(1), 2, &[b"small"])
        .unwrap();
    commit(&mut log, &disk);
    assert!(log.durable_lsn() >= appended.durable_at);
    drop(log);
    let mut sizes = Vec::new();
    let started = std::time::Instant::now();
    Log::open(
        &disk,
        dir.path(),
        IDENTITY,
        config,
        SegmentId(1),
        &mut |r| {
            sizes.push(r.payload.len());
            Ok(())
        },
    )
    .unwrap();
    println!("opened in {:?}", started.elapsed());
    assert_eq!(sizes, [32 << 20, 5]);
}
