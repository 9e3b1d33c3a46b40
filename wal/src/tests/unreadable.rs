//! A disk that does not give what it holds: nothing is known of what stands there, so it is neither
//! damaged nor torn, and nothing is cut off.

use super::damage::written;
use super::rig::*;
use crate::inspect::{inspect, read_around, verify};
use crate::sim_disk::{ReadFault, SimDisk};
use crate::*;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Logs that end in order, without a Seal, and in a write that was cut short.
fn logs() -> Vec<Rig> {
    let mut logs = vec![written(false), written(true)];
    for torn in [false, true] {
        let mut rig = written(true);
        rig.append(RecordKind::Update, vec![2; 3000]).unwrap();
        rig.commit();
        let last = rig.append(RecordKind::Update, vec![3; 6000]).unwrap();
        let (segment, within) = (
            last.lsn.0 / config().segment_bytes,
            last.lsn.0 % config().segment_bytes,
        );
        rig.commit();
        if torn {
            rig.disk.corrupt(&segment_file(segment), within + 1000, 1);
        }
        logs.push(rig);
    }
    logs
}

fn blocks(disk: &SimDisk) -> Vec<(std::path::PathBuf, u64)> {
    let blocks = |(path, bytes): (std::path::PathBuf, Vec<u8>)| {
        let offsets = (0..bytes.len() as u64).step_by(BLOCK_BYTES);
        offsets.map(move |offset| (path.clone(), offset))
    };
    disk.files().into_iter().flat_map(blocks).collect()
}

#[test]
fn a_simulated_read_fails_as_often_as_it_is_told_to() {
    let disk = SimDisk::new();
    let path = std::path::Path::new("/file");
    disk.write_at(path, 0, &[7; 3 * BLOCK_BYTES]).unwrap();
    let read = |offset| disk.read_at(path, offset, &mut [0; BLOCK_BYTES]).is_ok();
    disk.spoil(path, 600..1112, ReadFault::Once);
    disk.spoil(path, 2 * BLOCK..3 * BLOCK, ReadFault::Lasting);
    assert!(read(BLOCK) && !read(0) && read(0) && !read(2 * BLOCK) && !read(2 * BLOCK));
    let other = disk.fork();
    disk.write_at(path, 2 * BLOCK, &[8; BLOCK_BYTES]).unwrap();
    assert!(read(2 * BLOCK), "it was written anew");
    let read = |offset| other.read_at(path, offset, &mut [0; BLOCK_BYTES]);
    assert!(read(2 * BLOCK).is_err());
    other.heal();
    assert!(read(2 * BLOCK).is_ok());
    other.fail_read(other.reads_count() + 1);
    assert!(read(0).is_ok() && read(0).is_err() && read(0).is_ok());
    assert_eq!((disk.reads_failed(), other.reads_failed()), (3, 5));
    // What is spoiled stays so without power; a read to come that was to fail does not.
    other.sync(path).unwrap();
    other.sync_dir(std::path::Path::new("/")).unwrap();
    other.spoil(path, 0..1, ReadFault::Lasting);
    other.fail_read(other.reads_count());
    other.crash(0);
    let read = |offset| other.read_at(path, offset, &mut [0; BLOCK_BYTES]);
    assert!(read(BLOCK).is_ok() && read(0).is_err());
}

#[test]
fn each_read_that_fails_once_refuses_the_log_and_costs_nothing() {
    for rig in logs() {
        let whole = rig.disk.fork();
        let first = whole.reads_count();
        let (_, recovered, items) = open(&whole, rig.low).unwrap();
        let reads = whole.reads_count() - first;
        assert!(reads > 5, "{reads}");
        for read in 0..reads {
            let disk = rig.disk.fork();
            disk.fail_read(first + read);
            match open(&disk, rig.low) {
                Err(OpenError::Io { error, .. }) => {
                    assert!(error.to_string().contains("simulated"))
                }
                other => panic!("read {read}: {:?}", other.map(|(_, found, _)| found)),
            }
            let (_, again, found) = open(&disk, rig.low).unwrap();
            assert_eq!(found, items, "read {read}");
            assert_eq!(again.end, recovered.end);
        }
    }
}

