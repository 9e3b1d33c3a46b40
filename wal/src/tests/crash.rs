//! A recorded workload, crashed after every operation in many ways.

use super::rig::*;
use crate::sim_disk::{SimDisk, SimFault, SimRng};
use crate::*;

/// What was promised when `ops` operations were done.
struct Promise {
    ops: usize,
    durable: Lsn,
    low: SegmentId,
}

/// Which of `units` unsynced units are kept: all subsets of few, and for many none, all, each alone,
/// each missing, each prefix, and some at random.
fn subsets(units: usize, rng: &mut SimRng) -> Vec<Vec<bool>> {
    if units <= 4 {
        return (0..1u32 << units)
            .map(|bits| (0..units).map(|unit| bits & (1 << unit) != 0).collect())
            .collect();
    }
    let mut subsets = vec![vec![false; units], vec![true; units]];
    let few = (0..units).step_by(units.div_ceil(9));
    for unit in few.clone() {
        subsets.push((0..units).map(|u| u == unit).collect());
        subsets.push((0..units).map(|u| u != unit).collect());
        subsets.push((0..units).map(|u| u < unit).collect());
    }
    for _ in 0..4 {
        subsets.push((0..units).map(|_| rng.below(2) == 0).collect());
    }
    subsets
}

fn record(seed: u64, steps: usize) -> (Rig, Vec<Promise>) {
    let disk = SimDisk::new();
    disk.record();
    let mut rig = Rig::create_on(disk, seed);
    let mut promises = Vec::new();
    for _ in 0..steps {
        // What may be recycled is in the manifest before anything is done about it.
        rig.step().unwrap();
        promises.push(Promise {
            ops: rig.disk.ops().len(),
            durable: rig.log.durable_lsn(),
            low: rig.low,
        });
    }
    (rig, promises)
}

fn enumerate(seed: u64, steps: usize) {
    let (rig, promises) = record(seed, steps);
    let ops = rig.disk.ops();
    let created = promises[0].ops;
    let disk = SimDisk::replayed(&ops[..created]);
    let mut rng = SimRng(seed ^ 1);
    let mut tried = 0;
    for at in created..=ops.len() {
        if at > created {
            disk.replay(&ops[at - 1]);
        }
        let known = promises.partition_point(|promise| promise.ops <= at);
        let promise = &promises[known - 1];
        for keep in subsets(disk.unsynced().len(), &mut rng) {
            let crashed = disk.fork();
            crashed.crash_keeping(&mut |unit| keep[unit]);
            let (mut log, recovered, items) = open(&crashed, promise.low).unwrap_or_else(|error| {
                panic!("seed {seed}, after {at} operations, {keep:?}: {error}")
            });
            check(&rig.appended, &items, promise.durable, promise.low);
            tried += 1;
            if tried % 16 == 0 {
                go_on(&crashed, &mut log, &recovered, &items, promise.low);
            }
        }
    }
    assert!(tried > 1000, "{tried} crashes are too few to mean much");
}

/// What recovery left can be written on, and read again.
fn go_on(disk: &SimDisk, log: &mut Log, recovered: &Recovered, items: &[Item], low: SegmentId) {
    // What was replayed was made durable by opening: another crash loses none of it.
    disk.crash_keeping(&mut |_| false);
    assert!(log.durable_lsn() <= recovered.end);
    let appended = log
        .append(RecordKind::Update, RoomKey(9), 1, &[&[5; 6000]])
        .unwrap();
    while log.durable_lsn() < appended.durable_at {
        if let Some(job) = log.next_job() {
            log.on_job_done(job.run(disk));
        }
        if let Some(job) = log.next_write() {
            let result = job.run(disk);
            log.on_written(job, result).unwrap();
        }
    }
    disk.crash_keeping(&mut |_| false);
    let (_, _, found) = open(disk, low).unwrap();
    assert_eq!(&found[..items.len()], items);
    assert_eq!(found.len(), items.len() + 1);
    assert_eq!(found[items.len()].lsn, appended.lsn);
}

#[test]
fn every_crash_point_keeps_what_was_acknowledged() {
    for n in 0..3 {
        enumerate(seed(100) + n, 160);
    }
}

#[test]
#[ignore = "long campaign: run with --release -- --ignored"]
fn every_crash_point_of_many_workloads() {
    for n in 0..200 {
        enumerate(seed(1000) + n, 400);
    }
}

