//! Damage to what was acknowledged: refused, named, and nothing changed.

use super::rig::*;
use crate::inspect::{inspect, verify};
use crate::sim_disk::{SimDisk, SimFault};
use crate::*;

/// Several segments, some of them recycled, sealed at the end.
pub(super) fn written(recycle: bool) -> Rig {
    let mut rig = Rig::create(3);
    while rig.log.live_segments().1 < SegmentId(9) {
        rig.append_random();
        rig.commit();
        let (low, writing) = rig.log.live_segments();
        if recycle && writing.0 > low.0 + 3 {
            rig.recycle(SegmentId(low.0 + 1));
        }
    }
    rig.append(RecordKind::Update, vec![1; 100]).unwrap();
    rig.commit();
    rig.seal();
    rig.commit();
    rig
}

/// Opening refuses, `verify` says the same, and no byte has changed.
#[track_caller]
fn refused(disk: &SimDisk, low: SegmentId) -> OpenError {
    let before = disk.files();
    let error = open(disk, low).map(|_| ()).expect_err("this is damage");
    assert_eq!(
        verify(disk, &dir(), Some(low)).unwrap_err().to_string(),
        error.to_string()
    );
    assert!(before == disk.files(), "a refused log was changed");
    error
}

#[test]
fn a_flipped_bit_that_something_later_vouches_for_is_refused() {
    for recycle in [false, true] {
        let rig = written(recycle);
        let listing = inspect(&rig.disk, &dir()).unwrap();
        let batches: Vec<_> = listing
            .iter()
            .filter(|segment| segment.segment >= rig.low)
            .flat_map(|segment| segment.batches.iter().map(move |batch| (segment, batch)))
            .collect();
        let (last, but_last) = batches.split_last().unwrap();
        assert!(but_last.len() > 10);
        let mut before = batches[0].1.lsn;
        for (segment, batch) in but_last {
            let start = batch.lsn.0 % config().segment_bytes;
            for within in [
                0,
                5,
                20,
                27,
                40,
                57,
                66,
                100,
                127,
                130,
                140,
                155,
                batch.bytes - 1,
            ] {
                let disk = rig.disk.fork();
                disk.corrupt(&segment.path, start + within, 1 << (within % 8));
                let OpenError::Damaged {
                    path, lsn, rooms, ..
                } = refused(&disk, rig.low)
                else {
                    panic!("not Damaged");
                };
                // Where a segment's first batch cannot be recognised, the log ends behind the one before.
                assert!(
                    before <= lsn && lsn.0 < batch.lsn.0 + batch.bytes,
                    "{lsn:?} {batch:?}"
                );
                assert_eq!(path, segment_file(lsn.0 / config().segment_bytes));
                let later = rig
                    .appended
                    .iter()
                    .filter(|item| item.lsn.0 >= batch.lsn.0 + batch.bytes);
                for item in later.filter(|item| item.room != RoomKey(0)) {
                    assert!(rooms.contains(&item.room), "a later room is not named");
                }
            }
            before = Lsn(batch.lsn.0 + batch.bytes);
        }
        // The Seal itself is vouched for by nothing, and nothing is lost with it.
        let disk = rig.disk.fork();
        disk.corrupt(&last.0.path, last.1.lsn.0 % config().segment_bytes + 20, 1);
        let (_, recovered, items) = open(&disk, rig.low).unwrap();
        assert_eq!(recovered.torn_at, Some(last.1.lsn));
        assert_eq!(items.last(), rig.appended.iter().rev().nth(1));
    }
}

#[test]
fn a_batch_that_is_gone_or_stale_is_refused() {
    let rig = written(true);
    let segment = rig.low.0 + 1;
    let listing = inspect(&rig.disk, &dir()).unwrap();
    let batch = &listing
        .iter()
        .find(|s| s.segment.0 == segment)
        .unwrap()
        .batches[0];
    let path = segment_file(segment);
    let disk = rig.disk.fork();
    disk.write_at(
        &path,
        batch.lsn.0 % config().segment_bytes,
        &vec![0; batch.bytes as usize],
    )
    .unwrap();
    assert!(
        matches!(refused(&disk, rig.low), OpenError::Damaged { lsn, .. } if lsn == batch.lsn || lsn.0 < batch.lsn.0)
    );
}

