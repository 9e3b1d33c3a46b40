//! Bounds, errors and the order of things while serving.

use super::rig::*;
use crate::sim_disk::{SimDisk, SimFault};
use crate::*;

#[test]
fn any_write_error_poisons_for_good() {
    for (ahead, fault) in [
        (0, SimFault::Eio),
        (1, SimFault::Eio),
        (0, SimFault::ShortWrite),
        (0, SimFault::Enospc),
    ] {
        let mut rig = Rig::create(1);
        rig.append(RecordKind::Update, vec![1; 100]).unwrap();
        rig.commit();
        let durable = rig.log.durable_lsn();
        rig.append(RecordKind::Update, vec![2; 100]).unwrap();
        rig.disk.fail(rig.disk.ops_count() + ahead, fault);
        let poisoned = rig.write().unwrap_err();
        assert_eq!(poisoned.lsn, durable);
        assert!(rig.log.poisoned() && !rig.log.needs_seal());
        assert_eq!(
            rig.append(RecordKind::Update, vec![3]),
            Err(AppendError::Poisoned)
        );
        assert!(rig.log.next_write().is_none() && rig.log.next_job().is_none());
        assert_eq!(rig.log.durable_lsn(), durable);
    }
}

#[test]
fn a_short_count_poisons() {
    let mut rig = Rig::create(1);
    rig.append(RecordKind::Update, vec![1; 5000]).unwrap();
    let job = rig.log.next_write().unwrap();
    assert!(rig.log.in_flight() && rig.log.next_write().is_none());
    assert!(rig.log.on_written(job, Ok(BLOCK_BYTES)).is_err());
    assert!(rig.log.poisoned());
}

#[test]
fn a_record_as_large_as_a_segment_and_no_larger() {
    let mut rig = Rig::create(1);
    let max = 7 * BLOCK_BYTES - 128 - 28;
    assert!(matches!(
        rig.append(RecordKind::Update, vec![1; max + 1]),
        Err(AppendError::TooLarge { .. })
    ));
    rig.append(RecordKind::Update, vec![1; 10]).unwrap();
    rig.append(RecordKind::Update, vec![2; max]).unwrap();
    rig.append(RecordKind::Update, vec![3; max]).unwrap();
    rig.append(RecordKind::Update, vec![4; 10]).unwrap();
    rig.commit();
    rig.reopen().unwrap();
    assert_eq!(rig.appended.len(), 4);
    assert_eq!(rig.log.live_segments().1, SegmentId(4));
}

#[test]
fn the_queue_is_bounded_and_what_was_refused_is_not_there() {
    let mut rig = Rig::create(1);
    let mut taken = 0;
    while rig.append(RecordKind::Update, vec![1; 5000]).is_ok() {
        taken += 1;
        assert!(rig.log.pending_bytes() <= config().queue_bytes_max + BLOCK_BYTES);
    }
    assert!(matches!(
        rig.append(RecordKind::Update, vec![1; 5000]),
        Err(AppendError::Full(_))
    ));
    rig.commit();
    rig.reopen().unwrap();
    assert_eq!(rig.appended.len(), taken);
    rig.append(RecordKind::Update, vec![1; 5000]).unwrap();
}

#[test]
fn a_write_waits_for_its_segment() {
    let mut rig = Rig::create(1);
    rig.append(RecordKind::Update, vec![1; 6 * BLOCK_BYTES])
        .unwrap();
    let second = rig
        .append(RecordKind::Update, vec![2; 6 * BLOCK_BYTES])
        .unwrap();
    assert_eq!(rig.log.segment_of(second.lsn), SegmentId(2));
    assert!(rig.write().unwrap());
    assert!(!rig.write().unwrap(), "segment 2 is not prepared");
    let job = rig.log.next_job().unwrap();
    assert!(rig.log.next_job().is_none(), "one job at a time");
    assert!(!rig.write().unwrap());
    rig.log.on_job_done(job.run(&rig.disk));
    assert!(rig.write().unwrap());
    assert!(rig.log.durable_lsn() >= second.durable_at);
    assert_eq!(rig.log.live_segments(), (SegmentId(1), SegmentId(2)));
}

#[test]
fn a_full_disk_sheds_clients_and_recycling_makes_room() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(4 * config().segment_bytes + 100));
    let mut rig = Rig::create_on(disk, 1);
    let mut refused = 0;
    for _ in 0..2000 {
        refused += u32::from(rig.append(RecordKind::Update, vec![1; 4000]).is_err());
        rig.job();
        rig.write().unwrap();
    }
    assert!(refused > 0 && !rig.log.poisoned());
    assert_eq!(
        rig.log.segments_ready(),
        1,
        "the last segment is kept for housekeeping"
    );
    let (low, writing) = rig.log.live_segments();
    let installed = rig
        .append(RecordKind::SnapshotInstalled, vec![9; 16])
        .unwrap();
    while rig.log.durable_lsn() < installed.durable_at {
        rig.job();
        assert!(rig.write().unwrap(), "what makes room is not stuck");
    }
    rig.recycle(writing);
    assert!(writing > low);
    for _ in 0..3 {
        rig.job();
    }
    rig.append(RecordKind::Update, vec![2; 4000]).unwrap();
    rig.commit();
    rig.reopen().unwrap();
}