#[test]
fn a_block_that_cannot_be_read_is_neither_torn_nor_damaged() {
    for rig in logs() {
        let (_, recovered, items) = open(&rig.disk.fork(), rig.low).unwrap();
        let (mut refused, mut unneeded) = (0, 0);
        for (path, offset) in blocks(&rig.disk) {
            let disk = rig.disk.fork();
            let bytes = offset + 512..offset + 1024;
            disk.spoil(&path, bytes, ReadFault::Lasting);
            let before = disk.files();
            let verdict = verify(&disk, &dir(), Some(rig.low));
            match open(&disk, rig.low) {
                Ok((_, _, found)) => {
                    assert!(path < segment_file(rig.low.0), "{path:?} at {offset}");
                    assert_eq!(found, items);
                    assert!(verdict.is_ok());
                    unneeded += 1;
                }
                Err(error) => {
                    assert!(
                        matches!(&error, OpenError::Io { path: at, .. } if *at == path),
                        "{path:?} at {offset}: {error}"
                    );
                    assert!(before == disk.files(), "a refused log was changed");
                    assert_eq!(verdict.unwrap_err().to_string(), error.to_string());
                    refused += 1;
                }
            }
            disk.heal();
            let (_, again, found) = open(&disk, rig.low).unwrap();
            assert_eq!(found, items, "{path:?} at {offset}");
            assert_eq!(again.end, recovered.end);
        }
        assert!(refused > 10, "{refused} refused, {unneeded} not needed");
        assert_eq!(unneeded > 0, rig.low > SegmentId(1));
    }
}

#[test]
fn verifying_from_the_oldest_file_does_not_pass_over_one_that_cannot_be_read() {
    let rig = written(false);
    assert!(verify(&rig.disk, &dir(), None).is_ok());
    rig.disk
        .spoil(&segment_file(rig.low.0), 0..512, ReadFault::Lasting);
    assert!(matches!(
        verify(&rig.disk, &dir(), None),
        Err(OpenError::Io { .. })
    ));
}

#[test]
fn what_stands_around_a_block_that_cannot_be_read_is_listed() {
    let rig = written(true);
    let whole = inspect(&rig.disk, &dir()).unwrap();
    assert!(whole.iter().all(|segment| segment.unreadable.is_empty()));
    for (path, offset) in blocks(&rig.disk) {
        let disk = rig.disk.fork();
        disk.spoil(&path, offset + 512..offset + 1024, ReadFault::Lasting);
        let listed = inspect(&disk, &dir()).unwrap();
        for (found, wanted) in listed.iter().zip(&whole) {
            if found.path != path {
                assert_eq!(found, wanted);
                continue;
            }
            let [unreadable] = found.unreadable.as_slice() else {
                panic!("{:?}", found.unreadable);
            };
            assert_eq!(unreadable.bytes, offset..offset + BLOCK);
            assert!(unreadable.error.contains("simulated"));
            assert_eq!(found.header.is_err(), offset == 0);
            let touched = |batch: &inspect::BatchListing| {
                let start = batch.lsn.0 % config().segment_bytes;
                start < offset + BLOCK && offset < start + batch.bytes
            };
            for batch in &wanted.batches {
                // Without a header the batches say themselves where they stand.
                let there = found
                    .batches
                    .iter()
                    .find(|b| b.lsn_written == batch.lsn_written);
                match there {
                    Some(there) if touched(batch) => assert!(there.fault.is_some()),
                    Some(there) => assert_eq!(there, batch),
                    None => assert!(touched(batch), "{path:?} at {offset}: {batch:?}"),
                }
            }
        }
    }
}

#[test]
fn a_bad_place_costs_few_reads_more_than_itself() {
    let disk = SimDisk::new();
    let path = std::path::Path::new("/file");
    let bytes: Vec<u8> = (0..256 * BLOCK_BYTES).map(|n| (n / 100) as u8).collect();
    disk.write_at(path, 0, &bytes).unwrap();
    for place in [3 * BLOCK + 5, 4 * BLOCK, 255 * BLOCK] {
        disk.spoil(path, place..place + 1, ReadFault::Lasting);
    }
    let (mut buf, mut unreadable) = (vec![1; bytes.len()], Vec::new());
    let first = disk.reads_count();
    let read = read_around(&disk, path, 0, &mut buf, &mut unreadable).unwrap();
    assert_eq!(read, bytes.len());
    assert!(disk.reads_count() - first < 50);
    let bad: Vec<_> = unreadable.into_iter().map(|part| part.bytes).collect();
    assert_eq!(bad, [3 * BLOCK..5 * BLOCK, 255 * BLOCK..256 * BLOCK]);
    for (n, (found, wanted)) in buf.iter().zip(&bytes).enumerate() {
        let lost = bad.iter().any(|range| range.contains(&(n as u64)));
        assert_eq!(*found, if lost { 0 } else { *wanted }, "byte {n}");
    }
    let absent = std::path::Path::new("/absent");
    assert!(read_around(&disk, absent, 0, &mut buf, &mut Vec::new()).is_err());
}