#[test]
fn damaged_segment_headers() {
    let rig = written(true);
    for segment in rig.low.0..=rig.log.live_segments().1.0 {
        let disk = rig.disk.fork();
        disk.corrupt(&segment_file(segment), 50, 4);
        assert!(
            matches!(refused(&disk, rig.low), OpenError::Damaged { .. }),
            "{segment}"
        );
    }
    // A prepared segment holds nothing: its header is written anew.
    let disk = rig.disk.fork();
    disk.corrupt(&segment_file(rig.log.live_segments().1.0 + 1), 50, 4);
    let (mut log, _, _) = open(&disk, rig.low).unwrap();
    for _ in 0..20 {
        log.append(RecordKind::Update, RoomKey(1), 1, &[&[1; 5000]])
            .unwrap();
        let job = log.next_write().unwrap();
        let result = job.run(&disk);
        log.on_written(job, result).unwrap();
        while let Some(job) = log.next_job() {
            log.on_job_done(job.run(&disk));
        }
    }
    assert_eq!(
        open(&disk, rig.low).unwrap().0.durable_lsn(),
        log.durable_lsn()
    );
}

#[test]
fn a_missing_or_short_segment_is_refused() {
    let rig = written(true);
    for segment in rig.low.0..=rig.log.live_segments().1.0 {
        let disk = rig.disk.fork();
        disk.remove(&segment_file(segment)).unwrap();
        let OpenError::Damaged { path, .. } = refused(&disk, rig.low) else {
            panic!("not Damaged");
        };
        assert_eq!(path, segment_file(segment));
        let disk = rig.disk.fork();
        disk.truncate(&segment_file(segment), 2 * BLOCK_BYTES as u64)
            .unwrap();
        assert!(
            matches!(refused(&disk, rig.low), OpenError::Damaged { .. }),
            "{segment}"
        );
    }
    let empty = SimDisk::new();
    empty.create_dir(&dir()).unwrap();
    let before = empty.files();
    assert!(matches!(
        open(&empty, SegmentId(1)),
        Err(OpenError::Damaged { .. })
    ));
    assert_eq!(before, empty.files());
}

#[test]
fn a_misdirected_write_is_refused() {
    for by in [BLOCK_BYTES as u64, 3 * BLOCK_BYTES as u64] {
        let mut rig = Rig::create(1);
        rig.append(RecordKind::Update, vec![1; 100]).unwrap();
        rig.commit();
        rig.append(RecordKind::Update, vec![2; 100]).unwrap();
        rig.disk
            .fail(rig.disk.ops_count(), SimFault::Misdirected(by));
        assert!(rig.write().unwrap());
        let seals = by > BLOCK_BYTES as u64;
        if seals {
            rig.append(RecordKind::Update, vec![3; 100]).unwrap();
            assert!(rig.write().unwrap());
        }
        // Where nothing was written after it, the misdirected batch looks like one never written:
        // its own `durable_lsn` does not reach past the hole that it left.
        let opened = open(&rig.disk.fork(), rig.low);
        assert_eq!(opened.is_err(), seals);
    }
    // Onto the very place where the next batch is looked for.
    let mut rig = Rig::create(1);
    rig.append(RecordKind::Update, vec![1; 100]).unwrap();
    rig.commit();
    let file = segment_file(1);
    let mut block = vec![0; BLOCK_BYTES];
    rig.disk
        .read_at(&file, BLOCK_BYTES as u64, &mut block)
        .unwrap();
    rig.disk
        .write_at(&file, 2 * BLOCK_BYTES as u64, &block)
        .unwrap();
    assert!(
        refused(&rig.disk, rig.low)
            .to_string()
            .contains("not written to")
    );
}