#[test]
fn a_failed_preparation_is_tried_again() {
    let mut rig = Rig::create(1);
    for fault in [SimFault::Eio, SimFault::Enospc] {
        for op in 0..8 {
            rig.append(RecordKind::Update, vec![1; 6 * BLOCK_BYTES])
                .unwrap();
            rig.write().unwrap();
            rig.disk.fail(rig.disk.ops_count() + op, fault);
            for _ in 0..600 {
                rig.job();
            }
            assert_eq!(rig.log.segments_ready(), 2);
            rig.disk.clear_faults();
            let (low, writing) = rig.log.live_segments();
            if writing.0 > low.0 + 1 {
                rig.recycle(SegmentId(writing.0 - 1));
            }
        }
    }
    assert_eq!(rig.log.pending_bytes(), 0);
    let names = rig.disk.list(&dir()).unwrap();
    assert!(names.len() < 10, "{names:?}");
    rig.reopen().unwrap();
}

#[test]
fn a_seal_vouches_and_is_not_sealed_itself() {
    let mut rig = Rig::create(1);
    assert!(!rig.log.needs_seal());
    rig.append(RecordKind::Update, vec![1]).unwrap();
    assert!(!rig.log.needs_seal());
    rig.commit();
    assert!(rig.log.needs_seal());
    rig.seal();
    rig.commit();
    assert!(!rig.log.needs_seal());
    rig.reopen().unwrap();
    assert!(!rig.log.needs_seal());
    rig.append(RecordKind::Update, vec![2]).unwrap();
    rig.commit();
    rig.reopen().unwrap();
    assert!(
        rig.log.needs_seal(),
        "what was replayed unsealed is sealed soon"
    );
}

#[test]
fn a_clean_shutdown_has_its_own_batch() {
    let mut rig = Rig::create(1);
    let update = rig.append(RecordKind::Update, vec![1]).unwrap();
    let end = rig.append(RecordKind::CleanShutdown, Vec::new()).unwrap();
    assert!(end.lsn.0 - update.lsn.0 >= BLOCK_BYTES as u64);
    rig.commit();
    assert!(!rig.log.needs_seal());
    assert!(rig.reopen().unwrap().clean);
    rig.append(RecordKind::Update, vec![1]).unwrap();
    rig.commit();
    assert!(!rig.reopen().unwrap().clean);
}

#[test]
fn segments_are_used_again() {
    let mut rig = Rig::create(1);
    for _ in 0..300 {
        rig.append(RecordKind::Update, vec![1; 5000]).unwrap();
        rig.commit();
        let writing = rig.log.live_segments().1;
        if writing > rig.low {
            rig.recycle(writing);
        }
    }
    assert!(rig.low > SegmentId(50));
    assert!(rig.disk.list(&dir()).unwrap().len() <= 6);
    rig.disk.crash(0);
    assert_eq!(rig.reopen().unwrap().torn_at, None);
}

#[test]
fn a_staged_record_leaves_the_same_bytes() {
    let written = |staged: bool| {
        let mut rig = Rig::create(1);
        let mut bytes = Vec::new();
        let seq = std::cell::Cell::new(0);
        let mut append = |payload: &[u8], stages: bool| {
            seq.set(seq.get() + 1);
            let (room, seq) = (RoomKey(9), seq.get());
            if stages && staged {
                let staged = Staged::new(payload);
                assert_eq!(staged.payload(), payload);
                rig.log.append_staged(room, seq, staged).unwrap()
            } else {
                (rig.log)
                    .append(RecordKind::Update, room, seq, &[payload])
                    .unwrap()
            }
        };
        // Larger than a batch otherwise is, first in one, and after a small one that it closes.
        let at = [
            append(&[1; 3 * BLOCK_BYTES], true),
            append(b"small", false),
            append(&[2; 2 * BLOCK_BYTES + 100], true),
            append(b"small again", false),
        ];
        while let Some(job) = rig.log.next_write() {
            bytes.push((job.segment, job.offset, job.buffer.as_slice().to_vec()));
            let len = job.buffer.len();
            rig.log.on_written(job, Ok(len)).unwrap();
            rig.job();
        }
        (at, bytes)
    };
    let (plain, staged) = (written(false), written(true));
    assert_eq!(plain.0, staged.0);
    let places = |batches: &[(SegmentId, u64, Vec<u8>)]| -> Vec<(u64, usize)> {
        batches.iter().map(|b| (b.1, b.2.len())).collect()
    };
    assert_eq!(places(&plain.1), places(&staged.1));
    // The salt of a segment is drawn from its seed, so these are the same bytes.
    assert!(plain.1 == staged.1);
}

#[test]
fn staged_records_are_read_back_with_what_shares_their_batch() {
    let mut rig = Rig::create(1);
    for payload in [vec![5; 6000], vec![], vec![6; 30], vec![7; 3 * BLOCK_BYTES]] {
        rig.append(RecordKind::Update, vec![1; 40]).unwrap();
        rig.append_staged(payload).unwrap();
        rig.append(RecordKind::Update, vec![2; 50]).unwrap();
        rig.commit();
    }
    rig.append_staged(vec![3; 5000]).unwrap();
    rig.commit();
    let appended = rig.appended.len();
    rig.reopen().unwrap();
    assert_eq!(rig.appended.len(), appended);
    let max = 7 * BLOCK_BYTES - 128 - 28;
    assert!(matches!(
        rig.append_staged(vec![1; max + 1]),
        Err(AppendError::TooLarge { .. })
    ));
    rig.append_staged(vec![1; max]).unwrap();
    while rig.append_staged(vec![1; max]).is_ok() {}
    assert!(rig.log.pending_bytes() <= config().queue_bytes_max + 8 * BLOCK_BYTES);
}