/// A crash while a torn tail is being repaired.
#[test]
fn every_crash_point_of_recovery_itself() {
    let (rig, promises) = record(seed(7), 150);
    let ops = rig.disk.ops();
    let mut rng = SimRng(8);
    let mut torn = 0;
    for promise in promises.iter().skip(20) {
        let before = SimDisk::replayed(&ops[..promise.ops.saturating_sub(1).max(promises[0].ops)]);
        // The promise is of one operation later: at most its write is missing.
        let known = promises
            .iter()
            .rev()
            .find(|p| p.ops < promise.ops)
            .unwrap_or(&promises[0]);
        before.crash(rng.next_u64());
        let whole = before.fork();
        whole.record();
        let (_, recovered, items) =
            open(&whole, known.low).unwrap_or_else(|error| panic!("{error}, low {:?}", known.low));
        torn += usize::from(recovered.torn_at.is_some());
        for done in 0..whole.ops().len() {
            let partly = before.fork();
            for op in &whole.ops()[..done] {
                partly.replay(op);
            }
            partly.crash(rng.next_u64());
            let (_, _, again) = open(&partly, known.low).unwrap();
            // Half a repair can make a batch whole whose padding alone was torn. It was never
            // acknowledged and nothing was served without it, so it may be there or not.
            assert!(
                again.starts_with(&items),
                "recovery cut short lost something"
            );
            check(&rig.appended, &again, known.durable, known.low);
        }
    }
    assert!(torn > 0, "no tail was torn");
}

/// The process dies, the machine does not: what was written and never synced is read, and is then
/// served. A power cut after that must not take it away.
#[test]
fn what_was_replayed_survives_the_next_power_cut() {
    let mut rig = Rig::create(1);
    rig.append(RecordKind::Update, vec![1; 100]).unwrap();
    let job = rig.log.next_write().unwrap();
    rig.disk
        .write_at(&job.path, job.offset, job.buffer.as_slice())
        .unwrap();
    let (_, _, items) = open(&rig.disk, rig.low).unwrap();
    assert_eq!(items.len(), 1);
    rig.disk.crash_keeping(&mut |_| false);
    assert_eq!(open(&rig.disk, rig.low).unwrap().2, items);
}

/// The process ends because a sync failed; what it was to make durable is read, and no later sync
/// makes it so. It is served after the restart: it has to be written again.
#[test]
fn a_batch_whose_sync_failed_is_written_again() {
    for before in 0..9 {
        let mut rig = Rig::create(before);
        for _ in 0..before {
            rig.append(RecordKind::Update, vec![7; BLOCK_BYTES])
                .unwrap();
            rig.commit();
        }
        rig.append(RecordKind::Update, vec![1; 2 * BLOCK_BYTES])
            .unwrap();
        rig.job();
        rig.disk.fail(rig.disk.ops_count() + 1, SimFault::Eio);
        rig.write().unwrap_err();
        rig.reopen().unwrap();
        assert_eq!(rig.appended.len() as u64, before + 1, "it was read");
        let after_start = rig.disk.fork();
        after_start.crash_keeping(&mut |_| false);
        let (_, _, items) = open(&after_start, rig.low).unwrap();
        assert!(items == rig.appended, "what was served is gone");
        rig.append(RecordKind::Update, vec![2; 100]).unwrap();
        rig.commit();
        rig.disk.crash_keeping(&mut |_| false);
        rig.reopen().unwrap();
        assert_eq!(rig.appended.len() as u64, before + 2);
    }
}

/// The same for a segment's name, which was given and not made durable.
#[test]
fn a_segment_that_is_written_keeps_its_name() {
    let mut rig = Rig::create(1);
    // Create, length, sync, header, sync, rename; then the directory's sync fails.
    rig.disk.fail(rig.disk.ops_count() + 6, SimFault::Eio);
    rig.job();
    assert_eq!(rig.log.segments_ready(), 0);
    assert!(rig.disk.bytes(&segment_file(2)).is_some());
    rig.reopen().unwrap();
    assert_eq!(rig.log.segments_ready(), 1);
    rig.append(RecordKind::Update, vec![1; 6 * BLOCK_BYTES])
        .unwrap();
    rig.append(RecordKind::Update, vec![2; 6 * BLOCK_BYTES])
        .unwrap();
    while rig.write().unwrap() {}
    rig.disk.crash_keeping(&mut |_| false);
    rig.reopen().unwrap();
    assert_eq!(rig.appended.len(), 2);
}