#[test]
fn a_lost_flush_is_noticed_once_something_later_is_durable() {
    let mut noticed = 0;
    for n in 0..40 {
        let mut rig = Rig::create(n);
        for _ in 0..3 {
            rig.append(RecordKind::Update, vec![1; 3000]).unwrap();
            rig.commit();
        }
        rig.append(RecordKind::Update, vec![2; 3000]).unwrap();
        rig.disk.fail(rig.disk.ops_count() + 1, SimFault::LostSync);
        assert!(rig.write().unwrap());
        rig.append(RecordKind::Update, vec![3; 3000]).unwrap();
        rig.commit();
        rig.disk.crash(n);
        assert!(matches!(
            refused(&rig.disk, rig.low),
            OpenError::Damaged { .. }
        ));
        noticed += 1;
    }
    assert_eq!(noticed, 40);
}

#[test]
fn another_store_shard_or_size_is_refused() {
    let rig = written(false);
    let try_open = |identity, config| {
        let before = rig.disk.files();
        let opened = Log::open(
            &rig.disk,
            &dir(),
            identity,
            config,
            rig.low,
            &mut |_| Ok(()),
        );
        assert_eq!(before, rig.disk.files());
        opened.map(|_| ()).unwrap_err()
    };
    let other_store = Identity {
        store: [8; 16],
        ..IDENTITY
    };
    assert!(matches!(
        try_open(other_store, config()),
        OpenError::Mismatch { .. }
    ));
    let other_shard = Identity {
        shard: 4,
        ..IDENTITY
    };
    assert!(matches!(
        try_open(other_shard, config()),
        OpenError::Mismatch { .. }
    ));
    for segment_bytes in [4 * BLOCK_BYTES as u64, 16 * BLOCK_BYTES as u64, 5000] {
        let other = LogConfig {
            segment_bytes,
            ..config()
        };
        assert!(
            matches!(try_open(IDENTITY, other), OpenError::Mismatch { .. }),
            "{segment_bytes}"
        );
    }
    assert!(matches!(
        Log::create(&rig.disk, &dir(), IDENTITY, config()),
        Err(OpenError::Mismatch { .. })
    ));
}

#[test]
fn a_reader_that_refuses_a_record_changes_nothing() {
    let rig = written(false);
    let before = rig.disk.files();
    let third = rig.appended[2].lsn;
    let error = Log::open(&rig.disk, &dir(), IDENTITY, config(), rig.low, &mut |r| {
        if r.lsn == third {
            Err("no such room".to_owned())
        } else {
            Ok(())
        }
    })
    .map(|_| ())
    .unwrap_err();
    assert!(matches!(error, OpenError::Refused { lsn, .. } if lsn == third));
    assert_eq!(before, rig.disk.files());
}

/// Puts `bytes` over the first batch of segment 1 with its header made by `change`.
fn forge(rig: &Rig, change: impl Fn(&mut crate::format::BatchHeader, &mut Vec<u8>)) -> Vec<u8> {
    use crate::format::{BATCH_HEADER_BYTES, BatchHeader, payload_crc};
    let mut block = vec![0; BLOCK_BYTES];
    rig.disk
        .read_at(&segment_file(1), BLOCK_BYTES as u64, &mut block)
        .unwrap();
    let (mut header, _) = BatchHeader::decode(&block).unwrap();
    let mut payload = block[BATCH_HEADER_BYTES..][..header.payload_bytes as usize].to_vec();
    change(&mut header, &mut payload);
    header.payload_crc = payload_crc(header.salt, &payload);
    header.encode(&mut block[..BATCH_HEADER_BYTES]);
    block[BATCH_HEADER_BYTES..][..payload.len()].copy_from_slice(&payload);
    block
}

