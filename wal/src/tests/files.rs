//! The log on real files.

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
