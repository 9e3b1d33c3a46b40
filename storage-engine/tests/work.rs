//! Updates that are much work for their size: inserts at one place by clients that knew nothing of
//! each other cost the document library the product of their numbers.

mod common;

use collabblocks_storage_engine::{EngineConfig, Nanos, Notice, Refusal, RoomId, WorkLimits};
use collabblocks_wal::sim_disk::SimDisk;
use collabblocks_wal::{Disk, LogConfig};
use common::*;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

thread_local! {
    /// What the clock shows, and by how much it goes on each time it is read.
    static CLOCK: Cell<(Nanos, Nanos)> = const { Cell::new((0, 0)) };
}

fn clock() -> Nanos {
    let (now, step) = CLOCK.get();
    CLOCK.set((now + step, step));
    now
}

/// From here on the work between two looks at the clock takes so long.
fn looks_are_apart(step: Nanos) {
    CLOCK.set((CLOCK.get().0, step));
}

fn var(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Each of so many clients inserts a character at the start of an empty text.
fn at_one_place(first: u64, count: u64) -> Vec<u8> {
    let mut update = Vec::new();
    var(&mut update, count);
    for client in (first..first + count).rev() {
        update.push(1);
        var(&mut update, client);
        update.extend([0, 4, 1, 1, b't', 1, b'a']);
    }
    update.push(0);
    update
}

/// Client 1 types on.
fn typed(clock: u8) -> Vec<u8> {
    if clock == 0 {
        return at_one_place(1, 1);
    }
    vec![1, 1, 1, clock, 0x84, 1, clock - 1, 1, b'b', 0]
}

fn config(work: WorkLimits) -> EngineConfig {
    EngineConfig {
        log: LogConfig {
            segment_bytes: 4 << 20,
            ..LogConfig::default()
        },
        snapshot_segment_bytes: 4 << 20,
        apart_bytes_min: 1 << 20,
        evict_after: Duration::from_secs(3600),
        work,
        ..small_config()
    }
}

fn host(work: WorkLimits) -> (Host, Arc<dyn Disk>) {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let (host, _) = Host::open(&disk, Path::new("/shard"), config(work)).unwrap();
    (host, disk)
}

fn timed() -> WorkLimits {
    WorkLimits {
        clock,
        ..WorkLimits::default()
    }
}

fn apply(host: &mut Host, id: RoomId, update: &[u8]) {
    let outcome = host.engine.apply(host.now, id, update, false);
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn an_update_that_is_much_work_for_its_size_is_a_jobs() {
    let (mut host, _) = host(WorkLimits::default());
    let id = host.attach("room");
    apply(&mut host, id, &at_one_place(10, 3_000));
    let dear = at_one_place(1_000_000, 500);
    assert!(dear.len() < 6_000);
    assert!(host.engine.takes_apart(id, &dear));
    // What is typed or pasted, by one or by some, is not.
    apply(&mut host, id, &typed(0));
    for update in [
        typed(1),
        at_one_place(1_000_000, 30),
        [
            &[1, 1, 1, 1, 0x84, 1, 0, 0x80, 0x40][..],
            &[b'x'; 8192],
            &[0],
        ]
        .concat(),
    ] {
        assert!(!host.engine.takes_apart(id, &update), "{}", update.len());
    }
    // Nor is what each goes on behind its own, however much it is.
    let mut own = vec![1, 100, 1, 1];
    for clock in 0..100 {
        own.extend([0x84, 1, clock, 1, b'c']);
    }
    own.push(0);
    assert!(!host.engine.takes_apart(id, &own));
    let other = host.attach("other");
    assert!(!host.engine.takes_apart(other, &dear), "an empty room");
    // A document that is loaded from disk is known as well.
    host.engine.detach(host.now, id);
    host.run_for(4_000_000 * MS);
    assert_eq!(host.engine.stats().rooms_loaded, 1);
    let id = host.attach("room");
    assert!(host.engine.takes_apart(id, &dear));
}

#[test]
fn a_room_whose_updates_were_slow_is_off_the_core_until_they_are_not() {
    let (mut host, _) = host(timed());
    let id = host.attach("room");
    apply(&mut host, id, &at_one_place(100, 12_000));
    apply(&mut host, id, &typed(0));
    host.engine.diff(id, &[0]).unwrap();
    assert!(!host.engine.takes_apart(id, &typed(1)), "it was quick");
    looks_are_apart(30 * MS);
    apply(&mut host, id, &at_one_place(50, 1));
    host.engine.diff(id, &[0]).unwrap();
    assert!(host.engine.takes_apart(id, &typed(1)), "it was slow");
    looks_are_apart(0);
    let mut jobs = 0;
    for clock in 1.. {
        let update = [
            &[1, 1, 1][..],
            &var_of(clock),
            &[0x84, 1],
            &var_of(clock - 1),
            &[1, b'b', 0],
        ]
        .concat();
        if !host.engine.takes_apart(id, &update) {
            break;
        }
        host.engine.apply_apart(id, update.into(), false).unwrap();
        host.run_for(MS);
        assert!(!host.engine.is_apart(id));
        jobs += 1;
    }
    assert_eq!(jobs, 256);
}

fn var_of(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    var(&mut out, value);
    out
}

/// Applies it by a job, and says what came of it.
fn by_job(host: &mut Host, id: RoomId, update: &[u8]) -> Result<(), Refusal> {
    host.notices.clear();
    host.engine.apply_apart(id, update.into(), false).unwrap();
    host.run_for(1000 * MS);
    let mut applied = None;
    for notice in host.notices.drain(..) {
        if let Notice::Applied { outcome, .. } = notice {
            applied = Some(outcome.map(drop));
        }
    }
    applied.expect("it was told")
}

#[test]
fn an_update_that_takes_too_long_is_given_up_and_changes_nothing() {
    let work = WorkLimits {
        part_steps_max: 500_000,
        update_time_max: Duration::from_secs(3),
        ..timed()
    };
    let (mut host, disk) = host(work);
    let id = host.attach("room");
    // What is logged took long itself.
    assert_eq!(by_job(&mut host, id, &at_one_place(10, 1_500)), Ok(()));
    apply(&mut host, id, &typed(0));
    let before = host.engine.diff(id, &[0]).unwrap();
    let seq = host.engine.room_seq(id);
    looks_are_apart(1000 * MS);
    let dear = at_one_place(1_000_000, 1_500);
    assert_eq!(by_job(&mut host, id, &dear), Err(Refusal::TooSlow));
    assert_eq!(host.attach("room"), id, "it is made again");
    assert_eq!(host.engine.diff(id, &[0]).unwrap(), before);
    assert_eq!(host.engine.room_seq(id), seq, "it was not logged");
    apply(&mut host, id, &typed(1));
    let after = host.engine.diff(id, &[0]).unwrap();
    host.run_for(1000 * MS);
    drop(host);
    let (mut host, _) = Host::open(&disk, Path::new("/shard"), config(work)).unwrap();
    let id = host.attach("room");
    assert_eq!(host.engine.diff(id, &[0]).unwrap(), after);
    // One that takes long, but not too long, is taken.
    looks_are_apart(100 * MS);
    assert_eq!(by_job(&mut host, id, &dear), Ok(()));
}

#[test]
fn parts_are_small_where_the_document_is_large() {
    let parts = |base: u64| {
        let work = WorkLimits {
            part_steps_max: 1_000_000,
            ..timed()
        };
        let (mut host, _) = host(work);
        let id = host.attach("room");
        assert_eq!(by_job(&mut host, id, &at_one_place(10, base)), Ok(()));
        let before = CLOCK.get().0;
        looks_are_apart(1);
        assert_eq!(
            by_job(&mut host, id, &at_one_place(1_000_000, 2_000)),
            Ok(())
        );
        looks_are_apart(0);
        CLOCK.get().0 - before
    };
    let (few, many) = (parts(10), parts(4_000));
    assert!(few < 20, "{few}");
    assert!(many > 10 + few, "{many}");
}

/// By the clock on the wall, as it was found.
#[test]
fn what_was_found_keeps_no_core_and_ends() {
    if std::env::var_os("COLLABBLOCKS_LONG").is_none() {
        println!("takes minutes: set COLLABBLOCKS_LONG");
        return;
    }
    thread_local!(static BEGUN: Instant = Instant::now());
    let update_time_max = Duration::from_secs(3);
    let (mut host, _) = host(WorkLimits {
        clock: || BEGUN.with(|begun| begun.elapsed().as_nanos() as Nanos),
        update_time_max,
        ..WorkLimits::default()
    });
    let id = host.attach("room");
    assert_eq!(by_job(&mut host, id, &at_one_place(100, 50_000)), Ok(()));
    let dear = at_one_place(1_000_000, 5_000);
    assert!(host.engine.takes_apart(id, &dear));
    let begun = Instant::now();
    assert_eq!(by_job(&mut host, id, &dear), Err(Refusal::TooSlow));
    println!("given up after {:?}", begun.elapsed());
    // One by one they are no more on the core.
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    let mut jobs = 0;
    for client in 0..1_000 {
        let update = at_one_place(2_000_000 + client, 1);
        if host.engine.takes_apart(id, &update) {
            assert_eq!(by_job(&mut host, id, &update), Ok(()));
            jobs += 1;
        } else {
            let begun = Instant::now();
            apply(&mut host, id, &update);
            longest = longest.max(begun.elapsed());
        }
    }
    println!(
        "one by one {:?}, on the core {longest:?}, {jobs} by jobs",
        begun.elapsed()
    );
    assert!(longest < Duration::from_millis(500) && jobs > 900);
}