#[test]
fn faults_of_the_writer_are_refused_for_what_they_are() {
    let written = || {
        let mut rig = Rig::create(1);
        rig.append(RecordKind::Update, vec![1; 100]).unwrap();
        rig.commit();
        rig
    };
    // A bad record in an intact batch; a wrong count; another salt, which makes it a leftover.
    let rig = written();
    let block = forge(&rig, |_, payload| payload[50] ^= 1);
    rig.disk
        .write_at(&segment_file(1), BLOCK_BYTES as u64, &block)
        .unwrap();
    assert!(matches!(
        refused(&rig.disk, rig.low),
        OpenError::Refused { .. }
    ));
    let rig = written();
    let block = forge(&rig, |header, _| header.records += 1);
    rig.disk
        .write_at(&segment_file(1), BLOCK_BYTES as u64, &block)
        .unwrap();
    assert!(matches!(
        refused(&rig.disk, rig.low),
        OpenError::Refused { .. }
    ));
    let rig = written();
    let block = forge(&rig, |header, _| header.salt ^= 1);
    rig.disk
        .write_at(&segment_file(1), BLOCK_BYTES as u64, &block)
        .unwrap();
    let (_, recovered, items) = open(&rig.disk, rig.low).unwrap();
    assert_eq!((items.len(), recovered.torn_at), (0, None));
}

#[test]
fn newer_software_is_named() {
    let mut rig = Rig::create(1);
    rig.append(RecordKind::Update, vec![1; 100]).unwrap();
    rig.commit();
    let newer = |at: u64, crc_at: usize, from: usize, to: usize| {
        let disk = rig.disk.fork();
        let mut bytes = disk.bytes(&segment_file(1)).unwrap();
        bytes[at as usize] = 2;
        let crc = crc32fast::hash(&bytes[from..to]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        disk.write_at(&segment_file(1), 0, &bytes).unwrap();
        assert!(
            matches!(refused(&disk, rig.low), OpenError::Newer { .. }),
            "{at}"
        );
    };
    newer(12, 8, 12, BLOCK_BYTES);
    newer(64, 8, 12, BLOCK_BYTES);
    newer(4096 + 8, 4096 + 4, 4096 + 8, 4096 + 128);
    // A client that wrote an image of such a batch into its update does not know the salt.
    let disk = rig.disk.fork();
    let mut block = vec![0; BLOCK_BYTES];
    disk.read_at(&segment_file(1), BLOCK_BYTES as u64, &mut block)
        .unwrap();
    block[8] = 2;
    block[16] ^= 1;
    let crc = crc32fast::hash(&block[8..128]);
    block[4..8].copy_from_slice(&crc.to_le_bytes());
    disk.write_at(&segment_file(1), 3 * BLOCK_BYTES as u64, &block)
        .unwrap();
    open(&disk, rig.low).unwrap();
}

#[test]
fn an_image_of_the_log_in_a_client_s_bytes_vouches_for_nothing() {
    let mut rig = Rig::create(1);
    let mut other = Rig::create_on(SimDisk::new(), 2);
    other.log = {
        let config = LogConfig {
            salt_seed: 43,
            ..config()
        };
        let disk = SimDisk::new();
        let log = Log::create(&disk, &dir(), IDENTITY, config).unwrap();
        other.disk = disk;
        log
    };
    for n in 0..4 {
        other.append(RecordKind::Update, vec![n; 3000]).unwrap();
        other.commit();
    }
    // Placed so that the image's blocks stand on blocks, at the very addresses they claim.
    let image = other.disk.bytes(&segment_file(1)).unwrap();
    let mut payload = vec![0; BLOCK_BYTES - 128 - 28];
    payload.extend_from_slice(&image[2 * BLOCK_BYTES..5 * BLOCK_BYTES]);
    rig.append(RecordKind::Update, payload).unwrap();
    rig.commit();
    // Torn: only its first block is gone, the image stands.
    rig.disk
        .write_at(
            &segment_file(1),
            BLOCK_BYTES as u64,
            &vec![0x11; BLOCK_BYTES],
        )
        .unwrap();
    let (_, recovered, items) = open(&rig.disk, rig.low).unwrap();
    assert!(items.is_empty() && recovered.torn_at.is_some());
}
