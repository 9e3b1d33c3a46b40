//! What an operator sees of a log that is not open.

use super::rig::*;
use crate::inspect::{inspect, inspect_segment, verify};
use crate::*;

#[test]
fn a_listing_names_every_batch_and_record() {
    let mut rig = Rig::create(1);
    for _ in 0..30 {
        rig.append_random();
        rig.append_random();
        rig.commit();
    }
    let before = rig.disk.files();
    let listing = inspect(&rig.disk, &dir()).unwrap();
    let writing = rig.log.live_segments().1;
    assert_eq!(listing.len(), writing.0 as usize + rig.log.segments_ready());
    let mut previous = 0;
    let mut records = 0;
    for segment in &listing {
        let header = segment.header.as_ref().unwrap();
        assert_eq!(
            (header.segment, header.identity),
            (segment.segment, IDENTITY)
        );
        assert_eq!(segment.batches.is_empty(), segment.segment > writing);
        for batch in &segment.batches {
            assert_eq!((batch.fault.as_ref(), batch.previous), (None, previous));
            previous = batch.checksum;
            records += batch.records;
        }
    }
    assert_eq!(records as usize, rig.appended.len());
    let mut seen = Vec::new();
    inspect_segment(&rig.disk, &dir(), writing, &mut |r| {
        seen.push((r.lsn, r.room, r.payload.len()))
    })
    .unwrap();
    let start = writing.0 * config().segment_bytes;
    let wanted: Vec<_> = rig
        .appended
        .iter()
        .filter(|item| item.lsn.0 >= start)
        .map(|item| (item.lsn, item.room, item.payload.len()))
        .collect();
    assert_eq!(seen, wanted);
    let verdict = verify(&rig.disk, &dir(), None).unwrap();
    assert_eq!(verdict.records as usize, rig.appended.len());
    assert!(before == rig.disk.files());
}

#[test]
fn a_listing_goes_on_after_damage() {
    let mut rig = Rig::create(1);
    for n in 1..4 {
        rig.append(RecordKind::Update, vec![n; 100]).unwrap();
        rig.commit();
    }
    let file = segment_file(1);
    rig.disk.corrupt(&file, 2 * BLOCK_BYTES as u64 + 200, 1);
    let segment = &inspect(&rig.disk, &dir()).unwrap()[0];
    let faults: Vec<bool> = segment
        .batches
        .iter()
        .map(|batch| batch.fault.is_some())
        .collect();
    assert_eq!(faults, [false, true, false]);
    assert!(matches!(
        verify(&rig.disk, &dir(), None),
        Err(OpenError::Damaged { .. })
    ));
    rig.disk.corrupt(&file, 3, 1);
    let segment = &inspect(&rig.disk, &dir()).unwrap()[0];
    assert!(segment.header.is_err());
    assert_eq!(segment.batches.len(), 3);
}

#[test]
fn verifying_says_where_a_torn_tail_would_be_cut_and_leaves_it() {
    let mut rig = Rig::create(1);
    rig.append(RecordKind::Update, vec![1; 100]).unwrap();
    rig.commit();
    let tail = rig.append(RecordKind::Update, vec![2; 100]).unwrap();
    rig.commit();
    rig.disk.corrupt(
        &segment_file(1),
        tail.lsn.0 % config().segment_bytes + 40,
        1,
    );
    let before = rig.disk.files();
    let verdict = verify(&rig.disk, &dir(), Some(rig.low)).unwrap();
    assert_eq!(verdict.torn_at, Some(Lsn(tail.lsn.0 - 128)));
    assert!(before == rig.disk.files());
}
